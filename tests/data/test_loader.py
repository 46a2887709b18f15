"""Loader: shutdown, failures, virtual epochs, sharing among ranks, and what a sample says about itself."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.config import Augment, Data
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data.cache import PictureStore
from tercel.data.loader import Loader, load_plain

SIZES = [(48, 64), (64, 48), (40, 40), (30, 90), (96, 64)]
DATA = Data(size=(64, 80), workers=2)


def picture(i: int, t: int = 0) -> np.ndarray:
    h, w = SIZES[i % len(SIZES)]
    y, x = np.mgrid[0:h, 0:w]
    return np.stack([(x * 2 + 40 * t) % 256, (y * 2) % 256, np.full((h, w), i * 9 % 256)], -1).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    i, t = path.stem.split("_")
    return picture(int(i), int(t))


def dataset(n: int, frames: int = 1, per: int = 2) -> Dataset:
    records = []
    for i in range(n):
        size = SIZES[i % len(SIZES)]
        count = 0 if i % 5 == 3 else per
        rng = np.random.default_rng(i)
        a = rng.uniform(0, 1, (count, 2, 2)) * (size[1], size[0])
        boxes = np.concatenate([a.min(1), a.max(1) + 3], axis=1)
        o = Objects(size, rng.integers(0, 2, count), boxes)
        places = tuple(Frame(Path(f"{i}_{t}.png")) for t in range(frames))
        records.append(Record(f"r{i}", places, size, o, source=f"labels.txt:{i + 1}"))
    return Dataset(Schema(("a", "b")), tuple(records))


def store(ds: Dataset) -> PictureStore:
    sizes = {f.path: r.size for r in ds.records for f in r.frames}
    return PictureStore(sizes, 4.0, Path("unused"), sizes=sizes, read=read, size_of=lambda p: sizes[p])


def loader(n: int = 12, frames: int = 1, augment: Augment | None = None, batch: int = 4, **more: object) -> Loader:
    data = more.pop("data", DATA)
    ds = more.pop("ds", None) or dataset(n, frames)
    return Loader(ds, data, augment, batch, store=store(ds), **more)  # type: ignore[arg-type]


def loader_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("tercel-loader")]


# -- virtual epochs and ranks -----------------------------------------------------------------------------------


@given(st.integers(1, 23), st.integers(1, 40), st.integers(1, 12))
def test_every_record_is_seen_equally_often(n: int, samples: int, epochs: int) -> None:
    load = loader(n, augment=Augment(), batch=1, samples=samples)
    seen = Counter(dict.fromkeys(range(n), 0))
    for e in range(epochs):
        order = load.order(e)
        assert len(order) == samples
        seen.update(order.tolist())
    assert max(seen.values()) - min(seen.values()) <= 1


def test_successive_epochs_differ_and_a_seed_decides() -> None:
    a, b, c = (loader(30, augment=Augment(), seed=s) for s in (1, 1, 2))
    assert a.order(0).tolist() != a.order(1).tolist()
    assert sorted(a.order(0)) == list(range(30))
    assert a.order(5).tolist() == b.order(5).tolist()
    assert a.order(5).tolist() != c.order(5).tolist()


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 4))
def test_ranks_share_each_step_of_the_larger_batch(samples: int, batch: int, world: int) -> None:
    ds = dataset(1)
    one = Loader(ds, DATA, None, batch * world, samples=samples, store=store(ds))
    ranks = [Loader(ds, DATA, None, batch, samples=samples, rank=r, world=world, store=one.store) for r in range(world)]
    for step in range(one.steps):
        shares = [list(r.indices(step)) for r in ranks]
        assert sorted(i for s in shares for i in s) == list(one.indices(step))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert sum(len(one.indices(s)) for s in range(one.steps)) == samples
    for r in ranks:
        assert [len(r.indices(s)) > 0 for s in range(r.steps)] == [True] * r.steps
        assert not len(r.indices(r.steps))


def test_a_rank_without_work_in_training_is_refused() -> None:
    ds = dataset(9)
    with pytest.raises(TercelError, match=r"1 for 2 processes"):
        Loader(ds, DATA, Augment(), 4, world=2, store=store(ds))
    Loader(ds, DATA, None, 4, world=2, store=store(ds))  # evaluation: that rank has a batch less
    Loader(ds, DATA, Augment(), 4, world=2, samples=8, store=store(ds))


def test_length_is_the_sum() -> None:
    for n, batch in ((12, 4), (13, 4), (3, 8), (1, 1)):
        load = loader(n, batch=batch)
        batches = list(load.epoch(0))
        assert len(load) == len(batches) == load.steps
        assert sum(map(len, batches)) == n
        assert [i for b in batches for i in b.ids] == [f"r{i}" for i in range(n)]


# -- threads ----------------------------------------------------------------------------------------------------


def test_leaving_the_loop_stops_the_workers() -> None:
    load = loader(40, batch=2)
    for _ in load.epoch(0):
        assert loader_threads()
        break
    assert not loader_threads()

    def interrupted() -> None:
        for _ in load.epoch(0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not loader_threads()
    list(load.epoch(0))
    assert not loader_threads()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [None, Augment(mosaic=0)])
def test_failure_names_the_record_and_stops(workers: int, augment: Augment | None) -> None:
    load = loader(12, data=replace(DATA, workers=workers), augment=augment)

    def broken(path: Path) -> np.ndarray:
        if path.stem == "6_0":
            raise TercelError("6_0.png is truncated", "fetch it again")
        return read(path)

    load.store._read = broken
    with pytest.raises(TercelError, match=r"record 'r6' \(labels.txt:7\): 6_0.png is truncated") as e:
        list(load.epoch(0))
    assert e.value.remedy == "fetch it again"
    load.store._read = lambda path: 1 / 0  # type: ignore[assignment,return-value]
    load.store._ram.clear()
    with pytest.raises(RuntimeError, match=r"record 'r\d+' .*ZeroDivisionError"):
        list(load.epoch(0))
    assert not loader_threads()


def test_prefetch_is_bounded() -> None:
    load = loader(60, batch=2)
    for _ in load.epoch(0):
        break  # the generator is closed, nothing runs any more
    read_so_far = len(load.store._ram)
    assert 2 <= read_so_far <= 2 * 3


def test_skipped_steps_load_nothing() -> None:
    load = loader(12, batch=4)
    (batch,) = load.epoch(0, start_step=2)
    assert batch.ids == ["r8", "r9", "r10", "r11"]
    assert len(load.store._ram) == 4
    assert list(load.epoch(0, start_step=3)) == []


def test_opencv_runs_one_thread_per_call() -> None:
    loader(2)
    assert cv2.getNumThreads() == 1
    assert loader(2).wait_seconds == 0
    load = loader(4)
    for _ in load.epoch(0):
        assert load.wait_seconds > 0


# -- samples ----------------------------------------------------------------------------------------------------


def test_mosaic_is_off_in_the_last_epochs() -> None:
    load = loader(12, augment=Augment(mosaic=1.0, close_epochs=2), epochs=5)
    for epoch, pictures in ((0, 4), (2, 4), (3, 1), (4, 1)):
        batch = next(load.epoch(epoch))
        assert {len(s.records) for s in batch.samples} == {pictures}
        assert [s.records[0] for s in batch.samples] == batch.ids
    with pytest.raises(ValueError, match="epochs"):
        loader(12, augment=Augment(close_epochs=2))


def test_partners_come_from_the_whole_set() -> None:
    load = loader(12, augment=Augment(mosaic=1.0), batch=12)
    partners = Counter(i for e in range(6) for b in load.epoch(e) for s in b.samples for i in s.records[1:])
    assert len(partners) == 12


def test_frames_of_a_clip_share_the_warp_and_keep_their_order() -> None:
    """Frame t of each clip is 40 * t brighter in red; so it is in the sample, at every pixel of the picture."""
    still = Augment(hue=0, saturation=0, brightness=0, rotate=20)
    load = loader(6, frames=3, augment=still, batch=6)
    (batch,) = load.epoch(0)
    assert batch.images.shape == (6, 3, 3, 64, 80)
    for images in batch.images.astype(int):
        np.testing.assert_array_equal(images[0, 1:], images[1, 1:])
        difference = images[1, 0] - images[0, 0]
        drawn = ~(images[0] == 114).all(0) & (images[0, 0] < 180)
        assert np.median(difference[drawn]) == 40


def test_tensor_shares_the_memory_and_is_channels_last() -> None:
    batch = next(loader(4).epoch(0))
    t = batch.tensor()
    assert t.shape == (4, 1, 3, 64, 80)
    assert t.data_ptr() == batch.images.ctypes.data
    import torch

    assert t[:, 0].is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(t.numpy(), batch.images)


def test_out_of_view_is_counted() -> None:
    load = loader(12, augment=Augment(mosaic=1.0))
    total = sum(s.left for b in load.epoch(0) for s in b.samples)
    found = {f.check: f.count for f in load.findings()}
    assert found["augment.out_of_view"] == total > 0
    assert "cache.mode" in found
    for b in load.epoch(0):
        for s in b.samples:
            assert len(s.objects) + s.left == sum(len(load.dataset[i].objects) for i in s.records)


def test_other_sizes_than_the_label_says_are_refused(tmp_path: Path) -> None:
    ds = dataset(1)
    wrong = replace(ds.records[0], size=(48, 63), objects=Objects.empty((48, 63)))
    with pytest.raises(TercelError, match=r"48 x 64 px .* label says 48 x 63"):
        load_plain(wrong, (64, 64), read=read)
    with pytest.raises(TercelError, match=r"x\.mp4 does not exist"):
        load_plain(replace(ds.records[0], frames=(Frame(Path("x.mp4"), 3),)), (64, 64))


def test_misuse() -> None:
    with pytest.raises(TercelError, match="no records"):
        Loader(Dataset(Schema(("a",)), ()), DATA, None, 2)
    mixed = Dataset(Schema(("a", "b")), (*dataset(1).records, replace(dataset(1, frames=3).records[0], id="b")))
    with pytest.raises(TercelError, match="3 frames, other records have 1"):
        Loader(mixed, DATA, None, 2)
    with pytest.raises(ValueError, match="rank"):
        Loader(dataset(4), DATA, None, 2, rank=2, world=2)


# -- mosaics of unlike truths -----------------------------------------------------------------------------------


def with_columns(ds: Dataset, i: int, **columns: object) -> Record:
    r = ds.records[i]
    return replace(r, objects=r.objects.replace(**columns))


def test_missing_areas_are_those_of_the_box_and_tracks_stay_apart() -> None:
    ds = dataset(3, per=2)
    records = [with_columns(ds, i, track=[0, -1]) for i in range(3)]
    records[0] = replace(records[0], objects=records[0].objects.replace(area=[5.0, 5.0]))
    ds = Dataset(ds.schema, tuple(records))
    load = loader(ds=ds, augment=Augment(mosaic=1.0, scale=0.9), batch=3)
    for e in range(5):
        for b in load.epoch(e):
            for o in b.objects:
                if len(o):
                    assert o.track is not None
                    named = o.track[o.track >= 0]
                    assert len(set(named.tolist())) == len(named)


def test_unlike_columns_are_refused_with_both_names() -> None:
    ds = dataset(3, per=2)
    ds = Dataset(ds.schema, (with_columns(ds, 0, track=[0, 1]), *ds.records[1:]))
    load = loader(ds=ds, augment=Augment(mosaic=1.0, scale=0.9), batch=3)
    with pytest.raises(TercelError, match="annotated differently"):
        [list(load.epoch(e)) for e in range(20)]


# -- memory -----------------------------------------------------------------------------------------------------


def test_memory_is_used_again_but_never_under_somebody() -> None:
    load = loader(40, batch=2, augment=Augment())
    kept, copies = [], []
    for i, b in enumerate(load.epoch(0)):
        if i % 5 == 0:  # a view of a view, a tensor, a sample's images
            part = (b.images[1, 0, :, 3:7], b.tensor()[0].numpy(), b.samples[0].images)[(i // 5) % 3]
            kept.append(part)
            copies.append(part.copy())
    for part, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(part, copy)
    # Twenty batches went through; besides the four kept ones only a few ever existed at once.
    assert len(kept) == 4
    assert 1 <= len(load._memory._free) <= 4
    first = load._memory.take((1, 1, 64, 80, 3))
    place = first.ctypes.data
    del first
    assert load._memory.take((1, 1, 64, 80, 3)).ctypes.data == place
