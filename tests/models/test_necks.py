"""Necks. BiFPN: which map reaches which, the weighted sum by hand, and strides that agree with the maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tercel.config import BiFpn, Fpn, Fuse, Pan
from tercel.models.necks import BiFpnNeck, build_neck, neck_strides

CHANNELS, STRIDES = (8, 12, 16), (4, 8, 16)


def maps_of(size: tuple[int, int] = (32, 48), channels: tuple[int, ...] = CHANNELS) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, size[0] // s, size[1] // s, generator=g) for c, s in zip(channels, STRIDES, strict=False)]


def plain(neck: nn.Module) -> BiFpnNeck:
    """Every convolution copies its input, so that what comes out are the weighted sums themselves."""
    assert isinstance(neck, BiFpnNeck)
    neck.lateral = nn.ModuleList(nn.Identity() for _ in neck.lateral)
    for module in neck.modules():
        if hasattr(module, "mix"):
            module.mix = nn.Identity()
    return neck


@pytest.mark.parametrize("extra", [0, 1, 3])
@pytest.mark.parametrize("repeats", [1, 3])
def test_maps_are_as_large_as_their_strides_say(repeats: int, extra: int) -> None:
    config = BiFpn(width=24, repeats=repeats, extra=extra)
    out = build_neck(config, CHANNELS, "group")(maps_of((64, 128)))
    strides = neck_strides(config, STRIDES)
    assert strides == (4, 8, 16, 32, 64, 128)[: 3 + extra]
    # ceil: a picture need not be a multiple of the extra strides
    assert [tuple(x.shape) for x in out] == [(2, 24, -(-64 // s), -(-128 // s)) for s in strides]


def test_strides_of_the_other_necks_do_not_grow() -> None:
    assert neck_strides(Fpn(), STRIDES) == neck_strides(Pan(), STRIDES) == STRIDES
    assert neck_strides(Fuse(), STRIDES) == (4,)


@pytest.mark.parametrize("kind", [Fpn, Pan])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_extra_maps_of_pyramids(kind: type[Fpn] | type[Pan], extra: int) -> None:
    """RetinaNet's P6 and P7: as large as their strides say, made from the map before, and all weights learn."""
    config = kind(width=24, extra=extra)
    assert neck_strides(config, STRIDES) == (4, 8, 16, 32, 64)[: 3 + extra]
    neck = build_neck(config, CHANNELS, "group")
    out = neck(maps_of((64, 128)))
    assert [tuple(x.shape) for x in out] == [(2, 24, -(-64 // s), -(-128 // s)) for s in neck_strides(config, STRIDES)]
    torch.manual_seed(0)
    sum((x * torch.randn_like(x)).sum() for x in out).backward()
    assert [n for n, p in neck.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    plainer = build_neck(kind(width=24), CHANNELS, "group")
    plainer.load_state_dict(neck.state_dict(), strict=False)
    for a, b in zip(plainer(maps_of((64, 128))), out, strict=False):
        assert torch.equal(a, b)  # the maps that were there before do not change


def test_one_layer_by_hand() -> None:
    """Maps of 8 x 8, 4 x 4, 2 x 2 and 1 x 1, constant: 1, 10, 100, 1000; weights all 1: sums are means."""
    neck = plain(build_neck(BiFpn(width=8, repeats=1, extra=1), (8, 8, 8), "group"))
    values = (1.0, 10.0, 100.0)
    out = neck([torch.full((1, 8, 8 >> n, 8 >> n), v) for n, v in enumerate(values)])
    top = 100.0  # the extra map is pooled from the coarsest
    down2 = (100 + top) / 2
    down1 = (10 + down2) / 2
    out0 = (1 + down1) / 2
    out1 = (10 + down1 + out0) / 3
    out2 = (100 + down2 + out1) / 3
    expected = (out0, out1, out2, (top + out2) / 2)
    for x, value in zip(out, expected, strict=True):
        torch.testing.assert_close(x, torch.full_like(x, value), rtol=2e-4, atol=0)  # of the 1e-4 in the divisor


def test_a_weight_below_zero_switches_an_input_off() -> None:
    neck = plain(build_neck(BiFpn(width=8, repeats=1, extra=0), (8, 8), "group"))
    fine, coarse = torch.ones(1, 8, 4, 4), torch.full((1, 8, 2, 2), 5.0)
    weights = neck.get_parameter("layers.0.down.0.weights")
    with torch.no_grad():
        weights.copy_(torch.tensor([2.0, -3.0]))
    assert neck([fine, coarse])[0].mean().item() == pytest.approx(1.0, rel=1e-3)
    with torch.no_grad():
        weights.copy_(torch.tensor([1.0, 3.0]))
    assert neck([fine, coarse])[0].mean().item() == pytest.approx(1 / 4 + 5 * 3 / 4, rel=1e-3)


def test_every_map_reaches_every_other_one() -> None:
    neck = build_neck(BiFpn(width=16, repeats=1, extra=1), CHANNELS, "group")
    maps = [m.requires_grad_() for m in maps_of()]
    for out in neck(maps):
        grads = torch.autograd.grad(out.square().sum(), maps, retain_graph=True)
        assert all(g.abs().sum() > 0 for g in grads)


def test_every_parameter_learns() -> None:
    neck = build_neck(BiFpn(width=16, repeats=2, extra=2), CHANNELS, "group")
    torch.manual_seed(0)
    sum((x * torch.randn_like(x)).sum() for x in neck(maps_of((64, 64)))).backward()
    for name, value in neck.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().sum() > 0, name


def test_signals_keep_their_size_through_many_layers() -> None:
    """Neither dead nor exploding after 8 repeats, in training mode of the norm."""
    torch.manual_seed(0)
    out = build_neck(BiFpn(width=32, repeats=8, extra=0), CHANNELS, "batch")(maps_of((64, 64)))
    assert all(0.1 < x.std().item() < 3 for x in out)


def test_one_map_is_no_pyramid() -> None:
    neck = build_neck(BiFpn(width=16, repeats=2, extra=0), (8,), "group")
    assert [tuple(x.shape) for x in neck(maps_of(channels=(8,)))] == [(2, 16, 8, 12)]
    assert neck_strides(BiFpn(extra=0), (4,)) == (4,)
