"""Necks: forward(maps, finest first) -> as many maps, all of one width."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from tercel.config import Fpn, Pan
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


def build_neck(config: Fpn | Pan, channels: Sequence[int], norm: Norm) -> FpnNeck | PanNeck:
    if isinstance(config, Pan):
        return PanNeck(channels, config.width, config.depth, norm)
    return FpnNeck(channels, config.width, norm)
