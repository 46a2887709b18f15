"""`tercel score`: judge any prediction file against any labels. Needs no model, no picture and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercel.core.finding import Finding, Ledger, Score, TercelError
from tercel.data.predictions import read_predictions
from tercel.data.source import read
from tercel.metrics.ap import MAX_DETECTIONS, BoxReport, judge_boxes
from tercel.metrics.match import IOUS
from tercel.metrics.stats import Interpolation

TASKS = ("boxes",)


@dataclass(frozen=True, eq=False)
class ScoreResult:
    """Scores, the report behind them, and everything that was noticed while reading and judging."""

    scores: list[Score]
    report: BoxReport
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": [s.to_json() for s in self.scores],
            "findings": [f.to_json() for f in self.findings],
            "report": self.report.to_json(),
        }


def score(
    truth: str,
    pred: str | Path,
    task: str = "boxes",
    *,
    max_detections: Sequence[int] = MAX_DETECTIONS,
    resamples: int = 200,
    seed: int = 0,
    ious: Sequence[float] = IOUS,
    interpolation: Interpolation = "101",
) -> ScoreResult:
    """Judge the predictions in a file against a data source.

    Args:
        truth: `[format:]path[#split]`; its pictures need not be there.
        pred: a file or folder of predictions; a picture that it does not mention has none.
        task: what is judged; so far boxes.
        max_detections, resamples, seed, ious, interpolation: see `tercel.metrics.ap.judge_boxes`.

    Raises:
        TercelError: an unknown task, a source or file that cannot be read, predictions that do not fit the truth.
    """
    if task not in TASKS:
        raise TercelError(f"task {task!r} cannot be judged; there is: {', '.join(TASKS)}", f"use --task {TASKS[0]}")
    dataset = read(truth, pictures=False, as_written=True)
    ledger = Ledger()
    found = read_predictions(Path(pred), dataset, ledger=ledger)
    report = judge_boxes(
        [r.objects for r in dataset.records],
        [found[r.id] for r in dataset.records],
        dataset.schema.classes,
        max_detections=max_detections,
        resamples=resamples,
        seed=seed,
        ids=[r.id for r in dataset.records],
        ious=ious,
        interpolation=interpolation,
    )
    return ScoreResult(report.scores, report, (*dataset.findings, *ledger.findings(), *report.findings))
