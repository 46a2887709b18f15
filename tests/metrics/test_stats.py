"""Weighted AP against repeated pictures judged by hotcoco, and intervals."""

from __future__ import annotations

import numpy as np
import pytest

from tercel.core.objects import Objects
from tercel.metrics.coco import evaluate
from tercel.metrics.match import IOUS, Pool, match_all
from tercel.metrics.stats import interval, mean_over_classes, picture_weights, resample, weighted_ap

CLASSES = 3


def scene(rng, pictures=12, ties=True):
    truth, pred = [], []
    for _ in range(pictures):
        n = int(rng.integers(0, 9))
        low = rng.uniform(0, 400, (n, 2))
        rows = np.concatenate([low, low + rng.uniform(10, 150, (n, 2))], axis=1)
        labels = rng.integers(0, CLASSES, n)
        truth.append(Objects((600, 600), labels, rows, rng.random(n) < 0.15))
        moved = rows + rng.normal(0, 6, rows.shape)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        twice = np.concatenate([moved, rows + 3])
        scores = rng.random(2 * n)
        pred.append(Objects((600, 600), np.r_[labels, labels], twice, scores=scores.round(1) if ties else scores))
    return truth, pred


def judged(truth, pred, weights, interpolation="101", caps=(1, 10, 100)):
    m = match_all(Pool.of(truth), Pool.of(pred), cap=caps[-1])
    return resample(m, CLASSES, weights, caps, interpolation)


def test_weights_are_draws_of_all_pictures():
    w = picture_weights(50, 20, seed=3)
    assert w.shape == (50, 21)
    assert (w[:, 0] == 1).all()
    assert (w.sum(axis=0) == 50).all()
    assert np.array_equal(w, picture_weights(50, 20, seed=3))
    assert not np.array_equal(w, picture_weights(50, 20, seed=4))
    assert w[:, 1:].var() == pytest.approx(1, abs=0.15)  # each is close to Poisson(1)


@pytest.mark.parametrize("steps", [100, 10])
@pytest.mark.parametrize("seed", range(3))
def test_weight_one_is_hotcoco(seed, steps):
    truth, pred = scene(np.random.default_rng(seed))
    s = judged(truth, pred, np.ones((len(truth), 1)), "101" if steps == 100 else "11")
    precision, recall, _ = evaluate(Pool.of(truth), Pool.of(pred), CLASSES, ious=IOUS, caps=(1, 10, 100), steps=steps)
    np.testing.assert_allclose(s.ap[..., 0], np.moveaxis(precision.mean(axis=1)[..., -1], -1, 0), atol=1e-12)
    np.testing.assert_allclose(s.recall[..., 0], np.moveaxis(recall[..., -1], -1, 0), atol=1e-12)
    np.testing.assert_allclose(s.recall_at[..., 0], np.moveaxis(recall[:, :, 0], -1, 0), atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_weight_is_a_repeated_picture(seed):
    """A picture with weight k is that picture k times, one with weight 0 is absent; hotcoco is the judge."""
    truth, pred = scene(np.random.default_rng(seed), ties=False)
    weights = picture_weights(len(truth), 4, seed)
    s = judged(truth, pred, weights)
    for column in range(1, 5):
        times = weights[:, column].astype(int)
        again = np.repeat(np.arange(len(truth)), times)
        precision, recall, _ = evaluate(
            Pool.of([truth[i] for i in again]), Pool.of([pred[i] for i in again]), CLASSES, ious=IOUS, caps=(1, 10, 100)
        )
        np.testing.assert_allclose(s.ap[..., column], np.moveaxis(precision.mean(axis=1)[..., -1], -1, 0), atol=1e-6)
        np.testing.assert_allclose(s.recall_at[..., column], np.moveaxis(recall[:, :, 0], -1, 0), atol=1e-6)


@pytest.mark.parametrize("steps", [100, 10])
@pytest.mark.parametrize("truths", [5, 10, 20, 50, 60, 100, 200])
def test_recalls_that_fall_on_the_grid(truths, steps):
    """k / G equal to a grid point counts as reached or not exactly as in pycocotools, rounding included."""
    for found in range(truths + 1):
        hit = np.ones((1, found), bool)
        ap, _ = weighted_ap(
            np.zeros(found, int), hit, ~hit, positives=np.array([float(truths)]), weights=np.ones((1, 1)),
            interpolation="101" if steps == 100 else "11",
        )  # fmt: skip
        recalls = np.arange(1, found + 1) / truths
        expected = (np.linspace(0, 1, steps + 1) <= recalls[-1]).mean() if found else 0.0
        assert ap[0, 0] == pytest.approx(expected, abs=1e-12), found


def test_every_point_area():
    """Hits at ranks 1 and 3 of 4 detections, 4 truths: (1/4)(1) + (1/4)(2/3)."""
    hit = np.array([[True, False, True, False]])
    ap, recall = weighted_ap(
        np.zeros(4, int), hit, np.zeros_like(hit), positives=np.array([4.0]), weights=np.ones((1, 1)),
        interpolation="every",
    )  # fmt: skip
    assert ap[0, 0] == pytest.approx(1 / 4 + 1 / 4 * 2 / 3)
    assert recall[0, 0] == 0.5


def test_blocks_of_columns_change_nothing(monkeypatch):
    truth, pred = scene(np.random.default_rng(5))
    weights = picture_weights(len(truth), 40, 0)
    whole = judged(truth, pred, weights)
    monkeypatch.setattr("tercel.metrics.stats.BLOCK", 1)
    np.testing.assert_array_equal(whole.ap, judged(truth, pred, weights).ap)


def test_interval_surrounds_the_value():
    samples = np.random.default_rng(0).normal(0.55, 0.05, 4000)
    low, high = interval(0.5, samples)
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.005)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.005)
    assert interval(0.99, samples)[1] == 1
    assert interval(1.0, np.ones(10)) == (1.0, 1.0)
    assert np.isnan(interval(np.nan, samples)).all()
    assert np.isnan(interval(0.5, np.full(5, np.nan))).all()
    assert np.isnan(interval(0.5, np.zeros(0))).all()


def test_mean_leaves_out_classes_without_truth():
    x = np.array([[0.5, np.nan], [np.nan, np.nan], [0.7, np.nan]])
    np.testing.assert_allclose(mean_over_classes(x), [0.6, np.nan])
