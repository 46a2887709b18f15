"""Tables of the lab on the terminal: agreement, comparison, calibration. Rows come as plain values (`LabResult`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tercel.core.finding import Score
from tercel.report.tables import _columns, _part, _table, interval
from tercel.report.words import fixed, score_of

if TYPE_CHECKING:
    from rich.console import Console

    from tercel.lab import LabResult

_MOST = 10  # rows of what may be long; --json has all
_BAR = 40
_CURVE = 9
# Which thresholds a narrow terminal leaves out first.
_THRESHOLDS = "AP50 AP55:1 AP60:3 AP65:2 AP70:4 AP75 AP80:6 AP85:5 AP90:8 AP95:7"


def print_lab(console: Console, result: LabResult) -> None:
    """Any result of tercel.lab."""
    printers = {"agreement": print_agreement, "comparison": print_comparison, "calibration": print_calibration}
    if result.kind in printers:
        printers[result.kind](console, result.scores, result.report)
    else:
        print_suspects(console, result.report)


def print_agreement(console: Console, scores: Sequence[Score], report: Mapping[str, Any]) -> None:
    """Overlaps in every direction, their histogram, classes that differ, what stands alone; the ceiling beside the
    model."""
    rows = [[s.where.get("direction", ""), fixed(s.value), interval(s), str(s.n)] for s in scores if s.name == "mIoU"]
    _part(console, f"mean IoU of {_geometry(report)}, A = {report['a']}, B = {report['b']}")
    console.print(_table(console, _columns("direction mIoU 95% n"), rows))
    rows = [[s.name, fixed(s.value), interval(s), str(s.n)] for s in scores if s.name.startswith(("paired", "same"))]
    console.print()
    console.print(_table(console, _columns("share value 95% n"), rows))
    filled = [h for h in report["histogram"] if h["n"]]
    if filled:
        first = report["histogram"].index(filled[0])
        rows = _bars([(f"{h['low']:.2f} – {h['high']:.2f}", h["n"]) for h in report["histogram"][first:]])
        _part(console, "pairs by IoU")
        console.print(_table(console, _columns("IoU n share:1", text={"share"}), rows))
    rows = [[r["of"], fixed(r["mean"], 4), fixed(r["deviation"], 4), str(r["n"])] for r in report["residuals"]]
    _part(console, "B from A, in A's own frame")
    console.print(_table(console, _columns("of mean deviation n"), rows))
    _points(console, report.get("points", ()))
    mixed = sorted((r for r in report["confusion"] if r["A"] != r["B"]), key=lambda r: -r["count"])
    if mixed:
        rows = [[r["A"], r["B"], str(r["count"])] for r in mixed[:_MOST]]
        _part(console, f"pairs of two classes{_of(mixed)}")
        console.print(_table(console, _columns("A B pairs", text={"B"}), rows))
    _alone(console, report["alone"])
    _ceiling(console, report)


def _points(console: Console, points: Sequence[Mapping[str, Any]]) -> None:
    """How far two labels of each named point lie apart, and the sigmas to judge with."""
    if not points:
        return
    rows = [[p["point"], str(p["n"]), str(p["one_only"]), fixed(p["px"], 2), fixed(p["share"]), fixed(p["sigma"], 4),
             f"{fixed(p['low'], 4)} – {fixed(p['high'], 4)}"] for p in points]  # fmt: skip
    _part(console, "two labels of each point: mean distance in px and as a share of the box's longer side, OKS sigma")
    console.print(_table(console, _columns("point both one_only px share sigma 95%"), rows))
    if all(p["sigma"] for p in points):
        values = ",".join(f"{p['sigma']:.4g}" for p in points)
        console.print(f"to judge with them: --sigmas {values}", markup=False, highlight=False, soft_wrap=True)


def _alone(console: Console, alone: Sequence[Mapping[str, Any]]) -> None:
    counts: dict[tuple[str, str], int] = {}
    for r in alone:
        counts[r["side"], r["class"]] = counts.get((r["side"], r["class"]), 0) + 1
    if not counts:
        return
    rows = [[f"only in {side}", name, str(n)] for (side, name), n in sorted(counts.items())]
    _part(console, "objects without a partner")
    console.print(_table(console, _columns("side class objects", text={"class"}), rows))
    pictures: dict[str, int] = {}
    for r in alone:
        pictures[r["picture"]] = pictures.get(r["picture"], 0) + 1
    worst = sorted(pictures.items(), key=lambda x: -x[1])
    _part(console, f"pictures with most of them{_of(worst)}")
    console.print(_table(console, _columns("picture objects"), [[p, str(n)] for p, n in worst[:_MOST]]))


def _ceiling(console: Console, report: Mapping[str, Any]) -> None:
    """The truth labelled again, and the model, one row each, over all classes."""
    listed = report.get("ceiling")
    if not listed:
        return
    rows = [["model", *_ap(r)] for r in report.get("model") or () if r["class"] is None]
    rows += [[f"truth, {r['ceiling']}", *_ap(r)] for r in listed["table"] if r["class"] is None]
    _part(console, f"AP that the truth itself would get (mean of {listed['rule']['draws']} draws)")
    console.print(_table(console, _columns(f"against_A mean {_THRESHOLDS}"), rows))


def print_comparison(console: Console, scores: Sequence[Score], report: Mapping[str, Any]) -> None:
    """Every metric of A and B with the difference, its interval and p; settings that differ; pictures that changed."""
    names = report["names"]
    rows = []
    for r in report["table"]:
        spread = "–" if score_of(r["low"]) != score_of(r["low"]) else f"{r['low']:+.3f} – {r['high']:+.3f}"
        value = score_of(r["difference"])
        change = "–" if math.isnan(value) else f"{value:+.3f}"
        rows.append(
            [r["metric"], r["class"] or "all", fixed(r["A"]), fixed(r["B"]), change, spread, fixed(r["p"]), str(r["n"])]
        )
    _part(console, f"{_geometry(report)}, A = {names[0]}, B = {names[1]}")
    console.print(_table(console, _columns("metric class A B B-A 95% p n:1", text={"class"}), rows))
    settings = report.get("settings") or {}
    if settings:
        _part(console, "settings that differ")
        cells = [[k, str(a), str(b)] for k, (a, b) in settings.items()]
        console.print(_table(console, _columns("setting A B", text={"A", "B"}), cells))
    changed = [r for r in report["pictures"] if r["change"]]
    if changed:
        cells = [[r["picture"], fixed(r["mistakes_A"], 1), fixed(r["mistakes_B"], 1), f"{r['change']:+.1f}"]
                 for r in changed[:_MOST]]  # fmt: skip
        _part(console, f"pictures that changed most{_of(changed)}: false positives and misses, mean over thresholds")
        console.print(_table(console, _columns("picture A B fewer"), cells))


def print_calibration(console: Console, scores: Sequence[Score], report: Mapping[str, Any]) -> None:
    """The factors, AP with and without them, AP against each factor alone, and the reliability of the scores."""
    boxes, map_ = report["boxes"], report["score_map"]
    _part(console, f"{_geometry(boxes)}, fitted on {report['truth']}")
    rows = [[f"{k} (degrees)" if k == "angle" else k, _factor(k, v)] for k, v in report["factors"].items()]
    console.print(_table(console, _columns("parameter value"), rows))
    _part(console, "AP on the fitting data (cross-fitted: each half under the factors of the other)")
    console.print(
        _table(console, _columns(f"boxes mean {_THRESHOLDS}"), [[r["boxes"], *_ap(r)] for r in _means(boxes["table"])])
    )
    if "test" in report:
        _part(console, f"AP on {report['test']['truth']}")
        rows = [[r["boxes"], *_ap(r)] for r in _means(report["test"]["table"])]
        console.print(_table(console, _columns(f"boxes mean {_THRESHOLDS}"), rows))
    for name, curve in boxes["curves"].items():
        picked = _spaced(curve)
        words = [f"{math.degrees(x):+.1f}°" if name == "angle" else f"{x:.3f}" for x, _ in picked]
        _part(console, f"AP against {name} alone")
        console.print(_table(console, _columns(" ".join([name, *words])), [["AP", *(fixed(y) for _, y in picked)]]))
    rows = [
        [s.name, s.where["scores"], fixed(s.value, 4), interval(s), str(s.n)] for s in scores if "scores" in s.where
    ]
    _part(console, f"scores: {map_['method']} map chosen; errors after a map are cross-fitted")
    console.print(_table(console, _columns("error scores value 95% n", text={"scores"}), rows))
    rows = [[f"{r['low']:.2f} – {r['high']:.2f}", str(r["n"]), fixed(r["confidence"]), fixed(r["precision"])]
            for r in map_["bins"] if r["scores"] == "as given" and r["n"]]  # fmt: skip
    console.print()
    console.print(_table(console, _columns("score n mean_score share_right"), rows))


def print_suspects(console: Console, report: Mapping[str, Any]) -> None:
    """How many of each kind, and the likeliest."""
    console.print(_table(console, _columns("doubt suspects"), [[k, str(n)] for k, n in report["counts"].items()]))
    classes = report["classes"]
    name = lambda c: "–" if c is None else classes[c]  # noqa: E731
    rows = [[s["picture"], s["kind"], name(s["given"]), name(s["proposed"]), fixed(s["likelihood"]), fixed(s["iou"])]
            for s in report["suspects"][:_MOST]]  # fmt: skip
    if rows:
        _part(console, f"the likeliest{_of(report['suspects'])}")
        words = "picture doubt labelled believed likelihood IoU"
        console.print(_table(console, _columns(words, text={"doubt", "labelled", "believed"}), rows))


def _factor(name: str, value: float) -> str:
    return str(value) if name == "knots" else fixed(math.degrees(value) if name == "angle" else value, 4)


def _means(table: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [r for r in table if r["class"] is None]


def _ap(row: Mapping[str, Any]) -> list[str]:
    return [fixed(row.get(w.partition(":")[0])) for w in ("AP", *_THRESHOLDS.split())]


def _geometry(report: Mapping[str, Any]) -> str:
    kind = report.get("geometry") or report["rule"]["geometry"]
    return "oriented boxes" if kind == "oriented" else "axis-aligned boxes"


def _of(rows: Sequence[Any]) -> str:
    return f" ({_MOST} of {len(rows)})" if len(rows) > _MOST else ""


def _bars(counts: Sequence[tuple[str, int]]) -> list[list[str]]:
    most = max(n for _, n in counts)
    return [[name, str(n), "▇" * round(_BAR * n / most)] for name, n in counts]


def _spaced(curve: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """A few points of a curve, its ends, its best and the neutral one among them."""
    best = max(range(len(curve)), key=lambda i: score_of(curve[i][1]))
    neutral = min(range(len(curve)), key=lambda i: min(abs(curve[i][0] - 1), abs(curve[i][0])))
    step = max(1, (len(curve) - 1) // (_CURVE - 1))
    chosen = sorted({*range(0, len(curve), step), len(curve) - 1, best, neutral})
    return [curve[i] for i in chosen]
