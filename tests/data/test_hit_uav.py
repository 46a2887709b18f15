"""HIT-UAV's json: the real files, the axis-aligned variant, DontCare, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.geometry import obb_corners
from tercel.core.record import Dataset
from tercel.data import source
from tercel.data.formats import hit_uav
from tercel.data.formats.common import Options

CATEGORIES = [{"id": 0, "name": "Person"}, {"id": 1, "name": "Car"}, {"id": 4, "name": "DontCare"}]


def make(root: Path, *boxes: Any, key: str = "annotations", **changes: Any) -> Path:
    """One picture `a.jpg` of 64 x 48 with objects (category, difficult, bbox)."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "train").mkdir(exist_ok=True)
    Image.new("L", (64, 48)).save(root / "train" / "a.jpg")
    rows = [
        {"id": i, "image_id": 7, "category_id": c, "difficult": d, "bbox": b} | changes
        for i, (c, d, b) in enumerate(boxes)
    ]
    images = [{"id": 7, "width": 64, "height": 48, "filename": "a.jpg"}]
    data = {"info": {}, "images": images, key: rows, "categories": CATEGORIES}
    (root / "annotations" / "train.json").write_text(json.dumps(data))
    return root


def found(dataset: Dataset, check: str) -> int:
    return sum(f.count for f in dataset.findings if f.check == check)


def test_the_real_files(shared: Path) -> None:
    """Counts of SOURCE.md; what the same labels are as roLabelImg XML, read by another reader."""
    train, val = (source.read(f"hit_uav:{shared / 'data/hit-uav'}#{s}") for s in ("train", "val"))
    assert (len(train), len(val)) == (677, 290)
    assert train.schema.classes == val.schema.classes == ("Person", "Car", "Bicycle", "OtherVehicle")
    regions = [found(d, "labels.every_class") for d in (train, val)]
    assert regions == [36, 7]
    assert [sum(len(r.objects) for r in d.records) + r - 4 * r for d, r in zip((train, val), regions)] == [5871, 2460]
    assert found(val, "data.negatives") == 3
    xml = source.read(f"rolabelimg:{shared / 'data/hit-uav/val_rolabelimg_xml'}#val", pictures=False)
    by_stem = {r.frames[0].path.stem: r for r in val.records}
    assert len(xml) == 290
    for r in xml.records:
        other = by_stem[r.id].objects
        assert r.objects.obbs is not None
        np.testing.assert_array_equal(r.objects.obbs, other.obbs)
        here = [(xml.schema.classes[i], g) for i, g in zip(r.objects.labels, r.objects.ignore)]
        there = [(val.schema.classes[i], g) for i, g in zip(other.labels, other.ignore)]
        assert sorted(here) == sorted(there)


def test_a_box_by_hand(tmp_path: Path) -> None:
    """20 along a direction 45 degrees clockwise from x (to the lower right), 10 across."""
    r = hit_uav.read(make(tmp_path, (1, False, [30, 20, 20, 10, np.pi / 4])))["7"]
    assert r.objects.obbs is not None
    assert r.objects.obbs[0].tolist() == pytest.approx([30, 20, 20, 10, np.pi / 4], abs=1e-6)
    corners = {tuple(np.round(c, 2)) for c in obb_corners(r.objects.obbs)[0].tolist()}
    s = np.sqrt(0.5)
    ends = [(30 + a * 10 * s - b * 5 * s, 20 + a * 10 * s + b * 5 * s) for a in (1, -1) for b in (1, -1)]
    assert corners == {(round(x, 2), round(y, 2)) for x, y in ends}
    assert r.objects.areas.tolist() == [200]


def test_length_below_width_and_angles_up_to_pi(tmp_path: Path) -> None:
    o = hit_uav.read(make(tmp_path, (1, False, [30, 20, 10, 20, 0]), (1, False, [30, 20, 20, 10, 3.141593])))[
        "7"
    ].objects
    assert o.obbs is not None
    assert o.obbs.tolist() == [
        pytest.approx([30, 20, 20, 10, -np.pi / 2], abs=1e-6),
        pytest.approx([30, 20, 20, 10, 0], abs=1e-6),
    ]


def test_dont_care_is_ignored_for_every_class_and_difficult_for_its_own(tmp_path: Path) -> None:
    box = [30, 20, 20, 10, 0.5]
    d = hit_uav.read(make(tmp_path, (0, False, box), (4, False, [20, 20, 9, 9, 0]), (1, True, box)))
    o = d["7"].objects
    assert d.schema.classes == ("Person", "Car")
    assert o.labels.tolist() == [0, 0, 1, 1]
    assert o.ignore.tolist() == [False, True, True, True]
    assert found(d, "labels.every_class") == 1
    hit_uav.write(d, tmp_path / "out")
    back = json.loads((tmp_path / "out/annotations/train.json").read_text())
    assert [(a["category_id"], a["difficult"]) for a in back["annotations"]] == [(0, False), (2, False), (1, True)]
    assert hit_uav.read(tmp_path / "out")["7"].objects.same(o)


def test_the_axis_aligned_variant(tmp_path: Path) -> None:
    """Its list is called `annotation`, its boxes are x y w h from the top left: those of the published file."""
    make(tmp_path, (0, False, [10, 5, 13, 26]), (4, False, [1, 2, 3, 4]), key="annotation")
    assert source.read(f"{tmp_path}#train").schema.classes == ("Person", "Car")
    d = hit_uav.read(tmp_path)
    assert d["7"].objects.obbs is None
    assert d["7"].objects.boxes.tolist() == [[10, 5, 23, 31], [1, 2, 4, 6], [1, 2, 4, 6]]
    hit_uav.write(d, tmp_path / "out")
    assert hit_uav.read(tmp_path / "out")["7"].objects.same(d["7"].objects)


def test_held_to_a_class_list(tmp_path: Path) -> None:
    make(tmp_path, (1, False, [30, 20, 20, 10, 0.5]))
    assert hit_uav.read(tmp_path, options=Options(classes=("Car", "Person")))["7"].objects.labels.tolist() == [0]
    with pytest.raises(TercelError, match="unknown class 'Person'"):
        hit_uav.read(tmp_path, options=Options(classes=("Car", "Persons")))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, False, [30, 20, 20, 10, 45.0])], r"45 is beyond a full turn.*0\.7854 radians"),
        ([(1, False, [30, 20, 20, 10, 0.1]), (1, False, [3, 2, 20, 10])], "a bbox of 4 numbers, the first has 5"),
        ([(9, False, [30, 20, 20, 10, 0.1])], "unknown class 9"),
        ([(1, False, [30, 20, 20])], "without a bbox of 5 numbers"),
        ([(1, False, [30, 20, -20, 10, 0])], "negative length or width"),
    ],
)
def test_bad_rows(rows: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TercelError, match=message):
        hit_uav.read(make(tmp_path, *rows))


def test_objects_of_two_kinds_cannot_be_written_together(tmp_path: Path) -> None:
    d = hit_uav.read(make(tmp_path / "a", (1, False, [30, 20, 20, 10, 0.5])))
    e = hit_uav.read(make(tmp_path / "b", (1, False, [30, 20, 20, 10]), key="annotation"))
    both = Dataset(d.schema, (d.records[0], type(e.records[0])("8", e.records[0].frames, (48, 64), e["7"].objects)))
    with pytest.raises(TercelError, match="without angles, others have oriented ones"):
        hit_uav.write(both, tmp_path / "out")
    assert not (tmp_path / "out").exists()
