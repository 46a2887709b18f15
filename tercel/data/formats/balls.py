"""What the formats of balls in video share: rallies checked against their frames, records assembled, rallies written.

A record is one rally: a run of consecutive labelled frames. Shape legend: F frames of a rally.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.core.track import ABSENT, Track
from tercel.data import tracks
from tercel.data.formats import common, target
from tercel.data.formats.common import Options
from tercel.data.images import check_whole, is_picture, picture_size
from tercel.data.tracks import Rally

CLASS = "ball"


def record(rally: Rally, frames: Sequence[Frame], ledger: Ledger, boxes: NDArray[np.float32] | None = None) -> Record:
    """The record of a rally without gaps. Balls outside of the frame become absent, and are counted.

    Args:
        frames: F places of the pixels, in the order of the track's rows.
        boxes: f32 [F,4] x1 y1 x2 y2 in px where the size of the ball is known; absent rows are not looked at.
    """
    track = rally.track
    far = tracks.outside(track.xy, track.size)
    for i in np.flatnonzero(far).tolist():
        message = "balls outside of their frame count as absent"
        ledger.add("labels.outside_absent", Severity.WARNING, message, rally.where(i))
    if far.any():
        track = track.replace(visibility=np.where(far, ABSENT, track.visibility))
    objects = track.objects()
    if boxes is not None:
        objects = objects.replace(boxes=boxes[track.present])
    return Record(
        track.name, tuple(frames), track.size, objects, rally.events, track.group, track.source, int(track.frame[0])
    )


def dataset(records: Iterable[Record], ledger: Ledger, options: Options, source: str) -> Dataset:
    """The records with a schema of one class and the events that occur.

    Raises:
        TercelError: no rallies, or other classes were asked for than the ball.
    """
    rallies = tuple(records)
    if not rallies:
        raise TercelError(f"{source} holds no rally", "choose another folder or split")
    classes = options.classes or (CLASS,)
    if len(classes) != 1:
        raise TercelError(f"{source}: the classes are ['{CLASS}'], not {list(classes)}", "balls have one class")
    events = sorted({e.name for r in rallies for e in r.events})
    return Dataset(Schema(classes, events=tuple(events)), rallies, ledger.findings(), source)


# -- frames -------------------------------------------------------------------------------------------------------


def in_video(rally: Rally, video: Path, ledger: Ledger, options: Options) -> tuple[Rally, list[Frame]]:
    """The rally's rows that the video has frames for, and those frames.

    Raises:
        TercelError: labels numbered from 1 for all of the video, or far longer than it.
    """
    from tercel.data.video import Video

    clip = Video(video)
    ledger.extend(clip.findings())
    numbers, count = rally.track.frame, len(clip)
    beyond = int((numbers >= count).sum())
    if beyond and numbers[0] == 1 and numbers[-1] == count:
        raise TercelError(
            f"{rally.where(0)}: rows are numbered 1..{count}, the frames of {video} 0..{count - 1}: every label comes "
            "one frame late",
            "take 1 off all frame numbers",
        )
    if beyond > options.max_drop * len(numbers):
        raise TercelError(
            f"{rally.where(len(numbers) - beyond)}: frame {numbers[-beyond]}, but {video} has frames 0..{count - 1} "
            f"({beyond} of {len(numbers)} rows lie beyond)",
            "pair the labels with the video they were drawn on",
        )
    if beyond:
        message = "rows beyond the end of their video were left out"
        where = f"{rally.where(len(numbers) - beyond)} ({count} frames)"
        ledger.add("labels.longer_than_video", Severity.WARNING, message, where, beyond)
        rally = rally[: len(numbers) - beyond]
    elif numbers[-1] < count - 1 or numbers[0] > 0:
        message = "frames of a video before the first or behind the last row have no label"
        without = count - 1 - int(numbers[-1]) + int(numbers[0])
        ledger.add("labels.shorter_than_video", Severity.INFO, message, rally.where(len(numbers) - 1), without)
    return rally, [Frame(video, int(i)) for i in rally.track.frame]


def numbered(folder: Path) -> dict[int, Path]:
    """The pictures of a folder by the number that their names end with.

    Raises:
        TercelError: two with the same number.
    """
    found: dict[int, Path] = {}
    for p in sorted(folder.iterdir()):
        digits = re.search(r"(\d+)$", p.stem)
        if digits and is_picture(p):
            other = found.setdefault(int(digits[1]), p)
            if other != p:
                raise TercelError(f"{other} and {p} have the same number", "keep one of them")
    return found


def in_folder(rally: Rally, folder: Path, ledger: Ledger, options: Options) -> tuple[Rally, list[Frame]]:
    """The rally's rows that the folder has numbered pictures for, and those pictures.

    Raises:
        TercelError: labels and pictures numbered one apart, or many rows without a picture.
    """
    pictures = numbered(folder)
    numbers = rally.track.frame.tolist()
    missing = [i for i, n in enumerate(numbers) if n not in pictures]
    if missing and len(pictures) == len(numbers):
        for shift in (1, -1):
            if all(n - shift in pictures for n in numbers):
                first, low = numbers[0], min(pictures)
                raise TercelError(
                    f"{rally.where(0)}: rows are numbered from {first}, the pictures in {folder} from {low}",
                    f"take {shift} off all frame numbers" if shift > 0 else "add 1 to all frame numbers",
                )
    if len(missing) > options.max_drop * len(numbers):
        raise TercelError(
            f"{rally.where(missing[0])}: there is no picture {numbers[missing[0]]} in {folder} "
            f"({len(missing)} of {len(numbers)} rows have none)",
            "pair the labels with the frames they were drawn on",
        )
    for i in missing:
        ledger.add("labels.no_picture", Severity.WARNING, "rows without a picture were left out", rally.where(i))
    if missing:
        kept = [i for i in range(len(numbers)) if numbers[i] in pictures]
        places = {old: new for new, old in enumerate(kept)}
        events = tuple(dataclasses.replace(e, frame=places[e.frame]) for e in rally.events if e.frame in places)
        rally = Rally(rally.track[kept], events, tuple(rally.lines[i] for i in kept))
    return rally, [Frame(pictures[int(n)]) for n in rally.track.frame]


def one_size(paths: Sequence[Path], options: Options, what: str) -> tuple[int, int]:
    """(H, W) of all pictures of a run.

    Raises:
        TercelError: missing, unreadable or cut off, or of different sizes; the picture is named.
    """
    first: tuple[int, int] | None = None
    for p in paths:
        size = picture_size(p)
        if options.pictures:
            check_whole(p)
        if first is not None and size != first:
            message = (
                f"{p} is {size[1]}x{size[0]}, {paths[0]} of the same {what} {first[1]}x{first[0]} (width x height)"
            )
            raise TercelError(message, "give all frames of a clip one size")
        first = size
        if not options.pictures:
            break
    assert first is not None
    return first


# -- writing ------------------------------------------------------------------------------------------------------


def track_of(r: Record, format_: str) -> Track:
    """The trajectory of a rally record.

    Raises:
        TercelError: objects that are no balls, or an id that is no file name.
    """
    target.file_stem(r)
    o = r.objects
    if len(o) and (o.points is None or o.frame is None or o.points.shape[1] != 1):
        raise TercelError(f"record {r.id!r} has objects that are no balls", f"{format_} holds one ball in each frame")
    if len(o) and len(set(o.frame.tolist() if o.frame is not None else ())) < len(o):
        raise TercelError(f"record {r.id!r} has several balls in one frame", f"{format_} holds one ball in each frame")
    return Track.from_objects(o, r.first + np.arange(len(r.frames)), name=r.id, group=r.group, source=r.source)


def video_of(r: Record) -> Path | None:
    """The video that a rally is a piece of, its frames being those from `first` on; None for pictures.

    Raises:
        TercelError: frames of several files, or in another order.
    """
    paths = {f.path for f in r.frames if f.index >= 0}
    if not paths:
        return None
    if len(paths) > 1 or [f.index for f in r.frames] != list(range(r.first, r.first + len(r.frames))):
        raise TercelError(f"record {r.id!r} is no run of consecutive frames of one video", "write rallies, not windows")
    return paths.pop()


def place_all(places: Mapping[Path, Path]) -> None:
    """Links or copies {target: source}; refused before anything is written when a source is missing.

    Raises:
        TercelError: a source does not exist.
    """
    for source in places.values():
        if not source.is_file():
            raise TercelError(f"{source} does not exist", "a data set is written with its pictures")
    for to, source in places.items():
        target.place_picture(source, to)


def wanted(split: str, known: Sequence[str], what: str) -> list[str]:
    """The names in `split` (several separated by commas), each one of `known`.

    Raises:
        TercelError: a name that is not known; the nearest one is named.
    """
    names = [n.strip() for n in split.split(",") if n.strip()]
    for n in names:
        if n not in known:
            raise common.unknown_split(what, n, known)
    return names
