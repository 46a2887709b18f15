"""Windows and their mean against a slow reading of the definition; live against whole files, to the last bit."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tercel.config import Ball, BallHeatmap, Clip, Data, Evaluate, Model, Recipe
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.core.warp import Warp
from tercel.data import clips
from tercel.data.video import write_video
from tercel.engine.device import Runtime
from tercel.engine.stream import LiveBall, Stream, decode_frames, decode_video
from tercel.engine.windows import Ensemble, Windows, window_hop
from tercel.models.motion import smooth_track, track_of

CPU = Runtime(torch.device("cpu"), False, ())
SIZE = (8, 12)  # of pictures and canvas: the letterbox changes nothing
CELLS = 5


def recipe(clip: Clip, hop: int = 0, batch: int = 3, size: tuple[int, int] = SIZE) -> Recipe:
    model = Model(clip=clip, head=BallHeatmap())
    evaluate = Evaluate(batch=batch, ball=Ball(hop=hop, candidates=2))
    return Recipe(name="fake", task="ball", data=Data(size=size), model=model, evaluate=evaluate)


def picture(number: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.full((*size, 3), number, np.uint8)


class FakeHead:
    """Answers that depend on the frame, on its place in the window and on the window; two candidates per frame."""

    def __init__(self, clip: Clip, events: bool = True) -> None:
        self.clip, self.with_events = clip, events

    def maps(self, raw: Tensor) -> Tensor:
        """raw [B,T] frame contents -> [B,A,3,cells]."""
        at = torch.tensor(self.clip.answered)
        own = raw[:, at][..., None] + 1
        p = torch.frac(
            own * torch.arange(1, CELLS + 1) * 0.377 + raw.sum(1)[:, None, None] * 0.113 + at[:, None] * 0.21
        )
        place = torch.arange(CELLS) + 0.5 + 0 * p
        return torch.stack([p, p * place, p * (place + own * 0.01)], 2)

    def events(self, raw: Tensor) -> Tensor | None:
        return self.maps(raw)[:, :, 0, :2] * 0.5 if self.with_events else None

    def candidates(self, maps: Tensor, size: tuple[int, int], settings: Evaluate) -> tuple[Tensor, Tensor]:
        score, cell = maps[:, 0].topk(settings.ball.candidates)
        places = torch.gather(maps[:, 1:], 2, cell[:, None].expand(-1, 2, -1)) / score[:, None]
        return places.transpose(1, 2), score


class FakeModel(torch.nn.Module):
    """Sees one number per frame: the red value of its first pixel."""

    def __init__(self, clip: Clip, events: bool = True) -> None:
        super().__init__()
        self.head = FakeHead(clip, events)
        self.seen: list[Tensor] = []
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert images.dtype == torch.uint8
        assert images.shape[2] == 3
        self.sizes.append(len(images))
        self.seen += list(images[:, :, 0, 0, 0])
        return images[:, : self.head.clip.frames, 0, 0, 0].float()


# -- the definition, read slowly ----------------------------------------------------------------------------------


def starts_by_hand(n: int, clip: Clip, hop: int) -> list[int]:
    t, s = clip.frames, clip.stride
    if clip.answers != "all":
        at = t - 1 if clip.answers == "last" else t // 2
        return [f - at * s for f in range(n)]
    starts = []
    for r in range(min(s, n)):
        count = len(range(r, n, s))  # frames s apart
        own = list(range(0, count - t + 1, hop or t))
        if not own or own[-1] + t < count:
            own.append(max(0, count - t))
        starts += [r + s * k for k in own]
    return sorted(starts)


def by_hand(n: int, clip: Clip, hop: int, first: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Means per frame over the windows that count, from the definition."""
    head, answers = FakeHead(clip), clip.answered
    step = (hop or len(answers)) * clip.stride
    known: dict[int, list[tuple[Tensor, Tensor]]] = {}
    last: dict[int, int] = {}
    for start in starts_by_hand(n, clip, hop):
        frames = [start + k * clip.stride for k in range(clip.frames)]
        raw = torch.tensor([[float(first + min(max(f, 0), n - 1)) for f in frames]])
        maps, events = head.maps(raw)[0], head.events(raw)
        assert events is not None
        strand = start % clip.stride
        shifted = strand in last and start - last[strand] < step
        last[strand] = start
        done = set(known)
        for i, k in enumerate(answers):
            if frames[k] < n and not (shifted and frames[k] in done):
                known.setdefault(frames[k], []).append((maps[i], events[0, i]))
    out = {}
    for frame, parts in known.items():
        m, e = parts[0]
        for more, also in parts[1:]:
            m, e = m + more, e + also
        out[first + frame] = (m / len(parts), e / len(parts)) if len(parts) > 1 else (m, e)
    return out


CASES = [
    (Clip(frames=t, answers=answers), hop, n)
    for t in (1, 3, 5, 8)
    for answers in ("all", "last", "middle")
    for hop in range(0, (t if answers == "all" else 1) + 1)
    for n in sorted({1, t - 1, t, t + 1, 2 * t + 3} - {0})
]
STRIDED = [
    (Clip(frames=t, stride=s, answers=answers), hop, n)
    for t, s in ((1, 2), (3, 2), (3, 3), (4, 5))
    for answers in ("all", "last", "middle")
    for hop in (0, 1)
    for n in (1, s, t * s - 1, t * s + 1, 2 * t * s + 2)
]


@pytest.mark.parametrize("cases", [CASES, STRIDED], ids=["stride1", "strided"])
def test_windows_are_those_of_the_data_set(cases: list[tuple[Clip, int, int]]) -> None:
    """`covering_windows` cuts records in advance; here frames come one by one."""
    for clip, hop, n in cases:
        windows = Windows(clip, hop, first=7)
        made = [w for i in range(n) for w in windows.push(picture(7 + i))] + windows.finish()
        rally = Record("r", tuple(Frame(Path(str(7 + i))) for i in range(n)), SIZE, Objects.empty(SIZE), first=7)
        cut = clips.covering_windows(Dataset(Schema(("ball",)), (rally,)), clip, hop).records
        assert len(made) == len(cut), (clip, hop, n)
        for ours, theirs in zip(sorted(made, key=lambda w: _start(w.numbers, clip)), cut, strict=True):
            assert [int(p[0, 0, 0]) for p in ours.pictures] == [int(str(f.path)) for f in theirs.frames], (clip, hop, n)
            numbers = clips.window_frames(theirs, rally, clip)[list(clip.answered)]
            assert ours.numbers.tolist() == numbers.tolist(), (clip, hop, n)


def _start(numbers: NDArray[np.int64], clip: Clip) -> int:
    return int(numbers[0]) - clip.answered[0] * clip.stride


@pytest.mark.parametrize("cases", [CASES, STRIDED], ids=["stride1", "strided"])
def test_live_and_file_give_identical_numbers(cases: list[tuple[Clip, int, int]]) -> None:
    for clip, hop, n in cases:
        r, model, first = recipe(clip, hop), FakeModel(clip), 20
        stream = Stream(model, r, CPU, SIZE, first=first)  # type: ignore[arg-type]
        live = []
        for i in range(n):
            live += stream.push(stream.canvas(picture(first + i)))
        live += stream.finish()
        pictures = (picture(first + i) for i in range(n))
        whole = decode_frames(FakeModel(clip), r, pictures, SIZE, CPU, first=first)  # type: ignore[arg-type]
        assert [f.frame for f in live] == list(range(first, first + n)), (clip, hop, n)
        assert np.array_equal(whole.candidates.frame, [f.frame for f in live])
        assert np.array_equal(whole.candidates.xy, np.stack([f.xy for f in live]), equal_nan=True)
        assert np.array_equal(whole.candidates.score, np.stack([f.score for f in live]))
        assert whole.events is not None
        assert np.array_equal(whole.events, np.stack([f.events for f in live]))
        hand = by_hand(n, clip, hop, first)
        maps = torch.stack([hand[f.frame][0] for f in live])
        xy, score = FakeHead(clip).candidates(maps, SIZE, r.evaluate)
        assert np.array_equal(whole.candidates.score, score.numpy()), (clip, hop, n)
        assert np.allclose(whole.candidates.xy, xy.numpy(), atol=1e-5), (clip, hop, n)
        assert np.array_equal(whole.events, torch.stack([hand[f.frame][1] for f in live]).numpy())
        assert max(model.sizes) == 1


@pytest.mark.parametrize(
    ("answers", "hop", "delay"), [("last", 0, 0), ("middle", 0, 2), ("all", 1, 4), ("all", 2, 4), ("all", 0, 4)]
)
def test_frames_wait_no_longer_than_they_must(answers: Any, hop: int, delay: int) -> None:
    clip = Clip(frames=5, answers=answers)
    live = LiveBall(FakeModel(clip), recipe(clip, hop), CPU, SIZE)  # type: ignore[arg-type]
    waits = [i - found.frame for i in range(40) for found, _ in live.push(picture(i))]
    assert max(waits) == delay


def test_memory_does_not_grow() -> None:
    clip = Clip(frames=5)
    stream = Stream(FakeModel(clip), recipe(clip, 2, batch=4), CPU, SIZE, batch=4)  # type: ignore[arg-type]
    for i in range(200):
        stream.push(stream.canvas(picture(i)))
        assert len(stream.windows._frames) <= 5
        assert len(stream.ensemble._sums) <= 4 * 2 + 5
        assert len(stream._waiting) < 4


def test_live_rows_are_the_forward_pass_over_the_same_candidates() -> None:
    clip = Clip(frames=3)
    r = recipe(clip, 1)
    live = LiveBall(FakeModel(clip), r, CPU, SIZE)  # type: ignore[arg-type]
    rows = [row for i in range(30) for row in live.push(picture(i))] + live.finish()
    whole = decode_frames(FakeModel(clip), r, map(picture, range(30)), SIZE, CPU)  # type: ignore[arg-type]
    track = smooth_track(whole.candidates, r.evaluate.ball, both_ways=False)
    again = track_of([row for _, row in rows], SIZE)
    assert np.array_equal(track.visibility, again.visibility)
    assert np.array_equal(track.xy, again.xy, equal_nan=True)


@pytest.mark.parametrize(
    ("clip", "hop", "message"),
    [
        (Clip(frames=3), 4, "answers for 3"),
        (Clip(frames=3, answers="last"), 2, "answers for 1"),
        (Clip(frames=3, stride=2), 2, "stride=2"),
    ],
)
def test_hops_that_leave_frames_out_are_refused(clip: Clip, hop: int, message: str) -> None:
    for make in (window_hop, Windows, Ensemble):
        with pytest.raises(TercelError, match=message):
            make(clip, hop)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 40), st.integers(0, 10**6))
def test_ensemble_is_a_mean_and_lets_go_in_order(t: int, hop: int, n: int, seed: int) -> None:
    clip, hop = Clip(frames=t), min(t, hop)
    windows, ensemble = Windows(clip, hop), Ensemble(clip, hop)
    generator = torch.Generator().manual_seed(seed)
    value = torch.rand(n, 3, 2, generator=generator, dtype=torch.float64)
    out = []
    for w in [w for i in range(n) for w in windows.push(picture(i))] + windows.finish():
        maps = value[np.maximum(w.numbers, 0)]  # every window says the same of a frame: so does the mean
        out += ensemble.add(w.numbers, maps, None, w.later)
    out += ensemble.finish()
    assert [a.frame for a in out] == list(range(n))
    assert torch.allclose(torch.stack([a.maps for a in out]), value)


def test_an_answer_that_comes_too_late_is_noticed() -> None:
    ensemble = Ensemble(Clip(frames=2), 1)
    maps = torch.zeros(2, 3, 1)
    assert [a.frame for a in ensemble.add(np.array([0, 1]), maps, None, later=1)] == [0]
    with pytest.raises(ValueError, match="in the order of their starts"):
        ensemble.add(np.array([0, 1]), maps, None, later=1)
    assert [a.frame for a in ensemble.add(np.array([1, 2]), maps, None, later=5)] == [1, 2]
    with pytest.raises(ValueError, match="frame 2 was let go"):
        ensemble.add(np.array([2, 3]), maps, None, later=6)


# -- pictures, places, background ---------------------------------------------------------------------------------


class PlaceHead(FakeHead):
    """One candidate per frame at a fixed place of the canvas, another in the letterbox border."""

    def candidates(self, maps: Tensor, size: tuple[int, int], settings: Evaluate) -> tuple[Tensor, Tensor]:
        xy = torch.tensor([[30.0, 20.0], [30.0, 1.0]]).repeat(len(maps), 1, 1)
        return xy, torch.full((len(maps), 2), 0.7)


def test_places_are_of_the_original_picture_and_the_border_holds_no_ball() -> None:
    clip = Clip(frames=1)
    model = FakeModel(clip, events=False)
    model.head = PlaceHead(clip, events=False)
    size = (100, 200)
    pictures = [picture(i, size) for i in range(3)]
    r = recipe(clip, size=(40, 60))  # scale .3: 30 rows of picture between two borders of 5
    decoded = decode_frames(model, r, pictures, size, CPU)  # type: ignore[arg-type]
    warp = Warp.letterbox(size, (40, 60))
    c = decoded.candidates
    assert np.allclose(warp.points(c.xy[:, 0]), [30, 20])
    assert np.allclose(c.xy[:, 0], [100, 50])
    assert np.allclose(c.score[:, 0], 0.7)
    assert np.isnan(c.xy[:, 1]).all()
    assert (c.score[:, 1] == 0).all()
    assert decoded.events is None
    assert [(f.check, f.count) for f in decoded.findings] == [("stream.border", 3)]


def test_a_frame_of_another_size_is_refused() -> None:
    clip = Clip(frames=1)
    with pytest.raises(TercelError, match=r"\[9, 12, 3\]"):
        decode_frames(FakeModel(clip), recipe(clip), [picture(0), picture(1, (9, 12))], SIZE, CPU)  # type: ignore[arg-type]
    with pytest.raises(TercelError, match="no frame"):
        decode_frames(FakeModel(clip), recipe(clip), [], SIZE, CPU)  # type: ignore[arg-type]


def test_the_background_is_one_frame_more() -> None:
    clip = Clip(frames=3, background=True)
    model = FakeModel(clip)
    frames = [picture(i) for i in range(6)]
    decode_frames(model, recipe(clip), frames, SIZE, CPU, background=picture(99))  # type: ignore[arg-type]
    assert [row.tolist() for row in model.seen] == [[0, 1, 2, 99], [3, 4, 5, 99]]
    model = FakeModel(clip)
    decode_frames(model, recipe(clip), frames, SIZE, CPU)  # type: ignore[arg-type]
    assert [row.tolist() for row in model.seen] == [[0, 1, 2, 1], [3, 4, 5, 2]]  # medians of 0..2 and of 0..5


def test_a_model_in_training_stays_in_training() -> None:
    clip = Clip(frames=2)
    model = FakeModel(clip).train()
    decode_frames(model, recipe(clip), map(picture, range(5)), SIZE, CPU)  # type: ignore[arg-type]
    assert model.training


# -- the reading thread ---------------------------------------------------------------------------------------------


def test_an_error_while_reading_arrives_and_the_thread_ends() -> None:
    clip = Clip(frames=1)

    def broken() -> Iterator[NDArray[np.uint8]]:
        yield picture(0)
        raise TercelError("frame 1 cannot be decoded", "replace the file")

    with pytest.raises(TercelError, match="frame 1"):
        decode_frames(FakeModel(clip), recipe(clip), broken(), SIZE, CPU)  # type: ignore[arg-type]
    assert not _readers()


def test_an_error_of_the_network_stops_reading() -> None:
    clip = Clip(frames=1)
    model = FakeModel(clip)
    model.forward = lambda images: 1 / 0  # type: ignore[method-assign, assignment]
    taken = itertools.count()

    def endless() -> Iterator[NDArray[np.uint8]]:
        while True:
            next(taken)
            yield picture(0)

    with pytest.raises(ZeroDivisionError):
        decode_frames(model, recipe(clip), endless(), SIZE, CPU)  # type: ignore[arg-type]
    assert not _readers()
    assert next(taken) < 100


def _readers() -> list[threading.Thread]:
    end = time.monotonic() + 5
    while (alive := [t for t in threading.enumerate() if t.name == "tercel-frames"]) and time.monotonic() < end:
        time.sleep(0.01)
    return alive


def test_a_video_file(tmp_path: Path) -> None:
    clip, size = Clip(frames=3, background=True), (32, 48)
    path = write_video(tmp_path / "a.mp4", (picture(10 * i, size) for i in range(20)), 30)
    model = FakeModel(clip)
    done = []
    r = replace(recipe(clip, 1), data=Data(size=size))
    decoded = decode_video(model, r, path, CPU, lambda *p: done.append(p))  # type: ignore[arg-type]
    assert decoded.candidates.frame.tolist() == list(range(20))
    assert decoded.candidates.size == size
    assert done[-1] == (20, 20)
    assert torch.stack(model.seen)[:, 0].float().sub(torch.arange(18) * 10.0).abs().max() < 6  # lossy, but in order
    assert {int(row[3]) for row in model.seen} <= {int(row[3]) for row in model.seen[:1]}  # one background for all
