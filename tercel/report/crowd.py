"""What report.html shows of a crowd: MR-2 and JI with the curves behind them, and the slices.

Everything comes from metrics.json (`CrowdReport.to_json`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tercel.report.crowd_tables import SLICES, counts
from tercel.report.plots import ACCENT, BAD, INK, MUTED, Plot, _svg
from tercel.report.reading import View
from tercel.report.words import count, fixed, score_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEANING = {  # of headline scores
    "AP50": "CrowdHuman's, at IoU .50",
    "MR-2": "log-average miss rate; 0 is best",
    "JI": "Jaccard index at its best threshold",
    "AP": "COCO's mean over IoU .50 to .95",
    "AR": "COCO's recall, mean over IoU .50 to .95",
}
_HALF = (4.3, 3.1)  # inches
Rows = Sequence[Mapping[str, Any]]


def content(view: View) -> dict[str, Any] | None:
    """The section on the crowd as plain values and plots, or None where nothing was judged as one."""
    rule = view.report.get("rule") or {}
    if rule.get("protocol") != "crowd":
        return None
    slices = {by: [r for r in view.report.get("crowds") or () if r.get("by") == by] for by in SLICES}
    return {
        "counts": counts(view.report),
        "rule": rule,
        "miss_rates": view.report.get("miss_rates") or (),
        "jaccard": view.report.get("jaccard") or (),
        "slices": [
            {"title": SLICES[by], "rows": rows, "whole": by == "persons"} for by, rows in slices.items() if rows
        ],
        "plots": [
            *miss_plot(view.report.get("miss_curve") or {}, view.report.get("miss_rates") or (), _value(view, "MR-2")),
            *jaccard_plot(view.report.get("jaccard") or (), rule.get("JI_threshold")),
        ],
    }


def _value(view: View, name: str) -> float:
    score = view.overall(name)
    return math.nan if score is None else score.value


def miss_plot(curve: Mapping[str, Sequence[float | None]], points: Rows, average: float) -> list[Plot]:
    """The miss rate over false positives per picture, both axes logarithmic, with the nine points of MR-2."""
    x, y = (np.array([score_of(v) for v in curve.get(k) or ()]) for k in ("fppi", "miss_rate"))
    at, miss = (np.array([score_of(r[k]) for r in points]) for k in ("fppi", "miss_rate"))
    reached = np.array([bool(r["reached"]) for r in points])
    if not len(x) or not np.isfinite(y).any():
        return []
    # On a log axis 0 has no place: the lower end stands for it.
    low = min(0.05, *(v / 1.5 for v in (*y[y > 0], *miss[miss > 0])))

    def fill(ax: Axes) -> None:
        left = min(0.005, float(x[x > 0].min(initial=1.0)))
        right = max(1.6, float(x[-1]))
        ax.plot(np.maximum(x, left), np.maximum(y, low), color=ACCENT, drawstyle="steps-pre")
        ax.axhline(max(average, low), color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        ax.text(right / 1.06, max(average, low) * 1.03, f"MR-2 {fixed(average)}", color=INK, ha="right", va="bottom")
        for chosen, style in ((reached, "full"), (~reached, "none")):
            ax.plot(at[chosen], np.maximum(miss[chosen], low), "o", color=ACCENT, markersize=4.5, fillstyle=style)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(left, right)
        ax.set_ylim(low, 1.05)
        ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0) if t >= low]
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
        places = [t for t in (0.001, 0.01, 0.1, 1, 10, 100) if left <= t <= right]
        ax.set_xticks(places, [f"{t:g}" for t in places])
        ax.minorticks_off()
        ax.set_xlabel("false positives per picture")
        ax.set_ylabel("miss rate")

    note = "Dots: the nine points whose geometric mean is MR-2; lower is better."
    if not reached.all():
        note += " Hollow: the curve ends before, and its last miss rate is taken."
    if (miss == 0).any():
        note += " A miss rate of 0 lies on the lower edge, and makes MR-2 0."
    return [Plot("Miss rate and false positives", note, _svg(fill, _HALF))]


def jaccard_plot(rows: Rows, best: float | None) -> list[Plot]:
    """JI over the score threshold, and the shares of persons and of detections that found a partner."""
    x, y = (np.array([score_of(r[k]) for r in rows]) for k in ("threshold", "JI"))
    if best is None or not np.isfinite(y).any():
        return []
    matched, found, persons = (np.array([score_of(r[k]) for r in rows]) for k in ("matched", "detections", "persons"))
    top = int(np.argmin(np.abs(x - best)))

    def fill(ax: Axes) -> None:
        recall, precision = (np.divide(matched, n, out=np.full(len(x), np.nan), where=n > 0) for n in (persons, found))
        ax.plot(x, recall, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)), label="persons in pairs")
        ax.plot(x, precision, color=BAD, linewidth=0.9, linestyle=(0, (1, 1.5)), label="detections in pairs")
        ax.plot(x, y, color=ACCENT, marker="o", markersize=3, label="JI")
        ax.plot(x[top], y[top], "o", color=ACCENT, markersize=8, fillstyle="none")
        ax.annotate(f"{y[top]:.3f}", (x[top], y[top]), xytext=(0, -14), textcoords="offset points", ha="center")
        ax.set_xlim(-0.02, 0.92)
        ax.set_ylim(0, 1.03)
        ax.set_xlabel("detections with a score above")
        ax.legend(loc="lower left", frameon=False, fontsize=7.5, handlelength=1.8)

    note = f"n = {count(persons.max())} persons. Ring: the threshold that JI is reported at, {best:g}. "
    note += "Above it persons without a partner cost, below it detections without one."
    return [Plot("Jaccard index by score threshold", note, _svg(fill, _HALF))]
