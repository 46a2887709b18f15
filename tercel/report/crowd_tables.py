"""Tables of a judged crowd on the terminal, out of `CrowdReport.to_json` or metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tercel.core.finding import Score
from tercel.metrics.crowd import PARTS
from tercel.report.tables import _columns, _part, _table, _text, _where, interval, print_breakdown
from tercel.report.words import count, fixed, score_of

if TYPE_CHECKING:
    from rich.console import Console

SLICES = {
    "persons": "by persons in the picture",
    "overlap": "by the highest IoU of a person with another",
    "occlusion": "by the hidden share of a person",
}


def counts(report: Mapping[str, Any]) -> str:
    """What was judged, under which cap, in one sentence."""
    c, cap = report.get("counts") or {}, (report.get("rule") or {}).get("max_detections")
    limit = f"{count(c.get('beyond_cap'))} of them beyond the cap of {cap[0]} per picture" if cap else "no cap"
    return (
        f"{count(c.get('persons'))} persons and {count(c.get('ignored'))} ignored boxes in "
        f"{count(c.get('pictures'))} pictures; {count(c.get('detections'))} detections, {limit}"
    )


def print_crowd(console: Console, scores: Sequence[Score], report: Mapping[str, Any]) -> None:
    """Scores over everything; the points behind MR-2 and JI; slices; then COCO's AP at every IoU."""
    overall = [s for s in scores if not set(PARTS) & set(s.where)]
    rows = [[s.name, fixed(s.value), interval(s), str(s.n), _where(s)] for s in overall]
    console.print(_table(console, _columns("score value 95% n where:3", text={"where"}), rows))
    console.print()
    said = counts(report).replace("\u202f", " ")  # a terminal may not know the page's thin spaces
    console.print(_text(f"{said}. Of MR-2 lower is better."), soft_wrap=True)
    miss = report.get("miss_rates") or ()
    if miss:
        _part(console, "miss rate at false positives per picture; * the curve ends before")
        cells = [fixed(r["miss_rate"]) + ("" if r["reached"] else "*") for r in miss]
        names = " ".join(f"{r['fppi']:.3g}".lstrip("0") for r in miss)
        console.print(_table(console, _columns(f"FPPI {names}"), [["miss", *cells]]))
    index = report.get("jaccard") or ()
    if index:
        _part(console, "JI above a score")
        names = " ".join(f"{r['threshold']:g}".lstrip("0") or "0" for r in index)
        console.print(_table(console, _columns(f"score {names}"), [["JI", *(fixed(r["JI"]) for r in index)]]))
    for by, title in SLICES.items():
        mine = [r for r in report.get("crowds") or () if r["by"] == by]
        if mine:
            _part(console, title)
            console.print(_slices(console, mine))
    print_breakdown(console, report)


def _slices(console: Console, rows: Sequence[Mapping[str, Any]]) -> Any:
    names = ("AP50", "MR-2", "JI") if rows[0]["by"] == "persons" else ("AP50", "MR-2")
    cells = []
    for r in rows:
        row = [r["name"], str(r["pictures"]), str(r["n"]), fixed(r["recall"])]
        for name in names:
            low, high = (score_of(r[f"{name}_{end}"]) for end in ("low", "high"))
            row += [fixed(r[name]), interval(Score(name, score_of(r[name]), r["n"], low, high))]
        cells.append(row)
    head = "slice pictures:5 persons recall:4 AP50 95%:1 MR-2 95%:2"
    return _table(console, _columns(f"{head} JI 95%:3" if "JI" in names else head), cells)
