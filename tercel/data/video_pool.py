"""Open videos, shared by threads: one reader position per video under a lock, and not too many decoders at a time."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tercel.data.video import Video

OPEN = 8  # decoders kept open; each holds some frames and threads


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    video: Video | None = None
    state: tuple[int, int] = (0, 0)


class VideoPool:
    """Videos by path, opened at first use; those used longest ago give up their decoders."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[Path, _Entry] = OrderedDict()

    @contextmanager
    def borrow(self, path: Path) -> Iterator[Video]:
        """The video, for this thread alone; opened anew when the file has changed.

        Raises:
            TercelError: as `Video`.
        """
        with self._lock:
            entry = self._entries.setdefault(path, _Entry())
            self._entries.move_to_end(path)
            old = list(self._entries.values())[:-OPEN]
        for other in old:
            if other.video is not None and other.lock.acquire(blocking=False):  # one in use stays open
                other.video.close()
                other.lock.release()
        with entry.lock:
            state = _state(path)
            if entry.video is None or entry.state != state:
                if entry.video is not None:
                    entry.video.close()
                entry.video, entry.state = Video(path), state
            yield entry.video


def _state(path: Path) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0  # Video says what is wrong
    return stat.st_mtime_ns, stat.st_size
