"""COCO instances: ids, areas, crowds, and bad files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.record import Dataset
from tercel.data import source
from tercel.data.formats import coco
from tercel.data.formats.common import Options


def data(**changes: Any) -> dict[str, Any]:
    box = {"id": 5, "image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 20], "iscrowd": 0}
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": 40, "width": 60}],
        "categories": [{"id": 90, "name": "kite"}, {"id": 3, "name": "car"}],
        "annotations": [box],
    } | changes


def make(folder: Path, content: Any, pictures: tuple[str, ...] = ("a.png",)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in pictures:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(folder / name)
    (folder / "gt.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "gt.json"


def boxes(*rows: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"id": i, "image_id": 7, "category_id": 3, "bbox": b} | more for i, b in enumerate(rows)]


def found(dataset: Dataset, check: str) -> int:
    return sum(f.count for f in dataset.findings if f.check == check)


MANY = [[i, 1, 9, 20] for i in range(20)]


def test_sparse_ids_are_mapped_in_order_and_written_back(tmp_path: Path) -> None:
    d = coco.read(make(tmp_path, data()))
    assert d.schema.classes == ("car", "kite")
    assert d.schema.category_ids == (3, 90)
    assert d["7"].objects.labels.tolist() == [1]
    assert d["7"].objects.boxes.tolist() == [[1, 2, 11, 22]]
    assert d["7"].objects.area is None
    assert found(d, "labels.category_ids") == 1
    (written, *_) = coco.write(d, tmp_path / "out")
    again = json.loads(written.read_text())
    assert again["annotations"][0]["category_id"] == 90
    assert again["images"][0]["id"] == 7
    assert again["images"][0]["file_name"] == "a.png"


def test_area_and_crowd(tmp_path: Path) -> None:
    content = data(annotations=boxes([1, 2, 10, 20], [5, 5, 4, 4], iscrowd=1))
    content["annotations"][0] |= {"area": 77.5, "iscrowd": 0}
    o = coco.read(make(tmp_path, content))["7"].objects
    assert o.areas.tolist() == [77.5, 16]
    assert o.ignore.tolist() == [False, True]


def test_annotations_in_any_order_reach_their_picture(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (9, 2, 5)]
    rows = [(5, 1), (9, 2), (2, 3), (5, 4), (9, 5), (5, 6)]  # (picture, left side), mixed
    annotations = [{"id": x, "image_id": i, "category_id": 3, "bbox": [x, 1, 2, 2]} for i, x in rows]
    d = coco.read(make(tmp_path, data(images=images, annotations=annotations)), None, Options(pictures=False))
    assert {r.id: r.objects.boxes[:, 0].tolist() for r in d.records} == {"9": [2, 5], "2": [3], "5": [1, 4, 6]}


def test_the_known_fixtures(shared: Path) -> None:
    oracle = json.loads((shared / "oracles/coco_boxes/gt.json").read_text())
    d = source.read(str(shared / "oracles/coco_boxes/gt.json"), pictures=False)
    assert sum(len(r.objects) for r in d.records) == len(oracle["annotations"]) == 871
    assert sum(int(r.objects.ignore.sum()) for r in d.records) == 15
    assert d.schema.category_ids == (1, 3, 7, 18, 44, 90)
    wanted = {}
    for a in oracle["annotations"]:
        wanted.setdefault(str(a["image_id"]), []).append(a)
    for r in d.records:  # against the file itself, row by row
        rows = wanted.get(r.id, [])
        xywh = np.array([a["bbox"] for a in rows], np.float64).reshape(-1, 4)
        np.testing.assert_array_equal(r.objects.boxes[:, :2], xywh[:, :2].astype(np.float32))
        np.testing.assert_array_equal(r.objects.boxes[:, 2:], (xywh[:, :2] + xywh[:, 2:]).astype(np.float32))
        np.testing.assert_array_equal(r.objects.areas, np.array([a["area"] for a in rows], np.float32))
        assert [d.schema.category_ids[c] for c in r.objects.labels] == [a["category_id"] for a in rows]
    tests = shared / "data/coco-eval-fixtures/tests/dataset"
    ids = [r.id for r in coco.read(tests / "gt_ignore_test.json", None, Options(pictures=False)).records]
    assert ids == ["2299"]  # a string in the pictures, a number in the annotations
    crowdpose = coco.read(tests / "example_crowdpose_val.json", None, Options(pictures=False))
    assert sum(len(r.objects) for r in crowdpose.records) == 10  # no `area` anywhere
    assert all(r.objects.area is None for r in crowdpose.records)
    assert len(coco.read(tests / "gt_dataset.json")) == 3  # with its pictures


@pytest.mark.parametrize("layout", ["gt/a.png", "gt/images/a.png", "images/a.png", "val2017/a.png", "gt/val2017/a.png"])
def test_pictures_are_found_in_the_usual_places(layout: str, tmp_path: Path) -> None:
    path = make(tmp_path / "gt", data(), ())
    path = path.rename(path.with_name("instances_val2017.json"))
    (tmp_path / layout).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(tmp_path / layout)
    assert coco.read(path)["7"].frames[0].path.resolve() == tmp_path / layout


def test_folders_with_several_files(tmp_path: Path) -> None:
    for split in ("train", "val"):
        path = make(tmp_path / "annotations", data(), ())
        path.rename(path.with_name(f"instances_{split}.json"))
        (tmp_path / split).mkdir()
        Image.new("RGB", (60, 40)).save(tmp_path / split / "a.png")
    (tmp_path / "annotations" / "captions.json").write_text('{"images": [], "other": 1}')
    assert coco.splits(tmp_path) == ["train", "val"]
    assert len(source.read(f"{tmp_path}#val")) == 1
    with pytest.raises(TercelError, match=r"holds 2 COCO files \(train, val\)"):
        source.read(str(tmp_path))


def test_rows_are_dropped_by_reason_and_counted(tmp_path: Path) -> None:
    bad = [[5, 5, 0, 9], [9, 5, -3, 9], [float("nan"), 5, 9, 9], [70, 5, 9, 9], [5, 5, 9], "box", [-3, 5, 12, 45]]
    content = data(annotations=boxes(*MANY, *MANY, *bad))
    content["annotations"] += [
        {"id": 101, "image_id": 7, "category_id": 3},
        {"id": 102, "image_id": 99, "category_id": 3, "bbox": [1, 1, 5, 5]},
    ]
    d = coco.read(make(tmp_path, content))
    assert {f.check: f.count for f in d.findings if f.check.startswith("labels.")} == {
        "labels.zero_area": 1,
        "labels.negative_extent": 1,
        "labels.not_finite": 1,
        "labels.outside": 1,
        "labels.fields": 3,
        "labels.orphan": 1,
        "labels.clipped": 1,
        "labels.category_ids": 1,
    }
    assert d["7"].objects.boxes[-1].tolist() == [0, 5, 9, 40]
    place = next(f.evidence[0] for f in d.findings if f.check == "labels.zero_area")
    assert place == f"{tmp_path / 'gt.json'} annotations[40] (id 40)"


IMAGE = {"id": 7, "file_name": "a.png", "height": 40, "width": 60}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (data(images=[IMAGE, IMAGE]), r"images\[1\]: image id 7 occurs twice"),
        (data(images=[IMAGE, IMAGE | {"id": "7"}]), r"images\[1\]: image id 7 occurs twice"),
        (data(images=[IMAGE, IMAGE | {"id": 8}]), r"images 7 and 8 are one file"),
        (data(images=[{"id": 7}]), r"images\[0\]: needs id, file_name"),
        (data(images=[]), "lists no picture"),
        (data(images=[IMAGE | {"file_name": "../a.png"}]), "leaves the folder"),
        (data(images=[IMAGE | {"file_name": "/etc/passwd"}]), "leaves the folder"),
        (data(images=[IMAGE | {"width": 61}]), "made for a picture of 61x40"),
        (data(images=[IMAGE | {"width": 40, "height": 60}]), "made for 40x60, but .* is 60x40 when upright"),
        (data(images=[IMAGE | {"file_name": "b.png"}]), "1 of 1 labelled pictures do not exist"),
        (data(annotations=boxes([1, 1, 5, 5], id=4) * 2), "annotation id 4 occurs twice"),
        (data(annotations=boxes([1, 1, 5, 5], category_id=4)), r"annotations\[0\] \(id 0\): unknown class 4"),
        (data(categories=[{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]), "category id 3 occurs twice"),
        (data(categories=[{"id": 3, "name": "a"}, {"id": 90, "name": "a"}]), "class name 'a' occurs twice"),
        (data(categories=[{"name": "a"}]), "a category without"),
        (data(categories={}), "'categories' is not a list"),
        ("[]", "not a COCO instances file"),
        ('{"images": [\n1,', r"gt\.json:2: not JSON"),
    ],
)
def test_bad_files(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TercelError, match=message) as e:
        coco.read(make(tmp_path, content))
    assert "gt.json" in e.value.message


def test_not_utf8(tmp_path: Path) -> None:
    path = make(tmp_path, data())
    path.write_bytes(path.read_bytes().replace(b"kite", b"k\xe9te"))
    with pytest.raises(TercelError, match=r"gt\.json: byte \d+ is not UTF-8"):
        coco.read(path)


def test_classes_of_a_checkpoint(tmp_path: Path) -> None:
    path = make(tmp_path, data())
    d = coco.read(path, None, Options(classes=("kite", "boat", "car")))
    assert d.schema.classes == ("kite", "boat", "car")
    assert d["7"].objects.labels.tolist() == [0]
    assert d.schema.category_ids[:1] + d.schema.category_ids[2:] == (90, 3)
    with pytest.raises(TercelError, match="unknown class 'car'"):
        coco.read(path, None, Options(classes=("kite",)))


def test_a_single_json_can_be_written(tmp_path: Path) -> None:
    d = coco.read(make(tmp_path / "in", data()))
    coco.write(d, tmp_path / "out" / "x.json")
    back = coco.read(tmp_path / "out" / "x.json")
    assert back["7"].objects.same(d["7"].objects)
    assert back["7"].frames[0].path == tmp_path / "out" / "images" / "a.png"
