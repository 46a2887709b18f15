"""LRP against LRP-Error's numbers, against a slow loop from the definition, and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tercel.core.finding import TercelError
from tercel.core.geometry import box_iou, canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.metrics.ap import judge_boxes
from tercel.metrics.lrp import NAMES, lrp, lrp_from
from tercel.metrics.match import SIZES, Pool, match_all

SIZE = (480, 640)
KEYS = dict(zip((*NAMES, "threshold"), ("olrp", "olrp_loc", "olrp_fp", "olrp_fn", "threshold"), strict=True))


def objects(rows, labels=None, **columns):
    rows = np.asarray(rows, np.float32).reshape(-1, 4)
    return Objects(SIZE, np.zeros(len(rows), int) if labels is None else labels, rows, **columns)


@pytest.fixture(scope="module")
def oracle(shared):
    """Both sides as pools in float64, class names, numbers of the classes, what is expected."""
    folder = shared / "oracles/lrp"
    truth, found, expected = (json.loads((folder / f"{n}.json").read_text()) for n in ("gt", "dets", "expected"))
    numbers = [c["id"] for c in truth["categories"]]
    picture = {im["id"]: i for i, im in enumerate(truth["images"])}

    def pool(rows):
        xywh = np.array([a["bbox"] for a in rows])
        at = np.array([picture[a["image_id"]] for a in rows])
        area = [a["area"] if "area" in a else a["bbox"][2] * a["bbox"][3] for a in rows]
        return Pool(
            at, np.arange(len(rows)), np.array([numbers.index(a["category_id"]) for a in rows]),
            np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1), np.array(area),
            np.array([bool(a.get("iscrowd")) for a in rows]), np.array([a.get("score", 1.0) for a in rows]),
            len(picture),
        )  # fmt: skip

    return pool(truth["annotations"]), pool(found), [c["name"] for c in truth["categories"]], numbers, expected


def with_obbs(pool, by):
    """The same boxes turned about the origin, as oriented ones."""
    c, s = np.cos(by), np.sin(by)
    centre = (pool.boxes[:, :2] + pool.boxes[:, 2:]) / 2 @ np.array([[c, s], [-s, c]])
    wh = pool.boxes[:, 2:] - pool.boxes[:, :2]
    obbs = canonical_obb(np.column_stack([centre, wh, np.full(len(wh), by)]))
    return Pool(pool.picture, pool.row, pool.labels, obb_hull(obbs), pool.areas, pool.ignore, pool.scores,
                pool.pictures, obbs)  # fmt: skip


@pytest.mark.parametrize("by", [None, 0.0, 1.0])
def test_oracle(oracle, by):
    truth, pred, classes, numbers, expected = oracle
    if by is not None:
        truth, pred = with_obbs(truth, by), with_obbs(pred, by)
    matchings = {n: match_all(truth, pred, ious=(0.5,), sizes={n: b}, cap=100) for n, b in SIZES.items()}
    r = lrp_from(matchings, classes, resamples=0)
    for row in r.table:
        want = expected["per_class"][str(numbers[classes.index(row["class"])])][row["size"]]
        for name, key in KEYS.items():
            value = math.nan if want[key] in (None, -1) else want[key]
            assert row[name] == pytest.approx(value, abs=1e-9, nan_ok=True), (row["class"], row["size"], name)
    for s in r.scores:
        if "class" not in s.where:
            want = expected["overall"][s.where.get("size", "all")][KEYS[s.name]]
            assert s.value == pytest.approx(want, abs=1e-9), (s.name, s.where)
    assert len(r.table) == len(SIZES) * len(classes)


def scene(seed, pictures=6):
    rng = np.random.default_rng(seed)
    truth, pred = [], []
    for _ in range(pictures):
        corner, wh = rng.uniform(0, 300, (6, 2)), rng.uniform(10, 60, (6, 2))
        boxes, labels = np.concatenate([corner, corner + wh], axis=1), rng.integers(0, 2, 6)
        truth.append(objects(boxes, labels, ignore=rng.random(6) < 0.15))
        moved = np.repeat(boxes, 2, axis=0)[:10] + rng.normal(0, 4, (10, 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        scores = rng.integers(1, 9, 10) / 10  # with ties
        pred.append(objects(moved, np.repeat(labels, 2)[:10], scores=scores))
    return truth, pred


def slow(truth, pred, c, tau):
    """The least LRP over all scores, matching anew for each, in plain Python."""
    best = None
    for s in sorted({float(x) for p in pred for x in p.scores[p.labels == c]}):
        loss, tp, fp, n = 0.0, 0, 0, 0
        for all_t, all_p in zip(truth, pred, strict=True):
            t, p = all_t[all_t.labels == c], all_p[(all_p.labels == c) & (all_p.scores >= np.float32(s))]
            n += int((~t.ignore).sum())
            iou, free = box_iou(p.boxes.astype(float), t.boxes.astype(float)), ~t.ignore
            for i in np.argsort(-p.scores, kind="stable"):
                j = max((j for j in range(len(t)) if free[j]), key=lambda j: (iou[i, j], j), default=None)
                if j is not None and iou[i, j] >= tau:
                    free[j] = False
                    tp, loss = tp + 1, loss + 1 - iou[i, j]
                    continue
                low, far = np.maximum(p.boxes[i, :2], t.boxes[:, :2]), np.minimum(p.boxes[i, 2:], t.boxes[:, 2:])
                inside = np.maximum(far - low, 0).prod(axis=1) / (p.boxes[i, 2:] - p.boxes[i, :2]).prod()
                fp += not (inside[t.ignore] >= tau).any()
        value = (loss / (1 - tau) + fp + n - tp) / (fp + n)
        if best is None or value <= best[0]:
            best = (value, loss / tp if tp else math.nan, fp / (tp + fp) if tp else math.nan, 1 - tp / n, s)
    return best


@pytest.mark.parametrize("tau", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("seed", range(4))
def test_against_a_slow_loop(seed, tau):
    truth, pred = scene(seed)
    r = lrp(truth, pred, ["a", "b"], iou=tau)
    for c, row in enumerate(r.table):
        want = slow(truth, pred, c, tau)
        assert [row[n] for n in NAMES] == pytest.approx(want[:4], abs=1e-6, nan_ok=True)
        assert row["threshold"] == pytest.approx(want[4], abs=1e-6)
        assert (row["TP"] + row["FN"]) == row["GT"]
        assert min(r.curves[c]["LRP"]) == pytest.approx(row["oLRP"])
    for name in NAMES:
        assert r[name] == pytest.approx(np.mean([row[name] for row in r.table]))
    assert all(s.low <= s.value <= s.high for s in r.scores)


def test_a_matching_at_hand_gives_the_same():
    truth, pred = scene(5)
    direct = lrp(truth, pred, ["a", "b"], resamples=20)
    shared = lrp_from(judge_boxes(truth, pred, ["a", "b"], resamples=0).matching, ["a", "b"], resamples=20)
    assert [s.to_json() for s in direct.scores] == [s.to_json() for s in shared.scores]


def test_by_hand():
    truth = objects([[0, 0, 10, 10], [50, 0, 60, 10]])
    pred = objects([[0, 0, 10, 8], [200, 0, 210, 10], [50, 0, 60, 6]], scores=[0.9, 0.8, 0.7])
    r = lrp([truth], [pred], ["a"])
    # One: (.2 / .5 + 1) / 2 = .7. Two: 2.4 / 3 with the false alarm. All: ((.2 + .4) / .5 + 1) / 3 = .733.
    assert [r[n] for n in NAMES] == pytest.approx([0.7, 0.2, 0, 0.5])
    assert r.table[0]["threshold"] == pytest.approx(0.9)
    assert [s.where["threshold"] for s in r.scores if s.where] == pytest.approx([0.9] * 4)
    assert r.curves[0]["LRP"] == pytest.approx([0.7, 0.8, 2.2 / 3])
    assert math.isnan(r.scores[0].low), "one picture shows no spread"


def test_perfect_nothing_found_and_nothing_to_find():
    truth = [objects([[0, 0, 10, 10]], [0]), objects([[0, 0, 20, 10]], [1])]
    right = [truth[0].replace(scores=[0.9]), objects([[300, 300, 310, 310]], [1], scores=[0.8])]
    r = lrp(truth, right, ["a", "b", "c", "d"])
    assert [r.table[0][n] for n in NAMES] == [0, 0, 0, 0]
    assert [r.table[1][n] for n in NAMES] == pytest.approx([1, math.nan, math.nan, 1], nan_ok=True)
    assert math.isnan(r.table[1]["threshold"])
    assert all(math.isnan(r.table[2][n]) for n in NAMES)
    assert [r[n] for n in NAMES] == [0.5, 0, 0, 0.5], "the means leave out what is undefined"
    json.loads(json.dumps(r.to_json(), allow_nan=False))
    silent = lrp(truth, [objects([], scores=[])] * 2, ["a", "b"])
    assert [silent[n] for n in NAMES] == pytest.approx([1, math.nan, math.nan, 1], nan_ok=True)


def test_ignored_truths_cost_nothing():
    truth = objects([[0, 0, 10, 10], [100, 100, 200, 200]], ignore=[False, True])
    pred = objects([[110, 110, 120, 120], [0, 0, 10, 10]], scores=[0.9, 0.8])
    r = lrp([truth], [pred], ["a"])
    assert [r[n] for n in NAMES] == [0, 0, 0, 0]
    assert (r.table[0]["TP"], r.table[0]["FP"], r.table[0]["GT"]) == (1, 0, 1)


def test_cap_and_misuse():
    truth, pred = objects([[0, 0, 10, 10]]), objects([[0, 0, 10, 10]] * 3, scores=[0.5, 0.4, 0.3])
    assert [(f.check, f.count) for f in lrp([truth], [pred], ["a"], cap=1).findings] == [("lrp.cap", 2)]
    with pytest.raises(TercelError, match="iou = 1"):
        lrp([truth], [pred], ["a"], iou=1.0)
