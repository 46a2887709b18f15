"""Splits by group and content, leaks, duplicates."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.finding import Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data.splits import duplicates, leaks, split

EMPTY = Objects.empty((4, 4))


def dataset(folder: Path, contents: dict[str, tuple[bytes, str]]) -> Dataset:
    """Records {id: (bytes of the picture, group)}."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for id_, (content, group) in contents.items():
        (folder / id_).write_bytes(content)
        records.append(Record(id_, (Frame(folder / id_),), (4, 4), EMPTY, group=group))
    return Dataset(Schema(("ball",)), tuple(records))


def plain(n: int, groups: int = 0) -> Dataset:
    """Records without picture files."""
    return Dataset(
        Schema(("ball",)),
        tuple(
            Record(f"r{i}", (Frame(Path(f"/nothing/{i}")),), (4, 4), EMPTY, group=f"g{i % groups}" if groups else "")
            for i in range(n)
        ),
    )


@given(n=st.integers(10, 60), groups=st.integers(5, 10), seed=st.integers(0, 5))
def test_groups_never_cross_and_nothing_is_lost(n: int, groups: int, seed: int) -> None:
    d = plain(n, groups)
    parts = split(d, {"train": 0.6, "val": 0.2, "test": 0.2}, seed)
    assert sorted(r.id for p in parts.values() for r in p.records) == sorted(r.id for r in d.records)
    where: dict[str, set[str]] = {}
    for name, part in parts.items():
        for r in part.records:
            where.setdefault(r.group, set()).add(name)
    assert all(len(names) == 1 for names in where.values())
    assert not leaks(parts["train"], parts["val"])


def test_the_shares_are_met() -> None:
    parts = split(plain(1000), {"train": 0.8, "val": 0.15, "test": 0.05})
    assert {k: len(v) for k, v in parts.items()} == {"train": 800, "val": 150, "test": 50}


def test_the_seed_decides_and_the_order_does_not() -> None:
    d = plain(40)
    backwards = Dataset(d.schema, d.records[::-1])

    def ids(d: Dataset, seed: int) -> list[str]:
        return sorted(r.id for r in split(d, {"a": 0.5, "b": 0.5}, seed)["a"].records)

    assert ids(d, 1) == ids(backwards, 1)
    assert ids(d, 1) == ids(d, 1)
    assert ids(d, 1) != ids(d, 2)


def test_equal_pictures_stay_together_even_across_groups(tmp_path: Path) -> None:
    contents = {f"{i}": (b"%d" % (i // 2), f"g{(i + 1) // 2}") for i in range(8)}  # a chain: content, group, content...
    contents |= {f"x{i}": (b"x%d" % i, "") for i in range(8)}
    for seed in range(5):
        parts = split(dataset(tmp_path, contents), {"a": 0.5, "b": 0.5}, seed)
        sides = {name for name, p in parts.items() for r in p.records if r.id.isdigit()}
        assert len(sides) == 1


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 0.5, "b": float("nan")}])
def test_bad_shares(shares: dict[str, float]) -> None:
    with pytest.raises(TercelError, match="not positive numbers that add up to 1"):
        split(plain(10), shares)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(TercelError, match=r"part 'b' would be empty: 9 records form 1 blocks"):
        split(plain(9, 1), {"a": 0.5, "b": 0.5})


def test_leaks_are_found_by_path_content_and_group(tmp_path: Path) -> None:
    a = dataset(tmp_path / "a", {"1": (b"one", "match1"), "2": (b"two", "")})
    clean = dataset(tmp_path / "b", {"3": (b"three", "match3")})
    assert leaks(a, clean) == []
    copied = dataset(tmp_path / "c", {"copy": (b"two", "match1")})
    assert {(f.check, f.count, f.severity) for f in leaks(a, copied)} == {
        ("split.shared_content", 1, Severity.ERROR),
        ("split.shared_group", 1, Severity.ERROR),
    }
    assert f"{tmp_path / 'a' / '2'} = {tmp_path / 'c' / 'copy'}" in [e for f in leaks(a, copied) for e in f.evidence]
    assert {f.check for f in leaks(a, a.subset(["2"]))} == {"split.shared_path", "split.shared_content"}


def test_frames_of_one_video_are_different_pictures(tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(b"video")
    schema = Schema(("ball",))
    a = Dataset(schema, (Record("a", (Frame(tmp_path / "v", 0),), (4, 4), EMPTY),))
    b = Dataset(schema, (Record("b", (Frame(tmp_path / "v", 1),), (4, 4), EMPTY),))
    assert leaks(a, b) == []
    assert duplicates(Dataset(schema, a.records + b.records)) == []
    assert len(leaks(a, a)) == 2


def test_duplicates_tell_the_effective_number(tmp_path: Path) -> None:
    d = dataset(tmp_path, {"1": (b"x", ""), "2": (b"y", ""), "3": (b"x", ""), "4": (b"x", "")})
    (finding,) = duplicates(d)
    assert (finding.check, finding.count) == ("data.duplicates", 2)
    assert "4 records hold only 2 different pictures" in finding.message
    assert duplicates(d.subset(["1", "2"])) == []
