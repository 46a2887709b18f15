"""roLabelImg: Pascal VOC's folders and XML with `robndbox` (cx cy w h angle), as UAV-ROD and HIT-UAV have them.

The angle is that of the side w, in radians, clockwise from the x axis; the tool writes 0 to pi. A `bndbox` beside them
is a box with angle 0. `difficult` objects are ignored ones, DontCare is an ignore region of every class. Everything
else (folders, splits, class ids) is as in voc.

The tool has no place for the front. Where the angles of a data set run over the whole circle (UAV-ROD), they say where
the front points; Tercel itself writes a `heading` (radians, clockwise) into `robndbox`, which the tool skips.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import angles, common, headings, target, voc_folder
from tercel.data.formats.common import Options, Rows
from tercel.data.formats.labelimg import Object
from tercel.data.formats.regions import DONT_CARE, gathered, is_dont_care, spread
from tercel.data.formats.voc_folder import Columns, number

NAME = "rolabelimg"
TASK = "oriented"
HOLDS_IGNORE = True
LOOKS_LIKE = "a folder with Annotations/*.xml, or XML files beside pictures, whose objects have a <robndbox>"

_ROTATED = ("cx", "cy", "w", "h", "angle")
_UPRIGHT = ("xmin", "ymin", "xmax", "ymax")


def matches(path: Path) -> bool:
    """True for a folder with XML some of which have a robndbox."""
    return "robndbox" in voc_folder.kinds(path)


def accepts(path: Path) -> bool:
    """True for any folder of such XML, when the format was named: all its boxes may be upright."""
    return "annotation" in voc_folder.kinds(path)


def splits(path: Path) -> list[str]:
    """Names of the lists in ImageSets/Main, or of the subfolders that hold XML (train/, valid/)."""
    return voc_folder.splits(path)


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One split, or everything when `split` is None.

    Raises:
        TercelError: see tercel.data.formats.common, and XML that is broken or declares entities.
    """
    options, ledger = options or Options(), Ledger()
    source = f"{path}#{split}" if split else str(path)
    found = voc_folder.listing(path, split, options, ledger, _classes)
    pictures, index = common.check_pictures(found.pictures, ledger, options, source)
    message = "objects without a robndbox (cx cy w h angle) or bndbox (xmin ymin xmax ymax) were left out"
    c = voc_folder.columns(found.annotations, ledger, _numbers, 7, message)
    rows = _rows(c, found.classes, ledger)
    rows.picture = index[rows.picture]
    return common.assemble(pictures, rows, Schema(found.classes), ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/Annotations, JPEGImages (hard links where possible), ImageSets/Main/<split>.txt and classes.txt.

    Further splits may be written into the same folder; a file that exists is never touched.

    Raises:
        TercelError: a file exists already, another class list lies there, a record is a clip or has boxes without an
            angle.
    """
    classes = dataset.schema.classes

    def objects(record: Record) -> list[tuple[str, bool, str]]:
        obbs = target.oriented_boxes(record)
        rows, every = gathered(record.objects, classes)
        o = record.objects[rows]
        names = [DONT_CARE if all_ else classes[i] for i, all_ in zip(o.labels.tolist(), every.tolist())]
        return list(zip(names, (o.ignore & ~every).tolist(), _places(o, obbs[rows])))

    return voc_folder.write(dataset, out, split=split, pictures=pictures, objects=objects)


# -- reading ------------------------------------------------------------------------------------------------------


def _classes(names: Iterable[str]) -> list[str]:
    return sorted(n for n in names if not is_dont_care(n))


def _numbers(o: Object) -> list[float]:
    """cx cy w h angle, 1 if upright, heading (NaN where unknown)."""
    rotated = o.parts.get("robndbox")
    if rotated is not None:
        return [*(float(rotated[k]) for k in _ROTATED), 0.0, float(rotated.get("heading", "nan"))]
    x1, y1, x2, y2 = (float(o.parts["bndbox"][k]) for k in _UPRIGHT)
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.0, 1.0, np.nan]


def _rows(c: Columns, classes: tuple[str, ...], ledger: Ledger) -> Rows:
    also = {n: -1 for n in set(c.names) - set(classes) if is_dont_care(n)}
    labels = voc_folder.class_ids(c, classes, also)
    angles.check_radians(c.numbers[:, 4], c.where)
    upright = c.numbers[:, 5] == 1
    if not upright.all():
        for i in np.flatnonzero(upright).tolist():
            message = "upright boxes (bndbox) among rotated ones count as boxes with angle 0: check that they stand so"
            ledger.add("labels.upright", Severity.WARNING, message, c.where(i))
    heading, headed = _headings(c, ~upright, ledger)
    known = bool(headed.any())
    rows = Rows(
        c.picture,
        labels,
        np.zeros((len(labels), 4)),
        c.where,
        c.difficult,
        lost=c.lost,
        obbs=angles.to_ours(c.numbers[:, :5], angles.HALF_TURN),
        heading=heading if known else None,
        headed=headed if known else None,
    )
    return spread(rows, labels < 0, len(classes), ledger)


def _headings(c: Columns, rotated: NDArray[np.bool_], ledger: Ledger) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """heading f64 [N] and headed bool [N]: as written, else the angle of the side w where angles mean headings."""
    angle, heading = c.numbers[:, 4], c.numbers[:, 6]
    headed = np.isfinite(heading)
    if headed.any():
        return np.where(headed, heading, 0.0), headed
    index = np.flatnonzero(rotated)
    if headings.are_headings(angle[rotated], lambda i: c.where(int(index[i])), ledger):
        return np.where(np.isfinite(angle), angle, 0.0), rotated
    return np.zeros(len(angle)), np.zeros(len(angle), np.bool_)


# -- writing ------------------------------------------------------------------------------------------------------


def _places(o: Objects, obbs: NDArray[np.float64]) -> list[str]:
    out = []
    for i, rect in enumerate(angles.from_ours(obbs, angles.HALF_TURN).tolist()):
        values = dict(zip(_ROTATED, [*(number(np.float32(x)) for x in rect[:4]), repr(rect[4])]))
        if o.heading is not None and o.headed is not None and o.headed[i]:
            values["heading"] = repr(float(o.heading[i]))
        place = "".join(f"<{k}>{v}</{k}>" for k, v in values.items())
        out.append(f"<type>robndbox</type>\n\t\t<robndbox>{place}</robndbox>")
    return out
