"""Judging a ball in video: every published rule side by side. What the counts mean: `tercel.metrics.outcomes`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Ledger, Score, Severity, TercelError
from tercel.core.track import Track
from tercel.metrics.aligned import Aligned, align, diameters, doubts
from tercel.metrics.breakdown import plain
from tercel.metrics.outcomes import Distances, Measure, check_counts, counted, outcome, row_scores
from tercel.metrics.rules import ALL, Rule, Tolerance, choose
from tercel.metrics.stats import Array, picture_weights

Ints = NDArray[np.int64]

FEW = 10  # rallies


@dataclass(frozen=True, eq=False)
class PointReport:
    """What predicted tracks are worth.

    Attributes:
        scores: ``where`` says to what each belongs: ``rule``; with ``rally``, ``visibility`` or ``filled`` for a part.
            `n` is the number of items in the denominator (frames for accuracy and counts). Errors are px of the rule's
            frame over frames where both sides show a ball. The tolerance curve is ``F1@5px`` and so on.
        table: one row per rule, first the one that was asked for.
        curve: one row per tolerance 1..20 px of the original frame (d < k, every visible ball counts).
        visibility, rallies, filled: rows per rule and part; `filled` is empty where no point was filled in.
        findings: what limits or explains the numbers.
        rule: what was computed.
        frames: every judged frame, for galleries. outcomes: rule -> i8 [N] (see OUTCOMES); distance: f64 [N] px of the
            original, NaN where one side shows no ball.
    """

    scores: list[Score]
    table: list[dict[str, Any]]
    curve: list[dict[str, Any]]
    visibility: list[dict[str, Any]]
    rallies: list[dict[str, Any]]
    filled: list[dict[str, Any]]
    findings: list[Finding]
    rule: dict[str, Any]
    frames: Aligned
    outcomes: dict[str, NDArray[np.int8]] = field(repr=False)
    distance: Array = field(repr=False)

    def __getitem__(self, name: str) -> float:
        """Value of a score over all frames, under the first rule: ``report["F1"]``.

        Raises:
            KeyError: no such score; the message lists those there are.
        """
        first = self.table[0]["rule"]
        values = {s.name: s.value for s in self.scores if s.where.get("rule", first) == first and not _part(s)}
        if name not in values:
            raise KeyError(f"{name}; there are {', '.join(values)}")
        return values[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is undefined is null."""
        rows = {k: plain(getattr(self, k)) for k in ("rule", "table", "curve", "visibility", "rallies", "filled")}
        return {
            **rows,
            "scores": [s.to_json() for s in self.scores],
            "findings": [f.to_json() for f in self.findings],
        }


def judge_points(
    truth: Sequence[Track],
    pred: Sequence[Track],
    *,
    rules: Sequence[str] = ALL,
    tolerance: Tolerance | None = None,
    diameter: float | Mapping[str, Array] | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> PointReport:
    """Judge predicted tracks under published rules, and under a tolerance of one's own, which then comes first.

    Args:
        truth, pred: one Track per rally; see `tercel.metrics.aligned.align` for how they are matched. A prediction is a
            ball where its `visibility` is not 0; `score` ranks for AP, and points marked `filled` are scored apart.
        rules: names out of `tercel.metrics.rules.RULES`.
        diameter: of the ball in px, for a tolerance in %: one number, or f64 [frames] for each rally of the truth.
        resamples: bootstrap draws of rallies for the 95 % intervals (of blocks of frames where there is one rally
            only, which a finding says); 0 = none.

    Raises:
        TercelError: unknown rules or rallies, frames of another size, no frames, a ball's size that is not known.
        AssertionError: the counts contradict each other; a bug of ours, please report it.
    """
    if resamples < 0:
        raise TercelError(f"resamples = {resamples} is negative", "0 = no intervals")
    chosen = choose(rules, tolerance)
    ledger = Ledger()
    a = align(truth, pred, ledger)
    doubts(a, ledger)
    unit, units, resampled = _units(a, resamples, ledger)
    measure = Measure(a, unit, picture_weights(units, resamples if units > 1 else 0, seed, np.float64))
    ball = diameters(truth, diameter, a, ledger) if any(r.percent for r in chosen) else None

    distances = Distances(a, ball)
    outcomes = {r.name: outcome(a, r, distances.judged(r)) for r in chosen}
    scores: list[Score] = []
    table, by_visibility, by_rally, by_filled = [], [], [], []
    for r in chosen:
        o, d = outcomes[r.name], distances.of(r)
        check_counts(a, r, o)
        whole = measure(o, d, a.found)
        row, own = whole.row(), whole.scores({"rule": r.name})
        table.append({"rule": r.name, "means": r.words(), "frame": r.frame, "tolerance": r.tolerance, **row})
        scores += own
        by_visibility += measure.parts(r, o, d)
        by_rally += measure.rallies(r, o, d)
        by_filled += measure.filled(r, o, d, distances.judged(r))
    curve, curve_scores = measure.curve(distances.original)
    scores += curve_scores
    scores += [s for rows in (by_visibility, by_filled, by_rally) for row in rows for s in row_scores(row)]
    _about_rules(chosen, a, ledger)
    if not a.scored:
        ledger.add("score.no_scores", Severity.INFO, "predictions without scores: all rank alike, AP means little")
    return PointReport(
        scores, table, curve, by_visibility, by_rally, by_filled, list(ledger.findings()),
        {"protocol": "points", "rules": [r.name for r in chosen], "frames": len(a), "rallies": len(a.rallies),
         "resamples": resamples if units > 1 else 0, "resampled": resampled, "seed": seed},
        a, outcomes, distances.original,
    )  # fmt: skip


def _units(a: Aligned, resamples: int, ledger: Ledger) -> tuple[Ints, int, str]:
    """What the bootstrap draws: unit of each frame [N], how many, and what they are.

    Frames of a rally are not independent, so rallies are drawn. Of a single rally, blocks of consecutive frames are
    (Carlstein 1986): long enough that neighbours, which share their errors, stay together, and more of them in a longer
    rally: sqrt(N) frames, at least 5.
    """
    k = len(a.rallies)
    if k > 1:
        if resamples and k < FEW:
            ledger.add("score.few_rallies", Severity.INFO,
                       f"the intervals rest on {k} rallies only and are rather too narrow")  # fmt: skip
        return a.rally, k, "rallies"
    length = max(5, math.ceil(math.sqrt(len(a))))
    blocks = len(a) // length
    if blocks < 4:  # three blocks say nothing
        if resamples:
            ledger.add("score.one_rally", Severity.INFO, "a single short rally: no intervals", a.rallies[0])
        return np.zeros(len(a), np.int64), 1, "nothing"
    if resamples:
        ledger.add("score.one_rally", Severity.INFO,
                   f"a single rally: the intervals come from {blocks} blocks of {length} frames of it, and say nothing "
                   "about other rallies", a.rallies[0])  # fmt: skip
    return np.minimum(np.arange(len(a)) // length, blocks - 1), blocks, f"blocks of {length} frames"


def _about_rules(rules: Sequence[Rule], a: Aligned, ledger: Ledger) -> None:
    """What a reader of the table must know about the rules in this video."""
    size = (int(a.size[0, 0]), int(a.size[0, 1]))
    for r in rules:
        x, y = r.reach(size)
        if max(x, y) > 1.1 * min(x, y):
            ledger.add("score.anisotropic", Severity.INFO,
                       "rules whose tolerance differs across and down in this video",
                       f"{r.name}: {x:.1f} px across, {y:.1f} px down")  # fmt: skip
        hidden = int(((a.visibility > 0) & ~counted(a, r)).sum())
        if hidden:
            ledger.add("score.classes_left_out", Severity.INFO,
                       "rules that count balls of some classes as absent: what is found there is a ghost",
                       f"{r.name}: {hidden} frames")  # fmt: skip


def _part(s: Score) -> bool:
    return not {"rally", "visibility", "filled"}.isdisjoint(s.where)
