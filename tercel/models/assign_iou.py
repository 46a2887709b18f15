"""Which anchors answer for which truths, by overlap alone (Ren et al. 2015, "Faster R-CNN"; RetinaNet, EfficientDet).

An anchor whose best IoU with any truth is at least `positive` answers for that truth; from `negative` up to there it is
not asked at all; below, it is background. Published rules then also give every truth the anchor that overlaps it most,
and where two truths have the same one, the second is lost. Here every truth gets an anchor of its own: pairs are walked
from the best down, and each truth without an anchor takes the pair's anchor if it is free (greedy one-to-one matching).

Nothing grows with truths x anchors. Two intervals whose IoU reaches t have centres at most (a + b)(1 - t) / (2 + 2 t)
apart, and the IoU of boxes is at most that of their sides, so a truth's candidates are one small rectangle of cells per
grid of anchors; the nearest cells of every grid are candidates too, for truths that no anchor fits.

Heads without anchors stand in a box around each of their points (`boxes_around`).

Shape legend: B pictures, A anchors, G grids of anchors (one per level and shape), M truths, P pairs; px throughout.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tercel.config import MaxIou
from tercel.core.finding import TercelError
from tercel.models.candidates import (
    Anchors,
    Assignment,
    Truths,
    Windows,
    cells_of,
    grid_of,
    make_anchors,
    nearest_windows,
)
from tercel.models.losses import box_iou_pairs

__all__ = ["Anchors", "Overlaps", "assign_by_iou", "make_anchors", "overlaps_of"]

SPARE = 2  # nearest columns and rows of each grid that are candidates whatever their overlap
ROWS = 1024  # truths looked at in one go: bounds memory, never changes the result
FAR = 1e-5  # taken off the IoU per stride from centre to centre: anchors that hold the whole truth overlap it equally
SLACK = 1e-3  # px, and a share of sides: rounding must not hide a candidate


class Overlaps(NamedTuple):
    """Pairs of truths and anchors, the best one first."""

    truth: Tensor  # i64 [P]
    slot: Tensor  # i64 [P], picture * A + anchor
    iou: Tensor  # f32 [P]


@torch.no_grad()
def assign_by_iou(config: MaxIou, anchors: Anchors, truths: Truths, batch: int, own_cell: bool = False) -> Assignment:
    """Positives of a batch, `quality` being the IoU of anchor and truth, and the anchors `between`.

    Neither scores nor predictions count. Of equal overlaps the anchor whose centre is nearer comes first (in strides),
    then the lower anchor, then the lower truth. A truth is left without an anchor only where all its candidates, the
    four nearest cells of every grid among them, are the only ones of other truths (`starved` counts them).

    Args:
        truths: boxes [M,4]; oriented boxes are not looked at.
        own_cell: only anchors in the cell that holds a truth's centre may answer for it (YOLOv3); others that overlap
            it by `negative` or more are `between`.

    Raises:
        TercelError: `negative` above `positive`.
    """
    if config.negative > config.positive:
        raise TercelError(
            f"MaxIou: negative {config.negative} lies above positive {config.positive}", "set them in rising order"
        )
    count, total = len(truths.image), len(anchors.boxes)
    pairs = overlaps_of(anchors, truths, config.negative)
    may = _in_cell(anchors, truths, pairs) if own_cell else torch.ones_like(pairs.slot, dtype=torch.bool)
    own = _one_each(pairs, count, may)
    served = torch.zeros(batch * total, dtype=torch.bool, device=pairs.slot.device)
    served[pairs.slot[own]] = True
    place = torch.arange(len(pairs.slot), device=pairs.slot.device)
    left = (_first(place, pairs.slot, batch * total)[pairs.slot] == place) & ~served[pairs.slot]  # the anchor's best
    fits = may & (pairs.iou >= config.positive)
    chosen = torch.cat([own, place[left & fits]])
    between = torch.zeros_like(served)
    between[pairs.slot[left & ~fits & (pairs.iou >= config.negative)]] = True
    chosen = chosen[pairs.slot[chosen].argsort()]
    truth, slot, iou = (x[chosen] for x in pairs)
    return Assignment(slot // total, slot % total, truth, iou, between=between.view(batch, total))


def overlaps_of(anchors: Anchors, truths: Truths, least: float) -> Overlaps:
    """All pairs of at least this IoU, and those of the nearest cells of every grid whatever their overlap."""
    grids, total = list(anchors.grids), len(anchors.boxes)
    close, near = _windows(anchors, truths, least), nearest_windows(grids, truths, SPARE)
    middle = (truths.boxes[:, :2] + truths.boxes[:, 2:]) / 2
    stride = torch.cat([anchors.boxes.new_full((len(g.xs) * len(g.ys),), g.stride) for g in grids])
    parts = []
    for rows in torch.arange(len(truths.image), device=truths.image.device).split(ROWS):
        for windows, overlapping in ((close, True), (near, False)):  # near ones that do overlap are among the close
            truth, anchor = cells_of(grids, windows, rows)
            iou = box_iou_pairs(anchors.boxes[anchor], truths.boxes[truth])
            good = (iou >= least) == overlapping
            truth, anchor, iou = truth[good], anchor[good], iou[good]
            away = (anchors.centres[anchor] - middle[truth]).norm(dim=1) / stride[anchor]
            parts.append((truth, truths.image[truth] * total + anchor, iou, iou - FAR * away))
    if not parts:
        none = truths.image[:0]
        return Overlaps(none, none, anchors.boxes[:0, 0])
    truth, slot, iou, rank = (torch.cat(x) for x in zip(*parts, strict=True))
    order = truth.argsort(stable=True)
    for key in (slot, -rank):
        order = order[key[order].argsort(stable=True)]
    return Overlaps(truth[order], slot[order], iou[order])


def _windows(anchors: Anchors, truths: Truths, iou: float) -> Windows:
    """Per truth and grid the cells whose anchors may have this IoU with it: all that do, and few others."""
    low, high = truths.boxes[:, None, :2], truths.boxes[:, None, 2:]
    centre, extent = (low + high) / 2, high - low  # [M,1,2]
    stride = torch.tensor([g.stride for g in anchors.grids], device=extent.device)[:, None]
    counts = torch.tensor([(len(g.xs), len(g.ys)) for g in anchors.grids], device=extent.device)  # [G,2]
    reach = (extent + anchors.sizes) * (1 - iou) / (2 * (1 + iou)) + SLACK  # [M,G,2]
    alike = torch.minimum(extent, anchors.sizes) * (1 + SLACK) >= iou * torch.maximum(extent, anchors.sizes)
    first = ((centre - reach) / stride - 0.5).ceil().long().clamp_min(0).minimum(counts)
    end = ((centre + reach) / stride + 0.5).floor().long().clamp_min(0).minimum(counts)
    cells = (end - first).clamp_min(0) * alike.all(2, keepdim=True)
    return Windows(*first.unbind(2), *cells.unbind(2))


def _in_cell(anchors: Anchors, truths: Truths, pairs: Overlaps) -> Tensor:
    """bool [P]: the truth's centre lies in the anchor's cell, or beyond the picture and nearest to it."""
    place = pairs.slot % len(anchors.boxes)
    centres, steps = anchors.priors
    middle = (truths.boxes[pairs.truth, :2] + truths.boxes[pairs.truth, 2:]) / 2
    ends = torch.stack([torch.stack([g.xs[[0, -1]], g.ys[[0, -1]]], 1) for g in anchors.grids])  # [G,2,2]
    low, high = ends[grid_of(list(anchors.grids), place)].unbind(1)
    inside = middle.maximum(low).minimum(high)
    return ((centres[place] - inside).abs() <= steps[place, None] / 2).all(1)


def _one_each(pairs: Overlaps, count: int, may: Tensor) -> Tensor:
    """Greedy one-to-one matching of truths and anchors: indices into the pairs, which come best first.

    In rounds: a pair that is the best left for its truth and for its anchor is one that the walk down the list takes.

    Args:
        may: bool [P], the pairs that count.
    """
    slots, slot = torch.unique(pairs.slot, return_inverse=True)
    index = may.nonzero()[:, 0]
    truth, slot = pairs.truth[index], slot[index]
    taken = [index[:0]]
    while len(index):
        wins = (_first(index, truth, count)[truth] == index) & (_first(index, slot, len(slots))[slot] == index)
        taken.append(index[wins])
        gone = torch.zeros(count, dtype=torch.bool, device=slot.device), torch.zeros_like(slots, dtype=torch.bool)
        gone[0][truth[wins]] = True
        gone[1][slot[wins]] = True
        left = ~(gone[0][truth] | gone[1][slot])
        truth, slot, index = truth[left], slot[left], index[left]
    return torch.cat(taken)


def _first(index: Tensor, group: Tensor, groups: int) -> Tensor:
    """The lowest index [P] of each group [groups]; the greatest number there is for groups without any."""
    return index.new_full((groups,), torch.iinfo(index.dtype).max).scatter_reduce_(0, group, index, "amin")
