"""Judging persons in crowds as CrowdHuman does: AP50, MR-2, JI, by density and occlusion; COCO's scores beside them.

The rule is that of CrowdDet's evaluation (Chu et al. 2020, lib/evaluate), which CrowdHuman's figures come from. Within
a picture detections choose in order of falling score. Each takes the free person that it overlaps most, if their IoU is
*above* .5; otherwise, if an ignore region covers more than half of it, it is neither right nor wrong; else it is a
false positive. All boxes are first cut at the picture's border. There is no cap unless one is asked for. Classes play
no part: whatever counts is a person. (CrowdDet adds 1e-6 px^2 to the unions, which we do not.)

AP50, MR-2: `tercel.metrics.miss_rate`. JI: `tercel.metrics.jaccard`. COCO's scores: `tercel.metrics.ap`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tercel.core.finding import Finding, Ledger, Score, Severity, TercelError
from tercel.core.objects import Objects
from tercel.metrics.ap import BoxReport, judge_pools, prepare
from tercel.metrics.breakdown import plain
from tercel.metrics.crowd_scores import CrowdScores, Scene, pairs_above
from tercel.metrics.greedy import choose
from tercel.metrics.jaccard import THRESHOLDS, Jaccard, Side, jaccard
from tercel.metrics.match import IOUS, Floats, Ints, Pool
from tercel.metrics.miss_rate import FPPI, MissCurve, Sweep, miss_curve
from tercel.metrics.stats import Array

IOU = 0.5
PARTS = ("class", "persons", "overlap", "occlusion")  # of what a score may be
_POINTS = 200  # of the drawn curve


@dataclass(frozen=True, eq=False)
class CrowdReport:
    """What detections of persons in crowds are worth.

    Attributes:
        scores: AP50, MR-2 (0 is best) and JI; ``where`` is empty over everything, else names a slice, for example
            ``{"persons": "10 to 19"}``. `n` counts persons, for JI the pictures that hold them. Intervals are over
            pictures. COCO's scores of the same boxes stand beside them without intervals, under their own names but for
            `COCO_AP50` and `AR`, which is recall within the cap.
        counts: pictures, persons, ignored (truths), detections, beyond_cap; and by the rule of AP50 over all scores TP,
            FP, spared (detections on ignore regions).
        miss_rates: one row per point of MR-2: `fppi` (false positives per picture), `miss_rate`, `score` from which
            detections count there, `reached` (False: the curve ends before, and its last miss rate is taken).
        miss_curve: the curve itself, as columns of the same names.
        jaccard: one row per score threshold: `threshold`, `JI`, and the counts `matched`, `detections`, `persons`.
        crowds: one row per slice: `by` (persons in the picture, overlap of a person with another, occlusion), `name`,
            `pictures`, `n` persons, `recall` at JI's threshold, AP50, MR-2 and JI, each with `_low` and `_high`. Slices
            by overlap and occlusion are of persons: the others are neither found nor missed, all false positives
            remain, and there is no JI.
        findings: what limits or explains the numbers. rule: what was computed; `max_detections` is empty without a cap.
        boxes: COCO's judgement of the same boxes. ids: of the pictures.
    """

    scores: list[Score]
    counts: dict[str, int]
    miss_rates: list[dict[str, Any]]
    miss_curve: dict[str, list[float]]
    jaccard: list[dict[str, Any]]
    crowds: list[dict[str, Any]]
    findings: list[Finding]
    rule: dict[str, Any]
    boxes: BoxReport = field(repr=False)
    ids: tuple[str, ...]

    def __getitem__(self, name: str) -> float:
        """Value of a score over everything, for example ``report["MR-2"]``.

        Raises:
            KeyError: no such score; the message lists those there are.
        """
        values = {s.name: s.value for s in self.scores if not set(PARTS) & set(s.where)}
        if name not in values:
            raise KeyError(f"{name}; there are {', '.join(values)}")
        return values[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is undefined is null. COCO's tables stand beside those of the crowd."""
        own = {k: plain(getattr(self, k)) for k in ("rule", "counts", "miss_rates", "miss_curve", "jaccard", "crowds")}
        coco = {k: plain(getattr(self.boxes, k)) for k in ("table", "thresholds", "sizes", "slices", "curves")}
        scores, findings = [s.to_json() for s in self.scores], [f.to_json() for f in self.findings]
        return {**own, "scores": scores, **coco, "findings": findings}


def judge_crowd(
    truth: Sequence[Objects],
    predictions: Sequence[Objects],
    classes: Sequence[str] = ("person",),
    *,
    max_detections: int | None = None,
    resamples: int = 200,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> CrowdReport:
    """Judge persons by CrowdHuman's evaluation, and by COCO's beside it.

    Args:
        truth, predictions: one Objects per picture, on the same canvas; predictions carry scores. Truths with `ignore`
            are ignore regions; their `occlusion`, where there is one, makes slices.
        classes: names of the class ids, for COCO's scores.
        max_detections: cap per picture, for COCO's scores per picture and class; None = no cap, as in CrowdHuman.
        resamples, seed, ids, sources, groups: as in `tercel.metrics.ap.judge_boxes`.

    Raises:
        TercelError: as `judge_boxes`; oriented boxes; a cap below 1.
        AssertionError: the numbers contradict each other; a bug of ours, please report it.
    """
    most = max((len(o) for side in (truth, predictions) for o in side), default=0)
    cap = most + 1 if max_detections is None else max_detections
    job, truth, predictions = prepare(
        truth, predictions, classes, geometry="boxes", matching="coco", ious=IOUS,
        caps=sorted({min(1, cap), min(10, cap), cap}), interpolation="101", resamples=resamples, seed=seed, ids=ids,
        sources=sources, groups=groups,
    )  # fmt: skip
    sides = Pool.of(truth), Pool.of(predictions)
    if any(side.obbs is not None for side in sides):
        raise TercelError("crowds are judged by axis-aligned boxes", "judge oriented boxes: --task oriented")
    boxes = judge_pools(*sides, replace(job, resamples=0))
    scene = _meet(_people(sides[0], job.canvases), _people(sides[1], job.canvases), max_detections)
    judged = CrowdScores(scene, resamples, seed)
    rows, sliced = judged.slices(_occlusion(truth)[~sides[0].ignore])
    curve = miss_curve(scene.sweep, len(truth))
    rule = job.rule() | {
        "protocol": "crowd",
        "iou": IOU,
        "max_detections": [] if max_detections is None else [max_detections],
        "fppi": list(FPPI),
        "JI_threshold": judged.threshold,
    }
    return CrowdReport(
        scores=[*judged.overall(), *_coco_scores(boxes, cap), *sliced],
        counts=_counts(scene, len(predictions), len(sides[1])),
        miss_rates=_miss_rows(curve),
        miss_curve=_thinned(curve),
        jaccard=_jaccard_rows(scene.jaccard, judged.by_threshold),
        crowds=rows,
        findings=[*boxes.findings, *_findings(sides, job.canvases, job.names, classes)],
        rule=rule,
        boxes=boxes,
        ids=job.names,
    )


def crowd_samples(
    truth: Sequence[Objects], predictions: Sequence[Objects], *, resamples: int, seed: int
) -> dict[str, Array]:
    """AP50, MR-2 and JI [1+R] without a cap: the score, then the draws of `tercel.metrics.stats.picture_weights`."""
    canvases = [t.size for t in truth]
    scene = _meet(_people(Pool.of(truth), canvases), _people(Pool.of(predictions), canvases), None)
    return CrowdScores(scene, resamples, seed).samples()


def _coco_scores(boxes: BoxReport, cap: int) -> list[Score]:
    """COCO's scores; the name AP50 is taken, and one or ten detections say nothing about a crowd."""
    names = {"AP50": "COCO_AP50", f"AR{cap}": "AR"}
    left_out = {"AR1", "AR10"} - set(names)
    return [replace(s, name=names.get(s.name, s.name)) for s in boxes.scores if s.name not in left_out]


# -- matching -------------------------------------------------------------------------------------------------------


def _people(pool: Pool, canvases: Sequence[tuple[int, int]]) -> Pool:
    """All objects as one class, cut at the borders of their pictures: x1 to 0..W-1 and x2 to 0..W, as in CrowdDet."""
    far = _corners(canvases)[pool.picture]
    boxes = np.concatenate([np.clip(pool.boxes[:, :2], 0, far - 1), np.clip(pool.boxes[:, 2:], 0, far)], axis=1)
    return replace(pool, boxes=boxes, labels=np.zeros_like(pool.labels))


def _corners(canvases: Sequence[tuple[int, int]]) -> Floats:
    """f64 [I,2], (W, H) of each picture."""
    return np.array([(w, h) for h, w in canvases], np.float64).reshape(-1, 2)


def _meet(truth: Pool, pred: Pool, cap: int | None) -> Scene:
    """Match by the rule of AP50, and count for JI."""
    if cap is not None:
        pred = pred.take(np.flatnonzero(_rank(pred) < cap))
    counts = ~truth.ignore
    persons, regions = (truth.take(np.flatnonzero(rows)) for rows in (counts, truth.ignore))
    number = np.where(counts, np.cumsum(counts) - 1, -1)  # of a person among those that count
    d, g, overlap = pairs_above(truth, pred, IOU)
    order = np.lexsort((pred.picture, -pred.scores))  # ties: pictures in order, then rows in order
    taken = _choose(np.argsort(order)[d], g, overlap, truth, len(pred))
    person = np.append(number, -1)[taken]  # index -1: took nothing
    judged = (person >= 0) | (taken < 0)
    rows = order[judged]
    sweep = Sweep(pred.picture[rows], pred.scores[rows], person[judged], persons.picture)

    real = counts[g]
    covered, hidden = np.zeros(len(pred), np.bool_), np.zeros(len(persons), np.bool_)
    covered[d[~real]] = True
    hidden[pairs_above(regions, persons, IOU)[0]] = True
    counted = jaccard(
        d[real], number[g[real]], overlap[real], scores=pred.scores, detections=Side(pred.picture, covered),
        persons=Side(persons.picture, hidden), pictures=truth.pictures,
    )  # fmt: skip
    return Scene(sweep, counted, persons, int((~judged).sum()), len(regions))


def _choose(d: Ints, g: Ints, overlap: Floats, truth: Pool, count: int) -> Ints:
    """i64 [D], the truth that each detection takes, -1 = none; d, g, overlap: pairs [P], detections in their turn.

    `choose` gives equal overlaps to the later truth, CrowdDet to the earlier one: so truths are counted from the end.
    """
    last = len(truth) - 1
    _, _, partner = choose(
        d, last - g, overlap, ignore=truth.ignore[::-1], countable=~truth.ignore[None, ::-1], count=count, ious=(IOU,)
    )
    return np.where(partner >= 0, last - partner, -1)


def _rank(pred: Pool) -> Ints:
    """i64 [D], 0 for the highest score of its picture."""
    order = np.lexsort((-pred.scores, pred.picture))
    first = np.searchsorted(pred.picture[order], pred.picture[order], "left")
    out: Ints = np.empty_like(order)
    out[order] = np.arange(len(order)) - first
    return out


# -- rows -----------------------------------------------------------------------------------------------------------


def _counts(scene: Scene, pictures: int, detections: int) -> dict[str, int]:
    hit, judged = int((scene.sweep.person >= 0).sum()), len(scene.sweep.person)
    return {
        "pictures": pictures, "persons": len(scene.persons), "ignored": scene.ignored, "detections": detections,
        "beyond_cap": detections - judged - scene.spared, "TP": hit, "FP": judged - hit, "spared": scene.spared,
    }  # fmt: skip


def _miss_rows(curve: MissCurve) -> list[dict[str, Any]]:
    at = [(fppi, curve.at(fppi)) for fppi in FPPI]
    return [
        {"fppi": fppi, "miss_rate": curve.miss[i], "score": curve.score[i], "reached": bool(curve.fppi[i] >= fppi)}
        if i >= 0
        else {"fppi": fppi, "miss_rate": math.nan, "score": math.nan, "reached": False}
        for fppi, i in at
    ]


def _thinned(curve: MissCurve) -> dict[str, list[float]]:
    """The curve at points evenly spaced on the log axis, as MR-2 reads it: from the last detection before the first
    false positive to the end."""
    n, wrong = len(curve.fppi), np.flatnonzero(curve.fppi > 0)
    rows = np.arange(n)[-1:]
    if len(wrong):
        grid = np.geomspace(curve.fppi[wrong[0]], curve.fppi[-1], _POINTS)
        rows = np.concatenate([[max(wrong[0] - 1, 0)], np.searchsorted(curve.fppi, grid * (1 - 1e-12)), rows])
    columns = {"fppi": curve.fppi, "miss_rate": curve.miss, "score": curve.score}
    return {k: v[np.unique(rows)].tolist() for k, v in columns.items()}


def _jaccard_rows(j: Jaccard, index: Floats) -> list[dict[str, Any]]:
    return [
        {
            "threshold": t,
            "JI": float(index[i]),
            "matched": int(j.matched[i].sum()),
            "detections": int(j.detections[i].sum()),
            "persons": int(j.persons[i].sum()),
        }
        for i, t in enumerate(THRESHOLDS)
    ]


def _occlusion(truth: Sequence[Objects]) -> Floats:
    """f64 [N] of all truths; NaN where not told."""
    parts = [np.full(len(o), np.nan) if o.occlusion is None else o.occlusion for o in truth]
    return np.concatenate([np.zeros(0), *parts]).astype(np.float64)


def _findings(
    sides: tuple[Pool, Pool], canvases: Sequence[tuple[int, int]], names: Sequence[str], classes: Sequence[str]
) -> tuple[Finding, ...]:
    ledger = Ledger()
    for what, pool in zip(("truths", "detections"), sides, strict=True):
        beyond = ((pool.boxes[:, :2] < 0) | (pool.boxes[:, 2:] > _corners(canvases)[pool.picture])).any(axis=1)
        message = f"{what} reach beyond their picture: AP50, MR-2 and JI look at what is inside, as CrowdHuman does"
        count = np.bincount(pool.picture[beyond], minlength=len(names))
        for i in np.flatnonzero(count).tolist():
            ledger.add("score.cut", Severity.INFO, message, names[i], int(count[i]))
    if len(np.unique(np.concatenate([side.labels[~side.ignore] for side in sides]))) > 1:
        message = f"AP50, MR-2 and JI take all classes ({', '.join(classes)}) for one: a person of the wrong is found"
        ledger.add("score.classes_together", Severity.WARNING, message)
    return ledger.findings()
