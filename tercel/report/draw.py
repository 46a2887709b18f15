"""Objects drawn on pictures: boxes, oriented boxes, keypoints, balls, ignore regions; truth beside prediction.

Coordinates are ours (docs/conventions.md): (0, 0) is the outer corner of the first pixel.

Shape legend: H, W picture; N objects; K points; P corners; 2 = (x, y).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import box_corners, obb_corners
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.core.warp import Warp, scaling, translation
from tercel.report import skeleton
from tercel.report.strokes import Color, Picture, Stroke, paint

# Okabe and Ito (2008): hues that stay apart with every common colour blindness; black is left out (pictures are dark).
_BASE: tuple[Color, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
    (213, 94, 0),  # vermillion
    (0, 114, 178),  # blue
)
_TINTS = (0.0, 0.45, -0.4)  # later rounds of the palette: mixed with white, then with black
TRUTH: Color = (255, 255, 255)
IGNORED: Color = (190, 190, 190)


def class_color(label: int) -> Color:
    """RGB of a class: a function of the class id alone, so a class keeps its colour from picture to picture."""
    base = _BASE[label % len(_BASE)]
    tint = _TINTS[label // len(_BASE) % len(_TINTS)]
    target = 255 if tint > 0 else 0
    r, g, b = (round(c + (target - c) * abs(tint)) for c in base)
    return r, g, b


def line_width(objects: Objects | None, size: tuple[int, int]) -> int:
    """Line width in px: grows with the picture, and stays below an eighth of the objects so as not to cover them."""
    width = math.sqrt(size[0] * size[1]) / 240
    if objects is not None and len(objects):
        hull = objects.boxes[:, 2:] - objects.boxes[:, :2]
        short = (hull if objects.obbs is None else objects.obbs[:, 2:4]).min(axis=1)
        solid = short[short > 0]
        if len(solid):
            width = min(width, float(np.median(solid)) / 8)
    return max(1, round(width))


def draw(
    image: Picture,
    objects: Objects,
    classes: Sequence[str] | Schema,
    *,
    truth: Objects | None = None,
    min_score: float = 0.3,
    labels: bool = True,
    legend: bool = False,
    width: int | None = None,
    emphasis: NDArray[np.bool_] | None = None,
) -> Picture:
    """A drawn copy of a picture.

    Predictions and truth given as `objects` are solid in the colour of their class, `truth` lies under them in dashed
    white, ignore regions are dashed grey. An oriented box is drawn instead of its hull, with a line to its front where
    that is known. Named points have the colour of their side where the schema says which are left and right, else that
    of the class; a hidden one is a ring, an absent one does not show. A label that would cover another one is left out
    (high scores first): the colour still says the class.

    Args:
        image: u8 RGB [H,W,3]; grey [H,W] and [H,W,1] are shown as grey.
        objects: on the canvas of the picture; with scores, those below `min_score` are left out.
        classes: class names, or the schema (then skeleton edges are drawn as well).
        labels: write class and score beside each object.
        legend: append a strip with the colours of the classes that occur (the result is then higher than the input).
        width: line width in px; by default from the sizes of the picture and of the objects.
        emphasis: bool [N]; objects outside are thin and without label.

    Returns:
        u8 RGB [H,W,3] (higher with `legend`).

    Raises:
        ValueError: not a u8 picture, or objects on another canvas.
    """
    canvas = _rgb(image)
    schema = classes if isinstance(classes, Schema) else Schema(tuple(classes))
    for o in (objects, truth):
        if o is not None and o.size != canvas.shape[:2]:
            raise ValueError(f"the objects lie on a canvas {o.size}, the picture is {canvas.shape[:2]}")
    strong = np.ones(len(objects), np.bool_) if emphasis is None else np.asarray(emphasis, np.bool_)
    if objects.scores is not None:
        shown = objects.scores >= min_score
        objects, strong = objects[shown], strong[shown]
    every = objects if truth is None or len(objects) else truth
    width = line_width(every, canvas.shape[:2]) if width is None else width
    strokes = [] if truth is None else _strokes(truth, schema, max(1, round(width * 0.6)), TRUTH)
    for o, w in ((objects[~strong], max(1, width // 2)), (objects[strong], width)):
        strokes += _strokes(o, schema, w, None)
    paint(canvas, strokes)
    if labels:
        canvas = _tags(canvas, objects[strong & ~objects.ignore], schema)
    return _legend(canvas, objects, truth, schema) if legend else canvas


def draw_sample(
    image: Picture,
    truth: Objects,
    pred: Objects,
    schema: Schema,
    min_score: float = 0.3,
) -> Picture:
    """Truth on the left, prediction on the right, at a size that can be read.

    Side by side, not overlaid: with dozens of small objects two sets of lines on one picture hide each other and the
    pixels. Small pictures are enlarged before they are drawn on, large ones reduced to a long side of 1280.
    """
    h, w = truth.size
    long = max(h, w)
    zoom = max(1.0, 448 / long) if long <= 1280 else 1280 / long
    image, view = _zoomed(_rgb(image), zoom)
    left = draw(image, view.objects(truth, schema.flip_index), schema, labels=False)
    right = draw(image, view.objects(pred, schema.flip_index), schema, min_score=min_score)
    counts = int((~truth.ignore).sum()), int((pred.scores >= min_score).sum()) if pred.scores is not None else len(pred)
    columns = 2 if left.shape[0] >= left.shape[1] * 0.5 else 1  # wide pictures go one above the other
    captions = [f"truth · {counts[0]}", f"prediction · {counts[1]} with score ≥ {min_score:g}"]
    return contact_sheet([left, right], columns, captions)


def contact_sheet(
    images: Sequence[Picture],
    columns: int,
    captions: Sequence[str] | None = None,
    *,
    gap: int = 8,
    background: int = 255,
) -> Picture:
    """Pictures in a grid, each in the middle of its cell at its own size, with an optional line of text under each.

    Args:
        images: u8 RGB [H,W,3] of any sizes; none gives a sheet of one empty cell.
        captions: one per picture.
    """
    pictures = [_rgb(i) for i in images] or [np.full((1, 1, 3), background, np.uint8)]
    columns = max(1, min(columns, len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    h, w = max(p.shape[0] for p in pictures), max(p.shape[1] for p in pictures)
    size = max(11, min(22, round(w / 34)))
    strip = round(size * 1.7) if captions else 0
    sheet = np.full((gap + rows * (h + strip + gap), gap + columns * (w + gap), 3), background, np.uint8)
    texts = []
    for i, p in enumerate(pictures):
        x, y = gap + (i % columns) * (w + gap), gap + (i // columns) * (h + strip + gap)
        dx, dy = (w - p.shape[1]) // 2, (h - p.shape[0]) // 2
        sheet[y + dy : y + dy + p.shape[0], x + dx : x + dx + p.shape[1]] = p
        if captions and i < len(captions):
            texts.append((x, y + h + round(size * 0.2), captions[i]))
    if not texts:
        return sheet
    from PIL import Image, ImageDraw

    page = Image.fromarray(sheet)
    pen, font = ImageDraw.Draw(page), _font(size)
    ink = (40, 40, 40) if background > 127 else (230, 230, 230)
    for x, y, text in texts:
        pen.text((x, y), _fit(text, font, w), font=font, fill=ink)
    return np.asarray(page)


def crop(
    image: Picture,
    parts: Sequence[Objects],
    window: tuple[float, float, float, float],
    size: tuple[int, int],
) -> tuple[Picture, list[Objects]]:
    """The part `window` = (x1, y1, x2, y2) of a picture, enlarged or reduced onto `size` (H, W), with its objects.

    Objects that lie wholly outside the window leave.
    """
    image = _rgb(image)
    x1, y1, x2, y2 = window
    zoom = min(size[1] / max(x2 - x1, 1e-6), size[0] / max(y2 - y1, 1e-6))
    centre = translation(size[1] / 2, size[0] / 2) @ scaling(zoom) @ translation(-(x1 + x2) / 2, -(y1 + y2) / 2)
    warp = Warp(centre, (image.shape[0], image.shape[1]), size)
    moved = []
    for o in parts:
        m = warp.objects(o)
        b = m.boxes
        moved.append(m[(b[:, 2] >= 0) & (b[:, 3] >= 0) & (b[:, 0] <= size[1]) & (b[:, 1] <= size[0])])
    return warp.pixels(image), moved


# -- strokes ----------------------------------------------------------------------------------------------------


def _strokes(o: Objects, schema: Schema, width: int, color: Color | None) -> list[Stroke]:
    """All shapes of `o`; `color` overrides that of the class and makes lines dashed (truth)."""
    out: list[Stroke] = []
    corners = (box_corners(o.boxes) if o.obbs is None else obb_corners(o.obbs)).astype(np.float64)
    extent = (o.boxes[:, 2:] - o.boxes[:, :2]).max(axis=1, initial=0)
    order = range(len(o)) if o.scores is None else np.argsort(o.scores, kind="stable")  # strong ones end on top
    for i in order:
        ignored = bool(o.ignore[i])
        ink = IGNORED if ignored else (color or class_color(int(o.labels[i])))
        if extent[i] > 0:
            out.append(Stroke(corners[i], ink, width, dashed=ignored or color is not None))
        elif o.points is None:  # a box without extent would be invisible: mark the place
            out.append(Stroke(o.boxes[i : i + 1, :2].astype(np.float64), ink, width, radius=3.0 * width))
        if o.heading is not None and o.headed is not None and o.headed[i]:
            out.append(Stroke(_front(o, int(i)), ink, max(1, width // 2), closed=False, dashed=color is not None))
        if o.points is not None and o.visible is not None:
            truth = color is not None
            out += _skeleton(o.points[i].astype(np.float64), o.visible[i], schema, ink, width, truth)
    return out


def _front(o: Objects, i: int) -> NDArray[np.float64]:
    """From the centre of object i to the middle of its front [2,2]."""
    assert o.heading is not None
    along = np.array([math.cos(o.heading[i]), math.sin(o.heading[i])])
    if o.obbs is None:
        box = o.boxes[i].astype(np.float64)
        centre, half = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).min()) / 2
    else:
        obb = o.obbs[i].astype(np.float64)
        lengthwise = abs(math.cos(o.heading[i] - obb[4])) > math.sqrt(0.5)
        centre, half = obb[:2], float(obb[2 if lengthwise else 3]) / 2
    return np.stack([centre, centre + half * along])


def _skeleton(
    points: NDArray[np.float64],
    visible: NDArray[np.uint8],
    schema: Schema,
    ink: Color,
    width: int,
    truth: bool = False,
) -> list[Stroke]:
    """Edges, then points [K,2], each in the colour of its side; all in `ink` for truth and where no side is known."""
    thin = max(1, width // 2)
    if len(points) == 1:  # a ball is ringed, its pixels stay in view
        return [Stroke(points, ink, thin, radius=width * 3.0 + 2)] if visible[0] else []
    named = len(schema.keypoints) == len(points)
    sided = named and bool(schema.flip_pairs) and not truth and ink != IGNORED
    out = []
    for i, j, side in skeleton.edges(schema) if named else ():
        if visible[i] and visible[j]:
            color = skeleton.COLORS[side] if sided else ink
            out.append(Stroke(points[[i, j]], color, thin, closed=False, dashed=truth))
    side_of = skeleton.sides(schema) if sided else np.zeros(len(points), np.int64)
    shown = np.flatnonzero(visible)
    radius = skeleton.radius(points[shown], width)
    for k in shown:
        color = skeleton.COLORS[int(side_of[k])] if sided else ink
        out.append(Stroke(points[k : k + 1], color, thin, radius=radius, filled=bool(visible[k] >= 2)))
    return out


# -- text -------------------------------------------------------------------------------------------------------


def _tags(canvas: Picture, o: Objects, schema: Schema) -> Picture:
    """Class name and score in a filled tag at each object, high scores first, none over another."""
    from PIL import Image, ImageDraw

    h, w = canvas.shape[:2]
    size = max(9, min(64, round(math.sqrt(h * w) / 38)))
    if not len(o) or min(h, w) < 3 * size:
        return canvas
    font, page = _font(size), None
    taken = np.zeros((0, 4))
    corners = o.boxes.astype(np.float64)
    order = np.argsort(-o.scores, kind="stable") if o.scores is not None else np.arange(len(o))
    for i in order[:400]:
        label = int(o.labels[i])
        name = schema.classes[label] if label < len(schema.classes) else f"class {label}"
        parts = [] if len(schema.classes) == 1 and o.scores is not None else [name]
        parts += [f"{o.scores[i]:.2f}"] if o.scores is not None else []
        text = _fit(" ".join(parts), font, w - 4)
        tw, th = math.ceil(font.getlength(text)) + round(size * 0.5), round(size * 1.3)
        place = _place(corners[i], (tw, th), (h, w), taken)
        if place is None:
            continue
        taken = np.concatenate([taken, [place]])
        if page is None:
            page = Image.fromarray(canvas)
            pen = ImageDraw.Draw(page)
        color = class_color(label)
        pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=color)
        pen.text((place[0] + size * 0.25, place[1] + th / 2), text, font=font, fill=_ink_on(color), anchor="lm")
    return canvas if page is None else np.array(page)


def _place(
    box: NDArray[np.float64], tag: tuple[int, int], size: tuple[int, int], taken: NDArray[np.float64]
) -> tuple[float, float, float, float] | None:
    """The first free place for a tag (w, h): above the box, below it, inside at the top; None if there is none."""
    w, h = tag
    x = float(np.clip(round(box[0]), 0, max(0, size[1] - w)))
    for y in (round(box[1]) - h, round(box[3]), round(box[1])):
        r = (x, float(y), x + w, float(y + h))
        if y < 0 or y + h > size[0] or box[0] > size[1] or box[2] < 0:
            continue
        apart = (taken[:, 0] >= r[2]) | (taken[:, 2] <= r[0]) | (taken[:, 1] >= r[3]) | (taken[:, 3] <= r[1])
        if apart.all():
            return r
    return None


def _legend(canvas: Picture, objects: Objects, truth: Objects | None, schema: Schema) -> Picture:
    """The picture with a strip below: a swatch and a name per class that occurs."""
    from PIL import Image, ImageDraw

    used = set(objects.labels[~objects.ignore].tolist())
    names = [(schema.classes[c] if c < len(schema.classes) else f"class {c}", class_color(c)) for c in sorted(used)]
    ignored = bool(objects.ignore.any()) or (truth is not None and bool(truth.ignore.any()))
    if schema.flip_pairs and objects.points is not None:
        names += [(skeleton.WORDS[side], skeleton.COLORS[side]) for side in (-1, 1, 0)]
    names += [("truth", TRUTH)] if truth is not None else []
    names += [("ignored", IGNORED)] if ignored else []
    h, w = canvas.shape[:2]
    size = max(9, min(28, round(math.sqrt(h * w) / 40)))
    font, row = _font(size), round(size * 1.8)
    places, x, y = [], size, 0
    for name, color in names:
        text = _fit(name, font, max(0, w - 4 * size))
        step = round(font.getlength(text) + 2.6 * size)
        if x > size and x + step > w:
            x, y = size, y + row
        places.append((x, y, text, color))
        x += step
    strip = Image.new("RGB", (w, y + row), (32, 34, 38))
    pen = ImageDraw.Draw(strip)
    for x, y, text, color in places:
        middle = y + row / 2
        pen.rectangle((x, middle - size * 0.35, x + size * 0.7, middle + size * 0.35), fill=color)
        pen.text((x + size * 1.1, middle), text, font=font, fill=(235, 235, 235), anchor="lm")
    return np.concatenate([canvas, np.asarray(strip)])


@lru_cache(maxsize=16)
def _font(size: int) -> Any:
    """DejaVu Sans, which comes with matplotlib, so names in most alphabets are legible on every machine."""
    import importlib.util

    from PIL import ImageFont

    spec = importlib.util.find_spec("matplotlib")
    file = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if spec and spec.origin else None
    return ImageFont.truetype(str(file), size) if file and file.exists() else ImageFont.load_default(size)


def _fit(text: str, font: Any, width: float) -> str:
    """The text, cut with an ellipsis to `width` px; line breaks and control characters become blanks."""
    text = "".join(c if c.isprintable() else " " for c in text)[:200]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…" if text else ""


def _ink_on(color: Color) -> Color:
    """Black or white, whichever stands out more (relative luminance of WCAG 2, gamma taken as 2.2)."""
    r, g, b = ((c / 255) ** 2.2 for c in color)
    return (0, 0, 0) if 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 else (255, 255, 255)


# -- pictures ---------------------------------------------------------------------------------------------------


def _rgb(image: Picture) -> Picture:
    """A private, writable u8 [H,W,3] copy."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"a picture is u8 [H,W,3] (or grey [H,W]), not {image.dtype} {list(image.shape)}")
    if image.ndim == 2:
        image = image[..., None]
    return np.array(np.broadcast_to(image, (*image.shape[:2], 3)))


def _zoomed(image: Picture, zoom: float) -> tuple[Picture, Warp]:
    """The picture times `zoom`, and the warp that led there."""
    h, w = image.shape[:2]
    size = max(1, round(h * zoom)), max(1, round(w * zoom))
    warp = Warp(scaling(size[1] / w, size[0] / h), (h, w), size)
    return (image if size == (h, w) else warp.pixels(image)), warp
