"""Encode ceiling of the ball heads: truth encoded, answered perfectly, decoded; how far off in the original frame?"""

from __future__ import annotations

from typing import Any

import numpy as np

from tercel.config import BallGrid, BallHeatmap, Clip, Evaluate
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.core.warp import Warp
from tercel.models.heads import build_head

ORIGINAL, CANVAS, POINTS = (720, 1280), (288, 512), 10_000
HEADS = {
    "heatmap, stride 4": (BallHeatmap(), (4,)),
    "heatmap, stride 2": (BallHeatmap(stride=2), (4,)),
    "heatmap, stride 1": (BallHeatmap(stride=1), (4,)),
    "grid, stride 8, sigmoid": (BallGrid(), (8,)),
    "grid, stride 32, sigmoid": (BallGrid(), (32,)),
    "grid, stride 32, 16 bins": (BallGrid(position="dfl", position_loss="dfl"), (32,)),
}


def places() -> np.ndarray:
    """f32 [10000,2] px of the original: random ones, cell borders, and the frame's edges and corners."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 1, (POINTS, 2)) * (ORIGINAL[1], ORIGINAL[0])
    step = 32 * ORIGINAL[1] / CANVAS[1]
    xy[:2000] = np.round(xy[:2000] / step) * step
    xy[2000:2500, 0] = rng.choice([0, ORIGINAL[1]], 500)
    xy[2500:3000, 1] = rng.choice([0, ORIGINAL[0]], 500)
    return xy.astype(np.float32)


def run() -> dict[str, Any]:
    warp = Warp.letterbox(ORIGINAL, CANVAS)
    xy, rows = places(), []
    for name, (config, strides) in HEADS.items():
        head: Any = build_head(config, Schema(("ball",)), strides, Clip(frames=1))
        worst, total = 0.0, 0.0
        for start in range(0, POINTS, 500):
            part = xy[start : start + 500]
            objects = [
                warp.objects(Objects(ORIGINAL, [0], [[*p, *p]], points=[[p]], visible=[[2]], frame=[0])) for p in part
            ]
            found, _ = head.decode(head.ideal(head.encode(objects), CANVAS), Evaluate())
            back = np.concatenate([warp.inverse().points(f.points[:1, 0]) for f in found])
            error = np.linalg.norm(back - part, axis=1)
            worst, total = max(worst, float(error.max())), total + float(error.sum())
        rows.append({"head": name, "mean px": round(total / POINTS, 4), "worst px": round(worst, 4)})
    notes = ["10,000 places in 1280x720, canvas 512x288: random ones, cell borders, edges. Wanted: below .1 px."]
    return {"title": "Encode ceiling of the ball heads", "rows": rows, "notes": notes}
