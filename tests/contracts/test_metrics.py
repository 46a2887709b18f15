"""What every metric promises, whatever it measures. A new metric is covered by one more line in JUDGES.

Each promise is a function of a judge; below, judges with planted bugs show that the promises can be broken.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tercel.core.objects import Objects
from tercel.metrics.ap import BoxReport, judge_boxes

SIZE = (480, 640)
CLASSES = ("a", "b")
Judge = Callable[..., BoxReport]
JUDGES: dict[str, Judge] = {"boxes": judge_boxes}


def scene(seed: int, pictures: int = 8, ignore: bool = True) -> tuple[list[Objects], list[Objects]]:
    """Truth and mediocre detections: moved boxes, misses, false alarms, all with different scores."""
    rng = np.random.default_rng(seed)
    truth, pred = [], []
    for _ in range(pictures):
        n = int(rng.integers(1, 8))
        low = rng.uniform(0, 350, (n, 2))
        rows = np.concatenate([low, low + rng.uniform(8, 120, (n, 2)) * (1, 0.6)], axis=1)
        labels = rng.integers(0, 2, n)
        truth.append(Objects(SIZE, labels, rows, (rng.random(n) < 0.2) & ignore))
        found = rng.random(n) < 0.8
        moved = rows[found] + rng.normal(0, 4, (found.sum(), 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        alarm = rng.uniform(0, 300, (3, 2))
        boxes = np.concatenate([moved, np.concatenate([alarm, alarm + 40], axis=1)])
        scores = np.clip(rng.random(len(boxes)), 0.01, 0.99)
        pred.append(Objects(SIZE, np.r_[labels[found], rng.integers(0, 2, 3)], boxes, scores=scores))
    return truth, pred


def overall(report: BoxReport) -> dict[str, float]:
    return {s.name: s.value for s in report.scores if "class" not in s.where}


def same(a: BoxReport, b: BoxReport, names: tuple[str, ...] = ()) -> None:
    left, right = overall(a), overall(b)
    for name in names or left:
        assert left[name] == pytest.approx(right[name], abs=1e-9, nan_ok=True), name


# -- promises ----------------------------------------------------------------------------------------------------


def truth_as_prediction_scores_one(judge: Judge) -> None:
    truth, _ = scene(0)
    pred = [t[~t.ignore].replace(scores=np.full((~t.ignore).sum(), 0.7)) for t in truth]
    report = judge(truth, pred, CLASSES, resamples=20)
    for s in report.scores:
        small_cap = s.name in ("AR1", "AR10")
        assert math.isnan(s.value) or small_cap or s.value == pytest.approx(1, abs=1e-9), s
        assert math.isnan(s.low) or small_cap or (s.low, s.high) == pytest.approx((1, 1), abs=1e-6), s
    assert all(row["FP"] == row["FN"] == 0 for row in report.table)


def order_does_not_matter(judge: Judge) -> None:
    truth, pred = scene(1)
    ids = [str(7 * i) for i in range(len(truth))]
    first = judge(truth, pred, CLASSES, ids=ids, resamples=5)
    rng = np.random.default_rng(0)
    turn = rng.permutation(len(truth))
    shuffled = [pred[i][rng.permutation(len(pred[i]))] for i in turn]
    again = judge([truth[i] for i in turn], shuffled, CLASSES, ids=[ids[i] for i in turn], resamples=5)
    same(first, again)
    assert [s.low for s in first.scores] == pytest.approx([s.low for s in again.scores], abs=1e-6, nan_ok=True)


def ties_between_pictures_are_settled_by_id(judge: Judge) -> None:
    truth, pred = scene(2)
    tied = [p.replace(scores=np.full(len(p), 0.5)) for p in pred]
    ids = [str(i) for i in range(3, 3 + len(truth))]  # "10" comes after "9"
    back = slice(None, None, -1)
    same(
        judge(truth, tied, CLASSES, ids=ids, resamples=0),
        judge(truth[back], tied[back], CLASSES, ids=ids[back], resamples=0),
    )


def detections_on_ignore_regions_are_free(judge: Judge) -> None:
    truth, pred = scene(3)
    assert sum(t.ignore.sum() for t in truth) > 2
    more = []
    for t, p in zip(truth, pred, strict=True):
        region = t[t.ignore]
        more.append(Objects.concat([p, region.replace(scores=np.full(len(region), 0.95))]))
    before, after = judge(truth, pred, CLASSES, resamples=0), judge(truth, more, CLASSES, resamples=0)
    # All but AR1 and AR10: the cap counts every detection, so a free one takes the only place (COCO's rule).
    same(before, after, ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100", "precision", "recall"))
    for a, b in zip(before.table, after.table, strict=True):
        assert [a[k] for k in ("TP", "FP", "FN")] == [b[k] for k in ("TP", "FP", "FN")]
        assert b["ignored"] > a["ignored"]


def scale_does_not_matter(judge: Judge) -> None:
    truth, pred = scene(4)

    def eighth(o: Objects) -> Objects:  # a power of two: not even rounding changes
        return o.replace(size=(SIZE[0] // 8, SIZE[1] // 8), boxes=o.boxes / 8)

    tiny = judge([eighth(t) for t in truth], [eighth(p) for p in pred], CLASSES, resamples=0)
    same(judge(truth, pred, CLASSES, resamples=0), tiny, ("AP", "AP50", "AP75", "AR1", "AR10", "AR100", "F1"))


def nothing_to_find_is_undefined(judge: Judge) -> None:
    _, pred = scene(5)
    report = judge([Objects.empty(SIZE)] * len(pred), pred, CLASSES, resamples=5)
    assert all(math.isnan(s.value) and math.isnan(s.low) for s in report.scores)


def precision_is_not_recall(judge: Judge) -> None:
    """8 truths, 4 detections, 3 of them right: precision 3/4, recall 3/8, and no other number fits."""
    truth = [Objects(SIZE, np.zeros(8, int), [[40 * i, 0, 40 * i + 30, 30] for i in range(8)])]
    pred = [truth[0][np.arange(4)].replace(scores=[0.9, 0.8, 0.7, 0.95])]
    boxes = pred[0].boxes.copy()
    boxes[3] += 200
    report = judge(truth, [pred[0].replace(boxes=boxes)], CLASSES, resamples=0)
    assert overall(report)["precision"] == pytest.approx(3 / 4)
    assert overall(report)["recall"] == pytest.approx(3 / 8)
    assert overall(report)["AR100"] == pytest.approx(3 / 8)
    assert overall(report)["AP"] == pytest.approx(38 * 0.75 / 101)


def caps_are_reported(judge: Judge) -> None:
    """20 pictures with 250 persons each, all found."""
    grid = np.stack(np.meshgrid(np.arange(25) * 25, np.arange(10) * 45), axis=-1).reshape(-1, 2).astype(float)
    crowd = Objects(SIZE, np.zeros(250, int), np.concatenate([grid, grid + np.array([20, 40])], axis=1))
    truth = [crowd] * 20
    pred = [crowd.replace(scores=np.linspace(0.2, 0.9, 250))] * 20
    ids = [f"p{i}" for i in range(20)]
    full = judge(truth, pred, ["person"], max_detections=(1, 10, 500), ids=ids, resamples=0)
    assert overall(full)["AP"] == pytest.approx(1)
    assert overall(full)["AR500"] == pytest.approx(1)
    assert not [f for f in full.findings if "cap" in f.check]
    cut = judge(truth, pred, ["person"], max_detections=(1, 10, 100), ids=ids, resamples=0)
    assert overall(cut)["AR100"] == pytest.approx(100 / 250)
    assert cut.table[0]["beyond_cap"] == 20 * 150
    warned = [f for f in cut.findings if f.check.startswith("score.cap")]
    assert [f.severity for f in warned] == ["warning", "warning"]
    assert all(f.count == 20 and "p0" in f.evidence[0] and "100" in f.message for f in warned)


PROMISES = (
    truth_as_prediction_scores_one,
    order_does_not_matter,
    ties_between_pictures_are_settled_by_id,
    detections_on_ignore_regions_are_free,
    scale_does_not_matter,
    nothing_to_find_is_undefined,
    precision_is_not_recall,
    caps_are_reported,
)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("judge", JUDGES.values(), ids=list(JUDGES))
def test_promise(judge, promise):
    promise(judge)


coordinates = hnp.arrays(np.float32, (5, 4), elements=st.floats(0, 100, width=32))


@pytest.mark.parametrize("judge", JUDGES.values(), ids=list(JUDGES))
@given(
    coordinates,
    coordinates,
    st.lists(st.integers(0, 1), min_size=5, max_size=5),
    st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_scores_stay_within_bounds(judge, a, b, labels, scores, ignore):
    """Any boxes at all, flat ones and ties included: scores in 0..1, and counts that add up."""
    a, b = (np.concatenate([np.minimum(x[:, :2], x[:, 2:]), np.maximum(x[:, :2], x[:, 2:])], axis=1) for x in (a, b))
    truth = Objects(SIZE, labels, a, ignore)
    pred = Objects(SIZE, labels[::-1], np.concatenate([b[:3], a[3:]]), scores=scores)
    report = judge([truth], [pred], CLASSES, resamples=3)
    assert all(math.isnan(s.value) or 0 <= s.value <= 1 + 1e-9 for s in report.scores)
    for row in report.table:
        assert row["TP"] + row["FN"] == row["GT"]
        assert row["TP"] <= row["GT"]
    assert sum(r["TP"] + r["FP"] + r["ignored"] + r["beyond_cap"] for r in report.table) == len(pred)


# -- planted bugs ------------------------------------------------------------------------------------------------


def _swapped_rates(truth, pred, classes, **options):
    """Truth and predictions change places: precision for recall."""
    turned = [t.replace(scores=np.linspace(0.5, 0.9, len(t))) for t in truth]
    return judge_boxes([p.replace(scores=None) for p in pred], turned, classes, **options)


def _mixed_formats(truth, pred, classes, **options):
    """Detections whose x y w h are read as x1 y1 x2 y2."""

    def misread(o: Objects) -> Objects:
        low, far = o.boxes[:, :2], o.boxes[:, 2:] - o.boxes[:, :2]
        return o.replace(boxes=np.concatenate([np.minimum(low, far), np.maximum(low, far)], axis=1))

    return judge_boxes(truth, [misread(p) for p in pred], classes, **options)


def _unsorted_ids(truth, pred, classes, ids=None, **options):
    return judge_boxes(truth, pred, classes, **options)


def _ignore_as_truth(truth, pred, classes, **options):
    return judge_boxes([t.replace(ignore=np.zeros(len(t), bool)) for t in truth], pred, classes, **options)


def _ignore_deleted(truth, pred, classes, **options):
    return judge_boxes([t[~t.ignore] for t in truth], pred, classes, **options)


def _pixel_added(truth, pred, classes, **options):
    def wider(o: Objects) -> Objects:
        return o.replace(boxes=o.boxes + np.array([0, 0, 1, 1], np.float32))

    return judge_boxes([wider(t) for t in truth], [wider(p) for p in pred], classes, **options)


def _shifted(truth, pred, classes, **options):
    return judge_boxes(truth, [p.replace(boxes=p.boxes + 2) for p in pred], classes, **options)


def _fixed_cap(truth, pred, classes, max_detections=(1, 10, 100), **options):
    return judge_boxes(truth, pred, classes, max_detections=(1, 10, 100), **options)


def _zero_for_undefined(truth, pred, classes, **options):
    report = judge_boxes(truth, pred, classes, **options)
    report.scores[:] = [type(s)(s.name, 0.0 if math.isnan(s.value) else s.value, s.n) for s in report.scores]
    return report


@pytest.mark.parametrize(
    ("bug", "promise"),
    [
        (_swapped_rates, precision_is_not_recall),
        (_mixed_formats, truth_as_prediction_scores_one),
        (_shifted, truth_as_prediction_scores_one),
        (_unsorted_ids, ties_between_pictures_are_settled_by_id),
        (_ignore_as_truth, detections_on_ignore_regions_are_free),
        (_ignore_deleted, detections_on_ignore_regions_are_free),
        (_pixel_added, scale_does_not_matter),
        (_fixed_cap, caps_are_reported),
        (_zero_for_undefined, nothing_to_find_is_undefined),
    ],
    ids=lambda f: f.__name__,
)
def test_promise_catches_a_planted_bug(bug, promise):
    with pytest.raises((AssertionError, KeyError)):
        promise(bug)
