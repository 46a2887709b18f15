"""What every format of boxes keeps: write then read gives the same records, and nothing is ever overwritten.

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
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data import source
from tercel.data.formats import FORMATS
from tercel.data.formats.common import Options

BOXES = [n for n, f in FORMATS.items() if f.TASK == "boxes"]
formats = pytest.mark.parametrize("name", BOXES)
EXACT = {"voc", "coco"}  # to the last bit; the others write shares or sums of coordinates

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


def build(folder: Path, plan: tuple[tuple[str, ...], dict[str, Objects]], prefix: str = "") -> Dataset:
    """The planned data set with real pictures in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for k, (id_, o) in enumerate(plan[1].items()):
        path = folder / f"{prefix}{k}.png"
        Image.new("RGB", (o.size[1], o.size[0]), (k, len(prefix), 3)).save(path)
        records.append(Record(id_, (Frame(path),), o.size, o, source=f"plan:{k}"))
    return Dataset(Schema(plan[0]), tuple(records))


def check_round_trip(format_: Any, dataset: Dataset, out: Path, exact: bool, split: str = "train") -> Dataset:
    """The contract: what was written reads back with the same ids, sizes, objects and pictures."""
    format_.write(dataset, out, split=split)
    back: Dataset = format_.read(out, split, Options())
    assert back.schema.classes == dataset.schema.classes
    assert {r.id for r in back.records} == {r.id for r in dataset.records}
    for r in dataset.records:
        other = back[r.id]
        assert other.size == r.size
        assert other.frames[0].path.read_bytes() == r.frames[0].path.read_bytes()
        o = r.objects if format_.HOLDS_IGNORE else r.objects[~r.objects.ignore]
        assert other.objects.labels.tolist() == o.labels.tolist()
        assert other.objects.ignore.tolist() == o.ignore.tolist()
        np.testing.assert_allclose(other.objects.boxes, o.boxes, rtol=0, atol=0 if exact else 1e-5)
        np.testing.assert_allclose(other.objects.areas, o.areas, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-3)
    return back


@formats
@settings(max_examples=15)
@given(plan=plans(st.integers(0, 10**6).map(str)))
def test_write_then_read_gives_the_same_records(name: str, plan: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = build(Path(folder, "in"), plan)
        check_round_trip(FORMATS[name], dataset, Path(folder, "out"), name in EXACT)


@formats
@settings(max_examples=8)
@given(plan=plans(stems))
def test_names_of_any_spelling_survive(name: str, plan: Any) -> None:
    """Ids with spaces, quotes, accents; COCO numbers its pictures and is compared in that order instead."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = build(Path(folder, "in"), plan)
        if name == "coco":
            numbered = [dataclasses.replace(r, id=str(i)) for i, r in enumerate(dataset.records, 1)]
            if all(i.isdigit() for i in plan[1]):
                return
            FORMATS[name].write(dataset, Path(folder, "out"))
            back = FORMATS[name].read(Path(folder, "out"), "train", Options())
            assert [r.id for r in back.records] == [r.id for r in numbered]
            assert all(a.objects.same(b.objects) for a, b in zip(back.records, numbered, strict=True))
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


@formats
@pytest.mark.parametrize("bug", list(BUGS))
def test_the_contract_catches_planted_bugs(name: str, bug: str, tmp_path: Path) -> None:
    o = Objects((40, 60), [0, 1], [[10.25, 5.5, 20.75, 30.5], [3, 4.5, 12, 14]], [False, True])
    dataset = build(tmp_path / "in", (("ball", "net"), {"1": o, "2": o[[1, 0]].replace(ignore=[False, False])}))
    good = FORMATS[name]

    def write(d: Dataset, out: Path, *, split: str) -> list[Path]:
        spoilt = tuple(dataclasses.replace(r, objects=BUGS[bug](r.objects)) for r in d.records)
        return good.write(Dataset(d.schema, spoilt), out, split=split)

    broken = SimpleNamespace(write=write, read=good.read, HOLDS_IGNORE=good.HOLDS_IGNORE)
    check_round_trip(good, dataset, tmp_path / "good", name in EXACT)
    with pytest.raises(AssertionError):
        check_round_trip(broken, dataset, tmp_path / "bad", name in EXACT)


def small(folder: Path, prefix: str = "") -> Dataset:
    o = Objects((40, 60), [0, 1], [[10.25, 5.5, 20.75, 30.5], [3, 4.5, 12, 14]])
    base = len(prefix) * 100
    return build(folder, (("ball", "net"), {f"{base + 1}": o, f"{base + 2}": Objects.empty((40, 60))}), prefix)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@formats
def test_writing_twice_into_one_place_is_refused_and_changes_nothing(name: str, tmp_path: Path) -> None:
    dataset = small(tmp_path / "in")
    FORMATS[name].write(dataset, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(TercelError, match=r"exists already|has a split 'train' already"):
        FORMATS[name].write(dataset, tmp_path / "out")
    assert tree(tmp_path / "out") == before


@formats
def test_a_second_split_goes_beside_the_first(name: str, tmp_path: Path) -> None:
    format_, out = FORMATS[name], tmp_path / "out"
    check_round_trip(format_, small(tmp_path / "a"), out, name in EXACT)
    check_round_trip(format_, small(tmp_path / "b", "v"), out, name in EXACT, split="val")
    assert format_.splits(out) == ["train", "val"]
    assert {r.id for r in format_.read(out, "train", Options()).records} == {"1", "2"}
    with pytest.raises(TercelError, match="no split 'vall'") as e:
        format_.read(out, "vall", Options())
    assert "val" in e.value.remedy


@formats
def test_what_a_format_writes_is_recognised_as_it_and_nothing_else(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(tmp_path / "in"), tmp_path / "out")
    assert [f for f in FORMATS if FORMATS[f].matches(tmp_path / "out")] == [name]
    assert len(source.read(f"{tmp_path / 'out'}#train")) == 2


@formats
def test_negatives_stay_and_are_counted(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(tmp_path / "in"), tmp_path / "out")
    back = FORMATS[name].read(tmp_path / "out", "train", Options())
    assert len(back["2"].objects) == 0
    assert [f.count for f in back.findings if f.check == "data.negatives"] == [1]


@formats
def test_nothing_is_written_when_a_picture_is_missing(name: str, tmp_path: Path) -> None:
    dataset = small(tmp_path / "in")
    dataset.records[1].frames[0].path.unlink()
    with pytest.raises(TercelError, match="does not exist"):
        FORMATS[name].write(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@formats
@pytest.mark.parametrize("id_", ["../escape", "/etc/x", "a/../../b", "", "a\nb"])
def test_ids_cannot_leave_the_folder(name: str, id_: str, tmp_path: Path) -> None:
    o = Objects.empty((8, 8))
    dataset = build(tmp_path / "in", (("ball",), {id_: o}))
    other = tmp_path / "in" / "other"
    other.mkdir()
    twin = build(other, (("ball",), {"x": o}))  # two pictures called 0.png: COCO must fall back on the ids
    both = Dataset(dataset.schema, dataset.records + twin.records)
    with pytest.raises(TercelError, match=r"leaves the folder|cannot be a file name"):
        FORMATS[name].write(both, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@formats
def test_clips_are_refused(name: str, tmp_path: Path) -> None:
    o = Objects.empty((8, 8))
    video = Record("v", (Frame(tmp_path / "v.mp4", 3),), (8, 8), o)
    with pytest.raises(TercelError, match="still pictures only"):
        FORMATS[name].write(Dataset(Schema(("ball",)), (video,)), tmp_path / "out")


@formats
def test_another_class_list_is_refused(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(tmp_path / "in"), tmp_path / "out")
    with pytest.raises(TercelError, match=r"class"):
        source.read(f"{tmp_path / 'out'}#train", classes=["ball"])


@pytest.mark.parametrize("name", [n for n in BOXES if n != "yolo"])  # whose shares have no size without pictures
def test_pictures_need_not_exist_for_judging(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(tmp_path / "in"), tmp_path / "out", pictures=False)
    back = FORMATS[name].read(tmp_path / "out", "train", Options(pictures=False))
    assert sum(len(r.objects) for r in back.records) == 2
    with pytest.raises(TercelError, match=r"do not exist|lists no picture|does not exist"):
        FORMATS[name].read(tmp_path / "out", "train", Options())


@formats
@pytest.mark.parametrize("other", BOXES)
def test_converting_to_any_format_keeps_every_object(name: str, other: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(tmp_path / "in"), tmp_path / "a")
    findings = source.convert(f"{name}:{tmp_path / 'a'}#train", tmp_path / "b", other)
    assert [(f.check, f.count) for f in findings][-1] == ("convert.counts", 2)
    with pytest.raises(TercelError, match=r"exists already|has a split"):
        source.convert(f"{name}:{tmp_path / 'a'}#train", tmp_path / "b", other)
