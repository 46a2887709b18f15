"""CrowdHuman's dumps of detections: one JSON object per line and picture, as CrowdDet writes them.

Each has ID, `dtboxes` (list of `box` x y w h in px, `score`, and `tag`: 1 for the first class) and mostly `height` and
`width`. A copy of the truth, `gtboxes`, is not looked at. Shape legend: N detections.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic
from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset
from tercel.data.formats import common
from tercel.data.prediction_rows import Detections, Lookup, grouped

_NEEDS = "a detection has box (x y width height) and score"


@dataclass(frozen=True)
class _Line:
    number: int
    id: str
    boxes: list[dict[str, Any]]
    size: tuple[int, int] | None
    copied: int


def is_dump(path: Path) -> bool:
    """True for a file whose first line has dtboxes."""
    with open(path, "rb") as f:
        first = next((text for text in f if text.strip()), b"")
    return first.lstrip(b"\xef\xbb\xbf \t").startswith(b"{") and b'"dtboxes"' in first


def read_dump(path: Path, truth: Dataset, ledger: Ledger) -> dict[str, Objects]:
    """The detections of a dump for every record of the truth, by its id.

    Where the truth had to guess sizes of pictures from its boxes, Objects lie on the canvas that the dump tells; see
    `on_told_canvases`.

    Raises:
        TercelError: a line that is no such object, a picture that occurs twice, another size than that of the truth, an
            unknown class, no picture in common, see `grouped`; file and line named.
    """
    with common.collector_paused():
        return _read(path, truth, ledger)


def on_told_canvases(truth: Dataset, found: dict[str, Objects]) -> Dataset:
    """The truth with the sizes of pictures that its predictions tell, where its own were guessed from its boxes."""
    if not _guessed(truth):
        return truth
    records, told = [], 0
    for r in truth.records:
        size = found[r.id].size
        told += size != r.size
        records.append(dataclasses.replace(r, size=size, objects=r.objects.replace(size=size)))
    message = "sizes of pictures, guessed from their boxes at first, were taken from the predictions"
    said = (Finding("predictions.sizes", Severity.INFO, message, told),) if told else ()
    return dataclasses.replace(truth, records=tuple(records), findings=truth.findings + said, _places={})


def write_dump(path: Path, items: Iterable[tuple[str, Objects]], *, replace: bool = False) -> None:
    """Write detections, (picture id, Objects), for CrowdDet's and other tools of CrowdHuman.

    Raises:
        TercelError: the file exists and `replace` is False, an id that occurs twice, no scores.
    """
    if path.exists() and not replace:
        raise TercelError(f"{path} exists already", "choose another name")
    lines, seen = [], set[str]()
    for id_, o in items:
        if id_ in seen:
            raise TercelError(f"{path}: two predictions for the id {id_!r}", "predict every picture once")
        if o.scores is None:
            raise TercelError(f"{path}: the predictions for {id_!r} have no scores", "predictions carry scores")
        seen.add(id_)
        xyxy = o.boxes.astype(np.float64)
        xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1).tolist()
        rows = zip(xywh, o.scores.tolist(), o.labels.tolist(), strict=True)
        boxes = [{"box": b, "score": s, "tag": label + 1} for b, s, label in rows]
        entry = {"ID": id_, "height": o.size[0], "width": o.size[1], "dtboxes": boxes}
        lines.append(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomic(path, "".join(lines))


# -- reading ------------------------------------------------------------------------------------------------------


def _read(path: Path, truth: Dataset, ledger: Ledger) -> dict[str, Objects]:
    text = common.read_text(path)
    lines = [_parsed(path, n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    owners = _owners(path, lines, truth, ledger)
    copied = sum(line.copied for line in lines)
    if copied:
        message = "truth that the dump repeats (gtboxes) was not looked at"
        ledger.add("predictions.gtboxes", Severity.INFO, message, str(path), copied)
    found = grouped(truth, _detections(path, lines, owners, truth))
    sizes = {truth.records[i].id: line.size for i, line in zip(owners, lines, strict=True) if i >= 0 and line.size}
    return {id_: o if sizes.get(id_, o.size) == o.size else o.replace(size=sizes[id_]) for id_, o in found.items()}


def _parsed(path: Path, n: int, text: str) -> _Line:
    where = f"{path}:{n}"
    entry = common.json_line(where, text)
    id_ = entry.get("ID") if isinstance(entry, dict) else None
    boxes = entry.get("dtboxes") if isinstance(entry, dict) else None
    if not isinstance(id_, str | int) or not isinstance(boxes, list) or not all(isinstance(b, dict) for b in boxes):
        raise TercelError(f"{where}: a line is an object with ID and dtboxes (a list of objects)", "correct the line")
    h, w = entry.get("height"), entry.get("width")
    size = (h, w) if isinstance(h, int) and isinstance(w, int) and min(h, w) > 0 else None
    copied = entry.get("gtboxes")
    return _Line(n, str(id_), boxes, size, len(copied) if isinstance(copied, list) else 0)


def _owners(path: Path, lines: Sequence[_Line], truth: Dataset, ledger: Ledger) -> list[int]:
    """Index of the truth's record of each line, -1 = none."""
    lookup, guessed, out = Lookup(truth), _guessed(truth), list[int]()
    taken: dict[int, int] = {}
    for line in lines:
        where = f"{path}:{line.number}"
        i = lookup(line.id, where, ledger)
        if i in taken:
            raise TercelError(f"{where}: {line.id!r} stands in line {taken[i]} already", "one line per picture")
        if i >= 0:
            taken[i] = line.number
            record = truth.records[i]
            if line.size not in (None, record.size) and not guessed:
                (h, w), (true_h, true_w) = line.size or record.size, record.size
                raise TercelError(
                    f"{where}: predicted on {w}x{h}, but the truth of {record.id!r} is {true_w}x{true_h} (width x "
                    "height)",
                    "predict on the original pictures",
                )
        out.append(i)
    if lines and not taken:
        raise lookup.none_match(path, lines[0].id)
    return out


def _guessed(truth: Dataset) -> bool:
    return any(f.check == "labels.size_from_boxes" for f in truth.findings)


def _detections(path: Path, lines: Sequence[_Line], owners: Sequence[int], truth: Dataset) -> Detections:
    counts = [len(line.boxes) for line in lines]
    line_of = np.repeat(np.arange(len(lines)), counts)
    first = np.searchsorted(line_of, np.arange(len(lines)))
    boxes = [b for line in lines for b in line.boxes]

    def where(i: int) -> str:
        return f"{path}:{lines[line_of[i]].number} dtboxes[{i - first[line_of[i]]}]"

    try:
        xywh = np.array([b["box"] for b in boxes], np.float64).reshape(-1, 4)
        scores = np.array([b["score"] for b in boxes], np.float64)
        tags = np.array([b.get("tag", 1) for b in boxes], np.float64)
        if len(xywh) != len(boxes) or scores.ndim != 1 or tags.ndim != 1:
            raise ValueError
    except (KeyError, TypeError, ValueError) as e:
        i = next(i for i, b in enumerate(boxes) if not _is_detection(b))
        raise TercelError(f"{where(i)}: {_NEEDS}", "correct the detection") from e
    known: list[float] = list(range(1, len(truth.schema.classes) + 1))
    for i in np.flatnonzero(~np.isin(tags, known))[:1].tolist():
        raise common.unknown_class(where(i), f"{tags[i]:g}", [str(k) for k in known])
    corners: NDArray[np.float64] = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    owner = np.repeat(np.array(owners, np.int64), counts)
    labels = tags.astype(np.int64) - 1
    return Detections(owner=owner, labels=labels, scores=scores, boxes=corners, where=where)


def _is_detection(b: dict[str, Any]) -> bool:
    box, numbers = b.get("box"), [b.get("score"), b.get("tag", 1)]
    good = isinstance(box, list) and len(box) == 4
    return good and all(isinstance(v, int | float) for v in [*(box or []), *numbers])
