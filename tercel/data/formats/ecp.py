"""EuroCity Persons: one json per picture, `labels/<split>/<city>/NAME.json` beside `img/<split>/<city>/NAME.png`.

The source is the folder that holds both, for example ECP/day. A file is a frame with `imagewidth`, `imageheight` and
`children`; each child has an `identity`, x0 y0 x1 y1 in px and `tags`. Two classes, pedestrian and rider (without the
vehicle, which is a child of the rider). What else is labelled goes by the rules of the benchmark's own evaluation:

- person-group-far-away is an ignore region of pedestrians, rider+vehicle-group-far-away one of riders; the former with
  the tag `depiction` (posters) is left out.
- pedestrians with the tag sitting-lying or behind-glass are ignored.
- groups of vehicles are left out.

`occlusion` is the lower end of the highest tag: occluded>40 is 0.4, no such tag 0. `truncated` tags mean the picture's
border and are no occlusion. Boxes may reach beyond the picture, as with odgt. Record ids are <city>/NAME.

Source: Braun et al. 2019, "EuroCity Persons: A Novel Benchmark for Person Detection in Traffic Scenes".
"""

from __future__ import annotations

import json
import re
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

NAME = "ecp"
TASK = "boxes"
HOLDS_IGNORE = True
ONLY_CLASSES = ("pedestrian", "rider")
LOOKS_LIKE = "a folder with labels/<split>/ that holds .json with imagewidth, imageheight and children"

_GROUPS = {"person-group-far-away": "pedestrian", "rider+vehicle-group-far-away": "rider"}
_GROUP_OF = {c: g for g, c in _GROUPS.items()}
_IGNORED_TAGS = ("sitting-lying", "behind-glass")
_OCCLUDED = re.compile(r"occluded>(\d+)$")
_CORNERS = ("x0", "y0", "x1", "y1")


def matches(path: Path) -> bool:
    """True for a folder with such a tree."""
    return any(_is_frame(next(p.rglob("*.json"))) for p in _split_folders(path)) if path.is_dir() else False


def splits(path: Path) -> list[str]:
    """Names of the subfolders of labels/ that hold json files."""
    return [p.name for p in _split_folders(path)]


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One split, or all pictures when `split` is None.

    Raises:
        TercelError: see tercel.data.formats.common; also a file that is no frame with its size and children.
    """
    options, ledger, known = options or Options(), Ledger(), splits(path)
    if split is not None and split not in known:
        raise common.unknown_split(str(path), split, known)
    source = f"{path}#{split}" if split else str(path)
    classes, ids = persons.class_ids(source, ONLY_CLASSES, options)
    pictures, columns, left = [], Columns(), list[str]()
    for file, id_, image in _files(path, [split] if split else known):
        data = _content(file)
        pictures.append(Picture(id_, image, (data["imageheight"], data["imagewidth"]), str(file)))
        for n, child in enumerate(data["children"]):
            _append(columns, child, len(pictures) - 1, ids, f"{file} children[{n}]", left, ledger)
    if not pictures:
        raise TercelError(f"{source} lists no picture", f"looked for {LOOKS_LIKE}")
    persons.say_counted(left, "labels.other", "what is no person was left out", source, ledger)
    rows = columns.rows(ledger)
    pictures, index = common.check_pictures(pictures, ledger, options, source)
    rows.picture, rows.beyond = index[rows.picture], True
    return common.assemble(pictures, rows, Schema(classes), ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/labels/<split> and `out`/img/<split> (hard links where possible).

    Occlusion becomes the tag below it (none, 10, 40, 80).

    Raises:
        TercelError: a file exists already, a record is a clip, or a class is neither pedestrian nor rider.
    """
    names = persons.written_names(dataset, ONLY_CLASSES, NAME)
    stems = [target.file_stem(r) for r in dataset.records]
    texts = {out / "labels" / split / f"{s}.json": _text(r, names) for s, r in zip(stems, dataset.records)}
    suffixes = [target.still_picture(r).suffix for r in dataset.records]
    images = [out / "img" / split / f"{s}{suffix}" for s, suffix in zip(stems, suffixes)]
    return persons.place(dataset.records, texts, images if pictures else [])


# -- reading ------------------------------------------------------------------------------------------------------


def _split_folders(path: Path) -> list[Path]:
    return sorted(p for p in path.glob("labels/*") if p.is_dir() and any(p.rglob("*.json")))


def _is_frame(file: Path) -> bool:
    head = file.read_bytes()
    return head.lstrip()[:1] == b"{" and all(k in head for k in (b'"children"', b'"imagewidth"', b'"identity"'))


def _files(path: Path, chosen: list[str]) -> Iterator[tuple[Path, str, Path]]:
    """Each label file, its record id and its picture."""
    for split in chosen:
        labels, images = path / "labels" / split, path / "img" / split
        there = common.pictures_by_stem(images, below=True)
        for file in sorted(labels.rglob("*.json")):
            id_ = file.relative_to(labels).as_posix().removesuffix(".json")
            yield file, id_, there.get(id_, [images / f"{id_}.png"])[0]


def _content(file: Path) -> dict[str, Any]:
    data = read_json(file)
    good = isinstance(data, dict) and all(isinstance(data.get(k), int) for k in ("imageheight", "imagewidth"))
    children = data.get("children") if good else None
    if not isinstance(children, list) or not all(isinstance(c, dict) for c in children):
        raise TercelError(f"{file}: needs imageheight, imagewidth and children", "check that it is a frame of ECP")
    return dict(data)


def _append(
    columns: Columns,
    child: dict[str, Any],
    picture: int,
    ids: dict[str, int],
    where: str,
    left: list[str],
    ledger: Ledger,
) -> None:
    """The child as a person, or counted: among `left` what is no person."""
    identity, tags = str(child.get("identity")), _tags(child, where, ledger)
    name = _GROUPS.get(identity, identity)
    if name not in ids or (identity == "person-group-far-away" and "depiction" in tags):
        left.append(identity + (" (depiction)" if name in ids else ""))
        return
    corners = [child.get(k) for k in _CORNERS]
    if not all(isinstance(v, int | float) for v in corners):
        ledger.add("labels.fields", Severity.WARNING, "children without x0 y0 x1 y1 were left out", where)
        columns.lost += 1
        return
    reason = f"regions of the kind {identity} are ignored" if identity in _GROUPS else ""
    odd = [t for t in _IGNORED_TAGS if t in tags]
    if odd and identity == "pedestrian":
        reason = f"pedestrians tagged {odd[0]} are ignored"
    columns.add(picture, ids[name], [float(v) for v in corners if v is not None], 1 - _occlusion(tags), reason, where)


def _tags(child: dict[str, Any], where: str, ledger: Ledger) -> list[str]:
    tags = child.get("tags")
    if isinstance(tags, list):
        return [str(t) for t in tags]
    ledger.add("labels.tags", Severity.WARNING, "children without tags count as wholly visible", where)
    return []


def _occlusion(tags: list[str]) -> float:
    found = [_OCCLUDED.match(t) for t in tags]
    return max([int(m[1]) / 100 for m in found if m and int(m[1]) <= 100], default=0.0)


# -- writing ------------------------------------------------------------------------------------------------------


def _text(record: Record, names: list[str]) -> str:
    o = record.objects
    hidden = np.zeros(len(o)) if o.occlusion is None else o.occlusion
    children = []
    for label, box, ignore, share in zip(o.labels.tolist(), o.boxes.tolist(), o.ignore.tolist(), hidden.tolist()):
        identity = _GROUP_OF[names[label]] if ignore else names[label]
        tags = [f"occluded>{n}" for n in (80, 40, 10) if share >= n / 100 - 1e-6][:1]
        children.append({"identity": identity, "tags": tags, "children": []} | dict(zip(_CORNERS, box, strict=True)))
    data = {"identity": "frame", "imageheight": record.size[0], "imagewidth": record.size[1], "children": children}
    return json.dumps(data, allow_nan=False) + "\n"
