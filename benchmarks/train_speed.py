"""Training throughput beside a widely used AGPL detector of about equal size (yolov8n), in turn, in one run.

Same pictures (blood cells), same input size, same batch; each side with its own defaults otherwise. Timed is the
training of whole epochs as the loops report them, without the first epoch (caches, warm-up) and without evaluation.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import BCCD, peer_python, timed
from benchmarks.loader_speed import yolo_copy

SIZE, BATCH, EPOCHS, ROUNDS = 320, 16, 4, 2

OURS = """
import json, sys, time
from pathlib import Path
from tercel import recipes
from tercel.data.source import read
from tercel.engine import device
from tercel.engine.dist import World
from tercel.engine.fit import Fit
from tercel.engine.run import Run
source, out, size, batch, epochs, precision = json.loads(sys.argv[1])
recipe = recipes.get("boxes", [f"data.size={size}x{size}", f"train.batch={batch}", f"train.epochs={epochs}",
    f"train.precision={precision}", "train.evaluate_every=1000"])
class Clock:
    def __init__(self): self.spent = {}
    def on_start(self, run, updates, step): pass
    def on_step(self, info):
        s, n = self.spent.get(info.epoch, (0.0, 0))
        self.spent[info.epoch] = (s + info.seconds, n + info.pictures)
    def on_eval(self, info): pass
    def on_message(self, message): pass
    def on_end(self): pass
clock, data, runtime = Clock(), read(source), device.choose(recipe.train)
fit = Fit(recipe, data, data, Run.create(Path(out), recipe), runtime, World(runtime.device), (clock,))
fit._evaluate = fit._save = lambda: None
fit.run()
rates = [n / s for e, (s, n) in clock.spent.items() if e]
print(json.dumps([rates, sum(p.numel() for p in fit.state.model.parameters())]))
"""

PEER = """
import json, sys, time
from ultralytics import YOLO
source, out, size, batch, epochs, threads = json.loads(sys.argv[1])
if threads:  # by default it leaves one core to its loader
    import ultralytics.utils.torch_utils as used
    used.NUM_THREADS = int(threads)
spent, began, pictures = [], 0.0, 0
def start(trainer):
    global began
    began = time.perf_counter()
def stop(trainer):
    global pictures
    spent.append(time.perf_counter() - began)
    pictures = len(trainer.train_loader.dataset)
model = YOLO("yolov8n.yaml")
model.add_callback("on_train_epoch_start", start)
model.add_callback("on_train_epoch_end", stop)
model.train(data=source, imgsz=size, batch=batch, epochs=epochs, device="cpu", workers=2, val=False, plots=False,
    save=False, project=out, close_mosaic=0, verbose=False)
rates = [pictures / s for s in spent[1:]]
print(json.dumps([rates, sum(p.numel() for p in model.model.parameters())]))
"""


def run() -> dict[str, Any]:
    peer = peer_python()
    rates: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        yaml = str(yolo_copy(BCCD, Path(folder) / "yolo"))
        source = f"voc:{BCCD}#trainval"
        sides = {
            "tercel boxes (bf16)": (sys.executable, OURS, source, "auto"),
            "tercel boxes (fp32)": (sys.executable, OURS, source, "fp32"),
            "peer yolov8n (its defaults, fp32)": (peer, PEER, yaml, ""),
            "peer yolov8n (two threads, fp32)": (peer, PEER, yaml, "2"),
        }
        for _ in range(ROUNDS):
            for name, (python, script, data, precision) in sides.items():
                arguments = json.dumps([data, folder, SIZE, BATCH, EPOCHS, precision])
                env = {"YOLO_CONFIG_DIR": folder, "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
                _, out = timed([python, "-c", script, arguments], **env)
                values, sizes[name] = json.loads(out.splitlines()[-1])
                rates.setdefault(name, []).extend(values)
    base = statistics.median(rates["peer yolov8n (its defaults, fp32)"])
    rows = [
        {
            "trainer": name,
            "parameters (M)": round(sizes[name] / 1e6, 2),
            "pictures/s": round(statistics.median(values), 1),
            "range": f"{min(values):.1f}..{max(values):.1f}",
            "ratio": round(statistics.median(values) / base, 2),
        }
        for name, values in rates.items()
    ]
    note = f"{SIZE} px, batch {BATCH}, blood cells (292 pictures), mosaic as each side's defaults have it; "
    note += f"medians over {ROUNDS} rounds in turn of {EPOCHS - 1} timed epochs each. Wanted: ratio >= 2."
    threads = "By default the peer computes with one thread on two cores and leaves the other to its loader; "
    threads += "with two it is in the last row. Ours computes with two and loads with two more threads."
    return {"title": "Training throughput", "rows": rows, "notes": [note, threads]}
