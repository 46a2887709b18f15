"""What became of each prediction and each truth at one overlap threshold: for pictures, not for scores.

Matching and the reasons of mistakes are those of tercel.metrics.match; here each verdict also learns which object it
speaks of, and all pictures are put end to end. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tercel.core.objects import Objects
from tercel.metrics.match import Mistake, Pool, match, mistakes, overlaps

HIT, IGNORED = "hit", "ignored"  # beside the values of Mistake


@dataclass(frozen=True, eq=False)
class Verdict:
    """One picture.

    Attributes:
        kind: [N] per prediction: `HIT`, `IGNORED`, or a value of `Mistake`.
        about: i64 [N] the truth that the kind speaks of, -1 for background and ignored.
        iou: f64 [N] the overlap with it; 0 where `about` is -1.
        hit_by: i64 [M] per truth, the prediction that found it, or -1.
    """

    kind: NDArray[np.str_]
    about: NDArray[np.int64]
    iou: NDArray[np.float64]
    hit_by: NDArray[np.int64]


def judge(truth: Objects, pred: Objects, iou: float = 0.5, sigmas: Sequence[float] | None = None) -> Verdict:
    """Match one picture by the COCO rule and name each failure (see `Mistake`); by the OKS of points with `sigmas`."""
    found = match(truth, pred, iou, sigmas)
    kind = np.array(
        [
            IGNORED if spared else HIT if wrong is None else str(wrong)
            for spared, wrong in zip(found.ignored, mistakes(truth, pred, found, iou, sigmas=sigmas), strict=True)
        ],
        dtype="U16",
    )
    counted = Pool.of([truth], sigmas).counted
    overlap = overlaps(truth, pred, sigmas)
    overlap[:, ~counted] = -1
    same = pred.labels[:, None] == truth.labels[None]
    about = np.full(len(pred), -1)
    if len(truth):
        own, other = np.where(same, overlap, -1).argmax(axis=1), np.where(same, -1, overlap).argmax(axis=1)
        about = np.where(np.isin(kind, (Mistake.LOCALISATION, Mistake.DUPLICATE)), own, about)
        about = np.where(np.isin(kind, (Mistake.CLASS, Mistake.BOTH)), other, about)
        about = np.where(kind == HIT, found.pred_to_truth, about)
    at = np.where(about >= 0, overlap[np.arange(len(pred)), about], 0.0) if len(truth) else np.zeros(len(pred))
    return Verdict(kind, about, at, np.where(counted, found.truth_to_pred, -1))


@dataclass(frozen=True, eq=False)
class Judged:
    """All pictures, as columns over all predictions (N) and over all truths that count (M): ignored ones are left out,
    and where points are judged those without a labelled point.

    Attributes:
        ids: picture ids; `pred_picture` [N] and `truth_picture` [M] index into it, `pred_row` and `truth_row` into
            the rows of that picture.
        kind, label, score: of predictions.
        truth_label, truth_size: class and square root of the area in px (of oriented boxes length * width), of truths.
        truth_score: score of the prediction that found the truth, -1 when none did.
    """

    ids: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    iou: float
    pred_picture: NDArray[np.int64] = field(repr=False)
    pred_row: NDArray[np.int64] = field(repr=False)
    kind: NDArray[np.str_] = field(repr=False)
    label: NDArray[np.int64] = field(repr=False)
    score: NDArray[np.float64] = field(repr=False)
    truth_picture: NDArray[np.int64] = field(repr=False)
    truth_row: NDArray[np.int64] = field(repr=False)
    truth_label: NDArray[np.int64] = field(repr=False)
    truth_size: NDArray[np.float64] = field(repr=False)
    truth_score: NDArray[np.float64] = field(repr=False)

    def found(self, thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
        """bool [M], truths whose detection reaches the threshold of its class, f64 [C]; NaN = none does."""
        limit = thresholds[self.truth_label]
        out: NDArray[np.bool_] = (self.truth_score >= 0) & (self.truth_score >= np.where(np.isnan(limit), 2.0, limit))
        return out


def judge_all(
    ids: Sequence[str],
    truths: Sequence[Objects],
    preds: Sequence[Objects],
    iou: float = 0.5,
    sigmas: Sequence[float] | None = None,
) -> Judged:
    """`judge` for many pictures."""
    verdicts = tuple(judge(t, p, iou, sigmas) for t, p in zip(truths, preds, strict=True))
    every, found = Pool.of(truths, sigmas), []
    ends = np.cumsum(np.bincount(every.picture[every.counted], minlength=len(truths)))
    kept = np.split(every.row[every.counted], ends[:-1]) if truths else []
    for v, p, rows in zip(verdicts, preds, kept, strict=True):
        scores = np.append(np.ones(len(p)) if p.scores is None else p.scores, -1.0)  # index -1: not found
        found.append(scores[v.hit_by[rows]])

    def joined(parts: Sequence[NDArray], dtype: type | np.dtype) -> NDArray:
        return np.concatenate([np.asarray(p, dtype) for p in parts]) if parts else np.zeros(0, dtype)

    return Judged(
        tuple(ids),
        verdicts,
        iou,
        pred_picture=np.repeat(np.arange(len(preds)), [len(p) for p in preds]),
        pred_row=joined([np.arange(len(p)) for p in preds], np.int64),
        kind=joined([v.kind for v in verdicts], np.dtype("U16")),
        label=joined([p.labels for p in preds], np.int64),
        score=joined([np.ones(len(p)) if p.scores is None else p.scores for p in preds], np.float64),
        truth_picture=np.repeat(np.arange(len(truths)), [len(k) for k in kept]),
        truth_row=joined(kept, np.int64),
        truth_label=joined([t.labels[k] for t, k in zip(truths, kept, strict=True)], np.int64),
        truth_size=np.sqrt(every.areas[every.counted]),
        truth_score=joined(found, np.float64),
    )
