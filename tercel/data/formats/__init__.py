"""Formats of data sets on disk. A new one is a module here and a line in FORMATS; the contract tests then cover it.

Each module has: NAME; LOOKS_LIKE (what `matches` looks for, in words); `matches(path) -> bool`, by content;
`splits(path) -> list[str]`; `read(path, split, options) -> Dataset`; `write(dataset, out, *, split, pictures) ->
list[Path]`, which never touches a file that exists; HOLDS_IGNORE = False where ignored objects have no place; and TASK:
"boxes", "oriented" boxes or "keypoints" in still pictures, or "ball" in rallies of video. It may have HOLDS_CLASSES =
False where all objects are of one class, which no file names, ONLY_CLASSES where it knows these classes alone, and
HOLDS_BOXES = False where boxes are hulls of points.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, cast

from tercel.core.record import Dataset
from tercel.data.formats import (
    aerial,
    citypersons,
    coco,
    deeplabcut,
    deepposekit,
    dota,
    dronevehicle,
    ecp,
    hit_uav,
    odgt,
    odm,
    openttgames,
    points_json,
    rolabelimg,
    sequence,
    tracknet,
    vedai,
    vehicle_markers,
    voc,
    widerperson,
    yolo,
    yolo_obb,
    yolo_pose,
)
from tercel.data.formats.common import Options


class Format(Protocol):
    """What a format module provides."""

    NAME: str
    LOOKS_LIKE: str
    HOLDS_IGNORE: bool
    TASK: Literal["boxes", "oriented", "keypoints", "ball"]

    def matches(self, path: Path) -> bool: ...
    def splits(self, path: Path) -> list[str]: ...
    def read(self, path: Path, split: str | None = None, options: Options | None = None) -> Dataset: ...
    def write(self, dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]: ...


FORMATS: Mapping[str, Format] = {
    m.NAME: cast(Format, m)
    for m in (
        voc,
        coco,
        yolo,
        odm,
        odgt,
        ecp,
        citypersons,
        widerperson,
        hit_uav,
        rolabelimg,
        dota,
        yolo_obb,
        yolo_pose,
        deepposekit,
        deeplabcut,
        points_json,
        aerial,
        dronevehicle,
        vedai,
        vehicle_markers,
        tracknet,
        openttgames,
        sequence,
    )
}
