"""Tile(truth) merged gives truth back: for random pictures, tiles, overlaps and layouts, crowded ones included.

The promise is a function of `cut` and `merge`; planted bugs show that it can be broken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.geometry import box_area, clip_boxes, obb_hull
from tercel.core.objects import Objects
from tercel.data.tiles import Window, cut, merge, tile_grid

Merge = Callable[..., Objects]
Layout = tuple[tuple[int, int], list[Window], int]

layouts = st.tuples(
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.tuples(st.integers(40, 500), st.integers(40, 500)),
    st.floats(0, 0.6),
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.booleans(),
)


def layout(size: tuple[int, int], tile: tuple[int, int], share: float) -> tuple[list[Window], int]:
    overlap = int(share * min(tile))
    return tile_grid(size, tile, overlap), overlap


def boxes(rng: np.random.Generator, size: tuple[int, int], count: int, longest: float, scored: bool) -> Objects:
    """Boxes anywhere on the picture, none longer than `longest`, some of them on the same spot."""
    h, w = size
    wh = rng.uniform(0.3, 1, (count, 2)) * min(longest, h, w)
    low = rng.uniform(0, 1, (count, 2)) * ((w, h) - wh)
    rows = np.concatenate([low, low + wh], axis=1)
    if count > 3:  # crowds: the same place but for a little
        rows[: count // 3] = np.clip(rows[count // 3 : 2 * (count // 3)] + rng.uniform(-1, 1, (count // 3, 4)), 0, None)
        rows = clip_boxes(rows, size)
        rows[:, 2:] = np.maximum(rows[:, 2:], rows[:, :2])
    rows = rows.astype(np.float32)
    rows[:, 2:] = np.minimum(rows[:, 2:], rows[:, :2] + np.float32(longest))
    rows = rows[(box_area(rows) > 0.01)]
    scores = rng.permutation(np.linspace(0.01, 0.99, len(rows))) if scored else None
    ignore = rng.random(len(rows)) < 0.2
    return Objects(size, rng.integers(0, 2, len(rows)), rows, ignore, area=box_area(rows), scores=scores)


def oriented(rng: np.random.Generator, size: tuple[int, int], count: int, longest: float, scored: bool) -> Objects:
    """Oriented boxes whose hulls lie on the picture and are no longer than `longest`."""
    h, w = size
    length = rng.uniform(0.3, 1, count) * min(longest, h, w) / 1.5
    columns = [np.zeros(count), np.zeros(count), length, length * rng.uniform(0.2, 1, count)]
    obbs = np.stack([*columns, rng.uniform(-np.pi / 2, np.pi / 2, count)], axis=1)
    half = obb_hull(obbs)[:, 2:]
    obbs[:, :2] = half + rng.uniform(0, 1, (count, 2)) * ((w, h) - 2 * half)
    if count > 3:
        third = count // 3
        obbs[:third] = obbs[third : 2 * third] + rng.uniform(-0.2, 0.2, (third, 5)) * (0, 0, 0, 0, 1)
        obbs[:, 4] = np.clip(obbs[:, 4], -np.pi / 2, 1.57)
    obbs = obbs.astype(np.float32)
    hulls = obb_hull(obbs)
    inside = ((hulls >= 0) & (hulls <= (w, h, w, h))).all(axis=1) & (obbs[:, 2] > 0.05)
    inside &= (hulls[:, 2:] - hulls[:, :2]).max(axis=1) <= longest
    obbs = obbs[inside]
    scores = rng.permutation(np.linspace(0.01, 0.99, len(obbs))) if scored else None
    n = len(obbs)
    extra = {"heading": rng.uniform(-3, 3, n), "headed": rng.random(n) < 0.5, "area": obbs[:, 2] * obbs[:, 3]}
    return Objects(size, rng.integers(0, 2, n), obb_hull(obbs), rng.random(n) < 0.2, obbs=obbs, scores=scores, **extra)


def in_order(o: Objects) -> Objects:
    return o[np.lexsort((*o.boxes.T, o.labels))]


def gives_back(merge: Merge, truth: Objects, windows: Sequence[Window], **options: Any) -> None:
    merged = merge([(w, cut(truth, w)) for w in windows], truth.size, **options)
    assert in_order(merged).same(in_order(truth))


@given(layouts)
def test_boxes_come_back_to_the_last_bit(given: tuple[Any, ...]) -> None:
    size, tile, share, seed, count, scored = given
    windows, overlap = layout(size, tile, share)
    truth = boxes(np.random.default_rng(seed), size, count, max(overlap, 0.1), scored)
    gives_back(merge, truth, windows, margin=0.0)


@given(layouts)
def test_boxes_near_a_border_count_as_cut_and_come_back_all_the_same(given: tuple[Any, ...]) -> None:
    size, tile, share, seed, count, scored = given
    windows, overlap = layout(size, tile, share)
    truth = boxes(np.random.default_rng(seed), size, count, max(overlap - 4.01, 0.1), scored)
    if overlap > 5 or len(windows) == 1:
        gives_back(merge, truth, windows)


@given(layouts)
def test_oriented_boxes_come_back_to_the_last_bit(given: tuple[Any, ...]) -> None:
    size, tile, share, seed, count, scored = given
    windows, overlap = layout(size, tile, share)
    truth = oriented(np.random.default_rng(seed), size, count, max(overlap, 0.1), scored)
    gives_back(merge, truth, windows, margin=0.0)


@given(layouts)
def test_fusing_what_all_tiles_agree_on_returns_it(given: tuple[Any, ...]) -> None:
    size, tile, share, seed, count, _ = given
    windows, overlap = layout(size, tile, share)
    for make in (boxes, oriented):
        truth = make(np.random.default_rng(seed), size, count, max(overlap, 0.1), True)
        truth = truth.replace(ignore=np.zeros(len(truth), bool))
        merged = merge([(w, cut(truth, w)) for w in windows], size, method="fusion", margin=0.0)
        a, b = (o[np.argsort(-o.scores, kind="stable")] for o in (merged, truth))
        assert len(a) == len(b)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-6)
        assert (a.labels == b.labels).all()


# -- planted bugs -------------------------------------------------------------------------------------------------

SIZE, TILE, OVERLAP = (700, 900), (256, 320), 64


def everything(parts: Sequence[tuple[Window, Objects]], size: tuple[int, int], **_: Any) -> Objects:
    """No merging at all."""
    return merge(parts, size, iou=1.0, margin=-1.0)


def plain_suppression(parts: Sequence[tuple[Window, Objects]], size: tuple[int, int], **_: Any) -> Objects:
    """The usual way: greedy suppression of all that the tiles say. It takes crowds for duplicates, and keeps pieces."""
    from tercel.core.suppress import greedy

    moved = merge(parts, size, iou=1.0, margin=-1.0)
    return moved[greedy(moved.boxes, np.linspace(1, 0, len(moved)), 0.5, moved.labels)]


def across_classes(parts: Sequence[tuple[Window, Objects]], size: tuple[int, int], **options: Any) -> Objects:
    """The class plays no part."""
    return merge([(w, o.replace(labels=o.labels * 0)) for w, o in parts], size, **options)


def wrong_place(parts: Sequence[tuple[Window, Objects]], size: tuple[int, int], **options: Any) -> Objects:
    """x and y of the window swapped."""
    swapped = [(replace(w, x=min(w.y, size[1] - w.size[1]), y=min(w.x, size[0] - w.size[0])), o) for w, o in parts]
    return merge(swapped, size, **options)


def last_tiles_lost(parts: Sequence[tuple[Window, Objects]], size: tuple[int, int], **options: Any) -> Objects:
    """aerial-21: part of the right and of the bottom is lost."""
    return merge([p for p in parts if p[0].box[2] < size[1] and p[0].box[3] < size[0]], size, **options)


@pytest.mark.parametrize("bug", [everything, plain_suppression, across_classes, wrong_place, last_tiles_lost])
@pytest.mark.parametrize("make", [boxes, oriented])
def test_a_planted_bug_is_found(bug: Merge, make: Callable[..., Objects]) -> None:
    truth = make(np.random.default_rng(1), SIZE, 120, OVERLAP, False)
    windows = tile_grid(SIZE, TILE, OVERLAP)
    gives_back(merge, truth, windows, margin=0.0)
    with pytest.raises(AssertionError):
        gives_back(bug, truth, windows, margin=0.0)
