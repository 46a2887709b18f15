"""Generated crowds: boxes against pixels, occlusion against counts, the wanted overlap, splits that share nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.config import Recipe
from tercel.core.finding import Severity, TercelError
from tercel.data import crowd_sprites, crowds, source

SIZE = (240, 320)
HORIZON = 70


def crowd(seed: int, overlap: float = 0.5) -> crowds.Crowd:
    street = crowd_sprites.draw_street(np.random.default_rng([seed, 1]), SIZE, HORIZON)
    return crowds.draw_crowd(np.random.default_rng(seed), street, HORIZON, overlap=overlap, people=(5, 16))


def on_canvas(layer: crowds.Layer, pad: int = 300) -> np.ndarray:
    """The layer's mask on the picture with a wide border, bool [H + 2 pad, W + 2 pad]."""
    out = np.zeros((SIZE[0] + 2 * pad, SIZE[1] + 2 * pad), bool)
    h, w = layer.mask.shape
    out[layer.y + pad : layer.y + pad + h, layer.x + pad : layer.x + pad + w] = layer.mask
    return out


def hull(mask: np.ndarray, pad: int = 0) -> list[int]:
    y, x = np.nonzero(mask)
    return [x.min() - pad, y.min() - pad, x.max() + 1 - pad, y.max() + 1 - pad]


def check_truth(c: crowds.Crowd) -> None:
    """Boxes are the hulls of what they name, whoever stands lower hides others, and the picture shows who owns it."""
    masks = [on_canvas(layer) for layer in c.layers]
    inside, off = (slice(300, 300 + SIZE[0]), slice(300, 300 + SIZE[1])), []
    for i, (person, layer) in enumerate(zip(c.people, c.layers, strict=False)):
        assert layer.person == i
        assert list(person.full) == hull(masks[i], 300)
        mine = c.owner == i
        assert person.visible is not None
        assert list(person.visible) == hull(mine)
        assert mine.sum() >= crowds.LEAST_SHOWN * masks[i].sum()
        assert not (mine & ~masks[i][inside]).any()
        for other, mask in zip(c.layers, masks, strict=True):
            assert other.foot <= layer.foot or not (mine & mask[inside]).any(), "who stands lower hides the other"
        there, here = layer.window(SIZE)
        solid = mine[there] & (layer.rgba[here][..., 3] > 254.5)
        off.append(np.abs(c.image[there][solid].astype(float) - layer.rgba[here][solid][:, :3]).max(-1))
    assert np.median(np.concatenate(off)) < 12, "noise at most"


@settings(max_examples=5)
@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.7]))
def test_boxes_and_pixels_agree(seed: int, overlap: float) -> None:
    check_truth(crowd(seed, overlap))


def test_people_painted_in_another_order_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = crowds._owners
    monkeypatch.setattr(crowds, "_owners", lambda size, layers: right(size, list(layers)[::-1]))
    with pytest.raises(AssertionError):
        check_truth(crowd(1))


def test_a_thing_hides_those_behind_it() -> None:
    """Pixels of a person's cut-out that show neither him nor anybody in front of him show a thing."""
    covered = 0
    for seed in range(3):
        c = crowd(seed)
        masks = [on_canvas(layer)[300 : 300 + SIZE[0], 300 : 300 + SIZE[1]] for layer in c.layers]
        covered += int((np.any(masks, axis=0) & (c.owner < 0)).sum())
    assert covered > 100


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.floats(12, 120))
def test_a_person_fills_its_array(seed: int, height: float) -> None:
    figure = crowd_sprites.pose_person(np.random.default_rng(seed))
    cutout = crowd_sprites.paint_person(np.random.default_rng(seed), figure, height)
    h, w = cutout.size
    assert hull(cutout.mask) == [0, 0, w, h]
    x1, y1, x2, y2 = figure.hull
    assert abs(w - (x2 - x1) * height) <= 2
    assert abs(h - (y2 - y1) * height) <= 2
    a, b, c, d = cutout.head
    assert 0 <= a < c <= w
    assert 0 <= b < d <= h / 3
    assert (cutout.rgba[..., :3] <= cutout.rgba[..., 3:] + 1e-3).all()  # premultiplied


def test_a_far_crowd_has_room_for_its_tallest() -> None:
    """Some seeds drew a person that was taller than the canvas."""
    for seed in range(120):
        assert crowd_sprites.draw_far_crowd(np.random.default_rng(seed))[..., 3].any()


def test_a_head_is_named_where_it_shows() -> None:
    named = [p.head is not None for seed in range(5) for p in crowd(seed, 0.7).people if not p.ignore]
    assert 0.6 < np.mean(named) < 1
    c = crowd(3, 0.7)
    for person, layer in zip(c.people, c.layers, strict=False):
        assert layer.head is not None
        x1, y1, x2, y2 = np.array(layer.head) + np.array([layer.x, layer.y] * 2)
        shown = (c.owner[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] == layer.person).sum()
        a, b, e, f = layer.head
        assert (person.head is not None) == (shown >= 0.2 * layer.mask[b:f, a:e].sum())
        assert person.head in (None, (x1, y1, x2, y2))


def test_lower_feet_mean_taller_people() -> None:
    for seed in range(4):
        c = crowd(seed)
        foot = np.array([layer.foot for layer in c.layers])
        height = np.array([layer.mask.shape[0] for layer in c.layers])
        slope = height / (foot - HORIZON)
        assert slope.max() / slope.min() < 1.5, "one camera"


# -- whole sets ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("crowds") / "set"
    return crowds.make_crowds(out, splits={"train": 9, "val": 3}, seed=2, size=SIZE, people=(5, 16))


def lines(folder: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(t) for t in (folder / f"annotation_{split}.odgt").read_text().splitlines()]


def slow_overlap(entry: dict[str, Any]) -> float:
    """Mean greatest IoU, pair by pair, of the boxes x y w h that count in a line."""
    boxes = [g["fbox"] for g in entry["gtboxes"] if g["tag"] == "person"]
    best = []
    for i, (x, y, w, h) in enumerate(boxes):
        ious = [0.0]
        for j, (u, v, a, b) in enumerate(boxes):
            wide, high = min(x + w, u + a) - max(x, u), min(y + h, v + b) - max(y, v)
            common = max(wide, 0) * max(high, 0)
            ious += [common / (w * h + a * b - common)] if i != j else []
        best.append(max(ious))
    return float(np.mean(best))


@pytest.mark.parametrize("wanted", [0.2, 0.5, 0.7])
def test_the_wanted_overlap_is_reached(wanted: float, tmp_path: Path) -> None:
    out = crowds.make_crowds(tmp_path / "set", splits={"train": 4}, seed=5, overlap=wanted, size=SIZE, people=(5, 16))
    reached = [slow_overlap(entry) for entry in lines(out, "train")]
    np.testing.assert_allclose(reached, wanted, atol=0.031)
    said = json.loads((out / "sources.json").read_text())
    np.testing.assert_allclose([row["overlap"] for row in said["pictures"]], reached, atol=1e-3)
    assert said["overlap"]["train"] == pytest.approx(np.mean(reached), abs=1e-3)


def test_what_is_written_is_read(made: Path) -> None:
    for split, count in (("train", 9), ("val", 3)):
        dataset = source.read(f"odgt:{made / f'annotation_{split}.odgt'}")
        assert len(dataset) == count
        assert not [f for f in dataset.findings if f.severity is Severity.ERROR]
        for record, entry in zip(dataset.records, lines(made, split), strict=True):
            o = record.objects
            assert record.size == SIZE
            assert record.frames[0].path.is_file()
            assert o.ignore.tolist() == [g["tag"] == "mask" for g in entry["gtboxes"]]
            assert 5 <= (~o.ignore).sum() <= 16
            assert o.occlusion is not None
            for g, occlusion in zip(entry["gtboxes"], o.occlusion, strict=True):
                if g["tag"] == "person":
                    shown = g["vbox"][2] * g["vbox"][3] / (g["fbox"][2] * g["fbox"][3])
                    assert occlusion == pytest.approx(1 - shown, abs=1e-5)
    heads = source.read(f"odgt:{made / 'annotation_train.odgt'}#head")
    assert sum((~r.objects.ignore).sum() for r in heads.records) > 45


def test_regions_to_ignore_and_people_beyond_the_border_occur(made: Path) -> None:
    every = [g for entry in lines(made, "train") + lines(made, "val") for g in entry["gtboxes"]]
    regions = [g for g in every if g["tag"] == "mask"]
    assert len(regions) >= 4
    assert all(g["extra"]["ignore"] == 1 for g in regions)
    full = np.array([g["fbox"] for g in every if g["tag"] == "person"])
    beyond = (full[:, 0] < 0) | (full[:, 0] + full[:, 2] > SIZE[1]) | (full[:, 1] + full[:, 3] > SIZE[0])
    assert 0.02 < beyond.mean() < 0.4
    visible = np.array([g["vbox"] for g in every if g["tag"] == "person"])
    assert (visible[:, :2] >= 0).all()
    assert (visible[:, :2] + visible[:, 2:] <= [SIZE[1], SIZE[0]]).all()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_set_is_a_function_of_its_seed(made: Path, tmp_path: Path) -> None:
    again = crowds.make_crowds(tmp_path / "again", splits={"train": 2}, seed=2, size=SIZE, people=(5, 16))
    for name, data in files(again).items():
        if name.startswith("Images"):
            assert files(made)[name] == data, "whatever else the set holds"
    other = crowds.make_crowds(tmp_path / "other", splits={"train": 2}, seed=3, size=SIZE, people=(5, 16))
    assert not set(files(again).values()) & set(files(other).values())
    before = files(again)
    crowds.make_crowds(again, splits={"train": 2}, seed=2, size=SIZE, people=(5, 16))
    assert files(again) == before
    with pytest.raises(TercelError, match="holds another data set"):
        crowds.make_crowds(again, splits={"train": 2}, seed=4, size=SIZE, people=(5, 16))


def test_splits_share_neither_people_nor_streets(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = json.loads((made / "sources.json").read_text())["pictures"]
    for kind in ("ground", "sprites"):
        names = [{n for r in rows if r["split"] == s for n in np.atleast_1d(r[kind])} for s in ("train", "val")]
        assert all(names)
        assert not names[0] & names[1]
    right = crowds._write_split

    def forgetful(work: Path, split: str, count: int, seed: list[int], *rest: Any) -> list[dict[str, Any]]:
        return right(work, split, count, [seed[0], 0], *rest)

    monkeypatch.setattr(crowds, "_write_split", forgetful)
    with pytest.raises(TercelError, match="made of the same ground"):
        crowds.make_crowds(tmp_path / "set", splits={"train": 1, "val": 1}, size=SIZE, people=(5, 8))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": {}}, "no crowds can be drawn"),
        ({"splits": {"train": 0}}, "no crowds can be drawn"),
        ({"size": (64, 480)}, "no crowds can be drawn"),
        ({"people": (1, 4)}, "no crowds can be drawn"),
        ({"people": (9, 4)}, "no crowds can be drawn"),
        ({"overlap": 0.9}, "cannot overlap by 0.9"),
        ({"overlap": -0.1}, "cannot overlap by -0.1"),
        ({"size": (128, 128), "people": (70, 71)}, "no 70 to 71 people who overlap by 0.5 fit in 128x128 px"),
    ],
)
def test_nonsense_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowds, "TRIES", 2)
    with pytest.raises(TercelError, match=message):
        crowds.make_crowds(tmp_path / "set", **({"splits": {"train": 1}} | change))
    assert not list(tmp_path.iterdir())


def test_the_demo_trains_on_crowds_and_predicts_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the demo hands to training and to prediction can be read, and has nothing in common."""
    from tercel import api, demo
    from tercel.data.images import find_pictures

    seen: dict[str, Any] = {}
    run = SimpleNamespace(info={"status": "finished"}, path=tmp_path / "run")

    def train(recipe: Recipe, train: str, val: str, **_: object) -> SimpleNamespace:
        seen.update(recipe=recipe, train=source.read(train), val=source.read(val))
        return run

    def predict(path: Path, media: list[str], out: Path) -> SimpleNamespace:
        seen.update(media=find_pictures(media))
        return SimpleNamespace(folder=out)

    monkeypatch.setattr(api, "train", train)
    monkeypatch.setattr(api, "predict", predict)
    monkeypatch.setattr(demo, "CROWDS", {"train": 3, "val": 2, "test": 1})
    assert demo.demo("crowd", tmp_path / "demo") is run
    assert seen["recipe"].task == "crowd"
    assert [len(seen["train"]), len(seen["val"]), len(seen["media"])] == [3, 2, 1]
    pictures = {p.read_bytes() for p in seen["media"]}
    assert not pictures & {f.path.read_bytes() for d in ("train", "val") for r in seen[d].records for f in r.frames}
