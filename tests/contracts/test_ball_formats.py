"""What every format of balls in video keeps: write then read gives the same rallies; nothing is overwritten."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tercel.core.finding import Ledger, TercelError
from tercel.core.record import Dataset, Event, Frame, Record
from tercel.core.schema import Schema
from tercel.core.track import ABSENT, Track
from tercel.data import clips, source
from tercel.data.formats import FORMATS, balls
from tercel.data.formats.common import Options
from tercel.data.splits import leaks
from tercel.data.tracks import Rally
from tercel.data.video import write_video

BALLS = [n for n, f in FORMATS.items() if f.TASK == "ball"]
formats = pytest.mark.parametrize("name", BALLS)
VIDEO_ONLY = {"openttgames"}
PICTURES_ONLY = {"sequence"}
PRESENCE_ONLY = {"openttgames"}  # knows whether there is a ball, not how visible it is
H, W, FRAMES = 48, 64, 24
EVENTS = ("bounce", "net")


def video(folder: Path) -> Path:
    path = folder / "clip.mp4"
    if not path.exists():
        write_video(path, (np.full((H, W, 3), 9 * i, np.uint8) for i in range(FRAMES)), 30)
    return path


def pictures(folder: Path, count: int, seed: int) -> list[Frame]:
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for i in range(count):
        path = folder / f"{seed}_{i}.png"
        Image.new("RGB", (W, H), (i, seed, 3)).save(path)
        out.append(Frame(path))
    return out


@st.composite
def rallies(draw: st.DrawFn) -> list[Rally]:
    """Runs of one video, apart from each other, at odd places with every visibility and some events."""
    out, first = [], draw(st.integers(0, 3))
    for _ in range(draw(st.integers(1, 3))):
        n = draw(st.integers(1, 5))
        visible = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), np.uint8)
        # Not all within the first pixel: such places are taken for shares of the frame.
        places = st.tuples(st.integers(8, 4 * W - 1), st.integers(0, 4 * H - 1))
        xy = np.array(draw(st.lists(places, min_size=n, max_size=n))) / 4 + 0.125
        at = draw(st.lists(st.integers(1, n - 1), unique=True, max_size=2)) if n > 1 else []  # never in all rows
        events = tuple(Event(i, draw(st.sampled_from(EVENTS))) for i in sorted(at))
        track = Track((H, W), first + np.arange(n), visible, xy, name=f"game/{first:06d}", group="game")
        out.append(Rally(track, events))
        first += n + draw(st.integers(2, 4))
    return out


def build(name: str, folder: Path, plan: list[Rally]) -> Dataset:
    """Rallies with real frames in `folder`: of a video where the format can hold one, else pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i, r in enumerate(plan):
        if name in PICTURES_ONLY:
            frames = pictures(folder / "in", len(r.track), i)
        else:
            path = video(folder)
            frames = [Frame(path, int(f)) for f in r.track.frame]
        records.append(balls.record(r, frames, Ledger()))
    return Dataset(Schema(("ball",), events=EVENTS), tuple(records))


def content(frame: Frame) -> tuple[bytes, int]:
    return frame.path.read_bytes(), frame.index


def check_round_trip(name: str, format_: Any, dataset: Dataset, out: Path, split: str = "train") -> Dataset:
    """The contract: what was written reads back with the same ids, frames, places, visibilities and events."""
    format_.write(dataset, out, split=split)
    back: Dataset = format_.read(out, split, Options())
    assert back.schema.classes == ("ball",)
    assert {r.id for r in back.records} == {r.id for r in dataset.records}
    for r in dataset.records:
        other = back[r.id]
        assert (other.size, other.first, other.events) == (r.size, r.first, r.events)
        assert [content(f) for f in other.frames] == [content(f) for f in r.frames]
        assert other.group.endswith(r.group) or other.group == other.id
        assert other.objects.columns == r.objects.columns
        (a,), (b,) = clips.tracks(dataset.subset([r.id])), clips.tracks(back.subset([r.id]))
        assert a.frame.tolist() == b.frame.tolist()
        if name in PRESENCE_ONLY:
            assert a.present.tolist() == b.present.tolist()
        else:
            assert a.visibility.tolist() == b.visibility.tolist()
        np.testing.assert_allclose(b.xy, a.xy, rtol=0, atol=1e-3)
    return back


@formats
@settings(max_examples=12)
@given(plan=rallies())
def test_write_then_read_gives_the_same_rallies(name: str, plan: list[Rally]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = build(name, Path(folder, "in"), plan)
        check_round_trip(name, FORMATS[name], dataset, Path(folder, "out"))


def small(name: str, folder: Path, first: int = 2) -> Dataset:
    """Two rallies with a ball low on the left: x small, y large, so that exchanged axes show."""
    a = Track(
        (H, W), first + np.arange(4), [1, 0, 2, 3], [[3.5, 40.5], [0, 0], [5.5, 41.5], [7.25, 42.5]],
        name=f"game/{first:06d}", group="game",
    )  # fmt: skip
    b = Track((H, W), first + 8 + np.arange(3), [0, 1, 1], [[0, 0], [60.5, 9.5], [59.5, 8.5]])
    b = b.replace(name=f"game/{first + 8:06d}", group="game")
    return build(name, folder, [Rally(a, (Event(2, "bounce"),)), Rally(b, (Event(0, "net"),))])


def _objects(change: Any) -> Any:
    return lambda r: dataclasses.replace(r, objects=change(r.objects))


BUGS = {
    "half a pixel": _objects(lambda o: o.replace(points=o.points + np.float32(0.5))),
    "x and y exchanged": _objects(lambda o: o.replace(points=o.points[..., ::-1] * np.float32(0.75))),
    "mirrored": _objects(lambda o: o.replace(points=np.float32([W, 0]) + o.points * np.float32([-1, 1]))),
    "cast to whole numbers": _objects(lambda o: o.replace(points=np.floor(o.points) + np.float32(0.5))),
    "one frame late": _objects(lambda o: o.replace(frame=(o.frame + 1) % 3)),
    "last ball lost": _objects(lambda o: o[:-1]),
    "events one frame late": lambda r: dataclasses.replace(
        r, events=tuple(Event(e.frame + 1, e.name) for e in r.events)
    ),
    "events lost": lambda r: dataclasses.replace(r, events=()),
    "occluded counts as absent": _objects(lambda o: o[o.visible[:, 0] != 1]),
}


@formats
@pytest.mark.parametrize("bug", list(BUGS))
def test_the_contract_catches_planted_bugs(name: str, bug: str, tmp_path: Path) -> None:
    dataset, good = small(name, tmp_path / "in"), FORMATS[name]

    def write(d: Dataset, out: Path, *, split: str) -> list[Path]:
        return good.write(Dataset(d.schema, tuple(BUGS[bug](r) for r in d.records)), out, split=split)

    check_round_trip(name, good, dataset, tmp_path / "good")
    with pytest.raises((AssertionError, TercelError)):
        check_round_trip(name, SimpleNamespace(write=write, read=good.read), dataset, tmp_path / "bad")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@formats
def test_writing_twice_into_one_place_is_refused_and_changes_nothing(name: str, tmp_path: Path) -> None:
    dataset = small(name, tmp_path / "in")
    FORMATS[name].write(dataset, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(TercelError, match="exists already"):
        FORMATS[name].write(dataset, tmp_path / "out")
    assert tree(tmp_path / "out") == before


@formats
def test_a_second_split_goes_beside_the_first(name: str, tmp_path: Path) -> None:
    format_, out = FORMATS[name], tmp_path / "out"
    check_round_trip(name, format_, small(name, tmp_path / "a"), out)
    check_round_trip(name, format_, small(name, tmp_path / "b", first=1), out, split="val")
    assert format_.splits(out) == ["train", "val"]
    assert {r.first for r in format_.read(out, "train", Options()).records} == {2, 10}
    assert len(format_.read(out, None, Options())) == 4
    with pytest.raises(TercelError, match="no split 'vall'") as e:
        format_.read(out, "vall", Options())
    assert "val" in e.value.remedy


@formats
def test_what_a_format_writes_is_recognised_as_it_and_nothing_else(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(name, tmp_path / "in"), tmp_path / "out")
    assert [f for f in FORMATS if FORMATS[f].matches(tmp_path / "out")] == [name]
    assert len(source.read(f"{tmp_path / 'out'}#train")) == 2


@formats
def test_nothing_is_written_when_a_frame_is_missing(name: str, tmp_path: Path) -> None:
    dataset = small(name, tmp_path / "in")
    dataset.records[1].frames[0].path.unlink()
    with pytest.raises(TercelError, match="does not exist"):
        FORMATS[name].write(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@formats
@pytest.mark.parametrize("id_", ["../escape", "/etc/x", "a/../../b", "", "a\nb"])
def test_ids_cannot_leave_the_folder(name: str, id_: str, tmp_path: Path) -> None:
    dataset = small(name, tmp_path / "in")
    odd = Dataset(dataset.schema, (dataclasses.replace(dataset.records[0], id=id_),))
    with pytest.raises(TercelError, match=r"leaves the folder|cannot be a file name"):
        FORMATS[name].write(odd, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@formats
def test_frames_need_not_exist_for_judging(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(name, tmp_path / "in"), tmp_path / "out", pictures=False)
    back = FORMATS[name].read(tmp_path / "out", "train", Options(pictures=False))
    assert sorted(np.sum(t.visibility != ABSENT) for t in clips.tracks(back)) == [2, 3]
    with pytest.raises(TercelError, match=r"has a video or frames|does not exist"):
        FORMATS[name].read(tmp_path / "out", "train", Options())


@formats
def test_the_same_footage_in_two_splits_is_a_leak(name: str, tmp_path: Path) -> None:
    format_, out = FORMATS[name], tmp_path / "out"
    format_.write(small(name, tmp_path / "a"), out)
    format_.write(small(name, tmp_path / "a"), out, split="test")
    a, b = (format_.read(out, s, Options()) for s in ("train", "test"))
    assert "split.shared_content" in {f.check for f in leaks(a, b)}


@formats
def test_boxes_are_refused(name: str, tmp_path: Path) -> None:
    dataset = small(name, tmp_path / "in")
    r = dataset.records[0]
    boxes = Record(r.id, r.frames, r.size, r.objects.replace(points=None, visible=None), first=r.first)
    with pytest.raises(TercelError, match="no balls"):
        FORMATS[name].write(Dataset(dataset.schema, (boxes,)), tmp_path / "out")
    two = dataclasses.replace(r, objects=r.objects.replace(frame=np.zeros(len(r.objects), np.int64)))
    with pytest.raises(TercelError, match="several balls"):
        FORMATS[name].write(Dataset(dataset.schema, (two,)), tmp_path / "out")


@formats
def test_converting_keeps_every_ball(name: str, tmp_path: Path) -> None:
    FORMATS[name].write(small(name, tmp_path / "in"), tmp_path / "a")
    findings = source.convert(f"{name}:{tmp_path / 'a'}#train", tmp_path / "b", "tracknet")
    assert [(f.check, f.count) for f in findings][-1] == ("convert.counts", 5)
