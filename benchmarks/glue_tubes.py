"""Tubes of glue with two points, 15 pictures for training and 23 for judging: a smoke run, and no more."""

from __future__ import annotations

import shutil
from typing import Any

from benchmarks.common import SCRATCH, SHARED, overall, spread, tercel

TUBES = SHARED / "data/glue-tubes-keypoints"
SHOWN = ("OKS_AP", "OKS_AP50", "PCK@.05", "PCK@.1", "PCK@.2", "box_AP50")


def run() -> dict[str, Any]:
    out = SCRATCH / "glue-tubes"
    shutil.rmtree(out, ignore_errors=True)
    train, test = f"points_json:{TUBES}#train", f"points_json:{TUBES}#test"
    words = ["train", "keypoints", "--train", train, "--val", test, "--out", str(out), "--name", "smoke"]
    seconds, _ = tercel(*words)
    _, last = tercel("eval", str(out / "smoke"), "--checkpoint", "last", "--out", str(out / "smoke/last"))
    words = ["predict", str(out / "smoke"), str(TUBES / "test/images"), "--out", str(out / "found")]
    spent, _ = tercel(*words)
    scores = overall(last["scores"])
    row: dict[str, Any] = {"what": "tercel keypoints"} | {n: spread(scores[n]) for n in SHOWN}
    row |= {"training s": round(seconds), "predict s": round(spent), "drawn": len(list(out.glob("found/drawn/*")))}
    notes = [
        "A smoke run: 15 pictures are too few to learn from scratch, and the numbers say only that the recipe "
        "`keypoints` trains, is judged and predicts on pictures of 1920x1080 with several objects each.",
        "Last weights on the 23 test pictures, 95 % bootstrap intervals over them. Default settings of the recipe.",
    ]
    return {"title": "Tubes of glue with two points: a smoke run", "rows": [row], "notes": notes}
