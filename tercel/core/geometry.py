"""Plane geometry on arrays: boxes, oriented boxes, overlaps. NumPy only.

Conventions (docs/conventions.md): pixels, x right, y down, continuous coordinates, (0, 0) is the outer corner of the
first pixel. Box = (x1, y1, x2, y2). Oriented box = (cx, cy, length, width, theta), theta in radians, positive
clockwise on screen, in [-pi/2, pi/2), length >= width.

Shape legend: N, M objects; 4 corners or box sides; 2 = (x, y); 5 = oriented box.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def box_area(boxes: Array) -> Array:
    """Area [N] in px^2 of boxes [N,4]; 0 for empty ones."""
    wh = np.maximum(boxes[..., 2:4] - boxes[..., 0:2], 0)
    return wh[..., 0] * wh[..., 1]


def clip_boxes(boxes: Array, size: tuple[int, int]) -> Array:
    """Intersection of boxes [N,4] with the canvas `size` = (H, W); a box outside becomes empty, not negative."""
    h, w = size
    low, high = np.zeros(4), np.array([w, h, w, h], dtype=np.float64)
    return np.clip(boxes, low, high).astype(boxes.dtype)


def box_iou(a: Array, b: Array) -> Array:
    """Intersection over union [N,M] of boxes [N,4] and [M,4]; 0 where the union is empty."""
    inter = box_intersection(a, b)
    union = box_area(a)[:, None] + box_area(b)[None, :] - inter
    iou: Array = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return iou


def box_intersection(a: Array, b: Array) -> Array:
    """Intersection area [N,M] of boxes [N,4] and [M,4]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    wh: Array = np.maximum(high - low, 0)
    area: Array = wh[..., 0] * wh[..., 1]
    return area


def box_corners(boxes: Array) -> Array:
    """Corners [N,4,2] of boxes [N,4], clockwise on screen from the top left."""
    return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)


def hull(points: Array) -> Array:
    """Smallest axis-aligned box [N,4] around points [N,P,2]."""
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


def points_hull(points: Array, visible: NDArray[np.uint8]) -> Array:
    """Smallest axis-aligned box [N,4] around the labelled ones (visible [N,K] > 0) of points [N,K,2].

    Objects without a labelled point get 0 0 0 0.
    """
    known = (visible > 0)[..., None]
    low = np.where(known, points, np.inf).min(axis=1, initial=np.inf)
    high = np.where(known, points, -np.inf).max(axis=1, initial=-np.inf)
    boxes: Array = np.where(known.any(axis=1), np.concatenate([low, high], axis=1), 0).astype(points.dtype)
    return boxes


def obb_corners(obbs: Array) -> Array:
    """Corners [N,4,2] of oriented boxes [N,5]: front-right, back-right, back-left, front-left of the direction theta.

    With theta = 0 that is (+L/2, +W/2), (-L/2, +W/2), (-L/2, -W/2), (+L/2, -W/2) about the centre.
    """
    c, s = np.cos(obbs[:, 4]), np.sin(obbs[:, 4])
    along = np.stack([c, s], axis=1) * (obbs[:, 2:3] / 2)
    across = np.stack([-s, c], axis=1) * (obbs[:, 3:4] / 2)
    centre = obbs[:, :2]
    return np.stack(
        [centre + along + across, centre - along + across, centre - along - across, centre + along - across], axis=1
    )


def canonical_obb(obbs: Array) -> Array:
    """The same rectangles [N,5] with length >= width and theta in [-pi/2, pi/2). Input angles may be any number."""
    out = np.array(obbs, dtype=np.float64)
    swap = out[:, 3] > out[:, 2]
    out[swap, 2], out[swap, 3] = out[swap, 3], out[swap, 2].copy()
    out[swap, 4] += np.pi / 2
    theta = np.mod(out[:, 4] + np.pi / 2, np.pi) - np.pi / 2
    # Rounding may land on the open end +pi/2, and the float32 nearest to -pi/2 lies a little below it, so that mod
    # takes it to the last float32 before +pi/2: both are -pi/2. Without this, applying the function twice would turn
    # such a box by half a turn each time.
    dtype = obbs.dtype
    theta = theta.astype(dtype).astype(np.float64)
    half = np.asarray(np.pi / 2, dtype=dtype)
    theta[theta >= np.float64(np.nextafter(half, np.zeros_like(half)))] = -np.pi / 2
    out[:, 4] = theta
    return out.astype(dtype)


def corners_to_obb(corners: Array) -> Array:
    """Smallest rectangle [N,5] around four corners [N,4,2] given in order (a rectangle comes back as it was).

    A rectangle of least area around a convex polygon has a side along one of the polygon's edges (Freeman and Shapira
    1975), so the four edge directions are tried.
    """
    p = np.asarray(corners, dtype=np.float64)
    edges = np.roll(p, -1, axis=1) - p
    norm = np.linalg.norm(edges, axis=2)
    theta = np.where(norm > 0, np.arctan2(edges[..., 1], edges[..., 0]), 0.0)  # [N,4]
    u = np.stack([np.cos(theta), np.sin(theta)], axis=-1)  # [N,4 edges,2]
    v = np.stack([-np.sin(theta), np.cos(theta)], axis=-1)
    pu, pv = np.einsum("npk,nek->nep", p, u), np.einsum("npk,nek->nep", p, v)
    lu, hu, lv, hv = pu.min(-1), pu.max(-1), pv.min(-1), pv.max(-1)
    area = (hu - lu) * (hv - lv)
    longest = -norm  # among equal areas the longest edge gives the steadiest angle
    best = np.lexsort((longest, np.round(area, 9)), axis=1)[:, 0]
    n = np.arange(len(p))
    mu, mv = (lu + hu)[n, best] / 2, (lv + hv)[n, best] / 2
    centre = mu[:, None] * u[n, best] + mv[:, None] * v[n, best]
    lengths = np.stack([(hu - lu)[n, best], (hv - lv)[n, best], theta[n, best]], axis=1)
    return canonical_obb(np.concatenate([centre, lengths], axis=1)).astype(corners.dtype)


def obb_hull(obbs: Array) -> Array:
    """Axis-aligned box [N,4] around oriented boxes [N,5]."""
    return hull(obb_corners(obbs)) if len(obbs) else np.zeros((0, 4), obbs.dtype)
