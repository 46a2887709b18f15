"""Judging boxes, axis-aligned or oriented: AP and AR with intervals, tables, curves, and what to doubt.

Which detection found what, and scores under resampled pictures, come from `match` and `stats`; hotcoco (see `coco`)
computes the same AP independently, and the two are compared in every run. Scores of axis-aligned boxes under the COCO
protocol are hotcoco's to the last bit; those of oriented boxes and of other rules are our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from tercel.core.finding import Finding, Score, Severity, TercelError
from tercel.core.objects import Objects
from tercel.metrics.ap_scores import class_scores, operating_point, overall_scores
from tercel.metrics.breakdown import (
    best_f1,
    class_rows,
    curve_rows,
    curves_of,
    plain,
    size_rows,
    slice_rows,
    threshold_rows,
)
from tercel.metrics.caution import cautions, check_invariants, second_opinion
from tercel.metrics.coco import evaluate
from tercel.metrics.greedy import Rule
from tercel.metrics.match import IOUS, MOST_BITS, SIZES, Matching, Pool, match_all
from tercel.metrics.stats import (
    EXACT,
    Array,
    Interpolation,
    Resampled,
    picture_weights,
    resample,
)

Geometry = Literal["boxes", "oriented"]
Kind = Geometry | Literal["keypoints", "crowd"]

MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True, eq=False)
class BoxReport:
    """What a set of boxes is worth.

    Attributes:
        scores: over all classes (``where`` is empty), then per class (``where["class"]``). `n` is the number of truths
            that count towards the score. Intervals are over pictures. precision, recall and F1 hold at IoU .5 for all
            classes together, at the score threshold with the best F1, which ``where`` names.
        table: one row per class, counts at the first overlap threshold (`iou`, .5 by default) over ALL detections
            within the cap, whatever their score: AP, AP50, GT, TP, FP, FN, ignored (found an ignore region),
            beyond_cap, GT_ignored (truths that do not count); then the score `threshold` of the best F1 with
            precision, recall and F1 there.
        thresholds: AP, GT, TP, FP, FN and ignored at every overlap threshold, of all classes (class None: mean AP, sums
            of the counts) and of each.
        sizes: counts as in the table per size bin (a detection that found nothing belongs to the bin of its own area).
        slices: the same per source and per group of pictures (`by`, `name`), where there are several.
        curves: precision and score at 101 recalls for IoU .50 and .75, per class, and as the mean over the classes
            (class None, without scores). Empty under other interpolations.
        findings: what limits or explains the numbers.
        rule: what was computed: geometry, matching, thresholds, caps, interpolation, resamples, seed.
        matching: every detection with what it found, for galleries.
        ids: picture ids in the order of `matching`'s picture numbers.
        hulls: of oriented boxes, what their axis-aligned hulls are worth, without intervals; else None.
    """

    scores: list[Score]
    table: list[dict[str, Any]]
    thresholds: list[dict[str, Any]]
    sizes: list[dict[str, Any]]
    slices: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    findings: list[Finding]
    rule: dict[str, Any]
    matching: Matching
    ids: tuple[str, ...]
    hulls: BoxReport | None = None

    def __getitem__(self, name: str) -> float:
        """Value of a score over all classes, for example ``report["AP50"]``.

        Raises:
            KeyError: no such score; the message lists those there are.
        """
        values = {s.name: s.value for s in self.scores if "class" not in s.where}
        if name not in values:
            raise KeyError(f"{name}; there are {', '.join(values)}")
        return values[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is undefined is null."""
        rows = {k: plain(getattr(self, k)) for k in ("table", "thresholds", "sizes", "slices", "curves")}
        scores, findings = [s.to_json() for s in self.scores], [f.to_json() for f in self.findings]
        out = {"rule": plain(self.rule), "scores": scores, **rows, "findings": findings}
        if self.hulls is not None:
            hulls = self.hulls.to_json()
            out["hulls"] = {k: hulls[k] for k in ("rule", "scores", "table", "thresholds", "sizes")}
        return out


def judge_boxes(
    truth: Sequence[Objects],
    predictions: Sequence[Objects],
    classes: Sequence[str],
    *,
    max_detections: Sequence[int] = MAX_DETECTIONS,
    resamples: int = 200,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    ious: Sequence[float] = IOUS,
    interpolation: Interpolation = "101",
    geometry: Geometry = "boxes",
    matching: Rule = "coco",
    sources: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> BoxReport:
    """Judge boxes by the COCO protocol, or with other thresholds, matching and interpolations.

    Args:
        truth, predictions: one Objects per picture, on the same canvas; predictions carry scores. Truths with `ignore`
            are COCO's crowd regions: overlap is intersection over the detection's area, and any number may find one.
        classes: names of the class ids 0..C-1.
        max_detections: caps per picture and class, rising; AR is given under each, everything else under the last.
        resamples: bootstrap draws of pictures for the 95 % intervals; 0 = none (NaN).
        ids: names of the pictures. They settle ties between equal scores in different pictures (in rising order,
            numbers as numbers), so that the order of the pictures does not matter; without ids it is the order given.
        ious: overlap thresholds; AP is the mean over them.
        interpolation: "101" (COCO), "every" (area under the curve, VOC 2010) or "11" (VOC 2007).
        geometry: "boxes": axis-aligned boxes, and of oriented ones the hulls (a finding says so). "oriented": oriented
            boxes; size bins by length * width. Their hulls are judged too and stand beside, in `hulls`.
        matching: "coco": each detection takes the best truth that is free; "voc": it looks at its best truth alone
            (Pascal VOC, Object-Detection-Metrics).
        sources, groups: where each picture comes from, and with which others it belongs, for `slices`.

    Raises:
        TercelError: lengths or canvases that differ, predictions without scores, labels beyond the classes, ids that
            occur twice, caps or thresholds that do not rise, objects without oriented boxes where these are judged.
        AssertionError: the numbers contradict each other; a bug of ours, please report it.
    """
    if geometry not in ("boxes", "oriented"):
        raise TercelError(f"geometry {geometry!r} is neither boxes nor oriented", "choose one of them")
    job, truth, predictions = prepare(
        truth, predictions, classes, geometry=geometry, matching=matching, ious=ious, caps=max_detections,
        interpolation=interpolation, resamples=resamples, seed=seed, ids=ids, sources=sources, groups=groups,
    )  # fmt: skip
    if geometry == "oriented":
        _check_oriented(job.names, truth, predictions)
    all_truth, all_pred = Pool.of(truth), Pool.of(predictions)
    hulls = all_truth.hulls(), all_pred.hulls()
    if geometry == "oriented":
        beside = replace(job, geometry="boxes", resamples=0, parts={})
        return replace(judge_pools(all_truth, all_pred, job), hulls=judge_pools(*hulls, beside))
    report = judge_pools(*hulls, job)
    if all_truth.obbs is not None or all_pred.obbs is not None:
        message = "these are scores of axis-aligned hulls, not of the oriented boxes that the files hold"
        report.findings.append(Finding("score.hulls", Severity.WARNING, message))
    return report


@dataclass(frozen=True)
class Job:
    """What to compute, and of which pictures: names, (H, W) of each, and the parts they form."""

    geometry: Kind
    matching: Rule
    ious: tuple[float, ...]
    caps: tuple[int, ...]
    interpolation: Interpolation
    resamples: int
    seed: int
    classes: tuple[str, ...]
    names: tuple[str, ...]
    canvases: tuple[tuple[int, int], ...]
    parts: Mapping[str, Sequence[str]]
    sizes: Mapping[str, tuple[float, float]] = field(default_factory=lambda: SIZES)

    def rule(self) -> dict[str, Any]:
        return {
            "protocol": self.matching,
            "geometry": self.geometry,
            "matching": self.matching,
            "ious": list(self.ious),
            "max_detections": list(self.caps),
            "interpolation": self.interpolation,
            "sizes_px2": {k: list(v) for k, v in self.sizes.items()},
            "resamples": self.resamples,
            "seed": self.seed,
            "pictures": len(self.names),
        }


def prepare(
    truth: Sequence[Objects],
    predictions: Sequence[Objects],
    classes: Sequence[str],
    *,
    geometry: Kind,
    matching: Rule,
    ious: Sequence[float],
    caps: Sequence[int],
    interpolation: Interpolation,
    resamples: int,
    seed: int,
    ids: Sequence[str] | None,
    sources: Sequence[str] | None,
    groups: Sequence[str] | None,
    sizes: Mapping[str, tuple[float, float]] = SIZES,
) -> tuple[Job, list[Objects], list[Objects]]:
    """The job, and both sides in the order of the ids, once everything fits together.

    Args:
        sizes: bins of the truths' areas in px^2. The others as in `judge_boxes`.

    Raises:
        TercelError: as `judge_boxes`.
    """
    _check_options(caps, ious, interpolation, resamples, matching, len(sizes))
    names = _check_pictures(truth, predictions, classes, ids)
    parts = {"source": sources, "group": groups}
    for kind, part in parts.items():
        if part is not None and len(part) != len(names):
            raise TercelError(f"{len(part)} {kind}s for {len(names)} pictures", f"name the {kind} of every picture")
    order = sorted(range(len(names)), key=_natural(names).__getitem__) if ids is not None else list(range(len(names)))
    job = Job(
        geometry, matching, tuple(ious), tuple(int(c) for c in caps), interpolation, resamples, seed,
        tuple(classes), tuple(names[i] for i in order), tuple(truth[i].size for i in order),
        {kind: [part[i] for i in order] for kind, part in parts.items() if part is not None}, sizes,
    )  # fmt: skip
    return job, [truth[i] for i in order], [predictions[i] for i in order]


def judge_pools(truth: Pool, pred: Pool, job: Job) -> BoxReport:
    """All numbers of one geometry; that of points or oriented boxes where the pools hold such."""
    classes, caps, cap = job.classes, job.caps, job.caps[-1]
    m = match_all(truth, pred, ious=job.ious, sizes=job.sizes, cap=cap, rule=job.matching)
    exact = job.resamples == 0 or max(len(pred), len(truth)) * 8 > EXACT
    weights = picture_weights(len(job.names), job.resamples, job.seed, np.float64 if exact else np.float32)
    sampled, precision, score_at, doubts = _numbers(truth, pred, m, weights, job)
    rows, cut = slice_rows(m, len(classes), job.parts, job.interpolation)
    best = [best_f1(m, c) for c in range(len(classes))]
    scores = overall_scores(m, sampled, caps, job.geometry == "keypoints") + operating_point(m, weights)
    return BoxReport(
        scores=scores + class_scores(m, sampled, classes, cap),
        table=class_rows(m, sampled, classes, pred, best),
        thresholds=threshold_rows(m, sampled, classes),
        sizes=size_rows(m, sampled),
        slices=rows,
        curves=curve_rows(precision, score_at, classes, job.ious) if job.interpolation == "101" else [],
        findings=[*cautions(truth, pred, classes, ids=job.names, cap=cap, canvases=job.canvases), *doubts, *cut],
        rule=job.rule(),
        matching=m,
        ids=job.names,
    )


def _numbers(
    truth: Pool, pred: Pool, m: Matching, weights: Array, job: Job
) -> tuple[Resampled, Array, Array, list[Finding]]:
    """Scores with their draws, precision and score [T,P,C] along the curves, and where two computations differ.

    Column 0 of the draws becomes the score itself in double precision: hotcoco's of axis-aligned boxes and of points
    under COCO's rule, our own elsewhere. Overlaps of boxes are the same to the last bit in both, so that a difference
    is a bug; those of oriented boxes and the exponentials of points may round differently.
    """
    n, caps, interpolation = len(job.classes), job.caps, job.interpolation
    drawn = resample(m, n, weights, caps, interpolation)
    s = Resampled(*(x.astype(np.float64) for x in (drawn.ap, drawn.recall, drawn.recall_at)))
    theirs = None
    if job.matching == "coco":
        steps = 10 if interpolation == "11" else 100
        theirs = evaluate(truth, pred, n, ious=job.ious, caps=caps, steps=steps, sizes=job.sizes)
    if theirs is not None and job.geometry != "oriented":
        precision, recall, score = theirs
        doubts = []
        if job.geometry == "boxes":
            check_invariants(m, drawn, len(pred), precision if interpolation != "every" else None, recall)
        else:
            check_invariants(m, drawn, len(pred))
            doubts = second_opinion(s, precision if interpolation != "every" else None, recall)
        if interpolation != "every":
            s.ap[..., 0] = np.moveaxis(precision.mean(axis=1)[..., -1], -1, 0)
        s.recall[..., 0] = np.moveaxis(recall[..., -1], -1, 0)
        s.recall_at[..., 0] = np.moveaxis(recall[:, :, 0, :], -1, 0)
        return s, precision[..., 0, -1], score[..., 0, -1], doubts
    check_invariants(m, drawn, len(pred))
    own = resample(m, n, np.ones((pred.pictures, 1)), caps, interpolation)
    for mine, plainly in ((s.ap, own.ap), (s.recall, own.recall), (s.recall_at, own.recall_at)):
        mine[..., 0] = plainly[..., 0]
    doubts = second_opinion(s, theirs[0] if interpolation != "every" else None, theirs[1]) if theirs else []
    curves = curves_of(m, n) if interpolation == "101" else (np.zeros(0), np.zeros(0))
    return s, *curves, doubts


def _check_options(
    caps: Sequence[int], ious: Sequence[float], interpolation: str, resamples: int, matching: str, bins: int
) -> None:
    if not caps or min(caps) < 1 or list(caps) != sorted(set(caps)):
        raise TercelError(f"max_detections {tuple(caps)} are not rising positive numbers", "for example (1, 10, 100)")
    if not ious or min(ious) <= 0 or max(ious) > 1 or list(ious) != sorted(set(ious)):
        raise TercelError(f"IoU thresholds {tuple(ious)} do not rise within 0..1", "for example (0.5, 0.75)")
    if len(ious) * bins > MOST_BITS:
        raise TercelError(f"{len(ious)} IoU thresholds are too many", f"give at most {MOST_BITS // bins}")
    if interpolation not in ("101", "every", "11"):
        raise TercelError(f"interpolation {interpolation!r} is not one of 101, every, 11", "choose one of them")
    if matching not in ("coco", "voc"):
        raise TercelError(f"matching {matching!r} is neither coco nor voc", "choose one of them")
    if resamples < 0:
        raise TercelError(f"resamples = {resamples} is negative", "0 = no intervals")


def _check_pictures(
    truth: Sequence[Objects], predictions: Sequence[Objects], classes: Sequence[str], ids: Sequence[str] | None
) -> tuple[str, ...]:
    """The names of the pictures, once both sides fit together."""
    if len(truth) != len(predictions) or (ids is not None and len(ids) != len(truth)):
        raise TercelError(
            f"{len(truth)} truths, {len(predictions)} predictions, {len(ids or truth)} ids: not the same pictures",
            "give one Objects per picture on both sides; Objects.empty(size) where nothing was found",
        )
    names = tuple(map(str, ids)) if ids is not None else tuple(str(i) for i in range(len(truth)))
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise TercelError(f"picture id {twice!r} occurs twice", "judge every picture once")
    for name, t, p in zip(names, truth, predictions, strict=True):
        if t.size != p.size:
            raise TercelError(
                f"picture {name}: truth lies on {t.size[0]}x{t.size[1]} px, predictions on {p.size[0]}x{p.size[1]}",
                "map the predictions back to the original picture before judging them",
            )
        if p.scores is None and len(p):
            raise TercelError(f"picture {name}: predictions have no scores", "AP needs a score for each detection")
        top = max(int(t.labels.max(initial=-1)), int(p.labels.max(initial=-1)))
        if top >= len(classes):
            raise TercelError(
                f"picture {name}: class id {top}, but only {len(classes)} classes", "list all class names"
            )
    return names


def _check_oriented(names: Sequence[str], truth: Sequence[Objects], predictions: Sequence[Objects]) -> None:
    """A hull is never taken for an oriented box."""
    for name, *sides in zip(names, truth, predictions, strict=True):
        for what, o in zip(("truth", "predictions"), sides, strict=True):
            if len(o) and o.obbs is None:
                message = f"picture {name}: {what} without oriented boxes, so oriented boxes cannot be judged"
                raise TercelError(message, "judge axis-aligned boxes: --task boxes, geometry='boxes'")


def _natural(names: Sequence[str]) -> list[Any]:
    """Sort keys: numbers by value when all ids are numbers (as COCO's are), else text."""
    if all(n.isascii() and n.removeprefix("-").isdigit() for n in names):
        return [(int(n), n) for n in names]
    return list(names)
