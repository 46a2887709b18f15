"""The task "ball": rallies to windows, answers to trajectories, trajectories to a judgement.

A rally is decoded by engine/stream.py whoever asks: the loop's evaluations, `tercel eval` and `tercel predict`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.config import Recipe
from tercel.core.files import write_atomic
from tercel.core.finding import Finding, Ledger, Score, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Event, Record
from tercel.core.timeline import EventAnswer, EventTruth
from tercel.core.track import Track
from tercel.data.cache import PictureStore
from tercel.data.clips import background_frames, median_picture, tracks, training_windows
from tercel.data.loader import read_checked, store_for
from tercel.data.tracks import write_track
from tercel.engine.device import Runtime
from tercel.engine.evaluate import Evaluation, Progress
from tercel.engine.run import Run
from tercel.engine.stream import Decoded, decode_frames
from tercel.engine.windows import window_hop
from tercel.metrics.events import EventReport, judge_events
from tercel.metrics.points import PointReport, judge_points
from tercel.metrics.rules import ALL
from tercel.models.detector import Detector
from tercel.models.motion import best_track, smooth_track

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Rallies:
    """This process's share of a data set, with the store of its decoded frames."""

    dataset: Dataset
    store: PictureStore


@dataclass(frozen=True, eq=False)
class BallReport:
    """What a judge says of trajectories, and of events where there are any."""

    points: PointReport
    events: EventReport | None

    @property
    def scores(self) -> list[Score]:
        return [*self.points.scores, *(self.events.scores if self.events is not None else ())]

    @property
    def findings(self) -> list[Finding]:
        return [*self.points.findings, *(self.events.findings if self.events is not None else ())]

    def __getitem__(self, name: str) -> float:
        return self.points[name]

    def to_json(self) -> dict[str, Any]:
        """That of `PointReport`, with `events` beside it (null without events)."""
        return {**self.points.to_json(), "events": None if self.events is None else self.events.to_json()}


@dataclass(frozen=True, eq=False)
class BallAnswer:
    """The trajectory of a rally, its probabilities of events f64 [N,E] or None, and the events read off them."""

    track: Track
    probability: NDArray[np.float64] | None
    events: tuple[Event, ...]  # by frame number
    scores: NDArray[np.float64]  # one per event


class BallTask:
    """A ball in clips."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.settings = recipe, recipe.evaluate
        window_hop(recipe.model.clip, recipe.evaluate.ball.hop)  # refuses one that leaves frames without an answer

    def training(self, dataset: Dataset) -> Dataset:
        return training_windows(dataset, self.recipe.model.clip)

    def loader(
        self, dataset: Dataset, *, rank: int = 0, world: int = 1, store: PictureStore | None = None
    ) -> Rallies | None:
        """Whole rallies, dealt to the processes in turn: overlapping windows of one are averaged in one place."""
        mine = dataset.records[rank::world]
        if not mine:
            return None
        share = replace(dataset, records=mine, _places={})
        return Rallies(share, store or store_for(share, self.recipe.data, world))

    def detect(
        self, model: Detector, loader: Rallies, runtime: Runtime, progress: Progress | None = None
    ) -> tuple[dict[str, Any], tuple[Finding, ...]]:
        """`Decoded` by the id of the rally."""
        ledger, found, done = Ledger(), {}, 0
        records = loader.dataset.records
        total = sum(len(r.frames) for r in records)
        backgrounds = background_frames(loader.dataset) if self.recipe.model.clip.background else {}
        for r in records:
            background = None
            if r.id in backgrounds:
                background = median_picture(read_checked(r, f, loader.store.get) for f in backgrounds[r.id])
            found[r.id] = decode_frames(
                model, self.recipe, _pictures(r, loader.store), r.size, runtime, first=r.first, background=background
            )
            ledger.extend(found[r.id].findings)
            done += len(r.frames)
            if progress:
                progress(done, total)
        return found, ledger.findings()

    def judge(
        self,
        dataset: Dataset,
        found: dict[str, Any],
        findings: tuple[Finding, ...] = (),
        resamples: int | None = None,
    ) -> Evaluation:
        """Under every published rule, that of `evaluate.ball.rule` first."""
        names = dataset.schema.events
        answers = {
            r.id: answer(found[r.id], self.recipe, names, name=r.id, group=r.group, source=r.source)
            for r in dataset.records
        }
        first = self.settings.ball.rule
        count = self.settings.resamples if resamples is None else resamples
        points = judge_points(
            tracks(dataset),
            [a.track for a in answers.values()],
            rules=(first, *(r for r in ALL if r != first)),
            resamples=count,
        )
        report = BallReport(points, self._events(dataset, answers, count))
        ids = tuple(answers)
        return Evaluation(ids, tuple(answers.values()), report, (*findings, *report.findings))

    def _events(self, dataset: Dataset, answers: dict[str, BallAnswer], resamples: int) -> EventReport | None:
        if not dataset.schema.events or any(a.probability is None for a in answers.values()):
            return None
        truth = [
            EventTruth(
                r.id, tuple(Event(r.first + e.frame, e.name) for e in r.events), frames=len(r.frames), first=r.first,
                source=r.source,
            )
            for r in dataset.records
        ]  # fmt: skip
        said = [
            EventAnswer(id, a.events, a.scores, a.track.frame, a.probability, dataset.schema.events)
            for id, a in answers.items()
        ]
        return judge_events(truth, said, classes=dataset.schema.events, resamples=resamples)

    def samples(self, dataset: Dataset, evaluation: Evaluation, count: int) -> list[tuple[Record, Objects]]:
        """Frames evenly spread over all rallies, each as a record of one frame."""
        places = [(i, f) for i, r in enumerate(dataset.records) for f in range(len(r.frames))]
        chosen = [places[int(p)] for p in np.linspace(0, len(places) - 1, count + 2)[1:-1]] if places else []
        return [self._sample(dataset.records[i], evaluation.predictions[i].track, f) for i, f in chosen]

    @staticmethod
    def _sample(rally: Record, track: Track, f: int) -> tuple[Record, Objects]:
        def one(objects: Objects) -> Objects:
            return objects[objects.frame == f] if objects.frame is not None else objects

        id = f"{rally.id}@{rally.first + f:06d}"
        record = replace(rally, id=id, frames=(rally.frames[f],), objects=one(rally.objects), events=())
        return record, one(track.objects())

    def write(self, run: Run, dataset: Dataset, evaluation: Evaluation) -> None:
        """tracks/<rally>.csv, and tracks/<rally>_events.csv where there are events; earlier ones are replaced."""
        for id, a in zip(evaluation.ids, evaluation.predictions, strict=True):
            path = run.path / "tracks" / f"{id}.csv"
            for old in (path, path.with_name(f"{path.stem}_events.csv")):
                old.unlink(missing_ok=True)  # of a judgement that was cut off
            write_answer(path, a)


def _pictures(record: Record, store: PictureStore) -> Iterator[Pixels]:
    return (read_checked(record, frame, store.get) for frame in record.frames)


def answer(decoded: Decoded, recipe: Recipe, events: tuple[str, ...], **names: str) -> BallAnswer:
    """The trajectory and the events of one clip.

    Args:
        events: names of the columns of `decoded.events`.
        names: name, group and source of the track.
    """
    ball = recipe.evaluate.ball
    if ball.track:
        track = smooth_track(decoded.candidates, ball, both_ways=True, **names)
    else:
        track = best_track(decoded.candidates, ball.threshold, **names)
    if decoded.events is None:
        return BallAnswer(track, None, (), np.zeros(0))
    listed = [
        (int(track.frame[i]), name, float(decoded.events[i, k]))
        for k, name in enumerate(events)
        for i in peaks(decoded.events[:, k], ball.threshold, recipe.model.head.events.reach)  # type: ignore[union-attr]
    ]
    listed.sort()
    found = tuple(Event(frame, name) for frame, name, _ in listed)
    return BallAnswer(track, decoded.events, found, np.array([s for _, _, s in listed]))


def peaks(probability: NDArray[np.float64], threshold: float, reach: int) -> list[int]:
    """Rows whose probability reaches the threshold and is the highest within `reach` rows (the first of equals)."""
    out = []
    for i in np.flatnonzero(probability >= threshold).tolist():
        low = max(0, i - reach)
        if i == low + int(probability[low : i + reach + 1].argmax()):
            out.append(i)
    return out


def write_answer(path: Path, a: BallAnswer) -> list[Path]:
    """`path` (`Frame,Visibility,X,Y,Score,Filled,Sigma`) and, with events, `<stem>_events.csv` (`Frame,Event,Score`).

    Raises:
        TercelError: one of them exists, or cannot be written.
    """
    names = path.with_name(f"{path.stem}_events.csv")
    if a.probability is not None and names.exists():
        raise TercelError(f"{names} exists already", "remove it or choose another name")
    n = len(a.track)
    filled = a.track.filled if a.track.filled is not None else np.zeros(n, np.bool_)
    sigma = a.track.sigma if a.track.sigma is not None else np.full(n, np.nan)
    write_track(path, a.track.replace(filled=filled, sigma=sigma))
    if a.probability is None:
        return [path]
    rows = [f"{e.frame},{e.name},{s:.4f}" for e, s in zip(a.events, a.scores.tolist(), strict=True)]
    write_atomic(names, "\n".join(["Frame,Event,Score", *rows]) + "\n")
    return [path, names]
