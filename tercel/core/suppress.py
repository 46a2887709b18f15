"""Suppression of boxes that show the same thing, in seven ways, for boxes and for oriented boxes.

What `models/suppress.py` does with tensors while a network decodes, this does with arrays; oriented boxes have only
this one. Boxes are f32 or f64 [N,4] (x1 y1 x2 y2) or [N,5] (cx cy length width theta): the last dimension tells.
`survivors` takes the way by its name, as `Evaluate.suppress` says it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercel.core.finding import TercelError
from tercel.core.geometry import obb_hull
from tercel.core.rotated import F64, checked, table

I64 = NDArray[np.int64]
Method = Literal["greedy", "soft_linear", "soft_gaussian", "diou", "adaptive", "set", "fusion", "none"]
# What tells another person from a second box of the same one, where no network says how crowded a place is: the two
# overlap by no more than this, and score alike. A guess; copies that score nearly as much as their box defeat it.
DISTINCT = 0.8  # IoU
RIVAL = 0.5  # share of the box's own score


class Survivors(NamedTuple):
    """What stays, best first."""

    keep: I64  # [K] indices of the input
    scores: F64  # [K]; less than in the input where suppression is soft
    boxes: F64  # [K,4] or [K,5]; means of several where boxes are fused, whose length may then be less than the width


def survivors(
    method: Method,
    boxes: ArrayLike,
    scores: ArrayLike,
    iou: float,
    labels: ArrayLike | None = None,
    *,
    sigma: float = 0.5,
    floor: float = 0.001,
    density: ArrayLike | None = None,
    proposal: ArrayLike | None = None,
) -> Survivors:
    """Suppression by its name: `greedy`, `soft`, `diou`, `adaptive`, `set_nms`, `fusion` of this module, or none.

    Args:
        boxes: [N,4] or [N,5].
        scores: [N].
        iou: 0..1. `soft_gaussian` and `none` do not use it.
        labels: [N] whole numbers; only boxes of the same label meet. None: all do.
        sigma: of `soft_gaussian`.
        floor: of both soft ways: what falls to it is dropped.
        density: [N] of `adaptive`; None: `crowding` estimates it from the boxes.
        proposal: [N] of `set`; None: each box is its own, and `set` is `greedy`.

    Raises:
        TercelError: as these; a method with another name.
    """
    x = _Input(boxes, scores, iou, labels)
    if method in ("soft_linear", "soft_gaussian"):
        kind: Literal["linear", "gaussian"] = "linear" if method == "soft_linear" else "gaussian"
        keep, final = soft(boxes, scores, kind, sigma=sigma, iou=iou, floor=floor, labels=labels)
        return Survivors(keep, final, x.boxes[keep])
    if method == "fusion":
        keep, fused = fusion(boxes, scores, iou, labels)
        return Survivors(keep, x.scores[keep], fused)
    if method == "greedy" or (method == "set" and proposal is None):
        keep = greedy(boxes, scores, iou, labels)
    elif method == "set":
        assert proposal is not None
        keep = set_nms(boxes, scores, proposal, iou, labels)
    elif method == "diou":
        keep = diou(boxes, scores, iou, labels)
    elif method == "adaptive":
        keep = adaptive(boxes, scores, iou, density, labels)
    elif method == "none":
        keep = np.argsort(-x.scores, kind="stable")
    else:
        raise TercelError(f"suppression {method!r} is not known", f"it is one of {', '.join(get_args(Method))}")
    return Survivors(keep, x.scores[keep], x.boxes[keep])


def greedy(boxes: ArrayLike, scores: ArrayLike, iou: float, labels: ArrayLike | None = None) -> I64:
    """Indices i64 of the boxes that stay, best first.

    The best box stays and removes all whose IoU with it is strictly greater than `iou`; then the best of the rest, and
    so on. Of equal scores the lower index goes first. A box without area neither removes nor is removed.

    Args:
        boxes: [N,4] or [N,5].
        scores: [N].
        iou: 0 removes all that overlap, 1 removes nothing.
        labels: [N] whole numbers; only boxes of the same label remove one another. None: all do.

    Raises:
        TercelError: shapes that do not fit, an IoU outside 0..1, values that are not finite.
    """
    return _Input(boxes, scores, iou, labels).greedy()


def set_nms(
    boxes: ArrayLike, scores: ArrayLike, proposal: ArrayLike, iou: float, labels: ArrayLike | None = None
) -> I64:
    """As `greedy`, but boxes of the same proposal [N] never remove one another. Indices i64, best first.

    Set NMS of Chu et al. 2020, "Detection in Crowded Scenes: One Proposal, Multiple Predictions", section 3.
    """
    found = _Input(boxes, scores, iou, labels)
    return found.greedy(source=_whole("proposal", proposal, len(found.scores)))


def diou(boxes: ArrayLike, scores: ArrayLike, iou: float, labels: ArrayLike | None = None) -> I64:
    """As `greedy`, by the distance IoU: boxes whose centres lie apart may overlap more. Indices i64, best first.

    IoU - d^2 / c^2, with d the distance of the centres and c the diagonal of the upright hull around both boxes, in
    place of IoU (Zheng et al. 2020, "Distance-IoU loss", section 3.4). It is never above the IoU, and below 0 where
    boxes hardly touch: at `iou` 0 these stay.
    """
    return _Input(boxes, scores, iou, labels).greedy(centred=True)


def adaptive(
    boxes: ArrayLike,
    scores: ArrayLike,
    iou: float,
    density: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> I64:
    """As `greedy`, more lenient in a crowd: around a kept box goes what overlaps it by more than max(iou, its density).

    The density [N] in 0..1 of a box is the greatest IoU of its object with another object. None: as `crowding` guesses
    it. Indices i64, best first. Liu et al. 2019, "Adaptive NMS: Refining pedestrian detection in a crowd", section 3.2
    (who also remove what overlaps by exactly that much).
    """
    found = _Input(boxes, scores, iou, labels)
    crowd = found.crowding() if density is None else np.asarray(density, dtype=np.float64)
    if crowd.shape != found.scores.shape or not ((crowd >= 0) & (crowd <= 1)).all():
        raise TercelError(
            f"suppression: density {[*crowd.shape]} of {len(found.scores)} boxes", "expected one in 0..1 for each box"
        )
    return found.greedy(limit=np.maximum(crowd, iou))


def crowding(boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike | None = None) -> F64:
    """Density f64 [N] of each box in 0..1, guessed from the boxes: its greatest IoU with one that shows another object.

    Those are the boxes that stay when suppressed at an IoU of `DISTINCT`, and have at least `RIVAL` of its score.
    """
    return _Input(boxes, scores, 1.0, labels).crowding()


def fusion(
    boxes: ArrayLike, scores: ArrayLike, iou: float, labels: ArrayLike | None = None
) -> tuple[I64, NDArray[np.float64]]:
    """Weighted fusion of one network's boxes: indices i64 [K] of the best of each cluster, and fused boxes, best first.

    As `fusion.fuse` does it among models (weighted boxes fusion, Solovyev et al. 2021): by descending score, each box
    joins the fused box that it overlaps most, if by more than `iou`, else it starts one; a fused box is the mean of its
    members weighted by score. Its score is its best member's: with a single network the mean would say less the more
    often a thing was found.
    """
    from tercel.core import rotated_kernels as kernels

    x = _Input(boxes, scores, iou, labels)
    if (x.scores < 0).any():
        raise TercelError("fusion: a score is below 0", "scores are the weights of the mean: give probabilities")
    order = np.lexsort((-x.scores, x.group))  # stable: of equal scores the lower index goes first
    cluster, fused = kernels.fuse(x.boxes[order], x.table[order], x.scores[order], x.group[order], float(iou))
    keep = order[np.unique(cluster, return_index=True)[1]]
    best = np.lexsort((keep, -x.scores[keep]))
    return keep[best], fused[best]


def soft(
    boxes: ArrayLike,
    scores: ArrayLike,
    method: Literal["gaussian", "linear"] = "gaussian",
    *,
    sigma: float = 0.5,
    iou: float = 0.3,
    floor: float = 0.001,
    labels: ArrayLike | None = None,
) -> tuple[I64, F64]:
    """Soft NMS (Bodla et al. 2017): neighbours of a better box lose score instead of being removed.

    The box of the highest current score is taken; the scores of the others are multiplied by exp(-IoU^2 / sigma), or
    by 1 - IoU where IoU > `iou`; then the next. Of equal scores the lower index goes first.

    Args:
        boxes: [N,4] or [N,5].
        scores: [N].
        sigma: width of the Gaussian; `linear` does not use it.
        iou: from where the linear rule acts; `gaussian` does not use it.
        floor: boxes whose score is not above it are dropped, at once and after each step.
        labels: as in `greedy`.

    Returns:
        Indices i64 [K] and their new scores f64 [K], best first.

    Raises:
        TercelError: as `greedy`; a method with another name, sigma <= 0, a floor below 0.
    """
    from tercel.core import rotated_kernels as kernels

    if method not in ("gaussian", "linear") or not sigma > 0 or not floor >= 0:
        raise TercelError(
            f"soft NMS: method {method!r}, sigma {sigma}, floor {floor}",
            "the method is 'gaussian' or 'linear', sigma is above 0, the floor at least 0",
        )
    x = _Input(boxes, scores, iou, labels)
    keep, final = kernels.soft(x.table, x.hulls, x.scores.copy(), x.group, method == "gaussian", sigma, iou, floor)
    return keep, final


class _Input:
    """Checked arrays as the compiled loops want them."""

    def __init__(self, boxes: ArrayLike, scores: ArrayLike, iou: float, labels: ArrayLike | None) -> None:
        self.scores = np.ascontiguousarray(scores, dtype=np.float64)
        count = len(self.scores) if self.scores.ndim == 1 else -1
        self.table, self.hulls = tables(boxes)
        if len(self.table) != count:
            raise TercelError(
                f"suppression: boxes {[*np.shape(boxes)]}, scores {[*self.scores.shape]}", "expected [N,4 or 5] and [N]"
            )
        if not 0 <= iou <= 1:
            raise TercelError(f"suppression: IoU {iou}", "it lies in 0..1")
        if not np.isfinite(self.scores).all():
            raise TercelError("suppression: a score is not a finite number", "the network has diverged")
        self.iou = float(iou)
        array = np.ascontiguousarray(boxes, dtype=np.float64)
        self.boxes = array if array.ndim == 2 else array.reshape(0, 4)
        self.group = np.zeros(count, np.int64) if labels is None else _whole("labels", labels, count)

    def greedy(self, source: I64 | None = None, limit: F64 | None = None, centred: bool = False) -> I64:
        """Indices of the boxes that stay, best first; what the arguments mean, `rotated_kernels.greedy` says."""
        from tercel.core import rotated_kernels as kernels

        count = len(self.scores)
        by, levels, widths, hulls = _search(self.hulls)
        order = np.argsort(-self.scores, kind="stable")
        place = np.empty(count, np.int64)
        place[by] = np.arange(count)
        source = np.arange(count) if source is None else source
        limit = np.full(count, self.iou) if limit is None else limit
        alive = kernels.greedy(
            self.table[by], hulls[by], levels, widths, place[order], self.group[by], source[by], limit[by], centred
        )
        return order[alive[place[order]]]

    def crowding(self) -> F64:
        from tercel.core import rotated_kernels as kernels

        others = self.greedy(limit=np.full(len(self.scores), DISTINCT))
        return kernels.nearest(self.table, self.hulls, self.scores, self.group, others, RIVAL)


def tables(boxes: ArrayLike) -> tuple[F64, F64]:
    """What the compiled loops read, f64 [N,4 or 8], and the hulls f64 [N,4], of boxes [N,4] or [N,5].

    Raises:
        TercelError: another shape, a number that is not finite, a box with negative extent.
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim == 2 and array.shape[1] == 5:
        obbs = checked(array)
        return table(obbs), np.ascontiguousarray(obb_hull(obbs))
    if array.size == 0:
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise TercelError(f"boxes have shape {list(array.shape)}", "expected [N,4] or, if oriented, [N,5]")
    bad = ~np.isfinite(array).all(axis=1) | (array[:, 2:] < array[:, :2]).any(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise TercelError(f"box {i} is {array[i].tolist()}", "expected finite x1 y1 x2 y2 with x2 >= x1 and y2 >= y1")
    array = np.ascontiguousarray(array)
    return array, array


def _search(hulls: F64) -> tuple[I64, I64, F64, F64]:
    """Order i64 [N], levels i64 [K+1], widths f64 [K] and hulls as `rotated_kernels.greedy` wants them.

    The search runs along the axis on which boxes are the sparser. Levels double the width each, so that one wide box
    does not widen the search of all.
    """
    if not len(hulls):
        return np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0), hulls
    extent = hulls[:, 2:].max(axis=0) - hulls[:, :2].min(axis=0)
    size = (hulls[:, 2:] - hulls[:, :2]).mean(axis=0)
    if extent[1] * size[0] > extent[0] * size[1]:
        hulls = np.ascontiguousarray(hulls[:, [1, 0, 3, 2]])
    width = hulls[:, 2] - hulls[:, 0]
    level = np.frexp(width)[1]  # the power of two above it
    by = np.lexsort((hulls[:, 0], level))
    begins = np.flatnonzero(np.r_[True, np.diff(level[by]) != 0])
    return by, np.r_[begins, len(by)].astype(np.int64), np.maximum.reduceat(width[by], begins), hulls


def _whole(name: str, values: ArrayLike, count: int) -> I64:
    array = np.asarray(values)
    if array.shape != (count,) or (count and array.dtype.kind not in "iu"):
        raise TercelError(
            f"suppression: {name} {[*array.shape]} of {array.dtype}", f"expected {count} whole numbers: [{count}]"
        )
    return np.ascontiguousarray(array, dtype=np.int64)
