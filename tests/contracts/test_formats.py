"""What every format of (oriented) boxes and of points keeps: write then read gives the same records, nothing is ever
overwritten.

Formats of balls in video have a contract of their own, tests/contracts/test_ball_formats.py.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.geometry import canonical_obb, obb_corners, obb_hull, points_hull
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data import source
from tercel.data.formats import FORMATS, skeletons
from tercel.data.formats.common import Options
from tercel.data.stored import is_store
from tercel.data.video import read_frame

BOXES = [n for n, f in FORMATS.items() if f.TASK == "boxes"]
ORIENTED = [n for n, f in FORMATS.items() if f.TASK == "oriented"]
# Of points, those that hold all there is, and those that have no place for classes (see `held`).
POINTED = [n for n, f in FORMATS.items() if f.TASK == "keypoints" and getattr(f, "HOLDS_CLASSES", True)]
NAMELESS = [n for n, f in FORMATS.items() if f.TASK == "keypoints" and not getattr(f, "HOLDS_CLASSES", True)]
HULLS = [n for n in NAMELESS if not getattr(FORMATS[n], "HOLDS_BOXES", True)]
SINGLE = "deepposekit"  # one animal per picture, pictures of one size
# Formats that know these classes only, and get objects of these.
OWN_CLASSES = {n: f.ONLY_CLASSES for n, f in FORMATS.items() if hasattr(f, "ONLY_CLASSES")}
formats = pytest.mark.parametrize("name", BOXES + ORIENTED + POINTED + NAMELESS)
oriented_formats = pytest.mark.parametrize("name", ORIENTED)
EXACT = {"voc", "coco", *OWN_CLASSES}  # to the last bit; the others write shares or sums of coordinates
NUMBERED = {"coco", "hit_uav"}  # record ids are image numbers
ANGLES = np.deg2rad([0, 45, 90, 135, -90, 17, 163, 200.5])

names = (
    st.text("abcXYZé&<>'\"-_ .#", min_size=1, max_size=8).map(str.strip).filter(lambda s: s and s not in {".", ".."})
)
stems = st.text("abcXYZé&'-_ 0123", min_size=1, max_size=8).map(str.strip).filter(lambda s: s and s != "classes")


@st.composite
def objects(draw: st.DrawFn, classes: int) -> Objects:
    h, w = draw(st.integers(8, 60)), draw(st.integers(8, 60))
    n = draw(st.integers(0, 4))
    boxes = []
    for _ in range(n):
        x = draw(st.floats(0, w - 4, width=32))
        y = draw(st.floats(0, h - 4, width=32))
        boxes.append([x, y, min(w, x + draw(st.floats(2, 64))), min(h, y + draw(st.floats(2, 64)))])
    return Objects(
        (h, w),
        np.array(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)), np.int64),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_),
    )


@st.composite
def plans(draw: st.DrawFn, ids: st.SearchStrategy[str]) -> tuple[tuple[str, ...], dict[str, Objects]]:
    classes = tuple(draw(st.lists(names, min_size=1, max_size=4, unique=True)))
    chosen = draw(st.lists(ids, min_size=1, max_size=4, unique_by=str.lower))
    return classes, {i: draw(objects(len(classes))) for i in chosen}


def turned(o: Objects) -> Objects:
    """The boxes turned about their centres by the angles of ANGLES, one after the other."""
    wh = o.boxes[:, 2:] - o.boxes[:, :2]
    theta = np.resize(ANGLES, len(o)) if len(o) else np.zeros(0)
    obbs = np.concatenate([(o.boxes[:, :2] + o.boxes[:, 2:]) / 2, wh, theta[:, None]], axis=1)
    return with_obbs(o, obbs)


def with_obbs(o: Objects, obbs: Any) -> Objects:
    ours = canonical_obb(np.asarray(obbs, np.float32))
    return o.replace(obbs=ours, boxes=obb_hull(ours), area=ours[:, 2] * ours[:, 3])


SKELETON = Schema(
    (),
    ("nose", "left_ear", "right_ear", "tail"),
    (("left_ear", "right_ear"),),
    (("nose", "tail"),),
    (0.05,) * 3 + (0.1,),
)


def posed(o: Objects, shift: float = 0.0) -> Objects:
    """Two points at corners of the box, a hidden one at its left edge and an absent one, which differ by object."""
    x1, y1, x2, y2 = o.boxes.T
    points = np.stack([np.stack([x1, y1], 1), np.stack([x2, y2], 1), np.stack([x1, (y1 + y2) / 2], 1)], axis=1)
    points = np.concatenate([points, np.zeros((len(o), 1, 2), np.float32)], axis=1)
    visible = np.tile(np.array([2, 2, 1, 0], np.uint8), (len(o), 1))
    for i in range(len(o)):
        points[i], visible[i] = np.roll(points[i], i, axis=0), np.roll(visible[i], i)
    return o.replace(points=points + np.float32(shift) * (visible > 0)[..., None], visible=visible)


def schema_for(name: str, classes: tuple[str, ...]) -> Schema:
    return skeletons.onto(Schema(classes), SKELETON) if name in POINTED + NAMELESS else Schema(classes)


def build(
    folder: Path, plan: tuple[tuple[str, ...], dict[str, Objects]], prefix: str = "", name: str = "voc"
) -> Dataset:
    """The planned data set with real pictures in `folder`, its boxes turned for a format of oriented boxes."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for k, (id_, drawn) in enumerate(plan[1].items()):
        o = turned(drawn) if name in ORIENTED else posed(drawn) if name in POINTED + NAMELESS else drawn
        o = o.replace(size=(60, 60)) if name == SINGLE else o
        path = folder / f"{prefix}{k}.png"
        Image.new("RGB", (o.size[1], o.size[0]), (k, len(prefix), 3)).save(path)
        records.append(Record(id_, (Frame(path),), o.size, o, source=f"plan:{k}"))
    return held(name, in_own_classes(name, Dataset(schema_for(name, plan[0]), tuple(records))))


def held(name: str, dataset: Dataset) -> Dataset:
    """What a format of points without classes can hold of a data set; of any other format all."""
    if name not in NAMELESS:
        return dataset
    records = []
    for r in dataset.records:
        o = r.objects.replace(labels=0 * r.objects.labels)
        if name in HULLS:
            o = o.replace(visible=np.where(o.visible > 0, 2, 0), boxes=points_hull(o.points, o.visible))
        records.append(dataclasses.replace(r, objects=o[:1] if name == SINGLE else o))
    sigmas = () if name == SINGLE else dataset.schema.sigmas
    schema = dataclasses.replace(dataset.schema, classes=(FORMATS[name].CLASS,), sigmas=sigmas)  # type: ignore[attr-defined]
    return Dataset(schema, tuple(records))


def in_own_classes(name: str, dataset: Dataset) -> Dataset:
    """The data set with the classes of a format that knows no others."""
    own = OWN_CLASSES.get(name)
    if own is None:
        return dataset
    objects = (r.objects.replace(labels=r.objects.labels % len(own)) for r in dataset.records)
    records = tuple(dataclasses.replace(r, objects=o) for r, o in zip(dataset.records, objects, strict=True))
    return Dataset(dataclasses.replace(dataset.schema, classes=own), records)


def apart(a: Any, b: Any) -> float:
    """The largest distance in px between corners of rectangles: a square has four angles, a rectangle two."""
    if not len(a):
        return 0.0
    distance = np.linalg.norm(obb_corners(a)[:, :, None] - obb_corners(b)[:, None], axis=-1)
    return float(max(distance.min(axis=1).max(), distance.min(axis=2).max()))


def check_objects(back: Objects, o: Objects, exact: bool) -> None:
    assert back.labels.tolist() == o.labels.tolist()
    assert back.ignore.tolist() == o.ignore.tolist()
    assert (back.obbs is None) == (o.obbs is None) or not len(o)
    if o.obbs is not None and len(o):
        assert apart(back.obbs, o.obbs) < 1e-3
    assert (back.points is None) == (o.points is None) or not len(o)
    if o.points is not None and len(o):
        assert back.visible.tolist() == o.visible.tolist()
        np.testing.assert_allclose(back.points, o.points, rtol=0, atol=0 if exact else 1e-4)
    fine = 0 if exact else 1e-5 if o.obbs is None else 1e-3
    np.testing.assert_allclose(back.boxes, o.boxes, rtol=0, atol=fine)
    np.testing.assert_allclose(back.areas, o.areas, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-3)


def check_round_trip(format_: Any, dataset: Dataset, out: Path, exact: bool, split: str = "train") -> Dataset:
    """The contract: what was written reads back with the same ids, sizes, objects and pictures."""
    format_.write(dataset, out, split=split)
    back: Dataset = format_.read(out, split, Options())
    assert back.schema.classes == dataset.schema.classes
    if dataset.schema.keypoints:
        assert dataclasses.replace(back.schema, category_ids=()) == dataset.schema
    assert {r.id for r in back.records} == {r.id for r in dataset.records}
    for r in dataset.records:
        other = back[r.id]
        assert other.size == r.size
        if is_store(other.frames[0].path):
            np.testing.assert_array_equal(read_frame(other.frames[0]), read_frame(r.frames[0]))
        else:
            assert other.frames[0].path.read_bytes() == r.frames[0].path.read_bytes()
        check_objects(other.objects, r.objects if format_.HOLDS_IGNORE else r.objects[~r.objects.ignore], exact)
    return back


@formats
@settings(max_examples=15)
@given(plan=plans(st.integers(0, 10**6).map(str)))
def test_write_then_read_gives_the_same_records(name: str, plan: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = build(Path(folder, "in"), plan, name=name)
        check_round_trip(FORMATS[name], dataset, Path(folder, "out"), name in EXACT)


@formats
@settings(max_examples=8)
@given(plan=plans(stems))
def test_names_of_any_spelling_survive(name: str, plan: Any) -> None:
    """Ids with spaces, quotes, accents; COCO and its kin number pictures and are compared in that order instead."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = build(Path(folder, "in"), plan, name=name)
        if name in NUMBERED:
            numbered = [dataclasses.replace(r, id=str(i)) for i, r in enumerate(dataset.records, 1)]
            if all(i.isdigit() for i in plan[1]):
                return
            FORMATS[name].write(dataset, Path(folder, "out"))
            back = FORMATS[name].read(Path(folder, "out"), "train", Options())
            assert [r.id for r in back.records] == [r.id for r in numbered]
            for a, b in zip(back.records, numbered, strict=True):
                check_objects(a.objects, b.objects, name in EXACT)
        else:
            check_round_trip(FORMATS[name], dataset, Path(folder, "out"), name in EXACT)


BUGS = {
    "shifted by a pixel": lambda o: o.replace(boxes=np.clip(o.boxes - 1, 0, None)),
    "far edge moved by a clip that keeps the width": lambda o: o.replace(boxes=o.boxes + np.float32([0, 0, 0.5, 0])),
    "coordinates cast to whole numbers": lambda o: o.replace(boxes=np.floor(o.boxes)),
    "x and y exchanged": lambda o: o.replace(boxes=o.boxes[:, [1, 0, 3, 2]]),
    "last object lost": lambda o: o[:-1],
    "objects doubled": lambda o: Objects.concat([o, o]),
    "class ids off by one": lambda o: o.replace(labels=(o.labels + 1) % 2),
    "difficult objects kept as truth": lambda o: o.replace(ignore=~o.ignore),
}
OF_SEVERAL = "class ids off by one"  # a planted bug that takes more than one class


def moved(change: Any) -> Any:
    return lambda o: with_obbs(o, change(o.obbs.astype(np.float64)))


ORIENTED_BUGS = {k: BUGS[k] for k in list(BUGS)[4:]} | {
    "shifted by a pixel": moved(lambda b: np.add(b, [1, 0, 0, 0, 0])),
    "y axis inverted": moved(lambda b: b * [1, 1, 1, 1, -1]),
    "width and length exchanged": moved(lambda b: b[:, [0, 1, 3, 2, 4]]),
    "degrees as radians": moved(lambda b: b * [1, 1, 1, 1, 180 / np.pi]),
    "an eighth of a turn off": moved(lambda b: np.add(b, [0, 0, 0, 0, np.pi / 4])),
    "x and y exchanged": moved(lambda b: b[:, [1, 0, 2, 3, 4]]),
    "hull for the box": moved(lambda b: upright(obb_hull(b))),
    "half the size": moved(lambda b: b * [1, 1, 0.5, 0.5, 1]),
}


def placed(change: Any) -> Any:
    return lambda o: o.replace(points=change(o.points))


POINTED_BUGS = BUGS | {
    "points shifted by a pixel": placed(lambda p: p + 1),
    "x and y of points exchanged": placed(lambda p: p[..., ::-1]),
    "order of points turned round": placed(lambda p: p[:, ::-1]),
    "hidden points called visible": lambda o: o.replace(visible=np.where(o.visible == 1, 2, o.visible)),
    "visibility from x": lambda o: o.replace(visible=np.where(o.points[..., 0] != 0, o.visible, 0)),
    "absent points called hidden": lambda o: o.replace(visible=np.maximum(o.visible, 1)),
}


# Planted bugs that formats without classes cannot have: those of classes, and where boxes are hulls, those of boxes and
# of hidden points. The last one is refused.
NOT_HELD = {
    False: {OF_SEVERAL},
    True: {OF_SEVERAL, *list(BUGS)[:4], "hidden points called visible"},
}
TWINS = (SINGLE, "objects doubled")


def upright(boxes: Any) -> Any:
    wh = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, wh, np.zeros((len(boxes), 1))], axis=1)


@pytest.mark.parametrize(
    ("name", "bug"),
    [(n, b) for n in BOXES for b in BUGS if b != OF_SEVERAL or len(OWN_CLASSES.get(n, "ab")) > 1]
    + [(n, b) for n in ORIENTED for b in ORIENTED_BUGS]
    + [(n, b) for n in [*POINTED, "coco"] for b in POINTED_BUGS if n in POINTED or b not in BUGS]
    + [(n, b) for n in NAMELESS for b in POINTED_BUGS if b not in NOT_HELD[n in HULLS] and (n, b) != TWINS],
)
def test_the_contract_catches_planted_bugs(name: str, bug: str, tmp_path: Path) -> None:
    o = Objects((40, 60), [0, 1], [[10.25, 5.5, 20.75, 30.5], [3, 4.5, 12, 14]], [False, True])
    if name in ORIENTED:
        o = with_obbs(o, [[15, 18, 25, 10.5, 0.4], [20, 9.25, 9, 9.5, -1.2]])
    points = name in POINTED + NAMELESS or bug not in BUGS | ORIENTED_BUGS
    if points:
        o = posed(o.replace(boxes=o.boxes - np.float32([3, 0, 0, 0])))  # the second one lies at x = 0
    plan = (("ball", "net"), {"1": o, "2": o[[1, 0]].replace(ignore=[False, False])})
    dataset = build(tmp_path / "in", plan)
    if points:
        dataset = Dataset(skeletons.onto(dataset.schema, SKELETON), dataset.records)
    dataset = held(name, in_own_classes(name, dataset))
    good, spoil = FORMATS[name], (ORIENTED_BUGS if name in ORIENTED else POINTED_BUGS)[bug]

    def write(d: Dataset, out: Path, *, split: str) -> list[Path]:
        spoilt = tuple(dataclasses.replace(r, objects=spoil(r.objects)) for r in d.records)
        return good.write(Dataset(d.schema, spoilt), out, split=split)

    broken = SimpleNamespace(write=write, read=good.read, HOLDS_IGNORE=good.HOLDS_IGNORE)
    check_round_trip(good, dataset, tmp_path / "good", name in EXACT)
    with pytest.raises(AssertionError):
        check_round_trip(broken, dataset, tmp_path / "bad", name in EXACT)


def small(folder: Path, name: str, prefix: str = "") -> Dataset:
    o = Objects((40, 60), [0, 1], [[10.25, 5.5, 20.75, 30.5], [3, 4.5, 12, 14]])
    base = len(prefix) * 100
    return build(folder, (("ball", "net"), {f"{base + 1}": o, f"{base + 2}": Objects.empty((40, 60))}), prefix, name)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@formats
def test_writing_twice_into_one_place_is_refused_and_changes_nothing(name: str, tmp_path: Path) -> None:
    dataset = small(tmp_path / "in", name)
    FORMATS[name].write(dataset, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(TercelError, match=r"exists already|has a split 'train' already"):
        FORMATS[name].write(dataset, tmp_path / "out")
    assert tree(tmp_path / "out") == before


@formats
def test_a_second_split_goes_beside_the_first(name: str, tmp_path: Path) -> None:
    format_, out = FORMATS[name], tmp_path / "out"
    check_round_trip(format_, small(tmp_path / "a", name), out, name in EXACT)
    check_round_trip(format_, small(tmp_path / "b", name, "v"), out, name in EXACT, split="val")
    assert format_.splits(out) == ["train", "val"]
    assert {r.id for r in format_.read(out, "train", Options()).records} == {"1", "2"}
    with pytest.raises(TercelError, match="no split 'vall'") as e:
        format_.read(out, "vall", Options())
    assert "val" in e.value.remedy


@formats
def test_what_a_format_writes_is_recognised_as_it_and_nothing_else(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(tmp_path / "in", name), tmp_path / "out")
    assert [f for f in FORMATS if FORMATS[f].matches(tmp_path / "out")] == [name]
    assert len(source.read(f"{tmp_path / 'out'}#train")) == 2


@formats
def test_negatives_stay_and_are_counted(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(tmp_path / "in", name), tmp_path / "out")
    back = FORMATS[name].read(tmp_path / "out", "train", Options())
    assert len(back["2"].objects) == 0
    assert [f.count for f in back.findings if f.check == "data.negatives"] == [1]


@formats
def test_nothing_is_written_when_a_picture_is_missing(name: str, tmp_path: Path) -> None:
    dataset = small(tmp_path / "in", name)
    dataset.records[1].frames[0].path.unlink()
    with pytest.raises(TercelError, match="does not exist"):
        FORMATS[name].write(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@formats
@pytest.mark.parametrize("id_", ["../escape", "/etc/x", "a/../../b", "", "a\nb"])
def test_ids_cannot_leave_the_folder(name: str, id_: str, tmp_path: Path) -> None:
    o = Objects.empty((8, 8))
    dataset = build(tmp_path / "in", (("ball",), {id_: o}), name=name)
    other = tmp_path / "in" / "other"
    other.mkdir()
    twin = build(other, (("ball",), {"x": o}), name=name)  # two pictures called 0.png: COCO must fall back on the ids
    both = Dataset(dataset.schema, dataset.records + twin.records)
    with pytest.raises(TercelError, match=r"leaves the folder|cannot be a file name"):
        FORMATS[name].write(both, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@formats
def test_clips_are_refused(name: str, tmp_path: Path) -> None:
    o = Objects.empty((8, 8))
    video = Record("v", (Frame(tmp_path / "v.mp4", 3),), (8, 8), o)
    with pytest.raises(TercelError, match="still pictures only"):
        FORMATS[name].write(Dataset(schema_for(name, ("ball",)), (video,)), tmp_path / "out")


@pytest.mark.parametrize("name", BOXES + ORIENTED + POINTED)
def test_another_class_list_is_refused(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(tmp_path / "in", name), tmp_path / "out")
    with pytest.raises(TercelError, match=r"class"):
        source.read(f"{tmp_path / 'out'}#train", classes=["ball"])


# Shares of a picture have no size without it.
@pytest.mark.parametrize("name", [n for n in BOXES + ORIENTED if n not in {"yolo", "yolo_obb", "aerial"}])
def test_pictures_need_not_exist_for_judging(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(tmp_path / "in", name), tmp_path / "out", pictures=False)
    back = FORMATS[name].read(tmp_path / "out", "train", Options(pictures=False))
    assert sum(len(r.objects) for r in back.records) == 2
    with pytest.raises(TercelError, match=r"do not exist|lists no picture|does not exist"):
        FORMATS[name].read(tmp_path / "out", "train", Options())


@pytest.mark.parametrize(
    ("name", "other"),
    [(n, o) for n in BOXES for o in BOXES]
    + [(n, o) for n in ORIENTED for o in [*ORIENTED, "voc"]]
    + [(n, o) for n in POINTED for o in [*POINTED, "coco", "voc", "yolo"]],
)
def test_converting_to_any_format_keeps_every_object(name: str, other: str, tmp_path: Path) -> None:
    dataset = small(tmp_path / "in", name)
    FORMATS[name].write(dataset, tmp_path / "a")
    known = dataset.schema.classes
    chosen = known[:1] if not set(known) <= set(OWN_CLASSES.get(other, known)) else None
    count = 2 if chosen is None else int((dataset["1"].objects.labels == 0).sum())
    findings = source.convert(f"{name}:{tmp_path / 'a'}#train", tmp_path / "b", other, classes=chosen)
    assert [(f.check, f.count) for f in findings][-1] == ("convert.counts", count)
    lost = [f.count for f in findings if f.check == "convert.angles"]
    assert lost == ([2] if name in ORIENTED and other in BOXES else [])
    lost = [f.count for f in findings if f.check == "convert.points"]
    assert lost == ([6] if name in POINTED and other in {"voc", "yolo"} else [])
    with pytest.raises(TercelError, match=r"exists already|has a split"):
        source.convert(f"{name}:{tmp_path / 'a'}#train", tmp_path / "b", other, classes=chosen)


@pytest.mark.parametrize("other", ["dota", "yolo_obb", "aerial", "dronevehicle"])
def test_boxes_without_an_angle_do_not_become_oriented_ones(other: str, tmp_path: Path) -> None:
    FORMATS["voc"].write(small(tmp_path / "in", "voc"), tmp_path / "a")
    with pytest.raises(TercelError, match="boxes without an angle"):
        source.convert(f"voc:{tmp_path / 'a'}#train", tmp_path / "b", other)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", NAMELESS)
def test_formats_without_classes_take_any_single_name(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(tmp_path / "in", name), tmp_path / "out")
    assert source.read(f"{tmp_path / 'out'}#train", classes=["fly"]).schema.classes == ("fly",)
    with pytest.raises(TercelError, match="tells no classes"):
        source.read(f"{tmp_path / 'out'}#train", classes=["fly", "ant"])


@pytest.mark.parametrize("name", POINTED + NAMELESS)
@pytest.mark.parametrize("other", [*NAMELESS, "yolo_pose", "coco"])
def test_what_animals_lose_is_counted(name: str, other: str, tmp_path: Path) -> None:
    """One picture with one animal, one of whose points is hidden where the format says so, and one without."""
    o = Objects((60, 60), [1], [[10.25, 5.5, 20.75, 30.5]])
    plan = (("ball", "net"), {"1": o, "2": Objects.empty((60, 60))})
    dataset = build(tmp_path / "in", plan, name=name)
    FORMATS[name].write(dataset, tmp_path / "a")
    said = {f.check: f.count for f in source.convert(f"{name}:{tmp_path / 'a'}#train", tmp_path / "b", other)}
    assert said["convert.counts"] == 1
    renamed = dataset.schema.classes != (getattr(FORMATS[other], "CLASS", ""),)
    assert ("convert.class_name" in said) == (other in NAMELESS and renamed)
    assert said.get("convert.hidden", 0) == (other in HULLS and name not in HULLS)
    assert said.get("convert.boxes", 0) == 0  # they are hulls here
    assert ("convert.skeleton" in said) == (other == SINGLE != name)  # its sigmas


@pytest.mark.parametrize("other", POINTED + NAMELESS)
def test_boxes_without_points_do_not_become_animals(other: str, tmp_path: Path) -> None:
    FORMATS["voc"].write(small(tmp_path / "in", "voc"), tmp_path / "a")
    with pytest.raises(TercelError, match="boxes without points"):
        source.convert(f"voc:{tmp_path / 'a'}#train", tmp_path / "b", other)
    assert not (tmp_path / "b").exists()


@settings(max_examples=15)
@given(plan=plans(st.integers(0, 10**6).map(str)))
def test_coco_keeps_points_to_the_last_bit(plan: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        boxes = build(Path(folder, "in"), plan)
        records = tuple(dataclasses.replace(r, objects=posed(r.objects)) for r in boxes.records)
        dataset = Dataset(skeletons.onto(boxes.schema, SKELETON), records)
        check_round_trip(FORMATS["coco"], dataset, Path(folder, "out"), exact=True)


@oriented_formats
@settings(max_examples=25)
@given(
    rows=st.lists(
        st.tuples(st.floats(20, 80), st.floats(20, 60), st.floats(1, 90), st.floats(1, 90), st.floats(-7, 7)),
        min_size=1,
        max_size=6,
    )
)
def test_any_rectangle_survives(name: str, rows: Any) -> None:
    """Any angle, sides in any order, also beyond the picture: the rectangle is the same to a thousandth of a pixel."""
    with tempfile.TemporaryDirectory() as folder:
        o = with_obbs(Objects((80, 100), [0] * len(rows), [[0, 0, 1, 1]] * len(rows)), rows)
        check_round_trip(FORMATS[name], build(Path(folder, "in"), (("car",), {"1": o})), Path(folder, "out"), False)
