"""One json per picture: the public glue tubes number by number, what v means, skeleton.json, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.record import Dataset
from tercel.data import source
from tercel.data.formats import points_json

ONE: dict[str, Any] = {"bboxes": [[1, 2, 30, 30]], "keypoints": [[[0, 4, 1], [20, 21, 1], [5, 6, 0]]]}


def make(folder: Path, *contents: Any, skeleton: Any = None) -> Path:
    """A split `train` with a picture for each content."""
    for kind in ("annotations", "images"):
        (folder / "train" / kind).mkdir(parents=True, exist_ok=True)
    for i, content in enumerate(contents):
        (folder / f"train/annotations/{i}.json").write_text(json.dumps(content))
        Image.new("RGB", (60, 40)).save(folder / f"train/images/{i}.png")
    if skeleton is not None:
        (folder / "skeleton.json").write_text(json.dumps(skeleton))
    return folder


def read(folder: Path) -> Dataset:
    return source.read(f"points_json:{folder}#train")


def said(d: Dataset) -> dict[str, int]:
    return {f.check: f.count for f in d.findings}


def test_glue_tubes_number_by_number(shared: Path) -> None:
    folder = shared / "data/glue-tubes-keypoints"
    assert points_json.splits(folder) == ["test", "train"]
    for split, pictures, objects in (("train", 15, 30), ("test", 23, 41)):
        d = source.read(f"{folder}#{split}")
        assert (len(d), sum(len(r.objects) for r in d.records)) == (pictures, objects)
        for r in d.records:
            data = json.loads((folder / split / "annotations" / f"{r.id}.json").read_text())
            assert r.objects.boxes.tolist() == data["bboxes"]
            assert r.objects.points.tolist() == [[p[:2] for p in row] for row in data["keypoints"]]  # type: ignore[union-attr]
            assert (r.objects.visible == 2).all()
            assert r.frames[0].path.stem == r.id
    everything = source.read(str(folder))
    assert len(everything) == 38
    assert everything.records[0].id.startswith("test/")


def test_the_highest_v_is_visible(tmp_path: Path) -> None:
    d = read(make(tmp_path / "a", ONE))
    assert d["0"].objects.visible.tolist() == [[2, 2, 0]]  # type: ignore[union-attr]
    assert d["0"].objects.points[0, 0].tolist() == [0, 4]  # type: ignore[index]  # at x = 0, and labelled
    assert "labels.visibility" in said(d)
    three = {**ONE, "keypoints": [[[0, 4, 1], [20, 21, 2], [5, 6, 0]]]}
    d = read(make(tmp_path / "b", ONE, three))
    assert d["0"].objects.visible.tolist() == [[1, 1, 0]]  # type: ignore[union-attr]
    assert d["1"].objects.visible.tolist() == [[1, 2, 0]]  # type: ignore[union-attr]
    assert "labels.visibility" not in said(d)
    hidden = read(make(tmp_path / "c", ONE, skeleton={"visible": 2}))
    assert hidden["0"].objects.visible.tolist() == [[1, 1, 0]]  # type: ignore[union-attr]


def test_skeleton_json_names_the_points(tmp_path: Path) -> None:
    names = {"keypoints": ["a_left", "a_right", "tip"], "edges": [["tip", "a_left"]], "sigmas": [0.1, 0.1, 0.2]}
    d = read(make(tmp_path, ONE, skeleton=names))
    assert d.schema.keypoints == ("a_left", "a_right", "tip")
    assert d.schema.flip_pairs == (("a_left", "a_right"),)
    assert d.schema.edges == (("tip", "a_left"),)
    assert d.schema.sigmas == (0.1, 0.1, 0.2)


def test_a_folder_without_splits_and_pictures_beside_their_labels(tmp_path: Path) -> None:
    make(tmp_path, ONE, {"bboxes": [], "keypoints": []})
    d = source.read(str(tmp_path / "train"))
    assert [(r.id, len(r.objects)) for r in d.records] == [("0", 1), ("1", 0)]
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "x.json").write_text(json.dumps(ONE))
    Image.new("RGB", (60, 40)).save(flat / "x.png")
    assert [r.id for r in source.read(str(flat)).records] == ["x"]


def test_pictures_without_labels_are_no_negatives(tmp_path: Path) -> None:
    folder = make(tmp_path, ONE)
    Image.new("RGB", (60, 40)).save(folder / "train/images/more.png")
    d = read(folder)
    assert len(d) == 1
    assert said(d)["labels.none"] == 1


NAMES = {"keypoints": ["a", "b", "c"]}


def first_point(*numbers: Any) -> dict[str, Any]:
    """ONE with another first point."""
    return {**ONE, "keypoints": [[list(numbers), *ONE["keypoints"][0][1:]]]}


# what the second file holds, skeleton.json, and what is said
BAD: dict[str, tuple[Any, Any, str]] = {
    "an object with fewer points": (
        {**ONE, "keypoints": [ONE["keypoints"][0][:2]]}, None,
        r"annotations/1.json keypoints\[0\]: 2 points, but .*0.json keypoints\[0\] has 3",
    ),
    "other names than points": (
        ONE, {"keypoints": ["a", "b"]}, r"0.json keypoints\[0\]: 3 points, but .*skeleton.json has 2"
    ),
    "two numbers for a point": (first_point(0, 4), None, r"1.json keypoints\[0\]\[0\]: \[0, 4\] is not x y v"),
    "a v of 3": (first_point(0, 4, 3), None, r"1.json keypoints\[0\]: the visibility of point 1 is 3"),
    "more boxes than objects": (
        {**ONE, "bboxes": [[1, 2, 3, 4]] * 2}, None, r"1.json: 2 bboxes, but keypoints of 1 objects"
    ),
    "a box of three numbers": (
        {**ONE, "bboxes": [[1, 2, 3]]}, None, r"1.json bboxes\[0\]: \[1, 2, 3\] is not x1 y1 x2 y2"
    ),
    "no boxes": ({"keypoints": []}, None, r"1.json: no lists bboxes and keypoints"),
    "points that are none": ({**ONE, "keypoints": [7]}, None, r"1.json keypoints\[0\]: 7 is no list of points"),
    "a skeleton that is a list": (ONE, [], r"skeleton.json: not a skeleton"),
    "a pair to no point": (ONE, NAMES | {"flip_pairs": [["a", "d"]]}, r"skeleton.json: .*'d'"),
    "an edge to no point": (ONE, NAMES | {"edges": [["a", "d"]]}, r"skeleton.json: .*'d'"),
    "pairs that are no involution": (
        ONE, NAMES | {"flip_pairs": [["a", "b"], ["b", "c"]]}, r"skeleton.json: keypoint 'b' occurs in two"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_labels_are_refused_with_their_place(case: str, tmp_path: Path) -> None:
    content, skeleton, message = BAD[case]
    with pytest.raises(TercelError, match=message) as e:
        read(make(tmp_path, ONE, content, skeleton=skeleton))
    assert e.value.remedy
