"""Necks: forward(maps, finest first) -> maps of one width, finest first: as many, more, or one that holds them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tercel.config import BiFpn, Fpn, Fuse, Pan
from tercel.models.layers import Conv, Norm, init_weights


class FpnNeck(nn.Module):
    """Top-down pyramid (Lin et al. 2017): 1x1 lateral, add the coarser map doubled in size, 3x3 smoothing.

    `extra` coarser maps follow, each a 3x3 convolution of stride 2 on the one before (Lin et al. 2017, "Focal Loss for
    Dense Object Detection", who take the first one from the backbone; from the pyramid it comes as in FCOS).
    """

    def __init__(self, channels: Sequence[int], width: int, extra: int, norm: Norm) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(Conv(c, width, 1, norm=norm) for c in channels)
        self.smooth = nn.ModuleList(Conv(width, width, norm=norm) for _ in channels)
        self.coarser = _coarser(extra, width, norm)
        self.width = width
        init_weights(self)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        out: list[Tensor] = []
        for level in reversed(range(len(maps))):
            x = self.lateral[level](maps[level])
            if out:
                x = x + F.interpolate(out[0], size=x.shape[-2:], mode="nearest")
            out.insert(0, self.smooth[level](x))
        for down in self.coarser:
            out.append(down(out[-1]))
        return out


class PanNeck(nn.Module):
    """An FPN, then back up from fine to coarse (Liu et al. 2018); sums instead of concatenations keep it narrow.

    The way up goes on to `extra` coarser maps, by a 3x3 convolution of stride 2 each.
    """

    def __init__(self, channels: Sequence[int], width: int, depth: int, extra: int, norm: Norm) -> None:
        super().__init__()
        self.fpn = FpnNeck(channels, width, 0, norm)
        self.down = nn.ModuleList(Conv(width, width, 3, 2, norm=norm) for _ in channels[1:])
        self.mix = nn.ModuleList(
            nn.Sequential(*[Conv(width, width, norm=norm) for _ in range(depth)]) for _ in channels[1:]
        )
        self.coarser = _coarser(extra, width, norm)
        self.width = width
        for part in (self.down, self.mix, self.coarser):
            init_weights(part)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine: list[Tensor] = self.fpn(maps)
        out = fine[:1]
        for x, down, mix in zip(fine[1:], self.down, self.mix, strict=True):
            out.append(mix(x + down(out[-1])))
        for down in self.coarser:
            out.append(down(out[-1]))
        return out


class FuseNeck(nn.Module):
    """All maps brought to the size of the finest and added: a list of one map comes out.

    Adaptive (ASFF, Liu et al. 2019, "Learning Spatial Fusion for Single-Shot Object Detection"): at each place the maps
    are weighted by a softmax over them, of one number per map that a 1x1 convolution gives. Their convolution of the
    enlarged map equals the enlarged result of the small map where the enlarging copies, so it runs on the small ones.
    """

    def __init__(self, channels: Sequence[int], width: int, adaptive: bool, norm: Norm) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(Conv(c, width, 1, norm=norm) for c in channels)
        some = adaptive and len(channels) > 1  # a softmax over one map is 1
        self.score = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in channels) if some else None
        self.smooth = Conv(width, width, norm=norm) if len(channels) > 1 else nn.Identity()
        self.width = width
        init_weights(self)
        for name, value in self.score.named_parameters() if self.score is not None else ():
            if name.endswith("weight"):
                nn.init.normal_(value, std=0.01)  # all maps weigh nearly the same at first

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        size = maps[0].shape[-2:]
        small = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        large = [_enlarge(m, size) for m in small]
        if self.score is not None:
            scores = [_enlarge(score(m), size) for score, m in zip(self.score, small, strict=True)]
            weights = torch.cat(scores, 1).softmax(1).to(large[0].dtype)  # [B,L,H,W]
            large = [m * w for m, w in zip(large, weights.split(1, 1), strict=True)]
        x = large[0]
        for m in large[1:]:
            x = x + m
        return [self.smooth(x)]


class BiFpnNeck(nn.Module):
    """Weighted bidirectional pyramid (EfficientDet, Tan et al. 2020): down and up again, `repeats` times.

    The maps go through 1x1 convolutions; `extra` coarser ones are pooled from one more 1x1 convolution of the coarsest.
    Maps are halved by a max pool 3x3 and doubled by copying, as published; each sum passes a separable 3x3 convolution.
    Here norm and ReLU follow every convolution, where the paper has Swish before.
    """

    def __init__(self, channels: Sequence[int], width: int, repeats: int, extra: int, norm: Norm) -> None:
        super().__init__()
        sources = [*channels, channels[-1]] if extra else channels
        self.lateral = nn.ModuleList(Conv(c, width, 1, norm=norm) for c in sources)
        init_weights(self)
        count = len(channels) + extra
        self.layers = nn.ModuleList(_BiFpnLayer(count, width, norm) for _ in range(repeats if count > 1 else 0))
        self.extra, self.width = extra, width

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        sources = [*maps, maps[-1]] if self.extra else maps
        out = [lateral(m) for lateral, m in zip(self.lateral, sources, strict=True)]
        if self.extra:
            out[-1] = _halve(out[-1])
        for _ in range(self.extra - 1):
            out.append(_halve(out[-1]))
        for layer in self.layers:
            out = layer(out)
        return out


class _BiFpnLayer(nn.Module):
    """One way down and one way up through `count` >= 2 maps of one width."""

    def __init__(self, count: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.down = nn.ModuleList(_Sum(2, width, norm) for _ in range(count - 1))
        self.up = nn.ModuleList(_Sum(3 if level < count - 1 else 2, width, norm) for level in range(1, count))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        middle = maps[-1:]
        for x, mix in zip(reversed(maps[:-1]), reversed(self.down), strict=True):
            middle.insert(0, mix([x, _enlarge(middle[0], x.shape[-2:])]))
        out = middle[:1]
        for level, mix in enumerate(self.up, 1):
            sideways = [maps[level], middle[level]] if level < len(maps) - 1 else [maps[level]]
            out.append(mix([*sideways, _halve(out[-1])]))
        return out


class _Sum(nn.Module):
    """Fast normalised fusion (Tan et al. 2020, section 3.3), then a separable convolution.

    sum_i w_i x_i / (sum_i w_i + 1e-4), w = relu(weights), all of [B,C,H,W].
    """

    def __init__(self, inputs: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(inputs))
        depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.mix = nn.Sequential(depthwise, Conv(width, width, 1, norm=norm))
        init_weights(self.mix)

    def forward(self, maps: list[Tensor]) -> Tensor:
        w = self.weights.relu()
        w = w / (w.sum() + 1e-4)
        x = maps[0] * w[0]
        for i in range(1, len(maps)):
            x = x + maps[i] * w[i]
        y: Tensor = self.mix(x)
        return y


def _coarser(count: int, width: int, norm: Norm) -> nn.ModuleList:
    """`count` convolutions that each halve a map: [B,C,H,W] -> [B,C,H/2,W/2], rounded up."""
    return nn.ModuleList(Conv(width, width, 3, 2, norm=norm) for _ in range(count))


def _enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=list(size), mode="nearest")


def _halve(x: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,C,H/2,W/2], rounded up."""
    return F.max_pool2d(x, 3, 2, 1)


def build_neck(
    config: Fpn | Pan | BiFpn | Fuse, channels: Sequence[int], norm: Norm
) -> FpnNeck | PanNeck | BiFpnNeck | FuseNeck:
    if isinstance(config, Pan):
        return PanNeck(channels, config.width, config.depth, config.extra, norm)
    if isinstance(config, BiFpn):
        return BiFpnNeck(channels, config.width, config.repeats, config.extra, norm)
    if isinstance(config, Fuse):
        return FuseNeck(channels, config.width, config.adaptive, norm)
    return FpnNeck(channels, config.width, config.extra, norm)


def neck_strides(config: Fpn | Pan | BiFpn | Fuse, strides: Sequence[int]) -> tuple[int, ...]:
    """Strides of the maps that come out: those that go in and the extra ones, or the finest one alone."""
    if isinstance(config, Fuse):
        return tuple(strides[:1])
    return (*strides, *(strides[-1] * 2**n for n in range(1, config.extra + 1)))
