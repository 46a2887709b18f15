"""How long the lab takes on 12,000 oriented truths and 40,000 detections: the AP table with TIDE and LRP, and the rest.

Objects are drawn: 300 pictures with 40 vehicles each in four classes. Of 40,000 detections six in ten sit near a truth
(centre, sides and angle off by a few per cent, one in ten with another class), the others anywhere with lower scores.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects

PICTURES, TRUTHS, DETECTIONS = 300, 12_000, 40_000
CLASSES = ("car", "van", "truck", "bus")
SIZE = (1024, 1024)
CAP = 500
REPEATS = 5
LIMIT_S = 3.0


def scene(seed: int = 0) -> tuple[list[Objects], list[Objects]]:
    """Truth and detections per picture."""
    rng = np.random.default_rng(seed)
    each = np.diff(np.linspace(0, DETECTIONS, PICTURES + 1).astype(int))
    truth, found = [], []
    for m in each.tolist():
        n = TRUTHS // PICTURES
        sides = rng.uniform([30, 12], [60, 25], (n, 2))
        boxes = np.column_stack([rng.uniform(30, 994, (n, 2)), sides, rng.uniform(-np.pi / 2, np.pi / 2, n)])
        labels = rng.choice(len(CLASSES), n, p=[0.7, 0.15, 0.1, 0.05])
        truth.append(Objects(SIZE, labels, obb_hull(boxes), obbs=boxes))
        source, astray = rng.integers(0, n, m), rng.random(m) < 0.4
        near = boxes[source] + rng.normal(0, [1.5, 1.5, 2.0, 1.0, 0.06], (m, 5))
        near[astray, :2] = rng.uniform(30, 994, (int(astray.sum()), 2))
        names = np.where(rng.random(m) < 0.1, rng.integers(0, len(CLASSES), m), labels[source])
        scores = np.clip(rng.normal(np.where(astray, 0.35, 0.6), 0.15), 0.01, 0.99)
        found.append(Objects(SIZE, names, obb_hull(near), obbs=canonical_obb(near), scores=scores))
    return truth, found


def measure(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Wall and processor seconds of `REPEATS` runs after one that warms up, and the last result."""
    result = work()
    wall, cpu = [], []
    for _ in range(REPEATS):
        began, used = time.perf_counter(), time.process_time()
        result = work()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    times = {"median_s": statistics.median(wall), "best_s": min(wall), "cpu_s": statistics.median(cpu)}
    return {k: round(v, 3) for k, v in times.items()}, result


def run() -> dict[str, Any]:
    from tercel.metrics.ap import judge_boxes
    from tercel.metrics.errors import placement
    from tercel.metrics.lrp import lrp_from
    from tercel.metrics.occost import occost
    from tercel.metrics.tide import tide_from

    load = os.getloadavg()[0]
    truth, found = scene()

    def table(resamples: int) -> tuple[Any, Any, Any]:
        caps = (1, 10, CAP)
        r = judge_boxes(truth, found, CLASSES, geometry="oriented", max_detections=caps, resamples=resamples)
        parts = (f(r.matching, CLASSES, resamples=resamples) for f in (tide_from, lrp_from))
        return r, *parts

    rows: list[dict[str, Any]] = []
    times, (report, errors, lrp) = measure(lambda: table(200))
    keys = {"AP": report["AP"], "dAP_Loc": errors["dAP_Loc"], "oLRP": lrp["oLRP"]}
    rows.append({"what": "AP table, TIDE and LRP, 200 resamples (intervals)", **times,
                 **{k: round(v, 4) for k, v in keys.items()}})  # fmt: skip
    single: dict[str, Callable[[], Any]] = {
        "the same without intervals": lambda: table(0),
        "of it: TIDE, 200 resamples": lambda: tide_from(report.matching, CLASSES),
        "of it: LRP, 200 resamples": lambda: lrp_from(report.matching, CLASSES),
        "besides: errors of matched boxes and AP with each fixed, 200 resamples": lambda: placement(
            truth, found, CLASSES, cap=CAP
        ),
        "besides: OC-cost at score .4, 1000 resamples": lambda: occost(truth, found, CLASSES, score=0.4, cap=CAP),
    }
    rows += [{"what": what, **measure(work)[0]} for what, work in single.items()]
    return {
        "title": f"The lab: {PICTURES:,} pictures, {TRUTHS:,} oriented truths, {DETECTIONS:,} detections",
        "rows": rows,
        "notes": [
            f"Wall seconds of {REPEATS} runs within one process after one that warms up; wanted for the first row: "
            f"under {LIMIT_S:g} s. cpu_s: all threads.",
            "The AP table holds AP at .50 ... .95 per class and size, of the oriented boxes and of their hulls.",
            f"Load of the machine before the runs: {load:.1f} on {os.cpu_count()} cores.",
        ],
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
