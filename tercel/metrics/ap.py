"""Judging boxes: COCO AP and AR with intervals, a table per class and size, curves, and what to doubt.

Scores come from hotcoco (see `coco`). Which detection found what, and scores under resampled pictures, come from
`match` and `stats`; the two sides compute the same AP independently and are compared in every run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Score, TercelError
from tercel.core.objects import Objects
from tercel.metrics.caution import cautions, check_invariants
from tercel.metrics.coco import evaluate
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

MAX_DETECTIONS = (1, 10, 100)
GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class BoxReport:
    """What a set of boxes is worth.

    Attributes:
        scores: over all classes (``where`` is empty), then per class (``where["class"]``). `n` is the number of truths
            that count towards the score. Intervals are over pictures. precision, recall and F1 hold at IoU .5 for all
            classes together, at the score threshold with the best F1, which ``where`` names.
        table: one row per class, counts at the first overlap threshold (`iou`, .5 by default) over ALL detections
            within the cap, whatever their score: AP, AP50, GT, TP, FP, FN, ignored (found an ignore region),
            beyond_cap; then the score `threshold` of the best F1 with precision, recall and F1 there.
        sizes: the same counts per size bin (a detection that found nothing belongs to the bin of its own area).
        curves: precision and score at 101 recalls for IoU .50 and .75, per class, and as the mean over the classes
            (class None, without scores). Empty under other interpolations.
        findings: what limits or explains the numbers.
        rule: what was computed: thresholds, caps, interpolation, resamples, seed.
        matching: every detection with what it found, for galleries.
        ids: picture ids in the order of `matching`'s picture numbers.
    """

    scores: list[Score]
    table: list[dict[str, Any]]
    sizes: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    findings: list[Finding]
    rule: dict[str, Any]
    matching: Matching
    ids: tuple[str, ...]

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
        return {
            "rule": _plain(self.rule),
            "scores": [s.to_json() for s in self.scores],
            "table": _plain(self.table),
            "sizes": _plain(self.sizes),
            "curves": _plain(self.curves),
            "findings": [f.to_json() for f in self.findings],
        }


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
) -> BoxReport:
    """Judge axis-aligned boxes by the COCO protocol, or with other thresholds and interpolations.

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

    Raises:
        TercelError: lengths or canvases that differ, predictions without scores, labels beyond the classes, ids that
            occur twice, caps or thresholds that do not rise.
        AssertionError: the numbers contradict each other; a bug of ours, please report it.
    """
    _check_options(max_detections, ious, interpolation, resamples)
    names = _check_pictures(truth, predictions, classes, ids)
    order = sorted(range(len(names)), key=_natural(names).__getitem__) if ids is not None else range(len(names))
    names = tuple(names[i] for i in order)
    all_truth, all_pred = Pool.of([truth[i] for i in order]), Pool.of([predictions[i] for i in order])
    caps, cap = tuple(int(c) for c in max_detections), int(max_detections[-1])
    m = match_all(all_truth, all_pred, ious=ious, sizes=SIZES, cap=cap)

    exact = resamples == 0 or max(len(all_pred), len(all_truth)) * 8 > EXACT
    weights = picture_weights(len(names), resamples, seed, np.float64 if exact else np.float32)
    sampled = resample(m, len(classes), weights, caps, interpolation)
    precision, recall, score_at = evaluate(
        all_truth, all_pred, len(classes), ious=ious, caps=caps, steps=10 if interpolation == "11" else 100
    )
    check_invariants(m, sampled, len(all_pred), precision if interpolation != "every" else None, recall)

    point = precision.mean(axis=1)[..., -1] if interpolation != "every" else None  # [T,C,A]
    ap = sampled.ap.astype(np.float64)  # [A,T,C,1+R]
    if point is not None:
        ap[..., 0] = np.moveaxis(point, -1, 0)
    sampled = Resampled(ap, sampled.recall.astype(np.float64), sampled.recall_at.astype(np.float64))
    sampled.recall[..., 0] = np.moveaxis(recall[..., -1], -1, 0)
    sampled.recall_at[..., 0] = np.moveaxis(recall[:, :, 0, :], -1, 0)

    best = [_best_f1(m, c) for c in range(len(classes))]
    scores = _scores(m, sampled, classes, caps) + _operating_point(m, weights)
    return BoxReport(
        scores=scores + _class_scores(m, sampled, classes, cap),
        table=_table(m, sampled, classes, all_pred, best),
        sizes=_size_rows(m, sampled),
        curves=_curves(precision, score_at, classes, ious) if interpolation == "101" else [],
        findings=cautions(all_truth, all_pred, classes, ids=names, cap=cap, canvases=[truth[i].size for i in order]),
        rule={
            "protocol": "coco",
            "ious": list(m.ious),
            "max_detections": list(caps),
            "interpolation": interpolation,
            "sizes_px2": {k: list(v) for k, v in SIZES.items()},
            "resamples": resamples,
            "seed": seed,
            "pictures": len(names),
        },
        matching=m,
        ids=names,
    )


def _check_options(caps: Sequence[int], ious: Sequence[float], interpolation: str, resamples: int) -> None:
    if not caps or min(caps) < 1 or list(caps) != sorted(set(caps)):
        raise TercelError(f"max_detections {tuple(caps)} are not rising positive numbers", "for example (1, 10, 100)")
    if not ious or min(ious) <= 0 or max(ious) > 1 or list(ious) != sorted(set(ious)):
        raise TercelError(f"IoU thresholds {tuple(ious)} do not rise within 0..1", "for example (0.5, 0.75)")
    if len(ious) * len(SIZES) > MOST_BITS:
        raise TercelError(f"{len(ious)} IoU thresholds are too many", f"give at most {MOST_BITS // len(SIZES)}")
    if interpolation not in ("101", "every", "11"):
        raise TercelError(f"interpolation {interpolation!r} is not one of 101, every, 11", "choose one of them")
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


def _natural(names: Sequence[str]) -> list[Any]:
    """Sort keys: numbers by value when all ids are numbers (as COCO's are), else text."""
    if all(n.isascii() and n.removeprefix("-").isdigit() for n in names):
        return [(int(n), n) for n in names]
    return list(names)


# -- scores -------------------------------------------------------------------------------------------------------


def _at(m: Matching, iou: float) -> int | None:
    """Which threshold is `iou`."""
    return next((t for t, x in enumerate(m.ious) if math.isclose(x, iou)), None)


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
        t = _at(m, percent / 100)
        if t is not None:
            out.append(_score(f"AP{percent}", ap[0, t], n, spread))
    if len(m.ious) == 1 and _at(m, 0.5) is None:
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
            t = _at(m, percent / 100)
            if t is not None:
                out.append(_score(f"AP{percent}", s.ap[0, t, c], n, spread, **{"class": name}))
        out.append(_score(f"AR{cap}", s.recall[0, :, c].mean(axis=0), n, spread, **{"class": name}))
    return out


def _best_f1(m: Matching, c: int | None) -> dict[str, float]:
    """Score threshold with the highest F1 at the first overlap threshold, of one class or of all together."""
    chosen = slice(None) if c is None else slice(*np.searchsorted(m.pred.labels, [c, c + 1]).tolist())
    truths = int((m.countable[0] & ((m.truth.labels == c) if c is not None else True)).sum())
    nothing = {"threshold": math.nan, "precision": math.nan, "recall": math.nan if not truths else 0.0, "F1": math.nan}
    score, hit = m.pred.scores[chosen], m.hit_at_first[chosen]
    judged = ~m.spared_at_first[chosen]
    if not truths or not judged.any():
        return nothing
    order = np.argsort(-score, kind="stable")
    score, found, total = score[order], np.cumsum(hit[order]), np.cumsum(judged[order])
    # A threshold cannot tell equal scores apart: only the last of each run of ties is a possible cut.
    cuts = np.flatnonzero(np.r_[score[1:] != score[:-1], True] & (total > 0))
    f1 = 2 * found[cuts] / (total[cuts] + truths)
    i = cuts[int(f1.argmax())]
    return {
        "threshold": float(score[i]),
        "precision": float(found[i] / total[i]),
        "recall": float(found[i] / truths),
        "F1": float(f1.max()),
    }


def _operating_point(m: Matching, weights: Array) -> list[Score]:
    """precision, recall, F1 of all classes together where F1 is best; the draws keep that threshold."""
    best = _best_f1(m, None)
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


# -- tables and curves --------------------------------------------------------------------------------------------


def _counts(m: Matching, detections: NDArray[np.bool_], truths: NDArray[np.bool_], size: int = 0) -> dict[str, int]:
    """GT, TP, FP, FN, ignored at the first threshold in one size bin."""
    bit = np.uint64(1) << np.uint64(size * len(m.ious))
    hit, spared = (m.hits & bit) > 0, (m.spared & bit) > 0
    n, tp = int((m.countable[size] & truths).sum()), int((hit & detections).sum())
    fp, ignored = int((detections & ~hit & ~spared).sum()), int((spared & detections).sum())
    return {"GT": n, "TP": tp, "FP": fp, "FN": n - tp, "ignored": ignored}


def _table(
    m: Matching, s: Resampled, classes: Sequence[str], pred: Pool, best: Sequence[Mapping[str, float]]
) -> list[dict[str, Any]]:
    fifty, given = _at(m, 0.5), np.bincount(pred.labels, minlength=len(classes))
    rows = []
    for c, name in enumerate(classes):
        mine = m.pred.labels == c
        rows.append(
            {
                "class": name,
                "AP": float(s.ap[0, :, c, 0].mean()),
                "AP50": float(s.ap[0, fifty, c, 0]) if fifty is not None else math.nan,
                "iou": m.ious[0],
                **_counts(m, mine, m.truth.labels == c),
                "beyond_cap": int(given[c] - mine.sum()),
                **best[c],
            }
        )
    return rows


def _size_rows(m: Matching, s: Resampled) -> list[dict[str, Any]]:
    ap, ar, fifty = mean_over_classes(s.ap)[..., 0], mean_over_classes(s.recall)[..., 0], _at(m, 0.5)
    every = np.ones(len(m.pred), np.bool_), np.ones(len(m.truth), np.bool_)
    return [
        {
            "size": name,
            "low_px2": m.sizes[name][0],
            "high_px2": m.sizes[name][1],
            "AP": float(ap[a].mean()),
            "AP50": float(ap[a, fifty]) if fifty is not None else math.nan,
            "AR": float(ar[a].mean()),
            "iou": m.ious[0],
            **_counts(m, *every, size=a),
        }
        for a, name in enumerate(m.sizes)
    ]


def _curves(precision: Array, score: Array, classes: Sequence[str], ious: Sequence[float]) -> list[dict[str, Any]]:
    """Interpolated precision at 101 recalls, and the score of the detection that reaches each."""
    chosen = [t for t, x in enumerate(ious) if any(math.isclose(x, y) for y in (0.5, 0.75))] or [0]
    out = []
    for t in chosen:
        p, s = precision[t, :, :, 0, -1], score[t, :, :, 0, -1]
        mean = mean_over_classes(p[..., None])[:, 0]
        rows = [(None, mean, np.full(len(GRID), np.nan)), *((n, p[:, c], s[:, c]) for c, n in enumerate(classes))]
        out += [
            {
                "class": n,
                "iou": round(ious[t], 6),
                "recall": GRID.round(2).tolist(),
                "precision": y.tolist(),
                "score": z.tolist(),
            }
            for n, y, z in rows
        ]
    return out


def _plain(value: Any) -> Any:
    """NaN as None, all the way down."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
