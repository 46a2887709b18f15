"""Detections choose truths, best score first: the COCO rule and the Pascal VOC rule, on candidate pairs. NumPy only.

Shape legend: P candidate pairs (detection, truth, overlap), D detections, G truths, T overlap thresholds, A size bins.
Bit number `a * T + t` of an unsigned integer stands for size bin `a` and threshold `t`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = NDArray[np.uint64]
Bools = NDArray[np.bool_]
Rule = Literal["coco", "voc"]


def choose(
    d: Ints,
    g: Ints,
    overlap: Floats,
    *,
    ignore: Bools,
    countable: Bools,
    count: int,
    ious: Sequence[float],
    rule: Rule = "coco",
) -> tuple[Bits, Bits, Ints]:
    """Let detections 0..count-1 choose in that order among their candidate pairs: hits, spared bits [D], partner [D].

    Groups of picture and class share no pair, so one sequence over all of them is as good as one each. It runs over
    Python integers because each step depends on the one before; 40,000 detections take about 20 ms.

    Args:
        d, g, overlap: [P]. ignore: bool [G]. countable: bool [A,G], truths that count in each size bin.
        rule: "coco": the best truth that is still free. "voc": the best truth, free or not (see `_only_best`).
    """
    bins = len(countable)
    repeat = sum(1 << a * len(ious) for a in range(bins))
    # An overlap of 1 must pass a threshold of 1 although it may come out as 1 - 1e-16 (so does pycocotools).
    passed = np.searchsorted(np.minimum(ious, 1 - 1e-10), overlap, "right")
    reach = np.array([((1 << n) - 1) * repeat for n in range(len(ious) + 1)], np.uint64)[passed]
    if rule == "voc":
        d, g, overlap, reach = _only_best(d, g, overlap, reach, ignore, count)
    weight = (np.uint64((1 << len(ious)) - 1) << (np.uint64(len(ious)) * np.arange(bins, dtype=np.uint64)))[:, None]
    counts = np.bitwise_or.reduce(np.where(countable, weight, np.uint64(0)), axis=0)[g]
    # Every pair may appear twice: in the size bins where the truth counts, and later in those where it does not.
    bits = np.concatenate([reach & counts, reach & ~counts])
    second = np.repeat([False, True], len(d))
    d, g, overlap = np.tile(d, 2), np.tile(g, 2), np.tile(overlap, 2)
    order = np.lexsort((-g, -overlap, second, d))
    order = order[bits[order] > 0]
    d, g, bits, second = d[order], g[order], bits[order], second[order]
    shared = ignore[g] | second if rule == "voc" else ignore[g]

    busy, taken, won = [0] * count, [0] * countable.shape[1], []
    for i, j, may, many in zip(d.tolist(), g.tolist(), bits.tolist(), shared.tolist(), strict=True):
        now = may & ~(busy[i] | taken[j])
        busy[i] |= now
        if not many:
            taken[j] |= now
        won.append(now)
    gain = np.array(won, np.uint64)
    hits, spared, partner = np.zeros(count, np.uint64), np.zeros(count, np.uint64), np.full(count, -1)
    np.bitwise_or.at(hits, d[~second], gain[~second])
    np.bitwise_or.at(spared, d[second], gain[second])
    at_first = (gain & np.uint64(1)).astype(np.bool_)
    partner[d[at_first]] = g[at_first]
    return hits, spared, partner


def _only_best(
    d: Ints, g: Ints, overlap: Floats, reach: Bits, ignore: Bools, count: int
) -> tuple[Ints, Ints, Floats, Bits]:
    """Pascal VOC's rule as pairs: each detection looks at its best truth alone, and is wrong if that one is taken.

    Of equal overlaps the earlier truth is the best (in Object-Detection-Metrics too). An ignore region comes after all
    truths that count, as everywhere in this package: it spares a detection at thresholds that its best truth does not
    reach. VOC's own code compares difficult objects by IoU along with the others.
    """
    order = np.lexsort((g, -overlap, ignore[g], d))
    d, g, overlap, reach = d[order], g[order], overlap[order], reach[order]
    group = 2 * d + ignore[g]
    first = np.diff(group, prepend=-1) > 0
    d, g, overlap, reach = d[first], g[first], overlap[first], reach[first]
    region = ignore[g]
    spoken = np.zeros(count, np.uint64)
    spoken[d[~region]] = reach[~region]
    return d, g, overlap, np.where(region, reach & ~spoken[d], reach)
