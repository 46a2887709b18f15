"""Trees of pictures and text labels as YOLO has them: a data.yaml or not, images/ beside labels/, class ids in front.

What yolo, yolo_obb, yolo_pose and aerial share; they differ in the numbers behind the class id only. The label of a
picture is found by exchanging the folder images for labels and any suffix for .txt; a picture without label is a
negative.
Shape legend: N rows (labelled objects), F numbers per line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import common, target, yolo_layout
from tercel.data.formats.common import Options, Picture, Rows
from tercel.data.images import is_picture

LOOKS_LIKE = yolo_layout.LOOKS_LIKE


def matches(path: Path, beside: bool = False) -> bool:
    """True for a YOLO data.yaml, a folder with one, or a folder with images/ and labels/; `beside`: also for a folder
    of pictures with text files beside them, or of such folders."""
    if path.is_file():
        return path.suffix.lower() in {".yaml", ".yml"} and yolo_layout.is_config(path)
    if not path.is_dir():
        return False
    return yolo_layout.find_config(path) is not None or bool(yolo_layout.plain_folders(path, beside))


def numbers_per_line(path: Path, beside: bool = False) -> int | None:
    """How many numbers the first label line has that is found there; None when all labels are empty, or it is none."""
    for file in _label_files(path, beside):
        lines = _first_lines(file, 1)
        if lines:
            return len(lines[0]) if all(map(_is_number, lines[0])) else None
    return None


def same_numbers_per_line(path: Path) -> int | None:
    """As `numbers_per_line`, of the first 50 lines; None also where they are not of one length (outlines, say)."""
    lengths: set[int] = set()
    seen = 0
    for file in _label_files(path, False):
        for fields in _first_lines(file, 50 - seen):
            lengths.add(len(fields) if all(map(_is_number, fields)) else 0)
            seen += 1
        if seen >= 50 or len(lengths) > 1:
            break
    return lengths.pop() if len(lengths) == 1 else None


def settings(path: Path) -> tuple[Path | None, dict[str, Any]]:
    """The data.yaml of a source and what it says; None and nothing where there is none, or none that can be read."""
    try:
        layout = yolo_layout.layout_of(path, False)
    except TercelError:
        return None, {}  # reading says what is wrong
    return layout.config, layout.data


def _label_files(path: Path, beside: bool) -> Iterator[Path]:
    """Label files of a source, a few hundred of each split, whether they exist or not."""
    try:
        layout = yolo_layout.layout_of(path, beside)
        entries = layout.entries(None)
    except TercelError:
        return  # reading says what is wrong
    for entry in entries:
        folder = entry.is_dir() and not is_picture(entry)
        if folder:
            yield from _text_files(label_path(entry / "x.txt", layout.root).parent)
        else:
            yield from (label_path(p, layout.root) for p, _ in islice(_listed(layout.root, entry), 200))


def splits(path: Path, beside: bool = False) -> list[str]:
    """Splits that data.yaml names, or subfolders of images/ (or folders with images/ of their own)."""
    return [s for s in yolo_layout.layout_of(path, beside).splits if s]


def read(
    path: Path,
    split: str | None,
    options: Options | None,
    parse: Callable[[list[tuple[int, Path, str]], Ledger], Rows],
    place: Callable[[Rows, NDArray[np.float64], Ledger], None],
    beside: bool = False,
    named: Callable[[Schema], Schema] = lambda schema: schema,
) -> Dataset:
    """One split, or all pictures when `split` is None.

    Args:
        parse: rows from (picture index, file, text), whose `boxes` hold the numbers as written, however many.
        place: puts (oriented) boxes in px into the rows, given the (width, height) f64 [N,2] of their pictures.
        beside: label files may lie beside the pictures.
        named: puts the names of points into the schema, once all rows are parsed.

    Raises:
        TercelError: see tercel.data.formats.common; also names that disagree with nc, a class id beyond the names,
            coordinates in pixels, and a source where no picture has a label.
    """
    options, ledger = options or Options(), Ledger()
    source = f"{path}#{split}" if split else str(path)
    layout = yolo_layout.layout_of(path, beside)
    known = [s for s in layout.splits if s]
    if split is not None and split not in known:
        raise common.unknown_split(str(path), split, known)
    pictures = _pictures(layout, split, ledger, source)
    labels = [label_path(p.path, layout.root) for p in pictures]
    _orphans(pictures, labels, ledger)
    texts = [(i, f, common.read_text(f)) for i, f in enumerate(labels) if os.path.lexists(f)]
    if not texts:
        raise TercelError(
            f"{source}: none of {len(pictures)} pictures has a label, for example {labels[0]}",
            "put the text files into labels/, laid out like images/",
        )
    pictures = [Picture(p.id, p.path, None, str(f) if f.is_file() else p.source) for p, f in zip(pictures, labels)]
    without = len(pictures) - len(texts)
    if without:
        first = str(next(p.path for p, f in zip(pictures, labels) if not f.is_file()))
        ledger.add("labels.none", Severity.INFO, "pictures without a label file count as negatives", first, without)
    rows = parse(texts, ledger)
    classes = _classes(layout, rows, options, ledger, source)
    kept, index = common.check_pictures(pictures, ledger, options, source)
    rows.picture = index[rows.picture]
    rows = rows.take(rows.picture >= 0)
    place(rows, np.array([p.size for p in kept], np.float64).reshape(-1, 2)[rows.picture][:, ::-1], ledger)
    return common.assemble(kept, rows, named(Schema(classes)), ledger, options=options, source=source)


def write(
    dataset: Dataset,
    out: Path,
    split: str,
    pictures: bool,
    label_text: Callable[[Record], str],
    more: Mapping[str, Any] = MappingProxyType({}),
) -> list[Path]:
    """`out`/images/<split> (hard links where possible), labels/<split> and data.yaml, with the keys of `more`.

    Further splits may be written into the same folder: data.yaml, if it is ours, gets a line for each.

    Raises:
        TercelError: a file exists already, another class list or a foreign data.yaml lies there, a record is a clip.
    """
    stems = [target.file_stem(r) for r in dataset.records]
    images = [out / "images" / split / f"{s}{target.still_picture(r).suffix}" for s, r in zip(stems, dataset.records)]
    labels = [out / "labels" / split / f"{s}.txt" for s in stems]
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([*labels, *(images if pictures else [])])
    config = out / "data.yaml"
    text = yolo_layout.config_text(config, split, dataset.schema.classes, more)
    texts = [label_text(r) for r in dataset.records]
    for record, image, label, lines in zip(dataset.records, images, labels, texts):
        if pictures:
            target.place_picture(target.still_picture(record), image)
        write_atomic(label, lines)
    write_atomic(config, text)
    return [config, *labels, *(images if pictures else [])]


def label_path(picture: Path, root: Path) -> Path:
    """The label of a picture: its last folder `images` within `root` becomes `labels`, its suffix .txt."""
    parts = list(picture.relative_to(root).with_suffix(".txt").parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return root.joinpath(*parts)


# -- pictures -----------------------------------------------------------------------------------------------------


def _pictures(layout: yolo_layout.Layout, split: str | None, ledger: Ledger, source: str) -> list[Picture]:
    entries = layout.entries(split)
    found: dict[Path, str] = {}
    for path, where in (x for e in entries for x in _listed(layout.root, e)):
        if path in found and split is not None:
            raise TercelError(f"{where}: the picture {path} is listed twice in {source}", "list every picture once")
        found[path] = where
    if not found:
        raise TercelError(f"{source} holds no picture", f"looked in {', '.join(str(e) for e in entries)}")
    folders = [str(e) for e in entries if e.is_dir()]
    base = os.path.commonpath(folders if len(folders) == len(entries) else [str(p.parent) for p in found])
    ids: dict[str, Path] = {}
    for path in found:
        id_ = os.path.splitext(os.path.relpath(path, base))[0].replace(os.sep, "/")
        if id_ in ids:
            raise TercelError(f"{source}: {ids[id_]} and {path} share one label file", "rename one of the pictures")
        ids[id_] = path
    return [Picture(i, p, None, found[p]) for i, p in ids.items()]


def _listed(root: Path, entry: Path) -> Iterator[tuple[Path, str]]:
    """(picture, who names it) of a folder, a list of pictures, or a picture."""
    if entry.is_dir() and not is_picture(entry):
        for found in common.pictures_by_stem(entry, below=True).values():
            for p in found:
                yield p, str(p)
    elif entry.suffix.lower() == ".txt":
        for n, line in enumerate(common.read_text(entry).splitlines(), 1):
            if line.strip():
                where = f"{entry}:{n}"
                near = root if (root / line.strip()).exists() else entry.parent
                path = common.inside(near, line, where)
                common.inside(root, os.path.relpath(path, root), where)
                yield path, where
    else:
        yield entry, str(entry)


def _orphans(pictures: list[Picture], labels: list[Path], ledger: Ledger) -> None:
    """Count label files beside those of our pictures whose picture does not exist."""
    folders = {f.parent: p.path.parent for p, f in zip(pictures, labels)}
    for label_folder, picture_folder in folders.items():
        if not label_folder.is_dir():
            continue
        known = common.pictures_by_stem(picture_folder)
        for f in sorted(label_folder.glob("*.txt")):
            if f.stem not in known and f.name != "classes.txt" and label_folder != picture_folder:
                ledger.add("labels.no_picture", Severity.WARNING, "label files without a picture were left out", str(f))


# -- labels -------------------------------------------------------------------------------------------------------


def _text_files(folder: Path) -> Iterator[Path]:
    for base, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(base, f) for f in sorted(files) if f.endswith(".txt") and f != "classes.txt")


def _first_lines(file: Path, count: int) -> list[list[str]]:
    """Fields of the first `count` lines that are not blank; fewer, or none, where the file has not that many."""
    try:
        with open(file, "rb") as f:
            text = f.read(4096 * count).decode("utf-8", "replace")
    except OSError:
        return []
    return list(islice((fields for line in text.splitlines() if (fields := line.split())), count))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _classes(layout: yolo_layout.Layout, rows: Rows, options: Options, ledger: Ledger, source: str) -> tuple[str, ...]:
    classes = layout.names
    if options.classes is not None:
        if classes is not None and classes != options.classes:
            raise TercelError(
                f"{layout.config or source}: the classes {list(classes)} are not the expected {list(options.classes)}",
                "class ids have no meaning without their order: make the lists equal",
            )
        classes = options.classes
    if classes is None:
        count = int(rows.labels.max()) + 1 if len(rows.labels) else 1
        ledger.add(
            "labels.no_names", Severity.INFO, "no class names were found: classes are called by their number", source
        )
        return tuple(str(i) for i in range(count))
    beyond = np.flatnonzero(rows.labels >= len(classes))
    if len(beyond):
        i = int(beyond[0])
        raise TercelError(
            f"{rows.where(i)}: class id {rows.labels[i]}, but {layout.config or source} names {len(classes)} classes",
            "correct the label or add the class to the names",
        )
    return classes
