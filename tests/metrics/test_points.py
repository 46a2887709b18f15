"""Judging a ball: the oracle's counts, a slow loop in plain Python, cases by hand, and what is refused."""

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
from tercel.core.track import Track
from tercel.metrics.points import judge_points
from tercel.metrics.rules import ALL, RULES, Tolerance

SIZE = (720, 1280)
KEYS = {"TP": "TP", "FP1": "FP_wrong", "FP2": "FP_ghost", "FN": "FN", "TN": "TN", "accuracy": "accuracy",
        "precision": "precision", "recall": "recall", "f1": "F1", "ap": "AP", "rmse": "RMS_error"}  # fmt: skip


def read(path: Path, scores: bool) -> Track:
    """A csv of the oracle, without any of our readers."""
    with open(path) as f:
        rows = list(csv.DictReader(f))
    return Track(
        SIZE,
        [int(r["Frame"]) for r in rows],
        [int(r["Visibility"]) for r in rows],
        [[float(r["X"]) + 0.5, float(r["Y"]) + 0.5] for r in rows],
        [float(r["Score"]) for r in rows] if scores else None,
        name=path.stem,
    )


@pytest.fixture(scope="module")
def oracle(shared: Path) -> tuple[list[Track], list[Track], dict]:
    folder = shared / "oracles/ball"
    truth, pred = (
        [read(p, side == "pred") for p in sorted((folder / side).glob("*.csv"))] for side in ("truth", "pred")
    )
    return truth, pred, json.loads((folder / "expected.json").read_text())


def agree(want: dict, row: dict) -> None:
    for theirs, ours in KEYS.items():
        exact = theirs in ("TP", "FP1", "FP2", "FN", "TN")
        tolerance = 0 if exact else 1e-6 if theirs == "rmse" else 1e-9
        assert row[ours] == pytest.approx(want[theirs], abs=tolerance), (row["rule"], theirs)


def test_oracle_every_rule(oracle):
    truth, pred, want = oracle
    report = judge_points(truth, pred, resamples=0)
    assert [r["rule"] for r in report.table] == list(ALL)
    for row in report.table:
        agree(want["rules"][row["rule"]], row)
    scores = {(s.name, s.where["rule"]): s.value for s in report.scores if set(s.where) == {"rule"}}
    for row in report.table:
        assert all(scores[ours, row["rule"]] == row[ours] for ours in KEYS.values())


def test_oracle_every_rally(oracle):
    truth, pred, want = oracle
    rows = judge_points(truth, pred, resamples=0).rallies
    assert len(rows) == 6 * 7
    for row in rows:
        agree(want["per_rally"][row["rally"]][row["rule"]], row)


def test_oracle_tolerance_curve(oracle):
    truth, pred, want = oracle
    curve = {r["tolerance"]: r for r in judge_points(truth, pred, resamples=0).curve}
    assert list(curve) == list(range(1, 21))
    for k, tp, wrong in want["rules"]["wasb_tolerance_sweep"]:
        assert (curve[k]["TP"], curve[k]["FP_wrong"]) == (tp, wrong), k


def test_oracle_mean_distance(oracle):
    truth, pred, want = oracle
    report = judge_points(truth, pred, rules=["pingpong"], resamples=0)
    assert round(report["mean_error"], 3) == want["rules"]["pingpong"]["mean_distance_visible_both"]


def test_a_tolerance_of_ones_own_gives_published_rules_again(oracle):
    truth, pred, want = oracle
    for text, rule in (("4px@net", "tracknet_v2_v3"), ("<4px", "wasb_occluded_visible"), ("<3px@square", "pingpong")):
        report = judge_points(truth, pred, rules=["wasb"], tolerance=Tolerance.parse(text), resamples=0)
        assert [r["rule"] for r in report.table][1] == "wasb"
        agree(want["rules"][rule], report.table[0])
        assert report["F1"] == pytest.approx(want["rules"][rule]["f1"])


# -- by hand ------------------------------------------------------------------------------------------------------


def track(places, scores=None, name="r", size=SIZE, filled=None, first=0) -> Track:
    """Places (x, y) or None, one per frame, as pixel indices; a third number is the visibility."""
    v = [0 if p is None else p[2] if len(p) > 2 else 1 for p in places]
    xy = [(math.nan, math.nan) if p is None else (p[0] + 0.5, p[1] + 0.5) for p in places]
    return Track(size, np.arange(len(places)) + first, v, np.reshape(xy, (-1, 2)), scores, filled, name=name)


def test_the_five_outcomes():
    truth = track([(100, 100), (100, 100), None, (100, 100), None])
    pred = track([(100, 103), (100, 120), (5, 5), None, None], [0.9, 0.8, 0.7, 0, 0])
    r = judge_points([truth], [pred], rules=["wasb"], resamples=0)
    assert {k: r[k] for k in ("TP", "FP_wrong", "FP_ghost", "FN", "TN")} == dict.fromkeys(
        ("TP", "FP_wrong", "FP_ghost", "FN", "TN"), 1
    )
    assert (r["precision"], r["recall"], r["recall_all"]) == (pytest.approx(1 / 3), 1 / 2, pytest.approx(1 / 3))
    assert (r["accuracy"], r["accuracy_all_absent"]) == (2 / 5, 2 / 5)
    assert r["F1"] == 2 / (2 + 2 + 1)
    assert (r["mean_error"], r["RMS_error"]) == (11.5, pytest.approx(math.sqrt((9 + 400) / 2)))
    assert r["AP"] == 1 / 2, "one hit at rank 1 of TP + FN = 2"
    assert r.outcomes["wasb"].tolist() == [1, 2, 3, 4, 0]
    assert r.distance[:2].tolist() == [3, 20]
    assert np.isnan(r.distance[2:]).all()


def test_a_distance_of_exactly_the_tolerance():
    """4 px at 512x288 is 10 px of a frame of 1280x720: <= takes it, < does not."""
    truth, pred = [track([(100, 100)])], [track([(110, 100)], [1.0])]
    r = judge_points(truth, pred, resamples=0)
    hits = {row["rule"]: row["TP"] for row in r.table}
    assert hits == {"tracknet_v2_v3": 1, "tracknet_v5": 0, "tracknet_v5_class_default": 1, "wasb": 0,
                    "wasb_occluded_visible": 0, "totnet": 1, "pingpong": 0}  # fmt: skip


def test_net_coordinates_are_cut_off_as_the_published_codes_do():
    """int(12 * .4) = 4 and int(24.9 * .4) = 9: five apart, where the true distance is 5.16."""
    truth, pred = [track([(12, 0)])], [track([(24.9, 0)], [1.0])]
    assert judge_points(truth, pred, rules=["totnet"], resamples=0)["TP"] == 1
    scaled = judge_points(truth, pred, rules=["wasb"], tolerance=Tolerance.parse("5px@288x512"), resamples=0)
    assert scaled["TP"] == 0


def test_wasb_counts_occluded_balls_as_absent():
    truth = [track([(50, 50, 3), (50, 50, 3), (50, 50, 2)])]
    pred = [track([(50, 50), None, (50, 50)], [0.9, 0, 0.8])]
    r = judge_points(truth, pred, rules=["wasb", "wasb_occluded_visible"], resamples=0)
    assert [[row[k] for k in ("TP", "FP_ghost", "FN", "TN")] for row in r.table] == [[1, 1, 0, 1], [2, 0, 1, 0]]
    assert "score.classes_left_out" in {f.check for f in r.findings}
    by_class = {(x["rule"], x["visibility"]): x for x in r.visibility}
    assert by_class["wasb_occluded_visible", "occluded"]["recall_all"] == 1 / 2
    assert by_class["wasb", "occluded"]["accuracy"] == 1 / 2


def test_undefined_is_nan():
    empty = track([None] * 3)
    r = judge_points([empty], [track([(9, 9), None, None], [0.5, 0, 0])], rules=["wasb"], resamples=0)
    assert all(math.isnan(r[k]) for k in ("F1", "recall", "recall_all", "AP", "mean_error", "RMS_error"))
    assert (r["precision"], r["accuracy"], r["accuracy_all_absent"]) == (0, pytest.approx(2 / 3), 1)
    silent = judge_points([track([(9, 9)])], [track([None], [0])], rules=["wasb"], resamples=0)
    assert math.isnan(silent["precision"])
    assert (silent["F1"], silent["recall"], silent["AP"]) == (0, 0, 0)
    assert "score.no_detections" in {f.check for f in silent.findings}
    json.dumps(r.to_json(), allow_nan=False)


def test_filled_points_are_scored_apart():
    truth = [track([(50, 50)] * 4 + [None])]
    pred = [track([(50, 50), (50, 51), (50, 90), None, (1, 1)], [0.9, 0.1, 0.1, 0, 0.1],
                  filled=[False, True, True, False, True])]  # fmt: skip
    r = judge_points(truth, pred, rules=["wasb"], resamples=0)
    only, without = r.filled
    assert [only[k] for k in ("filled", "TP", "FP_wrong", "FP_ghost", "mean_error")] == ["only", 1, 1, 1, 20.5]
    assert [without[k] for k in ("TP", "FP_wrong", "FP_ghost", "FN", "TN")] == [1, 0, 0, 3, 1]
    assert (r["TP"], r["FP_wrong"], r["FN"]) == (2, 1, 1)
    parts = {s.where["filled"]: s.value for s in r.scores if s.name == "precision" and "filled" in s.where}
    assert parts == {"only": pytest.approx(1 / 3), "without": 1}


def test_a_tolerance_in_percent_of_the_ball():
    truth, pred = [track([(50, 50), (50, 50)])], [track([(54, 50), (54, 50)], [1, 1])]
    half = Tolerance.parse("50%")
    judge = lambda **o: judge_points(truth, pred, tolerance=half, resamples=0, **o)  # noqa: E731
    assert judge(diameter=8.0)["TP"] == 2
    assert judge(diameter=7.9)["TP"] == 0
    r = judge(diameter={"r": np.array([8.0, 7.0])})
    assert (r["TP"], r["mean_error"]) == (1, 4)
    assert "score.ball_size" in {f.check for f in judge(diameter={"r": np.array([8.0, np.nan])}).findings}
    with pytest.raises(TercelError, match="needs the ball's size"):
        judge()


# -- matching frames ----------------------------------------------------------------------------------------------


def test_frames_are_matched_by_number():
    truth = [track([(10, 10), (20, 20), (30, 30)], first=100)]
    pred = [Track(SIZE, [101, 102, 103], [1, 1, 1], [[20.5, 20.5], [30.5, 30.5], [40.5, 40.5]], [1, 1, 1], name="r",
                  source="r.csv")]  # fmt: skip
    r = judge_points(truth, pred, rules=["wasb"], resamples=0)
    assert (r["TP"], r["FN"], r["FP_wrong"]) == (2, 1, 0)
    found = {f.check: f for f in r.findings}
    assert found["score.frames_beyond_truth"].severity == "error"
    assert found["score.frames_beyond_truth"].evidence == ("r.csv: frame 103",)
    assert found["score.frames_without_prediction"].evidence == ("r.csv: frame 100",)


def test_a_rally_without_prediction_counts_as_nothing_found():
    truth = [track([(10, 10)] * 3, name="a"), track([(10, 10), None], name="b")]
    r = judge_points(truth, [track([(10, 10)] * 3, [1, 1, 1], name="a")], rules=["wasb"], resamples=0)
    assert (r["TP"], r["FN"], r["TN"]) == (3, 1, 1)
    assert "score.rally_without_prediction" in {f.check for f in r.findings}


def test_names_with_and_without_folders():
    truth = [track([(10, 10)], name="match1/1_01"), track([(20, 20)], name="match2/1_02")]
    pred = [track([(20, 20)], [1], name="1_02_ball"), track([(10, 10)], [1], name="1_01")]
    assert judge_points(truth, pred, rules=["wasb"], resamples=0)["TP"] == 2


@pytest.mark.parametrize(
    ("pred", "words"),
    [
        ([track([(1, 1)], [1], name="rally_11"), track([(1, 1)], [1], name="x")], "no rally 'rally_11'"),
        ([track([(1, 1)], [1], name="rally_1"), track([(1, 1)], [1], name="rally_1")], "occurs twice"),
        ([track([(1, 1)], [1], name="a/rally_1"), track([(1, 1)], [1], name="rally_1")], "two predictions"),
        ([track([(1, 1)], [1], name="rally_1", size=(288, 512))], "720x1280"),
    ],
)
def test_what_does_not_fit_is_refused(pred, words):
    truth = [track([(1, 1)], name="rally_1"), track([(1, 1)], name="rally_2")]
    with pytest.raises(TercelError, match=words) as e:
        judge_points(truth, pred, resamples=0)
    assert "rally_11" not in words or "did you mean 'rally_1'" in e.value.remedy


@pytest.mark.parametrize(
    ("text", "words"),
    [("5", "not understood"), ("5px@", "not understood"), ("5px@nett", "no frame"), ("0px", "accepts nothing"),
     ("50%@net", "original only")],
)  # fmt: skip
def test_tolerances_that_are_refused(text, words):
    with pytest.raises(TercelError, match=words):
        Tolerance.parse(text)


def test_an_unknown_rule_is_refused():
    with pytest.raises(TercelError, match="no rule 'tracknet'") as e:
        judge_points([track([None])], [track([None], [0])], rules=["tracknet"])
    assert "tracknet_v" in e.value.remedy


def test_predictions_in_another_frame_order_or_numbering_are_noticed():
    rng = np.random.default_rng(3)
    path = np.stack([400 + 12 * np.arange(60), 200 + 200 * np.sin(np.arange(60) / 9)], axis=1)
    truth = [track([tuple(p) for p in path])]
    near = path + rng.normal(0, 1, path.shape)
    cases = {
        "": near,
        "512x288": near * 0.4,
        "x and y swapped": near[:, ::-1],
        "1 frame later": np.roll(near, -1, axis=0),
    }
    for words, places in cases.items():
        pred = [track([tuple(p) for p in places], np.full(60, 0.9))]
        misread = [f for f in judge_points(truth, pred, resamples=0).findings if f.check == "score.misread"]
        assert bool(misread) == bool(words), words
        assert all(words in f.message for f in misread)
    shares = [track([tuple(p / (1280, 720)) for p in near], np.full(60, 0.9))]
    assert "score.normalised" in {f.check for f in judge_points(truth, shares, resamples=0).findings}


# -- intervals ----------------------------------------------------------------------------------------------------


def noisy(seed: int, rallies: int, frames: int = 60, spread: float = 0.3) -> tuple[list[Track], list[Track]]:
    rng = np.random.default_rng(seed)
    truth, pred = [], []
    for k in range(rallies):
        places = rng.uniform(100, 600, (frames, 2))
        v = rng.choice([0, 1, 2, 3], frames, p=[0.1, 0.6, 0.2, 0.1])
        truth.append(Track(SIZE, np.arange(frames), v, places, name=f"r{k:02d}"))
        seen = rng.random(frames) < 0.9 - spread * rng.random()
        xy = places + rng.normal(0, 1 + 4 * rng.random(), places.shape)
        pred.append(Track(SIZE, np.arange(frames), seen, xy, np.where(seen, rng.random(frames), 0), name=f"r{k:02d}"))
    return truth, pred


def slow_bootstrap(truth, pred, rule, name, draws):
    """The score of every draw of rallies, by judging copies of them."""
    for chosen in draws:
        t = [truth[i].replace(name=f"{n:03d}") for n, i in enumerate(chosen)]
        p = [pred[i].replace(name=f"{n:03d}") for n, i in enumerate(chosen)]
        yield judge_points(t, p, rules=[rule], resamples=0)[name]


@pytest.mark.parametrize("name", ["F1", "precision", "accuracy", "recall_all", "mean_error", "RMS_error"])
def test_the_interval_is_that_of_resampled_rallies(name):
    truth, pred = noisy(5, 7)
    r = judge_points(truth, pred, rules=["wasb"], resamples=40, seed=9)
    score = next(s for s in r.scores if s.name == name and set(s.where) == {"rule"})
    draws = np.random.default_rng(9).integers(0, 7, (40, 7))
    values = np.array(list(slow_bootstrap(truth, pred, "wasb", name, draws)))
    low, high = np.quantile(values, [0.025, 0.975]) - (values.mean() - score.value)
    assert (score.low, score.high) == (pytest.approx(min(low, score.value)), pytest.approx(max(high, score.value)))


def test_ap_draws_are_close_to_judging_copies():
    """Copies of a detection share their score; apart from such ties the weighted AP is that of the copies."""
    truth, pred = noisy(6, 7)
    r = judge_points(truth, pred, rules=["wasb"], resamples=40, seed=2)
    score = next(s for s in r.scores if s.name == "AP" and set(s.where) == {"rule"})
    draws = np.random.default_rng(2).integers(0, 7, (40, 7))
    values = np.array(list(slow_bootstrap(truth, pred, "wasb", "AP", draws)))
    low, high = np.quantile(values, [0.025, 0.975]) - (values.mean() - score.value)
    assert (score.low, score.high) == (pytest.approx(low, abs=5e-3), pytest.approx(high, abs=5e-3))


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """With 20 rallies of different difficulty, of 60 samples, at least 80 % of the intervals hold the true F1."""
    long = judge_points(*noisy(10_000, 600), rules=["wasb"], resamples=0)["F1"]
    held = 0
    for seed in range(60):
        r = judge_points(*noisy(seed, 20), rules=["wasb"], resamples=100)
        f1 = next(s for s in r.scores if s.name == "F1")
        held += f1.low <= long <= f1.high
    assert 48 <= held <= 60


def test_one_rally_says_so():
    truth, pred = noisy(1, 1, frames=100)
    r = judge_points(truth, pred, rules=["wasb"])
    assert r.rule["resampled"] == "blocks of 10 frames"
    assert "score.one_rally" in {f.check for f in r.findings}
    assert 0 < r.scores[0].low < r.scores[0].value < r.scores[0].high < 1
    short = judge_points([t[:12] for t in truth], [p[:12] for p in pred], rules=["wasb"])
    assert math.isnan(short.scores[0].low)
    assert "no intervals" in next(f.message for f in short.findings if f.check == "score.one_rally")


# -- against a slow loop ------------------------------------------------------------------------------------------


def slow(truth: Track, pred: Track, name: str) -> dict[str, float]:
    """One rally under one rule, frame by frame, as the published codes read."""
    rule = RULES[name]
    n = dict.fromkeys(("TP", "FP_wrong", "FP_ghost", "FN", "TN"), 0)
    h, w = truth.size
    ranked = []
    for i in range(len(truth)):
        ball, seen = int(truth.visibility[i]) in rule.visible, bool(pred.visibility[i])
        if not ball or not seen:
            what = "FN" if ball else "FP_ghost" if seen else "TN"
        else:
            a, b = ([float(v) - 0.5 for v in t.xy[i]] for t in (truth, pred))
            if rule.frame != "original":
                height = 288 if rule.frame == "net" else 512
                a, b = ([int(x * 512 / w), int(y * height / h)] for x, y in (a, b))
            d = math.dist(a, b)
            what = "TP" if (d <= rule.tolerance if rule.inclusive else d < rule.tolerance) else "FP_wrong"
        n[what] += 1
        if seen:
            ranked.append((-float(pred.score[i]), what == "TP"))
    hits, area = 0, 0.0
    for rank, (_, hit) in enumerate(sorted(ranked, key=lambda r: r[0]), 1):
        hits += hit
        area += hit * hits / rank
    positives = n["TP"] + n["FN"]
    return {**n, "AP": area / positives if positives else math.nan}


whole = st.integers(0, 60)


@given(
    st.lists(st.tuples(whole, whole, st.integers(0, 3), whole, whole, st.booleans()), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_every_rule_equals_the_slow_loop(rows, seed):
    order = np.random.default_rng(seed).permutation(len(rows))
    scores = (order + 1) / (len(rows) + 1)  # no two alike
    truth = track([None if v == 0 else (x, y, v) for x, y, v, *_ in rows], size=(72, 128))
    pred = track([(x, y) if seen else None for *_, x, y, seen in rows], size=(72, 128))
    pred = pred.replace(score=np.where(pred.present, scores, 0))
    report = judge_points([truth], [pred], resamples=0)
    for row in report.table:
        for key, value in slow(truth, pred, row["rule"]).items():
            assert row[key] == pytest.approx(value, nan_ok=True), (row["rule"], key)
        assert row["TP"] + row["FP_wrong"] + row["FN"] == row["balls"]
        assert row["TP"] + row["FP_wrong"] + row["FP_ghost"] == pred.present.sum()
        assert sum(row[k] for k in ("TP", "FP_wrong", "FP_ghost", "FN", "TN")) == len(rows)
    for part in (report.visibility, report.rallies):
        for row in report.table:
            mine = [x for x in part if x["rule"] == row["rule"]]
            assert all(sum(x[k] for x in mine) == row[k] for k in ("frames", "TP", "FP_wrong", "FP_ghost", "FN", "TN"))


def test_a_truth_without_empty_frames_says_so() -> None:
    ball = Track((288, 512), [0, 1], [1, 1], [[5.5, 5.5], [9.5, 9.5]], name="a")
    empty = Track((288, 512), [0, 1], [1, 0], [[5.5, 5.5], [0, 0]], name="a")
    found = Track((288, 512), [0, 1], [1, 1], [[5.5, 5.5], [9.5, 9.5]], [0.9, 0.9], name="a")

    def checks(truth: Track) -> set[str]:
        return {f.check for f in judge_points([truth], [found], resamples=0).findings}

    assert "score.no_absent" in checks(ball)
    assert "score.no_absent" not in checks(empty)
