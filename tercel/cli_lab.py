"""The verbs of the lab: agree, compare, calibrate, suspects. They read files and need no model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from tercel.core.finding import TercelError, direction
from tercel.terminal import Json, console, exit_on_error, numbers, print_findings

Geometry = Annotated[str, typer.Option(help="boxes or oriented; default: oriented where all sides are.")]
Cap = Annotated[int, typer.Option("--max-detections", min=1, help="Detections per picture and class that count.")]
Resamples = Annotated[int, typer.Option(help="Bootstrap resamples for the intervals.")]


def agree(
    a: Annotated[str, typer.Argument(metavar="A", help="Labels: [format:]path[#split]")],
    b: Annotated[str, typer.Argument(metavar="B", help="Other labels of the same pictures.")],
    pred: Annotated[str, typer.Option(metavar="FILE", help="Predictions on A, to stand beside the ceiling.")] = "",
    geometry: Geometry = "",
    draws: Annotated[int, typer.Option(min=0, help="How often the truth is labelled again; 0 = no ceiling.")] = 20,
    cap: Cap = 100,
    resamples: Resamples = 200,
    json_: Json = False,
) -> None:
    """How far do two label sets agree?"""
    from tercel import lab

    result = lab.agree(a, b, pred=pred, geometry=geometry, max_detections=cap, draws=draws, resamples=resamples)
    _print(result, json_)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Run folder or prediction file.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same of what may be better.")],
    truth: Annotated[str, typer.Option(metavar="SOURCE", help="Default: the validation data of the runs.")] = "",
    geometry: Geometry = "",
    cap: Annotated[
        int | None,
        typer.Option(
            "--max-detections", min=1, help="Detections per picture and class that count; 100, of crowds all."
        ),
    ] = None,
    resamples: Resamples = 1000,
    json_: Json = False,
) -> None:
    """Is B better than A? Exit code 1 if AP is worse.

    Of crowds: AP50, MR-2 or JI.
    """
    from tercel import lab

    result = lab.compare(truth, a, b, geometry=geometry, max_detections=cap, resamples=resamples)
    _print(result, json_)
    changes = {s.name: s for s in result.scores if s.where.get("of") == "B - A" and "class" not in s.where}
    decisive = ("AP50", "MR-2", "JI") if "MR-2" in changes else ("AP",)
    if any((changes[n].high if direction(n) > 0 else -changes[n].low) < 0 for n in decisive):
        raise typer.Exit(1)


def calibrate(
    run: Annotated[Path | None, typer.Argument(help="Run folder; it gets calibration.json.")] = None,
    truth: Annotated[str, typer.Option(metavar="SOURCE", help="Without a run: validation labels.")] = "",
    pred: Annotated[str, typer.Option(metavar="FILE", help="Without a run: predictions on them.")] = "",
    test_truth: Annotated[str, typer.Option(metavar="SOURCE", help="Other labels to report on.")] = "",
    test_pred: Annotated[str, typer.Option(metavar="FILE", help="Predictions on those.")] = "",
    out: Annotated[Path | None, typer.Option(help="Without a run: write the calibration here.")] = None,
    method: Annotated[str, typer.Option(help="Scores: temperature, isotonic or none; default: the best.")] = "",
    factors: Annotated[str, typer.Option(help="Range of the factors.")] = "0.8,1.25",
    angle: Annotated[float, typer.Option(min=0, max=45, help="Largest turn in degrees.")] = 10.0,
    geometry: Geometry = "",
    cap: Cap = 100,
    resamples: Resamples = 200,
    json_: Json = False,
) -> None:
    """Fit side factors, angle, score map."""
    from tercel import lab

    if (run is None) == (not (truth and pred)):
        raise TercelError("there must be one thing to calibrate", "name a run, or give --truth SOURCE and --pred FILE")
    if run is not None and out is not None:
        raise TercelError("a run keeps its calibration in its folder", "leave out --out")
    if out is not None and out.exists():
        raise TercelError(f"{out} exists already", "choose another --out")
    bounds = numbers("--factors", factors, float, "0.8,1.25")
    if len(bounds) != 2:
        raise TercelError(f"--factors {factors!r} is no range", "for example 0.8,1.25")
    options: dict[str, Any] = {
        "test_truth": test_truth, "test_pred": test_pred, "method": method, "factors": bounds, "geometry": geometry,
        "angle": math.radians(angle), "max_detections": cap, "resamples": resamples,
    }  # fmt: skip
    result = lab.calibrate(run, **options) if run is not None else lab.calibrate_files(truth, pred, **options)
    if out is not None:
        lab.save_calibration(result, out)
    written = out if run is None else run / lab.RUN_FILE
    _print(result, json_, run=None if run is None else str(run), out=None if written is None else str(written))
    if written is not None and not json_:
        typer.echo(f"calibration: {written}")


def suspects(
    truth: Annotated[str, typer.Option(metavar="SOURCE", help="Labels in doubt: [format:]path[#split]")],
    pred: Annotated[str, typer.Option(metavar="FILE", help="What a detector found that has not learned from them.")],
    out: Annotated[Path | None, typer.Option(help="New folder for the pictures to look at again.")] = None,
    to: Annotated[str, typer.Option(help="Format of --out; default: that of the labels.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many pictures in --out; 0 = all.")] = 0,
    geometry: Geometry = "",
    json_: Json = False,
) -> None:
    """Rank labels that are probably wrong."""
    from tercel import lab
    from tercel.data import source

    result, queue = lab.label_errors(truth, pred, geometry=geometry, limit=limit or None)
    if out is not None:
        source.write(queue, out, to or source.format_name(truth))
    _print(result, json_, out=None if out is None else str(out), pictures=len(queue))
    if out is not None and not json_:
        typer.echo(f"{len(queue)} pictures to look at again: {out}")


VERBS = (agree, compare, calibrate, suspects)


def _print(result: Any, as_json: bool, run: str | None = None, **more: Any) -> None:
    """A result of tercel.lab: tables, or all of it as JSON."""
    if as_json:
        typer.echo(json.dumps({**result.to_json(), "run": run, **more}, allow_nan=False))
    else:
        from tercel.report.lab_tables import print_lab

        print_findings(result.findings)
        print_lab(console(), result)
    exit_on_error(result.findings)
