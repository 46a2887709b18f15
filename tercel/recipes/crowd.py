"""Persons in crowds, who hide each other: boxes of one class on still pictures."""

from __future__ import annotations

from dataclasses import replace

from tercel.config import (
    AnchorHead,
    Augment,
    BoxHead,
    Data,
    Evaluate,
    Fcos,
    Fpn,
    MaxIou,
    Model,
    Recipe,
    SmallNet,
    TimmNet,
    Train,
)

# Persons close together: two that overlap by .6 are two, and pictures may hold hundreds.
CROWDED = Evaluate(suppress_iou=0.6, max_detections=1000, max_candidates=5000, select="AP50")


def crowd() -> Recipe:
    """Persons at 480 x 640 px, anchor-free, light, from scratch on two CPU cores.

    Other assigners by `--set model.head.assigner=SimOta`; with MaxIou set `model.head.assigner.ratio=2.4` too, as high
    over wide as persons are. Expected: 2.1 M parameters; no trained figure yet.
    """
    return Recipe(
        name="crowd",
        task="crowd",
        data=Data(size=(480, 640)),
        augment=Augment(mosaic=0.3, scale=0.4, close_epochs=5),
        model=Model(
            backbone=SmallNet(stem=32, widths=(32, 64, 128, 192), depths=(1, 2, 2, 1)),
            neck=Fpn(width=64),
            head=BoxHead(width=64, depth=1),
        ),
        train=Train(epochs=30, batch=8, lr=1.5e-3, evaluate_every=5),
        evaluate=CROWDED,
    )


def crowd_demo() -> Recipe:
    """The demo: generated crowds at 256 x 320 px, minutes on two CPU cores.

    Expected (docs/benchmarks.md has the figures with their conditions): 320 pictures for training, mean greatest
    overlap .5: AP50 .69, MR-2 .84, JI .52 after 6 epochs, which take 45 s; the recipe has 12.
    """
    light = crowd()
    return replace(
        light,
        name="crowd_demo",
        data=Data(size=(256, 320)),
        augment=Augment(mosaic=0.2, scale=0.3, close_epochs=3),
        train=Train(epochs=12, batch=8, lr=3e-3, evaluate_every=4),
    )


def crowd_retinanet() -> Recipe:
    """RetinaNet on persons at 768 x 1024 px: ResNet-50, five maps P3 to P7, upright anchors, max-IoU, focal loss.

    Lin et al. 2017, with the ratios 1, 2, 3 of CrowdHuman's own baseline. P6 comes from P5, norms are group norm.
    `--set model.backbone.weights=true` fetches ImageNet weights. Expected: 32 M parameters, made for a GPU; no trained
    figure yet.
    """
    return replace(
        crowd(),
        name="crowd_retinanet",
        data=Data(size=(768, 1024)),  # multiples of the coarsest stride, 128
        model=Model(
            backbone=TimmNet(model="resnet50"),
            neck=Fpn(width=256, extra=2),
            head=AnchorHead(width=256, depth=4, ratios=(1.0, 2.0, 3.0)),
            norm="group",  # shared by all maps; batches are small
        ),
        train=Train(epochs=30, batch=8, lr=5e-4, evaluate_every=3),
    )


def crowd_fcos() -> Recipe:
    """FCOS on persons at 768 x 1024 px: ResNet-50, five maps P3 to P7, no anchors, one number per side, GIoU.

    Tian et al. 2019 with centre sampling. Classes learn the IoU of their box (quality focal loss) in the place of the
    centre-ness branch. `--set model.backbone.weights=true` fetches ImageNet weights. Expected: 32 M parameters, made
    for a GPU; no trained figure yet.
    """
    return replace(
        crowd_retinanet(),
        name="crowd_fcos",
        model=Model(
            backbone=TimmNet(model="resnet50"),
            neck=Fpn(width=256, extra=2),
            head=BoxHead(
                width=256, depth=4, shared=True, coder="ltrb", assigner=Fcos(), class_loss="quality", class_gain=1.0,
                box_loss="giou", box_gain=1.0,
            ),
            norm="group",
        ),
    )  # fmt: skip


def crowd_yolov3() -> Recipe:
    """YOLOv3 on persons at 608 x 608 px: Darknet-53, three upright anchors on each of three maps, cells, objectness.

    Redmon and Farhadi 2018, but for the neck (an FPN that adds), towers that all maps share, and the overlap by which a
    truth picks its anchor, which is that of the anchor in its place. The anchors are 2.4 times as high as wide, their
    heights rising by half each: not fitted to any data (`model.head.sizes`). Expected: 44 M parameters, made for a GPU;
    no trained figure yet.
    """
    sizes = (8, 20, 12.5, 30, 19, 45, 28, 68, 42, 101, 63, 152, 95, 228, 142, 342, 214, 513)
    return replace(
        crowd(),
        name="crowd_yolov3",
        data=Data(size=(608, 608)),
        model=Model(
            backbone=TimmNet(model="darknet53"),
            neck=Fpn(width=256),
            head=AnchorHead(
                width=256, depth=1, sizes=sizes, coder="cell", objectness=True, gamma=0.0, alpha=0.5,
                assigner=MaxIou(positive=1.0, negative=0.5),  # one anchor for each truth; those above .5 are not asked
            ),
            norm="group",
        ),
        train=Train(epochs=30, batch=8, lr=5e-4, evaluate_every=3),
    )  # fmt: skip
