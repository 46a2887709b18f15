"""One process or many: what `torchrun` started, and the few collectives that the loop needs."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class World:
    """Rank and size of the process group; a single process needs no group.

    Under `torchrun` (RANK, WORLD_SIZE and LOCAL_RANK are set) the group is opened with gloo on CPU and nccl on CUDA,
    with a timeout that ends a run whose ranks wait for each other instead of hanging for hours.
    """

    TIMEOUT = datetime.timedelta(minutes=10)

    def __init__(self, device: torch.device) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not torch.distributed.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            torch.distributed.init_process_group(backend, timeout=self.TIMEOUT)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over all processes, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all ranks in rank order, on rank 0; None elsewhere."""
        if self.size == 1:
            return [value]
        out: list[Any] | None = [None] * self.size if self.main else None
        torch.distributed.gather_object(value, out)
        return out

    def share(self, value: Any) -> Any:
        """Rank 0's value on every rank."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box)
        return box[0]

    def close(self) -> None:
        if self.size > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@contextmanager
def world(device: torch.device) -> Iterator[World]:
    w = World(device)
    try:
        yield w
    finally:
        w.close()
