"""From records to batches. Order and augmentation are a pure function of (seed, epoch, index) and nothing else.

Workers are threads: OpenCV and the decoders release the interpreter lock, all threads share one store of decoded
pictures, nothing is pickled, and there is no shared memory to run out of. OpenCV's own threads are switched off once
for the process, because they and ours would fight over the cores (mmdetection #3306: eight times slower).

OpenCV draws straight into the batch, which is u8 [B,T,H,W,3] in memory; what comes out is a view of it as
[B,T,3,H,W], so `torch.from_numpy` copies nothing and yields channels-last memory.

Shape legend: B batch; T frames; H, W canvas; 3 = RGB; N objects.
"""

from __future__ import annotations

import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tercel.config import Augment, Data
from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Event, Frame, Record
from tercel.core.warp import Warp
from tercel.data import ball_augment
from tercel.data.augment import Colour, plan, touches, visible_objects
from tercel.data.cache import PictureStore, default_folder
from tercel.data.clips import median_picture

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]
_ORDER, _SAMPLE = 1, 2  # streams of random numbers that must not meet


@dataclass(frozen=True, eq=False)
class Sample:
    """One item as the network sees it.

    Attributes:
        images: u8 [T,3,H,W] RGB.
        objects: truth on the canvas; all of it, never cut off or padded.
        id: the record this sample stands for.
        warps: one per source picture, original canvas -> network canvas; the first one is that of `id`.
        records: ids of the source pictures, in the same order (four in a mosaic).
        left: how many objects of the sources are out of view and therefore not in `objects`.
        events: events in time, by frame index within the clip.
    """

    images: Pixels
    objects: Objects
    id: str
    warps: tuple[Warp, ...]
    records: tuple[str, ...]
    left: int = 0
    events: tuple[Event, ...] = ()

    @property
    def warp(self) -> Warp:
        """From the record's original canvas to the network's."""
        return self.warps[0]


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples.

    Attributes:
        images: u8 [B,T,3,H,W] RGB, a view of channels-last memory.
        objects: B truths, of any length each.
        warps: B warps, from each sample's own record to the canvas; `warps[i].inverse()` brings predictions back.
        ids: B record ids.
        samples: everything else that is known of each.
    """

    images: Pixels
    objects: list[Objects]
    warps: list[Warp]
    ids: list[str]
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def events(self) -> list[tuple[Event, ...]]:
        """B tuples of events."""
        return [s.events for s in self.samples]

    def tensor(self) -> torch.Tensor:
        """The images as a uint8 tensor [B,T,3,H,W] on the same memory."""
        import torch

        return torch.from_numpy(self.images)


# -- without augmentation: the one way into the network ---------------------------------------------------------


def load_plain(
    source: Record | Path | Pixels,
    size: tuple[int, int],
    fill: int = 114,
    read: Callable[[Path], Pixels] | None = None,
) -> tuple[Pixels, Warp]:
    """A sample without augmentation: what evaluation, prediction and un-augmented training all feed the network.

    Args:
        source: a record (all its frames), a picture file, or a decoded picture u8 [H,W,3].
        size: (H, W) of the network's input.
        fill: grey of the letterbox border.
        read: reader of pictures (and of a record's video frames), by default tercel.data.video.read_frame.

    Returns:
        Images u8 [T,3,H,W], and the warp from the original canvas to them.

    Raises:
        TercelError: unreadable picture, or one whose size is not the record's.
    """
    if read is None:
        from tercel.data.video import read_frame

        read = read_frame
    if isinstance(source, Record):
        pictures = [read_checked(source, frame, read) for frame in source.frames]
    elif isinstance(source, np.ndarray):
        pictures = [source]
    else:
        pictures = [read(Path(source))]
    canvas = np.empty((len(pictures), *size, 3), np.uint8)
    warp = _paint_plain(pictures, canvas, fill)
    return canvas.transpose(0, 3, 1, 2), warp


def _paint_plain(pictures: Sequence[Pixels], canvas: Pixels, fill: int) -> Warp:
    """Letterbox the pictures of one clip onto `canvas` u8 [T,H,W,3]."""
    height, width = pictures[0].shape[:2]
    warp = Warp.letterbox((height, width), (canvas.shape[1], canvas.shape[2]))
    canvas[...] = fill
    for picture, frame in zip(pictures, canvas, strict=True):
        warp.paint(picture, frame)
    return warp


def read_checked(record: Record, frame: Frame, read: Callable[[Any], Pixels]) -> Pixels:
    """A frame of the record, u8 [H,W,3].

    Raises:
        TercelError: unreadable, or not of the record's size.
    """
    picture = read(frame if frame.index >= 0 else frame.path)
    if picture.shape[:2] != tuple(record.size):
        h, w = picture.shape[:2]
        raise TercelError(
            f"{frame} is {h} x {w} px (height x width), its label says {record.size[0]} x {record.size[1]}",
            "label the picture that is there, after its EXIF orientation",
        )
    return picture


class _Memory:
    """Memory for batches of one size, used again once nobody holds a batch of it any more.

    Fresh memory costs a page fault every 4 kB, about as much time as the warps. Every array or tensor made from a
    batch keeps the root array alive, and only when that dies does its memory come back here; whoever keeps batches
    keeps them unharmed.
    """

    def __init__(self, count: int) -> None:
        self._bytes = count
        self._free: deque[bytearray] = deque()

    def take(self, shape: tuple[int, ...]) -> Pixels:
        """Uninitialised u8 array of `shape`, at most as large as was said."""
        memory = self._free.pop() if self._free else bytearray(self._bytes)
        root = np.frombuffer(memory, np.uint8)
        weakref.finalize(root, self._free.append, memory).atexit = False
        return root[: math.prod(shape)].reshape(shape)


# -- the loader -------------------------------------------------------------------------------------------------


class Loader:
    """Batches of a data set, epoch by epoch.

    `epoch(e)` can be called in any order, again, from any step, with any number of workers or ranks: sample `index` of
    epoch `e` is always the same, to the byte. An epoch is `samples` steps of an endless walk through one permutation
    of the records after another, so every record is seen equally often (to within one) whatever `samples` is.

    Args:
        data: canvas, fill, workers, cache.
        augment: random changes, or None for none.
        batch: samples per step and rank.
        seed: decides everything that is random.
        samples: length of a virtual epoch over all ranks; 0 = each record once.
        epochs: how many there will be; needed when `augment.close_epochs` ends the mosaics before the last ones.
        rank, world: this process among `world`. Rank r takes items r, r + world, ... of each step's `batch * world`
            samples, so all ranks together have the batch that one process with `batch * world` would have.
        shuffle: random order; by default when there is augmentation.
        store: decoded pictures to share with another loader.

    Attributes:
        wait_seconds: how long the caller last waited for a batch (data time).
        steps: batches in an epoch, the same on all ranks when training.

    Raises:
        TercelError: an empty data set, records of different lengths T, or a last step with fewer samples than ranks.
    """

    def __init__(
        self,
        dataset: Dataset,
        data: Data,
        augment: Augment | None,
        batch: int,
        seed: int = 0,
        *,
        samples: int = 0,
        epochs: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool | None = None,
        store: PictureStore | None = None,
    ) -> None:
        if not len(dataset):
            raise TercelError(f"{dataset.source or 'the data set'} has no records", "choose a split that has some")
        if batch < 1 or samples < 0 or not 0 <= rank < world:
            raise ValueError(f"batch {batch} >= 1, samples {samples} >= 0, rank {rank} within world {world}")
        if augment is not None and augment.close_epochs and augment.mosaic and not epochs:
            raise ValueError("augment.close_epochs counts from the end: Loader needs `epochs`")
        self.dataset, self.data, self.augment = dataset, data, augment
        self.batch, self.seed, self.epochs, self.rank, self.world = batch, seed, epochs, rank, world
        self.shuffle = augment is not None if shuffle is None else shuffle
        self.samples = samples or len(dataset)
        tail = self.samples % (batch * world)
        if self.shuffle and 0 < tail < world:
            raise TercelError(
                f"the last step of an epoch of {self.samples} samples has {tail} for {world} processes",
                f"set train.samples={self.samples - tail or batch * world} or change train.batch",
            )
        self.frames = len(dataset.records[0].frames)
        for r in dataset.records:
            if len(r.frames) != self.frames:
                raise TercelError(
                    f"{r.source or r.id}: {len(r.frames)} frames, other records have {self.frames}",
                    "cut all clips to one length",
                )
        self.canvases = self.frames + bool(dataset.records[0].background)  # the median picture is one frame more
        self.store = store or store_for(dataset, data, world)
        self.wait_seconds = 0.0
        self._left = 0
        self._memory = _Memory(batch * self.canvases * data.size[0] * data.size[1] * 3)
        # What an empty record's truth looks like: the columns of the others.
        self._like = next((r.objects for r in dataset.records if len(r.objects)), None)
        self._flip_index = dataset.schema.flip_index if dataset.schema.keypoints else None
        self._medians: dict[tuple[Frame, ...], Pixels] = {}
        like = self._like  # a ball is one point with a frame; keypoints in clips are something else
        self._balls = like is not None and like.frame is not None and not dataset.schema.keypoints
        if augment is not None and self._balls:
            ball_augment.check(augment, dataset.schema.events)
        _quiet_opencv()

    def __len__(self) -> int:
        return self.steps

    @property
    def steps(self) -> int:
        """Batches that `epoch` yields on this rank."""
        return math.ceil(max(0, self.samples - self.rank) / (self.batch * self.world)) if self.samples else 0

    def findings(self) -> tuple[Finding, ...]:
        """How pictures are kept, and how many objects augmentation has moved out of view so far."""
        ledger = Ledger()
        ledger.extend(self.store.findings())
        if self._left:
            message = "objects moved out of view by augmentation and left the truth of their sample"
            ledger.add("augment.out_of_view", Severity.INFO, message, count=self._left)
        return ledger.findings()

    # -- order --------------------------------------------------------------------------------------------------

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Record numbers i64 [samples] of the epoch, over all ranks."""
        n, first = len(self.dataset), epoch * self.samples
        rounds = range(first // n, (first + self.samples - 1) // n + 1)
        walk = np.concatenate([self._round(r) for r in rounds])
        return walk[first - rounds[0] * n :][: self.samples]

    def _round(self, number: int) -> NDArray[np.int64]:
        n = len(self.dataset)
        if not self.shuffle:
            return np.arange(n)
        return np.random.default_rng([self.seed, _ORDER, number]).permutation(n)

    def indices(self, step: int) -> range:
        """Which indices of the epoch this rank takes in `step`."""
        first = step * self.batch * self.world
        return range(first + self.rank, min(first + self.batch * self.world, self.samples), self.world)

    # -- one sample ---------------------------------------------------------------------------------------------

    def sample(self, epoch: int, index: int) -> Sample:
        """Sample `index` of the epoch (over all ranks), loaded here and now."""
        canvas = np.empty((self.canvases, *self.data.size, 3), np.uint8)
        return self._load(epoch, index, int(self.order(epoch)[index]), canvas)

    def _load(self, epoch: int, index: int, number: int, canvas: Pixels) -> Sample:
        """Draw the sample into `canvas` u8 [T,H,W,3]. Errors name the record."""
        record = self.dataset.records[number]
        try:
            if self.augment is None:
                return self._plain(record, canvas)
            return self._augmented(record, np.random.default_rng([self.seed, _SAMPLE, epoch, index]), epoch, canvas)
        except TercelError as e:
            raise TercelError(f"record {record.id!r} ({record.source}): {e.message}", e.remedy) from e
        except Exception as e:
            where = f"record {record.id!r} ({record.source}), epoch {epoch}, index {index}"
            raise RuntimeError(f"{where}: {type(e).__name__}: {e}") from e

    def _plain(self, record: Record, canvas: Pixels) -> Sample:
        warp = _paint_plain(self._pictures(record), canvas, self.data.fill)
        objects = warp.objects(self._truth(record), self._flip_index)
        images = canvas.transpose(0, 3, 1, 2)
        return Sample(images, objects, record.id, (warp,), (record.id,), events=record.events)

    def _augmented(self, record: Record, rng: np.random.Generator, epoch: int, canvas: Pixels) -> Sample:
        config = self.augment
        assert config is not None
        records = [record]
        closing = self.epochs > 0 and epoch >= self.epochs - config.close_epochs
        if rng.random() < config.mosaic and not closing:
            records += [self.dataset.records[i] for i in rng.integers(len(self.dataset), size=3)]
        warps = plan(rng, config, [r.size for r in records], self.data.size)
        colour = Colour.draw(rng, config)
        canvas[...] = self.data.fill
        parts, left = [], 0
        for r, warp in zip(records, warps, strict=True):
            if touches(warp):
                for picture, target in zip(self._pictures(r), canvas, strict=True):
                    warp.paint(picture, target)
            part, out = visible_objects(warp, self._truth(r), self.data.min_visible, self._flip_index)
            parts.append(part)
            left += out
        ids = tuple(r.id for r in records)
        objects, events = _join(parts, ids), record.events
        if self._balls:
            objects, events = ball_augment.change(canvas[: self.frames], objects, events, config, rng)
        colour.apply(canvas, rng)
        return Sample(canvas.transpose(0, 3, 1, 2), objects, record.id, tuple(warps), ids, left, events)

    def _pictures(self, record: Record) -> list[Pixels]:
        """The record's frames, and behind them the median of its background frames if it has any."""
        pictures = [read_checked(record, frame, self.store.get) for frame in record.frames]
        if record.background:
            median = self._medians.get(record.background)
            if median is None:  # two workers may both make it: the same one
                shown = (read_checked(record, frame, self.store.get) for frame in record.background)
                median = self._medians[record.background] = median_picture(shown)
            pictures.append(median)
        return pictures

    def _truth(self, record: Record) -> Objects:
        return record.objects if len(record.objects) else Objects.empty(record.size, self._like)

    # -- batches ------------------------------------------------------------------------------------------------

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from `start_step` on; earlier ones are skipped without loading anything.

        Leaving the loop in any way stops the workers. A failure in a worker is raised here, with the record's id.
        """
        order = self.order(epoch)
        steps = range(start_step, self.steps)
        if self.data.workers == 0:
            for step in steps:
                began = time.perf_counter()
                buffer, indices = self._buffer(step), self.indices(step)
                samples = [self._load(epoch, i, int(order[i]), b) for i, b in zip(indices, buffer, strict=True)]
                yield self._deliver(buffer, samples, began)
            return
        pool = ThreadPoolExecutor(self.data.workers, thread_name_prefix="tercel-loader")
        ahead = 1 + math.ceil(self.data.workers / self.batch)  # batches in the making besides the one in use
        waiting: deque[tuple[Pixels, list[Future[Sample]]]] = deque()
        upcoming = iter(steps)
        try:
            while True:
                began = time.perf_counter()
                while len(waiting) < ahead and (step := next(upcoming, -1)) >= 0:
                    buffer = self._buffer(step)
                    jobs = [
                        pool.submit(self._load, epoch, i, int(order[i]), b)
                        for i, b in zip(self.indices(step), buffer, strict=True)
                    ]
                    waiting.append((buffer, jobs))
                if not waiting:
                    return
                buffer, jobs = waiting.popleft()
                yield self._deliver(buffer, [job.result() for job in jobs], began)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _buffer(self, step: int) -> Pixels:
        return self._memory.take((len(self.indices(step)), self.canvases, *self.data.size, 3))

    def _deliver(self, buffer: Pixels, samples: list[Sample], began: float) -> Batch:
        self._left += sum(s.left for s in samples)
        images = buffer.transpose(0, 1, 4, 2, 3)
        warps, ids = [s.warp for s in samples], [s.id for s in samples]
        self.wait_seconds = time.perf_counter() - began
        return Batch(images, [s.objects for s in samples], warps, ids, tuple(samples))


def _join(parts: Sequence[Objects], ids: Sequence[str]) -> Objects:
    """The truth of several source pictures as one. Tracks of different pictures stay different.

    Raises:
        TercelError: pictures that are annotated with different columns.
    """
    full = [(p, i) for p, i in zip(parts, ids, strict=True) if len(p)]
    if len(full) <= 1:
        return full[0][0] if full else parts[0]
    if any(p.area is not None for p, _ in full):  # without an annotated area it is that of the box
        full = [(p.replace(area=p.areas), i) for p, i in full]
    shifted, tracks = [], 0
    for p, i in full:
        if p.columns != full[0][0].columns:
            raise TercelError(
                f"records {full[0][1]!r} and {i!r} are annotated differently: {full[0][0].columns} and {p.columns}",
                "annotate all records alike, or set augment.mosaic=0",
            )
        if p.track is None:
            shifted.append(p)
            continue
        shifted.append(p.replace(track=np.where(p.track >= 0, p.track + tracks, p.track)))
        tracks += max(0, int(p.track.max()) + 1)
    return Objects.concat(shifted)


def store_for(dataset: Dataset, data: Data, world: int) -> PictureStore:
    """A store for all frames of a data set, as `data` says; `world` processes of this machine have one each."""
    frames = {f: r.size for r in dataset.records for f in (*r.frames, *r.background)}
    sizes: dict[Path | Frame, tuple[int, int]] = {f if f.index >= 0 else f.path: size for f, size in frames.items()}
    folder = Path(data.cache_dir) if data.cache_dir else default_folder()
    return PictureStore(sizes, data.cache_gb, folder, sizes=sizes, processes=world)


def _quiet_opencv() -> None:
    """One thread per OpenCV call, for the whole process: the loader's own threads are the parallelism."""
    import cv2

    if cv2.getNumThreads() > 1:
        cv2.setNumThreads(0)
