"""What every metric promises, whatever it measures. A new metric is covered by one more line in JUDGES.

Each promise is a function of a judge; below, judges with planted bugs show that the promises can be broken. Judges of
boxes share the first promises; the judges of balls and events in video, whose truth has another form, the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tercel.core.finding import Score, TercelError
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.core.schema import Schema
from tercel.core.timeline import EMPTY, EventAnswer, EventTruth
from tercel.core.track import Track
from tercel.metrics.ap import BoxReport, judge_boxes
from tercel.metrics.crowd import judge_crowd
from tercel.metrics.events import judge_events
from tercel.metrics.keypoints import judge_keypoints
from tercel.metrics.points import judge_points

SIZE = (480, 640)
CLASSES = ("a", "b")
Judge = Callable[..., BoxReport]
TURN = 0.5  # radians by which the scenes of oriented boxes are turned


def turned(o: Objects, by: float = TURN) -> Objects:
    """The boxes as oriented ones, the whole scene turned about the middle of the canvas."""
    middle = np.array([SIZE[1], SIZE[0]]) / 2
    low, high = o.boxes[:, :2].astype(float), o.boxes[:, 2:].astype(float)
    c, s = np.cos(by), np.sin(by)
    centre = ((low + high) / 2 - middle) @ np.array([[c, s], [-s, c]]) + middle
    obbs = canonical_obb(np.column_stack([centre, high - low, np.full(len(o), by)]))
    return o.replace(obbs=obbs, boxes=obb_hull(obbs))


def judge_oriented(truth: Any, pred: Any, classes: Any, by: float = TURN, **options: Any) -> BoxReport:
    """`judge_boxes` of the same scenes as oriented boxes."""
    sides = [turned(t, by) for t in truth], [turned(p, by) for p in pred]
    return judge_boxes(*sides, classes, geometry="oriented", **options)


def judge_corners(truth: Any, pred: Any, classes: Any, max_detections: Any = (1, 10, 100), **options: Any) -> Any:
    """`judge_keypoints` of the same scenes, points being the corners of the boxes; scores named as for boxes."""
    schema = Schema(tuple(classes), ("nw", "ne", "sw", "se"), (("nw", "ne"), ("sw", "se")), sigmas=(0.1,) * 4)

    def pointed(o: Objects) -> Objects:
        return o.replace(points=o.boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]], visible=np.full((len(o), 4), 2))

    sides = [pointed(t) for t in truth], [pointed(p) for p in pred]
    report = judge_keypoints(*sides, schema, max_detections=max_detections, **options)
    names = {"OKS_AR": f"AR{max_detections[-1]}"}
    renamed = [replace(s, name=names.get(s.name, s.name.removeprefix("OKS_"))) for s in report.scores]
    kept = [s for s in renamed if not {"point", "visibility"} & set(s.where) and "error" not in s.name]
    return replace(report, scores=[s for s in kept if s.name not in ("AR50", "AR75", "swap_rate", "outside_picture")])


def judge_people(truth: Any, pred: Any, classes: Any, max_detections: Any = (1, 10, 100), **options: Any) -> BoxReport:
    """`judge_crowd` of the same scenes: MR-2 as 1 - MR-2, so that 1 is best; AP50 over what perfection reaches; JI
    without its 1e-6 in the denominator."""
    report = judge_crowd(truth, pred, classes, max_detections=max_detections[-1], **options)
    scores = []
    for s in report.scores:
        if s.name == "MR-2":
            scores.append(replace(s, name="1 - MR-2", value=1 - s.value, low=1 - s.high, high=1 - s.low))
        elif s.name == "AP50":
            scores.append(Score(s.name, s.value * s.n / max(s.n - 1, 1), s.n, where=s.where))
        elif s.name == "JI":
            scores.append(replace(s, value=round(s.value, 5)))
        else:
            scores.append(replace(s, name=f"AR{max_detections[-1]}" if s.name == "AR" else s.name))
    scores += [s for s in report.boxes.scores if s.name in ("AR1", "AR10")]
    whole = [s for s in scores if not {"persons", "overlap", "occlusion"} & set(s.where)]
    return replace(report.boxes, scores=whole, findings=report.findings)


JUDGES: dict[str, Judge] = {"boxes": judge_boxes, "oriented": judge_oriented, "crowd": judge_people}


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


def turning_does_not_matter(judge: Judge) -> None:
    """Oriented boxes: the whole scene turned, truth and predictions alike, is worth the same."""
    truth, pred = scene(6)
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AR100", "F1")
    for by in (0.3, 1.2, np.pi / 2, 2.9):
        same(judge(truth, pred, CLASSES, by=0.0, resamples=0), judge(truth, pred, CLASSES, by=by, resamples=0), names)


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


@pytest.mark.parametrize(
    "promise",
    [p for p in PROMISES if p is not detections_on_ignore_regions_are_free],  # it asks for small ones, which OKS lacks
    ids=lambda p: p.__name__,
)
def test_promise_of_points(promise):
    promise(judge_corners)


def test_turning_oriented_boxes():
    turning_does_not_matter(judge_oriented)


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
    fifty = [{k: r[k] for k in ("class", "GT", "TP", "FP", "FN", "ignored")} for r in report.table]
    rows = [r for r in report.thresholds if r["iou"] == 0.5]
    assert [{k: r[k] for k in fifty[0]} for r in rows if r["class"] is not None] == fifty
    for k in ("GT", "TP", "FP", "FN", "ignored"):
        assert next(r[k] for r in rows if r["class"] is None) == sum(r[k] for r in fifty)


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


def _angles_negated(truth, pred, classes, **options):
    """Predictions that count angles the other way round."""
    sides = [turned(t) for t in truth], [turned(p) for p in pred]
    obbs = [canonical_obb(p.obbs * np.array([1, 1, 1, 1, -1])) for p in sides[1]]
    pred = [p.replace(obbs=o) for p, o in zip(sides[1], obbs, strict=True)]
    return judge_boxes(*sides[:1], pred, classes, geometry="oriented", **options)


def _hulls_judged(truth, pred, classes, by=TURN, **options):
    """Axis-aligned hulls in place of the oriented boxes."""
    return judge_oriented(truth, pred, classes, by=by, **options).hulls


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
        (_angles_negated, truth_as_prediction_scores_one),
        (_hulls_judged, turning_does_not_matter),
        (_zero_for_undefined, nothing_to_find_is_undefined),
    ],
    ids=lambda f: f.__name__,
)
def test_promise_catches_a_planted_bug(bug, promise):
    with pytest.raises((AssertionError, KeyError)):
        promise(bug)


# -- video: balls and events --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Video:
    """A judge of things in time, with what the promises must know of its world: functions of truths and answers."""

    judge: Callable[..., Any]
    scene: Callable[[int], tuple[list[Any], list[Any]]]
    perfect: Callable[[Any], Any]  # the answer that repeats a truth
    empty: Callable[[Any], Any]  # a truth in which nothing happens
    silent: Callable[[Any], Any]  # an answer that never says anything
    ones: tuple[str, ...]  # scores that are 1 at perfection
    undefined: tuple[str, ...]  # scores that need something to find
    asymmetric: tuple[str, str]  # a score that misses lower and one that false alarms lower
    extra: Callable[[Any], Any]  # the answer with false alarms added


def ball_scene(seed: int) -> tuple[list[Track], list[Track]]:
    rng = np.random.default_rng(seed)
    truth, pred = [], []
    for k in range(6):
        n = int(rng.integers(20, 60))
        places = rng.uniform(50, 400, (n, 2))
        v = rng.choice([0, 1, 2, 3], n, p=[0.3, 0.5, 0.1, 0.1])
        truth.append(Track(SIZE, np.arange(n) + 10 * k, v, places, name=f"rally{k}"))
        seen = rng.random(n) < 0.7
        moved = places + rng.normal(0, 3, places.shape)
        scores = np.where(seen, rng.integers(1, 6, n) / 5, 0)  # with ties
        pred.append(Track(SIZE, np.arange(n) + 10 * k, seen, moved, scores, name=f"rally{k}"))
    return truth, pred


def ball_extra(p: Track) -> Track:
    """A ball in every frame: where none was found, one in a corner."""
    xy = np.where(p.present[:, None], p.xy, 1.0)
    return p.replace(visibility=np.ones(len(p)), xy=xy, score=np.where(p.present, p.score, 0.9))


def event_scene(seed: int) -> tuple[list[EventTruth], list[EventAnswer]]:
    rng = np.random.default_rng(seed)
    truth, pred = [], []
    for k in range(6):
        frames = np.arange(20, 480, 20) + rng.integers(-4, 5, 23)
        names = rng.choice(["bounce", "net", EMPTY], 23, p=[0.5, 0.3, 0.2])
        events = tuple(Event(int(f), str(n)) for f, n in zip(frames, names, strict=True))
        truth.append(EventTruth(f"game{k}", events, None, 500))
        kept = [e for e in events if e.name != EMPTY and rng.random() < 0.7]
        late = tuple(Event(e.frame + int(rng.integers(-2, 3)), e.name) for e in kept)
        alarms = tuple(Event(int(f), "net") for f in rng.integers(0, 500, 3))
        scores = rng.integers(1, 6, len(late) + 3) / 5
        pred.append(EventAnswer(f"game{k}", late + alarms, scores))
    return truth, pred


def event_perfect(t: EventTruth) -> EventAnswer:
    events = tuple(e for e in t.events if e.name != EMPTY)
    return EventAnswer(t.name, events, np.full(len(events), 0.7))


def event_extra(a: EventAnswer) -> EventAnswer:
    """Strong bounces where nothing is: before the first event."""
    events = tuple(Event(f, "bounce") for f in (0, 1, 2, 3))
    return replace(a, events=a.events + events, scores=np.concatenate([a.scores, np.full(4, 0.99)]))


VIDEO_JUDGES = {
    "points": Video(
        judge_points, ball_scene,
        perfect=lambda t: t.replace(visibility=t.present, score=np.where(t.present, 0.7, 0.0)),
        empty=lambda t: t.replace(visibility=np.zeros(len(t))),
        silent=lambda p: p.replace(visibility=np.zeros(len(p)), score=np.zeros(len(p))),
        ones=("F1", "precision", "recall", "recall_all", "accuracy", "AP", "F1@1px", "F1@20px"),
        undefined=("F1", "recall", "recall_all", "AP", "mean_error", "RMS_error", "F1@5px"),
        asymmetric=("recall", "precision"),
        extra=ball_extra,
    ),
    "events": Video(
        judge_events, event_scene, event_perfect,
        empty=lambda t: replace(t, events=()),
        silent=lambda a: replace(a, events=(), scores=np.zeros(0)),
        ones=("mAP@0", "mAP@1", "mAP@2", "mAP@5"),
        undefined=("mAP@0", "mAP@1", "mAP@2", "mAP@5", "timing_error_frames"),
        asymmetric=("mAP@2", "mAP@2"),
        extra=event_extra,
    ),
}  # fmt: skip


def video_repeating_the_truth_is_perfect(v: Video) -> None:
    truth, _ = v.scene(0)
    report = v.judge(truth, [v.perfect(t) for t in truth], resamples=20)
    for name in v.ones:
        score = next(s for s in report.scores if s.name == name)
        assert (score.value, score.low, score.high) == pytest.approx((1, 1, 1)), name


def video_order_does_not_matter(v: Video) -> None:
    truth, pred = v.scene(1)
    turn = np.random.default_rng(0).permutation(len(truth))
    first = v.judge(truth, pred, resamples=10)
    again = v.judge([truth[i] for i in turn], [pred[i] for i in turn[::-1]], resamples=10)
    assert [s.to_json() for s in first.scores] == [s.to_json() for s in again.scores]


def video_nothing_to_find_is_undefined(v: Video) -> None:
    truth, pred = v.scene(2)
    report = v.judge([v.empty(t) for t in truth], pred, resamples=5)
    for name in v.undefined:
        score = next(s for s in report.scores if s.name == name)
        assert math.isnan(score.value), name
        assert math.isnan(score.low), name


def video_silence_scores_zero(v: Video) -> None:
    truth, pred = v.scene(3)
    report = v.judge(truth, [v.silent(p) for p in pred], resamples=5)
    for name in set(v.ones) - {"precision", "accuracy"}:
        assert report[name] == 0, name


def video_misses_and_false_alarms_are_told_apart(v: Video) -> None:
    """Fewer answers lower the one score, more wrong answers the other."""
    truth, _ = v.scene(4)
    answers = [v.perfect(t) for t in truth]
    missing, alarming = v.asymmetric
    half = v.judge(truth, answers[:3], resamples=0)
    assert half[missing] < 0.7
    loud = v.judge(truth, [v.extra(a) for a in answers], resamples=0)
    assert loud[alarming] < 0.99
    if missing != alarming:
        assert half[alarming] == 1
        assert loud[missing] == 1


def video_missing_answers_are_reported(v: Video) -> None:
    truth, pred = v.scene(5)
    report = v.judge(truth, pred[:-1], resamples=0)
    found = [f for f in report.findings if f.check == "score.rally_without_prediction"]
    assert [f.count for f in found] == [1]
    assert truth[-1].name in found[0].evidence


VIDEO_PROMISES = (
    video_repeating_the_truth_is_perfect,
    video_order_does_not_matter,
    video_nothing_to_find_is_undefined,
    video_silence_scores_zero,
    video_misses_and_false_alarms_are_told_apart,
    video_missing_answers_are_reported,
)


@pytest.mark.parametrize("promise", VIDEO_PROMISES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("video", VIDEO_JUDGES.values(), ids=list(VIDEO_JUDGES))
def test_video_promise(video, promise):
    promise(video)


def _swapped(judge):
    """Truth and answers change places."""

    def bug(truth, pred, **options):
        if isinstance(pred[0], Track):
            turned = [t.replace(score=np.where(t.present, 0.7, 0.0)) for t in truth]
            return judge([p.replace(score=None) for p in pred], turned, **options)
        return judge(
            [EventTruth(p.name, p.events, None, 500) for p in pred], list(map(event_perfect, truth)), **options
        )

    return bug


def _shifted_by_a_frame(judge):
    def bug(truth, pred, **options):
        if isinstance(pred[0], Track):
            return judge(truth, [p.replace(frame=p.frame + 1) for p in pred], **options)
        moved = [replace(p, events=tuple(Event(e.frame + 1, e.name) for e in p.events)) for p in pred]
        return judge(truth, moved, **options)

    return bug


def _by_position(judge):
    """Answers go to the truths by their place in the list instead of by their names."""

    def bug(truth, pred, **options):
        named = [p.replace(name=t.name) if isinstance(p, Track) else replace(p, name=t.name)
                 for t, p in zip(truth, pred, strict=False)]  # fmt: skip
        return judge(truth, named, **options)

    return bug


def _zeros(judge):
    def bug(truth, pred, **options):
        report = judge(truth, pred, **options)
        report.scores[:] = [replace(s, value=0.0 if math.isnan(s.value) else s.value) for s in report.scores]
        return report

    return bug


def _only_answered(judge):
    """Rallies without answers are left out."""

    def bug(truth, pred, **options):
        names = {p.name for p in pred}
        return judge([t for t in truth if t.name in names], pred, **options)

    return bug


@pytest.mark.parametrize("name", VIDEO_JUDGES)
@pytest.mark.parametrize(
    ("plant", "promise"),
    [
        (_swapped, video_misses_and_false_alarms_are_told_apart),
        (_shifted_by_a_frame, video_repeating_the_truth_is_perfect),
        (_by_position, video_order_does_not_matter),
        (_zeros, video_nothing_to_find_is_undefined),
        (_only_answered, video_missing_answers_are_reported),
        (_only_answered, video_misses_and_false_alarms_are_told_apart),
    ],
    ids=lambda f: f.__name__,
)
def test_video_promise_catches_a_planted_bug(name, plant, promise):
    video = VIDEO_JUDGES[name]
    with pytest.raises((AssertionError, KeyError, TercelError)):
        promise(replace(video, judge=plant(video.judge)))
