"""How many augmented pictures per second the loader delivers, beside a widely used peer's loader.

    python -m benchmarks.loader_speed [path to shared data]

640 px, batch 16, two workers, mosaic on every picture, scale, shift, mirror and colour changes; blood cells (bccd, 292
pictures of 480 x 640). Nothing is trained: batches are pulled as fast as they come. The peer (AGPL) is never imported:
it runs in an environment of its own, named by TERCEL_PEER_PYTHON, through a script that asks its public functions for
their default training loader. Both sides are timed in turn, in fresh processes, and the median round counts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from defusedxml import ElementTree

SIZE, BATCH, WORKERS, EPOCHS, ROUNDS = 640, 16, 2, 4, 3
PEER_NAME = "peer (its defaults)"

OURS = """
import json, sys, time
import torch
from tercel.config import Augment, Data
from tercel.data.loader import Loader
from tercel.data.source import read
source, size, batch, workers, epochs, cache_gb = json.loads(sys.argv[1])
data = Data(size=(size, size), workers=workers, cache_gb=cache_gb, cache_dir=sys.argv[2])
loader = Loader(read(source), data, Augment(mosaic=1.0), batch, seed=0)
seconds, used, pictures = [], [], 0
for e in range(epochs):
    began, busy, pictures = time.perf_counter(), time.process_time(), 0
    for b in loader.epoch(e):
        pictures += len(b.tensor())
    seconds.append(time.perf_counter() - began)
    used.append(time.process_time() - busy)
print(json.dumps([pictures, seconds, used]))
"""

PEER = """
import json, sys, time
import psutil
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_dataloader, build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
source, size, batch, workers, epochs, cache = json.loads(sys.argv[1])
cfg = get_cfg(overrides={"imgsz": size, "workers": workers, "task": "detect", "cache": cache})
data = check_det_dataset(source, autodownload=False)
dataset = build_yolo_dataset(cfg, data["train"], batch, data, mode="train")
loader = build_dataloader(dataset, batch, workers, shuffle=True, device="cpu", pin_memory=False)
def cpu():
    me = psutil.Process()
    return sum(t.user + t.system for t in (p.cpu_times() for p in [me, *me.children(recursive=True)]))
seconds, used, pictures = [], [], 0
for e in range(epochs):
    began, busy, pictures = time.perf_counter(), cpu(), 0
    for b in loader:
        pictures += len(b["img"])
    seconds.append(time.perf_counter() - began)
    used.append(cpu() - busy)
print(json.dumps([pictures, seconds, used]))
"""


def yolo_copy(bccd: Path, out: Path) -> Path:
    """The trainval split of a VOC folder as a YOLO data set (pictures linked); returns data.yaml."""
    names = ["WBC", "RBC", "Platelets"]
    ids = (bccd / "ImageSets" / "Main" / "trainval.txt").read_text().split()
    for kind in ("images", "labels"):
        (out / kind / "train").mkdir(parents=True)
    for i in ids:
        (out / "images" / "train" / f"{i}.jpg").symlink_to((bccd / "JPEGImages" / f"{i}.jpg").resolve())
        tree = ElementTree.parse(bccd / "Annotations" / f"{i}.xml")
        w, h = (int(tree.findtext(f"size/{k}")) for k in ("width", "height"))
        rows = []
        for o in tree.iter("object"):
            x1, y1, x2, y2 = (float(o.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax"))
            if x2 > x1 and y2 > y1:
                box = ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h)
                rows.append(f"{names.index(o.findtext('name'))} " + " ".join(f"{v:.6f}" for v in box))
        (out / "labels" / "train" / f"{i}.txt").write_text("\n".join(rows))
    lines = [f"path: {out}", "train: images/train", "val: images/train", "names:"]
    lines += [f"  {i}: {n}" for i, n in enumerate(names)]
    (out / "data.yaml").write_text("\n".join(lines) + "\n")
    return out / "data.yaml"


def time_one(python: str, script: str, arguments: list[Any], scratch: Path) -> tuple[float, float, float]:
    """From a process of its own: pictures/s in the first epoch, pictures/s and CPU ms per picture in the later ones."""
    env = os.environ | {"YOLO_CONFIG_DIR": str(scratch), "YOLO_VERBOSE": "false", "YOLO_OFFLINE": "true"}
    command = [python, "-c", script, json.dumps([*arguments[:1], SIZE, BATCH, WORKERS, EPOCHS, *arguments[1:]])]
    done = subprocess.run([*command, str(scratch / "cache")], capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise RuntimeError(f"{python} failed:\n{done.stderr[-2000:]}")
    pictures, seconds, used = json.loads(done.stdout.splitlines()[-1])
    return pictures / seconds[0], pictures / statistics.mean(seconds[1:]), 1e3 * statistics.mean(used[1:]) / pictures


def run(shared: Path | None = None, rounds: int = ROUNDS) -> dict[str, Any]:
    """Pictures per second and CPU time per picture of both loaders, and the ratio of ours to the peer's default."""
    shared = shared or Path(os.environ.get("TERCEL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    bccd = shared / "data" / "bccd" / "BCCD"
    peer = os.environ.get("TERCEL_PEER_PYTHON")
    ours = f"voc:{bccd}#trainval"
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        yaml = str(yolo_copy(bccd, scratch / "yolo"))
        sides: dict[str, tuple[str, str, list[Any]]] = {
            "tercel (pictures in RAM, default)": (sys.executable, OURS, [ours, 4.0]),
            "tercel (decoded pictures on disk)": (sys.executable, OURS, [ours, 0.0]),
        }
        if peer:
            sides |= {PEER_NAME: (peer, PEER, [yaml, False]), "peer (cache=ram)": (peer, PEER, [yaml, "ram"])}
        taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, (python, script, arguments) in sides.items():
                taken[name].append(time_one(python, script, arguments, scratch))
    middle = {name: [statistics.median(column) for column in zip(*t, strict=True)] for name, t in taken.items()}
    rows = [
        {
            "loader": name,
            "first epoch (pictures/s)": round(first, 1),
            "later (pictures/s)": round(later, 1),
            "range": f"{min(t[1] for t in taken[name]):.0f}..{max(t[1] for t in taken[name]):.0f}",
            "ratio": round(later / middle[PEER_NAME][1], 2) if peer else None,
            "CPU ms/picture": round(cpu, 2),
        }
        for name, (first, later, cpu) in middle.items()
    ]
    notes = [
        f"{SIZE} px, batch {BATCH}, {WORKERS} workers, mosaic on every picture, 292 pictures of 480 x 640; "
        f"medians of {rounds} rounds in turn, each a fresh process of {EPOCHS} epochs",
    ]
    if not peer:
        notes.append("TERCEL_PEER_PYTHON names no environment with the peer: ours alone was measured")
    return {"title": "Loader alone", "rows": rows, "notes": notes}


if __name__ == "__main__":
    shared_data = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    print(json.dumps(run(shared_data, int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS), indent=1))
