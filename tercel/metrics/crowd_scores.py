"""AP50, MR-2 and JI of a crowd and of its slices, with intervals. See `tercel.metrics.crowd`.

Shape legend: I pictures, D detections, G persons that count, R draws; column 0 of 1 + R is the score itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tercel.core.finding import Score
from tercel.metrics.jaccard import THRESHOLDS, Jaccard, above
from tercel.metrics.match import Bools, Floats, Ints, Pool, candidates
from tercel.metrics.miss_rate import Sweep, curve_scores
from tercel.metrics.stats import EXACT, Array, interval, picture_weights

NAMES = ("AP50", "MR-2", "JI")
Bins = dict[str, tuple[float, float]]  # lower ends count, upper ends do not
PERSONS: Bins = {"1 to 9": (1, 10), "10 to 19": (10, 20), "20 to 39": (20, 40), "40 and more": (40, math.inf)}
OVERLAP: Bins = {
    "below .3": (0, 0.3), ".3 to .5": (0.3, 0.5), ".5 to .7": (0.5, 0.7), "from .7 on": (0.7, math.inf),
}  # fmt: skip
# CityPersons' bins (Zhang et al. 2017), without its limits on heights.
OCCLUSION: Bins = {
    "reasonable, below .35": (0, 0.35), "bare, below .1": (0, 0.1), "partial, .1 to .35": (0.1, 0.35),
    "heavy, .35 to .8": (0.35, 0.8), "from .8 on": (0.8, math.inf),
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """Who met whom.

    Attributes:
        sweep: for AP50 and MR-2. jaccard: for JI. persons: those that count.
        spared: detections on ignore regions. ignored: truths that do not count.
    """

    sweep: Sweep
    jaccard: Jaccard
    persons: Pool
    spared: int
    ignored: int


@dataclass(frozen=True)
class _Slice:
    """Persons bool [G] that belong together."""

    by: str
    name: str
    group: Bools


class CrowdScores:
    """AP50, MR-2 and JI of everything and of slices, on the same draws of pictures.

    Attributes:
        threshold: the score threshold of JI; None where JI is undefined.
        by_threshold: f64 [T], JI at each score threshold.
    """

    def __init__(self, scene: Scene, resamples: int, seed: int) -> None:
        self.scene, self.sweep, self.home = scene, scene.sweep, scene.persons.picture
        self.pictures = scene.jaccard.matched.shape[1]
        exact = max(len(self.sweep.picture), len(self.home)) * 8 > EXACT
        draws = picture_weights(self.pictures, resamples, seed, np.float64 if exact else np.float32)
        self.weights = np.ones((self.pictures, 1)), draws[:, 1:]
        self.threshold: float | None = None
        self.by_threshold = np.full(len(THRESHOLDS), np.nan)
        self.found = np.zeros(len(self.home), np.bool_)  # at that threshold
        if len(self.home):
            self.by_threshold = scene.jaccard.mean(self.weights[0])[:, 0]
        if not np.isnan(self.by_threshold).all():
            self.threshold = THRESHOLDS[int(np.nanargmax(self.by_threshold))]
            strong = self.sweep.person[above(self.sweep.score, self.threshold)]
            self.found[strong[strong >= 0]] = True

    def overall(self) -> list[Score]:
        """AP50, MR-2 and JI."""
        return self._scores(np.ones(len(self.home), np.bool_), self.samples())

    def samples(self, pictures: Bools | None = None) -> dict[str, Array]:
        """AP50, MR-2 and JI [1+R] of all pictures or of some, bool [I]; each draw of JI at its own best threshold."""
        chosen = np.ones(self.pictures, np.bool_) if pictures is None else pictures
        rows, group, s = chosen[self.sweep.picture], chosen[self.home], self.sweep
        sweep = Sweep(s.picture[rows], s.score[rows], s.person[rows], s.home)
        weights = self.weights[0] * chosen[:, None], self.weights[1] * chosen[:, None]
        ap, miss = self._curves(sweep, [group], weights)
        # Where all that is left lies in ignore regions, a threshold has no index.
        index = np.fmax.reduce(np.concatenate([self.scene.jaccard.mean(w) for w in weights], axis=1), axis=0)
        if not group.any():  # a picture without persons has a Jaccard index, but nothing to find has none
            index = np.full_like(index, np.nan)
        return {"AP50": ap[0], "MR-2": miss[0], "JI": index}

    def slices(self, occlusion: Floats) -> tuple[list[dict[str, Any]], list[Score]]:
        """Rows and scores of all slices that hold a person; `occlusion` f64 [G], NaN where not told."""
        rows, scores = [], []
        for part, own in [*self._by_picture(), *self._by_person(occlusion)]:
            rows.append(self._row(part, own))
            scores += [replace(s, where={part.by: part.name}) for s in own]
        return rows, scores

    def _by_picture(self) -> Iterator[tuple[_Slice, list[Score]]]:
        count = np.bincount(self.home, minlength=self.pictures)
        for name, (low, high) in PERSONS.items():
            chosen = (count >= low) & (count < high)
            if chosen.any():
                part = _Slice("persons", name, chosen[self.home])
                yield part, self._scores(part.group, self.samples(chosen))

    def _by_person(self, occlusion: Floats) -> Iterator[tuple[_Slice, list[Score]]]:
        kinds = (("overlap", highest_overlap(self.scene.persons), OVERLAP), ("occlusion", occlusion, OCCLUSION))
        every = [
            _Slice(by, name, (value >= low) & (value < high))
            for by, value, bins in kinds
            for name, (low, high) in bins.items()
        ]
        parts = [p for p in every if p.group.any()]
        # One call for all: they share the false positives, whose sums are the larger part of the work.
        ap, miss = self._curves(self.sweep, [p.group for p in parts], self.weights)
        for part, a, m in zip(parts, ap, miss, strict=True):
            yield part, self._scores(part.group, {"AP50": a, "MR-2": m})

    @staticmethod
    def _curves(sweep: Sweep, groups: Sequence[Bools], weights: tuple[Array, Array]) -> tuple[Array, Array]:
        """AP50 and MR-2, both [S,1+R]."""
        parts = [curve_scores(sweep, groups, w) for w in weights]
        ap, miss = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
        return ap, miss

    def _scores(self, group: Bools, samples: dict[str, Array]) -> list[Score]:
        """No intervals when the persons live in fewer than two pictures: resampling would show no spread."""
        homes = len(np.unique(self.home[group]))
        out = []
        for name, x in samples.items():
            low, high = interval(float(x[0]), x[1:]) if homes > 1 else (math.nan, math.nan)
            out.append(Score(name, float(x[0]), homes if name == "JI" else int(group.sum()), low, high))
        return out

    def _row(self, part: _Slice, scores: Sequence[Score]) -> dict[str, Any]:
        n, own = int(part.group.sum()), {s.name: s for s in scores}
        row: dict[str, Any] = {
            "by": part.by, "name": part.name, "pictures": len(np.unique(self.home[part.group])), "n": n,
            "recall": float(self.found[part.group].sum() / n),
        }  # fmt: skip
        for name in NAMES:
            s = own.get(name, Score(name, math.nan, 0))
            row |= {name: s.value, f"{name}_low": s.low, f"{name}_high": s.high}
        return row


def pairs_above(truth: Pool, pred: Pool, lowest: float) -> tuple[Ints, Ints, Floats]:
    """Pairs (of `pred`, of `truth`) of the same picture whose overlap is above `lowest`, and the overlap: IoU; with
    ignore regions intersection over the area of `pred`. Both sides are of one class."""
    d, g, overlap = candidates(truth, pred, pred.picture, lowest)
    chosen = overlap > lowest
    return d[chosen], g[chosen], overlap[chosen]


def highest_overlap(persons: Pool) -> Floats:
    """f64 [G], the highest IoU of each person with another."""
    a, b, overlap = pairs_above(persons, persons, 0.0)
    out, other = np.zeros(len(persons)), a != b
    np.maximum.at(out, a[other], overlap[other])
    return out
