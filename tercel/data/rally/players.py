"""Players and other people of a generated rally: a skeleton in metres, drawn as thick lines.

Body frame: l to the player's right, f forward, z up; `face` +1 looks along +y (the near player), -1 towards the camera.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.data.rally.physics import Camera, Floats, Sport, Vector
from tercel.data.rally.play import Stroke
from tercel.data.rally.style import Colour, Kit

_BITS = 4  # fractional bits of OpenCV's drawing coordinates
_ARM = 0.62


@dataclass(frozen=True)
class Part:
    """A thick line from a to b in m; a ring around b where `ring`."""

    a: Vector
    b: Vector
    width: float
    colour: Colour
    ring: bool = False


@dataclass(frozen=True)
class Swing:
    """A stroke that is under way: where the ball is met, and how many seconds ago (negative: still to come)."""

    place: Vector
    ago: float


def figure(
    kit: Kit,
    place: tuple[float, float],
    face: int,
    phase: float,
    sport: Sport | None = None,
    swing: Swing | None = None,
) -> list[Part]:
    """The parts of one person at `place` (x, y) m, back to front. Without a `sport` there is no racket.

    Args:
        phase: of the steps, radians: the legs swing with its sine.
        swing: the stroke that is under way, if any.
    """

    crouch = 0.86 if sport is not None and sport.top else 1.0  # at the table one stands low

    def at(right: float, forward: float, z: float) -> Vector:
        return place[0] + face * right, place[1] + face * forward, z * crouch

    s, c = math.sin(phase), math.cos(phase)
    hip, parts = 0.9 + 0.03 * c, []
    for sign in (-1, 1):
        foot = at(sign * (0.2 + 0.06 * c), 0.24 * sign * s, 0.05 + 0.1 * max(0.0, sign * c))
        knee = at(sign * 0.17, 0.12 * sign * s + 0.1, 0.5 + 0.04 * sign * c)
        parts += [
            Part(at(sign * 0.1, 0, hip), knee, 0.16, kit.shorts),
            Part(knee, foot, 0.1, kit.skin),
            Part(foot, (foot[0], foot[1] + face * 0.16, foot[2] - 0.02), 0.1, kit.shoes),
        ]
    head = at(0, 0.08, 1.64)
    torso = [
        Part(at(0, 0, hip + 0.02), at(0, 0.02, 1.32), 0.32, kit.shirt),
        Part(at(-0.1, 0.03, 1.38), at(0.1, 0.03, 1.38), 0.22, kit.shirt),
        Part(at(0, 0.03, 1.48), at(0, 0.06, 1.58), 0.1, kit.skin),
        Part(head, head, 0.23, kit.hair if face > 0 else kit.skin),
        Part(at(0, 0.04, 1.73), at(0, 0.04, 1.73), 0.16, kit.hair),
    ]
    left, shoulder = at(-0.21, 0.03, 1.42), at(0.21, 0.03, 1.42)
    off_hand = at(-0.4, 0.22 - 0.08 * s, 1.08 + 0.05 * c)
    arms = [*_arm(left, off_hand, kit)]
    hand, tip = _reach(sport, shoulder, at(0.36, 0.3 + 0.08 * s, 1.12), at(0.3, 0.75, 1.5), swing, face)
    arms += _arm(shoulder, hand, kit)
    if sport is not None and sport.name == "table_tennis":
        arms.append(Part(tip, tip, 0.16, kit.racket))
    elif sport is not None:
        arms.append(Part(hand, tip, 0.02, kit.racket))
        arms.append(Part(hand, tip, 0.22, kit.racket, ring=True))
    # The arms of somebody seen from behind lie in front of the body where they reach back, and behind it where forward.
    return [*parts, *arms, *torso] if face > 0 and swing is None else [*parts, *torso, *arms]


def _arm(shoulder: Vector, hand: Vector, kit: Kit) -> list[Part]:
    elbow = ((shoulder[0] + hand[0]) / 2, (shoulder[1] + hand[1]) / 2, (shoulder[2] + hand[2]) / 2 - 0.06)
    return [Part(shoulder, elbow, 0.1, kit.shirt), Part(elbow, hand, 0.08, kit.skin), Part(hand, hand, 0.1, kit.skin)]


def _reach(
    sport: Sport | None, shoulder: Vector, rest: Vector, rest_tip: Vector, swing: Swing | None, face: int
) -> tuple[Vector, Vector]:
    """Hand and middle of the racket's head: at rest, or on the way through the ball."""
    length = 0.14 if sport is not None and sport.name == "table_tennis" else 0.52
    pull = math.exp(-((swing.ago / 0.14) ** 2)) if swing is not None else 0.0
    hand, tip = np.array(rest), np.array(rest_tip)
    if swing is not None:
        goal = np.add(swing.place, (0.0, face * 5.0 * swing.ago, -2.0 * swing.ago))
        way = goal - shoulder
        far = float(np.linalg.norm(way)) + 1e-6
        met = shoulder + way / far * min(_ARM, max(0.25, far - length))
        hand = hand + pull * (met - hand)
        tip = tip + pull * (goal - tip)
    ray = tip - hand
    tip = hand + ray / (float(np.linalg.norm(ray)) + 1e-6) * length
    return (float(hand[0]), float(hand[1]), float(hand[2])), (float(tip[0]), float(tip[1]), float(tip[2]))


def paint(
    image: NDArray[np.uint8],
    camera: Camera,
    parts: Sequence[Part],
    *,
    origin: tuple[int, int] = (0, 0),
    zoom: float = 1.0,
    cover: bool = False,
) -> None:
    """Draw parts in place on u8 [H,W,3], or with `cover` as 255 on a mask u8 [H,W] (without rackets).

    Args:
        origin: (left, top) px of `image` within the camera's picture.
        zoom: px of `image` per px of the camera's picture.
    """
    import cv2

    ends = np.array([(p.a, p.b) for p in parts]).reshape(-1, 3)
    xy, depth = camera.project(ends)
    fixed = np.rint(((xy - origin) * zoom - 0.5) * (1 << _BITS)).astype(np.int64).reshape(-1, 2, 2)
    scale = zoom * camera.focal / depth.reshape(-1, 2).mean(1)
    for part, (a, b), px in zip(parts, fixed.tolist(), scale.tolist(), strict=True):
        colour: Colour | float = 255.0 if cover else part.colour
        width = max(1, round(part.width * px))
        if part.ring:
            if not cover:
                radius = round(part.width / 2 * px * (1 << _BITS))
                cv2.circle(image, b, radius, colour, max(1, round(0.02 * px)), cv2.LINE_AA, _BITS)
        elif cover and part.width <= 0.02:
            continue
        elif a == b:
            cv2.circle(image, a, round(part.width / 2 * px * (1 << _BITS)), colour, cv2.FILLED, cv2.LINE_AA, _BITS)
        else:
            cv2.line(image, a, b, colour, width, cv2.LINE_AA, _BITS)


# -- where the players are ------------------------------------------------------------------------------------------


def course(
    rng: np.random.Generator, sport: Sport, side: int, strokes: Sequence[Stroke], frames: int, steps: int, dt: float
) -> tuple[Floats, list[Swing | None]]:
    """Places [F,2] m of one player in every frame, and the stroke that is under way in each.

    The player meets every ball of its own and goes back towards the middle in between; without strokes it wanders.

    Args:
        steps: integration steps per frame, of `dt` seconds each.
    """
    own = [s for s in strokes if s.side == side]
    # at a table one waits in the corner of one's backhand
    corner = side * 0.35 * sport.width if sport.top else 0.0
    home = np.array([corner + rng.uniform(-0.15, 0.15) * sport.width, side * sport.stand])
    loose = np.array([0.12 * sport.width, 0.1 * sport.stand])
    keys: list[tuple[float, Floats]] = []
    last = frames * steps
    if not own:
        times = np.arange(0, last + 1.2 / dt, 1.2 / dt)
        keys = [(float(t), home + rng.normal(0, 1, 2) * loose * 1.5) for t in times]
    for s in own:
        across = sport.reach * (0.5 if s.place[2] > 1.9 else 1.0) * (1 if rng.random() < 0.75 else -1)
        away = max(abs(s.place[1]) + 0.3, sport.length / 2 + 0.3 if sport.top else 0.0)
        spot = np.array([s.place[0] + side * across, side * away])
        if keys and (s.step - keys[-1][0]) * dt > 0.7:
            keys.append(((s.step + keys[-1][0]) / 2, home + rng.normal(0, 1, 2) * loose))
        elif not keys and s.step * dt > 0.7:
            keys.append((0.0, home + rng.normal(0, 1, 2) * loose))
        keys.append((float(s.step), spot))
    keys.append((max(last, keys[-1][0] + 1.0 / dt), home))
    places = np.array([_between(keys, f * steps) for f in range(frames)])
    swings: list[Swing | None] = [None] * frames
    for s in own:
        for f in range(frames):
            ago = (f * steps - s.step) * dt
            if -0.4 < ago < 0.35:
                swings[f] = Swing(s.place, ago)
    return places, swings


def _between(keys: Sequence[tuple[float, Floats]], time: float) -> Floats:
    """The place at `time`, at rest at every key (smoothstep)."""
    if time <= keys[0][0]:
        return keys[0][1]
    for (t0, a), (t1, b) in itertools.pairwise(keys):
        if time <= t1:
            u = (time - t0) / max(t1 - t0, 1e-9)
            return a + (b - a) * (u * u * (3 - 2 * u))
    return keys[-1][1]


def phases(places: Floats) -> Floats:
    """Phase of the steps [F] in radians: a pair of steps for every 1.3 m walked."""
    moved = np.linalg.norm(np.diff(places, axis=0, prepend=places[:1]), axis=1)
    return np.asarray(np.cumsum(moved) / 1.3 * 2 * np.pi)
