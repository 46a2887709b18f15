"""Formats of people in crowds (odgt, ECP, CityPersons, WiderPerson, dumps of detections): cases by hand, bad input."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercel.config import Data
from tercel.core.finding import Ledger, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data import source
from tercel.data.augment import visible_objects
from tercel.data.formats import citypersons, coco, ecp, odgt, persons, widerperson
from tercel.data.formats.common import Options
from tercel.data.formats.odgt import Person, line
from tercel.data.loader import Loader
from tercel.data.prediction_dumps import on_told_canvases, write_dump
from tercel.data.predictions import read_predictions

SIZE = (48, 64)


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1]).save(path)
    return path


def crowd(folder: Path, *lines: Any, pictures: tuple[str, ...] = ("a.jpg",)) -> Path:
    """`folder`/annotation_train.odgt with Images/; a line is text, or (ID, gtboxes)."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [x if isinstance(x, str) else json.dumps({"ID": x[0], "gtboxes": x[1]}) for x in lines]
    file = folder / "annotation_train.odgt"
    file.write_text("\n".join(texts) + "\n")
    for name in pictures:
        picture(folder / "Images" / name)
    return file


def gtbox(fbox: Any, **more: Any) -> dict[str, Any]:
    return {"tag": "person", "fbox": fbox} | more


def found(findings: Any, check: str) -> int:
    return sum(f.count for f in getattr(findings, "findings", findings) if f.check == check)


def rows(d: Dataset, id_: str = "a") -> list[list[float]]:
    boxes: list[list[float]] = d[id_].objects.boxes.tolist()
    return boxes


# -- odgt: what is read -------------------------------------------------------------------------------------------

# fbox 20 x 40, of which the visible box covers the upper half; a mask; an ignored person; an ignored head.
PEOPLE = [
    gtbox([10, 4, 20, 40], vbox=[10, 4, 20, 20], hbox=[16, 4, 8, 8], extra={"box_id": 0, "occ": 1}, head_attr={}),
    {"tag": "mask", "fbox": [30, 0, 10, 10], "vbox": [30, 0, 10, 10], "hbox": [30, 0, 10, 10], "extra": {"ignore": 1}},
    gtbox([40, 10, 10, 20], vbox=[40, 10, 10, 20], hbox=[42, 10, 4, 4], extra={"ignore": 1}),
    gtbox([50, 10, 10, 20], vbox=[50, 10, 10, 15], hbox=[52, 10, 4, 4], extra={"ignore": 0}, head_attr={"ignore": 1}),
]


@pytest.mark.parametrize(
    ("kind", "first", "ignore", "occlusion"),
    [
        ("", [10, 4, 30, 44], [False, True, True, False], [0.5, 0, 0, 0.25]),
        ("#full", [10, 4, 30, 44], [False, True, True, False], [0.5, 0, 0, 0.25]),
        ("#visible", [10, 4, 30, 24], [False, True, True, False], [0.5, 0, 0, 0.25]),
        ("#head", [16, 4, 24, 12], [False, True, True, True], None),
        ("#train_head", [16, 4, 24, 12], [False, True, True, True], None),
    ],
)
def test_the_source_says_which_box(
    kind: str, first: list[float], ignore: list[bool], occlusion: Any, tmp_path: Path
) -> None:
    file = crowd(tmp_path, ("a", PEOPLE))
    where = tmp_path if "_" in kind else file
    d = source.read(f"{where}{kind}")
    o = d["a"].objects
    assert d.schema.classes == ("person",)
    assert (o.boxes[0].tolist(), o.ignore.tolist()) == (first, ignore)
    assert (None if o.occlusion is None else o.occlusion.tolist()) == occlusion
    assert o.area is None  # that of the box, in px of the original picture
    assert found(d, "labels.ignored") == sum(ignore)
    assert found(d, "labels.box_kind") == 1


def test_a_folder_with_several_files(tmp_path: Path) -> None:
    crowd(tmp_path, ("a", PEOPLE))
    (tmp_path / "annotation_val.odgt").write_text(line("b", [Person((1, 2, 9, 30), (1, 2, 9, 9))]) + "\n")
    picture(tmp_path / "Images" / "b.png")
    assert odgt.splits(tmp_path) == ["train", "val"]
    assert rows(source.read(f"odgt:{tmp_path}#val_visible"), "b") == [[1, 2, 9, 9]]
    with pytest.raises(TercelError, match="holds 2 odgt files"):
        source.read(f"odgt:{tmp_path}")
    with pytest.raises(TercelError, match="no split 'val_feet'"):
        source.read(f"odgt:{tmp_path}#val_feet")
    with pytest.raises(TercelError, match="no split 'feet'") as e:
        source.read(f"odgt:{tmp_path / 'annotation_val.odgt'}#feet")
    assert "full, visible, head" in e.value.remedy


@pytest.mark.parametrize("folder", ["Images", "images", "."])
def test_where_pictures_lie(folder: str, tmp_path: Path) -> None:
    file = crowd(tmp_path, ("273271,c9db", PEOPLE), pictures=())
    picture(tmp_path / folder / "273271,c9db.png")
    assert source.read(str(file))["273271,c9db"].size == SIZE


def test_full_boxes_beyond_the_picture_stay_whole_and_others_are_cut(tmp_path: Path) -> None:
    """The far edge of a cut box stays where it was: a cut that keeps width and height would move it."""
    box = [-10, 20, 30, 50]  # -10 20 20 70 in a picture of 64 x 48
    file = crowd(tmp_path, ("a", [gtbox(box, vbox=box, hbox=[-4, -6, 10, 10])]))
    full, visible, head = (source.read(f"{file}#{k}") for k in odgt.KINDS)
    assert rows(full) == [[-10, 20, 20, 70]]
    assert rows(visible) == [[0, 20, 20, 48]]
    assert rows(head) == [[0, 0, 6, 4]]
    assert full["a"].objects.areas.tolist() == [1500]
    assert [(found(d, "labels.beyond"), found(d, "labels.clipped")) for d in (full, visible, head)] == [
        (1, 0),
        (0, 1),
        (0, 1),
    ]


def test_the_loader_takes_whole_bodies(tmp_path: Path) -> None:
    """Unaugmented (evaluation) they stay whole, in training they are cut at what is shown of their picture."""
    file = crowd(tmp_path, ("a", [gtbox([-10, 20, 30, 50], vbox=[0, 20, 20, 28])]))
    d = source.read(str(file))
    plain = Loader(d, Data(size=SIZE, workers=0, cache_gb=0), None, 1).sample(0, 0)
    assert plain.objects.boxes.tolist() == [[-10, 20, 20, 70]]
    shown, left = visible_objects(plain.warp, d["a"].objects, 0.2)
    assert (shown.boxes.tolist(), left) == ([[0, 20, 20, 48]], 0)
    assert shown.occlusion is not None
    np.testing.assert_allclose(shown.occlusion, [1 - 20 * 28 / 1500], atol=1e-6)


@pytest.mark.parametrize(
    ("full", "visible", "share"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 0.0),
        ([0, 0, 10, 10], [0, 0, 10, 5], 0.5),
        ([0, 0, 10, 10], [5, -5, 30, 5], 0.75),  # what lies outside the full box is not the person's
        ([0, 0, 10, 10], [20, 20, 30, 30], 1.0),
        ([0, 0, 0, 10], [0, 0, 10, 10], 0.0),
        ([0, 0, np.nan, 10], [0, 0, 10, 10], 0.0),
        ([0, 0, np.inf, 10], [0, 0, 10, 10], 0.0),
    ],
)
def test_hidden_share(full: list[float], visible: list[float], share: float) -> None:
    assert persons.hidden_share(np.array([full], float), np.array([visible], float)).tolist() == [share]


# -- odgt: bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"ID": "b", "gtbo', r"annotation_train.odgt:3: not JSON"),
        ("[1, 2]", r"annotation_train.odgt:3: a line is an object with ID"),
        ('{"ID": "b"}', r"annotation_train.odgt:3: a line is an object with ID"),
        ('{"gtboxes": []}', r"annotation_train.odgt:3: a line is an object with ID"),
        ('{"ID": "b", "gtboxes": [3]}', r"annotation_train.odgt:3: a line is an object with ID"),
        ('{"ID": "a", "gtboxes": []}', r"annotation_train.odgt:3: the picture 'a' occurs twice"),
        ('{"ID": "../b", "gtboxes": []}', r"annotation_train.odgt:3: the path '../b.jpg' leaves the folder"),
        ('{"ID": "b", "dtboxes": []}', r"annotation_train.odgt:3: a line is an object with ID"),
    ],
)
def test_bad_lines_are_named(bad: str, message: str, tmp_path: Path) -> None:
    file = crowd(tmp_path, ("a", PEOPLE), "", bad)
    with pytest.raises(TercelError, match=message) as e:
        source.read(str(file))
    assert ("--pred" in e.value.remedy) == ("dtboxes" in bad)


def test_an_empty_file_and_two_pictures_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(TercelError, match="lists no picture"):
        source.read(str(crowd(tmp_path / "empty", "")))
    file = crowd(tmp_path / "two", ("a", []), pictures=("a.jpg", "a.png"))
    with pytest.raises(TercelError, match=r"odgt:1: two pictures share one ID"):
        source.read(str(file))


def test_extra_and_head_attr_may_be_absent_or_odd(tmp_path: Path) -> None:
    people = [gtbox([1, 1, 8, 20], hbox=[1, 1, 4, 4]), gtbox([20, 1, 8, 20], hbox=[20, 1, 4, 4], extra=None)]
    people += [gtbox([40, 1, 8, 20], hbox=[40, 1, 4, 4], extra={}, head_attr=[])]
    file = crowd(tmp_path, ("a", people))
    for kind in ("full", "head"):
        o = source.read(f"{file}#{kind}")["a"].objects
        assert o.ignore.tolist() == [False] * 3
        assert o.occlusion is None  # nobody has a visible box


def test_tags_other_than_person_and_mask_are_ignored_and_counted(tmp_path: Path) -> None:
    people = [gtbox([1, 1, 8, 20], tag="statue"), gtbox([20, 1, 8, 20], tag="mask"), gtbox([30, 1, 8, 20])]
    people += [{"fbox": [40, 1, 8, 20]}]
    d = source.read(str(crowd(tmp_path, ("a", people))))
    assert d["a"].objects.ignore.tolist() == [True, True, False, True]
    assert found(d, "labels.tags") == 2
    assert any("statue 1x" in f.evidence[0] for f in d.findings if f.check == "labels.tags")


def test_persons_without_their_box(tmp_path: Path) -> None:
    """A head or a visible box may be missing, a full one may not; what is odd counts as lost."""
    many = [gtbox([i, 1, 8, 20], vbox=[i, 1, 8, 9], hbox=[i, 1, 4, 4]) for i in range(10)]
    odd = [gtbox([1, 1, 8], vbox="x", hbox=[1, None, 2, 3]), {"tag": "person"}]
    file = crowd(tmp_path, ("a", [*many, *odd]))
    full, visible, head = (source.read(f"{file}#{k}") for k in odgt.KINDS)
    assert [len(d["a"].objects) for d in (full, visible, head)] == [10, 10, 10]
    assert [found(d, "labels.fields") for d in (full, visible, head)] == [2, 1, 1]
    assert [found(d, "labels.no_box") for d in (full, visible, head)] == [0, 1, 1]
    with pytest.raises(TercelError, match="3 of 4 labels cannot be used"):
        source.read(str(crowd(tmp_path / "most", ("a", [many[0], *odd, odd[0]]))))


def test_persons_of_unknown_visibility_count_as_visible_and_are_counted(tmp_path: Path) -> None:
    people = [gtbox([1, 1, 8, 20], vbox=[1, 1, 8, 5]), gtbox([20, 1, 8, 20]), gtbox([30, 1, 8, 20], tag="mask")]
    d = source.read(str(crowd(tmp_path, ("a", people))))
    assert d["a"].objects.occlusion is not None
    assert d["a"].objects.occlusion.tolist() == [0.75, 0, 0]
    assert found(d, "labels.no_visible") == 1


def test_a_hidden_share_that_never_varies_is_flagged(tmp_path: Path) -> None:
    same = [gtbox([i, 1, 8, 20], vbox=[i, 1, 8, 20]) for i in range(persons.MANY)]
    other = [*same[1:], gtbox([1, 1, 8, 20], vbox=[1, 1, 8, 10])]
    assert found(source.read(str(crowd(tmp_path / "a", ("a", same)))), "labels.constant") == persons.MANY
    assert found(source.read(str(crowd(tmp_path / "b", ("a", other)))), "labels.constant") == 0


def test_negative_extents_and_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    good = [gtbox([i, 1, 8, 20]) for i in range(12)]
    bad = [gtbox([1, 1, -5, 20]), gtbox([1, 1, float("nan"), 20]), gtbox([100, 1, 8, 20])]
    d = source.read(str(crowd(tmp_path, ("a", [*good, *bad]))))
    assert len(d["a"].objects) == 12
    checks = ("labels.negative_extent", "labels.not_finite", "labels.outside")
    assert [found(d, c) for c in checks] == [1, 1, 1]
    assert [f.evidence[0].rsplit("/")[-1] for f in d.findings if f.check == checks[0]] == [
        "annotation_train.odgt:1 gtboxes[12]"
    ]


def test_persons_given_twice_are_kept_and_counted(tmp_path: Path) -> None:
    twice = gtbox([1, 1, 8, 20])
    lines = ("a", [twice, gtbox([2, 1, 8, 20]), twice, twice]), ("b", [twice])
    d = source.read(str(crowd(tmp_path, *lines, pictures=("a.jpg", "b.jpg"))))
    assert [len(r.objects) for r in d.records] == [4, 1]
    assert found(d, "labels.duplicate") == 2
    masks = [twice | {"tag": "mask"}] * 2
    assert found(source.read(str(crowd(tmp_path / "masks", ("a", [twice, *masks])))), "labels.duplicate") == 0


def test_pictures_without_persons_and_with_ignored_ones_only(tmp_path: Path) -> None:
    lines = ("a", []), ("b", [gtbox([1, 1, 8, 20], tag="mask")]), ("c", [gtbox([1, 1, 8, 20])])
    names = ("a.jpg", "b.jpg", "c.jpg")
    d = source.read(str(crowd(tmp_path / "some", *lines, pictures=names)))
    assert [(len(r.objects), int(r.objects.ignore.sum())) for r in d.records] == [(0, 0), (1, 1), (1, 0)]
    assert (found(d, "data.negatives"), found(d, "labels.all_ignored")) == (1, 0)
    assert source.read(str(crowd(tmp_path / "none", ("a", []))))["a"].objects.ignore.tolist() == []
    d = source.read(str(crowd(tmp_path / "all", *lines[:2], pictures=names[:2])))
    assert found(d, "labels.all_ignored") == 1


def test_a_picture_with_1500_persons(tmp_path: Path) -> None:
    people = [Person((i % 60, i % 40, i % 60 + 4, i % 40 + 8.5)) for i in range(1500)]
    d = source.read(str(crowd(tmp_path, line("a", people))))
    assert len(d["a"].objects) == 1500
    np.testing.assert_array_equal(d["a"].objects.boxes, np.array([p.full for p in people], np.float32))
    assert d.statistics()["most_per_record"] == 1500


def test_a_missing_picture_is_left_out_and_counted(tmp_path: Path) -> None:
    lines = [(str(i), PEOPLE) for i in range(4)]
    file = crowd(tmp_path, *lines, pictures=("0.jpg", "1.jpg", "3.jpg"))
    d = source.read(str(file))
    assert [r.id for r in d.records] == ["0", "1", "3"]
    assert found(d, "pictures.missing") == 1
    with pytest.raises(TercelError, match="1 of 1 labelled pictures do not exist"):
        source.read(str(crowd(tmp_path / "gone", ("a", PEOPLE), pictures=())))
    cut = crowd(tmp_path / "cut", ("a", PEOPLE))
    whole = (cut.parent / "Images" / "a.jpg").read_bytes()
    (cut.parent / "Images" / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TercelError, match=r"a\.jpg"):
        source.read(str(cut))


def test_reading_a_large_file_leaves_the_collector_as_it_was(tmp_path: Path) -> None:
    assert gc.isenabled()
    source.read(str(crowd(tmp_path, ("a", PEOPLE))))
    assert gc.isenabled()


# -- odgt: what is written ----------------------------------------------------------------------------------------


def test_a_line_as_the_generator_writes_it() -> None:
    people = [Person((1, 2, 11, 32), (1, 2, 11, 12.5), (3, 2, 7, 6)), Person((0, 0, 5, 5), ignore=True, tag="mask")]
    assert json.loads(line("x,1", people, (48, 64))) == {
        "ID": "x,1",
        "height": 48,
        "width": 64,
        "gtboxes": [
            {
                "tag": "person",
                "fbox": [1, 2, 10, 30],
                "vbox": [1, 2, 10, 10.5],
                "hbox": [3, 2, 4, 4],
                "extra": {"box_id": 0, "ignore": 0},
                "head_attr": {"ignore": 0},
            },
            {"tag": "mask", "fbox": [0, 0, 5, 5], "extra": {"box_id": 1, "ignore": 1}},
        ],
    }


def people(tmp_path: Path, classes: tuple[str, ...] = ("person",)) -> Dataset:
    """Two pictures: persons with hidden shares, one of them beyond the border, an ignored one; none."""
    o = Objects(
        SIZE,
        [0, 0, 0],
        [[10.25, 4, 30, 44.5], [-7.5, 20, 20, 60], [40, 10, 50, 30]],
        [False, False, True],
        occlusion=np.array([0.3, 0.85, 0], np.float32),
    )
    empty = Objects.empty(SIZE, o)
    paths = [picture(tmp_path / "in" / f"{n}.png") for n in (1, 2)]
    records = (Record(str(i), (Frame(p),), SIZE, x) for i, p, x in zip((1, 2), paths, (o, empty)))
    return Dataset(Schema(classes), tuple(records))


def same(a: Dataset, b: Dataset) -> None:
    for r in b.records:
        other, o = a[r.id].objects, r.objects
        np.testing.assert_array_equal(other.boxes, o.boxes)
        np.testing.assert_array_equal(other.ignore, o.ignore)
        if len(o):
            np.testing.assert_array_equal(other.occlusion, o.occlusion)


def test_odgt_to_coco_and_back_loses_nothing(tmp_path: Path) -> None:
    """To the last bit: whole bodies beyond the picture, ignored persons, hidden shares."""
    d = people(tmp_path)
    odgt.write(d, tmp_path / "a")
    findings = source.convert(f"{tmp_path / 'a'}#train", tmp_path / "b", "coco")
    assert not [f for f in findings if f.check.startswith("convert.") and f.check != "convert.counts"]
    written = json.loads((tmp_path / "b" / "annotations" / "instances_train.json").read_text())
    assert [a["iscrowd"] for a in written["annotations"]] == [0, 0, 1]
    assert [a["bbox"] for a in written["annotations"]][1] == [-7.5, 20, 27.5, 40]
    np.testing.assert_allclose([a["vis_ratio"] for a in written["annotations"]], [0.7, 0.15, 1], atol=1e-7)
    for image in written["images"]:  # every file that a converted label names is there
        assert (tmp_path / "b" / "train" / image["file_name"]).is_file()
    source.convert(f"{tmp_path / 'b'}#train", tmp_path / "c", "odgt")
    for folder in "abc":
        same(source.read(f"{tmp_path / folder}#train"), d)


@pytest.mark.parametrize(
    ("to", "lost"),
    [
        ("voc", {"convert.occlusion": 3, "convert.beyond": 1}),
        ("widerperson", {"convert.occlusion": 3, "convert.beyond": 1}),
        ("yolo", {"convert.occlusion": 2, "convert.beyond": 1, "convert.ignored": 1}),
        ("citypersons", {"convert.class_name": 1}),
        ("ecp", {"convert.class_name": 1}),
    ],
)
def test_what_other_formats_lose_is_said(to: str, lost: dict[str, int], tmp_path: Path) -> None:
    odgt.write(people(tmp_path), tmp_path / "a")
    findings = source.convert(f"{tmp_path / 'a'}#train", tmp_path / "b", to)
    said = {f.check: f.count for f in findings if f.check.startswith("convert.")}
    assert said.pop("convert.counts") == 3 - (to == "yolo")
    assert said == lost


def test_a_coco_file_that_does_not_say_so_is_cut(tmp_path: Path) -> None:
    """The planted twin of `amodal`: without the word boxes are cut, as COCO's always were."""
    coco.write(people(tmp_path), tmp_path / "b")
    file = tmp_path / "b" / "annotations" / "instances_train.json"
    data = json.loads(file.read_text())
    assert data["info"] == {"amodal": True}
    assert rows(coco.read(tmp_path / "b"), "1")[1] == [-7.5, 20, 20, 60]
    for info in (None, {}, {"amodal": "yes"}, []):
        file.write_text(json.dumps(data | {"info": info}))
        assert rows(coco.read(tmp_path / "b"), "1")[1] == [0, 20, 20, 48]


def test_crowd_flags_of_coco_are_ignore_regions_and_stay_so(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    flags = [{"id": i, "image_id": 1, "category_id": 1, "bbox": [i, 1, 9, 20], "iscrowd": i % 2} for i in range(4)]
    images = [{"id": 1, "file_name": "a.png", "height": 48, "width": 64}]
    data = {"images": images, "annotations": flags, "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "gt.json").write_text(json.dumps(data))
    source.convert(f"coco:{tmp_path / 'gt.json'}", tmp_path / "out", "odgt")
    assert source.read(f"{tmp_path / 'out'}#train")["1"].objects.ignore.tolist() == [False, True, False, True]


def test_a_converter_run_twice_doubles_and_overwrites_nothing(tmp_path: Path) -> None:
    odgt.write(people(tmp_path), tmp_path / "a")
    for to in ("odgt", "coco", "ecp", "citypersons", "widerperson"):
        source.convert(f"{tmp_path / 'a'}#train", tmp_path / to, to)
        before = {p: p.read_bytes() for p in (tmp_path / to).rglob("*") if p.is_file()}
        with pytest.raises(TercelError, match="exists already"):
            source.convert(f"{tmp_path / 'a'}#train", tmp_path / to, to)
        assert {p: p.read_bytes() for p in (tmp_path / to).rglob("*") if p.is_file()} == before
        source.convert(f"{tmp_path / 'a'}#train", tmp_path / f"{to}_again", to)
        again = {p.relative_to(tmp_path / f"{to}_again"): p for p in (tmp_path / f"{to}_again").rglob("*.*")}
        assert {p.relative_to(tmp_path / to) for p in before} == {n for n, p in again.items() if p.is_file()}
        assert all(again[p.relative_to(tmp_path / to)].read_bytes() == data for p, data in before.items())


def test_a_single_file_and_a_split_named_like_a_kind(tmp_path: Path) -> None:
    d = people(tmp_path)
    odgt.write(d, tmp_path / "out" / "mine.odgt")
    same(source.read(str(tmp_path / "out" / "mine.odgt")), d)
    source.convert(f"{crowd(tmp_path / 'src', ('a', PEOPLE))}#visible", tmp_path / "new", "odgt")
    assert odgt.splits(tmp_path / "new") == ["visible"]
    assert rows(source.read(f"{tmp_path / 'new'}#visible"))[0] == [10, 4, 30, 24]


# -- classes ------------------------------------------------------------------------------------------------------


def test_choosing_classes(tmp_path: Path) -> None:
    """A region of no class is an ignored object of every class, and stays one of those that were chosen."""
    o = Objects(
        SIZE,
        [0, 1, 2, 0, 1, 2],
        [[1, 1, 5, 5], [2, 2, 9, 9], [3, 3, 8, 8], *[[20, 20, 40, 40]] * 3],
        [False, False, False, True, True, True],
    )
    r = Record("a", (Frame(picture(tmp_path / "a.png")),), SIZE, o)
    d = Dataset(Schema(("Car", "Person", "Bike"), category_ids=(3, 5, 9)), (r,), source="here")
    chosen = source.select_classes(d, ["Person"])
    assert (chosen.schema.classes, chosen.schema.category_ids) == (("Person",), (5,))
    assert chosen["a"].objects.labels.tolist() == [0, 0]
    assert rows(chosen) == [[2, 2, 9, 9], [20, 20, 40, 40]]
    assert chosen["a"].objects.ignore.tolist() == [False, True]
    assert found(chosen, "data.other_classes") == 2
    turned = source.select_classes(d, ["Bike", "Car"])
    assert turned["a"].objects.labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(TercelError, match="unknown class 'person'") as e:
        source.select_classes(d, ["person"])
    assert "'Person'" in e.value.remedy
    with pytest.raises(TercelError, match="no class was chosen"):
        source.select_classes(d, [])


def test_several_classes_are_no_persons(tmp_path: Path) -> None:
    d = people(tmp_path, ("Person", "Car"))
    for format_ in (odgt, ecp, citypersons, widerperson):
        with pytest.raises(TercelError, match="no place for the class 'Person'") as e:
            format_.write(d, tmp_path / "out")
        assert "--classes" in e.value.remedy
        assert not (tmp_path / "out").exists()


def test_persons_of_hit_uav_through_odgt(shared: Path, tmp_path: Path, tercel: Callable[..., Any]) -> None:
    """From the command line; counts from the json itself."""
    data = json.loads((shared / "data/hit-uav/annotations/val.json").read_text())
    ids = {c["name"]: c["id"] for c in data["categories"]}
    mine = [a for a in data["annotations"] if a["category_id"] in (ids["Person"], ids["DontCare"])]
    kept = sum(a["category_id"] == ids["Person"] and not a["difficult"] for a in mine)
    said = tercel(
        "convert", f"hit_uav:{shared / 'data/hit-uav'}#val", tmp_path / "out", "--to", "odgt", "--classes", "Person"
    )
    assert said.code == 0, said.err
    assert "the class Person is called person in odgt" in said.err
    d = source.read(f"odgt:{tmp_path / 'out'}#val")
    assert (len(d), d.schema.classes) == (290, ("person",))
    assert sum(len(r.objects) for r in d.records) == len(mine)
    assert sum(int((~r.objects.ignore).sum()) for r in d.records) == kept
    wrong = tercel(
        "convert", f"hit_uav:{shared / 'data/hit-uav'}#val", tmp_path / "no", "--to", "odgt", "--classes", "Persn"
    )
    assert wrong.code == 2
    assert "did you mean 'Person'?" in wrong.err
    assert not (tmp_path / "no").exists()


# -- EuroCity Persons ---------------------------------------------------------------------------------------------


def child(identity: str, *tags: str, box: Any = (1, 2, 11, 32), **more: Any) -> dict[str, Any]:
    return {"identity": identity, "tags": list(tags), "children": []} | dict(zip(ecp._CORNERS, box)) | more


def frame(folder: Path, *children: Any, split: str = "val", **more: Any) -> Path:
    """`folder` as ECP/day with one picture of a city."""
    picture(folder / "img" / split / "basel" / "basel_00001.png")
    file = folder / "labels" / split / "basel" / "basel_00001.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    data = {"identity": "frame", "imagewidth": 64, "imageheight": 48, "tags": [], "children": list(children)}
    file.write_text(json.dumps(data | more))
    return folder


ID = "basel/basel_00001"


def test_ecp_by_the_rules_of_its_benchmark(tmp_path: Path) -> None:
    children = [
        child("pedestrian"),
        child("rider", children=[child("bicycle")]),
        child("person-group-far-away"),
        child("rider+vehicle-group-far-away"),
        child("pedestrian", "sitting-lying"),
        child("pedestrian", "behind-glass", box=(2, 2, 11, 32)),
        child("rider", "sitting-lying", box=(2, 2, 11, 32)),
        child("person-group-far-away", "depiction"),
        child("bicycle-group"),
        child("buggy-group"),
    ]
    d = source.read(f"{frame(tmp_path, *children)}#val")
    assert d.schema.classes == ("pedestrian", "rider")
    o = d[ID].objects
    assert o.labels.tolist() == [0, 1, 0, 1, 0, 0, 1]
    assert o.ignore.tolist() == [False, False, True, True, True, True, False]
    assert rows(d, ID)[0] == [1, 2, 11, 32]
    assert found(d, "labels.ignored") == 4
    assert found(d, "labels.other") == 3


@pytest.mark.parametrize(
    ("tags", "hidden"),
    [
        ([], 0.0),
        (["occluded>10"], 0.1),
        (["occluded>10", "occluded>40"], 0.4),  # the highest counts, whatever comes first
        (["occluded>80", "occluded>10"], 0.8),
        (["truncated>40", "unsure_orientation"], 0.0),  # the picture's border hides nobody
    ],
)
def test_occlusion_of_ecp(tags: list[str], hidden: float, tmp_path: Path) -> None:
    o = source.read(f"ecp:{frame(tmp_path, child('pedestrian', *tags))}")[ID].objects
    assert o.occlusion is not None
    np.testing.assert_allclose(o.occlusion, [hidden], atol=1e-7)


def test_tags_under_another_key_are_flagged(tmp_path: Path) -> None:
    """The reader of `tag` for `tags` saw everybody visible, and never said so."""
    many = [child("pedestrian", box=(i, 2, i + 9, 32)) for i in range(persons.MANY)]
    for c in many:
        c["tag"] = c.pop("tags")
    d = source.read(f"ecp:{frame(tmp_path, *many)}")
    assert found(d, "labels.tags") == persons.MANY
    assert found(d, "labels.constant") == persons.MANY


def test_bad_files_of_ecp(tmp_path: Path) -> None:
    children = [child("pedestrian", box=(i, 2, i + 9, 32)) for i in range(5)]
    d = source.read(f"ecp:{frame(tmp_path / 'a', *children, child('pedestrian', x0=None))}")
    assert (len(d[ID].objects), found(d, "labels.fields")) == (5, 1)
    with pytest.raises(TercelError, match=r"basel_00001.json: needs imageheight, imagewidth and children"):
        source.read(f"ecp:{frame(tmp_path / 'b', children=None)}")
    with pytest.raises(TercelError, match="the labels were made for a picture of 1920x1024"):
        source.read(f"ecp:{frame(tmp_path / 'c', imagewidth=1920, imageheight=1024)}")
    broken = frame(tmp_path / "d", *children) / "labels" / "val" / "basel" / "basel_00001.json"
    broken.write_text(broken.read_text()[:-20])
    with pytest.raises(TercelError, match=r"basel_00001.json:1: not JSON"):
        source.read(f"ecp:{tmp_path / 'd'}")


# -- CityPersons --------------------------------------------------------------------------------------------------


def street(folder: Path, *objects: Any, **more: Any) -> Path:
    picture(folder / "leftImg8bit" / "val" / "ulm" / "ulm_000000_000019_leftImg8bit.png")
    file = folder / "gtBboxCityPersons" / "val" / "ulm" / "ulm_000000_000019_gtBboxCityPersons.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"imgHeight": 48, "imgWidth": 64, "objects": list(objects)} | more))
    return folder


ULM = "ulm/ulm_000000_000019"


def test_citypersons_by_the_rule_of_its_benchmark(tmp_path: Path) -> None:
    labels = ("pedestrian", "rider", "sitting person", "person (other)", "person group", "ignore")
    objects: list[dict[str, Any]] = [
        {"instanceId": i, "label": n, "bbox": [i, 2, 10, 40], "bboxVis": [i, 2, 10, 10]} for i, n in enumerate(labels)
    ]
    objects.append({"label": "pedestrian", "bbox": [50, 30, 20, 40]})
    d = source.read(f"{street(tmp_path, *objects)}#val")
    o = d[ULM].objects
    assert d.schema.classes == ("pedestrian",)
    assert o.ignore.tolist() == [False, True, True, True, True, True, False]
    assert o.boxes[[0, 6]].tolist() == [[0, 2, 10, 42], [50, 30, 70, 70]]  # the last one reaches beyond the picture
    assert o.occlusion is not None
    assert o.occlusion.tolist() == [0.75] * 6 + [0]
    assert (found(d, "labels.ignored"), found(d, "labels.beyond"), found(d, "labels.no_visible")) == (5, 1, 1)


def test_bad_files_of_citypersons(tmp_path: Path) -> None:
    good = [{"label": "pedestrian", "bbox": [i, 2, 10, 40]} for i in range(5)]
    d = source.read(f"{street(tmp_path / 'a', *good, {'label': 'pedestrian', 'bbox': [1, 2]})}")
    assert (len(d[ULM].objects), found(d, "labels.fields")) == (5, 1)
    with pytest.raises(TercelError, match=r"objects\[0\]: unknown class 'pedestrain'") as e:
        source.read(f"{street(tmp_path / 'b', {'label': 'pedestrain', 'bbox': [1, 2, 3, 4]})}")
    assert "'pedestrian'" in e.value.remedy
    with pytest.raises(TercelError, match="needs imgHeight, imgWidth and objects"):
        source.read(f"{street(tmp_path / 'c', imgHeight='48')}")


# -- WiderPerson --------------------------------------------------------------------------------------------------


def wider(folder: Path, text: str, names: str = "000040\n") -> Path:
    picture(folder / "Images" / "000040.jpg")
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "Annotations" / "000040.jpg.txt").write_text(text)
    (folder / "train.txt").write_text(names)
    (folder / "ReadMe.txt").write_text("WiderPerson\n")
    return folder


def test_widerperson_counts_persons_and_ignores_regions(tmp_path: Path) -> None:
    text = "5\n1 1 2 11 32\n2 3 2 11 32\n3 5 2 11 32\n4 20 2 40 32\n5 40 2 60 32\n"
    d = source.read(f"{wider(tmp_path, text)}#train")
    assert (d.schema.classes, widerperson.splits(tmp_path)) == (("person",), ["train"])
    assert d["000040"].objects.ignore.tolist() == [False, False, False, True, True]
    assert rows(d, "000040")[4] == [40, 2, 60, 32]
    assert d["000040"].objects.occlusion is None
    assert (found(d, "labels.ignored"), found(d, "labels.count")) == (2, 0)


def test_a_file_that_tells_another_number_of_persons(tmp_path: Path) -> None:
    d = source.read(str(wider(tmp_path, "3\n1 1 2 11 32\n")))
    assert (len(d["000040"].objects), found(d, "labels.count")) == (1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\n1 1 2 3 4\n", r"000040.jpg.txt:1: the first line is the number of persons"),
        ("", r"000040.jpg.txt:1: the first line is the number of persons"),
        ("1\n1 1 2 3\n", r"000040.jpg.txt:2: a person is"),
        ("1\n1 1 2 3 x\n", r"000040.jpg.txt:2: a person is"),
        ("1\n7 1 2 3 4\n", r"000040.jpg.txt:2: unknown class '7'"),
    ],
)
def test_bad_files_of_widerperson(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TercelError, match=message):
        widerperson.read(wider(tmp_path, text))


def test_a_list_of_pictures_without_labels_is_refused(tmp_path: Path) -> None:
    wider(tmp_path, "0\n", "000040\n000041.jpg\n")
    picture(tmp_path / "Images" / "000041.jpg")
    (tmp_path / "test.txt").write_text("000041\n")
    d = source.read(f"{tmp_path}#train")
    assert ([r.id for r in d.records], found(d, "labels.none")) == (["000040", "000041"], 1)
    with pytest.raises(TercelError, match="none of its pictures has a text file"):
        source.read(f"{tmp_path}#test")


# -- dumps of detections ------------------------------------------------------------------------------------------


def dump(path: Path, *entries: Any) -> Path:
    path.write_text("".join(e if isinstance(e, str) else json.dumps(e) + "\n" for e in entries))
    return path


def truth(tmp_path: Path) -> Dataset:
    return source.read(str(crowd(tmp_path / "gt", ("a", PEOPLE), ("b", []), pictures=("a.jpg", "b.jpg"))))


BOX = {"box": [1, 2, 10, 20], "score": 0.5, "tag": 1}


def test_a_dump_is_read(tmp_path: Path) -> None:
    entry = {"ID": "a", "gtboxes": PEOPLE, "height": 48, "width": 64, "dtboxes": [BOX, BOX | {"box": [-3, 2, 9.5, 4]}]}
    ledger = Ledger()
    found_ = read_predictions(dump(tmp_path / "d.jsonl", entry), truth(tmp_path), ledger=ledger)
    assert found_["a"].boxes.tolist() == [[1, 2, 11, 22], [-3, 2, 6.5, 6]]
    assert found_["a"].scores is not None
    assert found_["a"].scores.tolist() == [0.5, 0.5]
    assert len(found_["b"]) == 0
    assert found(ledger.findings(), "predictions.gtboxes") == 4


def test_a_dump_that_is_written_reads_back(tmp_path: Path) -> None:
    d = truth(tmp_path)
    boxes = np.array([[1.25, 2, 11, 22], [-3, 2, 6.5, 70]], np.float32)
    items = {
        "a": Objects(SIZE, [0, 0], boxes, scores=np.array([0.9, 0.25])),
        "b": Objects.empty(SIZE, Objects(SIZE, [0], boxes[:1], scores=np.array([1.0]))),
    }
    write_dump(tmp_path / "d.jsonl", items.items())
    assert json.loads((tmp_path / "d.jsonl").read_text().splitlines()[0])["dtboxes"][0]["box"] == [1.25, 2, 9.75, 20]
    for id_, o in read_predictions(tmp_path / "d.jsonl", d).items():
        assert o.same(items[id_])
    with pytest.raises(TercelError, match="exists already"):
        write_dump(tmp_path / "d.jsonl", items.items())
    with pytest.raises(TercelError, match="two predictions for the id 'a'"):
        write_dump(tmp_path / "e.jsonl", [*items.items(), ("a", items["a"])])
    with pytest.raises(TercelError, match="have no scores"):
        write_dump(tmp_path / "e.jsonl", [("a", d["a"].objects)])
    assert not (tmp_path / "e.jsonl").exists()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"ID": "b", "dtbo', r"d.jsonl:2: not JSON"),
        ({"ID": "b"}, r"d.jsonl:2: a line is an object with ID and dtboxes"),
        ({"ID": "a", "dtboxes": []}, r"d.jsonl:2: 'a' stands in line 1 already"),
        ({"ID": "b", "dtboxes": [BOX, {"box": [1, 2, 3, 4]}]}, r"d.jsonl:2 dtboxes\[1\]: a detection has box"),
        ({"ID": "b", "dtboxes": [BOX, BOX | {"box": [1, 2, 3]}]}, r"d.jsonl:2 dtboxes\[1\]: a detection has box"),
        ({"ID": "b", "dtboxes": [BOX | {"box": [1, 2, -3, 4]}]}, r"d.jsonl:2 dtboxes\[0\]: a negative width"),
        ({"ID": "b", "dtboxes": [BOX | {"score": 1.5}]}, r"d.jsonl:2 dtboxes\[0\]: a score outside 0..1"),
        ({"ID": "b", "dtboxes": [BOX | {"tag": 2}]}, r"d.jsonl:2 dtboxes\[0\]: unknown class '2'"),
        ({"ID": "b", "height": 50, "width": 64, "dtboxes": []}, r"d.jsonl:2: predicted on 64x50, .* is 64x48"),
    ],
)
def test_bad_lines_of_a_dump_are_named(second: Any, message: str, tmp_path: Path) -> None:
    file = dump(tmp_path / "d.jsonl", {"ID": "a", "dtboxes": [BOX]}, second)
    with pytest.raises(TercelError, match=message):
        read_predictions(file, truth(tmp_path))


def test_a_dump_of_other_pictures(tmp_path: Path) -> None:
    with pytest.raises(TercelError, match="no picture of the predictions occurs in the truth"):
        read_predictions(dump(tmp_path / "d.jsonl", {"ID": "z", "dtboxes": [BOX]}), truth(tmp_path))
    ledger, file = Ledger(), dump(tmp_path / "d.jsonl", {"ID": "z", "dtboxes": [BOX]}, {"ID": "b", "dtboxes": [BOX]})
    assert len(read_predictions(file, truth(tmp_path), ledger=ledger)["b"]) == 1
    assert found(ledger.findings(), "predictions.unknown_picture") == 1


def test_the_dump_tells_sizes_that_the_truth_had_to_guess(tmp_path: Path) -> None:
    d = source.read(str(crowd(tmp_path, ("a", PEOPLE), pictures=())), pictures=False, as_written=True)
    assert d["a"].size == (44, 60)  # as far as the boxes reach
    file = dump(tmp_path / "d.jsonl", {"ID": "a", "height": 48, "width": 64, "dtboxes": [BOX]})
    found_ = read_predictions(file, d)
    sized = on_told_canvases(d, found_)
    assert sized["a"].objects.size == sized["a"].size == found_["a"].size == SIZE
    assert found(sized, "predictions.sizes") == 1
    told = truth(tmp_path)
    assert on_told_canvases(told, found_) is told


def test_the_oracle_is_read_whole(shared: Path) -> None:
    """README of the oracle: 530 counted persons, 67 ignored boxes, 110 ignored heads, 701 and 605 detections."""
    folder = shared / "oracles/crowd"
    expected = json.loads((folder / "expected.json").read_text())
    for kind, dets, n in (("full", "body", 701), ("visible", "body", 701), ("head", "head", 605)):
        d = source.read(f"{folder / 'annotation.odgt'}#{kind}", pictures=False, as_written=True)
        name = {"full": "body_fbox", "visible": "body_scored_against_vbox", "head": "head_hbox"}[kind]
        ignored = sum(int(r.objects.ignore.sum()) for r in d.records)
        counted = sum(len(r.objects) for r in d.records) - ignored
        assert (len(d), counted, ignored) == tuple(expected[name][k] for k in ("images", "gt", "ignored_gt"))
        found_ = read_predictions(folder / f"detections_{dets}.jsonl", d)
        assert sum(map(len, found_.values())) == n
        sizes = [json.loads(x) for x in (folder / f"detections_{dets}.jsonl").read_text().splitlines()]
        told = on_told_canvases(d, found_)
        assert {e["ID"]: told[e["ID"]].size for e in sizes} == {e["ID"]: (e["height"], e["width"]) for e in sizes}


def test_a_size_that_the_line_tells_needs_no_picture(tmp_path: Path) -> None:
    (tmp_path / "x.odgt").write_text(line("a", [Person((1, 2, 9, 30))], SIZE) + "\n")
    d = odgt.read(tmp_path / "x.odgt", options=Options(pictures=False))
    assert (d["a"].size, found(d, "labels.size_from_boxes")) == (SIZE, 0)
