"""What stands around the court of a generated rally: stands, boards with logos, officials, spare balls and marks.

Much of it is there to be taken for a ball: white shoes, bright blobs of logos, reflections, balls that lie about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.data.rally.physics import Camera, Floats, Sport, Vector
from tercel.data.rally.players import figure, paint
from tercel.data.rally.style import Colour, Style, match_style, rgb

ZOOM = 2  # the stage is drawn at this many times its size
_BITS = 4
_BOARD = {"badminton": 0.9, "table_tennis": 0.75, "tennis": 1.1}  # height, m

Image = NDArray[np.uint8]


class Pen:
    """Draws what is given in metres on a picture of `ZOOM` times the camera's size."""

    def __init__(self, image: NDArray[Any], camera: Camera) -> None:
        self.image, self.camera = image, camera

    def fill(self, points: Sequence[Vector], colour: Colour | float) -> None:
        import cv2

        xy = self.camera.project(np.array(points))[0] * ZOOM
        fixed = np.rint((xy - 0.5) * (1 << _BITS)).astype(np.int32)
        cv2.fillPoly(self.image, [fixed], colour, cv2.LINE_AA, _BITS)

    def strip(self, a: tuple[float, float], b: tuple[float, float], z: float, width: float, colour: Colour) -> None:
        """A line on the floor or table, `width` m wide and never under 1 px of the reduced picture."""
        way = np.subtract(b, a)
        depth = self.camera.project(np.array([[*a, z], [*b, z]]))[1].mean()
        half = max(width, 0.9 * depth / self.camera.focal) / 2
        n = np.array([-way[1], way[0]]) / np.hypot(*way) * half
        self.fill([(*(a + n), z), (*(b + n), z), (*(b - n), z), (*(a - n), z)], colour)


def ball_px(sport: Sport, depth: Floats, camera: Camera, width: int) -> Floats:
    """Diameter in px of the ball at `depth` m, kept to 2.5..6 px of a picture 512 wide (lenses bloom)."""
    unit = width / 512
    return np.clip(sport.diameter * camera.focal / np.maximum(depth, 1e-3), 2.5 * unit, 6 * unit)


def _area(sport: Sport, camera: Camera) -> tuple[float, float, float, float]:
    """Half width, far end, nearest y that lies well before the camera, and height of the boards, in m."""
    return sport.wall[0], sport.wall[1], max(-sport.wall[1], float(camera.place[1]) + 4.0), _BOARD[sport.name]


def stands(rng: np.random.Generator, style: Style, sport: Sport, camera: Camera, big: Image) -> Floats:
    """Fill all that lies above and outside the boards with seats; returns the spectators' places [K,2] in px."""
    import cv2

    x, far, near, high = _area(sport, camera)
    height, width = big.shape[:2]
    corners = camera.project(np.array([(s * x, y, high) for s in (-1, 1) for y in (far, near)]))[0] * ZOOM
    mask = np.zeros((height, width), np.uint8)
    top = corners[[0, 2], 1].mean()
    cv2.rectangle(mask, (0, 0), (width, max(0, round(top))), 255, cv2.FILLED)
    for (a, b), edge in ((corners[:2], -9 * width), (corners[2:], 9 * width)):
        outline = np.array([a, b, (edge, b[1]), (edge, -9), (a[0], -9)])
        cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 255)
    big[mask > 0] = style.wall
    seats, row = [], 2.0
    while row < height:
        pitch = 5.5 + 7.0 * row / height
        for column in np.arange(rng.uniform(0, pitch), width, pitch):
            if not mask[int(row), min(width - 1, max(0, int(column)))] or rng.random() < 0.25:
                continue
            light = min(1.0, style.crowd * rng.uniform(0.2, 0.8))
            place = round((column + rng.normal(0, 0.7)) * 16), round(row * 16)
            radius = pitch * 0.24
            shirt, skin = rgb(rng.random(), rng.uniform(0, 0.7), light), rgb(0.07, 0.4, light * rng.uniform(0.5, 1))
            below = place[0], place[1] + round(2.2 * radius * 16)
            cv2.circle(big, below, round(1.6 * radius * 16), shirt, cv2.FILLED, cv2.LINE_AA, _BITS)
            cv2.circle(big, place, round(radius * 16), skin, cv2.FILLED, cv2.LINE_AA, _BITS)
            seats.append((place[0] / 16 / ZOOM, place[1] / 16 / ZOOM))
        row += pitch * 1.15
    return np.array(seats).reshape(-1, 2)


def boards(rng: np.random.Generator, style: Style, sport: Sport, camera: Camera, big: Image) -> None:
    """Advertising boards behind and beside the court, and a word painted on the floor."""
    x, far, near, high = _area(sport, camera)
    walls = [
        ((-x, far), (x, far), 2 * x),
        ((-x, near), (-x, far), far - near),
        ((x, far), (x, near), far - near),
    ]
    for (ax, ay), (bx, by), length in walls:
        texture = _banner(rng, style, max(200, round(length / high * 48)))
        _lay(big, camera, texture, ((ax, ay, high), (bx, by, high), (bx, by, 0), (ax, ay, 0)))
    if style.distractors and not sport.top:
        side = sport.width / 2 + 0.25 * (x - sport.width / 2)
        for s in (-1, 1):
            y = rng.uniform(-0.5, 0.2) * sport.length
            word = _banner(rng, style, 200, panel=style.floor)
            span, deep = 0.22 * (x - sport.width / 2) + 0.6, 0.8
            _lay(
                big,
                camera,
                word,
                (
                    (s * side - span, y + deep, 0),
                    (s * side + span, y + deep, 0),
                    (s * side + span, y, 0),
                    (s * side - span, y, 0),
                ),
            )


def _banner(rng: np.random.Generator, style: Style, length: int, panel: Colour | None = None) -> Image:
    """A strip [48, length, 3] of panels with a made-up name and a bright emblem each."""
    import cv2

    strip = np.zeros((48, length, 3), np.uint8)
    left = 0
    while left < length:
        wide = int(rng.integers(120, 220)) if panel is None else length
        colour = panel or style.boards[int(rng.integers(len(style.boards)))]
        strip[:, left : left + wide] = colour
        ink = rgb(0.14, float(rng.choice([0.0, 0.6])), rng.uniform(0.8, 1.0))
        word = "".join(rng.choice(list(letters)) for letters in ("BDKLMNRSTVZ", "AEIOU") * int(rng.integers(1, 4)))
        cv2.putText(strip, word, (left + 44, 36), cv2.FONT_HERSHEY_DUPLEX, rng.uniform(0.8, 1.1), ink, 2, cv2.LINE_AA)
        centre = left + 22, 24
        if rng.random() < 0.6:
            cv2.circle(strip, centre, int(rng.integers(7, 15)), ink, cv2.FILLED, cv2.LINE_AA)
        else:
            cv2.ellipse(strip, centre, (15, 8), float(rng.uniform(0, 180)), 0, 360, ink, 3, cv2.LINE_AA)
        left += wide
    return strip


def _lay(big: Image, camera: Camera, texture: Image, quad: Sequence[Vector]) -> None:
    """Draw a texture [h,w,3] on the quad of its corners in m: top left, top right, bottom right, bottom left."""
    import cv2

    h, w = texture.shape[:2]
    target = (camera.project(np.array(quad))[0] * ZOOM - 0.5).astype(np.float32)
    source = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32) - np.float32(0.5)
    matrix = cv2.getPerspectiveTransform(source, target)
    cv2.warpPerspective(texture, matrix, (big.shape[1], big.shape[0]), big, cv2.INTER_AREA, cv2.BORDER_TRANSPARENT)


def bystanders(rng: np.random.Generator, style: Style, sport: Sport, camera: Camera, big: Image) -> None:
    """Line judges and an umpire, standing beside the court in white shoes."""
    x, y = sport.width / 2, sport.length / 2
    gap = sport.wall[0] - x
    # around a table there is an umpire on each side, at a court a line judge at each corner
    rows = ((0.0, 0.4),) if sport.top else ((-1.1, -0.1), (0.1, 1.1))
    places = [(s * (x + gap * rng.uniform(0.5, 0.85)), y * rng.uniform(*row)) for s in (-1, 1) for row in rows]
    places += [(rng.uniform(-1, 1) * x, sport.wall[1] - 0.5)]
    clothes = match_style(rng, sport, int(rng.integers(1 << 16))).kits
    for place in sorted(places, key=lambda p: -p[1]):
        if rng.random() < 0.7:
            kit = clothes[int(rng.integers(2))]
            paint(big, camera, figure(kit, place, -1, rng.uniform(0, 6)), zoom=ZOOM)


def spots(rng: np.random.Generator, style: Style, sport: Sport, camera: Camera, big: Image) -> None:
    """Balls that lie about, strips of tape and reflections of lamps on the floor."""
    import cv2

    for _ in range(style.distractors):
        x, y = rng.uniform(-1, 1) * sport.wall[0], rng.uniform(-0.8, 1) * sport.wall[1]
        if sport.top and abs(x) < sport.width and abs(y) < sport.length:
            continue  # the floor there is under the table
        xy, depth = camera.project(np.array([[x, y, 0.02]]))
        px = float(ball_px(sport, depth, camera, big.shape[1] // ZOOM)[0]) * ZOOM
        centre = (round(xy[0, 0] * ZOOM * 16), round(xy[0, 1] * ZOOM * 16))
        kind = rng.random()
        if kind < 0.5:
            tone = rng.uniform(0.75, 1.0)
            colour = tuple(tone * c for c in style.ball)
            cv2.circle(big, centre, round(px / 2 * 16), colour, cv2.FILLED, cv2.LINE_AA, _BITS)
        elif kind < 0.75:
            Pen(big, camera).strip(
                (x, y), (x + rng.uniform(-0.3, 0.3), y + rng.uniform(-0.3, 0.3)), 0, 0.06, style.line
            )
        else:
            _glow(big, centre[0] / 16, centre[1] / 16, px * rng.uniform(1.0, 4.0), rng.uniform(50, 130))


def _glow(big: Image, x: float, y: float, radius: float, strength: float) -> None:
    """A soft bright blob, added in place."""
    left, top = max(0, int(x - 3 * radius)), max(0, int(y - 2 * radius))
    window: Any = big[top : max(top, int(y + 2 * radius)), left : max(left, int(x + 3 * radius))]
    if window.size:
        v, u = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]]
        blob = strength * np.exp(-(((u - x) / radius) ** 2) - ((v - y) / (0.6 * radius)) ** 2)
        window[:] = np.minimum(255, window + blob[..., None]).astype(np.uint8)
