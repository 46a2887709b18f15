"""The store of decoded pictures: same pixels in every mode, nothing stale, nothing unbounded, decisions stated."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tercel.core.finding import Severity
from tercel.data import cache
from tercel.data.cache import PictureStore

HEIGHT, WIDTH = 30, 40
BYTES = HEIGHT * WIDTH * 3
REAL_AVAILABLE_MEMORY = cache.available_memory


class Fake:
    """Pictures whose pixels are the file's one byte; counts what is decoded."""

    def __init__(self, folder: Path, n: int) -> None:
        self.decoded: Counter[str] = Counter()
        self.paths = [folder / f"{i}.pic" for i in range(n)]
        for i, p in enumerate(self.paths):
            p.write_bytes(bytes([i]))

    def read(self, path: Path) -> np.ndarray:
        self.decoded[path.name] += 1
        return np.full((HEIGHT, WIDTH, 3), path.read_bytes()[0], np.uint8)

    def size(self, path: Path) -> tuple[int, int]:
        return HEIGHT, WIDTH

    def store(self, ram_gb: float, folder: Path, **more: float) -> PictureStore:
        return PictureStore(self.paths, ram_gb, folder, read=self.read, size_of=self.size, **more)  # type: ignore[arg-type]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    (tmp_path / "src").mkdir()
    return Fake(tmp_path / "src", 6)


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "DISK_RESERVE_GB", 1e-6)
    monkeypatch.setattr(cache, "available_memory", lambda: 1e9)


def modes(store: PictureStore) -> dict[str, Severity]:
    return {f.check: f.severity for f in store.findings()}


def test_ram_when_it_fits(fake: Fake, tmp_path: Path) -> None:
    store = fake.store(6 * BYTES / 1e9, tmp_path / "cache")
    assert store.mode == "ram"
    assert store.total_bytes == 6 * BYTES
    for _ in range(3):
        for i, p in enumerate(fake.paths):
            assert (store.get(p) == i).all()
    assert set(fake.decoded.values()) == {1}
    assert not (tmp_path / "cache").exists()
    (finding,) = store.findings()
    assert finding.check == "cache.mode"
    assert finding.severity is Severity.INFO
    assert "6 pictures" in finding.message
    assert "RAM" in finding.message


def test_one_byte_over_budget_goes_to_disk(fake: Fake, tmp_path: Path) -> None:
    assert fake.store((6 * BYTES - 1) / 1e9, tmp_path / "cache").mode == "disk"


def test_little_memory_left_goes_to_disk(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "available_memory", lambda: 6 * BYTES / cache.RAM_SHARE - 2)
    assert fake.store(4, tmp_path / "cache").mode == "disk"
    monkeypatch.setattr(cache, "available_memory", lambda: 6 * BYTES / cache.RAM_SHARE + 2)
    assert fake.store(4, tmp_path / "cache").mode == "ram"


@pytest.mark.parametrize("ram", [1.0, 0.0])
def test_pictures_are_read_only(fake: Fake, tmp_path: Path, ram: float) -> None:
    store = fake.store(ram, tmp_path / "cache")
    for _ in range(2):  # decoded, then from the cache
        with pytest.raises(ValueError, match="read-only"):
            store.get(fake.paths[0])[0, 0, 0] = 1


def test_disk_survives_the_process_and_is_shared_by_content(fake: Fake, tmp_path: Path) -> None:
    a = fake.store(0, tmp_path / "cache")
    for p in fake.paths:
        a.get(p)
    fake.paths[5].write_bytes(bytes([2]))  # now the same bytes as picture 2
    b = fake.store(0, tmp_path / "cache")
    fake.decoded.clear()
    assert [int(b.get(p)[0, 0, 0]) for p in fake.paths] == [0, 1, 2, 3, 4, 2]
    assert not fake.decoded
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 6


def test_an_edited_picture_is_never_served_stale(fake: Fake, tmp_path: Path) -> None:
    store = fake.store(0, tmp_path / "cache")
    assert (store.get(fake.paths[0]) == 0).all()
    before = os.stat(fake.paths[0])
    fake.paths[0].write_bytes(bytes([9]))
    os.utime(fake.paths[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert (store.get(fake.paths[0]) == 9).all()
    assert (fake.store(0, tmp_path / "cache").get(fake.paths[0]) == 9).all()


def test_another_decoder_does_not_share(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.store(0, tmp_path / "cache").get(fake.paths[0])
    monkeypatch.setattr(cache, "_decoder_stamp", lambda read: "other")
    fake.store(0, tmp_path / "cache").get(fake.paths[0])
    assert fake.decoded["0.pic"] == 2


def test_a_torn_file_is_decoded_again(fake: Fake, tmp_path: Path) -> None:
    fake.store(0, tmp_path / "cache").get(fake.paths[3])
    (file,) = (tmp_path / "cache").glob("*.npy")
    for damaged in (file.read_bytes()[:-100], b"", b"not numpy"):
        file.write_bytes(damaged)
        assert (fake.store(0, tmp_path / "cache").get(fake.paths[3]) == 3).all()
        assert file.stat().st_size > BYTES


def test_limit_evicts_old_sets_but_not_our_own(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    old = tmp_path / "cache" / "old.npy"
    old.write_bytes(b"x" * BYTES)
    os.utime(old, (1, 1))
    store = fake.store(0, tmp_path / "cache", disk_gb=4 * (BYTES + 200) / 1e9)
    assert modes(store) == {"cache.mode": Severity.WARNING}  # six do not fit, and it says so
    for p in fake.paths:
        store.get(p)
    assert not old.exists()
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 4
    assert modes(store)["cache.evicted"] is Severity.INFO
    assert modes(store)["cache.full"] is Severity.WARNING
    fake.decoded.clear()
    for i, p in enumerate(fake.paths):
        assert (store.get(p) == i).all()
    assert sum(fake.decoded.values()) == 2  # the first four stayed


def test_full_disk_stops_writing_and_goes_on(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_save", full)
    store = fake.store(0, tmp_path / "cache")
    for _ in range(2):
        for i, p in enumerate(fake.paths):
            assert (store.get(p) == i).all()
    full_findings = [f for f in store.findings() if f.check == "cache.full"]
    assert len(full_findings) == 1
    assert full_findings[0].count == 1
    assert "No space left" in full_findings[0].message


def test_no_free_space_writes_nothing(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "DISK_RESERVE_GB", 1e9)
    store = fake.store(0, tmp_path / "cache")
    assert (store.get(fake.paths[1]) == 1).all()
    assert list((tmp_path / "cache").iterdir()) == []
    assert modes(store) == {"cache.mode": Severity.WARNING, "cache.full": Severity.WARNING}


def test_unusable_folder_decodes_anew(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    store = fake.store(0, tmp_path / "file")
    assert store.mode == "none"
    assert modes(store) == {"cache.mode": Severity.WARNING}
    store.get(fake.paths[1])
    assert (store.get(fake.paths[1]) == 1).all()
    assert fake.decoded["1.pic"] == 2


def test_threads_decode_each_picture_once(fake: Fake, tmp_path: Path) -> None:
    store = fake.store(1, tmp_path / "cache")
    gate = threading.Barrier(8)
    slow = store._read

    def read(path: Path) -> np.ndarray:
        time.sleep(0.002)
        return slow(path)

    store._read = read

    def work(k: int) -> list[int]:
        gate.wait(timeout=10)
        return [int(store.get(p)[0, 0, 0]) for p in fake.paths]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [list(range(6))] * 8
    assert set(fake.decoded.values()) == {1}
    assert not store._busy


def test_known_sizes_spare_the_headers(fake: Fake, tmp_path: Path) -> None:
    def forbidden(path: Path) -> tuple[int, int]:
        raise AssertionError(path)

    sizes = dict.fromkeys(fake.paths, (10, 20))
    store = PictureStore(fake.paths * 2, 1, tmp_path, sizes=sizes, read=fake.read, size_of=forbidden)
    assert store.total_bytes == 6 * 10 * 20 * 3


def test_available_memory_is_plausible() -> None:
    assert 1e6 < REAL_AVAILABLE_MEMORY() < 1e14
