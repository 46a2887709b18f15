"""Flies with 32 points (DeepPoseKit): train on the first 80 pictures of the file, judge on the other 20, from scratch.

The command is the one a new user types, timed from start to end. Judged are the *last* weights, which nothing chose.
The peer's scores and time (an AGPL detector, yolov8n-pose, from scratch on the same 80 pictures) are quoted.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from benchmarks.common import SCRATCH, SEEDS, SHARED, overall, spread, tercel

FLIES = SHARED / "data/deepposekit-fly"
TRAIN, VAL = f"deepposekit:{FLIES}#0:80", f"deepposekit:{FLIES}#80:100"
SHOWN = ("PCK@.05", "PCK@.1", "PCK@.2", "swap_rate")


def one(seed: int) -> dict[str, Any]:
    """Train with one seed and judge the last weights."""
    out = SCRATCH / "flies"
    shutil.rmtree(out / f"seed{seed}", ignore_errors=True)
    words = ["train", "keypoints_heatmap", "--train", TRAIN, "--val", VAL, "--out", str(out), "--name", f"seed{seed}"]
    seconds, _ = tercel(*words, "--set", f"train.seed={seed}")
    info = json.loads((out / f"seed{seed}/run.json").read_text())
    _, last = tercel("eval", str(out / f"seed{seed}"), "--checkpoint", "last", "--out", str(out / f"seed{seed}/last"))
    scores = overall(last["scores"])
    row: dict[str, Any] = {"what": f"tercel keypoints_heatmap, seed {seed}"} | {n: spread(scores[n]) for n in SHOWN}
    row["mean error px"] = round(scores["point_error_px"]["value"], 2)
    return row | {"wall s": round(seconds), "parameters (M)": round(info["parameters"] / 1e6, 2)}


def run() -> dict[str, Any]:
    rows = [one(seed) for seed in SEEDS]
    peer = "quoted: yolov8n-pose, from scratch, 150 epochs"
    rows.append({"what": peer, "PCK@.05": ".098", "PCK@.1": ".206", "wall s": 325})
    notes = [
        "`tercel train keypoints_heatmap --train deepposekit:../shared/data/deepposekit-fly#0:80 --val "
        "deepposekit:../shared/data/deepposekit-fly#80:100`, whole command: 192x192, a fly per picture, from scratch. "
        "Wanted: PCK@.05 >= .90 within 600 s; aim .95.",
        "The size is the longer side of the hull of the fly's points, since the labels have no boxes. In brackets: the "
        "95 % bootstrap interval over the 20 pictures, 32 points each. swap_rate: points nearer to the place of their "
        "partner on the other side than to their own.",
        "Judged are the last (averaged) weights. The 20 pictures are evaluated during training for the log, and that "
        "steers nothing.",
    ]
    return {"title": "Flies with 32 points, 80 pictures for training", "rows": rows, "notes": notes}
