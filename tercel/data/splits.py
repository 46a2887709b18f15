"""Splits that cannot leak, and leaks and duplicates found by content.

What belongs together stays together: records of one group (video, match, scene), and pictures with the same bytes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.record import Dataset, Frame, Record, content_hash
from tercel.data.stored import is_store, pixel_hash


def split(dataset: Dataset, shares: Mapping[str, float], seed: int = 0) -> dict[str, Dataset]:
    """Parts of about the given shares of records, decided by (seed, ids, groups, pictures) and never by their order.

    Records with the same group, or with a picture of the same content, are one block; blocks are dealt whole, large
    ones first, each to the part that lacks most.

    Raises:
        TercelError: shares that are not positive or do not add up to 1, or a part that would stay empty.
    """
    if not shares or any(not s > 0 for s in shares.values()) or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise TercelError(
            f"shares {dict(shares)} are not positive numbers that add up to 1", "for example train .8, val .2"
        )
    blocks = _blocks(dataset)
    order = np.random.default_rng(seed).permutation(len(blocks)).tolist()
    order.sort(key=lambda i: -len(blocks[i]))  # stable: blocks of one size stay in random order
    wanted = {name: share * len(dataset) for name, share in shares.items()}
    parts: dict[str, list[str]] = {name: [] for name in shares}
    for i in order:
        name = max(parts, key=lambda n: wanted[n] - len(parts[n]))
        parts[name] += blocks[i]
    for name, ids in parts.items():
        if not ids:
            raise TercelError(
                f"part {name!r} would be empty: {len(dataset)} records form {len(blocks)} blocks that stay together",
                "give the part a larger share, or more data",
            )
    place = {r.id: i for i, r in enumerate(dataset.records)}
    return {name: dataset.subset(sorted(ids, key=place.__getitem__)) for name, ids in parts.items()}


def leaks(a: Dataset, b: Dataset) -> list[Finding]:
    """Error findings for what two sets share: picture files, picture contents, groups. Reads every picture."""
    ledger = Ledger()
    files = _Files()
    paths = {files.place(f): r for r in a.records for f in r.frames}
    contents = {key: r for r in a.records for key in files.contents(r)}
    groups = {r.group: r for r in a.records if r.group}
    for r in b.records:
        twin = next((paths[k] for f in r.frames if (k := files.place(f)) in paths), None)
        if twin is not None:
            ledger.add("split.shared_path", Severity.ERROR, "pictures occur in both sets", str(r.frames[0]))
        twin = next((contents[k] for k in files.contents(r) if k in contents), None)
        if twin is not None:
            where = f"{twin.frames[0]} = {r.frames[0]}"
            ledger.add(
                "split.shared_content", Severity.ERROR, "pictures with the same content occur in both sets", where
            )
        if r.group and r.group in groups:
            message = "groups (videos, matches, scenes) occur in both sets; split by group"
            ledger.add("split.shared_group", Severity.ERROR, message, f"{r.group}: {groups[r.group].id} and {r.id}")
    return list(ledger.findings())


def duplicates(dataset: Dataset) -> list[Finding]:
    """A warning when pictures with the same content occur more than once, with the effective number of samples."""
    first: dict[tuple[tuple[str, int], ...], Record] = {}
    twins: list[str] = []
    files = _Files()
    for r in dataset.records:
        key = tuple(files.contents(r))
        if key in first:
            twins.append(f"{first[key].frames[0]} = {r.frames[0]}")
        elif key:
            first[key] = r
    if not twins:
        return []
    n = len(dataset)
    message = f"{n} records hold only {n - len(twins)} different pictures: the others are copies of them"
    return [Finding("data.duplicates", Severity.WARNING, message, len(twins), tuple(twins[: Ledger.EXAMPLES]))]


def _blocks(dataset: Dataset) -> list[list[str]]:
    """Ids that must stay together, sorted within and among blocks (union of groups and of equal contents)."""
    parent: dict[str, str] = {}

    def root(x: str) -> str:
        parent.setdefault(x, x)
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    files = _Files()
    for r in dataset.records:
        contents = (f"content {c}@{i}" for c, i in files.contents(r))
        keys: Iterable[str] = [*contents, *([f"group {r.group}"] if r.group else [])]
        for key in keys:
            parent[root(f"record {r.id}")] = root(key)
    blocks: dict[str, list[str]] = defaultdict(list)
    for r in dataset.records:
        blocks[root(f"record {r.id}")].append(r.id)
    return sorted(sorted(b) for b in blocks.values())


class _Files:
    """What is known of files, each looked at once: a video has thousands of frames, and windows share most of them."""

    def __init__(self) -> None:
        self._real: dict[Path, str] = {}
        self._hashes: dict[Path, str] = {}

    def place(self, frame: Frame) -> tuple[str, int]:
        """The true path and the index."""
        if frame.path not in self._real:
            self._real[frame.path] = str(frame.path.resolve())
        return self._real[frame.path], frame.index

    def contents(self, record: Record) -> list[tuple[str, int]]:
        """Hash and frame index of each of the record's pictures; a file that is not there has none. Of a picture within
        an HDF5 file its pixels count, wherever it lies."""
        out = []
        for f in record.frames:
            if f.index >= 0 and is_store(f.path):
                out.append((pixel_hash(f), -1))
                continue
            if f.path not in self._hashes:
                self._hashes[f.path] = content_hash(f.path) if f.path.is_file() else ""
            if self._hashes[f.path]:
                out.append((self._hashes[f.path], f.index))
        return out
