"""The training line `class cx cy w h angle`: shares of the picture, degrees clockwise, one text file per picture.

w runs along the angle, h across it. The angle goes from 0 to 360 ("negatives + 360"); whether its end is the front the
line does not say, so that no heading is read, and none is written. Folders, data.yaml and class names are those of
yolo, six numbers in the first label line tell the two apart; the text files may also lie beside their pictures. The
line was made for square pictures. In others every number counts in its own axis, as in yolo: cx and w in widths of the
picture, cy and h in heights. The format cannot hold ignored objects.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity
from tercel.core.record import Dataset, Record
from tercel.data.formats import angles, target, yolo_lines, yolo_tree
from tercel.data.formats.common import Options, Rows

NAME = "aerial"
TASK = "oriented"
HOLDS_IGNORE = False
LOOKS_LIKE = "as yolo (or text files beside pictures), with six numbers per line: class cx cy w h angle"


def matches(path: Path) -> bool:
    """True for such a tree whose labels have six numbers per line."""
    return yolo_tree.matches(path, beside=True) and yolo_tree.numbers_per_line(path, beside=True) == 6


def accepts(path: Path) -> bool:
    """True for any such tree when the format was named: all its labels may be empty."""
    return yolo_tree.matches(path, beside=True)


def splits(path: Path) -> list[str]:
    """Splits that data.yaml names, or subfolders of images/, or subfolders with pictures and labels."""
    return yolo_tree.splits(path, beside=True)


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One split, or all pictures when `split` is None.

    Raises:
        TercelError: see tercel.data.formats.yolo_tree.
    """
    return yolo_tree.read(path, split, options, _rows, _place, beside=True)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/images/<split> (hard links where possible), labels/<split> and data.yaml. Ignored objects are left out.

    Raises:
        TercelError: see tercel.data.formats.yolo_tree; also boxes without an angle.
    """
    return yolo_tree.write(dataset, out, split, pictures, _label_text)


def _rows(texts: list[tuple[int, Path, str]], ledger: Ledger) -> Rows:
    rows, numbers = yolo_lines.table(texts, 6, "six numbers (class cx cy w h angle)", ledger)
    rows.boxes = numbers
    yolo_lines.refuse_pixels(numbers[:, :2], rows.where)  # sides may exceed the picture: they run along the angle
    angles.suspect_radians(numbers[:, 4], rows.where, ledger)
    return rows


def _place(rows: Rows, scale: NDArray[np.float64], ledger: Ledger) -> None:
    for i in np.flatnonzero(scale[:, 0] != scale[:, 1]).tolist():
        message = "labels in pictures that are not square: w was read in widths of the picture, h in heights"
        ledger.add("labels.not_square", Severity.INFO, message, rows.where(i))
    sides = rows.boxes[:, :4] * np.concatenate([scale, scale], axis=1)
    rows.obbs = angles.to_ours(np.concatenate([sides, rows.boxes[:, 4:]], axis=1), angles.FULL_DEGREES)


def _label_text(record: Record) -> str:
    h, w = record.size
    keep = ~record.objects.ignore
    rects = angles.from_ours(target.oriented_boxes(record)[keep], angles.FULL_DEGREES) / np.array([w, h, w, h, 1])
    lines = zip(record.objects.labels[keep].tolist(), rects.tolist())
    return "".join(f"{c} {' '.join(f'{v:.10g}' for v in row)}\n" for c, row in lines)
