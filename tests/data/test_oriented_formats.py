"""DOTA and VSAI, YOLO-OBB, the aerial training line, DroneVehicle: what is special to each, and bad input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercel.core.finding import Ledger, TercelError
from tercel.core.record import Dataset
from tercel.core.schema import Schema
from tercel.data import source
from tercel.data.formats import aerial, common, dota, dronevehicle, yolo, yolo_obb
from tercel.data.formats.common import Options, Picture, Rows
from tercel.data.images import read_image

PLANE = "2753 2408 2861 2385 2888 2468 2805 2502 plane 0"  # a line of DOTA
VEHICLE = "1753.0 428.0 1745.0 417.0 1785.0 391.0 1792.0 402.0 large-vehicle 0"
BOX = "10 20 30 20 30 28 10 28"  # cx 20, cy 24, 20 x 8


def picture(path: Path, size: tuple[int, int] = (100, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def found(dataset: Dataset, check: str) -> int:
    return sum(f.count for f in dataset.findings if f.check == check)


def obbs(dataset: Dataset, id_: str) -> Any:
    return dataset[id_].objects.obbs


# -- rows ---------------------------------------------------------------------------------------------------------


def judged(values: Any, **more: Any) -> Dataset:
    n = len(values)
    nothing = np.zeros(n, np.int64)
    where = "f:{}".format
    rows = Rows(nothing, nothing, np.zeros((n, 4)), where, nothing > 0, obbs=np.array(values, np.float64), **more)
    pictures, options = [Picture("a", Path("a.png"), (40, 60), "f")], Options(max_drop=1)
    return common.assemble(pictures, rows, Schema(("car",)), Ledger(), options=options, source="f")


def test_oriented_rows_become_canonical_with_hull_and_area() -> None:
    o = judged([[20, 10, 4, 8, 0]])["a"].objects
    assert o.obbs is not None
    assert o.area is not None
    np.testing.assert_allclose(o.obbs, [[20, 10, 8, 4, -math.pi / 2]], atol=1e-6)
    np.testing.assert_allclose(o.boxes, [[18, 6, 22, 14]], atol=1e-5)
    assert o.area.tolist() == [32]
    assert o.heading is None


def test_every_loss_of_oriented_rows_is_counted() -> None:
    good, across = [20, 10, 8, 4, 0.5], [1, 20, 30, 4, 0.0]
    d = judged([good, across, [20, 10, np.nan, 4, 0], [20, 10, -1, 4, 0], [20, 10, 8, 0, 1], [90, 90, 8, 4, 0]])
    assert len(d["a"].objects) == 2
    np.testing.assert_allclose(obbs(d, "a")[1], across)  # whole, though it reaches beyond the picture
    assert {f.check: f.count for f in d.findings} == {
        "labels.not_finite": 1,
        "labels.negative_extent": 1,
        "labels.zero_area": 1,
        "labels.outside": 1,
        "labels.beyond": 1,
    }


def test_headings_are_kept_apart_and_bad_ones_are_unknown() -> None:
    d = judged(
        [[20, 10, 8, 4, 0]] * 3 + [[20, 10, 8, 0, 0]],
        heading=np.array([7.0, np.nan, np.nan, 1]),
        headed=np.array([True, True, False, True]),
    )
    o = d["a"].objects
    assert o.headed is not None
    assert o.heading is not None
    assert o.headed.tolist() == [True, False, False]
    np.testing.assert_allclose(o.heading, [7 - 2 * math.pi, 0, 0], atol=1e-6)
    assert found(d, "labels.heading") == 1


def test_rows_of_missing_pictures_take_their_columns_along() -> None:
    """One picture of two is missing: the rows of the other keep their boxes and headings."""
    rows = Rows(
        np.array([-1, 0, -1, 0]),
        np.zeros(4, np.int64),
        np.zeros((4, 4)),
        "f:{}".format,
        np.zeros(4, np.bool_),
        obbs=np.array([[9, 9, 8, 4, 0], [20, 10, 8, 4, 0.5], [9, 9, 8, 4, 0], [30, 20, 8, 4, 1]], np.float64),
        heading=np.array([0, 1, 2, 3.0]),
        headed=np.array([True, True, True, False]),
    )
    pictures = [Picture("a", Path("a.png"), (40, 60), "f")]
    o = common.assemble(pictures, rows, Schema(("car",)), Ledger(), options=Options(), source="f")["a"].objects
    assert o.obbs is not None
    assert o.heading is not None
    np.testing.assert_allclose(o.obbs[:, [0, 4]], [[20, 0.5], [30, 1]])
    assert o.heading.tolist() == [1, 0]


# -- DOTA ---------------------------------------------------------------------------------------------------------


def dota_set(root: Path, text: str, labels: str = "labelTxt", size: tuple[int, int] = (100, 80)) -> Path:
    picture(root / "images" / "P1.png", size)
    put(root / labels / "P1.txt", text)
    return root


def test_real_lines_of_dota(tmp_path: Path) -> None:
    dota_set(tmp_path, f"imagesource:GoogleEarth\ngsd:0.146\n{PLANE}\n{VEHICLE}\n", size=(4000, 3000))
    d = dota.read(tmp_path)
    assert d.schema.classes == ("large-vehicle", "plane")
    assert d["P1"].objects.labels.tolist() == [1, 0]
    vehicle = obbs(d, "P1")[1].tolist()
    # Its long side runs from (1745, 417) to (1785, 391): 47.7 px, rising to the right.
    np.testing.assert_allclose(vehicle, [1768.75, 409.5, 47.7, 13.5, math.atan2(391 - 417, 1785 - 1745)], atol=0.6)


@pytest.mark.parametrize("labels", ["labelTxt", "labelTxt-v1.5", "annfiles"])
def test_folders_of_dota_and_of_vsai(labels: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        dota_set(tmp_path / split, f"{BOX} small-vehicle 0\n{BOX} large-vehicle 1\n" if split == "val" else "", labels)
    assert dota.splits(tmp_path) == ["train", "val"]
    d = source.read(f"{tmp_path}#val")
    assert d["P1"].objects.ignore.tolist() == [False, True]
    assert found(d, "labels.ignored") == 1
    train = source.read(f"{tmp_path}#train")
    assert train.schema.classes == d.schema.classes == ("large-vehicle", "small-vehicle")
    assert len(train["P1"].objects) == 0
    assert {r.id for r in source.read(str(tmp_path)).records} == {"train/P1", "val/P1"}
    for place in (tmp_path / "val", tmp_path / "val" / labels):
        assert len(source.read(str(place))["P1"].objects) == 2


def test_a_flag_may_lack_and_names_may_have_spaces(tmp_path: Path) -> None:
    dota_set(tmp_path, f"{BOX} ship\n{BOX} feright car 1\n{BOX}\t7\t0\n{BOX} sea plane\n")
    d = dota.read(tmp_path)
    assert d.schema.classes == ("7", "feright car", "sea plane", "ship")
    assert d["P1"].objects.ignore.tolist() == [False, True, False, False]


def test_all_difficult_is_said(tmp_path: Path) -> None:
    d = dota.read(dota_set(tmp_path, f"{BOX} ship 1\n{BOX} ship 2\n"))
    assert found(d, "labels.all_ignored") == 2


def test_bad_lines_of_dota_are_counted(tmp_path: Path) -> None:
    good = f"{BOX} ship 0\n" * 17
    short, nan, triangle = "1 2 3", "10 20 nan 20 30 28 10 28", "10 20 30 30 20 30 10 20"
    crossing, flat = "10 20 30 28 30 20 10 28", "10 20 30 30 20 25 15 22.5"
    bad = "".join(f"{c} ship 0\n" for c in (short, nan, triangle, crossing, flat))
    d = dota.read(dota_set(tmp_path, good + bad))
    checks = ("labels.fields", "labels.not_finite", "labels.zero_area", "labels.crossing")
    assert [found(d, c) for c in checks] == [1, 1, 1, 1]
    assert found(d, "labels.skewed") == 1  # three corners only
    assert len(d["P1"].objects) == 19


def test_an_unknown_class_is_named_with_the_nearest(tmp_path: Path) -> None:
    dota_set(tmp_path, f"{BOX} shipp 0\n")
    put(tmp_path / "classes.txt", "plane\nship\n")
    with pytest.raises(TercelError, match=r"P1.txt:1: unknown class 'shipp'") as e:
        dota.read(tmp_path)
    assert "did you mean 'ship'?" in e.value.remedy


def test_two_label_folders_are_not_guessed(tmp_path: Path) -> None:
    dota_set(tmp_path, f"{BOX} ship 0\n")
    put(tmp_path / "labelTxt-v1.5" / "P1.txt", f"{BOX} ship 0\n")
    with pytest.raises(TercelError, match=r"several label folders: labelTxt, labelTxt-v1\.5"):
        dota.read(tmp_path)
    assert len(dota.read(tmp_path / "labelTxt-v1.5")) == 1


def test_two_label_files_of_one_picture_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "P1.png")
    for folder in ("obb", "hbb"):
        put(tmp_path / "labelTxt" / folder / "P1.txt", f"{BOX} ship 0\n")
    with pytest.raises(TercelError, match=r"hbb/P1.txt and .*obb/P1.txt label one picture"):
        dota.read(tmp_path)
    assert len(dota.read(tmp_path / "labelTxt" / "obb")["P1"].objects) == 1


def test_tiles_of_one_picture_are_one_group(tmp_path: Path) -> None:
    for name in ("P0001__1__0___824", "P0001__1.0__618___0", "P0002"):
        picture(tmp_path / "images" / f"{name}.png")
        put(tmp_path / "labelTxt" / f"{name}.txt", f"{BOX} ship 0\n")
    assert [r.group for r in dota.read(tmp_path).records] == ["P0001", "P0001", ""]


def test_pictures_in_parts_and_without_labels(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "part1" / "P1.png")
    picture(tmp_path / "images" / "part2" / "P2.png")
    put(tmp_path / "labelTxt" / "P1.txt", f"{BOX} ship 0\n")
    d = dota.read(tmp_path)
    assert {r.id: len(r.objects) for r in d.records} == {"P1": 1, "part2/P2": 0}
    assert found(d, "labels.none") == 1


# -- YOLO-OBB and the aerial line ---------------------------------------------------------------------------------


def yolo_set(root: Path, text: str, size: tuple[int, int] = (100, 80)) -> Path:
    picture(root / "images" / "a.png", size)
    put(root / "labels" / "a.txt", text)
    return root


def test_the_count_of_numbers_tells_the_format(tmp_path: Path) -> None:
    lines = {"yolo": "0 .5 .5 .2 .1", "aerial": "0 .5 .5 .2 .1 30", "yolo_obb": "0 .1 .2 .3 .2 .3 .4 .1 .4"}
    for name, line in lines.items():
        root = yolo_set(tmp_path / name, f"\n{line}\n")
        assert [f.NAME for f in (yolo, aerial, yolo_obb) if f.matches(root)] == [name]  # type: ignore[attr-defined]
        put(root / "data.yaml", "train: images\nval: images\nnames: [car]\n")
        assert source.read(f"{root / 'data.yaml'}#train").schema.classes == ("car",)
    assert (source.read(str(tmp_path / "yolo"))["a"].objects.obbs) is None
    with pytest.raises(TercelError, match=r"1 of 1 labels cannot be used.*not five numbers"):
        source.read(f"yolo:{tmp_path / 'aerial'}")


def test_shares_of_corners_become_pixels(tmp_path: Path) -> None:
    """In a picture 100 wide and 80 high; corners from any of them, either way round, crossing ones mended."""
    quad = [(0.1, 0.25), (0.3, 0.25), (0.3, 0.35), (0.1, 0.35)]
    orders = [quad, quad[::-1], quad[2:] + quad[:2], [quad[0], quad[1], quad[3], quad[2]]]
    text = "".join("0 " + " ".join(f"{v}" for p in order for v in p) + "\n" for order in orders)
    d = yolo_obb.read(yolo_set(tmp_path, text))
    np.testing.assert_allclose(obbs(d, "a"), [[20, 24, 20, 8, 0]] * 4, atol=1e-5)
    assert found(d, "labels.crossing") == 1


def test_pixels_in_yolo_obb_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TercelError, match=r"a.txt:1: coordinates far above 1"):
        yolo_obb.read(yolo_set(tmp_path, f"0 {BOX}\n"))


@pytest.mark.parametrize(
    ("degrees", "theta"), [(0, 0), (45, math.pi / 4), (90, -math.pi / 2), (135, -math.pi / 4), (322.5, -0.6545)]
)
def test_the_aerial_line(degrees: float, theta: float, tmp_path: Path) -> None:
    """`0 0.512 0.430 0.088 0.035 37.5` of the notes, in their 768 x 768 px: w runs along the angle, clockwise."""
    d = aerial.read(yolo_set(tmp_path, f"0 0.512 0.430 0.088 0.035 {degrees}\n", (768, 768)))
    np.testing.assert_allclose(obbs(d, "a")[0], [393.216, 330.24, 67.584, 26.88, theta], atol=1e-3)
    assert d["a"].objects.heading is None
    assert found(d, "labels.not_square") == 0


def test_the_aerial_line_with_length_below_width_and_no_square(tmp_path: Path) -> None:
    d = aerial.read(yolo_set(tmp_path, "0 .5 .5 .1 .5 30\n"))
    np.testing.assert_allclose(obbs(d, "a")[0], [50, 40, 40, 10, math.radians(30 - 90)], atol=1e-5)
    assert found(d, "labels.not_square") == 1


def test_aerial_text_beside_its_pictures(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / split / "a.png", (64, 64))
        put(tmp_path / split / "a.txt", "1 .5 .5 .2 .1 30\n")
    put(tmp_path / "classes.txt", "car\nbus\n")
    assert source.splits(str(tmp_path)) == ["train", "val"]
    d = source.read(f"{tmp_path}#val")
    assert d.schema.classes == ("car", "bus")
    assert d["a"].objects.labels.tolist() == [1]
    assert len(source.read(str(tmp_path / "val"))["a"].objects) == 1


def test_radians_in_the_aerial_line_are_pointed_out(tmp_path: Path) -> None:
    text = "".join(f"0 .5 .5 .2 .1 {a:.3f}\n" for a in np.linspace(0.1, 3, 12))
    assert found(aerial.read(yolo_set(tmp_path, text, (64, 64))), "labels.angle_unit") == 12


# -- DroneVehicle -------------------------------------------------------------------------------------------------


def drone_object(name: str, shape: str) -> str:
    return f"<object>\n<name>{name}</name><difficult>0</difficult>{shape}</object>\n"


def polygon(*values: float) -> str:
    keys = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")
    return "<polygon>" + "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, values)) + "</polygon>"


QUAD = polygon(150, 150, 190, 150, 190, 170, 150, 170)
UPRIGHT = "<bndbox><xmin>200</xmin><ymin>300</ymin><xmax>240</xmax><ymax>320</ymax></bndbox>"
POINT = "<point><x>400</x><y>300</y></point>"


def drone_set(root: Path, *objects: str, kind: str = "", split: str = "train", border: int = 100) -> Path:
    text = "<annotation>\n<size><width>840</width><height>712</height></size>\n" + "".join(objects) + "</annotation>\n"
    put(root / split / f"{split}label{kind}" / "00001.xml", text)
    pixels = np.full((712, 840, 3), 255, np.uint8)
    pixels[border : 712 - border, border : 840 - border] = np.random.default_rng(0).integers(0, 200, 3)
    path = root / split / f"{split}img{kind}" / "00001.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=80)
    return root


def test_objects_of_dronevehicle(tmp_path: Path) -> None:
    named = [drone_object(n, QUAD) for n in ("car", "feright_car", "feright car", "feright", "truvk", "bus", "van")]
    drone_set(tmp_path, *named, drone_object("truck", UPRIGHT), drone_object("car", POINT))
    d = dronevehicle.read(tmp_path)
    assert d.schema.classes == dronevehicle.CLASSES
    assert [d.schema.classes[i] for i in d["00001"].objects.labels] == [
        "car", "freight_car", "freight_car", "freight_car", "truck", "bus", "van", "truck",
    ]  # fmt: skip
    np.testing.assert_allclose(obbs(d, "00001")[0], [170, 160, 40, 20, 0], atol=1e-4)
    np.testing.assert_allclose(obbs(d, "00001")[-1], [220, 310, 40, 20, 0], atol=1e-4)
    assert [found(d, c) for c in ("labels.renamed", "labels.upright", "labels.fields")] == [4, 1, 1]


def test_the_white_border_is_measured(tmp_path: Path) -> None:
    d = dronevehicle.read(drone_set(tmp_path / "a", drone_object("car", QUAD)))
    (finding,) = [f for f in d.findings if f.check == "pictures.border"]
    border = dronevehicle.white_border(read_image(tmp_path / "a" / "train" / "trainimg" / "00001.jpg"))
    np.testing.assert_allclose(border, 100, atol=3)  # JPEG blurs the edge
    assert f"({', '.join(map(str, border))} px" in finding.message
    assert "45 %" in finding.message  # 1 - 640 * 512 / (840 * 712)
    assert found(dronevehicle.read(drone_set(tmp_path / "b", drone_object("car", QUAD), border=0)), finding.check) == 0


def test_objects_of_no_known_class_are_ignored_in_all(tmp_path: Path) -> None:
    d = dronevehicle.read(drone_set(tmp_path, drone_object("car", QUAD), drone_object("*", QUAD)))
    assert d["00001"].objects.ignore.tolist() == [False] + [True] * 5
    assert d["00001"].objects.labels.tolist() == [0, 0, 1, 2, 3, 4]


def test_colour_and_infrared_are_two_splits(tmp_path: Path) -> None:
    drone_set(tmp_path, drone_object("car", QUAD))
    drone_set(tmp_path, drone_object("bus", QUAD), kind="r")
    assert source.splits(str(tmp_path)) == ["train", "train_ir"]
    assert source.read(f"{tmp_path}#train_ir")["00001"].objects.labels.tolist() == [2]
    with pytest.raises(TercelError, match="holds train, train_ir"):
        source.read(str(tmp_path))
    assert source.splits(str(tmp_path / "train")) == ["train", "train_ir"]
    d = source.read(f"{tmp_path}#train_ir")
    dronevehicle.write(d, tmp_path / "out", split="val_ir")
    assert (tmp_path / "out" / "val" / "vallabelr" / "00001.xml").is_file()


def test_an_unknown_class_of_dronevehicle(tmp_path: Path) -> None:
    with pytest.raises(TercelError, match=r"00001.xml:3: unknown class 'vann'") as e:
        dronevehicle.read(drone_set(tmp_path, drone_object("vann", QUAD)))
    assert "did you mean 'van'?" in e.value.remedy


# -- conversion ---------------------------------------------------------------------------------------------------


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    dota_set(tmp_path / "in", f"{BOX} ship 0\n{BOX} ship 1\n")
    findings = {f.check: f.count for f in source.convert(str(tmp_path / "in"), tmp_path / "voc", "voc")}
    assert findings["convert.angles"] == 2
    findings = {f.check: f.count for f in source.convert(str(tmp_path / "in"), tmp_path / "obb", "yolo_obb")}
    assert findings["convert.ignored"] == 1
    assert "convert.angles" not in findings
