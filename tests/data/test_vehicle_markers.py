"""VehicleMarkers: corners by the editor's formula, disabled markers, regions, headings, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.geometry import obb_corners, obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data import source
from tercel.data.formats import vehicle_markers
from tercel.data.formats.common import Options

MARKER = {
    "frame_id": 0, "id": 0, "x": 60.5, "y": 44.0, "length": 68.0, "width": 27.0, "heading_angle": 37.5, "type": 0,
    "enabled": True, "score": 0.91, "certainty": 0.83, "certainty2": 0.75, "manually_keyed": False,
}  # fmt: skip
CAR, DONT_CARE, REGION = 0, 9, -1


def make(root: Path, *changes: dict[str, Any], name: str = "a") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (120, 90)).save(root / f"{name}.jpg")
    markers = [[{**MARKER, **c}] for c in changes]
    (root / f"{name}.vehicle_markers.json").write_text(json.dumps(markers))
    return root


def found(dataset: Dataset, check: str) -> int:
    return sum(f.count for f in dataset.findings if f.check == check)


def test_corners_are_those_of_the_editor(tmp_path: Path) -> None:
    """c +- L/2 (cos, sin) +- W/2 (-sin, cos), with y down."""
    r = source.read(str(make(tmp_path, {})))["a"]
    assert r.objects.obbs is not None
    c, s = np.cos(np.deg2rad(37.5)), np.sin(np.deg2rad(37.5))
    wanted = {
        (round(60.5 + a * 34 * c - b * 13.5 * s, 2), round(44 + a * 34 * s + b * 13.5 * c, 2))
        for a in (1, -1)
        for b in (1, -1)
    }
    assert {(round(x, 2), round(y, 2)) for x, y in obb_corners(r.objects.obbs.astype(float))[0].tolist()} == wanted


@pytest.mark.parametrize("degrees", [0, 45, 90, 135, 225, 300])
def test_headings_survive_reading_and_writing(degrees: float, tmp_path: Path) -> None:
    d = vehicle_markers.read(make(tmp_path / "in", {"heading_angle": degrees, "manually_keyed": True}))
    o = d["a"].objects
    assert o.heading is not None
    assert np.exp(1j * o.heading[0]) == pytest.approx(np.exp(1j * np.deg2rad(degrees)), abs=1e-6)
    vehicle_markers.write(d, tmp_path / "out")
    m = json.loads((tmp_path / "out/train/a.vehicle_markers.json").read_text())[0][0]
    assert m["heading_angle"] == pytest.approx(degrees, abs=1e-4)
    assert (m["x"], m["y"], m["length"], m["width"], m["type"], m["enabled"]) == (60.5, 44, 68, 27, 0, True)
    back = vehicle_markers.read(tmp_path / "out", "train")["a"].objects
    assert back.heading is not None
    np.testing.assert_allclose(np.exp(1j * back.heading), np.exp(1j * o.heading), atol=1e-6)


def test_length_below_width_keeps_the_heading_across_the_longer_side(tmp_path: Path) -> None:
    change = {"length": 20, "width": 30, "heading_angle": 10, "manually_created": True}
    d = vehicle_markers.read(make(tmp_path / "in", change))
    o = d["a"].objects
    assert o.obbs is not None
    assert o.heading is not None
    assert o.obbs[0, 2:].tolist() == pytest.approx([30, 20, np.deg2rad(-80)], abs=1e-6)
    assert o.heading[0] == pytest.approx(np.deg2rad(10), abs=1e-6)
    vehicle_markers.write(d, tmp_path / "out")
    m = json.loads((tmp_path / "out/train/a.vehicle_markers.json").read_text())[0][0]
    assert [m["length"], m["width"], m["heading_angle"]] == pytest.approx([20, 30, 10], abs=1e-4)


def test_detections_that_no_one_touched_have_no_heading(tmp_path: Path) -> None:
    d = vehicle_markers.read(make(tmp_path, {}, {"manually_keyed": True}, {"score": None}, {"heading_known": False}))
    headed = d["a"].objects.headed
    assert headed is not None
    assert headed.tolist() == [False, True, True, False]


def test_disabled_markers_are_ignored_and_counted(tmp_path: Path) -> None:
    """aerial-2: they once were truth. In = enabled + disabled + regions."""
    make(tmp_path / "in", {"enabled": False}, {}, {"type": DONT_CARE}, {"type": REGION})
    d = vehicle_markers.read(tmp_path / "in", options=Options(classes=("car", "bus")))
    o = d["a"].objects
    assert o.labels.tolist() == [0, 0, 0, 1]
    assert o.ignore.tolist() == [True, False, True, True]
    assert [found(d, f"labels.{k}") for k in ("disabled", "every_class", "regions")] == [1, 1, 1]
    vehicle_markers.write(d, tmp_path / "out")
    back = json.loads((tmp_path / "out/train/a.vehicle_markers.json").read_text())
    assert [(m["type"], m["enabled"]) for (m,) in back] == [(0, False), (0, True), (DONT_CARE, True)]


def test_types_are_the_editor_s(tmp_path: Path) -> None:
    d = vehicle_markers.read(make(tmp_path, *({"type": t} for t in (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12))))
    assert [d.schema.classes[i] for i in d["a"].objects.labels] == [
        "car", "bus", "mini_bus", "truck", "van", "motorcycle", "cyclist", "pedestrian", "big_truck", "small_trailer",
        "travel_trailer", "trailer",
    ]  # fmt: skip


def test_other_class_lists_keep_the_known_types(tmp_path: Path) -> None:
    """A truck is type 3 whatever its place in the class list: else the editor would show another vehicle."""
    obbs = np.array([[20, 20, 9, 5, 0.5]] * 3, np.float32)
    o = Objects((90, 120), [0, 1, 2], obb_hull(obbs), obbs=obbs)
    Image.new("RGB", (120, 90)).save(tmp_path / "a.png")
    d = Dataset(Schema(("kayak", "truck", "raft")), (Record("a", (Frame(tmp_path / "a.png"),), o.size, o),))
    vehicle_markers.write(d, tmp_path / "out")
    markers = json.loads((tmp_path / "out/train/a.vehicle_markers.json").read_text())
    assert [m["type"] for (m,) in markers] == [13, 3, 14]
    back = vehicle_markers.read(tmp_path / "out", "train")
    assert back.schema.classes == d.schema.classes
    assert back["a"].objects.labels.tolist() == [0, 1, 2]


def test_splits_and_negatives(tmp_path: Path) -> None:
    make(tmp_path / "train", {})
    make(tmp_path / "val", {}, name="b")
    Image.new("RGB", (120, 90)).save(tmp_path / "val" / "empty.jpg")
    assert vehicle_markers.splits(tmp_path) == ["train", "val"]
    val = vehicle_markers.read(tmp_path, "val")
    assert [(r.id, len(r.objects)) for r in val.records] == [("b", 1), ("empty", 0)]
    assert found(val, "labels.none") == 1
    assert {r.id for r in vehicle_markers.read(tmp_path).records} == {"train/a", "val/b", "val/empty"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": 40}, "unknown class 40"),
        ({"type": "car"}, "unknown class 'car'"),
        ({"width": None}, r"markers without x, y, length, width and heading_angle as numbers.*\(1x"),
        ({"frame_id": 3}, "markers of other frames"),
    ],
)
def test_bad_markers(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TercelError, match=message):
        vehicle_markers.read(make(tmp_path, change))


def test_what_is_no_marker_file(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "a.vehicle_markers.json").write_text('{"x": 1}')
    with pytest.raises(TercelError, match="not a list of markers"):
        vehicle_markers.read(tmp_path)
    (tmp_path / "a.vehicle_markers.json").write_text("[[1]]")
    with pytest.raises(TercelError, match=r"json\[0\]: not a marker"):
        vehicle_markers.read(tmp_path)


def test_the_side_file(tmp_path: Path) -> None:
    path = tmp_path / "a.video_attrs.json"
    vehicle_markers.write_attributes(path, 47.5, 20)
    assert json.loads(path.read_text())["MostCommonVehicleWidthInPixels"] == 20
    assert vehicle_markers.read_attributes(path) == (47.5, 20)
    with pytest.raises(TercelError, match="exists already"):
        vehicle_markers.write_attributes(path, 1, 1)
    path.write_text("{}")
    assert vehicle_markers.read_attributes(path) is None
