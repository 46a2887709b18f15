"""Training for crowds: judged as CrowdHuman does, chosen by a score of which less is better."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tercel import api
from tercel.config import AnchorHead, KeypointHead, Recipe, Views
from tercel.core.finding import TercelError, direction, headline
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.engine import checkpoint, fit
from tercel.engine.tasks import CrowdTask, task_of

SIZE = (100, 200)
BOXES = [[10, 10, 30, 60], [60, 10, 80, 60]]


def crowd(recipe: Recipe, **evaluate: object) -> Recipe:
    return replace(recipe, task="crowd", evaluate=replace(recipe.evaluate, **evaluate))


def test_judgement_of_a_run(recipe: Recipe) -> None:
    truth = Objects(SIZE, [0, 0], BOXES, occlusion=[0.0, 0.5])
    found = {str(i): Objects(SIZE, [0], BOXES[:1], scores=[0.9]) for i in range(3)}
    records = tuple(Record(str(i), (Frame(Path("x.png")),), SIZE, truth) for i in range(3))
    task = task_of(crowd(recipe, max_detections=40))
    assert isinstance(task, CrowdTask)
    e = task.judge(Dataset(Schema(("person",)), records), found, resamples=10)
    assert e.overall("MR-2") == pytest.approx(0.5)
    assert e.overall("JI") == pytest.approx(0.5, abs=1e-6)
    assert e.overall("AP") == pytest.approx(51 / 101)  # COCO's
    assert e.report.to_json()["rule"]["max_detections"] == [40]
    assert list(headline(e.scores)) == ["AP", "AP50", "AP75", "MR-2", "JI"]


def test_what_fits_no_crowd_is_refused(recipe: Recipe) -> None:
    for head in (AnchorHead(), recipe.model.head):
        task_of(replace(crowd(recipe), model=replace(recipe.model, head=head)))
    with pytest.raises(TercelError, match="a head of its own"):
        task_of(replace(crowd(recipe), model=replace(recipe.model, head=KeypointHead())))
    with pytest.raises(TercelError, match="axis-aligned"):
        task_of(crowd(recipe, views=Views(orient=10)))
    for name in ("MR-2", "JI"):
        task_of(crowd(recipe, select=name))
        with pytest.raises(TercelError, match="score of crowd"):
            task_of(replace(recipe, evaluate=replace(recipe.evaluate, select=name)))


def best_and_log(recipe: Recipe, shapes: Path, out: Path) -> tuple[int, list[float]]:
    """The epoch that was chosen, and MR-2 of each evaluation."""
    run = api.train(crowd(recipe, select="MR-2"), f"yolo:{shapes}#train", f"yolo:{shapes}#val", out=out, name="r")
    log = [e for e in run.read_log() if e["kind"] == "eval"]
    values = [next(s["value"] for s in e["scores"] if s["name"] == "MR-2" and not s["where"]) for e in log]
    header = checkpoint.read(run.path / "checkpoints/best.safetensors")[1]
    return header["position"]["best_epoch"], values


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """MR-2 as if it went .9, .3, .6 over the epochs."""
    values = iter([0.9, 0.3, 0.6, *[0.5] * 5])
    judge = CrowdTask.judge

    def told(self: CrowdTask, *args: object, **options: object) -> object:
        e = judge(self, *args, **options)  # type: ignore[arg-type]
        value = next(values)
        scores = [replace(s, value=value) if s.name == "MR-2" and not s.where else s for s in e.report.scores]
        return replace(e, report=replace(e.report, scores=scores))  # type: ignore[type-var]

    monkeypatch.setattr(CrowdTask, "judge", told)


def test_the_lowest_miss_rate_is_the_best(recipe: Recipe, shapes: Path, tmp_path: Path, falling: None) -> None:
    recipe = replace(recipe, train=replace(recipe.train, epochs=3))
    best, values = best_and_log(recipe, shapes, tmp_path)
    assert values == [0.9, 0.3, 0.6]
    assert best == 1 + int(np.argmin(values))
    run = tmp_path / "r"
    assert json.loads((run / "preds.jsonl").read_text().splitlines()[0])["task"] == "crowd"
    report = json.loads((run / "metrics.json").read_text())["report"]
    assert report["rule"]["protocol"] == "crowd"
    assert report["rule"]["max_detections"] == [recipe.evaluate.max_detections]
    page = (run / "report.html").read_text()
    assert '<section id="crowd">' in page
    assert "lowest, which is best" in page
    assert "| MR-2 |" in (run / "card.md").read_text()


def test_a_highest_miss_rate_would_be_noticed(
    recipe: Recipe, shapes: Path, tmp_path: Path, falling: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "direction", lambda name: 1)
    best, values = best_and_log(replace(recipe, train=replace(recipe.train, epochs=3)), shapes, tmp_path)
    assert best != 1 + int(np.argmin(values))


def test_which_way_is_better() -> None:
    assert [direction(n) for n in ("AP", "JI", "MR-2", "swap_rate")] == [1, 1, -1, -1]
