"""Games whose true and predicted events belong together, as columns. Shape legend: F frames, E classes, S windows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.timeline import EMPTY, EventAnswer, EventTruth
from tercel.metrics.aligned import plain_name
from tercel.metrics.spotting import Listed, listed

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Clips:
    """Truth and answer of every game, in order of their names; an answer is None where there is none."""

    truth: tuple[EventTruth, ...]
    answer: tuple[EventAnswer | None, ...]
    classes: tuple[str, ...]
    dense: bool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(t.name for t in self.truth)

    @property
    def frames_known(self) -> bool:
        return all(t.frames for t in self.truth)

    def true(self, c: int) -> Listed:
        """True events of a class."""
        name = self.classes[c]
        return listed([(g, e.frame, 1.0) for g, t in enumerate(self.truth) for e in t.events if e.name == name])

    def predicted(self, c: int) -> Listed:
        """Predicted events of a class, out of the lists."""
        name, rows = self.classes[c], []
        for g, a in enumerate(self.answer):
            if a is not None and a.scores is not None:
                rows += [(g, e.frame, float(s)) for e, s in zip(a.events, a.scores, strict=True) if e.name == name]
        return listed(rows)

    def every_frame(self, c: int, floor: float) -> Listed:
        """Every frame whose probability reaches `floor`."""
        parts = []
        for g, a in enumerate(self.answer):
            if a is None or a.frame is None or a.probability is None or self.classes[c] not in a.classes:
                continue
            p = a.probability[:, a.classes.index(self.classes[c])]
            rows = np.flatnonzero(p >= floor)
            parts.append((np.full(len(rows), g, np.int64), a.frame[rows], p[rows]))
        if not parts:
            return listed([])
        return Listed(*(np.concatenate(x) for x in zip(*parts, strict=True)))

    def answers(self, game: Ints, centre: Ints, ledger: Ledger | None) -> Array:
        """Probabilities [S,E] for windows; 0, counted in the ledger, where the prediction has no such frame."""
        out = np.zeros((len(game), len(self.classes)))
        for g, a in enumerate(self.answer):
            rows = np.flatnonzero(game == g)
            known = np.zeros(len(rows), np.bool_)
            if a is not None and a.frame is not None and a.probability is not None and len(a.frame):
                at = np.minimum(np.searchsorted(a.frame, centre[rows]), len(a.frame) - 1)
                known = a.frame[at] == centre[rows]
                for c, name in enumerate(self.classes):
                    if name in a.classes:
                        out[rows[known], c] = a.probability[at[known], a.classes.index(name)]
            if ledger is not None and not known.all():
                ledger.add("score.frames_without_prediction", Severity.WARNING,
                           "windows of the truth that have no row in the prediction; they count as `nothing found`",
                           self.names[g], int((~known).sum()))  # fmt: skip
        return out

    def far_from_events(self, pred: Listed, within: int) -> NDArray[np.bool_]:
        """Which predicted events lie further than `within` frames from every true event of any class."""
        far = np.ones(len(pred), np.bool_)
        for g, t in enumerate(self.truth):
            rows = np.flatnonzero(pred.game == g)
            real = np.array([e.frame for e in t.events if e.name != EMPTY], np.int64)
            if len(real):
                far[rows] = np.abs(pred.frame[rows, None] - real).min(axis=1) > within
        return far

    def background_frames(self, within: int) -> Ints:
        """Per game, frames further than `within` from every true event."""
        out = []
        for t in self.truth:
            near = np.zeros(t.frames, np.bool_)
            for e in t.events:
                if e.name != EMPTY:
                    near[max(0, e.frame - t.first - within) : max(0, e.frame - t.first + within + 1)] = True
            out.append(int((~near).sum()))
        return np.array(out, np.int64)


def pair_clips(
    truth: Sequence[EventTruth], pred: Sequence[EventAnswer], classes: Sequence[str], ledger: Ledger
) -> Clips:
    """Match games by name, and settle the classes.

    Raises:
        TercelError: no games or no predictions, a game that occurs twice or that the truth does not have, probabilities
            on one side and lists on the other.
    """
    truth = sorted(truth, key=lambda t: t.name)
    if not truth or not pred:
        raise TercelError(f"{len(truth)} games with true events and {len(pred)} with predictions", "check both paths")
    for names, what in (([t.name for t in truth], "truth"), ([p.name for p in pred], "predictions")):
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise TercelError(f"game {twice!r} occurs twice in the {what}", "give every game its own name")
    by_name = {t.name: i for i, t in enumerate(truth)}
    plain = [plain_name(t.name) for t in truth]
    by_plain = {n: i for i, n in enumerate(plain) if plain.count(n) == 1}
    answer: list[EventAnswer | None] = [None] * len(truth)
    for p in pred:
        i = by_name.get(p.name, by_plain.get(plain_name(p.name)))
        if i is None:
            if len(truth) == len(pred) == 1:
                ledger.add("score.rally_name", Severity.INFO,
                           "the only game of the predictions is taken for the only one of the truth",
                           f"{p.name} for {truth[0].name}")  # fmt: skip
                answer[0] = p
                continue
            near = difflib.get_close_matches(p.name, by_name, n=1, cutoff=0.0)
            raise TercelError(
                f"{p.source or 'predictions'}: the truth has no game {p.name!r}",
                f"did you mean {near[0]!r}? name it after the game that it belongs to",
            )
        if answer[i] is not None:
            raise TercelError(f"{p.source or p.name}: game {truth[i].name!r} has two predictions", "give one of them")
        answer[i] = p
    for t, a in zip(truth, answer, strict=True):
        _beyond(t, a, ledger)
    for t, a in zip(truth, answer, strict=True):
        if a is None:
            ledger.add("score.rally_without_prediction", Severity.WARNING,
                       "games without predictions; all their events count as missed", t.name)  # fmt: skip
    dense = {p.probability is not None for p in pred}
    if len(dense) > 1:
        raise TercelError("some games have probabilities per frame, others lists of events", "give one kind for all")
    chosen = tuple(classes) or _classes(truth, pred)
    _check_names(chosen, truth, pred, ledger)
    return Clips(tuple(truth), tuple(answer), chosen, dense.pop())


def _beyond(t: EventTruth, a: EventAnswer | None, ledger: Ledger) -> None:
    """Count answers for frames that the game does not have."""
    if a is None or not t.frames:
        return
    frames = np.array([e.frame for e in a.events] if a.frame is None else a.frame, np.int64)
    outside = frames[(frames < t.first) | (frames >= t.first + t.frames)]
    if len(outside):
        ledger.add("score.frames_beyond_truth", Severity.WARNING,
                   "answers for frames before the first or after the last of the truth; is this the right file?",
                   f"{a.source or a.name}: frame {outside[0]}", len(outside))  # fmt: skip


def _classes(truth: Sequence[EventTruth], pred: Sequence[EventAnswer]) -> tuple[str, ...]:
    """Columns of the predictions first, then the other names that occur, in alphabetical order."""
    columns = dict.fromkeys(c for p in pred for c in p.classes)
    named = {e.name for t in truth for e in t.events} | {e.name for p in pred for e in p.events}
    named -= {EMPTY}
    return (*columns, *sorted(named - columns.keys()))


def _check_names(
    classes: Sequence[str], truth: Sequence[EventTruth], pred: Sequence[EventAnswer], ledger: Ledger
) -> None:
    real = {e.name for t in truth for e in t.events}
    said = {e.name for p in pred for e in p.events} | {c for p in pred for c in p.classes}
    for c in classes:
        if c not in real:
            ledger.add("score.class_without_truth", Severity.WARNING,
                       "predicted event classes that the truth does not have; AP is undefined. Is the name right?",
                       c)  # fmt: skip
        elif c not in said:
            ledger.add("score.class_without_prediction", Severity.WARNING,
                       "event classes that are never predicted", c)  # fmt: skip
    for name, where in (*((n, "truth") for n in sorted(real - {EMPTY})), *((n, "predictions") for n in sorted(said))):
        if name not in classes:
            ledger.add("score.class_left_out", Severity.INFO, "event classes that are not judged", f"{name} ({where})")


def confusion_rows(of: str, names: Sequence[str], true: Ints, said: Ints) -> list[dict[str, Any]]:
    """Rows {of, true, predicted, count}, all pairs; (nothing, nothing) has no meaning for events and is left out."""
    n = len(names)
    table = np.bincount(true * n + said, minlength=n * n).reshape(n, n)
    last = n - 1
    return [
        {"of": of, "true": names[i], "predicted": names[j], "count": int(table[i, j])}
        for i in range(n)
        for j in range(n)
        if of != "events" or i != last or j != last
    ]
