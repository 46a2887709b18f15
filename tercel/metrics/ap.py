"""Judging boxes, axis-aligned or oriented: AP and AR with intervals, tables, curves, and what to doubt.

Which detection found what, and scores under resampled pictures, come from `match` and `stats`; hotcoco (see `coco`)
computes the same AP independently, and the two are compared in every run. Scores of axis-aligned boxes under the COCO
protocol are hotcoco's to the last bit; those of oriented boxes and of other rules are our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Score, Severity, TercelError
from tercel.core.objects import Objects
from tercel.metrics.breakdown import (
    at,
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
    interval,
    mean_over_classes,
    picture_weights,
    resample,
)

Geometry = Literal["boxes", "oriented"]

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
    _check_options(max_detections, ious, interpolation, resamples, geometry, matching)
    names = _check_pictures(truth, predictions, classes, ids)
    if geometry == "oriented":
        _check_oriented(names, truth, predictions)
    parts = {"source": sources, "group": groups}
    for kind, part in parts.items():
        if part is not None and len(part) != len(names):
            raise TercelError(f"{len(part)} {kind}s for {len(names)} pictures", f"name the {kind} of every picture")
    order = sorted(range(len(names)), key=_natural(names).__getitem__) if ids is not None else list(range(len(names)))
    job = _Job(
        geometry, matching, tuple(ious), tuple(int(c) for c in max_detections), interpolation, resamples, seed,
        tuple(classes), tuple(names[i] for i in order), tuple(truth[i].size for i in order),
        {kind: [part[i] for i in order] for kind, part in parts.items() if part is not None},
    )  # fmt: skip
    all_truth, all_pred = Pool.of([truth[i] for i in order]), Pool.of([predictions[i] for i in order])
    hulls = all_truth.hulls(), all_pred.hulls()
    if geometry == "oriented":
        beside = replace(job, geometry="boxes", resamples=0, parts={})
        return replace(_judge(all_truth, all_pred, job), hulls=_judge(*hulls, beside))
    report = _judge(*hulls, job)
    if all_truth.obbs is not None or all_pred.obbs is not None:
        message = "these are scores of axis-aligned hulls, not of the oriented boxes that the files hold"
        report.findings.append(Finding("score.hulls", Severity.WARNING, message))
    return report


@dataclass(frozen=True)
class _Job:
    """What to compute, and of which pictures: names, (H, W) of each, and the parts they form."""

    geometry: Geometry
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

    def rule(self) -> dict[str, Any]:
        return {
            "protocol": self.matching,
            "geometry": self.geometry,
            "matching": self.matching,
            "ious": list(self.ious),
            "max_detections": list(self.caps),
            "interpolation": self.interpolation,
            "sizes_px2": {k: list(v) for k, v in SIZES.items()},
            "resamples": self.resamples,
            "seed": self.seed,
            "pictures": len(self.names),
        }


def _judge(truth: Pool, pred: Pool, job: _Job) -> BoxReport:
    """All numbers of one geometry; oriented where the pools hold oriented boxes."""
    classes, caps, cap = job.classes, job.caps, job.caps[-1]
    m = match_all(truth, pred, ious=job.ious, sizes=SIZES, cap=cap, rule=job.matching)
    exact = job.resamples == 0 or max(len(pred), len(truth)) * 8 > EXACT
    weights = picture_weights(len(job.names), job.resamples, job.seed, np.float64 if exact else np.float32)
    sampled, precision, score_at, doubts = _numbers(truth, pred, m, weights, job)
    rows, cut = slice_rows(m, len(classes), job.parts, job.interpolation)
    best = [best_f1(m, c) for c in range(len(classes))]
    scores = _scores(m, sampled, classes, caps) + _operating_point(m, weights)
    return BoxReport(
        scores=scores + _class_scores(m, sampled, classes, cap),
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
    truth: Pool, pred: Pool, m: Matching, weights: Array, job: _Job
) -> tuple[Resampled, Array, Array, list[Finding]]:
    """Scores with their draws, precision and score [T,P,C] along the curves, and where two computations differ.

    Column 0 of the draws becomes the score itself in double precision: hotcoco's of axis-aligned boxes under COCO's
    rule, our own elsewhere.
    """
    n, caps, interpolation = len(job.classes), job.caps, job.interpolation
    drawn = resample(m, n, weights, caps, interpolation)
    s = Resampled(*(x.astype(np.float64) for x in (drawn.ap, drawn.recall, drawn.recall_at)))
    theirs = None
    if job.matching == "coco":
        steps = 10 if interpolation == "11" else 100
        theirs = evaluate(truth, pred, n, ious=job.ious, caps=caps, steps=steps)
    if theirs is not None and job.geometry == "boxes":
        precision, recall, score = theirs
        check_invariants(m, drawn, len(pred), precision if interpolation != "every" else None, recall)
        if interpolation != "every":
            s.ap[..., 0] = np.moveaxis(precision.mean(axis=1)[..., -1], -1, 0)
        s.recall[..., 0] = np.moveaxis(recall[..., -1], -1, 0)
        s.recall_at[..., 0] = np.moveaxis(recall[:, :, 0, :], -1, 0)
        return s, precision[..., 0, -1], score[..., 0, -1], []
    check_invariants(m, drawn, len(pred))
    own = resample(m, n, np.ones((pred.pictures, 1)), caps, interpolation)
    for mine, plainly in ((s.ap, own.ap), (s.recall, own.recall), (s.recall_at, own.recall_at)):
        mine[..., 0] = plainly[..., 0]
    doubts = second_opinion(s, theirs[0] if interpolation != "every" else None, theirs[1]) if theirs else []
    curves = curves_of(m, n) if interpolation == "101" else (np.zeros(0), np.zeros(0))
    return s, *curves, doubts


def _check_options(
    caps: Sequence[int], ious: Sequence[float], interpolation: str, resamples: int, geometry: str, matching: str
) -> None:
    if not caps or min(caps) < 1 or list(caps) != sorted(set(caps)):
        raise TercelError(f"max_detections {tuple(caps)} are not rising positive numbers", "for example (1, 10, 100)")
    if not ious or min(ious) <= 0 or max(ious) > 1 or list(ious) != sorted(set(ious)):
        raise TercelError(f"IoU thresholds {tuple(ious)} do not rise within 0..1", "for example (0.5, 0.75)")
    if len(ious) * len(SIZES) > MOST_BITS:
        raise TercelError(f"{len(ious)} IoU thresholds are too many", f"give at most {MOST_BITS // len(SIZES)}")
    if interpolation not in ("101", "every", "11"):
        raise TercelError(f"interpolation {interpolation!r} is not one of 101, every, 11", "choose one of them")
    if geometry not in ("boxes", "oriented"):
        raise TercelError(f"geometry {geometry!r} is neither boxes nor oriented", "choose one of them")
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


# -- scores -------------------------------------------------------------------------------------------------------


def _score(name: str, samples: Array, n: int, spread: bool, **where: Any) -> Score:
    """Column 0 is the value, the others are draws; no interval when the truths lie in fewer than two pictures."""
    low, high = interval(float(samples[0]), samples[1:]) if spread else (math.nan, math.nan)
    return Score(name, float(samples[0]), n, low, high, where)


def _spread(m: Matching, truths: NDArray[np.bool_]) -> bool:
    """Do these truths lie in at least two pictures? From one, resampling shows no spread."""
    picture = m.truth.picture[truths]
    return len(picture) > 0 and bool((picture != picture[0]).any())


def _scores(m: Matching, s: Resampled, classes: Sequence[str], caps: Sequence[int]) -> list[Score]:
    """AP, AP50, AP75, AP per size, AR per cap, AR per size: means over classes that have truth."""
    with_n = [(int(c.sum()), _spread(m, c)) for c in m.countable]
    n, spread = with_n[0]
    ap = mean_over_classes(s.ap)  # [A,T,1+R]
    out = [_score("AP", ap[0].mean(axis=0), n, spread)]
    for percent in (50, 75):
        t = at(m, percent / 100)
        if t is not None:
            out.append(_score(f"AP{percent}", ap[0, t], n, spread))
    if len(m.ious) == 1 and at(m, 0.5) is None:
        out.append(_score(f"AP{100 * m.ious[0]:g}", ap[0, 0], n, spread))
    sizes = list(enumerate(m.sizes))[1:]
    out += [_score(f"AP_{size}", ap[a].mean(axis=0), *with_n[a]) for a, size in sizes]
    ar = mean_over_classes(s.recall_at).mean(axis=1)
    out += [_score(f"AR{cap}", ar[i], n, spread) for i, cap in enumerate(caps)]
    by_size = mean_over_classes(s.recall).mean(axis=1)
    return out + [_score(f"AR_{size}", by_size[a], *with_n[a]) for a, size in sizes]


def _class_scores(m: Matching, s: Resampled, classes: Sequence[str], cap: int) -> list[Score]:
    out = []
    for c, name in enumerate(classes):
        truths = m.countable[0] & (m.truth.labels == c)
        n, spread = int(truths.sum()), _spread(m, truths)
        out.append(_score("AP", s.ap[0, :, c].mean(axis=0), n, spread, **{"class": name}))
        for percent in (50, 75):
            t = at(m, percent / 100)
            if t is not None:
                out.append(_score(f"AP{percent}", s.ap[0, t, c], n, spread, **{"class": name}))
        out.append(_score(f"AR{cap}", s.recall[0, :, c].mean(axis=0), n, spread, **{"class": name}))
    return out


def _operating_point(m: Matching, weights: Array) -> list[Score]:
    """precision, recall, F1 of all classes together where F1 is best; the draws keep that threshold."""
    best = best_f1(m, None)
    kept = m.pred.scores >= best["threshold"]  # NaN keeps none
    count = lambda picture: np.bincount(picture, minlength=m.pred.pictures).astype(np.float64) @ weights  # noqa: E731
    found = count(m.pred.picture[kept & m.hit_at_first])
    total = count(m.pred.picture[kept & ~m.spared_at_first])
    truths = count(m.truth.picture[m.countable[0]])
    n, spread = int(m.countable[0].sum()), _spread(m, m.countable[0])
    where = {"iou": m.ious[0], "threshold": best["threshold"] if kept.any() else None}
    nan = np.full(len(found), np.nan)
    ratios = {
        "precision": np.divide(found, total, out=nan.copy(), where=(total > 0) & (truths > 0)),
        "recall": np.divide(found, truths, out=nan.copy(), where=truths > 0),
        "F1": np.divide(2 * found, total + truths, out=nan.copy(), where=(truths > 0) & (total > 0)),
    }
    return [_score(name, x, n, spread, **where) for name, x in ratios.items()]
