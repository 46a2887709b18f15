"""The grid of tiles, what a tile shows, and what becomes of things that no tile shows whole."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.finding import Ledger, TercelError
from tercel.core.geometry import obb_hull
from tercel.core.objects import Objects
from tercel.data.tiles import Window, common_width, cut, merge, scale_for, tile_grid

SIZE = (100, 300)
LEFT, RIGHT = Window(0, 0, (100, 160)), Window(140, 0, (100, 160))  # share x = 140 .. 160


def found(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None) -> Objects:
    """Detections on the canvas of a tile, 100 x 160 px."""
    return Objects((100, 160), labels or [0] * len(boxes), np.array(boxes).reshape(-1, 4), scores=np.array(scores))


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.tuples(st.integers(8, 2000), st.integers(8, 2000)),
    st.floats(0, 0.99),
)
def test_the_grid_covers_the_picture(size: tuple[int, int], tile: tuple[int, int], share: float) -> None:
    overlap = min(int(share * min(tile)), min(tile) - max(1, min(tile) // 8))
    windows = tile_grid(size, tile, overlap)
    assert len(windows) >= 1
    rows, columns = sorted({w.y for w in windows}), sorted({w.x for w in windows})
    assert [(w.y, w.x) for w in windows] == [(y, x) for y in rows for x in columns]
    for starts, length, whole in ((rows, size[0], tile[0]), (columns, size[1], tile[1])):
        side = min(whole, length)
        assert starts[0] == 0
        assert starts[-1] + side == length  # the last one ends where the picture ends, and does not leave it
        assert all(b - a <= side - overlap for a, b in itertools.pairwise(starts))
    assert {w.size for w in windows} == {(min(tile[0], size[0]), min(tile[1], size[1]))}


def test_a_picture_no_larger_than_a_tile_has_one() -> None:
    assert tile_grid((768, 768), (768, 768), 200) == [Window(0, 0, (768, 768))]
    assert tile_grid((10, 5), (768, 768), 200) == [Window(0, 0, (10, 5))]  # narrower than the overlap (aerial-23)
    assert tile_grid((10, 769), (768, 768), 200) == [Window(0, 0, (10, 768)), Window(1, 0, (10, 768))]


@pytest.mark.parametrize(("tile", "overlap"), [((64, 64), 64), ((64, 32), 40), ((64, 64), -1), ((0, 64), 0)])
def test_an_impossible_grid_is_refused(tile: tuple[int, int], overlap: int) -> None:
    with pytest.raises(TercelError, match="overlap"):
        tile_grid((100, 100), tile, overlap)


def test_cut_by_hand() -> None:
    o = Objects(SIZE, [0, 1, 2], [[130, 10, 150, 30], [0, 0, 10, 10], [150, 50, 170, 60]], area=[400, 100, 200])
    left, right = cut(o, LEFT), cut(o, RIGHT)
    assert left.labels.tolist() == [0, 1, 2]
    assert left.boxes.tolist() == [[130, 10, 150, 30], [0, 0, 10, 10], [150, 50, 160, 60]]
    assert left.area is not None
    assert left.area.tolist() == [400, 100, 100]
    assert right.size == (100, 160)
    assert right.boxes.tolist() == [[0, 10, 10, 30], [10, 50, 30, 60]]
    assert cut(o, RIGHT, min_visible=0.6).labels.tolist() == [2]


def test_the_whole_one_stands_for_the_object_even_with_the_lower_score() -> None:
    left, right = found([[130, 10, 150, 30]], [0.5]), found([[0, 11, 10, 30]], [0.9])
    merged = merge([(LEFT, left), (RIGHT, right)], SIZE)
    assert merged.boxes.tolist() == [[130, 10, 150, 30]]
    assert merged.scores is not None
    assert merged.scores.tolist() == [0.5]


def test_what_ends_close_to_a_border_counts_as_cut() -> None:
    left = found([[138, 10, 158, 30]], [0.6])  # ends 2 px before the border of its tile
    right = found([[0.5, 10, 18.5, 30]], [0.9])  # x = 140.5 .. 158.5
    assert merge([(LEFT, left), (RIGHT, right)], SIZE).boxes.tolist() == [[138, 10, 158.5, 30]]  # put together


def test_a_piece_that_looks_otherwise_gives_way_to_the_whole_one_around_it() -> None:
    left = found([[120, 10, 152, 40]], [0.5])
    right = found([[0, 10, 11, 20]], [0.9])  # a third of what the right tile can see of it: no pair
    assert merge([(LEFT, left), (RIGHT, right)], SIZE).boxes.tolist() == [[120, 10, 152, 40]]
    other = right.replace(labels=[1])
    assert len(merge([(LEFT, left), (RIGHT, other)], SIZE)) == 2  # another class is another thing


def test_neighbours_in_a_crowd_do_not_remove_one_another() -> None:
    """Two people, IoU .53 with one another, each whole in one tile only: suppression over tiles would lose one."""
    people = Objects(SIZE, [0, 0], [[131, 10, 157, 60], [139, 10, 165, 60]], scores=[0.9, 0.8])
    parts = [(w, cut(people, w)) for w in (LEFT, RIGHT)]
    assert merge(parts, SIZE, margin=0.0).same(people)


def test_partners_of_partners_are_not_swallowed() -> None:
    """The middle one may be either neighbour; the two outer ones do not touch."""
    windows = [Window(x, 0, (100, 160)) for x in (0, 60, 120)]
    parts = [
        (windows[0], found([[120, 10, 140, 30]], [0.9])),
        (windows[1], found([[70, 10, 90, 30]], [0.5])),  # x = 130 .. 150
        (windows[2], found([[20, 10, 40, 30]], [0.8])),  # x = 140 .. 160: the first tile's inner border
    ]
    merged = merge(parts, (100, 280), iou=0.3)
    assert merged.boxes[:, 0].tolist() == [120, 140]


def test_what_is_longer_than_the_overlap_is_put_together_and_counted() -> None:
    windows = tile_grid((100, 700), (100, 160), 20)
    truth = Objects((100, 700), [0, 1], [[50, 10, 600, 60], [20, 70, 120, 90]], area=[1000, 2000])
    ledger = Ledger()
    merged = merge([(w, cut(truth, w)) for w in windows], truth.size, ledger=ledger)
    assert merged.boxes[np.argsort(merged.labels)].tolist() == truth.boxes.tolist()
    assert merged.area is not None
    np.testing.assert_allclose(merged.area[np.argsort(merged.labels)], [1000, 2000], rtol=1e-5)
    assert [(f.check, f.count) for f in ledger.findings()] == [("tiles.joined", 1)]


def test_a_lonely_piece_stays_and_is_counted() -> None:
    ledger = Ledger()
    merged = merge([(LEFT, found([[150, 10, 160, 30]], [0.5])), (RIGHT, found([], []))], SIZE, ledger=ledger)
    assert len(merged) == 1
    assert [(f.check, f.count) for f in ledger.findings()] == [("tiles.cut", 1)]


def test_a_piece_of_an_oriented_box_gives_way() -> None:
    whole = np.array([[130, 40, 40, 16, 0.5]], np.float32)
    part = np.array([[4, 46, 14, 13, 0.4]], np.float32)  # what the right tile sees of it
    a = Objects((100, 160), [0], obb_hull(whole), obbs=whole, scores=[0.6])
    b = Objects((100, 160), [0], obb_hull(part), obbs=part, scores=[0.9])
    merged = merge([(LEFT, a), (RIGHT, b)], SIZE)
    assert merged.obbs is not None
    assert merged.obbs.tolist() == whole.tolist()


def test_fusion_averages_whole_ones_by_score_and_leaves_pieces_out() -> None:
    left = found([[142, 10, 154, 30]], [0.9])
    right = found([[3, 10, 15, 30], [60, 10, 80, 30]], [0.3, 0.5])  # x = 143 .. 155
    merged = merge([(LEFT, left), (RIGHT, right)], SIZE, method="fusion")
    assert merged.scores is not None
    np.testing.assert_allclose(merged.boxes, [[142.25, 10, 154.25, 30], [200, 10, 220, 30]], atol=1e-4)
    np.testing.assert_allclose(merged.scores, [0.6, 0.5], atol=1e-6)


def test_the_cap_keeps_the_best_and_says_so() -> None:
    ledger = Ledger()
    merged = merge([(LEFT, found([[0, 0, 9, 9], [20, 20, 29, 29], [40, 40, 49, 49]], [0.1, 0.9, 0.5]))], SIZE, cap=2,
                   ledger=ledger)  # fmt: skip
    assert merged.scores is not None
    np.testing.assert_allclose(merged.scores, [0.9, 0.5])
    assert [f.check for f in ledger.findings()] == ["tiles.cap"]


def test_nothing_found_gives_nothing() -> None:
    assert len(merge([(LEFT, found([], [])), (RIGHT, found([], []))], SIZE)) == 0
    with pytest.raises(ValueError, match="at least one tile"):
        merge([], SIZE)


def test_the_common_width_is_the_mode() -> None:
    rng = np.random.default_rng(0)
    widths = np.concatenate([rng.normal(25, 0.8, 40), rng.uniform(3, 12, 25), rng.uniform(60, 300, 25), [900.0]])
    obbs = np.stack([np.full(91, 500.0)] * 2 + [widths * 2.4, widths, rng.uniform(-1.5, 1.5, 91)], axis=1)
    oriented = Objects((1000, 1000), np.zeros(91, int), obb_hull(obbs), obbs=obbs)
    assert common_width(oriented) == pytest.approx(25, abs=0.5)
    ignored = oriented.replace(ignore=np.abs(widths - 25) < 5)
    assert not 20 < common_width(ignored) < 30
    flat = Objects((100, 100), [0, 0, 0], [[0, 0, 30, 10], [0, 0, 10, 30], [0, 0, 90, 80]])
    assert common_width(flat) == 10
    assert math.isnan(common_width(Objects.empty((10, 10))))


def test_the_scale() -> None:
    assert scale_for(50, 25) == 0.5
    for bad in (0, -1, math.nan, math.inf):
        with pytest.raises(TercelError, match="px wide"):
            scale_for(bad, 25)
