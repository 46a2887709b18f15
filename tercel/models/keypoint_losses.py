"""Element-wise losses for named points, in float32 (float64 stays). None of them reduces; targets get no gradient.

Shape legend: P pairs of a prediction and a truth, K points per object, 2 = (x, y) in px.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tercel.core.finding import TercelError
from tercel.models.losses import full_precision, pair, smooth_l1

LEAST_AREA = 1.0  # px^2: the hull of points on one line has none, and a truth of no area has no OKS
NEAR = 0.05  # share of the object's length below which `near_loss` is square


def oks_loss(pred: Tensor, target: Tensor, area: Tensor, sigmas: Tensor) -> Tensor:
    """1 - exp(-d^2 / (2 s k^2)) [P,K] with k = 2 sigma and s the truth's area: one minus the OKS of each point.

    COCO's object keypoint similarity (Lin et al., cocodataset.org, "Keypoint Evaluation") as a loss (Maji et al. 2022,
    "YOLO-Pose"). The founding code had exp(-d^2 / (4 s sigma^2)), which is exp(-d^2 / (s k^2)): twice the exponent of
    the score that it is to raise, as if its sigmas were smaller by sqrt(2).

    Beyond some 4 k sqrt(s) it is 1 and has hardly any gradient: `near_loss` leads home from there.

    Args:
        pred, target: [P,K,2] px.
        area: [P] px^2, of the truth; below 1 it counts as 1.
        sigmas: [K], each > 0.
    """
    _check(pred, target, area)
    with full_precision(pred):
        p, t = pair(pred, target)
        variance = area.clamp_min(LEAST_AREA)[:, None] * (2 * sigmas).square()  # [P,K]
        return -torch.expm1(-(p - t).square().sum(-1) / (2 * variance))


def near_loss(pred: Tensor, target: Tensor, length: Tensor) -> Tensor:
    """Smooth L1 [P,K] of the error as a share of the object's length [P] px, summed over x and y.

    Its slope does not vanish far away, whereas that of the OKS loss does: at the start of a training all points are
    that far. Lengths below 1 px count as 1 px.
    """
    _check(pred, target, length)
    with full_precision(pred):
        p, t = pair(pred, target)
        size = length.clamp_min(1.0)[:, None, None]
        return smooth_l1(p / size, t / size, NEAR).sum(-1)


def _check(pred: Tensor, target: Tensor, per_object: Tensor) -> None:
    fits = pred.ndim == 3 and pred.shape[2:] == (2,) and pred.shape == target.shape
    if not fits or per_object.shape != pred.shape[:1]:
        raise TercelError(
            f"points {[*pred.shape]} against {[*target.shape]} with {[*per_object.shape]}",
            "expected [P,K,2] twice, [P]",
        )
