"""Assigners against slow per-picture loops in plain Python, and what must hold for any assignment."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tercel.config import SimOta, TaskAligned
from tercel.core.finding import TercelError
from tercel.models import assign as module
from tercel.models.assign import Assignment, Priors, Truths, assign, starved

CONFIGS = [TaskAligned(), TaskAligned(topk=3, alpha=1.0, beta=2.0), SimOta(), SimOta(candidates=4, radius=1.0)]
both = pytest.mark.parametrize("config", CONFIGS, ids=["tal", "tal3", "simota", "simota4"])
Config = TaskAligned | SimOta


def grid(size: tuple[int, int] = (96, 128), strides: tuple[int, ...] = (8, 16, 32)) -> Priors:
    points, steps = [], []
    for stride in strides:
        for row in range(size[0] // stride):
            for column in range(size[1] // stride):
                points.append(((column + 0.5) * stride, (row + 0.5) * stride))
                steps.append(float(stride))
    return Priors(torch.tensor(points), torch.tensor(steps))


def truths_of(*pictures: list[tuple[float, ...]], labels: list[int] | None = None) -> Truths:
    boxes = [box for picture in pictures for box in picture]
    image = [k for k, picture in enumerate(pictures) for _ in picture]
    return Truths(
        torch.tensor(image, dtype=torch.long),
        torch.tensor(labels or [0] * len(boxes), dtype=torch.long),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
    )


def random_case(
    seed: int, count: int, batch: int = 2, classes: int = 3, size: tuple[int, int] = (96, 128)
) -> tuple[Tensor, Tensor, Priors, Truths]:
    """Scores, boxes, priors, truths: from tiny to large ones, some partly off the canvas, crowded."""
    g = torch.Generator().manual_seed(seed)
    priors = grid(size)
    extent = 2 + 50 * torch.rand(count, 2, generator=g) ** 2
    centre = torch.rand(count, 2, generator=g) * torch.tensor([size[1] + 8.0, size[0] + 8.0]) - 4
    image = torch.randint(0, batch, (count,), generator=g).sort().values
    truths = Truths(
        image,
        torch.randint(0, classes, (count,), generator=g),
        torch.cat([centre - extent / 2, centre + extent / 2], 1),
    )
    half = priors.strides[:, None] * (0.3 + 2.5 * torch.rand(batch, len(priors.points), 2, generator=g))
    boxes = torch.cat([priors.points - half, priors.points + half], 2)
    scores = torch.rand(batch, len(priors.points), classes, generator=g) * 0.98 + 0.01
    return scores, boxes, priors, truths


def as_rows(a: Assignment) -> list[tuple[int, int, int]]:
    return list(zip(a.image.tolist(), a.prior.tolist(), a.truth.tolist(), strict=True))


# -- the slow reference ---------------------------------------------------------------------------------------


def overlap(a: list[float], b: list[float]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter) if inter else 0.0


def regions(config: Config, box: list[float], point: list[float], stride: float) -> tuple[bool, bool]:
    """In the box; in the centre region (SimOTA's; task-aligned has none)."""
    x, y = point
    in_box = box[0] < x < box[2] and box[1] < y < box[3]
    if isinstance(config, TaskAligned):
        return in_box, False
    reach = config.radius * stride
    return in_box, abs(x - (box[0] + box[2]) / 2) < reach and abs(y - (box[1] + box[3]) / 2) < reach


def candidates_of(config: Config, box: list[float], points: list[list[float]], strides: list[float]) -> list[int]:
    found = [p for p in range(len(points)) if any(regions(config, box, points[p], strides[p]))]
    if not found:
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        for stride in sorted(set(strides)):
            level = [p for p in range(len(points)) if strides[p] == stride]
            found.append(min(level, key=lambda p: (math.dist(points[p], (cx, cy)), p)))
    return found


def slow(config: Config, scores: Tensor, boxes: Tensor, priors: Priors, truths: Truths) -> dict[tuple[int, int], Any]:
    """{(image, prior): (truth, quality)}."""
    points, strides = priors.points.tolist(), priors.strides.tolist()
    s, b, t = scores.tolist(), boxes.tolist(), truths.boxes.tolist()
    out: dict[tuple[int, int], Any] = {}
    for image in range(len(s)):
        mine = [m for m in range(len(t)) if truths.image[m] == image]
        rank: dict[tuple[int, int], float] = {}  # (truth, prior) -> the greater the better
        iou: dict[tuple[int, int], float] = {}
        picks: list[tuple[int, int]] = []
        for m in mine:
            label, cand = int(truths.labels[m]), candidates_of(config, t[m], points, strides)
            for p in cand:
                iou[m, p] = overlap(b[image][p], t[m])
                if isinstance(config, TaskAligned):
                    rank[m, p] = s[image][p][label] ** config.alpha * iou[m, p] ** config.beta
                else:
                    bce = -sum(math.log(v if c == label else 1 - v) for c, v in enumerate(s[image][p]))
                    outside = 0 if all(regions(config, t[m], points[p], strides[p])) else 1e5
                    rank[m, p] = -(bce - config.iou_weight * math.log(iou[m, p] + 1e-8) + outside)
            if isinstance(config, TaskAligned):
                k = config.topk
            else:
                k = max(1, int(sum(sorted((iou[m, p] for p in cand), reverse=True)[: config.candidates])))
            picks += [(m, p) for p in sorted(cand, key=lambda p: (-rank[m, p], p))[:k]]
        owner: dict[int, int] = {}
        worth = iou if isinstance(config, TaskAligned) else rank
        for m, p in picks:
            if p not in owner or worth[m, p] > worth[owner[p], p]:
                owner[p] = m
        lost = set(mine) - set(owner.values())
        for steal in (False, True):
            for m, p in sorted((k for k in rank if k[0] in lost), key=lambda k: (-rank[k], k[1], k[0])):
                rich = steal and list(owner.values()).count(owner.get(p, -1)) > 1
                if m in lost and (p not in owner or rich):
                    owner[p] = m
                    lost.remove(m)
        for p, m in owner.items():
            quality = iou[m, p]
            if isinstance(config, TaskAligned):
                own = [q for q in owner if owner[q] == m]
                best = max(rank[m, q] for q in own)
                quality = rank[m, p] / best * max(iou[m, q] for q in own) if best else 0.0
            out[image, p] = m, quality
    return out


@both
@pytest.mark.parametrize(("seed", "count"), [(0, 1), (1, 5), (2, 25), (3, 80), (4, 200)])
def test_same_as_the_slow_loop(config: Config, seed: int, count: int) -> None:
    case = random_case(seed, count)
    expected, got = slow(config, *case), assign(config, *case)
    assert as_rows(got) == [(image, p, expected[image, p][0]) for image, p in sorted(expected)]
    quality = torch.tensor([expected[key][1] for key in sorted(expected)])
    torch.testing.assert_close(got.quality, quality, rtol=1e-3, atol=1e-6)
    assert starved(got, case[3]) == count - len({m for m, _ in expected.values()})


def test_the_cases_above_do_contain_conflicts_and_losers() -> None:
    """Otherwise the comparison would say nothing about them."""
    case = random_case(4, 200)
    assert starved(assign(TaskAligned(), *case), case[3]) > 0
    tight = random_case(3, 80)
    assert starved(assign(TaskAligned(), *tight), tight[3]) == 0


# -- by hand --------------------------------------------------------------------------------------------------


def by_hand() -> tuple[Tensor, Tensor, Priors]:
    """One row of four cells of stride 8; every prior predicts the 12 x 8 box around it, score .25."""
    priors = grid((8, 32), (8,))
    boxes = torch.cat([priors.points - torch.tensor([6.0, 4]), priors.points + torch.tensor([6.0, 4])], 1)
    return torch.full((1, 4, 1), 0.25), boxes[None], priors


def test_task_aligned_by_hand() -> None:
    """Truth 0..18 x 0..8 holds the centres 4 and 12 (boxes -2..10 and 6..18): IoU 80/160 = 1/2 and 96/144 = 2/3."""
    scores, boxes, priors = by_hand()
    scores[0, 0] = 1.0
    got = assign(TaskAligned(alpha=0.5, beta=1.0), scores, boxes, priors, truths_of([(0, 0, 18, 8)]))
    assert as_rows(got) == [(0, 0, 0), (0, 1, 0)]
    # alignment: sqrt(1) * 1/2 = .5 and sqrt(.25) * 2/3 = 1/3; best .5 -> best IoU 2/3
    torch.testing.assert_close(got.quality, torch.tensor([2 / 3, (1 / 3) / 0.5 * 2 / 3]))


def test_simota_by_hand() -> None:
    """Radius 2.5 strides reaches all four cells; IoU 1/2, 2/3, 32/208, 0 (cell 28: box 22..34): sum 1.32, k = 1."""
    scores, boxes, priors = by_hand()
    truths = truths_of([(0, 0, 18, 8)])
    got = assign(SimOta(), scores, boxes, priors, truths)
    assert as_rows(got) == [(0, 1, 0)]
    torch.testing.assert_close(got.quality, torch.tensor([2 / 3]))
    scores[0, 0] = 0.9  # cheaper by log(.9 / .25) = 1.28 against 3 log(4/3) = .86: the class decides
    assert as_rows(assign(SimOta(), scores, boxes, priors, truths)) == [(0, 0, 0)]
    assert as_rows(assign(SimOta(iou_weight=5.0), scores, boxes, priors, truths)) == [(0, 1, 0)]  # 1.44


def test_simota_counts_the_other_classes() -> None:
    """A prior that also shouts another class costs more: all class scores enter the cost."""
    scores, boxes, priors = by_hand()
    scores = scores.repeat(1, 1, 2)
    truths = truths_of([(4, 0, 12, 8)])  # between the centres 4 and 12, equal IoU: the lower index wins ...
    assert as_rows(assign(SimOta(), scores, boxes, priors, truths_of([(2, 0, 14, 8)]))) == [(0, 0, 0)]
    scores[0, 0, 1] = 0.9  # ... unless its other class is loud
    assert as_rows(assign(SimOta(), scores, boxes, priors, truths_of([(2, 0, 14, 8)]))) == [(0, 1, 0)]
    assert len(assign(SimOta(), scores, boxes, priors, truths).prior) == 1


@both
def test_ties_go_to_the_lower_prior(config: Config) -> None:
    priors = grid((32, 32), (8,))
    boxes = torch.tensor([0.0, 0, 32, 32]).repeat(1, 16, 1)
    got = assign(config, torch.full((1, 16, 1), 0.5), boxes, priors, truths_of([(0, 0, 32, 32)]))
    if isinstance(config, TaskAligned):
        assert got.prior.tolist() == list(range(config.topk))
    elif config.radius > 2:
        assert got.prior.tolist() == list(range(10))  # ten IoUs of 1: k = 10
    else:
        assert got.prior.tolist() == [5, 6, 9, 10]  # within one stride of the centre (16, 16) first


@both
def test_two_truths_with_the_same_best_prior_both_get_one(config: Config) -> None:
    """crowd-8: copies of one truth share every rank; each is answered by priors of its own."""
    scores, boxes, priors, _ = random_case(5, 1, batch=1)
    box = (40.0, 40.0, 60.0, 60.0)
    for copies in (2, 4):
        truths = truths_of([box] * copies)
        got = assign(config, scores, boxes, priors, truths)
        assert starved(got, truths) == 0
        assert len(set(got.prior.tolist())) == len(got.prior)
        assert len(got.prior) >= copies


@both
def test_more_copies_than_priors_are_counted(config: Config) -> None:
    """200 copies of one truth: each of its few candidates serves one, and the rest is reported."""
    scores, boxes, priors, _ = random_case(5, 1, batch=1)
    truths = truths_of([(41.0, 41.0, 43.0, 43.0)] * 200)
    got = assign(config, scores, boxes, priors, truths)
    room = len(candidates_of(config, truths.boxes[0].tolist(), priors.points.tolist(), priors.strides.tolist()))
    assert starved(got, truths) == 200 - room
    assert got.truth.unique().numel() == got.prior.unique().numel() == room


@both
@pytest.mark.parametrize(
    "box", [(15.5, 15.5, 16.5, 16.5), (7.9, 3, 8.1, 4), (-30, -40, -20, -20), (500, 500, 501, 501)]
)
def test_a_truth_that_holds_no_centre_gets_a_prior(config: Config, box: tuple[float, ...]) -> None:
    """crowd-7: tiny truths between the centres, truths off the canvas."""
    scores, boxes, priors, _ = random_case(6, 1, batch=1)
    truths = truths_of([box])
    got = assign(config, scores, boxes, priors, truths)
    allowed = candidates_of(config, list(box), priors.points.tolist(), priors.strides.tolist())
    assert len(got.prior) >= 1
    assert set(got.prior.tolist()) <= set(allowed)
    assert starved(got, truths) == 0


# -- properties -----------------------------------------------------------------------------------------------


@both
def test_order_of_truths_does_not_matter(config: Config) -> None:
    scores, boxes, priors, truths = random_case(7, 120)
    base = assign(config, scores, boxes, priors, truths)
    shuffled = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    shuffled = shuffled[truths.image[shuffled].argsort(stable=True)]
    got = assign(config, scores, boxes, priors, Truths(*(x[shuffled] for x in truths)))
    assert [(i, p, int(shuffled[t])) for i, p, t in as_rows(got)] == as_rows(base)
    assert torch.equal(got.quality, base.quality)


@both
def test_the_rest_of_the_batch_does_not_matter(config: Config) -> None:
    """Each picture alone, and the batch in another order with an empty picture, give the same positives."""
    scores, boxes, priors, truths = random_case(8, 150, batch=3)
    base = assign(config, scores, boxes, priors, truths)
    order = [2, 0, 1, 0]  # picture 0 comes again, without truth
    keep = [truths.image == k for k in order[:3]]
    moved = Truths(
        torch.cat([torch.full((int(k.sum()),), n) for n, k in enumerate(keep)]),
        torch.cat([truths.labels[k] for k in keep]),
        torch.cat([truths.boxes[k] for k in keep]),
    )
    mixed = assign(config, scores[order], boxes[order], priors, moved)
    assert not (mixed.image == 3).any()
    for k in range(3):
        of_picture, first = base.image == k, int((truths.image < k).sum())
        expected = base.prior[of_picture], base.truth[of_picture] - first, base.quality[of_picture]
        own = truths.image == k
        single = Truths(torch.zeros(int(own.sum())).long(), truths.labels[own], truths.boxes[own])
        alone = assign(config, scores[k : k + 1], boxes[k : k + 1], priors, single)
        place = order.index(k)
        here = mixed.image == place
        offset = int((moved.image < place).sum())
        for got in (alone[1:], (mixed.prior[here], mixed.truth[here] - offset, mixed.quality[here])):
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@both
@pytest.mark.parametrize("pairs", [1, 64, 1000])
def test_parts_do_not_change_the_result(config: Config, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(9, 60)
    base = assign(config, *case)
    seen: list[int] = []
    cells = module._cells

    def counted(*arguments: Any) -> Any:
        out = cells(*arguments)
        seen.append(len(out[0]) if len(arguments[2]) > 1 else 0)
        return out

    monkeypatch.setattr(module, "PAIRS", pairs)
    monkeypatch.setattr(module, "_cells", counted)
    got = assign(config, *case)
    assert all(torch.equal(a, b) for a, b in zip(got, base, strict=True))
    assert len(seen) > 3
    assert max(seen) <= pairs  # the memory of a part is bounded, whatever the number of truths


@both
def test_1500_truths_in_one_picture(config: Config) -> None:
    """None is cut off: 1,500 truths, 10 px, spread over 640 x 640, and the 1,500th is served like the first."""
    g = torch.Generator().manual_seed(0)
    priors = grid((640, 640))
    cell = torch.randperm(6400, generator=g)[:1500]
    centre = priors.points[cell] + torch.rand(1500, 2, generator=g) * 4 - 2
    truths = Truths(torch.zeros(1500).long(), torch.zeros(1500).long(), torch.cat([centre - 5, centre + 5], 1))
    boxes = torch.cat([priors.points - 5, priors.points + 5], 1)[None]
    scores = torch.rand(1, len(priors.points), 1, generator=g)
    got = assign(config, scores, boxes, priors, truths)
    assert starved(got, truths) == 0
    assert len({(i, p) for i, p, _ in as_rows(got)}) == len(got.prior)
    turned = assign(config, scores, boxes, priors, Truths(*(x.flip(0) for x in truths)))  # the last one comes first
    assert [(i, p, 1499 - t) for i, p, t in as_rows(turned)] == as_rows(got)


@both
def test_no_truth(config: Config) -> None:
    scores, boxes, priors, _ = random_case(0, 1)
    empty = truths_of([], [])
    got = assign(config, scores, boxes, priors, empty)
    assert [len(x) for x in got] == [0, 0, 0, 0]
    assert [x.dtype for x in got] == [torch.int64] * 3 + [torch.float32]
    assert starved(got, empty) == 0


@both
def test_no_overlap_at_all_is_finite(config: Config) -> None:
    """At the start no prediction may touch its truth, and saturated scores are exactly 0 or 1."""
    _, boxes, priors, truths = random_case(10, 30)
    scores = torch.zeros(2, len(priors.points), 3)
    scores[:, ::2] = 1.0
    got = assign(config, scores, boxes + 5000, priors, truths)
    assert (got.quality == 0).all()
    assert starved(got, truths) == 0


def test_quality_reaches_the_best_overlap_of_each_truth() -> None:
    scores, boxes, priors, truths = random_case(11, 40)
    got = assign(TaskAligned(), scores, boxes, priors, truths)
    for m in got.truth.unique().tolist():
        rows = got.truth == m
        predicted = boxes[got.image[rows], got.prior[rows]].tolist()
        best = max(overlap(box, truths.boxes[m].tolist()) for box in predicted)
        assert got.quality[rows].max().item() == pytest.approx(best, abs=1e-5)


def test_tiny_alignments_do_not_underflow() -> None:
    """IoU 1e-5 to the 10th is 0 in float32; the order of such priors still counts."""
    priors = grid((8, 16), (8,))
    boxes = torch.tensor([[[3.0, 3, 3.02, 3.02], [11.0, 3, 11.04, 3.04]]])
    got = assign(
        TaskAligned(topk=1, beta=10.0), torch.full((1, 2, 1), 0.5), boxes, priors, truths_of([(0.0, 0, 16, 8)])
    )
    assert got.prior.tolist() == [1]
    assert got.quality.item() == pytest.approx(0.04**2 / 128, rel=1e-2)


def test_assignment_carries_no_gradient() -> None:
    scores, boxes, priors, truths = random_case(12, 10)
    assert not assign(
        TaskAligned(), scores.requires_grad_(), boxes.requires_grad_(), priors, truths
    ).quality.requires_grad


def test_misuse() -> None:
    scores, boxes, priors, truths = random_case(0, 3)
    with pytest.raises(TercelError, match=r"expected \[B,A,C\]"):
        assign(TaskAligned(), scores[:, 1:], boxes, priors, truths)
    with pytest.raises(TercelError, match="3 truths"):
        assign(TaskAligned(), scores, boxes, priors, truths._replace(labels=truths.labels[:2]))
    mixed = torch.randperm(len(priors.points), generator=torch.Generator().manual_seed(0))
    with pytest.raises(TercelError, match="no grid"):
        assign(TaskAligned(), scores, boxes, priors._replace(points=priors.points[mixed]), truths)
