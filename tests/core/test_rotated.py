"""Overlaps of oriented boxes against polygon clipping by others, a slow way of our own, and shapes one can work out."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core import rotated
from tercel.core.finding import TercelError
from tercel.core.geometry import box_iou, canonical_obb, obb_hull
from tercel.core.rotated import obb_intersection_pairs, obb_iou, obb_overlap_pairs, points_in_obbs, reference_iou

PI = math.pi
coordinate = st.floats(-60, 60)
side = st.floats(0.5, 80)
obb = st.tuples(coordinate, coordinate, side, side, st.floats(-20, 20)).map(np.array)
obbs = st.lists(obb, min_size=1, max_size=5).map(np.stack)


def scattered(count: int, span: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.c_[rng.uniform(0, span, (count, 2)), rng.uniform(4, 60, (count, 2)), rng.uniform(-9, 9, count)]


def moved(boxes: np.ndarray, turn: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    """The boxes after a rotation about the origin, a scaling and a translation of the plane."""
    c, s = math.cos(turn), math.sin(turn)
    centre = boxes[:, :2] @ np.array([[c, s], [-s, c]]) * scale + shift
    return np.c_[centre, boxes[:, 2:4] * scale, boxes[:, 4] + turn]


def test_the_oracle(shared: Path) -> None:
    folder = shared / "oracles/rotated_iou"
    with (folder / "pairs.csv").open() as f:
        rows = list(csv.DictReader(f))
    columns = ["cx", "cy", "w", "h", "theta"]
    a, b = (np.array([[float(r[f"{c}{k}"]) for c in columns] for r in rows]) for k in (1, 2))
    expected = np.array(json.loads((folder / "expected.json").read_text())["pairs"])
    assert len(expected) == len(rows) == 322
    limit = np.array([1e-7 if r["group"] == "touching_tip" else 1e-9 for r in rows])
    for found in (obb_overlap_pairs(a, b), np.diag(obb_iou(a, b)), np.diag(obb_iou(b, a))):
        assert (np.abs(found - expected[:, 1]) <= limit).all()
    np.testing.assert_allclose(obb_intersection_pairs(a, b), expected[:, 2], rtol=1e-8, atol=1e-6)
    areas = a[:, 2] * a[:, 3]
    share = obb_overlap_pairs(a, b, np.ones(len(a), bool))
    np.testing.assert_allclose(share * areas, expected[:, 2], rtol=1e-8, atol=1e-6)
    # The slow way too, or it would be no reference.
    slow = np.array([reference_iou(p[None], q[None])[0, 0] for p, q in zip(a, b)])
    assert (np.abs(slow - expected[:, 1]) <= np.maximum(limit, 1e-7)).all()


def test_detectron2s_own_cases(shared: Path) -> None:
    folder = shared / "oracles/rotated_iou"
    cases = json.loads((folder / "detectron2_cases.json").read_text())["cases"]
    expected = json.loads((folder / "expected.json").read_text())["detectron2"]
    a, b = (np.array([c[k] for c in cases]) for k in ("box1", "box2"))
    np.testing.assert_allclose(obb_overlap_pairs(a, b), expected, atol=1e-9)


def test_boxes_of_float32_are_read_as_they_are() -> None:
    a, b = scattered(40, 100), scattered(40, 100, 1)
    single = obb_iou(a.astype(np.float32), b.astype(np.float32))
    assert single.dtype == np.float64
    np.testing.assert_array_equal(
        single, obb_iou(a.astype(np.float32).astype(float), b.astype(np.float32).astype(float))
    )


@pytest.mark.parametrize(
    ("a", "b", "shared_area"),
    [
        ([0, 0, 2, 2, 0], [0, 0, 2, 2, PI / 4], 8 * (math.sqrt(2) - 1)),  # a regular octagon
        ([0, 0, 10, 2, 0.3], [0, 0, 10, 2, 0.3 + PI / 2], 4),  # a cross
        ([0, 0, 10, 2, 0], [0, 0, 2, 10, PI / 2], 20),  # the same with its sides swapped
        ([0, 0, 8, 8, 0], [1, 1, 2, 1, 0.7], 2),  # inside
        ([0, 0, 4, 2, 0], [4, 0, 4, 2, 0], 0),  # they share an edge
        ([0, 0, 4, 2, 0], [4, 2, 4, 2, 0], 0),  # a corner
        ([0, 0, 4, 2, 0], [3, 0, 4, 2, 0], 2),
        ([0, 0, 2, 2, PI / 4], [1, 0, 2, 2, PI / 4], (2 - math.sqrt(0.5)) ** 2),
        ([0, 0, 4, 0, 0], [0, 0, 4, 0, 0], 0),  # no area
        ([0, 0, 4, 0, 0], [0, 0, 4, 4, 0], 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
@pytest.mark.parametrize("shift", [(0, 0), (5000, -3000)])
def test_shapes_that_one_can_work_out(
    a: list[float], b: list[float], shared_area: float, scale: float, shift: tuple[float, float]
) -> None:
    first, second = moved(np.array([a], float), 0, scale, shift), moved(np.array([b], float), 0, scale, shift)
    union = a[2] * a[3] + b[2] * b[3] - shared_area
    expected = shared_area / union if union else 0.0
    # What tiny boxes far from the origin lose is lost in the numbers given: 5000.001 has an ulp of 1e-12.
    assert obb_iou(first, second)[0, 0] == pytest.approx(expected, abs=1e-8 if scale < 1 else 1e-12)
    assert obb_intersection_pairs(first, second)[0] == pytest.approx(shared_area * scale**2, abs=1e-8 * scale**2)


@given(obbs, obbs)
def test_the_kernel_agrees_with_the_slow_way(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(obb_iou(a, b), reference_iou(a, b), atol=1e-8)


@given(obbs, obbs)
def test_symmetric_to_the_last_bit_and_within_bounds(a: np.ndarray, b: np.ndarray) -> None:
    iou = obb_iou(a, b)
    np.testing.assert_array_equal(iou, obb_iou(b, a).T)
    assert (iou >= 0).all()
    assert (iou <= 1).all()
    np.testing.assert_array_equal(np.diag(obb_iou(a, a)), 1.0)


@given(obbs, obbs, st.floats(-7, 7), st.floats(0.01, 50), st.tuples(coordinate, coordinate))
def test_moving_the_plane_changes_nothing(
    a: np.ndarray, b: np.ndarray, turn: float, scale: float, shift: tuple[float, float]
) -> None:
    np.testing.assert_allclose(
        obb_iou(moved(a, turn, scale, shift), moved(b, turn, scale, shift)), obb_iou(a, b), atol=1e-9
    )


@given(obbs, obbs)
def test_ways_to_write_a_box_are_one_box(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(obb_iou(canonical_obb(a), b), obb_iou(a, b), atol=1e-10)
    np.testing.assert_allclose(obb_overlap_pairs(canonical_obb(a), a), 1.0, atol=1e-10)


@given(obbs, obbs)
def test_upright_boxes_overlap_as_boxes_do(a: np.ndarray, b: np.ndarray) -> None:
    a[:, 4], b[:, 4] = 0, 0
    np.testing.assert_allclose(obb_iou(a, b), box_iou(obb_hull(a), obb_hull(b)), atol=1e-10)


@given(obb, st.floats(-1, 1), st.floats(-1, 1))
def test_points_inside(box: np.ndarray, u: float, v: float) -> None:
    """Points built from the box's own axes: inside up to |u|, |v| = 1/2, outside beyond."""
    c, s = math.cos(box[4]), math.sin(box[4])
    x = box[0] + u * box[2] * c - v * box[3] * s
    y = box[1] + u * box[2] * s + v * box[3] * c
    if abs(abs(u) - 0.5) > 1e-6 and abs(abs(v) - 0.5) > 1e-6:
        assert points_in_obbs([[x, y]], box[None])[0, 0] == (abs(u) < 0.5 and abs(v) < 0.5)


def test_points_on_the_border_are_inside() -> None:
    points = [[2, 1], [-2, 0], [0, -1], [2.01, 0], [0, 1.01]]
    boxes = [[0, 0, 4, 2, 0], [100, 100, 4, 2, 0]]
    assert points_in_obbs(points, boxes).tolist() == [[True, True, True, False, False], [False] * 5]


def test_the_share_of_the_first_in_an_ignored_region() -> None:
    region, small = [0, 0, 100, 100, 0.4], [0, 0, 10, 5, 1.0]
    found = obb_overlap_pairs([small, small, small], [region, region, [0, 0, 0, 0, 0]], [True, False, True])
    np.testing.assert_allclose(found, [1, 50 / 10_000, 0])


def test_thin_boxes_across_a_giant_keep_their_area() -> None:
    """A hair of 1e4 x 1e-3 px inside a box of 1e4 px: the clipped area is small beside the coordinates."""
    giant, hair = [0, 0, 1e4, 1e4, 0.2], [10, 20, 1e4, 1e-3, 0.2]
    assert obb_intersection_pairs([giant], [hair])[0] == pytest.approx(
        (1e4 - abs(shift_along(10, 20, 0.2))) * 1e-3, rel=1e-9
    )


def shift_along(x: float, y: float, theta: float) -> float:
    return x * math.cos(theta) + y * math.sin(theta)


def test_nothing_is_an_answer_too() -> None:
    none, one = np.zeros((0, 5)), np.array([[0, 0, 1, 1, 0.0]])
    assert obb_iou(none, one).shape == (0, 1)
    assert obb_iou(one, []).shape == (1, 0)
    assert obb_overlap_pairs(none, none).shape == (0,)
    assert points_in_obbs(np.zeros((3, 2)), none).shape == (0, 3)
    assert points_in_obbs(np.zeros((0, 2)), one).shape == (1, 0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: obb_iou([[0, 0, 1, 1]], [[0, 0, 1, 1, 0]]), "shape"),
        (lambda: obb_iou([0, 0, 1, 1, 0], [[0, 0, 1, 1, 0]]), "shape"),
        (lambda: obb_iou([[0, 0, 1, 1, 0]], [[0, 0, 1, 1, 0], [0, 0, 1, math.nan, 0]]), "box 1"),
        (lambda: obb_iou([[0, 0, -1, 1, 0]], [[0, 0, 1, 1, 0]]), "box 0"),
        (lambda: obb_overlap_pairs([[0, 0, 1, 1, 0]], np.zeros((2, 5))), "1 and 2"),
        (lambda: obb_overlap_pairs([[0, 0, 1, 1, 0]], [[0, 0, 1, 1, 0]], [True, False]), "of_first"),
        (lambda: points_in_obbs([[0, 0, 0]], [[0, 0, 1, 1, 0]]), "points"),
    ],
)
def test_misuse_is_told(call: Callable[[], object], says: str) -> None:
    with pytest.raises(TercelError, match=says):
        call()


def test_a_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sine with the wrong sign turns every box the other way: the comparison with the slow way must notice."""
    table = rotated.table

    def mirrored(boxes: np.ndarray) -> np.ndarray:
        out = table(boxes)
        out[:, 6] *= -1
        return out

    monkeypatch.setattr(rotated, "table", mirrored)
    a, b = scattered(20, 60), scattered(20, 60, 1)
    assert np.abs(obb_iou(a, b) - reference_iou(a, b)).max() > 0.1
