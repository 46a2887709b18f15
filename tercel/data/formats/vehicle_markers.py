"""VehicleMarkers: `<picture>.vehicle_markers.json` beside each picture, as an editor for drone pictures writes it.

A list of one-element lists of markers: x y (centre), length, width in px, heading_angle in degrees clockwise on screen
(the direction of the length), type, enabled. Disabled markers are ignored objects and are counted; type dont_care is an
ignore region of every class; type -1 (region of interest) is no object. Subfolders are splits.

heading_angle says where the front points, unless `heading_known` is false (Tercel writes it) or the marker is an
untouched detection: it has a score and was neither keyed nor created by hand. Then only the angle of the box is known.

Class ids are the types in order; types beyond the table are the further names of `classes.txt`, from 13 on. The side
file `<picture>.video_attrs.json` holds the length and width of the commonest vehicle.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import read_json, write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.geometry import obb_corners
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import common, target
from tercel.data.formats.common import Options, Picture, Rows
from tercel.data.formats.regions import gathered, spread

NAME = "vehicle_markers"
TASK = "oriented"
HOLDS_IGNORE = True
LOOKS_LIKE = "a folder (or subfolders) of pictures with *.vehicle_markers.json beside them"

SUFFIX = ".vehicle_markers.json"
ATTRIBUTES = ".video_attrs.json"
TYPES = {
    "car": 0, "bus": 1, "mini_bus": 2, "truck": 3, "van": 4, "motorcycle": 5, "cyclist": 6, "pedestrian": 7,
    "big_truck": 8, "small_trailer": 10, "travel_trailer": 11, "trailer": 12,
}  # fmt: skip
REGION, DONT_CARE, FURTHER = -1, 9, 13
_NUMBERS = ("x", "y", "length", "width", "heading_angle")


def matches(path: Path) -> bool:
    """True for a folder with marker files, or with subfolders of them."""
    return path.is_dir() and (_has_markers(path) or bool(splits(path)))


def splits(path: Path) -> list[str]:
    """Subfolders with marker files, where the folder itself has none."""
    if not path.is_dir() or _has_markers(path):
        return []
    return sorted(p.name for p in path.iterdir() if p.is_dir() and any(p.rglob(f"*{SUFFIX}")))


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One split, or all of them (ids then begin with the split) when `split` is None.

    Raises:
        TercelError: see tercel.data.formats.common; also JSON of another shape, and an unknown type.
    """
    options, ledger = options or Options(), Ledger()
    source = f"{path}#{split}" if split else str(path)
    known = splits(path)
    if split is not None and split not in known:
        raise common.unknown_split(str(path), split, known)
    folder = path / split if split else path
    beside = common.pictures_by_stem(folder, below=True)
    files = {f.relative_to(folder).as_posix().removesuffix(SUFFIX): f for f in sorted(folder.rglob(f"*{SUFFIX}"))}
    listed = next((p for p in (path / "classes.txt", path.parent / "classes.txt") if p.is_file()), None)
    classes, types = _classes(options, listed)
    pictures: list[Picture] = []
    found = _Markers()
    for stem in sorted({*files, *beside}):
        file, images = files.get(stem), beside.get(stem, [])
        if len(images) > 1:
            raise TercelError(f"{images[0]} and {images[1]} share one label, {stem}{SUFFIX}", "rename one of them")
        image = images[0] if images else folder / f"{stem}.jpg"
        size, first = None, len(found.numbers)
        if file is None:
            message = "pictures without a marker file count as negatives"
            ledger.add("labels.none", Severity.INFO, message, str(image))
        else:
            _read_markers(file, len(pictures), types, found, ledger)
            if not images and not options.pictures:
                size = common.size_from_points(_corners(found.numbers[first:]), ledger, str(file))
        pictures.append(Picture(stem, image, size, str(file or image)))
    rows = spread(found.rows(), np.array(found.every, np.bool_), len(classes), ledger)
    pictures, index = common.check_pictures(pictures, ledger, options, source)
    rows.picture = index[rows.picture]
    return common.assemble(pictures, rows, Schema(classes), ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """Pictures (hard links where possible) and marker files in `out`/<split>; classes.txt where names are not those of
    the types. A heading is written as the nearest of the four directions of the box.

    Raises:
        TercelError: a file exists already, another class list lies there, a record is a clip or has boxes without an
            angle.
    """
    folder, names = out / split, out / "classes.txt"
    classes = dataset.schema.classes
    stems = [target.file_stem(r) for r in dataset.records]
    images = [folder / f"{s}{target.still_picture(r).suffix}" for s, r in zip(stems, dataset.records)]
    labels = [folder / f"{s}{SUFFIX}" for s in stems]
    texts = [json.dumps(_to_json(r, classes), ensure_ascii=False, allow_nan=False) + "\n" for r in dataset.records]
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([*labels, *(images if pictures else [])])
    target.same_classes(names, classes)
    for record, image, label, text in zip(dataset.records, images, labels, texts):
        if pictures:
            target.place_picture(target.still_picture(record), image)
        write_atomic(label, text)
    special = classes != tuple(TYPES)
    if special and not names.exists():
        write_atomic(names, "".join(f"{c}\n" for c in classes))
    return [*([names] if special else []), *labels, *(images if pictures else [])]


def read_attributes(path: Path) -> tuple[float, float] | None:
    """(length, width) in px of the commonest vehicle from a side file, None when it lacks them.

    Raises:
        TercelError: missing or not JSON.
    """
    d = read_json(path)
    values = [d.get(f"MostCommonVehicle{k}InPixels") if isinstance(d, dict) else None for k in ("Length", "Width")]
    good = all(isinstance(v, int | float) and v > 0 for v in values)
    return (float(values[0]), float(values[1])) if good else None  # type: ignore[arg-type]


def write_attributes(path: Path, length: float, width: float) -> None:
    """The side file of a picture or video, px.

    Raises:
        TercelError: the file exists.
    """
    target.refuse_existing([path])
    values = {"MostCommonVehicleLengthInPixels": length, "MostCommonVehicleWidthInPixels": width}
    write_atomic(path, json.dumps(values, allow_nan=False) + "\n")


# -- classes ------------------------------------------------------------------------------------------------------


def type_numbers(classes: Sequence[str]) -> list[int]:
    """The type of each class: that of the table, for other names 13, 14, ... in their order."""
    further = [c for c in classes if c not in TYPES]
    return [TYPES[c] if c in TYPES else FURTHER + further.index(c) for c in classes]


def _classes(options: Options, listed: Path | None) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names, and the class id of each type (-1: a type that has a name, but no class here)."""
    written = common.read_classes(listed) if listed else tuple(TYPES)
    names = dict(zip(type_numbers(written), written)) | {v: k for k, v in TYPES.items()}
    classes = options.classes or written
    ids = {c: i for i, c in enumerate(classes)}
    return classes, {t: ids.get(name, -1) for t, name in names.items()}


# -- markers ------------------------------------------------------------------------------------------------------


@dataclass
class _Markers:
    picture: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    numbers: list[list[float]] = field(default_factory=list)
    ignore: list[bool] = field(default_factory=list)
    headed: list[bool] = field(default_factory=list)
    every: list[bool] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    lost: int = 0

    def rows(self) -> Rows:
        table = np.array(self.numbers, np.float64).reshape(-1, 5)
        table[:, 4] = np.deg2rad(table[:, 4])
        headed = np.array(self.headed, np.bool_)
        return Rows(
            np.array(self.picture, np.int64),
            np.array(self.labels, np.int64),
            np.zeros((len(table), 4)),
            self.places.__getitem__,
            np.array(self.ignore, np.bool_),
            lost=self.lost,
            obbs=table,
            heading=table[:, 4].copy() if headed.any() else None,
            headed=headed if headed.any() else None,
        )


def _has_markers(folder: Path) -> bool:
    return any(folder.glob(f"*{SUFFIX}"))


def _corners(numbers: list[list[float]]) -> NDArray[np.float64]:
    table = np.array(numbers, np.float64).reshape(-1, 5)
    table[:, 4] = np.deg2rad(table[:, 4])
    return np.asarray(obb_corners(table).reshape(-1, 2), np.float64)


def _read_markers(file: Path, picture: int, types: dict[int, int], found: _Markers, ledger: Ledger) -> None:
    data = read_json(file)
    if not isinstance(data, list):
        raise TercelError(f"{file}: not a list of markers", "a marker file is a list of one-element lists of markers")
    for n, entry in enumerate(data):
        for k, m in enumerate(entry if isinstance(entry, list) else [entry]):
            where = f"{file}[{n}]" if k == 0 else f"{file}[{n}][{k}]"
            if not isinstance(m, dict):
                raise TercelError(f"{where}: not a marker", "a marker has x, y, length, width, heading_angle, type")
            if k or m.get("frame_id", 0) not in {0, None}:
                message = "markers of other frames than the first were left out: a picture has one"
                ledger.add("labels.orphan", Severity.WARNING, message, where)
                found.lost += 1
                continue
            _add(m, where, picture, types, found, ledger)


def _add(m: dict[str, Any], where: str, picture: int, types: dict[int, int], found: _Markers, ledger: Ledger) -> None:
    kind = m.get("type")
    if kind == REGION:
        message = "regions of interest (type -1) are no vehicles and were left out"
        ledger.add("labels.regions", Severity.INFO, message, where)
        return
    if not isinstance(kind, int) or (kind != DONT_CARE and types.get(kind, -1) < 0):
        known = [f"{t}" for t, c in types.items() if c >= 0]
        raise common.unknown_class(where, kind, known)
    values = [m.get(k) for k in _NUMBERS]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        message = "markers without x, y, length, width and heading_angle as numbers were left out"
        ledger.add("labels.fields", Severity.WARNING, message, where)
        found.lost += 1
        return
    enabled = m.get("enabled", True) is not False
    if not enabled:
        message = "disabled markers became ignored objects"
        ledger.add("labels.disabled", Severity.INFO, message, where)
    found.picture.append(picture)
    found.labels.append(max(types.get(kind, 0), 0))
    found.numbers.append([float(v) for v in values if v is not None])
    found.ignore.append(not enabled)
    found.headed.append(_is_headed(m))
    found.every.append(kind == DONT_CARE)
    found.places.append(where)


def _is_headed(m: dict[str, Any]) -> bool:
    if "heading_known" in m:
        return m["heading_known"] is not False
    by_hand = m.get("manually_keyed") is True or m.get("manually_created") is True
    return by_hand or m.get("score") is None


def _to_json(record: Record, classes: Sequence[str]) -> list[list[dict[str, Any]]]:
    types = type_numbers(classes)
    target.oriented_boxes(record)
    rows, every = gathered(record.objects, classes)
    o = record.objects[rows]
    out: list[list[dict[str, Any]]] = []
    for i in range(len(o)):
        assert o.obbs is not None
        known = o.heading is not None and o.headed is not None and bool(o.headed[i])
        heading = float(o.heading[i]) if known and o.heading is not None else float(o.obbs[i, 4])
        x, y, length, width, angle = _along(o.obbs[i].astype(np.float64), heading)
        marker = {
            "frame_id": 0,
            "id": i,
            "x": x,
            "y": y,
            "length": length,
            "width": width,
            "heading_angle": angle,
            "type": DONT_CARE if every[i] else types[int(o.labels[i])],
            "enabled": bool(every[i]) or not bool(o.ignore[i]),
            "heading_known": known,
        }
        if o.scores is not None:
            marker["score"] = float(o.scores[i])
        out.append([marker])
    return out


def _along(obb: NDArray[np.float64], heading: float) -> tuple[float, float, float, float, float]:
    """x y length width heading_angle (degrees in [0, 360)) with the length along the side nearest to the heading."""
    x, y, length, width, theta = obb.tolist()
    quarters = round((heading - theta) / (np.pi / 2))
    if quarters % 2:
        length, width = width, length
    return x, y, length, width, float(np.rad2deg(theta + quarters * np.pi / 2) % 360)
