"""The backbones of timm that recipes name: maps at the strides asked for, without a network connection."""

from __future__ import annotations

import pytest
import torch

from tercel.config import TimmNet
from tercel.core.finding import TercelError
from tercel.models.backbones import TimmBackbone, build_backbone


@pytest.mark.parametrize(
    ("model", "channels", "millions"),
    [("darknet53", (256, 512, 1024), 40.6), ("resnet50", (512, 1024, 2048), 23.5)],
)
def test_maps_and_size(model: str, channels: tuple[int, ...], millions: float) -> None:
    """Widths as published (YOLOv3's table 1; He et al. 2016, table 1), the classifier left out."""
    backbone = build_backbone(TimmNet(model=model), (8, 16, 32), "batch").eval()
    assert isinstance(backbone, TimmBackbone)
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(channels, (8, 16, 32), strict=True)
    ]
    assert backbone.channels == channels
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_a_stride_or_a_name_that_there_is_not() -> None:
    with pytest.raises(TercelError, match="has no map at stride 64; it has"):
        build_backbone(TimmNet(model="resnet18"), (8, 64), "batch")
    with pytest.raises(TercelError, match="timm cannot build 'darknet54'"):
        build_backbone(TimmNet(model="darknet54"), (8,), "batch")


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(TercelError, match="weights of 'darknet53' could not be fetched: no network") as e:
        build_backbone(TimmNet(model="darknet53", weights=True), (8,), "batch")
    assert "model.backbone.weights=false" in str(e.value)
