"""A ball in a stream of frames: live and from files through the same code, so that both give the same numbers.

    picture -> canvas -> Windows -> network -> head.maps -> Ensemble -> head.candidates -> original px -> motion model

`Windows` and `Ensemble` are in engine/windows.py, the motion model in models/motion.py. Live decoding runs windows
one by one, decoding of files in batches with the video decoder in a thread of its own; all pass the same classes.

Shape legend: T frames of a window; N frames; K candidates; E events; H, W picture or network canvas.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tercel.config import Recipe
from tercel.core.finding import Finding, Severity, TercelError
from tercel.core.warp import Warp
from tercel.data.clips import BACKGROUND, median_picture, spread
from tercel.data.loader import load_plain
from tercel.engine.device import Runtime
from tercel.engine.evaluate import Progress
from tercel.engine.windows import Answer, Ensemble, Window, Windows
from tercel.models.detector import Detector
from tercel.models.motion import Candidates, Live, Row

Pixels = NDArray[np.uint8]
Item = TypeVar("Item")


class Found(NamedTuple):
    """The candidates of one frame: xy f64 [K,2] original px (NaN = none), score f64 [K], events f64 [E] or None."""

    frame: int
    xy: NDArray[np.float64]
    score: NDArray[np.float64]
    events: NDArray[np.float64] | None


class Stream:
    """Pictures of one clip in, candidates out.

    Args:
        size: (H, W) of the pictures.
        batch: windows that go through the network together.
        first: number of the first frame.
        background: the median picture u8 [H,W,3] of the clip, for networks that want one (`clip.background`). None: the
            median of the frames seen so far, at most 15 evenly spread ones, on the network's canvas; live there is
            nothing better, and the first frames of a clip have a poor one.
    """

    def __init__(
        self,
        model: Detector,
        recipe: Recipe,
        runtime: Runtime,
        size: tuple[int, int],
        *,
        batch: int = 1,
        first: int = 0,
        background: Pixels | None = None,
    ) -> None:
        self.model, self.recipe, self.runtime, self.size, self.batch = model, recipe, runtime, size, batch
        clip, hop = recipe.model.clip, recipe.evaluate.ball.hop
        self.windows, self.ensemble = Windows(clip, hop, first), Ensemble(clip, hop)
        self.back = Warp.letterbox(size, recipe.data.size).inverse()
        self._background = None if background is None else self.canvas(background)
        self._median = _Median() if clip.background and background is None else None
        self._waiting: list[tuple[Window, Pixels | None]] = []
        self._beyond = 0  # candidates in the letterbox border

    def canvas(self, picture: Pixels) -> Pixels:
        """A picture u8 [H,W,3] as the network sees it; may run in another thread.

        Raises:
            TercelError: a picture of another size.
        """
        if picture.shape != (*self.size, 3):
            message = f"a frame has shape {list(picture.shape)}, the clip's are {[*self.size, 3]} (height, width, RGB)"
            raise TercelError(message, "convert the video to one size")
        images, _ = load_plain(picture, self.recipe.data.size, self.recipe.data.fill)
        canvas: Pixels = images[0].transpose(1, 2, 0)
        return canvas

    def findings(self) -> tuple[Finding, ...]:
        """Balls that were found where there is no picture."""
        if not self._beyond:
            return ()
        message = "candidates at or above the threshold lay in the border around the picture and were left out"
        return (Finding("stream.border", Severity.WARNING, message, self._beyond),)

    def push(self, canvas: Pixels) -> list[Found]:
        """The next frame, as made by `canvas`; the frames that are complete with it."""
        if self._median is not None:
            self._background = self._median.push(canvas)
        return self._take(self.windows.push(canvas), at_once=False)

    def finish(self) -> list[Found]:
        """The clip has ended: all frames that are left."""
        found = self._take(self.windows.finish(), at_once=True)
        return found + self._found(self.ensemble.finish())

    def _take(self, windows: list[Window], at_once: bool) -> list[Found]:
        background = self._background if self.recipe.model.clip.background else None
        self._waiting += [(window, background) for window in windows]
        found: list[Found] = []
        while self._waiting and (at_once or len(self._waiting) >= self.batch):
            now, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
            found += self._found(self._run(now))
        return found

    @torch.no_grad()
    def _run(self, windows: Sequence[tuple[Window, Pixels | None]]) -> list[Answer]:
        """The network on some windows; answers of the frames that are complete."""
        clips = [window.pictures if median is None else (*window.pictures, median) for window, median in windows]
        images = torch.from_numpy(np.stack([np.stack(clip) for clip in clips]).transpose(0, 1, 4, 2, 3))
        head: Any = self.model.head
        was_training = self.model.training
        if was_training:
            self.model.eval()
        with self.runtime.autocast():
            raw: Any = self.model(images.to(self.runtime.device))
        if was_training:
            self.model.train()
        maps, events = head.maps(raw), head.events(raw)
        out: list[Answer] = []
        for i, (window, _) in enumerate(windows):
            out += self.ensemble.add(window.numbers, maps[i], None if events is None else events[i], window.later)
        return out

    def _found(self, answers: list[Answer]) -> list[Found]:
        """Candidates on the original picture. What lies beyond its edge, in the letterbox border, is none."""
        if not answers:
            return []
        head: Any = self.model.head
        maps = torch.stack([a.maps for a in answers])
        places, scores = head.candidates(maps, self.recipe.data.size, self.recipe.evaluate)
        xy = self.back.points(places.cpu().numpy().astype(np.float64))
        score = scores.cpu().numpy().astype(np.float64)
        height, width = self.size
        edge = self.back.scale  # a pixel of the network's canvas: a place may err by that much
        inside = ((xy >= -edge) & (xy <= np.array([width, height]) + edge)).all(-1)
        self._beyond += int((~inside & (score >= max(self.recipe.evaluate.ball.threshold, 1e-6))).sum())
        score = np.where(inside, score, 0.0)
        xy = np.where((score > 0)[..., None], np.clip(xy, 0, (width, height)), np.nan)
        events = [None if a.events is None else a.events.cpu().numpy().astype(np.float64) for a in answers]
        return [Found(a.frame, *row) for a, *row in zip(answers, xy, score, events, strict=True)]


class _Median:
    """The median of frames so far: of every frame at first, then of every second, fourth... so that 15 suffice."""

    def __init__(self) -> None:
        self.frames: list[Pixels] = []
        self.count, self.step = 0, 1
        self.picture: Pixels | None = None

    def push(self, canvas: Pixels) -> Pixels:
        if self.count % self.step == 0:
            if len(self.frames) == BACKGROUND:
                self.frames, self.step = self.frames[::2], self.step * 2
            if self.count % self.step == 0:
                self.frames.append(canvas)
                self.picture = None
        self.count += 1
        if self.picture is None:
            self.picture = median_picture(self.frames)
        return self.picture


class LiveBall:
    """A ball in frames that arrive one by one, for instance from a camera.

    A frame's row comes once the last window that answers for it is complete: with `clip.answers` "last" at once, with
    "all" and `evaluate.ball.hop` h after at most T - 1 frames.

    Args:
        size: (H, W) of the frames.
    """

    def __init__(self, model: Detector, recipe: Recipe, runtime: Runtime, size: tuple[int, int]) -> None:
        self._stream = Stream(model, recipe, runtime, size)
        self._live = Live(recipe.evaluate.ball, size)

    def push(self, picture: Pixels) -> list[tuple[Found, Row]]:
        """The next frame, u8 [H,W,3] RGB. Candidates and the row of the track of the frames that are known with it."""
        return self._rows(self._stream.push(self._stream.canvas(picture)))

    def finish(self) -> list[tuple[Found, Row]]:
        """There are no more frames: the rows that are left."""
        return self._rows(self._stream.finish())

    def _rows(self, found: list[Found]) -> list[tuple[Found, Row]]:
        return [(f, self._live.push(f.frame, f.xy, f.score)) for f in found]


@dataclass(frozen=True, eq=False)
class Decoded:
    """A whole clip: candidates for the motion model, events f64 [N,E] or None, and what was noticed."""

    candidates: Candidates
    events: NDArray[np.float64] | None
    findings: tuple[Finding, ...] = ()


def decode_frames(
    model: Detector,
    recipe: Recipe,
    pictures: Iterable[Pixels],
    size: tuple[int, int],
    runtime: Runtime,
    *,
    first: int = 0,
    background: Pixels | None = None,
    total: int = 0,
    progress: Progress | None = None,
) -> Decoded:
    """All frames of one clip. Pictures are read and put onto the canvas in a thread of their own, a few ahead.

    Args:
        pictures: u8 [H,W,3] RGB, consecutive.
        size: (H, W) of them.
        first: number of the first one.
        background: see `Stream`.
        total: how many there will be, for `progress`.

    Raises:
        TercelError: no picture at all, pictures of another size, and whatever reading them raises.
    """
    batch = recipe.evaluate.batch
    stream = Stream(model, recipe, runtime, size, batch=batch, first=first, background=background)
    found: list[Found] = []
    for done, canvas in enumerate(_ahead(map(stream.canvas, pictures), 2 * recipe.model.clip.frames + 16), 1):
        found += stream.push(canvas)
        if progress:
            progress(done, max(total, done))
    found += stream.finish()
    if not found:
        raise TercelError("the clip has no frame", "choose another one")
    frame, xy, score, events = (list(column) for column in zip(*found, strict=True))
    candidates = Candidates(np.array(frame), np.stack(xy), np.stack(score), size)
    return Decoded(candidates, None if events[0] is None else np.stack(events), stream.findings())


def decode_video(
    model: Detector, recipe: Recipe, path: Path | str, runtime: Runtime, progress: Progress | None = None
) -> Decoded:
    """All frames of a video file; frame numbers count from 0. The background is the median of 15 evenly spread frames.

    Raises:
        TercelError: a video that cannot be read; file and frame are named.
    """
    from tercel.data.video import Video

    with Video(path) as video:
        background = None
        if recipe.model.clip.background:
            background = median_picture(video.frame(i) for i in spread(video.count))
        decoded = decode_frames(
            model, recipe, video.frames(), video.size, runtime,
            background=background, total=video.count, progress=progress,
        )  # fmt: skip
        return replace(decoded, findings=(*video.findings(), *decoded.findings))


def _ahead(items: Iterator[Item], count: int) -> Iterator[Item]:
    """The items, made in another thread up to `count` ahead. Its exception is raised here; leaving early stops it."""
    line: queue.Queue[tuple[bool, Any]] = queue.Queue(count)
    stop = threading.Event()

    def put(item: tuple[bool, Any]) -> bool:
        while not stop.is_set():
            try:
                line.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as e:  # whatever it is, it belongs to whoever waits for the item
            put((False, e))

    thread = threading.Thread(target=work, name="tercel-frames", daemon=True)
    thread.start()
    try:
        while True:
            more, item = line.get()
            if more:
                yield item
            elif item is not None:
                raise item
            else:
                return
    finally:
        stop.set()
        thread.join()
