"""Trees of pictures and text labels as YOLO has them: a data.yaml or not, images/ beside labels/, class ids in front.

What yolo, yolo_obb and aerial share; they differ in the numbers behind the class id only. The label of a picture is
found by exchanging the folder images for labels and any suffix for .txt; a picture without label is a negative.
Shape legend: N rows (labelled objects), F numbers per line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.formats import common, target
from tercel.data.formats.common import Options, Picture, Rows
from tercel.data.images import is_picture

LOOKS_LIKE = "a data.yaml with names and train/val/test, or a folder with images/ and labels/"

_SPLITS = ("train", "val", "valid", "test")
_NO_SPLITS = {"path", "names", "nc", "download", "yaml_file"}
_MARK = "# written by tercel; further splits are added here\n"


def matches(path: Path, beside: bool = False) -> bool:
    """True for a YOLO data.yaml, a folder with one, or a folder with images/ and labels/; `beside`: also for a folder
    of pictures with text files beside them, or of such folders."""
    if path.is_file():
        return path.suffix.lower() in {".yaml", ".yml"} and _is_config(path)
    return path.is_dir() and (_find_config(path) is not None or bool(_plain(path, beside)))


def numbers_per_line(path: Path, beside: bool = False) -> int | None:
    """How many numbers the first label line has that is found there; None when all labels are empty, or it is none."""
    try:
        layout = _layout(path, beside)
        entries = layout.entries(None)
    except TercelError:
        return None  # reading says what is wrong
    for entry in entries:
        folder = entry.is_dir() and not is_picture(entry)
        if folder:
            labels: Iterable[Path] = _text_files(label_path(entry / "x.txt", layout.root).parent)
        else:
            labels = (label_path(p, layout.root) for p, _ in islice(_listed(layout.root, entry), 200))
        for file in labels:
            line = _first_line(file)
            if line:
                return len(line) if all(map(_is_number, line)) else None
    return None


def splits(path: Path, beside: bool = False) -> list[str]:
    """Splits that data.yaml names, or subfolders of images/ (or folders with images/ of their own)."""
    return [s for s in _layout(path, beside).splits if s]


def read(
    path: Path,
    split: str | None,
    options: Options | None,
    parse: Callable[[list[tuple[int, Path, str]], Ledger], Rows],
    place: Callable[[Rows, NDArray[np.float64], Ledger], None],
    beside: bool = False,
) -> Dataset:
    """One split, or all pictures when `split` is None.

    Args:
        parse: rows from (picture index, file, text), whose `boxes` hold the numbers as written, however many.
        place: puts (oriented) boxes in px into the rows, given the (width, height) f64 [N,2] of their pictures.
        beside: label files may lie beside the pictures.

    Raises:
        TercelError: see tercel.data.formats.common; also names that disagree with nc, a class id beyond the names,
            coordinates in pixels, and a source where no picture has a label.
    """
    options, ledger = options or Options(), Ledger()
    source = f"{path}#{split}" if split else str(path)
    layout = _layout(path, beside)
    known = [s for s in layout.splits if s]
    if split is not None and split not in known:
        raise common.unknown_split(str(path), split, known)
    pictures = _pictures(layout, split, ledger, source)
    labels = [label_path(p.path, layout.root) for p in pictures]
    _orphans(pictures, labels, ledger)
    texts = [(i, f, common.read_text(f)) for i, f in enumerate(labels) if os.path.lexists(f)]
    if not texts:
        raise TercelError(
            f"{source}: none of {len(pictures)} pictures has a label, for example {labels[0]}",
            "put the text files into labels/, laid out like images/",
        )
    pictures = [Picture(p.id, p.path, None, str(f) if f.is_file() else p.source) for p, f in zip(pictures, labels)]
    without = len(pictures) - len(texts)
    if without:
        first = str(next(p.path for p, f in zip(pictures, labels) if not f.is_file()))
        ledger.add("labels.none", Severity.INFO, "pictures without a label file count as negatives", first, without)
    rows = parse(texts, ledger)
    classes = _classes(layout, rows, options, ledger, source)
    kept, index = common.check_pictures(pictures, ledger, options, source)
    rows.picture = index[rows.picture]
    rows = rows.take(rows.picture >= 0)
    place(rows, np.array([p.size for p in kept], np.float64).reshape(-1, 2)[rows.picture][:, ::-1], ledger)
    return common.assemble(kept, rows, Schema(classes), ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, split: str, pictures: bool, label_text: Callable[[Record], str]) -> list[Path]:
    """`out`/images/<split> (hard links where possible), labels/<split> and data.yaml.

    Further splits may be written into the same folder: data.yaml, if it is ours, gets a line for each.

    Raises:
        TercelError: a file exists already, another class list or a foreign data.yaml lies there, a record is a clip.
    """
    stems = [target.file_stem(r) for r in dataset.records]
    images = [out / "images" / split / f"{s}{target.still_picture(r).suffix}" for s, r in zip(stems, dataset.records)]
    labels = [out / "labels" / split / f"{s}.txt" for s in stems]
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([*labels, *(images if pictures else [])])
    config = out / "data.yaml"
    text = _config_text(config, split, dataset.schema.classes)
    texts = [label_text(r) for r in dataset.records]
    for record, image, label, lines in zip(dataset.records, images, labels, texts):
        if pictures:
            target.place_picture(target.still_picture(record), image)
        write_atomic(label, lines)
    write_atomic(config, text)
    return [config, *labels, *(images if pictures else [])]


def label_path(picture: Path, root: Path) -> Path:
    """The label of a picture: its last folder `images` within `root` becomes `labels`, its suffix .txt."""
    parts = list(picture.relative_to(root).with_suffix(".txt").parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return root.joinpath(*parts)


# -- folders and data.yaml ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """Where a source keeps what. `splits`: name -> folders, picture lists or pictures, as written: one that is broken
    must not keep the others from being read."""

    root: Path
    splits: dict[str, list[str]]
    names: tuple[str, ...] | None = None
    config: Path | None = None

    def entries(self, split: str | None) -> list[Path]:
        """What a split (None: all together) consists of."""
        keys = self.splits if split is None else [split]
        found = [_entry(self.root, e, f"{self.config or self.root} ({k})") for k in keys for e in self.splits[k]]
        return list(dict.fromkeys(found))


def _is_config(path: Path) -> bool:
    with open(path, "rb") as f:
        head = b"\n" + f.read(65536)
    return b"\nnames:" in head and (_MARK.encode() in head or any(f"\n{s}:".encode() in head for s in _SPLITS))


def _find_config(folder: Path) -> Path | None:
    found = [p for p in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]) if p.is_file() and _is_config(p)]
    named = [p for p in found if p.stem == "data"]
    return named[0] if named else found[0] if len(found) == 1 else None


def _plain(path: Path, beside: bool) -> dict[str, list[str]]:
    """Picture folders of a source without data.yaml, by split; "" for pictures outside of any split's folder."""
    if (path / "images").is_dir() and (path / "labels").is_dir():
        below = sorted(p for p in (path / "images").iterdir() if p.is_dir() and not is_picture(p))
        loose = any(is_picture(p) for p in (path / "images").iterdir())
        return ({"": ["images"]} if loose or not below else {}) | {p.name: [f"images/{p.name}"] for p in below}
    if not path.is_dir():
        return {}
    good = [p for p in sorted(path.iterdir()) if (p / "images").is_dir() and (p / "labels").is_dir()]
    if good or not beside:
        return {p.name: [f"{p.name}/images"] for p in good}
    if _labelled(path):
        return {"": ["."]}
    return {p.name: [p.name] for p in sorted(path.iterdir()) if p.is_dir() and _labelled(p)}


def _labelled(folder: Path) -> bool:
    """True for a folder that holds both pictures and text files."""
    names = os.listdir(folder)
    return any(n.endswith(".txt") and n != "classes.txt" for n in names) and any(map(is_picture, names))


def _layout(path: Path, beside: bool) -> _Layout:
    config = path if path.is_file() else _find_config(path)
    if config is not None:
        return _configured(config)
    folders = _plain(path, beside)
    if not folders:
        raise TercelError(f"{path} is no YOLO source", f"looked for {LOOKS_LIKE}")
    listed = next((p for p in (path / "classes.txt", path / "labels" / "classes.txt") if p.is_file()), None)
    names = common.read_classes(listed) if listed else None
    return _Layout(path, folders, names, listed)


def _configured(config: Path) -> _Layout:
    import yaml

    try:
        data = yaml.safe_load(common.read_text(config))
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        problem = getattr(e, "problem", None) or "it cannot be read"
        raise TercelError(f"{config}:{mark.line + 1 if mark else 1}: not YAML: {problem}", "correct the line") from e
    if not isinstance(data, dict):
        raise TercelError(f"{config}: not a mapping of names and splits", f"looked for {LOOKS_LIKE}")
    root = _root(config, data)
    found: dict[str, list[str]] = {}
    others = [k for k, v in data.items() if k not in _NO_SPLITS and isinstance(v, str) and (root / v).exists()]
    for key in dict.fromkeys([*_SPLITS, *others]):
        value = data.get(key)
        if value is not None and value != "":
            entries = value if isinstance(value, list) else [value]
            if not all(isinstance(e, str) for e in entries):
                hint = f"for example {key}: images/{key}"
                raise TercelError(f"{config} ({key}): not a path or a list of paths", hint)
            found[key] = entries
    return _Layout(root, found, _names(config, data), config)


def _root(config: Path, data: dict[str, Any]) -> Path:
    """The folder that `path` names when that lies below the data.yaml, else the data.yaml's own."""
    given = data.get("path")
    if not given:
        return config.parent
    if not isinstance(given, str):
        raise TercelError(f"{config} (path): not a path", "for example path: .")
    try:
        root = common.inside(config.parent, given, str(config))
    except TercelError:
        # Downloaded files often carry the path of the machine they were made on. We never follow it outside.
        if any(isinstance(data.get(s), str) and (config.parent / data[s]).exists() for s in _SPLITS):
            return config.parent
        raise
    return root if root.is_dir() else config.parent


def _entry(root: Path, text: str, where: str) -> Path:
    """A split's folder, list or picture. `../train/images` for what lies beside data.yaml is common."""
    stripped = text.strip().replace("\\", "/")
    if stripped.startswith("../") and (root / stripped[3:]).exists():
        stripped = stripped[3:]
    path = common.inside(root, stripped, where)
    if not path.exists():
        raise TercelError(f"{where}: {path} does not exist", "correct the path, or name a split that is there")
    return path


def _names(config: Path, data: dict[str, Any]) -> tuple[str, ...] | None:
    names, nc = data.get("names"), data.get("nc")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise TercelError(f"{config}: the ids of names are not 0..{len(names) - 1}", "number the names from 0")
        names = [names[i] for i in range(len(names))]
    if names is None and isinstance(nc, int):
        names = list(range(nc))
    if not isinstance(names, list) or not all(isinstance(n, str | int | float) for n in names):
        raise TercelError(f"{config}: names is no list or table of class names", "for example names: [ball, racket]")
    if nc is not None and nc != len(names):
        raise TercelError(f"{config}: nc is {nc} but there are {len(names)} names", "correct one of them")
    texts = tuple(str(n) for n in names)
    for n in texts:
        if not n.strip() or texts.count(n) > 1:
            what = f"the class name {n!r} occurs twice" if n.strip() else "a class name is empty"
            raise TercelError(f"{config}: {what}", "give every class its own name")
    return texts


# -- pictures -----------------------------------------------------------------------------------------------------


def _pictures(layout: _Layout, split: str | None, ledger: Ledger, source: str) -> list[Picture]:
    entries = layout.entries(split)
    found: dict[Path, str] = {}
    for path, where in (x for e in entries for x in _listed(layout.root, e)):
        if path in found and split is not None:
            raise TercelError(f"{where}: the picture {path} is listed twice in {source}", "list every picture once")
        found[path] = where
    if not found:
        raise TercelError(f"{source} holds no picture", f"looked in {', '.join(str(e) for e in entries)}")
    folders = [str(e) for e in entries if e.is_dir()]
    base = os.path.commonpath(folders if len(folders) == len(entries) else [str(p.parent) for p in found])
    ids: dict[str, Path] = {}
    for path in found:
        id_ = os.path.splitext(os.path.relpath(path, base))[0].replace(os.sep, "/")
        if id_ in ids:
            raise TercelError(f"{source}: {ids[id_]} and {path} share one label file", "rename one of the pictures")
        ids[id_] = path
    return [Picture(i, p, None, found[p]) for i, p in ids.items()]


def _listed(root: Path, entry: Path) -> Iterator[tuple[Path, str]]:
    """(picture, who names it) of a folder, a list of pictures, or a picture."""
    if entry.is_dir() and not is_picture(entry):
        for found in common.pictures_by_stem(entry, below=True).values():
            for p in found:
                yield p, str(p)
    elif entry.suffix.lower() == ".txt":
        for n, line in enumerate(common.read_text(entry).splitlines(), 1):
            if line.strip():
                where = f"{entry}:{n}"
                near = root if (root / line.strip()).exists() else entry.parent
                path = common.inside(near, line, where)
                common.inside(root, os.path.relpath(path, root), where)
                yield path, where
    else:
        yield entry, str(entry)


def _orphans(pictures: list[Picture], labels: list[Path], ledger: Ledger) -> None:
    """Count label files beside those of our pictures whose picture does not exist."""
    folders = {f.parent: p.path.parent for p, f in zip(pictures, labels)}
    for label_folder, picture_folder in folders.items():
        if not label_folder.is_dir():
            continue
        known = common.pictures_by_stem(picture_folder)
        for f in sorted(label_folder.glob("*.txt")):
            if f.stem not in known and f.name != "classes.txt" and label_folder != picture_folder:
                ledger.add("labels.no_picture", Severity.WARNING, "label files without a picture were left out", str(f))


# -- labels -------------------------------------------------------------------------------------------------------


def _text_files(folder: Path) -> Iterator[Path]:
    for base, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(base, f) for f in sorted(files) if f.endswith(".txt") and f != "classes.txt")


def _first_line(file: Path) -> list[str]:
    """Fields of the first line that is not blank, or none."""
    try:
        with open(file, "rb") as f:
            text = f.read(4096).decode("utf-8", "replace")
    except OSError:
        return []
    return next((fields for line in text.splitlines() if (fields := line.split())), [])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _classes(layout: _Layout, rows: Rows, options: Options, ledger: Ledger, source: str) -> tuple[str, ...]:
    classes = layout.names
    if options.classes is not None:
        if classes is not None and classes != options.classes:
            raise TercelError(
                f"{layout.config or source}: the classes {list(classes)} are not the expected {list(options.classes)}",
                "class ids have no meaning without their order: make the lists equal",
            )
        classes = options.classes
    if classes is None:
        count = int(rows.labels.max()) + 1 if len(rows.labels) else 1
        ledger.add(
            "labels.no_names", Severity.INFO, "no class names were found: classes are called by their number", source
        )
        return tuple(str(i) for i in range(count))
    beyond = np.flatnonzero(rows.labels >= len(classes))
    if len(beyond):
        i = int(beyond[0])
        raise TercelError(
            f"{rows.where(i)}: class id {rows.labels[i]}, but {layout.config or source} names {len(classes)} classes",
            "correct the label or add the class to the names",
        )
    return classes


def _config_text(config: Path, split: str, classes: tuple[str, ...]) -> str:
    import yaml

    if split in _NO_SPLITS:
        raise TercelError(f"a data.yaml cannot have a split {split!r}", f"write it as one of {', '.join(_SPLITS)}")
    data: dict[str, Any] = {"path": "."}
    if config.exists():
        text = common.read_text(config)
        if not text.startswith(_MARK):
            raise TercelError(f"{config} exists already and is not ours", "write into a new folder")
        data = yaml.safe_load(text)
        if split in data:
            raise TercelError(f"{config} has a split {split!r} already", "write into a new folder or under a new split")
        if tuple(data["names"].values()) != classes:
            raise TercelError(f"{config} lists other classes than the data being written", "write into a new folder")
    data[split] = f"images/{split}"
    data["names"] = data.pop("names", dict(enumerate(classes)))
    return _MARK + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
