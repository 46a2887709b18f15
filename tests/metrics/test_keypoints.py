"""judge_keypoints against pycocotools' numbers, plain loops and cases counted by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.metrics import oks as oks_module
from tercel.metrics.keypoints import hulls_of_points, judge_keypoints, point_sigmas
from tercel.metrics.match import Pool, overlaps
from tercel.metrics.oks import Points, oks_pairs
from tercel.metrics.pck import pair_up
from tercel.report.judge import judge, judge_all

SIZE = (480, 640)
NAMES = ("nose", "left", "right", "tail")
SCHEMA = Schema(("a", "b"), NAMES, (("left", "right"),), sigmas=(0.05,) * 4)
SHAPE = np.array([[50, 0], [0, 50], [100, 50], [50, 100]], float)  # in a box of 100 x 100


def animals(places, shift=(0, 0), scores=None, labels=None, visible=2, box=None, **columns):
    """Animals of SHAPE with their box's corner at `places`; `shift` broadcasts against [N,4,2]."""
    corner = np.asarray(places, float).reshape(-1, 1, 2)
    points = corner + SHAPE + np.asarray(shift, float)
    boxes = np.concatenate([corner[:, 0] - 10, corner[:, 0] + 110], axis=1) if box is None else box
    seen = np.broadcast_to(np.asarray(visible), points.shape[:2])
    labels = np.zeros(len(points), int) if labels is None else labels
    return Objects(SIZE, labels, boxes, points=points, visible=seen, scores=scores, **columns)


def by_name(report, **where):
    return {s.name: s for s in report.scores if s.where == where}


def checks(report):
    return {f.check: f for f in report.findings}


# -- parity -------------------------------------------------------------------------------------------------------


def from_coco(folder, truth_changes=lambda kp: kp):
    """Both sides of the oracle, read without the package's own reader."""
    gt, found, want = (json.loads((folder / f"{n}.json").read_text()) for n in ("gt", "dets", "expected"))
    number = {c["id"]: i for i, c in enumerate(gt["categories"])}
    sides = [], []
    for im in gt["images"]:
        size = im["height"], im["width"]
        for side, rows in zip(sides, (gt["annotations"], found), strict=True):
            mine = [a for a in rows if a["image_id"] == im["id"]]
            kp = np.array([a["keypoints"] for a in mine], float).reshape(-1, 6, 3)
            labels = np.array([number[a["category_id"]] for a in mine], int)
            if side is sides[0]:
                kp = truth_changes(kp)
                xywh = np.array([a["bbox"] for a in mine], float).reshape(-1, 4)
                boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
                columns = {"area": [a["area"] for a in mine], "ignore": np.array([a["iscrowd"] for a in mine], bool)}
            else:
                kp[..., 2] = 2
                boxes = np.concatenate([kp[..., :2].min(1), kp[..., :2].max(1)], axis=1)
                columns = {"scores": [a["score"] for a in mine]}
            side.append(Objects(size, labels, boxes, points=kp[..., :2], visible=kp[..., 2].astype(int), **columns))
    schema = Schema(tuple(c["name"] for c in gt["categories"]), tuple(want["keypoints"]), sigmas=tuple(want["sigmas"]))
    return *sides, schema, [str(im["id"]) for im in gt["images"]], [c["id"] for c in gt["categories"]], want


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "oracles/coco_keypoints"


def parity(folder, **changes):
    truth, pred, schema, ids, numbers, want = from_coco(folder, **changes)
    r = judge_keypoints(truth, pred, schema, ids=ids, resamples=0)
    got = [r[f"OKS_{n}"] for n in want["stats_names"]]
    np.testing.assert_allclose(got, want["stats"], atol=1e-9)
    for row, number in zip(r.table, numbers, strict=True):
        per = want["per_category"][str(number)]
        mine = by_name(r, **{"class": row["class"]})
        for name in ("AP", "AP50", "AP75"):
            assert mine[f"OKS_{name}"].value == pytest.approx(per[name], abs=1e-9)
        aps = [x["AP"] for x in r.thresholds if x["class"] == row["class"]]
        np.testing.assert_allclose(aps, per["AP_by_threshold"], atol=1e-9)
        got = {k: row[n] for k, n in (("gt", "GT"), ("tp", "TP"), ("fp", "FP"), ("fn", "FN"))}
        assert got | {"ignored_detections": row["ignored"]} == want["counts_oks50"][str(number)]
    return r


def test_oracle(folder):
    r = parity(folder)
    assert "score.second_opinion" not in checks(r), "hotcoco and our own matching agree"
    assert checks(r)["score.no_points"].count == 2
    assert "140" in checks(r)["score.cap_detections"].evidence[0]
    json.dumps(r.to_json(), allow_nan=False)


def test_oracle_of_every_pair(folder):
    gt, found, want = (json.loads((folder / f"{n}.json").read_text()) for n in ("gt", "dets", "expected"))
    of = {a["id"]: a for a in gt["annotations"]}
    rows = [(found[d]["keypoints"], of[a]) for _, _, d, a, _ in want["oks_samples"]]
    pred = np.array([kp for kp, _ in rows]).reshape(-1, 6, 3)[..., :2]
    true = np.array([a["keypoints"] for _, a in rows]).reshape(-1, 6, 3)
    points = Points(true[..., :2], true[..., 2].astype(np.uint8), np.array(want["sigmas"]))
    areas = np.array([a["area"] for _, a in rows])
    got = oks_pairs(pred, points, areas, np.zeros((len(rows), 4)))
    np.testing.assert_allclose(got, [s[-1] for s in want["oks_samples"]], atol=1e-12)


def _visible_where_not_zero(kp):
    """turtle-6: visibility derived from x."""
    kp[..., 2] = np.where(kp[..., 0] == 0, 0, kp[..., 2])
    return kp


def test_oracle_catches_visibility_from_a_coordinate(folder):
    with pytest.raises(AssertionError):
        parity(folder, truth_changes=_visible_where_not_zero)


def test_oracle_catches_the_missing_factor_of_k(folder, monkeypatch):
    """The founding code's exponent is not that of OKS at equal sigma: k is 2 sigma."""
    real = oks_module._oks
    narrow = lambda p, xy, seen, sigmas, *a: real(p, xy, seen, sigmas / 2, *a)  # noqa: E731
    monkeypatch.setattr(oks_module, "_oks", narrow)
    with pytest.raises(AssertionError):
        parity(folder)


def slow_oks(truth, pred, sigmas):
    """COCO's definition, one number at a time."""
    out = np.zeros((len(pred), len(truth)))
    for i in range(len(pred)):
        for j in range(len(truth)):
            x1, y1, x2, y2 = (float(v) for v in truth.boxes[j])
            terms, some = [], (truth.visible[j] > 0).any()
            for k, s in enumerate(sigmas):
                (px, py), (tx, ty) = pred.points[i, k].astype(float), truth.points[j, k].astype(float)
                if some and not truth.visible[j, k]:
                    continue
                dx, dy = px - tx, py - ty
                if not some:
                    w, h = x2 - x1, y2 - y1
                    dx = max(x1 - w - px, 0, px - (x2 + w))
                    dy = max(y1 - h - py, 0, py - (y2 + h))
                terms.append(math.exp(-(dx * dx + dy * dy) / (2 * float(truth.areas[j]) * (2 * s) ** 2)))
            out[i, j] = sum(terms) / len(terms)
    return out


def scene(seed, k, pictures=4):
    """Truth and mediocre predictions of K points: hidden, absent, crowds, no labelled point at all."""
    rng = np.random.default_rng(seed)
    truth, pred = [], []
    for _ in range(pictures):
        n = int(rng.integers(0, 6))
        low, wh = rng.uniform(0, 300, (n, 2)), rng.uniform(15, 150, (n, 2))
        points = low[:, None] + rng.uniform(-0.1, 1.1, (n, k, 2)) * wh[:, None]
        visible = rng.choice([0, 1, 2], (n, k), p=[0.2, 0.2, 0.6]) * (rng.random((n, 1)) > 0.15)
        labels, ignore = rng.integers(0, 2, n), rng.random(n) < 0.15
        boxes = np.concatenate([low, low + wh], axis=1)
        truth.append(Objects(SIZE, labels, boxes, ignore, points=points, visible=visible))
        copies = np.repeat(np.arange(n), rng.integers(0, 3, n))
        moved = points[copies] + rng.normal(0, 0.07, (len(copies), k, 2)) * wh[copies, None]
        scores = rng.integers(1, 20, len(copies)) / 20
        seen = np.full(moved.shape[:2], 2)
        pred.append(Objects(SIZE, labels[copies], boxes[copies], points=moved, visible=seen, scores=scores))
    names = tuple(f"p{i}" for i in range(k))
    return truth, pred, Schema(("a", "b"), names, sigmas=tuple(rng.uniform(0.02, 0.1, k)))


@given(st.integers(0, 10_000), st.sampled_from([1, 6, 17, 32, 40]))
@settings(max_examples=30)
def test_any_scene(seed, k):
    """Two computations of AP agree, OKS is that of the loop, scores stay in bounds and counts add up."""
    truth, pred, schema = scene(seed, k)
    for t, p in zip(truth, pred, strict=True):
        np.testing.assert_allclose(overlaps(t, p, schema.sigmas), slow_oks(t, p, schema.sigmas), atol=1e-9)
    r = judge_keypoints(truth, pred, schema, resamples=3)
    assert "score.second_opinion" not in checks(r)
    assert all(math.isnan(s.value) or s.value >= 0 for s in r.scores)
    assert all(math.isnan(s.value) or s.value <= 1 + 1e-9 for s in r.scores if "error" not in s.name)
    assert all(math.isnan(s.low) or s.low <= s.value + 1e-9 <= s.high + 2e-9 for s in r.scores)
    labelled = sum(int((t.visible[~t.ignore] > 0).sum()) for t in truth if len(t))
    assert r.pck[-1]["n"] == labelled
    assert sum(row["n"] for row in r.points) == labelled
    for row in r.table:
        assert row["TP"] + row["FN"] == row["GT"]
    assert sum(row["TP"] + row["FP"] + row["ignored"] + row["beyond_cap"] for row in r.table) == sum(map(len, pred))


def test_truth_as_prediction_is_perfect():
    truth, _, schema = scene(3, 6, 8)
    pred = [t[~t.ignore & (t.visible > 0).any(axis=1)] for t in truth]
    pred = [p.replace(scores=np.full(len(p), 0.7)) for p in pred]
    r = judge_keypoints(truth, pred, schema, resamples=20)
    for name in ("OKS_AP", "OKS_AP50", "OKS_AR", "F1", "PCK@.05", "PCK@.2"):
        assert r[name] == pytest.approx(1), name
    assert r["point_error_px"] == 0
    assert r["point_error"] == 0
    s = by_name(r)["PCK@.05"]
    assert (s.low, s.high) == pytest.approx((1, 1))


# -- points by hand -----------------------------------------------------------------------------------------------


def test_pck_by_hand():
    """Boxes of 120 px: limits 6, 12 and 24 px. One of two truths is found; an absent point counts nowhere."""
    truth = animals([(50, 50), (300, 300)], visible=[[2, 2, 2, 2], [2, 1, 0, 2]])
    pred = animals([(50, 50)], shift=[[[5, 0], [6, 0], [0, 13], [0, -40]]], scores=[0.9])
    r = judge_keypoints([truth], [pred], SCHEMA, resamples=0)
    assert r["PCK@.05"] == pytest.approx(2 / 7)  # an error of just 6 px is within
    assert r["PCK@.1"] == pytest.approx(2 / 7)
    assert r["PCK@.2"] == pytest.approx(3 / 7)
    assert r["point_error_px"] == pytest.approx((5 + 6 + 13 + 40) / 4)
    assert r["point_error"] == pytest.approx(16 / 120)
    assert by_name(r, point="tail")["PCK@.2"].value == 0
    assert by_name(r, point="nose")["PCK@.05"].value == 1 / 2
    assert by_name(r, visibility="hidden")["PCK@.2"].n == 1
    assert by_name(r, visibility="visible")["PCK@.2"].value == pytest.approx(3 / 6)
    assert by_name(r, **{"class": "b"})["PCK@.05"].n == 0
    row = r.points[2]
    assert (row["point"], row["n"], row["found"], row["hidden"]) == ("right", 1, 1, 0)
    assert row["median_px"] == pytest.approx(13)
    assert r.pck[0] == {"alpha": 0.0, "PCK": 0.0, "n": 7}
    assert r.pck[5]["PCK"] == pytest.approx(2 / 7)
    assert r.pck[34]["PCK"] == pytest.approx(4 / 7)
    assert all(math.isnan(s.low) for s in r.scores)


def test_size_is_the_longer_side_not_the_root_of_the_area():
    flat = [[0, 0, 200, 20]]
    truth = animals([(20, 20)], box=flat)
    pred = animals([(20, 20)], shift=(9.9, 0), scores=[0.9], box=flat)
    r = judge_keypoints([truth], [pred], SCHEMA, resamples=0)
    assert r["PCK@.05"] == 1
    wide = animals([(20, 20)], shift=(10.1, 0), scores=[0.9], box=flat)
    assert judge_keypoints([truth], [wide], SCHEMA, resamples=0)["PCK@.05"] == 0


def test_who_stands_for_a_truth():
    truth = animals([(50, 50), (400, 50), (50, 300)], labels=[0, 0, 1])
    pred = animals([(50, 50), (53, 50), (400, 50), (50, 300)], scores=[0.8, 0.9, 0.1, 0.7], labels=[0, 0, 0, 0])
    pairs = pair_up(*(Pool.of([x], SCHEMA.sigmas) for x in (truth, pred)))
    assert pairs.pred_row.tolist() == [1, 2, -1], "the surer one; no duplicate takes a far truth; classes stay apart"
    assert pairs.error[0].tolist() == pytest.approx([3] * 4)
    assert np.isnan(pairs.error[2]).all()


def test_a_prediction_on_an_ignored_animal_speaks_of_no_other():
    truth = animals([(50, 50), (300, 50)], ignore=[True, False])
    pred = animals([(50, 50), (301, 50)], scores=[0.9, 0.5])
    r = judge_keypoints([truth], [pred], SCHEMA, resamples=0)
    assert r["PCK@.05"] == 1
    assert by_name(r)["PCK@.05"].n == 4
    assert r["OKS_AP"] == pytest.approx(1)


def test_an_animal_without_points_is_neither_found_nor_missed():
    truth = animals([(50, 50), (300, 50)], visible=[[0] * 4, [2] * 4])
    pred = animals([(51, 50), (300, 50)], scores=[0.9, 0.5])
    r = judge_keypoints([truth], [pred], SCHEMA, resamples=0)
    assert (r["OKS_AP"], r["PCK@.05"]) == (pytest.approx(1), 1)
    assert checks(r)["score.no_points"].count == 1


def test_swaps():
    """Left and right changed over in one of two animals; nose and tail have no partner."""
    truth = animals([(50, 50), (300, 50)])
    pred = animals([(50, 50), (300, 50)], scores=[0.9, 0.8])
    points = pred.points.copy()
    points[0] = points[0][SCHEMA.flip_index]
    r = judge_keypoints([truth], [pred.replace(points=points)], SCHEMA, resamples=0)
    assert r["swap_rate"] == 1 / 2
    assert by_name(r)["swap_rate"].n == 4
    assert by_name(r, point="left")["swap_rate"].value == 1 / 2
    assert "swap_rate" not in by_name(r, point="nose")
    one_sided = judge_keypoints(
        [animals([(50, 50)], visible=[[2, 2, 0, 2]])], [pred[:1].replace(points=points[:1])], SCHEMA, resamples=0
    )
    assert by_name(one_sided)["swap_rate"].n == 0, "without the partner's truth nobody knows"


def test_partners_on_one_spot_cannot_be_swapped():
    truth = animals([(50, 50)])
    points = truth.points.copy()
    points[0, 2] = points[0, 1] + [3, 0]  # seen from the side
    truth = truth.replace(points=points)
    pred = truth.replace(points=points[:, SCHEMA.flip_index], scores=[0.9])
    assert by_name(judge_keypoints([truth], [pred], SCHEMA, resamples=0))["swap_rate"].n == 0


def test_strays():
    """turtle-2: points outside the picture and the box are counted among predictions that an application would show."""
    truth = animals([(50, 50), (300, 50)])
    pred = animals([(50, 50), (300, 50), (0, 0)], scores=[0.9, 0.8, 0.01])
    points, visible = pred.points.copy(), pred.visible.copy()
    points[0, 0] = (-205, 60)
    points[0, 1], visible[0, 1] = (700, 60), 1  # called hidden: it may lie anywhere
    points[1, 3] = (350, 250)
    points[2] = -500
    r = judge_keypoints([truth], [pred.replace(points=points, visible=visible)], SCHEMA, ids=["x"], resamples=0)
    assert r["outside_picture"] == pytest.approx(1 / 7)
    assert r["outside_box"] == pytest.approx(2 / 7)
    assert by_name(r, point="tail")["outside_box"].value == 1 / 2
    found = checks(r)
    assert (found["score.points_outside_picture"].count, found["score.points_outside_picture"].evidence) == (1, ("x",))
    assert found["score.points_outside_picture"].severity == "warning"
    assert found["score.points_outside_box"].count == 2


def test_boxes_in_another_order_than_points():
    """turtle-8: the boxes are right, the points are right, and each belongs to another animal."""
    truth = animals([(50, 50), (300, 50)])
    pred = animals([(50, 50), (300, 50)], scores=[0.9, 0.8])
    r = judge_keypoints([truth], [pred.replace(points=pred.points[::-1])], SCHEMA, resamples=0)
    assert checks(r)["score.points_elsewhere"].count == 2
    assert "score.points_elsewhere" not in checks(judge_keypoints([truth], [pred], SCHEMA, resamples=0))


def test_boxes_beside_and_derived_boxes():
    truth = [animals([(50, 50), (300, 50)])] * 2
    pred = [animals([(50, 50), (300, 50)], shift=(1, 0), scores=[0.9, 0.8])] * 2
    r = judge_keypoints(truth, pred, SCHEMA, resamples=5)
    assert r["box_AP"] == pytest.approx(1)
    assert r.boxes["AP50"] == pytest.approx(1)
    assert r.to_json()["boxes"]["scores"]
    hull = lambda o: o.replace(boxes=np.concatenate([o.points.min(1), o.points.max(1)], axis=1))  # noqa: E731
    for t, p in ((list(map(hull, truth)), pred), (truth, list(map(hull, pred)))):
        r = judge_keypoints(t, p, SCHEMA, resamples=0)
        assert r.boxes is None
        assert "score.derived_boxes" in checks(r)
        with pytest.raises(KeyError, match=r"PCK@\.05"):
            r["box_AP"]
    assert math.isnan(r["outside_box"])
    assert hulls_of_points([hull(t) for t in truth])
    assert not hulls_of_points(truth)
    edge = hull(animals([(-20, 50)]))
    assert hulls_of_points([edge.replace(boxes=np.maximum(edge.boxes, 0))]), "cut at the picture's edge"


def test_intervals_come_from_drawn_pictures():
    """Half of 40 pictures are right, in each all points alike: the interval of their PCK is that of a coin."""
    truth = [animals([(50, 50)])] * 40
    pred = [animals([(50, 50)], shift=(0 if i % 2 else 30, 0), scores=[0.9]) for i in range(40)]
    r = judge_keypoints(truth, pred, SCHEMA, resamples=1000)
    s, error = by_name(r)["PCK@.05"], by_name(r)["point_error_px"]
    assert (s.value, s.low, s.high) == pytest.approx((0.5, 0.345, 0.655), abs=0.03)
    assert (error.value, error.low, error.high) == pytest.approx((15, 15 - 0.155 * 30, 15 + 0.155 * 30), abs=0.9)


def test_shares_have_no_interval_beyond_one():
    """Seen on 20 flies: with one wrong point of twenty, the moved quantiles of the draws reached 1.007."""
    truth = [animals([(50, 50)])] * 20
    pred = [animals([(50, 50)], shift=(0 if i else 30, 0), scores=[0.9]) for i in range(20)]
    r = judge_keypoints(truth, pred, SCHEMA, resamples=200)
    some = [s for s in r.scores if s.name.startswith("PCK") and s.n and not math.isnan(s.low)]
    assert some
    assert all(0 <= s.low <= s.value <= s.high <= 1 for s in some)


def test_order_of_pictures_and_rows_does_not_matter():
    truth, pred, schema = scene(11, 6, 8)
    ids = [str(7 * i) for i in range(8)]
    turn = np.random.default_rng(0).permutation(8)
    a = judge_keypoints(truth, pred, schema, ids=ids, resamples=5)
    again = [truth[i] for i in turn], [pred[i] for i in turn]
    b = judge_keypoints(*again, schema, ids=[ids[i] for i in turn], resamples=5)
    assert [s.name for s in a.scores] == [s.name for s in b.scores]
    for attribute in ("value", "low", "high"):
        left, right = ([getattr(s, attribute) for s in r.scores] for r in (a, b))
        assert left == pytest.approx(right, nan_ok=True), attribute


# -- the mean pose ------------------------------------------------------------------------------------------------


def test_errors_turn_with_the_animal():
    """Tails miss by 10 px to the animal's rear, whichever way it faces: along its axis, with a bias and no spread."""
    truth, pred = [], []
    for angle in np.linspace(0, 2 * np.pi, 9)[:-1]:
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        # Longer than wide, so that its axis is from nose to tail.
        points = ((SHAPE - 50) * [0.6, 1]) @ turn + (300, 240)
        box = [[240, 180, 360, 300]]
        moved = points.copy()
        moved[3] += np.array([0, 12]) @ turn
        truth.append(Objects(SIZE, [0], box, points=points[None], visible=np.full((1, 4), 2)))
        pred.append(Objects(SIZE, [0], box, points=moved[None], visible=np.full((1, 4), 2), scores=[0.9]))
    nose, left, _, tail = judge_keypoints(truth, pred, SCHEMA, resamples=0).points
    assert (nose["x"], nose["y"]) == pytest.approx((0, -50 / 120), abs=1e-5)
    assert abs(left["x"]) == pytest.approx(30 / 120, abs=1e-5)
    assert (tail["bias_x"], tail["bias_y"]) == pytest.approx((0, 0.1), abs=1e-5)
    assert tail["cov_yy"] == pytest.approx(0, abs=1e-8)
    assert nose["bias_y"] == pytest.approx(0, abs=1e-8)


# -- nothing, and misuse ------------------------------------------------------------------------------------------


def test_nothing_to_find_is_undefined():
    pred = animals([(50, 50)], scores=[0.9])
    r = judge_keypoints([Objects.empty(SIZE)], [pred], SCHEMA, resamples=3)
    assert all(math.isnan(r[n]) for n in ("OKS_AP", "OKS_AR", "PCK@.05", "point_error", "swap_rate"))
    assert "score.nothing_to_find" in checks(r)
    unseen = judge_keypoints([animals([(50, 50)], visible=0)], [pred], SCHEMA, resamples=3)
    assert math.isnan(unseen["OKS_AP"])
    json.dumps(unseen.to_json(), allow_nan=False)


def test_nothing_found_is_zero():
    r = judge_keypoints([animals([(50, 50)])], [Objects.empty(SIZE)], SCHEMA, resamples=3)
    assert (r["OKS_AP"], r["PCK@.2"]) == (0, 0)
    assert math.isnan(r["point_error_px"])
    assert by_name(r)["PCK@.2"].n == 4


def test_a_single_point_without_a_box_has_no_size():
    schema = Schema(("ant",), ("body",))
    ant = Objects(SIZE, [0], [[40, 40, 40, 40]], points=[[[40, 40]]], visible=[[2]])
    r = judge_keypoints([ant], [ant.replace(points=[[[42, 40]]], scores=[0.9])], schema, resamples=0)
    found = checks(r)
    assert found["score.no_size"].count == 1
    assert "sigmas" in found["score.default_sigmas"].message
    assert math.isnan(r["PCK@.05"])
    assert r["OKS_AP"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": Schema(("a",))}, "no keypoints"),
        ({"schema": Schema(("a",), ("p", "q"))}, "truth with 4 points, but the labels name 2: p, q"),
        ({"pred": Objects(SIZE, [0], [[0, 0, 9, 9]], scores=[0.5])}, "picture 7: predictions without points"),
        ({"pred": animals([(0, 0)])}, "no scores"),
        ({"sigmas": (0.1,)}, "1 sigmas for 4 keypoints"),
        ({"sigmas": (0.1, 0.1, 0.0, 0.1)}, "'right' is 0.0"),
        ({"max_detections": (20, 10)}, "not rising"),
    ],
)
def test_misuse(changes, message):
    given = {"schema": SCHEMA, "pred": animals([(0, 0)], scores=[0.5])} | changes
    schema, pred = given.pop("schema"), given.pop("pred")
    with pytest.raises(TercelError, match=message) as e:
        judge_keypoints([animals([(0, 0)])], [pred], schema, ids=["7"], resamples=0, **given)
    assert e.value.remedy


def test_sigmas_given_come_first():
    truth, pred = [animals([(50, 50)])], [animals([(50, 50)], shift=(12, 0), scores=[0.9])]
    own, wide = (judge_keypoints(truth, pred, SCHEMA, sigmas=s, resamples=0) for s in (None, (1.0,) * 4))
    assert own["OKS_AP"] < wide["OKS_AP"] == pytest.approx(1)
    assert own.rule["sigmas"] == [0.05] * 4
    assert point_sigmas(Schema(("a",), ("p",))) == (0.05,)


# -- verdicts for pictures ----------------------------------------------------------------------------------------


def test_verdicts_by_oks():
    """A well placed pose in a wrong box is a hit; a pose with left and right changed over is badly placed."""
    truth = animals([(50, 50), (300, 50), (50, 300)], visible=[[2] * 4, [2] * 4, [0] * 4])
    pred = animals([(50, 50), (300, 50), (50, 300)], scores=[0.9, 0.8, 0.7], box=[[0, 0, 9, 9]] * 3)
    points = pred.points.copy()
    points[1] = points[1][SCHEMA.flip_index]
    points[1, 0] += 300
    v = judge(truth, pred.replace(points=points), 0.5, SCHEMA.sigmas)
    assert v.kind.tolist() == ["hit", "localisation", "ignored"]
    assert v.hit_by.tolist() == [0, -1, -1]
    assert v.iou[:2] == pytest.approx([1, 0.25], abs=1e-6)
    both = judge_all(["x", "y"], [truth, truth[:0]], [pred.replace(points=points), pred[:0]], 0.5, SCHEMA.sigmas)
    assert both.truth_row.tolist() == [0, 1]
    assert both.truth_score.tolist() == pytest.approx([0.9, -1])
