"""Random changes of training pictures: one warp per source picture, then one pass over the colours.

Scale, shift, rotation, shear, mirrors, crop and mosaic fold into ONE `Warp` for each source picture, so pixels are
resampled once and `Warp.objects` serves boxes, oriented boxes, points and balls alike. All frames of a clip share it.

Mosaic: four pictures meet at a point of a canvas twice as high and wide. Each is fitted to the final canvas's size
(its scale in evaluation) and laid with one corner at the meeting point, in a quadrant of its own. Zoom, rotation, shear
and shift are drawn once and move the four together, about the middle; the final canvas shows the middle part. One
affine map of disjoint quadrants keeps them disjoint: nothing overdraws a neighbour, whatever was drawn.

Shape legend: T frames; H, W canvas; N objects; K points; 3 = RGB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.config import Augment
from tercel.core.geometry import box_area, clip_boxes
from tercel.core.objects import Objects
from tercel.core.warp import Warp, rotation, scaling, shearing

Floats = NDArray[np.float64]

# RGB to YIQ (NTSC 1953): Y is brightness, the angle in the (I, Q) plane is hue and the distance saturation.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
# What brightness, saturation and a quarter turn of hue contribute to the matrix on RGB.
_LUMA = np.outer(_FROM_YIQ[:, 0], _TO_YIQ[0])
_CHROMA = _FROM_YIQ[:, 1:] @ _TO_YIQ[1:]
_QUARTER = _FROM_YIQ[:, 1:] @ np.array([[0, -1], [1, 0]]) @ _TO_YIQ[1:]


# -- geometry ---------------------------------------------------------------------------------------------------


def plan(
    rng: np.random.Generator, config: Augment, sizes: Sequence[tuple[int, int]], canvas: tuple[int, int]
) -> list[Warp]:
    """One warp per source picture onto the `canvas` (H, W).

    Args:
        sizes: (H, W) of one source picture, or of four for a mosaic (top left, top right, bottom left, bottom right
            of the meeting point, before mirrors and rotation).

    Raises:
        ValueError: another number of pictures than 1 or 4.
    """
    if len(sizes) not in (1, 4):
        raise ValueError(f"a canvas is made of 1 or 4 pictures, not {len(sizes)}")
    h, w = canvas
    zoom = (1 - config.scale) ** rng.uniform(-1, 1)
    turn, shear_x, shear_y = np.deg2rad(rng.uniform(-1, 1, 3) * (config.rotate, config.shear, config.shear))
    shift = rng.uniform(-1, 1, 2) * config.shift * (w, h)
    meeting = rng.uniform(-0.5, 0.5, 2) * (w, h)  # from the middle of the canvas; only a mosaic has one
    mirrors = rng.random((len(sizes), 2)) < (config.flip, config.flip_vertical)
    turned = turn != 0 or shear_x != 0 or shear_y != 0
    shared = rotation(turn) @ shearing(shear_x, shear_y) @ scaling(zoom) if turned else scaling(zoom)
    shared[:2, 2] = (w / 2 + shift[0], h / 2 + shift[1])
    if len(sizes) == 4:
        shared[:2, 2] += shared[:2, :2] @ meeting
    still = len(sizes) == 1 and zoom == 1 and not shift.any()
    warps = []
    for i, (size, (sideways, upside_down)) in enumerate(zip(sizes, mirrors.tolist(), strict=True)):
        # `shared` starts on a plane whose origin is the middle of one picture, or the point where four meet.
        fit = min(h / size[0], w / size[1])
        ox, oy = (0.5, 0.5) if len(sizes) == 1 else (1 - i % 2, 1 - i // 2)  # what lies at the origin, as a share
        # A mirror, x' = W - x or y' = H - y, exchanges left and right of an animal; both together do not.
        place = np.array(
            [
                [-fit if sideways else fit, 0, fit * size[1] * (sideways - ox)],
                [0, -fit if upside_down else fit, fit * size[0] * (upside_down - oy)],
                [0, 0, 1],
            ]
        )
        warp = Warp(shared @ place, size, canvas)
        warps.append(warp if turned or still else _snapped(warp))
    return warps


def _snapped(warp: Warp) -> Warp:
    """Nearly the same scaling, such that the part in view is made of whole source pixels and fills whole canvas pixels.

    Such a warp is a crop and a resize (`Warp.paint` sees that), which takes a third of the time of a general one. No
    edge moves by more than half a pixel of the coarser grid, and the labels go through the very same matrix. The
    pixel edges at which pictures meet are those to which the unsnapped ones would be painted. Slivers stay unsnapped.
    """
    m = warp.matrix.copy()
    for axis in (0, 1):
        a, b = float(m[axis, axis]), float(m[axis, 2])
        length, limit = warp.src[1 - axis], warp.dst[1 - axis]
        pairs = []
        for s in (0, length):
            d = round(a * s + b, 6)
            if 0 <= d <= limit:  # the picture's own edge
                pairs.append((s, math.ceil(d - 0.5)))
            else:  # the canvas's edge, somewhere within the picture
                d = 0 if d < 0 else limit
                pairs.append((min(max(round((d - b) / a), 0), length), d))
        (s0, d0), (s1, d1) = pairs
        if abs(d1 - d0) < 16 or s1 - s0 < 16:
            return warp
        m[axis, axis] = (d1 - d0) / (s1 - s0)
        m[axis, 2] = d0 - m[axis, axis] * s0
    return Warp(m, warp.src, warp.dst)


def touches(warp: Warp) -> bool:
    """False when the source picture lies wholly outside the canvas, so that it need not be loaded."""
    h, w = warp.src
    (a, b, x), (c, d, y), _ = warp.matrix.tolist()
    for start, along, down, limit in ((x, a * w, b * h, warp.dst[1]), (y, c * w, d * h, warp.dst[0])):
        if start + max(along, 0) + max(down, 0) <= 0 or start + min(along, 0) + min(down, 0) >= limit:
            return False
    return True


# -- objects ----------------------------------------------------------------------------------------------------


def visible_objects(
    warp: Warp, objects: Objects, min_visible: float, flip_index: NDArray[np.int64] | None = None
) -> tuple[Objects, int]:
    """Truth on the augmented canvas, cut at what is shown of its picture, and how many rows left.

    - Boxes are cut at the picture's own edge (beyond it a mosaic shows another picture) and at the canvas. A box of
      which less than `min_visible` of the area within the picture remains leaves.
    - Points out of view become absent (visible 0) and keep their place. Oriented boxes are never cut.
    - An object whose box has no area (a ball: one point) stays while a labelled point of it is in view.
    - Ignore regions stay while any of them is in view: they must go on costing nothing.
    """
    if not len(objects) or not touches(warp):
        return Objects.empty(warp.dst, objects), len(objects)
    whole = box_area(objects.boxes)
    inner = _ordered(clip_boxes(objects.boxes, warp.src))
    inside = box_area(inner)
    whole_boxes = np.array_equal(inner, objects.boxes)
    moved = warp.objects(objects if whole_boxes else objects._with(objects.size, boxes=inner), flip_index)
    cut = _ordered(clip_boxes(moved.boxes, warp.dst))
    full, kept = box_area(moved.boxes), box_area(cut)
    share = np.divide(kept, full, out=np.zeros_like(kept), where=full > 0)
    stays = (inside > 0) & (kept > 0) & (moved.ignore | (share >= min_visible))
    columns: dict[str, NDArray] = {name: getattr(moved, name) for name in moved.columns} | {"boxes": cut}
    if objects.points is not None and moved.points is not None and moved.visible is not None:
        shown = _within(objects.points, warp.src)
        if warp.mirrored and objects.points.shape[1] > 1 and flip_index is not None:
            shown = shown[:, flip_index]
        visible = np.where(shown & _within(moved.points, warp.dst), moved.visible, 0).astype(np.uint8)
        columns["visible"] = visible
        stays |= (whole <= 0) & (visible > 0).any(axis=1)
    if moved.area is not None:
        of_whole = np.divide(inside, whole, out=np.zeros_like(inside), where=whole > 0)
        columns["area"] = moved.area * share * of_whole
    kept_objects = moved._with(moved.size, **columns)
    return (kept_objects, 0) if stays.all() else (kept_objects[stays], int((~stays).sum()))


def _ordered(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounding may leave x2 a hair below x1."""
    return np.concatenate([boxes[:, :2], np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)


def _within(points: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray(((points >= 0) & (points <= (size[1], size[0]))).all(axis=-1))


# -- colours ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Colour:
    """What happens to the pixels of all frames, drawn once per sample.

    Attributes:
        matrix: f64 [3,3], RGB' = matrix @ RGB, cut to 0..255.
        blur: standard deviation in px of a Gaussian blur, 0 = none.
        noise: standard deviation in grey levels of noise per pixel and channel, 0 = none.
    """

    matrix: Floats
    blur: float = 0.0
    noise: float = 0.0

    @staticmethod
    def draw(rng: np.random.Generator, config: Augment) -> Colour:
        """Random hue, saturation, brightness, blur and noise within the ranges of `config`."""
        hue, saturation, brightness, blurred, sigma, level = rng.random(6).tolist()
        matrix = colour_matrix(
            config.hue * (2 * hue - 1),
            1 + config.saturation * (2 * saturation - 1),
            1 + config.brightness * (2 * brightness - 1),
        )
        return Colour(matrix, 0.3 + 0.9 * sigma if blurred < config.blur else 0.0, level * config.noise)

    def apply(self, frames: NDArray[np.uint8], rng: np.random.Generator) -> None:
        """Change u8 frames [T,H,W,3] in place: optics (blur), colour, sensor (noise, drawn anew for each frame)."""
        import cv2

        plain = np.array_equal(self.matrix, np.eye(3))
        for frame in frames:
            if self.blur > 0:
                cv2.GaussianBlur(frame, (5, 5), self.blur, dst=frame)
            if not plain:
                cv2.transform(frame, self.matrix, dst=frame)
            if self.noise > 0:
                noise = rng.standard_normal(frame.shape, dtype=np.float32)
                noise *= self.noise
                noise += frame
                np.rint(np.clip(noise, 0, 255, out=noise), out=noise)
                frame[...] = noise.astype(np.uint8)


def colour_matrix(hue: float, saturation: float, brightness: float) -> Floats:
    """The 3x3 matrix on RGB that turns the hue, scales the saturation and scales the brightness.

    In YIQ, turning (I, Q) by an angle changes hue, scaling it changes saturation, and neither changes the brightness
    Y; grey stays grey. All three are linear, so they are ONE matrix

        M = brightness * from_YIQ @ diag(1, s R(2 pi hue)) @ to_YIQ,

    and one pass over the pixels (Haeberli 1993, "Matrix operations for image processing"), where going through HSV
    takes two conversions, three tables and about twenty times as long.

    Args:
        hue: share of the colour circle, -0.5..0.5.
        saturation, brightness: factors, 1 = unchanged.
    """
    if hue == 0 and saturation == 1 and brightness == 1:
        return np.eye(3)
    angle = 2 * math.pi * hue
    colours = saturation * math.cos(angle) * _CHROMA + saturation * math.sin(angle) * _QUARTER
    return np.asarray(brightness * (_LUMA + colours))
