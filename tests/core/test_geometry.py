"""Plane geometry against shapes whose answers are known, and properties that hold for all."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.geometry import (
    box_area,
    box_corners,
    box_intersection,
    box_iou,
    canonical_obb,
    clip_boxes,
    corners_to_obb,
    hull,
    obb_corners,
    obb_hull,
)

PI = math.pi
coordinate = st.floats(-500, 500)
length = st.floats(0.5, 300)
angle = st.floats(-20, 20)


@st.composite
def boxes(draw: st.DrawFn) -> np.ndarray:
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        x, y = draw(coordinate), draw(coordinate)
        rows.append([x, y, x + draw(length), y + draw(length)])
    return np.array(rows)


obbs = st.tuples(coordinate, coordinate, length, length, angle).map(lambda t: np.array([t]))


def same_rectangle(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Equal as sets of corners, wherever the first corner lies."""
    d = np.linalg.norm(a[:, None] - b[None], axis=2)
    return bool(d.min(axis=1).max() < tolerance and d.min(axis=0).max() < tolerance)


def test_boxes_by_hand() -> None:
    a = np.array([[0, 0, 10, 10], [0, 0, 4, 5], [3, 3, 3, 9]], np.float64)
    b = np.array([[5, 5, 15, 15], [0, 0, 10, 10], [20, 20, 30, 30]], np.float64)
    assert box_area(a).tolist() == [100, 20, 0]
    np.testing.assert_allclose(box_iou(a, b)[0], [25 / 175, 1, 0])
    assert box_intersection(a, b)[1].tolist() == [0, 20, 0]
    assert not np.isnan(box_iou(a[2:], a[2:])).any()
    assert box_corners(a[1:2]).tolist() == [[[0, 0], [4, 0], [4, 5], [0, 5]]]
    assert clip_boxes(np.array([[-5.0, -5, 50, 8], [70, 1, 90, 5]]), (10, 60)).tolist() == [
        [0, 0, 50, 8],
        [60, 1, 60, 5],
    ]


@given(boxes(), boxes())
def test_iou_is_symmetric_bounded_and_one_with_itself(a: np.ndarray, b: np.ndarray) -> None:
    iou = box_iou(a, b)
    np.testing.assert_allclose(iou, box_iou(b, a).T)
    assert ((iou >= 0) & (iou <= 1 + 1e-12)).all()
    np.testing.assert_allclose(np.diag(box_iou(a, a)), 1)


@given(boxes(), boxes(), st.floats(0.1, 10), coordinate)
def test_iou_does_not_change_with_scale_or_place(a: np.ndarray, b: np.ndarray, scale: float, shift: float) -> None:
    np.testing.assert_allclose(box_iou(a * scale + shift, b * scale + shift), box_iou(a, b), atol=1e-6)


def test_corners_of_an_oriented_box_in_the_order_that_the_convention_says() -> None:
    flat = obb_corners(np.array([[10, 20, 8, 4, 0]], np.float64))[0]
    np.testing.assert_allclose(flat, [[14, 22], [6, 22], [6, 18], [14, 18]])
    turned = obb_corners(np.array([[10, 20, 8, 4, PI / 2]], np.float64))[0]
    np.testing.assert_allclose(turned, [[8, 24], [8, 16], [12, 16], [12, 24]], atol=1e-12)


def test_theta_is_clockwise_on_screen() -> None:
    """A long box at +45 degrees runs from the top left to the bottom right (y points down)."""
    corners = obb_corners(np.array([[0, 0, 20, 0.002, PI / 4]], np.float64))[0]
    front = corners[[0, 3]].mean(axis=0)
    np.testing.assert_allclose(front, [10 / math.sqrt(2), 10 / math.sqrt(2)], atol=1e-9)


@pytest.mark.parametrize(
    ("given_", "wanted"),
    [
        ([0, 0, 8, 4, 0], [8, 4, 0]),
        ([0, 0, 8, 4, PI / 4], [8, 4, PI / 4]),
        ([0, 0, 8, 4, PI / 2], [8, 4, -PI / 2]),
        ([0, 0, 8, 4, 3 * PI / 4], [8, 4, -PI / 4]),
        ([0, 0, 8, 4, -PI / 2], [8, 4, -PI / 2]),
        ([0, 0, 8, 4, PI], [8, 4, 0]),
        ([0, 0, 4, 8, 0], [8, 4, -PI / 2]),
        ([0, 0, 4, 8, PI / 4], [8, 4, -PI / 4]),
        ([0, 0, 4, 8, PI / 2], [8, 4, 0]),
        ([0, 0, 4, 8, -PI / 2], [8, 4, 0]),
        ([0, 0, 4, 8, 3 * PI / 4], [8, 4, PI / 4]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_canonical_at_the_angles_that_matter(given_: list[float], wanted: list[float], dtype: type) -> None:
    out = canonical_obb(np.array([given_], dtype))
    np.testing.assert_allclose(out[0, 2:], wanted, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_border_of_the_convention_is_half_open(dtype: type) -> None:
    half = np.asarray(PI / 2, dtype)
    near = [half, np.nextafter(half, dtype(0)), np.nextafter(half, dtype(9)), -half, np.nextafter(-half, dtype(-9))]
    for theta in [*near, 3 * half, -3 * half, 101 * half]:
        out = canonical_obb(np.array([[0, 0, 8, 4, theta]], dtype))[0, 4]
        assert np.asarray(-PI / 2, dtype) <= out < half
        again = canonical_obb(np.array([[0, 0, 8, 4, out]], dtype))[0, 4]
        assert again == out


@given(obbs)
def test_canonical_is_the_same_rectangle_and_stays(o: np.ndarray) -> None:
    once = canonical_obb(o)
    assert once[0, 2] >= once[0, 3]
    assert -PI / 2 <= once[0, 4] < PI / 2
    assert same_rectangle(obb_corners(o)[0], obb_corners(once)[0], 1e-6)
    np.testing.assert_allclose(canonical_obb(once), once, atol=1e-12)


@given(obbs)
def test_corners_there_and_back(o: np.ndarray) -> None:
    back = corners_to_obb(obb_corners(o))
    assert same_rectangle(obb_corners(o)[0], obb_corners(back)[0], 1e-6)
    np.testing.assert_allclose(back[0, 2] * back[0, 3], o[0, 2] * o[0, 3], rtol=1e-6)


@given(obbs)
def test_the_hull_holds_the_box_tightly(o: np.ndarray) -> None:
    x1, y1, x2, y2 = obb_hull(o)[0]
    corners = obb_corners(o)[0]
    assert (corners[:, 0].min(), corners[:, 1].min(), corners[:, 0].max(), corners[:, 1].max()) == (x1, y1, x2, y2)
    c, s = abs(math.cos(o[0, 4])), abs(math.sin(o[0, 4]))
    np.testing.assert_allclose(x2 - x1, o[0, 2] * c + o[0, 3] * s, rtol=1e-6)  # the textbook formula


def test_no_objects() -> None:
    assert box_iou(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)
    assert obb_hull(np.zeros((0, 5))).shape == (0, 4)
    assert canonical_obb(np.zeros((0, 5))).shape == (0, 5)
    assert hull(np.array([[[1.0, 2], [3, 0]]])).tolist() == [[1, 0, 3, 2]]
