"""Record, Dataset, and the fingerprint: equal for equal content, different for every single change."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Event, Frame, Record, content_hash
from tercel.core.schema import Schema

SIZE = (40, 60)


def dataset(folder: Path) -> Dataset:
    folder.mkdir(exist_ok=True)
    records = []
    for i in range(3):
        (folder / f"{i}.png").write_bytes(b"picture %d" % i)
        o = Objects(SIZE, [0, 1, 1][:i], [[1, 2, 11, 12], [0, 0, 30, 40], [2, 2, 3, 3]][:i], [False, True][:i])
        records.append(Record(f"r{i}", (Frame(folder / f"{i}.png"),), SIZE, o, source=f"labels.txt:{i + 1}"))
    return Dataset(Schema(("ball", "net")), tuple(records))


def test_lookup_and_subset(tmp_path: Path) -> None:
    d = dataset(tmp_path)
    assert len(d) == 3
    assert d["r1"] is d.records[1]
    assert [r.id for r in d.subset(["r2", "r0"]).records] == ["r2", "r0"]
    with pytest.raises(KeyError):
        d["r9"]


def test_statistics_by_hand(tmp_path: Path) -> None:
    s = dataset(tmp_path).statistics()
    assert (s["records"], s["objects"], s["ignored"], s["negatives"], s["most_per_record"]) == (3, 2, 1, 1, 2)
    assert s["per_class"] == {"ball": 2, "net": 0}
    assert s["width_px"] == [10, 10, 10, 20, 30]
    assert s["sizes"] == ["40x60"]
    assert Dataset(Schema(("a",)), ()).statistics()["records"] == 0


def test_what_is_refused(tmp_path: Path) -> None:
    d = dataset(tmp_path)
    r = d.records[2]
    with pytest.raises(TercelError, match=r"labels\.txt:3: id 'r2' occurs twice"):
        Dataset(d.schema, (r, r))
    with pytest.raises(TercelError, match=r"labels\.txt:3: class id 1 but only 1 classes"):
        Dataset(Schema(("ball",)), (r,))
    with pytest.raises(ValueError, match="has no frame"):
        dataclasses.replace(r, frames=())
    with pytest.raises(ValueError, match=r"objects lie on \(40, 60\), the picture is \(60, 40\)"):
        dataclasses.replace(r, size=(60, 40))


def test_the_fingerprint_is_about_content_alone(tmp_path: Path) -> None:
    d = dataset(tmp_path / "a")
    moved = dataset(tmp_path / "b")
    assert d.fingerprint() == moved.fingerprint()
    assert d.fingerprint() == Dataset(d.schema, d.records[::-1]).fingerprint()


CHANGES: dict[str, Any] = {
    "label": lambda r: {"objects": r.objects.replace(labels=[1, 1])},
    "coordinate": lambda r: {"objects": r.objects.replace(boxes=r.objects.boxes + np.float32([0, 0, 0.001, 0]))},
    "ignore": lambda r: {"objects": r.objects.replace(ignore=[True, True])},
    "one object less": lambda r: {"objects": r.objects[:1]},
    "area": lambda r: {"objects": r.objects.replace(area=[1, 2])},
    "id": lambda r: {"id": "other"},
    "event": lambda r: {"events": (Event(0, "bounce"),)},
    "frame": lambda r: {"frames": (Frame(r.frames[0].path, 1),)},
}


@pytest.mark.parametrize("what", list(CHANGES))
def test_every_change_shows_in_the_fingerprint(what: str, tmp_path: Path) -> None:
    d = dataset(tmp_path)
    changed = dataclasses.replace(d.records[2], **CHANGES[what](d.records[2]))
    assert Dataset(d.schema, (*d.records[:2], changed)).fingerprint() != d.fingerprint()


def test_pixels_and_names_show_in_the_fingerprint(tmp_path: Path) -> None:
    d = dataset(tmp_path)
    before = d.fingerprint()
    assert Dataset(Schema(("net", "ball")), d.records).fingerprint() != before
    (tmp_path / "1.png").write_bytes(b"picture 9")
    assert d.fingerprint() != before
    assert content_hash(tmp_path / "0.png") != content_hash(tmp_path / "1.png")


def test_the_ledger_counts_everything_and_keeps_a_few_places() -> None:
    ledger = Ledger()
    for i in range(9):
        ledger.add("a", Severity.WARNING, "gone", f"f:{i}")
    ledger.add("a", Severity.ERROR, "gone", count=4)
    other = Ledger()
    other.extend(ledger.findings())
    other.extend([Finding("a", Severity.WARNING, "gone", 1, ("x",))])
    assert [(f.severity, f.count, len(f.evidence)) for f in other.findings()] == [
        (Severity.WARNING, 10, 5),
        (Severity.ERROR, 4, 0),
    ]
