"""Generated pictures of turtles with a box and six named points, exact to the pixel, for the demo and the tests.

A sprite is turned by any angle, scaled in x and in y, and shifted by ONE matrix that moves its pixels and its points
alike (`Warp`), then laid on cluttered ground and partly covered. The box is the hull of the sprite's alpha within the
picture, covered or not. A point under a cover or under another turtle is hidden (visible 1); one beyond the picture's
edge is absent. Every label is checked against the mask before it is written (`check_labels`).

Splits share neither a sprite nor a ground: sources.json tells for each picture which it is made of, by content, and
`shared_sources` finds what two splits have in common.

Shape legend: H, W; N turtles; 6 points of `SCHEMA`; 2 = (x, y) px.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_json
from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.warp import Warp, rotation, scaling, translation
from tercel.data.formats import coco
from tercel.data.synth import Scene, finish, fresh_folder, write_picture
from tercel.data.turtle_sprites import SCHEMA, SIDE, Sprite, draw_cover, draw_ground, draw_sprite

VERSION = 1  # raised whenever a picture of the same seed would look different
SOURCES = "sources.json"  # which sprites and which ground each picture is made of
SCALES = (0.4, 0.8)  # of a sprite's canvas, as a share of the picture's shorter side
REACH = 2  # px that a point may lie off the mask: its edge is half transparent
_SPRITE, _GROUND, _PICTURE = 1, 2, 3  # streams of random numbers that must not meet


@dataclass(frozen=True, eq=False)
class View:
    """A drawn picture, and what it is made of.

    Attributes:
        scene: the picture and its truth.
        masks: bool [N,H,W], all that lies of each turtle within the picture, covered or not.
        parts: bool [N,H,W,6], the same of its eye, its shell, and each flipper.
        sprites: N places in the list of sprites that it was drawn from.
    """

    scene: Scene
    masks: NDArray[np.bool_]
    parts: NDArray[np.bool_]
    sprites: tuple[int, ...]


# -- one picture --------------------------------------------------------------------------------------------------


def draw_turtles(
    rng: np.random.Generator, ground: NDArray[np.float32], sprites: Sequence[Sprite], *, most: int = 1
) -> View:
    """1 to `most` of the sprites on a ground f32 [H,W,3], one picture in two with something lying on them; 1 picture in
    16 is the ground alone."""
    image, size = ground.copy(), (ground.shape[0], ground.shape[1])
    count = 0 if rng.random() < 1 / 16 else int(rng.integers(1, most + 1))
    layers: list[NDArray[np.float32]] = []  # alpha 0..1 of each turtle
    hidden: list[NDArray[np.float32]] = []  # how much of each pixel is covered by what was laid later
    points, parts, chosen = [], [], []
    for _ in range(count):
        found = _find_place(rng, image, sprites, layers, count)
        if found is None:
            continue  # the picture is full
        number, warp, layer = found
        alpha = layer[..., 3] / np.float32(255)
        _lay(image, layer, shadow=True)
        hidden = [np.maximum(h, alpha) for h in hidden] + [np.zeros(size, np.float32)]
        layers.append(alpha)
        points.append(warp.points(sprites[number].points))
        halves = [warp.pixels(sprites[number].parts[..., half], fill=0) for half in (slice(0, 3), slice(3, 6))]
        parts.append(np.concatenate(halves, axis=-1) >= 128)  # OpenCV moves four channels at most
        chosen.append(number)
    if layers and rng.random() < 0.5:
        for _ in range(int(rng.integers(1, 4))):
            hidden = _cover(rng, image, layers, points, hidden)
    masks = np.array([a >= 0.5 for a in layers], np.bool_).reshape(-1, *size)
    objects = _labels(size, np.array(points, np.float32).reshape(-1, 6, 2), masks, hidden)
    shown = np.array(parts, np.bool_).reshape(-1, *size, 6)
    return View(Scene(finish(rng, image), objects), masks, shown, tuple(chosen))


def place(rng: np.random.Generator, size: tuple[int, int], count: int = 1) -> Warp:
    """From a sprite's canvas onto a picture (H, W) with `count` turtles: turned by 0 to 360 degrees about its middle,
    then scaled in x and y, each by its own factor, and shifted."""
    unit = min(size) / SIDE / math.sqrt(count)
    across, down = unit * rng.uniform(*SCALES, 2)
    x, y = rng.uniform(0.15, 0.85, 2) * (size[1], size[0])
    turned = rotation(rng.uniform(0, 2 * np.pi)) @ translation(-SIDE / 2, -SIDE / 2)
    return Warp(translation(x, y) @ scaling(across, down) @ turned, (SIDE, SIDE), size)


def _find_place(
    rng: np.random.Generator,
    image: NDArray[np.float32],
    sprites: Sequence[Sprite],
    others: Sequence[NDArray[np.float32]],
    count: int,
) -> tuple[int, Warp, NDArray[np.float32]] | None:
    """A sprite's number, a warp, and its premultiplied pixels f32 [H,W,4]: three quarters of it lie in the picture, it
    hides no other one by more than a third, and it stands out from the ground, which the last tries forgo."""
    size = (image.shape[0], image.shape[1])
    for attempt in range(30):
        number = int(rng.integers(len(sprites)))
        rgba, warp = sprites[number].rgba, place(rng, size, count)
        layer = warp.pixels(rgba, fill=0).astype(np.float32)
        alpha = layer[..., 3] / np.float32(255)
        whole = float(rgba[..., 3].sum()) / 255 * abs(warp.determinant)
        if alpha.sum() < 0.75 * whole or any((o * alpha).sum() > o.sum() / 3 for o in others):
            continue
        differs = np.abs(layer[..., :3] - alpha[..., None] * image).max(-1).sum() / alpha.sum()
        if differs > 50 or attempt > 20:
            return number, warp, layer
    return None


def _lay(image: NDArray[np.float32], layer: NDArray[np.float32], shadow: bool = False) -> None:
    """Lay premultiplied pixels f32 [H,W,4] on `image` f32 [H,W,3] in place, with a soft shadow when asked for."""
    import cv2

    alpha = layer[..., 3] / np.float32(255)
    if shadow:
        move = np.array([[1, 0, 2.5], [0, 1, 2.5]], np.float32)
        dark = cv2.GaussianBlur(cv2.warpAffine(alpha, move, alpha.shape[::-1]), (7, 7), 2)
        image *= (1 - 0.4 * dark)[..., None]
    image *= (1 - alpha)[..., None]
    image += layer[..., :3]


def _cover(
    rng: np.random.Generator,
    image: NDArray[np.float32],
    turtles: Sequence[NDArray[np.float32]],
    points: Sequence[NDArray[np.floating]],
    hidden: list[NDArray[np.float32]],
) -> list[NDArray[np.float32]]:
    """Lay a leaf, a stone or weed on some turtle, unless two fifths of one would be hidden; returns `hidden` anew."""
    one = int(rng.integers(len(turtles)))
    y, x = np.nonzero(turtles[one] >= 0.5)
    some = int(rng.integers(len(x)))
    # Every second one is meant for a named point: few would be hidden by chance.
    at = points[one][rng.integers(6)] if rng.random() < 0.5 else np.array([x[some] + 0.5, y[some] + 0.5])
    layer = np.zeros((*image.shape[:2], 4), np.float32)
    draw_cover(rng, layer, at, float(np.sqrt(len(x)) * rng.uniform(0.12, 0.35)))
    alpha = layer[..., 3] / np.float32(255)
    after = [np.maximum(h, alpha) for h in hidden]
    if any((h * a).sum() > 0.4 * a.sum() for h, a in zip(after, turtles, strict=True)):
        return hidden
    _lay(image, layer)
    return after


def _labels(
    size: tuple[int, int],
    points: NDArray[np.float32],
    masks: NDArray[np.bool_],
    hidden: Sequence[NDArray[np.float32]],
) -> Objects:
    """Truth from points [N,6,2] in the picture, masks [N,H,W], and how much of each pixel of each turtle is hidden."""
    inside: NDArray[np.bool_] = np.all((points >= 0) & (points < (size[1], size[0])), axis=-1)
    visible = np.where(inside, 2, 0).astype(np.uint8)
    boxes = np.zeros((len(points), 4), np.float32)
    for i, mask in enumerate(masks):
        boxes[i] = mask_box(mask)
        x, y = points[i][inside[i]].astype(int).T
        visible[i, inside[i]] = np.where(hidden[i][y, x] >= 0.5, 1, 2)
    kept = np.where(inside[..., None], points, np.float32(0))
    area = masks.sum((1, 2)).astype(np.float32)
    return Objects(size, np.zeros(len(points), np.int64), boxes, points=kept, visible=visible, area=area)


def mask_box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Hull x1 y1 x2 y2 of the pixels that are set in a mask [H,W] with at least one."""
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], np.float32)


def check_labels(objects: Objects, masks: NDArray[np.bool_], parts: NDArray[np.bool_]) -> None:
    """Every labelled point lies on its own part of its turtle, [N,H,W,6], to within `REACH` px, and every box is the
    hull of its turtle's mask [N,H,W].

    Raises:
        ValueError: one does not; the message names the turtle, and the point and its place.
    """
    import cv2

    assert objects.points is not None
    assert objects.visible is not None
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * REACH + 1, 2 * REACH + 1))
    for i, mask in enumerate(masks):
        if np.abs(objects.boxes[i] - mask_box(mask)).max() > 0.01:
            raise ValueError(f"turtle {i}: box {objects.boxes[i].tolist()} around a mask of {mask_box(mask).tolist()}")
        for k, name in enumerate(SCHEMA.keypoints):
            x, y = objects.points[i, k].tolist()
            if not objects.visible[i, k]:
                continue
            near = cv2.dilate(parts[i, ..., k].astype(np.uint8), around)
            if not (0 <= x < mask.shape[1] and 0 <= y < mask.shape[0] and near[int(y), int(x)]):
                raise ValueError(f"turtle {i}: point {name} at ({x:.1f}, {y:.1f}) does not lie on its part")


# -- whole sets ---------------------------------------------------------------------------------------------------


def make_turtles(
    out: Path,
    *,
    seed: int,
    splits: Mapping[str, int] | None = None,
    size: tuple[int, int] = (256, 256),
    per_sprite: int = 4,
    most: int = 1,
) -> Path:
    """Draw pictures of turtles and write them as COCO keypoints: `coco:<out>#train`.

    Args:
        out: folder to make; one that holds the same set already is left as it is.
        splits: pictures per split; the default is train 400, val 80. Sprites and grounds of a split are its own.
        size: (H, W) of each picture in px.
        per_sprite: pictures per sprite, on average. Every picture has a ground of its own.
        most: turtles in a picture, at most.

    Returns:
        `out`, with <split>/*.jpg, annotations/instances_<split>.json and sources.json.

    Raises:
        TercelError: counts or sizes that make no sense, splits that share a sprite or a ground, or a folder that holds
            something else.
    """
    counts = dict(splits) if splits is not None else {"train": 400, "val": 80}
    if not counts or min(counts.values()) < 1 or min(size) < 64 or per_sprite < 1 or most < 1:
        given = f"splits {counts}, size {tuple(size)}, per_sprite {per_sprite}, most {most}"
        raise TercelError(f"no turtles can be drawn with {given}", "splits, per_sprite, most from 1 on; sides from 64")
    recipe: dict[str, Any] = {
        "kind": "turtles", "version": VERSION, "seed": seed, "splits": counts, "size": list(size),
        "per_sprite": per_sprite, "most": most,
    }  # fmt: skip
    out = Path(out)
    with fresh_folder(out, recipe) as work:
        if work is not None:
            sources = []
            for number, (split, count) in enumerate(counts.items()):
                sources += _write_split(work, split, count, [seed, number], size, per_sprite, most)
            shared = shared_sources(sources)
            if shared:
                raise TercelError(f"{out}: {shared[0].message} ({shared[0].evidence[0]})", "draw each split's own")
            write_json(work / SOURCES, {"pictures": sources})
    return out


def _write_split(
    work: Path, split: str, count: int, seed: list[int], size: tuple[int, int], per_sprite: int, most: int
) -> list[dict[str, Any]]:
    """Pictures and labels of one split; returns its rows of sources.json."""
    sprites = [draw_sprite(np.random.default_rng([*seed, _SPRITE, i])) for i in range(math.ceil(count / per_sprite))]
    names = [_digest(s.rgba) for s in sprites]
    records, sources = [], []
    for i in range(count):
        ground = draw_ground(np.random.default_rng([*seed, _GROUND, i]), size)
        view = draw_turtles(np.random.default_rng([*seed, _PICTURE, i]), ground, sprites, most=most)
        check_labels(view.scene.objects, view.masks, view.parts)
        path = work / split / f"{i:05d}.jpg"
        write_picture(path, view.scene.image)
        records.append(Record(path.stem, (Frame(path),), size, view.scene.objects))
        sources.append(
            {
                "split": split,
                "picture": path.name,
                "ground": _digest(ground),
                "sprites": [names[n] for n in view.sprites],
            }
        )
    coco.write(Dataset(SCHEMA, tuple(records)), work, split=split, pictures=False)
    return sources


def _digest(pixels: NDArray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=8).hexdigest()


def shared_sources(sources: Sequence[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """Error findings for sprites and grounds that occur in two splits: `pictures` of sources.json.

    A detector that saw the sprite in training is judged on what it knows by heart (turtle-11).
    """
    ledger = Ledger()
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in sources:
        for kind, name in (("ground", row["ground"]), *(("sprite", s) for s in row["sprites"])):
            before = first.setdefault((kind, name), row)
            if before["split"] != row["split"]:
                where = " and ".join(f"{r['split']}/{r['picture']}" for r in (before, row))
                message = f"pictures of two splits are made of the same {kind}"
                ledger.add(f"split.shared_{kind}", Severity.ERROR, message, where)
    return ledger.findings()
