"""What all readers share: pictures checked, rows judged in bulk, records assembled.

A reader parses its files into `Picture`s and `Rows`; everything that decides whether a row is kept happens here, once,
and is counted by reason in the ledger. Shape legend: N rows (labelled objects), P pictures.
"""

from __future__ import annotations

import difflib
import gc
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data.formats.rows import LOSSES, judge
from tercel.data.formats.rows import Rows as Rows  # noqa: PLC0414  # readers import it from here
from tercel.data.images import SUFFIXES, check_whole, picture_header


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a source is read.

    Attributes:
        pictures: look at every picture (it exists, its size is the declared one). False: trust the labels, for
            judging files where no pictures are at hand.
        as_written: boxes are neither cut at the picture's border nor left out for having no area. Published scores
            count such boxes, training cannot use them.
        max_drop: the share of rows that may be lost before reading fails.
        classes: class names in the order of their ids, to hold the source to (a checkpoint's list, say).
    """

    pictures: bool = True
    as_written: bool = False
    max_drop: float = 0.2
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Picture:
    """One picture as the labels declare it; `size` (H, W) or None when they do not say.

    `index` is that of `Frame`: 0, 1, ... within a file that holds many pictures, -1 for a picture file.
    `check_pictures` knows picture files only; a reader of the others gives `assemble` sizes that it has checked.
    """

    id: str
    path: Path
    size: tuple[int, int] | None
    source: str
    group: str = ""
    index: int = -1


# -- text and paths -----------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """The file as UTF-8 text (a byte-order mark is skipped).

    Raises:
        TercelError: missing, unreadable, or not UTF-8 (line named).
    """
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise TercelError(f"{path}:{line}: byte {e.start} is not UTF-8", "save the file as UTF-8") from e
    except FileNotFoundError as e:
        raise TercelError(f"{path} does not exist", "check the path") from e
    except OSError as e:
        raise TercelError(f"cannot read {path}: {e.strerror or e}", "check the path and its permissions") from e


def json_line(where: str, text: str) -> Any:
    """The value of one line of a file of JSON lines; `where` is its file and number.

    Raises:
        TercelError: not JSON (column named), or JSON that cannot be read.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise TercelError(f"{where}: not JSON: {e.msg} (column {e.colno})", "was the file cut off?") from e
    except (ValueError, RecursionError) as e:
        raise TercelError(f"{where}: not JSON that can be read: {e}", "correct the line") from e


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection within: large label files are trees without cycles, and searching them costs half as much
    time again as parsing them."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def inside(folder: Path, name: str, where: str) -> Path:
    """`folder / name`, refused when it leaves `folder` (judged by the text of the path; links are the user's own).

    Raises:
        TercelError: an absolute path, or one that climbs out.
    """
    name = name.strip().replace("\\", "/")
    if name and ".." not in name and "\0" not in name and not os.path.isabs(name):  # nearly always
        return Path(f"{folder}/{name}")
    path = os.path.normpath(os.path.join(folder, name))
    root = os.path.normpath(folder)
    if root == ".":
        bad = os.path.isabs(path) or path.split(os.sep)[0] == ".."
    else:
        bad = path != root and not path.startswith(root.rstrip(os.sep) + os.sep)
    if bad or "\0" in name:
        raise TercelError(
            f"{where}: the path {name!r} leaves the folder {folder}",
            "label files may only name what lies in their folder",
        )
    return Path(path)


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one per line, in the order of their ids.

    Raises:
        TercelError: not UTF-8, or a name that occurs twice (line named).
    """
    lines: dict[str, int] = {}
    for n, line in enumerate(read_text(path).splitlines(), 1):
        name = line.strip()
        if name in lines:
            where = f"{path}:{n}"
            raise TercelError(f"{where}: class {name!r} stands in line {lines[name]} already", "give every name once")
        if name:
            lines[name] = n
    return tuple(lines)


def pictures_by_stem(folder: Path, below: bool = False) -> dict[str, list[Path]]:
    """Pictures in `folder` by their relative path without suffix, sorted; `below`: in its subfolders too, linked
    ones included (but a link to where we come from is not followed)."""
    found: dict[str, list[Path]] = {}
    if not folder.is_dir():
        return found
    here = os.path.realpath(folder)
    seen = {here, *map(str, Path(here).parents)}
    for base, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for link in [f for f in folders if os.path.islink(os.path.join(base, f))]:
            real = os.path.realpath(os.path.join(base, link))
            if real in seen:
                folders.remove(link)
            seen.add(real)
        prefix = os.path.relpath(base, folder)
        prefix = "" if prefix == "." else prefix.replace(os.sep, "/") + "/"
        for name in sorted([*files, *(f for f in folders if f.lower().endswith(SUFFIXES))]):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                found.setdefault(prefix + stem, []).append(Path(base, name))
        if not below:
            break
    return found


def unknown_split(what: str, split: str, known: Sequence[str]) -> TercelError:
    near = difflib.get_close_matches(split, known, n=1)
    if not known:
        return TercelError(f"{what} has no splits, so there is no {split!r}", "leave out the part behind #")
    hint = f"did you mean #{near[0]}? " if near else ""
    return TercelError(f"{what} has no split {split!r}", f"{hint}it has {', '.join(known)}")


def one_class(options: Options, name: str, source: str) -> tuple[str, ...]:
    """The class of a format that tells none: `name`, or the one that was asked for.

    Raises:
        TercelError: several were asked for.
    """
    classes = options.classes or (name,)
    if len(classes) != 1:
        what = f"{source} tells no classes: all are {name!r}, and {list(classes)} were expected"
        raise TercelError(what, "convert the labels to coco or yolo_pose and name the classes there")
    return classes


def unknown_class(where: str, name: object, classes: Sequence[str]) -> TercelError:
    near = difflib.get_close_matches(str(name), classes, n=1)
    shown = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
    return TercelError(
        f"{where}: unknown class {name!r}",
        (f"did you mean {near[0]!r}? " if near else "") + f"correct the label or add the class to the list ({shown})",
    )


# -- pictures -----------------------------------------------------------------------------------------------------


def check_pictures(
    pictures: Sequence[Picture], ledger: Ledger, options: Options, source: str
) -> tuple[list[Picture], NDArray[np.int64]]:
    """The pictures that are there, each with its true size, and the new index i64 [P] of each old one (-1 = left out).

    Raises:
        TercelError: all missing; some unreadable or cut off; a declared size that is not that of the picture, with a
            message of its own when the two are transposed (labels drawn on the picture before its EXIF rotation).
    """
    kept: list[Picture] = []
    bad: list[TercelError] = []
    index = np.full(len(pictures), -1, np.int64)
    for i, p in enumerate(pictures):
        _refuse_odd_name(p)
        if options.pictures:
            if not os.path.lexists(p.path):
                ledger.add(
                    "pictures.missing",
                    Severity.WARNING,
                    "labels without their picture were left out",
                    f"{p.source}: {p.path}",
                )
                continue
            try:
                size, orientation = picture_header(p.path)
                check_whole(p.path)
            except TercelError as e:
                bad.append(e)
                continue
            size = _true_size(p, size, orientation, ledger)
        else:
            size = p.size if p.size is not None and min(p.size) > 0 else picture_header(p.path)[0]
        index[i] = len(kept)
        kept.append(p if p.size == size else replace(p, size=size))
    if bad:
        more = f" ({len(bad)} of {len(pictures)} pictures of {source} cannot be read)" if len(bad) > 1 else ""
        others = [e.message for e in bad[1:5]]
        raise TercelError("\n       ".join([bad[0].message + more, *others]), bad[0].remedy)
    missing = len(pictures) - len(kept)
    if missing and (not kept or missing > max(0.5, options.max_drop) * len(pictures)):
        first = pictures[int(np.flatnonzero(index < 0)[0])].path
        raise TercelError(
            f"{source}: {missing} of {len(pictures)} labelled pictures do not exist, for example {first}",
            "put the pictures where the labels expect them",
        )
    return kept, index


def size_from_points(points: NDArray[np.float64], ledger: Ledger, source: str) -> tuple[int, int]:
    """(H, W) that reaches as far as points [N,2] (x, y): for labels that declare no size and have no pictures."""
    message = "without pictures their size was taken from the boxes"
    ledger.add("labels.size_from_boxes", Severity.INFO, message, source)
    points = points[np.isfinite(points).all(axis=1)]
    w, h = (max(1, math.ceil(v)) for v in points.max(axis=0)) if len(points) else (1, 1)
    return h, w


def _refuse_odd_name(p: Picture) -> None:
    """Ids go into JSON and reports, which are UTF-8; file names on Linux may be any bytes."""
    name = f"{p.id}{p.path}"
    if not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name):
        raise TercelError(f"the file name {str(p.path)!r} is not UTF-8", "rename the picture")


def _true_size(p: Picture, size: tuple[int, int], orientation: int, ledger: Ledger) -> tuple[int, int]:
    if orientation != 1:
        ledger.add(
            "pictures.exif_orientation",
            Severity.INFO,
            "pictures are stored turned or mirrored (EXIF) and are set upright on reading; check that their labels fit",
            str(p.path),
        )
    if p.size is None or p.size == size:
        return size
    if p.size[0] <= 0 or p.size[1] <= 0:
        ledger.add(
            "labels.no_size",
            Severity.INFO,
            "labels that declare no picture size: it was taken from the picture",
            p.source,
        )
        return size
    declared, real = f"{p.size[1]}x{p.size[0]}", f"{size[1]}x{size[0]}"
    if p.size == size[::-1]:
        turned = " (its EXIF data turns it)" if orientation >= 5 else ""
        raise TercelError(
            f"{p.source}: the labels were made for {declared}, but {p.path} is {real} when upright{turned}",
            "turn the labels, or store the pictures upright without EXIF orientation and label those",
        )
    raise TercelError(
        f"{p.source}: the labels were made for a picture of {declared} (width x height), but {p.path} is {real}",
        "pair the labels with the pictures they were drawn on, or correct the size",
    )


# -- rows ---------------------------------------------------------------------------------------------------------


def assemble(
    pictures: Sequence[Picture], rows: Rows, schema: Schema, ledger: Ledger, *, options: Options, source: str
) -> Dataset:
    """Judge the rows, cut boxes at the picture, group by picture.

    Oriented boxes become canonical and stay whole at the border (what is left of a cut one is no rectangle); their hull
    becomes `boxes`, length * width their area unless the file has another.

    Raises:
        TercelError: more than `max_drop` of all rows lost, an id that occurs twice, a class name that no file can hold,
            rows with another number of points than the schema has names.
    """
    _check_points(rows, schema, source)
    for name in schema.classes:
        if not name.strip() or any(c < " " or "\ud800" <= c <= "\udfff" for c in name):
            what = "is empty, or holds a control character or half a character"
            raise TercelError(f"{source}: the class name {name!r} {what}", "rename the class")
    rows = rows.take(rows.picture >= 0)  # those of missing pictures, which check_pictures has counted
    total = len(rows.labels) + rows.lost
    sizes = np.array([p.size for p in pictures], np.float64).reshape(-1, 2)
    rows = judge(rows, sizes, ledger, as_written=options.as_written)
    lost = total - len(rows.labels)
    if total and lost > options.max_drop * total:
        reasons = "; ".join(
            f"{f.message} ({f.count}x, {f.evidence[0]})" for f in ledger.findings() if f.check in LOSSES
        )
        raise TercelError(
            f"{source}: {lost} of {total} labels cannot be used ({100 * lost / total:.0f} %): {reasons}",
            f"correct them; in Python, source.read(..., max_drop={min(1.0, lost / total + 0.01):.2f}) reads the others",
        )
    for p in _repeated(pictures):
        raise TercelError(f"{p.source}: the picture {p.id!r} occurs twice in {source}", "list every picture once")
    _say_ignored(rows, ledger)
    records = _records(pictures, rows)
    for r in records:
        if not len(r.objects):
            ledger.add("data.negatives", Severity.INFO, "pictures without any object", r.source)
    return Dataset(schema, tuple(records), ledger.findings(), source)


def _check_points(rows: Rows, schema: Schema, source: str) -> None:
    k = 0 if rows.points is None else rows.points.shape[1]
    if k != len(schema.keypoints):
        names = f"the skeleton names {len(schema.keypoints)}: {', '.join(schema.keypoints) or 'none'}"
        raise TercelError(f"{source}: {k} points per object, but {names}", "name every point, in the order of the file")


def _say_ignored(rows: Rows, ledger: Ledger) -> None:
    """A score over ignored objects only is undefined, and has been taken for 0."""
    count, where = int(rows.ignore.sum()), rows.where(int(np.argmax(rows.ignore))) if len(rows.ignore) else ""
    if count and count == len(rows.ignore):
        message = "every object is an ignored one (difficult, crowd, don't care): there is nothing to find"
        ledger.add("labels.all_ignored", Severity.WARNING, message, where, count)
    elif count and rows.obbs is not None:
        message = f"ignored objects (difficult, disabled, don't care), of {len(rows.ignore)} in all"
        ledger.add("labels.ignored", Severity.INFO, message, where, count)


def _repeated(pictures: Sequence[Picture]) -> Iterable[Picture]:
    seen: set[str] = set()
    for p in pictures:
        if p.id in seen:
            yield p
        seen.add(p.id)


def _records(pictures: Sequence[Picture], rows: Rows) -> list[Record]:
    columns: dict[str, NDArray[Any]] = {
        "labels": rows.labels.astype(np.int64, copy=False),
        "boxes": rows.boxes.astype(np.float32),
        "ignore": rows.ignore.astype(np.bool_, copy=False),
    }
    if rows.area is not None:
        columns["area"] = rows.area.astype(np.float32)
    if rows.occlusion is not None:
        columns["occlusion"] = rows.occlusion.astype(np.float32)
    if rows.obbs is not None:
        columns["obbs"] = rows.obbs.astype(np.float32)
    if rows.points is not None and rows.visible is not None:
        columns |= {"points": rows.points.astype(np.float32), "visible": rows.visible.astype(np.uint8, copy=False)}
    if rows.heading is not None and rows.headed is not None:
        columns |= {"heading": rows.heading.astype(np.float32), "headed": rows.headed}
    parts = group(columns, rows.picture, [p.size or (1, 1) for p in pictures])
    return [
        Record(p.id, (Frame(p.path, p.index),), o.size, o, group=p.group, source=p.source)
        for p, o in zip(pictures, parts, strict=True)
    ]


def group(
    columns: dict[str, NDArray[Any]], owner: NDArray[np.int64], sizes: Sequence[tuple[int, int]]
) -> list[Objects]:
    """One Objects per owner from checked columns [N,...] in any order; rows keep their order within an owner."""
    order = np.argsort(owner, kind="stable")
    edges = np.searchsorted(owner[order], np.arange(len(sizes) + 1)).tolist()
    for name, column in columns.items():
        columns[name] = column[order]
        columns[name].setflags(write=False)
    return [
        Objects._trusted((int(size[0]), int(size[1])), {n: c[edges[i] : edges[i + 1]] for n, c in columns.items()})
        for i, size in enumerate(sizes)
    ]
