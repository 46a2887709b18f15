"""Necks: forward(maps, finest first) -> maps of one width, finest first: as many, or one that holds them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tercel.config import Fpn, Fuse, Pan
from tercel.models.layers import Conv, Norm, init_weights


class FpnNeck(nn.Module):
    """Top-down pyramid (Lin et al. 2017): 1x1 lateral, add the coarser map doubled in size, 3x3 smoothing."""

    def __init__(self, channels: Sequence[int], width: int, norm: Norm) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(Conv(c, width, 1, norm=norm) for c in channels)
        self.smooth = nn.ModuleList(Conv(width, width, norm=norm) for _ in channels)
        self.width = width
        init_weights(self)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        out: list[Tensor] = []
        for level in reversed(range(len(maps))):
            x = self.lateral[level](maps[level])
            if out:
                x = x + F.interpolate(out[0], size=x.shape[-2:], mode="nearest")
            out.insert(0, self.smooth[level](x))
        return out


class PanNeck(nn.Module):
    """An FPN, then back up from fine to coarse (Liu et al. 2018); sums instead of concatenations keep it narrow."""

    def __init__(self, channels: Sequence[int], width: int, depth: int, norm: Norm) -> None:
        super().__init__()
        self.fpn = FpnNeck(channels, width, norm)
        self.down = nn.ModuleList(Conv(width, width, 3, 2, norm=norm) for _ in channels[1:])
        self.mix = nn.ModuleList(
            nn.Sequential(*[Conv(width, width, norm=norm) for _ in range(depth)]) for _ in channels[1:]
        )
        self.width = width
        init_weights(self.down)
        init_weights(self.mix)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine: list[Tensor] = self.fpn(maps)
        out = fine[:1]
        for x, down, mix in zip(fine[1:], self.down, self.mix, strict=True):
            out.append(mix(x + down(out[-1])))
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


def _enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=list(size), mode="nearest")


def build_neck(config: Fpn | Pan | Fuse, channels: Sequence[int], norm: Norm) -> FpnNeck | PanNeck | FuseNeck:
    if isinstance(config, Pan):
        return PanNeck(channels, config.width, config.depth, norm)
    if isinstance(config, Fuse):
        return FuseNeck(channels, config.width, config.adaptive, norm)
    return FpnNeck(channels, config.width, norm)


def neck_strides(config: Fpn | Pan | Fuse, strides: Sequence[int]) -> tuple[int, ...]:
    """Strides of the maps that come out: those that go in, or the finest one alone."""
    return tuple(strides[:1]) if isinstance(config, Fuse) else tuple(strides)
