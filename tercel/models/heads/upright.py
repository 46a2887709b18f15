"""What heads of axis-aligned boxes share: truth as flat arrays, ignored regions, and the way from scores to answers.

Shape legend: B pictures, A priors, C classes, M truths of the batch, I ignored regions, 4 = (x1, y1, x2, y2) in px.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tercel.config import Evaluate
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.models.assign import Assignment, Truths
from tercel.models.suppress import suppress


class BoxTargets(NamedTuple):
    """Truth on the network canvas; lists of any length, nothing padded or cut."""

    truths: Truths
    ignore_image: Tensor  # i64 [I]
    ignore_boxes: Tensor  # f32 [I,4]
    batch: int

    def to(self, device: torch.device) -> BoxTargets:
        truths = self.truths.to(device)
        return BoxTargets(truths, self.ignore_image.to(device), self.ignore_boxes.to(device), self.batch)


def encode_boxes(objects: Sequence[Objects], classes: int) -> BoxTargets:
    """Truth of a batch as flat arrays. Ignored objects become regions; of oriented objects the hulls count.

    Raises:
        TercelError: a label beyond the classes.
    """
    image = np.concatenate([np.full(len(o), i) for i, o in enumerate(objects)]) if objects else np.zeros(0)
    labels = np.concatenate([o.labels for o in objects]) if objects else np.zeros(0)
    boxes = np.concatenate([o.boxes for o in objects]) if objects else np.zeros((0, 4))
    ignore = np.concatenate([o.ignore for o in objects]) if objects else np.zeros(0, bool)
    if len(labels) and labels.max() >= classes:
        raise TercelError(f"label {int(labels.max())} with {classes} classes", "do the classes fit the data?")

    def tensor(x: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(x), dtype=dtype)

    truths = Truths(
        tensor(image[~ignore], torch.int64), tensor(labels[~ignore], torch.int64), tensor(boxes[~ignore], torch.float32)
    )
    return BoxTargets(truths, tensor(image[ignore], torch.int64), tensor(boxes[ignore], torch.float32), len(objects))


def counted(boxes: Tensor, points: Tensor, positives: Assignment, targets: BoxTargets) -> Tensor:
    """f32 [B,A]: 0 for priors that see an ignored region (point or most of the predicted box in it), else 1.

    Args:
        boxes: predictions [B,A,4].
        points: [A,2], where the priors are.
    """
    weight = torch.ones(boxes.shape[:2], device=boxes.device)
    for i, region in zip(targets.ignore_image.tolist(), targets.ignore_boxes, strict=True):
        inside = ((points >= region[:2]) & (points <= region[2:])).all(-1)
        low, high = torch.maximum(boxes[i, :, :2], region[:2]), torch.minimum(boxes[i, :, 2:], region[2:])
        common = (high - low).clamp(min=0).prod(-1)
        area = (boxes[i, :, 2:] - boxes[i, :, :2]).clamp(min=1e-6).prod(-1)
        weight[i][inside | (common >= 0.5 * area)] = 0
    weight[positives.image, positives.prior] = 1  # a truth inside a crowd region still counts
    return weight


@torch.no_grad()
def decode_boxes(
    scores: Tensor, boxes: Tensor, size: tuple[int, int], settings: Evaluate
) -> tuple[list[Objects], list[bool]]:
    """Detections on the network canvas per picture, best first, and whether a cap was reached.

    Args:
        scores: [B,A,C] in 0..1.
        boxes: [B,A,4]; they are cut at the canvas, and those without area left out.
    """
    h, w = size
    boxes = boxes.clamp(min=0).minimum(torch.tensor([w, h, w, h], device=boxes.device, dtype=boxes.dtype))
    found, capped = [], []
    for s, b in zip(scores, boxes, strict=True):
        prior, label = torch.nonzero(s > settings.score_floor, as_tuple=True)
        score, box = s[prior, label], b[prior]
        solid = (box[:, 2:] > box[:, :2]).all(-1)
        score, box, label = score[solid], box[solid], label[solid]
        keep, cap = suppress(
            box,
            score,
            label,
            iou=settings.suppress_iou,
            class_agnostic=settings.class_agnostic,
            max_detections=settings.max_detections,
            max_candidates=settings.max_candidates,
        )
        found.append(
            Objects(size, label[keep].cpu().numpy(), box[keep].cpu().numpy(), scores=score[keep].cpu().numpy())
        )
        capped.append(cap)
    return found, capped
