"""HIT-UAV: thermal pictures from drones, one json per split that looks like COCO's.

Pictures are named by `filename`. `bbox` is cx cy w h theta in px and radians clockwise, w along theta, theta from 0 to
pi; in the axis-aligned variant it is x y w h from the top left, and the list is called `annotation`. `difficult`
objects are ignored ones; those of the category DontCare become ignore regions of every class. Record ids are the image
ids and category ids are kept, both as with COCO.

Source: Suo et al., Scientific Data 10, 227 (2023), and the published files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import read_json, write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.data.formats import angles, coco, common, target
from tercel.data.formats.common import Options, Picture, Rows
from tercel.data.formats.regions import DONT_CARE, gathered, is_dont_care, spread

NAME = "hit_uav"
TASK = "oriented"
HOLDS_IGNORE = True
LOOKS_LIKE = "a folder with annotations/*.json whose images have a `filename` (not `file_name`), or such a file"

_KEYS = ("annotations", "annotation")


def matches(path: Path) -> bool:
    """True for a json of this kind, or a folder that holds one."""
    return _is_hit_uav(path) if path.is_file() else bool(path.is_dir() and _files(path))


def splits(path: Path) -> list[str]:
    """Names of the json files of a folder, without `instances_`; none for a single file."""
    return [] if path.is_file() else sorted(_files(path))


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One json file, or that of a split when `path` is a folder; oriented boxes, or boxes from the other variant.

    Raises:
        TercelError: see tercel.data.formats.common; also a repeated image or category id, an annotation of an unknown
            category, boxes of both kinds in one file, and a folder with several splits of which none was named.
    """
    options, ledger = options or Options(), Ledger()
    file, name = _choose(path, split)
    data = _sections(file)
    everyone = {c.get("id") for c in data["categories"] if is_dont_care(str(c.get("name")))}
    real = [c for c in data["categories"] if c.get("id") not in everyone]
    ids, schema = coco.category_schema(file, real, options)
    images = [{**i, "file_name": i["filename"]} if "filename" in i else i for i in data["images"]]
    pictures = coco.listed_pictures(file, images, name)
    labels = {c: schema.category_ids.index(c) for c in ids} | dict.fromkeys(everyone, -1)
    rows = _rows(file, data["annotations"], pictures, labels, ledger)
    rows = spread(rows, rows.labels < 0, len(schema.classes), ledger)
    pictures, index = common.check_pictures(pictures, ledger, options, str(file))
    rows.picture = index[rows.picture]
    return common.assemble(pictures, rows, schema, ledger, options=options, source=str(file))


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/annotations/<split>.json with the pictures in `out`/<split>; without oriented boxes the axis-aligned kind.

    Raises:
        TercelError: a file exists already, a record is a clip, or some objects have oriented boxes and others have not.
    """
    file, names = out / "annotations" / f"{split}.json", coco.file_names(dataset.records)
    images = [out / split / n for n in names] if pictures else []
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([file, *images])
    text = json.dumps(_to_json(dataset, names), ensure_ascii=False, allow_nan=False) + "\n"
    for record, image in zip(dataset.records, images):
        target.place_picture(target.still_picture(record), image)
    write_atomic(file, text)
    return [file, *images]


# -- reading ------------------------------------------------------------------------------------------------------


def _is_hit_uav(path: Path) -> bool:
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    data = path.read_bytes()
    named = b'"filename"' in data and b'"file_name"' not in data
    return named and data.lstrip()[:1] == b"{" and b'"images"' in data and b'"annotation' in data


def _files(folder: Path) -> dict[str, Path]:
    """Files of a folder by split name."""
    found = [f for f in sorted([*folder.glob("*.json"), *(folder / "annotations").glob("*.json")]) if _is_hit_uav(f)]
    return {_split_name(f): f for f in found}


def _split_name(file: Path) -> str:
    return file.stem.removeprefix("instances_")


def _choose(path: Path, split: str | None) -> tuple[Path, str]:
    if path.is_file():
        if split is not None:
            raise common.unknown_split(str(path), split, [])
        return path, _split_name(path)
    files = _files(path)
    if split is None and len(files) == 1:
        split = next(iter(files))
    if split is None:
        what = f"{path} holds {len(files)} files of HIT-UAV ({', '.join(files)})"
        raise TercelError(what, f"name one, for example {path}#{next(iter(files), 'train')}")
    if split not in files:
        raise common.unknown_split(str(path), split, list(files))
    return files[split], split


def _sections(file: Path) -> dict[str, list[dict[str, Any]]]:
    with common.collector_paused():
        data = read_json(file)
    known = "a file of HIT-UAV has images, annotations (or annotation), categories"
    if not isinstance(data, dict):
        raise TercelError(f"{file}: not a JSON object", known)
    data = dict(data) | {"annotations": next((data[k] for k in _KEYS if k in data), None)}
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list) or not all(isinstance(x, dict) for x in data[key]):
            raise TercelError(f"{file}: {key!r} is not a list of objects", known)
    if not data["images"]:
        raise TercelError(f"{file} lists no picture", "check that it is the right file")
    return data


def _rows(
    file: Path,
    annotations: list[dict[str, Any]],
    pictures: Sequence[Picture],
    labels: dict[Any, int],
    ledger: Ledger,
) -> Rows:
    """The annotations that have what an object needs; the others are counted. Label -1: DontCare."""
    index = coco.image_index(pictures)
    places: list[str] = []
    columns: list[tuple[int, int, bool]] = []
    boxes: list[list[float]] = []
    for n, a in enumerate(annotations):
        where = f"{file} annotations[{n}] (id {a.get('id', '?')})"
        category, bbox, image = a.get("category_id"), a.get("bbox"), a.get("image_id")
        if not isinstance(category, int) or category not in labels:
            raise common.unknown_class(where, category, [str(c) for c in labels])
        numbers = isinstance(bbox, list) and all(isinstance(x, int | float) for x in bbox)
        if not isinstance(bbox, list) or not numbers or len(bbox) not in {4, 5}:
            message = "annotations without a bbox of 5 numbers (cx cy w h theta) or 4 (x y w h) were left out"
            ledger.add("labels.fields", Severity.WARNING, message, where)
            continue
        if not isinstance(image, int | str) or image not in index:
            message = "annotations of pictures that are not listed were left out"
            ledger.add("labels.orphan", Severity.WARNING, message, where)
            continue
        if boxes and len(bbox) != len(boxes[0]):
            what = f"{where}: a bbox of {len(bbox)} numbers, the first has {len(boxes[0])}"
            raise TercelError(what, "keep oriented boxes (5 numbers) and others (4) in files of their own")
        places.append(where)
        columns.append((index[image], labels[category], bool(a.get("difficult"))))
        boxes.append(bbox)
    picture, label, difficult = np.array(columns, np.int64).reshape(-1, 3).T
    lost = len(annotations) - len(boxes)
    oriented = not boxes or len(boxes[0]) == 5
    table = np.array(boxes, np.float64).reshape(-1, 5 if oriented else 4)
    xyxy = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)  # not looked at beside obbs
    ignore = difficult.astype(np.bool_)
    return Rows(
        picture, label, xyxy, places.__getitem__, ignore, lost=lost, obbs=_angles(table, places) if oriented else None
    )


def _angles(table: NDArray[np.float64], places: Sequence[str]) -> NDArray[np.float64]:
    angles.check_radians(table[:, 4], places.__getitem__)
    return angles.to_ours(table, angles.HALF_TURN)


# -- writing ------------------------------------------------------------------------------------------------------


def _to_json(dataset: Dataset, names: Sequence[str]) -> dict[str, Any]:
    oriented = _oriented(dataset.records)
    classes = dataset.schema.classes
    categories = dataset.schema.category_ids or tuple(range(len(classes)))
    ids, extra = coco.image_ids(dataset.records), max(categories, default=-1) + 1
    annotations: list[dict[str, Any]] = []
    for image, r in zip(ids, dataset.records):
        rows, every = gathered(r.objects, classes)
        o = r.objects[rows]
        boxes = _xywh(o.boxes) if o.obbs is None else angles.from_ours(o.obbs, angles.HALF_TURN).tolist()
        for label, box, ignore, all_classes in zip(o.labels.tolist(), boxes, o.ignore.tolist(), every.tolist()):
            category = extra if all_classes else categories[label]
            about: dict[str, Any] = {"id": len(annotations), "image_id": image, "category_id": category}
            annotations.append(about | {"difficult": ignore and not all_classes, "bbox": box})
    table = [{"id": i, "name": c} for i, c in zip(categories, classes)] + [{"id": extra, "name": DONT_CARE}]
    return {
        "images": [
            {"id": i, "filename": n, "height": r.size[0], "width": r.size[1]}
            for i, n, r in zip(ids, names, dataset.records)
        ],
        "annotations" if oriented else "annotation": annotations,
        "categories": table,
    }


def _oriented(records: Sequence[Record]) -> bool:
    filled = [r for r in records if len(r.objects)]
    without = [r for r in filled if r.objects.obbs is None]
    if without and len(without) < len(filled):
        what = f"record {without[0].id!r} has boxes without angles, others have oriented ones"
        raise TercelError(what, "write the two kinds into folders of their own")
    return not without


def _xywh(boxes: NDArray[np.float32]) -> list[list[float]]:
    wide = boxes.astype(np.float64)
    table: list[list[float]] = np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], axis=1).tolist()
    return table
