"""Suppression of a network's boxes with the caps said aloud: greedy by torchvision, the other ways by `core/suppress`.

Shape legend: N boxes of one picture, K that stay, 4 = (x1, y1, x2, y2) in px.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from tercel.config import Evaluate
from tercel.core.finding import Finding, Severity, TercelError
from tercel.core.suppress import DISTINCT, survivors


class Selected(NamedTuple):
    """What stays of a picture, best first."""

    keep: Tensor  # i64 [K] indices of the input
    boxes: Tensor  # f32 [K,4]; with `fusion` means of several
    scores: Tensor  # f32 [K]; with `soft_linear` and `soft_gaussian` less than in the input
    cut: bool  # whether a cap left something out


@torch.no_grad()
def select(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    settings: Evaluate,
    density: Tensor | None = None,
    proposal: Tensor | None = None,
) -> Selected:
    """Suppression as `settings.suppress` names it; caps as in `suppress`. Boxes of different labels never meet, unless
    `settings.class_agnostic`.

    Args:
        boxes: [N,4].
        scores: [N].
        labels: [N] class ids >= 0.
        density: [N] in 0..1, what `adaptive` goes by: the greatest IoU of each box's object with another object. None:
            guessed from the boxes.
        proposal: i64 [N], which proposal a box is one of: with `set` boxes of one proposal never remove one another.
            None: each is its own.

    Raises:
        TercelError: as `suppress` and `core.suppress.survivors`.
    """
    caps = {"max_detections": settings.max_detections, "max_candidates": settings.max_candidates}
    if settings.suppress == "greedy":
        keep, cut = suppress(
            boxes, scores, labels, iou=settings.suppress_iou, class_agnostic=settings.class_agnostic, **caps
        )
        return Selected(keep, boxes[keep], scores[keep], cut)
    order = _candidates(boxes, scores, labels, **caps)

    def array(x: Tensor) -> Any:
        return x[order].cpu().numpy()

    found = survivors(
        settings.suppress,
        array(boxes),
        array(scores),
        settings.suppress_iou,
        None if settings.class_agnostic else array(labels),
        sigma=settings.soft_sigma,
        floor=settings.score_floor,
        density=None if density is None else array(density),
        proposal=None if proposal is None else array(proposal),
    )
    cut = len(order) < len(scores) or len(found.keep) > settings.max_detections
    few = slice(settings.max_detections)
    return Selected(
        order[torch.from_numpy(found.keep[few]).to(order.device)],
        torch.from_numpy(found.boxes[few]).to(boxes),
        torch.from_numpy(found.scores[few]).to(scores),
        cut,
    )


def suppression_findings(settings: Evaluate, head: object) -> tuple[Finding, ...]:
    """What a user should know of the way of suppression that he chose for this head.

    A head that predicts how crowded its boxes are says `predicts_density = True`, one that gives several boxes per
    proposal `predicts_sets = True`; both then hand these to `keep_boxes`.
    """
    if settings.suppress == "adaptive" and not getattr(head, "predicts_density", False):
        text = (
            "suppression is adaptive, and the head predicts no density: it is guessed from how much detections that "
            f"score alike overlap, up to an IoU of {DISTINCT:g}; a head with a density branch knows better"
        )
        return (Finding("suppress.density", Severity.INFO, text),)
    if settings.suppress == "set" and not getattr(head, "predicts_sets", False):
        text = "suppression by sets is greedy here, for the head gives one box per proposal: use a head that gives more"
        return (Finding("suppress.set", Severity.WARNING, text),)
    return ()


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
    if not 0 <= iou <= 1:
        raise TercelError(f"suppress: iou {iou}", "iou lies in 0..1")
    order = _candidates(boxes, scores, labels, max_detections=max_detections, max_candidates=max_candidates)
    if len(order):
        apart = boxes[order].double()
        if not class_agnostic:
            apart = apart + (labels[order] * (apart.max() - apart.min() + 1))[:, None]
        rank = torch.arange(len(order), 0, -1, dtype=torch.float64, device=boxes.device)  # the order, ties settled
        order = order[nms(apart, rank, iou)]
    cut = len(boxes) > max_candidates or len(order) > max_detections
    return order[:max_detections], cut


def _candidates(boxes: Tensor, scores: Tensor, labels: Tensor, *, max_detections: int, max_candidates: int) -> Tensor:
    """Indices of the `max_candidates` best boxes, best first; of equal scores the lower index goes first."""
    count = len(boxes)
    if boxes.shape != (count, 4) or scores.shape != (count,) or labels.shape != (count,):
        raise TercelError(
            f"suppress: boxes {[*boxes.shape]}, scores {[*scores.shape]}, labels {[*labels.shape]}",
            "expected [N,4], [N], [N]",
        )
    if max_candidates < 1 or max_detections < 1:
        raise TercelError(
            f"suppress: max_detections {max_detections}, max_candidates {max_candidates}", "both caps are at least 1"
        )
    if not bool(boxes.isfinite().all() & scores.isfinite().all()):
        raise TercelError("suppress: a box or a score is not a finite number", "the network has diverged")
    return scores.argsort(descending=True, stable=True)[:max_candidates]
