"""What is special to the heads for named points; what every head must keep is in tests/contracts/test_heads.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tercel import recipes
from tercel.config import Augment, BoxHead, Evaluate, Fuse, KeypointHead, KeypointHeatmap, Model, Recipe, SmallNet
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.core.warp import Warp
from tercel.data import source
from tercel.engine.tasks import check_points, point_findings, task_of
from tercel.models.detector import Detector
from tercel.models.heads import build_head
from tercel.models.heads.keypoint_heatmap import PointMaps
from tercel.models.heads.keypoints import DenseKeypoints, KeypointNet, probe_layout
from tercel.models.keypoint_losses import near_loss, oks_loss

SIZE = (96, 160)
NAMES = ("nose", "left", "right")
SCHEMA = Schema(("animal",), NAMES, flip_pairs=(("left", "right"),), sigmas=(0.02, 0.05, 0.1))
BOX = BoxHead(width=16, depth=1)
TINY = Model(
    backbone=SmallNet(stem=8, widths=(8, 16, 16, 16), depths=(0, 1, 1, 1)),
    norm="group",
    head=KeypointHead(box=BOX, width=16, depth=1),
)
MAPS = replace(TINY, neck=Fuse(width=16), head=KeypointHeatmap(width=16), strides=(4, 8, 16, 32))


def animal(points: Any, visible: Any = (2, 2, 2), box: Any = (40, 20, 100, 60), **more: Any) -> Objects:
    return Objects(SIZE, [0], [box], points=[points], visible=[visible], **more)


POINTS = [[45.0, 25.0], [80.0, 30.0], [90.0, 55.0]]


def detector(model: Model, schema: Schema = SCHEMA) -> Detector:
    torch.manual_seed(0)
    return Detector(model, schema).eval()


def pictures(batch: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 1, 3, *SIZE), dtype=torch.uint8, generator=g)


# -- losses ---------------------------------------------------------------------------------------------------------


def test_oks_loss_by_hand() -> None:
    """One minus COCO's similarity, exp(-d^2 / (2 s k^2)) with k = 2 sigma, point by point."""
    pred = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[10.0, 0.0], [1.0, 1.0]]])
    target = torch.zeros(2, 2, 2)
    area, sigmas = torch.tensor([400.0, 100.0]), torch.tensor([0.1, 0.05])
    wanted = [
        [1 - math.exp(-25 / (2 * 400 * 0.2**2)), 0.0],
        [1 - math.exp(-100 / (2 * 100 * 0.2**2)), 1 - math.exp(-2 / (2 * 100 * 0.1**2))],
    ]
    assert oks_loss(pred, target, area, sigmas).numpy() == pytest.approx(np.array(wanted), rel=1e-5)


def test_oks_loss_is_the_score_that_is_reported() -> None:
    """The judge's OKS of one object is one minus the mean loss of its points."""
    from tercel.metrics.keypoints import judge_keypoints

    moved = np.add(POINTS, [[0.5, 0], [0, 1.5], [2, 2]])
    oks = 1 - float(oks_loss(*(torch.tensor(np.array([x]), dtype=torch.float32) for x in (moved, POINTS)),
                             torch.tensor([60.0 * 40]), torch.tensor(SCHEMA.sigmas)).mean())  # fmt: skip
    for threshold, met in ((oks - 1e-4, 1.0), (oks + 1e-4, 0.0)):
        truth, pred = animal(POINTS), animal(moved, scores=[0.9])
        report = judge_keypoints([truth], [pred], SCHEMA, ious=(threshold,), resamples=0)
        assert report["OKS_AP"] == pytest.approx(met)


def test_far_points_are_led_home() -> None:
    """Where the OKS loss is flat, `near_loss` still has a slope towards the truth."""
    pred = torch.tensor([[[300.0, -200.0]]], requires_grad=True)
    target, area, length = torch.zeros(1, 1, 2), torch.tensor([100.0]), torch.tensor([12.0])
    (flat,) = torch.autograd.grad(oks_loss(pred, target, area, torch.tensor([0.05])).sum(), pred)
    (slope,) = torch.autograd.grad(near_loss(pred, target, length).sum(), pred)
    assert float(flat.abs().max()) == 0
    assert slope.flatten().tolist() == pytest.approx([1 / 12, -1 / 12])
    assert float(near_loss(target, target, length)) == 0


@pytest.mark.parametrize("bad", [torch.zeros(2, 2), torch.zeros(2, 3, 3), torch.zeros(1, 3, 2)])
def test_losses_refuse_other_shapes(bad: torch.Tensor) -> None:
    with pytest.raises(TercelError, match="expected"):
        oks_loss(bad, torch.zeros(2, 3, 2), torch.ones(2), torch.ones(3))


# -- the layout probe (turtle-1) --------------------------------------------------------------------------------------


class JoinedFirst(KeypointNet):
    """The founding code's bug: channels of different predictions are viewed apart at the wrong places."""

    def flat(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        return x.reshape(b, h * w, c)


class AllXFirst(KeypointNet):
    """x of all points, then y of all points, read as pairs."""

    def forward(self, maps: list[torch.Tensor], size: tuple[int, int]) -> Any:
        raw = super().forward(maps, size)
        return raw._replace(offsets=raw.offsets.flatten(2).unflatten(2, (2, self.points)).transpose(2, 3))


class ColumnByColumn(KeypointNet):
    """Priors of the points run down the columns, those of the boxes along the rows."""

    def flat(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 2, 1).flatten(1, 2)


def test_layout_probe() -> None:
    for points in (1, 6, 17):
        config = KeypointHead(box=BOX, width=16)
        net = KeypointNet(config, 3, points, 16, (8, 16, 32), TINY).train()
        before = {k: v.clone() for k, v in net.state_dict().items()}
        probe_layout(net, 16)
        assert net.training
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        for bug in (JoinedFirst, AllXFirst, ColumnByColumn):
            if points > 1 or bug is not AllXFirst:
                with pytest.raises(TercelError, match="not laid out"):
                    probe_layout(bug(config, 3, points, 16, (8, 16, 32), TINY), 16)


def test_every_detector_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeypointNet, "flat", JoinedFirst.flat)
    with pytest.raises(TercelError, match="'offsets'"):
        detector(TINY)


def test_probabilities_start_at_their_own_channels_only() -> None:
    """At first the class channels say "no"; no point channel is biased (turtle-1)."""
    with torch.no_grad():
        raw = detector(TINY)(pictures())
    assert float(raw.logits.max()) < -3
    assert float(raw.offsets.abs().max()) < 0.5
    assert float(raw.seen.abs().max()) < 0.5


# -- the dense head ---------------------------------------------------------------------------------------------------


def test_depthwise_is_no_mere_word() -> None:
    """The setting reaches the network (turtle-3)."""
    kernels = {}
    for depthwise in (False, True):
        net = detector(replace(TINY, head=KeypointHead(box=BOX, width=16, depth=2, depthwise=depthwise))).net
        convs = [m for m in net.towers.modules() if isinstance(m, torch.nn.Conv2d)]
        kernels[depthwise] = [(m.groups, m.kernel_size[0]) for m in convs]
    assert set(kernels[False]) == {(1, 3)}
    assert {(g > 1, k) for g, k in kernels[True]} == {(True, 3), (False, 1)}


def test_absent_points_cost_nothing_wherever_they_are() -> None:
    d = detector(TINY)
    raw = d(pictures(1))
    values = []
    for place in ([0.0, 0.0], [90.0, 55.0], [-1000.0, 5000.0]):
        targets = d.head.encode([animal([*POINTS[:2], place], visible=(2, 1, 0))])
        values.append({k: float(v.detach()) for k, v in d.head.loss(raw, targets).sums.items()})
    assert values[0] == values[1] == values[2]


def test_a_point_on_the_edge_counts() -> None:
    """Whether a point is there is never read from its coordinates: one at (0, y) is learnt (turtle-6)."""
    d = detector(TINY)
    box = (0, 0, 60, 60)
    at_edge = animal([[0.0, 30.0], [0.0, 0.0], [30.0, 0.0]], box=box)
    targets = d.head.encode([at_edge])
    ideal = d.head.ideal(targets, SIZE)
    assert d.head.loss(ideal, targets).facts["points"] == 3
    wrong = ideal._replace(offsets=ideal.offsets + 0.5)
    for k in range(3):
        off = ideal.offsets.clone()
        off[:, :, k] = wrong.offsets[:, :, k]
        assert float(d.head.loss(ideal._replace(offsets=off), targets).sums["oks"]) > 0.1, k


def test_sigmas_and_area_decide_what_an_error_costs() -> None:
    d = detector(TINY)

    def cost(k: int, area: float) -> float:
        targets = d.head.encode([animal(POINTS, area=[area])])
        ideal = d.head.ideal(targets, SIZE)
        off = ideal.offsets.clone()
        off[:, :, k, 0] += 0.05
        return float(d.head.loss(ideal._replace(offsets=off), targets).sums["oks"])

    assert cost(0, 2400) > cost(1, 2400) > cost(2, 2400) > 0  # sigmas .02, .05, .1
    assert cost(1, 600) > cost(1, 2400)


def test_points_beyond_reach_are_counted_and_held() -> None:
    d = detector(TINY)
    far = animal([POINTS[0], [70 + 1.4 * 60, 40.0], [70.0, 40 + 1.6 * 60]])
    targets = d.head.encode([far])
    ideal = d.head.ideal(targets, SIZE)
    loss = d.head.loss(ideal, targets)
    assert loss.facts["beyond_reach"] == 1
    assert float(loss.total) < 1e-3  # the loss sees points before they are held
    (found,), _ = d.head.decode(ideal, Evaluate())
    assert found.points[0, 1] == pytest.approx(far.points[0, 1], abs=1e-3)
    assert found.points[0, 2] == pytest.approx([70, 40 + 1.5 * 60], abs=1e-2)
    recipe = Recipe(name="x", task="keypoints", model=TINY)
    (finding,) = point_findings(recipe, dataset([far, animal(POINTS)]))
    assert finding.check == "keypoints.beyond_reach"
    assert finding.count == 1


def test_wild_outputs_stay_near_their_boxes() -> None:
    """However far the network errs, points are no further off than `reach` says (turtle-2)."""
    d = detector(TINY)
    targets = d.head.encode([animal(POINTS)])
    raw = d.head.ideal(targets, SIZE)
    (found,), _ = d.head.decode(raw._replace(offsets=raw.offsets * 1e4), Evaluate())
    centre, length = np.array([70, 40]), 60
    assert np.abs(found.points[0] - centre).max() <= 1.5 * length + 0.1


def test_every_place_on_an_object_shows_the_way_to_its_points() -> None:
    """A prior belongs to the smallest box that it lies in, and the loss sees the ways from each of them, and no other:
    an error of the same share of its length costs the same at a small object as at a large one."""
    d = detector(TINY)
    objects = Objects(
        SIZE, [0, 0], [[40, 20, 100, 60], [70, 24, 94, 48]], points=[POINTS] * 2, visible=[(2, 2, 2), (2, 1, 0)]
    )
    targets = d.head.encode([objects, animal(POINTS)])
    raw = d.head.ideal(targets, SIZE)
    owner = d.head.owners(targets.boxes, raw.priors)
    x, y = raw.priors.points.unbind(1)
    small, large = (x >= 70) & (x <= 94) & (y >= 24) & (y <= 48), (x >= 40) & (x <= 100) & (y >= 20) & (y <= 60)
    assert torch.equal(owner[0], torch.where(small, 1, torch.where(large, 0, -1)))
    assert torch.equal(owner[1], torch.where(large, 2, -1))

    assert float(d.head.ways(raw, targets, owner)) == pytest.approx(0, abs=1e-6)
    step = raw.priors.strides[None, :, None, None] * 4
    lengths = torch.tensor([60.0, 24.0, 60.0])
    off = torch.where(owner < 0, 1e6, 0.1 * lengths[owner.clamp(min=0)])[..., None, None] / step
    # 0.1 of the length, in x and in y: smooth L1 of beta .05, once per object
    wanted = 3 * 2 * (0.1 - 0.05 / 2)
    assert float(d.head.ways(raw._replace(offsets=raw.offsets + off), targets, owner)) == pytest.approx(
        wanted, rel=1e-5
    )


def test_visibility_is_learnt_from_labelled_points() -> None:
    d = detector(TINY)
    targets = d.head.encode([animal(POINTS, visible=(2, 1, 0))])
    raw = d.head.ideal(targets, SIZE)
    raw = raw._replace(seen=raw.seen.clone().requires_grad_())
    (found,), _ = d.head.decode(raw, Evaluate())
    assert found.visible[0, :2].tolist() == [2, 1]
    assert found.point_scores[0, :2] == pytest.approx([1, 0], abs=1e-6)
    (slope,) = torch.autograd.grad(d.head.loss(raw._replace(seen=raw.seen * 0), targets).total, raw.seen)
    assert float(slope[..., 2].abs().max()) == 0


def test_an_object_without_a_labelled_point_teaches_its_box() -> None:
    d = detector(TINY)
    targets = d.head.encode([animal(POINTS, visible=(0, 0, 0))])
    loss = d.head.loss(d(pictures(1)), targets)
    assert all(loss.sums[name].item() == 0 for name in ("oks", "near", "visible"))
    assert loss.sums["box"].item() > 0


def test_boxes_and_points_belong_together() -> None:
    """Detections of a fresh network: each box's points are those of its own prior (turtle-8)."""
    d = detector(TINY)
    raw = d(pictures(1))
    (found,), _ = d.head.decode(raw, Evaluate(score_floor=0.0, suppress_iou=1.0, max_detections=5000))
    boxes = d.head.dense.boxes(raw.dense)[0].detach().clamp(min=0).numpy().clip(max=[160, 96, 160, 96])
    free = d.head.free_points(raw, torch.zeros(len(boxes), dtype=torch.int64), torch.arange(len(boxes)))
    assert len(found) > 50
    held = d.head.held(free, d.head.dense.boxes(raw.dense)[0]).detach().numpy()
    for box, points in zip(found.boxes, found.points, strict=True):
        same_box = np.abs(boxes - box).max(1) < 1e-3
        assert (same_box & (np.abs(held - points).max((1, 2)) < 1e-3)).any()


# -- the same loss before and after decoding (turtle-7) ----------------------------------------------------------------


def losses_agree(d: Detector, decode: Callable[..., Any]) -> None:
    """The loss in training mode, in evaluation mode, and after the answers were read, is one and the same."""
    targets = d.head.encode([animal(POINTS), animal(POINTS, visible=(2, 1, 0))])
    with torch.no_grad():
        trained = float(d.head.loss(d.train()(pictures()), targets).total)
        raw = d.eval()(pictures())
        before = float(d.head.loss(raw, targets).total)
        decode(raw, Evaluate())
        after = float(d.head.loss(raw, targets).total)
    assert trained == pytest.approx(before, rel=1e-5)
    assert after == before


@pytest.mark.parametrize("model", [TINY, MAPS], ids=["dense", "maps"])
def test_validation_loss_survives_decoding(model: Model) -> None:
    d = detector(model)
    losses_agree(d, d.head.decode)

    def in_place(raw: Any, settings: Evaluate) -> Any:
        raw.offsets.mul_(2)
        return d.head.decode(raw, settings)

    with pytest.raises(AssertionError):
        losses_agree(d, in_place)


# -- the heatmap ------------------------------------------------------------------------------------------------------


def test_one_animal_comes_out_with_all_its_points() -> None:
    head = detector(MAPS).head
    targets = head.encode([animal(POINTS, visible=(2, 1, 0)), Objects.empty(SIZE)])
    found, capped = head.decode(head.ideal(targets, SIZE), Evaluate())
    assert [len(o) for o in found] == [1, 0]
    assert capped == [False, False]
    assert found[0].points[0, :2] == pytest.approx(np.array(POINTS[:2]), abs=1e-3)
    assert found[0].visible.tolist() == [[2, 2, 1]]
    assert found[0].point_scores[0, 2] < 0.1
    assert found[0].scores[0] == pytest.approx(found[0].point_scores.mean())
    low, high = found[0].points[0].min(0), found[0].points[0].max(0)
    assert found[0].boxes[0] == pytest.approx([*low, *high])


def test_maps_of_unknown_points_cost_nothing() -> None:
    """Absent: nothing is known of it. Beyond the canvas: it is known not to be on it."""
    d = detector(MAPS)
    targets = d.head.encode([animal([*POINTS[:2], [300.0, 40.0]], visible=(2, 0, 2))])
    assert targets.counted.tolist() == [[True, False, True]]
    assert targets.slot.tolist() == [0]
    raw = d(pictures(1))
    raw = raw._replace(logits=raw.logits.detach().requires_grad_())
    (slope,) = torch.autograd.grad(d.head.loss(raw, targets).total, raw.logits)
    assert [bool(x) for x in slope.flatten(2).abs().amax(2)[0] > 0] == [True, False, True]


def test_a_single_point_survives() -> None:
    """K = 1: its hull has no extent."""
    d = detector(MAPS, Schema(("animal",), ("tip",)))
    o = Objects(SIZE, [0], [[50, 30, 50, 30]], points=[[[50.0, 30.0]]], visible=[[2]])
    found, _ = d.head.decode(d.head.ideal(d.head.encode([o]), SIZE), Evaluate())
    assert found[0].points[0, 0] == pytest.approx([50, 30], abs=1e-3)


# -- what is refused --------------------------------------------------------------------------------------------------


def dataset(objects: list[Objects], schema: Schema = SCHEMA) -> Dataset:
    records = [Record(str(i), (Frame(Path("none")),), SIZE, o, source=f"file:{i}") for i, o in enumerate(objects)]
    return Dataset(schema, tuple(records), source="somewhere")


@pytest.mark.parametrize("model", [TINY, MAPS], ids=["dense", "maps"])
def test_bad_truth_is_refused(model: Model) -> None:
    head = detector(model).head
    with pytest.raises(TercelError, match="no points"):
        head.encode([Objects(SIZE, [0], [[1, 2, 3, 4]])])
    two = Objects(SIZE, [0], [[1, 2, 30, 40]], points=np.zeros((1, 2, 2)), visible=np.zeros((1, 2)))
    with pytest.raises(TercelError, match="2 points, and the network answers for 3"):
        head.encode([two])
    for names in ((), tuple(map(str, range(41)))):
        with pytest.raises(TercelError, match="1 to 40"):
            detector(model, Schema(("animal",), names))


def test_the_heatmap_is_for_single_animals() -> None:
    both = Objects.concat([animal(POINTS), animal(POINTS)])
    with pytest.raises(TercelError, match="2 animals"):
        detector(MAPS).head.encode([both])
    with pytest.raises(TercelError, match="one class"):
        detector(MAPS, Schema(("a", "b"), NAMES))
    recipe = Recipe(name="x", task="keypoints", model=MAPS, augment=Augment(mosaic=0))
    with pytest.raises(TercelError, match="file:1: 2 animals"):
        task_of(recipe).training(dataset([animal(POINTS), both]))
    with pytest.raises(TercelError, match="mosaic"):
        task_of(replace(recipe, augment=Augment()))


def test_data_must_fit_the_recipe() -> None:
    recipe = Recipe(name="x", task="keypoints", model=TINY)
    with pytest.raises(TercelError, match="no labelled point"):
        task_of(recipe).training(dataset([animal(POINTS, visible=(0, 0, 0))]))
    other = replace(SCHEMA, keypoints=("nose", "right", "left"))
    with pytest.raises(TercelError, match=r"somewhere has 3 keypoints .* answers for 3"):
        check_points(recipe, SCHEMA, dataset([animal(POINTS)], other))
    check_points(replace(recipe, task="boxes", model=Model()), SCHEMA, dataset([animal(POINTS)], other))
    with pytest.raises(TercelError, match="tiles and views"):
        task_of(replace(recipe, evaluate=Evaluate(tiles=replace(Evaluate().tiles, size=64))))


# -- encode ceilings on what is at hand -------------------------------------------------------------------------------

SETS = {"fly": ("deepposekit", "deepposekit-fly"), "ants": ("points_json", "glue-tubes-keypoints")}


@pytest.mark.parametrize("name", SETS)
def test_encode_ceiling_on_real_data(name: str, shared: Path) -> None:
    """The perfect output of both heads has every labelled point of every animal within .01 of its length."""
    kind, folder = SETS[name]
    place = shared / "data" / folder if (shared / "data").exists() else shared / folder
    if not place.exists():
        pytest.skip(f"{folder} is not at hand")
    data = source.read(f"{kind}:{place}")
    single = all(len(r.objects) < 2 for r in data.records)
    for recipe in [recipes.get("keypoints"), *([recipes.get("keypoints_heatmap")] if single else [])]:
        head: Any = build_head(recipe.model.head, data.schema, recipe.model.strides, recipe.model.clip)
        assert isinstance(head, DenseKeypoints | PointMaps)
        worst, count = 0.0, 0
        for r in data.records:
            if not len(r.objects):
                continue
            warp = Warp.letterbox(r.size, recipe.data.size)
            targets = head.encode([warp.objects(r.objects, data.schema.flip_index)])
            settings = replace(recipe.evaluate, suppress_iou=1.0, score_floor=0.0001)
            (decoded,), _ = head.decode(head.ideal(targets, recipe.data.size), settings)
            found = warp.inverse().objects(decoded, data.schema.flip_index)
            for i in np.flatnonzero(~r.objects.ignore):
                known = r.objects.visible[i] > 0
                length = float((r.objects.boxes[i, 2:] - r.objects.boxes[i, :2]).max())
                errors = np.linalg.norm(found.points - r.objects.points[i], axis=2)[:, known].max(1)
                worst, count = max(worst, float(errors.min()) / length), count + 1
        assert count > 30
        assert worst < 0.01
