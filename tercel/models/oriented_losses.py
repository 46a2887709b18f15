"""Losses and overlaps of pairs of oriented boxes, element-wise, in float32 (float64 stays). None of them reduces.

Boxes are (cx, cy, length, width, theta), px and radians clockwise on screen. Any theta will do and the sides come in
any order: every function depends on the rectangle only, so a box turned by half a turn, or by a quarter with its sides
swapped, costs the same. Sides count as TINY px at least. Targets get no gradient; gradients are finite everywhere.

Four of the losses read a box as a Gaussian: the centre is its mean, the axes are those of its covariance. They are
written here in the truth's axes, with every difference taken before it is squared, so that nothing cancels in float32
and identical boxes give exactly 0.

Shape legend: P pairs; 5 = oriented box.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tercel.core.finding import TercelError
from tercel.models.losses import SIDE, TINY, full_precision, pair, smooth_l1

OrientedLoss = Literal["probiou", "kld", "gwd", "kfiou", "rotated_iou", "smooth_l1"]
ORIENTED_LOSSES: tuple[OrientedLoss, ...] = ("probiou", "kld", "gwd", "kfiou", "rotated_iou", "smooth_l1")
SOFT = 1e-5  # square roots are taken of x + SOFT^2, less SOFT: 0 at 0, and no slope beyond 1 / (2 SOFT)
STEP = 1e-12  # an edge shorter than this, in sides of the truth, counts as a point


def oriented_loss(kind: OrientedLoss, pred: Tensor, target: Tensor) -> Tensor:
    """Loss [P] of predicted oriented boxes [P,5] against truth [P,5].

    - probiou: the Hellinger distance of the Gaussians with the boxes' own covariance, side^2 / 12 (Murrugarra-Llerena
      et al. 2022, "Probabilistic Intersection-over-Union for Training and Evaluation of Oriented Object Detectors",
      L1). In 0..1; nearly flat where boxes are far apart.
    - kld: f / (1 + f), f = ln(1 + sqrt(KL(pred || truth))), covariance side^2 / 4 (Yang et al. 2021, "Learning
      High-Precision Bounding Box for Rotated Object Detection via Kullback-Leibler Divergence"). In 0..1.
    - gwd: f / (1 + f), f = ln(1 + d / sqrt(area of the truth)), d the Wasserstein distance, covariance side^2 / 4 (Yang
      et al. 2021, "Rethinking Rotated Object Detection with Gaussian Wasserstein Distance Loss"). In 0..1. Divided by
      the truth's size only, so that growing never pays.
    - kfiou: 1 - 3 KFIoU + ln(1 + squared Mahalanobis distance of the centres) (Yang et al. 2023, "The KFIoU Loss for
      Rotated Object Detection"; KFIoU, which does not know the centres, is 1/3 at most).
    - rotated_iou: 1 - IoU. Boxes apart get no gradient; an empty box has IoU 0, also with itself.
    - smooth_l1: the sum of smooth L1 (beta 0.1) of the errors of the centre along and across the truth and of its
      length and width, as shares of those, and of the angle in radians; of the two ways to write the predicted
      rectangle (sides as they are, or swapped with a quarter turn) the cheaper one counts. Truths narrower than 1 px
      count as 1 px.

    Raises:
        TercelError: an unknown kind, or shapes other than [P,5] twice.
    """
    _check(pred, target)
    with full_precision(pred):
        p, t = pair(pred, target)
        if kind == "probiou":
            return _root(-torch.expm1(-_bhattacharyya(_compare(p, t))))
        if kind == "rotated_iou":
            return (1 - _clipped_iou(p, t)).clamp_min(0)
        if kind == "smooth_l1":
            return _smooth(p, t)
        if kind == "kld":
            return _bounded(_root(_divergence(_compare(p, t))))
        if kind == "gwd":
            c = _compare(p, t)
            return _bounded(_root(_wasserstein(c) / (c.length * c.width)))
        if kind == "kfiou":
            return _kalman(_compare(p, t))
    raise TercelError(f"unknown oriented box loss {kind!r}", f"use {', '.join(ORIENTED_LOSSES)}")


def probiou(pred: Tensor, target: Tensor) -> Tensor:
    """Similarity [P] in 0..1 of pairs of oriented boxes [P,5], twice: 1 - Hellinger distance; 1 for equal boxes.

    Source: Murrugarra-Llerena et al. 2022. Not an IoU, but it ranks much like one, and is never exactly 0 unless the
    boxes are far apart.
    """
    _check(pred, target)
    with full_precision(pred):
        b = _bhattacharyya(_compare(*pair(pred, target)))
        return (-b).exp() / (1 + _root(-torch.expm1(-b)))  # 1 - H = (1 - H^2) / (1 + H)


def rotated_iou(pred: Tensor, target: Tensor) -> Tensor:
    """Exact IoU [P] in 0..1 of pairs of oriented boxes [P,5], with a gradient for `pred`.

    In the axes of the truth, scaled so that it becomes the square [-1, 1]^2, the common area is the integral along the
    predicted box's outline of y, held within -1..1, over the part with x within -1..1. Each edge has it in closed form,
    so no polygon is built, sorted or closed, and coinciding edges are no special case. A box with a side of 0 px or
    less has IoU 0, also with itself.
    """
    _check(pred, target)
    with full_precision(pred):
        return _clipped_iou(*pair(pred, target))


# -- pairs of boxes as Gaussians ------------------------------------------------------------------------------


class _Compared(NamedTuple):
    """Predicted box against truth, long side first in both; px, each [P]."""

    long: Tensor  # of the prediction
    short: Tensor
    length: Tensor  # of the truth
    width: Tensor
    sin2: Tensor  # squared sine of the angle between the two directions
    cos2: Tensor
    along: Tensor  # from the truth's centre to the predicted one, in the truth's axes
    across: Tensor
    ahead: Tensor  # the same in the prediction's axes
    beside: Tensor


def _compare(p: Tensor, t: Tensor) -> _Compared:
    sides, truth = p[:, 2:4].clamp_min(TINY), t[:, 2:4].clamp_min(TINY)
    turned = sides[:, 1] > sides[:, 0]
    long, short = sides.amax(1), sides.amin(1)
    stood = truth[:, 1] > truth[:, 0]
    offset = p[:, :2] - t[:, :2]
    direction = _quarter(t[:, 4], stood)
    own = _quarter(p[:, 4], turned)
    along, across = _in_axes(offset, *direction)
    ahead, beside = _in_axes(offset, *own)
    cos, sin = _quarter(p[:, 4] - t[:, 4], turned != stood)
    return _Compared(
        long, short, truth.amax(1), truth.amin(1), sin.square(), cos.square(), along, across, ahead, beside
    )


def _quarter(theta: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
    """(cos, sin) of theta, or of theta plus a quarter turn where `turned`."""
    c, s = theta.cos(), theta.sin()
    return torch.where(turned, -s, c), torch.where(turned, c, s)


def _in_axes(offset: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    x, y = offset.unbind(1)
    return x * cos + y * sin, y * cos - x * sin


def _spread(c: _Compared) -> Tensor:
    """q [P] >= 0: det(S1 + S2) = 4 sqrt(det S1 det S2) (1 + q) for covariances S of sides squared; 0 for equal ones."""
    u = (c.long - c.length).square() / (2 * c.long * c.length)
    v = (c.short - c.width).square() / (2 * c.short * c.width)
    turn = (c.long / c.short - c.short / c.long) * (c.length / c.width - c.width / c.length) * c.sin2 / 4
    return u + v + u * v + turn


def _bhattacharyya(c: _Compared) -> Tensor:
    """Distance [P] of the Gaussians with variances side^2 / 12: d' (S1 + S2)^-1 d / 4 + ln(1 + q) / 2."""
    q = _spread(c)
    moved = (c.width * c.along).square() + (c.length * c.across).square()
    moved = moved + (c.short * c.ahead).square() + (c.long * c.beside).square()
    return 0.75 * moved / (c.long * c.short * c.length * c.width * (1 + q)) + torch.log1p(q) / 2


def _divergence(c: _Compared) -> Tensor:
    """KL(pred || truth) [P], variances side^2 / 4."""

    def excess(a: Tensor, b: Tensor) -> Tensor:
        """x - 1 - ln x of x = (a / b)^2."""
        more = (a - b) * (a + b) / b.square()
        near = more.abs() < 0.5
        log = torch.where(near, torch.log1p(torch.where(near, more, 0.0)), 2 * (a.log() - b.log()))
        return (more - log).clamp_min(0)

    turn = (c.long / c.width).square() - (c.short / c.width).square()
    turn = turn * (1 - (c.width / c.length).square()) * c.sin2
    return (_mahalanobis(c) + excess(c.long, c.length) + excess(c.short, c.width) + turn) / 2


def _mahalanobis(c: _Compared) -> Tensor:
    return 4 * ((c.along / c.length).square() + (c.across / c.width).square())


def _wasserstein(c: _Compared) -> Tensor:
    """Squared Wasserstein distance [P] in px^2, variances side^2 / 4.

    |d|^2 + Tr S1 + Tr S2 - 2 sqrt(Tr S1 S2 + 2 sqrt(det S1 det S2)), of 2 x 2 matrices, with the squares completed.
    """
    same, swapped = c.long * c.length + c.short * c.width, c.long * c.width + c.short * c.length
    root = (same.square() * c.cos2 + swapped.square() * c.sin2).sqrt()
    bent = (c.long - c.short) * (c.long + c.short) * (c.length - c.width) * (c.length + c.width) * c.sin2
    sides = (c.long - c.length).square() + (c.short - c.width).square() + 2 * bent / (same + root)
    return c.along.square() + c.across.square() + sides / 4


def _kalman(c: _Compared) -> Tensor:
    """1 - 3 KFIoU + ln(1 + Mahalanobis^2): areas a, b and the common one k = sqrt(a b) / (2 sqrt(1 + q))."""
    a, b, grown = c.long * c.short, c.length * c.width, (1 + _spread(c)).sqrt()
    mean = (a * b).sqrt()
    less = 2 * mean * _spread(c) / (grown * (grown + 1)) + (a.sqrt() - b.sqrt()).square()
    return less / (a + b - mean / (2 * grown)) + torch.log1p(_mahalanobis(c))


def _root(x: Tensor) -> Tensor:
    """sqrt(x) of x >= 0 without the infinite slope at 0; too low by SOFT at most."""
    return x / ((x + SOFT**2).sqrt() + SOFT)


def _bounded(distance: Tensor) -> Tensor:
    """1 - 1 / (1 + f), f = ln(1 + distance): the authors' tau = 1."""
    f = torch.log1p(distance)
    return f / (1 + f)


# -- exact overlap --------------------------------------------------------------------------------------------


def _clipped_iou(p: Tensor, t: Tensor) -> Tensor:
    sides, truth = p[:, 2:4].clamp_min(TINY), t[:, 2:4].clamp_min(TINY)
    centre = torch.stack(_in_axes(p[:, :2] - t[:, :2], t[:, 4].cos(), t[:, 4].sin()), 1)
    cos, sin = (p[:, 4] - t[:, 4]).cos(), (p[:, 4] - t[:, 4]).sin()
    ahead, beside = torch.stack([cos, sin], 1) * sides[:, :1], torch.stack([-sin, cos], 1) * sides[:, 1:]
    turns = p.new_tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])  # clockwise on screen
    corners = 2 * centre[:, None] + turns[:, :1] * ahead[:, None] + turns[:, 1:] * beside[:, None]
    corners = corners / truth[:, None]  # [P,4,2], the truth is [-1, 1]^2
    start, end = corners, corners.roll(-1, 1)
    step = (end - start).unbind(-1)
    x0, x1 = start[..., 0].clamp(-1, 1), end[..., 0].clamp(-1, 1)
    run = torch.where(step[0].abs() <= STEP, 1.0, step[0])  # no x, no area: whatever y
    y0 = start[..., 1] + step[1] * ((x0 - start[..., 0]) / run).clamp(0, 1)
    y1 = start[..., 1] + step[1] * ((x1 - start[..., 0]) / run).clamp(0, 1)
    area = ((x0 - x1) * _mean_held(y0, y1)).sum(1)
    common = area.clamp_min(0) * truth.prod(1) / 4
    common = torch.minimum(common, torch.minimum(sides.prod(1), truth.prod(1)))
    some = (p[:, 2:4] > 0).all(1) & (t[:, 2:4] > 0).all(1)
    return torch.where(some, common / (sides.prod(1) + truth.prod(1) - common), 0.0)


def _mean_held(y0: Tensor, y1: Tensor) -> Tensor:
    """Mean of y held within -1..1, for y that runs evenly from y0 to y1 (any shape)."""
    a, b, run = y0.clamp(-1, 1), y1.clamp(-1, 1), y1 - y0
    still = run.abs() <= STEP
    run = torch.where(still, 1.0, run)
    early, late = (a - y0) / run, (y1 - b) / run  # shares of the way before and after the middle
    lean = torch.where(still, 0.0, late - early)
    return (a + b) / 2 + lean * (b - a) / 2


# -- smooth L1 ------------------------------------------------------------------------------------------------


def _smooth(p: Tensor, t: Tensor) -> Tensor:
    size = t[:, 2:4].clamp_min(SIDE)
    centre = torch.stack(_in_axes(p[:, :2] - t[:, :2], t[:, 4].cos(), t[:, 4].sin()), 1) / size
    apart = smooth_l1(centre, torch.zeros_like(centre), 0.1).sum(1)

    def shape(sides: Tensor, theta: Tensor) -> Tensor:
        turn = theta - t[:, 4]
        turn = turn - math.pi * (turn / math.pi).detach().round()
        sides_off = smooth_l1(sides / size, t[:, 2:4] / size, 0.1).sum(1)
        return sides_off + smooth_l1(turn, torch.zeros_like(turn), 0.1)

    swapped = shape(p[:, [3, 2]], p[:, 4] + math.pi / 2)
    return apart + torch.minimum(shape(p[:, 2:4], p[:, 4]), swapped)


def _check(pred: Tensor, target: Tensor) -> None:
    if pred.ndim != 2 or pred.shape[1:] != (5,) or pred.shape != target.shape:
        raise TercelError(f"oriented boxes {[*pred.shape]} against {[*target.shape]}", "expected [P,5] twice")
