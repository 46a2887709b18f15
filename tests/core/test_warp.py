"""Warp: there and back, composition, every field of Objects, and pixels that move with the objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tercel.core.geometry import box_area, obb_corners
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.core.warp import Warp, rotation, scaling, shearing, translation

SRC, DST = (40, 60), (80, 100)
PI = math.pi
FLIP_INDEX = Schema(("a",), ("nose", "left", "right"), (("left", "right"),)).flip_index


@st.composite
def warps(draw: st.DrawFn, similar: bool = False, src: tuple[int, int] = SRC, dst: tuple[int, int] = DST) -> Warp:
    """Any affine map that neither flattens nor blows up."""
    m = rotation(draw(st.floats(-PI, PI))) @ scaling(draw(st.floats(0.3, 3)))
    if not similar:
        m = m @ shearing(draw(st.floats(-0.6, 0.6)), draw(st.floats(-0.3, 0.3))) @ scaling(draw(st.floats(0.5, 2)), 1)
    if draw(st.booleans()):
        m = m @ np.diag([-1.0, 1, 1])
    return Warp(translation(draw(st.floats(-50, 50)), draw(st.floats(-50, 50))) @ m, src, dst)


def things() -> Objects:
    i = np.arange(3)
    return Objects(
        SRC,
        i,
        np.array([[5, 6, 25, 16], [30, 20, 50, 36], [1, 1, 4, 9]]),
        np.array([False, True, False]),
        points=np.array([[[6, 7], [10, 12], [20, 14]], [[31, 21], [40, 30], [45, 33]], [[2, 2], [0, 0], [3, 8]]]),
        visible=np.array([[2, 1, 2], [2, 2, 1], [2, 0, 1]]),
        point_scores=np.array([[0.9, 0.4, 0.8], [0.7, 0.6, 0.3], [0.75, 0.1, 0.2]]),
        frame=i + 4,
        track=i + 8,
        area=np.array([150, 200, 20]),
        scores=np.array([0.1, 0.2, 0.3]),
    )


def oriented(*rows: list[float]) -> Objects:
    from tercel.core.geometry import obb_hull

    obbs = np.array(rows, np.float32).reshape(-1, 5)
    return Objects(SRC, np.zeros(len(obbs), np.int64), obb_hull(obbs), obbs=obbs)


@given(warps())
def test_points_there_and_back(w: Warp) -> None:
    xy = np.random.default_rng(0).uniform(-100, 100, (9, 2))
    np.testing.assert_allclose(w.inverse().points(w.points(xy)), xy, atol=1e-8)
    assert (w.inverse().src, w.inverse().dst) == (DST, SRC)


@given(warps(), warps(src=DST, dst=(30, 20)))
def test_composition_is_one_after_the_other(a: Warp, b: Warp) -> None:
    xy = np.random.default_rng(0).uniform(-100, 100, (9, 2))
    np.testing.assert_allclose((b @ a).points(xy), b.points(a.points(xy)), atol=1e-8)
    assert ((b @ a).src, (b @ a).dst) == (SRC, (30, 20))
    assert (b @ a).mirrored == (a.mirrored != b.mirrored)
    np.testing.assert_allclose((b @ a).scale, a.scale * b.scale)


def test_composition_needs_canvases_that_meet() -> None:
    with pytest.raises(ValueError, match="cannot compose"):
        Warp.identity(SRC) @ Warp.identity(DST)


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.eye(2), np.diag([1, 1, 2])])
def test_bad_matrices(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"matrix is a finite affine|singular"):
        Warp(matrix, SRC, DST)


@given(warps())
def test_every_field_follows(w: Warp) -> None:
    """Each field against a computation of its own; whatever has no geometry stays as it was."""
    o = things()
    out = w.objects(o, FLIP_INDEX)
    assert out.columns == o.columns
    assert out.size == DST
    for name in ("labels", "ignore", "frame", "track", "scores"):
        np.testing.assert_array_equal(getattr(out, name), getattr(o, name))
    order = FLIP_INDEX if w.mirrored else np.arange(3)
    for n in range(3):
        corners = [w.matrix[:2] @ [x, y, 1] for x in o.boxes[n, [0, 2]] for y in o.boxes[n, [1, 3]]]
        np.testing.assert_allclose(out.boxes[n], [*np.min(corners, 0), *np.max(corners, 0)], rtol=1e-5, atol=1e-4)
        for k in range(3):
            x, y = o.points[n, order[k]]  # type: ignore[index]
            np.testing.assert_allclose(out.points[n, k], w.matrix[:2] @ [x, y, 1], rtol=1e-5, atol=1e-4)  # type: ignore[index]
            assert out.visible[n, k] == o.visible[n, order[k]]  # type: ignore[index]
    factor = abs(np.linalg.det(w.matrix[:2, :2]))
    np.testing.assert_allclose(out.area, o.area * factor, rtol=1e-5)


@given(warps())
def test_objects_there_and_back(w: Warp) -> None:
    o = things()
    back = w.inverse().objects(w.objects(o, FLIP_INDEX), FLIP_INDEX)
    np.testing.assert_allclose(back.points, o.points, atol=1e-3)
    np.testing.assert_array_equal(back.visible, o.visible)
    np.testing.assert_allclose(back.area, o.area, rtol=1e-4)
    if w.axis_aligned:
        np.testing.assert_allclose(back.boxes, o.boxes, atol=1e-3)
    assert (back.boxes[:, :2] <= o.boxes[:, :2] + 1e-3).all()  # a hull of a hull holds the box
    assert (back.boxes[:, 2:] >= o.boxes[:, 2:] - 1e-3).all()


def test_a_flip_swaps_left_and_right_and_twice_is_nothing() -> None:
    o, flip = things(), Warp.flip(SRC)
    out = flip.objects(o, FLIP_INDEX)
    assert out.boxes[0].tolist() == [35, 6, 55, 16]
    assert out.points[0].tolist() == [[54, 7], [40, 14], [50, 12]]  # type: ignore[index]
    assert out.visible[0].tolist() == [2, 2, 1]  # type: ignore[index]
    assert out.point_scores[0].tolist() == np.float32([0.9, 0.8, 0.4]).tolist()  # type: ignore[index]
    assert flip.objects(out, FLIP_INDEX).same(o)


def test_a_mirror_without_flip_index_is_refused_but_for_balls() -> None:
    with pytest.raises(ValueError, match="needs flip_index"):
        Warp.flip(SRC).objects(things())
    ball = Objects(SRC, [0], [[1, 1, 3, 3]], points=np.array([[[2, 2]]]), visible=[[2]])
    assert Warp.flip(SRC).objects(ball).points.tolist() == [[[58, 2]]]  # type: ignore[union-attr]


def test_a_flip_index_of_another_skeleton_is_refused() -> None:
    with pytest.raises(ValueError, match="2 entries for 3 points"):
        Warp.flip(SRC).objects(things(), np.array([1, 0]))


@pytest.mark.parametrize("k", [1, 2, 6, 17])
def test_a_flip_moves_every_point_to_its_partner_for_any_number_of_points(k: int) -> None:
    names = tuple(f"p{i}" for i in range(k))
    index = Schema(("a",), names, tuple(zip(names[1::2], names[2::2], strict=False))).flip_index
    rng = np.random.default_rng(k)
    points, visible = rng.uniform(0, 40, (3, k, 2)).astype(np.float32), rng.integers(0, 3, (3, k))
    o = Objects(SRC, [0] * 3, [[0, 0, 40, 40]] * 3, points=points, visible=visible)
    out = Warp.flip(SRC).objects(o, index)
    assert out.points is not None
    assert out.visible is not None
    for j, partner in enumerate(index.tolist()):  # point by point: what is called left was the right one
        assert out.visible[:, j].tolist() == visible[:, partner].tolist()
        np.testing.assert_allclose(out.points[:, j], [60, 0] + points[:, partner] * [-1, 1], atol=1e-5)
    assert Warp.flip(SRC).objects(out, index).visible.tolist() == visible.tolist()  # type: ignore[union-attr]


@given(warps())
def test_a_box_that_points_span_stays_the_hull_of_its_points(w: Warp) -> None:
    """Of a hull that is turned as a box the hull is loose; one that was annotated apart from the points may be that."""
    rng = np.random.default_rng(7)
    points = rng.uniform(5, 35, (4, 5, 2)).astype(np.float32)
    visible = np.array([[2, 1, 2, 0, 0], [2, 2, 2, 2, 2], [1, 1, 1, 1, 0], [2, 2, 2, 2, 2]], np.uint8)
    boxes = np.array([np.r_[p[v > 0].min(0), p[v > 0].max(0)] for p, v in zip(points, visible, strict=True)])
    boxes[3] += [-1, -1, 1, 1]
    out = w.objects(Objects(SRC, [0] * 4, boxes, points=points, visible=visible), np.arange(5))
    moved = w.points(points.astype(np.float64))
    for i in range(3):
        seen = moved[i][visible[i] > 0]
        np.testing.assert_allclose(out.boxes[i], np.r_[seen.min(0), seen.max(0)], atol=1e-3)
    x1, y1, x2, y2 = boxes[3]
    corners = w.points(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64))
    np.testing.assert_allclose(out.boxes[3], np.r_[corners.min(0), corners.max(0)], atol=1e-3)


def test_a_rotation_by_half_a_turn_is_no_mirror() -> None:
    half = Warp(translation(60, 40) @ rotation(PI), SRC, SRC)
    assert not half.mirrored
    assert half.objects(things()).points[0, 1].tolist() == pytest.approx([50, 28])  # type: ignore[index]


@pytest.mark.parametrize("degrees", [0, 45, 90, 135, -45, -90])
def test_oriented_boxes_turn_with_the_canvas(degrees: int) -> None:
    o = oriented([30, 20, 16, 6, 0.3])
    centre = translation(30, 20) @ rotation(math.radians(degrees)) @ translation(-30, -20)
    out = Warp(centre, SRC, SRC).objects(o)
    theta = (0.3 + math.radians(degrees) + PI / 2) % PI - PI / 2
    np.testing.assert_allclose(out.obbs[0], [30, 20, 16, 6, theta], atol=1e-4)  # type: ignore[index]


@pytest.mark.parametrize("theta", [0, PI / 4, -PI / 2, -PI / 4, -PI / 2 + 1e-6, PI / 2 - 1e-6])
def test_flips_of_oriented_boxes(theta: float) -> None:
    out = Warp.flip(SRC).objects(oriented([20, 10, 16, 6, theta]))
    wanted = -theta if theta > -PI / 2 else -PI / 2
    assert out.obbs[0, :4].tolist() == [40, 10, 16, 6]  # type: ignore[index]
    difference = abs(float(out.obbs[0, 4]) - wanted)  # type: ignore[index]
    assert min(difference, PI - difference) < 1e-5
    assert -PI / 2 <= out.obbs[0, 4] < np.float32(PI / 2)  # type: ignore[index]


@given(warps(similar=True), st.floats(-PI / 2, PI / 2 - 1e-3), st.floats(2, 20), st.floats(2, 20))
def test_corners_of_oriented_boxes_move_like_points(w: Warp, theta: float, length: float, width: float) -> None:
    from tercel.core.geometry import canonical_obb

    row = canonical_obb(np.array([[30, 20, length, width, theta]], np.float32))
    o = oriented(row[0].tolist())
    out = w.objects(o)
    moved = w.points(obb_corners(o.obbs.astype(np.float64)))[0]  # type: ignore[union-attr]
    now = obb_corners(out.obbs.astype(np.float64))[0]  # type: ignore[union-attr]
    distance = np.linalg.norm(moved[:, None] - now[None], axis=2)
    assert distance.min(axis=1).max() < 2e-3
    assert out.obbs[0, 2] >= out.obbs[0, 3]  # type: ignore[index]
    assert -PI / 2 <= out.obbs[0, 4] < np.float32(PI / 2)  # type: ignore[index]
    np.testing.assert_allclose(out.boxes[0], [*moved.min(0), *moved.max(0)], atol=2e-3)


@given(warps())
def test_a_sheared_oriented_box_still_holds_its_corners(w: Warp) -> None:
    o = oriented([30, 20, 16, 6, 0.3])
    out = w.objects(o)
    cx, cy, length, width, theta = out.obbs[0].astype(np.float64)  # type: ignore[index]
    d = w.points(obb_corners(o.obbs.astype(np.float64)))[0] - [cx, cy]  # type: ignore[union-attr]
    along = d @ [math.cos(theta), math.sin(theta)]
    across = d @ [-math.sin(theta), math.cos(theta)]
    assert np.abs(along).max() == pytest.approx(length / 2, rel=1e-3, abs=1e-2)
    assert np.abs(across).max() == pytest.approx(width / 2, rel=1e-3, abs=1e-2)


def test_clipping() -> None:
    boxes = [[5, 5, 15, 15], [-10, 5, 10, 25], [-18, 0, 2, 10], [70, 5, 80, 15], [-5, -5, 65, 45]]
    o = Objects(SRC, np.arange(5), boxes, area=box_area(np.array(boxes, np.float64)) / 2)
    out = Warp.identity(SRC).objects(o, clip=True, min_visible=0.2)
    assert out.labels.tolist() == [0, 1, 4]
    assert out.boxes.tolist() == [[5, 5, 15, 15], [0, 5, 10, 25], [0, 0, 60, 40]]
    np.testing.assert_allclose(out.area, [50, 100, 1200])
    assert Warp.identity(SRC).objects(o, clip=True).labels.tolist() == [0, 1, 2, 4]
    assert len(Warp.identity(SRC).objects(o)) == 5


def test_objects_on_another_canvas_are_refused() -> None:
    with pytest.raises(ValueError, match="the objects lie on a canvas"):
        Warp.identity(DST).objects(things())


@pytest.mark.parametrize(
    ("src", "dst"), [((40, 60), (80, 80)), ((60, 40), (80, 80)), ((100, 100), (50, 70)), ((9, 9), (9, 9))]
)
def test_letterbox_is_the_largest_centred_fit(src: tuple[int, int], dst: tuple[int, int]) -> None:
    w = Warp.letterbox(src, dst)
    x1, y1, x2, y2 = *w.points(np.array([0.0, 0])), *w.points(np.array([src[1], src[0]], float))
    assert min(x1, y1) == pytest.approx(0, abs=1e-9)
    assert (x1 + x2, y1 + y2) == pytest.approx((dst[1], dst[0]))
    assert (x2 - x1) / (y2 - y1) == pytest.approx(src[1] / src[0])
    assert w.axis_aligned
    small = Warp.letterbox((4, 4), dst, upscale=False)
    assert small.scale == pytest.approx(1)


def test_the_identity_leaves_pixels_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SRC, 3), dtype=np.uint8)
    assert (Warp.identity(SRC).pixels(image) == image).all()
    assert (Warp.flip(SRC).pixels(image) == image[:, ::-1]).all()


@given(warps(), st.integers(4, 55), st.integers(4, 35), st.floats(35, 65), st.floats(35, 45))
def test_pixels_and_objects_move_together(w: Warp, x: int, y: int, to_x: float, to_y: float) -> None:
    """Paint a dot, warp, find it where its coordinates went: half a pixel off would show."""
    # A dot of less than a pixel has no centre to be found.
    assume(np.linalg.svd(w.matrix[:2, :2], compute_uv=False).min() >= 0.3)
    image = np.zeros((*SRC, 3), np.uint8)
    image[y - 2 : y + 2, x - 2 : x + 2] = 255  # a square whose centre is exactly (x, y)
    dot = Objects(SRC, [0], [[x - 2, y - 2, x + 2, y + 2]], points=np.array([[[x, y]]]), visible=[[2]])
    there = w.points(np.array([x, y], float))
    w = Warp(translation(to_x - there[0], to_y - there[1]) @ w.matrix, SRC, DST)  # so that it lands on the canvas
    px, py = w.objects(dot).points[0, 0].astype(float)  # type: ignore[index]
    assert (px, py) == pytest.approx((to_x, to_y), abs=1e-4)
    seen = w.pixels(image, fill=0)[..., 0].astype(float)
    assert seen.sum() > 0
    rows, columns = np.mgrid[: DST[0], : DST[1]] + 0.5
    found = (seen * columns).sum() / seen.sum(), (seen * rows).sum() / seen.sum()
    assert found == pytest.approx((px, py), abs=0.25)


def test_the_dot_test_would_see_half_a_pixel() -> None:
    image = np.zeros((*SRC, 3), np.uint8)
    image[18:22, 28:32] = 255
    wrong = Warp(translation(0.5, 0.5) @ scaling(2), SRC, DST)
    seen = wrong.pixels(image, fill=0)[..., 0].astype(float)
    rows, columns = np.mgrid[: DST[0], : DST[1]] + 0.5
    found = (seen * columns).sum() / seen.sum(), (seen * rows).sum() / seen.sum()
    assert found != pytest.approx((60, 40), abs=0.25)
    assert found == pytest.approx((60.5, 40.5), abs=0.25)


@pytest.mark.parametrize("scale", [0.5, 0.3, 0.1])
def test_small_things_survive_strong_reductions(scale: float) -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[101:103, 151:153] = 255
    w = Warp(scaling(scale), (200, 300), (round(200 * scale), round(300 * scale)))
    seen = w.pixels(image, fill=0)[..., 0].astype(float)
    rows, columns = np.mgrid[: w.dst[0], : w.dst[1]] + 0.5
    assert seen.sum() == pytest.approx(255 * 4 * scale**2, rel=0.35)
    place = (seen * columns).sum() / seen.sum(), (seen * rows).sum() / seen.sum()
    assert place == pytest.approx((152 * scale, 102 * scale), abs=0.3)


def test_the_fill_shows_where_no_picture_is() -> None:
    out = Warp.letterbox((40, 60), (80, 80)).pixels(np.zeros((40, 60, 3), np.uint8), fill=114)
    assert (out[:10] == 114).all()
    assert (out[-10:] == 114).all()
    assert (out[20:60] == 0).all()


def test_pixels_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Warp.identity(SRC).pixels(np.zeros((60, 40, 3), np.uint8))
