"""Adaptive training sample selection (ATSS): which of the priors near a truth fit it, by the truth's own statistics.

Zhang et al. 2020, "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
Selection": per truth the k priors per level whose centres are nearest are candidates; of these, positives are those
whose square of SIDE strides has an overlap of at least mean + standard deviation of all the candidates' overlaps, and
whose centre lies in the truth. Neither scores nor predictions count, so what answers for a truth never changes in
training. For oriented boxes the same with the exact overlap of the upright square and the oriented box.

Shape legend: P pairs (truth, prior), those of one truth together; px.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tercel.models.candidates import Level, Priors, Table, Truths, grid_of, inside
from tercel.models.losses import box_iou_pairs
from tercel.models.oriented_losses import rotated_iou

SIDE = 8.0  # of the square around a prior, in strides, as published
ROUNDING = 1e-6  # squares that hold the whole truth overlap it equally: none of them may miss the threshold by rounding
FAR = 1e-6  # taken off the overlap per stride from the truth's centre: equal overlaps are usual, the nearer one wins
BELOW, BESIDE = 2.0, 4.0  # taken off that of a candidate below the threshold, and of one beside the truth
FITS = -1.0  # ranks of positives lie above, others below


def nearest(
    levels: list[Level], priors: Priors, truths: Truths, truth: Tensor, prior: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k pairs per truth and level whose points are nearest to the truth's centre; the lower prior on a tie.

    Of anchors, whose levels hold a grid for each shape: the k of each grid.
    Takes and returns truth and prior, each i64 [P], by truth, then level.
    """
    distance = _distance(priors, truths, truth, prior)
    table = Table.of(truth * len(levels) + grid_of(levels, prior))
    index = table.lowest(distance, table.counts.clamp_max(k))
    return truth.index_select(0, index), prior.index_select(0, index)


def fit(priors: Priors, truths: Truths, truth: Tensor, prior: Tensor, anchors: Tensor | None = None) -> Tensor:
    """Rank [P] f64 of candidates, above FITS of the positives: the overlap of square and truth, 0..1, less FAR.

    Of the others, those that lie in the truth come first. A truth with one candidate has no deviation: 0. Anchors [A,4]
    stand in for the squares where there are some.
    """
    half = SIDE * priors.strides.index_select(0, prior)[:, None] / 2
    points = priors.points.index_select(0, prior)
    if anchors is not None:
        overlap = box_iou_pairs(anchors.index_select(0, prior), truths.boxes.index_select(0, truth))
    elif truths.obbs is None:
        overlap = box_iou_pairs(torch.cat([points - half, points + half], 1), truths.boxes.index_select(0, truth))
    else:
        squares = torch.cat([points, 2 * half, 2 * half, torch.zeros_like(half)], 1)
        overlap = rotated_iou(squares, truths.obbs[truth])
    overlap = overlap.double()
    table = Table.of(truth)
    mean = table.fill(overlap, 0.0).sum(1) / table.counts
    spread = table.fill((overlap - mean.index_select(0, table.row)).square(), 0.0).sum(1) / (
        table.counts - 1
    ).clamp_min(1)
    fits = overlap >= (mean + spread.sqrt()).index_select(0, table.row) - ROUNDING
    away = _distance(priors, truths, truth, prior) / priors.strides.index_select(0, prior)
    aside = ~inside(priors, truths, truth, prior)
    return overlap - FAR * away - BELOW * (~fits).double() - BESIDE * aside.double()


def _distance(priors: Priors, truths: Truths, truth: Tensor, prior: Tensor) -> Tensor:
    """f64 [P] px from the truth's centre to the prior's point."""
    shapes = truths.shapes.index_select(0, truth).double()
    centre = shapes[:, :2] if truths.obbs is not None else (shapes[:, :2] + shapes[:, 2:]) / 2
    return (priors.points.index_select(0, prior) - centre).square().sum(1).sqrt()
