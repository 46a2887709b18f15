"""CrowdHuman's odgt: one JSON object per line and picture, each person with a full, a visible and a head box.

The source says which boxes are meant: `FILE#full` (the default), `FILE#visible`, `FILE#head`; in a folder with
annotation_train.odgt and annotation_val.odgt, `FOLDER#val` or `FOLDER#val_visible`. Pictures lie beside the file in
Images/ or images/, or in the same folder, and are called like the `ID`. Boxes are x y w h in px.

One class, person. Ignored are all tags but `person`, persons whose `extra.ignore` is not 0, and among heads those whose
`head_attr.ignore` is not 0 (CrowdDet's rule); `extra` and `head_attr` may be absent. `occlusion` is the share of the
full box that the visible one does not cover; not of heads, of which that is not known.

Full boxes are estimates of whole bodies and may reach beyond the picture. They are kept so: training cuts them at what
it shows of the picture (tercel.data.augment), the metric of crowds at the picture's border. Visible and head boxes that
do so are cut on reading, and counted.

What Tercel writes beside CrowdHuman's keys: `height` and `width` of the picture, and `extra.vis_ratio`, 1 - occlusion,
where the visible box itself is not known.

Source: Shao et al. 2018, "CrowdHuman: A Benchmark for Detecting Human in a Crowd", and the published files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import common, persons, target
from tercel.data.formats.common import Options, Picture, Rows

NAME = "odgt"
TASK = "boxes"
HOLDS_IGNORE = True
ONLY_CLASSES = ("person",)
LOOKS_LIKE = "an .odgt file (lines of JSON with ID and gtboxes), or a folder with such files"

KINDS = {"full": "fbox", "visible": "vbox", "head": "hbox"}
Box = tuple[float, float, float, float]


class Person(NamedTuple):
    """One person of a line: boxes x1 y1 x2 y2 in px, None where not known; `ignore` costs nothing, found or missed."""

    full: Box
    visible: Box | None = None
    head: Box | None = None
    ignore: bool = False
    tag: str = "person"


def line(picture_id: str, people: Sequence[Person], size: tuple[int, int] | None = None) -> str:
    """The line of a picture, without the newline. `size` (H, W) is written along where it is given."""
    return _line(picture_id, [_gtbox(p, n) for n, p in enumerate(people)], size)


def matches(path: Path) -> bool:
    """True for an .odgt file, or a folder that holds one."""
    return path.suffix.lower() == ".odgt" if path.is_file() else bool(path.is_dir() and _files(path))


def splits(path: Path) -> list[str]:
    """Names of the files of a folder, without `annotation_`; none for a single file."""
    return [] if path.is_file() else sorted(_files(path))


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One file, with the boxes that the split names.

    Raises:
        TercelError: see tercel.data.formats.common; also a line that is not JSON or has no ID and gtboxes, and a folder
            with several files of which none was named.
    """
    options, ledger = options or Options(), Ledger()
    file, kind = _choose(path, split)
    source = str(file) if kind == "full" else f"{file}#{kind}"
    classes, ids = persons.class_ids(str(file), ONLY_CLASSES, options)
    with common.collector_paused():
        pictures, rows = _content(file, kind, ledger)
    rows.labels += ids["person"]
    if not options.pictures:
        pictures = persons.with_guessed_sizes(pictures, rows, ledger)
    persons.say_repeated(rows, ledger)
    pictures, index = common.check_pictures(pictures, ledger, options, source)
    rows.picture = index[rows.picture]
    return common.assemble(pictures, rows, Schema(classes), ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/annotation_<split>.odgt, or `out` itself when it ends in .odgt, with the pictures in Images/ beside it.

    The boxes become full boxes; a data set holds no others.

    Raises:
        TercelError: a file exists already, a record is a clip, or there are several classes.
    """
    persons.written_names(dataset, ONLY_CLASSES, NAME)
    file = out if out.suffix == ".odgt" else out / f"annotation_{split}.odgt"
    folder = file.parent / "Images"
    images = [folder / f"{target.file_stem(r)}{target.still_picture(r).suffix}" for r in dataset.records]
    text = "".join(f"{_record_line(r)}\n" for r in dataset.records)
    return persons.place(dataset.records, {file: text}, images if pictures else [])


# -- files --------------------------------------------------------------------------------------------------------


def _files(folder: Path) -> dict[str, Path]:
    return {f.stem.removeprefix("annotation_"): f for f in sorted(folder.glob("*.odgt"))}


def _choose(path: Path, split: str | None) -> tuple[Path, str]:
    """The file and the kind of boxes that `path#split` names."""
    if path.is_file():
        if split is not None and split not in KINDS:
            raise common.unknown_split(str(path), split, list(KINDS))
        return path, split or "full"
    files = _files(path)
    if split is not None and split in files:
        return files[split], "full"
    if len(files) == 1 and (split is None or split in KINDS):
        return next(iter(files.values())), split or "full"
    if split is None:
        some = f"({', '.join(files)})" if files else f": looked for {LOOKS_LIKE}"
        raise TercelError(f"{path} holds {len(files)} odgt files {some}", f"name one, for example {path}#train")
    name, _, kind = split.rpartition("_")
    if name in files and kind in KINDS:
        return files[name], kind
    raise common.unknown_split(str(path), split, list(files))


@dataclass(frozen=True)
class _Line:
    number: int
    id: str
    people: list[dict[str, Any]]
    size: tuple[int, int] | None


def _content(file: Path, kind: str, ledger: Ledger) -> tuple[list[Picture], Rows]:
    """Pictures and rows; nothing of the parsed lines lives on."""
    lines = _lines(file)
    return _pictures(file, lines), _rows(file, lines, kind, ledger)


def _lines(file: Path) -> list[_Line]:
    out = [_parsed(file, n, text) for n, text in enumerate(common.read_text(file).split("\n"), 1) if text.strip()]
    if not out:
        raise TercelError(f"{file} lists no picture", "check that it is the right file")
    return out


def _parsed(file: Path, n: int, text: str) -> _Line:
    where = f"{file}:{n}"
    entry = common.json_line(where, text)
    id_ = entry.get("ID") if isinstance(entry, dict) else None
    people = entry.get("gtboxes") if isinstance(entry, dict) else None
    if not isinstance(id_, str | int) or not isinstance(people, list) or not all(isinstance(p, dict) for p in people):
        what = "a line is an object with ID (the picture's name) and gtboxes (a list of objects)"
        hint = "these look like detections: give them as --pred" if _is_dump(entry) else "correct the line"
        raise TercelError(f"{where}: {what}", hint)
    h, w = entry.get("height"), entry.get("width")
    return _Line(n, str(id_), people, (h, w) if isinstance(h, int) and isinstance(w, int) else None)


def _is_dump(entry: Any) -> bool:
    return isinstance(entry, dict) and "dtboxes" in entry


def _pictures(file: Path, lines: Sequence[_Line]) -> list[Picture]:
    """Each picture, found by its ID; where none is, the place at which one was looked for."""
    folder = next((f for f in (file.parent / "Images", file.parent / "images") if f.is_dir()), file.parent)
    there = common.pictures_by_stem(folder, below=folder != file.parent)
    out = []
    for entry in lines:
        where = f"{file}:{entry.number}"
        missing = common.inside(folder, f"{entry.id}.jpg", where)
        found = there.get(entry.id, [missing])
        if len(found) > 1:
            raise TercelError(f"{where}: two pictures share one ID: {found[0]} and {found[1]}", "rename one of them")
        out.append(Picture(entry.id, found[0], entry.size, where))
    return out


# -- reading ------------------------------------------------------------------------------------------------------


def _rows(file: Path, lines: Sequence[_Line], kind: str, ledger: Ledger) -> Rows:
    """All persons of the kind, labels 0; what has no such box is left out and counted."""
    people = [p for entry in lines for p in entry.people]
    picture = np.repeat(np.arange(len(lines)), [len(entry.people) for entry in lines])
    numbers, first = [entry.number for entry in lines], np.searchsorted(picture, np.arange(len(lines)))

    def where(i: int) -> str:
        return f"{file}:{numbers[picture[i]]} gtboxes[{i - first[picture[i]]}]"

    boxes, known = _boxes(people, KINDS[kind])
    ignore = _ignored(people, kind, file, where, ledger)
    occlusion = None if kind == "head" else _occlusion(people, ignore, where, ledger)
    rows = Rows(picture, np.zeros(len(people), np.int64), boxes, where, ignore, occlusion=occlusion)
    _say_kinds(people, kind, file, ledger)
    rows.beyond = kind == "full"
    return rows if known.all() else _with_boxes(rows, people, kind, known, ledger)


def _boxes(people: Sequence[dict[str, Any]], key: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The boxes f64 [N,4] x1 y1 x2 y2 under a key, and which persons have one, bool [N]; the others are NaN."""
    values = [p.get(key) for p in people]
    try:
        table = np.array(values, np.float64)  # the quick way: everybody has one
        if table.shape != (len(values), 4):
            raise ValueError
        known = np.ones(len(values), np.bool_)
    except (TypeError, ValueError):
        good = [isinstance(v, list) and len(v) == 4 and all(isinstance(x, int | float) for x in v) for v in values]
        known = np.array(good, np.bool_)
        table = np.full((len(values), 4), np.nan)
        table[known] = np.array([v for v, g in zip(values, good) if g], np.float64).reshape(-1, 4)
    return np.concatenate([table[:, :2], table[:, :2] + table[:, 2:]], axis=1), known


def _ignored(people: Sequence[dict[str, Any]], kind: str, file: Path, where: Any, ledger: Ledger) -> NDArray[np.bool_]:
    tags = [p.get("tag") for p in people]
    region = np.array([t != "person" for t in tags], np.bool_)
    marked = _marked(people, "extra") & ~region
    heads = _marked(people, "head_attr") & ~region & ~marked & (kind == "head")
    odd = [str(t) for t in tags if t not in ("person", "mask")]
    message = "tags other than person and mask count as ignore regions"
    persons.say_counted(odd, "labels.tags", message, str(file), ledger)
    for rows, message in (
        (region, "regions that are no person (mask) are ignored"),
        (marked, "persons marked extra.ignore are ignored"),
        (heads, "heads marked head_attr.ignore are ignored"),
    ):
        if rows.any():
            ledger.add("labels.ignored", Severity.INFO, message, where(int(np.argmax(rows))), int(rows.sum()))
    return region | marked | heads


def _marked(people: Sequence[dict[str, Any]], part: str) -> NDArray[np.bool_]:
    """bool [N]: `part`.ignore is there and not 0."""
    parts = (p.get(part) for p in people)
    return np.array([isinstance(a, dict) and a.get("ignore") not in (None, 0) for a in parts], np.bool_)


def _occlusion(
    people: Sequence[dict[str, Any]], ignore: NDArray[np.bool_], where: Any, ledger: Ledger
) -> NDArray[np.float64] | None:
    """The hidden share f64 [N]: of the boxes, else as written; None where no person says."""
    full, visible = _boxes(people, "fbox")[0], _boxes(people, "vbox")[0]
    known: NDArray[np.bool_] = np.isfinite(np.concatenate([full, visible], axis=1)).all(axis=1)
    share = np.where(known, persons.hidden_share(full, visible), 0.0)
    if not known.all():
        extras = (p.get("extra") for p in people)
        written, told = persons.from_ratios([e.get("vis_ratio") if isinstance(e, dict) else None for e in extras])
        share[~known] = written[~known]
        known[told] = True
    return persons.told(share, known, ignore, where, ledger)


def _say_kinds(people: Sequence[dict[str, Any]], kind: str, file: Path, ledger: Ledger) -> None:
    others = [k for k, key in KINDS.items() if k != kind and any(key in p for p in people)]
    if others:
        message = f"of each person the {kind} box was read; #{' and #'.join(others)} are sources of their own"
        ledger.add("labels.box_kind", Severity.INFO, message, str(file))


def _with_boxes(
    rows: Rows, people: Sequence[dict[str, Any]], kind: str, known: NDArray[np.bool_], ledger: Ledger
) -> Rows:
    """The rows that have a box. That a head or anything visible is missing may be so, a full box may not."""
    key, lost = KINDS[kind], 0
    for i in np.flatnonzero(~known).tolist():
        if people[i].get(key) is None and kind != "full":
            message = f"persons without a {kind} box ({key}) were left out"
            ledger.add("labels.no_box", Severity.INFO, message, rows.where(i))
            continue
        message = f"persons whose {key} is not x y width height were left out"
        ledger.add("labels.fields", Severity.WARNING, message, rows.where(i))
        lost += 1
    return replace(rows.take(known), lost=lost)


# -- writing ------------------------------------------------------------------------------------------------------


def _record_line(record: Record) -> str:
    o = record.objects
    people = []
    for n, (box, ignore, more) in enumerate(zip(o.boxes.tolist(), o.ignore.tolist(), persons.ratio_keys(o))):
        person = _gtbox(Person((box[0], box[1], box[2], box[3]), ignore=ignore), n)
        person["extra"] |= more
        people.append(person)
    return _line(record.id, people, record.size)


def _line(picture_id: str, people: list[dict[str, Any]], size: tuple[int, int] | None) -> str:
    entry: dict[str, Any] = {"ID": picture_id, "gtboxes": people}
    if size is not None:
        entry |= {"height": int(size[0]), "width": int(size[1])}
    return json.dumps(entry, ensure_ascii=False, allow_nan=False)


def _gtbox(person: Person, number: int) -> dict[str, Any]:
    boxes = {"fbox": person.full, "vbox": person.visible, "hbox": person.head}
    entry: dict[str, Any] = {"tag": person.tag} | {k: _xywh(b) for k, b in boxes.items() if b is not None}
    entry["extra"] = {"box_id": number, "ignore": int(person.ignore)}
    if person.head is not None:
        entry["head_attr"] = {"ignore": int(person.ignore)}
    return entry


def _xywh(box: Box) -> list[float]:
    x1, y1, x2, y2 = (float(v) for v in box)
    return [int(v) if v.is_integer() else v for v in (x1, y1, x2 - x1, y2 - y1)]
