"""Calibrating boxes: which factors for width, length and angle give the best AP on validation data?

A detector whose boxes are loose by one and the same factor loses exactly the high thresholds: with sides s times too
wide, no overlap exceeds 1 / s. The factors are fitted on validation data only; AP on the same pictures is too high
afterwards, so a cross-fitted one (each half of the pictures under the factors of the other half) stands beside it.

Only overlaps change from factor to factor. Objects that can never meet are put into groups of their own once, and
every evaluation compares within groups: the matching is that of `match_all`, and quick. NumPy and SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.calibration import Calibration, apply, scale_boxes, scale_obbs
from tercel.core.finding import Finding, Score, Severity, TercelError
from tercel.core.geometry import box_iou
from tercel.core.objects import Objects
from tercel.core.record import Record
from tercel.metrics.ap import MAX_DETECTIONS
from tercel.metrics.breakdown import plain
from tercel.metrics.compare import Sampled, difference, pools, sample
from tercel.metrics.match import IOUS, Pool, pair_overlap
from tercel.metrics.stats import interval, mean_over_classes, picture_weights

Floats = NDArray[np.float64]

FACTORS = (0.8, 1.25)
ANGLE = math.radians(10)
REACH = 0.2  # share of the lowest threshold: pairs that overlap less before any factor can never reach it
_COARSE, _FINE = 0.02, 0.0075  # steps of the search, in log(factor)
_ROUNDS = 6
NEUTRAL = Calibration()
_PARAMETERS = {"oriented": ("width", "length", "angle"), "boxes": ("width", "height")}


@dataclass(frozen=True, eq=False)
class BoxCalibration:
    """Factors that fit, and what they buy.

    Attributes:
        calibration: the factors (its scores are untouched).
        scores: AP, AP50, AP75 with ``where["boxes"]`` "as given", "calibrated" or "cross-fitted" (each half of the
            pictures under the factors of the other half), and "gain" = cross-fitted less as given. `n` counts truths.
        table: one row per class (None = mean) and kind of boxes: AP at each threshold, by its name, and AP.
        curves: parameter -> [(factor or radians, AP)], all other parameters left as they are.
        findings: an optimum at the edge of the grid. rule: what was computed.
    """

    calibration: Calibration
    scores: list[Score]
    table: list[dict[str, Any]]
    curves: dict[str, list[tuple[float, float]]]
    findings: list[Finding]
    rule: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": [s.to_json() for s in self.scores],
            "table": [{k: plain(v) for k, v in row.items()} for row in self.table],
            "curves": {k: [list(point) for point in curve] for k, curve in self.curves.items()},
            "rule": self.rule,
        }


def fit_boxes(
    truth: Sequence[Objects],
    pred: Sequence[Objects],
    classes: Sequence[str],
    *,
    geometry: str = "",
    factors: tuple[float, float] = FACTORS,
    angle: float = ANGLE,
    ious: Sequence[float] = IOUS,
    cap: int = MAX_DETECTIONS[-1],
    resamples: int = 200,
    seed: int = 0,
) -> BoxCalibration:
    """Fit width, length and angle (oriented boxes) or width and height so that the mean AP over `ious` is highest.

    Args:
        truth, pred: one Objects per picture of the validation data; predictions that no calibration has touched.
        classes: names of the class ids; the factors are the same for all.
        geometry: "boxes", "oriented", or "" = oriented when both sides hold oriented boxes.
        factors: range of the side factors. angle: largest offset in radians, either way.
        cap, ious: as in `ap.judge_boxes`. resamples: bootstrap draws of the intervals. seed: of draws and halves.

    Raises:
        TercelError: as `compare.pools`; a range that does not hold 1; no truth or no detection to fit on.
    """
    if not 0 < factors[0] < 1 < factors[1] or angle < 0:
        raise TercelError(f"factors {factors}, angle {angle}: no range around 1 and 0", f"for example {FACTORS}")
    kind, (all_truth, all_pred) = pools(truth, pred, geometry=geometry)
    if not len(all_pred) or all_truth.ignore.all():
        message = f"{len(all_pred)} detections and {int((~all_truth.ignore).sum())} truths: nothing to calibrate on"
        raise TercelError(message, "give validation data with labels, and what the detector found on it")
    names = _PARAMETERS[kind]
    options: dict[str, Any] = {"classes": len(classes), "ious": ious, "cap": cap}
    ranges = {n: (-angle, angle) if n == "angle" else factors for n in names}
    problem = Problem(all_truth, all_pred, **options)
    sweeps = {n: [(x, *problem(NEUTRAL.replace(**{n: x}))) for x in _grid(n, *ranges[n])] for n in names}
    curves = {n: [(x, ap) for x, ap, _ in sweep] for n, sweep in sweeps.items()}
    first = max(names, key=lambda n: max(ap for _, ap in curves[n]))
    best = _ascend(problem, NEUTRAL.replace(**{first: _peak(first, sweeps[first])}), ranges)
    halves = _halves(len(truth), seed)
    crossed = [apply(p, best) for p in pred]
    for fitted, judged in (halves, halves[::-1]):
        part = Problem(*(_only(p, fitted) for p in (all_truth, all_pred)), **options)
        if part.possible:
            own = _ascend(part, best, ranges)  # only the start is common
            for i in judged.tolist():
                crossed[i] = apply(pred[i], own)
    kinds = {"as given": pred, "calibrated": [apply(p, best) for p in pred], "cross-fitted": crossed}
    scores, table = effect(truth, kinds, classes, geometry=kind, ious=ious, cap=cap, resamples=resamples, seed=seed)
    return BoxCalibration(
        best, scores, table, curves, _edges(best, ranges),
        {"geometry": kind, "factors": list(factors), "angle": angle, "ious": list(ious), "max_detections": cap,
         "resamples": resamples, "seed": seed, "pictures": len(truth)},
    )  # fmt: skip


def effect(
    truth: Sequence[Objects],
    kinds: Mapping[str, Sequence[Objects]],
    classes: Sequence[str],
    *,
    geometry: str = "",
    ious: Sequence[float] = IOUS,
    cap: int = MAX_DETECTIONS[-1],
    resamples: int = 200,
    seed: int = 0,
) -> tuple[list[Score], list[dict[str, Any]]]:
    """What each kind of boxes scores; "gain" is that of the last kind over the first. See `BoxCalibration`."""
    weights = picture_weights(len(truth), resamples, seed)
    sampled = {}
    for name, parts in kinds.items():
        _, (t, p) = pools(truth, parts, geometry=geometry)
        sampled[name] = sample(t, p, len(classes), weights, ious=ious, cap=cap)
    return _scores(sampled), _table(sampled, classes)


def fitted_on_reported(calibration: Calibration, records: Sequence[Record]) -> Finding | None:
    """A warning when a calibration is judged on pictures that it was fitted on."""
    shared = calibration.shared(records)
    if not shared:
        return None
    message = (
        f"the calibration was fitted on {len(shared)} of the {len(records)} pictures that it is judged on, so the "
        "calibrated scores are too high: report them on other pictures"
    )
    return Finding("calibrate.same_data", Severity.WARNING, message, len(shared), tuple(shared[:5]))


# -- AP as a function of the factors ------------------------------------------------------------------------------


class Problem:
    """AP of one set of pictures as a function of the calibration, quickly.

    Truths and detections that overlap by at least `REACH` of the lowest threshold are linked; what hangs together is a
    group. A group takes the place of a picture in the matching: only within it can a pair reach a threshold.
    """

    def __init__(self, truth: Pool, pred: Pool, *, classes: int, ious: Sequence[float], cap: int) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        pred = _capped(pred, cap)
        d, g = _links(truth, pred, REACH * ious[0])
        n = len(truth) + len(pred)
        graph = coo_array((np.ones(len(d), np.bool_), (g, d + len(truth))), shape=(n, n))
        groups, of = connected_components(graph, directed=False)
        of = of.astype(np.int64)
        self.truth = replace(truth, picture=of[: len(truth)], pictures=groups)
        self.pred = replace(pred, picture=of[len(truth) :], pictures=groups)
        self.classes, self.ious = classes, tuple(ious)
        self.possible = bool(len(pred)) and bool((~truth.ignore).any())

    def __call__(self, calibration: Calibration) -> tuple[float, float]:
        """AP, the mean over thresholds and classes (NaN without truth), and the mean overlap of what was found."""
        if self.pred.obbs is not None:
            moved = replace(self.pred, obbs=scale_obbs(self.pred.obbs, calibration))
        else:
            moved = replace(self.pred, boxes=scale_boxes(self.pred.boxes, calibration))
        ones = np.ones((self.truth.pictures, 1))
        s = sample(self.truth, moved, self.classes, ones, ious=self.ious, cap=None)
        m = s.matching
        found = m.hit_at_first
        mine, theirs = m.pred.boxes, m.truth.boxes
        if m.pred.obbs is not None and m.truth.obbs is not None:
            mine, theirs = m.pred.obbs, m.truth.obbs
        took = m.partner[found]
        iou = pair_overlap(mine[found], theirs[took], m.truth.ignore[took])
        return float(mean_over_classes(s.ap).mean()), float(iou.mean()) if len(iou) else 0.0


def _capped(pred: Pool, cap: int) -> Pool:
    """The `cap` highest scores of each class in each picture, in the old order."""
    key = pred.labels * max(pred.pictures, 1) + pred.picture
    turn = np.lexsort((-pred.scores, key))
    key = key[turn]
    start = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.zeros(0, np.int64)
    rank = np.arange(len(key)) - np.repeat(start, np.diff(np.r_[start, len(key)]))
    return pred.take(np.sort(turn[rank < cap]))


def _links(truth: Pool, pred: Pool, lowest: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (detection, truth) of one picture and class that may come to match; any touch links with ignore regions."""
    none = np.zeros(0, np.int64)
    found = [(none, none)]
    by_truth, by_pred = ({} for _ in range(2))  # type: dict[int, Any], dict[int, Any]
    for pool, rows in ((truth, by_truth), (pred, by_pred)):
        key = pool.labels * max(truth.pictures, 1) + pool.picture
        order = np.argsort(key, kind="stable")
        keys, first = np.unique(key[order], return_index=True)
        rows.update(zip(keys.tolist(), np.split(order, first[1:]), strict=True) if len(keys) else ())
    for k in by_truth.keys() & by_pred.keys():
        d, g = by_pred[k], by_truth[k]
        overlap = _iou(pred, d, truth, g)
        i, j = np.nonzero((overlap >= lowest) | (truth.ignore[g] & (overlap > 0)))
        found.append((d[i], g[j]))
    d, g = (np.concatenate(x) for x in zip(*found, strict=True))
    return d, g


def _iou(pred: Pool, d: NDArray[np.int64], truth: Pool, g: NDArray[np.int64]) -> Floats:
    if pred.obbs is None or truth.obbs is None:
        return np.asarray(box_iou(pred.boxes[d], truth.boxes[g]), np.float64)
    from tercel.core.rotated import obb_iou

    return obb_iou(pred.obbs[d], truth.obbs[g])


# -- the search ---------------------------------------------------------------------------------------------------


def _grid(name: str, low: float, high: float) -> list[float]:
    """Even steps of the angle, or of the factor's logarithm: 1 / f is as far from 1 as f."""
    if name == "angle":
        steps = max(1, round(high / math.radians(1)))
        return [high * i / steps for i in range(-steps, steps + 1)]
    first, last = math.ceil(math.log(low) / _COARSE), math.floor(math.log(high) / _COARSE)
    return [math.exp(_COARSE * i) for i in range(first, last + 1)]


def _ascend(problem: Problem, start: Calibration, ranges: dict[str, tuple[float, float]]) -> Calibration:
    """One parameter after the other in a window around where it stands, until none moves; the windows shrink after the
    first round. A parameter that buys nothing stays neutral."""
    at = start
    for turn in range(_ROUNDS):
        before = at
        offsets = np.arange(-6, 7) if turn == 0 else np.arange(-4, 5)
        for n in ranges:
            x = getattr(at, n)
            points = x + math.radians(0.25) * offsets if n == "angle" else x * np.exp(_FINE * offsets)
            points = points[(points >= ranges[n][0] - 1e-9) & (points <= ranges[n][1] + 1e-9)]
            at = at.replace(**{n: _peak(n, [(p, *problem(at.replace(**{n: p}))) for p in points.tolist()])})
        if all(abs(getattr(at, n) - getattr(before, n)) < _FINE / 4 for n in ranges):
            break
    for n in ranges:
        neutral = at.replace(**{n: getattr(NEUTRAL, n)})
        if problem(neutral)[0] >= problem(at)[0]:
            at = neutral
    return at


def _peak(name: str, points: Sequence[tuple[float, float, float]]) -> float:
    """Where AP is highest, from (parameter, AP, overlap): the vertex of a parabola through the points around the best.

    AP of a finite set is a staircase whose highest step is chance, hence the parabola. A thousandth of the overlap
    decides where AP is flat: with perfect centres, every factor that leaves an IoU of .95 gives the same AP.
    """
    x, ap, overlap = np.array(points).T
    x, y = (x if name == "angle" else np.log(x)), ap + 1e-3 * overlap
    if len(x) == 0 or np.isnan(y).all():
        return float(getattr(NEUTRAL, name))
    centre = float(x[np.nanargmax(y)])
    step = float(np.median(np.diff(x))) if len(x) > 1 else 0.0
    near = np.abs(x - centre) <= (6.5 if step < _COARSE / 2 else 2.5) * step
    out = centre
    if near.sum() >= 5:
        a, b, _ = np.polyfit(x[near] - centre, y[near], 2)
        if a < 0:
            out = centre + float(np.clip(-b / (2 * a), -2 * step, 2 * step))
    out = float(np.clip(out, x.min(), x.max()))
    return out if name == "angle" else math.exp(out)


def _halves(pictures: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.random.default_rng(seed).permutation(pictures)
    return np.sort(order[::2]), np.sort(order[1::2])


def _only(pool: Pool, pictures: NDArray[np.int64]) -> Pool:
    return pool.take(np.flatnonzero(np.isin(pool.picture, pictures)))


def _edges(best: Calibration, ranges: dict[str, tuple[float, float]]) -> list[Finding]:
    """A warning for each parameter that stopped at the end of its range: the true optimum lies beyond it."""
    out = []
    for n, (low, high) in ranges.items():
        x = getattr(best, n)
        near = math.radians(0.5) if n == "angle" else x * _COARSE / 2
        if high > low and (x - low < near or high - x < near):
            message = (
                f"the best {n} ({x:.4g}) lies at the edge of what was tried, {low:.4g} to {high:.4g}: "
                "try a wider range, and look whether the boxes and the labels mean the same"
            )
            out.append(Finding("calibrate.edge", Severity.WARNING, message))
    return out


# -- what it buys -------------------------------------------------------------------------------------------------


def _scores(sampled: Mapping[str, Sampled]) -> list[Score]:
    first, last = next(iter(sampled)), list(sampled)[-1]
    m = sampled[first].matching
    n = int(m.countable[0].sum())
    means = {k: {x: mean_over_classes(y) for x, y in s.named().items()} for k, s in sampled.items()}
    out = [
        Score(metric, float(x[0]), n, *interval(float(x[0]), x[1:]), {"boxes": kind})
        for kind, of in means.items()
        for metric, x in of.items()
    ]
    for metric, x in means[first].items():
        value, low, high, p = difference(x, means[last][metric])
        out.append(Score(metric, value, n, low, high, {"boxes": "gain", "p": plain(p)}))
    return out


def _table(sampled: Mapping[str, Sampled], classes: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for c in (None, *range(len(classes))):
        for kind, s in sampled.items():
            at = mean_over_classes(s.ap)[:, 0] if c is None else s.ap[:, c, 0]
            names = [f"AP{100 * iou:.0f}" for iou in s.matching.ious]
            row = {"class": None if c is None else classes[c], "boxes": kind, "AP": float(at.mean())}
            rows.append(row | dict(zip(names, at.tolist(), strict=True)))
    return rows
