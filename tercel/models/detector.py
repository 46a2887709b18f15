"""Detector: backbone, neck and head network. No loss, no matching, no suppression inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tercel.config import Model as ModelConfig
from tercel.core.finding import TercelError
from tercel.core.schema import Schema
from tercel.models.backbones import build_backbone, divisor
from tercel.models.heads import build_head
from tercel.models.necks import build_neck, neck_strides
from tercel.models.trunks import set_activation

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: grey from red, green, blue


class Detector(nn.Module):
    """Pictures u8 [B,T,3,H,W] -> raw output of the head (fp32); `.train()` and `.eval()` return the same thing.

    T frames, and the background as one more where the clip has one. `head` holds encode, loss, decode and ideal.

    Raises:
        TercelError: a number of pictures that is not the clip's, an input size that the trunk cannot halve evenly.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, schema: Schema) -> None:
        super().__init__()
        self.config, self.schema = config, schema
        self.head = build_head(config.head, schema, neck_strides(config.neck, config.strides), config.clip)
        self.backbone = build_backbone(config.backbone, config.strides, config.norm, config.clip.planes)
        self.neck = build_neck(config.neck, self.backbone.channels, config.norm)
        self.net = self.head.net(self.neck.width, config)
        if (kind := getattr(self.backbone, "activation", None)) is not None:
            set_activation(self.neck, kind)
            set_activation(self.net, kind)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Any:
        size = check_size((images.shape[-2], images.shape[-1]), divisors(self.config))
        return self.net(self.neck(self.backbone(stack(images, self.config, self.mean, self.std))), size)


def stack(images: Tensor, config: ModelConfig, mean: Tensor, std: Tensor) -> Tensor:
    """The planes that the network sees, f32 [B,P,H,W], normalised, from pictures u8 [B,T,3,H,W].

    - rgb: red, green, blue of each picture in turn, P = 3T; the background comes last.
    - grey: luma (ITU-R BT.601) of each normalised picture, P = T; the background comes last.
    - difference: the greys as before, then each frame's grey less that of the frame before, P = T + (frames - 1). The
      background has no difference.

    Args:
        mean, std: those of `config` on the device of the images, f32 [1,3,1,1].
    """
    clip = config.clip
    if images.shape[1] != clip.pictures:
        raise TercelError(
            f"the network sees {clip.pictures} pictures at once ({clip.frames} frames"
            f"{' and the background' if clip.background else ''}), and was given {images.shape[1]}",
            "use windows of model.clip, with its background",
        )
    if clip.channels == "rgb":
        if clip.pictures == 1:
            return images.flatten(0, 1).float().sub_(mean).mul_(1 / std)  # in place: six times quicker than (x - m) / s
        b, t, _, h, w = images.shape
        x = images.permute(0, 3, 4, 1, 2).reshape(b, h, w, 3 * t).permute(0, 3, 1, 2)  # channels last, copied as u8
        return x.float().sub_(mean.repeat(1, t, 1, 1)).mul_((1 / std).repeat(1, t, 1, 1))
    share = [part / s for part, s in zip(LUMA, config.std, strict=True)]
    grey = images[:, :, 0].float().mul_(share[0])
    for c in (1, 2):
        grey.add_(images[:, :, c].float(), alpha=share[c])
    grey.sub_(sum(s * m for s, m in zip(share, config.mean, strict=True)))
    if clip.channels == "grey":
        return grey
    frames = grey[:, : clip.frames]
    return torch.cat([grey, frames[:, 1:] - frames[:, :-1]], 1)


def divisors(config: ModelConfig) -> tuple[int, ...]:
    """What the height and width of the input must be multiples of: for the backbone, and for every map of the neck."""
    return divisor(config.backbone, config.strides), *neck_strides(config.neck, config.strides)


def check_size(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[int, int]:
    """`size` if the coarsest stride divides it."""
    s = max(strides)
    if size[0] % s or size[1] % s:
        near = tuple(max(s, round(v / s) * s) for v in size)
        raise TercelError(f"input size {size[0]}x{size[1]} is not a multiple of {s}", f"use {near[0]}x{near[1]}")
    return size
