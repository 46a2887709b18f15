"""Numbered pictures as clips: a frames.csv that lists them, or YOLO labels beside pictures called name_000123.jpg.

frames.csv: `run,frame,image,x_px,y_px,w_px,h_px` and, where needed, `visibility` and `event`; the place is the centre
of the ball's box in continuous px (nothing is added), blank = no ball; w and h may be blank. A run is one rally and one
group; `#0,2` takes runs by name. Folders of splits (train/frames.csv ...) are read too, and are what we write.

Without a frames.csv the runs are made of the pictures' names: what stands before the number is the run, and a missing
number ends it. Pictures of one run may lie in several folders (a data set that was split at random by frame). Labels
are found as in yolo. Such a folder is a YOLO data set as well, so this reading has to be asked for: sequence:PATH.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Event, Frame, Record
from tercel.core.track import ABSENT, CLEAR, OCCLUDED, Track
from tercel.data import tracks
from tercel.data.formats import balls, common, target, yolo
from tercel.data.formats.common import Options
from tercel.data.track_table import plain_name
from tercel.data.tracks import Rally

NAME = "sequence"
TASK = "ball"
HOLDS_IGNORE = False
LOOKS_LIKE = "a frames.csv (run,frame,image,x_px,y_px,w_px,h_px); when named, numbered pictures with YOLO labels too"
BEFORE = ("yolo",)  # a frames.csv beside a YOLO data set says that its pictures are clips

LIST = "frames.csv"
_NEEDED = ("run", "frame", "image", "xpx", "ypx")
_SPLITS = ("train", "val", "valid", "test")
# "synframe70_jpg.rf.<hash>" is what Roboflow makes of synframe70.jpg.
_NUMBERED = re.compile(r"(.*?)(\d+)(?:_(?:jpe?g|png|bmp)\.rf\.[0-9a-fA-F]+)?$")


@dataclasses.dataclass(frozen=True)
class _Row:
    """One labelled picture; `box` is cx cy w h in px, or None for no ball."""

    run: str
    frame: int
    image: Path
    box: tuple[float, float, float, float] | None
    where: str
    visibility: int = CLEAR
    event: str = ""


def matches(path: Path) -> bool:
    """True for a frames.csv, and for a folder with one, also below folders of splits."""
    return bool(_lists(path))


def accepts(path: Path) -> bool:
    """True for what may be read when the format is named: numbered pictures with labels as well."""
    return matches(path) or (path.is_dir() and yolo.matches(path))


def splits(path: Path) -> list[str]:
    """Folders of splits, or else the runs."""
    lists = _lists(path)
    if lists and "" not in lists:
        return list(lists)
    return sorted({r.run for r in _rows(path, None, Options(), Ledger())}, key=_natural)


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """The runs of one split, some runs ("0,2"), or all.

    Raises:
        TercelError: a column or a picture that is missing, values that are no numbers, a frame that occurs twice in its
            run, several balls in one frame, pictures of several sizes in one run, an unknown split or run.
    """
    options, ledger = options or Options(), Ledger()
    source = f"{path}#{split}" if split else str(path)
    lists = _lists(path)
    part = split if split in lists else None
    rows = _rows(path, part, options, ledger)
    if split is not None and part is None:
        known = [*(k for k in lists if k), *sorted({r.run for r in rows}, key=_natural)]
        names = balls.wanted(split, known, str(path))
        rows = [r for r in rows if r.run in names]
    runs: dict[str, list[_Row]] = defaultdict(list)
    for r in rows:
        runs[r.run].append(r)
    records = [x for name in sorted(runs, key=_natural) for x in _records(name, runs[name], options, ledger)]
    return balls.dataset(records, ledger, options, source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/<split>/frames.csv and images/<run>/<number>.* (hard links where possible). Boxes are kept.

    Raises:
        TercelError: a file exists already, a record is no rally of balls in pictures, a picture does not exist.
    """
    base = out / split
    rows: list[Sequence[object]] = []
    places: dict[Path, Path] = {}
    for r in dataset.records:
        track = balls.track_of(r, NAME)
        if any(f.index >= 0 for f in r.frames):
            raise TercelError(f"record {r.id!r} is a video", f"{NAME} holds pictures; write it as tracknet")
        rows += _written(r, track, bool(dataset.schema.events))
        for number, frame in zip(track.frame.tolist(), r.frames, strict=True):
            places[base / _image(r, number, frame)] = frame.path
    target.refuse_existing([base / LIST, *(places if pictures else ())])
    if pictures:
        balls.place_all(places)
    text = io.StringIO()
    header = ["run", "frame", "image", "x_px", "y_px", "w_px", "h_px", "visibility"]
    csv.writer(text, lineterminator="\n").writerows([header + ["event"] * bool(dataset.schema.events), *rows])
    write_atomic(base / LIST, text.getvalue())
    return [base / LIST, *(places if pictures else ())]


def _image(r: Record, number: int, frame: Frame) -> str:
    return f"images/{r.id}/{number:06d}{frame.path.suffix}"


def _written(r: Record, track: Track, events: bool) -> list[Sequence[object]]:
    named = {e.frame: e.name for e in r.events}
    box = {int(f): b.tolist() for f, b in zip(r.objects.frame if r.objects.frame is not None else [], r.objects.boxes)}
    out: list[Sequence[object]] = []
    for i, (number, frame) in enumerate(zip(track.frame.tolist(), r.frames, strict=True)):
        place: list[str] = [""] * 4
        if track.present[i]:
            x1, y1, x2, y2 = box[i]
            x, y = track.xy[i].tolist()
            place = [f"{v:.4f}".rstrip("0").rstrip(".") for v in (x, y, x2 - x1, y2 - y1)]
        event = [named.get(i, "")] if events else []
        out.append([r.id, number, _image(r, number, frame), *place, int(track.visibility[i]), *event])
    return out


# -- reading rows -------------------------------------------------------------------------------------------------


def _lists(path: Path) -> dict[str, Path]:
    """frames.csv by split; "" for one that belongs to none."""
    if path.is_file():
        return {"": path} if path.name == LIST and _is_list(path) else {}
    if (path / LIST).is_file():
        return {"": path / LIST} if _is_list(path / LIST) else {}
    found = {s: path / s / LIST for s in _SPLITS if (path / s / LIST).is_file()}
    return {s: f for s, f in found.items() if _is_list(f)}


def _is_list(file: Path) -> bool:
    try:
        with open(file, encoding="utf-8-sig", errors="replace") as f:
            return set(_NEEDED) <= {plain_name(c) for c in f.readline(4096).split(",")}
    except OSError:
        return False


def _rows(path: Path, split: str | None, options: Options, ledger: Ledger) -> list[_Row]:
    lists = _lists(path)
    if not lists:
        return _from_yolo(path, options, ledger)
    if split is not None:
        return _from_list(lists[split])
    rows = []
    for name, file in lists.items():
        rows += [dataclasses.replace(r, run=f"{name}/{r.run}" if name else r.run) for r in _from_list(file)]
    return rows


def _from_list(file: Path) -> list[_Row]:
    lines = csv.reader(io.StringIO(common.read_text(file)))
    header = [plain_name(h) for h in next(lines, [])]
    at = {name: header.index(name) for name in (*_NEEDED, "wpx", "hpx", "visibility", "event") if name in header}
    rows = []
    for fields in lines:
        if not any(map(str.strip, fields)):
            continue
        where = f"{file}:{lines.line_num}"
        if len(fields) != len(header):
            raise TercelError(f"{where}: {len(fields)} fields, the header has {len(header)}", "correct the row")
        cell = {name: fields[i].strip() for name, i in at.items()}
        rows.append(_row(cell, file.parent, where))
    return rows


def _row(cell: dict[str, str], folder: Path, where: str) -> _Row:
    if not cell["frame"].isdigit():
        raise TercelError(f"{where}: {cell['frame']!r} is no frame number", "frames are numbered 0, 1, 2, ...")
    visibility = CLEAR if cell["xpx"] or cell["ypx"] else ABSENT
    if cell.get("visibility"):
        if cell["visibility"] not in {str(v) for v in range(OCCLUDED + 1)}:
            remedy = "0 absent, 1 clear, 2 blurred, 3 occluded"
            raise TercelError(f"{where}: visibility {cell['visibility']!r}", remedy)
        visibility = int(cell["visibility"])
    box = None
    if visibility != ABSENT:
        values = []
        for name in ("xpx", "ypx", "wpx", "hpx"):
            text = cell.get(name, "") or ("0" if name[0] in "wh" else "")
            try:
                values.append(float(text))
            except ValueError:
                values.append(math.nan)
            if not math.isfinite(values[-1]):
                raise TercelError(f"{where}: {name[0]}_px is {text!r}, no number", "leave x and y blank without a ball")
        box = (values[0], values[1], values[2], values[3])
    image = common.inside(folder, cell["image"], where)
    return _Row(cell["run"], int(cell["frame"]), image, box, where, visibility, cell.get("event", "").lower())


def _from_yolo(path: Path, options: Options, ledger: Ledger) -> list[_Row]:
    """Rows out of names and label files, the boxes in shares already multiplied by the picture's size."""
    data = yolo.read(path, None, dataclasses.replace(options, classes=None, as_written=True))
    ledger.extend(f for f in data.findings if f.check != "data.negatives")
    names = data.schema.classes
    wanted = [i for i, n in enumerate(names) if balls.CLASS in n.lower()] or [0]
    if len(wanted) > 1 or (len(names) > 1 and balls.CLASS not in names[wanted[0]].lower()):
        raise TercelError(
            f"{path}: which of the classes {list(names)} is the ball?", "give one class a name with 'ball'"
        )
    rows = []
    for r in data.records:
        found = _NUMBERED.match(r.frames[0].path.stem)
        if found is None:
            raise TercelError(f"{r.frames[0].path}: the name has no number", "number the pictures: name_000123.jpg")
        folder = [p for p in Path(r.id).parts[:-1] if p.lower() not in {*_SPLITS, "images"}]
        run = "/".join([*folder, found[1].rstrip("_- .") or "run"])
        o = r.objects[r.objects.labels == wanted[0]]
        if len(o) > 1:
            raise TercelError(f"{r.source}: {len(o)} balls in one frame", "keep the one in play")
        box = None
        if len(o):
            x1, y1, x2, y2 = o.boxes[0].astype(float).tolist()
            box = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        seen = CLEAR if box else ABSENT
        rows.append(_Row(run, int(found[2]), r.frames[0].path, box, r.source or str(r.frames[0].path), seen))
    return rows


# -- records ------------------------------------------------------------------------------------------------------


def _records(name: str, rows: list[_Row], options: Options, ledger: Ledger) -> list[Record]:
    rows = sorted(rows, key=lambda r: r.frame)
    for a, b in itertools.pairwise(rows):
        if a.frame == b.frame:
            what = "with different balls" if a.box != b.box else "twice"
            raise TercelError(f"{a.where} and {b.where}: frame {a.frame} of run {name!r} occurs {what}", "keep one")
    for r in rows:
        if options.pictures and not r.image.is_file():
            raise TercelError(
                f"{r.where}: the picture {r.image} does not exist", "put the pictures where the list has them"
            )
    there = options.pictures or rows[0].image.is_file()
    size = balls.one_size([r.image for r in rows], options, "run") if there else tracks.ASSUMED[0]
    if not there:
        ledger.add("labels.size_assumed", Severity.INFO, "without pictures their size is assumed", rows[0].where)
    boxes = np.array([r.box or (math.nan,) * 4 for r in rows], np.float64)
    visibility = np.array([r.visibility for r in rows], np.uint8)
    if not visibility.any():
        ledger.add("labels.all_absent", Severity.WARNING, "no frame of a run shows a ball", f"{rows[0].where} ({name})")
    file = rows[0].where.rpartition(":")[0]
    listed = all(re.fullmatch(re.escape(file) + r":\d+", r.where) for r in rows)
    lines = tuple(int(r.where.rpartition(":")[2]) for r in rows) if listed else ()
    numbers = np.array([r.frame for r in rows])
    track = Track(
        size, numbers, visibility, boxes[:, :2], name=name, group=name, source=file if listed else rows[0].where
    )
    _check_places(rows, track)
    events = tuple(Event(i, r.event) for i, r in enumerate(rows) if r.event and r.event != "0")
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    by_number = {r.frame: (Frame(r.image), c) for r, c in zip(rows, corners.astype(np.float32), strict=True)}
    out = []
    for part in tracks.split_gaps(Rally(track, events, lines), ledger):
        kept = [by_number[n] for n in part.track.frame.tolist()]
        out.append(balls.record(part, [f for f, _ in kept], ledger, np.stack([c for _, c in kept])))
    return out


def _check_places(rows: list[_Row], track: Track) -> None:
    h, w = track.size
    for i in np.flatnonzero(tracks.outside(track.xy, track.size))[:1].tolist():
        x, y = track.xy[i].tolist()
        swapped = not tracks.outside(track.xy[:, ::-1], track.size).any()
        more = "; none would with x and y exchanged" if swapped else ""
        raise TercelError(
            f"{rows[i].where}: the ball at x = {x:g}, y = {y:g} lies outside of {rows[i].image} ({w}x{h}){more}",
            "exchange the columns x_px and y_px" if swapped else "correct the row",
        )
    seen = track.xy[track.present]
    if len(seen) > 1 and ((seen >= 0) & (seen <= 1)).all():
        raise TercelError(
            f"{rows[0].where}: all coordinates lie between 0 and 1: shares, not px", "multiply by the size"
        )


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorting that has run 10 behind run 9."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]
