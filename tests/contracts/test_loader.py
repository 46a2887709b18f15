"""Contracts of every data set and every loader: pure samples, nothing changed, nothing lost, one way in.

A sample is a function of (seed, epoch, index). How it is fetched (twice, out of order, after an epoch, by any number
of workers, by any rank, after a resume) must not show in a single byte. `SETUPS` lists the ways to load; a new kind of
record or option is covered by being added there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
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
from tercel.data import synth
from tercel.data.loader import Batch, Loader, Sample, load_plain

SIZE = (96, 128)
DATA = Data(size=(80, 96), workers=2)
EVERYTHING = Augment(mosaic=0.5, rotate=15, shear=5, flip_vertical=0.3, blur=0.5, noise=8)
SETUPS: dict[str, tuple[Augment | None, int]] = {
    "evaluation": (None, 1),
    "training": (Augment(), 1),
    "everything": (EVERYTHING, 1),
    "clips": (EVERYTHING, 3),
}
N = 13  # not a multiple of any batch below


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Objects]]:
    """Synthetic scenes as PNG files, with points and oriented boxes so that every column takes part."""
    folder = tmp_path_factory.mktemp("scenes")
    out = []
    for i in range(N):
        scene = synth.draw_boxes(np.random.default_rng([7, i]), SIZE, ["disc", "cross"])
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), scene.image[..., ::-1])
        o = scene.objects
        n = len(o)
        if i in (2, 5):  # negatives, whatever was drawn
            o = Objects.empty(SIZE)
        else:
            centre = (o.boxes[:, :2] + o.boxes[:, 2:]) / 2
            points = np.stack([centre, o.boxes[:, :2], o.boxes[:, 2:]], axis=1)
            visible = np.random.default_rng(i).integers(0, 3, (n, 3))
            o = o.replace(points=points, visible=visible, frame=np.zeros(n), track=np.arange(n))
        out.append((path, o))
    return out


def records(pictures: list[tuple[Path, Objects]], frames: int) -> Dataset:
    schema = Schema(("disc", "cross"), keypoints=("c", "l", "r"), flip_pairs=(("l", "r"),))
    made = []
    for i, (path, o) in enumerate(pictures):
        places = tuple(Frame(pictures[(i + t) % N][0]) for t in range(frames))
        made.append(Record(path.stem, places, SIZE, o, source=f"{path}:1"))
    return Dataset(schema, tuple(made))


def make(pictures: list[tuple[Path, Objects]], setup: str, batch: int = 4, workers: int = 2, **more: int) -> Loader:
    augment, frames = SETUPS[setup]
    data = replace(DATA, workers=workers)
    return Loader(records(pictures, frames), data, augment, batch, seed=3, **more)


def digest(s: Sample) -> str:
    """Hash of everything that a sample says."""
    h = hashlib.blake2b()
    h.update(np.ascontiguousarray(s.images).tobytes())
    h.update(repr((s.id, s.records, s.left, s.objects.size)).encode())
    for w in s.warps:
        h.update(w.matrix.tobytes() + repr((w.src, w.dst)).encode())
    for c in s.objects.columns:
        h.update(c.encode() + getattr(s.objects, c).tobytes())
    return h.hexdigest()


def digests(batches: Iterable[Batch]) -> list[str]:
    out = []
    for b in batches:
        for i, s in enumerate(b.samples):
            np.testing.assert_array_equal(b.images[i], s.images)
            assert b.ids[i] == s.id
            assert b.objects[i] is s.objects
            assert b.warps[i] is s.warps[0]
            out.append(digest(s))
    return out


def dataset_hash(dataset: Dataset) -> str:
    h = hashlib.blake2b()
    for r in dataset.records:
        for c in r.objects.columns:
            h.update(getattr(r.objects, c).tobytes())
    return h.hexdigest()


@pytest.mark.parametrize("setup", SETUPS)
def test_an_item_is_the_same_however_it_is_fetched(pictures: list[tuple[Path, Objects]], setup: str) -> None:
    reference = digests(make(pictures, setup, workers=0).epoch(1))
    assert len(reference) == N
    load = make(pictures, setup)
    backwards = [digest(load.sample(1, i)) for i in reversed(range(N))][::-1]
    assert backwards == reference
    assert [digest(load.sample(1, i)) for i in range(N)] == reference  # twice
    list(load.epoch(0))
    assert digests(load.epoch(1)) == reference  # after an epoch
    for workers in (1, 3, 7):
        assert digests(make(pictures, setup, workers=workers).epoch(1)) == reference
    for batch in (1, 5):
        assert digests(make(pictures, setup, batch=batch).epoch(1)) == reference
    assert digests(make(pictures, setup).epoch(1, start_step=2)) == reference[8:]  # resume


@pytest.mark.parametrize("setup", SETUPS)
def test_ranks_together_are_one_process_with_the_larger_batch(pictures: list[tuple[Path, Objects]], setup: str) -> None:
    one = [digests([b]) for b in make(pictures, setup, batch=6, samples=20).epoch(2)]
    ranks = [make(pictures, setup, batch=3, samples=20, rank=r, world=2).epoch(2) for r in range(2)]
    both = [[digests([b]) for b in r] for r in ranks]
    for step, whole in enumerate(one):
        shares = [r[step] for r in both]
        interleaved = [shares[i % 2][i // 2] for i in range(len(whole))]
        assert interleaved == whole
    assert len(both[0]) == len(both[1]) == len(one)


def test_epochs_and_seeds_differ(pictures: list[tuple[Path, Objects]]) -> None:
    """The contract above is not met by handing out one and the same sample."""
    load = make(pictures, "training")
    a, b = digests(load.epoch(0)), digests(load.epoch(1))
    assert len(set(a)) == N
    assert not set(a) & set(b)
    other = Loader(load.dataset, load.data, load.augment, 4, seed=4)
    assert not set(digests(other.epoch(0))) & set(a)


@pytest.mark.parametrize("setup", SETUPS)
def test_the_annotations_are_unchanged_after_an_epoch(pictures: list[tuple[Path, Objects]], setup: str) -> None:
    load = make(pictures, setup)
    before = dataset_hash(load.dataset)
    pixels = {p: load.store.get(p).copy() for p, _ in pictures}
    list(load.epoch(0))
    assert dataset_hash(load.dataset) == before
    for p, image in pixels.items():
        np.testing.assert_array_equal(load.store.get(p), image)


def test_boxes_that_are_scaled_in_place_would_be_noticed(pictures: list[tuple[Path, Objects]]) -> None:
    """The bug behind the contract: it cannot even be planted in Objects, and the hash would see it."""
    load = make(pictures, "training")
    before = dataset_hash(load.dataset)
    boxes = load.dataset.records[0].objects.boxes
    with pytest.raises(ValueError, match="read-only"):
        boxes *= 0.5
    boxes.setflags(write=True)
    boxes *= 0.5
    assert dataset_hash(load.dataset) != before
    boxes *= 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_random_number_from_elsewhere_would_be_noticed(
    pictures: list[tuple[Path, Objects]], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted bug: augmentation that draws from one generator for all samples."""
    from tercel.data import loader as module

    shared = np.random.default_rng(0)
    real = module.plan
    monkeypatch.setattr(module, "plan", lambda rng, *rest: real(shared, *rest))
    load = make(pictures, "training", workers=workers)
    assert digests(load.epoch(0)) != digests(load.epoch(0))


@pytest.mark.parametrize("setup", SETUPS)
def test_negatives_are_delivered_as_themselves(pictures: list[tuple[Path, Objects]], setup: str) -> None:
    augment, frames = SETUPS[setup]
    plain = None if augment is None else replace(augment, mosaic=0.0)
    load = Loader(records(pictures, frames), DATA, plain, 4)
    seen = {}
    for b in load.epoch(0):
        for i, (id_, o) in enumerate(zip(b.ids, b.objects, strict=True)):
            seen[id_] = (o, b.images[i])
    assert sorted(seen, key=int) == [str(i) for i in range(N)]
    for id_ in ("2", "5"):
        o, image = seen[id_]
        assert len(o) == 0
        assert o.size == DATA.size
        assert "points" in o.columns  # the same columns as its neighbours in the batch
        assert image.std() > 1


def test_fifteen_hundred_objects_arrive(pictures: list[tuple[Path, Objects]]) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 90, (1500, 2))
    o = Objects(SIZE, rng.integers(0, 2, 1500), np.concatenate([corner, corner + 3], axis=1))
    crowd = Record("crowd", (Frame(pictures[0][0]),), SIZE, o)
    ds = Dataset(Schema(("a", "b")), (crowd, replace(crowd, id="again")))
    for augment in (None, Augment(mosaic=0, scale=0, shift=0)):
        (batch,) = Loader(ds, DATA, augment, 2).epoch(0)
        assert [len(x) for x in batch.objects] == [1500, 1500]
    (batch,) = Loader(ds, DATA, Augment(mosaic=1), 2).epoch(0)
    assert [len(x) + s.left for x, s in zip(batch.objects, batch.samples, strict=True)] == [6000, 6000]


@pytest.mark.parametrize("frames", [1, 3])
def test_training_without_augmentation_evaluation_and_prediction_feed_the_same_tensor(
    pictures: list[tuple[Path, Objects]], frames: int
) -> None:
    ds = records(pictures, frames)
    off = Augment(mosaic=0, scale=0, shift=0, flip=0, hue=0, saturation=0, brightness=0)
    zero = {s.id: s for b in Loader(ds, DATA, off, 4).epoch(0) for s in b.samples}
    train = {s.id: s for b in Loader(ds, DATA, None, 4, shuffle=True).epoch(0) for s in b.samples}
    evaluation = {s.id: s for b in Loader(ds, DATA, None, 5).epoch(0) for s in b.samples}
    for r in ds.records:
        images, warp = load_plain(r, DATA.size, DATA.fill)
        for s in (zero[r.id], train[r.id], evaluation[r.id]):
            np.testing.assert_array_equal(s.images, images)
            np.testing.assert_allclose(s.warp.matrix, warp.matrix, atol=1e-12)
        expected = warp.objects(r.objects, np.array([0, 2, 1]))
        assert len(expected) == len(evaluation[r.id].objects)
        np.testing.assert_array_equal(expected.boxes, evaluation[r.id].objects.boxes)
        np.testing.assert_allclose(zero[r.id].objects.boxes, expected.boxes, atol=1e-3)
        if frames == 1:
            from_file, _ = load_plain(r.frames[0].path, DATA.size, DATA.fill)
            from_pixels, _ = load_plain(cv2.imread(str(r.frames[0].path))[..., ::-1].copy(), DATA.size, DATA.fill)
            np.testing.assert_array_equal(from_file, images)
            np.testing.assert_array_equal(from_pixels, images)


def test_another_border_grey_would_be_noticed(pictures: list[tuple[Path, Objects]]) -> None:
    r = records(pictures, 1).records[0]
    a, _ = load_plain(r, (96, 96), 114)
    b, _ = load_plain(r, (96, 96), 0)
    assert not np.array_equal(a, b)
    assert (a[0][:, :5] == 114).all()


def test_predictions_come_back_to_the_original_canvas(pictures: list[tuple[Path, Objects]]) -> None:
    for b in Loader(records(pictures, 1), DATA, None, 4).epoch(0):
        for o, warp, id_ in zip(b.objects, b.warps, b.ids, strict=True):
            back = warp.inverse().objects(o)
            original = pictures[int(id_)][1]
            assert isinstance(warp, Warp)
            np.testing.assert_allclose(back.boxes, original.boxes, atol=1e-3)
