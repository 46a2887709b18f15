"""`tercel demo`: the whole way from nothing to a report, on generated data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tercel import api, recipes
from tercel.core.finding import TercelError
from tercel.data import synth
from tercel.engine.fit import Observer
from tercel.engine.run import Run

PICTURES = 400
CLASSES = ("disc", "square", "cross")
SHARES = {"train": 0.8, "val": 0.17, "test": 0.03}


def demo(
    task: str,
    out: Path,
    settings: Sequence[str] = (),
    observers: Sequence[Observer] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Run:
    """Generate, train, evaluate, predict; returns the run, whose report.html stands ready.

    Raises:
        TercelError: an unknown task; `out` holding other data than the demo's.
    """
    if task != "boxes":
        raise TercelError(f"there is no demo {task!r}", "there is: boxes")
    recipe = recipes.get("boxes_demo", settings)
    data = synth.make_boxes(out / "boxes", n=PICTURES, seed=0, size=(240, 320), classes=CLASSES, splits=SHARES)
    say(f"data: {data}")
    command = " ".join(["tercel demo", task, *(f"--set {s}" for s in settings)])
    run = api.train(
        recipe, f"yolo:{data}#train", f"yolo:{data}#val", out=out / "runs", command=command, observers=observers
    )
    if run.info["status"] != "finished":
        return run
    predicted = api.predict(run.path, [str(out / "boxes" / "images" / "test")], out=run.path / "predictions")
    say(f"predictions: {predicted.folder}")
    return run
