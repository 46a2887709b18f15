"""Losses against formulas in plain Python, and the properties that a half-working loss would break."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tercel.core.finding import TercelError
from tercel.models.losses import CLASS_LOSSES, box_iou_pairs, box_loss, dfl, smooth_l1

KINDS = ("iou", "giou", "diou", "ciou", "smooth_l1")
unit = st.floats(0, 1, width=32)
logit = st.floats(-30, 30, width=32)
side = st.floats(-50, 700, width=32)
extent = st.floats(0.5, 300, width=32)


def logit_of(p: Tensor) -> Tensor:
    return torch.log(p) - torch.log1p(-p)


def boxes_of(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y + h]


# -- classification -------------------------------------------------------------------------------------------


def by_hand(name: str, x: float, t: float) -> float:
    """The published formulas in float64, with p and the logarithms written out."""
    p = 1 / (1 + math.exp(-x))
    ce = -(t * math.log(p) if t else 0) - ((1 - t) * math.log(1 - p) if t < 1 else 0)
    entropy = -sum(v * math.log(v) for v in (t, 1 - t) if v > 0)
    if name == "bce":
        return ce - entropy
    if name == "focal":
        return (0.25 * t + 0.75 * (1 - t)) * abs(t - p) ** 2 * ce
    if name == "quality":
        return abs(t - p) ** 2 * ce
    return t * (ce - entropy) if t else 0.75 * p**2 * ce


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_class_loss_is_the_published_formula(name: str) -> None:
    grid = [(x, t) for x in (-9.0, -2.0, -0.1, 0.0, 0.7, 3.0, 9.0) for t in (0.0, 0.02, 0.4, 0.9, 1.0)]
    x, t = torch.tensor(grid, dtype=torch.float64).unbind(1)
    expected = torch.tensor([by_hand(name, *pair) for pair in grid], dtype=torch.float64)
    torch.testing.assert_close(CLASS_LOSSES[name](x, t), expected, rtol=1e-9, atol=1e-12)


def test_focal_is_lins_for_hard_targets() -> None:
    """FL = -a_t (1 - p_t)^2 log p_t: for p = .9 and a positive .25 * .01 * .10536."""
    x = logit_of(torch.tensor([0.9, 0.9]))
    expected = torch.tensor([-0.25 * 0.1**2 * math.log(0.9), -0.75 * 0.9**2 * math.log(0.1)])
    torch.testing.assert_close(CLASS_LOSSES["focal"](x, torch.tensor([1.0, 0.0])), expected)


@pytest.mark.parametrize("name", CLASS_LOSSES)
@given(x=logit, t=unit)
def test_class_loss_is_finite_and_not_negative(name: str, x: float, t: float) -> None:
    z = torch.tensor([x, 300.0, -300.0], requires_grad=True)
    loss = CLASS_LOSSES[name](z, torch.full((3,), t))
    (slope,) = torch.autograd.grad(loss.sum(), z)
    assert (loss >= 0).all()
    assert loss.isfinite().all()
    assert slope.isfinite().all()


@pytest.mark.parametrize("name", CLASS_LOSSES)
@given(t=st.floats(2e-3, 1 - 2e-3))
def test_class_loss_is_zero_at_perfection_and_only_there(name: str, t: float) -> None:
    target = torch.tensor([t, t, t, t, 0, 1], dtype=torch.float64)
    z = logit_of(target[:1])
    x = torch.cat([z, z + 2, z - 2, z + 4, torch.tensor([-200.0, 200.0], dtype=torch.float64)])
    loss = CLASS_LOSSES[name](x, target)
    assert loss[[0, 4, 5]].abs().max() < 1e-12
    assert (loss[1:4] > 1e-9).all()
    assert loss[3] > loss[1]


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_class_loss_is_ordered_and_pulls_the_right_way(name: str) -> None:
    """Correct < uncertain < wrong; a step downhill raises a positive's score and lowers a negative's."""
    for target, scores in ((1.0, (6.0, 2.0, 0.0, -2.0, -6.0)), (0.0, (-6.0, -2.0, 0.0, 2.0, 6.0))):
        x = torch.tensor(scores, requires_grad=True)
        loss = CLASS_LOSSES[name](x, torch.full((5,), target))
        assert all(a < b for a, b in pairwise(loss.tolist()))
        (slope,) = torch.autograd.grad(loss.sum(), x)
        assert (slope < 0).all() if target else (slope > 0).all()


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_class_loss_gradient(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, dtype=torch.float64).mul(3).requires_grad_()
    target = torch.cat([torch.rand(20), torch.zeros(10), torch.ones(10)]).double()
    assert torch.autograd.gradcheck(lambda z: CLASS_LOSSES[name](z, target), x)


def test_removing_the_entropy_leaves_bces_gradient() -> None:
    x, t = torch.randn(50, requires_grad=True), torch.rand(50)
    (ours,) = torch.autograd.grad(CLASS_LOSSES["bce"](x, t).sum(), x)
    torch.testing.assert_close(ours, x.detach().sigmoid() - t)


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_easy_negatives_cost_nothing(name: str) -> None:
    x = torch.full((10_000,), -20.0)
    assert CLASS_LOSSES[name](x, torch.zeros(10_000)).sum() < 1e-4


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_class_loss_refuses_shapes_that_would_broadcast(name: str) -> None:
    with pytest.raises(TercelError, match=r"\[4, 1\] against target of shape \[4\]"):
        CLASS_LOSSES[name](torch.zeros(4, 1), torch.zeros(4))


def test_a_target_outside_the_range_is_not_swallowed() -> None:
    assert CLASS_LOSSES["bce"](torch.zeros(2), torch.tensor([1.5, -0.5])).isnan().all()


# -- boxes ----------------------------------------------------------------------------------------------------

# (pred, truth, IoU, union, hull w, hull h, squared centre distance), by hand
CASES = [
    ((0, 0, 10, 10), (0, 0, 10, 10), 1, 100, 10, 10, 0),  # identical
    ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150, 150, 15, 10, 25),  # shifted by half
    ((0, 0, 10, 10), (10, 0, 20, 10), 0, 200, 20, 10, 100),  # touching
    ((0, 0, 10, 10), (20, 30, 30, 40), 0, 200, 30, 40, 400 + 900),  # apart
    ((2, 2, 4, 6), (0, 0, 10, 10), 8 / 100, 100, 10, 10, 4 + 1),  # contained
    ((0, 0, 10, 10), (5, 5, 5, 5), 0, 100, 10, 10, 0),  # empty truth
    ((3, 3, 3, 7), (0, 0, 10, 10), 0, 100, 10, 10, 4),  # pred without width
]


def exact(kind: str, pred: tuple[float, ...], truth: tuple[float, ...], numbers: tuple[float, ...]) -> float:
    iou, union, hull_w, hull_h, distance = numbers
    if kind == "iou":
        return 1 - iou
    if kind == "giou":
        return 1 - iou + (hull_w * hull_h - union) / (hull_w * hull_h)
    loss = 1 - iou + distance / (hull_w**2 + hull_h**2)
    if kind == "diou":
        return loss
    angle = [math.atan2(max(b[2] - b[0], 1e-4), max(b[3] - b[1], 1e-4)) for b in (pred, truth)]
    v = 4 / math.pi**2 * (angle[0] - angle[1]) ** 2
    return loss + (v * v / (1 - iou + v) if v else 0)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
@pytest.mark.parametrize("case", CASES)
def test_box_loss_by_hand(kind: str, case: tuple[tuple[float, ...], ...]) -> None:
    pred, truth, *numbers = case
    loss = box_loss(kind, torch.tensor([pred]).float(), torch.tensor([truth]).float())
    assert loss.item() == pytest.approx(exact(kind, pred, truth, tuple(numbers)), abs=2e-6)


def test_smooth_l1_box_loss_by_hand() -> None:
    """Truth 20 x 40. Right edge 1 px off: d = .05, .05^2 / .2 = .0125; bottom 20 px off: d = .5, .5 - .05 = .45."""
    pred, truth = torch.tensor([[0.0, 0, 21, 60]]), torch.tensor([[0.0, 0, 20, 40]])
    assert box_loss("smooth_l1", pred, truth).item() == pytest.approx(0.0125 + 0.45, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@given(x=side, y=side, w=extent, h=extent, dx=st.floats(-40, 40), dw=st.floats(-10, 60), scale=st.floats(1.5, 8))
def test_box_loss_properties(
    *, kind: str, x: float, y: float, w: float, h: float, dx: float, dw: float, scale: float
) -> None:
    truth = torch.tensor([boxes_of(x, y, w + 2, h + 2)], dtype=torch.float64)
    pred = torch.tensor([boxes_of(x + dx, y - dx, max(w + dw, 0.1), h)], dtype=torch.float64)
    loss = box_loss(kind, pred, truth)
    assert loss.item() >= 0
    assert kind == "smooth_l1" or loss.item() <= (3 if kind == "ciou" else 2)
    assert box_loss(kind, truth, truth).item() == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(box_loss(kind, pred * scale, truth * scale), loss, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_box_loss_grows_with_the_error(kind: str) -> None:
    truth = torch.tensor([[100.0, 100, 150, 140]]).repeat(5, 1)
    shift = torch.tensor([0.0, 2, 8, 20, 35])[:, None]
    loss = box_loss(kind, truth + shift, truth)
    assert loss[0] == 0
    assert all(a < b for a, b in pairwise(loss.tolist()))


@pytest.mark.parametrize("kind", KINDS)
def test_box_loss_pulls_towards_the_truth(kind: str) -> None:
    """Downhill moves every side of a box that is too small outwards; apart, all but plain IoU still pull."""
    truth = torch.tensor([[100.0, 100, 200, 200], [100.0, 100, 200, 200]])
    pred = torch.tensor([[130.0, 130, 170, 170], [300.0, 300, 400, 400]], requires_grad=True)
    (slope,) = torch.autograd.grad(box_loss(kind, pred, truth).sum(), pred)
    assert (slope[0] * torch.tensor([1, 1, -1, -1]) > 0).all()
    assert slope[1].sum() > 0 if kind != "iou" else (slope[1] == 0).all()


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "smooth_l1"])
def test_box_loss_gradient(kind: str) -> None:
    truth = torch.tensor([[10.0, 10, 50, 30], [0, 0, 5, 5], [10, 10, 20, 20]], dtype=torch.float64)
    pred = torch.tensor([[12.0, 7, 44, 33], [1, 2, 4, 4], [31, 33, 44, 55]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: box_loss(kind, p, truth), pred)


def test_ciou_gradient_holds_the_trade_off_constant() -> None:
    """Finite differences of 1 - IoU + rho^2/c^2 + a v in plain Python with `a` frozen at the point."""
    truth, at = (10.0, 10.0, 50.0, 30.0), (12.0, 7.0, 44.0, 33.0)

    def terms(p: tuple[float, ...]) -> tuple[float, float, float]:
        iw, ih = min(p[2], truth[2]) - max(p[0], truth[0]), min(p[3], truth[3]) - max(p[1], truth[1])
        union = (p[2] - p[0]) * (p[3] - p[1]) + 40 * 20 - iw * ih
        hull = (max(p[2], truth[2]) - min(p[0], truth[0])) ** 2 + (max(p[3], truth[3]) - min(p[1], truth[1])) ** 2
        rho = ((p[0] + p[2]) / 2 - 30) ** 2 + ((p[1] + p[3]) / 2 - 20) ** 2
        v = 4 / math.pi**2 * (math.atan(40 / 20) - math.atan((p[2] - p[0]) / (p[3] - p[1]))) ** 2
        return iw * ih / union, rho / hull, v

    iou, _, v = terms(at)
    weight = v / (1 - iou + v)

    def value(p: tuple[float, ...]) -> float:
        iou, rho, v = terms(p)
        return 1 - iou + rho + weight * v

    expected = []
    for k in range(4):
        up, down = ([*at[:k], at[k] + d, *at[k + 1 :]] for d in (1e-5, -1e-5))
        expected.append((value(tuple(up)) - value(tuple(down))) / 2e-5)
    pred = torch.tensor([at], dtype=torch.float64, requires_grad=True)
    loss = box_loss("ciou", pred, torch.tensor([truth], dtype=torch.float64))
    assert loss.item() == pytest.approx(value(at), rel=1e-9)
    (slope,) = torch.autograd.grad(loss.sum(), pred)
    torch.testing.assert_close(slope[0], torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_box_loss_is_safe_on_bad_boxes(kind: str) -> None:
    """Empty, inverted, identical, point-like, huge: value and gradient stay finite."""
    odd = torch.tensor(
        [[0, 0, 0, 0], [5, 5, 5, 9], [9, 9, 1, 1], [1e-8, 0, 2e-8, 1], [0, 0, 1e5, 1e5], [3, 3, 7, 7.0]],
    )
    pred, truth = odd.repeat_interleave(6, 0).requires_grad_(), odd.repeat(6, 1)
    loss = box_loss(kind, pred, truth)
    (slope,) = torch.autograd.grad(loss.sum(), pred)
    assert loss.isfinite().all()
    assert (loss >= 0).all()
    assert slope.isfinite().all()
    assert slope.abs().max() < 1e5


def test_no_boxes() -> None:
    none = torch.zeros(0, 4)
    assert all(box_loss(kind, none, none).shape == (0,) for kind in KINDS)
    assert dfl(torch.zeros(0, 4, 16), none).shape == (0, 4)


def test_box_loss_refuses_other_names() -> None:
    with pytest.raises(TercelError, match="unknown box loss 'eiou'"):
        box_loss("eiou", torch.zeros(1, 4), torch.zeros(1, 4))  # type: ignore[arg-type]


@given(x=side, y=side, w=extent, h=extent, dx=st.floats(-60, 60), dy=st.floats(-60, 60), k=st.floats(0.2, 3))
def test_iou_of_pairs(*, x: float, y: float, w: float, h: float, dx: float, dy: float, k: float) -> None:
    a, b = boxes_of(x, y, w, h), boxes_of(x + dx, y + dy, w * k, h / k)
    iw, ih = max(0, min(a[2], b[2]) - max(a[0], b[0])), max(0, min(a[3], b[3]) - max(a[1], b[1]))
    expected = iw * ih / (w * h + w * h - iw * ih)
    assert box_iou_pairs(torch.tensor([a]), torch.tensor([b])).item() == pytest.approx(expected, abs=2e-3)
    double = box_iou_pairs(torch.tensor([a]).double(), torch.tensor([b]).double())
    assert double.item() == pytest.approx(expected, abs=1e-3)
    assert 0 <= double.item() <= 1


# -- smooth L1, distributions ---------------------------------------------------------------------------------


def test_smooth_l1_values_and_bounded_slope() -> None:
    """crowd-3: at an error of 10 the slope is 1, not 20 as with a square."""
    x = torch.tensor([0.0, 0.25, 0.5, 1.0, 10.0, -10.0], requires_grad=True)
    loss = smooth_l1(x, torch.zeros(6), 0.5)
    torch.testing.assert_close(loss.detach(), torch.tensor([0, 0.0625, 0.25, 0.75, 9.75, 9.75]))
    (slope,) = torch.autograd.grad(loss.sum(), x)
    torch.testing.assert_close(slope, torch.tensor([0, 0.5, 1, 1, 1, -1]))
    with pytest.raises(TercelError, match="beta > 0"):
        smooth_l1(x, x, 0)


def test_dfl_by_hand() -> None:
    """Uniform over 4 bins, target 1.25: cross entropy log 4 whatever the weights, entropy of (.75, .25) off."""
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    logits = torch.zeros(1, 4, 4)
    target = torch.tensor([[1.25, 0.0, 3.0, 2.0]])
    expected = torch.tensor([[math.log(4) - entropy, math.log(4), math.log(4), math.log(4)]])
    torch.testing.assert_close(dfl(logits, target), expected)
    peaked = torch.tensor([1.0, 2.0, -1.0, 0.5]).repeat(1, 4, 1)
    log_p = [v - math.log(sum(math.exp(u) for u in (1, 2, -1, 0.5))) for v in (1, 2, -1, 0.5)]
    by_hand = [-0.75 * log_p[1] - 0.25 * log_p[2] - entropy, -log_p[0], -log_p[3], -log_p[2]]
    torch.testing.assert_close(dfl(peaked, target), torch.tensor([by_hand]))


@given(t=st.floats(0, 15, width=32))
def test_dfl_is_zero_at_perfection_only(t: float) -> None:
    left = min(math.floor(t), 14)
    weights = torch.zeros(16, dtype=torch.float64)
    weights[left], weights[left + 1] = 1 - (t - left), t - left
    target = torch.full((1, 4), t, dtype=torch.float64)
    ideal = weights.clamp_min(1e-30).log().repeat(1, 4, 1)
    assert dfl(ideal, target).abs().max() < 1e-9
    assert (dfl(ideal.roll(1, -1), target) > 0.01).all()
    assert (dfl(torch.zeros(1, 4, 16), target.float()) > 1).all()


def test_dfl_gradient_moves_mass_to_the_target() -> None:
    logits = torch.randn(3, 4, 8, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0.0, 7.0, 3.5, 2.1]], dtype=torch.float64).repeat(3, 1)
    assert torch.autograd.gradcheck(lambda x: dfl(x, target), logits)
    flat = torch.zeros(1, 4, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(dfl(flat, target[:1].float()).sum(), flat)
    mean = ((flat - slope).softmax(-1) * torch.arange(8)).sum(-1).detach()
    assert ((mean - target[0]).abs() < (3.5 - target[0]).abs() + 1e-6).all()


@pytest.mark.parametrize("bad", [-0.01, 7.01, float("nan")])
def test_dfl_refuses_targets_beyond_its_bins(bad: float) -> None:
    with pytest.raises(TercelError, match=r"outside 0\.\.7"):
        dfl(torch.zeros(1, 4, 8), torch.tensor([[0, 1, bad, 2.0]]))
    with pytest.raises(TercelError, match="dfl needs"):
        dfl(torch.zeros(1, 4, 1), torch.zeros(1, 4))


# -- precision ------------------------------------------------------------------------------------------------


def test_everything_is_float32_under_autocast() -> None:
    """bf16 has 8 bits: at x = 1000 a pixel is 4 wide, and 1 - p is 0 from .997 on."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = torch.tensor([[1000.0, 1000, 1040, 1040]]).bfloat16()
        assert box_iou_pairs(half, half).dtype == torch.float32
        a, b = torch.tensor([[1000.5, 1000, 1040, 1040]]), torch.tensor([[1000.0, 1000, 1040, 1040]])
        assert box_iou_pairs(a, b).item() == pytest.approx(39.5 / 40, abs=1e-6)
        for kind in KINDS:
            assert box_loss(kind, half, a).dtype == torch.float32
            assert box_loss(kind, a, b).item() > 0
        logits = torch.tensor([9.0])
        for loss in CLASS_LOSSES.values():
            assert loss(logits.bfloat16(), torch.ones(1).bfloat16()).dtype == torch.float32
            assert 0 < loss(logits, torch.ones(1)).item() < 2e-4
        assert dfl(torch.randn(2, 4, 16).bfloat16(), torch.rand(2, 4)).dtype == torch.float32
        assert smooth_l1(half, half, 1.0).dtype == torch.float32


def test_targets_get_no_gradient() -> None:
    target = torch.rand(2, 4, requires_grad=True)
    x = torch.rand(2, 4, requires_grad=True)
    losses = [loss(x, target) for loss in CLASS_LOSSES.values()] + [box_loss(kind, x, target) for kind in KINDS]
    losses.append(dfl(torch.randn(2, 4, 5, requires_grad=True), target))
    for loss in losses:
        assert torch.autograd.grad(loss.sum(), target, allow_unused=True)[0] is None
