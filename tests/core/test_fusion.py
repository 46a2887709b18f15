"""Weighted boxes fusion against ensemble-boxes, and against what it must mean for oriented boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.finding import TercelError
from tercel.core.fusion import fuse
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.core.rotated import obb_iou

SIZE = (400, 400)


def oriented(obbs: Any, scores: Any, labels: Any = None, **columns: Any) -> Objects:
    rows = canonical_obb(np.asarray(obbs, np.float32).reshape(-1, 5))
    ids = np.zeros(len(rows), np.int64) if labels is None else labels
    return Objects(SIZE, ids, obb_hull(rows), obbs=rows, scores=scores, **columns)


def upright(boxes: Any, scores: Any, labels: Any = None) -> Objects:
    return Objects(SIZE, np.zeros(len(boxes), np.int64) if labels is None else labels, boxes, scores=scores)


def apart(count: int, seed: int) -> np.ndarray:
    """Oriented boxes that do not meet."""
    rng = np.random.default_rng(seed)
    cell = rng.permutation(49)[:count]
    centre = np.stack([cell % 7, cell // 7], axis=1) * 50 + 40
    return np.c_[centre, rng.uniform(5, 40, (count, 2)), rng.uniform(-9, 9, count)]


def test_the_oracle(shared: Path) -> None:
    folder = shared / "oracles/nms"
    models = json.loads((folder / "models.json").read_text())["models"]
    runs = json.loads((folder / "expected.json").read_text())["wbf"]
    parts = [Objects((1, 1), m["labels"], m["boxes"], scores=m["scores"]) for m in models]
    for run in runs:
        found = fuse(
            parts, run["weights"], run["iou_thr"], confidence=run["conf_type"], floor=run["skip_box_thr"]
        )  # fmt: skip
        assert found.labels.tolist() == run["labels"]
        assert found.scores is not None
        np.testing.assert_allclose(found.scores, run["scores"], atol=1e-5)
        np.testing.assert_allclose(found.boxes, run["boxes"], atol=1e-5)
    assert len(runs) == 14


@pytest.mark.parametrize("confidence", ["avg", "max", "box_and_model_avg", "absent_model_aware_avg"])
@given(count=st.integers(1, 12), models=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_identical_predictions_come_back(count: int, models: int, seed: int, confidence: Any) -> None:
    rng = np.random.default_rng(seed)
    heading = rng.uniform(-3, 3, count).astype(np.float32)
    one = oriented(
        apart(count, seed), np.sort(rng.uniform(0.1, 1, count))[::-1], rng.integers(0, 3, count),
        heading=heading, headed=np.ones(count, bool),
    )  # fmt: skip
    found = fuse([one] * models, confidence=confidence)
    assert found.obbs is not None
    assert found.scores is not None
    assert found.heading is not None
    assert one.scores is not None
    np.testing.assert_allclose(found.scores, one.scores, rtol=1e-6)
    assert found.replace(scores=one.scores).same(one)


@given(seed=st.integers(0, 10**6))
def test_oriented_fusion_of_upright_boxes_is_that_of_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts, turned = [], []
    for _ in range(3):
        centre, size = rng.uniform(20, 120, (20, 2)), rng.uniform(10, 40, (20, 2))
        size[:, 0] += size[:, 1]  # no swapping of sides
        scores, labels = rng.uniform(0.1, 0.9, 20), rng.integers(0, 2, 20)
        parts.append(upright(np.c_[centre - size / 2, centre + size / 2], scores, labels))
        turned.append(oriented(np.c_[centre, size, np.zeros(20)], scores, labels))
    plain, found = fuse(parts, [1, 2, 1], 0.4), fuse(turned, [1, 2, 1], 0.4)
    assert plain.labels.tolist() == found.labels.tolist()
    np.testing.assert_allclose(found.boxes, plain.boxes, atol=1e-3)
    assert plain.scores is not None
    np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-6)


def test_the_mean_of_two_angles_crosses_the_border() -> None:
    """89 and -89 degrees differ by 2: their mean is 90, not 0."""
    pair = [[50, 50, 40, 10, np.radians(89)]], [[50, 50, 40, 10, np.radians(-89)]]
    found = fuse([oriented(p, [0.8]) for p in pair])
    assert found.obbs is not None
    np.testing.assert_allclose(found.obbs, [[50, 50, 40, 10, -np.pi / 2]], atol=1e-5)


def test_weights_are_score_times_weight() -> None:
    a, b = [50, 50, 40, 10, 0.0], [52, 50, 44, 10, 0.1]
    found = fuse([oriented([a], [0.8]), oriented([b], [0.4])], [1, 4], 0.5)
    w = np.array([0.8, 1.6]) / 2.4
    assert found.obbs is not None
    assert found.scores is not None
    np.testing.assert_allclose(found.obbs[0, :4], w[0] * np.array(a[:4]) + w[1] * np.array(b[:4]), rtol=1e-6)
    mean = np.angle(w[0] * np.exp(2j * a[4]) + w[1] * np.exp(2j * b[4])) / 2
    assert found.obbs[0, 4] == pytest.approx(mean, rel=1e-5)
    assert found.scores[0] == pytest.approx((0.8 + 1.6) / 2 * 2 / 5)


def test_nearly_square_boxes_average_the_matching_sides() -> None:
    """20 x 19 at 0 and at 90 degrees are nearly one square: the mean is a square of 19.5, not turned by 45."""
    found = fuse([oriented([[50, 50, 20, 19, 0]], [0.6]), oriented([[50, 50, 20, 19, np.pi / 2]], [0.6])])
    expected = np.array([[50, 50, 19.5, 19.5, 0]])
    assert len(found) == 1
    np.testing.assert_allclose(obb_iou(found.obbs, expected), 1, atol=1e-5)


@given(seed=st.integers(0, 10**6), turn=st.floats(-3, 3))
def test_turning_the_picture_turns_the_result(seed: int, turn: float) -> None:
    rng = np.random.default_rng(seed)
    truth = apart(10, seed)
    parts = [truth + rng.normal(0, 0.3, truth.shape) * [1, 1, 1, 1, 0.01] for _ in range(3)]
    scores = [rng.uniform(0.2, 0.9, 10) for _ in parts]
    c, s = np.cos(turn), np.sin(turn)
    moved = [np.c_[(p[:, :2] - 200) @ [[c, s], [-s, c]] + 200, p[:, 2:4], p[:, 4] + turn] for p in parts]
    still = fuse([oriented(p, x) for p, x in zip(parts, scores)])
    found = fuse([oriented(p, x) for p, x in zip(moved, scores)])
    assert still.obbs is not None
    back = np.c_[(still.obbs[:, :2] - 200) @ [[c, s], [-s, c]] + 200, still.obbs[:, 2:4], still.obbs[:, 4] + turn]
    assert len(found) == len(still)
    np.testing.assert_allclose(np.diag(obb_iou(found.obbs, back)), 1, atol=1e-3)


def test_classes_never_meet_and_the_best_comes_first() -> None:
    box = [50, 50, 40, 10, 0.3]
    found = fuse([oriented([box, box], [0.5, 0.9], [0, 1]), oriented([box], [0.5], [0])])
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.scores, [0.5, 0.45])


def test_what_one_of_three_models_saw_counts_a_third() -> None:
    empty = Objects.empty(SIZE)
    assert fuse([oriented([[50, 50, 40, 10, 0]], [0.9]), empty, empty]).scores == pytest.approx([0.3])


def test_a_score_stays_a_probability() -> None:
    """Two boxes of the one heavy model: ensemble-boxes' mean would give 0.9 * 2 * 2 / 3."""
    box = [50, 50, 40, 10, 0]
    found = fuse([oriented([box, box], [0.9, 0.9]), Objects.empty(SIZE)], [2, 1])
    assert found.scores == pytest.approx([1])


def test_headings() -> None:
    box = [50, 50, 40, 10, 0]
    part = [oriented([box], [0.6], heading=[h], headed=[k]) for h, k in ((3.1, 1), (-3.1, 1), (0.0, 0))]
    found = fuse(part)
    assert found.headed is not None
    assert found.heading is not None
    assert found.headed.tolist() == [True]
    assert abs(found.heading[0]) == pytest.approx(np.pi, abs=1e-5)
    opposite = [oriented([box], [0.6], heading=[h], headed=[True]) for h in (0.0, np.pi)]
    headed = fuse(opposite).headed
    assert headed is not None
    assert headed.tolist() == [False]
    never = fuse([part[2], part[2]]).headed
    assert never is not None
    assert never.tolist() == [False]


def test_the_spread_is_that_of_the_best_and_follows_its_sides() -> None:
    one = oriented([[50, 50, 20, 19, 0]], [0.6], spread=[[1, 2, 3, 4]])
    wide = oriented([[50, 50, 22, 20, np.pi / 2]], [0.5], spread=[[5, 6, 7, 8]])
    alike, turned = fuse([one, one]), fuse([one, wide], [1, 1])
    assert alike.spread is not None
    assert turned.spread is not None
    assert turned.obbs is not None
    assert alike.spread.tolist() == [[1, 2, 3, 4]]
    # Means along the best one's axes: 20 and 20.36, so that its width is now the length.
    np.testing.assert_allclose(turned.obbs[0, 2:4], [(0.6 * 19 + 0.5 * 22) / 1.1, 20], rtol=1e-6)
    assert turned.spread.tolist() == [[1, 2, 4, 3]]


def test_nothing_found_is_nothing() -> None:
    empty = Objects.empty(SIZE, like=oriented([[50, 50, 40, 10, 0]], [0.9]))
    assert len(fuse([empty, empty])) == 0
    assert len(fuse([oriented([[50, 50, 40, 10, 0]], [0.2])], floor=0.5)) == 0


def test_scores_of_zero_are_fused_without_dividing_by_them() -> None:
    box = [50, 50, 40, 10, 0]
    found = fuse([oriented([box], [0.0]), oriented([box], [0.0])])
    np.testing.assert_allclose(found.obbs, [box])


def test_an_annotated_area_does_not_survive() -> None:
    box = oriented([[50, 50, 40, 10, 0]], [0.9], area=[17])
    assert fuse([box, box]).area is None
    assert fuse([oriented([[50, 50, 40, 10, 0]], [0.9]), box]).area is None


SOME = oriented([[50, 50, 40, 10, 0]], [0.9])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fuse([]), "0 parts"),
        (lambda: fuse([SOME], [1, 2]), "weight"),
        (lambda: fuse([SOME], [0]), "weight"),
        (lambda: fuse([SOME], [np.nan]), "weight"),
        (lambda: fuse([SOME], iou=2), "IoU"),
        (lambda: fuse([SOME], confidence="mean"), "confidence"),  # type: ignore[arg-type]
        (lambda: fuse([SOME, Objects.empty((9, 9))]), "canvas"),
        (lambda: fuse([SOME, upright([[0, 0, 1, 1]], [0.3])]), "oriented"),
        (lambda: fuse([SOME, SOME.replace(spread=[[1, 1, 1, 1]])]), "spreads"),
        (lambda: fuse([SOME.replace(scores=None)]), "scores"),
        (lambda: fuse([SOME.replace(ignore=[True])]), "ignore"),
        (lambda: fuse([SOME.replace(track=[3])]), "track"),
    ],
)
def test_misuse_is_told(call: Callable[[], object], says: str) -> None:
    with pytest.raises(TercelError, match=says):
        call()
