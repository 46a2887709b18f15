"""Axis-aligned boxes on still pictures."""

from __future__ import annotations

from dataclasses import replace

from tercel.config import Augment, Data, Fpn, Model, Recipe, TimmNet, Train


def boxes() -> Recipe:
    """General boxes at 320 px, from scratch, minutes on two CPU cores.

    Expected (docs/benchmarks.md has the figures with their conditions): blood cells (292 training pictures).
    """
    return Recipe(name="boxes", train=Train(epochs=50), augment=Augment(close_epochs=10))


def boxes_demo() -> Recipe:
    """The demo: generated shapes at 192 x 256 px in under two minutes on two CPU cores."""
    return Recipe(
        name="boxes_demo",
        data=Data(size=(192, 256)),
        augment=Augment(mosaic=0.2, scale=0.3, close_epochs=4),
        train=Train(epochs=24, batch=8, evaluate_every=4),  # few pictures: small batches give more updates
    )


def boxes_resnet() -> Recipe:
    """A timm ResNet-18 with an FPN, for when a GPU or pretrained weights are at hand.

    `--set model.backbone.weights=true` fetches ImageNet weights (their licence is timm's to tell).
    """
    model = Model(backbone=TimmNet(model="resnet18"), neck=Fpn(width=128))
    return replace(boxes(), name="boxes_resnet", model=model, train=Train(epochs=60, lr=1e-3))
