"""Oriented boxes and the Pascal VOC rule: against the oracle, by hand, against plain loops."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.finding import TercelError
from tercel.core.geometry import box_iou, canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.metrics.ap import judge_boxes
from tercel.metrics.breakdown import MOST_SLICES, curves_of
from tercel.metrics.coco import evaluate
from tercel.metrics.match import IOUS, Pool, match, match_all, mistakes, overlaps

SIZE = (600, 800)


def oriented(rows, labels=None, **columns):
    obbs = canonical_obb(np.asarray(rows, np.float64).reshape(-1, 5))
    labels = np.zeros(len(obbs), int) if labels is None else labels
    return Objects(SIZE, labels, obb_hull(obbs), obbs=obbs, **columns)


def boxes(rows, labels=None, **columns):
    rows = np.asarray(rows, np.float32).reshape(-1, 4)
    return Objects(SIZE, np.zeros(len(rows), int) if labels is None else labels, rows, **columns)


# -- the oracle --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle(shared):
    """Truth, predictions, classes, ids and expected numbers; read without the package's readers."""
    folder = shared / "oracles/obb_ap"
    truth, found, expected = (json.loads((folder / f"{n}.json").read_text()) for n in ("gt", "dets", "expected"))
    number = {c["id"]: i for i, c in enumerate(truth["categories"])}

    def side(rows, image, **columns):
        mine = [r for r in rows if r["image_id"] == image["id"]]
        obbs = canonical_obb(np.array([r["obb"] for r in mine], float).reshape(-1, 5))
        labels = np.array([number[r["category_id"]] for r in mine], int)
        columns = {k: [r["score"] for r in mine] for k in columns}
        return Objects((image["height"], image["width"]), labels, obb_hull(obbs), obbs=obbs, **columns)

    pairs = [(side(truth["annotations"], i), side(found, i, scores=True)) for i in truth["images"]]
    names = [c["name"] for c in truth["categories"]]
    return *zip(*pairs, strict=True), names, [str(i["id"]) for i in truth["images"]], list(number), expected


@pytest.mark.parametrize("cap", [100, 500])
def test_coco_protocol(oracle, cap):
    truth, pred, classes, ids, numbers, expected = oracle
    r = judge_boxes(truth, pred, classes, geometry="oriented", max_detections=(1, 10, cap), ids=ids, resamples=5)
    want = expected["coco"][f"maxdets_{cap}"]
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", f"AR{cap}",
             "AR_small", "AR_medium", "AR_large"]  # fmt: skip
    np.testing.assert_allclose([r[n] for n in names], want["stats"], atol=1e-6)
    mean = [row["AP"] for row in r.thresholds if row["class"] is None]
    np.testing.assert_allclose(mean, want["AP_by_threshold"], atol=1e-6)
    assert "score.second_opinion" not in {f.check for f in r.findings}
    assert r.rule["geometry"] == "oriented"
    if cap == 500:
        of = {(row["class"], row["iou"]): [row[k] for k in ("GT", "TP", "FP")] for row in r.thresholds}
        for name, number in zip(classes, numbers, strict=True):
            for iou, counts in expected["coco"]["counts"][str(number)].items():
                assert of[name, float(iou)] == counts


@pytest.mark.parametrize(("interpolation", "key"), [("every", "AP"), ("11", "AP_11point")])
def test_voc_protocol(oracle, interpolation, key):
    truth, pred, classes, ids, numbers, expected = oracle
    r = judge_boxes(truth, pred, classes, geometry="oriented", matching="voc", interpolation=interpolation,
                    max_detections=(10_000,), ids=ids, resamples=3)  # fmt: skip
    rows = {(row["class"], row["iou"]): row for row in r.thresholds}
    for iou, per_class in expected["voc"].items():
        for name, number in zip(classes, numbers, strict=True):
            want, got = per_class[str(number)], rows[name, float(iou)]
            assert got["AP"] == pytest.approx(want[key], abs=1e-6)
            assert [got[k] for k in ("GT", "TP", "FP")] == [want[k] for k in ("gt", "tp", "fp")]
    if interpolation == "every":
        assert r["AP"] == pytest.approx(expected["voc_mean_over_thresholds"], abs=1e-6)
    assert (r.rule["matching"], r.rule["interpolation"]) == ("voc", interpolation)


@pytest.mark.parametrize("interpolation", ["101", "every", "11"])
@pytest.mark.parametrize("matching", ["coco", "voc"])
def test_perfection_is_worth_1_under_every_interpolation(interpolation, matching):
    """aerial-12: perfect detections were worth 10/11 under 11 points, and somewhere else more than 1."""
    truth = [oriented([[100 + 90 * i, 80 + 60 * p, 60, 20, 0.3 * i] for i in range(4)], [0, 1, 1, 0]) for p in range(3)]
    pred = [t.replace(scores=[0.9, 0.8, 0.7, 0.6]) for t in truth]
    r = judge_boxes(truth, pred, ["car", "bus"], geometry="oriented", interpolation=interpolation, matching=matching,
                    resamples=0)  # fmt: skip
    assert [row["AP"] for row in r.thresholds] == pytest.approx([1.0] * 3 * len(IOUS), abs=1e-12)
    assert all(row["TP"] == row["GT"] and row["FP"] == 0 for row in r.thresholds)


def test_the_two_rules_differ_where_trucks_are_labelled_twice(oracle):
    truth, pred, classes, ids, _, _ = oracle
    both = [judge_boxes(truth, pred, classes, geometry="oriented", matching=m, max_detections=(500,), ids=ids,
                        resamples=0) for m in ("coco", "voc")]  # fmt: skip
    cells = [{(r["class"], r["iou"]): r["TP"] for r in x.thresholds if r["class"]} for x in both]
    assert sum(cells[0][k] != cells[1][k] for k in cells[0]) == 7
    assert {k[0] for k in cells[0] if cells[0][k] != cells[1][k]} == {"truck"}


def test_curves_are_hotcocos(oracle):
    pred = Pool.of(oracle[1])
    truth = Pool.of([t.replace(ignore=np.arange(len(t)) % 4 == 3) for t in oracle[0]])
    precision, score = curves_of(match_all(truth, pred, cap=100), 3)
    want, _, want_score = evaluate(truth, pred, 3, ious=IOUS, caps=(100,))
    np.testing.assert_allclose(precision, want[..., 0, -1], atol=1e-9)
    # At recall 0 hotcoco names the first detection, even a false alarm; here it is the first hit.
    np.testing.assert_allclose(score[:, 1:], want_score[:, 1:, :, 0, -1], atol=1e-9)


def test_draws_leave_the_scores_alone(oracle):
    """Draws are made in single precision, scores in double."""
    truth, pred, classes, ids, _, _ = oracle
    a, b = (judge_boxes(truth, pred, classes, geometry="oriented", ids=ids, resamples=n) for n in (0, 3))
    assert [s.value for s in a.scores] == pytest.approx([s.value for s in b.scores], abs=1e-12, nan_ok=True)
    assert b.scores[0].low < b.scores[0].value < b.scores[0].high


def test_another_parameterisation_is_the_same_box(oracle):
    truth, pred, classes, ids, _, _ = oracle
    turned = [p.replace(obbs=p.obbs[:, [0, 1, 3, 2, 4]] + np.array([0, 0, 0, 0, np.pi / 2], np.float32)) for p in pred]
    a, b = (judge_boxes(truth, p, classes, geometry="oriented", ids=ids, resamples=0) for p in (pred, turned))
    assert a["AP"] == pytest.approx(b["AP"], abs=1e-9)


# -- geometry by hand --------------------------------------------------------------------------------------------


def test_crossed_boxes_share_a_hull_but_not_a_place():
    """Two long boxes at +45 and -45 degrees have the same hull: as hulls a hit, as oriented boxes a miss."""
    truth, pred = (
        oriented([[100, 100, 80, 10, 0.25 * np.pi]]),
        oriented([[100, 100, 80, 10, -0.25 * np.pi]], scores=[0.9]),
    )
    r = judge_boxes([truth], [pred], ["car"], geometry="oriented", resamples=0)
    # The shared square of 10 x 10 px: IoU = 100 / (800 + 800 - 100).
    assert overlaps(truth, pred)[0, 0] == pytest.approx(100 / 1500)
    assert r["AP"] == 0
    assert r.hulls["AP"] == pytest.approx(1)
    assert r.hulls.rule["geometry"] == "boxes"
    assert match(truth, pred).pred_to_truth.tolist() == [-1]
    assert [str(m) for m in mistakes(truth, pred, match(truth, pred))] == ["background"]
    hulls = judge_boxes([truth], [pred], ["car"], resamples=0)
    assert (hulls["AP"], hulls.hulls) == (pytest.approx(1), None)
    assert next(f for f in hulls.findings if f.check == "score.hulls").severity == "warning"
    assert "score.hulls" not in {f.check for f in r.findings}
    both = r.to_json()
    json.dumps(both, allow_nan=False)
    assert both["hulls"]["thresholds"][0]["AP"] == pytest.approx(1)


def test_size_is_length_times_width():
    """50 x 10 px is small, though its hull at 45 degrees covers 1800 px^2; hulls keep the bins of the objects."""
    truth = oriented([[100, 100, 50, 10, 0.25 * np.pi]])
    r = judge_boxes([truth], [truth.replace(scores=[0.5])], ["car"], geometry="oriented", resamples=0)
    assert [row["GT"] for row in r.sizes] == [1, 1, 0, 0]
    assert math.isnan(r["AP_medium"])
    assert [row["GT"] for row in r.hulls.sizes] == [1, 1, 0, 0]
    wide = judge_boxes([truth.replace(area=[2000])], [truth.replace(scores=[0.5])], ["car"], geometry="oriented")
    assert [row["GT"] for row in wide.sizes] == [1, 0, 1, 0], "an annotated area decides"


def test_a_turned_ignore_region_spares_what_lies_in_it():
    """The region is a diamond; one false alarm lies inside, one in the corner of its hull."""
    truth = oriented([[200, 200, 100, 100, 0.25 * np.pi], [500, 500, 40, 20, 0.1]], ignore=[True, False])
    pred = oriented([[200, 200, 20, 10, 0.7], [255, 145, 20, 10, 0.7], [500, 500, 40, 20, 0.1]], scores=[0.9, 0.8, 0.7])
    for matching in ("coco", "voc"):
        r = judge_boxes([truth], [pred], ["car"], geometry="oriented", matching=matching, resamples=0)
        row = r.table[0]
        assert [row[k] for k in ("GT", "TP", "FP", "FN", "ignored", "GT_ignored")] == [1, 1, 1, 0, 1, 1]
        assert [row[k] for k in ("FP", "ignored")] != [r.hulls.table[0][k] for k in ("FP", "ignored")]
        assert "1 in all" in next(f for f in r.findings if f.check == "score.ignored_truths").message


def test_hulls_cut_by_a_reader_hide_no_pair():
    """Oriented boxes beyond the picture meet there, though their boxes, cut at the border, do not."""
    obbs = np.array([[-30, 100, 60, 20, 0], [-40, 100, 60, 20, 0]], np.float32)
    cut = np.array([[0, 90, 0, 110], [0, 90, 0, 110]], np.float32)
    truth, pred = (Objects(SIZE, [0], cut[i : i + 1], obbs=obbs[i : i + 1]) for i in range(2))
    pred = pred.replace(scores=[0.5])
    found = match(truth, pred)
    assert (found.pred_to_truth.tolist(), found.iou[0]) == ([0], pytest.approx(50 / 70, abs=1e-6))
    r = judge_boxes([truth], [pred], ["car"], geometry="oriented", resamples=0)
    assert (r["AP50"], r.hulls["AP50"]) == (pytest.approx(1), pytest.approx(1)), "hulls are those of the whole boxes"


@pytest.mark.parametrize("missing", ["truth", "predictions"])
def test_a_hull_is_never_scored_as_an_oriented_box(missing):
    truth = oriented([[100, 100, 50, 10, 0.3]])
    pred = truth.replace(scores=[0.5])
    sides = {"truth": truth, "predictions": pred}
    sides[missing] = sides[missing].replace(obbs=None)
    with pytest.raises(TercelError, match=f"picture x: {missing} without oriented boxes"):
        judge_boxes([sides["truth"]], [sides["predictions"]], ["car"], geometry="oriented", ids=["x"])


def test_sides_without_any_object_have_no_geometry():
    empty, one = Objects.empty(SIZE), oriented([[100, 100, 50, 10, 0.3]])
    found = judge_boxes([one, empty], [empty, empty], ["car"], geometry="oriented", resamples=2)
    assert (found["AP"], found.hulls["AP"], found["AR1"]) == (0, 0, 0)
    nothing = judge_boxes([empty], [one.replace(scores=[0.5])], ["car"], geometry="oriented", resamples=2)
    assert math.isnan(nothing["AP"])
    assert (nothing.thresholds[0]["AP"], nothing.thresholds[0]["FP"]) == (pytest.approx(math.nan, nan_ok=True), 1)


@pytest.mark.parametrize(("name", "value"), [("geometry", "polygons"), ("matching", "hungarian")])
def test_unknown_options(name, value):
    with pytest.raises(TercelError, match=value):
        judge_boxes([], [], ["car"], **{name: value})


# -- the VOC rule ------------------------------------------------------------------------------------------------


def voc_by_hand(truth: Objects, pred: Objects, iou: float, low: float, high: float) -> dict[int, str]:
    """Object-Detection-Metrics' rule for one picture, with regions that spare and truths outside a size bin."""
    out: dict[int, str] = {}
    area = lambda b: float((b[2] - b[0]) * (b[3] - b[1]))  # noqa: E731
    taken = set()
    iou = min(iou, 1 - 1e-10)
    for d in sorted(range(len(pred)), key=lambda d: -pred.scores[d]):
        p = pred.boxes[d].astype(float)
        best, where, region = 0.0, -1, 0.0
        for g in range(len(truth)):
            if truth.labels[g] != pred.labels[d]:
                continue
            t = truth.boxes[g].astype(float)
            shared = max(min(p[2], t[2]) - max(p[0], t[0]), 0) * max(min(p[3], t[3]) - max(p[1], t[1]), 0)
            if truth.ignore[g]:
                region = max(region, shared / area(p) if area(p) else 0.0)
            elif shared and shared / (area(p) + area(t) - shared) > best:
                best, where = shared / (area(p) + area(t) - shared), g
        verdict = "wrong" if low <= area(p) <= high else "spared"
        if best >= iou:
            if not low <= float(truth.areas[where]) <= high:
                verdict = "spared"
            elif where not in taken:
                taken.add(where)
                verdict = "hit"
        elif region >= iou:
            verdict = "spared"
        out[d] = verdict
    return out


def test_a_duplicate_within_an_ignore_region():
    """VOC: its best truth is taken, so it is wrong. COCO: it takes the region that is left."""
    truth = boxes([[10, 10, 30, 30], [0, 0, 100, 100]], ignore=[False, True])
    pred = boxes([[10, 10, 30, 30], [10, 10, 30, 28], [60, 60, 80, 80]], scores=[0.9, 0.8, 0.7])
    counts = {
        m: [judge_boxes([truth], [pred], ["a"], matching=m, resamples=0).table[0][k] for k in ("TP", "FP", "ignored")]
        for m in ("coco", "voc")
    }
    assert counts == {"coco": [1, 0, 2], "voc": [1, 1, 1]}


@st.composite
def pictures(draw):
    """Small integer boxes in little room: ties, exact thresholds and crowds are the rule."""
    sides = []
    for scored in (False, True):
        n = draw(st.integers(0, 6))
        xy = draw(st.lists(st.tuples(*[st.integers(0, 2)] * 2), min_size=n, max_size=n))
        wh = draw(st.lists(st.tuples(*[st.sampled_from((2, 3, 4, 0))] * 2), min_size=n, max_size=n))
        low = np.array(xy, np.float32).reshape(-1, 2)
        rows = np.concatenate([low, low + np.array(wh, np.float32).reshape(-1, 2)], axis=1)
        labels = np.array(draw(st.lists(st.sampled_from((0, 0, 0, 1)), min_size=n, max_size=n)), int)
        if scored:
            scores = draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=n, max_size=n))
            sides.append(boxes(rows, labels, scores=np.array(scores, np.float32)))
        else:
            ignore = draw(st.lists(st.sampled_from((False, False, True)), min_size=n, max_size=n))
            sides.append(boxes(rows, labels, ignore=np.array(ignore, bool)))
    return tuple(sides)


@given(pictures())
def test_voc_matching_is_a_plain_loop(sample):
    ious, sizes = (0.25, 0.5, 0.75, 1.0), {"all": (0.0, 1e10), "small": (0.0, 9.0), "large": (9.0, 1e10)}
    truth, pred = sample
    m = match_all(Pool.of([truth]), Pool.of([pred]), ious=ious, sizes=sizes, rule="voc")
    for a, (low, high) in enumerate(sizes.values()):
        hits, spared = m.unpack(m.hits, a), m.unpack(m.spared, a)
        for t, iou in enumerate(ious):
            want = voc_by_hand(truth, pred, iou, low, high)
            got = {int(r): "hit" if hits[t, i] else "spared" if spared[t, i] else "wrong"
                   for i, r in enumerate(m.pred.row)}  # fmt: skip
            assert got == want, (iou, low)


@given(pictures())
def test_upright_oriented_boxes_are_judged_as_boxes(sample):
    """The same verdicts for boxes and for oriented boxes without a turn; thresholds no small fraction can hit."""
    ious = (0.2501, 0.5003, 0.7507)
    same = []
    for as_obbs in (False, True):
        sides = []
        for o in sample:
            low, wide = o.boxes[:, :2], o.boxes[:, 2:] - o.boxes[:, :2]
            obbs = canonical_obb(np.column_stack([low + wide / 2, wide, np.zeros(len(o), np.float32)]))
            sides.append(o.replace(obbs=obbs) if as_obbs else o)
        m = match_all(Pool.of(sides[:1]), Pool.of(sides[1:]), ious=ious)
        same.append([(r, h, s) for r, h, s in zip(m.pred.row, m.hits, m.spared, strict=True)])
    assert same[0] == same[1]


def test_documented_voc_numbers_under_vocs_own_matching(shared):
    """Object-Detection-Metrics' sample: 7 pictures, IoU .3, every-point AP 24.57 %, 11-point AP 26.84 %."""
    folder, sides = shared / "data/object-detection-metrics", ([], [])
    for file in sorted((folder / "groundtruths").glob("*.txt")):
        for side, name in zip(sides, ("groundtruths", "detections"), strict=True):
            rows = [line.split()[1:] for line in (folder / name / file.name).read_text().splitlines() if line.strip()]
            rows = np.array(rows, float)
            xywh, scores = rows[:, -4:], rows[:, 0] if name == "detections" else None
            # The files name inclusive pixels: the far edge is one further.
            side.append(boxes(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:] + 1], axis=1), scores=scores))
    stated = (folder / "results/results.txt").read_text()
    for interpolation, value in (("every", 0.2457), ("11", 0.2684)):
        r = judge_boxes(*sides, ["person"], ious=(0.3,), interpolation=interpolation, matching="voc", resamples=0)
        assert r["AP"] == pytest.approx(value, abs=5e-5)
        assert [r.table[0][k] for k in ("GT", "TP", "FP")] == [15, 7, 17]
    found = np.cumsum(r.matching.hit_at_first)
    for name, curve in (("Precision", found / np.arange(1, 25)), ("Recall", found / 15)):
        want = [float(x) for x in re.search(rf"{name}: \[(.*)\]", stated)[1].replace("'", "").split(",")]
        np.testing.assert_allclose(curve, want, atol=0.005001)


# -- slices ------------------------------------------------------------------------------------------------------


def test_a_slice_is_worth_what_its_pictures_are_worth_alone(oracle):
    truth, pred, classes, ids, _, _ = oracle
    sources = ["uav-rod" if i % 3 else "vsai" for i in range(len(ids))]
    r = judge_boxes(truth, pred, classes, geometry="oriented", ids=ids, sources=sources, groups=ids, resamples=2)
    assert [(s["by"], s["name"]) for s in r.slices] == [("source", "uav-rod"), ("source", "vsai")], (
        "groups of one: none"
    )
    for s in r.slices:
        mine = [i for i, name in enumerate(sources) if name == s["name"]]
        alone = judge_boxes(*([side[i] for i in mine] for side in (truth, pred)), classes, geometry="oriented",
                            ids=[ids[i] for i in mine], resamples=0)  # fmt: skip
        assert s["pictures"] == len(mine)
        assert [s[k] for k in ("AP", "AP50", "AP75")] == pytest.approx([alone[k] for k in ("AP", "AP50", "AP75")])
        assert all(s[k] == sum(row[k] for row in alone.table) for k in ("GT", "TP", "FP", "FN", "ignored"))


def test_slices_without_truth_and_too_many_of_them():
    one, none = boxes([[0, 0, 10, 10]]), Objects.empty(SIZE)
    r = judge_boxes(
        [one, none, none], [one.replace(scores=[0.5]), none, none], ["a"], groups=["x", "", ""], resamples=0
    )
    assert [(s["name"], s["GT"]) for s in r.slices] == [("", 0), ("x", 1)]
    assert math.isnan(r.slices[0]["AP"])
    assert json.loads(json.dumps(r.to_json(), allow_nan=False))["slices"][0]["AP"] is None
    count = MOST_SLICES + 5
    many = judge_boxes([one] * 2 * count, [one.replace(scores=[0.5])] * 2 * count, ["a"], resamples=0,
                       groups=[str(i // 2) for i in range(2 * count)])  # fmt: skip
    assert len(many.slices) == MOST_SLICES
    assert next(f for f in many.findings if f.check == "score.slices").count == 5
    with pytest.raises(TercelError, match="1 sources for 3 pictures"):
        judge_boxes([one, none, none], [none] * 3, ["a"], sources=["x"])


def test_overlaps_of_boxes_is_box_iou():
    a, b = boxes([[0, 0, 10, 10], [5, 0, 15, 10]]), boxes([[0, 0, 10, 5]])
    np.testing.assert_array_equal(overlaps(a, b), box_iou(b.boxes.astype(float), a.boxes.astype(float)))
    half = oriented([[5, 5, 10, 10, 0]])
    np.testing.assert_array_equal(overlaps(a, half), box_iou(half.boxes.astype(float), a.boxes.astype(float)))
