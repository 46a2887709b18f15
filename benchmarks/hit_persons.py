"""Persons in thermal drone pictures (HIT-UAV, class Person) through odgt: the recipe `crowd`, from scratch, 512 px.

The commands are those that a new user types: convert, train. Judged are the *last* weights, which nothing chose. Beside
it stand the persons of the oriented benchmark, ours and the quoted peer's.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from benchmarks.common import SCRATCH, SEEDS, SHARED, overall, spread, tercel

HIT_UAV = SHARED / "data/hit-uav"
SETTINGS = (
    "data.size=416x512",
    "model.strides=4,8,16,32",
    "train.epochs=8",
    "train.batch=4",
    "evaluate.suppress_iou=0.5",
)
SHOWN = ("AP50", "MR-2", "JI", "AP")


def run() -> dict[str, Any]:
    data, out = SCRATCH / "hit-persons", SCRATCH / "hit-persons-runs"
    shutil.rmtree(data, ignore_errors=True)
    for split in ("train", "val"):
        words = ["convert", f"hit_uav:{HIT_UAV}#{split}", str(data), "--to", "odgt", "--classes", "Person"]
        tercel(*words, "--split", split)
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        shutil.rmtree(out / f"seed{seed}", ignore_errors=True)
        words = ["train", "crowd", "--train", f"odgt:{data}#train", "--val", f"odgt:{data}#val", "--out", str(out)]
        settings = [w for s in (*SETTINGS, f"train.seed={seed}") for w in ("--set", s)]
        seconds, _ = tercel(*words, "--name", f"seed{seed}", *settings)
        info = json.loads((out / f"seed{seed}/run.json").read_text())
        words = ["eval", str(out / f"seed{seed}"), "--checkpoint", "last", "--out", str(out / f"seed{seed}/last")]
        _, last = tercel(*words)
        scores = overall(s for s in last["scores"] if {"persons", "overlap", "occlusion"}.isdisjoint(s["where"]))
        row: dict[str, Any] = {"what": f"tercel crowd, seed {seed}"} | {n: spread(scores[n]) for n in SHOWN}
        rows.append(row | {"wall s": round(seconds), "parameters (M)": round(info["parameters"] / 1e6, 2)})
    rows.append(
        {"what": "quoted: yolov8n-obb, 12 epochs, oriented boxes", "AP50": ".711", "AP": ".405", "wall s": 1229}
    )
    notes = [
        "`tercel convert hit_uav:...#train persons --to odgt --classes Person --split train`, then `tercel train "
        f"crowd` with {', '.join(SETTINGS)}. 677 pictures for training, 290 to judge; DontCare regions are ignored.",
        "AP50, MR-2 and JI as CrowdHuman defines them, AP as COCO does, of axis-aligned boxes; intervals over "
        "pictures. The peer's are of oriented boxes, by COCO; the section on HIT-UAV above has ours of both kinds.",
        "Last (averaged) weights. The epochs were chosen by the clock, before the first run.",
    ]
    return {"title": "Persons from the air through odgt", "rows": rows, "notes": notes}
