"""Every convention of oriented boxes in and out of ours: the one place where angles and corners are converted.

Ours is (cx, cy, length, width, theta), theta in radians clockwise on screen in [-pi/2, pi/2), length >= width
(docs/conventions.md). All others describe the same rectangles: their first side runs along the angle, and they differ
in unit, in the sense of rotation, and in the range that makes the angle unique. Reading therefore needs the unit and
the sense only; writing needs the range too. Which end is the front (the heading) is no part of this.

Sources: mmrotate's documentation of `oc`, `le90` and `le135`; OpenCV's change notes of 4.5.1 for `minAreaRect`.

Shape legend: N rectangles; 5 = (cx, cy, side along the angle, other side, angle); 4 corners.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.geometry import canonical_obb, corners_to_obb, obb_corners

_END = 2e-7  # rad: nearer than this to the open end of a range is the closed end (float32 resolves 1.2e-7 there)
_SLACK = 1.5  # px by which rounded corners may miss the rectangle around them
_SHARE = 0.05  # ... or this share of its length


@dataclass(frozen=True)
class Convention:
    """How a library or a file writes oriented boxes.

    Attributes:
        low: lower end of the angle's range, radians.
        turn: extent of the range, radians. pi/2: the angle is that of either side, whichever falls into the range;
            pi: that of the longer side; 2 pi: that of the longer side as well, written without a sign.
        top: the range is (low, low + turn] instead of [low, low + turn).
        degrees: unit of what is written (`low` and `turn` are radians all the same).
        clockwise: sense of positive angles as one sees them on screen.
    """

    low: float
    turn: float = np.pi
    top: bool = False
    degrees: bool = False
    clockwise: bool = True


OURS = Convention(-np.pi / 2)
LE90 = Convention(-np.pi / 2)  # mmrotate, [-90, 90) degrees
LE135 = Convention(-np.pi / 4)  # mmrotate, [-45, 135)
OC = Convention(0.0, np.pi / 2, top=True)  # mmrotate, (0, 90], after OpenCV
OPENCV = Convention(0.0, np.pi / 2, top=True, degrees=True)  # minAreaRect from 4.5.1 on: (0, 90]; 5.0 has -90 for 90
OPENCV_OLD = Convention(-np.pi / 2, np.pi / 2, degrees=True)  # before 4.5.1: [-90, 0)
HALF_TURN = Convention(0.0)  # roLabelImg, HIT-UAV: [0, 180)
FULL_DEGREES = Convention(0.0, 2 * np.pi, degrees=True)  # the aerial training line: "negatives + 360"

CONVENTIONS = {
    "ours": OURS,
    "oc": OC,
    "le90": LE90,
    "le135": LE135,
    "opencv": OPENCV,
    "opencv before 4.5.1": OPENCV_OLD,
    "half turn": HALF_TURN,
    "full turn, degrees": FULL_DEGREES,
    "counterclockwise": Convention(-np.pi / 2, clockwise=False),
    "counterclockwise, degrees": Convention(-np.pi / 2, degrees=True, clockwise=False),
}


def to_ours(rects: NDArray[Any], convention: Convention) -> NDArray[np.float64]:
    """Our oriented boxes f64 [N,5] from rectangles [N,5] in px, sides in any order, any angle.

    NaN and negative sides stay as they are, for the reader to count.
    """
    out = np.array(rects, dtype=np.float64).reshape(-1, 5)
    if convention.degrees:
        out[:, 4] = np.deg2rad(out[:, 4])
    if not convention.clockwise:
        out[:, 4] = -out[:, 4]
    good = np.isfinite(out).all(axis=1) & (out[:, 2:4] >= 0).all(axis=1)
    out[good] = canonical_obb(out[good])
    return out


def from_ours(obbs: NDArray[Any], convention: Convention) -> NDArray[np.float64]:
    """The same rectangles f64 [N,5] as the convention writes them: the angle in its range, its side first."""
    out = np.array(canonical_obb(np.asarray(obbs, dtype=np.float64).reshape(-1, 5)), dtype=np.float64)
    angle = out[:, 4] if convention.clockwise else -out[:, 4]
    low, high, turn = convention.low, convention.low + convention.turn, convention.turn
    steps = np.ceil((angle - high - _END) / turn) if convention.top else np.floor((angle - low + _END) / turn)
    angle = np.clip(angle - steps * turn, low, high)
    if turn < 3:  # by quarter turns the sides change places
        odd = steps % 2 == 1
        out[odd, 2], out[odd, 3] = out[odd, 3], out[odd, 2].copy()
    out[:, 4] = np.rad2deg(angle) if convention.degrees else angle
    return out


def check_radians(angles: NDArray[Any], where: Callable[[int], str]) -> None:
    """Refuse angles [N] that no one writes in radians: beyond a full turn.

    Raises:
        TercelError: with both readings of the first such angle. A file of small angles only cannot be told.
    """
    for i in np.flatnonzero(np.abs(angles) > 2 * np.pi + 1e-3)[:1].tolist():
        v = float(angles[i])
        turned = np.rad2deg(v) % 360
        raise TercelError(
            f"{where(i)}: the angle {v:g} is beyond a full turn: read as radians it is {turned:.1f} degrees after "
            f"{abs(v) / (2 * np.pi):.1f} turns, read as degrees it is {np.deg2rad(v):.4f} radians",
            "this format has radians: convert the angles from degrees",
        )


def suspect_radians(angles: NDArray[Any], where: Callable[[int], str], ledger: Ledger) -> None:
    """Warn when all of ten or more angles [N] in degrees would be angles in radians too, with both readings."""
    turned = np.abs(angles[np.isfinite(angles)])
    if len(turned) >= 10 and (turned > 0).mean() > 0.5 and (turned <= 2 * np.pi + 1e-3).all():
        i = int(np.argmax(np.abs(angles)))
        v = float(angles[i])
        message = (
            f"no angle is larger than a full turn in radians: are they radians? {v:g} was read as degrees, "
            f"which is nearly upright; as radians it would be {np.rad2deg(v):.1f} degrees"
        )
        ledger.add("labels.angle_unit", Severity.WARNING, message, where(i), len(turned))


# -- four corners -------------------------------------------------------------------------------------------------


def from_corners(corners: NDArray[Any], where: Callable[[int], str], ledger: Ledger) -> NDArray[np.float64]:
    """Our oriented boxes f64 [N,5] around four corners [N,4,2] in px, clockwise or not, from any of them.

    Crossing quads (corners in a wrong order) are put in order; a quad that misses its rectangle by more than rounding
    and a twentieth of its length becomes the smallest rectangle around it. Both are counted. One without extent gets
    width 0, and NaN stays NaN: the rows that `assemble` leaves out and counts.
    """
    quads = np.array(corners, dtype=np.float64).reshape(-1, 4, 2)
    out = np.full((len(quads), 5), np.nan)
    good = np.flatnonzero(np.isfinite(quads).all(axis=(1, 2)))
    quads = quads[good]
    middle = quads.mean(axis=1, keepdims=True)
    quads = quads - middle  # differences keep their digits in large pictures
    crossing, concave = _bends(quads)
    for i in np.flatnonzero(crossing).tolist():
        message = "quads whose sides cross (corners in a wrong order) were put in order"
        ledger.add("labels.crossing", Severity.WARNING, message, where(int(good[i])))
    quads[crossing] = _sorted_around(quads[crossing])
    quads[concave] = _without_dent(quads[concave])
    obbs = np.asarray(corners_to_obb(quads), dtype=np.float64).reshape(-1, 5)
    obbs[obbs[:, 3] <= 1e-9 * np.maximum(obbs[:, 2], 1), 3] = 0  # rounding noise of corners on one line
    for i in np.flatnonzero(
        (_missed(quads, obbs) > np.maximum(_SLACK, _SHARE * obbs[:, 2])) & (obbs[:, 3] > 0)
    ).tolist():
        message = "quads that are no rectangles became the smallest rectangle around them"
        ledger.add("labels.skewed", Severity.WARNING, message, where(int(good[i])))
    obbs[:, :2] += middle[:, 0]
    out[good] = obbs
    return out


def to_corners(obbs: NDArray[Any]) -> NDArray[np.float64]:
    """Corners f64 [N,4,2] of our oriented boxes, clockwise on screen, the first side along theta (theta = 0: top left,
    top right, bottom right, bottom left), so that a square keeps its theta when it is read again."""
    corners = np.asarray(obb_corners(np.asarray(obbs, dtype=np.float64).reshape(-1, 5)), dtype=np.float64)
    return corners[:, [2, 3, 0, 1]]


def _bends(quads: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(crossing, dented) bool [N]: at two corners of four a crossing quad turns the other way, at one a dented one."""
    side = np.roll(quads, -1, axis=1) - quads
    follow = np.roll(side, -1, axis=1)
    turn = side[..., 0] * follow[..., 1] - side[..., 1] * follow[..., 0]
    small = 1e-9 * np.abs(quads).max(axis=(1, 2), initial=1.0)[:, None] ** 2
    right, left = (turn > small).sum(axis=1), (turn < -small).sum(axis=1)
    mixed = (right > 0) & (left > 0)
    return mixed & (right == left), mixed & (right != left)


def _sorted_around(quads: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners by their direction from the middle, which lies at 0."""
    order = np.argsort(np.arctan2(quads[..., 1], quads[..., 0]), axis=1, kind="stable")
    return np.take_along_axis(quads, order[..., None], axis=1)


def _without_dent(quads: NDArray[np.float64]) -> NDArray[np.float64]:
    """The three corners of the hull, one of them twice: the smallest rectangle lies along a side of the hull."""
    out = quads.copy()
    side = np.roll(quads, -1, axis=1) - quads
    before = np.roll(side, 1, axis=1)
    turn = before[..., 0] * side[..., 1] - before[..., 1] * side[..., 0]  # at each corner
    odd = np.where((turn > 0).sum(axis=1)[:, None] == 1, turn > 0, turn < 0).argmax(axis=1)
    n = np.arange(len(quads))
    out[n, odd] = quads[n, (odd + 1) % 4]
    return out


def _missed(quads: NDArray[np.float64], obbs: NDArray[np.float64]) -> NDArray[Any]:
    """The largest distance f64 [N] of a rectangle's corner from the nearest corner of the quad, px."""
    away = np.linalg.norm(obb_corners(obbs)[:, :, None] - quads[:, None], axis=-1)
    missed: NDArray[Any] = away.min(axis=2).max(axis=1, initial=0.0)
    return missed
