"""COCO keypoints: the oracle's file number by number, what is kept, counted and refused; pictures within HDF5."""

from __future__ import annotations

import json
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
from tercel.data.formats import FORMATS, coco
from tercel.data.formats.common import Options

NAMES = ["nose", "left_ear", "right_ear"]
GOOD = [10, 12, 2, 0, 20.5, 1, 0, 0, 0]


def annotation(id_: int = 1, **keys: Any) -> dict[str, Any]:
    a = {"id": id_, "image_id": 1, "category_id": 1, "bbox": [0, 10, 20, 20], "keypoints": GOOD, "num_keypoints": 2}
    return {k: v for k, v in (a | keys).items() if v is not None}


def make(folder: Path, *annotations: dict[str, Any], categories: Any = None, **category: Any) -> Path:
    one = {"id": 1, "name": "cat", "keypoints": NAMES, "skeleton": [[1, 2], [3, 1]]} | category
    one = {k: v for k, v in one.items() if v is not None}
    images = [{"id": 1, "file_name": "1.png", "height": 40, "width": 60}]
    data = {"images": images, "annotations": list(annotations), "categories": categories or [one]}
    (folder / "gt.json").write_text(json.dumps(data))
    return folder / "gt.json"


def read(file: Path, **options: Any) -> Dataset:
    return coco.read(file, None, Options(pictures=False, **options))


def counts(d: Dataset) -> dict[str, int]:
    return {f.check: f.count for f in d.findings}


def test_the_oracle_is_read_number_by_number(shared: Path) -> None:
    file = shared / "oracles/coco_keypoints/gt.json"
    d, truth = source.read(str(file), pictures=False, as_written=True), json.loads(file.read_text())
    assert d.schema.keypoints == tuple(truth["categories"][0]["keypoints"])
    for r in d.records:
        rows = [a for a in truth["annotations"] if str(a["image_id"]) == r.id]
        assert len(r.objects) == len(rows)
        for i, a in enumerate(rows):
            triples = np.array(a["keypoints"], np.float32).reshape(-1, 3)
            np.testing.assert_array_equal(r.objects.points[i], triples[:, :2])  # type: ignore[index]
            assert r.objects.visible[i].tolist() == triples[:, 2].tolist()  # type: ignore[index]
            assert r.objects.ignore[i] == bool(a["iscrowd"])
            assert r.objects.areas[i] == np.float32(a["area"])
    at_the_edge = sum(
        a["keypoints"][i] == 0 < a["keypoints"][i + 2] for a in truth["annotations"] for i in range(0, 18, 3)
    )
    kept = sum(
        int(((r.objects.points[..., 0] == 0) & (r.objects.visible > 0)).sum()) for r in d.records if len(r.objects)
    )  # type: ignore[index,operator]
    assert kept == at_the_edge > 0  # turtle-6: a labelled point at exactly (0, y) is a labelled point


def test_points_visibility_and_skeleton_by_hand(tmp_path: Path) -> None:
    d = read(make(tmp_path, annotation(), sigmas=[0.1, 0.2, 0.2]))
    assert d.schema == Schema(
        ("cat",), tuple(NAMES), (("left_ear", "right_ear"),), (("nose", "left_ear"), ("right_ear", "nose")),
        (0.1, 0.2, 0.2), category_ids=(1,),
    )  # fmt: skip
    o = d["1"].objects
    assert o.points.tolist() == [[[10, 12], [0, 20.5], [0, 0]]]  # type: ignore[union-attr]
    assert o.visible.tolist() == [[2, 1, 0]]  # type: ignore[union-attr]
    assert counts(d) == {"labels.flip_pairs": 1}  # they were read from the names
    assert counts(read(make(tmp_path, annotation(), flip_pairs=[]))) == {}


@pytest.mark.parametrize("x", [0, 10])
def test_visibility_is_the_third_number_and_nothing_else(x: float, tmp_path: Path) -> None:
    d = read(make(tmp_path, annotation(keypoints=[x, 12, 0, x, 0, 2, x, 0, 1])))
    assert d["1"].objects.visible.tolist() == [[0, 2, 1]]  # type: ignore[union-attr]
    assert d["1"].objects.points.tolist() == [[[0, 0], [x, 0], [x, 0]]]  # type: ignore[union-attr]


def test_objects_without_points_keep_their_box(tmp_path: Path) -> None:
    rows = [
        annotation(1),
        annotation(2, num_keypoints=0, keypoints=[0] * 9),
        annotation(3, keypoints=None, num_keypoints=0),
    ]
    rows.append(annotation(4, num_keypoints=0))  # says none, and has two
    d = read(make(tmp_path, *rows))
    assert d["1"].objects.visible.tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]  # type: ignore[union-attr]
    assert counts(d)["labels.no_points"] == 3
    assert counts(d)["labels.num_keypoints"] == 1
    assert "labels.all_absent" not in counts(d)


def test_every_point_invisible_is_said(tmp_path: Path) -> None:
    d = read(make(tmp_path, annotation(1, keypoints=[0] * 9, num_keypoints=0)))
    assert counts(d)["labels.all_absent"] == 1


def test_an_object_without_a_box_gets_the_hull_of_its_points(tmp_path: Path) -> None:
    rows = [annotation(1, bbox=None, keypoints=[10, 12, 2, 5, 30, 1, 0, 0, 0]), annotation(2)]
    rows.append(annotation(3, bbox=None, keypoints=[7, 8, 2, 0, 0, 0, 0, 0, 0], num_keypoints=1))
    d = read(make(tmp_path, *rows))
    assert d["1"].objects.boxes.tolist() == [[5, 12, 10, 30], [0, 10, 20, 30], [6.5, 7.5, 7.5, 8.5]]
    assert counts(d)["labels.hull"] == 2
    assert counts(d)["labels.thin_hull"] == 1


def test_odd_points_are_kept_and_counted(tmp_path: Path) -> None:
    rows = [
        annotation(
            1, keypoints=[-3, 12, 2, 61, 41, 1, 5, 12, 2], num_keypoints=3
        ),  # two outside the picture and the box
        annotation(2, keypoints=[30, 12, 2, 10, 12, 2, 10, 12, 1], num_keypoints=3),  # one outside the box, one twice
        annotation(3, keypoints=[0, 10, 2, 20, 30, 2, 0, 0, 0]),  # on the edge is inside
        annotation(4, keypoints=[float("nan"), 10, 2, 20, 30, 2, 0, 0, 0]),
    ]
    d = read(make(tmp_path, *rows))
    assert d["1"].objects.points[:2].tolist() == [  # type: ignore[index]
        [[-3, 12], [61, 41], [5, 12]], [[30, 12], [10, 12], [10, 12]]]  # fmt: skip
    assert d["1"].objects.visible[3].tolist() == [0, 2, 0]  # type: ignore[index]
    seen = counts(d)
    assert seen["labels.point_outside_picture"] == 2
    assert seen["labels.point_outside_box"] == 3
    assert seen["labels.point_duplicate"] == 1
    assert seen["labels.point_not_finite"] == 1


BAD = {
    "a wrong number": (annotation(keypoints=GOOD[:-1]), {}, r"annotations\[0\] \(id 1\): keypoints has 8 numbers"),
    "no numbers": (annotation(keypoints=[*GOOD[:-1], "x"]), {}, r"annotations\[0\] .* no number"),
    "a visibility that is none": (annotation(keypoints=[*GOOD[:-1], 5]), {}, r"visibility of point 3 is 5"),
    "a pair to no point": (annotation(), {"flip_pairs": [["nose", "tail"]]}, r"category 'cat'.*'tail'"),
    "a point in two pairs": (
        annotation(), {"flip_pairs": [["nose", "left_ear"], ["left_ear", "right_ear"]]}, "'left_ear' occurs in two flip"
    ),
    "pairs that are none": (annotation(), {"flip_pairs": [["nose"]]}, "flip pairs are no list of pairs"),
    "too few sigmas": (annotation(), {"sigmas": [0.1]}, "sigmas are no 3 positive numbers"),
    "a negative sigma": (annotation(), {"sigmas": [0.1, 0.1, -1]}, "sigmas are no 3 positive numbers"),
    "names that are none": (annotation(), {"keypoints": [1, 2, 3]}, "no list of names"),
    "a name twice": (annotation(), {"keypoints": ["a", "a", "b"], "skeleton": []}, "'a' occurs twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_points_are_refused_with_their_place(case: str, tmp_path: Path) -> None:
    row, category, message = BAD[case]
    with pytest.raises(TercelError, match=message) as e:
        read(make(tmp_path, row, **category))
    assert str(tmp_path / "gt.json") in e.value.message
    assert e.value.remedy


@pytest.mark.parametrize("edge", [[3, 4], [0, 1], [1], [1, 1], "ab"])
def test_a_skeleton_with_an_edge_to_a_missing_point_is_left_out_and_named(edge: Any, tmp_path: Path) -> None:
    """CrowdPose has 14 points and COCO's skeleton of 17: its truth can be judged, its edges cannot be drawn."""
    d = read(make(tmp_path, annotation(), skeleton=[[1, 2], edge]))
    assert d.schema.edges == ()
    (said,) = [f for f in d.findings if f.check == "labels.skeleton"]
    assert str(edge) in said.message
    assert str(tmp_path / "gt.json") in said.evidence[0]


def test_categories_share_one_skeleton(tmp_path: Path) -> None:
    cat = {"id": 1, "name": "cat", "keypoints": NAMES}
    dog = {"id": 2, "name": "dog", "keypoints": NAMES}
    bowl = {"id": 3, "name": "bowl"}
    rows = [annotation(1), annotation(2, category_id=3, keypoints=None, num_keypoints=None)]
    d = read(make(tmp_path, *rows, categories=[cat, dog, bowl]))
    assert d["1"].objects.visible.tolist() == [[2, 1, 0], [0, 0, 0]]  # type: ignore[union-attr]
    with pytest.raises(TercelError, match="'cat' and 'dog' differ in their keypoints"):
        read(make(tmp_path, categories=[cat, dog | {"keypoints": NAMES[::-1]}]))


def test_points_without_names_are_numbered(tmp_path: Path) -> None:
    d = read(make(tmp_path, annotation(), keypoints=None, skeleton=None))
    assert d.schema.keypoints == ("point1", "point2", "point3")
    assert counts(d)["labels.point_names"] == 1


def test_a_file_without_points_is_as_it_was(tmp_path: Path) -> None:
    d = read(make(tmp_path, annotation(keypoints=None, num_keypoints=None), keypoints=None, skeleton=None))
    assert d["1"].objects.columns == ("labels", "boxes", "ignore")
    assert d.schema.keypoints == ()


def test_writing_says_what_coco_says(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    o = Objects((40, 60), [0], [[1, 2, 30, 30]], points=[[[3, 4], [50, 60], [0, 9]]], visible=[[2, 0, 1]])
    schema = Schema(("cat",), tuple(NAMES), (("left_ear", "right_ear"),), (("nose", "right_ear"),), (0.1, 0.2, 0.2))
    coco.write(Dataset(schema, (Record("7", (Frame(tmp_path / "a.png"),), (40, 60), o),)), tmp_path / "out")
    data = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert data["annotations"][0]["keypoints"] == [3, 4, 2, 0, 0, 0, 0, 9, 1]
    assert data["annotations"][0]["num_keypoints"] == 2
    assert data["categories"] == [
        {"id": 1, "name": "cat", "keypoints": NAMES, "skeleton": [[1, 3]], "flip_pairs": [["left_ear", "right_ear"]],
         "sigmas": [0.1, 0.2, 0.2]}
    ]  # fmt: skip


@pytest.mark.parametrize("format_", ["coco", "yolo_pose"])
def test_pictures_in_an_hdf5_file_are_written_as_png(format_: str, tmp_path: Path) -> None:
    import h5py

    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 60, 1), np.uint8)
    with h5py.File(tmp_path / "set.h5", "w") as f:
        f["images"] = pixels
    o = Objects((40, 60), [0], [[1, 2, 30, 30]], points=[[[3, 4], [5, 6], [0, 9]]], visible=[[2, 2, 1]])
    records = tuple(Record(str(i), (Frame(tmp_path / "set.h5", i),), (40, 60), o) for i in (0, 2))
    FORMATS[format_].write(Dataset(Schema(("fly",), tuple(NAMES)), records), tmp_path / "out")
    back = FORMATS[format_].read(tmp_path / "out", "train", Options())
    for r in records:
        picture = np.asarray(Image.open(back[r.id].frames[0].path).convert("RGB"))
        np.testing.assert_array_equal(picture, np.repeat(pixels[r.frames[0].index], 3, axis=2))
    with pytest.raises(TercelError, match="exists already"):
        FORMATS[format_].write(Dataset(Schema(("fly",), tuple(NAMES)), records), tmp_path / "out")
