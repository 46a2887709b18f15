"""Masked, moved and reversed balls: all frames alike, in the right order, and the truth follows."""

from __future__ import annotations

import numpy as np
import pytest

from tercel.config import Augment
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.data.ball_augment import change, check

SIZE = (96, 160)
NONE = Augment(mosaic=0, mask_ball=0, paste_ball=0, reverse=0)
PLACES = np.array([[40.5, 30.5], [60.5, 34.5], [82.5, 41.5]], np.float32)


def window(places=PLACES):
    """A grey ramp with a white 3 x 3 ball in each frame, and its truth."""
    frames = np.empty((len(places), *SIZE, 3), np.uint8)
    frames[...] = (40 + np.arange(SIZE[1]) // 2)[None, None, :, None]
    for f, (x, y) in zip(frames, places, strict=True):
        if np.isfinite(x):
            f[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 255
    rows = np.flatnonzero(np.isfinite(places[:, 0]))
    xy = places[rows]
    truth = Objects(
        SIZE, np.zeros(len(rows)), np.concatenate([xy, xy], 1), points=xy[:, None], visible=np.full((len(rows), 1), 2),
        frame=rows,
    )  # fmt: skip
    return frames, truth


def brightest(frame):
    """Centre of what is nearly white, or None."""
    y, x = np.nonzero(frame[..., 0] > 200)
    return None if not len(x) else (x.mean() + 0.5, y.mean() + 0.5)


def always(**what):
    return Augment(**{"mosaic": 0} | what)


def test_nothing_changes_when_all_is_off():
    frames, truth = window()
    before = frames.copy()
    after, events = change(frames, truth, (Event(1, "bounce"),), NONE, np.random.default_rng(0))
    assert after.same(truth)
    assert events == (Event(1, "bounce"),)
    assert (frames == before).all()


def test_a_masked_ball_is_gone_from_all_frames_and_from_the_truth():
    frames, truth = window()
    after, events = change(frames, truth, (Event(1, "bounce"),), always(mask_ball=1), np.random.default_rng(0))
    assert len(after) == 0
    assert events == ()
    assert all(brightest(f) is None for f in frames)
    ramp, _ = window(np.full((1, 2), np.nan, np.float32))
    assert np.abs(frames.astype(int) - ramp).max() <= 2  # the other frames show what lies behind it


def test_a_masked_ball_that_hardly_moves_takes_the_colour_around_it():
    frames, truth = window(PLACES[:1].repeat(3, 0))
    change(frames, truth, (), always(mask_ball=1), np.random.default_rng(0))
    assert all(brightest(f) is None for f in frames)


def test_a_moved_ball_keeps_its_real_steps_in_their_order():
    for seed in range(20):
        frames, truth = window()
        after, _ = change(frames, truth, (), always(paste_ball=1), np.random.default_rng(seed))
        assert after.points is not None
        steps = np.diff(after.points[:, 0], axis=0)
        assert np.allclose(steps, np.diff(PLACES, axis=0))
        for f, (x, y) in zip(frames, after.points[:, 0], strict=True):
            seen = brightest(f)
            assert seen is not None
            assert abs(seen[0] - x) < 1
            assert abs(seen[1] - y) < 1
    assert not np.allclose(after.points[:, 0], PLACES)


def test_a_moved_ball_loses_its_events():
    frames, truth = window()
    _, events = change(frames, truth, (Event(1, "bounce"),), always(paste_ball=1), np.random.default_rng(1))
    assert events == ()


def test_frames_without_a_ball_stay_as_they_are_when_the_ball_moves():
    places = PLACES.copy()
    places[1] = np.nan
    frames, truth = window(places)
    before = frames[1].copy()
    after, _ = change(frames, truth, (), always(paste_ball=1), np.random.default_rng(3))
    assert after.frame is not None
    assert after.frame.tolist() == [0, 2]
    assert (frames[1] == before).all()


def test_a_reversed_clip_has_the_last_frame_first_with_its_truth_and_events():
    frames, truth = window()
    before = frames.copy()
    after, events = change(
        frames, truth, (Event(0, "hit"), Event(-1, "bounce")), always(reverse=1), np.random.default_rng(0)
    )
    assert (frames == before[::-1]).all()
    assert after.frame is not None
    assert after.points is not None
    for f, (x, y) in zip(after.frame, after.points[:, 0], strict=True):
        seen = brightest(frames[f])
        assert seen == pytest.approx((x, y), abs=0.6)
    assert events == (Event(2, "hit"), Event(3, "bounce"))


def test_wrong_combinations_are_refused():
    with pytest.raises(TercelError, match="net cannot run backwards"):
        check(always(reverse=0.5), ("bounce", "net"))
    with pytest.raises(TercelError, match="mosaic"):
        check(Augment(mosaic=0.5), ())
    check(always(reverse=0.5), ("bounce", "hit"))
