"""The look of a generated match: colours of court, floor, boards and shirts, and the habits of its camera."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tercel.data.rally.physics import Sport

Colour = tuple[float, float, float]  # RGB 0..255
_GOLDEN = 0.6180339887  # hues k * golden ratio: the next match always lands in the widest gap


@dataclass(frozen=True)
class Kit:
    """What somebody wears."""

    shirt: Colour
    shorts: Colour
    skin: Colour
    hair: Colour
    shoes: Colour
    racket: Colour


@dataclass(frozen=True)
class Style:
    """The look of one match, and what its camera does.

    Attributes:
        exposure: share of the time between two frames during which the shutter is open.
        softness: blur of the lens, px (standard deviation).
        noise: of the sensor, grey levels (standard deviation).
        flicker: of the brightness, a share.
        pan, jitter: how far the camera swings, and how much it trembles, px.
        distractors: spare balls, marks and reflections on the floor.
        crowd: brightness of the stands; 0 = empty and dark.
    """

    court: Colour
    floor: Colour
    line: Colour
    wall: Colour
    boards: tuple[Colour, ...]
    kits: tuple[Kit, Kit]  # near, far
    ball: Colour
    exposure: float
    softness: float
    noise: float
    flicker: float
    pan: float
    jitter: float
    distractors: int
    crowd: float
    players: bool = True

    def plain(self) -> Style:
        """The same colours without people, distractors, noise and movement of the camera: for tests."""
        return replace(self, noise=0, flicker=0, pan=0, jitter=0, distractors=0, crowd=0, softness=0, players=False)


def rgb(h: float, s: float, v: float) -> Colour:
    """Hue, saturation, value in 0..1 -> RGB in 0..255."""
    k = [(n + 6 * h) % 6 for n in (5, 3, 1)]
    r, g, b = (255 * v * (1 - s * max(0.0, min(x, 4 - x, 1))) for x in k)
    return r, g, b


def match_style(rng: np.random.Generator, sport: Sport, match: int) -> Style:
    """The style of match number `match` of a set; hues of court, floor and shirts never repeat within a set."""
    u = rng.uniform
    hue = (match * _GOLDEN + 0.33) % 1.0
    court = rgb(hue, u(0.35, 0.75), u(0.3, 0.62))
    floor = rgb((hue + u(0.12, 0.5)) % 1, u(0.1, 0.6), u(0.16, 0.5))
    if sport.name == "table_tennis":
        court = rgb(hue, u(0.4, 0.8), u(0.2, 0.5))
    kits = tuple(_kit(rng, (hue + shift) % 1, sport) for shift in (u(0.2, 0.45), u(0.55, 0.8)))
    ball = {
        "badminton": rgb(0.14, u(0.0, 0.12), u(0.88, 1.0)),
        "table_tennis": rgb(0.09, u(0.5, 0.75), 0.98) if rng.random() < 0.3 else rgb(0.12, u(0.0, 0.08), u(0.92, 1.0)),
        "tennis": rgb(u(0.16, 0.2), u(0.35, 0.6), u(0.88, 1.0)),
    }[sport.name]
    still = rng.random() < 0.4
    return Style(
        court=court, floor=floor, line=rgb(0.15, u(0, 0.15), u(0.82, 0.97)),
        wall=rgb(u(0, 1), u(0.1, 0.5), u(0.06, 0.25)),
        boards=tuple(rgb(u(0, 1), u(0.3, 0.9), u(0.1, 0.7)) for _ in range(4)), kits=(kits[0], kits[1]), ball=ball,
        exposure=u(0.2, 0.9), softness=u(0.35, 0.65), noise=u(1.0, 4.0), flicker=u(0.0, 0.02),
        pan=0.0 if still else u(1.0, 8.0), jitter=0.0 if still else u(0.0, 0.25),
        distractors=int(rng.integers(4, 10)), crowd=u(0.15, 1.2),
    )  # fmt: skip


def _kit(rng: np.random.Generator, hue: float, sport: Sport) -> Kit:
    white = rng.random() < 0.4
    shirt = (
        rgb(hue, rng.uniform(0.0, 0.08), rng.uniform(0.85, 0.97))
        if white
        else rgb(hue, rng.uniform(0.4, 0.9), rng.uniform(0.25, 0.9))
    )
    skin = rgb(0.07, rng.uniform(0.35, 0.55), rng.uniform(0.35, 0.85))
    shorts = rgb((hue + rng.uniform(-0.1, 0.1)) % 1, rng.uniform(0.1, 0.7), rng.uniform(0.08, 0.9))
    shoes = rgb(0.15, rng.uniform(0, 0.1), rng.uniform(0.85, 1)) if rng.random() < 0.7 else rgb(rng.random(), 0.8, 0.9)
    racket = rgb(0.98, 0.8, rng.uniform(0.1, 0.7)) if sport.top else rgb(rng.random(), 0.4, rng.uniform(0.5, 0.95))
    return Kit(shirt, shorts, skin, rgb(0.08, 0.5, rng.uniform(0.05, 0.35)), shoes, racket)
