"""A tiny data set on disk and a recipe that trains on it in a second or two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tercel.config import Augment, BoxHead, Data, Evaluate, Model, Pan, Recipe, SmallNet, Train
from tercel.data import synth


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml of 22 train and 8 val pictures, 96 x 128 px."""
    return synth.make_boxes(
        tmp_path_factory.mktemp("shapes") / "set",
        n=30,
        seed=3,
        size=(96, 128),
        splits={"train": 22 / 30, "val": 8 / 30},
    )


def tiny(**train: object) -> Recipe:
    """About 20 k parameters at 64 x 96 px; 22 pictures in batches of 4: the last batch is short."""
    model = Model(
        backbone=SmallNet(stem=8, widths=(8, 16, 16, 16), depths=(0, 1, 1, 1)),
        neck=Pan(width=16), head=BoxHead(width=16, depth=1), norm="group",
    )  # fmt: skip
    values: dict[str, object] = {
        "epochs": 2,
        "batch": 4,
        "precision": "fp32",
        "evaluate_every": 1,
        "sample_pictures": 1,
    }
    return Recipe(
        name="tiny", data=Data(size=(64, 96), workers=1), augment=Augment(), model=model,
        train=Train(**{**values, **train}), evaluate=Evaluate(resamples=0),
    )  # fmt: skip


@pytest.fixture
def recipe() -> Recipe:
    return tiny()


@pytest.fixture
def batch_norm(recipe: Recipe) -> Recipe:
    return replace(recipe, model=replace(recipe.model, norm="batch"))
