"""What holds for every assigner, for boxes and for oriented boxes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tercel.config import Atss, Fcos, FreeAnchor, MaxIou, OneToOne, Ota, SimOta, TaskAligned
from tercel.core.finding import TercelError
from tercel.models import assign as module
from tercel.models import assign_points
from tercel.models.assign import Assigner, Assignment, Priors, Truths, assign, starved

CONFIGS: dict[str, Assigner] = {
    "task-aligned": TaskAligned(),
    "task-aligned 3": TaskAligned(topk=3, alpha=1.0, beta=2.0),
    "simota": SimOta(),
    "simota 4": SimOta(candidates=4, radius=1.0),
    "atss": Atss(),
    "atss 3": Atss(topk=3),
    "fcos": Fcos(),
    "fcos wide": Fcos(radius=2.5, reach=4.0),
    "ota": Ota(),
    "ota 5": Ota(candidates=5, radius=1.5, rounds=20, smoothing=0.5),
    "one-to-one": OneToOne(),
    "one-to-one lone": OneToOne(topk=1, beta=2.0),
    "max-iou": MaxIou(),
    "max-iou tall": MaxIou(positive=0.4, negative=0.3, side=3.0, ratio=2.0),
}
TURNED = [name for name, config in CONFIGS.items() if not isinstance(config, MaxIou)]  # also for oriented boxes
CASES = [*((name, False) for name in CONFIGS), *((name, True) for name in TURNED)]
every = pytest.mark.parametrize(
    ("name", "oriented"), CASES, ids=[f"{name}-{'oriented' if turned else 'boxes'}" for name, turned in CASES]
)


class Case(NamedTuple):
    scores: Tensor
    boxes: Tensor
    priors: Priors
    truths: Truths


def grid(size: tuple[int, int] = (96, 128), strides: tuple[int, ...] = (8, 16, 32)) -> Priors:
    points, steps = [], []
    for stride in strides:
        for row in range(size[0] // stride):
            for column in range(size[1] // stride):
                points.append(((column + 0.5) * stride, (row + 0.5) * stride))
                steps.append(float(stride))
    return Priors(torch.tensor(points), torch.tensor(steps))


def truths_at(centre: Tensor, extent: Tensor, theta: Tensor, oriented: bool, image: Tensor, labels: Tensor) -> Truths:
    """The hulls are wrong on purpose where there are oriented boxes: nothing may look at them."""
    if oriented:
        return Truths(image, labels, torch.zeros(len(image), 4), torch.cat([centre, extent, theta[:, None]], 1))
    return Truths(image, labels, torch.cat([centre - extent / 2, centre + extent / 2], 1))


def random_case(seed: int, count: int, oriented: bool, batch: int = 2, classes: int = 3) -> Case:
    """From tiny to large ones, some partly off the canvas, crowded, thin ones among them."""
    g = torch.Generator().manual_seed(seed)
    priors, size = grid(), torch.tensor([128.0, 96.0])
    extent = 2 + 50 * torch.rand(count, 2, generator=g) ** 2
    centre = torch.rand(count, 2, generator=g) * (size + 8) - 4
    image = torch.randint(0, batch, (count,), generator=g).sort().values
    labels = torch.randint(0, classes, (count,), generator=g)
    theta = 8 * torch.rand(count, generator=g) - 4
    half = priors.strides[:, None] * (0.3 + 2.5 * torch.rand(batch, len(priors.points), 2, generator=g))
    turn = 8 * torch.rand(batch, len(priors.points), 1, generator=g) - 4
    points = priors.points.expand(batch, -1, -1)
    boxes = torch.cat([points, 2 * half, turn], 2) if oriented else torch.cat([points - half, points + half], 2)
    scores = torch.rand(batch, len(priors.points), classes, generator=g) * 0.98 + 0.01
    return Case(scores, boxes, priors, truths_at(centre, extent, theta, oriented, image, labels))


def one(case: Case, centre: tuple[float, float], extent: tuple[float, float], theta: float, copies: int = 1) -> Case:
    """The first picture of a case with one truth, several times."""
    place, size, turn = torch.tensor([centre] * copies), torch.tensor([extent] * copies), torch.full((copies,), theta)
    image = torch.zeros(copies, dtype=torch.long)
    truths = truths_at(place, size, turn, case.truths.obbs is not None, image, image)
    return Case(case.scores[:1], case.boxes[:1], case.priors, truths)


def as_rows(a: Assignment) -> list[tuple[int, int, int]]:
    return list(zip(a.image.tolist(), a.prior.tolist(), a.truth.tolist(), strict=True))


def same(a: Assignment, b: Assignment) -> bool:
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None or y is not None]
    return all(x is not None and y is not None and torch.equal(x, y) for x, y in pairs)


@every
def test_form(name: str, oriented: bool) -> None:
    case = random_case(0, 90, oriented)
    got = assign(CONFIGS[name], *case)
    rows = as_rows(got)
    assert rows == sorted(rows)
    assert len({(i, p) for i, p, _ in rows}) == len(rows)  # a prior answers for one truth
    assert torch.equal(case.truths.image[got.truth], got.image)
    assert [x.dtype for x in got[:4]] == [torch.int64] * 3 + [torch.float32]
    assert (got.quality >= 0).all()
    assert (got.quality <= 1).all()
    assert got.quality.max() > 0.1


@every
def test_a_second_time_and_in_full_precision_whatever_autocast_does(name: str, oriented: bool) -> None:
    case = random_case(1, 90, oriented)
    base = assign(CONFIGS[name], *case)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(assign(CONFIGS[name], *case), base)


@every
@pytest.mark.parametrize("count", [1, 20, 60])
def test_no_truth_starves_while_there_is_room(name: str, oriented: bool, count: int) -> None:
    case = random_case(2, count, oriented)
    assert starved(assign(CONFIGS[name], *case), case.truths) == 0


@every
@pytest.mark.parametrize(
    ("centre", "extent", "theta"),
    [
        ((16.0, 16.0), (1.0, 1.0), 0.3),  # at a corner of four cells
        ((8.0, 3.5), (0.2, 1.0), 0.0),
        ((40.0, 40.0), (60.0, 0.5), math.pi / 4 + 0.01),  # its hull holds centres, the thin box itself hardly any
        ((48.0, 44.0), (30.0, 1.0), math.pi / 4),  # and none here
        ((-25.0, -30.0), (10.0, 20.0), 0.7),  # off the canvas
        ((500.0, 500.0), (1.0, 1.0), 0.0),
    ],
)
def test_a_truth_that_holds_no_centre_gets_a_prior(
    name: str, oriented: bool, centre: tuple[float, float], extent: tuple[float, float], theta: float
) -> None:
    case = one(random_case(6, 1, oriented, batch=1), centre, extent, theta)
    got = assign(CONFIGS[name], *case)
    assert len(got.prior) >= 1
    assert starved(got, case.truths) == 0


@every
@pytest.mark.parametrize("copies", [2, 4])
def test_copies_of_one_truth_share_its_priors(name: str, oriented: bool, copies: int) -> None:
    case = one(random_case(5, 1, oriented, batch=1), (50.0, 50.0), (20.0, 20.0), 0.4, copies)
    got = assign(CONFIGS[name], *case)
    assert starved(got, case.truths) == 0
    assert len(set(got.prior.tolist())) == len(got.prior) >= copies


@every
def test_order_of_truths_does_not_matter(name: str, oriented: bool) -> None:
    case = random_case(7, 120, oriented)
    base = assign(CONFIGS[name], *case)
    shuffled = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    shuffled = shuffled[case.truths.image[shuffled].argsort(stable=True)]
    got = assign(CONFIGS[name], *case._replace(truths=case.truths.take(shuffled)))
    assert [(i, p, int(shuffled[t])) for i, p, t in as_rows(got)] == as_rows(base)
    assert torch.equal(got.quality, base.quality)


@every
def test_the_rest_of_the_batch_does_not_matter(name: str, oriented: bool) -> None:
    """Each picture alone, and the batch in another order with an empty picture, give the same positives."""
    config, (scores, boxes, priors, truths) = CONFIGS[name], random_case(8, 150, oriented, batch=3)
    base = assign(config, scores, boxes, priors, truths)
    order = [2, 0, 1, 0]  # picture 0 comes again, without truth
    index = torch.cat([torch.nonzero(truths.image == k)[:, 0] for k in order[:3]])
    moved = truths.take(index)._replace(image=torch.tensor([order.index(k) for k in truths.image[index].tolist()]))
    mixed = assign(config, scores[order], boxes[order], priors, moved)
    assert not (mixed.image == 3).any()
    for k in range(3):
        of_picture, first = base.image == k, int((truths.image < k).sum())
        expected = base.prior[of_picture], base.truth[of_picture] - first, base.quality[of_picture]
        single = truths.take(truths.image == k)
        single = single._replace(image=torch.zeros_like(single.image))
        alone = assign(config, scores[k : k + 1], boxes[k : k + 1], priors, single)
        here = mixed.image == order.index(k)
        offset = int((moved.image < order.index(k)).sum())
        for got in (alone[1:4], (mixed.prior[here], mixed.truth[here] - offset, mixed.quality[here])):
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("name", TURNED)  # of max-IoU: tests/models/test_assign_iou.py
@pytest.mark.parametrize("oriented", [False, True], ids=["boxes", "oriented"])
@pytest.mark.parametrize("pairs", [1, 64, 1000])
def test_parts_do_not_change_the_result(name: str, oriented: bool, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_case(9, 60, oriented)
    base = assign(CONFIGS[name], *case)
    seen: list[int] = []
    cells = module.cells_of  # type: ignore[attr-defined]

    def counted(*arguments: Any) -> Any:
        out = cells(*arguments)
        seen.append(len(out[0]) if len(arguments[2]) > 1 else 0)
        return out

    monkeypatch.setattr(module, "PAIRS", pairs)
    for user in (module, assign_points):
        monkeypatch.setattr(user, "cells_of", counted)
    assert same(assign(CONFIGS[name], *case), base)
    assert len(seen) > 1
    assert max(seen) <= pairs  # the memory of a part is bounded, whatever the number of truths


@every
def test_1500_truths_in_one_picture(name: str, oriented: bool) -> None:
    """None is cut off: 1,500 truths, 10 px, spread over 640 x 640, and the 1,500th is served like the first."""
    g = torch.Generator().manual_seed(0)
    priors, zeros = grid((640, 640)), torch.zeros(1500, dtype=torch.long)
    cell = torch.randperm(6400, generator=g)[:1500]
    centre = priors.points[cell] + torch.rand(1500, 2, generator=g) * 4 - 2
    theta = 3 * torch.rand(1500, generator=g)
    truths = truths_at(centre, torch.full((1500, 2), 10.0), theta, oriented, zeros, zeros)
    ten = torch.full_like(priors.points, 10.0)
    boxes = (
        torch.cat([priors.points, ten, ten[:, :1]], 1)
        if oriented
        else torch.cat([priors.points - 5, priors.points + 5], 1)
    )
    case = Case(torch.rand(1, len(priors.points), 1, generator=g), boxes[None], priors, truths)
    got = assign(CONFIGS[name], *case)
    assert starved(got, truths) == 0
    turned = assign(CONFIGS[name], *case._replace(truths=truths.take(torch.arange(1499, -1, -1))))
    assert [(i, p, 1499 - t) for i, p, t in as_rows(turned)] == as_rows(got)


@every
def test_no_truth(name: str, oriented: bool) -> None:
    case = random_case(0, 1, oriented)
    empty = case.truths.take(torch.zeros(0, dtype=torch.long))
    got = assign(CONFIGS[name], *case._replace(truths=empty))
    assert [len(x) for x in got[:4]] == [0, 0, 0, 0]
    assert [x.dtype for x in got[:4]] == [torch.int64] * 3 + [torch.float32]
    assert starved(got, empty) == 0


@every
def test_no_overlap_at_all_is_finite(name: str, oriented: bool) -> None:
    """At the start no prediction may touch its truth, and saturated scores are exactly 0 or 1."""
    _, boxes, priors, truths = random_case(10, 30, oriented)
    far = torch.tensor([5000.0, 5000, 0, 0, 0]) if oriented else torch.tensor(5000.0)
    scores = torch.zeros(2, len(priors.points), 3)
    scores[:, ::2] = 1.0
    got = assign(CONFIGS[name], scores, boxes + far, priors, truths)
    assert (got.quality == 0).all()
    assert starved(got, truths) == 0


@every
def test_carries_no_gradient(name: str, oriented: bool) -> None:
    scores, boxes, priors, truths = random_case(12, 10, oriented)
    got = assign(CONFIGS[name], scores.requires_grad_(), boxes.requires_grad_(), priors, truths)
    assert not got.quality.requires_grad


@pytest.mark.parametrize("name", TURNED)
def test_upright_oriented_truths_have_the_candidates_of_boxes(name: str) -> None:
    """With the overlap set to a constant, geometry only says who is a candidate: the same for an upright box."""
    scores, boxes, priors, truths = random_case(13, 80, False)
    low, high = truths.boxes.split(2, 1)
    obbs = torch.cat([(low + high) / 2, high - low, torch.zeros(80, 1)], 1)
    upright = truths._replace(obbs=obbs)
    turned = truths._replace(obbs=torch.cat([obbs[:, [0, 1, 3, 2]], torch.full((80, 1), math.pi / 2)], 1))
    predicted = torch.cat([boxes, boxes[..., :1]], 2)
    expected = assign(CONFIGS[name], scores, boxes, priors, truths, half)
    for same_truths in (upright, turned):
        got = assign(CONFIGS[name], scores, predicted, priors, same_truths, half)
        assert as_rows(got) == as_rows(expected)


def half(predicted: Tensor, truth: Tensor) -> Tensor:
    return torch.full((len(predicted),), 0.5)


# -- memory -----------------------------------------------------------------------------------------------------


class Sizes(TorchDispatchMode):
    """The most elements of any tensor that an operation makes."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor):
                self.most = max(self.most, x.untyped_storage().nbytes() // x.element_size())
        return out


def spread_out(count: int) -> Case:
    """`count` truths of 8 to 64 px in one picture of 640 x 640, and a prediction around every prior."""
    g = torch.Generator().manual_seed(0)
    priors, zeros = grid((640, 640)), torch.zeros(count, dtype=torch.long)
    extent, centre = 8 + 56 * torch.rand(count, 2, generator=g), 640 * torch.rand(count, 2, generator=g)
    half = priors.strides[:, None] * (0.5 + 3 * torch.rand(1, len(priors.points), 2, generator=g))
    truths = truths_at(centre, extent, torch.zeros(count), False, zeros, zeros)
    scores = torch.rand(1, len(priors.points), 1, generator=g)
    return Case(scores, torch.cat([priors.points - half, priors.points + half], 2), priors, truths)


def largest(config: Assigner, count: int) -> int:
    case = spread_out(count)
    with Sizes() as sizes:
        a = assign(config, *case)
    assert starved(a, case.truths) < 0.02 * count
    return sizes.most


@pytest.mark.parametrize("name", CONFIGS)
def test_memory_grows_with_the_truths_and_not_with_their_priors(name: str) -> None:
    """2,000 truths and 8,400 priors: the largest tensor holds a few hundred numbers per truth, not 8,400."""
    small, large = (largest(CONFIGS[name], count) for count in (1000, 2000))
    assert large < 700 * 2000
    assert large < 2.3 * small


def test_the_measure_sees_a_matrix() -> None:
    case = spread_out(100)
    with Sizes() as sizes:
        (case.truths.boxes[:, None, :2] < case.priors.points).all(2)
    assert sizes.most >= 100 * 8400


def test_a_loss_and_oriented_boxes_are_refused_where_they_make_no_sense() -> None:
    with pytest.raises(TercelError, match="FreeAnchor is a loss over bags"):
        assign(FreeAnchor(), *random_case(0, 3, False))
    with pytest.raises(TercelError, match="MaxIou knows no oriented boxes"):
        assign(MaxIou(), *random_case(0, 3, True))
