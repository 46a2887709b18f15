"""Assigners against slow per-picture loops in plain Python, and by hand; tests/contracts holds what all must do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tercel.config import Atss, SimOta, TaskAligned
from tercel.core.finding import TercelError
from tercel.core.rotated import reference_iou
from tercel.models.assign import Assignment, Priors, Truths, assign, starved
from tercel.models.oriented_losses import rotated_iou

CONFIGS = [
    TaskAligned(),
    TaskAligned(topk=3, alpha=1.0, beta=2.0),
    SimOta(),
    SimOta(candidates=4, radius=1.0),
    Atss(),
    Atss(topk=2),
]
every = pytest.mark.parametrize("config", CONFIGS, ids=["tal", "tal3", "simota", "simota4", "atss", "atss2"])
both = pytest.mark.parametrize("config", CONFIGS[:4], ids=["tal", "tal3", "simota", "simota4"])
Config = TaskAligned | SimOta | Atss


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


def random_case(seed: int, count: int, oriented: bool = False) -> tuple[Tensor, Tensor, Priors, Truths]:
    """Scores, boxes, priors, truths of two pictures: from tiny to large ones, some partly off the canvas, crowded."""
    g = torch.Generator().manual_seed(seed)
    priors = grid()
    extent = 2 + 50 * torch.rand(count, 2, generator=g) ** 2
    centre = torch.rand(count, 2, generator=g) * torch.tensor([136.0, 104.0]) - 4
    image = torch.randint(0, 2, (count,), generator=g).sort().values
    labels = torch.randint(0, 3, (count,), generator=g)
    half = priors.strides[:, None] * (0.3 + 2.5 * torch.rand(2, len(priors.points), 2, generator=g))
    scores = torch.rand(2, len(priors.points), 3, generator=g) * 0.98 + 0.01
    truths = Truths(image, labels, torch.cat([centre - extent / 2, centre + extent / 2], 1))
    if not oriented:
        return scores, torch.cat([priors.points - half, priors.points + half], 2), priors, truths
    turn, turns = (4 * torch.rand(*n, 1, generator=g) for n in ((count,), (2, len(priors.points))))
    boxes = torch.cat([priors.points.expand(2, -1, -1), 2 * half, turns], 2)
    return scores, boxes, priors, truths._replace(obbs=torch.cat([centre, extent, turn], 1))


def first_picture(seed: int) -> tuple[Tensor, Tensor, Priors, Truths]:
    scores, boxes, priors, truths = random_case(seed, 1)
    return scores[:1], boxes[:1], priors, truths


def as_rows(a: Assignment) -> list[tuple[int, int, int]]:
    return list(zip(a.image.tolist(), a.prior.tolist(), a.truth.tolist(), strict=True))


# -- the slow reference ---------------------------------------------------------------------------------------


def overlap(a: list[float], b: list[float], exact: bool = False) -> float:
    """IoU of boxes; of oriented boxes ProbIoU with matrices (Murrugarra-Llerena et al. 2022), or IoU if `exact`."""
    if len(a) == 4:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inter = max(w, 0) * max(h, 0)
        return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter) if inter else 0.0
    if exact:
        return float(reference_iou(np.array([a]), np.array([b]))[0, 0])
    p, t, d = spread(a), spread(b), np.array(a[:2]) - np.array(b[:2])
    mean = (p + t) / 2
    distance = d @ np.linalg.inv(mean) @ d / 8
    distance += math.log(np.linalg.det(mean) / math.sqrt(np.linalg.det(p) * np.linalg.det(t))) / 2
    return float(1 - math.sqrt(max(0, 1 - math.exp(-distance))))


def spread(box: list[float]) -> Any:
    turn = np.array([[math.cos(box[4]), -math.sin(box[4])], [math.sin(box[4]), math.cos(box[4])]])
    return turn @ np.diag([box[2] ** 2 / 12, box[3] ** 2 / 12]) @ turn.T


def middle(box: list[float]) -> tuple[float, float]:
    return (box[0], box[1]) if len(box) == 5 else ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)


def holds(box: list[float], point: list[float]) -> bool:
    if len(box) == 4:
        return box[0] < point[0] < box[2] and box[1] < point[1] < box[3]
    x, y = point[0] - box[0], point[1] - box[1]
    c, s = math.cos(box[4]), math.sin(box[4])
    return abs(x * c + y * s) < box[2] / 2 and abs(y * c - x * s) < box[3] / 2


def regions(config: Config, box: list[float], point: list[float], stride: float) -> tuple[bool, bool]:
    """In the box; in the centre region (SimOTA's; task-aligned has none)."""
    if not isinstance(config, SimOta):
        return holds(box, point), False
    reach = config.radius * stride
    return holds(box, point), all(abs(a - b) < reach for a, b in zip(point, middle(box), strict=True))


def nearest(config: Config, box: list[float], points: list[list[float]], strides: list[float], k: int) -> list[int]:
    found = []
    for stride in sorted(set(strides)):
        level = [p for p in range(len(points)) if strides[p] == stride]
        found += sorted(level, key=lambda p: (math.dist(points[p], middle(box)), p))[:k]
    return found


def candidates_of(config: Config, box: list[float], points: list[list[float]], strides: list[float]) -> list[int]:
    if isinstance(config, Atss):
        return nearest(config, box, points, strides, config.topk)
    found = [p for p in range(len(points)) if any(regions(config, box, points[p], strides[p]))]
    return found or nearest(config, box, points, strides, 1)


def atss(box: list[float], cand: list[int], points: list[list[float]], strides: list[float]) -> dict[int, float]:
    """Rank per candidate: fitting ones above 1, those that only lie in the box above -1."""
    squares = {p: [points[p][0] - 4 * strides[p], points[p][1] - 4 * strides[p]] for p in cand}
    if len(box) == 4:
        overlaps = {
            p: overlap([*low, low[0] + 8 * strides[p], low[1] + 8 * strides[p]], box) for p, low in squares.items()
        }
    else:
        overlaps = {p: overlap([*points[p], 8 * strides[p], 8 * strides[p], 0.0], box, exact=True) for p in cand}
    threshold = np.mean(list(overlaps.values())) + (np.std(list(overlaps.values()), ddof=1) if len(cand) > 1 else 0)
    rank = {}
    for p, value in overlaps.items():
        inside, fits = holds(box, points[p]), value >= threshold - 1e-6
        base = {(True, True): 1, (True, False): -1, (False, True): -3, (False, False): -5}[inside, bool(fits)]
        rank[p] = base + value - 1e-6 * math.dist(points[p], middle(box)) / strides[p]
    return rank


def slow(config: Config, scores: Tensor, boxes: Tensor, priors: Priors, truths: Truths) -> dict[tuple[int, int], Any]:
    """{(image, prior): (truth, quality)}."""
    points, strides = priors.points.tolist(), priors.strides.tolist()
    s, b, t = scores.tolist(), boxes.tolist(), truths.shapes.tolist()
    out: dict[tuple[int, int], Any] = {}
    for image in range(len(s)):
        mine = [m for m in range(len(t)) if truths.image[m] == image]
        rank: dict[tuple[int, int], float] = {}  # (truth, prior) -> the greater the better
        iou: dict[tuple[int, int], float] = {}
        picks: list[tuple[int, int]] = []
        for m in mine:
            label, cand = int(truths.labels[m]), candidates_of(config, t[m], points, strides)
            fits = atss(t[m], cand, points, strides) if isinstance(config, Atss) else {}
            for p in cand:
                iou[m, p] = overlap(b[image][p], t[m])
                if isinstance(config, TaskAligned):
                    rank[m, p] = s[image][p][label] ** config.alpha * iou[m, p] ** config.beta
                elif isinstance(config, Atss):
                    rank[m, p] = fits[p]
                else:
                    bce = -sum(math.log(v if c == label else 1 - v) for c, v in enumerate(s[image][p]))
                    outside = 0 if all(regions(config, t[m], points[p], strides[p])) else 1e5
                    rank[m, p] = -(bce - config.iou_weight * math.log(iou[m, p] + 1e-8) + outside)
            if isinstance(config, TaskAligned):
                k = config.topk
            elif isinstance(config, Atss):
                k = sum(v > 0.5 for v in fits.values())
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


@every
@pytest.mark.parametrize(("seed", "count"), [(0, 1), (1, 5), (2, 25), (3, 80), (4, 200)])
@pytest.mark.parametrize("oriented", [False, True], ids=["boxes", "oriented"])
def test_same_as_the_slow_loop(config: Config, seed: int, count: int, oriented: bool) -> None:
    case = random_case(seed, count, oriented)
    expected, got = slow(config, *case), assign(config, *case)
    assert as_rows(got) == [(image, p, expected[image, p][0]) for image, p in sorted(expected)]
    quality = torch.tensor([expected[key][1] for key in sorted(expected)])
    torch.testing.assert_close(got.quality, quality, rtol=1e-3, atol=2e-5)
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
    elif isinstance(config, SimOta) and config.radius > 2:
        assert got.prior.tolist() == list(range(10))  # ten IoUs of 1: k = 10
    else:
        assert got.prior.tolist() == [5, 6, 9, 10]  # within one stride of the centre (16, 16) first


@every
def test_more_copies_than_priors_are_counted(config: Config) -> None:
    """200 copies of one truth: each of its few candidates serves one, and the rest is reported."""
    scores, boxes, priors, _ = first_picture(5)
    truths = truths_of([(41.0, 41.0, 43.0, 43.0)] * 200)
    got = assign(config, scores, boxes, priors, truths)
    room = len(candidates_of(config, truths.boxes[0].tolist(), priors.points.tolist(), priors.strides.tolist()))
    assert starved(got, truths) == 200 - room
    assert got.truth.unique().numel() == got.prior.unique().numel() == room


@every
@pytest.mark.parametrize(
    "box", [(15.5, 15.5, 16.5, 16.5), (7.9, 3, 8.1, 4), (-30, -40, -20, -20), (500, 500, 501, 501)]
)
def test_a_truth_that_holds_no_centre_gets_a_prior(config: Config, box: tuple[float, ...]) -> None:
    """crowd-7: tiny truths between the centres, truths off the canvas."""
    scores, boxes, priors, _ = first_picture(6)
    truths = truths_of([box])
    got = assign(config, scores, boxes, priors, truths)
    allowed = candidates_of(config, list(box), priors.points.tolist(), priors.strides.tolist())
    assert len(got.prior) >= 1
    assert set(got.prior.tolist()) <= set(allowed)
    assert starved(got, truths) == 0


# -- oriented, and ATSS ---------------------------------------------------------------------------------------


def test_oriented_by_hand() -> None:
    """A truth 40 x 6 along the diagonal of 4 x 4 cells of 8 px holds the four centres on it, no others."""
    priors = grid((32, 32), (8,))
    obb = torch.tensor([[16.0, 16, 40, 6, math.pi / 4]])
    truths = Truths(torch.zeros(1).long(), torch.zeros(1).long(), torch.zeros(1, 4), obb)
    boxes = torch.cat([priors.points, torch.tensor([40.0, 6, math.pi / 4]).expand(16, 3)], 1)[None]
    config = TaskAligned(alpha=0.5, beta=1.0)
    got = assign(config, torch.full((1, 16, 1), 0.5), boxes, priors, truths, rotated_iou)
    assert got.prior.tolist() == [0, 5, 10, 15]
    # moved along by 12 sqrt 2 and by 4 sqrt 2 px of 40
    far, near = ((40 - d) / (40 + d) for d in (12 * math.sqrt(2), 4 * math.sqrt(2)))
    torch.testing.assert_close(got.quality, torch.tensor([far, near, near, far]))
    turned = boxes * torch.tensor([1.0, 1, 1, 1, -1])
    assert assign(config, torch.full((1, 16, 1), 0.5), turned, priors, truths).quality.max() < 0.3


def test_atss_by_hand() -> None:
    """One row of 8 cells of 8 px, squares of 64 px, one truth as long as the row, 64 x 8 px.

    The squares hold 36, 44, 52, 60, 60, 52, 44, 36 px of its length: 48 on average, deviation 9.6. Only 60 exceeds
    57.6, and the overlaps 8 w / (64^2 + 64 * 8 - 8 w) are nearly linear in w.
    """
    priors = grid((8, 64), (8,))
    boxes = torch.tensor([0.0, 0, 64, 4]).repeat(1, 8, 1)
    got = assign(Atss(topk=8), torch.full((1, 8, 1), 0.5), boxes, priors, truths_of([(0, 0, 64, 8)]))
    assert got.prior.tolist() == [3, 4]
    assert got.quality.tolist() == [0.5, 0.5]  # of the predictions
    short = assign(Atss(topk=8), torch.full((1, 8, 1), 0.5), boxes, priors, truths_of([(0, 0, 7, 8)]))
    assert short.prior.tolist() == [0]  # the only centre in it, whatever the squares of the others overlap


def test_atss_takes_the_deviation_of_a_sample() -> None:
    """Four squares hold 60, 64, 64, 60 px: mean 62, deviation 2, or 2.3 of a sample: none reaches 64.3."""
    priors = grid((8, 32), (8,))
    scores, boxes = torch.full((1, 4, 1), 0.5), torch.zeros(1, 4, 4)
    assert assign(Atss(topk=4), scores, boxes, priors, truths_of([(-24, 0, 56, 8)])).prior.tolist() == [1]


def test_atss_is_not_decided_by_rounding() -> None:
    """Truths wholly in all their squares overlap them equally: every cell in such a truth answers for it."""
    priors = grid((160, 160), (8,))
    place = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 60 + 50
    obbs = torch.cat([place, torch.tensor([17.0, 13.0]).expand(300, 2), place[:, :1]], 1)
    for m in range(300):
        truths = Truths(torch.zeros(1).long(), torch.zeros(1).long(), torch.zeros(1, 4), obbs[m : m + 1])
        got = assign(Atss(), torch.full((1, 400, 1), 0.5), torch.ones(1, 400, 5), priors, truths)
        assert got.prior.tolist() == [p for p, at in enumerate(priors.points.tolist()) if holds(obbs[m].tolist(), at)]


def test_atss_does_not_look_at_scores_or_predictions() -> None:
    scores, boxes, priors, truths = random_case(3, 80, oriented=True)
    base = assign(Atss(), scores, boxes, priors, truths)
    other = assign(Atss(), 1 - scores, boxes.flip(1), priors, truths)
    assert as_rows(other) == as_rows(base)
    assert not torch.equal(other.quality, base.quality)


def test_atss_prefers_the_nearer_of_two_equal_truths() -> None:
    """Both are wholly in the squares, so the overlaps are equal: each cell goes to the truth whose centre is nearer."""
    priors = grid((16, 64), (8,))
    truths = truths_of([(10, 0, 30, 16), (26, 0, 46, 16)])
    for order in ([0, 1], [1, 0]):
        turned = truths.take(torch.tensor(order))
        got = assign(Atss(), torch.full((1, 16, 1), 0.5), torch.zeros(1, 16, 4), priors, turned)
        middles = [(turned.boxes[m, 0] + turned.boxes[m, 2]) / 2 for m in got.truth.tolist()]
        for p, m, x in zip(got.prior.tolist(), got.truth.tolist(), middles, strict=True):
            other = (turned.boxes[1 - m, 0] + turned.boxes[1 - m, 2]) / 2
            assert abs(priors.points[p, 0] - x) <= abs(priors.points[p, 0] - other)


# -- properties -----------------------------------------------------------------------------------------------


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


def test_misuse() -> None:
    scores, boxes, priors, truths = random_case(0, 3)
    with pytest.raises(TercelError, match=r"expected \[B,A,C\]"):
        assign(TaskAligned(), scores[:, 1:], boxes, priors, truths)
    with pytest.raises(TercelError, match=r"expected \[B,A,C\], \[B,A,5\]"):
        assign(TaskAligned(), scores, boxes, priors, truths._replace(obbs=torch.zeros(3, 5)))
    two, predicted = truths._replace(obbs=torch.zeros(2, 5)), boxes.repeat(1, 1, 2)[..., :5]
    with pytest.raises(TercelError, match=r"boxes \[2, 5\]"):
        assign(TaskAligned(), scores, predicted, priors, two)
    with pytest.raises(TercelError, match="3 truths"):
        assign(TaskAligned(), scores, boxes, priors, truths._replace(labels=truths.labels[:2]))
    mixed = torch.randperm(len(priors.points), generator=torch.Generator().manual_seed(0))
    with pytest.raises(TercelError, match="no grid"):
        assign(TaskAligned(), scores, boxes, priors._replace(points=priors.points[mixed]), truths)
