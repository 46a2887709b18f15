"""The scene of a generated rally: court, table and net with what stands around them, drawn once per rally.

The stage is the picture with a margin around it, so that the camera can pan: a pan moves the cut, and the truth.
Things in metres go through the camera; the drawing is made at twice the size and reduced, which smooths all edges.

Shape legend: H, W stage; h, w a window of it; 3 = RGB, colours in 0..255.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.data.rally.arena import ZOOM, Pen, boards, bystanders, spots, stands
from tercel.data.rally.physics import Camera, Floats, Sport
from tercel.data.rally.style import Colour, Style


@dataclass(frozen=True, eq=False)
class Layer:
    """Something in front of things that are farther away than `key` (y in m): alpha f32 [h,w,1], colour f32 [h,w,3]."""

    key: float
    rows: slice
    columns: slice
    alpha: NDArray[np.float32]
    colour: NDArray[np.float32]

    def blend(self, image: NDArray[np.uint8]) -> None:
        window = image[self.rows, self.columns]
        window[:] = (window + self.alpha * (self.colour - window) + np.float32(0.5)).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Stage:
    """The empty scene u8 [H,W,3] with its margin, layers before far things, and seats [K,2] px."""

    picture: NDArray[np.uint8]
    layers: tuple[Layer, ...]
    seats: Floats


def draw_stage(rng: np.random.Generator, style: Style, sport: Sport, camera: Camera, size: tuple[int, int]) -> Stage:
    """Draw the empty scene for a camera whose picture is the stage, `size` = (H, W) with the margin."""
    import cv2

    h, w = size
    big = np.empty((h * ZOOM, w * ZOOM, 3), np.uint8)
    big[:] = style.floor
    pen = Pen(big, camera)
    seats = stands(rng, style, sport, camera, big)
    boards(rng, style, sport, camera, big)
    _court(style, sport, pen)
    if style.distractors:
        bystanders(rng, style, sport, camera, big)
        spots(rng, style, sport, camera, big)
    small = cv2.resize(big, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32)
    if style.distractors:
        small = _light(rng, small)
    picture = np.clip(np.rint(_soften(small, style.softness)), 0, 255).astype(np.uint8)
    layers = [_net(style, sport, camera, size)]
    if sport.top:
        layers.append(_table(style, sport, camera, size, picture))
    return Stage(picture, tuple(layers), seats)


def _soften(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    import cv2

    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32) if sigma > 0 else image


def _light(rng: np.random.Generator, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Uneven light: brighter in the middle, with a cloudy texture on all surfaces."""
    import cv2

    h, w = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    fine = cv2.resize(rng.normal(0, 0.035, (h // 2, w // 2)).astype(np.float32), (w, h))
    coarse = cv2.resize(rng.normal(0, 0.07, (6, 9)).astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    gain = 1.05 - 0.16 * (x * x + y * y) + fine + coarse
    return np.asarray(image * gain[..., None], np.float32)


def _court(style: Style, sport: Sport, pen: Pen) -> None:
    x, y, z = sport.width / 2, sport.length / 2, sport.top
    if sport.top:  # a table: its legs and shade first
        dark = tuple(0.55 * c for c in style.floor)
        pen.fill([(-x, -y, 0), (x, -y, 0), (x, y, 0), (-x, y, 0)], (dark[0], dark[1], dark[2]))
        for leg in (-0.8 * x, 0.8 * x):
            pen.fill(
                [
                    (leg - 0.03, -y + 0.2, 0),
                    (leg + 0.03, -y + 0.2, 0),
                    (leg + 0.03, -y + 0.2, z),
                    (leg - 0.03, -y + 0.2, z),
                ],
                (30, 30, 32),
            )
        pen.fill([(-x, -y, z - 0.06), (x, -y, z - 0.06), (x, -y, z), (-x, -y, z)], (24, 26, 30))
    extra = 0.0 if sport.top else 0.12 * sport.width / 6
    pen.fill(
        [
            (-x - extra, -y - extra, z),
            (x + extra, -y - extra, z),
            (x + extra, y + extra, z),
            (-x - extra, y + extra, z),
        ],
        style.court,
    )
    for a, b, width in _lines(sport):
        pen.strip(a, b, z, width, style.line)


def _lines(sport: Sport) -> list[tuple[tuple[float, float], tuple[float, float], float]]:
    """The lines on the surface: from, to (x, y), width, in m."""
    x, y = sport.width / 2, sport.length / 2
    if sport.top:
        edge = [((-x, s * y), (x, s * y), 0.02) for s in (-1, 1)] + [((s * x, -y), (s * x, y), 0.02) for s in (-1, 1)]
        return [*edge, ((0, -y), (0, y), 0.006)]
    inner, across = (2.59, (6.7, 5.94, 1.98)) if sport.name == "badminton" else (4.115, (y, 6.4))
    width = 0.04 if sport.name == "badminton" else 0.06
    lines = [((s * a, -y), (s * a, y), width) for s in (-1, 1) for a in (x, inner)]
    for a in across:
        half = x if sport.name == "badminton" or a == y else inner
        lines += [((-half, s * a), (half, s * a), width) for s in (-1, 1)]
    middle = (1.98, y) if sport.name == "badminton" else (0.0, 6.4)
    return [*lines, *(((0.0, s * middle[0]), (0.0, s * middle[1]), width) for s in (-1, 1))]


def _net(style: Style, sport: Sport, camera: Camera, size: tuple[int, int]) -> Layer:
    """The net as one sees through it: mesh of alpha .3, tape and posts of alpha .95."""
    half, low, high = sport.net_width / 2, sport.top + sport.net_foot, sport.top + sport.net
    tape = {"badminton": 0.075, "table_tennis": 0.015, "tennis": 0.06}[sport.name]
    dark: Colour = (20, 22, 26)

    def draw(pen: Pen, what: int) -> None:
        def tone(colour: Colour, alpha: float) -> Colour | float:
            return colour if what == 0 else 255 * alpha

        pen.fill([(-half, 0, low), (half, 0, low), (half, 0, high), (-half, 0, high)], tone(dark, 0.3))
        pen.fill(
            [(-half, 0, high - tape), (half, 0, high - tape), (half, 0, high), (-half, 0, high)], tone(style.line, 0.95)
        )
        for s in (-half, half):
            pen.fill(
                [
                    (s - 0.02, 0, 0 if not sport.top else low),
                    (s + 0.02, 0, 0 if not sport.top else low),
                    (s + 0.02, 0, high),
                    (s - 0.02, 0, high),
                ],
                tone(dark, 0.95),
            )

    return _layer(draw, camera, size, 0.0, style.softness)


def _table(style: Style, sport: Sport, camera: Camera, size: tuple[int, int], picture: NDArray[np.uint8]) -> Layer:
    """The table top hides the legs of the far player and balls below it; its pixels are those of the picture."""
    x, y, z = sport.width / 2, sport.length / 2, sport.top

    def draw(pen: Pen, what: int) -> None:
        pen.fill(
            [(-x, -y, z - 0.06), (x, -y, z - 0.06), (x, -y, z), (x, y, z), (-x, y, z), (-x, -y, z)],
            255.0 if what else (255.0,) * 3,
        )

    bare = _layer(draw, camera, size, y, style.softness)
    return replace(bare, colour=picture[bare.rows, bare.columns].astype(np.float32))


def _layer(draw: Any, camera: Camera, size: tuple[int, int], key: float, softness: float) -> Layer:
    """Reduce what `draw(pen, 0)` (colours) and `draw(pen, 1)` (alpha in 0..255) draw to the window that it fills."""
    import cv2

    h, w = size
    colour, alpha = np.zeros((h * ZOOM, w * ZOOM, 3), np.uint8), np.zeros((h * ZOOM, w * ZOOM), np.uint8)
    draw(Pen(colour, camera), 0)
    draw(Pen(alpha, camera), 1)
    share: NDArray[np.float32] = alpha.astype(np.float32) / np.float32(255)
    # Colours are averaged with their alpha, or the black around them would bleed in.
    weighted = _soften(cv2.resize(colour * share[..., None], (w, h), interpolation=cv2.INTER_AREA), softness)
    share = _soften(cv2.resize(share, (w, h), interpolation=cv2.INTER_AREA), softness)
    y, x = np.nonzero(share > 0.004)
    rows, columns = (slice(int(v.min()), int(v.max()) + 1) if len(v) else slice(0, 0) for v in (y, x))
    cut, weighted = share[rows, columns, None], weighted[rows, columns]
    return Layer(key, rows, columns, cut, np.asarray(weighted / np.maximum(cut, np.float32(1e-3)), np.float32))
