"""The points of one animal as heatmaps: K maps, one peak in each, with the place within the cell.

For pictures that show one animal each, as labs that film single animals have them. A point is a ball that is always
there: maps, losses and offsets are those of the heatmap for balls, with the K points in place of the frames.

Shape legend: B pictures, K points, h,w cells of a map, M labelled points of the batch, 2 = (x, y) in px.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tercel.config import BallHeatmap, Clip, Evaluate, KeypointHeatmap
from tercel.config import Model as ModelConfig
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.core.schema import Schema
from tercel.models.heads.ball import BallTargets
from tercel.models.heads.ball_heatmap import Heatmap, HeatmapNet, HeatmapRaw
from tercel.models.heads.common import Loss
from tercel.models.heads.keypoints import count_points, encode_maps


class PointMaps:
    """encode, loss, decode, ideal of the heatmap head for points; `net` builds its forward.

    Raises:
        TercelError: a schema of several classes, without keypoints or with more than 40; a map coarser than asked for.
    """

    def __init__(self, config: KeypointHeatmap, schema: Schema, strides: Sequence[int]) -> None:
        if len(schema.classes) != 1:
            raise TercelError(
                f"a heatmap of keypoints is for one class, and the data has {list(schema.classes)}",
                "use data with one class, or `--set model.head=KeypointHead`",
            )
        self.config, self.schema, self.count = config, schema, count_points(schema)
        maps = BallHeatmap(
            stride=config.stride,
            width=config.width,
            depth=config.depth,
            target_width=config.target_width,
            loss=config.loss,
            loss_gain=config.loss_gain,
            offset_gain=config.offset_gain,
            prior=config.prior,
        )
        self.heat = Heatmap(maps, schema, strides, Clip(frames=self.count))

    def net(self, width: int, model: ModelConfig) -> HeatmapNet:
        return self.heat.net(width, model)

    # -- truth ------------------------------------------------------------------------------------------------------

    def encode(self, objects: Sequence[Objects], events: Sequence[tuple[Event, ...]] | None = None) -> BallTargets:
        """The labelled points of a batch, as balls whose frame is the point's number.

        A hidden point (`visible` 1) is one like others: its place is known. Of an absent one nothing is known, so its
        map costs nothing. A point beyond the canvas, and all points of a picture without an animal, are nowhere on
        their maps. A picture with an ignored animal costs nothing.

        Raises:
            TercelError: several animals in a picture, objects without points or with another number of them.
        """
        for o in objects:
            if (animals := int((~o.ignore).sum())) > 1:
                raise TercelError(
                    f"a picture with {animals} animals: a heatmap of keypoints has one peak per point",
                    "use a recipe with `model.head=KeypointHead`, or pictures of single animals (and augment.mosaic=0)",
                )
        return encode_maps(objects, self.count)

    # -- loss -------------------------------------------------------------------------------------------------------

    def loss(self, raw: HeatmapRaw, targets: BallTargets) -> Loss:
        """Sums over cells and over the points' places; the weight is the number of points."""
        sums, weight, facts = self.heat.loss(raw, targets)
        animals = float(len(targets.window.unique()))
        facts |= {"points": facts["truths"], "truths": animals, "positives": facts["truths"]}
        return Loss(sums, weight, facts)

    # -- answers ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(self, raw: HeatmapRaw, settings: Evaluate) -> tuple[list[Objects], list[bool]]:
        """One animal per picture, on the network canvas, unless its score is below the floor; no cap is ever reached.

        Each point lies at the highest cell of its map, moved by that cell's offset. `point_scores` is the probability
        there, and `visible` 2 where it is above .5, else 1. The score is the mean of these; the box is derived, the
        hull of the points.
        """
        peak, at = raw.logits.flatten(2).max(-1)  # [B,K]
        width = raw.logits.shape[-1]
        shift = raw.offsets.flatten(3).gather(3, at[:, :, None, None].expand(-1, -1, 2, 1))[..., 0]
        places = (torch.stack([at % width, at // width], -1) + 0.5 + shift) * self.config.stride
        xy, sure = places.cpu().numpy(), peak.sigmoid().cpu().numpy()
        found = []
        for points, p in zip(xy, sure, strict=True):
            score = p.mean()
            some = Objects(
                raw.size,
                np.zeros(1, np.int64),
                np.concatenate([points.min(0), points.max(0)])[None],
                points=points[None],
                visible=1 + (p[None] > 0.5),
                point_scores=p[None],
                scores=np.array([score], np.float32),
            )
            found.append(some if score > settings.score_floor else some[:0])
        return found, [False] * len(found)

    def ideal(self, targets: BallTargets, size: tuple[int, int]) -> HeatmapRaw:
        """The perfect output: 1 at each point's cell and 0 elsewhere, and every neighbour's own way to the point."""
        return self.heat.ideal(targets, size)
