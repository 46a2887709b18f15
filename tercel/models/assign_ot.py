"""Assignment as transport: OTA's by Sinkhorn's algorithm, and the exact matching of truths and priors, one to one.

Both work on the list of candidate pairs, never on a matrix of truths x priors. That changes nothing: a pair that is no
candidate carries nothing, and a prior that is no candidate of any truth can only belong to the background.

Ge et al. 2021, "OTA: Optimal Transport Assignment for Object Detection". Cuturi 2013, "Sinkhorn Distances". Wang et al.
2021, "End-to-End Object Detection with Fully Convolutional Network" (one-to-one matching of dense priors).

Shape legend: P pairs (truth, slot), slot = picture * A + prior; N slots that occur, M truths that occur.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LEAST = 1e-6  # units that the background supplies at least


class _Groups(NamedTuple):
    """Values that belong together: their order, and the size of each group."""

    order: Tensor
    sizes: Tensor

    @staticmethod
    def of(group: Tensor, count: int) -> _Groups:
        """`group` [P] in 0..count-1, every group once at least."""
        return _Groups(group.argsort(stable=True), torch.bincount(group, minlength=count))

    def logsumexp(self, values: Tensor) -> Tensor:
        """[P] -> [groups]; no atomics, so the same every time."""
        values = values[self.order]
        top = torch.segment_reduce(values, "max", lengths=self.sizes)
        shifted = (values - top.repeat_interleave(self.sizes)).exp()
        return torch.segment_reduce(shifted, "sum", lengths=self.sizes).log() + top


def transport(
    truth: Tensor,
    slot: Tensor,
    image: Tensor,
    supply: Tensor,
    cost: Tensor,
    idle: Tensor,
    smoothing: float,
    rounds: int,
) -> Tensor:
    """Which pairs carry a prior: indices [K] into the pairs, at most one for each slot.

    Every prior demands one unit. Truths supply what `supply` says, the background of each picture the rest; where the
    truths of a picture would supply more than all its candidates demand, all of them shrink alike. Of the smoothed plan
    after `rounds` of Sinkhorn's algorithm (in the logarithm, float64) each prior takes what brings it the most: a truth
    (the lower one on a tie) or the background.

    Args:
        truth, slot: i64 [P], each pair once.
        image: picture of each pair, i64 [P]; slots of a picture follow each other.
        supply: units of the truth of each pair, f64 [P].
        cost: of carrying the pair, f64 [P].
        idle: of leaving the pair's prior to the background, f64 [P], the same in all pairs of a slot.
        smoothing: weight of the plan's entropy, in units of the cost.
    """
    if not len(truth):
        return truth
    truths, row = torch.unique(truth, return_inverse=True)
    slots, column = torch.unique(slot, return_inverse=True)
    by_truth, by_slot = _Groups.of(row, len(truths)), _Groups.of(column, len(slots))
    _, picture = torch.unique(image, return_inverse=True)
    of_truth, of_slot = torch.empty_like(truths), torch.empty_like(slots)
    of_truth[row], of_slot[column] = picture, picture
    pictures = int(picture.max()) + 1
    by_picture = _Groups.of(of_slot, pictures)
    rest = supply.new_empty(len(slots))
    rest[column] = -idle / smoothing
    units = supply.new_empty(len(truths))
    units[row] = supply
    demand = by_picture.sizes.double()
    supplied = _Groups.of(of_truth, pictures).logsumexp(units.log()).exp()
    units = units * (demand / supplied).clamp_max(1)[of_truth]
    left = (demand - supplied).clamp_min(LEAST)
    kernel = -cost / smoothing
    u, idle_u = torch.zeros_like(units), torch.zeros_like(left)
    for _ in range(rounds):
        carried = by_slot.logsumexp(kernel + u[row])
        v = -torch.logaddexp(carried, rest + idle_u[of_slot])
        u = units.log() - by_truth.logsumexp(kernel + v[column])
        idle_u = left.log() - by_picture.logsumexp(rest + v)
    plan = kernel + u[row] + v[column]
    best = torch.full_like(v, -torch.inf).scatter_reduce_(0, column, plan, "amax")
    wins = torch.nonzero((plan == best[column]) & (plan > (rest + idle_u[of_slot] + v)[column]))[:, 0]
    wins = wins[truth[wins].argsort(stable=True)]
    wins = wins[column[wins].argsort(stable=True)]
    first = torch.ones_like(wins, dtype=torch.bool)
    first[1:] = column[wins[1:]] != column[wins[:-1]]
    return wins[first]


def matching(truth: Tensor, slot: Tensor, rank: Tensor) -> Tensor:
    """Indices [K] into the pairs: each truth and each slot once at most, as many as can be, of greatest sum of ranks.

    The Hungarian problem on a sparse graph (Jonker and Volgenant 1987, as SciPy has it), on the CPU. Every truth also
    may have nothing, at a cost beyond all others.

    Args:
        truth, slot: i64 [P], each pair once.
        rank: f64 [P], finite.
    """
    if not len(truth):
        return truth
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    device = truth.device
    _, row = np.unique(truth.cpu().numpy(), return_inverse=True)
    _, column = np.unique(slot.cpu().numpy(), return_inverse=True)
    rows, columns = int(row.max()) + 1, int(column.max()) + 1
    cost = rank.cpu().numpy()
    cost = 1 + (cost.max() - cost)  # zeros would count as absent
    nothing = 1 + (rows + 1) * cost.max()
    every = np.arange(rows)
    weights = csr_array(
        (
            np.concatenate([cost, np.full(rows, nothing)]),
            (np.concatenate([row, every]), np.concatenate([column, columns + every])),
        ),
        shape=(rows, columns + rows),
    )
    chosen_row, chosen_column = min_weight_full_bipartite_matching(weights)
    wanted = np.full(rows, -1)
    wanted[chosen_row] = chosen_column
    return torch.from_numpy(np.flatnonzero(wanted[row] == column)).to(device)
