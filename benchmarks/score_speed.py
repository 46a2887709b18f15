"""How long `tercel score` takes from the shell on a COCO-sized validation set, beside hotcoco's own file-to-score time.

Files are generated: 5,000 pictures, 36,781 truths (1 % crowd), 43,700 detections, 80 classes, as in COCO val2017 with a
typical detector's output.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PICTURES, TRUTHS, DETECTIONS, CLASSES = 5000, 36_781, 43_700, 80
REPEATS = 5
LIMIT_S = 3.0

HOTCOCO = """
import sys, hotcoco
gt = hotcoco.COCO(sys.argv[1])
ev = hotcoco.COCOeval(gt, gt.load_res(sys.argv[2]), "bbox")
ev.evaluate(), ev.accumulate(), ev.summary_lines()
"""


def write_files(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """COCO truth and result list in `folder`."""
    rng = np.random.default_rng(seed)
    picture, label = np.sort(rng.integers(0, PICTURES, TRUTHS)), rng.integers(0, CLASSES, TRUTHS)
    wh = np.exp(rng.normal(4, 1, (TRUTHS, 2))).clip(4, 400).round(2)
    xy = (rng.random((TRUTHS, 2)) * (640 - wh)).round(2)
    crowd = rng.random(TRUTHS) < 0.01
    annotations = [
        {"id": i + 1, "image_id": int(picture[i]) + 1, "category_id": int(label[i]) + 1, "iscrowd": int(crowd[i]),
         "bbox": [*xy[i].tolist(), *wh[i].tolist()], "area": round(float(wh[i].prod()), 2)}
        for i in range(TRUTHS)
    ]  # fmt: skip
    # Nine detections in ten sit near a truth, well enough for IoUs from .3 to .95; hits score higher than the rest.
    source, miss = rng.integers(0, TRUTHS, DETECTIONS), rng.random(DETECTIONS) < 0.1
    jitter = rng.normal(0, 0.07, (DETECTIONS, 4))
    boxes = np.concatenate([xy[source] + jitter[:, :2] * wh[source], wh[source] * np.exp(jitter[:, 2:])], axis=1)
    found = np.where(miss, rng.integers(0, CLASSES, DETECTIONS), label[source])
    scores = 1 / (1 + np.exp(-rng.normal(np.where(miss, -1, 1), 1)))
    results = [
        {"image_id": int(picture[source[i]]) + 1, "category_id": int(found[i]) + 1, "score": round(float(scores[i]), 5),
         "bbox": boxes[i].round(2).tolist()}
        for i in range(DETECTIONS)
    ]  # fmt: skip
    images = [{"id": i + 1, "width": 640, "height": 640, "file_name": f"{i + 1:06}.jpg"} for i in range(PICTURES)]
    categories = [{"id": c + 1, "name": f"class {c}"} for c in range(CLASSES)]
    truth, pred = folder / "truth.json", folder / "found.json"
    truth.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    pred.write_text(json.dumps(results))
    return truth, pred


def measure(command: list[str]) -> tuple[dict[str, float], str]:
    """Wall and processor time of a whole process, and what it printed."""
    wall, work, output = [], [], ""
    for _ in range(REPEATS):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.perf_counter() - start)
        work.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    times = {"median_s": statistics.median(wall), "best_s": min(wall), "cpu_s": statistics.median(work)}
    return {k: round(v, 2) for k, v in times.items()}, output


def run() -> dict[str, Any]:
    """Wall times of whole processes, start-up and reading included."""
    rows, load = [], os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        truth, pred = write_files(Path(folder))
        judge = [sys.executable, "-m", "tercel.cli", "score", "--truth", f"coco:{truth}", "--pred", str(pred), "--json"]
        for what, command in (
            ("tercel score, 200 resamples (intervals)", judge),
            ("tercel score, no intervals", [*judge, "--resamples", "0"]),
            ("hotcoco alone, no table, no intervals", [sys.executable, "-c", HOTCOCO, str(truth), str(pred)]),
        ):
            times, output = measure(command)
            row: dict[str, Any] = {"what": what, **times}
            if output:
                ap = json.loads(output)["scores"][0]
                named = ("AP", "value"), ("low", "low"), ("high", "high")
                row |= {k: ap[v] and round(ap[v], 4) for k, v in named}
            rows.append(row)
    return {
        "title": f"tercel score: {PICTURES:,} pictures, {TRUTHS:,} truths, {DETECTIONS:,} detections",
        "rows": rows,
        "notes": [
            f"Whole processes, {REPEATS} runs each; wanted: under {LIMIT_S:g} s wall; cpu_s: all threads.",
            f"Load of the machine before the runs: {load:.1f} on {os.cpu_count()} cores.",
            "The intervals cover every score: over all classes, per class, per size and per cap.",
        ],
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
