"""OC-cost against the paper's transport problem, solved by linear programming, and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.spatial import ConvexHull

from tercel.core.finding import TercelError
from tercel.core.geometry import canonical_obb, obb_corners, obb_hull
from tercel.core.objects import Objects
from tercel.core.rotated import reference_iou
from tercel.metrics.match import Pool
from tercel.metrics.occost import _giou, occost

SIZE = (480, 640)


def objects(rows, labels=None, **columns):
    rows = np.asarray(rows, np.float32).reshape(-1, 4)
    return Objects(SIZE, np.zeros(len(rows), int) if labels is None else labels, rows, **columns)


def oriented(rows, labels=None, **columns):
    rows = np.asarray(rows, float).reshape(-1, 5)
    labels = np.zeros(len(rows), int) if labels is None else labels
    return Objects(SIZE, labels, obb_hull(rows), obbs=canonical_obb(rows), **columns)


def transport(pairs, beta):
    """The paper's problem: supplies 1 of each detection and n of a dummy, demands 1 of each truth and m of a dummy."""
    m, n = pairs.shape
    costs = np.full((m + 1, n + 1), beta)
    costs[:m, :n] = pairs
    costs[m, n] = 0
    rows, columns = np.zeros((m + 1, (m + 1) * (n + 1))), np.zeros((n + 1, (m + 1) * (n + 1)))
    for i in range(m + 1):
        rows[i, i * (n + 1) : (i + 1) * (n + 1)] = 1
    for j in range(n + 1):
        columns[j, j :: n + 1] = 1
    right = np.concatenate([np.ones(m), [n], np.ones(n), [m]])
    plan = linprog(costs.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=right, method="highs").x
    plan = plan.reshape(m + 1, n + 1)
    plan[m, n] = 0
    return (plan * costs).sum() / plan.sum()


def giou(a, b):
    """From the definition, one pair of boxes."""
    inter = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter
    around = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
    return inter / union - (around - union) / around


@pytest.mark.parametrize("beta", [0.2, 0.35, 0.6])
@pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.5, 1.0])
def test_against_the_transport_problem(lambda_, beta):
    rng = np.random.default_rng(7)
    for _ in range(8):
        n, m = rng.integers(1, 6, 2)
        corner = rng.uniform(0, 200, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(20, 80, (n, 2))], axis=1)
        labels = rng.integers(0, 2, n)
        found = boxes[rng.integers(0, n, m)] + rng.normal(0, 4, (m, 4))
        truth = objects(boxes, labels)
        pred = objects(found, rng.integers(0, 2, m), scores=rng.uniform(0.1, 1, m))
        pairs = np.empty((m, n))
        for i in range(m):
            for j in range(n):
                place = (1 - giou(pred.boxes[i].astype(float), truth.boxes[j].astype(float))) / 2
                sign = -1 if pred.labels[i] == truth.labels[j] else 1
                pairs[i, j] = lambda_ * place + (1 - lambda_) * (1 + sign * float(pred.scores[i])) / 2
        r = occost([truth], [pred], ["a", "b"], lambda_=lambda_, beta=beta, cap=None)
        assert r["OC_cost"] == pytest.approx(transport(pairs, beta), abs=1e-9)
        assert r.parts.sum() == pytest.approx(r["OC_cost"])
        assert r.counts[0, 0] + r.counts[0, 1] == m
        assert r.counts[0, 0] + r.counts[0, 2] == n


def test_by_hand():
    truth = [objects([[0, 0, 10, 10]]), objects([]), objects([[0, 0, 10, 10], [50, 50, 60, 60]]), objects([])]
    pred = [
        objects([[0, 0, 10, 5]], scores=[0.8]),  # GIoU .5: .5 * .25 + .5 * .1
        objects([[0, 0, 5, 5]], scores=[0.9]),  # one deletion
        objects([[0, 0, 10, 10]], scores=[1.0]),  # a perfect pair and an addition: .6 / 2
        objects([], scores=[]),  # nothing to do
    ]
    r = occost(truth, pred, ["a"])
    np.testing.assert_allclose(r.cost, [0.175, 0.6, 0.3, 0], atol=1e-6)
    assert r["OC_cost"] == pytest.approx((0.175 + 0.6 + 0.3) / 4)
    assert r["OC_cost_place"] == pytest.approx(0.125 / 4)
    assert r["OC_cost_class"] == pytest.approx(0.05 / 4)
    assert r["OC_cost_extra"] == pytest.approx(0.6 / 4)
    assert r["OC_cost_missing"] == pytest.approx(0.3 / 4)
    assert r.counts.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert r.scores[0].low <= r.scores[0].value <= r.scores[0].high
    json.loads(json.dumps(r.to_json(), allow_nan=False))


def test_score_threshold_and_ignored_truths():
    truth = objects([[0, 0, 10, 10], [100, 100, 200, 200]], ignore=[False, True])
    pred = objects([[0, 0, 10, 10], [120, 120, 140, 140], [300, 300, 310, 310]], scores=[1.0, 0.9, 0.3])
    assert occost([truth], [pred], ["a"], score=0.5)["OC_cost"] == pytest.approx(0, abs=1e-9)
    assert occost([truth], [pred], ["a"])["OC_cost"] == pytest.approx(0.3), "a pair for nothing, and a deletion"


def test_oriented_giou():
    """IoU and enclosing polygon against slow ones, far from the origin and with boxes that share edges."""
    rng = np.random.default_rng(3)
    a = np.column_stack([rng.uniform(0, 60, (6, 2)) + 5000, rng.uniform(5, 60, (6, 2)), rng.uniform(-2, 2, 6)])
    b = np.concatenate([a[:2], a[2:] + rng.normal(0, [20, 20, 5, 5, 0.5], (4, 5))])
    a, b = canonical_obb(a), canonical_obb(b)
    got = _giou(*(_pool(x) for x in (a, b)))
    for i in range(6):
        for j in range(6):
            iou = float(reference_iou(a[i : i + 1], b[j : j + 1])[0, 0])
            union = (a[i, 2] * a[i, 3] + b[j, 2] * b[j, 3]) / (1 + iou)
            around = ConvexHull(np.concatenate(obb_corners(np.stack([a[i], b[j]]))) - 5000).volume
            assert got[i, j] == pytest.approx(iou - (around - union) / around, abs=1e-8)
    np.testing.assert_allclose(np.diag(got)[:2], 1, atol=1e-9)


def _pool(obbs):
    n = len(obbs)
    zeros = np.zeros(n, np.int64)
    return Pool(zeros, zeros, zeros, obb_hull(obbs), np.ones(n), np.zeros(n, bool), np.ones(n), 1, obbs)


def test_oriented_boxes():
    truth = oriented([[100, 100, 40, 20, 0.5], [300, 300, 40, 20, -0.5]])
    exact = oriented([[300, 300, 40, 20, -0.5], [100, 100, 40, 20, 0.5]], scores=[1.0, 1.0])
    assert occost([truth], [exact], ["a"])["OC_cost"] == pytest.approx(0, abs=1e-6)
    turned = oriented([[300, 300, 40, 20, 0.5], [100, 100, 40, 20, 0.5]], scores=[1.0, 1.0])
    assert occost([truth], [turned], ["a"])["OC_cost_place"] > 0.02
    hulls = occost([truth], [turned], ["a"], geometry="boxes")
    assert hulls["OC_cost_place"] == pytest.approx(0, abs=1e-6), "their hulls are the same"


def test_silence_nothing_and_misuse():
    truth = objects([[0, 0, 10, 10]])
    assert occost([truth], [objects([], scores=[])], ["a"], beta=0.4)["OC_cost"] == pytest.approx(0.4)
    assert math.isnan(occost([], [], ["a"])["OC_cost"])
    with pytest.raises(TercelError, match="beta = 2"):
        occost([truth], [truth.replace(scores=[0.5])], ["a"], beta=2)
