"""Plots of named points: the mean pose with its error ellipses, PCK by distance, errors per point.

SVG as in plots.py; input are plain values (`to_json` of a KeypointReport, rows of tercel.metrics.pck).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.schema import Schema
from tercel.report import skeleton
from tercel.report.plots import ACCENT, INK, MUTED, Plot, _short, _svg
from tercel.report.words import count, fixed, score_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
Rows = Sequence[Mapping[str, Any]]

_HALF = (4.3, 3.1)  # inches
_POSE = (4.3, 4.3)
NAMED = 12  # points up to which names stand beside them on the pose; above it, their numbers in the table
ZOOMS = (1, 2, 5, 10, 20, 50)  # of the ellipses
SEEN = 0.035  # of the size: half length that the median ellipse shall have on the page
DEVIATIONS = 2.0  # an ellipse ends so many standard deviations from its middle


def ellipse(cov: Floats, deviations: float = DEVIATIONS, n: int = 48) -> Floats:
    """Points [n,2] around the origin at `deviations` standard deviations of a covariance [2,2], in any direction."""
    value, axes = np.linalg.eigh(cov)
    t = np.linspace(0, 2 * math.pi, n)
    circle = np.stack([np.cos(t), np.sin(t)])
    out: Floats = ((axes * (deviations * np.sqrt(np.maximum(value, 0)))) @ circle).T
    return out


def covariances(rows: Rows) -> Floats:
    """[K,2,2] in shares of the size; NaN where too few points were found."""
    out: Floats = np.array(
        [[[score_of(r["cov_xx"]), score_of(r["cov_xy"])], [score_of(r["cov_xy"]), score_of(r["cov_yy"])]] for r in rows]
    ).reshape(-1, 2, 2)
    return out


def zoom_of(cov: Floats) -> int:
    """How much larger than life ellipses are drawn, so that they can be seen."""
    known = cov[np.isfinite(cov).all(axis=(1, 2))]
    if not len(known):
        return 1
    long = float(np.median(DEVIATIONS * np.sqrt(np.maximum(np.linalg.eigvalsh(known)[:, 1], 0))))
    return max((z for z in ZOOMS if z * long <= SEEN), default=1) if long > 0 else 1


def color_of(side: int) -> str:
    """Of left, right and middle, a little darker than on pictures: these lie on the page's own ground."""
    return "#" + "".join(f"{round(c * 0.82):02x}" for c in skeleton.COLORS[side])


def pose_plot(rows: Rows, schema: Schema, *, title: str = "Where the points lie, and how far off", note: str = "",
              errors: bool = True) -> list[Plot]:  # fmt: skip
    """The mean pose, and around each point an ellipse of its errors.

    Args:
        rows: one per point: `point`, `x`, `y`, and with `errors` `bias_x`, `bias_y`, `cov_xx`, `cov_xy`, `cov_yy`, all
            in shares of the size.
    """
    at = np.array([[score_of(r["x"]), score_of(r["y"])] for r in rows]).reshape(-1, 2)
    seen = np.isfinite(at).all(axis=1)
    if not seen.any():
        return []
    cov = covariances(rows) if errors else np.full((len(rows), 2, 2), np.nan)
    bias = np.array([[score_of(r["bias_x"]), score_of(r["bias_y"])] if errors else [0.0, 0.0] for r in rows])
    zoom, side = zoom_of(cov), skeleton.sides(schema)
    sided = bool(schema.flip_pairs)
    colors = [color_of(int(s)) if sided else ACCENT for s in side]
    rings = [at[k] + zoom * (bias[k] + ellipse(cov[k])) if np.isfinite(cov[k]).all() else at[k : k + 1]
             for k in range(len(rows))]  # fmt: skip
    edges = skeleton.edges(schema)

    def fill(ax: Axes) -> None:
        for i, j, _ in edges:
            if seen[i] and seen[j]:
                ax.plot(*at[[i, j]].T, color=MUTED, linewidth=0.8, alpha=0.6, zorder=1)
        for k in np.flatnonzero(seen):
            ax.fill(*rings[k].T, color=colors[k], alpha=0.28, linewidth=0, zorder=2)
            ax.plot(*rings[k].T, color=colors[k], linewidth=1.0, zorder=2)
            ax.plot(*at[k], "o", color=colors[k], markersize=3, zorder=3)
        every = np.concatenate([rings[k] for k in np.flatnonzero(seen)] + [at[seen]])
        low, high = every.min(axis=0), every.max(axis=0)
        middle, reach = (low + high) / 2, 0.5 * float((high - low).max()) * 1.25 + 1e-3
        _names(ax, rows, at, seen, reach)
        ax.set_xlim(middle[0] - reach, middle[0] + reach)
        ax.set_ylim(middle[1] + reach, middle[1] - reach)  # y grows downwards
        ax.set_aspect("equal")
        ax.grid(visible=False)
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_visible(False)

    said = note or "Dots: the mean pose of all truths, each turned onto it."
    if errors:
        said += f" Ellipses: mean and {DEVIATIONS:g} standard deviations of the errors of what was found"
        said += f", {zoom} times as large as they are." if zoom > 1 else ", true to scale."
    said += " Blue: left, red: right, yellow: middle." if sided else ""
    said += " Numbers: as in the table." if len(rows) > NAMED else ""
    return [Plot(title, said, _svg(fill, _POSE))]


def _names(ax: Axes, rows: Rows, at: Floats, seen: NDArray[np.bool_], reach: float) -> None:
    """A name, or a number where there are many, beside each point: outwards, away from the middle."""
    middle = at[seen].mean(axis=0)
    few = len(rows) <= NAMED
    for k in np.flatnonzero(seen).tolist():
        away = at[k] - middle
        length = float(np.hypot(*away))
        away = away / length if length > 0.05 * reach else np.array([0.0, 1.0])
        x, y = at[k] + away * reach * (0.07 if few else 0.05)
        ha = "center" if not few or abs(away[0]) < 0.3 else "left" if away[0] > 0 else "right"
        text = _short(str(rows[int(k)]["point"]), 16) if few else str(k + 1)
        ax.text(x, y, text, fontsize=7.5 if few else 6, color=INK, ha=ha, va="center", zorder=4)


def pck_plot(pck: Rows, alphas: Sequence[float]) -> list[Plot]:
    """The share of points within a distance, for every distance; the reported ones as dots."""
    x, y = (np.array([score_of(r[k]) for r in pck]) for k in ("alpha", "PCK"))
    if not np.isfinite(y).any():
        return []
    n = int(pck[0]["n"])

    def fill(ax: Axes) -> None:
        ax.plot(100 * x, y, color=ACCENT)
        for a in alphas:
            value = float(np.interp(a, x, y))
            ax.plot(100 * a, value, "o", color=ACCENT, markersize=4)
            high = value > 0.5  # the curve rises: below it to the right, and above it to the left, there is room
            ax.annotate(f"{value:.3f}", (100 * a, value), (3, -10) if high else (-3, 4), textcoords="offset points",
                        fontsize=7.5, color=INK, ha="left" if high else "right")  # fmt: skip
        ax.set_xlim(0, 100 * float(x[-1]))
        ax.set_ylim(0, 1.03)
        ax.set_xlabel("distance, % of the longer side of the box")
        ax.set_ylabel("share of the labelled points")

    note = f"n = {count(n)} labelled points, those of animals that were not found among them. Dots: PCK at "
    note += f"{', '.join(f'{a:g}'[1:] if a < 1 else f'{a:g}' for a in alphas)}."
    return [Plot("Points within a distance (PCK)", note, _svg(fill, _HALF))]


def error_plot(rows: Rows, schema: Schema) -> list[Plot]:
    """Median and 95 % quantile of the error of each point, in % of the size; the worst median first."""
    some = [(k, r) for k, r in enumerate(rows) if math.isfinite(score_of(r["median"]))]
    if not some:
        return []
    some.sort(key=lambda kr: -score_of(kr[1]["median"]))
    side = skeleton.sides(schema)
    sided = bool(schema.flip_pairs)
    middle, high = (np.array([100 * score_of(r[q]) for _, r in some]) for q in ("median", "high"))
    colors = [color_of(int(side[k])) if sided else ACCENT for k, _ in some]
    y = np.arange(len(some))

    def fill(ax: Axes) -> None:
        ax.hlines(y, middle, high, color=colors, linewidth=2.0, alpha=0.6)
        ax.scatter(middle, y, s=16, color=colors, zorder=3)
        names = [f"{k + 1} · {_short(str(r['point']), 14)}" if len(rows) > NAMED else _short(str(r["point"]), 16)
                 for k, r in some]  # fmt: skip
        ax.set_yticks(y, names, fontsize=7.5 if len(some) <= 20 else 6.5)
        ax.tick_params(axis="y", labelcolor=INK)
        ax.set_xlim(0, 1.05 * float(np.nanmax(high)) or 1)
        ax.set_ylim(len(some) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("error, % of the longer side of the box")

    note = "Dot: half of the found points lie nearer. Line: up to where 95 % do. "
    note += f"The worst: {_short(str(some[0][1]['point']))}, {fixed(float(middle[0]), 1)} %."
    height = float(np.clip(0.6 + 0.2 * len(some), 2.2, 8))
    return [Plot("Error by point", note, _svg(fill, (_HALF[0], height), left=1.25))]
