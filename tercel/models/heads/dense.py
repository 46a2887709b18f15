"""The trainable part that dense heads share: two towers of 3x3 convolutions per map, then 1x1 predictions.

Shape legend: B pictures, A priors (all maps, finest first, row by row), C classes, N other channels per prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tercel.config import BoxHead, OrientedHead
from tercel.config import Model as ModelConfig
from tercel.core.finding import TercelError
from tercel.models.assign import Priors
from tercel.models.heads.common import make_priors, map_priors, prior_bias
from tercel.models.layers import Conv, init_weights


class Towers(nn.Module):
    """Maps of `width` channels -> class logits f32 [B,A,C], other channels f32 [B,A,N], and the priors.

    Every class channel starts at the probability `config.prior` on the coarsest map, and on a map with n times as many
    cells at an n-th of it; the others start near 0. Objects are as rare per picture on every map. One prior for all
    cells makes a fine map begin with a hundred times too many: the first updates press its towers down as a whole,
    and small objects may stay at the level of the background for the whole training (docs/log.md).

    With `shared` all maps have the same towers and the same predictions (FCOS, Tian et al. 2019), the class prediction
    apart, whose bias is the map's own: a map that objects seldom fall to learns from the others.

    Raises:
        TercelError: shared towers with batch norm, whose statistics differ from map to map.
    """

    def __init__(
        self,
        config: BoxHead | OrientedHead,
        channels: tuple[int, int],
        width: int,
        strides: Sequence[int],
        model: ModelConfig,
        shared: bool = False,
    ) -> None:
        super().__init__()
        if shared and model.norm == "batch":
            raise TercelError(
                "towers that all maps share need group norm: the statistics of batch norm differ from map to map",
                "set model.norm=group, or model.head.shared=false",
            )
        self.strides = tuple(strides)
        own = strides[:1] if shared else strides  # one set of weights for each of these

        def tower() -> nn.Sequential:
            widths = [width] + [config.width] * config.depth
            return nn.Sequential(*[Conv(a, b, norm=model.norm) for a, b in pairwise(widths)])

        last = config.width if config.depth else width
        classes, others = channels
        self.class_towers = nn.ModuleList(tower() for _ in own)
        self.side_towers = nn.ModuleList(tower() for _ in own)
        self.class_out = nn.ModuleList(nn.Conv2d(last, classes, 1) for _ in strides)
        self.side_out = nn.ModuleList(nn.Conv2d(last, others, 1) for _ in own)
        init_weights(self.class_towers)
        init_weights(self.side_towers)
        for conv in (*self.class_out, *self.side_out):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        for conv, prior in zip(self.class_out, map_priors(config.prior, strides), strict=True):
            nn.init.constant_(conv.bias, prior_bias(prior))  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Priors]:
        logits, others = [], []
        for level, x in enumerate(maps):
            i = level if len(self.side_out) > 1 else 0
            logits.append(self.class_out[level](self.class_towers[i](x)).permute(0, 2, 3, 1).flatten(1, 2))
            others.append(self.side_out[i](self.side_towers[i](x)).permute(0, 2, 3, 1).flatten(1, 2))
        shapes = [(m.shape[-2], m.shape[-1]) for m in maps]
        priors = make_priors(shapes, self.strides, maps[0].device)
        return torch.cat(logits, 1).float(), torch.cat(others, 1).float(), priors
