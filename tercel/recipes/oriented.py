"""Oriented boxes on still pictures: vehicles from the air."""

from __future__ import annotations

from dataclasses import replace

from tercel.config import (
    AnchorHead,
    Augment,
    BiFpn,
    Data,
    Evaluate,
    Fpn,
    Model,
    OrientedHead,
    Recipe,
    SmallNet,
    TimmNet,
    Train,
)


def oriented() -> Recipe:
    """Oriented boxes at 416 x 512 px, light, from scratch, minutes on two CPU cores.

    Expected (docs/benchmarks.md has the figures with their conditions): thermal drone pictures (677 for training), AP50
    .44 to .47, AP .20 to .21, persons and cars AP50 .75 and .66 to .70, in 950 to 1,150 s on two slow CPU cores; 1.9 M
    parameters.
    """
    return Recipe(
        name="oriented",
        task="oriented",
        data=Data(size=(416, 512)),
        augment=Augment(mosaic=0.3, scale=0.3, flip_vertical=0.5, close_epochs=5),
        model=Model(
            backbone=SmallNet(stem=32, widths=(32, 64, 128, 192), depths=(1, 2, 2, 1)),
            neck=Fpn(width=40),
            head=OrientedHead(width=40, depth=1, box_loss="rotated_iou"),
            strides=(4, 8, 16, 32),  # persons are 6 px wide
        ),
        train=Train(epochs=18, batch=4, lr=1.5e-3, evaluate_every=6),
        evaluate=Evaluate(suppress_iou=0.5, score_floor=0.005, max_detections=500),
    )


def aerial() -> Recipe:
    """Oriented vehicles in drone pictures at 768 x 768 px: strides from 8 on, a weighted bidirectional pyramid.

    Made for pictures scaled so that the common vehicle is about 25 px wide. For vehicles below 10 px add stride 4:
    `--set model.strides=4,8,16,32`. Expected: 2.3 M parameters; no trained
    figure yet. A GPU helps.
    """
    return Recipe(
        name="aerial",
        task="oriented",
        data=Data(size=(768, 768)),
        augment=Augment(mosaic=0.3, scale=0.3, rotate=90, flip_vertical=0.5, close_epochs=5),  # there is no "up"
        model=Model(
            backbone=SmallNet(stem=32, widths=(32, 64, 128, 192), depths=(1, 2, 2, 1)),
            neck=BiFpn(width=64, repeats=3),
            head=OrientedHead(width=64, box_loss="rotated_iou"),
        ),
        train=Train(epochs=40, batch=8, evaluate_every=4),
        evaluate=Evaluate(suppress_iou=0.5, max_detections=500, max_candidates=5000),
    )


def aerial_effdet() -> Recipe:
    """Hulls of vehicles in drone pictures at 768 x 768 px, close to EfficientDet-D2: anchors, focal loss, smooth L1.

    The pictures are turned in training, and the hulls are those of the turned oriented boxes; a detector of hulls that
    is shown a picture at many angles gives oriented boxes too. The smallest anchor has sides of 32 px
    (`model.head.base` strides of 8 px). `--set model.backbone.weights=true` fetches ImageNet weights. Expected:
    7.9 M parameters, a training step four to five times as long as that of `aerial` (one CPU core): made for a GPU. No
    trained figure yet.
    """
    oriented_one = aerial()
    return replace(
        oriented_one,
        name="aerial_effdet",
        task="boxes",
        model=Model(
            backbone=TimmNet(model="efficientnet_b2"),
            neck=BiFpn(width=112, repeats=5, extra=2),
            # EfficientDet's box loss, 50 times the mean over four deltas of a Huber loss with delta .1, in our terms
            head=AnchorHead(width=112, depth=3, separable=True, gamma=1.5, beta=0.1, box_gain=1.25),
            norm="group",  # shared by all maps; batches are small
        ),
        train=replace(oriented_one.train, lr=5e-4),
    )


def oriented_demo() -> Recipe:
    """The demo: generated vehicles from above at 320 x 384 px, minutes on two CPU cores."""
    light = oriented()
    return replace(
        light,
        name="oriented_demo",
        data=Data(size=(320, 384)),
        augment=Augment(mosaic=0.2, scale=0.2, flip_vertical=0.5, close_epochs=3),
        train=Train(epochs=12, batch=8, lr=3e-3, evaluate_every=4),
    )
