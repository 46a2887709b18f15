"""`tercel score` on files of oriented boxes: which geometry is judged, what is refused, and what is printed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel.core.finding import TercelError
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.data.predictions import write_predictions
from tercel.data.source import read
from tercel.score import score

CLASSES = ("Car", "Bus")
CROSSED = 0.25 * math.pi  # two long boxes at + and - 45 degrees have the same hull


def hit_uav(folder: Path, boxes: dict[int, list[tuple[int, list[float]]]], difficult: bool = False) -> Path:
    """A json such as HIT-UAV's: image id -> (category, cx cy w h theta)."""
    rows = [
        {"id": i, "image_id": k, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0, "difficult": difficult}
        for i, (k, c, b) in enumerate((k, c, b) for k, objects in boxes.items() for c, b in objects)
    ]
    truth = {
        "images": [{"id": k, "filename": f"{k}.jpg", "width": 640, "height": 512} for k in boxes],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": rows,
    }
    file = folder / "truth.json"
    file.write_text(json.dumps(truth))
    return file


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, Path, Path]:
    """Truth of two oriented cars; oriented predictions, one right and one crossed; their hulls as a COCO list."""
    rows = {1: [(0, [100, 100, 80, 10, CROSSED])], 2: [(0, [200, 200, 80, 10, CROSSED])]}
    truth = f"hit_uav:{hit_uav(tmp_path, rows)}"
    obbs = [canonical_obb(np.array([[100 * k, 100 * k, 80, 10, t]])) for k, t in ((1, CROSSED), (2, -CROSSED))]
    found = [Objects((512, 640), [0], obb_hull(o), obbs=o, scores=[0.9]) for o in obbs]
    write_predictions(tmp_path / "preds.jsonl", CLASSES, [("1", found[0]), ("2", found[1])], task="oriented")
    hulls = []
    for i, o in enumerate(found):
        x1, y1, x2, y2 = o.boxes[0].tolist()
        hulls.append({"image_id": i + 1, "category_id": 0, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9})
    (tmp_path / "hulls.json").write_text(json.dumps(hulls))
    return truth, tmp_path / "preds.jsonl", tmp_path / "hulls.json"


def value(result: Any, name: str) -> float:
    return next(s.value for s in result.scores if s.name == name and not s.where)


def test_oriented_predictions_are_recognised(files):
    truth, pred, _ = files
    r = score(truth, pred, resamples=0)
    assert r.task == "oriented"
    # One of two truths found by the first of two tied detections: precision 1 up to recall .5, nothing beyond.
    assert value(r, "AP50") == pytest.approx(51 / 101)
    assert r.report.hulls["AP50"] == pytest.approx(1)
    assert value(score(truth, pred, "oriented", resamples=0), "AP50") == value(r, "AP50")
    said = json.loads(json.dumps(r.to_json(), allow_nan=False))
    assert said["report"]["hulls"]["rule"]["geometry"] == "boxes"


def test_hulls_are_judged_only_when_asked(files):
    truth, pred, hulls = files
    asked = score(truth, pred, "boxes", resamples=0)
    assert (asked.task, value(asked, "AP50")) == ("boxes", pytest.approx(1))
    assert "score.hulls" in {f.check for f in asked.findings}
    for task in ("", "oriented"):
        with pytest.raises(TercelError, match=r"hulls\.json holds axis-aligned boxes.*\n.*--task boxes"):
            score(truth, hulls, task)
    assert value(score(truth, hulls, "boxes", resamples=0), "AP50") == pytest.approx(1, abs=1e-3)


def test_axis_aligned_truth_and_oriented_predictions(files, tmp_path):
    _, pred, _ = files
    truth = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "width": 640, "height": 512} for k in (1, 2)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [60, 60, 80, 80], "area": 1, "iscrowd": 0}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(truth))
    with pytest.raises(TercelError, match=r"coco\.json holds axis-aligned boxes"):
        score(f"coco:{tmp_path / 'coco.json'}", pred)


def test_no_detection_at_all(files, tmp_path):
    truth, _, _ = files
    write_predictions(tmp_path / "none.jsonl", CLASSES, [("1", Objects.empty((512, 640)).replace(scores=[]))])
    r = score(truth, tmp_path / "none.jsonl", resamples=0)
    assert (r.task, value(r, "AP")) == ("oriented", 0)


def test_difficult_objects_cost_nothing_and_are_counted(files, tmp_path):
    _, pred, _ = files
    rows = {1: [(0, [100, 100, 80, 10, CROSSED])], 2: [(0, [200, 200, 80, 10, CROSSED])]}
    r = score(f"hit_uav:{hit_uav(tmp_path, rows, difficult=True)}", pred, resamples=0)
    row = r.report.table[0]
    assert math.isnan(value(r, "AP"))
    assert [row[k] for k in ("GT", "GT_ignored", "ignored", "FN")] == [0, 2, 1, 0]


def test_slices_by_folder(tmp_path):
    """YOLO-OBB or any other format: the first folder below the common one is the source."""
    from tercel.score import _folders

    truth = read(f"hit_uav:{hit_uav(tmp_path, {1: [], 2: [], 3: []})}", pictures=False)
    places = ["/d/vsai/train/a.txt:3", "/d/vsai/val/b.txt", "/d/uav-rod/c.txt:1"]
    records = [replace(r, source=s) for r, s in zip(truth.records, places, strict=True)]
    assert _folders(records) == ["vsai", "vsai", "uav-rod"]
    assert _folders(records[:2]) == ["train", "val"]
    assert _folders(truth.records) == ["", "", ""]
    assert _folders([]) == []


def test_what_the_command_prints(tercel, files):
    truth, pred, _ = files
    said = tercel("score", "--truth", truth, "--pred", pred, "--resamples", "0")
    assert said.code == 0
    lines = said.out.splitlines()
    places = [lines.index(f"{what} at IoU, {which} boxes, 101-point, COCO matching")
              for which in ("oriented", "axis-aligned") for what in ("AP", "TP/FP")]  # fmt: skip
    assert places == sorted(places)
    oriented, hulls = (" ".join(lines[i + 2].split()) for i in (places[0], places[2]))
    assert oriented.startswith("all 0.505 0.505")
    assert hulls.startswith("all 1.000 1.000")
    assert " ".join(lines[places[1] + 3].split()).startswith("Car 2 1/1 1/1")
    assert " ".join(lines[places[0] + 4].split()) == "Bus" + " –" * (len(lines[places[0] + 1].split()) - 1)
    voc = tercel("score", "--truth", truth, "--pred", pred, "--resamples", "0", "--task", "boxes", "--ious", "0.5,0.75",
                 "--interpolation", "every", "--matching", "voc")  # fmt: skip
    assert "AP at IoU, axis-aligned boxes, every-point, VOC matching" in voc.out
    assert "oriented boxes," not in voc.out


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [("--ious", "half", "--ious 'half'"), ("--ious", "0.9,0.5", "rise"), ("--interpolation", "5", "101, every, 11"),
     ("--matching", "dota", "coco nor voc"), ("--max-detections", "1.5", "--max-detections")],
)  # fmt: skip
def test_misuse_on_the_command_line(tercel, files, option, text, says):
    said = tercel("score", "--truth", files[0], "--pred", files[1], option, text)
    assert said.code == 2
    assert says in said.err


def test_many_classes_and_a_narrow_terminal():
    """Beyond 20 classes only the mean; thresholds give way before a name does; no undefined number shows as 0."""
    import io

    from rich.console import Console

    from tercel.metrics.ap import judge_boxes
    from tercel.report.tables import print_report

    classes = [f"class {i}" for i in range(25)]
    obbs = np.array([[100, 100, 80, 10, 0.3]], np.float32)
    truth = Objects((512, 640), [3], obb_hull(obbs), obbs=obbs)
    r = judge_boxes([truth] * 3, [truth.replace(scores=[0.5])] * 3, classes, geometry="oriented", resamples=0,
                    sources=["a", "a", "b"])  # fmt: skip
    text = {}
    for width in (60, 160):
        console = Console(file=io.StringIO(), width=width, color_system=None)
        print_report(console, r.scores, r.to_json())
        text[width] = console.file.getvalue().split("AP at IoU, oriented")[1].split("TP/FP")[0]
        slices = console.file.getvalue().split("by source")[1]
        assert [line.split()[0] for line in slices.splitlines() if line.strip()] == ["source", "a", "b"]
    assert "class 3" not in text[160]
    assert ".55" in text[160]
    assert ".55" not in text[60]
    assert ".75" in text[60]
    assert max(map(len, text[60].splitlines()[1:])) <= 60
