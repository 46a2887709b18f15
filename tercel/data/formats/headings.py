"""Angles that say more than how a box lies: those over the whole circle say where the front points.

Files of oriented boxes rarely tell whether their angle is a heading. A box looks the same after half a turn, so angles
that only place boxes need half the circle; who writes all of it means the front. Shape legend: N objects.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity

ENOUGH = 10  # angles from which their range says anything
MARGIN = 0.1  # radians beyond half the circle


def are_headings(angles: NDArray[np.float64], where: Callable[[int], str], ledger: Ledger) -> bool:
    """True, and counted, when angles f64 [N] in radians run over clearly more than half the circle.

    Nine tenths of them decide: a few stray angles are no headings.
    """
    known = np.flatnonzero(np.isfinite(angles))
    if len(known) < ENOUGH:
        return False
    low, high = np.quantile(angles[known], (0.05, 0.95))
    if high - low <= np.pi + MARGIN:
        return False
    message = "angles run over more than half the circle: they were taken to say where the front points"
    ledger.add("labels.headings", Severity.INFO, message, where(int(known[0])), len(known))
    return True
