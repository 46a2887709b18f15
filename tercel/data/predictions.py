"""Prediction files: Tercel's own preds.jsonl, and those of others, told apart by their content.

preds.jsonl: a header line {"format": "tercel-predictions", "version": 1, "task", "classes", "source"}, then one line
per picture with its id and the columns of its Objects. Also read: COCO result lists, whose results have a `bbox`, or an
`obb` or `corners` (tercel.data.formats.obb_json), and folders of text (tercel.data.prediction_texts).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import read_json, write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset
from tercel.data.formats import common, obb_json, odm
from tercel.data.prediction_rows import UNKNOWN, Detections, Lookup, derived, doubts, grouped
from tercel.data.prediction_texts import read_texts

FORMAT = "tercel-predictions"
VERSION = 1

_LOOKS_LIKE = (
    "preds.jsonl; a COCO result list (.json); a folder of text files `class cx cy w h score`, "
    "`class x1 y1 ... x4 y4 score` or `name score x y w h`"
)


def write_predictions(
    path: Path,
    classes: Sequence[str],
    items: Iterable[tuple[str, Objects]],
    *,
    task: str = "boxes",
    source: str = "",
    replace: bool = False,
) -> None:
    """Write preds.jsonl, atomically. `source` says what was predicted on.

    Raises:
        TercelError: the file exists and `replace` is False, an id that occurs twice, objects without scores.
    """
    if path.exists() and not replace:
        raise TercelError(f"{path} exists already", "choose another name")
    header = {"format": FORMAT, "version": VERSION, "task": task, "classes": list(classes), "source": source}
    lines = [json.dumps(header, ensure_ascii=False)]
    seen: set[str] = set()
    for id_, o in items:
        if id_ in seen:
            raise TercelError(f"{path}: two predictions for the id {id_!r}", "predict every picture once")
        if o.scores is None:
            raise TercelError(f"{path}: the predictions for {id_!r} have no scores", "predictions carry scores")
        seen.add(id_)
        lines.append(json.dumps({"id": id_, **o.to_json()}, ensure_ascii=False, allow_nan=False))
    write_atomic(path, "\n".join([*lines, ""]))


def read_predictions(
    path: Path, truth: Dataset, *, ledger: Ledger | None = None, corners: bool = False
) -> dict[str, Objects]:
    """Predictions for every record of the truth, by its id; a picture without any has an empty Objects.

    Pictures are matched by record id, else by the stem of the picture's file name. Boxes stay as they are written.

    Args:
        path: file or folder, told apart by content.
        truth: gives ids, sizes, class names and COCO category ids.
        ledger: receives what was counted: pictures that the truth does not know, detections given twice, scores that
            are all equal, corners that are no rectangle.
        corners: the four numbers of Object-Detection-Metrics lines are x1 y1 x2 y2, not x y w h.

    Raises:
        TercelError: not recognised, no picture in common, an unknown class, NaN, a score outside 0..1, a negative
            width or height, a picture that occurs twice; with file and line.
    """
    path, ledger = Path(path), Ledger() if ledger is None else ledger
    if not path.exists():
        raise TercelError(f"{path} does not exist", f"predictions are {_LOOKS_LIKE}")
    found = _read(path, truth, ledger, corners)
    doubts(found.items(), path, ledger)
    return found


def _read(path: Path, truth: Dataset, ledger: Ledger, corners: bool) -> dict[str, Objects]:
    if path.is_dir():
        files = odm.text_files(path)
        if not files:
            own = next((p for p in (path / "preds.jsonl", path / "predictions.jsonl") if p.is_file()), None)
            hint = f"did you mean {own}?" if own else f"predictions are {_LOOKS_LIKE}"
            raise TercelError(f"{path} holds no text file", hint)
        return read_texts(path, files, truth, ledger, corners)
    with open(path, "rb") as f:
        head = f.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"["):
        return _read_coco(path, truth, ledger)
    if head.startswith(b"{") and FORMAT.encode() in head.split(b"\n", 1)[0]:
        return _read_jsonl(path, truth, ledger)
    hint = "this looks like truth: give it as --truth" if b'"images"' in head else f"predictions are {_LOOKS_LIKE}"
    raise TercelError(f"{path} is no prediction file that Tercel knows", hint)


# -- Tercel's own -------------------------------------------------------------------------------------------------


def _read_jsonl(path: Path, truth: Dataset, ledger: Ledger) -> dict[str, Objects]:
    lines = common.read_text(path).split("\n")
    header = _json_line(path, 1, lines[0])
    if header.get("version") != VERSION:
        raise TercelError(
            f"{path}:1: version {header.get('version')} of {FORMAT}", f"this Tercel reads version {VERSION}"
        )
    names = header.get("classes")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise TercelError(f"{path}:1: the header lists no classes", "write it with write_predictions")
    table = _class_table(names, truth.schema.classes)
    lookup, found, first = Lookup(truth), {}, ""
    for n, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        where = f"{path}:{n}"
        entry = _json_line(path, n, line)
        if not isinstance(entry.get("id"), str) or "scores" not in entry:
            raise TercelError(f"{where}: needs an id and scores", "write it with write_predictions")
        first = first or entry["id"]
        i = lookup(entry["id"], where, ledger)
        if i < 0:
            continue
        record = truth.records[i]
        if record.id in found:
            raise TercelError(f"{where}: a second line for {entry['id']!r}", "one line per picture")
        try:
            o = _objects(entry)
            labels = table[o.labels]
        except (KeyError, IndexError, TypeError, ValueError) as e:
            raise TercelError(f"{where}: {e}", "correct the line") from e
        if (labels < 0).any():
            name = names[int(o.labels[np.flatnonzero(labels < 0)[0]])]
            raise common.unknown_class(where, name, truth.schema.classes)
        if o.size != record.size:
            raise TercelError(
                f"{where}: predicted on {o.size[1]}x{o.size[0]}, but the truth of {record.id!r} is {record.size[1]}x"
                f"{record.size[0]} (width x height)",
                "predict on the original pictures",
            )
        found[record.id] = o if (labels == o.labels).all() else o.replace(labels=labels)
    if first and not found:
        raise lookup.none_match(path, first)
    return _of_one_kind(path, found, truth)


def _of_one_kind(path: Path, found: dict[str, Objects], truth: Dataset) -> dict[str, Objects]:
    """Objects of every record, all with the same columns; lines without detections may lack some."""
    filled = {id_: o for id_, o in found.items() if len(o)}
    like = next(iter(filled.values()), next(iter(found.values()), _nothing((1, 1))))
    for id_, o in filled.items():
        if (o.obbs is None) != (like.obbs is None):
            raise TercelError(f"{path}: {id_!r} has boxes of another kind than the others", "predict it again")
    return {r.id: filled[r.id] if r.id in filled else Objects.empty(r.size, like) for r in truth.records}


def _objects(entry: dict[str, Any]) -> Objects:
    """The line's columns; with `obbs`, boxes may be left out: they follow from them."""
    if "obbs" in entry and "boxes" not in entry:
        entry = {**entry, "boxes": np.zeros((len(entry["labels"]), 4)).tolist()}
    return derived(Objects.from_json(entry))


def _json_line(path: Path, n: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as e:
        raise TercelError(f"{path}:{n}: not JSON: {e.msg} (column {e.colno})", "was the file cut off?") from e
    except (ValueError, RecursionError) as e:
        raise TercelError(f"{path}:{n}: not JSON that can be read: {e}", "correct the line") from e
    if not isinstance(value, dict):
        raise TercelError(f"{path}:{n}: not a JSON object", "write it with write_predictions")
    return value


def _class_table(names: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Class id in the truth of each class of the predictions, -1 where the truth does not have it."""
    ids = {c: i for i, c in enumerate(classes)}
    return np.array([ids.get(n, -1) for n in names], np.int64)


def _nothing(size: tuple[int, int]) -> Objects:
    return Objects(size, np.zeros(0, np.int64), np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32))


# -- COCO result lists --------------------------------------------------------------------------------------------


def _read_coco(path: Path, truth: Dataset, ledger: Ledger) -> dict[str, Objects]:
    with common.collector_paused():
        results = read_json(path)

    def where(i: int) -> str:
        return f"{path}[{i}] (image_id {results[i].get('image_id')!r})"

    lookup, classes = Lookup(truth), _category_table(truth, ledger)
    try:
        oriented = obb_json.is_oriented(results)
        names = [r["image_id"] for r in results]
        owner = np.array([lookup.index.get(n, -1) for n in names], np.int64)
        labels = np.array([classes.get(r["category_id"], -1) for r in results], np.int64)
        scores = np.array([r["score"] for r in results], np.float64)
        xywh = np.zeros((len(results), 4)) if oriented else np.array([r["bbox"] for r in results], np.float64)
        if len(results) and xywh.shape != (len(results), 4):
            raise ValueError
        xywh = xywh.reshape(-1, 4)
    except (KeyError, TypeError, ValueError) as e:
        raise _first_bad(path, results) from e
    for i in np.flatnonzero(owner < 0).tolist():
        ledger.add("predictions.unknown_picture", Severity.WARNING, UNKNOWN, where(i))
    if len(owner) and (owner < 0).all():
        raise lookup.none_match(path, names[0])
    for i in np.flatnonzero((labels < 0) & (owner >= 0))[:1].tolist():
        raise common.unknown_class(where(i), results[i]["category_id"], [f"{c}" for c in classes])
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    d = Detections(owner=owner, labels=labels, scores=scores, boxes=boxes, where=where)
    if oriented:
        heading, headed = obb_json.read_headings(results)
        obbs = obb_json.read_obbs(results, where, ledger)
        d = dataclasses.replace(d, obbs=obbs, heading=heading, headed=headed)
    return grouped(truth, d)


def _first_bad(path: Path, results: Any) -> TercelError:
    keys: tuple[str, ...] = ("image_id", "category_id", "bbox", "score")
    if all(isinstance(r, dict) for r in results) and obb_json.is_oriented(results):
        keys = ("image_id", "category_id", "score")
    for i, r in enumerate(results):
        if not isinstance(r, dict):
            return TercelError(f"{path}[{i}]: not a JSON object", "a result has image_id, category_id, bbox and score")
        for key in keys:
            if key not in r:
                return TercelError(f"{path}[{i}]: has no {key!r}", "a result has image_id, category_id, bbox and score")
        numbers = r["bbox"] if isinstance(r.get("bbox"), list) else []
        if len(numbers) != 4 * ("bbox" in keys) or not all(isinstance(x, int | float) for x in [*numbers, r["score"]]):
            return TercelError(f"{path}[{i}]: bbox is x y width height and score a number", "correct the result")
        if not isinstance(r["image_id"], int | str) or not isinstance(r["category_id"], int):
            return TercelError(f"{path}[{i}]: image_id and category_id are ids", "correct the result")
    return TercelError(f"{path}: not a COCO result list", f"predictions are {_LOOKS_LIKE}")


def _category_table(truth: Dataset, ledger: Ledger) -> dict[int, int]:
    ids = truth.schema.category_ids
    if not ids:
        ids = tuple(range(1, len(truth.schema.classes) + 1))
        message = "the truth has no category ids: 1..C in the order of its classes were assumed for the results"
        ledger.add("predictions.category_ids", Severity.INFO, message, truth.source)
    return {c: i for i, c in enumerate(ids)}
