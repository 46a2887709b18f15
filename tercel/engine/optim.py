"""Optimiser groups, learning-rate schedule, averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from tercel.config import Train


def make_optimizer(model: nn.Module, config: Train) -> torch.optim.Optimizer:
    """AdamW or SGD (Nesterov). Weight decay acts on weights of two and more dimensions; not on norms and biases."""
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)


def learning_rate(config: Train, update: int, updates: int) -> float:
    """Rate of update 0..updates-1: linear warm-up, then a cosine from lr to lr * final_lr."""
    warm = round(config.warmup * updates)
    if update < warm:
        return config.lr * (update + 1) / (warm + 1)
    progress = (update - warm) / max(1, updates - warm)
    low = config.final_lr
    return config.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


M = TypeVar("M", bound=nn.Module)


class Average(Generic[M]):
    """Exponential moving average of weights and norm statistics.

    The decay of update t is min(decay, (1 + t) / (10 + t)), so that early averages are not held back by the random
    start. The counter is part of the state: a resumed run goes on where it was.
    """

    def __init__(self, model: M, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self.model.requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        d = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.decay else 0.0
        self.updates += 1
        old, new = self.model.state_dict(), model.state_dict()
        floats = [k for k, v in old.items() if v.is_floating_point()]
        torch._foreach_lerp_([old[k] for k in floats], [new[k] for k in floats], 1 - d)
        for k in old.keys() - set(floats):
            old[k].copy_(new[k])


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Euclidean norm over all gradients, a scalar tensor."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(grads))))
    return norm
