"""Dense anchor-free boxes on several maps: per prior C class logits and the distances to the four sides.

A distance is a distribution over bins (`dfl`, Li et al. 2020) or one number (`ltrb`, Tian et al. 2019). Theirs is
exp(x), which is never negative; here it is linear in strides, so that a prior beside a tiny truth can say it too. An
optional branch says how much the object of a prior overlaps another one (Liu et al. 2019, "Adaptive NMS").

Shape legend: B pictures, A priors (all maps, finest first, row by row; with `pairs` all of them twice), C classes, 4
sides (left, top, right, bottom), K bins (`ltrb`: 1), M truths of the batch, P positive (picture, prior) pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tercel.config import Atss, BoxHead, Evaluate, Fcos, FreeAnchor, MaxIou, TaskAligned
from tercel.config import Model as ModelConfig
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.models.assign import Assignment, Priors, assign, starved
from tercel.models.assign_iou import assign_by_iou
from tercel.models.candidates import boxes_around
from tercel.models.free_anchor import NEAR, Bags, bags_of, free_anchor_loss, likeliest, likelihoods
from tercel.models.heads.common import SURE, Loss, make_priors
from tercel.models.heads.dense import Towers
from tercel.models.heads.upright import NOBODY, BoxTargets, counted, decode_boxes, encode_boxes, neighbours
from tercel.models.losses import CLASS_LOSSES, box_loss, dfl, smooth_l1

# Distances start at -1 stride, so that a prior just outside a tiny box can still describe it.
FIRST_BIN = -1.0
START = 2.0  # strides: what an output of 0 says with `ltrb`, so that boxes begin with an extent
DENSITY_BETA = 0.1  # of the density's smooth L1, in units of IoU


class DenseRaw(NamedTuple):
    """What the network returns, in training and evaluation alike."""

    logits: Tensor  # [B,A,C]
    sides: Tensor  # [B,A,4,K]
    priors: Priors  # points [A,2] px, strides [A]
    size: tuple[int, int]  # network input (H, W)
    density: Tensor | None = None  # [B,A] logit of the IoU of its object with another one; None without that branch


class BoxNet(nn.Module):
    """The trainable part: class scores, distances and perhaps a density per prior; with `pairs` all of them twice."""

    def __init__(self, config: BoxHead, classes: int, width: int, strides: Sequence[int], model: ModelConfig) -> None:
        super().__init__()
        self.bins = config.bins if config.coder == "dfl" else 1
        self.sets, self.density = 1 + config.pairs, config.density
        channels = self.sets * classes, self.sets * (4 * self.bins + config.density)
        self.towers = Towers(config, channels, width, strides, model, config.shared)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> DenseRaw:
        logits, others, (points, steps) = self.towers(maps)
        priors = Priors(points.repeat(self.sets, 1), steps.repeat(self.sets))
        logits, others = self._apart(logits), self._apart(others)
        sides = others[..., : 4 * self.bins].unflatten(2, (4, self.bins))
        return DenseRaw(logits, sides, priors, size, others[..., -1] if self.density else None)

    def _apart(self, x: Tensor) -> Tensor:
        """[B,A,S*N] -> [B,S*A,N]: the first boxes of all priors, then the second ones."""
        sets: Tensor = x.unflatten(2, (self.sets, -1))
        return sets.transpose(1, 2).flatten(1, 2)


class DenseBoxes:
    """encode, loss, decode, ideal of the dense box head; `net` builds its forward.

    Raises:
        TercelError: a density branch with FreeAnchor, which names no priors that could learn it.
    """

    def __init__(self, config: BoxHead, classes: int, strides: tuple[int, ...]) -> None:
        if config.density and isinstance(config.assigner, FreeAnchor):
            raise TercelError(
                "the density branch learns from priors that answer for a truth, and FreeAnchor names none",
                "set model.head.density=false, or another assigner",
            )
        self.config, self.classes, self.strides = config, classes, strides
        self.predicts_density = config.density
        self.dfl_gain = config.dfl_gain if config.coder == "dfl" else 0.0

    def net(self, width: int, model: ModelConfig) -> BoxNet:
        return BoxNet(self.config, self.classes, width, self.strides, model)

    # -- truth ------------------------------------------------------------------------------------------------------

    def encode(self, objects: Sequence[Objects], events: Sequence[tuple[Event, ...]] | None = None) -> BoxTargets:
        """Truth of a batch as flat arrays. Ignored objects become regions; boxes know no events."""
        return encode_boxes(objects, self.classes)

    # -- boxes and distances ----------------------------------------------------------------------------------------

    def boxes(self, raw: DenseRaw) -> Tensor:
        """Boxes [B,A,4] px, x1 y1 x2 y2: point -/+ stride * distance."""
        distance = self.distances(raw.sides) * raw.priors.strides[:, None]
        return torch.cat([raw.priors.points - distance[..., :2], raw.priors.points + distance[..., 2:]], -1)

    def distances(self, sides: Tensor) -> Tensor:
        """Strides [...,4] that sides [...,4,K] say: START + x, or the mean sum_k p_k (FIRST_BIN + k)."""
        if self.config.coder == "ltrb":
            return sides[..., 0] + START
        return sides.softmax(-1) @ (torch.arange(sides.shape[-1], device=sides.device).float() + FIRST_BIN)

    def said(self, distance: Tensor) -> Tensor:
        """The inverse: sides [4,K] that say distances [4], the nearest that they can."""
        if self.config.coder == "ltrb":
            return distance[:, None] - START
        bins = (distance - FIRST_BIN).clamp(0, self.config.bins - 1)
        low = bins.floor().clamp(max=self.config.bins - 2).long()
        share = bins - low
        sides = torch.full((4, self.config.bins), -2 * SURE)
        sides.scatter_(1, low[:, None], (1 - share).clamp(min=1e-9).log()[:, None])
        return sides.scatter_(1, low[:, None] + 1, share.clamp(min=1e-9).log()[:, None])

    def side_loss(self, sides: Tensor, boxes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Distribution loss [P] of sides [P,4,K] for boxes [P,4]; distances beyond the bins count as the last one."""
        if self.config.coder == "ltrb":
            return sides.sum((1, 2)) * 0
        distance = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], 1) / strides[:, None]
        return dfl(sides, (distance - FIRST_BIN).clamp(0, self.config.bins - 1 - 1e-3)).mean(-1)

    # -- loss -------------------------------------------------------------------------------------------------------

    def loss(self, raw: DenseRaw, targets: BoxTargets) -> Loss:
        """Sums of the class, box, distribution and density losses over the assigned pairs.

        Task-aligned pairs weigh as much as their quality (TOOD), one-to-one shares out the quality of the one that
        answers, all others weigh 1 (YOLOX). The sum of these weights is the normaliser of all, so easy negatives and
        empty pictures change neither the scale nor the sign. Of FreeAnchor see `bag_loss`.
        """
        boxes = self.boxes(raw)
        if isinstance(self.config.assigner, FreeAnchor):
            return self.bag_loss(raw, boxes, targets)
        return self.assigned_loss(raw, boxes, self.assign(raw, boxes, targets), targets)

    def assign(self, raw: DenseRaw, boxes: Tensor, targets: BoxTargets) -> Assignment:
        """Which priors answer for which truths; of FreeAnchor's bags the likeliest ones."""
        c = self.config
        if isinstance(c.assigner, FreeAnchor):
            with torch.no_grad():
                bags = self.bags(raw.priors, targets)
                likely = likelihoods(
                    c.assigner, raw.logits, self.place(raw, boxes, bags, targets), bags, targets.truths
                )
                return likeliest(likely, bags, len(raw.priors.strides))
        scores = raw.logits.detach().sigmoid()
        return assign(self.config.assigner, scores, boxes.detach(), raw.priors, targets.truths)

    def share(self, a: Assignment) -> Tensor:
        """What each pair weighs in the loss, f32 [P]."""
        if a.share is not None:
            return a.share
        return a.quality if isinstance(self.config.assigner, TaskAligned) else torch.ones_like(a.quality)

    def assigned_loss(self, raw: DenseRaw, boxes: Tensor, a: Assignment, targets: BoxTargets) -> Loss:
        """`loss` of given pairs; `boxes` [B,A,4] are those of raw.

        Raises:
            TercelError: FreeAnchor, whose loss is not one of pairs.
        """
        c = self.config
        if isinstance(c.assigner, FreeAnchor):
            raise TercelError("FreeAnchor is a loss over bags, and this head needs pairs", "use another assigner")
        quality = torch.zeros_like(raw.logits)
        quality[a.image, a.prior, targets.truths.labels[a.truth]] = a.quality
        per_prior = CLASS_LOSSES[c.class_loss](raw.logits, quality).sum(-1)  # [B,A]
        per_prior = per_prior * counted(boxes.detach(), raw.priors.points, a, targets)
        if a.between is not None:
            per_prior = per_prior * ~a.between
        share = self.share(a)
        predicted, wanted = boxes[a.image, a.prior], targets.truths.boxes[a.truth]
        box = box_loss(c.box_loss, predicted, wanted) * share
        sums = {"class": c.class_gain * per_prior.sum(), "box": c.box_gain * box.sum()}
        if c.coder == "dfl":
            at = raw.priors.points[a.prior], raw.priors.strides[a.prior]
            sums["dfl"] = c.dfl_gain * (self.side_loss(raw.sides[a.image, a.prior], wanted, *at) * share).sum()
        if raw.density is not None:
            crowded = neighbours(targets.truths).iou[a.truth]
            density = smooth_l1(raw.density[a.image, a.prior].sigmoid(), crowded, DENSITY_BETA)
            sums["density"] = c.density_gain * (density * share).sum()
        facts = {
            "truths": float(len(targets.truths.labels)),
            "positives": float(len(a.prior)),
            "starved": float(starved(a, targets.truths)),
        }
        return Loss(sums, share.sum(), facts)

    # -- FreeAnchor -------------------------------------------------------------------------------------------------

    def bags(self, priors: Priors, targets: BoxTargets) -> Bags:
        c = self.config.assigner
        assert isinstance(c, FreeAnchor)
        return bags_of(c, boxes_around(priors, c.side, c.ratio), targets.truths)

    def place(self, raw: DenseRaw, boxes: Tensor, bags: Bags, targets: BoxTargets) -> Tensor:
        """Loss [P] >= 0 of the boxes in bags: the mean of box and distribution loss, weighted by their gains."""
        c, (truth, image, prior) = self.config, bags.pairs
        wanted = targets.truths.boxes[truth]
        sides = self.side_loss(raw.sides[image, prior], wanted, raw.priors.points[prior], raw.priors.strides[prior])
        box = box_loss(c.box_loss, boxes[image, prior], wanted)
        return (c.box_gain * box + self.dfl_gain * sides) / max(c.box_gain + self.dfl_gain, 1e-9)

    def bag_loss(self, raw: DenseRaw, boxes: Tensor, targets: BoxTargets) -> Loss:
        """FreeAnchor's loss (free_anchor.py); its normaliser is the number of truths. `class_gain` is its gain."""
        c, truths = self.config, targets.truths
        assert isinstance(c.assigner, FreeAnchor)
        bags = self.bags(raw.priors, targets)
        asked = counted(boxes.detach(), raw.priors.points, NOBODY, targets)
        place = self.place(raw, boxes, bags, targets)
        bag, background = free_anchor_loss(c.assigner, raw.logits, boxes.detach(), place, bags, truths, asked)
        facts = {"truths": float(len(truths.labels)), "positives": float(bags.inside.sum()), "starved": 0.0}
        weight = torch.tensor(float(len(truths.labels)), device=raw.logits.device)
        return Loss({"bags": c.class_gain * bag, "background": c.class_gain * background}, weight, facts)

    # -- answers ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(self, raw: DenseRaw, settings: Evaluate) -> tuple[list[Objects], list[bool]]:
        """Detections on the network canvas per picture, best first, and whether a cap was reached."""
        density = None if raw.density is None else raw.density.sigmoid()
        return decode_boxes(raw.logits.sigmoid(), self.boxes(raw), raw.size, settings, density, self.proposals(raw))

    def proposals(self, raw: DenseRaw) -> Tensor | None:
        """Which proposal each box is one of, i64 [A]; None: each is its own."""
        return None

    @torch.no_grad()
    def ideal(self, targets: BoxTargets, size: tuple[int, int]) -> DenseRaw:
        """The perfect output: each truth on the priors of `answering`, else a sure no without extent.

        The first prior of a truth says it the most surely.
        """
        priors, truths, c = self.priors(size), targets.truths, self.config
        shape = targets.batch, len(priors.strides)
        logits = torch.full((*shape, self.classes), -SURE)
        nothing = self.said(torch.full((4,), FIRST_BIN))  # distance -1 on all sides: no extent, no overlap
        sides = nothing.expand(*shape, *nothing.shape).clone()
        density = torch.full(shape, -SURE) if c.density else None
        crowded = neighbours(truths).iou
        said: set[int] = set()
        for m, p in self.answering(targets, priors):
            i = int(truths.image[m])
            logits[i, p, int(truths.labels[m])] = 0.75 * SURE if m in said else SURE
            said.add(m)
            sides[i, p] = self.said(self._distances(truths.boxes[m], priors)[p])
            if density is not None:
                density[i, p] = crowded[m].logit(eps=1e-6)
        return DenseRaw(logits, sides, priors, size, density)

    def priors(self, size: tuple[int, int]) -> Priors:
        """Those of an input of this size, on the CPU."""
        return make_priors([(size[0] // s, size[1] // s) for s in self.strides], self.strides, torch.device("cpu"))

    def answering(self, targets: BoxTargets, priors: Priors) -> Iterator[tuple[int, int]]:
        """(truth, prior) of a perfect network, the best one of a truth first.

        Where the assigner does not look at predictions, all that it assigns (of FreeAnchor: one of each bag). Else for
        each truth a free prior of its picture that can express it: priors inside the truth come first, then those near
        its centre, as the assigners see it. A truth that no free prior can express is left out. The encode ceiling
        shows what cannot be expressed.
        """
        truths = targets.truths
        fixed = self._fixed(targets, priors)
        if fixed is not None:
            middle = (truths.boxes[fixed.truth, :2] + truths.boxes[fixed.truth, 2:]) / 2
            away = (priors.points[fixed.prior] - middle).norm(dim=1) / priors.strides[fixed.prior]
            order = away.argsort(stable=True)
            yield from zip(fixed.truth[order].tolist(), fixed.prior[order].tolist(), strict=True)
            return
        taken = torch.zeros((targets.batch, len(priors.strides)), dtype=torch.bool)
        area = (truths.boxes[:, 2:] - truths.boxes[:, :2]).prod(-1)
        for m in area.argsort().tolist():  # small ones first: they have the fewest priors to choose from
            i, box = int(truths.image[m]), truths.boxes[m]
            distance = self._distances(box, priors)
            last = self.config.bins - 1 + FIRST_BIN if self.config.coder == "dfl" else torch.inf
            fits = (distance >= FIRST_BIN).all(-1) & (distance <= last).all(-1) & ~taken[i]
            if not fits.any():
                continue
            offset = ((priors.points - (box[:2] + box[2:]) / 2) / priors.strides[:, None]).norm(dim=-1)
            offset = offset + 1e3 * (distance < 0).any(-1)
            p = int(torch.where(fits, offset, torch.inf).argmin())
            taken[i, p] = True
            yield m, p

    def _fixed(self, targets: BoxTargets, priors: Priors) -> Assignment | None:
        """The positives, where the assigner does not look at predictions."""
        c, truths, n = self.config.assigner, targets.truths, len(priors.strides)
        if isinstance(c, FreeAnchor):  # each truth on a prior of its own, and none besides
            own = MaxIou(positive=1.0, negative=NEAR)
            return assign_by_iou(own, boxes_around(priors, c.side, c.ratio), truths, targets.batch)
        if not isinstance(c, MaxIou | Atss | Fcos):
            return None
        scores, boxes = (priors.points.new_zeros((targets.batch, n, k)) for k in (self.classes, 4))
        return assign(c, scores, boxes, priors, truths)

    def _distances(self, box: Tensor, priors: Priors) -> Tensor:
        """Distances [A,4] in strides of all priors to the sides of a box [4]."""
        return torch.cat([priors.points - box[:2], box[2:] - priors.points], 1) / priors.strides[:, None]
