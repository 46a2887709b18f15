"""Weighted boxes fusion: detections of several models, views or tiles of one picture become one set.

Solovyev, Wang and Gabruseva 2021, "Weighted boxes fusion: Ensembling boxes from different object detection models",
section 3, extended to oriented boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import TercelError
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.core.suppress import tables

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Confidence = Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"]
_FUSED = {"labels", "boxes", "ignore", "obbs", "heading", "headed", "area", "spread", "quality", "scores"}


def fuse(
    parts: Sequence[Objects],
    weights: Sequence[float] | None = None,
    iou: float = 0.55,
    *,
    confidence: Confidence = "avg",
    floor: float = 0.0,
) -> Objects:
    """The detections of all `parts`, those that show the same thing fused into one; best first.

    Within a class detections are taken by descending score times weight. Each joins the fused box with which its IoU
    is greatest, if that is above `iou`, else it starts one. A fused box is the mean of its members, weighted by score
    times weight, after each of them anew; what is the same in all parts comes back as it is. Oriented boxes are
    compared as such: the angle is the mean of 2 theta as vectors, and where two boxes lie more than 45 degrees apart
    (both nearly square) the length of the one is averaged with the width of the other. A heading is the mean of the
    headings that are known, and unknown where they cancel.

    With s the scores of the members, w the weights of their parts (n members), W those of all M parts, the score is

    * ``avg``: mean(s w) min(M, n) / sum(W): what few have seen counts less; at most 1;
    * ``max``: max(s w) / max(W);
    * ``box_and_model_avg``: sum(s w) / sum(w), times the weights of the parts that have members / sum(W);
    * ``absent_model_aware_avg``: sum(s w) / (sum(w) + the weights of the parts without member).

    The columns of the result are labels, boxes, ignore, scores, and obbs, heading and spread where the parts have them.
    A spread is that of the member with the greatest score times weight: views of one picture err alike, so more of them
    do not narrow it. An annotated area is left out, for it is not that of the fused box.

    Args:
        parts: predictions on one canvas, one part per model or view; a part without rows counts as one that saw
            nothing.
        weights: one per part, >= 0, not all 0; None: all 1.
        iou: 0..1.
        confidence: how a fused score is made.
        floor: detections whose score is below it are left out.

    Raises:
        TercelError: no parts, parts that differ in canvas or geometry, parts without scores, weights or an IoU out of
            range, columns that cannot be fused (points, tracks, frames, ignore).
    """
    share = _checked(parts, weights, iou, confidence)
    filled = [p for p in parts if len(p)]
    if not filled:
        return parts[0]
    part = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    every = Objects.concat([_plain(p) for p in filled])
    chosen = np.flatnonzero(_scores(every) >= floor)
    every, part = every[chosen], part[chosen]
    rank = _scores(every) * share[part]
    order = np.lexsort((-rank, every.labels))
    every, part, rank = every[order], part[order], rank[order]
    return _result(every, part, rank, share, iou, confidence)


def _result(every: Objects, part: I64, rank: F64, share: F64, iou: float, confidence: Confidence) -> Objects:
    from tercel.core import rotated_kernels as kernels

    geometry = np.asarray(every.boxes if every.obbs is None else every.obbs, dtype=np.float64)
    cluster, fused = kernels.fuse(geometry, tables(geometry)[0], rank, every.labels, float(iou))
    scores = _confidence(cluster, part, rank, share, len(fused), confidence)
    first = np.unique(cluster, return_index=True)[1]
    best = np.argsort(-scores, kind="stable")
    columns: dict[str, NDArray] = {"labels": every.labels[first], "scores": scores.astype(np.float32)}
    if every.obbs is None:
        columns["boxes"] = fused.astype(np.float32)
    else:
        columns["obbs"] = canonical_obb(fused.astype(np.float32))
        columns["boxes"] = obb_hull(columns["obbs"])
    if every.spread is not None:
        swapped = fused[:, 3] > fused[:, 2] if every.obbs is not None else np.zeros(len(fused), np.bool_)
        spread = every.spread[first]
        columns["spread"] = np.where(swapped[:, None], spread[:, [0, 1, 3, 2]], spread)
    if every.quality is not None:
        columns["quality"] = every.quality[first]  # of the best member
    if every.heading is not None and every.headed is not None:
        columns |= _headings(every.heading, every.headed, cluster, rank, len(fused))
    return Objects(every.size, **{name: column[best] for name, column in columns.items()})


def _confidence(cluster: I64, part: I64, rank: F64, share: F64, count: int, confidence: Confidence) -> F64:
    """Scores f64 [K] of the fused boxes, from score times weight [N], clusters [N] and parts [N] of the members."""
    members, whole = np.bincount(cluster, minlength=count), float(share.sum())
    total = np.bincount(cluster, weights=rank, minlength=count).astype(np.float64)
    if confidence == "max":
        total = np.zeros(count)
        np.maximum.at(total, cluster, rank)
        total /= share.max()
    elif confidence == "avg":
        total *= np.minimum(members, len(share)) / members / whole
    else:
        weight = np.bincount(cluster, weights=share[part], minlength=count)
        seen = np.zeros((count, len(share)), np.bool_)
        seen[cluster, part] = True
        present = seen @ share
        if confidence == "box_and_model_avg":
            total *= np.divide(present, weight, out=np.zeros(count), where=weight > 0) / whole
        else:
            total /= weight + whole - present
    return np.minimum(total, 1.0)


def _headings(heading: NDArray, headed: NDArray, cluster: I64, rank: F64, count: int) -> dict[str, NDArray]:
    """Mean heading f32 [K] of the members whose front is known, and whether there is one, bool [K]."""
    weight = rank * headed
    # Turned back by the first known heading of each cluster: equal headings then stay as they are to the last bit.
    known = np.flatnonzero(headed)
    base = np.zeros(count)
    base[cluster[known[::-1]]] = heading[known[::-1]]
    turn = heading - base[cluster]
    x = np.bincount(cluster, weights=weight * np.cos(turn), minlength=count)
    y = np.bincount(cluster, weights=weight * np.sin(turn), minlength=count)
    found = np.hypot(x, y) > 1e-6 * np.bincount(cluster, weights=weight, minlength=count)
    mean = base + np.arctan2(y, x)
    mean = np.where(np.abs(mean) > np.pi, np.arctan2(np.sin(mean), np.cos(mean)), mean)
    return {"heading": np.where(found, mean, 0).astype(np.float32), "headed": found}


def _checked(parts: Sequence[Objects], weights: Sequence[float] | None, iou: float, confidence: Confidence) -> F64:
    share = np.ones(len(parts)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not parts or share.shape != (len(parts),) or not (np.isfinite(share) & (share >= 0)).all() or not share.any():
        raise TercelError(
            f"fusion of {len(parts)} parts with weights {share.tolist()}",
            "expected one weight >= 0 per part, not all 0",
        )
    if not 0 <= iou <= 1 or confidence not in ("avg", "max", "box_and_model_avg", "absent_model_aware_avg"):
        raise TercelError(
            f"fusion: IoU {iou}, confidence {confidence!r}",
            "the IoU lies in 0..1; confidence is avg, max, box_and_model_avg or absent_model_aware_avg",
        )
    filled = [p for p in parts if len(p)]
    kinds = {tuple(c for c in p.columns if c in ("obbs", "heading", "spread", "quality")) for p in filled}
    if len({p.size for p in parts}) > 1 or len(kinds) > 1:
        raise TercelError(
            "fusion: the parts differ in canvas, or only some have oriented boxes, headings, spreads or qualities",
            "move all to one canvas (Warp.objects), and give all the same columns",
        )
    for p in filled:
        odd = sorted(set(p.columns) - _FUSED) + (["ignore"] if p.ignore.any() else [])
        if p.scores is None or odd:
            raise TercelError(
                f"fusion: a part has columns {', '.join(p.columns)}",
                f"only predictions are fused, without {', '.join(odd)}" if odd else "predictions have scores",
            )
    return share


def _plain(part: Objects) -> Objects:
    return part if part.area is None else part.replace(area=None)


def _scores(part: Objects) -> F64:
    return np.asarray(part.scores, dtype=np.float64)
