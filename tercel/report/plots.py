"""Plots of a run as small inline SVG that follows the page's light or dark theme.

Each function returns `Plot`s (title, note, svg): titles are set by the page, so that they wrap and can be read aloud.
matplotlib draws with placeholder colours that become CSS variables; text stays text. The object interface of
matplotlib is used, never pyplot: nothing global changes. Imported lazily, for start-up time.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import direction
from tercel.report.draw import class_color
from tercel.report.judge import HIT, IGNORED, Judged

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# placeholder -> CSS variable of the page
INK, MUTED, GRID, GOOD, BAD, ACCENT = "#010203", "#010204", "#010205", "#010206", "#010207", "#010208"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
    ACCENT: "var(--accent)",
}
_FONT = "DejaVu Sans"  # for layout; the page shows its own font
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a class name starts no formula
    "font.family": _FONT,
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
}
_MAX_POINTS = 400  # per line; more cannot be seen at this size
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Plot:
    """A finished picture for the page: `svg` is markup that we made ourselves, title and note are plain text."""

    title: str
    note: str
    svg: str


@dataclass(frozen=True)
class Curve:
    """Precision against recall of one class at one IoU; label -1 is the mean over classes.

    `chosen` is (recall, precision) at the class's score threshold, or None.
    """

    name: str
    label: int
    iou: float
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    chosen: tuple[float, float] | None = None


# -- training -----------------------------------------------------------------------------------------------------


def loss_plots(steps: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """One small plot per loss term: single steps faint, a running median bold."""
    names = list(dict.fromkeys(k for s in steps for k in (s.get("losses") or {})))
    out = []
    for name in names:
        value = np.array([_number((s.get("losses") or {}).get(name)) for s in steps])
        x, good = _epochs(steps), np.isfinite(value)
        if not good.any():
            continue
        width = _window(int(good.sum()))

        def fill(ax: Axes, x: NDArray = x[good], y: NDArray = value[good], width: int = width) -> None:
            smooth = running_median(y, width)
            i = _thin(len(x))
            ax.plot(x[i], y[i], color=ACCENT, alpha=0.25, linewidth=0.7)
            ax.plot(x[i], smooth[i], color=ACCENT)
            top = float(np.quantile(y, 0.995)) * 1.05 if len(y) > 20 else float(y.max()) * 1.05
            ax.set_ylim(min(0, float(y.min())), top if top > 0 else 1)
            ax.set_xlabel("epoch")

        lost = int((~good).sum())
        note = f"n = {int(good.sum())} logged steps" + (f"; bold: median of {width}" if width > 1 else "")
        note += f"; {lost} not finite" if lost else ""
        out.append(Plot(f"Loss: {name}", note, _svg(fill)))
    return out


def schedule_plots(steps: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Learning rate, gradient norm, and the time spent waiting for data."""
    x = _epochs(steps)
    out = []
    for key, title in (("lr", "Learning rate"), ("grad_norm", "Gradient norm")):
        value = np.array([_number(s.get(key)) for s in steps])
        good = np.isfinite(value)
        if not good.any():
            continue

        def fill(ax: Axes, x: NDArray = x[good], y: NDArray = value[good], raw: bool = key == "grad_norm") -> None:
            i = _thin(len(x))
            if raw:
                ax.plot(x[i], y[i], color=ACCENT, alpha=0.25, linewidth=0.7)
                y = running_median(y, _window(len(y)))
                ax.set_ylim(0, max(float(np.quantile(y, 0.99)) * 1.6, 1e-9))
            else:
                ax.set_ylim(0, max(float(y.max()) * 1.08, 1e-12))
                ax.yaxis.set_major_formatter(lambda v, _: f"{v:.3g}")
            ax.plot(x[i], y[i], color=ACCENT)
            ax.set_xlabel("epoch")

        note = f"n = {int(good.sum())} logged steps" + ("; before clipping" if key == "grad_norm" else "")
        out.append(Plot(title, note, _svg(fill)))
    return out + _time_plot(steps, x)


def _time_plot(steps: Sequence[Mapping[str, Any]], x: NDArray) -> list[Plot]:
    data = np.array([_number(s.get("data_seconds")) for s in steps])
    whole = np.array([_number(s.get("seconds")) for s in steps])
    good = np.isfinite(data) & np.isfinite(whole) & (whole > 0)
    if good.sum() < 2:
        return []
    x, data, whole = x[good], np.minimum(data[good], whole[good]), whole[good]
    share = float(data.sum() / whole.sum())

    def fill(ax: Axes) -> None:
        width, i = _window(len(x)), _thin(len(x))
        low, high = running_median(data, width)[i] * 1e3, running_median(whole, width)[i] * 1e3
        ax.fill_between(x[i], low, high, color=ACCENT, alpha=0.35, linewidth=0)
        ax.fill_between(x[i], 0, low, color=BAD, alpha=0.7, linewidth=0)
        top = max(float(high.max()) * 1.4, 1e-6)
        ax.set_ylim(0, top)
        ax.text(0.99, 0.97, "computing", color=ACCENT, transform=ax.transAxes, ha="right", va="top")
        ax.text(0.99, 0.87, "waiting for data", color=BAD, transform=ax.transAxes, ha="right", va="top")
        ax.set_xlabel("epoch")
        ax.set_ylabel("ms per step")

    return [Plot("Time per step", f"{share:.1%} of the time waited for data; n = {len(x)} logged steps", _svg(fill))]


def score_plots(evals: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Plot]:
    """Each overall score against the epoch, with its 95 % band and the best epoch marked."""
    out = []
    for name in names:
        rows = []
        for e in evals:
            s = next((s for s in e.get("scores") or [] if s["name"] == name and not s.get("where")), None)
            if s is not None and s.get("value") is not None:
                rows.append([_number(v) for v in (e.get("epoch"), s["value"], s.get("low"), s.get("high"))])
        if not rows:
            continue
        r = np.array(rows)
        rising = direction(name) > 0
        best = int(r[:, 1].argmax() if rising else r[:, 1].argmin())

        def fill(ax: Axes, r: NDArray = r, best: int = best) -> None:
            if np.isfinite(r[:, 2:]).any():
                ax.fill_between(r[:, 0], r[:, 2], r[:, 3], color=ACCENT, alpha=0.18, linewidth=0)
            ax.plot(r[:, 0], r[:, 1], color=ACCENT, marker="o", markersize=2.5 if len(r) < 40 else 0)
            ax.plot(r[best, 0], r[best, 1], "o", color=ACCENT, markersize=6, fillstyle="none")
            at = (r[best, 0], r[best, 1])
            ax.annotate(f"{at[1]:.3f}", at, xytext=(0, -13), textcoords="offset points", ha="center", color=INK)
            low, high = np.nanmin(r[:, 1:]), np.nanmax(r[:, 1:])
            room = max(0.02, (high - low) * 0.15)
            ax.set_ylim(max(0, low - room * 1.6), min(1.02, high + room))
            if len(r) == 1:
                ax.set_xlim(r[0, 0] - 1, r[0, 0] + 1)
            ax.set_xlabel("epoch")

        band = "; band: 95 % interval" if np.isfinite(r[:, 2:]).any() else ""
        extreme = "highest" if rising else "lowest, which is best"
        note = f"n = {len(r)} evaluations; ring: {extreme}, epoch {r[best, 0]:.0f}{band}"
        out.append(Plot(f"{name} on validation data", note, _svg(fill)))
    return out


# -- detections ---------------------------------------------------------------------------------------------------


def pr_plots(curves: Sequence[Curve], rule: str = "", measure: str = "IoU") -> list[Plot]:
    """One plot per IoU (or OKS), one line per class (at most eight, from best to worst), chosen thresholds as dots."""
    out = []
    for iou in sorted({c.iou for c in curves}):
        all_here = [c for c in curves if c.iou == iou and c.label >= 0 and np.isfinite(c.precision).any()]
        mean = [c for c in curves if c.iou == iou and c.label < 0 and len(all_here) > 1]
        if not all_here:
            continue
        here = _spread(all_here, 8)

        def fill(ax: Axes, here: Sequence[Curve] = here, mean: Sequence[Curve] = mean) -> None:
            for c in [*mean, *here]:
                color = _line_color(c.label) if c.label >= 0 else MUTED
                reached = np.flatnonzero(c.precision > 0)
                end = int(reached[-1]) + 1 if len(reached) else 0
                x, y = np.append(c.recall[:end], c.recall[end - 1] if end else 0), np.append(c.precision[:end], 0)
                ax.plot(x, y, color=color, label=_short(c.name), linestyle="-" if c.label >= 0 else (0, (2, 2)))
                if c.chosen is not None:
                    ax.plot(*c.chosen, "o", color=color, markersize=5)
            ax.set_xlim(0, 1.01)
            ax.set_ylim(0, 1.03)
            ax.set_xlabel("recall")
            ax.set_ylabel("precision")
            ax.legend(loc="lower left", frameon=False, fontsize=7.5, handlelength=1.4)

        note = f"{rule}{'; ' if rule else ''}the area under a line is its AP at {measure} {iou:g}"
        if any(c.chosen is not None for c in here):
            note += "; dots: the score threshold with the best F1"
        if len(all_here) > len(here):
            note += f"; {len(here)} of {len(all_here)} classes, from best to worst"
        out.append(Plot(f"Precision and recall at {measure} {iou:.2f}", note, _svg(fill, (4.3, 3.1))))
    return out


def score_histogram(j: Judged, floor: float = 0.05, measure: str = "IoU") -> list[Plot]:
    """Hits upwards, false positives downwards, by score; ignored detections are in neither."""
    shown = (j.score >= floor) & (j.kind != IGNORED)
    if not shown.any():
        return []
    edges = np.linspace(0, 1, 41)
    hits, _ = np.histogram(j.score[shown & (j.kind == HIT)], edges)
    wrong, _ = np.histogram(j.score[shown & (j.kind != HIT)], edges)

    def fill(ax: Axes) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        middle = (edges[:-1] + edges[1:]) / 2
        ax.bar(middle, hits, width=0.022, color=GOOD)
        ax.bar(middle, -wrong, width=0.022, color=BAD)
        ax.axhline(0, color=MUTED, linewidth=0.6)
        ax.set_xlim(0, 1)
        high, low = max(hits.max(), 1), max(wrong.max(), 1)
        ax.set_ylim(-low * 1.15, high * 1.2)
        ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{abs(v):.0f}"))
        ax.text(0.02, 0.97, f"hits {int(hits.sum())}", color=GOOD, transform=ax.transAxes, va="top")
        ax.text(0.98, 0.03, f"false positives {int(wrong.sum())}", color=BAD, transform=ax.transAxes, ha="right")
        ax.set_xlabel("score")
        ax.set_ylabel("detections")

    below = int(((j.score < floor) & (j.kind != IGNORED)).sum())
    note = f"n = {int(shown.sum())} detections with score ≥ {floor:g} ({below} below), matched at {measure} {j.iou:g}"
    return [Plot("Scores of hits and false positives", note, _svg(fill, (4.3, 3.1)))]


def size_histogram(j: Judged, thresholds: NDArray[np.float64], measure: str = "IoU") -> list[Plot]:
    """Truths by size, found or missed at each class's threshold, with the share found above each bar."""
    if not len(j.truth_size):
        return []
    found = j.found(thresholds)
    size = np.maximum(j.truth_size, 0.5)
    edges = _size_edges(size)
    total, _ = np.histogram(size, edges)
    hit, _ = np.histogram(size[found], edges)

    def fill(ax: Axes) -> None:
        x = np.arange(len(total))
        ax.bar(x, hit, width=0.82, color=GOOD)
        ax.bar(x, total - hit, bottom=hit, width=0.82, color=BAD)
        for i, (n, h) in enumerate(zip(total, hit, strict=True)):
            if n:
                ax.text(i, n + total.max() * 0.02, f"{h / n:.0%}", ha="center", va="bottom", fontsize=7, color=INK)
        ax.set_xlim(-0.6, len(total) - 0.4)
        ax.set_ylim(0, total.max() * 1.14)
        ax.grid(axis="x", visible=False)
        ax.set_xticks(np.arange(len(edges)) - 0.5, [f"{e:g}" for e in edges])
        ax.set_xlabel("size: square root of the area, px")
        ax.set_ylabel("objects")

    note = (
        f"n = {len(size)} objects; {int(found.sum())} found (green), {int((~found).sum())} missed, at {measure} "
        f"{j.iou:g} and the best-F1 threshold of each class"
    )
    return [Plot("Found and missed by size", note, _svg(fill, (4.3, 3.1)))]


# -- helpers ------------------------------------------------------------------------------------------------------


def running_median(y: NDArray, width: int) -> NDArray:
    """Median of a centred window; at the ends the window shrinks, so that no value is invented."""
    if width < 3:
        return y
    half = width // 2
    padded = np.concatenate([np.full(half, np.nan), y, np.full(half, np.nan)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    return np.asarray(np.nanmedian(windows, axis=1))


def _window(n: int) -> int:
    return max(1, min(51, n // 20 * 2 + 1))


def _epochs(steps: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """How many epochs were done after each logged step, with fractions. In the log the first epoch is number 0."""
    epoch = np.array([_number(s.get("epoch")) for s in steps], dtype=np.float64)
    step = np.array([_number(s.get("step")) for s in steps], dtype=np.float64)
    last = {e: float(step[epoch == e].max()) for e in np.unique(epoch[np.isfinite(epoch)])}
    begin = {e: last.get(e - 1, float(step[epoch == e].min()) - 1) for e in last}
    longest = max((last[e] - begin[e] for e in last), default=1.0)  # the last epoch may have been cut short
    offset = np.array([begin.get(e, math.nan) for e in epoch])
    out: NDArray[np.float64] = epoch + np.minimum((step - offset) / max(1.0, longest), 1.0)
    return out


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _thin(n: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, n - 1, min(n, _MAX_POINTS)).astype(np.int64))


def _spread(curves: Sequence[Curve], n: int) -> list[Curve]:
    """At most n curves, evenly from the best area to the worst."""
    ranked = sorted(curves, key=lambda c: -float(np.trapezoid(np.nan_to_num(c.precision), c.recall)))
    if len(ranked) > n:
        ranked = [ranked[i] for i in np.linspace(0, len(ranked) - 1, n).round().astype(int)]
    return ranked


def _size_edges(size: NDArray) -> NDArray[np.float64]:
    """Bin edges that double, or grow by half when the sizes span little; round numbers."""
    low, high = float(size.min()), float(size.max()) * 1.0001
    nice = np.array([0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096])
    nice = nice if high <= nice[-1] else np.append(nice, high)
    inside = nice[max(0, np.searchsorted(nice, low, "right") - 1) : np.searchsorted(nice, high, "left") + 1]
    return inside if len(inside) <= 13 else inside[::2] if (len(inside) % 2) else np.append(inside[::2], inside[-1])


def _line_color(label: int) -> str:
    """The colour of the class, a little darker so that it also shows on white."""
    return "#" + "".join(f"{round(c * 0.86):02x}" for c in class_color(label))


def _short(name: str, n: int = 24) -> str:
    """A legend entry. matplotlib would hide names that start with "_"."""
    clean = "".join(c if c.isprintable() else " " for c in name)
    clean = clean if not clean.startswith("_") else "\u200b" + clean
    return clean if len(clean) <= n else clean[: n - 1] + "…"


def _svg(fill: Callable[[Axes], None], size: tuple[float, float] = (3.1, 2.05), left: float = 0.0) -> str:
    """Draw one set of axes and return inline SVG that scales with its container.

    Args:
        size: inches. left: margin in inches for long labels; 0 = the usual one.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Only the layout is done with matplotlib's font; the page draws the text with one that has the letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure = Figure(figsize=size)
        axes = figure.add_subplot()
        fill(axes)
        # Margins in inches, equal for all: plots side by side line up, and no second pass for a layout is needed.
        left = left or (0.55 if axes.get_ylabel() else 0.42)
        figure.subplots_adjust(left / size[0], 0.42 / size[1], 1 - 0.08 / size[0], 1 - 0.17 / size[1])
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _clean(buffer.getvalue(), f"p{next(_numbers)}-")


def _clean(svg: str, prefix: str) -> str:
    """Only the drawing: no prolog, no metadata, no namespace addresses, ids unique on the page, theme colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(xlink:)?href="#', f'href="#{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}")
    svg = re.sub(r"font(-family)?: [^;\"]*", _font_size, svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    return re.sub(r">\s+<", "><", svg).strip()


def _font_size(match: re.Match[str]) -> str:
    """Keep the size that matplotlib chose, leave the family to the page."""
    size = re.search(r"[\d.]+px", match.group(0))
    return f"font-size: {size.group(0)}" if size else "font-size: 8px"
