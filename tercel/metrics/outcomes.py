"""From distances to outcomes, and from outcomes to counts, ratios, errors and AP, whole or in parts.

Every frame has one of five outcomes: TP (found, near enough), FP_wrong (there is a ball, found too far away; FP1 in
papers), FP_ghost (found where none is; FP2), FN (there is a ball, nothing found), TN. So TP + FP_wrong + FN are the
balls, and TP + FP_wrong + FP_ghost the detections. The published recall is TP / (TP + FN): a ball found at the wrong
place is in neither term. `recall_all` = TP / balls stands beside it.

A resample is a weight per unit (a rally, say); column 0 of everything has weight 1 and is the value itself. Shape
legend: N frames, U units of resampling, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Score
from tercel.metrics.aligned import Aligned
from tercel.metrics.rules import SEEN, Rule, file_numbers, places
from tercel.metrics.stats import BLOCK, Array, interval

Ints = NDArray[np.int64]

OUTCOMES = ("TN", "TP", "FP_wrong", "FP_ghost", "FN")
TN, TP, WRONG, GHOST, FN = range(5)
VISIBILITY = ("absent", "clear", "blurred", "occluded")
CURVE = tuple(range(1, 21))  # px of the original frame
RATIOS = ("F1", "precision", "recall", "recall_all", "accuracy", "accuracy_all_absent")
ERRORS = ("mean_error", "RMS_error")


class Distances:
    """Distances [N] between truth and prediction, in each frame once."""

    def __init__(self, a: Aligned, ball: Array | None) -> None:
        self.a, self.ball = a, ball
        self.numbers = file_numbers(a.xy), file_numbers(a.place)
        self.cache: dict[str, Array] = {}
        self.original = self._in(Rule("", "original", 1, True))

    def _in(self, rule: Rule) -> Array:
        if rule.frame not in self.cache:
            t, p = (places(rule, x, self.a.size) for x in self.numbers)
            self.cache[rule.frame] = np.sqrt(((t - p) ** 2).sum(axis=1))
        return self.cache[rule.frame]

    def of(self, rule: Rule) -> Array:
        """In px of the rule's frame, NaN where a side shows no ball or one that the rule does not count."""
        return np.where(counted(self.a, rule), self._in(rule), np.nan)

    def judged(self, rule: Rule) -> Array:
        """In the unit of the rule's tolerance."""
        return self._in(rule) if not rule.percent or self.ball is None else 100 * self._in(rule) / self.ball


def counted(a: Aligned, rule: Rule) -> NDArray[np.bool_]:
    """Frames [N] whose ball counts under the rule; one look-up per frame."""
    counts = np.array([v in rule.visible for v in range(len(VISIBILITY))])
    return np.asarray(counts[a.visibility])


def outcome(a: Aligned, rule: Rule, distance: Array, found: NDArray[np.bool_] | None = None) -> NDArray[np.int8]:
    """The outcome [N] of every frame under a rule; `found` replaces the predictions' own."""
    ball = counted(a, rule)
    found = a.found if found is None else found
    near = rule.hit(distance)
    out = np.where(ball, np.where(found, np.where(near, TP, WRONG), FN), np.where(found, GHOST, TN))
    return np.asarray(out, np.int8)


def check_counts(a: Aligned, rule: Rule, o: NDArray[np.int8]) -> None:
    n = np.bincount(o, minlength=5)
    balls = int(counted(a, rule).sum())
    if n[TP] + n[WRONG] + n[FN] != balls or n[TP] + n[WRONG] + n[GHOST] != a.found.sum() or n.sum() != len(a):
        raise AssertionError(f"counts of rule {rule.name} do not add up: {dict(zip(OUTCOMES, n, strict=True))}")


# -- numbers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Numbers:
    """Counts [5,1+R], AP [1+R], errors [2,1+R] and how many frames these are over; column 0 is the value itself."""

    counts: Array
    ap: Array | None
    errors: Array
    both: int
    spread: bool

    @cached_property
    def ratios(self) -> dict[str, tuple[Array, int]]:
        """name -> (values [1+R], n)."""
        tn, tp, wrong, ghost, fn = self.counts
        balls, total = tp + wrong + fn, self.counts.sum(axis=0)
        over = np.stack([2 * tp, tp, tp, tp, tp + tn, total - balls])
        f1 = np.where(balls > 0, 2 * tp + wrong + ghost + fn, 0)
        under = np.stack([f1, tp + wrong + ghost, tp + fn, balls, total, total])
        n = [int(balls[0]), *under[1:, 0].astype(int).tolist()]
        return dict(zip(RATIOS, zip(_divide(over, under), n, strict=True), strict=True))

    @cached_property
    def values(self) -> dict[str, tuple[Array, int]]:
        """Every score of a whole but the counts, name -> (values [1+R], n)."""
        out = dict(self.ratios)
        if self.ap is not None:
            out["AP"] = self.ap, int(self.counts[[TP, WRONG, FN], 0].sum())
        out |= {name: (self.errors[i], self.both) for i, name in enumerate(ERRORS)}
        return out

    def scores(self, where: Mapping[str, Any]) -> list[Score]:
        out = [_score(name, x, n, self.spread, where, name in ERRORS) for name, (x, n) in self.values.items()]
        total = int(self.counts[:, 0].sum())
        return out + [
            Score(name, float(self.counts[i, 0]), total, where=where)
            for name, i in zip(("TP", "FP_wrong", "FP_ghost", "FN", "TN"), (TP, WRONG, GHOST, FN, TN), strict=True)
        ]

    def row(self) -> dict[str, Any]:
        c = self.counts[:, 0].astype(int).tolist()
        row = {"frames": sum(c), "balls": c[TP] + c[WRONG] + c[FN]}
        row |= {name: c[OUTCOMES.index(name)] for name in ("TP", "FP_wrong", "FP_ghost", "FN", "TN")}
        return row | {name: float(x[0]) for name, (x, _) in self.values.items()}


class Measure:
    """Counts and ratios of any outcome, whole or in parts, with their draws."""

    def __init__(self, a: Aligned, unit: Ints, weights: Array) -> None:
        self.a, self.unit, self.weights = a, unit, weights
        # Equal scores: rallies by name, then frames by number, so that the order of the files cannot change AP.
        self.by_score = np.argsort(-a.score, kind="stable")
        self.by_rally = self.by_score[np.argsort(a.rally[self.by_score], kind="stable")]

    def __call__(self, o: NDArray[np.int8], d: Array, found: NDArray[np.bool_]) -> Numbers:
        """Over all frames, AP included."""
        (whole,) = self.groups(o, d, np.zeros(len(o), np.int64), 1)
        return replace(whole, ap=self._ap(o, found, whole.counts[TP] + whole.counts[FN]))

    def groups(self, o: NDArray[np.int8], d: Array, label: Ints, k: int) -> list[Numbers]:
        """Over the frames of each label 0..k-1 (-1 = in none), without AP."""
        units, several = len(self.weights), self.weights.shape[1] > 1
        rows = np.flatnonzero(label >= 0)
        where = (label[rows] * 5 + o[rows]) * units + self.unit[rows]
        counts = np.bincount(where, minlength=5 * k * units).reshape(k, 5, units) @ self.weights
        both = np.flatnonzero(np.isfinite(d) & (label >= 0) & ((o == TP) | (o == WRONG)))
        at, x = label[both] * units + self.unit[both], d[both]
        sums = np.stack([np.bincount(at, w, k * units) for w in (np.ones(len(x)), x, x**2)])
        n, total, squares = sums.reshape(3, k, units) @ self.weights
        mean, rms = _divide(total, n), np.sqrt(_divide(squares, n))
        return [Numbers(counts[i], None, np.stack([mean[i], rms[i]]), int(n[i, 0]), several) for i in range(k)]

    def _ap(self, o: NDArray[np.int8], found: NDArray[np.bool_], positives: Array) -> Array:
        """WASB's AP under weights [U,R]: the sum over hits of precision at that hit, over TP + FN."""
        order = self.by_score[found[self.by_score]]
        hits = np.flatnonzero(o[order] == TP)
        area = np.zeros(self.weights.shape[1])
        width = max(8, BLOCK // max(1, len(order)))
        for low in range(0, len(area), width):
            w = self.weights[self.unit[order], low : low + width]
            total = np.cumsum(w, axis=0)[hits]
            gain = w[hits]
            area[low : low + width] = (gain * np.cumsum(gain, axis=0) / np.maximum(total, 1)).sum(axis=0)
        return _divide(area, positives)

    def rallies(self, r: Rule, o: NDArray[np.int8], d: Array) -> list[dict[str, Any]]:
        """One row per rally, without intervals: one rally shows no spread."""
        a, k = self.a, len(self.a.rallies)
        counts = np.bincount(a.rally * 5 + o, minlength=5 * k).reshape(k, 5).astype(np.float64)
        both = np.isfinite(d) & ((o == TP) | (o == WRONG))
        n, total, squares = (_sums(a.rally[both], w, k) for w in (np.ones(both.sum()), d[both], d[both] ** 2))
        errors = np.stack([_divide(total, n), np.sqrt(_divide(squares, n))])
        order = self.by_rally[a.found[self.by_rally]]
        rally = a.rally[order]
        start = np.searchsorted(rally, np.arange(k))
        hit = (o[order] == TP).astype(np.float64)
        before = np.concatenate([[0.0], np.cumsum(hit)])
        gain = hit * (before[1:] - before[start[rally]]) / (np.arange(len(order)) - start[rally] + 1)
        ap = _divide(_sums(rally, gain, k), counts[:, TP] + counts[:, FN])
        columns = Numbers(counts.T, ap, errors, 0, False)
        rows = {name: x.tolist() for name, (x, _) in columns.values.items()}
        whole = counts.astype(int).tolist()
        return [
            {"rule": r.name, "rally": name, "frames": sum(c), "balls": c[TP] + c[WRONG] + c[FN],
             "TP": c[TP], "FP_wrong": c[WRONG], "FP_ghost": c[GHOST], "FN": c[FN], "TN": c[TN],
             **{key: x[i] for key, x in rows.items()}, "both": int(n[i])}
            for i, (name, c) in enumerate(zip(a.rallies, whole, strict=True))
        ]  # fmt: skip

    def parts(self, r: Rule, o: NDArray[np.int8], d: Array) -> list[dict[str, Any]]:
        """One row per visibility class that occurs; of ratios only those that a single class can have."""
        rows = []
        for v, m in enumerate(self.groups(o, d, self.a.visibility.astype(np.int64), len(VISIBILITY))):
            if not m.counts[:, 0].any():
                continue
            keep = ("recall", "recall_all", *ERRORS) if v in r.visible else ("accuracy",)
            row = {k: x for k, x in m.row().items() if k in keep or k not in (*RATIOS, *ERRORS)}
            values = {k: (*x, m.spread) for k, x in m.values.items() if k in keep}
            rows.append({"rule": r.name, "visibility": VISIBILITY[v], **row, "_scores": values})
        return rows

    def filled(self, r: Rule, o: NDArray[np.int8], d: Array, judged: Array) -> list[dict[str, Any]]:
        """Filled-in points apart: "only" them, and everything "without" them (as if nothing had been found there)."""
        a = self.a
        if not a.filled.any():
            return []
        (m,) = self.groups(o, d, np.where(a.filled, 0, -1), 1)
        keep = ("precision", *ERRORS)
        only = {k: x for k, x in m.row().items() if k in (*keep, "frames", "TP", "FP_wrong", "FP_ghost")}
        values = {k: (*x, m.spread) for k, x in m.values.items() if k in keep}
        seen = a.found & ~a.filled
        rest = self(outcome(a, r, judged, seen), d, seen)
        every = {k: (*x, rest.spread) for k, x in rest.values.items()}
        return [
            {"rule": r.name, "filled": "only", **only, "_scores": values},
            {"rule": r.name, "filled": "without", **rest.row(), "_scores": every},
        ]

    def curve(self, d: Array) -> tuple[list[dict[str, Any]], list[Score]]:
        """Rows and F1 at 1..20 px of the original frame; every visible ball counts, d < k."""
        units, most = len(self.weights), len(CURVE)
        o = outcome(self.a, Rule("", "original", most, False), d)
        by_outcome = np.bincount(o * np.int64(units) + self.unit, minlength=5 * units).reshape(5, units)
        both = np.flatnonzero(np.isfinite(d))
        step = np.minimum(d[both], most).astype(np.int64)  # d < k exactly when floor(d) < k
        within = np.bincount(step * units + self.unit[both], minlength=(most + 1) * units).reshape(most + 1, units)
        hits = np.cumsum(within, axis=0)[:most]
        counts = np.repeat(by_outcome[None], most, axis=0)
        counts[:, TP], counts[:, WRONG] = hits, by_outcome[TP] + by_outcome[WRONG] - hits
        rows, scores = [], []
        none = np.full((2, self.weights.shape[1]), np.nan)
        for k, c in zip(CURVE, counts @ self.weights, strict=True):
            m = Numbers(c, None, none, 0, self.weights.shape[1] > 1)
            rows.append({"tolerance": k, **{x: y for x, y in m.row().items() if x not in ERRORS}})
            x, n = m.ratios["F1"]
            scores.append(_score(f"F1@{k}px", x, n, m.spread, {"frame": "original", "visible": list(SEEN)}))
        return rows, scores


def _sums(label: Ints, x: Array, k: int) -> Array:
    """The sum [k] of `x` over each label."""
    return np.asarray(np.bincount(label, x, k), np.float64)


def _divide(x: Array, y: Array) -> Array:
    """x / y, NaN where y is 0."""
    out: Array = np.divide(x, y, out=np.full(y.shape, np.nan), where=y > 0)
    return out


def _score(name: str, x: Array, n: int, spread: bool, where: Mapping[str, Any], unbounded: bool = False) -> Score:
    """Column 0 is the value, the others are draws. `interval` keeps within 0..1, so errors are scaled for it."""
    value, low, high = float(x[0]), math.nan, math.nan
    if spread and not math.isnan(value):
        scale = 4 * max(1.0, float(np.nanmax(x))) if unbounded else 1.0
        low, high = (scale * y for y in interval(value / scale, x[1:] / scale))
    return Score(name, value, n, low, high, where)


def row_scores(row: dict[str, Any]) -> Iterator[Score]:
    """The scores of a row about a part; the draws, if any, are taken out of the row."""
    where: dict[str, Any] = {k: row[k] for k in ("rule", "rally", "visibility", "filled") if k in row}
    drawn = row.pop("_scores", None)
    both = row.pop("both", 0)
    if drawn is not None:
        for name, (x, n, spread) in drawn.items():
            yield _score(name, x, n, spread, where, name in ERRORS)
    else:
        denominators = _denominators(row)
        for name in (*RATIOS, "AP", *ERRORS):
            if name in row:
                yield Score(name, row[name], both if name in ERRORS else denominators[name], where=where)
    for name in ("TP", "FP_wrong", "FP_ghost", "FN", "TN"):
        if name in row:
            yield Score(name, float(row[name]), row["frames"], where=where)


def _denominators(row: Mapping[str, Any]) -> dict[str, int]:
    balls, frames = row["balls"], row["frames"]
    detections = row["TP"] + row["FP_wrong"] + row["FP_ghost"]
    return {"F1": balls, "precision": detections, "recall": row["TP"] + row["FN"], "recall_all": balls, "AP": balls,
            "accuracy": frames, "accuracy_all_absent": frames}  # fmt: skip
