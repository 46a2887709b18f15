"""Reliability of the expected IoU: hand-made pairs whose IoU is known by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tercel.core.objects import Objects
from tercel.metrics.quality import quality_reliability

SIZE = (100, 1000)


def picture(ious: list[float], said: list[float], stray: int = 0) -> tuple[Objects, Objects]:
    """Truths of 10 x 10 px in a row, each with a detection cut to the share `ious` of its width: their IoU."""
    x = 20.0 * np.arange(len(ious) + stray)
    boxes = np.stack([x, np.zeros_like(x), x + 10, np.full_like(x, 10)], 1)
    found = boxes.copy()
    found[: len(ious), 2] = x[: len(ious)] + 10 * np.array(ious)
    n = len(ious)
    truth = Objects(SIZE, np.zeros(n, int), boxes[:n])
    scores = np.linspace(0.9, 0.5, n + stray)
    return truth, Objects(SIZE, np.zeros(n + stray, int), found, quality=np.array(said), scores=scores)


def test_what_was_said_is_held_against_what_came_out() -> None:
    a, b = picture([0.8, 0.55], [0.85, 0.75], stray=0), picture([0.25], [0.85, 0.99], stray=1)
    found = quality_reliability([a[0], b[0]], [a[1], b[1]], ["thing"])
    assert found is not None
    bias, error, rank = found.scores
    assert (bias.value, bias.n) == (pytest.approx((0.05 + 0.2 + 0.6) / 3), 3)
    assert error.value == pytest.approx((0.05 + 0.2 + 0.6) / 3)
    assert rank.value == pytest.approx(np.corrcoef([2.5, 1, 2.5], [3, 2, 1])[0, 1])
    assert found.rule["unmatched"] == 1  # the stray one, however sure it is
    rows = {r["low"]: (r["n"], r["confidence"], r["precision"]) for r in found.bins if r["n"]}
    assert rows == {
        0.7: (1, pytest.approx(0.75), pytest.approx(0.55)),
        0.8: (2, pytest.approx(0.85), pytest.approx(0.525)),
    }
    assert bias.low <= bias.value <= bias.high


def test_too_low_and_too_high_cancel_in_the_bias_alone() -> None:
    t, p = picture([0.6, 0.6], [0.5, 0.7])
    found = quality_reliability([t], [p], ["thing"], resamples=0)
    assert found is not None
    assert [s.value for s in found.scores[:2]] == pytest.approx([0, 0.1], abs=1e-6)
    assert math.isnan(found.scores[2].value)  # the actual one does not vary


def test_the_expected_iou_of_the_right_row() -> None:
    """Planted: rows of the picture instead of rows of the pool, whose order is that of the scores."""
    t, p = picture([0.9, 0.3], [0.9, 0.3])
    turned = p[[1, 0]]
    found = quality_reliability([t, t], [turned, p], ["thing"])
    assert found is not None
    assert found.scores[1].value == pytest.approx(0, abs=1e-6)


def test_without_expectation_nothing_is_said() -> None:
    t, p = picture([0.9], [0.9])
    assert quality_reliability([t], [p.replace(quality=None)], ["thing"]) is None
    with pytest.raises(ValueError, match="quality"):
        p.replace(quality=np.array([1.2]))


def test_found_by_none_is_undefined() -> None:
    t, p = picture([], [0.9], stray=1)
    found = quality_reliability([t], [p], ["thing"])
    assert found is not None
    assert math.isnan(found.scores[0].value)
    assert found.scores[0].n == 0
