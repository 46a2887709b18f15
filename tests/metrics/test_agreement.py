"""Agreement of two label sets by hand and by slow search; the ceiling predicts what jittered truth really gets."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.finding import TercelError
from tercel.core.geometry import box_iou, canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.core.rotated import obb_iou
from tercel.metrics.agreement import agree, difference_of, moved_by
from tercel.metrics.ap import judge_boxes
from tercel.metrics.ceiling import noise_ceiling

SIZE = (1000, 1000)


def boxes(*rows, labels=None, ignore=None) -> Objects:
    return Objects(SIZE, [0] * len(rows) if labels is None else labels, rows, ignore)


def oriented(obbs, labels=None, **columns) -> Objects:
    obbs = canonical_obb(np.asarray(obbs, float))
    return Objects(SIZE, np.zeros(len(obbs), int) if labels is None else labels, obb_hull(obbs), obbs=obbs, **columns)


# -- by hand ------------------------------------------------------------------------------------------------------


def test_directions_differ_and_are_both_given():
    """B labels one object twice: seen from B the second label overlaps by half, seen from A nothing is amiss."""
    a = [boxes((0, 0, 10, 10), (50, 50, 60, 60))]
    b = [boxes((0, 0, 10, 10), (0, 0, 10, 5), (50, 50, 60, 60))]
    r = agree(a, b, ["car"])
    assert r["A to B"] == pytest.approx(1)
    assert r["B to A"] == pytest.approx(2.5 / 3)
    assert r["one to one"] == pytest.approx(1)
    assert r["one to one, all"] == pytest.approx(2 / 3)
    assert [(x["side"], x["row"], x["picture"]) for x in r.alone] == [("B", 1, "0")]
    turned = agree(b, a, ["car"])
    assert turned["A to B"] == pytest.approx(r["B to A"])
    assert turned["one to one, all"] == pytest.approx(r["one to one, all"])
    json.dumps(r.to_json(), allow_nan=False)


def test_classes_are_compared_by_name():
    a = [boxes((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), labels=[0, 1, 1])]
    b = [boxes((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), labels=[1, 0, 1])]
    r = agree(a, b, ["car", "bus"], ["bus", "car"])
    assert {(x["A"], x["B"]): x["count"] for x in r.confusion} == {
        ("car", "car"): 1,
        ("bus", "bus"): 1,
        ("bus", "car"): 1,
    }
    assert next(s.value for s in r.scores if s.name == "same_class") == pytest.approx(2 / 3)


def test_what_either_side_ignores_is_left_out_and_counted():
    a = [boxes((0, 0, 10, 10), (50, 50, 60, 60), (80, 80, 90, 90), ignore=[False, False, True])]
    b = [boxes((0, 0, 10, 10), (40, 40, 70, 70), ignore=[False, True])]
    r = agree(a, b, ["car"])
    assert not r.alone
    assert (r["A to B"], r["B to A"], r["one to one, all"]) == pytest.approx((1, 1, 1))
    assert r.ignored == 3  # two that are marked, one under a mark of the other side
    assert r.rates == (0, 0)


def test_pairs_are_the_best_of_all_assignments():
    """Against every permutation; greedy by overlap would be worse."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        x, y = (np.c_[c, c + rng.uniform(20, 40, (4, 2))] for c in rng.uniform(0, 30, (2, 4, 2)))
        iou = box_iou(x, y)
        iou = np.where(iou >= 0.1, iou, 0)
        best = max(sum(iou[i, p[i]] for i in range(4)) for p in itertools.permutations(range(4)))
        r = agree([boxes(*x)], [boxes(*y)], ["car"])
        assert r.iou.sum() == pytest.approx(best, abs=1e-5)


def test_histogram_and_rates():
    a = [boxes((0, 0, 100, 10), (0, 50, 100, 60), (500, 500, 510, 510))]
    b = [boxes((0, 0, 100, 10), (0, 50, 62, 60), (700, 700, 710, 710), (800, 800, 810, 810))]
    r = agree(a, b, ["car"])
    assert {round(h["low"], 2): h["n"] for h in r.histogram if h["n"]} == {0.6: 1, 0.95: 1}
    assert r.rates == pytest.approx((1 / 3, 2 / 3))


def test_pictures_that_differ_are_a_finding():
    a = [boxes((0, 0, 10, 10))] * 3
    r = agree(a, a, ["car"], ids=["x", "y", "z"], hashes=(["1", "2", ""], ["1", "3", "4"]))
    assert [(f.check, f.count, f.evidence) for f in r.findings] == [("agree.other_pixels", 1, ("y",))]
    assert not agree(a, a, ["car"], hashes=(["1"] * 3, ["1"] * 3)).findings


def test_oriented_boxes_are_compared_as_such():
    a, b = oriented([[100, 100, 60, 20, 0.3]]), oriented([[100, 100, 60, 20, 0.6]])
    r = agree([a], [b], ["car"])
    assert r.geometry == "oriented"
    assert r["one to one"] == pytest.approx(float(obb_iou(a.obbs.astype(float), b.obbs.astype(float))[0, 0]), abs=1e-6)
    np.testing.assert_allclose(r.residuals, [[0, 0, 0, 0, 0.3]], atol=1e-5)
    hulls = agree([a], [Objects(SIZE, [0], b.boxes)], ["car"])
    assert hulls.geometry == "boxes"
    assert [f.check for f in hulls.findings] == ["agree.hulls"]


def test_nothing_in_common_is_undefined():
    r = agree([boxes((0, 0, 10, 10))], [boxes((50, 50, 60, 60))], ["car"])
    assert math.isnan(r["one to one"])
    assert r["A to B"] == 0
    assert [f.check for f in r.findings] == ["agree.nothing"]
    with pytest.raises(TercelError, match="no object in common"):
        noise_ceiling([boxes((0, 0, 10, 10))], r, ["car"])


def test_what_does_not_fit_is_refused():
    a = [boxes((0, 0, 10, 10))]
    with pytest.raises(TercelError, match="not the same pictures"):
        agree(a, [], ["car"])
    with pytest.raises(TercelError, match="10x10 px in B"):
        agree(a, [Objects.empty((10, 10))], ["car"])
    with pytest.raises(TercelError, match="one side has none"):
        agree(a, a, ["car"], geometry="oriented")


# -- residuals ----------------------------------------------------------------------------------------------------

sides = st.floats(5, 80)
obb = st.tuples(st.floats(50, 500), st.floats(50, 500), sides, sides, st.floats(-1.5, 1.5))


@given(obb, obb)
def test_residuals_turn_the_one_into_the_other(x, y):
    """Whatever the boxes, square ones and other readings of the sides included: the same rectangle comes out."""
    a, b = canonical_obb(np.array([x])), canonical_obb(np.array([y]))
    got = moved_by(a, difference_of(a, b))
    assert obb_iou(got, b)[0, 0] == pytest.approx(1, abs=1e-6)
    assert abs(difference_of(a, b)[0, 4]) <= math.pi / 4 + 1e-9
    a4, b4 = (np.c_[o[:, :2], o[:, :2] + o[:, 2:4]] for o in (a, b))
    np.testing.assert_allclose(moved_by(a4, difference_of(a4, b4)), b4, atol=1e-8)


# -- the ceiling --------------------------------------------------------------------------------------------------


def labels(seed: int, pictures: int = 30) -> list[Objects]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(pictures):
        n = 25
        grid = np.stack(np.meshgrid(np.arange(5) * 180 + 90, np.arange(5) * 180 + 90), -1).reshape(-1, 2)
        length = rng.uniform(25, 70, n)
        obbs = np.c_[grid + rng.uniform(-30, 30, (n, 2)), length, length / 2.2, rng.uniform(-1.5, 1.5, n)]
        out.append(oriented(obbs, rng.integers(0, 2, n)))
    return out


def annotated_again(truth: list[Objects], seed: int, noise: float = 1.0, missed: float = 0.0) -> list[Objects]:
    """Errors in px, so relatively larger for small objects; some objects missed."""
    rng = np.random.default_rng(seed)
    out = []
    for o in truth:
        kept = rng.random(len(o)) >= missed
        obbs = o.obbs[kept].astype(float)
        n = len(obbs)
        obbs[:, :2] += noise * rng.normal(0, 1.2, (n, 2))
        obbs[:, 2:4] += noise * rng.normal(0, 1.5, (n, 2))
        obbs[:, 4] += noise * rng.normal(0, 1.5, n) / obbs[:, 2]
        out.append(oriented(obbs, o.labels[kept]))
    return out


def measured(truth: list[Objects], again: list[Objects], seed: int) -> np.ndarray:
    """AP at the ten thresholds of real labels that score at random, by the judge."""
    rng = np.random.default_rng(seed)
    pred = [o.replace(scores=rng.random(len(o))) for o in again]
    report = judge_boxes(truth, pred, ("car", "bus"), geometry="oriented", resamples=0)
    return np.array([r["AP"] for r in report.thresholds if r["class"] is None])


@pytest.mark.parametrize(("kind", "missed"), [("placed", 0.0), ("labelled again", 0.15)])
def test_the_predicted_ceiling_is_what_jittered_truth_gets(kind, missed):
    """Measured on other pictures than those of the agreement, labelled by the same unsteady hand."""
    truth, other = labels(0), labels(1)
    agreement = agree(truth, annotated_again(truth, 2, missed=missed), ("car", "bus"))
    ceiling = noise_ceiling(other, agreement, ("car", "bus"), draws=40)
    low, high = np.quantile(ceiling.draws[kind], [0.025, 0.975], axis=0)
    real = measured(other, annotated_again(other, 3, missed=missed), 4)
    assert ((real >= low - 0.01) & (real <= high + 0.01)).all(), (low, real, high)
    s = next(s for s in ceiling.scores if s.name == "AP" and s.where["ceiling"] == kind)
    assert s.low <= real.mean() <= s.high
    louder = measured(other, annotated_again(other, 3, noise=1.5, missed=missed), 4)
    assert not s.low <= louder.mean() <= s.high  # the interval is narrow enough to tell
    json.dumps(ceiling.to_json(), allow_nan=False)


def test_knowing_the_fit_raises_the_ceiling_to_the_recall():
    truth = labels(5, pictures=8)
    ceiling = noise_ceiling(truth, agree(truth, annotated_again(truth, 6), ("car", "bus")), ("car", "bus"), draws=5)
    best, blind = (ceiling.draws[k].mean(axis=0) for k in ("placed, best first", "placed"))
    assert (best >= blind - 1e-9).all()
    assert best[-3] > blind[-3] + 0.02
    assert ceiling.draws["labelled again"].mean() <= blind.mean() + 0.01


def test_perfect_agreement_leaves_the_truth_alone():
    truth = labels(7, pictures=4)
    ceiling = noise_ceiling(truth, agree(truth, truth, ("car", "bus")), ("car", "bus"), draws=2)
    assert all((d > 1 - 1e-6).all() for d in ceiling.draws.values())
