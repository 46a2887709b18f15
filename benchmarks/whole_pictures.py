"""A frame of 3840 x 2160 in tiles: time and memory of `tercel predict`, from the command line, network included."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks.common import SCRATCH
from tercel.data.synth import write_picture
from tercel.data.vehicles import draw_vehicles, make_vehicles

SIZE = (2160, 3840)
WATCH = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20)
sys.exit(code)
"""


def run() -> dict[str, Any]:
    data, out = SCRATCH / "vehicles", SCRATCH / "whole"
    make_vehicles(data, n=60, seed=3)
    shutil.rmtree(out, ignore_errors=True)
    words = [sys.executable, "-m", "tercel.cli"]
    few = ("train.epochs=2", "train.evaluate_every=2", "evaluate.resamples=0")
    subprocess.run(
        [*words, "train", "oriented_demo", "--train", f"dota:{data}#train", "--val", f"dota:{data}#val", "--out",
         str(out), "--name", "run", *(w for s in few for w in ("--set", s)), "--json"], check=True, capture_output=True,
    )  # fmt: skip
    write_picture(out / "frame.jpg", draw_vehicles(np.random.default_rng(5), SIZE).image)
    rows = []
    for what, sets in {
        "whole, shrunk to the network's input": (),
        "tiles of 768 px": ("evaluate.tiles.size=768",),
        "tiles of 768 px, mirrored too": ("evaluate.tiles.size=768", "evaluate.views.flip=true"),
    }.items():
        folder = out / f"predictions-{len(rows)}"
        command = [*words, "predict", str(out / "run"), str(out / "frame.jpg"), "--out", str(folder), "--json"]
        command += ["--min-score", "0.02", *(w for s in sets for w in ("--set", s))]
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", WATCH, *command], check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        answer, memory = done.stdout.strip().splitlines()
        rows.append({"what": what, "detections": json.loads(answer)["detections"], "wall s": round(seconds, 1),
                     "peak memory (GiB)": round(float(memory), 2)})  # fmt: skip
    notes = [
        "`tercel predict RUN frame.jpg --set evaluate.tiles.size=768 --min-score 0.02`, start of the process, decoding "
        "and the drawn copy included. The detector was trained for two epochs only: its detections are counted, not "
        "judged. Wanted: a frame of 4K within 4 GiB."
    ]
    return {"title": "Whole pictures: a frame of 3840 x 2160", "rows": rows, "notes": notes}
