"""Lines of numbers with a class id in front: what yolo, yolo_obb and aerial read from their label files.

Shape legend: N rows (labelled objects), F numbers behind the class id.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.data.formats.common import Rows


def table(
    texts: list[tuple[int, Path, str]], count: int, what: str, ledger: Ledger
) -> tuple[Rows, NDArray[np.float64]]:
    """Rows with class ids and without boxes, and the numbers f64 [N, count - 1] behind the ids.

    Raises:
        TercelError: a class id that is not a whole number from 0.
    """
    picture: list[int] = []
    values: list[list[float]] = []
    lines: list[tuple[Path, int]] = []
    lost = 0
    for i, file, text in texts:
        for n, line in enumerate(text.splitlines(), 1):
            fields = line.split()
            if not fields:
                continue
            try:
                if len(fields) != count:
                    raise ValueError
                row = [float(f) for f in fields]
            except ValueError:
                message = f"lines that are not {what} were left out"
                ledger.add("labels.fields", Severity.WARNING, message, f"{file}:{n}")
                lost += 1
                continue
            picture.append(i)
            values.append(row)
            lines.append((file, n))
    numbers = np.array(values, np.float64).reshape(-1, count)

    def where(i: int) -> str:
        return f"{lines[i][0]}:{lines[i][1]}"

    ids = numbers[:, 0]
    for i in np.flatnonzero(~((ids == np.rint(ids)) & (ids >= 0) & (ids < 2**31)))[:1].tolist():
        raise TercelError(f"{where(i)}: class id {values[i][0]:g} is not a whole number from 0", "correct the label")
    nothing = np.zeros((len(numbers), 4))
    ignore = np.zeros(len(numbers), np.bool_)
    rows = Rows(np.array(picture, np.int64), ids.astype(np.int64), nothing, where, ignore, lost=lost)
    return rows, numbers[:, 1:]


def refuse_pixels(shares: NDArray[np.float64], where: Callable[[int], str]) -> None:
    """
    Raises:
        TercelError: most rows [N,F] hold a number far above 1, so they are no shares of the picture.
    """
    beyond = (shares > 1.5).any(axis=1)
    if len(shares) and beyond.mean() > 0.5:
        i = int(np.flatnonzero(beyond)[0])
        raise TercelError(f"{where(i)}: coordinates far above 1", "YOLO wants shares of the picture (0..1), not pixels")
