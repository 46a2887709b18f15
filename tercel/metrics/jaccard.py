"""The Jaccard index of CrowdHuman's evaluation: persons and detections paired off as well as can be, per picture.

In one picture, of the m persons and n detections above a score threshold, k form pairs in the matching of maximum total
IoU (pairs above .5 only); JI = k / (m + n - k), the mean over the pictures, at the best of ten thresholds. Who has no
partner and lies more than half inside an ignore region leaves m or n. As in CrowdDet (Chu et al. 2020, lib/evaluate).

Shape legend: I pictures, D detections, G persons, P pairs (detection, person, IoU), T score thresholds, R weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercel.metrics.match import Bools, Floats, Ints
from tercel.metrics.stats import Array

THRESHOLDS = tuple(i / 10 for i in range(10))
_EPS = 1e-6  # in CrowdDet's denominator


@dataclass(frozen=True)
class Side:
    """Detections or persons: the picture of each i64 [N], and whether an ignore region covers most of it, bool [N]."""

    picture: Ints
    covered: Bools


@dataclass(frozen=True)
class Jaccard:
    """Counts i64 [T,I] per score threshold and picture: pairs k, detections n, persons m."""

    matched: Ints
    detections: Ints
    persons: Ints

    @property
    def index(self) -> Floats:
        """f64 [T,I]; NaN in pictures without persons and detections, which the mean leaves out."""
        k, n, m = self.matched, self.detections, self.persons
        return np.where((m > 0) | (n > 0), k / (m + n - k + _EPS), np.nan)

    def mean(self, weights: Array) -> Floats:
        """f64 [T,R], over the pictures under weights [I,R]; NaN where no picture has anything."""
        index = self.index
        known = ~np.isnan(index)
        total = np.nan_to_num(index) @ weights.astype(np.float64)
        count = known.astype(np.float64) @ weights.astype(np.float64)
        out: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        return out


def jaccard(
    d: Ints, g: Ints, iou: Floats, *, scores: Floats, detections: Side, persons: Side, pictures: int
) -> Jaccard:
    """Count pairs, detections and persons at every score threshold.

    Args:
        d, g, iou: [P] pairs of the same picture above an IoU of .5. scores: f64 [D].
    """

    def count(side: Side, chosen: Bools) -> Ints:
        out: Ints = np.bincount(side.picture[chosen], minlength=pictures)
        return out

    rows = []
    for threshold in THRESHOLDS:
        kept = above(scores, threshold)
        live = np.flatnonzero(kept[d])
        chosen = live[heaviest_matching(d[live], g[live], iou[live])]
        paired = np.zeros(len(scores), np.bool_), np.zeros(len(persons.picture), np.bool_)
        paired[0][d[chosen]], paired[1][g[chosen]] = True, True
        rows.append((
            count(detections, paired[0]),
            count(detections, kept & (paired[0] | ~detections.covered)),
            count(persons, paired[1] | ~persons.covered),
        ))  # fmt: skip
    matched, found, people = (np.stack(column) for column in zip(*rows, strict=True))
    return Jaccard(matched, found, people)


def above(scores: Floats, threshold: float) -> Bools:
    """bool [D]. Objects keep scores in single precision: so compared, a score of .3 is not above .3."""
    out: Bools = scores.astype(np.float32) > np.float32(threshold)
    return out


def heaviest_matching(d: Ints, g: Ints, weight: Floats) -> Bools:
    """bool [P], the pairs of a matching of maximum total weight, each detection and each person in one at most.

    Connected components are solved one by one: where all pairs share a detection or a person the heaviest pair is the
    matching, elsewhere the Hungarian method finds it. Weights are positive.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    chosen = np.zeros(len(d), np.bool_)
    if not len(d):
        return chosen
    left, row = np.unique(d, return_inverse=True)
    right, column = np.unique(g, return_inverse=True)
    nodes = len(left) + len(right)
    graph = coo_array((np.ones(len(d), np.bool_), (row, len(left) + column)), shape=(nodes, nodes))
    parts, part = connected_components(graph, directed=False)
    high, wide = (np.bincount(p, minlength=parts) for p in (part[: len(left)], part[len(left) :]))
    i, j = _within(part[: len(left)])[row], _within(part[len(left) :])[column]
    order = np.lexsort((-weight, part[row]))
    start = np.searchsorted(part[row][order], np.arange(parts + 1))
    star = (high == 1) | (wide == 1)
    chosen[order[start[:-1][star]]] = True
    for k in np.flatnonzero(~star).tolist():
        pairs = order[start[k] : start[k + 1]]
        table = np.zeros((high[k], wide[k]))
        table[i[pairs], j[pairs]] = weight[pairs]
        taken = np.zeros(table.shape, np.bool_)
        taken[linear_sum_assignment(table, maximize=True)] = True
        chosen[pairs] = taken[i[pairs], j[pairs]]  # what is no pair weighs nothing, and is none
    return chosen


def _within(part: Ints) -> Ints:
    """i64 [N], the number of each node among those of its component."""
    order = np.argsort(part, kind="stable")
    out: Ints = np.empty_like(order)
    out[order] = np.arange(len(order)) - np.searchsorted(part[order], part[order], "left")
    return out
