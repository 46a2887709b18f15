"""YOLO text: `class cx cy w h` per line, as shares of the picture, in labels/ beside images/; a data.yaml or not.

A data.yaml names `path`, `train`, `val`, `test` (folders, lists of them, or text files of picture paths) and `names`;
without one, a folder with images/ and labels/ is read, subfolders of images/ being the splits. A record's id is the
picture's path within its split, without suffix. The format cannot hold ignored objects.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger
from tercel.core.record import Dataset, Record
from tercel.data.formats import yolo_lines, yolo_pose, yolo_tree
from tercel.data.formats.common import Options, Rows

NAME = "yolo"
TASK = "boxes"
HOLDS_IGNORE = False
LOOKS_LIKE = yolo_tree.LOOKS_LIKE

_ORIENTED = {6, 9}  # numbers per line of aerial and yolo_obb


def matches(path: Path) -> bool:
    """True for a YOLO data.yaml, a folder with one, or a folder with images/ and labels/; not for oriented labels
    or points."""
    if not yolo_tree.matches(path) or yolo_pose.matches(path):
        return False
    return yolo_tree.numbers_per_line(path) not in _ORIENTED


def accepts(path: Path) -> bool:
    """True also where `matches` sees the labels of another format: whoever names this one learns the line."""
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
        TercelError: see tercel.data.formats.yolo_tree.
    """
    return yolo_tree.write(dataset, out, split, pictures, _label_text)


def _rows(texts: list[tuple[int, Path, str]], ledger: Ledger) -> Rows:
    """Rows with boxes still as shares: cx cy w h."""
    rows, shares = yolo_lines.table(texts, 5, "five numbers (class cx cy w h)", ledger)
    rows.boxes = shares
    yolo_lines.refuse_pixels(rows.boxes, rows.where)
    return rows


def _place(rows: Rows, scale: NDArray[np.float64], ledger: Ledger) -> None:
    centre, wh = rows.boxes[:, :2] * scale, rows.boxes[:, 2:] * scale
    rows.boxes = np.concatenate([centre - wh / 2, centre + wh / 2], axis=1)


def _label_text(record: Record) -> str:
    h, w = record.size
    o = record.objects[~record.objects.ignore]
    xyxy = o.boxes.astype(np.float64) / np.array([w, h, w, h])
    rows = np.concatenate([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], axis=1)
    return "".join(f"{c} {' '.join(f'{v:.10g}' for v in row)}\n" for c, row in zip(o.labels.tolist(), rows.tolist()))
