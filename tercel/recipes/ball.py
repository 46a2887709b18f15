"""A ball in video.

All of them see grey frames and the change from each to the next: a ball that moves stands out there, and a network
that begins from nothing finds it several times sooner than in colours (docs/log.md has the comparison).
"""

from __future__ import annotations

from dataclasses import replace

from tercel.config import (
    Augment,
    Ball,
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

LIGHT = SmallNet(stem=32, widths=(32, 64, 96, 128), depths=(0, 1, 1, 1))
# Nine or ten frames through a stem of 32 channels lose what tells them apart (docs/log.md).
WIDE = SmallNet(stem=64, widths=(64, 96, 128, 128), depths=(0, 1, 1, 1))


def _model(head: BallHeatmap | BallGrid, clip: Clip, strides: tuple[int, ...] = (4, 8, 16, 32)) -> Model:
    return Model(clip=clip, backbone=LIGHT, neck=Fuse(width=32), head=head, strides=strides)


def shuttle_heatmap() -> Recipe:
    """A shuttlecock from 3 frames, a place in each of them: heatmaps at stride 4, 288 x 512 px.

    Expected (docs/benchmarks.md has the figures with their conditions): on two CPU cores about 25 s of training for
    1,000 windows; on real tennis, after generated rallies and 199 labelled frames, F1 .98 under TrackNet's rule; from
    file to csv 250 frames/s and more at 512x288.
    """
    return Recipe(
        name="shuttle_heatmap",
        task="ball",
        data=Data(size=(288, 512)),
        augment=Augment(mosaic=0, scale=0.25, shift=0.1, mask_ball=0.1, paste_ball=0.2),
        model=_model(BallHeatmap(width=32), Clip(frames=3, channels="difference")),
        train=Train(epochs=30, batch=4, lr=3e-3, evaluate_every=3),
        evaluate=Evaluate(select="F1", ball=Ball(track=True)),
    )


def shuttle() -> Recipe:
    """A shuttlecock from 10 grey frames, 10 places: a grid of cells at stride 4, 288 x 512 px.

    Expected: on generated badminton F1 .63 (recall .91) after 900 updates of 4 windows, where `shuttle_heatmap` has .84
    (docs/benchmarks.md). It learns more slowly than a heatmap: for a short training take that. Two hundred real frames
    alone are not enough for it; from those weights they are: tennis F1 .81 after 20 epochs more (docs/log.md).
    """
    clip = Clip(frames=10, channels="difference", hop=2)
    # Mined negatives learn nothing at first, and coarser cells do not find their places (docs/log.md).
    head = BallGrid(width=64, motion=True, negatives=0, neighbours=True)
    model = replace(_model(head, clip), backbone=WIDE, neck=Fuse(width=64))
    return replace(shuttle_heatmap(), name="shuttle", model=model)


def pingpong() -> Recipe:
    """A table-tennis ball from 5 frames, a place in each: heatmaps at stride 4, 288 x 512 px.

    Expected: as `shuttle_heatmap`; on real tennis F1 .98 with five frames (docs/benchmarks.md), about 35 s of training
    for 1,000 windows on two CPU cores.
    """
    model = _model(BallHeatmap(width=32), Clip(frames=5, channels="difference"))
    return replace(shuttle_heatmap(), name="pingpong", model=model)


def pingpong_events() -> Recipe:
    """A table-tennis ball with its bounces, net touches and hits, from 9 frames, trained together, 288 x 512 px.

    Expected: on generated rallies, after 1,440 updates of 4 windows, F1 .81 for the ball and, within two frames, AP .44
    for bounces and .21 for hits; a ball that is known better gives better events (docs/log.md).
    """
    head = BallHeatmap(width=64, events=EventHead(gain=3.0))
    # A moved ball has no events, so it is not moved here.
    augment = replace(shuttle_heatmap().augment, paste_ball=0.0)
    clip = Clip(frames=9, channels="difference", hop=2)
    model = replace(_model(head, clip), backbone=WIDE, neck=Fuse(width=64))
    return replace(shuttle_heatmap(), name="pingpong_events", augment=augment, model=model)


def ball_demo() -> Recipe:
    """The demo: generated table-tennis rallies at 288 x 512 px, under three minutes on two CPU cores.

    Expected: F1 of about .95 under TrackNet's rule on matches that it was not trained on.
    """
    return replace(
        shuttle_heatmap(),
        name="ball_demo",
        augment=Augment(mosaic=0, scale=0, shift=0),
        model=_model(BallHeatmap(width=32, depth=0), Clip(frames=3, channels="difference", hop=2)),
        train=Train(epochs=6, batch=4, lr=5e-3, evaluate_every=3),
    )
