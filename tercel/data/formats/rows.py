"""Rows of label files and what decides whether they are kept: every loss is counted by its reason.

Shape legend: N rows (labelled objects).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity
from tercel.core.geometry import canonical_obb, obb_hull

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
        )


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
    becomes their hull, `area` length * width unless the file has another.

    Args:
        sizes: f64 [P,2] (H, W) of the pictures that `rows.picture` counts.
        as_written: keep what reaches beyond the picture or has no area.
    """
    if rows.obbs is not None:
        return _judge_oriented(rows, rows.obbs, sizes, ledger, as_written)
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
    message = "boxes that reach beyond their picture were cut at its border"
    for i in np.flatnonzero((np.abs(cut - rows.boxes) > ROUNDING).any(axis=1)).tolist():
        ledger.add("labels.clipped", Severity.WARNING, message, rows.where(i))
    rows.boxes = cut
    return rows


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
