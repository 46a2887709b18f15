"""Trunks, the fusing neck, and how frames become planes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tercel.config import BallHeatmap, Clip, Fuse, Hourglass, Model, Pan, SmallNet, SmpNet, TimmNet
from tercel.core.finding import TercelError
from tercel.core.schema import Schema
from tercel.models.backbones import build_backbone, divisor
from tercel.models.detector import Detector, stack
from tercel.models.necks import FuseNeck
from tercel.models.trunks import HourglassTrunk, SmpTrunk, activations, set_activation

BALL = Schema(("ball",))
LARGE = Hourglass(stem=128, widths=(256, 256, 384, 384, 384, 512), blocks=(2, 2, 2, 2, 2, 4), stacks=2)


# -- segmentation-models-pytorch ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decoder", "encoder", "stride"),
    [("unet", "resnet18", 1), ("unetplusplus", "efficientnet_b0", 1), ("deeplabv3plus", "efficientnet_b0", 4)],
)
def test_smp_trunk(decoder: Any, encoder: str, stride: int) -> None:
    """One map of the declared stride and width, one type of activation (pingpong-4), the same in training."""
    config = SmpNet(decoder=decoder, encoder=encoder, width=8)
    trunk = build_backbone(config, (stride,), "batch", 5)
    x = torch.randn(2, 5, 64, 96)
    (y,) = trunk(x)
    assert y.shape == (2, 8, 64 // stride, 96 // stride)
    assert (trunk.strides, trunk.channels) == ((stride,), (8,))
    assert list(activations(trunk)) == [trunk.activation]
    for m in trunk.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 0.0
        assert not (isinstance(m, nn.Dropout) and m.p)


def test_the_whole_network_has_one_activation() -> None:
    backbone = SmpNet(decoder="deeplabv3plus", encoder="efficientnet_b0", width=8)
    model = Model(backbone=backbone, strides=(4,), neck=Fuse(width=8), head=BallHeatmap(width=8))
    assert set(activations(Detector(model, BALL))) == {nn.SiLU}


def test_a_planted_mix_of_activations_is_seen() -> None:
    mixed = nn.Sequential(nn.SiLU(), nn.Sequential(nn.ReLU(), nn.Sigmoid()))
    assert len(activations(mixed)) == 2
    set_activation(mixed, nn.SiLU)
    assert activations(mixed) == {nn.SiLU: 2}


@pytest.mark.parametrize(
    ("config", "strides", "message", "remedy"),
    [
        (SmpNet(), (4,), "one map, at stride 1", "model.strides=[1]"),
        (SmpNet(decoder="deeplabv3plus"), (4, 8), "one map, at stride 4", "model.strides=[4]"),
        (SmpNet(encoder="resnet17"), (1,), "cannot be built on the timm encoder 'resnet17'", "list_models"),
        (Hourglass(), (8,), "one map, at stride 4", "model.strides=[4]"),
        (Hourglass(widths=(32,), blocks=(1,)), (4,), "hourglass of 1 widths", "two at least"),
        (Hourglass(blocks=(1, 1)), (4,), "hourglass of 3 widths and 2", "one entry per level"),
    ],
)
def test_refusals(config: Any, strides: tuple[int, ...], message: str, remedy: str) -> None:
    with pytest.raises(TercelError, match=re.escape(message)) as e:
        build_backbone(config, strides, "batch", 3)
    assert remedy in str(e.value)


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import segmentation_models_pytorch as smp

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(smp, "Unet", offline)
    with pytest.raises(TercelError, match="could not be fetched: no network") as e:
        SmpTrunk(SmpNet(weights=True), (1,))
    assert "model.backbone.weights=false" in str(e.value)


# -- hourglass ------------------------------------------------------------------------------------------------------


def longest_path(module: nn.Module) -> int:
    """Convolutions one after the other on the longest way through the traced graph."""
    graph, depth = torch.fx.symbolic_trace(module).graph, {}
    for node in graph.nodes:
        before = max((depth[i] for i in node.all_input_nodes), default=0)
        leaf = node.op == "call_module" and isinstance(module.get_submodule(node.target), nn.Conv2d)
        depth[node] = before + leaf
    return max(depth.values())


def test_the_large_hourglass_has_104_layers() -> None:
    """CornerNet's and CenterNet's backbone: 104 convolutions deep, some 190 million weights (theirs, heads aside)."""
    with torch.device("meta"):
        trunk = HourglassTrunk(LARGE, (4,), "batch")
    assert longest_path(trunk) == 104
    assert sum(p.numel() for p in trunk.parameters()) == pytest.approx(187e6, rel=0.03)
    assert divisor(LARGE, (4,)) == 128


def test_a_light_hourglass_trains() -> None:
    torch.manual_seed(0)
    config = Hourglass(stem=8, widths=(8, 16, 16), blocks=(1, 1, 1), stacks=2)
    trunk = HourglassTrunk(config, (4,), "group", in_channels=4)
    (y,) = trunk(torch.randn(2, 4, 48, 64))
    assert y.shape == (2, 8, 12, 16)
    y.square().sum().backward()
    assert [n for n, p in trunk.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


# -- fuse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adaptive", [True, False])
def test_fuse_brings_all_maps_to_the_finest(adaptive: bool) -> None:
    torch.manual_seed(0)
    neck = FuseNeck((4, 6, 8), 8, adaptive, "group")
    maps = [torch.randn(2, c, 24 // s, 40 // s, requires_grad=True) for c, s in ((4, 1), (6, 2), (8, 4))]
    (y,) = neck(maps)
    assert y.shape == (2, 8, 24, 40)
    y.square().sum().backward()
    assert all(float(m.grad.abs().sum()) > 0 for m in maps if m.grad is not None)
    assert [n for n, p in neck.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_fuse_of_one_map_has_nothing_to_weigh() -> None:
    neck = FuseNeck((4,), 8, True, "group")
    assert neck.score is None
    assert neck([torch.randn(1, 4, 6, 8)])[0].shape == (1, 8, 6, 8)


def test_fusing_weights_are_per_place_and_sum_to_one() -> None:
    """ASFF by hand: the enlarged maps weighted by the softmax of the enlarged scores."""
    torch.manual_seed(0)
    neck = FuseNeck((3, 3), 8, True, "group").eval()
    for score in neck.score or ():
        nn.init.normal_(score.weight)
    maps = [torch.randn(1, 3, 4, 6), torch.randn(1, 3, 2, 3)]
    neck.smooth = nn.Identity()
    assert neck.score is not None
    (y,) = neck(maps)
    a, b = neck.lateral[0](maps[0]), neck.lateral[1](maps[1]).repeat_interleave(2, 2).repeat_interleave(2, 3)
    e = [torch.exp(neck.score[i](m)) for i, m in enumerate((a, b))]
    torch.testing.assert_close(y, (e[0] * a + e[1] * b) / (e[0] + e[1]))


def test_a_heatmap_refuses_a_neck_with_paths_that_lead_nowhere() -> None:
    with pytest.raises(TercelError, match="would lead nowhere"):
        Detector(Model(head=BallHeatmap(), neck=Pan(), strides=(4, 8)), BALL)


# -- planes ---------------------------------------------------------------------------------------------------------


def planes(clip: Clip, pictures: np.ndarray) -> np.ndarray:
    """`stack` in plain NumPy, one plane after the other."""
    m = Model()
    x = (pictures.astype(np.float64) - np.reshape(m.mean, (3, 1, 1))) / np.reshape(m.std, (3, 1, 1))
    if clip.channels == "rgb":
        return np.concatenate(list(x.transpose(1, 0, 2, 3, 4)), axis=1)
    grey = 0.299 * x[:, :, 0] + 0.587 * x[:, :, 1] + 0.114 * x[:, :, 2]
    out = [grey[:, i] for i in range(grey.shape[1])]
    if clip.channels == "difference":
        out += [grey[:, i + 1] - grey[:, i] for i in range(clip.frames - 1)]
    return np.stack(out, axis=1)


CLIPS = [
    Clip(frames=t, channels=c, background=b)  # type: ignore[arg-type]
    for t in (1, 3)
    for c in ("rgb", "grey", "difference")
    for b in (False, True)
]


@pytest.mark.parametrize("clip", CLIPS, ids=lambda c: f"{c.frames}-{c.channels}-{c.background}")
@pytest.mark.parametrize("last", [False, True], ids=["planar", "channels last"])
def test_planes_by_hand(clip: Clip, last: bool) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, clip.pictures, 3, 8, 12), dtype=np.uint8)
    x = torch.from_numpy(pictures)
    if last:  # as the loader has it in memory
        x = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 1, 3, 4, 2))).permute(0, 1, 4, 2, 3)
    m = Model(clip=clip)
    out = stack(x, m, torch.tensor(m.mean).view(1, 3, 1, 1), torch.tensor(m.std).view(1, 3, 1, 1))
    assert out.shape[1] == clip.planes
    np.testing.assert_allclose(out.numpy(), planes(clip, pictures), atol=2e-5)
    assert np.array_equal(x.numpy(), pictures)  # the batch is left as it was


def test_a_still_picture_is_normalised_as_it_always_was() -> None:
    m = Model()
    mean, std = torch.tensor(m.mean).view(1, 3, 1, 1), torch.tensor(m.std).view(1, 3, 1, 1)
    x = torch.randint(0, 256, (2, 1, 3, 8, 12), dtype=torch.uint8)
    assert torch.equal(stack(x, m, mean, std), x.flatten(0, 1).float().sub_(mean).mul_(1 / std))


def test_a_wrong_number_of_pictures_is_refused() -> None:
    small = SmallNet(stem=8, widths=(8, 8, 8, 8), depths=(0, 0, 0, 0))
    model = Model(clip=Clip(frames=3, background=True), backbone=small, neck=Fuse(width=8), head=BallHeatmap(width=8))
    d = Detector(replace(model, strides=(4, 8, 16, 32)), BALL)
    with pytest.raises(TercelError, match="sees 4 pictures at once"):
        d(torch.zeros(1, 3, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(TercelError, match="not a multiple of 32"):
        d(torch.zeros(1, 4, 3, 48, 64, dtype=torch.uint8))


def test_timm_takes_any_number_of_planes() -> None:
    backbone = build_backbone(TimmNet(), (4, 8), "batch", 7)
    assert [m.shape[1:] for m in backbone(torch.randn(1, 7, 64, 64))] == [(64, 16, 16), (128, 8, 8)]
