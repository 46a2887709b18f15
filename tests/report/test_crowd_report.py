"""The page and the card of a crowd's run: its scores, the curves behind them, the slices."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tercel.core.record import Dataset
from tercel.report.card import write_card
from tercel.report.crowd import jaccard_plot, miss_plot
from tercel.report.html import write_report
from tercel.report.plots import score_plots
from tercel.report.reading import read_run

Run = tuple[Path, Dataset]
Builder = Callable[..., Run]


@pytest.fixture(scope="module")
def run(fake_run: Builder, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fake_run(tmp_path_factory.mktemp("crowd"), pictures=24, epochs=10, crowd=True)


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return write_report(*run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def report(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run[0] / "metrics.json").read_text())["report"]
    return found


def cells(page: str) -> str:
    """The page's text, blanks collapsed."""
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script|svg).*?</\1>", " ", page, flags=re.S)).split())


def test_the_headline_is_the_crowds(run: Run, page: str) -> None:
    names = re.findall(r'<div class="name">([^<]+)</div>', page)
    assert names == ["AP50", "MR-2", "JI", "AP", "AR"]
    assert [s.name for s in read_run(run[0], pictures=False).headline] == names
    assert "log-average miss rate; 0 is best" in page


def test_sections_and_galleries(page: str) -> None:
    ids = re.findall(r'<section id="(\w+)"', page)
    assert ids[:4] == ["findings", "changed", "crowd", "scores"]
    assert "mistakes" in ids
    titles = ["Miss rate and false positives", "Jaccard index by score threshold", "MR-2 on validation data"]
    assert all(f"<b>{t}</b>" in page for t in titles)
    assert "COCO AP50" in page
    assert "nan" not in cells(page).lower().split()


def test_each_slice_has_its_row(page: str, report: dict[str, Any]) -> None:
    text = cells(page)
    assert {r["by"] for r in report["crowds"]} == {"persons", "overlap", "occlusion"}
    for r in report["crowds"]:
        head = f"{r['name']} {r['pictures']} {r['n']} {r['recall']:.3f} {r['AP50']:.3f}"
        assert head in text
        if r["MR-2_low"] is not None:
            assert f"{r['MR-2']:.3f} {r['MR-2_low']:.3f} – {r['MR-2_high']:.3f}" in text
    assert f"{report['counts']['persons']} persons and" in text
    assert "0 of them beyond the cap of 300 per picture" in text


def test_the_card(run: Run, report: dict[str, Any]) -> None:
    text = write_card(run[0]).read_text()
    score = next(s for s in report["scores"] if s["name"] == "MR-2" and not s["where"])
    assert f"| MR-2 | {score['value']:.3f} | {score['low']:.3f} – {score['high']:.3f} | {score['n']} |" in text
    assert "Of MR-2 lower is better" in text
    assert "| class | COCO AP |" in text


def test_a_run_that_found_nothing(fake_run: Builder, tmp_path: Path) -> None:
    made = fake_run(tmp_path, pictures=3, epochs=5, crowd=True, detections=False)
    text = cells(write_report(*made).read_text())
    assert "MR-2 log-average miss rate; 0 is best 1.000" in text
    assert "Miss rate and false positives" not in text  # there is no curve


def test_plots_of_perfect_and_of_undefined_crowds() -> None:
    rows = [{"fppi": f, "miss_rate": 0.0, "score": 0.5, "reached": False} for f in (0.01, 0.1, 1.0)]
    perfect = {"fppi": [0.0, 0.0], "miss_rate": [0.5, 0.0], "score": [0.9, 0.5]}
    assert "0 lies on the lower edge" in miss_plot(perfect, rows, 0.0)[0].note
    assert miss_plot({"fppi": [1.0], "miss_rate": [None], "score": [0.9]}, rows, float("nan")) == []
    assert jaccard_plot([{"threshold": 0.0, "JI": None, "matched": 0, "detections": 1, "persons": 0}], None) == []


def test_the_ring_is_where_the_miss_rate_is_lowest() -> None:
    values = {"MR-2": (0.9, 0.3, 0.6), "JI": (0.2, 0.1, 0.5)}
    evals = [
        {"epoch": e + 1, "scores": [{"name": n, "value": v[e], "low": None, "high": None} for n, v in values.items()]}
        for e in range(3)
    ]
    notes = [p.note for p in score_plots(evals, ["MR-2", "JI"])]
    assert "lowest, which is best, epoch 2" in notes[0]
    assert "highest, epoch 3" in notes[1]
