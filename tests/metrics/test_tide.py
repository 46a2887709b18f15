"""TIDE against tidecv's numbers, axis-aligned and as turned oriented boxes, and against cases by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tercel.core.finding import TercelError
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.metrics.ap import judge_boxes
from tercel.metrics.tide import KINDS, MEANING, tide, tide_from

SIZE = (480, 640)
CASES = {"plain": ("gt", "dets", 0.5), "plain_pos075": ("gt", "dets", 0.75), "crowd": ("gt_crowd", "dets_crowd", 0.5)}


def objects(rows, labels=None, **columns):
    rows = np.asarray(rows, np.float32).reshape(-1, 4)
    return Objects(SIZE, np.zeros(len(rows), int) if labels is None else labels, rows, **columns)


def turned(o, by):
    """The same boxes as oriented ones, the whole scene turned about the origin."""
    boxes = o.boxes.astype(float)
    c, s = np.cos(by), np.sin(by)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 @ np.array([[c, s], [-s, c]])
    obbs = canonical_obb(np.column_stack([centre, boxes[:, 2:] - boxes[:, :2], np.full(len(o), by)]))
    return o.replace(obbs=obbs, boxes=obb_hull(obbs))


def read(folder, case):
    truth_name, pred_name, _ = CASES[case]
    truth, found = (json.loads((folder / f"{n}.json").read_text()) for n in (truth_name, pred_name))
    number = {c["id"]: i for i, c in enumerate(truth["categories"])}
    sides = [], []
    for im in truth["images"]:
        for side, rows in zip(sides, (truth["annotations"], found), strict=True):
            mine = [a for a in rows if a["image_id"] == im["id"]]
            xywh = np.array([a["bbox"] for a in mine]).reshape(-1, 4)
            columns = (
                {"scores": [a["score"] for a in mine]}
                if side is sides[1]
                else {"ignore": np.array([a["iscrowd"] for a in mine], bool)}
            )
            boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            labels = np.array([number[a["category_id"]] for a in mine], int)
            side.append(Objects((im["height"], im["width"]), labels, boxes, **columns))
    return *sides, [c["name"] for c in truth["categories"]]


@pytest.fixture(scope="module")
def oracle(shared):
    folder = shared / "oracles/tide"
    return folder, json.loads((folder / "expected.json").read_text())


@pytest.mark.parametrize("by", [None, 0.0, 0.6, 2.0])
@pytest.mark.parametrize("case", CASES)
def test_oracle(oracle, case, by):
    """Percent points within 1e-6, counts exact; a scene that is turned as a whole loses nothing."""
    folder, expected = oracle
    truth, pred, classes = read(folder, case)
    if by is not None:
        truth, pred = [turned(t, by) for t in truth], [turned(p, by) for p in pred]
    r = tide(truth, pred, classes, positive=CASES[case][2], resamples=0)
    want = expected[case]
    assert 100 * r[f"AP{100 * CASES[case][2]:g}"] == pytest.approx(want["AP"], abs=1e-6)
    prices = {**want["dAP"], "FalsePos": want["FalsePos"], "FalseNeg": want["FalseNeg"]}
    assert {k: 100 * r[f"dAP_{k}"] for k in prices} == pytest.approx(prices, abs=1e-6)
    assert {row["error"]: row["count"] for row in r.table if row["error"] in want["counts"]} == want["counts"]
    for name in MEANING:
        assert sum(row[name] for row in r.by_class) == next(x["count"] for x in r.table if x["error"] == name)


def test_a_matching_at_hand_gives_the_same(oracle):
    truth, pred, classes = read(oracle[0], "crowd")
    direct = tide(truth, pred, classes, resamples=20)
    shared = tide_from(judge_boxes(truth, pred, classes, resamples=0).matching, classes, resamples=20)
    assert [s.to_json() for s in direct.scores] == [s.to_json() for s in shared.scores]
    assert all(s.low <= s.value <= s.high for s in direct.scores if not math.isnan(s.low))
    assert sum(not math.isnan(s.low) for s in direct.scores) > 30


def one_of_each():
    """A picture with one error of each kind: truths of class 0 in a row, one of class 1."""
    truth = objects([[0, 0, 10, 10], [50, 0, 60, 10], [100, 0, 110, 10], [150, 0, 160, 10]], [0, 0, 1, 0])
    pred = objects(
        [
            [0, 0, 10, 10],  # right
            [0, 0, 10, 9],  # again
            [50, 0, 60, 4],  # IoU .4
            [100, 0, 110, 10],  # class 0 on a truth of class 1
            [100, 0, 110, 4],  # the same, badly placed
            [300, 300, 310, 310],  # nothing there
        ],
        scores=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
    )
    return truth, pred


@pytest.mark.parametrize("by", [None, 0.7])
def test_each_kind_by_hand(by):
    truth, pred = one_of_each()
    if by is not None:
        truth, pred = turned(truth, by), turned(pred, by)
    r = tide([truth], [pred], ["a", "b"])
    kinds = [KINDS[k] if k >= 0 else None for k in r.kind[np.argsort(r.matching.pred.row)]]
    assert kinds == [None, "Dupe", "Loc", "Cls", "Both", "Bkg"]
    assert r.about[np.argsort(r.matching.pred.row)].tolist() == [-1, 0, 1, 2, -1, -1]
    assert r.missed.tolist() == [False, False, False, True]
    assert r.not_found.tolist() == [False, True, True, True]
    # Class a: 1 hit first, then false alarms, of 3 truths: 34 of 101 recalls. Class b: nothing.
    assert r["AP50"] == pytest.approx((34 / 101 + 0) / 2)
    # Loc repaired: hits at rank 1 and 3, recall 2/3 at precision 2/3: 34 points at 1, 33 at 2/3.
    assert r["dAP_Loc"] == pytest.approx(33 * 2 / 3 / 101 / 2)
    assert r["dAP_Cls"] == pytest.approx(1 / 2), "class b is whole"
    assert r["dAP_Miss"] == pytest.approx((51 - 34) / 101 / 2), "one truth of two is found"
    assert r["dAP_FalseNeg"] == pytest.approx(1 - 34 / 101 / 2), "class b has nothing left and leaves the mean"
    assert r["dAP_Dupe"] == r["dAP_Bkg"] == r["dAP_Both"] == r["dAP_FalsePos"] == 0
    assert {k: v for k, v in r.by_class[1].items() if not k.startswith("dAP")} == {
        "class": "b", "Cls": 0, "Loc": 0, "Both": 0, "Dupe": 0, "Bkg": 0, "Miss": 0, "FalsePos": 0, "FalseNeg": 1,
    }  # fmt: skip
    assert all(math.isnan(s.low) for s in r.scores), "one picture shows no spread"


def test_the_best_pointer_alone_repairs():
    truth = objects([[0, 0, 10, 10]])
    pred = objects([[0, 0, 10, 3], [0, 0, 10, 4]], scores=[0.5, 0.9])
    r = tide([truth], [pred], ["a"], resamples=0)
    assert r["AP50"] == 0
    assert r["dAP_Loc"] == 1, "the better one hits, the other goes"
    assert r["dAP_Miss"] == 0
    assert not r.missed.any()


def test_a_found_truth_repairs_nothing():
    truth = objects([[0, 0, 10, 10]])
    pred = objects([[0, 0, 10, 4], [0, 0, 10, 10]], scores=[0.9, 0.8])
    r = tide([truth], [pred], ["a"], resamples=0)
    assert (r["AP50"], r["dAP_Loc"]) == (0.5, 0.5), "the false alarm before it goes; it is no second hit"


def test_a_class_that_is_repaired_away_counts_0_while_detections_are_left():
    truth = objects([[0, 0, 10, 10], [50, 0, 60, 10]], [0, 1])
    pred = objects([[0, 0, 10, 10], [300, 300, 310, 310]], [0, 1], scores=[0.9, 0.8])
    r = tide([truth, truth], [pred, pred], ["a", "b"])
    assert (r["AP50"], r["dAP_Miss"], r["dAP_Bkg"]) == (0.5, 0, 0)
    bare = tide([truth, truth], [pred[:1], pred[:1]], ["a", "b"])
    assert bare["dAP_Miss"] == 0.5, "nothing is left of class b"


def test_overlap_at_the_background_threshold():
    truth = objects([[0, 0, 10, 10]], [1])
    pred = objects([[0, 0, 10, 1], [0, 0, 10, 1.5]], [0, 0], scores=[0.9, 0.8])
    r = tide([truth], [pred], ["a", "b"], background=0.1, resamples=0)
    assert [KINDS[k] for k in r.kind] == ["Bkg", "Both"]


def test_nothing_to_find_is_undefined():
    r = tide([objects([])], [objects([[0, 0, 5, 5]], scores=[0.5])], ["a"])
    assert all(math.isnan(s.value) for s in r.scores)
    assert [KINDS[k] for k in r.kind] == ["Bkg"]
    json.loads(json.dumps(r.to_json(), allow_nan=False))
    empty = tide([], [], ["a"])
    assert math.isnan(empty["AP50"])


def test_perfect_detections_cost_nothing():
    rng = np.random.default_rng(0)
    truth = []
    for _ in range(4):
        corner = np.arange(9)[:, None] * 40 + rng.uniform(0, 5, (9, 2))
        truth.append(objects(np.concatenate([corner, corner + 20], axis=1), rng.integers(0, 2, 9)))
    pred = [t.replace(scores=rng.uniform(0.1, 0.9, len(t))) for t in truth]
    r = tide(truth, pred, ["a", "b"])
    assert r["AP50"] == 1
    assert all(s.value == 0 and s.n == 0 for s in r.scores if s.name.startswith("dAP"))


def test_what_lies_beyond_the_cap_is_said():
    pred = objects([[0, 0, 10, 10]] * 5, scores=[0.5, 0.4, 0.3, 0.2, 0.1])
    r = tide([objects([[0, 0, 10, 10]])], [pred], ["a"], cap=3)
    assert [(f.check, f.count) for f in r.findings] == [("tide.cap", 2)]
    assert not tide([objects([[0, 0, 10, 10]])], [pred], ["a"], cap=None).findings


@pytest.mark.parametrize(
    ("options", "what"),
    [({"positive": 0.1, "background": 0.5}, "background 0.5"), ({"geometry": "oriented"}, "oriented"),
     ({"classes": []}, "class id 0")],
)  # fmt: skip
def test_misuse(options, what):
    truth, pred = objects([[0, 0, 10, 10]]), objects([[0, 0, 10, 10]], scores=[0.5])
    with pytest.raises(TercelError, match=what):
        tide([truth], [pred], **{"classes": ["a"], **options})
