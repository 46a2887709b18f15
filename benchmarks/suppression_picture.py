"""The documentation's picture of suppression: `python -m benchmarks.suppression_picture`.

The same detections on one generated crowd under every way of suppression. The detections are made up as those of a
network that is nearly trained: each person is found by several priors, the people behind with lower scores. Density and
proposals are what heads that predict them would say. All of it is generated, so the picture belongs to the project.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from benchmarks.assigner_picture import crowd, write_small
from tercel.core.geometry import box_corners, box_iou
from tercel.core.suppress import Method, survivors
from tercel.report.draw import contact_sheet
from tercel.report.strokes import Color, Picture, Stroke, paint

OUT = Path(__file__).resolve().parents[1] / "docs/images/suppression.png"
SEED, IOU, SHOWN, ZOOM = 3, 0.5, 0.3, 1.5
COPIES = 7  # detections of each person
PANELS: tuple[tuple[str, Method], ...] = (
    ("before", "none"), ("greedy", "greedy"), ("DIoU", "diou"), ("soft, Gaussian", "soft_gaussian"),
    ("soft, linear", "soft_linear"), ("adaptive", "adaptive"), ("set", "set"), ("fusion", "fusion"),
)  # fmt: skip
FOUND: Color = (86, 180, 233)
TWICE: Color = (230, 80, 40)
MISSED: Color = (255, 255, 255)


def detections(people: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [N,4], scores, densities and proposals [N] of a nearly trained network; people [M,4]."""
    rng, overlaps = np.random.default_rng(SEED), box_iou(people, people)
    np.fill_diagonal(overlaps, 0)
    who = np.repeat(np.arange(len(people)), COPIES)
    extent = np.tile(people[who, 2:] - people[who, :2], 2)
    boxes = people[who] + rng.normal(0, 1, extent.shape) * extent * 0.055
    scores = rng.uniform(0.6, 0.97, len(people))[who] * rng.beta(8, 1.5, len(who))
    density = np.clip(overlaps.max(1)[who] + rng.normal(0, 0.03, len(who)), 0, 1)
    # One proposal says its person and the one who overlaps most: copy k of both belongs together.
    partner = overlaps.argmax(1)
    pair = np.minimum(who, partner[who]) * len(people) + np.maximum(who, partner[who])
    return boxes, scores, density, pair * COPIES + np.arange(len(who)) % COPIES


def judged(people: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By falling score: which boxes find somebody whom no better one has found, bool [N]; who is found, bool [M]."""
    iou, found, right = box_iou(boxes, people), np.zeros(len(people), bool), np.zeros(len(boxes), bool)
    for i in np.argsort(-scores, kind="stable"):
        free = np.where(found, 0.0, iou[i])
        right[i] = free.max() >= IOU
        found[free.argmax()] |= right[i]
    return right, found


def panel(picture: Picture, people: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> tuple[Picture, str]:
    """The picture with what is shown of the survivors, and how many people they find."""
    shown = scores >= SHOWN
    boxes, scores = boxes[shown], scores[shown]
    right, found = judged(people, boxes, scores)
    canvas = (picture * 0.75).astype(np.uint8)
    strokes = [Stroke(c, MISSED, 2, dashed=True) for c in box_corners(people[~found] * ZOOM)]
    strokes += [Stroke(c, TWICE, 1) for c in box_corners(boxes[~right] * ZOOM)]
    strokes += [Stroke(c, FOUND, 2) for c in box_corners(boxes[right] * ZOOM)]
    paint(canvas, strokes)
    return canvas, f"{found.sum()} of {len(people)} found, {int((~right).sum())} too many"


def main() -> None:
    picture, objects = crowd()
    people = objects.boxes[~objects.ignore].astype(np.float64)
    picture = cv2.resize(picture, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_LINEAR)
    boxes, scores, density, proposal = detections(people)
    panels, captions = [], []
    for name, method in PANELS:
        kept = survivors(method, boxes, scores, IOU, density=density, proposal=proposal)
        drawn, words = panel(picture, people, kept.boxes, kept.scores)
        panels.append(drawn)
        captions.append(f"{name}: {words}")
    write_small(OUT, contact_sheet(panels, columns=4, captions=captions))


if __name__ == "__main__":
    main()
