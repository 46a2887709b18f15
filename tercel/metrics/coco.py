"""hotcoco behind one function: the COCO protocol, in agreement with pycocotools to the last bit.

Shape legend: T overlap thresholds, P recalls, C classes, A size bins, M caps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import box_area
from tercel.metrics.match import SIZES, Floats, Pool


def evaluate(
    truth: Pool,
    pred: Pool,
    classes: int,
    *,
    ious: Sequence[float],
    caps: Sequence[int],
    steps: int = 100,
    sizes: Mapping[str, tuple[float, float]] = SIZES,
) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and score arrays of the COCO protocol; of points or oriented boxes if truth has them.

    Returns:
        precision [T,P,C,A,M] at P = steps + 1 recalls, recall [T,C,A,M], score [T,P,C,A,M] of the detection that
        reaches each recall. NaN = no truth counts; a recall that was never reached has precision 0 and score NaN.
    """
    import hotcoco  # here, because the rest of the package starts without it

    grid = np.linspace(0, 1, steps + 1)
    shape = (len(ious), len(grid), classes, len(sizes), len(caps))
    if truth.pictures == 0 or classes == 0:
        return np.full(shape, np.nan), np.full((shape[0], *shape[2:]), np.nan), np.full(shape, np.nan)
    frame = hotcoco.COCO({
        "images": [{"id": i + 1, "width": 1, "height": 1} for i in range(truth.pictures)],
        "categories": [{"id": c + 1, "name": str(c)} for c in range(classes)],
        "annotations": [],
    })  # fmt: skip
    gt, found = _loaded(frame, truth, pred)
    kind = "keypoints" if truth.points is not None else "bbox" if truth.obbs is None else "obb"
    ev = hotcoco.COCOeval(gt, found, kind)
    if truth.points is not None:
        ev.params.kpt_oks_sigmas = truth.points.sigmas.tolist()
    ev.params.max_dets, ev.params.iou_thrs, ev.params.rec_thrs = list(caps), list(ious), grid.tolist()
    ev.params.area_rng, ev.params.area_rng_lbl = [list(r) for r in sizes.values()], list(sizes)
    ev.evaluate()
    ev.accumulate()
    result: Any = ev.eval
    precision, recall, score = (np.array(result[k], np.float64) for k in ("precision", "recall", "scores"))
    for values in (precision, recall, score):
        values[values < 0] = np.nan
    score[(precision == 0) | np.isnan(precision)] = np.nan  # a recall that was never reached has no score
    return precision, recall, score


def _loaded(frame: Any, truth: Pool, pred: Pool) -> tuple[Any, Any]:
    """Both sides as hotcoco's data sets."""
    if truth.obbs is not None or truth.points is not None:
        import hotcoco

        empty = {"images": frame.dataset["images"], "categories": frame.dataset["categories"]}
        more = () if truth.points is None else ("bbox", "num_keypoints")
        annotations = [{"id": i + 1, **a} for i, a in enumerate(_annotations(truth, "area", "iscrowd", *more))]
        gt = hotcoco.COCO(empty | {"annotations": annotations})
        found = gt.load_res(_annotations(pred, "score"))
        found.update_anns(ids=np.arange(1, len(pred) + 1), area=pred.areas)
        return gt, found
    # Results are loaded from an array in a few ms, annotations from dictionaries in a few hundred: so truths enter as
    # results, and their annotated areas and crowd flags are set afterwards.
    gt = frame.load_res(_rows(truth))
    if len(truth):
        gt.update_anns(ids=np.arange(1, len(truth) + 1), area=truth.areas)
        gt.update_anns([{"id": int(i) + 1, "iscrowd": 1} for i in np.flatnonzero(truth.ignore)])
    found = gt.load_res(_rows(pred))
    if not np.array_equal(pred.areas, box_area(pred.boxes)):  # hulls of oriented boxes have another area than these
        found.update_anns(ids=np.arange(1, len(pred) + 1), area=pred.areas)
    return gt, found


def _annotations(pool: Pool, *more: str) -> list[dict[str, Any]]:
    """Oriented boxes or points as hotcoco's dictionaries, with the columns named. Results must not have `bbox`: hotcoco
    1.3 would then take their area from a polygon that it makes of it.
    """
    columns: dict[str, NDArray[Any]] = {"image_id": pool.picture + 1, "category_id": pool.labels + 1}
    columns |= {"area": pool.areas, "iscrowd": pool.ignore.astype(np.int64), "score": pool.scores}
    if pool.points is None:
        columns["obb"] = np.zeros((0, 5)) if pool.obbs is None else pool.obbs
    else:
        triples = np.concatenate([pool.points.xy, pool.points.visible[..., None]], axis=2)
        columns["keypoints"] = triples.reshape(len(pool), 3 * triples.shape[1])
        columns["num_keypoints"] = pool.points.labelled.sum(axis=1)
        columns["bbox"] = np.concatenate([pool.boxes[:, :2], pool.boxes[:, 2:] - pool.boxes[:, :2]], axis=1)
    keys = ("image_id", "category_id", "obb" if pool.points is None else "keypoints", *more)
    rows = zip(*(columns[k].tolist() for k in keys), strict=True)
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _rows(pool: Pool) -> Floats:
    """[N,7]: picture, x, y, w, h, score, class, the first and the last counted from 1."""
    low, wide = pool.boxes[:, :2], pool.boxes[:, 2:] - pool.boxes[:, :2]
    return np.column_stack([pool.picture + 1, low, wide, pool.scores, pool.labels + 1]).astype(np.float64)
