"""Conventions of oriented boxes, against OpenCV, mmrotate's definitions in plain Python, and drawn pictures."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.finding import Ledger, TercelError
from tercel.core.geometry import obb_corners
from tercel.data.formats import angles
from tercel.data.formats.angles import CONVENTIONS, OPENCV, OPENCV_OLD, OURS, from_ours, to_ours

# (cx, cy, side along the angle, other side, degrees clockwise on screen): off the middle, so that no mirroring passes
CASES = [
    (30.0, 44.0, along, across, degrees)
    for (along, across), degrees in itertools.product([(40.0, 12.0), (12.0, 40.0)], [0, 45, 90, 135, -30, 17, 163])
]
cases = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[2]:g}x{c[3]:g}@{c[4]}")


def corners_of(cx: float, cy: float, along: float, across: float, degrees: float) -> list[tuple[float, float]]:
    """Corners by trigonometry in plain Python; y points down, so that positive angles turn clockwise."""
    t = math.radians(degrees)
    ax, ay, bx, by = math.cos(t), math.sin(t), -math.sin(t), math.cos(t)
    return [
        (cx + i * along / 2 * ax + j * across / 2 * bx, cy + i * along / 2 * ay + j * across / 2 * by)
        for i, j in [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    ]


def apart(a: Any, b: Any) -> float:
    """The largest distance from a corner of [4,2] to the nearest one of the other."""
    d = np.linalg.norm(np.asarray(a)[:, None] - np.asarray(b)[None], axis=-1)
    return float(max(d.min(axis=0).max(), d.min(axis=1).max()))


def mmrotate(corners: Any, name: str) -> tuple[float, ...]:
    """poly2obb of mmrotate: the angle of the longer side in [-90, 90) or [-45, 135); for oc by minAreaRect."""
    (x1, y1), (x2, y2), (x3, y3), (x4, y4) = corners
    cx, cy = (x1 + x2 + x3 + x4) / 4, (y1 + y2 + y3 + y4) / 4
    first, second = math.dist((x1, y1), (x2, y2)), math.dist((x2, y2), (x3, y3))
    a = math.atan2(y2 - y1, x2 - x1) if first > second else math.atan2(y4 - y1, x4 - x1)
    low = -math.pi / 2 if name == "le90" else -math.pi / 4
    while a < low - 1e-9:
        a += math.pi
    while a >= low + math.pi - 1e-9:
        a -= math.pi
    return cx, cy, max(first, second), min(first, second), a


def opencv(corners: Any) -> tuple[float, ...]:
    """minAreaRect as its documentation has it from 4.5.1 on; degrees in (0, 90]."""
    (cx, cy), (w, h), a = cv2.minAreaRect(np.array(corners, np.float32))
    while a < 1e-3:  # OpenCV 5 writes -90 for upright rectangles, which the documentation calls 90
        w, h, a = h, w, a + 90
    return cx, cy, w, h, a


def opencv_old(corners: Any) -> tuple[float, ...]:
    """Before 4.5.1: [-90, 0), a quarter turn lower with the sides exchanged; what is 90 today was -90."""
    cx, cy, w, h, a = opencv(corners)
    return (cx, cy, w, h, -90.0) if a > 90 - 1e-3 else (cx, cy, h, w, a - 90)


REFERENCE = {
    "le90": lambda c: mmrotate(c, "le90"),
    "le135": lambda c: mmrotate(c, "le135"),
    "opencv": opencv,
    "oc": lambda c: (*opencv(c)[:4], math.radians(opencv(c)[4])),
    "opencv before 4.5.1": opencv_old,
}


@cases
@pytest.mark.parametrize("name", list(REFERENCE))
def test_every_library_is_read_and_written_as_it_does_itself(name: str, case: tuple[float, ...]) -> None:
    true = corners_of(*case)
    theirs = np.array(REFERENCE[name](true))
    ours = to_ours(theirs[None], CONVENTIONS[name])
    assert apart(obb_corners(ours)[0], true) < 1e-4
    assert ours[0, 2] >= ours[0, 3]
    assert -math.pi / 2 <= ours[0, 4] < math.pi / 2
    np.testing.assert_allclose(from_ours(ours, CONVENTIONS[name])[0], theirs, atol=1e-4)


@cases
@pytest.mark.parametrize("convention", [OPENCV, OPENCV_OLD])
def test_opencv_draws_what_is_written_for_it(convention: Any, case: tuple[float, ...]) -> None:
    true = corners_of(*case)
    ours = to_ours(np.array([case]), CONVENTIONS["full turn, degrees"])
    cx, cy, w, h, a = from_ours(ours, convention)[0].tolist()
    assert apart(cv2.boxPoints(((cx, cy), (w, h), a)), true) < 1e-3


@cases
@pytest.mark.parametrize("name", list(CONVENTIONS))
def test_what_was_drawn_is_found_again(name: str, case: tuple[float, ...]) -> None:
    """A filled polygon, its box through each convention and back: the pixels inside the box are those that were set."""
    drawn = np.zeros((90, 80), np.uint8)
    fixed = np.round(np.array(corners_of(*case)) * 256 - 128).astype(np.int32)  # cv2 counts from pixel centres
    cv2.fillPoly(drawn, [fixed], 1, shift=8)
    ours = to_ours(np.array([case]), CONVENTIONS["full turn, degrees"])
    cx, cy, length, width, theta = to_ours(from_ours(ours, CONVENTIONS[name]), CONVENTIONS[name])[0].tolist()
    y, x = np.mgrid[:90, :80] + 0.5
    along = (x - cx) * math.cos(theta) + (y - cy) * math.sin(theta)
    across = -(x - cx) * math.sin(theta) + (y - cy) * math.cos(theta)
    inside = (np.abs(along) <= length / 2) & (np.abs(across) <= width / 2)
    assert (inside != drawn.astype(bool)).sum() <= 0.2 * inside.sum()  # cv2 sets the pixels of the outline too
    turned_off = np.abs(along) <= length / 2 - 1.5
    assert drawn[turned_off & (np.abs(across) <= width / 2 - 1.5)].all()


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("ours", (9, 8, 20, 40, 0), (9, 8, 40, 20, -math.pi / 2)),
        ("counterclockwise", (9, 8, 40, 20, 0.3), (9, 8, 40, 20, -0.3)),
        ("counterclockwise, degrees", (9, 8, 40, 20, 45), (9, 8, 40, 20, -math.pi / 4)),
        ("full turn, degrees", (9, 8, 40, 20, 322.5), (9, 8, 40, 20, math.radians(-37.5))),
        ("half turn", (9, 8, 40, 20, 3.0), (9, 8, 40, 20, 3.0 - math.pi)),
        ("half turn", (50, 40, 20, 40, 0), (50, 40, 40, 20, -math.pi / 2)),  # UAV-ROD's own example
    ],
)
def test_by_hand(name: str, theirs: Any, ours: Any) -> None:
    np.testing.assert_allclose(to_ours(np.array([theirs]), CONVENTIONS[name])[0], ours, atol=1e-12)


sides = st.floats(0.5, 1e4)


@pytest.mark.parametrize("name", list(CONVENTIONS))
@given(rect=st.tuples(st.floats(-50, 1e4), st.floats(-50, 1e4), sides, sides, st.floats(-20, 20)))
def test_writing_stays_in_range_and_reading_gives_the_rectangle_back(name: str, rect: tuple[float, ...]) -> None:
    c = CONVENTIONS[name]
    ours = to_ours(np.array([rect]), OURS)
    theirs = from_ours(ours, c)
    angle = float(np.deg2rad(theirs[0, 4]) if c.degrees else theirs[0, 4])
    low, high = c.low - 1e-9, c.low + c.turn + 1e-9
    assert low < angle <= high if c.top else low <= angle < high
    if c.turn > 3:
        assert theirs[0, 2] >= theirs[0, 3]
    back = to_ours(theirs, c)
    assert (
        apart(obb_corners(back)[0], obb_corners(ours)[0]) < 0.01
    )  # px, at 1e4: the ends of a range are closed to 2e-7


ROWS = {  # docs/conventions.md: the rectangle at 60 and at 120 degrees
    ("ours", "le90"): ((40, 20, 60), (40, 20, -60)),
    ("le135",): ((40, 20, 60), (40, 20, 120)),
    ("oc", "opencv"): ((40, 20, 60), (20, 40, 30)),
    ("opencv before 4.5.1",): ((20, 40, -30), (40, 20, -60)),
    ("half turn",): ((40, 20, 60), (40, 20, 120)),
    ("full turn, degrees",): ((40, 20, 60), (40, 20, 300)),
}


@pytest.mark.parametrize(("names", "rows"), list(ROWS.items()), ids=str)
def test_the_table_of_the_documents(names: tuple[str, ...], rows: Any) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "conventions.md").read_text()
    assert " | ".join(", ".join(map(str, row)) for row in rows) in text
    for name, (row, degrees) in itertools.product(names, zip(rows, (60, 120))):
        out = from_ours(np.array([[50, 40, 40, 20, math.radians(degrees)]]), CONVENTIONS[name])[0]
        angle = out[4] if CONVENTIONS[name].degrees else np.rad2deg(out[4])
        np.testing.assert_allclose([out[2], out[3], angle], row)


def test_float32_ends_of_the_range_stay_in_it() -> None:
    ends = np.array([[5, 5, 4, 2, -np.pi / 2], [5, 5, 4, 2, np.pi / 2]], np.float32)
    np.testing.assert_allclose(from_ours(ends, CONVENTIONS["le90"])[:, 4], -np.pi / 2, atol=1e-7)
    np.testing.assert_allclose(from_ours(ends, OPENCV)[:, 2:], [[4, 2, 90]] * 2, atol=1e-5)
    np.testing.assert_allclose(from_ours(ends, OPENCV_OLD)[:, 2:], [[4, 2, -90]] * 2, atol=1e-5)


def test_nan_and_negative_sides_are_left_to_be_counted() -> None:
    out = to_ours(np.array([[1, 2, np.nan, 4, 0.1], [1, 2, -3, 4, 0.1]]), OURS)
    assert np.isnan(out[0, 2])
    assert out[1, 2] == -3


# -- four corners -------------------------------------------------------------------------------------------------


def read(quads: Any) -> tuple[Any, dict[str, int]]:
    ledger = Ledger()
    obbs = angles.from_corners(np.array(quads, np.float64), lambda i: f"a.txt:{i + 1}", ledger)
    return obbs, {f.check: f.count for f in ledger.findings()}


@cases
def test_corners_in_any_order_are_one_rectangle(case: tuple[float, ...]) -> None:
    """All 24 orders of the corners; of these 16 cross, which is counted."""
    true = corners_of(*case)
    obbs, counts = read(list(itertools.permutations(true)))
    assert all(apart(c, true) < 1e-9 for c in obb_corners(obbs))
    assert counts == {"labels.crossing": 16}


@cases
def test_corners_written_are_corners_read(case: tuple[float, ...]) -> None:
    ours = to_ours(np.array([case]), CONVENTIONS["full turn, degrees"])
    corners = angles.to_corners(ours)
    assert apart(corners[0], corners_of(*case)) < 1e-9
    obbs, counts = read(corners)
    np.testing.assert_allclose(obbs, ours, atol=1e-9)
    assert counts == {}
    edges = np.roll(corners[0], -1, axis=0) - corners[0]
    assert edges[0, 0] * edges[1, 1] - edges[0, 1] * edges[1, 0] > 0  # clockwise on screen


def test_a_square_keeps_its_angle() -> None:
    square = np.array([[20, 30, 10, 10, 0.3]])
    np.testing.assert_allclose(read(angles.to_corners(square))[0], square, atol=1e-9)


@given(st.tuples(st.floats(50, 5000), st.floats(50, 5000), st.floats(8, 90), st.floats(4, 8), st.floats(0, 180)))
def test_whole_pixels_are_rectangles_still(case: tuple[float, ...]) -> None:
    """Rounded corners are no reason to warn, and move the rectangle by no more than they were rounded."""
    true = corners_of(*case)
    obbs, counts = read([[(round(x), round(y)) for x, y in true]])
    assert counts == {}
    assert apart(obb_corners(obbs)[0], true) < 2.2


def test_quads_that_are_no_rectangles_are_counted() -> None:
    trapeze = [(0, 0), (60, 0), (45, 30), (15, 30)]
    dented = [(0, 0), (60, 0), (30, 10), (0, 40)]
    obbs, counts = read([trapeze, dented, [(0, 0), (60, 0), (60, 30), (0, 30)]])
    assert counts == {"labels.skewed": 2}
    assert apart(obb_corners(obbs)[0], [(0, 0), (60, 0), (60, 30), (0, 30)]) < 1e-9
    assert obbs[1, 2] * obbs[1, 3] == pytest.approx(60 * 40)  # along any side of the triangle that is its hull


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=4, max_size=4))
def test_the_fit_is_opencvs_smallest_rectangle(quad: list[tuple[float, float]]) -> None:
    """Any four points, crossing and dented ones too. (OpenCV misses the smallest where points nearly coincide.)"""
    _, (w, h), _ = cv2.minAreaRect(np.array(quad, np.float32))
    obbs, _ = read([quad])
    assert obbs[0, 2] * obbs[0, 3] <= w * h * 1.001 + 0.05
    inside = np.array(quad) - obbs[0, :2]
    c, s = math.cos(obbs[0, 4]), math.sin(obbs[0, 4])
    assert (np.abs(inside @ [c, s]) <= obbs[0, 2] / 2 + 1e-6).all()
    assert (np.abs(inside @ [-s, c]) <= obbs[0, 3] / 2 + 1e-6).all()


@pytest.mark.parametrize(
    "quad",
    [
        [(5, 5)] * 4,
        [(0, 0), (10, 10), (20, 20), (30, 30)],
        [(0.1, 0.1), (0.7, 0.7), (0.3, 0.3), (0.1, 0.1)],
        [(4000.1, 3000.3), (4001.1, 3001.3), (4003.1, 3003.3), (4002.1, 3002.3)],
    ],
)
def test_quads_without_extent_have_width_0(quad: Any) -> None:
    obbs, _ = read([quad])
    assert obbs[0, 3] == 0


def test_nan_corners_and_no_corners() -> None:
    obbs, counts = read([[(0, 0), (np.nan, 0), (5, 5), (0, 5)], [(0, 0), (9, 0), (9, 5), (0, 5)]])
    assert np.isnan(obbs[0]).all()
    assert obbs[1].tolist() == [4.5, 2.5, 9, 5, 0]
    assert counts == {}
    assert read(np.zeros((0, 4, 2)))[0].shape == (0, 5)


# -- units --------------------------------------------------------------------------------------------------------


def test_degrees_where_radians_are_due_are_refused_with_both_readings() -> None:
    with pytest.raises(TercelError, match=r"a.txt:2: the angle 37\.5 .*348\.6 degrees .*6\.0 turns.*0\.6545 radians"):
        angles.check_radians(np.array([1.5, 37.5, np.nan]), lambda i: f"a.txt:{i + 1}")
    angles.check_radians(np.array([-2 * np.pi, 6.2831853, np.nan]), lambda i: "")


def test_radians_where_degrees_are_due_are_pointed_out() -> None:
    ledger = Ledger()
    angles.suspect_radians(np.linspace(-3, 3, 20), lambda i: f"a.txt:{i + 1}", ledger)
    (finding,) = ledger.findings()
    assert (finding.check, finding.count) == ("labels.angle_unit", 20)
    assert "-3 was read as degrees" in finding.message
    assert "-171.9 degrees" in finding.message
    for fine in (np.zeros(50), np.linspace(0, 3, 5), np.linspace(0, 90, 20)):
        other = Ledger()
        angles.suspect_radians(fine, lambda i: "", other)
        assert other.findings() == ()
