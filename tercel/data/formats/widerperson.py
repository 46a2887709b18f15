"""WiderPerson: `Annotations/NAME.jpg.txt` beside `Images/NAME.jpg`, splits as lists of names in train.txt and val.txt.

A text file has the number of its persons in the first line, then `class x1 y1 x2 y2` in px for each. One class,
person: pedestrians (1), riders (2) and partially visible persons (3). Ignore regions (4) and crowds (5), in which
single persons are not told apart, are ignored, and counted by class. Nothing tells how much of a person is hidden.

Source: Zhang et al. 2019, "WiderPerson: A Diverse Dataset for Dense Pedestrian Detection in the Wild", ReadMe.txt.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import common, persons, target
from tercel.data.formats.common import Options, Picture
from tercel.data.formats.persons import Columns
from tercel.data.formats.voc_folder import number
from tercel.data.images import SUFFIXES

NAME = "widerperson"
TASK = "boxes"
HOLDS_IGNORE = True
ONLY_CLASSES = ("person",)
LOOKS_LIKE = "a folder with Annotations/NAME.jpg.txt (a number, then lines of class x1 y1 x2 y2)"

_PERSON, _IGNORE = 1, 4
_REASONS = {
    "1": "",
    "2": "",
    "3": "",
    "4": "ignore regions (class 4) are ignored",
    "5": "crowds (class 5) are ignored: single persons are not told apart",
}


def matches(path: Path) -> bool:
    """True for a folder whose Annotations are such text files."""
    first = next(iter(_annotations(path).values()), None)
    return first is not None and common.read_text(first).split("\n", 1)[0].strip().isdigit()


def splits(path: Path) -> list[str]:
    """Names of the lists beside Annotations (train.txt, val.txt, test.txt)."""
    return sorted(p.stem for p in path.glob("*.txt") if p.name.lower() != "readme.txt")


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One split, or every picture with a text file when `split` is None.

    Raises:
        TercelError: see tercel.data.formats.common; also a split none of whose pictures has a text file, an unknown
            class, and a line that is not five numbers (file and line named).
    """
    options, ledger, known = options or Options(), Ledger(), splits(path)
    if split is not None and split not in known:
        raise common.unknown_split(str(path), split, known)
    source = f"{path}#{split}" if split else str(path)
    classes, ids = persons.class_ids(source, ONLY_CLASSES, options)
    files, there = _annotations(path), common.pictures_by_stem(path / "Images", below=True)
    pictures, columns, unlabelled = [], Columns(), 0
    for id_, line in _names(path, split) if split else [(s, str(f)) for s, f in files.items()]:
        file = files.get(id_)
        name = file.relative_to(path / "Annotations").as_posix().removesuffix(".txt") if file else f"{id_}.jpg"
        image = there.get(id_, [common.inside(path / "Images", name, line)])[0]
        pictures.append(Picture(id_, image, None, str(file or line)))
        if file is None:
            ledger.add("labels.none", Severity.INFO, "pictures without an annotation file count as negatives", line)
            unlabelled += 1
        else:
            _append(columns, file, len(pictures) - 1, ids["person"], ledger)
    if not pictures or unlabelled == len(pictures):
        what = "none of its pictures has a text file in Annotations" if pictures else "it lists no picture"
        raise TercelError(f"{source}: {what}", "choose a split with labels; those of test are not published")
    rows = columns.rows(ledger)
    if not options.pictures:
        pictures = persons.with_guessed_sizes(pictures, rows, ledger)
    pictures, index = common.check_pictures(pictures, ledger, options, source)
    rows.picture = index[rows.picture]
    return common.assemble(pictures, rows, Schema(classes), ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/Annotations, Images (hard links where possible) and <split>.txt. Persons are class 1, ignored ones class 4.

    Raises:
        TercelError: a file exists already, a record is a clip, or there are several classes.
    """
    persons.written_names(dataset, ONLY_CLASSES, NAME)
    stems = [target.file_stem(r) for r in dataset.records]
    names = [f"{s}{target.still_picture(r).suffix}" for s, r in zip(stems, dataset.records)]
    texts = {out / "Annotations" / f"{n}.txt": _text(r) for n, r in zip(names, dataset.records)}
    texts[out / f"{split}.txt"] = "".join(f"{s}\n" for s in stems)
    return persons.place(dataset.records, texts, [out / "Images" / n for n in names] if pictures else [])


# -- reading ------------------------------------------------------------------------------------------------------


def _annotations(path: Path) -> dict[str, Path]:
    """Text files by the picture's relative path without suffix: `a` for Annotations/a.jpg.txt."""
    folder = path / "Annotations"
    files = (f for f in sorted(folder.rglob("*.txt")) if Path(f.stem).suffix.lower() in SUFFIXES)
    return {f.relative_to(folder).with_suffix("").with_suffix("").as_posix(): f for f in files}


def _names(path: Path, split: str) -> list[tuple[str, str]]:
    """(name without suffix, "file:line") of the pictures that a list names."""
    file, out = path / f"{split}.txt", []
    for n, line in enumerate(common.read_text(file).splitlines(), 1):
        name = line.strip()
        if name:
            stem = str(Path(name).with_suffix("")) if Path(name).suffix.lower() in SUFFIXES else name
            out.append((stem, f"{file}:{n}"))
    return out


def _append(columns: Columns, file: Path, picture: int, label: int, ledger: Ledger) -> None:
    lines = common.read_text(file).splitlines()
    told = lines[0].strip() if lines else ""
    if not told.isdigit():
        raise TercelError(f"{file}:1: the first line is the number of persons, not {told!r}", "correct the line")
    count = 0
    for n, line in enumerate(lines[1:], 2):
        fields = line.split()
        if not fields:
            continue
        count += 1
        if fields[0] not in _REASONS:
            raise common.unknown_class(f"{file}:{n}", fields[0], list(_REASONS))
        try:
            x1, y1, x2, y2 = map(float, fields[1:])
        except ValueError as e:
            raise TercelError(f"{file}:{n}: a person is `class x1 y1 x2 y2`, not {line!r}", "correct the line") from e
        columns.add(picture, label, [x1, y1, x2, y2], None, _REASONS[fields[0]], f"{file}:{n}")
    if count != int(told):
        message = "files whose first line tells another number of persons than they have: are some cut off?"
        ledger.add("labels.count", Severity.WARNING, message, f"{file}: {told}, has {count}")


# -- writing ------------------------------------------------------------------------------------------------------


def _text(record: Record) -> str:
    o = record.objects
    lines = [f"{len(o)}\n"]
    for box, ignore in zip(o.boxes, o.ignore.tolist()):
        corners = " ".join(number(np.float32(v)) for v in box)
        lines.append(f"{_IGNORE if ignore else _PERSON} {corners}\n")
    return "".join(lines)
