"""The ball drawn into its video: a ring, a fading trail, events as they happen, frame number and score.

Orange: found by the network. Blue and hollow: filled in by the motion model, with a wide circle of one standard
deviation. White: truth. Everything scales with the frame, so that 512x288 and 1920x1080 are both legible.

Shape legend: H, W frame in px; P points of a path; 2 = (x, y).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercel.core.finding import TercelError
from tercel.core.record import Event
from tercel.core.track import Track
from tercel.report.draw import TRUTH, _fit, _font, _ink_on, class_color, line_width
from tercel.report.strokes import SHIFT, Color, Picture, fixed

Progress = Callable[[int, int], None]  # (done, total) frames; total 0 = not known

FOUND, FILLED = class_color(0), class_color(1)
DARK: Color = (18, 20, 24)
EVENT_FRAMES = 10  # an event's name fades over so many frames
NEAR = 3  # frames from an event to the ball that stands for its place


def write_overlay(
    video: Path | str | Iterable[Picture],
    track: Track,
    out: Path,
    *,
    events: Sequence[Event] = (),
    truth: Track | None = None,
    trail: int = 12,
    first: int = 0,
    fps: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the video with the ball drawn into it, as H.264 that browsers play; one frame in memory at a time.

    Sound is dropped. An odd width or height grows by one repeated pixel, because the 4:2:0 colours that browsers need
    want even ones. Frames that the track does not cover get their number and nothing else.

    Args:
        video: a video file, or the frames themselves: RGB u8 [H,W,3] each, of one size.
        track: frame numbers are those of the video.
        out: an .mp4 that does not exist yet.
        events: drawn at the ball; their `frame` is a frame number of the video.
        truth: drawn in white beside the track, with the distance between the two.
        trail: frames that the trail reaches back; 0 = none.
        first: number of the first frame, where frames are given.
        fps: frames per second where frames are given (default 25); a video file brings its own.
        progress: called with (done, total) frames.

    Raises:
        TercelError: `out` exists, the video cannot be read, or its frames have another size than the track.
    """
    from tercel.data.video import Video, write_video

    if out.exists():
        raise TercelError(f"{out} exists and will not be overwritten", "choose another name")
    pen = Overlay(track, tuple(events), truth, trail)
    rate, total = math.nan if fps is None else fps, 0
    if isinstance(video, str | Path):
        source = Video(video)
        video, rate, first, total = source.frames(), source.fps, 0, len(source)
    elif isinstance(video, Sequence):
        total = len(video)
    # A single frame has no rate: NaN.
    write_video(out, pen.frames(video, first=first, total=total, progress=progress), rate if rate > 0 else 25.0)


@dataclass(frozen=True, eq=False)
class Overlay:
    """Draws single frames; see `write_overlay`."""

    track: Track
    events: tuple[Event, ...] = ()
    truth: Track | None = None
    trail: int = 12

    def frames(
        self, frames: Iterable[Picture], *, first: int = 0, total: int = 0, progress: Progress | None = None
    ) -> Iterator[Picture]:
        """Drawn copies of consecutive frames, the first of which has number `first`."""
        for done, frame in enumerate(frames, 1):
            yield self.draw(frame, first + done - 1)
            if progress:
                progress(done, total)

    def draw(self, frame: Picture, number: int) -> Picture:
        """A drawn copy of one frame, u8 [H,W,3].

        Raises:
            TercelError: the frame has another size than the track.
        """
        canvas = np.array(frame)
        if canvas.shape[:2] != self.track.size:
            there, here = "x".join(map(str, canvas.shape[:2])), "x".join(map(str, self.track.size))
            message = f"frame {number} of the video is {there} (height x width), the track lies on {here}"
            raise TercelError(message, "use the video that the track was made from")
        if self.trail > 0:
            self._trail(canvas, number)
        truth = self._row(self.truth, number)
        if self.truth is not None and truth is not None and self.truth.present[truth]:
            ring(canvas, self.truth.xy[truth], 1.6 * self._radius, TRUTH, max(1, self._width // 2))
        row = self._row(self.track, number)
        if row is not None and self.track.present[row]:
            self._ball(canvas, row)
        self._events(canvas, number)
        tag(canvas, self._words(number, row, truth), (self._text * 0.6, self._text * 0.6), self._text)
        return canvas

    # -- scale ----------------------------------------------------------------------------------------------------

    @cached_property
    def _width(self) -> int:
        return line_width(None, self.track.size)

    @property
    def _radius(self) -> float:
        return 3.0 * self._width + 2  # the ball's own pixels stay in view

    @cached_property
    def _text(self) -> int:
        return max(11, round(math.sqrt(math.prod(self.track.size)) / 48))

    # -- parts ----------------------------------------------------------------------------------------------------

    def _is_filled(self, row: int) -> bool:
        return self.track.filled is not None and bool(self.track.filled[row])

    def _trail(self, canvas: Picture, number: int) -> None:
        t, w = self.track, self._width
        start, stop = np.searchsorted(t.frame, [number - self.trail, number + 1])
        rows = [int(r) for r in range(start, stop) if t.present[r]]
        for a, b in itertools.pairwise(rows):
            if t.frame[b] - t.frame[a] > 1 or b - a > 1:
                continue  # frames without a ball lie between: nothing says where it went
            fade = 1 - (number - t.frame[b]) / self.trail
            color = FILLED if self._is_filled(b) else FOUND
            path = t.xy[[a, b]].copy()
            if t.frame[b] == number:  # up to the ring: the ball itself stays in view
                length = float(np.hypot(*(path[1] - path[0])))
                if length <= self._radius:
                    continue
                path[1] += (path[0] - path[1]) * (self._radius / length)
            stroke(canvas, path, color, max(1, round(w * (0.4 + 0.6 * fade))), alpha=0.85 * fade)
        for r in rows:
            fade = 1 - (number - t.frame[r]) / self.trail
            if t.frame[r] == number or fade <= 0:
                continue
            if self._is_filled(r):
                ring(canvas, t.xy[r], 1.3 * w, FILLED, max(1, w // 2), alpha=fade)
            else:
                ring(canvas, t.xy[r], 0.9 * w, FOUND, 1, alpha=fade, solid=True)

    def _ball(self, canvas: Picture, row: int) -> None:
        xy, filled = self.track.xy[row], self._is_filled(row)
        sigma = self.track.sigma[row] if self.track.sigma is not None else math.nan
        if filled and self._radius < sigma < min(self.track.size) / 2:
            ring(canvas, xy, float(sigma), FILLED, max(1, self._width // 3), alpha=0.7)
        color, width = (FILLED, max(1, self._width // 2)) if filled else (FOUND, max(1, round(self._width * 0.7)))
        ring(canvas, xy, self._radius, color, width)

    def _events(self, canvas: Picture, number: int) -> None:
        names = sorted({e.name for e in self.events})
        shown = [e for e in self.events if 0 <= number - e.frame < EVENT_FRAMES]
        for line, e in enumerate(shown):
            age = number - e.frame
            alpha, color = min(1.0, 1.4 * (1 - age / EVENT_FRAMES)), class_color(names.index(e.name) + 2)
            xy = self._place(e.frame)
            at = np.array([0.6, 2.4 + 1.8 * line]) * self._text  # under the frame number where no ball is known
            if xy is not None:
                ring(canvas, xy, self._radius * (1.5 + 0.15 * age), color, max(1, self._width // 2), alpha=alpha)
                at = xy + np.array([1.8 * self._radius, 1.1 * self._radius + 1.8 * self._text * line])
            tag(canvas, e.name, (float(at[0]), float(at[1])), self._text, color=color, alpha=alpha)

    def _place(self, number: int) -> NDArray[np.float64] | None:
        """Where the ball was at an event, or within a few frames of it."""
        for t in (self.track, self.truth):
            if t is None or not t.present.any():
                continue
            rows = np.flatnonzero(t.present)
            nearest = int(rows[np.abs(t.frame[rows] - number).argmin()])
            if abs(int(t.frame[nearest]) - number) <= NEAR:
                return np.array(t.xy[nearest])
        return None

    def _words(self, number: int, row: int | None, truth: int | None) -> str:
        words = [f"frame {number}"]
        if row is not None and not self.track.present[row]:
            words.append("no ball")
        elif row is not None and self._is_filled(row):
            sigma = math.nan if self.track.sigma is None else float(self.track.sigma[row])
            words.append("filled in" + ("" if math.isnan(sigma) else f" ± {sigma:.1f} px"))
        elif row is not None and self.track.score is not None:
            words.append(f"score {self.track.score[row]:.2f}")
        if row is not None and truth is not None and self.truth is not None:
            there, here = bool(self.truth.present[truth]), bool(self.track.present[row])
            if there and here:
                words.append(f"{np.hypot(*(self.truth.xy[truth] - self.track.xy[row])):.1f} px off")
            elif there or here:
                words.append("missed" if there else "ghost")
        return " · ".join(words)

    @staticmethod
    def _row(track: Track | None, number: int) -> int | None:
        """The row of a frame number, or None."""
        if track is None:
            return None
        i = int(np.searchsorted(track.frame, number))
        return i if i < len(track) and track.frame[i] == number else None


# -- ink ----------------------------------------------------------------------------------------------------------


def ring(
    canvas: Picture, xy: ArrayLike, radius: float, color: Color, width: int, *, alpha: float = 1.0, solid: bool = False
) -> None:
    """A circle (or a disc) around a place in our coordinates, in place; `alpha` 0..1 is how much covers the frame."""
    stroke(canvas, np.asarray(xy, np.float64)[None], color, width, radius=radius, alpha=alpha, solid=solid)


def stroke(
    canvas: Picture,
    path: NDArray[np.float64],
    color: Color,
    width: int,
    *,
    radius: float = 0.0,
    alpha: float = 1.0,
    solid: bool = False,
) -> None:
    """A line along `path` f64 [P,2] over a dark rim, in place; with a radius a circle around its only point."""
    h, w = canvas.shape[:2]
    limit = 4.0 * max(h, w) + 1000  # OpenCV counts in 32 bits
    path = np.clip(path, -limit, limit)
    margin = radius + width + 3
    x1, y1 = np.clip(np.floor(path.min(axis=0) - margin), 0, [w, h]).astype(int)
    x2, y2 = np.clip(np.ceil(path.max(axis=0) + margin), 0, [w, h]).astype(int)
    if x1 >= x2 or y1 >= y2:
        return
    patch = canvas[y1:y2, x1:x2]
    path = path - [x1, y1]
    mixed = patch.astype(np.float32)
    for ink, wider, strength in ((DARK, 2, 0.5 * alpha), (color, 0, alpha)):
        cover = _cover((y2 - y1, x2 - x1), path, radius, width, wider, solid)
        mixed += (np.array(ink, np.float32) - mixed) * (cover[..., None] * np.float32(strength / 255))
    patch[:] = np.rint(mixed)


def _cover(
    size: tuple[int, int], path: NDArray[np.float64], radius: float, width: int, wider: int, solid: bool
) -> NDArray[np.uint8]:
    """u8 [H,W], 255 where the ink is."""
    import cv2

    mask = np.zeros(size, np.uint8)
    if radius:
        reach = round((radius + (wider / 2 if solid else 0)) * 2**SHIFT)
        thickness = cv2.FILLED if solid else width + wider
        cv2.circle(mask, tuple(fixed(path[0]).tolist()), reach, 255, thickness, cv2.LINE_AA, SHIFT)
    else:
        cv2.polylines(mask, [fixed(path)], False, 255, width + wider, cv2.LINE_AA, SHIFT)
    return mask


def tag(
    canvas: Picture,
    text: str,
    at: tuple[float, float],
    size: int,
    *,
    color: Color = DARK,
    alpha: float = 1.0,
) -> None:
    """A line of text `size` px high on a filled ground whose upper left corner is `at`, moved into the frame."""
    from PIL import Image, ImageDraw

    h, w = canvas.shape[:2]
    font, pad = _font(size), round(size * 0.35)
    text = _fit(text, font, w - 2 * pad - 2)
    tw, th = math.ceil(font.getlength(text)) + 2 * pad, round(size * 1.5)
    if not text or th > h or tw > w:
        return
    x, y = round(min(max(at[0], 0), w - tw)), round(min(max(at[1], 0), h - th))
    patch = canvas[y : y + th, x : x + tw]
    page = Image.new("RGB", (tw, th), color)
    ImageDraw.Draw(page).text((pad, th / 2), text, font=font, fill=_ink_on(color), anchor="lm")
    patch[:] = np.rint(patch + (np.asarray(page, np.float32) - patch) * (0.85 * alpha))
