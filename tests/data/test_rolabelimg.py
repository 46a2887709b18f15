"""roLabelImg XML: the documented example, upright boxes among rotated ones, headings, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.geometry import obb_corners, obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data import source
from tercel.data.formats import rolabelimg, voc
from tercel.data.formats.common import Options


def rotated(numbers: str, name: str = "car", extra: str = "") -> str:
    parts = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("cx", "cy", "w", "h", "angle"), numbers.split(), strict=True))
    return f"<object><type>robndbox</type><name>{name}</name>{extra}<robndbox>{parts}</robndbox></object>\n"


def upright(numbers: str, name: str = "car") -> str:
    sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), numbers.split(), strict=True))
    return f"<object><type>bndbox</type><name>{name}</name><bndbox>{sides}</bndbox></object>\n"


def make(root: Path, **annotations: str) -> Path:
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    (root / "JPEGImages").mkdir(exist_ok=True)
    for name, objects in annotations.items():
        text = f"<annotation>\n<size><width>120</width><height>100</height></size>\n{objects}</annotation>\n"
        (root / "Annotations" / f"{name}.xml").write_text(text)
        Image.new("RGB", (120, 100)).save(root / "JPEGImages" / f"{name}.png")
    return root


def found(dataset: Dataset, check: str) -> int:
    return sum(f.count for f in dataset.findings if f.check == check)


def test_the_example_of_the_uav_rod_documents(tmp_path: Path) -> None:
    o = rolabelimg.read(make(tmp_path, a=rotated("50 40 20 40 0")))["a"].objects
    assert o.obbs is not None
    corners = {tuple(c) for c in np.round(obb_corners(o.obbs.astype(float))[0], 4).tolist()}
    assert corners == {(40, 20), (60, 20), (60, 60), (40, 60)}
    assert o.obbs[0].tolist() == pytest.approx([50, 40, 40, 20, -np.pi / 2], abs=1e-6)
    assert o.heading is None


@pytest.mark.parametrize("degrees", [0, 45, 90, 135])
def test_the_side_w_points_clockwise_from_x(degrees: int, tmp_path: Path) -> None:
    """The middle of the end of w lies `degrees` below the x axis; for a quarter turn right below the centre."""
    t = np.deg2rad(degrees)
    o = rolabelimg.read(make(tmp_path, a=rotated(f"50 40 40 20 {t}")))["a"].objects
    assert o.obbs is not None
    corners = obb_corners(o.obbs.astype(float))[0]
    middles = (corners + np.roll(corners, -1, axis=0)) / 2
    end = [50 + 20 * np.cos(t), 40 + 20 * np.sin(t)]
    assert np.linalg.norm(middles - end, axis=1).min() < 1e-4


def test_upright_boxes_among_rotated_ones(tmp_path: Path) -> None:
    make(tmp_path, a=upright("10 20 40 30"), b=rotated("50 40 40 20 0.3", extra="<difficult>1</difficult>"))
    d = source.read(str(tmp_path))  # recognised although the first file has upright boxes only
    o = d["a"].objects
    assert o.obbs is not None
    assert o.obbs.tolist() == [[25, 25, 30, 10, 0]]
    assert d["b"].objects.ignore.tolist() == [True]
    assert found(d, "labels.upright") == 1


def test_plain_voc_stays_voc_unless_named(tmp_path: Path) -> None:
    make(tmp_path, a=upright("10 20 40 30"))
    assert source.read(str(tmp_path))["a"].objects.obbs is None
    assert voc.matches(tmp_path)
    assert not rolabelimg.matches(tmp_path)
    assert source.read(f"rolabelimg:{tmp_path}")["a"].objects.obbs is not None


def test_dont_care(tmp_path: Path) -> None:
    d = rolabelimg.read(
        make(tmp_path, a=rotated("50 40 40 20 1", "DontCare") + rotated("9 9 5 5 0", "b") + rotated("9 9 5 5 0"))
    )
    assert d.schema.classes == ("b", "car")
    assert d["a"].objects.labels.tolist() == [0, 1, 0, 1]
    assert d["a"].objects.ignore.tolist() == [True, True, False, False]


def test_headings_only_where_angles_run_over_the_whole_circle(tmp_path: Path) -> None:
    half = "".join(rotated(f"50 40 40 20 {t:.4f}") for t in np.linspace(0, np.pi, 20))
    whole = "".join(rotated(f"50 40 40 20 {t:.4f}") for t in np.linspace(0, 2 * np.pi, 20, endpoint=False))
    assert rolabelimg.read(make(tmp_path / "half", a=half))["a"].objects.heading is None
    d = rolabelimg.read(make(tmp_path / "whole", a=whole + upright("10 20 40 30")))
    o = d["a"].objects
    assert o.heading is not None
    assert o.headed is not None
    assert found(d, "labels.headings") == 20
    assert o.headed.tolist() == [True] * 20 + [False]
    turns = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    np.testing.assert_allclose(np.exp(1j * o.heading[:20]), np.exp(1j * turns), atol=1e-4)


def test_headings_that_were_written_are_read(tmp_path: Path) -> None:
    obbs = np.array([[50, 40, 40, 20, 0.3], [50, 40, 40, 20, 0.3], [20, 20, 9, 5, -0.5]], np.float32)
    o = Objects((100, 120), [0, 0, 0], obb_hull(obbs), obbs=obbs, heading=[0.3, 0.3 - np.pi, 0], headed=[1, 1, 0])
    Image.new("RGB", (120, 100)).save(tmp_path / "a.png")
    d = Dataset(Schema(("car",)), (Record("a", (Frame(tmp_path / "a.png"),), o.size, o),))
    rolabelimg.write(d, tmp_path / "out")
    back = rolabelimg.read(tmp_path / "out")["a"].objects
    assert back.headed is not None
    assert back.headed.tolist() == [True, True, False]
    assert back.heading is not None
    np.testing.assert_allclose(back.heading[:2], [0.3, 0.3 - np.pi], atol=1e-6)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (rotated("50 40 40 20 37.5"), r"a\.xml:3: the angle 37\.5 is beyond a full turn"),
        (rotated("50 40 40 x 0"), "without a robndbox"),
        ("<object><name>car</name></object>\n", "without a robndbox"),
    ],
)
def test_bad_objects(objects: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TercelError, match=message):
        rolabelimg.read(make(tmp_path, a=objects))


def test_a_misspelt_class_names_the_nearest(tmp_path: Path) -> None:
    make(tmp_path, a=rotated("50 40 40 20 0", "truvk"))
    with pytest.raises(TercelError, match="unknown class 'truvk'") as e:
        rolabelimg.read(tmp_path, options=Options(classes=("car", "truck")))
    assert "did you mean 'truck'?" in e.value.remedy
