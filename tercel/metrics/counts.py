"""A linter for published tables of counts: which rows do not add up?

A row of TP, TN, FP (or FP1 and FP2) and FN fixes its total, accuracy, precision, recall and F1. Where the table prints
them too, they must agree to the decimals that are printed. Reads csv (comma, semicolon, tab) and Markdown tables.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercel.core.finding import Finding, Ledger, Severity, TercelError

COUNTS = ("TP", "TN", "FP", "FP1", "FP2", "FN")
RATIOS = ("accuracy", "precision", "recall", "F1")
_CALLED = {
    "TP": "tp truepositive truepositives",
    "TN": "tn truenegative truenegatives",
    "FP": "fp falsepositive falsepositives",
    "FP1": "fp1 fpwrong",
    "FP2": "fp2 fpghost",
    "FN": "fn falsenegative falsenegatives",
    "total": "total frames images n all totalframes totalimages totaltestimages testimages testframes count",
    "accuracy": "accuracy acc",
    "precision": "precision prec p pre",
    "recall": "recall rec r sensitivity",
    "F1": "f1 f1score fscore f1measure fmeasure",
    "name": "name model method system network row",
}
NAMES = {word: column for column, words in _CALLED.items() for word in words.split()}


@dataclass(frozen=True)
class TableCheck:
    """A checked table.

    Attributes:
        rows: name, line, ok (None = nothing to compare), the counts, and each ratio as {"printed", "computed", "ok"} in
            the table's own unit, with "as" naming the definition that fits when it is not the usual one.
        findings: one error per number that does not add up, with file and line.
    """

    rows: list[dict[str, Any]]
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "findings": [f.to_json() for f in self.findings]}


@dataclass(frozen=True)
class _Number:
    """A printed number: its value, and how far the real one may be from it."""

    value: float
    half: float
    percent: bool = False


def check_table(path: Path | str) -> TableCheck:
    """Check every row of a table of counts.

    Precision is TP / (TP + FP), recall TP / (TP + FN) where FP1 (found, but at the wrong place) is no FN, as all ball
    trackers count; a printed recall that is TP / (TP + FP1 + FN) instead passes and is named. Percent or share is told
    by the size of the numbers of a column.

    Raises:
        TercelError: no such file, no header with a column of counts, a cell that is no number (file and line named).
    """
    path = Path(path)
    lines = _read(path)
    header, columns = _header(path, lines)
    ledger = Ledger()
    unread = [h for i, h in enumerate(header) if i not in columns and h]
    if unread:
        ledger.add("table.unread_column", Severity.INFO, "columns that were not looked at", ", ".join(unread))
    numbers = [_numbers(path, n, cells, columns) for n, cells in lines[1:]]
    factor = {
        c: 100.0 if any(x[c].percent or x[c].value > 1 for x in numbers if c in x) else 1.0 for c in RATIOS
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    for (n, cells), x in zip(lines[1:], numbers, strict=True):
        name = next((cells[i] for i, c in columns.items() if c == "name"), f"row {len(rows) + 1}")
        rows.append(_check(f"{path}:{n}", n, name, x, factor, ledger))
    return TableCheck(rows, ledger.findings())


# -- reading ------------------------------------------------------------------------------------------------------


def _read(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, cells) of the rows that are not empty."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as e:
        raise TercelError(f"{path} does not exist", "check the path") from e
    except (UnicodeDecodeError, IsADirectoryError) as e:
        raise TercelError(f"{path} is no text file", "give a csv with a header line, encoded in UTF-8") from e
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise TercelError(f"{path} is empty", "give a csv with a header line")
    if any(line.lstrip().startswith("|") for _, line in lines):
        inside = [(n, line.strip().strip("|").split("|")) for n, line in lines if line.lstrip().startswith("|")]
        rows = [(n, cells) for n, cells in inside if not all(re.fullmatch(r"\s*:?-+:?\s*", c) for c in cells)]
    else:
        first = lines[0][1]
        mark = max(",;\t", key=first.count)
        rows = [(n, next(csv.reader([line], delimiter=mark))) for n, line in lines if not line.startswith("#")]
    return [(n, [_bare(c) for c in cells]) for n, cells in rows]


def _bare(cell: str) -> str:
    """Without Markdown's stars and blanks."""
    return re.sub(r"[*`\\]", "", cell).strip()


def _header(path: Path, lines: Sequence[tuple[int, list[str]]]) -> tuple[list[str], dict[int, str]]:
    """The header's cells, and which column is what."""
    n, header = lines[0]
    columns: dict[int, str] = {}
    for i, cell in enumerate(header):
        what = NAMES.get(re.sub(r"[^a-z0-9]", "", cell.lower().replace("%", "")))
        if what is not None:
            if what in columns.values():
                raise TercelError(f"{path}:{n}: two columns say {what} ({cell!r} is the second)", "keep one of them")
            columns[i] = what
    there = set(columns.values())
    if not there & {*COUNTS, "precision"}:
        raise TercelError(
            f"{path}:{n}: no column of counts in {', '.join(header)}",
            f"name the columns {', '.join(COUNTS)}, total, {', '.join(RATIOS)}, in any order",
        )
    if "name" not in there:  # the first column that is nothing else
        free = [i for i in range(len(header)) if i not in columns]
        columns |= {free[0]: "name"} if free and free[0] == 0 else {}
    return header, columns


def _numbers(path: Path, n: int, cells: Sequence[str], columns: Mapping[int, str]) -> dict[str, _Number]:
    out = {}
    for i, what in columns.items():
        cell = cells[i] if i < len(cells) else ""
        if what == "name" or cell in ("", "-", "–", "—", "n/a", "N/A"):
            continue
        text = re.sub(r"(?<=\d)[\s_'\u00a0\u2009\u202f](?=\d{3})", "", cell)
        text = re.sub(r"(?<=\d),(?=\d{3}(\D|$))", "", text) if what in (*COUNTS, "total") else text.replace(",", ".")
        found = re.fullmatch(r"(-?\d*\.?(\d*)(?:[eE][+-]?\d+)?)\s*(%?)", text)
        try:
            value = float(found.group(1)) if found else math.nan
        except ValueError:
            value = math.nan
        if math.isnan(value) or found is None:
            raise TercelError(f"{path}:{n}: {what} is {cell!r}, not a number", "leave it empty if it is not known")
        decimals = len(found.group(2)) if "." in found.group(1) else 0
        out[what] = _Number(value, 0.5 * 10.0**-decimals, found.group(3) == "%")
    return out


# -- checking -----------------------------------------------------------------------------------------------------


def _check(
    where: str, line: int, name: str, x: Mapping[str, _Number], factor: Mapping[str, float], ledger: Ledger
) -> dict[str, Any]:
    """One row; every contradiction is an error in the ledger."""
    row: dict[str, Any] = {"name": name, "line": line}
    counts = {c: x[c].value for c in COUNTS if c in x}
    verdicts: list[bool] = []

    def wrong(what: str, message: str) -> None:
        ledger.add(f"table.{what}", Severity.ERROR, f"{name}: {message}", where)

    for c, v in counts.items():
        if v < 0 or v != int(v):
            wrong("count", f"{c} = {v:g} is no count")
            return row | {"ok": False}
    row |= {c: int(v) for c, v in counts.items()}
    if {"FP", "FP1", "FP2"} <= counts.keys():
        verdicts.append(counts["FP"] == counts["FP1"] + counts["FP2"])
        if not verdicts[-1]:
            wrong("FP", f"FP1 + FP2 = {_whole(counts['FP1'] + counts['FP2'])}, the table says {_whole(counts['FP'])}")
    if "FP" not in counts and {"FP1", "FP2"} <= counts.keys():
        counts["FP"] = counts["FP1"] + counts["FP2"]
    if "total" in x and {"TP", "TN", "FP", "FN"} <= counts.keys():
        total = sum(counts[c] for c in ("TP", "TN", "FP", "FN"))
        more = total - x["total"].value
        verdicts.append(more == 0)
        row |= {"sum": int(total), "total": int(x["total"].value)}
        if more:
            typo = " (one digit?)" if re.fullmatch(r"[1-9]0+", f"{abs(more):.0f}") else ""
            wrong(
                "sum", f"the counts add up to {_whole(total)}, the table says {_whole(x['total'].value)}: "
                f"{_whole(abs(more))} too {'many' if more > 0 else 'few'}{typo}"
            )  # fmt: skip
    for what in RATIOS:
        if what in x:
            found = _ratio(what, x, counts, factor)
            if found is not None:
                row[what], problem = found
                verdicts.append(problem == "")
                if problem:
                    wrong(what, problem)
    if not verdicts:
        ledger.add("table.nothing_to_check", Severity.WARNING, "rows with too few numbers to check anything", where)
    return row | {"ok": all(verdicts) if verdicts else None}


def _definitions(c: Mapping[str, float], printed_total: float | None) -> dict[str, list[tuple[float, str]]]:
    """ratio -> [(value, how)], the usual definition first; only those that the counts allow."""
    out: dict[str, list[tuple[float, str]]] = {}
    tp, tn, fp, fn = (c.get(k, math.nan) for k in ("TP", "TN", "FP", "FN"))
    wrong = c.get("FP1", math.nan)
    out["accuracy"] = [(_share(tp + tn, tp + tn + fp + fn), "")]
    out["precision"] = [(_share(tp, tp + fp), "")]
    out["recall"] = [(_share(tp, tp + fn), ""), (_share(tp, tp + fn + wrong), "TP / (TP + FP1 + FN)")]
    out["F1"] = [
        (_share(2 * tp, 2 * tp + fp + fn), ""),
        (_share(2 * tp, 2 * tp + fp + fn + wrong), "recall = TP / (TP + FP1 + FN)"),
    ]
    if printed_total is not None:
        out["hint"] = [(_share(tp + tn, printed_total), "")]
    return {k: [(v, how) for v, how in values if not math.isnan(v)] for k, values in out.items()}


def _ratio(
    what: str, x: Mapping[str, _Number], counts: Mapping[str, float], factor: Mapping[str, float]
) -> tuple[dict[str, Any], str] | None:
    """What is printed against what follows from the counts, and the problem in words ("" = none)."""
    printed, scale = x[what], factor[what]
    options = _definitions(counts, x["total"].value if "total" in x else None)
    close = printed.half * (1 + 1e-9) + 1e-9
    for value, how in options[what]:
        if abs(value * scale - printed.value) <= close:
            fine = {"printed": printed.value, "computed": value * scale, "ok": True}
            return (fine | {"as": how} if how else fine), ""
    if options[what]:
        value = options[what][0][0] * scale
        digits = max(2, round(-math.log10(2 * printed.half)) + 1)
        problem = f"{what} is {value:.{digits}f} from the counts, the table says {printed.value:g}"
        if 0 <= value - printed.value < 2 * printed.half:
            problem += " (cut off, not rounded)"
        hint = options.get("hint", [])
        if what == "accuracy" and hint and abs(hint[0][0] * scale - printed.value) <= close:
            problem += f" ({hint[0][0] * scale:.{digits}f} with the printed total)"
        return {"printed": printed.value, "computed": value, "ok": False}, problem
    if what == "F1" and {"precision", "recall"} <= x.keys():
        return _harmonic(x, factor)
    return None


def _harmonic(x: Mapping[str, _Number], factor: Mapping[str, float]) -> tuple[dict[str, Any], str]:
    """Without counts: F1 must lie where the rounded precision and recall allow it."""
    bounds = []
    for sign in (-1, 0, 1):
        p, r = ((x[k].value + sign * x[k].half) / factor[k] for k in ("precision", "recall"))
        bounds.append(_share(2 * p * r, p + r) * factor["F1"])
    low, middle, high = bounds
    f1 = x["F1"]
    ok = low - f1.half - 1e-9 <= f1.value <= high + f1.half + 1e-9
    problem = "" if ok else f"F1 is {middle:.2f} from the printed precision and recall, the table says {f1.value:g}"
    return {"printed": f1.value, "computed": middle, "ok": ok}, problem


def _share(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def _whole(v: float) -> str:
    return f"{v:,.0f}".replace(",", " ")
