"""Generated turtles: labels against pixels found again, masks, covers, and splits that have nothing in common."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.config import Recipe
from tercel.core.finding import Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.warp import Warp, rotation, translation
from tercel.data import source, synth, turtle_sprites, turtles
from tercel.data.turtle_sprites import SCHEMA, SIDE

SIZE = (128, 160)
SPRITES = [turtle_sprites.draw_sprite(np.random.default_rng(i)) for i in range(6)]


def view(seed: int, most: int = 1, size: tuple[int, int] = SIZE) -> turtles.View:
    ground = turtle_sprites.draw_ground(np.random.default_rng([seed, 1]), size)
    return turtles.draw_turtles(np.random.default_rng(seed), ground, SPRITES, most=most)


def labels(v: turtles.View) -> tuple[Objects, np.ndarray, np.ndarray]:
    o = v.scene.objects
    assert o.points is not None
    assert o.visible is not None
    return o, o.points, o.visible


# -- the sprite ---------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_a_sprite_shows_each_point_where_it_says(seed: int) -> None:
    """The eye is the one place that is black within white; left is above, front is right; nothing touches the edge."""
    s = turtle_sprites.draw_sprite(np.random.default_rng(seed))
    alpha = s.rgba[..., 3]
    assert not alpha[:4].any()
    assert not alpha[:, :4].any()
    assert not alpha[-4:].any()
    assert not alpha[:, -4:].any()
    assert (s.rgba[..., :3] <= alpha[..., None]).all()  # premultiplied
    for x, y in s.points:
        assert alpha[int(y), int(x)] > 250
    point = dict(zip(SCHEMA.keypoints, s.points, strict=True))
    dark = np.abs(s.rgba[..., :3].astype(int) - 15).max(-1) <= 2
    white = np.abs(s.rgba[..., :3].astype(int) - 245).max(-1) <= 2
    around = cv2.dilate(white.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    y, x = np.nonzero(dark & around)
    np.testing.assert_allclose([x.mean() + 0.5, y.mean() + 0.5], point["eye"], atol=0.6)
    assert point["eye"][1] == pytest.approx(point["shell"][1])  # on the axis: a mirror leaves it there
    for end in ("front", "back"):
        assert point[f"{end}_left"][1] < point["shell"][1] < point[f"{end}_right"][1]
        assert point["eye"][0] > point[f"{end}_left"][0]
    # The named end of a flipper is its end: hardly anything of the turtle lies farther out in that direction.
    ys, xs = np.nonzero(alpha > 127)
    for name in ("front_left", "front_right"):
        away = point[name] - point["shell"]
        reach = ((np.stack([xs, ys], 1) - point["shell"]) @ away).max() / np.linalg.norm(away)
        assert reach - np.linalg.norm(away) < 0.06 * SIDE


def test_sprites_differ() -> None:
    assert len({s.rgba.tobytes() for s in SPRITES}) == len(SPRITES)
    again = turtle_sprites.draw_sprite(np.random.default_rng(0))
    np.testing.assert_array_equal(again.rgba, SPRITES[0].rgba)
    spread = np.std([s.points - s.points[1] for s in SPRITES], axis=0)
    assert (spread[2:] > 3).any(axis=1).all()  # no two hold their flippers alike


# -- points and boxes against pixels ------------------------------------------------------------------------------


def found_again(warp: Warp, points: np.ndarray) -> np.ndarray:
    """Where soft dots at the sprite's points [6,2] appear in the picture, as their centres of mass."""
    centres = []
    y, x = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    for px, py in points:
        dot = np.rint(255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 6.0**2))).astype(np.uint8)
        alpha = warp.pixels(dot, fill=0).astype(float)
        v, u = np.mgrid[0 : alpha.shape[0], 0 : alpha.shape[1]] + 0.5
        centres.append([(u * alpha).sum() / alpha.sum(), (v * alpha).sum() / alpha.sum()])
    return np.array(centres)


@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_points_move_as_the_pixels_do(seed: int) -> None:
    drawn = turtles.place(np.random.default_rng(seed), (300, 300))
    middle = replace(drawn, matrix=translation(*(150 - drawn.points(np.array([SIDE / 2.0] * 2)))) @ drawn.matrix)
    points = SPRITES[seed % 6].points
    np.testing.assert_allclose(found_again(middle, points), middle.points(points), atol=0.3)


def test_a_wrong_place_of_a_dot_would_be_seen() -> None:
    """Half a pixel, and the founding generator's: the canvas grows when it is turned, and the points do not know."""
    turn = Warp(translation(190, 190) @ rotation(0.5) @ translation(-128, -128), (SIDE, SIDE), (380, 380))
    points = SPRITES[0].points
    seen = found_again(turn, points)
    np.testing.assert_allclose(seen, turn.points(points), atol=0.1)
    assert np.abs(seen - (turn.points(points) + 0.5)).min() > 0.3
    grown = np.cos(0.5) + np.sin(0.5)
    assert np.abs(seen - turn.points(points) / grown).max() > 10


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([1, 4]))
def test_labels_lie_on_the_mask(seed: int, most: int) -> None:
    v = view(seed, most)
    o, points, visible = labels(v)
    turtles.check_labels(o, v.masks, v.parts)
    assert len(o) == len(v.masks) == len(v.sprites) <= most
    assert (o.boxes >= 0).all()
    assert (o.boxes <= [SIZE[1], SIZE[0]] * 2).all()
    np.testing.assert_array_equal(o.areas, v.masks.sum((1, 2)))
    assert not points[visible == 0].any()
    assert (visible[:, 1:] > 0).sum(1).min(initial=6) >= 2
    for box, mask in zip(o.boxes, v.masks, strict=True):  # the hull, pixel by pixel
        y, x = np.nonzero(mask)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_a_wrong_size_is_caught_by_the_check() -> None:
    """The mistake of turtle-10: the canvas grows when it is turned, and the points are scaled by the other width. About
    the picture's corner, and about the turtle's own middle, where each is still somewhere on the turtle."""
    seen = 0
    for seed in range(40):
        v = view(seed)
        o, points, visible = labels(v)
        if not len(o) or (visible == 0).any():
            continue
        turtles.check_labels(o, v.masks, v.parts)
        wrong = points / (np.cos(0.4) + np.sin(0.4))
        for p in (wrong, wrong - (wrong - points)[:, 1:2], points[:, SCHEMA.flip_index]):
            with pytest.raises(ValueError, match=r"turtle 0: point \w+ at .* does not lie on its part"):
                turtles.check_labels(o.replace(points=p), v.masks, v.parts)
        with pytest.raises(ValueError, match="turtle 0: box"):
            turtles.check_labels(o.replace(boxes=o.boxes + np.float32([[-3, 0, 3, 0]])), v.masks, v.parts)
        seen += 1
    assert seen > 12


def test_a_wrong_size_stops_the_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted where it stood: pixels and points go through different matrices."""

    class Crooked(Warp):
        def points(self, xy: np.ndarray) -> np.ndarray:
            return super().points(xy * 1.25)

    plain = turtles.place

    def crooked(*args: object) -> Warp:
        w = plain(*args)  # type: ignore[arg-type]
        return Crooked(w.matrix, w.src, w.dst)

    monkeypatch.setattr(turtles, "place", crooked)
    with pytest.raises(ValueError, match="does not lie on its part"):
        turtles.make_turtles(tmp_path / "t", seed=0, splits={"train": 6}, size=SIZE)
    assert list(tmp_path.iterdir()) == []


# -- what the pictures are like ------------------------------------------------------------------------------------


def test_turns_and_sizes_are_those_that_were_asked_for() -> None:
    size = (256, 256)
    warps = [turtles.place(np.random.default_rng(i), size) for i in range(400)]
    angles = np.array([np.arctan2(*(w.matrix[:2, :2] @ [1.0, 0.0])[::-1]) for w in warps])
    assert np.histogram(angles, 8, (-np.pi, np.pi))[0].min() > 25  # all directions
    assert not any(w.mirrored for w in warps)  # else left would be right
    # Undo the rotation: what is left are the two factors, each of its own.
    factors = np.array([np.linalg.norm(w.matrix[:2, :2], axis=1) for w in warps])
    assert factors.min() >= 0.4
    assert factors.max() <= 0.8
    assert np.abs(np.corrcoef(factors.T)[0, 1]) < 0.15
    for edge in (0.41, 0.79):
        assert factors.min() < edge < factors.max()


def test_pictures_are_of_every_kind() -> None:
    views = [view(i) for i in range(60)]
    visible = np.concatenate([labels(v)[2].ravel() for v in views])
    shares = np.bincount(visible, minlength=3) / len(visible)
    assert 0.03 < shares[0] < 0.2  # beyond the edge
    assert 0.03 < shares[1] < 0.2  # covered
    assert 1 <= sum(not len(v.masks) for v in views) <= 10
    assert max(len(view(i, most=4).masks) for i in range(5)) >= 3


def test_hidden_points_are_those_that_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same picture without covers differs at hidden points and is the same at visible ones."""
    hidden = shown = 0
    for seed in range(40):
        with monkeypatch.context() as m:
            m.setattr(turtles, "finish", lambda rng, image: np.clip(image, 0, 255).astype(np.uint8))
            with_cover = view(seed)
            m.setattr(turtles, "draw_cover", lambda *_: None)
            without = view(seed)
        o, points, visible = labels(with_cover)
        if not len(o):
            continue
        np.testing.assert_array_equal(points, labels(without)[1])
        assert (labels(without)[2] != 1).all()
        for (x, y), v in zip(points[0].astype(int), visible[0], strict=True):
            same = np.array_equal(with_cover.scene.image[y, x], without.scene.image[y, x])
            hidden += v == 1 and not same
            shown += v == 2 and same
        assert ((visible == 1) <= ~(labels(without)[2] == 0)).all()
    assert hidden > 8
    assert shown > 100


def test_a_turtle_below_another_one_hides_its_points() -> None:
    below = 0
    for seed in range(12):
        v = view(seed, most=5)
        _, points, visible = labels(v)
        for i, mask in enumerate(v.masks):
            assert (v.masks[i + 1 :].any(0) & mask).sum() <= 0.75 * mask.sum()
            for (x, y), state in zip(points[i].astype(int), visible[i], strict=True):
                if state and v.masks[i + 1 :, y, x].any():
                    assert state == 1
                    below += 1
    assert below > 5


# -- whole sets ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turtles") / "set"
    return turtles.make_turtles(folder, seed=3, splits={"train": 14, "val": 6}, size=SIZE, most=2)


def test_the_written_set_says_what_was_drawn(made: Path) -> None:
    """Read back, the labels lie on masks that are drawn anew; a set of the same seed has the same bytes."""
    total = 0
    for number, (split, count) in enumerate({"train": 14, "val": 6}.items()):
        data = source.read(f"coco:{made}#{split}")
        assert len(data) == count
        assert data.schema.keypoints == SCHEMA.keypoints
        assert data.schema.flip_pairs == SCHEMA.flip_pairs
        assert data.schema.edges == SCHEMA.edges
        assert data.schema.sigmas == SCHEMA.sigmas
        rows = [s for s in json.loads((made / turtles.SOURCES).read_text())["pictures"] if s["split"] == split]
        assert [s["picture"] for s in rows] == [f"{i:05d}.jpg" for i in range(count)]
        sprites = [turtle_sprites.draw_sprite(np.random.default_rng([3, number, 1, i])) for i in range(-(-count // 4))]
        for i, record in enumerate(data.records):
            ground = turtle_sprites.draw_ground(np.random.default_rng([3, number, 2, i]), SIZE)
            v = turtles.draw_turtles(np.random.default_rng([3, number, 3, i]), ground, sprites, most=2)
            o = record.objects
            assert len(o) == len(v.masks)
            picture = cv2.imread(str(record.frames[0].path))
            assert picture is not None
            assert np.abs(picture[..., ::-1].astype(int) - v.scene.image).mean() < 6  # JPEG
            if not len(o):
                continue
            turtles.check_labels(o, v.masks, v.parts)
            assert o.points is not None
            np.testing.assert_allclose(o.points, labels(v)[1], atol=0.01)
            np.testing.assert_array_equal(o.visible, labels(v)[2])
            np.testing.assert_allclose(o.areas, v.masks.sum((1, 2)))
            total += len(o)
    assert total > 15


def test_the_same_twice_and_nothing_overwritten(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"seed": 3, "splits": {"train": 14, "val": 6}, "size": SIZE, "most": 2}
    again = turtles.make_turtles(tmp_path / "again", **arguments)  # type: ignore[arg-type]
    files = sorted(p.relative_to(made) for p in made.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for f in files:
        assert (made / f).read_bytes() == (again / f).read_bytes(), f
    monkeypatch.setattr(turtles, "draw_sprite", None)  # the same request draws nothing
    assert turtles.make_turtles(again, **arguments) == again  # type: ignore[arg-type]
    with pytest.raises(TercelError, match="another data set"):
        turtles.make_turtles(again, seed=4)
    assert (made / synth.MARKER).read_bytes() == (again / synth.MARKER).read_bytes()


def test_no_split_shares_a_sprite_or_a_ground(made: Path) -> None:
    rows = json.loads((made / turtles.SOURCES).read_text())["pictures"]
    assert turtles.shared_sources(rows) == ()
    sprites = {s: {n for r in rows if r["split"] == s for n in r["sprites"]} for s in ("train", "val")}
    assert sprites["train"]
    assert sprites["val"]
    assert not sprites["train"] & sprites["val"]
    assert len({r["ground"] for r in rows}) == len(rows)
    planted = [
        *rows,
        {"split": "val", "picture": "9.jpg", "ground": rows[0]["ground"], "sprites": [max(sprites["train"])]},
    ]
    findings = turtles.shared_sources(planted)
    assert {f.check for f in findings} == {"split.shared_ground", "split.shared_sprite"}
    assert all(f.severity is Severity.ERROR and f.count == 1 and "val/9.jpg" in f.evidence[0] for f in findings)
    inside = [{**r, "split": "train"} for r in planted]  # within one split sharing is what sprites are for
    assert turtles.shared_sources(inside) == ()


@pytest.mark.parametrize(("what", "kind"), [("draw_sprite", "sprite"), ("draw_ground", "ground")])
def test_a_generator_that_shares_stops(what: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the split does not go into the seed of the sprites, or of the grounds."""
    plain = getattr(turtles, what)
    monkeypatch.setattr(turtles, what, lambda rng, *more: plain(np.random.default_rng(5), *more))
    with pytest.raises(TercelError, match=f"two splits are made of the same {kind}"):
        turtles.make_turtles(tmp_path / "t", seed=0, splits={"train": 4, "test": 4}, size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_all_splits_from_one_turtle_is_what_the_check_is_for() -> None:
    """turtle-11 as it was: three splits, one cut-out."""
    rows = [{"split": s, "picture": f"{i}.jpg", "ground": f"{s}{i}", "sprites": ["one"]} for s in "abc" for i in "12"]
    (finding,) = turtles.shared_sources(rows)
    assert finding.check == "split.shared_sprite"
    assert finding.count == 4


@pytest.mark.parametrize(
    "wrong", [{"splits": {}}, {"splits": {"train": 0}}, {"size": (32, 256)}, {"per_sprite": 0}, {"most": 0}]
)
def test_misuse(wrong: dict, tmp_path: Path) -> None:
    with pytest.raises(TercelError, match="no turtles can be drawn"):
        turtles.make_turtles(tmp_path / "t", seed=0, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_demo_trains_on_turtles_and_predicts_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the demo hands to training and to prediction can be read, and has nothing in common."""
    from tercel import api, demo

    seen: dict[str, Any] = {}
    run = SimpleNamespace(info={"status": "finished"}, path=tmp_path / "run")

    def train(recipe: Recipe, train: str, val: str, **_: object) -> SimpleNamespace:
        seen.update(recipe=recipe, train=source.read(train), val=source.read(val))
        return run

    def predict(path: Path, media: list[str], out: Path) -> SimpleNamespace:
        seen.update(media=sorted(Path(media[0]).glob("*.jpg")))
        return SimpleNamespace(folder=out)

    monkeypatch.setattr(api, "train", train)
    monkeypatch.setattr(api, "predict", predict)
    monkeypatch.setattr(demo, "TURTLES", {"train": 5, "val": 3, "test": 2})
    assert demo.demo("keypoints", tmp_path / "demo") is run
    assert seen["recipe"].task == "keypoints"
    assert [len(seen["train"]), len(seen["val"]), len(seen["media"])] == [5, 3, 2]
    pictures = {p.read_bytes() for p in seen["media"]}
    assert not pictures & {f.path.read_bytes() for d in ("train", "val") for r in seen[d].records for f in r.frames}
