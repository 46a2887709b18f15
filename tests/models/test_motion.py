"""The motion model against dense least squares, on simulated flights, and on real rallies that were spoilt."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tercel.config import Ball
from tercel.core.track import Track
from tercel.models import hypotheses
from tercel.models.motion import Candidates, Live, best_track, smooth_track, track_of

SIZE = (720, 1280)
SETTINGS = Ball(gate=3.5, jerk=4.0)
Floats = NDArray[np.float64]


def candidates(xy: Any, score: Any = 0.9, frames: Any = None, size: tuple[int, int] = SIZE) -> Candidates:
    """One candidate per frame where `xy` is not NaN."""
    xy = np.asarray(xy, np.float64).reshape(-1, 1, 2)
    score = np.where(np.isfinite(xy).all(-1), score, 0.0)
    return Candidates(np.arange(len(xy)) if frames is None else np.asarray(frames), xy, score, size)


def line(n: int, start: tuple[float, float] = (300, 200), speed: tuple[float, float] = (9, 4)) -> Floats:
    return np.array(start) + np.arange(n)[:, None] * np.array(speed, np.float64)


def same(a: Track, b: Track) -> bool:
    names = ("frame", "visibility", "xy", "score", "filled", "sigma")
    return all(np.array_equal(getattr(a, n), getattr(b, n), equal_nan=n in {"xy", "sigma"}) for n in names)


# -- small cases by hand ------------------------------------------------------------------------------------------


def test_best_track_takes_the_best_candidate_at_the_threshold() -> None:
    xy = [[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 9], [np.nan, np.nan]], [[np.nan, np.nan]] * 2]
    score = [[0.2, 0.9], [0.5, 0.1], [0.49, 0], [0, 0]]
    track = best_track(Candidates(np.array([4, 5, 7, 8]), np.array(xy), np.array(score), (10, 20)), 0.5, name="a")
    assert track.frame.tolist() == [4, 5, 7, 8]
    assert track.visibility.tolist() == [1, 1, 0, 0]
    assert track.xy[:2].tolist() == [[3, 4], [5, 6]]
    assert track.score is not None
    assert track.score.tolist() == [0.9, 0.5, 0, 0]
    assert (track.name, track.size) == ("a", (10, 20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": np.zeros((2, 2))}, r"xy \[N,K,2\]"),
        ({"frame": np.array([3, 3, 4])}, "rise"),
        ({"score": np.array([[0.5], [1.5], [0]])}, "probabilities"),
        ({"xy": np.array([[[1.0, 2]], [[np.nan, 2]], [[0, 0]]])}, "finite"),
    ],
)
def test_candidates_are_checked(change: dict[str, Any], message: str) -> None:
    good = {"frame": np.arange(3), "xy": np.zeros((3, 1, 2)), "score": np.full((3, 1), 0.5), "size": SIZE}
    Candidates(**good)
    with pytest.raises(ValueError, match=message):
        Candidates(**good | change)


@pytest.mark.parametrize("both_ways", [True, False])
def test_no_frames_and_no_candidates(both_ways: bool) -> None:
    assert len(smooth_track(candidates(np.zeros((0, 2))), SETTINGS, both_ways=both_ways)) == 0
    track = smooth_track(candidates(np.full((6, 2), np.nan)), SETTINGS, both_ways=both_ways, name="x")
    assert not track.present.any()
    assert track.name == "x"


@pytest.mark.parametrize("hole", range(1, 8))
def test_gaps_up_to_the_limit_are_filled_and_marked(hole: int) -> None:
    truth = line(30)
    seen = truth.copy()
    seen[12 : 12 + hole] = np.nan
    seen[:3] = seen[-3:] = np.nan
    track = smooth_track(candidates(seen), SETTINGS, both_ways=True)
    assert track.filled is not None
    assert track.sigma is not None
    assert track.score is not None
    inside = np.zeros(30, bool)
    inside[12 : 12 + hole] = True
    assert not track.present[:3].any()  # nothing before the start or after the end
    assert not track.present[-3:].any()
    assert track.present[inside].all() == (hole <= 5)
    assert track.filled.tolist() == (inside & track.present).tolist()
    if hole <= 5:
        assert np.abs(track.xy[inside] - truth[inside]).max() < 0.1
        assert (track.score[inside] == 0).all()
        assert hole < 3 or track.sigma[inside].max() > track.sigma[11]  # less sure than what is seen
    supported = track.present & ~track.filled
    assert np.array_equal(track.xy[supported], seen[supported])


@pytest.mark.parametrize("both_ways", [True, False])
def test_a_start_needs_confirmation(both_ways: bool) -> None:
    xy = np.full((20, 2), np.nan)
    xy[5] = 100, 100
    c = candidates(xy, 0.99)
    assert best_track(c, 0.5).present.sum() == 1
    assert not smooth_track(c, SETTINGS, both_ways=both_ways).present.any()


def outlier_clip() -> tuple[Floats, Candidates]:
    """A ball that is missed in frame 10, where something far away scores higher than the ball ever does."""
    truth = line(20)
    c = candidates(truth, 0.8)
    xy, score = c.xy.copy(), c.score.copy()
    xy[10], score[10] = (900, 600), 0.99
    return truth, Candidates(c.frame, xy, score, SIZE)


def test_a_jump_is_rejected_and_the_gap_filled() -> None:
    truth, c = outlier_clip()
    track = smooth_track(c, SETTINGS, both_ways=True)
    assert np.hypot(*(best_track(c, 0.5).xy - truth).T)[10] > 500
    assert np.hypot(*(track.xy - truth).T).max() < 1
    assert track.filled is not None
    assert np.flatnonzero(track.filled).tolist() == [10]
    live = smooth_track(c, SETTINGS, both_ways=False)
    assert np.hypot(*(live.xy - truth).T)[live.present].max() < 5


def stroke() -> Floats:
    """Full speed to the right, from one frame to the next full speed to the left and up."""
    there = line(15, (200, 500), (30, 5))
    return np.concatenate([there, there[-1] + np.arange(1, 16)[:, None] * np.array([-35.0, -12])])


@pytest.mark.parametrize("both_ways", [True, False])
def test_a_stroke_does_not_cost_the_track(both_ways: bool) -> None:
    track = smooth_track(candidates(stroke()), SETTINGS, both_ways=both_ways)
    assert track.present[2:].all()
    assert np.array_equal(track.xy[2:], stroke()[2:])


def test_without_manoeuvres_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypotheses, "MANOEUVRE", -1e9)
    track = smooth_track(candidates(stroke()), SETTINGS, both_ways=False)
    assert not track.present[2:].all() or not np.array_equal(track.xy[2:], stroke()[2:])


def test_a_stroke_within_a_gap_is_found_where_the_paths_meet() -> None:
    truth = stroke()
    seen = truth.copy()
    seen[12:16] = np.nan
    track = smooth_track(candidates(seen), SETTINGS, both_ways=True)
    assert np.hypot(*(track.xy - truth).T)[12:16].max() < 12  # a straight line between the ends is 60 px off


def test_a_weak_candidate_on_the_path_counts_and_one_beside_it_does_not() -> None:
    truth = line(20)
    c = candidates(truth)
    score = c.score.copy()
    score[8:10] = 0.2
    track = smooth_track(Candidates(c.frame, c.xy, score, SIZE), SETTINGS, both_ways=True)
    assert track.score is not None
    assert track.score[8:10].tolist() == [0.2, 0.2]
    xy = c.xy.copy()
    xy[8:10] += 60
    track = smooth_track(Candidates(c.frame, xy, score, SIZE), SETTINGS, both_ways=True)
    assert track.filled is not None
    assert track.filled[8:10].all()


def test_what_leaves_the_picture_is_not_filled_in() -> None:
    truth = line(16, (1180, 300), (12, 0))  # beyond the right edge from frame 9 on
    seen = np.where(truth[:, :1] < 1270, truth, np.nan)
    for both_ways in (True, False):
        track = smooth_track(candidates(seen), SETTINGS, both_ways=both_ways)
        assert not track.present[9:].any()


# -- Live -----------------------------------------------------------------------------------------------------------


def noisy_clip(rng: np.random.Generator, n: int = 120, k: int = 4) -> Candidates:
    """Flights with strokes, misses and clutter; nothing about it has to be realistic."""
    at, speed = rng.uniform(200, 600, 2), rng.normal(0, 15, 2)
    xy, score = np.full((n, k, 2), np.nan), np.zeros((n, k))
    for i in range(n):
        if rng.random() < 0.04:
            speed = rng.normal(0, 25, 2)
        at = at + speed
        for j in range(k):
            if rng.random() < (0.85 if j == 0 else 0.2):
                xy[i, j] = at + rng.normal(0, 1.5, 2) if j == 0 else rng.uniform((0, 0), (1280, 720))
                score[i, j] = rng.uniform(0.3 if j else 0.5, 1)
    order = np.argsort(-score, axis=1, kind="stable")
    return Candidates(
        np.arange(n), np.take_along_axis(xy, order[..., None], 1), np.take_along_axis(score, order, 1), SIZE
    )


@given(st.integers(0, 10**6))
def test_live_is_the_forward_pass_and_knows_no_future(seed: int) -> None:
    c = noisy_clip(np.random.default_rng(seed), 60)
    whole = smooth_track(c, SETTINGS, both_ways=False)
    live = Live(SETTINGS, SIZE)
    rows = [live.push(int(f), xy, s) for f, xy, s in zip(c.frame, c.xy, c.score, strict=True)]
    assert same(track_of(rows, SIZE), whole)
    part = Candidates(c.frame[:35], c.xy[:35], c.score[:35], SIZE)
    assert same(smooth_track(part, SETTINGS, both_ways=False), whole[:35])


@given(st.integers(0, 10**6), st.booleans())
def test_properties_on_anything(seed: int, both_ways: bool) -> None:
    rng = np.random.default_rng(seed)
    c = noisy_clip(rng, 80)
    track = smooth_track(c, SETTINGS, both_ways=both_ways)
    assert track.filled is not None
    assert track.sigma is not None
    assert track.score is not None
    assert np.array_equal(track.frame, c.frame)
    for i in np.flatnonzero(track.present & ~track.filled):  # a seen point is one of the candidates
        at = np.flatnonzero((c.xy[i] == track.xy[i]).all(-1))
        assert track.score[i] in c.score[i, at]
    assert (track.sigma[track.present] > 0).all()
    assert np.isnan(track.sigma[~track.present]).all()
    runs = "".join("f" if f else "." for f in track.filled)
    assert max(map(len, runs.split(".")), default=0) <= SETTINGS.gap
    # The order of a frame's candidates says nothing.
    turned = Candidates(c.frame, c.xy[:, ::-1], c.score[:, ::-1], SIZE)
    assert same(smooth_track(turned, SETTINGS, both_ways=both_ways), track)


def test_frames_left_out_are_frames_without_candidates() -> None:
    c = noisy_clip(np.random.default_rng(5))
    keep = np.random.default_rng(6).random(len(c)) < 0.7
    xy, score = c.xy.copy(), c.score.copy()
    xy[~keep], score[~keep] = np.nan, 0
    for both_ways in (True, False):
        full = smooth_track(Candidates(c.frame, xy, score, SIZE), SETTINGS, both_ways=both_ways)
        part = Candidates(c.frame[keep], c.xy[keep], c.score[keep], SIZE)
        assert same(smooth_track(part, SETTINGS, both_ways=both_ways), full[keep])


def test_live_refuses_to_go_back() -> None:
    live = Live(SETTINGS, SIZE)
    live.push(5, np.zeros((1, 2)), np.ones(1))
    with pytest.raises(ValueError, match="rise"):
        live.push(5, np.zeros((1, 2)), np.ones(1))


def test_settings_are_in_px_of_1280() -> None:
    c = noisy_clip(np.random.default_rng(7))
    small, large = (
        smooth_track(Candidates(c.frame, c.xy * s, c.score, (int(720 * s), int(1280 * s))), SETTINGS, both_ways=True)
        for s in (0.5, 2)
    )
    assert np.array_equal(small.visibility, large.visibility)
    assert np.allclose(small.xy * 4, large.xy, atol=1e-6, equal_nan=True)


# -- the filter's numbers -----------------------------------------------------------------------------------------


def test_gaps_are_filled_as_dense_least_squares_would() -> None:
    """The joint Gaussian of all states, conditioned on what was seen, by one linear solve in plain NumPy."""
    n, jerk, noise = 24, 3.0, 1.5 / 0.9
    rng = np.random.default_rng(1)
    t = np.arange(n)[:, None]
    truth = np.array([200.0, 600]) + t * [14, -22] + t**2 * [0.1, 0.5]
    seen = truth + rng.normal(0, 1, truth.shape)
    hole = [9, 10, 11, 17]
    seen[hole] = np.nan
    step = np.array([[1, 1, 0.5], [0, 1, 1], [0, 0, 1]])
    jerks = jerk**2 * np.array([[1 / 20, 1 / 8, 1 / 6], [1 / 8, 1 / 3, 1 / 2], [1 / 6, 1 / 2, 1]])
    information, value = np.zeros((3 * n, 3 * n)), np.zeros((3 * n, 2))
    information[1, 1], information[2, 2] = 1 / 40.0**2, 1 / 6.0**2  # what the model assumes of a start
    for i in range(n):
        if i:
            both = np.hstack([-step, np.eye(3)])
            information[3 * i - 3 : 3 * i + 3, 3 * i - 3 : 3 * i + 3] += both.T @ np.linalg.inv(jerks) @ both
        if i not in hole:
            information[3 * i, 3 * i] += 1 / noise**2
            value[3 * i] += seen[i] / noise**2
    covariance = np.linalg.inv(information)
    place = (covariance @ value)[::3]
    track = smooth_track(candidates(seen, 0.9), Ball(jerk=jerk), both_ways=True)
    assert track.filled is not None
    assert track.sigma is not None
    assert np.flatnonzero(track.filled).tolist() == hole
    assert np.abs(track.xy[hole] - place[hole]).max() < 1e-3
    assert np.abs(track.sigma[hole] / np.sqrt(np.diag(covariance)[::3][hole]) - 1).max() < 1e-4


def flight(rng: np.random.Generator, n: int, jerk: float) -> Floats:
    """Constant acceleration plus white jerk, exactly as the model has it."""
    root = jerk * np.linalg.cholesky(hypotheses._JERK)
    state = np.array([[640, 1500], rng.normal(0, 5, 2), rng.normal(0, 0.3, 2)])
    out = [state[0]]
    for _ in range(n - 1):
        state = hypotheses.STEP @ state + root @ rng.normal(size=(3, 2))
        out.append(state[0])
    return np.array(out)


@pytest.mark.parametrize(("jerk", "low", "high"), [(0.3, 0.92, 0.98), (0.0, 0.95, 1.0)])
def test_sigma_says_how_far_off_filled_points_are(jerk: float, low: float, high: float) -> None:
    """95 % of a two-dimensional Gaussian lie within 2.4477 standard deviations per axis (chi-square, two degrees)."""
    rng = np.random.default_rng(2)
    ratios = []
    for _ in range(150):
        truth = flight(rng, 26, jerk)
        seen = truth + rng.normal(0, 1.5, truth.shape)
        for start in (7, 15):
            seen[start : start + int(rng.integers(1, 6))] = np.nan
        track = smooth_track(candidates(seen, 1.0, size=(3000, 1280)), Ball(jerk=0.3), both_ways=True)
        assert track.filled is not None
        assert track.sigma is not None
        distance = np.hypot(*(track.xy - truth).T)
        ratios += (distance[track.filled] / track.sigma[track.filled]).tolist()
    assert len(ratios) > 500
    assert low <= np.mean(np.array(ratios) < 2.4477) <= high


# -- real rallies ---------------------------------------------------------------------------------------------------


def read_rally(path: Path) -> tuple[NDArray[np.bool_], Floats]:
    with path.open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    xy = np.array([[float(r["X"]), float(r["Y"])] for r in rows]) + 0.5
    return np.array([r["Visibility"] != "0" for r in rows]), xy


def spoilt(visible: NDArray[np.bool_], xy: Floats, rng: np.random.Generator) -> Candidates:
    """Noise of 1.5 px, 10 % of balls missed, in 5 % of the frames something elsewhere that scores as the ball does."""
    n = len(xy)
    places, score = np.full((n, 5, 2), np.nan), np.zeros((n, 5))
    found = visible & (rng.random(n) >= 0.1)
    places[found, 0] = xy[found] + rng.normal(0, 1.5, (found.sum(), 2))
    score[found, 0] = rng.uniform(0.6, 1, found.sum())
    for j, (share, low, high) in enumerate([(0.05, 0.6, 1), (0.3, 0, 0.4), (0.3, 0, 0.4)], 1):
        also = rng.random(n) < share
        places[also, j] = rng.uniform((0, 0), (1280, 720), (also.sum(), 2))
        score[also, j] = rng.uniform(low, high, also.sum())
    order = np.argsort(-score, axis=1, kind="stable")
    places, score = np.take_along_axis(places, order[..., None], 1), np.take_along_axis(score, order, 1)
    return Candidates(np.arange(n), places, score, SIZE)


def counts(track: Track, visible: NDArray[np.bool_], xy: Floats) -> NDArray[np.int64]:
    """Right, wrong (elsewhere, or no ball), visible; within 4 px at 512 x 288, which is 10 px at 1280 x 720."""
    right = track.present & visible & (np.hypot(*(track.xy - xy).T) <= 10)
    return np.array([right.sum(), (track.present & ~right).sum(), visible.sum()])


def test_real_rallies_have_more_right_and_fewer_wrong_points(shared: Path) -> None:
    files = sorted((shared / "data/tracknetv3-corrected-labels").glob("*/corrected_csv/*.csv"))
    assert len(files) == 29
    rng = np.random.default_rng(3)
    total = {name: np.zeros(3, np.int64) for name in ("best", "both", "live")}
    errors: list[float] = []
    for path in files[1::3]:
        visible, xy = read_rally(path)
        c = spoilt(visible, xy, rng)
        tracks = {
            "best": best_track(c, 0.5),
            "both": smooth_track(c, SETTINGS, both_ways=True),
            "live": smooth_track(c, SETTINGS, both_ways=False),
        }
        for name, track in tracks.items():
            total[name] += counts(track, visible, xy)
        both = tracks["both"]
        assert both.filled is not None
        errors += np.hypot(*(both.xy - xy).T)[both.filled & visible].tolist()
    recall = {name: right / balls for name, (right, _, balls) in total.items()}
    wrong = {name: int(t[1]) for name, t in total.items()}
    assert recall["best"] < 0.91
    assert recall["both"] > 0.97
    assert recall["live"] > recall["best"] + 0.03
    assert wrong["both"] < wrong["best"] / 2
    assert len(errors) > 200
    assert np.median(errors) < 4
