"""Losses and targets of balls against formulas in plain Python, and the properties that a half-working loss breaks."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.finding import TercelError
from tercel.models.ball_losses import (
    HEATMAP_LOSSES,
    event_target,
    gaussian,
    gaussian_iou,
    penalty_focal,
    squared,
    weighted_bce,
)

GRID = [(x, t) for x in (-9.0, -2.0, -0.1, 0.0, 0.7, 3.0, 9.0) for t in (0.0, 0.02, 0.4, 0.9, 1.0)]


def by_hand(name: str, x: float, t: float) -> float:
    p = 1 / (1 + math.exp(-x))
    if name == "focal":
        return -((1 - p) ** 2) * math.log(p) if t == 1 else -((1 - t) ** 4) * p**2 * math.log(1 - p)
    if name == "adaptive_wing":
        d, e = abs(t - p), 2.1 - t
        if d < 0.5:
            return 14 * math.log(1 + d**e)
        a = 14 * (1 / (1 + 0.5**e)) * e * 0.5 ** (e - 1)
        return a * d - (0.5 * a - 14 * math.log(1 + 0.5**e))
    ce = -(t * math.log(p) if t else 0) - ((1 - t) * math.log(1 - p) if t < 1 else 0)
    return abs(t - p) ** 2 * ce


@pytest.mark.parametrize("name", HEATMAP_LOSSES)
def test_heatmap_loss_is_the_published_formula(name: str) -> None:
    x, t = torch.tensor(GRID, dtype=torch.float64).unbind(1)
    expected = torch.tensor([by_hand(name, *pair) for pair in GRID], dtype=torch.float64)
    torch.testing.assert_close(HEATMAP_LOSSES[name](x, t), expected, rtol=1e-9, atol=1e-12)


def test_weighted_bce_is_tracknets_for_hard_targets() -> None:
    """-[(1-p)^2 y log p + p^2 (1-y) log(1-p)], written with p."""
    x = torch.tensor([-3.0, -0.5, 0.0, 2.0], dtype=torch.float64)
    p = x.sigmoid()
    for y in (0.0, 1.0):
        expected = -((1 - p) ** 2 * y * p.log() + p**2 * (1 - y) * (1 - p).log())
        torch.testing.assert_close(weighted_bce(x, torch.full_like(x, y)), expected)


@pytest.mark.parametrize("name", HEATMAP_LOSSES)
@given(x=st.floats(-200, 200, width=32), t=st.floats(0, 1, width=32))
def test_heatmap_loss_is_finite_and_never_negative(name: str, x: float, t: float) -> None:
    logits = torch.tensor([x], requires_grad=True)
    loss = HEATMAP_LOSSES[name](logits, torch.tensor([t]))
    loss.sum().backward()
    assert 0 <= float(loss.detach()) < math.inf
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", HEATMAP_LOSSES)
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_heatmap_loss_rises_with_the_error(name: str, t: float) -> None:
    """0 at perfection and larger the further away; swapping prediction and target would break it (shuttle-7)."""
    x = torch.linspace(20, -20, 41) * (1 if t else -1)
    loss = HEATMAP_LOSSES[name](x, torch.full_like(x, t)).tolist()
    assert loss[0] == pytest.approx(0, abs=1e-6)
    assert all(a <= b + 1e-7 for a, b in pairwise(loss))
    assert loss[-1] > 5


def test_the_adaptive_wing_has_no_step_at_its_bend() -> None:
    t = torch.full((2,), 0.3, dtype=torch.float64)
    p = torch.tensor([0.3 + 0.5 - 1e-7, 0.3 + 0.5 + 1e-7], dtype=torch.float64, requires_grad=True)
    loss = HEATMAP_LOSSES["adaptive_wing"](p.logit(), t)
    (slope,) = torch.autograd.grad(loss.sum(), p)
    low, high = loss.tolist()
    assert low == pytest.approx(high, abs=1e-5)
    assert float(slope[0]) == pytest.approx(float(slope[1]), rel=1e-5)


def test_cells_beside_the_peak_are_cheap_for_the_focal_loss() -> None:
    x = torch.zeros(3)
    far, near, beside = penalty_focal(x, torch.tensor([0.0, 0.5, 0.95])).tolist()
    assert far > 10 * near > 10 * beside


def test_shapes_must_be_equal() -> None:
    for loss in (*HEATMAP_LOSSES.values(), squared, gaussian_iou):
        with pytest.raises(TercelError):
            loss(torch.zeros(3, 2), torch.zeros(3))


@pytest.mark.parametrize("loss", [*HEATMAP_LOSSES.values(), squared, gaussian_iou])
def test_fp32_whatever_autocast_does(loss: object) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        out = loss(torch.full((3, 2), 0.3, dtype=torch.bfloat16), torch.zeros(3, 2))  # type: ignore[operator]
    assert out.dtype == torch.float32


def test_gaussian_iou_by_hand() -> None:
    pred = torch.tensor([[0.0, 0.0], [0.3, 0.4], [3.0, 4.0]], dtype=torch.float64)
    expected = torch.tensor([1 - math.exp(-(d**2) / (2 * 0.49)) for d in (0, 0.5, 5)], dtype=torch.float64)
    torch.testing.assert_close(gaussian_iou(pred, torch.zeros_like(pred)), expected)


def test_gaussian_has_its_width_at_half_maximum() -> None:
    d = torch.tensor([0.0, 3.5, 7.0])
    torch.testing.assert_close(gaussian(d, 7.0), torch.tensor([1.0, 0.5, 0.0625]))


def test_event_target_is_ttnets() -> None:
    """cos(n pi / 8) for n = -4..4, values below .01 are 0."""
    n = torch.arange(-6, 7)
    expected = [0 if abs(k) >= 4 else math.cos(k * math.pi / 8) for k in range(-6, 7)]
    torch.testing.assert_close(event_target(n, 4), torch.tensor(expected, dtype=torch.float32))
    assert event_target(torch.tensor([0, 1, -1]), 1).tolist() == [1, 0, 0]
