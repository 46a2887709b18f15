"""Sigmas from repeated labels: by hand, from labels with a known spread, and through `tercel agree` on files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercel import lab
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data.formats import coco
from tercel.metrics.sigmas import compare_points

SIZE = (400, 400)
ROW = np.zeros(1, np.int64)


def animal(points: Any, visible: Any, box: Any = (100, 100, 200, 150)) -> Objects:
    return Objects(SIZE, [0], [box], points=[points], visible=[visible])


def test_two_pictures_by_hand() -> None:
    """Box 100 x 50: s^2 = 5000. Distances of nose 3 and 5 px; ear once; tail only on one side."""
    a = [animal([[110, 110], [120, 120], [130, 130]], [2, 2, 2]), animal([[110, 110], [120, 120], [0, 0]], [2, 0, 0])]
    b = [animal([[113, 110], [120, 124], [0, 0]], [2, 1, 0]), animal([[113, 114], [120, 120], [0, 0]], [2, 2, 0])]
    names = ["nose", "ear", "tail"]
    rows, findings = compare_points(a, b, [(ROW, ROW)] * 2, names, names, resamples=0)
    nose, ear, tail = rows
    assert (nose.n, nose.px, nose.share, nose.one_only) == (2, 4, 0.04, 0)
    assert nose.sigma.value == pytest.approx(math.sqrt((9 + 25) / 2 / 5000))
    assert (ear.n, ear.px, ear.one_only) == (1, 4, 1)
    assert (tail.n, tail.one_only) == (0, 1)
    assert math.isnan(tail.sigma.value)
    assert math.isnan(tail.px)
    assert {f.check for f in findings} == {"agree.few_points"}
    json.dumps([r.to_json() for r in rows], allow_nan=False)


def test_points_are_paired_by_name() -> None:
    a, b = animal([[110, 110], [120, 120]], [2, 2]), animal([[120, 121], [110, 112], [1, 1]], [2, 2, 2])
    rows, findings = compare_points([a], [b], [(ROW, ROW)], ["nose", "ear"], ["ear", "nose", "tail"], resamples=0)
    assert {r.name: r.px for r in rows} == {"nose": 2, "ear": 1}
    assert {f.check: f.evidence for f in findings}["agree.points"] == ("tail",)
    with pytest.raises(TercelError, match="no name in common"):
        compare_points([a], [b], [(ROW, ROW)], ["x", "y"], ["ear", "nose", "tail"])


def test_known_spread_comes_back_whatever_the_size() -> None:
    """Labels moved by noise of .02 and .08 of the square root of the area, in animals of 20 to 200 px."""
    rng = np.random.default_rng(0)
    true, a, b = (0.02, 0.08), [], []
    for _ in range(3000):
        side = rng.uniform(20, 200)
        box, points = (50, 50, 50 + side, 50 + side), rng.uniform(60, 100, (2, 2))
        # E|d|^2 = 2 deviation^2 in two dimensions
        noise = rng.normal(0, 1, (2, 2)) * np.array(true)[:, None] * side / math.sqrt(2)
        a.append(animal(points, [2, 2], box))
        b.append(animal(points + noise, [2, 2], box))
    rows, findings = compare_points(a, b, [(ROW, ROW)] * 3000, ["x", "y"], ["x", "y"])
    assert [r.sigma.value for r in rows] == pytest.approx(true, rel=0.05)
    assert all(r.sigma.low < t < r.sigma.high for r, t in zip(rows, true, strict=True))
    assert findings == []


def test_agree_on_files(tmp_path: Path, tercel: Any) -> None:
    """Two annotators, the second one 3 px to the right; B lists the animals in another order."""
    schema = Schema(("fox",), ("nose", "left_ear", "right_ear"), (("left_ear", "right_ear"),))
    o = Objects(
        (200, 300), [0, 0], [[10, 10, 110, 60], [150, 100, 250, 150]],
        points=[[[20, 20], [30, 30], [40, 40]], [[160, 110], [170, 120], [180, 130]]], visible=[[2] * 3] * 2,
    )  # fmt: skip
    Image.new("RGB", (300, 200)).save(tmp_path / "1.png")
    record = Record("1", (Frame(tmp_path / "1.png"),), (200, 300), o)
    moved = o.replace(points=np.asarray(o.points) + np.float32([3, 0]))[[1, 0]]
    for name, objects in (("a", o), ("b", moved)):
        coco.write(Dataset(schema, (replace(record, objects=objects),)), tmp_path / f"{name}/gt.json")
    result = lab.agree(str(tmp_path / "a/gt.json"), str(tmp_path / "b/gt.json"), draws=0)
    assert [p["px"] for p in result.report["points"]] == pytest.approx([3, 3, 3])
    sigma = 3 / math.sqrt(100 * 50)
    assert [s.value for s in result.scores if s.name == "sigma"] == pytest.approx([sigma] * 3)
    said = tercel("agree", tmp_path / "a/gt.json", tmp_path / "b/gt.json", "--draws", 0)
    assert said.code == 0
    assert f"to judge with them: --sigmas {sigma:.4g},{sigma:.4g},{sigma:.4g}" in said.out
    assert "right_ear" in said.out
