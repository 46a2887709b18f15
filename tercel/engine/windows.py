"""Frames in, windows out; what overlapping windows say about a frame, put together. The same for live and for files.

Shape legend: T frames of a window; A answered frames of a window; E events; H, W network canvas; `cells` whatever a
head has behind its three map channels.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tercel.config import Clip
from tercel.core.finding import TercelError
from tercel.data.clips import span

Pixels = NDArray[np.uint8]
_NEVER = 1 << 62


# -- which frames make a window ---------------------------------------------------------------------------------


def window_hop(clip: Clip, hop: int) -> int:
    """Frames from one window's start to the next (with a stride: of every stride-th frame); 0 = no overlap.

    Raises:
        TercelError: a hop that would leave frames without an answer, or one above 1 together with a stride.
    """
    most = len(clip.answered)
    if hop > most:
        raise TercelError(
            f"evaluate.ball.hop={hop} leaves frames out: a window answers for {most}",
            f"set evaluate.ball.hop to 0 (no overlap) or 1..{most}",
        )
    if hop > 1 and clip.stride > 1:
        raise TercelError(
            f"evaluate.ball.hop={hop} with model.clip.stride={clip.stride}: it is not clear which frames to leave out",
            "set evaluate.ball.hop to 0 (no overlap) or 1 (every window)",
        )
    return hop or most


class Window(NamedTuple):
    """What the network sees at once.

    Attributes:
        pictures: T canvases u8 [H,W,3].
        numbers: i64 [A] numbers of the frames it answers for; -1 where there is none (the last frame repeated).
        later: no window after this one answers for frames before this number, unless it was shifted back.
    """

    pictures: tuple[Pixels, ...]
    numbers: NDArray[np.int64]
    later: int


class Windows:
    """Frames in, one by one; windows out, in the order of their starts, as soon as their last frame is there.

    The windows are those of `covering_windows` (tercel/data/clips.py): the nearest frame stands for those beyond the
    ends, and a last window that would reach beyond the end is shifted back until it fits. With `clip.stride` s > 1
    frames s apart make a window, so that windows for s interleaved sets of frames take turns.

    Args:
        first: number of the first frame.

    Raises:
        TercelError: see `window_hop`.
    """

    def __init__(self, clip: Clip, hop: int = 0, first: int = 0) -> None:
        self.clip, self.hop, self.first = clip, window_hop(clip, hop), first
        self.count = 0
        self._answers = np.array(clip.answered) * clip.stride
        self._frames: deque[Pixels] = deque(maxlen=span(clip) + clip.stride - 1)
        # For each of the interleaved sets: the start of its next window, and the next frame to be answered.
        self._starts = [r - int(self._answers[0]) for r in range(clip.stride)]
        self._next = list(range(clip.stride))

    def push(self, picture: Pixels) -> list[Window]:
        """The next frame, u8 [H,W,3]; at most one window is complete with it."""
        which = self.count % self.clip.stride
        self._frames.append(picture)
        self.count += 1
        start = self._starts[which]
        return [self._cut(which, start)] if start + span(self.clip) == self.count else []

    def finish(self) -> list[Window]:
        """The clip has ended: the windows that its last frames still need."""
        out = []
        stride = self.clip.stride
        while min(self._next) < self.count:
            which = self._next.index(min(self._next))
            start = self._starts[which]
            beyond = start + span(self.clip) - self.count
            if len(self._answers) > 1 and beyond > 0:
                start = max(which, start - -(-beyond // stride) * stride)
            out.append(self._cut(which, start))
        return out

    def _cut(self, which: int, start: int) -> Window:
        places = start + np.arange(self.clip.frames) * self.clip.stride
        kept = self.count - len(self._frames)  # the oldest frame that is still here
        pictures = tuple(self._frames[i] for i in (np.clip(places, 0, self.count - 1) - kept).tolist())
        frames = start + self._answers
        self._next[which] = int(frames[-1]) + self.clip.stride
        self._starts[which] += self.hop * self.clip.stride
        later = self.first + min(start + int(self._answers[0]) for start in self._starts)
        return Window(pictures, np.where(frames < self.count, self.first + frames, -1), later)


# -- what windows say about a frame, put together -----------------------------------------------------------------


class Answer(NamedTuple):
    """What is known of one frame: maps f32 [3,cells] as in `head.maps`, events f32 [E] or None."""

    frame: int
    maps: Tensor
    events: Tensor | None


class Ensemble:
    """The mean over all windows that answer for a frame.

    A last window that was shifted back, that is one that starts less than a hop after the one before, counts only for
    frames without an answer: so no frame has to wait for the end of the clip to be known.

    Args:
        clip: the network's clip.
        hop: as in `Windows`.
    """

    def __init__(self, clip: Clip, hop: int = 0) -> None:
        self._stride, self._hop = clip.stride, window_hop(clip, hop)
        self._sums: dict[int, tuple[Tensor, Tensor | None, int]] = {}
        self._before: dict[int, tuple[int, int]] = {}  # strand -> first frame of its last window, last frame answered
        self._gone = -_NEVER  # frames before this one have been let go

    def add(
        self, numbers: NDArray[np.int64], maps: Tensor, events: Tensor | None, later: int | None = None
    ) -> list[Answer]:
        """One window more; returns the frames, in order, that no later window can change.

        Args:
            numbers: i64 [A] frame numbers, rising; -1 = no frame.
            maps: f32 [A,3,cells].
            events: f32 [A,E] or None.
            later: frames before this number are complete; None = nothing is, before `finish`.

        Raises:
            ValueError: windows that do not come in the order of their starts, an answer for a frame that was let go.
        """
        strand = int(numbers[0]) % self._stride
        before, known = self._before.get(strand, (-_NEVER, -_NEVER))
        if numbers[0] <= before:
            raise ValueError(f"windows come in the order of their starts; after frame {before} comes {numbers[0]}")
        shifted = numbers[0] - before < self._hop * self._stride
        for i, number in enumerate(numbers.tolist()):
            if number < 0 or (shifted and number <= known):
                continue
            if number < self._gone:
                raise ValueError(f"frame {number} was let go and is answered again")
            old = self._sums.get(number)
            if old is None:
                self._sums[number] = maps[i], None if events is None else events[i], 1
            else:
                both = None if events is None or old[1] is None else old[1] + events[i]
                self._sums[number] = old[0] + maps[i], both, old[2] + 1
        self._before[strand] = int(numbers[0]), max(int(numbers.max()), known)
        return [] if later is None else self._release(later)

    def finish(self) -> list[Answer]:
        """All that is left, in order."""
        return self._release(_NEVER)

    def _release(self, later: int) -> list[Answer]:
        out = []
        for number in sorted(n for n in self._sums if n < later):
            maps, events, count = self._sums.pop(number)
            if count > 1:
                maps, events = maps / count, None if events is None else events / count
            out.append(Answer(number, maps, events))
        self._gone = max(self._gone, later)
        return out
