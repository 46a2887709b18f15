"""`tercel score` on files: known numbers, bad input, and what it does not import."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import hotcoco
import pytest

from tercel.core.finding import TercelError
from tercel.score import score


def values(result):
    return {s.name: s.value for s in result.scores if "class" not in s.where}


@pytest.mark.parametrize("cap", [100, 500])
def test_oracle_files(shared, cap):
    folder = shared / "oracles/coco_boxes"
    want = json.loads((folder / "expected.json").read_text())[f"maxdets_{cap}"]["stats"]
    r = score(f"coco:{folder / 'gt.json'}", folder / "dets.json", max_detections=(1, 10, cap), resamples=0)
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", f"AR{cap}",
             "AR_small", "AR_medium", "AR_large"]  # fmt: skip
    assert [values(r)[n] for n in names] == pytest.approx(want, abs=1e-6)
    assert ("score.cap_detections" in {f.check for f in r.findings}) == (cap == 100)
    json.dumps(r.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("truth", "pred", "ap", "ap50"),
    [
        ("cocoapi/instances_val2014_100.json", "cocoapi/instances_val2014_fakebbox100_results.json", 0.5046, 0.6970),
        ("gt_dataset.json", "dt_dataset.json", 0.6947, None),
    ],
)
def test_coco_pairs(shared, truth, pred, ap, ap50):
    folder = shared / "data/coco-eval-fixtures/tests/dataset"
    r = values(score(f"coco:{folder / truth}", folder / pred, resamples=0))
    assert r["AP"] == pytest.approx(ap, abs=5e-5)
    assert ap50 is None or r["AP50"] == pytest.approx(ap50, abs=5e-5)


@pytest.fixture
def files(tmp_path):
    """One picture, two truths of two classes, one of them found."""
    truth = {
        "images": [{"id": 5, "width": 100, "height": 80, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 3, "bbox": [10, 10, 20, 30], "area": 600, "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 9, "bbox": [50, 10, 20, 30], "area": 600, "iscrowd": 0},
        ],
    }
    found = [{"image_id": 5, "category_id": 3, "bbox": [10, 10, 20, 30], "score": 0.9}]
    paths = tmp_path / "truth.json", tmp_path / "found.json"
    for path, content in zip(paths, (truth, found), strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_small_files(files):
    r = score(f"coco:{files[0]}", files[1])
    assert values(r)["AP"] == pytest.approx(0.5)
    per_class = {s.where["class"]: s.value for s in r.scores if s.name == "AP" and "class" in s.where}
    assert per_class == {"cat": pytest.approx(1), "dog": 0}
    assert math.isnan(values(r)["AP_large"])


def test_unknown_task(files):
    with pytest.raises(TercelError, match="boxes"):
        score(f"coco:{files[0]}", files[1], task="events")


def test_truth_or_predictions_that_are_not_there(files, tmp_path):
    with pytest.raises(TercelError, match="nowhere"):
        score(f"coco:{files[0]}", tmp_path / "nowhere.json")
    with pytest.raises(TercelError, match="nowhere"):
        score(f"coco:{tmp_path / 'nowhere.json'}", files[1])


def test_no_torch_and_no_drawing_is_loaded(files):
    """Judging files starts at once and works on machines without the GPU stack."""
    code = (
        "import sys; from tercel.score import score; score(sys.argv[1], sys.argv[2])\n"
        "heavy = {'torch', 'timm', 'torchvision', 'matplotlib', 'cv2', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, f"coco:{files[0]}", str(files[1])], check=True)


def test_string_image_ids_and_missing_areas(shared, tmp_path):
    """Files that pycocotools cannot read as they are: text ids on one side only, and no area field."""
    folder = shared / "data/coco-eval-fixtures/tests/dataset"
    r = score(f"coco:{folder / 'gt_ignore_test.json'}", folder / "dt_ignore_test.json", resamples=0)
    truth = json.loads((folder / "gt_ignore_test.json").read_text())
    for a in [*truth["images"], *truth["annotations"]]:
        a |= {k: int(a[k]) for k in ("id", "image_id") if k in a}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    gt = hotcoco.COCO(str(tmp_path / "truth.json"))
    ev = hotcoco.COCOeval(gt, gt.load_res(str(folder / "dt_ignore_test.json")), "bbox")
    ev.run()
    assert list(values(r).values())[:12] == pytest.approx(
        [x if x >= 0 else math.nan for x in ev.stats], abs=1e-6, nan_ok=True
    )
    with pytest.raises(TercelError, match="bbox"):
        score(f"coco:{folder / 'example_crowdpose_val.json'}", folder / "example_crowdpose_preds.json")
