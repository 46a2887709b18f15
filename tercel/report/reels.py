"""The pixels of a ball run's report: film strips of its worst mistakes, and heat maps over a frame.

Shape legend: H, W frame in px; N frames of a strip; 2 = (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Record
from tercel.report.ball_judge import Rally
from tercel.report.draw import TRUTH, class_color, crop
from tercel.report.overlay import FILLED, FOUND, ring, stroke, tag
from tercel.report.strokes import Color, Picture

FRAMES = 9  # of a strip, the mistake in its middle
TILE = 168  # px, side of one frame of a strip
LEAST = 56.0  # px of the original that a tile shows at least
MAP_WIDTH = 640  # px of a heat map
OFF: Color = class_color(5)
BAR: Color = (214, 28, 58)  # apart from the orange of predictions


@dataclass(frozen=True, eq=False)
class Reel:
    """One strip.

    Attributes:
        picture: u8 RGB [TILE, n * TILE, 3], n frames side by side.
        n, at: how many frames, and which of them is the mistake (from 0).
    """

    picture: Picture
    n: int
    at: int


class Pixels:
    """Reads frames of rallies; what cannot be had any more is counted in `findings` and shown as nothing."""

    def __init__(self) -> None:
        self._ledger = Ledger()

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self._ledger.findings()

    def read(self, record: Record, start: int, stop: int) -> list[Picture] | None:
        """Frames start..stop-1 of a rally (counted from its own first one), or None (with a finding)."""
        try:
            pictures = _read(record, start, stop)
        except TercelError as e:
            message = "frames cannot be read any more, so they are not shown"
            self._ledger.add("report.picture", Severity.WARNING, message, e.message)
            return None
        wrong = [p.shape[:2] for p in pictures if p.shape[:2] != record.size]
        if wrong or len(pictures) < stop - start:
            there = f"{wrong[0][0]}x{wrong[0][1]}" if wrong else f"{len(pictures)} of {stop - start} frames"
            message = "frames have another size or number than when they were judged, so they are not shown"
            self._ledger.add("report.picture_size", Severity.WARNING, message, f"{record.frames[start]}: {there}")
            return None
        return pictures


def _read(record: Record, start: int, stop: int) -> list[Picture]:
    from tercel.data.images import read_image

    frames = record.frames[start:stop]
    if any(f.index < 0 for f in frames):
        return [read_image(f.path) for f in frames]
    from tercel.data.video import Video

    return list(Video(frames[0].path).frames(frames[0].index, frames[-1].index + 1))


# -- strips -------------------------------------------------------------------------------------------------------


def reel(rally: Rally, row: int, pixels: Pixels) -> Reel | None:
    """The strip around one row of a rally, or None when its frames cannot be read.

    The crop stands still, so that the ball is what moves. White: truth; orange: found; blue: filled in by the motion
    model; a red bar under every frame that is wrong.
    """
    n = min(FRAMES, len(rally.frame))
    start = int(np.clip(row - n // 2, 0, len(rally.frame) - n))
    rows = range(start, start + n)
    pictures = pixels.read(rally.record, start, start + n)  # a rally's rows are its frames
    if pictures is None:
        return None
    window = _window(rally, row, rows)
    tiles = [_tile(rally, r, picture, window) for r, picture in zip(rows, pictures, strict=True)]
    return Reel(np.concatenate(tiles, axis=1), n, row - rows[0])


def _window(rally: Rally, row: int, rows: range) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) of the crop: around the mistake, wide enough for both points and most of the path."""
    h, w = rally.size
    both = np.stack([rally.truth[row], rally.pred[row]])
    both = both[np.isfinite(both).all(axis=1)]
    near = np.concatenate([rally.truth[rows[0] : rows[-1] + 1], both])
    near = near[np.isfinite(near).all(axis=1)]
    centre = both.mean(axis=0) if len(both) else near.mean(axis=0) if len(near) else np.array([w / 2, h / 2])
    needed = 2.6 * float(np.abs(both - centre).max(initial=0.0))
    path = 2.2 * float(np.quantile(np.abs(near - centre), 0.75)) if len(near) else 0.0
    side = max(LEAST, h / 6, needed, min(path, h / 2))
    corner = centre - side / 2
    for axis, length in ((0, w), (1, h)):  # as little as possible beyond the border
        if side <= length:
            corner[axis] = np.clip(corner[axis], 0, length - side)
    x, y = float(corner[0]), float(corner[1])
    return x, y, x + side, y + side


def _tile(rally: Rally, row: int, picture: Picture, window: tuple[float, float, float, float]) -> Picture:
    view, _ = crop(picture, [Objects.empty(rally.size)], window, (TILE, TILE))
    zoom, corner = TILE / (window[2] - window[0]), np.array(window[:2])
    truth, pred = ((xy[row] - corner) * zoom for xy in (rally.truth, rally.pred))
    if np.isfinite(truth).all():
        ring(view, truth, 13, TRUTH, 2)
    if np.isfinite(pred).all():
        ring(view, pred, 8, FILLED if rally.filled[row] else FOUND, 2)
    tag(view, str(int(rally.frame[row])), (2, 2), 13)
    if rally.wrong[row]:
        stroke(view, np.array([[4.0, TILE - 4.0], [TILE - 4.0, TILE - 4.0]]), BAR, 4)
    view[:, -1] = 0  # a seam between the frames
    return view


# -- maps ---------------------------------------------------------------------------------------------------------


def heat_map(
    xy: NDArray[np.float64], ground: Picture | None, size: tuple[int, int], color: Color, *, dots: bool = False
) -> Picture:
    """How often something lay where in the picture, over a darkened frame.

    Args:
        xy: f64 [N,2] in 0..1 of the frame's width and height.
        ground: a frame to lie below, or None.
        size: (H, W) of the frames, for the shape of the map.
        dots: also a dot for each of the first 500 points: few would not show as heat.

    Returns:
        u8 RGB [*,MAP_WIDTH,3].
    """
    import cv2

    width, height = MAP_WIDTH, max(1, round(MAP_WIDTH * size[0] / size[1]))
    if ground is None:
        canvas: NDArray[np.float32] = np.full((height, width, 3), 40, np.float32)
    else:
        small = cv2.resize(ground, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        canvas = np.repeat(small.mean(axis=2, keepdims=True), 3, axis=2) * np.float32(0.5)
    columns = 48
    cells = max(1, round(columns * size[0] / size[1])), columns
    counts, _, _ = np.histogram2d(xy[:, 1], xy[:, 0], bins=cells, range=((0, 1), (0, 1)))
    smooth = cv2.GaussianBlur(counts, (0, 0), 0.8)
    if smooth.max() > 0:
        share = cv2.resize(smooth / smooth.max(), (width, height), interpolation=cv2.INTER_LINEAR)
        cover = 0.85 * np.sqrt(np.clip(share, 0, 1))[..., None]  # the root: places visited seldom stay visible
        canvas += (np.array(color, np.float32) - canvas) * cover.astype(np.float32)
    out = np.rint(canvas).astype(np.uint8)
    for p in _some(xy, 500) if dots else ():
        ring(out, p * [width, height], 2.5, color, 1, solid=True)
    return out


def _some(xy: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    return xy if len(xy) <= n else xy[np.linspace(0, len(xy) - 1, n).astype(int)]
