"""The COCO rule: by hand, and against a plain loop written from the rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.objects import Objects
from tercel.metrics.match import SIZES, Mistake, Pool, match, match_all, mistakes

SIZE = (100, 200)


def boxes(rows, labels=None, scores=None, ignore=None):
    rows = np.asarray(rows, np.float32).reshape(-1, 4)
    return Objects(SIZE, np.zeros(len(rows), int) if labels is None else labels, rows, ignore, scores=scores)


def test_higher_score_chooses_first_and_the_other_takes_what_is_left():
    truth = boxes([[0, 0, 10, 10], [4, 0, 14, 10]])
    pred = boxes([[2, 0, 12, 10], [1, 0, 11, 10]], scores=[0.5, 0.9])
    m = match(truth, pred)
    # The second one overlaps truth 0 most and is first; the other has equal overlaps and gets what is left.
    assert m.pred_to_truth.tolist() == [1, 0]
    assert m.truth_to_pred.tolist() == [1, 0]
    np.testing.assert_allclose(m.iou, [80 / 120, 90 / 110], rtol=1e-6)


def test_a_taken_truth_makes_a_duplicate():
    truth = boxes([[0, 0, 10, 10]])
    pred = boxes([[0, 0, 10, 9], [0, 0, 10, 10]], scores=[0.9, 0.8])
    m = match(truth, pred)
    assert m.pred_to_truth.tolist() == [0, -1]
    assert m.false_positive.tolist() == [False, True]
    assert m.iou[1] == 1, "an unmatched detection shows its best overlap"
    assert mistakes(truth, pred, m) == [None, Mistake.DUPLICATE]


@pytest.mark.parametrize(("width", "found"), [(5, 0), (4.99, -1)])
def test_threshold_is_closed(width, found):
    m = match(boxes([[0, 0, 10, 10]]), boxes([[0, 0, width, 10]], scores=[0.5]), iou=0.5)
    assert m.pred_to_truth.tolist() == [found]


def test_equal_overlaps_go_to_the_later_truth():
    """pycocotools' rule, and it shows: the second detection would have matched the truth that is gone."""
    truth = boxes([[0, 0, 10, 10], [2, 0, 12, 10]])
    m = match(truth, boxes([[1, 0, 11, 10], [2, 0, 12, 10]], scores=[0.9, 0.8]), iou=0.7)
    assert m.pred_to_truth.tolist() == [1, -1]


def test_ignore_region_takes_any_number_and_costs_nothing():
    truth = boxes([[0, 0, 100, 100], [10, 10, 20, 20]], ignore=[True, False])
    pred = boxes([[10, 10, 20, 20], [40, 40, 50, 50], [60, 40, 70, 50]], scores=[0.9, 0.8, 0.7])
    m = match(truth, pred)
    assert m.pred_to_truth.tolist() == [1, 0, 0]  # the real truth first, though the region covers all of it too
    assert m.ignored.tolist() == [False, True, True]
    assert m.truth_to_pred.tolist() == [1, 0]
    assert not m.false_positive.any()
    assert mistakes(truth, pred, m) == [None, None, None]


def test_classes_do_not_meet():
    m = match(boxes([[0, 0, 10, 10]], [1]), boxes([[0, 0, 10, 10]], [0], [0.5]))
    assert m.pred_to_truth.tolist() == [-1]
    assert m.iou.tolist() == [0]


def test_mistakes_by_kind():
    truth = boxes([[0, 0, 10, 10], [50, 0, 60, 10]], [0, 1])
    pred = boxes(
        [[0, 0, 10, 4], [50, 0, 60, 10], [50, 0, 60, 4], [150, 50, 160, 60], [0, 0, 10, 10]],
        [0, 0, 0, 0, 0],
        [0.5, 0.6, 0.7, 0.8, 0.9],
    )
    kinds = mistakes(truth, pred, match(truth, pred))
    assert kinds == [Mistake.LOCALISATION, Mistake.CLASS, Mistake.BOTH, Mistake.BACKGROUND, None]


def test_empty_sides():
    nothing = Objects.empty(SIZE)
    m = match(nothing, boxes([[0, 0, 1, 1]], scores=[0.5]))
    assert m.pred_to_truth.tolist() == [-1]
    assert mistakes(nothing, boxes([[0, 0, 1, 1]], scores=[0.5]), m) == [Mistake.BACKGROUND]
    assert match(boxes([[0, 0, 1, 1]]), nothing).truth_to_pred.tolist() == [-1]
    assert mistakes(nothing, nothing, match(nothing, nothing)) == []


def test_thresholds_that_do_not_rise_or_do_not_fit():
    pool = Pool.of([Objects.empty(SIZE)])
    with pytest.raises(ValueError, match="rise"):
        match_all(pool, pool, ious=(0.7, 0.5))
    with pytest.raises(ValueError, match="more than 63"):
        match_all(pool, pool, ious=np.linspace(0.1, 0.9, 20).tolist())


# -- against a loop ----------------------------------------------------------------------------------------------


def by_hand(truth: Objects, pred: Objects, *, iou: float, low: float, high: float, cap: int):
    """The rule as pycocotools words it, for one picture: {row: "hit" | "spared" | "wrong"} within the cap."""
    out = {}
    area = lambda b: float((b[2] - b[0]) * (b[3] - b[1]))  # noqa: E731
    for c in set(pred.labels.tolist()):
        truths = [g for g in range(len(truth)) if truth.labels[g] == c]
        skip = {g: bool(truth.ignore[g]) or not low <= float(truth.areas[g]) <= high for g in truths}
        truths.sort(key=lambda g: skip[g])
        rows = sorted((d for d in range(len(pred)) if pred.labels[d] == c), key=lambda d: -pred.scores[d])[:cap]
        taken = set()
        for d in rows:
            best, chosen = min(iou, 1 - 1e-10), None
            p = pred.boxes[d].astype(float)
            for g in truths:
                if g in taken and not truth.ignore[g]:
                    continue
                if chosen is not None and not skip[chosen] and skip[g]:
                    break
                t = truth.boxes[g].astype(float)
                w, h = min(p[2], t[2]) - max(p[0], t[0]), min(p[3], t[3]) - max(p[1], t[1])
                inter = max(w, 0) * max(h, 0)
                union = area(p) if truth.ignore[g] else area(p) + area(t) - inter
                value = inter / union if union > 0 else 0.0
                if value < best:
                    continue
                best, chosen = value, g
            if chosen is None:
                out[d] = "wrong" if low <= area(p) <= high else "spared"
            else:
                taken.add(chosen)
                out[d] = "spared" if skip[chosen] else "hit"
    return out


@st.composite
def pictures(draw):
    """A few pictures with small integer boxes, so that ties, exact thresholds and crowded places are common."""
    out = []
    for _ in range(draw(st.integers(1, 3))):
        sides = []
        for scored in (False, True):
            n = draw(st.integers(0, 6))
            xy = draw(st.lists(st.tuples(*[st.integers(0, 5)] * 2), min_size=n, max_size=n))
            wh = draw(st.lists(st.tuples(*[st.integers(0, 6)] * 2), min_size=n, max_size=n))
            low = np.array(xy, np.float32).reshape(-1, 2)
            rows = np.concatenate([low, low + np.array(wh, np.float32).reshape(-1, 2)], axis=1)
            labels = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
            scores = draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=n, max_size=n)) if scored else None
            ignore = None if scored else draw(st.lists(st.booleans(), min_size=n, max_size=n))
            sides.append(boxes(rows, np.array(labels, int), scores, None if ignore is None else np.array(ignore, bool)))
        out.append(tuple(sides))
    return out


@given(pictures(), st.integers(1, 4))
def test_same_as_a_plain_loop(sample, cap):
    ious, sizes = (0.25, 0.5, 0.75, 1.0), {"all": (0.0, 1e10), "small": (0.0, 9.0), "large": (9.0, 1e10)}
    truth, pred = [t for t, _ in sample], [p for _, p in sample]
    m = match_all(Pool.of(truth), Pool.of(pred), ious=ious, sizes=sizes, cap=cap)
    kept = 0
    for a, (low, high) in enumerate(sizes.values()):
        hits, spared = m.unpack(m.hits, a), m.unpack(m.spared, a)
        for t, iou in enumerate(ious):
            kept = 0
            for i, (g, d) in enumerate(sample):
                expected = by_hand(g, d, iou=iou, low=low, high=high, cap=cap)
                kept += len(expected)
                for row, verdict in expected.items():
                    j = int(np.flatnonzero((m.pred.picture == i) & (m.pred.row == row))[0])
                    assert (hits[t, j], spared[t, j]) == (verdict == "hit", verdict == "spared"), (i, row, iou, low)
    assert len(m.pred) == kept
    assert m.dropped == sum(map(len, pred)) - kept


def test_blocks_of_pairs_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 60, (4, 30, 2))
    rows = np.concatenate([low, low + rng.uniform(5, 40, (4, 30, 2))], axis=2)
    truth = [boxes(r) for r in rows]
    pred = [boxes(r + rng.normal(0, 1, r.shape), scores=rng.random(30)) for r in rows]
    whole = match_all(Pool.of(truth), Pool.of(pred))
    monkeypatch.setattr("tercel.metrics.match.PAIRS_AT_ONCE", 100)
    parts = match_all(Pool.of(truth), Pool.of(pred))
    assert np.array_equal(whole.hits, parts.hits)
    assert whole.hits.any()
    assert list(whole.sizes) == list(SIZES)
