"""Max-IoU assignment against a walk over all pairs in plain Python, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tercel.config import AnchorHead, MaxIou
from tercel.core.finding import TercelError
from tercel.core.geometry import box_iou
from tercel.models import assign_iou as module
from tercel.models.assign import Assignment, Truths, starved
from tercel.models.assign_iou import Anchors, assign_by_iou, make_anchors
from tercel.models.candidates import cells_of
from tercel.models.heads.anchors import anchor_shapes

CPU = torch.device("cpu")
CONFIGS = [MaxIou(), MaxIou(positive=0.7, negative=0.3), MaxIou(positive=0.2, negative=0.1), MaxIou(negative=0.5)]
every = pytest.mark.parametrize("config", CONFIGS, ids=["usual", "strict", "loose", "no-band"])


def grid(base: float = 2.0, shapes: list[tuple[float, float]] | None = None) -> Anchors:
    """Anchors of nine shapes on a canvas 128 wide and 96 high."""
    shapes = shapes or anchor_shapes(AnchorHead(base=base), (8,))[0]
    return make_anchors([(96 // s, 128 // s) for s in (8, 16, 32)], (8, 16, 32), [shapes] * 3, CPU)


def random_truths(seed: int, count: int, batch: int = 2) -> Truths:
    """From tiny to large ones, some partly or wholly off the canvas, thin ones among them."""
    g = torch.Generator().manual_seed(seed)
    extent = 1 + 70 * torch.rand(count, 2, generator=g) ** 2
    centre = torch.rand(count, 2, generator=g) * torch.tensor([140.0, 108.0]) - 6
    image = torch.randint(0, batch, (count,), generator=g).sort().values
    labels = torch.randint(0, 3, (count,), generator=g)
    return Truths(image, labels, torch.cat([centre - extent / 2, centre + extent / 2], 1))


def truths_of(*boxes: tuple[float, ...]) -> Truths:
    zeros = torch.zeros(len(boxes), dtype=torch.long)
    return Truths(zeros, zeros, torch.tensor(boxes))


def rows(a: Assignment) -> list[tuple[int, int, int]]:
    return list(zip(a.image.tolist(), a.prior.tolist(), a.truth.tolist(), strict=True))


def slow(
    config: MaxIou, anchors: Anchors, truths: Truths, batch: int, own_cell: bool = False
) -> tuple[dict[tuple[int, int], int], set[object]]:
    """{(image, anchor): truth} and the anchors between, from the whole matrix."""
    boxes, strides = anchors.boxes.numpy(), np.concatenate([[g.stride] * len(g.xs) * len(g.ys) for g in anchors.grids])
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    iou = box_iou(truths.boxes.numpy(), boxes)
    middle = (truths.boxes[:, :2] + truths.boxes[:, 2:]).numpy() / 2
    rank = iou - 1e-5 * np.linalg.norm(centre - middle[:, None], axis=2) / strides
    held = np.clip(middle[:, None], strides[:, None] / 2, np.array([128, 96]) - strides[:, None] / 2)
    may = (np.abs(centre - held) <= strides[:, None] / 2).all(2) if own_cell else np.ones_like(iou, bool)
    owner: dict[tuple[int, int], int] = {}
    between: set[object] = set()
    for image in range(batch):
        mine = np.flatnonzero(truths.image.numpy() == image)
        pairs = sorted((-rank[t, a], a, t) for t in mine for a in np.flatnonzero(may[t]).tolist())
        waiting = set(mine.tolist())
        for _, a, t in pairs:
            if t in waiting and (image, a) not in owner:
                owner[image, a] = int(t)
                waiting.remove(t)
        for a in range(len(boxes)):
            if len(mine) and (image, a) not in owner:
                t = int(mine[rank[mine, a].argmax()])
                if iou[t, a] >= config.positive and may[t, a]:
                    owner[image, a] = t
                elif iou[t, a] >= config.negative:
                    between.add((image, a))
    return owner, between


@every
@pytest.mark.parametrize("own_cell", [False, True])
@pytest.mark.parametrize(("seed", "count"), [(0, 1), (1, 6), (2, 25), (3, 60)])
def test_same_as_the_walk_over_all_pairs(config: MaxIou, own_cell: bool, seed: int, count: int) -> None:
    """The windows leave out nothing that counts, for truths of any size and place."""
    anchors, truths = grid(), random_truths(seed, count)
    owner, between = slow(config, anchors, truths, 2, own_cell)
    got = assign_by_iou(config, anchors, truths, 2, own_cell)
    assert rows(got) == [(i, a, owner[i, a]) for i, a in sorted(owner)]
    assert {(i, a) for i, a in got.between.nonzero().tolist()} == between
    a = got
    expected = box_iou(truths.boxes.numpy(), anchors.boxes.numpy())[a.truth, a.prior]
    assert a.quality.numpy() == pytest.approx(expected, abs=1e-6)


def test_by_hand() -> None:
    """Anchors 16 x 16 around the centres 4, 12, 20, 28 of one row; a truth from 5 to 21 shares 7, 15, 9, 1 px of them.

    IoU = s / (32 - s): 7/25 = .28, 15/17 = .88, 9/23 = .39, 1/31.
    """
    anchors = make_anchors([(1, 4)], (8,), [[(2.0, 2.0)]], CPU)
    truth = truths_of((5.0, -4, 21, 12))
    got = assign_by_iou(MaxIou(), anchors, truth, 1)
    assert rows(got) == [(0, 1, 0)]
    assert not got.between.any()
    lower = assign_by_iou(MaxIou(positive=0.35, negative=0.25), anchors, truth, 1)
    assert rows(lower) == [(0, 1, 0), (0, 2, 0)]
    assert lower.quality.tolist() == pytest.approx([15 / 17, 9 / 23])
    assert lower.between.tolist() == [[True, False, False, False]]


def test_two_truths_with_one_best_anchor_get_one_each() -> None:
    """Both fit the second anchor best; the published rule would lose the first of them."""
    anchors = make_anchors([(1, 4)], (8,), [[(2.0, 2.0)]], CPU)
    truths = truths_of((2.0, -4, 18, 10), (4, -4, 20, 12))
    iou = box_iou(truths.boxes.numpy(), anchors.boxes.numpy())
    assert iou.argmax(1).tolist() == [1, 1]
    got = assign_by_iou(MaxIou(positive=0.9, negative=0.9), anchors, truths, 1)
    second = int(np.argsort(iou[0])[-2])
    assert rows(got) == sorted([(0, 1, 1), (0, second, 0)])


@every
@pytest.mark.parametrize("count", [60, 300])
def test_every_truth_has_an_anchor_of_its_own(config: MaxIou, count: int) -> None:
    anchors, truths = grid(), random_truths(4, count)
    got = assign_by_iou(config, anchors, truths, 2)
    a = got
    assert starved(a, truths) == 0
    slots = a.image * len(anchors.boxes) + a.prior
    assert (slots.diff() > 0).all()  # ordered, each once
    assert torch.equal(truths.image[a.truth], a.image)
    assert not got.between[a.image, a.prior].any()


@pytest.mark.parametrize(
    "box", [(15.5, 15.5, 16.5, 16.5), (7.9, 3, 8.1, 4), (-30, -40, -20, -20), (500, 500, 501, 501)]
)
def test_a_truth_that_no_anchor_fits_gets_the_nearest(box: tuple[float, ...]) -> None:
    """crowd-7: tiny truths, truths off the canvas, and more copies of them than one."""
    got = assign_by_iou(MaxIou(), grid(), truths_of(box), 1)
    assert len(got.prior) == 1
    copies = truths_of(*[box] * 20)
    assert starved(assign_by_iou(MaxIou(), grid(), copies, 1), copies) == 0


def test_of_equal_overlaps_the_nearer_anchor_wins() -> None:
    """A truth of 4 px lies wholly in many anchors: one of the four cells around it answers, not the first of all."""
    anchors = make_anchors([(12, 16)], (8,), [[(8.0, 8.0)]], CPU)
    got = assign_by_iou(MaxIou(), anchors, truths_of((65.0, 41, 69, 45)), 1)
    assert anchors.centres[got.prior].tolist() == [[68, 44]]


def test_too_many_copies_are_counted() -> None:
    """600 copies of one truth: 27 grids have four near cells each, and what is left over is reported."""
    copies = truths_of(*[(500.0, 500.0, 501.0, 501.0)] * 600)
    assert starved(assign_by_iou(MaxIou(), grid(), copies, 1), copies) == 600 - 27 * 4


@every
def test_order_and_company_do_not_matter(config: MaxIou) -> None:
    anchors, truths = grid(), random_truths(5, 120, batch=3)
    base = assign_by_iou(config, anchors, truths, 3)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    order = order[truths.image[order].argsort(stable=True)]
    shuffled = assign_by_iou(config, anchors, truths.take(order), 3)
    assert [(i, a, int(order[t])) for i, a, t in rows(shuffled)] == rows(base)
    for k in range(3):
        mine = truths.image == k
        single = truths.take(mine)._replace(image=torch.zeros(int(mine.sum()), dtype=torch.long))
        alone = assign_by_iou(config, anchors, single, 1)
        first = int((truths.image < k).sum())
        assert [(k, a, t + first) for _, a, t in rows(alone)] == [r for r in rows(base) if r[0] == k]
        assert torch.equal(alone.between[0], base.between[k])


@pytest.mark.parametrize("part", [1, 7, 50])
def test_parts_do_not_change_the_result(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    anchors, truths = grid(), random_truths(6, 90)
    base = assign_by_iou(MaxIou(), anchors, truths, 2)
    monkeypatch.setattr(module, "ROWS", part)
    got = assign_by_iou(MaxIou(), anchors, truths, 2)
    assert all(
        torch.equal(getattr(got, n), getattr(base, n)) for n in ("image", "prior", "truth", "quality", "between")
    )


def test_candidates_grow_with_truths_alone() -> None:
    """An anchor matrix of 110,000 x 1,500 would hold 165 million pairs; 768 x 768 px, none is cut off."""
    strides = (8, 16, 32, 64, 128)
    anchors = make_anchors([(768 // s, 768 // s) for s in strides], strides, anchor_shapes(AnchorHead(), strides), CPU)
    g = torch.Generator().manual_seed(0)
    centre, extent = torch.rand(1500, 2, generator=g) * 768, 10 + 50 * torch.rand(1500, 2, generator=g)
    zeros = torch.zeros(1500, dtype=torch.long)
    truths = Truths(zeros, zeros, torch.cat([centre - extent / 2, centre + extent / 2], 1))
    windows = module._windows(anchors, truths, 0.4)
    truth, _ = cells_of(list(anchors.grids), windows, torch.arange(1500))
    assert len(truth) < 300 * 1500
    assert starved(assign_by_iou(MaxIou(), anchors, truths, 1), truths) == 0


def test_no_truth() -> None:
    got = assign_by_iou(MaxIou(), grid(), random_truths(0, 0), 2)
    assert [len(x) for x in got[:4]] == [0] * 4
    assert [x.dtype for x in got[:4]] == [torch.int64] * 3 + [torch.float32]
    assert got.between.shape == (2, len(grid().boxes))
    assert not got.between.any()


def test_negative_above_positive_is_refused() -> None:
    with pytest.raises(TercelError, match=r"negative 0\.6 lies above positive 0\.5"):
        assign_by_iou(MaxIou(negative=0.6), grid(), random_truths(0, 3), 2)


def test_anchors_lie_where_they_say() -> None:
    """Grid after grid, row by row, each as large as `sizes` says, around the cell centres."""
    anchors = grid(shapes=[(2.0, 1.0), (1.0, 3.0)])
    assert len(anchors.grids) == len(anchors.sizes) == 6
    for g, (w, h) in zip(anchors.grids, anchors.sizes.tolist(), strict=True):
        for row, y in enumerate(g.ys.tolist()):
            for column, x in enumerate(g.xs.tolist()):
                box = anchors.boxes[g.start + row * len(g.xs) + column].tolist()
                assert box == [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    assert anchors.sizes[:2].tolist() == [[16, 8], [8, 24]]
    assert math.isclose(float(anchors.grids[0].xs[0]), 4)
