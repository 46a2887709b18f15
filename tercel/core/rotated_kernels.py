"""Compiled loops behind `rotated`, `suppress` and `fusion`. Import this module inside functions: numba takes its time.

A *table* holds N boxes, f64. With 4 columns: x1 y1 x2 y2. With 8 columns (`rotated.table`): oriented boxes as cx, cy,
half length, half width, theta, cos theta, sin theta, radius of the circumscribed circle.
"""
# mypy: disable-error-code="untyped-decorator,no-any-return"
# All loops are in this one file because numba's cache looks at the date of a loop's own file alone: a loop elsewhere
# would go on running the old version of what it calls from here.

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Nothing here divides by zero, so nothing needs to ask whether it does.
_compiled = njit(cache=True, nogil=True, error_model="numpy")
# To hand tables to a function costs some times what the small ones do themselves: 28 ns per far pair instead of 11.
_inlined = njit(cache=True, nogil=True, error_model="numpy", inline="always")
# Bounds of an IoU are computed along another path than the IoU, so they decide only from this far off the limit.
SLACK = 1e-9


@_inlined
def area(t: F64, i: int) -> float:
    """Area of one box of a table, px^2."""
    if t.shape[1] == 4:
        return max(t[i, 2] - t[i, 0], 0.0) * max(t[i, 3] - t[i, 1], 0.0)
    return 4.0 * t[i, 2] * t[i, 3]


@_compiled
def _edge(x: float, y: float, x_end: float, y_end: float, wide: float, high: float) -> float:
    """The integral of x dy along an edge, within |y| <= high and with x limited to |x| <= wide."""
    begin, end = min(max(y, -high), high), min(max(y_end, -high), high)
    if begin == end:
        return 0.0
    slope = (x_end - x) / (y_end - y)
    # From the nearer end each, so that an end within the window stays where it is.
    first, last = x + (begin - y) * slope, x_end + (end - y_end) * slope
    low, top = min(first, last), max(first, last)
    inner_low, inner_top = min(max(low, -wide), wide), min(max(top, -wide), wide)
    mean, inner, span = (inner_low + inner_top) / 2, inner_top - inner_low, top - low
    if inner != span:
        right = max(top, wide) - max(low, wide)
        left = min(top, -wide) - min(low, -wide)
        mean = (mean * inner + wide * (right - left)) / span
    return mean * (end - begin)


@_compiled
def _shared(
    dx: float, dy: float, la: float, wa: float, ta: float, ca: float, sa: float,
    lb: float, wb: float, tb: float, cb: float, sb: float,
) -> float:  # fmt: skip
    """Area that rectangle b shares with rectangle a, the window; b lies (dx, dy) from a. Half sides, theta, cos, sin.

    In the window's frame, where its centre is the origin and its length the x axis, Green's theorem turns the area into
    an integral of x dy along the four edges of b, x and y limited to the window. No corner is sought and no case is
    special: shared edges and corners need no care, and all terms are as small as the window.
    """
    x, y = dx * ca + dy * sa, dy * ca - dx * sa
    c, s = cb * ca + sb * sa, sb * ca - cb * sa
    if ta == tb:
        c, s = 1.0, 0.0  # exactly, so that a box and itself have an IoU of exactly 1
    lc, ls, wc, ws = lb * c, lb * s, wb * c, wb * s
    # Separating axes: along the window's sides, then along the other's. They touch at most: no area.
    if abs(x) >= la + abs(lc) + abs(ws) or abs(y) >= wa + abs(ls) + abs(wc):
        return 0.0
    u, v = abs(x * c + y * s), abs(y * c - x * s)
    reach_u, reach_v = abs(la * c) + abs(wa * s), abs(la * s) + abs(wa * c)
    if u >= lb + reach_u or v >= wb + reach_v:
        return 0.0
    if u + reach_u <= lb and v + reach_v <= wb:
        return 4.0 * la * wa  # the window lies inside
    x0, y0, x1, y1 = x + (lc - ws), y + (ls + wc), x - (lc + ws), y - (ls - wc)
    x2, y2, x3, y3 = x - (lc - ws), y - (ls + wc), x + (lc + ws), y + (ls - wc)
    total = _edge(x0, y0, x1, y1, la, wa) + _edge(x2, y2, x3, y3, la, wa)
    total += _edge(x1, y1, x2, y2, la, wa) + _edge(x3, y3, x0, y0, la, wa)
    return min(max(total, 0.0), 4.0 * la * wa)


@_inlined
def _obb_intersection(a: F64, i: int, b: F64, j: int) -> float:
    dx, dy = b[j, 0] - a[i, 0], b[j, 1] - a[i, 1]
    reach = a[i, 7] + b[j, 7]
    if dx * dx + dy * dy > reach * reach * (1 + SLACK):
        return 0.0
    # The smaller one is the window. Of equal areas the first by their numbers, so that (a, b) and (b, a) give the same
    # result to the last bit.
    excess = a[i, 2] * a[i, 3] - b[j, 2] * b[j, 3]
    if excess == 0:
        excess = a[i, 4] - b[j, 4]
    if excess == 0:
        excess = dx if dx != 0 else dy
    if excess == 0:
        excess = a[i, 2] - b[j, 2]
    if excess > 0:
        return _shared(
            -dx, -dy, b[j, 2], b[j, 3], b[j, 4], b[j, 5], b[j, 6], a[i, 2], a[i, 3], a[i, 4], a[i, 5], a[i, 6]
        )
    return _shared(dx, dy, a[i, 2], a[i, 3], a[i, 4], a[i, 5], a[i, 6], b[j, 2], b[j, 3], b[j, 4], b[j, 5], b[j, 6])


@_inlined
def intersection(a: F64, i: int, b: F64, j: int) -> float:
    """Area shared by box i of one table and box j of another of the same kind."""
    if a.shape[1] == 4:
        w = min(a[i, 2], b[j, 2]) - max(a[i, 0], b[j, 0])
        h = min(a[i, 3], b[j, 3]) - max(a[i, 1], b[j, 1])
        return max(w, 0.0) * max(h, 0.0)
    return _obb_intersection(a, i, b, j)


@_inlined
def overlap(a: F64, i: int, b: F64, j: int) -> float:
    """Intersection over union; 0 where the union is empty."""
    shared = intersection(a, i, b, j)
    return shared / (area(a, i) + area(b, j) - shared) if shared > 0 else 0.0


@_compiled
def matrix(a: F64, b: F64) -> F64:
    """IoU [N,M]."""
    out = np.empty((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            out[i, j] = overlap(a, i, b, j)
    return out


@_compiled
def intersections(a: F64, b: F64) -> F64:
    """Shared area [P] of pairs."""
    out = np.empty(len(a))
    for i in range(len(a)):
        out[i] = intersection(a, i, b, i)
    return out


@_compiled
def greedy(
    t: F64, hulls: F64, levels: I64, widths: F64, order: I64, group: I64, source: I64, limit: F64, centred: bool
) -> NDArray[np.bool_]:
    """Which boxes stay, bool [N]. Boxes are sorted by (level, left end of the hull).

    Args:
        hulls: [N,4] lies around the boxes; columns 0 and 2 are the axis of the search.
        levels: [K+1], where each level of hull widths begins and the last one ends.
        widths: [K] greatest hull width of each level: what can reach a box starts at most that far to its left.
        order: [N] the boxes by descending score.
        group: [N] boxes of different groups never meet.
        source: [N] boxes of the same source never remove one another.
        limit: [N] of the box that stays: what overlaps it by more goes.
        centred: the overlap is IoU - `remoteness` in place of IoU.
    """
    alive = np.ones(len(t), np.bool_)
    left = np.ascontiguousarray(hulls[:, 0])
    rank = np.empty(len(t), np.int64)
    for r in range(len(order)):
        rank[order[r]] = r
    for r in range(len(order)):
        i = order[r]
        if not alive[i]:
            continue
        most = limit[i]
        for k in range(len(widths)):
            begin, end = levels[k], levels[k + 1]
            begin += np.searchsorted(left[begin:end], hulls[i, 0] - widths[k])
            for j in range(begin, end):
                if left[j] >= hulls[i, 2]:
                    break
                if not alive[j] or rank[j] <= r or group[j] != group[i] or source[j] == source[i]:
                    continue
                if _bound(t, hulls, i, j) > most - SLACK:
                    value = overlap(t, i, t, j)
                    if centred and value > 0:
                        value -= remoteness(hulls, i, j)
                    if value > most:
                        alive[j] = False
    return alive


@_inlined
def remoteness(hulls: F64, i: int, j: int) -> float:
    """Squared distance of two centres over the squared diagonal of the hull around both; 0..1."""
    dx = (hulls[i, 0] + hulls[i, 2] - hulls[j, 0] - hulls[j, 2]) / 2
    dy = (hulls[i, 1] + hulls[i, 3] - hulls[j, 1] - hulls[j, 3]) / 2
    w = max(hulls[i, 2], hulls[j, 2]) - min(hulls[i, 0], hulls[j, 0])
    h = max(hulls[i, 3], hulls[j, 3]) - min(hulls[i, 1], hulls[j, 1])
    diagonal = w * w + h * h
    return (dx * dx + dy * dy) / diagonal if diagonal > 0 else 0.0


@_compiled
def nearest(t: F64, hulls: F64, scores: F64, group: I64, others: I64, share: float) -> F64:
    """Greatest IoU [N] of each box with one of `others` [K] that has at least `share` of its score; 0 without one."""
    out = np.zeros(len(t))
    for i in range(len(t)):
        for k in range(len(others)):
            j = others[k]
            if j == i or group[j] != group[i] or scores[j] < share * scores[i]:
                continue
            if _bound(t, hulls, i, j) > out[i] - SLACK:
                out[i] = max(out[i], overlap(t, i, t, j))
    return out


@_inlined
def _bound(t: F64, hulls: F64, i: int, j: int) -> float:
    """An IoU that two boxes do not exceed, from hulls and areas; -1 where the hulls do not meet."""
    w = min(hulls[i, 2], hulls[j, 2]) - max(hulls[i, 0], hulls[j, 0])
    h = min(hulls[i, 3], hulls[j, 3]) - max(hulls[i, 1], hulls[j, 1])
    if w <= 0 or h <= 0:
        return -1.0
    first, second = area(t, i), area(t, j)
    most = min(w * h, first, second)
    return most / (first + second - most) if most > 0 else 0.0


@_compiled
def soft(
    t: F64, hulls: F64, scores: F64, group: I64, gaussian: bool, sigma: float, limit: float, floor: float
) -> tuple[I64, F64]:
    """Soft suppression: boxes by their final scores. `scores` is changed."""
    left = np.flatnonzero(scores > floor)
    keep, final = np.empty(len(left), np.int64), np.empty(len(left))
    count, found, best = len(left), 0, 0
    for k in range(1, count):
        if scores[left[k]] > scores[left[best]]:
            best = k
    while count:
        i = left[best]
        keep[found], final[found] = i, scores[i]
        found += 1
        rest, best = 0, 0
        for k in range(count):
            j = left[k]
            if j == i:
                continue
            if group[j] == group[i] and _bound(t, hulls, i, j) > 0:
                iou = overlap(t, i, t, j)
                if gaussian:
                    scores[j] *= np.exp(-iou * iou / sigma)
                elif iou > limit:
                    scores[j] *= 1 - iou
            if scores[j] > floor:
                left[rest] = j  # in the order of the input, so that of equal scores the lower index goes first
                if scores[j] > scores[left[best]]:
                    best = rest
                rest += 1
        count = rest
    return keep[:found], final[:found]


@_compiled
def _write_row(box: F64, t: F64, i: int) -> None:
    """A box of 4 or 5 numbers into row i of a table."""
    if t.shape[1] == 4:
        t[i] = box
        return
    t[i, 0], t[i, 1], t[i, 2], t[i, 3], t[i, 4] = box[0], box[1], box[2] / 2, box[3] / 2, box[4]
    t[i, 5], t[i, 6], t[i, 7] = np.cos(box[4]), np.sin(box[4]), np.hypot(t[i, 2], t[i, 3])


@_compiled
def _add(box: F64, first: F64, weight: float, sums: F64) -> None:
    """Adds a box to the weighted sums [6] of its cluster, as differences from the cluster's first box.

    Differences, so that the mean of equal boxes is that box to the last bit. For oriented boxes columns 4 and 5 sum the
    cosine and sine of twice the difference of angle.
    """
    if len(box) == 4:
        for k in range(4):
            sums[k] += weight * (box[k] - first[k])
        return
    length, width = box[2], box[3]
    turn = (box[4] - first[4] + np.pi / 2) % np.pi - np.pi / 2
    if abs(turn) > np.pi / 4:  # a box that is nearly square: its length is the other's width
        length, width = width, length
        turn -= np.pi / 2 if turn > 0 else -np.pi / 2
    sums[0] += weight * (box[0] - first[0])
    sums[1] += weight * (box[1] - first[1])
    sums[2] += weight * (length - first[2])
    sums[3] += weight * (width - first[3])
    sums[4] += weight * np.cos(2 * turn)
    sums[5] += weight * np.sin(2 * turn)


@_compiled
def fuse(boxes: F64, t: F64, weights: F64, group: I64, limit: float) -> tuple[I64, F64]:
    """Cluster i64 [N] of each box and fused boxes f64 [K,4 or 5].

    Args:
        boxes: [N,4 or 5], sorted by group, then by descending weight; `t` is their table.
        weights: [N], >= 0.
        group: [N] boxes of different groups never meet.
        limit: a box joins the fused box with which it has the greatest IoU, if that is > limit.
    """
    cluster = np.empty(len(boxes), np.int64)
    fused, rows, sums = np.empty_like(boxes), np.empty_like(t), np.zeros((len(boxes), 6))
    total, first = np.zeros(len(boxes)), np.empty(len(boxes), np.int64)
    count, begin = 0, 0
    for i in range(len(boxes)):
        if i and group[i] != group[i - 1]:
            begin = count
        best, most = -1, limit
        for k in range(begin, count):
            iou = overlap(t, i, rows, k)
            if iou > most:
                best, most = k, iou
        if best < 0:
            best = count
            first[best] = i
            count += 1
        cluster[i] = best
        total[best] += weights[i]
        head = boxes[first[best]]
        _add(boxes[i], head, weights[i], sums[best])
        share = 1 / total[best] if total[best] > 0 else 0.0
        fused[best] = head
        for k in range(4):
            fused[best, k] += share * sums[best, k]
        if fused.shape[1] == 5:
            fused[best, 4] += np.arctan2(sums[best, 5], sums[best, 4]) / 2
        _write_row(fused[best], rows, best)
    return cluster, fused[:count]
