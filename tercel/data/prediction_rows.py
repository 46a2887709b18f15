"""What all readers of predictions share: pictures found by name, bad numbers refused, rows grouped, doubts counted.

Shape legend: N detections; K named points of a detection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.geometry import canonical_obb, obb_hull, points_hull
from tercel.core.objects import Objects
from tercel.core.record import Dataset
from tercel.data.formats import common

ENOUGH = 10  # detections from which equal scores are no accident
UNKNOWN = "predictions for pictures that the truth does not list were left out"


class Lookup:
    """Number of a truth record by what a prediction file calls its picture."""

    def __init__(self, truth: Dataset) -> None:
        self.truth = truth
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
            ledger.add("predictions.unknown_picture", Severity.WARNING, UNKNOWN, f"{where}: {name}")
        return i

    def none_match(self, path: Path, name: object) -> TercelError:
        some = self.truth.records[0].id if self.truth.records else "(the truth is empty)"
        return TercelError(
            f"{path}: no picture of the predictions occurs in the truth (here {name!r}, there {some!r})",
            "take the predictions that belong to this truth",
        )


@dataclass(frozen=True, kw_only=True)
class Detections:
    """N detections of all pictures.

    Attributes:
        owner: i64 [N] index of the truth record, -1 for pictures that the truth does not list.
        labels: i64 [N] class ids of the truth. scores: f64 [N]. where: "file:line" of row i.
        boxes: f64 [N,4] x1 y1 x2 y2 px; not looked at beside obbs.
        obbs: f64 [N,5] cx cy length width theta, or None. heading f64 [N], headed bool [N], or None.
        points: f64 [N,K,2] px, or None. point_scores: f64 [N,K], or None where nothing is said of single points.
    """

    owner: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    where: Callable[[int], str]
    obbs: NDArray[np.float64] | None = None
    heading: NDArray[np.float64] | None = None
    headed: NDArray[np.bool_] | None = None
    points: NDArray[np.float64] | None = None
    point_scores: NDArray[np.float64] | None = None


def grouped(truth: Dataset, d: Detections) -> dict[str, Objects]:
    """Objects by record id, one for every record of the truth.

    Raises:
        TercelError: a number that is not finite, a negative extent, a score outside 0..1; the first one named.
    """
    place = d.boxes if d.obbs is None else d.obbs
    extent = d.boxes[:, 2:] - d.boxes[:, :2] if d.obbs is None else d.obbs[:, 2:4]
    finite = True if d.points is None else np.isfinite(d.points).all(axis=(1, 2))
    for bad, what, remedy in (
        (~(np.isfinite(place).all(axis=1) & np.isfinite(d.scores) & finite), "a number that is NaN or infinite", _FIND),
        (
            (extent < 0).any(axis=1),
            "a negative width or height",
            "boxes are x y width height (corners need corners=True)",
        ),
        (~((d.scores >= 0) & (d.scores <= 1)), "a score outside 0..1", "scores are probabilities: apply the sigmoid"),
    ):
        for i in np.flatnonzero(bad)[:1].tolist():
            raise TercelError(f"{d.where(i)}: {what} ({int(bad.sum())} such detections)", remedy)
    known = d.owner >= 0
    columns: dict[str, NDArray[Any]] = {
        "labels": d.labels[known],
        "boxes": d.boxes[known].astype(np.float32),
        "ignore": np.zeros(int(known.sum()), np.bool_),
        "scores": d.scores[known].astype(np.float32),
    }
    if d.obbs is not None:
        columns |= _oriented(d.obbs[known])
        if d.heading is not None and d.headed is not None:
            columns |= {"heading": d.heading[known].astype(np.float32), "headed": d.headed[known]}
    if d.points is not None:
        columns |= _pointed(d.points[known], None if d.point_scores is None else d.point_scores[known])
    objects = common.group(columns, d.owner[known], [r.size for r in truth.records])
    return {r.id: o for r, o in zip(truth.records, objects, strict=True)}


_FIND = "find out where it came from"


def _oriented(obbs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Canonical obbs with the hull and the area that go with them, all f32."""
    ours = canonical_obb(obbs.astype(np.float32))
    sides = ours[:, 2:4].astype(np.float64)
    return {"obbs": ours, "boxes": obb_hull(ours), "area": (sides[:, 0] * sides[:, 1]).astype(np.float32)}


def _pointed(points: NDArray[np.float64], scores: NDArray[np.float64] | None) -> dict[str, NDArray[Any]]:
    """Columns of points that are all predicted: visible (2) where that is likelier than not, or where none says so."""
    columns: dict[str, NDArray[Any]] = {"points": points.astype(np.float32), "visible": visible_of(points, scores)}
    return columns if scores is None else columns | {"point_scores": scores.astype(np.float32)}


def visible_of(points: NDArray[Any], scores: NDArray[Any] | None) -> NDArray[np.uint8]:
    """`visible` u8 [N,K] of predicted points [N,K,2]: 2 where the score is above a half or there is none, else 1."""
    seen = np.ones(points.shape[:2], np.bool_) if scores is None else scores > 0.5
    return np.where(seen, 2, 1).astype(np.uint8)


def all_hull(points: NDArray[Any]) -> NDArray[Any]:
    """The boxes [N,4] around all of points [N,K,2]: those of detections that have points only."""
    return points_hull(points, np.ones(points.shape[:2], np.uint8))


def derived(o: Objects) -> Objects:
    """`o` with canonical obbs and the boxes and areas that follow from them; unchanged without obbs."""
    return o if o.obbs is None else o.replace(**_oriented(o.obbs))


def doubts(found: Iterable[tuple[str, Objects]], path: Path, ledger: Ledger) -> None:
    """Count what is no error but spoils a score: detections given twice, scores that are all the same."""
    parts = [(id_, o) for id_, o in found if len(o)]
    if not parts:
        return
    owner = np.repeat(np.arange(len(parts)), [len(o) for _, o in parts])
    labels = np.concatenate([o.labels for _, o in parts])
    scores = np.concatenate([o.scores for _, o in parts if o.scores is not None])
    places = [_place(o) for _, o in parts]
    width = max(p.shape[1] for p in places)
    place = np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]))) for p in places]).astype(np.float32)
    if len(scores) >= ENOUGH and (scores == scores[0]).all():
        message = "all scores are equal, so that nothing ranks the detections: was the confidence written?"
        ledger.add("predictions.equal_scores", Severity.WARNING, message, f"{path}: {scores[0]:g}", len(scores))
    rows = np.concatenate([owner[:, None], labels[:, None], place.view(np.int32).astype(np.int64)], axis=1)
    for i in _repeats(rows).tolist():
        message = "detections of one class on exactly the same spot: all but one count as false positives"
        ledger.add("predictions.duplicate", Severity.WARNING, message, f"{path}: {parts[owner[i]][0]}")


def _place(o: Objects) -> NDArray[np.float32]:
    """What says where N detections are, f32 [N,F]: points, oriented boxes or boxes."""
    return o.points.reshape(len(o), -1) if o.points is not None else o.boxes if o.obbs is None else o.obbs


def _repeats(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the rows [N,K] that have occurred before, in any order."""
    key = np.zeros(len(rows), np.uint64)
    for column in rows.T.astype(np.uint64):  # a hash brings equal rows together; what it brings together is compared
        key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    order = np.argsort(key, kind="stable")
    a, b = order[:-1], order[1:]
    near = np.flatnonzero(key[a] == key[b])
    again: NDArray[np.int64] = b[near[(rows[a[near]] == rows[b[near]]).all(axis=1)]]
    return again
