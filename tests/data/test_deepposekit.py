"""DeepPoseKit: the public flies number by number, what `annotated` and skeleton.csv say, pictures within the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tercel import lab
from tercel.core.finding import TercelError
from tercel.core.record import Dataset, Frame
from tercel.data import source, stored
from tercel.data.cache import PictureStore
from tercel.data.formats import deepposekit
from tercel.data.splits import leaks
from tercel.data.video import read_frame

NAMES = "name,parent,swap\nhead,,\neyeL,head,eyeR\neyeR,head,eyeL\ntail,head,\n"
N, K, SIZE = 5, 4, (30, 40)


def make(folder: Path, table: str | None = NAMES, **changes: Any) -> Path:
    """N pictures with K points; a change is the new content of a data set, None leaves it out."""
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {
        "images": rng.integers(0, 255, (N, *SIZE, 1), np.uint8),
        "annotations": rng.uniform(5, 25, (N, K, 2)),
        "annotated": np.ones((N, K), bool),
        "skeleton": np.array([[-1, -1], [0, 2], [0, 1], [0, -1]], np.int32),
    }
    folder.mkdir(exist_ok=True, parents=True)
    with h5py.File(folder / "set.h5", "w") as f:
        for key, value in (content | changes).items():
            if value is not None:
                f[key] = value
    if table is not None:
        (folder / "skeleton.csv").write_text(table)
    return folder / "set.h5"


def read(file: Path, split: str | None = None) -> Dataset:
    return deepposekit.read(file, split)


def said(d: Dataset) -> dict[str, int]:
    return {f.check: f.count for f in d.findings}


# -- the public set -----------------------------------------------------------------------------------------------


def test_flies_number_by_number(shared: Path) -> None:
    folder = shared / "data/deepposekit-fly"
    d = source.read(f"{folder}")
    with h5py.File(folder / "example_annotation_set.h5") as f:
        images, points = f["images"][...], f["annotations"][...]
    assert len(d) == 100
    for i, r in enumerate(d.records):
        np.testing.assert_array_equal(r.objects.points[0], points[i].astype(np.float32))  # type: ignore[index]
        assert r.objects.visible.tolist() == [[2] * 32]  # type: ignore[union-attr]
        assert r.objects.boxes[0].tolist() == [*r.objects.points[0].min(axis=0), *r.objects.points[0].max(axis=0)]  # type: ignore[index]
    np.testing.assert_array_equal(read_frame(d.records[7].frames[0]), np.repeat(images[7], 3, axis=2))
    assert d.schema.keypoints[:3] == ("head", "eyeL", "eyeR")
    assert len(d.schema.edges) == 25
    assert ("hindlegL3", "hindlegL4") in d.schema.edges


def test_the_wrong_swap_of_the_flies_is_reported_and_mended(shared: Path) -> None:
    """skeleton.csv line 14 pairs midlegR3 with midlegL2, whose partner is midlegR2."""
    d = source.read(f"{shared / 'data/deepposekit-fly'}#0:80")
    pairs = {frozenset(p) for p in d.schema.flip_pairs}
    assert pairs == {frozenset((n, n.replace("R", "L"))) for n in d.schema.keypoints if "R" in n}
    (found,) = [f for f in d.findings if f.check == "labels.flip_pairs"]
    assert found.evidence[0].endswith("skeleton.csv:14")
    assert "'midlegR3' is 'midlegL2'" in found.message
    assert "midlegL3 and midlegR3 were paired by their names" in found.message
    assert "labels.annotated" in said(d)  # all flags are False in this file


def test_ranges_in_the_order_of_the_file_share_nothing(shared: Path) -> None:
    train, val = (source.read(f"{shared / 'data/deepposekit-fly'}#{part}") for part in ("0:80", "80:"))
    assert [r.id for r in train.records] == [str(i) for i in range(80)]
    assert [r.id for r in val.records] == [str(i) for i in range(80, 100)]
    assert leaks(train, val) == []
    assert {f.check for f in leaks(train, train)} == {"split.shared_path", "split.shared_content"}


def test_the_same_picture_in_another_file_is_a_leak(tmp_path: Path) -> None:
    """Another file, other labels, another place in it: the pixels tell."""
    rng = np.random.default_rng(5)
    first = make(tmp_path / "a")
    with h5py.File(first) as f:
        images = rng.permutation(f["images"][...])
    images[0] = rng.integers(0, 255, images[0].shape, np.uint8)
    second = make(tmp_path / "b", images=images, annotations=rng.uniform(5, 25, (N, K, 2)))
    (found,) = leaks(read(first), read(second))
    assert (found.check, found.count) == ("split.shared_content", N - 1)
    assert leaks(read(first, "0:2"), read(first, "2:")) == []


def test_two_annotators_of_one_file_agree_on_its_pixels(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    with h5py.File(b, "r+") as f:
        f["annotations"][...] += 1.0
    r = lab.agree(f"deepposekit:{a}", f"deepposekit:{b}", draws=0, resamples=0)
    assert "agree.other_pixels" not in {f.check for f in r.findings}
    assert [p["px"] for p in r.report["points"]] == pytest.approx([2**0.5] * K, rel=1e-5)


# -- what counts as labelled --------------------------------------------------------------------------------------


def test_annotated_says_which_points_and_which_pictures_count(tmp_path: Path) -> None:
    annotated = np.ones((N, K), bool)
    annotated[0, 2], annotated[3] = False, False
    d = read(make(tmp_path, annotated=annotated))
    assert [r.id for r in d.records] == ["0", "1", "2", "4"]
    assert d["0"].objects.visible.tolist() == [[2, 2, 0, 2]]  # type: ignore[union-attr]
    assert said(d) == {"labels.not_annotated": 1}
    assert d["4"].frames == (Frame(tmp_path / "set.h5", 4),)


def test_absent_points_are_nan_or_wait_at_minus_one(tmp_path: Path) -> None:
    points = np.tile(np.arange(8.0, 8 + 2 * K).reshape(K, 2), (N, 1, 1))
    points[0, 1], points[1, 2], points[2, 0], points[3] = np.nan, (-1, -1), (0, 7), np.nan
    d = read(make(tmp_path, annotations=points))
    assert d["0"].objects.visible.tolist() == [[2, 0, 2, 2]]  # type: ignore[union-attr]
    assert d["1"].objects.visible.tolist() == [[2, 2, 0, 2]]  # type: ignore[union-attr]
    assert d["2"].objects.visible.tolist() == [[2, 2, 2, 2]]  # type: ignore[union-attr]
    assert d["2"].objects.points[0, 0].tolist() == [0, 7]  # type: ignore[index]
    assert len(d["3"].objects) == 0  # looked at, and nothing there
    assert said(d) == {"data.negatives": 1}


# -- the skeleton -------------------------------------------------------------------------------------------------


def test_without_a_table_the_numbers_of_the_file_count(tmp_path: Path) -> None:
    d = read(make(tmp_path, table=None))
    assert d.schema.keypoints == ("point1", "point2", "point3", "point4")
    assert d.schema.flip_pairs == (("point2", "point3"),)
    assert d.schema.edges == (("point1", "point2"), ("point1", "point3"), ("point1", "point4"))
    assert said(d) == {"labels.point_names": 1}


BAD_TABLES = {
    "a parent that is no point": (NAMES.replace("tail,head", "tail,body"), r"skeleton.csv:5: 'tail' hangs on 'body'"),
    "too few names": ("name,parent,swap\nhead,,\n", r"skeleton.csv names 1 points, .*set.h5 has 4"),
    "a name twice": (NAMES.replace("tail", "head"), r"skeleton.csv:5: the name 'head' occurs twice"),
    "no names": (NAMES.replace("name,", "point,"), r"skeleton.csv:1: no column 'name'"),
    "partners that differ": (
        "name,parent,swap\nhead,,\near1,head,tail\near2,head,ear1\ntail,head,\n",  # names that cannot mend it
        r"skeleton.csv:3: the mirror partner of 'ear1' is 'tail', which has none",
    ),
    "a partner that is no point": (NAMES.replace("tail,head,", "tail,head,x"), r"skeleton.csv:5: .* which is no point"),
    "its own ancestor": (NAMES.replace("head,,", "head,tail,"), r"skeleton.csv:2: 'head' is its own ancestor"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    table, message = BAD_TABLES[case]
    if case == "partners that differ":  # names that say no side cannot mend it
        table, message = (
            table.replace("eye", "ear_").replace("L", "1").replace("R", "2"),
            message.replace("eyeL", "ear_1"),
        )
    with pytest.raises(TercelError, match=message) as e:
        read(make(tmp_path, table=table))
    assert e.value.remedy


# -- files --------------------------------------------------------------------------------------------------------

BAD_FILES: dict[str, tuple[dict[str, Any], str]] = {
    "no annotations": ({"annotations": None}, r"set.h5 has no data set 'annotations'; it holds annotated, images"),
    "no pictures": ({"images": None}, r"set.h5 has no data set 'images'"),
    "points of other pictures": ({"annotations": np.zeros((3, K, 2))}, r"'annotations' is \[3, 4, 2\]"),
    "three numbers per point": ({"annotations": np.zeros((N, K, 3))}, r"'annotations' is \[5, 4, 3\]"),
    "words for points": ({"annotations": [b"a", b"b"]}, r"'annotations' holds no numbers"),
    "flags of another shape": ({"annotated": np.ones(N, bool)}, r"'annotated' is \[5\], not \[5, 4\]"),
    "a skeleton of another shape": ({"skeleton": np.zeros((3, 2), int)}, r"'skeleton' is \[3, 2\], not \[4, 2\]"),
    "pictures of floats": ({"images": np.zeros((N, *SIZE, 1))}, r"'images' is float64"),
    "pictures of two channels": ({"images": np.zeros((N, *SIZE, 2), np.uint8)}, r"'images' is uint8 \[5, 30, 40, 2\]"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused(case: str, tmp_path: Path) -> None:
    changes, message = BAD_FILES[case]
    file = make(tmp_path, **changes)
    assert deepposekit.accepts(file)
    with pytest.raises(TercelError, match=message) as e:
        read(file)
    assert e.value.remedy


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = make(tmp_path)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(TercelError, match=r"cannot read .*set.h5"):
        read(file)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train", r"no splits, so there is no 'train'"),
        ("3:9", r"holds 5 pictures, and 3:9"),
        ("4:4", "no range"),
        ("4:2", "no range"),
    ],
)
def test_a_split_is_a_range(split: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TercelError, match=message) as e:
        read(make(tmp_path), split)
    assert ":" in e.value.remedy


def test_of_several_files_one_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "other.h5").write_bytes((tmp_path / "set.h5").read_bytes())
    assert deepposekit.splits(tmp_path) == ["other", "set"]
    assert len(read(tmp_path, "set")) == N
    for split in (None, "0:2", "sett"):
        with pytest.raises(TercelError, match=r"holds 2 annotation sets|has no split"):
            read(tmp_path, split)


# -- pictures -----------------------------------------------------------------------------------------------------


def test_colours_are_blue_green_red_in_the_file(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 255, (N, *SIZE, 3), np.uint8)
    file = make(tmp_path, images=images)
    np.testing.assert_array_equal(read_frame(Frame(file, 3)), images[3][..., ::-1])
    with pytest.raises(TercelError, match=r"set.h5 has no picture 5: it holds 5"):
        stored.read_stored(Frame(file, 5))


@pytest.mark.parametrize("mode", ["ram", "disk", "none"])
def test_the_store_serves_pictures_of_the_file(mode: str, tmp_path: Path) -> None:
    file = make(tmp_path)
    frames = [Frame(file, i) for i in range(N)]
    if mode == "none":
        (tmp_path / "cache").write_text("a file in the way")
    store = PictureStore(frames, 1.0 if mode == "ram" else 0.0, tmp_path / "cache")
    assert store.mode == mode
    assert store.total_bytes == N * SIZE[0] * SIZE[1] * 3
    for _ in range(2):
        for f in frames:
            np.testing.assert_array_equal(store.get(f), read_frame(f))


def test_writing_refuses_what_the_file_cannot_hold(tmp_path: Path) -> None:
    d = read(make(tmp_path / "in"))
    r = d.records[0]
    two = r.objects.concat([r.objects, r.objects])
    empty = r.objects.replace(visible=0 * r.objects.visible)  # type: ignore[operator]
    for objects, message in ((two, "has 2 animals"), (empty, "an animal without a labelled point")):
        with pytest.raises(TercelError, match=message):
            deepposekit.write(Dataset(d.schema, (replace(r, objects=objects),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
