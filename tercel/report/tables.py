"""Tables on the terminal, by rich; plain text without boxes or colours when the output is not a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tercel.core.finding import Finding, Score, Severity
from tercel.report.reading import View
from tercel.report.words import fixed, score_of

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


def print_report(console: Console, scores: Sequence[Score], report: Mapping[str, Any]) -> None:
    """Any judge's report as plain values (`to_json`, or out of metrics.json)."""
    kind = (report.get("rule") or {}).get("protocol")
    if kind == "points":
        print_points(console, report)
        events = report.get("events")  # of a network that has both
        if events:
            _part(console, "events")
            print_events(console, [Score.from_json(s) for s in events["scores"]], events)
    elif kind == "events":
        print_events(console, scores, report)
    elif kind == "keypoints":
        from tercel.report.keypoint_tables import print_keypoints  # it needs what is below

        print_keypoints(console, scores, report)
    elif kind == "crowd":
        from tercel.report.crowd_tables import print_crowd

        print_crowd(console, scores, report)
    else:
        print_scores(console, scores, report.get("table") or (), report.get("sizes") or ())
        print_breakdown(console, report)


# -- boxes at every threshold -------------------------------------------------------------------------------------

_MOST_CLASSES = 20  # beyond them only the mean; report.html and --json have it all
_MOST_SLICES = 20
# Which thresholds the terminal drops first when it is narrow.
_SPARE = {0.55: 1, 0.65: 2, 0.6: 3, 0.7: 4, 0.85: 5, 0.8: 6, 0.95: 7, 0.9: 8}
_INTERPOLATION = {"101": "101-point", "every": "every-point", "11": "11-point"}


def print_breakdown(console: Console, report: Mapping[str, Any]) -> None:
    """AP and TP/FP at every overlap threshold, of oriented boxes also for their hulls; then sources and groups."""
    for part in (report, report.get("hulls")):
        rows = (part or {}).get("thresholds") or ()
        if part and len({r["iou"] for r in rows}) > 1:
            _part(console, f"AP at IoU, {_rule(part['rule'])}")
            console.print(_thresholds(console, rows, lambda r: fixed(r["AP"]), mean=True))
            _part(console, f"TP/FP at IoU, {_rule(part['rule'])}")
            console.print(_thresholds(console, rows, lambda r: f"{r['TP']}/{r['FP']}"))
    for by in dict.fromkeys(r["by"] for r in report.get("slices") or ()):
        mine = sorted((r for r in report["slices"] if r["by"] == by), key=_by_ap)
        shown = f"the {_MOST_SLICES} worst of {len(mine)} {by}s" if len(mine) > _MOST_SLICES else f"by {by}"
        cells = [[r["name"] or "–", str(r["pictures"]), *(fixed(r.get(k)) for k in ("AP", "AP50", "AP75")),
                  *_counts(r)] for r in mine[:_MOST_SLICES]]  # fmt: skip
        _part(console, shown)
        console.print(_table(console, _columns(f"{by} pictures:2 AP AP50 AP75:3 GT TP FP FN:1 ignored:1"), cells))


def _rule(rule: Mapping[str, Any]) -> str:
    """What was judged, and how, in a few words."""
    what = {"oriented": "oriented boxes", "boxes": "axis-aligned boxes"}.get(rule.get("geometry", "boxes"), "boxes")
    interpolation = _INTERPOLATION.get(rule["interpolation"], rule["interpolation"])
    return f"{what}, {interpolation}, {rule.get('matching', 'coco').upper()} matching"


def _thresholds(
    console: Console, rows: Sequence[Mapping[str, Any]], cell: Callable[[Mapping[str, Any]], str], mean: bool = False
) -> Table:
    """Classes down, thresholds across; the first row is over all classes."""
    ious = list(dict.fromkeys(r["iou"] for r in rows))
    names = list(dict.fromkeys(r["class"] for r in rows))
    if len(names) - 1 > _MOST_CLASSES:
        names = [None]
    of = {(r["class"], r["iou"]): r for r in rows}
    columns = [_Column("class", True, 0), _Column("mean" if mean else "GT", False, 0)]
    columns += [_Column(f"{x:.2f}"[1:] if x < 1 else "1", False, _SPARE.get(x, 0)) for x in ious]
    cells = []
    for name in names:
        own = [of[name, x] for x in ious]
        values = [score_of(r["AP"]) for r in own]
        first = fixed(sum(values) / len(values)) if mean else str(own[0]["GT"])
        cells.append(["all" if name is None else str(name), first, *map(cell, own)])
    return _table(console, columns, cells)


def _by_ap(row: Mapping[str, Any]) -> float:
    ap = score_of(row["AP"])
    return math.inf if math.isnan(ap) else ap  # no truth, no AP


# -- a ball in video ----------------------------------------------------------------------------------------------

_STEPS = (1, 2, 3, 4, 5, 7, 10, 15, 20)  # px of the tolerance curve that the terminal shows
_OUTCOMES = "TP FP_wrong:8 FP_ghost:7 FN:6 TN:5"
_WORST = 10


def print_points(console: Console, report: Mapping[str, Any]) -> None:
    """One row per rule; then, under the first rule, the tolerance curve, visibility classes, filled points, rallies."""
    table = report["table"]
    first = table[0]["rule"]
    spread = {s["where"].get("rule"): Score.from_json(s) for s in reversed(report["scores"]) if s["name"] == "F1"
              and set(s["where"]) == {"rule"}}  # fmt: skip
    names = "rule means:3 F1 95%:8 precision:9 recall:9 recall_all:2 accuracy:4 all_absent:1 AP:6"
    rows = [
        [r["rule"], r["means"], fixed(r["F1"]), interval(spread[r["rule"]]) if r["rule"] in spread else "–",
         *(fixed(r[k]) for k in ("precision", "recall", "recall_all", "accuracy", "accuracy_all_absent", "AP")),
         *_outcomes(r), fixed(r["RMS_error"], 1)]
        for r in table
    ]  # fmt: skip
    console.print(_table(console, _columns(f"{names} {_OUTCOMES} RMS:4", text={"means"}), rows))
    curve = {r["tolerance"]: r for r in report["curve"]}
    rows = [[k, *(fixed(curve[px][k]) for px in _STEPS)] for k in ("F1", "precision", "recall_all")]
    _part(console, "within px of the original frame")
    console.print(_table(console, _columns("px " + " ".join(map(str, _STEPS))), rows))
    errors = "mean_error RMS_error"
    mine = [r for r in report["visibility"] if r["rule"] == first]
    rows = [[r["visibility"], str(r["frames"]), *_outcomes(r), fixed(r.get("recall")), fixed(r.get("recall_all")),
             fixed(r.get("mean_error"), 1), fixed(r.get("RMS_error"), 1)] for r in mine]  # fmt: skip
    _part(console, f"by visibility, {first}")
    console.print(
        _table(console, _columns(f"class frames TP FP_wrong FP_ghost FN TN recall recall_all {errors}"), rows)
    )
    mine = [r for r in report["filled"] if r["rule"] == first]
    if mine:
        rows = [[f"{r['filled']} filled", *_outcomes(r), fixed(r.get("F1")), fixed(r.get("precision")),
                 fixed(r.get("mean_error"), 1), fixed(r.get("RMS_error"), 1)] for r in mine]  # fmt: skip
        _part(console, f"points that the motion model filled in, {first}")
        console.print(_table(console, _columns(f"points TP FP_wrong FP_ghost FN TN F1 precision {errors}"), rows))
    mine = sorted((r for r in report["rallies"] if r["rule"] == first), key=_by_f1)
    if len(mine) > 1:
        rows = [[r["rally"], str(r["frames"]), fixed(r["F1"]), fixed(r["precision"]), fixed(r["recall"]),
                 *_outcomes(r), fixed(r["RMS_error"], 1)] for r in mine[:_WORST]]  # fmt: skip
        shown = f"the {_WORST} worst of {len(mine)} rallies" if len(mine) > _WORST else "rallies, the worst first"
        _part(console, f"{shown}, {first}")
        console.print(_table(console, _columns(f"rally frames F1 precision recall {_OUTCOMES} RMS"), rows))


def _by_f1(row: Mapping[str, Any]) -> float:
    f1 = score_of(row["F1"])
    return math.inf if math.isnan(f1) else f1  # a rally without a ball has none


def _outcomes(row: Mapping[str, Any]) -> list[str]:
    return [str(row.get(k, "–")) for k in ("TP", "FP_wrong", "FP_ghost", "FN", "TN")]


def _part(console: Console, title: str) -> None:
    console.print()
    console.print(_text(title), style="bold" if console.is_terminal else "")


# -- events -------------------------------------------------------------------------------------------------------


def print_events(console: Console, scores: Sequence[Score], report: Mapping[str, Any]) -> None:
    """PCE and SPCE per kind of window, AP per class and tolerance, who was taken for whom, and the other scores."""
    if report["windows"]:
        keys = [k for k in report["windows"][0] if k not in ("windows", "n")]
        rows = [[r["windows"], str(r["n"]), *(fixed(r[k]) for k in keys)] for r in report["windows"]]
        console.print(_table(console, _columns(" ".join(["windows", "n", *keys])), rows))
        console.print()
    keys = [k for k in report["spotting"][0] if k.startswith("AP@")]
    rows = [
        ["all answers" if r.get("nms") == 0 else f"best of ±{r['nms']}" if "nms" in r else "as given",
         r["class"] or "mean", str(r["n"]), *(fixed(r[k]) for k in keys)]
        for r in report["spotting"]
    ]  # fmt: skip
    console.print(_table(console, _columns(" ".join(["answers", "class", "events", *keys]), text={"class"}), rows))
    for of in dict.fromkeys(r["of"] for r in report["confusion"]):
        cells = {(r["true"], r["predicted"]): str(r["count"]) for r in report["confusion"] if r["of"] == of}
        names = list(dict.fromkeys(t for t, _ in cells))
        rows = [[t, *(cells.get((t, p), "–") for p in names)] for t in names]
        _part(console, f"{of}: true (down) taken for (across)")
        console.print(_table(console, _columns(" ".join(["true", *names])), rows))
    shown = [s for s in scores if s.name.startswith(("timing", "false_alarm")) and "class" not in s.where]
    console.print()
    rows = [[s.name, fixed(s.value), interval(s), str(s.n), _where(s)] for s in shown]
    console.print(_table(console, _columns("score value 95% n where:3", text={"where"}), rows))


# -- tables of counts ---------------------------------------------------------------------------------------------


def print_checked(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of tercel.metrics.counts.check_table: what is printed, and what the counts say where that differs."""
    cells = []
    for r in rows:
        total = str(r.get("total", "–"))
        if "sum" in r and r["sum"] != r["total"]:
            total += f" ≠ {r['sum']}"
        ratios = [r.get(k) for k in ("accuracy", "precision", "recall", "F1")]
        verdict = {True: "yes", False: "no", None: "–"}[r["ok"]]
        cells.append([r["name"], str(r["line"]), verdict, total, *map(_printed, ratios)])
    console.print(_table(console, _columns("row line:1 adds_up total accuracy precision recall F1"), cells))


def _printed(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return "–"
    return f"{ratio['printed']:g}" if ratio["ok"] else f"{ratio['printed']:g} ≠ {ratio['computed']:.4g}"


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
    width[0], first = min(max(8, width[0]), 24), width[0]  # a long name is cut before a column is left out
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
