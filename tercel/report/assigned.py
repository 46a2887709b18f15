"""Which priors answer for which objects, drawn: dots in the colour of their object, the larger the more they weigh.

Every object of a picture has a colour of its own, its box and its dots alike. A ring is a prior that learns the box of
its object and says no to its class. Grey are regions to ignore, and the priors that are not asked: those in such
regions, and those between positive and background.

Shape legend: H, W picture; N objects that count; P priors that answer; Q priors that are not asked; 2 = (x, y) px.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import box_corners
from tercel.core.objects import Objects
from tercel.report.draw import IGNORED, _font, _rgb, _zoomed, class_color
from tercel.report.strokes import Color, Picture, Stroke, paint

SHARPEST = 640  # px to which the longer side of a small picture is enlarged
ROWS = 3  # of the legend, at most
DIM = 0.75  # brightness that is left of the picture, so that dots stand out


@dataclass(frozen=True, eq=False)
class Assigned:
    """The priors of one picture that are positives, and those that are not asked.

    Attributes:
        points: f32 [P,2], where they are.
        truth: i64 [P], which object they answer for: its number among those that are not ignored.
        weight: f32 [P] >= 0, their quality, or what they weigh in the loss.
        answers: bool [P]; the others learn the box alone.
        quiet: f32 [Q,2].
    """

    points: NDArray[np.float32]
    truth: NDArray[np.int64]
    weight: NDArray[np.float32]
    answers: NDArray[np.bool_]
    quiet: NDArray[np.float32]

    def counts(self, objects: int) -> NDArray[np.int64]:
        """How many priors answer for each of N objects, i64 [N]."""
        return np.bincount(self.truth[self.answers], minlength=objects).astype(np.int64)


def draw_assigned(
    image: Picture, objects: Objects, assigned: Assigned, *, legend: bool = True, zoom: float = 0
) -> Picture:
    """A drawn copy of a picture, enlarged, with a strip below that counts the priors of each object.

    Args:
        image: u8 RGB [H,W,3].
        objects: truth on the canvas of the picture.
        zoom: how many times; 0: as many as keep the longer side within SHARPEST.
    """
    zoom = zoom or max(1, SHARPEST // max(objects.size))
    picture, view = _zoomed(_rgb(image), zoom)
    canvas = (picture * DIM).astype(np.uint8)
    width = max(1, round(min(canvas.shape[:2]) / 400))
    seen = view.objects(objects)
    corners = box_corners(seen.boxes).astype(np.float64)
    strokes = [Stroke(c, IGNORED, width, dashed=True) for c in corners[seen.ignore]]
    if len(assigned.quiet):
        strokes.append(Stroke(assigned.quiet.astype(np.float64) * zoom, IGNORED, 1, radius=1.2 * width, filled=True))
    strokes += [Stroke(c, class_color(i), width) for i, c in enumerate(corners[~seen.ignore])]
    paint(canvas, strokes)
    paint(canvas, _dots(assigned, zoom, width))
    return _legend(canvas, assigned, int((~objects.ignore).sum())) if legend else canvas


def _dots(assigned: Assigned, zoom: float, width: int) -> list[Stroke]:
    """Large ones first: priors of several shapes stand on one point. Sizes are relative to the object's best prior."""
    best = np.zeros(int(assigned.truth.max(initial=-1)) + 1, np.float32)
    np.maximum.at(best, assigned.truth, assigned.weight)
    share = assigned.weight / np.maximum(best[assigned.truth], 1e-12)
    radius = width * (1.5 + 3.5 * np.sqrt(share))
    points = assigned.points.astype(np.float64) * zoom
    return [
        Stroke(
            points[i : i + 1],
            class_color(int(assigned.truth[i])),
            1,
            radius=float(radius[i]),
            filled=bool(assigned.answers[i]),
        )
        for i in np.argsort(-radius, kind="stable")
    ]


def summary(assigned: Assigned, objects: int) -> str:
    """In a line: how many priors answer for N objects, and how many for each."""
    counts = assigned.counts(objects)
    words = [f"{objects} object{'s' * (objects != 1)}", f"{counts.sum()} priors answer"]
    if objects:
        words.append(f"{counts.min()} to {counts.max()} each, median {np.median(counts):g}")
    if rings := int((~assigned.answers).sum()):
        words.append(f"{rings} learn the box alone (rings)")
    if len(assigned.quiet):
        words.append(f"{len(assigned.quiet)} not asked (grey)")
    return " · ".join(words)


def _legend(canvas: Picture, assigned: Assigned, objects: int) -> Picture:
    """The picture with a strip below: the summary, then a swatch and a count per object."""
    from PIL import Image, ImageDraw

    w = canvas.shape[1]
    size = max(10, min(20, round(w / 48)))
    font, row = _font(size), round(size * 1.7)
    entries: list[tuple[float, int, str, Color]] = []
    x, y = float(size), row
    for i, count in enumerate(assigned.counts(objects).tolist()):
        step = font.getlength(str(count)) + 2.2 * size
        if x + step > w:
            x, y = float(size), y + row
        if y > ROWS * row:
            break
        entries.append((x, y, str(count), class_color(i)))
        x += step
    if left := objects - len(entries):  # the last place says how many have none
        x, y, _, _ = entries.pop()
        entries.append((x, y, f"+{left + 1}", IGNORED))
    strip = Image.new("RGB", (w, (entries[-1][1] if entries else 0) + row), (32, 34, 38))
    pen = ImageDraw.Draw(strip)
    pen.text((size, row / 2), summary(assigned, objects), font=font, fill=(235, 235, 235), anchor="lm")
    for x, y, text, color in entries:
        middle = y + row / 2
        pen.ellipse((x, middle - size * 0.35, x + size * 0.7, middle + size * 0.35), fill=color)
        pen.text((x + size, middle), text, font=font, fill=(235, 235, 235), anchor="lm")
    return np.concatenate([canvas, np.asarray(strip)])
