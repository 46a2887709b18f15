"""Plots of where a score is lost, and of a calibration. SVG as in plots.py; input are plain values (`to_json`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tercel.report.plots import ACCENT, BAD, GOOD, GRID, INK, MUTED, Curve, Plot, _line_color, _short, _spread, _svg
from tercel.report.words import count, fixed, score_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HALF = (4.3, 3.1)  # inches
_THIRD = (3.1, 2.05)
_WORDS = {
    "Cls": "wrong class", "Loc": "badly placed", "Both": "both of these", "Dupe": "duplicate", "Bkg": "nothing there",
    "Miss": "missed", "FalsePos": "all false positives", "FalseNeg": "all not found",
}  # fmt: skip
# quantity -> title, in the order of the page; which of them there are depends on the geometry
TITLES = {
    "centre_percent": "Centre, % of the size", "along_px": "Centre along, px", "across_px": "Centre across, px",
    "x_px": "Centre x, px", "y_px": "Centre y, px", "length_percent": "Length, %", "width_percent": "Width, %",
    "height_percent": "Height, %", "angle_deg": "Angle, degrees", "heading_deg": "Heading, degrees",
}  # fmt: skip
_REPAIRED = {"nothing": "as it is", "all": "all of them right"}
_CLASSES = 8  # lines in one plot


def price_plot(part: Mapping[str, Any]) -> list[Plot]:
    """What each of TIDE's errors costs, with its interval and how many there are."""
    rows, spread = part["table"], {s["name"]: s for s in part["scores"] if not s["where"]}
    ap = next(s for n, s in spread.items() if not n.startswith("dAP_"))
    gain = np.array([score_of(r["dAP"]) for r in rows])
    if not np.isfinite(gain).any():
        return []
    y = np.array([*range(6), *(6.6 + i for i in range(len(rows) - 6))])
    ends = np.array([[score_of(spread[f"dAP_{r['error']}"][k]) for k in ("low", "high")] for r in rows])

    def fill(ax: Axes) -> None:
        top = max(float(np.nanmax(np.r_[gain, ends[:, 1]])), 0.01)
        ax.barh(y, gain, height=0.66, color=[BAD] * 6 + [MUTED] * (len(rows) - 6), alpha=0.85)
        ax.hlines(y, ends[:, 0], ends[:, 1], color=INK, linewidth=0.9)
        for place, value, end, r in zip(y, gain, ends[:, 1], rows, strict=True):
            text = f"{value:.3f} · {count(r['count'])}×"
            ax.text(np.nanmax([value, end]) + 0.02 * top, place, text, va="center", fontsize=7.5, color=INK)
        ax.set_yticks(y, [_WORDS[r["error"]] for r in rows])
        ax.tick_params(axis="y", labelcolor=INK)
        ax.set_xlim(0, 1.38 * top)
        ax.set_ylim(y[-1] + 0.6, -0.6)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(f"gain in {ap['name']}")

    note = f"TIDE: what {ap['name']} = {fixed(ap['value'])} would gain if all errors of one kind were repaired, and "
    note += "how many there are. The gains do not add up: to repair one kind uncovers others. Lines: 95 %."
    return [Plot("What each kind of error costs", note, _svg(fill, _HALF, left=1.25))]


def threshold_plot(part: Mapping[str, Any], classes: Sequence[str]) -> list[Plot]:
    """LRP against the score threshold, one line per class, the best threshold as a dot."""
    best = {r["class"]: (score_of(r["threshold"]), score_of(r["oLRP"])) for r in part["table"] if r["size"] == "all"}
    lines = []
    for c in part["curves"]:
        x, y = np.array(c["score"], np.float64), np.array(c["LRP"], np.float64)
        if len(x):
            lines.append(Curve(c["class"], classes.index(c["class"]), 0, x, y, best.get(c["class"])))
    if not lines:
        return []
    shown = _spread(lines, _CLASSES)

    def fill(ax: Axes) -> None:
        for c in shown:
            ax.plot(c.recall, c.precision, color=_line_color(c.label), label=_short(c.name))
            if c.chosen is not None and not math.isnan(sum(c.chosen)):
                ax.plot(*c.chosen, "o", color=_line_color(c.label), markersize=5)
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.03)
        ax.set_xlabel("score threshold")
        ax.set_ylabel("LRP")
        ax.legend(loc="lower left", frameon=False, fontsize=7.5, handlelength=1.4)

    note = "One error out of misses, false positives and loose boxes; 0 is best. Dots: the best threshold of each "
    note += f"class. {len(shown)} of {len(lines)} classes are shown." if len(shown) < len(lines) else "class."
    return [Plot("LRP by score threshold", note, _svg(fill, _HALF))]


def repair_plot(part: Mapping[str, Any]) -> list[Plot]:
    """AP with one property of the found boxes after the other set right."""
    rows = part["fixed"]
    ap = np.array([score_of(r["AP"]) for r in rows])
    if not np.isfinite(ap).any():
        return []
    spread = {s["name"]: s for s in part["scores"]}
    names = ["AP", *(f"AP_fixed_{r['fixed']}" for r in rows[1:])]
    ends = np.array([[score_of(spread[n][k]) for k in ("low", "high")] for n in names])

    def fill(ax: Axes) -> None:
        y = np.arange(len(rows))
        ax.barh(y, ap, height=0.66, color=[MUTED, *[GOOD] * (len(rows) - 1)], alpha=0.85)
        ax.hlines(y, ends[:, 0], ends[:, 1], color=INK, linewidth=0.9)
        ax.axvline(ap[0], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        for place, value, end, r in zip(y, ap, ends[:, 1], rows, strict=True):
            text = fixed(value) if not place else f"{value:.3f} ({score_of(r['dAP']):+.3f})".replace("-", "−")
            ax.text(np.nanmax([value, end]) + 0.015, float(place), text, va="center", fontsize=7.5, color=INK)
        ax.set_yticks(y, [_REPAIRED.get(r["fixed"], f"{r['fixed']} right") for r in rows])
        ax.tick_params(axis="y", labelcolor=INK)
        ax.set_xlim(0, 1.28)
        ax.set_xticks(np.linspace(0, 1, 6))
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("AP, mean over the thresholds")

    note = "AP if one property of all boxes that found their object were that of the truth. Lines: 95 %."
    return [Plot("What placing boxes better would bring", note, _svg(fill, _HALF, left=1.25))]


def error_histograms(part: Mapping[str, Any]) -> list[Plot]:
    """Distributions of the errors of found boxes, each with its mean."""
    rows = {r["quantity"]: r for r in part["table"] if r["class"] is None}
    out = []
    for name, title in TITLES.items():
        bars = next((h for h in part["histograms"] if h["quantity"] == name), None)
        if bars is None or not sum(bars["counts"]):
            continue
        edges, counts, row = np.array(bars["edges"]), np.array(bars["counts"]), rows[name]
        if name.startswith("centre"):  # a distance
            edges, counts = edges[edges.size // 2 - 1 :].copy(), counts[counts.size // 2 :]
            edges[0] = 0

        def fill(ax: Axes, edges: NDArray = edges, counts: NDArray = counts, bias: float = row["bias"]) -> None:
            ax.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=ACCENT, alpha=0.75)
            if edges[0] < 0:
                ax.axvline(0, color=MUTED, linewidth=0.8)
            ax.axvline(bias, color=BAD, linewidth=1.2)
            ax.set_xlim(edges[0], edges[-1])
            ax.set_ylim(0, counts.max() * 1.1)

        unit = {"deg": "°", "px": " px"}.get(name.rpartition("_")[2], " %")
        digits = 2 if name.endswith("px") else 1
        note = f"n = {count(row['n'])}; mean {_signed(row['bias'], name)}{unit} (red), half of the errors below "
        note += f"{row['error']:.{digits}f}{unit}"
        note += f"; {count(bars['outside'])} beyond the axis" if bars["outside"] else ""
        if name == "heading_deg":
            turned = next(s["value"] for s in part["scores"] if s["name"] == "heading_reversed")
            note += f"; {turned:.1%} point backwards"
        out.append(Plot(title, note, _svg(fill, _THIRD)))
    return out


def edge_plot(part: Mapping[str, Any], size: tuple[float, float]) -> list[Plot]:
    """The median object, and where the four edges of its detections lie.

    Args:
        size: median (length, width) of the truths, or (width, height) of axis-aligned ones, in px.
    """
    rows = {r["quantity"].removesuffix("_px"): r for r in part["table"] if r["class"] is None and r["n"]}
    oriented = "front" in rows
    # name -> axis, and the direction in which the edge lies
    sides = {"front": (0, 1), "back": (0, -1), "left": (1, -1), "right": (1, 1)}
    if not oriented:
        sides = {"right": (0, 1), "left": (0, -1), "top": (1, -1), "bottom": (1, 1)}
    if not rows or not all(math.isfinite(s) and s > 0 for s in size):
        return []
    half = np.array(size) / 2

    def fill(ax: Axes) -> None:
        at = {n: sign * (half[axis] + rows[n]["q50"]) for n, (axis, sign) in sides.items()}
        x, y = (sorted(at[n] for n, (axis, _) in sides.items() if axis == k) for k in (0, 1))
        ax.fill([-half[0], half[0], half[0], -half[0]], [-half[1], -half[1], half[1], half[1]], color=GRID, alpha=0.7)
        ax.plot([x[0], x[1], x[1], x[0], x[0]], [y[0], y[0], y[1], y[1], y[0]], color=ACCENT, linewidth=1.6)
        for n, (axis, sign) in sides.items():
            r = rows[n]
            for low, high, width in ((r["q05"], r["q95"], 0.9), (r["q25"], r["q75"], 3.0)):
                ends = [sign * (half[axis] + v) for v in (low, high)]
                ax.plot(*((ends, [0, 0]) if axis == 0 else ([0, 0], ends)), color=ACCENT, linewidth=width)
            text = f"{n} {_signed(r['q50'], 'px')} px"
            beyond = sign * (half[axis] + max(r["q95"], 0) + 0.06 * half[0])
            across, down = ("left" if sign > 0 else "right", "center"), ("center", "top" if sign > 0 else "bottom")
            ha, va = down if axis else across  # y grows downwards
            ax.text(0 if axis else beyond, beyond if axis else 0, text, fontsize=7.5, color=INK, ha=ha, va=va)
        ax.set_aspect("equal")
        reach = [half[k] + max(rows[n]["q95"] for n, (axis, _) in sides.items() if axis == k) for k in (0, 1)]
        ax.set_xlim(-1.75 * reach[0], 1.75 * reach[0])
        ax.set_ylim(1.5 * reach[1], -1.5 * reach[1])  # y grows downwards
        ax.grid(visible=False)
        ax.set_xticks([])
        ax.set_yticks([])
        for side in ax.spines.values():
            side.set_visible(False)

    some = rows["front" if oriented else "top"]["n"]
    note = f"n = {count(some)}. Grey: the median object, {size[0]:.1f} × {size[1]:.1f} px. Blue: the median edges of "
    note += "its detections; bars hold half of them, lines 90 %."
    if oriented:
        note += " Where the heading is not known, the front is an end like the other."
    return [Plot("Where the edges lie", note, _svg(fill, _HALF))]


# -- calibration --------------------------------------------------------------------------------------------------


def factor_plots(curves: Mapping[str, Sequence[Sequence[float]]], fitted: Mapping[str, Any]) -> list[Plot]:
    """AP against each factor alone, and against the angle; what was fitted as a line."""
    out = []
    for names, title, axis in (
        (("length", "width", "height"), "AP by factor", "factor"),
        (("angle",), "AP by turn", "degrees"),
    ):
        here = {n: np.array(curves[n], np.float64) for n in names if len(curves.get(n) or ())}
        if not here:
            continue
        scale = 180 / math.pi if axis == "degrees" else 1.0

        def fill(ax: Axes, here: Mapping[str, NDArray] = here, scale: float = scale, axis: str = axis) -> None:
            for i, (name, xy) in enumerate(here.items()):
                color = (ACCENT, BAD, GOOD)[i]
                ax.plot(scale * xy[:, 0], xy[:, 1], color=color, label=name, marker="o", markersize=2)
                ax.axvline(scale * score_of(fitted.get(name)), color=color, linewidth=0.9, linestyle=(0, (3, 2)))
            ax.axvline(0 if axis == "degrees" else 1, color=MUTED, linewidth=0.7)
            ax.set_xlabel(axis)
            ax.set_ylabel("AP")
            ax.legend(loc="lower center", frameon=False, fontsize=7.5, handlelength=1.4)

        note = "On the data it was fitted on, each alone; grey: as it was, dashed: what was fitted, all together."
        out.append(Plot(title, note, _svg(fill, _HALF)))
    return out


def reliability_plot(bins: Sequence[Mapping[str, Any]], chosen: str, note: str) -> list[Plot]:
    """The share of detections that are right against their score; dots grow with how many there are."""
    kinds = {"as given": ACCENT, **({chosen: GOOD} if chosen in ("temperature", "isotonic") else {})}
    rows = {k: [b for b in bins if b["scores"] == k and b["n"]] for k in kinds}
    return _diagram("Are the scores probabilities?", note, rows, kinds, ("score", "share right"))


def quality_plot(bins: Sequence[Mapping[str, Any]], note: str) -> list[Plot]:
    """The mean IoU that detections have against the one that they expect; dots grow with how many there are."""
    rows = {"expected IoU": [b for b in bins if b["n"]]}
    axes = ("expected IoU", "IoU with the truth")
    return _diagram("Does the expected IoU come true?", note, rows, {"expected IoU": ACCENT}, axes)


def _diagram(
    title: str,
    note: str,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    kinds: Mapping[str, str],
    axes: tuple[str, str],
) -> list[Plot]:
    """Reliability of the first kind, and of others beside it; none where the first has no rows."""
    if not next(iter(rows.values())):
        return []
    most = max(b["n"] for kind in rows.values() for b in kind)

    def fill(ax: Axes) -> None:
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        for kind, color in kinds.items():
            x, y = (np.array([score_of(b[k]) for b in rows[kind]]) for k in ("confidence", "precision"))
            n = np.array([b["n"] for b in rows[kind]])
            ax.plot(x, y, color=color, linewidth=1.2, label=kind)
            ax.scatter(x, y, s=6 + 60 * n / most, color=color, alpha=0.75, linewidth=0)
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.03)
        ax.set_xlabel(axes[0])
        ax.set_ylabel(axes[1])
        if len(kinds) > 1:
            ax.legend(loc="upper left", frameon=False, fontsize=7.5, handlelength=1.4)

    return [Plot(title, note, _svg(fill, _HALF))]


# -- places -------------------------------------------------------------------------------------------------------


def place_plot(title: str, note: str, value: NDArray[np.float64], shape: tuple[float, float], color: str = BAD) -> Plot:
    """A map of the picture: cells f64 [rows,columns] >= 0 (NaN = nothing there), the fuller the higher.

    Args:
        shape: (H, W) of the picture, for the proportions.
    """
    rows, columns = value.shape
    width = 4.3
    height = float(np.clip(width * shape[0] / shape[1], 1.4, 4.0))
    top = float(np.nanmax(value, initial=0)) or 1.0

    def fill(ax: Axes) -> None:
        from matplotlib.patches import Rectangle

        for i in range(rows):
            for j in range(columns):
                if value[i, j] > 0:
                    ax.add_patch(Rectangle((j, i), 1, 1, linewidth=0, color=color, alpha=value[i, j] / top))
        ax.set_xlim(0, columns)
        ax.set_ylim(rows, 0)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)
        for side in ax.spines.values():
            side.set_visible(True)

    return Plot(title, note, _svg(fill, (width, height)))


def _signed(value: float, name: str) -> str:
    digits = 1 if not name.endswith("px") else 2
    return f"{value:+.{digits}f}".replace("-", "−")
