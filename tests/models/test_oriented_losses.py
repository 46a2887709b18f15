"""Losses of oriented boxes against matrix formulas in NumPy, and what must hold for any of them."""

from __future__ import annotations

import csv
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tercel.config import OrientedHead
from tercel.core.finding import TercelError
from tercel.core.rotated import reference_iou
from tercel.models.oriented_losses import ORIENTED_LOSSES, OrientedLoss, oriented_loss, probiou, rotated_iou

kinds = pytest.mark.parametrize("kind", ORIENTED_LOSSES)
SMOOTH = [k for k in ORIENTED_LOSSES if k not in ("rotated_iou", "smooth_l1")]
place = st.floats(-200, 900, width=32)
side = st.floats(0.5, 400, width=32)
angle = st.floats(-7, 7, width=32)
obb = st.tuples(place, place, side, side, angle)


def random_obbs(seed: int, count: int = 200) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(count, 5, generator=g, dtype=torch.float64)
    return torch.cat([100 + 20 * u[:, :2], 2 + 40 * u[:, 2:4], 14 * u[:, 4:] - 7], 1)


def rewritten(obbs: Tensor) -> list[Tensor]:
    """The same rectangles in other words."""
    x, y, length, width, theta = obbs.unbind(1)
    half, quarter = theta + math.pi, theta - math.pi / 2
    return [
        torch.stack([x, y, length, width, half], 1),
        torch.stack([x, y, width, length, quarter], 1),
        torch.stack([x, y, width, length, theta + 5 * math.pi / 2], 1),
    ]


# -- formulas -------------------------------------------------------------------------------------------------


def covariance(box: Any, share: float) -> Any:
    c, s = math.cos(box[4]), math.sin(box[4])
    turn = np.array([[c, -s], [s, c]])
    return turn @ np.diag([box[2] ** 2 * share, box[3] ** 2 * share]) @ turn.T


def root(m: Any) -> Any:
    values, vectors = np.linalg.eigh(m)
    return vectors @ np.diag(np.sqrt(values)) @ vectors.T


def by_matrices(kind: str, p: Any, t: Any) -> float:
    """The published formulas with matrices, inverses and determinants."""
    d, det, inv = p[:2] - t[:2], np.linalg.det, np.linalg.inv
    if kind == "probiou":
        a, b = covariance(p, 1 / 12), covariance(t, 1 / 12)
        distance = d @ inv((a + b) / 2) @ d / 8 + math.log(det((a + b) / 2) / math.sqrt(det(a) * det(b))) / 2
        return math.sqrt(1 - math.exp(-distance))
    a, b = covariance(p, 1 / 4), covariance(t, 1 / 4)
    if kind == "kld":
        distance = (d @ inv(b) @ d + np.trace(inv(b) @ a) + math.log(det(b) / det(a))) / 2 - 1
        return 1 - 1 / (1 + math.log(1 + math.sqrt(distance)))
    if kind == "gwd":
        distance = d @ d + np.trace(a + b - 2 * root(root(a) @ b @ root(a)))
        return 1 - 1 / (1 + math.log(1 + math.sqrt(distance / (t[2] * t[3]))))
    gain = a @ inv(a + b)
    common = 4 * math.sqrt(det(a - gain @ a))
    kfiou = common / (p[2] * p[3] + t[2] * t[3] - common)
    return float(1 - 3 * kfiou + math.log(1 + d @ inv(b) @ d))


@pytest.mark.parametrize("kind", SMOOTH)
def test_gaussian_losses_are_the_published_formulas(kind: OrientedLoss) -> None:
    pred, target = random_obbs(0), random_obbs(1)
    values = [by_matrices(kind, p, t) for p, t in zip(pred.numpy(), target.numpy(), strict=True)]
    expected = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(oriented_loss(kind, pred, target), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        oriented_loss(kind, pred.float(), target.float()), expected.float(), rtol=1e-4, atol=1e-4
    )


def test_probiou_is_one_less_the_loss() -> None:
    pred, target = random_obbs(2), random_obbs(3)
    torch.testing.assert_close(probiou(pred, target), 1 - oriented_loss("probiou", pred, target), rtol=0, atol=2e-5)
    assert probiou(target, target).tolist() == [1.0] * len(target)
    assert probiou(pred + torch.tensor([400.0, 0, 0, 0, 0]), target).max() > 0  # ranks what does not touch


def test_kld_by_hand() -> None:
    """Upright 4 x 2 against itself moved by 2 along: Mahalanobis^2 = 2^2 / (4^2 / 4) = 1, KL = 1/2."""
    p, t = torch.tensor([[2.0, 0, 4, 2, 0]]), torch.tensor([[0.0, 0, 4, 2, 0]])
    f = math.log(1 + math.sqrt(0.5))
    assert oriented_loss("kld", p, t).item() == pytest.approx(f / (1 + f), rel=1e-4)
    assert oriented_loss("kfiou", p, t).item() == pytest.approx(math.log(2), rel=1e-5)  # same shape: centres only
    f = math.log(1 + 2 / math.sqrt(8))
    assert oriented_loss("gwd", p, t).item() == pytest.approx(f / (1 + f), rel=1e-4)


def test_smooth_l1_by_hand() -> None:
    """Centre 4 along of 40 = .1 -> .05, width 25 of 20 = .25 -> .2, turned by .3 -> .25."""
    t = torch.tensor([[0.0, 0, 40, 20, 1.0]])
    p = torch.tensor([[4 * math.cos(1), 4 * math.sin(1), 40, 25, 1.3]])
    assert oriented_loss("smooth_l1", p, t).item() == pytest.approx(0.5, rel=1e-4)
    swapped = torch.stack([p[:, 0], p[:, 1], p[:, 3], p[:, 2], p[:, 4] - math.pi / 2], 1)
    assert oriented_loss("smooth_l1", swapped, t).item() == pytest.approx(0.5, rel=1e-4)


# -- exact overlap --------------------------------------------------------------------------------------------


def test_rotated_iou_against_the_oracle(shared: Path) -> None:
    folder = shared / "oracles" / "rotated_iou"
    rows = list(csv.DictReader((folder / "pairs.csv").read_text().splitlines()))
    expected = json.loads((folder / "expected.json").read_text())
    columns = ("cx", "cy", "w", "h", "theta")
    a, b = (torch.tensor([[float(r[c + n]) for c in columns] for r in rows], dtype=torch.float64) for n in "12")
    iou = torch.tensor([e[1] for e in expected["pairs"]], dtype=torch.float64)
    assert (rotated_iou(a, b) - iou).abs().max() < 1e-9
    assert (rotated_iou(b, a) - iou).abs().max() < 1e-9
    limits = [4 * expected["float32_error_by_group"][r["group"]] + 1e-5 for r in rows]
    assert ((rotated_iou(a.float(), b.float()) - iou).abs() <= torch.tensor(limits)).all()


def test_rotated_iou_is_the_kernels() -> None:
    a, b = random_obbs(4, 40), random_obbs(5, 40)
    expected = torch.from_numpy(np.diagonal(reference_iou(a.numpy(), b.numpy())).copy())
    assert (expected > 0).sum() > 20
    torch.testing.assert_close(rotated_iou(a, b), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(rotated_iou(a.float(), b.float()), expected.float(), rtol=0, atol=1e-4)


def test_an_empty_box_overlaps_nothing() -> None:
    boxes = torch.tensor([[5.0, 5, 0, 4, 0], [5, 5, 4, -1, 0]])
    assert rotated_iou(boxes, boxes).tolist() == [0, 0]
    assert rotated_iou(torch.tensor([[5.0, 5, 4, 4, 0]] * 2), boxes).tolist() == [0, 0]


# -- properties -----------------------------------------------------------------------------------------------


@kinds
def test_zero_at_perfection_however_it_is_written(kind: OrientedLoss) -> None:
    t = random_obbs(6).float()
    assert oriented_loss(kind, t, t).max() < 1e-6
    for same in rewritten(t):
        assert oriented_loss(kind, same, t).max() < 1e-3  # cones: a rounding of 1e-6 radians shows
        assert oriented_loss(kind, t, same).max() < 1e-3


@kinds
def test_only_the_rectangle_counts(kind: OrientedLoss) -> None:
    p, t = random_obbs(7), random_obbs(8)
    expected = oriented_loss(kind, p, t)
    for same in rewritten(p):
        torch.testing.assert_close(oriented_loss(kind, same, t), expected, rtol=1e-6, atol=1e-6)
    for same in rewritten(t):
        torch.testing.assert_close(oriented_loss(kind, p, same), expected, rtol=1e-6, atol=1e-6)


@kinds
def test_scale_place_and_direction_do_not_count(kind: OrientedLoss) -> None:
    p, t = random_obbs(9), random_obbs(10)
    expected = oriented_loss(kind, p, t)
    big = torch.tensor([50.0, 50, 50, 50, 1], dtype=torch.float64)
    torch.testing.assert_close(oriented_loss(kind, p * big, t * big), expected, rtol=1e-6, atol=1e-6)

    def moved(boxes: Tensor) -> Tensor:
        c, s = math.cos(0.7), math.sin(0.7)
        x, y = boxes[:, 0] * c - boxes[:, 1] * s + 900, boxes[:, 0] * s + boxes[:, 1] * c - 333
        return torch.stack([x, y, boxes[:, 2], boxes[:, 3], boxes[:, 4] + 0.7], 1)

    torch.testing.assert_close(oriented_loss(kind, moved(p), moved(t)), expected, rtol=1e-6, atol=1e-6)


@kinds
@given(p=obb, t=obb)
def test_finite_and_not_negative(kind: OrientedLoss, p: tuple[float, ...], t: tuple[float, ...]) -> None:
    pred = torch.tensor([p, t, (*t[:4], t[4] + 1e-7), (t[0] + 1e-6, *t[1:])], requires_grad=True)
    loss = oriented_loss(kind, pred, torch.tensor([t] * 4))
    (slope,) = torch.autograd.grad(loss.sum(), pred)
    assert (loss >= 0).all()
    assert loss.isfinite().all()
    assert slope.isfinite().all()


HARD = (
    (0, 0, 1e-4, 1e-4, 0), (0, 0, 1e4, 1e4, 0.3), (0, 0, 1e4, 1e-4, 0.3), (0, 0, 0, 0, 0), (0, 0, -3, 5, 0),
    (1e4, 1e4, 10, 10, 0), (0, 0, 10, 10, math.pi / 4), (0, 0, 10, 10, 0), (5, 0, 10, 10, 0), (10, 0, 10, 10, 0),
    (0, 0, 10, 10, 1e3), (0, 0, 20, 10, math.pi / 2), (-1e6, 0, 0.1, 3, 2.0),
)  # fmt: skip


@kinds
def test_hard_pairs_have_finite_gradients(kind: OrientedLoss) -> None:
    """Tiny, huge, thin, empty, inverted, square, far apart and touching, each against each."""
    boxes = torch.tensor(HARD)
    pred = boxes.repeat_interleave(len(boxes), 0).requires_grad_()
    loss = oriented_loss(kind, pred, boxes.repeat(len(boxes), 1))
    (slope,) = torch.autograd.grad(loss.sum(), pred)
    assert loss.isfinite().all()
    assert (loss >= 0).all()
    assert slope.isfinite().all()


@kinds
def test_gradient(kind: OrientedLoss) -> None:
    p, t = random_obbs(11, 30), random_obbs(12, 30)
    assert torch.autograd.gradcheck(lambda z: oriented_loss(kind, z, t), p.requires_grad_())


@kinds
def test_worse_costs_more(kind: OrientedLoss) -> None:
    """Ever further away, ever longer, ever more turned (to 80 degrees), from 30 x 12."""
    t = torch.tensor([[50.0, 50, 30, 12, 0.4]])
    for step in ((2.0, 0, 0, 0, 0), (0, 1.5, 0, 0, 0), (0, 0, 6, 0, 0), (0, 0, 0, 2, 0), (0, 0, 0, 0, 0.35)):
        boxes = t + torch.arange(5)[:, None] * torch.tensor(step)
        loss = oriented_loss(kind, boxes, t.expand(5, 5)).tolist()
        assert all(a < b for a, b in pairwise(loss)), step


@kinds
@pytest.mark.parametrize("start", [(52.0, 47, 20, 16, 0.9), (48, 52, 14, 26, 0.4), (51, 51, 40, 9, -0.6)])
def test_descent_arrives(kind: OrientedLoss, start: tuple[float, ...]) -> None:
    """From an overlapping box, whichever side it calls its length, to IoU .95 with a truth of 30 x 12."""
    t = torch.tensor([[50.0, 50, 30, 12, 0.4]])
    scale = torch.tensor([10.0, 10, 10, 10, 1])
    z = (torch.tensor([start]) / scale).requires_grad_()
    optimiser = torch.optim.Adam([z], 0.03)
    for step in range(400):
        for group in optimiser.param_groups:
            group["lr"] = 0.03 * (1 - step / 400)
        optimiser.zero_grad()
        oriented_loss(kind, z * scale, t).sum().backward()
        optimiser.step()
    assert rotated_iou(z.detach() * scale, t).item() > 0.95


@kinds
def test_full_precision_under_autocast_and_no_gradient_for_targets(kind: OrientedLoss) -> None:
    p, t = random_obbs(13).float().requires_grad_(), random_obbs(14).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = oriented_loss(kind, p, t)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, oriented_loss(kind, p, t))
    assert torch.autograd.grad(loss.sum(), [p, t], allow_unused=True)[1] is None


@kinds
def test_no_pairs(kind: OrientedLoss) -> None:
    empty = torch.zeros(0, 5, requires_grad=True)
    assert oriented_loss(kind, empty, torch.zeros(0, 5)).shape == (0,)
    oriented_loss(kind, empty, torch.zeros(0, 5)).sum().backward()


def test_settings_name_the_losses() -> None:
    assert (
        set(get_args(get_type_hints(OrientedHead)["box_loss"])) == set(ORIENTED_LOSSES) == set(get_args(OrientedLoss))
    )


def test_misuse() -> None:
    boxes = torch.zeros(3, 5)
    with pytest.raises(TercelError, match="unknown oriented box loss 'giou'"):
        oriented_loss("giou", boxes, boxes)  # type: ignore[arg-type]
    for call in (probiou, rotated_iou):
        with pytest.raises(TercelError, match=r"\[3, 5\] against \[1, 5\]"):
            call(boxes, boxes[:1])
        with pytest.raises(TercelError, match=r"expected \[P,5\] twice"):
            call(boxes[:, :4], boxes[:, :4])
