"""DeepLabCut projects: labeled-data/VIDEO/CollectedData_SCORER.csv beside the frames that it labels.

Three header rows (scorer, bodyparts, coords), or four (scorer, individuals, bodyparts, coords) for several animals on a
frame; then a row per frame: its path in one column or in three, and x y of each point, blank where it is absent.
The videos are the splits, and a group each. The box is the hull of the points; there are no classes, no visibility and
no flip pairs. `skeleton` (edges), `flip_pairs` and `sigmas` are read from config.yaml, the latter two being ours.

DeepLabCut counts from the centre of the first pixel, as napari and matplotlib do, in which its frames are labelled:
x there is x + 0.5 here.

Source: deeplabcut.github.io, "Standard DeepLabCut User Guide", and published projects. Shape legend: F frames, N
animals, K points.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic
from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.record import Dataset
from tercel.core.schema import Schema
from tercel.data.formats import balls, common, skeletons, target
from tercel.data.formats.common import Options, Picture, Rows
from tercel.data.formats.rows import rows_of_points

NAME = "deeplabcut"
TASK = "keypoints"
HOLDS_IGNORE = False
HOLDS_CLASSES = False
HOLDS_BOXES = False
LOOKS_LIKE = "a project with labeled-data/*/CollectedData_*.csv, such a folder, or such a csv"

CLASS = "animal"
CENTRE = 0.5  # px from the corner of a pixel to its centre
SCORER = "tercel"
_CONFIG = "config.yaml"
_HOME = "labeled-data"


def matches(path: Path) -> bool:
    """True for a csv of labels, its folder, labeled-data, or a project."""
    return any(_is_labels(f) for files in _tables(path).values() for f in files[:1])


def splits(path: Path) -> list[str]:
    """Names of the folders in labeled-data (videos); none for a csv or its folder."""
    return [name for name in _tables(path) if name]


def read(path: Path, split: str | None = None, options: Options | None = None) -> Dataset:
    """The frames of one video, of some ("a,b"), or of all (their ids then begin with the name of the video).

    Raises:
        TercelError: see tercel.data.formats.common and skeletons; also a csv that is not of this form (line named),
            several csv files for one video, videos with different points.
    """
    options, ledger = options or Options(), Ledger()
    tables = _tables(path)
    source = f"{path}#{split}" if split else str(path)
    chosen = list(tables) if split is None else balls.wanted(split, list(filter(None, tables)), str(path))
    if not chosen:
        raise TercelError(f"{source} holds no labels", f"looked for {LOOKS_LIKE}")
    config = _read_config(path)
    read_tables = [_read_table(_one(tables[name], config)) for name in chosen]
    names = read_tables[0].names
    pictures = []
    for name, table in zip(chosen, read_tables, strict=True):
        pictures += _pictures(table, name if len(chosen) > 1 else "", ledger)
        _say_left_out(table, ledger)
    rows = _rows(read_tables, names)
    where = config.get("where", source)
    skeleton = skeletons.parse(
        list(names), where, ledger, flip_pairs=config.get("flip_pairs"), edges=_edges(config, names, ledger),
        sigmas=config.get("sigmas"),
    )  # fmt: skip
    schema = skeletons.onto(Schema(common.one_class(options, CLASS, source)), skeleton)
    pictures, index = common.check_pictures(pictures, ledger, options, source)
    rows.picture = index[rows.picture]
    return common.assemble(pictures, rows, schema, ledger, options=options, source=source)


def write(dataset: Dataset, out: Path, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """`out`/labeled-data/<split> with the frames (hard links where possible) and a csv, and config.yaml. Boxes,
    classes, visibility and ignored objects are left out.

    Raises:
        TercelError: a file exists already, another config.yaml lies there, objects without points or with no labelled
            one, a record is a clip.
    """
    folder = out / _HOME / split
    stems = [target.file_stem(r) for r in dataset.records]
    names = [f"{s}{target.still_picture(r).suffix}" for s, r in zip(stems, dataset.records)]
    images = [folder / n for n in names] if pictures else []
    file, config = folder / f"CollectedData_{SCORER}.csv", out / _CONFIG
    if pictures:
        target.refuse_missing(dataset.records)
    target.refuse_existing([file, *images])
    settings = _config_text(dataset.schema)
    if config.exists() and common.read_text(config) != settings:
        raise TercelError(f"{config} is of another project than the data being written", "write into a new folder")
    text = _table_text(dataset, [(_HOME, split, n) for n in names])
    for record, image in zip(dataset.records, images):
        target.place_picture(target.still_picture(record), image)
    write_atomic(file, text)
    write_atomic(config, settings)
    return [config, file, *images]


def _config_text(schema: Schema) -> str:
    import yaml

    data: dict[str, Any] = {
        "Task": "converted",
        "scorer": SCORER,
        "bodyparts": list(schema.keypoints),
        "skeleton": [list(e) for e in schema.edges],
        "flip_pairs": [list(p) for p in schema.flip_pairs],
    }
    data |= {"sigmas": list(schema.sigmas)} if schema.sigmas else {}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _table_text(dataset: Dataset, places: Sequence[tuple[str, str, str]]) -> str:
    names = dataset.schema.keypoints
    animals = []
    for record in dataset.records:
        points, visible = target.labelled_points(record, names)
        animals.append(np.where((visible > 0)[..., None], points - CENTRE, np.nan))
    most = max((len(a) for a in animals), default=0)
    each = [(f"animal{i + 1}", n, c) for i in range(max(most, 1)) for n in names for c in "xy"]
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["scorer", "", "", *[SCORER] * len(each)])
    if most > 1:
        lines.writerow(["individuals", "", "", *(i for i, _, _ in each)])
    lines.writerow(["bodyparts", "", "", *(n for _, n, _ in each)])
    lines.writerow(["coords", "", "", *(c for _, _, c in each)])
    for place, rows in zip(places, animals, strict=True):
        values = ["" if np.isnan(v) else repr(v) for v in rows.ravel().tolist()]
        lines.writerow([*place, *values, *[""] * (len(each) - len(values))])
    return out.getvalue()


# -- files --------------------------------------------------------------------------------------------------------


def _is_labels(file: Path) -> bool:
    try:
        with open(file, "rb") as f:
            return f.read(7).removeprefix(b"\xef\xbb\xbf").startswith(b"scor")
    except OSError:
        return False


def _tables(path: Path) -> dict[str, list[Path]]:
    """The csv files of each video; "" where the path is a csv or the folder of a video."""
    if path.is_file():
        return {"": [path]} if path.suffix.lower() == ".csv" and path.name.startswith("CollectedData") else {}
    if not path.is_dir():
        return {}
    here = sorted(path.glob("CollectedData*.csv"))
    if here:
        return {"": here}
    home = path / _HOME if (path / _HOME).is_dir() else path
    found = {f.name: sorted(f.glob("CollectedData*.csv")) for f in sorted(home.iterdir()) if f.is_dir()}
    return {name: files for name, files in found.items() if files}


def _one(files: Sequence[Path], config: dict[str, Any]) -> Path:
    """The csv of a video; of several that of the project's scorer."""
    own = [f for f in files if f.stem == f"CollectedData_{config.get('scorer')}"]
    chosen = own if len(files) > 1 and own else files
    if len(chosen) > 1:
        what = f"{chosen[0].parent} holds {len(chosen)} sets of labels: {', '.join(f.name for f in chosen)}"
        raise TercelError(what, f"name one of the files, for example {NAME}:{chosen[0]}")
    return chosen[0]


def _read_config(path: Path) -> dict[str, Any]:
    """config.yaml of the project that a path belongs to, with its place under "where"; {} where there is none."""
    import yaml

    file = next((f for f in (p / _CONFIG for p in (path, *path.absolute().parents[:3])) if f.is_file()), None)
    if file is None:
        return {}
    try:
        data = yaml.safe_load(common.read_text(file))
    except yaml.YAMLError as e:
        raise TercelError(f"{file}: not YAML: {str(e).splitlines()[0]}", "correct it") from e
    return {**data, "where": str(file)} if isinstance(data, dict) else {}


def _edges(config: dict[str, Any], names: Sequence[str], ledger: Ledger) -> list[Any]:
    """`skeleton` of a config.yaml; edges to points that the labels do not have are left out and counted."""
    edges = config.get("skeleton") or []
    if not isinstance(edges, list) or not all(isinstance(e, list) and len(e) == 2 for e in edges):
        raise TercelError(f"{config['where']} (skeleton): {str(edges)[:60]}", "it is a list of pairs of bodyparts")
    known = [e for e in edges if set(map(str, e)) <= set(names)]
    for edge in (e for e in edges if e not in known):
        message = "edges of the skeleton to points that are not labelled were left out"
        ledger.add("labels.skeleton", Severity.WARNING, message, f"{config['where']} {edge}")
    return known


# -- the csv ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """One csv.

    Attributes:
        names: K names of points, in the order of the file. points: f64 [F,A,K,2] x y of each of A individuals, NaN
            where blank. frames: F paths as written. lines: F line numbers. unique: how many labelled points belong to
            no animal, and where the first of them is.
    """

    file: Path
    names: tuple[str, ...]
    points: NDArray[np.float64]
    frames: list[str]
    lines: list[int]
    unique: int


def _read_table(file: Path) -> _Table:
    reader = csv.reader(io.StringIO(common.read_text(file)))
    head: dict[str, list[str]] = {}
    for row in reader:
        head[row[0].strip() if row else ""] = row
        if "coords" in head or len(head) > 4:
            break
    missing = [k for k in ("scorer", "bodyparts", "coords") if k not in head]
    if missing:
        hint = "the first lines begin with scorer, (individuals,) bodyparts, coords"
        raise TercelError(f"{file}: no header row {missing[0]!r}", hint)
    columns, first = _columns(file, head)
    frames, lines, values = [], [], []
    for row in reader:
        if not row:
            continue
        where = f"{file}:{reader.line_num}"
        if len(row) != len(head["coords"]):
            what = f"{where}: {len(row)} columns, the header has {len(head['coords'])}"
            raise TercelError(what, "give every frame x and y of every point, blank where it is absent")
        frames.append("/".join(c.strip().replace("\\", "/") for c in row[:first] if c.strip()))
        lines.append(reader.line_num)
        values.append([_number(c, where, n) for n, c in enumerate(row[first:])])
    if not frames:
        raise TercelError(f"{file} labels no frame", "label some first")
    table = np.array(values, np.float64)
    shared = [c for c in columns if c[0] != "single"] or columns
    animals = list(dict.fromkeys(i for i, _ in shared))
    names = list(dict.fromkeys(n for _, n in shared))
    for i, n in ((i, n) for i in animals for n in names if (i, n) not in columns):
        what = f"{file}: {i or 'the animal'} has no point {n!r}"
        raise TercelError(what, "all individuals have the same bodyparts")
    at = np.array([[[columns.index((i, n)) * 2 + d for d in (0, 1)] for n in names] for i in animals])
    others = sum(int(np.isfinite(table[:, 2 * k]).sum()) for k, c in enumerate(columns) if c not in shared)
    return _Table(file, tuple(names), table[:, at], frames, lines, others)


def _columns(file: Path, head: dict[str, list[str]]) -> tuple[list[tuple[str, str]], int]:
    """(individual or "", point) of each pair of columns, and where they begin.

    Raises:
        TercelError: header rows of different length, or columns that are not x and y by turns.
    """
    coords = [c.strip() for c in head["coords"]]
    first = next((n for n, c in enumerate(coords) if n and c), len(coords))
    if any(len(row) != len(coords) for row in head.values()):
        raise TercelError(f"{file}: header rows of different length", "was the file edited by hand?")
    given = coords[first:]
    if not given or given != ["x", "y"] * (len(given) // 2):
        odd = next((c for c in given if c not in ("x", "y")), "")
        hint = "this file holds predictions, not labels" if odd == "likelihood" else "columns are x and y by turns"
        raise TercelError(f"{file} (coords): {', '.join(given[:6]) or 'nothing'}", hint)
    animals = [c.strip() for c in head["individuals"][first:]] if "individuals" in head else [""] * len(given)
    pairs = list(zip(animals, (c.strip() for c in head["bodyparts"][first:]), strict=True))
    if pairs[::2] != pairs[1::2]:
        k = next(k for k, (a, b) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)) if a != b)
        raise TercelError(f"{file}: x of {pairs[2 * k][1]!r} is followed by y of {pairs[2 * k + 1][1]!r}", "correct it")
    twice = next((c for n, c in enumerate(pairs[::2]) if c in pairs[: 2 * n : 2]), None)
    if twice:
        raise TercelError(f"{file}: the point {twice[1]!r} stands there twice", "give every point its own name")
    return pairs[::2], first


def _number(text: str, where: str, column: int) -> float:
    try:
        return float(text) if text.strip() else np.nan
    except ValueError as e:
        raise TercelError(f"{where}: {text!r} (value {column + 1}) is no number", "correct it or leave it blank") from e


def _say_left_out(table: _Table, ledger: Ledger) -> None:
    if table.unique:
        message = "points that belong to no animal (individual `single`) were left out"
        ledger.add("labels.unique_points", Severity.WARNING, message, str(table.file), table.unique)


def _pictures(table: _Table, video: str, ledger: Ledger) -> list[Picture]:
    """The labelled frames; they lie beside the csv, wherever the project once was."""
    folder = table.file.parent
    found = []
    for path, line in zip(table.frames, table.lines, strict=True):
        where = f"{table.file}:{line}"
        parts = path.split("/")
        name = "/".join(parts[2:]) if len(parts) > 2 and parts[0] == _HOME else parts[-1]
        if not name:
            raise TercelError(f"{where}: no frame is named", "the first column, or the first three, name it")
        stem = Path(name).with_suffix("").as_posix() if Path(name).suffix else name
        picture = common.inside(folder, name, where)
        found.append(Picture(f"{video}/{stem}" if video else stem, picture, None, where, group=folder.name))
    known = {p.path for p in found}
    message = "frames without a row in the csv were left out: whether an animal is on them is not known"
    for pictures in common.pictures_by_stem(folder, below=True).values():
        for p in pictures:
            if p not in known:
                ledger.add("labels.none", Severity.INFO, message, str(p))
    return found


def _rows(tables: Sequence[_Table], names: Sequence[str]) -> Rows:
    """The animals of all csv files, points in the order of `names`; an individual without a point is not there."""
    picture, points, places, frames = [], [], [], 0
    for table in tables:
        if set(table.names) != set(names):
            odd = sorted(set(table.names) ^ set(names))[0]
            raise TercelError(f"{table.file}: other points than in the other videos ({odd!r})", "read them one by one")
        xy = table.points[:, :, [table.names.index(n) for n in names]] + CENTRE
        frame, animal = np.nonzero((~np.isnan(xy)).all(axis=-1).any(axis=-1))
        picture.append(frame + frames)
        points.append(xy[frame, animal])
        places += [f"{table.file}:{table.lines[f]}" for f in frame.tolist()]
        frames += len(table.frames)
    everyone = np.concatenate(points)
    visible = np.where(np.isnan(everyone).any(axis=-1), 0, 2).astype(np.uint8)
    return rows_of_points(np.concatenate(picture), everyone, visible, places.__getitem__)
