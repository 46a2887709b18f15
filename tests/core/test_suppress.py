"""Suppression against what torchvision, effdet, CrowdDet and detectron2 keep, and against plain loops.

The ways that only crowds need (DIoU, adaptive, fusion, and the choice by name) are in test_suppress_crowds.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core import rotated_kernels
from tercel.core.finding import TercelError
from tercel.core.geometry import box_iou
from tercel.core.rotated import obb_iou
from tercel.core.suppress import greedy, set_nms, soft


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Any]:
    names = ("boxes", "ties", "proposals", "rotated", "expected")
    return {n: json.loads((shared / f"oracles/nms/{n}.json").read_text()) for n in names}


def slowly(
    boxes: np.ndarray, scores: np.ndarray, iou: float, labels: np.ndarray, proposal: np.ndarray | None = None
) -> list[int]:
    """The definition, word for word."""
    overlap = (box_iou if boxes.shape[1] == 4 else obb_iou)(boxes, boxes)
    left = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    keep = []
    while left:
        best = left.pop(0)
        keep.append(best)
        left = [
            j for j in left
            if labels[j] != labels[best]
            or (proposal is not None and proposal[j] == proposal[best])
            or overlap[best, j] <= iou
        ]  # fmt: skip
    return keep


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes on a coarse grid (so that overlaps and scores are often equal), scores, labels."""
    count, oriented = draw(st.integers(0, 25)), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    corner, size = rng.integers(0, 12, (count, 2)), rng.integers(0, 9, (count, 2))
    if oriented:
        boxes = np.c_[corner, size, rng.integers(-4, 5, count) * np.pi / 8]
    else:
        boxes = np.c_[corner, corner + size].astype(float)
    if count and draw(st.booleans()):
        boxes[0, 2:4] = 100  # one giant
    return boxes, rng.integers(0, 6, count) / 5, rng.integers(0, 3, count)


@pytest.mark.parametrize("kind", ["greedy", "batched"])
def test_torchvision_keeps_the_same(oracle: dict[str, Any], kind: str) -> None:
    d = oracle["boxes"]
    for limit, expected in oracle["expected"][kind].items():
        labels = d["classes"] if kind == "batched" else None
        assert greedy(d["boxes"], d["scores"], float(limit), labels).tolist() == expected


def test_ties(oracle: dict[str, Any]) -> None:
    d = oracle["ties"]
    for limit, expected in oracle["expected"]["ties"].items():
        assert greedy(d["boxes"], d["scores"], float(limit)).tolist() == expected


def test_detectron2_keeps_the_same_oriented_boxes(oracle: dict[str, Any]) -> None:
    d = oracle["rotated"]
    for limit, expected in oracle["expected"]["rotated"].items():
        assert greedy(d["obbs"], d["scores"], float(limit)).tolist() == expected


def test_crowddet_keeps_the_same(oracle: dict[str, Any]) -> None:
    d = oracle["proposals"]
    for limit, expected in oracle["expected"]["set_nms"].items():
        assert sorted(set_nms(d["boxes"], d["scores"], d["proposal"], float(limit)).tolist()) == expected
    for limit, expected in oracle["expected"]["plain_for_comparison"].items():
        assert sorted(greedy(d["boxes"], d["scores"], float(limit)).tolist()) == expected


SOFT = [f"{b}soft_{m}" for m in ("gaussian", "gaussian_sigma_0.3", "linear", "linear_0.5") for b in ("", "batched_")]


@pytest.mark.parametrize("name", SOFT)
def test_effdet_scores_the_same(oracle: dict[str, Any], name: str) -> None:
    d, e = oracle["boxes"], oracle["expected"][name]
    p = e["params"]
    keep, scores = soft(
        d["boxes"],
        d["scores"],
        p["method"],
        sigma=p["sigma"],
        iou=p["iou_threshold"],
        floor=p["score_threshold"],
        labels=d["classes"] if name.startswith("batched") else None,
    )
    assert keep.tolist() == e["keep"]
    np.testing.assert_allclose(scores, e["scores"], atol=1e-5)


@given(scenes(), st.sampled_from([0, 0.2, 1 / 3, 0.5, 0.7, 1]))
def test_greedy_is_its_definition(scene: tuple[np.ndarray, np.ndarray, np.ndarray], iou: float) -> None:
    boxes, scores, labels = scene
    if not len(boxes):
        assert greedy(boxes, scores, iou).tolist() == []
        return
    assert greedy(boxes, scores, iou).tolist() == slowly(boxes, scores, iou, np.zeros(len(boxes)))
    assert greedy(boxes, scores, iou, labels).tolist() == slowly(boxes, scores, iou, labels)
    zeros = np.zeros(len(boxes))
    assert set_nms(boxes, scores, labels, iou).tolist() == slowly(boxes, scores, iou, zeros, labels)
    assert set_nms(boxes, scores, zeros.astype(int), iou).tolist() == np.argsort(-scores, kind="stable").tolist()


@given(scenes(), st.sampled_from(["gaussian", "linear"]))
def test_soft_is_its_definition(scene: tuple[np.ndarray, np.ndarray, np.ndarray], method: Any) -> None:
    boxes, scores, labels = scene
    keep, final = soft(boxes, scores, method, sigma=0.4, iou=0.3, floor=0.1, labels=labels)
    overlap = (box_iou if boxes.shape[1] == 4 else obb_iou)(boxes, boxes) if len(boxes) else np.zeros((0, 0))
    current, expected = scores.astype(float), []
    left = [i for i in range(len(boxes)) if current[i] > 0.1]
    while left:
        best = max(left, key=lambda i: (current[i], -i))
        expected.append((best, current[best]))
        left.remove(best)
        for j in left:
            if labels[j] == labels[best]:
                iou = overlap[best, j]
                current[j] *= np.exp(-(iou**2) / 0.4) if method == "gaussian" else (1 - iou if iou > 0.3 else 1)
        left = [j for j in left if current[j] > 0.1]
    assert keep.tolist() == [i for i, _ in expected]
    np.testing.assert_allclose(final, [s for _, s in expected], rtol=1e-9)


def test_many_boxes_of_all_sizes_along_either_axis() -> None:
    """The search by levels of width must miss no neighbour: dense scenes, 1 px beside 1000 px, a column and a row."""
    rng = np.random.default_rng(3)
    for spread in ((1000, 1000), (20, 3000), (3000, 20)):
        size = np.exp(rng.uniform(0, 6, (400, 2)))
        boxes = np.c_[rng.random((400, 2)) * spread, size, rng.uniform(-2, 2, 400)]
        scores = rng.random(400)
        for iou in (0.0, 0.3):
            assert greedy(boxes, scores, iou).tolist() == slowly(boxes, scores, iou, np.zeros(400))


def test_upright_oriented_boxes_are_boxes() -> None:
    rng = np.random.default_rng(0)
    centre, size = rng.uniform(0, 100, (200, 2)), rng.uniform(5, 30, (200, 2))
    scores = rng.random(200)
    boxes, obbs = np.c_[centre - size / 2, centre + size / 2], np.c_[centre, size, np.zeros(200)]
    assert greedy(boxes, scores, 0.35).tolist() == greedy(obbs, scores, 0.35).tolist()
    np.testing.assert_allclose(soft(boxes, scores)[1], soft(obbs, scores)[1], rtol=1e-9)


def test_turned_neighbours_survive_that_their_hulls_would_not() -> None:
    """Parked side by side at 45 degrees: the hulls overlap by more than half, the cars do not touch."""
    parked = [[0, 0, 20, 4, np.pi / 4], [3, -3, 20, 4, np.pi / 4]]
    assert greedy(parked, [0.9, 0.8], 0.1).tolist() == [0, 1]


def test_a_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that does not look to the left of a box misses neighbours that the definition removes."""
    inner = rotated_kernels.greedy
    monkeypatch.setattr(rotated_kernels, "greedy", lambda *a: inner(*a[:3], np.zeros_like(a[3]), *a[4:]))
    rng = np.random.default_rng(0)
    boxes, scores = np.c_[rng.uniform(0, 40, (60, 2)), np.full((60, 2), 15.0), np.zeros(60)], rng.random(60)
    assert greedy(boxes, scores, 0.3).tolist() != slowly(boxes, scores, 0.3, np.zeros(60))


BOX = [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: greedy(np.zeros((2, 3)), [0, 1], 0.5), "shape"),
        (lambda: greedy(BOX, [0.5, 0.6], 0.5), r"\[N\]"),
        (lambda: greedy(BOX, [[0.5]], 0.5), r"\[N\]"),
        (lambda: greedy(BOX, [0.5], 1.5), "0..1"),
        (lambda: greedy(BOX, [np.nan], 0.5), "finite"),
        (lambda: greedy([[0, 0, np.inf, 1]], [0.5], 0.5), "box 0"),
        (lambda: greedy([[5, 0, 1, 1]], [0.5], 0.5), "box 0"),
        (lambda: greedy([[5, 0, 1, -1, 0]], [0.5], 0.5), "box 0"),
        (lambda: greedy(BOX, [0.5], 0.5, [1.5]), "labels"),
        (lambda: set_nms(BOX, [0.5], [1, 2], 0.5), "proposal"),
        (lambda: soft(BOX, [0.5], "hard"), "method"),
        (lambda: soft(BOX, [0.5], sigma=0), "sigma"),
        (lambda: soft(BOX, [0.5], floor=-1), "floor"),
    ],
)
def test_misuse_is_told(call: Callable[[], object], says: str) -> None:
    with pytest.raises(TercelError, match=says):
        call()
