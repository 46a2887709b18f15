"""What became of each frame of a ball run's rallies, under its main rule: for pictures, not for scores. NumPy only.

Outcomes are those of tercel.metrics; here they are cut into rallies again, beside the frames they speak of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.core.track import Track
from tercel.data.clips import tracks
from tercel.metrics.outcomes import FN, GHOST, TN, TP, WRONG
from tercel.metrics.points import judge_points
from tercel.metrics.rules import RULES, Rule
from tercel.report.reading import View

WORDS = {TP: "hits", WRONG: "in a wrong place", GHOST: "ghosts", FN: "missed", TN: "empty"}


@dataclass(frozen=True, eq=False)
class Rally:
    """One rally, truth and prediction at the same N frames.

    Attributes:
        record: of the truth.
        frame: i64 [N] frame numbers.
        truth, pred: f64 [N,2] px of the original frame, NaN where there is no ball.
        score: f64 [N] of the prediction. filled: bool [N], predicted points that no detection supports.
        outcome: i8 [N], see tercel.metrics.outcomes. distance: f64 [N] px, NaN without both.
    """

    record: Record
    frame: NDArray[np.int64]
    truth: NDArray[np.float64]
    pred: NDArray[np.float64]
    score: NDArray[np.float64]
    filled: NDArray[np.bool_]
    outcome: NDArray[np.int8]
    distance: NDArray[np.float64]

    @property
    def name(self) -> str:
        return self.record.id

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frames in px."""
        return self.record.size

    @property
    def wrong(self) -> NDArray[np.bool_]:
        return np.isin(self.outcome, (WRONG, GHOST, FN))


def main_rule(view: View) -> Rule:
    """The rule that pictures are judged by; without scores, the field's usual one."""
    return RULES.get(view.rule, RULES["tracknet_v2_v3"])


def rallies(view: View) -> tuple[list[Rally], list[Finding]]:
    """All rallies whose truth and trajectory are both there, and what had to be left out."""
    if view.data is None or not view.tracks:
        missing = "the validation truth" if view.tracks else "the trajectories (tracks/)"
        message = f"without {missing} there are no pictures of trajectories and mistakes"
        return [], [Finding("report.tracks", Severity.WARNING, message)] if view.metrics else []
    try:
        return judged(view.data, [view.tracks[r.id] for r in view.data.records], main_rule(view)), []
    except TercelError as e:
        message = f"truth and trajectories do not belong together any more, so they are not shown: {e.message}"
        return [], [Finding("report.tracks", Severity.WARNING, message)]


def judged(data: Dataset, preds: Sequence[Track], rule: Rule) -> list[Rally]:
    """The rallies of a data set with the outcomes of all their frames; `preds` in the order of its records."""
    report = judge_points(tracks(data), preds, rules=(rule.name,), resamples=0)
    a, outcome = report.frames, report.outcomes[rule.name]
    of = {name: i for i, name in enumerate(a.rallies)}
    out = []
    for r in data.records:
        m = a.rally == of[r.id]
        columns = (a.frame, a.xy, a.place, a.score, a.filled, outcome, report.distance)
        out.append(Rally(r, *(c[m] for c in columns)))
    return out
