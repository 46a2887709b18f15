"""Pascal VOC: one XML file per picture, `Annotations/ JPEGImages/ ImageSets/Main/<split>.txt`, or XML beside pictures.

Corners are read as continuous coordinates, as labelImg writes them (docs/decisions/0007-voc-corners.md). `difficult`
objects are ignored ones.

Class ids follow `classes.txt` where there is one, else the sorted names of ALL annotations of the
folder, so that every split counts alike. A record's id is the name in the split file: the XML's path without suffix.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import common, target
from tercel.data.formats.common import Options, Picture, Rows

NAME = "voc"
TASK = "boxes"
HOLDS_IGNORE = True
LOOKS_LIKE = "a folder with Annotations/*.xml, or XML files (<annotation>) beside pictures"

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_CLASS_FILE = re.compile(r"\S+ +-?[01]$")  # VOC's per-class lists: "000012 -1"


def matches(path: Path) -> bool:
    """True for a folder with VOC annotations (one of its XML files is opened to make sure)."""
    if not path.is_dir() or path.name == "Annotations":  # there the folder above is the source
        return False
    for folder in (path / "Annotations", path, *sorted(p for p in path.iterdir() if p.is_dir())):
        first = next(folder.glob("*.xml"), None)
        if first is not None:
            with open(first, "rb") as f:
                return b"<annotation" in f.read(4096)
    return False


def splits(path: Path) -> list[str]:
    """Names of the lists in ImageSets/Main, or of the subfolders that hold XML (train/, valid/)."""
    if (path / "Annotations").is_dir():
        lists = sorted((path / "ImageSets" / "Main").glob("*.txt"))
        return [p.stem for p in lists if not _CLASS_FILE.match(next(iter(common.read_text(p).splitlines()), ""))]
    if any(path.glob("*.xml")):
        return []
    return sorted(p.name for p in path.iterdir() if p.is_dir() and any(p.glob("*.xml")))


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """One split, or everything when `split` is None.

    Raises:
        TercelError: see tercel.data.formats.common, and XML that is broken or declares entities.
    """
    options, ledger = options or Options(), Ledger()
    source = f"{path}#{split}" if split else str(path)
    known = splits(path)
    if split is not None and split not in known:
        raise common.unknown_split(str(path), split, known)
    layout = _layout(path)
    annotations = {stem: _parse(xml) for stem, xml in _xml_files(layout)}
    classes = _classes(path, layout, annotations, options)
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
        chosen.append(a or _Annotation())
    if not pictures:
        raise TercelError(f"{source} lists no picture", "check the split file and the folder")
    pictures, index = common.check_pictures(pictures, ledger, options, source)
    rows = _rows(chosen, classes, ledger)
    rows.picture = index[rows.picture]
    return common.assemble(pictures, rows, Schema(classes), ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/Annotations, JPEGImages (hard links where possible), ImageSets/Main/<split>.txt and classes.txt.

    Further splits may be written into the same folder; a file that exists is never touched.

    Raises:
        TercelError: a file exists already, another class list lies there, a record is a clip.
    """
    stems = [target.file_stem(r) for r in dataset.records]
    images = [out / "JPEGImages" / f"{s}{target.still_picture(r).suffix}" for s, r in zip(stems, dataset.records)]
    labels = [out / "Annotations" / f"{s}.xml" for s in stems]
    listing, names = out / "ImageSets" / "Main" / f"{split}.txt", out / "classes.txt"
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([listing, *labels, *(images if pictures else [])])
    target.same_classes(names, dataset.schema.classes)
    for record, image, label in zip(dataset.records, images, labels):
        if pictures:
            target.place_picture(target.still_picture(record), image)
        write_atomic(label, _xml(record, image, dataset.schema))
    if not names.exists():
        write_atomic(names, "".join(f"{c}\n" for c in dataset.schema.classes))
    write_atomic(listing, "".join(f"{s}\n" for s in stems))
    return [listing, names, *labels, *(images if pictures else [])]


# -- folders ------------------------------------------------------------------------------------------------------


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
        raise TercelError(f"{layout.xml} holds no XML file", f"looked for {LOOKS_LIKE}")
    for f in files:
        yield f.relative_to(layout.xml).with_suffix("").as_posix(), f


def _stems(
    layout: _Layout, split: str | None, annotations: dict[str, _Annotation], beside: dict[str, list[Path]]
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
    a: _Annotation | None,
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


def _classes(path: Path, layout: _Layout, annotations: dict[str, _Annotation], options: Options) -> tuple[str, ...]:
    if options.classes is not None:
        return options.classes
    if (path / "classes.txt").is_file():
        return common.read_classes(path / "classes.txt")
    return tuple(sorted({o.name for a in annotations.values() for o in a.objects}))


# -- XML ----------------------------------------------------------------------------------------------------------


@dataclass
class _Object:
    line: int
    name: str = ""
    difficult: str = "0"
    box: dict[str, str] = field(default_factory=dict)


@dataclass
class _Annotation:
    path: Path = Path()
    line: int = 1
    filename: str = ""
    sides: dict[str, str] = field(default_factory=dict)
    objects: list[_Object] = field(default_factory=list)
    size: tuple[int, int] | None = None


class _Target:
    """Receives the parser's events; keeps what we read and the line it stood on. Parts of objects are skipped."""

    def __init__(self, path: Path) -> None:
        self.found, self.path, self.text = _Annotation(path), [""], ""
        self.expat: Any = None

    def start(self, tag: str, _: dict[str, str]) -> None:
        self.path.append(tag)
        self.text = ""
        if self.path == ["", "annotation", "object"]:
            self.found.objects.append(_Object(self.expat.CurrentLineNumber))
        elif tag == "size":
            self.found.line = self.expat.CurrentLineNumber

    def data(self, text: str) -> None:
        self.text += text

    def end(self, tag: str) -> None:
        parents = self.path[2:-1]
        if parents == ["object", "bndbox"]:
            self.found.objects[-1].box[tag] = self.text
        elif parents == ["object"] and tag in {"name", "difficult"}:
            setattr(self.found.objects[-1], tag, self.text.strip())
        elif parents == ["size"]:
            self.found.sides[tag] = self.text
        elif not parents and tag == "filename":
            self.found.filename = self.text.strip()
        self.path.pop()

    def close(self) -> _Annotation:
        return self.found


def _parse(path: Path) -> _Annotation:
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    events = _Target(path)
    parser = DefusedXMLParser(target=events)
    events.expat = parser.parser
    try:
        data = path.read_bytes()
        parser.feed(data)
        parser.close()
    except DefusedXmlException as e:
        line = events.expat.CurrentLineNumber
        raise TercelError(f"{path}:{line}: declares entities, which labels never need", "remove the DOCTYPE") from e
    except ParseError as e:
        line = e.position[0]
        if b"encoding=" not in data[:200]:
            common.read_text(path)  # says so when the real trouble is the encoding
        raise TercelError(f"{path}:{line}: broken XML: {e}", "correct or remove the file") from e
    except (OSError, LookupError, ValueError) as e:
        raise TercelError(f"cannot read {path}: {e}", "correct or remove the file") from e
    found = events.found
    if found.sides:
        try:
            found.size = int(float(found.sides["height"])), int(float(found.sides["width"]))
        except (KeyError, ValueError, OverflowError) as e:
            raise TercelError(f"{path}:{found.line}: the picture size is no width and height", "correct <size>") from e
    return found


def _rows(annotations: list[_Annotation], classes: tuple[str, ...], ledger: Ledger) -> Rows:
    ids = {c: i for i, c in enumerate(classes)}
    picture: list[int] = []
    labels: list[int] = []
    boxes: list[list[float]] = []
    ignore: list[bool] = []
    lines: list[tuple[Path, int]] = []
    lost = 0
    for i, a in enumerate(annotations):
        for o in a.objects:
            if o.name not in ids:
                raise common.unknown_class(f"{a.path}:{o.line}", o.name, classes)
            try:
                box = [float(o.box[side]) for side in _SIDES]
            except (KeyError, ValueError):
                message = "objects whose bndbox lacks xmin ymin xmax ymax as numbers were left out"
                ledger.add("labels.fields", Severity.WARNING, message, f"{a.path}:{o.line}")
                lost += 1
                continue
            picture.append(i)
            labels.append(ids[o.name])
            boxes.append(box)
            ignore.append(o.difficult == "1")
            lines.append((a.path, o.line))
    return Rows(
        np.array(picture, np.int64),
        np.array(labels, np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        lambda i: f"{lines[i][0]}:{lines[i][1]}",
        np.array(ignore, np.bool_),
        lost=lost,
    )


def _xml(record: Record, image: Path, schema: Schema) -> str:
    h, w = record.size
    out = [
        "<annotation>",
        f"\t<folder>JPEGImages</folder>\n\t<filename>{escape(image.name)}</filename>",
        f"\t<size>\n\t\t<width>{w}</width>\n\t\t<height>{h}</height>\n\t\t<depth>3</depth>\n\t</size>",
    ]
    o = record.objects
    for label, box, ignore in zip(o.labels.tolist(), o.boxes, o.ignore.tolist()):
        sides = "".join(f"<{s}>{_number(v)}</{s}>" for s, v in zip(_SIDES, box))
        out.append(
            f"\t<object>\n\t\t<name>{escape(schema.classes[label])}</name>\n\t\t<difficult>{int(ignore)}</difficult>\n"
            f"\t\t<bndbox>{sides}</bndbox>\n\t</object>"
        )
    return "\n".join([*out, "</annotation>", ""])


def _number(x: np.float32) -> str:
    """The shortest text that reads back as the same float32; whole numbers as such."""
    return str(int(x)) if x == int(x) else str(x)
