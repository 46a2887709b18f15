"""What is in a data set, or in several side by side: sizes, angles, places, poses of their objects, and samples.

For a look before training: labels that are looser, larger or turned another way than those of the other sets show here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic
from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.record import Dataset
from tercel.data.source import read
from tercel.metrics.flips import skeleton_findings
from tercel.report import explore_points
from tercel.report.draw import draw
from tercel.report.error_plots import place_plot
from tercel.report.page import page, swatch
from tercel.report.pictures import data_uri
from tercel.report.plots import ACCENT, MUTED, Plot, _line_color, _short, _svg
from tercel.report.words import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

MOST = 7  # sources on one page: as many colours stay apart
EXAMPLES = 3  # pictures of each source
WIDTH = 640  # px of an example
CELLS = (12, 16)  # of the map of places
BINS = 40
POINTS = 500  # of a source in the plot of length against width
_HALF = (4.3, 3.1)  # inches


@dataclass(frozen=True, eq=False)
class Sides:
    """The objects of a source that count, N of them in I pictures.

    Attributes:
        length, width: f64 [N] px; of axis-aligned boxes the longer and the shorter side.
        angle: f64 [N] degrees of the length, clockwise from the x axis, -90 to 90; NaN for axis-aligned boxes.
        heading: f64 [N] degrees, -180 to 180; NaN where it is not known.
        centre: f64 [N,2] as shares of the picture. label: i64 [N].
        share: f64 [N], root of the object's share of the picture's area.
        gap: f64 [N], distance to the nearest other centre in lengths; NaN for one that is alone.
        per_picture: i64 [I].
    """

    length: Floats
    width: Floats
    angle: Floats
    heading: Floats
    centre: Floats
    label: NDArray[np.int64]
    share: Floats
    gap: Floats
    per_picture: NDArray[np.int64]

    @property
    def ratio(self) -> Floats:
        out: Floats = np.divide(self.length, self.width, out=np.full(len(self.width), np.nan), where=self.width > 0)
        return out


def measure(data: Dataset) -> Sides:
    """Sizes, angles and places of all objects that count."""
    parts: list[list[Floats]] = []
    labels, numbers = [], []
    for r in data.records:
        o = r.objects[~r.objects.ignore]
        boxes = o.boxes.astype(np.float64)
        n, wh = len(o), boxes[:, 2:] - boxes[:, :2]
        centre, nan = (boxes[:, :2] + boxes[:, 2:]) / 2, np.full(n, np.nan)
        if o.obbs is None:
            length, width, angle = wh.max(axis=1, initial=0), wh.min(axis=1, initial=np.inf), nan
        else:
            obbs = o.obbs.astype(np.float64)
            centre, length, width, angle = obbs[:, :2], obbs[:, 2], obbs[:, 3], np.degrees(obbs[:, 4])
        known = o.headed is not None and o.heading is not None
        heading = np.where(o.headed, np.degrees(o.heading), np.nan) if known else nan  # type: ignore[arg-type]
        h, w = r.size
        share = np.sqrt(length * width / (h * w))
        gap = _nearest(centre) / np.maximum(length, 1e-9)
        parts.append(
            [length, width, angle, (heading + 180) % 360 - 180, centre[:, 0] / w, centre[:, 1] / h, share, gap]
        )
        labels.append(o.labels)
        numbers.append(n)
    length, width, angle, heading, x, y, share, gap = (
        (np.concatenate(column) for column in zip(*parts, strict=True)) if parts else (np.zeros(0),) * 8
    )
    label = np.concatenate([np.zeros(0, np.int64), *labels])
    return Sides(
        length, width, angle, heading, np.stack([x, y], axis=1), label, share, gap, np.array(numbers, np.int64)
    )


def _nearest(centre: Floats) -> Floats:
    """Distance of each centre [n,2] to the nearest other one; NaN for a single one."""
    out = np.full(len(centre), np.nan)
    for start in range(0, len(centre), 500):  # crowds: not all pairs at once
        rows = np.arange(start, min(start + 500, len(centre)))
        far = np.hypot(*(centre[rows, None] - centre[None]).transpose(2, 0, 1))
        far[np.arange(len(rows)), rows] = np.inf
        if len(centre) > 1:
            out[rows] = far.min(axis=1)
    return out


def explore(sources: Sequence[str], out: Path) -> tuple[Finding, ...]:
    """Write a page about the labels of one or several sources, side by side; returns what was noticed on the way.

    Args:
        sources: `[format:]path[#split]` each.
        out: the page; it must not exist.

    Raises:
        TercelError: a source that cannot be read; as `write_exploration`.
    """
    if out.exists():
        raise TercelError(f"{out} exists and will not be overwritten", "choose another name")
    sets = [_tested(read(s)) for s in sources]
    return (*(f for data in sets for f in data.findings), *write_exploration(sets, out))


def _tested(data: Dataset) -> Dataset:
    """With what the poses say against the skeleton among its findings."""
    return replace(data, findings=(*data.findings, *skeleton_findings(data)), _places={})


def write_exploration(sets: Sequence[Dataset], out: Path) -> tuple[Finding, ...]:
    """Write the page about data sets at hand; returns what could not be shown.

    Raises:
        TercelError: no or too many data sets, or one of videos or without pictures.
    """
    if not 1 <= len(sets) <= MOST:
        raise TercelError(f"{len(sets)} data sets on one page", f"give 1 to {MOST}")
    for data in sets:
        if not len(data):
            raise TercelError(f"{data.source} holds no picture", "give another source or split")
        ball = not data.schema.keypoints and any(r.objects.points is not None for r in data.records)
        if ball or any(len(r.frames) > 1 for r in data.records):
            raise TercelError(f"{data.source} holds videos or balls", "give data of objects in still pictures")
    ledger = Ledger()
    write_atomic(out, page("explore.html", _content(sets, ledger)))
    return ledger.findings()


def _content(sets: Sequence[Dataset], ledger: Ledger) -> dict[str, Any]:
    sides = [measure(data) for data in sets]
    names = _names([data.source for data in sets])
    classes = list(dict.fromkeys(c for data in sets for c in data.schema.classes))
    maps = [
        place_plot(
            name, f"n = {count(len(s.length))}; the more objects, the stronger.", _cells(s), _shape(data), ACCENT
        )
        for name, s, data in zip(names, sides, sets, strict=True)
        if len(s.length)
    ]
    return {
        "title": f"{', '.join(names)} · Tercel",
        "heads": [(name, swatch(i)) for i, name in enumerate(names)],
        "sources": [data.source for data in sets],
        "rows": _rows(sets, sides),
        "classes": [(c, [_class_cell(data, s, c) for data, s in zip(sets, sides, strict=True)]) for c in classes],
        "plots": [*_histograms(sides, names), *_against(sides, names)],
        "maps": maps,
        "points": explore_points.content(sets, names),
        "examples": [(name, _examples(data, ledger)) for name, data in zip(names, sets, strict=True)],
        "findings": [(name, list(data.findings)) for name, data in zip(names, sets, strict=True)],
    }


def _names(sources: Sequence[str]) -> list[str]:
    """Short names: the last part of each path with its split, the whole source where that is not unique."""
    short = [s.partition("#")[0].rstrip("/").rpartition("/")[2] + (f" {s.partition('#')[2]}" if "#" in s else "")
             for s in sources]  # fmt: skip
    return short if len(set(short)) == len(short) else [f"{i + 1}: {s}" for i, s in enumerate(sources)]


# -- tables -------------------------------------------------------------------------------------------------------


def _rows(sets: Sequence[Dataset], sides: Sequence[Sides]) -> list[tuple[str, list[str]]]:
    stats = [data.statistics() for data in sets]
    rows: list[tuple[str, Callable[[dict[str, Any], Sides], str]]] = [
        ("Pictures", lambda d, s: count(d["records"])),
        ("Picture sizes, H×W", lambda d, s: ", ".join(d["sizes"]).replace("x", "×") or "–"),
        ("Groups", lambda d, s: count(d["groups"])),
        ("Pictures without objects", lambda d, s: count(d["negatives"])),
        ("Objects", lambda d, s: count(d["objects"])),
        ("Ignored", lambda d, s: _part(d["ignored"], d["ignored"] + d["objects"])),
        ("Oriented", lambda d, s: _part(int(np.isfinite(s.angle).sum()), len(s.angle))),
        ("Front known", lambda d, s: _part(int(np.isfinite(s.heading).sum()), len(s.heading))),
        ("Objects in a picture", lambda d, s: _spread(s.per_picture)),
        ("Length, px", lambda d, s: _spread(s.length)),
        ("Width, px", lambda d, s: _spread(s.width)),
        ("Length / width", lambda d, s: _spread(s.ratio)),
        ("Nearest neighbour, lengths", lambda d, s: _spread(s.gap)),
    ]
    return [(name, [cell(d, s) for d, s in zip(stats, sides, strict=True)]) for name, cell in rows]


def _spread(x: NDArray[Any]) -> str:
    """Median, and where nine tenths lie."""
    x = np.asarray(x, np.float64)
    x = x[np.isfinite(x)]
    if not len(x):
        return "–"
    low, middle, high = (_short_number(q) for q in np.quantile(x, [0.05, 0.5, 0.95]))
    return f"{middle} ({low} – {high})"


def _short_number(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 100 or x == round(x) else f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}"


def _part(n: int, of: int) -> str:
    return f"{count(n)} ({n / of:.0%})" if of else "–"


def _class_cell(data: Dataset, s: Sides, name: str) -> str:
    if name not in data.schema.classes:
        return "–"
    mine = s.label == data.schema.classes.index(name)
    if not mine.any():
        return "0"
    return f"{count(int(mine.sum()))} · {np.median(s.length[mine]):.1f} × {np.median(s.width[mine]):.1f} px"


# -- plots --------------------------------------------------------------------------------------------------------


def _histograms(sides: Sequence[Sides], names: Sequence[str]) -> list[Plot]:
    """Shares of the objects of each source, as lines over the same bins."""
    columns: list[tuple[str, str, Callable[[Sides], NDArray[Any]], tuple[float, float] | None]] = [
        ("Length", "px", lambda s: s.length, None),
        ("Width", "px", lambda s: s.width, None),
        ("Length / width", "ratio", lambda s: s.ratio, None),
        ("Angle", "degrees, clockwise from the x axis", lambda s: s.angle, (-90, 90)),
        ("Heading", "degrees, clockwise from the x axis", lambda s: s.heading, (-180, 180)),
        ("Size in the picture", "√ of the share of the picture's area", lambda s: s.share, None),
        ("Objects in a picture", "objects", lambda s: s.per_picture, None),
        ("Density: nearest neighbour", "distance of the centres, lengths", lambda s: s.gap, None),
    ]
    out = []
    for title, axis, column, limits in columns:
        values = [np.asarray(column(s), np.float64) for s in sides]
        values = [v[np.isfinite(v)] for v in values]
        if any(len(v) for v in values):
            out.append(_histogram(title, axis, values, names, limits))
    return out


def _histogram(
    title: str, axis: str, values: Sequence[Floats], names: Sequence[str], limits: tuple[float, float] | None
) -> Plot:
    full = [v for v in values if len(v)]
    top = max(float(np.quantile(v, 0.99)) for v in full)
    if limits is not None:
        edges = np.linspace(*limits, BINS - 3)  # of 5 or 10 degrees
    elif all((v == np.rint(v)).all() for v in full):  # counts
        step = max(1, -(-int(top) // BINS))
        edges = np.arange(0, top + 2 * step, step) - 0.5
    else:
        edges = np.linspace(min(float(v.min()) for v in full), max(top, 1e-9) * 1.0001, BINS + 1)
    beyond = sum(int((v > edges[-1]).sum()) for v in full)

    def fill(ax: Axes) -> None:
        for i, v in enumerate(values):
            if len(v):
                n, _ = np.histogram(v, edges)
                ax.stairs(n / len(v), edges, color=_line_color(i), linewidth=1.4, label=_short(names[i]))
                ax.stairs(n / len(v), edges, color=_line_color(i), fill=True, alpha=0.12, linewidth=0)
        ax.set_xlim(edges[0], edges[-1])
        ax.set_ylim(0, None)
        ax.set_xlabel(axis)
        ax.set_ylabel("share")
        if limits is not None:
            ax.set_xticks(np.linspace(*limits, 5))
        if len(values) > 1:
            ax.legend(loc="upper right", frameon=False, fontsize=7.5, handlelength=1.4)

    note = f"n = {' and '.join(count(len(v)) for v in full)}" + (f"; {count(beyond)} beyond the axis" if beyond else "")
    return Plot(title, note, _svg(fill, _HALF))


def _against(sides: Sequence[Sides], names: Sequence[str]) -> list[Plot]:
    """Length against width, a sample of each source."""
    if not any(len(s.length) for s in sides):
        return []
    rng = np.random.default_rng(0)
    rows = [rng.permutation(len(s.length))[:POINTS] for s in sides]

    def fill(ax: Axes) -> None:
        from matplotlib.ticker import FixedLocator, NullLocator

        for i, (s, chosen) in enumerate(zip(sides, rows, strict=True)):
            x, y = (np.maximum(v[chosen], 0.5) for v in (s.width, s.length))
            ax.plot(
                x, y, "o", color=_line_color(i), markersize=2.4, alpha=0.45, markeredgewidth=0, label=_short(names[i])
            )
        low, high = 0.5, max(float(s.length.max(initial=1)) for s in sides)
        low = max(low, min(float(np.quantile(s.width, 0.001)) for s in sides if len(s.width)))
        for k in (1, 2, 4):
            ax.plot([low, high / k], [low * k, high], color=MUTED, linewidth=0.6, linestyle=(0, (2, 2)))
        ax.set_xscale("log")
        ax.set_yscale("log")
        for a in (ax.xaxis, ax.yaxis):
            a.set_major_locator(FixedLocator([k * 10**p for p in range(5) for k in (1, 2, 5)]))
            a.set_major_formatter(lambda v, _: f"{v:g}")
            a.set_minor_locator(NullLocator())
        ax.set_xlabel("width, px")
        ax.set_ylabel("length, px")
        if len(sides) > 1:
            ax.legend(loc="upper left", frameon=False, fontsize=7.5, handlelength=1.0)

    note = f"{' and '.join(count(len(r)) for r in rows)} objects drawn by lot; dashed: ratio 1, 2 and 4"
    return [Plot("Length and width", note, _svg(fill, _HALF))]


def _cells(s: Sides) -> Floats:
    at = np.clip(s.centre, 0, 1 - 1e-9)
    cells, _, _ = np.histogram2d(at[:, 1], at[:, 0], bins=CELLS, range=((0, 1), (0, 1)))
    return np.asarray(cells, np.float64)


def _shape(data: Dataset) -> tuple[float, float]:
    h, w = data.records[0].size
    return float(h), float(w)


# -- examples -----------------------------------------------------------------------------------------------------


def _examples(data: Dataset, ledger: Ledger) -> list[dict[str, str]]:
    """Pictures with the median number of objects, with many, and with the most, their labels drawn."""
    from tercel.data.video import read_frame

    order = sorted(range(len(data)), key=lambda i: (len(data.records[i].objects), data.records[i].id))
    places = (np.array([0.5, 0.9, 1.0])[:EXAMPLES] * (len(order) - 1)).round().astype(int)
    out = []
    for i in dict.fromkeys(order[k] for k in places):
        r = data.records[i]
        try:
            image = read_frame(r.frames[0])
            drawn = draw(image, r.objects, data.schema, labels=False, legend=True)
        except (TercelError, ValueError) as e:
            ledger.add("explore.picture", Severity.WARNING, "pictures cannot be shown", f"{r.id}: {e}")
            continue
        n = int((~r.objects.ignore).sum())
        out.append({"src": data_uri(_at_most(drawn)), "id": r.id, "words": f"{count(n)} object{'s' * (n != 1)}"})
    return out


def _at_most(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    small = Image.fromarray(picture)
    small.thumbnail((WIDTH, 4 * WIDTH))
    return np.asarray(small)
