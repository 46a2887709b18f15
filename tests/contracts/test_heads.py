"""What every head must keep. A new head is covered by one line in HEADS; each contract is shown to catch a bug."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tercel.config import (
    AnchorHead,
    Atss,
    BallGrid,
    BallHeatmap,
    BiFpn,
    BoxHead,
    Clip,
    Data,
    Evaluate,
    EventHead,
    Fcos,
    FreeAnchor,
    Fuse,
    KeypointHead,
    KeypointHeatmap,
    MaxIou,
    Model,
    OneToOne,
    OrientedHead,
    Ota,
    Pan,
    Recipe,
    SimOta,
    SmallNet,
    TaskAligned,
)
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Event, Frame, Record
from tercel.core.schema import Schema
from tercel.core.warp import Warp
from tercel.engine.evaluate import encode_ceiling
from tercel.models.assign_iou import assign_by_iou
from tercel.models.detector import Detector
from tercel.models.heads.anchors import AnchorBoxes
from tercel.models.heads.ball_grid import Grid
from tercel.models.heads.ball_heatmap import Heatmap
from tercel.models.heads.boxes import DenseBoxes, DenseRaw
from tercel.models.heads.keypoint_heatmap import PointMaps
from tercel.models.heads.keypoints import DenseKeypoints
from tercel.models.heads.oriented import DenseOriented
from tercel.models.necks import neck_strides

SIZE = (96, 160)  # not square: swapped axes cannot hide
CLASSES = ("a", "b", "c")


def scatter(rng: np.random.Generator, n: int, size: tuple[int, int] = SIZE) -> Objects:
    """n boxes of 6..60 px, apart from each other, inside the canvas."""
    boxes: list[list[float]] = []
    while len(boxes) < n:
        w, h = np.exp(rng.uniform(np.log(6), np.log(60), 2))
        x, y = rng.uniform(0, max(size[1] - w, 0)), rng.uniform(0, max(size[0] - h, 0))
        boxes.append([x, y, min(x + w, size[1]), min(y + h, size[0])])
    return Objects(size, rng.integers(0, len(CLASSES), n), np.array(boxes, np.float32).reshape(-1, 4))


def turned(rng: np.random.Generator, n: int, size: tuple[int, int] = SIZE) -> Objects:
    """n oriented boxes, centres inside the canvas, with a front; half of the fronts are known."""
    centre = rng.uniform(0.1, 0.9, (n, 2)) * (size[1], size[0])
    sides = np.sort(np.exp(rng.uniform(np.log(6), np.log(50), (n, 2))), 1)[:, ::-1]
    theta = rng.uniform(-np.pi / 2, np.pi / 2 - 1e-3, (n, 1))
    obbs = np.concatenate([centre, sides, theta], 1).astype(np.float32)
    labels, headed = rng.integers(0, len(CLASSES), n), np.arange(n) % 2 == 0
    heading = obbs[:, 4] + np.pi * rng.integers(0, 2, n).astype(np.float32)
    return Objects(size, labels, obb_hull(obbs), obbs=obbs, heading=heading, headed=headed)


def posed(o: Objects, rng: np.random.Generator, count: int) -> Objects:
    """The objects with points in and around their boxes, up to 1.4 lengths from the centre; a third are absent."""
    centre, length = (o.boxes[:, None, :2] + o.boxes[:, None, 2:]) / 2, (o.boxes[:, 2:] - o.boxes[:, :2]).max(1)
    points = centre + rng.uniform(-1.4, 1.4, (len(o), count, 2)) * length[:, None, None]
    visible = rng.integers(0, 3, (len(o), count))
    visible[:, :1] = rng.integers(1, 3, (len(o), 1))
    return o.replace(points=points, visible=visible)


def lone(rng: np.random.Generator, count: int, size: tuple[int, int] = SIZE) -> Objects:
    """One object with all its points on the canvas; a third are absent, never the first."""
    points = (rng.uniform(0, 1, (count, 2)) * (size[1], size[0])).astype(np.float32)
    visible = rng.integers(0, 3, (1, count))
    visible[0, 0] = 2
    box = np.concatenate([points.min(0), points.max(0)])
    return Objects(size, [0], box[None], points=points[None], visible=visible)


def balls(rng: np.random.Generator, frame: Any, size: tuple[int, int] = SIZE) -> Objects:
    """A ball in each of the given frames, anywhere on the canvas."""
    n = len(frame)
    xy = (rng.uniform(0, 1, (n, 2)) * (size[1], size[0])).astype(np.float32)
    visible = rng.integers(1, 4, (n, 1))
    boxes = np.concatenate([xy, xy], 1)
    return Objects(size, np.zeros(n, int), boxes, points=xy[:, None], visible=visible, frame=frame)


@dataclass
class Case:
    """A head with a small network around it, and truth to feed it."""

    name: str
    model: Model
    schema: Schema = field(default_factory=lambda: Schema(CLASSES))

    @property
    def still(self) -> bool:
        return isinstance(self.model.head, BoxHead | AnchorHead | OrientedHead | KeypointHead | KeypointHeatmap)

    def detector(self, seed: int = 0) -> Detector:
        torch.manual_seed(seed)
        return Detector(self.model, self.schema).eval()

    def some(self, rng: np.random.Generator, n: int) -> Objects:
        """n objects; balls: one in each frame, or n of them in any when they are more than the frames."""
        t, points = self.model.clip.frames, len(self.schema.keypoints)
        if isinstance(self.model.head, KeypointHeatmap):  # answers for one per picture
            return lone(rng, points)
        if self.still:
            some = turned(rng, n) if isinstance(self.model.head, OrientedHead) else scatter(rng, n)
            return posed(some, rng, points) if points else some
        return balls(rng, np.arange(t) if n <= 6 else rng.integers(0, t, n))

    def truth(self, seed: int, batch: int = 3, n: int = 6) -> list[Objects]:
        rng = np.random.default_rng(seed)
        return [self.some(rng, n) for _ in range(batch)]

    def images(self, batch: int, seed: int = 0) -> torch.Tensor:
        g = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, (batch, self.model.clip.pictures, 3, *SIZE), dtype=torch.uint8, generator=g)

    def answered(self, o: Objects) -> int:
        """How many of these objects a head is asked for."""
        kept = ~o.ignore if self.still or o.frame is None else ~o.ignore & np.isin(o.frame, self.model.clip.answered)
        return int(kept.sum())

    def plant(self, bug: type[Any]) -> Any:
        """The head with a bug."""
        m = self.model
        if self.schema.keypoints:
            return bug(m.head, self.schema, neck_strides(m.neck, m.strides))
        if self.still:
            return bug(m.head, len(self.schema.classes), neck_strides(m.neck, m.strides))
        return bug(m.head, self.schema, neck_strides(m.neck, m.strides), m.clip)


TINY = Model(backbone=SmallNet(stem=8, widths=(8, 16, 16, 16), depths=(0, 1, 1, 1)), norm="group")
BOXES = [
    Case(
        f"boxes-{type(a).__name__}-{c}",
        replace(TINY, head=BoxHead(width=16, depth=1, assigner=a, class_loss=c, box_loss=b)),
    )
    for a, c, b in [
        (TaskAligned(), "bce", "ciou"),
        (TaskAligned(), "varifocal", "giou"),
        (SimOta(), "quality", "diou"),
        (SimOta(), "focal", "smooth_l1"),
        (MaxIou(side=2.0, positive=0.4, negative=0.3), "bce", "ciou"),
        (Atss(), "quality", "giou"),
        (Fcos(), "focal", "iou"),
        (Ota(), "bce", "giou"),
        (OneToOne(), "varifocal", "ciou"),
        (FreeAnchor(), "bce", "diou"),
    ]
]
BRANCHES = [
    Case(f"boxes-{name}", replace(TINY, head=replace(head, width=16, depth=1)))
    for name, head in [
        ("ltrb", BoxHead(coder="ltrb", shared=True, assigner=Fcos(), class_loss="quality", box_loss="giou")),
        ("ltrb-bags", BoxHead(coder="ltrb", assigner=FreeAnchor())),
        ("density", BoxHead(density=True)),
        ("pairs", BoxHead(pairs=True, assigner=Atss())),
        ("pairs-density", BoxHead(pairs=True, density=True, assigner=MaxIou(side=2.0, positive=0.4, negative=0.3))),
    ]
]
YOLO = tuple(float(x) for x in (6, 14, 12, 9, 14, 30, 30, 20, 30, 60, 60, 40))  # two sizes for each of three maps
ANCHORS = [
    Case(f"anchors-{name}", replace(TINY, neck=neck, head=replace(head, width=16)))
    for name, neck, head in [
        ("retina", Pan(width=16), AnchorHead(base=2)),
        ("separable", Pan(width=16), AnchorHead(base=2, depth=1, separable=True, scales=(1, 1.5), gamma=1.5)),
        ("bifpn", BiFpn(width=16, repeats=1), AnchorHead(assigner=MaxIou(positive=0.4), depth=0)),
        ("atss", Pan(width=16), AnchorHead(base=2, assigner=Atss(topk=5), scales=(1,))),
        ("free", Pan(width=16), AnchorHead(base=2, assigner=FreeAnchor(bag=20))),
        ("cell", Pan(width=16), AnchorHead(base=2, coder="cell")),
        ("yolo", Pan(width=16), AnchorHead(sizes=YOLO, coder="cell", objectness=True, gamma=0, alpha=0.5)),
        ("objectness", Pan(width=16), AnchorHead(base=2, objectness=True, assigner=Atss())),
    ]
]
FINE = replace(TINY, neck=Fuse(width=16), strides=(4, 8, 16, 32))
COARSE = replace(TINY, neck=Pan(width=16), strides=(8, 16, 32))
EVENTS = EventHead(gain=1.0, width=8)
BALLS = [
    Case(f"ball-{name}", replace(base, head=head, clip=clip), Schema(("ball",), events=events))
    for name, base, head, clip, events in [
        ("heatmap-focal", FINE, BallHeatmap(width=16), Clip(frames=3), ()),
        (
            "heatmap-wing",
            FINE,
            BallHeatmap(width=16, stride=2, loss="adaptive_wing"),
            Clip(frames=4, answers="middle", channels="grey", background=True),
            (),
        ),
        (
            "heatmap-disc",
            FINE,
            BallHeatmap(width=16, stride=1, target="disc", loss="weighted_bce"),
            Clip(frames=2, channels="difference"),
            (),
        ),
        ("heatmap-events", FINE, BallHeatmap(width=16, events=EVENTS), Clip(frames=3), ("bounce", "net")),
        ("grid-sigmoid", COARSE, BallGrid(width=16, motion=True, ghost_weight=3, miss_weight=2), Clip(frames=3), ()),
        (
            "grid-dfl",
            FINE,
            BallGrid(
                width=16, position="dfl", position_loss="dfl", confidence_loss="weighted_bce", negatives=0, hit=True
            ),
            Clip(frames=3),
            ("bounce", "hit"),
        ),
        ("grid-3x3", COARSE, BallGrid(width=16, neighbours=True, position_loss="mse", motion=True), Clip(frames=2), ()),
        (
            "grid-gaussian",
            FINE,
            BallGrid(width=16, position="dfl", position_loss="gaussian_iou", neighbours=True, events=EVENTS),
            Clip(frames=3, answers="last"),
            ("bounce",),
        ),
    ]
]
ORIENTED = [
    Case(f"oriented-{h.angle}-{h.box_loss}", replace(TINY, head=replace(h, width=16, depth=1)))
    for h in (
        OrientedHead(),
        OrientedHead(angle="bins", box_loss="kfiou", heading=True, quality=True),
        OrientedHead(angle="direct", box_loss="gwd", assigner=Atss(), class_loss="quality"),
        OrientedHead(box_loss="rotated_iou", quality=True, class_loss="varifocal"),
        OrientedHead(angle="bins", box_loss="kld", assigner=Atss(), angle_bins=180),
        OrientedHead(box_loss="smooth_l1", heading=True),
    )
]


def names(count: int) -> tuple[str, ...]:
    return tuple(f"point{i}" for i in range(1, count + 1))


SMALL = BoxHead(width=16, depth=1)
KEYPOINTS = [
    Case(
        f"keypoints-{k}-{label}",
        replace(TINY, head=KeypointHead(box=box, width=16, depth=depth, depthwise=depthwise)),
        Schema(CLASSES, names(k), sigmas=tuple(np.linspace(0.03, 0.1, k)) if k == 17 else ()),
    )
    for k, label, box, depth, depthwise in [
        (1, "plain", SMALL, 0, False),
        (6, "depthwise", SMALL, 2, True),
        (17, "simota", replace(SMALL, assigner=SimOta(), class_loss="varifocal"), 1, False),
        (32, "plain", SMALL, 1, False),
    ]
]
POINT_MAPS = [
    Case(
        f"point-maps-{k}-{head.loss}",
        replace(TINY, head=replace(head, width=16), neck=Fuse(width=16), strides=(4, 8, 16, 32)),
        Schema(("animal",), names(k)),
    )
    for k, head in [
        (1, KeypointHeatmap(stride=2)),
        (6, KeypointHeatmap(loss="adaptive_wing")),
        (32, KeypointHeatmap(stride=4, depth=0)),
    ]
]
HEADS = [*BOXES, *BRANCHES, *ANCHORS, *ORIENTED, *KEYPOINTS, *POINT_MAPS, *BALLS]
case = pytest.mark.parametrize("case", HEADS, ids=lambda c: c.name)
box_case = pytest.mark.parametrize("case", [*BOXES, *BRANCHES, *ANCHORS, *ORIENTED, *KEYPOINTS], ids=lambda c: c.name)
point_case = pytest.mark.parametrize("case", [*KEYPOINTS, *POINT_MAPS], ids=lambda c: c.name)
ball_case = pytest.mark.parametrize("case", BALLS, ids=lambda c: c.name)


def value(loss: Any) -> float:
    return float(loss.total.detach() / loss.weight.clamp(min=1e-9))


def tensors(raw: Any) -> dict[str, torch.Tensor]:
    """What the network itself said: the tensors of a raw output by name."""
    return {n: v for n, v in raw._asdict().items() if isinstance(v, torch.Tensor) and v.numel()}


def each(change: Callable[..., torch.Tensor], *raws: Any) -> Any:
    """The first raw output with every tensor replaced by what `change` makes of all of them."""
    return raws[0]._replace(**{n: change(*(getattr(r, n) for r in raws)) for n in tensors(raws[0])})


def encode(head: Any, truth: list[Objects]) -> Any:
    """Targets; windows with objects also have every event there is, one before the window, the others in it."""
    names = head.schema.events if isinstance(head, Heatmap | Grid) else ()
    some = tuple(Event(i - 1, name) for i, name in enumerate(names))
    return head.encode(truth, [some if len(o) else () for o in truth])


# -- the contracts --------------------------------------------------------------------------------------------------


def zero_at_perfection(head: Any, truth: list[Objects]) -> None:
    targets = encode(head, truth)
    assert value(head.loss(head.ideal(targets, SIZE), targets)) < 1e-3


def ordered(head: Any, truth: list[Objects]) -> None:
    """perfect < nothing known < the opposite."""
    targets = encode(head, truth)
    perfect = head.ideal(targets, SIZE)
    unsure, wrong = each(torch.zeros_like, perfect), each(torch.neg, perfect)
    a, b, c = (float(head.loss(x, targets).total.detach()) for x in (perfect, unsure, wrong))
    assert 0 <= a < b < c


def same_for_repeated_batch(head: Any, raw: Any, truth: list[Objects]) -> None:
    """The loss per unit does not change when the batch is repeated."""
    double = each(lambda x: torch.cat([x, x]), raw)
    once, twice = head.loss(raw, encode(head, truth)), head.loss(double, encode(head, truth * 2))
    assert value(twice) == pytest.approx(value(once), rel=1e-4)


def easy_negatives_free(head: Any, raw: Any, truth: list[Objects]) -> None:
    """A further sample without objects, answered with a sure no, changes nothing."""
    empty = Objects.empty(SIZE)
    more = each(lambda x, no: torch.cat([x, no]), raw, head.ideal(encode(head, [empty]), SIZE))
    once = head.loss(raw, encode(head, truth))
    again = head.loss(more, encode(head, [*truth, empty]))
    assert value(again) == pytest.approx(value(once), rel=1e-5)


def every_sample_trains(head: Any, raw: Any, truth: list[Objects]) -> None:
    raw = each(lambda x: x.detach().requires_grad_(), raw)
    head.loss(raw, encode(head, truth)).total.backward()
    for name, x in tensors(raw).items():
        assert x.grad is not None, name
        assert (x.grad.flatten(1).abs().amax(1) > 0).all(), name


def ignored_costs_nothing(head: Any) -> None:
    """A sure detection exactly on an ignored object leaves the loss as it was."""
    found = Objects(SIZE, [0], [[8, 8, 72, 72]])
    if isinstance(head, DenseOriented):
        obbs = np.array([[40, 40, 60, 30, 0.5]], np.float32)
        found = Objects(SIZE, [0], obb_hull(obbs), obbs=obbs)
    elif isinstance(head, DenseKeypoints | PointMaps):
        found = posed(found, np.random.default_rng(0), head.count)
        found = found.replace(points=found.points.clip(0, SIZE[0]))
    elif not isinstance(head, DenseBoxes | AnchorBoxes):
        found = balls(np.random.default_rng(0), np.array(head.clip.answered[:1]))
    alone = head.encode([found.replace(ignore=[True])])
    assert float(head.loss(head.ideal(head.encode([found]), SIZE), alone).total) < 1e-3


def starts_at_the_prior(head: Any, raw: Any) -> None:
    """At first every channel that is a probability has the prior as its mean (shuttle-5).

    Where every map has cells of its own, that of the coarsest; the others expect as many objects on all their cells.
    """
    prior = head.config.box.prior if isinstance(head, DenseKeypoints) else head.config.prior
    share = np.ones(1)
    if isinstance(head, DenseBoxes | DenseOriented | DenseKeypoints):
        logits = [raw.logits.flatten(0, 1)]
        strides = raw.priors.strides.numpy()
        share = (strides / strides.max()) ** 2
        share = np.tile(share, len(raw.logits))[:, None]
    elif isinstance(head, AnchorBoxes):
        logits = [raw.logits.flatten(0, 1) if raw.objectness is None else raw.objectness.flatten()[:, None]]
    elif isinstance(head, Heatmap | PointMaps):
        logits = [raw.logits.transpose(0, 1).flatten(1).T]
    else:
        channels = [head.layout[n] for n in ("confidence", "hit") if n in head.layout]
        logits = [raw.cells[:, :, c].permute(0, 3, 1, 2).flatten(2).flatten(0, 1) for c in channels]
        cells = [(raw.size[0] // s) * (raw.size[1] // s) for s in head.strides]
        share = np.repeat((np.array(head.strides) / max(head.strides)) ** 2, cells)
        share = np.tile(share, len(logits[0]) // len(share))[:, None]
    if isinstance(head, Heatmap | Grid) and raw.events.numel():
        start = raw.events.detach().flatten(1).sigmoid().mean(0).numpy()
        assert start == pytest.approx(np.full(len(start), prior), rel=0.3)
    for x in logits:
        start = (x.detach().sigmoid().numpy() / share).mean(0)
        assert start == pytest.approx(np.full(len(start), prior), rel=0.3)


def leaves_raw_alone(head: Any, raw: Any) -> None:
    """Decoding changes nothing that the loss may still read (turtle-7)."""
    before = each(torch.clone, raw)
    head.decode(raw, Evaluate())
    for name, x in tensors(raw).items():
        assert torch.equal(x, getattr(before, name)), name


def point_ceiling(head: Any, single: bool) -> None:
    """A perfect network's points, back on the picture, are less than .01 of the box away, and as visible as they are.

    Each truth is met by the detection whose box is nearest; it must have its class too.
    """
    source, canvas = (720, 1280), (288, 512)
    rng = np.random.default_rng(0)
    warp = Warp.letterbox(source, canvas)
    for _ in range(4):
        xs, ys = np.meshgrid(np.arange(150, 1100, 250), np.arange(120, 600, 200))
        corner = np.stack([xs.ravel(), ys.ravel()], 1) + rng.uniform(-40, 40, (xs.size, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(30, 140, corner.shape)], 1)
        o = posed(Objects(source, rng.integers(0, 3, len(boxes)), boxes), rng, head.count)
        truth = lone(rng, head.count, source) if single else o
        targets = head.encode([warp.objects(truth, np.arange(head.count))])
        decoded, _ = head.decode(head.ideal(targets, canvas), Evaluate(score_floor=0.1))
        found = warp.inverse().objects(decoded[0], np.arange(head.count))
        assert len(found) == len(truth)
        for i in range(len(truth)):
            j = 0 if single else int(np.abs(found.boxes - truth.boxes[i]).max(1).argmin())
            known = truth.visible[i] > 0
            length = (truth.boxes[i, 2:] - truth.boxes[i, :2]).max()
            error = np.linalg.norm(found.points[j] - truth.points[i], axis=1) / max(length, 1)
            assert error[known].max() < 0.01
            assert found.labels[j] == truth.labels[i]
            if not single:
                assert (found.visible[j] == truth.visible[i])[known].all()


def ball_ceiling(head: Any, clip: Clip) -> None:
    """A perfect network's balls, back on the frame of 1280 x 720, are less than .1 px off, and surely seen."""
    source, canvas = (720, 1280), (288, 512)
    rng = np.random.default_rng(0)
    warp = Warp.letterbox(source, canvas)
    truth = [balls(rng, np.arange(clip.frames), source) for _ in range(20)]
    targets = head.encode([warp.objects(o, np.zeros(0, np.int64)) for o in truth])
    settings = Evaluate(score_floor=0.5)
    for o, found in zip(truth, head.decode(head.ideal(targets, canvas), settings)[0], strict=True):
        wanted = o[np.isin(o.frame, clip.answered)]
        back = warp.inverse().objects(found)
        first = [int(np.flatnonzero(back.frame == f)[0]) for f in wanted.frame]
        assert np.abs(back.points[first] - wanted.points).max() < 0.1
        assert (back.scores[first] > 0.99).all()


@case
def test_loss_is_zero_at_perfection(case: Case) -> None:
    zero_at_perfection(case.detector().head, case.truth(1))


@case
def test_loss_is_ordered(case: Case) -> None:
    ordered(case.detector().head, case.truth(2))


@case
def test_loss_ignores_batch_size(case: Case) -> None:
    d = case.detector()
    same_for_repeated_batch(d.head, d(case.images(3)), case.truth(3))


@case
def test_easy_negatives_are_neutral(case: Case) -> None:
    d = case.detector()
    easy_negatives_free(d.head, d(case.images(3)), case.truth(4))


@case
def test_every_sample_and_parameter_trains(case: Case) -> None:
    d = case.detector()
    every_sample_trains(d.head, d(case.images(3)), case.truth(5))
    d.train()
    d.head.loss(d(case.images(3)), encode(d.head, case.truth(5, n=60))).total.backward()
    dead = [n for n, p in d.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@case
def test_ignored_objects_cost_nothing(case: Case) -> None:
    ignored_costs_nothing(case.detector().head)


@case
@pytest.mark.parametrize("kind", ["empty", "ignored", "full", "mixed"])
def test_odd_pictures(case: Case, kind: str) -> None:
    """Empty, all-ignored and over-full samples give finite losses in fp32 and finite gradients."""
    rng = np.random.default_rng(0)
    full = case.some(rng, 700)
    truth = {
        "empty": [Objects.empty(SIZE)] * 2,
        "ignored": [full[:20].replace(ignore=np.ones(len(full[:20]), bool))] * 2,
        "full": [full, full],
        "mixed": [full, Objects.empty(SIZE)],
    }[kind]
    d = case.detector()
    d.train()
    loss = d.head.loss(d(case.images(2)), encode(d.head, truth))
    assert loss.total.dtype == torch.float32
    assert torch.isfinite(loss.total)
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in d.parameters() if p.grad is not None)
    assert loss.facts["truths"] == sum(case.answered(o) for o in truth)
    assert float(loss.weight) >= 0
    assert (float(loss.weight) == 0) == (loss.facts["truths"] == 0)


@case
def test_loss_is_fp32_under_autocast(case: Case) -> None:
    d = case.detector()
    with torch.autocast("cpu", torch.bfloat16):
        raw = d(case.images(2))
        loss = d.head.loss(raw, encode(d.head, case.truth(7, batch=2)))
    assert {x.dtype for x in (*tensors(raw).values(), loss.total)} == {torch.float32}


@case
def test_train_and_eval_return_the_same(case: Case) -> None:
    d = case.detector()
    a, b = d.eval()(case.images(2)), d.train()(case.images(2))
    assert all(torch.equal(x, getattr(b, name)) for name, x in tensors(a).items())
    leaves_raw_alone(d.head, a)


@case
def test_probabilities_start_at_the_prior(case: Case) -> None:
    d = case.detector()
    starts_at_the_prior(d.head, d(case.images(2)))


def dataset(rng: np.random.Generator, size: tuple[int, int], oriented: bool = False, points: int = 0) -> Dataset:
    records = []
    for i in range(6):
        xs, ys = np.meshgrid(np.arange(8, size[1] - 40, 48), np.arange(6, size[0] - 40, 44))
        corner = np.stack([xs.ravel(), ys.ravel()], 1) + rng.uniform(0, 6, (xs.size, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 36, corner.shape)], 1)
        o = Objects(size, rng.integers(0, 3, len(boxes)), boxes.astype(np.float32))
        if oriented:
            wh = np.maximum(boxes[:, 2:] - boxes[:, :2], 5)
            theta = rng.uniform(-np.pi, np.pi, len(boxes))[:, None]
            obbs = canonical_obb(np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, wh, theta], 1).astype(np.float32))
            o = o.replace(obbs=obbs, boxes=obb_hull(obbs))
        o = posed(o, rng, points) if points else o
        records.append(Record(str(i), (Frame(Path("none")),), size, o))
    return Dataset(Schema(CLASSES, names(points)), tuple(records))


@box_case
def test_encode_ceiling(case: Case) -> None:
    """The perfect output, decoded and judged by the real evaluator, scores 1."""
    oriented = isinstance(case.model.head, OrientedHead)
    task: Any = "oriented" if oriented else "boxes"
    recipe = Recipe(name="x", task=task, data=Data(size=(192, 320)), model=case.model)
    data = dataset(np.random.default_rng(0), (210, 300), oriented, len(case.schema.keypoints))
    assert encode_ceiling(recipe, data, case.detector().head).overall("AP") > 0.999


@point_case
def test_point_ceiling(case: Case) -> None:
    point_ceiling(case.detector().head, isinstance(case.model.head, KeypointHeatmap))


@ball_case
def test_ball_ceiling(case: Case) -> None:
    ball_ceiling(case.detector().head, case.model.clip)


def test_encode_ceiling_on_blood_cells(shared: Any) -> None:
    from tercel import recipes
    from tercel.data import source

    data = source.read(
        f"voc:{shared}/bccd/BCCD#test" if (shared / "bccd").exists() else f"voc:{shared}/data/bccd/BCCD#test"
    )
    recipe = recipes.get("boxes")
    head = Detector(recipe.model, data.schema).head
    assert encode_ceiling(recipe, data, head, suppress=False).overall("AP") >= 0.999


# -- planted bugs: each contract fails on the bug it is there for ----------------------------------------------------


class Shifted(DenseBoxes):
    """Boxes decode half a cell to the right."""

    def boxes(self, raw: DenseRaw) -> torch.Tensor:
        shift = torch.zeros(4)
        shift[[0, 2]] = 0.5
        return super().boxes(raw) + shift * raw.priors.strides[:, None]


class Swapped(DenseBoxes):
    """x and y change places in the targets."""

    def encode(self, objects: Any, events: Any = None) -> Any:
        t = super().encode(objects)
        return t._replace(truths=t.truths._replace(boxes=t.truths.boxes[:, [1, 0, 3, 2]]))


class OffByOne(DenseBoxes):
    """Bins start at 0 in the decoder and at -1 in the encoder."""

    def boxes(self, raw: DenseRaw) -> torch.Tensor:
        s = raw.priors.strides[:, None]
        return super().boxes(raw) + torch.tensor([-1.0, -1.0, 1.0, 1.0]) * s


class FirstOnly(DenseBoxes):
    """Only the first picture of a batch trains."""

    def loss(self, raw: DenseRaw, targets: Any) -> Any:
        t = targets.truths
        first = t.image == 0
        kept = targets._replace(truths=type(t)(t.image[first], t.labels[first], t.boxes[first]))
        logits = torch.cat([raw.logits[:1], raw.logits[1:].detach()])
        sides = torch.cat([raw.sides[:1], raw.sides[1:].detach()])
        return super().loss(raw._replace(logits=logits, sides=sides), kept)


class ByBatch(DenseBoxes):
    """The weight forgets how many truths there are."""

    def loss(self, raw: DenseRaw, targets: Any) -> Any:
        return super().loss(raw, targets)._replace(weight=torch.tensor(1.0))


class ByPriors(DenseBoxes):
    """Everything is divided by all priors (crowd-4)."""

    def loss(self, raw: DenseRaw, targets: Any) -> Any:
        return super().loss(raw, targets)._replace(weight=torch.tensor(float(raw.logits[..., 0].numel())))


class IgnoresAreNegatives(DenseBoxes):
    """Ignored regions train as background (crowd-15)."""

    def encode(self, objects: Any, events: Any = None) -> Any:
        return super().encode([o[~o.ignore] for o in objects])


def plant(bug: type[DenseBoxes]) -> Any:
    return BOXES[0].plant(bug)


@pytest.mark.parametrize("bug", [Shifted, Swapped, OffByOne])
def test_ceiling_catches(bug: type[DenseBoxes]) -> None:
    recipe = Recipe(name="x", data=Data(size=(192, 320)), model=BOXES[0].model)
    data = dataset(np.random.default_rng(0), (210, 300))
    assert encode_ceiling(recipe, data, plant(bug)).overall("AP") < 0.9


@pytest.mark.parametrize(
    ("bug", "contract"),
    [
        (FirstOnly, every_sample_trains),
        (ByBatch, same_for_repeated_batch),
        (ByPriors, easy_negatives_free),
    ],
)
def test_contract_catches(bug: type[DenseBoxes], contract: Callable[..., None]) -> None:
    d = BOXES[0].detector()
    with pytest.raises(AssertionError):
        contract(plant(bug), d(BOXES[0].images(3)), BOXES[0].truth(3))


def test_ignore_contract_catches() -> None:
    with pytest.raises(AssertionError):
        ignored_costs_nothing(plant(IgnoresAreNegatives))


# -- the same bugs with anchors -------------------------------------------------------------------------------------


class Shrunk(AnchorBoxes):
    """Anchors that have to grow shrink."""

    def boxes(self, raw: Any) -> torch.Tensor:
        return super().boxes(raw._replace(deltas=raw.deltas * torch.tensor([1.0, 1, -1, -1])))


class HalfCell(AnchorBoxes):
    """Anchors stand on the corners of the cells in the decoder."""

    def boxes(self, raw: Any) -> torch.Tensor:
        return super().boxes(raw._replace(anchors=raw.anchors._replace(boxes=raw.anchors.boxes - 4)))


class Turned(AnchorBoxes):
    """Width and height of the anchors change places in the decoder (crowd-5, crowd-10)."""

    def boxes(self, raw: Any) -> torch.Tensor:
        centre, half = raw.anchors.centres, (raw.anchors.boxes[:, 2:] - raw.anchors.boxes[:, :2]).flip(1) / 2
        turned = torch.cat([centre - half, centre + half], 1)
        return super().boxes(raw._replace(anchors=raw.anchors._replace(boxes=turned)))


class NotIgnored(AnchorBoxes):
    """Ignored regions train as background (crowd-15)."""

    def encode(self, objects: Any, events: Any = None) -> Any:
        return super().encode([o[~o.ignore] for o in objects])


class WholeCell(AnchorBoxes):
    """The sigmoid counts from the cell's centre in the decoder, from its corner in the encoder."""

    def deltas(self, raw: Any) -> torch.Tensor:
        cell = raw.anchors.priors.strides[:, None] / (raw.anchors.boxes[:, 2:] - raw.anchors.boxes[:, :2])
        return super().deltas(raw) + torch.cat([cell / 2, torch.zeros_like(cell)], 1)


class AnyCell(AnchorBoxes):
    """Anchors answer wherever they overlap enough, and their centres cannot leave their cells."""

    def assign(self, raw: Any, boxes: Any, targets: Any) -> Any:
        return assign_by_iou(self.config.assigner, raw.anchors, targets.truths, targets.batch)


def test_bugs_of_the_cell_coder_are_caught() -> None:
    case = next(c for c in ANCHORS if c.name == "anchors-cell")
    recipe = Recipe(name="x", data=Data(size=(192, 320)), model=case.model)
    data = dataset(np.random.default_rng(0), (210, 300))
    assert encode_ceiling(recipe, data, case.plant(WholeCell)).overall("AP") < 0.9
    truth = case.truth(1, n=30)
    zero_at_perfection(case.detector().head, truth)
    with pytest.raises(AssertionError):
        zero_at_perfection(case.plant(AnyCell), truth)


@pytest.mark.parametrize("bug", [Shrunk, HalfCell, Turned])
def test_anchor_ceiling_catches(bug: type[AnchorBoxes]) -> None:
    recipe = Recipe(name="x", data=Data(size=(192, 320)), model=ANCHORS[0].model)
    data = dataset(np.random.default_rng(0), (210, 300))
    assert encode_ceiling(recipe, data, ANCHORS[0].plant(bug)).overall("AP") < 0.9


def test_anchor_ignore_contract_catches() -> None:
    with pytest.raises(AssertionError):
        ignored_costs_nothing(ANCHORS[0].plant(NotIgnored))


# -- the same bugs with oriented boxes -----------------------------------------------------------------------------


class WrongWay(DenseOriented):
    """Angles decode counter-clockwise (aerial-15)."""

    def theta(self, angle: torch.Tensor) -> torch.Tensor:
        return -super().theta(angle)


class Degrees(DenseOriented):
    """Angles are doubled twice."""

    def theta(self, angle: torch.Tensor) -> torch.Tensor:
        return 2 * super().theta(angle)


class Sideways(DenseOriented):
    """Length and width change places in the targets (aerial-15)."""

    def bin_targets(self, obbs: torch.Tensor, points: torch.Tensor, strides: torch.Tensor) -> torch.Tensor:
        return super().bin_targets(obbs[:, [0, 1, 3, 2, 4]], points, strides)


@pytest.mark.parametrize("bug", [WrongWay, Degrees, Sideways])
def test_oriented_ceiling_catches(bug: type[DenseOriented]) -> None:
    recipe = Recipe(name="x", task="oriented", data=Data(size=(192, 320)), model=ORIENTED[0].model)
    data = dataset(np.random.default_rng(0), (210, 300), oriented=True)
    assert encode_ceiling(recipe, data, ORIENTED[0].plant(bug)).overall("AP") < 0.9


class Reversed(DenseBoxes):
    """The class loss points the wrong way (crowd-2)."""

    def loss(self, raw: DenseRaw, targets: Any) -> Any:
        return super().loss(raw._replace(logits=-raw.logits), targets)


def test_order_contract_catches() -> None:
    with pytest.raises(AssertionError):
        ordered(plant(Reversed), BOXES[0].truth(2))
    with pytest.raises(AssertionError):
        zero_at_perfection(plant(Reversed), BOXES[0].truth(1))


# -- the same bugs in the heads for balls -----------------------------------------------------------------------------

HEATMAP, GRID, DFL = BALLS[0], BALLS[4], BALLS[5]
both = pytest.mark.parametrize(("case", "base"), [(HEATMAP, Heatmap), (GRID, Grid)], ids=["heatmap", "grid"])


def with_bug(base: type[Any], **methods: Callable[..., Any]) -> type[Any]:
    """A head whose methods are these; each gets the head's own method as its first argument."""
    own = {n: getattr(base, n) for n in methods}
    wrapped = {n: (lambda self, *a, f=f, n=n: f(own[n].__get__(self), *a)) for n, f in methods.items()}
    return type("Bug", (base,), wrapped)


def moved(maps: Callable[..., torch.Tensor], raw: Any) -> torch.Tensor:
    """Places decode two px to the right."""
    m = maps(raw)
    return torch.cat([m[:, :, :1], m[:, :, 1:2] + 2 * m[:, :, :1], m[:, :, 2:]], 2)


def swapped(encode: Callable[..., Any], objects: Any, events: Any = None) -> Any:
    """x and y change places in the targets (shuttle-24)."""
    t = encode(objects, events)
    return t._replace(points=t.points.flip(1))


def wrong_bins(place: Callable[..., torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """Bins are K wide in the decoder and K - 1 in the encoder (shuttle-4)."""
    return place(values) * 15 / 16


def first_only(loss: Callable[..., Any], raw: Any, targets: Any) -> Any:
    """Only the first sample of a batch learns its place (pingpong-10)."""
    name = "offsets" if hasattr(raw, "offsets") else "cells"
    x = getattr(raw, name)
    return loss(raw._replace(**{name: torch.cat([x[:1], x[1:].detach()])}), targets)


def by_batch(loss: Callable[..., Any], raw: Any, targets: Any) -> Any:
    """The weight forgets how many balls there are."""
    return loss(raw, targets)._replace(weight=torch.tensor(1.0))


def by_cells(loss: Callable[..., Any], raw: Any, targets: Any) -> Any:
    """Everything is divided by all cells (shuttle-26)."""
    return loss(raw, targets)._replace(weight=torch.tensor(float(next(iter(tensors(raw).values())).numel())))


def ignores_are_negatives(encode: Callable[..., Any], objects: Any, events: Any = None) -> Any:
    return encode([o[~o.ignore] for o in objects], events)


def wrong_way(loss: Callable[..., Any], raw: Any, targets: Any) -> Any:
    """The loss points the wrong way (shuttle-7)."""
    return loss(each(torch.neg, raw), targets)


def in_place(decode: Callable[..., Any], raw: Any, settings: Any) -> Any:
    """Decoding turns logits into probabilities where they lie."""
    next(iter(tensors(raw).values())).sigmoid_()
    return decode(raw, settings)


@both
def test_ball_ceiling_catches(case: Case, base: type[Any]) -> None:
    for bug in (with_bug(base, maps=moved), with_bug(base, encode=swapped)):
        with pytest.raises((AssertionError, IndexError, ValueError)):  # swapped places lie off the canvas
            ball_ceiling(case.plant(bug), case.model.clip)


def test_ball_ceiling_catches_wrong_bins() -> None:
    with pytest.raises(AssertionError):
        ball_ceiling(DFL.plant(with_bug(Grid, place=wrong_bins)), DFL.model.clip)


@both
@pytest.mark.parametrize(
    ("bug", "contract"),
    [(first_only, every_sample_trains), (by_batch, same_for_repeated_batch), (by_cells, easy_negatives_free)],
)
def test_ball_contract_catches(case: Case, base: type[Any], bug: Any, contract: Callable[..., None]) -> None:
    d = case.detector()
    with pytest.raises(AssertionError):
        contract(case.plant(with_bug(base, loss=bug)), d(case.images(3)), case.truth(3))


@both
def test_other_ball_contracts_catch(case: Case, base: type[Any]) -> None:
    raw = case.detector()(case.images(2))
    with pytest.raises(AssertionError):
        ignored_costs_nothing(case.plant(with_bug(base, encode=ignores_are_negatives)))
    with pytest.raises(AssertionError):
        ordered(case.plant(with_bug(base, loss=wrong_way)), case.truth(2))
    with pytest.raises(AssertionError):
        zero_at_perfection(case.plant(with_bug(base, loss=wrong_way)), case.truth(1))
    with pytest.raises(AssertionError):
        leaves_raw_alone(case.plant(with_bug(base, decode=in_place)), each(torch.detach, raw))


@pytest.mark.parametrize("case", [HEATMAP, DFL, BALLS[3]], ids=lambda c: c.name)
def test_the_prior_contract_catches(case: Case) -> None:
    """The bias reaches the first frame's channel only (shuttle-5), or not the events."""
    d = case.detector()
    with torch.no_grad():
        for name, p in d.net.named_parameters():
            if name == "heat.bias" or (name.startswith("out.") and name.endswith("bias")):
                p[len(p) // d.config.clip.frames :] = 0
            if name == "event.out.bias":
                p.zero_()
    with pytest.raises(AssertionError):
        starts_at_the_prior(d.head, d(case.images(2)))


# -- the same bugs in the heads for points ---------------------------------------------------------------------------

DENSE, MAPS = KEYPOINTS[1], POINT_MAPS[2]
either = pytest.mark.parametrize(("case", "base"), [(DENSE, DenseKeypoints), (MAPS, PointMaps)], ids=["dense", "maps"])


def reversed_points(encode: Callable[..., Any], objects: Any, events: Any = None) -> Any:
    """Points come in another order in the targets than in the answers."""
    return encode([o.replace(points=o.points[:, ::-1], visible=o.visible[:, ::-1]) for o in objects], events)


def mirrored_points(encode: Callable[..., Any], objects: Any, events: Any = None) -> Any:
    """x and y of the points change places in the targets."""
    return encode([o.replace(points=o.points[..., ::-1]) for o in objects], events)


def pairs_of_reversed(decode: Callable[..., Any], raw: Any, settings: Any) -> Any:
    """Boxes are best first, points are not (turtle-8)."""
    found, capped = decode(raw, settings)
    return [o.replace(points=o.points[::-1]) for o in found], capped


def unseen(decode: Callable[..., Any], raw: Any, settings: Any) -> Any:
    """What is visible comes out as hidden."""
    found, capped = decode(raw, settings)
    return [o.replace(visible=3 - o.visible) for o in found], capped


def no_reach(held: Callable[..., Any], points: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Points may not leave the box."""
    return points.maximum(boxes[:, None, :2]).minimum(boxes[:, None, 2:])


def half_a_cell(free: Callable[..., Any], raw: Any, image: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Priors lie on the corners of the cells in the decoder."""
    return free(raw, image, prior) - raw.priors.strides[prior, None, None] / 2


@either
def test_point_ceiling_catches(case: Case, base: type[Any]) -> None:
    bugs = [{"encode": reversed_points}, {"encode": mirrored_points}]
    if base is DenseKeypoints:
        bugs += [{"decode": pairs_of_reversed}, {"decode": unseen}, {"held": no_reach}, {"free_points": half_a_cell}]
    for bug in bugs:
        with pytest.raises((AssertionError, IndexError)):
            point_ceiling(case.plant(with_bug(base, **bug)), base is PointMaps)


@either
@pytest.mark.parametrize(
    ("bug", "contract"),
    [(first_only, every_sample_trains), (by_batch, same_for_repeated_batch), (by_cells, easy_negatives_free)],
)
def test_point_contract_catches(case: Case, base: type[Any], bug: Any, contract: Callable[..., None]) -> None:
    d = case.detector()
    with pytest.raises(AssertionError):
        contract(case.plant(with_bug(base, loss=bug)), d(case.images(3)), case.truth(3))


@either
def test_other_point_contracts_catch(case: Case, base: type[Any]) -> None:
    raw = case.detector()(case.images(2))
    with pytest.raises(AssertionError):
        ignored_costs_nothing(case.plant(with_bug(base, encode=ignores_are_negatives)))
    with pytest.raises(AssertionError):
        ordered(case.plant(with_bug(base, loss=wrong_way)), case.truth(2))
    with pytest.raises(AssertionError):
        zero_at_perfection(case.plant(with_bug(base, loss=wrong_way)), case.truth(1))
    with pytest.raises(AssertionError):
        leaves_raw_alone(case.plant(with_bug(base, decode=in_place)), each(torch.detach, raw))
