"""DroneVehicle: XML whose objects have a <polygon> of four corners (some a <bndbox> or a <point>), colour and infrared.

`train/` holds trainimg/ and trainlabel/ (colour), trainimgr/ and trainlabelr/ (infrared), val/ and test/ alike; the
splits are called train and train_ir, and so on. Misspelt class names (feright_car, truvk) are read as the ones they
mean; objects called `*` are of no known class and become ignore regions of every class; points have no extent and are
left out. All of it is counted.

The published pictures are 840x712 with a white border of 100 px around 640x512. They are read as they are, and so are
the labels, in the same pixels; the border is measured on a few pictures and reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset
from tercel.core.schema import Schema
from tercel.data.formats import angles, common, target, voc_folder
from tercel.data.formats.common import Options, Picture, Rows
from tercel.data.formats.labelimg import Annotation, Object, parse
from tercel.data.formats.regions import DONT_CARE, gathered, is_dont_care, spread
from tercel.data.formats.voc_folder import Columns
from tercel.data.images import read_image

NAME = "dronevehicle"
TASK = "oriented"
HOLDS_IGNORE = True
LOOKS_LIKE = "a folder with train/trainlabel/*.xml beside train/trainimg/ (infrared: trainlabelr, trainimgr)"
BEFORE = ("voc",)  # where all objects of the first files happen to have a <bndbox>

CLASSES = ("car", "truck", "bus", "van", "freight_car")
MEANT = {"feright car": "freight_car", "feright_car": "freight_car", "feright": "freight_car", "truvk": "truck"}
_CORNERS = [f"{axis}{i}" for i in (1, 2, 3, 4) for axis in "xy"]
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_WHITE = 245  # JPEG does not keep the border at 255
_LOOKED_AT = 8  # pictures whose border is measured


def matches(path: Path) -> bool:
    """True for a folder with label folders of these names, or with folders of such, that hold XML."""
    return path.is_dir() and any("annotation" in voc_folder.kinds(labels) for labels, _ in _folders(path).values())


def splits(path: Path) -> list[str]:
    """train, train_ir and so on, as far as there are label folders."""
    return list(_folders(path)) if path.is_dir() else []


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One split.

    Raises:
        TercelError: see tercel.data.formats.common; also several splits of which none was named (colour and infrared
            pictures share their names).
    """
    options, ledger = options or Options(), Ledger()
    source, folders = f"{path}#{split}" if split else str(path), _folders(path)
    if (split is not None and split not in folders) or not folders:
        raise common.unknown_split(str(path), split or "", list(folders))
    if split is None and len(folders) > 1:
        raise TercelError(f"{path} holds {', '.join(folders)}", f"name one: {path}#{next(iter(folders))}")
    labels, images = folders[split or next(iter(folders))]
    listed = next((f for f in (path / "classes.txt", path.parent / "classes.txt") if f.is_file()), None)
    classes = options.classes or (common.read_classes(listed) if listed else CLASSES)
    pictures, annotations = _listing(labels, images, ledger)
    c = voc_folder.columns(annotations, ledger, _numbers, 9, "objects without four corners or a box were left out")
    rows = _rows(c, classes, ledger)
    kept, index = common.check_pictures(pictures, ledger, options, source)
    rows.picture = index[rows.picture]
    if options.pictures:
        _report_border([p.path for p in kept], ledger)
    return common.assemble(kept, rows, Schema(classes), ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/<split>/<split>img (hard links where possible), `out`/<split>/<split>label and classes.txt; a split that
    ends in _ir into imgr and labelr.

    Raises:
        TercelError: a file exists already, another class list lies there, a record is a clip or has boxes without an
            angle.
    """
    name, infrared = split.removesuffix("_ir"), "r" if split.endswith("_ir") else ""
    folder, names, classes = out / name, out / "classes.txt", dataset.schema.classes
    stems = [target.file_stem(r) for r in dataset.records]
    suffixes = [target.still_picture(r).suffix for r in dataset.records]
    images = [folder / f"{name}img{infrared}" / f"{s}{suffix}" for s, suffix in zip(stems, suffixes)]
    labels = [folder / f"{name}label{infrared}" / f"{s}.xml" for s in stems]
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([*labels, *(images if pictures else [])])
    target.same_classes(names, classes)
    texts = []
    for record, image in zip(dataset.records, images):
        rows, every = gathered(record.objects, classes)
        corners = angles.to_corners(target.oriented_boxes(record)[rows]).reshape(-1, 8).tolist()
        places = ["".join(f"<{k}>{v:.10g}</{k}>" for k, v in zip(_CORNERS, row)) for row in corners]
        o = record.objects[rows]
        called = [DONT_CARE if all_ else classes[i] for i, all_ in zip(o.labels.tolist(), every.tolist())]
        ignore = (o.ignore & ~every).tolist()
        objects = [(n, d, f"<polygon>{p}</polygon>") for n, d, p in zip(called, ignore, places)]
        texts.append(voc_folder.xml(record, image, objects))
    for record, image, label, text in zip(dataset.records, images, labels, texts):
        if pictures:
            target.place_picture(target.still_picture(record), image)
        write_atomic(label, text)
    if not names.exists():
        write_atomic(names, "".join(f"{c}\n" for c in classes))
    return [names, *labels, *(images if pictures else [])]


# -- folders ------------------------------------------------------------------------------------------------------


def _folders(path: Path) -> dict[str, tuple[Path, Path]]:
    """split -> (label folder, picture folder), of a set or of one of its folders."""
    found = {}
    for folder in (path, *sorted(p for p in path.iterdir() if p.is_dir())):
        for labels in sorted(p for p in folder.iterdir() if p.is_dir()):
            base, mark, infrared = labels.name.rpartition("label")
            if mark and infrared in {"", "r"}:
                name = (base or folder.name) + ("_ir" if infrared else "")
                found[name] = labels, folder / f"{base}img{infrared}"
    return found


def _listing(labels: Path, images: Path, ledger: Ledger) -> tuple[list[Picture], list[Annotation]]:
    there = common.pictures_by_stem(images, below=True)
    annotations = {f.relative_to(labels).with_suffix("").as_posix(): parse(f) for f in sorted(labels.rglob("*.xml"))}
    pictures, chosen = [], []
    for stem in sorted({*annotations, *there}):
        a = annotations.get(stem, Annotation())
        found = there.get(stem, [images / f"{stem}.jpg"])
        if len(found) > 1:
            raise TercelError(f"{found[0]} and {found[1]} share one label", "rename one of the pictures")
        source = f"{a.path}:{a.line}" if stem in annotations else str(found[0])
        if stem not in annotations:
            ledger.add("labels.none", Severity.INFO, "pictures without a label file count as negatives", source)
        pictures.append(Picture(stem, found[0], a.size, source))
        chosen.append(a)
    if not pictures:
        raise TercelError(f"{labels} and {images} hold nothing", f"looked for {LOOKS_LIKE}")
    return pictures, chosen


# -- objects ------------------------------------------------------------------------------------------------------


def _numbers(o: Object) -> list[float]:
    """x1 y1 ... x4 y4, and 1 if it was an upright box."""
    if "polygon" in o.parts:
        return [*(float(o.parts["polygon"][k]) for k in _CORNERS), 0.0]
    x1, y1, x2, y2 = (float(o.parts["bndbox"][k]) for k in _SIDES)
    return [x1, y1, x2, y1, x2, y2, x1, y2, 1.0]


def _rows(c: Columns, classes: tuple[str, ...], ledger: Ledger) -> Rows:
    names = [_meant(name, classes, c.where(i), ledger) for i, name in enumerate(c.names)]
    everyone = {n: -1 for n in set(names) - set(classes) if n == "*" or is_dont_care(n)}
    labels = voc_folder.class_ids(Columns(c.picture, names, c.numbers, c.difficult, c.lines, c.lost), classes, everyone)
    for i in np.flatnonzero(c.numbers[:, 8] == 1).tolist():
        message = "upright boxes (bndbox) among polygons were read as boxes with angle 0"
        ledger.add("labels.upright", Severity.INFO, message, c.where(i))
    obbs = angles.from_corners(c.numbers[:, :8].reshape(-1, 4, 2), c.where, ledger)
    rows = Rows(c.picture, labels, np.zeros((len(labels), 4)), c.where, c.difficult, lost=c.lost, obbs=obbs)
    return spread(rows, labels < 0, len(classes), ledger)


def _meant(name: str, classes: Sequence[str], where: str, ledger: Ledger) -> str:
    right = MEANT.get(name.lower())
    if name in classes or right is None or right not in classes:
        return name
    ledger.add("labels.renamed", Severity.WARNING, f"the class {name!r} was read as {right!r}", where)
    return right


# -- border -------------------------------------------------------------------------------------------------------


def white_border(pixels: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Rows and columns of the picture u8 [H,W,3] that are white from the edge on: top, right, bottom, left (px)."""
    dark = pixels.min(axis=2) < _WHITE
    rows, columns = np.flatnonzero(dark.mean(axis=1) > 0.01), np.flatnonzero(dark.mean(axis=0) > 0.01)
    h, w = dark.shape
    if not len(rows) or not len(columns):
        return h, w, h, w
    return int(rows[0]), int(w - 1 - columns[-1]), int(h - 1 - rows[-1]), int(columns[0])


def _report_border(paths: Sequence[Path], ledger: Ledger) -> None:
    """Say how much of the pictures is border, where every one of a few that were looked at has it on all sides."""
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, _LOOKED_AT).astype(int))] if paths else []
    seen = []
    for path in chosen:
        pixels = read_image(path)
        top, right, bottom, left = white_border(pixels)
        h, w = pixels.shape[:2]
        if min(top, right, bottom, left) < 2 or top == h:
            return
        seen.append((1 - (h - top - bottom) * (w - left - right) / (h * w), (top, right, bottom, left)))
    if seen:
        share, sides = min(seen)
        message = (
            f"pictures have a white border ({', '.join(map(str, sides))} px at top, right, bottom and left, "
            f"{100 * share:.0f} % of their area), which is read as part of them"
        )
        ledger.add("pictures.border", Severity.WARNING, message, str(chosen[0]), len(paths))
