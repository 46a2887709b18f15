"""Average precision and log-average miss rate as CrowdHuman's evaluation computes them, under weighted pictures.

MR-2 (Dollar et al. 2012): the geometric mean of the miss rates at nine numbers of false positives per picture, evenly
spaced on a log scale from .01 to 1. AP is the area under the raw precision-recall points by the trapezoid rule. Both as
in CrowdDet (Chu et al. 2020, lib/evaluate), whose quirks are kept: AP starts at the first detection's point, so that
perfect detections of N persons reach 1 - 1/N; a miss rate that is asked for beyond the last point is that of the last.

Shape legend: I pictures, n detections, F false positives, G persons, R weights (columns), S groups of persons.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tercel.metrics.match import Bools, Floats, Ints
from tercel.metrics.stats import BLOCK, Array, running

FPPI = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000)  # as printed in CrowdDet


@dataclass(frozen=True)
class Sweep:
    """Detections from the highest score down, without those that took an ignore region.

    Attributes:
        picture: i64 [n]. score: f64 [n]. person: i64 [n], the person that each found, -1 = false positive.
        home: i64 [G], the picture of each person that counts.
    """

    picture: Ints
    score: Floats
    person: Ints
    home: Ints


def curve_scores(s: Sweep, groups: Sequence[Bools], weights: Array) -> tuple[Array, Array]:
    """AP and MR-2, both [S,R], of each group of persons.

    Persons outside the group are neither found nor missed; false positives are those of all.

    Args:
        groups: bool [G] each. weights: [I,R], how often each picture counts.

    Returns:
        NaN where no person of the group counts. Without any detection AP is 0 and MR-2 is 1.
    """
    out = np.full((2, len(groups), weights.shape[1]), np.nan)
    width = max(8, BLOCK // max(1, len(s.picture)))

    def fill(columns: slice) -> None:
        out[:, :, columns] = _scores(s, groups, np.ascontiguousarray(weights[:, columns]))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # NumPy works outside the interpreter's lock
        list(pool.map(fill, [slice(low, low + width) for low in range(0, weights.shape[1], width)]))
    return out[0], out[1]


def _scores(s: Sweep, groups: Sequence[Bools], w: Array) -> Array:
    """[2,S,R] for the columns of one block."""
    hits, wrong = np.flatnonzero(s.person >= 0), np.flatnonzero(s.person < 0)
    false = running(w[s.picture[wrong]])
    cuts = _cuts(wrong, false / np.maximum(w.sum(axis=0), 1), len(s.picture))
    out = np.full((2, len(groups), w.shape[1]), np.nan)
    for i, group in enumerate(groups):
        mine = hits[group[s.person[hits]]]
        found = running(w[s.picture[mine]])
        before = false[np.searchsorted(wrong, mine)]
        positives = w[s.home[group]].sum(axis=0)
        some = positives > 0
        out[0, i, some] = _area(found, before, positives)[some]
        at = np.take_along_axis(found, np.searchsorted(mine, cuts), axis=0)
        out[1, i, some] = log_average(1 - at[:, some] / positives[some])
    return out


def _cuts(wrong: Ints, fppi: Array, n: int) -> Ints:
    """[9,R]: how many detections there are down to the first point with so many false positives per picture; where
    that is never reached, all."""
    rows = np.append(wrong, n)
    columns = [rows[np.searchsorted(fppi[1:, c], FPPI)] for c in range(fppi.shape[1])]
    return np.stack(columns, axis=1)


def _area(found: Array, before: Array, positives: Array) -> Array:
    """[R], the trapezoid sum over recall: only hits move along it, from the point of the detection just before.

    Args:
        found: [H+1,R] hits before the first, second ... hit. before: [H,R] false positives before each.
    """
    last, now = found[:-1], found[1:]
    seen = last + before
    precision = now / np.maximum(now + before, 1) + last / np.maximum(seen, 1)
    total = (np.where(seen > 0, precision, 0) * (now - last)).sum(axis=0, dtype=np.float64)
    out: Array = total / (2 * np.maximum(positives, 1))
    return out


def log_average(miss: Array) -> Array:
    """[R], the geometric mean over the rows of miss rates [9,R]; 0 if one of them is 0."""
    with np.errstate(divide="ignore"):
        out: Array = np.exp(np.log(np.maximum(miss, 0)).mean(axis=0, dtype=np.float64))
    return out


@dataclass(frozen=True)
class MissCurve:
    """Miss rate [n] and false positives per picture [n] after each detection, and its score [n]."""

    fppi: Floats
    miss: Floats
    score: Floats

    def at(self, fppi: float) -> int:
        """The first point with so many false positives per picture, else the last; -1 when there is none at all."""
        return min(int(np.searchsorted(self.fppi, fppi)), len(self.fppi) - 1)


def miss_curve(s: Sweep, pictures: int) -> MissCurve:
    """The curve behind MR-2. NaN miss rates where no person counts."""
    found, persons = np.cumsum(s.person >= 0), len(s.home)
    miss = 1 - found / persons if persons else np.full(len(found), np.nan)
    return MissCurve(np.cumsum(s.person < 0) / max(pictures, 1), miss, s.score)
