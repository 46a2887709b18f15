"""From candidates to a trajectory: which candidate is the ball, and where is the ball that nobody saw? NumPy only.

How explanations of a clip are compared is in models/hypotheses.py. `Live` believes the best one at every frame;
`smooth_track` with `both_ways` waits for the end of the clip, traces the best one back and fills its gaps with a Kalman
smoother (Rauch, Tung, Striebel 1965).

Shape legend: N frames; K candidates of a frame; 3 = place, velocity, acceleration; 2 = x, y.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercel.config import Ball
from tercel.core.track import ABSENT, CLEAR, Track
from tercel.models.hypotheses import CONTINUE, HALT, MANOEUVRE, STEP, TURN, Motion, Node, Search

Floats = NDArray[np.float64]

_NEAR = 8  # frames around an unseen manoeuvre that tell when it was
_LOST = 12.0  # `Live` no longer shows a ball that is not seen once its standard deviation is larger


@dataclass(frozen=True, eq=False)
class Candidates:
    """Where the ball may be in each frame of a clip, as the network says.

    Attributes:
        frame: i64 [N] frame numbers, strictly rising.
        xy: f64 [N,K,2] px of the original picture; NaN = no candidate.
        score: f64 [N,K] in 0..1; 0 = no candidate.
        size: (H, W) of the original picture.

    Raises:
        ValueError: columns of the wrong shape, frame numbers that do not rise, a score outside 0..1.
    """

    frame: NDArray[np.int64]
    xy: Floats
    score: Floats
    size: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", np.asarray(self.frame, np.int64))
        object.__setattr__(self, "xy", np.asarray(self.xy, np.float64))
        object.__setattr__(self, "score", np.asarray(self.score, np.float64))
        n = len(self.frame)
        if self.score.ndim != 2 or len(self.score) != n or self.xy.shape != (*self.score.shape, 2):
            raise ValueError(
                f"xy [N,K,2] and score [N,K] with N={n}, not {list(self.xy.shape)} and {list(self.score.shape)}"
            )
        if (np.diff(self.frame) <= 0).any():
            raise ValueError("frame numbers rise")
        if not ((self.score >= 0) & (self.score <= 1)).all():
            raise ValueError("scores are probabilities in 0..1")
        if not np.isfinite(self.xy[self.score > 0]).all():
            raise ValueError("a candidate with a score above 0 needs a finite place")

    def __len__(self) -> int:
        return len(self.frame)


class Row(NamedTuple):
    """One frame of a track: see `Track` for what the columns mean. x and y are NaN where the ball is absent."""

    frame: int
    visibility: int
    x: float
    y: float
    score: float
    filled: bool
    sigma: float


def best_track(candidates: Candidates, threshold: float, **names: Any) -> Track:
    """The best candidate of each frame if its score reaches `threshold`: no motion model.

    Args:
        names: name, group and source of the track.
    """
    n = len(candidates)
    score, xy = np.zeros(n), np.full((n, 2), np.nan)
    if candidates.score.shape[1]:
        best = candidates.score.argmax(1)
        score = candidates.score[np.arange(n), best]
        xy = candidates.xy[np.arange(n), best]
    seen = (score >= threshold) & (score > 0)
    visibility = np.where(seen, CLEAR, ABSENT)
    return Track(candidates.size, candidates.frame, visibility, xy, np.where(seen, score, 0.0), **names)


def smooth_track(candidates: Candidates, settings: Ball, *, both_ways: bool, **names: Any) -> Track:
    """The trajectory that explains the candidates best.

    Points that a candidate supports have its score, points that only the motion model puts there are `filled` and have
    score 0; both have a `sigma`, the standard deviation per axis, and visibility 1. A supported point stays where it
    was detected: the model chooses and fills, it does not move. (Mean distance from true rallies in px of 1280,
    detected against smoothed: .4 and .9 with noise of .3 px, 1.9 and 1.8 with 1.5 px, 3.7 and 2.9 with 3 px. Smoothing
    rounds off strokes and bounces, which are what people look at.)

    Args:
        settings: threshold, gap, gate and jerk are used.
        both_ways: True looks at the whole clip: gaps of up to `settings.gap` frames within a track are filled, longer
            ones and what lies before and after a track stay absent. False is `Live` frame by frame: a track that is
            not seen is carried on for up to `settings.gap` frames.
        names: name, group and source of the track.
    """
    if not both_ways:
        live = Live(settings, candidates.size)
        rows = [live.push(*row) for row in zip(candidates.frame.tolist(), candidates.xy, candidates.score, strict=True)]
        return track_of(rows, candidates.size, **names)
    model = Motion(settings, candidates.size)
    search = Search(model)
    for frame, xy, score in zip(candidates.frame.tolist(), candidates.xy, candidates.score, strict=True):
        search.step(frame, xy, score)
    paths = search.paths()
    noise = _noise(paths) ** 2
    paths = [[node._replace(variance=node.variance * noise) for node in path] for path in paths]
    known = {row.frame: row for path in paths for row in _smooth(path, model)}
    height, width = candidates.size
    out = []
    for frame in candidates.frame.tolist():
        row = known.get(frame)
        inside = row is not None and (not row.filled or (0 <= row.x <= width and 0 <= row.y <= height))
        out.append(row if row is not None and inside else _absent(frame))
    return track_of(out, candidates.size, **names)


def track_of(rows: list[Row], size: tuple[int, int], **names: Any) -> Track:
    """Rows of `Live` as a track."""
    frame, visibility, x, y, score, filled, sigma = (list(c) for c in zip(*rows, strict=True)) if rows else [[]] * 7
    xy = np.array([x, y], np.float64).T
    return Track(
        size, np.array(frame, np.int64), np.array(visibility, np.uint8), xy, np.array(score, np.float64),
        np.array(filled, np.bool_), np.array(sigma, np.float64), **names,
    )  # fmt: skip


class Live:
    """The trajectory frame by frame, with no delay: `smooth_track(..., both_ways=False)` is a loop over `push`.

    A track shows from the frame on that confirms its start. While it is not seen it is carried on for up to
    `settings.gap` frames, as long as it stays within the picture and its standard deviation small (1 % of its width).
    """

    def __init__(self, settings: Ball, size: tuple[int, int]) -> None:
        self.size = size
        self._model = Motion(settings, size)
        self._search = Search(self._model, remember=False)

    def push(self, frame: int, xy: Floats, score: Floats) -> Row:
        """The row of this frame.

        Args:
            frame: its number; larger than the one before. Numbers that are left out count as frames without candidate.
            xy: f64 [K,2] candidates in px, NaN = none.
            score: f64 [K].
        """
        search = self._search
        search.step(frame, xy, score)
        best = search.best()
        if best < 0 or not search.sure[best]:
            return _absent(frame)
        if search.age[best] == 0:
            x, y, certainty, sigma = search.last[best].tolist()
            return Row(frame, CLEAR, x, y, certainty, False, sigma)
        x, y = search.mean[best, 0].tolist()
        sigma = math.sqrt(search.cov[best, 0, 0])
        height, width = self.size
        if not (0 <= x <= width and 0 <= y <= height) or sigma > _LOST * self._model.unit:
            return _absent(frame)
        return Row(frame, CLEAR, x, y, 0.0, True, sigma)


def _absent(frame: int) -> Row:
    return Row(frame, ABSENT, math.nan, math.nan, 0.0, False, math.nan)


# -- where it is ------------------------------------------------------------------------------------------------


class _Pass(NamedTuple):
    """A filter's way through n frames: filtered and predicted states, the steps, and how likely the detections are."""

    mean: Floats  # [n,3,2]
    cov: Floats  # [n,3,3]
    ahead: Floats  # [n,3,2] predicted
    around: Floats  # [n,3,3]
    step: Floats  # [n,3,3] from the frame before
    likelihood: float


def _filter(seen: list[Node | None], turns: set[int], model: Motion) -> _Pass:
    """Kalman filter over consecutive frames, of which the first is seen; `turns` are the frames of manoeuvres."""
    n = len(seen)
    mean, cov, likelihood = np.zeros((n, 3, 2)), np.empty((n, 3, 3)), 0.0
    ahead, around, step = np.zeros((n, 3, 2)), np.empty((n, 3, 3)), np.empty((n, 3, 3))
    around[0], step[0] = model.start, STEP
    for i, node in enumerate(seen):
        if i:
            step[i], noise = (HALT, model.turned[1]) if i in turns else (STEP, model.jerk)
            ahead[i], around[i] = step[i] @ mean[i - 1], step[i] @ cov[i - 1] @ step[i].T + noise
        mean[i], cov[i] = ahead[i], around[i]
        if node is not None:
            spread = float(around[i, 0, 0]) + node.variance
            apart = np.array([node.x, node.y]) - ahead[i, 0]
            gain = around[i, :, 0] / spread
            mean[i] += gain[:, None] * apart
            cov[i] -= gain[:, None] * around[i, 0]
            likelihood -= math.log(spread) + float(apart @ apart) / spread / 2
    return _Pass(mean, cov, ahead, around, step, likelihood)


def _turns(path: list[Node], seen: list[Node | None], model: Motion) -> set[int]:
    """When the manoeuvres of a path took place; in a gap the frame that explains best. A long gap may hide one."""
    first, found = path[0].frame, [0]
    for a, b in itertools.pairwise(path):
        last, now = a.frame - first, b.frame - first
        if now <= last + 2 and b.kind != TURN:
            continue
        if now == last + 1:
            found.append(now)
            continue
        begin, end = max(found[-1], last - _NEAR), min(now + _NEAR, len(seen))
        while seen[begin] is None:
            begin += 1
        near = seen[begin:end]
        worth = {t: MANOEUVRE + _filter(near, {t - begin}, model).likelihood for t in range(last + 1, now + 1)}
        best = max(worth, key=lambda t: worth[t])
        if worth[best] > _filter(near, set(), model).likelihood:
            found.append(best)
    return set(found[1:])


def _smooth(path: list[Node], model: Motion) -> list[Row]:
    """Kalman filter along a path and the smoother back (Rauch, Tung, Striebel 1965): a row per frame, gaps included."""
    n = path[-1].frame - path[0].frame + 1
    seen: list[Node | None] = [None] * n
    for node in path:
        seen[node.frame - path[0].frame] = node
    mean, cov, ahead, around, step, _ = _filter(seen, _turns(path, seen, model), model)
    back = cov[:-1] @ step[1:].transpose(0, 2, 1) @ np.linalg.inv(around[1:])
    for i in range(n - 2, -1, -1):
        mean[i] += back[i] @ (mean[i + 1] - ahead[i + 1])
        cov[i] += back[i] @ (cov[i + 1] - around[i + 1]) @ back[i].T
    places, sigma = mean[:, 0].tolist(), np.sqrt(cov[:, 0, 0]).tolist()
    rows = []
    for i, (found, (x, y), s) in enumerate(zip(seen, places, sigma, strict=True), path[0].frame):
        if found is None:
            rows.append(Row(i, CLEAR, x, y, 0.0, True, s))
        else:
            rows.append(Row(i, CLEAR, found.x, found.y, found.score, False, math.sqrt(found.variance)))
    return rows


def _noise(paths: list[list[Node]]) -> float:
    """How large the detections' noise is beside what the model assumes, from third differences along the paths.

    A third difference is 0 under constant acceleration and has 1 + 9 + 9 + 1 times the variance of white noise; real
    jerk enlarges it, so this is an upper bound. The median does not mind the few that are large. 1 if
    there are too few.
    """
    ratios: list[float] = []
    for path in paths:
        for four in zip(path, path[1:], path[2:], path[3:], strict=False):
            if four[3].frame - four[0].frame == 3 and all(node.kind == CONTINUE for node in four[1:]):
                weights = (-1, 3, -3, 1)
                spread = math.sqrt(sum(w * w * node.variance for w, node in zip(weights, four, strict=True)))
                for places in ([node.x for node in four], [node.y for node in four]):
                    ratios.append(abs(float(np.dot(weights, places))) / spread)  # noqa: PERF401
    return min(max(float(np.median(ratios)) / 0.6745, 0.2), 2.0) if len(ratios) >= 40 else 1.0
