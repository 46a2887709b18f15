"""Our numbers beside those of pycocotools and of documented Pascal VOC results, on files in ../shared."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from tercel.core.finding import TercelError
from tercel.score import ScoreResult, score

SHARED = Path(os.environ.get("TERCEL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10")


def value(result: ScoreResult, name: str) -> float:
    return result.report[name]


def row(what: str, name: str, ours: float, theirs: float, tolerance: float) -> dict[str, Any]:
    difference = abs(ours - theirs)
    return {"set": what, "score": name, "ours": round(ours, 9), "reference": theirs,
            "difference": float(f"{difference:.1e}"), "ok": difference <= tolerance}  # fmt: skip


def oracle(rows: list[dict[str, Any]]) -> None:
    """Synthetic pair with pycocotools' exact numbers, overall and per class."""
    folder = SHARED / "oracles/coco_boxes"
    expected = json.loads((folder / "expected.json").read_text())
    categories = sorted(json.loads((folder / "gt.json").read_text())["categories"], key=lambda c: c["id"])
    for cap in (100, 500):
        r = score(f"coco:{folder / 'gt.json'}", folder / "dets.json", max_detections=(1, 10, cap), resamples=0)
        names = [*NAMES, f"AR{cap}", "AR_small", "AR_medium", "AR_large"]
        stats = expected[f"maxdets_{cap}"]["stats"]
        rows += [row(f"oracle, cap {cap}", n, value(r, n), x, 1e-6) for n, x in zip(names, stats, strict=True)]
        worst, wrong = 0.0, 0
        for line, category in zip(r.report.table, categories, strict=True):
            want = expected["per_category"][f"maxdets_{cap}"][str(category["id"])]
            pairs = [(line["AP"], want["AP"]), (line["AP50"], want["AP50"])]
            worst = max(worst, *(0.0 if math.isnan(a) and b == -1 else abs(a - b) for a, b in pairs))
            counts = expected["counts_iou50"][f"maxdets_{cap}"][str(category["id"])]
            keys = {"gt": "GT", "tp": "TP", "fp": "FP", "fn": "FN", "ignored_detections": "ignored"}
            wrong += sum(line[ours] != counts[theirs] for theirs, ours in keys.items())
        rows.append(row(f"oracle, cap {cap}", "per class AP, AP50: worst difference", worst, 0.0, 1e-6))
        rows.append(row(f"oracle, cap {cap}", "per class counts that differ", wrong, 0, 0))


def known(rows: list[dict[str, Any]]) -> None:
    """Public pairs; the references are known to four decimals."""
    folder = SHARED / "data/coco-eval-fixtures/tests/dataset"
    pair = folder / "cocoapi/instances_val2014_100.json", folder / "cocoapi/instances_val2014_fakebbox100_results.json"
    r = score(f"coco:{pair[0]}", pair[1], resamples=0)
    stats = (0.5046, 0.6970, 0.5730, 0.5856, 0.5194, 0.5014, 0.3868, 0.5937)
    rows += [row("val2014, 100 pictures", n, value(r, n), x, 5e-5) for n, x in zip(NAMES, stats, strict=True)]
    r = score(f"coco:{folder / 'gt_dataset.json'}", folder / "dt_dataset.json", resamples=0)
    rows.append(row("gt_dataset", "AP", value(r, "AP"), 0.6947, 5e-5))


def refused(folder: Path) -> str:
    """What is said about keypoint results given as boxes."""
    try:
        score(f"coco:{folder / 'example_crowdpose_val.json'}", folder / "example_crowdpose_preds.json", resamples=0)
    except TercelError as e:
        return e.message.rsplit("/", 1)[-1]
    return "accepted"


def run() -> dict[str, Any]:
    """Every reference number with ours and the difference."""
    rows: list[dict[str, Any]] = []
    oracle(rows)
    known(rows)
    failed = [r for r in rows if not r["ok"]]
    return {
        "title": "Parity with pycocotools, through tercel.score on files",
        "rows": rows,
        "notes": [
            f"{len(rows) - len(failed)} of {len(rows)} agree (to 1e-6; to 5e-5 where the reference has four decimals).",
            f"CrowdPose keypoint results judged as boxes: {refused(SHARED / 'data/coco-eval-fixtures/tests/dataset')}",
        ],
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
