"""report.html: everything there is to know about a run on one page that works offline, in print, by day and by night.

How a page is made is in page.py; the parts of a ball run in ball.py, errors and calibration in errors.py, galleries in
walls.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tercel.config import Recipe, flat, load
from tercel.core.files import read_json, write_atomic
from tercel.core.finding import Finding, Score, Severity, TercelError, direction
from tercel.core.record import Dataset
from tercel.metrics.keypoints import point_sigmas
from tercel.report import plots
from tercel.report.crowd import MEANING as CROWD_MEANING
from tercel.report.crowd import content as crowd_of
from tercel.report.errors import calibration
from tercel.report.errors import content as errors_of
from tercel.report.errors import thresholds as at_thresholds
from tercel.report.keypoints import MEANING as POINT_MEANING
from tercel.report.keypoints import PointWalls
from tercel.report.keypoints import content as points_of
from tercel.report.page import page, swatch
from tercel.report.pictures import samples
from tercel.report.reading import View, read_run, thresholds_of, to_finding
from tercel.report.walls import Walls
from tercel.report.words import count, duration, plain, score_of, when

SAMPLE_BYTES = 2_400_000  # of JPEG in "watch it learn": the page stays below 5 MB
BALL_SAMPLE_BYTES = 1_000_000  # the film strips need room as well
_HARDWARE = {"cpu": "CPU", "gpu": "GPU"}
_MEANING = {
    "AP": "mean over IoU .50 to .95",
    "AP50": "at IoU .50",
    "AP75": "at IoU .75",
    "AP_small": "objects below 32² px",
    "AP_medium": "objects of 32² to 96² px",
    "AP_large": "objects above 96² px",
}
_BALL_MEANING = {
    "precision": "hits / balls reported",
    "recall": "hits / (hits + missed)",
    "accuracy": "hits and empty / frames",
    "AP": "over all score thresholds",
}


def write_report(run: Path, data: Dataset | None = None) -> Path:
    """Write report.html into the run folder; unfinished, interrupted and failed runs get one as well.

    Args:
        data: the validation truth; by default it is read again from the source that the run names. What is missing
            now (labels, pictures) is said in the report.

    Raises:
        TercelError: not a run folder, or the file cannot be written.
    """
    view = read_run(run, data)
    path = run / "report.html"
    write_atomic(path, render(view))
    return path


def render(view: View) -> str:
    """The page as text."""
    return page("report.html", _content(view))


def _content(view: View) -> dict[str, Any]:
    """Everything the template shows, as plain values."""
    view.info["recipe"]  # a damaged run.json says so here, with its place
    ball = None
    if view.task == "ball":
        from tercel.report.ball import content

        ball = content(view)
    curves, places, walls, notes = _detections(view) if ball is None else ([], [], [], ball.pop("notes"))
    boxes = ball is None and view.task != "keypoints"  # errors of boxes are no errors of points
    errors, more = errors_of(view) if boxes else (None, ())
    calibrated, doubts = calibration(view) if boxes else (None, ())
    learning, sample_notes = samples(view, SAMPLE_BYTES if ball is None else BALL_SAMPLE_BYTES)
    findings = view.findings + [f for f in (*notes, *more, *doubts, *sample_notes) if f not in view.findings]
    rank = list(Severity)
    findings.sort(key=lambda f: rank.index(f.severity))
    return {
        "view": view,
        "ball": ball,
        "info": view.info,
        "recipe_name": (view.info.get("recipe") or {}).get("name") or "–",
        "title": f"{view.name} · Tercel",
        "state": _state(view),
        "tiles": [_tile(s, view) for s in view.headline],
        "points": points_of(view),
        "crowd": crowd_of(view),
        "named": {"keypoints": "OKS ", "crowd": "COCO "}.get(view.task, ""),
        "measure": measure_of(view),
        "operating": _operating(view) if ball is None else None,
        "basis": _basis(view),
        "loud": [f for f in findings if f.severity is not Severity.INFO],
        "quiet": [f for f in findings if f.severity is Severity.INFO],
        "changed": view.changed,
        "previous": _previous(view),
        "table": _table(view) if ball is None else [],
        "thresholds": at_thresholds(view) if ball is None else [],
        "sizes": [r for r in view.report.get("sizes") or () if isinstance(r, Mapping)],
        "scores": [s.to_json() | {"words": _where(s)} for s in view.scores if "rally" not in s.where],
        "rule": view.report.get("rule") or {},
        "plots": {
            "detections": curves,
            "places": places,
            "training": [
                *plots.score_plots(_overall(view), _logged(view)),
                *plots.loss_plots(view.steps),
                *plots.schedule_plots(view.steps),
            ],
        },
        "errors": errors,
        "calibration": calibrated,
        "samples": learning,
        "walls": walls,
        "data": _data(view),
        "conditions": _conditions(view),
        "recipe": _recipe(view),
    }


# -- headline -----------------------------------------------------------------------------------------------------


def _state(view: View) -> dict[str, str]:
    words = {
        "finished": "finished",
        "running": "still running: everything below is provisional",
        "interrupted": "interrupted before its end: everything below is provisional",
        "failed": "failed: what it left behind is below",
    }
    done, planned = view.epochs
    epochs = f"{done} of {planned} epochs" if planned and view.steps else ""
    return {"name": view.status, "words": words.get(view.status, view.status), "epochs": epochs}


def _tile(s: Score, view: View) -> dict[str, Any]:
    known = not math.isnan(s.low)
    return {
        "name": s.name,
        "meaning": _meaning(s.name, view),
        "value": s.value,
        "low": s.low,
        "high": s.high,
        "n": s.n,
        "last": view.last.get(s.name),
        "known": known,
        "left": f"{100 * s.low:.2f}" if known else "0",
        "width": f"{100 * (s.high - s.low):.2f}" if known else "0",
        "at": f"{100 * s.value:.2f}" if not math.isnan(s.value) else None,
    }


def _meaning(name: str, view: View) -> str:
    if view.task == "ball":
        return f"rule {view.rule}" if name == "F1" else _BALL_MEANING.get(name, "")
    words = CROWD_MEANING if view.task == "crowd" else POINT_MEANING | _MEANING
    return words.get(name, f"recall, {name[2:]} detections" if name[:2] == "AR" else "")


def measure_of(view: View) -> str:
    """How the overlap of a detection with the truth is called."""
    return "OKS" if view.task == "keypoints" else "IoU"


def _operating(view: View) -> dict[str, Any] | None:
    """Precision, recall and F1 of all classes together, where they were computed."""
    found = {s.name: s for s in view.scores if s.name in ("precision", "recall", "F1") and "class" not in s.where}
    if len(found) < 3 or math.isnan(found["F1"].value):
        return None
    return {"scores": list(found.values()), "where": found["F1"].where}


def _basis(view: View) -> str:
    """One sentence: which checkpoint, chosen how, judged on what."""
    val = view.info.get("val") or {}
    stats = val.get("statistics") or {}
    on = f"{count(stats['records'])} pictures with {count(stats['objects'])} objects" if "objects" in stats else ""
    if on and view.task == "ball":
        on = f"{count(stats['records'])} rallies, {count(stats.get('frames'))} frames, {count(stats['objects'])} of "
        on += "them with a ball"
    if not view.scores:
        return "There are no scores yet."
    if not view.metrics.get("scores"):
        last = view.evals[-1]
        on = f" on {on}" if on else ""
        which = f"the last evaluation during training (epoch {last.get('epoch')})"
        return f"Scores of {which}{on}; there is no final judgement."
    which = view.metrics.get("checkpoint", "last")
    judged = view.metrics.get("data") or val.get("source") or "validation data"
    how = str(view.info.get("selection") or "").strip().rstrip(".")
    chosen = f" How it was chosen: {how}." if how else ""
    return f"Scores of checkpoint “{which}”, judged on {judged}{': ' + on if on else ''}.{chosen}"


def _previous(view: View) -> dict[str, Any] | None:
    """The last run before this one in the same folder that was judged on the same data, and what differs."""
    started, fingerprint = str(view.info.get("started") or ""), (view.info.get("val") or {}).get("fingerprint")
    best: tuple[str, View] | None = None
    for file in view.path.resolve().parent.glob("*/run.json") if started and fingerprint else ():
        try:
            info = read_json(file)
            then = str(info.get("started") or "")
            same = (info.get("val") or {}).get("fingerprint") == fingerprint and info.get("status") == "finished"
            if same and then < started and (best is None or then > best[0]):
                best = then, read_run(file.parent, pictures=False)
        except (TercelError, AttributeError):
            continue
    if best is None:
        return None
    other = best[1]
    try:
        before, now = (flat(load(Recipe, v.info["recipe"])) for v in (other, view))
    except (TercelError, KeyError):
        return None
    keys = [k for k in dict.fromkeys([*before, *now]) if k != "name" and before.get(k) != now.get(k)]
    rows = [(k, before.get(k), now.get(k)) for k in keys]
    pairs = [(s, other.overall(s.name)) for s in view.headline]
    train = [(v.info.get("train") or {}).get("fingerprint") for v in (other, view)]
    return {
        "name": other.name,
        "rows": rows,
        "same_train": train[0] == train[1],
        "scores": [(s.name, o.value, s.value, s.value - o.value, direction(s.name)) for s, o in pairs if o is not None],
    }


# -- scores and detections ----------------------------------------------------------------------------------------


def _table(view: View) -> list[dict[str, Any]]:
    """One row per class, with the interval of its AP and a swatch."""
    main = "OKS_AP" if view.task == "keypoints" else "AP"
    spread = {s.where.get("class"): s for s in view.scores if s.name == main and set(s.where) == {"class"}}
    rows = []
    for r in view.report.get("table") or ():
        s, name = spread.get(r["class"]), str(r["class"])
        label = view.schema.classes.index(name) if name in view.schema.classes else -1
        low, high = (s.low, s.high) if s else (math.nan, math.nan)
        rows.append({**r, "low": low, "high": high, "swatch": swatch(label)})
    return rows


def _where(s: Score) -> str:
    return ", ".join(f"{k} {plain(v)}" for k, v in s.where.items()) or "over all"


def _overall(view: View) -> list[dict[str, Any]]:
    """Evaluations in the log with their overall scores only, which for the plots need no rule."""
    pairs = [(e, [s for s in e.get("scores") or () if view.is_overall(Score.from_json(s))]) for e in view.evals]
    return [{**e, "scores": [{**s, "where": {}} for s in scores]} for e, scores in pairs]


def _logged(view: View) -> list[str]:
    names = [s["name"] for s in _overall(view)[-1]["scores"]] if view.evals else []
    order: tuple[str, ...] = ("AP", "AP50", "AP75", "OKS_AP", "PCK@.05", "F1")
    order = {"ball": ("F1", "recall"), "crowd": ("MR-2", "JI")}.get(view.task, order)
    return [n for n in order if n in names][:2]


def _detections(
    view: View,
) -> tuple[list[plots.Plot], list[plots.Plot], list[dict[str, Any]], tuple[Finding, ...]]:
    """Plots about detections, maps of where mistakes lie, and the galleries."""
    rows = {r["class"]: r for r in view.report.get("table") or ()}
    curves = []
    for c in view.report.get("curves") or ():
        row, name = rows.get(c["class"], {}), c["class"]
        at = (score_of(row.get("recall")), score_of(row.get("precision")))
        marked = score_of(row.get("iou")) == c["iou"] and not math.isnan(sum(at))
        label = view.schema.classes.index(name) if name in view.schema.classes else -1
        x, y = (np.array([score_of(v) for v in c[k]], dtype=np.float64) for k in ("recall", "precision"))
        curves.append(plots.Curve("mean" if name is None else str(name), label, c["iou"], x, y, at if marked else None))
    total = sum(int(r.get("GT") or 0) for r in rows.values())
    out = plots.pr_plots(curves, f"n = {count(total)} objects", measure_of(view))
    if view.judged is None or view.data is None:
        return out, [], [], ()
    judged, preds = view.judged
    limits, chosen = thresholds_of(view)
    out += plots.score_histogram(judged, measure=measure_of(view))
    out += plots.size_histogram(judged, limits, measure_of(view))

    from tercel.data.video import read_frame

    if view.task == "keypoints":
        walls: Walls = PointWalls(view.data, preds, judged, limits, chosen, read_frame, point_sigmas(view.data.schema))
    else:
        walls = Walls(view.data, preds, judged, limits, chosen, read_frame)
    return out, walls.places(), walls.all(), walls.findings


# -- data and conditions ------------------------------------------------------------------------------------------


def _data(view: View) -> dict[str, Any]:
    sides: list[dict[str, Any]] = []
    for key, title in (("train", "Training"), ("val", "Validation")):
        side = view.info.get(key) or {}
        stats = side.get("statistics") or {}
        sides.append(
            {
                "title": title,
                "source": side.get("source") or "–",
                "fingerprint": side.get("fingerprint") or "–",
                "statistics": stats,
                "findings": [to_finding(f) for f in side.get("findings") or ()],
            }
        )
    names = list(view.schema.classes)
    for side in sides:
        names += [c for c in side["statistics"].get("per_class") or {} if c not in names]
    rows = [
        (c, swatch(i if i < len(view.schema.classes) else -1), *(_per_class(s, c) for s in sides))
        for i, c in enumerate(names)
    ]
    prints = [s["fingerprint"] for s in sides]
    return {"sides": sides, "classes": rows, "same": prints[0] == prints[1] != "–"}


def _per_class(side: Mapping[str, Any], name: str) -> Any:
    return (side["statistics"].get("per_class") or {}).get(name)


def _conditions(view: View) -> list[tuple[str, str]]:
    """(what, value) rows: machine, versions, git, time."""
    info = view.info
    git = info.get("git")
    state = (
        f"{git.get('commit', '?')}{' with uncommitted changes' if git.get('changed') else ''}" if git else "not in git"
    )
    seconds = score_of(info.get("seconds"))
    rows = [
        ("Command", str(info.get("command") or "–")),
        ("Started", when(info.get("started"))),
        ("Finished", when(info.get("finished"))),
        ("Training time", duration(seconds)),
        ("Parameters", count(info.get("parameters"))),
        ("Code", state),
        ("Tercel", str(info.get("tercel") or "–")),
    ]
    machine = info.get("machine")
    for k, v in (machine if isinstance(machine, Mapping) else {"machine": machine or "–"}).items():
        rows.append((_HARDWARE.get(str(k), str(k).replace("_", " ").capitalize()), plain(v)))
    rows.append(("Packages", ", ".join(f"{k} {v}" for k, v in (info.get("packages") or {}).items()) or "–"))
    return rows


def _recipe(view: View) -> list[tuple[str, str]]:
    try:
        return [(k, plain(v)) for k, v in flat(load(Recipe, view.info["recipe"])).items()]
    except (KeyError, TercelError):
        return [(str(k), plain(v)) for k, v in (view.info.get("recipe") or {}).items()]
