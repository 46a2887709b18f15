"""Prediction files: Tercel's own preds.jsonl, and those of others, told apart by their content.

preds.jsonl: a header line {"format": "tercel-predictions", "version": 1, "task", "classes", "source"}, then one line
per picture with its id and the columns of its Objects. Predictions of points name them in the header, "keypoints"; a
line may leave out `boxes` (then they are the hulls of the points) and `visible`. Also read: COCO result lists
(tercel.data.prediction_lists), CrowdHuman's dumps (tercel.data.prediction_dumps) and folders of text
(tercel.data.prediction_texts).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset
from tercel.data.formats import common, odm
from tercel.data.prediction_dumps import is_dump, read_dump
from tercel.data.prediction_lists import read_results
from tercel.data.prediction_rows import Lookup, all_hull, derived, doubts, visible_of
from tercel.data.prediction_texts import read_texts

FORMAT = "tercel-predictions"
VERSION = 1

_LOOKS_LIKE = (
    "preds.jsonl; a COCO result list (.json); a dump of CrowdHuman (lines with dtboxes); a folder of text files "
    "`class cx cy w h score`, `class x1 y1 ... x4 y4 score` or `name score x y w h`"
)


def write_predictions(
    path: Path,
    classes: Sequence[str],
    items: Iterable[tuple[str, Objects]],
    *,
    task: str = "boxes",
    source: str = "",
    replace: bool = False,
    keypoints: Sequence[str] = (),
) -> None:
    """Write preds.jsonl, atomically. `source` says what was predicted on, `keypoints` names the points of objects.

    Raises:
        TercelError: the file exists and `replace` is False, an id that occurs twice, objects without scores.
    """
    if path.exists() and not replace:
        raise TercelError(f"{path} exists already", "choose another name")
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "task": task,
        "classes": list(classes),
        "source": source,
    }
    if keypoints:
        header["keypoints"] = list(keypoints)
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
        return read_results(path, truth, ledger)
    if head.startswith(b"{") and FORMAT.encode() in head.split(b"\n", 1)[0]:
        return _read_jsonl(path, truth, ledger)
    if is_dump(path):
        return read_dump(path, truth, ledger)
    truthful = b'"images"' in head or b'"gtboxes"' in head
    hint = "this looks like truth: give it as --truth" if truthful else f"predictions are {_LOOKS_LIKE}"
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
    order = _point_order(path, header.get("keypoints"), truth, ledger)
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
            o = _objects(entry, order)
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
        if (o.obbs is None) != (like.obbs is None) or (o.points is None) != (like.points is None):
            raise TercelError(f"{path}: {id_!r} has boxes of another kind than the others", "predict it again")
        if o.points is not None and like.points is not None and o.points.shape[1] != like.points.shape[1]:
            what = f"{o.points.shape[1]} points per object, the others {like.points.shape[1]}"
            raise TercelError(f"{path}: {id_!r} has {what}", "predict it again")
    return {r.id: filled[r.id] if r.id in filled else Objects.empty(r.size, like) for r in truth.records}


def _objects(entry: dict[str, Any], order: Sequence[int] | None) -> Objects:
    """The line's columns; with `obbs` or `points`, boxes may be left out: they follow from them.

    Args:
        order: index [K] of the file's points in the order of the truth, or None where the truth has none.
    """
    n = len(entry["labels"])
    if "obbs" in entry and "boxes" not in entry:
        entry = {**entry, "boxes": np.zeros((n, 4)).tolist()}
    if "points" in entry and n:
        points = np.asarray(entry["points"], np.float32)
        if points.ndim != 3 or points.shape[::2] != (n, 2) or (order is not None and points.shape[1] != len(order)):
            k = "K" if order is None else f"{len(order)}"
            raise ValueError(f"points has shape [{n},{k},2], not {list(points.shape)}")
        scores = np.asarray(entry["point_scores"], np.float32) if "point_scores" in entry else None
        found = {"boxes": all_hull(points).tolist(), "visible": visible_of(points, scores).tolist()}
        o = derived(Objects.from_json(found | entry))
        return o if order is None else _ordered(o, order)
    return derived(Objects.from_json(entry))


def _ordered(o: Objects, order: Sequence[int]) -> Objects:
    index = list(order)
    if o.points is None or o.visible is None or index == list(range(len(index))):
        return o
    scores = None if o.point_scores is None else o.point_scores[:, index]
    return o.replace(points=o.points[:, index], visible=o.visible[:, index], point_scores=scores)


def _point_order(path: Path, names: Any, truth: Dataset, ledger: Ledger) -> list[int] | None:
    """Where each point of the truth stands in the file whose header lists `names` (None: it does not say)."""
    ours = list(truth.schema.keypoints)
    if not ours or names is None:
        return list(range(len(ours))) if ours else None
    if not isinstance(names, list) or len(names) != len(ours):
        given = f"{len(names)} points" if isinstance(names, list) else "keypoints that are no list"
        raise TercelError(
            f"{path}:1: the header lists {given}, the truth has {len(ours)} ({', '.join(ours[:8])})",
            "predict with a model of this skeleton",
        )
    if sorted(map(str, names)) == sorted(ours):
        return [names.index(n) for n in ours]
    message = "the points have other names than those of the truth, and were taken in their order"
    pair = next((a, b) for a, b in zip(names, ours, strict=True) if a != b)
    ledger.add("predictions.point_names", Severity.WARNING, message, f"{path}: {pair[0]} for {pair[1]}")
    return list(range(len(ours)))


def _json_line(path: Path, n: int, line: str) -> dict[str, Any]:
    value = common.json_line(f"{path}:{n}", line)
    if not isinstance(value, dict):
        raise TercelError(f"{path}:{n}: not a JSON object", "write it with write_predictions")
    return value


def _class_table(names: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Class id in the truth of each class of the predictions, -1 where the truth does not have it."""
    ids = {c: i for i, c in enumerate(classes)}
    return np.array([ids.get(n, -1) for n in names], np.int64)


def _nothing(size: tuple[int, int]) -> Objects:
    return Objects(size, np.zeros(0, np.int64), np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32))
