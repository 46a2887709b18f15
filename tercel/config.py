"""Every setting: frozen, typed, keyword-only dataclasses with their defaults and ranges.

A recipe (tercel/recipes) is a function that returns a `Recipe`; a variant is `dataclasses.replace(...)`. There is one
default, in one place: here, or in the recipe. How settings are checked, read and written: tercel/core/settings.py.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from tercel.core.settings import Checked, dump, flat, load, num, nums, override

__all__ = ["dump", "flat", "load", "num", "nums", "override"]

# -- data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Data(Checked):
    """How pictures reach the network."""

    size: tuple[int, int] = nums((320, 320), 8, 16_384)  # network input (height, width) in px
    fill: int = num(114, 0, 255)  # grey of the letterbox border
    workers: int = num(2, 0, 64)  # loader threads; 0 = load in the training thread
    cache_gb: float = num(4.0, 0, 4096)  # RAM for decoded pictures; what does not fit is cached on disk
    cache_dir: str = ""  # disk cache of decoded pictures; empty = <user cache>/tercel
    min_visible: float = num(0.2, 0, 1)  # truth of which less stays in view after augmentation leaves


@dataclass(frozen=True, kw_only=True)
class Augment(Checked):
    """Random changes of training pictures. All geometry folds into one warp per source picture."""

    mosaic: float = num(0.5, 0, 1)  # probability of four pictures on one canvas
    scale: float = num(0.5, 0, 0.95)  # zoom factor drawn log-uniformly from 1-s .. 1/(1-s)
    shift: float = num(0.1, 0, 0.5)  # shift as a share of the canvas
    rotate: float = num(0.0, 0, 180)  # degrees, both ways
    shear: float = num(0.0, 0, 45)  # degrees, both ways
    flip: float = num(0.5, 0, 1)  # probability of a left-right mirror
    flip_vertical: float = num(0.0, 0, 1)  # probability of an upside-down mirror
    hue: float = num(0.015, 0, 0.5)  # share of the colour circle, both ways
    saturation: float = num(0.5, 0, 1)  # factor 1-s .. 1+s
    brightness: float = num(0.4, 0, 1)  # factor 1-b .. 1+b
    blur: float = num(0.0, 0, 1)  # probability of a light Gaussian blur
    noise: float = num(0.0, 0, 64)  # standard deviation of pixel noise in grey levels, drawn from 0..n
    close_epochs: int = num(0, 0, 1_000_000)  # the last epochs run without mosaic
    reverse: float = num(0.0, 0, 1)  # probability that a clip runs backwards (refused where events have a direction)
    mask_ball: float = num(0.0, 0, 1)  # probability that the ball is painted over in all frames and becomes absent
    paste_ball: float = num(0.0, 0, 1)  # probability that a copy of the ball, with its motion, moves elsewhere


# -- model ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SmallNet(Checked):
    """Our small backbone: patch stem, dense 3x3 residual blocks, quick in bf16 on CPUs (docs/decisions)."""

    stem: int = num(32, 8, 512)
    widths: tuple[int, ...] = nums((32, 64, 128, 256), 1, 8192)  # at strides 4, 8, 16, 32
    depths: tuple[int, ...] = nums((1, 2, 2, 1), 0, 64)


@dataclass(frozen=True, kw_only=True)
class TimmNet(Checked):
    """Any timm backbone that has features_only (resnet50, darknet53, ...); `weights` fetches pretrained ones."""

    model: str = "resnet18"
    weights: bool = False
    frozen_statistics: bool = False  # batch norm keeps its statistics (small batches, several devices)


@dataclass(frozen=True, kw_only=True)
class SmpNet(Checked):
    """An encoder-decoder of segmentation-models-pytorch with one map, at stride 1 (DeepLabV3+: 4).

    The decoder, the neck and the head use the encoder's activation. `model.strides` names the map's stride.
    """

    decoder: Literal["unet", "unetplusplus", "deeplabv3plus"] = "unet"
    encoder: str = "resnet18"
    weights: bool = False
    width: int = num(32, 8, 1024)  # channels of the map


@dataclass(frozen=True, kw_only=True)
class Hourglass(Checked):
    """Stacked hourglasses (Newell et al. 2016) with one map at stride 4, which `model.strides` names.

    CornerNet's and CenterNet's 104 layers: stem 128, widths 256,256,384,384,384,512, blocks 2,2,2,2,2,4, two stacks.
    """

    stem: int = num(64, 8, 512)
    widths: tuple[int, ...] = nums((64, 96, 128), 1, 8192)  # at strides 4, 8, 16, ...; as many as you like
    blocks: tuple[int, ...] = nums((1, 1, 1), 1, 16)  # residual blocks per level
    stacks: int = num(1, 1, 4)


@dataclass(frozen=True, kw_only=True)
class Fuse(Checked):
    """All maps brought to the finest one and added, with weights per place where `adaptive` (ASFF, Liu et al. 2019)."""

    width: int = num(64, 8, 1024)
    adaptive: bool = True


@dataclass(frozen=True, kw_only=True)
class Fpn(Checked):
    """Feature pyramid, top-down only (Lin et al. 2017)."""

    width: int = num(96, 8, 1024)
    extra: int = num(0, 0, 3)  # maps beyond the coarsest one, each of twice the stride (RetinaNet's P6 and P7)


@dataclass(frozen=True, kw_only=True)
class Pan(Checked):
    """Feature pyramid with a second, bottom-up path (Liu et al. 2018)."""

    width: int = num(96, 8, 1024)
    depth: int = num(1, 1, 8)
    extra: int = num(0, 0, 3)  # maps beyond the coarsest one, each of twice the stride


@dataclass(frozen=True, kw_only=True)
class BiFpn(Checked):
    """Weighted bidirectional pyramid (EfficientDet, Tan et al. 2020)."""

    width: int = num(64, 8, 1024)
    repeats: int = num(2, 1, 16)
    extra: int = num(0, 0, 3)  # maps beyond the coarsest one, each of twice the stride


@dataclass(frozen=True, kw_only=True)
class TaskAligned(Checked):
    """Task-aligned assignment (TOOD, Feng et al. 2021): the top k priors by score^alpha * IoU^beta."""

    topk: int = num(10, 1, 100)
    alpha: float = num(0.5, 0, 10)
    beta: float = num(6.0, 0, 10)


@dataclass(frozen=True, kw_only=True)
class SimOta(Checked):
    """SimOTA (YOLOX, Ge et al. 2021): cost = class loss + weight * IoU loss; k from the sum of the best IoUs."""

    candidates: int = num(10, 1, 100)
    radius: float = num(2.5, 0.5, 10)  # centre region in strides
    iou_weight: float = num(3.0, 0, 100)


@dataclass(frozen=True, kw_only=True)
class MaxIou(Checked):
    """Anchors by overlap alone (Ren et al. 2015): from `positive` on an anchor answers for its best truth, below
    `negative` for none, and between the two it is not asked. Every truth gets an anchor of its own, the best one left.

    Heads without anchors stand in a box around each point: `side` and `ratio`. Anchor heads have shapes of their own.
    """

    positive: float = num(0.5, 0.1, 1)  # IoU
    negative: float = num(0.4, 0.1, 1)  # IoU
    side: float = num(4.0, 0.25, 64)  # root of the area of the box around a point, in strides
    ratio: float = num(1.0, 0.05, 20)  # its height over its width


@dataclass(frozen=True, kw_only=True)
class Atss(Checked):
    """ATSS (Zhang et al. 2020): per truth and map the k nearest priors; of them, those above mean + deviation."""

    topk: int = num(9, 1, 100)


@dataclass(frozen=True, kw_only=True)
class Fcos(Checked):
    """FCOS (Tian et al. 2019): the priors near the centre of a truth, on the map for its size; the smallest truth wins.

    A map of stride s answers for truths whose farthest side is up to `reach` s away, the next finer map up to half of
    that; the coarsest map has no such end.
    """

    radius: float = num(1.5, 0.5, 10)  # centre region in strides
    reach: float = num(8.0, 0.5, 64)  # strides


@dataclass(frozen=True, kw_only=True)
class Ota(Checked):
    """OTA (Ge et al. 2021): truths and background share out the priors as an optimal transport, found by Sinkhorn."""

    candidates: int = num(20, 1, 100)  # a truth supplies the sum of its best IoUs among so many priors
    radius: float = num(2.5, 0.5, 10)  # centre region in strides
    iou_weight: float = num(1.5, 0, 100)
    smoothing: float = num(0.1, 1e-3, 10)  # of the transport: its entropy's weight, in units of the cost
    rounds: int = num(50, 1, 1000)


@dataclass(frozen=True, kw_only=True)
class FreeAnchor(Checked):
    """FreeAnchor (Zhang et al. 2019): a loss over bags of priors, which learns by itself which of them answer."""

    bag: int = num(50, 1, 1000)  # priors per truth, those of the greatest IoU
    side: float = num(4.0, 0.25, 64)  # of the box around a point, as in MaxIou; anchor heads have shapes of their own
    ratio: float = num(1.0, 0.05, 20)
    covered: float = num(0.6, 0, 0.99)  # IoU of a prediction with a truth from which it is less of a negative
    alpha: float = num(0.5, 0, 1)  # share of the bags, against the negatives
    gamma: float = num(2.0, 0, 10)  # of the negatives' focal loss
    place_weight: float = num(0.75, 0, 100)  # of the box loss under the exponent: likelihood = exp(-weight * loss)


@dataclass(frozen=True, kw_only=True)
class OneToOne(Checked):
    """One prior answers for each truth, so that nothing has to be suppressed (Wang et al. 2021, Wang et al. 2024).

    Truths and priors are matched so that the product of all score^alpha * IoU^beta is the greatest.
    """

    alpha: float = num(0.5, 0, 10)
    beta: float = num(6.0, 0, 10)
    topk: int = num(10, 1, 100)  # priors per truth that learn its box; all but one of them say no; 1 = that one alone


@dataclass(frozen=True, kw_only=True)
class BoxHead(Checked):
    """Anchor-free dense boxes: class scores and the distances to the four sides."""

    width: int = num(64, 8, 1024)
    depth: int = num(2, 0, 8)
    shared: bool = False  # the same towers for all maps (FCOS), so that rare sizes learn too; norm must be group
    coder: Literal["dfl", "ltrb"] = "dfl"  # each distance as a distribution over bins, or as one number
    bins: int = num(16, 2, 64)  # of each distance, in strides; the first one is at -1; with `dfl`
    assigner: TaskAligned | SimOta | MaxIou | Atss | Fcos | Ota | FreeAnchor | OneToOne = TaskAligned()
    class_loss: Literal["bce", "focal", "quality", "varifocal"] = "bce"
    box_loss: Literal["iou", "giou", "diou", "ciou", "smooth_l1"] = "ciou"
    class_gain: float = num(0.5, 0, 1000)
    box_gain: float = num(7.5, 0, 1000)
    dfl_gain: float = num(1.5, 0, 1000)  # with `dfl`
    density: bool = False  # predicts how much an object overlaps another one, for evaluate.suppress=adaptive
    density_gain: float = num(1.0, 0, 1000)
    pairs: bool = False  # two boxes per prior (CrowdDet), for evaluate.suppress=set; with MaxIou, Atss or Fcos
    prior: float = num(0.01, 1e-6, 0.5)  # class probability at the start, on the coarsest map


@dataclass(frozen=True, kw_only=True)
class AnchorHead(Checked):
    """Dense boxes from anchors: class scores, and how each anchor has to move and grow (RetinaNet, YOLOv3)."""

    width: int = num(64, 8, 1024)
    depth: int = num(2, 0, 8)
    separable: bool = False  # EfficientDet's depth-wise separable convolutions in place of dense ones
    base: float = num(4.0, 0.25, 64)  # side of the anchor of scale 1, in strides
    scales: tuple[float, ...] = nums((1.0, 2 ** (1 / 3), 2 ** (2 / 3)), 0.1, 10, rising=True)
    ratios: tuple[float, ...] = nums((0.5, 1.0, 2.0), 0.05, 20, rising=True)  # height over width; the area stays
    sizes: tuple[float, ...] = ()  # px, w1,h1,w2,h2,... shared out among the maps; in place of base, scales, ratios
    coder: Literal["delta", "cell"] = "delta"  # `cell`: the centre stays in its cell (YOLOv3); with MaxIou
    objectness: bool = False  # whether there is an object apart from which one it is (YOLOv3)
    assigner: MaxIou | Atss | FreeAnchor = MaxIou()
    gamma: float = num(2.0, 0, 10)  # of the focal loss
    alpha: float = num(0.25, 0, 1)
    beta: float = num(0.1, 1e-3, 10)  # of the smooth L1 loss: where it turns straight, in units of the deltas
    class_gain: float = num(1.0, 0, 1000)
    box_gain: float = num(1.0, 0, 1000)
    prior: float = num(0.01, 1e-6, 0.5)  # class probability at the start


@dataclass(frozen=True, kw_only=True)
class OrientedHead(Checked):
    """Anchor-free dense oriented boxes: class scores; centre offset, length, width as distributions; and the angle."""

    width: int = num(64, 8, 1024)
    depth: int = num(2, 0, 8)
    bins: int = num(16, 4, 64)  # of each distribution; lengths reach bins - 1 strides
    angle: Literal["vector", "bins", "direct"] = "vector"  # (cos 2t, sin 2t); a distribution over half a turn; t itself
    angle_bins: int = num(36, 4, 360)  # with `bins`
    assigner: TaskAligned | SimOta | Atss = TaskAligned()
    class_loss: Literal["bce", "focal", "quality", "varifocal"] = "bce"
    box_loss: Literal["probiou", "kld", "gwd", "kfiou", "rotated_iou", "smooth_l1"] = "probiou"
    class_gain: float = num(0.5, 0, 1000)
    box_gain: float = num(7.5, 0, 1000)
    dfl_gain: float = num(1.5, 0, 1000)
    angle_gain: float = num(1.0, 0, 1000)  # weighs less for nearly square boxes, whose angle says little
    heading: bool = False  # which end is the front
    heading_gain: float = num(0.5, 0, 1000)
    quality: bool = False  # predicts the IoU of its own box, and ranks by it
    quality_gain: float = num(0.5, 0, 1000)
    prior: float = num(0.01, 1e-6, 0.5)  # class probability at the start, on the coarsest map


@dataclass(frozen=True, kw_only=True)
class EventHead(Checked):
    """Events per answered frame (bounce, net, hit) from the features that the ball uses; off while `gain` is 0.

    The target of a frame n frames away from an event is cos(n pi / (2 reach)), as TTNet has it with reach 4.
    """

    gain: float = num(0.0, 0, 1000)
    reach: int = num(4, 1, 64)  # frames
    width: int = num(64, 8, 1024)


@dataclass(frozen=True, kw_only=True)
class BallHeatmap(Checked):
    """One map of ball probability per answered frame, with an offset within the cell."""

    stride: Literal[1, 2, 4] = 4  # of the map, in px of the network's input
    width: int = num(64, 8, 1024)
    depth: int = num(1, 0, 8)
    target: Literal["gaussian", "disc"] = "gaussian"
    target_width: float = num(7.0, 1, 256)  # px: full width at half maximum of the Gaussian, diameter of the disc
    loss: Literal["focal", "adaptive_wing", "weighted_bce"] = "focal"
    loss_gain: float = num(1.0, 0, 1000)
    offset: bool = True
    offset_gain: float = num(1.0, 0, 1000)
    prior: float = num(0.01, 1e-6, 0.5)  # probability at the start, in every channel
    events: EventHead = EventHead()


@dataclass(frozen=True, kw_only=True)
class BallGrid(Checked):
    """Per cell and answered frame: confidence and place in the cell, optionally motion and hit; strides of the neck."""

    width: int = num(64, 8, 1024)
    depth: int = num(1, 0, 8)
    position: Literal["sigmoid", "dfl"] = "sigmoid"
    bins: int = num(16, 2, 64)  # of the place, with `dfl`
    position_loss: Literal["smooth_l1", "mse", "gaussian_iou", "dfl"] = "smooth_l1"
    position_gain: float = num(3.0, 0, 10_000)
    neighbours: bool = False  # the 3x3 cells around the ball answer for it too
    confidence_loss: Literal["focal", "weighted_bce"] = "focal"
    confidence_gain: float = num(1.0, 0, 10_000)
    gamma: float = num(2.0, 0, 10)
    alpha: float = num(0.75, 0, 1)
    negatives: int = num(3, 0, 10_000)  # hardest negatives kept for each positive; 0 = all
    miss_weight: float = num(1.0, 0, 10_000)  # factor on balls below .5
    ghost_weight: float = num(1.0, 0, 10_000)  # factor on empty cells above .5 that touch no ball's cell
    motion: bool = False  # dx, dy to the next frame, where both frames show the ball
    motion_gain: float = num(1.0, 0, 10_000)
    hit: bool = False  # an event "hit" per cell; needs an event of that name
    hit_gain: float = num(1.0, 0, 10_000)
    prior: float = num(0.01, 1e-6, 0.5)  # confidence at the start, on the coarsest map
    events: EventHead = EventHead()


@dataclass(frozen=True, kw_only=True)
class KeypointHead(Checked):
    """The dense head of boxes, and beside each box K named points with the probability that each is visible."""

    box: BoxHead = BoxHead()
    width: int = num(64, 8, 1024)  # of the towers for points
    depth: int = num(2, 0, 8)
    depthwise: bool = False  # depth-wise separable convolutions in these towers, in place of dense ones
    reach: float = num(1.5, 0.6, 10)  # points lie within so many box lengths of the box's centre, in x and in y
    heatmap: bool = True  # and a map per point, to whose peaks the points of each box move; read from the finest map
    heatmap_width: float = num(12.0, 1, 256)  # px: full width at half maximum of its Gaussians
    # Which end of an animal is which is harder to learn than its box: with gains like those of the box, the network had
    # hardly begun to tell left from right when these had broken through (docs/log.md, "Turtles: left and right").
    heatmap_gain: float = num(50.0, 0, 10_000)
    oks_gain: float = num(5.0, 0, 10_000)
    near_gain: float = num(500.0, 0, 10_000)  # of the smooth L1 of the ways to the points from every place on an object
    visible_gain: float = num(1.0, 0, 1000)


@dataclass(frozen=True, kw_only=True)
class KeypointHeatmap(Checked):
    """One map of probability per named point, with an offset within the cell: for one animal per picture."""

    stride: Literal[1, 2, 4] = 4  # of the maps, in px of the network's input
    width: int = num(64, 8, 1024)
    depth: int = num(1, 0, 8)
    target_width: float = num(12.0, 1, 256)  # px: full width at half maximum of the Gaussian
    loss: Literal["focal", "adaptive_wing", "weighted_bce"] = "focal"
    loss_gain: float = num(1.0, 0, 1000)
    offset_gain: float = num(1.0, 0, 1000)
    prior: float = num(0.01, 1e-6, 0.5)  # probability at the start, in every channel


@dataclass(frozen=True, kw_only=True)
class Clip(Checked):
    """Which frames the network sees at once, and for which of them it answers. A still picture is a clip of one."""

    frames: int = num(1, 1, 64)
    stride: int = num(1, 1, 64)  # frames from one to the next within a window
    hop: int = num(1, 1, 4096)  # frames between the starts of training windows
    answers: Literal["all", "last", "middle"] = "all"
    channels: Literal["rgb", "grey", "difference"] = "rgb"  # difference: grey, and the change since the frame before
    background: bool = False  # the median picture of the clip's video as one more frame

    @property
    def answered(self) -> tuple[int, ...]:
        """Indices, within the window, of the frames that are answered."""
        t = self.frames
        return {"all": tuple(range(t)), "last": (t - 1,), "middle": (t // 2,)}[self.answers]

    @property
    def pictures(self) -> int:
        """Pictures that the network is given: the frames, and the background where it is one."""
        return self.frames + self.background

    @property
    def planes(self) -> int:
        """Channels that the network sees."""
        if self.channels == "rgb":
            return 3 * self.pictures
        return self.pictures + (self.frames - 1 if self.channels == "difference" else 0)


@dataclass(frozen=True, kw_only=True)
class Model(Checked):
    """Clip, backbone, neck, head."""

    clip: Clip = Clip()
    backbone: SmallNet | TimmNet | SmpNet | Hourglass = SmallNet()
    neck: Fpn | Pan | BiFpn | Fuse = Pan()
    head: BoxHead | AnchorHead | OrientedHead | KeypointHead | KeypointHeatmap | BallHeatmap | BallGrid = BoxHead()
    strides: tuple[int, ...] = nums((8, 16, 32), 1, 128, rising=True)
    norm: Literal["batch", "group"] = "batch"
    mean: tuple[float, float, float] = nums(
        (123.675, 116.28, 103.53), -1000, 1000
    )  # RGB, subtracted inside the network
    std: tuple[float, float, float] = nums((58.395, 57.12, 57.375), 1e-3, 1000)


# -- training, evaluation ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Train(Checked):
    """The loop."""

    epochs: int = num(50, 1, 100_000)
    samples: int = num(0, 0, 1_000_000_000)  # samples in an epoch (virtual epoch); 0 = the data set once
    batch: int = num(16, 1, 65_536)  # per step and device
    accumulate: int = num(1, 1, 1024)  # steps whose gradients are summed into one update
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = num(2e-3, 0, 10)
    weight_decay: float = num(0.02, 0, 1)  # on weights of convolutions and linear layers only
    momentum: float = num(0.9, 0, 0.9999)
    warmup: float = num(0.03, 0, 0.9)  # share of all updates
    final_lr: float = num(0.01, 0, 1)  # of lr, at the end of the cosine
    clip: float = num(10.0, 0, 1e9)  # gradient norm; 0 = off
    ema: float = num(0.998, 0, 0.99999)  # decay of the averaged weights; 0 = off
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = num(0, 0, 1024)  # CPU threads of the network; 0 = all cores
    seed: int = num(0, 0, 2**31)
    evaluate_every: int = num(5, 1, 100_000)  # epochs
    checkpoint_minutes: float = num(5.0, 0, 10_000)  # a checkpoint at least this often; 0 = only at evaluations
    sample_pictures: int = num(4, 0, 64)  # fixed pictures drawn at each evaluation


@dataclass(frozen=True, kw_only=True)
class Ball(Checked):
    """From the network's answers to a trajectory, and the rule by which it is judged."""

    threshold: float = num(0.5, 0, 1)  # score from which a frame has a ball
    candidates: int = num(5, 1, 100)  # kept per frame, for the motion model
    refine: Literal["peak", "centroid"] = "peak"  # the cell's own place, or the score-weighted centre around it
    hop: int = num(0, 0, 64)  # frames between the starts of windows; 0 = no overlap; fewer than answered: averaged
    track: bool = False  # reject jumps and fill gaps with the motion model before judging
    gap: int = num(5, 0, 1000)  # longest run of frames that the motion model may fill
    gate: float = num(3.5, 0.1, 100)  # standard deviations beyond which a candidate is no continuation
    jerk: float = num(4.0, 1e-3, 1e6)  # standard deviation of the unmodelled acceleration, px of 1280 wide per frame^2
    rule: Literal["tracknet_v2_v3", "tracknet_v5", "wasb", "wasb_occluded_visible", "totnet", "pingpong"] = (
        "tracknet_v2_v3"  # whose F1 is shown first and names best; all rules are always reported
    )


@dataclass(frozen=True, kw_only=True)
class Tiles(Checked):
    """Large pictures in overlapping tiles of the network's input size; off while `size` and `width` are 0."""

    size: int = num(0, 0, 65_536)  # longer side of a tile in px of the picture; what fits one tile is seen whole
    width: float = num(0.0, 0, 10_000)  # px at the network's input that the common object is wide, as in training
    common: float = num(0.0, 0, 100_000)  # its width in px of the picture; 0 = measured on each picture; with `width`
    sure: float = num(0.3, 0, 1)  # score from which detections are measured
    overlap: float = num(0.26, 0, 0.9)  # share of a tile's shorter side; best no less than the longest object
    merge: Literal["nms", "fusion"] = "nms"
    iou: float = num(0.5, 0, 1)  # from which two tiles show the same object
    max_detections: int = num(3000, 1, 1_000_000)  # per picture, over all tiles and views

    @property
    def on(self) -> bool:
        return bool(self.size or self.width)


@dataclass(frozen=True, kw_only=True)
class Views(Checked):
    """Test-time augmentation: every combination of mirrors, turns and zooms is seen, and merged."""

    flip: bool = False  # the mirror image too
    flip_vertical: bool = False
    rotations: tuple[float, ...] = nums((0.0,), -180, 180)  # degrees; others than quarter turns for oriented boxes only
    scales: tuple[float, ...] = nums((1.0,), 0.05, 20)  # of the zoom
    merge: Literal["nms", "fusion"] = "fusion"
    iou: float = num(0.55, 0, 1)  # from which two views show the same object
    orient: float = num(0.0, 0, 45)  # degrees between turns from which a boxes model gives oriented boxes; 0 = off
    orient_seen: float = num(0.5, 0, 1)  # share of these turns that must show an object

    @property
    def on(self) -> bool:
        return self.orient > 0 or len(self.combinations) > 1 or self.combinations[0] != (1.0, 0.0, False, False)

    @property
    def combinations(self) -> list[tuple[float, float, bool, bool]]:
        """(zoom, degrees, mirrored, upside down) of each view."""
        flips, downs = ([False, True] if on else [False] for on in (self.flip, self.flip_vertical))
        return list(itertools.product(self.scales, self.rotations, flips, downs))


@dataclass(frozen=True, kw_only=True)
class Evaluate(Checked):
    """Decoding and judging."""

    batch: int = num(16, 1, 4096)
    score_floor: float = num(0.001, 0, 1)  # detections below are not kept for the curves
    suppress: Literal["greedy", "soft_linear", "soft_gaussian", "diou", "adaptive", "set", "fusion", "none"] = "greedy"
    suppress_iou: float = num(0.65, 0, 1)  # from which two boxes show the same; not for `soft_gaussian` and `none`
    soft_sigma: float = num(0.5, 1e-3, 100)  # scores lose exp(-IoU^2 / sigma), with `soft_gaussian`
    class_agnostic: bool = False  # suppress across classes
    max_detections: int = num(300, 1, 1_000_000)  # per picture; a picture that reaches it is reported
    max_candidates: int = num(3000, 1, 10_000_000)  # per picture, before suppression
    show_score: float = num(0.3, 0, 1)  # detections drawn on pictures
    select: Literal[
        "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "F1", "OKS_AP", "PCK@.05", "PCK@.1", "JI", "MR-2"
    ] = "AP"  # the score whose highest value in the log names best; of MR-2 the lowest
    resamples: int = num(200, 0, 100_000)  # bootstrap over pictures (balls: rallies) for the intervals; 0 = none
    ball: Ball = Ball()
    tiles: Tiles = Tiles()
    views: Views = Views()


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """Everything that decides a run, apart from the data."""

    name: str
    task: Literal["boxes", "oriented", "keypoints", "crowd", "ball"] = "boxes"
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
