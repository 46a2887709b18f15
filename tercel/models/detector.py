"""Detector: backbone, neck and head network. No loss, no matching, no suppression inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tercel.config import Model as ModelConfig
from tercel.core.finding import TercelError
from tercel.core.schema import Schema
from tercel.models.backbones import build_backbone
from tercel.models.heads import build_head
from tercel.models.heads.boxes import DenseRaw
from tercel.models.necks import build_neck


class Detector(nn.Module):
    """Pictures u8 [B,T,3,H,W] -> raw output of the head (fp32); `.train()` and `.eval()` return the same thing.

    Raises:
        TercelError: an input size that the coarsest stride does not divide.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, schema: Schema) -> None:
        super().__init__()
        self.config, self.schema = config, schema
        self.head = build_head(config.head, schema, config.strides)
        self.backbone = build_backbone(config.backbone, config.strides, config.norm)
        self.neck = build_neck(config.neck, self.backbone.channels, config.norm)
        self.net = self.head.net(self.neck.width, config)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> DenseRaw:
        size = check_size((images.shape[-2], images.shape[-1]), self.config.strides)
        x = images.flatten(0, 1)  # a still picture is a clip of one frame
        x = x.float().sub_(self.mean).mul_(1 / self.std)  # in place: six times quicker than (x - mean) / std
        maps = self.neck(self.backbone(x))
        raw: DenseRaw = self.net(maps, size)
        return raw


def check_size(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[int, int]:
    """`size` if the coarsest stride divides it."""
    s = max(strides)
    if size[0] % s or size[1] % s:
        near = tuple(max(s, round(v / s) * s) for v in size)
        raise TercelError(f"input size {size[0]}x{size[1]} is not a multiple of {s}", f"use {near[0]}x{near[1]}")
    return size
