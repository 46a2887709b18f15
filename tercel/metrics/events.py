"""Judging events in time: TTNet's PCE and SPCE, mAP at +-k frames, a confusion with "nothing", false alarms, timing.

PCE and SPCE look at windows around annotated events, one answer each; mAP looks at the whole game. The first says
nothing about the time between events, the second nothing about soft targets, so both are given. Shape legend: S windows
(samples), E classes, U games, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Ledger, Score, Severity, TercelError
from tercel.core.timeline import EMPTY, EventAnswer, EventTruth
from tercel.metrics.breakdown import plain
from tercel.metrics.games import Clips, confusion_rows, pair_clips
from tercel.metrics.spotting import Listed, average_precision, match, ranked, thin
from tercel.metrics.stats import Array, interval, mean_over_classes, picture_weights

Ints = NDArray[np.int64]

REACH = 4  # frames on either side of an event that a nine-frame window may be centred on
SMALL = 0.01  # TTNet: smaller targets are 0


@dataclass(frozen=True, eq=False)
class EventReport:
    """What predicted events are worth.

    Attributes:
        scores: PCE, PCE_strict, SPCE@.25, SPCE@.5 with ``windows`` = smooth or plain; mAP@k and AP@k (``class``), with
            ``nms`` where every frame was an answer; timing errors, false alarms.
        windows: one row per kind of window. spotting: one row per list and class (None = mean).
        confusion: rows {of, true, predicted, count}; "nothing" is a class.
        samples: kind of window -> rows [game, event frame, centre, target per class..., PCE, SPCE per tolerance...].
        matches: what was right at the largest tolerance, by falling score: [class, game, predicted, true frame].
        findings, rule: what limits the numbers, and how they were made.
    """

    scores: list[Score]
    windows: list[dict[str, Any]]
    spotting: list[dict[str, Any]]
    confusion: list[dict[str, Any]]
    samples: dict[str, list[list[Any]]]
    matches: list[list[Any]]
    findings: list[Finding]
    rule: dict[str, Any]
    classes: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> float:
        """The first score of that name over all classes and games: ``report["PCE"]``, ``report["mAP@2"]``.

        Raises:
            KeyError: no such score; the message lists those there are.
        """
        values: dict[str, float] = {}
        for s in self.scores:
            if "class" not in s.where:
                values.setdefault(s.name, s.value)
        if name not in values:
            raise KeyError(f"{name}; there are {', '.join(values)}")
        return values[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values without the samples; what is undefined is null."""
        return {
            "rule": self.rule,
            "scores": [s.to_json() for s in self.scores],
            **{k: plain(getattr(self, k)) for k in ("windows", "spotting", "confusion")},
            "findings": [f.to_json() for f in self.findings],
        }


def judge_events(
    truth: Sequence[EventTruth],
    pred: Sequence[EventAnswer],
    *,
    classes: Sequence[str] = (),
    tolerances: Sequence[int] = (0, 1, 2, 5),
    soft: Sequence[float] = (0.25, 0.5),
    nms: Sequence[int] = (5, 1, 0),
    threshold: float = 0.5,
    floor: float = 0.01,
    fps: float = math.nan,
    resamples: int = 200,
    seed: int = 0,
) -> EventReport:
    """Judge predicted events of games or rallies.

    Args:
        truth, pred: one per game, matched by name. Predictions that carry probabilities get PCE, SPCE and the mAP of
            "every frame is an answer"; those that carry a list get the mAP of that list; all must carry the same.
        classes: event classes; default: the predictions' columns, or all names that occur.
        tolerances: k of mAP@k in frames, rising; the largest also bounds what timing and confusion call the same event.
        soft: tolerances of SPCE.
        nms: windows in frames; of two answers of a class that are so close the weaker is dropped (0 = none is).
        threshold: score from which an event counts as predicted, for PCE, confusion, timing and false alarms.
        floor: probability from which a frame is an answer.
        fps: frames per second, for times in ms; NaN = only frames.
        resamples: bootstrap draws of games for the 95 % intervals; 0 = none.

    Raises:
        TercelError: no games, no predictions, an unknown game (the nearest is named), lists and probabilities mixed.
    """
    if not tolerances or list(tolerances) != sorted(set(tolerances)) or min(tolerances) < 0:
        raise TercelError(f"tolerances {tuple(tolerances)} do not rise", "for example 0,1,2,5")
    ledger = Ledger()
    clips = pair_clips(truth, pred, classes, ledger)
    several = len(clips.names) > 1
    if resamples and not several:
        ledger.add("score.one_rally", Severity.INFO, "a single game: no intervals", clips.names[0])
    elif resamples and len(clips.names) < 10:
        ledger.add("score.few_rallies", Severity.INFO,
                   f"the intervals rest on {len(clips.names)} games only and are rather too narrow")  # fmt: skip
    weights = picture_weights(len(clips.names), resamples if several else 0, seed, np.float64)
    score = _Scorer(several)
    windows, samples, confusion = [], {}, []
    if clips.dense:
        for kind in ("smooth", "plain"):
            s = sample_windows(clips, smooth=kind == "smooth", ledger=ledger)
            row, samples[kind] = _judge_windows(s, clips, soft, threshold, weights, score, kind)
            windows.append(row)
            if kind == "plain":
                confusion += _window_confusion(s, clips, threshold, score, weights)
    spotting, matches = [], []
    for i, (window, lists) in enumerate(_lists(clips, nms, floor).items()):
        where = {} if window is None else {"nms": window}
        rows, matched = _judge_list(clips, lists, tolerances, weights, score, where)
        spotting += rows
        if i == 0:
            matches = [[c, clips.names[g], p, t] for c, g, p, t, _ in matched]
            _timing(matched, threshold, fps, weights, score, max(tolerances), where)
            confusion += _event_confusion(clips, lists, threshold, max(tolerances), fps, score, weights, where)
    return EventReport(
        score.scores, windows, spotting, confusion, samples, matches, list(ledger.findings()),
        {"protocol": "events", "classes": list(clips.classes), "games": len(clips.names), "threshold": threshold,
         "tolerances": list(tolerances), "nms": list(nms) if clips.dense else [], "floor": floor,
         "fps": None if math.isnan(fps) else fps, "resamples": resamples if several else 0, "seed": seed},
        clips.classes,
    )  # fmt: skip


class _Scorer:
    """Collects scores; column 0 of the values is the score, the others are draws."""

    def __init__(self, spread: bool) -> None:
        self.spread = spread
        self.scores: list[Score] = []

    def __call__(self, name: str, x: Array, n: int, where: Mapping[str, Any], scale: float = 1.0) -> float:
        """`scale`: a number that all values lie below; `interval` keeps within 0..1. 0 = no interval."""
        value, low, high = float(x[0]), math.nan, math.nan
        if self.spread and scale and len(x) > 1 and not math.isnan(value):
            low, high = (scale * y for y in interval(value / scale, x[1:] / scale))
        self.scores.append(Score(name, value, n, low, high, dict(where)))
        return value


# -- windows: PCE and SPCE ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Samples:
    """Windows: game, event frame and centre i64 [S]; target f64 [S,E]; answer f64 [S,E]; name of the event."""

    game: Ints
    event: Ints
    centre: Ints
    target: Array
    answer: Array
    name: tuple[str, ...]


def sample_windows(clips: Clips, *, smooth: bool, ledger: Ledger) -> Samples:
    """Windows as TTNet's get_events_infor lists them.

    For every annotated event in the file's order the nine windows centred on e-4 ... e+4, or only the one on e for
    `EMPTY` and without smoothing. A window whose last frame (centre + 4) does not show the ball is left out. The target
    is cos(n pi / 8) for a window n frames from its own event, below .01 zero; other events near by do not count.
    """
    game, event, centre, name = [], [], [], []
    lost = 0
    for g, t in enumerate(clips.truth):
        shown = None if t.shown is None else set(t.shown.tolist())
        end = t.first + t.frames if t.frames else None
        for e in t.events:
            if e.name != EMPTY and e.name not in clips.classes:
                continue  # a class that is not judged
            for n in range(-REACH, REACH + 1) if smooth and e.name != EMPTY else (0,):
                c = e.frame + n
                inside = c - REACH >= t.first and (end is None or c + REACH < end)
                if not inside or (shown is not None and c + REACH not in shown):
                    lost += 1
                    continue
                game.append(g)
                event.append(e.frame)
                centre.append(c)
                name.append(e.name)
    if lost and not smooth:
        ledger.add("score.windows_left_out", Severity.INFO,
                   "annotated events whose window reaches beyond the clip, or ends at a frame without a ball, are no "
                   "sample for PCE and SPCE (as in TTNet)", count=lost)  # fmt: skip
    games, centres = np.array(game, np.int64), np.array(centre, np.int64)
    distance = np.abs(centres - np.array(event, np.int64))
    soft = np.cos(distance * np.pi / 8)
    soft[soft < SMALL] = 0
    own = np.array([[n == c for c in clips.classes] for n in name], np.bool_).reshape(len(name), len(clips.classes))
    answer = clips.answers(games, centres, ledger if smooth else None)
    return Samples(games, np.array(event, np.int64), centres, np.where(own, soft[:, None], 0.0), answer, tuple(name))


def _judge_windows(
    s: Samples, clips: Clips, soft: Sequence[float], threshold: float, weights: Array, score: _Scorer, kind: str
) -> tuple[dict[str, Any], list[list[Any]]]:
    wrong = (s.answer >= threshold).astype(np.int64) - (s.target >= threshold)
    off = np.abs(s.answer - s.target)
    right = {
        "PCE": wrong.sum(axis=1) == 0,  # as coded: bounce for net adds up to 0
        "PCE_strict": (wrong == 0).all(axis=1),
        **{f"SPCE@{t:g}".replace("0.", "."): ~(off > t).any(axis=1) for t in soft},
    }
    n, where = len(s.game), {"windows": kind}
    row: dict[str, Any] = {"windows": kind, "n": n}
    total = np.bincount(s.game, minlength=len(weights)) @ weights
    for name, r in right.items():
        found = np.bincount(s.game, r, len(weights)) @ weights
        row[name] = score(name, _divide(found, total), n, where)
    flags = [right[k].astype(int).tolist() for k in right if k != "PCE_strict"]
    rows = [
        [clips.names[g], e, c, *t, *f]
        for g, e, c, t, f in zip(
            s.game.tolist(), s.event.tolist(), s.centre.tolist(), s.target.tolist(), zip(*flags, strict=True),
            strict=True,
        )
    ]  # fmt: skip
    return row, rows


def _window_confusion(
    s: Samples, clips: Clips, threshold: float, score: _Scorer, weights: Array
) -> list[dict[str, Any]]:
    """One window per annotated event: what it is against the strongest answer that reaches the threshold."""
    names = (*clips.classes, "nothing")
    none = len(clips.classes)
    true = np.array([clips.classes.index(n) if n in clips.classes else none for n in s.name], np.int64)
    best = s.answer.argmax(axis=1) if len(s.game) else np.zeros(0, np.int64)
    strong = s.answer.max(axis=1, initial=0) >= threshold
    said = np.where(strong, best, none)
    empty = true == none
    alarms = np.bincount(s.game[empty & strong], minlength=len(weights)) @ weights
    total = np.bincount(s.game[empty], minlength=len(weights)) @ weights
    score("false_alarm_rate", _divide(alarms, total), int(empty.sum()), {"of": "empty windows"})
    return confusion_rows("windows", names, true, said)


# -- lists: mAP, timing, confusion --------------------------------------------------------------------------------


def _lists(clips: Clips, nms: Sequence[int], floor: float) -> dict[int | None, list[Listed]]:
    """window (None = a list was given) -> predicted events per class, by falling score."""
    if not clips.dense:
        return {None: [ranked(clips.predicted(c)) for c in range(len(clips.classes))]}
    dense = [clips.every_frame(c, floor) for c in range(len(clips.classes))]
    return {w: [ranked(thin(x, w)) for x in dense] for w in nms}


def _judge_list(
    clips: Clips,
    lists: Sequence[Listed],
    tolerances: Sequence[int],
    weights: Array,
    score: _Scorer,
    where: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], list[tuple[str, int, int, int, float]]]:
    """Rows of AP (mean, then per class); what is right at the largest tolerance: class, game, frame, true, score."""
    truths = [clips.true(c) for c in range(len(clips.classes))]
    rows: list[dict[str, Any]] = [
        {**where, "class": c, "n": len(t)} for c, t in zip(clips.classes, truths, strict=True)
    ]
    mean: dict[str, Any] = {**where, "class": None, "n": sum(map(len, truths))}
    matched: list[tuple[str, int, int, int, float]] = []
    per_class: list[tuple[str, Array, int, dict[str, Any]]] = []
    for k in tolerances:
        aps = np.full((len(truths), weights.shape[1]), np.nan)
        for c, (t, p) in enumerate(zip(truths, lists, strict=True)):
            taken = match(t, p, k)
            aps[c] = average_precision(t, p, taken, weights)
            rows[c][f"AP@{k}"] = float(aps[c, 0])
            per_class.append((f"AP@{k}", aps[c], len(t), {**where, "class": clips.classes[c]}))
            if k == max(tolerances):
                i = np.flatnonzero(taken >= 0)
                columns = p.game[i].tolist(), p.frame[i].tolist(), t.frame[taken[i]].tolist(), p.score[i].tolist()
                matched += [(clips.classes[c], *x) for x in zip(*columns, strict=True)]
        mean[f"AP@{k}"] = score(f"mAP@{k}", mean_over_classes(aps), mean["n"], where)
    for name, x, n, w in per_class:
        score(name, x, n, w)
    return [mean, *rows], matched


def _timing(
    matched: Sequence[tuple[str, int, int, int, float]],
    threshold: float,
    fps: float,
    weights: Array,
    score: _Scorer,
    within: int,
    where: Mapping[str, Any],
) -> None:
    """Mean |predicted - true| and mean (predicted - true) of events that were found, late = positive."""
    strong = [m for m in matched if m[4] >= threshold]
    game = np.array([m[1] for m in strong], np.int64)
    late = np.array([m[2] - m[3] for m in strong], np.float64)
    total = np.bincount(game, minlength=len(weights)) @ weights
    where = {**where, "within": within, "threshold": threshold}
    units = {"frames": 1.0} | ({} if math.isnan(fps) else {"ms": 1000 / fps})
    for unit, one in units.items():
        size, lag = (np.bincount(game, x * one, len(weights)) @ weights for x in (np.abs(late), late))
        score(f"timing_error_{unit}", _divide(size, total), len(strong), where, 4 * one * max(1, within))
        score(f"timing_bias_{unit}", _divide(lag, total), len(strong), where, 0)


def _event_confusion(
    clips: Clips,
    lists: Sequence[Listed],
    threshold: float,
    within: int,
    fps: float,
    score: _Scorer,
    weights: Array,
    where: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Events of all classes matched whatever their class; then how often which was taken for which, or for nothing."""
    none = len(clips.classes)

    def pooled(get: Callable[[int], Listed]) -> tuple[Listed, Ints]:
        parts = [get(c) for c in range(none)]
        label = np.concatenate([np.full(len(x), c, np.int64) for c, x in enumerate(parts)])
        columns = (np.concatenate([getattr(x, k) for x in parts]) for k in ("game", "frame", "score"))
        return Listed(*columns), label

    truth, true = pooled(clips.true)
    pred, said = pooled(lambda c: lists[c].take(lists[c].score >= threshold))
    order = np.lexsort((pred.frame, pred.game, -pred.score))
    pred, said = pred.take(order), said[order]
    taken = match(truth, pred, within)
    hit = taken >= 0
    missed = np.setdiff1d(np.arange(len(truth)), taken[hit])
    left = np.concatenate([true[taken[hit]], np.full((~hit).sum(), none), true[missed]])
    right = np.concatenate([said[hit], said[~hit], np.full(len(missed), none)])
    if clips.frames_known:
        far = clips.far_from_events(pred, within)
        alarms = np.bincount(pred.game[far], minlength=len(weights)) @ weights
        background = clips.background_frames(within).astype(np.float64) @ weights
        x, n = _divide(alarms, background), int(background[0])
        where = {**where, "within": within, "threshold": threshold}
        score("false_alarms_per_1000_frames", 1000 * x, n, where, 2000 * (none + 1))
        if not math.isnan(fps):
            score("false_alarms_per_minute", 60 * fps * x, n, where, 120 * fps * (none + 1))
    return confusion_rows("events", (*clips.classes, "nothing"), left, right)


def _divide(x: Array, y: Array) -> Array:
    """x / y, NaN where y is 0."""
    out: Array = np.divide(x, y, out=np.full(y.shape, np.nan), where=y > 0)
    return out
