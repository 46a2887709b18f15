"""Configuration: overrides, refusals, and coming back from JSON unchanged."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tercel.config import (
    Augment,
    BoxHead,
    Data,
    Fpn,
    Recipe,
    SimOta,
    TaskAligned,
    TimmNet,
    Train,
    dump,
    flat,
    load,
    override,
)
from tercel.core.finding import TercelError

BASE = Recipe(name="boxes")


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("train.epochs=7", "train.epochs", 7),
        ("train.lr=1e-3", "train.lr", 1e-3),
        ("train.lr=1", "train.lr", 1.0),
        ("data.size=8x16", "data.size", (8, 16)),
        ("data.size=[8, 16]", "data.size", (8, 16)),
        ("model.strides=8,16", "model.strides", (8, 16)),
        ("evaluate.class_agnostic=true", "evaluate.class_agnostic", True),
        ("evaluate.class_agnostic=no", "evaluate.class_agnostic", False),
        ("model.head.box_loss=giou", "model.head.box_loss", "giou"),
        ("model.neck=Fpn", "model.neck", "Fpn"),
        ("model.head.assigner.topk=13", "model.head.assigner.topk", 13),
        (" train.epochs = 7 ", "train.epochs", 7),
        ("name=12", "name", "12"),
    ],
)
def test_settings(setting: str, key: str, value: Any) -> None:
    out = flat(override(BASE, [setting]))
    assert out[key] == value
    assert type(out[key]) is type(value)
    changed = {k for k in out if out[k] != flat(BASE).get(k)}
    assert changed <= {key} or key == "model.neck"


def test_settings_apply_in_order_and_leave_the_old_recipe_alone() -> None:
    out = override(
        BASE, ["train.epochs=3", "model.head.assigner=SimOta", "model.head.assigner.radius=1.5", "train.epochs=4"]
    )
    assert out.train.epochs == 4
    assert out.model.head.assigner == SimOta(radius=1.5)
    assert BASE.model.head.assigner == TaskAligned()
    assert override(BASE, ["model.backbone=TimmNet"]).model.backbone == TimmNet()
    assert override(BASE, ["model.neck=Fpn"]).model.neck == Fpn()


@pytest.mark.parametrize(
    ("setting", "message", "remedy"),
    [
        ("train.epochs", "is not key=value", "--set"),
        ("train.epoch=3", "unknown key 'train.epoch'", "train.epochs"),
        ("trian.epochs=3", "unknown key 'trian.epochs'", "train.epochs"),
        ("epochs=3", "unknown key 'epochs'", ""),
        ("train.epochs.x=3", "is a value and has no fields", ""),
        ("train.epochs=0", "lies outside 1", ""),
        ("train.epochs=2.5", "is not int", ""),
        ("train.epochs=many", "is not int", ""),
        ("train.epochs=true", "is not int", ""),
        ("train.lr=nan", "is not float", ""),
        ("train.lr=NaN", "is not a number", ""),
        ("train.lr=-1", "lies outside", ""),
        ("data.size=[8]", "needs 2 values", ""),
        ("data.size=8", "is not a list", ""),
        ("data.size=a,b", "is not a list", ""),
        ("data.size=[8.5,9]", "is not int", ""),
        ("evaluate.class_agnostic=1", "is not bool", ""),
        ("model.head.box_loss=gio", "is not one of", "giou"),
        ("model.neck=Pna", "is not one of Fpn, Pan", ""),
        ("model.head.assigner.radius=2", "unknown key 'model.head.assigner.radius'", ""),
        ("train=fast", "is not one of Train", ""),
    ],
)
def test_refusals_name_the_key(setting: str, message: str, remedy: str) -> None:
    with pytest.raises(TercelError, match=message) as e:
        override(BASE, [setting])
    assert remedy in e.value.remedy


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [(Train, {"epochs": 0}), (Data, {"size": (8,)}), (Augment, {"flip": 1.5}), (BoxHead, {"class_loss": "mse"})],
)
def test_recipes_in_python_are_held_to_the_same_rules(cls: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(TercelError, match=next(iter(arguments))):
        cls(**arguments)
    with pytest.raises(TercelError):
        dataclasses.replace(cls(), **arguments)


def test_values_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        BASE.train.epochs = 3  # type: ignore[misc]


def test_json_there_and_back() -> None:
    changed = override(
        BASE,
        ["model.head.assigner=SimOta", "model.backbone=TimmNet", "model.neck=Fpn", "data.size=64x96", "train.lr=0.01"],
    )
    for recipe in (BASE, changed):
        text = json.dumps(dump(recipe))
        assert load(Recipe, json.loads(text)) == recipe


def test_unknown_keys_in_json_are_refused() -> None:
    values = dump(BASE)
    values["train"]["epoch"] = 3
    with pytest.raises(TercelError, match=r"unknown key 'train\.epoch'") as e:
        load(Recipe, values)
    assert "epochs" in e.value.remedy
    values = dump(BASE)
    values["model"]["neck"]["kind"] = "Bifpn"
    with pytest.raises(TercelError, match=r"model\.neck"):
        load(Recipe, values)


def test_every_number_has_a_range_that_holds_its_default() -> None:
    def check(config: Any) -> None:
        for f in dataclasses.fields(config):
            value = getattr(config, f.name)
            if dataclasses.is_dataclass(value):
                check(value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                assert f.metadata["low"] <= value <= f.metadata["high"], f.name

    check(BASE)
    assert Recipe(name="x").train.epochs == Train().epochs  # one default, in one place
