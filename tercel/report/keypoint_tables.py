"""Tables of judged keypoints on the terminal, out of `KeypointReport.to_json` or metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tercel.core.finding import Score
from tercel.report.tables import _columns, _counts, _part, _table, _thresholds, _where, interval
from tercel.report.words import fixed

if TYPE_CHECKING:
    from rich.console import Console

_PARTS = ("class", "point", "visibility")
_STEPS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)  # shares of the size that the terminal shows
_PCK = ("PCK@.05", "PCK@.1", "PCK@.2")


def print_keypoints(console: Console, scores: Sequence[Score], report: Mapping[str, Any]) -> None:
    """Scores over everything; then per point, per class, per size, PCK at every share, AP at every OKS; boxes last."""
    overall = [s for s in scores if not set(_PARTS) & set(s.where)]
    rows = [[s.name, fixed(s.value, _digits(s.name)), _interval(s), str(s.n), _where(s)] for s in overall]
    console.print(_table(console, _columns("score value 95% n where:3", text={"where"}), rows))
    _points(console, scores, report)
    table = report.get("table") or ()
    names = "class AP AP50 GT TP FP FN:3 ignored:1 threshold:4 PCK@.05 PCK@.1 px:5 swap_rate:6"
    rows = [[str(r["class"]), fixed(r.get("AP")), fixed(r.get("AP50")), *_counts(r), fixed(r.get("threshold")),
             fixed(r.get("PCK@.05")), fixed(r.get("PCK@.1")), fixed(r.get("point_error_px"), 1),
             fixed(r.get("swap_rate"))] for r in table]  # fmt: skip
    _part(console, "by class; AP and counts by OKS, counts at .5")
    console.print(_table(console, _columns(names), rows))
    sizes = report.get("sizes") or ()
    rows = [[str(r["size"]), *(fixed(r.get(k)) for k in ("AP", "AP50", "AR")), *_counts(r)[:4]] for r in sizes]
    console.print()
    console.print(_table(console, _columns("size AP AP50 AR GT TP FP FN"), rows))
    curve = {r["alpha"]: r["PCK"] for r in report.get("pck") or ()}
    if curve:
        _part(console, "points within a share of the box's longer side")
        cells = [["PCK", *(fixed(curve.get(a)) for a in _STEPS)]]
        console.print(_table(console, _columns("share " + " ".join(f"{a:g}".lstrip("0") for a in _STEPS)), cells))
    if len({r["iou"] for r in report.get("thresholds") or ()}) > 1:
        _part(console, "AP at OKS")
        console.print(_thresholds(console, report["thresholds"], lambda r: fixed(r["AP"]), mean=True))
    if report.get("boxes"):
        _boxes(console, report["boxes"])


def _points(console: Console, scores: Sequence[Score], report: Mapping[str, Any]) -> None:
    """One row per named point, with the interval of PCK@.05."""
    spread = {s.where["point"]: s for s in scores if s.name == _PCK[0] and set(s.where) == {"point"}}
    names = "point n:7 found:6 PCK@.05 95%:3 PCK@.1 PCK@.2:4 px median_px:2 % swap_rate outside:1"
    rows = []
    for r in report.get("points") or ():
        own = spread.get(r["point"])
        share = r.get("point_error")
        rows.append([
            str(r["point"]), str(r["n"]), str(r["found"]), fixed(r.get(_PCK[0])), interval(own) if own else "–",
            fixed(r.get(_PCK[1])), fixed(r.get(_PCK[2])), fixed(r.get("point_error_px"), 1),
            fixed(r.get("median_px"), 1), fixed(None if share is None else 100 * share, 1), fixed(r.get("swap_rate")),
            fixed(r.get("outside_picture")),
        ])  # fmt: skip
    if rows:
        _part(console, "by point; mean error in px and in % of the box's longer side, where the animal was found")
        console.print(_table(console, _columns(names), rows))


def _boxes(console: Console, boxes: Mapping[str, Any]) -> None:
    _part(console, "boxes of the same predictions")
    listed = [Score.from_json(s) for s in boxes["scores"]]
    rows = [[s.name, fixed(s.value), interval(s), str(s.n), _where(s)] for s in listed if "class" not in s.where]
    console.print(_table(console, _columns("score value 95% n where:3", text={"where"}), rows))


def _digits(name: str) -> int:
    return 1 if name.endswith("_px") else 3


def _interval(s: Score) -> str:
    shown = interval(s)
    return f"{s.low:.1f} – {s.high:.1f}" if _digits(s.name) == 1 and shown != "–" else shown
