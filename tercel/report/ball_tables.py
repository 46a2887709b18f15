"""Tables of a ball run's report, out of metrics.json. What is not there is a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tercel.metrics.rules import RULES
from tercel.report.reading import View
from tercel.report.words import count, fixed, score_of

COUNTS = ("TP", "FP_wrong", "FP_ghost", "FN", "TN")
_COLUMNS = (*COUNTS, "frames", "accuracy", "precision", "recall", "F1", "AP", "mean_error", "RMS_error")


def _rows(view: View, key: str) -> list[Mapping[str, Any]]:
    """Rows of one table of the judge's report."""
    return [r for r in view.report.get(key) or () if isinstance(r, Mapping)]


def rules(view: View) -> list[dict[str, Any]]:
    """One row per rule, the main one first; before the final judgement, out of the scores in the log."""
    given = {str(r.get("rule")): dict(r) for r in _rows(view, "table")}
    for s in view.scores:
        rule = s.where.get("rule")
        if rule is None or set(s.where) - {"rule", "unit"}:
            continue
        row = given.setdefault(str(rule), {})
        row.setdefault(s.name, s.value)
        if s.name == "F1":
            row |= {"low": s.low, "high": s.high}
    order = sorted(given, key=lambda name: name != view.rule)  # sorting is stable: the others keep their order
    return [_rule(name, given[name], name == view.rule) for name in order]


def _rule(name: str, row: Mapping[str, Any], main: bool) -> dict[str, Any]:
    known = RULES.get(name)
    words = str(row.get("means") or (known.words() if known else "")).replace("<=", "≤")
    if known and len(known.visible) < len(RULES["tracknet_v2_v3"].visible):
        words += ", occluded balls count as absent"
    values = {k: row.get(k) for k in _COLUMNS}
    low, high = (row.get(k, math.nan) for k in ("low", "high"))
    return {"rule": name, "words": words, "main": main, "low": low, "high": high, **values}


def by_rally(view: View) -> list[dict[str, Any]]:
    """One row per rally under the main rule, the lowest F1 first; without any ball to find last."""
    rows = [r for r in _rows(view, "rallies") if r.get("rule") == view.rule]
    out = [{"rally": str(r.get("rally")), **{k: r.get(k) for k in _COLUMNS}} for r in rows]
    return sorted(out, key=lambda r: score_of(r["F1"]) if not math.isnan(score_of(r["F1"])) else math.inf)


def splits(view: View) -> list[dict[str, Any]]:
    """The main rule's numbers taken apart: {"title", "note", "heads", "rows"} with finished cells."""
    return [t for t in (_visibility(view), _filled(view)) if t["rows"]]


def _visibility(view: View) -> dict[str, Any]:
    rows = [
        [str(r.get("visibility")), *(count(r.get(k)) for k in ("balls", "TP", "FP_wrong", "FN")),
         fixed(r.get("recall_all")), fixed(r.get("mean_error"), 1)]
        for r in _rows(view, "visibility") if r.get("rule") == view.rule and r.get("balls")
    ]  # fmt: skip
    return {
        "title": "By visibility",
        "note": "Found: the share of hits among all balls of the class.",
        "heads": ["Ball", "Balls", "Hits", "Wrong place", "Missed", "Found", "Mean, px"],
        "rows": rows,
    }


def _filled(view: View) -> dict[str, Any]:
    parts = {str(r.get("filled")): r for r in _rows(view, "filled") if r.get("rule") == view.rule}
    whole = next((r for r in _rows(view, "table") if r.get("rule") == view.rule), None)
    named = (("all", whole), ("seen", parts.get("without")), ("filled in", parts.get("only")))
    columns = ("TP", "FP_wrong", "FP_ghost")
    rows = [
        [name, *(count(r.get(k)) for k in columns), fixed(r.get("precision")), fixed(r.get("F1")),
         fixed(r.get("mean_error"), 1)]
        for name, r in named if r is not None
    ]  # fmt: skip
    return {
        "title": "Seen and filled in",
        "note": "Points that the motion model put where no detection was, apart from the others.",
        "heads": ["Points", "Hits", "Wrong place", "Ghosts", "Precision", "F1", "Mean, px"],
        "rows": rows if parts else [],
    }
