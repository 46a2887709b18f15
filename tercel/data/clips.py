"""Windows of T frames out of rallies. A rally is a `Record` of consecutive frames; a window is one too, of T of them.

With stride s, frame k of a window is frame `first + k s` of the rally. Where a window reaches beyond the rally (only
covering ones do), the nearest frame is repeated, and `window_frames` marks the repetition: it answers for nothing.

Shape legend: T frames of a window; F frames of a rally.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.config import Clip
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Event, Frame, Record
from tercel.core.track import Track

BACKGROUND = 15  # frames behind a median picture
# Events this many frames outside of a window stay in it, under indices below 0 or from T on: their soft targets reach
# in. Without them one frame would have different targets in different windows.
EVENT_MARGIN = 64


def span(clip: Clip) -> int:
    """Rally frames from the first to the last of a window, both counted."""
    return (clip.frames - 1) * clip.stride + 1


def window_frames(window: Record, rally: Record, clip: Clip) -> NDArray[np.int64]:
    """i64 [T] the frame number that each frame of a window stands for; -1 where the nearest frame was repeated."""
    numbers = window.first + np.arange(clip.frames) * clip.stride
    within = (numbers >= rally.first) & (numbers < rally.first + len(rally.frames))
    return np.where(within, numbers, -1)


def rally_of(window: Record) -> str:
    """The id of the rally that a window was cut out of."""
    return window.id.rpartition("@")[0]


def training_windows(dataset: Dataset, clip: Clip) -> Dataset:
    """Windows that lie fully inside their rally, one every `clip.hop` frames. Rallies that are too short are counted.

    Raises:
        TercelError: no rally is long enough.
    """
    ledger = Ledger()
    backgrounds = background_frames(dataset) if clip.background else {}
    windows: list[Record] = []
    for rally in dataset.records:
        room = len(rally.frames) - span(clip)
        if room < 0:
            message = f"rallies shorter than a window of {span(clip)} frames were left out"
            where = f"{rally.source or rally.id} ({rally.id}: {len(rally.frames)} frames)"
            ledger.add("clips.too_short", Severity.WARNING, message, where)
        starts = range(0, room + 1, clip.hop)
        windows += _cut(rally, starts, clip, backgrounds.get(rally.id, ()))
    if not windows and len(dataset):
        longest = max(dataset.records, key=lambda r: len(r.frames))
        raise TercelError(
            f"{dataset.source}: no rally is as long as a window of {span(clip)} frames; the longest, {longest.id} "
            f"({longest.source}), has {len(longest.frames)}",
            "set model.clip.frames or model.clip.stride to less",
        )
    return Dataset(dataset.schema, tuple(windows), (*dataset.findings, *ledger.findings()), dataset.source)


def covering_windows(dataset: Dataset, clip: Clip, hop: int = 0) -> Dataset:
    """Windows that answer for every frame of every rally at least once.

    Args:
        hop: rally frames between the starts of windows; 0 = as far as they can go without a gap. Whatever a hop leaves
            unanswered (at the ends, between windows that are too far apart) gets windows of its own.
    """
    backgrounds = background_frames(dataset) if clip.background else {}
    windows: list[Record] = []
    for rally in dataset.records:
        windows += _cut(rally, covering_starts(len(rally.frames), clip, hop), clip, backgrounds.get(rally.id, ()))
    return Dataset(dataset.schema, tuple(windows), dataset.findings, dataset.source)


def covering_starts(count: int, clip: Clip, hop: int = 0) -> list[int]:
    """Where windows begin (possibly before 0) so that each of `count` frames is answered for; rising."""
    answers = np.array(clip.answered) * clip.stride
    first, last = int(answers[0]), count - 1 - int(answers[-1])
    starts = set(range(-first, last + 1, hop)) if hop else set()
    done = np.zeros(count, np.bool_)
    for s in starts:
        done[s + answers] = True
    for frame in range(count):
        if done[frame]:
            continue
        start = frame - first
        # Several answers: shift back, by whole strides, until the window ends with the rally, but not before its start.
        back = min(-(-max(0, start - last) // clip.stride), len(answers) - 1, max(0, start) // clip.stride)
        start -= back * clip.stride
        starts.add(start)
        reached = start + answers
        done[reached[(reached >= 0) & (reached < count)]] = True
    return sorted(starts)


def background_frames(dataset: Dataset) -> dict[str, tuple[Frame, ...]]:
    """For each rally at most 15 frames, evenly spread over all rallies of its video (pictures: over itself)."""
    videos: dict[Path, list[Frame]] = defaultdict(list)
    for r in dataset.records:
        if r.frames[0].index >= 0:
            videos[r.frames[0].path] += r.frames
    by_video = {path: _spread(sorted(set(frames), key=lambda f: f.index)) for path, frames in videos.items()}
    return {r.id: by_video.get(r.frames[0].path) or _spread(r.frames) for r in dataset.records}


def _spread(frames: Iterable[Frame]) -> tuple[Frame, ...]:
    every = list(frames)
    return tuple(every[i] for i in spread(len(every)))


def spread(count: int) -> list[int]:
    """At most 15 of `count` places, evenly spread, both ends included: the frames behind a median picture."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, BACKGROUND).round())]


def median_picture(pictures: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Median of pictures of one size, u8 [H,W,3]: the background, in training and prediction alike."""
    return np.asarray(np.median(np.stack(list(pictures)), axis=0).astype(np.uint8))


def tracks(dataset: Dataset) -> list[Track]:
    """The truth of rally records (not of windows)."""
    return [
        Track.from_objects(r.objects, r.first + np.arange(len(r.frames)), name=r.id, group=r.group, source=r.source)
        for r in dataset.records
    ]


def _cut(rally: Record, starts: Iterable[int], clip: Clip, background: tuple[Frame, ...]) -> list[Record]:
    count, t = len(rally.frames), np.arange(clip.frames)
    objects = rally.objects
    if len(objects) and objects.frame is None:
        raise TercelError(f"{rally.source}: {rally.id} has objects without a frame", "give each its frame")
    at = objects.frame if objects.frame is not None else np.zeros(0, np.int64)
    order = np.argsort(at, kind="stable")
    edges = np.searchsorted(at[order], np.arange(count + 1))
    out = []
    for start in starts:
        numbers = start + t * clip.stride
        places = np.clip(numbers, 0, count - 1)
        counts = edges[places + 1] - edges[places]
        rows = [order[edges[p] : edges[p + 1]] for p in places.tolist()]
        part = objects[np.concatenate(rows)]
        if objects.frame is not None:
            columns = {n: getattr(part, n) for n in part.columns} | {"frame": np.repeat(t, counts)}
            columns["frame"].setflags(write=False)
            part = Objects._trusted(part.size, columns)  # rows of what was checked
        out.append(
            dataclasses.replace(
                rally,
                id=f"{rally.id}@{rally.first + start:06d}",
                objects=part,
                first=rally.first + start,
                frames=tuple(rally.frames[p] for p in places.tolist()),
                events=_events(rally, start, clip),
                background=background,
            )
        )
    return out


def _events(rally: Record, start: int, clip: Clip) -> tuple[Event, ...]:
    """The rally's events by index within a window, to the nearest of its frames; see EVENT_MARGIN."""
    low, high = start - EVENT_MARGIN, start + span(clip) - 1 + EVENT_MARGIN
    return tuple(
        Event(int(np.floor((e.frame - start) / clip.stride + 0.5)), e.name)
        for e in rally.events
        if low <= e.frame <= high
    )
