"""What every recipe must keep; a new one is covered by its line in RECIPES."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tercel
from tercel import config, recipes
from tercel.config import KeypointHead, Recipe, TimmNet, dump, load
from tercel.data import rallies, source, synth, turtles, vehicles
from tercel.engine import device
from tercel.engine.dist import World
from tercel.engine.fit import EvalInfo, Fit, StepInfo
from tercel.engine.run import Run
from tercel.models.necks import neck_strides

ROOT = Path(tercel.__file__).parent
every = pytest.mark.parametrize("name", recipes.RECIPES)


class Collect:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[StepInfo] = []

    def on_start(self, run: Run, updates: int, step: int) -> None:
        self.updates = updates

    def on_step(self, info: StepInfo) -> None:
        self.steps.append(info)

    def on_eval(self, info: EvalInfo) -> None:
        self.evaluated = info

    def on_message(self, message: str) -> None:
        pass

    def on_end(self) -> None:
        pass


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recipes") / "set"
    return synth.make_boxes(out, n=24, seed=5, size=(96, 128), splits={"train": 20 / 24, "val": 4 / 24})


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rallies with hits, bounces and net balls."""
    out = tmp_path_factory.mktemp("recipes") / "rallies"
    return rallies.make_rallies(out, splits={"train": 2, "val": 1}, frames=40, size=(72, 128), sport="table_tennis")


@pytest.fixture(scope="module")
def above(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vehicles from above, with oriented boxes; recipes that only want hulls train on them as well."""
    out = tmp_path_factory.mktemp("recipes") / "vehicles"
    return vehicles.make_vehicles(out, n=24, seed=5, size=(96, 128), splits={"train": 20 / 24, "val": 4 / 24})


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Turtles, one per picture at most."""
    out = tmp_path_factory.mktemp("recipes") / "turtles"
    return turtles.make_turtles(out, seed=5, splits={"train": 20, "val": 4}, size=(96, 128))


@every
def test_runs_some_steps(name: str, shapes: Path, filmed: Path, above: Path, animals: Path, tmp_path: Path) -> None:
    """Its own network, loss and augmentation, at a small input so that it takes seconds; every loss stays finite.

    Twenty steps, or four where a step of the large network takes a second.
    """
    r = recipes.get(name)
    aerial = r.task == "oriented" or name.startswith("aerial")
    data = {"ball": f"tracknet:{filmed}", "keypoints": f"coco:{animals}"}.get(r.task, f"yolo:{shapes}")
    data = f"dota:{above}" if aerial else data
    steps = 4 if isinstance(r.model.backbone, TimmNet) else 20
    coarsest = max(neck_strides(r.model.neck, r.model.strides))
    size = (64, 96) if coarsest <= 32 else (coarsest, coarsest)
    r = replace(
        r,
        data=replace(r.data, size=size, workers=1),
        augment=replace(r.augment, close_epochs=1),
        train=replace(r.train, epochs=4, batch=4, samples=steps, evaluate_every=4, sample_pictures=1),
        evaluate=replace(r.evaluate, resamples=0),
    )
    train, val = (source.read(f"{data}#{s}") for s in ("train", "val"))
    runtime, seen = device.choose(r.train), Collect()
    fit = Fit(r, train, val, Run.create(tmp_path, r, "run"), runtime, World(runtime.device), (seen,))
    before = {n: p.detach().clone() for n, p in fit.state.model.named_parameters()}
    fit.run()
    assert len(seen.steps) == seen.updates == steps
    assert all(torch.isfinite(torch.tensor(list(s.losses.values()))).all() for s in seen.steps)
    assert seen.evaluated.epoch == 4
    still = [n for n, p in fit.state.model.named_parameters() if torch.equal(before[n], p)]
    if isinstance(r.model.head, KeypointHead):  # so few small animals never ask the coarsest map
        coarsest_map = f".{len(r.model.strides) - 1}."
        still = [n for n in still if coarsest_map not in n.removeprefix("net.")]
    assert still == []


@every
def test_survives_json(name: str) -> None:
    r = recipes.get(name)
    assert load(Recipe, json.loads(json.dumps(dump(r)))) == r


@every
def test_says_what_to_expect(name: str) -> None:
    assert len((recipes.RECIPES[name].__doc__ or "").split()) > 8
    assert recipes.get(name).name == name


def test_every_setting_is_read_somewhere() -> None:
    """A key that nothing reads is a promise that nothing keeps (turtle-3, crowd-18)."""
    code = "\n".join(p.read_text() for p in ROOT.rglob("*.py") if p.name != "config.py")
    classes = [c for c in vars(config).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]
    dead = [
        f"{c.__name__}.{f.name}"
        for c in classes
        for f in dataclasses.fields(c)
        if not re.search(rf"\.{f.name}\b", code) and not re.search(rf"[\"']{f.name}[\"']", code)
    ]
    assert len(classes) > 10
    assert dead == []
