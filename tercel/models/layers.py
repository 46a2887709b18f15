"""Building blocks that backbones, necks and heads share."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Norm = Literal["batch", "group"]


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """Batch norm, or group norm with groups of 8 channels (no statistics across samples)."""
    if kind == "batch":
        return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)
    return nn.GroupNorm(max(1, channels // 8), channels)


class Conv(nn.Sequential):
    """Convolution, norm, ReLU: [B,I,H,W] -> [B,O,H/s,W/s]."""

    def __init__(self, i: int, o: int, kernel: int = 3, stride: int = 1, *, norm: Norm, act: bool = True) -> None:
        super().__init__(
            nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False),
            make_norm(norm, o),
            *([nn.ReLU(inplace=True)] if act else []),
        )


class Residual(nn.Module):
    """y = relu(x + conv(conv(x))), dense 3x3 (He et al. 2016)."""

    def __init__(self, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(Conv(channels, channels, norm=norm), Conv(channels, channels, norm=norm, act=False))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(x + self.body(x))
        return y


def init_weights(module: nn.Module) -> None:
    """He initialisation for convolutions that feed a ReLU; norms start at the identity."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)
