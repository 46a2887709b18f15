"""Heads. Each is five functions: forward (its `net`), encode, loss, decode, ideal (docs/heads.md).

A new head: one module here, one line in `build_head`, one configuration class in tercel/config.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from tercel.config import (
    AnchorHead,
    BallGrid,
    BallHeatmap,
    BoxHead,
    Clip,
    KeypointHead,
    KeypointHeatmap,
    OrientedHead,
)
from tercel.core.finding import TercelError
from tercel.core.schema import Schema
from tercel.models.heads.anchors import AnchorBoxes
from tercel.models.heads.ball_grid import Grid
from tercel.models.heads.ball_heatmap import Heatmap
from tercel.models.heads.boxes import DenseBoxes
from tercel.models.heads.common import Head
from tercel.models.heads.keypoint_heatmap import PointMaps
from tercel.models.heads.keypoints import DenseKeypoints
from tercel.models.heads.oriented import DenseOriented
from tercel.models.heads.pairs import PairedBoxes


def build_head(
    config: BoxHead | AnchorHead | OrientedHead | KeypointHead | KeypointHeatmap | BallHeatmap | BallGrid,
    schema: Schema,
    strides: Sequence[int],
    clip: Clip,
) -> Head:
    """The head that a configuration class stands for.

    Args:
        strides: of the neck's maps, finest first.

    Raises:
        TercelError: a ball among several classes, or what the head itself refuses.
    """
    if isinstance(config, BoxHead):
        boxes = PairedBoxes if config.pairs else DenseBoxes
        return boxes(config, len(schema.classes), tuple(strides))
    if isinstance(config, AnchorHead):
        return AnchorBoxes(config, len(schema.classes), tuple(strides))
    if isinstance(config, OrientedHead):
        return DenseOriented(config, len(schema.classes), tuple(strides))
    if isinstance(config, KeypointHead):
        return DenseKeypoints(config, schema, tuple(strides))
    if isinstance(config, KeypointHeatmap):
        return PointMaps(config, schema, strides)
    if len(schema.classes) != 1:
        raise TercelError(
            f"a ball is one class, and the data has {list(schema.classes)}", "use data whose one class is the ball"
        )
    kind = Heatmap if isinstance(config, BallHeatmap) else Grid
    return kind(config, schema, strides, clip)  # type: ignore[arg-type]  # each gets its own
