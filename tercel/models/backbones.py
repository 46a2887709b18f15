"""Backbones behind one signature: forward(images [B,C,H,W]) -> list of maps, finest first.

Attributes every backbone has: `strides` and `channels`, one entry per map.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tercel.config import Hourglass, SmallNet, SmpNet, TimmNet
from tercel.core.finding import TercelError
from tercel.models.layers import Conv, Norm, Residual, init_weights
from tercel.models.trunks import HourglassTrunk, SmpTrunk, hourglass_divisor


class SmallBackbone(nn.Module):
    """Dense 3x3 residual stages behind a 6x6 stride-4 stem.

    Where the time goes on a CPU: maps above stride 4 are bound by memory traffic, not arithmetic, so the stem leaps
    over them; dense 3x3 convolutions reach several times the FLOP rate of 1x1 and depth-wise ones in bf16.
    """

    STRIDES = (4, 8, 16, 32)

    def __init__(self, config: SmallNet, strides: Sequence[int], norm: Norm, in_channels: int = 3) -> None:
        super().__init__()
        if len(config.widths) != len(self.STRIDES) or len(config.depths) != len(self.STRIDES):
            raise TercelError(f"SmallNet needs {len(self.STRIDES)} widths and depths", "one per stride 4, 8, 16, 32")
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, config.stem, 6, 4, 1, bias=False),
            *list(Conv(config.stem, config.stem, norm=norm))[1:],
        )
        stages, width = [], config.stem
        for i, (w, d) in enumerate(zip(config.widths, config.depths, strict=True)):
            down: list[nn.Module] = (
                [Conv(width, w, 3, 2, norm=norm)] if i else ([Conv(width, w, norm=norm)] if w != width else [])
            )
            stages.append(nn.Sequential(*down, *[Residual(w, norm=norm) for _ in range(d)]))
            width = w
        self.stages = nn.ModuleList(stages)
        self.take = [self.STRIDES.index(s) for s in strides]
        self.strides = tuple(strides)
        self.channels = tuple(config.widths[i] for i in self.take)
        init_weights(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps, x = [], self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [maps[i] for i in self.take]


class TimmBackbone(nn.Module):
    """A timm model as feature extractor."""

    def __init__(self, config: TimmNet, strides: Sequence[int], in_channels: int = 3) -> None:
        super().__init__()
        import timm

        try:
            net = timm.create_model(config.model, pretrained=config.weights, features_only=True, in_chans=in_channels)
        except RuntimeError as e:
            raise TercelError(f"timm cannot build {config.model!r}: {e}", "`timm.list_models()` lists the names") from e
        except OSError as e:  # the hub client raises its connection errors as OSError
            raise TercelError(
                f"the weights of {config.model!r} could not be fetched: {e}",
                "train from scratch with --set model.backbone.weights=false, or fetch them once while online",
            ) from e
        reductions = list(net.feature_info.reduction())
        missing = [s for s in strides if s not in reductions]
        if missing:
            raise TercelError(f"{config.model!r} has no map at stride {missing[0]}; it has {reductions}")
        self.net = net
        self.frozen = config.frozen_statistics
        self.take = [reductions.index(s) for s in strides]
        self.strides = tuple(strides)
        self.channels = tuple(net.feature_info.channels()[i] for i in self.take)

    def train(self, mode: bool = True) -> TimmBackbone:
        super().train(mode)
        if self.frozen:
            for m in self.modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.net(x)
        return [maps[i] for i in self.take]


def build_backbone(
    config: SmallNet | TimmNet | SmpNet | Hourglass, strides: Sequence[int], norm: Norm, in_channels: int = 3
) -> SmallBackbone | TimmBackbone | SmpTrunk | HourglassTrunk:
    if isinstance(config, SmpNet):
        return SmpTrunk(config, strides, in_channels)
    if isinstance(config, Hourglass):
        return HourglassTrunk(config, strides, norm, in_channels)
    if isinstance(config, SmallNet):
        missing = [s for s in strides if s not in SmallBackbone.STRIDES]
        if missing:
            raise TercelError(f"SmallNet has no map at stride {missing[0]}; it has {SmallBackbone.STRIDES}")
        return SmallBackbone(config, strides, norm, in_channels)
    return TimmBackbone(config, strides, in_channels)


def divisor(config: SmallNet | TimmNet | SmpNet | Hourglass, strides: Sequence[int]) -> int:
    """What the height and width of the input must be multiples of."""
    if isinstance(config, SmpNet):
        return SmpTrunk.divisor
    return hourglass_divisor(config) if isinstance(config, Hourglass) else max(strides)
