"""VEDAI: a real line in both shapes of its text, folds, colour and infrared, headings, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.geometry import obb_corners
from tercel.core.record import Dataset
from tercel.data import source
from tercel.data.formats import vedai
from tercel.data.formats.common import Options

SINGLE = "290.348971 504.611640 3.012318 2 1 0 277 303 304 279 502 498 508 511"  # a real one
JOINT = "00000010 290.348971 504.611640 3.012318 277 303 304 279 502 498 508 511 2 1 0"
CORNERS = np.array([(277, 502), (303, 498), (304, 508), (279, 511)])


def make(root: Path, *, joint: str = "", single: dict[str, str] | None = None, pictures: str = "00000010_co") -> Path:
    (root / "Annotations512").mkdir(parents=True)
    (root / "Vehicules512").mkdir()
    if joint:
        (root / "Annotations512" / "annotation512.txt").write_text(joint)
    for name, text in (single or {}).items():
        (root / "Annotations512" / f"{name}.txt").write_text(text)
    for name in pictures.split():
        Image.new("RGB", (512, 512)).save(root / "Vehicules512" / f"{name}.png")
    return root


def line(orientation: float = 0.1, kind: str = "1", x: int = 100) -> str:
    return f"{x + 10} 105 {orientation} {kind} 1 0 {x} {x + 20} {x + 20} {x} 100 100 110 110\n"


def found(dataset: Dataset, check: str) -> int:
    return sum(f.count for f in dataset.findings if f.check == check)


@pytest.mark.parametrize("kind", ["single", "joint"])
def test_a_real_line(kind: str, tmp_path: Path) -> None:
    root = make(tmp_path, **({"joint": JOINT + "\n"} if kind == "joint" else {"single": {"00000010": SINGLE}}))
    d = source.read(str(root))
    r = d["00000010"]
    assert [d.schema.classes[i] for i in r.objects.labels] == ["truck"]
    assert r.objects.obbs is not None
    corners = obb_corners(r.objects.obbs.astype(float))[0]
    assert np.linalg.norm(corners[:, None] - CORNERS, axis=2).min(axis=1).max() < 1.5  # drawn by hand, whole pixels
    apart = np.angle(np.exp(2j * (r.objects.obbs[0, 4] - 3.012318))) / 2  # clockwise, and half a turn is no turn
    assert abs(np.rad2deg(apart)) < 3
    assert r.size == (512, 512)
    assert source.read(str(root / "Annotations512"))["00000010"].objects.same(r.objects)


def test_folds_and_pictures_without_objects(tmp_path: Path) -> None:
    root = make(tmp_path, single={"a": line(), "b": ""}, pictures="a_co a_ir b_co b_ir c_co")
    (root / "Annotations512" / "fold01.txt").write_text("b\na\n")
    (root / "Annotations512" / "fold01test.txt").write_text("c\n")
    assert vedai.splits(root) == ["fold01", "fold01test"]
    d = vedai.read(root, "fold01")
    assert [(r.id, len(r.objects), r.frames[0].path.name) for r in d.records] == [
        ("b", 0, "b_co.png"),
        ("a", 1, "a_co.png"),
    ]
    assert [r.id for r in vedai.read(root, "fold01test").records] == ["c"]
    assert [r.id for r in vedai.read(root).records] == ["a", "b", "c"]
    for path in (root / "Vehicules512").glob("*_co.png"):
        path.unlink()
    assert [r.frames[0].path.name for r in vedai.read(root).records] == ["a_ir.png", "b_ir.png"]


def test_all_classes_have_their_numbers(tmp_path: Path) -> None:
    numbers = (1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 23, 31)
    text = "".join(line(kind=str(n), x=30 * i) for i, n in enumerate(numbers))
    d = vedai.read(make(tmp_path, single={"a": text}, pictures="a_co"))
    assert d["a"].objects.labels.tolist() == list(range(12))
    assert d.schema.category_ids == numbers
    assert d.schema.classes[-2:] == ("boat", "plane")


def test_orientation_is_a_heading_where_it_runs_over_the_whole_circle(tmp_path: Path) -> None:
    turns = np.linspace(-np.pi, np.pi, 12)
    whole = "".join(line(round(t, 5), x=30 * i) for i, t in enumerate(turns))
    half = "".join(line(round(t, 5), x=30 * i) for i, t in enumerate(turns / 2))
    d = vedai.read(make(tmp_path / "whole", single={"a": whole}, pictures="a_co"))
    heading = d["a"].objects.heading
    assert heading is not None
    np.testing.assert_allclose(np.exp(1j * heading), np.exp(1j * turns), atol=1e-4)
    assert found(d, "labels.headings") == 12
    vedai.write(d, tmp_path / "out")
    back = vedai.read(tmp_path / "out", "train")["a"].objects.heading
    assert back is not None
    np.testing.assert_allclose(np.exp(1j * back), np.exp(1j * heading), atol=1e-6)
    assert vedai.read(make(tmp_path / "half", single={"a": half}, pictures="a_co"))["a"].objects.heading is None


def test_several_sizes_must_be_told_apart(tmp_path: Path) -> None:
    root = make(tmp_path, single={"00000010": SINGLE})
    (root / "Annotations1024").mkdir()
    (root / "Annotations1024" / "00000010.txt").write_text(SINGLE)
    with pytest.raises(TercelError, match=r"2 folders of annotations \(Annotations1024, Annotations512\)"):
        vedai.read(root)
    assert len(vedai.read(root / "Annotations512")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (line() + line(kind="6"), r"a\.txt:2: unknown class '6'"),
        (line() + "1 2 3\n", r"a\.txt:2: a line is xc yc orientation class"),
        (line() + line().replace("105", "x"), r"a\.txt:2: a line is"),
        (line() + line(45.0), r"a\.txt:2: the angle 45 is beyond a full turn"),
    ],
)
def test_bad_lines(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TercelError, match=message):
        vedai.read(make(tmp_path, single={"a": text}, pictures="a_co"))


def test_corners_in_a_wrong_order_are_mended_and_counted(tmp_path: Path) -> None:
    crossing = "110 105 0.1 1 1 0 100 120 100 120 100 110 110 100\n"
    d = vedai.read(make(tmp_path, single={"a": crossing}, pictures="a_co"))
    assert d["a"].objects.areas.tolist() == pytest.approx([200])
    assert found(d, "labels.crossing") == 1


def test_judged_without_pictures(tmp_path: Path) -> None:
    root = make(tmp_path, single={"00000010": SINGLE}, pictures="")
    d = vedai.read(root, options=Options(pictures=False))
    assert d["00000010"].size == (511, 304)
    assert found(d, "labels.size_from_boxes") == 1
