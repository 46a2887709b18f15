"""TrackNet trees: `<match>/video/<rally>.mp4` or `<match>/frame/<rally>/<n>.png`, with `<match>/csv/<rally>_ball.csv`.

The folder of labels may also be called ball_trajectory or corrected_csv, and the csv may lie directly in a folder; the
columns are those of tercel/data/tracks.py. TrackNet's tennis set (`<game>/<clip>/Label.csv` beside its pictures) is
read too. Matches may lie in folders of splits (train, val, test), and `#` takes the names of splits or of matches. A
rally is called after its path ("match1/1_05_03"), its group is its match. Labels can be judged without footage
(pictures=False).
"""

from __future__ import annotations

import csv
import io
import itertools
import os
from pathlib import Path

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Frame, Record
from tercel.data import track_table, tracks
from tercel.data.formats import balls, target
from tercel.data.formats.common import Options
from tercel.data.tracks import CSV_FOLDERS, Rally

NAME = "tracknet"
TASK = "ball"
HOLDS_IGNORE = False
LOOKS_LIKE = (
    "match folders with csv/<rally>_ball.csv (Frame,Visibility,X,Y) beside video/ or frame/, or a folder of csv"
)

SPLITS = ("train", "val", "valid", "test")
_SKIPPED = {"frame", "frames", "video", "videos", "images", "labels"}


def matches(path: Path) -> bool:
    """True for a csv with a frame, x and y, and for a folder where the first csv found is one."""
    if path.is_file():
        return path.suffix.lower() == ".csv" and _is_table(path)
    found = _first_table(path, 3) if path.is_dir() else None
    return found is not None and _is_table(found)


def splits(path: Path) -> list[str]:
    """Folders called train, val or test; where there are none, the matches."""
    groups = sorted({g for _, _, g in _tables(path) if g})
    tops = list(dict.fromkeys(g.split("/")[0] for g in groups))
    named = [t for t in tops if t.lower() in SPLITS]
    return sorted(named, key=lambda s: SPLITS.index(s.lower())) if named else groups


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """The rallies of one split, of some matches ("match1,match2"), or all.

    Raises:
        TercelError: see tercel.data.tracks.read_rallies; also labels whose video or frames do not exist, do not fit
            the frame numbers or are of mixed sizes, and an unknown split.
    """
    options, ledger = options or Options(), Ledger()
    source = f"{path}#{split}" if split else str(path)
    chosen = _chosen(path, split, ledger)
    assumed = tracks.ASSUMED[0] if options.pictures else tracks.assumed_size([file for file, _, _ in chosen])
    rallies, values, medias = [], [], []
    missing = 0
    for file, name, group in chosen:
        media = tracks.media_beside(file)
        if media is None and options.pictures:
            missing += 1
            message = "labels without a video or frames were left out"
            ledger.add("pictures.missing", Severity.WARNING, message, str(file))
            continue
        size = None if media is None or media.is_file() else _folder_size(media, options)
        rally, seen = tracks.read_table(file, name=name, group=group, size=size, assumed=assumed, ledger=ledger)
        rallies.append(rally)
        values += seen
        medias.append(media)
    if missing == len(chosen):
        example = chosen[0][0]
        raise TercelError(
            f"{source}: none of {missing} label files has a video or frames, for example {example}",
            f"put them at {example.parent.parent / 'video' / chosen[0][1].split('/')[-1]}.mp4 or in "
            f"frame/{chosen[0][1].split('/')[-1]}/; files of predictions are judged without",
        )
    rallies = tracks.without_constant_events(rallies, values, source, ledger)
    records = [r for rally, media in zip(rallies, medias, strict=True) for r in _records(rally, media, options, ledger)]
    return balls.dataset(records, ledger, options, source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/<split>/<match>/csv/<rally>_ball.csv with video/<rally>.* or frame/<rally>/<n>.* (hard links if possible).

    The match is the folder of the record's id, or else its group. Boxes are not kept: TrackNet's balls are points.

    Raises:
        TercelError: a file exists already, a record is no rally of balls, a video or picture does not exist.
    """
    places: dict[Path, Path] = {}
    files = []
    for r in dataset.records:
        track = balls.track_of(r, NAME)
        folder, _, name = r.id.rpartition("/")
        if not folder and r.group and r.group != r.id:
            folder = r.group.rpartition("/")[2]
        base = out / split / folder
        files.append((base / "csv" / f"{name}_ball.csv", track, r))
        video = balls.video_of(r)
        if video is not None:
            places[base / "video" / f"{name}{video.suffix}"] = video
        else:
            for number, frame in zip(track.frame.tolist(), r.frames, strict=True):
                places[base / "frame" / name / f"{number}{frame.path.suffix}"] = frame.path
    target.refuse_existing([*(f for f, _, _ in files), *(places if pictures else ())])
    if pictures:
        balls.place_all(places)
    for file, track, r in files:
        tracks.write_track(file, track, r.events if dataset.schema.events else None)
    return [*(f for f, _, _ in files), *(places if pictures else ())]


# -- finding labels -----------------------------------------------------------------------------------------------


def _is_table(file: Path) -> bool:
    try:
        with open(file, encoding="utf-8-sig", errors="replace") as f:
            line = f.readline(4096)
    except OSError:
        return False
    header = next(csv.reader(io.StringIO(line), delimiter=max(",;\t", key=line.count)), [])
    return track_table.is_trajectory(header)


def _first_table(folder: Path, depth: int) -> Path | None:
    """A csv in `folder` or below it, without searching folders of pictures or all of a large tree."""
    try:
        entries = sorted(itertools.islice(os.scandir(folder), 2000), key=lambda e: (not _likely(e.name), e.name))
    except OSError:
        return None
    for e in entries:
        if e.name.endswith(".csv") and not e.name.endswith("_events.csv") and e.is_file():
            return Path(e.path)
    if depth:
        folders = (e for e in entries if e.is_dir() and e.name.lower() not in _SKIPPED)
        for e in itertools.islice(folders, 8):
            found = _first_table(Path(e.path), depth - 1)
            if found is not None:
                return found
    return None


def _likely(name: str) -> bool:
    return name.lower() in {*CSV_FOLDERS, *SPLITS} or name.lower().startswith("match")


def _tables(path: Path, ledger: Ledger | None = None) -> list[tuple[Path, str, str]]:
    """(file, name, group) of every csv, by its path within `path`."""
    if path.is_file():
        return [(path, tracks.rally_name(path, path.parent)[0], "")]
    return [(f, *tracks.rally_name(f, path)) for f in tracks.find_tables(path, ledger)]


def _chosen(path: Path, split: str | None, ledger: Ledger) -> list[tuple[Path, str, str]]:
    """The tables of a split or of some matches. Within one split the names are relative to it; groups never are, for
    match1 of the test set is another match than match1 of the training set."""
    tables = _tables(path, ledger)
    chosen = tables
    if split is not None:
        groups = {g for _, _, g in tables if g}
        known = {"/".join(g.split("/")[:k]) for g in groups for k in range(1, g.count("/") + 2)}
        lower = {k.lower(): k for k in known}
        names = balls.wanted(
            ",".join(lower.get(n.strip().lower(), n) for n in split.split(",")), sorted(known), str(path)
        )
        chosen = [t for t in tables if any(t[2] == n or t[2].startswith(n + "/") for n in names)]
        if len(names) == 1 and names[0].lower() in SPLITS:
            chosen = [(f, name.removeprefix(names[0] + "/"), group) for f, name, group in chosen]
    return [(f, name, "" if group.lower() in SPLITS else group) for f, name, group in chosen]


# -- frames -------------------------------------------------------------------------------------------------------


def _folder_size(folder: Path, options: Options) -> tuple[int, int]:
    pictures = [p for _, p in sorted(balls.numbered(folder).items())]
    if not pictures:
        raise TercelError(f"{folder} holds no numbered picture", "put the frames there as 0.png, 1.png, ...")
    return balls.one_size(pictures, options, "rally")


def _records(rally: Rally, media: Path | None, options: Options, ledger: Ledger) -> list[Record]:
    if media is None or not options.pictures:
        file = Path(rally.track.source)
        place = media or file.parent.parent / "video" / f"{file.stem.removesuffix('_ball')}.mp4"
        frames = [Frame(place, int(i)) for i in rally.track.frame]
    elif media.is_file():
        rally, frames = balls.in_video(rally, media, ledger, options)
    else:
        rally, frames = balls.in_folder(rally, media, ledger, options)
    by_number = dict(zip(rally.track.frame.tolist(), frames, strict=True))
    parts = tracks.split_gaps(rally, ledger)
    return [balls.record(p, [by_number[n] for n in p.track.frame.tolist()], ledger) for p in parts]
