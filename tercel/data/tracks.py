"""Trajectories on disk: a csv with a row per frame, as truth or as predictions.

Columns may stand in any order and case. `Frame,Visibility,X,Y` is TrackNet's layout (0 absent, 1 clear, 2 blurred,
3 occluded); without a visibility column, blank fields mean "not visible". Further columns that are read: `Event`, `hit`
or `status` (0 or empty = none), and for predictions `Score`, `Filled`, `Sigma`. Others (dX, dY, Type...) are not.

Label files hold pixel indices and Tercel continuous coordinates: 0.5 is added here on reading and taken off on
writing, and nowhere else. NumPy only.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Event
from tercel.core.track import ABSENT, Track
from tercel.data import track_table
from tercel.data.track_table import Table

ASSUMED = ((720, 1280), (1080, 1920), (2160, 3840))  # (H, W): the first that holds all labels, where nobody says
CSV_FOLDERS = ("csv", "ball_trajectory", "corrected_csv")
LABEL = "label"  # a csv of this name is called after its folder
OUTSIDE = 0.1  # share of balls outside the frame from which the labels cannot belong to it
_STATUS = {"1": "hit", "2": "bounce"}  # the `status` of TrackNet's tennis set
_NONE = {"", "0", "none", "nan", "empty", "no", "false"}


@dataclass(frozen=True, eq=False)
class Rally:
    """A trajectory with its events; `Event.frame` counts the track's rows from 0. `lines` are those of the file."""

    track: Track
    events: tuple[Event, ...] = ()
    lines: tuple[int, ...] = ()

    def where(self, i: int) -> str:
        """file:line of row i."""
        return f"{self.track.source}:{self.lines[i]}" if self.lines else self.track.source

    def __getitem__(self, rows: slice) -> Rally:
        """Consecutive rows, with their events."""
        index = range(len(self.track))[rows]
        events = tuple(Event(e.frame - index.start, e.name) for e in self.events if e.frame in index)
        return Rally(self.track[rows], events, self.lines[rows])


def read_tracks(
    path: Path, *, size: tuple[int, int] | None = None, ledger: Ledger, predictions: bool = False
) -> list[Track]:
    """The trajectories of `read_rallies`, without their events."""
    return [r.track for r in read_rallies(path, size=size, ledger=ledger, predictions=predictions)]


def read_rallies(
    path: Path, *, size: tuple[int, int] | None = None, ledger: Ledger, predictions: bool = False
) -> list[Rally]:
    """One rally for each csv: of one file, or of all below a folder (but our own `*_events.csv`).

    A rally is named after its path within the folder, without `_ball` and without a folder called csv,
    ball_trajectory or corrected_csv; its group is the folder that this leaves (the match).

    Args:
        size: (H, W) of the frames in px. By default that of the video or the frames beside the csv; where there are
            none 720 x 1280 is assumed (or 1080 x 1920 when the labels need it), and a finding says so.
        ledger: takes the findings.
        predictions: read scores; a missing Score column counts as 1 for every ball that was found.

    Raises:
        TercelError: no csv; columns that are missing; values that are no numbers; frames that occur twice; balls
            outside of the frame (x and y exchanged, say); shares of the frame where its size is not known. The file
            and the row are named.
    """
    files = [path] if path.is_file() else find_tables(path, ledger)
    assumed = ASSUMED[0] if size else assumed_size(files)
    rallies, values = [], []
    for file in files:
        name, group = (rally_name(file, file.parent)[0], "") if path.is_file() else rally_name(file, path)
        rally, seen = read_table(
            file, name=name, group=group, size=size, assumed=assumed, ledger=ledger, predictions=predictions
        )
        rallies.append(rally)
        values += seen
    return without_constant_events(rallies, values, str(path), ledger)


def find_tables(folder: Path, ledger: Ledger | None = None) -> list[Path]:
    """All csv below `folder` that may hold a trajectory, sorted. Of one in csv/ and one in corrected_csv/ the latter.

    Raises:
        TercelError: the folder does not exist or holds none, or two of them are the same rally.
    """
    if not folder.is_dir():
        raise TercelError(f"{folder} does not exist", "give a csv, or a folder with one csv for each rally")
    files = sorted(f for f in folder.rglob("*.csv") if not f.name.endswith("_events.csv") and f.is_file())
    if not files:
        raise TercelError(f"{folder} holds no csv", "give a folder with one csv (Frame,Visibility,X,Y) for each rally")
    chosen: dict[str, Path] = {}
    for file in sorted(files, key=lambda f: f.parent.name.lower() != "corrected_csv"):
        name = rally_name(file, folder)[0]
        first = chosen.setdefault(name, file)
        if first == file:
            continue
        if first.parent.name.lower() != "corrected_csv" or file.parent.name.lower() == "corrected_csv":
            raise TercelError(f"{first} and {file} are both the rally {name!r}", "keep one of them, or rename it")
        if ledger is not None:
            message = "labels that also exist in a corrected_csv folder were left out"
            ledger.add("labels.corrected", Severity.INFO, message, str(file))
    return sorted(chosen.values())


def rally_name(file: Path, root: Path) -> tuple[str, str]:
    """(name, group) of a csv: its path within `root` without folders that all labels lie in, and its folder."""
    parts = [p for p in file.relative_to(root).parts[:-1] if p.lower() not in CSV_FOLDERS]
    if file.stem.lower() == LABEL and parts:  # TrackNet's tennis: <game>/<clip>/Label.csv beside the pictures
        return "/".join(parts), "/".join(parts[:-1])
    stem = re.sub(r"_ball$", "", file.stem)
    return "/".join([*parts, stem]), "/".join(parts)


def read_table(
    file: Path,
    *,
    name: str = "",
    group: str = "",
    size: tuple[int, int] | None = None,
    assumed: tuple[int, int] = ASSUMED[0],
    ledger: Ledger,
    predictions: bool = False,
) -> tuple[Rally, list[str]]:
    """One csv, and the values of its event column (none where there is no such column).

    Args:
        assumed: (H, W) where neither `size` nor a video or frames beside the csv say; the rest as `read_rallies`.

    Raises:
        TercelError: as `read_rallies`.
    """
    table = track_table.read(file, ledger)
    visibility, xy = table.places(ledger)
    beside = size or size_beside(file)
    canvas, known = beside or assumed, beside is not None
    if not known:
        h, w = canvas
        message = f"the size of the frames is not known; {w}x{h} (width x height) is assumed, as in the public sets"
        ledger.add("labels.size_assumed", Severity.INFO, message, str(file))
    xy = _in_pixels(table, visibility, xy, canvas, known, ledger)
    _check_places(table, visibility, xy, canvas, known, ledger)
    _check_frames(table, visibility, ledger, predictions)
    track = Track(canvas, table.frame, visibility, xy, name=name, group=group, source=str(file))
    if predictions:
        track = track.replace(score=table.scores(visibility, ledger), filled=table.flags(), sigma=table.sigmas())
    column, values = table.events()
    return Rally(track, _events(column, values), tuple(table.line.tolist())), values


def _in_pixels(
    table: Table,
    visibility: NDArray[np.uint8],
    xy: NDArray[np.float64],
    size: tuple[int, int],
    known: bool,
    ledger: Ledger,
) -> NDArray[np.float64]:
    """Continuous coordinates in px, from pixel indices or from shares of the frame."""
    seen = xy[visibility != ABSENT]
    if not len(seen) or not ((seen >= 0) & (seen <= 1)).all() or (seen == np.rint(seen)).all():
        return xy + 0.5
    row = int(np.flatnonzero(visibility != ABSENT)[0])
    if not known:
        raise TercelError(
            f"{table.where(row)}: all coordinates lie between 0 and 1 (here {xy[row, 0]:g}, {xy[row, 1]:g}): shares of "
            "the frame, where pixels are expected",
            "give the size of the frames, or multiply x by the width and y by the height",
        )
    h, w = size
    message = f"coordinates between 0 and 1 were taken as shares of the frame ({w}x{h})"
    ledger.add("labels.normalised", Severity.WARNING, message, table.where(row))
    return xy * np.array([w, h], np.float64)


def _check_places(
    table: Table,
    visibility: NDArray[np.uint8],
    xy: NDArray[np.float64],
    size: tuple[int, int],
    known: bool,
    ledger: Ledger,
) -> None:
    rows = np.flatnonzero(visibility != ABSENT)
    h, w = size
    far = rows[outside(xy[rows], size)]
    if not len(far):
        return
    i = int(far[0])
    x, y = (xy[i] - 0.5).tolist()
    what = f"{table.where(i)}: the ball at x = {x:g}, y = {y:g} lies outside of the frame of {w}x{h} (width x height)"
    more = f"{len(far)} of {len(rows)} balls do"
    if not outside(xy[rows][:, ::-1], size).any():
        remedy = "exchange the columns X and Y" + ("" if known else ", or give the true size of the frames")
        raise TercelError(f"{what}; {more}, and none would with x and y exchanged", remedy)
    if not known:
        raise TercelError(f"{what}, which was assumed; {more}", "give the size of the frames")
    if len(far) > OUTSIDE * len(rows):
        raise TercelError(f"{what}; {more}", "pair the labels with the video they were drawn on")
    for i in far.tolist():
        ledger.add("labels.outside", Severity.WARNING, "balls outside of their frame", table.where(i))


def outside(xy: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """bool [N]: places f64 [N,2] beyond the frame (H, W); absent ones (NaN) are not."""
    h, w = size
    return np.asarray((xy < 0).any(1) | (xy > np.array([w, h])).any(1))


def _check_frames(table: Table, visibility: NDArray[np.uint8], ledger: Ledger, predictions: bool) -> None:
    for i in np.flatnonzero(np.diff(table.frame) > 1).tolist():
        severity = Severity.INFO if predictions else Severity.WARNING
        where = f"{table.where(i + 1)} (after {table.frame[i]} comes {table.frame[i + 1]})"
        ledger.add("labels.frames_missing", severity, "frame numbers are missing", where)
    if table.frame[0] == 1:
        message = "frame numbers start at 1, frames count from 0: check that the labels do not come one frame late"
        ledger.add("labels.starts_at_one", Severity.INFO, message, table.where(0))
    if not (visibility != ABSENT).any():
        ledger.add("labels.all_absent", Severity.WARNING, "no frame shows a ball", str(table.path))


# -- events -------------------------------------------------------------------------------------------------------


def _events(column: str, values: Sequence[str]) -> tuple[Event, ...]:
    found = []
    for i, text in enumerate(values):
        value = re.sub(r"\.0+$", "", text.strip().lower())
        if value in _NONE:
            continue
        if column == "status":
            value = _STATUS.get(value, f"status{value}")
        elif value in {"1", "true", "yes"}:
            value = "hit" if column in {"event", "events"} else column
        elif value.isdigit():
            value = f"event{value}"
        found.append(Event(i, value))
    return tuple(found)


def without_constant_events(rallies: list[Rally], values: Sequence[str], source: str, ledger: Ledger) -> list[Rally]:
    """The rallies; without events where the column says the same in every row of all files: nothing can be learned
    from that, and it is a finding."""
    if not values or len({v.strip().lower() for v in values}) > 1:
        return rallies
    message = f"the event column is {values[0].strip() or 'empty'!r} in all {len(values)} rows and is no target"
    ledger.add("labels.constant_events", Severity.WARNING, message, source)
    return [dataclasses.replace(r, events=()) for r in rallies]


def split_gaps(rally: Rally, ledger: Ledger | None = None) -> list[Rally]:
    """The rally cut where frame numbers are missing; the parts are called `name.f000120` by their first frame."""
    t = rally.track
    cuts = np.flatnonzero(np.diff(t.frame) > 1) + 1
    if not len(cuts):
        return [rally]
    edges = [0, *cuts.tolist(), len(t)]
    parts = []
    for a, b in itertools.pairwise(edges):
        part = rally[a:b]
        name = f"{t.name}.f{int(t.frame[a]):06d}"
        parts.append(dataclasses.replace(part, track=part.track.replace(name=name, group=t.group or t.name)))
    if ledger is not None:
        message = "rallies with missing frame numbers were cut into runs without a gap"
        ledger.add("labels.cut_at_gaps", Severity.INFO, message, f"{t.source}: {len(parts)} runs")
    return parts


# -- the frames beside a csv --------------------------------------------------------------------------------------


def media_beside(file: Path) -> Path | None:
    """The video or folder of frames that belongs to a csv: beside it, or in video/ or frame/ beside its folder."""
    from tercel.data.video import SUFFIXES

    if file.stem.lower() == LABEL:
        return file.parent
    stem = re.sub(r"_ball$", "", file.stem)
    around = file.parent.parent
    for folder in (file.parent, around / "video", around / "videos"):
        for suffix in SUFFIXES:
            for name in (stem + suffix, stem + suffix.upper()):
                if (folder / name).is_file():
                    return folder / name
    for folder in (around / "frame", around / "frames", file.parent):
        if (folder / stem).is_dir():
            return folder / stem
    return None


def size_beside(file: Path) -> tuple[int, int] | None:
    """(H, W) of the video or the frames that a csv belongs to; None where there are none."""
    media = media_beside(file)
    if media is not None and media.is_file():
        from tercel.data.video import Video

        return Video(media).size
    if media is not None:
        from tercel.data.images import is_picture, picture_size

        first = next((p for p in sorted(media.iterdir()) if is_picture(p)), None)
        return None if first is None else picture_size(first)
    return None


def assumed_size(files: Sequence[Path]) -> tuple[int, int]:
    """The first size of ASSUMED that holds all balls of the files that have no video or frames beside them; also one
    that would hold them with x and y exchanged, so that whoever reads them next complains about that."""
    parts = []
    for file in files:
        if media_beside(file) is None:
            xy = track_table.read(file, Ledger()).places(Ledger())[1]
            parts.append(xy[np.isfinite(xy).all(1)])
    places = np.concatenate(parts) + 0.5 if parts else np.zeros((0, 2))
    for size in ASSUMED:
        if not outside(places, size).any() or not outside(places[:, ::-1], size).any():
            return size
    return ASSUMED[0]


# -- writing ------------------------------------------------------------------------------------------------------


def write_track(path: Path, track: Track, events: Sequence[Event] | None = None) -> None:
    """`Frame,Visibility,X,Y[,Event][,Score,Filled,Sigma]`, pixel indices with at most 4 decimals, 0,0 where absent.

    Args:
        events: written as a column Event, `Event.frame` counting the track's rows; None = no such column.

    Raises:
        TercelError: the file exists already, or cannot be written.
    """
    if os.path.lexists(path):
        raise TercelError(f"{path} exists already", "remove it or choose another name")
    xy = np.where(track.present[:, None], track.xy - 0.5, 0.0)
    columns = {
        "Frame": [str(f) for f in track.frame.tolist()],
        "Visibility": [str(v) for v in track.visibility.tolist()],
    }
    columns |= {"X": _decimals(xy[:, 0]), "Y": _decimals(xy[:, 1])}
    if events is not None:
        names = [""] * len(track)
        for e in events:
            names[e.frame] = e.name
        columns["Event"] = names
    if track.score is not None:
        columns["Score"] = _decimals(track.score, 6)
    if track.filled is not None:
        columns["Filled"] = [str(int(v)) for v in track.filled]
    if track.sigma is not None:
        columns["Sigma"] = _decimals(track.sigma)
    rows = zip(*columns.values(), strict=True)
    write_atomic(path, "\n".join([",".join(columns), *map(",".join, rows)]) + "\n")


def _decimals(values: NDArray[np.float64], digits: int = 4) -> list[str]:
    """Short decimals; blank for NaN."""
    texts = [f"{v:.{digits}f}".rstrip("0").rstrip(".") for v in values.tolist()]
    return ["" if t == "nan" else "0" if t == "-0" else t for t in texts]
