"""Prediction files: Tercel's own preds.jsonl, and those of others, told apart by their content.

preds.jsonl: a header line {"format": "tercel-predictions", "version": 1, "task", "classes", "source"}, then one line
per picture with its id and the columns of its Objects. Also read: COCO result lists, folders of YOLO text with scores
(`class cx cy w h score`) and of Object-Detection-Metrics text (`name score x y w h`). Shape legend: N detections.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import read_json, write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset
from tercel.data.formats import common, odm

FORMAT = "tercel-predictions"
VERSION = 1

_LOOKS_LIKE = (
    "preds.jsonl; a COCO result list (.json); a folder of text files `class cx cy w h score` or `name score x y w h`"
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
        ledger: receives what was counted (pictures that the truth does not know).
        corners: the four numbers of Object-Detection-Metrics lines are x1 y1 x2 y2, not x y w h.

    Raises:
        TercelError: not recognised, no picture in common, an unknown class, NaN, a score outside 0..1, a negative
            width or height, a picture that occurs twice; with file and line.
    """
    path, ledger = Path(path), Ledger() if ledger is None else ledger
    if not path.exists():
        raise TercelError(f"{path} does not exist", f"predictions are {_LOOKS_LIKE}")
    if path.is_dir():
        return _read_texts(path, truth, ledger, corners)
    with open(path, "rb") as f:
        head = f.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"["):
        return _read_coco(path, truth, ledger)
    if head.startswith(b"{") and FORMAT.encode() in head.split(b"\n", 1)[0]:
        return _read_jsonl(path, truth, ledger)
    hint = "this looks like truth: give it as --truth" if b'"images"' in head else f"predictions are {_LOOKS_LIKE}"
    raise TercelError(f"{path} is no prediction file that Tercel knows", hint)


class _Lookup:
    """Number of a truth record by what a prediction file calls its picture."""

    def __init__(self, truth: Dataset) -> None:
        self.truth = truth
        self.unknown = 0
        stems: dict[Any, int] = {}
        repeated: set[str] = set()
        for i, r in enumerate(truth.records):
            stem = os.path.splitext(os.path.basename(r.frames[0].path))[0]
            repeated |= {stem} & stems.keys()
            stems[stem] = i
        self.index: dict[Any, int] = {s: i for s, i in stems.items() if s not in repeated}
        names = [os.path.basename(r.frames[0].path) for r in truth.records]
        self.index |= {n: i for i, n in enumerate(names) if os.path.splitext(n)[0] not in repeated}
        self.index |= {r.id: i for i, r in enumerate(truth.records)}
        for name, i in list(self.index.items()):  # 139 stands for "139", and for "000000000139" if nothing else does
            if name.isascii() and name.isdigit():
                self.index.setdefault(int(name), i)
        self.index |= {int(r.id): i for i, r in enumerate(truth.records) if r.id.isascii() and r.id.isdigit()}

    def __call__(self, name: str, where: str, ledger: Ledger) -> int:
        """-1, counted, for a picture that the truth does not know."""
        i = self.index.get(name, -1)
        if i < 0:
            ledger.add("predictions.unknown_picture", Severity.WARNING, _UNKNOWN, f"{where}: {name}")
        return i

    def none_match(self, path: Path, name: object) -> TercelError:
        some = self.truth.records[0].id if self.truth.records else "(the truth is empty)"
        return TercelError(
            f"{path}: no picture of the predictions occurs in the truth (here {name!r}, there {some!r})",
            "take the predictions that belong to this truth",
        )


_UNKNOWN = "predictions for pictures that the truth does not list were left out"


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
    lookup, found, first = _Lookup(truth), {}, ""
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
            o = Objects.from_json(entry)
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
    like = next(iter(found.values()), _nothing((1, 1)))
    return {r.id: found[r.id] if r.id in found else Objects.empty(r.size, like) for r in truth.records}


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

    lookup, classes = _Lookup(truth), _category_table(truth, ledger)
    try:
        names = [r["image_id"] for r in results]
        owner = np.array([lookup.index.get(n, -1) for n in names], np.int64)
        labels = np.array([classes.get(r["category_id"], -1) for r in results], np.int64)
        xywh = np.array([r["bbox"] for r in results], np.float64)
        scores = np.array([r["score"] for r in results], np.float64)
        if len(results) and xywh.shape != (len(results), 4):
            raise ValueError
        xywh = xywh.reshape(-1, 4)
    except (KeyError, TypeError, ValueError) as e:
        raise _first_bad(path, results) from e
    for i in np.flatnonzero(owner < 0).tolist():
        ledger.add("predictions.unknown_picture", Severity.WARNING, _UNKNOWN, where(i))
    if len(owner) and (owner < 0).all():
        raise lookup.none_match(path, names[0])
    for i in np.flatnonzero((labels < 0) & (owner >= 0))[:1].tolist():
        raise common.unknown_class(where(i), results[i]["category_id"], [f"{c}" for c in classes])
    _refuse(xywh[:, 2:], np.concatenate([xywh, scores[:, None]], axis=1), scores, where)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return _grouped(truth, owner, labels, boxes, scores)


def _first_bad(path: Path, results: Any) -> TercelError:
    for i, r in enumerate(results):
        if not isinstance(r, dict):
            return TercelError(f"{path}[{i}]: not a JSON object", "a result has image_id, category_id, bbox and score")
        for key in ("image_id", "category_id", "bbox", "score"):
            if key not in r:
                return TercelError(f"{path}[{i}]: has no {key!r}", "a result has image_id, category_id, bbox and score")
        numbers = r["bbox"] if isinstance(r["bbox"], list) else []
        if len(numbers) != 4 or not all(isinstance(x, int | float) for x in [*numbers, r["score"]]):
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


# -- folders of text files ----------------------------------------------------------------------------------------


def _read_texts(folder: Path, truth: Dataset, ledger: Ledger, corners: bool) -> dict[str, Objects]:
    """One text file per picture; YOLO's when the lines begin with numbers and all shares are small."""
    files = odm.text_files(folder)
    if not files:
        own = next((p for p in (folder / "preds.jsonl", folder / "predictions.jsonl") if p.is_file()), None)
        hint = f"did you mean {own}?" if own else f"predictions are {_LOOKS_LIKE}"
        raise TercelError(f"{folder} holds no text file", hint)
    lookup = _Lookup(truth)
    names: list[str] = []
    values: list[list[float]] = []
    owner: list[int] = []
    lines: list[tuple[Path, int]] = []
    matched = 0
    for f in files:
        i = lookup(f.stem, str(f), ledger)
        matched += i >= 0
        for n, line in enumerate(common.read_text(f).splitlines(), 1):
            fields = line.rsplit(maxsplit=5)
            if not fields or i < 0:
                continue
            try:
                values.append([float(x) for x in fields[1:]])
                if len(fields) != 6:
                    raise ValueError
            except ValueError as e:
                kinds = "`class cx cy w h score` (YOLO) or `name score x y w h`"
                raise TercelError(
                    f"{f}:{n}: a detection is {kinds}, not {line.strip()!r}",
                    "are the scores missing? write the predictions with them"
                    if len(fields) == 5
                    else "correct the line",
                ) from e
            names.append(fields[0].strip())
            owner.append(i)
            lines.append((f, n))
    if not matched:
        raise lookup.none_match(folder, files[0].stem)

    def where(i: int) -> str:
        return f"{lines[i][0]}:{lines[i][1]}"

    table = np.array(values, np.float64).reshape(-1, 5)
    owners = np.array(owner, np.int64)
    yolo = all(n.isdigit() for n in names) and not (table[:, 1:4] > 1.5).any()
    labels = _numbered(names, truth, where) if yolo else _named(names, truth, where)
    scores, boxes = (table[:, 4], table[:, :4]) if yolo else (table[:, 0], table[:, 1:])
    relative = yolo or bool(len(boxes) and ((boxes >= 0) & (boxes <= 1)).all())
    if relative and any(f.check == "labels.size_from_boxes" for f in truth.findings):
        raise TercelError(
            f"{folder}: shares of pictures whose size the truth does not tell", "give the truth its pictures"
        )
    wh = boxes[:, 2:] - boxes[:, :2] if corners and not yolo else boxes[:, 2:]
    _refuse(wh, table, scores, where)
    sizes = np.array([r.size for r in truth.records], np.float64)[owners]
    xywh = np.concatenate([boxes[:, :2], wh], axis=1)
    return _grouped(truth, owners, labels, odm.to_xyxy(xywh, sizes, relative and not corners), scores)


def _numbered(names: list[str], truth: Dataset, where: Any) -> NDArray[np.int64]:
    labels = np.array([int(n) for n in names], np.int64)
    for i in np.flatnonzero(labels >= len(truth.schema.classes))[:1].tolist():
        raise common.unknown_class(where(i), int(labels[i]), [str(c) for c in range(len(truth.schema.classes))])
    return labels


def _named(names: list[str], truth: Dataset, where: Any) -> NDArray[np.int64]:
    ids = {c: i for i, c in enumerate(truth.schema.classes)}
    for i, n in enumerate(names):
        if n not in ids:
            raise common.unknown_class(where(i), n, truth.schema.classes)
    return np.array([ids[n] for n in names], np.int64)


# -- judging and grouping -----------------------------------------------------------------------------------------


def _refuse(wh: NDArray[np.float64], numbers: NDArray[np.float64], scores: NDArray[np.float64], where: Any) -> None:
    """Errors that name the first bad detection."""
    for bad, what, remedy in (
        (~np.isfinite(numbers).all(axis=1), "a number that is NaN or infinite", "find out where it came from"),
        ((wh < 0).any(axis=1), "a negative width or height", "boxes are x y width height (corners need corners=True)"),
        (~((scores >= 0) & (scores <= 1)), "a score outside 0..1", "scores are probabilities: apply the sigmoid"),
    ):
        for i in np.flatnonzero(bad)[:1].tolist():
            raise TercelError(f"{where(i)}: {what} ({int(bad.sum())} such detections)", remedy)


def _grouped(
    truth: Dataset,
    owner: NDArray[np.int64],
    labels: NDArray[np.int64],
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> dict[str, Objects]:
    known = owner >= 0
    columns: dict[str, NDArray[Any]] = {
        "labels": labels[known],
        "boxes": boxes[known].astype(np.float32),
        "ignore": np.zeros(int(known.sum()), np.bool_),
        "scores": scores[known].astype(np.float32),
    }
    objects = common.group(columns, owner[known], [r.size for r in truth.records])
    return {r.id: o for r, o in zip(truth.records, objects, strict=True)}
