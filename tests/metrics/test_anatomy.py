"""All error analyses together say what each says alone, and what they share is shared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tercel.core.finding import TercelError
from tercel.core.geometry import obb_hull
from tercel.core.objects import Objects
from tercel.metrics.anatomy import dissect
from tercel.metrics.ap import judge_boxes
from tercel.metrics.errors import placement
from tercel.metrics.lrp import lrp
from tercel.metrics.occost import occost
from tercel.metrics.tide import tide

SIZE = (200, 300)
CLASSES = ("car", "bus")


def scenes(seed: int = 0, pictures: int = 12) -> tuple[list[Objects], list[Objects]]:
    """Oriented truths, and detections that are jittered, missing, duplicated and invented."""
    rng = np.random.default_rng(seed)
    truths, preds = [], []
    for _ in range(pictures):
        n = int(rng.integers(1, 9))
        b = np.column_stack([rng.uniform(20, 280, n), rng.uniform(20, 180, n), rng.uniform(25, 40, n),
                             rng.uniform(10, 18, n), rng.uniform(-1.5, 1.5, n)])  # fmt: skip
        labels = rng.integers(0, 2, n)
        truths.append(Objects(SIZE, labels, obb_hull(b), obbs=b, ignore=rng.random(n) < 0.1))
        d = np.concatenate([b, b[: n // 3]])
        d += rng.normal(0, 1, d.shape) * [2, 2, 3, 2, 0.1]
        d = d[rng.random(len(d)) < 0.85]
        found = np.concatenate([labels, labels[: n // 3]])[: len(d)]
        preds.append(Objects(SIZE, found, obb_hull(d), obbs=d, scores=rng.uniform(0.05, 1, len(d))))
    return truths, preds


@pytest.mark.parametrize("geometry", ["oriented", "boxes"])
def test_each_part_is_what_it_says_alone(geometry: str) -> None:
    truth, pred = scenes()
    a = dissect(truth, pred, CLASSES, geometry=geometry, resamples=20)
    options = {"geometry": geometry, "resamples": 20}
    assert a.tide.to_json() == tide(truth, pred, CLASSES, **options).to_json()  # type: ignore[arg-type]
    assert a.lrp.to_json() == lrp(truth, pred, CLASSES, **options).to_json()  # type: ignore[arg-type]
    at = {**options, "score": a.threshold}
    assert a.placement.to_json() == placement(truth, pred, CLASSES, **at).to_json()  # type: ignore[arg-type]
    assert a.occost.to_json() == occost(truth, pred, CLASSES, **at).to_json()  # type: ignore[arg-type]
    assert a.rule["geometry"] == geometry
    json.dumps(a.to_json(), allow_nan=False)


def test_the_matching_of_a_report_serves_as_well() -> None:
    truth, pred = scenes(1)
    report = judge_boxes(truth, pred, CLASSES, geometry="oriented", resamples=0)
    lent = dissect(truth, pred, CLASSES, matching=report.matching, resamples=0)
    own = dissect(truth, pred, CLASSES, resamples=0)
    assert lent.to_json() == own.to_json()
    f1 = next(s for s in report.scores if s.name == "F1")
    assert own.threshold == f1.where["threshold"]
    assert own.placement.rule["score"] == own.occost.rule["score"] == own.threshold


def test_another_overlap_is_used_by_all() -> None:
    truth, pred = scenes(2)
    a = dissect(truth, pred, CLASSES, ious=(0.7, 0.8), resamples=0)
    assert (a.tide.rule["positive"], a.lrp.rule["iou"], a.placement.rule["iou"], a.occost.rule["iou"]) == (0.7,) * 4
    assert a.placement.rule["ious"] == [0.7, 0.8]
    for wrong in ((), (1.0,), (0.0, 0.5), (0.6, 0.5)):
        with pytest.raises(TercelError, match="overlap thresholds"):
            dissect(truth, pred, CLASSES, ious=wrong)


def test_detections_beyond_the_cap_are_said_once() -> None:
    truth, pred = scenes(3)
    a = dissect(truth, pred, CLASSES, cap=1, resamples=0)
    assert len(a.tide.findings) == len(a.lrp.findings) == 1
    assert [f.count for f in a.findings] == [a.tide.matching.dropped]


def test_nothing_found_has_no_threshold() -> None:
    truth, _ = scenes(4)
    a = dissect(truth, [Objects.empty(SIZE)] * len(truth), CLASSES, resamples=0)
    assert a.threshold == 0
    assert a.lrp["oLRP"] == 1
    assert a.to_json()["placement"]["table"][0]["bias"] is None
