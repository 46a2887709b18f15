"""Large pictures in overlapping tiles: the grid, the truth of a tile, and one answer from the answers of all tiles.

The rule that joins tiles: what two tiles see of one object in the region that they share is the same. So detections of
two tiles are compared there, one to one; whoever is whole in its tile stands for the object, and what an inner border
has cut gives way to it. Within a tile nothing is suppressed, that is the network's own affair. Objects as long as the
overlap or shorter are therefore given back exactly, however crowded they are (tests/contracts/test_tiles.py).

Shape legend: N objects; 4 = box (x1, y1, x2, y2), 5 = oriented box, in px.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.fusion import fuse
from tercel.core.geometry import box_area, box_intersection, box_iou, obb_hull
from tercel.core.objects import Objects
from tercel.core.rotated import obb_iou, obb_overlap_pairs
from tercel.core.warp import Warp, translation

Floats = NDArray[np.float64]
# Share of a cut detection that lies in a larger one, from which it is the same object. A border may cut off a triangle,
# which fills half of the rectangle around it, and the network does not place it to the pixel.
MOSTLY = 0.4


@dataclass(frozen=True)
class Window:
    """Part of a canvas, in whole px: `size` (H, W) with its top left corner at (x, y)."""

    x: int
    y: int
    size: tuple[int, int]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x1 y1 x2 y2 on the canvas."""
        return self.x, self.y, self.x + self.size[1], self.y + self.size[0]


def tile_grid(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> list[Window]:
    """Windows of `tile` (H, W) that cover a canvas of `size` (H, W), row by row.

    Neighbours share at least `overlap` px; the last of a row and of a column are shifted inward. A canvas smaller than
    the tile has one window in that direction, as large as itself, so there is always at least one.

    Raises:
        TercelError: an overlap as large as a tile's side, or sides below 1.
    """
    if min(*size, *tile) < 1 or not 0 <= overlap < min(tile):
        raise TercelError(
            f"tiles of {tile[0]} x {tile[1]} px with an overlap of {overlap} px on a picture of {size[0]} x {size[1]}",
            "the overlap is at least 0 and smaller than a tile's side",
        )
    (rows, height), (columns, width) = (_starts(s, t, overlap) for s, t in zip(size, tile, strict=True))
    return [Window(x, y, (height, width)) for y in rows for x in columns]


def _starts(length: int, tile: int, overlap: int) -> tuple[list[int], int]:
    """Where the tiles of one direction begin, and how long they are."""
    if length <= tile:
        return [0], length
    step = tile - overlap
    count = math.ceil((length - tile) / step) + 1
    return [min(i * step, length - tile) for i in range(count)], tile


def cut(objects: Objects, window: Window, min_visible: float = 0.0) -> Objects:
    """What a tile shows of `objects`, on the tile's own canvas.

    Boxes are cut at the window, oriented boxes stay whole (their `boxes` are cut); those of which less than
    `min_visible` of the box area, or nothing, lies in the window leave.
    """
    shift = Warp(translation(-window.x, -window.y), objects.size, window.size)
    return shift.objects(objects, clip=True, min_visible=min_visible)


def merge(
    parts: Sequence[tuple[Window, Objects]],
    size: tuple[int, int],
    iou: float = 0.5,
    method: Literal["nms", "fusion"] = "nms",
    cap: int = 0,
    *,
    margin: float = 2.0,
    ledger: Ledger | None = None,
) -> Objects:
    """One set of objects on the canvas of `size` (H, W) from those of its tiles, each on its tile's canvas.

    1. Detections of one class in two tiles are paired one to one where their IoU exceeds `iou`, the best pair first:
       boxes by what both tiles can see of them, oriented boxes as they are.
    2. Whole ones take their partners, the best first. With "nms" the best whole one stays; with "fusion" the whole
       ones are averaged, weighted by score.
    3. What is cut in every tile that sees it is put together again: boxes to the hull of the pieces; of oriented boxes
       the largest stays. It leaves when it lies mostly within a whole or larger one of its class that other tiles see,
       and is counted otherwise.

    Args:
        cap: only the best `cap` stay; 0 = all.
        margin: px from an inner border within which a detection counts as cut.
        ledger: takes what was put together, what stayed cut and what the cap left out.

    Returns:
        Predictions by descending score; truth (no scores) in the order of the tiles.
    """
    rows, tile, is_cut = _gather(parts, size, margin)
    scores = np.zeros(len(rows)) if rows.scores is None else rows.scores.astype(np.float64)
    groups = _groups(_partners(rows, tile, parts, iou), is_cut, scores)
    out, cut_only = _join(rows, groups, is_cut, method)
    stays = ~_within_larger(out, cut_only, [set(tile[g].tolist()) for g in groups])
    alone = cut_only & stays & (np.array([len(g) for g in groups], np.int64) == 1)
    out, groups, cut_only = out[stays], [g for g, s in zip(groups, stays, strict=True) if s], cut_only[stays]
    if ledger is not None:
        _report(ledger, int(cut_only.sum()) - int(alone.sum()), int(alone.sum()))
    if out.scores is None:
        return out[np.argsort([g[0] for g in groups], kind="stable")] if groups else out
    return capped(out[np.argsort(-out.scores, kind="stable")], cap, ledger)


def capped(objects: Objects, cap: int, ledger: Ledger | None, where: str | None = None) -> Objects:
    """The first `cap` of objects sorted by score (0 = all); what is left out is a finding."""
    if not cap or len(objects) <= cap:
        return objects
    if ledger is not None:
        message = f"pictures reach the cap of {cap} detections over all tiles: raise evaluate.tiles.max_detections"
        ledger.add("tiles.cap", Severity.WARNING, message, where)
    return objects[:cap]


def _report(ledger: Ledger, joined: int, alone: int) -> None:
    hint = "raise evaluate.tiles.overlap or evaluate.tiles.size if objects are longer than the overlap"
    if joined:
        message = f"detections are whole in no tile and were put together from pieces: {hint}"
        ledger.add("tiles.joined", Severity.INFO, message, count=joined)
    if alone:
        ledger.add("tiles.cut", Severity.WARNING, f"detections are cut by a tile's border: {hint}", count=alone)


def _gather(
    parts: Sequence[tuple[Window, Objects]], size: tuple[int, int], margin: float
) -> tuple[Objects, NDArray[np.int64], NDArray[np.bool_]]:
    """All objects on the whole canvas, the number of the tile of each, and whether an inner border cuts it."""
    if not parts:
        raise ValueError("merge needs at least one tile")
    moved, tiles, cuts = [], [], []
    for i, (window, o) in enumerate(parts):
        extent = o.boxes if o.obbs is None else obb_hull(o.obbs)
        (h, w), (x1, y1, x2, y2) = window.size, window.box
        gap = np.stack([extent[:, 0], extent[:, 1], w - extent[:, 2], h - extent[:, 3]], axis=1)
        inner = np.array([x1 > 0, y1 > 0, x2 < size[1], y2 < size[0]])
        cuts.append(((gap <= margin) & inner).any(axis=1))
        moved.append(Warp(translation(window.x, window.y), window.size, size).objects(o))
        tiles.append(np.full(len(o), i))
    filled = [o for o in moved if len(o)] or moved[:1]
    return Objects.concat(filled), np.concatenate(tiles).astype(np.int64), np.concatenate(cuts)


def _partners(
    rows: Objects, tile: NDArray[np.int64], parts: Sequence[tuple[Window, Objects]], iou: float
) -> list[list[int]]:
    """Of each row the rows of other tiles that show the same object, at most one per tile."""
    partners: list[list[int]] = [[] for _ in range(len(rows))]
    members = [np.flatnonzero(tile == i) for i in range(len(parts))]
    boxes = rows.boxes.astype(np.float64)
    windows = np.array([w.box for w, _ in parts], np.float64)
    filled = np.flatnonzero([len(m) for m in members])
    meet = np.triu(box_intersection(windows[filled], windows[filled]) > 0, 1)
    for a, b in zip(*(filled[k].tolist() for k in np.nonzero(meet)), strict=True):
        p, q = windows[a], windows[b]
        shared = np.concatenate([np.maximum(p[:2], q[:2]), np.minimum(p[2:], q[2:])])
        i, j = (m[box_intersection(boxes[m], shared[None])[:, 0] > 0] for m in (members[a], members[b]))
        if not len(i) or not len(j):
            continue
        overlap = _overlap(rows, boxes, i, j, shared)
        overlap[rows.labels[i][:, None] != rows.labels[j][None]] = 0
        for k, m in _one_to_one(overlap, iou):
            partners[i[k]].append(int(j[m]))
            partners[j[m]].append(int(i[k]))
    return partners


def _overlap(rows: Objects, boxes: Floats, i: NDArray[np.int64], j: NDArray[np.int64], shared: Floats) -> Floats:
    """IoU [I,J]: of boxes as far as both tiles see them, of oriented boxes as a whole."""
    if rows.obbs is None:
        seen = [np.concatenate([np.maximum(b[:, :2], shared[:2]), np.minimum(b[:, 2:], shared[2:])], axis=1)
                for b in (boxes[i], boxes[j])]  # fmt: skip
        return np.array(box_iou(seen[0], seen[1]), np.float64)
    return np.array(obb_iou(rows.obbs[i].astype(np.float64), rows.obbs[j].astype(np.float64)), np.float64)


def _one_to_one(overlap: Floats, floor: float) -> list[tuple[int, int]]:
    """Pairs (row, column) above `floor`, the best first, each row and column once."""
    r, c = np.nonzero(overlap > floor)
    order = np.lexsort((c, r, -overlap[r, c]))
    left, right = np.ones(overlap.shape[0], bool), np.ones(overlap.shape[1], bool)
    pairs = []
    for k, m in zip(r[order].tolist(), c[order].tolist(), strict=True):
        if left[k] and right[m]:
            left[k] = right[m] = False
            pairs.append((k, m))
    return pairs


def _groups(partners: list[list[int]], is_cut: NDArray[np.bool_], scores: Floats) -> list[list[int]]:
    """Rows that show one object, the one that stands for it first; groups around whole ones come first.

    A whole one takes its direct partners only: chains of partners may lead to a neighbour. Only pieces, which may lie
    in a row of tiles, are followed from one to the next.
    """
    free, groups = np.ones(len(partners), bool), []
    for start in np.lexsort((-scores, is_cut)).tolist():
        if not free[start]:
            continue
        free[start] = False
        group = [start]
        for member in group:  # grows while it is walked through
            if member == start or is_cut[start]:
                more = [p for p in partners[member] if free[p]]
                free[more] = False
                group += more
        groups.append(group)
    return groups


def _join(
    rows: Objects, groups: list[list[int]], is_cut: NDArray[np.bool_], method: Literal["nms", "fusion"]
) -> tuple[Objects, NDArray[np.bool_]]:
    """One row per group, and which groups have no whole member."""
    size = np.array(rows.areas if rows.obbs is None else rows.obbs[:, 2] * rows.obbs[:, 3], np.float64)
    first = [max(g, key=lambda r: size[r]) if is_cut[g[0]] and rows.obbs is not None else g[0] for g in groups]
    out = rows[np.array(first, np.int64)]
    cut_only = is_cut[[g[0] for g in groups]] if groups else is_cut[:0]
    if rows.obbs is None:
        out = _pieces(rows, out, groups, cut_only)
    if method == "fusion" and rows.scores is not None:
        out = _average(rows, out, groups, is_cut)
    if out.obbs is not None:  # derived, and cut at the tiles until here
        out = out.replace(boxes=obb_hull(out.obbs))
    return out, cut_only


def _pieces(rows: Objects, out: Objects, groups: list[list[int]], cut_only: NDArray[np.bool_]) -> Objects:
    """Boxes that are whole in no tile, as the hulls of their pieces; an annotated area grows with the box."""
    boxes, area = out.boxes.copy(), None if out.area is None else out.area.copy()
    for k in np.flatnonzero(cut_only).tolist():
        pieces = rows.boxes[groups[k]]
        boxes[k] = np.concatenate([pieces[:, :2].min(0), pieces[:, 2:].max(0)])
        if area is not None and (before := box_area(out.boxes[k])) > 0:
            area[k] *= box_area(boxes[k]) / before
    return out.replace(boxes=boxes, area=area)


def _average(rows: Objects, out: Objects, groups: list[list[int]], is_cut: NDArray[np.bool_]) -> Objects:
    """The whole members of each group fused: the mean weighted by score, with the mean score."""
    several = {k: whole for k, g in enumerate(groups) if len(whole := [r for r in g if not is_cut[r]]) > 1}
    if not several:
        return out
    members = rows[np.concatenate(list(several.values()))]
    labels = np.repeat(list(several), [len(w) for w in several.values()])  # one class per group: nothing else fuses
    fused = fuse([members.replace(labels=labels, area=None, spread=None)], iou=0.0)
    of_group = {int(k): i for i, k in reversed(list(enumerate(fused.labels)))}
    into, row = np.array(list(of_group)), np.array(list(of_group.values()))
    columns = {n: getattr(out, n).copy() for n in fused.columns if n not in ("labels", "ignore")}
    for name, column in columns.items():
        column[into] = getattr(fused, name)[row]
    return out.replace(**columns)


def _within_larger(out: Objects, cut_only: NDArray[np.bool_], tiles: list[set[int]]) -> NDArray[np.bool_]:
    """bool [K]: cut, and mostly within a whole or a larger one of its class that none of the same tiles see."""
    gone = np.zeros(len(out), bool)
    size = np.array(box_area(out.boxes) if out.obbs is None else out.obbs[:, 2] * out.obbs[:, 3], np.float64)
    cut = np.flatnonzero(cut_only)
    boxes = out.boxes.astype(np.float64)
    meet = (box_intersection(boxes[cut], boxes) > 0) & (out.labels[cut][:, None] == out.labels[None])
    meet &= ~cut_only[None] | (size[None] > size[cut][:, None])
    i, j = np.nonzero(meet)
    i = cut[i]
    apart = np.array([tiles[a].isdisjoint(tiles[b]) for a, b in zip(i.tolist(), j.tolist(), strict=True)], bool)
    i, j = i[apart], j[apart]
    if out.obbs is None:
        low, high = np.maximum(boxes[i, :2], boxes[j, :2]), np.minimum(boxes[i, 2:], boxes[j, 2:])
        share = np.divide((high - low).prod(axis=1), size[i], out=np.zeros(len(i)), where=size[i] > 0)
    else:
        obbs = out.obbs.astype(np.float64)
        share = obb_overlap_pairs(obbs[i], obbs[j], np.ones(len(i), bool))
    gone[i[share > MOSTLY]] = True
    return gone


# -- the common vehicle -------------------------------------------------------------------------------------------


def common_width(objects: Objects, spread: float = 1.1) -> float:
    """Width in px of the commonest objects, NaN without any: the shorter side, of oriented boxes where there are some.

    The mode: the median of the widths around the one that has the most others within a factor of `spread`. Few lorries
    and many specks do not move it. Ignored objects do not count.
    """
    o = objects[~objects.ignore]
    sides = o.boxes[:, 2:] - o.boxes[:, :2] if o.obbs is None else o.obbs[:, 2:4]
    widths = np.sort(sides.min(axis=1).astype(np.float64)) if len(o) else np.zeros(0)
    widths = widths[widths > 0]
    if not len(widths):
        return math.nan
    low, high = (np.searchsorted(widths, widths / spread, "left"), np.searchsorted(widths, widths * spread, "right"))
    best = int(np.argmax(high - low))
    return float(np.median(widths[low[best] : high[best]]))


def scale_for(common: float, wanted: float) -> float:
    """Zoom that makes objects `common` px wide `wanted` px wide, as they were in training.

    Raises:
        TercelError: a width that is not positive.
    """
    if not (common > 0 and wanted > 0 and math.isfinite(common) and math.isfinite(wanted)):
        hint = "give the common width in px with evaluate.tiles.common"
        raise TercelError(f"no zoom makes objects {common} px wide {wanted} px wide", hint)
    return wanted / common
