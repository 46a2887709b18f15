"""Named points through the whole loader (turtle-4): a marker is drawn at each point, picture and labels are augmented,
and the marker is found at the label. Tests of the warps alone are in test_augment.py.

Each point of each animal has a colour of its own. In a mirror image the animal's left flipper is the one that was drawn
as its right one, so that the point named left shows the marker of the right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tercel.config import Augment, Data
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.core.warp import Warp
from tercel.data import augment, loader, turtle_sprites, turtles
from tercel.data.loader import Loader, Sample

OFF = Augment(mosaic=0, scale=0, shift=0, flip=0, hue=0, saturation=0, brightness=0)
OPTIONS = {
    "none": OFF,
    "scale and shift": replace(OFF, scale=0.3, shift=0.2),
    "flip": replace(OFF, flip=1.0),
    "upside down": replace(OFF, flip_vertical=1.0),
    "rotate": replace(OFF, rotate=180),
    "shear": replace(OFF, shear=15),
    "mosaic": replace(OFF, mosaic=1.0),
    "all": replace(OFF, mosaic=0.5, scale=0.3, shift=0.1, rotate=180, shear=8, flip=0.5, flip_vertical=0.3),
}
SIZES = [(240, 320), (320, 240), (256, 256), (200, 330)]
CANVAS = (256, 288)
RADIUS = 5  # px of a marker in its own picture


def skeleton(k: int) -> Schema:
    """K names: a middle one, then pairs; an even K ends with another middle one."""
    pairs = [(f"left{i}", f"right{i}") for i in range((k - 1) // 2)]
    names = ["middle", *(n for p in pairs for n in p), *(["tail"] if k % 2 == 0 else [])]
    return Schema(("animal",), tuple(names), tuple(pairs))


def colours(k: int) -> np.ndarray:
    """K colours u8 [K,3], far from each other, from black and from the letterbox grey."""
    levels = np.stack(np.meshgrid(*[[0, 85, 170, 255]] * 3, indexing="ij"), -1).reshape(-1, 3)
    bright = levels[(levels.max(1) >= 170) & (np.ptp(levels, axis=1) >= 85)]
    return np.asarray(bright[np.random.default_rng(0).permutation(len(bright))[:k]], np.uint8)


def dataset(folder: Path, k: int) -> Dataset:
    """Four pictures, each of one animal: K markers on a grid in random order; some hidden, some absent (not drawn)."""
    folder.mkdir()
    records = []
    for i, (h, w) in enumerate(SIZES):
        rng = np.random.default_rng([k, i])
        image = np.zeros((h, w, 3), np.uint8)
        cells = rng.permutation(42)[:k]
        points = (np.stack([cells % 7, cells // 7], 1) + 0.5) / (7, 6) * (w, h) + rng.uniform(-4, 4, (k, 2))
        visible = rng.choice([0, 1, 2], k, p=(0.15, 0.25, 0.6)) if k > 1 else np.array([2])
        for (x, y), v, colour in zip(points, visible, colours(k).tolist(), strict=True):
            if v:
                at = (round((x - 0.5) * 16), round((y - 0.5) * 16))
                cv2.circle(image, at, RADIUS * 16, colour, -1, cv2.LINE_AA, 4)
        points[visible == 0] = 0
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), image[..., ::-1])
        o = Objects((h, w), [0], [[0, 0, w, h]], points=points[None], visible=visible[None])
        records.append(Record(path.stem, (Frame(path),), (h, w), o))
    return Dataset(skeleton(k), tuple(records))


def samples(folder: Path, k: int, config: Augment, count: int = 8, min_visible: float = 0.0) -> list[Sample]:
    data = Data(size=CANVAS, workers=0, min_visible=min_visible)
    run = Loader(dataset(folder, k), data, config, batch=4, seed=1, samples=count)
    return [s for batch in run.epoch(0) for s in batch.samples]


def marker(image: np.ndarray, colour: np.ndarray, xy: np.ndarray, radius: float) -> np.ndarray | None:
    """Centre of mass of what has `colour` within `radius` of `xy`, or None."""
    left, top = np.maximum(np.floor(xy - radius), 0).astype(int)
    window = image[top : top + int(2 * radius) + 3, left : left + int(2 * radius) + 3]
    y, x = np.mgrid[0 : window.shape[0], 0 : window.shape[1]] + 0.5
    y, x = y + top, x + left
    difference = np.abs(window.astype(int) - colour.astype(int)).max(-1)
    weight = np.clip(1 - difference / 60, 0, 1) * (np.hypot(x - xy[0], y - xy[1]) < radius)
    if weight.sum() < 2:
        return None
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


def check(found: list[Sample], k: int) -> int:
    """Every labelled point of every sample shows its own marker, to within a pixel; returns how many were looked at."""
    schema, palette, seen = skeleton(k), colours(k), 0
    partner = dict(schema.flip_pairs) | {b: a for a, b in schema.flip_pairs}
    number = {n: i for i, n in enumerate(schema.keypoints)}
    for s in found:
        o, image = s.objects, s.images[0].transpose(1, 2, 0)
        assert o.points is not None
        assert o.visible is not None
        assert o.points.shape[1:] == (k, 2)
        # An object came from the picture whose visible part is its box.
        for box, points, visible in zip(o.boxes, o.points, o.visible, strict=True):
            warp = next(w for w in s.warps if shows(w, box))
            scale = np.linalg.svd(warp.matrix[:2, :2])[1]  # largest and smallest
            for name, xy, v in zip(schema.keypoints, points, visible, strict=True):
                edge = np.concatenate([xy, CANVAS[::-1] - xy]).min()
                if not v or edge < RADIUS * scale[0] + 1 or near_seam(s.warps, warp, xy, RADIUS * scale[0] + 1):
                    continue
                drawn = partner.get(name, name) if warp.mirrored else name
                at = marker(image, palette[number[drawn]], xy, RADIUS * scale[0] + 3)
                assert at is not None, f"{name} is not at {xy}"
                np.testing.assert_allclose(at, xy, atol=1.0)
                seen += 1
    return seen


def shows(warp: Warp, box: np.ndarray) -> bool:
    """Whether `box` is what the canvas shows of this warp's picture."""
    h, w = warp.src
    corners = warp.points(np.array([[0.0, 0], [w, 0], [w, h], [0, h]]))
    limits = (CANVAS[1], CANVAS[0])
    low, high = np.clip(corners.min(0), 0, limits), np.clip(corners.max(0), 0, limits)
    return bool(np.abs(np.concatenate([low, high]) - box).max() < 0.01)


def near_seam(warps: tuple[Warp, ...], own: Warp, xy: np.ndarray, reach: float) -> bool:
    """Whether the marker at `xy` reaches beyond its own picture, where it is cut."""
    around = xy + reach * np.stack([np.cos(t := np.arange(16) * np.pi / 8), np.sin(t)], 1)
    p = own.inverse().points(around)
    return not bool(((p > 0) & (p < (own.src[1], own.src[0]))).all())


@pytest.mark.parametrize("k", [1, 6, 17, 32])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_marker_is_where_the_label_says(name: str, k: int, tmp_path: Path) -> None:
    found = samples(tmp_path / "set", k, OPTIONS[name])
    assert check(found, k) >= 2 * k
    if name in {"flip", "upside down"}:
        assert all(w.mirrored for s in found for w in s.warps)


@pytest.mark.parametrize("name", OPTIONS)
def test_absent_stays_absent_and_hidden_hidden(name: str, tmp_path: Path) -> None:
    """As many of each as in the source, less those that left the view; no absent point comes into being."""
    records = {r.id: r.objects for r in dataset(tmp_path / "plain", 17).records}
    for s in samples(tmp_path / "set", 17, OPTIONS[name], count=4):
        for o, warp, source in ((s.objects, w, records[r]) for w, r in zip(s.warps, s.records, strict=True)):
            assert o.visible is not None
            assert source.visible is not None
            rows = [i for i, b in enumerate(o.boxes) if shows(warp, b)]
            index = skeleton(17).flip_index if warp.mirrored else np.arange(17)
            for i in rows:
                kept = o.visible[i] > 0
                np.testing.assert_array_equal(o.visible[i][kept], source.visible[0][index][kept])
                if name in {"none", "flip", "upside down"}:
                    np.testing.assert_array_equal(o.visible[i], source.visible[0][index])


# -- planted bugs: the check above has to see each ------------------------------------------------------------------


def forgets_to_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """The founding code: pixels are mirrored, the names are not exchanged."""
    monkeypatch.setattr(Schema, "flip_index", property(lambda self: np.arange(len(self.keypoints))))


def forgets_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """turtle-4 as it was: columns 1 to 5 (class and box) are moved, the points are not."""
    moves = Warp.objects

    def boxes_only(self: Warp, o: Objects, *more: object) -> Objects:
        out = moves(self, o, *more)  # type: ignore[arg-type]
        return out.replace(points=o.points, visible=o.visible)

    monkeypatch.setattr(Warp, "objects", boxes_only)


def forgets_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mosaic whose points are those of the picture alone, as if it were not one of four."""

    def alone(warp: Warp, o: Objects, *more: object) -> tuple[Objects, int]:
        out, left = augment.visible_objects(warp, o, *more)  # type: ignore[arg-type]
        letterbox = Warp.letterbox(warp.src, warp.dst).objects(o)
        assert letterbox.points is not None
        return (out.replace(points=letterbox.points) if len(out) == len(o) else out), left

    monkeypatch.setattr(loader, "visible_objects", alone)


def off_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named points, and nothing else, land 1.5 px to the lower right."""
    moves = Warp.points
    off = np.float32(1.5)
    monkeypatch.setattr(Warp, "points", lambda self, xy: moves(self, xy) + off * (xy.ndim == 3 and xy.shape[1] == 6))


@pytest.mark.parametrize(
    ("plant", "name", "k"),
    [
        (forgets_to_exchange, "flip", 6),
        (forgets_to_exchange, "upside down", 17),
        (forgets_the_points, "none", 6),
        (forgets_the_points, "rotate", 1),
        (forgets_the_points, "mosaic", 6),
        (forgets_the_points, "flip", 32),
        (forgets_the_tile, "mosaic", 6),
        (off_by_little, "none", 6),
        (off_by_little, "all", 6),
    ],
)
def test_a_planted_bug_is_seen(
    plant: Callable[[pytest.MonkeyPatch], None], name: str, k: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = samples(tmp_path / "set", k, OPTIONS[name])
    monkeypatch.undo()
    with pytest.raises(AssertionError, match=r"is not at|Not equal to tolerance"):
        check(found, k)


# -- on generated turtles -----------------------------------------------------------------------------------------


def test_a_mirrored_turtle_is_a_turtle(tmp_path: Path) -> None:
    """Its eye ahead, its left on the left, whatever was done to the picture; a forgotten exchange is seen.

    Going once round eye, front right, back right, back left, front left turns clockwise on screen in every turtle.
    """
    ground = turtle_sprites.draw_ground(np.random.default_rng(0), (192, 192))
    sprites = [turtle_sprites.draw_sprite(np.random.default_rng(1))]
    records = []
    for i in range(40):
        view = turtles.draw_turtles(np.random.default_rng(i), ground, sprites)
        o = view.scene.objects
        if o.visible is not None and len(o) and o.visible.all():
            path = tmp_path / f"{i}.png"
            cv2.imwrite(str(path), view.scene.image[..., ::-1])
            records.append(Record(path.stem, (Frame(path),), (192, 192), o))
        if len(records) == 6:
            break
    round_it = [
        turtle_sprites.SCHEMA.keypoints.index(n)
        for n in ("eye", "front_right", "back_right", "back_left", "front_left")
    ]

    def turns(schema: Schema) -> set[float]:
        run = Loader(Dataset(schema, tuple(records)), Data(size=(192, 192), workers=0), OPTIONS["all"], 6, samples=24)
        out = set()
        for s in (s for batch in run.epoch(0) for s in batch.samples):
            assert s.objects.points is not None
            for p in s.objects.points[:, round_it].astype(float):
                x, y = p.T
                out.add(float(np.sign((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())))
        return out

    assert len(records) == 6
    assert turns(turtle_sprites.SCHEMA) == {1.0}
    assert turns(replace(turtle_sprites.SCHEMA, flip_pairs=())) == {1.0, -1.0}
