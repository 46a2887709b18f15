"""A ball as a heatmap per answered frame, with the place within the cell.

Shape legend: B windows, A answered frames, h,w cells of the map, E events, M balls of the batch, P = h*w, 2 = (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tercel.config import BallHeatmap, Clip, Evaluate, Pan
from tercel.config import Model as ModelConfig
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.core.schema import Schema
from tercel.models.ball_losses import HEATMAP_LOSSES, gaussian
from tercel.models.heads.ball import (
    BallTargets,
    EventNet,
    encode_balls,
    event_loss,
    event_names,
    find_candidates,
    ideal_events,
    objects_of,
    stack_maps,
)
from tercel.models.heads.common import SURE, Loss, prior_bias
from tercel.models.layers import init_weights
from tercel.models.losses import smooth_l1

BETA = 0.1  # cells: below this error of a place the loss is square
NEARLY = 15.0  # logit of the cells of a perfect disc beside its centre: the probability is 3e-7 less
AROUND = 2  # cells: the centroid is taken over 5x5


class HeatmapRaw(NamedTuple):
    """What the network returns, in training and evaluation alike."""

    logits: Tensor  # [B,A,h,w]
    offsets: Tensor  # [B,A,2,h,w] cells from the cell's centre to the ball; [B,A,0,h,w] without offsets
    events: Tensor  # [B,A,E], E = 0 while the branch is off
    size: tuple[int, int]  # network input (H, W)


class HeatmapNet(nn.Module):
    """The trainable part: 3x3 convolutions without norm on the finest map, then 1x1 predictions.

    A map finer than the neck's comes from sub-pixel convolution (Shi et al. 2016): the 1x1 gives the f^2 cells of each
    coarse cell at once, which costs next to nothing. Without norm, because a long head with batch norm did not
    converge where this short one did.
    """

    def __init__(
        self, config: BallHeatmap, width: int, factor: int, clip: Clip, events: int, model: ModelConfig
    ) -> None:
        super().__init__()
        a = len(clip.answered)
        widths = [width] + [config.width] * config.depth
        self.tower = nn.Sequential(
            *[m for i, o in pairwise(widths) for m in (nn.Conv2d(i, o, 3, 1, 1), nn.ReLU(inplace=True))]
        )
        self.heat = nn.Conv2d(widths[-1], a * factor**2, 1)
        self.offset = nn.Conv2d(widths[-1], 2 * a * factor**2, 1) if config.offset else None
        self.enlarge = nn.PixelShuffle(factor) if factor > 1 else nn.Identity()
        self.event = EventNet(width, config.events, events, config.prior, model.norm) if events else None
        init_weights(self.tower)
        for conv in (self.heat, self.offset):
            if conv is not None:
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one
        nn.init.constant_(self.heat.bias, prior_bias(config.prior))  # type: ignore[arg-type]  # in every channel

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> HeatmapRaw:
        x = self.tower(maps[0])
        logits = self.enlarge(self.heat(x)).float()
        b, a, h, w = logits.shape
        offsets = logits.new_zeros(b, a, 0, h, w)
        if self.offset is not None:
            offsets = self.enlarge(self.offset(x)).float().unflatten(1, (a, 2))
        events = logits.new_zeros(b, a, 0) if self.event is None else self.event(maps[0], logits)
        return HeatmapRaw(logits, offsets, events, size)


class Heatmap:
    """encode, loss, decode, ideal of the heatmap head; `net` builds its forward.

    Raises:
        TercelError: a map coarser than asked for, a schema of several classes, events without names.
    """

    def __init__(self, config: BallHeatmap, schema: Schema, strides: Sequence[int], clip: Clip) -> None:
        self.config, self.schema, self.clip, self.stride = config, schema, clip, config.stride
        if strides[0] % config.stride:
            raise TercelError(
                f"a heatmap at stride {config.stride} from a map at stride {strides[0]}",
                f"--set model.head.stride={strides[0]}" if strides[0] in (1, 2, 4) else "use a finer model.strides",
            )
        self.factor = strides[0] // config.stride
        self.n_events = event_names(config.events, schema)

    def net(self, width: int, model: ModelConfig) -> HeatmapNet:
        if isinstance(model.neck, Pan) and len(model.strides) > 1:
            raise TercelError(
                "the heatmap reads the finest map only, and the second path of a Pan neck would lead nowhere",
                "--set model.neck=Fuse, or Fpn",
            )
        return HeatmapNet(self.config, width, self.factor, self.clip, self.n_events, model)

    # -- truth ------------------------------------------------------------------------------------------------------

    def encode(self, objects: Sequence[Objects], events: Sequence[tuple[Event, ...]] | None = None) -> BallTargets:
        """Truth of a batch (see `encode_balls`)."""
        return encode_balls(objects, events, self.clip, self.schema, self.config.events.reach)

    def cells(self, points: Tensor, shape: tuple[int, int]) -> Tensor:
        """i64 [M,2]: column and row of the cell in which each place lies; the canvas's far edge is in the last one."""
        last = torch.tensor([shape[1] - 1, shape[0] - 1], device=points.device)
        return (points / self.stride).floor().long().clamp(min=0).minimum(last)

    def target(self, targets: BallTargets, shape: tuple[int, int]) -> Tensor:
        """f32 [B,A,h,w]: 1 at each ball's cell, falling off around its centre as a Gaussian or a disc.

        Distances are between cell centres in px, so that the peak is exactly 1. Of two balls in a frame the nearer
        counts.
        """
        c, device = self.config, targets.points.device
        out = torch.zeros(*targets.counted.shape, *shape, device=device)
        cells = self.cells(targets.points, shape)
        dx = (torch.arange(shape[1], device=device) - cells[:, :1]).float() * self.stride  # [M,w]
        dy = (torch.arange(shape[0], device=device) - cells[:, 1:]).float() * self.stride  # [M,h]
        if c.target == "gaussian":  # it is a product of one in x and one in y
            blobs = gaussian(dy, c.target_width)[:, :, None] * gaussian(dx, c.target_width)[:, None]
        else:
            blobs = (dy.square()[:, :, None] + dx.square()[:, None] <= (c.target_width / 2) ** 2).float()
        for twin in range(int(targets.twin.max()) + 1 if len(targets.twin) else 0):
            m = targets.twin == twin
            at = (targets.window[m], targets.slot[m])
            out[at] = torch.maximum(out[at], blobs[m])
        return out

    def neighbours(self, targets: BallTargets, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """The 3x3 cells around each ball, as far as they are on the map: ball i64 [R], column and row i64 [R,2], share.

        The share f32 [R] is one over the number of a ball's cells, so that each ball weighs 1. A cell beside two balls
        of a frame is the nearer one's.
        """
        step = torch.tensor([[x, y] for y in (-1, 0, 1) for x in (-1, 0, 1)], device=targets.points.device)
        at = self.cells(targets.points, shape)[:, None] + step  # [M,9,2]
        far = torch.tensor([shape[1], shape[0]], device=at.device)
        inside = ((at >= 0) & (at < far)).all(-1)
        inside &= targets.counted[targets.window, targets.slot][:, None]
        if targets.twin.any():
            inside &= self._nearest(targets, at, inside)
        ball, k = inside.nonzero(as_tuple=True)
        return ball, at[ball, k], 1 / inside.sum(1).clamp(min=1)[ball]

    def _nearest(self, targets: BallTargets, at: Tensor, inside: Tensor) -> Tensor:
        """bool [M,9]: of all balls that hold a cell `at` [M,9,2] (where `inside`), this one is the nearest."""
        away = (targets.points[:, None] / self.stride - at - 0.5).square().sum(-1).masked_fill(~inside, torch.inf)
        frame = (targets.window * targets.counted.shape[1] + targets.slot)[:, None, None].expand(-1, 9, 1)
        _, cell = torch.cat([frame, at], 2).flatten(0, 1).unique(dim=0, return_inverse=True)
        least = torch.full_like(away.flatten(), torch.inf).scatter_reduce_(0, cell, away.flatten(), "amin")
        return away <= least[cell].view_as(away)

    # -- loss -------------------------------------------------------------------------------------------------------

    def loss(self, raw: HeatmapRaw, targets: BallTargets) -> Loss:
        """Sums over cells, over the balls' places, and over events; the weight is the number of balls.

        The place is learnt at the ball's cell and its eight neighbours, each with its own way to the ball, so that a
        peak that is one cell off still decodes to the right place.
        """
        c = self.config
        shape = (raw.logits.shape[-2], raw.logits.shape[-1])
        cells = HEATMAP_LOSSES[c.loss](raw.logits, self.target(targets, shape))
        sums = {"heatmap": c.loss_gain * (cells * targets.counted[..., None, None]).sum()}
        if c.offset:
            ball, at, share = self.neighbours(targets, shape)
            pred = raw.offsets[targets.window[ball], targets.slot[ball], :, at[:, 1], at[:, 0]]  # [R,2]
            wanted = targets.points[ball] / self.stride - at - 0.5
            sums["offset"] = c.offset_gain * (smooth_l1(pred, wanted, BETA).sum(1) * share).sum()
        if self.n_events:
            sums["events"] = c.events.gain * event_loss(raw.events, targets)
        balls = targets.counted[targets.window, targets.slot]
        peak = self.cells(targets.points, shape)
        seen = raw.logits.detach()[targets.window, targets.slot, peak[:, 1], peak[:, 0]] > 0
        count = balls.sum()
        facts = {
            "truths": float(count),
            "positives": float(count),
            "starved": 0.0,  # every place on the canvas has its cell
            "seen": float((seen & balls).sum()),  # balls above .5 at their own cell
        }
        return Loss(sums, count.float(), facts)

    # -- answers ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def maps(self, raw: HeatmapRaw) -> Tensor:
        """f32 [B,A,3,P]: probability, and it times the place in px of the canvas."""
        h, w = raw.logits.shape[-2:]
        device = raw.logits.device
        x = (torch.arange(w, device=device) + 0.5).expand(h, w)
        y = (torch.arange(h, device=device) + 0.5)[:, None].expand(h, w)
        places = torch.stack([x, y])  # [2,h,w] cells
        shifts = raw.offsets if self.config.offset else raw.logits.new_zeros(*raw.logits.shape[:2], 1, 1, 1)
        places = places + shifts
        return stack_maps(raw.logits.sigmoid().flatten(2), places.flatten(3) * self.stride)

    def candidates(self, maps: Tensor, size: tuple[int, int], settings: Evaluate) -> tuple[Tensor, Tensor]:
        """maps [N,3,P] -> places [N,K,2] px (NaN: none) and scores [N,K], best first (see `find_candidates`)."""
        shape = (size[0] // self.stride, size[1] // self.stride)
        return find_candidates(maps, [shape], [self.stride], settings, AROUND)

    def decode(self, raw: HeatmapRaw, settings: Evaluate) -> tuple[list[Objects], list[bool]]:
        """Candidates of every window on the canvas, and whether the last one allowed is still above the threshold."""
        maps = self.maps(raw)
        xy, score = self.candidates(maps.flatten(0, 1), raw.size, settings)
        shape = maps.shape[:2]
        return objects_of(xy.unflatten(0, shape), score.unflatten(0, shape), raw.size, self.clip, settings)

    @torch.no_grad()
    def events(self, raw: HeatmapRaw) -> Tensor | None:
        """f32 [B,A,E] probabilities, or None while the branch is off."""
        return raw.events.sigmoid() if self.n_events else None

    @torch.no_grad()
    def ideal(self, targets: BallTargets, size: tuple[int, int]) -> HeatmapRaw:
        """The perfect output: what the loss wants at every cell, and every neighbour's own way to the ball.

        The focal loss wants 1 at the peak and 0 elsewhere, the others the target itself. A disc is a little surer at
        its centre, which costs nothing and says where it is.
        """
        shape = (size[0] // self.stride, size[1] // self.stride)
        wanted = self.target(targets, shape)
        cells = self.cells(targets.points, shape)
        at = (targets.window, targets.slot, cells[:, 1], cells[:, 0])
        logits = torch.full_like(wanted, -SURE) if self.config.loss == "focal" else wanted.logit(eps=0)
        logits = logits.clamp(-SURE, SURE if self.config.target == "gaussian" else NEARLY)
        if self.config.loss == "focal" and self.config.target == "disc":
            logits = torch.where(wanted == 1, NEARLY, logits)
        logits[at] = SURE
        offsets = torch.zeros(*wanted.shape[:2], 2 if self.config.offset else 0, *shape)
        if self.config.offset:
            ball, near, _ = self.neighbours(targets, shape)
            to_ball = targets.points[ball] / self.stride - near - 0.5
            offsets[targets.window[ball], targets.slot[ball], :, near[:, 1], near[:, 0]] = to_ball
        return HeatmapRaw(logits, offsets, ideal_events(targets, self.n_events), size)
