"""What every head must keep. A new head is covered by one line in HEADS; each contract is shown to catch a bug."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from tercel.config import BoxHead, Data, Evaluate, Model, Recipe, SimOta, SmallNet, TaskAligned
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.engine.evaluate import encode_ceiling
from tercel.models.detector import Detector
from tercel.models.heads.boxes import DenseBoxes, DenseRaw

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


@dataclass
class Case:
    """A head with a small network around it, and truth to feed it."""

    name: str
    model: Model
    make: Callable[[Model], Detector] = lambda m: Detector(m, Schema(CLASSES))

    def detector(self, seed: int = 0) -> Detector:
        torch.manual_seed(seed)
        return self.make(self.model).eval()

    def truth(self, seed: int, batch: int = 3, n: int = 6) -> list[Objects]:
        rng = np.random.default_rng(seed)
        return [scatter(rng, n) for _ in range(batch)]


TINY = Model(backbone=SmallNet(stem=8, widths=(8, 16, 16, 16), depths=(0, 1, 1, 1)), norm="group")
HEADS = [
    Case(
        f"boxes-{type(a).__name__}-{c}",
        replace(TINY, head=BoxHead(width=16, depth=1, assigner=a, class_loss=c, box_loss=b)),
    )
    for a, c, b in [
        (TaskAligned(), "bce", "ciou"),
        (TaskAligned(), "varifocal", "giou"),
        (SimOta(), "quality", "diou"),
        (SimOta(), "focal", "smooth_l1"),
    ]
]
case = pytest.mark.parametrize("case", HEADS, ids=lambda c: c.name)


def images(batch: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 1, 3, *SIZE), dtype=torch.uint8, generator=g)


def value(loss: Any) -> float:
    return float(loss.total.detach() / loss.weight.clamp(min=1e-9))


# -- the contracts --------------------------------------------------------------------------------------------------


def zero_at_perfection(head: DenseBoxes, truth: list[Objects]) -> None:
    targets = head.encode(truth)
    assert value(head.loss(head.ideal(targets, SIZE), targets)) < 1e-3


def ordered(head: DenseBoxes, truth: list[Objects]) -> None:
    """perfect < nothing known < the opposite."""
    targets = head.encode(truth)
    perfect = head.ideal(targets, SIZE)
    unsure = perfect._replace(logits=torch.zeros_like(perfect.logits), sides=torch.zeros_like(perfect.sides))
    wrong = perfect._replace(logits=-perfect.logits, sides=-perfect.sides)
    a, b, c = (float(head.loss(x, targets).total.detach()) for x in (perfect, unsure, wrong))
    assert 0 <= a < b < c


def same_for_repeated_batch(head: DenseBoxes, raw: DenseRaw, truth: list[Objects]) -> None:
    """The loss per unit does not change when the batch is repeated."""
    double = raw._replace(logits=torch.cat([raw.logits] * 2), sides=torch.cat([raw.sides] * 2))
    once, twice = head.loss(raw, head.encode(truth)), head.loss(double, head.encode(truth * 2))
    assert value(twice) == pytest.approx(value(once), rel=1e-4)


def easy_negatives_free(head: DenseBoxes, raw: DenseRaw, truth: list[Objects]) -> None:
    """A further picture without objects, answered with a sure no, changes nothing."""
    no = torch.full_like(raw.logits[:1], -30.0)
    more = raw._replace(logits=torch.cat([raw.logits, no]), sides=torch.cat([raw.sides, raw.sides[:1]]))
    once = head.loss(raw, head.encode(truth))
    again = head.loss(more, head.encode([*truth, Objects.empty(SIZE)]))
    assert value(again) == pytest.approx(value(once), rel=1e-5)


def every_sample_trains(head: DenseBoxes, raw: DenseRaw, truth: list[Objects]) -> None:
    raw = raw._replace(logits=raw.logits.detach().requires_grad_(), sides=raw.sides.detach().requires_grad_())
    head.loss(raw, head.encode(truth)).total.backward()
    assert raw.logits.grad is not None
    assert raw.sides.grad is not None
    assert (raw.logits.grad.abs().amax(dim=(1, 2)) > 0).all()
    assert (raw.sides.grad.abs().amax(dim=(1, 2, 3)) > 0).all()


def ignored_costs_nothing(head: DenseBoxes, truth: list[Objects]) -> None:
    """A sure detection exactly on an ignored region leaves the loss as it was."""
    region = Objects(SIZE, [0], [[8, 8, 72, 72]], ignore=[True])
    alone, targets = head.encode([region]), head.encode([Objects(SIZE, [0], [[8, 8, 72, 72]])])
    found = head.ideal(targets, SIZE)
    assert float(head.loss(found, alone).total) < 1e-3


@case
def test_loss_is_zero_at_perfection(case: Case) -> None:
    zero_at_perfection(case.detector().head, case.truth(1))


@case
def test_loss_is_ordered(case: Case) -> None:
    ordered(case.detector().head, case.truth(2))


@case
def test_loss_ignores_batch_size(case: Case) -> None:
    d = case.detector()
    same_for_repeated_batch(d.head, d(images(3)), case.truth(3))


@case
def test_easy_negatives_are_neutral(case: Case) -> None:
    d = case.detector()
    easy_negatives_free(d.head, d(images(3)), case.truth(4))


@case
def test_every_sample_and_parameter_trains(case: Case) -> None:
    d = case.detector()
    every_sample_trains(d.head, d(images(3)), case.truth(5))
    d.train()
    d.head.loss(d(images(3)), d.head.encode(case.truth(5, n=60))).total.backward()
    dead = [n for n, p in d.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@case
def test_ignored_regions_cost_nothing(case: Case) -> None:
    ignored_costs_nothing(case.detector().head, case.truth(6))


@case
@pytest.mark.parametrize("kind", ["empty", "ignored", "full", "mixed"])
def test_odd_pictures(case: Case, kind: str) -> None:
    """Empty, all-ignored and over-full pictures give finite losses in fp32 and finite gradients."""
    rng = np.random.default_rng(0)
    full = scatter(rng, 700)
    truth = {
        "empty": [Objects.empty(SIZE)] * 2,
        "ignored": [full[:20].replace(ignore=np.ones(20, bool))] * 2,
        "full": [full, full],
        "mixed": [full, Objects.empty(SIZE)],
    }[kind]
    d = case.detector()
    d.train()
    loss = d.head.loss(d(images(2)), d.head.encode(truth))
    assert loss.total.dtype == torch.float32
    assert torch.isfinite(loss.total)
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in d.parameters() if p.grad is not None)
    assert loss.facts["truths"] == sum(int((~o.ignore).sum()) for o in truth)


@case
def test_loss_is_fp32_under_autocast(case: Case) -> None:
    d = case.detector()
    with torch.autocast("cpu", torch.bfloat16):
        raw = d(images(2))
        loss = d.head.loss(raw, d.head.encode(case.truth(7, batch=2)))
    assert raw.logits.dtype == raw.sides.dtype == loss.total.dtype == torch.float32


@case
def test_train_and_eval_return_the_same(case: Case) -> None:
    d = case.detector()
    a, b = d.eval()(images(2)), d.train()(images(2))
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.sides, b.sides)
    before = a.logits.clone()
    d.head.decode(a, Evaluate())
    assert torch.equal(before, a.logits)  # decoding leaves the raw output alone


@case
def test_class_probability_starts_at_the_prior(case: Case) -> None:
    d = case.detector()
    start = d(images(2)).logits.sigmoid().mean(dim=(0, 1))
    assert start.detach().numpy() == pytest.approx(np.full(len(CLASSES), case.model.head.prior), rel=0.3)


def dataset(rng: np.random.Generator, size: tuple[int, int]) -> Dataset:
    records = []
    for i in range(6):
        xs, ys = np.meshgrid(np.arange(8, size[1] - 40, 48), np.arange(6, size[0] - 40, 44))
        corner = np.stack([xs.ravel(), ys.ravel()], 1) + rng.uniform(0, 6, (xs.size, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 36, corner.shape)], 1)
        o = Objects(size, rng.integers(0, 3, len(boxes)), boxes.astype(np.float32))
        records.append(Record(str(i), (Frame(__import__("pathlib").Path("none")),), size, o))
    return Dataset(Schema(CLASSES), tuple(records))


@case
def test_encode_ceiling(case: Case) -> None:
    """The perfect output, decoded and judged by the real evaluator, scores 1."""
    recipe = Recipe(name="x", data=Data(size=(192, 320)), model=case.model)
    data = dataset(np.random.default_rng(0), (210, 300))
    assert encode_ceiling(recipe, data, case.detector().head).overall("AP") > 0.999


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

    def encode(self, objects: Any) -> Any:
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

    def encode(self, objects: Any) -> Any:
        return super().encode([o[~o.ignore] for o in objects])


def plant(bug: type[DenseBoxes]) -> DenseBoxes:
    return bug(HEADS[0].model.head, len(CLASSES), HEADS[0].model.strides)


@pytest.mark.parametrize("bug", [Shifted, Swapped, OffByOne])
def test_ceiling_catches(bug: type[DenseBoxes]) -> None:
    recipe = Recipe(name="x", data=Data(size=(192, 320)), model=HEADS[0].model)
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
    d = HEADS[0].detector()
    with pytest.raises(AssertionError):
        contract(plant(bug), d(images(3)), HEADS[0].truth(3))


def test_ignore_contract_catches() -> None:
    with pytest.raises(AssertionError):
        ignored_costs_nothing(plant(IgnoresAreNegatives), HEADS[0].truth(6))


class Reversed(DenseBoxes):
    """The class loss points the wrong way (crowd-2)."""

    def loss(self, raw: DenseRaw, targets: Any) -> Any:
        return super().loss(raw._replace(logits=-raw.logits), targets)


def test_order_contract_catches() -> None:
    with pytest.raises(AssertionError):
        ordered(plant(Reversed), HEADS[0].truth(2))
    with pytest.raises(AssertionError):
        zero_at_perfection(plant(Reversed), HEADS[0].truth(1))
