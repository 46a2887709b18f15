"""Shapes painted on pictures: paths and discs in our coordinates, over a dark rim that keeps every colour readable.

(0, 0) is the outer corner of the first pixel, so the centre of a pixel lies at +0.5; OpenCV puts it on whole numbers.
`fixed` is the one place where the two meet.

Shape legend: P corners; 2 = (x, y).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]

SHIFT = 5  # fractional bits of OpenCV's drawing coordinates: 1/32 px


@dataclass(frozen=True)
class Stroke:
    """One shape: a path [P,2] in our coordinates, or a disc (`radius`) around each of its points."""

    path: NDArray[np.float64]
    color: Color
    width: int
    closed: bool = True
    dashed: bool = False
    radius: float = 0.0
    filled: bool = False


def paint(canvas: Picture, strokes: Sequence[Stroke]) -> None:
    """All strokes over one soft dark rim, which keeps every colour readable on every background."""
    import cv2

    if not strokes:
        return
    rim = np.zeros(canvas.shape[:2], np.uint8)
    for s in strokes:
        _stroke(cv2, rim, s, (110,) * 3 if s.width > 1 or s.dashed else (70,) * 3, 2)
    if rim.any():
        y, x = np.flatnonzero(rim.any(axis=1)), np.flatnonzero(rim.any(axis=0))
        part = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
        keep = (255 - rim[part]).astype(np.uint16)[..., None]
        canvas[part] = (canvas[part] * keep // 255).astype(np.uint8)
    for s in strokes:
        _stroke(cv2, canvas, s, s.color, 0)


def _stroke(cv2: Any, target: Picture, s: Stroke, color: Color, wider: int) -> None:
    limit = 4 * max(target.shape) + 1000  # OpenCV's coordinates are 32-bit: what lies far outside is brought nearer
    path = np.clip(s.path, -limit, limit)
    width = s.width + (wider if not s.dashed else min(wider, 1))
    if s.radius:
        for p in path:
            radius = round((s.radius + (wider / 2 if s.filled else 0)) * 2**SHIFT)
            thickness = cv2.FILLED if s.filled else width
            cv2.circle(target, tuple(fixed(p).tolist()), radius, color, thickness, cv2.LINE_AA, SHIFT)
        return
    dashed = s.dashed and not wider  # under dashes the rim goes through, so the gaps can be seen as well
    lines = _dashes(path, s.closed, 4.0 * s.width + 2) if dashed else [path]
    closed = s.closed and not dashed
    cv2.polylines(target, [fixed(line) for line in lines], closed, color, width, cv2.LINE_AA, SHIFT)


def fixed(xy: NDArray[np.float64]) -> NDArray[np.int32]:
    """Our coordinates as OpenCV's fixed-point ones: pixel centres from +0.5 to whole numbers."""
    out: NDArray[np.int32] = np.rint((xy - 0.5) * 2**SHIFT).astype(np.int32)
    return out


def _dashes(path: NDArray[np.float64], closed: bool, length: float) -> list[NDArray[np.float64]]:
    """Segments [2,2] along the path: about as long as the gaps, whole at the corners so that corners stay visible."""
    ends = np.concatenate([path, path[:1]]) if closed else path
    out = []
    for a, b in itertools.pairwise(ends):
        distance = float(np.hypot(*(b - a)))
        n = min(2 * max(1, round(distance / (2 * length))) + 1, 2001)  # odd: starts and ends with a dash
        t = np.linspace(0, 1, n + 1)
        out += [a + (b - a) * t[i : i + 2, None] for i in range(0, n, 2)]
    return out
