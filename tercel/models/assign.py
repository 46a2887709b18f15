"""Which priors answer for which truths, boxes or oriented boxes: every assigner behind one function.

All work on one flat list of candidate pairs (truth, prior) over the whole batch, so memory grows with the number of
truths (never truths x priors) and no truth is cut off. The steps, each a function below:

    candidates   priors whose centre lies in the truth (SimOTA: or near its centre; FCOS, OTA: and near its centre;
                 ATSS: the nearest ones); never none
    rank         how well each pair fits: the greater the better
    pick         the best k pairs of each truth (ATSS, FCOS, OTA: those that fit)
    settle       a prior that several truths picked goes to one of them (OTA, one-to-one: all at once, assign_ot.py)
    rescue       a truth that lost all its priors gets its best free one, else one from a truth that holds several

Max-IoU, which does it in another order, is in assign_iou.py, FreeAnchor, which is a loss, in free_anchor.py.

Deterministic: sorts are stable, nothing is summed by atomics, ties go to the lower prior index, then the lower truth.

Shape legend: B pictures, A priors, C classes, M truths, P pairs, D = 4 (boxes) or 5 (oriented boxes); px throughout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tercel.config import Atss, Fcos, FreeAnchor, MaxIou, OneToOne, Ota, SimOta, TaskAligned
from tercel.core.finding import TercelError
from tercel.models.assign_iou import assign_by_iou
from tercel.models.assign_ot import matching, transport
from tercel.models.assign_points import FITS, middle_cells, middle_windows, size_rank
from tercel.models.atss import fit, nearest
from tercel.models.candidates import (
    Anchors,
    Assignment,
    Level,
    Priors,
    Table,
    Truths,
    Windows,
    boxes_around,
    cells_of,
    central,
    inside,
    levels_of,
    nearest_windows,
    windows_of,
)
from tercel.models.losses import box_iou_pairs
from tercel.models.oriented_losses import probiou

__all__ = ["Assigner", "Assignment", "Overlap", "Priors", "Truths", "assign", "starved"]

Assigner = TaskAligned | SimOta | MaxIou | Atss | Fcos | Ota | FreeAnchor | OneToOne
Overlap = Callable[[Tensor, Tensor], Tensor]
"""(predictions [P,D], truths [P,D]) -> how well they agree [P], 0..1 and 1 for equal ones."""

PAIRS = 1 << 15  # candidate pairs looked at in one go: bounds memory and stays in the cache, never changes the result
PAIRS_GPU = 1 << 21  # the same on a GPU, where few large steps are quicker
FLOOR = 1e-30  # of scores and overlaps under a logarithm
OUTSIDE = 1e5  # SimOTA, OTA: added to the cost of a prior that is not both in the box and near its centre
CHOICE = 32  # one-to-one: the best candidates of a truth among which the matching is sought


class _Pairs(NamedTuple):
    """Candidates: those of one truth stand together, by prior."""

    truth: Tensor  # i64 [P]
    slot: Tensor  # i64 [P], image * A + prior
    iou: Tensor  # f32 [P]
    rank: Tensor  # f64 [P], greater is better


@torch.no_grad()
def assign(
    config: Assigner,
    scores: Tensor,
    boxes: Tensor,
    priors: Priors | Anchors,
    truths: Truths,
    overlap: Overlap | None = None,
) -> Assignment:
    """Positives of a batch. "IoU" below is `overlap`, of predictions unless it says otherwise.

    TaskAligned (Feng et al. 2021): per truth the `topk` priors with centre in the box by score^alpha * IoU^beta; a
    prior picked twice goes to the truth of higher IoU; quality = alignment, scaled per truth so that its best one
    equals its best IoU. SimOta (Ge et al. 2021): per truth the k priors of least cost, k = sum of its `candidates`
    best IoUs, at least 1; a prior picked twice goes to the truth of lower cost; quality = IoU. Ota (Ge et al. 2021):
    costs and k as in SimOta, shared out by assign_ot.py. OneToOne (Wang et al. 2024): task-aligned ranks, one prior for
    each truth by assign_ot.py, quality = IoU; the other priors of `topk` come with quality 0, and what a truth weighs
    (the IoU) is shared out among all of them by their alignment. Atss (Zhang et al. 2020, atss.py): by the overlap of
    truth and a fixed square around the prior, or its anchor. Fcos (Tian et al. 2019): assign_points.py. MaxIou (Ren et
    al. 2015, assign_iou.py): by the overlap of truth and a fixed box around the prior, or its anchor. Of these three
    quality = IoU of the prediction.
    A truth that is left without any gets the best of its candidates that is free, else the best one whose owner keeps
    another.

    Args:
        scores: f32 [B,A,C] probabilities.
        boxes: f32 [B,A,D] decoded boxes in px, oriented ones if the truths are.
        overlap: of predictions with truths. Left out: IoU for boxes, ProbIoU for oriented boxes, which costs less than
            the exact `rotated_iou` and still tells apart predictions that do not touch their truth.

    Raises:
        TercelError: shapes that do not fit, priors that are no grids, FreeAnchor, or MaxIou with oriented truths.
    """
    places, levels = (priors.priors, list(priors.grids)) if isinstance(priors, Anchors) else (priors, None)
    _check(config, scores, boxes, places, truths)
    overlap = overlap or (box_iou_pairs if truths.obbs is None else probiou)
    if isinstance(config, MaxIou):
        around = priors if isinstance(priors, Anchors) else boxes_around(priors, config.side, config.ratio)
        a = assign_by_iou(config, around, truths, len(scores))
        return a._replace(quality=overlap(boxes[a.image, a.prior], truths.boxes[a.truth]).float().clamp(0, 1))
    flat, count, prior_count = boxes.flatten(0, 1), len(truths.image), len(places.points)
    anchors = priors.boxes if isinstance(priors, Anchors) else None
    find, windows = _finder(config, levels or levels_of(places), places, truths, anchors)
    rank = _ranker(config, scores, truths)

    def look(rows: Tensor) -> Iterator[_Pairs]:
        """The candidates of the truths in `rows`, in parts of about PAIRS."""
        for part in _parts(windows, rows):
            truth, prior, favour = find(part)
            slot = truths.image.index_select(0, truth) * prior_count + prior
            iou = overlap(flat.index_select(0, slot), truths.shapes.index_select(0, truth)).float()
            yield _Pairs(truth, slot, iou, rank(truth, slot, iou).double() + favour)

    every = torch.arange(count, device=scores.device)
    picked = _join([_pick(config, pairs) for pairs in look(every)], scores.device)
    taken = _settle(config, picked, scores, prior_count)
    lost = every[torch.bincount(taken.truth, minlength=count) == 0]
    if len(lost):
        taken = _rescue(taken, _join(list(look(lost)), scores.device))
    if isinstance(config, OneToOne):
        return _with_company(config, taken, picked, count, prior_count)
    taken = _take(taken, taken.slot.argsort())
    quality = _alignment(taken, count) if isinstance(config, TaskAligned) else taken.iou
    return _assignment(taken, quality, prior_count)


def starved(assignment: Assignment, truths: Truths) -> int:
    """The number of truths that no prior answers for: all their candidates are the only prior of other truths."""
    return len(truths.image) - len(assignment.truth.unique())


# -- candidates -----------------------------------------------------------------------------------------------


def _finder(
    config: Assigner, levels: list[Level], priors: Priors, truths: Truths, anchors: Tensor | None
) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], Windows]:
    """The candidates of some truths [N]: truth [P], prior [P] and what their place adds to their rank, f64 [P] or [].

    Second the windows that they come from. A truth whose windows hold no candidate has the cell per level that is
    nearest to its centre: windows span a rectangle, and a thin oblique truth may pass between all its cells.
    """
    if isinstance(config, Atss):
        windows = nearest_windows(levels, truths, config.topk)

        def closest(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            truth, prior = nearest(levels, priors, truths, *cells_of(levels, windows, rows), config.topk)
            return truth, prior, fit(priors, truths, truth, prior, anchors)

        return closest, windows
    if isinstance(config, Fcos | Ota):
        windows = middle_windows(levels, truths, config.radius)

        def middle(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            truth, prior, held = middle_cells(levels, windows, rows, priors, truths, config.radius)
            if isinstance(config, Fcos):
                return truth, prior, size_rank(priors, truths, truth, prior, held, config.reach)
            return truth, prior, -OUTSIDE * (~held).double()

        return middle, windows
    radius = config.radius if isinstance(config, SimOta) else 0.0
    windows = windows_of(levels, truths, radius)

    def held(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        truth, prior = cells_of(levels, windows, rows)
        favour = torch.zeros((), dtype=torch.float64, device=truth.device)
        if not radius and truths.obbs is None:
            return truth, prior, favour  # the windows hold nothing else
        good = inside(priors, truths, truth, prior)
        if radius:
            near = central(priors, truths, truth, prior, radius)
            good, both = good | near, good & near
        index = good.nonzero()[:, 0]
        truth, prior = truth.index_select(0, index), prior.index_select(0, index)
        if radius:
            favour = both.index_select(0, index).double().sub_(1).mul_(OUTSIDE)
        lone = torch.bincount(truth, minlength=len(truths.image))[rows] == 0
        if bool(lone.any()):
            rows = rows[lone]
            around = nearest_windows(levels, truths.take(rows), 1)
            at, more = cells_of(levels, around, torch.arange(len(rows), device=rows.device))
            truth, prior = torch.cat([truth, rows[at]]), torch.cat([prior, more])
            if radius:
                favour = torch.cat([favour, favour.new_full((len(more),), -OUTSIDE)])
        return truth, prior, favour

    return held, windows


def _parts(windows: Windows, rows: Tensor) -> Iterator[Tensor]:
    """`rows` in parts whose windows have similar numbers of cells (within a factor of 2), PAIRS at most in all.

    Similar numbers let `_pick` sort a part as one padded matrix. A part holds one truth at least.
    """
    cells = (windows.columns[rows] * windows.rows[rows]).sum(1)
    cells, order = cells.sort(stable=True)
    rows, magnitude = rows[order], cells.double().log2().long()
    budget = PAIRS_GPU if rows.is_cuda else PAIRS
    for level in magnitude.unique().tolist():
        of_level = magnitude == level
        yield from rows[of_level].split(max(1, budget >> (level + 1)))


# -- rank -----------------------------------------------------------------------------------------------------


def _ranker(config: Assigner, scores: Tensor, truths: Truths) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(truth, slot, IoU, each [P]) -> rank [P], but for what the place of a prior adds."""
    if isinstance(config, TaskAligned | OneToOne):
        return _aligner(config, scores, truths)
    if isinstance(config, SimOta | Ota):
        return _coster(config, scores, truths)
    return lambda truth, slot, iou: torch.zeros_like(iou)  # ATSS and FCOS go by places alone


def _aligner(
    config: TaskAligned | OneToOne, scores: Tensor, truths: Truths
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """log(score^alpha * IoU^beta): the order of the product without its underflow (IoU^6)."""

    def rank(truth: Tensor, slot: Tensor, iou: Tensor) -> Tensor:
        score = _said(scores, slot, truths.labels.index_select(0, truth)).double()
        return config.alpha * score.clamp_min(FLOOR).log() + config.beta * iou.double().clamp_min(FLOOR).log()

    return rank


def _coster(config: SimOta | Ota, scores: Tensor, truths: Truths) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Minus SimOTA's cost: BCE of all class scores with the one-hot label, plus iou_weight * -log IoU.

    Logarithms stop at -100, as in PyTorch's BCE. `assign` adds OUTSIDE for priors that are not in both regions: they
    serve truths that have too few of the others, as in YOLOX.
    """
    background = _idle(scores)

    def rank(truth: Tensor, slot: Tensor, iou: Tensor) -> Tensor:
        score = _said(scores, slot, truths.labels.index_select(0, truth)).float()
        fit = background.index_select(0, slot) - (1 - score).log().clamp_min(-100) + score.log().clamp_min(-100)
        return fit + config.iou_weight * (iou + 1e-8).log()

    return rank


def _said(scores: Tensor, slot: Tensor, label: Tensor) -> Tensor:
    """The scores [P] of some classes at some slots."""
    return scores.reshape(-1).index_select(0, slot * scores.shape[2] + label)


def _idle(scores: Tensor) -> Tensor:
    """Minus the BCE of a prior that says no to all classes [B*A]."""
    return (1 - scores.float()).log().clamp_min(-100).sum(2).reshape(-1)


def _alignment(pairs: _Pairs, count: int) -> Tensor:
    """Quality of task-aligned positives [P]: alignment over the truth's best alignment, times its best IoU."""
    best = _highest(pairs.rank, pairs.truth, count, -torch.inf)[pairs.truth]
    iou = _highest(pairs.iou, pairs.truth, count, 0.0)[pairs.truth]
    return (pairs.rank - best).exp().float() * iou


def _highest(values: Tensor, truth: Tensor, count: int, empty: float) -> Tensor:
    return values.new_full((count,), empty).scatter_reduce_(0, truth, values, "amax")


# -- pick, settle, rescue -------------------------------------------------------------------------------------


def _pick(config: Assigner, pairs: _Pairs) -> _Pairs:
    """The best k pairs of each truth (k of SimOTA: see `_supply`), or those that fit."""
    if isinstance(config, Atss | Fcos):
        return _take(pairs, pairs.rank > FITS)
    if isinstance(config, Ota):
        return _take(pairs, pairs.rank > -OUTSIDE / 2)
    table = Table.of(pairs.truth)
    if isinstance(config, SimOta):
        k = _supply(config, pairs, table)
    else:
        assert isinstance(config, TaskAligned | OneToOne)
        k = torch.full_like(table.counts, config.topk if isinstance(config, TaskAligned) else max(config.topk, CHOICE))
    return _take(pairs, table.lowest(-pairs.rank, torch.minimum(k, table.counts)))


def _supply(config: SimOta | Ota, pairs: _Pairs, table: Table) -> Tensor:
    """How many priors a truth asks for, i64 [truths]: the sum of its best IoUs, rounded down, at least 1."""
    iou = table.fill(pairs.iou.double(), 0.0)
    return iou.topk(min(config.candidates, iou.shape[1]), 1).values.sum(1).long().clamp_min(1)


def _settle(config: Assigner, picked: _Pairs, scores: Tensor, prior_count: int) -> _Pairs:
    """Of all picked pairs those that count: at most one for each prior."""
    if isinstance(config, OneToOne):
        return _take(picked, matching(picked.truth, picked.slot, picked.rank))
    if not isinstance(config, Ota):
        return _resolve(picked, picked.iou if isinstance(config, TaskAligned) else picked.rank)
    if not len(picked.truth):
        return picked
    table = Table.of(picked.truth)
    supply, idle = _supply(config, picked, table)[table.row].double(), -_idle(scores)[picked.slot].double()
    image = picked.slot // prior_count
    kept = transport(picked.truth, picked.slot, image, supply, -picked.rank, idle, config.smoothing, config.rounds)
    return _take(picked, kept)


def _with_company(config: OneToOne, taken: _Pairs, picked: _Pairs, count: int, prior_count: int) -> Assignment:
    """The answering pairs, and those of the best `topk` of each truth that learn its box alone."""
    near = _take(picked, Table.of(picked.truth).column < config.topk) if len(picked.truth) else picked
    near = _take(near, ~torch.isin(near.slot, taken.slot))
    pairs = _join([taken, _resolve(near, near.iou)], taken.slot.device)
    answers = torch.arange(len(pairs.slot), device=pairs.slot.device) < len(taken.slot)
    order = pairs.slot.argsort()
    pairs, answers = _take(pairs, order), answers[order]
    quality = pairs.iou * answers
    share = _alignment(pairs, count)
    by_truth = pairs.truth.argsort(stable=True)
    if len(by_truth):
        table = Table.of(pairs.truth[by_truth])
        total = table.fill(share[by_truth], 0.0).sum(1).clamp_min(FLOOR)
        share[by_truth] = share[by_truth] / total[table.row]
    share = share * _highest(quality, pairs.truth, count, 0.0)[pairs.truth]
    return _assignment(pairs, quality, prior_count)._replace(share=share)


def _assignment(pairs: _Pairs, quality: Tensor, prior_count: int) -> Assignment:
    image = pairs.slot // prior_count
    return Assignment(image, pairs.slot - image * prior_count, pairs.truth, quality.clamp(0, 1))


def _resolve(pairs: _Pairs, preference: Tensor) -> _Pairs:
    """One pair per prior: of all that picked it the one of greatest preference."""
    order = _sorted_by(pairs.slot, -preference, pairs.truth)
    slot = pairs.slot[order]
    first = torch.ones_like(slot, dtype=torch.bool)
    first[1:] = slot[1:] != slot[:-1]
    return _take(pairs, order[first])


def _rescue(taken: _Pairs, spare: _Pairs) -> _Pairs:
    """`taken` with one of the pairs in `spare` (all candidates of the truths that have none) for each such truth.

    They are walked from the best down. First only free priors are given out. Then priors move from truths that hold
    several: a small truth whose few candidates all lie in a large one would otherwise never be learnt.
    """
    order = _sorted_by(-spare.rank, spare.slot, spare.truth)
    wanted = list(zip(order.tolist(), spare.truth[order].tolist(), spare.slot[order].tolist(), strict=True))
    owner = dict(zip(taken.slot.tolist(), taken.truth.tolist(), strict=True))
    held = Counter(owner.values())
    given: dict[int, int] = {}  # slot -> index in spare
    waiting = len(spare.truth.unique())
    for only_free in (True, False):
        for index, truth, slot in wanted:
            if not waiting:
                break
            holder = owner.get(slot)
            if held[truth] or (holder is not None and (only_free or held[holder] < 2)):
                continue
            owner[slot], given[slot] = truth, index
            held[truth] = 1
            waiting -= 1
            if holder is not None:
                held[holder] -= 1
    device = taken.slot.device
    moved = torch.isin(taken.slot, torch.tensor(list(given), dtype=torch.long, device=device))
    new = torch.tensor(list(given.values()), dtype=torch.long, device=device)
    return _join([_take(taken, ~moved), _take(spare, new)], device)


# -- helpers --------------------------------------------------------------------------------------------------


def _sorted_by(*keys: Tensor) -> Tensor:
    """The ascending order of rows by the first key, ties by the second, ..."""
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in reversed(keys):
        order = order.index_select(0, key.index_select(0, order).argsort(stable=True))
    return order


def _take(pairs: _Pairs, index: Tensor) -> _Pairs:
    rows = index.nonzero()[:, 0] if index.dtype == torch.bool else index
    return _Pairs(*(x.index_select(0, rows) for x in pairs))


def _join(parts: list[_Pairs], device: torch.device) -> _Pairs:
    if parts:
        return _Pairs(*(torch.cat(x) for x in zip(*parts, strict=True)))
    index = torch.zeros(0, dtype=torch.long, device=device)
    return _Pairs(index, index, index.float(), index.double())


def _check(config: Assigner, scores: Tensor, boxes: Tensor, priors: Priors, truths: Truths) -> None:
    if isinstance(config, FreeAnchor):
        raise TercelError(
            "FreeAnchor is a loss over bags of priors and names no priors that answer", "use it with heads for boxes"
        )
    if isinstance(config, MaxIou) and truths.obbs is not None:
        raise TercelError("MaxIou knows no oriented boxes", "use Atss for them")
    prior_count, count, sides = len(priors.points), len(truths.image), truths.shapes.shape[-1]
    fits = scores.ndim == 3 and boxes.shape == (*scores.shape[:2], sides) and scores.shape[1] == prior_count
    if not fits or priors.strides.shape != (prior_count,):
        raise TercelError(
            f"assign: scores {[*scores.shape]}, boxes {[*boxes.shape]}, {prior_count} priors",
            f"expected [B,A,C], [B,A,{sides}] and A priors with A strides",
        )
    shapes = [*truths.shapes.shape]
    if truths.labels.shape != (count,) or shapes != [count, 4 if truths.obbs is None else 5]:
        raise TercelError(f"assign: {count} truths, labels {[*truths.labels.shape]}, boxes {shapes}")
