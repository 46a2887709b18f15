"""What all heads share: the loss that they return, cell centres, and the five functions as a type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from tercel.config import Evaluate
from tercel.config import Model as ModelConfig
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.models.assign import Priors

# Logit of a perfect "no" or "yes" in `ideal`: the probability differs from 0 or 1 by 2e-9, the loss by as much.
SURE = 20.0


class Loss(NamedTuple):
    """Sums, and what to divide them by once every part of an update is known (accumulation, several devices).

    Attributes:
        sums: name -> scalar, gain included; the value per unit is sums[name] / weight.
        weight: scalar without gradient, 0 when there is nothing to find; divide by at least 1.
        facts: counts worth logging, not part of the loss.
    """

    sums: dict[str, Tensor]
    weight: Tensor
    facts: dict[str, float]

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.sums.values())).sum()


class Head(Protocol):
    """The five functions (docs/heads.md). What raw outputs and targets look like is each head's own business."""

    def net(self, width: int, model: ModelConfig) -> nn.Module:
        """The trainable part: (maps of `width` channels, input size) -> raw."""

    def encode(self, objects: Sequence[Objects], events: Sequence[tuple[Event, ...]] | None = None) -> Any:
        """Truth of a batch on the network's canvas as targets that have `.to(device)`."""

    def loss(self, raw: Any, targets: Any) -> Loss:
        """Sums, gains included, and their weight."""

    def decode(self, raw: Any, settings: Evaluate) -> tuple[list[Objects], list[bool]]:
        """Answers per sample on the network's canvas, and whether a cap was reached."""

    def ideal(self, targets: Any, size: tuple[int, int]) -> Any:
        """The raw output of a perfect network."""


class BallHead(Head, Protocol):
    """What the heads for balls have besides (docs/heads.md)."""

    def maps(self, raw: Any) -> Tensor:
        """f32 [B,A,3,cells]: probability p, and p times x and y in px of the network's canvas."""

    def candidates(self, maps: Tensor, size: tuple[int, int], settings: Evaluate) -> tuple[Tensor, Tensor]:
        """maps [N,3,cells] -> places [N,K,2] px and scores [N,K], best first."""

    def events(self, raw: Any) -> Tensor | None:
        """f32 [B,A,E] probabilities of the schema's events, or None."""


def make_priors(shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> Priors:
    """Cell centres of all maps in px of the network input, and their strides."""
    points, steps = [], []
    for (h, w), s in zip(shapes, strides, strict=True):
        y = (torch.arange(h, device=device, dtype=torch.float32) + 0.5) * s
        x = (torch.arange(w, device=device, dtype=torch.float32) + 0.5) * s
        yy, xx = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([xx, yy], -1).reshape(-1, 2))
        steps.append(torch.full((h * w,), float(s), device=device))
    return Priors(torch.cat(points), torch.cat(steps))


def map_priors(prior: float, strides: Sequence[int]) -> list[float]:
    """The probability that each map starts with: `prior` on the coarsest, shared out among its cells on a finer one."""
    return [prior * (s / max(strides)) ** 2 for s in strides]


def prior_bias(prior: float) -> float:
    """The logit of a probability."""
    return -math.log((1 - prior) / prior)
