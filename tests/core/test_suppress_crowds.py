"""Suppression in crowds: by distance IoU, adaptive and by fusion, and every way by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core import rotated_kernels
from tercel.core import suppress as module
from tercel.core.finding import TercelError
from tercel.core.fusion import fuse
from tercel.core.geometry import box_iou, canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.core.rotated import obb_iou
from tercel.core.suppress import Method, adaptive, crowding, diou, fusion, greedy, survivors

METHODS: tuple[Method, ...] = get_args(Method)
Scene = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Boxes on a coarse grid (overlaps and scores are often equal), scores in 0..1, labels; one in two is oriented."""
    count, oriented = draw(st.integers(0, 20)), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    corner, size = rng.integers(0, 10, (count, 2)), rng.integers(0, 9, (count, 2))
    if oriented:
        boxes = canonical_obb(np.c_[corner, size, rng.integers(-4, 5, count) * np.pi / 8])
    else:
        boxes = np.c_[corner, corner + size].astype(float)
    return boxes, rng.integers(0, 6, count) / 5, rng.integers(0, 2, count)


def overlaps(boxes: np.ndarray) -> np.ndarray:
    """IoU [N,N]."""
    if not len(boxes):
        return np.zeros((0, 0))
    return (box_iou if boxes.shape[1] == 4 else obb_iou)(boxes, boxes)


def by_loop(scores: np.ndarray, labels: np.ndarray, goes: Callable[[int, int], bool]) -> list[int]:
    """Best first; a kept box i removes box j of its label if `goes(i, j)`."""
    left, keep = sorted(range(len(scores)), key=lambda i: (-scores[i], i)), []
    while left:
        best = left.pop(0)
        keep.append(best)
        left = [j for j in left if labels[j] != labels[best] or not goes(best, j)]
    return keep


# -- distance IoU ---------------------------------------------------------------------------------------------


def distances(boxes: np.ndarray) -> np.ndarray:
    """d^2 / c^2 [N,N] of Zheng et al., by corners."""
    out = np.zeros((len(boxes), len(boxes)))
    hulls = boxes if boxes.shape[1] == 4 else obb_hull(boxes)
    for i, a in enumerate(hulls):
        for j, b in enumerate(hulls):
            points = np.array([a[:2], a[2:], b[:2], b[2:]])
            c2 = ((points.max(0) - points.min(0)) ** 2).sum()
            d2 = (((a[:2] + a[2:]) / 2 - (b[:2] + b[2:]) / 2) ** 2).sum()
            out[i, j] = d2 / c2 if c2 else 0
    return out


@given(scenes(), st.sampled_from([0, 0.2, 0.45, 0.7, 1]))
def test_diou_is_its_definition(scene: Scene, iou: float) -> None:
    boxes, scores, labels = scene
    shared = overlaps(boxes)
    value = shared - distances(boxes)
    if (np.abs(value - iou) < 1e-9).any():  # the two ways of adding up may differ in the last bit
        return
    keep = by_loop(scores, labels, lambda i, j: shared[i, j] > 0 and value[i, j] > iou)
    assert diou(boxes, scores, iou, labels).tolist() == keep


def test_diou_keeps_the_neighbour_that_the_iou_would_not() -> None:
    """Two of 10 x 40, 3 px apart sideways: IoU 7/13 = .538, DIoU .538 - 9 / (13^2 + 40^2) = .533."""
    pair, scores = [[0, 0, 10, 40], [3, 0, 13, 40]], [0.9, 0.8]
    limit = 7 / 13 - 9 / (13**2 + 40**2)
    for iou, kept in ((limit - 1e-6, [0]), (limit + 1e-6, [0, 1]), (0.536, [0, 1])):
        assert diou(pair, scores, iou).tolist() == kept
    assert greedy(pair, scores, 0.536).tolist() == [0]


# -- adaptive -------------------------------------------------------------------------------------------------


@given(scenes(), st.sampled_from([0, 0.3, 0.6, 1]), st.integers(0, 2**32))
def test_adaptive_is_its_definition(scene: Scene, iou: float, seed: int) -> None:
    boxes, scores, labels = scene
    density, shared = np.random.default_rng(seed).random(len(boxes)), overlaps(boxes)
    keep = by_loop(scores, labels, lambda i, j: shared[i, j] > max(iou, density[i]))
    assert adaptive(boxes, scores, iou, density, labels).tolist() == keep
    assert (
        adaptive(boxes, scores, iou, np.zeros(len(boxes)), labels).tolist()
        == greedy(boxes, scores, iou, labels).tolist()
    )


@given(scenes())
def test_crowding_is_its_definition(scene: Scene) -> None:
    boxes, scores, labels = scene
    shared = overlaps(boxes)
    others = by_loop(scores, labels, lambda i, j: shared[i, j] > 0.8)
    expected = [
        max(
            (shared[i, j] for j in others if j != i and labels[j] == labels[i] and scores[j] >= scores[i] / 2),
            default=0,
        )
        for i in range(len(boxes))
    ]
    np.testing.assert_allclose(crowding(boxes, scores, labels), expected, atol=1e-12)


# Two people side by side (IoU 2/3), each with a copy a fifth of its width aside that scores little, and one alone.
PEOPLE = np.array([[0, 0, 10, 30], [2, 0, 12, 30], [40, 0, 50, 30]], float)
COPIES = PEOPLE + np.array([[-2, 0, -2, 0], [1, 0, 1, 0], [3, 0, 3, 0]])  # IoU with their own 2/3, 9/11, 7/13
CROWD = np.concatenate([PEOPLE, COPIES]), np.array([0.9, 0.8, 0.7, 0.2, 0.2, 0.2])


def test_adaptive_keeps_neighbours_and_removes_copies() -> None:
    """Greedy at .5 loses a person; at .7 it keeps copies. Adaptive does neither, told the density or not."""
    boxes, scores = CROWD
    assert greedy(boxes, scores, 0.5).tolist() == [0, 2]
    assert greedy(boxes, scores, 0.7).tolist() == [0, 1, 2, 3, 5]
    told = np.array([2 / 3, 2 / 3, 0, 0.9, 0.9, 0.9])  # that of copies does not count, for they are gone
    assert adaptive(boxes, scores, 0.5, told + np.array([1e-9, 1e-9, 0, 0, 0, 0])).tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(crowding(boxes, scores)[:3], [2 / 3, 2 / 3, 0])
    assert adaptive(boxes, scores, 0.5).tolist() == [0, 1, 2, 3]  # copy 3 overlaps its own no more than the neighbour


def test_an_adaptive_that_forgets_its_densities_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = rotated_kernels.greedy
    monkeypatch.setattr(rotated_kernels, "greedy", lambda *a: inner(*a[:7], np.full_like(a[7], a[7].min()), a[8]))
    assert adaptive(*CROWD, 0.5).tolist() == [0, 2]


# -- fusion ---------------------------------------------------------------------------------------------------


@given(scenes(), st.sampled_from([0, 0.3, 0.55, 1]))
def test_fusion_of_one_network_is_that_of_models_with_the_best_score(scene: Scene, iou: float) -> None:
    """`fuse` is held by the oracle of ensemble-boxes (test_fusion.py)."""
    boxes, scores, labels = scene
    boxes = boxes.astype(np.float32).astype(np.float64)  # as Objects hold them: at IoU 0 a touch decides
    keep, fused = fusion(boxes, scores, iou, labels)
    assert len(keep) == len(set(keep.tolist()))
    assert scores[keep].tolist() == sorted(scores[keep].tolist(), reverse=True)
    if not len(boxes):
        return
    oriented = boxes.shape[1] == 5
    geometry = {"boxes": obb_hull(boxes), "obbs": boxes} if oriented else {"boxes": boxes}
    part = Objects((40, 40), labels, **{k: v.astype(np.float32) for k, v in geometry.items()}, scores=scores)
    other = fuse([part], iou=iou, confidence="max")
    np.testing.assert_allclose(scores[keep], other.scores, atol=1e-6)
    mine = canonical_obb(fused) if oriented else fused
    order, theirs = np.lexsort((mine[:, 0], mine[:, 1])), other.obbs if oriented else other.boxes
    assert theirs is not None
    if oriented:  # a turn by half a turn, or of a square by a quarter, is the same box: compare what they cover
        assert len(mine) == len(theirs)
        return
    np.testing.assert_allclose(mine[order], theirs[np.lexsort((theirs[:, 0], theirs[:, 1]))], atol=1e-4)


def test_fusion_averages_by_score_and_keeps_the_best_score() -> None:
    boxes = [[0, 0, 10, 10], [50, 0, 60, 10], [2, 0, 12, 10]]
    keep, fused = fusion(boxes, [0.6, 0.5, 0.2], 0.5)
    assert keep.tolist() == [0, 1]
    np.testing.assert_allclose(fused, [[0.5, 0, 10.5, 10], [50, 0, 60, 10]])
    found = survivors("fusion", boxes, [0.6, 0.5, 0.2], 0.5)
    assert found.scores.tolist() == [0.6, 0.5]
    turned = [[10, 10, 20, 4, 0.2], [10, 10, 20, 4, 0.4]]
    np.testing.assert_allclose(fusion(turned, [0.5, 0.5], 0.3)[1], [[10, 10, 20, 4, 0.3]])


# -- every way by its name ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Any]:
    return {n: json.loads((shared / f"oracles/nms/{n}.json").read_text()) for n in ("boxes", "proposals", "expected")}


def test_names_lead_to_what_the_oracle_holds(oracle: dict[str, Any]) -> None:
    d, e = oracle["boxes"], oracle["expected"]
    for iou, keep in e["batched"].items():
        assert survivors("greedy", d["boxes"], d["scores"], float(iou), d["classes"]).keep.tolist() == keep
    for name in ("soft_gaussian", "soft_gaussian_sigma_0.3", "soft_linear", "soft_linear_0.5"):
        for labels, expected in ((None, e[name]), (d["classes"], e[f"batched_{name}"])):
            p, method = expected["params"], METHODS[METHODS.index("soft_" + expected["params"]["method"])]  # type: ignore[arg-type]
            found = survivors(
                method,
                d["boxes"],
                d["scores"],
                p["iou_threshold"],
                labels,
                sigma=p["sigma"],
                floor=p["score_threshold"],
            )
            assert found.keep.tolist() == expected["keep"]
            np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-5)
    d = oracle["proposals"]
    for iou, keep in e["set_nms"].items():
        found = survivors("set", d["boxes"], d["scores"], float(iou), proposal=d["proposal"])
        assert sorted(found.keep.tolist()) == keep
    for iou, keep in e["plain_for_comparison"].items():
        assert sorted(survivors("set", d["boxes"], d["scores"], float(iou)).keep.tolist()) == keep


@pytest.mark.parametrize("method", METHODS)
@given(scene=scenes())
def test_nothing_goes_at_1_and_all_that_overlaps_at_0(scene: Scene, method: Method) -> None:
    """crowd-24, crowd-34: every name runs, and obeys its threshold. `soft_gaussian` and `none` have none."""
    boxes, scores, labels = scene
    boxes, labels = np.concatenate([boxes, boxes]), np.concatenate([labels, labels])  # copies too
    scores = np.concatenate([scores, scores]) * 0.8 + 0.1
    count, zeros = len(boxes), np.zeros(len(boxes))
    at1 = survivors(method, boxes, scores, 1.0, labels, floor=0, density=zeros)
    assert sorted(at1.keep.tolist()) == list(range(count)) or method == "soft_gaussian"
    if method != "soft_gaussian":
        np.testing.assert_array_equal(at1.scores, scores[at1.keep])
    at0 = survivors(method, boxes, scores, 0.0, labels, floor=0, density=zeros)
    assert len(at0.keep) == len(at0.scores) == len(at0.boxes)
    assert at0.scores.tolist() == sorted(at0.scores.tolist(), reverse=True)
    shared = np.where(labels[:, None] == labels, overlaps(boxes), 0)
    np.fill_diagonal(shared, 0)
    if method in ("greedy", "adaptive", "set"):
        assert not shared[np.ix_(at0.keep, at0.keep)].any()
    elif method == "diou":  # what is left overlaps, but its centres lie further apart than that
        keep = at0.keep
        assert ((shared - distances(boxes))[np.ix_(keep, keep)][shared[np.ix_(keep, keep)] > 0] < 1e-9).all()
    elif method.startswith("soft"):  # all that overlaps a better one has lost score
        lost = at0.scores < scores[at0.keep]
        worse = [shared[i, at0.keep[:k]].any() for k, i in enumerate(at0.keep)]
        if method == "soft_linear":  # whose factor 1 - IoU reaches 0: what coincides with a better one is gone
            assert not (shared[np.ix_(at0.keep, at0.keep)] == 1).any()
        assert (lost == worse).all()


@pytest.mark.parametrize("method", METHODS)
def test_empty_and_alone(method: Method) -> None:
    for empty in (np.zeros((0, 4)), np.zeros((0, 5)), []):
        assert not len(survivors(method, empty, [], 0.5).keep)
    for one in ([[0, 0, 5, 5]], [[0, 0, 0, 0]], [[5, 5, 4, 2, 0.3]]):
        found = survivors(method, one, [0.7], 0.0)
        assert (found.keep.tolist(), found.scores.tolist()) == ([0], [0.7])
        np.testing.assert_allclose(found.boxes, one)


@pytest.mark.parametrize(
    ("method", "a", "b"),
    [
        *[(m, {"iou": 0.2}, {"iou": 0.7}) for m in METHODS if m not in ("soft_gaussian", "none")],
        ("soft_gaussian", {"sigma": 0.1}, {"sigma": 0.9}),
        ("soft_gaussian", {"floor": 0.0}, {"floor": 0.3}),
        ("soft_linear", {"floor": 0.0}, {"floor": 0.3}),
        ("adaptive", {"density": np.zeros(60)}, {"density": np.full(60, 0.9)}),
        ("set", {"proposal": np.arange(60)}, {"proposal": np.zeros(60, int)}),
    ],
)
def test_every_setting_is_heard(method: Method, a: dict[str, Any], b: dict[str, Any]) -> None:
    """crowd-24: a threshold that is not passed on changes nothing."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 40, (60, 2))
    boxes, scores = np.c_[corner, corner + 15], rng.random(60)
    one, other = (survivors(method, boxes, scores, **({"iou": 0.5} | o)) for o in (a, b))
    assert one.keep.tolist() != other.keep.tolist() or one.scores.tolist() != other.scores.tolist()


def test_a_soft_way_without_its_threshold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The founding bug of crowd-24, planted: both tests above would see it."""
    inner = module.soft

    def deaf(*args: Any, iou: float, **settings: Any) -> Any:
        return inner(*args, **settings)

    monkeypatch.setattr(module, "soft", deaf)
    found = [survivors("soft_linear", *CROWD, iou).scores.tolist() for iou in (0.0, 1.0)]
    assert found[0] == found[1]
    assert found[1] != sorted(CROWD[1].tolist(), reverse=True)


BOX = [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: survivors("softnms", BOX, [0.5], 0.5), "greedy, soft_linear"),  # type: ignore[arg-type]
        (lambda: survivors("none", BOX, [0.5], 1.5), "0..1"),
        (lambda: survivors("soft_gaussian", BOX, [0.5], 0.5, sigma=0), "sigma"),
        (lambda: survivors("fusion", BOX, [-0.5], 0.5), "below 0"),
        (lambda: survivors("set", BOX, [0.5], 0.5, proposal=[0.5]), "proposal"),
        (lambda: adaptive(BOX, [0.5], 0.5, [1.5]), "density"),
        (lambda: adaptive(BOX, [0.5], 0.5, [np.nan]), "density"),
        (lambda: adaptive(BOX, [0.5], 0.5, [0.5, 0.5]), "density"),
        (lambda: diou([[0, 0, np.inf, 1]], [0.5], 0.5), "box 0"),
    ],
)
def test_misuse_is_told(call: Callable[[], object], says: str) -> None:
    with pytest.raises(TercelError, match=says):
        call()
