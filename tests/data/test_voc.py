"""Pascal VOC: what is read from hand-made files and from bccd, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.record import Dataset
from tercel.data.formats import voc
from tercel.data.formats.common import Options


def obj(name: str, box: str, extra: str = "") -> str:
    sides = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=False))
    return f"<object>\n<name>{name}</name>{extra}\n<bndbox>{sides}</bndbox>\n</object>\n"


def xml(*objects: str, size: str = "60 40", head: str = "") -> str:
    w, h = size.split()
    return (
        f"{head}<annotation>\n<filename>a.png</filename>\n<size><width>{w}</width><height>{h}</height></size>\n"
        + "".join(objects)
        + "</annotation>\n"
    )


def make(root: Path, annotations: dict[str, str], pictures: tuple[str, ...] | None = None, **lists: str) -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in annotations.items():
        (root / "Annotations" / f"{name}.xml").write_text(text)
    for name in pictures if pictures is not None else (f"{a}.png" for a in annotations):
        (root / "JPEGImages" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(root / "JPEGImages" / name)
    for name, text in lists.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    return root


def found(dataset: Dataset, check: str) -> int:
    return sum(f.count for f in dataset.findings if f.check == check)


MANY = [obj("cat", f"{i} 1 {i + 9} 20") for i in range(20)]  # so that a bad row stays below 20 % of all


def test_corners_are_read_as_continuous_coordinates(tmp_path: Path) -> None:
    make(tmp_path, {"a": xml(obj("cat", "1 2 30 40", "<difficult>1</difficult>"), obj("ant", "0.5 0.25 60 39.5"))})
    r = voc.read(tmp_path)["a"]
    assert r.objects.boxes.tolist() == [[1, 2, 30, 40], [0.5, 0.25, 60, 39.5]]
    assert r.objects.ignore.tolist() == [True, False]
    assert r.objects.labels.tolist() == [1, 0]
    assert r.size == (40, 60)
    assert r.source == f"{tmp_path / 'Annotations' / 'a.xml'}:3"


def test_bccd_and_its_two_bad_boxes(shared: Path) -> None:
    train = voc.read(shared / "data/bccd/BCCD", "trainval")
    test = voc.read(shared / "data/bccd/BCCD", "test")
    assert (len(train), len(test)) == (292, 72)
    assert train.schema == test.schema
    assert train.schema.classes == ("Platelets", "RBC", "WBC")
    assert sum(len(r.objects) for d in (train, test) for r in d.records) == 4888 - 2
    bad = [f for d in (train, test) for f in d.findings if f.check == "labels.zero_area"]
    assert sum(f.count for f in bad) == 2
    for place in bad[0].evidence:  # the line is that of the object
        file, line = place.rsplit(":", 1)
        text = Path(file).read_text().splitlines()
        assert text[int(line) - 1].strip() == "<object>"
        assert {f.check for d in (train, test) for f in d.findings} == {"labels.zero_area"}


def test_classes_are_those_of_all_splits(tmp_path: Path) -> None:
    root = make(
        tmp_path,
        {"a": xml(obj("zebra", "1 1 5 5")), "b": xml(obj("ant", "1 1 5 5"))},
        train="a\n",
        test="b\n\n",
        ant_train="a -1\nb  1\n",
    )
    assert voc.read(root, "train").schema == voc.read(root, "test").schema
    assert voc.read(root, "train")["a"].objects.labels.tolist() == [1]
    assert voc.splits(root) == ["test", "train"]  # VOC's lists per class are none
    (root / "classes.txt").write_text("zebra\nant\nbee\n")
    assert voc.read(root, "test")["b"].objects.labels.tolist() == [1]
    assert voc.read(root, "test").schema.classes == ("zebra", "ant", "bee")


def test_xml_beside_pictures_and_split_folders(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"{split}1.xml").write_text(xml(obj(split, "1 1 5 5")))
        Image.new("RGB", (60, 40)).save(tmp_path / split / f"{split}1.jpg")
    assert voc.matches(tmp_path)
    assert voc.splits(tmp_path) == ["train", "valid"]
    d = voc.read(tmp_path, "valid")
    assert [r.id for r in d.records] == ["valid/valid1"]
    assert d.schema.classes == ("train", "valid")
    assert len(voc.read(tmp_path)) == 2
    assert [r.id for r in voc.read(tmp_path / "train").records] == ["train1"]


def test_rows_are_dropped_by_reason_and_counted(tmp_path: Path) -> None:
    bad = [
        obj("cat", "5 5 5 9"),
        obj("cat", "9 5 5 9"),
        obj("cat", "nan 5 9 9"),
        obj("cat", "inf 5 9 9"),
        obj("cat", "70 5 90 9"),
        obj("cat", "5 5 9"),
        obj("cat", "5 5 9 x"),
    ]
    make(tmp_path, {"a": xml(*MANY, *MANY, *bad, obj("cat", "-3 5 9 50"))})
    d = voc.read(tmp_path)
    assert [
        found(d, f"labels.{c}") for c in ("zero_area", "negative_extent", "not_finite", "outside", "fields", "clipped")
    ] == [1, 1, 2, 1, 2, 1]
    assert len(d["a"].objects) == 41
    assert d["a"].objects.boxes[-1].tolist() == [0, 5, 9, 40]  # the far edge stays where it was
    assert all(f.evidence[0].startswith(str(tmp_path / "Annotations" / "a.xml:")) for f in d.findings)


def test_as_written_keeps_what_published_scores_count(tmp_path: Path) -> None:
    make(tmp_path, {"a": xml(obj("cat", "-3 5 9 50"), obj("cat", "5 5 5 9"))})
    with pytest.raises(TercelError, match=r"1 of 2 labels cannot be used \(50 %\)"):
        voc.read(tmp_path)
    o = voc.read(tmp_path, None, Options(as_written=True))["a"].objects
    assert o.boxes.tolist() == [[-3, 5, 9, 50], [5, 5, 5, 9]]


def test_too_many_lost_rows_are_an_error_unless_allowed(tmp_path: Path) -> None:
    make(tmp_path, {"a": xml(*MANY[:7], *[obj("cat", "5 5 5 9")] * 3)})
    with pytest.raises(TercelError, match=r"3 of 10 labels cannot be used.*without area") as e:
        voc.read(tmp_path)
    assert "max_drop=0.31" in e.value.remedy
    assert len(voc.read(tmp_path, None, Options(max_drop=0.31))["a"].objects) == 7


def test_pictures_and_labels_that_lack_each_other(tmp_path: Path) -> None:
    root = make(
        tmp_path,
        {"a": xml(obj("cat", "1 1 5 5")), "b": xml(obj("cat", "1 1 5 5"))},
        ("a.png", "c.png"),
        all="a\nb\nc\n",
    )
    d = voc.read(root, "all")
    assert [r.id for r in d.records] == ["a", "c"]  # the picture without a label is a negative
    assert len(d["c"].objects) == 0
    assert (found(d, "labels.none"), found(d, "data.negatives")) == (1, 1)
    assert found(d, "pictures.missing") == 1  # b's <filename> names the picture of a, which is a copying mistake
    (root / "Annotations" / "b.xml").write_text(xml(obj("cat", "1 1 5 5")).replace("a.png", "gone.png"))
    d = voc.read(root, "all")
    assert [f.evidence for f in d.findings if f.check == "pictures.missing"] == [
        (f"{root / 'Annotations' / 'b.xml'}:3: {root / 'JPEGImages' / 'gone.png'}",)
    ]


def test_all_pictures_missing_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, {"a": xml(obj("cat", "1 1 5 5"))}, ())
    with pytest.raises(TercelError, match="1 of 1 labelled pictures do not exist"):
        voc.read(tmp_path)


def test_wrong_and_turned_sizes(tmp_path: Path) -> None:
    make(tmp_path, {"a": xml(obj("cat", "1 1 5 5"), size="61 40")})
    with pytest.raises(TercelError, match=r"a\.xml:3: the labels were made for a picture of 61x40 .* is 60x40"):
        voc.read(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages" / "a.png", exif=exif)
    (tmp_path / "Annotations" / "a.xml").write_text(xml(obj("cat", "1 1 5 5")))
    with pytest.raises(TercelError, match=r"a\.xml:3: .* 60x40, but .* is 40x60 when upright \(its EXIF data turns it"):
        voc.read(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_text(xml(obj("cat", "1 1 5 5"), size="40 60"))
    d = voc.read(tmp_path)
    assert d["a"].size == (60, 40)
    assert found(d, "pictures.exif_orientation") == 1
    (tmp_path / "Annotations" / "a.xml").write_text(xml(obj("cat", "1 1 5 5"), size="0 0"))
    assert found(voc.read(tmp_path), "labels.no_size") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(obj("cat", "1 1 5 5"))[:-20], r"a\.xml:7: broken XML"),
        ("<annotation>\n<object><name>caf\xe9".encode("latin-1"), r"a\.xml:2: byte \d+ is not UTF-8"),
        (xml(head='<!DOCTYPE x [<!ENTITY a "b">]>'), r"a\.xml:1: declares entities"),
        (xml(head='<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'), "declares entities"),
        (xml(size="a b"), r"a\.xml:3: the picture size is no width and height"),
    ],
)
def test_broken_files(text: str | bytes, message: str, tmp_path: Path) -> None:
    make(tmp_path, {"a": ""}, ("a.png",))
    (tmp_path / "Annotations" / "a.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TercelError, match=message):
        voc.read(tmp_path)


def test_latin1_that_says_so_is_read(tmp_path: Path) -> None:
    make(tmp_path, {"a": ""}, ("a.png",))
    text = xml(obj("caf\xe9", "1 1 5 5"), head='<?xml version="1.0" encoding="ISO-8859-1"?>')
    (tmp_path / "Annotations" / "a.xml").write_bytes(text.encode("latin-1"))
    assert voc.read(tmp_path).schema.classes == ("caf\xe9",)


def test_unknown_class(tmp_path: Path) -> None:
    make(tmp_path, {"a": xml(obj("cat", "1 1 5 5"), obj("catt", "1 1 5 5"))})
    with pytest.raises(TercelError, match=r"a\.xml:8: unknown class 'catt'") as e:
        voc.read(tmp_path, None, Options(classes=("cat", "dog")))
    assert "did you mean 'cat'" in e.value.remedy


def test_paths_that_leave_the_folder(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {"a": xml(obj("cat", "1 1 5 5"))}, ("b.png",), evil="../../etc/passwd\n")
    with pytest.raises(TercelError, match=r"evil\.txt:1: the path .* leaves the folder"):
        voc.read(root, "evil")
    text = xml(obj("cat", "1 1 5 5")).replace("a.png", "../../../x.png")
    (root / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(TercelError, match=r"a\.xml:3: the path .* leaves the folder"):
        voc.read(root)


def test_one_picture_twice(tmp_path: Path) -> None:
    root = make(tmp_path, {"a": xml(obj("cat", "1 1 5 5"))}, twice="a\na\n")
    with pytest.raises(TercelError, match=r"the picture 'a' occurs twice"):
        voc.read(root, "twice")
    Image.new("RGB", (60, 40)).save(root / "JPEGImages" / "a.jpg")
    with pytest.raises(TercelError, match="two pictures share one label"):
        voc.read(root)


def test_a_directory_named_like_a_picture(tmp_path: Path) -> None:
    root = make(tmp_path, {"a": xml(obj("cat", "1 1 5 5"))}, ())
    (root / "JPEGImages" / "a.jpg").mkdir()
    with pytest.raises(TercelError, match=r"a\.jpg is a directory"):
        voc.read(root)


def test_parts_of_objects_are_no_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    make(tmp_path, {"a": xml(obj("cat", "1 1 9 9", part))})
    d = voc.read(tmp_path)
    assert d.schema.classes == ("cat",)
    assert d["a"].objects.boxes.tolist() == [[1, 1, 9, 9]]


def test_numbers_of_vaid_become_its_names(tmp_path: Path) -> None:
    root = make(tmp_path, {"a": xml(obj("1", "387 348 439 367"), obj("6", "1 2 30 40"), size="1137 640")}, ())
    d = voc.read(root, options=Options(pictures=False))
    assert d.schema.classes == ("sedan", "minibus", "truck", "pickup truck", "bus", "cement truck", "trailer")
    assert [d.schema.classes[i] for i in d["a"].objects.labels] == ["sedan", "cement truck"]
    assert d["a"].objects.boxes[0].tolist() == [387, 348, 439, 367]
    assert found(d, "labels.numbers") == 2
    held = voc.read(root, options=Options(pictures=False, classes=("cement truck", "sedan")))
    assert held["a"].objects.labels.tolist() == [1, 0]


@pytest.mark.parametrize(("name", "size"), [("1", "60 40"), ("8", "1137 640")])
def test_other_numbers_stay_names(name: str, size: str, tmp_path: Path) -> None:
    root = make(tmp_path, {"a": xml(obj(name, "1 2 30 40"), size=size)}, ())
    assert voc.read(root, options=Options(pictures=False)).schema.classes == (name,)
