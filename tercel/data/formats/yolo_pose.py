"""YOLO pose text: `class cx cy w h` and then `x y` or `x y v` of each of K named points, as shares of the picture.

Folders, data.yaml and class names are those of yolo. data.yaml says `kpt_shape: [K, 2]` or `[K, 3]` and `flip_idx`, the
number of the point that each one becomes in a mirror image. Names are read from `keypoints` (or `kpt_names`, by class),
and beside them `flip_pairs`, `edges` (pairs of names) and `sigmas`; all are written. Without `kpt_shape` the number of
points follows from the length of the lines. v = 0 means not labelled, 1 hidden, 2 visible; without v all points are
visible, wherever they lie. The format cannot hold ignored objects.

Shape legend: N rows (labelled objects), K points.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import skeletons, target, yolo_lines, yolo_tree
from tercel.data.formats.common import Options, Rows

NAME = "yolo_pose"
TASK = "keypoints"
HOLDS_IGNORE = False
LOOKS_LIKE = "as yolo, with a kpt_shape in data.yaml or 5 + 2 K or 5 + 3 K numbers per line, K being the points of each"

_QUADS = 9  # numbers per line that are four corners (yolo_obb), unless data.yaml has a kpt_shape


def matches(path: Path) -> bool:
    """True for a YOLO tree with a kpt_shape, or whose lines are all of one length that a box and points may have."""
    if not yolo_tree.matches(path):
        return False
    if "kpt_shape" in yolo_tree.settings(path)[1]:
        return True
    n = yolo_tree.same_numbers_per_line(path) or 0
    return n > 6 and n != _QUADS and bool(_shapes(n))


def accepts(path: Path) -> bool:
    """True for any YOLO tree when the format was named: all its labels may be empty."""
    return yolo_tree.matches(path)


def splits(path: Path) -> list[str]:
    """Splits that data.yaml names, or subfolders of images/ (or folders with images/ of their own)."""
    return yolo_tree.splits(path)


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One split, or all pictures when `split` is None.

    Raises:
        TercelError: see tercel.data.formats.yolo_tree and skeletons; also a kpt_shape that is none, names of another
            number of points, a flip_idx that is no involution or says another thing than flip_pairs, a visibility that
            is not 0, 1 or 2.
    """
    points = _Points(path)
    return yolo_tree.read(path, split, options, points.rows, points.place, named=points.onto)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/images/<split> (hard links where possible), labels/<split> and data.yaml. Ignored objects are left out.

    Raises:
        TercelError: see tercel.data.formats.yolo_tree; also objects without points, and a data.yaml with another
            skeleton.
    """
    s = dataset.schema
    keys: dict[str, Any] = {
        "kpt_shape": [len(s.keypoints), 3],
        "flip_idx": s.flip_index.tolist(),
        "keypoints": list(s.keypoints),
        "flip_pairs": [list(p) for p in s.flip_pairs],
        "edges": [list(e) for e in s.edges],
    }
    if s.sigmas:
        keys["sigmas"] = list(s.sigmas)
    return yolo_tree.write(dataset, out, split, pictures, partial(_label_text, names=s.keypoints), keys)


def _label_text(record: Record, names: tuple[str, ...]) -> str:
    h, w = record.size
    points, visible = target.named_points(record, names)
    o, keep = record.objects, ~record.objects.ignore
    xyxy = o.boxes[keep].astype(np.float64) / np.array([w, h, w, h])
    boxes = np.concatenate([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], axis=1)
    triples = np.concatenate([points / np.array([w, h]), visible[..., None]], axis=-1)[keep]
    rows = np.concatenate([boxes, triples.reshape(len(boxes), 3 * len(names))], axis=1)
    lines = zip(o.labels[keep].tolist(), rows.tolist(), strict=True)
    return "".join(f"{c} {' '.join(f'{v:.10g}' for v in row)}\n" for c, row in lines)


class _Points:
    """What data.yaml says of the points, and what follows from the lines where it says nothing."""

    def __init__(self, path: Path) -> None:
        config, self._data = yolo_tree.settings(path)
        self._where = str(config or path)
        self._skeleton: Schema | None = None
        self._told = "kpt_shape" in self._data

    def rows(self, texts: list[tuple[int, Path, str]], ledger: Ledger) -> Rows:
        """Rows with boxes (cx cy w h) and points still as shares."""
        k, dims = self._told_shape() if self._told else self._guessed_shape(texts, ledger)
        count = 5 + k * dims
        what = f"{count} numbers (class cx cy w h and {'x y v'[: 2 * dims - 1]} of {k} points)"
        rows, values = yolo_lines.table(texts, count, what, ledger)
        table = values[:, 4:].reshape(-1, k, dims)
        rows.boxes, rows.points = values[:, :4], table[..., :2]
        yolo_lines.refuse_pixels(rows.boxes, rows.where)
        rows.visible = _visible(table, rows, ledger)
        self._skeleton = self._read_skeleton(k, ledger)
        return rows

    def place(self, rows: Rows, scale: NDArray[np.float64], ledger: Ledger) -> None:
        assert rows.points is not None
        centre, wh = rows.boxes[:, :2] * scale, rows.boxes[:, 2:] * scale
        rows.boxes = np.concatenate([centre - wh / 2, centre + wh / 2], axis=1)
        rows.points = rows.points * scale[:, None]
        far = (np.abs(rows.points - centre[:, None]) > wh[:, None]).any(axis=-1)  # outside a box of twice the size
        known = rows.visible > 0 if rows.visible is not None else np.ones(far.shape, np.bool_)
        if not self._told and (far & known).sum() > 0.5 * known.sum():
            first = int(np.argmax((far & known).any(axis=1)))
            raise TercelError(
                f"{rows.where(first)}: most of what would be points lies far from its box: these may be outlines",
                "if these are a box and points, say so in data.yaml, for example kpt_shape: [6, 3]",
            )

    def onto(self, schema: Schema) -> Schema:
        return skeletons.onto(schema, self._skeleton)

    def _told_shape(self) -> tuple[int, int]:
        shape = self._data["kpt_shape"]
        good = isinstance(shape, list) and len(shape) == 2 and all(isinstance(v, int) for v in shape)
        if not good or shape[0] < 1 or shape[1] not in (2, 3):
            raise TercelError(
                f"{self._where}: kpt_shape is {shape!r}, not [number of points, 2 or 3]",
                "for example kpt_shape: [6, 3]",
            )
        return shape[0], shape[1]

    def _guessed_shape(self, texts: list[tuple[int, Path, str]], ledger: Ledger) -> tuple[int, int]:
        """(K, 2 or 3) that the commonest length of the lines allows, judged by every third value where both do."""
        lines = [fields for _, _, text in texts for line in text.splitlines() if (fields := line.split())]
        if not lines:
            names = self._data.get("keypoints")
            return (len(names) if isinstance(names, list) and names else 1), 3
        n = Counter(map(len, lines)).most_common(1)[0][0]
        shapes = _shapes(n)
        if not shapes:
            first = next(f for _, f, text in texts if text.split())
            raise TercelError(
                f"{first}:1: {n} numbers are not a class, a box and points (5 + 2 K or 5 + 3 K numbers)",
                "give every line the same points; data.yaml says how many, for example kpt_shape: [6, 3]",
            )
        if len(shapes) == 1:
            return shapes[0]
        flags = all(_is_flag(v) for fields in lines if len(fields) == n for v in fields[7::3])
        k, dims = next(s for s in shapes if s[1] == (3 if flags else 2))
        message = (
            f"lines of {n} numbers may hold {shapes[0][0]} points without or {shapes[1][0]} with visibility: "
            f"{k} {'with' if flags else 'without'} were read, third values being {'' if flags else 'not '}all 0, 1 or 2"
        )
        ledger.add("labels.kpt_shape", Severity.WARNING, f"{message}; say kpt_shape in data.yaml", self._where)
        return k, dims

    def _read_skeleton(self, k: int, ledger: Ledger) -> Schema:
        data, where = self._data, self._where
        names = data.get("keypoints")
        if names is None and isinstance(data.get("kpt_names"), dict) and data["kpt_names"]:
            lists = list(data["kpt_names"].values())
            if any(other != lists[0] for other in lists):
                raise TercelError(f"{where} (kpt_names): classes with different points", "all share one skeleton")
            names = lists[0]
        names = skeletons.unnamed(k, where, ledger) if names is None else names
        if isinstance(names, list) and len(names) != k:
            raise TercelError(
                f"{where}: {len(names)} names for {k} points", "name every point, in the order of the lines"
            )
        pairs, index = data.get("flip_pairs"), data.get("flip_idx")
        if index is not None:
            turned = skeletons.pairs_of_index(index, names, f"{where} (flip_idx)")
            pairs = turned if pairs is None else pairs
        s = skeletons.parse(names, where, ledger, flip_pairs=pairs, edges=data.get("edges"), sigmas=data.get("sigmas"))
        if index is not None and s.flip_index.tolist() != index:
            raise TercelError(f"{where}: flip_idx and flip_pairs say different things", "correct one, or leave one out")
        return s


def _is_flag(text: str) -> bool:
    try:
        return float(text) in (0, 1, 2)
    except ValueError:
        return False


def _shapes(n: int) -> list[tuple[int, int]]:
    """(K, 2) and (K, 3), those of them that a line of n numbers can be."""
    return [((n - 5) // d, d) for d in (2, 3) if n > 5 and (n - 5) % d == 0]


def _visible(table: NDArray[np.float64], rows: Rows, ledger: Ledger) -> NDArray[np.uint8]:
    """u8 [N,K] from points f64 [N,K,2 or 3]; never from x or y."""
    if table.shape[-1] == 3:
        for i, j in np.argwhere(~np.isin(table[..., 2], (0, 1, 2)))[:1].tolist():
            what = f"the visibility of point {j + 1} is {table[i, j, 2]:g}"
            raise TercelError(f"{rows.where(i)}: {what}", "it is 0 absent, 1 hidden or 2 visible")
        return table[..., 2].astype(np.uint8)
    message = (
        "points at exactly 0 0, in lines without visibility, count as labelled: if they stand for points that are not, "
        "write x y v with v = 0"
    )
    for i in np.flatnonzero((table == 0).all(axis=-1).any(axis=1)).tolist():
        at_origin = int((table[i] == 0).all(axis=-1).sum())
        ledger.add("labels.point_at_origin", Severity.WARNING, message, rows.where(i), at_origin)
    return np.full(table.shape[:2], 2, np.uint8)
