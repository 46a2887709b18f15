"""Suppression against the oracle, a loop in plain Python, and its properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tercel import api, recipes
from tercel.config import Evaluate
from tercel.core.finding import TercelError
from tercel.core.suppress import Method, survivors
from tercel.data import synth, vehicles
from tercel.models.suppress import select, suppress, suppression_findings


def run(boxes: Any, scores: Any, labels: Any = None, **options: Any) -> list[int]:
    options = {"iou": 0.5, "class_agnostic": False, "max_detections": 10**6, "max_candidates": 10**6} | options
    b = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    classes = torch.zeros(len(b), dtype=torch.long) if labels is None else torch.as_tensor(labels)
    keep, cut = suppress(b, torch.as_tensor(scores, dtype=torch.float32), classes, **options)
    assert not cut
    return keep.tolist()


def by_loop(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, class_agnostic: bool) -> list[int]:
    """Best first; out goes what overlaps a kept one. Python floats (float64) throughout."""
    rows = boxes.tolist()

    def overlap(a: list[float], b: list[float]) -> float:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inter = max(w, 0) * max(h, 0)
        return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter) if inter else 0.0

    keep: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: (-scores[i].item(), i)):
        rivals = [k for k in keep if class_agnostic or labels[k] == labels[i]]
        if all(overlap(rows[k], rows[i]) <= iou for k in rivals):
            keep.append(i)
    return keep


def crowd(seed: int, count: int = 150, classes: int = 5, spread: float = 100) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(-spread, spread, (count, 2)), rng.uniform(3, 60, (count, 2))
    boxes = torch.tensor(np.concatenate([corner, corner + size], 1), dtype=torch.float32)
    scores = torch.tensor(rng.integers(1, 30, count) / 30, dtype=torch.float32)  # many ties
    return boxes, scores, torch.tensor(rng.integers(0, classes, count))


# -- oracle ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Any]:
    names = ("boxes", "ties", "expected")
    return {name: json.loads((shared / "oracles" / "nms" / f"{name}.json").read_text()) for name in names}


@pytest.mark.parametrize("iou", ["0.3", "0.5", "0.7"])
def test_oracle(oracle: dict[str, Any], iou: str) -> None:
    data, expected = oracle["boxes"], oracle["expected"]
    arguments = data["boxes"], data["scores"], data["classes"]
    assert run(*arguments, iou=float(iou), class_agnostic=True) == expected["greedy"][iou]
    assert run(*arguments, iou=float(iou)) == expected["batched"][iou]


@pytest.mark.parametrize("iou", ["0.5", "0.49", "0.33"])
def test_oracle_ties(oracle: dict[str, Any], iou: str) -> None:
    data = oracle["ties"]
    assert run(data["boxes"], data["scores"], iou=float(iou)) == oracle["expected"]["ties"][iou]


# -- properties -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_agnostic", [True, False])
@pytest.mark.parametrize("iou", [0.0, 0.2, 0.65, 1.0])
def test_same_as_the_loop(iou: float, class_agnostic: bool) -> None:
    for seed in range(4):
        boxes, scores, labels = crowd(seed)
        expected = by_loop(boxes, scores, labels, iou, class_agnostic)
        assert run(boxes, scores, labels, iou=iou, class_agnostic=class_agnostic) == expected


@given(seed=st.integers(0, 10**6), count=st.integers(0, 40))
def test_extremes(seed: int, count: int) -> None:
    """At 1.0 nothing goes, not even copies (crowd-24); at 0 no two of a class that stay overlap."""
    boxes, scores, labels = crowd(seed, count, classes=3)
    doubled = torch.cat([boxes, boxes]), torch.cat([scores, scores]), torch.cat([labels, labels])
    assert sorted(run(*doubled, iou=1.0)) == list(range(2 * count))
    keep = run(boxes, scores, labels, iou=0.0)
    for i in keep:
        for j in keep:
            low, high = torch.maximum(boxes[i, :2], boxes[j, :2]), torch.minimum(boxes[i, 2:], boxes[j, 2:])
            assert i == j or labels[i] != labels[j] or not (high > low).all()
    assert scores[keep].tolist() == sorted(scores[keep].tolist(), reverse=True)


def test_labels_keep_boxes_apart_however_large_or_negative_the_coordinates() -> None:
    """Label 9,999 and 3 px boxes at x = 4000: a float32 shift by label would move them by several pixels."""
    boxes = torch.tensor([[4000, 10, 4003, 13], [4001, 10, 4004, 13], [4000.25, 10, 4003.25, 13], [-4000, 0, 4003, 4]])
    labels = torch.tensor([9_999, 9_999, 9_999, 9_998])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    assert run(boxes, scores, labels, iou=0.5) == [0, 1, 3]  # IoU of 0 and 1: 6 / 12, of 0 and 2: 8.25 / 9.75


def test_classes_at_negative_coordinates_never_meet() -> None:
    """Shifting class 1 by the greatest coordinate + 1 would lay its box at -60..-40 onto class 0's at 0..20."""
    boxes = [[0, 0, 20, 20], [-41, -41, -1, -1], [19, 19, 20, 20]]
    assert run(boxes, [0.9, 0.8, 0.7], [0, 1, 0], iou=0.0) == [0, 1]
    boxes = [[0, 0, 40, 40], [-41, -41, -1, -1]]
    assert run(boxes, [0.9, 0.8], [0, 1], iou=0.0) == [0, 1]
    assert run(boxes, [0.9, 0.8], [1, 0], iou=0.0) == [0, 1]


def test_empty_boxes_neither_remove_nor_go() -> None:
    boxes = [[0, 0, 10, 10], [5, 5, 5, 5], [5, 5, 5, 5], [2, 2, 2, 8]]
    assert run(boxes, [0.9, 0.8, 0.7, 0.6], iou=0.0) == [0, 1, 2, 3]
    assert run([], [], iou=0.5) == []


# -- caps and misuse ------------------------------------------------------------------------------------------


def test_caps_are_reported() -> None:
    boxes = torch.arange(6).float()[:, None] * 100 + torch.tensor([0.0, 0, 10, 10])
    scores, labels = torch.tensor([0.1, 0.5, 0.3, 0.5, 0.2, 0.4]), torch.zeros(6, dtype=torch.long)

    def capped(detections: int, candidates: int) -> tuple[list[int], bool]:
        options = {"max_detections": detections, "max_candidates": candidates}
        keep, cut = suppress(boxes, scores, labels, iou=0.5, class_agnostic=False, **options)
        return keep.tolist(), cut

    assert capped(6, 6) == ([1, 3, 5, 2, 4, 0], False)  # exactly full: nothing was left out
    assert capped(3, 6) == ([1, 3, 5], True)
    assert capped(6, 2) == ([1, 3], True)
    assert capped(1, 1) == ([1], True)


def test_a_full_list_of_copies_is_no_cap_hit() -> None:
    """Five copies shrink to one before the detections cap is counted."""
    options = {"class_agnostic": False, "max_detections": 1, "max_candidates": 5}
    boxes = torch.tensor([[1.0, 1, 9, 9]]).repeat(5, 1)
    keep, cut = suppress(boxes, torch.ones(5), torch.zeros(5).long(), iou=0.5, **options)
    assert (keep.tolist(), cut) == ([0], False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_misuse(bad: float) -> None:
    good = [[0, 0, 1, 1.0]]
    with pytest.raises(TercelError, match="not a finite number"):
        run([[0, 0, 1, bad]], [0.5])
    with pytest.raises(TercelError, match="not a finite number"):
        run(good, [bad])
    with pytest.raises(TercelError, match="expected"):
        run(good, [0.5, 0.6])
    with pytest.raises(TercelError, match="iou lies in"):
        run(good, [0.5], iou=1.5)
    with pytest.raises(TercelError, match="at least 1"):
        run(good, [0.5], max_detections=0)


# -- the other ways ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", get_args(Method))
def test_select_is_what_the_arrays_say(method: Method) -> None:
    """Tensors in, tensors out: the same boxes and scores as `core.suppress.survivors` of the best candidates."""
    for seed in range(3):
        boxes, scores, labels = crowd(seed)
        rng = np.random.default_rng(seed)
        density = torch.tensor(rng.uniform(0, 1, len(boxes)), dtype=torch.float32)
        proposal = torch.tensor(rng.integers(0, 60, len(boxes)))
        settings = Evaluate(suppress=method, suppress_iou=0.4, score_floor=0.2, max_detections=20, max_candidates=100)
        got = select(boxes, scores, labels, settings, density, proposal)
        best = scores.argsort(descending=True, stable=True)[:100]
        sides = [x[best].numpy() for x in (boxes, scores, labels, density, proposal)]
        want = survivors(
            method, sides[0], sides[1], 0.4, sides[2], sigma=0.5, floor=0.2, density=sides[3], proposal=sides[4]
        )
        assert got.keep.tolist() == best[want.keep[:20]].tolist()
        assert got.scores.numpy() == pytest.approx(want.scores[:20], abs=1e-6)
        assert got.boxes.numpy() == pytest.approx(want.boxes[:20], abs=1e-4)
        assert got.cut


class Said:
    """A head that says what it predicts."""

    def __init__(self, density: bool = False, sets: bool = False) -> None:
        self.predicts_density, self.predicts_sets = density, sets


@pytest.mark.parametrize("method", get_args(Method))
def test_a_way_that_misses_its_branch_is_named(method: Method) -> None:
    settings = Evaluate(suppress=method)
    expected = {"adaptive": ["suppress.density"], "set": ["suppress.set"]}.get(method, [])
    for head in (object(), Said()):
        assert [f.check for f in suppression_findings(settings, head)] == expected
    assert suppression_findings(settings, Said(density=True, sets=True)) == ()


# -- from the command line --------------------------------------------------------------------------------------

TINY = [
    "data.size=64x96", "data.workers=0", "train.batch=4", "train.epochs=1", "train.precision=fp32", "train.threads=1",
    "model.norm=group", "model.backbone.stem=8", "model.backbone.widths=8,8,8,8", "model.backbone.depths=0,0,0,0",
    "model.neck.width=8", "model.head.width=8", "evaluate.resamples=0", "augment.close_epochs=0",
    "evaluate.score_floor=0", "evaluate.suppress_iou=0.2", "evaluate.max_detections=100000",
]  # fmt: skip


@pytest.mark.parametrize("recipe", ["boxes", "oriented"])
def test_every_way_from_the_command_line(recipe: str, tmp_path: Path, tercel: Any) -> None:
    """crowd-18, crowd-34: each name runs in `tercel eval` and changes what is found; what a head lacks is said."""
    if recipe == "boxes":
        data = synth.make_boxes(tmp_path / "set", n=6, seed=5, size=(96, 128), splits={"train": 0.5, "val": 0.5})
    else:
        data = vehicles.make_vehicles(tmp_path / "set", n=6, seed=2, size=(96, 128), splits={"train": 0.5, "val": 0.5})
    name = f"{'yolo' if recipe == 'boxes' else 'dota'}:{data}"
    run_folder = api.train(recipes.get(recipe, TINY), f"{name}#train", f"{name}#val", out=tmp_path / "runs").path
    scores: dict[str, list[float]] = {}
    for method in get_args(Method):
        out = tmp_path / method
        said = tercel("eval", run_folder, "--set", f"evaluate.suppress={method}", "--out", out)
        assert said.code == 0, said.err
        lines = (out / "preds.jsonl").read_text().splitlines()[1:]
        scores[method] = [s for line in lines for s in json.loads(line)["scores"]]
        assert ("predicts no density" in said.out + said.err) == (method == "adaptive")
        assert ("by sets is greedy here" in said.out + said.err) == (method == "set")
    count = {method: len(s) for method, s in scores.items()}
    assert 0 < count["greedy"] < count["none"]
    assert count["set"] == count["greedy"] <= count["diou"] < count["none"]
    assert count["greedy"] < count["soft_linear"] <= count["soft_gaussian"] == count["none"]  # scores fall; few to 0
    sums = {method: sum(scores[method]) for method in ("none", "soft_linear", "soft_gaussian")}
    assert len({round(s, 6) for s in sums.values()}) == 3
    assert max(sums, key=lambda m: sums[m]) == "none"
    assert count["fusion"] < count["none"]
    wrong = tercel("eval", run_folder, "--set", "evaluate.suppress=gready")
    assert wrong.code == 2
    assert "did you mean greedy?" in wrong.err
