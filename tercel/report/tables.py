"""Tables on the terminal, by rich; plain text without boxes or colours when the output is not a terminal."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tercel.core.finding import Finding, Score, Severity
from tercel.report.reading import View
from tercel.report.words import fixed

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
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
    rows = [[s.name, fixed(s.value), interval(s), str(s.n), _where(s)] for s in overall]
    console.print(_table(console, _columns("score value 95% n where:3", text={"where"}), rows))
    if table:
        spread = {s.where.get("class"): s for s in scores if s.name == "AP" and set(s.where) == {"class"}}
        # What the terminal has no room for is left out in this order; report.html and --json have it all.
        columns = _columns("class AP 95%:5 AP50 GT TP FP FN:3 ignored:1 threshold:4 precision recall")
        rows = []
        for r in table:
            own = spread.get(r["class"])
            head = [str(r["class"]), fixed(r.get("AP")), interval(own) if own else "–", fixed(r.get("AP50"))]
            rows.append([*head, *_counts(r), *(fixed(r.get(k)) for k in ("threshold", "precision", "recall"))])
        console.print()
        console.print(_table(console, columns, rows))
    if sizes:
        rows = [[str(r["size"]), *(fixed(r.get(k)) for k in ("AP", "AP50", "AR")), *_counts(r)[:4]] for r in sizes]
        console.print()
        console.print(_table(console, _columns("size AP AP50 AR GT TP FP FN"), rows))


def _counts(row: Mapping[str, Any]) -> list[str]:
    return [str(row.get(c, "–")) for c in _COUNTS]


def runs_table(console: Console, runs: Sequence[View]) -> Table:
    """One row per run: what it is, how far it came, its main scores; the newest last."""
    names = list(dict.fromkeys(s.name for v in runs for s in v.headline))[:4]
    words = " ".join(["run recipe:3 status started:4 epochs:5 minutes:2", *names, "data:1"])
    rows = []
    for v in sorted(runs, key=lambda v: str(v.info.get("started"))):
        recipe, val = v.info.get("recipe") or {}, v.info.get("val") or {}
        done, planned = v.epochs
        seconds = v.info.get("seconds")
        scores = {s.name: s for s in v.headline}
        rows.append(
            [
                v.name,
                str(recipe.get("name", "–")),
                v.status,
                str(v.info.get("started") or "–")[:16].replace("T", " "),
                f"{done}/{planned or '–'}",
                fixed(seconds / 60 if isinstance(seconds, int | float) else None, 1),
                *(fixed(scores[n].value) if n in scores else "–" for n in names),
                str(val.get("fingerprint") or "–")[:8],
            ]
        )
    return _table(console, _columns(words, text={"recipe", "status", "started", "data"}), rows)


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


@dataclass(frozen=True)
class _Column:
    name: str
    text: bool  # left-aligned
    spare: int  # 0 = always shown; else left out when there is no room, the lowest number first


def _columns(words: str, text: Collection[str] = ()) -> list[_Column]:
    """ "class AP 95%:5" as columns: the first one and those in `text` hold words; a number makes one dispensable."""
    out = []
    for i, word in enumerate(words.split()):
        name, _, spare = word.partition(":")
        out.append(_Column(name.replace("95%", "95 %"), i == 0 or name in text, int(spare or 0)))
    return out


def _table(console: Console, columns: Sequence[_Column], rows: Sequence[Sequence[str]]) -> Table:
    """A table with two blanks between columns that fits the terminal: dispensable columns go first, then the first
    column is cut. A line under the header on a terminal only."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table

    cells = [[_clean(c) for c in row] for row in rows]
    width = [max(cell_len(c.name), *(cell_len(r[i]) for r in cells), 0) for i, c in enumerate(columns)]
    width[0], first = min(width[0], 24), width[0]  # a long name is cut before a column is left out
    kept = list(range(len(columns)))
    while sum(width[i] for i in kept) + 2 * (len(kept) - 1) > console.width:
        spare = [i for i in kept if columns[i].spare]
        if not spare:
            break
        kept.remove(min(spare, key=lambda i: columns[i].spare))
    style, blanks = (box.SIMPLE_HEAD, 1) if console.is_terminal else (None, 2)  # the box adds one of its own
    out = Table(box=style, padding=(0, blanks, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    rest = sum(width[i] + 2 for i in kept[1:])
    width[0] = max(8, min(first, console.width - rest))
    for i in kept:
        c = columns[i]
        side: JustifyMethod = "left" if c.text else "right"
        out.add_column(_text(c.name), justify=side, no_wrap=True, overflow="ellipsis", width=width[i])
    for r in cells:
        out.add_row(*(_text(r[i]) for i in kept))
    return out


def _text(value: str) -> Any:
    """Names from outside are text: never markup, and no control characters reach the terminal."""
    from rich.text import Text

    return Text(_clean(value))


def _clean(value: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in value)
