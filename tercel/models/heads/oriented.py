"""Dense anchor-free oriented boxes: per prior C class logits, where the centre lies, how long and wide, and the angle.

The centre's offset is along the picture's axes, not along the box's: a box turned by half a turn is the same box, and
offsets along its own axes would change sign there.

Shape legend: B pictures, A priors (all maps, finest first, row by row), C classes, 4 = (offset x, offset y, length,
width), K bins, T angle channels, M truths of the batch, P positive (picture, prior) pairs, 5 = oriented box.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tercel.config import Atss, Evaluate, OrientedHead, TaskAligned
from tercel.config import Model as ModelConfig
from tercel.core.finding import TercelError
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.core.suppress import survivors
from tercel.models.assign import Assignment, Priors, Truths, assign, starved
from tercel.models.heads.common import SURE, Loss, make_priors
from tercel.models.heads.dense import Towers
from tercel.models.losses import CLASS_LOSSES, bce, dfl
from tercel.models.oriented_losses import oriented_loss, rotated_iou

STEP = 0.5  # strides between two bins of an offset; bins of lengths are one stride apart
DAMP = 0.1  # keeps the gradient of an angle finite where its vector is short


class OrientedRaw(NamedTuple):
    """What the network returns, in training and evaluation alike."""

    logits: Tensor  # [B,A,C]
    sides: Tensor  # [B,A,4,K]
    angle: Tensor  # [B,A,T]
    heading: Tensor  # [B,A,2] towards the front, or [B,A,0]
    quality: Tensor  # [B,A,1] logit of the IoU with the truth, or [B,A,0]
    priors: Priors  # points [A,2] px, strides [A]
    size: tuple[int, int]  # network input (H, W)


class OrientedTargets(NamedTuple):
    """Truth on the network canvas; lists of any length, nothing padded or cut."""

    truths: Truths  # boxes are the hulls of obbs
    heading: Tensor  # f32 [M] radians
    headed: Tensor  # bool [M]
    ignore_image: Tensor  # i64 [I]
    ignore_obbs: Tensor  # f32 [I,5]
    batch: int

    def to(self, device: torch.device) -> OrientedTargets:
        return self._replace(
            truths=self.truths.to(device),
            heading=self.heading.to(device),
            headed=self.headed.to(device),
            ignore_image=self.ignore_image.to(device),
            ignore_obbs=self.ignore_obbs.to(device),
        )


class OrientedNet(nn.Module):
    """The trainable part."""

    def __init__(
        self, config: OrientedHead, classes: int, width: int, strides: Sequence[int], model: ModelConfig
    ) -> None:
        super().__init__()
        self.bins = config.bins
        self.parts = (4 * config.bins, angle_channels(config), 2 * config.heading, int(config.quality))
        self.towers = Towers(config, (classes, sum(self.parts)), width, strides, model)
        if config.angle == "vector":  # all begin along the x axis: a vector near 0 has no direction
            with torch.no_grad():
                for conv in self.towers.side_out:
                    conv.bias[self.parts[0]] = 1.0  # type: ignore[operator]

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> OrientedRaw:
        logits, others, priors = self.towers(maps)
        sides, angle, heading, quality = others.split(self.parts, 2)
        return OrientedRaw(logits, sides.unflatten(2, (4, self.bins)), angle, heading, quality, priors, size)


def angle_channels(config: OrientedHead) -> int:
    return {"vector": 2, "bins": config.angle_bins, "direct": 1}[config.angle]


class DenseOriented:
    """encode, loss, decode, ideal of the dense oriented head; `net` builds its forward."""

    def __init__(self, config: OrientedHead, classes: int, strides: tuple[int, ...]) -> None:
        self.config, self.classes, self.strides = config, classes, strides

    def net(self, width: int, model: ModelConfig) -> OrientedNet:
        return OrientedNet(self.config, self.classes, width, self.strides, model)

    # -- truth ------------------------------------------------------------------------------------------------------

    def encode(self, objects: Sequence[Objects], events: Sequence[tuple[Event, ...]] | None = None) -> OrientedTargets:
        """Truth of a batch as flat arrays. Ignored objects become regions.

        Raises:
            TercelError: objects without oriented boxes, or a label beyond the classes.
        """
        if any(o.obbs is None for o in objects if len(o)):
            raise TercelError(
                "these labels hold no oriented boxes", "use a source with oriented labels, or a recipe for boxes"
            )
        some = [o for o in objects if len(o)]

        def column(parts: list[np.ndarray], *trailing: int) -> np.ndarray:
            return np.concatenate(parts) if parts else np.zeros((0, *trailing), np.float32)

        image = column([np.full(len(o), i) for i, o in enumerate(objects) if len(o)])
        labels, ignore = column([o.labels for o in some]), column([o.ignore for o in some]).astype(bool)
        obbs = column([o.obbs for o in some if o.obbs is not None], 5)
        heading = column([np.zeros(len(o), np.float32) if o.heading is None else o.heading for o in some])
        headed = column([np.zeros(len(o), bool) if o.headed is None else o.headed for o in some]).astype(bool)
        if len(labels) and labels.max() >= self.classes:
            raise TercelError(f"label {int(labels.max())} with {self.classes} classes", "do the classes fit the data?")
        kept = ~ignore

        def tensor(a: np.ndarray, dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(a)).to(dtype)

        truths = Truths(
            tensor(image[kept], torch.int64),
            tensor(labels[kept], torch.int64),
            tensor(obb_hull(obbs[kept]), torch.float32),
            tensor(obbs[kept], torch.float32),
        )
        return OrientedTargets(
            truths,
            tensor(heading[kept], torch.float32),
            tensor(headed[kept], torch.bool),
            tensor(image[ignore], torch.int64),
            tensor(obbs[ignore], torch.float32),
            len(objects),
        )

    # -- boxes, bins and angles -------------------------------------------------------------------------------------

    def _first_and_step(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """[4] the value of the first bin and the distance between two, in strides."""
        first = -STEP * (self.config.bins - 1) / 2
        return torch.tensor([first, first, 0.0, 0.0], device=device), torch.tensor([STEP, STEP, 1, 1], device=device)

    def obbs(self, raw: OrientedRaw) -> Tensor:
        """Expected boxes [B,A,5] px: centre = point + stride * offset, sides = stride * expected bins; any theta."""
        first, step = self._first_and_step(raw.sides.device)
        bins = torch.arange(self.config.bins, device=raw.sides.device, dtype=torch.float32)
        values = (raw.sides.softmax(-1) * bins).sum(-1) * step + first  # [B,A,4] strides
        values = values * raw.priors.strides[:, None]
        centre = raw.priors.points + values[..., :2]
        return torch.cat([centre, values[..., 2:], self.theta(raw.angle)[..., None]], -1)

    def theta(self, angle: Tensor) -> Tensor:
        """Radians [...] from angle channels [...,T]; their period is half a turn."""
        kind = self.config.angle
        if kind == "direct":
            return angle[..., 0]
        if kind == "bins":
            at = torch.arange(self.config.angle_bins, device=angle.device) * (2 * math.pi / self.config.angle_bins)
            share = angle.softmax(-1)
            c, s = (share * at.cos()).sum(-1), (share * at.sin()).sum(-1)
        else:
            c, s = angle.unbind(-1)
        # atan2 has the gradient (c ds - s dc) / r^2, which is unbounded for short vectors: the same, damped.
        c0, s0 = c.detach(), s.detach()
        turn = (c0 * s - s0 * c) / (c0.square() + s0.square() + DAMP)
        return (torch.atan2(s0, c0) + turn - turn.detach()) / 2

    def angle_loss(self, angle: Tensor, theta: Tensor) -> Tensor:
        """Loss [P] of angle channels [P,T] against radians [P], the same for theta and theta + pi.

        vector: |v - (cos 2t, sin 2t)|^2. bins: cross entropy with the two bins around 2t, less their entropy (DFL on a
        circle, as CSL of Yang and Yan 2020 with the narrowest window). direct: 1 - cos 2 (t' - t).
        """
        kind, n = self.config.angle, self.config.angle_bins
        if kind == "direct":
            return 1 - (2 * (angle[:, 0] - theta)).cos()
        if kind == "vector":
            target = torch.stack([(2 * theta).cos(), (2 * theta).sin()], -1)
            return (angle - target).square().sum(-1)
        at = (theta / math.pi).remainder(1.0) * n
        left = at.floor().clamp(max=n - 1).long()
        around = torch.stack([left, (left + 1) % n], -1)  # [P,2]
        two = angle.log_softmax(-1).gather(1, around)
        share = torch.stack([1 - (at - left), at - left], -1).clamp(0, 1)
        loss: Tensor = (torch.special.xlogy(share, share) - share * two).sum(-1)
        return loss.clamp(min=0)

    def bin_targets(self, obbs: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Offset and sides [P,4] in bin units; may lie outside 0..K-1, which the bins cannot express."""
        first, step = self._first_and_step(obbs.device)
        values = torch.cat([obbs[:, :2] - points, obbs[:, 2:4]], 1) / strides[:, None]
        return (values - first) / step

    # -- loss -------------------------------------------------------------------------------------------------------

    def loss(self, raw: OrientedRaw, targets: OrientedTargets) -> Loss:
        """Sums over the assigned pairs, weighted and normalised as in the box head.

        The angle's part weighs 1 - width / length of the truth: what is nearly square has no telling angle.
        """
        c, truths = self.config, targets.truths
        obbs = self.obbs(raw)
        a = assign(c.assigner, raw.logits.detach().sigmoid(), obbs.detach(), raw.priors, truths)
        quality = torch.zeros_like(raw.logits)
        quality[a.image, a.prior, truths.labels[a.truth]] = a.quality
        per_prior = CLASS_LOSSES[c.class_loss](raw.logits, quality).sum(-1)  # [B,A]
        per_prior = per_prior * self._counted(obbs.detach(), raw.priors, a, targets)
        share = a.quality if isinstance(c.assigner, TaskAligned) else torch.ones_like(a.quality)
        assert truths.obbs is not None  # encode gives them
        predicted, wanted = obbs[a.image, a.prior], truths.obbs[a.truth]
        bins = self.bin_targets(wanted, raw.priors.points[a.prior], raw.priors.strides[a.prior])
        clamped = bins.clamp(0, c.bins - 1 - 1e-3)
        slim = 1 - wanted[:, 3] / wanted[:, 2].clamp(min=1e-6)
        angle = raw.angle[a.image, a.prior]
        sums = {
            "class": c.class_gain * per_prior.sum(),
            "box": c.box_gain * (oriented_loss(c.box_loss, predicted, wanted) * share).sum(),
            "dfl": c.dfl_gain * (dfl(raw.sides[a.image, a.prior], clamped).mean(-1) * share).sum(),
            "angle": c.angle_gain * (self.angle_loss(angle, wanted[:, 4]) * slim * share).sum(),
        }
        if c.heading:
            front = targets.heading[a.truth]
            errors = (raw.heading[a.image, a.prior] - torch.stack([front.cos(), front.sin()], -1)).square().sum(-1)
            sums["heading"] = c.heading_gain * (errors * targets.headed[a.truth] * share).sum()
        if c.quality:
            said = raw.quality[a.image, a.prior, 0]
            sums["quality"] = c.quality_gain * bce(said, rotated_iou(predicted.detach(), wanted)).sum()
        facts = {
            "truths": float(len(truths.labels)),
            "positives": float(len(a.prior)),
            "starved": float(starved(a, truths)),
            "beyond_bins": float((bins != clamped).any(-1).sum()),
        }
        return Loss(sums, share.sum(), facts)

    def _counted(self, obbs: Tensor, priors: Priors, a: Assignment, targets: OrientedTargets) -> Tensor:
        """f32 [B,A]: 0 for priors whose point or whose predicted centre lies in an ignored region, else 1."""
        counted = torch.ones(obbs.shape[:2], device=obbs.device)
        for i, region in zip(targets.ignore_image.tolist(), targets.ignore_obbs, strict=True):
            counted[i][_inside(priors.points, region) | _inside(obbs[i, :, :2], region)] = 0
        counted[a.image, a.prior] = 1  # a truth inside an ignored region still counts
        return counted

    # -- answers ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(self, raw: OrientedRaw, settings: Evaluate) -> tuple[list[Objects], list[bool]]:
        """Detections on the network canvas per picture, best first, and whether a cap was reached.

        With a quality branch the score is sqrt(class probability * predicted IoU). Oriented boxes are not cut at the
        canvas; those whose centre lies outside, or without area, are left out.
        """
        scores, obbs = raw.logits.sigmoid(), self.obbs(raw)
        if self.config.quality:
            scores = (scores * raw.quality.sigmoid()).sqrt()
        h, w = raw.size
        inside = ((obbs[..., :2] >= 0) & (obbs[..., :2] <= torch.tensor([w, h], device=obbs.device))).all(-1)
        good = inside & (obbs[..., 2:4] > 0).all(-1)
        spread = self._spread(raw)
        found, capped = [], []
        for i in range(len(scores)):
            prior, label = torch.nonzero((scores[i] > settings.score_floor) & good[i][:, None], as_tuple=True)
            order = scores[i, prior, label].argsort(descending=True, stable=True)[: settings.max_candidates]
            rows, kinds = prior[order].cpu().numpy(), label[order].cpu().numpy()
            boxes = canonical_obb(obbs[i].cpu().numpy()[rows])
            score = scores[i].cpu().numpy()[rows, kinds]
            some = survivors(
                settings.suppress,
                boxes,
                score,
                settings.suppress_iou,
                None if settings.class_agnostic else kinds,
                sigma=settings.soft_sigma,
                floor=settings.score_floor,
            )
            capped.append(len(order) < len(prior) or len(some.keep) > settings.max_detections)
            few = slice(settings.max_detections)
            keep = some.keep[few]
            rows, kinds, boxes, sides = rows[keep], kinds[keep], boxes[keep], spread[i].cpu().numpy()[rows[keep]]
            if settings.suppress == "fusion":
                fused = some.boxes[few].astype(np.float32)
                turned = fused[:, 3] > fused[:, 2]  # what is the length of the mean was the width of the best
                boxes, sides = canonical_obb(fused), np.where(turned[:, None], sides[:, [0, 1, 3, 2]], sides)
            extra: dict[str, np.ndarray] = {"spread": sides, "scores": some.scores[few].astype(np.float32)}
            if self.config.quality:
                extra["quality"] = raw.quality[i, :, 0].sigmoid().cpu().numpy()[rows]
            if self.config.heading:
                v = raw.heading[i].cpu().numpy()[rows]
                extra |= {"heading": np.arctan2(v[:, 1], v[:, 0]), "headed": np.ones(len(v), bool)}
            found.append(Objects(raw.size, kinds, obb_hull(boxes), obbs=boxes, **extra))
        return found, capped

    def _spread(self, raw: OrientedRaw) -> Tensor:
        """Standard deviations [B,A,4] px of the distributions over bins."""
        _, step = self._first_and_step(raw.sides.device)
        bins = torch.arange(self.config.bins, device=raw.sides.device, dtype=torch.float32)
        p = raw.sides.softmax(-1)
        mean = (p * bins).sum(-1, keepdim=True)
        return (p * (bins - mean).square()).sum(-1).sqrt() * step * raw.priors.strides[:, None]

    @torch.no_grad()
    def ideal(self, targets: OrientedTargets, size: tuple[int, int]) -> OrientedRaw:
        """The perfect output: each truth on the nearest free prior that can express it, a sure no elsewhere.

        A truth that no free prior can express is left out; the encode ceiling then shows it.
        """
        c, truths = self.config, targets.truths
        shapes = [(size[0] // s, size[1] // s) for s in self.strides]
        priors = make_priors(shapes, self.strides, torch.device("cpu"))
        n = len(priors.strides)
        logits = torch.full((targets.batch, n, self.classes), -SURE)
        sides = torch.zeros((targets.batch, n, 4, c.bins))
        sides[..., 2:, 0] = 2 * SURE  # neither length nor width: no overlap with anything
        angle = torch.zeros((targets.batch, n, angle_channels(c)))
        heading = torch.zeros((targets.batch, n, 2 * c.heading))
        quality = torch.full((targets.batch, n, int(c.quality)), -SURE)
        assert truths.obbs is not None
        for m, p in self._answering(truths, priors, targets.batch):
            i, obb = int(truths.image[m]), truths.obbs[m]
            bins = self.bin_targets(obb[None], priors.points[p : p + 1], priors.strides[p : p + 1])[0]
            logits[i, p, truths.labels[m]] = SURE
            sides[i, p] = _two_bins(bins.clamp(0, c.bins - 1), c.bins)
            angle[i, p] = self._ideal_angle(obb[4])
            if c.heading:
                heading[i, p] = torch.stack([targets.heading[m].cos(), targets.heading[m].sin()])
            if c.quality:
                quality[i, p] = SURE
        return OrientedRaw(logits, sides, angle, heading, quality, priors, size)

    def _answering(self, truths: Truths, priors: Priors, batch: int) -> Iterator[tuple[int, int]]:
        """(truth, prior) for every prior of a perfect network that says a truth.

        Where the assigner does not look at predictions, all that it assigns; else one prior for each truth.
        """
        n = len(priors.strides)
        if isinstance(self.config.assigner, Atss):
            nothing = torch.zeros((batch, n, self.classes)), torch.zeros((batch, n, 5))
            a = assign(self.config.assigner, *nothing, priors, truths)
            yield from zip(a.truth.tolist(), a.prior.tolist(), strict=True)
            return
        taken = torch.zeros((batch, n), dtype=torch.bool)
        assert truths.obbs is not None
        for m in truths.obbs[:, 2:4].prod(-1).argsort().tolist():  # small ones first: they have the fewest priors
            i, obb = int(truths.image[m]), truths.obbs[m]
            bins = self.bin_targets(obb.expand(n, 5), priors.points, priors.strides)
            fits = (bins >= 0).all(-1) & (bins <= self.config.bins - 1).all(-1) & ~taken[i]
            if not fits.any():
                continue
            # Priors within the box come first, as the assigners see it.
            offset = (priors.points - obb[:2]).norm(dim=-1) / priors.strides + 1e3 * ~_inside(priors.points, obb)
            p = int(torch.where(fits, offset, torch.inf).argmin())
            taken[i, p] = True
            yield m, p

    def _ideal_angle(self, theta: Tensor) -> Tensor:
        """Angle channels [T] that say theta []."""
        if self.config.angle == "direct":
            return theta[None]
        if self.config.angle == "vector":
            return torch.stack([(2 * theta).cos(), (2 * theta).sin()])
        n = self.config.angle_bins
        at = float((theta / math.pi).remainder(1.0) * n)
        left, step = int(at) % n, 2 * math.pi / n
        # The direction of the sum of two unit vectors, weighted: b sin(step - x) = a sin(x) where x is the way to go.
        x = (at - int(at)) * step
        share = torch.tensor([math.sin(step - x), math.sin(x)]).clamp(min=1e-9)
        logits = torch.full((n,), -2 * SURE)
        logits[[left, (left + 1) % n]] = (share / share.sum()).log()
        return logits


def _inside(points: Tensor, obb: Tensor) -> Tensor:
    """bool [N], which points [N,2] lie in an oriented box [5]."""
    d = points - obb[:2]
    c, s = obb[4].cos(), obb[4].sin()
    along, across = d[:, 0] * c + d[:, 1] * s, d[:, 1] * c - d[:, 0] * s
    return (along.abs() <= obb[2] / 2) & (across.abs() <= obb[3] / 2)


def _two_bins(at: Tensor, bins: int) -> Tensor:
    """Logits [4,K] of distributions whose means are `at` [4], in bins."""
    low = at.floor().clamp(max=bins - 2).long()
    share = at - low
    logits = torch.full((len(at), bins), -2 * SURE)
    logits.scatter_(1, low[:, None], (1 - share).clamp(min=1e-9).log()[:, None])
    logits.scatter_(1, low[:, None] + 1, share.clamp(min=1e-9).log()[:, None])
    return logits
