"""What is in data sets with named points: the mean pose of each, and how often each point is labelled and hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tercel.core.record import Dataset
from tercel.metrics.match import Pool
from tercel.metrics.pck import pose, self_pairs
from tercel.report.keypoint_plots import pose_plot
from tercel.report.plots import Plot
from tercel.report.words import count


def content(sets: Sequence[Dataset], names: Sequence[str]) -> dict[str, Any] | None:
    """One plot per source and a table of points, or None where no source has named points."""
    if not any(data.schema.keypoints for data in sets):
        return None
    pools = [_pool(data) for data in sets]
    points = list(dict.fromkeys(k for data in sets for k in data.schema.keypoints))
    return {
        "plots": [p for data, pool, name in zip(sets, pools, names, strict=True) for p in _pose(data, pool, name)],
        "rows": [(k, [_cell(data, pool, k) for data, pool in zip(sets, pools, strict=True)]) for k in points],
        "pairs": [", ".join(f"{a} – {b}" for a, b in data.schema.flip_pairs) or "none" for data in sets],
        "edges": [", ".join(f"{a} – {b}" for a, b in data.schema.edges) or "none" for data in sets],
    }


def _pool(data: Dataset) -> Pool | None:
    """The objects that count; None without named points."""
    if not data.schema.keypoints:
        return None
    pool = Pool.of([r.objects for r in data.records], [1.0] * len(data.schema.keypoints))
    return pool.take(np.flatnonzero(pool.counted))


def _pose(data: Dataset, pool: Pool | None, name: str) -> list[Plot]:
    if pool is None or pool.points is None or not len(pool):
        return []
    rows = [{"point": k, **place} for k, place in zip(data.schema.keypoints, pose(self_pairs(pool)), strict=True)]
    note = f"n = {count(len(pool))} objects, each turned onto their mean; sizes are those of their boxes."
    return pose_plot(rows, data.schema, title=name, note=note, errors=False)


def _cell(data: Dataset, pool: Pool | None, name: str) -> str:
    """Of the objects that count: how many have this point labelled, and how many of these are hidden."""
    if pool is None or pool.points is None or name not in data.schema.keypoints:
        return "–"
    visible = pool.points.visible[:, data.schema.keypoints.index(name)]
    labelled, hidden = int((visible > 0).sum()), int((visible == 1).sum())
    share = f"{count(labelled)} ({labelled / len(pool):.0%})" if len(pool) else "0"
    return f"{share}, {count(hidden)} hidden" if hidden else share
