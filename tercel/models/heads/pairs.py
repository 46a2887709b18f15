"""Two boxes per prior, for objects that hide each other (Chu et al. 2020, "Detection in Crowded Scenes: One Proposal,
Multiple Predictions", CrowdDet).

A prior that answers for a truth also says the one that overlaps it most, if it holds the prior's point and they overlap
enough; else its other box says no. Which of the two boxes says which truth is free: the loss is the lower one of both
ways round, the earth mover's distance of two sets of two. In `decode` boxes of one prior are one proposal, and set
suppression never lets them remove one another.

Published, the truths of a proposal are those it overlaps by at least .5 with its own box, the two most; heads without
proposals see that by the overlap of the truths, whatever the assigner.

Shape legend: as in boxes.py; N priors of the maps, A = 2 N of the raw output: all first boxes, then all second ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tercel.config import Atss, BoxHead, Fcos, MaxIou
from tercel.core.finding import TercelError
from tercel.models.assign import Assignment, Priors
from tercel.models.heads.boxes import DenseBoxes, DenseRaw
from tercel.models.heads.upright import BoxTargets, neighbours
from tercel.models.losses import CLASS_LOSSES, box_iou_pairs, box_loss

TOGETHER = 0.3  # IoU from which two truths are said by one prior; suppression starts to confuse them above


class PairedBoxes(DenseBoxes):
    """The dense box head with two boxes per prior; `config.pairs` chooses it.

    Raises:
        TercelError: an assigner that looks at predictions, of which a prior has two.
    """

    predicts_sets = True

    def __init__(self, config: BoxHead, classes: int, strides: tuple[int, ...]) -> None:
        super().__init__(config, classes, strides)
        if not isinstance(config.assigner, MaxIou | Atss | Fcos):
            raise TercelError(
                f"{type(config.assigner).__name__} chooses by predictions, and with pairs a prior has two",
                "set model.head.assigner to MaxIou, Atss or Fcos",
            )

    def assign(self, raw: DenseRaw, boxes: Tensor, targets: BoxTargets) -> Assignment:
        """Which boxes answer for which truths, the two of a prior so that they cost less than the other way round."""
        a, other = self.truths_of(targets, raw.priors)
        n = len(raw.priors.strides) // 2
        with torch.no_grad():
            straight, crossed = (
                self.cost(raw, boxes, targets, a.image, a.prior + own, a.truth)
                + self.cost(raw, boxes, targets, a.image, a.prior + n - own, other)
                for own in (0, n)
            )
        pairs = _laid_out(a, other, crossed < straight, n)
        iou = box_iou_pairs(boxes[pairs.image, pairs.prior].detach(), targets.truths.boxes[pairs.truth])
        return pairs._replace(quality=iou.clamp(0, 1))

    def truths_of(self, targets: BoxTargets, priors: Priors) -> tuple[Assignment, Tensor]:
        """The assigner's pairs of N priors and truths, and the other truth of each, i64 [P]; -1: none."""
        n = len(priors.strides) // 2
        a = super()._fixed(targets, Priors(priors.points[:n], priors.strides[:n]))
        assert a is not None
        near, point = neighbours(targets.truths), priors.points[a.prior]
        other = near.truth[a.truth]
        box = targets.truths.boxes[other]  # of -1 the last one, which is not looked at
        holds = ((point > box[:, :2]) & (point < box[:, 2:])).all(1)
        return a, torch.where(holds & (near.iou[a.truth] >= TOGETHER), other, -1)

    def cost(
        self, raw: DenseRaw, boxes: Tensor, targets: BoxTargets, image: Tensor, prior: Tensor, truth: Tensor
    ) -> Tensor:
        """What some boxes cost if they say these truths [P], or with -1 none: f32 [P]."""
        c, some = self.config, (truth >= 0).float()
        wanted, label = targets.truths.boxes[truth], targets.truths.labels[truth]
        quality = torch.zeros_like(raw.logits[image, prior])
        quality.scatter_(1, label[:, None], (box_iou_pairs(boxes[image, prior], wanted).clamp(0, 1) * some)[:, None])
        at = raw.priors.points[prior], raw.priors.strides[prior]
        place = c.box_gain * box_loss(c.box_loss, boxes[image, prior], wanted)
        place = place + self.dfl_gain * self.side_loss(raw.sides[image, prior], wanted, *at)
        return c.class_gain * CLASS_LOSSES[c.class_loss](raw.logits[image, prior], quality).sum(1) + place * some

    def proposals(self, raw: DenseRaw) -> Tensor:
        return torch.arange(raw.logits.shape[1] // 2, device=raw.logits.device).repeat(2)

    def priors(self, size: tuple[int, int]) -> Priors:
        points, strides = super().priors(size)
        return Priors(points.repeat(2, 1), strides.repeat(2))

    def _fixed(self, targets: BoxTargets, priors: Priors) -> Assignment:
        a, other = self.truths_of(targets, priors)
        return _laid_out(a, other, torch.zeros_like(other, dtype=torch.bool), len(priors.strides) // 2)


def _laid_out(a: Assignment, other: Tensor, crossed: Tensor, n: int) -> Assignment:
    """The pairs of all A boxes, of quality 1: a first box says the truth in `a`, a second one the other; crossed [P]:
    the other way round."""
    some = other >= 0
    image = torch.cat([a.image, a.image[some]])
    prior = torch.cat([a.prior + n * crossed, (a.prior + n * ~crossed)[some]])
    truth = torch.cat([a.truth, other[some]])
    order = (image * 2 * n + prior).argsort()
    between = None if a.between is None else a.between.repeat(1, 2)
    quality = torch.ones_like(truth, dtype=torch.float32)
    return Assignment(image[order], prior[order], truth[order], quality, between=between)
