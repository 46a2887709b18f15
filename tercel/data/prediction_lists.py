"""COCO result lists: one entry per detection with `image_id`, `category_id`, `score` and a place.

The place is a `bbox`, an `obb` or `corners` (tercel.data.formats.obb_json), or `keypoints`: x y c of each of K points.
A list of keypoints need not have a `bbox`: then the box is the hull of the points, derived and never scored. COCO
ignores c; here it is how sure the detector is of that point, if all of the list lie in 0..1.

Shape legend: N detections; K named points.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import read_json, write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset
from tercel.data.formats import coco, coco_points, common, obb_json
from tercel.data.prediction_rows import UNKNOWN, Detections, Lookup, all_hull, grouped

_NEEDS = "a result has image_id, category_id, score and bbox, obb, corners or keypoints"


def read_results(path: Path, truth: Dataset, ledger: Ledger) -> dict[str, Objects]:
    """The detections of a result list for every record of the truth, by its id.

    Raises:
        TercelError: an entry without what it needs, another number of points than the truth has names, see `grouped`.
    """
    with common.collector_paused():
        results = read_json(path)

    def where(i: int) -> str:
        return f"{path}[{i}] (image_id {results[i].get('image_id')!r})"

    lookup, classes = Lookup(truth), _category_table(truth, ledger)
    try:
        oriented = obb_json.is_oriented(results)
        posed = not oriented and any("keypoints" in r for r in results)
        names = [r["image_id"] for r in results]
        owner = np.array([lookup.index.get(n, -1) for n in names], np.int64)
        labels = np.array([classes.get(r["category_id"], -1) for r in results], np.int64)
        scores = np.array([r["score"] for r in results], np.float64)
        hulls = oriented or (posed and any("bbox" not in r for r in results))
        xywh = np.zeros((len(results), 4)) if hulls else np.array([r["bbox"] for r in results], np.float64)
        if len(results) and (xywh.shape != (len(results), 4) or (posed and not all(r["keypoints"] for r in results))):
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
    if posed:
        k = len(truth.schema.keypoints) or len(results[0]["keypoints"]) // 3
        table = coco_points.triples(results, k, where)
        points, sure = table[..., :2], table[..., 2]
        d = dataclasses.replace(d, points=points, point_scores=_probabilities(sure, path, ledger))
        d = dataclasses.replace(d, boxes=all_hull(points)) if hulls else d
    return grouped(truth, d)


def write_results(path: Path, dataset: Dataset, items: Iterable[tuple[str, Objects]], *, replace: bool = False) -> None:
    """A COCO result list of what was predicted on `dataset`, of (record id, Objects); its image and category ids.

    Raises:
        TercelError: the file exists and `replace` is False, an id that the data set does not have, no scores.
    """
    if path.exists() and not replace:
        raise TercelError(f"{path} exists already", "choose another name")
    categories = dataset.schema.category_ids or tuple(range(1, len(dataset.schema.classes) + 1))
    numbers = dict(zip((r.id for r in dataset.records), coco.image_ids(dataset.records), strict=True))
    results: list[dict[str, Any]] = []
    for id_, o in items:
        if id_ not in numbers:
            raise TercelError(f"{path}: {dataset.source} has no picture {id_!r}", "predict on this data set")
        if o.scores is None:
            raise TercelError(f"{path}: the predictions for {id_!r} have no scores", "predictions carry scores")
        xyxy = o.boxes.astype(np.float64)
        xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1).tolist()
        more = [a | b for a, b in zip(obb_json.keys_of(o), coco_points.result_keys(o), strict=True)]
        for label, box, score, others in zip(o.labels.tolist(), xywh, o.scores.tolist(), more, strict=True):
            place = {"image_id": numbers[id_], "category_id": categories[label], "bbox": box, "score": score}
            results.append(place | others)
    write_atomic(path, json.dumps(results, allow_nan=False) + "\n")


def _probabilities(sure: NDArray[np.float64], path: Path, ledger: Ledger) -> NDArray[np.float64] | None:
    if ((sure >= 0) & (sure <= 1)).all():
        return sure
    message = "the third numbers of keypoints are no probabilities: nothing is known of how sure single points are"
    ledger.add("predictions.point_scores", Severity.INFO, message, str(path))
    return None


def _first_bad(path: Path, results: Any) -> TercelError:
    if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
        i = next((i for i, r in enumerate(results) if not isinstance(r, dict)), 0)
        return TercelError(f"{path}[{i}]: not a JSON object", _NEEDS)
    oriented, posed = obb_json.is_oriented(results), any("keypoints" in r for r in results)
    place = () if oriented else ("keypoints",) if posed else ("bbox",)
    for i, r in enumerate(results):
        for key in ("image_id", "category_id", *place, "score"):
            if key not in r:
                return TercelError(f"{path}[{i}]: has no {key!r}", _NEEDS)
        numbers = r["bbox"] if isinstance(r.get("bbox"), list) else []
        boxed = place == ("bbox",) or (posed and "bbox" in r)
        if (boxed and len(numbers) != 4) or not all(isinstance(x, int | float) for x in [*numbers, r["score"]]):
            return TercelError(f"{path}[{i}]: bbox is x y width height and score a number", "correct the result")
        if not isinstance(r["image_id"], int | str) or not isinstance(r["category_id"], int):
            return TercelError(f"{path}[{i}]: image_id and category_id are ids", "correct the result")
        if posed and not r["keypoints"]:
            return TercelError(f"{path}[{i}]: keypoints is empty", "a result has x y c of every point")
    return TercelError(f"{path}: not a COCO result list", _NEEDS)


def _category_table(truth: Dataset, ledger: Ledger) -> dict[int, int]:
    ids = truth.schema.category_ids
    if not ids:
        ids = tuple(range(1, len(truth.schema.classes) + 1))
        message = "the truth has no category ids: 1..C in the order of its classes were assumed for the results"
        ledger.add("predictions.category_ids", Severity.INFO, message, truth.source)
    return {c: i for i, c in enumerate(ids)}
