"""Overlaps of oriented boxes, exact in float64, by compiled loops; and the same in plain NumPy to check them with.

An oriented box is (cx, cy, length, width, theta) in pixels and radians, theta clockwise on screen
(docs/conventions.md). Here the sides may come in either order and theta may be any number.

Shape legend: N, M, P boxes; 5 = oriented box. Input of any float type becomes float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercel.core.finding import TercelError
from tercel.core.geometry import obb_corners

F64 = NDArray[np.float64]


def obb_iou(a: ArrayLike, b: ArrayLike) -> F64:
    """Intersection over union f64 [N,M] of oriented boxes [N,5] and [M,5]; 0 where the union is empty.

    IoU(a, a) is exactly 1 for a box with area, IoU(a, b) = IoU(b, a) to the last bit, boxes that touch have 0.

    Raises:
        TercelError: an array that is not [N,5], a number that is not finite, a negative side.
    """
    from tercel.core import rotated_kernels as kernels

    out: F64 = kernels.matrix(table(a), table(b))
    return out


def obb_overlap_pairs(a: ArrayLike, b: ArrayLike, of_first: ArrayLike | None = None) -> F64:
    """Overlap f64 [P] of each box of `a` [P,5] with that of `b` [P,5] in the same row.

    Args:
        of_first: bool [P]; where True the intersection over the area of `a` instead of that over the union: the share
            of a detection `a` that lies in an ignored region `b`. None: IoU everywhere.

    Raises:
        TercelError: as `obb_iou`, or arrays of unequal length.
    """
    a, b = checked(a), checked(b)
    shared = obb_intersection_pairs(a, b)
    first = a[:, 2] * a[:, 3]
    total = first + b[:, 2] * b[:, 3] - shared
    if of_first is not None:
        mask = np.asarray(of_first, dtype=np.bool_)
        if mask.shape != first.shape:
            raise TercelError(f"of_first has shape {list(mask.shape)}", f"expected one flag per pair: [{len(first)}]")
        total = np.where(mask, first, total)
    out: F64 = np.divide(shared, total, out=np.zeros_like(shared), where=shared > 0)
    return np.minimum(out, 1.0)


def obb_intersection_pairs(a: ArrayLike, b: ArrayLike) -> F64:
    """Shared area f64 [P] in px^2 of each box of `a` [P,5] with that of `b` [P,5] in the same row.

    Raises:
        TercelError: as `obb_iou`, or arrays of unequal length.
    """
    from tercel.core import rotated_kernels as kernels

    first, second = table(a), table(b)
    if len(first) != len(second):
        raise TercelError(f"pairs of {len(first)} and {len(second)} boxes", "expected as many of one as of the other")
    out: F64 = kernels.intersections(first, second)
    return out


def points_in_obbs(points: ArrayLike, obbs: ArrayLike) -> NDArray[np.bool_]:
    """Whether each point [P,2] lies in each oriented box [N,5], bool [N,P]; the border belongs to the box.

    Raises:
        TercelError: as `obb_iou`, or points that are not [P,2].
    """
    p, boxes = np.asarray(points, dtype=np.float64), checked(obbs)
    if p.ndim != 2 or p.shape[1] != 2:
        raise TercelError(f"points have shape {list(p.shape)}", "expected [P,2], x y in px")
    c, s = np.cos(boxes[:, 4:5]), np.sin(boxes[:, 4:5])
    x, y = p[None, :, 0] - boxes[:, 0:1], p[None, :, 1] - boxes[:, 1:2]
    inside: NDArray[np.bool_] = np.abs(x * c + y * s) <= boxes[:, 2:3] / 2
    inside &= np.abs(y * c - x * s) <= boxes[:, 3:4] / 2
    return inside


def checked(obbs: ArrayLike) -> F64:
    """Oriented boxes as float64 [N,5], copied if need be.

    Raises:
        TercelError: not [N,5], a number that is not finite, a negative side.
    """
    out = np.asarray(obbs, dtype=np.float64)
    if out.size == 0:
        out = out.reshape(0, 5)
    if out.ndim != 2 or out.shape[1] != 5:
        raise TercelError(f"oriented boxes have shape {list(out.shape)}", "expected [N,5]: cx cy length width theta")
    bad = ~np.isfinite(out).all(axis=1) | (out[:, 2:4] < 0).any(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise TercelError(
            f"oriented box {i} is {out[i].tolist()}", "expected finite numbers, and length and width >= 0"
        )
    return out


def table(obbs: ArrayLike) -> F64:
    """What the compiled loops read, f64 [N,8]: see `rotated_kernels`. Raises as `checked`."""
    boxes = checked(obbs)
    half, theta = boxes[:, 2:4] / 2, boxes[:, 4]
    radius = np.hypot(half[:, 0], half[:, 1])
    columns: list[Any] = [boxes[:, :2], half, theta[:, None], np.cos(theta)[:, None], np.sin(theta)[:, None]]
    return np.ascontiguousarray(np.concatenate([*columns, radius[:, None]], axis=1))


def reference_iou(a: ArrayLike, b: ArrayLike) -> F64:
    """IoU f64 [N,M] of oriented boxes by another way than the kernel, slowly, in NumPy: what tests compare it with.

    The corners of the intersection are the corners of either box that lie in the other and the crossings of their
    edges; sorted by the angle about their mean they give the polygon (its area by the shoelace formula).
    """
    first, second = checked(a), checked(b)
    out = np.zeros((len(first), len(second)))
    for i, p in enumerate(first):
        for j, q in enumerate(second):
            shared = _reference_intersection(p, q)
            union = p[2] * p[3] + q[2] * q[3] - shared
            out[i, j] = shared / union if shared > 0 else 0.0
    return out


def _reference_intersection(p: F64, q: F64) -> float:
    middle = (p[:2] + q[:2]) / 2
    p, q = np.r_[p[:2] - middle, p[2:]], np.r_[q[:2] - middle, q[2:]]
    size = max(p[2], p[3], q[2], q[3])
    if min(p[2], p[3], q[2], q[3]) <= 0 or np.hypot(*(p[:2] - q[:2])) > 2 * size:
        return 0.0
    ours, theirs = obb_corners(p[None])[0], obb_corners(q[None])[0]
    # Corners on the other's border count: rounding must not lose them, and a double one has no area.
    grown = np.array([0, 0, 1, 1, 0]) * size * 1e-12
    found = [ours[points_in_obbs(ours, (q + grown)[None])[0]], theirs[points_in_obbs(theirs, (p + grown)[None])[0]]]
    d, e = np.roll(ours, -1, axis=0) - ours, np.roll(theirs, -1, axis=0) - theirs
    cross = d[:, None, 0] * e[None, :, 1] - d[:, None, 1] * e[None, :, 0]  # [4,4]
    gap = theirs[None] - ours[:, None]  # [4,4,2]
    crossing = np.abs(cross) > 1e-14 * size * size
    safe = np.where(crossing, cross, 1.0)
    t = (gap[..., 0] * e[None, :, 1] - gap[..., 1] * e[None, :, 0]) / safe
    u = (gap[..., 0] * d[:, None, 1] - gap[..., 1] * d[:, None, 0]) / safe
    crossing &= (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    found.append((ours[:, None] + t[..., None] * d[:, None])[crossing])
    points = np.concatenate(found)
    if len(points) < 3:
        return 0.0
    centred = points - points.mean(axis=0)
    x, y = centred[np.argsort(np.arctan2(centred[:, 1], centred[:, 0]))].T
    return float(abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2)
