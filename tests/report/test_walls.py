"""Galleries of a run: who belongs in which, in what words and in what order. Hand-made scenes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tercel.core.geometry import obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.rotated import reference_iou
from tercel.core.schema import Schema
from tercel.report.judge import judge_all
from tercel.report.walls import Walls

SIZE = (200, 400)
GREY = np.full((*SIZE, 3), 120, np.uint8)


def oriented(rows: list[list[float]], scores: list[float] | None = None, heading: list[float] | None = None) -> Objects:
    """Cars `cx cy length width degrees`; headings in degrees, NaN = not known."""
    b = np.array(rows, np.float64).reshape(-1, 5) * [1, 1, 1, 1, math.pi / 180]
    front = None if heading is None else np.radians(heading)
    return Objects(
        SIZE, np.zeros(len(b), np.int64), obb_hull(b), obbs=b, scores=scores,
        heading=None if front is None else np.nan_to_num(front), headed=None if front is None else ~np.isnan(front),
    )  # fmt: skip


def walls(truth: Objects, pred: Objects, threshold: float = 0.3, read: object = lambda path: GREY) -> Walls:
    data = Dataset(Schema(("car",)), (Record("pic", (Frame(Path("pic.png")),), SIZE, truth),))
    judged = judge_all(["pic"], [truth], [pred])
    return Walls(data, [pred], judged, np.array([threshold]), "score ≥ .3", read)  # type: ignore[arg-type]


def said(wall: dict[str, object]) -> list[str]:
    return [e["kind"] for part in wall["parts"] for e in part["items"]]  # type: ignore[attr-defined]


def test_loose_boxes_and_wrong_angles_are_told_apart() -> None:
    truth = oriented([[60, 50, 40, 20, 0], [160, 50, 40, 20, 0], [260, 50, 40, 20, 30], [340, 150, 40, 20, 0],
                      [60, 150, 20, 20, 0]])  # fmt: skip
    pred = oriented(
        [
            [60, 50, 50, 26, 2],  # loose: IoU 800 / 1300
            [160, 50, 40, 20, 90],  # a quarter turn: IoU 1/3, no hit
            [260, 50, 40, 20, 45],  # turned by 15, a hit
            [340, 150, 41, 20, 0],  # good
            [60, 150, 20, 20, 90],  # the same square
        ],
        [0.9, 0.8, 0.7, 0.9, 0.9],
    )
    loose, angles = walls(truth, pred).placed()
    assert loose["title"] == "Loose boxes"
    assert said(loose) == ["IoU 0.62, 25 % too long, 30 % too wide"]
    assert loose["note"].startswith("1 of the 3 detections")
    assert truth.obbs is not None
    assert pred.obbs is not None
    turned = float(reference_iou(truth.obbs[2:3].astype(float), pred.obbs[2:3].astype(float))[0, 0])
    assert said(angles) == ["turned by 90°, IoU 0.33", f"turned by 15°, IoU {turned:.2f}"]
    assert angles["note"].startswith("2 of the 5 detections")
    unsure = walls(truth, pred, threshold=0.95).placed()
    assert [said(w) for w in unsure] == [[], []]  # nobody would use them
    assert unsure[0]["empty"] == "No loose box to show."


def test_angles_wrap_at_the_half_turn() -> None:
    """-89 and 89 degrees are two degrees apart, not 178."""
    w = walls(oriented([[60, 50, 40, 20, -89]]), oriented([[60, 50, 40, 20, 89]], [0.9]))
    assert said(w.placed()[1]) == []


def test_fronts_at_the_wrong_end_where_fronts_are_known() -> None:
    rows = [[60, 50, 40, 20, 0], [160, 50, 40, 20, 0], [260, 50, 40, 20, 0]]
    truth = oriented(rows, heading=[0, 0, float("nan")])
    pred = oriented(rows, [0.9, 0.8, 0.7], heading=[175, -20, 180])
    (fronts,) = walls(truth, pred).placed()[2:]
    assert said(fronts) == ["front off by 175°"]
    assert fronts["note"].startswith("1 of 2 detections")
    assert len(walls(oriented(rows), pred).placed()) == 2  # the truth knows none


def test_axis_aligned_boxes_have_no_angles() -> None:
    truth = Objects(SIZE, [0], [[50, 50, 90, 70]])
    pred = Objects(SIZE, [0], [[45, 50, 95, 70]], scores=[0.9])
    (loose,) = walls(truth, pred.replace(boxes=[[45, 45, 95, 70]])).placed()
    assert said(loose) == ["IoU 0.64, 25 % too wide, 25 % too high"]
    (loose,) = walls(truth, pred).placed()
    assert said(loose) == []  # IoU .8


def test_mistakes_are_grouped_by_size_and_place() -> None:
    cars = [[60 + 60 * i, 60, 40, 20, 0] for i in range(5)]
    truth = oriented([*cars, [200, 130, 90, 40, 0]])  # one is twice as large
    wrong = [[100, 150, 40, 20, 0], [380, 100, 40, 20, 0], [300, 150, 12, 6, 0], [30, 130, 100, 50, 0]]
    w = walls(truth, oriented([*cars, *wrong], [0.9] * 5 + [0.8, 0.7, 0.6, 0.2]))
    parts = w.false_positives()["parts"]
    assert [(p["title"], p["note"]) for p in parts] == [
        ("Usual size", "2, 1 of them at the border"),
        ("Smaller than usual", "1, 0 of them at the border"),
        ("Larger than usual", "none at the threshold"),
    ]
    assert [e["size"] for p in parts for e in p["items"]] == [
        "40 × 20 px", "40 × 20 px · at the border", "12 × 6 px", "100 × 50 px · at the border",
    ]  # fmt: skip
    assert w.false_positives()["note"].startswith("3 at score ≥ .3 and IoU 0.5, 4 in all")
    missed = w.misses()
    assert [p["title"] for p in missed["parts"]] == ["Larger than usual"]
    assert missed["note"].startswith("1 of 6 objects")
    assert {p.title for p in w.places()} == {"Where objects were missed", "Where false positives lie"}


def test_the_usual_size_is_that_of_the_picture() -> None:
    """From 30 m up a car is 40 px long, from 100 m up 12 px: neither is a wrong size."""
    near = oriented([[60 + 60 * i, 60, 40, 20, 0] for i in range(4)])
    far = oriented([[60 + 60 * i, 60, 12, 6, 0] for i in range(4)])
    data = Dataset(
        Schema(("car",)), tuple(Record(i, (Frame(Path(i)),), SIZE, t) for i, t in (("near", near), ("far", far)))
    )
    none = [Objects.empty(SIZE)] * 2
    judged = judge_all(["near", "far"], [near, far], none)
    w = Walls(data, none, judged, np.array([0.3]), "", lambda path: GREY)
    assert w.truth.group.tolist() == [0] * 8


def test_nothing_to_show() -> None:
    none = Objects.empty(SIZE)
    w = walls(none, none)
    assert [p["parts"] for p in w.all()] == [[], [], []]
    assert w.places() == []
    empty = Walls(Dataset(Schema(("car",)), ()), [], judge_all([], [], []), np.array([0.3]), "", lambda path: GREY)
    assert empty.all()[0]["parts"] == []


@pytest.mark.parametrize("ignored", [True, False])
def test_ignored_truth_is_no_miss(ignored: bool) -> None:
    truth = oriented([[60, 50, 40, 20, 0]]).replace(ignore=[ignored])
    assert len(said(walls(truth, Objects.empty(SIZE)).misses())) == (not ignored)


def test_the_size_of_an_oriented_box_is_its_own_and_not_that_of_its_hull() -> None:
    truth = oriented([[100, 100, 40, 10, 45]])
    assert judge_all(["a"], [truth], [Objects.empty(SIZE)]).truth_size == pytest.approx([20])


def test_a_detection_is_compared_with_the_truth_of_its_own_picture() -> None:
    first = oriented([[60, 50, 40, 20, 0], [160, 50, 40, 20, 0]]).replace(ignore=[True, False])
    second = oriented([[60, 150, 40, 20, 0]])
    found = oriented([[160, 50, 40, 20, 0]], [0.9]), oriented([[60, 150, 40, 30, 0]], [0.9])
    data = Dataset(
        Schema(("car",)), tuple(Record(i, (Frame(Path(i)),), SIZE, t) for i, t in (("a", first), ("b", second)))
    )
    judged = judge_all(["a", "b"], [first, second], found)
    (loose, _) = Walls(data, found, judged, np.array([0.3]), "", lambda path: GREY).placed()
    assert said(loose) == ["IoU 0.67, 50 % too wide"]
