"""Video through PyAV: frame i is the same picture, however it is reached (see tercel/data/video_index.py).

What comes out is RGB u8 [H,W,3], turned as the rotation flag (display matrix) says, at the stored resolution, with the
values that the ffmpeg command gives.

Shape legend: H, W upright size in px; N frames.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Severity, TercelError
from tercel.core.record import Frame
from tercel.data.stored import is_store, read_stored
from tercel.data.video_index import Index, beyond, decoded, first_before, frame_index

if TYPE_CHECKING:
    import av

Pixels = NDArray[np.uint8]
SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv", ".h264")


def is_video(name: str | Path) -> bool:
    """True when the name ends like a video; nothing is opened."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


class Video:
    """One video. Not for several threads at once; `frames` has a decoder of its own for each loop.

    Raises:
        TercelError: no such file, no video in it, or no frame that can be decoded.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.index = frame_index(self.path)
        self._source: Generator[tuple[int, av.VideoFrame]] | None = None
        self._next = 0  # the frame that `_source` gives next
        self._convert = _Converter(self.path, self.index)

    def __len__(self) -> int:
        return len(self.index.pts)

    @property
    def count(self) -> int:
        """Frames that can be decoded."""
        return len(self)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in px, upright."""
        return self.index.size

    @property
    def fps(self) -> float:
        """Frames per second, on average."""
        return self.index.fps

    @property
    def claimed(self) -> int:
        """Frames that the container declares; 0 when it does not."""
        return self.index.claimed

    @property
    def seconds(self) -> NDArray[np.float64]:
        """f64 [N] time of each frame after the first."""
        if self.index.linear:
            return np.asarray(self.index.pts / (self.fps if self.fps > 0 else 25.0))
        return np.asarray((self.index.pts - self.index.pts[0]) * float(self.index.time_base))

    def findings(self) -> tuple[Finding, ...]:
        """What is odd about the file: another number of frames than it declares."""
        if self.claimed in {0, self.count}:
            return ()
        message = f"{self.count} frames can be decoded, the container declares {self.claimed}; the former count"
        severity = Severity.WARNING if self.count < self.claimed else Severity.INFO
        return (Finding("video.count", severity, message, abs(self.claimed - self.count), (str(self.path),)),)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Pixels]:
        """Frames start..stop-1 one after another, each u8 [H,W,3]; decoded once, without seeking in between.

        Raises:
            TercelError: a frame beyond the end, or one that cannot be decoded; file and frame are named.
        """
        stop = self.count if stop is None else stop
        if start < 0 or stop > self.count:
            raise beyond(self.path, stop - 1 if start >= 0 else start, self.count)
        if start >= stop:
            return
        convert = _Converter(self.path, self.index)
        source = decoded(self.path, self.index, start)
        try:
            for i, frame in source:
                if i >= start:
                    yield convert(frame, i)
                if i == stop - 1:
                    return
        finally:
            source.close()

    def frame(self, i: int) -> Pixels:
        """Frame i, u8 [H,W,3]; going on is quick, going back or far ahead starts from the keyframe before it."""
        *_, (_, pixels) = self.walk(i, lambda k: k == i)
        return pixels

    def walk(self, i: int, keep: Callable[[int], bool]) -> Iterator[tuple[int, Pixels]]:
        """(k, pixels) of frame i and of every frame that is decoded on the way to it and that `keep` wants.

        Raises:
            TercelError: as `frames`.
        """
        if not 0 <= i < self.count:
            raise beyond(self.path, i, self.count)
        if self._source is None or not first_before(self.index, i) <= self._next <= i:
            self.close()
            self._source, self._next = decoded(self.path, self.index, i), -1
        try:
            for k, frame in self._source:
                self._next = k + 1
                if k == i or keep(k):
                    yield k, self._convert(frame, k)
                if k == i:
                    return
        except BaseException:
            self.close()
            raise

    def stretch(self, i: int) -> range:
        """The frames from the keyframe before frame i to the next one: what is decoded in one go."""
        start, keys = first_before(self.index, i), self.index.keys
        if self.index.linear or keys[-1] <= self.index.pts[i]:
            return range(start, self.count)
        key = keys[np.searchsorted(keys, self.index.pts[i], side="right")]
        return range(start, int(np.searchsorted(self.index.pts, key)))

    def close(self) -> None:
        """Free the decoder; the next frame opens it again."""
        if self._source is not None:
            self._source.close()
        self._source = None

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_frame(frame: Frame | Path) -> Pixels:
    """The pixels u8 [H,W,3] behind a `Frame`: a picture file, a picture within an HDF5 file, or one frame of a video
    (opened for it alone)."""
    if isinstance(frame, Frame) and frame.index >= 0 and is_store(frame.path):
        return read_stored(frame)
    if isinstance(frame, Frame) and frame.index >= 0:
        with Video(frame.path) as video:
            return video.frame(frame.index)
    from tercel.data.images import read_image

    return read_image(frame.path if isinstance(frame, Frame) else frame)


class _Converter:
    """Decoded frame -> RGB u8 [H,W,3], upright. Bicubic, as the ffmpeg command converts."""

    def __init__(self, path: Path, index: Index) -> None:
        from av.video.reformatter import VideoReformatter

        self._path, self._index, self._reformatter = path, index, VideoReformatter()

    def __call__(self, frame: av.VideoFrame, i: int) -> Pixels:
        pixels = self._reformatter.reformat(frame, format="rgb24", interpolation="BICUBIC").to_ndarray()
        swap, rows, columns = self._index.turn
        if swap:
            pixels = pixels.swapaxes(0, 1)
        if rows:
            pixels = pixels[::-1]
        if columns:
            pixels = pixels[:, ::-1]
        if pixels.shape[:2] != self._index.size:
            (h, w), (height, width) = pixels.shape[:2], self._index.size
            message = f"{self._path}: frame {i} is {w}x{h}, the first one {width}x{height} (width x height)"
            raise TercelError(message, "convert the video to one size")
        return np.ascontiguousarray(pixels, dtype=np.uint8)


# -- writing ------------------------------------------------------------------------------------------------------


def write_video(
    path: Path, frames: Iterable[Pixels], fps: float, *, crf: int = 20, options: Mapping[str, str] | None = None
) -> Path:
    """Write RGB frames u8 [H,W,3] as H.264 (MPEG-4 part 2 where there is no x264). Odd sizes get one more row or column
    at their far end, the copy of the last one, because the pixel format needs even ones.

    Args:
        path: a name ending like a video; nothing is written over.
        fps: frames per second.
        crf: quality of x264, lower = better.
        options: further options of the encoder.

    Raises:
        TercelError: the file exists, there are no frames or of different sizes, or it cannot be written; then nothing
            is left behind.
    """
    import av

    if os.path.lexists(path):
        raise TercelError(f"{path} exists already", "remove it or choose another name")
    if not fps > 0:
        raise TercelError(f"{path}: {fps} frames per second", "give a positive number")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    try:
        _encode(name, path, frames, fps, {"crf": str(crf), "preset": "veryfast"} | dict(options or {}))
        os.chmod(name, 0o644)
        os.link(name, path)  # fails where somebody was quicker, unlike a rename
    except FileExistsError as e:
        raise TercelError(f"{path} exists already", "remove it or choose another name") from e
    except (av.FFmpegError, OSError) as e:
        raise TercelError(f"cannot write {path}: {e.strerror or e}", "free some space or choose another folder") from e
    finally:
        Path(name).unlink(missing_ok=True)
    return path


def _encode(name: str, path: Path, frames: Iterable[Pixels], fps: float, options: dict[str, str]) -> None:
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(name, "w") as container:
        stream: Any = None
        size: tuple[int, int] = (0, 0)
        for i, pixels in enumerate(frames):
            if stream is None:
                size = pixels.shape[0], pixels.shape[1]
                rate = Fraction(fps).limit_denominator(100_000)
                stream = container.add_stream(codec, rate=rate, options=options if codec == "libx264" else {})
                stream.height, stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
                stream.pix_fmt = "yuv420p"
                if codec == "mpeg4":
                    stream.bit_rate = 8_000_000
            if pixels.shape[:2] != size:
                message = f"{path}: frame {i} is {pixels.shape[1]}x{pixels.shape[0]}, the first one {size[1]}x{size[0]}"
                raise TercelError(message, "give all frames one size")
            even = np.pad(pixels, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            container.mux(stream.encode(frame))
        if stream is None:
            raise TercelError(f"{path}: there are no frames to write", "give at least one")
        container.mux(stream.encode())
