"""YOLO pose lines: with and without visibility, data.yaml's spellings, lengths that say how many points there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data import source
from tercel.data.formats import FORMATS, yolo_pose

BOX = "0 .5 .5 .5 .5"  # 15 10 45 30 in a picture 60 wide, 40 high
SIX = " ".join(["0 .5", ".5 0", ".25 .25", ".75 .75", ".5 .5", ".3 .4"])


def make(root: Path, *lines: str, yaml: str | None = None) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    Image.new("RGB", (60, 40)).save(root / "images" / "a.png")
    (root / "labels" / "a.txt").write_text("\n".join(lines) + "\n")
    if yaml is not None:
        (root / "data.yaml").write_text(f"train: images\nnames: [turtle]\n{yaml}\n")
    return root


def read(root: Path) -> tuple[Dataset, Objects]:
    d = yolo_pose.read(root)
    return d, d["a"].objects


def said(d: Dataset, check: str) -> int:
    return sum(f.count for f in d.findings if f.check == check)


def recognised(root: Path) -> list[str]:
    return [f for f in FORMATS if FORMATS[f].matches(root)]


def test_the_line_of_the_founding_set(tmp_path: Path) -> None:
    """`0 cx cy w h x1 y1 ... x6 y6`: six points without visibility, all of them visible, also those at (0, y)."""
    make(tmp_path, f"{BOX} {SIX}")
    d, o = read(tmp_path)
    assert o.boxes.tolist() == [[15, 10, 45, 30]]
    assert o.points.tolist() == [[[0, 20], [30, 0], [15, 10], [45, 30], [30, 20], [18, 16]]]  # type: ignore[union-attr]
    assert o.visible.tolist() == [[2] * 6]  # type: ignore[union-attr]
    assert d.schema.keypoints == ("point1", "point2", "point3", "point4", "point5", "point6")
    assert said(d, "labels.point_names") == said(d, "labels.kpt_shape") == 1
    assert recognised(tmp_path) == ["yolo_pose"]


def test_with_visibility_it_alone_says_what_is_labelled(tmp_path: Path) -> None:
    make(tmp_path, f"{BOX} 0 .5 2 .5 .5 0 0 0 1", f"{BOX} 0 0 0 .5 .5 1.000000 0 0 2")
    o = read(tmp_path)[1]
    assert o.visible.tolist() == [[2, 0, 1], [0, 1, 2]]  # type: ignore[union-attr]
    assert o.points.tolist()[0] == [[0, 20], [0, 0], [0, 0]]  # type: ignore[union-attr]


def test_points_at_the_origin_without_visibility_are_kept_and_doubted(tmp_path: Path) -> None:
    d, o = read(make(tmp_path, f"{BOX} 0 0 .5 .5 .3 .3", f"{BOX} 0 .1 .1 0 .3 .3", yaml="kpt_shape: [3, 2]"))
    assert o.visible.tolist() == [[2, 2, 2]] * 2  # type: ignore[union-attr]
    assert said(d, "labels.point_at_origin") == 1


@pytest.mark.parametrize(
    ("numbers", "points", "visible", "doubt"),
    [
        (".3 .4", 1, [2], 0),
        (".3 .4 1", 1, [1], 0),
        (".3 .4 .5 .6 .4 .4", 3, [2] * 3, 1),  # eleven numbers: three points without, or two with visibility
        (".3 .4 2 .4 .4 1", 2, [2, 1], 1),
        (".3 .4 2 .4 .4 1 .4 .4 0", 3, [2, 1, 0], 0),
        (".3 .4 .5 .6 .4 .4 .2 .3", 4, [2] * 4, 0),
    ],
)
def test_without_kpt_shape_the_length_says_how_many(
    numbers: str, points: int, visible: list[int], doubt: int, tmp_path: Path
) -> None:
    d, o = read(make(tmp_path, f"{BOX} {numbers}"))
    assert o.visible.tolist() == [visible]  # type: ignore[union-attr]
    assert len(d.schema.keypoints) == points
    assert said(d, "labels.kpt_shape") == doubt
    assert recognised(tmp_path) == ["yolo_pose"]


def test_nine_numbers_are_corners_unless_data_yaml_speaks_of_points(tmp_path: Path) -> None:
    line = f"{BOX} .3 .4 .5 .6"
    assert recognised(make(tmp_path / "a", line)) == ["yolo_obb"]
    assert recognised(make(tmp_path / "b", line, yaml="kpt_shape: [2, 2]")) == ["yolo_pose"]
    assert read(tmp_path / "b")[1].points.shape == (1, 2, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize("line", ["0 .5 .5 .5 .5", "0 .5 .5 .5 .5 30", "0 .1 .1 .2 .1 .2 .2 .1 .2", "0 .5 .5 .5 x"])
def test_lines_of_other_formats_are_left_to_them(line: str, tmp_path: Path) -> None:
    assert "yolo_pose" not in recognised(make(tmp_path, line))


def test_outlines_are_no_points(tmp_path: Path) -> None:
    """Segmentation lines `class x1 y1 ...` differ in length; where they do not, the points lie far from the box."""
    make(tmp_path, "0 .1 .1 .2 .1 .2 .2", "0 .1 .1 .2 .1 .2 .2 .1 .2 .15 .2")
    assert "yolo_pose" not in recognised(tmp_path)
    make(tmp_path, "0 .7 .7 .02 .03 .9 .1")
    with pytest.raises(TercelError, match=r"a\.txt:1: .* outlines") as e:
        yolo_pose.read(tmp_path)
    assert "kpt_shape" in e.value.remedy
    assert len(read(make(tmp_path, "0 .7 .7 .02 .03 .9 .1", yaml="kpt_shape: [1, 2]"))[1]) == 1


def test_a_line_of_the_wrong_length_is_named(tmp_path: Path) -> None:
    good = f"{BOX} {SIX}"
    d, o = read(make(tmp_path, *[good] * 4, "", f"{good} .5", *[good] * 4, yaml="kpt_shape: [6, 2]"))
    assert len(o) == 8
    (finding,) = [f for f in d.findings if f.check == "labels.fields"]
    assert "17 numbers (class cx cy w h and x y of 6 points)" in finding.message
    assert finding.evidence == (f"{tmp_path / 'labels' / 'a.txt'}:6",)
    make(tmp_path, good, f"{good} .5 .5", yaml="kpt_shape: [6, 2]")
    with pytest.raises(TercelError, match=r"1 of 2 labels cannot be used .*a\.txt:2"):
        yolo_pose.read(tmp_path)
    make(tmp_path, f"{BOX} {'.5 ' * 6} .5 .5 .5 .5 .5 .5 .5 .5", yaml="kpt_shape: [6, 3]")
    with pytest.raises(TercelError, match=r"23 numbers .*x y v of 6 points.*a\.txt:1"):
        yolo_pose.read(tmp_path)


def test_a_length_that_holds_no_points_is_named(tmp_path: Path) -> None:
    make(tmp_path, "0 .5 .5 .5 .5 .5")
    with pytest.raises(TercelError, match=r"a\.txt:1: 6 numbers are not a class, a box and points"):
        yolo_pose.read(tmp_path)


def test_a_visibility_that_is_none_is_named(tmp_path: Path) -> None:
    make(tmp_path, f"{BOX} .5 .5 2", f"{BOX} .5 .5 3", yaml="kpt_shape: [1, 3]")
    with pytest.raises(TercelError, match=r"a\.txt:2: the visibility of point 1 is 3"):
        yolo_pose.read(tmp_path)


NAMED = "kpt_shape: [3, 3]\nkeypoints: [nose, ear_a, ear_b]\n"
LINE = f"{BOX} .5 .5 2 .4 .4 2 .3 .3 2"


def test_names_pairs_edges_and_sigmas(tmp_path: Path) -> None:
    more = "flip_idx: [0, 2, 1]\nedges: [[nose, ear_a]]\nsigmas: [.1, .2, .2]"
    d = read(make(tmp_path, LINE, yaml=NAMED + more))[0]
    assert d.schema == Schema(
        ("turtle",), ("nose", "ear_a", "ear_b"), (("ear_a", "ear_b"),), (("nose", "ear_a"),), (0.1, 0.2, 0.2)
    )
    by_name = "kpt_shape: [3, 3]\nkpt_names: {0: [nose, ear_a, ear_b]}\nflip_pairs: [[ear_b, ear_a]]"
    d = read(make(tmp_path, LINE, yaml=by_name))[0]
    assert d.schema.flip_index.tolist() == [0, 2, 1]
    d = read(make(tmp_path, LINE, yaml="kpt_shape: [3, 3]\nkeypoints: [nose, left, right]"))[0]
    assert d.schema.flip_pairs == (("left", "right"),)
    assert said(d, "labels.flip_pairs") == 1
    d = read(make(tmp_path, LINE, yaml="kpt_shape: [3, 3]\nkeypoints: [nose, left, right]\nflip_idx: [0, 1, 2]"))[0]
    assert d.schema.flip_pairs == ()  # what the file says counts, not what names suggest


BAD = {
    "no involution": ("flip_idx: [1, 2, 0]", r"\(flip_idx\): no involution: 'nose' \(0\) goes to 'ear_a' \(1\)"),
    "two to one": ("flip_idx: [0, 0, 2]", r"no involution: 'ear_a' \(1\) goes to 'nose' \(0\), which goes to 'nose'"),
    "too short": ("flip_idx: [0, 1]", r"flip_idx\): it is \[0, 1\], not 3 numbers"),
    "beyond": ("flip_idx: [0, 1, 3]", "not 3 numbers of points from 0 to 2"),
    "two opinions": ("flip_idx: [0, 2, 1]\nflip_pairs: [[nose, ear_a]]", "flip_idx and flip_pairs say different"),
    "an edge to no point": ("edges: [[nose, tail]]", r"skeleton edge \('nose', 'tail'\) names the point 'tail'"),
    "a pair to no point": ("flip_pairs: [[nose, tail]]", r"flip pair .* names the point 'tail'"),
    "sigmas": ("sigmas: [.1, .1]", "sigmas are no 3 positive numbers"),
    "another number of names": ("keypoints: [nose, ear]", "2 names for 3 points"),
    "no shape": ("kpt_shape: 3", "kpt_shape is 3, not"),
    "four numbers a point": ("kpt_shape: [3, 4]", r"kpt_shape is \[3, 4\], not"),
    "classes apart": ("keypoints:\nkpt_names: {0: [a, b, c], 1: [a, b, d]}", "classes with different points"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_skeleton_is_refused(case: str, tmp_path: Path) -> None:
    yaml, message = BAD[case]
    keys = {line.partition(":")[0] for line in yaml.splitlines()}
    kept = "\n".join(line for line in NAMED.splitlines() if line.partition(":")[0] not in keys)
    with pytest.raises(TercelError, match=message) as e:
        read(make(tmp_path, LINE, yaml=f"{kept}\n{yaml}"))
    assert str(tmp_path / "data.yaml") in e.value.message
    assert e.value.remedy


def animals(folder: Path, schema: Schema, k: int, id_: str = "1") -> Dataset:
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (60, 40)).save(folder / f"{id_}.png")
    points = np.random.default_rng(k).uniform(0, 40, (2, k, 2))
    visible = np.resize([2, 1, 0], (2, k))
    o = Objects((40, 60), [0, 0], [[0, 0, 40, 40], [1, 2, 30, 30]], points=points, visible=visible)
    return Dataset(schema, (Record(id_, (Frame(folder / f"{id_}.png"),), (40, 60), o),))


@pytest.mark.parametrize("k", [1, 2, 6, 17, 40])
def test_any_number_of_points(k: int, tmp_path: Path) -> None:
    d = animals(tmp_path / "in", Schema(("cat",), tuple(f"p{i}" for i in range(k))), k)
    yolo_pose.write(d, tmp_path / "out")
    assert recognised(tmp_path / "out") == ["yolo_pose"]
    back = source.read(f"{tmp_path / 'out'}#train")
    np.testing.assert_array_equal(back["1"].objects.visible, d["1"].objects.visible)  # type: ignore[arg-type]
    assert len(back.schema.keypoints) == k


def test_one_folder_has_one_skeleton(tmp_path: Path) -> None:
    a = Schema(("cat",), ("x", "y"), (("x", "y"),))
    yolo_pose.write(animals(tmp_path / "in", a, 2), tmp_path / "out")
    other: Any = animals(tmp_path / "in", Schema(("cat",), ("x", "z"), (("x", "z"),)), 2, "2")
    with pytest.raises(TercelError, match="another skeleton"):
        yolo_pose.write(other, tmp_path / "out", split="val")
    assert not (tmp_path / "out/labels/val").exists()
    yolo_pose.write(animals(tmp_path / "in", a, 2, "2"), tmp_path / "out", split="val")
    assert source.splits(str(tmp_path / "out")) == ["train", "val"]
