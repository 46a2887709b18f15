"""Events on disk, told apart by content.

Truth: OpenTTGames (`<game>/events_markup.json` beside `ball_markup.json`), or the event column of ball labels.
Predicted: a list of {"video", "events": [{"label", "frame", "score"}]} (event spotting's json), csv with
`Frame,Event,Score` (what `tercel predict` writes), or csv with a probability per frame and class,
`frame,p_bounce,p_net`. NumPy only.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tercel.core.files import read_json
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Event
from tercel.core.timeline import EventAnswer, EventTruth
from tercel.data.formats.common import read_text

MARKUP, BALLS = "events_markup.json", "ball_markup.json"
_LOOKS_LIKE = "csv frame,p_bounce,p_net or Frame,Event,Score for each game, or a json list of videos with events"


# -- truth --------------------------------------------------------------------------------------------------------


def is_markup(path: Path) -> bool:
    """True for OpenTTGames event markup, its folder, or a folder of such folders."""
    return path.name == MARKUP if path.is_file() else any(True for _ in _markups(path))


def _markups(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from sorted(f for depth in ("", "*/", "*/*/") for f in path.glob(f"{depth}{MARKUP}"))


def read_markup(path: Path, ledger: Ledger, split: str | None = None) -> list[EventTruth]:
    """The games of OpenTTGames markup, each named after its folder.

    `split` is a folder of games, names of games ("game_1,game_2"), or train and test where those are called game_* and
    test_* as published.

    `shown` are the frames whose ball is marked and in the picture (x, y of -1 mean that it is not).

    Raises:
        TercelError: no markup, or JSON that is no markup; the file and the entry are named.
    """
    files = list(_markups(path))
    if not files:
        raise TercelError(f"{path} holds no {MARKUP}", "give a game's folder, or the folder that the games are in")
    if split is not None:
        files = _of_split(files, path, split)
    out = []
    for file in files:
        events = [Event(frame, _text(name, file, frame)) for frame, name in _by_frame(file)]
        shown, last = None, -1
        balls = file.parent / BALLS
        if balls.is_file():
            places = [(frame, _place(p, balls, frame)) for frame, p in _by_frame(balls)]
            shown = np.array(sorted(f for f, (x, y) in places if x >= 0 and y >= 0), np.int64)
            last = max((f for f, _ in places), default=-1)
        else:
            ledger.add("labels.no_ball_markup", Severity.INFO,
                       f"no {BALLS} beside the events: every window is taken to show the ball", str(file))  # fmt: skip
        last = max([last, *(e.frame for e in events)])
        out.append(EventTruth(file.parent.resolve().name, tuple(events), shown, last + 1, source=str(file)))
    return out


def _of_split(files: list[Path], path: Path, split: str) -> list[Path]:
    start = {"train": "game_", "test": "test_"}.get(split, split + "/")
    wanted = set(split.split(","))
    chosen = [
        f for f in files
        if f.parent.name in wanted or f.parent.name.startswith(start) or f.relative_to(path).parts[0] == split
    ]  # fmt: skip
    if not chosen:
        names = ", ".join(f.parent.name for f in files[:8])
        raise TercelError(f"{path} has no split or game {split!r}", f"games are {names}")
    return chosen


def _by_frame(file: Path) -> list[tuple[int, Any]]:
    """(frame, value) in the file's order."""
    data = read_json(file)
    if not isinstance(data, dict):
        raise TercelError(f"{file} is no markup: it holds a {type(data).__name__}", "it maps frame numbers to values")
    out = []
    for key, value in data.items():
        if not (key.isascii() and key.isdigit()):
            raise TercelError(f"{file}: {key!r} is no frame number", "frames are numbered 0, 1, 2, ...")
        out.append((int(key), value))
    return out


def _text(value: Any, file: Path, frame: int) -> str:
    if not isinstance(value, str) or not value:
        raise TercelError(f"{file}: frame {frame}: {value!r} is no event name", "for example bounce")
    return value


def _place(value: Any, file: Path, frame: int) -> tuple[float, float]:
    try:
        return float(value["x"]), float(value["y"])
    except (TypeError, KeyError, ValueError) as e:
        raise TercelError(f"{file}: frame {frame}: {value!r} is no place", 'write {"x": 10, "y": 20}') from e


# -- predictions --------------------------------------------------------------------------------------------------


def is_answer(path: Path) -> bool:
    """True for files and folders that `read_answers` understands."""
    if path.is_dir():
        return any(_kind(f) for f in sorted(path.rglob("*.csv")))
    if path.suffix.lower() == ".json":
        with open(path, "rb") as f:
            head = f.read(4096)
        return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") and b'"events"' in head
    return bool(_kind(path))


def _kind(file: Path) -> str:
    """ "probabilities", "list" or "" by the header of a csv."""
    try:
        with open(file, encoding="utf-8-sig", errors="replace") as f:
            line = f.readline(4096)
    except OSError:
        return ""
    names = [c.strip().lower() for c in next(csv.reader([line], delimiter=_mark(line)), [])]
    if "frame" not in names:
        return ""
    if {"event", "label"} & set(names) and not {"x", "y"} & set(names):
        return "list"
    return "probabilities" if any(n.startswith("p_") for n in names) else ""


def _mark(line: str) -> str:
    return max(",;\t", key=line.count)


def read_answers(path: Path, ledger: Ledger) -> list[EventAnswer]:
    """Predicted events of every game in a file or folder.

    A csv belongs to the game after which it is named ("g1.csv", "g1_events.csv", "g1_probabilities.csv"), or after
    which its folder is ("g1/probabilities.csv").

    Raises:
        TercelError: nothing there, not recognised, probabilities and lists mixed, or a value that cannot be; the file
            and the line are named.
    """
    if not path.exists():
        raise TercelError(f"{path} does not exist", f"predicted events are {_LOOKS_LIKE}")
    if path.is_file() and path.suffix.lower() == ".json":
        return _read_list(path)
    files = [path] if path.is_file() else sorted(path.rglob("*.csv"))
    kinds = {f: _kind(f) for f in files}
    found = {k for k in kinds.values() if k}
    if not found:
        raise TercelError(f"{path} holds no predicted events", f"they are {_LOOKS_LIKE}")
    if len(found) > 1:
        one = {k: next(f for f, kind in kinds.items() if kind == k) for k in found}
        raise TercelError(
            f"{path} holds probabilities ({one['probabilities']}) and lists ({one['list']})", "name one of them"
        )
    skipped = [f for f, k in kinds.items() if not k]
    if skipped:
        ledger.add("predictions.other_csv", Severity.INFO, "csv without events were not looked at",
                   str(skipped[0]), len(skipped))  # fmt: skip
    read: Callable[[Path, str], EventAnswer] = _probabilities if found == {"probabilities"} else _list
    return [read(f, _name(f, path)) for f, k in kinds.items() if k]


def _name(file: Path, root: Path) -> str:
    stem = file.stem
    for word in ("probabilities", "events"):
        if stem == word:
            return file.parent.resolve().name
        stem = stem.removesuffix(f"_{word}")
    inside = file.relative_to(root).parent if root.is_dir() else Path()
    return (inside / stem).as_posix()


def _rows(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    text = read_text(file)
    reader = csv.reader(io.StringIO(text), delimiter=_mark(text.partition("\n")[0]))
    rows = [(reader.line_num, [c.strip() for c in r]) for r in reader if any(map(str.strip, r))]
    header = [c.lower() for c in rows[0][1]]
    for n, cells in rows[1:]:
        if len(cells) != len(header):
            raise TercelError(f"{file}:{n}: {len(cells)} fields, the header has {len(header)}", "correct the row")
    return header, rows[1:]


def _number(where: str, what: str, text: Any, low: float, high: float) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not low <= value <= high:
        limits = f"between {low:g} and {high:g}" if math.isfinite(high) else f"from {low:g} on"
        raise TercelError(f"{where}: {what} is {text!r}", f"give a number {limits}")
    return value


def _frame(where: str, text: Any) -> int:
    value = _number(where, "frame", text, 0, 2**62)
    if value != int(value):
        raise TercelError(f"{where}: frame is {text!r}", "frames are numbered 0, 1, 2, ...")
    return int(value)


def _probabilities(file: Path, name: str) -> EventAnswer:
    header, rows = _rows(file)
    columns = {h.removeprefix("p_"): i for i, h in enumerate(header) if h.startswith("p_")}
    at = header.index("frame")
    lines = [(_frame(f"{file}:{n}", cells[at]), n, cells) for n, cells in rows]
    lines.sort(key=lambda row: row[0])
    for (a, _, _), (b, n, _) in itertools.pairwise(lines):
        if a == b:
            raise TercelError(f"{file}:{n}: frame {b} occurs twice", "keep one row per frame")
    p = [[_number(f"{file}:{n}", f"p_{c}", cells[i], 0, 1) for c, i in columns.items()] for _, n, cells in lines]
    frames = np.array([f for f, _, _ in lines], np.int64)
    table = np.array(p, np.float64).reshape(len(lines), len(columns))
    return EventAnswer(name, frame=frames, probability=table, classes=tuple(columns), source=str(file))


def _list(file: Path, name: str) -> EventAnswer:
    header, rows = _rows(file)
    at, label = header.index("frame"), header.index("event" if "event" in header else "label")
    score = header.index("score") if "score" in header else -1
    events, scores = [], []
    for n, cells in rows:
        if not cells[label]:
            raise TercelError(f"{file}:{n}: the event has no name", "for example bounce")
        events.append(Event(_frame(f"{file}:{n}", cells[at]), cells[label]))
        scores.append(1.0 if score < 0 else _number(f"{file}:{n}", "score", cells[score], 0, 1))
    return EventAnswer(name, tuple(events), np.array(scores), source=str(file))


def _read_list(file: Path) -> list[EventAnswer]:
    data = read_json(file)
    out = []
    for i, video in enumerate(data if isinstance(data, list) else [None]):
        if not isinstance(video, Mapping) or not isinstance(video.get("events"), list):
            raise TercelError(
                f"{file}: entry {i + 1} is no video with events",
                'write a list of {"video": "game_1", "events": [{"label": "net", "frame": 7, "score": 0.9}]}',
            )
        name = str(video.get("video", ""))
        events, scores = [], []
        for k, e in enumerate(video["events"]):
            where = f"{file}: {name}: event {k + 1}"
            if not isinstance(e, Mapping) or not isinstance(e.get("label"), str):
                raise TercelError(f"{where}: {e!r} has no label", "an event has label, frame and score")
            events.append(Event(_frame(where, e.get("frame")), e["label"]))
            scores.append(_number(where, "score", e.get("score", 1.0), 0, 1))
        out.append(EventAnswer(name, tuple(events), np.array(scores), source=str(file)))
    return out
