"""The text files of Object-Detection-Metrics: one per picture, `name x y width height` in px per line.

Lines whose four numbers all lie in 0..1 throughout the folder are shares (`name cx cy w h`) and need the pictures.
Pictures, where there are any, lie beside the text files or in ../images. Class ids follow `classes.txt` where there is
one, else the sorted names. A record's id is the file's name without suffix. Ignored objects cannot be held.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset
from tercel.core.schema import Schema
from tercel.data.formats import common, target
from tercel.data.formats.common import Options, Picture, Rows

NAME = "odm"
TASK = "boxes"
HOLDS_IGNORE = False
LOOKS_LIKE = "a folder of text files with lines `name x y width height`"

_CLASSES = "classes.txt"


def matches(path: Path) -> bool:
    """True for a folder of such text files (the first line found decides), or of folders of them."""
    if not path.is_dir():
        return False
    return _looks_right(text_files(path)) or bool(splits(path))


def splits(path: Path) -> list[str]:
    """Subfolders that hold such text files, when the folder itself holds none."""
    if text_files(path):
        return []
    return sorted(p.name for p in path.iterdir() if p.is_dir() and _looks_right(text_files(p)))


def text_files(folder: Path) -> list[Path]:
    """The text files of a folder but for the class list."""
    return sorted(p for p in folder.glob("*.txt") if p.name != _CLASSES)


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One folder of text files.

    Raises:
        TercelError: see tercel.data.formats.common; also shares without pictures.
    """
    options, ledger = options or Options(), Ledger()
    known = splits(path)
    if (split is not None and split not in known) or (split is None and known):
        if split is not None:
            raise common.unknown_split(str(path), split, known)
        raise TercelError(f"{path} holds folders of text files: {', '.join(known)}", f"name one: {path}#{known[0]}")
    folder = path / split if split else path
    files = text_files(folder)
    if not files:
        raise TercelError(f"{folder} holds no text file", f"looked for {LOOKS_LIKE}")
    names, rows = _parse(files, ledger)
    listed = next((p for p in (folder / _CLASSES, path / _CLASSES) if p.is_file()), None)
    classes = options.classes or (common.read_classes(listed) if listed else tuple(sorted(set(names))))
    for i, name in enumerate(names):
        if name not in classes:
            raise common.unknown_class(rows.where(i), name, classes)
    rows.labels = np.array([classes.index(n) for n in names], np.int64)
    relative = len(rows.boxes) > 0 and bool(((rows.boxes >= 0) & (rows.boxes <= 1)).all())
    pictures = _pictures(folder, files, rows, relative, ledger)
    kept, index = common.check_pictures(pictures, ledger, options, str(folder))
    rows.picture = index[rows.picture]
    rows = rows.take(rows.picture >= 0)
    rows.boxes = to_xyxy(
        rows.boxes, np.array([p.size for p in kept], np.float64).reshape(-1, 2)[rows.picture], relative
    )
    return common.assemble(kept, rows, Schema(classes), ledger, options=options, source=str(folder))


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/<split>/*.txt with the pictures beside them (hard links where possible). Ignored objects are left out.

    Raises:
        TercelError: a file exists already, a record is a clip, a record's id names a folder or is "classes".
    """
    folder = out / split
    stems = [target.file_stem(r) for r in dataset.records]
    for stem in stems:
        if "/" in stem or stem == "classes":
            raise TercelError(f"record id {stem!r} cannot be a file name in one flat folder", "rename the picture")
    images = [folder / f"{s}{target.still_picture(r).suffix}" for s, r in zip(stems, dataset.records)]
    labels, names = [folder / f"{s}.txt" for s in stems], folder / _CLASSES
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([names, *labels, *(images if pictures else [])])
    for record, image, label in zip(dataset.records, images, labels):
        if pictures:
            target.place_picture(target.still_picture(record), image)
        o = record.objects[~record.objects.ignore]
        xyxy = o.boxes.astype(np.float64)
        rows = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1).tolist()
        lines = (f"{dataset.schema.classes[c]} {x!r} {y!r} {w!r} {h!r}\n" for c, (x, y, w, h) in zip(o.labels, rows))
        write_atomic(label, "".join(lines))
    write_atomic(names, "".join(f"{c}\n" for c in dataset.schema.classes))
    return [names, *labels, *(images if pictures else [])]


def to_xyxy(boxes: np.ndarray, sizes: np.ndarray, relative: bool) -> np.ndarray:
    """f64 [N,4] corners in px from x y w h, or from shares cx cy w h with `sizes` [N,2] (H, W)."""
    xy, wh = boxes[:, :2], boxes[:, 2:]
    if relative:
        scale = sizes[:, ::-1]
        wh = wh * scale
        xy = xy * scale - wh / 2
    return np.concatenate([xy, xy + wh], axis=1)


def _looks_right(files: list[Path]) -> bool:
    """The first line of these files that is not blank is a name and four numbers (a number as name: YOLO's).

    Where all are empty (pictures without objects) only a class list beside them tells."""
    for f in files[:200]:
        with open(f, "rb") as handle:
            line = handle.readline(4096).decode("utf-8", "replace")
        fields = line.rsplit(maxsplit=4)
        if len(fields) == 5:
            return all(_is_number(x) for x in fields[1:]) and not _is_number(fields[0].split()[-1])
        if fields:
            return False
    return bool(files) and (files[0].parent / _CLASSES).is_file()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse(files: list[Path], ledger: Ledger) -> tuple[list[str], Rows]:
    names: list[str] = []
    owner: list[int] = []
    values: list[list[float]] = []
    lines: list[tuple[Path, int]] = []
    lost = 0
    for i, f in enumerate(files):
        for n, line in enumerate(common.read_text(f).splitlines(), 1):
            fields = line.rsplit(maxsplit=4)
            if not fields:
                continue
            try:
                row = [float(x) for x in fields[1:]]
                if len(row) != 4:
                    raise ValueError
            except ValueError:
                message = "lines that are not a name and four numbers were left out"
                ledger.add("labels.fields", Severity.WARNING, message, f"{f}:{n}")
                lost += 1
                continue
            names.append(fields[0].strip())
            owner.append(i)
            values.append(row)
            lines.append((f, n))
    n_rows = len(names)
    return names, Rows(
        np.array(owner, np.int64),
        np.zeros(n_rows, np.int64),
        np.array(values, np.float64).reshape(-1, 4),
        lambda i: f"{lines[i][0]}:{lines[i][1]}",
        np.zeros(n_rows, np.bool_),
        lost=lost,
    )


def _pictures(folder: Path, files: list[Path], rows: Rows, relative: bool, ledger: Ledger) -> list[Picture]:
    """Pictures where they exist; else the size is the far corner of the boxes, which is counted."""
    beside = common.pictures_by_stem(folder.parent / "images") | common.pictures_by_stem(folder)
    out: list[Picture] = []
    for i, f in enumerate(files):
        found = beside.get(f.stem)
        if found:
            out.append(Picture(f.stem, found[0], None, str(f)))
            continue
        if relative:
            raise TercelError(
                f"{f}: shares of a picture that is not there", f"put the pictures beside {f.name} or into ../images"
            )
        own = rows.boxes[rows.picture == i]
        h, w = common.size_from_points(own[:, :2] + own[:, 2:], ledger, str(f))
        out.append(Picture(f.stem, folder / f"{f.stem}.jpg", (h, w), str(f)))
    return out
