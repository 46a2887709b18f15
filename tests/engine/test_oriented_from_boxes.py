"""Oriented boxes from axis-aligned detections: a perfect or mediocre detector is played by the hulls of the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tercel.core.finding import Ledger, TercelError
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.core.rotated import obb_overlap_pairs
from tercel.core.warp import Warp
from tercel.engine.oriented_from_boxes import FromBoxes, angles, from_boxes
from tercel.engine.tiles import view_warp

SIZE = (1000, 1400)


def vehicles(rng: np.random.Generator, count: int = 60) -> Objects:
    """Vehicles of any angle on a grid of 100 px, so that nearest neighbours are no matter of doubt."""
    place = rng.permutation(9 * 13)[:count]
    length = rng.uniform(20, 60, count)
    columns = [100.0 + place % 13 * 100, 100.0 + place // 13 * 100, length, length / 2.4]
    obbs = np.stack([*columns, rng.uniform(-math.pi / 2, math.pi / 2, count)], axis=1)
    return Objects(SIZE, rng.integers(0, 2, count), obb_hull(obbs), obbs=obbs)


def seen(truth: Objects, step: float, rng: np.random.Generator, noise: float = 0.0) -> list[tuple[Warp, Objects]]:
    views = []
    for i, a in enumerate(angles(step)):
        warp = view_warp(SIZE, 0.5 if i % 2 else 1.0, a, flip=i % 3 == 2)
        there = warp.objects(truth)
        boxes = there.boxes + rng.normal(0, noise * warp.scale, (len(truth), 4))
        order = rng.permutation(len(truth))
        scores = rng.uniform(0.5, 1, len(truth))
        views.append((warp, Objects(warp.dst, truth.labels, boxes, scores=scores)[order]))
    return views


def overlap(answer: FromBoxes, truth: Objects) -> np.ndarray:
    """IoU [N] of each truth with the answer nearest to it, which must be one of its own."""
    assert answer.objects.obbs is not None
    assert truth.obbs is not None
    gap = np.linalg.norm(answer.objects.obbs[:, None, :2] - truth.obbs[None, :, :2], axis=2)
    nearest = gap.argmin(axis=0)
    assert sorted(nearest) == list(range(len(truth)))
    assert (answer.objects.labels[nearest] == truth.labels).all()
    return np.asarray(obb_overlap_pairs(answer.objects.obbs[nearest], truth.obbs))


@pytest.mark.parametrize("step", [5, 15, 30, 45])
def test_perfect_hulls_give_the_boxes_back(step: float) -> None:
    """With two angles length and width are not settled, so the better of the two hulls has to do."""
    rng = np.random.default_rng(0)
    truth = vehicles(rng)
    answer = from_boxes(seen(truth, step, rng))
    iou = overlap(answer, truth)
    assert len(answer.objects) == len(truth)
    assert iou.min() > (0.96 if step < 45 else 0.4)
    assert (answer.seen == len(angles(step))).all()
    assert (answer.certainty <= 1).all()  # whatever the step (aerial-27)
    assert answer.certainty.min() > (0.98 if step < 45 else 0.4)
    assert (answer.certainty_by_score <= answer.certainty).all()


def test_noise_averages_out() -> None:
    rng = np.random.default_rng(1)
    truth = vehicles(rng)
    iou = overlap(from_boxes(seen(truth, 5, rng, noise=1.0)), truth)
    assert iou.mean() > 0.94  # the smallest detection, turned back, reaches .87


def test_widths_are_not_too_large() -> None:
    """The smallest detection, turned back, is 5 % too wide with steps of 5 degrees."""
    rng = np.random.default_rng(2)
    truth = vehicles(rng)
    answer = from_boxes(seen(truth, 5, rng)).objects
    assert answer.obbs is not None
    assert truth.obbs is not None
    gap = np.linalg.norm(answer.obbs[:, None, :2] - truth.obbs[None, :, :2], axis=2).argmin(axis=0)
    ratio = answer.obbs[gap, 3] / canonical_obb(truth.obbs)[:, 3]
    assert abs(np.median(ratio) - 1) < 0.005


def test_one_wrong_view_does_not_spoil_the_answer() -> None:
    rng = np.random.default_rng(3)
    truth = vehicles(rng)
    views = seen(truth, 10, rng)
    warp, o = views[4]
    centre, half = (o.boxes[:, :2] + o.boxes[:, 2:]) / 2, (o.boxes[:, 2:] - o.boxes[:, :2])
    views[4] = (warp, o.replace(boxes=np.concatenate([centre - half, centre + half], axis=1)))  # twice as large
    assert overlap(from_boxes(views), truth).min() > 0.9


def test_what_few_views_show_leaves_and_is_counted() -> None:
    rng = np.random.default_rng(4)
    truth = vehicles(rng, 20)
    views = seen(truth, 15, rng)  # six views
    thinned = [(w, o if i < 3 else o[w.inverse().points(o.boxes[:, :2])[:, 0] > 700]) for i, (w, o) in enumerate(views)]
    ledger = Ledger()
    kept = from_boxes(thinned, ledger=ledger)
    assert len(kept.objects) == 20  # three of six are enough
    few = from_boxes(thinned, share=0.6, ledger=ledger)
    assert 0 < len(few.objects) < 20
    (finding,) = ledger.findings()
    assert (finding.check, finding.count) == ("oriented.rarely_seen", 20 - len(few.objects))


def test_a_car_park_does_not_mix_its_cars() -> None:
    """Cars side by side, 2 px apart: at 45 degrees each hull covers much of its neighbours."""
    rng = np.random.default_rng(5)
    count = 30
    columns = [np.full(count, 500.0), 100 + np.arange(count) * 14.0, np.full(count, 28.0), np.full(count, 12.0)]
    obbs = np.stack([*columns, np.full(count, 0.1)], axis=1)
    truth = Objects(SIZE, np.zeros(count, np.int64), obb_hull(obbs), obbs=obbs)
    iou = overlap(from_boxes(seen(truth, 5, rng, noise=0.3)), truth)
    assert iou.min() > 0.85


def test_classes_are_kept_apart() -> None:
    rng = np.random.default_rng(6)
    one = vehicles(rng, 10)
    truth = Objects.concat([one.replace(labels=np.zeros(10)), one.replace(labels=np.ones(10))])
    answer = from_boxes(seen(truth, 15, rng))
    assert sorted(answer.objects.labels.tolist()) == [0] * 10 + [1] * 10


def test_the_score_is_that_of_the_first_view() -> None:
    warps = [view_warp(SIZE, 1, a) for a in angles(30)]
    truth = vehicles(np.random.default_rng(7), 2)
    given = ([0.9, 0.2], [0.5, 0.5], [0.4, 0.8])
    views = [(w, w.objects(truth).replace(obbs=None, scores=s)) for w, s in zip(warps, given, strict=True)]
    views[0] = (warps[0], views[0][1][[0]])
    scores = from_boxes(views).objects.scores
    assert scores is not None
    np.testing.assert_allclose(scores, [0.9, 0.65], atol=1e-6)


def test_nothing_found_and_misuse() -> None:
    warp = view_warp(SIZE, 1, 0)
    nothing = Objects(warp.dst, [], [], scores=[])
    assert len(from_boxes([(warp, nothing), (warp, nothing)]).objects) == 0
    with pytest.raises(TercelError, match="one picture"):
        from_boxes([])
    with pytest.raises(TercelError, match="one picture"):
        from_boxes([(warp, nothing), (view_warp((10, 10), 1), Objects((10, 10), [], [], scores=[]))])
    for step in (0, -5, 46):
        with pytest.raises(TercelError, match="step"):
            angles(step)
    assert angles(5)[-1] == 85
    assert len(angles(5)) == 18
    assert angles(40) == (0, 40, 80)
