"""Folders of XML in the style of Pascal VOC: what the formats voc and rolabelimg share.

`Annotations/ JPEGImages/ ImageSets/Main/<split>.txt`, or XML beside the pictures, then subfolders are splits. Each
`<object>` has a name, perhaps `difficult`, and one of several descriptions of its place (bndbox, robndbox, ...).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.data.formats import common, target
from tercel.data.formats.common import Options, Picture
from tercel.data.formats.labelimg import Annotation, Object, parse

LOOKED_AT = 100  # XML files that are opened to tell the format
_CLASS_FILE = re.compile(r"\S+ +-?[01]$")  # VOC's per-class lists: "000012 -1"


@dataclass(frozen=True)
class Listing:
    """The pictures of a split, the annotation of each, and the class names of the whole folder."""

    pictures: list[Picture]
    annotations: list[Annotation]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """N objects as columns: picture i64 [N], name [N], numbers f64 [N,K], difficult bool [N]."""

    picture: NDArray[np.int64]
    names: list[str]
    numbers: NDArray[np.float64]
    difficult: NDArray[np.bool_]
    lines: list[tuple[Path, int]]
    lost: int

    def where(self, i: int) -> str:
        return f"{self.lines[i][0]}:{self.lines[i][1]}"


# -- reading ------------------------------------------------------------------------------------------------------


def kinds(path: Path) -> set[str]:
    """Which of annotation, bndbox, robndbox, polygon occur in the first XML files of a folder; empty: it holds none."""
    if not path.is_dir() or path.name == "Annotations":  # there the folder above is the source
        return set()
    found: set[str] = set()
    for folder in (path / "Annotations", path, *sorted(p for p in path.iterdir() if p.is_dir())):
        for n, file in enumerate(folder.glob("*.xml")):
            data = file.read_bytes()
            found |= {k for k in ("annotation", "bndbox", "robndbox", "polygon") if f"<{k}".encode() in data}
            if n + 1 == LOOKED_AT or "annotation" not in found:
                break
        if found:
            break
    return found


def splits(path: Path) -> list[str]:
    """Names of the lists in ImageSets/Main, or of the subfolders that hold XML (train/, valid/)."""
    if (path / "Annotations").is_dir():
        lists = sorted((path / "ImageSets" / "Main").glob("*.txt"))
        return [p.stem for p in lists if not _CLASS_FILE.match(next(iter(common.read_text(p).splitlines()), ""))]
    if any(path.glob("*.xml")):
        return []
    return sorted(p.name for p in path.iterdir() if p.is_dir() and any(p.glob("*.xml")))


def listing(
    path: Path, split: str | None, options: Options, ledger: Ledger, classes: Callable[[set[str]], Sequence[str]]
) -> Listing:
    """One split, or everything when `split` is None. Class ids follow the options, else `classes.txt`, else what
    `classes` makes of the names of ALL annotations of the folder, so that every split counts alike.

    Raises:
        TercelError: an unknown split, no picture, XML that is broken or declares entities.
    """
    source, known = f"{path}#{split}" if split else str(path), splits(path)
    if split is not None and split not in known:
        raise common.unknown_split(str(path), split, known)
    layout = _layout(path)
    annotations = {stem: parse(xml) for stem, xml in _xml_files(layout)}
    names = {o.name for a in annotations.values() for o in a.objects}
    written = common.read_classes(path / "classes.txt") if (path / "classes.txt").is_file() else None
    pictures, chosen = [], []
    beside = common.pictures_by_stem(layout.pictures, below=True)
    for stem, line in _stems(layout, split, annotations, beside):
        a = annotations.get(stem)
        picture = _picture(stem, a, beside, layout, line, owned=annotations)
        if picture is None:
            message = "names without picture and annotation file were left out"
            ledger.add("pictures.missing", Severity.WARNING, message, f"{line}: {stem}")
            continue
        if a is None:
            ledger.add("labels.none", Severity.INFO, "pictures without an annotation file count as negatives", line)
        pictures.append(picture)
        chosen.append(a or Annotation())
    if not pictures:
        raise TercelError(f"{source} lists no picture", "check the split file and the folder")
    return Listing(pictures, chosen, options.classes or written or tuple(classes(names)))


def columns(
    annotations: Sequence[Annotation],
    ledger: Ledger,
    numbers: Callable[[Object], list[float]],
    width: int,
    missing: str,
) -> Columns:
    """All objects as columns. `numbers` gives the `width` numbers of one, or raises KeyError or ValueError: then it is
    left out and counted under the message `missing`."""
    picture: list[int] = []
    names: list[str] = []
    table: list[list[float]] = []
    difficult: list[bool] = []
    lines: list[tuple[Path, int]] = []
    lost = 0
    for i, a in enumerate(annotations):
        for o in a.objects:
            try:
                table.append(numbers(o))
            except (KeyError, ValueError):
                ledger.add("labels.fields", Severity.WARNING, missing, f"{a.path}:{o.line}")
                lost += 1
                continue
            picture.append(i)
            names.append(o.name)
            difficult.append(o.difficult == "1")
            lines.append((a.path, o.line))
    values = np.array(table, np.float64).reshape(-1, width)
    return Columns(np.array(picture, np.int64), names, values, np.array(difficult, np.bool_), lines, lost)


def class_ids(c: Columns, classes: Sequence[str], also: Mapping[str, int] | None = None) -> NDArray[np.int64]:
    """i64 [N]; names beyond the class list have their ids in `also`.

    Raises:
        TercelError: an unknown class, nearest named.
    """
    ids = {n: i for i, n in enumerate(classes)} | dict(also or {})
    for i, name in enumerate(c.names):
        if name not in ids:
            raise common.unknown_class(c.where(i), name, classes)
    return np.array([ids[n] for n in c.names], np.int64)


@dataclass(frozen=True)
class _Layout:
    root: Path
    xml: Path
    pictures: Path
    lists: Path | None  # ImageSets/Main, or None: splits are subfolders


def _layout(path: Path) -> _Layout:
    if (path / "Annotations").is_dir():
        images = next(
            (path / n for n in ("JPEGImages", "images", "Images") if (path / n).is_dir()), path / "JPEGImages"
        )
        return _Layout(path, path / "Annotations", images, path / "ImageSets" / "Main")
    return _Layout(path, path, path, None)


def _xml_files(layout: _Layout) -> Iterator[tuple[str, Path]]:
    """All annotations of the folder by stem (relative path without suffix), in order."""
    files = sorted(layout.xml.rglob("*.xml"))
    if not files:
        raise TercelError(f"{layout.xml} holds no XML file", "looked for Annotations/*.xml, or XML beside pictures")
    for f in files:
        yield f.relative_to(layout.xml).with_suffix("").as_posix(), f


def _stems(
    layout: _Layout, split: str | None, annotations: dict[str, Annotation], beside: dict[str, list[Path]]
) -> Iterator[tuple[str, str]]:
    """(stem, "file:line" that asks for it) in the order of the split file, else sorted."""
    if split is not None and layout.lists is not None:
        listing = layout.lists / f"{split}.txt"
        for n, line in enumerate(common.read_text(listing).splitlines(), 1):
            if line.strip():
                common.inside(layout.xml, line, f"{listing}:{n}")
                yield line.strip(), f"{listing}:{n}"
        return
    for stem in sorted({*annotations, *beside}):
        if split is None or stem.startswith(split + "/"):
            yield stem, str(layout.xml / f"{stem}.xml" if stem in annotations else beside[stem][0])


def _picture(
    stem: str,
    a: Annotation | None,
    beside: dict[str, list[Path]],
    layout: _Layout,
    line: str,
    *,
    owned: Collection[str],
) -> Picture | None:
    """The picture named like the XML file, else the one that its <filename> names."""
    found = beside.get(stem, [])
    if len(found) > 1:
        raise TercelError(f"{line}: two pictures share one label: {found[0]} and {found[1]}", "rename one of them")
    source = f"{a.path}:{a.line}" if a else line
    if found:
        path = found[0]
    elif a is None:
        return None
    else:
        name = Path(stem).parent / (a.filename or f"{Path(stem).name}.jpg")
        path = common.inside(layout.pictures, str(name), source)
        if name.with_suffix("").as_posix() in owned:  # a copied <filename>: that picture has a label of its own
            path = layout.pictures / f"{stem}.jpg"
    return Picture(stem, path, a.size if a else None, source)


# -- writing ------------------------------------------------------------------------------------------------------


def write(
    dataset: Dataset, out: Path, *, split: str, pictures: bool, objects: Callable[[Record], list[tuple[str, bool, str]]]
) -> list[Path]:
    """`out`/Annotations, JPEGImages (hard links where possible), ImageSets/Main/<split>.txt and classes.txt.

    `objects` gives (class name, difficult, XML of the place) of every object of a record. Further splits may be written
    into the same folder; a file that exists is never touched.

    Raises:
        TercelError: a file exists already, another class list lies there, a record is a clip.
    """
    stems = [target.file_stem(r) for r in dataset.records]
    images = [out / "JPEGImages" / f"{s}{target.still_picture(r).suffix}" for s, r in zip(stems, dataset.records)]
    labels = [out / "Annotations" / f"{s}.xml" for s in stems]
    lists, names = out / "ImageSets" / "Main" / f"{split}.txt", out / "classes.txt"
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([lists, *labels, *(images if pictures else [])])
    target.same_classes(names, dataset.schema.classes)
    texts = [xml(r, image, objects(r)) for r, image in zip(dataset.records, images)]
    for record, image, label, text in zip(dataset.records, images, labels, texts):
        if pictures:
            target.place_picture(target.still_picture(record), image)
        write_atomic(label, text)
    if not names.exists():
        write_atomic(names, "".join(f"{c}\n" for c in dataset.schema.classes))
    write_atomic(lists, "".join(f"{s}\n" for s in stems))
    return [lists, names, *labels, *(images if pictures else [])]


def xml(record: Record, image: Path, objects: list[tuple[str, bool, str]]) -> str:
    """The file of a record; `objects` as in `write`."""
    h, w = record.size
    out = [
        "<annotation>",
        f"\t<folder>JPEGImages</folder>\n\t<filename>{escape(image.name)}</filename>",
        f"\t<size>\n\t\t<width>{w}</width>\n\t\t<height>{h}</height>\n\t\t<depth>3</depth>\n\t</size>",
    ]
    out += [
        f"\t<object>\n\t\t<name>{escape(name)}</name>\n\t\t<difficult>{int(difficult)}</difficult>\n"
        f"\t\t{place}\n\t</object>"
        for name, difficult, place in objects
    ]
    return "\n".join([*out, "</annotation>", ""])


def number(x: np.float32) -> str:
    """The shortest text that reads back as the same float32; whole numbers as such."""
    return str(int(x)) if x == int(x) else str(x)
