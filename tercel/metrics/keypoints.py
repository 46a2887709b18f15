"""Judging animals with named points: OKS-AP and AR, PCK, errors per point, swaps of left and right, strays.

OKS takes the place of the overlap, and all else of AP is as for boxes (`ap`): one matching code, hotcoco as a second
computation, intervals over pictures. Boxes stand beside where both sides have boxes of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tercel.core.finding import Finding, Ledger, Score, Severity, TercelError
from tercel.core.geometry import points_hull
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.core.skeleton import DEFAULT_SIGMA
from tercel.metrics.ap import BoxReport, Job, judge_boxes, judge_pools, prepare
from tercel.metrics.breakdown import plain
from tercel.metrics.match import IOUS, SIZES, Bools, Ints, Matching, Pool
from tercel.metrics.pck import (
    ALPHAS,
    APART,
    Means,
    PointPairs,
    curve_rows,
    outside,
    pair_up,
    point_rows,
    shares,
)
from tercel.metrics.stats import picture_weights

MAX_DETECTIONS = (20,)  # COCO's cap for points, per picture and class
POINT_SIZES = {k: v for k, v in SIZES.items() if k != "small"}  # COCO has no points of small objects
BOX_SCORES = ("AP", "AP50", "AP75")
ROWS = ("table", "thresholds", "sizes", "slices", "curves")


@dataclass(frozen=True, eq=False)
class KeypointReport:
    """What a set of predicted poses is worth.

    Attributes:
        scores: ``where`` is empty for scores over everything, else has ``class``, ``point`` or ``visibility``.
            OKS_AP, OKS_AP50, OKS_AP75, OKS_AP_medium, OKS_AP_large, and OKS_AR likewise (n: truths that count); PCK@.05
            ... (n: labelled points of these truths), point_error_px and point_error (share of the size; n: labelled
            points of truths that were found), swap_rate (n: points of flip pairs that can be told apart),
            outside_picture and outside_box (n: points that predictions call visible). precision, recall and F1 at OKS
            .5 at the best score threshold, which ``where`` names. box_AP, box_AP50, box_AP75 where boxes are judged.
        table, thresholds, sizes, slices, curves: as in `BoxReport`; what is called `iou` there is OKS here. The table
            per class has PCK and errors too.
        points: one row per named point: n (labelled), hidden, found, its scores, `median_px`, `high_px` (95 %),
            `median`, `high` (shares of the size), and on the mean pose, in shares of the size: x, y, bias_x, bias_y,
            cov_xx, cov_xy, cov_yy.
        pck: rows `alpha`, `PCK`, `n`, over all points.
        findings: what limits or explains the numbers.
        rule: what was computed: `protocol` "keypoints", names, sigmas, threshold of the strays, caps, resamples, seed.
        matching: every prediction with what it found by OKS. pairs: every truth and the prediction that PCK looks at.
        ids: picture ids in the order of picture numbers in `matching` and `pairs`.
        boxes: what the boxes are worth; None where a side has none but hulls of its points.
    """

    scores: list[Score]
    table: list[dict[str, Any]]
    thresholds: list[dict[str, Any]]
    sizes: list[dict[str, Any]]
    slices: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    points: list[dict[str, Any]]
    pck: list[dict[str, float]]
    findings: list[Finding]
    rule: dict[str, Any]
    matching: Matching = field(repr=False)
    pairs: PointPairs = field(repr=False)
    ids: tuple[str, ...]
    boxes: BoxReport | None = None

    def __getitem__(self, name: str) -> float:
        """Value of a score over everything, for example ``report["PCK@.05"]``.

        Raises:
            KeyError: no such score; the message lists those there are.
        """
        values = {s.name: s.value for s in self.scores if {"class", "point", "visibility"}.isdisjoint(s.where)}
        if name not in values:
            raise KeyError(f"{name}; there are {', '.join(values)}")
        return values[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is undefined is null. Single pairs are left out."""
        rows = {k: plain(getattr(self, k)) for k in (*ROWS, "points", "pck")}
        out = {
            "rule": plain(self.rule),
            "scores": [s.to_json() for s in self.scores],
            **rows,
            "findings": [f.to_json() for f in self.findings],
        }
        return out if self.boxes is None else out | {"boxes": self.boxes.to_json()}


def judge_keypoints(
    truth: Sequence[Objects],
    predictions: Sequence[Objects],
    schema: Schema,
    *,
    sigmas: Sequence[float] | None = None,
    max_detections: Sequence[int] = MAX_DETECTIONS,
    resamples: int = 200,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    ious: Sequence[float] = IOUS,
    sources: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> KeypointReport:
    """Judge predicted points.

    Args:
        truth, predictions: one Objects per picture, on the same canvas, with the K points of the schema; predictions
            carry scores. Truths that are ignored or have no labelled point cost nothing, found or missed.
        schema: classes, names of the points, flip pairs.
        sigmas: one per point; None = those of the schema, and where it has none .05 for each (a finding says so).
        max_detections: caps of OKS-AP per picture and class, rising; OKS_AR holds under the last, and so does all else.
            PCK and the errors know no cap.
        ious: OKS thresholds; OKS_AP is the mean over them.
        resamples, seed, ids, sources, groups: as in `judge_boxes`.

    Raises:
        TercelError: a schema without points, objects without points or with another number of them, sigmas that are not
            positive or too few, and as `judge_boxes`.
        AssertionError: the numbers contradict each other; a bug of ours, please report it.
    """
    ledger = Ledger()
    per_point = _sigmas(schema, sigmas, ledger)
    job, truth, predictions = prepare(
        truth, predictions, schema.classes, geometry="keypoints", matching="coco", ious=ious, caps=max_detections,
        interpolation="101", resamples=resamples, seed=seed, ids=ids, sources=sources, groups=groups, sizes=POINT_SIZES,
    )  # fmt: skip
    _check_points(job.names, truth, predictions, schema)
    all_truth, all_pred = Pool.of(truth, per_point), Pool.of(predictions, per_point)
    all_pred = replace(all_pred, areas=_hull_areas(all_pred))
    oks = judge_pools(all_truth, all_pred, job)
    weights = picture_weights(len(job.names), resamples, seed, np.float64)
    pairs = pair_up(all_truth, all_pred)
    threshold = next((s.where["threshold"] for s in oks.scores if s.name == "F1"), None)
    scores = [_renamed(s, job.caps[-1]) for s in oks.scores]
    derived = hulls_of_points(truth), hulls_of_points(predictions)
    scores += _point_scores(pairs, schema, Means(weights))
    # Weak predictions by the hundred would drown what an application sees: strays are counted from the best threshold
    # on, and among all where there is none.
    strong = all_pred.take(np.flatnonzero(all_pred.scores >= (0.0 if threshold is None else threshold)))
    scores += _strays(strong, job, schema, Means(weights), derived[1], ledger)
    boxes = None
    if any(derived):
        sides = " and ".join(w for w, d in zip(("truth", "predictions"), derived, strict=True) if d)
        more = "; a truth's hull serves as its size" if derived[0] else ""
        message = f"boxes of the {sides} are the hulls of the points, so boxes are not judged{more}"
        ledger.add("score.derived_boxes", Severity.INFO, message)
    else:
        caps = tuple(sorted({1, 10, max(100, job.caps[-1])}))
        boxes = judge_boxes(truth, predictions, schema.classes, max_detections=caps, resamples=resamples, seed=seed,
                            ids=job.names)  # fmt: skip
        scores += [replace(s, name=f"box_{s.name}") for s in boxes.scores if s.name in BOX_SCORES and not s.where]
    _about_truths(all_truth, pairs, job.names, ledger)
    rule = job.rule() | {
        "protocol": "keypoints",
        "keypoints": list(schema.keypoints),
        "flip_pairs": [list(p) for p in schema.flip_pairs],
        "edges": [list(p) for p in schema.edges],
        "sigmas": list(per_point),
        "alphas": list(ALPHAS),
        "size": "the longer side of the truth's box",
        "swaps_apart": APART,
        "threshold": threshold,
    }
    return KeypointReport(
        scores=scores,
        table=_with_points(oks.table, scores),
        thresholds=oks.thresholds,
        sizes=oks.sizes,
        slices=oks.slices,
        curves=oks.curves,
        points=point_rows(pairs, schema, scores),
        pck=curve_rows(pairs),
        findings=[*oks.findings, *ledger.findings()],
        rule=rule,
        matching=oks.matching,
        pairs=pairs,
        ids=job.names,
        boxes=boxes,
    )


def hulls_of_points(parts: Sequence[Objects], tolerance: float = 0.05) -> bool:
    """Are all these boxes the hulls of the labelled points, whole or cut at the picture's edge? Then they are derived.

    Objects without a labelled point say nothing; none at all counts as derived. `tolerance` is in px.
    """
    for o in parts:
        if o.points is None or o.visible is None:
            return False
        some = (o.visible > 0).any(axis=1)
        hull = points_hull(o.points, o.visible)[some]
        (h, w), boxes = o.size, o.boxes[some]
        cut = np.clip(hull, 0, [w, h, w, h])
        if not ((np.abs(boxes - hull) <= tolerance) | (np.abs(boxes - cut) <= tolerance)).all():
            return False
    return True


# -- checks ---------------------------------------------------------------------------------------------------------


def point_sigmas(schema: Schema, sigmas: Sequence[float] | None = None) -> tuple[float, ...]:
    """One sigma per point: those given, else the schema's, else .05 each.

    Raises:
        TercelError: sigmas that are not positive, or too few.
    """
    chosen = tuple(sigmas) if sigmas is not None else schema.sigmas or (DEFAULT_SIGMA,) * len(schema.keypoints)
    if len(chosen) != len(schema.keypoints):
        raise TercelError(f"{len(chosen)} sigmas for {len(schema.keypoints)} keypoints", "give one per keypoint")
    for name, s in zip(schema.keypoints, chosen, strict=True):
        if not 0 < s < np.inf:
            raise TercelError(f"the sigma of keypoint {name!r} is {s}", "sigmas are positive, for example 0.05")
    return tuple(float(s) for s in chosen)


def _sigmas(schema: Schema, sigmas: Sequence[float] | None, ledger: Ledger) -> tuple[float, ...]:
    if not schema.keypoints:
        raise TercelError("the labels have no keypoints, so points cannot be judged", "judge boxes: --task boxes")
    if sigmas is None and not schema.sigmas:
        ledger.add("score.default_sigmas", Severity.INFO,
                   f"the labels give no sigmas, so OKS takes {DEFAULT_SIGMA:g} for every point: comparable with itself "
                   "only; `tercel agree` estimates sigmas from two labellings of the same pictures")  # fmt: skip
    return point_sigmas(schema, sigmas)


def _check_points(names: Sequence[str], truth: Sequence[Objects], pred: Sequence[Objects], schema: Schema) -> None:
    k = len(schema.keypoints)
    for name, *sides in zip(names, truth, pred, strict=True):
        for what, o in zip(("truth", "predictions"), sides, strict=True):
            if not len(o):
                continue
            if o.points is None:
                raise TercelError(f"picture {name}: {what} without points, so points cannot be judged",
                                  "judge boxes: --task boxes")  # fmt: skip
            if o.points.shape[1] != k:
                raise TercelError(
                    f"picture {name}: {what} with {o.points.shape[1]} points, but the labels name {k}: "
                    f"{', '.join(schema.keypoints[:8])}{', ...' if k > 8 else ''}",
                    "judge predictions of the same points, in the same order",
                )


def _hull_areas(pred: Pool) -> np.ndarray:
    """f64 [D] px^2 of the rectangle around all K points: a prediction's size in COCO's bins of points."""
    if pred.points is None or not len(pred):
        return np.zeros(len(pred))
    side = pred.points.xy.max(axis=1) - pred.points.xy.min(axis=1)
    area: np.ndarray = side[:, 0] * side[:, 1]
    return area


# -- scores ---------------------------------------------------------------------------------------------------------


def _renamed(s: Score, cap: int) -> Score:
    """The scores of AP and AR by their names for points."""
    if s.name in ("precision", "recall", "F1"):
        return replace(s, where={"oks" if k == "iou" else k: v for k, v in s.where.items()})
    return replace(s, name="OKS_AR" if s.name == f"AR{cap}" else f"OKS_{s.name}")


def _point_scores(pairs: PointPairs, schema: Schema, mean: Means) -> list[Score]:
    """Over everything, then per class (if there are several), per point, and of visible and hidden points."""
    every = shares(pairs, schema)
    out = [mean(name, share, pairs.picture) for name, share in every.items()]
    for c, title in enumerate(schema.classes):
        mine = pairs.label == c
        out += [mean(name, s, pairs.picture, mine, **{"class": title}) for name, s in every.items()]
    for k, title in enumerate(schema.keypoints):
        rows = np.s_[:, k]
        out += [mean(name, s, pairs.picture, rows, point=title) for name, s in every.items() if s.counted[rows].any()]
    hidden: Bools = pairs.visible == 1
    if hidden.any() and (pairs.visible > 1).any():
        for title, some in (("visible", pairs.visible > 1), ("hidden", hidden)):
            out += [mean(name, s, pairs.picture, some, visibility=title) for name, s in every.items()]
    return out


def _strays(pred: Pool, job: Job, schema: Schema, mean: Means, derived: bool, ledger: Ledger) -> list[Score]:
    """Points outside the picture and outside the prediction's own box; `derived` boxes are hulls, which hold theirs."""
    canvas = np.array([(w, h) for h, w in job.canvases], np.float64).reshape(-1, 2)[pred.picture]
    out = []
    for name, every in outside(pred, canvas).items():
        boxed = name == "outside_box"
        share = replace(every, counted=every.counted & (not (boxed and derived)))
        out.append(mean(name, share, pred.picture))
        for k, title in enumerate(schema.keypoints):
            if share.counted[:, k].any():
                out.append(mean(name, share, pred.picture, np.s_[:, k], point=title))
        off = (share.values > 0) & share.counted
        severity = Severity.INFO if boxed else Severity.WARNING
        message = f"predicted points that are called visible and lie {name.replace('_', ' the ')}"
        where = pred.picture, job.names
        _each(ledger, f"score.points_{name}", severity, message, off.sum(axis=1), *where)
        if boxed:
            message = "predictions none of whose points lies in their own box: are boxes and points in the same order?"
            none: Bools = np.all((share.values > 0) & share.counted, axis=1)
            _each(ledger, "score.points_elsewhere", Severity.WARNING, message, none, *where)
    return out


def _with_points(table: list[dict[str, Any]], scores: Sequence[Score]) -> list[dict[str, Any]]:
    """The table per class with PCK and errors."""
    own: dict[str, dict[str, float]] = {}
    for s in scores:
        if set(s.where) == {"class"} and not s.name.startswith("OKS_"):
            own.setdefault(s.where["class"], {})[s.name] = s.value
    return [row | own.get(row["class"], {}) for row in table]


def _about_truths(truth: Pool, pairs: PointPairs, names: Sequence[str], ledger: Ledger) -> None:
    """Truths that cannot be judged as one might think."""
    message = "truths without a labelled point: neither found nor missed"
    none: Bools = ~truth.ignore & ~truth.counted
    _each(ledger, "score.no_points", Severity.INFO, message, none, truth.picture, names)
    message = (
        "truths without a size (no area, or one labelled point and no box): their OKS is 0 unless the point is met "
        "exactly, and PCK leaves out those whose box has no extent; give boxes or areas"
    )
    flat = np.isnan(pairs.size) | (truth.areas[truth.counted] <= 0)
    _each(ledger, "score.no_size", Severity.WARNING, message, flat, pairs.picture, names)


def _each(
    ledger: Ledger, check: str, severity: Severity, message: str, count: np.ndarray, picture: Ints, names: Sequence[str]
) -> None:
    """One entry per picture with the sum of `count` [N] over its objects, where that is not 0."""
    total = np.bincount(picture, count, len(names)).astype(int)
    for i in np.flatnonzero(total):
        ledger.add(check, severity, message, names[int(i)], int(total[i]))
