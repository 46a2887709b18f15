"""report.html of a run of oriented boxes: the numbers of the analyses, the galleries, and the calibration."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tercel import lab
from tercel.core.record import Dataset
from tercel.data.formats import FORMATS
from tercel.metrics.anatomy import dissect
from tercel.report.html import write_report
from tercel.report.reading import read_run

Run = tuple[Path, Dataset]
Builder = Callable[..., Run]


def text_of(page: Path) -> str:
    text = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.fixture(scope="module")
def oriented(fake_run: Builder, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fake_run(tmp_path_factory.mktemp("oriented"), pictures=12, epochs=5, oriented=True)


@pytest.fixture(scope="module")
def page(oriented: Run) -> tuple[str, str]:
    path = write_report(*oriented)
    return path.read_text(encoding="utf-8"), text_of(path)


def test_sections_and_galleries(page: tuple[str, str]) -> None:
    ids = re.findall(r'<section id="(\w+)"', page[0])
    assert ids == ["findings", "changed", "scores", "detections", "errors", "training", "learning", "mistakes", "data",
                   "conditions"]  # fmt: skip
    walls = ["Most confident false positives", "Missed objects", "Loose boxes", "Wrong angles",
             "Fronts at the wrong end"]  # fmt: skip
    assert [w for w in re.findall(r"<h3>([^<]+)</h3>", page[0]) if w in walls] == walls
    assert len(page[0]) < 5_000_000
    assert "undefined" not in page[1]
    assert "nan" not in page[1].lower().split()


def test_ap_stands_at_every_overlap_for_both_geometries(oriented: Run, page: tuple[str, str]) -> None:
    report = json.loads((oriented[0] / "metrics.json").read_text())["report"]
    assert "Oriented boxes" in page[1]
    assert "Axis-aligned hulls" in page[1]
    for part in (report, report["hulls"]):
        for r in part["thresholds"]:
            assert f"{r['AP']:.3f} {r['TP']} / {r['FP']}" in page[1]


def test_the_errors_are_those_of_the_analyses(oriented: Run, page: tuple[str, str]) -> None:
    run, data = oriented
    preds = read_run(run, data).judged
    assert preds is not None
    rule = json.loads((run / "metrics.json").read_text())["report"]["rule"]
    found = dissect([r.objects for r in data.records], preds[1], data.schema.classes, resamples=rule["resamples"])
    for r in found.tide.by_class:
        cells = " ".join(f"{r[f'dAP_{k}']:.3f} {r[k]}" for k in ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"))
        assert f"{r['class']} {cells}" in page[1]
    for r in found.lrp.table:
        assert f"{r['threshold']:.2f} {r['GT']} {r['TP']} {r['FP']} {r['FN']}" in page[1]
    cost = next(s for s in found.occost.scores if s.name == "OC_cost")
    assert f"all {cost.value:.3f} {cost.low:.3f} – {cost.high:.3f}" in page[1]
    angle = next(r for r in found.placement.table if r["quantity"] == "angle_deg" and r["class"] is None)
    assert re.search(rf"angle degrees {angle['n']} .{{0,40}}{angle['error']:.2f}", page[1])
    assert f"score ≥ {found.threshold:.2f} (best F1) that found their object" in page[1]


def test_a_calibration_in_the_run_is_shown(oriented: Run, page: tuple[str, str], tmp_path: Path) -> None:
    assert 'id="calibration"' not in page[0]
    run, data = oriented
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    FORMATS["dota"].write(data, tmp_path / "labels", split="val")
    made = lab.calibrate_files(f"dota:{tmp_path / 'labels'}#val", copy / "preds.jsonl", resamples=10)
    (copy / "calibration.json").write_text(json.dumps(lab.calibration_json(made)))
    text = text_of(write_report(copy, data))
    width = made.report["factors"]["width"]
    assert f"width {width:.3f}" in text
    for r in made.report["boxes"]["table"]:
        if r["class"] is None:
            assert f"{r['boxes']} {r['AP']:.3f} {r['AP50']:.3f}" in text
    assert "AP by factor" in text
    assert "AP by turn" in text
    (copy / "calibration.json").write_text("{")
    assert "calibration.json cannot be read" in text_of(write_report(copy, data))


def test_a_run_that_found_nothing(fake_run: Builder, tmp_path: Path) -> None:
    text = text_of(write_report(*fake_run(tmp_path, pictures=3, epochs=5, oriented=True, detections=False)))
    assert "No false positive to show." in text
    assert "nothing detected there" in text
    assert "What each kind of error costs" not in text


def test_labels_that_are_gone_leave_the_numbers(oriented: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(oriented[0], copy)
    info = json.loads((copy / "run.json").read_text())
    info["val"]["source"] = str(tmp_path / "gone")
    (copy / "run.json").write_text(json.dumps(info))
    text = text_of(write_report(copy))
    assert "the validation data cannot be read any more" in text
    assert "AP at every overlap" in text
    assert "Wrong angles" not in text
