"""What heads have for crowds: distances as numbers, shared towers, how crowded a truth is, and two boxes per prior."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tercel.config import Atss, BoxHead, Evaluate, Fcos, FreeAnchor, KeypointHead, MaxIou, Model, SimOta, TaskAligned
from tercel.core.finding import TercelError
from tercel.core.geometry import box_iou
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.models.assign import Assignment, Truths
from tercel.models.heads import upright
from tercel.models.heads.boxes import BoxNet, DenseBoxes, DenseRaw
from tercel.models.heads.keypoints import DenseKeypoints
from tercel.models.heads.pairs import PairedBoxes
from tercel.models.heads.upright import BoxTargets, neighbours

SIZE, STRIDES = (96, 160), (8, 16, 32)
GROUP = Model(norm="group")
NEAR = [[40.0, 20, 72, 84], [46, 20, 78, 84]]  # 26 of 38 px in common: IoU .68


def persons(*boxes: list[float]) -> Objects:
    return Objects(SIZE, [0] * len(boxes), np.array(boxes, np.float32).reshape(-1, 4))


def truths(seed: int, count: int, batch: int = 2, size: float = 160) -> Truths:
    """Boxes of two classes, among them one without area and a copy."""
    g = torch.Generator().manual_seed(seed)
    low, extent = size * torch.rand(count, 2, generator=g), 60 * torch.rand(count, 2, generator=g)
    boxes = torch.cat([low, low + extent], 1)
    if count > 2:
        boxes[1, 2:] = boxes[1, :2]
        boxes[2] = boxes[0]
    image = torch.randint(0, batch, (count,), generator=g).sort().values
    return Truths(image, torch.randint(0, 2, (count,), generator=g), boxes)


def network_says(head: DenseBoxes, seed: int = 0, batch: int = 1) -> DenseRaw:
    """What a network with random weights says."""
    torch.manual_seed(seed)
    net = head.net(16, GROUP)
    maps = [4 * torch.randn(batch, 16, SIZE[0] // s, SIZE[1] // s) for s in head.strides]
    with torch.no_grad():
        for conv in (*net.towers.side_out, *net.towers.class_out):
            conv.weight.mul_(100)
        return net(maps, SIZE)


# -- distances as numbers --------------------------------------------------------------------------------------------


def test_ltrb_by_hand() -> None:
    """Point (12, 20), stride 8: sides of 4, 12, 28, 60 px are .5, 1.5, 3.5, 7.5 strides; an output of 0 says 2."""
    head = DenseBoxes(BoxHead(coder="ltrb"), 1, (8,))
    targets = head.encode([Objects((48, 48), [0], [[8, 8, 40, 80]])])
    raw = head.ideal(targets, (48, 48))
    assert raw.sides.shape == (1, 36, 4, 1)
    at = int((raw.priors.points == torch.tensor([12.0, 20])).all(1).nonzero())
    said = head.said(torch.tensor([0.5, 1.5, 3.5, 7.5]))
    assert said[:, 0].tolist() == [-1.5, -0.5, 1.5, 5.5]
    raw.sides[0, at] = said
    assert head.boxes(raw)[0, at].tolist() == [8, 8, 40, 80]
    raw.sides[0, at] = 0
    assert head.boxes(raw)[0, at].tolist() == [12 - 16, 20 - 16, 12 + 16, 20 + 16]


def test_ltrb_says_a_truth_beside_its_prior() -> None:
    """No centre lies in a truth of 2 px; with exp(x), as published, no prior could say it."""
    head = DenseBoxes(BoxHead(coder="ltrb", assigner=Fcos()), 1, STRIDES)
    targets = head.encode([persons([15, 15, 17, 17])])
    found, _ = head.decode(head.ideal(targets, SIZE), Evaluate())
    assert found[0].boxes.tolist() == [[15, 15, 17, 17]]


def test_ltrb_has_no_distribution_loss() -> None:
    head = DenseBoxes(BoxHead(coder="ltrb"), 1, STRIDES)
    loss = head.loss(network_says(head), head.encode([persons(*NEAR)]))
    assert set(loss.sums) == {"class", "box"}


# -- shared towers ---------------------------------------------------------------------------------------------------


def test_shared_towers_give_equal_maps_equal_answers_but_for_the_class_bias() -> None:
    torch.manual_seed(0)
    net = BoxNet(BoxHead(width=16, shared=True), 2, 16, (8, 16), GROUP)
    m = torch.randn(1, 16, 4, 4)
    raw = net([m, m], (32, 32))
    assert torch.equal(raw.sides[:, :16], raw.sides[:, 16:])
    assert len(net.towers.class_towers) == len(net.towers.side_out) == 1
    assert len(net.towers.class_out) == 2
    with pytest.raises(TercelError, match="group norm"):
        BoxNet(BoxHead(shared=True), 2, 16, (8, 16), Model(norm="batch"))


# -- how crowded a truth is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "count"), [(0, 0), (1, 1), (2, 40), (3, 120)])
def test_neighbours_by_a_slow_loop(seed: int, count: int) -> None:
    some = truths(seed, count)
    found = neighbours(some)
    iou = box_iou(some.boxes.numpy(), some.boxes.numpy())
    for m in range(count):
        others = [
            k for k in range(count) if k != m and some.image[k] == some.image[m] and some.labels[k] == some.labels[m]
        ]
        best = max((iou[m, k] for k in others), default=0.0)
        assert float(found.iou[m]) == pytest.approx(best, abs=1e-6)
        k = int(found.truth[m])
        assert (k in others and iou[m, k] == pytest.approx(best, abs=1e-6)) if best > 0 else k == -1


def test_neighbours_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    some = truths(4, 90)
    whole = neighbours(some)
    monkeypatch.setattr(upright, "ROWS", 7)
    for a, b in zip(neighbours(some), whole, strict=True):
        assert torch.equal(a, b)


def test_the_density_is_learnt_from_the_positives_alone() -> None:
    """It costs the smooth L1 between its probability and the IoU of its truth with the other one, .68."""
    head = DenseBoxes(BoxHead(density=True, density_gain=2.0, assigner=Atss()), 1, STRIDES)
    targets = head.encode([persons(*NEAR, [120, 10, 150, 80])])
    raw = head.ideal(targets, SIZE)
    density = torch.zeros(raw.logits.shape[:2], requires_grad=True)
    loss = head.loss(raw._replace(density=density), targets)
    a = head.assign(raw, head.boxes(raw), targets)
    wanted = torch.tensor([26 / 38, 26 / 38, 0.0])[a.truth]
    d = (wanted - 0.5).abs()
    expected = 2 * (d - 0.05).sum()  # beyond beta = .1 the slope is 1
    assert loss.sums["density"].item() == pytest.approx(float(expected), rel=1e-4)
    loss.sums["density"].backward()
    learns = torch.zeros(density.shape, dtype=torch.bool)
    learns[a.image, a.prior] = True
    assert density.grad is not None
    assert torch.equal(density.grad != 0, learns)
    assert (density.grad[a.image, a.prior] < 0).tolist() == (wanted > 0.5).tolist()


class Deaf(DenseBoxes):
    """The density is learnt and not handed on."""

    def decode(self, raw: DenseRaw, settings: Evaluate) -> Any:
        return super().decode(raw._replace(density=None), settings)


@pytest.mark.parametrize(("kind", "found"), [(DenseBoxes, 2), (Deaf, 1)])
def test_adaptive_suppression_goes_by_the_predicted_density(kind: type[DenseBoxes], found: int) -> None:
    """Two persons at an IoU of .88, which a guess from the boxes takes for one."""
    head = kind(BoxHead(density=True), 1, STRIDES)
    assert head.predicts_density
    both = persons([40.0, 20, 72, 84], [42, 20, 74, 84])
    raw = head.ideal(head.encode([both]), SIZE)
    answers, _ = head.decode(raw, Evaluate(suppress="adaptive", suppress_iou=0.5))
    assert len(answers[0]) == found
    greedy, _ = head.decode(raw, Evaluate(suppress_iou=0.5))
    assert len(greedy[0]) == 1


# -- two boxes per prior ---------------------------------------------------------------------------------------------

PAIRS = BoxHead(pairs=True, assigner=Atss(), width=16, depth=1)


def test_the_channels_of_both_boxes_arrive_where_they_should() -> None:
    """Priors of the second half are those of the first; each channel reaches one field of one box."""
    config = replace(PAIRS, depth=0, density=True, bins=4)
    net = BoxNet(config, 2, 8, STRIDES, GROUP)
    maps = [torch.zeros(1, 8, SIZE[0] // s, SIZE[1] // s) for s in STRIDES]
    maps[1][0, 0, 2, 3] = 1.0
    n, cell = (12 * 20 + 6 * 10 + 3 * 5), 12 * 20 + 2 * 10 + 3
    with torch.no_grad():
        for conv in (*net.towers.class_out, *net.towers.side_out):
            conv.weight.zero_()
            conv.bias.zero_()
        net.towers.class_out[1].weight[:, 0, 0, 0] = 1 + torch.arange(4)
        net.towers.side_out[1].weight[:, 0, 0, 0] = 1 + torch.arange(34)
        raw = net(maps, SIZE)
    assert torch.equal(raw.priors.points[:n], raw.priors.points[n:])
    assert raw.priors.points[cell].tolist() == [3.5 * 16, 2.5 * 16]
    assert raw.logits.shape == (1, 2 * n, 2)
    assert raw.logits[0, [cell, n + cell]].tolist() == [[1, 2], [3, 4]]
    assert raw.sides[0, cell].flatten().tolist() == list(range(1, 17))
    assert raw.sides[0, n + cell].flatten().tolist() == list(range(18, 34))
    assert raw.density is not None
    assert raw.density[0, [cell, n + cell]].tolist() == [17, 34]
    assert int((raw.logits != 0).any(-1).sum()) == int((raw.density != 0).sum()) == 2


def by_truth(a: Assignment, n: int) -> dict[tuple[int, int], set[int]]:
    """The truths that the boxes of each (image, prior) say."""
    said: dict[tuple[int, int], set[int]] = {}
    for i, p, t in zip(a.image.tolist(), (a.prior % n).tolist(), a.truth.tolist(), strict=True):
        said.setdefault((i, p), set()).add(t)
    return said


@pytest.mark.parametrize("assigner", [Atss(), Fcos(), MaxIou(positive=0.4, negative=0.3)])
def test_a_prior_says_its_truth_and_the_one_that_hides_it(assigner: Any) -> None:
    """Of two that overlap by .68 every prior in both says both; the third, which touches neither, stands alone."""
    config = replace(PAIRS, assigner=assigner)
    head, plain = PairedBoxes(config, 1, STRIDES), DenseBoxes(replace(config, pairs=False), 1, STRIDES)
    targets = head.encode([persons(*NEAR, [120, 10, 150, 80])])
    raw = network_says(head)
    a = head.assign(raw, head.boxes(raw), targets)
    n = len(raw.priors.strides) // 2
    single = DenseRaw(raw.logits[:, :n], raw.sides[:, :n], plain.priors(SIZE), SIZE)
    alone = plain.assign(single, plain.boxes(single), targets)
    said = by_truth(a, n)
    assert ((a.image * 2 * n + a.prior).diff() > 0).all()  # ordered, each once
    assert set(said) == set(zip(alone.image.tolist(), alone.prior.tolist(), strict=True))
    points = raw.priors.points
    for p, t in zip(alone.prior.tolist(), alone.truth.tolist(), strict=True):
        x, y = points[p].tolist()
        both = t < 2 and 46 < x < 72 and 20 < y < 84
        assert said[0, p] == ({0, 1} if both else {t})
    assert any(len(s) == 2 for s in said.values())


def swapped(a: Assignment, prior: int, n: int) -> Assignment:
    """The boxes of one prior the other way round."""
    mine = a.prior % n == prior
    changed = torch.where(mine, (a.prior + n) % (2 * n), a.prior)
    order = (a.image * 2 * n + changed).argsort()
    return Assignment(a.image[order], changed[order], a.truth[order], a.quality[order], between=a.between)


def requality(a: Assignment, boxes: Tensor, targets: BoxTargets) -> Assignment:
    iou = box_iou(boxes[0].numpy(), targets.truths.boxes.numpy())
    return a._replace(quality=torch.from_numpy(iou[a.prior, a.truth]).float())


class Straight(PairedBoxes):
    """The first box always says the assigner's truth: the loss is that of one way round, not the lower of both."""

    def cost(self, *arguments: Any) -> Tensor:
        return super().cost(*arguments) * 0


def no_swap_is_cheaper(head: PairedBoxes) -> bool:
    """The loss of the chosen way round, against the same loss with the boxes of any one prior swapped."""
    targets = head.encode([persons(*NEAR, [120, 10, 150, 80], [10, 10, 30, 60])])
    for seed in range(3):
        raw = network_says(head, seed)
        boxes, n = head.boxes(raw), len(raw.priors.strides) // 2
        a = head.assign(raw, boxes, targets)
        least = float(head.assigned_loss(raw, boxes, a, targets).total)
        for p in (a.prior % n).unique().tolist():
            other = requality(swapped(a, p, n), boxes, targets)
            if float(head.assigned_loss(raw, boxes, other, targets).total) < least - 1e-3:
                return False
    return True


@pytest.mark.parametrize("config", [PAIRS, replace(PAIRS, coder="ltrb", assigner=Fcos(), class_loss="focal")])
def test_the_loss_is_the_lower_of_both_ways_round(config: BoxHead) -> None:
    """The earth mover's distance between two boxes and two truths, by trying every swap (Chu et al. 2020, eq. 4)."""
    assert no_swap_is_cheaper(PairedBoxes(config, 1, STRIDES))
    assert not no_swap_is_cheaper(Straight(config, 1, STRIDES))


def test_which_box_says_which_does_not_matter() -> None:
    head = PairedBoxes(PAIRS, 1, STRIDES)
    targets = head.encode([persons(*NEAR)])
    raw = network_says(head)
    n = len(raw.priors.strides) // 2
    turned = raw._replace(logits=raw.logits.roll(n, 1), sides=raw.sides.roll(n, 1))
    once, again = head.loss(raw, targets), head.loss(turned, targets)
    assert float(again.total) == pytest.approx(float(once.total), rel=1e-5)


def test_set_suppression_keeps_what_greedy_takes_for_one() -> None:
    """A perfect network: two persons at an IoU of .68 are two boxes of one proposal; all else is removed."""
    head = PairedBoxes(PAIRS, 1, STRIDES)
    assert head.predicts_sets
    assert not getattr(DenseBoxes(BoxHead(), 1, STRIDES), "predicts_sets", False)
    raw = head.ideal(head.encode([persons(*NEAR, [120, 10, 150, 80])]), SIZE)
    found, _ = head.decode(raw, Evaluate(suppress="set", suppress_iou=0.5))
    assert sorted(np.round(found[0].boxes, 2).tolist()) == [*NEAR, [120, 10, 150, 80]]
    greedy, _ = head.decode(raw, Evaluate(suppress_iou=0.5))
    assert len(greedy[0]) == 2


# -- what makes no sense is refused ----------------------------------------------------------------------------------


def test_refusals() -> None:
    for assigner in (TaskAligned(), SimOta(), FreeAnchor()):
        with pytest.raises(TercelError, match="chooses by predictions"):
            PairedBoxes(replace(PAIRS, assigner=assigner), 1, STRIDES)
    with pytest.raises(TercelError, match="FreeAnchor names none"):
        DenseBoxes(BoxHead(density=True, assigner=FreeAnchor()), 1, STRIDES)
    for box in (BoxHead(density=True), PAIRS):
        with pytest.raises(TercelError, match=r"have no (density|pairs)"):
            DenseKeypoints(KeypointHead(box=box), Schema(("a",), ("nose",)), STRIDES)
