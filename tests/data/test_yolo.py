"""YOLO text: data.yaml in its many spellings, plain folders, label lookup, and bad lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.record import Dataset
from tercel.data import source
from tercel.data.formats import yolo, yolo_tree
from tercel.data.formats.common import Options

GOOD = "0 .5 .5 .5 .5\n"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(path)


def make(root: Path, labels: dict[str, str | None], yaml: str | None = None, suffix: str = ".jpg") -> Path:
    """Pictures `images/<name>` with labels `labels/<name>.txt` (None: no label)."""
    for name, text in labels.items():
        picture(root / "images" / f"{name}{suffix}")
        file = root / "labels" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            file.write_text(text)
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


def found(dataset: Dataset, check: str) -> int:
    return sum(f.count for f in dataset.findings if f.check == check)


def test_shares_become_pixels(tmp_path: Path) -> None:
    make(tmp_path, {"a": "1 .5 .25 .5 .1\n\n0 0.1 0.9 0.2 0.2"})
    d = yolo.read(tmp_path)
    assert d["a"].objects.boxes.tolist() == [[15, 8, 45, 12], [0, 32, 12, 40]]
    assert d["a"].objects.labels.tolist() == [1, 0]
    assert d.schema.classes == ("0", "1")
    assert found(d, "labels.no_names") == 1
    assert d["a"].source == str(tmp_path / "labels" / "a.txt")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".JPEG", ".webp", ".tif"])
def test_labels_are_found_whatever_the_suffix(suffix: str, tmp_path: Path) -> None:
    make(tmp_path, {"a.b": GOOD}, suffix=suffix)
    assert len(yolo.read(tmp_path)["a.b"].objects) == 1


def test_only_the_last_images_folder_within_the_source_is_exchanged() -> None:
    root = Path("/images/set")
    assert yolo_tree.label_path(root / "images" / "images" / "a.png", root) == root / "images" / "labels" / "a.txt"
    assert yolo_tree.label_path(root / "pics" / "a.png", root) == root / "pics" / "a.txt"
    assert yolo_tree.label_path(root / "my_images" / "images.png", root) == root / "my_images" / "images.txt"


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images/train\nval: images/val\nnames: [ball, net]\nnc: 2",
        "path: .\ntrain: [images/train]\nval: ./images/val/\nnames: {0: ball, 1: net}",
        "path: ''\ntrain: train.txt\nval: images/val\nnames:\n  1: net\n  0: ball",
        "path: /home/somebody/sets/x\ntrain: images/train\nval: images/val\nnames: [ball, net]",
        "train: ../images/train\nval: ../images/val\nnames: [ball, net]",
        "train: images/train\nval: images/val\ntest:\nnames: [ball, net]\nroboflow: {a: b}\ndownload: http://x",
    ],
)
def test_spellings_of_data_yaml(yaml: str, tmp_path: Path) -> None:
    make(tmp_path, {"train/a": GOOD, "train/b": "1 .5 .5 .1 .1", "val/c": GOOD}, yaml)
    (tmp_path / "train.txt").write_text("./images/train/a.jpg\n\nimages/train/b.jpg\n")
    for path in (tmp_path, tmp_path / "data.yaml"):
        assert yolo.splits(path) == ["train", "val"]
        d = source.read(f"{path}#train")
        assert [r.id for r in d.records] == ["a", "b"]
        assert d.schema.classes == ("ball", "net")
    assert [r.id for r in yolo.read(tmp_path).records] == ["train/a", "train/b", "val/c"]


def test_plain_folders(tmp_path: Path) -> None:
    make(tmp_path / "one", {"train/a": GOOD, "val/b": GOOD})
    assert yolo.splits(tmp_path / "one") == ["train", "val"]
    assert [r.id for r in source.read(f"{tmp_path / 'one'}#val").records] == ["b"]
    for split in ("train", "valid"):
        make(tmp_path / "two" / split, {split: GOOD})
    assert yolo.splits(tmp_path / "two") == ["train", "valid"]
    assert [r.id for r in source.read(f"{tmp_path / 'two'}#valid").records] == ["valid"]
    assert yolo.splits(make(tmp_path / "three", {"a": GOOD})) == []
    (tmp_path / "three" / "classes.txt").write_text("ball\nnet\n")
    assert yolo.read(tmp_path / "three").schema.classes == ("ball", "net")


def test_pictures_and_labels_that_lack_each_other(tmp_path: Path) -> None:
    make(tmp_path, {"a": GOOD, "b": None, "c": ""})
    (tmp_path / "labels" / "orphan.txt").write_text(GOOD)
    d = yolo.read(tmp_path)
    assert [len(d[i].objects) for i in "abc"] == [1, 0, 0]
    assert found(d, "labels.none") == 1
    assert found(d, "data.negatives") == 2
    assert [f.evidence for f in d.findings if f.check == "labels.no_picture"] == [
        (str(tmp_path / "labels" / "orphan.txt"),)
    ]
    with pytest.raises(TercelError, match="none of 1 pictures has a label"):
        yolo.read(make(tmp_path / "x", {"a": None}))


def test_rows_are_dropped_by_reason_and_counted(tmp_path: Path) -> None:
    bad = [
        "0 .5 .5 0 .1",
        "0 .5 .5 -.1 .1",
        "0 nan .5 .1 .1",
        "0 1.4 .5 .1 .1",
        "0 .5 .5 .1",
        "0 .5 .5 .1 .1 .9",
        "0 a .5 .1 .1",
    ]
    make(tmp_path, {"a": GOOD * 40 + "\n".join([*bad, "0 .1 .5 .4 .1"])})
    d = yolo.read(tmp_path)
    assert {f.check: f.count for f in d.findings if f.check != "labels.no_names"} == {
        "labels.zero_area": 1,
        "labels.negative_extent": 1,
        "labels.not_finite": 1,
        "labels.outside": 1,
        "labels.fields": 3,
        "labels.clipped": 1,
    }
    place = next(f.evidence[0] for f in d.findings if f.check == "labels.zero_area")
    assert place == f"{tmp_path / 'labels' / 'a.txt'}:41"
    assert d["a"].objects.boxes[-1, 0] == 0
    assert d["a"].objects.boxes[-1, 2] == 18  # .3 * 60: the far edge stays


def test_rounding_at_the_border_is_not_counted_as_outside(tmp_path: Path) -> None:
    make(tmp_path, {"a": "0 0.500001 0.5 1 1"})
    d = yolo.read(tmp_path)
    assert found(d, "labels.clipped") == 0
    assert d["a"].objects.boxes[0, 2] == 60


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("2 .5 .5 .1 .1", r"a\.txt:1: class id 2, but .*data\.yaml names 2 classes"),
        ("-1 .5 .5 .1 .1", r"a\.txt:1: class id -1 is not a whole number"),
        ("0.5 .5 .5 .1 .1", r"a\.txt:1: class id 0\.5 is not"),
        ("nan .5 .5 .1 .1", r"a\.txt:1: class id nan is not"),
        ("0 30 20 10 10", r"a\.txt:1: coordinates far above 1"),
        ("0 .5 .5", r"1 of 1 labels cannot be used"),
    ],
)
def test_bad_labels(label: str, message: str, tmp_path: Path) -> None:
    make(tmp_path, {"train/a": label}, "train: images/train\nnames: [ball, net]")
    with pytest.raises(TercelError, match=message):
        yolo.read(tmp_path, "train")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images/train\nnames: [a]\nnc: 2", "nc is 2 but there are 1 names"),
        ("train: images/train\nnames: {0: a, 2: b}", r"the ids of names are not 0\.\.1"),
        ("train: images/train\nnames: a", "names is no list"),
        ("train: images/train\nnames: [a, a]", "'a' occurs twice"),
        ("train: images/nothing\nnames: [a]", r"data\.yaml \(train\): .* does not exist"),
        ("train: ../../etc\nnames: [a]", "leaves the folder"),
        ("train: /etc\nnames: [a]", "leaves the folder"),
        ("path: ../elsewhere\ntrain: nothing\nnames: [a]", "leaves the folder"),
        ("train: list.txt\nnames: [a]", r"list\.txt:1: the path .* leaves the folder"),
        ("train: twice.txt\nnames: [a]", r"twice\.txt:2: the picture .* is listed twice"),
        ("train: empty\nnames: [a]", "holds no picture"),
        ("train: [images/train\nnames: [a]", r"data\.yaml:2: not YAML"),
        ("train: !!python/object/apply:os.system ['true']\nnames: [a]", r"data\.yaml:1: not YAML"),
    ],
)
def test_bad_data_yaml(yaml: str, message: str, tmp_path: Path) -> None:
    make(tmp_path, {"train/a": GOOD}, yaml)
    (tmp_path / "list.txt").write_text("../../x.png\n")
    (tmp_path / "twice.txt").write_text("images/train/a.jpg\n./images/train/a.jpg\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TercelError, match=message):
        yolo.read(tmp_path, "train")


def test_one_broken_split_does_not_keep_the_others_from_being_read(tmp_path: Path) -> None:
    make(tmp_path, {"train/a": GOOD}, "train: images/train\ntest: ../test/images\nnames: [a]")
    assert len(yolo.read(tmp_path, "train")) == 1
    with pytest.raises(TercelError, match="leaves the folder"):
        yolo.read(tmp_path, "test")


def test_bad_files(tmp_path: Path) -> None:
    root = make(tmp_path, {"a": GOOD, "b": GOOD})
    (root / "labels" / "a.txt").write_bytes(b"0 .5 .5 .1 .1\n\xff\xfe")
    with pytest.raises(TercelError, match=r"a\.txt:2: byte 14 is not UTF-8"):
        yolo.read(root)
    (root / "labels" / "a.txt").write_bytes(b"\xef\xbb\xbf0 .5 .5 .1 .1\r\n")
    assert len(yolo.read(root)["a"].objects) == 1
    picture(root / "images" / "a.png")
    with pytest.raises(TercelError, match="share one label file"):
        yolo.read(root)
    (root / "images" / "a.png").unlink()
    (root / "images" / "c.jpg").mkdir()
    with pytest.raises(TercelError, match=r"c\.jpg is a directory"):
        yolo.read(root)
    (root / "images" / "c.jpg").rmdir()
    (root / "images" / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(TercelError, match=r"b\.jpg: not a readable picture"):
        yolo.read(root)


def test_another_class_list_than_expected(tmp_path: Path) -> None:
    make(tmp_path, {"train/a": GOOD}, "train: images/train\nnames: [ball, net]")
    with pytest.raises(TercelError, match="are not the expected"):
        yolo.read(tmp_path, "train", Options(classes=("net", "ball")))
    make(tmp_path / "b", {"a": "3 .5 .5 .1 .1"})
    with pytest.raises(TercelError, match="class id 3, but"):
        yolo.read(tmp_path / "b", None, Options(classes=("net", "ball")))


def test_a_foreign_data_yaml_is_never_changed(tmp_path: Path) -> None:
    d = yolo.read(make(tmp_path / "in", {"a": GOOD}))
    out = tmp_path / "out"
    out.mkdir()
    (out / "data.yaml").write_text("train: x\nnames: ['0']\n")
    with pytest.raises(TercelError, match="exists already and is not ours"):
        yolo.write(d, out)
    assert (out / "data.yaml").read_text() == "train: x\nnames: ['0']\n"
    assert not (out / "labels").exists()


def test_real_roboflow_export(shared: Path) -> None:
    root = shared / "data/tennis-ball-roboflow"
    counts = {s: len(source.read(f"{root}#{s}")) for s in ("train", "val")}
    assert counts == {"train": 183, "val": 57}
