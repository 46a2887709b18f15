"""Which priors answer for which truths: task-aligned and SimOTA assignment.

Both work on one flat list of candidate pairs (truth, prior) over the whole batch, so memory grows with the number of
truths (never truths x priors) and no truth is cut off. The steps, each a function below:

    candidates   priors whose centre lies in the truth (SimOTA: or near its centre); never none for any truth
    rank         how well each pair fits: the greater the better
    pick         the best k pairs of each truth
    resolve      a prior that several truths picked goes to one of them
    rescue       a truth that lost all its priors gets its best free one, else one from a truth that holds several

Deterministic: sorts are stable, nothing is summed by atomics, ties go to the lower prior index, then the lower truth.

Shape legend: B pictures, A priors, C classes, M truths, P pairs, L levels (strides); px throughout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tercel.config import SimOta, TaskAligned
from tercel.core.finding import TercelError
from tercel.models.losses import box_iou_pairs

PAIRS = 1 << 15  # candidate pairs looked at in one go: bounds memory and stays in the cache, never changes the result
PAIRS_GPU = 1 << 21  # the same on a GPU, where few large steps are quicker
FLOOR = 1e-30  # of scores and overlaps under a logarithm
OUTSIDE = 1e5  # SimOTA: added to the cost of a prior that is not both in the box and near its centre


class Priors(NamedTuple):
    """Cell centres: points [A,2] (x, y) and strides [A], level after level, each a full grid row by row."""

    points: Tensor
    strides: Tensor


class Truths(NamedTuple):
    """What is to be found (nothing ignored) in the batch: picture [M] (sorted), label [M], box [M,4]."""

    image: Tensor
    labels: Tensor
    boxes: Tensor


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


class _Level(NamedTuple):
    """One grid of cell centres: prior index = start + row * len(xs) + column."""

    start: int
    stride: float
    xs: Tensor
    ys: Tensor


class _Windows(NamedTuple):
    """Per truth and level a rectangle of cells: first column and row, columns, rows, each i64 [M,L]."""

    x: Tensor
    y: Tensor
    columns: Tensor
    rows: Tensor


@torch.no_grad()
def assign(config: TaskAligned | SimOta, scores: Tensor, boxes: Tensor, priors: Priors, truths: Truths) -> Assignment:
    """Positives of a batch.

    TaskAligned (Feng et al. 2021): per truth the `topk` priors with centre in the box by score^alpha * IoU^beta; a
    prior picked twice goes to the truth of higher IoU; quality = alignment, scaled per truth so that its best one
    equals its best IoU. SimOta (Ge et al. 2021): per truth the k priors of least cost, k = sum of its `candidates`
    best IoUs, at least 1; a prior picked twice goes to the truth of lower cost; quality = IoU. A truth that is left
    without any gets the best of its candidates that is free, else the best one whose owner keeps another.

    Args:
        scores: f32 [B,A,C] probabilities.
        boxes: f32 [B,A,4] decoded boxes in px.

    Raises:
        TercelError: shapes that do not fit, or priors that are no grids.
    """
    _check(scores, boxes, priors, truths)
    count, prior_count = len(truths.image), len(priors.points)
    rank = _aligner(config, scores, truths) if isinstance(config, TaskAligned) else _coster(config, scores, truths)
    levels = _levels(priors)
    windows = _windows(levels, truths, config.radius if isinstance(config, SimOta) else 0.0)

    def look(rows: Tensor) -> Iterator[_Pairs]:
        """The candidates of the truths in `rows`, in parts of about PAIRS."""
        for part in _parts(windows, rows):
            truth, prior = _cells(levels, windows, part)
            handicap = torch.zeros((), dtype=torch.float64, device=truth.device)
            if isinstance(config, SimOta):
                truth, prior, central = _near(truth, prior, priors, truths, config.radius)
                handicap = OUTSIDE * (~central).double()
            slot = truths.image[truth] * prior_count + prior
            iou = box_iou_pairs(boxes.reshape(-1, 4)[slot], truths.boxes[truth])
            yield _Pairs(truth, slot, iou, rank(truth, slot, iou).double() - handicap)

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


def _levels(priors: Priors) -> list[_Level]:
    levels, start = [], 0
    strides, counts = torch.unique_consecutive(priors.strides, return_counts=True)
    for stride, count in zip(strides.tolist(), counts.tolist(), strict=True):
        points = priors.points[start : start + count]
        width = int((points[:, 1] == points[0, 1]).sum())
        if count % width == 0:
            grid = points.view(-1, width, 2)
            xs, ys = grid[0, :, 0].contiguous(), grid[:, 0, 1].contiguous()
            full = bool((grid[..., 0] == xs).all() & (grid[..., 1] == ys[:, None]).all())
            full &= bool((xs.diff() > 0).all() & (ys.diff() > 0).all())
        if count % width or not full:
            raise TercelError(f"the priors of stride {stride:g} are no grid", "give all cell centres, row by row")
        levels.append(_Level(start, stride, xs, ys))
        start += count
    return levels


def _windows(levels: list[_Level], truths: Truths, radius: float) -> _Windows:
    """The cells per level whose centre lies strictly inside the truth, or within radius strides of its centre.

    Where both regions hold cells the window spans both. A truth whose regions hold none on any level gets the one
    cell per level that is nearest to its centre.
    """
    low, high = truths.boxes[:, :2], truths.boxes[:, 2:]
    centre = (low + high) / 2
    parts = []
    for level in levels:
        first, end = _range(level, low, high)
        if radius:
            near, far = _range(level, centre - radius * level.stride, centre + radius * level.stride)
            some, more = (first < end).all(1, keepdim=True), (near < far).all(1, keepdim=True)
            first = torch.where(some & more, torch.minimum(first, near), torch.where(more, near, first))
            end = torch.where(some & more, torch.maximum(end, far), torch.where(more, far, end))
        parts.append(torch.cat([first, (end - first).clamp_min(0)], 1))
    windows = torch.stack(parts, 1)  # [M,L,4]
    none = windows[..., 2:].prod(2).sum(1) == 0
    if bool(none.any()):
        windows[none] = torch.stack([_nearest(level, centre[none]) for level in levels], 1)
    return _Windows(*windows.unbind(2))


def _range(level: _Level, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """First and end (column, row) [M,2] of the cells with low < centre < high (both [M,2])."""
    low, high = low.T.contiguous(), high.T.contiguous()
    lines = (level.xs, level.ys)
    first = torch.stack([torch.searchsorted(at, v, right=True) for at, v in zip(lines, low, strict=True)], 1)
    return first, torch.stack([torch.searchsorted(at, v) for at, v in zip(lines, high, strict=True)], 1)


def _nearest(level: _Level, centre: Tensor) -> Tensor:
    """The window [M,4] of the one cell nearest to each centre [M,2]; the lower column or row on a tie."""

    def index(lines: Tensor, at: Tensor) -> Tensor:
        right = torch.searchsorted(lines, at.contiguous()).clamp_max(len(lines) - 1)
        left = (right - 1).clamp_min(0)
        return torch.where((at - lines[left]).abs() <= (lines[right] - at).abs(), left, right)

    column, row = index(level.xs, centre[:, 0]), index(level.ys, centre[:, 1])
    return torch.stack([column, row, torch.ones_like(row), torch.ones_like(row)], 1)


def _parts(windows: _Windows, rows: Tensor) -> Iterator[Tensor]:
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


def _cells(levels: list[_Level], windows: _Windows, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The (truth, prior) pairs of the windows of the truths in `rows`, by truth, then prior."""
    x, y, columns, lines = (w[rows].flatten() for w in windows)
    start = torch.tensor([v.start for v in levels], device=rows.device).repeat(len(rows))
    width = torch.tensor([len(v.xs) for v in levels], device=rows.device).repeat(len(rows))
    count = columns * lines
    window = torch.repeat_interleave(count)
    at = torch.arange(len(window), device=rows.device) - (count.cumsum(0) - count)[window]
    across = columns[window]
    row = torch.div(at, across, rounding_mode="floor")
    prior = (start + y * width + x)[window] + row * width[window] + at - row * across
    return rows[torch.div(window, len(levels), rounding_mode="floor")], prior


def _near(truth: Tensor, prior: Tensor, priors: Priors, truths: Truths, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """SimOTA's pairs: the prior in the box or within radius strides of its centre; third, whether both is the case.

    Windows span both regions and so hold corners that lie in neither, which leave. The pairs of a truth that has no
    other ones (the nearest cells) stay.
    """
    x, y = priors.points[prior].unbind(1)
    x1, y1, x2, y2 = truths.boxes[truth].unbind(1)
    cx, cy, reach = (x1 + x2) / 2, (y1 + y2) / 2, radius * priors.strides[prior]
    in_box = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    near = (x > cx - reach) & (x < cx + reach) & (y > cy - reach) & (y < cy + reach)
    good = in_box | near
    found = torch.zeros(len(truths.image), dtype=torch.bool, device=truth.device)
    found[truth[good]] = True
    good |= ~found[truth]
    return truth[good], prior[good], (in_box & near)[good]


# -- rank -----------------------------------------------------------------------------------------------------


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


def _pick(config: TaskAligned | SimOta, pairs: _Pairs) -> _Pairs:
    """The best k pairs of each truth (k of SimOTA: the sum of the truth's best IoUs, rounded down, at least 1)."""
    _, row, counts = torch.unique_consecutive(pairs.truth, return_inverse=True, return_counts=True)
    start = counts.cumsum(0) - counts
    column = torch.arange(len(row), device=row.device) - start[row]

    def rows(values: Tensor, empty: float) -> Tensor:
        table = values.new_full((len(counts), int(counts.max())), empty)
        table[row, column] = values
        return table

    order = rows(pairs.rank, -torch.inf).argsort(dim=1, descending=True, stable=True)
    if isinstance(config, TaskAligned):
        k = counts.clamp_max(config.topk)
    else:
        best = rows(pairs.iou.double(), 0.0).topk(min(config.candidates, order.shape[1]), 1).values
        k = torch.minimum(best.sum(1).long().clamp_min(1), counts)
    chosen = torch.arange(order.shape[1], device=row.device) < k[:, None]
    return _take(pairs, (start[:, None] + order)[chosen])


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
    prior_count, count = len(priors.points), len(truths.image)
    fits = scores.ndim == 3 and boxes.shape == (*scores.shape[:2], 4) and scores.shape[1] == prior_count
    if not fits or priors.strides.shape != (prior_count,):
        raise TercelError(
            f"assign: scores {[*scores.shape]}, boxes {[*boxes.shape]}, {prior_count} priors",
            "expected [B,A,C], [B,A,4] and A priors with A strides",
        )
    if truths.labels.shape != (count,) or truths.boxes.shape != (count, 4):
        raise TercelError(f"assign: {count} truths, labels {[*truths.labels.shape]}, boxes {[*truths.boxes.shape]}")
