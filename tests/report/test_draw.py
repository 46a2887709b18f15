"""Drawing: shapes lie where the coordinates say, to a fraction of a pixel, on every kind of picture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.geometry import obb_hull
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.report import draw as module
from tercel.report import strokes
from tercel.report.draw import class_color, contact_sheet, crop, draw, draw_sample

SIZE = (60, 80)
BLACK = np.zeros((*SIZE, 3), np.uint8)


def one(*box: float, **columns: object) -> Objects:
    return Objects(SIZE, [0], [box], **columns)  # type: ignore[arg-type]


def centre_of(line: np.ndarray) -> float:
    """Where the ink of a row of pixels lies, in continuous coordinates: pixel i has its centre at i + .5."""
    return float(((np.arange(len(line)) + 0.5) * line).sum() / line.sum())


@pytest.mark.parametrize("x", [20.0, 20.25, 20.5, 20.75])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_an_edge_lies_where_its_coordinate_says(x: float, width: int) -> None:
    out = draw(BLACK, one(x, 10.3, 60.5, 50), ["a"], labels=False, width=width)
    assert centre_of(out[30, :40, 0].astype(float)) == pytest.approx(x, abs=0.06)
    assert centre_of(out[30, 40:, 0].astype(float)) + 40 == pytest.approx(60.5, abs=0.06)
    assert centre_of(out[:30, 40, 0].astype(float)) == pytest.approx(10.3, abs=0.06)


def test_forgetting_the_half_pixel_between_the_conventions_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strokes, "fixed", lambda xy: np.rint(xy * 32).astype(np.int32))
    out = draw(BLACK, one(20, 10, 60, 50), ["a"], labels=False, width=2)
    assert abs(centre_of(out[30, :40, 0].astype(float)) - 20) > 0.4


def test_the_pixels_on_the_edge_have_the_colour_of_the_class() -> None:
    for label in (0, 1, 5, 9):
        o = Objects(SIZE, [label], [[20, 10, 60, 50]])
        out = draw(np.full((*SIZE, 3), 128, np.uint8), o, [str(i) for i in range(12)], labels=False, width=2)
        for y, x in ((30, 19), (30, 20), (30, 59), (30, 60), (9, 40), (10, 40), (49, 40), (50, 40)):
            assert tuple(out[y, x].tolist()) == class_color(label)
        assert (out[30, 40] == 128).all()  # the inside is untouched
        assert (out[30, 5] == 128).all()


def test_colours_depend_on_the_class_id_alone_and_differ() -> None:
    colors = [class_color(i) for i in range(21)]
    assert len(set(colors)) == 21
    assert [class_color(i) for i in range(21)] == colors
    assert all(np.abs(np.subtract(a, b)).max() >= 25 for a, b in itertools.combinations(colors[:7], 2))


def test_an_oriented_box_is_drawn_along_its_own_sides_and_not_as_its_hull() -> None:
    obb = np.array([[40, 30, 40, 10, np.pi / 4]], np.float32)
    out = draw(BLACK, Objects(SIZE, [0], obb_hull(obb), obbs=obb), ["a"], labels=False, width=1)
    along, across = np.array([1, 1]) / np.sqrt(2), np.array([-1, 1]) / np.sqrt(2)
    for t in (-15, 0, 15):  # on both long sides
        for side in (-5, 5):
            x, y = np.array([40, 30]) + t * along + side * across
            assert out[int(y), int(x), 0] > 60
    x1, y1, x2, y2 = obb_hull(obb)[0]
    assert not out[int(y1) + 3, int(x2) - 3].any()  # the corners of the hull stay empty
    assert not out[int(y2) - 3, int(x1) + 3].any()


@pytest.mark.parametrize("towards", [1, -1])
def test_a_line_runs_to_the_front_where_it_is_known(towards: int) -> None:
    obb = np.array([[50, 40.5, 60, 30, 0]], np.float64)
    o = Objects((80, 100), [0], obb_hull(obb), obbs=obb, heading=[0 if towards > 0 else np.pi], headed=[True])
    image = np.full((80, 100, 3), 128, np.uint8)
    drawn = draw(image, o, ("a",), labels=False, width=2)
    like = np.abs(drawn.astype(int) - class_color(0)).max(axis=2) < 30
    line = like[38:43].any(axis=0)
    ahead, behind = (slice(55, 75), slice(25, 45))[::towards]
    assert line[ahead].all()
    assert not line[behind].any()
    unknown = draw(image, o.replace(headed=[False]), ("a",), labels=False, width=2)
    assert (unknown[30:50, 25:75] == 128).all()


def test_scores_below_the_threshold_are_left_out_and_truth_is_not() -> None:
    low = one(20, 10, 60, 50, scores=[0.2])
    assert not draw(BLACK, low, ["a"], min_score=0.3).any()
    assert draw(BLACK, low, ["a"], min_score=0.2).any()
    assert draw(BLACK, one(20, 10, 60, 50), ["a"]).any()


def test_truth_is_white_and_dashed_and_a_prediction_is_solid() -> None:
    grey = np.full((*SIZE, 3), 90, np.uint8)
    truth, pred = one(10.5, 10.5, 70, 50), one(10.5, 10.5, 70, 50, scores=[0.9])
    dashed = draw(grey, pred[:0], ["a"], truth=truth, labels=False, width=2)[10, 12:68]
    solid = draw(grey, pred, ["a"], labels=False, width=2)[10, 12:68]
    white = (dashed > 200).all(axis=1)
    assert 0.2 < white.mean() < 0.9
    assert len({tuple(p) for p in solid.tolist()}) == 1


def test_ignore_regions_are_grey_and_dashed() -> None:
    line = draw(BLACK, one(10, 10, 70, 50, ignore=[True]), ["a"], width=2)[10, 12:68]
    assert (line[:, 0] == line[:, 1]).all()
    assert 0.2 < (line[:, 0] > 150).mean() < 0.9


def test_hidden_points_are_rings_visible_ones_are_filled_absent_ones_do_not_show() -> None:
    schema = Schema(("turtle",), ("nose", "shell", "tail"), edges=(("nose", "shell"), ("shell", "tail")))
    o = one(5, 5, 75, 55, points=[[[20, 20], [40, 30], [60, 45]]], visible=[[2, 1, 0]])
    out = draw(BLACK, o, schema, labels=False, width=2)
    assert out[20, 20].any()  # filled
    ring = draw(BLACK, o.replace(visible=[[0, 1, 0]]), schema, labels=False, width=2)
    assert not ring[30, 40].any()  # open in the middle
    assert ring[26:34, 36:44].any()
    assert not out[41:50, 56:65].any()
    assert out[25, 30].any()  # the edge from nose to shell
    assert not out[37, 50].any()  # and none to the absent tail


def test_a_ball_is_ringed_so_that_its_pixels_stay_in_view() -> None:
    o = one(40, 30, 40, 30, points=[[[40, 30]]], visible=[[2]])
    out = draw(BLACK, o, ["ball"], labels=False)
    assert not out[30, 40].any()
    ys, xs = np.nonzero(out.sum(axis=2))
    assert (xs.mean() + 0.5, ys.mean() + 0.5) == pytest.approx((40, 30), abs=0.1)


def test_a_box_without_area_is_still_marked() -> None:
    assert draw(BLACK, one(40, 30, 40, 30), ["a"], labels=False).any()


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (5, 4), (1500, 2000)])
def test_every_size_of_picture(size: tuple[int, int]) -> None:
    o = Objects(size, [0, 1], [[0, 0, size[1], size[0]], [-1e6, -5, 1e7, 3]], scores=[0.9, 0.8])
    image = np.full((*size, 3), 200, np.uint8)
    out = draw(image, o, ["a", "b"], truth=o.replace(scores=None))
    assert out.shape == image.shape
    assert (image == 200).all()  # the caller's picture is never drawn on
    assert draw(image, o[:0], ["a", "b"]).tolist() == image.tolist() if size[0] < 9 else True


def test_grey_pictures_and_wrong_input() -> None:
    for grey in (np.full(SIZE, 90, np.uint8), np.full((*SIZE, 1), 90, np.uint8)):
        out = draw(grey, one(20, 10, 60, 50), ["a"], labels=False, width=2)
        assert out.shape == (*SIZE, 3)
        assert tuple(out[30, 20].tolist()) == class_color(0)
    with pytest.raises(ValueError, match=r"u8 \[H,W,3\].*float64"):
        draw(np.zeros((*SIZE, 3)), one(1, 1, 2, 2), ["a"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(60, 80\).*\(50, 80\)"):
        draw(BLACK[:50], one(1, 1, 2, 2), ["a"])


@pytest.mark.parametrize("background", [0, 128, 255])
def test_labels_are_legible_on_any_background(background: int) -> None:
    image = np.full((240, 320, 3), background, np.uint8)
    for label in range(14):
        o = Objects((240, 320), [label], [[50, 60, 200, 200]], scores=[0.5])
        plain = draw(image, o, [f"klasse{i}" for i in range(14)], labels=False)
        tagged = draw(image, o, [f"klasse{i}" for i in range(14)])
        rows, columns = np.nonzero((plain != tagged).any(axis=2))
        tag = tagged[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].reshape(-1, 3).astype(float)
        light = tag / 255 @ np.array([0.2126, 0.7152, 0.0722])
        assert light.max() - light.min() > 0.3


def test_labels_never_cover_each_other() -> None:
    o = Objects((240, 320), [0] * 3, [[50, 60, 200, 200]] * 3, scores=[0.9, 0.8, 0.7])
    places = np.zeros((0, 4))
    for _ in range(5):
        place = module._place(o.boxes[0].astype(float), (60, 14), (240, 320), places)
        if place is None:
            break
        places = np.concatenate([places, [place]])
    assert len(places) == 3  # above, below, inside; then no more
    for a, b in itertools.combinations(places, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_the_legend_adds_a_strip_and_leaves_the_picture() -> None:
    image = np.full((240, 320, 3), 90, np.uint8)
    o = Objects((240, 320), [0, 2], [[10, 10, 50, 50], [60, 60, 90, 90]])
    plain, with_strip = draw(image, o, ["a", "b", "c"]), draw(image, o, ["a", "b", "c"], legend=True)
    assert (with_strip[:240] == plain).all()
    strip = {tuple(p) for p in with_strip[240:].reshape(-1, 3).tolist()}
    assert class_color(0) in strip
    assert class_color(2) in strip
    assert class_color(1) not in strip


def test_names_from_outside_may_hold_anything() -> None:
    o = one(5, 20, 75, 55, scores=[0.9])
    for name in ("<script>", "雪\n\x1b[31m", "x" * 500, "", "\u202e"):
        assert draw(BLACK, o, [name, "b"], legend=True).shape[1] == 80


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 7), st.integers(0, 5))
def test_a_contact_sheet_holds_every_picture_untouched(h: int, w: int, columns: int, n: int) -> None:
    images = [np.full((h, w, 3), 10 + i, np.uint8) for i in range(n)]
    sheet = contact_sheet(images, columns, gap=3)
    for i in range(n):
        assert (sheet == 10 + i).all(axis=2).sum() == h * w


def test_a_crop_keeps_objects_on_their_pixels() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 150:160] = 255
    o = Objects((100, 200), [0, 1], [[150, 40, 160, 60], [0, 0, 5, 5]])
    view, (inside,) = crop(image, [o], (140, 30, 180, 70), (80, 80))
    assert view.shape == (80, 80, 3)
    np.testing.assert_allclose(inside.boxes, [[20, 20, 40, 60]], atol=1e-4)
    assert (view[25:55, 25:35] == 255).all()
    assert (view[:15] == 0).all()


def test_a_sample_shows_truth_and_prediction_side_by_side() -> None:
    truth = one(20, 10, 60, 50)
    pred = one(22, 10, 60, 50, scores=[0.2])
    schema = Schema(("a",))
    out = draw_sample(BLACK, truth, pred, schema, min_score=0.3)
    half = out.shape[1] // 2

    def has_color(part: np.ndarray) -> bool:
        return bool((part == class_color(0)).all(axis=2).any())

    assert has_color(out[:, :half])
    assert not has_color(out[:, half:])  # its score is too low
    assert has_color(draw_sample(BLACK, truth, pred, schema, min_score=0.1)[:, half:])
    assert draw_sample(BLACK, truth[:0], pred[:0], schema).shape == out.shape
