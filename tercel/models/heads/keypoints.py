"""Boxes with named points: the dense head of boxes, and per prior the places of K points and whether they are visible.

A point is said as its way from the prior in strides, as the sides of the box are, so a box that is still wrong does not
move its points. `decode` holds them within `reach` lengths (of the longer side) around the box's centre: free to leave
the box, but not for the other end of the picture. The loss sees them before that, so that none is out of its reach.

A way is learnt slowly, the look of a point quickly: with `heatmap` there is a map per point besides, shared by all
objects, and a point moves to the peak that is high and near where the box has it (Zhou et al. 2019, "Objects as
Points", section 4.2). The maps are those of the heatmap for balls, with the K points in place of the frames.

Shape legend: B pictures, A priors (all maps, finest first, row by row), C classes, 4 sides, N bins, K points, M truths
of the batch, P positive (picture, prior) pairs, 2 = (x, y), h, w cells of a heatmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from tercel.config import BallHeatmap, Clip, Evaluate, KeypointHead
from tercel.config import Model as ModelConfig
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.core.schema import Schema
from tercel.core.skeleton import DEFAULT_SIGMA
from tercel.models.assign import Priors
from tercel.models.heads.ball import BallTargets
from tercel.models.heads.ball_heatmap import Heatmap, HeatmapNet, HeatmapRaw
from tercel.models.heads.boxes import BoxNet, DenseBoxes, DenseRaw
from tercel.models.heads.common import SURE, Loss
from tercel.models.heads.upright import BoxTargets, encode_boxes, keep_boxes
from tercel.models.keypoint_losses import near_loss, oks_loss
from tercel.models.layers import Conv, Norm, init_weights
from tercel.models.losses import bce

MOST = 40  # points of an object
# A peak counts as p exp(-d^2 / (2 (NEAR length)^2)), d px from where the box has the point; below LEAST it is none.
NEAR, LEAST = 0.5, 0.05
PEAKS = 50  # of each map, the highest ones
STEP = 4.0  # strides that an output of 1 stands for: objects are 4 to 16 strides long on the map that answers for them


class KeypointRaw(NamedTuple):
    """What the network returns, in training and evaluation alike."""

    logits: Tensor  # [B,A,C]
    sides: Tensor  # [B,A,4,N]
    offsets: Tensor  # [B,A,K,2] from the prior to the point, in units of STEP strides
    seen: Tensor  # [B,A,K] logit of "visible", against "hidden"
    heat: Tensor  # [B,K,h,w] logit of the point being in that cell; [B,0,1,1] without maps
    shift: Tensor  # [B,K,2,h,w] cells from the cell's centre to the point
    priors: Priors  # points [A,2] px, strides [A]
    size: tuple[int, int]  # network input (H, W)

    @property
    def dense(self) -> DenseRaw:
        """The part of the boxes."""
        return DenseRaw(self.logits, self.sides, self.priors, self.size)

    @property
    def maps(self) -> HeatmapRaw:
        """The part of the heatmaps."""
        return HeatmapRaw(self.heat, self.shift, self.heat.new_zeros(*self.heat.shape[:2], 0), self.size)


class KeypointTargets(NamedTuple):
    """Truth on the network canvas; lists of any length, nothing padded or cut."""

    boxes: BoxTargets
    points: Tensor  # f32 [M,K,2] px
    visible: Tensor  # u8 [M,K], 0 absent: its coordinates mean nothing
    area: Tensor  # f32 [M] px^2
    maps: BallTargets  # the labelled points within the canvas, as balls whose frame is the point's number

    def to(self, device: torch.device) -> KeypointTargets:
        points, visible = self.points.to(device), self.visible.to(device)
        return KeypointTargets(self.boxes.to(device), points, visible, self.area.to(device), self.maps.to(device))


def points_of(objects: Sequence[Objects], count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points f32 [M,K,2], visible u8 [M,K] and area f32 [M] of all objects that are not ignored, picture by picture.

    Raises:
        TercelError: objects without points, or with another number of points than `count`.
    """
    some = [o for o in objects if len(o)]
    for o in some:
        if o.points is None or o.visible is None:
            raise TercelError("these labels hold no points", "use a source with keypoints, or a recipe for boxes")
        if o.points.shape[1] != count:
            raise TercelError(
                f"objects with {o.points.shape[1]} points, and the network answers for {count}",
                "use data with the keypoints that it was trained on, or train on these",
            )
    points = [o.points[~o.ignore] for o in some if o.points is not None]
    visible = [o.visible[~o.ignore] for o in some if o.visible is not None]
    area = [o.areas[~o.ignore] for o in some]
    if not some:
        return np.zeros((0, count, 2), np.float32), np.zeros((0, count), np.uint8), np.zeros(0, np.float32)
    return np.concatenate(points), np.concatenate(visible), np.concatenate(area)


def encode_maps(objects: Sequence[Objects], count: int) -> BallTargets:
    """The labelled points of a batch, as balls whose frame is the point's number.

    A hidden point (`visible` 1) is one like others: its place is known. Of an absent one nothing is known, so its map
    costs nothing. A point beyond the canvas is nowhere on its map. A picture with an ignored object costs nothing.

    Raises:
        TercelError: as `points_of`.
    """
    counted = np.ones((len(objects), count), bool)
    rows: list[tuple[int, int, int]] = []  # picture, point, how many there are of it already
    places: list[np.ndarray] = []
    for b, o in enumerate(objects):
        points, visible, _ = points_of([o], count)
        counted[b] = (visible > 0).all(0) & (not o.ignore.any())
        inside = (points >= 0).all(2) & (points <= (o.size[1], o.size[0])).all(2) & counted[b]
        for k in range(count):
            own = points[inside[:, k], k]
            rows += [(b, k, i) for i in range(len(own))]
            places.append(own)
    picture, point, twin = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).unbind(1)
    xy = torch.from_numpy(np.concatenate([*places, np.zeros((0, 2), np.float32)]))
    n, none = len(xy), torch.zeros(*counted.shape, 0)
    return BallTargets(
        picture, point, xy, twin, torch.zeros(n, 2), torch.zeros(n, dtype=torch.bool), torch.from_numpy(counted), none,
        none,
    )  # fmt: skip


def count_points(schema: Schema) -> int:
    """K of a schema.

    Raises:
        TercelError: none, or more than 40.
    """
    count = len(schema.keypoints)
    if not 1 <= count <= MOST:
        raise TercelError(
            f"the data names {count} keypoints, and a head for points answers for 1 to {MOST}",
            "use a source with keypoints, or a recipe for boxes",
        )
    return count


class KeypointNet(nn.Module):
    """The trainable part: that of the boxes, and per map a tower and a 1x1 convolution for the points."""

    def __init__(
        self,
        config: KeypointHead,
        classes: int,
        points: int,
        width: int,
        strides: Sequence[int],
        model: ModelConfig,
        maps: HeatmapNet | None = None,
    ) -> None:
        super().__init__()
        self.points = points
        self.boxes = BoxNet(config.box, classes, width, strides, model)
        widths = [width] + [config.width] * config.depth
        self.towers = nn.ModuleList(
            nn.Sequential(*[_conv(i, o, model.norm, config.depthwise) for i, o in pairwise(widths)]) for _ in strides
        )
        self.out = nn.ModuleList(nn.Conv2d(widths[-1], 3 * points, 1) for _ in strides)
        init_weights(self.towers)
        for name, value in self.out.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(value)
            else:
                nn.init.normal_(value, std=0.01)
        self.maps = maps

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> KeypointRaw:
        logits, sides, priors, *_ = self.boxes(maps, size)
        each = [self.flat(out(tower(x))) for out, tower, x in zip(self.out, self.towers, maps, strict=True)]
        offsets, seen = torch.cat(each, 1).float().split((2 * self.points, self.points), 2)
        heat, shift = logits.new_zeros(len(logits), 0, 1, 1), logits.new_zeros(len(logits), 0, 2, 1, 1)
        if self.maps is not None:
            heat, shift, *_ = self.maps(maps, size)
        return KeypointRaw(logits, sides, offsets.unflatten(2, (self.points, 2)), seen, heat, shift, priors, size)

    def flat(self, x: Tensor) -> Tensor:
        """[B,3K,H,W] -> [B,H*W,3K]."""
        return x.permute(0, 2, 3, 1).flatten(1, 2)


def _conv(i: int, o: int, norm: Norm, depthwise: bool) -> nn.Sequential:
    """3x3 convolution, norm, ReLU; depth-wise: 3x3 in each channel, then 1x1 across them."""
    if not depthwise:
        return Conv(i, o, norm=norm)
    return nn.Sequential(nn.Conv2d(i, i, 3, padding=1, groups=i, bias=False), Conv(i, o, 1, norm=norm))


@torch.no_grad()
def probe_layout(net: KeypointNet, width: int) -> None:
    """Demand that every channel of every prediction arrives at the prior and the field that it is declared to be.

    Each 1x1 prediction is made to answer, in every channel and cell, with a number of its own. The founding code joined
    two predictions on their channels and then viewed them apart at the wrong places: one anchor got all the boxes, and
    the others nothing but points (turtle-1). It trains, after a fashion, and says nothing.

    Raises:
        TercelError: a number that arrives elsewhere.
    """
    strides, batch = net.boxes.towers.strides, 2
    shapes = [(2, 3 + level) for level in range(len(strides))]  # no two alike, none of them square
    cells = sum(h * w for h, w in shapes)
    channels = [len(net.boxes.towers.class_out[0].bias), len(net.boxes.towers.side_out[0].bias), 3 * net.points]  # type: ignore[arg-type]
    outs = [net.boxes.towers.class_out, net.boxes.towers.side_out, net.out]
    # id of (picture, prior, channel), the channels of all three counted through
    ids = torch.arange(batch * cells * sum(channels), dtype=torch.float32).view(batch, cells, sum(channels))
    hooks = []
    for convs, own in zip(outs, ids.split(channels, 2), strict=True):
        for conv, part, (h, w) in zip(convs, own.split([h * w for h, w in shapes], 1), shapes, strict=True):
            answer = part.transpose(1, 2).reshape(batch, -1, h, w)
            hooks.append(conv.register_forward_hook(lambda *_, answer=answer: answer))
    training = net.training
    try:
        raw = net.eval()([torch.zeros(batch, width, h, w) for h, w in shapes], (64, 64))
    finally:
        for hook in hooks:
            hook.remove()
        net.train(training)
    classes, sides, points = ids.split(channels, 2)
    k = net.points
    declared = {
        "logits": classes,
        "sides": torch.stack([sides[..., s * net.boxes.bins : (s + 1) * net.boxes.bins] for s in range(4)], 2),
        "offsets": torch.stack([points[..., 0 : 2 * k : 2], points[..., 1 : 2 * k : 2]], 3),
        "seen": points[..., 2 * k :],
    }
    for name, wanted in declared.items():
        got = getattr(raw, name)
        if got.shape != wanted.shape or not torch.equal(got, wanted):
            raise TercelError(
                f"the head's output {name!r} {[*got.shape]} is not laid out as it says: channels arrive at other "
                "priors or fields",
                "reshape each prediction by itself, [B,N,H,W] -> [B,H*W,N], before any are joined",
            )


class DenseKeypoints:
    """encode, loss, decode, ideal of the head for boxes with points; `net` builds its forward.

    Raises:
        TercelError: a schema without keypoints, or with more than 40; a box head with branches for crowds or shared
            towers.
    """

    def __init__(self, config: KeypointHead, schema: Schema, strides: tuple[int, ...]) -> None:
        if refused := [name for name in ("density", "pairs", "shared") if getattr(config.box, name)]:
            raise TercelError(
                f"boxes with points have no {', '.join(refused)}",
                " ".join(f"--set model.head.box.{name}=false" for name in refused),
            )
        self.config, self.schema = config, schema
        self.count = count_points(schema)
        self.dense = DenseBoxes(config.box, len(schema.classes), strides)
        stride = next(s for s in (4, 2, 1) if strides[0] % s == 0)
        maps = BallHeatmap(stride=stride, width=config.width, target_width=config.heatmap_width)  # type: ignore[arg-type]
        self.heat = Heatmap(maps, schema, strides, Clip(frames=self.count))
        self.sigmas = torch.tensor(schema.sigmas or [DEFAULT_SIGMA] * self.count, dtype=torch.float32)

    def net(self, width: int, model: ModelConfig) -> KeypointNet:
        heat = self.heat
        maps = HeatmapNet(heat.config, width, heat.factor, heat.clip, 0, model) if self.config.heatmap else None
        net = KeypointNet(self.config, self.dense.classes, self.count, width, self.dense.strides, model, maps)
        probe_layout(net, width)
        return net

    # -- truth ------------------------------------------------------------------------------------------------------

    def encode(self, objects: Sequence[Objects], events: Sequence[tuple[Event, ...]] | None = None) -> KeypointTargets:
        """Truth of a batch as flat arrays. Ignored objects become regions, and their points cost nothing.

        Raises:
            TercelError: objects without points or with another number of them, a label beyond the classes.
        """
        boxes = encode_boxes(objects, self.dense.classes)
        points, visible, area = (torch.from_numpy(x) for x in points_of(objects, self.count))
        return KeypointTargets(boxes, points, visible, area, encode_maps(objects, self.count))

    # -- points -----------------------------------------------------------------------------------------------------

    def free_points(self, raw: KeypointRaw, image: Tensor, prior: Tensor) -> Tensor:
        """Points [P,K,2] px of some priors, not held near their boxes: prior + stride * STEP * offset."""
        step = raw.priors.strides[prior, None, None] * STEP
        return raw.priors.points[prior, None] + step * raw.offsets[image, prior]

    def held(self, points: Tensor, boxes: Tensor) -> Tensor:
        """Points [P,K,2] within `reach` lengths of the centres of their boxes [P,4], in x and in y."""
        centre, far = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2, self.config.reach * _length(boxes)[:, None, None]
        return points.maximum(centre - far).minimum(centre + far)

    # -- loss -------------------------------------------------------------------------------------------------------

    @staticmethod
    def owners(targets: BoxTargets, priors: Priors) -> Tensor:
        """i64 [B,A]: the truth in whose box a prior lies, of several the smallest one; -1 where it lies in none."""
        truths = targets.truths
        owner = truths.image.new_full((targets.batch, len(priors.points)), -1)
        area = (truths.boxes[:, 2:] - truths.boxes[:, :2]).prod(1)
        for m in area.argsort(descending=True).tolist():
            low, high = truths.boxes[m].split(2)
            owner[truths.image[m], ((priors.points >= low) & (priors.points <= high)).all(1)] = m
        return owner

    def ways(self, raw: KeypointRaw, targets: KeypointTargets, owner: Tensor) -> Tensor:
        """Loss [] of the ways from all priors in `owner` [B,A] to the points: every object weighs 1, its points are
        alike, and so are the maps that have a prior in it.

        From one or two priors per object alone the ways are learnt slowly. Where the left and the right of an animal
        lie is a linear function of where its middle and its head are, and the ways say both at every place on it; a
        map of probabilities must first find their product. (Papandreou et al. 2018, "PersonLab", learn ways between
        points, the mid-range offsets.)
        """
        image, prior = (owner >= 0).nonzero(as_tuple=True)
        truth = owner[image, prior]
        strides, level = raw.priors.strides.unique(return_inverse=True)
        group = truth * len(strides) + level[prior]
        count = group.bincount(minlength=len(targets.points) * len(strides))
        maps = (count.view(-1, len(strides)) > 0).sum(1)
        known = (targets.visible[truth] > 0).float()  # [P,K]
        each = known / (known.sum(1).clamp_min(1) * count[group] * maps[truth])[:, None]
        length = _length(targets.boxes.truths.boxes)[truth]
        near = near_loss(self.free_points(raw, image, prior), targets.points[truth], length)
        return torch.sum(near * each)

    def loss(self, raw: KeypointRaw, targets: KeypointTargets) -> Loss:
        """The sums of the box head, of the points over the same pairs with the same weights, the ways', the heatmaps'.

        An object's points weigh the same together, however many are labelled: the mean over those with `visible` > 0.
        Visibility is learnt for these too, 1 for visible and 0 for hidden: of an absent point nothing is known. Of the
        maps, too, an object's points weigh 1 together.
        """
        c = self.config
        boxes = self.dense.boxes(raw.dense)
        a = self.dense.assign(raw.dense, boxes, targets.boxes)
        sums, weight, facts = self.dense.assigned_loss(raw.dense, boxes, a, targets.boxes)
        truth, visible = targets.points[a.truth], targets.visible[a.truth]
        known = (visible > 0).float()
        each = known * (self.dense.share(a) / known.sum(1).clamp_min(1))[:, None]  # [P,K]
        points = self.free_points(raw, a.image, a.prior)
        oks = oks_loss(points, truth, targets.area[a.truth], self.sigmas.to(points.device))
        owner = self.owners(targets.boxes, raw.priors)
        doubtful = owner[a.image, a.prior] != a.truth  # a prior that two objects claim shows the way to neither
        owner[a.image[doubtful], a.prior[doubtful]] = -1
        seen = bce(raw.seen[a.image, a.prior], (visible >= 2).float())
        sums |= {
            "oks": c.oks_gain * (oks * each).sum(),
            "near": c.near_gain * self.ways(raw, targets, owner),
            "visible": c.visible_gain * (seen * each).sum(),
        }
        if c.heatmap:
            maps = self.heat.loss(raw.maps, targets.maps)
            sums |= {name: c.heatmap_gain / self.count * x for name, x in maps.sums.items()}
        beyond = (self.held(targets.points, targets.boxes.truths.boxes) != targets.points).any(-1)
        labelled = targets.visible > 0
        facts |= {"points": float(labelled.sum()), "beyond_reach": float((beyond & labelled).sum())}
        return Loss(sums, weight, facts)

    # -- answers ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(self, raw: KeypointRaw, settings: Evaluate) -> tuple[list[Objects], list[bool]]:
        """Detections on the network canvas per picture, best first, and whether a cap was reached.

        Boxes are cut at the canvas, points are not. `point_scores` is the probability that a point is visible, and
        `visible` 2 where that is above .5, else 1.
        """
        boxes = self.dense.boxes(raw.dense)
        kept = keep_boxes(raw.logits.sigmoid(), boxes, raw.size, settings)
        found = []
        for i, k in enumerate(kept):
            points = self.held(self.free_points(raw, torch.full_like(k.prior, i), k.prior), boxes[i, k.prior])
            if self.config.heatmap:
                points = self.snapped(points, boxes[i, k.prior], raw.heat[i], raw.shift[i])
            seen = raw.seen[i, k.prior].sigmoid()
            columns = {"points": points, "visible": 1 + (seen > 0.5).byte(), "point_scores": seen, "scores": k.scores}
            found.append(Objects(raw.size, k.label.cpu().numpy(), k.boxes.cpu().numpy(), **_arrays(columns)))
        return found, [k.capped for k in kept]

    def snapped(self, points: Tensor, boxes: Tensor, heat: Tensor, shift: Tensor) -> Tensor:
        """Points [N,K,2] px moved to the best peak of their maps, heat [K,h,w] and shift [K,2,h,w].

        A peak is a cell that no neighbour exceeds. A point beyond the maps has none, and stays; so does one without a
        peak that counts for LEAST.
        """
        k, h, w = heat.shape
        p = heat.sigmoid()
        top = (p == max_pool2d(p[None], 3, 1, 1)[0]).flatten(1) * p.flatten(1)
        height, cell = top.topk(min(PEAKS, h * w), 1)  # [K,T]
        way = shift.flatten(2).gather(2, cell[:, None].expand(-1, 2, -1)).movedim(1, 2)
        places = (torch.stack([cell % w, cell // w], 2) + 0.5 + way) * self.heat.stride  # [K,T,2]
        away = (points[:, :, None] - places).square().sum(-1)  # [N,K,T]
        width = (NEAR * _length(boxes).clamp_min(1.0)).square()[:, None, None]
        value, best = (height * (-away / (2 * width)).exp()).max(-1)  # [N,K]
        inside = (points >= 0).all(-1) & (points <= points.new_tensor([w, h]) * self.heat.stride).all(-1)
        moved = places[torch.arange(k, device=best.device), best]
        return torch.where((inside & (value > LEAST))[..., None], self.held(moved, boxes), points)

    @torch.no_grad()
    def ideal(self, targets: KeypointTargets, size: tuple[int, int]) -> KeypointRaw:
        """The perfect output: boxes as in the box head, and from all priors of an object the ways to its points; absent
        ones lie on the prior."""
        logits, sides, priors, *_ = self.dense.ideal(targets.boxes, size)
        offsets = torch.zeros(*logits.shape[:2], self.count, 2)
        seen = torch.zeros(*logits.shape[:2], self.count)
        owner = self.owners(targets.boxes, priors)
        for m, p in self.dense.answering(targets.boxes, priors):
            i, known = int(targets.boxes.truths.image[m]), targets.visible[m] > 0
            owner[i, p] = m
            seen[i, p] = torch.where(known, torch.where(targets.visible[m] >= 2, SURE, -SURE), 0.0)
        image, prior = (owner >= 0).nonzero(as_tuple=True)
        truth = owner[image, prior]
        way = (targets.points[truth] - priors.points[prior, None]) / (priors.strides[prior, None, None] * STEP)
        offsets[image, prior] = torch.where(targets.visible[truth, :, None] > 0, way, 0.0)
        heat, shift = torch.zeros(targets.boxes.batch, 0, 1, 1), torch.zeros(targets.boxes.batch, 0, 2, 1, 1)
        if self.config.heatmap:
            heat, shift, *_ = self.heat.ideal(targets.maps, size)
        return KeypointRaw(logits, sides, offsets, seen, heat, shift, priors, size)


def _length(boxes: Tensor) -> Tensor:
    """Longer side [N] px of boxes [N,4]."""
    return (boxes[:, 2:] - boxes[:, :2]).amax(1)


def _arrays(columns: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: x.cpu().numpy() for name, x in columns.items()}
