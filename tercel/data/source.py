"""Sources: `[format:]path[#split]`, for example `voc:data/BCCD#trainval`, `coco:val.json`, `yolo:data.yaml#val`.

Without a format it is recognised from what lies there. Whoever cannot be understood is told what was looked for.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tercel.core.finding import Finding, Severity, TercelError
from tercel.core.geometry import clip_boxes, points_hull
from tercel.core.objects import Objects, labels_count
from tercel.core.record import Dataset
from tercel.core.schema import Schema
from tercel.data.formats import FORMATS, Format
from tercel.data.formats.common import Options, unknown_class
from tercel.data.formats.persons import written_names
from tercel.data.formats.rows import ROUNDING


@dataclass(frozen=True)
class Source:
    """A parsed source; `format` and `split` are None when the text does not say."""

    path: Path
    format: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        return f"{self.format + ':' if self.format else ''}{self.path}{'#' + self.split if self.split else ''}"


def parse(text: str) -> Source:
    """`[format:]path[#split]` taken apart; a file whose name really holds a # or a : is found all the same.

    Raises:
        TercelError: empty, or a format that does not exist.
    """
    format_, rest = None, text.strip()
    head, colon, tail = rest.partition(":")
    if colon and not os.path.exists(rest):
        if head in FORMATS:
            format_, rest = head, tail
        elif re.fullmatch(r"\w{2,12}", head) and not os.path.exists(head):
            near = difflib.get_close_matches(head, FORMATS, n=1)
            raise TercelError(
                f"{text!r}: there is no format {head!r}",
                (f"did you mean {near[0]}? " if near else "") + f"formats are {', '.join(FORMATS)}",
            )
    path, split = rest, None
    if "#" in rest and not os.path.exists(rest):
        path, _, split = rest.rpartition("#")
    if not path:
        raise TercelError(
            f"{text!r} names no path", "a source is [format:]path[#split], for example voc:data/BCCD#train"
        )
    return Source(Path(path).expanduser(), format_, split or None)


def read(
    text: str,
    *,
    pictures: bool = True,
    as_written: bool = False,
    max_drop: float = 0.2,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """The data set behind a source, with the findings made while reading it.

    Args:
        text: `[format:]path[#split]`.
        pictures: look at every picture; False to judge label files without them.
        as_written: keep boxes that reach beyond the picture or have no area (published scores count them).
        max_drop: the share of labels that may be lost before reading fails.
        classes: hold the source to these class names, in this order.

    Raises:
        TercelError: nothing there, not recognised, ambiguous, an unknown split, or bad data (file and line named).
    """
    source = parse(text)
    names = None if classes is None else tuple(classes)
    options = Options(pictures=pictures, as_written=as_written, max_drop=max_drop, classes=names)
    return _format_of(source).read(source.path, source.split, options)


def splits(text: str) -> list[str]:
    """Names of the splits of a source (whatever split the text itself names)."""
    source = parse(text)
    return _format_of(source).splits(source.path)


def format_name(text: str) -> str:
    """The name of a source's format, recognised where the text does not say."""
    return _format_of(parse(text)).NAME


def write(dataset: Dataset, out: Path | str, format: str, *, split: str = "train", pictures: bool = True) -> list[Path]:
    """Write a data set; pictures are hard-linked where possible, else copied.

    Raises:
        TercelError: an unknown format, or a file that exists already (then nothing was written).
    """
    return _named(format).write(dataset, Path(out), split=split, pictures=pictures)


def select_classes(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """The data set with the objects of these classes only, numbered in this order; its findings count the others.

    A region of no class in particular (DontCare), which is an ignored object of every class, stays one of these.

    Raises:
        TercelError: a class that the data set does not have, or none.
    """
    known, ids = dataset.schema.classes, dataset.schema.category_ids
    for name in classes:
        if name not in known:
            raise unknown_class(dataset.source, name, known)
    if not classes:
        raise TercelError("no class was chosen", f"{dataset.source} has {', '.join(known)}")
    old = [known.index(c) for c in classes]
    schema = replace(dataset.schema, classes=tuple(classes), category_ids=tuple(ids[i] for i in old) if ids else ())
    new = np.full(len(known), -1)
    new[old] = np.arange(len(old))
    records = []
    for r in dataset.records:
        o = r.objects[new[r.objects.labels] >= 0]
        records.append(replace(r, objects=o.replace(labels=new[o.labels])))
    others = {c: n for c, n in zip(known, _per_class(dataset)) if n and c not in classes}
    findings = dataset.findings
    if others:
        message = f"objects of other classes were left out ({', '.join(f'{c} {n}x' for c, n in others.items())})"
        findings += (Finding("data.other_classes", Severity.INFO, message, sum(others.values())),)
    return Dataset(schema, tuple(records), findings, dataset.source)


def _counted(names: Sequence[str], dataset: Dataset) -> Counter[str]:
    """Non-ignored objects by the name that `names` gives to their class."""
    counts: Counter[str] = Counter()
    for name, n in zip(names, _per_class(dataset), strict=True):
        counts[name] += n
    return counts


def _per_class(dataset: Dataset) -> list[int]:
    """How many non-ignored objects each class has."""
    counts: list[int] = labels_count((r.objects for r in dataset.records), len(dataset.schema.classes)).tolist()
    return counts


def convert(
    source: str,
    out: Path | str,
    to: str,
    *,
    split: str | None = None,
    max_drop: float = 0.2,
    classes: Sequence[str] | None = None,
) -> tuple[Finding, ...]:
    """Read a source, write it as another format, read that back and compare the counts.

    Args:
        classes: write the objects of these classes only.

    Returns:
        The findings of reading, and `convert.counts` with what went in and came out.

    Raises:
        TercelError: as `read`, `select_classes` and `write`, or what was read back is not what was written.
    """
    target = _named(to)
    parsed, out = parse(source), Path(out)
    format_ = _format_of(parsed)
    if parsed.path.is_dir() and out.resolve().is_relative_to(parsed.path.resolve()):
        message = f"{out} lies inside the source {parsed.path}, which would then hold two data sets"
        raise TercelError(message, "choose another folder")
    dataset = read(source, max_drop=max_drop)
    dataset = dataset if classes is None else select_classes(dataset, classes)
    merged = [] if parsed.split else format_.splits(parsed.path)
    split = split or (parsed.split or "train").replace(":", "-")  # a range, and no name for a folder everywhere
    fresh = not out.exists()
    try:
        target.write(dataset, out, split=split)
    except TercelError as e:
        if fresh and out.exists():
            e.remedy += f"; {out} is incomplete: remove it before you convert again"
        raise
    single, own = out.is_file(), getattr(target, "ONLY_CLASSES", None)
    named = getattr(target, "HOLDS_CLASSES", True)
    names = dataset.schema.classes if own is None else written_names(dataset, own, to)
    expected = dataset.schema.classes if named and not own else None
    back = target.read(out, None if single else split, Options(classes=expected))
    names = names if named else back.schema.classes * len(names)
    kept = [r.objects if target.HOLDS_IGNORE else r.objects[~r.objects.ignore] for r in dataset.records]
    before, after = _counted(names, dataset), _counted(back.schema.classes, back)
    objects_in, objects_out = sum(map(len, kept)), sum(len(r.objects) for r in back.records)
    if len(back) != len(dataset) or objects_in != objects_out or before != after:
        raise TercelError(
            f"{out} does not read back as it was written: {len(dataset)} pictures and {objects_in} objects went in, "
            f"{len(back)} and {objects_out} came out",
            "do not use it; please report this with the source",
        )
    findings = list(dataset.findings)
    if len(merged) > 1:
        message = f"no split was named, all became one, {split!r}: to keep {', '.join(merged)}, convert each"
        findings.append(Finding("convert.merged", Severity.WARNING, message, len(merged)))
    ignored = sum(len(r.objects) for r in dataset.records) - objects_in
    if ignored:
        message = f"ignored objects were left out: {to} has no place for them"
        findings.append(Finding("convert.ignored", Severity.WARNING, message, ignored))
    for old, new in zip(dataset.schema.classes, names, strict=True):
        if old != new:
            message = f"the class {old} is called {new} in {to}"
            findings.append(Finding("convert.class_name", Severity.INFO if named else Severity.WARNING, message))
    findings += _lost(kept, [r.objects for r in back.records], to)
    findings += _lost_of_animals(dataset.schema, kept, back, target)
    message = f"{len(back)} pictures and {objects_out} objects went in and came out as {to}"
    return (*findings, Finding("convert.counts", Severity.INFO, message, objects_out))


def _lost(before: Sequence[Objects], after: Sequence[Objects], to: str) -> Iterator[Finding]:
    """What oriented boxes lose in formats without angles or headings, animals in formats without points, and people in
    formats that cut boxes or do not tell who is hidden."""
    angles = sum(len(o) for o in before if o.obbs is not None) - sum(len(o) for o in after if o.obbs is not None)
    if angles:
        message = f"oriented boxes became the upright boxes around them: {to} has no place for angles"
        yield Finding("convert.angles", Severity.WARNING, message, angles)
    headed = [sum(int(o.headed.sum()) for o in part if o.headed is not None) for part in (before, after)]
    if headed[0] > headed[1]:
        message = f"headings were left out: {to} has no place for them"
        yield Finding("convert.headings", Severity.WARNING, message, headed[0] - headed[1])
    points = [sum(int((o.visible > 0).sum()) for o in part if o.visible is not None) for part in (before, after)]
    if points[0] > points[1]:
        message = f"labelled points were left out: {to} has no place for them"
        yield Finding("convert.points", Severity.WARNING, message, points[0] - points[1])
    hidden = [sum(len(o) for o in part if o.occlusion is not None) for part in (before, after)]
    if hidden[0] > hidden[1]:
        message = f"how much of an object is hidden was left out: {to} has no place for it"
        yield Finding("convert.occlusion", Severity.WARNING, message, hidden[0] - hidden[1])
    beyond = [sum(_beyond(o) for o in part if o.obbs is None) for part in (before, after)]
    if beyond[0] > beyond[1]:
        message = f"boxes that reach beyond their picture are cut at its border when {to} is read"
        yield Finding("convert.beyond", Severity.WARNING, message, beyond[0] - beyond[1])


def _lost_of_animals(before: Schema, kept: Sequence[Objects], back: Dataset, target: Format) -> Iterator[Finding]:
    """What animals lose in formats that hold points all the same."""
    after, to = back.schema, target.NAME
    if not before.keypoints or not after.keypoints:
        return
    hidden = [sum(int((o.visible == 1).sum()) for o in part if o.visible is not None)
              for part in (kept, [r.objects for r in back.records])]  # fmt: skip
    if hidden[0] > hidden[1]:
        message = f"hidden points became visible ones: {to} does not tell them apart"
        yield Finding("convert.hidden", Severity.WARNING, message, hidden[0] - hidden[1])
    if not getattr(target, "HOLDS_BOXES", True):
        boxes = sum(int((np.abs(points_hull(o.points, o.visible) - o.boxes) > ROUNDING).any(axis=1).sum())
                    for o in kept if o.points is not None and o.visible is not None)  # fmt: skip
        if boxes:
            message = f"boxes became the hulls of the labelled points: {to} has no place for boxes"
            yield Finding("convert.boxes", Severity.WARNING, message, boxes)
    for what in ("flip_pairs", "edges", "sigmas"):
        old, new = ({frozenset(p) if isinstance(p, tuple) else p for p in getattr(s, what)} for s in (before, after))
        if old - new:
            message = f"{what.replace('_', ' ')} of the skeleton were left out: {to} has no place for them"
            yield Finding("convert.skeleton", Severity.WARNING, message, len(old - new))


def _beyond(o: Objects) -> int:
    return int((clip_boxes(o.boxes, o.size) != o.boxes).any(axis=1).sum())


# -- recognition --------------------------------------------------------------------------------------------------


def _named(name: str) -> Format:
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise TercelError(f"there is no format {name!r}", f"{hint}formats are {', '.join(FORMATS)}")
    return FORMATS[name]


def _format_of(source: Source) -> Format:
    if not source.path.exists():
        raise TercelError(f"{source.path} does not exist", _nearest(source) or "check the path")
    if source.format is not None:
        named = FORMATS[source.format]
        if not getattr(named, "accepts", named.matches)(source.path):
            empty = source.path.is_file() and not source.path.stat().st_size
            what = f"{source.path} is empty" if empty else f"{source.path} is no {source.format} source"
            hint = _nearest(source) or "check the path and the format"
            raise TercelError(f"{what}: looked for {named.LOOKS_LIKE}", hint)
        return named
    found = _narrowed([f for f in FORMATS.values() if f.matches(source.path)], source)
    if not found:
        looked = "\n  ".join(f"{f.NAME}: {f.LOOKS_LIKE}" for f in FORMATS.values())
        hint = _nearest(source) or "check the path"
        raise TercelError(f"{source.path} holds no data set that Tercel knows. Looked for\n  {looked}", hint)
    if len(found) > 1:
        names = [f.NAME for f in found]
        raise TercelError(
            f"{source.path} may be {' or '.join(names)}", f"say which one, for example {names[0]}:{source.path}"
        )
    return found[0]


def _narrowed(found: list[Format], source: Source) -> list[Format]:
    """Of several formats those that have the split; then those that no other one comes before."""
    if len(found) > 1 and source.split:
        names = set(source.split.split(","))
        found = [f for f in found if names <= set(f.splits(source.path))] or found
    later = {name for f in found for name in getattr(f, "BEFORE", ())}
    return [f for f in found if f.NAME not in later]


def _nearest(source: Source) -> str:
    """ "did you mean ...?" with the nearest folders or files that would do."""
    wanted = [FORMATS[source.format]] if source.format else list(FORMATS.values())
    good = []
    for path in _around(source.path):
        format_ = next((f for f in wanted if f.matches(path)), None)
        if format_ is not None:
            good.append(f"{format_.NAME}:{path}")
        if len(good) == 3:
            break
    return f"did you mean {' or '.join(good)}?" if good else ""


def _around(path: Path) -> Iterator[Path]:
    """What lies near a path that is no source: below it (two levels, a few hundred at most), then above."""
    start = path
    while not start.exists() and start != start.parent:
        start = start.parent
    count = 0
    level = [start] if start.is_dir() else []
    for _ in range(2):
        below = []
        for folder in level:
            try:
                entries = sorted(folder.iterdir())
            except OSError:
                continue
            for entry in entries:
                if entry.is_dir() or entry.suffix in {".json", ".yaml", ".yml", ".odgt"}:
                    count += 1
                    if count > 300:
                        return
                    yield entry
                    if entry.is_dir():
                        below.append(entry)
        level = below
    for parent in [start, *start.parents][: 3 if start != path else 4]:
        if parent != path and parent != Path(parent.anchor):
            yield parent
