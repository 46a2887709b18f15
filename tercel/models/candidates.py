"""Which priors may answer for a truth by their place alone, for boxes and for oriented boxes.

Truths, priors and candidates are flat lists over the whole batch. A truth's candidates are found as one rectangle of
cells per level (`Windows`), so nothing grows with truths x priors. Pairs are many, so they are gathered by index_select
and compared column by column: on a CPU that takes a third of the time of x[index] and .all(1).

Shape legend: A priors or anchors, M truths, P pairs (truth, prior), L levels (strides), G grids of anchors (one per
level and shape), K cells; px throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tercel.core.finding import TercelError


class Priors(NamedTuple):
    """Cell centres: points [A,2] (x, y) and strides [A], level after level, each a full grid row by row."""

    points: Tensor
    strides: Tensor


class Truths(NamedTuple):
    """What is to be found (nothing ignored) in the batch: picture [M] (sorted), label [M], box [M,4].

    With `obbs` [M,5] the truths are oriented boxes (any theta, sides in any order) and the boxes, their hulls, are not
    looked at.
    """

    image: Tensor
    labels: Tensor
    boxes: Tensor
    obbs: Tensor | None = None

    @property
    def shapes(self) -> Tensor:
        """The oriented boxes [M,5] where there are some, else the boxes [M,4]."""
        return self.boxes if self.obbs is None else self.obbs

    def to(self, device: torch.device) -> Truths:
        return Truths(*(None if t is None else t.to(device) for t in self))  # type: ignore[arg-type]

    def take(self, index: Tensor) -> Truths:
        """The truths of an index [N] or mask [M]."""
        return Truths(*(None if t is None else t[index] for t in self))  # type: ignore[arg-type]


class Level(NamedTuple):
    """One grid of cell centres: prior index = start + row * len(xs) + column."""

    start: int
    stride: float
    xs: Tensor
    ys: Tensor


class Anchors(NamedTuple):
    """Boxes [A,4], grid after grid: level by level (finest first), shape by shape, row by row; sizes [G,2] (w, h)."""

    boxes: Tensor
    sizes: Tensor
    grids: tuple[Level, ...]

    @property
    def centres(self) -> Tensor:
        """[A,2] (x, y)."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @property
    def priors(self) -> Priors:
        """Their centres, with the strides of their grids."""
        sizes = [len(g.xs) * len(g.ys) for g in self.grids]
        steps = torch.tensor([g.stride for g in self.grids], device=self.boxes.device)
        return Priors(self.centres, steps.repeat_interleave(torch.tensor(sizes, device=steps.device)))


class Assignment(NamedTuple):
    """Positives, ordered by (image, prior), each such pair once: index into batch, priors and truths, all i64 [P].

    `quality` f32 [P] in 0..1 is the classification target of that prior for its truth's class; 0 says no, and the prior
    learns the box alone. `share` f32 [P], where the assigner has a say in it, is what the pair weighs in the box loss.
    `between` bool [B,A], where there are some: priors that are neither positive nor background, and are not asked.
    """

    image: Tensor
    prior: Tensor
    truth: Tensor
    quality: Tensor
    share: Tensor | None = None
    between: Tensor | None = None


class Windows(NamedTuple):
    """Per truth and level a rectangle of cells: first column and row, columns, rows, each i64 [M,L]."""

    x: Tensor
    y: Tensor
    columns: Tensor
    rows: Tensor


class Table(NamedTuple):
    """Values of groups as rows of a matrix, one group each: row and column per value, i64 [P]; values per row."""

    row: Tensor
    column: Tensor
    counts: Tensor

    @staticmethod
    def of(groups: Tensor) -> Table:
        """`groups` [P]: equal ones stand together and form a row."""
        _, row, counts = torch.unique_consecutive(groups, return_inverse=True, return_counts=True)
        column = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        return Table(row, column, counts)

    def fill(self, values: Tensor, empty: float) -> Tensor:
        """values [P] as [rows, most per row], `empty` where a row has fewer."""
        table = values.new_full((len(self.counts), int(self.counts.max())), empty)
        table[self.row, self.column] = values
        return table

    def lowest(self, values: Tensor, k: Tensor) -> Tensor:
        """Indices into values [P] of the k [rows] lowest of each row (at most as many as it has), lowest first.

        On a tie the one that comes first.
        """
        order = self.fill(values, torch.inf).argsort(dim=1, stable=True)
        start = self.counts.cumsum(0) - self.counts
        chosen = torch.arange(order.shape[1], device=order.device) < k[:, None]
        return (start[:, None] + order)[chosen]


def levels_of(priors: Priors) -> list[Level]:
    """The grids of the priors, finest first.

    Raises:
        TercelError: cells of a level that are not all there, or not row by row.
    """
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
        levels.append(Level(start, stride, xs, ys))
        start += count
    return levels


def make_anchors(
    maps: Sequence[tuple[int, int]],
    strides: Sequence[int],
    shapes: Sequence[Sequence[tuple[float, float]]],
    device: torch.device,
) -> Anchors:
    """Anchors of every shape of a level around its every cell centre.

    Args:
        maps: (rows, columns) per level.
        shapes: per level (width, height) in strides, one anchor each.
    """
    boxes, sizes, grids, start = [], [], [], 0
    for (rows, columns), stride, some in zip(maps, strides, shapes, strict=True):
        ys = (torch.arange(rows, device=device, dtype=torch.float32) + 0.5) * stride
        xs = (torch.arange(columns, device=device, dtype=torch.float32) + 0.5) * stride
        centre = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).reshape(-1, 2)
        size = torch.tensor(some, device=device, dtype=torch.float32) * stride  # [shapes,2]
        half = size[:, None] / 2
        boxes.append(torch.cat([centre - half, centre + half], 2).flatten(0, 1))
        sizes.append(size)
        grids += [Level(start + k * rows * columns, float(stride), xs, ys) for k in range(len(some))]
        start += len(some) * rows * columns
    return Anchors(torch.cat(boxes), torch.cat(sizes), tuple(grids))


def boxes_around(priors: Priors, side: float, ratio: float = 1.0) -> Anchors:
    """One anchor around each prior, in the same order: side^2 strides^2 large, `ratio` times as high as wide.

    Raises:
        TercelError: cells of a level that are not all there, or not row by row.
    """
    grids = levels_of(priors)
    shape = torch.tensor([side / ratio**0.5, side * ratio**0.5], device=priors.points.device)
    half = shape / 2 * priors.strides[:, None]
    sizes = torch.stack([shape * grid.stride for grid in grids])
    return Anchors(torch.cat([priors.points - half, priors.points + half], 1), sizes, tuple(grids))


def windows_of(levels: list[Level], truths: Truths, radius: float = 0.0) -> Windows:
    """The cells per level whose centre lies strictly inside the truth, or within radius strides of its centre.

    Of an oriented truth: inside its hull. Where both regions hold cells the window spans both. A truth whose regions
    hold none on any level gets the one cell per level that is nearest to its centre.
    """
    low, centre, high = _extent(truths)
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
        windows[none] = torch.stack(nearest_windows(levels, truths.take(none), 1), 2)
    return Windows(*windows.unbind(2))


def central_windows(levels: list[Level], truths: Truths, radius: float) -> Windows:
    """The cells per level whose centre lies within radius strides of the truth's centre and strictly in its hull."""
    low, centre, high = _extent(truths)
    parts = []
    for level in levels:
        reach = radius * level.stride
        first, end = _range(level, low.maximum(centre - reach), high.minimum(centre + reach))
        parts.append(torch.cat([first, (end - first).clamp_min(0)], 1))
    return Windows(*torch.stack(parts, 1).unbind(2))


def nearest_windows(levels: list[Level], truths: Truths, k: int) -> Windows:
    """The k columns and the k rows per level that are nearest to the truth's centre (all, of a level with fewer).

    Whatever lies outside has k cells of the window that are as near, so the k nearest cells are in it. On a tie the
    lower column or row.
    """
    centre = _extent(truths)[1].T.contiguous()

    def first(lines: Tensor, at: Tensor) -> Tensor:
        """Columns 0..n-1: the window moves on by one while the next column is nearer than its first."""
        return torch.searchsorted((lines[:-k] + lines[k:]) / 2, at) if len(lines) > k else torch.zeros_like(at).long()

    parts = []
    for level in levels:
        x, y = first(level.xs, centre[0]), first(level.ys, centre[1])
        columns, rows = (torch.full_like(x, min(k, len(lines))) for lines in (level.xs, level.ys))
        parts.append(torch.stack([x, y, columns, rows], 1))
    return Windows(*torch.stack(parts, 1).unbind(2))


def cells_of(levels: list[Level], windows: Windows, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The (truth, prior) pairs of the windows of the truths in `rows`, by truth, then prior."""
    x, y, columns, lines = (w[rows].flatten() for w in windows)
    start = torch.tensor([v.start for v in levels], device=rows.device).repeat(len(rows))
    width = torch.tensor([len(v.xs) for v in levels], device=rows.device).repeat(len(rows))
    count = columns * lines
    window = torch.repeat_interleave(count)
    at = torch.arange(len(window), device=rows.device) - (count.cumsum(0) - count).index_select(0, window)
    across = columns.index_select(0, window)
    row = torch.div(at, across, rounding_mode="floor")
    prior = (start + y * width + x).index_select(0, window) + row * (width - columns).index_select(0, window) + at
    return rows.repeat_interleave(len(levels)).index_select(0, window), prior


def grid_of(levels: list[Level], prior: Tensor) -> Tensor:
    """Which level each prior belongs to, i64 [P]."""
    starts = torch.tensor([v.start for v in levels], device=prior.device)
    return torch.searchsorted(starts, prior, right=True) - 1


def inside(priors: Priors, truths: Truths, truth: Tensor, prior: Tensor) -> Tensor:
    """bool [P]: the prior's point lies strictly inside its truth."""
    if truths.obbs is not None:
        (x, y), (across, along) = (v.unbind(1) for v in framed(priors, truths, truth, prior))
        return (x.abs() < across) & (y.abs() < along)
    x, y = priors.points.index_select(0, prior).unbind(1)
    x1, y1, x2, y2 = truths.boxes.index_select(0, truth).unbind(1)
    return (x > x1) & (y > y1) & (x < x2) & (y < y2)


def framed(priors: Priors, truths: Truths, truth: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """The prior's point as seen from its truth's centre, along the truth's sides, and half these sides: each [P,2]."""
    points = priors.points[prior]
    if truths.obbs is None:
        low, high = truths.boxes[truth].split(2, 1)
        return points - (low + high) / 2, (high - low) / 2
    obbs = truths.obbs[truth]
    (x, y), cos, sin = (points - obbs[:, :2]).unbind(1), obbs[:, 4].cos(), obbs[:, 4].sin()
    return torch.stack([x * cos + y * sin, y * cos - x * sin], 1), obbs[:, 2:4] / 2


def central(priors: Priors, truths: Truths, truth: Tensor, prior: Tensor, radius: float) -> Tensor:
    """bool [P]: the prior's point lies within radius strides of the truth's centre, in x and in y."""
    x, y = priors.points.index_select(0, prior).unbind(1)
    middle_x, middle_y = _extent(truths)[1].index_select(0, truth).unbind(1)
    reach = radius * priors.strides.index_select(0, prior)
    return ((x > middle_x - reach) & (y > middle_y - reach)) & ((x < middle_x + reach) & (y < middle_y + reach))


def _extent(truths: Truths) -> tuple[Tensor, Tensor, Tensor]:
    """Low corner, centre and high corner, each [M,2], of the box or of the oriented box's hull."""
    if truths.obbs is None:
        low, high = truths.boxes[:, :2], truths.boxes[:, 2:]
        return low, (low + high) / 2, high
    centre, (length, width, theta) = truths.obbs[:, :2], truths.obbs[:, 2:].unbind(1)
    cos, sin = theta.cos().abs() / 2, theta.sin().abs() / 2
    reach = torch.stack([length * cos + width * sin, length * sin + width * cos], 1)
    return centre - reach, centre, centre + reach


def _range(level: Level, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """First and end (column, row) [M,2] of the cells with low < centre < high (both [M,2])."""
    low, high = low.T.contiguous(), high.T.contiguous()
    lines = (level.xs, level.ys)
    first = torch.stack([torch.searchsorted(at, v, right=True) for at, v in zip(lines, low, strict=True)], 1)
    return first, torch.stack([torch.searchsorted(at, v) for at, v in zip(lines, high, strict=True)], 1)
