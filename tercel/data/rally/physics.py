"""Physics of a generated rally: ball flight in metres with drag and spin, strokes, bounces, the net, and the camera.

World: x to the right across the court, y along it away from the camera, z up; the net stands at y = 0. A ball obeys

    dv/dt = -g ez - k |v| v + spin x v        k = g / (terminal speed)^2

(quadratic drag; the spin term stands for the Magnus force, which does no work). It is stepped by the midpoint rule,
`STEPS` times per frame: exact for the parabola, and at 2 ms far below a tenth of a pixel for the rest. Strokes are
found by shooting (`aim`): choose where and when the ball shall arrive, correct the start until it does.

Terminal speeds: shuttlecock 6.8 m/s (Chen, Pan and Chen 2009), table-tennis ball 9.4, tennis ball 22 (drag coefficients
.4 and .55). Courts after the rules of BWF, ITTF and ITF.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Vector = tuple[float, float, float]

G = 9.81  # m/s^2
STEPS = 16  # integration steps per frame
_SLOW = 0.25  # m/s; a ball that leaves the floor more slowly rolls
LOUD = 1.0  # m/s; slower impacts are not told as bounces


@dataclass(frozen=True)
class Sport:
    """Lengths in m, times in s, speeds in m/s."""

    name: str
    length: float  # of the court or the table
    width: float
    top: float  # height of the playing surface
    net: float  # upper and lower edge of the net above the surface
    net_foot: float
    net_width: float
    terminal: float  # terminal speed of the ball
    restitution: float  # vertical speed after a bounce / before it
    grip: float  # share of the horizontal speed that a bounce leaves
    diameter: float  # of the ball; the shuttle's is between its skirt and its length
    stand: float  # where players wait: distance from the net
    reach: float  # lateral distance from body to ball at a stroke
    wall: tuple[float, float]  # half width and half length of the area within the boards
    toss: float  # upward speed of the serve's toss; 0 = the ball is hit out of the hand

    @property
    def drag(self) -> float:
        return G / self.terminal**2


BADMINTON = Sport("badminton", 13.4, 6.1, 0.0, 1.55, 0.76, 6.1, 6.8, 0.2, 0.5, 0.085, 3.9, 0.55, (6.5, 10.5), 0.0)
TABLE_TENNIS = Sport(
    "table_tennis", 2.74, 1.525, 0.76, 0.1525, 0.0, 1.83, 9.4, 0.9, 0.85, 0.04, 2.2, 0.5, (3.6, 6.5), 2.3
)
TENNIS = Sport("tennis", 23.77, 10.97, 0.0, 1.0, 0.0, 12.8, 22.0, 0.75, 0.7, 0.067, 12.6, 0.8, (9.0, 18.3), 5.0)
SPORTS = {s.name: s for s in (BADMINTON, TABLE_TENNIS, TENNIS)}


@dataclass(frozen=True, eq=False)
class Camera:
    """A pin-hole camera: place in m, rotation [3,3] to (right, down, forward), focal length and centre in px."""

    place: Floats
    rotation: Floats
    focal: float
    centre: tuple[float, float]

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """World points [N,3] in m -> px [N,2] (continuous) and depth [N] in m along the optical axis."""
        seen = (np.asarray(points, np.float64) - self.place) @ self.rotation.T
        return seen[:, :2] / seen[:, 2:] * self.focal + self.centre, seen[:, 2]


def look(place: Vector, target: Vector, focal: float, centre: tuple[float, float]) -> Camera:
    """The upright camera at `place` whose optical axis goes through `target`."""
    forward = np.subtract(target, place)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right = right / np.linalg.norm(right)
    return Camera(np.array(place), np.stack([right, np.cross(forward, right), forward]), focal, centre)


# distance behind the net, height, sideways (m); share of the picture's width that the near edge takes; its row / H
_VIEWS = {
    "badminton": ((21.0, 27.0), (4.8, 6.8), 0.8, (0.5, 0.6), (0.92, 0.97)),
    "table_tennis": ((9.5, 13.0), (4.6, 7.0), 2.0, (0.22, 0.3), (0.66, 0.74)),
    "tennis": ((32.0, 38.0), (9.0, 12.5), 1.0, (0.54, 0.64), (0.82, 0.88)),
}


def broadcast(sport: Sport, rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    """A camera behind the near player, above the court, framed so that the near edge lies where television puts it."""
    h, w = size
    distance, height, sideways, share, row = _VIEWS[sport.name]
    place = (rng.uniform(-sideways, sideways), -rng.uniform(*distance), rng.uniform(*height))
    bare = look(place, (0.0, 0.0, sport.top), 1.0, (0.0, 0.0))
    half, near = sport.width / 2, -sport.length / 2
    edge = bare.project(np.array([[-half, near, sport.top], [half, near, sport.top]]))[0]
    focal = float(rng.uniform(*share) * w / (edge[1, 0] - edge[0, 0]))
    middle = edge.mean(0) * focal
    centre = (w * rng.uniform(0.47, 0.53) - middle[0], h * rng.uniform(*row) - middle[1])
    return Camera(bare.place, bare.rotation, focal, centre)


# -- flight ---------------------------------------------------------------------------------------------------------


def _pull(v: Vector, drag: float, spin: Vector) -> Vector:
    x, y, z = v
    a, b, c = spin
    d = -drag * math.sqrt(x * x + y * y + z * z)
    return d * x + b * z - c * y, d * y + c * x - a * z, d * z + a * y - b * x - G


def advance(p: Vector, v: Vector, dt: float, drag: float, spin: Vector = (0.0, 0.0, 0.0)) -> tuple[Vector, Vector]:
    """Place and velocity after `dt` seconds of free flight (midpoint rule)."""
    a = _pull(v, drag, spin)
    h = dt / 2
    m = (v[0] + a[0] * h, v[1] + a[1] * h, v[2] + a[2] * h)
    b = _pull(m, drag, spin)
    return (
        (p[0] + m[0] * dt, p[1] + m[1] * dt, p[2] + m[2] * dt),
        (v[0] + b[0] * dt, v[1] + b[1] * dt, v[2] + b[2] * dt),
    )


def aim(start: Vector, end: Vector, seconds: float, drag: float, spin: Vector) -> Vector | None:
    """Start velocity that brings the ball from `start` to `end` in `seconds`, to 5 cm; None when it is not found.

    Newton's method with the Jacobian of straight flight under quadratic drag: with u = k |v| t the place at time t
    grows by t / (1 + u) per unit of speed along the flight and by t ln(1 + u) / u across it.
    """
    n = max(8, math.ceil(seconds / 0.008))
    v = np.subtract(end, start) / seconds + (0.0, 0.0, G * seconds / 2)
    for _ in range(14):
        p, w = start, (float(v[0]), float(v[1]), float(v[2]))
        for _ in range(n):
            p, w = advance(p, w, seconds / n, drag, spin)
        miss = np.subtract(end, p)
        if miss @ miss < 0.05**2:
            return float(v[0]), float(v[1]), float(v[2])
        speed = float(np.linalg.norm(v)) + 1e-9
        u = drag * speed * seconds
        along = (miss @ v) / speed**2 * v
        v = v + 0.8 * (along * (1 + u) + (miss - along) * u / math.log1p(u)) / seconds
        if not np.isfinite(v).all() or np.abs(v).max() > 120:
            return None
    return None


class Flight:
    """One ball that is stepped through time; it bounces off the surface, the floor, the net and the boards.

    `path` and `velocity` hold the state after every step, the start included; `events` are (step, name, y).
    """

    def __init__(self, sport: Sport, dt: float, place: Vector, velocity: Vector = (0.0, 0.0, 0.0)) -> None:
        self.sport, self.dt = sport, dt
        self.p, self.v, self.spin = place, velocity, (0.0, 0.0, 0.0)
        self.rolling = False
        self.path, self.velocity = [place], [velocity]
        self.events: list[tuple[int, str, float]] = []

    @property
    def now(self) -> int:
        """Steps done."""
        return len(self.path) - 1

    def strike(self, velocity: Vector, spin: Vector) -> None:
        """A racket gives the ball a new velocity."""
        self.v, self.spin, self.rolling = velocity, spin, False
        self.velocity[-1] = velocity
        self.events.append((self.now, "hit", self.p[1]))

    def ground(self, p: Vector) -> float:
        """Height of the ball's centre when it lies on what is below `p`."""
        s = self.sport
        over = abs(p[0]) <= s.width / 2 and abs(p[1]) <= s.length / 2
        radius = s.diameter / 2
        return s.top + radius if over and p[2] >= s.top + radius - 1e-6 else radius

    def step(self) -> None:
        """Advance by dt, through any impacts on the way."""
        left = self.dt
        for _ in range(4):
            if self.rolling:
                self._roll(left)
                break
            p, v = advance(self.p, self.v, left, self.sport.drag, self.spin)
            impact = self._impact(p)
            if impact is None:
                self.p, self.v = p, v
                break
            name, share, ground = impact
            # Linear within a step: off by g dt^2 / 8, some micrometres.
            self.p, self.v = advance(self.p, self.v, left * share, self.sport.drag, self.spin)
            self._bounce(name, ground)
            left *= 1 - share
        self.path.append(self.p)
        self.velocity.append(self.v)

    def _impact(self, p: Vector) -> tuple[str, float, float] | None:
        """The first thing between here and `p`, the share of the way to it, and the height of the ground here."""
        s, q = self.sport, self.p
        found = []
        ground = self.ground(q)
        if p[2] < ground <= q[2] + 1e-9 and ground == self.ground((p[0], p[1], q[2])):
            found.append((min(1.0, max(0.0, (q[2] - ground) / max(q[2] - p[2], 1e-12))), "bounce"))
        if q[1] * p[1] < 0:
            share = q[1] / (q[1] - p[1])
            z = q[2] + share * (p[2] - q[2])
            x = q[0] + share * (p[0] - q[0])
            if s.top + s.net_foot < z < s.top + s.net and abs(x) < s.net_width / 2:
                found.append((max(0.0, share - 1e-3), "net"))  # it stays on its side
        for axis, name in ((0, "side"), (1, "end")):
            limit = s.wall[axis]
            if abs(q[axis]) <= limit < abs(p[axis]) and p[2] < 1.0:
                found.append((max(0.0, (limit - abs(q[axis])) / abs(p[axis] - q[axis]) - 1e-3), name))
        if not found:
            return None
        share, name = min(found)
        return name, share, ground

    def _bounce(self, name: str, ground: float) -> None:
        s, (x, y, z) = self.sport, self.v
        if name == "bounce":
            if abs(z) > LOUD:
                self.events.append((self.now + 1, "bounce", self.p[1]))
            self.p = (self.p[0], self.p[1], ground)
            self.v = (s.grip * x, s.grip * y, s.restitution * abs(z))
            self.spin = (0.4 * self.spin[0], 0.4 * self.spin[1], 0.4 * self.spin[2])
            self.rolling = self.v[2] < _SLOW
        elif name == "net":
            self.events.append((self.now + 1, "net", self.p[1]))
            self.v, self.spin = (0.3 * x, -0.1 * y, 0.3 * z), (0.0, 0.0, 0.0)
        elif name == "side":
            self.v = (-0.4 * x, 0.6 * y, 0.6 * z)
        else:
            self.v = (0.6 * x, -0.4 * y, 0.6 * z)

    def _roll(self, dt: float) -> None:
        slow = max(0.0, 1 - 3 * dt)
        height = self.ground(self.p)
        self.p = (self.p[0] + self.v[0] * dt, self.p[1] + self.v[1] * dt, height)
        self.v = (self.v[0] * slow, self.v[1] * slow, 0.0)
        self.rolling = self.ground(self.p) == height and max(abs(self.p[0]), abs(self.p[1])) < max(self.sport.wall)
