"""Real footage: a tennis ball of about 10 px in 1280x720 broadcast frames, 199 frames to train on and 68 to test on.

Runs 0 to 2 train, run 3 tests. The network begins with weights from generated rallies (tennis), which no test frame
touches. T = 1, 3 and 5 have the same trunk; the number of parameters differs by the first layer only.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks.common import SCRATCH, SHARED, tercel
from tercel.data.rallies import make_rallies

DATA = SHARED / "data/tennis-ball-roboflow"
TRAIN, TEST = f"sequence:{DATA}#0,1,2", f"sequence:{DATA}#3"
FRAMES = tuple(int(t) for t in os.environ.get("TERCEL_BENCH_FRAMES", "1,3,5").split(","))


def one(frames: int, out: Path) -> dict[str, Any]:
    """Pre-train on generated rallies, then train on the real ones; the scores of the last weights on the test run."""
    data = SCRATCH / "tennis-rallies"
    make_rallies(data, splits={"train": 24, "val": 4}, frames=90, size=(288, 512), sport="tennis", seed=0)
    name = f"t{frames}"
    for folder in (out / f"{name}-pre", out / name):
        shutil.rmtree(folder, ignore_errors=True)
    clip = ["--set", f"model.clip.frames={frames}"]
    seconds, _ = tercel(
        "train", "shuttle_heatmap", *clip, "--train", f"tracknet:{data}#train", "--val", f"tracknet:{data}#val",
        "--set", "train.epochs=8", "--set", "model.clip.hop=3", "--out", str(out), "--name", f"{name}-pre",
    )  # fmt: skip
    more, result = tercel(
        "train", "shuttle_heatmap", *clip, "--train", TRAIN, "--val", TEST, "--start", str(out / f"{name}-pre"),
        "--set", "train.epochs=40", "--set", "train.evaluate_every=10", "--set", "train.lr=0.001",
        "--out", str(out), "--name", name,
    )  # fmt: skip
    info = json.loads((out / name / "run.json").read_text())
    return {"seconds": seconds + more, "last": result["last"], "parameters": info["parameters"]}


def run() -> dict[str, Any]:
    out = SCRATCH / "tennis"
    rows = []
    for t in FRAMES:
        r = one(t, out)
        rules: dict[str, dict[str, Any]] = {}
        for s in r["last"]:
            if set(s["where"]) == {"rule"}:
                rules.setdefault(s["where"]["rule"], {})[s["name"]] = s
        for rule, scores in rules.items():
            f1 = scores["F1"]
            interval = f" ({f1['low']:.3f}–{f1['high']:.3f})" if f1["low"] is not None else ""
            row: dict[str, Any] = {"T": t, "rule": rule, "F1": f"{f1['value']:.3f}{interval}"}
            row |= {k: round(scores[k]["value"], 3) for k in ("precision", "recall", "accuracy", "RMS_error")}
            rows.append(row | {"wall s": round(r["seconds"]), "parameters (M)": round(r["parameters"] / 1e6, 2)})
    notes = [
        "Last weights; nothing was chosen on the test run. Every frame of it shows a ball: no true negatives.",
        "In brackets: 95 % bootstrap interval over blocks of frames of the one test run.",
        "Aim: F1 >= .90 under tracknet_v2_v3. wall s: both trainings.",
    ]
    return {"title": "Real footage: a tennis ball", "rows": rows, "notes": notes}
