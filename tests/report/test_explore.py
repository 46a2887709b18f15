"""The page about data sets: what is measured, what is drawn, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.geometry import obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data import synth, vehicles
from tercel.report.explore import MOST, measure, write_exploration

SIZE = (200, 400)


def data_of(folder: Path, objects: list[Objects], source: str = "hand") -> Dataset:
    records = []
    for i, o in enumerate(objects):
        path = folder / f"{source}-{i}.png"
        Image.new("RGB", SIZE[::-1], (90, 90, 90)).save(path)
        records.append(Record(str(i), (Frame(path),), SIZE, o))
    return Dataset(Schema(("car", "bus")), tuple(records), source=source)


def oriented() -> Objects:
    b = np.array([[100, 100, 40, 20, -math.pi / 6], [180, 100, 50, 20, 0], [390, 10, 30, 15, 1.0]])
    return Objects(SIZE, [0, 1, 0], obb_hull(b), obbs=b, ignore=[False, False, True], heading=[math.pi * 5 / 6, 0, 0],
                   headed=[True, False, False])  # fmt: skip


def test_what_is_measured() -> None:
    plain = Objects(SIZE, [0], [[0, 0, 20, 50]])
    data = Dataset(
        Schema(("car", "bus")),
        tuple(Record(str(i), (Frame(Path("x")),), SIZE, o) for i, o in enumerate((oriented(), plain))),
    )
    s = measure(data)
    assert s.length.tolist() == [40, 50, 50]  # of the upright box, the longer side
    assert s.width.tolist() == [20, 20, 20]
    assert s.ratio == pytest.approx([2, 2.5, 2.5])
    assert s.angle == pytest.approx([-30, 0, math.nan], nan_ok=True)
    assert s.heading == pytest.approx([150, math.nan, math.nan], nan_ok=True)
    assert s.centre[0] == pytest.approx([0.25, 0.5])
    assert s.gap == pytest.approx([80 / 40, 80 / 50, math.nan], nan_ok=True)
    assert s.share[0] == pytest.approx(math.sqrt(40 * 20 / (200 * 400)))
    assert s.per_picture.tolist() == [2, 1]  # the ignored one is in none of them


def test_the_nearest_neighbour_is_that_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    at = rng.uniform(10, 190, (700, 2))  # more than one block
    o = Objects(SIZE, np.zeros(700), np.concatenate([at - 2, at + 2], axis=1))
    s = measure(Dataset(Schema(("car",)), (Record("a", (Frame(Path("x")),), SIZE, o),)))
    at = (o.boxes[:, :2].astype(np.float64) + o.boxes[:, 2:]) / 2
    for i in (0, 499, 500, 699):
        slow = min(math.dist(at[i], p) for j, p in enumerate(at) if j != i)
        assert s.gap[i] == pytest.approx(slow / 4, rel=1e-5)


def test_one_page_shows_sources_side_by_side(tmp_path: Path) -> None:
    first = data_of(tmp_path, [oriented(), Objects.empty(SIZE)], "first")
    second = data_of(tmp_path, [Objects(SIZE, [0], [[0, 0, 20, 50]])], "<second>")
    out = tmp_path / "page.html"
    assert write_exploration([first, second], out) == ()
    text = out.read_text(encoding="utf-8")
    assert "&lt;second&gt;" in text
    assert "<second>" not in text
    for title in ("Length", "Width", "Length / width", "Angle", "Heading", "Objects in a picture", "Density"):
        assert f"<b>{title}" in text
    assert "n = 2 and 1" in text
    assert "1 · 40.0 × 20.0 px" in text
    assert text.count("data:image/jpeg") == 3
    assert "http" not in text.replace("http-equiv", "")
    assert "Ignored</td><td>1 (33%)</td><td>0 (0%)" in text


def test_pictures_that_are_gone_are_counted(tmp_path: Path) -> None:
    data = data_of(tmp_path, [oriented()])
    (tmp_path / "hand-0.png").unlink()
    (finding,) = write_exploration([data], tmp_path / "page.html")
    assert finding.check == "explore.picture"
    assert "No picture to show" in (tmp_path / "page.html").read_text()


def test_a_set_without_objects_has_a_page(tmp_path: Path) -> None:
    write_exploration([data_of(tmp_path, [Objects.empty(SIZE)])], tmp_path / "page.html")
    assert "There is no object to show" in (tmp_path / "page.html").read_text()


def test_what_is_refused(tmp_path: Path) -> None:
    data = data_of(tmp_path, [oriented()])
    none = Dataset(Schema(("car",)), ())
    ball = Objects(SIZE, [0], [[1, 1, 3, 3]], points=[[[2, 2]]], visible=[[2]])
    clip = Dataset(Schema(("ball",)), (Record("a", (Frame(Path("x")),), SIZE, ball),))
    for sets in ([], [data] * (MOST + 1), [none], [clip]):
        with pytest.raises(TercelError):
            write_exploration(sets, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command(tmp_path: Path, tercel: Any) -> None:
    a = vehicles.make_vehicles(tmp_path / "a", n=4, seed=0, splits={"train": 1.0})
    b = synth.make_boxes(tmp_path / "b", n=4, seed=0, size=(48, 64))
    out = tmp_path / "data.html"
    said = tercel("show", "--data", f"dota:{a}#train", "--data", f"yolo:{b}#train", "--out", out, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["page"] == str(out)
    assert "Angle" in out.read_text()
    assert tercel("show", "--data", f"dota:{a}#train", "--out", out).code == 2  # never overwritten
    assert "name a recipe" in tercel("show").err
    assert tercel("show", "boxes", "--data", f"dota:{a}#train").code == 2
