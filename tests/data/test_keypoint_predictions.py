"""Predictions of points: preds.jsonl and COCO result lists, written, read, and every way they are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel.core.finding import Ledger, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data import source
from tercel.data.prediction_lists import write_results
from tercel.data.predictions import read_predictions, write_predictions

SIZE = (40, 60)
NAMES = ("nose", "ear", "tail")


def truth(names: tuple[str, ...] = NAMES) -> Dataset:
    records = (Record(i, (Frame(Path(f"/x/pic_{i}.jpg")),), SIZE, Objects.empty(SIZE)) for i in ("7", "8"))
    return Dataset(Schema(("cat", "dog"), names, category_ids=(3, 90)), tuple(records))


def found() -> Objects:
    return Objects(
        SIZE,
        [1, 0],
        [[0, 1, 30, 30], [2, 2, 9, 9]],
        points=[[[3, 4], [61, -2], [0, 9]], [[5, 5], [6, 7], [8, 3]]],
        visible=[[2, 1, 2], [2, 2, 1]],
        point_scores=[[0.75, 0.25, 1], [0.625, 0.875, 0.5]],
        scores=[0.5, 0.25],
    )


def save(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value) if not isinstance(value, str) else value)
    return path


def result(**keys: Any) -> dict[str, Any]:
    r = {"image_id": 7, "category_id": 90, "score": 0.5, "keypoints": [3, 4, 0.75, 61, -2, 0.25, 0, 9, 1]} | keys
    return {k: v for k, v in r.items() if v is not None}


def jsonl(path: Path, *lines: dict[str, Any], keypoints: Any = NAMES) -> Path:
    header = {"format": "tercel-predictions", "version": 1, "task": "keypoints", "classes": ["cat", "dog"]}
    header |= {} if keypoints is None else {"keypoints": keypoints}
    return save(path, "\n".join(json.dumps(x) for x in (header, *lines)) + "\n")


LINE = {"id": "7", "size": [40, 60], "labels": [1], "scores": [0.5], "points": [[[3, 4], [61, -2], [0, 9]]]}


@pytest.mark.parametrize("kind", ["preds.jsonl", "results.json"])
def test_what_is_written_is_read(kind: str, tmp_path: Path) -> None:
    items = [("7", found()), ("8", Objects.empty(SIZE, found()))]
    if kind == "preds.jsonl":
        write_predictions(tmp_path / kind, ("cat", "dog"), items, task="keypoints", keypoints=NAMES)
    else:
        write_results(tmp_path / kind, truth(), items)
    back = read_predictions(tmp_path / kind, truth())
    assert back["7"].same(found())
    assert back["8"].columns == found().columns
    assert back["8"].points.shape == (0, 3, 2)  # type: ignore[union-attr]
    with pytest.raises(TercelError, match="exists already"):
        write_results(tmp_path / kind, truth(), items)


def test_the_oracle_is_read_number_by_number(shared: Path) -> None:
    folder = shared / "oracles/coco_keypoints"
    gt = source.read(str(folder / "gt.json"), pictures=False, as_written=True)
    results = json.loads((folder / "dets.json").read_text())
    back = read_predictions(folder / "dets.json", gt)
    for r in gt.records:
        rows = [d for d in results if str(d["image_id"]) == r.id]
        o = back[r.id]
        assert len(o) == len(rows)
        for i, d in enumerate(rows):
            table = np.array(d["keypoints"], np.float32).reshape(-1, 3)
            np.testing.assert_array_equal(o.points[i], table[:, :2])  # type: ignore[index]
            np.testing.assert_array_equal(o.boxes[i], [*table[:, :2].min(0), *table[:, :2].max(0)])
            assert o.scores[i] == np.float32(d["score"])  # type: ignore[index]
            assert gt.schema.category_ids[o.labels[i]] == d["category_id"]


def test_points_without_a_box_have_their_hull(tmp_path: Path) -> None:
    """All K points count, whatever is said of their visibility: predictions have no absent ones."""
    for path in (save(tmp_path / "r.json", [result()]), jsonl(tmp_path / "p.jsonl", LINE)):
        o = read_predictions(path, truth())["7"]
        assert o.boxes.tolist() == [[0, -2, 61, 9]]
        assert o.labels.tolist() == [1]
    listed = read_predictions(tmp_path / "r.json", truth())["7"]
    assert listed.visible.tolist() == [[2, 1, 2]]  # type: ignore[union-attr]
    own = read_predictions(tmp_path / "p.jsonl", truth())["7"]
    assert own.point_scores is None
    assert own.visible.tolist() == [[2, 2, 2]]  # type: ignore[union-attr]
    boxed = save(tmp_path / "b.json", [result(bbox=[1, 2, 10, 20])])
    assert read_predictions(boxed, truth())["7"].boxes.tolist() == [[1, 2, 11, 22]]


def test_third_numbers_that_are_no_probabilities_are_not_read_as_such(tmp_path: Path) -> None:
    ledger = Ledger()
    path = save(tmp_path / "r.json", [result(keypoints=[1, 2, 2, 3, 4, 0, 5, 6, 12.5])])
    o = read_predictions(path, truth(), ledger=ledger)["7"]
    assert o.point_scores is None
    assert o.visible.tolist() == [[2, 2, 2]]  # type: ignore[union-attr]
    assert [f.check for f in ledger.findings()] == ["predictions.point_scores"]


def test_points_go_by_their_names(tmp_path: Path) -> None:
    ledger = Ledger()
    path = jsonl(tmp_path / "p.jsonl", LINE | {"point_scores": [[0.25, 0.5, 0.75]]}, keypoints=("tail", "nose", "ear"))
    o = read_predictions(path, truth(), ledger=ledger)["7"]
    assert o.points.tolist() == [[[61, -2], [0, 9], [3, 4]]]  # type: ignore[union-attr]
    assert o.point_scores.tolist() == [[0.5, 0.75, 0.25]]  # type: ignore[union-attr]
    assert o.visible.tolist() == [[1, 2, 1]]  # type: ignore[union-attr]
    assert not ledger.findings()
    o = read_predictions(path, truth(("a", "b", "c")), ledger=ledger)["7"]
    assert o.points.tolist() == LINE["points"]  # type: ignore[union-attr]
    assert [f.check for f in ledger.findings()] == ["predictions.point_names"]


BAD_LISTS = {
    "another K": (
        result(keypoints=[1, 2, 1] * 4),
        r"\[1\] \(image_id 7\): keypoints has 12 numbers, but 3 points are 9",
    ),
    "no points": (result(keypoints=None), r"\[1\]: has no 'keypoints'"),
    "empty": (result(keypoints=[]), r"\[1\]: keypoints is empty"),
    "text": (result(keypoints=[1, 2, 1] * 2 + [1, 2, "x"]), r"\[1\] .* no number"),
    "NaN": (result(keypoints=[1, 2, 1] * 2 + [1, float("nan"), 1]), r"\[1\] .*NaN or infinite"),
    "no score": (result(score=None), r"\[1\]: has no 'score'"),
    "a score above 1": (result(score=1.5), r"\[1\] .*outside 0\.\.1"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_bad_result_lists_are_refused(case: str, tmp_path: Path) -> None:
    bad, message = BAD_LISTS[case]
    with pytest.raises(TercelError, match=message):
        read_predictions(save(tmp_path / "r.json", [result(), bad]), truth())


BAD_LINES = {
    "another K": ({"points": [[[1, 2]] * 4]}, r"p\.jsonl:2: points has shape \[1,3,2\], not \[1, 4, 2\]"),
    "no pairs": ({"points": [[[1, 2, 3]] * 3]}, r"p\.jsonl:2: points has shape"),
    "point scores beyond 1": ({"point_scores": [[1, 2, 0]]}, r"p\.jsonl:2: point_scores are probabilities"),
    "visible of another shape": ({"visible": [[2, 2]]}, r"p\.jsonl:2: points .* need visible"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_lines_are_refused(case: str, tmp_path: Path) -> None:
    keys, message = BAD_LINES[case]
    with pytest.raises(TercelError, match=message):
        read_predictions(jsonl(tmp_path / "p.jsonl", LINE | keys), truth())


def test_a_header_of_another_skeleton_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", LINE, keypoints=("a", "b"))
    with pytest.raises(
        TercelError, match=r"p\.jsonl:1: the header lists 2 points, the truth has 3 \(nose, ear, tail\)"
    ):
        read_predictions(path, truth())


def test_lines_of_two_kinds_are_refused(tmp_path: Path) -> None:
    boxes = {"id": "8", "size": [40, 60], "labels": [1], "scores": [0.5], "boxes": [[1, 2, 3, 4]]}
    with pytest.raises(TercelError, match="'8' has boxes of another kind"):
        read_predictions(jsonl(tmp_path / "p.jsonl", LINE, boxes), truth())
    other = LINE | {"id": "8", "points": [[[1, 2]] * 2]}
    with pytest.raises(TercelError, match="'8' has 2 points per object, the others 3"):
        read_predictions(jsonl(tmp_path / "p.jsonl", LINE, other, keypoints=None), truth(()))


def test_detections_with_the_same_box_and_other_points_are_no_duplicates(tmp_path: Path) -> None:
    for second, count in ((found()[:1], 1), (found()[:1].replace(points=[[[3, 4], [61, -2], [0, 8]]]), 0)):
        ledger = Ledger()
        items = [("7", Objects.concat([found()[:1], second]))]
        write_predictions(tmp_path / "p.jsonl", ("cat", "dog"), items, keypoints=NAMES, replace=True)
        read_predictions(tmp_path / "p.jsonl", truth(), ledger=ledger)
        assert [f.count for f in ledger.findings() if f.check == "predictions.duplicate"] == [1] * count


def test_result_lists_need_the_data_set_and_scores(tmp_path: Path) -> None:
    with pytest.raises(TercelError, match="no picture '9'"):
        write_results(tmp_path / "r.json", truth(), [("9", found())])
    with pytest.raises(TercelError, match="no scores"):
        write_results(tmp_path / "r.json", truth(), [("7", dataclasses.replace(found(), scores=None))])
    assert not (tmp_path / "r.json").exists()
