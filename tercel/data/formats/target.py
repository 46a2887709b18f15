"""What all writers share: names that stay in the folder, pictures put in place, nothing ever overwritten."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import TercelError
from tercel.core.record import Frame, Record
from tercel.data.formats import common
from tercel.data.stored import is_store, read_stored


def still_picture(record: Record) -> Path:
    """The one picture of a record; of one that is stored in an HDF5 file, the path FILE/INDEX.png to be written from it
    by `place_picture`.

    Raises:
        TercelError: a clip or a video frame (picture formats hold stills only), or an id that is no file name.
    """
    first = record.frames[0]
    if len(record.frames) == 1 and first.index >= 0 and is_store(first.path):
        return first.path / f"{first.index:06d}.png"
    if len(record.frames) != 1 or first.index >= 0:
        raise TercelError(
            f"record {record.id!r} is a clip of {len(record.frames)} frames", "this format holds still pictures only"
        )
    return record.frames[0].path


def file_stem(record: Record) -> str:
    """The record's id as a relative path without suffix.

    Raises:
        TercelError: an id that would lie outside the folder, or that a file system cannot hold.
    """
    common.inside(Path("x"), record.id, f"record {record.id!r}")
    if (
        not record.id
        or record.id != record.id.strip()
        or record.id.endswith("/")
        or any(ord(c) < 32 for c in record.id)
    ):
        raise TercelError(f"record id {record.id!r} cannot be a file name", "rename the picture")
    return record.id


def oriented_boxes(record: Record) -> NDArray[np.float64]:
    """Oriented boxes f64 [N,5] of a record.

    Raises:
        TercelError: its objects have none. An upright rectangle is a box, not an oriented box of angle 0.
    """
    o = record.objects
    if len(o) and o.obbs is None:
        raise TercelError(
            f"record {record.id!r} ({record.source}) has boxes without an angle, and this format holds oriented ones",
            "write it as voc, coco or yolo",
        )
    return np.zeros((0, 5)) if o.obbs is None else o.obbs.astype(np.float64)


def named_points(record: Record, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """points f64 [N,K,2] px and visible u8 [N,K] of a record, absent ones at 0 0.

    Raises:
        TercelError: its objects have no points, or other than the K names say.
    """
    o, k = record.objects, len(names)
    if not k or (len(o) and (o.points is None or o.points.shape[1] != k)):
        what = f"boxes without points, and this format holds named ones ({k or 'none'} in the skeleton)"
        raise TercelError(f"record {record.id!r} ({record.source}) has {what}", "write it as voc, coco or yolo")
    if o.points is None or o.visible is None:
        return np.zeros((0, k, 2)), np.zeros((0, k), np.uint8)
    visible = np.minimum(o.visible, 2)  # a blurred point of a ball (3) is a visible one
    return np.where((visible > 0)[..., None], o.points.astype(np.float64), 0.0), visible


def labelled_points(record: Record, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """As `named_points`, of the objects that are not ignored, for formats that hold nothing of an animal but points.

    Raises:
        TercelError: as `named_points`; an animal without a labelled point, which would be lost.
    """
    points, visible = named_points(record, names)
    keep = ~record.objects.ignore
    points, visible = points[keep], visible[keep]
    if not (visible > 0).any(axis=1).all():
        what = f"record {record.id!r} ({record.source}) has an animal without a labelled point"
        raise TercelError(what, "this format holds points alone: write it as coco, yolo_pose or points_json")
    return points, visible


def refuse_existing(paths: Iterable[Path]) -> None:
    """
    Raises:
        TercelError: one of the files exists already: nothing is ever overwritten or doubled.
    """
    there = [p for p in paths if os.path.lexists(p)]
    if there:
        raise TercelError(
            f"{there[0]} exists already ({len(there)} such files)", "write into a new folder or under a new split"
        )


def refuse_missing(records: Iterable[Record]) -> None:
    """
    Raises:
        TercelError: a picture to be written along does not exist; said before anything is written.
    """
    for r in records:
        if not r.frames[0].path.is_file():
            raise TercelError(
                f"the picture {r.frames[0].path} of {r.id!r} does not exist", "a data set is written with its pictures"
            )


def place_picture(source: Path, target: Path) -> None:
    """`target` as a hard link to `source`, or a copy where links are not possible; never over an existing file. What is
    stored in an HDF5 file becomes a PNG file.

    Raises:
        TercelError: the picture does not exist, the target does, or the disk is full.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_store(source.parent) and source.parent.is_file():
            _write_stored(source, target)
            return
        real = source.resolve(strict=True)
        try:
            os.link(real, target)
        except FileExistsError:
            raise
        except OSError:  # another disk, or a file system without hard links
            part = target.with_name(f".{target.name}.part")
            try:
                shutil.copyfile(real, part)
                os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
    except FileExistsError as e:
        raise TercelError(f"{target} exists already", "write into a new folder or under a new split") from e
    except FileNotFoundError as e:
        raise TercelError(f"the picture {source} does not exist", "a data set is converted with its pictures") from e
    except OSError as e:
        raise TercelError(
            f"cannot copy {source} to {target}: {e.strerror or e}", "free some space or choose another folder"
        ) from e


def _write_stored(source: Path, target: Path) -> None:
    """A picture within an HDF5 file (see `still_picture`) as a PNG file."""
    from PIL import Image

    pixels = read_stored(Frame(source.parent, int(source.stem)))
    if os.path.lexists(target):
        raise FileExistsError(target)
    part = target.with_name(f".{target.name}.part")
    try:
        Image.fromarray(pixels).save(part, "PNG")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def same_classes(path: Path, classes: Sequence[str]) -> None:
    """
    Raises:
        TercelError: `path` exists and lists other classes: one folder, one class list.
    """
    if path.exists() and common.read_classes(path) != tuple(classes):
        raise TercelError(f"{path} lists other classes than the data being written", "write into a new folder")
