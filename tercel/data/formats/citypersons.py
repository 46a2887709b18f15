"""CityPersons: pedestrians on Cityscapes, one json per picture.

`gtBboxCityPersons/<split>/<city>/NAME_gtBboxCityPersons.json` beside `leftImg8bit/<split>/<city>/NAME_leftImg8bit.png`.
Each of `objects` has a `label`, `bbox` (the whole body) and `bboxVis` (what is seen of it), both x y w h in px.

One class, pedestrian. As in the benchmark all other labels (rider, sitting person, person (other), person group and
ignore) are ignore regions, counted by label. `occlusion` is the share of `bbox` that `bboxVis` does not cover; where
the visible box is not known, Tercel writes `vis_ratio`, 1 - occlusion. Whole bodies may reach beyond the picture, as
with odgt. Record ids are <city>/NAME.

Source: Zhang et al. 2017, "CityPersons: A Diverse Dataset for Pedestrian Detection", and the published files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tercel.core.files import read_json
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import common, persons, target
from tercel.data.formats.common import Options, Picture
from tercel.data.formats.persons import Columns

NAME = "citypersons"
TASK = "boxes"
HOLDS_IGNORE = True
ONLY_CLASSES = ("pedestrian",)
LOOKS_LIKE = "a folder with gtBboxCityPersons/<split>/ that holds *_gtBboxCityPersons.json"

_LABELS, _IMAGES = "gtBboxCityPersons", "leftImg8bit"
_OTHERS = ("ignore", "rider", "sitting person", "person (other)", "person group")


def matches(path: Path) -> bool:
    """True for a folder with such a tree."""
    return bool(splits(path)) if path.is_dir() else False


def splits(path: Path) -> list[str]:
    """Names of the subfolders of gtBboxCityPersons."""
    return sorted(p.name for p in path.glob(f"{_LABELS}/*") if any(p.rglob(f"*_{_LABELS}.json")))


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One split, or all pictures when `split` is None.

    Raises:
        TercelError: see tercel.data.formats.common; also a file without imgHeight, imgWidth and objects, and an unknown
            label.
    """
    options, ledger, known = options or Options(), Ledger(), splits(path)
    if split is not None and split not in known:
        raise common.unknown_split(str(path), split, known)
    source = f"{path}#{split}" if split else str(path)
    classes, ids = persons.class_ids(source, ONLY_CLASSES, options)
    pictures, columns = [], Columns()
    for file, picture in _files(path, [split] if split else known):
        data = _content(file)
        size = (data["imgHeight"], data["imgWidth"])
        pictures.append(Picture(picture[0], picture[1], size, str(file)))
        for n, entry in enumerate(data["objects"]):
            _append(columns, entry, len(pictures) - 1, ids["pedestrian"], f"{file} objects[{n}]", ledger)
    if not pictures:
        raise TercelError(f"{source} lists no picture", f"looked for {LOOKS_LIKE}")
    rows = columns.rows(ledger)
    pictures, index = common.check_pictures(pictures, ledger, options, source)
    rows.picture, rows.beyond = index[rows.picture], True
    return common.assemble(pictures, rows, Schema(classes), ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/gtBboxCityPersons/<split> and `out`/leftImg8bit/<split> (hard links where possible).

    Raises:
        TercelError: a file exists already, a record is a clip, or there are several classes.
    """
    persons.written_names(dataset, ONLY_CLASSES, NAME)
    stems = [target.file_stem(r) for r in dataset.records]
    texts = {out / _LABELS / split / f"{s}_{_LABELS}.json": _text(r) for s, r in zip(stems, dataset.records)}
    suffixes = [target.still_picture(r).suffix for r in dataset.records]
    images = [out / _IMAGES / split / f"{s}_{_IMAGES}{suffix}" for s, suffix in zip(stems, suffixes)]
    return persons.place(dataset.records, texts, images if pictures else [])


# -- reading ------------------------------------------------------------------------------------------------------


def _files(path: Path, chosen: list[str]) -> Iterator[tuple[Path, tuple[str, Path]]]:
    """Each label file with the id and the path of its picture."""
    for split in chosen:
        labels, images = path / _LABELS / split, path / _IMAGES / split
        there = common.pictures_by_stem(images, below=True)
        for file in sorted(labels.rglob(f"*_{_LABELS}.json")):
            id_ = file.relative_to(labels).as_posix().removesuffix(f"_{_LABELS}.json")
            found = there.get(f"{id_}_{_IMAGES}", [images / f"{id_}_{_IMAGES}.png"])
            yield file, (id_, found[0])


def _content(file: Path) -> dict[str, Any]:
    data = read_json(file)
    good = isinstance(data, dict) and isinstance(data.get("imgHeight"), int) and isinstance(data.get("imgWidth"), int)
    objects = data.get("objects") if good else None
    if not isinstance(objects, list) or not all(isinstance(o, dict) for o in objects):
        raise TercelError(f"{file}: needs imgHeight, imgWidth and objects", "check that it is a file of CityPersons")
    return dict(data)


def _append(columns: Columns, entry: dict[str, Any], picture: int, label: int, where: str, ledger: Ledger) -> None:
    name, box, seen = entry.get("label"), persons.xyxy(entry.get("bbox")), persons.xyxy(entry.get("bboxVis"))
    if name not in (*ONLY_CLASSES, *_OTHERS):
        raise common.unknown_class(where, name, (*ONLY_CLASSES, *_OTHERS))
    if box is None:
        ledger.add("labels.fields", Severity.WARNING, "objects whose bbox is not x y w h were left out", where)
        columns.lost += 1
        return
    ratio = entry.get("vis_ratio") if seen is None else persons.seen_share(box, seen)
    reason = "" if name in ONLY_CLASSES else f"what is labelled {name} is ignored"
    columns.add(picture, label, box, ratio, reason, where)


# -- writing ------------------------------------------------------------------------------------------------------


def _text(record: Record) -> str:
    o = record.objects
    rows = zip(o.boxes.astype(np.float64).tolist(), o.ignore.tolist(), persons.ratio_keys(o), strict=True)
    objects = [
        {"instanceId": n, "bbox": [x1, y1, x2 - x1, y2 - y1], "label": "ignore" if ignore else ONLY_CLASSES[0]} | more
        for n, ((x1, y1, x2, y2), ignore, more) in enumerate(rows)
    ]
    data = {"imgHeight": record.size[0], "imgWidth": record.size[1], "objects": objects}
    return json.dumps(data, allow_nan=False) + "\n"
