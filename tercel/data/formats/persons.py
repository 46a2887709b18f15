"""What the formats of pedestrian data sets share: their classes, hidden shares, what is ignored, persons given twice.

Shape legend: N labelled persons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.geometry import box_area
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Record
from tercel.data.formats import common, target
from tercel.data.formats.common import Options, Picture, Rows

MANY = 20  # persons from which equal shares are no accident


@dataclass
class Columns:
    """Persons of all pictures in the order of their files, one after the other.

    `ratio` is the visible share in 0..1 or None, `reason` says why a person is ignored (empty: it counts).
    """

    picture: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    ratios: list[float | None] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    lost: int = 0

    def add(self, picture: int, label: int, box: list[float], ratio: float | None, reason: str, where: str) -> None:
        self.picture.append(picture)
        self.labels.append(label)
        self.boxes.append(box)
        self.ratios.append(ratio)
        self.reasons.append(reason)
        self.places.append(where)

    def rows(self, ledger: Ledger) -> Rows:
        """What was added, as rows; who is ignored, given twice, or of unknown visibility is counted."""
        where = self.places.__getitem__
        ignore = np.array([r != "" for r in self.reasons], np.bool_)
        for reason, n in Counter(r for r in self.reasons if r).items():
            ledger.add("labels.ignored", Severity.INFO, reason, where(self.reasons.index(reason)), n)
        share, known = from_ratios(self.ratios)
        rows = Rows(
            np.array(self.picture, np.int64),
            np.array(self.labels, np.int64),
            np.array(self.boxes, np.float64).reshape(-1, 4),
            where,
            ignore,
            lost=self.lost,
            occlusion=told(share, known, ignore, where, ledger),
        )
        say_repeated(rows, ledger)
        return rows


def class_ids(where: str, known: Sequence[str], options: Options) -> tuple[tuple[str, ...], dict[str, int]]:
    """The class names of a data set whose format knows the classes `known`, and the id of each of these.

    Raises:
        TercelError: the options list classes of which one of `known` is missing.
    """
    classes = options.classes or tuple(known)
    for name in known:
        if name not in classes:
            raise common.unknown_class(where, name, classes)
    return classes, {name: classes.index(name) for name in known}


def written_names(dataset: Dataset, known: Sequence[str], format: str) -> list[str]:
    """Under which of the names `known` each class of the data set is written; a single class of any name is the first.

    Raises:
        TercelError: several classes, of which the format has no place for one.
    """
    classes = dataset.schema.classes
    if len(classes) == 1 and classes[0] not in known:
        return [known[0]]
    for name in classes:
        if name not in known:
            raise TercelError(
                f"{format} has no place for the class {name!r}: it holds {' and '.join(known)}",
                "choose classes, for example tercel convert ... --classes Person",
            )
    return list(classes)


def hidden_share(full: NDArray[np.float64], visible: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - area(visible and full) / area(full), f64 [N] in 0..1; 0 where the full box has no area or is not finite.

    Args:
        full, visible: f64 [N,4] x1 y1 x2 y2 in px, of the whole person and of what is seen of it.
    """
    both = np.concatenate([np.maximum(full[:, :2], visible[:, :2]), np.minimum(full[:, 2:], visible[:, 2:])], axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        seen, whole = np.prod(np.clip(both[:, 2:] - both[:, :2], 0, None), axis=1), box_area(full)
        usable = np.isfinite(seen) & np.isfinite(whole) & (whole > 0)
        share = 1 - np.divide(seen, whole, out=np.ones(len(full)), where=usable)
    clipped: NDArray[np.float64] = np.clip(share, 0, 1)
    return clipped


def xyxy(box: Any) -> list[float] | None:
    """x1 y1 x2 y2 of x y width height as a file has them; None where it has not."""
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
        return None
    x, y, w, h = (float(v) for v in box)
    return [x, y, x + w, y + h]


def seen_share(full: list[float], visible: list[float]) -> float:
    """The visible share of one box, as `hidden_share` has it of many."""
    return float(1 - hidden_share(np.array([full]), np.array([visible]))[0])


def from_ratios(ratios: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Hidden shares f64 [N], 0 where the file tells no visible one in 0..1, and where it does, bool [N]."""
    known = np.array([isinstance(r, int | float) and 0 <= r <= 1 for r in ratios], np.bool_)
    return np.array([1 - r if k else 0.0 for r, k in zip(ratios, known.tolist(), strict=True)], np.float64), known


def told(
    share: NDArray[np.float64],
    known: NDArray[np.bool_],
    ignore: NDArray[np.bool_],
    where: Callable[[int], str],
    ledger: Ledger,
) -> NDArray[np.float64] | None:
    """The hidden shares f64 [N], or None where none is known.

    Counted are persons whose share is not known beside others (they count as wholly visible), and shares that never
    vary, as when a file has them under another key.
    """
    if not known.any():
        return None
    counted = share[~ignore]
    if len(counted) >= MANY and (counted == counted[0]).all():
        message = f"of every object the same share is hidden ({counted[0]:g}): does the file tell it under this key?"
        ledger.add("labels.constant", Severity.WARNING, message, where(int(np.argmin(ignore))), len(counted))
    for i in np.flatnonzero(~known & ~ignore).tolist():
        message = "objects of which is not known how much is hidden count as wholly visible"
        ledger.add("labels.no_visible", Severity.INFO, message, where(i))
    return share


def ratio_keys(o: Objects) -> list[dict[str, float]]:
    """`vis_ratio`, 1 - occlusion, for each of N objects, as the COCO files of pedestrians have it; empty without."""
    if o.occlusion is None:
        return [{} for _ in range(len(o))]
    return [{"vis_ratio": r} for r in (1 - o.occlusion.astype(np.float64)).tolist()]


def say_counted(names: Sequence[str], check: str, message: str, source: str, ledger: Ledger) -> None:
    """Count names (of tags, of labels), each with how often it occurs as evidence."""
    if names:
        table = ", ".join(f"{name} {n}x" for name, n in Counter(names).most_common())
        ledger.add(check, Severity.INFO, message, f"{source}: {table}", len(names))


def say_repeated(rows: Rows, ledger: Ledger) -> None:
    """Count persons that lie exactly on another one of their picture: a detector can find one of them only."""
    index = np.flatnonzero(~rows.ignore & np.isfinite(rows.boxes).all(axis=1))
    table = np.concatenate([rows.picture[index, None], rows.labels[index, None], rows.boxes[index]], axis=1)
    _, first = np.unique(table, axis=0, return_index=True)
    for i in np.setdiff1d(index, index[first], assume_unique=True).tolist():
        message = "persons that lie exactly on another one of their picture were kept: is one of them a copy?"
        ledger.add("labels.duplicate", Severity.WARNING, message, rows.where(i))


def with_guessed_sizes(pictures: Sequence[Picture], rows: Rows, ledger: Ledger) -> list[Picture]:
    """The pictures; one that has no size and no file reaches as far as its boxes. `rows` in the order of pictures."""
    edges = np.searchsorted(rows.picture, np.arange(len(pictures) + 1)).tolist()
    out = list(pictures)
    for i, p in enumerate(pictures):
        if p.size is None and not p.path.is_file():
            size = common.size_from_points(rows.boxes[edges[i] : edges[i + 1], 2:], ledger, p.source)
            out[i] = replace(p, size=size)
    return out


def place(records: Sequence[Record], texts: dict[Path, str], images: Sequence[Path]) -> list[Path]:
    """Write label files and put the pictures of the records in place (`images`; none: leave them out).

    Raises:
        TercelError: one of the files exists already, or a picture does not exist; nothing was written then.
    """
    if images:
        target.refuse_missing(records)
    target.refuse_existing([*texts, *images])
    if images:
        for record, image in zip(records, images, strict=True):
            target.place_picture(target.still_picture(record), image)
    for path, text in texts.items():
        write_atomic(path, text)
    return [*texts, *images]
