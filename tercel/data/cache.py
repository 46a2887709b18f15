"""Decoded pictures: in RAM when they fit, else on disk by content hash, else decoded anew. The choice is a finding.

A picture is a file, lies within an HDF5 file, or is a frame of a video. A video is decoded in its own order: whoever
needs one of its frames gets the others of that stretch (from keyframe to keyframe) decoded and kept along, because they
have to be decoded anyway.

Shape legend: H, W picture size in px; 3 = RGB.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import tempfile
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Ledger, Severity
from tercel.core.record import Frame, content_hash
from tercel.data.stored import is_store, read_stored, stored_size
from tercel.data.video_pool import VideoPool

Picture = NDArray[np.uint8]
GB = 1e9
RAM_SHARE = 0.7  # of the available memory that pictures may take; the rest is for the network
DISK_RESERVE_GB = 2.0  # always left free on the cache's disk
AHEAD = 256  # frames of a video that are decoded and kept behind the one that is wanted, at most
RECENT_BYTES, RECENT_AHEAD = 2**27, 16  # the same where nothing is kept for good: what windows of several threads share


class PictureStore:
    """Decoded pictures by path or `Frame`, u8 [H,W,3] RGB, read-only. `get` may be called from many threads.

    The three ways of keeping them, decided once at birth from the sum of H * W * 3 over all pictures:

    - `ram`: within `ram_gb` and `RAM_SHARE` of the available memory. Decoded at first use, then shared by all threads.
    - `disk`: raw arrays under `folder`, named by the hash of the picture's bytes and of the decoder, and mapped into
      memory. An edited picture or a changed decoder gives another name, so nothing stale is ever served. When the
      folder would pass `disk_gb`, or less than `DISK_RESERVE_GB` would stay free, pictures that this store has not
      used leave, those used longest ago first; when there are none of these, writing stops and a finding says so. A
      frame of a video is named by the hash of the video, its number and the decoder.
    - `none`: the folder cannot be used; decoded at each use.

    A picture file that is changed while a store lives is noticed in `disk` and `none`, not in `ram`.

    Args:
        paths: the pictures (files, or `Frame`s), repeated ones count once.
        ram_gb: memory budget in 1e9 bytes of this process.
        folder: disk cache; made when needed.
        sizes: the same -> (H, W) where they are known already; saves opening every file.
        disk_gb: limit of the whole folder in 1e9 bytes.
        processes: how many processes of this machine keep pictures at the same time (they share its memory).
        read, size_of: decoder and header reader (tercel.data.images by default).
    """

    def __init__(
        self,
        paths: Iterable[Path | Frame],
        ram_gb: float,
        folder: Path,
        *,
        sizes: Mapping[Any, tuple[int, int]] | None = None,
        disk_gb: float = 50.0,
        processes: int = 1,
        read: Callable[[Path], Picture] | None = None,
        size_of: Callable[[Path], tuple[int, int]] | None = None,
    ) -> None:
        if read is None or size_of is None:
            from tercel.data import images

            read, size_of = read or images.read_image, size_of or images.picture_size
        self._read = read
        self._processes = processes
        self._folder = folder
        self._lock = threading.Lock()
        self._ledger = Ledger()
        self._ram: dict[Path | Frame, Picture] = {}
        self._busy: dict[Path | Frame, threading.Lock] = {}
        self._hashes: dict[Path, tuple[tuple[int, int], str]] = {}
        self._stamp = ""
        self._born = time.time_ns()
        self._stopped = False
        self._old: list[Path] = []  # files of earlier runs, the one used longest ago last
        self._held = 0  # bytes in the folder
        self._disk = 0.0
        self._videos = VideoPool()
        self._recent: OrderedDict[Frame, Picture] = OrderedDict()
        unique = list(dict.fromkeys(_plain(p) for p in paths))
        self._wanted: dict[Path, set[int]] = defaultdict(set)  # frames of each video
        for item in unique:
            if isinstance(item, Frame):
                self._wanted[item.path].add(item.index)
        known = {_plain(p): size for p, size in (sizes or {}).items()}
        self.total_bytes = sum(h * w * 3 for h, w in (known.get(p) or _size(p, size_of) for p in unique))
        self.mode: Literal["ram", "disk", "none"] = self._choose(len(unique), ram_gb * GB, disk_gb * GB)

    # -- the decision -------------------------------------------------------------------------------------------

    def _choose(self, count: int, ram: float, disk: float) -> Literal["ram", "disk", "none"]:
        need, free = self.total_bytes, available_memory() / self._processes
        numbers = f"{count} pictures need {need / GB:.2f} GB decoded; budget {ram / GB:.2f} GB"
        numbers += f", {free / GB:.1f} GB of memory available"
        if need <= ram and need <= RAM_SHARE * free:
            self._ledger.add("cache.mode", Severity.INFO, f"{numbers}: kept in RAM")
            return "ram"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._stamp = _decoder_stamp(self._read)
            self._old, self._held = _oldest_first(self._folder)
            self._disk = disk
            room = min(disk, shutil.disk_usage(self._folder).free + self._held - DISK_RESERVE_GB * GB)
        except OSError as e:
            message = f"{numbers}, and {self._folder} cannot be used ({e.strerror or e}): decoded anew at each use"
            self._ledger.add("cache.mode", Severity.WARNING, f"{message} (raise data.cache_gb or set data.cache_dir)")
            return "none"
        if need <= room:
            self._ledger.add("cache.mode", Severity.INFO, f"{numbers}: kept decoded in {self._folder}")
        else:
            message = f"{numbers}: {self._folder} has room for {max(0.0, room) / GB:.2f} GB, the rest is decoded anew"
            self._ledger.add("cache.mode", Severity.WARNING, f"{message} (raise data.cache_gb or set data.cache_dir)")
        return "disk"

    def findings(self) -> tuple[Finding, ...]:
        """What was decided and what went wrong since."""
        with self._lock:
            return self._ledger.findings()

    # -- pictures -----------------------------------------------------------------------------------------------

    def get(self, picture: Path | Frame) -> Picture:
        """The picture u8 [H,W,3], read-only.

        Raises:
            TercelError: unreadable or truncated (from the decoder).
        """
        path = _plain(picture)
        if isinstance(path, Frame) and not is_store(path.path):
            return self._from_video(path)
        if self.mode == "ram":
            return self._from_ram(path)
        if self.mode == "disk":
            return self._from_disk(path)
        return self._decode(path)

    def _decode(self, item: Path | Frame) -> Picture:
        """A picture file, or a picture within an HDF5 file."""
        return _frozen(read_stored(item) if isinstance(item, Frame) else self._read(item))

    def _from_ram(self, path: Path | Frame) -> Picture:
        picture = self._ram.get(path)
        if picture is not None:
            return picture
        with self._lock:
            busy = self._busy.setdefault(path, threading.Lock())
        with busy:  # two threads that want the same picture decode it once
            picture = self._ram.get(path)
            if picture is None:
                picture = self._decode(path)
                self._ram[path] = picture
        with self._lock:
            self._busy.pop(path, None)
        return picture

    def _from_disk(self, path: Path | Frame) -> Picture:
        file = self._folder / self._key(path)
        picture = _map(file)
        if picture is not None:
            return picture
        picture = self._decode(path)
        self._write(file, picture)
        return picture

    # -- frames of videos ---------------------------------------------------------------------------------------

    def _from_video(self, frame: Frame) -> Picture:
        picture = self._kept(frame)
        if picture is not None:
            return picture
        with self._videos.borrow(frame.path) as video:
            picture = self._kept(frame)  # another thread may have passed it
            if picture is not None:
                return picture
            for k, pixels in video.walk(frame.index, lambda k: self._lacks(Frame(frame.path, k))):
                picture = _frozen(pixels)
                self._keep(Frame(frame.path, k), picture)
            ahead = AHEAD if self.mode == "ram" or (self.mode == "disk" and not self._stopped) else RECENT_AHEAD
            end = min(video.stretch(frame.index).stop, frame.index + 1 + ahead)
            more = [k for k in range(frame.index + 1, end) if self._lacks(Frame(frame.path, k))]
            for k, pixels in video.walk(more[-1], set(more).__contains__) if more else ():
                self._keep(Frame(frame.path, k), _frozen(pixels))
        assert picture is not None
        return picture

    def _kept(self, frame: Frame) -> Picture | None:
        if self.mode == "ram":
            return self._ram.get(frame)
        if self.mode == "disk":
            picture = _map(self._folder / self._key(frame))
            if picture is not None:
                return picture
        with self._lock:
            return self._recent.get(frame)

    def _lacks(self, frame: Frame) -> bool:
        """True for a frame that will be asked for and is not there."""
        if frame.index not in self._wanted.get(frame.path, ()):
            return False
        if self.mode == "disk" and (self._folder / self._key(frame)).is_file():
            return False
        return frame not in self._ram and frame not in self._recent

    def _keep(self, frame: Frame, picture: Picture) -> None:
        if self.mode == "ram":
            self._ram[frame] = picture
        elif self.mode == "none" or not self._write(self._folder / self._key(frame), picture):
            with self._lock:
                self._recent[frame] = picture
                while len(self._recent) > 1 and sum(p.nbytes for p in self._recent.values()) > RECENT_BYTES:
                    self._recent.popitem(last=False)

    # -- the disk -----------------------------------------------------------------------------------------------

    def _write(self, file: Path, picture: Picture) -> bool:
        try:
            if self._make_room(picture.nbytes):
                _save(file, picture)
                return True
        except OSError as e:
            self._stop(f"{e.strerror or e}")
        return False

    def _make_room(self, size: int) -> bool:
        """True when `size` more bytes may be written; removes what other runs left and this one has not used."""
        with self._lock:
            if self._stopped:
                return False
            while self._held + size > self._disk or shutil.disk_usage(self._folder).free < size + DISK_RESERVE_GB * GB:
                if not self._old:
                    break
                removed = _remove_unused(self._old.pop(), self._born)
                if removed:
                    self._held -= removed
                    message = f"decoded pictures of other data sets left {self._folder} to make room"
                    self._ledger.add("cache.evicted", Severity.INFO, message)
            else:
                self._held += size
                return True
        self._stop(f"it holds {self._held / GB:.2f} of {self._disk / GB:.2f} GB, and {DISK_RESERVE_GB} GB stay free")
        return False

    def _stop(self, why: str) -> None:
        with self._lock:
            if not self._stopped:
                self._stopped = True
                message = f"no more decoded pictures are written to {self._folder}: {why}"
                self._ledger.add("cache.full", Severity.WARNING, message)

    def _key(self, item: Path | Frame) -> str:
        """File name for the picture's present bytes; hashed again when its size or time changes."""
        path = item.path if isinstance(item, Frame) else item
        try:
            stat = os.stat(path)
        except OSError:
            self._read(path)  # says what is wrong, with a remedy
            raise
        state = (stat.st_mtime_ns, stat.st_size)
        known = self._hashes.get(path)
        if known is None or known[0] != state:
            known = (state, content_hash(path))
            self._hashes[path] = known
        return (
            f"{known[1]}-{item.index}-{_video_stamp()}.npy"
            if isinstance(item, Frame)
            else f"{known[1]}-{self._stamp}.npy"
        )


def _plain(item: Path | Frame) -> Path | Frame:
    """A picture file by its path alone, so that a path and a Frame of it are the same picture."""
    return item.path if isinstance(item, Frame) and item.index < 0 else item


def _size(item: Path | Frame, size_of: Callable[[Path], tuple[int, int]]) -> tuple[int, int]:
    if isinstance(item, Frame) and is_store(item.path):
        return stored_size(item.path)
    if isinstance(item, Frame):
        from tercel.data.video_index import frame_index

        return frame_index(item.path).size
    return size_of(item)


def available_memory() -> float:
    """Bytes that this process may still take: what the machine has left, and what its control group allows."""
    free = float("inf")
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = float(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            free = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2
        except (OSError, ValueError):
            free = 4 * GB
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            group = Path("/sys/fs/cgroup")
            free = min(free, float((group / limit).read_text()) - float((group / used).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return max(free, 0.0)


def default_folder() -> Path:
    """<user cache>/tercel/pictures."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tercel" / "pictures"


def _frozen(picture: Picture) -> Picture:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a decoded picture is u8 [H,W,3], not {picture.dtype} {list(picture.shape)}")
    picture = np.ascontiguousarray(picture)
    picture.setflags(write=False)
    return picture


def _decoder_stamp(read: Callable[[Path], Picture]) -> str:
    """Short hash of whatever decides the decoded values: the reader's source and the libraries' versions."""
    import cv2
    import PIL

    try:
        source = Path(inspect.getfile(read)).read_bytes()
    except (TypeError, OSError):
        source = repr(read).encode()
    versions = f"{cv2.__version__} {PIL.__version__}".encode()
    return hashlib.blake2b(source + versions, digest_size=4).hexdigest()


@lru_cache(maxsize=1)
def _video_stamp() -> str:
    """Short hash of whatever decides the decoded values of video frames, and of pictures within HDF5 files."""
    import av

    from tercel.data import stored, video, video_index

    sources = b"".join(Path(inspect.getfile(m)).read_bytes() for m in (video, video_index, stored))
    versions = repr((av.__version__, sorted(av.library_versions.items()))).encode()
    return hashlib.blake2b(sources + versions, digest_size=4).hexdigest()


def _map(file: Path) -> Picture | None:
    """The cached picture, mapped read-only; None when it is not there or not whole."""
    try:
        picture = np.load(file, mmap_mode="r", allow_pickle=False)
        os.utime(file)  # eviction goes by the time of last use
    except (OSError, ValueError, EOFError):
        return None
    whole = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3
    return np.asarray(picture) if whole and picture.shape[2] == 3 else None


def _save(file: Path, picture: Picture) -> None:
    """Written beside, then renamed: a reader sees a whole file or none. Not synced, it can always be made again."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".", suffix=".part", delete=False) as f:
        try:
            np.save(f, picture, allow_pickle=False)
            f.flush()
            os.replace(f.name, file)
        except BaseException:
            Path(f.name).unlink(missing_ok=True)
            raise


def _oldest_first(folder: Path) -> tuple[list[Path], int]:
    """The folder's pictures, the one used longest ago last (so that `pop` gives it), and their bytes together."""
    files = []
    for entry in os.scandir(folder):
        if entry.is_file(follow_symlinks=False) and entry.name.endswith((".npy", ".part")):
            stat = entry.stat()
            files.append((stat.st_mtime_ns, stat.st_size, Path(entry.path)))
    return [path for _, _, path in sorted(files, reverse=True)], sum(size for _, size, _ in files)


def _remove_unused(file: Path, since: int) -> int:
    """Remove `file` unless somebody used it after `since` (ns); bytes that became free."""
    try:
        stat = os.stat(file)
        if stat.st_mtime_ns >= since:
            return 0
        file.unlink()
    except OSError:  # another process was quicker
        return 0
    return stat.st_size
