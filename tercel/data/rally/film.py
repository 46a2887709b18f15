"""Filming a rally: the ball smeared along its path, people and net before or behind it, and the camera's habits.

Truth is the projection of the ball's centre at mid-exposure. Frame f of a point exposes the path from f - e/2 to
f + e/2 (in frames, e = `Style.exposure`), averaged over sub-steps of about half a pixel.

Everything is composed on the stage (picture + margin), far to near; then the camera cuts its picture out of it.

Shape legend: H, W picture; h, w window; F frames; S sub-steps of an exposure; xy in continuous px.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tercel.core.track import ABSENT, BLURRED, CLEAR, OCCLUDED
from tercel.data.rally.arena import ball_px
from tercel.data.rally.physics import STEPS, Camera, Floats, Sport, broadcast, look
from tercel.data.rally.play import Point, Stroke, play
from tercel.data.rally.players import Part, Swing, course, figure, paint, phases
from tercel.data.rally.scene import Layer, Stage, draw_stage
from tercel.data.rally.style import Kit, Style, match_style, rgb

Image = NDArray[np.uint8]
_NOWHERE = (float("nan"), float("nan"))


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame u8 [H,W,3] with its truth: visibility class, place in px (NaN when absent), event or ""."""

    image: Image
    visibility: int
    xy: tuple[float, float]
    event: str = ""


@dataclass(frozen=True, eq=False)
class Drive:
    """A trajectory from elsewhere that the ball shall follow: xy [F,2] px of the picture, NaN where it is not seen."""

    xy: Floats


@dataclass(frozen=True, eq=False)
class Seen:
    """The ball during one exposure: centre at its middle, path [S,2], diameter, in px of the stage; its depth key."""

    xy: Floats
    path: Floats
    diameter: float
    key: float


def smear(path: Floats, radius: float) -> tuple[NDArray[np.float32], slice, slice]:
    """Mean coverage [h,w] of a disc that goes along path [S,2], smooth over 1 px at its edge, and its window."""
    low, high = np.floor(path.min(0) - radius - 1).astype(int), np.ceil(path.max(0) + radius + 1).astype(int)
    x, y = np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5
    square = ((y - path[:, 1:]) ** 2)[:, :, None] + ((x - path[:, :1]) ** 2)[:, None, :]
    alpha = np.clip(radius + 0.5 - np.sqrt(square), 0, 1).mean(0)
    return alpha.astype(np.float32), slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


class Film:
    """Frames of one rally, one after the other.

    Args:
        rng: decides everything that `style` leaves open.
        drive: a trajectory to follow instead of playing; no events then.
    """

    def __init__(
        self, rng: np.random.Generator, style: Style, sport: Sport, *, frames: int, size: tuple[int, int], fps: float,
        drive: Drive | None = None,
    ) -> None:  # fmt: skip
        self.rng, self.style, self.sport, self.frames, self.size, self.fps = rng, style, sport, frames, size, fps
        self.drive = drive
        self.margin = round(12 * size[1] / 512) + 3
        camera = broadcast(sport, rng, size)
        self.camera = replace(camera, centre=(camera.centre[0] + self.margin, camera.centre[1] + self.margin))
        self.whole = size[0] + 2 * self.margin, size[1] + 2 * self.margin
        self.stage: Stage = draw_stage(rng, style, sport, self.camera, self.whole)
        self.cut = self.margin + self._pan()  # [F,2]: left and top of every frame on the stage
        self.noise = self._noise()
        self.walker = self._walker()

    def __iter__(self) -> Iterator[Shot]:
        done = 0
        while done < self.frames:
            left = self.frames - done
            if done and self.style.players and self.rng.random() < 0.6:
                part = self._close_up(done, min(left, int(self.rng.integers(8, 24))))
            elif self.drive is not None:
                part = self._driven()
            else:
                part = self._point(done, left)
            for shot in part:
                yield shot
                done += 1

    # -- what happens ---------------------------------------------------------------------------------------------

    def _point(self, done: int, left: int) -> Iterator[Shot]:
        """A point of play: a few frames without a ball, the play, and the ball's way to rest."""
        rng, dt = self.rng, 1 / (self.fps * STEPS)
        lead, skip = int(rng.integers(3, 14)), 0
        if not done and rng.random() < 0.4:  # the film begins while the ball is in play
            lead, skip = 0, int(rng.integers(4, 25))
        point = play(self.sport, rng, (left - lead + skip) / self.fps, dt)
        skip = min(skip, max(0, point.over // STEPS - 12))
        frames = min(left, lead + (len(point.path) - 1) // STEPS + 1 - skip)
        frames = max(1, frames)
        first = (lead - skip) * STEPS  # the step of the film's part at which the path begins
        strokes = [Stroke(s.step + first, s.side, s.place) for s in point.strokes]
        people = self._people(strokes, frames)
        flown = _Flown(point, self.camera, self.sport, self.whole[1], self.style.exposure)
        events: dict[int, str] = {}
        for step, name in point.events:
            events.setdefault((step + first + STEPS // 2) // STEPS, name)  # the nearest frame
        for f in range(frames):
            ball = flown.seen(f * STEPS - first) if f >= lead else None
            yield self._shot(done + f, people[f], ball, events.get(f, ""))

    def _driven(self) -> Iterator[Shot]:
        assert self.drive is not None
        people = self._people([], self.frames)
        xy = self.drive.xy
        for f in range(self.frames):
            ball = None
            if np.isfinite(xy[f]).all():
                before, after = _neighbours(xy, f, 0.15 * self.size[1])
                half = np.linspace(0, self.style.exposure / 2, 12)[:, None]
                path = np.concatenate([xy[f] + half[:0:-1] * (before - xy[f]), xy[f] + half * (after - xy[f])])
                diameter = (2.6 + 2.4 * np.clip(xy[f, 1] / self.size[0], 0, 1)) * self.size[1] / 512
                ball = Seen(xy[f] + self.cut[f], path + self.cut[f], float(diameter), -np.inf)
            yield self._shot(f, people[f], ball, "")

    def _people(self, strokes: list[Stroke], frames: int) -> list[list[tuple[float, list[Part]]]]:
        """For every frame the people that move: (y in m, parts)."""
        out: list[list[tuple[float, list[Part]]]] = [[] for _ in range(frames)]
        if not self.style.players:
            return out
        for side, kit in zip((-1, 1), self.style.kits, strict=True):
            dt = 1 / (self.fps * STEPS)
            places, swings = course(self.rng, self.sport, side, strokes, frames, STEPS, dt)
            for f, (place, phase, swing) in enumerate(zip(places, phases(places), swings, strict=True)):
                out[f].append((place[1], self._figure(kit, place, -side, phase, swing)))
        return out

    def _figure(self, kit: Kit, place: Floats, face: int, phase: float, swing: Swing | None) -> list[Part]:
        return figure(kit, (float(place[0]), float(place[1])), face, float(phase), self.sport, swing)

    # -- pictures -------------------------------------------------------------------------------------------------

    def _shot(self, f: int, people: list[tuple[float, list[Part]]], ball: Seen | None, event: str) -> Shot:
        """Compose frame f, far to near, and say how the ball is seen."""
        image = self.stage.picture.copy()
        self._spectators(image)
        things: list[tuple[float, list[Part] | Layer | Seen]] = [*people, *((s.key, s) for s in self.stage.layers)]
        if self.walker is not None:
            things.append(self.walker[f])
        if ball is not None:
            things.append((ball.key, ball))
        things.sort(key=lambda t: -t[0])
        nearer: list[list[Part] | Layer] = []
        alpha = None
        for _, thing in things:
            if isinstance(thing, Seen):
                alpha = self._draw_ball(image, thing)
                continue
            if isinstance(thing, Layer):
                thing.blend(image)
            else:
                paint(image, self.camera, thing)
            if alpha is not None:
                nearer.append(thing)
        visibility, xy = ABSENT, _NOWHERE
        if ball is not None:
            x, y = ball.xy - self.cut[f]
            if 0 <= x < self.size[1] and 0 <= y < self.size[0]:
                visibility, xy = self._visibility(ball, alpha, nearer), (float(x), float(y))
        return Shot(self._expose(image, f), visibility, xy, event)

    def _draw_ball(self, image: Image, ball: Seen) -> tuple[NDArray[np.float32], int, int] | None:
        """Draw it; returns its alpha [h,w] with the top and left of its window, None outside the stage."""
        radius = ball.diameter / 2
        alpha, rows, columns = smear(ball.path, radius)
        if self.sport.name == "badminton":
            alpha = self._feathers(ball, alpha.shape, rows.start, columns.start)
        top, left = max(0, rows.start), max(0, columns.start)
        window = image[top : max(top, rows.stop), left : max(left, columns.stop)]
        if not window.size:
            return None
        alpha = alpha[top - rows.start :, left - columns.start :][: window.shape[0], : window.shape[1]]
        colour = np.array(self.style.ball, np.float32)
        window[:] = (window + alpha[..., None] * (colour - window) + np.float32(0.5)).astype(np.uint8)
        return alpha, top, left

    def _feathers(self, ball: Seen, shape: tuple[int, ...], top: int, left: int) -> NDArray[np.float32]:
        """A shuttle is longer than wide: a wide skirt behind a small cork, with the disc's centre of mass."""
        way = ball.path[-1] - ball.path[0]
        length = float(np.hypot(*way))
        way = way / length if length > 0.05 else np.array([0.0, 1.0])
        radius = ball.diameter / 2
        total = np.zeros(shape, np.float32)
        # areas .72 and .2 of the disc: the moments .72 * .16 and .2 * .576 about the centre are equal
        for offset, share in ((-0.16, 0.72), (0.576, 0.2)):
            part, rows, columns = smear(ball.path + offset * radius * way, radius * share**0.5)
            y, x = rows.start - top, columns.start - left
            a, b = max(0, y), max(0, x)
            cut = part[a - y :, b - x :][: shape[0] - a, : shape[1] - b]
            total[a : a + cut.shape[0], b : b + cut.shape[1]] += cut
        return np.minimum(total, np.float32(1))

    def _visibility(
        self, ball: Seen, drawn: tuple[NDArray[np.float32], int, int] | None, nearer: list[list[Part] | Layer]
    ) -> int:
        """Occluded when more than half of what was drawn is covered; blurred when it moved over two diameters."""
        if drawn is not None and nearer:
            alpha, top, left = drawn
            free = np.ones(alpha.shape, np.float32)
            for thing in nearer:
                free *= 1 - _covered(thing, self.camera, alpha.shape, top, left)
            if (alpha * free).sum() < 0.5 * alpha.sum():
                return OCCLUDED
        length = float(np.hypot(*np.diff(ball.path, axis=0).T).sum())
        return BLURRED if length > 2 * ball.diameter else CLEAR

    def _spectators(self, image: Image) -> None:
        """Some spectators move, one or the other takes a picture with a flash."""
        import cv2

        seats, rng = self.stage.seats, self.rng
        if not len(seats) or self.style.crowd <= 0:
            return
        for i in rng.integers(0, len(seats), rng.poisson(5)):
            x, y = (seats[i] + rng.normal(0, 1, 2) - 0.5) * 16
            flash = rng.random() < 0.12
            colour = (
                (255.0, 255.0, 250.0) if flash else rgb(rng.random(), 0.4, self.style.crowd * rng.uniform(0.3, 1.1))
            )
            radius = rng.uniform(1.2, 2.2)
            cv2.circle(image, (round(x), round(y)), round(radius * 16), colour, -1, cv2.LINE_AA, 4)

    def _close_up(self, done: int, frames: int) -> Iterator[Shot]:
        """A cut to a player at rest: no ball to be seen."""
        import cv2

        rng, (h, w) = self.rng, self.whole
        away = self.stage.picture[h // 8 : h // 2, w // 4 : 3 * w // 4]
        behind = cv2.GaussianBlur(cv2.resize(away, (w, h), interpolation=cv2.INTER_LINEAR), (0, 0), 7)
        camera = look(
            (rng.uniform(-1, 1), -rng.uniform(2.4, 4.0), 1.6), (0, 0, 1.35), h * rng.uniform(2.0, 3.4), (w / 2, h / 2)
        )
        kit, phase = self.style.kits[int(rng.integers(2))], rng.uniform(0, 6)
        place = rng.uniform(-0.6, 0.6, 2)
        for f in range(frames):
            image = np.asarray(behind).copy()
            paint(image, camera, self._figure(kit, np.add(place, (0.01 * f, 0.0)), -1, phase + 0.05 * f, None))
            yield Shot(self._expose(image, done + f), ABSENT, _NOWHERE)

    # -- the camera -----------------------------------------------------------------------------------------------

    def _pan(self) -> Floats:
        """Slow swing and trembling [F,2] px, within the margin."""
        rng, t = self.rng, np.arange(self.frames) / self.fps
        swing = sum(np.sin(2 * np.pi * rate * t[:, None] + rng.uniform(0, 6, 2)) for rate in rng.uniform(0.05, 0.3, 2))
        moved = self.style.pan / 2 * swing * (1.0, 0.3) + rng.normal(0, 1, (self.frames, 2)) * self.style.jitter
        return np.asarray(np.clip(moved, 2 - self.margin, self.margin - 2) * (self.style.pan + self.style.jitter > 0))

    def _noise(self) -> NDArray[np.int16] | None:
        """A tile of sensor noise, larger than the picture, partly common to the three channels and a little coarse."""
        import cv2

        if self.style.noise <= 0:
            return None
        h, w = self.size[0] + 64, self.size[1] + 64
        rng = self.rng
        tile = rng.standard_normal((h, w, 3), np.float32) * 0.6 + rng.standard_normal((h, w, 1), np.float32) * 0.8
        tile = cv2.GaussianBlur(tile, (0, 0), 0.5)
        return np.asarray(np.rint(tile * (self.style.noise / tile.std())), np.int16)

    def _expose(self, stage: Image, f: int) -> Image:
        """Cut frame f out of the stage, with the sensor's noise and a brightness of its own."""
        import cv2

        h, w = self.size
        x, y = (float(v) for v in self.cut[f])
        if x == int(x) and y == int(y):
            image = stage[int(y) : int(y) + h, int(x) : int(x) + w]
        else:  # both coordinates count from pixel centres: a pure shift
            matrix = np.array([[1, 0, x], [0, 1, y]])
            image = np.asarray(cv2.warpAffine(stage, matrix, (w, h), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
        if self.noise is not None:
            dy, dx = self.rng.integers(0, 64, 2)
            mix = cv2.add if self.rng.random() < 0.5 else cv2.subtract
            image = np.asarray(mix(image, self.noise[dy : dy + h, dx : dx + w], dtype=cv2.CV_8U))
        if self.style.flicker > 0:
            image = np.asarray(cv2.convertScaleAbs(image, alpha=1 + self.style.flicker * self.rng.uniform(-1, 1)))
        return np.ascontiguousarray(image, dtype=np.uint8)

    def _walker(self) -> list[tuple[float, list[Part]]] | None:
        """Somebody in white shoes who walks about beside the court."""
        rng, sport = self.rng, self.sport
        if not self.style.distractors or not self.style.players or rng.random() < 0.4:
            return None
        kit = match_style(rng, sport, int(rng.integers(1 << 16))).kits[0]
        side = rng.choice((-1, 1)) * (sport.width / 2 + (sport.wall[0] - sport.width / 2) * rng.uniform(0.4, 0.9))
        y = np.cumsum(np.full(self.frames, rng.uniform(-1.5, 1.5) / self.fps)) + rng.uniform(-0.2, 0.9) * sport.wall[1]
        places = np.stack([np.full(self.frames, side), y], 1)
        kit = replace(kit, shoes=rgb(0, 0, 0.98))
        return [
            (float(p[1]), figure(kit, (float(p[0]), float(p[1])), -1, float(a)))
            for p, a in zip(places, phases(places), strict=True)
        ]


class _Flown:
    """The path of a played ball in px of the stage."""

    def __init__(self, point: Point, camera: Camera, sport: Sport, width: int, exposure: float) -> None:
        self.xy, depth = camera.project(point.path)
        self.diameter = ball_px(sport, depth, camera, width)
        self.key = np.array(point.path[:, 1])
        self.exposure = exposure
        if sport.top:  # what lies below the table is drawn before it
            p, c = point.path, camera.place
            share = (sport.top - c[2]) / np.minimum(p[:, 2] - c[2], -1e-9)
            cross = c[:2] + (p[:, :2] - c[:2]) * share[:, None]
            hidden = (p[:, 2] < sport.top) & (np.abs(cross) < (sport.width / 2, sport.length / 2)).all(1)
            self.key[hidden] = np.maximum(self.key[hidden], sport.length / 2 + 0.01)

    def seen(self, step: int) -> Seen | None:
        """The ball in the frame whose exposure has its middle at `step`; None before and after the path."""
        if not 0 <= step < len(self.xy):
            return None
        half = self.exposure * STEPS / 2
        ends = np.clip((step - half, step + half), 0, len(self.xy) - 1)
        rough = self.xy[int(ends[0]) : int(np.ceil(ends[1])) + 1]
        n = int(np.clip(np.hypot(*np.diff(rough, axis=0).T).sum() / 0.5, 4, 90))
        t = np.clip(step + half * ((2 * np.arange(n) + 1) / n - 1), 0, len(self.xy) - 1)
        path = np.stack([np.interp(t, np.arange(len(self.xy)), self.xy[:, k]) for k in (0, 1)], 1)
        return Seen(self.xy[step], path, float(self.diameter[step]), float(self.key[step]))


def _neighbours(xy: Floats, f: int, limit: float) -> tuple[Floats, Floats]:
    """Where the ball was one frame before and after; mirrored where unseen or over `limit` px away (a cut)."""
    here = xy[f]
    found = []
    for g in (f - 1, f + 1):
        ok = 0 <= g < len(xy) and np.isfinite(xy[g]).all() and np.hypot(*(xy[g] - here)) < limit
        found.append(xy[g] if ok else None)
    before, after = found
    if before is None:
        before = here if after is None else 2 * here - after
    return before, 2 * here - before if after is None else after


def _covered(
    thing: list[Part] | Layer, camera: Camera, shape: tuple[int, ...], top: int, left: int
) -> NDArray[np.float32]:
    """Share [h,w] of each pixel of the window at (top, left) that a thing hides."""
    if isinstance(thing, Layer):
        out = np.zeros(shape, np.float32)
        y0, y1 = max(top, thing.rows.start), min(top + shape[0], thing.rows.stop)
        x0, x1 = max(left, thing.columns.start), min(left + shape[1], thing.columns.stop)
        if y0 < y1 and x0 < x1:
            part = thing.alpha[
                y0 - thing.rows.start : y1 - thing.rows.start, x0 - thing.columns.start : x1 - thing.columns.start
            ]
            out[y0 - top : y1 - top, x0 - left : x1 - left] = part[..., 0]
        return out
    mask = np.zeros(shape, np.uint8)
    paint(mask, camera, thing, origin=(left, top), cover=True)
    return mask.astype(np.float32) / np.float32(255)
