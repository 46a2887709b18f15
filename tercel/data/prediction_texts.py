"""Folders of predictions as text, one file per picture, told apart by their lines.

YOLO: `class cx cy w h score`, YOLO-OBB: `class x1 y1 ... x4 y4 score`, both in shares of the picture;
Object-Detection-Metrics: `name score x y w h`. Shape legend: N detections.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset
from tercel.data.formats import angles, common, odm
from tercel.data.prediction_rows import Detections, Lookup, grouped

KINDS = "`class cx cy w h score` (YOLO), `class x1 y1 ... x4 y4 score` (YOLO-OBB) or `name score x y w h`"
_FAR = 2.0  # a share of the picture beyond this is no share


@dataclass
class _Lines:
    """The detections of all files as they stand: first field, the numbers behind it, record, file and line."""

    names: list[str] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    places: list[tuple[Path, int]] = field(default_factory=list)

    def where(self, i: int) -> str:
        return f"{self.places[i][0]}:{self.places[i][1]}"


def read_texts(folder: Path, files: list[Path], truth: Dataset, ledger: Ledger, corners: bool) -> dict[str, Objects]:
    """Predictions of `files` by record id; YOLO's when the lines begin with numbers and all shares are small.

    Raises:
        TercelError: a line of no kind or of another kind than the first one, no picture in common, an unknown class, a
            number that no detection has.
    """
    lines, matched = _Lines(), 0
    lookup = Lookup(truth)
    for f in files:
        i = lookup(f.stem, str(f), ledger)
        matched += i >= 0
        if i >= 0:
            _append(lines, f, i)
    if not matched:
        raise lookup.none_match(folder, files[0].stem)
    owner = np.array(lines.owner, np.int64)
    sizes = np.array([r.size for r in truth.records], np.float64)[owner]
    if lines.values and len(lines.values[0]) == 9:
        return grouped(truth, _corners(folder, lines, owner, sizes, truth, ledger))
    table = np.array(lines.values, np.float64).reshape(-1, 5)
    yolo = all(n.isdigit() for n in lines.names) and not (table[:, 1:4] > 1.5).any()
    labels = _numbered(lines, truth) if yolo else _named(lines, truth)
    scores, boxes = (table[:, 4], table[:, :4]) if yolo else (table[:, 0], table[:, 1:])
    relative = yolo or bool(len(boxes) and ((boxes >= 0) & (boxes <= 1)).all())
    if relative:
        _refuse_guessed_size(folder, truth)
    wh = boxes[:, 2:] - boxes[:, :2] if corners and not yolo else boxes[:, 2:]
    xyxy = odm.to_xyxy(np.concatenate([boxes[:, :2], wh], axis=1), sizes, relative and not corners)
    return grouped(truth, Detections(owner=owner, labels=labels, scores=scores, boxes=xyxy, where=lines.where))


def _append(lines: _Lines, file: Path, owner: int) -> None:
    for n, line in enumerate(common.read_text(file).splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) not in {9, 10} or not all(map(_is_number, fields)):
            fields = line.rsplit(maxsplit=5)  # names may hold spaces
        try:
            values = [float(x) for x in fields[1:]]
            if len(fields) not in {6, 10}:
                raise ValueError
        except ValueError as e:
            short = len(fields) in {5, 9}
            remedy = "are the scores missing? write the predictions with them" if short else "correct the line"
            raise TercelError(f"{file}:{n}: a detection is {KINDS}, not {line.strip()!r}", remedy) from e
        if lines.values and len(values) != len(lines.values[0]):
            what = f"{file}:{n}: {len(fields)} fields, {lines.where(0)} has {len(lines.values[0]) + 1}"
            raise TercelError(what, "keep oriented boxes and others in folders of their own")
        lines.names.append(fields[0].strip())
        lines.values.append(values)
        lines.owner.append(owner)
        lines.places.append((file, n))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _corners(
    folder: Path,
    lines: _Lines,
    owner: NDArray[np.int64],
    sizes: NDArray[np.float64],
    truth: Dataset,
    ledger: Ledger,
) -> Detections:
    table = np.array(lines.values, np.float64)
    _refuse_guessed_size(folder, truth)
    for i in np.flatnonzero((np.abs(table[:, :8]) > _FAR).any(axis=1))[:1].tolist():
        what = f"{lines.where(i)}: corners beyond {_FAR:g} times the picture"
        raise TercelError(what, "corners of YOLO-OBB are shares of the picture's width and height")
    quads = table[:, :8].reshape(-1, 4, 2) * sizes[:, None, ::-1]
    return Detections(
        owner=owner,
        labels=_numbered(lines, truth),
        scores=table[:, 8],
        boxes=np.zeros((len(table), 4)),
        where=lines.where,
        obbs=angles.from_corners(quads, lines.where, ledger),
    )


def _refuse_guessed_size(folder: Path, truth: Dataset) -> None:
    if any(f.check == "labels.size_from_boxes" for f in truth.findings):
        raise TercelError(
            f"{folder}: shares of pictures whose size the truth does not tell", "give the truth its pictures"
        )


def _numbered(lines: _Lines, truth: Dataset) -> NDArray[np.int64]:
    odd = next((i for i, n in enumerate(lines.names) if not n.isdigit()), None)
    if odd is not None:
        known = [str(c) for c in range(len(truth.schema.classes))]
        raise common.unknown_class(lines.where(odd), lines.names[odd], known)
    labels = np.array([int(n) for n in lines.names], np.int64)
    for i in np.flatnonzero(labels >= len(truth.schema.classes))[:1].tolist():
        known = [str(c) for c in range(len(truth.schema.classes))]
        raise common.unknown_class(lines.where(i), int(labels[i]), known)
    return labels


def _named(lines: _Lines, truth: Dataset) -> NDArray[np.int64]:
    ids = {c: i for i, c in enumerate(truth.schema.classes)}
    for i, n in enumerate(lines.names):
        if n not in ids:
            raise common.unknown_class(lines.where(i), n, truth.schema.classes)
    return np.array([ids[n] for n in lines.names], np.int64)
