"""Schema: names are unique, flips are involutions, JSON comes back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.finding import TercelError
from tercel.core.schema import Schema

POINTS = ("nose", "left_eye", "right_eye", "left_ear", "right_ear", "tail")
PAIRS = (("left_eye", "right_eye"), ("right_ear", "left_ear"))


def test_flip_index_by_hand() -> None:
    assert Schema(("a",), POINTS, PAIRS).flip_index.tolist() == [0, 2, 1, 4, 3, 5]
    assert Schema(("a",)).flip_index.tolist() == []


@given(st.permutations(POINTS), st.integers(0, 3))
def test_flipping_twice_is_nothing(names: list[str], pairs: int) -> None:
    s = Schema(("a",), POINTS, tuple((names[2 * i], names[2 * i + 1]) for i in range(pairs)))
    index = s.flip_index
    np.testing.assert_array_equal(index[index], np.arange(len(POINTS)))
    assert (index != np.arange(len(POINTS))).sum() == 2 * pairs


def test_json_there_and_back() -> None:
    s = Schema(("a", "b"), POINTS, PAIRS, (("nose", "tail"),), (0.1,) * 6, ("bounce",), (3, 90))
    assert Schema.from_json(json.loads(json.dumps(s.to_json()))) == s
    assert Schema.from_json({"classes": ["a"]}) == Schema(("a",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ("a", "b", "a")}, "class name 'a' occurs twice"),
        ({"keypoints": ("p", "p")}, "keypoint name 'p' occurs twice"),
        ({"events": ("hit", "hit")}, "event name 'hit' occurs twice"),
        ({"keypoints": POINTS, "flip_pairs": (("nose", "knee"),)}, "names the point 'knee'"),
        ({"keypoints": POINTS, "edges": (("nose", "knee"),)}, "skeleton edge .* names the point 'knee'"),
        ({"keypoints": POINTS, "flip_pairs": (*PAIRS, ("nose", "left_eye"))}, "'left_eye' occurs in two flip pairs"),
        ({"keypoints": POINTS, "flip_pairs": (("nose", "nose"),)}, "'nose' occurs in two flip pairs"),
        ({"keypoints": POINTS, "sigmas": (0.1,)}, "1 sigmas for 6 keypoints"),
        ({"category_ids": (1, 2)}, "2 distinct category ids for 1 classes"),
        ({"classes": ("a", "b"), "category_ids": (1, 1)}, "1 distinct category ids for 2 classes"),
    ],
)
def test_misuse(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TercelError, match=message):
        Schema(**({"classes": ("a",)} | arguments))
