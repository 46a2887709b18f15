"""Pascal VOC: one XML file per picture, `Annotations/ JPEGImages/ ImageSets/Main/<split>.txt`, or XML beside pictures.

Corners are read as continuous coordinates, as labelImg writes them (docs/decisions/0007-voc-corners.md). `difficult`
objects are ignored ones.

Class ids follow `classes.txt` where there is one, else the sorted names of ALL annotations of the
folder, so that every split counts alike. A record's id is the name in the split file: the XML's path without suffix.

VAID (vehicles from a drone, 1137 x 640, boxes without angles) is VOC with numbers for names. Where all names are among
its seven numbers and all pictures have its size, the names of its paper take their place, and this is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tercel.core.finding import Ledger, Severity
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import common, voc_folder
from tercel.data.formats.common import Options, Rows
from tercel.data.formats.labelimg import Annotation, Object
from tercel.data.formats.voc_folder import number

NAME = "voc"
TASK = "boxes"
HOLDS_IGNORE = True
LOOKS_LIKE = "a folder with Annotations/*.xml, or XML files (<annotation>) beside pictures"

VAID = ("sedan", "minibus", "truck", "pickup truck", "bus", "cement truck", "trailer")  # classes 1..7
VAID_SIZE = (640, 1137)
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def matches(path: Path) -> bool:
    """True for a folder with VOC annotations (some of its XML files are opened to make sure)."""
    found = voc_folder.kinds(path)
    return "annotation" in found and not found & {"robndbox", "polygon"}


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
    found = voc_folder.listing(path, split, options, ledger, sorted)
    classes = found.classes
    if _is_vaid(found.annotations):
        _name_vaid(found.annotations, ledger)
        classes = options.classes or VAID
    pictures, index = common.check_pictures(found.pictures, ledger, options, source)
    rows = _rows(found.annotations, classes, ledger)
    rows.picture = index[rows.picture]
    return common.assemble(pictures, rows, Schema(classes), ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/Annotations, JPEGImages (hard links where possible), ImageSets/Main/<split>.txt and classes.txt.

    Further splits may be written into the same folder; a file that exists is never touched.

    Raises:
        TercelError: a file exists already, another class list lies there, a record is a clip.
    """

    def objects(record: Record) -> list[tuple[str, bool, str]]:
        o = record.objects
        places = ["".join(f"<{s}>{number(v)}</{s}>" for s, v in zip(_SIDES, box)) for box in o.boxes]
        names = [dataset.schema.classes[i] for i in o.labels.tolist()]
        return [(n, i, f"<bndbox>{p}</bndbox>") for n, i, p in zip(names, o.ignore.tolist(), places)]

    return voc_folder.write(dataset, out, split=split, pictures=pictures, objects=objects)


def _rows(annotations: Sequence[Annotation], classes: Sequence[str], ledger: Ledger) -> Rows:
    def box(o: Object) -> list[float]:
        return [float(o.parts["bndbox"][side]) for side in _SIDES]

    message = "objects whose bndbox lacks xmin ymin xmax ymax as numbers were left out"
    c = voc_folder.columns(annotations, ledger, box, 4, message)
    return Rows(c.picture, voc_folder.class_ids(c, classes), c.numbers, c.where, c.difficult, lost=c.lost)


def _is_vaid(annotations: Sequence[Annotation]) -> bool:
    names = {o.name for a in annotations for o in a.objects}
    known = {str(i + 1) for i in range(len(VAID))}
    return names <= known and {a.size for a in annotations if a.objects} == {VAID_SIZE}


def _name_vaid(annotations: Sequence[Annotation], ledger: Ledger) -> None:
    table = ", ".join(f"{i} = {n}" for i, n in enumerate(VAID, 1))
    for a in annotations:
        for o in a.objects:
            message = f"class numbers of VAID became its names ({table})"
            ledger.add("labels.numbers", Severity.INFO, message, f"{a.path}:{o.line}")
            o.name = VAID[int(o.name) - 1]
