"""Oriented boxes in COCO-like json, truth and results: a key `obb` or `corners` beside or instead of `bbox`.

`obb` is cx cy w h theta in px and radians clockwise, w along theta; `corners` are x1 y1 ... x4 y4 in px, or four pairs.
`heading` (radians clockwise) says where the front points, where that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, TercelError
from tercel.core.objects import Objects
from tercel.data.formats import angles

_SHAPES = {"obb": (5, "cx cy w h theta"), "corners": (8, "x1 y1 x2 y2 x3 y3 x4 y4")}


def is_oriented(entries: Iterable[dict[str, Any]]) -> bool:
    """True when any entry has an `obb` or `corners`."""
    return any("obb" in e or "corners" in e for e in entries)


def read_obbs(
    entries: Sequence[dict[str, Any]], where: Callable[[int], str], ledger: Ledger
) -> NDArray[np.float64] | None:
    """Our oriented boxes f64 [N,5] of N entries, or None when no entry has any.

    Raises:
        TercelError: some entries have one and others have not, not the right count of numbers, angles in degrees.
    """
    if not is_oriented(entries):
        return None
    key = "obb" if any("obb" in e for e in entries) else "corners"
    count, what = _SHAPES[key]
    without = next((i for i, e in enumerate(entries) if key not in e), None)
    if without is not None:
        raise TercelError(
            f"{where(without)}: has no {key!r}, others have", "give every object an oriented box, or none"
        )
    try:
        table = np.array([e[key] for e in entries], np.float64).reshape(len(entries), count)
    except (TypeError, ValueError) as e:
        i = next((i for i, x in enumerate(entries) if not _numbers(x[key], count)), 0)
        raise TercelError(f"{where(i)}: {key} is {what}, not {entries[i][key]!r:.80}", "correct the entry") from e
    if key == "corners":
        return angles.from_corners(table.reshape(-1, 4, 2), where, ledger)
    angles.check_radians(table[:, 4], where)
    return angles.to_ours(table, angles.OURS)


def read_headings(
    entries: Sequence[dict[str, Any]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | tuple[None, None]:
    """heading f64 [N] and headed bool [N], or None twice when no entry has a heading that is a number."""
    values = [e.get("heading") for e in entries]
    headed = np.array([isinstance(v, int | float) for v in values], np.bool_)
    if not headed.any():
        return None, None
    return np.array([v if isinstance(v, int | float) else 0.0 for v in values], np.float64), headed


def keys_of(o: Objects) -> list[dict[str, Any]]:
    """What an entry of each of N objects says of its angle; nothing for boxes."""
    if o.obbs is None:
        return [{} for _ in range(len(o))]
    out: list[dict[str, Any]] = [{"obb": row} for row in o.obbs.astype(np.float64).tolist()]
    if o.heading is not None and o.headed is not None:
        for i in np.flatnonzero(o.headed).tolist():
            out[i]["heading"] = float(o.heading[i])
    return out


def _numbers(value: Any, count: int) -> bool:
    try:
        return np.array(value, np.float64).size == count
    except (TypeError, ValueError):
        return False
