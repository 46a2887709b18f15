"""A generated point of play: strokes, who meets the ball when, and how the point ends.

A stroke is drawn, tried out on a coarse flight, and drawn again if it fails.

Side: -1 is the near player (y < 0), 1 the far one; a stroke goes to the other side. Metres, seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercel.data.rally.physics import Flight, Floats, Sport, Vector, aim

_COARSE = 0.006  # s per step of a trial
_FAULTS = 0.08  # share of the strokes that end in the net


_DELAY = {"badminton": (0.0, 0.0), "table_tennis": (0.16, 0.32), "tennis": (0.3, 0.55)}  # bounce to stroke, s


@dataclass(frozen=True)
class Stroke:
    """Who (-1 the near player, 1 the far one) meets the ball at which step, and where."""

    step: int
    side: int
    place: Vector


@dataclass(frozen=True, eq=False)
class Point:
    """One point of play, from the moment the ball leaves the server's hand.

    Attributes:
        path: f64 [N,3] m, place of the ball at every step.
        velocity: f64 [N,3] m/s just after it.
        events: (step, hit | bounce | net), in order.
        strokes: the hits with who and where.
        over: the step at which play ended (a fault, a second bounce); N when the time ran out first.
    """

    path: Floats
    velocity: Floats
    events: tuple[tuple[int, str], ...]
    strokes: tuple[Stroke, ...]
    over: int


@dataclass(frozen=True)
class Plan:
    """A stroke: start velocity and spin, the sides on which the ball must bounce, and when the other one meets it."""

    velocity: Vector
    spin: Vector
    bounces: tuple[int, ...]
    seconds: float


def first_contact(sport: Sport, rng: np.random.Generator, side: int) -> tuple[Vector, Vector]:
    """Where the ball leaves the server's hand, and how fast."""
    x = rng.uniform(-0.3, 0.3) * sport.width
    if sport.name == "badminton":
        return (x * 0.5, side * rng.uniform(2.1, 2.7), rng.uniform(0.9, 1.1)), (0.0, 0.0, 0.0)
    height, behind = (1.05, rng.uniform(0.15, 0.35)) if sport.name == "table_tennis" else (1.6, 0.1)
    return (x, side * (sport.length / 2 + behind), height), (0.0, 0.0, sport.toss * rng.uniform(0.92, 1.1))


def stroke(flight: Flight, rng: np.random.Generator, side: int, serve: bool) -> Plan:
    """A stroke from where the ball is. Some end in the net; the others are drawn again until they do not."""
    draw = _shuttle if flight.sport.name == "badminton" else _bouncing
    if not serve and rng.random() < _FAULTS:
        missed = _fault(flight, rng, side)
        if missed is not None and "net" in _try(flight, missed):
            return missed
    plan = None
    for attempt in range(40):
        candidate = draw(flight, rng, side, serve, attempt)
        if candidate is None:
            continue
        plan = candidate
        wanted = tuple(f"bounce{b}" for b in candidate.bounces)
        seen = _try(flight, candidate)
        if "net" not in seen and seen[: len(wanted)] == wanted:
            break
    if plan is None:  # a ball that nobody could play: it is patted up
        plan = Plan((0.0, -2.0 * side, 3.0), (0.0, 0.0, 0.0), (-side,) if flight.sport.name != "badminton" else (), 1.0)
    return plan


def _try(flight: Flight, plan: Plan) -> tuple[str, ...]:
    """What happens to the ball until `plan.seconds` or its last wanted bounce: net, bounce1, bounce-1, floor."""
    sport = flight.sport
    trial = Flight(sport, _COARSE, flight.p)
    trial.strike(plan.velocity, plan.spin)
    trial.events.clear()
    seen: list[str] = []
    limit = plan.seconds if not plan.bounces else 3.0
    while trial.now * _COARSE < limit and len(seen) < max(1, len(plan.bounces)):
        told = len(trial.events)
        trial.step()
        for _, name, y in trial.events[told:]:
            inside = trial.p[2] > sport.top and abs(trial.p[0]) < sport.width / 2 and abs(y) < sport.length / 2
            seen.append("net" if name == "net" else f"bounce{1 if y > 0 else -1}" if inside else "floor")
    return tuple(seen)


def _fault(flight: Flight, rng: np.random.Generator, side: int) -> Plan | None:
    """A stroke into the net."""
    sport, (x, y, _) = flight.sport, flight.p
    height = sport.top + sport.net_foot + rng.uniform(0.25, 0.85) * (sport.net - sport.net_foot)
    end = (x * 0.6 + rng.uniform(-0.1, 0.1) * sport.width, -side * 0.02, height)
    speed = {"badminton": 11.0, "table_tennis": 6.0, "tennis": 22.0}[sport.name] * rng.uniform(0.8, 1.3)
    seconds = abs(y) / speed
    velocity = aim(flight.p, end, seconds, sport.drag, (0.0, 0.0, 0.0))
    bounces = () if sport.name == "badminton" else (-side,)
    return None if velocity is None else Plan(velocity, (0.0, 0.0, 0.0), bounces, seconds + 0.2)


def _shuttle(flight: Flight, rng: np.random.Generator, side: int, serve: bool, attempt: int) -> Plan | None:
    """Overhead: clear, drop or smash. Low: lift, net shot or drive. Serve: short or long. BWF's names."""
    depth = abs(flight.p[1])
    if serve:
        kind = "short" if rng.random() < 0.7 else "long"
    elif flight.p[2] > 1.8:
        kind = str(rng.choice(["clear", "drop", "smash"], p=[0.4, 0.25, 0.35]))
    elif depth < 3:
        kind = str(rng.choice(["lift", "net shot", "drive"], p=[0.45, 0.4, 0.15]))
    else:
        kind = str(rng.choice(["lift", "drive", "drop"], p=[0.6, 0.2, 0.2]))
    # where the other player shall meet it: distance from the net, height; and after how long
    away, height, seconds = {
        "clear": ((4.8, 6.3), (2.2, 2.7), (1.05, 1.4)),
        "drop": ((0.8, 2.2), (0.4, 1.1), (0.8, 1.15)),
        "smash": ((2.0, 4.6), (0.4, 1.3), (0.34, 0.6)),
        "lift": ((4.4, 6.2), (2.1, 2.7), (1.05, 1.45)),
        "net shot": ((0.6, 1.6), (0.6, 1.2), (0.6, 0.95)),
        "drive": ((2.0, 4.8), (0.9, 1.9), (0.45, 0.75)),
        "short": ((1.9, 2.6), (1.0, 1.4), (0.6, 0.85)),
        "long": ((5.3, 6.2), (2.2, 2.6), (1.35, 1.7)),
    }[kind]
    duration = rng.uniform(*seconds) * (1 + 0.03 * attempt)
    end = (rng.uniform(-2.6, 2.6), -side * rng.uniform(*away), rng.uniform(*height))
    velocity = aim(flight.p, end, duration, flight.sport.drag, (0.0, 0.0, 0.0))
    return None if velocity is None else Plan(velocity, (0.0, 0.0, 0.0), (), duration)


def _bouncing(flight: Flight, rng: np.random.Generator, side: int, serve: bool, attempt: int) -> Plan | None:
    """A stroke that bounces on the other side; a table-tennis serve bounces on its own side first.

    Each further attempt is slower and so higher.
    """
    sport = flight.sport
    table = sport.name == "table_tennis"
    half, radius = sport.length / 2, sport.diameter / 2
    bounces: tuple[int, ...] = (-side,)
    x = rng.uniform(-0.4, 0.4) * sport.width
    if serve and table:
        bounces = (side, -side)
        y, speed, spin = side * half * rng.uniform(0.4, 0.7), rng.uniform(3.4, 5.4), rng.uniform(-0.3, 0.3)
        x = flight.p[0] + rng.uniform(-0.1, 0.1)
    elif serve:
        y, speed, spin = -side * rng.uniform(4.0, 6.2), rng.uniform(30, 46), rng.uniform(0.1, 0.3)
    else:
        y = -side * half * rng.uniform(0.5, 0.92)
        speed, spin = (
            (rng.uniform(5, 13), rng.uniform(-0.3, 1.0)) if table else (rng.uniform(18, 34), rng.uniform(0, 0.35))
        )
    end = (x, y, sport.top + radius)
    seconds = float(np.hypot(end[0] - flight.p[0], end[1] - flight.p[1])) / speed * (1 + 0.06 * attempt)
    turn = (side * spin, 0.0, rng.uniform(-0.1, 0.1))  # topspin for a ball that flies towards -side
    velocity = aim(flight.p, end, max(seconds, 0.08), sport.drag, turn)
    return None if velocity is None else Plan(velocity, turn, bounces, seconds)


def play(sport: Sport, rng: np.random.Generator, seconds: float, dt: float, rest: float = 0.8) -> Point:
    """Play one point for at most `seconds`; after its end the ball bounces and rolls on for `rest` seconds."""
    side = int(rng.choice((-1, 1)))
    place, toss = first_contact(sport, rng, side)
    flight = Flight(sport, dt, place, toss)
    meet = place[2] + (0.9 if sport.name == "tennis" else 0.0)
    while toss[2] > 0 and (flight.v[2] > 0 or flight.p[2] > meet):  # the toss
        flight.step()
    strokes: list[Stroke] = []
    contact, over, serve = flight.now, -1, True
    expected: list[int] = []
    told = 0  # events looked at
    last = round(seconds / dt)
    while flight.now < last and (over < 0 or flight.now < over + rest / dt):
        if over < 0 and flight.now == contact:
            if 0.12 < flight.p[2] < 3.2 and flight.p[1] * side > 0:
                plan = stroke(flight, rng, side, serve)
                strokes.append(Stroke(flight.now, side, flight.p))
                flight.strike(plan.velocity, plan.spin)
                told, serve, side = len(flight.events), False, -side
                expected, contact = list(plan.bounces), -1
                if not expected and rng.random() > 0.12:  # else the other player lets it fall
                    contact = flight.now + round(plan.seconds / dt)
            else:
                contact = -1
        flight.step()
        for step, name, y in flight.events[told:]:
            if name == "bounce" and expected and y * expected[0] > 0 and _in(sport, flight):
                expected.pop(0)
                if not expected and rng.random() > 0.1:
                    contact = step + round(rng.uniform(*_DELAY[sport.name]) / dt)
            elif over < 0:
                over, contact = step, -1
        told = len(flight.events)
    n = len(flight.path)
    return Point(
        np.array(flight.path), np.array(flight.velocity), tuple((s, e) for s, e, _ in flight.events if s < n),
        tuple(strokes), over if over >= 0 else n,
    )  # fmt: skip


def _in(sport: Sport, flight: Flight) -> bool:
    """The bounce just told was on the playing surface (a table's, not the floor around it)."""
    return flight.p[2] > sport.top and abs(flight.p[0]) < sport.width / 2 + 0.3
