"""Which detection found which truth: the COCO rule (or VOC's), on one picture or a whole data set. NumPy only.

Oriented boxes are compared as they are where both sides have them, named points by their OKS where both sides are
pooled with sigmas; everything else is the same for all geometries.

The rule (pycocotools, `evaluateImg`): within one picture and class, detections choose in order of falling score. Each
takes the truth it overlaps most among those that nobody has taken yet, if the overlap reaches the threshold; truths
that count come before ignored ones. An ignore region is measured by intersection over the *detection's* area and may be
taken any number of times; whoever takes it is neither right nor wrong. Equal overlaps go to the later truth.

Shape legend: D detections, G truths, T overlap thresholds, A size bins. What depends on size bin `a` and threshold `t`
is one bit, number `a * T + t`, of an unsigned integer, so that one pass over the candidate pairs serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import box_area, box_iou, obb_hull
from tercel.core.objects import Objects
from tercel.metrics.greedy import Rule, choose
from tercel.metrics.oks import Points, oks_matrix, oks_pairs

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = NDArray[np.uint64]
Bools = NDArray[np.bool_]

IOUS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
# Closed at both ends, as in COCO: an area of exactly 32 * 32 px is small and medium.
SIZES: Mapping[str, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
MOST_BITS = 63
PAIRS_AT_ONCE = 500_000  # candidate pairs in memory; a crowd of 500 x 500 per picture has 250,000 each


@dataclass(frozen=True)
class Pool:
    """The objects of many pictures, end to end, in the order of the pictures.

    Attributes:
        picture: i64 [N], which picture; row: i64 [N], which row of that picture's Objects.
        labels: i64 [N]. boxes: f64 [N,4] x1 y1 x2 y2 px. areas: f64 [N] px^2. ignore: bool [N]. scores: f64 [N].
        pictures: how many pictures, the empty ones included.
        obbs: f64 [N,5] cx cy length width theta, or None: then the boxes themselves are compared, else they are hulls.
        points: named points, which are compared then; or None.
    """

    picture: Ints
    row: Ints
    labels: Ints
    boxes: Floats
    areas: Floats
    ignore: Bools
    scores: Floats
    pictures: int
    obbs: Floats | None = None
    points: Points | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def counted(self) -> Bools:
        """bool [N], truths that can count: not ignored, and where points are judged, with a labelled one."""
        return ~self.ignore if self.points is None else ~self.ignore & self.points.labelled.any(axis=1)

    def take(self, rows: Ints) -> Pool:
        """The objects with these indices, in this order."""
        names = ("picture", "row", "labels", "boxes", "areas", "ignore", "scores")
        obbs = None if self.obbs is None else self.obbs[rows]
        points = None if self.points is None else self.points.take(rows)
        return replace(self, **{n: getattr(self, n)[rows] for n in names}, obbs=obbs, points=points)

    def hulls(self) -> Pool:
        """The same objects as axis-aligned boxes, uncut. Areas stay those of the objects, and so do the size bins."""
        if self.obbs is None:
            return self
        return replace(self, boxes=obb_hull(self.obbs).astype(np.float64), obbs=None)

    @staticmethod
    def of(parts: Sequence[Objects], sigmas: Sequence[float] | None = None) -> Pool:
        """All objects of all pictures.

        Areas are the annotated ones where there are any, else those of the (oriented) boxes; scores are 1 where absent.
        Oriented boxes are there when every part that is not empty has them; points where `sigmas` are given, one each.
        """
        counts = np.array([len(p) for p in parts], np.int64)
        total = int(counts.sum())
        picture = np.repeat(np.arange(len(parts)), counts)
        row = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        filled = [p for p in parts if len(p)]
        points = None if sigmas is None else Points.of(filled, sigmas)
        if not filled:
            empty, none = np.zeros(0), np.zeros(0, np.bool_)
            return Pool(picture, row, picture, np.zeros((0, 4)), empty, none, empty, len(parts), None, points)
        # In float64 from here on: 32-bit areas of large boxes would shift overlaps by 1e-7 and more.
        boxes = np.concatenate([p.boxes for p in filled]).astype(np.float64)
        areas, obbs = np.asarray(box_area(boxes), np.float64), None
        oriented = [p.obbs for p in filled if p.obbs is not None]
        if len(oriented) == len(filled):
            obbs = np.concatenate(oriented).astype(np.float64)
            areas = obbs[:, 2] * obbs[:, 3]
        annotated = [p.area for p in filled]
        if any(a is not None for a in annotated):
            nan = [np.full(len(p), np.nan) if a is None else a for p, a in zip(filled, annotated, strict=True)]
            given = np.concatenate(nan).astype(np.float64)
            areas = np.where(np.isnan(given), areas, given)
        scores = np.concatenate([np.ones(len(p)) if p.scores is None else p.scores for p in filled]).astype(np.float64)
        labels, ignore = (np.concatenate([getattr(p, n) for p in filled]) for n in ("labels", "ignore"))
        return Pool(picture, row, labels, boxes, areas, ignore, scores, len(parts), obbs, points)


@dataclass(frozen=True)
class Matching:
    """What the rule decided, for every size bin and threshold.

    Attributes:
        truth: all truths. pred: detections within the cap, sorted by class, then by falling score (ties: pictures in
            order, then rows in order).
        rank: i64 [D], 0 for the highest score of its class in its picture.
        hits, spared: u64 [D] bits: found a truth that counts; is ignored (took an ignored truth, or found nothing and
            lies outside the size bin). Neither = false positive.
        countable: bool [A,G], truths that count in each size bin.
        partner: i64 [D], index into `truth` of what it took at the first threshold in the first size bin, or -1.
        dropped: detections beyond the cap.
        ious, sizes: the thresholds (rising) and the size bins in px^2.
    """

    truth: Pool
    pred: Pool
    rank: Ints
    hits: Bits
    spared: Bits
    countable: Bools
    partner: Ints
    dropped: int
    ious: tuple[float, ...]
    sizes: Mapping[str, tuple[float, float]]

    def unpack(self, bits: Bits, size: int) -> Bools:
        """bool [T,D] of one size bin."""
        shift = np.arange(size * len(self.ious), (size + 1) * len(self.ious), dtype=np.uint64)
        return (bits[None, :] >> shift[:, None] & np.uint64(1)).astype(np.bool_)

    @cached_property
    def hit_at_first(self) -> Bools:
        """bool [D] at the first threshold in the first size bin."""
        return (self.hits & np.uint64(1)).astype(np.bool_)

    @cached_property
    def spared_at_first(self) -> Bools:
        return (self.spared & np.uint64(1)).astype(np.bool_)


def match_all(
    truth: Pool,
    pred: Pool,
    *,
    ious: Sequence[float] = IOUS,
    sizes: Mapping[str, tuple[float, float]] = SIZES,
    cap: int | None = None,
    rule: Rule = "coco",
) -> Matching:
    """Match detections to truths in all pictures, under every threshold and size bin.

    Args:
        truth, pred: over the same pictures.
        ious: rising thresholds in 0..1; an overlap equal to the threshold is a match.
        sizes: name -> (low, high) px^2; truths outside are ignored, and so are detections outside that found nothing.
        cap: detections kept per picture *and class*, the highest scores first; None = all.
        rule: "coco", or "voc" (Pascal VOC, Object-Detection-Metrics): each detection looks only at the truth it
            overlaps most, and is a false positive if an earlier one took it.

    Raises:
        ValueError: thresholds that do not rise, or more of them than fit (T * A <= 63).
    """
    if list(ious) != sorted(set(ious)) or not ious or not 0 <= ious[0] <= ious[-1] <= 1:
        raise ValueError(f"overlap thresholds rise within 0..1, not {list(ious)}")
    if len(ious) * len(sizes) > MOST_BITS:
        raise ValueError(f"{len(ious)} thresholds x {len(sizes)} size bins are more than {MOST_BITS}")
    key = pred.labels * pred.pictures + pred.picture
    turn = np.lexsort((-pred.scores, key))  # stable: ties stay in order
    key = key[turn]
    start = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.zeros(0, np.int64)
    rank = np.arange(len(key)) - np.repeat(start, np.diff(np.r_[start, len(key)]))
    if cap is not None:
        turn, key, rank = turn[rank < cap], key[rank < cap], rank[rank < cap]
    chosen = pred.take(turn)

    low, high = np.array(list(sizes.values())).T
    countable = truth.counted & (truth.areas >= low[:, None]) & (truth.areas <= high[:, None])
    outside = (chosen.areas < low[:, None]) | (chosen.areas > high[:, None])
    block = np.uint64((1 << len(ious)) - 1)
    shifts = np.uint64(len(ious)) * np.arange(len(sizes), dtype=np.uint64)[:, None]

    d, g, overlap = candidates(truth, chosen, key, ious[0])
    hits, spared, partner = choose(
        d, g, overlap, ignore=truth.ignore, countable=countable, count=len(chosen), ious=ious, rule=rule
    )
    spared |= np.bitwise_or.reduce(np.where(outside, block << shifts, np.uint64(0)), axis=0) & ~hits

    order = np.lexsort((turn, -chosen.scores, chosen.labels))  # turn: the order in which they came
    return Matching(
        truth, chosen.take(order), rank[order], hits[order], spared[order], countable, partner[order],
        len(pred) - len(turn), tuple(ious), sizes,
    )  # fmt: skip


def candidates(truth: Pool, pred: Pool, key: Ints, lowest: float) -> tuple[Ints, Ints, Floats]:
    """Pairs (detection, truth, overlap) of the same picture and class whose overlap is at least `lowest`."""
    truth_key = truth.labels * pred.pictures + truth.picture
    by_key = np.argsort(truth_key, kind="stable")
    truth_key = truth_key[by_key]
    first = np.searchsorted(truth_key, key, "left")
    count = np.searchsorted(truth_key, key, "right") - first
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    overlap_of = _measure(truth, pred)
    for rows in _blocks(count):
        n = count[rows]
        d = np.repeat(rows, n)
        g = by_key[np.arange(n.sum()) + np.repeat(first[rows] - (np.cumsum(n) - n), n)]
        overlap = overlap_of(d, g)
        keep = (overlap >= min(lowest, 1 - 1e-10)) & (overlap > 0)
        found.append((d[keep], g[keep], overlap[keep]))
    d, g, overlap = (np.concatenate(column) for column in zip(*found, strict=True))
    return d, g, overlap


def _blocks(count: Ints) -> Iterator[Ints]:
    """Rows with candidates, in blocks of a bounded number of pairs."""
    rows = np.flatnonzero(count)
    if len(rows):
        part = np.cumsum(count[rows]) // PAIRS_AT_ONCE
        yield from np.split(rows, np.flatnonzero(np.diff(part)) + 1)


def _measure(truth: Pool, pred: Pool) -> Callable[[Ints, Ints], Floats]:
    """A function of pairs (detection [P], truth [P]): their overlaps [P], of points or oriented boxes where both sides
    have them.

    Only pairs whose boxes meet are measured. Hulls are made anew, because a reader may have cut those at hand.
    """
    xy, points = pred.points, truth.points
    if xy is not None and points is not None:
        return lambda d, g: oks_pairs(xy.xy[d], points.take(g), truth.areas[g], truth.boxes[g])
    pred_shapes, truth_shapes = pred.boxes, truth.boxes
    hulls: tuple[NDArray[np.floating], NDArray[np.floating]] = pred_shapes, truth_shapes
    if truth.obbs is not None and pred.obbs is not None:
        pred_shapes, truth_shapes = pred.obbs, truth.obbs
        hulls = obb_hull(pred_shapes), obb_hull(truth_shapes)
    p, t = (h.T.copy() for h in hulls)

    def measure(d: Ints, g: Ints) -> Floats:
        near = np.arange(len(d))
        for low, high in ((0, 2), (1, 3)):  # what is apart in x needs no look at y
            i, j = d[near], g[near]
            near = near[(p[low][i] < t[high][j]) & (p[high][i] > t[low][j])]
        out = np.zeros(len(d))
        out[near] = pair_overlap(pred_shapes[d[near]], truth_shapes[g[near]], truth.ignore[g[near]])
        return out

    return measure


def overlaps(truth: Objects, pred: Objects, sigmas: Sequence[float] | None = None) -> Floats:
    """IoU f64 [D,G] of one picture's detections with its truths: of oriented boxes where both sides have them; OKS of
    their points where sigmas are given."""
    if sigmas is not None:
        return oks_matrix(truth, pred, sigmas)
    if truth.obbs is not None and pred.obbs is not None:
        from tercel.core.rotated import obb_iou

        return obb_iou(pred.obbs.astype(np.float64), truth.obbs.astype(np.float64))
    return np.asarray(box_iou(pred.boxes.astype(np.float64), truth.boxes.astype(np.float64)))


def pair_overlap(pred: Floats, truth: Floats, ignore: Bools) -> Floats:
    """Overlap [P] of (oriented) boxes with truths, both [P,4] or both [P,5]: IoU; for ignore regions intersection over
    the area of `pred`."""
    if pred.shape[1] == 5:
        from tercel.core.rotated import obb_overlap_pairs

        return obb_overlap_pairs(pred, truth, ignore)
    wh = np.minimum(pred[:, 2:], truth[:, 2:]) - np.maximum(pred[:, :2], truth[:, :2])
    wh = np.maximum(wh, 0)
    inter, area = wh[:, 0] * wh[:, 1], box_area(pred)
    union = np.where(ignore, area, area + box_area(truth) - inter)
    out: Floats = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return out


# -- one picture --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matches:
    """One picture at one threshold.

    Attributes:
        pred_to_truth: i64 [D], the truth (or ignore region) that each detection took, -1 = none.
        ignored: bool [D], took an ignore region: neither right nor wrong.
        truth_to_pred: i64 [G], the detection that took each truth, -1 = missed; for an ignore region the best of them.
        iou: f32 [D], overlap with what it took; for the others the best IoU with any truth of their class.
    """

    pred_to_truth: Ints
    ignored: Bools
    truth_to_pred: Ints
    iou: NDArray[np.float32]

    @property
    def false_positive(self) -> Bools:
        """bool [D]"""
        return (self.pred_to_truth < 0) & ~self.ignored


def match(truth: Objects, pred: Objects, iou: float = 0.5, sigmas: Sequence[float] | None = None) -> Matches:
    """Match one picture's detections to its truths by the COCO rule, class by class; by OKS where sigmas are given.

    Raises:
        ValueError: a threshold outside 0..1.
    """
    sides = Pool.of([truth], sigmas), Pool.of([pred], sigmas)
    m = match_all(*sides, ious=(iou,), sizes={"all": (0.0, np.inf)})
    rows = m.pred.row
    to_truth, to_pred = np.full(len(pred), -1), np.full(len(truth), -1)
    ignored = np.zeros(len(pred), np.bool_)
    to_truth[rows], ignored[rows] = m.partner, m.spared_at_first
    took = np.flatnonzero(m.partner >= 0)[::-1]  # reversed: among those that share an ignore region the best stays
    to_pred[m.partner[took]] = rows[took]
    best = np.zeros(len(pred), np.float32)
    if len(truth) and len(pred):
        same = pred.labels[:, None] == truth.labels[None, :]
        overlap = overlaps(truth, pred, sigmas)
        best = np.where(same & sides[0].counted, overlap, 0).max(axis=1).astype(np.float32)
        took = np.flatnonzero(m.partner >= 0)
        best[rows[took]] = _measure(m.truth, m.pred)(took, m.partner[took])
    return Matches(to_truth, ignored, to_pred, best)


class Mistake(StrEnum):
    """Why a detection is a false positive (the classes of TIDE, Bolya et al. 2020)."""

    LOCALISATION = "localisation"  # right class, badly placed
    CLASS = "class"  # well placed, wrong class
    DUPLICATE = "duplicate"  # a better detection of the same object exists
    BOTH = "both"  # wrong class and badly placed
    BACKGROUND = "background"  # nothing there


def mistakes(
    truth: Objects,
    pred: Objects,
    matches: Matches,
    iou: float = 0.5,
    floor: float = 0.1,
    sigmas: Sequence[float] | None = None,
) -> list[Mistake | None]:
    """For each detection why it is wrong, None where it is not. TIDE's order: localisation, class, duplicate, the rest.

    Args:
        iou: overlap of a hit; floor: overlap below which there is nothing but background.
        sigmas: of points, whose OKS then is the overlap.
    """
    real = truth[Pool.of([truth], sigmas).counted]
    overlap = overlaps(real, pred, sigmas)
    same = pred.labels[:, None] == real.labels[None, :]
    own = np.where(same, overlap, 0).max(axis=1, initial=0)
    other = np.where(same, 0, overlap).max(axis=1, initial=0)
    out: list[Mistake | None] = []
    for wrong, a, b in zip(matches.false_positive.tolist(), own.tolist(), other.tolist(), strict=True):
        if not wrong:
            out.append(None)
        elif floor <= a < iou:
            out.append(Mistake.LOCALISATION)
        elif b >= iou:
            out.append(Mistake.CLASS)
        elif a >= iou:
            out.append(Mistake.DUPLICATE)
        else:
            out.append(Mistake.BOTH if b >= floor else Mistake.BACKGROUND)
    return out
