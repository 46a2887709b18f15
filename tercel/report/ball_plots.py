"""Plots of a ball run: the tolerance curve, x(t) and y(t), when events were found. SVG as in plots.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tercel.metrics.outcomes import FN, GHOST, TP, WRONG
from tercel.report.ball_judge import WORDS, Rally
from tercel.report.plots import ACCENT, BAD, MUTED, Plot, _svg
from tercel.report.reading import View
from tercel.report.words import count, score_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PATHS = 6  # rallies whose trajectories are drawn
STRETCH = 360  # frames of a rally that are drawn at most: more would run together
_WIDE = (8.9, 1.9)  # inches


def tolerance(view: View) -> Plot | None:
    """F1, precision and recall against the distance that is accepted, in px of the original frame."""
    rows = [r for r in view.report.get("curve") or () if isinstance(r, Mapping)]
    if not rows:
        return None
    x = np.array([score_of(r.get("tolerance")) for r in rows])
    spread = {s.name: s for s in view.scores if s.name.startswith("F1@")}
    band = np.array([[getattr(spread.get(f"F1@{v:g}px"), k, math.nan) for k in ("low", "high")] for v in x])

    def fill(ax: Axes) -> None:
        if np.isfinite(band).any():
            ax.fill_between(x, band[:, 0], band[:, 1], color=ACCENT, alpha=0.18, linewidth=0)
        for key, label, color, style in (
            ("precision", "precision", MUTED, (0, (1, 1.5))),
            ("recall_all", "recall", MUTED, (0, (4, 2))),
            ("F1", "F1", ACCENT, "-"),
        ):
            y = np.array([score_of(r.get(key)) for r in rows])
            ax.plot(x, y, color=color, label=label, linestyle=style, marker="o" if key == "F1" else "", markersize=2.6)
        ax.set_xlim(0, float(x.max()) + 0.5)
        ax.set_xticks([1, *range(5, int(x.max()) + 1, 5)])
        ax.set_ylim(0, 1.03)
        ax.set_xlabel("accepted distance, px of the original frame")
        ax.legend(loc="lower right", frameon=False, fontsize=7.5, handlelength=1.8)

    note = f"n = {count(rows[0].get('balls'))} balls, occluded ones too; recall: hits among all balls"
    note += "; band: 95 % interval of F1" if np.isfinite(band).any() else ""
    return Plot("Scores by tolerance", note, _svg(fill, (4.3, 3.1)))


# -- trajectories -------------------------------------------------------------------------------------------------


def paths(found: Sequence[Rally]) -> list[dict[str, Any]]:
    """x(t) and y(t) of the rallies with the largest shares of wrong frames, the worst first."""
    order = sorted(range(len(found)), key=lambda i: -float(found[i].wrong.mean()))[:PATHS]
    out = []
    for i in order:
        r = found[i]
        rows = _stretch(r)
        numbers = [(words, int((r.outcome[rows] == k).sum())) for k, words in WORDS.items()]
        words = ", ".join(f"{count(n)} {w}" for w, n in numbers if n)
        if len(r.frame) > STRETCH:
            words += f"; the {count(STRETCH)} frames with the most mistakes of {count(len(r.frame))}"
        svgs = [_svg(partial(_path, r=r, rows=rows, axis=axis), _WIDE) for axis in (0, 1)]
        out.append({"name": r.name, "words": words, "svgs": svgs})
    return out


def _stretch(r: Rally) -> slice:
    """The part of a rally to draw: all of it, or the window with the most wrong frames."""
    n = len(r.frame)
    if n <= STRETCH:
        return slice(0, n)
    total = np.concatenate([[0], np.cumsum(r.wrong)])
    start = int((total[STRETCH:] - total[:-STRETCH]).argmax())
    return slice(start, start + STRETCH)


def _path(ax: Axes, r: Rally, rows: slice, axis: int) -> None:
    """Truth as a line; found as dots, filled in as hollow dots, ghosts as crosses, misses as ticks at the edge."""
    t, outcome, filled = r.frame[rows], r.outcome[rows], r.filled[rows]
    truth, pred = r.truth[rows, axis], r.pred[rows, axis]
    limit = r.size[1 - axis]
    gaps = np.flatnonzero(np.diff(t) > 1) + 1  # a line must not run through frames that are not there
    ax.plot(np.insert(t.astype(float), gaps, math.nan), np.insert(truth, gaps, math.nan), color=MUTED, linewidth=1.1)
    hit, off = outcome == TP, outcome == WRONG
    styles: tuple[tuple[NDArray[np.bool_], str, dict[str, Any]], ...] = (
        (hit & ~filled, ACCENT, {"marker": "o", "markersize": 2.2}),
        (hit & filled, ACCENT, {"marker": "o", "markersize": 2.8, "fillstyle": "none", "markeredgewidth": 0.8}),
        (off & ~filled, BAD, {"marker": "o", "markersize": 2.8}),
        (off & filled, BAD, {"marker": "o", "markersize": 3.0, "fillstyle": "none"}),
        (outcome == GHOST, BAD, {"marker": "x", "markersize": 3.6, "markeredgewidth": 1.0}),
    )
    for mask, color, style in styles:
        ax.plot(t[mask], pred[mask], linestyle="", color=color, **style)
    missed = t[outcome == FN]
    edge = ax.get_xaxis_transform()
    ax.plot(missed, np.full(len(missed), 0.025), "|", color=BAD, markersize=6, transform=edge, clip_on=False)
    ax.set_xlim(t[0] - 0.5, t[-1] + 0.5)
    ax.set_ylim(*((0, limit) if axis == 0 else (limit, 0)))  # y grows downwards, as in the picture
    ax.set_ylabel(f"{'xy'[axis]}, px")
    if axis == 1:
        ax.set_xlabel("frame")
