"""DeepPoseKit annotation sets: pictures and points of one animal in each, in one HDF5 file.

`images` is u8 [N,H,W,1 or 3], `annotations` f64 [N,K,2] x y in px from the picture's corner, `annotated` bool [N,K],
`skeleton` i32 [K,2], the numbers of the parent and of the mirror partner of each point (-1 = none). Names are in
skeleton.csv beside the file (`name,parent,swap`), which goes before `skeleton`.

A point is labelled where `annotated` says so; where it says so of none in the whole file, as in published sets, all
are. NaN, and the -1 -1 where the annotator puts points that wait for their place, are absent ones. Pictures that nobody
has annotated are left out. The box is the hull of the points. There are no splits: a range of pictures in the order of
the file is one, `#0:80` or `#80:`; of a folder with several files, the name of a file.

We write `ids` beside these, the ids of the pictures, which DeepPoseKit does not look at. An annotated picture without a
point is one without an animal.

Source: the files of DeepPoseKit-Data and the annotator of DeepPoseKit (Apache-2.0), which writes clicks divided by the
window's scale. Shape legend: N pictures, K points.
"""

from __future__ import annotations

import csv
import io
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data import stored
from tercel.data.formats import common, skeletons, target
from tercel.data.formats.common import Options, Picture, Rows
from tercel.data.formats.rows import rows_of_points

if TYPE_CHECKING:
    import h5py

NAME = "deepposekit"
TASK = "keypoints"
HOLDS_IGNORE = False
HOLDS_CLASSES = False
HOLDS_BOXES = False
LOOKS_LIKE = "a .h5 with images and annotations, or a folder with such files"

CLASS = "animal"
TABLE = "skeleton.csv"
_RANGE = re.compile(r"(\d*):(\d*)")


def matches(path: Path) -> bool:
    """True for such a file, or a folder that holds one."""
    return _is_set(path) if path.is_file() else bool(path.is_dir() and _files(path))


def accepts(path: Path) -> bool:
    """True for any HDF5 file when the format was named: reading says what it lacks."""
    return matches(path) or stored.is_hdf5(path)


def splits(path: Path) -> list[str]:
    """Names of the files of a folder that holds several, or one that was written as a split; none for a file."""
    return [] if path.is_file() else sorted(_files(path))


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """All pictures, those of a range "a:b" in the order of the file, or a file of a folder.

    Raises:
        TercelError: see tercel.data.formats.common and skeletons; also a file without `images` or `annotations`, or
            with such of other shapes, more or fewer names than points, a range beyond the pictures, several files of
            which none was named.
    """
    options, ledger = options or Options(), Ledger()
    file, part = _choose(path, split)
    source = f"{path}#{split}" if split else str(path)
    content = _load(file, ledger)
    numbers = _chosen(part, len(content.points), file)
    schema = skeletons.onto(Schema(common.one_class(options, CLASS, source)), _skeleton(file, content, ledger))
    kept = numbers[content.looked_at[numbers]]
    if left := len(numbers) - len(kept):
        first = f"{file}@{numbers[~content.looked_at[numbers]][0]}"
        message = "pictures that nobody has annotated were left out"
        ledger.add("labels.not_annotated", Severity.WARNING, message, first, left)
    if not len(kept):
        raise TercelError(f"{source}: none of {len(numbers)} pictures is annotated", "annotate some, or name others")
    pictures = [Picture(content.ids[i], file, content.size, f"{file}@{i}", index=int(i)) for i in kept.tolist()]
    rows = _rows(content, kept, file)
    return common.assemble(pictures, rows, schema, ledger, options=options, source=source)


# -- files --------------------------------------------------------------------------------------------------------


def _is_set(path: Path) -> bool:
    if not stored.is_store(path) or not stored.is_hdf5(path):
        return False
    try:
        with stored.opened(path) as f:
            return stored.KEY in f and "annotations" in f
    except TercelError:
        return False


def _files(folder: Path) -> dict[str, Path]:
    """Files of a folder by their names without suffix."""
    return {f.stem: f for f in sorted(folder.iterdir()) if f.is_file() and _is_set(f)}


def _choose(path: Path, split: str | None) -> tuple[Path, str | None]:
    """The file, and what is left of the split: a range."""
    if path.is_file():
        return path, split
    files = _files(path)
    if split in files:
        return files[split], None
    if len(files) == 1 and (split is None or _RANGE.fullmatch(split)):
        return next(iter(files.values())), split
    if split is not None:
        raise common.unknown_split(str(path), split, list(files))
    what = f"{path} holds {len(files)} annotation sets ({', '.join(files)})"
    raise TercelError(what, f"name one, for example {path}#{next(iter(files), 'train')}")


def _chosen(part: str | None, count: int, file: Path) -> NDArray[np.int64]:
    """The pictures of a range, i64; all without one."""
    if part is None:
        return np.arange(count)
    found = _RANGE.fullmatch(part)
    if found is None:
        cut = max(1, count * 4 // 5)
        hint = f"name a range of pictures in their order, for example #0:{cut} and #{cut}:{count}"
        raise TercelError(f"{file} has no splits, so there is no {part!r}", hint)
    start, stop = int(found[1] or 0), int(found[2] or count)
    if not start < stop <= count:
        raise TercelError(f"{file} holds {count} pictures, and {part} is no range of them", f"they are 0:{count}")
    return np.arange(start, stop)


# -- the file -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Content:
    """What a file holds, but for the pixels.

    Attributes:
        points: f64 [N,K,2] px. visible: u8 [N,K], 2 or 0. looked_at: bool [N], whether somebody has annotated it.
        ids: N ids of the pictures. size: (H, W) of all. tree: i64 [K,2] parents and partners, or None.
    """

    points: NDArray[np.float64]
    visible: NDArray[np.uint8]
    looked_at: NDArray[np.bool_]
    ids: list[str]
    size: tuple[int, int]
    tree: NDArray[np.int64] | None


def _load(file: Path, ledger: Ledger) -> _Content:
    with stored.opened(file) as f:
        images, size = stored.pictures(f, file)
        points = _array(f, "annotations", file, "f")
        count = len(images)
        if points is None:
            held = ", ".join(f) or "nothing"
            raise TercelError(f"{file} has no data set 'annotations'; it holds {held}", "annotate the pictures first")
        if points.ndim != 3 or len(points) != count or points.shape[2] != 2 or not points.shape[1]:
            what = f"'annotations' is {list(points.shape)}, and there are {count} pictures"
            raise TercelError(f"{file}: {what}", f"it must be [{count}, number of points, 2]")
        k = points.shape[1]
        annotated = _shaped(_array(f, "annotated", file, "b"), "annotated", (count, k), file)
        tree = _shaped(_array(f, "skeleton", file, "i"), "skeleton", (k, 2), file)
        ids = f["ids"].asstr()[...].tolist() if "ids" in f and f["ids"].shape == (count,) else map(str, range(count))
    placed = np.isfinite(points).all(axis=-1) & ~(points == -1).all(axis=-1)
    if annotated is None or not annotated.any():
        message = f"`annotated` says of no point that it is labelled: all {k} of every picture count as labelled"
        if annotated is not None:
            ledger.add("labels.annotated", Severity.WARNING, message, str(file))
        annotated = np.ones((count, k), np.bool_)
    looked_at = annotated.any(axis=1)
    visible = np.where(annotated & placed, 2, 0).astype(np.uint8)
    return _Content(points, visible, looked_at, list(ids), size, tree)


def _array(f: h5py.File, key: str, file: Path, kind: str) -> NDArray[Any] | None:
    """A data set as float64, int64 or bool ("f", "i", "b"); None where there is none."""
    import h5py

    data = f.get(key)
    if data is None:
        return None
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "fiub":
        raise TercelError(f"{file}: {key!r} holds no numbers", "was it written by another program?")
    return np.asarray(data[...]).astype({"f": np.float64, "i": np.int64, "b": np.bool_}[kind])


def _shaped(array: NDArray[Any] | None, key: str, shape: tuple[int, int], file: Path) -> Any:
    if array is not None and array.shape != shape:
        what = f"{file}: {key!r} is {list(array.shape)}, not {list(shape)} as the annotations say"
        raise TercelError(what, "was it written for other annotations?")
    return array


def _rows(content: _Content, kept: NDArray[np.int64], file: Path) -> Rows:
    """The animals of the kept pictures; where every point is absent, there is none."""
    with_animal = np.flatnonzero((content.visible[kept] > 0).any(axis=1))
    numbers = kept[with_animal]
    return rows_of_points(
        with_animal, content.points[numbers], content.visible[numbers], lambda i: f"{file}@{numbers[i]}"
    )


# -- the skeleton -------------------------------------------------------------------------------------------------


def _skeleton(file: Path, content: _Content, ledger: Ledger) -> Schema:
    table, k = file.parent / TABLE, content.points.shape[1]
    if table.is_file():
        names, parents, swaps, lines = _read_table(table)
        if len(names) != k:
            what = f"{table} names {len(names)} points, {file} has {k}"
            raise TercelError(what, "name every point, in the order of the annotations")
        return skeletons.of_table(names, parents, swaps, lambda i: f"{table}:{lines[i]}", ledger)
    names = skeletons.unnamed(k, str(file), ledger)
    if content.tree is None:
        return skeletons.parse(names, str(file), ledger)
    if (beyond := np.argwhere(content.tree >= k)).size:
        i, column = beyond[0].tolist()
        what = f"{file}: skeleton[{i}, {column}] is {content.tree[i, column]}, and there are {k} points"
        raise TercelError(what, f"correct it, or put a {TABLE} with name,parent,swap beside the file")
    parents, swaps = ([names[j] if j >= 0 else "" for j in column] for column in content.tree.T.tolist())
    return skeletons.of_table(names, parents, swaps, lambda i: f"{file} skeleton[{i}] (no {TABLE})", ledger)


def _read_table(table: Path) -> tuple[list[str], list[str], list[str], list[int]]:
    """Names, parents, mirror partners, and their lines."""
    rows = csv.DictReader(common.read_text(table).splitlines())
    fields = [(f or "").strip() for f in rows.fieldnames or ()]
    rows.fieldnames = fields
    missing = [c for c in ("name", "parent") if c not in fields]
    if missing:
        what = f"{table}:1: no column {missing[0]!r}; there are {', '.join(fields) or 'none'}"
        raise TercelError(what, "the first line is name,parent,swap")
    names, parents, swaps, lines = [], [], [], []
    for row in rows:
        names.append((row["name"] or "").strip())
        parents.append((row["parent"] or "").strip())
        swaps.append((row.get("swap") or "").strip())
        lines.append(rows.line_num)
    return names, parents, swaps, lines


# -- writing ------------------------------------------------------------------------------------------------------


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/<split>.h5 (or `out` itself when it ends in .h5) and skeleton.csv beside it. The pictures, which must be of
    one size, are always within. Boxes, classes, visibility and ignored objects are left out.

    Raises:
        TercelError: a file exists already, another skeleton.csv lies there, pictures of several sizes, several animals
            on one, an animal without a labelled point, a record is a clip.
    """
    file = out if stored.is_store(out) else out / f"{split}.h5"
    table, text = file.parent / TABLE, _table_text(dataset.schema)
    for record in dataset.records:
        target.still_picture(record)
        target.file_stem(record)
    target.refuse_missing(dataset.records)
    target.refuse_existing([file])
    if table.exists() and common.read_text(table) != text:
        raise TercelError(f"{table} describes another skeleton than the data being written", "write into a new folder")
    sizes = {r.size for r in dataset.records}
    if len(sizes) != 1:
        shown = ", ".join(sorted(f"{w}x{h}" for h, w in sizes)[:4]) or "none"
        raise TercelError(f"{file} holds pictures of one size, and these are {shown}", "write another format")
    points, visible = _table(dataset)
    tree = _tree(dataset.schema)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".part")
    os.close(handle)
    try:
        _write_file(Path(part), dataset.records, points, visible, tree)
        os.chmod(part, 0o644)
        os.link(part, file)  # fails where somebody was quicker, unlike a rename
    except FileExistsError as e:
        raise TercelError(f"{file} exists already", "write into a new folder or under a new split") from e
    except OSError as e:
        raise TercelError(f"cannot write {file}: {e.strerror or e}", "free some space or choose another folder") from e
    finally:
        Path(part).unlink(missing_ok=True)
    write_atomic(table, text)
    return [file, table]


def _table(dataset: Dataset) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """annotations f64 [N,K,2] and annotated bool [N,K]."""
    k = len(dataset.schema.keypoints)
    points, annotated = np.full((len(dataset), k, 2), np.nan), np.zeros((len(dataset), k), np.bool_)
    for i, record in enumerate(dataset.records):
        xy, visible = target.labelled_points(record, dataset.schema.keypoints)
        if len(xy) > 1:
            what = f"record {record.id!r} ({record.source}) has {len(xy)} animals"
            raise TercelError(what, "this format holds one per picture: write coco, yolo_pose or deeplabcut")
        annotated[i] = True  # somebody has looked; a point without a place is absent
        if len(xy):
            points[i] = np.where((visible[0] > 0)[:, None], xy[0], np.nan)
    return points, annotated


def _tree(schema: Schema) -> NDArray[np.int32]:
    """Parents and mirror partners i32 [K,2], -1 = none. Of several edges to a point the first one makes the parent."""
    number = {n: i for i, n in enumerate(schema.keypoints)}
    tree = np.full((len(number), 2), -1, np.int32)
    for parent, child in schema.edges:
        if tree[number[child], 0] < 0 and number[child] not in _ancestors(tree, number[parent]):
            tree[number[child], 0] = number[parent]
    mirrored = schema.flip_index != np.arange(len(number))
    tree[mirrored, 1] = schema.flip_index[mirrored]
    return tree


def _ancestors(tree: NDArray[np.int32], point: int) -> list[int]:
    """The point, its parent, its parent's parent, ..."""
    line = [point]
    while tree[line[-1], 0] >= 0:
        line.append(int(tree[line[-1], 0]))
    return line


def _table_text(schema: Schema) -> str:
    names = schema.keypoints
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    rows.writerow(["name", "parent", "swap"])
    for name, relatives in zip(names, _tree(schema).tolist(), strict=True):
        rows.writerow([name, *(names[i] if i >= 0 else "" for i in relatives)])
    return lines.getvalue()


def _write_file(
    path: Path,
    records: Sequence[Record],
    points: NDArray[np.float64],
    annotated: NDArray[np.bool_],
    tree: NDArray[np.int32],
) -> None:
    import h5py

    from tercel.data.video import read_frame

    grey = all((pixels == pixels[..., :1]).all() for pixels in (read_frame(r.frames[0]) for r in records))
    with h5py.File(path, "w") as f:
        shape = (len(records), *records[0].size, 1 if grey else 3)
        images = f.create_dataset(stored.KEY, shape, np.uint8)
        for i, record in enumerate(records):
            pixels = read_frame(record.frames[0])
            images[i] = pixels[..., :1] if grey else pixels[..., ::-1]
        f["annotations"], f["annotated"], f["skeleton"] = points, annotated, tree
        f.create_dataset("ids", data=[r.id for r in records], dtype=h5py.string_dtype())
