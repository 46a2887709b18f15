"""Animals with named points on still pictures."""

from __future__ import annotations

from dataclasses import replace

from tercel.config import (
    Augment,
    BoxHead,
    Data,
    Evaluate,
    Fpn,
    Fuse,
    KeypointHead,
    KeypointHeatmap,
    Model,
    Recipe,
    SmallNet,
    Train,
)

LIGHT = SmallNet(stem=32, widths=(32, 64, 96, 128), depths=(0, 1, 1, 1))


def keypoints() -> Recipe:
    """Any number of animals per picture, each with a box and points, at 416 x 416 px.

    Expected: no figure on a real set of several animals yet; on 38 pictures of ants it trains and predicts, no more.
    """
    return Recipe(
        name="keypoints",
        task="keypoints",
        data=Data(size=(416, 416)),
        augment=Augment(mosaic=0.3, scale=0.3, rotate=180, close_epochs=5),  # seen from above there is no "up"
        model=Model(
            backbone=SmallNet(stem=32, widths=(32, 64, 128, 192), depths=(1, 2, 2, 1)),
            neck=Fpn(width=64),
            head=KeypointHead(box=BoxHead(depth=1), depth=1),
        ),
        train=Train(epochs=50, batch=8, evaluate_every=5),
        evaluate=Evaluate(select="OKS_AP"),
    )


def turtle() -> Recipe:
    """A box and points per animal at 256 x 256 px, from scratch, minutes on two CPU cores: generated turtles.

    Made for boxes that are annotated apart from the points: those cannot be turned without getting loose, so nothing is
    turned but by mirrors; `--set augment.rotate=180` where boxes are the hulls of the points. Trained for 18,000
    samples, of however many pictures there are. Expected (docs/benchmarks.md has the figures with their conditions):
    6,000 generated turtles for training, others to judge, OKS-AP .81 to .83, PCK@.05 .91, AP of the boxes .75 in under
    six minutes on two CPU cores; what is left are points that something hides.
    """
    general = keypoints()
    return replace(
        general,
        name="turtle",
        data=Data(size=(256, 256)),
        augment=Augment(mosaic=0, scale=0.1, shift=0.05, flip_vertical=0.5),
        # Which end is the head is seen from afar: the coarse maps have more layers than a detector's.
        model=replace(general.model, backbone=replace(LIGHT, depths=(0, 1, 2, 2)), neck=Fpn(width=64)),
        train=Train(epochs=9, samples=2000, batch=8, lr=6e-3, ema=0.995, evaluate_every=3),
    )


def keypoints_heatmap() -> Recipe:
    """One animal per picture, a heatmap per point, at 192 x 192 px, from scratch, minutes on two CPU cores.

    For films of single animals. Pictures with several are refused. Expected (docs/benchmarks.md has the figures with
    their conditions): flies with 32 points, 80 pictures for training: PCK@.05 .92 in 6 minutes.
    """
    return Recipe(
        name="keypoints_heatmap",
        task="keypoints",
        data=Data(size=(192, 192)),
        augment=Augment(mosaic=0, scale=0.15, shift=0.05, rotate=180),
        model=Model(
            backbone=LIGHT,
            neck=Fuse(width=48),
            head=KeypointHeatmap(target_width=10.0),
            strides=(4, 8, 16, 32),
        ),
        train=Train(epochs=250, batch=8, lr=3e-3, evaluate_every=25),
        evaluate=Evaluate(select="PCK@.05"),
    )


def keypoints_demo() -> Recipe:
    """The demo: generated turtles at 256 x 256 px, four minutes on two CPU cores, with the drawing of the set.

    Expected: OKS-AP .7 and PCK@.05 .87 on turtles that it was not trained on.
    """
    some = turtle()
    return replace(some, name="keypoints_demo", train=replace(some.train, epochs=6, evaluate_every=2))
