"""A paired comparison: equal is equal, a difference is found, and resamples are those of a slow loop."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tercel.core.finding import TercelError
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.metrics.ap import judge_boxes
from tercel.metrics.compare import compare, difference, pools, sample
from tercel.metrics.stats import mean_over_classes, picture_weights

SIZE = (480, 640)
CLASSES = ("a", "b")


def scene(seed: int, pictures: int = 30, noise: float = 3.0) -> tuple[list[Objects], list[Objects]]:
    """Truth, and detections with noise that differs from picture to picture."""
    rng = np.random.default_rng(seed)
    truth, pred = [], []
    for _ in range(pictures):
        n = int(rng.integers(3, 9))
        corner = np.c_[rng.permutation(9)[:n] * 65, rng.permutation(9)[:n] * 45].astype(float)
        boxes = np.c_[corner, corner + rng.uniform(20, 40, (n, 2))]
        labels = rng.integers(0, 2, n)
        truth.append(Objects(SIZE, labels, boxes))
        hard = rng.uniform(0.2, 2) * noise
        moved = boxes + np.repeat(rng.normal(0, hard, (n, 2)), 2, axis=0).reshape(n, 4)
        pred.append(Objects(SIZE, labels, moved, scores=rng.uniform(0.3, 0.9, n)))
    return truth, pred


def worse(pred: list[Objects], shift: float = 3.0) -> list[Objects]:
    return [p.replace(boxes=p.boxes + np.float32(shift)) for p in pred]


def row(c, metric: str = "AP", of: str | None = None):
    return next(r for r in c.table if r["metric"] == metric and r["class"] == of)


def test_equal_predictions_do_not_differ():
    truth, pred = scene(0)
    c = compare(truth, pred, pred, CLASSES, resamples=50)
    assert all(r["difference"] == 0 and r["low"] == 0 and r["high"] == 0 and r["p"] == 1 for r in c.table)
    assert not any(r["change"] for r in c.pictures)


def test_a_difference_is_found_and_its_sign_says_who_is_better():
    truth, pred = scene(1)
    c = compare(truth, worse(pred), pred, CLASSES)
    assert row(c)["low"] > 0.02
    assert row(c)["p"] < 0.01
    back = compare(truth, pred, worse(pred), CLASSES)
    assert row(back)["difference"] == pytest.approx(-row(c)["difference"])
    assert row(back)["high"] == pytest.approx(-row(c)["low"], abs=1e-9)
    of = {s.where["of"]: s for s in c.scores if s.name == "AP" and "class" not in s.where}
    assert of["B - A"].value == pytest.approx(of["B"].value - of["A"].value)
    assert of["A"].low < of["A"].value < of["A"].high
    json.dumps(c.to_json(), allow_nan=False)


def test_values_are_those_of_the_judge():
    truth, pred = scene(2)
    c = compare(truth, worse(pred), pred, CLASSES, resamples=2)
    for side, p in (("A", worse(pred)), ("B", pred)):
        report = judge_boxes(truth, p, CLASSES, resamples=0)
        for metric in ("AP", "AP50", "AP75"):
            assert row(c, metric)[side] == pytest.approx(report[metric], abs=1e-6)


def test_resamples_are_those_of_a_slow_loop():
    """Judge lists in which pictures really occur several times: the same draws on both sides."""
    truth, pred = scene(3, pictures=8)
    other = worse(pred)
    weights = picture_weights(8, 4, seed=0)
    _, (t, a, b) = pools(truth, pred, other)
    got = [mean_over_classes(sample(t, p, 2, weights).named()["AP"]) for p in (a, b)]
    for r in range(5):
        rows = np.repeat(np.arange(8), weights[:, r].astype(int)).tolist()
        for p, x in ((pred, got[0]), (other, got[1])):
            slow = judge_boxes([truth[i] for i in rows], [p[i] for i in rows], CLASSES, resamples=0)["AP"]
            assert x[r] == pytest.approx(slow, abs=1e-5)


def test_pairing_makes_the_interval_narrow():
    """Pictures differ much, A and B little: unpaired intervals would hide the difference."""
    truth, pred = scene(4, pictures=60, noise=6)
    c = compare(truth, pred, worse(pred, 1.0), CLASSES)
    a = next(s for s in c.scores if s.name == "AP" and s.where == {"of": "A"})
    assert row(c)["high"] - row(c)["low"] < 0.7 * (a.high - a.low)


def test_difference_by_hand():
    a = np.array([0.5, 0.4, 0.6, 0.5, 0.5])
    value, low, high, p = difference(a, a + np.array([0.1, 0.1, 0.1, 0.1, 0.1]))
    assert (value, low, high) == pytest.approx((0.1, 0.1, 0.1))
    assert p == pytest.approx(2 / 5)  # 4 draws can say no more
    # Draws -.1, .1, .1, .3 around .1: one of four lies beyond 0.
    assert difference(np.zeros(5), np.array([0.1, -0.1, 0.1, 0.1, 0.3]))[3] == pytest.approx(2 * 2 / 5)
    assert all(math.isnan(x) for x in difference(np.full(5, math.nan), a))


def test_the_picture_that_changed_most_comes_first():
    truth, pred = scene(5, noise=0.3)
    lost = list(pred)
    lost[7] = Objects.empty(SIZE)
    lost[3] = pred[3][np.arange(len(pred[3])) > 0]
    ids = [f"p{i}" for i in range(len(truth))]
    c = compare(truth, pred, lost, CLASSES, ids=ids, resamples=2)
    assert [r["picture"] for r in c.pictures[:2]] == ["p7", "p3"]
    assert c.pictures[0]["mistakes_B"] == len(truth[7])
    assert c.pictures[1]["change"] < 0


def test_undefined_is_nan():
    truth, pred = scene(6)
    c = compare(truth, pred, pred, (*CLASSES, "c"), resamples=5)
    assert math.isnan(row(c, of="c")["A"])
    assert math.isnan(row(c, of="c")["p"])
    assert row(c, of="c")["n"] == 0


def test_caps_and_few_pictures_are_findings():
    truth, pred = scene(7, pictures=4)
    c = compare(truth, pred, pred, CLASSES, cap=1, resamples=2)
    assert [f.check for f in c.findings] == ["compare.cap", "compare.cap", "compare.few_pictures"]


def test_what_does_not_fit_is_refused():
    truth, pred = scene(8, pictures=3)
    obbs = canonical_obb(np.array([[50.0, 50, 30, 20, 0.4]]))
    turned = [Objects(SIZE, [0], obb_hull(obbs), obbs=obbs, scores=[0.5])] * 3
    for bad, message in (
        (pred[:2], "not the same pictures"),
        ([p.replace(size=(10, 10)) for p in pred], "10x10 px"),
        ([p.replace(scores=None) for p in pred], "no scores"),
        (turned, "a hull is none"),
    ):
        with pytest.raises(TercelError, match=message):
            compare(truth, pred, bad, CLASSES)
    with pytest.raises(TercelError, match="resamples = 0"):
        compare(truth, pred, pred, CLASSES, resamples=0)
    assert compare(truth, pred, turned, CLASSES, geometry="boxes", resamples=2).rule["geometry"] == "boxes"
