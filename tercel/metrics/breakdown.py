"""A score taken apart: per class, per overlap threshold, per size, per source and group, and the curves behind it.

Rows of plain values, made from a matching; what is undefined is NaN. NumPy only.

Shape legend: D detections, G truths, T overlap thresholds, A size bins, C classes, P recalls, S slices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tercel.core.finding import Finding, Severity
from tercel.metrics.match import Bools, Floats, Ints, Matching, Pool
from tercel.metrics.stats import Array, Interpolation, Resampled, mean_over_classes, resample

GRID = np.linspace(0, 1, 101)
MOST_SLICES = 200

Row = dict[str, Any]


def at(m: Matching, iou: float) -> int | None:
    """Which threshold is `iou`."""
    return next((t for t, x in enumerate(m.ious) if math.isclose(x, iou)), None)


def _counts(m: Matching, detections: Bools, truths: Bools, size: int = 0) -> dict[str, int]:
    """GT, TP, FP, FN, ignored (detections), GT_ignored (truths) at the first threshold in one size bin."""
    bit = np.uint64(1) << np.uint64(size * len(m.ious))
    hit, spared = (m.hits & bit) > 0, (m.spared & bit) > 0
    n, tp = int((m.countable[size] & truths).sum()), int((hit & detections).sum())
    fp, ignored = int((detections & ~hit & ~spared).sum()), int((spared & detections).sum())
    return {"GT": n, "TP": tp, "FP": fp, "FN": n - tp, "ignored": ignored,
            "GT_ignored": int((~m.truth.counted & truths).sum())}  # fmt: skip


def class_rows(
    m: Matching, s: Resampled, classes: Sequence[str], pred: Pool, best: Sequence[Mapping[str, float]]
) -> list[Row]:
    """One row per class; `best` holds the operating point of each."""
    fifty, given = at(m, 0.5), np.bincount(pred.labels, minlength=len(classes))
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


def threshold_rows(m: Matching, s: Resampled, classes: Sequence[str]) -> list[Row]:
    """AP, GT, TP, FP, FN and ignored of every class at every threshold; class None: mean of AP, sum of the counts."""
    n = len(classes)
    hit, spared = m.unpack(m.hits, 0), m.unpack(m.spared, 0)
    per = lambda labels, chosen: np.bincount(labels[chosen], minlength=n)  # noqa: E731
    truths = per(m.truth.labels, m.countable[0])
    found = np.stack([per(m.pred.labels, h) for h in hit])
    free = np.stack([per(m.pred.labels, x) for x in spared])
    wrong = per(m.pred.labels, slice(None)) - found - free
    mean = mean_over_classes(s.ap[0])[:, 0]

    def row(name: str | None, t: int, of: int | slice) -> Row:
        gt, tp, fp, ignored = (int(np.sum(x[of])) for x in (truths, found[t], wrong[t], free[t]))
        ap = float(mean[t] if isinstance(of, slice) else s.ap[0, t, of, 0])
        return {"class": name, "iou": round(m.ious[t], 6), "AP": ap,
                "GT": gt, "TP": tp, "FP": fp, "FN": gt - tp, "ignored": ignored}  # fmt: skip

    named: list[tuple[str | None, int | slice]] = [(None, slice(None)), *((c, i) for i, c in enumerate(classes))]
    return [row(name, t, of) for name, of in named for t in range(len(m.ious))]


def size_rows(m: Matching, s: Resampled) -> list[Row]:
    """One row per size bin; a detection that found nothing belongs to the bin of its own area."""
    ap, ar, fifty = mean_over_classes(s.ap)[..., 0], mean_over_classes(s.recall)[..., 0], at(m, 0.5)
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


def slice_rows(
    m: Matching, classes: int, by: Mapping[str, Sequence[str]], interpolation: Interpolation
) -> tuple[list[Row], list[Finding]]:
    """Scores of parts of the pictures: those of one source, of one group.

    A part is a weight of 0 or 1 for each picture, so the matching of the whole serves them all. AP is the mean over the
    classes that have truth in the part. Nothing is listed when all pictures belong together, or each stands alone.

    Args:
        by: "source", "group" ... -> the name of every picture's part, in the order of the matching's picture numbers;
            "" = not known.
    """
    rows: list[Row] = []
    findings = []
    whole = replace(m, sizes={"all": next(iter(m.sizes.values()))}, countable=m.countable[:1])
    truths = np.bincount(m.truth.picture[m.countable[0]], minlength=m.pred.pictures)
    for kind, names in by.items():
        parts, part = np.unique(np.array(names, dtype=np.str_), return_inverse=True)
        if len(parts) < 2 or len(parts) == len(names):
            continue
        chosen = np.arange(len(parts))
        if len(parts) > MOST_SLICES:
            largest = np.argsort(-np.bincount(part, truths), kind="stable")[:MOST_SLICES]
            chosen = np.sort(largest)
            message = f"of {len(parts)} {kind}s the {MOST_SLICES} with most truths are listed"
            findings.append(Finding("score.slices", Severity.INFO, message, len(parts) - MOST_SLICES))
        weights = (part[:, None] == chosen).astype(np.float64)
        ap = mean_over_classes(resample(whole, classes, weights, (1,), interpolation).ap[0])  # [T,S]
        for i, k in enumerate(chosen.tolist()):
            own = {f"AP{p}": float(ap[t, i]) for p in (50, 75) if (t := at(m, p / 100)) is not None}
            mine = part == k
            counts = _counts(m, mine[m.pred.picture], mine[m.truth.picture])
            rows.append({"by": kind, "name": str(parts[k]), "pictures": int(mine.sum()), "AP": float(ap[:, i].mean()),
                         **own, "iou": m.ious[0], **counts})  # fmt: skip
    return rows, findings


# -- curves -------------------------------------------------------------------------------------------------------


def curves_of(m: Matching, classes: int) -> tuple[Floats, Floats]:
    """Interpolated precision and score [T,P,C] at 101 recalls in the first size bin, as COCO defines them.

    NaN where a class has no truth; a recall that was never reached has precision 0 and score NaN.
    """
    shape = (len(m.ious), len(GRID), classes)
    precision, score = np.full(shape, np.nan), np.full(shape, np.nan)
    hits, spared = m.unpack(m.hits, 0), m.unpack(m.spared, 0)
    positives = np.bincount(m.truth.labels[m.countable[0]], minlength=classes)
    starts = np.searchsorted(m.pred.labels, np.arange(classes + 1))
    for c in np.flatnonzero(positives).tolist():
        rows = slice(int(starts[c]), int(starts[c + 1]))
        for t in range(shape[0]):
            found = np.flatnonzero(hits[t, rows])
            total = np.cumsum(~spared[t, rows])[found]
            best = np.maximum.accumulate((np.arange(1, len(found) + 1) / total)[::-1])[::-1]
            place: Ints = np.searchsorted(np.arange(1, len(found) + 1) / positives[c], GRID, "left")
            reached = place < len(found)
            precision[t, :, c] = 0
            precision[t, reached, c] = best[place[reached]]
            score[t, reached, c] = m.pred.scores[rows][found[place[reached]]]
    return precision, score


def curve_rows(precision: Array, score: Array, classes: Sequence[str], ious: Sequence[float]) -> list[Row]:
    """Precision and score [T,P,C] at IoU .5 and .75 (else the first) per class; class None: the mean, no scores."""
    chosen = [t for t, x in enumerate(ious) if any(math.isclose(x, y) for y in (0.5, 0.75))] or [0]
    out = []
    for t in chosen:
        p, s = precision[t], score[t]
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


def best_f1(m: Matching, c: int | None) -> dict[str, float]:
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


def plain(value: Any) -> Any:
    """NaN and infinities as None and arrays as lists, all the way down."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
