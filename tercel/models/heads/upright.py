"""What heads of axis-aligned boxes share: truth as flat arrays, ignored regions, and the way from scores to answers.

Shape legend: B pictures, A priors, C classes, M truths of the batch, I ignored regions, 4 = (x1, y1, x2, y2) in px.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from tercel.config import Evaluate
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.models.assign import Assignment, Truths
from tercel.models.suppress import select

ROWS = 256  # truths whose overlaps with all others are looked at in one go: bounds memory, never changes the result


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


_NONE = torch.zeros(0, dtype=torch.long)
NOBODY = Assignment(_NONE, _NONE, _NONE, _NONE.float())
"""No positives."""


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


class Neighbours(NamedTuple):
    """Of each truth the one of its picture and class that overlaps it most."""

    iou: Tensor  # f32 [M]; 0 where none overlaps it
    truth: Tensor  # i64 [M]; -1 where none overlaps it


@torch.no_grad()
def neighbours(truths: Truths) -> Neighbours:
    """How crowded each truth is (Liu et al. 2019, "Adaptive NMS", section 3.2: its density is this IoU), and by whom.

    ROWS truths are looked at in one go, so memory grows with the truths of a picture, not with their pairs.
    """
    count = len(truths.image)
    found = Neighbours(truths.boxes.new_zeros(count), truths.image.new_full((count,), -1))
    for image in truths.image.unique().tolist():
        of_picture = torch.nonzero(truths.image == image)[:, 0]
        for rows in of_picture.split(ROWS):
            iou = box_iou(truths.boxes[rows], truths.boxes[of_picture]).nan_to_num_(0.0)  # two boxes without area: 0/0
            iou[truths.labels[rows, None] != truths.labels[of_picture]] = 0
            iou[rows[:, None] == of_picture] = 0
            best = iou.max(1)
            found.iou[rows] = best.values
            found.truth[rows] = torch.where(best.values > 0, of_picture[best.indices], -1)
    return found


class Kept(NamedTuple):
    """Detections of one picture, best first."""

    prior: Tensor  # i64 [N]
    label: Tensor  # i64 [N]
    boxes: Tensor  # f32 [N,4] px, inside the canvas; fused ones are means, and `prior` is that of the best of them
    scores: Tensor  # f32 [N]
    capped: bool  # whether a cap was reached


@torch.no_grad()
def keep_boxes(
    scores: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    settings: Evaluate,
    density: Tensor | None = None,
    proposal: Tensor | None = None,
) -> list[Kept]:
    """What stays of each picture after the score floor and the suppression that `settings.suppress` names.

    Args:
        scores: [B,A,C] in 0..1.
        boxes: [B,A,4]; they are cut at the canvas, and those without area left out.
        density: [B,A] in 0..1, for `adaptive`: the greatest IoU of a box's object with another object.
        proposal: i64 [A], for `set`: which proposal a box is one of.
    """
    h, w = size
    boxes = boxes.clamp(min=0).minimum(torch.tensor([w, h, w, h], device=boxes.device, dtype=boxes.dtype))
    out = []
    for i, (s, b) in enumerate(zip(scores, boxes, strict=True)):
        prior, label = torch.nonzero(s > settings.score_floor, as_tuple=True)
        solid = (b[prior, 2:] > b[prior, :2]).all(-1)
        prior, label = prior[solid], label[solid]
        crowd = None if density is None else density[i, prior]
        source = None if proposal is None else proposal[prior]
        some = select(b[prior], s[prior, label], label, settings, crowd, source)
        out.append(Kept(prior[some.keep], label[some.keep], some.boxes, some.scores, some.cut))
    return out


def decode_boxes(
    scores: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    settings: Evaluate,
    density: Tensor | None = None,
    proposal: Tensor | None = None,
) -> tuple[list[Objects], list[bool]]:
    """Detections on the network canvas per picture, best first, and whether a cap was reached (see `keep_boxes`)."""
    kept = keep_boxes(scores, boxes, size, settings, density, proposal)
    found = [Objects(size, k.label.cpu().numpy(), k.boxes.cpu().numpy(), scores=k.scores.cpu().numpy()) for k in kept]
    return found, [k.capped for k in kept]
