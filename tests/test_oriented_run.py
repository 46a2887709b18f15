"""An oriented run from training to predictions: tiles, views and calibration reach `eval` and `predict`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel import api, lab, recipes
from tercel.core.calibration import Calibration
from tercel.core.files import write_json
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.data import source, vehicles

TINY = [
    "data.size=64x96", "data.workers=0", "train.batch=4", "train.epochs=1", "train.precision=fp32", "train.threads=1",
    "model.norm=group", "model.backbone.stem=8", "model.backbone.widths=8,8,8,8", "model.backbone.depths=0,0,0,0",
    "model.neck.width=8", "model.head.width=8", "model.head.heading=true", "model.head.quality=true",
    "evaluate.resamples=0", "augment.close_epochs=0", "evaluate.score_floor=0", "evaluate.max_detections=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vehicles.make_vehicles(
        tmp_path_factory.mktemp("vehicles") / "set", n=10, seed=2, size=(96, 128), splits={"train": 0.6, "val": 0.4}
    )


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = recipes.get("oriented", TINY)
    return api.train(recipe, f"dota:{data}#train", f"dota:{data}#val", out=tmp_path_factory.mktemp("runs")).path


def answers(folder: Path) -> list[Objects]:
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["task"] == "oriented"
    return [Objects.from_json(json.loads(line)) for line in lines[1:]]


def test_a_run_predicts_oriented_boxes_with_fronts_and_spreads(run: Path, data: Path, tmp_path: Path) -> None:
    api.predict(run, [str(data / "val/images")], out=tmp_path / "p", min_score=0)
    found = answers(tmp_path / "p")
    assert len(found) == 4
    assert all(o.obbs is not None and o.heading is not None and o.spread is not None for o in found)
    assert len(list((tmp_path / "p/drawn").iterdir())) == 4


def test_a_calibration_reaches_predict_and_eval(run: Path, data: Path, tmp_path: Path) -> None:
    """Widths times .9: exactly that, and said."""
    pictures = [str(data / "val/images")]
    api.predict(run, pictures, out=tmp_path / "plain", min_score=0, drawn=False)
    write_json(run / lab.RUN_FILE, Calibration(width=0.9).to_json())
    try:
        said = api.predict(run, pictures, out=tmp_path / "fitted", min_score=0, drawn=False)
        calibrated, _ = api.evaluate(run, calibrated=True)
    finally:
        (run / lab.RUN_FILE).unlink()
    plain, _ = api.evaluate(run)
    assert "predict.calibrated" in {f.check for f in said.findings}
    for a, b in zip(answers(tmp_path / "plain"), answers(tmp_path / "fitted"), strict=True):
        assert a.obbs is not None
        assert b.obbs is not None
        area = (a.obbs[:, 2] * a.obbs[:, 3]).sum() * 0.9
        assert (b.obbs[:, 2] * b.obbs[:, 3]).sum() == pytest.approx(area, rel=1e-4)
    for a, b in zip(plain.predictions, calibrated.predictions, strict=True):
        assert (b.obbs[:, 2] * b.obbs[:, 3]).sum() == pytest.approx((a.obbs[:, 2:4].prod(1)).sum() * 0.9, rel=1e-4)
    with pytest.raises(TercelError, match="calibration"):
        api.evaluate(run, calibrated=True)


def test_tiles_and_views_are_set_after_training(run: Path, data: Path, tmp_path: Path) -> None:
    plain, _ = api.evaluate(run)
    tiled, _ = api.evaluate(run, settings=["evaluate.tiles.size=48"])
    assert sum(map(len, tiled.predictions)) > sum(map(len, plain.predictions))  # each tile has its own cap of 20
    flipped, _ = api.evaluate(run, settings=["evaluate.views.flip=true"])
    assert any(len(a) != len(b) or not np.array_equal(a.scores, b.scores)
               for a, b in zip(plain.predictions, flipped.predictions, strict=True))  # fmt: skip


@pytest.mark.parametrize("setting", ["train.lr=1", "model.head.width=8", "data.size=32x32", "name=x"])
def test_what_training_decided_is_refused_afterwards(run: Path, setting: str) -> None:
    with pytest.raises(TercelError, match="training has decided that"):
        api.evaluate(run, settings=[setting])


def test_labels_without_angles_are_refused(data: Path, tmp_path: Path) -> None:
    source.convert(f"dota:{data}#val", tmp_path / "boxes", "yolo", split="train")
    source.convert(f"dota:{data}#val", tmp_path / "boxes", "yolo", split="val")
    text = f"yolo:{tmp_path / 'boxes'}"
    with pytest.raises(TercelError, match="hold no oriented boxes"):
        api.train(recipes.get("oriented", TINY), f"{text}#train", f"{text}#val", out=tmp_path, allow_leaks=True)


def test_an_upright_model_gives_oriented_boxes_from_many_turns(data: Path, tmp_path: Path) -> None:
    """The notes' way; the answers are oriented, and judged as such."""
    few = [s for s in TINY if not s.startswith("model.head.") or s.startswith("model.head.width")]
    recipe: Any = recipes.get("boxes", [*few, "train.batch=6"])
    done = api.train(recipe, f"dota:{data}#train", f"dota:{data}#val", out=tmp_path / "runs")
    judged, _ = api.evaluate(done.path, settings=["evaluate.views.orient=15", "evaluate.views.orient_seen=0.1"])
    assert judged.report.to_json()["rule"]["geometry"] == "oriented"
    api.predict(done.path, [str(data / "val/images")], out=tmp_path / "p", min_score=0, drawn=False,
                settings=["evaluate.views.orient=15", "evaluate.views.orient_seen=0.1"])  # fmt: skip
    assert all(o.obbs is not None for o in answers(tmp_path / "p") if len(o))
    assert replace(recipe, name="boxes").task == "boxes"
