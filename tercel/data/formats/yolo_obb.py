"""YOLO-OBB text: `class x1 y1 x2 y2 x3 y3 x4 y4` per line, four corners as shares of the picture.

Folders, data.yaml and class names are those of yolo; nine numbers in the first label line tell the two apart. The
corners may begin anywhere and run either way. The format cannot hold ignored objects or headings.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger
from tercel.core.record import Dataset, Record
from tercel.data.formats import angles, target, yolo_lines, yolo_tree
from tercel.data.formats.common import Options, Rows

NAME = "yolo_obb"
TASK = "oriented"
HOLDS_IGNORE = False
LOOKS_LIKE = "as yolo, with nine numbers per line: the class id and four corners as shares"


def matches(path: Path) -> bool:
    """True for a YOLO tree whose labels have nine numbers per line, and that does not speak of points."""
    if not yolo_tree.matches(path) or "kpt_shape" in yolo_tree.settings(path)[1]:
        return False  # two points with visibility are nine numbers too
    return yolo_tree.numbers_per_line(path) == 9


def accepts(path: Path) -> bool:
    """True for any YOLO tree when the format was named: all its labels may be empty."""
    return yolo_tree.matches(path)


def splits(path: Path) -> list[str]:
    """Splits that data.yaml names, or subfolders of images/ (or folders with images/ of their own)."""
    return yolo_tree.splits(path)


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One split, or all pictures when `split` is None.

    Raises:
        TercelError: see tercel.data.formats.yolo_tree.
    """
    return yolo_tree.read(path, split, options, _rows, _place)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/images/<split> (hard links where possible), labels/<split> and data.yaml. Ignored objects are left out.

    Raises:
        TercelError: see tercel.data.formats.yolo_tree; also boxes without an angle.
    """
    return yolo_tree.write(dataset, out, split, pictures, _label_text)


def _rows(texts: list[tuple[int, Path, str]], ledger: Ledger) -> Rows:
    rows, shares = yolo_lines.table(texts, 9, "nine numbers (class x1 y1 x2 y2 x3 y3 x4 y4)", ledger)
    rows.boxes = shares
    yolo_lines.refuse_pixels(shares.reshape(-1, 4, 2).mean(axis=1), rows.where)
    return rows


def _place(rows: Rows, scale: NDArray[np.float64], ledger: Ledger) -> None:
    rows.obbs = angles.from_corners(rows.boxes.reshape(-1, 4, 2) * scale[:, None], rows.where, ledger)


def _label_text(record: Record) -> str:
    h, w = record.size
    keep = ~record.objects.ignore
    shares = angles.to_corners(target.oriented_boxes(record)[keep]) / np.array([w, h])
    lines = zip(record.objects.labels[keep].tolist(), shares.reshape(-1, 8).tolist())
    return "".join(f"{c} {' '.join(f'{v:.10g}' for v in row)}\n" for c, row in lines)
