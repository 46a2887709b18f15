"""Track: validated at birth, and the same ball as Objects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.objects import Objects
from tercel.core.track import ABSENT, BLURRED, CLEAR, OCCLUDED, Track

SIZE = (720, 1280)


def track(**changes):
    columns = {
        "frame": [3, 4, 6],
        "visibility": [CLEAR, ABSENT, OCCLUDED],
        "xy": [[10.5, 20.5], [0, 0], [30.25, 500.5]],
    }
    return Track(SIZE, **columns | changes)


def test_an_absent_ball_has_no_place_whatever_the_file_said():
    t = track()
    assert np.isnan(t.xy[1]).all()
    assert t.present.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame": [3, 3, 6]}, "rise"),
        ({"visibility": [1, 0]}, "shape"),
        ({"visibility": [1, 0, 4]}, "0, 1, 2 or 3"),
        ({"xy": [[np.nan, 1], [0, 0], [1, 1]]}, "frame 3"),
        ({"score": [0.5, 0, 1.5]}, "0..1"),
        ({"size": (0, 5)}, "positive"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    size = changes.pop("size", SIZE)
    with pytest.raises(ValueError, match=message):
        Track(size, **{k: getattr(track(), k) for k in ("frame", "visibility", "xy")} | changes)


def test_it_cannot_be_changed_and_does_not_share_memory():
    places = np.array([[10.5, 20.5], [0, 0], [30.25, 500.5]])
    t = track(xy=places)
    places[0] = 99
    assert t.xy[0].tolist() == [10.5, 20.5]
    with pytest.raises(ValueError, match="read-only"):
        t.xy[0] = 1


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1280), st.floats(0, 720)), min_size=1, max_size=30))
def test_there_and_back_as_objects(rows):
    visibility = [v for v, _, _ in rows]
    t = Track(SIZE, np.arange(len(rows)) * 2 + 5, visibility, [[x, y] for _, x, y in rows])
    again = Track.from_objects(t.objects(), t.frame)
    assert again.visibility.tolist() == visibility
    assert np.allclose(again.xy, t.xy, atol=1e-4, equal_nan=True)
    assert len(t.objects()) == sum(v > 0 for v in visibility)


def test_flags_say_what_coco_says_of_them():
    flags = Track(SIZE, [0, 1, 2], [CLEAR, BLURRED, OCCLUDED], np.ones((3, 2))).objects().visible
    assert flags[:, 0].tolist() == [2, 3, 1]  # 1 hidden, 2 visible: COCO's; 3 is seen, blurred


def test_of_several_balls_in_a_frame_the_surest_counts():
    xy = np.array([[1, 1], [2, 2], [3, 3]], np.float32)
    balls = Objects(
        SIZE, [0, 0, 0], np.concatenate([xy, xy], 1), points=xy[:, None], visible=np.full((3, 1), 2), frame=[1, 1, 1],
        scores=[0.2, 0.9, 0.5],
    )  # fmt: skip
    t = Track.from_objects(balls, [7, 8])
    assert t.visibility.tolist() == [0, 1]
    assert t.xy[1].tolist() == [2, 2]
    assert t.score is not None
    assert t.score.tolist() == pytest.approx([0, 0.9])
