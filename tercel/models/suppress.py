"""Greedy non-maximum suppression with the caps said aloud.

Shape legend: N boxes of one picture, 4 = (x1, y1, x2, y2) in px.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from tercel.core.finding import TercelError


@torch.no_grad()
def suppress(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    iou: float,
    class_agnostic: bool,
    max_detections: int,
    max_candidates: int,
) -> tuple[Tensor, bool]:
    """Indices of the boxes that stay, by descending score, and whether a cap cut something off.

    The best box stays and removes all boxes of its class (of every class if `class_agnostic`) whose IoU with it is
    strictly greater than `iou`; then the best of the rest, and so on. Of equal scores the lower index goes first. Only
    the `max_candidates` best boxes enter, and only the `max_detections` best of the result stay: the second value is
    True if either left boxes out, and the caller reports it.

    Classes are kept apart by shifting each to a region of its own, in float64: the same shift in float32 moves small
    boxes by a part of a pixel, and one by the greatest coordinate alone lets boxes at negative coordinates meet.

    Args:
        boxes: [N,4]; a box without area neither removes nor is removed.
        scores: [N].
        labels: [N] class ids >= 0.
        iou: 0 removes all that overlap, 1 removes nothing.

    Raises:
        TercelError: shapes that do not fit, caps below 1, an IoU outside 0..1, values that are not finite.
    """
    count = len(boxes)
    if boxes.shape != (count, 4) or scores.shape != (count,) or labels.shape != (count,):
        raise TercelError(
            f"suppress: boxes {[*boxes.shape]}, scores {[*scores.shape]}, labels {[*labels.shape]}",
            "expected [N,4], [N], [N]",
        )
    if max_candidates < 1 or max_detections < 1 or not 0 <= iou <= 1:
        raise TercelError(
            f"suppress: iou {iou}, max_detections {max_detections}, max_candidates {max_candidates}",
            "iou lies in 0..1, and both caps are at least 1",
        )
    order = scores.argsort(descending=True, stable=True)[:max_candidates]
    if not bool(boxes.isfinite().all() & scores.isfinite().all()):
        raise TercelError("suppress: a box or a score is not a finite number", "the network has diverged")
    if count:
        apart = boxes[order].double()
        if not class_agnostic:
            apart = apart + (labels[order] * (apart.max() - apart.min() + 1))[:, None]
        rank = torch.arange(len(order), 0, -1, dtype=torch.float64, device=boxes.device)  # the order, ties settled
        order = order[nms(apart, rank, iou)]
    cut = count > max_candidates or len(order) > max_detections
    return order[:max_detections], cut
