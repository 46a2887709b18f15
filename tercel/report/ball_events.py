"""What report.html shows of events in time: scores, which was taken for which, and how early or late they came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from tercel.metrics.spotting import listed, match, ranked
from tercel.report.plots import ACCENT, MUTED, Plot, _svg
from tercel.report.reading import View
from tercel.report.words import count, fixed, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WITHIN = 5  # frames within which an event and its prediction are the same


def events(view: View) -> dict[str, Any] | None:
    """The events section, or None for a run without events."""
    report = view.report.get("events")
    if not isinstance(report, Mapping):
        return None
    late = offsets(view)
    plot = timing(late) if late is not None else None
    return {
        "rows": _scores(report),
        "confusion": _confusion(report),
        "timing": plot and {"title": plot.title, "note": plot.note, "svg": Markup(plot.svg)},
    }


def _scores(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores over all classes; where answers were thinned out in several ways, those of the first way."""
    scores = [s for s in report.get("scores") or () if "class" not in (s.get("where") or {})]
    ways = [s["where"]["nms"] for s in scores if "nms" in s["where"]][:1]
    out = []
    for s in (s for s in scores if "nms" not in s["where"] or s["where"]["nms"] in ways):
        where = ", ".join(f"{k} {plain(v)}" for k, v in s["where"].items()) or "over all"
        ratio = not s["name"].startswith(("timing", "false_alarms"))
        out.append({**s, "name": s["name"].replace("_", " "), "words": where, "digits": 3 if ratio else 2})
    return out


def _confusion(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Truth by row, prediction by column, each cell with its share of the row."""
    rows = [r for r in report.get("confusion") or () if isinstance(r, Mapping)]
    kind = "events" if any(r.get("of") == "events" for r in rows) else "windows"
    counts = {(str(r["true"]), str(r["predicted"])): int(r["count"]) for r in rows if r.get("of") == kind}
    names = list(dict.fromkeys(n for pair in counts for n in pair))
    if not names:
        return None
    names = [n for n in names if n != "nothing"] + ["nothing"] * ("nothing" in names)
    table = []
    for true in names:
        row = [counts.get((true, said)) for said in names]
        total = max(1, sum(n or 0 for n in row))
        cells = [
            {"n": n, "share": round(100 * (n or 0) / total), "right": true == said}
            for n, said in zip(row, names, strict=True)
        ]
        table.append((true, cells))
    note = {
        "events": "Each annotated event against the predicted one nearest to it in time, whatever its class; nothing: "
        "missed, or a false alarm.",
        "windows": "One window for each annotation, with its strongest answer.",
    }[kind]
    return {"columns": names, "rows": table, "note": note}


def offsets(view: View) -> NDArray[np.int64] | None:
    """Predicted minus true frame i64 [N] of all events that were found within a few frames; None without files."""
    if view.data is None or view.spotted is None:
        return None
    out: list[int] = []
    for name in view.data.schema.events:
        truth, pred = [], []
        for game, r in enumerate(view.data.records):
            truth += [(game, r.first + e.frame, 1.0) for e in r.events if e.name == name]
            pred += [(game, frame, score) for frame, n, score in view.spotted.get(r.id, ()) if n == name]
        t, p = listed(truth), ranked(listed(pred))
        taken = match(t, p, WITHIN)
        out += (p.frame[taken >= 0] - t.frame[taken[taken >= 0]]).tolist()
    return np.array(out, np.int64)


def timing(late: NDArray[np.int64]) -> Plot | None:
    """How many events came how many frames early (negative) or late."""
    if not len(late):
        return None
    x = np.arange(-WITHIN, WITHIN + 1)
    n = np.array([int((late == v).sum()) for v in x])

    def fill(ax: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        ax.bar(x, n, width=0.82, color=ACCENT)
        ax.axvline(0, color=MUTED, linewidth=0.6)
        ax.set_xticks(x)
        ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.grid(axis="x", visible=False)
        ax.set_xlabel("frames early (−) or late (+)")
        ax.set_ylabel("events")

    words = f"n = {count(len(late))} events found within {WITHIN} frames; mean {fixed(float(late.mean()), 2)} frames"
    return Plot("When events were found", words, _svg(fill, (4.3, 3.1)))
