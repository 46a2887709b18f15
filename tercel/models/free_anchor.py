"""FreeAnchor: a loss over bags of priors, in place of an assignment.

Zhang et al. 2019, "FreeAnchor: Learning to Match Anchors for Visual Object Detection". Every truth has a bag: the
priors whose anchor (heads without: a box around the point) overlaps it most. The likelihood that a prior says it is

    x = p * exp(-place_weight * L)        p: probability of the truth's class, L: loss of the predicted box

and a bag costs -log of the mean-max of its likelihoods, sum of x / (1 - x) over sum of 1 / (1 - x): close to their mean
while all are small, so that all priors learn, and to their greatest once one of them is good. Priors are negatives as
far as they do not cover a truth: with b = (IoU - covered) / (the truth's best IoU - covered) within 0..1, the IoU being
that of the prediction, they cost (p (1 - b))^gamma * -log(1 - p (1 - b)). Beyond the published form, only priors near a
truth can cover it, those whose anchor has an IoU of at least NEAR with it: nothing grows with truths x priors.

Shape legend: B pictures, A priors, C classes, M truths, P pairs (truth, prior); px throughout.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tercel.config import FreeAnchor
from tercel.core.finding import TercelError
from tercel.models.assign_iou import overlaps_of
from tercel.models.candidates import Anchors, Assignment, Table, Truths
from tercel.models.losses import box_iou_pairs, full_precision, power

NEAR = 0.1
SURE = 1e-7  # 1 - x is at least this


class Bags(NamedTuple):
    """Truths and the priors near them, those of one truth together, the most overlapping one first."""

    truth: Tensor  # i64 [P]
    image: Tensor  # i64 [P]
    prior: Tensor  # i64 [P]
    inside: Tensor  # bool [P], in the truth's bag

    @property
    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """(truth, image, prior) of the bags."""
        return self.truth[self.inside], self.image[self.inside], self.prior[self.inside]


@torch.no_grad()
def bags_of(config: FreeAnchor, anchors: Anchors, truths: Truths) -> Bags:
    """The bags of the truths. Every truth has one, and a prior may be in several.

    Raises:
        TercelError: oriented truths.
    """
    if truths.obbs is not None:
        raise TercelError("FreeAnchor knows no oriented boxes", "use Atss for them")
    pairs, total = overlaps_of(anchors, truths, NEAR), len(anchors.boxes)
    order = pairs.truth.argsort(stable=True)
    truth, slot = pairs.truth[order], pairs.slot[order]
    inside = Table.of(truth).column < config.bag if len(truth) else torch.zeros_like(truth, dtype=torch.bool)
    return Bags(truth, slot // total, slot % total, inside)


def likelihoods(config: FreeAnchor, logits: Tensor, place: Tensor, bags: Bags, truths: Truths) -> Tensor:
    """log x [P] of the pairs in bags.

    Args:
        logits: [B,A,C].
        place: loss of the predicted boxes, >= 0, [P] of the pairs in bags.
    """
    truth, image, prior = bags.pairs
    return F.logsigmoid(logits[image, prior, truths.labels[truth]]) - config.place_weight * place


def free_anchor_loss(
    config: FreeAnchor, logits: Tensor, boxes: Tensor, place: Tensor, bags: Bags, truths: Truths, asked: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums over the bags, and over the priors as negatives; divided by the number of truths they are the paper's.

    Args:
        logits: [B,A,C].
        boxes: predictions [B,A,4].
        place: loss of the predicted boxes, >= 0, [P] of the pairs in bags.
        asked: f32 [B,A], 0 for priors that are no negatives (ignored regions).
    """
    with full_precision(logits):
        x = logits if logits.dtype == torch.float64 else logits.float()
        no, yes = F.logsigmoid(-x), F.logsigmoid(x)
        covered = _covered(config, x, boxes, bags, truths)
        log_no = torch.where(covered > 0, torch.logaddexp(no, yes + covered.clamp_min(SURE).log()), no).clamp_max(0)
        negatives = power(x.sigmoid() * (1 - covered), config.gamma) * -log_no
        background = (1 - config.alpha) / config.bag * (negatives.sum(-1) * asked).sum()
        if not len(bags.truth):
            return x.sum() * 0, background
        log_x = likelihoods(config, x, place, bags, truths)
        weight = -torch.log(-torch.expm1(log_x.clamp_max(-SURE)))  # -log(1 - x)
        table = Table.of(bags.pairs[0])
        best = (table.fill(log_x + weight, -torch.inf).logsumexp(1)) - table.fill(weight, -torch.inf).logsumexp(1)
        return config.alpha * -best.clamp_max(0).sum(), background


@torch.no_grad()
def _covered(config: FreeAnchor, logits: Tensor, boxes: Tensor, bags: Bags, truths: Truths) -> Tensor:
    """b [B,A,C] in 0..1: how far the predictions cover a truth, in the channel of its class."""
    iou = box_iou_pairs(boxes[bags.image, bags.prior], truths.boxes[bags.truth])
    best = iou.new_zeros(len(truths.image)).scatter_reduce_(0, bags.truth, iou, "amax")[bags.truth]
    share = ((iou - config.covered) / (best - config.covered).clamp_min(1e-6)).clamp(0, 1).to(logits.dtype)
    index = (bags.image * logits.shape[1] + bags.prior) * logits.shape[2] + truths.labels[bags.truth]
    return torch.zeros_like(logits).view(-1).scatter_reduce_(0, index, share, "amax").view(logits.shape)


@torch.no_grad()
def likeliest(log_x: Tensor, bags: Bags, priors: int) -> Assignment:
    """For drawings: of each bag the likeliest prior, quality x; of truths that share it the one of greater x."""
    truth, image, prior = bags.pairs
    slot = image * priors + prior
    order = log_x.argsort(descending=True, stable=True)
    for key in (truth, slot):  # the best of each truth, then the best of each prior
        order = order[key[order].argsort(stable=True)]
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = key[order][1:] != key[order][:-1]
        order = order[first]
        order = order[log_x[order].argsort(descending=True, stable=True)]
    order = order[slot[order].argsort()]
    return Assignment(image[order], prior[order], truth[order], log_x[order].exp())
