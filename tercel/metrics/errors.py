"""How boxes that found their truth are placed: errors of centre, sides, angle, edges and heading, and what they cost.

All errors are detection minus truth. For oriented boxes they are measured in the truth's own frame: `along` its long
side, `across` its short side. A rectangle has four descriptions (its sides change names when it turns by a quarter):
the detection is taken in that whose axis is nearest to the truth's, so that angle errors lie within +-45 degrees and a
turned detection of an almost square truth is no error of both sides. Edge errors are positive where the detection
reaches beyond the truth: between the middles of both edges, measured across the truth's edge. `front` is where the
truth's heading points if it is known, else the direction of theta; `right` lies clockwise from it.

Only pairs that reach the overlap `iou` are measured. A box of ratio 2.4 turned by more than 40 degrees does not: such
detections are errors of localisation (see `tide`), not of angle.

Shape legend: P matched pairs, D detections, I pictures, R draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from tercel.core.finding import Score, TercelError
from tercel.core.geometry import obb_hull
from tercel.core.objects import Objects
from tercel.metrics.match import IOUS, Bools, Floats, Ints, Matching, Pool, match_all
from tercel.metrics.sides import ALL, Analysis, over_cap, partner_iou, pooled, weights_and_draws
from tercel.metrics.stats import Array, interval, mean_over_classes, resample

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 41  # odd: one bin lies about 0
UNITS: Mapping[str, str] = {"px": "px", "percent": "% of the truth's", "deg": "degrees"}
# What one repair sets to the truth's value: columns of an obb, or of (centre x, y, width, height).
ORIENTED: Mapping[str, tuple[int, ...]] = {
    "centre": (0, 1), "length": (2,), "width": (3,), "angle": (4,), "all": (0, 1, 2, 3, 4),
}  # fmt: skip
AXIS_ALIGNED: Mapping[str, tuple[int, ...]] = {"centre": (0, 1), "width": (2,), "height": (3,), "all": (0, 1, 2, 3)}


@dataclass(frozen=True, eq=False)
class Placement(Analysis):
    """How matched boxes are placed.

    Quantities: ``centre_px`` (distance), ``centre_percent`` (of the root of the truth's area), ``width_px``,
    ``width_percent``; of oriented boxes ``along_px``, ``across_px``, ``length_*``, ``angle_deg``, ``front_px``,
    ``back_px``, ``left_px``, ``right_px`` and, where both sides know it, ``heading_deg`` (within +-180); of others
    ``x_px``, ``y_px``, ``height_*``, ``left_px``, ``top_px``, ``right_px``, ``bottom_px``.

    Attributes:
        scores: per quantity ``NAME_bias`` (mean of the signed errors) and ``NAME_error`` (median of their sizes);
            ``heading_reversed``, the share with a heading more than 90 degrees off; then ``AP`` and, for each repair,
            ``AP_fixed_NAME`` and its gain ``dAP_fixed_NAME``. `n` = pairs, or truths for AP. Intervals are over
            pictures.
        table: one row per quantity and class (None = all): quantity, unit, class, n, bias, error, std, quantiles.
        histograms: per quantity: unit, edges (41 bins, the middle one about 0, as far as the 99th percentile of the
            sizes), counts, outside.
        fixed: rows fixed, AP, AP50, AP75, dAP.
        values: quantity -> f64 [P] signed errors, NaN where undefined.
        pred: [P] the detections, truth: [P] their truths; `picture` and `row` say which objects they are.
        iou: f64 [P].
    """

    PARTS: ClassVar = ("table", "histograms", "fixed")

    table: list[dict[str, Any]]
    histograms: list[dict[str, Any]]
    fixed: list[dict[str, Any]]
    values: dict[str, Floats]
    pred: Pool
    truth: Pool
    iou: Floats


def placement(
    truth: Sequence[Objects],
    predictions: Sequence[Objects],
    classes: Sequence[str],
    *,
    iou: float = 0.5,
    score: float = 0.0,
    cap: int | None = 100,
    ious: Sequence[float] = IOUS,
    geometry: str = "",
    resamples: int = 200,
    seed: int = 0,
) -> Placement:
    """Errors of matched boxes, and the AP that each of them costs.

    Args:
        truth, predictions: one Objects per picture.
        classes: names of the class ids 0..C-1.
        iou: overlap of a match (COCO's rule).
        score: detections below it are not measured; they still count in AP. The threshold of the best F1 shows the
            boxes that one would work with.
        cap: detections kept per picture and class, the highest scores first; None = all.
        ious: thresholds over which AP is the mean, rising.
        geometry: "boxes", "oriented", or "" = oriented when both sides hold oriented boxes.
        resamples: bootstrap draws of pictures for the 95 % intervals; 0 = none (NaN).

    Raises:
        TercelError: see `pooled`; iou or score outside 0..1.
    """
    if not 0 < iou <= 1 or not 0 <= score <= 1:
        raise TercelError(f"iou = {iou:g}, score = {score:g}: not within 0..1", "for example iou .5, score 0")
    kind, all_truth, all_pred = pooled(truth, predictions, classes, geometry)
    m = match_all(all_truth, all_pred, ious=(iou,), sizes=ALL, cap=cap)
    found = np.flatnonzero(m.hit_at_first)
    fixes = ORIENTED if kind == "oriented" else AXIS_ALIGNED
    shapes, models = _shapes(m.pred.take(found)), _shapes(m.truth.take(m.partner[found]))
    if kind == "oriented":
        shapes = _aligned(shapes, models)
    rescored, fixed = _rescore(m, found, shapes, models, fixes, len(classes), (ious, resamples, seed))

    shown = np.flatnonzero(m.pred.scores[found] >= score)
    pred, seen = m.pred.take(found[shown]), m.truth.take(m.partner[found[shown]])
    if kind == "oriented":
        headings = _headings(predictions, pred), _headings(truth, seen)
        values = _oriented(shapes[shown], models[shown], *headings)
    else:
        values = _axis_aligned(shapes[shown], models[shown])
    _, draws = weights_and_draws(m, resamples, seed)
    scores = [s for name, x in values.items() for s in _scores(name, x, draws, pred.picture)]
    rule = {
        "protocol": "placement", "geometry": kind, "iou": iou, "score": score,
        "ious": list(ious), "resamples": resamples, "seed": seed,
    }  # fmt: skip
    table = [row for name, x in values.items() for row in _rows(name, x, seen.labels, classes)]
    bars = [_histogram(name, x) for name, x in values.items()]
    overlap = partner_iou(m)[found[shown]]
    capped = over_cap(m, "placement.cap")
    return Placement(scores + rescored, capped, rule, table, bars, fixed, values, pred, seen, overlap)


# -- errors -------------------------------------------------------------------------------------------------------


def _shapes(pool: Pool) -> Floats:
    """Oriented boxes f64 [N,5], or (centre x, y, width, height) [N,4]."""
    if pool.obbs is not None:
        return pool.obbs
    low, high = pool.boxes[:, :2], pool.boxes[:, 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def _aligned(pred: Floats, truth: Floats) -> Floats:
    """The same oriented boxes [P,5], described so that their axis is within 45 degrees of the truth's."""
    quarters = np.rint((pred[:, 4] - truth[:, 4]) / (np.pi / 2))
    out = pred.copy()
    out[:, 4] -= quarters * (np.pi / 2)
    odd = quarters % 2 == 1
    out[odd, 2:4] = pred[odd, 3:1:-1]
    return out


def _headings(parts: Sequence[Objects], pool: Pool) -> Floats:
    """Heading f64 [N] in radians of pooled objects; NaN where it is not known."""
    none = [np.full(len(p), np.nan) for p in parts]
    columns = [
        n if p.heading is None or p.headed is None else np.where(p.headed, p.heading, np.nan)
        for n, p in zip(none, parts, strict=True)
    ]
    first = np.cumsum([0, *map(len, parts)])
    every = np.concatenate([np.zeros(0), *columns])
    return every[first[pool.picture] + pool.row]


def _oriented(pred: Floats, truth: Floats, heading: Floats, true_heading: Floats) -> dict[str, Floats]:
    """Errors of aligned oriented boxes [P,5] against their truths [P,5]."""
    move, turn = pred[:, :2] - truth[:, :2], pred[:, 4] - truth[:, 4]
    size = pred[:, 2:4] - truth[:, 2:4]
    along, across = _in_frame(move, truth[:, 4])
    out = {
        **_centre(move, truth[:, 2] * truth[:, 3]),
        "along_px": along, "across_px": across,
        "length_px": size[:, 0], "length_percent": _percent(size[:, 0], truth[:, 2]),
        "width_px": size[:, 1], "width_percent": _percent(size[:, 1], truth[:, 3]),
        "angle_deg": np.degrees(turn),
    }  # fmt: skip
    # The front is one of the four sides of the truth; with it in front, the sides are named anew.
    quarters = np.rint(np.nan_to_num(true_heading - truth[:, 4]) / (np.pi / 2))
    forward, sideways = _in_frame(move, truth[:, 4] + quarters * (np.pi / 2))
    odd = (quarters % 2 == 1)[:, None]
    reach = (np.where(odd, pred[:, 3:1:-1], pred[:, 2:4]) * np.cos(turn)[:, None]
             - np.where(odd, truth[:, 3:1:-1], truth[:, 2:4])) / 2  # fmt: skip
    out |= {"front_px": forward + reach[:, 0], "back_px": reach[:, 0] - forward}
    out |= {"left_px": reach[:, 1] - sideways, "right_px": sideways + reach[:, 1]}
    off = np.degrees(heading - true_heading)
    return {**out, "heading_deg": (off + 180) % 360 - 180}


def _axis_aligned(pred: Floats, truth: Floats) -> dict[str, Floats]:
    """Errors of (centre x, y, width, height) [P,4]."""
    move, size = pred[:, :2] - truth[:, :2], pred[:, 2:] - truth[:, 2:]
    return {
        **_centre(move, truth[:, 2] * truth[:, 3]),
        "x_px": move[:, 0], "y_px": move[:, 1],
        "width_px": size[:, 0], "width_percent": _percent(size[:, 0], truth[:, 2]),
        "height_px": size[:, 1], "height_percent": _percent(size[:, 1], truth[:, 3]),
        "left_px": size[:, 0] / 2 - move[:, 0], "top_px": size[:, 1] / 2 - move[:, 1],
        "right_px": size[:, 0] / 2 + move[:, 0], "bottom_px": size[:, 1] / 2 + move[:, 1],
    }  # fmt: skip


def _centre(move: Floats, area: Floats) -> dict[str, Floats]:
    far = np.hypot(move[:, 0], move[:, 1])
    return {"centre_px": far, "centre_percent": _percent(far, np.sqrt(area))}


def _percent(part: Floats, whole: Floats) -> Floats:
    out: Floats = np.divide(100 * part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return out


def _in_frame(move: Floats, theta: Floats) -> tuple[Floats, Floats]:
    """Components of moves [P,2] along the direction theta and clockwise across it."""
    c, s = np.cos(theta), np.sin(theta)
    return move[:, 0] * c + move[:, 1] * s, move[:, 1] * c - move[:, 0] * s


# -- distributions ------------------------------------------------------------------------------------------------


def _unit(name: str) -> str:
    return UNITS[name.rpartition("_")[2]]


def _scores(name: str, values: Floats, draws: Array, picture: Ints) -> list[Score]:
    """Mean of the errors and median of their sizes, with the middle 95 % of what they are under drawn pictures."""
    real = ~np.isnan(values)
    x, weights = values[real], draws[picture[real]].astype(np.float64)
    where = {"unit": _unit(name)}
    if not len(x):
        return [Score(f"{name}_{kind}", np.nan, 0, where=where) for kind in ("bias", "error")]
    drawn = weights[:, weights.sum(axis=0) > 0]
    total = drawn.sum(axis=0)
    order = np.argsort(np.abs(x), kind="stable")
    middle = (np.cumsum(drawn[order], axis=0) * 2 < total).sum(axis=0)
    out = [
        Score(f"{name}_bias", float(x.mean()), len(x), *_range(x @ drawn / total), where),
        Score(f"{name}_error", float(np.median(np.abs(x))), len(x), *_range(np.abs(x)[order][middle]), where),
    ]
    if name == "heading_deg":
        reversed_ = (np.abs(x) > 90).astype(np.float64)
        share = Score("heading_reversed", float(reversed_.mean()), len(x), *_range(reversed_ @ drawn / total),
                      {"unit": "share"})  # fmt: skip
        out.append(share)
    return out


def _range(samples: Floats) -> tuple[float, float]:
    if not len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def _rows(name: str, values: Floats, labels: Ints, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Over all classes, then per class."""
    out = []
    every: list[tuple[str | None, Bools]] = [(None, np.ones(len(values), np.bool_))]
    for title, mine in every + [(title, labels == c) for c, title in enumerate(classes)]:
        x = values[mine & ~np.isnan(values)]
        row: dict[str, Any] = {"quantity": name, "unit": _unit(name), "class": title, "n": len(x)}
        numbers = [x.mean(), np.median(np.abs(x)), x.std(), *np.quantile(x, QUANTILES)] if len(x) else [np.nan] * 8
        keys = ("bias", "error", "std", *(f"q{100 * q:02.0f}" for q in QUANTILES))
        out.append(row | dict(zip(keys, map(float, numbers), strict=True)))
    return out


def _histogram(name: str, values: Floats) -> dict[str, Any]:
    x = values[~np.isnan(values)]
    limit = float(np.quantile(np.abs(x), 0.99)) if len(x) else 0.0
    limit = limit or 1.0  # all errors are 0
    counts, edges = np.histogram(x, np.linspace(-limit, limit, BINS + 1))
    return {"quantity": name, "unit": _unit(name), "edges": edges.tolist(), "counts": counts.tolist(),
            "outside": int(len(x) - counts.sum())}  # fmt: skip


# -- what it costs ------------------------------------------------------------------------------------------------


def _rescore(
    m: Matching, found: Ints, shapes: Floats, models: Floats, fixes: Mapping[str, tuple[int, ...]], classes: int,
    options: tuple[Sequence[float], int, int],
) -> tuple[list[Score], list[dict[str, Any]]]:  # fmt: skip
    """AP with one property after the other of all matched detections [P] set to that of their truths."""
    ious, resamples, seed = options
    weights = weights_and_draws(m, resamples, seed)
    n = int(m.countable[0].sum())
    scores, rows, plain_ap = [], [], np.zeros(0)
    for name, columns in {"": (), **fixes}.items():
        moved = shapes.copy()
        moved[:, list(columns)] = models[:, list(columns)]
        again = match_all(m.truth, _with_shapes(m.pred, found, moved), ious=ious, sizes=ALL)
        parts = [resample(again, classes, w, (1,)).ap[0] for w in weights]
        each = mean_over_classes(np.concatenate(parts, axis=-1))  # [T,1+R]
        ap = each.mean(axis=0)
        if not name:
            plain_ap = ap
            scores.append(Score("AP", float(ap[0]), n, *interval(float(ap[0]), ap[1:])))
        else:
            gain = ap - plain_ap
            scores.append(Score(f"AP_fixed_{name}", float(ap[0]), n, *interval(float(ap[0]), ap[1:])))
            scores.append(Score(f"dAP_fixed_{name}", float(gain[0]), n, *_range(gain[1:][~np.isnan(gain[1:])])))
        at = {f"AP{100 * x:.0f}": float(each[t, 0]) for t, x in enumerate(ious) if round(100 * x) in (50, 75)}
        rows.append({"fixed": name or "nothing", "AP": float(ap[0]), **at, "dAP": float(ap[0] - plain_ap[0])})
    return scores, rows


def _with_shapes(pred: Pool, rows: Ints, shapes: Floats) -> Pool:
    """The detections, those of `rows` with other shapes. Their areas stay: they decide nothing here."""
    boxes = pred.boxes.copy()
    if shapes.shape[1] == 5 and pred.obbs is not None:
        obbs = pred.obbs.copy()
        obbs[rows] = shapes
        boxes[rows] = obb_hull(shapes)
        return replace(pred, boxes=boxes, obbs=obbs)
    half = shapes[:, 2:] / 2
    boxes[rows] = np.concatenate([shapes[:, :2] - half, shapes[:, :2] + half], axis=1)
    return replace(pred, boxes=boxes)
