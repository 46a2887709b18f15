"""VEDAI: vehicles seen from the air, pictures of 512 or 1024 px in colour (`_co`) and infrared (`_ir`).

Annotations<size>/ holds `annotation<size>.txt` (id xc yc orientation x1..x4 y1..y4 class contained occluded) and one
`<id>.txt` per picture (xc yc orientation class contained occluded x1..x4 y1..y4); where both are there the first is
read. The corners give the box; the orientation (radians clockwise) says where the front points, if orientations run
over the whole circle. Contained and occluded are not kept. Pictures are those in colour, else the infrared ones.

fold01.txt ... fold10test.txt in the folder of the annotations are splits, and so are the lists in splits/, which Tercel
writes. Numbers beyond VEDAI's classes are the further names of `classes.txt`, from 32 on.

Source: Razakarivony and Jurie, JVCIR 34 (2016), and the published files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, TercelError
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import angles, common, headings, target
from tercel.data.formats.common import Options, Picture, Rows

NAME = "vedai"
TASK = "oriented"
HOLDS_IGNORE = False
LOOKS_LIKE = "a folder with Annotations512/ or Annotations1024/ and pictures *_co.png or *_ir.png, or such annotations"

CLASSES = {
    "car": 1, "truck": 2, "tractor": 4, "camping": 5, "motorcycle": 7, "bus": 8, "van": 9, "other": 10, "pickup": 11,
    "large": 12, "boat": 23, "plane": 31,
}  # fmt: skip
FURTHER = 32
_FOLD = re.compile(r"fold\d+(test)?$")
_ALL = re.compile(r"annotation\d*$")
# columns: orientation, class, x1..x4, y1..y4; -1: xc yc lie before the orientation in both
_SINGLE = (2, 3, range(6, 10), range(10, 14))
_JOINT = (3, 12, range(4, 8), range(8, 12))


def matches(path: Path) -> bool:
    """True for a folder of annotations, or one with such a folder."""
    return path.is_dir() and bool(_folders(path))


def splits(path: Path) -> list[str]:
    """Names of the folds and of the lists in splits/."""
    return sorted({*_lists(path)}) if path.is_dir() else []


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One fold or list, or all pictures when `split` is None.

    Raises:
        TercelError: see tercel.data.formats.common; also several folders of annotations, a line of another shape, an
            unknown class number.
    """
    options, ledger = options or Options(), Ledger()
    source = f"{path}#{split}" if split else str(path)
    lists = _lists(path)
    if split is not None and split not in lists:
        raise common.unknown_split(str(path), split, sorted(lists))
    folder = _folder(path)
    images = _pictures(path, folder)
    lines = _lines(folder)
    wanted = _listed(lists[split]) if split is not None else sorted({*images, *lines})
    classes, numbers = _classes(options, next((p for p in _around(path, "classes.txt") if p.is_file()), None))
    pictures: list[Picture] = []
    chosen: list[tuple[int, _Line]] = []
    for id_ in wanted:
        own = lines.get(id_, [])
        at = f"{own[0].file}:{own[0].line}" if own else str(images.get(id_, folder / f"{id_}.txt"))
        size = None
        if id_ not in images and not options.pictures:
            corners = np.array([v for line in own for v in line.corners()], np.float64).reshape(-1, 2)
            size = common.size_from_points(corners, ledger, at)
        chosen += [(len(pictures), line) for line in own]
        pictures.append(Picture(id_, images.get(id_, folder / f"{id_}_co.png"), size, at))
    if not pictures:
        raise TercelError(f"{source} lists no picture", "check the list and the folder")
    rows = _rows(chosen, numbers, ledger)
    pictures, index = common.check_pictures(pictures, ledger, options, source)
    rows.picture = index[rows.picture]
    schema = Schema(classes, category_ids=tuple(class_numbers(classes)))
    return common.assemble(pictures, rows, schema, ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/Annotations/<id>.txt, Vehicules/<id>_co.*, splits/<split>.txt; classes.txt where names are not VEDAI's.

    Ignored objects are left out: the format has no place for them.

    Raises:
        TercelError: a file exists already, another class list lies there, a record is a clip or has boxes without an
            angle.
    """
    classes, names, listing = dataset.schema.classes, out / "classes.txt", out / "splits" / f"{split}.txt"
    stems = [target.file_stem(r) for r in dataset.records]
    images = [out / "Vehicules" / f"{s}_co{target.still_picture(r).suffix}" for s, r in zip(stems, dataset.records)]
    labels = [out / "Annotations" / f"{s}.txt" for s in stems]
    texts = [_text(r, class_numbers(classes)) for r in dataset.records]
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([listing, *labels, *(images if pictures else [])])
    target.same_classes(names, classes)
    for record, image, label, text in zip(dataset.records, images, labels, texts):
        if pictures:
            target.place_picture(target.still_picture(record), image)
        write_atomic(label, text)
    special = classes != tuple(CLASSES)
    if special and not names.exists():
        write_atomic(names, "".join(f"{c}\n" for c in classes))
    write_atomic(listing, "".join(f"{s}\n" for s in stems))
    return [listing, *([names] if special else []), *labels, *(images if pictures else [])]


# -- folders ------------------------------------------------------------------------------------------------------


def _is_annotations(folder: Path) -> bool:
    """True for a folder with a joint file, or whose first text file with a line has 14 numbers in it."""
    for f in sorted(folder.glob("*.txt"))[:200]:
        if _ALL.fullmatch(f.stem):
            return True
        if _FOLD.fullmatch(f.stem) or f.name == "classes.txt":
            continue
        with open(f, "rb") as file:
            fields = file.readline(1000).split()
        if fields:
            flags = fields[3:6]  # class contained occluded: shares of a picture are no whole numbers
            return len(fields) == 14 and all(x.isdigit() for x in flags)
    return folder.name.startswith("Annotations") and (folder.parent / "splits").is_dir()


def _folders(path: Path) -> list[Path]:
    if _is_annotations(path):
        return [path]
    return [p for p in sorted(path.iterdir()) if p.is_dir() and p.name.startswith("Anno") and _is_annotations(p)]


def _folder(path: Path) -> Path:
    found = _folders(path)
    if len(found) != 1:
        names = ", ".join(p.name for p in found)
        what = f"{path} holds {len(found)} folders of annotations" + (f" ({names})" if found else "")
        raise TercelError(what, f"name one, for example {found[0]}" if found else f"looked for {LOOKS_LIKE}")
    return found[0]


def _around(path: Path, name: str) -> list[Path]:
    """Where something of the data set lies, whether `path` is its folder or that of the annotations."""
    return [path / name, path.parent / name]


def _lists(path: Path) -> dict[str, Path]:
    files = [f for folder in _folders(path)[:1] for f in folder.glob("fold*.txt") if _FOLD.fullmatch(f.stem)]
    own = next((p for p in _around(path, "splits") if p.is_dir()), None)
    return {f.stem: f for f in [*files, *(own.glob("*.txt") if own else [])]}


def _listed(file: Path) -> list[str]:
    ids = [line.strip() for line in common.read_text(file).splitlines() if line.strip()]
    for n, id_ in enumerate(ids, 1):
        common.inside(file.parent, id_, f"{file}:{n}")
    return ids


def _pictures(path: Path, annotations: Path) -> dict[str, Path]:
    """Pictures by id: in Vehicules<size>/ or images/ beside the annotations, or among them; in colour if there."""
    size = annotations.name.removeprefix("Annotations")
    roots = [root / name for root in (path, annotations.parent) for name in (f"Vehicules{size}", "images")]
    folder = next((f for f in roots if f.is_dir()), annotations)
    found: dict[str, dict[str, list[Path]]] = {"_co": {}, "_ir": {}}
    for stem, files in common.pictures_by_stem(folder, below=True).items():
        if stem[-3:] in found:
            found[stem[-3:]][stem[:-3]] = files
    chosen = found["_co"] or found["_ir"]
    for files in chosen.values():
        if len(files) > 1:
            raise TercelError(f"{files[0]} and {files[1]} share one label", "rename one of them")
    return {id_: files[0] for id_, files in chosen.items()}


# -- lines --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    file: Path
    line: int
    numbers: tuple[float, ...]
    joint: bool

    @property
    def columns(self) -> tuple[int, int, range, range]:
        return _JOINT if self.joint else _SINGLE

    def corners(self) -> list[tuple[float, float]]:
        return [(self.numbers[x], self.numbers[y]) for x, y in zip(self.columns[2], self.columns[3])]


def _lines(folder: Path) -> dict[str, list[_Line]]:
    """Lines by picture id; a picture whose file is empty has none."""
    found: dict[str, list[_Line]] = {}
    joint = next((f for f in sorted(folder.glob("annotation*.txt")) if _ALL.fullmatch(f.stem)), None)
    if joint is not None:
        for n, fields in _split(joint):
            found.setdefault(fields[0], []).append(_line(joint, n, fields[1:], True))
        return found
    for file in sorted(folder.rglob("*.txt")):
        id_ = file.relative_to(folder).with_suffix("").as_posix()
        if not _FOLD.fullmatch(id_) and file.name != "classes.txt":
            found[id_] = [_line(file, n, fields, False) for n, fields in _split(file)]
    return found


def _split(file: Path) -> Iterator[tuple[int, list[str]]]:
    for n, line in enumerate(common.read_text(file).splitlines(), 1):
        if line.strip():
            yield n, line.split()


def _line(file: Path, n: int, fields: list[str], joint: bool) -> _Line:
    try:
        numbers = tuple(float(x) for x in fields)
    except ValueError:
        numbers = ()
    if len(numbers) != 14:
        what = (
            "id xc yc orientation x1..x4 y1..y4 class contained occluded"
            if joint
            else ("xc yc orientation class contained occluded x1..x4 y1..y4")
        )
        raise TercelError(f"{file}:{n}: a line is {what}, not {' '.join(fields)!r:.100}", "correct the line")
    return _Line(file, n, (0.0, *numbers) if joint else numbers, joint)


def _rows(chosen: Sequence[tuple[int, _Line]], numbers: dict[int, int], ledger: Ledger) -> Rows:
    def where(i: int) -> str:
        return f"{chosen[i][1].file}:{chosen[i][1].line}"

    labels: list[int] = []
    for i, (_, line) in enumerate(chosen):
        number = line.numbers[line.columns[1]]
        label = numbers.get(int(number) if number == number // 1 else -1, -1)
        if label < 0:
            raise common.unknown_class(where(i), f"{number:g}", [str(k) for k, v in numbers.items() if v >= 0])
        labels.append(label)
    corners = np.array([line.corners() for _, line in chosen], np.float64).reshape(-1, 4, 2)
    turn = np.array([line.numbers[line.columns[0]] for _, line in chosen], np.float64)
    angles.check_radians(turn, where)
    headed = headings.are_headings(turn, where, ledger)
    return Rows(
        np.array([p for p, _ in chosen], np.int64),
        np.array(labels, np.int64),
        np.zeros((len(labels), 4)),
        where,
        np.zeros(len(labels), np.bool_),
        obbs=angles.from_corners(corners, where, ledger),
        heading=turn if headed else None,
    )


# -- classes and text ---------------------------------------------------------------------------------------------


def class_numbers(classes: Sequence[str]) -> list[int]:
    """VEDAI's number of each class; for other names 32, 33, ... in their order."""
    further = [c for c in classes if c not in CLASSES]
    return [CLASSES[c] if c in CLASSES else FURTHER + further.index(c) for c in classes]


def _classes(options: Options, listed: Path | None) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names, and the class id of each number (-1: a number that has a name, but no class here)."""
    written = common.read_classes(listed) if listed else tuple(CLASSES)
    names = dict(zip(class_numbers(written), written)) | {v: k for k, v in CLASSES.items()}
    classes = options.classes or written
    ids = {c: i for i, c in enumerate(classes)}
    return classes, {number: ids.get(name, -1) for number, name in names.items()}


def _text(record: Record, numbers: Sequence[int]) -> str:
    obbs, o = target.oriented_boxes(record), record.objects
    lines = []
    for i in np.flatnonzero(~o.ignore).tolist():
        known = o.heading is not None and o.headed is not None and bool(o.headed[i])
        turn = float(o.heading[i]) if known and o.heading is not None else float(obbs[i, 4])
        x, y = angles.to_corners(obbs[i : i + 1])[0].T.tolist()
        values = [*obbs[i, :2].tolist(), turn, numbers[int(o.labels[i])], 1, 0, *x, *y]
        lines.append(" ".join(repr(v) for v in values) + "\n")
    return "".join(lines)
