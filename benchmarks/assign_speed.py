"""How long assignment takes on a crowded batch, and how its memory grows with the number of truths.

Figures: 400 truths in each of 8 pictures of 640 px, strides 8/16/32, one class: under 60 ms per batch on two cores, for
task-aligned and SimOTA; 2,000 truths in one picture: less memory than one number for each pair of a truth and a prior.
The other assigners stand beside them; of FreeAnchor, which is a loss, the making of the bags.
Run: python benchmarks/assign_speed.py
"""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from tercel.config import Atss, Fcos, FreeAnchor, MaxIou, OneToOne, Ota, SimOta, TaskAligned
from tercel.models.assign import Assigner, Priors, Truths, assign, starved
from tercel.models.candidates import boxes_around
from tercel.models.free_anchor import bags_of

SIZE, STRIDES, LIMIT_MS, LIMIT_MB = 640, (8, 16, 32), 60.0, 67.2
ASSIGNERS: tuple[Assigner, ...] = (
    TaskAligned(), SimOta(), MaxIou(), Atss(), Fcos(), Ota(), OneToOne(), FreeAnchor()
)  # fmt: skip
SHOWN = (8, 400), (1, 1000), (1, 2000)  # where all of them are measured, not the first two alone


def priors() -> Priors:
    points, strides = [], []
    for stride in STRIDES:
        line = (torch.arange(SIZE // stride) + 0.5) * stride
        y, x = torch.meshgrid(line, line, indexing="ij")
        points.append(torch.stack([x, y], -1).reshape(-1, 2))
        strides.append(torch.full((len(points[-1]),), float(stride)))
    return Priors(torch.cat(points), torch.cat(strides))


def case(batch: int, truths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Priors, Truths]:
    """Truths of 8..64 px anywhere in the pictures; predictions of 1..7 strides around their cells."""
    g = torch.Generator().manual_seed(seed)
    grid = priors()
    size = 8 + 56 * torch.rand(batch * truths, 2, generator=g)
    centre = SIZE * torch.rand(batch * truths, 2, generator=g)
    half = grid.strides[:, None] * (0.5 + 3 * torch.rand(batch, len(grid.points), 2, generator=g))
    return (
        torch.rand(batch, len(grid.points), 1, generator=g),
        torch.cat([grid.points - half, grid.points + half], 2),
        grid,
        Truths(
            torch.arange(batch).repeat_interleave(truths),
            torch.zeros(batch * truths, dtype=torch.long),
            torch.cat([centre - size / 2, centre + size / 2], 1),
        ),
    )


def once(config: Assigner, arguments: Any) -> tuple[int, int]:
    """One assignment: the number of positives (bags: of pairs), and of truths without any."""
    _, _, grid, truths = arguments
    if isinstance(config, FreeAnchor):
        bags = bags_of(config, boxes_around(grid, config.side, config.ratio), truths)
        return int(bags.inside.sum()), len(truths.image) - len(bags.truth.unique())
    result = assign(config, *arguments)
    return len(result.prior), starved(result, truths)


def measure(config: Assigner, batch: int, truths: int, repeats: int = 9) -> dict[str, Any]:
    arguments = case(batch, truths)
    positives, without = once(config, arguments)  # also what the first call of each operation sets up
    seconds, busy = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        once(config, arguments)
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - used)
    return {
        "assigner": type(config).__name__,
        "pictures": batch,
        "truths per picture": truths,
        "median ms": round(1e3 * statistics.median(seconds), 1),
        "best ms": round(1e3 * min(seconds), 1),
        "CPU ms": round(1e3 * statistics.median(busy), 1),
        "peak MB": peak(config, arguments),
        "positives": positives,
        "truths without prior": without,
    }


def peak(config: Assigner, arguments: Any) -> float | None:
    """MB that one assignment needs at its worst: the rise of resident memory. None where Linux does not tell."""
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed would otherwise be used again unseen
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark so far
        once(config, arguments)
        return round((_status("VmHWM") - before) / 1024, 1)
    except (OSError, AttributeError):
        return None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key)))  # kB


def run() -> dict[str, Any]:
    """{"title", "rows", "notes"}; uses two threads, and restores the number that was set."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rows = [
            measure(config, batch, truths)
            for batch, truths in ((8, 400), (1, 500), (1, 1000), (1, 2000), (1, 4000))
            for config in (ASSIGNERS if (batch, truths) in SHOWN else ASSIGNERS[:2])
        ]
    finally:
        torch.set_num_threads(threads)
    met = all(row["median ms"] < LIMIT_MS for row in rows[:2])
    crowded = [row for row in rows if row["truths per picture"] == 2000]
    peaks = [row["peak MB"] for row in crowded if row["peak MB"] is not None]
    small = "not measured here" if len(peaks) < len(crowded) else "met" if max(peaks) < LIMIT_MB else "MISSED"
    return {
        "title": "Assignment of crowded pictures (640 px, strides 8/16/32, one class, two CPU threads)",
        "rows": rows,
        "notes": [
            f"Figure: 8 pictures of 400 truths under {LIMIT_MS:g} ms (median): {'met' if met else 'MISSED'}.",
            "CPU ms is the time of all threads, waiting ones included: where it is far below the median, other "
            "processes held the cores.",
            f"Figure: 2,000 truths in one picture below {LIMIT_MB:g} MB, a matrix of truths x priors with one float32 "
            f"value, for every assigner: {small}.",
        ],
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
