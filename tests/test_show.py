"""The drawn batch: which priors answer for which truths, for every assigner, as arrays and as pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tercel.config import (
    AnchorHead,
    Atss,
    BoxHead,
    Fcos,
    FreeAnchor,
    MaxIou,
    OneToOne,
    Ota,
    SimOta,
    TaskAligned,
)
from tercel.core.objects import Objects
from tercel.models.heads.anchors import AnchorBoxes
from tercel.models.heads.boxes import DenseBoxes
from tercel.report.assigned import DIM, Assigned, draw_assigned, summary
from tercel.report.draw import IGNORED, class_color
from tercel.show import assigned

SIZE = (96, 128)
ASSIGNERS = (TaskAligned(), SimOta(), MaxIou(), Atss(), Fcos(), Ota(), FreeAnchor(bag=6), OneToOne())
HEADS: list[Any] = [DenseBoxes(BoxHead(assigner=a), 1, (8, 16)) for a in ASSIGNERS]
HEADS += [AnchorBoxes(AnchorHead(assigner=a), 1, (8, 16)) for a in (MaxIou(), Atss(), FreeAnchor(bag=6))]
HEADS += [DenseBoxes(BoxHead(assigner=Fcos(), coder="ltrb", density=True), 1, (8, 16))]


def named(head: Any) -> str:
    return f"{type(head).__name__}-{type(head.config.assigner).__name__}"


def truth(*boxes: tuple[float, ...], ignore: tuple[int, ...] = ()) -> Objects:
    return Objects(SIZE, np.zeros(len(boxes), np.int64), boxes, np.isin(np.arange(len(boxes)), ignore))  # type: ignore[arg-type]


BATCH = [
    truth((4, 4, 30, 60), (90, 50, 124, 92), (64, 0, 96, 32), ignore=(2,)),
    truth(),
    truth((70, 10, 100, 70), (78, 14, 106, 72)),
]


@pytest.mark.parametrize("head", HEADS, ids=named)
def test_dots_are_the_positives_of_their_own_picture(head: Any) -> None:
    """Against the head's own assignment, pair by pair; of FreeAnchor against its bags, which have a size."""
    targets = head.encode(BATCH)
    raw = head.ideal(targets, SIZE)
    found = assigned(head, raw, targets)
    assert len(found) == 3
    assert not len(found[1].truth)
    points = raw.anchors.centres if hasattr(raw, "anchors") else raw.priors.points
    a = head.assign(raw, head.boxes(raw), targets)
    for number, objects in enumerate(BATCH):
        boxes, some = objects.boxes[~objects.ignore], found[number]
        assert (some.counts(len(boxes)) >= 1).all()
        near = some.points - boxes[some.truth, :2], boxes[some.truth, 2:] - some.points
        assert min(n.min(initial=0) for n in near) > -24, "the priors of a truth are in it or close by"
        if isinstance(head.config.assigner, FreeAnchor):
            np.testing.assert_array_equal(some.counts(len(boxes)), 6)
            continue
        mine = a.image == number
        np.testing.assert_array_equal(some.points, points[a.prior[mine]])
        first = sum(int((~o.ignore).sum()) for o in BATCH[:number])
        np.testing.assert_array_equal(some.truth, a.truth[mine] - first)
        np.testing.assert_array_equal(some.answers, (a.quality[mine] > 0) | (a.share is None))


@pytest.mark.parametrize("head", HEADS, ids=named)
def test_priors_in_an_ignored_region_are_grey(head: Any) -> None:
    """By hand: stride 8 has 16 points in a region of 32 x 32 px at a corner, stride 16 has 4."""
    objects = truth((100, 50, 124, 92), (0, 0, 32, 32), ignore=(1,))
    targets = head.encode([objects])
    quiet = assigned(head, head.ideal(targets, SIZE), targets)[0].quiet
    inside = quiet[(quiet <= 32).all(1)]
    assert len(np.unique(inside.round(3), axis=0)) == 20
    none = head.encode([objects[:1]])
    quiet = assigned(head, head.ideal(none, SIZE), none)[0].quiet
    assert not len(quiet[(quiet <= 32).all(1)])


def test_priors_between_positive_and_background_are_grey() -> None:
    """Anchors of 32 px around a truth of 32 px on the grid: one answers, those 8 px beside it reach an IoU of .6."""
    objects = truth((36, 36, 68, 68))
    for positive, expected in ((0.7, 4), (0.55, 0)):
        head = DenseBoxes(BoxHead(assigner=MaxIou(positive=positive, negative=0.55)), 1, (8,))
        targets = head.encode([objects])
        found = assigned(head, head.ideal(targets, SIZE), targets)[0]
        middle = np.array([52.0, 52.0])
        assert len(found.quiet) == expected
        assert (np.abs(found.quiet - middle).sum(1) == 8).all()
        assert [52.0, 52.0] in found.points.tolist()


def test_who_is_asked_alone_of_one_to_one() -> None:
    head = DenseBoxes(BoxHead(assigner=OneToOne(topk=5)), 1, (8, 16))
    targets = head.encode(BATCH)
    found = assigned(head, head.ideal(targets, SIZE), targets)
    assert found[0].counts(2).tolist() == [1, 1]
    assert found[2].counts(2).tolist() == [1, 1]
    assert sum(len(f.truth) for f in found) > 4


def a_few() -> tuple[Objects, Assigned]:
    """Two objects and a region: three dots, one of them a ring, and a grey one."""
    objects = truth((10, 10, 40, 80), (60, 20, 100, 60), (100, 70, 120, 90), ignore=(2,))
    points = np.array([[20, 30], [30, 50], [80, 40]], np.float32)
    return objects, Assigned(
        points, np.array([0, 0, 1]), np.array([0.9, 0.3, 0.01], np.float32), np.array([True, False, True]),
        np.array([[110, 80]], np.float32),
    )  # fmt: skip


def test_dots_and_boxes_have_the_colour_of_their_object() -> None:
    objects, some = a_few()
    out = draw_assigned(np.full((*SIZE, 3), 100, np.uint8), objects, some)
    zoom = 5  # 640 px at most
    assert out.shape[1] == zoom * SIZE[1]
    assert out.shape[0] > zoom * SIZE[0]

    def at(x: float, y: float) -> tuple[int, ...]:
        return tuple(out[round(y * zoom), round(x * zoom)].tolist())

    assert at(20, 30) == class_color(0)
    assert at(80, 40) == class_color(1), "the best prior of an object shows, however little it weighs"
    r, g, b = at(30, 50)
    assert r == g == b <= round(100 * DIM), "a ring"
    assert at(110, 80) == IGNORED
    for x, y, number in ((30, 50, 0), (10, 40, 0), (60, 30, 1)):  # the ring, and the edges of both boxes
        around = out[round(y * zoom), round(x * zoom) - 6 : round(x * zoom) + 7].astype(int)
        assert np.abs(around - class_color(number)).max(1).min() < 60


def test_the_legend_counts() -> None:
    objects, some = a_few()
    text = summary(some, 2)
    assert (
        text
        == "2 objects · 2 priors answer · 1 to 1 each, median 1 · 1 learn the box alone (rings) · 1 not asked (grey)"
    )
    nobody = Assigned(some.points[:0], some.truth[:0], some.weight[:0], some.answers[:0], some.quiet[:0])
    assert summary(nobody, 0) == "0 objects · 0 priors answer"
    blank = np.zeros((*SIZE, 3), np.uint8)
    plain, counted = (draw_assigned(blank, objects, some, legend=legend) for legend in (False, True))
    np.testing.assert_array_equal(counted[: len(plain)], plain)
    strip = counted[len(plain) :].reshape(-1, 3)
    assert {class_color(0), class_color(1)} <= {tuple(c) for c in strip.tolist()}


def test_a_legend_of_very_many_objects_stays_short() -> None:
    many = truth(*[(x, y, x + 3, y + 6) for x in range(0, 120, 4) for y in range(0, 88, 8)])
    rows = np.arange(len(many))
    some = Assigned(
        many.boxes[:, :2] + 2, rows, np.ones(len(many), np.float32), rows >= 0, np.zeros((0, 2), np.float32)
    )
    out = draw_assigned(np.zeros((*SIZE, 3), np.uint8), many, some)
    assert out.shape[0] - 5 * SIZE[0] < 120


def test_an_answer_that_says_no_is_no_answer() -> None:
    """Assigned by what a network says that says nothing: pairs there are, and all are drawn."""
    head = DenseBoxes(BoxHead(assigner=SimOta()), 1, (8, 16))
    targets = head.encode(BATCH)
    raw = head.ideal(targets, SIZE)
    raw = raw._replace(logits=torch.zeros_like(raw.logits), sides=torch.zeros_like(raw.sides))
    found = assigned(head, raw, targets)
    assert all((f.counts(int((~o.ignore).sum())) >= 1).all() for f, o in zip(found, BATCH, strict=True))
    assert all(f.answers.all() for f in found)
