"""Is the IoU that a detector expects of its own boxes the one they have? Reliability of a localisation-quality branch.

Judged are detections that take a truth of their class at an IoU of `FOUND` under the COCO rule: the branch says how
well a box lies on an object, and learns nothing of boxes that lie on none. Shape legend: P such pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Score
from tercel.core.objects import Objects
from tercel.metrics.breakdown import plain
from tercel.metrics.match import match_all
from tercel.metrics.sides import ALL, partner_iou, pooled, weights_and_draws

FOUND = 0.1
BINS = 10


@dataclass(frozen=True, eq=False)
class QualityReliability:
    """What was expected against what came out.

    Attributes:
        scores: ``quality_bias``, the mean of expected minus actual IoU; ``quality_error``, the mean of its size;
            ``quality_rank``, Spearman's correlation of both (1: ranking by it is ranking by IoU). `n` = P. Intervals
            are over pictures.
        bins: per bin of the expected IoU: low, high, n, confidence (mean expected IoU), precision (mean actual IoU).
        rule: what was computed; `unmatched` counts the detections that lie on no truth.
    """

    scores: list[Score]
    bins: list[dict[str, Any]]
    rule: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": [s.to_json() for s in self.scores],
            "bins": [{k: plain(v) for k, v in row.items()} for row in self.bins],
            "rule": self.rule,
        }


def quality_reliability(
    truth: Sequence[Objects],
    predictions: Sequence[Objects],
    classes: Sequence[str],
    *,
    cap: int | None = 100,
    geometry: str = "",
    resamples: int = 200,
    seed: int = 0,
) -> QualityReliability | None:
    """Compare `Objects.quality` with the IoU of each detection and its truth; None where no detection states one.

    Args:
        truth, predictions: one Objects per picture.
        cap: detections kept per picture and class, the highest scores first; None = all.

    Raises:
        TercelError: see `sides.pooled`.
    """
    if all(p.quality is None for p in predictions if len(p)):
        return None
    kind, all_truth, all_pred = pooled(truth, predictions, classes, geometry)
    m = match_all(all_truth, all_pred, ious=(FOUND,), sizes=ALL, cap=cap)
    found = np.flatnonzero(m.hit_at_first)
    pool, actual = m.pred.take(found), partner_iou(m)[found]
    said = np.full(len(pool), np.nan)
    for picture, p in enumerate(predictions):
        mine = pool.picture == picture
        if p.quality is not None and mine.any():
            said[mine] = p.quality[pool.row[mine]]
    known = np.isfinite(said)
    said, actual, picture_of = said[known], actual[known], pool.picture[known]
    _, draws = weights_and_draws(m, resamples, seed)
    weights = draws[picture_of].astype(np.float64)
    weights = weights[:, weights.sum(axis=0) > 0]
    off = said - actual
    scores = [_mean("quality_bias", off, weights), _mean("quality_error", np.abs(off), weights)]
    scores.append(Score("quality_rank", _spearman(said, actual), len(said)))
    rule = {"geometry": kind, "found": FOUND, "max_detections": cap, "resamples": resamples, "seed": seed,
            "unmatched": int((~m.hit_at_first & ~m.spared_at_first).sum())}  # fmt: skip
    return QualityReliability(scores, _bins(said, actual), rule)


def _mean(name: str, x: NDArray[np.float64], weights: NDArray[np.float64]) -> Score:
    """The mean of x [P], with the middle 95 % of what it is under drawn pictures, weights [P,R]."""
    if not len(x):
        return Score(name, math.nan, 0)
    drawn = x @ weights / weights.sum(axis=0)
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist() if len(drawn) else (math.nan, math.nan)
    return Score(name, float(x.mean()), len(x), low, high)


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Correlation of the ranks; NaN where one side does not vary."""
    from scipy.stats import rankdata

    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return math.nan
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _bins(said: NDArray[np.float64], actual: NDArray[np.float64]) -> list[dict[str, Any]]:
    at = np.minimum((said * BINS).astype(np.int64), BINS - 1)
    n = np.bincount(at, minlength=BINS)
    sums = [np.bincount(at, x, minlength=BINS) for x in (said, actual)]
    means = [np.divide(x, n, out=np.full(BINS, np.nan), where=n > 0).tolist() for x in sums]
    return [
        {"low": b / BINS, "high": (b + 1) / BINS, "n": int(n[b]), "confidence": c, "precision": p}
        for b, (c, p) in enumerate(zip(*means, strict=True))
    ]
