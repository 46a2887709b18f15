"""Drawn turtles: cut-outs seen from above with six named points, the grounds they lie on, and what covers them.

A sprite looks along the x axis of its own canvas, so that its left flippers are above (y points down). It has one eye,
on the axis of its body: a mirror image is another turtle, with the names of its flippers exchanged. Everything varies
from sprite to sprite: proportions, the angles of the flippers, colours, and the pattern of the shell.

Shape legend: H, W; P polygon corners; 2 = (x, y) px; 4 = premultiplied red, green, blue and alpha, 0..255.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.core.schema import Schema
from tercel.data.synth import Floats, Shape, background, blend, clouds, palette

SIDE = 256  # of a sprite's canvas in px
MARGIN = 8  # transparent px around the turtle, so that nothing of it is cut when it is resampled
SCHEMA = Schema(
    ("turtle",),
    ("eye", "shell", "front_left", "front_right", "back_left", "back_right"),
    (("front_left", "front_right"), ("back_left", "back_right")),
    (("eye", "shell"), *(("shell", f"{end}_{side}") for end in ("front", "back") for side in ("left", "right"))),
    (0.05,) * 6,
)


@dataclass(frozen=True, eq=False)
class Sprite:
    """A cut-out of a turtle.

    Attributes:
        rgba: u8 [SIDE,SIDE,4], colours multiplied by alpha.
        points: f64 [6,2] on the canvas, in the order of the schema.
        parts: u8 [SIDE,SIDE,6], how much of each pixel (0..255) shows the eye, the shell, and each flipper.
    """

    rgba: NDArray[np.uint8]
    points: Floats
    parts: NDArray[np.uint8]


# -- the turtle -------------------------------------------------------------------------------------------------


def draw_sprite(rng: np.random.Generator) -> Sprite:
    """One turtle, from tail and flippers up to the eye; in body coordinates half the shell's length is 1."""
    width = rng.uniform(0.7, 0.95)  # half the shell's width
    skin, head = palette(rng, (0.35, 0.9), (0.25, 0.8)), rng.uniform(0.2, 0.27)
    nose = 1 + head * rng.uniform(0.9, 1.4)  # the head's centre on the axis
    eye = np.array([nose + 0.25 * head, 0.0])
    flippers, points = _flippers(rng, width)
    tail = np.array([[-0.9, -0.12], [-1.0 - rng.uniform(0.15, 0.4), 0.0], [-0.9, 0.12]])
    neck = np.array([[0.7, -0.7 * head], [nose, -0.75 * head], [nose, 0.75 * head], [0.7, 0.7 * head]])
    skull = _egg(np.array([nose, 0.0]), head * 1.25, head)
    body = _egg(np.zeros(2), 1.0, width, rng.uniform(-0.15, 0.15))

    everything = np.concatenate([tail, skull, body, *flippers])
    low, high = everything.min(0), everything.max(0)
    zoom = float((SIDE - 2 * MARGIN) / (high - low).max())
    middle = (low + high) / 2

    def to_canvas(p: Floats) -> Floats:
        return np.asarray((p - middle) * zoom + SIDE / 2)

    outlines = [to_canvas(p) for p in (tail, *flippers, neck, skull, body, _egg(eye, 0.42 * head, 0.42 * head))]
    image = np.zeros((SIDE, SIDE, 4), np.float32)
    for outline in outlines[:-2]:
        _limb(rng, image, outline, skin)
    _shell(rng, image, outlines[-2], to_canvas(np.zeros(2)), zoom, width)
    blend(image, outlines[-1], _opaque(np.full(3, 245.0)))
    blend(image, to_canvas(_egg(eye, 0.24 * head, 0.24 * head)), _opaque(np.full(3, 15.0)))
    parts = np.zeros((SIDE, SIDE, 6), np.float32)
    for outline, part in zip(outlines, (None, 2, 3, 4, 5, None, None, 1, 0), strict=True):
        blend(parts, outline, np.zeros(6) if part is None else 255 * np.eye(6)[part])
    points = np.concatenate([[eye, [0.0, 0.0]], points])
    return Sprite(_whole(image), to_canvas(points), _whole(parts))


def _whole(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _flippers(rng: np.random.Generator, width: float) -> tuple[list[Floats], Floats]:
    """Four outlines, front left, front right, back left, back right, and the points [4,2] just within their ends."""
    outlines, points = [], []
    for front in (True, False):
        length = rng.uniform(0.75, 1.1) if front else rng.uniform(0.45, 0.65)
        thick = rng.uniform(0.15, 0.21) if front else rng.uniform(0.13, 0.18)
        usual = rng.uniform(40, 75) if front else rng.uniform(125, 155)  # degrees from the axis
        bend = rng.uniform(0.1, 0.35) * (1 if front else -0.5)
        for side in (-1, 1):  # left is above
            angle = np.deg2rad(usual + rng.uniform(-14, 14))
            out = np.array([np.cos(angle), side * np.sin(angle)])
            back = side * np.array([-out[1], out[0]])  # to the tail, for front ones that bend back
            root = np.array([0.55 if front else -0.7, side * width * (0.65 if front else 0.55)])
            t = np.linspace(0, 1, 24)[:, None]
            line = root + length * (t * out + bend * t**2 * back)
            along = np.gradient(line, axis=0)
            normal = np.stack([-along[:, 1], along[:, 0]], 1) / np.linalg.norm(along, axis=1, keepdims=True)
            half = thick * np.sqrt(np.clip(1 - ((t - 0.35) / 0.65) ** 2, 0, 1))
            outlines.append(np.concatenate([line + half * normal, (line - half * normal)[::-1]]))
            points.append(line[21])
    return outlines, np.array(points)


def _egg(centre: Floats, a: float, b: float, skew: float = 0.0) -> Floats:
    """An ellipse [64,2] with half axes a and b, wider to the front by the share `skew`."""
    t = np.arange(64) * (2 * np.pi / 64)
    return np.stack([centre[0] + a * np.cos(t), centre[1] + b * np.sin(t) * (1 + skew * np.cos(t))], 1)


def _opaque(colour: Floats) -> Floats:
    return np.array([*colour, 255.0])


def _limb(rng: np.random.Generator, image: NDArray[np.float32], outline: Floats, skin: Floats) -> None:
    """Skin with a dark edge and speckles."""
    centre = outline.mean(0)
    blend(image, outline, _opaque(0.45 * skin))
    inner = Shape("", (centre + 0.88 * (outline - centre),))
    colour = np.clip(skin * rng.uniform(0.9, 1.1), 0, 255)
    blend(image, inner.polygons[0], _opaque(colour))
    covered, (rows, columns) = inner.coverage(image.shape[:2])
    for _ in range(rng.poisson(7)):
        spot = rng.uniform(outline.min(0), outline.max(0))
        y, x = np.mgrid[rows, columns] + 0.5
        share = covered * (np.hypot(x - spot[0], y - spot[1]) < rng.uniform(2, 4)) * 0.5
        window = image[rows, columns]
        window += share[..., None].astype(np.float32) * (_opaque(0.6 * skin).astype(np.float32) - window)


def _shell(
    rng: np.random.Generator, image: NDArray[np.float32], outline: Floats, centre: Floats, zoom: float, width: float
) -> None:
    """The shell: a rim, one of the patterns, light from a random side."""
    rim, ground = palette(rng, (0.2, 0.5), (0.3, 0.8)), palette(rng, (0.35, 0.9), (0.2, 0.85))
    mark = palette(rng, (0.1, 0.9), (0.2, 0.85))
    for _ in range(8):  # a pattern that nobody could see would be none
        if np.abs(mark - ground).max() > 60:
            break
        mark = palette(rng, (0.1, 0.9), (0.2, 0.85))
    blend(image, outline, _opaque(rim))
    inner = Shape("", (centre + 0.92 * (outline - centre),))
    covered, (rows, columns) = inner.coverage(image.shape[:2])
    y, x = np.mgrid[rows, columns] + 0.5
    u, v = (x - centre[0]) / zoom, (y - centre[1]) / (zoom * width)
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))](rng, u, v)[..., None]
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 - 0.3 * (u**2 + v**2) + 0.2 * (u * np.cos(angle) + v * np.sin(angle)) + 0.06 * clouds(rng, u.shape, 8)
    colour = np.clip((ground + pattern * (mark - ground)) * light[..., None], 0, 255)
    window = image[rows, columns]
    value = np.concatenate([colour, np.full((*u.shape, 1), 255.0)], -1).astype(np.float32)
    window += covered[..., None] * (value - window)


# -- patterns of the shell: 0..1 at each place (u along, v across, both -1..1) ------------------------------------


def _scutes(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    """Plates with seams between: a middle row, two beside it, and a ring along the rim."""
    middle = [(x, 0.0) for x in np.linspace(-0.72, 0.72, 5)]
    beside = [(x, s * 0.55) for x in np.linspace(-0.55, 0.55, 4) for s in (-1, 1)]
    ring = [(0.98 * np.cos(t), 0.98 * np.sin(t)) for t in np.arange(18) * (2 * np.pi / 18)]
    seeds = np.array(middle + beside + ring) + rng.normal(0, 0.02, (31, 2))
    distance = np.hypot(u[..., None] - seeds[:, 0], v[..., None] - seeds[:, 1])
    two = np.partition(distance, 1, axis=-1)
    return np.asarray(np.clip(1 - (two[..., 1] - two[..., 0]) / rng.uniform(0.05, 0.14), 0, 1))


def _rings(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    return np.asarray(0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 4) * np.hypot(u, v) + rng.uniform(0, 6)))


def _rays(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    r = np.hypot(u, v)
    return np.asarray((0.5 + 0.5 * np.cos(rng.integers(7, 14) * np.arctan2(v, u))) * np.clip(3 * r - 0.3, 0, 1))


def _spots(rng: np.random.Generator, u: Floats, v: Floats) -> Floats:
    out = np.zeros(u.shape)
    for _ in range(int(rng.integers(8, 22))):
        x, y = rng.uniform(-0.9, 0.9, 2)
        out = np.maximum(out, np.clip(8 * (rng.uniform(0.08, 0.2) - np.hypot(u - x, v - y)), 0, 1))
    return out


PATTERNS: tuple[Callable[[np.random.Generator, Floats, Floats], Floats], ...] = (
    _scutes,
    _scutes,
    _rings,
    _rays,
    _spots,
)


# -- what is around -----------------------------------------------------------------------------------------------


def draw_ground(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """An empty scene f32 [H,W,3]: sand, grass or water, strewn with stones, leaves and weed."""
    image = background(rng, size, rng.uniform(0.2, 1))
    image += (rng.uniform(4, 16) * clouds(rng, size, int(rng.integers(3, 8))))[..., None]
    h, w = size
    for _ in range(rng.poisson(14)):
        things = CLUTTER[int(rng.integers(len(CLUTTER)))]
        things(rng, image, rng.uniform((0, 0), (w, h)), min(h, w) * float(np.exp(rng.uniform(-3.6, -1.8))))
    return image


def draw_cover(rng: np.random.Generator, image: NDArray[np.float32], centre: Floats, radius: float) -> None:
    """One leaf, stone or tuft of weed on `image` f32 [H,W,C], of about `radius` px around `centre`."""
    CLUTTER[int(rng.integers(len(CLUTTER)))](rng, image, centre, radius)


def _paint(image: NDArray[np.float32], outline: Floats, colour: Floats) -> None:
    """On a picture, or with alpha where the image has four channels."""
    blend(image, outline, _opaque(colour) if image.shape[2] == 4 else colour)


def _turned(outline: Floats, angle: float, centre: Floats) -> Floats:
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(outline @ np.array([[c, s], [-s, c]]) + centre)


def _stone(rng: np.random.Generator, image: NDArray[np.float32], centre: Floats, radius: float) -> None:
    colour, angle = palette(rng, (0.25, 0.85), (0.0, 0.3)), rng.uniform(0, 2 * np.pi)
    outline = _egg(np.zeros(2), radius, radius * rng.uniform(0.6, 0.95), rng.uniform(-0.3, 0.3))
    for k, light in ((1.0, 0.6), (0.9, 0.85), (0.7, 1.0), (0.4, 1.12)):
        shift = (1 - k) * 0.5 * radius * np.array([-0.7, -0.7])
        _paint(image, _turned(k * outline, angle, centre + shift), np.clip(colour * light, 0, 255))


def _leaf(rng: np.random.Generator, image: NDArray[np.float32], centre: Floats, radius: float) -> None:
    colour, angle = palette(rng, (0.3, 0.9), (0.3, 0.9)), rng.uniform(0, 2 * np.pi)
    t = np.linspace(-1, 1, 24)
    half = rng.uniform(0.25, 0.45) * (1 - t**2)
    outline = radius * np.concatenate([np.stack([t, half], 1), np.stack([t, -half], 1)[::-1]])
    _paint(image, _turned(outline, angle, centre), colour)
    vein = radius * np.array([[-1, -0.03], [1, 0], [-1, 0.03]])
    _paint(image, _turned(vein, angle, centre), 0.6 * colour)


def _weed(rng: np.random.Generator, image: NDArray[np.float32], centre: Floats, radius: float) -> None:
    colour = palette(rng, (0.2, 0.7), (0.3, 0.9))
    for _ in range(int(rng.integers(3, 8))):
        angle, bend, t = rng.uniform(0, 2 * np.pi), rng.uniform(-1, 1), np.linspace(0, 1, 12)
        line = np.stack([t, 0.4 * bend * t**2], 1) * rng.uniform(0.7, 1.4)
        half = np.stack([np.zeros(12), 0.07 * (1 - t)], 1)
        blade = radius * np.concatenate([line + half, (line - half)[::-1]])
        _paint(image, _turned(blade, angle, centre), np.clip(colour * rng.uniform(0.7, 1.2), 0, 255))


CLUTTER: tuple[Callable[[np.random.Generator, NDArray[np.float32], Floats, float], None], ...] = (_stone, _leaf, _weed)
