"""What Tercel has to say: findings (facts about data and runs), errors (misuse), scores (results)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """error: training will crash or learn garbage; warning: probably worse; info: a fact."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed, with how often and where.

    Attributes:
        check: stable dotted name, for example ``labels.zero_area``.
        message: one sentence for a person, remedy included.
        count: how many items it concerns.
        evidence: a few examples, as ``file:line`` where a line is known (never the whole list).
    """

    check: str
    severity: Severity
    message: str
    count: int = 1
    evidence: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "severity": str(self.severity),
            "message": self.message,
            "count": self.count,
            "evidence": list(self.evidence),
        }

    def __str__(self) -> str:
        where = f" [{', '.join(self.evidence)}{', ...' if self.count > len(self.evidence) else ''}]"
        often = f" ({self.count}x)" if self.count > 1 else ""
        return f"{self.severity}: {self.message}{often}{where if self.evidence else ''}"


class Ledger:
    """Counts events by (check, severity) while something is read, and keeps a few places of each.

    Nothing is dropped in silence: a reader calls `add` for every row it leaves out, and the findings travel with
    what was read.
    """

    EXAMPLES = 5

    def __init__(self) -> None:
        self._items: dict[tuple[str, Severity, str], tuple[int, list[str]]] = {}

    def add(
        self,
        check: str,
        severity: Severity,
        message: str,
        where: str | None = None,
        count: int = 1,
    ) -> None:
        key = (check, severity, message)
        total, places = self._items.get(key, (0, []))
        if where is not None and len(places) < self.EXAMPLES:
            places.append(where)
        self._items[key] = (total + count, places)

    def extend(self, findings: Iterable[Finding]) -> None:
        for f in findings:
            key = (f.check, f.severity, f.message)
            total, places = self._items.get(key, (0, []))
            places += list(f.evidence)[: self.EXAMPLES - len(places)]
            self._items[key] = (total + f.count, places)

    def findings(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(check, severity, message, total, tuple(places))
            for (check, severity, message), (total, places) in self._items.items()
        )


class TercelError(Exception):
    """Misuse or bad input: one message that names the place, and one remedy. The command line exits with 2.

    Attributes:
        message: what is wrong, with the file and the line where there is one.
        remedy: what to do about it; empty when the message says it all.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  remedy: {self.remedy}" if self.remedy else self.message


@dataclass(frozen=True)
class Score:
    """One number with its population and its interval: the only thing that metrics return.

    Attributes:
        name: the field's usual name (``AP``, ``AP50``, ``AR100``, ``F1``...).
        value: the number; NaN when it is undefined (no truth, say), never 0 or -1.
        n: how many items it was computed over (what they are, ``where["unit"]`` or the docs of the metric say).
        low, high: 95 % interval (NaN when it was not computed).
        where: class, size, rule, threshold or slice; empty = over all.
    """

    name: str
    value: float
    n: int
    low: float = math.nan
    high: float = math.nan
    where: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        def number(x: float) -> float | None:
            return None if math.isnan(x) else x

        return {
            "name": self.name,
            "value": number(self.value),
            "n": self.n,
            "low": number(self.low),
            "high": number(self.high),
            "where": dict(self.where),
        }

    @staticmethod
    def from_json(d: Mapping[str, Any]) -> Score:
        def number(x: float | None) -> float:
            return math.nan if x is None else float(x)

        return Score(d["name"], number(d["value"]), d["n"], number(d["low"]), number(d["high"]), dict(d["where"]))


LOWER_IS_BETTER = frozenset({"MR-2", "swap_rate", "point_error", "point_error_px", "outside_picture", "outside_box"})


def direction(name: str) -> int:
    """1 where a higher value of the score `name` is better, -1 where a lower one is."""
    return -1 if name in LOWER_IS_BETTER else 1


def headline(scores: Iterable[Score]) -> dict[str, Score]:
    """The few scores that say how good a run is, over everything: AP, AP50, AP75 of boxes; MR-2 and JI too of crowds;
    OKS_AP, PCK@.05, PCK@.1 of points; of a ball F1, precision and recall under the rule that stands first."""
    listed = list(scores)
    rule = next((s.where["rule"] for s in listed if set(s.where) == {"rule"}), None)
    names: tuple[str, ...] = ("AP", "AP50", "AP75", "MR-2", "JI", "OKS_AP", "PCK@.05", "PCK@.1")
    names, where = (("F1", "precision", "recall"), {"rule": rule}) if rule else (names, {})
    found = {s.name: s for s in listed if s.name in names and dict(s.where) == where}
    return {n: found[n] for n in names if n in found}
