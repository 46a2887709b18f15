"""COCO instances: one json with images, annotations and categories, and a folder of pictures.

A record's id is `str(image id)`; results files name pictures by that id. Sparse category ids become class ids 0..C-1 in
the order of the ids, the table is kept in `Schema.category_ids` and written back. `iscrowd` is `ignore`. `area` (COCO:
that of the mask) is kept where it is not the box's. Masks are not read. Where annotations have an `obb` or `corners`
(tercel.data.formats.obb_json), these are oriented boxes; where they or the categories have `keypoints`, named points
(tercel.data.formats.coco_points). `vis_ratio` (CityPersons as COCO: the visible share) becomes `occlusion`. Boxes are
cut at the picture, unless `info` says `"amodal": true`: boxes of whole bodies, which may reach beyond it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import read_json, write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.geometry import box_area, clip_boxes
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import coco_points, common, obb_json, persons, skeletons, target
from tercel.data.formats.common import Options, Picture, Rows

NAME = "coco"
TASK = "boxes"
HOLDS_IGNORE = True
LOOKS_LIKE = "a .json with images, annotations and categories, or a folder with such files (annotations/*.json)"


def matches(path: Path) -> bool:
    """True for an instances json, or a folder that holds one."""
    return _is_instances(path) if path.is_file() else bool(path.is_dir() and _files(path))


def splits(path: Path) -> list[str]:
    """Names of the json files of a folder, without `instances_`; none for a single file."""
    return [] if path.is_file() else sorted(_files(path))


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One json file, or that of a split when `path` is a folder.

    Raises:
        TercelError: see tercel.data.formats.common; also a repeated image, annotation or category id, an annotation of
            an unknown category, and a folder with several splits of which none was named.
    """
    options, ledger = options or Options(), Ledger()
    file, name = _choose(path, split)
    with common.collector_paused():
        data = _sections(file)
    ids, schema = category_schema(file, data["categories"], options)
    if ids and ids[-1] - ids[0] != len(ids) - 1:
        table = ", ".join(f"{i}={c}" for i, c in list(zip(ids, schema.classes))[:8])
        ledger.add(
            "labels.category_ids",
            Severity.INFO,
            f"sparse category ids became class ids 0..C-1 in their order ({table} ...)",
            str(file),
        )
    skeleton = coco_points.read_skeleton(file, data["categories"], data["annotations"], ledger)
    schema = skeletons.onto(schema, skeleton)
    pictures = listed_pictures(file, data["images"], name)
    classes = {c: schema.category_ids.index(c) for c in ids}
    rows = _rows(file, data["annotations"], pictures, classes, ledger, len(schema.keypoints))
    pictures, index = common.check_pictures(pictures, ledger, options, str(file))
    rows.picture = index[rows.picture]
    info = data.get("info")
    rows.beyond = isinstance(info, dict) and info.get("amodal") is True
    return common.assemble(pictures, rows, schema, ledger, options=options, source=str(file))


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/annotations/instances_<split>.json with the pictures in `out`/<split>; or `out` itself when it ends in
    .json, with the pictures in images/ beside it. Ids that are whole numbers are kept, others are numbered from 1 and
    live on in `file_name`.

    Raises:
        TercelError: a file exists already, or a record is a clip.
    """
    single = out.suffix == ".json"
    file = out if single else out / "annotations" / f"instances_{split}.json"
    folder = out.parent / "images" if single else out / split
    names = file_names(dataset.records)
    images = [folder / n for n in names] if pictures else []
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([file, *images])
    for record, image in zip(dataset.records, images):
        target.place_picture(target.still_picture(record), image)
    write_atomic(file, json.dumps(to_json(dataset, names), ensure_ascii=False, allow_nan=False) + "\n")
    return [file, *images]


def to_json(dataset: Dataset, names: Sequence[str]) -> dict[str, Any]:
    """The data set as a COCO instances dictionary; `names` are the `file_name`s of its records."""
    schema = dataset.schema
    categories = schema.category_ids or tuple(range(1, len(schema.classes) + 1))
    ids = image_ids(dataset.records)
    annotations: list[dict[str, Any]] = []
    for image_id, r in zip(ids, dataset.records):
        xyxy = r.objects.boxes.astype(np.float64)
        xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1).tolist()
        o = r.objects
        keys = zip(obb_json.keys_of(o), coco_points.annotation_keys(o), persons.ratio_keys(o), strict=True)
        more = [a | b | c for a, b, c in keys]
        for label, box, area, ignore, others in zip(o.labels.tolist(), xywh, o.areas.tolist(), o.ignore.tolist(), more):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories[label],
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(ignore),
                }
                | others
            )
    return _info(dataset.records) | {
        "images": [
            {"id": i, "file_name": n, "height": r.size[0], "width": r.size[1]}
            for i, n, r in zip(ids, names, dataset.records)
        ],
        "annotations": annotations,
        "categories": [
            {"id": i, "name": c} | coco_points.category_keys(schema) for i, c in zip(categories, schema.classes)
        ],
    }


def _info(records: Sequence[Record]) -> dict[str, Any]:
    """`info`, where boxes reach beyond their picture and are to stay so."""
    upright = (r for r in records if r.objects.obbs is None)
    beyond = any((clip_boxes(r.objects.boxes, r.size) != r.objects.boxes).any() for r in upright)
    return {"info": {"amodal": True}} if beyond else {}


def image_ids(records: Sequence[Record]) -> list[int]:
    """The ids as numbers where all are whole numbers, else 1..P in order."""
    if all(r.id.isascii() and r.id.isdigit() and str(int(r.id)) == r.id for r in records):
        return [int(r.id) for r in records]
    return list(range(1, len(records) + 1))


def file_names(records: Sequence[Record]) -> list[str]:
    """File names of the pictures: their own where no two are alike, else by record id."""
    files = [target.still_picture(r) for r in records]
    own = [f.name for f in files]
    return own if len(set(own)) == len(own) else [f"{target.file_stem(r)}{f.suffix}" for r, f in zip(records, files)]


# -- files --------------------------------------------------------------------------------------------------------


def _is_instances(path: Path) -> bool:
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    data = path.read_bytes()
    ours = b'"file_name"' in data or b'"filename"' not in data  # else HIT-UAV's, which is alike
    return data.lstrip()[:1] == b"{" and b'"images"' in data and b'"annotations"' in data and ours


def _files(folder: Path) -> dict[str, Path]:
    """Instances files of a folder by split name."""
    found: dict[str, Path] = {}
    for f in sorted(
        [*folder.glob("*.json"), *(folder / "annotations").glob("*.json"), *folder.glob("*/_annotations.coco.json")]
    ):
        if _is_instances(f):
            found[_split_name(f)] = f
    return found


def _split_name(file: Path) -> str:
    return file.parent.name if file.name == "_annotations.coco.json" else file.stem.removeprefix("instances_")


def _choose(path: Path, split: str | None) -> tuple[Path, str]:
    if path.is_file():
        if split is not None:
            raise common.unknown_split(str(path), split, [])
        return path, _split_name(path)
    files = _files(path)
    if split is None and len(files) == 1:
        split = next(iter(files))
    if split is None:
        raise TercelError(
            f"{path} holds {len(files)} COCO files ({', '.join(files)})" if files else f"{path} holds no COCO file",
            f"name one, for example {path}#{next(iter(files))}" if files else f"looked for {LOOKS_LIKE}",
        )
    if split not in files:
        raise common.unknown_split(str(path), split, list(files))
    return files[split], split


def _sections(file: Path) -> dict[str, Any]:
    data = read_json(file)
    if not isinstance(data, dict):
        raise TercelError(
            f"{file}: not a COCO instances file (a list: results, perhaps)", "truth has images, annotations"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list) or not all(isinstance(x, dict) for x in data[key]):
            raise TercelError(
                f"{file}: {key!r} is not a list of objects", "a COCO file has images, annotations, categories"
            )
    if not data["images"]:
        raise TercelError(f"{file} lists no picture", "check that it is the right file")
    return data


def category_schema(file: Path, categories: list[dict[str, Any]], options: Options) -> tuple[list[int], Schema]:
    """All category ids in their order, and the schema whose `category_ids` go with its classes."""
    try:
        pairs = sorted((int(c["id"]), _text(c["name"])) for c in categories)
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise TercelError(f"{file}: a category without a whole-number id and a name", "give every category both") from e
    ids, names = [i for i, _ in pairs], [n for _, n in pairs]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise TercelError(f"{file}: category id {twice} occurs twice", "give every category its own id")
    try:
        if options.classes is None:
            return ids, Schema(tuple(names), category_ids=tuple(ids))
        table = dict(zip(names, ids))
        for n in names:
            if n not in options.classes:
                raise common.unknown_class(f"{file} (categories)", n, options.classes)
        spare = iter(range(max(ids, default=0) + 1, max(ids, default=0) + 1 + len(options.classes)))
        return ids, Schema(
            options.classes, category_ids=tuple(table[c] if c in table else next(spare) for c in options.classes)
        )
    except TercelError as e:
        raise TercelError(e.message if str(file) in e.message else f"{file}: {e.message}", e.remedy) from e


def listed_pictures(file: Path, images: list[dict[str, Any]], split: str) -> list[Picture]:
    pictures: list[Picture] = []
    seen: set[str] = set()
    folder: Path | None = None
    for n, image in enumerate(images):
        where = f"{file} images[{n}]"
        try:
            id_, name = _text(image["id"]), _text(image["file_name"])
            size = (int(image["height"]), int(image["width"])) if "height" in image and "width" in image else None
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise TercelError(f"{where}: needs id, file_name, height and width", "complete or correct the entry") from e
        if id_ in seen:
            raise TercelError(f"{where}: image id {id_} occurs twice", "give every picture its own id")
        seen.add(id_)
        folder = folder or _picture_folder(file, images, split)
        pictures.append(Picture(id_, common.inside(folder, name, where), size, f"{file}: image {id_}"))
    _refuse_same_file(file, pictures)
    return pictures


def _refuse_same_file(file: Path, pictures: list[Picture]) -> None:
    seen: dict[Path, str] = {}
    for p in pictures:
        if p.path in seen:
            raise TercelError(
                f"{file}: images {seen[p.path]} and {p.id} are one file, {p.path}", "list every picture once"
            )
        seen[p.path] = p.id


def _picture_folder(file: Path, images: list[dict[str, Any]], split: str) -> Path:
    """Where the pictures lie: beside the json, in images/, or in a folder named like the split."""
    here, up = file.parent, file.parent.parent
    names = [str(i.get("file_name", "")) for i in images[:20]]
    for folder in (
        here,
        here / "images",
        here / split,
        up / split,
        up / "images",
        here / "images" / split,
        up / "images" / split,
    ):
        if folder.is_dir() and any(n and os.path.exists(folder / n.replace("\\", "/")) for n in names):
            return folder
    return here


def _text(value: Any) -> str:
    """A name that is text or a number, and nothing else.

    Raises:
        TypeError: null, a list, an empty text.
    """
    if not isinstance(value, str | int) or value == "":
        raise TypeError(value)
    return str(value)


# -- annotations --------------------------------------------------------------------------------------------------


def image_index(pictures: Sequence[Picture]) -> dict[Any, int]:
    """Picture number by image id, as text and as number: files mix "2299" and 2299, which is unambiguous."""
    index: dict[Any, int] = {}
    for i, p in enumerate(pictures):
        index[p.id] = i
        if p.id.isascii() and p.id.isdigit() and str(int(p.id)) == p.id:
            index[int(p.id)] = i
    return index


def _rows(
    file: Path,
    annotations: list[dict[str, Any]],
    pictures: Sequence[Picture],
    classes: dict[int, int],
    ledger: Ledger,
    k: int,
) -> Rows:
    def where(i: int) -> str:
        return f"{file} annotations[{i}] (id {annotations[i].get('id', '?')})"

    index, lost = image_index(pictures), len(annotations)
    if k:
        annotations = coco_points.with_boxes(annotations, ledger, where)
    oriented = obb_json.is_oriented(annotations)
    if oriented:  # then a bbox may be left out, and is not looked at
        annotations = [{"bbox": [0, 0, 0, 0], **a} for a in annotations]
    try:  # the quick way, in columns; whatever is odd makes it fail and goes row by row
        columns = _columns(annotations, index, classes)
    except (KeyError, TypeError, ValueError):
        annotations = _usable(file, annotations, index, classes, ledger)
        columns = _columns(annotations, index, classes)
    picture, labels, xywh, ignore, area = columns
    ids = [a["id"] for a in annotations if "id" in a]
    if not all(isinstance(i, int | str) for i in ids):
        n, odd = next((n, a["id"]) for n, a in enumerate(annotations) if not isinstance(a.get("id", 0), int | str))
        raise TercelError(f"{file} annotations[{n}]: the id {odd!r:.50} is no number", "correct the id")
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise TercelError(f"{file}: annotation id {twice} occurs twice", "give every annotation its own id")

    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    obbs = obb_json.read_obbs(annotations, where, ledger) if oriented else None
    heading, headed = obb_json.read_headings(annotations) if oriented else (None, None)
    known = np.isfinite(area) & (area >= 0)
    with np.errstate(invalid="ignore", over="ignore"):  # boxes that are not finite are left out later, and counted
        own = box_area(boxes.astype(np.float32)) if obbs is None else (obbs[:, 2] * obbs[:, 3]).astype(np.float32)
    area = np.where(known, area, own)
    points, visible = coco_points.read_points(annotations, k, where, ledger) if k else (None, None)
    share, told = persons.from_ratios([a.get("vis_ratio") for a in annotations])
    differs = bool((area.astype(np.float32) != own)[np.isfinite(boxes).all(1)].any())
    return Rows(
        picture,
        labels,
        boxes,
        where,
        ignore,
        area=area if differs else None,
        lost=lost - len(annotations),
        obbs=obbs,
        heading=heading,
        headed=headed,
        points=points,
        visible=visible,
        occlusion=persons.told(share, told, ignore, where, ledger),
    )


def _columns(
    annotations: list[dict[str, Any]], index: dict[Any, int], classes: dict[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    picture = np.array([index[a["image_id"]] for a in annotations], np.int64)
    labels = np.array([classes[a["category_id"]] for a in annotations], np.int64)
    xywh = np.array([a["bbox"] for a in annotations], np.float64)
    if len(annotations) and xywh.shape != (len(annotations), 4):
        raise ValueError("bbox is x y width height")
    ignore = np.array([int(a.get("iscrowd", 0)) != 0 for a in annotations], np.bool_)
    area = np.array([a.get("area") for a in annotations], np.float64)  # None becomes NaN
    return picture, labels, xywh.reshape(-1, 4), ignore, area


def _usable(
    file: Path, annotations: list[dict[str, Any]], index: dict[Any, int], classes: dict[int, int], ledger: Ledger
) -> list[dict[str, Any]]:
    """The annotations that have what a box needs; the others are counted, an unknown category is an error."""
    good = []
    for n, a in enumerate(annotations):
        where = f"{file} annotations[{n}] (id {a.get('id', '?')})"
        if not isinstance(a.get("category_id"), int) or a["category_id"] not in classes:
            raise common.unknown_class(where, a.get("category_id"), [str(c) for c in classes])
        try:
            one = _columns([a], {"": 0} | {a["image_id"]: 0}, classes)
            if not isinstance(a["bbox"], list) or one[2].shape != (1, 4):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            message = (
                "annotations whose image_id, bbox (x y width height), area or iscrowd is missing or odd were left out"
            )
            ledger.add("labels.fields", Severity.WARNING, message, where)
            continue
        if a["image_id"] not in index:
            ledger.add(
                "labels.orphan", Severity.WARNING, "annotations of pictures that are not listed were left out", where
            )
            continue
        good.append(a)
    return good
