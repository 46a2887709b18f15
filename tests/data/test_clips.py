"""Windows: which frames they hold, that every frame is answered, that nothing crosses rallies or splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.config import Clip
from tercel.core.finding import TercelError
from tercel.core.record import Dataset, Event, Frame, Record
from tercel.core.schema import Schema
from tercel.core.track import Track
from tercel.data import clips
from tercel.data.splits import leaks, split

SIZE = (90, 160)


def rally(id: str, frames: int, first: int = 0, path: Path | None = None, group: str = "") -> Record:
    """Frame number n has its ball at (n + .5, 7.5) and none where n % 5 == 3; it lies in `path`."""
    numbers = first + np.arange(frames)
    track = Track(SIZE, numbers, np.where(numbers % 5 == 3, 0, 1), np.stack([numbers + 0.5, numbers * 0 + 7.5], axis=1))
    places = tuple(Frame(path or Path(f"/none/{id}.mp4"), int(n)) for n in numbers)
    return Record(id, places, SIZE, track.objects(), first=first, group=group, source=f"{id}.csv")


def rallies(*records: Record) -> Dataset:
    return Dataset(Schema(("ball",), events=("hit",)), records, source="set")


config = st.builds(
    Clip,
    frames=st.integers(1, 10),
    stride=st.integers(1, 4),
    hop=st.integers(1, 12),
    answers=st.sampled_from(["all", "last", "middle"]),
)


def check_window(w: Record, r: Record, clip: Clip) -> None:
    """A window's frames, numbers and balls against the definition, frame by frame."""
    numbers = clips.window_frames(w, r, clip)
    assert len(w.frames) == len(numbers) == clip.frames
    balls = {int(f): o for f, o in zip(w.objects.frame, w.objects.points[:, 0].tolist(), strict=True)}
    assert len(balls) == len(w.objects)
    for k in range(clip.frames):
        n = w.first + k * clip.stride
        shown = min(max(n, r.first), r.first + len(r.frames) - 1)
        assert numbers[k] == (n if n == shown else -1)
        assert w.frames[k].index == shown
        if shown % 5 == 3:
            assert k not in balls
        else:
            assert balls[k] == [shown + 0.5, 7.5]


@given(clip=config, count=st.integers(1, 40), first=st.integers(0, 5))
def test_training_windows_lie_within_their_rally(clip: Clip, count: int, first: int) -> None:
    r, other = rally("r", count, first), rally("s", 60)
    windows = clips.training_windows(rallies(r, other), clip)
    span = (clip.frames - 1) * clip.stride + 1
    starts = [w.first for w in windows.records if clips.rally_of(w) == "r"]
    assert starts == [first + s for s in range(0, count - span + 1, clip.hop)]
    assert ("clips.too_short" in {f.check for f in windows.findings}) == (count < span)
    for w in windows.records:
        source = r if clips.rally_of(w) == "r" else other
        assert (clips.window_frames(w, source, clip) >= 0).all()
        check_window(w, source, clip)


@given(clip=config, count=st.integers(1, 40), first=st.integers(0, 5), hop=st.integers(0, 12))
def test_covering_windows_answer_for_every_frame(clip: Clip, count: int, first: int, hop: int) -> None:
    r = rally("r", count, first)
    windows = clips.covering_windows(rallies(r), clip, hop)
    answers = []
    for w in windows.records:
        check_window(w, r, clip)
        answers += [int(n) for n in clips.window_frames(w, r, clip)[list(clip.answered)] if n >= 0]
    assert set(answers) == set(range(first, first + count))
    if hop == 0 and clip.answers != "all":
        assert len(answers) == count  # one answer per frame
    if hop == 0 and clip.answers == "all":
        most = clip.frames * clip.stride  # a block has `stride` windows; the last of a phase may overlap
        assert len(windows) <= clip.stride * -(-count // most)


def test_without_overlap_the_last_window_is_shifted_back() -> None:
    windows = clips.covering_windows(rallies(rally("r", 23)), Clip(frames=10))
    assert [w.id for w in windows.records] == ["r@000000", "r@000010", "r@000013"]


def test_a_rally_shorter_than_a_window_repeats_its_last_frame() -> None:
    r, clip = rally("r", 3, first=7), Clip(frames=5)
    (w,) = clips.covering_windows(rallies(r), clip).records
    assert [f.index for f in w.frames] == [7, 8, 9, 9, 9]
    assert clips.window_frames(w, r, clip).tolist() == [7, 8, 9, -1, -1]


def test_no_rally_is_long_enough() -> None:
    with pytest.raises(TercelError, match=r"as long as a window of 9 frames; the longest, b \(b.csv\), has 8"):
        clips.training_windows(rallies(rally("a", 3), rally("b", 8)), Clip(frames=5, stride=2))


def test_events_keep_their_distance_across_the_ends() -> None:
    r = rally("r", 30, first=100)
    r = Record(r.id, r.frames, r.size, r.objects, (Event(4, "hit"), Event(12, "hit")), first=100)
    w = clips.training_windows(rallies(r), Clip(frames=5)).records[6]
    assert w.first == 106
    assert [e.frame for e in w.events] == [-2, 6]
    apart = clips.training_windows(rallies(r), Clip(frames=5, stride=2)).records[6]
    assert [e.frame for e in apart.events] == [-1, 3]  # frame 112 is the window's 3rd: 106 + 3 * 2


def test_background_frames_are_spread_over_the_video() -> None:
    path = Path("/none/game.mp4")
    d = rallies(rally("a", 50, 0, path), rally("b", 51, 950, path), rally("short", 4))
    spread = clips.background_frames(d)
    indices = [f.index for f in spread["a"]]
    assert spread["a"] == spread["b"]
    assert len(indices) == 15
    assert (indices[0], indices[-1]) == (0, 1000)
    assert [f.index for f in spread["short"]] == [0, 1, 2, 3]
    assert not clips.training_windows(d, Clip(frames=3)).records[0].background
    windows = clips.covering_windows(d, Clip(frames=3, background=True))
    assert {w.background for w in windows.records if clips.rally_of(w) != "short"} == {spread["a"]}


def test_tracks_are_the_truth_back() -> None:
    (t,) = clips.tracks(rallies(rally("r", 12, first=3)))
    assert (t.name, t.frame.tolist()) == ("r", list(range(3, 15)))
    assert t.visibility.tolist() == [0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1]
    assert t.xy[1].tolist() == [4.5, 7.5]


def test_windows_that_share_a_frame_never_cross_a_split(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    d = rallies(*(rally(n, 20, 0, tmp_path / f"{n}.mp4") for n in ("a", "b", "c")))
    windows = clips.training_windows(d, Clip(frames=4))
    parts = split(windows, {"train": 0.6, "val": 0.4}, seed=3)
    assert not {clips.rally_of(w) for w in parts["train"].records} & {clips.rally_of(w) for w in parts["val"].records}
    assert leaks(parts["train"], parts["val"]) == []
    ids = [w.id for w in windows.records]
    touching, apart = ids[: ids.index("a@000005")], ids[ids.index("a@000008") :]
    assert leaks(windows.subset(touching), windows.subset(apart)) == []
    shared = leaks(windows.subset(touching), windows.subset(ids[ids.index("a@000007") :]))
    assert {f.check for f in shared} == {"split.shared_path", "split.shared_content"}


def test_a_video_is_hashed_once_however_many_windows_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tercel.data import splits

    (tmp_path / "a.mp4").write_bytes(b"a")
    calls = []
    monkeypatch.setattr(splits, "content_hash", lambda p: calls.append(p) or "x")
    windows = clips.training_windows(rallies(rally("a", 500, 0, tmp_path / "a.mp4")), Clip(frames=8))
    leaks(windows, windows.subset([windows.records[0].id]))
    assert len(calls) == 1
