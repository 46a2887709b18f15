"""Dense anchor-free boxes on several maps: per prior C class logits and four distances as distributions over bins.

Shape legend: B pictures, A priors (all maps, finest first, row by row), C classes, 4 sides (left, top, right, bottom),
K bins, M truths of the batch, P positive (picture, prior) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tercel.config import BoxHead, Evaluate, TaskAligned
from tercel.config import Model as ModelConfig
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.models.assign import Priors, assign, starved
from tercel.models.heads.common import SURE, Loss, make_priors
from tercel.models.heads.dense import Towers
from tercel.models.heads.upright import BoxTargets, counted, decode_boxes, encode_boxes
from tercel.models.losses import CLASS_LOSSES, box_loss, dfl

# Distances start at -1 stride, so that a prior just outside a tiny box can still describe it.
FIRST_BIN = -1.0


class DenseRaw(NamedTuple):
    """What the network returns, in training and evaluation alike."""

    logits: Tensor  # [B,A,C]
    sides: Tensor  # [B,A,4,K]
    priors: Priors  # points [A,2] px, strides [A]
    size: tuple[int, int]  # network input (H, W)


class BoxNet(nn.Module):
    """The trainable part: class scores, and four distributions per prior."""

    def __init__(self, config: BoxHead, classes: int, width: int, strides: Sequence[int], model: ModelConfig) -> None:
        super().__init__()
        self.bins = config.bins
        self.towers = Towers(config, (classes, 4 * config.bins), width, strides, model)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> DenseRaw:
        logits, sides, priors = self.towers(maps)
        return DenseRaw(logits, sides.unflatten(2, (4, self.bins)), priors, size)


class DenseBoxes:
    """encode, loss, decode, ideal of the dense box head; `net` builds its forward."""

    def __init__(self, config: BoxHead, classes: int, strides: tuple[int, ...]) -> None:
        self.config, self.classes, self.strides = config, classes, strides

    def net(self, width: int, model: ModelConfig) -> BoxNet:
        return BoxNet(self.config, self.classes, width, self.strides, model)

    # -- truth ------------------------------------------------------------------------------------------------------

    def encode(self, objects: Sequence[Objects], events: Sequence[tuple[Event, ...]] | None = None) -> BoxTargets:
        """Truth of a batch as flat arrays. Ignored objects become regions; boxes know no events."""
        return encode_boxes(objects, self.classes)

    # -- boxes and bins ---------------------------------------------------------------------------------------------

    def boxes(self, raw: DenseRaw) -> Tensor:
        """Expected boxes [B,A,4] px, x1 y1 x2 y2: point -/+ stride * sum_k p_k (FIRST_BIN + k)."""
        bins = torch.arange(self.config.bins, device=raw.sides.device, dtype=torch.float32) + FIRST_BIN
        distance = (raw.sides.softmax(-1) @ bins) * raw.priors.strides[:, None]
        return torch.cat([raw.priors.points - distance[..., :2], raw.priors.points + distance[..., 2:]], -1)

    def bin_targets(self, boxes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Distances [P,4] in bin units, clamped to the range that the bins can express."""
        distance = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], 1) / strides[:, None]
        return (distance - FIRST_BIN).clamp(0, self.config.bins - 1 - 1e-3)

    # -- loss -------------------------------------------------------------------------------------------------------

    def loss(self, raw: DenseRaw, targets: BoxTargets) -> Loss:
        """Sums of the class, box and distribution losses over the assigned pairs.

        Task-aligned pairs weigh as much as their quality (TOOD), SimOTA's weigh 1 (YOLOX). The sum of these weights
        is the normaliser of all three, so easy negatives and empty pictures change neither the scale nor the sign.
        """
        c = self.config
        boxes = self.boxes(raw)
        a = assign(c.assigner, raw.logits.detach().sigmoid(), boxes.detach(), raw.priors, targets.truths)
        quality = torch.zeros_like(raw.logits)
        quality[a.image, a.prior, targets.truths.labels[a.truth]] = a.quality
        per_prior = CLASS_LOSSES[c.class_loss](raw.logits, quality).sum(-1)  # [B,A]
        per_prior = per_prior * counted(boxes.detach(), raw.priors.points, a, targets)
        share = a.quality if isinstance(c.assigner, TaskAligned) else torch.ones_like(a.quality)
        predicted, wanted = boxes[a.image, a.prior], targets.truths.boxes[a.truth]
        box = box_loss(c.box_loss, predicted, wanted) * share
        bins = self.bin_targets(wanted, raw.priors.points[a.prior], raw.priors.strides[a.prior])
        sides = dfl(raw.sides[a.image, a.prior], bins).mean(-1) * share
        sums = {
            "class": c.class_gain * per_prior.sum(),
            "box": c.box_gain * box.sum(),
            "dfl": c.dfl_gain * sides.sum(),
        }
        facts = {
            "truths": float(len(targets.truths.labels)),
            "positives": float(len(a.prior)),
            "starved": float(starved(a, targets.truths)),
        }
        return Loss(sums, share.sum(), facts)

    # -- answers ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(self, raw: DenseRaw, settings: Evaluate) -> tuple[list[Objects], list[bool]]:
        """Detections on the network canvas per picture, best first, and whether a cap was reached."""
        return decode_boxes(raw.logits.sigmoid(), self.boxes(raw), raw.size, settings)

    @torch.no_grad()
    def ideal(self, targets: BoxTargets, size: tuple[int, int]) -> DenseRaw:
        """The perfect output: each truth on a free prior that can express it, everything else a sure no without extent.

        Priors inside the truth come first, then those near its centre, as the assigners see it. A truth that no free
        prior can express is left out; the encode ceiling then shows it.
        """
        shapes = [(size[0] // s, size[1] // s) for s in self.strides]
        priors = make_priors(shapes, self.strides, torch.device("cpu"))
        n = len(priors.strides)
        logits = torch.full((targets.batch, n, self.classes), -SURE)
        sides = torch.zeros((targets.batch, n, 4, self.config.bins))
        sides[..., 0] = 2 * SURE  # distance -1 on all sides: no extent, no overlap with anything
        taken = torch.zeros((targets.batch, n), dtype=torch.bool)
        area = (targets.truths.boxes[:, 2:] - targets.truths.boxes[:, :2]).prod(-1)
        for m in area.argsort().tolist():  # small ones first: they have the fewest priors to choose from
            i, label, box = int(targets.truths.image[m]), int(targets.truths.labels[m]), targets.truths.boxes[m]
            distance = torch.cat([priors.points - box[:2], box[2:] - priors.points], 1) / priors.strides[:, None]
            bins = distance - FIRST_BIN
            fits = (bins >= 0).all(-1) & (bins <= self.config.bins - 1).all(-1) & ~taken[i]
            if not fits.any():
                continue
            offset = ((priors.points - (box[:2] + box[2:]) / 2) / priors.strides[:, None]).norm(dim=-1)
            offset = offset + 1e3 * (distance < 0).any(-1)
            p = int(torch.where(fits, offset, torch.inf).argmin())
            taken[i, p] = True
            logits[i, p, label] = SURE
            low = bins[p].floor().clamp(max=self.config.bins - 2).long()
            share = bins[p] - low
            sides[i, p] = -2 * SURE
            sides[i, p].scatter_(1, low[:, None], (1 - share).clamp(min=1e-9).log()[:, None])
            sides[i, p].scatter_(1, low[:, None] + 1, share.clamp(min=1e-9).log()[:, None])
        return DenseRaw(logits, sides, priors, size)
