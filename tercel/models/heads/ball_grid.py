"""A ball on a grid: per cell and answered frame a confidence and the place, optionally motion and a hit.

Shape legend: B windows, A answered frames, C channels of the layout, P cells of all maps (finest first, row by row),
E events, M balls of the batch, R pairs (ball, cell that answers for it), K bins, 2 = (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tercel.config import BallGrid, Clip, Evaluate
from tercel.config import Model as ModelConfig
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.core.schema import Schema
from tercel.models.ball_losses import gaussian_iou, squared, weighted_bce
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
from tercel.models.heads.common import SURE, Loss, make_priors, map_priors, prior_bias
from tercel.models.layers import Conv, init_weights
from tercel.models.losses import bce, dfl, focal, smooth_l1

BETA = 0.1  # cells: below this error of a place the loss is square
MOTION = 32.0  # px: unit of the motion channels
NEARLY = 15.0  # logit of a perfect neighbour cell: 3e-7 less sure than the ball's own
SPARE = 0.05  # cells beyond its range that a sigmoid place can reach, so that the border itself is no limit
AROUND = 1  # cells: the centroid is taken over 3x3


class GridRaw(NamedTuple):
    """What the network returns, in training and evaluation alike."""

    cells: Tensor  # [B,A,C,P], channels by `Grid.layout`
    events: Tensor  # [B,A,E], E = 0 while the branch is off
    size: tuple[int, int]  # network input (H, W)


class Pairs(NamedTuple):
    """Which cell answers for which ball."""

    ball: Tensor  # i64 [R]
    cell: Tensor  # i64 [R], 0..P-1
    wanted: Tensor  # f32 [R,2]: the ball's place in cells from the cell's upper left corner
    own: Tensor  # bool [R], the ball lies in this cell (else it is a neighbour)


class GridNet(nn.Module):
    """The trainable part: 3x3 convolutions per map, then a 1x1 prediction whose channel a C + c is frame a's c."""

    def __init__(self, head: Grid, width: int, model: ModelConfig) -> None:
        super().__init__()
        c, a = head.config, len(head.clip.answered)
        self.answered, self.layout = a, head.layout
        widths = [width] + [c.width] * c.depth
        self.towers = nn.ModuleList(
            nn.Sequential(*[Conv(i, o, norm=model.norm) for i, o in pairwise(widths)]) for _ in head.strides
        )
        self.out = nn.ModuleList(nn.Conv2d(widths[-1], a * head.channels, 1) for _ in head.strides)
        self.event = EventNet(width, c.events, head.n_events, c.prior, model.norm) if head.n_events else None
        init_weights(self.towers)
        for conv, prior in zip(self.out, map_priors(c.prior, head.strides), strict=True):
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            bias = torch.zeros(a, head.channels)
            for name in ("confidence", "hit"):  # every frame's channel starts at the map's prior
                if name in head.layout:
                    bias[:, head.layout[name]] = prior_bias(prior)
            with torch.no_grad():
                conv.bias.copy_(bias.flatten())
                nn.init.normal_(conv.weight, std=0.01)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> GridRaw:
        levels = [out(tower(x)).float() for x, tower, out in zip(maps, self.towers, self.out, strict=True)]
        cells = torch.cat([x.flatten(2) for x in levels], 2).unflatten(1, (self.answered, -1))
        events = cells.new_zeros(*cells.shape[:2], 0)
        if self.event is not None:
            finest = levels[0].unflatten(1, (self.answered, -1))
            events = self.event(maps[0], finest[:, :, self.layout["confidence"]].squeeze(2))
        return GridRaw(cells, events, size)


class Grid:
    """encode, loss, decode, ideal of the grid head; `net` builds its forward.

    On every map the cell that holds the ball answers for it, with `neighbours` its eight neighbours too.

    Raises:
        TercelError: a place loss that needs bins without them, a hit that the schema lacks, events without names.
    """

    def __init__(self, config: BallGrid, schema: Schema, strides: Sequence[int], clip: Clip) -> None:
        self.config, self.schema, self.clip, self.strides = config, schema, clip, tuple(strides)
        if config.position_loss == "dfl" and config.position != "dfl":
            raise TercelError(
                "position_loss dfl needs a place as a distribution", "--set model.head.position=dfl, or another loss"
            )
        if config.hit and "hit" not in schema.events:
            raise TercelError(
                f"model.head.hit needs an event of that name; the data has {list(schema.events)}",
                "--set model.head.hit=false",
            )
        self.n_events = event_names(config.events, schema)

    @property
    def layout(self) -> dict[str, slice]:
        """The channels of a cell by name; encoder, loss and decoder all go by it."""
        c = self.config
        sizes = {"place": 2 * c.bins if c.position == "dfl" else 2, "confidence": 1}
        sizes |= {"motion": 2} if c.motion else {}
        sizes |= {"hit": 1} if c.hit else {}
        out, start = {}, 0
        for name, n in sizes.items():
            out[name] = slice(start, start + n)
            start += n
        return out

    @property
    def channels(self) -> int:
        return sum(s.stop - s.start for s in self.layout.values())

    @property
    def reach(self) -> tuple[float, float]:
        """Where a cell's answer can lie, in cells from its upper left corner: in the cell, or in its neighbours too."""
        return (-1.0, 2.0) if self.config.neighbours else (0.0, 1.0)

    def net(self, width: int, model: ModelConfig) -> GridNet:
        return GridNet(self, width, model)

    def shapes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        return [(size[0] // s, size[1] // s) for s in self.strides]

    # -- truth ------------------------------------------------------------------------------------------------------

    def encode(self, objects: Sequence[Objects], events: Sequence[tuple[Event, ...]] | None = None) -> BallTargets:
        """Truth of a batch (see `encode_balls`)."""
        return encode_balls(objects, events, self.clip, self.schema, self.config.events.reach)

    def pairs(self, targets: BallTargets, size: tuple[int, int], around: int) -> Pairs:
        """The cells on every map within `around` of each ball's own; frames that do not count have none."""
        device = targets.points.device
        side = torch.arange(-around, around + 1, device=device)
        step = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)
        balls, cells, wanted, own = [], [], [], []
        start = 0
        for (h, w), s in zip(self.shapes(size), self.strides, strict=True):
            far = torch.tensor([w, h], device=device)
            at = (targets.points / s).floor().long().clamp(min=0).minimum(far - 1)[:, None] + step  # [M,S,2]
            inside = ((at >= 0) & (at < far)).all(-1)
            inside &= targets.counted[targets.window, targets.slot][:, None]
            ball, k = inside.nonzero(as_tuple=True)
            at = at[ball, k]
            balls.append(ball)
            cells.append(start + at[:, 1] * w + at[:, 0])
            wanted.append(targets.points[ball] / s - at)
            own.append((step[k] == 0).all(-1))
            start += h * w
        return Pairs(torch.cat(balls), torch.cat(cells), torch.cat(wanted), torch.cat(own))

    # -- places -----------------------------------------------------------------------------------------------------

    def place(self, values: Tensor) -> Tensor:
        """Place [...,2] in cells from the cell's corner, of the place channels [...,2] or [...,2K].

        sigmoid: low - .05 + (high - low + .1) sigmoid(v); dfl: the mean of a distribution over K bins, the first of
        which stands for low and the last for high.
        """
        low, high = self.reach
        if self.config.position == "sigmoid":
            return low - SPARE + (high - low + 2 * SPARE) * values.sigmoid()
        bins = torch.linspace(low, high, self.config.bins, device=values.device)
        share = values.unflatten(-1, (2, self.config.bins)).softmax(-1)
        mean: Tensor = (share * bins).sum(-1)  # no matrix product: autocast would make it a half-precision one
        return mean

    def to_bins(self, wanted: Tensor) -> Tensor:
        """Places in cells -> units of bins, 0..K-1."""
        low, high = self.reach
        return ((wanted - low) * ((self.config.bins - 1) / (high - low))).clamp(0, self.config.bins - 1)

    # -- loss -------------------------------------------------------------------------------------------------------

    def loss(self, raw: GridRaw, targets: BallTargets) -> Loss:
        """Sums over cells and over the balls; the weight is the number of balls.

        What several cells say about one ball is divided by how many may (maps, times nine with neighbours), so that
        the weight stays one per ball. Negatives share that divisor.
        """
        c, layout = self.config, self.layout
        pairs = self.pairs(targets, raw.size, 1 if c.neighbours else 0)
        share = 1 / (len(self.strides) * (9 if c.neighbours else 1))
        where = (targets.window[pairs.ball], targets.slot[pairs.ball])
        values = raw.cells.transpose(2, 3)[(*where, pairs.cell)]  # [R,C]
        sums = {
            "confidence": c.confidence_gain * share * self._confidence(raw, targets, pairs),
            "position": c.position_gain * share * self._position(values[:, layout["place"]], pairs.wanted).sum(),
        }
        if c.motion:
            moves = targets.moves[pairs.ball][:, None]
            errors = smooth_l1(values[:, layout["motion"]], targets.motion[pairs.ball] / MOTION, BETA)
            sums["motion"] = c.motion_gain * share * (errors * moves).sum()
        if c.hit:
            truth = targets.hits[(*where, self.schema.events.index("hit"))]
            known = truth.isfinite()
            hits = bce(values[:, layout["hit"]][:, 0], torch.where(known, truth, 0.0))
            sums["hit"] = c.hit_gain * share * (hits * known).sum()
        if self.n_events:
            sums["events"] = c.events.gain * event_loss(raw.events, targets)
        count = targets.counted[targets.window, targets.slot].sum()
        best = torch.full((len(targets.window),), -1.0, device=values.device)
        sure = values[:, layout["confidence"]][:, 0].detach().sigmoid()
        best = best.scatter_reduce(0, pairs.ball[pairs.own], sure[pairs.own], "amax")
        facts = {
            "truths": float(count),
            "positives": float(len(pairs.ball)),
            "starved": 0.0,  # every place on the canvas has its cell
            "seen": float((best > 0.5).sum()),  # balls above .5 at one of their own cells
        }
        return Loss(sums, count.float(), facts)

    def _position(self, values: Tensor, wanted: Tensor) -> Tensor:
        """Loss [R] of the place channels of pairs."""
        c = self.config
        if c.position_loss == "dfl":
            return dfl(values.unflatten(1, (2, c.bins)), self.to_bins(wanted)).mean(1)
        place = self.place(values)
        if c.position_loss == "gaussian_iou":  # its sigma is in bins
            low, high = self.reach
            scale = (c.bins - 1) / (high - low)
            return gaussian_iou(place * scale, wanted * scale)
        per_axis = smooth_l1(place, wanted, BETA) if c.position_loss == "smooth_l1" else squared(place, wanted)
        return per_axis.sum(1)

    def _confidence(self, raw: GridRaw, targets: BallTargets, pairs: Pairs) -> Tensor:
        """Sum over the balls' cells and the hardest of the others, `negatives` per ball's cell in each window.

        Balls' cells below .5 weigh `miss_weight`; others above .5 weigh `ghost_weight`, unless they touch a ball's own
        cell.
        """
        c = self.config
        logits = raw.cells[:, :, self.layout["confidence"]].squeeze(2)  # [B,A,P]
        positive = torch.zeros_like(logits, dtype=torch.bool)
        positive[targets.window[pairs.ball], targets.slot[pairs.ball], pairs.cell] = True
        truth = positive.float()
        cells = focal(logits, truth, c.alpha, c.gamma) if c.confidence_loss == "focal" else weighted_bce(logits, truth)
        yes = logits.detach() > 0
        weight = torch.ones_like(logits)
        weight[positive & ~yes] = c.miss_weight
        if c.ghost_weight != 1:
            touching = torch.zeros_like(positive)
            near = pairs if c.neighbours else self.pairs(targets, raw.size, 1)
            touching[targets.window[near.ball], targets.slot[near.ball], near.cell] = True
            weight[yes & ~touching] = c.ghost_weight
        cells = cells * weight * targets.counted[..., None]
        if c.negatives:
            others = torch.where(positive, -1.0, cells.detach()).flatten(1)  # [B,A*P]
            allowed = c.negatives * positive.flatten(1).sum(1).clamp(min=1)
            most = min(int(allowed.max()), others.shape[1]) if len(others) else 0
            top = others.topk(most, 1).indices
            kept = torch.zeros_like(positive).flatten(1)
            kept.scatter_(1, top, torch.arange(most, device=top.device) < allowed[:, None])
            cells = cells * (positive | kept.view_as(positive))
        total: Tensor = cells.sum()
        return total

    # -- answers ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def maps(self, raw: GridRaw) -> Tensor:
        """f32 [B,A,3,P]: probability, and it times the place in px of the canvas."""
        p = raw.cells[:, :, self.layout["confidence"]].squeeze(2).sigmoid()
        priors = make_priors(self.shapes(raw.size), self.strides, p.device)
        place = self.place(raw.cells[:, :, self.layout["place"]].transpose(2, 3))  # [B,A,P,2] cells
        return stack_maps(p, (priors.points + (place - 0.5) * priors.strides[:, None]).transpose(2, 3))

    def candidates(self, maps: Tensor, size: tuple[int, int], settings: Evaluate) -> tuple[Tensor, Tensor]:
        """maps [N,3,P] -> places [N,K,2] px (NaN: none) and scores [N,K], best first (see `find_candidates`)."""
        return find_candidates(maps, self.shapes(size), self.strides, settings, AROUND)

    def decode(self, raw: GridRaw, settings: Evaluate) -> tuple[list[Objects], list[bool]]:
        """Candidates of every window on the canvas, and whether the last one allowed is still above the threshold."""
        maps = self.maps(raw)
        xy, score = self.candidates(maps.flatten(0, 1), raw.size, settings)
        shape = maps.shape[:2]
        return objects_of(xy.unflatten(0, shape), score.unflatten(0, shape), raw.size, self.clip, settings)

    def _best(self, raw: GridRaw, name: str) -> Tensor:
        """Channels [B,A,n] of the surest cell of each answered frame."""
        best = raw.cells[:, :, self.layout["confidence"]].argmax(3, keepdim=True)  # [B,A,1,1]
        values = raw.cells[:, :, self.layout[name]]
        return values.gather(3, best.expand(-1, -1, values.shape[2], -1)).squeeze(3)

    @torch.no_grad()
    def motion(self, raw: GridRaw) -> Tensor | None:
        """f32 [B,A,2] px of the canvas from each frame's ball to the next frame's, or None without motion."""
        return self._best(raw, "motion") * MOTION if self.config.motion else None

    @torch.no_grad()
    def events(self, raw: GridRaw) -> Tensor | None:
        """f32 [B,A,E] probabilities: the events branch's, or the surest cell's hit and 0 for the others, or None."""
        if self.n_events:
            return raw.events.sigmoid()
        if not self.config.hit:
            return None
        out = raw.cells.new_zeros(*raw.cells.shape[:2], len(self.schema.events))
        out[..., self.schema.events.index("hit")] = self._best(raw, "hit").squeeze(2).sigmoid()
        return out

    @torch.no_grad()
    def ideal(self, targets: BallTargets, size: tuple[int, int]) -> GridRaw:
        """The perfect output: every cell that answers for a ball says so and where; the ball's own cell is surest."""
        c, layout = self.config, self.layout
        pairs = self.pairs(targets, size, 1 if c.neighbours else 0)
        total = sum(h * w for h, w in self.shapes(size))
        cells = torch.zeros(*targets.counted.shape, total, self.channels)
        cells[..., layout["confidence"]] = -SURE
        at = (targets.window[pairs.ball], targets.slot[pairs.ball], pairs.cell)
        values = torch.zeros(len(pairs.ball), self.channels)
        values[:, layout["confidence"]] = torch.where(pairs.own, SURE, NEARLY)[:, None]
        values[:, layout["place"]] = self._ideal_place(pairs.wanted)
        if c.motion:
            values[:, layout["motion"]] = targets.motion[pairs.ball] / MOTION
        if c.hit:
            truth = targets.hits[(*at[:2], self.schema.events.index("hit"))].nan_to_num(0.0)
            values[:, layout["hit"]] = ((2 * truth - 1) * SURE)[:, None]
        cells[at] = values
        return GridRaw(cells.transpose(2, 3), ideal_events(targets, self.n_events), size)

    def _ideal_place(self, wanted: Tensor) -> Tensor:
        """Place channels [R,2] or [R,2K] that say `wanted` [R,2]."""
        low, high = self.reach
        if self.config.position == "sigmoid":
            return ((wanted - low + SPARE) / (high - low + 2 * SPARE)).logit()
        bins = self.to_bins(wanted)
        left = bins.floor().clamp(max=self.config.bins - 2).long()
        share = (bins - left)[..., None]
        logits = torch.full((*wanted.shape, self.config.bins), -2 * SURE)
        logits.scatter_(-1, left[..., None], (1 - share).clamp(min=1e-9).log())
        logits.scatter_(-1, left[..., None] + 1, share.clamp(min=1e-9).log())
        return logits.flatten(1)
