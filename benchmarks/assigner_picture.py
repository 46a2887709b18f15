"""The documentation's picture of assigners: `python -m benchmarks.assigner_picture`.

One generated crowd, and what each assigner makes of it. Half of the assigners look at what the network says; here it is
made up, the same for all: every prior says the person in whose middle it is, the worse the farther out it lies, as a
network does that is half trained. All of it is generated, so the picture belongs to the project.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from tercel.config import Atss, BoxHead, Fcos, FreeAnchor, MaxIou, OneToOne, Ota, SimOta, TaskAligned
from tercel.core.files import write_atomic
from tercel.core.objects import Objects
from tercel.data.crowd_sprites import draw_street
from tercel.data.crowds import draw_crowd
from tercel.models.candidates import Truths
from tercel.models.heads.boxes import START, DenseBoxes, DenseRaw
from tercel.report.assigned import draw_assigned
from tercel.report.draw import contact_sheet
from tercel.show import assigned

OUT = Path(__file__).resolve().parents[1] / "docs/images/assigners.png"
SIZE, HORIZON, SEED = (192, 224), 45, 10
STRIDES = (8, 16, 32)
UPRIGHT = 2.4  # height over width of a person, for assigners that need a box around each prior
PANELS = (
    ("max-IoU", MaxIou(ratio=UPRIGHT)), ("ATSS", Atss()), ("FCOS", Fcos()),
    ("FreeAnchor", FreeAnchor(bag=12, ratio=UPRIGHT)), ("task-aligned", TaskAligned()), ("SimOTA", SimOta()),
    ("OTA", Ota()), ("one-to-one", OneToOne()),
)  # fmt: skip
COLOURS = 256  # of the file


def crowd() -> tuple[np.ndarray, Objects]:
    """The picture, without its noise, and the truth."""
    street = draw_street(np.random.default_rng(SEED), SIZE, HORIZON)
    drawn = draw_crowd(np.random.default_rng(SEED), street, HORIZON, overlap=0.55, people=(6, 8))
    boxes = np.array([p.full for p in drawn.people])
    ignore = np.array([p.ignore for p in drawn.people])
    smooth = cv2.bilateralFilter(drawn.image, 5, 45, 2)
    return smooth, Objects(SIZE, np.zeros(len(boxes), np.int64), boxes, ignore)


def made_up(head: DenseBoxes, truths: Truths) -> DenseRaw:
    """The output of a half-trained network."""
    priors = head.priors(SIZE)
    low, high = truths.boxes[:, :2], truths.boxes[:, 2:]
    extent = high - low
    away = ((priors.points[:, None] - (low + high) / 2) / (extent / 2)).abs().amax(2)  # [A,M], 1 on the edge
    octaves = (extent.prod(1).sqrt() / (4 * priors.strides[:, None])).log2().abs()
    near = (away + 0.5 * octaves).min(1)
    away, octaves = (x.gather(1, near.indices[:, None])[:, 0] for x in (away, octaves))
    error = torch.randn(len(away), 4, generator=torch.Generator().manual_seed(SEED))
    boxes = truths.boxes[near.indices] + error * extent[near.indices].repeat(1, 2) * (0.03 + 0.12 * away)[:, None]
    distance = torch.cat([priors.points - boxes[:, :2], boxes[:, 2:] - priors.points], 1) / priors.strides[:, None]
    scores = 0.85 * (-2 * away.square() - 0.7 * octaves).exp()
    return DenseRaw(scores.logit()[None, :, None], (distance - START)[None, :, :, None], priors, SIZE)


def main() -> None:
    picture, objects = crowd()
    panels, captions = [], []
    for name, config in PANELS:
        head = DenseBoxes(BoxHead(assigner=config, coder="ltrb"), 1, STRIDES)
        targets = head.encode([objects])
        answering = assigned(head, made_up(head, targets.truths), targets)[0]
        counts = answering.counts(len(targets.truths.image))
        panels.append(draw_assigned(picture, objects, answering, zoom=1.5, legend=False))
        span = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts.min()}"
        captions.append(f"{name}: {span} prior{'s' * int(counts.max() > 1)} for each person")
    write_small(OUT, contact_sheet(panels, columns=4, captions=captions))


def write_small(path: Path, sheet: np.ndarray) -> None:
    """As a PNG of few colours."""
    few = Image.fromarray(sheet).quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    write_atomic(path, buffer.getvalue())
    sys.stderr.write(f"{path} {sheet.shape[1]} x {sheet.shape[0]} px, {path.stat().st_size / 1024:.0f} KiB\n")


if __name__ == "__main__":
    main()
