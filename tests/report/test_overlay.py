"""The overlay: ink where the ball is, scaled with the frame, and a file that browsers play, in constant memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tercel.core.finding import TercelError
from tercel.core.record import Event
from tercel.core.track import Track
from tercel.report import overlay
from tercel.report.overlay import EVENT_FRAMES, FILLED, FOUND, Overlay, ring, write_overlay

SMALL, LARGE = (288, 512), (1080, 1920)


def track(
    xy: list[tuple[float, float] | None], size: tuple[int, int] = SMALL, first: int = 0, filled: tuple[int, ...] = ()
) -> Track:
    n = len(xy)
    places = np.array([(np.nan, np.nan) if p is None else p for p in xy])
    present = np.isfinite(places).all(axis=1)
    mask = np.isin(np.arange(n), filled)
    score, sigma = np.where(present, 0.75, 0.0), np.where(mask, 30.0, np.nan)
    return Track(size, np.arange(first, first + n), present, places, score, mask, sigma, "rally")


def black(size: tuple[int, int] = SMALL) -> np.ndarray:
    return np.zeros((*size, 3), np.uint8)


def ink(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """bool [H,W]: pixels near a colour, below the line of text at the top."""
    near = (np.abs(image.astype(int) - color) < 40).all(axis=2)
    near[: image.shape[0] // 8] = False
    return near


def centre(mask: np.ndarray) -> np.ndarray:
    """Centroid (x, y) in continuous coordinates."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()]) + 0.5


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("where", [(200.5, 190.5), (233.25, 205.75)])
def test_the_ring_lies_around_the_ball_and_leaves_its_pixels_free(
    size: tuple[int, int], where: tuple[float, float]
) -> None:
    drawn = Overlay(track([where], size), trail=0).draw(black(size), 0)
    mask = ink(drawn, FOUND)
    assert np.abs(centre(mask) - where).max() < 0.3
    x, y = int(where[0]), int(where[1])
    assert not drawn[y - 2 : y + 3, x - 2 : x + 3].any()


def test_planted_half_a_pixel_off_would_be_noticed() -> None:
    canvas = black()
    ring(canvas, (200.5 + 0.5, 150.5), 8, FOUND, 1)
    assert np.abs(centre(ink(canvas, FOUND)) - (200.5, 150.5)).max() > 0.3


def test_everything_grows_with_the_frame() -> None:
    extents, letters = [], []
    for size in (SMALL, LARGE):
        drawn = Overlay(track([(250.0, 150.0)], size), trail=0).draw(black(size), 0)
        extents.append(np.ptp(np.nonzero(ink(drawn, FOUND))[1]))
        bright = (drawn[: size[0] // 8] > 200).all(axis=2)
        letters.append(np.ptp(np.nonzero(bright)[0]))
    assert extents[0] >= 12
    assert extents[1] > 1.8 * extents[0]
    assert letters[0] >= 7  # px: the smallest digits that one can read
    assert letters[1] > 1.8 * letters[0]


def test_points_that_were_filled_in_look_different_and_show_their_spread() -> None:
    drawn = Overlay(track([(250.0, 150.0)], filled=(0,)), trail=0).draw(black(), 0)
    assert not ink(drawn, FOUND).any()
    rows, columns = np.nonzero((drawn[36:] > 60).any(axis=2))
    assert ink(drawn, FILLED).any()
    assert np.ptp(columns) == pytest.approx(60, abs=4)  # twice the standard deviation of 30 px
    assert np.ptp(rows) == pytest.approx(60, abs=4)


def test_truth_is_white_and_lies_where_it_is() -> None:
    truth = track([(300.0, 200.0)])
    drawn = Overlay(track([None]), truth=truth, trail=0).draw(black(), 0)
    assert np.abs(centre(ink(drawn, (255, 255, 255))) - (300, 200)).max() < 0.4
    assert not ink(drawn, FOUND).any()


def test_the_trail_fades_and_does_not_cross_frames_without_a_ball() -> None:
    places: list[tuple[float, float] | None] = [(60.0 + 20 * k, 150.0) for k in range(12)]
    drawn = Overlay(track(places), trail=12).draw(black(), 11)
    line = drawn[150].max(axis=1).astype(int)
    old, new = line[100:104].max(), line[240:244].max()
    assert 0 < old < 0.7 * new
    places[6] = None
    gap = Overlay(track(places), trail=12).draw(black(), 11)
    assert not gap[150, 168:194].any()  # between the dots of frames 5 and 7
    assert gap[150, 205:215].any()
    assert not Overlay(track(places), trail=0).draw(black(), 11)[150, 40:262].any()


def test_events_appear_at_the_ball_and_fade_away() -> None:
    places: list[tuple[float, float] | None] = [(250.0, 150.0)] + [None] * 20
    pen = Overlay(track(places), (Event(0, "bounce"),), trail=0)
    seen = [int(pen.draw(black(), k)[100:230, 180:400].sum()) for k in range(EVENT_FRAMES + 2)]
    assert seen[1] > seen[5] > seen[9] > 0
    assert seen[EVENT_FRAMES] == seen[EVENT_FRAMES + 1] == 0


def test_an_event_without_a_ball_is_named_all_the_same() -> None:
    pen = Overlay(track([None] * 5), (Event(2, "net"),))
    assert pen.draw(black(), 2).any(axis=2)[20:].any()


def test_what_is_written_above_the_picture() -> None:
    truth = track([(250.0, 150.0)] * 4)
    pen = Overlay(track([(250.0, 154.0), None, (250.0, 153.0)], filled=(2,)), truth=truth)
    words = [pen._words(k, pen._row(pen.track, k), pen._row(truth, k)) for k in range(4)]
    assert words[0] == "frame 0 · score 0.75 · 4.0 px off"
    assert words[1] == "frame 1 · no ball · missed"
    assert words[2] == "frame 2 · filled in ± 30.0 px · 3.0 px off"
    assert words[3] == "frame 3"  # the track ends before


def test_a_ball_beyond_the_border_or_far_away_does_no_harm() -> None:
    for where in ((-3.0, 150.0), (511.9, 287.9), (1e7, -1e7)):
        drawn = Overlay(track([where, where]), trail=5).draw(black(), 1)
        assert drawn.shape == (*SMALL, 3)


def test_the_frame_itself_stays_as_it_was() -> None:
    frame = black()
    frame.setflags(write=False)
    Overlay(track([(250.0, 150.0)])).draw(frame, 0)
    assert not frame.any()


def test_another_size_than_the_track_is_refused() -> None:
    with pytest.raises(TercelError, match=r"720x1280.*288x512"):
        Overlay(track([(1.0, 1.0)])).draw(black((720, 1280)), 0)


# -- files --------------------------------------------------------------------------------------------------------


class Tape:
    """Frames that are made one by one; knows how many were alive at the same time."""

    def __init__(self, n: int, size: tuple[int, int] = SMALL) -> None:
        self.n, self.size, self.alive, self.most, self.begun = n, size, 0, 0, False

    def __iter__(self) -> Iterator[np.ndarray]:
        self.begun = True
        for k in range(self.n):
            frame = np.full((*self.size, 3), 40 + k, np.uint8)
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(frame, self._gone)
            yield frame
            del frame

    def _gone(self) -> None:
        self.alive -= 1


def properties(path: Path) -> tuple[str, str, int, int, float, int]:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        code = stream.codec_context
        count = sum(1 for _ in container.decode(stream))
        kinds = {s.type for s in container.streams}
        assert kinds == {"video"}
        return code.name, str(code.pix_fmt), stream.width, stream.height, float(stream.average_rate or 0), count


def test_a_video_that_browsers_play_in_constant_memory(tmp_path: Path) -> None:
    tape, calls = Tape(40, (287, 511)), []
    out = tmp_path / "clip_overlay.mp4"
    places: list[tuple[float, float] | None] = [(100.0 + 5 * k, 150.0) for k in range(40)]
    write_overlay(tape, track(places, (287, 511)), out, fps=30, progress=lambda *c: calls.append(c))
    name, pixels, width, height, rate, count = properties(out)
    assert (name, pixels, width, height, rate, count) == ("h264", "yuv420p", 512, 288, 30, 40)
    assert tape.most <= 3
    assert calls[-1] == (40, 0)
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_a_video_file_in_a_video_file_out(tmp_path: Path) -> None:
    from tercel.data.video import Video, write_video

    source = tmp_path / "clip.mp4"
    write_video(source, (np.full((*SMALL, 3), 60, np.uint8) for _ in range(12)), 50.0)
    out, calls = tmp_path / "clip_overlay.mp4", []
    where = (250.5, 150.5)
    write_overlay(source, track([where] * 12), out, trail=0, progress=lambda *c: calls.append(c))
    with Video(out) as video:
        assert len(video) == 12
        assert video.fps == pytest.approx(50)
        frame = video.frame(7)
    near = (np.abs(frame.astype(int) - FOUND) < 90).all(axis=2)
    near[:40] = False
    assert np.abs(centre(near) - where).max() < 1.5  # colours are stored at half the resolution
    assert calls[-1] == (12, 12)


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    out.write_bytes(b"mine")
    tape = Tape(3)
    with pytest.raises(TercelError, match="exists"):
        write_overlay(tape, track([(1.0, 1.0)]), out)
    assert out.read_bytes() == b"mine"
    assert not tape.begun
    with pytest.raises(TercelError, match="100x100"):
        write_overlay([np.zeros((100, 100, 3), np.uint8)], track([(1.0, 1.0)]), tmp_path / "b.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_the_first_frame_given_may_have_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []
    monkeypatch.setattr(overlay.Overlay, "draw", lambda self, frame, number: numbers.append(number) or frame)
    list(Overlay(track([(1.0, 1.0)])).frames(Tape(3), first=200))
    assert numbers == [200, 201, 202]
