"""Element-wise losses for balls: heatmaps from logits, places within a cell.

The rules of losses.py hold here too: nothing reduces, all in float32 (float64 stays), >= 0, 0 at perfection, targets
without gradient. Probabilities come from logits and are never clamped, so no loss has a ceiling.

Shape legend: ... any shape, the same for both arguments; 2 = (x, y).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tercel.models.losses import full_precision, pair, power, quality_focal

WING_OMEGA, WING_THETA, WING_EPSILON, WING_ALPHA = 14.0, 0.5, 1.0, 2.1


def penalty_focal(logits: Tensor, target: Tensor) -> Tensor:
    """CornerNet's focal loss (Law and Deng 2018, eq. 1; alpha 2, beta 4).

    -(1 - p)^2 log p where the target is 1, -(1 - t)^4 p^2 log(1 - p) elsewhere: only the peak is wanted, and cells near
    it are cheap. Perfect is 1 at the peaks and 0 elsewhere, whatever the target's slope.
    """
    with full_precision(logits):
        x, t = pair(logits, target)
        p = x.sigmoid()
        peak = (1 - p).square() * F.softplus(-x)
        rest = power(1 - t, 4) * p.square() * F.softplus(x)
        return torch.where(t == 1, peak, rest)


def adaptive_wing(logits: Tensor, target: Tensor) -> Tensor:
    """Adaptive wing loss (Wang et al. 2019, eq. 3) of p = sigmoid(logits), d = |t - p|.

    omega ln(1 + (d / epsilon)^(alpha - t)) where d < theta, else a line A d - C that continues it with the same value
    and slope; omega 14, theta .5, epsilon 1, alpha 2.1. Their extra weights around the peak are not part of it.
    """
    with full_precision(logits):
        x, t = pair(logits, target)
        d = (t - x.sigmoid()).abs()
        e = WING_ALPHA - t
        near = WING_OMEGA * torch.log1p(power(d / WING_EPSILON, e))
        bend = (WING_THETA / WING_EPSILON) ** e
        slope = WING_OMEGA / (1 + bend) * e * (WING_THETA / WING_EPSILON) ** (e - 1) / WING_EPSILON
        far = slope * (d - WING_THETA) + WING_OMEGA * torch.log1p(bend)
        return torch.where(d < WING_THETA, near, far)


def weighted_bce(logits: Tensor, target: Tensor) -> Tensor:
    """TrackNetV2's weighted cross entropy, -(1 - p)^2 t log p - p^2 (1 - t) log(1 - p) for targets 0 and 1.

    Between them |t - p|^2 CE(p, t), which is 0 at p = t; the published form is not.
    """
    return quality_focal(logits, target, 2.0)


HEATMAP_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "focal": penalty_focal,
    "adaptive_wing": adaptive_wing,
    "weighted_bce": weighted_bce,
}
"""The names of `BallHeatmap.loss`: (logits [...], target [...] in 0..1) -> loss [...]."""


def squared(pred: Tensor, target: Tensor) -> Tensor:
    """(pred - target)^2 [...]."""
    with full_precision(pred):
        p, t = pair(pred, target)
        return (p - t).square()


def gaussian_iou(pred: Tensor, target: Tensor, sigma: float = 0.7) -> Tensor:
    """1 - exp(-d^2 / (2 sigma^2)) [N] of places [N,2] at distance d, sigma in the unit of the places.

    Beyond about five sigma it is 1 and has hardly any gradient: a place that far off does not find home by it alone.
    """
    with full_precision(pred):
        p, t = pair(pred, target)
        return -torch.expm1(-(p - t).square().sum(-1) / (2 * sigma**2))


# -- targets --------------------------------------------------------------------------------------------------------


def gaussian(distance: Tensor, width: float) -> Tensor:
    """exp(-4 ln 2 d^2 / width^2) [...]: 1 at d = 0, one half at d = width / 2 (full width at half maximum)."""
    return torch.exp(distance.square() * (-4 * math.log(2) / width**2))


def event_target(distance: Tensor, reach: int) -> Tensor:
    """cos(n pi / (2 reach)) [...] for a frame n frames away from an event, 0 from .01 downwards and beyond the reach.

    TTNet (Voeikov et al. 2020) has reach 4: cos(n pi / 8).
    """
    value = torch.cos(distance * (math.pi / (2 * reach)))
    return torch.where((distance.abs() < reach) & (value >= 0.01), value, 0.0)
