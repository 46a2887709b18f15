"""`tercel score --lab`: where the score of files is lost, printed and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel.core.finding import TercelError
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.data.predictions import write_predictions
from tercel.data.source import read
from tercel.data.vehicles import make_vehicles
from tercel.score import score


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Generated vehicles, and detections 12 % too wide of four fifths of them."""
    out = tmp_path_factory.mktemp("lab")
    source = f"dota:{make_vehicles(out / 'set', n=10, seed=3, splits={'val': 1.0})}#val"
    rng, rows = np.random.default_rng(0), []
    data = read(source, pictures=False)
    for r in data.records:
        o = r.objects[rng.random(len(r.objects)) < 0.8]
        assert o.obbs is not None
        b = o.obbs.astype(np.float64) * [1, 1, 1, 1.12, 1]
        b = canonical_obb(b)
        rows.append((r.id, Objects(r.size, o.labels, obb_hull(b), obbs=b, scores=rng.uniform(0.3, 1, len(b)))))
    write_predictions(out / "preds.jsonl", data.schema.classes, rows, task="oriented")
    return source, out / "preds.jsonl"


def test_the_lab_comes_with_the_score_only_when_asked(files: tuple[str, Path]) -> None:
    plain, full = (score(*files, resamples=10, lab=lab) for lab in (False, True))
    assert plain.errors is None
    assert "errors" not in plain.to_json()
    assert full.errors is not None
    assert plain.to_json() == {k: v for k, v in full.to_json().items() if k != "errors"}
    p = full.errors.placement
    assert p["width_percent_bias"] == pytest.approx(12, abs=0.1)
    assert p["length_percent_bias"] == pytest.approx(0, abs=0.1)
    assert p["AP_fixed_width"] > p["AP"] + 0.05
    assert full.errors.rule["geometry"] == "oriented"
    tide_misses = next(r for r in full.errors.tide.table if r["error"] == "Miss")
    assert tide_misses["count"] == sum(r["FN"] for r in full.report.table)


def test_hulls_and_other_rules(files: tuple[str, Path]) -> None:
    hulls = score(*files, "boxes", resamples=0, lab=True)
    assert hulls.errors is not None
    assert hulls.errors.rule["geometry"] == "boxes"
    assert "height_percent" in hulls.errors.placement.values
    voc = score(*files, matching="voc", ious=(0.5,), resamples=0, lab=True)
    coco = score(*files, ious=(0.5,), resamples=0, lab=True)
    assert voc.errors is not None
    assert coco.errors is not None
    assert voc.errors.tide.to_json() == coco.errors.tide.to_json()


def test_the_command(files: tuple[str, Path], tercel: Any) -> None:
    words = ["score", "--truth", files[0], "--pred", files[1], "--resamples", "10"]
    said = tercel(*words, "--lab")
    assert said.code == 0, said.err
    for part in ("errors of oriented boxes (TIDE)", "oLRP", "width_percent", "set to that of the truth", "OC_cost"):
        assert part in said.out
    assert "OC_cost" not in tercel(*words).out
    errors = json.loads(tercel(*words, "--lab", "--json").out)["errors"]
    assert set(errors) == {"rule", "tide", "lrp", "placement", "occost"}


def test_balls_have_no_lab(files: tuple[str, Path]) -> None:
    with pytest.raises(TercelError, match="the lab judges boxes"):
        score(files[0], files[1], "ball", lab=True)
