"""OpenTTGames (Voeikov et al. 2020): `<game>.mp4` with `<game>/ball_markup.json` and `<game>/events_markup.json`.

ball_markup: frame number -> {"x": .., "y": ..} in pixel indices, x = y = -1 where there is no ball. events_markup:
frame number -> bounce, net or empty_event; the last is no event and is counted. Runs of consecutive annotated frames
become rallies, called `<game>/<first frame>`; the group is the game. Games may lie in folders of splits; otherwise
`#train` is game_* and `#test` is test_*, as published; `#game_1,game_2` takes games by name. The format holds whether
there is a ball, not how visible it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tercel.core.files import read_json, write_json
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Event, Frame, Record
from tercel.core.track import ABSENT, CLEAR, Track
from tercel.data import tracks
from tercel.data.formats import balls, target
from tercel.data.formats.common import Options
from tercel.data.tracks import Rally
from tercel.data.video import SUFFIXES

NAME = "openttgames"
TASK = "ball"
HOLDS_IGNORE = False
LOOKS_LIKE = "<game>.mp4 with <game>/ball_markup.json and <game>/events_markup.json"

SIZE = (1080, 1920)  # of the published videos, where they are not at hand
BALLS, EVENTS, EMPTY = "ball_markup.json", "events_markup.json", "empty_event"
_SPLITS = ("train", "training", "val", "valid", "test")


def matches(path: Path) -> bool:
    """True for a folder of games or of splits with games, and for one game's folder of markup."""
    return path.is_dir() and bool(_games(path))


def splits(path: Path) -> list[str]:
    """Folders of splits; else train and test where the games are called game_* and test_*; else the games."""
    games = _games(path)
    tops = list(dict.fromkeys(g.split("/")[0] for g in games if "/" in g))
    if tops:
        return sorted(tops, key=lambda s: _SPLITS.index(s.lower()))
    kinds = [s for s, start in (("train", "game_"), ("test", "test_")) if any(g.startswith(start) for g in games)]
    return kinds if len(kinds) == 2 else list(games)


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """The rallies of one split, of some games, or all.

    Raises:
        TercelError: a video that does not exist or is shorter than its markup, markup that is not as described above
            (file and frame named), x and y exchanged, an unknown split or game.
    """
    options, ledger = options or Options(), Ledger()
    source = f"{path}#{split}" if split else str(path)
    games = _games(path)
    names = list(games) if split is None else _chosen(split, list(games), splits(path), str(path))
    cut = f"{split}/" if split is not None and any(n.startswith(f"{split}/") for n in names) else ""
    records = []
    for name in names:
        records += _game(games[name], name.removeprefix(cut), name, options, ledger)
    return balls.dataset(records, ledger, options, source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/<split>/<game>.mp4 (a hard link where possible) and <game>/ball_markup.json, events_markup.json.

    The game is the folder of the record's id, else its group or id. How visible a ball is, is lost.

    Raises:
        TercelError: a file exists already, a record is no rally of balls in one video, rallies of one game overlap.
    """
    places: dict[Path, Path] = {}
    files: dict[Path, Any] = {}
    for r in dataset.records:
        track, video = balls.track_of(r, NAME), balls.video_of(r)
        if video is None:
            raise TercelError(f"record {r.id!r} is made of pictures", f"{NAME} holds videos; write it as tracknet")
        game = r.id.rpartition("/")[0] or r.group or r.id
        base = out / split / game
        if places.setdefault(base.with_name(base.name + video.suffix), video) != video:
            raise TercelError(f"the rallies of {game!r} belong to several videos", "write it as tracknet")
        markup, events = files.setdefault(base / BALLS, {}), files.setdefault(base / EVENTS, {})
        near = [f for f in (r.first - 1, *track.frame.tolist(), r.first + len(track)) if str(f) in markup]
        if near:
            raise TercelError(f"record {r.id!r} overlaps another rally at frame {near[0]}", "write it as tracknet")
        for number, seen, xy in zip(track.frame.tolist(), track.present, track.xy - 0.5, strict=True):
            x, y = (round(float(v), 3) for v in xy) if seen else (-1, -1)
            markup[str(number)] = {"x": int(x) if x == int(x) else x, "y": int(y) if y == int(y) else y}
        events |= {str(r.first + e.frame): e.name for e in r.events}
        files[base / EVENTS] = events
    target.refuse_existing([*files, *(places if pictures else ())])
    if pictures:
        balls.place_all(places)
    for file, content in files.items():
        write_json(file, content)
    return [*files, *(places if pictures else ())]


# -- games --------------------------------------------------------------------------------------------------------


def _games(path: Path) -> dict[str, Path]:
    """Folders of markup by name, with the split's folder where there is one."""
    if (path / BALLS).is_file():
        return {path.name: path}
    if not path.is_dir():
        return {}
    found = {f.parent.name: f.parent for f in sorted(path.glob(f"*/{BALLS}"))}
    for folder in sorted(path.iterdir()):
        if folder.name.lower() in _SPLITS and folder.is_dir():
            found |= {f"{folder.name}/{f.parent.name}": f.parent for f in sorted(folder.glob(f"*/{BALLS}"))}
    return found


def _chosen(split: str, games: list[str], named: list[str], what: str) -> list[str]:
    if split in named and split not in games:
        start = {"train": "game_", "test": "test_"}.get(split, "")
        return [g for g in games if g.startswith(f"{split}/")] or [g for g in games if g.startswith(start)]
    return balls.wanted(split, sorted({*games, *named}), what)


def _game(folder: Path, name: str, group: str, options: Options, ledger: Ledger) -> list[Record]:
    around = (folder.parent, folder, folder.parent / "video", folder.parent / "videos")
    video = next(
        (d / f"{folder.name}{s}" for d in around for s in SUFFIXES if (d / f"{folder.name}{s}").is_file()), None
    )
    place = video or folder.with_name(f"{folder.name}.mp4")
    if video is None and options.pictures:
        raise TercelError(f"{folder / BALLS}: the video {place} does not exist", "put the video beside its folder")
    size = SIZE
    if video is not None:
        from tercel.data.video import Video

        size = Video(video).size
    track = _track(folder / BALLS, size, name, group)
    rally = Rally(track, _events(folder / EVENTS, track, ledger))
    if video is not None and options.pictures:
        rally, _ = balls.in_video(rally, video, ledger, options)
    records = []
    for part in tracks.split_gaps(rally):
        t = part.track.replace(name=f"{name}/{int(part.track.frame[0]):06d}", group=group)
        records.append(balls.record(Rally(t, part.events), [Frame(place, int(i)) for i in t.frame], ledger))
    return records


def _track(file: Path, size: tuple[int, int], name: str, group: str) -> Track:
    data = _numbers(file, read_json(file))
    if not data:
        raise TercelError(f"{file}: no frame is annotated", "is this the right file?")
    frames = sorted(data)
    xy = np.full((len(frames), 2), np.nan)
    for i, n in enumerate(frames):
        point = data[n]
        where = f"{file}: frame {n}"
        try:
            x, y = float(point["x"]), float(point["y"])
        except (TypeError, KeyError, ValueError) as e:
            raise TercelError(f"{where}: {json.dumps(point)[:60]} is no place", 'write {"x": 960, "y": 540}') from e
        if x == y == -1:
            continue
        if not (np.isfinite([x, y]).all() and x >= -0.5 and y >= -0.5):
            raise TercelError(f"{where}: x = {x:g}, y = {y:g}", "both are -1 where there is no ball")
        xy[i] = x + 0.5, y + 0.5
    h, w = size
    for i in np.flatnonzero(tracks.outside(xy, size))[:1].tolist():
        swapped = not tracks.outside(xy[:, ::-1], size).any()
        x, y = (xy[i] - 0.5).tolist()
        more = "; none would with x and y exchanged" if swapped else ""
        raise TercelError(
            f"{file}: frame {frames[i]}: the ball at x = {x:g}, y = {y:g} lies outside of the frame of {w}x{h}{more}",
            "exchange x and y" if swapped else "pair the markup with its video",
        )
    seen = np.isfinite(xy).all(1)
    return Track(
        size, np.array(frames), np.where(seen, CLEAR, ABSENT).astype(np.uint8), xy,
        name=name, group=group, source=str(file),
    )  # fmt: skip


def _events(file: Path, track: Track, ledger: Ledger) -> tuple[Event, ...]:
    """Events by row of the track."""
    if not file.is_file():
        return ()
    rows = {int(n): i for i, n in enumerate(track.frame.tolist())}
    events = []
    for n, value in sorted(_numbers(file, read_json(file)).items()):
        if not isinstance(value, str) or not value:
            raise TercelError(f"{file}: frame {n}: {value!r} is no event", "for example bounce, net or empty_event")
        if value == EMPTY:
            message = "frames marked as empty_event (nothing happens there) are no events"
            ledger.add("labels.empty_events", Severity.INFO, message, f"{file}: frame {n}")
        elif n not in rows:
            message = "events at frames without ball markup were left out"
            ledger.add("labels.events_outside", Severity.WARNING, message, f"{file}: frame {n}")
        else:
            events.append(Event(rows[n], value))
    return tuple(events)


def _numbers(file: Path, data: Any) -> dict[int, Any]:
    if not isinstance(data, dict):
        raise TercelError(f"{file}: not a table of frame numbers", "is this the right file?")
    for key in data:
        if not key.isdigit():
            raise TercelError(f"{file}: {key!r} is no frame number", "frames are numbered 0, 1, 2, ...")
    return {int(k): v for k, v in data.items()}
