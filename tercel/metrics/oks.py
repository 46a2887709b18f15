"""Object keypoint similarity (OKS): how near predicted points are to the true ones, from 0 to 1. NumPy only.

Shape legend: P pairs of a prediction and a truth, D predictions, G truths, N objects, K points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.core.objects import Objects

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

AT_ONCE = 2_000_000  # points in memory at once


@dataclass(frozen=True)
class Points:
    """The named points of a pool's objects.

    Attributes:
        xy: f64 [N,K,2] px. visible: u8 [N,K], see `Objects`; 0 = not labelled. sigmas: f64 [K], as COCO's.
    """

    xy: Floats
    visible: NDArray[np.uint8]
    sigmas: Floats

    @property
    def labelled(self) -> Bools:
        """bool [N,K]"""
        return self.visible > 0

    def take(self, rows: NDArray[np.integer]) -> Points:
        return Points(self.xy[rows], self.visible[rows], self.sigmas)

    @staticmethod
    def of(parts: Sequence[Objects], sigmas: Sequence[float]) -> Points:
        """All points of all objects.

        Raises:
            ValueError: objects without points, or with another number of them than there are sigmas.
        """
        k = len(sigmas)
        xy, visible = [np.zeros((0, k, 2))], [np.zeros((0, k), np.uint8)]
        for o in parts:
            if not len(o):
                continue
            if o.points is None or o.visible is None or o.points.shape[1] != k:
                has = "no" if o.points is None else o.points.shape[1]
                raise ValueError(f"objects with {has} points, but {k} sigmas")
            xy.append(o.points.astype(np.float64))
            visible.append(o.visible)
        return Points(np.concatenate(xy), np.concatenate(visible), np.asarray(sigmas, np.float64))


def oks_pairs(pred: Floats, truth: Points, areas: Floats, boxes: Floats) -> Floats:
    """OKS f64 [P] of predicted points [P,K,2] with the truths beside them.

    The mean over the truth's labelled points of exp(-d^2 / (2 area (2 sigma)^2)): COCO's k is 2 sigma, where sigma is
    the standard deviation of people's clicks as a share of the object's root area (https://cocodataset.org,
    keypoints-eval). Hidden points count like visible ones. A truth without any labelled point is, as in pycocotools,
    met by what lies within its box made three times as large; it never counts, and spares who finds it.

    Args:
        truth: P truths. areas: f64 [P] px^2 of the truths. boxes: f64 [P,4] of the truths.
    """
    out = np.zeros(len(pred))
    step = max(1, AT_ONCE // max(1, pred.shape[1]))
    for low in range(0, len(pred), step):
        at = slice(low, low + step)
        out[at] = _oks(pred[at], truth.xy[at], truth.labelled[at], truth.sigmas, areas[at], boxes[at])
    return out


def _oks(pred: Floats, xy: Floats, labelled: Bools, sigmas: Floats, areas: Floats, boxes: Floats) -> Floats:
    d = pred - xy
    none: Bools = ~np.any(labelled, axis=1)
    if none.any():
        low, wh = boxes[none, None, :2], boxes[none, None, 2:] - boxes[none, None, :2]
        d[none] = np.maximum(0, low - wh - pred[none]) + np.maximum(0, pred[none] - (low + 2 * wh))
    variance = (2 * sigmas) ** 2
    # The order of the divisions is pycocotools', so that both round alike.
    e = (d[..., 0] ** 2 + d[..., 1] ** 2) / variance / (areas[:, None] + np.spacing(1)) / 2
    count = labelled | none[:, None]
    near: Floats = np.where(count, np.exp(-e), 0).sum(axis=1) / count.sum(axis=1)
    return near


def oks_matrix(truth: Objects, pred: Objects, sigmas: Sequence[float]) -> Floats:
    """OKS f64 [D,G] of one picture's predictions with its truths; the areas are `Objects.areas`.

    Raises:
        ValueError: see `Points.of`.
    """
    t, p = Points.of([truth], sigmas), Points.of([pred], sigmas)
    d, g = (x.ravel() for x in np.meshgrid(np.arange(len(pred)), np.arange(len(truth)), indexing="ij"))
    areas, boxes = truth.areas.astype(np.float64), truth.boxes.astype(np.float64)
    return oks_pairs(p.xy[d], t.take(g), areas[g], boxes[g]).reshape(len(pred), len(truth))
