"""What to doubt in a score: caps reached, truth that is missing or ignored, contradictions in the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Ledger, Severity
from tercel.metrics.match import Ints, Matching, Pool
from tercel.metrics.stats import Resampled


def cautions(
    truth: Pool,
    pred: Pool,
    classes: Sequence[str],
    *,
    ids: Sequence[str],
    cap: int,
    canvases: Sequence[tuple[int, int]],
) -> list[Finding]:
    """Findings about judged boxes. `canvases`: (H, W) of each picture; `cap`: detections per picture and class."""
    found = _caps(truth, pred, classes, ids, cap)
    ledger = Ledger()

    def about(check: str, severity: Severity, message: str, pictures: NDArray[np.integer]) -> None:
        if len(pictures):
            places = tuple(ids[int(i)] for i in pictures[: Ledger.EXAMPLES])
            ledger.extend([Finding(check, severity, message, len(pictures), places)])

    counts = np.bincount(truth.picture, minlength=truth.pictures)
    real = np.bincount(truth.picture[truth.counted], minlength=truth.pictures)
    about("score.no_truth", Severity.INFO, "pictures without truth: every detection there is a false positive",
          np.flatnonzero(counts == 0))  # fmt: skip
    about("score.all_ignored", Severity.INFO, "pictures whose truths are all ignored",
          np.flatnonzero((counts > 0) & (real == 0)))  # fmt: skip
    silent = np.bincount(pred.picture, minlength=truth.pictures) == 0
    about("score.no_detection_here", Severity.INFO, "pictures with truth in which nothing was detected",
          np.flatnonzero(silent & (real > 0)))  # fmt: skip
    if not real.any():
        ledger.add("score.nothing_to_find", Severity.WARNING,
                   "no truth counts, so every score is undefined; is this the right split or class list?")  # fmt: skip
    if not len(pred):
        ledger.add("score.no_detections", Severity.WARNING, "there are no detections at all; is this the right file?")
    for c in np.flatnonzero(np.bincount(truth.labels[truth.counted], minlength=len(classes)) == 0):
        ledger.add("score.class_without_truth", Severity.INFO,
                   "classes without truth: their scores are undefined and left out of the means",
                   classes[int(c)])  # fmt: skip
    region = truth.picture[truth.ignore]
    about("score.ignored_truths", Severity.INFO, f"pictures with ignored truths ({len(region)} in all: crowd, "
          "difficult, disabled, don't care), which cost nothing when found or missed", np.unique(region))  # fmt: skip
    sides = pred.boxes[:, 2:] - pred.boxes[:, :2] if pred.obbs is None else pred.obbs[:, 2:4]
    flat = (sides <= 0).any(axis=1)
    if pred.points is None:
        about("score.flat_detections", Severity.WARNING, "detections without area never match; check width and height",
              pred.picture[flat])  # fmt: skip
    if len(pred):
        size = np.array(canvases, np.float64)[pred.picture]
        centre = (pred.boxes[:, :2] + pred.boxes[:, 2:]) / 2
        off = ((centre < 0) | (centre > size[:, ::-1])).any(axis=1)
        about("score.outside", Severity.WARNING,
              "detections whose centre lies outside the picture; are they in the original picture's pixels?",
              pred.picture[off])  # fmt: skip
        if size.min() > 8 and pred.boxes.max() <= 2:
            ledger.add("score.normalised", Severity.WARNING,
                       "all detections lie within 2 px of the corner: are they shares, not pixels?")  # fmt: skip
    return [*found, *ledger.findings()]


def _caps(truth: Pool, pred: Pool, classes: Sequence[str], ids: Sequence[str], cap: int) -> list[Finding]:
    """Pictures where the detections or the truths of a class reach the cap."""
    out = []
    for what, pool, effect in (
        ("detections", pred, "further ones do not count"),
        ("truths", Pool.take(truth, np.flatnonzero(truth.counted)), "recall cannot be judged"),
    ):
        picture, label, count = _groups(pool)
        full = np.flatnonzero(count >= cap)
        if not len(full):
            continue
        full = full[np.argsort(-count[full], kind="stable")]
        most = int(count[full[0]])
        # Half as many again as the fullest picture holds, in round numbers.
        advice = -(-most * 3 // 2 // 50) * 50 if most >= 50 else most * 3 // 2 + 1
        out.append(
            Finding(
                f"score.cap_{what}",
                Severity.WARNING,
                f"pictures with {cap} or more {what} of one class (at most {most}) reach the cap of {cap} detections "
                f"per picture and class, {effect}: raise evaluate.max_detections (score: --max-detections) "
                f"to {advice} or more",
                len(full),
                tuple(f"{ids[picture[i]]} ({classes[label[i]]}: {count[i]})" for i in full[: Ledger.EXAMPLES].tolist()),
            )
        )
    return out


def _groups(pool: Pool) -> tuple[Ints, Ints, Ints]:
    """Pictures, classes and counts of all (picture, class) pairs that occur."""
    key = np.sort(pool.labels * max(pool.pictures, 1) + pool.picture)
    start = np.flatnonzero(np.diff(key, prepend=-1))
    key, count = key[start], np.diff(np.append(start, len(key)))
    return key % max(pool.pictures, 1), key // max(pool.pictures, 1), count


def check_invariants(
    m: Matching,
    s: Resampled,
    detections: int,
    precision: NDArray[np.float64] | None = None,
    recall: NDArray[np.float64] | None = None,
) -> None:
    """Things that are true of every evaluation, whatever the input.

    Args:
        detections: how many there were. precision [T,P,C,A,M], recall [T,C,A,M]: hotcoco's arrays, to be compared where
            they are given.

    Raises:
        AssertionError: a bug in this package (or in hotcoco), never misuse.
    """

    def holds(condition: object, what: str) -> None:
        if not condition:
            raise AssertionError(f"internal error in the box evaluator: {what}; please report it with the two files")

    real = s.ap[~np.isnan(s.ap)]
    holds(not len(real) or (real.min() >= 0 and real.max() <= 1 + 1e-5), "an AP lies outside 0..1")
    holds(not (m.hits & m.spared).any(), "a detection is both right and ignored")
    for a in range(len(m.sizes)):
        hit, truths = m.unpack(m.hits, a), int(m.countable[a].sum())
        holds((hit.sum(axis=1) <= truths).all(), "more true positives than truths")
    holds(len(m.pred) + m.dropped == detections, "TP + FP + ignored + beyond the cap differ from the detections")
    if precision is not None:
        theirs, ours = np.moveaxis(precision.mean(axis=1)[..., -1], -1, 0), s.ap[..., 0]
        holds(np.allclose(ours, theirs, rtol=0, atol=1e-5, equal_nan=True), "two computations of AP disagree")
    if recall is not None:
        theirs, ours = np.moveaxis(recall[..., -1], -1, 0), s.recall[..., 0]
        holds(np.allclose(ours, theirs, rtol=0, atol=1e-5, equal_nan=True), "two computations of recall disagree")


def second_opinion(
    s: Resampled, precision: NDArray[np.float64] | None, recall: NDArray[np.float64], tolerance: float = 1e-5
) -> list[Finding]:
    """Where hotcoco's AP or recall of oriented boxes differs from ours: no error, since two kernels round differently
    and a pair that lies on a threshold may fall on either side of it.

    Args:
        precision [T,P,C,A,M] (None: AP is not compared), recall [T,C,A,M]: hotcoco's arrays.
    """
    pairs = [(s.recall[..., 0], np.moveaxis(recall[..., -1], -1, 0))]
    if precision is not None:
        pairs.append((s.ap[..., 0], np.moveaxis(precision.mean(axis=1)[..., -1], -1, 0)))
    gaps = np.stack([np.where(np.isnan(a) & np.isnan(b), 0, np.abs(a - b)) for a, b in pairs])
    apart = int((~(gaps <= tolerance)).any(axis=0).sum())
    if not apart:
        return []
    message = (
        "scores of one class, size and threshold in which hotcoco, a second implementation, differs "
        f"(by {np.nanmax(gaps):.2g} at most): overlaps that lie on a threshold"
    )
    return [Finding("score.second_opinion", Severity.WARNING, message, apart)]
