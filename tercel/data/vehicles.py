"""Generated views from above: roads, parking lots, and vehicles with exact oriented boxes, for the demo and the tests.

Lengths and widths are those of real vehicles in metres, times a scale of 4 to 9 px per metre that is one for a whole
picture, as it is for a drone. Every second vehicle stands in a row of a parking lot, close to its neighbours.

Shape legend: N vehicles; P corners; 2 = (x, y) px; 5 = oriented box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import canonical_obb, obb_corners, obb_hull
from tercel.core.objects import Objects
from tercel.core.rotated import obb_iou
from tercel.data.synth import Floats, Scene, background, blend, finish, write_all, write_picture

VERSION = 1
METRES: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {  # lengths, widths
    "car": ((3.8, 5.0), (1.7, 2.0)),
    "truck": ((6.0, 9.5), (2.3, 2.6)),
    "bus": ((10.5, 13.0), (2.5, 2.7)),
}
CLASSES = tuple(METRES)


def draw_vehicles(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """One view: asphalt and fields, one road, perhaps a parking lot, up to about 40 vehicles; 1 in 16 without any."""
    image = _ground(rng, size)
    scale = float(np.exp(rng.uniform(np.log(4), np.log(9))))  # px per metre
    heading = rng.uniform(0, 2 * np.pi)
    wanted: list[tuple[int, NDArray[np.float64]]] = []
    if rng.random() > 1 / 16:
        wanted += _parked(rng, image, scale, heading + np.pi / 2 * rng.integers(0, 2))
        wanted += _driving(rng, image, scale, heading)
    labels, rows = [], np.zeros((0, 5))
    for label, obb in wanted:  # theta is the heading still
        inside = (obb[:2] > 0).all() and obb[0] < size[1] and obb[1] < size[0]
        if not inside or (len(rows) and obb_iou(obb[None], rows).max() > 0):
            continue
        _paint(rng, image, obb, CLASSES[label])
        labels.append(label)
        rows = np.concatenate([rows, obb[None]])
    obbs = canonical_obb(rows.astype(np.float32))
    front = np.arctan2(np.sin(rows[:, 4]), np.cos(rows[:, 4]))
    objects = Objects(
        size, np.array(labels, np.int64), obb_hull(obbs), obbs=obbs, heading=front, headed=np.ones(len(rows), bool)
    )
    return Scene(finish(rng, image), objects)


def _vehicle(rng: np.random.Generator, scale: float, x: float, y: float, heading: float) -> tuple[int, Floats]:
    label = int(rng.choice(len(CLASSES), p=(0.7, 0.2, 0.1)))
    (l1, l2), (w1, w2) = METRES[CLASSES[label]]
    return label, np.array([x, y, scale * rng.uniform(l1, l2), scale * rng.uniform(w1, w2), heading])


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    image = background(rng, size, rng.uniform(0.2, 1))
    grey = image.mean(2, keepdims=True)
    return np.asarray(grey + 0.5 * (image - grey), np.float32)  # the ground is duller than shapes are


def _strip(
    image: NDArray[np.float32], centre: Floats, heading: float, length: float, width: float, grey: float
) -> None:
    import cv2

    corners = obb_corners(np.array([[*centre, length, width, heading]]))[0]
    cv2.fillPoly(image, [np.rint(corners * 256).astype(np.int32)], (grey,) * 3, cv2.LINE_AA, 8)


def _driving(
    rng: np.random.Generator, image: NDArray[np.float32], scale: float, heading: float
) -> list[tuple[int, Floats]]:
    """A road with two lanes across the picture, and who drives on it."""
    h, w = image.shape[:2]
    centre, along = rng.uniform((0.2 * w, 0.2 * h), (0.8 * w, 0.8 * h)), np.array([np.cos(heading), np.sin(heading)])
    across, reach, lane = np.array([-along[1], along[0]]), float(np.hypot(h, w)), 3.5 * scale
    grey = float(rng.uniform(70, 130))
    _strip(image, centre, heading, 2 * reach, 2.4 * lane, grey)
    for t in np.arange(-reach, reach, 6 * scale):
        _strip(image, centre + t * along, heading, 3 * scale, max(1.0, 0.25 * scale), grey + 90)
    out = []
    for side, turn in ((0.55, 0.0), (-0.55, np.pi)):
        t = -reach
        while t < reach:
            t += scale * rng.exponential(22) + 9 * scale
            x, y = centre + t * along + side * lane * across
            out.append(_vehicle(rng, scale, x, y, heading + turn + rng.normal(0, 0.03)))
    return out


def _parked(
    rng: np.random.Generator, image: NDArray[np.float32], scale: float, heading: float
) -> list[tuple[int, Floats]]:
    """Rows of parked cars, side by side."""
    h, w = image.shape[:2]
    centre, out = rng.uniform((0, 0), (w, h)), []
    rows, places = int(rng.integers(1, 4)), int(rng.integers(4, 12))
    front = np.array([np.cos(heading), np.sin(heading)])
    side = np.array([-front[1], front[0]])
    _strip(image, centre, heading, rows * 8 * scale, (places + 1) * 2.6 * scale, float(rng.uniform(80, 140)))
    for r in range(rows):
        for p in range(places):
            x, y = centre + (r - (rows - 1) / 2) * 7 * scale * front + (p - (places - 1) / 2) * 2.6 * scale * side
            turn = np.pi * rng.integers(0, 2) + rng.normal(0, 0.04)
            _, obb = _vehicle(rng, scale, x, y, heading + turn)
            if rng.random() < 0.75:
                obb[2:4] = scale * rng.uniform(3.8, 5.0), scale * rng.uniform(1.7, 2.0)
                out.append((0, obb))
    return out


def _paint(rng: np.random.Generator, image: NDArray[np.float32], obb: Floats, kind: str) -> None:
    """A body with rounded corners whose hull is the box, a shadow, and what shows where the front is."""

    def part(x1: float, x2: float, y1: float, y2: float, value: float | Floats, share: float = 1.0) -> None:
        """A piece of the body in its own coordinates, -1..1 along (front 1) and across."""
        r = 0.18 * obb[3] / obb[2]  # corners are cut by as much along as across
        cut = [(x2 - r, y1), (x2, y1 + 0.18), (x2, y2 - 0.18), (x2 - r, y2)]
        cut += [(x1 + r, y2), (x1, y2 - 0.18), (x1, y1 + 0.18), (x1 + r, y1)]
        local = np.array(cut) * obb[2:4] / 2
        c, s = np.cos(obb[4]), np.sin(obb[4])
        corners = local @ np.array([[c, s], [-s, c]]) + obb[:2]
        blend(image, corners, value, share)

    shade = obb.copy()
    shade[:2] += 0.25 * obb[3] * np.array([0.8, 0.6])
    blend(image, obb_corners(shade[None])[0], 0.0, 0.35)
    colour = rng.choice([40, 90, 190, 235]) + rng.normal(0, 8, 3) if rng.random() < 0.7 else rng.uniform(40, 230, 3)
    ground = float(image[int(obb[1]), int(obb[0])].mean())
    if abs(float(colour.mean()) - ground) < 30:  # who cannot be seen would be a wrong label
        colour = colour + (60 if ground < 128 else -60)
    part(-1, 1, -1, 1, colour)
    glass = 0.35 * colour
    if kind == "car":
        part(0.15, 0.5, -0.8, 0.8, glass)
        part(-0.75, -0.55, -0.75, 0.75, glass)
    elif kind == "truck":
        part(0.55, 0.6, -1, 1, glass)
        part(0.8, 0.95, -0.8, 0.8, glass)
    else:
        part(0.88, 0.97, -0.9, 0.9, glass)
        for x in np.linspace(-0.8, 0.6, 5):
            part(x, x + 0.08, -0.5, 0.5, 0.8 * colour)


def make_vehicles(
    out: Path,
    *,
    n: int,
    seed: int,
    size: tuple[int, int] = (320, 384),
    splits: Mapping[str, float] | None = None,
) -> Path:
    """Draw `n` views and write them as a DOTA data set (`dota:<out>#train`).

    Args:
        out: folder to make; one that holds the same set already is left as it is.
        splits: split name -> share of the views, in order; the default is train .8, val .2.

    Raises:
        TercelError: shares that do not add up to 1, or a folder that holds something else.
    """
    shares = dict(splits or {"train": 0.8, "val": 0.2})
    recipe: dict[str, Any] = {"kind": "vehicles", "version": VERSION, "n": n, "seed": seed, "size": list(size)}
    recipe |= {"classes": list(CLASSES), "splits": shares}
    write_all(Path(out), recipe, lambda rng: draw_vehicles(rng, size), _write_dota, lambda folder: None)
    return Path(out)


def _write_dota(folder: Path, split: str, name: str, scene: Scene) -> None:
    write_picture(folder / split / "images" / f"{name}.jpg", scene.image)
    label = folder / split / "labelTxt" / f"{name}.txt"
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text("".join(dota_lines(scene.objects, CLASSES)))


def dota_lines(objects: Objects, classes: Sequence[str]) -> list[str]:
    """x1 y1 ... x4 y4 class difficult, from the front right corner clockwise."""
    assert objects.obbs is not None
    corners = obb_corners(objects.obbs.astype(np.float64)).reshape(-1, 8)
    rows = zip(corners.tolist(), objects.labels.tolist(), objects.ignore.tolist(), strict=True)
    return [f"{' '.join(f'{v:.3f}' for v in c)} {classes[k]} {int(g)}\n" for c, k, g in rows]
