"""Calibrating scores: does 0.8 mean that 8 of 10 are right? Reliability diagram, ECE, temperature, isotonic map.

A detection is right when it takes a truth under the COCO rule at one IoU (.5); one that takes an ignore region is left
out. Expected calibration error: the mean over bins of equal width of |share right - mean score|, by the bins' shares of
the detections (Naeini et al. 2015, Guo et al. 2017; for detectors Kueppers et al. 2020). The errors after calibration
are cross-fitted: each picture's scores are mapped by a fit on the other folds of pictures. NumPy and SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tercel.core.calibration import Calibration, map_scores
from tercel.core.finding import Finding, Score, Severity, TercelError
from tercel.core.objects import Objects
from tercel.metrics.ap import MAX_DETECTIONS
from tercel.metrics.breakdown import plain
from tercel.metrics.compare import EVERY, pools
from tercel.metrics.match import match_all
from tercel.metrics.stats import Array, interval, picture_weights

Floats = NDArray[np.float64]
Method = Literal["", "none", "temperature", "isotonic"]
METHODS: tuple[Method, ...] = ("none", "temperature", "isotonic")

BINS = 15
FLOOR = 0.05  # thousands of detections near 0 are all right about being wrong, and would hide the others
_FOLDS = 5
_KNOTS = 100


@dataclass(frozen=True, eq=False)
class ScoreCalibration:
    """The map that fits best, and how far scores lie from shares before and after.

    Attributes:
        calibration: temperature or knots of the chosen method (boxes are untouched).
        method: "temperature", "isotonic", or "none" when neither lowers the cross-fitted Brier score.
        scores: ECE and Brier with ``where["scores"]`` "as given", "temperature", "isotonic" (the latter cross-fitted);
            `n` counts detections. Intervals are over pictures.
        bins: the reliability diagram: one row per kind of scores and bin: low, high, n, confidence (mean score),
            precision (share right).
        findings: what to bear in mind. rule: what was computed.
    """

    calibration: Calibration
    method: Method
    scores: list[Score]
    bins: list[dict[str, Any]]
    findings: list[Finding]
    rule: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "scores": [s.to_json() for s in self.scores],
            "bins": [{k: plain(v) for k, v in row.items()} for row in self.bins],
            "rule": self.rule,
        }


def fit_scores(
    truth: Sequence[Objects],
    pred: Sequence[Objects],
    *,
    geometry: str = "",
    method: Method = "",
    iou: float = 0.5,
    floor: float = FLOOR,
    cap: int = MAX_DETECTIONS[-1],
    resamples: int = 200,
    seed: int = 0,
) -> ScoreCalibration:
    """Fit a map from scores to the share of detections that are right.

    Args:
        truth, pred: one Objects per picture of the validation data; boxes already calibrated, scores not.
        method: "temperature" (one number, keeps the shape), "isotonic" (any rising map), "none", or "" = whichever has
            the lowest cross-fitted Brier score.
        iou: overlap at which a detection is right. floor: lowest score that ECE, Brier and the diagram count; the fit
            uses all.

    Raises:
        TercelError: as `compare.pools`; an unknown method; no detection.
    """
    if method not in ("", *METHODS):
        raise TercelError(f"method {method!r} is not one of {', '.join(METHODS)}", "choose one of them")
    kind, (all_truth, all_pred) = pools(truth, pred, geometry=geometry)
    m = match_all(all_truth, all_pred, ious=(iou,), sizes=EVERY, cap=cap)
    judged = ~m.spared_at_first
    score, right, picture = m.pred.scores[judged], m.hit_at_first[judged], m.pred.picture[judged]
    if not len(score):
        raise TercelError("there is no detection to calibrate scores on", "give what the detector found")
    fits = {"temperature": fit_temperature(score, right), "isotonic": fit_isotonic(score, right)}
    crossed = {"as given": score} | _cross_fitted(score, right, picture, len(truth), seed)
    weights = picture_weights(len(truth), resamples, seed, np.float64)
    kept = score >= floor
    scores, bins = [], []
    brier = {}
    for name, p in crossed.items():
        ece, squared, rows = _errors(score[kept], p[kept], right[kept], picture[kept], weights)
        brier[name] = float(squared[0])
        for what, x in (("ECE", ece), ("Brier", squared)):
            low, high = interval(float(x[0]), x[1:])
            scores.append(Score(what, float(x[0]), int(kept.sum()), low, high, {"scores": name}))
        bins += [{"scores": name, **row} for row in rows]
    best = min(brier, key=lambda k: (brier[k], k != "as given")) if kept.any() else "as given"
    chosen: Method = method or ("none" if best == "as given" else best)  # type: ignore[assignment]
    return ScoreCalibration(
        fits.get(chosen, Calibration()), chosen, scores, bins, _findings(right),
        {"geometry": kind, "iou": iou, "floor": floor, "bins": BINS, "folds": _FOLDS, "max_detections": cap,
         "resamples": resamples, "seed": seed},
    )  # fmt: skip


def fit_temperature(score: Floats, right: NDArray[np.bool_]) -> Calibration:
    """The temperature under which what came out, bool [n], is most likely given the scores [n] (Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar

    if right.all() or not right.any():
        return Calibration()  # the best temperature would be 0 or infinite

    def loss(log_t: float) -> float:
        p = np.clip(map_scores(score, Calibration(temperature=math.exp(log_t))), 1e-9, 1 - 1e-9)
        return float(-np.where(right, np.log(p), np.log1p(-p)).mean())

    found = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-4})
    return Calibration(temperature=math.exp(float(found.x)))


def fit_isotonic(score: Floats, right: NDArray[np.bool_]) -> Calibration:
    """The rising steps nearest to what came out (pool adjacent violators), as at most 100 knots at the middles of the
    steps, with straight lines between them."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(score, kind="stable")
    x, first, count = np.unique(score[order], return_index=True, return_counts=True)
    share = np.add.reduceat(right[order].astype(np.float64), first) / count
    y = isotonic_regression(share, weights=count).x
    step = np.cumsum(np.r_[0, np.diff(y) > 1e-12])
    weight = np.bincount(step, count)
    middle, height = np.bincount(step, count * x) / weight, np.bincount(step, count * y) / weight
    if len(middle) > _KNOTS:
        kept = np.unique(np.linspace(0, len(middle) - 1, _KNOTS).round().astype(np.int64))
        middle, height = middle[kept], height[kept]
    height = np.clip(np.maximum.accumulate(height), 0, 1)
    return Calibration(knots=tuple(zip(middle.tolist(), height.tolist(), strict=True)))


def _cross_fitted(
    score: Floats, right: NDArray[np.bool_], picture: NDArray[np.int64], pictures: int, seed: int
) -> dict[str, Floats]:
    """Scores of every picture under fits on the other folds."""
    fold = np.random.default_rng(seed).permutation(pictures) % min(_FOLDS, max(pictures, 1))
    out = {"temperature": score.copy(), "isotonic": score.copy()}
    for f in np.unique(fold[picture]).tolist():
        mine = fold[picture] == f
        if mine.all():
            continue  # a single picture: nothing else to fit on
        for name, fit in (("temperature", fit_temperature), ("isotonic", fit_isotonic)):
            out[name][mine] = map_scores(score[mine], fit(score[~mine], right[~mine]))
    return out


def _errors(
    score: Floats, p: Floats, right: NDArray[np.bool_], picture: NDArray[np.int64], weights: Array
) -> tuple[Floats, Floats, list[dict[str, Any]]]:
    """ECE [1+R], Brier score [1+R] and the diagram of probabilities p [n] under weights [I,1+R]."""
    bin_ = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    at = picture * BINS + bin_

    def sums(x: Floats) -> Floats:
        """[BINS,1+R] weighted sums."""
        table = np.bincount(at, x, minlength=len(weights) * BINS).reshape(len(weights), BINS)
        out: Floats = table.T @ weights
        return out

    n, hits, confidence = sums(np.ones(len(p))), sums(right.astype(np.float64)), sums(p)
    total = n.sum(axis=0)
    nan = np.full(len(total), np.nan)
    ece = np.divide(np.abs(hits - confidence).sum(axis=0), total, out=nan.copy(), where=total > 0)
    brier = np.divide(sums((p - right) ** 2).sum(axis=0), total, out=nan.copy(), where=total > 0)
    rows = []
    for b in range(BINS):
        count = int(n[b, 0])
        mean = [float(x[b, 0] / count) if count else math.nan for x in (confidence, hits)]
        rows.append({"low": b / BINS, "high": (b + 1) / BINS, "n": count, "confidence": mean[0], "precision": mean[1]})
    return ece, brier, rows


def _findings(right: NDArray[np.bool_]) -> list[Finding]:
    hits = int(right.sum())
    if hits >= 50 and len(right) - hits >= 50:
        return []
    message = f"{hits} right and {len(right) - hits} wrong detections are few to calibrate scores on: use more pictures"
    return [Finding("calibrate.few_detections", Severity.WARNING, message, len(right))]
