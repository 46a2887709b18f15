"""The flip test on drawn beetles and on the public flies: right pairs pass, every planted fault is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data import source
from tercel.metrics.flips import skeleton_findings

NAMES = ("head", "tail", "eye_l", "eye_r", "leg_l", "leg_r", "wing_l", "wing_r")
PAIRS = (("eye_l", "eye_r"), ("leg_l", "leg_r"), ("wing_l", "wing_r"))
# x along the body, y across it; left is y < 0 for an animal that looks to the right
BEETLE = np.array([[50, 0], [-50, 0], [40, -12], [40, 12], [0, -40], [0, 40], [-30, -20], [-30, 20]], np.float64)


def beetles(shape: Any = BEETLE, n: int = 40, noise: float = 2.0, pairs: Any = PAIRS, names: Any = NAMES) -> Dataset:
    """Animals that look anywhere, of 50 to 150 % of the size; every tenth point is not labelled."""
    rng = np.random.default_rng(3)
    records = []
    for i in range(n):
        turn, scale = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.5)
        c, s = np.cos(turn), np.sin(turn)
        xy = scale * (np.asarray(shape) + rng.normal(0, noise, np.shape(shape))) @ np.array([[c, s], [-s, c]]) + 200
        box = [*xy.min(axis=0), *xy.max(axis=0)]
        o = Objects((400, 400), [0], [box], points=[xy], visible=[2 * (rng.random(len(xy)) > 0.1)])
        records.append(Record(str(i), (Frame(Path(f"{i}.png")),), (400, 400), o))
    return Dataset(Schema(("beetle",), tuple(names), tuple(pairs)), tuple(records), source="beetles")


def said(d: Dataset) -> dict[str, tuple[str, ...]]:
    return {f.check: f.evidence for f in skeleton_findings(d)}


def test_right_pairs_pass() -> None:
    assert said(beetles()) == {}
    assert said(beetles(noise=6)) == {}


def test_a_wrong_pair_is_named() -> None:
    (first, second) = said(beetles(pairs=(("eye_l", "leg_r"), ("leg_l", "eye_r"), PAIRS[2])))["labels.flip_test"]
    assert first.startswith("eye_l comes to lie near eye_r")
    assert "not near leg_r" in first
    assert second.startswith("leg_l comes to lie near leg_r")


@pytest.mark.parametrize("pairs", [PAIRS[1:], ()])
def test_missing_pairs_are_named(pairs: Any) -> None:
    found = said(beetles(pairs=pairs))["labels.flip_test"]
    missing = [p for p in PAIRS if p not in pairs]
    assert [f.split(" comes")[0] for f in found] == [a for a, _ in missing]
    assert all(f"near {b}" in f and "is in no pair" in f for f, (_, b) in zip(found, missing, strict=True))


def test_a_pair_of_points_on_the_axis_is_named() -> None:
    found = said(beetles(pairs=(*PAIRS, ("head", "tail"))))["labels.flip_test"]
    assert {f.split(" comes")[0] for f in found} == {"head", "tail"}
    assert all("near head" in f or "near tail" in f for f in found)


def test_an_animal_seen_from_its_side_is_not_tested() -> None:
    horse = np.array([[50, -30], [-50, -10], [45, -40], [42, -42], [30, 60], [36, 60], [-35, 58], [-30, 60]])
    (found,) = skeleton_findings(beetles(horse))
    assert found.severity == "info"
    assert "could not be checked" in found.message
    assert said(beetles(horse, pairs=())) == {}


def test_few_animals_and_few_points_say_nothing() -> None:
    assert said(beetles(n=9, pairs=())) == {}
    assert said(beetles(BEETLE[:3], pairs=(), names=NAMES[:3])) == {}
    empty = beetles()
    nothing = [replace(r, objects=r.objects.replace(visible=0 * r.objects.visible)) for r in empty.records]  # type: ignore[operator]
    assert said(Dataset(empty.schema, tuple(nothing))) == {}
    assert said(Dataset(Schema(("beetle",)), ())) == {}


def test_a_point_that_copies_another_is_named() -> None:
    shape = BEETLE.copy()
    shape[7] = shape[5] + 0.1  # wing_r is clicked where leg_r is
    found = said(beetles(shape, noise=0))["labels.points_together"]
    assert found[0].startswith("wing_r and leg_r: 0.2% of the size apart")
    assert len(found) == 1


def test_the_public_flies(shared: Path) -> None:
    """midlegR3 lies on midlegR2 in every picture (.6 px in the median; on the left 8 px): the labels are at fault."""
    d = source.read(str(shared / "data/deepposekit-fly"))
    found = said(d)
    assert list(found) == ["labels.points_together"]
    assert found["labels.points_together"][0].startswith("midlegR3 and midlegR2")
    pairs = [p for p in d.schema.flip_pairs if "wingL" not in p]
    (doubt,) = said(replace(d, schema=replace(d.schema, flip_pairs=tuple(pairs)), _places={}))["labels.flip_test"]
    assert doubt.startswith("wingL comes to lie near wingR")
