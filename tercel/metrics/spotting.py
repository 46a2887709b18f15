"""Mean average precision of events in time (event spotting, Hong et al. 2022), with weights per game.

Per class, all predictions of all games by falling score. Each takes the closest true event of that class in its game
that nobody has taken yet (of two equally close ones the earlier); within k frames it is right, and that event is taken,
else it is wrong. The precision at each right one is raised to the best of all later ones; AP is their sum over the
number of true events. Shape legend: N predictions of a class over all games, U games, R resamples.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.metrics.stats import BLOCK, Array

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Listed:
    """Events of one class over all games: game i64 [N], frame i64 [N], score f64 [N] (truth: 1)."""

    game: Ints
    frame: Ints
    score: Array

    def __len__(self) -> int:
        return len(self.game)

    def take(self, rows: NDArray[np.bool_] | Ints) -> Listed:
        return Listed(self.game[rows], self.frame[rows], self.score[rows])


def thin(events: Listed, window: int) -> Listed:
    """Those that no event within `window` frames in the same game beats by a strictly higher score; 0 keeps all."""
    if window <= 0 or not len(events):
        return events
    order = np.lexsort((events.frame, events.game))
    game, frame, score = events.game[order], events.frame[order], events.score[order]
    keep = np.ones(len(order), np.bool_)
    for step in range(1, len(order)):
        near = (game[step:] == game[:-step]) & (frame[step:] - frame[:-step] <= window)
        if not near.any():
            break  # neighbours that are further off in the list are further off in time, too
        keep[step:] &= ~(near & (score[:-step] > score[step:]))
        keep[:-step] &= ~(near & (score[step:] > score[:-step]))
    return events.take(np.sort(order[keep]))


def ranked(events: Listed) -> Listed:
    """By falling score; equal scores by game and frame, so that the order of a file does not matter."""
    return events.take(np.lexsort((events.frame, events.game, -events.score)))


def match(truth: Listed, pred: Listed, within: int) -> Ints:
    """For each prediction [N], in the order given, the number of the true event that it takes, or -1."""
    free: dict[int, tuple[list[int], list[int]]] = {}  # per game: frames of untaken events, rising, and their numbers
    for i in np.lexsort((truth.frame, truth.game)).tolist():
        frames, numbers = free.setdefault(int(truth.game[i]), ([], []))
        frames.append(int(truth.frame[i]))
        numbers.append(i)
    out = np.full(len(pred), -1, np.int64)
    for i, (g, f) in enumerate(zip(pred.game.tolist(), pred.frame.tolist(), strict=True)):
        frames, numbers = free.get(g, ([], []))
        after = bisect.bisect_left(frames, f)
        near = [k for k in (after - 1, after) if 0 <= k < len(frames)]
        if near:
            k = min(near, key=lambda k: abs(frames[k] - f))  # of equals the earlier
            if abs(frames[k] - f) <= within:
                out[i] = numbers[k]
                del frames[k], numbers[k]
    return out


def average_precision(truth: Listed, pred: Listed, matched: Ints, weights: Array) -> Array:
    """AP [1+R] under weights per game [U,1+R]; NaN where no true event was drawn.

    Args:
        pred: by falling score. matched: what `match` says of them.
    """
    positives = weights[truth.game].sum(axis=0) if len(truth) else np.zeros(weights.shape[1])
    right = np.flatnonzero(matched >= 0)
    area = np.zeros(weights.shape[1])
    width = max(8, BLOCK // max(1, len(pred)))
    for low in range(0, len(area) if len(right) else 0, width):
        w = weights[pred.game, low : low + width]
        total, gain = np.cumsum(w, axis=0)[right], w[right]
        precision = np.cumsum(gain, axis=0) / np.maximum(total, 1)
        precision[gain == 0] = 0  # a game that was not drawn leaves no point on the curve
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        area[low : low + width] = (gain * best).sum(axis=0)
    out: Array = np.divide(area, positives, out=np.full(positives.shape, np.nan), where=positives > 0)
    return out


def listed(events: Sequence[tuple[int, int, float]]) -> Listed:
    """(game, frame, score) triples as columns."""
    if not events:
        return Listed(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    game, frame, score = zip(*events, strict=True)
    return Listed(np.array(game, np.int64), np.array(frame, np.int64), np.array(score, np.float64))
