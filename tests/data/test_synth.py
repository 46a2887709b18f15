"""Synthetic scenes: truth against the drawn pixels, the same picture from the same seed, whole folders or none."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.core.finding import TercelError
from tercel.data import synth

SIZE = (240, 320)
CLASSES = tuple(synth.OUTLINES)


def scene(seed: int, size: tuple[int, int] = SIZE) -> synth.Scene:
    return synth.draw_boxes(np.random.default_rng(seed), size, CLASSES)


def drawn_hull(shape: synth.Shape, size: tuple[int, int], zoom: int) -> np.ndarray:
    """Hull in px of the pixels that the shape covers, looked at through a `zoom`-fold picture without background."""
    big = synth.Shape(shape.name, tuple(p * zoom for p in shape.polygons))
    height, width = size[0] * zoom, size[1] * zoom
    share, (rows, columns) = big.coverage((height, width))
    canvas = np.zeros((height, width), np.float32)
    canvas[rows, columns] = share
    y, x = np.nonzero(canvas > 0)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / zoom


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_labels_are_the_hull_of_the_drawn_pixels(seed: int) -> None:
    s = scene(seed)
    for shape, box in zip(s.shapes[:6], s.objects.boxes[:6], strict=True):
        # One pixel of the enlarged picture, and what a thin tip loses between sub-pixels.
        np.testing.assert_allclose(drawn_hull(shape, SIZE, 8), box, atol=2 / 8)


def test_the_hull_test_would_see_a_half_pixel_shift() -> None:
    s = scene(3)
    moved = [synth.Shape(p.name, tuple(q + 0.5 for q in p.polygons)) for p in s.shapes]
    off = [np.abs(drawn_hull(m, SIZE, 8) - b).max() for m, b in zip(moved, s.objects.boxes, strict=True)]
    assert min(off) > 0.25


def test_a_slanted_side_at_the_edge_gives_the_visible_hull() -> None:
    # Corner at (-10, 50), sides at 45 degrees: the triangle enters the picture between y = 40 and y = 60.
    shape = synth.Shape("triangle", (np.array([[-10.0, 50.0], [30.0, 10.0], [30.0, 90.0]]),))
    np.testing.assert_allclose(shape.visible_box((100, 100)), [0, 10, 30, 90])
    np.testing.assert_allclose(shape.visible_box((100, 20)), [0, 20, 20, 80])
    np.testing.assert_allclose(synth.Shape("x", (np.array([[-9.0, 5], [-1, 5], [-1, 9]]),)).visible_box((10, 10)), 0)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_shapes_stand_out_and_lie_in_the_picture(seed: int) -> None:
    o = scene(seed).objects
    assert (o.boxes >= 0).all()
    assert (o.boxes <= [320, 240, 320, 240]).all()
    assert (o.boxes[:, 2:] - o.boxes[:, :2] >= 3).all()


def test_pixels_at_an_uncovered_shape_differ_from_the_empty_scene() -> None:
    """The picture shows the shape where the label says: same background, drawn with and without shapes."""
    rng = np.random.default_rng(5)
    empty = synth.background(rng, SIZE, 0.0)
    shape = synth.random_shape(rng, "disc", (100, 60), 20)
    full = empty.copy()
    synth.paint_shape(rng, full, shape)
    y, x = np.nonzero(np.abs(full - empty).max(-1) > 1)
    hull = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    np.testing.assert_allclose(hull, shape.box, atol=1.01)


def test_kinds_of_scene() -> None:
    counts = np.array([len(scene(i).objects) for i in range(80)])
    assert 2 <= (counts == 0).sum() <= 15
    assert (counts > 12).sum() >= 2
    assert set(np.concatenate([scene(i).objects.labels for i in range(20)])) == set(range(len(CLASSES)))


def test_folder_is_a_yolo_set_and_the_same_twice(tmp_path: Path) -> None:
    a = synth.make_boxes(tmp_path / "a", n=11, seed=4, size=(96, 128), splits={"train": 0.6, "val": 0.2, "test": 0.2})
    b = synth.make_boxes(tmp_path / "b", n=11, seed=4, size=(96, 128), splits={"train": 0.6, "val": 0.2, "test": 0.2})
    config = yaml.safe_load(a.read_text())
    assert config["names"] == {0: "disc", 1: "square", 2: "cross", 3: "triangle"}
    seen = []
    for split in ("train", "val", "test"):
        for picture in sorted((a.parent / config[split]).iterdir()):
            twin = b.parent / picture.relative_to(a.parent)
            assert picture.read_bytes() == twin.read_bytes()
            label = a.parent / "labels" / split / f"{picture.stem}.txt"
            assert label.read_text() == (b.parent / label.relative_to(a.parent)).read_text()
            image = cv2.imread(str(picture))
            assert image is not None
            assert image.shape == (96, 128, 3)
            rows = np.array([line.split() for line in label.read_text().splitlines()], float).reshape(-1, 5)
            index = int(picture.stem)
            o = synth.draw_boxes(np.random.default_rng([4, index]), (96, 128), list(config["names"].values())).objects
            centre, wh = rows[:, 1:3] * [128, 96], rows[:, 3:] * [128, 96]
            np.testing.assert_allclose(np.concatenate([centre - wh / 2, centre + wh / 2], 1), o.boxes, atol=1e-4)
            np.testing.assert_array_equal(rows[:, 0], o.labels)
            seen.append(index)
    assert sorted(seen) == list(range(11))


def test_picture_does_not_depend_on_n(tmp_path: Path) -> None:
    a = synth.make_boxes(tmp_path / "a", n=3, seed=1, size=(64, 64), splits={"train": 1.0})
    b = synth.make_boxes(tmp_path / "b", n=5, seed=1, size=(64, 64), splits={"train": 1.0})
    name = Path("images/train/00002.jpg")
    assert (a.parent / name).read_bytes() == (b.parent / name).read_bytes()


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = synth.make_boxes(tmp_path / "a", n=2, seed=1, size=(64, 64))
    before = json.loads((tmp_path / "a" / synth.MARKER).read_text())
    monkeypatch.setattr(synth, "draw_boxes", None)  # the same request draws nothing
    assert synth.make_boxes(tmp_path / "a", n=2, seed=1, size=(64, 64)) == path
    with pytest.raises(TercelError, match="another data set"):
        synth.make_boxes(tmp_path / "a", n=3, seed=1, size=(64, 64))
    assert json.loads((tmp_path / "a" / synth.MARKER).read_text()) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(TercelError, match="not empty"):
        synth.make_boxes(tmp_path / "mine", n=2, seed=1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(TercelError, match="is a file"):
        synth.make_boxes(tmp_path / "file", n=2, seed=1)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synth, "_write_yolo", full)
    with pytest.raises(TercelError, match="No space left"):
        synth.make_boxes(tmp_path / "a", n=2, seed=1)
    assert list(tmp_path.iterdir()) == []


def test_misuse(tmp_path: Path) -> None:
    with pytest.raises(TercelError, match="hexagon"):
        synth.make_boxes(tmp_path / "a", n=2, seed=1, classes=("disc", "hexagon"))
    with pytest.raises(TercelError, match="twice"):
        synth.make_boxes(tmp_path / "a", n=2, seed=1, classes=("disc", "disc"))
    with pytest.raises(TercelError, match="add up to 1"):
        synth.make_boxes(tmp_path / "a", n=2, seed=1, splits={"train": 0.5})
    assert synth.split_counts(7, {"train": 0.5, "val": 0.5}) in ({"train": 4, "val": 3}, {"train": 3, "val": 4})
