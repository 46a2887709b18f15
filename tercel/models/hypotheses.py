"""Which candidate is the ball? Whole explanations of a clip, compared frame by frame. NumPy only.

A ball moves with constant acceleration plus white jerk (Bar-Shalom, Li, Kirubarajan 2001, section 6.2.3), and a Kalman
filter follows it. Every candidate of a frame either continues a track within the gate, continues it with a new velocity
(a manoeuvre: bounce, stroke), or starts a new one; a track may miss frames; a frame may have no ball. Each step has a
log-likelihood ratio against "nothing but clutter, uniform over the picture" (the track score of Blackman and Popoli
1999, section 6.2), and the best explanation per candidate is kept (Viterbi). A single bad candidate costs a start or a
manoeuvre that no later frame pays back, so it does not enter the best explanation.

x and y move alike and are measured alike, so one covariance [3,3] of (place, velocity, acceleration) serves both.

Shape legend: K candidates of a frame; M tracks in the running; 3 = place, velocity, acceleration; 2 = x, y.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercel.config import Ball

Floats = NDArray[np.float64]

# Lengths are px of a frame 1280 px wide, times are frames; other widths are scaled.
_WIDTH = 1280.0
_NOISE = 1.5  # standard deviation of a certain detection; one of score s has _NOISE / max(s, .25)
_SPEED = 40.0  # standard deviation per axis of an unknown velocity, per frame
_PULL = 6.0  # standard deviation per axis of an unknown acceleration, per frame^2
# Log-probabilities; tuned on the rallies in tests/models/test_motion.py.
_BIRTH = -8.0  # a track starts: about one more good detection than a start alone has to confirm it
_DEATH = -4.0  # a track ends before the clip does
MANOEUVRE = -3.0  # velocity and acceleration change at once
_MISS = -1.5  # a frame of a track in which the ball was not found
_TRUST = 3.0  # largest weight of a score: log-odds against the threshold, cut to +-3
_FLOOR = 0.2  # candidates below this share of the threshold take no part
_BEAM = 8  # tracks kept from frame to frame
STEP = np.array([[1, 1, 0.5], [0, 1, 1], [0, 0, 1]])
_JERK = np.array([[1 / 20, 1 / 8, 1 / 6], [1 / 8, 1 / 3, 1 / 2], [1 / 6, 1 / 2, 1]])  # of unit white jerk, one frame
HALT = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]])  # what a manoeuvre keeps: the place
START, CONTINUE, TURN = 0, 1, 2  # how a node joins the one before


class Motion:
    """The settings as numbers of the filter, in px of the picture at hand."""

    def __init__(self, settings: Ball, size: tuple[int, int]) -> None:
        self.unit = unit = size[1] / _WIDTH
        self.gap, self.gate = settings.gap, settings.gate**2
        self.threshold, self.floor = settings.threshold, _FLOOR * settings.threshold
        self.jerk = (settings.jerk * unit) ** 2 * _JERK
        self.clutter = math.log(size[0] * size[1] / (2 * math.pi))
        unknown = np.diag([0.0, (_SPEED * unit) ** 2, (_PULL * unit) ** 2])
        # What is known n frames after a manoeuvre at a known place; nothing but the place is known at a start.
        self.turned = np.zeros((self.gap + 2, 3, 3))
        self.turned[0] = unknown
        for n in range(1, self.gap + 2):
            self.turned[n] = STEP @ self.turned[n - 1] @ STEP.T + self.jerk
        self.start = unknown + np.diag([(1e3 * size[1]) ** 2, 0.0, 0.0])

    def variance(self, score: Floats) -> Floats:
        """px^2 per axis of detections with these scores."""
        return np.asarray((_NOISE * self.unit / np.maximum(score, 0.25)) ** 2)

    def trust(self, score: Floats) -> Floats:
        """Log-odds of scores against the threshold."""
        s, t = np.clip(score, 1e-6, 1 - 1e-6), min(max(self.threshold, 1e-6), 1 - 1e-6)
        return np.clip(np.log(s / (1 - s)) - math.log(t / (1 - t)), -_TRUST, _TRUST)


class Node(NamedTuple):
    """A candidate within an explanation: the node before it (-1 = none), how it joins that one, what was seen."""

    parent: int
    kind: int
    frame: int
    x: float
    y: float
    variance: float
    score: float


class Search:
    """The best explanations so far, one per last candidate: M tracks in the running, and "no ball now".

    Attributes:
        mean, cov: f64 [M,3,2], [M,3,3] of the current frame: filtered where seen, else predicted.
        age: i64 [M] frames since the track was last seen.
        sure: bool [M], the start was confirmed.
        last: f64 [M,4] x, y, score and standard deviation of the last candidates.
    """

    def __init__(self, model: Motion, remember: bool = True) -> None:
        self.model, self.remember = model, remember
        self.frame: int | None = None
        self.mean, self.cov = np.zeros((0, 3, 2)), np.zeros((0, 3, 3))
        self.place, self.spread = np.zeros((0, 2)), np.zeros(0)  # filtered place and its variance when last seen
        self.total = np.zeros(0)  # log-likelihood ratio when last seen
        self.age, self.node = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.sure, self.last = np.zeros(0, np.bool_), np.zeros((0, 4))
        self.absent, self.before = 0.0, -1  # the best explanation without a ball now, and its last node
        self.nodes: list[Node] = []
        self.count = 0

    def step(self, frame: int, xy: Floats, score: Floats) -> None:
        """Go on to this frame and look at its candidates."""
        if self.frame is not None:
            if frame <= self.frame:
                raise ValueError(f"frame numbers rise; after {self.frame} comes {frame}")
            for _ in range(min(frame - self.frame - 1, self.model.gap + 1)):
                self._advance()
                self._prune()
        self._advance()
        self.frame = frame
        usable = (score >= self.model.floor) & (score > 0)
        if usable.any():
            self._see(frame, xy[usable], score[usable])
        self._prune()

    def best(self) -> int:
        """Which track is the best explanation, or -1."""
        return int((self.total + _MISS * self.age).argmax()) if len(self.total) else -1

    def _advance(self) -> None:
        """Predict one frame; tracks seen in the frame before may have ended there."""
        if not len(self.total):
            return
        ended = int(np.where(self.age == 0, self.total, -np.inf).argmax())
        if self.age[ended] == 0 and self.total[ended] + _DEATH > self.absent:
            self.absent, self.before = float(self.total[ended]) + _DEATH, int(self.node[ended])
        self.age += 1
        self.mean = STEP @ self.mean
        self.cov = STEP @ self.cov @ STEP.T + self.model.jerk

    def _prune(self) -> None:
        """Keep the best tracks, and none that has been unseen for too long."""
        if len(self.total) <= _BEAM and (not len(self.age) or self.age.max() <= self.model.gap):
            return
        rank = self.total + _MISS * self.age
        order = np.argsort(-rank, kind="stable")[:_BEAM]
        self._take(np.sort(order[self.age[order] <= self.model.gap]))

    def _take(self, rows: NDArray[np.int64]) -> None:
        for name in ("mean", "cov", "place", "spread", "total", "age", "node", "sure", "last"):
            setattr(self, name, getattr(self, name)[rows])

    def _see(self, frame: int, xy: Floats, score: Floats) -> None:
        """Every candidate continues its best track, by the motion model or by a manoeuvre, or starts one."""
        model, m, k = self.model, len(self.total), len(score)
        variance, trust = model.variance(score), model.trust(score)
        # Means and covariances that a candidate may meet: M predicted, M after a manoeuvre, 1 of a start.
        mean = np.zeros((2 * m + 1, 3, 2))
        mean[:m], mean[m : 2 * m, 0] = self.mean, self.place
        cov = np.concatenate([self.cov, model.turned[self.age], model.start[None]])
        cov[m : 2 * m, 0, 0] += self.spread
        spread = cov[:-1, 0, 0, None] + variance  # [2M,K]
        distance = ((xy - mean[:-1, None, 0]) ** 2).sum(-1) / spread
        worth = np.empty((2 * m + 1, k))
        worth[:-1] = np.where(distance <= model.gate, model.clutter - np.log(spread) - distance / 2, -np.inf)
        reached = self.total + _MISS * (self.age - 1)
        worth[:m] += reached[:, None]
        worth[m : 2 * m] += reached[:, None] + MANOEUVRE
        worth[-1] = np.where(score >= model.threshold, self.absent + _BIRTH, -np.inf)
        parent = worth.argmax(0)
        total = worth[parent, np.arange(k)] + trust
        use = np.isfinite(total)
        if not use.all():
            parent, total, xy, score, variance = parent[use], total[use], xy[use], score[use], variance[use]
        self._join(frame, parent, total, mean[parent], cov[parent], xy, score, variance)

    def _join(
        self, frame: int, parent: NDArray[np.int64], total: Floats, mean: Floats, cov: Floats,
        xy: Floats, score: Floats, variance: Floats,
    ) -> None:  # fmt: skip
        """Add the tracks that end in this frame's candidates: one Kalman update each."""
        m, k = len(self.total), len(total)
        gain = cov[:, :, 0] / (cov[:, 0, 0] + variance)[:, None]
        mean = mean + gain[:, :, None] * (xy - mean[:, 0])[:, None]
        cov = cov - gain[:, :, None] * cov[:, None, 0]
        start = parent == 2 * m
        track = np.where(start, 0, parent % max(m, 1))
        before = np.where(start, self.before, self.node[track]) if m else np.full(k, self.before)
        sure = (self.sure[track] & ~start if m else np.zeros(k, np.bool_)) | (total > self.absent)
        if self.remember:
            kind = np.where(start, START, np.where(parent < m, CONTINUE, TURN))
            columns = (before.tolist(), kind.tolist(), [frame] * k, *xy.T.tolist(), variance.tolist(), score.tolist())
            self.nodes += map(Node, *columns)
        node = np.arange(self.count, self.count + k)
        self.count += k
        for name, new in (
            ("mean", mean), ("cov", cov), ("place", mean[:, 0]), ("spread", cov[:, 0, 0]), ("total", total),
            ("age", np.zeros(k, np.int64)), ("node", node), ("sure", sure),
            ("last", np.column_stack([xy, score, np.sqrt(variance)])),
        ):  # fmt: skip
            setattr(self, name, np.concatenate([getattr(self, name), new]))

    def paths(self) -> list[list[Node]]:
        """The tracks of the best explanation of everything seen, each from its start to its end."""
        at, best = self.before, self.absent
        if len(self.total):
            rank = self.total + np.maximum(_MISS * self.age, _DEATH)
            if rank.max() > best:
                at = int(self.node[rank.argmax()])
        out: list[list[Node]] = []
        path: list[Node] = []
        while at >= 0:
            path.append(self.nodes[at])
            at = path[-1].parent
            if path[-1].kind == START:
                out.append(path[::-1])
                path = []
        return out[::-1]
