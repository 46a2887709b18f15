"""Judging events: the oracle's windows, scores and matches, cases by hand, and what is refused."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.finding import TercelError
from tercel.core.record import Event
from tercel.core.timeline import EMPTY, EventAnswer, EventTruth
from tercel.metrics.events import judge_events
from tercel.metrics.spotting import listed, match, ranked, thin

GAMES = ("test_1", "test_2", "test_3")


@pytest.fixture(scope="module")
def oracle(shared: Path):
    """Truth, probabilities, lists and what is expected, without our readers."""
    folder = shared / "oracles/events"
    truth, dense, lists = [], [], []
    for name in GAMES:
        marks = json.loads((folder / name / "events_markup.json").read_text())
        balls = json.loads((folder / name / "ball_markup.json").read_text())
        shown = np.array(sorted(int(k) for k, p in balls.items() if p["x"] >= 0), np.int64)
        with open(folder / name / "probabilities.csv") as f:
            rows = [[float(v) for v in r] for r in list(csv.reader(f))[1:]]
        truth.append(EventTruth(name, tuple(Event(int(k), v) for k, v in marks.items()), shown, len(rows)))
        p = np.array(rows)
        dense.append(EventAnswer(name, frame=p[:, 0], probability=p[:, 1:], classes=("bounce", "net")))
    for video in json.loads((folder / "predicted_events.json").read_text()):
        events = tuple(Event(e["frame"], e["label"]) for e in video["events"])
        lists.append(EventAnswer(video["video"], events, np.array([e["score"] for e in video["events"]])))
    return truth, dense, lists, json.loads((folder / "expected.json").read_text())


@pytest.mark.parametrize("kind", ["smooth", "plain"])
def test_oracle_windows(oracle, kind):
    truth, dense, _, want = oracle
    report = judge_events(truth, dense, resamples=0)
    want = want[f"ttnet_{kind}"]
    row = next(r for r in report.windows if r["windows"] == kind)
    assert row["n"] == want["samples_n"]
    for ours, theirs in (
        ("PCE", "PCE"),
        ("PCE_strict", "PCE_strict"),
        ("SPCE@.25", "SPCE_025"),
        ("SPCE@.5", "SPCE_050"),
    ):
        assert row[ours] == pytest.approx(want[theirs], abs=1e-9)
    assert report.samples[kind] == want["samples"]


def test_oracle_average_precision(oracle):
    truth, dense, lists, want = oracle
    named = {0: "dense", 1: "dense_nms_1", 5: "dense_nms_5", None: "sparse"}
    rows = [r for pred in (dense, lists) for r in judge_events(truth, pred, resamples=0).spotting]
    assert len(rows) == 4 * 3
    for row in rows:
        for k in (0, 1, 2, 5):
            value = want["mAP"][named[row.get("nms")]][f"k{k}"][row["class"] or "mAP"]
            assert row[f"AP@{k}"] == pytest.approx(value, abs=1e-9)


def test_oracle_matches(oracle):
    truth, _, lists, want = oracle
    report = judge_events(truth, lists, resamples=0)
    assert report.matches == want["mAP"]["matches_sparse_k5"]
    assert {r["class"]: r["n"] for r in report.spotting if r["class"]} == want["mAP"]["true_events"]


# -- by hand ------------------------------------------------------------------------------------------------------


def game(*events: tuple[int, str], name: str = "g", frames: int = 100, shown=None) -> EventTruth:
    return EventTruth(name, tuple(Event(f, n) for f, n in events), shown, frames)


def said(*events: tuple[int, str, float], name: str = "g") -> EventAnswer:
    return EventAnswer(name, tuple(Event(f, n) for f, n, _ in events), np.array([s for *_, s in events]))


def curve(p: dict[int, tuple[float, float]], name: str = "g", frames: int = 100) -> EventAnswer:
    """Probabilities of bounce and net that are 0 where nothing is said."""
    table = np.zeros((frames, 2))
    for frame, row in p.items():
        table[frame] = row
    return EventAnswer(name, frame=np.arange(frames), probability=table, classes=("bounce", "net"))


def test_pce_takes_bounce_for_net_and_strict_does_not():
    r = judge_events([game((20, "bounce"))], [curve({20: (0.1, 0.9)})], resamples=0)
    plain = next(x for x in r.windows if x["windows"] == "plain")
    assert (plain["PCE"], plain["PCE_strict"], plain["SPCE@.5"]) == (1, 0, 0)
    assert {(c["true"], c["predicted"]): c["count"] for c in r.confusion if c["count"]} == {("bounce", "net"): 1}


def test_a_perfect_soft_answer():
    soft = {20 + n: (max(0.0, math.cos(n * math.pi / 8)), 0) for n in range(-4, 5)}
    r = judge_events([game((20, "bounce"), (60, EMPTY))], [curve(soft)], resamples=0)
    assert [r[k] for k in ("PCE", "PCE_strict", "SPCE@.25", "SPCE@.5", "mAP@0")] == [1] * 5
    assert [row["n"] for row in r.windows] == [10, 2]
    assert r["false_alarm_rate"] == 0
    assert {(c["of"], c["true"], c["predicted"]): c["count"] for c in r.confusion if c["count"]} == {
        ("windows", "bounce", "bounce"): 1, ("windows", "nothing", "nothing"): 1, ("events", "bounce", "bounce"): 1,
    }  # fmt: skip


def test_windows_that_end_without_a_ball_are_left_out():
    """The window on frame 20 ends at 24; those on 16 ... 24 end at 20 ... 28."""
    truth = [game((20, "bounce"), shown=np.array([20, 24]))]
    r = judge_events(truth, [curve({20: (0.9, 0)})], resamples=0)
    assert [[s[2] for s in r.samples[k]] for k in ("smooth", "plain")] == [[16, 20], [20]]
    edge = judge_events([game((2, "bounce"), (97, "net"))], [curve({})], resamples=0)
    assert [[s[1:3] for s in edge.samples[k]] for k in ("smooth", "plain")] == [
        [[2, 4], [2, 5], [2, 6], [97, 93], [97, 94], [97, 95]], [],
    ]  # fmt: skip
    assert "score.windows_left_out" in {f.check for f in edge.findings}


def test_map_by_hand():
    """Ranks: right, wrong, right. At the two right ones precision is 1 and 2/3: (1 + 2/3) / 3 true ones."""
    truth = [game((10, "bounce"), (30, "bounce"), (50, "bounce"))]
    pred = [said((10, "bounce", 0.9), (70, "bounce", 0.8), (31, "bounce", 0.7))]
    r = judge_events(truth, pred, resamples=0, fps=100)
    assert r["mAP@0"] == pytest.approx(1 / 3)
    assert r["mAP@1"] == pytest.approx((1 + 2 / 3) / 3)
    assert (r["timing_error_frames"], r["timing_error_ms"], r["timing_bias_ms"]) == (0.5, 5, 5)
    assert {(c["true"], c["predicted"]): c["count"] for c in r.confusion if c["count"]} == {
        ("bounce", "bounce"): 2, ("bounce", "nothing"): 1, ("nothing", "bounce"): 1,
    }  # fmt: skip
    # 3 x 11 frames lie within 5 of an event, so 67 are background; one alarm in them.
    assert r["false_alarms_per_1000_frames"] == pytest.approx(1000 / 67)
    assert r["false_alarms_per_minute"] == pytest.approx(60 * 100 / 67)


def test_no_events_is_undefined():
    r = judge_events([game((30, EMPTY))], [said((3, "bounce", 0.9))], resamples=5)
    assert math.isnan(r["mAP@2"])
    assert "score.class_without_truth" in {f.check for f in r.findings}
    json.dumps(r.to_json(), allow_nan=False)


def test_without_a_frame_rate_there_are_no_milliseconds():
    r = judge_events([game((30, "net"))], [said((30, "net", 0.9))], resamples=0)
    assert r["timing_error_frames"] == 0
    with pytest.raises(KeyError, match="timing_bias_frames"):
        r["timing_error_ms"]


def test_intervals_come_from_games():
    rng = np.random.default_rng(0)
    truth, pred = [], []
    for k in range(12):
        frames = np.arange(20, 980, 40)
        truth.append(game(*((int(f), "bounce") for f in frames), name=f"g{k}", frames=1000))
        right = frames + rng.integers(-3, 4, len(frames))
        keep = rng.random(len(frames)) < 0.5 + 0.5 * rng.random()
        pred.append(
            said(
                *((int(f), "bounce", float(s)) for f, s in zip(right[keep], rng.random(keep.sum()), strict=True)),
                name=f"g{k}",
            )
        )
    r = judge_events(truth, pred)
    score = next(s for s in r.scores if s.name == "mAP@2")
    assert score.low < score.value < score.high
    alone = judge_events(truth[:1], pred[:1])
    assert math.isnan(alone.scores[0].low)
    assert "score.one_rally" in {f.check for f in alone.findings}


def test_missing_rows_and_games_are_counted():
    truth = [game((20, "bounce"), name="a"), game((20, "bounce"), name="b")]
    short = EventAnswer("a", frame=np.arange(20), probability=np.zeros((20, 2)), classes=("bounce", "net"))
    found = {f.check: f.count for f in judge_events(truth, [short], resamples=0).findings}
    assert found["score.frames_without_prediction"] == 5 + 9
    assert found["score.rally_without_prediction"] == 1
    late = judge_events([game((20, "net"))], [said((100, "net", 0.5), (20, "net", 0.9))], resamples=0)
    assert {f.check: f.count for f in late.findings}["score.frames_beyond_truth"] == 1


@pytest.mark.parametrize(
    ("pred", "words"),
    [
        ([said(name="g_1"), said(name="c")], "no game 'g_1'"),
        ([said(name="g1"), said(name="g1")], "occurs twice"),
        ([said((1, "net", 0.5), name="g1"), curve({}, name="g2")], "probabilities per frame"),
        ([], "0 with predictions"),
    ],
)
def test_what_does_not_fit_is_refused(pred, words):
    with pytest.raises(TercelError, match=words) as e:
        judge_events([game((1, "net"), name="g1"), game((1, "net"), name="g2")], pred, resamples=0)
    assert "g_1" not in words or "did you mean 'g1'" in e.value.remedy


# -- against slow loops -------------------------------------------------------------------------------------------

points = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), max_size=8)


@given(points, points, st.integers(0, 5))
def test_matching_equals_the_slow_loop(true, pred, within):
    t = listed([(g, f, 1.0) for g, f in true])
    p = ranked(listed([(g, f, 1 - i / 10) for i, (g, f) in enumerate(pred)]))
    free = set(range(len(true)))
    want = []
    for g, f in zip(p.game, p.frame, strict=True):
        near = sorted((abs(t.frame[i] - f), t.frame[i], i) for i in free if t.game[i] == g)
        hit = bool(near) and near[0][0] <= within
        want.append(near[0][2] if hit else -1)
        free -= {want[-1]}
    found = match(t, p, within).tolist()
    assert [i < 0 for i in found] == [i < 0 for i in want]
    assert [int(t.frame[i]) for i in found if i >= 0] == [int(t.frame[i]) for i in want if i >= 0]
    assert len({i for i in found if i >= 0}) == sum(i >= 0 for i in found), "an event was taken twice"


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20), st.integers(0, 4)), max_size=10), st.integers(0, 4))
def test_thinning_equals_the_slow_loop(rows, window):
    events = listed([(g, f, s / 4) for g, f, s in rows])
    want = [
        (g, f, s / 4)
        for g, f, s in rows
        if not any(g == h and abs(f - e) <= window and r > s for h, e, r in rows) or window == 0
    ]
    kept = thin(events, window)
    assert list(zip(kept.game.tolist(), kept.frame.tolist(), kept.score.tolist(), strict=True)) == want
