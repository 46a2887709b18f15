"""FCOS, max-IoU on points, OTA, one-to-one and FreeAnchor against slow loops, exact solvers and cases by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tercel.config import (
    AnchorHead,
    Atss,
    BoxHead,
    Fcos,
    FreeAnchor,
    MaxIou,
    Model,
    OneToOne,
    Ota,
    SmallNet,
    TaskAligned,
)
from tercel.core.finding import TercelError
from tercel.core.geometry import box_iou
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.models.assign import Assignment, Priors, Truths, assign, starved
from tercel.models.assign_iou import assign_by_iou, make_anchors
from tercel.models.assign_ot import matching, transport
from tercel.models.candidates import boxes_around, levels_of
from tercel.models.detector import Detector
from tercel.models.free_anchor import bags_of, free_anchor_loss, likeliest
from tercel.models.heads.anchors import AnchorBoxes, anchor_shapes
from tercel.models.heads.boxes import DenseBoxes
from tercel.models.heads.common import make_priors

CPU = torch.device("cpu")
STRIDES = (8, 16, 32)


def grid(size: tuple[int, int] = (96, 128), strides: tuple[int, ...] = STRIDES) -> Priors:
    return make_priors([(size[0] // s, size[1] // s) for s in strides], strides, CPU)


def truths_of(*boxes: tuple[float, ...]) -> Truths:
    zeros = torch.zeros(len(boxes), dtype=torch.long)
    return Truths(zeros, zeros, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))


def random_case(seed: int, count: int, classes: int = 2) -> tuple[Tensor, Tensor, Priors, Truths]:
    """Two pictures with persons of 4 to 80 px, crowded; predictions around every prior."""
    g = torch.Generator().manual_seed(seed)
    priors = grid()
    extent = 4 + 76 * torch.rand(count, 2, generator=g) ** 2
    centre = torch.rand(count, 2, generator=g) * torch.tensor([136.0, 104.0]) - 4
    image = torch.randint(0, 2, (count,), generator=g).sort().values
    labels = torch.randint(0, classes, (count,), generator=g)
    half = priors.strides[:, None] * (0.3 + 2.5 * torch.rand(2, len(priors.points), 2, generator=g))
    scores = torch.rand(2, len(priors.points), classes, generator=g) * 0.98 + 0.01
    truths = Truths(image, labels, torch.cat([centre - extent / 2, centre + extent / 2], 1))
    return scores, torch.cat([priors.points - half, priors.points + half], 2), priors, truths


def predicted_iou(boxes: Tensor, truths: Truths) -> Any:
    """[M,A] of each truth with all predictions of its picture."""
    mine = [box_iou(truths.boxes[[m]].numpy(), boxes[i].numpy())[0] for m, i in enumerate(truths.image.tolist())]
    return np.stack(mine)


def flat(priors: Priors, score: float = 0.5) -> tuple[Tensor, Tensor, Priors]:
    return torch.full((1, len(priors.points), 1), score), torch.zeros(1, len(priors.points), 4), priors


def as_rows(a: Assignment) -> list[tuple[int, int, int]]:
    return list(zip(a.image.tolist(), a.prior.tolist(), a.truth.tolist(), strict=True))


def places(a: Assignment, priors: Priors, truth: int) -> list[tuple[float, float, float]]:
    """(x, y, stride) of the priors of a truth."""
    p = a.prior[a.truth == truth]
    return [(*xy, s) for xy, s in zip(priors.points[p].tolist(), priors.strides[p].tolist(), strict=True)]


# -- FCOS -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [Fcos(), Fcos(radius=2.5, reach=4.0), Fcos(radius=0.7, reach=2.0)])
@pytest.mark.parametrize(("seed", "count"), [(0, 1), (1, 12), (2, 40), (3, 120)])
def test_fcos_is_the_published_rule_and_rescues_the_others(config: Fcos, seed: int, count: int) -> None:
    """Each prior: of the truths that it lies in the middle of, and on the right map for, the smallest.

    A truth that this leaves without any gets one prior all the same, and only such truths are treated otherwise.
    """
    scores, boxes, priors, truths = random_case(seed, count)
    ends = {8.0: config.reach * 8, 16.0: config.reach * 16, 32.0: math.inf}
    owner: dict[tuple[int, int], int] = {}
    area = (truths.boxes[:, 2:] - truths.boxes[:, :2]).prod(1).tolist()
    for p, ((x, y), s) in enumerate(zip(priors.points.tolist(), priors.strides.tolist(), strict=True)):
        for m, (x1, y1, x2, y2) in enumerate(truths.boxes.tolist()):
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < config.radius * s
            start = 0 if s == 8 else ends[s / 2]
            key = int(truths.image[m]), p
            fits = min(sides) > 0 and near and start < max(sides) <= ends[s]
            if fits and (key not in owner or area[m] < area[owner[key]]):
                owner[key] = m
    got = assign(config, scores, boxes, priors, truths)
    mine = {(i, p): m for i, p, m in as_rows(got)}
    rescued = set(range(count)) - set(owner.values())
    assert starved(got, truths) == 0
    for m in rescued:
        assert list(mine.values()).count(m) == 1
    for key in {*owner, *mine}:
        assert mine.get(key) == owner.get(key) or mine[key] in rescued, key


def test_fcos_by_hand() -> None:
    """40 x 40 px around (64, 48), reach 4: 32 px for stride 8, 64 px for stride 16.

    Radius 1.5 strides reaches 12 px of stride 8: the 16 nearest centres at 4 and 12 px, less those at 12 exactly.
    """
    priors = grid()
    got = assign(Fcos(reach=4.0), *flat(priors), truths_of((44, 28, 84, 68)))
    assert sorted(places(got, priors, 0)) == [(60, 44, 8), (60, 52, 8), (68, 44, 8), (68, 52, 8)]
    wide = assign(Fcos(reach=2.5), *flat(priors), truths_of((44, 28, 84, 68)))
    assert {s for _, _, s in places(wide, priors, 0)} == {16}  # its farthest side, 28 px, belongs to 20..40


def test_fcos_gives_a_shared_prior_to_the_smaller_truth() -> None:
    large, small = (32.0, 16.0, 96.0, 80.0), (56.0, 40.0, 72.0, 56.0)
    for order in ([large, small], [small, large]):
        got = assign(Fcos(reach=60.0, radius=2.0), *flat(grid()), truths_of(*order))
        little = order.index(small)
        inside = [(60, 44), (60, 52), (68, 44), (68, 52)]
        assert [xy[:2] for xy in sorted(places(got, grid(), little))] == inside
        assert not {xy[:2] for xy in places(got, grid(), 1 - little)} & set(inside)
        assert len(places(got, grid(), 1 - little)) == 12


def test_fcos_does_not_look_at_predictions() -> None:
    scores, boxes, priors, truths = random_case(4, 60)
    base = assign(Fcos(), scores, boxes, priors, truths)
    other = assign(Fcos(), 1 - scores, boxes.flip(1), priors, truths)
    assert as_rows(other) == as_rows(base)
    assert not torch.equal(other.quality, base.quality)


# -- max-IoU --------------------------------------------------------------------------------------------------


def test_boxes_around_points_are_anchors_of_one_shape() -> None:
    priors = grid()
    around = boxes_around(priors, 4.0, 2.25)
    made = make_anchors([(96 // s, 128 // s) for s in STRIDES], STRIDES, [[(4 / 1.5, 4 * 1.5)]] * 3, CPU)
    torch.testing.assert_close(around.boxes, made.boxes)
    torch.testing.assert_close(around.sizes, made.sizes)
    assert [(g.start, g.stride) for g in around.grids] == [(g.start, g.stride) for g in made.grids]
    for got, wanted in zip(made.priors, priors, strict=True):
        torch.testing.assert_close(got, wanted)
    assert len(levels_of(priors)) == len(around.grids)


def test_max_iou_on_points_is_that_of_their_boxes() -> None:
    scores, boxes, priors, truths = random_case(5, 50)
    config = MaxIou(side=3.0, ratio=2.0, positive=0.4, negative=0.3)
    got = assign(config, scores, boxes, priors, truths)
    wanted = assign_by_iou(config, boxes_around(priors, 3.0, 2.0), truths, 2)
    assert as_rows(got) == as_rows(wanted)
    assert got.between is not None
    assert wanted.between is not None
    assert torch.equal(got.between, wanted.between)
    iou = box_iou(boxes[got.image, got.prior].numpy(), truths.boxes[got.truth].numpy()).diagonal()
    assert got.quality.numpy() == pytest.approx(iou, abs=1e-6)
    around = box_iou(boxes_around(priors, 3.0, 2.0).boxes.numpy(), truths.boxes.numpy())
    forced = [r for r in as_rows(got) if around[r[1], r[2]] < 0.4]
    assert 0 < len(forced) <= 50
    assert len(got.prior) > 50


def test_two_truths_that_share_their_best_prior_have_one_each() -> None:
    """crowd-8, on points."""
    twins = truths_of((46, 26, 74, 62), (47, 26, 75, 62), (46, 27, 74, 63))
    around = box_iou(boxes_around(grid(), 4.0).boxes.numpy(), twins.boxes.numpy())
    assert len(set(around.argmax(0).tolist())) == 1
    got = assign(MaxIou(positive=0.95, negative=0.9), *flat(grid()), twins)
    assert sorted(got.truth.tolist()) == [0, 1, 2]
    assert len(set(got.prior.tolist())) == 3


def test_priors_between_are_not_asked_by_the_box_head() -> None:
    """A loud prior between the thresholds costs nothing; the same one without its truth does."""
    head = DenseBoxes(BoxHead(assigner=MaxIou()), 1, STRIDES)
    targets = head.encode([Objects((96, 128), [0], [[40, 30, 80, 62]])])
    raw = head.ideal(targets, (96, 128))
    between = head.assign(raw, head.boxes(raw), targets).between
    assert between is not None
    assert between.any()
    loud = raw._replace(logits=torch.where(between[..., None], 5.0, raw.logits))
    assert float(head.loss(loud, targets).total) < 1e-3
    assert float(head.loss(loud, head.encode([Objects.empty((96, 128))])).total) > 1


def test_anchors_refuse_the_shape_of_points() -> None:
    with pytest.raises(TercelError, match="side and ratio are those of boxes around points"):
        AnchorBoxes(AnchorHead(assigner=MaxIou(ratio=2.0)), 1, STRIDES)
    with pytest.raises(TercelError, match=r"set model\.head\.base"):
        AnchorBoxes(AnchorHead(assigner=FreeAnchor(side=3.0)), 1, STRIDES)


# -- OTA ------------------------------------------------------------------------------------------------------


def dense_plan(
    pairs: dict[tuple[int, int], float], idle: list[float], supply: list[int], eps: float, rounds: int
) -> Any:
    """Sinkhorn's algorithm on the whole matrix (truths and background) x slots of one picture, as published.

    Cuturi's scaling vectors in float64; what is no candidate has kernel 0.
    """
    n, m = len(idle), len(supply)
    kernel = np.zeros((m + 1, n))
    for (t, j), cost in pairs.items():
        kernel[t, j] = math.exp(-cost / eps)
    kernel[m] = np.exp(-np.array(idle) / eps)
    units = np.array([*supply, n - sum(supply)], float)
    a = np.ones(m + 1)
    for _ in range(rounds):
        b = 1 / (kernel.T @ a)
        a = units / (kernel @ b)
    return a[:, None] * kernel * b


@pytest.mark.parametrize("seed", range(6))
def test_transport_is_sinkhorn_on_the_whole_matrix(seed: int) -> None:
    """Two pictures at once, candidates alone, in the logarithm: the same priors to the same truths."""
    rng = np.random.default_rng(seed)
    n, m, eps, rounds = 40, 8, 0.3, 30
    truth, slot, image, supply, cost, idle, wanted = [], [], [], [], [], [], {}
    for picture in range(2):
        pairs = {(t, int(j)): float(rng.uniform(0, 3)) for t in range(m) for j in rng.choice(n, 9, replace=False)}
        units, quiet = rng.integers(1, 4, m).tolist(), rng.uniform(0, 2, n).tolist()
        plan = dense_plan(pairs, quiet, units, eps, rounds)
        for j in range(n):
            if plan[:, j].argmax() < m:
                wanted[picture * n + j] = picture * m + int(plan[:, j].argmax())
        for (t, j), c in pairs.items():
            truth.append(picture * m + t)
            slot.append(picture * n + j)
            image.append(picture)
            supply.append(units[t])
            cost.append(c)
            idle.append(quiet[j])
    arrays = [torch.tensor(x) for x in (truth, slot, image)]
    numbers = [torch.tensor(x, dtype=torch.float64) for x in (supply, cost, idle)]
    kept = transport(*arrays, *numbers, eps, rounds)
    got = {slot[k]: truth[k] for k in kept.tolist()}
    assert len(got) == len(kept)
    assert got == wanted
    assert 8 < len(got) < 2 * n


def test_transport_without_smoothing_is_the_cheapest_plan() -> None:
    """Little smoothing and many rounds: what the exact assignment (each truth as often as it supplies) says."""
    rng = np.random.default_rng(3)
    n, supply = 30, [3, 1, 4, 2, 2]
    cost, idle = rng.uniform(0, 5, (5, n)), rng.uniform(0, 1, n)
    rows = np.repeat(cost - idle, supply, 0)  # the gain over leaving it to the background
    r, c = linear_sum_assignment(rows)
    owner = np.repeat(np.arange(5), supply)
    wanted = {int(j): int(owner[i]) for i, j in zip(r, c, strict=True)}
    truth, slot = np.repeat(np.arange(5), n), np.tile(np.arange(n), 5)
    arrays = torch.tensor(truth), torch.tensor(slot), torch.zeros(5 * n, dtype=torch.long)
    numbers = (torch.tensor(np.array(supply)[truth], dtype=torch.float64), torch.tensor(cost.ravel()))
    kept = transport(*arrays, *numbers, torch.tensor(idle[slot]), 0.02, 2000)
    assert {int(slot[k]): int(truth[k]) for k in kept.tolist()} == wanted


def test_more_supplied_than_demanded_is_shared_out() -> None:
    """Ten truths that want 5 priors each, and 6 priors: all are given out, and nothing is infinite."""
    truth, slot = torch.arange(10).repeat_interleave(6), torch.arange(6).repeat(10)
    cost = torch.rand(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    five, idle = torch.full((60,), 5.0, dtype=torch.float64), torch.full((60,), 9.0, dtype=torch.float64)
    kept = transport(truth, slot, torch.zeros_like(truth), five, cost, idle, 0.1, 50)
    assert sorted(slot[kept].tolist()) == [0, 1, 2, 3, 4, 5]


def test_ota_settles_a_prior_that_two_truths_want_by_what_both_have_left() -> None:
    """One row of cells; A overlaps only cells 0 and 1, B cells 1 to 3. Both cost least at cell 1, and want one each.

    SimOTA gives cell 1 to whoever is cheaper there, B, and A must be rescued. OTA sends B to its second best, which is
    nearly as good, rather than A to one that is much worse.
    """
    truth, slot = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 2, 3])
    cost = torch.tensor([9.0, 1.0, 0.9, 1.0, 3.0], dtype=torch.float64)
    one, idle = torch.ones(5, dtype=torch.float64), torch.full((5,), 0.5, dtype=torch.float64)
    kept = transport(truth, slot, torch.zeros(5, dtype=torch.long), one, cost, idle, 0.05, 300)
    assert {int(slot[k]): int(truth[k]) for k in kept} == {1: 0, 2: 1}


def test_ota_gives_a_truth_what_it_supplies() -> None:
    """Six perfect boxes make a supply of six: the surest six, whose logits are 1 apart."""
    priors, box = grid(), (40.0, 24.0, 88.0, 72.0)
    low, high = torch.tensor(box).split(2)
    inside = ((priors.points > low) & (priors.points < high)).all(1)
    near = ((priors.points - (low + high) / 2).abs() < 2.5 * priors.strides[:, None]).all(1)
    places = torch.nonzero(inside & near)[:, 0]
    logits = torch.full((len(priors.points),), -9.0)
    logits[places] = 4 - torch.randperm(len(places), generator=torch.Generator().manual_seed(0)).float()
    boxes = torch.tensor(box).expand(1, len(priors.points), 4)
    got = assign(Ota(candidates=6), logits.sigmoid()[None, :, None], boxes, priors, truths_of(box))
    assert got.prior.tolist() == logits.topk(6).indices.sort().values.tolist()
    assert (got.quality == 1).all()


# -- one to one -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_matching_is_the_hungarian_one(seed: int) -> None:
    """On a sparse list of pairs the same as the exact solver on the whole matrix, where all truths can be served."""
    rng = np.random.default_rng(seed)
    m, n = 30, 60
    allowed = rng.random((m, n)) < 0.25
    allowed[np.arange(m), rng.permutation(n)[:m]] = True
    rank = rng.normal(0, 20, (m, n))
    r, c = linear_sum_assignment(np.where(allowed, -rank, 1e6))
    truth, slot = np.nonzero(allowed)
    kept = matching(torch.tensor(truth), torch.tensor(slot), torch.tensor(rank[allowed])).tolist()
    assert {(truth[k], slot[k]) for k in kept} == set(zip(r, c, strict=True))


def test_matching_serves_as_many_as_it_can() -> None:
    """Three truths that know one prior only, and one with a choice: the greedy walk would take that prior for it."""
    truth, slot = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([5, 5, 7, 7, 8])
    rank = torch.tensor([-1.0, -2.0, -300.0, -0.1, -200.0], dtype=torch.float64)
    assert sorted(matching(truth, slot, rank).tolist()) == [0, 2, 4]
    assert matching(truth[:0], slot[:0], rank[:0]).tolist() == []


@pytest.mark.parametrize(("seed", "count"), [(0, 1), (1, 20), (2, 60)])
def test_one_prior_says_yes_for_each_truth(seed: int, count: int) -> None:
    scores, boxes, priors, truths = random_case(seed, count)
    got = assign(OneToOne(), scores, boxes, priors, truths)
    lone = assign(OneToOne(topk=1), scores, boxes, priors, truths)
    assert sorted(lone.truth.tolist()) == list(range(count))
    yes = got.quality > 0
    overlap = (lone.quality > 0).sum()
    assert [r for r, k in zip(as_rows(got), yes.tolist(), strict=True) if k] == [
        r for r, q in zip(as_rows(lone), lone.quality.tolist(), strict=True) if q > 0
    ]
    assert int(yes.sum()) == int(overlap) <= count
    assert got.share is not None
    assert lone.share is not None
    torch.testing.assert_close(lone.share, lone.quality)
    for m in range(count):
        mine = got.truth == m
        assert int(mine.sum()) <= 10
        assert float(got.share[mine].sum()) == pytest.approx(float(got.quality[mine].max()), abs=1e-5)
    if count > 1:
        assert len(got.prior) > 1.5 * count


def test_one_to_one_is_better_than_the_walk_from_the_best_down() -> None:
    """Sum of the logarithms of alignment over a crowd: no less than the greedy matching's, and often more."""
    better = 0
    for seed in range(5):
        scores, boxes, priors, truths = random_case(seed, 60)
        got = assign(OneToOne(topk=1), scores, boxes, priors, truths)
        iou = predicted_iou(boxes, truths)
        score = scores[truths.image, :, truths.labels].numpy()
        rank = 0.5 * np.log(score) + 6 * np.log(np.maximum(iou, 1e-30))
        inside = (
            ((priors.points > truths.boxes[:, None, :2]) & (priors.points < truths.boxes[:, None, 2:])).all(2).numpy()
        )
        walk: dict[int, float] = {}
        used: set[tuple[int, int]] = set()
        for m, p in sorted(zip(*np.nonzero(inside), strict=True), key=lambda k: -rank[k]):
            if m not in walk and (int(truths.image[m]), p) not in used:
                walk[m] = rank[m, p]
                used.add((int(truths.image[m]), p))
        exact = {m: rank[m, p] for _, p, m in as_rows(got)}
        both = sorted(set(walk) & set(exact))
        if len(walk) == len(exact):
            assert sum(exact.values()) >= sum(walk.values()) - 1e-3
        better += sum(exact[m] for m in both) > sum(walk[m] for m in both) + 1e-3
    assert better >= 3


def test_company_learns_the_box_and_says_no() -> None:
    """A prior of quality 0 gets a gradient towards no in its class, and towards the truth in its sides."""
    torch.manual_seed(0)
    head = DenseBoxes(BoxHead(width=8, depth=0, assigner=OneToOne()), 1, STRIDES)
    targets = head.encode([Objects((96, 128), [0], [[30, 20, 90, 76]])])
    raw = head.ideal(targets, (96, 128))
    raw = raw._replace(
        logits=torch.zeros_like(raw.logits).requires_grad_(), sides=(torch.randn_like(raw.sides)).requires_grad_()
    )
    a = head.assign(raw, head.boxes(raw), targets)
    head.loss(raw, targets).total.backward()
    company = a.quality == 0
    assert int((~company).sum()) == 1
    assert int(company.sum()) == 9
    assert raw.logits.grad is not None
    assert raw.sides.grad is not None
    assert (raw.logits.grad[a.image, a.prior][company] > 0).all()
    assert (raw.sides.grad[a.image, a.prior].abs().sum((1, 2)) > 0).all()


# -- FreeAnchor -----------------------------------------------------------------------------------------------


def free_case(seed: int, count: int, config: FreeAnchor) -> Any:
    scores, boxes, priors, truths = random_case(seed, count)
    bags = bags_of(config, boxes_around(priors, config.side, config.ratio), truths)
    g = torch.Generator().manual_seed(seed)
    place = 2 * torch.rand(len(bags.pairs[0]), generator=g)
    return scores.logit(), boxes, place, bags, truths, priors


@pytest.mark.parametrize(
    "config", [FreeAnchor(), FreeAnchor(bag=7, alpha=0.3, gamma=1.5, covered=0.3, place_weight=2.0)]
)
def test_free_anchor_is_the_published_loss(config: FreeAnchor) -> None:
    """Mean-max of each bag, and the focal negatives, in loops; what is far from all truths covers none."""
    logits, boxes, place, bags, truths, priors = free_case(1, 25, config)
    asked = torch.ones(2, len(priors.points))
    asked[0, 40:60] = 0
    got = free_anchor_loss(config, logits.double(), boxes, place.double(), bags, truths, asked)
    p = logits.double().sigmoid().numpy()
    x: dict[int, list[float]] = {}
    for (m, i, j), cost in zip(zip(*(v.tolist() for v in bags.pairs), strict=True), place.tolist(), strict=True):
        x.setdefault(m, []).append(p[i, j, truths.labels[m]] * math.exp(-config.place_weight * cost))
    assert sorted(x) == list(range(25))
    expected = 0.0
    for values in x.values():
        weight = [1 / (1 - v) for v in values]
        expected -= math.log(sum(w * v for w, v in zip(weight, values, strict=True)) / sum(weight))
    assert float(got[0]) == pytest.approx(config.alpha * expected, rel=1e-6)
    covered = np.zeros_like(p)
    near = set(zip(*(v.tolist() for v in (bags.truth, bags.prior)), strict=True))
    iou = predicted_iou(boxes, truths)
    best = {m: max(iou[m, q] for n, q in near if n == m) for m in range(25)}
    for m, q in near:
        b = np.clip((iou[m, q] - config.covered) / max(best[m] - config.covered, 1e-6), 0, 1)
        at = int(truths.image[m]), q, int(truths.labels[m])
        covered[at] = max(covered[at], b)
    assert (covered > 0).sum() >= 3
    q = p * (1 - covered)
    negatives = (q**config.gamma * -np.log(1 - q)).sum(2) * asked.numpy()
    assert float(got[1]) == pytest.approx((1 - config.alpha) / config.bag * negatives.sum(), rel=1e-4)


def test_bags_hold_the_priors_of_greatest_overlap() -> None:
    config = FreeAnchor(bag=6, side=3.0)
    _, _, _, bags, truths, priors = free_case(2, 15, config)
    around = boxes_around(priors, 3.0).boxes
    iou = box_iou(truths.boxes.numpy(), around.numpy())
    truth, image, prior = bags.pairs
    assert torch.equal(image, truths.image[truth])
    for m in range(15):
        mine = prior[truth == m].numpy()
        assert len(set(mine.tolist())) == len(mine) == 6
        others = np.delete(iou[m], mine)
        assert iou[m, mine].min() >= others.max() - 1e-4 or iou[m, mine].min() < 0.1


def test_a_bag_follows_its_best_prior_once_it_is_good() -> None:
    """At the start every prior of the bag gets about the same pull; a sure and exact one gets the whole bag's trust."""
    config = FreeAnchor(bag=10)
    logits, boxes, place, bags, truths, priors = free_case(3, 1, config)
    asked = torch.zeros(2, len(priors.points))
    _, image, prior = bags.pairs

    def pulls(x: Tensor, cost: Tensor) -> Tensor:
        cost = cost.clone().requires_grad_()
        free_anchor_loss(config, x, boxes, cost, bags, truths, asked)[0].backward()
        assert cost.grad is not None
        return cost.grad

    low = pulls(torch.full_like(logits, -4.6), torch.full_like(place, 1.0))
    assert float(low.max() / low.min()) == pytest.approx(1, abs=1e-3)
    good = torch.full_like(logits, -4.6)
    good[image[3], prior[3], truths.labels[0]] = 6.0
    cost = torch.full_like(place, 1.0)
    cost[3] = 0.01
    late = pulls(good, cost)
    assert int(late.argmax()) == 3
    assert float(late[3]) > 5 * float(late.sum() - late[3])


def test_drawings_show_the_likeliest_prior_of_each_bag() -> None:
    config = FreeAnchor(bag=8)
    logits, _, place, bags, truths, priors = free_case(4, 30, config)
    truth, image, prior = bags.pairs
    log_x = logits[image, prior, truths.labels[truth]].sigmoid().log() - place
    a = likeliest(log_x, bags, len(priors.points))
    slots = a.image * len(priors.points) + a.prior
    assert (slots.diff() > 0).all()
    assert len(set(a.truth.tolist())) == len(a.truth) >= 20
    for i, p, m, q in zip(*(v.tolist() for v in a[:4]), strict=True):
        assert log_x[truth == m].max().exp() == pytest.approx(q)
        k = int(torch.nonzero((truth == m) & (prior == p) & (image == i))[0, 0])
        assert float(log_x[k].exp()) == pytest.approx(q)


def test_free_anchor_is_refused_where_pairs_are_needed() -> None:
    head = DenseBoxes(BoxHead(assigner=FreeAnchor()), 1, STRIDES)
    targets = head.encode([Objects((96, 128), [0], [[40, 30, 80, 62]])])
    raw = head.ideal(targets, (96, 128))
    boxes = head.boxes(raw)
    with pytest.raises(TercelError, match="FreeAnchor is a loss over bags"):
        head.assigned_loss(raw, boxes, head.assign(raw, boxes, targets), targets)


# -- anchors --------------------------------------------------------------------------------------------------


def test_atss_on_anchors_by_a_slow_loop() -> None:
    """The k nearest anchors of every level and shape; positive from mean + deviation of their own overlaps on."""
    config, shapes = Atss(topk=4), anchor_shapes(AnchorHead(base=3, scales=(1.0, 1.5), ratios=(1.0, 2.0)), STRIDES)
    anchors = make_anchors([(96 // s, 128 // s) for s in STRIDES], STRIDES, shapes, CPU)
    truths = truths_of((20, 10, 44, 70), (70, 30, 118, 86), (6, 60, 22, 90))
    n = len(anchors.boxes)
    got = assign(config, torch.full((1, n, 1), 0.5), torch.zeros(1, n, 4), anchors, truths)
    iou = box_iou(truths.boxes.numpy(), anchors.boxes.numpy())
    centres = anchors.centres.numpy()
    wanted: dict[int, tuple[float, int]] = {}
    for m, box in enumerate(truths.boxes.numpy()):
        middle = (box[:2] + box[2:]) / 2
        near: list[int] = []
        for g in anchors.grids:
            mine = np.arange(g.start, g.start + len(g.xs) * len(g.ys))
            away = np.linalg.norm(centres[mine] - middle, axis=1)
            near += mine[np.argsort(away, kind="stable")[:4]].tolist()
        threshold = iou[m, near].mean() + iou[m, near].std(ddof=1)
        for a in near:
            if iou[m, a] >= threshold - 1e-6 and (box[:2] < centres[a]).all() and (centres[a] < box[2:]).all():
                wanted[a] = max(wanted.get(a, (0.0, -1)), (float(iou[m, a]), m))
    assert [(a, m) for _, a, m in as_rows(got)] == sorted((a, m) for a, (_, m) in wanted.items())
    assert len(got.prior) > 6


def test_overlap_of_anchors_says_which_one_is_the_best() -> None:
    """`AnchorBoxes.assign` gives the overlap of anchors, whatever is predicted."""
    head = AnchorBoxes(AnchorHead(assigner=Atss(), base=3), 1, STRIDES)
    targets = head.encode([Objects((96, 128), [0], [[30, 20, 80, 62]])])
    raw = head.ideal(targets, (96, 128))
    a = head.assign(raw._replace(deltas=raw.deltas + 5), torch.zeros(1, len(raw.anchors.boxes), 4), targets)
    iou = box_iou(raw.anchors.boxes[a.prior].numpy(), targets.truths.boxes.numpy())[:, 0]
    assert a.quality.numpy() == pytest.approx(iou, abs=1e-6)


# -- all of them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "assigner",
    [MaxIou(), Atss(), Fcos(reach=4.0), Ota(), OneToOne(), FreeAnchor(), TaskAligned()],
    ids=lambda a: type(a).__name__,
)
def test_every_assigner_learns_two_pictures(assigner: Any) -> None:
    """After 60 steps the two objects of the first picture and the one of the second come first, nearly in place."""
    torch.manual_seed(0)
    small = SmallNet(stem=16, widths=(16, 32, 32, 32), depths=(0, 1, 1, 1))
    model = Model(backbone=small, head=BoxHead(width=32, depth=1, assigner=assigner), norm="group")
    d = Detector(replace(model, neck=replace(model.neck, width=32)), Schema(("a", "b")))
    boxes = [[[10, 12, 40, 40], [80, 40, 112, 70]], [[50, 20, 90, 50]]]
    images = torch.zeros(2, 1, 3, 96, 128, dtype=torch.uint8)
    for i, some in enumerate(boxes):
        for k, (x1, y1, x2, y2) in enumerate(some):
            images[i, 0, k, y1:y2, x1:x2] = 255
    truth = [Objects((96, 128), [0, 1], boxes[0]), Objects((96, 128), [0], boxes[1])]
    optimizer = torch.optim.AdamW(d.parameters(), lr=3e-3)
    for _ in range(60):
        loss = d.head.loss(d(images), d.head.encode(truth))
        optimizer.zero_grad()
        (loss.total / loss.weight.clamp(min=1)).backward()
        optimizer.step()
    raw = d(images)
    scores, found = raw.logits.detach().sigmoid().amax(-1), d.head.boxes(raw).detach()  # type: ignore[attr-defined]
    for i, t in enumerate(truth):
        order = scores[i].argsort(descending=True)
        iou = box_iou(t.boxes, found[i][order].numpy())
        for k in range(len(t)):
            first = int(np.flatnonzero(iou[k] > 0.5)[0])
            assert iou[k].max() > 0.6
            assert first < 20
        assert iou[:, 0].max() > 0.6
