"""How named points are drawn: the colours of left, right and middle, and how large a point may be.

Shape legend: K points, N objects, 2 = (x, y).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tercel.core.schema import Schema
from tercel.core.skeleton import infer_flip_pairs
from tercel.report.strokes import Color

# Okabe and Ito (2008): three hues that stay apart with every common colour blindness.
LEFT: Color = (86, 180, 233)  # sky blue
RIGHT: Color = (213, 94, 0)  # vermillion
MIDDLE: Color = (240, 228, 66)  # yellow
COLORS = {-1: LEFT, 1: RIGHT, 0: MIDDLE}
WORDS = {-1: "left", 1: "right", 0: "middle"}


def sides(schema: Schema) -> NDArray[np.int64]:
    """i64 [K]: -1 left, 1 right, 0 middle. Of a pair whose names do not say, the first is the left one."""
    out = np.zeros(len(schema.keypoints), np.int64)
    for a, b in schema.flip_pairs:
        left, right = next(iter(infer_flip_pairs((a, b))), (a, b))
        out[schema.keypoints.index(left)], out[schema.keypoints.index(right)] = -1, 1
    return out


def edges(schema: Schema) -> list[tuple[int, int, int]]:
    """(i, j, side) of each edge. An edge from the middle to a side belongs to that side, one across to none."""
    side, index = sides(schema), schema.keypoints.index
    ends = [(index(a), index(b)) for a, b in schema.edges]
    return [(i, j, int(np.sign(side[i] + side[j]))) for i, j in ends]


def radius(points: NDArray[np.float64], width: int) -> float:
    """Radius in px of the dots of one object [K,2]: so large that they show, so small that neighbours stay apart."""
    usual = width * 1.5 + 1
    if len(points) < 2:
        return usual
    apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    apart[np.diag_indices(len(points))] = np.inf
    return float(np.clip(np.median(apart.min(axis=1)) / 3, 1.5, usual))
