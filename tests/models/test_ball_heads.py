"""Heads for balls against cases by hand and slow loops. What all heads keep is in tests/contracts/test_heads.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tercel.config import Ball, BallGrid, BallHeatmap, Clip, Evaluate, EventHead, Fuse, Model, SmallNet
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Event
from tercel.core.schema import Schema
from tercel.core.warp import Warp
from tercel.models.detector import Detector
from tercel.models.heads import build_head
from tercel.models.heads.ball import EventNet, find_candidates, path, peak_share
from tercel.models.heads.ball_grid import MOTION, Grid, GridRaw
from tercel.models.heads.ball_heatmap import Heatmap

SIZE = (96, 160)
THREE = Clip(frames=3)
BALL = Schema(("ball",))
ALL = Schema(("ball",), events=("bounce", "net", "hit"))


def points(xy: Any, frame: Any, visible: Any = 2, size: tuple[int, int] = SIZE, **more: Any) -> Objects:
    xy = np.asarray(xy, np.float32).reshape(-1, 2)
    seen = np.broadcast_to(visible, len(xy)).reshape(-1, 1)
    boxes = np.concatenate([xy, xy], 1)
    return Objects(size, np.zeros(len(xy), int), boxes, points=xy[:, None], visible=seen, frame=frame, **more)


def heatmap(clip: Clip = THREE, schema: Schema = BALL, stride: int = 4, **settings: Any) -> Heatmap:
    return Heatmap(BallHeatmap(stride=stride, **settings), schema, (stride,), clip)  # type: ignore[arg-type]


def grid(clip: Clip = THREE, schema: Schema = BALL, strides: tuple[int, ...] = (8,), **settings: Any) -> Grid:
    return Grid(BallGrid(**settings), schema, strides, clip)


# -- encode ceiling: 10,000 places of a 1280 x 720 frame --------------------------------------------------------------

SOURCE, CANVAS = (720, 1280), (288, 512)
SHARP = Evaluate(score_floor=0.5, ball=Ball(candidates=80))


def anywhere(rng: np.random.Generator, n: int, cell: float) -> np.ndarray:
    """n places: some on cell borders in x or y, some on the frame's edges, some in its corners."""
    xy = rng.uniform(0, 1, (n, 2)) * (SOURCE[1], SOURCE[0])
    snapped = np.round(xy / cell) * cell
    edges = np.where(rng.random((n, 2)) < 0.5, 0.0, (SOURCE[1], SOURCE[0]))
    draw = rng.random((n, 2))
    return np.where(draw < 0.05, edges, np.where(draw < 0.3, snapped, xy))


def frames_of(rng: np.random.Generator, total: int, per_frame: int, cell: float, apart: float) -> list[np.ndarray]:
    """`total` places in frames of at most `per_frame`, no two of a frame nearer than `apart` px."""
    out: list[np.ndarray] = []
    while sum(map(len, out)) < total:
        some = anywhere(rng, 2 * per_frame, cell)
        near = np.tril(np.hypot(*(some[:, None] - some).transpose(2, 0, 1)) <= apart, -1).any(1)
        out.append(some[~near][:per_frame])
    return out


@pytest.mark.parametrize(
    "head",
    [
        *[heatmap(Clip(), stride=s) for s in (1, 2, 4)],
        heatmap(Clip(), target="disc", loss="weighted_bce"),
        heatmap(Clip(), loss="adaptive_wing"),
        *[grid(Clip(), strides=(s,), position=p) for s in (8, 16, 32) for p in ("sigmoid", "dfl")],
        grid(Clip(), strides=(16,), neighbours=True),
        grid(Clip(), strides=(16,), neighbours=True, position="dfl"),
        grid(Clip(), strides=(8, 16, 32)),
    ],
    ids=lambda h: f"{type(h).__name__}-{getattr(h, 'strides', None) or h.stride}-{h.config.__dict__.get('position')}",
)
def test_encode_ceiling_of_ten_thousand_places(head: Any) -> None:
    """The perfect output decodes to less than .1 px from the truth, on the original frame."""
    rng = np.random.default_rng(0)
    warp = Warp.letterbox(SOURCE, CANVAS)
    stride = max(head.strides) if isinstance(head, Grid) else head.stride
    per_frame = {1: 80, 2: 60, 4: 40, 8: 12, 16: 4, 32: 2}[stride]
    groups = frames_of(rng, 10_000, per_frame, stride * 2.5, 12 * stride)
    worst, n = 0.0, 0
    for at in range(0, len(groups), 8):
        truth = [points(g, np.zeros(len(g), int), size=SOURCE) for g in groups[at : at + 8]]
        raw = head.ideal(head.encode([warp.objects(o) for o in truth]), CANVAS)
        for o, found in zip(truth, head.decode(raw, SHARP)[0], strict=True):
            back = warp.inverse().objects(found).points[:, 0]
            distance = np.hypot(*(o.points[:, 0][:, None] - back[None]).transpose(2, 0, 1))
            assert distance.shape[1] >= len(o)
            worst, n = max(worst, float(distance.min(1).max())), n + len(o)
    assert n >= 10_000
    assert worst < 0.1


def test_a_ball_at_the_far_left_is_not_at_the_far_top() -> None:
    """An asymmetric probe (shuttle-24): x and y cannot change places unseen."""
    for head in (heatmap(Clip()), grid(Clip())):
        raw = head.ideal(head.encode([points([[150.0, 30.0]], [0])]), SIZE)
        found = head.decode(raw, SHARP)[0][0]
        np.testing.assert_allclose(found.points[:, 0], [[150.0, 30.0]], atol=0.01)


# -- truth ------------------------------------------------------------------------------------------------------------


def test_who_is_a_ball() -> None:
    """Absent is a flag; occluded balls are there; beyond the canvas there is none, its edges belong to it."""
    xy = [[0, 0], [160, 96], [-0.1, 5], [5, 96.1], [80, 40], [81, 40], [82, 40]]
    o = points(xy, [0, 1, 2, 3, 4, 5, 6], [2, 2, 2, 2, 0, 1, 3])
    t = heatmap(Clip(frames=7)).encode([o])
    assert t.slot.tolist() == [0, 1, 5, 6]
    assert t.points.tolist() == [[0, 0], [160, 96], [81, 40], [82, 40]]
    assert t.counted.all()


@pytest.mark.parametrize(("answers", "slots"), [("all", [0, 1, 2, 3, 4]), ("last", [4]), ("middle", [2])])
def test_which_frames_are_answered(answers: Any, slots: list[int]) -> None:
    """Truth of other frames leaves; what is decoded carries its frame of the window."""
    clip = Clip(frames=5, answers=answers)
    xy = [[10.0 * (i + 1), 8.0 * (i + 1)] for i in range(5)]
    for head in (heatmap(clip), grid(clip)):
        t = head.encode([points(xy, range(5))])
        assert t.slot.tolist() == list(range(len(slots)))
        found = head.decode(head.ideal(t, SIZE), SHARP)[0][0]
        assert found.frame.tolist() == slots
        np.testing.assert_allclose(found.points[:, 0], [xy[i] for i in slots], atol=0.01)
        assert (found.visible == 2).all()


def test_motion_needs_both_frames() -> None:
    """To the next frame of the window, answered or not; nothing where the next is absent or ignored (shuttle-23)."""
    o = points([[10, 20], [14, 17], [20, 30], [50, 60], [52, 61]], [0, 1, 3, 4, 5], [2, 2, 2, 2, 0])
    t = grid(Clip(frames=6), motion=True).encode([o])
    assert t.moves.tolist() == [True, False, True, False]
    assert t.motion.tolist() == [[4, -3], [0, 0], [30, 30], [0, 0]]
    middle = grid(Clip(frames=3, answers="middle")).encode([points([[10, 20], [14, 17]], [1, 2])])
    assert middle.motion.tolist() == [[4, -3]]
    ignored = points([[10, 20], [14, 17]], [0, 1], ignore=[False, True])
    assert not grid(Clip(frames=2)).encode([ignored]).moves.any()


def test_motion_is_decoded_as_it_was_encoded() -> None:
    head = grid(Clip(frames=2), motion=True)
    t = head.encode([points([[10, 20], [150, 3]], [0, 1])])
    assert head.motion(head.ideal(t, SIZE))[0, 0].tolist() == pytest.approx([140, -17], abs=1e-3)


def test_an_unknown_motion_costs_nothing() -> None:
    head = grid(Clip(frames=3), motion=True)
    t = head.encode([points([[10, 20], [30, 40]], [0, 2])])
    raw = head.ideal(t, SIZE)
    wild = raw.cells.clone()
    wild[:, :, head.layout["motion"]] += 50
    assert float(head.loss(raw._replace(cells=wild), t).sums["motion"]) == 0


def test_an_ignored_object_takes_its_frame_out() -> None:
    o = points([[10, 20], [30, 40]], [0, 1], ignore=[True, False])
    for head in (heatmap(Clip(frames=2)), grid(Clip(frames=2))):
        t = head.encode([o])
        assert t.counted.tolist() == [[False, True]]
        raw = head.ideal(t, SIZE)
        before = float(head.loss(raw, t).total)
        name = "logits" if isinstance(head, Heatmap) else "cells"
        x = getattr(raw, name).clone()
        x[:, 0] = 9.0
        assert float(head.loss(raw._replace(**{name: x}), t).total) == pytest.approx(before, abs=1e-6)
        assert float(head.loss(raw, t).weight) == 1


def test_events_are_felt_within_reach_and_beyond_the_window() -> None:
    """cos(n pi / 8), n in frames of the video: one step of the window is `stride` of them."""
    events = EventHead(gain=1.0, reach=4)
    listed = (Event(-2, "bounce"), Event(2, "net"), Event(3, "net"), Event(99, "hit"))
    t = heatmap(Clip(frames=3), ALL, events=events).encode([points([], [])], [listed])
    c = [math.cos(n * math.pi / 8) for n in range(4)]
    expected = [[c[2], c[2], 0], [c[3], c[1], 0], [0, c[0], 0]]
    torch.testing.assert_close(t.events[0], torch.tensor(expected))
    assert t.hits[0].nonzero().tolist() == [[2, 1]]
    wide = heatmap(Clip(frames=3, stride=3), ALL, events=events).encode([points([], [])], [(Event(1, "bounce"),)])
    torch.testing.assert_close(wide.events[0, :, 0], torch.tensor([c[3], 1.0, c[3]]))


def test_unknown_events_cost_nothing() -> None:
    head = heatmap(Clip(frames=2), ALL, events=EventHead(gain=1.0))
    t = head.encode([points([[9, 9]], [0])])
    raw = head.ideal(t, SIZE)
    assert float(head.loss(raw._replace(events=raw.events + 7), t).sums["events"]) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: heatmap(Clip(frames=2)).encode([points([[1, 1]], [2])]), "window of 2"),
        (lambda: heatmap(Clip(frames=2)).encode([points([[1, 1]], None)]), "in which frame"),
        (lambda: heatmap(Clip(), ALL).encode([points([], [])], [(Event(0, "serve"),)]), "'serve' is not among"),
        (lambda: heatmap(Clip(), events=EventHead(gain=1.0)), "the data has no events"),
        (lambda: grid(hit=True), "needs an event of that name"),
        (lambda: grid(position_loss="dfl"), "place as a distribution"),
        (lambda: Heatmap(BallHeatmap(stride=4), BALL, (2,), Clip()), "from a map at stride 2"),
        (lambda: build_head(BallHeatmap(), Schema(("ball", "player")), (4,), Clip()), "a ball is one class"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(TercelError, match=message):
        make()


# -- heatmap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "disc"])
def test_heatmap_target_by_hand(kind: Any) -> None:
    head = heatmap(Clip(frames=2), target=kind, target_width=13.0)
    balls = [(33.9, 17.0, 0), (60.0, 20.1, 0), (159.9, 95.9, 1)]
    t = head.encode([points([b[:2] for b in balls], [b[2] for b in balls])])
    out = head.target(t, (24, 40))
    for f in range(2):
        for row in range(24):
            for column in range(40):
                values = [0.0]
                for x, y, frame in balls:
                    d2 = ((column - x // 4) ** 2 + (row - y // 4) ** 2) * 16
                    value = math.exp(-4 * math.log(2) * d2 / 169) if kind == "gaussian" else float(d2 <= 42.25)
                    values += [value] if frame == f else []
                assert float(out[0, f, row, column]) == pytest.approx(max(values), abs=1e-6)
    assert (out == 1).sum() == 3 or kind == "disc"


def test_a_disc_smaller_than_a_cell_still_has_its_cell() -> None:
    head = heatmap(Clip(), target="disc", target_width=2.0)
    assert head.target(head.encode([points([[33, 17]], [0])]), (24, 40)).nonzero().tolist() == [[0, 0, 4, 8]]


def test_a_peak_one_cell_off_still_decodes_to_the_ball() -> None:
    head = heatmap(Clip())
    t = head.encode([points([[33, 17]], [0])])
    raw = head.ideal(t, SIZE)
    raw.logits[0, 0, 5, 7] = 30.0  # the ball's own cell is row 4, column 8
    np.testing.assert_allclose(head.decode(raw, SHARP)[0][0].points[0, 0], [33, 17], atol=1e-3)


def test_no_offset_means_the_centre_of_the_cell_or_the_centroid() -> None:
    head = heatmap(Clip(), offset=False)
    raw = head.ideal(head.encode([points([[33, 17]], [0])]), SIZE)
    assert raw.offsets.shape == (1, 1, 0, 24, 40)
    assert head.decode(raw, SHARP)[0][0].points[0, 0].tolist() == [34, 18]
    raw.logits[0, 0, 4, 9] = 1.0  # sigmoid .731, more than half the peak's
    raw.logits[0, 0, 4, 10] = -1.0  # .269, less
    centroid = replace(SHARP, ball=Ball(refine="centroid"))
    x = (34 + 38 * 0.7310586) / 1.7310586
    np.testing.assert_allclose(head.decode(raw, centroid)[0][0].points[0, 0], [x, 18], atol=1e-3)


def test_a_finer_map_than_the_necks_is_shuffled_into_place() -> None:
    """The channel of sub-cell (dy, dx) lands there, frame by frame (layout probe)."""
    head = Heatmap(BallHeatmap(stride=2, width=8, depth=0), BALL, (8,), Clip(frames=2))
    net = head.net(8, Model(neck=Fuse()))
    with torch.no_grad():
        for conv in (net.heat, net.offset):
            conv.weight.zero_()
            conv.bias.copy_(torch.arange(len(conv.bias)))
    raw = net([torch.zeros(1, 8, 3, 5)], (24, 40))
    assert raw.logits.shape == (1, 2, 12, 20)
    block = torch.arange(16.0).view(4, 4).repeat(3, 5)
    assert torch.equal(raw.logits[0], torch.stack([block, block + 16]))
    assert torch.equal(raw.offsets[0, 1, 1], block + 3 * 16)


# -- grid -------------------------------------------------------------------------------------------------------------


def test_grid_layout_is_what_the_network_fills() -> None:
    """Every channel filled with its own number comes out at (frame, channel) (turtle-1, shuttle-30)."""
    clip = Clip(frames=3)
    head = grid(clip, ALL, (8, 16), position="dfl", bins=4, motion=True, hit=True)
    assert head.layout == {
        "place": slice(0, 8),
        "confidence": slice(8, 9),
        "motion": slice(9, 11),
        "hit": slice(11, 12),
    }
    net = head.net(8, Model(norm="group"))
    with torch.no_grad():
        for level, conv in enumerate(net.out):
            conv.weight.zero_()
            conv.bias.copy_(torch.arange(len(conv.bias)) + 100.0 * level)
    raw = net([torch.zeros(1, 8, 4, 6), torch.zeros(1, 8, 2, 3)], (32, 48))
    ids = torch.arange(36.0).view(3, 12, 1)
    expected = torch.cat([ids.expand(3, 12, 24), ids.expand(3, 12, 6) + 100], 2)
    assert torch.equal(raw.cells[0], expected)


def test_hard_negatives_by_hand() -> None:
    """All of the balls' cells, and three times as many of the hardest others of each window; three without a ball."""
    head = grid(Clip(), alpha=0.5, gamma=0.0, negatives=3)
    t = head.encode([points([[12, 12]], [0]), points([], [])])
    raw = head.ideal(t, SIZE)
    logits = torch.linspace(-6, -1, 240).repeat(2, 1)
    raw.cells[:, 0, head.layout["confidence"].start] = logits
    p = logits.sigmoid()
    own = 1 * 20 + 1
    expected = -0.5 * (math.log(p[0, own]) + sum(math.log(1 - v) for v in [*p[0, -3:], *p[1, -3:]]))
    assert float(head.loss(raw, t).sums["confidence"]) == pytest.approx(expected, rel=1e-5)


def test_misses_and_ghosts_weigh_more_except_beside_the_ball() -> None:
    settings: dict[str, Any] = {"alpha": 0.5, "gamma": 0.0, "negatives": 0}
    plain = grid(Clip(), **settings)
    heavy = grid(Clip(), **settings, miss_weight=5, ghost_weight=7)
    t = plain.encode([points([[12, 12]], [0])])
    channel, own = plain.layout["confidence"].start, 21

    def change(cell: int, logit: float) -> float:
        """How much the heavy loss has over the plain one, in units of that cell's plain loss."""
        raw = plain.ideal(t, SIZE)
        raw.cells[0, 0, channel, cell] = logit
        a, b = (float(h.loss(raw, t).sums["confidence"]) for h in (plain, heavy))
        return b / a

    assert change(own, -1.0) == pytest.approx(5, rel=1e-3)  # a ball below .5
    assert change(own, 1.0) == pytest.approx(1, rel=1e-3)
    assert change(own + 2, 1.0) == pytest.approx(7, rel=1e-3)  # a ghost
    assert change(own + 2, -1.0) == pytest.approx(1, rel=1e-3)
    assert change(own + 1, 1.0) == pytest.approx(1, rel=1e-3)  # beside the ball
    assert change(own + 21, 1.0) == pytest.approx(1, rel=1e-3)


def test_neighbours_answer_for_the_ball() -> None:
    head = grid(Clip(), neighbours=True)
    t = head.encode([points([[12, 12]], [0]), points([[0.5, 0.5]], [0])])
    pairs = head.pairs(t, SIZE, 1)
    assert sorted(pairs.cell[pairs.ball == 0].tolist()) == [0, 1, 2, 20, 21, 22, 40, 41, 42]
    assert sorted(pairs.cell[pairs.ball == 1].tolist()) == [0, 1, 20, 21]
    raw = head.ideal(t, SIZE)
    maps = head.maps(raw)[0, 0]
    places = (maps[1:] / maps[:1])[:, [0, 1, 2, 20, 21, 22, 40, 41, 42]]
    torch.testing.assert_close(places, torch.full((2, 9), 12.0), atol=1e-3, rtol=0)
    assert len(head.decode(raw, SHARP)[0][0]) == 1  # one ball, not nine


def test_hits_are_read_at_the_surest_cell() -> None:
    head = grid(Clip(frames=2), ALL, hit=True)
    t = head.encode([points([[12, 12], [40, 40]], [0, 1])], [(Event(1, "hit"), Event(0, "net"))])
    raw = head.ideal(t, SIZE)
    out = head.events(raw)
    assert out is not None
    torch.testing.assert_close(out[0], torch.tensor([[0.0, 0, 0], [0, 0, 1]]), atol=1e-6, rtol=0)
    assert float(head.loss(raw, t).sums["hit"]) < 1e-6
    assert grid().events(GridRaw(torch.zeros(1, 3, 3, 240), torch.zeros(1, 3, 0), SIZE)) is None


# -- candidates -------------------------------------------------------------------------------------------------------


def as_maps(p: torch.Tensor, stride: int) -> torch.Tensor:
    """[3,h*w] of probabilities [h,w] at cell centres."""
    h, w = p.shape
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    return torch.stack([p, p * x * stride, p * y * stride]).flatten(1)


def test_candidates_are_peaks_best_first() -> None:
    p = torch.zeros(6, 8)
    p[1, 1], p[1, 2], p[4, 6], p[5, 0] = 0.9, 0.8, 0.95, 0.3
    settings = Evaluate(ball=Ball(candidates=5))
    xy, score = find_candidates(as_maps(p, 10)[None], [(6, 8)], [10], settings, 1)
    assert score[0].tolist() == pytest.approx([0.95, 0.9, 0.3, 0, 0])
    torch.testing.assert_close(xy[0, :3], torch.tensor([[65.0, 45], [15, 15], [5, 55]]))
    assert xy[0, 3:].isnan().all()


def test_more_candidates_than_cells_fill_up_with_nothing() -> None:
    xy, score = find_candidates(as_maps(torch.ones(1, 1), 4)[None], [(1, 1)], [4], Evaluate(ball=Ball(candidates=4)), 1)
    assert score.tolist() == [[1, 0, 0, 0]]
    assert xy[0, 0].tolist() == [2, 2]
    assert xy[0, 1:].isnan().all()


def test_the_same_ball_on_two_maps_is_one_candidate() -> None:
    fine, coarse = torch.zeros(8, 8), torch.zeros(4, 4)
    fine[2, 2], fine[7, 7] = 0.7, 0.6
    coarse[1, 1] = 0.9
    maps = torch.cat([as_maps(fine, 10), as_maps(coarse, 20)], 1)[None]
    xy, score = find_candidates(maps, [(8, 8), (4, 4)], [10, 20], Evaluate(ball=Ball(candidates=3)), 1)
    assert score[0].tolist() == pytest.approx([0.9, 0.6, 0])
    torch.testing.assert_close(xy[0, :2], torch.tensor([[30.0, 30], [75, 75]]))


def test_averaged_maps_average_places_by_probability() -> None:
    """Two windows over one frame: p is their mean, the place leans to the surer one (decision 14)."""
    head = heatmap(Clip())
    one, two = (head.ideal(head.encode([points([xy], [0])]), SIZE) for xy in ([33.0, 17.0], [35.0, 18.0]))
    two.logits[0, 0, 4, 8] = 0.0
    mean = (head.maps(one) + head.maps(two))[0] / 2
    xy, score = head.candidates(mean, SIZE, Evaluate())
    assert float(score[0, 0]) == pytest.approx(0.75, abs=1e-6)
    assert xy[0, 0].tolist() == pytest.approx([33 * 2 / 3 + 35 / 3, 17 * 2 / 3 + 18 / 3], abs=1e-3)


def test_reaching_the_cap_is_said() -> None:
    head = heatmap(Clip(frames=2))
    t = head.encode([points([[12, 12], [60, 60]], [0, 0]), points([[12, 12], [60, 60]], [0, 1])])
    raw = head.ideal(t, SIZE)
    assert head.decode(raw, Evaluate(ball=Ball(candidates=2)))[1] == [True, False]
    assert head.decode(raw, Evaluate(ball=Ball(candidates=3)))[1] == [False, False]


# -- facts, events branch, training -----------------------------------------------------------------------------------


def test_facts_count_the_balls() -> None:
    for head, positives in ((heatmap(), 3), (grid(strides=(8, 16), neighbours=True), 2 * 3 * 9)):
        t = head.encode([points([[40, 40], [60, 60]], [0, 1]), points([[80, 40]], [2])])
        facts = head.loss(head.ideal(t, SIZE), t).facts
        assert facts == {"truths": 3, "positives": positives, "starved": 0, "seen": 3}
        blind = head.ideal(head.encode([points([], [])] * 2), SIZE)
        assert head.loss(blind, t).facts["seen"] == 0


def test_events_do_not_move_the_ball() -> None:
    """The attention reads the ball's logits without a gradient, and looks where they are highest."""
    torch.manual_seed(0)
    net = EventNet(4, EventHead(width=8), 3, 0.01, "group")
    x = torch.randn(1, 4, 12, 20, requires_grad=True)
    ball = torch.randn(1, 2, 24, 40, requires_grad=True)
    out = net(x, ball)
    assert out.shape == (1, 2, 3)
    out.sum().backward()
    assert ball.grad is None
    assert x.grad is not None
    elsewhere = ball.detach().clone()
    elsewhere[0, 1, 5, 5] = 30.0
    assert not torch.equal(net(x, elsewhere), out)


def test_the_path_that_events_read_is_that_of_the_peak() -> None:
    """A second thing that is half as likely, and a faint everywhere, move the place by nothing and the step by nothing.

    A mean over all cells would lie 15 cells off, and a bounce turns a path by one or two.
    """
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(40.0), indexing="ij")
    truth = [(10.0, 8.0), (12.5, 9.25), (15.0, 10.5)]
    frames = []
    for cx, cy in truth:
        ball = 0.9 * torch.exp(-((x - cx).square() + (y - cy).square()) / 2)
        lamp = 0.45 * torch.exp(-((x - 35).square() + (y - 20).square()) / 2)
        frames.append(torch.maximum(ball, lamp).clamp(min=0.02))
    p = torch.stack(frames)[None]
    told = path(peak_share(p), p.amax((2, 3)))[0]
    place = told[:, :2] / told[:, 2:3]
    wanted = torch.tensor([[(cx + 0.5) / 20 - 1, (cy + 0.5) / 12 - 1] for cx, cy in truth])
    assert (place - wanted).abs().max() < 0.3 / 12
    torch.testing.assert_close(peak_share(p).sum((2, 3)), torch.ones(1, 3))


def moving_dots(seed: int, batch: int, frames: int) -> tuple[torch.Tensor, list[Objects]]:
    """A white disc on noise, falling; it turns up again in the middle."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 120, (batch, frames, 3, *SIZE)).astype(np.uint8)
    yy, xx = np.mgrid[0 : SIZE[0], 0 : SIZE[1]] + 0.5
    truth = []
    for b in range(batch):
        start, step = rng.uniform((20, 20), (120, 60)), rng.uniform((-8, -4), (8, 8))
        xy = np.array([start + step * f for f in range(frames)])
        for f, (x, y) in enumerate(xy):
            images[b, f][:, (xx - x) ** 2 + (yy - y) ** 2 < 9] = 255
        truth.append(points(xy, range(frames)))
    return torch.from_numpy(images), truth


@pytest.mark.parametrize("head", [BallHeatmap(width=16), BallGrid(width=16)], ids=["heatmap", "grid"])
def test_one_batch_is_learnt(head: Any) -> None:
    """The head converges (pingpong-3): a few hundred quick steps bring all balls of one batch within 2 px."""
    torch.manual_seed(0)
    small = SmallNet(stem=16, widths=(16, 16, 24, 24), depths=(1, 1, 0, 0))
    clip = Clip(frames=3, channels="grey")
    events = replace(head, events=EventHead(gain=1.0, width=16))
    d = Detector(
        Model(clip=clip, backbone=small, neck=Fuse(width=16), head=events, strides=(4, 8, 16, 32), norm="group"),
        Schema(("ball",), events=("bounce",)),
    )
    images, truth = moving_dots(0, 6, 3)
    listed = [(Event(1, "bounce"),) if b % 2 else () for b in range(6)]
    targets = d.head.encode(truth, listed)
    optimizer = torch.optim.AdamW(d.parameters(), lr=4e-3)
    losses = []
    for _ in range(150):
        loss = d.head.loss(d(images), targets)
        (loss.total / loss.weight).backward()
        torch.nn.utils.clip_grad_norm_(d.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append({k: float(v.detach()) for k, v in loss.sums.items()})
    assert all(losses[-1][k] < 0.3 * losses[0][k] for k in losses[0])
    found = d.head.decode(d(images), SHARP)[0]
    for o, f in zip(truth, found, strict=True):
        best = [f.points[f.frame == i][0, 0] for i in range(3)]
        assert np.abs(np.array(best) - o.points[:, 0]).max() < 2


def test_motion_is_in_a_unit_that_does_not_depend_on_the_stride() -> None:
    for stride in (8, 32):
        head = grid(Clip(frames=2), strides=(stride,), motion=True)
        raw = head.ideal(head.encode([points([[10, 20], [42, 20]], [0, 1])]), SIZE)
        assert float(raw.cells[:, :, head.layout["motion"]].max()) == pytest.approx(32 / MOTION)
