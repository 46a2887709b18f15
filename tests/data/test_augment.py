"""Augmentation: what the labels say is what the pixels show, for every option, mosaics and clips included."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.config import Augment
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.core.warp import Warp, rotation, scaling, translation
from tercel.data.augment import Colour, _snapped, colour_matrix, plan, touches, visible_objects

OFF = Augment(mosaic=0, scale=0, shift=0, flip=0, hue=0, saturation=0, brightness=0)
OPTIONS = {
    "none": OFF,
    "scale": replace(OFF, scale=0.5),
    "shift": replace(OFF, shift=0.3),
    "rotate": replace(OFF, rotate=40.0),
    "shear": replace(OFF, shear=12.0),
    "flip": replace(OFF, flip=1.0),
    "upside down": replace(OFF, flip_vertical=1.0),
    "both mirrors": replace(OFF, flip=1.0, flip_vertical=1.0),
    "all": Augment(scale=0.4, shift=0.2, rotate=30, shear=10, flip=0.5, flip_vertical=0.5),
}
SIZES = [(200, 300), (300, 200), (160, 160), (333, 251)]
CANVAS = (256, 320)
SCHEMA = Schema(("animal",), keypoints=("nose", "left", "right"), flip_pairs=(("left", "right"),))
COLOURS = {"nose": (255, 255, 255), "left": (255, 0, 0), "right": (0, 0, 255)}


def animals(rng: np.random.Generator, size: tuple[int, int], n: int = 3) -> tuple[np.ndarray, Objects]:
    """Pictures u8 [1,H,W,3] of chiral animals: a nose, and a red left and a blue right ear as seen on screen."""
    h, w = size
    image = np.zeros((h, w, 3), np.uint8)
    points = []
    cells = rng.permutation(9)[:n]  # far from each other, so that a marker has no other neighbour
    for cell in cells:
        centre = (np.array([cell % 3, cell // 3]) + 0.5) / 3 * (w, h)
        angle, r = rng.uniform(0, 2 * np.pi), 0.1 * min(h, w)
        ahead = np.array([np.cos(angle), np.sin(angle)])
        left = np.array([ahead[1], -ahead[0]])  # on screen, y down, left of somebody who looks ahead
        points.append(np.stack([centre + r * ahead, centre + r * left, centre - r * left]))
        for (x, y), name in zip(points[-1], SCHEMA.keypoints, strict=True):
            at = (round((x - 0.5) * 16), round((y - 0.5) * 16))
            cv2.circle(image, at, 4 * 16, COLOURS[name], -1, cv2.LINE_AA, 4)
    p = np.array(points, np.float32)
    boxes = np.concatenate([p.min(1), p.max(1)], axis=1)
    visible = np.full(p.shape[:2], 2, np.uint8)
    return image[None], Objects(size, np.zeros(n, int), boxes, points=p, visible=visible, frame=np.arange(n) % 3)


def marker_near(image: np.ndarray, name: str, xy: np.ndarray, radius: float) -> np.ndarray | None:
    """Centre of mass of the marker colour within `radius` of `xy`, or None."""
    colour = np.array(COLOURS[name], float) / 255
    left, top = (int(v) for v in np.maximum(np.floor(xy - radius), 0))
    window = image[top : top + 2 * int(radius) + 2, left : left + 2 * int(radius) + 2].astype(float) / 255
    # A marker is its own colour and nothing of the others; grey border and black ground are neither.
    weight = np.clip(1 - np.abs(window - colour).max(-1) * 2, 0, 1)
    y, x = np.mgrid[0 : window.shape[0], 0 : window.shape[1]] + 0.5
    y, x = y + top, x + left
    weight = weight * (np.hypot(x - xy[0], y - xy[1]) < radius)
    if weight.sum() < 1:
        return None
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def augmented(seed: int, config: Augment, count: int, frames: int = 1) -> tuple[np.ndarray, list[Warp], Objects]:
    """A canvas u8 [T,H,W,3] of `count` pictures, the warps, and the truth of all."""
    rng = np.random.default_rng(seed)
    pictures = [animals(rng, size) for size in SIZES[:count]]
    warps = plan(rng, config, SIZES[:count], CANVAS)
    canvas = np.full((frames, *CANVAS, 3), 114, np.uint8)
    parts = []
    for i, ((image, objects), warp) in enumerate(zip(pictures, warps, strict=True)):
        for frame in canvas:
            warp.paint(image[0], frame)
        parts.append(visible_objects(warp, objects.replace(track=np.full(len(objects), i)), 0.0, SCHEMA.flip_index)[0])
    return canvas, warps, Objects.concat(parts)


def check_markers(canvas: np.ndarray, warps: list[Warp], objects: Objects) -> int:
    """Every visible point has the right marker at its place; returns how many were looked at.

    In a mirror image the animal's left ear is the one that was drawn as its right ear.
    """
    seen = 0
    assert objects.points is not None
    assert objects.visible is not None
    assert objects.track is not None
    mirror = dict(SCHEMA.flip_pairs) | {b: a for a, b in SCHEMA.flip_pairs}
    for points, visible, source in zip(objects.points, objects.visible, objects.track, strict=True):
        for name, xy, v in zip(SCHEMA.keypoints, points, visible, strict=True):
            inside = (xy > 12).all() and xy[0] < CANVAS[1] - 12 and xy[1] < CANVAS[0] - 12
            if not v or not inside:
                continue
            drawn = mirror.get(name, name) if warps[source].mirrored else name
            for image in canvas:
                found = marker_near(image, drawn, xy, 10)
                assert found is not None, f"{name} is not at {xy}"
                np.testing.assert_allclose(found, xy, atol=0.6)
                seen += 1
    # Nose, left and right go round the same way as in any animal of this kind, mirrored pictures included.
    a, b, c = objects.points.transpose(1, 0, 2)
    side = np.sign((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    assert set(side.tolist()) <= {-1.0}, "a mirrored animal kept the names of its ears"
    return seen


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", OPTIONS)
def test_markers_are_where_the_labels_say(name: str, count: int) -> None:
    seen = 0
    for seed in range(4):
        seen += check_markers(*augmented(seed, OPTIONS[name], count, frames=3 if seed == 0 else 1))
    assert seen >= 12


@pytest.mark.parametrize("name", ["flip", "upside down"])
def test_forgetting_to_exchange_the_ears_is_caught(name: str) -> None:
    canvas, warps, objects = augmented(0, OPTIONS[name], 1)
    assert objects.points is not None
    forgotten = objects.replace(points=objects.points[:, SCHEMA.flip_index])
    with pytest.raises(AssertionError):
        check_markers(canvas, warps, forgotten)


def test_one_pixel_is_caught() -> None:
    canvas, warps, objects = augmented(0, OPTIONS["all"], 1)
    assert objects.points is not None
    with pytest.raises(AssertionError):
        check_markers(canvas, warps, objects.replace(points=objects.points + 1.0))


# -- boxes against pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", ["none", "scale", "shift", "flip", "upside down", "both mirrors"])
def test_boxes_are_the_hull_of_what_is_seen(name: str, count: int) -> None:
    """A white rectangle per picture on black; the hull of the white pixels is the label, cut where it is cut."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        warps = plan(rng, OPTIONS[name], SIZES[:count], CANVAS)
        for size, warp in zip(SIZES, warps, strict=False):
            image = np.zeros((*size, 3), np.uint8)
            x1, y1 = rng.integers(0, 80, 2)
            image[y1 : y1 + 70, x1 : x1 + 90] = 255
            canvas = np.zeros((*CANVAS, 3), np.uint8)
            warp.paint(image, canvas)
            o, left = visible_objects(warp, Objects(size, [0], [[x1, y1, x1 + 90, y1 + 70]]), 0.0)
            y, x = np.nonzero(canvas[..., 0] > 127)
            if not len(o):
                assert left == 1
                assert len(x) == 0
                continue
            np.testing.assert_allclose([x.min(), y.min(), x.max() + 1, y.max() + 1], o.boxes[0], atol=0.8)


# -- mosaic -----------------------------------------------------------------------------------------------------


def owners(warps: list[Warp]) -> np.ndarray:
    """How many pictures claim each pixel: each is painted alone on a canvas of its own."""
    total = np.zeros(CANVAS, int)
    for size, warp in zip(SIZES, warps, strict=False):
        canvas = np.zeros((*CANVAS, 3), np.uint8)
        warp.paint(np.full((*size, 3), 255, np.uint8), canvas)
        assert set(np.unique(canvas)) <= {0, 255}  # a seam is sharp, not a blend of neighbour and border
        total += canvas[..., 0] > 0
    return total


@pytest.mark.parametrize("name", OPTIONS)
def test_no_quadrant_overdraws_another(name: str) -> None:
    twice = four = 0
    for seed in range(25):
        warps = plan(np.random.default_rng(seed), OPTIONS[name], SIZES, CANVAS)
        claims = owners(warps)
        twice += int((claims > 1).sum())
        four += sum(touches(w) for w in warps) == 4
    # A pixel centre that lies on a slanted seam to 1/1000 px may go to both (the later one is drawn).
    assert twice <= (0 if OPTIONS[name].rotate == 0 and OPTIONS[name].shear == 0 else 3)
    assert four >= 5


def test_the_overlap_test_would_see_one_pixel() -> None:
    warps = plan(np.random.default_rng(3), OFF, SIZES, CANVAS)
    moved = [Warp(translation(1.0, 0) @ warps[0].matrix, warps[0].src, CANVAS), *warps[1:]]
    assert (owners(moved) > 1).sum() > 20


def test_pictures_meet_without_a_gap() -> None:
    """All four touch the meeting point: around it no border shows."""
    for seed in range(20):
        warps = plan(np.random.default_rng(seed), replace(OPTIONS["all"], scale=0.0), SIZES, CANVAS)
        corners = [w.points(np.array([[0.0, 0], [w.src[1], 0], [w.src[1], w.src[0]], [0, w.src[0]]])) for w in warps]
        # The one point that is a corner of all four.
        meeting = min(corners[0], key=lambda p: sum(np.linalg.norm(c - p, axis=1).min() for c in corners))
        for c in corners:
            assert np.linalg.norm(c - meeting, axis=1).min() < 1e-6
        x, y = np.floor(meeting).astype(int)
        if 4 < x < CANVAS[1] - 4 and 4 < y < CANVAS[0] - 4:
            assert (owners(warps)[y - 3 : y + 4, x - 3 : x + 4] >= 1).all()


def test_boxes_end_at_their_own_picture() -> None:
    """A label that reaches beyond its picture must not cover the neighbour's pixels."""
    o = Objects(SIZES[0], [0], [[-50, -50, SIZES[0][1] + 80, SIZES[0][0] + 80]])
    for seed in range(10):
        warp = plan(np.random.default_rng(seed), replace(OFF, scale=0.5, shift=0.2, flip=0.5), SIZES, CANVAS)[0]
        out, _ = visible_objects(warp, o, 0.0)
        canvas = np.zeros((*CANVAS, 3), np.uint8)
        warp.paint(np.full((*SIZES[0], 3), 255, np.uint8), canvas)
        y, x = np.nonzero(canvas[..., 0])
        if len(out):
            np.testing.assert_allclose([x.min(), y.min(), x.max() + 1, y.max() + 1], out.boxes[0], atol=0.6)


def test_wrong_number_of_pictures() -> None:
    with pytest.raises(ValueError, match="1 or 4"):
        plan(np.random.default_rng(0), OFF, SIZES[:2], CANVAS)


# -- the plan itself --------------------------------------------------------------------------------------------


@given(st.integers(10, 900), st.integers(10, 900), st.integers(32, 640), st.integers(32, 640))
def test_no_change_is_the_letterbox_of_evaluation(h: int, w: int, ch: int, cw: int) -> None:
    (warp,) = plan(np.random.default_rng(0), OFF, [(h, w)], (ch, cw))
    np.testing.assert_allclose(warp.matrix, Warp.letterbox((h, w), (ch, cw)).matrix, atol=1e-9)


def test_ranges_are_those_of_the_configuration() -> None:
    zooms, turns, shifts = [], [], []
    config = replace(OFF, scale=0.5, rotate=20, shift=0.1)
    for seed in range(400):
        (w,) = plan(np.random.default_rng(seed), config, [(100, 100)], (100, 100))
        zooms.append(w.scale)
        turns.append(np.rad2deg(np.arctan2(w.matrix[1, 0], w.matrix[0, 0])))
        shifts.append(w.points(np.array([50.0, 50.0])) - 50)
    assert 0.5 <= min(zooms) < 0.52
    assert 1.92 < max(zooms) <= 2
    assert abs(np.mean(np.log(zooms))) < 0.08  # log-uniform about 1
    assert 18 < max(turns) <= 20
    assert -20 <= min(turns) < -18
    assert 9 < np.abs(shifts).max() <= 10
    flips = [plan(np.random.default_rng(s), replace(OFF, flip=0.3), [(9, 9)], (9, 9))[0].mirrored for s in range(500)]
    assert 0.22 < np.mean(flips) < 0.38


def test_pictures_out_of_view_are_not_loaded_and_have_no_objects() -> None:
    some = 0
    for seed in range(60):
        warps = plan(np.random.default_rng(seed), replace(OFF, scale=0.6), SIZES, CANVAS)
        for size, warp in zip(SIZES, warps, strict=True):
            canvas = np.zeros((*CANVAS, 3), np.uint8)
            warp.paint(np.full((*size, 3), 255, np.uint8), canvas)
            if not touches(warp):
                some += 1
                assert not canvas.any()
                assert len(visible_objects(warp, Objects(size, [0], [[0, 0, size[1], size[0]]]), 0.0)[0]) == 0
            elif min(size) * warp.scale > 4 and canvas.any():
                assert touches(warp)
    assert some > 5


# -- what stays in view -----------------------------------------------------------------------------------------

SHIFT = Warp(translation(-60, 0), (100, 100), (100, 100))  # the left 60 columns leave


def test_too_little_in_view_leaves_and_is_counted() -> None:
    boxes = [[50, 0, 70, 10], [0, 0, 50, 10], [55, 0, 61, 10], [70, 0, 80, 10]]  # 1/2, 0, 1/6 and all in view
    o = Objects((100, 100), [0, 1, 2, 3], boxes, area=[100, 100, 30, 50])
    out, left = visible_objects(SHIFT, o, 0.2)
    assert out.labels.tolist() == [0, 3]
    assert left == 2
    assert out.boxes[0].tolist() == [0, 0, 10, 10]
    assert out.area is not None
    np.testing.assert_allclose(out.area, [50, 50])
    assert visible_objects(SHIFT, o, 0.0)[0].labels.tolist() == [0, 2, 3]
    assert visible_objects(SHIFT, o, 0.5)[0].labels.tolist() == [0, 3]


def test_ignore_regions_stay_while_any_of_them_is_seen() -> None:
    o = Objects((100, 100), [0, 0], [[55, 0, 61, 10], [0, 0, 50, 10]], ignore=[True, True])
    out, left = visible_objects(SHIFT, o, 0.9)
    assert len(out) == 1
    assert out.ignore.tolist() == [True]
    assert left == 1


def test_points_out_of_view_become_absent_and_keep_their_place() -> None:
    o = Objects((100, 100), [0], [[50, 0, 90, 10]], points=[[[50, 5], [70, 5], [80, 5]]], visible=[[2, 1, 0]])
    out, _ = visible_objects(SHIFT, o, 0.0, SCHEMA.flip_index)
    assert out.visible is not None
    assert out.points is not None
    assert out.visible.tolist() == [[0, 1, 0]]
    np.testing.assert_allclose(out.points, [[[-10, 5], [10, 5], [20, 5]]])


def test_a_point_beyond_its_own_picture_is_absent_in_a_mosaic() -> None:
    o = Objects((100, 100), [0], [[0, 0, 100, 100]], points=[[[110, 50], [50, 50], [-5, 50]]], visible=[[2, 2, 2]])
    mirrored = Warp(np.array([[-0.5, 0, 60], [0, 0.5, 20], [0, 0, 1]]), (100, 100), (100, 100))
    out, _ = visible_objects(mirrored, o, 0.0, np.array([2, 1, 0]))
    assert out.visible is not None
    assert out.visible.tolist() == [[0, 2, 0]]
    out, _ = visible_objects(mirrored, o, 0.0, np.array([0, 2, 1]))
    assert out.visible is not None
    assert out.visible.tolist() == [[0, 0, 2]]


def test_a_ball_without_extent_stays_while_its_point_is_seen() -> None:
    p = [[[70.0, 50.0]], [[30.0, 50.0]], [[80.0, 10.0]]]
    boxes = np.repeat(np.array(p)[:, 0], 2, axis=0).reshape(3, 4)
    o = Objects((100, 100), [0, 0, 0], boxes, points=p, visible=[[2], [2], [0]], frame=[0, 1, 2])
    out, left = visible_objects(SHIFT, o, 0.5)
    assert out.frame is not None
    assert out.frame.tolist() == [0]
    assert left == 2


def test_oriented_boxes_turn_and_are_not_cut() -> None:
    o = Objects((100, 100), [0], [[0, 0, 1, 1]], obbs=[[50, 50, 60, 20, 0.0]])
    o = Warp.identity((100, 100)).objects(o)
    warp = Warp(translation(90, 50) @ rotation(np.pi / 6) @ scaling(1) @ translation(-50, -50), (100, 100), (100, 100))
    out, _ = visible_objects(warp, o, 0.1)
    assert out.obbs is not None
    np.testing.assert_allclose(out.obbs[0], [90, 50, 60, 20, np.pi / 6], atol=1e-4)
    assert out.boxes[0, 2] == 100


@given(st.integers(0, 10_000), st.sampled_from(sorted(OPTIONS)), st.sampled_from([1, 4]))
def test_boxes_lie_on_the_canvas_and_nothing_vanishes_uncounted(seed: int, name: str, count: int) -> None:
    rng = np.random.default_rng(seed)
    for size, warp in zip(SIZES, plan(rng, OPTIONS[name], SIZES[:count], CANVAS), strict=False):
        a = rng.uniform(-20, 320, (12, 2, 2))
        boxes = np.concatenate([a.min(1), a.max(1)], 1)
        o = Objects(size, np.arange(12), boxes, ignore=rng.random(12) < 0.2)
        out, left = visible_objects(warp, o, 0.2)
        assert len(out) + left == 12
        assert (out.boxes >= 0).all()
        assert (out.boxes <= [CANVAS[1], CANVAS[0]] * 2).all()
        assert (out.boxes[:, 2:] > out.boxes[:, :2]).all()


# -- colours ----------------------------------------------------------------------------------------------------


@given(st.floats(-0.5, 0.5), st.floats(0, 2), st.integers(0, 255))
def test_grey_stays_grey(hue: float, saturation: float, level: int) -> None:
    np.testing.assert_allclose(colour_matrix(hue, saturation, 1.0) @ np.full(3, level), level, atol=1e-9)


@given(st.floats(-0.5, 0.5), st.floats(0, 2), st.floats(0, 2))
def test_brightness_is_scaled_and_nothing_else_changes_it(hue: float, saturation: float, brightness: float) -> None:
    luma = np.array([0.299, 0.587, 0.114])
    rgb = np.array([200.0, 30.0, 90.0])
    np.testing.assert_allclose(
        luma @ colour_matrix(hue, saturation, brightness) @ rgb, brightness * luma @ rgb, atol=1e-6
    )


def test_colour_matrix_against_known_answers() -> None:
    np.testing.assert_allclose(colour_matrix(0.0, 1.0, 1.0), np.eye(3))
    np.testing.assert_allclose(colour_matrix(0.0, 0.0, 1.0), np.tile([0.299, 0.587, 0.114], (3, 1)), atol=1e-9)
    np.testing.assert_allclose(colour_matrix(0.0, 1.0, 0.5), np.eye(3) / 2, atol=1e-9)
    third = colour_matrix(1 / 3, 1.0, 1.0)
    np.testing.assert_allclose(third @ third @ third, np.eye(3), atol=1e-6)  # once round the circle
    there, back = colour_matrix(0.2, 1.3, 1.1), colour_matrix(-0.2, 1 / 1.3, 1 / 1.1)
    np.testing.assert_allclose(there @ back, np.eye(3), atol=1e-9)
    for hue in (0.05, -0.05):  # the YIQ angle moves the HSV hue the same way by about as much
        before, after = np.array([180.0, 90, 100]), colour_matrix(hue, 1.0, 1.0) @ [180.0, 90, 100]
        turned = colorsys.rgb_to_hsv(*after / 255)[0] - colorsys.rgb_to_hsv(*before / 255)[0]
        turned = (turned + 0.5) % 1 - 0.5
        assert 0.5 < abs(turned / hue) < 1.6


def test_apply_matches_the_matrix_and_saturates() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    m = colour_matrix(0.1, 1.5, 1.3)
    expected = np.clip(frames @ m.T, 0, 255)
    Colour(m).apply(frames, rng)
    assert np.abs(frames - expected).max() <= 1.01  # fixed-point arithmetic
    assert expected.max() == 255


def test_frames_share_the_colour_but_not_the_noise() -> None:
    frames = np.full((3, 64, 64, 3), 100, np.uint8)
    Colour(colour_matrix(0, 1, 1.2), noise=5.0).apply(frames, np.random.default_rng(0))
    assert not np.array_equal(frames[0], frames[1])
    for f in frames:
        assert abs(f.mean() - 120) < 0.3
        assert 4.5 < f.std() < 5.5
    frames = np.full((3, 64, 64, 3), 100, np.uint8)
    frames[:, 32] = 200
    Colour(np.eye(3), blur=1.0).apply(frames, np.random.default_rng(0))
    assert np.array_equal(frames[0], frames[2])
    assert 120 < frames[0, 32, 5, 0] < 180


def test_draw_stays_in_range_and_zero_changes_nothing() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    before = frames.copy()
    Colour.draw(np.random.default_rng(1), OFF).apply(frames, np.random.default_rng(2))
    np.testing.assert_array_equal(frames, before)
    config = replace(OFF, blur=0.5, noise=8.0, brightness=0.4)
    drawn = [Colour.draw(np.random.default_rng(i), config) for i in range(300)]
    assert 0.4 < np.mean([c.blur > 0 for c in drawn]) < 0.6
    assert max(c.noise for c in drawn) <= 8
    gains = [c.matrix.sum() / 3 for c in drawn]
    assert 0.6 <= min(gains) < 0.65
    assert 1.35 < max(gains) <= 1.4


# -- pixels of snapped warps against an independent resampling ------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
def test_crop_and_resize_draws_what_the_matrix_says(count: int) -> None:
    """A smooth picture, resampled point by point through the inverse matrix."""
    config = replace(OFF, scale=0.45, shift=0.2, flip=0.5, flip_vertical=0.5)
    looked_at = 0
    for seed in range(12):
        for size, warp in zip(SIZES, plan(np.random.default_rng(seed), config, SIZES[:count], CANVAS), strict=False):
            y, x = np.mgrid[0 : size[0], 0 : size[1]] + 0.5
            image = np.stack([x / size[1], y / size[0], (x + y) / sum(size)], -1) * 255
            canvas = np.zeros((*CANVAS, 3), np.uint8)
            warp.paint(image.astype(np.uint8), canvas)
            cy, cx = np.mgrid[0 : CANVAS[0], 0 : CANVAS[1]] + 0.5
            source = warp.inverse().points(np.stack([cx, cy], -1))
            inside = ((source > 1) & (source < (size[1] - 1, size[0] - 1))).all(-1)
            u, v = source[..., 0] / size[1], source[..., 1] / size[0]
            w = (source[..., 0] + source[..., 1]) / sum(size)
            expected = np.stack([u, v, w], -1) * 255 - 0.5
            assert np.abs(canvas - expected)[inside].max(initial=0) < 2.5
            assert not canvas[~((source > -1e-6) & (source < (size[1] + 1e-6, size[0] + 1e-6))).all(-1)].any()
            looked_at += int(inside.sum())
    assert looked_at > 100_000


def test_snapping_moves_no_edge_by_more_than_half_a_pixel() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = SIZES[rng.integers(4)]
        s = np.exp(rng.uniform(-1, 1))
        before = Warp(translation(*rng.uniform(-150, 150, 2)) @ scaling(s, rng.choice([-s, s])), size, CANVAS)
        if not touches(before):
            continue
        after = _snapped(before)
        view = np.array([[0.0, 0], [CANVAS[1], CANVAS[0]]])
        ends = before.points(np.array([[0.0, 0], [size[1], size[0]]]))
        seen = np.clip(ends, *view)  # the part in view, on the canvas
        moved = after.points(before.inverse().points(seen)) - seen
        # Half a canvas pixel at the picture's own edge, half a source pixel at the canvas's.
        assert np.abs(moved).max() <= 0.5 * max(1.0, *np.abs(np.diag(before.matrix))) + 0.1
