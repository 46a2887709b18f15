"""Ignore regions of no class in particular (DontCare, region of interest): inside, one ignored object of every class.

Matching, training and drawing look at the ignored objects of one class at a time. C rows say "costs nothing, whatever
is found here" to all of them without a special label. Files that have a word for it hold the region once. Shape legend:
N objects, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity
from tercel.core.objects import Objects
from tercel.data.formats.common import Rows

DONT_CARE = "DontCare"


def is_dont_care(name: str) -> bool:
    """True for DontCare, dont_care, "don't care" and the like."""
    return re.sub(r"[^a-z]", "", name.lower()) in {"dontcare", "ignore", "ignored"}


def spread(rows: Rows, every: NDArray[np.bool_], classes: int, ledger: Ledger) -> Rows:
    """The rows [N] with those of `every` [N] ignored and repeated for the classes 0..C-1, in place; counted."""
    if not every.any():
        return rows
    where = rows.where
    for i in np.flatnonzero(every).tolist():
        message = f"regions of no class (DontCare) became ignore regions of each of the {classes} classes"
        ledger.add("labels.every_class", Severity.INFO, message, where(i))
    times = np.where(every, classes, 1)
    index = np.repeat(np.arange(len(every)), times)
    turn = np.arange(len(index)) - np.repeat(np.cumsum(times) - times, times)
    columns = {f.name: getattr(rows, f.name) for f in fields(rows)}
    moved: dict[str, Any] = {n: c[index] for n, c in columns.items() if isinstance(c, np.ndarray)}
    moved["labels"] = np.where(every[index], turn, moved["labels"])
    moved["ignore"] = moved["ignore"] | every[index]
    return replace(rows, **moved, where=lambda i: where(int(index[i])))


def gathered(o: Objects, classes: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """What to write for `spread` to give back: rows i64 [M] of `o`, and which of them stand for every class, bool [M].

    A region of every class is a run of C ignored objects of the classes 0..C-1 in order, on one spot. With one class it
    is the same as an ignored object of that class, and written as such.
    """
    n, c = len(o), len(classes)
    place = o.boxes if o.obbs is None else o.obbs
    kept, every = [], []
    i = 0
    while i < n:
        run = slice(i, i + c)
        whole = (
            c > 1
            and bool(o.ignore[i])
            and o.labels[run].tolist() == list(range(c))
            and bool(o.ignore[run].all())
            and bool((place[run] == place[i]).all())
        )
        kept.append(i)
        every.append(whole)
        i += c if whole else 1
    return np.array(kept, np.int64), np.array(every, np.bool_)
