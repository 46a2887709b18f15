"""Generated turtles, six points: train on some turtles, judge on others over other grounds, from scratch, 256 px."""

from __future__ import annotations

import json
import shutil
from typing import Any

from benchmarks.common import SCRATCH, SEEDS, overall, spread, tercel
from tercel.core.files import read_json
from tercel.data.turtles import SOURCES, make_turtles, shared_sources

SPLITS = {"train": 6000, "val": 80, "test": 200}
SHOWN = ("OKS_AP", "OKS_AP50", "OKS_AP75", "PCK@.05", "PCK@.1", "swap_rate", "box_AP")


def one(seed: int, data: str) -> dict[str, Any]:
    """Train with one seed and judge the last weights on the test split."""
    out = SCRATCH / "turtles-runs"
    shutil.rmtree(out / f"seed{seed}", ignore_errors=True)
    words = ["train", "turtle", "--train", f"{data}#train", "--val", f"{data}#val", "--out", str(out)]
    seconds, _ = tercel(*words, "--name", f"seed{seed}", "--set", f"train.seed={seed}")
    info = json.loads((out / f"seed{seed}/run.json").read_text())
    words = ["--data", f"{data}#test", "--checkpoint", "last", "--out", str(out / f"seed{seed}/test")]
    _, last = tercel("eval", str(out / f"seed{seed}"), *words)
    scores = overall(last["scores"])
    row: dict[str, Any] = {"what": f"tercel turtle, seed {seed}"} | {n: spread(scores[n]) for n in SHOWN}
    row["mean error px"] = round(scores["point_error_px"]["value"], 2)
    return row | {"wall s": round(seconds), "parameters (M)": round(info["parameters"] / 1e6, 2)}


def run() -> dict[str, Any]:
    folder = make_turtles(SCRATCH / "turtles", seed=0, splits=SPLITS)
    sources = read_json(folder / SOURCES)["pictures"]
    both = len(shared_sources(sources))
    sprites = {split: len({s for r in sources if r["split"] == split for s in r["sprites"]}) for split in SPLITS}
    rows = [one(seed, f"coco:{folder}") for seed in SEEDS]
    notes = [
        "`tercel train turtle --train coco:turtles#train --val coco:turtles#val`, whole command; judged on the test "
        "split, last (averaged) weights. Wanted: OKS_AP >= .95 within 300 s of training.",
        f"{SPLITS['train']} training pictures of {sprites['train']} turtles, {SPLITS['test']} test pictures of "
        f"{sprites['test']} others, every picture on a ground of its own. Sprites and grounds that two splits share: "
        f"{both}. Sigma .05 for every point.",
        "In brackets: 95 % bootstrap interval over the test pictures. Gains, rate and length of the training were "
        "chosen on 300 generated pictures of another seed.",
    ]
    return {"title": "Generated turtles with six points", "rows": rows, "notes": notes}
