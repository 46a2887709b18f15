"""Rows of label files and what decides whether they are kept: every loss is counted by its reason.

Shape legend: N rows (labelled objects); K named points of an object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity
from tercel.core.geometry import canonical_obb, obb_hull, points_hull

ROUNDING = 0.01  # px: text files round coordinates; what sticks out by less is cut without being counted


@dataclass
class Rows:
    """N labelled objects as the files have them, before anything is judged.

    Attributes:
        picture: i64 [N], index into the pictures.
        labels: i64 [N] class ids.
        boxes: f64 [N,4] x1 y1 x2 y2 in px (NaN where the file has it); of oriented boxes nothing is read from it, for
            `assemble` derives it.
        where: "file:line" of row i.
        ignore: bool [N].
        area: f64 [N] annotated areas in px^2, or None (then that of the box, oriented or not).
        lost: rows that were dropped (and counted) before they got here.
        obbs: f64 [N,5] cx cy length width theta in px and radians clockwise, sides in any order, any theta (see
            tercel.data.formats.angles for other conventions); or None. NaN where the file has it.
        heading: f64 [N] radians clockwise from the x axis: where the front points; or None. Any value where unknown.
        headed: bool [N], whether the front is known; None with heading: all are.
        points: f64 [N,K,2] x y in px, or None. Where the file has no boxes, `boxes` is the hull of the labelled points
            (tercel.core.geometry.points_hull).
        visible: u8 [N,K], 0 absent, 1 hidden, 2 visible; required with points. Never derived from a coordinate.
        occlusion: f64 [N] in 0..1, the share of the object that is hidden, or None.
        beyond: boxes may reach beyond their picture (whole bodies, estimated) and are not cut at its border.
    """

    picture: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    where: Callable[[int], str]
    ignore: NDArray[np.bool_]
    area: NDArray[np.float64] | None = None
    lost: int = 0
    obbs: NDArray[np.float64] | None = None
    heading: NDArray[np.float64] | None = None
    headed: NDArray[np.bool_] | None = None
    points: NDArray[np.float64] | None = None
    visible: NDArray[np.uint8] | None = None
    occlusion: NDArray[np.float64] | None = None
    beyond: bool = False

    def take(self, keep: NDArray[np.bool_]) -> Rows:
        index, where = np.flatnonzero(keep), self.where
        return replace(
            self,
            picture=self.picture[keep],
            labels=self.labels[keep],
            boxes=self.boxes[keep],
            where=lambda i: where(int(index[i])),
            ignore=self.ignore[keep],
            area=None if self.area is None else self.area[keep],
            obbs=None if self.obbs is None else self.obbs[keep],
            heading=None if self.heading is None else self.heading[keep],
            headed=None if self.headed is None else self.headed[keep],
            points=None if self.points is None else self.points[keep],
            visible=None if self.visible is None else self.visible[keep],
            occlusion=None if self.occlusion is None else self.occlusion[keep],
        )


def rows_of_points(
    picture: NDArray[np.int64], points: NDArray[np.float64], visible: NDArray[np.uint8], where: Callable[[int], str]
) -> Rows:
    """Rows of one class whose box is the hull of their labelled points; see `Rows` for the columns."""
    n = len(picture)
    finite = np.asarray(np.isfinite(points).all(axis=-1))  # what is not is no point, and `judge` counts it
    boxes: NDArray[Any] = points_hull(np.where(finite[..., None], points, 0.0), np.where(finite, visible, 0))
    labels, ignore = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    return Rows(picture, labels, boxes, where, ignore, points=points, visible=visible)


LOSSES = {
    "labels.not_finite",
    "labels.negative_extent",
    "labels.zero_area",
    "labels.outside",
    "labels.fields",
    "labels.orphan",
}


_NOT_FINITE = ("labels.not_finite", "boxes with NaN or infinite coordinates were left out")
_ZERO_AREA = ("labels.zero_area", "boxes without area were left out")
_OUTSIDE = ("labels.outside", "boxes outside their picture were left out")


def judge(rows: Rows, sizes: NDArray[np.float64], ledger: Ledger, *, as_written: bool = False) -> Rows:
    """The rows that can be used, boxes cut at the picture; all others counted by reason.

    Oriented boxes become canonical and stay whole at the border (what is left of a cut one is no rectangle); `boxes`
    becomes their hull, `area` length * width unless the file has another. Points stay where they are, also beyond the
    picture or the box; those are counted.

    Args:
        sizes: f64 [P,2] (H, W) of the pictures that `rows.picture` counts.
        as_written: keep what reaches beyond the picture or has no area.
    """
    rows = _known_points(rows, ledger)
    if rows.obbs is not None:
        rows = _judge_oriented(rows, rows.obbs, sizes, ledger, as_written)
    else:
        rows = _judge_boxes(_widened(rows, ledger), sizes, ledger, as_written)
    _doubt_points(rows, sizes, ledger)
    return rows


def _judge_boxes(rows: Rows, sizes: NDArray[np.float64], ledger: Ledger, as_written: bool) -> Rows:
    rows = _leave(rows, ~np.isfinite(rows.boxes).all(axis=1), ledger, *_NOT_FINITE)
    bad = (rows.boxes[:, 2:] < rows.boxes[:, :2]).any(axis=1)
    message = "boxes whose right or bottom lies before left or top were left out"
    rows = _leave(rows, bad, ledger, "labels.negative_extent", message)
    if as_written:
        return rows
    rows = _leave(rows, _flat(rows.boxes), ledger, *_ZERO_AREA)
    cut = _cut(rows.boxes, sizes[rows.picture])
    empty = _flat(cut)
    rows, cut = _leave(rows, empty, ledger, *_OUTSIDE), cut[~empty]
    sticks_out = (np.abs(cut - rows.boxes) > ROUNDING).any(axis=1)
    if rows.beyond:
        message = "boxes of whole bodies that reach beyond their picture were kept whole"
        _count(sticks_out, rows, ledger, "labels.beyond", message, Severity.INFO)
        return rows
    message = "boxes that reach beyond their picture were cut at its border"
    _count(sticks_out, rows, ledger, "labels.clipped", message)
    rows.boxes = cut
    return rows


def _known_points(rows: Rows, ledger: Ledger) -> Rows:
    """Rows whose absent points lie at 0 0; labelled points that are no number become absent."""
    if rows.points is None or rows.visible is None:
        return rows
    broken = (rows.visible > 0) & ~np.isfinite(rows.points).all(axis=-1)
    _count(broken, rows, ledger, "labels.point_not_finite", "points with NaN or infinite coordinates count as absent")
    visible = np.where(broken, 0, rows.visible).astype(np.uint8)
    return replace(rows, points=np.where((visible > 0)[..., None], rows.points, 0.0), visible=visible)


def _widened(rows: Rows, ledger: Ledger) -> Rows:
    """Rows whose box is the hull of one point, or of points in line: it gets a width and a height of a pixel."""
    if rows.points is None or rows.visible is None:
        return rows
    tight = (rows.boxes == points_hull(rows.points, rows.visible)).all(axis=1) & (rows.visible > 0).any(axis=1)
    thin = (rows.boxes[:, 2:].astype(np.float32) <= rows.boxes[:, :2].astype(np.float32)) & tight[:, None]
    message = "objects whose labelled points span no box got one of a pixel's width: their size is not known"
    _count(thin.any(axis=1), rows, ledger, "labels.thin_hull", message)
    return replace(rows, boxes=rows.boxes + 0.5 * np.concatenate([-1.0 * thin, 1.0 * thin], axis=1))


def _doubt_points(rows: Rows, sizes: NDArray[np.float64], ledger: Ledger) -> None:
    """Count points that are kept, but that a label seldom means."""
    if rows.points is None or rows.visible is None or not len(rows.labels):
        return
    known, points = rows.visible > 0, rows.points
    far = sizes[rows.picture][:, None, ::-1] + ROUNDING
    beyond = known & ((points < -ROUNDING) | (points > far)).any(axis=-1)
    message = "points outside their picture were kept as they are"
    _count(beyond, rows, ledger, "labels.point_outside_picture", message)
    boxes = rows.boxes[:, None]
    out = known & ((points < boxes[..., :2] - ROUNDING) | (points > boxes[..., 2:] + ROUNDING)).any(axis=-1)
    message = "points outside the box of their object were kept as they are"
    _count(out, rows, ledger, "labels.point_outside_box", message, Severity.INFO)
    message = "points that lie exactly on another point of their object"
    _count(_twins(points, known), rows, ledger, "labels.point_duplicate", message)
    without = ~known.any(axis=1) & ~rows.ignore
    if without.all():
        message = "no object has a labelled point: there is nothing that points can be learned from or judged by"
        _count(without, rows, ledger, "labels.all_absent", message)
        return
    message = "objects without a labelled point: their box counts, their points neither teach nor cost"
    _count(without, rows, ledger, "labels.no_points", message, Severity.INFO)


def _twins(points: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool [N,K]: known points with a known point of a lower number on the very same spot."""
    twins = np.zeros(known.shape, np.bool_)
    for j in range(1, known.shape[1]):  # K steps rather than N * K * K numbers at once
        same = (points[:, :j] == points[:, j : j + 1]).all(axis=-1) & known[:, :j]
        twins[:, j] = known[:, j] & same.any(axis=1)
    return twins


def _count(
    hits: NDArray[np.bool_],
    rows: Rows,
    ledger: Ledger,
    check: str,
    message: str,
    severity: Severity = Severity.WARNING,
) -> None:
    """Count the hits (bool [N] or [N,K]); the row of each is evidence."""
    per_row = hits if hits.ndim == 1 else hits.sum(axis=1)
    for i in np.flatnonzero(per_row).tolist():
        ledger.add(check, severity, message, rows.where(i), int(per_row[i]))


def _judge_oriented(
    rows: Rows, obbs: NDArray[np.float64], sizes: NDArray[np.float64], ledger: Ledger, as_written: bool
) -> Rows:
    bad = ~np.isfinite(obbs).all(axis=1)
    rows, obbs = _leave(rows, bad, ledger, *_NOT_FINITE), obbs[~bad]
    bad = (obbs[:, 2:4] < 0).any(axis=1)
    rows = _leave(rows, bad, ledger, "labels.negative_extent", "boxes with negative length or width were left out")
    # Turned and sorted as float32, which is what Objects hold: theta must not be rounded out of its range afterwards.
    ours: NDArray[Any] = canonical_obb(obbs[~bad].astype(np.float32))
    hulls: NDArray[Any] = obb_hull(ours)
    if not as_written:
        flat = ours[:, 3] <= 0
        rows, ours, hulls = _leave(rows, flat, ledger, *_ZERO_AREA), ours[~flat], hulls[~flat]
        cut = _cut(hulls, sizes[rows.picture])
        empty = _flat(cut)
        rows, ours, hulls, cut = _leave(rows, empty, ledger, *_OUTSIDE), ours[~empty], hulls[~empty], cut[~empty]
        for i in np.flatnonzero((np.abs(cut - hulls) > ROUNDING).any(axis=1)).tolist():
            message = "oriented boxes that reach beyond their picture were kept whole"
            ledger.add("labels.beyond", Severity.INFO, message, rows.where(i))
    sides = ours[:, 2:4].astype(np.float64)
    area = sides[:, 0] * sides[:, 1] if rows.area is None else rows.area
    return _headings(replace(rows, obbs=ours, boxes=hulls, area=area), ledger)


def _headings(rows: Rows, ledger: Ledger) -> Rows:
    """With `heading` in [-pi, pi), 0 where it is not known, and `headed`, when the source has any."""
    if rows.heading is None:
        return rows
    headed = np.ones(len(rows.labels), np.bool_) if rows.headed is None else rows.headed
    finite = np.isfinite(rows.heading)
    for i in np.flatnonzero(headed & ~finite).tolist():
        ledger.add("labels.heading", Severity.WARNING, "headings that are no number count as unknown", rows.where(i))
    headed = headed & finite
    turned = np.mod(np.where(headed, rows.heading, 0.0) + np.pi, 2 * np.pi) - np.pi
    return replace(rows, heading=np.where(headed, turned, 0.0), headed=headed)


def _leave(rows: Rows, bad: Any, ledger: Ledger, check: str, message: str) -> Rows:
    """The rows that are not `bad` (bool [N]); each of the others is counted."""
    if not bad.any():
        return rows
    for i in np.flatnonzero(bad).tolist():
        ledger.add(check, Severity.WARNING, message, rows.where(i))
    return rows.take(~bad)


def _flat(boxes: NDArray[Any]) -> Any:
    """bool [N]: boxes [N,4] that have no area once they are float32."""
    return (boxes[:, 2:].astype(np.float32) <= boxes[:, :2].astype(np.float32)).any(axis=1)


def _cut(boxes: NDArray[Any], sizes: NDArray[np.float64]) -> NDArray[Any]:
    """Boxes [N,4] cut at their pictures' `sizes` [N,2] (H, W)."""
    cut: NDArray[Any] = np.clip(boxes, 0, sizes[:, [1, 0, 1, 0]])
    return cut
