"""Tables on the terminal, by rich; plain text without boxes or colours when the output is not a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tercel.core.finding import Finding, Score, Severity
from tercel.report.reading import View
from tercel.report.words import fixed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COUNTS = ("GT", "TP", "FP", "FN", "ignored")


def print_scores(
    console: Console, scores: Sequence[Score], table: Sequence[Mapping[str, Any]] = (), sizes: Sequence[Any] = ()
) -> None:
    """Overall scores with their intervals, then one row per class and one per size.

    Args:
        scores: only those over all classes are listed.
        table, sizes: rows of BoxReport (tercel.metrics.ap); what is undefined shows as a dash.
    """
    overall = [s for s in scores if "class" not in s.where]
    out = _table(console, ("score", ""), ("value", "r"), ("95 %", "r"), ("n", "r"), ("where", ""))
    for s in overall:
        out.add_row(_text(s.name), fixed(s.value), interval(s), str(s.n), _text(_where(s)))
    console.print(out)
    if table:
        spread = {s.where.get("class"): s for s in scores if s.name == "AP" and set(s.where) == {"class"}}
        counts = [c for c in _COUNTS if any(c in r for r in table)]
        columns = [("class", ""), ("AP", "r"), ("95 %", "r"), ("AP50", "r"), *((c, "r") for c in counts)]
        best = [("threshold", "r"), ("precision", "r"), ("recall", "r")]
        out = _table(console, *columns, *best)
        for r in table:
            own = spread.get(r["class"])
            out.add_row(
                _text(str(r["class"])),
                fixed(r.get("AP")),
                interval(own) if own else "–",
                fixed(r.get("AP50")),
                *(str(r.get(c, "–")) for c in counts),
                *(fixed(r.get(k)) for k, _ in best),
            )
        console.print(out)
    if sizes:
        counts = [c for c in _COUNTS[:4] if any(c in r for r in sizes)]
        columns = [("size", ""), ("AP", "r"), ("AP50", "r"), ("AR", "r"), *((c, "r") for c in counts)]
        out = _table(console, *columns)
        for r in sizes:
            values = (fixed(r.get(k)) for k in ("AP", "AP50", "AR"))
            out.add_row(_text(str(r["size"])), *values, *(str(r.get(c, "–")) for c in counts))
        console.print(out)


def runs_table(console: Console, runs: Sequence[View]) -> Table:
    """One row per run: what it is, how far it came, its main scores; the newest last."""
    names = list(dict.fromkeys(s.name for v in runs for s in v.headline))[:4]
    columns = [("run", ""), ("recipe", ""), ("status", ""), ("started", ""), ("epochs", "r"), ("minutes", "r")]
    out = _table(console, *columns, *((n, "r") for n in names), ("data", ""))
    for v in sorted(runs, key=lambda v: str(v.info.get("started"))):
        recipe, val = v.info.get("recipe") or {}, v.info.get("val") or {}
        done, planned = v.epochs
        seconds = v.info.get("seconds")
        scores = {s.name: s for s in v.headline}
        out.add_row(
            _text(v.name),
            _text(str(recipe.get("name", "–"))),
            v.status,
            str(v.info.get("started") or "–")[:16].replace("T", " "),
            f"{done}/{planned or '–'}",
            fixed(seconds / 60 if isinstance(seconds, int | float) else None, 1),
            *(fixed(scores[n].value) if n in scores else "–" for n in names),
            _text(str(val.get("fingerprint") or "–")[:8]),
        )
    return out


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Findings, the gravest first, each with its places."""
    from rich.text import Text

    colors = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}
    for f in sorted(findings, key=lambda f: list(Severity).index(f.severity)):
        line = Text(f"{f.severity}: ", style=colors[f.severity])
        line.append(_clean(str(f).partition(": ")[2]), style="")
        console.print(line, soft_wrap=True)


def interval(s: Score) -> str:
    """low – high, or a dash where no interval was computed."""
    return "–" if math.isnan(s.low) or math.isnan(s.high) else f"{s.low:.3f} – {s.high:.3f}"


def _where(s: Score) -> str:
    return ", ".join(f"{k} {fixed(v) if isinstance(v, float) else v}" for k, v in s.where.items())


def _table(console: Console, *columns: tuple[str, str]) -> Table:
    """A table with two blanks between columns; a line under the header on a terminal only."""
    from rich import box
    from rich.table import Table

    style = box.SIMPLE_HEAD if console.is_terminal else None
    out = Table(box=style, padding=(0, 1), pad_edge=False, show_edge=False, header_style="bold")
    for name, side in columns:
        out.add_column(name, justify="right" if side else "left", no_wrap=bool(side) or not console.is_terminal)
    return out


def _text(value: str) -> Any:
    """Names from outside are text: never markup, and no control characters reach the terminal."""
    from rich.text import Text

    return Text(_clean(value))


def _clean(value: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in value)
