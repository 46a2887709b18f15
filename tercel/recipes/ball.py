"""A ball in video."""

from __future__ import annotations

from dataclasses import replace

from tercel.config import (
    Augment,
    BallGrid,
    BallHeatmap,
    Clip,
    Data,
    Evaluate,
    EventHead,
    Fuse,
    Model,
    Recipe,
    SmallNet,
    Train,
)

LIGHT = SmallNet(stem=32, widths=(32, 64, 96, 128), depths=(1, 1, 1, 1))
CLIPS = Augment(mosaic=0, scale=0.25, shift=0.1, rotate=5, mask_ball=0.1, paste_ball=0.2)


def _model(head: BallHeatmap | BallGrid, clip: Clip, strides: tuple[int, ...] = (4, 8, 16, 32)) -> Model:
    return Model(clip=clip, backbone=LIGHT, neck=Fuse(width=64), head=head, strides=strides)


def shuttle_heatmap() -> Recipe:
    """A shuttlecock from 3 RGB frames, a place in each of them: heatmaps at stride 4, 288 x 512 px."""
    return Recipe(
        name="shuttle_heatmap",
        task="ball",
        data=Data(size=(288, 512)),
        augment=CLIPS,
        model=_model(BallHeatmap(), Clip(frames=3)),
        train=Train(epochs=30, batch=8, lr=2e-3, evaluate_every=3),
        evaluate=Evaluate(select="F1"),
    )


def shuttle() -> Recipe:
    """A shuttlecock from 10 grey frames, 10 places: a grid of cells at stride 8, 288 x 512 px."""
    clip = Clip(frames=10, channels="grey", hop=2)
    head = BallGrid(motion=True)
    return replace(shuttle_heatmap(), name="shuttle", model=_model(head, clip, (8, 16, 32)))


def pingpong() -> Recipe:
    """A table-tennis ball from 5 RGB frames: heatmaps at stride 4, 288 x 512 px."""
    return replace(shuttle_heatmap(), name="pingpong", model=_model(BallHeatmap(), Clip(frames=5)))


def pingpong_events() -> Recipe:
    """A table-tennis ball and its bounces and net touches from 9 RGB frames, trained together, 288 x 512 px."""
    head = BallHeatmap(events=EventHead(gain=1.0))
    # A moved ball has no events, so it is not moved here.
    augment = replace(CLIPS, paste_ball=0.0)
    clip = Clip(frames=9, hop=2)
    return replace(shuttle_heatmap(), name="pingpong_events", augment=augment, model=_model(head, clip))


def ball_demo() -> Recipe:
    """The demo: generated rallies at 288 x 512 px in under three minutes on two CPU cores."""
    return replace(shuttle_heatmap(), name="ball_demo", train=Train(epochs=6, batch=8, evaluate_every=2))
