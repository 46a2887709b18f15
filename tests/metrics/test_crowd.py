"""judge_crowd against CrowdDet's own numbers, a plain loop over its rule, and cases counted by hand."""

from __future__ import annotations

import json
import math
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.metrics import crowd, crowd_scores, greedy, jaccard, miss_rate
from tercel.metrics.crowd import judge_crowd
from tercel.metrics.jaccard import heaviest_matching
from tercel.metrics.miss_rate import FPPI, Sweep, curve_scores, log_average
from tercel.metrics.stats import spread

SIZE = (200, 300)


def persons(boxes, ignore=None, size=SIZE, **columns):
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    return Objects(size, np.zeros(len(boxes), int), boxes, ignore, **columns)


def found(boxes, scores, size=SIZE):
    return persons(boxes, size=size, scores=scores)


def row(report, by, name):
    return next(r for r in report.crowds if (r["by"], r["name"]) == (by, name))


def checks(report):
    return {f.check: f for f in report.findings}


# -- CrowdDet's own numbers -----------------------------------------------------------------------------------------


def from_odgt(folder, key, dump):
    """Both sides of the oracle, read without the package's own reader."""
    answers = {a["ID"]: a for a in map(json.loads, (folder / dump).read_text().splitlines())}
    truth, pred, ids = [], [], []
    for entry in map(json.loads, (folder / "annotation.odgt").read_text().splitlines()):
        answer = answers[entry["ID"]]
        size = answer["height"], answer["width"]
        ignore = [
            g["tag"] != "person" or g.get("extra", {}).get("ignore", 0) != 0
            or (key == "hbox" and g.get("head_attr", {}).get("ignore", 0) != 0)
            for g in entry["gtboxes"]
        ]  # fmt: skip
        truth.append(persons([corners(g[key]) for g in entry["gtboxes"]], ignore, size))
        rows = answer["dtboxes"]
        pred.append(found([corners(d["box"]) for d in rows], [d["score"] for d in rows], size))
        ids.append(entry["ID"])
    return truth, pred, ids


def corners(box):
    x, y, w, h = box
    return x, y, x + w, y + h


@pytest.mark.parametrize(
    ("name", "key", "dump"),
    [
        ("body_fbox", "fbox", "detections_body.jsonl"),
        ("body_scored_against_vbox", "vbox", "detections_body.jsonl"),
        ("head_hbox", "hbox", "detections_head.jsonl"),
    ],
)
def test_the_numbers_are_those_of_crowddet(shared, name, key, dump):
    folder = shared / "oracles/crowd"
    truth, pred, ids = from_odgt(folder, key, dump)
    want = json.loads((folder / "expected.json").read_text())[name]
    report = judge_crowd(truth, pred, ids=ids, resamples=0)
    assert report["AP50"] == pytest.approx(want["AP"], abs=1e-9)
    assert report["MR-2"] == pytest.approx(want["MR_2"], abs=1e-9)
    counts = {"tp": "TP", "fp": "FP", "gt": "persons", "ignored_gt": "ignored", "images": "pictures"}
    assert {k: report.counts[v] for k, v in counts.items()} == {k: want[k] for k in counts}
    points = [[r["fppi"], r["miss_rate"]] for r in report.miss_rates]
    np.testing.assert_allclose(points, want["miss_rate_at_fppi"], rtol=0, atol=1e-9)
    if "JI" in want:
        assert report["JI"] == pytest.approx(want["JI"], abs=1e-6)
        for ours, theirs in zip(report.jaccard, want["JI_by_score_threshold"], strict=True):
            assert ours["threshold"] == pytest.approx(theirs["score_thr"])
            assert ours["JI"] == pytest.approx(theirs["JI"], abs=1e-6)
            assert [ours[k] for k in ("matched", "detections", "persons")] == [
                theirs[k] for k in ("matched", "detections", "gt")
            ]


# -- a plain loop ---------------------------------------------------------------------------------------------------


def cut(box, size):
    (h, w), (x1, y1, x2, y2) = size, box
    inside = lambda v, top: min(max(v, 0), top)  # noqa: E731
    return inside(x1, w - 1), inside(y1, h - 1), inside(x2, w), inside(y2, h)


def share(a, b, of_a=False):
    """IoU, or the share of `a` inside `b`."""
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return inner / ((area[0] if of_a else sum(area) - inner) + 1e-6)


def sides(truth, pred):
    """Per picture: persons, ignored boxes, and detections (score, box), the best first."""
    for t, p in zip(truth, pred, strict=True):
        boxes = [cut(b, t.size) for b in t.boxes.astype(float).tolist()]
        people = [b for b, i in zip(boxes, t.ignore, strict=True) if not i]
        regions = [b for b, i in zip(boxes, t.ignore, strict=True) if i]
        rows = [(s, cut(b, t.size)) for s, b in zip(p.scores.tolist(), p.boxes.astype(float).tolist(), strict=True)]
        yield people, regions, sorted(rows, key=lambda x: -x[0])


def plain_curve(truth, pred):
    """AP and MR-2 as CrowdDet's loops compute them."""
    listed, total = [], 0
    for people, regions, rows in sides(truth, pred):
        total += len(people)
        free = list(range(len(people)))
        for score, box in rows:
            best = max(free, key=lambda j: (share(box, people[j]), -j), default=None)
            if best is not None and share(box, people[best]) > 0.5:
                free.remove(best)
                listed.append((score, True))
            elif not any(share(box, r, of_a=True) > 0.5 for r in regions):
                listed.append((score, False))
    listed.sort(key=lambda x: -x[0])
    hit = wrong = 0
    recall, precision, fppi = [], [], []
    for _, right in listed:
        hit, wrong = hit + right, wrong + (not right)
        recall.append(hit / total)
        precision.append(hit / (hit + wrong))
        fppi.append(wrong / len(truth))
    steps = range(1, len(listed))
    ap = sum((recall[i] - recall[i - 1]) * (precision[i] + precision[i - 1]) / 2 for i in steps)
    if not listed:
        return ap, 1.0
    miss = [1 - recall[next((i for i, f in enumerate(fppi) if f >= x), len(fppi) - 1)] for x in FPPI]
    return ap, math.exp(sum(map(math.log, miss)) / 9) if all(m > 0 for m in miss) else 0.0


def plain_index(truth, pred):
    """JI, with every matching tried."""
    by_threshold = []
    for threshold in [0.1 * i for i in range(10)]:
        listed = []
        for people, regions, rows in sides(truth, pred):
            boxes = [box for score, box in rows if np.float32(score) > np.float32(threshold)]
            pairs = best_pairs([[share(b, p) for p in people] for b in boxes], len(people))
            lone = [b for i, b in enumerate(boxes) if i not in dict(pairs)]
            missed = [p for j, p in enumerate(people) if j not in [j for _, j in pairs]]
            n, m = (len(side) - sum(any(share(b, r, of_a=True) > 0.5 for r in regions) for b in rest)
                    for side, rest in ((boxes, lone), (people, missed)))  # fmt: skip
            if m or n:
                listed.append(len(pairs) / (m + n - len(pairs) + 1e-6))
        by_threshold.append(sum(listed) / len(listed) if listed else -1)
    return max(by_threshold)


def best_pairs(weight, people):
    @lru_cache(None)
    def best(i, used):
        if i == len(weight):
            return 0.0, ()
        options = [best(i + 1, used)]
        for j in range(people):
            if weight[i][j] > 0.5 and not used >> j & 1:
                total, pairs = best(i + 1, used | 1 << j)
                options.append((total + weight[i][j], (*pairs, (i, j))))
        return max(options, key=lambda x: x[0])

    return best(0, 0)[1]


def scene(seed, pictures=6):
    """People in groups, some beyond the border, ignored ones among them; detections often twice, often wrong."""
    rng = np.random.default_rng(seed)
    truth, pred = [], []
    for _ in range(pictures):
        n = int(rng.integers(0, 6))
        centre = rng.uniform((-5, 0), (305, 200), (n, 2))
        near = rng.random(n) < 0.6
        centre[near] = centre[:1] + rng.normal(0, 12, (int(near.sum()), 2))
        half = rng.uniform(15, 30, (n, 1)) * (0.6, 1.2)
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        again = rng.integers(0, n, 7) if n else np.zeros(0, int)
        guess = boxes[again] + rng.normal(0, 7, (len(again), 4))
        low = rng.uniform(0, 150, (2, 2))
        guess = np.concatenate([guess, np.concatenate([low, low + 40], axis=1)])
        guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2] + 1)
        truth.append(persons(boxes, rng.random(n) < 0.25, occlusion=rng.random(n)))
        pred.append(found(guess, rng.permutation(np.linspace(0.03, 0.97, len(guess))) + rng.uniform(0, 0.01)))
    return truth, pred


def agrees(seeds=range(8), pictures=6):
    for seed in seeds:
        truth, pred = scene(seed, pictures)
        if all(t.ignore.all() for t in truth):
            continue  # undefined
        report = judge_crowd(truth, pred, resamples=0)
        ap, miss = plain_curve(truth, pred)
        assert report["AP50"] == pytest.approx(ap, abs=1e-9)
        assert report["MR-2"] == pytest.approx(miss, abs=1e-9)
        assert report["JI"] == pytest.approx(plain_index(truth, pred), abs=1e-9)


def test_the_plain_loop_agrees():
    agrees()


@given(st.integers(8, 10_000))
def test_the_plain_loop_agrees_on_any_scene(seed):
    agrees([seed], pictures=2)


def _uncut(pool, canvases):
    return crowd.replace(pool, labels=np.zeros_like(pool.labels))


def _every_pair(truth, pred, lowest):
    return pairs_above(truth, pred, 0.4)


def _by_iou_alone(truth, pred, lowest):
    """Ignore regions measured by IoU."""
    d, g, overlap = pairs_above(crowd.replace(truth, ignore=np.zeros(len(truth), bool)), pred, lowest)
    return d, g, overlap


def _pairs_in_turn(d, g, weight):
    """Each detection takes the best person left, as for AP."""
    out, taken = np.zeros(len(d), bool), (set(), set())
    for k in np.lexsort((-weight, d)):
        if d[k] not in taken[0] and g[k] not in taken[1]:
            out[k] = True
            taken[0].add(d[k])
            taken[1].add(g[k])
    return out


def _area_from_zero(found_, before, positives):
    return area(found_, before, positives) + (before[:1] == 0).all() / np.maximum(positives, 1)


pairs_above, area = crowd_scores.pairs_above, miss_rate._area


@pytest.mark.parametrize(
    ("place", "name", "bug"),
    [
        (crowd, "_people", _uncut),
        (crowd, "pairs_above", _every_pair),
        (crowd, "pairs_above", _by_iou_alone),
        (jaccard, "heaviest_matching", _pairs_in_turn),
        (jaccard, "above", lambda scores, threshold: scores > 0.5 + threshold / 2),
        (miss_rate, "FPPI", (0.0001, 0.0003, 0.001, 0.0032, 0.01, 0.0316, 0.1, 0.3162, 1.0)),  # MR-4's
        (miss_rate, "log_average", lambda miss: miss.mean(axis=0)),
        (miss_rate, "_area", _area_from_zero),
    ],
    ids=lambda x: getattr(x, "__name__", str(x))[:20],
)
def test_the_plain_loop_catches_a_planted_bug(monkeypatch, place, name, bug):
    monkeypatch.setattr(place, name, bug)
    with pytest.raises(AssertionError):
        agrees(range(20))


# -- by hand --------------------------------------------------------------------------------------------------------

FOUR = [[10, 10, 30, 60], [60, 10, 80, 60], [110, 10, 130, 60], [160, 10, 180, 60]]


def test_four_persons_three_found():
    pred = [found([FOUR[0], [220, 10, 240, 60], FOUR[1], FOUR[2]], [0.9, 0.8, 0.7, 0.6])]
    report = judge_crowd([persons(FOUR)], pred, resamples=0)
    assert report["AP50"] == pytest.approx(0.25 * (1 / 2 + 2 / 3) / 2 + 0.25 * (2 / 3 + 3 / 4) / 2)
    assert report["MR-2"] == pytest.approx(0.75)  # the first false positive is one per picture: every point lies there
    assert report["JI"] == pytest.approx(3 / 5, abs=1e-6)
    assert report.jaccard[6]["JI"] == pytest.approx(2 / 5, abs=1e-6)  # a score of .6 is not above .6
    assert report.rule["JI_threshold"] == 0.0


def test_detections_on_ignored_boxes_cost_nothing():
    """By the share of the detection, not by IoU; any number; and the region is nothing to be found."""
    truth = [persons([*FOUR, [200, 0, 300, 200]], [0, 0, 0, 0, 1])]
    before = judge_crowd(truth, [found(FOUR[:2], [0.9, 0.8])], resamples=0)
    free = [[210, 10, 230, 60], [215, 10, 235, 60], [200, 0, 300, 200]]
    after = judge_crowd(truth, [found([*FOUR[:2], *free], [0.9, 0.8, 0.95, 0.94, 0.93])], resamples=0)
    assert [before[n] for n in ("AP50", "MR-2", "JI")] == [after[n] for n in ("AP50", "MR-2", "JI")]
    assert (after.counts["spared"], after.counts["FP"], after.counts["ignored"]) == (3, 0, 1)


def test_a_person_inside_an_ignored_box_can_be_missed_by_ap_but_not_by_ji():
    truth = [persons([FOUR[0], FOUR[1], [50, 0, 100, 100]], [0, 0, 1])]
    report = judge_crowd(truth, [found([FOUR[0]], [0.9])], resamples=0)
    assert report["MR-2"] == pytest.approx(0.5)
    assert report["JI"] == pytest.approx(1, abs=1e-5)


def test_an_overlap_of_one_half_is_no_hit():
    truth, half = [persons([[0, 0, 20, 10]])], [found([[0, 0, 20, 5]], [0.9])]
    assert judge_crowd(truth, half, resamples=0).counts["TP"] == 0
    assert judge_crowd(truth, [found([[0, 0, 20, 5.1]], [0.9])], resamples=0).counts["TP"] == 1


def test_of_equal_overlaps_the_earlier_person_is_taken(monkeypatch):
    truth = [persons([[0, 0, 10, 10], [2, 0, 12, 10]])]
    pred = [found([[1, 0, 11, 10], [4, 0, 14, 10]], [0.9, 0.8])]  # the second one overlaps the later person alone
    assert judge_crowd(truth, pred, resamples=0).counts["TP"] == 2
    back = lambda d, g, overlap, truth, count: greedy.choose(  # noqa: E731
        d, g, overlap, ignore=truth.ignore, countable=~truth.ignore[None], count=count, ious=(0.5,)
    )[2]
    monkeypatch.setattr(crowd, "_choose", back)
    assert judge_crowd(truth, pred, resamples=0).counts["TP"] == 1


def test_ji_pairs_as_well_as_can_be_where_ap_takes_in_turn():
    """The better detection takes the person that alone would have served the weaker one."""
    truth = [persons([[0, 0, 20, 40], [6, 0, 26, 40]])]
    pred = [found([[2, 0, 22, 40], [-6, 0, 14, 40]], [0.9, 0.8])]
    report = judge_crowd(truth, pred, resamples=0)
    assert report.counts["TP"] == 1
    assert report["JI"] == pytest.approx(1, abs=1e-5)


def test_the_heaviest_matching_of_a_chain():
    """.6 + .6 beats .9, and .9 beats .6 alone."""
    d, g = np.array([0, 0, 1, 5]), np.array([0, 1, 1, 7])
    assert heaviest_matching(d, g, np.array([0.6, 0.9, 0.6, 0.7])).tolist() == [True, False, True, True]
    assert heaviest_matching(d[1:], g[1:], np.array([0.9, 0.6, 0.7])).tolist() == [True, False, True]


def test_the_geometric_mean_of_miss_rates():
    assert log_average(np.full((9, 1), 0.25))[0] == pytest.approx(0.25)
    assert log_average(np.array([[0.1]] * 3 + [[0.9]] * 6))[0] == pytest.approx(0.1 ** (1 / 3) * 0.9 ** (2 / 3))
    assert log_average(np.array([[0.5]] * 8 + [[0.0]]))[0] == 0


def test_points_beyond_the_curve_are_said_to_be():
    truth = [persons(FOUR)] * 10
    pred = [found(FOUR[:3], [0.9, 0.8, 0.7])] * 9 + [found([[200, 100, 220, 160]], [0.5])]
    rows = judge_crowd(truth, pred, resamples=0).miss_rates
    assert [r["reached"] for r in rows] == [f <= 0.1 for f in FPPI]
    assert [r["miss_rate"] for r in rows] == pytest.approx([13 / 40] * 9)


# -- crowds and their caps ------------------------------------------------------------------------------------------


def many(count=250, pictures=8):
    grid = np.stack(np.meshgrid(np.arange(25) * 25, np.arange(10) * 45), axis=-1).reshape(-1, 2)[:count].astype(float)
    boxes = np.concatenate([grid, grid + np.array([20, 40])], axis=1)
    return [persons(boxes, size=(480, 640))] * pictures, [
        found(boxes, np.linspace(0.2, 0.9, count), (480, 640))
    ] * pictures


def test_all_of_250_persons_found_is_perfect():
    truth, pred = many()
    report = judge_crowd(truth, pred, resamples=20)
    assert report["AP50"] == pytest.approx(1 - 1 / 2000)  # CrowdDet's sum starts at the first detection's point
    assert report["MR-2"] == 0
    assert report["JI"] == pytest.approx(1, abs=1e-6)
    assert report["AP"] == report["COCO_AP50"] == report["AR"] == pytest.approx(1)
    assert report.rule["max_detections"] == []
    assert report.counts["beyond_cap"] == 0
    assert not [c for c in checks(report) if "cap" in c]


def test_detections_beyond_a_cap_are_counted():
    truth, pred = many()
    report = judge_crowd(truth, pred, max_detections=100, resamples=0)
    assert report.counts["beyond_cap"] == 8 * 150
    assert report.counts["TP"] == 8 * 100
    assert report["MR-2"] == pytest.approx(0.6)
    assert report["AR"] == pytest.approx(0.4)
    assert report.rule["max_detections"] == [100]
    assert {"score.cap_detections", "score.cap_truths"} <= set(checks(report))
    assert report.boxes.table[0]["beyond_cap"] == 8 * 150


@pytest.mark.parametrize("cap", [1, 5, 10, 11])
def test_small_caps(cap):
    truth, pred = many(20, 2)
    report = judge_crowd(truth, pred, max_detections=cap, resamples=0)
    assert report.counts["TP"] == 2 * cap
    assert report["AR"] == pytest.approx(cap / 20)


# -- nothing there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignored", [True, False])
def test_without_persons_everything_is_undefined(ignored):
    truth = [persons(FOUR, [True] * 4) if ignored else persons([])] * 3
    report = judge_crowd(truth, [found(FOUR, [0.9, 0.8, 0.7, 0.6])] * 3, resamples=10)
    for name in ("AP50", "MR-2", "JI", "AP", "COCO_AP50", "AR", "recall"):
        assert math.isnan(report[name]), name
    assert report.crowds == []
    assert report.rule["JI_threshold"] is None
    assert report.counts["FP"] == (0 if ignored else 12)
    assert "score.nothing_to_find" in checks(report)
    plain = report.to_json()
    assert {r["JI"] for r in plain["jaccard"]} == {None}
    json.dumps(plain, allow_nan=False)


def test_without_detections_everybody_is_missed():
    report = judge_crowd([persons(FOUR)] * 2, [found([], [])] * 2, resamples=10)
    assert (report["AP50"], report["MR-2"], report["JI"]) == (0, 1, 0)
    assert "score.no_detections" in checks(report)
    assert all(math.isnan(r["score"]) or r["miss_rate"] == 1 for r in report.miss_rates)


def test_a_threshold_at_which_only_ignored_regions_are_left_has_no_index():
    """The person lies in the region: unmatched above .5, nothing counts, and the mean over no picture is undefined."""
    truth = [persons([FOUR[0], [0, 0, 50, 100]], [0, 1])]
    report = judge_crowd(truth, [found([FOUR[0]], [0.45])], resamples=0)
    assert [math.isnan(r["JI"]) for r in report.jaccard] == [False] * 5 + [True] * 5
    assert report["JI"] == pytest.approx(1, abs=1e-5)
    nothing = judge_crowd(truth, [found([], [])], resamples=0)
    assert (nothing["MR-2"], nothing.rule["JI_threshold"]) == (1, None)
    assert math.isnan(nothing["JI"])


def test_no_picture_at_all():
    report = judge_crowd([], [], resamples=10)
    assert math.isnan(report["AP50"])
    assert math.isnan(report["JI"])


def test_pictures_without_persons_hold_false_positives():
    truth, pred = [persons(FOUR), persons([])], [found(FOUR, [0.5] * 4), found([FOUR[0]], [0.9])]
    report = judge_crowd(truth, pred, resamples=0)
    assert report.counts["FP"] == 1
    assert report["JI"] == pytest.approx(0.5, abs=1e-6)  # 1 and 0
    assert report.miss_rates[-1] == {"fppi": 1.0, "miss_rate": 0.0, "score": 0.5, "reached": False}


def test_bad_input():
    with pytest.raises(TercelError, match="max_detections"):
        judge_crowd([persons(FOUR)], [found(FOUR, [0.5] * 4)], max_detections=0)
    with pytest.raises(TercelError, match="no scores"):
        judge_crowd([persons(FOUR)], [persons(FOUR)])
    turned = persons(FOUR, obbs=[[20, 35, 50, 20, -1.57]] * 4)
    with pytest.raises(TercelError, match="axis-aligned"):
        judge_crowd([turned], [found(FOUR, [0.5] * 4)])


def test_several_classes_are_taken_for_one_and_it_is_said():
    truth = [persons(FOUR).replace(labels=[0, 1, 0, 1])]
    report = judge_crowd(truth, [found(FOUR, [0.9, 0.8, 0.7, 0.6])], ("walker", "rider"), resamples=0)
    assert report.counts["TP"] == 4
    assert report["AP"] < 0.9  # COCO's rule knows classes
    assert "walker, rider" in checks(report)["score.classes_together"].message


def test_boxes_beyond_the_picture_are_cut_and_it_is_said():
    truth, pred = [persons([[-30, 10, 30, 60]])] * 2, [found([[0, 10, 30, 60]], [0.9])] * 2
    report = judge_crowd(truth, pred, ids=["a", "b"], resamples=0)
    assert report.counts["TP"] == 2
    assert (checks(report)["score.cut"].count, checks(report)["score.cut"].evidence) == (2, ("a", "b"))


# -- slices ---------------------------------------------------------------------------------------------------------


def test_a_slice_of_pictures_is_what_these_pictures_alone_are_worth():
    few, crowded = scene(1, 8), many(30, 4)
    truth, pred = [*few[0], *crowded[0]], [*few[1], *[p.replace(boxes=p.boxes + 3) for p in crowded[1]]]
    report = judge_crowd(truth, pred, resamples=0)
    chosen = [i for i, t in enumerate(truth) if 1 <= (~t.ignore).sum() < 10]
    alone = judge_crowd([truth[i] for i in chosen], [pred[i] for i in chosen], resamples=0)
    mine = row(report, "persons", "1 to 9")
    assert [mine[n] for n in ("AP50", "MR-2", "JI")] == pytest.approx([alone[n] for n in ("AP50", "MR-2", "JI")])
    assert row(report, "persons", "20 to 39")["n"] == 120
    assert sum(r["n"] for r in report.crowds if r["by"] == "persons") == report.counts["persons"]


def test_slices_of_persons_leave_the_others_out():
    """The bare one is found last, after a false positive; of the heavy ones one of two."""
    truth = [persons(FOUR, occlusion=[0.05, 0.5, 0.6, 0.9])]
    pred = [found([FOUR[1], [220, 10, 240, 60], FOUR[0]], [0.9, 0.8, 0.7])]
    report = judge_crowd(truth, pred, resamples=0)
    bare, heavy = row(report, "occlusion", "bare, below .1"), row(report, "occlusion", "heavy, .35 to .8")
    assert (bare["n"], bare["recall"], bare["MR-2"]) == (1, 1, 1)
    assert bare["AP50"] == pytest.approx((0 + 1 / 2) / 2)
    assert (heavy["n"], heavy["recall"], heavy["MR-2"], heavy["AP50"]) == (2, 0.5, 0.5, 0)
    assert math.isnan(heavy["JI"])
    assert row(report, "occlusion", "from .8 on")["recall"] == 0
    assert row(report, "occlusion", "reasonable, below .35")["n"] == 1
    assert {s.where["occlusion"] for s in report.scores if "occlusion" in s.where} == {
        r["name"] for r in report.crowds if r["by"] == "occlusion"
    }


def test_no_occlusion_no_slices():
    report = judge_crowd([persons(FOUR)], [found(FOUR, [0.9] * 4)], resamples=0)
    assert {r["by"] for r in report.crowds} == {"persons", "overlap"}


def test_persons_by_their_overlap_with_another():
    truth = [persons([[0, 0, 20, 40], [5, 0, 25, 40], [100, 0, 120, 40], [0, 0, 20, 40]], [0, 0, 0, 1])]
    report = judge_crowd(truth, [found([[0, 0, 20, 40]], [0.9])], resamples=0)
    pair, alone = row(report, "overlap", ".5 to .7"), row(report, "overlap", "below .3")
    assert (pair["n"], pair["recall"], alone["n"], alone["recall"]) == (2, 0.5, 1, 0)  # the ignored one does not count


# -- intervals ------------------------------------------------------------------------------------------------------


def test_weights_of_0_and_1_are_a_choice_of_pictures():
    truth, pred = scene(3, 10)
    rng = np.random.default_rng(0)
    scenes = crowd._meet(*(crowd._people(crowd.Pool.of(s), [SIZE] * 10) for s in (truth, pred)), None)
    weights = (rng.random((10, 5)) < 0.6).astype(np.float64)
    every = np.ones(len(scenes.persons), bool)
    ap, miss = curve_scores(scenes.sweep, [every], weights)
    for column in range(5):
        chosen = np.flatnonzero(weights[:, column])
        alone = judge_crowd([truth[i] for i in chosen], [pred[i] for i in chosen], resamples=0)
        assert (ap[0, column], miss[0, column]) == pytest.approx((alone["AP50"], alone["MR-2"]))


def test_a_picture_that_counts_twice():
    """All drawn twice: the miss rates are the same, and AP nearly so, whose first point weighs twice."""
    picture, person = np.repeat([0, 1], 3), np.array([0, -1, 1, 2, -1, 3])
    sweep = Sweep(picture, np.linspace(0.9, 0.4, 6), person, np.array([0, 0, 1, 1]))
    double = curve_scores(sweep, [np.ones(4, bool)], np.array([[2.0], [2.0]]))
    single = curve_scores(sweep, [np.ones(4, bool)], np.array([[1.0], [1.0]]))
    assert double[1] == pytest.approx(single[1])
    assert double[0] == pytest.approx(single[0], abs=0.01)


def test_intervals_enclose_the_scores_and_shrink_with_the_pictures():
    widths = []
    for pictures in (12, 96):
        report = judge_crowd(*scene(5, pictures), resamples=100)
        own = {s.name: s for s in report.scores if not s.where}
        for name in ("AP50", "MR-2", "JI"):
            assert 0 <= own[name].low < own[name].value < own[name].high <= 1, name
        widths.append([own[n].high - own[n].low for n in ("AP50", "MR-2", "JI")])
        again = judge_crowd(*scene(5, pictures), resamples=100)
        assert [s.low for s in again.scores] == pytest.approx([s.low for s in report.scores], nan_ok=True)
    assert all(wide > 1.5 * narrow for wide, narrow in zip(*widths, strict=True))


def test_persons_of_one_picture_have_no_interval():
    report = judge_crowd([persons(FOUR), persons([])], [found(FOUR[:2], [0.9, 0.8])] * 2, resamples=50)
    assert all(math.isnan(s.low) for s in report.scores)


def test_spread_over_seeds():
    assert spread([0.5, 0.6, 0.7]) == pytest.approx((0.6, 0.1))
    mean, deviation = spread([0.5])
    assert mean == 0.5
    assert math.isnan(deviation)
    assert math.isnan(spread([])[0])
