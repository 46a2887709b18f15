"""Dense boxes from anchors (RetinaNet, Lin et al. 2017; EfficientDet, Tan et al. 2020): class logits and deltas.

Per cell of every map there is one anchor for each shape: scales x ratios, or the map's own sizes. Both towers are
shared by all maps; batch norm keeps its numbers for each map, since the statistics of the maps differ (EfficientDet),
group norm is shared too.

YOLOv3's way (Redmon and Farhadi 2018) is the coder `cell`, which cannot leave the cell that holds a truth's centre, and
`objectness`, which says whether there is an object; the classes then say which one, and learn from positives alone.

Shape legend: B pictures, A anchors (level by level, shape by shape, row by row), C classes, S shapes per cell, M truths
of the batch, P positive (picture, anchor) pairs, 4 = (x1, y1, x2, y2) in px, or the deltas of (x, y, width, height).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tercel.config import AnchorHead, Atss, Evaluate, FreeAnchor, MaxIou
from tercel.config import Model as ModelConfig
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.models.assign import Assignment, assign, starved
from tercel.models.assign_iou import Anchors, assign_by_iou, make_anchors
from tercel.models.free_anchor import NEAR, Bags, bags_of, free_anchor_loss, likeliest, likelihoods
from tercel.models.heads.common import SURE, Loss, prior_bias
from tercel.models.heads.upright import NOBODY, BoxTargets, counted, decode_boxes, encode_boxes
from tercel.models.layers import init_weights, make_norm
from tercel.models.losses import bce, box_iou_pairs, focal, smooth_l1

GROWTH = math.log(1000 / 16)  # decoding stops here, as in Detectron: a wild output must not become an infinite box
SMALLEST = 1e-3  # px: sides below count as this long, so that their logarithm is finite


class AnchorRaw(NamedTuple):
    """What the network returns, in training and evaluation alike."""

    logits: Tensor  # [B,A,C]
    deltas: Tensor  # [B,A,4]
    anchors: Anchors
    size: tuple[int, int]  # network input (H, W)
    objectness: Tensor | None = None  # [B,A] logits; None without that branch


def anchor_shapes(config: AnchorHead, strides: Sequence[int]) -> list[list[tuple[float, float]]]:
    """Per level S times (width, height) in strides: its share of `sizes`, or area (base scale)^2 and height / width the
    ratio, all ratios of a scale.

    Raises:
        TercelError: sizes that cannot be shared out evenly, or are not above 0.
    """
    if not config.sizes:
        sides = [config.base * scale for scale in config.scales]
        shapes = [(side / math.sqrt(ratio), side * math.sqrt(ratio)) for side in sides for ratio in config.ratios]
        return [shapes] * len(strides)
    each, rest = divmod(len(config.sizes), 2 * len(strides))
    if rest or min(config.sizes) <= 0:
        raise TercelError(
            f"model.head.sizes has {len(config.sizes)} numbers for {len(strides)} maps",
            "give w1,h1,w2,h2,... in px above 0, as many for each map, those of the finest map first",
        )
    pairs = list(zip(config.sizes[::2], config.sizes[1::2], strict=True))
    return [[(w / s, h / s) for w, h in pairs[i * each : (i + 1) * each]] for i, s in enumerate(strides)]


def deltas_of(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [P,4] as seen from anchors [P,4]: ((x - xa) / wa, (y - ya) / ha, log(w / wa), log(h / ha)), x, y centres.

    Girshick et al. 2014, "Rich feature hierarchies", appendix C.
    """
    size, side = (boxes[:, 2:] - boxes[:, :2]).clamp_min(SMALLEST), anchors[:, 2:] - anchors[:, :2]
    move = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / (2 * side)
    return torch.cat([move, (size / side).log()], 1)


def boxes_of(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The inverse: boxes [...,4] from deltas [...,4] and anchors, broadcast. A side grows at most 62.5 times."""
    side = anchors[..., 2:] - anchors[..., :2]
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * side
    half = deltas[..., 2:].clamp(max=GROWTH).exp() * side / 2
    return torch.cat([centre - half, centre + half], -1)


class AnchorNet(nn.Module):
    """The trainable part: two towers and two predictions, shared by all maps."""

    def __init__(
        self, config: AnchorHead, classes: int, width: int, strides: Sequence[int], model: ModelConfig
    ) -> None:
        super().__init__()
        self.strides, self.shapes = tuple(strides), anchor_shapes(config, strides)
        self.objectness, self.each = config.objectness, len(self.shapes[0])
        channels = classes + config.objectness
        self.class_tower = _Tower(config, width, self.each * channels, len(strides), model)
        self.delta_tower = _Tower(config, width, self.each * 4, len(strides), model)
        start = torch.full((self.each, channels), prior_bias(config.prior))
        if config.objectness:
            start[:, :-1] = 0  # of an object any class is as likely as not
        self.class_tower.bias.data.copy_(start.flatten())

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> AnchorRaw:
        said = torch.cat([self._flat(self.class_tower(x, level)) for level, x in enumerate(maps)], 1).float()
        deltas = torch.cat([self._flat(self.delta_tower(x, level)) for level, x in enumerate(maps)], 1).float()
        sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
        anchors = make_anchors(sizes, self.strides, self.shapes, maps[0].device)
        if self.objectness:
            return AnchorRaw(said[..., :-1], deltas, anchors, size, said[..., -1])
        return AnchorRaw(said, deltas, anchors, size)

    def _flat(self, x: Tensor) -> Tensor:
        """[B,S*N,H,W] -> [B,S*H*W,N]."""
        shapes: Tensor = x.unflatten(1, (self.each, -1))
        return shapes.permute(0, 1, 3, 4, 2).flatten(1, 3)


class _Tower(nn.Module):
    """`depth` times (3x3 convolution, norm, ReLU), then a 3x3 prediction."""

    def __init__(self, config: AnchorHead, width: int, out: int, levels: int, model: ModelConfig) -> None:
        super().__init__()
        widths = [width] + [config.width] * config.depth

        def conv(i: int, o: int, bias: bool) -> nn.Sequential:
            if not config.separable:
                return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=bias))
            return nn.Sequential(nn.Conv2d(i, i, 3, padding=1, groups=i, bias=False), nn.Conv2d(i, o, 1, bias=bias))

        self.convs = nn.ModuleList(conv(i, o, False) for i, o in pairwise(widths))
        own = levels if model.norm == "batch" else 1
        self.norms = nn.ModuleList(
            nn.ModuleList(make_norm(model.norm, config.width) for _ in range(own)) for _ in self.convs
        )
        self.act = nn.ReLU(inplace=True)
        self.out = conv(widths[-1], out, True)
        init_weights(self)
        for m in self.modules():
            if isinstance(m, nn.Conv2d) and m.groups > 1:  # He's fan of a depth-wise kernel is 9
                nn.init.normal_(m.weight, std=(2 / 9) ** 0.5)
        nn.init.normal_(self.out[-1].weight, std=0.01)  # type: ignore[arg-type]

    @property
    def bias(self) -> Tensor:
        """That of the prediction."""
        bias: Tensor = self.out[-1].bias  # type: ignore[assignment]
        return bias

    def forward(self, x: Tensor, level: int) -> Tensor:
        for conv, norms in zip(self.convs, self.norms, strict=True):
            norm = norms[min(level, len(norms) - 1)]  # type: ignore[index, arg-type]
            x = self.act(norm(conv(x)))
        y: Tensor = self.out(x)
        return y


class AnchorBoxes:
    """encode, loss, decode, ideal of the anchor head; `net` builds its forward.

    Raises:
        TercelError: an assigner with a shape of its own, which anchors would not heed; the coder `cell` with another
            assigner than MaxIou; objectness with FreeAnchor.
    """

    def __init__(self, config: AnchorHead, classes: int, strides: tuple[int, ...]) -> None:
        self.config, self.classes, self.strides = config, classes, strides
        c = config.assigner
        if not isinstance(c, Atss) and (c.side, c.ratio) != (type(c)().side, type(c)().ratio):
            raise TercelError(
                f"{type(c).__name__}: side and ratio are those of boxes around points, and this head has anchors",
                "set model.head.base, scales and ratios instead",
            )
        if config.coder == "cell" and not isinstance(c, MaxIou):
            raise TercelError(
                f"the coder `cell` needs anchors in the cell of a truth's centre, and {type(c).__name__} takes others",
                "set model.head.assigner=MaxIou, or model.head.coder=delta",
            )
        if config.objectness and isinstance(c, FreeAnchor):
            raise TercelError("FreeAnchor's loss has no objectness", "set model.head.objectness=false")

    def net(self, width: int, model: ModelConfig) -> AnchorNet:
        return AnchorNet(self.config, self.classes, width, self.strides, model)

    def encode(self, objects: Sequence[Objects], events: Sequence[tuple[Event, ...]] | None = None) -> BoxTargets:
        """Truth of a batch as flat arrays. Ignored objects become regions; boxes know no events."""
        return encode_boxes(objects, self.classes)

    def boxes(self, raw: AnchorRaw) -> Tensor:
        """Predicted boxes [B,A,4] px, x1 y1 x2 y2."""
        return boxes_of(self.deltas(raw), raw.anchors.boxes)

    def deltas(self, raw: AnchorRaw) -> Tensor:
        """How anchors move and grow [B,A,4]. With `cell` the centre goes to (sigmoid(x), sigmoid(y)) of its cell."""
        if self.config.coder == "delta":
            return raw.deltas
        return torch.cat([(raw.deltas[..., :2].sigmoid() - 0.5) * _cells(raw.anchors), raw.deltas[..., 2:]], -1)

    def scores(self, raw: AnchorRaw) -> Tensor:
        """Probabilities [B,A,C]: of the class, times that of an object."""
        if raw.objectness is None:
            return raw.logits.sigmoid()
        return raw.logits.sigmoid() * raw.objectness.sigmoid()[..., None]

    def assign(self, raw: AnchorRaw, boxes: Tensor, targets: BoxTargets) -> Assignment:
        """Which anchors answer for which truths, `quality` being the IoU of anchor and truth.

        Of FreeAnchor the likeliest ones of the bags, with their likelihood.
        """
        c, truths = self.config.assigner, targets.truths
        if isinstance(c, MaxIou):
            return assign_by_iou(c, raw.anchors, truths, targets.batch, self.config.coder == "cell")
        if isinstance(c, FreeAnchor):
            with torch.no_grad():
                bags = bags_of(c, raw.anchors, truths)
                likely = likelihoods(c, raw.logits, self.place(raw, bags, targets), bags, truths)
                return likeliest(likely, bags, len(raw.anchors.boxes))
        a = assign(c, self.scores(raw).detach(), boxes.detach(), raw.anchors, truths)
        return a._replace(quality=box_iou_pairs(raw.anchors.boxes[a.prior], truths.boxes[a.truth]))

    def loss(self, raw: AnchorRaw, targets: BoxTargets) -> Loss:
        """Sums of the focal loss over all anchors that are asked, and of smooth L1 of the deltas over the positives.

        With objectness the focal loss is the objectness's, and the classes have BCE over the positives. All are
        normalised by the number of positives. A positive's target is 1 whatever its overlap. Of FreeAnchor see
        `bag_loss`.
        """
        c, truths, boxes = self.config, targets.truths, self.boxes(raw).detach()
        if isinstance(c.assigner, FreeAnchor):
            return self.bag_loss(raw, boxes, targets)
        a = self.assign(raw, boxes, targets)
        yes = torch.zeros_like(raw.logits)
        yes[a.image, a.prior, truths.labels[a.truth]] = 1
        asked = counted(boxes, raw.anchors.centres, a, targets)
        if a.between is not None:
            asked = asked * ~a.between
        wanted = deltas_of(truths.boxes[a.truth], raw.anchors.boxes[a.prior])
        sums = {"box": c.box_gain * smooth_l1(self.deltas(raw)[a.image, a.prior], wanted, c.beta).sum()}
        if raw.objectness is None:
            sums["class"] = c.class_gain * (focal(raw.logits, yes, c.alpha, c.gamma).sum(-1) * asked).sum()
        else:
            some = focal(raw.objectness, yes.amax(-1), c.alpha, c.gamma)
            sums["object"] = c.class_gain * (some * asked).sum()
            sums["class"] = c.class_gain * bce(raw.logits[a.image, a.prior], yes[a.image, a.prior]).sum()
        facts = {
            "truths": float(len(truths.labels)),
            "positives": float(len(a.prior)),
            "starved": float(starved(a, truths)),
        }
        if isinstance(c.assigner, MaxIou):  # truths that no anchor fits
            facts["below_positive"] = float((a.quality < c.assigner.positive).sum())
        return Loss(sums, torch.tensor(float(len(a.prior)), device=raw.logits.device), facts)

    def place(self, raw: AnchorRaw, bags: Bags, targets: BoxTargets) -> Tensor:
        """Smooth L1 of the deltas in bags [P], times its gain."""
        truth, image, prior = bags.pairs
        wanted = deltas_of(targets.truths.boxes[truth], raw.anchors.boxes[prior])
        return self.config.box_gain * smooth_l1(raw.deltas[image, prior], wanted, self.config.beta).sum(-1)

    def bag_loss(self, raw: AnchorRaw, boxes: Tensor, targets: BoxTargets) -> Loss:
        """FreeAnchor's loss (free_anchor.py), with its own alpha and gamma; its normaliser is the number of truths.

        `class_gain` is the gain of all of it, `box_gain` weighs smooth L1 in the likelihood.
        """
        c, truths = self.config, targets.truths
        assert isinstance(c.assigner, FreeAnchor)
        bags = bags_of(c.assigner, raw.anchors, truths)
        asked = counted(boxes, raw.anchors.centres, NOBODY, targets)
        place = self.place(raw, bags, targets)
        bag, background = free_anchor_loss(c.assigner, raw.logits, boxes, place, bags, truths, asked)
        facts = {"truths": float(len(truths.labels)), "positives": float(bags.inside.sum()), "starved": 0.0}
        weight = torch.tensor(float(len(truths.labels)), device=raw.logits.device)
        return Loss({"bags": c.class_gain * bag, "background": c.class_gain * background}, weight, facts)

    def decode(self, raw: AnchorRaw, settings: Evaluate) -> tuple[list[Objects], list[bool]]:
        """Detections on the network canvas per picture, best first, and whether a cap was reached."""
        with torch.no_grad():
            return decode_boxes(self.scores(raw), self.boxes(raw), raw.size, settings)

    @torch.no_grad()
    def ideal(self, targets: BoxTargets, size: tuple[int, int]) -> AnchorRaw:
        """The perfect output: every positive anchor says its truth, each truth's best one the most surely."""
        maps = [(size[0] // s, size[1] // s) for s in self.strides]
        shapes = anchor_shapes(self.config, self.strides)
        anchors = make_anchors(maps, self.strides, shapes, torch.device("cpu"))
        truths, shape = targets.truths, (targets.batch, len(anchors.boxes))
        logits, deltas = torch.full((*shape, self.classes), -SURE), torch.zeros(*shape, 4)
        if isinstance(self.config.assigner, FreeAnchor):  # each truth on an anchor of its own, and none besides
            a = assign_by_iou(MaxIou(positive=1.0, negative=NEAR), anchors, truths, targets.batch)
        else:
            a = self.assign(AnchorRaw(logits, deltas, anchors, size), anchors.boxes.expand(*shape, 4), targets)
        best = {int(a.truth[k]): k for k in a.quality.argsort(stable=True).tolist()}  # of each truth the last, greatest
        logits[a.image, a.prior, truths.labels[a.truth]] = 0.75 * SURE
        first = torch.tensor(list(best.values()), dtype=torch.long)
        logits[a.image[first], a.prior[first], truths.labels[a.truth[first]]] = SURE
        deltas[a.image, a.prior] = deltas_of(truths.boxes[a.truth], anchors.boxes[a.prior])
        if self.config.coder == "cell":
            deltas[..., :2] = (deltas[..., :2] / _cells(anchors) + 0.5).logit(eps=1e-6)
        return AnchorRaw(logits, deltas, anchors, size, logits.amax(-1) if self.config.objectness else None)


def _cells(anchors: Anchors) -> Tensor:
    """How many anchor widths and heights a cell has, f32 [A,2]."""
    return anchors.priors.strides[:, None] / (anchors.boxes[:, 2:] - anchors.boxes[:, :2])
