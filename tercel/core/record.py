"""Record: one annotated sample on disk, with provenance. Dataset: records with the schema and what was found."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tercel.core.finding import Finding, TercelError
from tercel.core.objects import Objects, labels_count
from tercel.core.schema import Schema


@dataclass(frozen=True)
class Event:
    """Something that happens at one frame of a clip (bounce, net, hit)."""

    frame: int
    name: str


@dataclass(frozen=True)
class Frame:
    """Where pixels come from: a picture file, or one frame of a video (`index` >= 0)."""

    path: Path
    index: int = -1

    def __str__(self) -> str:
        return str(self.path) if self.index < 0 else f"{self.path}@{self.index}"


@dataclass(frozen=True, eq=False)
class Record:
    """One annotated sample: no pixels, JSON-able; the unit of checks, of splits and of blame.

    Attributes:
        id: unique within its data set.
        frames: T >= 1 places the pixels come from.
        size: (H, W) of the original picture, after its EXIF orientation was applied.
        objects: truth on the original canvas.
        events: events in time, by frame index within `frames`.
        first: frame number of `frames[0]` in its video or label file; a clip's frames are consecutive.
        background: frames of the same video whose median shows it without the ball, or none.
        group: video, match or scene; a group never crosses a split.
        source: "file:line" of the label, for blame.
    """

    id: str
    frames: tuple[Frame, ...]
    size: tuple[int, int]
    objects: Objects
    events: tuple[Event, ...] = ()
    group: str = ""
    source: str = ""
    first: int = 0
    background: tuple[Frame, ...] = ()

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError(f"record {self.id!r} has no frame")
        if self.objects.size != tuple(self.size):
            raise ValueError(f"record {self.id!r}: objects lie on {self.objects.size}, the picture is {self.size}")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Records, the schema behind their numbers, and the findings made while reading.

    Raises:
        TercelError: an id that occurs twice, or a label beyond the schema's classes.
    """

    schema: Schema
    records: tuple[Record, ...]
    findings: tuple[Finding, ...] = ()
    source: str = ""
    _places: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for i, r in enumerate(self.records):
            if r.id in self._places:
                raise TercelError(
                    f"{r.source or self.source}: id {r.id!r} occurs twice (first in "
                    f"{self.records[self._places[r.id]].source})",
                    "give every picture its own name or id",
                )
            self._places[r.id] = i
            if len(r.objects) and int(r.objects.labels.max()) >= len(self.schema.classes):
                raise TercelError(
                    f"{r.source}: class id {int(r.objects.labels.max())} but only {len(self.schema.classes)} classes",
                    "list all class names",
                )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, id: str) -> Record:
        return self.records[self._places[id]]

    def subset(self, ids: Sequence[str]) -> Dataset:
        """The records with these ids, in this order."""
        return Dataset(self.schema, tuple(self[i] for i in ids), self.findings, self.source)

    def statistics(self) -> dict[str, Any]:
        """Counts and label statistics: what changes when a data set is not the one you think."""
        per_class = labels_count((r.objects for r in self.records), len(self.schema.classes))
        boxes = np.concatenate([r.objects.boxes for r in self.records]) if self.records else np.zeros((0, 4))
        wh = boxes[:, 2:] - boxes[:, :2]

        def quantiles(x: np.ndarray) -> list[float]:
            return [round(float(q), 3) for q in np.quantile(x, [0, 0.25, 0.5, 0.75, 1])] if len(x) else []

        return {
            "records": len(self.records),
            "frames": sum(len(r.frames) for r in self.records),
            "objects": int(per_class.sum()),
            "ignored": int(sum(r.objects.ignore.sum() for r in self.records)),
            "negatives": sum(not len(r.objects) for r in self.records),
            "per_class": {c: int(n) for c, n in zip(self.schema.classes, per_class, strict=True)},
            "most_per_record": max((len(r.objects) for r in self.records), default=0),
            "width_px": quantiles(wh[:, 0]),
            "height_px": quantiles(wh[:, 1]),
            "sizes": sorted({f"{h}x{w}" for h, w in (r.size for r in self.records)})[:8],
            "groups": len({r.group for r in self.records}),
        }

    def fingerprint(self) -> str:
        """Hash of all labels, names and picture bytes, whatever the folder is called. Reads every picture."""
        h = hashlib.blake2b(digest_size=16)
        h.update(repr(self.schema).encode())
        for r in sorted(self.records, key=lambda r: r.id):
            h.update(r.id.encode())
            for frame in r.frames:
                h.update(content_hash(frame.path).encode())
                h.update(str(frame.index).encode())
            for column in r.objects.columns:
                h.update(column.encode())
                h.update(getattr(r.objects, column).tobytes())
            h.update(repr(r.events).encode())
        return h.hexdigest()


def content_hash(path: Path) -> str:
    """128-bit BLAKE2 of the file's bytes, in hex; read once per process as long as size and time stay the same."""
    status = path.stat()
    return _content_hash(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1 << 20)
def _content_hash(path: Path, size: int, time: int) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
