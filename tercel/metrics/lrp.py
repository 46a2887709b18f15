"""LRP: one error of localisation, false positives and misses, and the score threshold where it is least. NumPy only.

Oksuz et al., "One Metric to Measure them All: Localisation Recall Precision (LRP)" (2021). Of one class, the detections
with score >= s, matched as COCO does at the overlap tau:

    LRP(s) = (sum over TP of (1 - IoU) / (1 - tau) + FP + FN) / (TP + FP + FN)

oLRP is its minimum over s. Its components hold at that s: localisation = mean 1 - IoU of the TPs, FP = 1 - precision,
FN = 1 - recall. 0 is perfect, 1 is worst. A class in which nothing was found has oLRP 1 and FN 1, and neither of the
other components nor a threshold; the means leave out what is undefined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from tercel.core.finding import Score, TercelError
from tercel.core.objects import Objects
from tercel.metrics.breakdown import plain
from tercel.metrics.match import Bools, Floats, Ints, Matching, match_all
from tercel.metrics.sides import ALL, Analysis, over_cap, partner_iou, pooled, weights_and_draws
from tercel.metrics.stats import BLOCK, Array, interval, mean_over_classes

NAMES = ("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")
CURVE_POINTS = 200


@dataclass(frozen=True, eq=False)
class Lrp(Analysis):
    """The least LRP of each class, and where it is.

    Attributes:
        scores: oLRP, oLRP_Loc, oLRP_FP, oLRP_FN (0 is best) as means over classes, then per class
            (``where["class"]``; ``where["threshold"]`` is the best score threshold, None where nothing was found). Size
            bins other than "all" have ``where["size"]``. `n` = truths that count. Intervals are over pictures; a draw
            chooses its own threshold.
        table: one row per size bin and class: the four, threshold, GT, TP, FP, FN at the threshold.
        curves: per class of the first size bin: LRP against the score threshold, at most 200 points.
    """

    PARTS: ClassVar = ("table", "curves")

    table: list[dict[str, Any]]
    curves: list[dict[str, Any]]


def lrp(
    truth: Sequence[Objects],
    predictions: Sequence[Objects],
    classes: Sequence[str],
    *,
    iou: float = 0.5,
    cap: int | None = 100,
    sizes: Mapping[str, tuple[float, float]] = ALL,
    geometry: str = "",
    resamples: int = 200,
    seed: int = 0,
) -> Lrp:
    """oLRP, its components and the best score threshold of each class.

    Args:
        truth, predictions: one Objects per picture.
        classes: names of the class ids 0..C-1.
        iou: tau, the overlap of a hit, below 1.
        cap: detections kept per picture and class, the highest scores first; None = all.
        sizes: name -> (low, high) px^2 (`match.SIZES` for COCO's); the first is that without ``where["size"]``.
        geometry: "boxes", "oriented", or "" = oriented when both sides hold oriented boxes.
        resamples: bootstrap draws of pictures for the 95 % intervals; 0 = none (NaN).

    Raises:
        TercelError: see `pooled`; iou not within 0..1.
    """
    if not 0 < iou < 1:
        raise TercelError(f"iou = {iou:g} is not between 0 and 1", "LRP divides by 1 - iou; usual is .5")
    _, all_truth, all_pred = pooled(truth, predictions, classes, geometry)
    matchings = {
        n: match_all(all_truth, all_pred, ious=(iou,), sizes={n: bounds}, cap=cap) for n, bounds in sizes.items()
    }
    return lrp_from(matchings, classes, resamples=resamples, seed=seed)


def lrp_from(
    matchings: Matching | Mapping[str, Matching], classes: Sequence[str], *, resamples: int = 200, seed: int = 0
) -> Lrp:
    """As `lrp`, from a matching at hand (`BoxReport.matching`), or from one per size bin: what counts is the first
    threshold and the first size bin of each."""
    named = {"all": matchings} if isinstance(matchings, Matching) else dict(matchings)
    scores: list[Score] = []
    table: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for i, (size, m) in enumerate(named.items()):
        each, rows, bends = _judge(m, classes, resamples, seed)
        where = {"size": size} if i else {}
        n = int(m.countable[0].sum())
        mean = mean_over_classes(each)  # [4,1+R]
        scores += [
            Score(k, float(x[0]), n, *interval(float(x[0]), x[1:]), where) for k, x in zip(NAMES, mean, strict=True)
        ]
        for c, row in enumerate(rows):
            at = {"class": row["class"], **where, "threshold": plain(row["threshold"])}
            for k, x in zip(NAMES, each[:, c], strict=True):
                scores.append(Score(k, float(x[0]), row["GT"], *interval(float(x[0]), x[1:]), at))
            table.append({"size": size, **row})
        curves += [] if i else bends
    first = next(iter(named.values()))
    rule = {"protocol": "lrp", "iou": first.ious[0], "resamples": resamples, "seed": seed}
    return Lrp(scores, over_cap(first, "lrp.cap"), rule, table, curves)


def _judge(
    m: Matching, classes: Sequence[str], resamples: int, seed: int
) -> tuple[Array, list[dict[str, Any]], list[dict[str, Any]]]:
    """The four numbers [4,C,1+R] in the order of `NAMES`, table rows, curves."""
    ones, draws = weights_and_draws(m, resamples, seed)
    iou = partner_iou(m)
    starts = np.searchsorted(m.pred.labels, np.arange(len(classes) + 1))
    out = np.full((4, len(classes), 1 + draws.shape[1]), np.nan)
    table, curves = [], []
    for c, name in enumerate(classes):
        rows = np.arange(starts[c], starts[c + 1])
        rows = rows[~m.spared_at_first[rows]]
        hit, truths = m.hit_at_first[rows], m.truth.picture[m.countable[0] & (m.truth.labels == c)]
        one = _Class(m.pred.picture[rows], hit, np.where(hit, 1 - iou[rows], 0), m.pred.scores[rows], truths,
                     1 - m.ious[0])  # fmt: skip
        if len(truths):
            width = max(8, BLOCK // max(1, len(rows)))
            blocks = [ones, *(draws[:, i : i + width] for i in range(0, draws.shape[1], width))]
            out[:, c] = np.concatenate([one.least(np.ascontiguousarray(w))[0] for w in blocks], axis=1)
            curves.append({"class": name, **one.curve(ones)})
        table.append({"class": name, **dict(zip(NAMES, out[:, c, 0].tolist(), strict=True)), **one.counts(ones)})
    return out, table, curves


@dataclass(frozen=True)
class _Class:
    """The judged detections of one class by falling score, n of them, and the pictures of its truths [G].

    `loss` [n] is 1 - IoU of the hits, 0 of the others; `slack` = 1 - tau.
    """

    picture: Ints
    hit: Bools
    loss: Floats
    score: Floats
    truths: Ints
    slack: float

    @cached_property
    def cuts(self) -> Ints:
        """Where a threshold may lie: it cannot tell equal scores apart, so only behind the last of a run of ties."""
        return np.flatnonzero(np.r_[self.score[1:] != self.score[:-1], True][: len(self.score)])

    def at_cuts(self, weights: Array) -> tuple[Array, Array, Array, Array]:
        """LRP, TP, FP and the sum of 1 - IoU, [cuts,R] each, under weights [I,R]."""
        w, kind = weights[self.picture], weights.dtype
        tp = np.cumsum(w * self.hit[:, None].astype(kind), axis=0)[self.cuts]
        fp = np.cumsum(w, axis=0)[self.cuts] - tp
        loss = np.cumsum(w * self.loss[:, None].astype(kind), axis=0)[self.cuts]
        positives = weights[self.truths].sum(axis=0)
        return (loss / kind.type(self.slack) + fp + positives - tp) / np.maximum(fp + positives, 1), tp, fp, loss

    def least(self, weights: Array) -> tuple[Array, Ints]:
        """oLRP and its components [4,R], and at which cut [R] (-1 without detections)."""
        positives = weights[self.truths].sum(axis=0)
        out = np.full((4, weights.shape[1]), np.nan)
        out[[0, 3]] = 1  # nothing found
        at = np.full(weights.shape[1], -1)
        if len(self.cuts):
            error, tp, fp, loss = self.at_cuts(weights)
            at = error.argmin(axis=0)
            error, tp, fp, loss = (x[at, np.arange(len(at))] for x in (error, tp, fp, loss))
            found = tp > 0
            out[0, found], out[1, found] = error[found], loss[found] / tp[found]
            out[2, found], out[3, found] = fp[found] / (tp + fp)[found], 1 - tp[found] / positives[found]
        out[:, positives == 0] = np.nan
        return out, at

    def counts(self, ones: Array) -> dict[str, float]:
        """The best threshold, and TP, FP, FN there; NaN and nothing found where there is none."""
        truths = len(self.truths)
        values, at = self.least(ones)
        if np.isnan(values[1, 0]):
            return {"threshold": np.nan, "GT": truths, "TP": 0, "FP": 0, "FN": truths}
        last = int(self.cuts[at[0]])
        tp = int(self.hit[: last + 1].sum())
        return {"threshold": float(self.score[last]), "GT": truths, "TP": tp, "FP": last + 1 - tp, "FN": truths - tp}

    def curve(self, ones: Array) -> dict[str, list[float]]:
        """LRP at no more than `CURVE_POINTS` thresholds."""
        error = self.at_cuts(ones)[0][:, 0]
        some = np.unique(np.linspace(0, len(error) - 1, CURVE_POINTS).astype(np.int64)) if len(error) else self.cuts
        return {"score": self.score[self.cuts[some]].tolist(), "LRP": error[some].tolist()}
