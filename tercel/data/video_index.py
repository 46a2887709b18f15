"""Where the frames of a video are: the index behind tercel/data/video.py, and decoding along it.

Containers number nothing: there are time stamps, in the order of decoding, and seeking lands on keyframes at best. One
pass over the packets lists the time stamps of all displayed frames; frame i is the one with the i-th stamp. Whatever
comes out of the decoder under another stamp than the next expected one is an error, so a wrong frame is never served.

Streams without usable stamps (AVI, raw H.264) are counted by decoding them once and are always read from their start.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import TercelError
from tercel.core.record import content_hash

if TYPE_CHECKING:
    from collections.abc import Iterable

    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

_REMEDY = "replace the video, or convert it: ffmpeg -i IN -c:v libx264 OUT.mp4"


@dataclass(frozen=True, eq=False)
class Index:
    """Where the frames of a video are.

    Attributes:
        pts: i64 [N] time stamps in display order, rising; 0..N-1 when `linear`.
        keys: i64 [K] time stamps of the frames at which decoding can begin, rising.
        seeks: i64 [K] the stamps (of decoding) under which the container finds them.
        time_base: seconds per unit of a stamp.
        size: (H, W) after the rotation.
        turn: (exchange rows and columns, then flip the rows, flip the columns): the rotation flag.
        fps: frames per second on average; NaN when the container does not say and one frame cannot.
        claimed: frames that the container declares; 0 when it does not.
        linear: no usable time stamps; frames are counted from the start.
    """

    pts: NDArray[np.int64]
    keys: NDArray[np.int64]
    seeks: NDArray[np.int64]
    time_base: Fraction
    size: tuple[int, int]
    turn: tuple[bool, bool, bool]
    fps: float
    claimed: int
    linear: bool = False


def first_before(index: Index, i: int) -> int:
    """The frame at which decoding begins in order to reach frame i."""
    if index.linear:
        return 0
    key = int(np.searchsorted(index.keys, index.pts[i], side="right")) - 1
    return 0 if key < 0 else int(np.searchsorted(index.pts, index.keys[key]))


# -- the index ----------------------------------------------------------------------------------------------------

_known: dict[str, Index] = {}
_lock = threading.Lock()


def frame_index(path: Path) -> Index:
    """The index of a video; made once per content and process.

    Raises:
        TercelError: as `Video`.
    """
    if not path.is_file():
        what = "is a directory, not a video" if path.is_dir() else "does not exist"
        raise TercelError(f"{path} {what}", "check the path")
    key = content_hash(path)
    with _lock:
        known = _known.get(key)
    if known is None:
        known = _scan(path)
        with _lock:
            _known[key] = known
    return known


def _scan(path: Path) -> Index:
    """One pass over the packets, then the first and the last frames decoded."""
    import av

    stamps: list[int | None] = []
    keys: list[tuple[int, int]] = []
    packets = damaged = 0
    with _opened(path) as (container, stream):
        base, claimed = stream.time_base or Fraction(1), int(stream.frames)
        rate = float(stream.average_rate or stream.guessed_rate or "nan")
        try:
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                packets, damaged = packets + 1, damaged + packet.is_corrupt
                if packet.is_keyframe and packet.pts is not None:
                    keys.append((packet.pts, packet.dts if packet.dts is not None else packet.pts))
                if not packet.is_discard:  # edit lists cut such frames away; the decoder needs them all the same
                    stamps.append(packet.pts)
        except av.FFmpegError:
            pass  # the file ends here; the count says so
    keys.sort()
    usable = bool(keys) and None not in stamps and len(set(stamps)) == len(stamps)
    pts = np.array(sorted(s for s in stamps if s is not None) if usable else [], np.int64)
    index = Index(
        pts, np.array([k for k, _ in keys], np.int64), np.array([d for _, d in keys], np.int64),
        base, (1, 1), (False, False, False), rate, claimed, not usable,
    )  # fmt: skip
    index = _tried(path, index, whole=packets == claimed and not damaged)
    if not index.linear and len(index.pts) > 1:
        rate = (len(index.pts) - 1) / (float(index.pts[-1] - index.pts[0]) * float(base))
    return replace(index, fps=rate)


def _tried(path: Path, index: Index, whole: bool) -> Index:
    """The index with its size, and without stamps at either end behind which no frame comes out of the decoder. The far
    end of a file that has as many packets as it declares is taken on trust; a lost frame is noticed on reading."""
    source = _raw(path, index, -1)
    first = next(source, None)
    if first is None:
        raise TercelError(f"{path}: no frame can be decoded", _REMEDY)
    turn = _turn(first)
    size = (first.width, first.height) if turn[0] else (first.height, first.width)
    index = replace(index, size=size, turn=turn)
    head = [first.pts, *(f.pts for f in itertools.islice(source, 23))]
    source.close()
    if not index.linear and first.pts is not None and _in_order(head, index):
        if whole:
            return replace(index, pts=index.pts[index.pts >= first.pts])
        for k in range(len(index.keys) - 1, -2, -1):
            tail = [f.pts for f in _raw(path, index, k) if f.pts is not None]
            if tail and (k < 0 or tail[-1] >= index.keys[k]):
                kept = index.pts[(index.pts >= first.pts) & (index.pts <= max(tail))]
                if tail == sorted(tail) and len(kept):
                    return replace(index, pts=kept)
                break
    count = sum(1 for _ in _raw(path, index, -1))
    return replace(index, pts=np.arange(count), linear=True)


def _in_order(times: list[int | None], index: Index) -> bool:
    """True when the decoder gives frames under the packets' stamps, in their order: AVI numbers packets instead."""
    stamps = [t for t in times if t is not None]
    return len(stamps) == len(times) and stamps == sorted(set(stamps)) and set(stamps) <= set(index.pts.tolist())


def _turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """The display matrix [a b u; c d v; x y w] (ISO 14496-12: x' = a x + c y, y' = b x + d y) as exchange and flips."""
    sides: Iterable[Any] = frame.side_data  # a mapping by type, but iterating gives the values
    data = next((bytes(s) for s in sides if s.type.name == "DISPLAYMATRIX"), None)
    if data is None:
        return False, False, False
    m = np.frombuffer(data, np.int32)
    a, b, c, d = int(m[0]), int(m[1]), int(m[3]), int(m[4])
    if abs(c) > abs(a):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


# -- decoding -----------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    import av

    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as e:
        reason = getattr(e, "strerror", None) or e
        what = "the file is empty (0 bytes)" if path.is_file() and not path.stat().st_size else reason
        raise TercelError(f"{path}: not a readable video: {what}", _REMEDY) from e
    with container:
        if not container.streams.video:
            raise TercelError(f"{path}: there is no video in this file", "choose another file")
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "AUTO"
        yield container, stream


def _raw(path: Path, index: Index, key: int) -> Generator[av.VideoFrame]:
    """Decoded frames from keyframe number `key` on (-1: from the start), in display order. What the decoder refuses is
    left out here; whoever counts notices."""
    import av

    with _opened(path) as (container, stream):
        if key >= 0:
            try:
                container.seek(int(index.seeks[key]), stream=stream, backward=True)
            except av.FFmpegError:
                return
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet = None
            try:
                # A broken file ends without the empty packet that makes the decoder give its last frames.
                frames = stream.codec_context.decode(None) if packet is None else packet.decode()
            except av.FFmpegError:
                frames = []
            yield from (f for f in frames if isinstance(f, av.VideoFrame))
            if packet is None:
                return


def decoded(path: Path, index: Index, i: int) -> Generator[tuple[int, av.VideoFrame]]:
    """(number, frame) from the keyframe before frame i to the end, without a gap.

    Raises:
        TercelError: a frame that should be there does not come.
    """
    at = first_before(index, i)
    if index.linear:
        yield from enumerate(_raw(path, index, -1))
        raise _lost(path, index, len(index.pts))
    key = int(np.searchsorted(index.keys, index.pts[at], side="right")) - 1
    pts = index.pts.tolist()
    for k in range(key, -2, -1):  # some containers land too late: then from a keyframe before, at last from the start
        source = _raw(path, index, k)
        began = False
        for frame in source:
            if frame.pts is None or frame.pts < pts[at]:
                continue
            if frame.pts > pts[at]:
                break
            began = True
            yield at, frame
            at += 1
            if at == len(pts):
                return
        source.close()
        if began:
            break
    raise _lost(path, index, at)


def beyond(path: Path, i: int, count: int) -> TercelError:
    return TercelError(f"{path}: there is no frame {i}, the video has frames 0..{count - 1}", "check the frame numbers")


def _lost(path: Path, index: Index, i: int) -> TercelError:
    return TercelError(f"{path}: frame {i} of {len(index.pts)} cannot be decoded", _REMEDY)
