"""Numbers, times and settings as people read them. What is undefined is a dash, never 0 or -1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any


def score_of(value: Any) -> float:
    """A number out of JSON, null and text as NaN."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


def fixed(value: Any, digits: int = 3) -> str:
    """A number for people; a dash where there is none."""
    v = score_of(value)
    return "–" if math.isnan(v) else f"{v:.{digits}f}"


def count(value: Any) -> str:
    """12 345 with thin spaces; a dash where there is none."""
    v = score_of(value)
    return "–" if math.isnan(v) else f"{v:,.0f}".replace(",", "\u202f")


def pixels(value: Any) -> str:
    v = score_of(value)
    return "–" if math.isnan(v) else f"{v:.1f}" if v < 10 else f"{v:.0f}"


def when(value: Any) -> str:
    """A time as people write it."""
    try:
        return datetime.fromisoformat(str(value)).strftime("%-d %B %Y, %H:%M %Z").strip()
    except ValueError:
        return "–"


def duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    minutes, hours = divmod(round(seconds), 60), divmod(round(seconds / 60), 60)
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{minutes[0]} min {minutes[1]:02d} s"
        if seconds < 5400
        else (f"{hours[0]} h {hours[1]:02d} min")
    )


def plain(value: Any) -> str:
    """A setting as one writes it on the command line."""
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
    if isinstance(value, str):
        return value or "(empty)"
    if isinstance(value, Iterable):
        return ", ".join(plain(v) for v in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
