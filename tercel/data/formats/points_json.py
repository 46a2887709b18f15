"""One json per picture: `bboxes`, a list of x1 y1 x2 y2 in px, and `keypoints`, x y v of each point of each of them.

Files lie in annotations/ and pictures of the same name in images/ beside it, both below folders of splits or not; or
all in one folder. The files name neither classes nor points. A skeleton.json beside the splits may name the points:
`keypoints`, `flip_pairs` and `edges` (pairs of names), `sigmas`, and `visible`, the v of a visible point. v = 0 is an
absent point; where `visible` does not say, the highest v that occurs is a visible one, and 1 below 2 a hidden one. We
write skeleton.json, v as 0, 1 and 2, and no ignored objects.

Source: the files of alexppppp/keypoint_rcnn_training_pytorch (MIT). Shape legend: N objects, K points.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tercel.core.files import read_json, write_atomic, write_json
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import common, skeletons, target
from tercel.data.formats.common import Options, Picture, Rows
from tercel.data.formats.rows import rows_of_points

NAME = "points_json"
TASK = "keypoints"
HOLDS_IGNORE = False
HOLDS_CLASSES = False
LOOKS_LIKE = "a folder with a json per picture that has bboxes and keypoints, in annotations/ or SPLIT/annotations/"

CLASS = "object"
SKELETON = "skeleton.json"


def matches(path: Path) -> bool:
    """True for a folder whose first json, or that of a split, has bboxes and keypoints."""
    return path.is_dir() and any(_is_ours(next(_labels(folder), None)) for folder in _folders(path).values())


def splits(path: Path) -> list[str]:
    """Names of the folders that hold annotations/; none for a single one."""
    return [name for name in _folders(path) if name]


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One split, or all pictures when `split` is None (their ids then begin with the name of the split).

    Raises:
        TercelError: see tercel.data.formats.common and skeletons; also a file without bboxes and keypoints or with
            different numbers of them, an object with another number of points than the others, a point that is not
            x y v, a v that is not 0, 1 or 2.
    """
    options, ledger = options or Options(), Ledger()
    folders = _folders(path)
    source = f"{path}#{split}" if split else str(path)
    if split is not None and split not in folders:
        raise common.unknown_split(str(path), split, splits(path))
    chosen = {split: folders[split]} if split is not None else folders
    files: list[Path] = []
    pictures: list[Picture] = []
    for name, folder in chosen.items():
        prefix = f"{name}/" if name and split is None else ""
        for p in _pictures(folder, prefix, ledger):
            pictures.append(p)
            files.append(Path(p.source))
    if not files:
        raise TercelError(f"{source} holds no json with labels", f"looked for {LOOKS_LIKE}")
    told = _skeleton_file(path)
    rows = _rows([_objects(read_json(f), f) for f in files], files, told)
    _say_visible(rows, told, ledger, source)
    schema = skeletons.onto(Schema(common.one_class(options, CLASS, source)), _skeleton(rows, told, source, ledger))
    pictures, index = common.check_pictures(pictures, ledger, options, source)
    rows.picture = index[rows.picture]
    return common.assemble(pictures, rows, schema, ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/<split>/annotations, `out`/<split>/images (hard links where possible) and skeleton.json. Ignored objects
    and the names of classes are left out.

    Raises:
        TercelError: a file exists already, another skeleton lies there, objects without points, a record is a clip.
    """
    stems = [target.file_stem(r) for r in dataset.records]
    base = out / split
    images = [base / "images" / f"{s}{target.still_picture(r).suffix}" for s, r in zip(stems, dataset.records)]
    labels = [base / "annotations" / f"{s}.json" for s in stems]
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([*labels, *(images if pictures else [])])
    told, skeleton = out / SKELETON, _skeleton_keys(dataset.schema)
    if told.exists() and read_json(told) != skeleton:
        raise TercelError(f"{told} describes another skeleton than the data being written", "write into a new folder")
    texts = [_label_text(r, dataset.schema.keypoints) for r in dataset.records]
    for record, image, label, text in zip(dataset.records, images, labels, texts):
        if pictures:
            target.place_picture(target.still_picture(record), image)
        write_atomic(label, text)
    write_json(told, skeleton)
    return [told, *labels, *(images if pictures else [])]


def _label_text(record: Record, names: Sequence[str]) -> str:
    points, visible = target.named_points(record, names)
    keep = ~record.objects.ignore
    triples = np.concatenate([points, visible[..., None]], axis=-1)[keep].tolist()
    boxes = record.objects.boxes[keep].astype(np.float64).tolist()
    keypoints = [[[x, y, int(v)] for x, y, v in row] for row in triples]
    return json.dumps({"bboxes": boxes, "keypoints": keypoints}) + "\n"


def _skeleton_keys(schema: Schema) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "keypoints": list(schema.keypoints),
        "flip_pairs": [list(p) for p in schema.flip_pairs],
        "edges": [list(e) for e in schema.edges],
        "visible": 2,
    }
    return keys | ({"sigmas": list(schema.sigmas)} if schema.sigmas else {})


# -- files --------------------------------------------------------------------------------------------------------


def _folders(path: Path) -> dict[str, Path]:
    """Folders of splits by name; "" for the path itself."""
    if not path.is_dir():
        return {}
    if (path / "annotations").is_dir():
        return {"": path}
    found = {f.name: f for f in sorted(path.iterdir()) if (f / "annotations").is_dir()}
    return found or {"": path}


def _labels(folder: Path) -> Any:
    """Label files of a folder, sorted."""
    inner = folder / "annotations"
    files = inner.rglob("*.json") if inner.is_dir() else folder.glob("*.json")
    return iter(sorted(f for f in files if f.name != SKELETON))


def _is_ours(file: Path | None) -> bool:
    if file is None or not file.is_file():
        return False
    data = file.read_bytes()
    return data.lstrip()[:1] == b"{" and b'"bboxes"' in data and b'"keypoints"' in data


def _pictures(folder: Path, prefix: str, ledger: Ledger) -> list[Picture]:
    """The labelled pictures of a folder; `source` is their label file."""
    inner = folder / "annotations"
    base, place = (inner, folder / "images") if inner.is_dir() else (folder, folder)
    there = common.pictures_by_stem(place, below=base is inner)
    found = []
    for label in _labels(folder):
        stem = label.relative_to(base).with_suffix("").as_posix() if label.suffix else label.name
        twins = there.pop(stem, [place / f"{stem}.jpg"])
        if len(twins) > 1:
            raise TercelError(f"{label}: {twins[0]} and {twins[1]} share these labels", "rename one of the pictures")
        found.append(Picture(prefix + stem, twins[0], None, str(label)))
    message = "pictures without a json were left out: whether something is on them is not known"
    for pictures in there.values():
        ledger.add("labels.none", Severity.WARNING, message, str(pictures[0]))
    return found


def _skeleton_file(path: Path) -> dict[str, Any]:
    """What skeleton.json says, with its place under "where"; {} where there is none."""
    file = next((f for f in (path / SKELETON, path.parent / SKELETON) if f.is_file()), None)
    if file is None:
        return {}
    data = read_json(file)
    if not isinstance(data, dict) or data.get("visible", 2) not in (1, 2):
        hint = "it is an object with keypoints, flip_pairs, edges, sigmas, and visible, which is 1 or 2"
        raise TercelError(f"{file}: not a skeleton", hint)
    return data | {"where": str(file)}


# -- labels -------------------------------------------------------------------------------------------------------


_Object = tuple[list[float], list[list[float]]]  # box, points


def _rows(contents: Sequence[Sequence[_Object]], files: Sequence[Path], told: dict[str, Any]) -> Rows:
    """The objects of all files; `visible` holds v as it stands there."""
    picture = [i for i, objects in enumerate(contents) for _ in objects]
    places = [f"{f} keypoints[{j}]" for f, objects in zip(files, contents, strict=True) for j in range(len(objects))]
    boxes = [box for objects in contents for box, _ in objects]
    points = [row for objects in contents for _, row in objects]
    names = told.get("keypoints")
    k, says = (len(names), told["where"]) if isinstance(names, list) else (len(points[0]) if points else 1, places[:1])
    for row, where in zip(points, places, strict=True):
        if len(row) != k:
            hint = "give every object all points, in one order; v = 0 for those that are not labelled"
            raise TercelError(f"{where}: {len(row)} points, but {''.join(says)} has {k}", hint)
    table = np.array(points, np.float64).reshape(-1, k, 3)
    visible = table[..., 2]
    for i, j in np.argwhere(~np.isin(visible, (0, 1, 2)))[:1].tolist():
        what = f"{places[i]}: the visibility of point {j + 1} is {visible[i, j]:g}"
        raise TercelError(what, "it is 0 absent, 1 hidden or 2 visible")
    rows = rows_of_points(np.array(picture, np.int64), table[..., :2], visible.astype(np.uint8), places.__getitem__)
    rows.boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return rows


def _objects(data: Any, file: Path) -> list[_Object]:
    """The objects of a file.

    Raises:
        TercelError: not of the form in the head of this module.
    """
    lists = [data.get(key) for key in ("bboxes", "keypoints")] if isinstance(data, dict) else []
    if len(lists) != 2 or not all(isinstance(x, list) for x in lists):
        raise TercelError(f"{file}: no lists bboxes and keypoints", 'a picture without objects has "bboxes": []')
    boxes, keypoints = data["bboxes"], data["keypoints"]
    if len(boxes) != len(keypoints):
        what = f"{file}: {len(boxes)} bboxes, but keypoints of {len(keypoints)} objects"
        raise TercelError(what, "every object has both, in the same order")
    for j, (box, row) in enumerate(zip(boxes, keypoints)):
        if not _numbers(box, 4):
            raise TercelError(f"{file} bboxes[{j}]: {str(box)[:60]} is not x1 y1 x2 y2", "correct it")
        if not isinstance(row, list) or not row:
            raise TercelError(f"{file} keypoints[{j}]: {str(row)[:60]} is no list of points", "correct it")
        odd = next((n for n, point in enumerate(row) if not _numbers(point, 3)), None)
        if odd is not None:
            what = f"{file} keypoints[{j}][{odd}]: {str(row[odd])[:60]} is not x y v"
            raise TercelError(what, "v is 0 for a point that is not labelled")
    return list(zip(boxes, keypoints))


def _numbers(value: Any, count: int) -> bool:
    good = isinstance(value, list) and len(value) == count
    return good and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)


def _say_visible(rows: Rows, told: dict[str, Any], ledger: Ledger, source: str) -> None:
    """`visible` of the rows as ours; files differ in what 1 means."""
    assert rows.visible is not None
    highest = int(rows.visible.max(initial=0))
    if "visible" not in told and highest == 1:
        message = f'v is 0 or 1 everywhere: 1 was read as visible; if it means hidden, say "visible": 2 in {SKELETON}'
        ledger.add("labels.visibility", Severity.INFO, message, source)
    visible = told.get("visible", max(highest, 1))
    rows.visible = np.where(rows.visible >= visible, 2, rows.visible).astype(np.uint8)


def _skeleton(rows: Rows, told: dict[str, Any], source: str, ledger: Ledger) -> Schema:
    assert rows.points is not None
    where = str(told.get("where", source))
    names = told.get("keypoints")
    if names is None:
        names = skeletons.unnamed(rows.points.shape[1], where, ledger)
    return skeletons.parse(
        names, where, ledger,
        flip_pairs=told.get("flip_pairs"), edges=told.get("edges"), sigmas=told.get("sigmas"),
    )  # fmt: skip
