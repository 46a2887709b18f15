"""What report.html shows of where a score is lost, and of a calibration.

Errors are worked out anew from preds.jsonl and the validation truth, at the overlap and cap of the run's own judgement;
the calibration is read from calibration.json where `tercel calibrate` has left one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tercel.core.files import read_json
from tercel.core.finding import Finding, Score, Severity, TercelError
from tercel.core.objects import Objects
from tercel.metrics.anatomy import Anatomy, dissect
from tercel.metrics.ap import MAX_DETECTIONS
from tercel.metrics.match import IOUS
from tercel.metrics.quality import quality_reliability
from tercel.report import error_plots
from tercel.report.error_tables import KINDS
from tercel.report.plots import Plot
from tercel.report.reading import View
from tercel.report.words import count, fixed, score_of

CALIBRATION = "calibration.json"  # as tercel.lab writes it into the run folder
_EDGES = {"front_px", "back_px", "left_px", "right_px", "top_px", "bottom_px"}
_SHOWN = ("centre_px", "along_px", "across_px", "x_px", "y_px", "length_px", "width_px", "height_px", "angle_deg",
          "front_px", "back_px", "left_px", "right_px", "top_px", "bottom_px", "heading_deg")  # fmt: skip


def content(view: View) -> tuple[dict[str, Any] | None, tuple[Finding, ...]]:
    """The section on errors as plain values and plots, or None where truth or detections are missing."""
    if view.judged is None or view.data is None:
        return None, ()
    truth, preds = [r.objects for r in view.data.records], view.judged[1]
    if not any((~o.ignore).any() for o in truth) or not any(len(p) for p in preds):
        return None, ()
    rule = view.report.get("rule") or {}
    options: dict[str, Any] = {
        "geometry": "oriented" if view.task == "oriented" else "boxes",
        "cap": int((rule.get("max_detections") or MAX_DETECTIONS)[-1]),
        "resamples": int(rule.get("resamples") or 0),
    }
    try:
        found = dissect(truth, preds, view.schema.classes, ious=tuple(rule.get("ious") or IOUS), **options)
    except TercelError as e:
        return None, (Finding("report.errors", Severity.WARNING, f"errors cannot be taken apart: {e.message}"),)
    errors = found.to_json()
    notes: list[Finding] = []  # the cap, which limits the scores too, is among the findings of the run
    plots = error_plots.price_plot(errors["tide"]) + error_plots.threshold_plot(errors["lrp"], view.schema.classes)
    spread = error_plots.repair_plot(errors["placement"])
    spread += error_plots.edge_plot(errors["placement"], _median_size(found))
    return {
        "rule": found.rule,
        "oriented": found.rule["geometry"] == "oriented",
        "kinds": KINDS,
        "by_class": errors["tide"]["by_class"] if len(view.schema.classes) > 1 else [],
        "lrp": _lrp(errors["lrp"]),
        "placement": _placement(errors["placement"]),
        "occost": {s.name: s for s in found.occost.scores},
        "occost_rule": found.occost.rule,
        "plots": {
            "prices": plots,
            "placement": spread,
            "histograms": error_plots.error_histograms(errors["placement"]),
            "scores": _reliability(view, truth, preds, options, notes) + _quality(view, truth, preds, options),
        },
    }, tuple(notes)


def thresholds(view: View) -> list[dict[str, Any]]:
    """AP, right and wrong detections at every overlap threshold, from metrics.json; of oriented boxes also of their
    hulls."""
    out = []
    for part in (view.report, view.report.get("hulls") or {}):
        given = part.get("thresholds") or ()
        ious = list(dict.fromkeys(r["iou"] for r in given))
        if len(ious) < 2:
            continue
        rows: dict[str | None, list[Mapping[str, Any]]] = {}
        for r in given:
            rows.setdefault(r["class"], []).append(r)
        out.append(
            {
                "title": "Axis-aligned hulls" if part is not view.report else "Oriented boxes",
                "ious": [f"{x:.2f}"[1:] if x < 1 else "1" for x in ious],
                "rows": [{"name": name, "cells": cells, "GT": cells[0]["GT"],
                          "mean": sum(score_of(c["AP"]) for c in cells) / len(cells)} for name, cells in rows.items()],
            }
        )  # fmt: skip
    return out


def _median_size(found: Anatomy) -> tuple[float, float]:
    pool = found.placement.truth
    if not len(pool):
        return float("nan"), float("nan")
    sides = pool.boxes[:, 2:] - pool.boxes[:, :2] if pool.obbs is None else pool.obbs[:, 2:4]
    length, width = np.median(sides, axis=0).tolist()
    return length, width


def _lrp(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per class, then their mean."""
    spread = {s["where"].get("class"): Score.from_json(s) for s in part["scores"]
              if s["name"] == "oLRP" and "size" not in s["where"]}  # fmt: skip
    rows = [r | {"low": spread[r["class"]].low, "high": spread[r["class"]].high} for r in part["table"]]
    if len(rows) > 1:
        mean = {s["name"]: s["value"] for s in part["scores"] if not s["where"]}
        rows.append({"class": None, **mean, "low": spread[None].low, "high": spread[None].high})
    return rows


def _placement(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per quantity over all classes, in the order of the page."""
    rows = {r["quantity"]: r for r in part["table"] if r["class"] is None and r["n"]}
    spread = {s["name"]: Score.from_json(s) for s in part["scores"]}
    out = []
    for name in (n for n in _SHOWN if n in rows):
        bias = spread[f"{name}_bias"]
        words = name.removesuffix("_px").removesuffix("_deg")
        unit = {"x": "x, px", "y": "y, px"}.get(words, "degrees" if name.endswith("deg") else "px")
        out.append(rows[name] | {"name": words, "unit": unit, "low": bias.low, "high": bias.high,
                                 "edge": name in _EDGES})  # fmt: skip
    return out


# -- scores as probabilities, and the calibration -----------------------------------------------------------------


def _reliability(
    view: View, truth: Sequence[Objects], preds: Sequence[Objects], options: Mapping[str, Any], notes: list[Finding]
) -> list[Plot]:
    """The reliability diagram: of the calibration where there is one, else of the scores as they are."""
    made = (_calibration(view, notes) or {}).get("score_map")
    if not made:
        from tercel.metrics.calibrate_scores import fit_scores

        some = {k: v for k, v in options.items() if k != "resamples"}
        made = fit_scores(truth, preds, method="none", resamples=0, **some).to_json()
    error = {s["where"]["scores"]: score_of(s["value"]) for s in made["scores"] if s["name"] == "ECE"}
    n = next((s["n"] for s in made["scores"]), 0)
    chosen = str(made["method"])
    note = f"n = {count(n)} detections with score ≥ {made['rule']['floor']:g}, right at IoU {made['rule']['iou']:g}; "
    note += f"expected calibration error {fixed(error.get('as given'))}"
    if chosen in error and chosen != "none":
        note += f", {fixed(error[chosen])} under the {chosen} map (cross-fitted)"
    return error_plots.reliability_plot(made["bins"], chosen, note + ". On the dashed line .8 means 8 of 10.")


def _quality(view: View, truth: Sequence[Objects], preds: Sequence[Objects], options: Mapping[str, Any]) -> list[Plot]:
    """The reliability of a quality branch, where the detections come with an expected IoU."""
    found = quality_reliability(truth, preds, view.schema.classes, **options)
    if found is None:
        return []
    bias, error, rank = found.scores
    note = f"n = {count(bias.n)} detections that lie on a truth (IoU ≥ {found.rule['found']:g}); expected less actual "
    note += f"IoU {fixed(bias.value)} on average ({fixed(bias.low)} to {fixed(bias.high)}), off by {fixed(error.value)}"
    note += (
        f"; rank correlation {fixed(rank.value)}. {count(found.rule['unmatched'])} detections on no truth are left out."
    )
    return error_plots.quality_plot(found.bins, note)


def calibration(view: View) -> tuple[dict[str, Any] | None, tuple[Finding, ...]]:
    """The section on the calibration, or None where the run has none."""
    notes: list[Finding] = []
    made = _calibration(view, notes)
    if not made or "boxes" not in made:
        return None, tuple(notes)
    boxes = made["boxes"]
    gain = next((Score.from_json(s) for s in boxes["scores"] if s["name"] == "AP"
                 and s["where"].get("boxes") == "gain"), None)  # fmt: skip
    tables = [("On the fitting data", boxes["table"])]
    if "test" in made:
        tables.append((f"On {made['test']['truth']}", made["test"]["table"]))
    factors = dict(made["factors"])
    if "angle" in factors:
        factors["angle"] = f"{np.degrees(score_of(factors['angle'])):+.2f}°".replace("-", "−")
    knots = factors.pop("knots", 0)
    if knots:
        factors["scores"] = f"a map of {knots} points"
        factors.pop("temperature", None)
    return {
        "source": made.get("truth"),
        "factors": factors,
        "gain": gain,
        "names": [n for n in boxes["table"][0] if n.startswith("AP")],
        "tables": [(title, [r for r in rows if r["class"] is None]) for title, rows in tables],
        "plots": error_plots.factor_plots(boxes["curves"], made["factors"]),
    }, tuple(notes)


def _calibration(view: View, notes: list[Finding]) -> dict[str, Any] | None:
    """What the fit found, out of calibration.json."""
    path = view.path / CALIBRATION
    if not path.exists():
        return None
    try:
        report = read_json(path).get("report")
    except (TercelError, AttributeError) as e:
        notes.append(Finding("report.calibration", Severity.WARNING, f"{CALIBRATION} cannot be read: {e}"))
        return None
    return report if isinstance(report, dict) else None
