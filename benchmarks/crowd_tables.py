"""Which assigner, which suppression? Every pair on generated crowds, at equal training time, over three seeds.

All networks are the recipe `crowd_demo` but for the assigner (or a branch for crowds). How many epochs each gets is
measured first: as many as fit into the same time. Each trained network is decoded with every suppression, its threshold
that of the recipe. The pair to compare with greedy + max-IoU is chosen on the validation pictures; all figures are of
the test pictures, which chose nothing.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.common import SCRATCH
from tercel import api, recipes
from tercel.config import Atss, BoxHead, Fcos, FreeAnchor, MaxIou, OneToOne, Ota, Recipe, SimOta, TaskAligned
from tercel.core.files import read_json, write_json
from tercel.core.objects import Objects
from tercel.core.suppress import Method
from tercel.data import source
from tercel.data.crowds import make_crowds
from tercel.data.turtles import SOURCES
from tercel.engine import checkpoint, device
from tercel.engine.evaluate import detect
from tercel.engine.run import Run
from tercel.engine.tasks import task_of
from tercel.metrics.crowd import judge_crowd
from tercel.metrics.stats import spread

SEEDS = tuple(int(s) for s in os.environ.get("TERCEL_CROWD_SEEDS", "0,1,2").split(","))
SECONDS = float(os.environ.get("TERCEL_CROWD_SECONDS", "75"))  # of training for each network
SPLITS = {"train": 320, "val": 60, "test": 120}
OVERLAP = 0.5
PERSON = 2.4  # height over width of the boxes that stand in for anchors
METHODS: tuple[Method, ...] = get_args(Method)
HEADS: dict[str, dict[str, Any]] = {
    "max-IoU": {"assigner": MaxIou(ratio=PERSON)},
    "ATSS": {"assigner": Atss()},
    "FCOS": {"assigner": Fcos()},
    "SimOTA": {"assigner": SimOta()},
    "OTA": {"assigner": Ota()},
    "FreeAnchor": {"assigner": FreeAnchor(ratio=PERSON)},
    "task-aligned": {"assigner": TaskAligned()},
    "one-to-one": {"assigner": OneToOne()},
    "task-aligned, density": {"assigner": TaskAligned(), "density": True},
    "max-IoU, pairs": {"assigner": MaxIou(ratio=PERSON), "pairs": True},
}
BASE: tuple[str, Method] = ("max-IoU", "greedy")
SCORES = ("AP50", "MR-2", "JI")
DRAWS = 100


def recipe_of(head: str, seed: int, epochs: int) -> Recipe:
    """The recipe of one network; it is evaluated at its end only."""
    light = recipes.get("crowd_demo")
    assert isinstance(light.model.head, BoxHead)
    train = replace(light.train, seed=seed, epochs=epochs, evaluate_every=epochs, sample_pictures=0)
    model = replace(light.model, head=replace(light.model.head, **HEADS[head]))
    return replace(light, model=model, train=train, evaluate=replace(light.evaluate, resamples=0))


def trained(head: str, seed: int, epochs: int, data: Path, out: Path) -> Run:
    name = f"{head.replace(', ', '-')}-{seed}"
    shutil.rmtree(out / name, ignore_errors=True)
    train, val = (f"odgt:{data / f'annotation_{split}.odgt'}" for split in ("train", "val"))
    return api.train(recipe_of(head, seed, epochs), train, val, out=out, name=name)


def step_seconds(run: Run) -> list[float]:
    """Of each update, data and all."""
    rows = run.read_log()
    return [r["seconds"] + r["data_seconds"] for r in rows if r["kind"] == "step"]


def paces(data: Path, out: Path) -> dict[str, int]:
    """Epochs of each head that fit into SECONDS, from an epoch each."""
    found = {}
    for head in HEADS:
        steps = step_seconds(trained(head, 0, 1, data, out / "pace"))
        found[head] = max(1, round(SECONDS / (statistics.median(steps[3:]) * len(steps))))
    return found


def answers(run: Run, split: str, data: Path) -> tuple[list[Objects], dict[Method, list[Objects]]]:
    """Truth, and what the last weights find under each suppression."""
    model, recipe, _, _ = checkpoint.load_detector(api.checkpoint_path(run, "last"))
    dataset = source.read(f"odgt:{data / f'annotation_{split}.odgt'}")
    runtime = device.choose(recipe.train)
    model.to(runtime.device)
    found = {}
    for method in METHODS:
        loader = task_of(recipe).loader(dataset)
        by_id, _ = detect(model, loader, replace(recipe.evaluate, suppress=method), runtime)
        found[method] = [by_id[r.id] for r in dataset.records]
    return [r.objects for r in dataset.records], found


def scores(truth: Sequence[Objects], found: Sequence[Objects]) -> dict[str, float]:
    report = judge_crowd(truth, found, resamples=0)
    return {name: report[name] for name in SCORES}


def gain(truth: Sequence[Objects], runs: Sequence[tuple[list[Objects], list[Objects]]]) -> list[str]:
    """What the second of each pair of answers is better by, with a 95 % interval over pictures and seeds, per score."""
    rng = np.random.default_rng(0)
    rows = []
    for draw in range(DRAWS + 1):
        n = len(truth)
        at = np.arange(n) if draw == 0 else rng.integers(0, n, n)
        seeds = range(len(runs)) if draw == 0 else rng.integers(0, len(runs), len(runs))
        some = [truth[i] for i in at]
        both = [[scores(some, [side[i] for i in at]) for side in runs[s]] for s in seeds]
        rows.append([statistics.mean(b[name] - a[name] for a, b in both) for name in SCORES])
    value, draws = np.array(rows[0]), np.array(rows[1:])
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    return [f"{name} {v:+.3f} ({a:+.3f} to {b:+.3f})" for name, v, a, b in zip(SCORES, value, low, high, strict=True)]


def run() -> dict[str, Any]:
    out, data = SCRATCH / "crowd-runs", SCRATCH / "crowds"
    size = recipes.get("crowd_demo").data.size
    make_crowds(data, splits=SPLITS, seed=0, overlap=OVERLAP, size=size)
    epochs = paces(data, out)
    on: dict[str, dict[tuple[str, Method], list[dict[str, float]]]] = {"val": {}, "test": {}}
    kept: dict[tuple[str, Method], list[list[Objects]]] = {}
    seconds: dict[str, list[float]] = {}
    truth: list[Objects] = []
    for head, seed in itertools.product(HEADS, SEEDS):
        done = trained(head, seed, epochs[head], data, out)
        seconds.setdefault(head, []).append(sum(step_seconds(done)))
        for split, table in on.items():
            truth, found = answers(done, split, data)
            for method, objects in found.items():
                table.setdefault((head, method), []).append(scores(truth, objects))
                if split == "test":
                    kept.setdefault((head, method), []).append(objects)
        write_json(out / "so_far.json", {s: {" + ".join(k): v for k, v in t.items()} for s, t in on.items()})

    def mean(split: str, key: tuple[str, Method], name: str) -> float:
        return statistics.mean(s[name] for s in on[split][key])

    best = max(on["val"], key=lambda key: mean("val", key, "AP50"))
    rows = []
    for head, name in itertools.product(HEADS, SCORES):
        row: dict[str, Any] = {"head": head, "score": name}
        for method in METHODS:
            middle, deviation = spread([s[name] for s in on["test"][head, method]])
            row[method] = f"{middle:.3f} ± {deviation:.3f}"
        rows.append(row | {"epochs": epochs[head], "training s": round(statistics.mean(seconds[head]))})
    pairs = list(zip(kept[BASE], kept[best], strict=True))
    overlap = read_json(data / SOURCES)["overlap"]["test"]
    notes = [
        f"`crowd_demo` from scratch, {size[0]}x{size[1]} px, {SPLITS['train']} generated pictures for training, "
        f"{SPLITS['test']} for testing, which share neither a person nor a street; mean greatest overlap of a person "
        f"with another: wanted {OVERLAP}, reached {overlap}.",
        f"Mean and standard deviation over seeds {', '.join(map(str, SEEDS))}, last weights. AP50 and JI: more is "
        "better; MR-2: less is. Epochs: as many as fit into the same time of training, measured over an epoch of each.",
        f"Suppression at IoU {recipes.get('crowd_demo').evaluate.suppress_iou:g} whatever the method (soft_gaussian "
        "and none have no threshold). adaptive guesses the density where the head has no such branch; set is greedy "
        "where a prior gives one box.",
        f"The best pair on the validation pictures by AP50 is {best[0]} + {best[1]}. On the test pictures against "
        f"{BASE[0]} + {BASE[1]}: {', '.join(gain(truth, pairs))}; intervals over pictures and seeds.",
    ]
    return {"title": "Crowds: every assigner with every suppression", "rows": rows, "notes": notes}
