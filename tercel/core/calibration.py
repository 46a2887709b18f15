"""Calibration: a few numbers that correct the boxes and the scores of one detector. NumPy only.

They are fitted on validation data (tercel.metrics.calibrate), stored with the checkpoint, and applied to what the
detector finds. `apply` moves no box and drops none: it scales sides, turns angles and maps scores to probabilities.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import read_json
from tercel.core.finding import TercelError
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Record, content_hash

FORMAT, VERSION = "tercel-calibration", 1
# A share of the old score in the new one: where the map is flat, the old ranking stays, and AP with it.
_RANKING = 1e-4
_ID = "id "
_EDGE = 1e-12  # scores of exactly 0 and 1 have no finite logit


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What corrects one detector.

    Attributes:
        length, width: factors for the sides of oriented boxes; of axis-aligned boxes `width` is for the x extent.
        height: factor for the y extent of axis-aligned boxes.
        angle: radians added to theta, clockwise on screen (and to the heading, which is the box's own direction).
        temperature: scores become sigmoid(logit(score) / temperature); 1 = as they are.
        knots: (score, probability) pairs, rising in both; scores are interpolated between them. () = as they are.
        fitted_on: keys of the pictures it was fitted on (`picture_key`), to tell when it is judged on them.
        source: the data they came from, for people.

    Raises:
        TercelError: a factor or temperature that is not positive, knots that do not rise within 0..1, or temperature
            and knots both.
    """

    length: float = 1.0
    width: float = 1.0
    height: float = 1.0
    angle: float = 0.0
    temperature: float = 1.0
    knots: tuple[tuple[float, float], ...] = ()
    fitted_on: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("length", "width", "height", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise TercelError(
                    f"calibration: {name} is {value}, not a positive number", "1 leaves things as they are"
                )
        if not math.isfinite(self.angle):
            raise TercelError(f"calibration: angle is {self.angle}, not a number of radians", "0 leaves it as it is")
        x, y = np.array(self.knots, np.float64).reshape(-1, 2).T
        inside = ((x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)).all()
        if not (inside and (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()):
            raise TercelError("calibration: knots do not rise within 0..1", "give (score, probability) pairs by score")
        if self.knots and self.temperature != 1:
            raise TercelError("calibration: temperature and knots are both there", "keep one of them")

    @property
    def moves_boxes(self) -> bool:
        return (self.length, self.width, self.height, self.angle) != (1, 1, 1, 0)

    @property
    def moves_scores(self) -> bool:
        return self.temperature != 1 or bool(self.knots)

    def replace(self, **changes: Any) -> Calibration:
        return dataclasses.replace(self, **changes)

    def shared(self, records: Iterable[Record]) -> list[str]:
        """Ids of the records whose pictures it was fitted on, by content where the files are there."""
        known = set(self.fitted_on)
        by_content = any(not k.startswith(_ID) for k in known)
        out = []
        for r in records:
            keys = picture_keys(r)
            content = [k for k in keys if not k.startswith(_ID)] if by_content else []
            if known & set(
                content or keys
            ):  # different sets often use the same ids, so content decides if there is any
                out.append(r.id)
        return out

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(d: Mapping[str, Any], where: str = "calibration") -> Calibration:
        """The other way; `report` (what the fit found) is skipped.

        Raises:
            TercelError: not a calibration, a later version, an unknown key or a value of the wrong type.
        """
        if not isinstance(d, Mapping) or d.get("format") != FORMAT:
            raise TercelError(
                f"{where} is no calibration: its format is not {FORMAT!r}", "`tercel calibrate` writes one"
            )
        if d.get("version") != VERSION:
            raise TercelError(f"{where} has version {d.get('version')!r}, not {VERSION}", "fit it again")
        values = {k: v for k, v in d.items() if k not in ("format", "version", "report")}
        unknown = values.keys() - {f.name for f in dataclasses.fields(Calibration)}
        if unknown:
            raise TercelError(f"{where}: unknown key {sorted(unknown)[0]!r}", "fit it again")
        try:
            numbers = {k: float(v) for k, v in values.items() if k not in ("knots", "fitted_on", "source")}
            knots = tuple((float(x), float(y)) for x, y in values.get("knots", ()))
        except (TypeError, ValueError) as e:
            raise TercelError(f"{where}: {e}", "fit it again") from e
        fitted_on = tuple(map(str, values.get("fitted_on", ())))
        return Calibration(**numbers, knots=knots, fitted_on=fitted_on, source=str(values.get("source", "")))


def read_calibration(path: Path) -> Calibration:
    """
    Raises:
        TercelError: missing, not JSON, or no calibration; with the file.
    """
    return Calibration.from_json(read_json(path), str(path))


def picture_keys(record: Record) -> tuple[str, ...]:
    """What tells a record's pictures apart: their content where the files are there, and always the id."""
    content = [f"{content_hash(f.path)[:16]}@{f.index}" for f in record.frames if f.path.is_file()]
    return (*content, f"{_ID}{record.id}")


def apply(objects: Objects, calibration: Calibration) -> Objects:
    """Calibrated predictions; the same object when there is nothing to change.

    Oriented boxes get length, width and angle, and their hulls and areas follow; axis-aligned ones width and height.
    The ranking by score stays as it is, up to the rounding of float32.
    """
    if not len(objects):
        return objects
    columns: dict[str, NDArray[Any]] = {}
    if calibration.moves_boxes:
        columns |= _boxes(objects, calibration)
    if calibration.moves_scores and objects.scores is not None:
        columns["scores"] = map_scores(objects.scores, calibration)
    return objects.replace(**columns) if columns else objects


def scale_obbs(obbs: NDArray[np.float64], calibration: Calibration) -> NDArray[np.float64]:
    """Oriented boxes [N,5] with calibrated sides and angles, canonical."""
    out = np.array(obbs, np.float64)
    out[:, 2] *= calibration.length
    out[:, 3] *= calibration.width
    out[:, 4] += calibration.angle
    return np.asarray(canonical_obb(out), np.float64)


def scale_boxes(boxes: NDArray[np.float64], calibration: Calibration) -> NDArray[np.float64]:
    """Axis-aligned boxes [N,4] with calibrated width and height, about their centres."""
    boxes = np.asarray(boxes, np.float64)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * (calibration.width, calibration.height)
    return np.concatenate([centre - half, centre + half], axis=1)


def _boxes(objects: Objects, c: Calibration) -> dict[str, NDArray[Any]]:
    if objects.obbs is None:
        out: dict[str, NDArray[Any]] = {"boxes": scale_boxes(objects.boxes.astype(np.float64), c)}
        sides = c.width * c.height
    else:
        obbs = scale_obbs(objects.obbs.astype(np.float64), c)
        out = {"obbs": obbs, "boxes": obb_hull(obbs)}
        sides = c.length * c.width
        if objects.heading is not None and c.angle:
            out["heading"] = np.mod(objects.heading + c.angle + np.pi, 2 * np.pi) - np.pi
    if objects.area is not None:
        out["area"] = objects.area * np.float32(sides)
    return out


def map_scores(scores: NDArray[Any], calibration: Calibration) -> NDArray[np.float64]:
    """Scores [N] in 0..1 as probabilities [N]."""
    old = np.asarray(scores, np.float64)
    if calibration.knots:
        x, y = np.array(calibration.knots).T
        new = np.interp(old, x, y)
    else:
        p = np.clip(old, _EDGE, 1 - _EDGE)
        new = 1 / (1 + ((1 - p) / p) ** (1 / calibration.temperature))
    mixed: NDArray[np.float64] = np.clip((1 - _RANKING) * new + _RANKING * old, 0, 1)
    return mixed
