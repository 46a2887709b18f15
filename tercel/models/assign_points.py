"""Which priors answer for a truth by their places and its size alone (FCOS).

Tian et al. 2019, "FCOS: Fully Convolutional One-Stage Object Detection", with the centre sampling of the authors' later
code: candidates of a truth are the priors that lie in it and within `radius` strides of its centre, on the map whose
range holds the distance to the truth's farthest side; a prior that several truths could have goes to the smallest one.
Published, a truth whose size falls to a map where it holds no centre, or whose priors all go to smaller ones, is never
learnt; here its other candidates stand by (`assign` rescues it). Neither scores nor predictions count.

Shape legend: A priors, M truths, P pairs (truth, prior); px throughout.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tercel.models.atss import FITS
from tercel.models.candidates import (
    Level,
    Priors,
    Truths,
    Windows,
    cells_of,
    central,
    central_windows,
    framed,
    inside,
    nearest_windows,
)

__all__ = ["FITS", "middle_cells", "middle_windows", "size_rank"]

SPARE = 2  # nearest columns and rows of each map that stand by
FAR = 1e-9  # taken off the rank per stride from the truth's centre: of equal sizes the nearer one wins
BELOW, BESIDE = 2.0, 4.0  # taken off that of a prior on another map, and of one that is not in the truth's middle


def middle_windows(levels: list[Level], truths: Truths, radius: float) -> Windows:
    """Per truth and level the cells in its middle, and then per level the four nearest to its centre: [M,2L] each."""
    middle, around = central_windows(levels, truths, radius), nearest_windows(levels, truths, SPARE)
    return Windows(*(torch.cat([a, b], 1) for a, b in zip(middle, around, strict=True)))


def middle_cells(
    levels: list[Level], windows: Windows, rows: Tensor, priors: Priors, truths: Truths, radius: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of `middle_windows` of the truths in `rows`: truth, prior, and whether it is in the truth's middle.

    In the truth and within `radius` strides of its centre. By truth, then prior, each pair once; i64, i64, bool [P].
    """
    levels_count = len(levels)
    parts = []
    for first in (0, levels_count):
        some = Windows(*(w[:, first : first + levels_count] for w in windows))
        truth, prior = cells_of(levels, some, rows)
        held = inside(priors, truths, truth, prior) & central(priors, truths, truth, prior, radius)
        good = (~held if first else held).nonzero()[:, 0]  # a nearest cell that is in the middle is among the others
        parts.append((truth.index_select(0, good), prior.index_select(0, good), held.index_select(0, good)))
    truth, prior, held = (torch.cat(x) for x in zip(*parts, strict=True))
    order = prior.argsort(stable=True)
    order = order.index_select(0, truth.index_select(0, order).argsort(stable=True))
    return truth.index_select(0, order), prior.index_select(0, order), held.index_select(0, order)


def size_rank(priors: Priors, truths: Truths, truth: Tensor, prior: Tensor, held: Tensor, reach: float) -> Tensor:
    """Rank f64 [P], above FITS for positives: the smaller the truth the greater, from 1 downwards.

    Args:
        held: bool [P], of `middle_cells`.
        reach: strides of a map up to which it answers; the coarsest one has no end.
    """
    offset, half = framed(priors, truths, truth, prior)
    farthest = (offset.abs() + half).amax(1)
    strides = torch.unique(priors.strides)  # rising
    ends = (reach * strides).tolist()
    starts = torch.tensor([0.0, *ends[:-1]], device=offset.device)
    ends = torch.tensor([*ends[:-1], math.inf], device=offset.device)
    level = torch.searchsorted(strides, priors.strides[prior])
    fits = (farthest > starts[level]) & (farthest <= ends[level])
    size = 1 / (1 + (4 * half.double().prod(1)).log1p())
    away = offset.double().square().sum(1).sqrt() / priors.strides[prior]
    return size - FAR * away - BELOW * (~fits).double() - BESIDE * (~held).double()
