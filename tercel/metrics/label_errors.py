"""Labels that are probably wrong, found with a detector that has not learned from them, the likeliest first.

A detection is believed when its score reaches the mean score of the right detections of its class (the rule of
confident learning, Northcutt et al. 2021). What a believed detection contradicts is a suspect. Predictions on pictures
that the detector was trained on repeat the errors: use held-out ones. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset
from tercel.metrics.compare import EVERY, pools
from tercel.metrics.match import match_all, overlaps, pair_overlap

Floats = NDArray[np.float64]

HIT, NEAR = 0.5, 0.1  # IoU of the same object; below `NEAR` there is nothing
TIGHT = 0.75  # a label that a believed detection overlaps by more is not called loose
INSIDE = 0.9  # share of the detection within the label, when the label is loose
TWICE, TWICE_OTHER = 0.7, 0.85  # IoU of two labels of one object; of different classes


class Doubt(StrEnum):
    """What may be wrong with a label."""

    MISSED = "missed"  # a believed detection where nothing is labelled
    CLASS = "class"  # well placed, but believed to be something else
    PLACED = "placed"  # the right class beside a believed box
    DUPLICATE = "duplicate"  # two labels on one object
    LOOSE = "loose"  # much larger than the believed box within it


@dataclass(frozen=True)
class Suspect:
    """One label that may be wrong.

    Attributes:
        kind: what may be wrong.
        picture: id of the picture; index: its number among those given.
        row: the label's row in the truth, None when it is missing; other: the second label of a duplicate.
        given: class id that is written, None when nothing is. proposed: class id that is believed.
        box: x1 y1 x2 y2 px of what is believed (of the label itself for a duplicate); obb: the same oriented, or None.
        likelihood: 0..1, to rank by; no probability.
        iou: overlap of label and believed box, or of the two labels.
        score: of the detection, None for a duplicate.
    """

    kind: Doubt
    picture: str
    index: int
    row: int | None
    other: int | None
    given: int | None
    proposed: int
    box: tuple[float, ...]
    obb: tuple[float, ...] | None
    likelihood: float
    iou: float
    score: float | None

    def to_json(self) -> dict[str, Any]:
        out = {k: getattr(self, k) for k in self.__dataclass_fields__}
        return {**out, "kind": str(self.kind), "box": list(self.box), "obb": self.obb and list(self.obb)}


def label_errors(
    truth: Sequence[Objects],
    pred: Sequence[Objects],
    classes: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
    geometry: str = "",
) -> list[Suspect]:
    """Suspicious labels of all kinds, the likeliest first.

    Args:
        truth, pred: one Objects per picture, in the same order; the detector must not have been trained on them.
        classes: names of the class ids. ids: names of the pictures.
        geometry: "boxes", "oriented", or "" = oriented when both sides hold oriented boxes.

    Raises:
        TercelError: as `compare.pools`.
    """
    kind, (all_truth, all_pred) = pools(truth, pred, geometry=geometry)
    ids = [str(i) for i in range(len(truth))] if ids is None else list(map(str, ids))
    if len(ids) != len(truth):
        raise TercelError(f"{len(ids)} ids for {len(truth)} pictures", "give one id per picture")
    m = match_all(all_truth, all_pred, ious=(HIT,), sizes=EVERY)
    right = m.hit_at_first
    bar = np.full(len(classes), float(m.pred.scores[right].mean()) if right.any() else np.inf)
    for c in np.unique(m.pred.labels[right]).tolist():
        bar[c] = m.pred.scores[right & (m.pred.labels == c)].mean()
    out = []
    for i, sides in enumerate(zip(truth, pred, strict=True)):
        t, p = map(_hulls, sides) if kind == "boxes" else sides
        out += _of_picture(t, p, bar, ids[i], i)
    return sorted(out, key=lambda s: (-s.likelihood, s.index, s.row is None, s.row or 0))


def relabel_queue(dataset: Dataset, suspects: Sequence[Suspect], limit: int | None = None) -> Dataset:
    """The pictures with suspects, the worst first, as a data set for a labelling tool.

    Each holds its labels (boxes and oriented boxes only) and one more object per suspect, of a class named after the
    doubt: `check_missed_car` is a car that may be missing, drawn where it is believed.

    Args:
        dataset: the one whose records `suspects` came from, in that order.
        limit: at most so many pictures.
    """
    names = [f"check_{s.kind}_{dataset.schema.classes[s.proposed]}" for s in suspects]
    extra = tuple(sorted(set(names)))
    place = {n: len(dataset.schema.classes) + i for i, n in enumerate(extra)}
    schema = replace(dataset.schema, classes=(*dataset.schema.classes, *extra), category_ids=())
    worst = list(dict.fromkeys(s.index for s in sorted(suspects, key=lambda s: -s.likelihood)))[:limit]
    records = []
    for i in worst:
        r = dataset.records[i]
        mine = [(s, place[n]) for s, n in zip(suspects, names, strict=True) if s.index == i]
        o = r.objects
        obbs = None
        if o.obbs is not None and all(s.obb is not None for s, _ in mine):
            obbs = np.concatenate([o.obbs, [s.obb for s, _ in mine]])
        objects = Objects(
            o.size,
            np.r_[o.labels, [c for _, c in mine]],
            np.concatenate([o.boxes, [s.box for s, _ in mine]]),
            np.r_[o.ignore, np.zeros(len(mine), np.bool_)],
            obbs=obbs,
        )
        records.append(replace(r, objects=objects))
    return Dataset(schema, tuple(records), (), dataset.source)


def _hulls(o: Objects) -> Objects:
    return o if o.obbs is None else o.replace(obbs=None, heading=None, headed=None)


def _of_picture(truth: Objects, pred: Objects, bar: Floats, picture: str, index: int) -> list[Suspect]:
    real = np.flatnonzero(~truth.ignore)
    labels = truth[real]
    out = _duplicates(labels, real, picture, index)
    scores = np.zeros(len(pred)) if pred.scores is None else pred.scores.astype(np.float64)
    believed = _believed(truth, pred, scores, bar)
    iou = overlaps(labels, pred)  # [D,G]
    best_of = iou[believed].max(axis=0, initial=0)  # of each label, over believed detections
    for d in believed.tolist():
        g = int(iou[d].argmax()) if len(labels) else -1
        v = float(iou[d, g]) if g >= 0 else 0.0
        same = g >= 0 and bool(labels.labels[g] == pred.labels[d])
        shape = _Shape(pred, d, float(scores[d]), picture, index)
        if v >= HIT and not same:
            rivals = (pred.labels == labels.labels[g]) & (iou[:, g] >= HIT)
            doubt = 1 - float(scores[rivals].max(initial=0))
            out.append(shape.suspect(Doubt.CLASS, real[g], labels.labels[g], v, scores[d] * doubt))
        elif v >= HIT:
            if v < TIGHT and _within(pred, d, labels, g) >= INSIDE:
                out.append(shape.suspect(Doubt.LOOSE, real[g], labels.labels[g], v, scores[d] * (1 - v)))
        elif v >= NEAR and same and best_of[g] <= v:
            out.append(shape.suspect(Doubt.PLACED, real[g], labels.labels[g], v, scores[d] * (1 - v)))
        elif v < NEAR or best_of[g] >= HIT:  # nothing there, or what is there is another object
            out.append(shape.suspect(Doubt.MISSED, None, None, v, scores[d] * (1 - v)))
    return out


def _believed(truth: Objects, pred: Objects, scores: Floats, bar: Floats) -> NDArray[np.int64]:
    """Detections over the bar of their class, the best of each heap only, outside ignore regions."""
    free = scores >= bar[pred.labels] if len(pred) else np.zeros(0, np.bool_)
    regions = np.flatnonzero(truth.ignore)
    for d in np.flatnonzero(free).tolist() if len(regions) else ():
        free[d] = _covered(pred, d, truth, regions) < HIT
    order = np.flatnonzero(free)
    order = order[np.argsort(-scores[order], kind="stable")]
    mutual = overlaps(pred[order], pred[order])
    kept: list[int] = []
    for k in range(len(order)):
        if not kept or mutual[k, kept].max() < HIT:
            kept.append(k)
    return order[kept]


def _shape(o: Objects, rows: NDArray[np.int64], oriented: bool) -> Floats:
    return (o.obbs[rows] if oriented and o.obbs is not None else o.boxes[rows]).astype(np.float64)


def _covered(pred: Objects, d: int, truth: Objects, rows: NDArray[np.int64]) -> float:
    """Largest share of detection `d` within one of these truths."""
    oriented = pred.obbs is not None and truth.obbs is not None
    one = _shape(pred, np.full(len(rows), d), oriented)
    return float(pair_overlap(one, _shape(truth, rows, oriented), np.ones(len(rows), np.bool_)).max(initial=0))


def _within(pred: Objects, d: int, labels: Objects, g: int) -> float:
    return _covered(pred, d, labels, np.array([g]))


def _duplicates(labels: Objects, real: NDArray[np.int64], picture: str, index: int) -> list[Suspect]:
    iou = np.triu(overlaps(labels, labels), 1)
    same = labels.labels[:, None] == labels.labels[None, :]
    out = []
    for i, j in zip(*np.nonzero(iou >= np.where(same, TWICE, TWICE_OTHER)), strict=True):
        v = float(iou[i, j])
        shape = _Shape(labels, int(j), None, picture, index)
        found = shape.suspect(Doubt.DUPLICATE, real[j], labels.labels[j], v, v)
        out.append(replace(found, other=int(real[i])))
    return out


@dataclass(frozen=True)
class _Shape:
    """What is believed: one row of some objects."""

    objects: Objects
    row: int
    score: float | None
    picture: str
    index: int

    def suspect(self, kind: Doubt, row: Any, given: Any, iou: float, likelihood: Any) -> Suspect:
        o = self.objects
        obb = None if o.obbs is None else tuple(o.obbs[self.row].tolist())
        return Suspect(
            kind, self.picture, self.index, None if row is None else int(row), None,
            None if given is None else int(given), int(o.labels[self.row]), tuple(o.boxes[self.row].tolist()), obb,
            float(likelihood), iou, self.score,
        )  # fmt: skip
