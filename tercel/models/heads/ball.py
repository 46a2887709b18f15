"""What the heads for balls share: targets of a window, the events branch, and the way from maps to candidates.

Shape legend: B windows of T frames; A answered frames; E events of the schema; M balls of the batch on answered frames;
K candidates; N frames whose maps are decoded; P cells of all maps, finest first, row by row; 2 = (x, y) in px of the
network's canvas, continuous.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tercel.config import Clip, Evaluate, EventHead
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.core.schema import Schema
from tercel.models.ball_losses import event_target
from tercel.models.heads.common import SURE, prior_bias
from tercel.models.layers import Conv, Norm, init_weights
from tercel.models.losses import bce, full_precision

PATH = 9  # features of `path`
AROUND = 1  # cells on every side of the highest one whose weighted mean is the ball's place
HIDDEN_OR_SEEN = 1  # lowest value of `visible` that is a ball: occluded ones count, their place is known


class BallTargets(NamedTuple):
    """Truth on the network canvas; lists of any length, nothing padded or cut."""

    window: Tensor  # i64 [M]
    slot: Tensor  # i64 [M], which of the answered frames
    points: Tensor  # f32 [M,2] px
    twin: Tensor  # i64 [M], 0 for the first ball of a frame, 1 for the second...
    motion: Tensor  # f32 [M,2] px to the ball of the window's next frame; 0 where that is not known
    moves: Tensor  # bool [M], whether it is known: both frames show the ball
    counted: Tensor  # bool [B,A], False where an ignored object makes the frame cost nothing
    events: Tensor  # f32 [B,A,E] soft targets, NaN where nothing is known about the window's events
    hits: Tensor  # f32 [B,A,E], 1 at the frame of the event itself, NaN likewise

    def to(self, device: torch.device) -> BallTargets:
        return BallTargets(*(t.to(device) for t in self))

    @property
    def batch(self) -> int:
        return int(self.counted.shape[0])


def encode_balls(
    objects: Sequence[Objects],
    events: Sequence[tuple[Event, ...]] | None,
    clip: Clip,
    schema: Schema,
    reach: int,
) -> BallTargets:
    """Targets of B windows.

    A ball with `visible` 0, or outside the canvas (its far edges belong to it), is absent; an occluded one is there.

    Args:
        objects: per window, points [N,1,2] (or boxes, whose centres count) with `frame`, the index within the window.
        events: per window, with frames counted as those of the window; they may lie before its first or after its last
            frame and still be within reach. None: nothing is known, and events cost nothing.
        reach: frames of the video within which an event is felt.

    Raises:
        TercelError: a clip's objects without `frame`, a frame beyond the window, an event that the schema lacks.
    """
    slots = {frame: slot for slot, frame in enumerate(clip.answered)}
    rows: list[tuple[int, int, int]] = []  # window, slot, twin
    places: list[list[float]] = []
    motion: list[tuple[float, float] | None] = []
    counted = np.ones((len(objects), len(slots)), bool)
    for b, o in enumerate(objects):
        frame, xy, seen = _columns(o, clip)
        by_frame = {int(f): xy[i] for i, f in enumerate(frame) if seen[i] and not o.ignore[i]}
        for f in frame[o.ignore & np.isin(frame, clip.answered)]:
            counted[b, slots[int(f)]] = False
        found: dict[int, int] = {}
        for i, f in enumerate(frame):
            if not seen[i] or o.ignore[i] or int(f) not in slots:
                continue
            slot = slots[int(f)]
            rows.append((b, slot, found.get(slot, 0)))
            found[slot] = found.get(slot, 0) + 1
            places.append(xy[i].tolist())
            after = by_frame.get(int(f) + 1)
            motion.append(None if after is None else (float(after[0] - xy[i, 0]), float(after[1] - xy[i, 1])))
    window, slot_of, twin = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).unbind(1)
    soft, exact = _events(events, len(objects), clip, schema, reach)
    return BallTargets(
        window,
        slot_of,
        torch.tensor(places, dtype=torch.float32).reshape(-1, 2),
        twin,
        torch.tensor([m or (0.0, 0.0) for m in motion], dtype=torch.float32).reshape(-1, 2),
        torch.tensor([m is not None for m in motion], dtype=torch.bool),
        torch.from_numpy(counted),
        soft,
        exact,
    )


def _columns(o: Objects, clip: Clip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame [N], place [N,2] and presence [N] of a window's objects."""
    if o.frame is None and len(o) and clip.frames > 1:
        raise TercelError("objects of a clip do not say in which frame they are", "give them the column `frame`")
    frame = np.zeros(len(o), np.int64) if o.frame is None else o.frame
    if len(frame) and (frame.min() < 0 or frame.max() >= clip.frames):
        raise TercelError(
            f"balls in frames {frame.min()} to {frame.max()} of a window of {clip.frames}",
            "count frames within the window, from 0",
        )
    xy = (o.boxes[:, :2] + o.boxes[:, 2:]) / 2 if o.points is None else o.points[:, 0]
    h, w = o.size
    inside = (xy >= 0).all(1) & (xy[:, 0] <= w) & (xy[:, 1] <= h)
    seen = inside if o.visible is None else inside & (o.visible[:, 0] >= HIDDEN_OR_SEEN)
    return frame, xy, seen


def _events(
    events: Sequence[tuple[Event, ...]] | None, batch: int, clip: Clip, schema: Schema, reach: int
) -> tuple[Tensor, Tensor]:
    """Soft targets and exact ones [B,A,E]; where several events are within reach, the nearest decides."""
    shape = (batch, len(clip.answered), len(schema.events))
    if events is None:
        return torch.full(shape, math.nan), torch.full(shape, math.nan)
    soft, exact = torch.zeros(shape), torch.zeros(shape)
    answered = torch.tensor(clip.answered)
    for b, listed in enumerate(events):
        for e in listed:
            if e.name not in schema.events:
                raise TercelError(f"event {e.name!r} is not among {list(schema.events)}", "list it in the schema")
            k = schema.events.index(e.name)
            distance = (answered - e.frame).abs() * clip.stride
            soft[b, :, k] = torch.maximum(soft[b, :, k], event_target(distance, reach))
            exact[b, :, k] = torch.maximum(exact[b, :, k], (distance == 0).float())
    return soft, exact


# -- events ---------------------------------------------------------------------------------------------------------


def event_names(config: EventHead, schema: Schema) -> int:
    """How many events the branch answers: all of the schema's, or 0 while it is off.

    Raises:
        TercelError: the branch is on and the schema has no events.
    """
    if not config.gain:
        return 0
    if not schema.events:
        raise TercelError(
            "model.head.events.gain is set, but the data has no events",
            "--set model.head.events.gain=0, or use data with events",
        )
    return len(schema.events)


class EventNet(nn.Module):
    """Event logits [B,A,E] from a map [B,W,h,w] and the ball's logits [B,A,h',w'] of the same frames.

    What it looks at: the map around the ball of every answered frame, where the ball is, and how it moves (`path`). A
    bounce shows as a turn of the path, so convolutions over time look at two frames on either side of each, twice; they
    are the same for all frames, which makes of every window as many examples as it has frames. "Around the ball" is
    around the highest probability of a frame (`peak_share`): a mean over all cells lies several cells off as soon as
    anything else is thought possible, and a bounce turns the path by less. The weights carry no gradient: events do
    not move the ball.
    """

    def __init__(self, width: int, config: EventHead, events: int, prior: float, norm: Norm) -> None:
        super().__init__()
        v = config.width
        self.reduce = Conv(width, v, 3, 2, norm=norm)
        self.time = nn.ModuleList([nn.Conv1d(v + PATH, 2 * v, 5, 1, 2), nn.Conv1d(2 * v, v, 5, 1, 2)])
        self.out = nn.Conv1d(v, events, 1)
        init_weights(self.reduce)
        for layer in self.time:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.constant_(self.out.bias, prior_bias(prior))  # type: ignore[arg-type]

    def forward(self, x: Tensor, ball: Tensor) -> Tensor:
        g = self.reduce(x)
        h, w = g.shape[-2:]
        with full_precision(g):  # small, and half precision would blur where the ball is
            p = ball.detach().float().sigmoid()
            share = peak_share(p)  # [B,A,h',w']
            at = F.adaptive_avg_pool2d(share, (h, w)).flatten(2)
            at = at / at.sum(-1, keepdim=True).clamp(min=1e-12)
            around = at @ g.float().flatten(2).transpose(1, 2)  # [B,A,V]
            y = torch.cat([around, path(share, p.amax((2, 3)))], 2).transpose(1, 2)  # [B,V+PATH,A]
            for layer in self.time:
                y = F.relu(layer(y))
            out: Tensor = self.out(y).transpose(1, 2)
            return out


def peak_share(p: Tensor) -> Tensor:
    """Weights [B,A,h,w] that sum to 1: squared probabilities within AROUND cells of the highest one, 0 elsewhere."""
    w = p.shape[-1]
    top = p.flatten(2).argmax(2)
    y, x = (torch.arange(n, device=p.device) for n in p.shape[-2:])
    rows = (y - (top // w)[..., None]).abs() <= AROUND  # [B,A,h]
    columns = (x - (top % w)[..., None]).abs() <= AROUND  # [B,A,w]
    near = p.square() * (rows[..., :, None] & columns[..., None, :])
    return near / near.sum((2, 3), keepdim=True).clamp(min=1e-12)


def path(share: Tensor, sure: Tensor) -> Tensor:
    """What the ball's path tells [B,A,PATH] from weights of places [B,A,h,w] that sum to 1, and how sure each is [B,A].

    The place in -1..1, the sureness, the step from the frame before, the step to the next one, and by how much they
    differ; steps in sixteenths of half the picture, so that a turn of a few pixels is no small number. What rests on an
    unsure frame fades with it.
    """
    h, w = share.shape[-2:]
    y, x = (torch.linspace(-1 + 1 / n, 1 - 1 / n, n, device=share.device) for n in (h, w))
    place = torch.stack([(share.sum(2) * x).sum(-1), (share.sum(3) * y).sum(-1)], -1)  # [B,A,2]
    step = 16 * (place[:, 1:] - place[:, :-1]) * (sure[:, 1:] * sure[:, :-1])[..., None]
    before, after = F.pad(step, (0, 0, 1, 0)), F.pad(step, (0, 0, 0, 1))
    inner = (
        F.pad(torch.ones_like(sure[:, 2:]), (1, 1))[..., None]
        if sure.shape[1] > 2
        else torch.zeros_like(place[..., :1])
    )
    return torch.cat([place * sure[..., None], sure[..., None], before, after, (after - before) * inner], 2)


def event_loss(logits: Tensor, targets: BallTargets) -> Tensor:
    """Sum of the cross entropies [] over answered frames and events; ignored frames and unknown events cost nothing."""
    known = targets.counted[..., None] & targets.events.isfinite()
    return (bce(logits, torch.where(known, targets.events, 0.0)) * known).sum()


def ideal_events(targets: BallTargets, events: int) -> Tensor:
    """The logits [B,A,E] of the soft targets; unknown ones are a sure no."""
    if not events:
        return torch.zeros(*targets.counted.shape, 0)
    return targets.events.nan_to_num(0.0).logit(eps=0).clamp(-SURE, SURE)


# -- from maps to candidates ----------------------------------------------------------------------------------------


def stack_maps(p: Tensor, places: Tensor) -> Tensor:
    """f32 [B,A,3,P] of probabilities [B,A,P] and places [B,A,2,P] px: (p, p x, p y)."""
    return torch.cat([p[:, :, None], p[:, :, None] * places], 2).float()


@torch.no_grad()
def find_candidates(
    maps: Tensor, shapes: Sequence[tuple[int, int]], strides: Sequence[int], settings: Evaluate, around: int
) -> tuple[Tensor, Tensor]:
    """The K highest peaks of each frame, best first; K = `settings.ball.candidates`.

    A peak is the highest cell of its 3x3 neighbourhood. Its place is its own, or with `refine` "centroid" the mean of
    the places around it, (2 around + 1)^2 cells, weighted by p, of cells with at least half the peak's p. Of peaks of
    different maps nearer to each other than the coarsest stride, the best one stays.

    Args:
        maps: f32 [N,3,P], (p, p x, p y).
        shapes: (h, w) of the maps whose cells P are.

    Returns:
        Places f32 [N,K,2] px of the canvas, NaN where there is no further peak, and their scores f32 [N,K], 0 there.
    """
    k = settings.ball.candidates
    parts = []
    for part, (h, w) in zip(maps.split([h * w for h, w in shapes], 2), shapes, strict=True):
        parts.append(_peaks(part.unflatten(2, (h, w)), k, settings.ball.refine, around))
    xy, score = torch.cat([a for a, _ in parts], 1), torch.cat([b for _, b in parts], 1)
    order = score.argsort(dim=1, descending=True, stable=True)
    score, xy = score.gather(1, order), xy.gather(1, order[..., None].expand_as(xy))
    if len(shapes) > 1:
        near = (xy[:, :, None] - xy[:, None]).norm(dim=-1) < max(strides)
        alive = torch.ones_like(score, dtype=torch.bool)
        for i in range(score.shape[1] - 1):
            alive[:, i + 1 :] &= ~(alive[:, i : i + 1] & near[:, i, i + 1 :])
        score = torch.where(alive, score, 0.0)
        order = score.argsort(dim=1, descending=True, stable=True)
        score, xy = score.gather(1, order), xy.gather(1, order[..., None].expand_as(xy))
    score, xy = score[:, :k], xy[:, :k]
    return torch.where(score[..., None] > 0, xy, math.nan), score


def _peaks(maps: Tensor, k: int, refine: str, around: int) -> tuple[Tensor, Tensor]:
    """Places [N,k,2] and scores [N,k] of the highest peaks of one map [N,3,h,w]; 0 fills up."""
    p = maps[:, 0]
    h, w = p.shape[1:]
    top = F.max_pool2d(p[:, None], 3, 1, 1)[:, 0]
    kept = min(k, h * w)
    score, at = torch.where(p == top, p, 0.0).flatten(1).topk(kept)
    r = around if refine == "centroid" else 0
    step = torch.arange(-r, r + 1, device=p.device)
    y = ((at // w)[..., None, None] + step[:, None]).expand(-1, -1, len(step), len(step)).flatten(2)  # [N,k,cells]
    x = ((at % w)[..., None, None] + step).expand(-1, -1, len(step), len(step)).flatten(2)
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    cell = (y.clamp(0, h - 1) * w + x.clamp(0, w - 1)).flatten(1)  # [N,k*cells]
    values = maps.flatten(2).gather(2, cell[:, None].expand(-1, 3, -1)).unflatten(2, (kept, -1))  # [N,3,k,cells]
    values = values * (inside & (values[:, 0] >= score[..., None] / 2))[:, None]
    mass, moment_x, moment_y = values.sum(-1).unbind(1)
    xy = torch.stack([moment_x, moment_y], -1) / mass[..., None].clamp(min=1e-30)
    return F.pad(xy, (0, 0, 0, k - kept)), F.pad(score, (0, k - kept))


def objects_of(
    xy: Tensor, score: Tensor, size: tuple[int, int], clip: Clip, settings: Evaluate
) -> tuple[list[Objects], list[bool]]:
    """Objects per window from candidates [B,A,K] above the score floor, frame by frame, best first.

    The flag of a window says that in one of its frames the last of the K candidates is still above the ball's
    threshold: more may have been cut off.
    """
    h, w = size
    capped = (score[..., -1] >= max(settings.ball.threshold, 1e-6)).any(1).tolist()
    places, scores = xy.double().cpu().numpy(), score.clamp(0, 1).cpu().numpy()
    answered = np.array(clip.answered)
    found = []
    for place, s in zip(places, scores, strict=True):
        slot, rank = np.nonzero(s > settings.score_floor)
        points = np.clip(place[slot, rank], 0, (w, h)).astype(np.float32)
        found.append(
            Objects(
                size,
                np.zeros(len(slot), np.int64),
                np.concatenate([points, points], 1),
                points=points[:, None],
                visible=np.full((len(slot), 1), 2, np.uint8),
                frame=answered[slot],
                scores=s[slot, rank],
            )
        )
    return found, capped
