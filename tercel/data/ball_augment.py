"""Random changes that only a clip with one ball can have: painted over, moved elsewhere, played backwards.

All act on the drawn window (after the warp, before the colours), on all of its frames alike, and on its truth.

Shape legend: T frames; H, W canvas; 3 = RGB; N balls (at most one a frame).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tercel.config import Augment
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Event

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

# Radius of what is painted over, as a share of the canvas width (6 px of 512: a ball and its edge), and how much of
# the step from frame to frame a moving ball smears over: half of it, to both sides, at a shutter of 180 degrees.
REACH, SMEAR = 6 / 512, 0.25
# Events that look alike when a clip runs backwards. A net ball or a serve does not.
REVERSIBLE = {"bounce", "hit"}


def check(config: Augment, events: tuple[str, ...]) -> None:
    """Refuse what would make wrong truth.

    Raises:
        TercelError: mosaics of clips (a frame has one ball), or a reversal where events have a direction in time.
    """
    if config.mosaic:
        raise TercelError("a mosaic puts several balls into one frame", "set augment.mosaic=0")
    directed = sorted(set(events) - REVERSIBLE)
    if config.reverse and directed:
        raise TercelError(
            f"clips with the events {', '.join(directed)} cannot run backwards: these look different then",
            "set augment.reverse=0",
        )


def change(
    frames: Pixels, objects: Objects, events: tuple[Event, ...], config: Augment, rng: np.random.Generator
) -> tuple[Objects, tuple[Event, ...]]:
    """Change a window u8 [T,H,W,3] in place; returns its new truth.

    Every random number is drawn whatever is switched on, so that one switch does not move the others' choices.
    """
    mask, paste, back, *target = rng.random(5).tolist()
    seen = _by_frame(objects, len(frames))
    moved = False
    if mask < config.mask_ball:
        erase(frames, seen)
        objects, events = objects[np.zeros(len(objects), bool)], ()
    elif paste < config.paste_ball:
        shift = _shift(seen, frames.shape[1:3], target)
        if shift is not None:
            move(frames, seen, shift)
            objects, moved = _shifted(objects, shift), True
    if back < config.reverse:
        frames[...] = frames[::-1].copy()
        last = len(frames) - 1
        if objects.frame is not None:
            objects = objects.replace(frame=last - objects.frame)
        events = tuple(Event(last - e.frame, e.name) for e in events)
    # A ball that was moved bounces where nothing is: its events would teach that the table does not matter.
    return objects, () if moved else events


def _by_frame(objects: Objects, count: int) -> Floats:
    """Place of the ball in each frame, f64 [T,2]; NaN where there is none."""
    out = np.full((count, 2), np.nan)
    if len(objects) and objects.points is not None and objects.visible is not None and objects.frame is not None:
        there = objects.visible[:, 0] > 0
        out[objects.frame[there]] = objects.points[there, 0]
    return out


def reaches(seen: Floats, width: int) -> NDArray[np.int64]:
    """Radius in px of the disc that holds the ball and its smear in each frame, i64 [T]."""
    step = np.linalg.norm(np.diff(seen, axis=0), axis=1) if len(seen) > 1 else np.zeros(0)
    step = np.nan_to_num(step)
    around = np.maximum(np.concatenate([[0.0], step]), np.concatenate([step, [0.0]]))
    return np.asarray(np.ceil(REACH * width + SMEAR * np.minimum(around, 0.2 * width)), np.int64)


def erase(frames: Pixels, seen: Floats) -> None:
    """Paint the ball over in every frame u8 [T,H,W,3]: with what another frame shows there, else with what surrounds it
    (inpainting of Telea 2004). A black square, the usual way, is itself a sign that no ball is there."""
    original = frames.copy()
    for t in np.flatnonzero(np.isfinite(seen).all(1)).tolist():
        _erase_one(frames, original, seen, t)


def _erase_one(frames: Pixels, original: Pixels, seen: Floats, t: int) -> None:
    reach = reaches(seen, frames.shape[2])
    y, x = _square(seen[t], int(reach[t]), frames.shape[1:3])
    if y.stop <= y.start or x.stop <= x.start:
        return
    distance = np.linalg.norm(seen - seen[t], axis=1)
    distance[np.isnan(distance)] = np.inf  # no ball in that frame at all
    distance[t] = -1
    u = int(distance.argmax())
    if distance[u] > reach[t] + reach[u]:
        frames[t, y, x] = original[u, y, x]
        return
    import cv2

    # A margin around the disc, so that there is something to continue.
    y, x = _square(seen[t], int(reach[t]) + 4, frames.shape[1:3])
    patch = np.ascontiguousarray(original[t, y, x])
    frames[t, y, x] = cv2.inpaint(patch, (_rim(seen[t], y, x) <= reach[t]).astype(np.uint8), 3, cv2.INPAINT_TELEA)


def move(frames: Pixels, seen: Floats, shift: tuple[int, int]) -> None:
    """Take the ball out of every frame and put it `shift` (dx, dy) px further, so that its steps stay the real ones.

    What is put is the difference that the ball made to its old place, faded out towards the rim: it takes on the
    brightness of its new place.
    """
    original = frames.copy()
    erase(frames, seen)
    reach = reaches(seen, frames.shape[2])
    size = frames.shape[1:3]
    for t in np.flatnonzero(np.isfinite(seen).all(1)).tolist():
        y, x = _square(seen[t], int(reach[t]), size)
        difference = original[t, y, x].astype(np.float32) - frames[t, y, x]
        difference *= np.clip(2 - 2 * _rim(seen[t], y, x) / (reach[t] + 0.5), 0, 1)[..., None]
        ny, nx = slice(y.start + shift[1], y.stop + shift[1]), slice(x.start + shift[0], x.stop + shift[0])
        cy, cx = slice(max(ny.start, 0), min(ny.stop, size[0])), slice(max(nx.start, 0), min(nx.stop, size[1]))
        if cy.stop <= cy.start or cx.stop <= cx.start:
            continue
        part = difference[cy.start - ny.start : cy.stop - ny.start, cx.start - nx.start : cx.stop - nx.start]
        frames[t, cy, cx] = np.clip(frames[t, cy, cx] + part, 0, 255).round().astype(np.uint8)


def _shift(seen: Floats, size: tuple[int, ...], target: list[float]) -> tuple[int, int] | None:
    """Whole px (dx, dy) that bring the ball of all frames to a random place inside; None where there is no ball."""
    there = seen[np.isfinite(seen).all(1)]
    if not len(there):
        return None
    low, high = there.min(0), there.max(0)
    room_low, room_high = -low + 1, np.array([size[1], size[0]]) - high - 1
    if (room_high < room_low).any():
        return None
    dx, dy = np.rint(room_low + (room_high - room_low) * np.array(target)).astype(int).tolist()
    return dx, dy


def _shifted(objects: Objects, shift: tuple[int, int]) -> Objects:
    step = np.array(shift, np.float32)
    points = None if objects.points is None else objects.points + step
    return objects.replace(points=points, boxes=objects.boxes + np.concatenate([step, step]))


def _rim(centre: Floats, y: slice, x: slice) -> NDArray[np.float32]:
    """Distance in px of the pixels of a window from the centre, f32 [h,w]."""
    yy, xx = np.mgrid[y, x].astype(np.float32) + 0.5
    return np.asarray(np.hypot(yy - np.float32(centre[1]), xx - np.float32(centre[0])), np.float32)


def _square(centre: Floats, reach: int, size: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns within `reach` px of the centre, cut at the canvas."""
    x, y = np.floor(centre).astype(int).tolist()
    return (
        slice(min(max(y - reach, 0), size[0]), max(min(y + reach + 1, size[0]), 0)),
        slice(min(max(x - reach, 0), size[1]), max(min(x + reach + 1, size[1]), 0)),
    )
