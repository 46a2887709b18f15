"""Drawn persons: cut-outs that stand upright, with their head told apart, the street behind them, and what hides them.

A person is painted at the size at which it is shown, so that its edges are those of its own pixels. Everything varies:
proportions, stride, arms, hair and hats, clothes and bags.

Shape legend: H, W; P polygon corners; 2 = (x, y); 4 = premultiplied red, green, blue and alpha, 0..255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.data.synth import Floats, background, blend, clouds, palette

LEAST_HEIGHT = 8  # px, below which a drawn person is a blot


Part = tuple[Floats, Floats]  # outline [P,2] and colour [3]


@dataclass(frozen=True, eq=False)
class Figure:
    """Somebody at no size yet: outlines and their colours, in the order in which they are painted.

    In body coordinates the height is 1, y points down from the crown and x = 0 is the middle.
    """

    body: tuple[Part, ...]
    head: tuple[Part, ...]

    @property
    def hull(self) -> Floats:
        """x1 y1 x2 y2 around all outlines."""
        corners = np.concatenate([outline for outline, _ in (*self.body, *self.head)])
        return np.concatenate([corners.min(0), corners.max(0)])

    @property
    def aspect(self) -> float:
        """Width over height."""
        x1, y1, x2, y2 = self.hull
        return float((x2 - x1) / (y2 - y1))


@dataclass(frozen=True, eq=False)
class Cutout:
    """A painted person, tight around it.

    Attributes:
        rgba: f32 [H,W,4], colours multiplied by alpha.
        mask: bool [H,W], the pixels that are more than half covered; its hull is the whole array.
        head: hull x1 y1 x2 y2 of the head, hair and hat, whole px of the array.
    """

    rgba: NDArray[np.float32]
    mask: NDArray[np.bool_]
    head: tuple[int, int, int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) px."""
        return self.mask.shape[0], self.mask.shape[1]


def mask_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Hull x1 y1 x2 y2 of the pixels that are set in a mask [H,W] with at least one."""
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


# -- a person -----------------------------------------------------------------------------------------------------


def pose_person(rng: np.random.Generator) -> Figure:
    """Somebody who stands or walks."""
    skin, shirt, trousers = _skin(rng), palette(rng, (0.15, 1.0), (0.1, 0.95)), palette(rng, (0.1, 0.8), (0.05, 0.8))
    shoulder, hip = rng.uniform(0.09, 0.125), rng.uniform(0.07, 0.1)
    chin, waist = rng.uniform(0.125, 0.15), rng.uniform(0.44, 0.52)
    body = _legs(rng, hip, waist, trousers)
    far, near = _arms(rng, shoulder, chin, waist, shirt, skin)
    body += far
    body.append((_torso(shoulder, hip, chin, waist + rng.uniform(0.0, 0.04)), shirt))
    if rng.random() < 0.25:
        body.append((_torso(shoulder, hip, chin + 0.02, waist - 0.08) * (0.55, 1), palette(rng, (0.1, 1), (0.2, 1))))
    body += near
    if rng.random() < 0.3:
        body.append(_bag(rng, shoulder, chin, waist))
    return Figure(tuple(body), tuple(_head(rng, chin, skin)))


def paint_person(rng: np.random.Generator, figure: Figure, height: float) -> Cutout:
    """The figure, `height` px from the crown of the head to the feet (at least LEAST_HEIGHT)."""
    height = max(height, LEAST_HEIGHT)
    x1, y1, x2, y2 = figure.hull
    shape = (int(np.ceil((y2 - y1) * height)) + 2, int(np.ceil((x2 - x1) * height)) + 2, 4)
    shift = np.array([x1, y1]) - 1 / height

    def painted(parts: Sequence[Part], image: NDArray[np.float32]) -> NDArray[np.float32]:
        for outline, colour in parts:
            blend(image, (outline - shift) * height, np.array([*colour, 255.0]))
        return image

    image = painted(figure.head, painted(figure.body, np.zeros(shape, np.float32)))
    image[..., :3] *= _light(rng, image)[..., None]
    np.minimum(image[..., :3], image[..., 3:], out=image[..., :3])
    mask = image[..., 3] >= 127.5
    left, top, right, bottom = mask_box(mask)
    u1, v1, u2, v2 = mask_box(painted(figure.head, np.zeros(shape, np.float32))[..., 3] >= 127.5)
    inside = (slice(top, bottom), slice(left, right))
    return Cutout(image[inside].copy(), mask[inside].copy(), (u1 - left, v1 - top, u2 - left, v2 - top))


def _skin(rng: np.random.Generator) -> Floats:
    return np.asarray(rng.uniform(0.35, 1.0) * np.array([246.0, 200.0, 165.0]) * rng.uniform(0.92, 1.05, 3)).clip(
        0, 255
    )


def _hair(rng: np.random.Generator) -> Floats:
    """From black to fair, now and then grey."""
    if rng.random() < 0.2:
        return np.full(3, rng.uniform(90, 235))
    return np.asarray(rng.uniform(0.12, 1.0) * np.array([215.0, 165.0, 100.0]))


def _capsule(p: Floats, q: Floats, a: float, b: float) -> Floats:
    """A limb [P,2] from p to q, of half widths a and b, with round ends."""
    along = (q - p) / max(float(np.hypot(*(q - p))), 1e-6)
    side = np.array([-along[1], along[0]])
    t = np.linspace(-np.pi / 2, np.pi / 2, 7)[:, None]
    far = q + b * (np.cos(t) * along + np.sin(t) * side)
    near = p + a * (-np.cos(t) * along - np.sin(t) * side)
    return np.concatenate([far, near])


def _oval(x: float, y: float, a: float, b: float) -> Floats:
    t = np.arange(24) * (2 * np.pi / 24)
    return np.stack([x + a * np.cos(t), y + b * np.sin(t)], 1)


def _torso(shoulder: float, hip: float, top: float, bottom: float) -> Floats:
    top = top + 0.025
    right = [
        (0.3 * shoulder, top - 0.02),
        (0.85 * shoulder, top),
        (shoulder, top + 0.05),
        (0.85 * hip, 0.4),
        (hip, bottom),
    ]
    return np.array(right + [(-x, y) for x, y in right[::-1]])


def _legs(rng: np.random.Generator, hip: float, waist: float, colour: Floats) -> list[Part]:
    """Two legs with shoes, standing or walking, or a skirt over them."""
    out = []
    stride, shoe = rng.uniform(0.0, 0.13), palette(rng, (0.05, 0.6), (0, 0.5))
    thick = rng.uniform(0.038, 0.05)
    for side in (-1, 1):
        foot = np.array([side * (0.35 * hip + stride), 0.97 - rng.uniform(0, 0.25) * stride])
        knee = np.array([side * 0.6 * (0.4 * hip + stride), 0.5 * (waist + 0.97)])
        top = np.array([side * 0.5 * hip, waist])
        shade = colour * (0.82 if side < 0 else 1.0)
        out += [(_capsule(top, knee, thick * 1.15, thick), shade), (_capsule(knee, foot, thick, 0.7 * thick), shade)]
        toe = foot + np.array([side * rng.uniform(0.0, 0.035), 0.012])
        out.append((_capsule(foot + np.array([0, 0.01]), toe, 0.022, 0.02), shoe))
    if rng.random() < 0.2:
        hem = rng.uniform(0.66, 0.85)
        out.append((np.array([(-hip, waist), (hip, waist), (1.5 * hip, hem), (-1.5 * hip, hem)]), colour))
    return out


def _arms(
    rng: np.random.Generator, shoulder: float, chin: float, waist: float, sleeve: Floats, skin: Floats
) -> tuple[list[Part], list[Part]]:
    """The arm behind the body and the one before it: hanging, bent, or raised now and then."""
    arms = []
    bare = rng.random() < 0.4
    for side in (-1, 1):
        top = np.array([side * 0.85 * shoulder, chin + 0.06])
        angle = rng.uniform(-0.05, 0.5) if rng.random() > 0.07 else rng.uniform(2.2, 2.8)  # from straight down
        bend = angle + rng.uniform(-0.9, 0.2) if angle < 1 else angle + 0.3
        length = rng.uniform(0.16, 0.19)
        elbow = top + length * np.array([side * np.sin(angle), np.cos(angle)])
        hand = elbow + length * np.array([side * np.sin(bend), np.cos(bend)])
        lower = skin if bare else sleeve * 0.95
        shade = 0.8 if side < 0 else 1.06
        parts = [
            (_capsule(top, elbow, 0.034, 0.028), sleeve * shade),
            (_capsule(elbow, hand, 0.027, 0.02), lower * shade),
        ]
        parts.append((_oval(hand[0], hand[1], 0.022, 0.024), skin))
        arms.append([(p, c.clip(0, 255)) for p, c in parts])
    return arms[0], arms[1]


def _bag(rng: np.random.Generator, shoulder: float, chin: float, waist: float) -> Part:
    side, low = rng.choice([-1, 1]), rng.random() < 0.5
    y = waist + rng.uniform(0.02, 0.12) if low else chin + rng.uniform(0.1, 0.16)
    x, w, h = side * shoulder * rng.uniform(0.8, 1.3), rng.uniform(0.04, 0.07), rng.uniform(0.05, 0.09)
    corners = np.array([(x - w, y - h), (x + w, y - h), (x + 1.1 * w, y + h), (x - 1.1 * w, y + h)])
    return corners, palette(rng, (0.1, 0.9), (0.1, 0.9))


def _head(rng: np.random.Generator, chin: float, skin: Floats) -> list[Part]:
    """Neck, face and hair, from the front, the side or behind, now and then under a hat."""
    hair = _hair(rng)
    wide, turn = rng.uniform(0.048, 0.06), rng.uniform(-0.6, 0.6)
    middle = chin / 2
    parts = [(_capsule(np.array([0, middle]), np.array([0, chin + 0.03]), 0.026, 0.03), 0.85 * skin)]
    if rng.random() < 0.3:  # long hair
        parts.append((_oval(0, middle + 0.03, 1.15 * wide, 0.68 * chin), hair))
    parts.append((_oval(0, middle, wide, middle), hair))
    if rng.random() < 0.75:  # else seen from behind
        parts.append((_oval(0.35 * turn * wide, middle + 0.016, 0.84 * wide, 0.82 * middle), skin))
    if rng.random() < 0.15:
        hat = palette(rng, (0.1, 1), (0.1, 1))
        parts.append((_oval(0, 0.33 * chin, 1.05 * wide, 0.36 * chin), hat))
        brim = np.array([(-1.6, 0.36), (1.6, 0.36), (1.6, 0.44), (-1.6, 0.44)]) * (wide, chin)
        parts.append((brim, 0.8 * hat))
    return parts


def _light(rng: np.random.Generator, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Light from a side, and darker below: f32 [H,W] factors."""
    h, w = image.shape[:2]
    x, y = np.linspace(-1, 1, w), np.linspace(-1, 1, h)[:, None]
    value = 1 + rng.uniform(-0.25, 0.25) * x - rng.uniform(0, 0.12) * y
    return np.asarray(value + 0.05 * clouds(rng, (h, w), max(2, h // 12)), np.float32)


# -- what is around -----------------------------------------------------------------------------------------------


def draw_street(rng: np.random.Generator, size: tuple[int, int], horizon: int) -> NDArray[np.float32]:
    """An empty street f32 [H,W,3]: walls with windows above `horizon` (px), pavement, posts, bins and signs below."""
    h, w = size
    image = background(rng, size, rng.uniform(0.2, 1))
    image[horizon:] += palette(rng, (0.1, 0.5), (0, 0.2)).astype(np.float32) - 60
    image += (rng.uniform(3, 12) * clouds(rng, size, int(rng.integers(3, 9))))[..., None]
    for _ in range(rng.poisson(5)):  # windows and doors
        x, y = rng.uniform(0, w), rng.uniform(0, horizon)
        a, b = rng.uniform(0.02, 0.06) * w, rng.uniform(0.04, 0.14) * h
        blend(
            image,
            np.array([(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)]),
            palette(rng, (0.1, 0.9), (0, 0.5)),
        )
    for _ in range(rng.poisson(7)):
        foot = np.array([rng.uniform(0, w), rng.uniform(horizon, h)])
        THINGS[int(rng.integers(len(THINGS)))](rng, image, foot, h * float(np.exp(rng.uniform(-2.3, -0.9))))
    return np.clip(image, 0, 255)


def draw_far_crowd(rng: np.random.Generator) -> NDArray[np.float32]:
    """People too small and too blurred to be told apart: f32 [H,W,4], colours multiplied by alpha."""
    import cv2

    height, count = float(rng.uniform(11, 18)), int(rng.integers(8, 18))
    people = [paint_person(rng, pose_person(rng), height * rng.uniform(0.85, 1.1)) for _ in range(count)]
    tallest, widest = (max(c.size[axis] for c in people) for axis in (0, 1))
    shape = max(round(1.6 * height), tallest + 4), max(round(height * (1 + 0.2 * count)), widest + 4)
    image = np.zeros((*shape, 4), np.float32)
    for cutout in people:
        h, w = cutout.size
        x, y = int(rng.integers(2, image.shape[1] - w - 1)), int(rng.integers(2, image.shape[0] - h - 1))
        over(image[y : y + h, x : x + w], cutout.rgba)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(1.0, 1.6)), np.float32)


def draw_poster(rng: np.random.Generator, height: float) -> NDArray[np.float32]:
    """A board of `height` px that shows a person: f32 [H,W,4], colours multiplied by alpha."""
    cutout = paint_person(rng, pose_person(rng), 0.78 * height)
    h, w = cutout.size
    image = np.zeros((max(round(height), h + 6), w + round(0.25 * height), 4), np.float32)
    rows, columns = image.shape[:2]
    edge, colour = 0.03 * height, palette(rng, (0.4, 1), (0, 0.6))
    for inset, paint in ((0.0, 0.4 * colour), (edge, colour)):
        low, high = inset, np.array([columns, rows]) - inset
        _put(image, np.array([(low, low), (high[0], low), (high[0], high[1]), (low, high[1])]), paint)
    x, y = (columns - w) // 2, (rows - h) // 2
    over(image[y : y + h, x : x + w], cutout.rgba)
    return image


def draw_statue(rng: np.random.Generator, height: float) -> NDArray[np.float32]:
    """A person of stone on a plinth, `height` px in all: f32 [H,W,4], colours multiplied by alpha."""
    cutout = paint_person(rng, pose_person(rng), 0.7 * height)
    h, w = cutout.size
    grey = 0.6 * cutout.rgba[..., :3].mean(2, keepdims=True) + 0.25 * cutout.rgba[..., 3:]
    tint = (rng.uniform(0.9, 1.1) * np.array([1.0, 1.02, 0.96])).astype(np.float32)
    stone = np.concatenate([grey * tint, cutout.rgba[..., 3:]], 2)
    plinth = round(0.28 * height)
    image = np.zeros((h + plinth, round(1.3 * w), 4), np.float32)
    left, right, foot = 0.1 * image.shape[1], 0.9 * image.shape[1], h + plinth
    _put(image, np.array([(left, h - 2), (right, h - 2), (image.shape[1], foot), (0, foot)]), np.full(3, 120.0) * tint)
    x = (image.shape[1] - w) // 2
    over(image[:h, x : x + w], stone)
    return image


def over(under: NDArray[np.float32], rgba: NDArray[np.float32]) -> None:
    """Lay premultiplied pixels [H,W,4] on a picture [H,W,3], or on premultiplied pixels [H,W,4], in place."""
    under *= 1 - rgba[..., 3:] / np.float32(255)
    under += rgba[..., : under.shape[2]]


def draw_thing(rng: np.random.Generator, image: NDArray[np.float32], foot: Floats, height: float) -> None:
    """A post, bin, sign or bush on `image` f32 [H,W,C], of about `height` px, that stands at `foot` (x, y)."""
    THINGS[int(rng.integers(len(THINGS)))](rng, image, foot, height)


def _put(image: NDArray[np.float32], outline: Floats, colour: Floats) -> None:
    """On a picture, or with alpha where the image has four channels."""
    blend(image, outline, np.array([*colour, 255.0]) if image.shape[2] == 4 else colour)


def _post(rng: np.random.Generator, image: NDArray[np.float32], foot: Floats, height: float) -> None:
    colour, thick = palette(rng, (0.1, 0.7), (0, 0.4)), height * rng.uniform(0.02, 0.04)
    top = foot - (0, 1.3 * height)
    _put(image, _capsule(foot, top, 1.3 * thick, thick), colour)
    _put(image, _oval(top[0], top[1], 0.08 * height, 0.05 * height), np.clip(1.8 * colour + 60, 0, 255))


def _bin(rng: np.random.Generator, image: NDArray[np.float32], foot: Floats, height: float) -> None:
    colour, half, high = palette(rng, (0.15, 0.8), (0.1, 0.8)), height * rng.uniform(0.12, 0.2), 0.5 * height
    box = np.array([(-0.85 * half, 0), (0.85 * half, 0), (half, -high), (-half, -high)])
    _put(image, foot + box, colour)
    _put(
        image,
        foot + np.array([(-1.1 * half, -high), (1.1 * half, -high), (half, -1.15 * high), (-half, -1.15 * high)]),
        0.6 * colour,
    )


def _sign(rng: np.random.Generator, image: NDArray[np.float32], foot: Floats, height: float) -> None:
    """A disc or a board on a pole: nearly as tall and as wide as a person, and none."""
    _put(
        image,
        _capsule(foot, foot - (0, 0.8 * height), 0.03 * height, 0.03 * height),
        palette(rng, (0.3, 0.8), (0, 0.2)),
    )
    colour, y = palette(rng, (0.3, 1), (0.3, 1)), foot - (0, 0.82 * height)
    if rng.random() < 0.5:
        _put(image, _oval(y[0], y[1], 0.13 * height, 0.13 * height), colour)
        _put(image, _oval(y[0], y[1], 0.09 * height, 0.09 * height), np.full(3, 230.0))
    else:
        a, b = height * rng.uniform(0.1, 0.17), height * rng.uniform(0.12, 0.3)
        _put(image, y + np.array([(-a, -b / 2), (a, -b / 2), (a, b), (-a, b)]), colour)


def _bush(rng: np.random.Generator, image: NDArray[np.float32], foot: Floats, height: float) -> None:
    colour = palette(rng, (0.15, 0.6), (0.3, 0.8)) * (0.6, 1.1, 0.5)
    for _ in range(int(rng.integers(6, 14))):
        x, y = foot + rng.normal(0, 0.13, 2) * height - (0, 0.25 * height)
        r = height * rng.uniform(0.05, 0.12)
        _put(image, _oval(x, y, r, r), np.clip(colour * rng.uniform(0.7, 1.3), 0, 255))


THINGS: tuple[Callable[[np.random.Generator, NDArray[np.float32], Floats, float], None], ...] = (
    _post,
    _bin,
    _sign,
    _bush,
)
