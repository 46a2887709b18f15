"""Where a score is lost, on the terminal: tables of tercel.metrics.anatomy, from its plain values (`to_json`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tercel.core.finding import Score
from tercel.report.tables import _columns, _part, _table, interval
from tercel.report.words import fixed

if TYPE_CHECKING:
    from rich.console import Console

KINDS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
_QUANTILES = "q05:1 q25:3 q50 q75:3 q95:1"
_PARTS = {"OC_cost": "all of it", "OC_cost_place": "moving boxes", "OC_cost_class": "naming classes",
          "OC_cost_extra": "deleting detections", "OC_cost_missing": "adding objects"}  # fmt: skip


def print_errors(console: Console, errors: Mapping[str, Any]) -> None:
    """TIDE's errors, oLRP per class, how found boxes lie and what that costs, OC-cost."""
    rule = errors["rule"]
    what = "oriented boxes" if rule["geometry"] == "oriented" else "axis-aligned boxes"
    _tide(console, errors["tide"], what)
    _lrp(console, errors["lrp"])
    _placement(console, errors["placement"])
    _occost(console, errors["occost"])


def _overall(part: Mapping[str, Any]) -> dict[str, Score]:
    """Scores over all classes and sizes, by name."""
    scores = [Score.from_json(s) for s in part["scores"]]
    return {s.name: s for s in scores if not {"class", "size"} & s.where.keys()}


def _tide(console: Console, part: Mapping[str, Any], what: str) -> None:
    rule, spread = part["rule"], _overall(part)
    ap = next(s for n, s in spread.items() if not n.startswith("dAP_"))
    _part(console, f"errors of {what} (TIDE): what repairing each kind would add to {ap.name} = {fixed(ap.value)}, "
                   f"hit from IoU {rule['positive']:g}, background up to {rule['background']:g}")  # fmt: skip
    rows = [[r["error"], str(r["count"]), fixed(r["dAP"]), interval(spread[f"dAP_{r['error']}"]), r["meaning"]]
            for r in part["table"]]  # fmt: skip
    console.print(_table(console, _columns("error count dAP 95% meaning:1", text={"meaning"}), rows))
    if len(part["by_class"]) > 1:
        rows = [[r["class"], *(f"{fixed(r[f'dAP_{k}'])} ({r[k]})" for k in KINDS)] for r in part["by_class"]]
        _part(console, "dAP (count) by class")
        console.print(_table(console, _columns("class Cls Loc Both:1 Dupe:2 Bkg Miss"), rows))


def _lrp(console: Console, part: Mapping[str, Any]) -> None:
    spread = _overall(part)
    names = ("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")
    rows = [["mean", *(fixed(spread[n].value) for n in names), interval(spread["oLRP"]), "–", *["–"] * 4]]
    for r in part["table"]:
        s = next((Score.from_json(s) for s in part["scores"] if s["name"] == "oLRP"
                  and s["where"].get("class") == r["class"] and "size" not in s["where"]), None)  # fmt: skip
        numbers = [str(r[k]) for k in ("GT", "TP", "FP", "FN")]
        rows.append([r["class"], *(fixed(r[n]) for n in names), interval(s) if s else "–", fixed(r["threshold"]),
                     *numbers])  # fmt: skip
    _part(console, "oLRP (0 is best), and the score threshold where it is least")
    words = "class oLRP localisation FP_share FN_share 95%:1 threshold GT:3 TP:2 FP:2 FN:2"
    console.print(_table(console, _columns(words), rows))


def _placement(console: Console, part: Mapping[str, Any]) -> None:
    rule, spread = part["rule"], _overall(part)
    rows = []
    for r in part["table"]:
        if r["class"] is None and r["n"]:
            bias = spread[f"{r['quantity']}_bias"]
            digits = 1 if r["unit"] != "px" else 2
            numbers = [fixed(r[q.partition(":")[0]], digits) for q in _QUANTILES.split()]
            rows.append([r["quantity"], str(r["n"]), fixed(r["bias"], digits), _range(bias, digits),
                         fixed(r["error"], digits), *numbers])  # fmt: skip
    turned = spread.get("heading_reversed")
    extra = f"; {fixed(turned.value)} of the fronts at the wrong end" if turned else ""
    _part(console, f"how boxes lie that found their object (IoU {rule['iou']:g}, score {rule['score']:.2f} and above): "
                   f"detection minus truth, bias = mean, error = median size{extra}")  # fmt: skip
    console.print(_table(console, _columns(f"quantity n:2 bias 95%:1 error {_QUANTILES}"), rows))
    rows = [[r["fixed"], fixed(r["AP"]), *(fixed(r.get(k)) for k in ("AP50", "AP75")), fixed(r["dAP"])]
            for r in part["fixed"]]  # fmt: skip
    _part(console, "AP with one property of all found boxes set to that of the truth")
    console.print(_table(console, _columns("fixed AP AP50 AP75 dAP"), rows))


def _occost(console: Console, part: Mapping[str, Any]) -> None:
    rule = part["rule"]
    scores: Sequence[Score] = [Score.from_json(s) for s in part["scores"]]
    rows = [[s.name, fixed(s.value), interval(s), str(s.n), _PARTS[s.name]] for s in scores]
    _part(console, f"optimal correction cost per picture (0 is best; score {rule['score']:.2f} and above, "
                   f"lambda {rule['lambda']:g}, beta {rule['beta']:g})")  # fmt: skip
    console.print(_table(console, _columns("score value 95% n of:1", text={"of"}), rows))


def _range(s: Score, digits: int) -> str:
    return "–" if s.low != s.low else f"{s.low:.{digits}f} – {s.high:.{digits}f}"
