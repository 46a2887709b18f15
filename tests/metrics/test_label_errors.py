"""Planted label errors are found, each as what it is, and clean labels raise no suspicion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.metrics.label_errors import Doubt, label_errors, relabel_queue

SIZE = (600, 600)
CLASSES = ("car", "bus")


def clean(seed: int = 0, pictures: int = 10) -> tuple[list[Objects], list[Objects]]:
    """Oriented objects on a grid; a detector that finds them all, a little off, with weak false alarms."""
    rng = np.random.default_rng(seed)
    truth, pred = [], []
    for _ in range(pictures):
        grid = np.stack(np.meshgrid(np.arange(5) * 110 + 60, np.arange(5) * 110 + 60), -1).reshape(-1, 2)[:20]
        obbs = np.c_[grid, rng.uniform(40, 60, 20), rng.uniform(18, 24, 20), rng.uniform(-1.5, 1.5, 20)]
        labels = rng.integers(0, 2, 20)
        moved = obbs + rng.normal(0, 0.3, obbs.shape) * (1, 1, 1, 1, 0.02)
        alarms = np.c_[rng.uniform(50, 550, (5, 2)), np.full(5, 50), np.full(5, 20), np.zeros(5)]
        every = canonical_obb(np.r_[moved, alarms])
        scores = np.r_[rng.uniform(0.85, 0.95, 20), rng.uniform(0.05, 0.2, 5)]
        truth.append(oriented(obbs, labels))
        pred.append(oriented(every, np.r_[labels, rng.integers(0, 2, 5)]).replace(scores=scores))
    return truth, pred


def oriented(obbs, labels, ignore=None) -> Objects:
    obbs = canonical_obb(np.asarray(obbs, float))
    return Objects(SIZE, labels, obb_hull(obbs), ignore, obbs=obbs)


def strong(pred: list[Objects], picture: int, row: int) -> list[Objects]:
    """The same with a detection that is certainly believed."""
    scores = pred[picture].scores.copy()
    scores[row] = 0.99
    return [*pred[:picture], pred[picture].replace(scores=scores), *pred[picture + 1 :]]


def changed(truth: list[Objects], picture: int, row: int, **columns) -> list[Objects]:
    """One row of one picture with other values."""
    o = truth[picture]
    obbs, labels = o.obbs.astype(float), o.labels.copy()
    if "obb" in columns:
        obbs[row] = columns["obb"]
    if "label" in columns:
        labels[row] = columns["label"]
    return [*truth[:picture], oriented(obbs, labels), *truth[picture + 1 :]]


@pytest.mark.parametrize("geometry", ["", "boxes"])
def test_clean_labels_raise_no_suspicion(geometry):
    assert label_errors(*clean(), CLASSES, geometry=geometry) == []


def test_a_missing_label():
    truth, pred = clean()
    truth[3] = truth[3][np.arange(20) != 4]
    found = label_errors(truth, strong(pred, 3, 4), CLASSES, ids=[f"p{i}" for i in range(10)])
    assert [(s.kind, s.picture, s.row, s.given) for s in found] == [(Doubt.MISSED, "p3", None, None)]
    assert found[0].proposed == pred[3].labels[4]
    assert found[0].likelihood == pytest.approx(0.99, abs=1e-3)
    np.testing.assert_allclose(found[0].obb, pred[3].obbs[4])


def test_a_swapped_class():
    truth, pred = clean()
    was = int(truth[2].labels[5])
    found = label_errors(changed(truth, 2, 5, label=1 - was), strong(pred, 2, 5), CLASSES)
    assert [(s.kind, s.index, s.row, s.given, s.proposed) for s in found] == [(Doubt.CLASS, 2, 5, 1 - was, was)]


def test_a_badly_placed_label():
    truth, pred = clean()
    obb = truth[1].obbs[7].astype(float)
    obb[:2] += 0.45 * obb[2] * np.array([np.cos(obb[4]), np.sin(obb[4])])
    found = label_errors(changed(truth, 1, 7, obb=obb), strong(pred, 1, 7), CLASSES)
    assert [(s.kind, s.index, s.row) for s in found] == [(Doubt.PLACED, 1, 7)]
    assert found[0].iou == pytest.approx(0.55 / 1.45, abs=0.06)


def test_a_loose_label():
    truth, pred = clean()
    obb = truth[6].obbs[0].astype(float)
    obb[2:4] *= 1.3
    found = label_errors(changed(truth, 6, 0, obb=obb), strong(pred, 6, 0), CLASSES)
    assert [(s.kind, s.index, s.row) for s in found] == [(Doubt.LOOSE, 6, 0)]
    assert found[0].iou == pytest.approx(1 / 1.69, abs=0.05)


def test_two_labels_on_one_object():
    truth, pred = clean()
    twice = truth[0][[8]]
    truth[0] = Objects.concat([truth[0], twice])
    found = label_errors(truth, pred, CLASSES)
    assert [(s.kind, s.index, s.row, s.other) for s in found] == [(Doubt.DUPLICATE, 0, 20, 8)]


def test_doubts_are_ranked():
    truth, pred = clean()
    truth[0] = Objects.concat([truth[0], truth[0][[8]]])
    obb = truth[6].obbs[0].astype(float)
    obb[2:4] *= 1.3
    truth = changed(truth, 6, 0, obb=obb)
    truth[3] = truth[3][np.arange(20) != 4]
    found = label_errors(truth, strong(strong(pred, 6, 0), 3, 4), CLASSES)
    assert [s.kind for s in found] == [Doubt.DUPLICATE, Doubt.MISSED, Doubt.LOOSE]
    assert [s.likelihood for s in found] == sorted((s.likelihood for s in found), reverse=True)


def test_ignored_regions_and_weak_detections_say_nothing():
    truth, pred = clean()
    o = truth[3]
    truth[3] = oriented(o.obbs, o.labels, np.arange(20) == 4)
    assert label_errors(truth, strong(pred, 3, 4), CLASSES) == []
    truth[3] = o[np.arange(20) != 4]
    weak = pred[3].scores.copy()
    weak[4] = 0.5  # less than the right detections of its class have on average
    assert label_errors(truth, [*pred[:3], pred[3].replace(scores=weak), *pred[4:]], CLASSES) == []


def test_two_detections_of_one_missing_object_are_one_suspect():
    truth, pred = clean()
    truth[3] = truth[3][np.arange(20) != 4]
    pred = strong(pred, 3, 4)
    pred[3] = Objects.concat([pred[3], pred[3][[4]].replace(scores=[0.97])])
    assert len(label_errors(truth, pred, CLASSES)) == 1


def test_nothing_at_all_is_no_suspicion():
    nothing = [Objects.empty(SIZE)] * 2
    assert label_errors(nothing, nothing, CLASSES) == []
    truth, _ = clean(pictures=2)
    assert label_errors(truth, nothing, CLASSES) == []


def test_the_queue_holds_the_worst_pictures_with_their_doubts():
    truth, pred = clean()
    truth[3] = truth[3][np.arange(20) != 4]
    truth[0] = Objects.concat([truth[0], truth[0][[8]]])
    suspects = label_errors(truth, strong(pred, 3, 4), CLASSES)
    records = [Record(f"p{i}", (Frame(Path(f"p{i}.jpg")),), SIZE, o) for i, o in enumerate(truth)]
    queue = relabel_queue(Dataset(Schema(CLASSES), tuple(records)), suspects)
    assert [r.id for r in queue.records] == ["p0", "p3"]
    missed = f"check_missed_{CLASSES[pred[3].labels[4]]}"
    twice = f"check_duplicate_{CLASSES[truth[0].labels[8]]}"
    assert set(queue.schema.classes) == {*CLASSES, missed, twice}
    last = queue.records[1].objects[[-1]]
    assert queue.schema.classes[int(last.labels[0])] == missed
    np.testing.assert_allclose(last.obbs[0], pred[3].obbs[4], atol=1e-5)
    assert len(queue.records[1].objects) == len(truth[3]) + 1
    assert len(relabel_queue(Dataset(Schema(CLASSES), tuple(records)), suspects, limit=1)) == 1
