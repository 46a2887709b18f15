"""Which priors answer for which truths, boxes or oriented boxes: task-aligned, SimOTA and ATSS assignment.

All work on one flat list of candidate pairs (truth, prior) over the whole batch, so memory grows with the number of
truths (never truths x priors) and no truth is cut off. The steps, each a function below:

    candidates   priors whose centre lies in the truth (SimOTA: or near its centre; ATSS: the nearest ones); never none
    rank         how well each pair fits: the greater the better
    pick         the best k pairs of each truth (ATSS: those above a threshold of its own)
    resolve      a prior that several truths picked goes to one of them
    rescue       a truth that lost all its priors gets its best free one, else one from a truth that holds several

Deterministic: sorts are stable, nothing is summed by atomics, ties go to the lower prior index, then the lower truth.

Shape legend: B pictures, A priors, C classes, M truths, P pairs, D = 4 (boxes) or 5 (oriented boxes); px throughout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tercel.config import Atss, SimOta, TaskAligned
from tercel.core.finding import TercelError
from tercel.models.atss import FITS, fit, nearest
from tercel.models.candidates import (
    Level,
    Priors,
    Table,
    Truths,
    Windows,
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

Assigner = TaskAligned | SimOta | Atss
Overlap = Callable[[Tensor, Tensor], Tensor]
"""(predictions [P,D], truths [P,D]) -> how well they agree [P], 0..1 and 1 for equal ones."""

PAIRS = 1 << 15  # candidate pairs looked at in one go: bounds memory and stays in the cache, never changes the result
PAIRS_GPU = 1 << 21  # the same on a GPU, where few large steps are quicker
FLOOR = 1e-30  # of scores and overlaps under a logarithm
OUTSIDE = 1e5  # SimOTA: added to the cost of a prior that is not both in the box and near its centre


class Assignment(NamedTuple):
    """Positives, ordered by (image, prior), each such pair once: index into batch, priors and truths, all i64 [P].

    `quality` f32 [P] in 0..1 is the classification target of that prior for its truth's class.
    """

    image: Tensor
    prior: Tensor
    truth: Tensor
    quality: Tensor


class _Pairs(NamedTuple):
    """Candidates: those of one truth stand together, by prior."""

    truth: Tensor  # i64 [P]
    slot: Tensor  # i64 [P], image * A + prior
    iou: Tensor  # f32 [P]
    rank: Tensor  # f64 [P], greater is better


@torch.no_grad()
def assign(
    config: Assigner, scores: Tensor, boxes: Tensor, priors: Priors, truths: Truths, overlap: Overlap | None = None
) -> Assignment:
    """Positives of a batch. "IoU" below is `overlap`.

    TaskAligned (Feng et al. 2021): per truth the `topk` priors with centre in the box by score^alpha * IoU^beta; a
    prior picked twice goes to the truth of higher IoU; quality = alignment, scaled per truth so that its best one
    equals its best IoU. SimOta (Ge et al. 2021): per truth the k priors of least cost, k = sum of its `candidates`
    best IoUs, at least 1; a prior picked twice goes to the truth of lower cost; quality = IoU. Atss (Zhang et al.
    2020, models/atss.py): by the overlap of truth and a fixed square around the prior; quality = IoU of the prediction.
    A truth that is left without any gets the best of its candidates that is free, else the best one whose owner keeps
    another.

    Args:
        scores: f32 [B,A,C] probabilities.
        boxes: f32 [B,A,D] decoded boxes in px, oriented ones if the truths are.
        overlap: of predictions with truths. Left out: IoU for boxes, ProbIoU for oriented boxes, which costs less than
            the exact `rotated_iou` and still tells apart predictions that do not touch their truth.

    Raises:
        TercelError: shapes that do not fit, or priors that are no grids.
    """
    _check(scores, boxes, priors, truths)
    overlap = overlap or (box_iou_pairs if truths.obbs is None else probiou)
    flat, count, prior_count = boxes.flatten(0, 1), len(truths.image), len(priors.points)
    levels = levels_of(priors)
    find, windows = _finder(config, levels, priors, truths)
    rank = _ranker(config, scores, truths)

    def look(rows: Tensor) -> Iterator[_Pairs]:
        """The candidates of the truths in `rows`, in parts of about PAIRS."""
        for part in _parts(windows, rows):
            truth, prior, favour = find(part)
            slot = truths.image[truth] * prior_count + prior
            iou = overlap(flat[slot], truths.shapes[truth]).float()
            yield _Pairs(truth, slot, iou, rank(truth, slot, iou).double() + favour)

    every = torch.arange(count, device=scores.device)
    picked = _join([_pick(config, pairs) for pairs in look(every)], scores.device)
    taken = _resolve(picked, picked.iou if isinstance(config, TaskAligned) else picked.rank)
    lost = every[torch.bincount(taken.truth, minlength=count) == 0]
    if len(lost):
        taken = _rescue(taken, _join(list(look(lost)), scores.device))
    taken = _take(taken, taken.slot.argsort())
    quality = _alignment(taken, count) if isinstance(config, TaskAligned) else taken.iou
    image = taken.slot // prior_count
    return Assignment(image, taken.slot - image * prior_count, taken.truth, quality.clamp(0, 1))


def starved(assignment: Assignment, truths: Truths) -> int:
    """The number of truths that no prior answers for: all their candidates are the only prior of other truths."""
    return len(truths.image) - len(assignment.truth.unique())


# -- candidates -----------------------------------------------------------------------------------------------


def _finder(
    config: Assigner, levels: list[Level], priors: Priors, truths: Truths
) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], Windows]:
    """The candidates of some truths [N]: truth [P], prior [P] and what their place adds to their rank, f64 [P] or [].

    Second the windows that they come from. A truth whose windows hold no candidate has the cell per level that is
    nearest to its centre: windows span a rectangle, and a thin oblique truth may pass between all its cells.
    """
    if isinstance(config, Atss):
        windows = nearest_windows(levels, truths, config.topk)

        def closest(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            truth, prior = nearest(priors, truths, *cells_of(levels, windows, rows), config.topk)
            return truth, prior, fit(priors, truths, truth, prior)

        return closest, windows
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
            good, favour = good | near, -OUTSIDE * (~(good & near)).double()
            favour = favour[good]
        lone = torch.bincount(truth[good], minlength=len(truths.image))[rows] == 0
        truth, prior = truth[good], prior[good]
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
    if isinstance(config, TaskAligned):
        return _aligner(config, scores, truths)
    if isinstance(config, SimOta):
        return _coster(config, scores, truths)
    return lambda truth, slot, iou: torch.zeros_like(iou)  # ATSS goes by places alone


def _aligner(config: TaskAligned, scores: Tensor, truths: Truths) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """log(score^alpha * IoU^beta): the order of the product without its underflow (IoU^6)."""
    classes = scores.shape[2]

    def rank(truth: Tensor, slot: Tensor, iou: Tensor) -> Tensor:
        score = scores.reshape(-1)[slot * classes + truths.labels[truth]].double()
        return config.alpha * score.clamp_min(FLOOR).log() + config.beta * iou.double().clamp_min(FLOOR).log()

    return rank


def _coster(config: SimOta, scores: Tensor, truths: Truths) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Minus SimOTA's cost: BCE of all class scores with the one-hot label, plus iou_weight * -log IoU.

    Logarithms stop at -100, as in PyTorch's BCE. `assign` adds OUTSIDE for priors that are not in both regions: they
    serve truths that have too few of the others, as in YOLOX.
    """
    classes = scores.shape[2]
    background = (1 - scores.float()).log().clamp_min(-100).sum(2).reshape(-1)  # [B*A]

    def rank(truth: Tensor, slot: Tensor, iou: Tensor) -> Tensor:
        score = scores.reshape(-1)[slot * classes + truths.labels[truth]].float()
        fit = background[slot] - (1 - score).log().clamp_min(-100) + score.log().clamp_min(-100)
        return fit + config.iou_weight * (iou + 1e-8).log()

    return rank


def _alignment(pairs: _Pairs, count: int) -> Tensor:
    """Quality of task-aligned positives [P]: alignment over the truth's best alignment, times its best IoU."""
    best = _highest(pairs.rank, pairs.truth, count, -torch.inf)[pairs.truth]
    iou = _highest(pairs.iou, pairs.truth, count, 0.0)[pairs.truth]
    return (pairs.rank - best).exp().float() * iou


def _highest(values: Tensor, truth: Tensor, count: int, empty: float) -> Tensor:
    return values.new_full((count,), empty).scatter_reduce_(0, truth, values, "amax")


# -- pick, resolve, rescue ------------------------------------------------------------------------------------


def _pick(config: Assigner, pairs: _Pairs) -> _Pairs:
    """The best k pairs of each truth (k of SimOTA: the sum of the truth's best IoUs, rounded down, at least 1).

    Of ATSS: those that fit.
    """
    if isinstance(config, Atss):
        return _take(pairs, pairs.rank > FITS)
    table = Table.of(pairs.truth)
    if isinstance(config, TaskAligned):
        return _take(pairs, table.lowest(-pairs.rank, table.counts.clamp_max(config.topk)))
    iou = table.fill(pairs.iou.double(), 0.0)
    k = iou.topk(min(config.candidates, iou.shape[1]), 1).values.sum(1).long().clamp_min(1)
    return _take(pairs, table.lowest(-pairs.rank, torch.minimum(k, table.counts)))


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
        order = order[key[order].argsort(stable=True)]
    return order


def _take(pairs: _Pairs, index: Tensor) -> _Pairs:
    return _Pairs(*(x[index] for x in pairs))


def _join(parts: list[_Pairs], device: torch.device) -> _Pairs:
    if parts:
        return _Pairs(*(torch.cat(x) for x in zip(*parts, strict=True)))
    index = torch.zeros(0, dtype=torch.long, device=device)
    return _Pairs(index, index, index.float(), index.double())


def _check(scores: Tensor, boxes: Tensor, priors: Priors, truths: Truths) -> None:
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
