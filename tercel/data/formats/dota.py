"""DOTA text: `x1 y1 x2 y2 x3 y3 x4 y4 class difficult` per line in px, one file per picture; VSAI is written alike.

Pictures lie in images/, text files in a folder beside it that is called labelTxt (or labelTxt-v1.5, ...) or annfiles;
train/, val/ and test/ with such folders are the splits. Lines `imagesource:` and `gsd:` are skipped. Difficult objects
are ignored ones. Corners may begin anywhere and run either way; they are drawn by hand, so that many quads are no exact
rectangles. Class ids follow classes.txt where there is one, else the sorted names of all splits. A record's id is the
file's name without suffix; tiles of one picture (`P0001__1__0___824`) are one group.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import angles, common, target
from tercel.data.formats.common import Options, Picture, Rows

NAME = "dota"
TASK = "oriented"
HOLDS_IGNORE = True
LOOKS_LIKE = "a folder with images/ and labelTxt/ or annfiles/, or such a folder of text files"

_CLASSES = "classes.txt"
_TILE = re.compile(r"(.+?)__\d+(?:\.\d+)?__-?\d+___?-?\d+$")  # name__scale__x___y of the DOTA tools
_HEADERS = ("imagesource:", "gsd:", "acquisition dates:")


def matches(path: Path) -> bool:
    """True for a label folder, a folder with one that has one of its names, or a folder of such folders."""
    return path.is_dir() and bool(_label_folders(path) or splits(path))


def splits(path: Path) -> list[str]:
    """Subfolders with a label folder of one of its names, where the folder itself has none."""
    if not path.is_dir() or _label_folders(path):
        return []
    return sorted(p.name for p in path.iterdir() if p.is_dir() and any(q.is_dir() and _named(q) for q in p.iterdir()))


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One split, or all of them (ids then begin with the split) when `split` is None.

    Raises:
        TercelError: see tercel.data.formats.common; also several label folders, or several label files of a picture.
    """
    options, ledger = options or Options(), Ledger()
    source = f"{path}#{split}" if split else str(path)
    known = splits(path)
    if split is not None and split not in known:
        raise common.unknown_split(str(path), split, known)
    parts = {s: _parse(path / s) for s in known} if known else {"": _parse(path)}
    listed = next((f for f in _class_files(path, known) if f.is_file()), None)
    everything = sorted({line.name for part in parts.values() for line in part.lines})
    classes = options.classes or (common.read_classes(listed) if listed else tuple(everything))
    chosen = parts if split is None else {split: parts[split]}
    pictures: list[Picture] = []
    lines: list[_Line] = []
    lost = 0
    for name, part in chosen.items():
        ledger.extend(part.ledger.findings())
        first = len(pictures)
        lines += [replace(line, picture=first + line.picture) for line in part.lines]
        pictures += _pictures(part, f"{name}/" if len(chosen) > 1 else "", ledger, options)
        lost += part.lost
    if not pictures:
        raise TercelError(f"{source} holds no label file and no picture", f"looked for {LOOKS_LIKE}")
    rows = _rows(lines, classes, lost)
    kept, index = common.check_pictures(pictures, ledger, options, source)
    rows.picture = index[rows.picture]
    rows = rows.take(rows.picture >= 0)
    rows.obbs = angles.from_corners(rows.boxes.reshape(-1, 4, 2), rows.where, ledger)
    return common.assemble(kept, rows, Schema(classes), ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/<split>/images (hard links where possible), `out`/<split>/labelTxt and classes.txt.

    Further splits may be written into the same folder; a file that exists is never touched.

    Raises:
        TercelError: a file exists already, another class list lies there, a record is a clip or has boxes without an
            angle.
    """
    folder, names = out / split, out / _CLASSES
    stems = [target.file_stem(r) for r in dataset.records]
    images = [folder / "images" / f"{s}{target.still_picture(r).suffix}" for s, r in zip(stems, dataset.records)]
    labels = [folder / "labelTxt" / f"{s}.txt" for s in stems]
    texts = [_label_text(r, dataset.schema) for r in dataset.records]
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([*labels, *(images if pictures else [])])
    target.same_classes(names, dataset.schema.classes)
    for record, image, label, text in zip(dataset.records, images, labels, texts):
        if pictures:
            target.place_picture(target.still_picture(record), image)
        write_atomic(label, text)
    if not names.exists():
        write_atomic(names, "".join(f"{c}\n" for c in dataset.schema.classes))
    return [names, *labels, *(images if pictures else [])]


# -- folders ------------------------------------------------------------------------------------------------------


def _named(folder: Path) -> bool:
    return folder.name.lower().startswith(("labeltxt", "annfiles"))


def _is_labels(folder: Path) -> bool:
    """True for a label folder: by its name, or by the first line that is found in it."""
    if _named(folder):
        return True
    for file in sorted(folder.glob("*.txt"))[:200]:
        if file.name == _CLASSES:
            continue
        with open(file, "rb") as f:
            text = f.read(4096).decode("utf-8", "replace")
        for line in text.splitlines():
            if line.strip() and not line.lower().startswith(_HEADERS):
                fields = line.split()
                return len(fields) >= 9 and all(map(_is_number, fields[:8])) and not _is_number(fields[8])
    return False


def _label_folders(path: Path) -> list[Path]:
    """The folder itself when it is one of labels, else those in it that are called so."""
    named = sorted(p for p in path.iterdir() if p.is_dir() and _named(p))
    return [path] if not named and _is_labels(path) else named


def _class_files(path: Path, known: list[str]) -> list[Path]:
    """Where a class list may lie: here, and above a single split of a set."""
    return [path / _CLASSES, *([] if known else [path.parent / _CLASSES, path.parent.parent / _CLASSES])]


def _picture_folder(labels: Path) -> Path:
    near = (labels.parent / "images", labels.parent.parent / "images", labels)
    return next((p for p in near if p.is_dir()), near[0])


# -- text ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    picture: int
    where: tuple[Path, int]
    corners: list[float]
    name: str
    difficult: bool


@dataclass
class _Part:
    """One label folder: label file (or None) and picture (or where it should be) by stem, and all lines."""

    files: dict[str, Path | None]
    pictures: dict[str, Path]
    lines: list[_Line] = field(default_factory=list)
    lost: int = 0
    ledger: Ledger = field(default_factory=Ledger)


def _parse(path: Path) -> _Part:
    folders = _label_folders(path)
    if len(folders) > 1:
        names = ", ".join(p.name for p in folders)
        raise TercelError(f"{path} holds several label folders: {names}", f"name one, for example {folders[0]}")
    if not folders:
        raise TercelError(f"{path} holds no label folder", f"looked for {LOOKS_LIKE}")
    part = _paired(folders[0])
    for i, file in enumerate(part.files.values()):
        if file is not None:
            _parse_file(part, i, file)
    return part


def _paired(labels: Path) -> _Part:
    """Label files and pictures by stem. Pictures may lie in subfolders (part1/, part2/) where the labels do not."""
    folder = _picture_folder(labels)
    there = common.pictures_by_stem(folder, below=True)
    by_name: dict[str, list[str]] = {}
    for stem in there:
        by_name.setdefault(Path(stem).name, []).append(stem)
    part, owner = _Part({}, {}), dict[Path, Path]()
    for file in sorted(labels.rglob("*.txt")):
        if file.name == _CLASSES:
            continue
        stem = file.relative_to(labels).with_suffix("").as_posix()
        alike = by_name.get(file.stem, [])
        found = there.get(stem) or (there[alike[0]] if len(alike) == 1 else [folder / f"{stem}.png"])
        if len(found) > 1:
            raise TercelError(f"{file}: two pictures share one label: {found[0]} and {found[1]}", "rename one of them")
        other = owner.setdefault(found[0], file)
        if other != file:
            remedy = f"name the folder that you mean, for example {file.parent}"
            raise TercelError(f"{other} and {file} label one picture, {found[0]}", remedy)
        part.files[stem], part.pictures[stem] = file, found[0]
    for stem, found in there.items():
        if found[0] not in owner:
            part.files[stem], part.pictures[stem] = None, found[0]
            message = "pictures without a label file count as negatives"
            part.ledger.add("labels.none", Severity.INFO, message, str(found[0]))
    return part


def _parse_file(part: _Part, picture: int, file: Path) -> None:
    for n, line in enumerate(common.read_text(file).splitlines(), 1):
        if not line.strip() or line.lower().startswith(_HEADERS):
            continue
        fields = line.split(maxsplit=8)
        try:
            corners = [float(v) for v in fields[:8]]
            *name, flag = fields[8].rsplit(maxsplit=1)
            if not (name and flag.isdecimal()):
                name, flag = [fields[8]], "0"
        except (ValueError, IndexError):
            message = "lines that are not eight numbers, a class and a difficulty were left out"
            part.ledger.add("labels.fields", Severity.WARNING, message, f"{file}:{n}")
            part.lost += 1
            continue
        part.lines.append(_Line(picture, (file, n), corners, name[0].strip(), int(flag) > 0))


def _pictures(part: _Part, prefix: str, ledger: Ledger, options: Options) -> list[Picture]:
    out = []
    far = dict[int, list[float]]()
    if not options.pictures:
        for line in part.lines:
            far.setdefault(line.picture, []).extend(line.corners)
    for i, (stem, file) in enumerate(part.files.items()):
        path, source = part.pictures[stem], str(file or part.pictures[stem])
        tile = _TILE.match(Path(stem).name)
        size = None
        if not options.pictures and not path.exists():
            size = common.size_from_points(np.array(far.get(i, []), np.float64).reshape(-1, 2), ledger, source)
        out.append(Picture(prefix + stem, path, size, source, tile[1] if tile else ""))
    return out


def _rows(lines: list[_Line], classes: tuple[str, ...], lost: int) -> Rows:
    """Rows with the eight numbers of the corners for boxes."""

    def where(i: int) -> str:
        return f"{lines[i].where[0]}:{lines[i].where[1]}"

    ids = {c: i for i, c in enumerate(classes)}
    for i, line in enumerate(lines):
        if line.name not in ids:
            raise common.unknown_class(where(i), line.name, classes)
    return Rows(
        np.array([line.picture for line in lines], np.int64),
        np.array([ids[line.name] for line in lines], np.int64),
        np.array([line.corners for line in lines], np.float64).reshape(-1, 8),
        where,
        np.array([line.difficult for line in lines], np.bool_),
        lost=lost,
    )


def _label_text(record: Record, schema: Schema) -> str:
    o = record.objects
    corners = angles.to_corners(target.oriented_boxes(record)).reshape(-1, 8).tolist()
    return "".join(
        f"{' '.join(f'{v:.10g}' for v in row)} {schema.classes[c]} {int(ignore)}\n"
        for row, c, ignore in zip(corners, o.labels.tolist(), o.ignore.tolist())
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
