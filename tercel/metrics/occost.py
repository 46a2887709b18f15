"""OC-cost: what it costs, picture by picture, to correct the detections into the truth.

Otani et al., "Optimal Correction Cost for Object Detection Evaluation" (2022). To turn detection i into truth j costs

    lambda (1 - GIoU) / 2  +  (1 - lambda) c,    c = (1 - score) / 2 in the right class, (1 + score) / 2 in a wrong one

and to delete a detection or to add a truth costs beta each. The cheapest plan is taken; the OC-cost of the picture is
its cost per correction (pairs + deletions + additions), 0 where there is nothing on either side. 0 is perfect; a
picture of deletions and additions alone costs beta. All pictures weigh the same, and every detection does harm whatever
its score: compare detectors at the score threshold at which each would be used.

With beta >= .5 no pair costs more than its deletion and addition, so that as many pairs are made as there can be.

GIoU of axis-aligned boxes takes the smallest box around both, of oriented boxes the smallest convex polygon. Ignored
truths are left out, and so are detections that took one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from tercel.core.finding import Score, TercelError
from tercel.core.geometry import box_area, box_iou, obb_corners
from tercel.core.objects import Objects
from tercel.metrics.match import Floats, Ints, Pool, match_all
from tercel.metrics.sides import ALL, Analysis, over_cap, pooled
from tercel.metrics.stats import interval, picture_weights

PARTS = ("place", "class", "extra", "missing")


@dataclass(frozen=True, eq=False)
class OcCost(Analysis):
    """What correcting costs.

    Attributes:
        scores: ``OC_cost``, the mean over pictures (0 is best), and its parts, which add up to it: ``OC_cost_place``
            and ``OC_cost_class`` of the pairs, ``OC_cost_extra`` of deleted detections, ``OC_cost_missing`` of added
            truths. `n` = pictures. Intervals are over pictures.
        cost: f64 [I], of each picture in the order given.
        parts: f64 [I,4]: place, class, extra, missing. counts: i64 [I,3]: pairs, extra, missing.
    """

    PARTS: ClassVar = ("cost",)

    cost: Floats
    parts: Floats
    counts: Ints


def occost(
    truth: Sequence[Objects],
    predictions: Sequence[Objects],
    classes: Sequence[str],
    *,
    lambda_: float = 0.5,
    beta: float = 0.6,
    score: float = 0.0,
    iou: float = 0.5,
    cap: int | None = 100,
    geometry: str = "",
    resamples: int = 1000,
    seed: int = 0,
) -> OcCost:
    """Mean optimal correction cost over the pictures.

    Args:
        truth, predictions: one Objects per picture.
        classes: names of the class ids 0..C-1.
        lambda_: weight of the place against the class, 0..1. beta: cost of a deletion or an addition, 0..1. The
            defaults are the paper's.
        score: detections below it are left out.
        iou: share of a detection that lies in an ignored truth, from which on it is left out (COCO's matching).
        cap: detections kept per picture and class, the highest scores first; None = all.
        geometry: "boxes", "oriented", or "" = oriented when both sides hold oriented boxes.
        resamples: bootstrap draws of pictures for the 95 % intervals; 0 = none (NaN).

    Raises:
        TercelError: see `pooled`; a weight or cost outside 0..1.
    """
    if not (0 <= lambda_ <= 1 and 0 <= beta <= 1):
        raise TercelError(f"lambda_ = {lambda_:g}, beta = {beta:g}: not within 0..1", "the paper takes .5 and .6")
    kind, all_truth, all_pred = pooled(truth, predictions, classes, geometry)
    m = match_all(all_truth, all_pred, ious=(iou,), sizes=ALL, cap=cap)
    pred = m.pred.take(np.flatnonzero(~m.spared_at_first & (m.pred.scores >= score)))
    real = m.truth.take(np.flatnonzero(m.countable[0]))
    parts, counts = np.zeros((len(truth), 4)), np.zeros((len(truth), 3), np.int64)
    sides = [_by_picture(pool) for pool in (pred, real)]
    for i, (p, t) in enumerate(zip(*sides, strict=True)):
        parts[i], counts[i] = _correct(p, t, lambda_, beta)
    cost = parts.sum(axis=1)
    weights = picture_weights(len(truth), resamples if len(truth) > 1 else 0, seed, np.float64)
    columns = {"OC_cost": cost, **{f"OC_cost_{n}": x for n, x in zip(PARTS, parts.T, strict=True)}}
    scores = []
    for name, x in columns.items():
        drawn = x @ weights / len(x) if len(x) else np.full(weights.shape[1], np.nan)
        scores.append(Score(name, float(drawn[0]), len(x), *interval(float(drawn[0]), drawn[1:])))
    rule = {"protocol": "oc-cost", "geometry": kind, "lambda": lambda_, "beta": beta, "score": score, "iou": iou,
            "resamples": resamples, "seed": seed}  # fmt: skip
    return OcCost(scores, over_cap(m, "occost.cap"), rule, cost, parts, counts)


def _by_picture(pool: Pool) -> list[Pool]:
    order = np.argsort(pool.picture, kind="stable")
    ends = np.searchsorted(pool.picture[order], np.arange(1, pool.pictures))
    return [pool.take(rows) for rows in np.split(order, ends)][: pool.pictures]


def _correct(pred: Pool, truth: Pool, lambda_: float, beta: float) -> tuple[Floats, Ints]:
    """Parts [4] of one picture's OC-cost, and its pairs, deletions and additions [3].

    The paper's transport with a dummy on either side is an assignment: a pair that costs less than 2 beta saves the
    difference, and the plan saves as much as it can.
    """
    from scipy.optimize import linear_sum_assignment

    if not len(pred) and not len(truth):
        return np.zeros(4), np.zeros(3, np.int64)
    place = lambda_ * (1 - _giou(pred, truth)) / 2
    same = pred.labels[:, None] == truth.labels[None, :]
    named = (1 - lambda_) * (1 + np.where(same, -1, 1) * pred.scores[:, None]) / 2
    saved = np.maximum(2 * beta - place - named, 0)
    i, j = linear_sum_assignment(saved, maximize=True)
    i, j = i[saved[i, j] > 0], j[saved[i, j] > 0]
    counts = np.array([len(i), len(pred) - len(i), len(truth) - len(i)])
    parts = np.array([place[i, j].sum(), named[i, j].sum(), beta * counts[1], beta * counts[2]])
    return parts / counts.sum(), counts


def _giou(pred: Pool, truth: Pool) -> Floats:
    """Generalised IoU [D,G] (Rezatofighi et al. 2019): IoU less the share of the shape around both that is empty."""
    if pred.obbs is None or truth.obbs is None:
        iou = np.asarray(box_iou(pred.boxes, truth.boxes), np.float64)
        areas = np.asarray(box_area(pred.boxes))[:, None] + np.asarray(box_area(truth.boxes))
        low = np.minimum(pred.boxes[:, None, :2], truth.boxes[None, :, :2])
        high = np.maximum(pred.boxes[:, None, 2:], truth.boxes[None, :, 2:])
        around = (high - low).prod(axis=-1)
    else:
        from tercel.core.rotated import obb_iou

        iou = obb_iou(pred.obbs, truth.obbs)
        areas = pred.obbs[:, 2:4].prod(axis=1)[:, None] + truth.obbs[:, 2:4].prod(axis=1)
        around = _hull_areas()(obb_corners(pred.obbs), obb_corners(truth.obbs))
    union = areas / (1 + iou)
    out: Floats = iou - np.divide(around - union, around, out=np.zeros_like(around), where=around > 0)
    return out


@cache
def _hull_areas() -> Any:
    """A compiled function: areas [N,M] of the convex polygons around corners [N,4,2] and [M,4,2]."""
    from numba import njit

    @njit(cache=True, nogil=True)
    def areas(a: Floats, b: Floats) -> Floats:
        out = np.empty((len(a), len(b)))
        points, chain = np.empty((8, 2)), np.empty((9, 2))
        for i in range(len(a)):
            for j in range(len(b)):
                # Andrew's monotone chain about a corner of the first box: far from the origin digits would be lost.
                for k in range(8):
                    x = (a[i, k, 0] if k < 4 else b[j, k - 4, 0]) - a[i, 0, 0]
                    y = (a[i, k, 1] if k < 4 else b[j, k - 4, 1]) - a[i, 0, 1]
                    n = k
                    while n > 0 and (points[n - 1, 0] > x or (points[n - 1, 0] == x and points[n - 1, 1] > y)):
                        points[n] = points[n - 1]
                        n -= 1
                    points[n, 0], points[n, 1] = x, y
                total = 0.0
                for side in range(2):  # below from left to right, then above from right to left
                    size = 0
                    for k in range(8):
                        x, y = points[k if side == 0 else 7 - k]
                        while size >= 2 and (chain[size - 1, 0] - chain[size - 2, 0]) * (y - chain[size - 2, 1]) <= (
                            chain[size - 1, 1] - chain[size - 2, 1]
                        ) * (x - chain[size - 2, 0]):
                            size -= 1
                        chain[size, 0], chain[size, 1] = x, y
                        size += 1
                    for k in range(size - 1):
                        total += chain[k, 0] * chain[k + 1, 1] - chain[k + 1, 0] * chain[k, 1]
                out[i, j] = total / 2
        return out

    return areas
