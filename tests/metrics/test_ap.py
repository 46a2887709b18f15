"""judge_boxes against pycocotools' numbers, documented Pascal VOC numbers, and cases counted by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.metrics.ap import judge_boxes

SIZE = (480, 640)


def objects(rows, labels=None, **columns):
    rows = np.asarray(rows, np.float32).reshape(-1, 4)
    return Objects(SIZE, np.zeros(len(rows), int) if labels is None else labels, rows, **columns)


def from_coco(truth_file, pred_file):
    """Both sides of a COCO pair, read without the package's own reader."""
    truth, found = json.loads(truth_file.read_text()), json.loads(pred_file.read_text())
    categories = sorted(truth["categories"], key=lambda c: c["id"])
    number = {c["id"]: i for i, c in enumerate(categories)}
    per = {im["id"]: ([], []) for im in truth["images"]}
    for a in truth["annotations"]:
        per[a["image_id"]][0].append(a)
    for a in found:
        per[a["image_id"]][1].append(a)
    sides = [], []
    for im in truth["images"]:
        for side, rows in zip(sides, per[im["id"]], strict=True):
            xywh = np.array([r["bbox"] for r in rows], float).reshape(-1, 4)
            if side is sides[0]:
                columns = {"area": [r["area"] for r in rows], "ignore": np.array([r["iscrowd"] for r in rows], bool)}
            else:
                columns = {"scores": [r["score"] for r in rows]}
            boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            labels = np.array([number[r["category_id"]] for r in rows], int)
            side.append(Objects((im["height"], im["width"]), labels, boxes, **columns))
    return (
        *sides,
        [c["name"] for c in categories],
        [str(im["id"]) for im in truth["images"]],
        [c["id"] for c in categories],
    )


@pytest.fixture(scope="module")
def oracle(shared):
    folder = shared / "oracles/coco_boxes"
    return from_coco(folder / "gt.json", folder / "dets.json"), json.loads((folder / "expected.json").read_text())


# -- parity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [100, 500])
def test_oracle(oracle, cap):
    (truth, pred, classes, ids, numbers), expected = oracle
    r = judge_boxes(truth, pred, classes, max_detections=(1, 10, cap), ids=ids, resamples=0)
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", f"AR{cap}",
             "AR_small", "AR_medium", "AR_large"]  # fmt: skip
    np.testing.assert_allclose([r[n] for n in names], expected[f"maxdets_{cap}"]["stats"], atol=1e-9)
    for row, number in zip(r.table, numbers, strict=True):
        want = expected["per_category"][f"maxdets_{cap}"][str(number)]
        mine = {s.name: s.value for s in r.scores if s.where == {"class": row["class"]}}
        for name, key in (("AP", "AP"), ("AP50", "AP50"), ("AP75", "AP75"), (f"AR{cap}", "AR")):
            np.testing.assert_allclose(mine[name], want[key] if want[key] != -1 else math.nan, atol=1e-9)
        np.testing.assert_allclose([row["AP"], row["AP50"]], [mine["AP"], mine["AP50"]], atol=1e-12)
        counts = expected["counts_iou50"][f"maxdets_{cap}"][str(number)]
        got = {k: row[n] for k, n in (("gt", "GT"), ("tp", "TP"), ("fp", "FP"), ("fn", "FN"))}
        assert got | {"ignored_detections": row["ignored"]} == counts


def test_oracle_curves(oracle):
    (truth, pred, classes, ids, numbers), expected = oracle
    r = judge_boxes(truth, pred, classes, ids=ids, resamples=0)
    for name, number in zip(classes, numbers, strict=True):
        curve = next(c for c in r.curves if c["class"] == name and c["iou"] == 0.5)
        want = np.array(expected["precision_101_iou50"][str(number)])
        np.testing.assert_allclose(curve["precision"], np.where(want < 0, np.nan, want), atol=1e-9)
        scores = np.array(curve["score"])
        reached = np.nan_to_num(np.array(curve["precision"])) > 0
        assert (np.isnan(scores) == ~reached).all()
        assert (np.diff(scores[reached]) <= 0).all(), "more recall never needs a higher score"
    mean = next(c for c in r.curves if c["class"] is None and c["iou"] == 0.5)
    assert np.mean(mean["precision"]) == pytest.approx(r["AP50"], abs=1e-9)


def test_oracle_caps_are_reported(oracle):
    (truth, pred, classes, ids, _), expected = oracle
    r = judge_boxes(truth, pred, classes, ids=ids, resamples=0)
    found = {f.check: f for f in r.findings}
    reached = found["score.cap_detections"]
    assert {int(e.split()[0]) for e in reached.evidence} == set(expected["images_over_100_detections"])
    assert "to 450 or more" in reached.message  # 1.5 times 277, in round numbers
    assert "score.cap_truths" in found
    wide = judge_boxes(truth, pred, classes, max_detections=(1, 10, 500), ids=ids, resamples=0)
    assert not [f for f in wide.findings if f.check.startswith("score.cap")]


def test_coco_pairs(shared):
    folder = shared / "data/coco-eval-fixtures/tests/dataset"
    names = "cocoapi/instances_val2014_100.json", "cocoapi/instances_val2014_fakebbox100_results.json"
    truth, pred, classes, ids, _ = from_coco(*(folder / n for n in names))
    r = judge_boxes(truth, pred, classes, ids=ids, resamples=0)
    known = {"AP": 0.5046, "AP50": 0.6970, "AP75": 0.5730, "AP_small": 0.5856, "AP_medium": 0.5194, "AP_large": 0.5014,
             "AR1": 0.3868, "AR10": 0.5937, "AR100": 0.5954}  # fmt: skip
    for name, value in known.items():
        assert r[name] == pytest.approx(value, abs=5e-5), name
    truth, pred, classes, ids, _ = from_coco(folder / "gt_dataset.json", folder / "dt_dataset.json")
    assert judge_boxes(truth, pred, classes, ids=ids)["AP"] == pytest.approx(0.6947, abs=5e-5)


@pytest.mark.parametrize(("interpolation", "value"), [("every", 0.2457), ("11", 0.2684)])
def test_documented_voc_numbers(shared, interpolation, value):
    """7 pictures, 15 truths, 24 detections, IoU .3. The boxes name inclusive pixels: their far edge is one further."""
    folder, sides = shared / "data/object-detection-metrics", ([], [])
    for file in sorted((folder / "groundtruths").glob("*.txt")):
        for side, name in zip(sides, ("groundtruths", "detections"), strict=True):
            rows = [line.split()[1:] for line in (folder / name / file.name).read_text().splitlines() if line.strip()]
            rows = np.array(rows, float)
            xywh, scores = rows[:, -4:], rows[:, 0] if name == "detections" else None
            boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:] + 1], axis=1)
            side.append(Objects((200, 200), np.zeros(len(rows), int), boxes, scores=scores))
    r = judge_boxes(*sides, ["person"], ious=(0.3,), interpolation=interpolation, resamples=0)
    assert r["AP"] == pytest.approx(value, abs=5e-5)
    assert r["AP30"] == r["AP"]
    assert r.rule["interpolation"] == interpolation
    assert (r.table[0]["TP"], r.table[0]["FP"], r.table[0]["GT"]) == (7, 17, 15)


# -- by hand -----------------------------------------------------------------------------------------------------


def test_table_and_best_f1_by_hand():
    """Five truths; four found at .9, .7, .6 and .4; three false alarms at .8, .4 and .3."""
    here = [[20 * i, 0, 20 * i + 10, 10] for i in range(5)]
    away = [[20 * i, 200, 20 * i + 10, 210] for i in range(3)]
    truth = objects(here)
    pred = objects([*here[:4], *away], scores=[0.9, 0.7, 0.6, 0.4, 0.8, 0.4, 0.3])
    r = judge_boxes([truth], [pred], ["thing"], resamples=0)
    row = r.table[0]
    assert {k: row[k] for k in ("GT", "TP", "FP", "FN", "ignored", "beyond_cap")} == {
        "GT": 5, "TP": 4, "FP": 3, "FN": 1, "ignored": 0, "beyond_cap": 0,
    }  # fmt: skip
    # Cuts: .9 F1 1/3; .7 (2 of 3) .5; .6 (3 of 4) 2/3; .4 takes both tied ones (4 of 6) 8/11; all (4 of 7) 8/12.
    assert row["threshold"] == pytest.approx(0.4)
    assert row["precision"] == pytest.approx(4 / 6)
    assert row["recall"] == pytest.approx(4 / 5)
    assert row["F1"] == pytest.approx(8 / 11)
    assert (r["precision"], r["recall"], r["F1"]) == pytest.approx((4 / 6, 4 / 5, 8 / 11))
    # Interpolated: 1 up to recall .2, then 4/5 up to .8 (of the tied ones the hit comes first), nothing beyond.
    assert r["AP50"] == pytest.approx((21 * 1 + 60 * 4 / 5) / 101)


def test_sizes_by_hand():
    truth = objects([[0, 0, 10, 10], [100, 100, 132, 132], [200, 200, 400, 400]])  # small; exactly 32x32; large
    pred = objects([[0, 0, 10, 10], [200, 200, 400, 400], [300, 0, 310, 10]], scores=[0.9, 0.8, 0.7])
    r = judge_boxes([truth], [pred], ["thing"], resamples=0)
    rows = {s["size"]: [s[k] for k in ("GT", "TP", "FP", "FN", "ignored")] for s in r.sizes}
    assert rows == {
        "all": [3, 2, 1, 1, 0],
        "small": [2, 1, 1, 1, 1],
        "medium": [1, 0, 0, 1, 3],
        "large": [1, 1, 0, 0, 2],
    }
    assert math.isclose(r["AR_small"], 0.5)
    n = {s.name: s.n for s in r.scores if not s.where}
    assert (n["AP"], n["AP_small"], n["AP_medium"], n["AP_large"]) == (3, 2, 1, 1)


def test_annotated_area_decides_the_size():
    box = [[0, 0, 100, 100]]
    r = judge_boxes([objects(box, area=[500.0])], [objects(box, scores=[0.5])], ["thing"], resamples=0)
    assert r["AP_small"] == pytest.approx(1)
    assert math.isnan(r["AP_large"])


def test_undefined_is_nan_and_absent_is_zero():
    truth = objects([[0, 0, 10, 10]], [0])
    r = judge_boxes([truth], [objects([[0, 0, 10, 10]], [2], scores=[0.5])], ["missed", "ignored", "invented"])
    values = {(s.name, s.where.get("class")): s.value for s in r.scores}
    assert values["AP", "missed"] == 0
    assert math.isnan(values["AP", "ignored"])
    assert math.isnan(values["AP", "invented"])
    assert values["AP", None] == 0
    json.dumps(r.to_json(), allow_nan=False)


@pytest.mark.parametrize("truth", [objects([]), objects([[0, 0, 9, 9]], ignore=[True])])
def test_no_truth_at_all(truth):
    for pred in (objects([[0, 0, 9, 9]], scores=[0.5]), objects([])):
        r = judge_boxes([truth], [pred], ["thing"])
        assert all(math.isnan(s.value) and math.isnan(s.low) and s.n == 0 for s in r.scores)
        assert "score.nothing_to_find" in {f.check for f in r.findings}


def test_nothing_at_all():
    r = judge_boxes([], [], ["thing"])
    assert math.isnan(r["AP"])
    assert json.loads(json.dumps(r.to_json(), allow_nan=False))["rule"]["pictures"] == 0


def test_flat_boxes_never_match():
    """Zero width or height, on both sides and on an ignore region: no division by zero, no match, and it is said."""
    flat = [[5, 5, 5, 20], [30, 30, 30, 30]]
    truth = objects([*flat, [0, 0, 50, 50]], ignore=[False, False, True])
    r = judge_boxes([truth], [objects(flat, scores=[0.9, 0.8])], ["thing"])
    assert (r.table[0]["TP"], r.table[0]["FP"], r["AP"]) == (0, 2, 0)
    assert next(f for f in r.findings if f.check == "score.flat_detections").count == 2


def test_intervals():
    rng = np.random.default_rng(0)
    truth, pred = [], []
    for _ in range(30):
        low = rng.uniform(0, 400, (4, 2))
        rows = np.concatenate([low, low + 40], axis=1)
        truth.append(objects(rows))
        pred.append(objects(rows + rng.normal(0, 3, (4, 1)), scores=rng.random(4)))
    r = judge_boxes(truth, pred, ["thing"])
    for s in r.scores:
        if not math.isnan(s.value):
            assert 0 <= s.low <= s.value <= s.high <= 1, s
    overall = r.scores[0]
    assert 0.02 < overall.high - overall.low < 0.4
    again = judge_boxes(truth, pred, ["thing"])
    assert again.scores[0] == overall
    assert judge_boxes(truth, pred, ["thing"], seed=1).scores[0].low != overall.low
    without = judge_boxes(truth, pred, ["thing"], resamples=0)
    assert without["AP"] == pytest.approx(overall.value, abs=1e-12)
    assert math.isnan(without.scores[0].low)
    one = judge_boxes(truth[:1], pred[:1], ["thing"])
    assert math.isnan(one.scores[0].low), "one picture shows no spread"


def test_curious_input_is_reported():
    truth = [objects([[100, 100, 200, 200]]), objects([]), objects([[0, 0, 50, 50]], ignore=[True])]
    pred = [objects([[0.1, 0.1, 0.2, 0.2]], scores=[0.5]), objects([]), objects([])]
    checks = {f.check: f for f in judge_boxes(truth, pred, ["a", "b"], ids=["x", "y", "z"]).findings}
    assert checks["score.no_truth"].evidence == ("y",)
    assert checks["score.all_ignored"].evidence == ("z",)
    assert checks["score.class_without_truth"].evidence == ("b",)
    assert "score.normalised" in checks
    outside = judge_boxes(truth[:1], [objects([[700, 0, 800, 50]], scores=[0.5])], ["a"])
    assert [f.check for f in outside.findings] == ["score.outside"]
    silent = judge_boxes(truth[:1], pred[1:2], ["a"])
    assert "score.no_detections" in {f.check for f in silent.findings}


def _misuse():
    good, found = objects([[0, 0, 9, 9]]), objects([[0, 0, 9, 9]], scores=[0.5])
    small = Objects((10, 10), [0], [[0, 0, 9, 9]], scores=[0.5])
    yield "not the same pictures", ([good], [found, found], ["a"]), {}
    yield "not the same pictures", ([good], [found], ["a"]), {"ids": ["1", "2"]}
    yield "occurs twice", ([good] * 2, [found] * 2, ["a"]), {"ids": ["1", "1"]}
    yield "no scores", ([good], [good], ["a"]), {}
    yield "10x10", ([good], [small], ["a"]), {}
    yield "class id 1", ([good], [found.replace(labels=[1])], ["a"]), {}
    for bad in ((), (0, 10), (10, 1)):
        yield "max_detections", ([good], [found], ["a"]), {"max_detections": bad}
    for bad in ((), (0.0,), (0.7, 0.5), (1.5,)):
        yield "thresholds", ([good], [found], ["a"]), {"ious": bad}
    yield "at most 15", ([good], [found], ["a"]), {"ious": np.linspace(0.1, 0.9, 16).tolist()}
    yield "not one of", ([good], [found], ["a"]), {"interpolation": "12"}
    yield "negative", ([good], [found], ["a"]), {"resamples": -1}


@pytest.mark.parametrize(("message", "args", "options"), list(_misuse()))
def test_misuse(message, args, options):
    with pytest.raises(TercelError, match=message):
        judge_boxes(*args, **options)


def test_unknown_score_name():
    r = judge_boxes([objects([[0, 0, 9, 9]])], [objects([[0, 0, 9, 9]], scores=[0.5])], ["a"], resamples=0)
    with pytest.raises(KeyError, match="there are AP"):
        r["mAP"]


def test_contradictions_are_internal_errors(monkeypatch):
    """A bug in the matching cannot reach a report: here it loses one hit, and hotcoco's number contradicts."""
    from tercel.metrics import ap

    truth = objects([[0, 0, 9, 9], [20, 0, 29, 9]])
    args = [truth], [truth.replace(scores=[0.5, 0.6])], ["a"]
    real = ap.match_all

    def loses_one(*a, **k):
        m = real(*a, **k)
        m.hits[0] = 0
        return m

    monkeypatch.setattr(ap, "match_all", loses_one)
    with pytest.raises(AssertionError, match="two computations"):
        judge_boxes(*args)

    monkeypatch.setattr(ap, "match_all", real)
    resample = ap.resample

    def half_a_point_less(*a, **k):
        s = resample(*a, **k)
        s.ap[0, :, 0, 0] -= 0.005
        return s

    monkeypatch.setattr(ap, "resample", half_a_point_less)
    with pytest.raises(AssertionError, match="two computations of AP"):
        judge_boxes(*args)
