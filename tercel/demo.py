"""`tercel demo`: the whole way from nothing to a report, on generated data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tercel import api, recipes
from tercel.core.finding import TercelError
from tercel.data import crowds, rallies, synth, turtles, vehicles
from tercel.engine.fit import Observer
from tercel.engine.run import Run

TASKS = ("ball", "boxes", "crowd", "keypoints", "oriented")
PICTURES = 400
CLASSES = ("disc", "square", "cross")
SHARES = {"train": 0.8, "val": 0.17, "test": 0.03}
RALLIES = {"train": 32, "val": 6, "test": 1}  # each of another match: the network has to find any ball
FRAMES = 60
CROWDS = {"train": 400, "val": 80, "test": 12}  # none shares a person or a street with another
TURTLES = {"train": 1200, "val": 80, "test": 12}  # none shares a turtle with another


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
    if task not in TASKS:
        raise TercelError(f"there is no demo {task!r}", f"there is: {', '.join(TASKS)}")
    recipe = recipes.get(f"{task}_demo", settings)
    command = " ".join(["tercel demo", task, *(f"--set {s}" for s in settings)])
    if task == "ball":
        data = rallies.make_rallies(
            out / "ball", splits=RALLIES, frames=FRAMES, sport="table_tennis", seed=0, rallies_per_match=1
        )
        say(f"data: {data}")
        train, val, media = f"tracknet:{data}#train", f"tracknet:{data}#val", data / "test"
        media = sorted(media.rglob("*.mp4"))[0].parent
    elif task == "crowd":
        data = crowds.make_crowds(out / "crowd", splits=CROWDS, seed=0, size=(256, 320))
        say(f"data: {data}")
        train, val = (f"odgt:{data / f'annotation_{split}.odgt'}" for split in ("train", "val"))
        media = data / "Images" / "test_*.jpg"
    elif task == "keypoints":
        data = turtles.make_turtles(out / "keypoints", seed=0, splits=TURTLES)
        say(f"data: {data}")
        train, val, media = f"coco:{data}#train", f"coco:{data}#val", data / "test"
    elif task == "oriented":
        data = vehicles.make_vehicles(out / "oriented", n=PICTURES, seed=0, splits=SHARES)
        say(f"data: {data}")
        train, val, media = f"dota:{data}#train", f"dota:{data}#val", data / "test" / "images"
    else:
        data = synth.make_boxes(out / "boxes", n=PICTURES, seed=0, size=(240, 320), classes=CLASSES, splits=SHARES)
        say(f"data: {data}")
        train, val, media = f"yolo:{data}#train", f"yolo:{data}#val", out / "boxes" / "images" / "test"
    run = api.train(recipe, train, val, out=out / "runs", command=command, observers=observers)
    if run.info["status"] != "finished":
        return run
    predicted = api.predict(run.path, [str(media)], out=run.path / "predictions")
    say(f"predictions: {predicted.folder}")
    return run
