"""Video: the index against independent decoding, and everything that containers do to frames."""

from __future__ import annotations

import shutil
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from tercel.core.finding import Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Frame, Record
from tercel.data import cache, video, video_index
from tercel.data.cache import PictureStore
from tercel.data.loader import load_plain
from tercel.data.video import Video, read_frame, write_video

H, W, N = 48, 64, 60
# x264 gives the same bits twice with one thread and without its macroblock tree only (tercel/data/rallies.py).
B_FRAMES = {"bf": "3", "g": "12", "sc_threshold": "0", "threads": "1", "x264-params": "mbtree=0"}


def picture(i: int) -> np.ndarray:
    """Frame i: a fixed ground, unlike itself when turned or mirrored, and a block whose place says i."""
    out = np.zeros((H, W, 3), np.uint8)
    out[..., 0], out[..., 1] = np.arange(W) * 2, np.arange(H)[:, None] * 3
    out[8:16, i % 56 : i % 56 + 8], out[24:32, 4 * (i // 8) : 4 * (i // 8) + 4] = 255, 255
    return out


def independent(path: Path) -> list[np.ndarray]:
    """All frames as PyAV gives them one after another: no index, no seeking, no threads of ours."""
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames, keyframes every 12, B-frames between."""
    path = tmp_path_factory.mktemp("clip") / "b.mp4"
    return write_video(path, map(picture, range(N)), 30, options=B_FRAMES)


@pytest.fixture(scope="module")
def expected(clip: Path) -> list[np.ndarray]:
    return independent(clip)


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def remux(source: Path, target: Path, change: Callable[[av.Packet], bool], **options: str) -> Path:
    """The packets of `source` for which `change` says yes, after it had its way with them."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None and change(packet):
                packet.stream = stream
                new.mux(packet)
    return target


# -- frames -------------------------------------------------------------------------------------------------------


def test_frames_with_b_frames_equal_an_independent_decoding(clip: Path, expected: list[np.ndarray]) -> None:
    with av.open(str(clip)) as container:
        assert any(f.pict_type == av.video.frame.PictureType.B for f in container.decode(video=0))
    v = Video(clip)
    assert (len(v), v.count, v.size, v.claimed, v.findings()) == (N, N, (H, W), N, ())
    assert v.fps == pytest.approx(30)
    np.testing.assert_allclose(v.seconds, np.arange(N) / 30, atol=1e-6)
    assert same(list(v.frames()), expected)
    assert max(np.abs(a.astype(int) - picture(i)).mean() for i, a in enumerate(expected)) < 8
    assert all(a.dtype == np.uint8 and a.flags.c_contiguous for a in v.frames(0, 2))


def test_any_frame_in_any_order(clip: Path, expected: list[np.ndarray]) -> None:
    v = Video(clip)
    order = [0, 59, 11, 12, 13, 12, *np.random.default_rng(0).permutation(N).tolist()]
    assert all(np.array_equal(v.frame(i), expected[i]) for i in order)
    assert all(np.array_equal(read_frame(Frame(clip, i)), expected[i]) for i in (0, 23, 24, 59))


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (11, 14), (17, 31), (59, 60), (5, 5)])
def test_stretches(clip: Path, expected: list[np.ndarray], start: int, stop: int) -> None:
    assert same(list(Video(clip).frames(start, stop)), expected[start:stop])


def test_frames_equal_those_of_the_ffmpeg_command(clip: Path, expected: list[np.ndarray], tmp_path: Path) -> None:
    """By hash, also turned. Where there is no ffmpeg, PyAV's plain decoding stands for it."""
    for path in (clip, turned(clip, tmp_path / "t.mp4", TURNS["90 left"][0])):
        mine = [np.ascontiguousarray(f).tobytes() for f in Video(path).frames()]
        if shutil.which("ffmpeg"):
            command = ["ffmpeg", "-v", "error", "-i", str(path), "-fps_mode", "passthrough", "-pix_fmt", "rgb24"]
            raw = subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, check=True).stdout
            theirs = [raw[i : i + H * W * 3] for i in range(0, len(raw), H * W * 3)]
        else:
            theirs = [np.ascontiguousarray(np.rot90(f, 1 if path != clip else 0)).tobytes() for f in expected]
        assert [hash(f) for f in mine] == [hash(f) for f in theirs]


def test_the_caller_may_leave_early(clip: Path) -> None:
    frames: Iterator[np.ndarray] = Video(clip).frames()
    next(frames)
    frames.close()  # type: ignore[attr-defined]


def test_frames_that_are_not_there(clip: Path) -> None:
    v = Video(clip)
    for i in (-1, N, N + 100):
        with pytest.raises(TercelError, match=rf"b\.mp4: there is no frame {i}, the video has frames 0..59"):
            v.frame(i)
    with pytest.raises(TercelError, match="there is no frame 60"):
        next(v.frames(50, 61))


# -- what containers do -------------------------------------------------------------------------------------------

TURNS: dict[str, tuple[list[int], Callable[[np.ndarray], np.ndarray]]] = {
    "90 right": ([0, 1, -1, 0], lambda a: np.rot90(a, 3)),
    "180": ([-1, 0, 0, -1], lambda a: np.rot90(a, 2)),
    "90 left": ([0, -1, 1, 0], lambda a: np.rot90(a, 1)),
    "mirrored": ([-1, 0, 0, 1], lambda a: a[:, ::-1]),
}


def turned(source: Path, target: Path, matrix: list[int]) -> Path:
    """A copy with a display matrix in its track header (ISO 14496-12, 8.3.2: 40 bytes behind the box's name)."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (v * 65536 for v in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("turn", list(TURNS))
def test_the_rotation_flag_is_applied(clip: Path, expected: list[np.ndarray], tmp_path: Path, turn: str) -> None:
    matrix, upright = TURNS[turn]
    v = Video(turned(clip, tmp_path / "t.mp4", matrix))
    assert v.size == upright(expected[0]).shape[:2]
    assert same(list(v.frames()), [upright(a) for a in expected])
    assert np.array_equal(v.frame(31), upright(expected[31]))


def test_variable_frame_rate(clip: Path, expected: list[np.ndarray], tmp_path: Path) -> None:
    """Every packet is shown later by the square of its time: no two distances are equal."""

    def slow(p: av.Packet) -> bool:
        p.pts, p.dts = p.pts + p.pts**2 // 4000, p.dts + max(p.dts, 0) ** 2 // 4000
        return True

    v = Video(remux(clip, tmp_path / "vfr.mkv", slow))
    assert len(v) == N
    assert len(set(np.diff(v.seconds).round(4))) > 10
    assert v.fps == pytest.approx((N - 1) / v.seconds[-1])
    for i in (0, 40, 12, 11, 59, 3):
        assert np.array_equal(v.frame(i), expected[i])
    assert same(list(v.frames(7, 25)), expected[7:25])


def test_an_edit_list_hides_the_first_frames(clip: Path, expected: list[np.ndarray], tmp_path: Path) -> None:
    """The cut lies behind a keyframe: the decoder needs frames that are not shown."""

    def earlier(p: av.Packet) -> bool:
        step = p.duration or 512
        p.pts, p.dts = p.pts - 17 * step, p.dts - 17 * step
        return True

    v = Video(remux(clip, tmp_path / "edit.mp4", earlier, avoid_negative_ts="disabled"))
    assert same(list(v.frames()), expected[17:])
    assert all(np.array_equal(v.frame(i), expected[17 + i]) for i in (20, 0, 42, 5))


@pytest.mark.parametrize("suffix", ["avi", "mkv", "ts", "mov", "h264"])
def test_other_containers(clip: Path, expected: list[np.ndarray], tmp_path: Path, suffix: str) -> None:
    """AVI and raw H.264 have no usable time stamps: counted and read from the start."""
    v = Video(write_video(tmp_path / f"c.{suffix}", map(picture, range(N)), 30, options=B_FRAMES))
    assert len(v) == N
    assert v.index.linear == (suffix in {"avi", "h264"})
    assert same(list(v.frames()), expected)
    assert all(np.array_equal(v.frame(i), expected[i]) for i in (50, 3, 11, 12, 59, 0))


def test_a_stream_that_begins_between_keyframes(clip: Path, expected: list[np.ndarray], tmp_path: Path) -> None:
    first = iter(range(N))
    v = Video(remux(clip, tmp_path / "cut.ts", lambda p: next(first) >= 5))
    assert same(list(v.frames()), expected[12:])  # nothing before the next keyframe can be decoded
    assert np.array_equal(v.frame(1), expected[13])


# -- broken files -------------------------------------------------------------------------------------------------


def cut(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def test_a_video_that_ends_early(clip: Path, expected: list[np.ndarray], tmp_path: Path) -> None:
    whole = remux(clip, tmp_path / "whole.mp4", lambda p: True, movflags="faststart")
    v = Video(cut(whole, tmp_path / "cut.mp4", 0.8))
    assert 10 < len(v) < N == v.claimed
    (finding,) = v.findings()
    assert (finding.check, finding.severity, finding.count) == ("video.count", Severity.WARNING, N - len(v))
    assert f"{len(v)} frames can be decoded, the container declares 60" in finding.message
    frames = list(v.frames())
    assert same(frames[:-4], expected[: len(v) - 4])  # the last ones may lack what was cut away
    assert np.array_equal(v.frame(len(v) - 1), frames[-1])
    with pytest.raises(TercelError, match=rf"cut\.mp4: there is no frame {len(v)}"):
        v.frame(len(v))


def test_a_frame_that_cannot_be_decoded_is_named(clip: Path, expected: list[np.ndarray], tmp_path: Path) -> None:
    with av.open(str(clip)) as container:
        packets = [p for p in container.demux(video=0) if p.dts is not None]
        shown = sorted(p.pts for p in packets)
        bad = packets[30]
        number, at, size = shown.index(bad.pts), bad.pos, bad.size
    data = bytearray(clip.read_bytes())
    data[at : at + size] = b"\xff" * size
    (tmp_path / "bad.mp4").write_bytes(data)
    v = Video(tmp_path / "bad.mp4")
    assert np.array_equal(v.frame(5), expected[5])
    with pytest.raises(TercelError, match=rf"bad\.mp4: frame \d+ of {len(v)} cannot be decoded") as e:
        list(v.frames())
    assert "ffmpeg -i" in e.value.remedy
    named = int(e.value.message.split("frame ")[1].split()[0])
    assert 24 <= named <= number < 36  # within its stretch between keyframes


@pytest.mark.parametrize(("content", "message"), [(b"", r"empty \(0 bytes\)"), (b"text" * 99, "not a readable video")])
def test_not_a_video(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(TercelError, match=rf"x\.mp4: .*{message}"):
        Video(tmp_path / "x.mp4")


def test_no_file_a_folder_sound_only(tmp_path: Path) -> None:
    with pytest.raises(TercelError, match="does not exist"):
        Video(tmp_path / "x.mp4")
    with pytest.raises(TercelError, match="is a directory"):
        Video(tmp_path)
    with av.open(str(tmp_path / "s.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(TercelError, match="there is no video in this file"):
        Video(tmp_path / "s.wav")


# -- writing ------------------------------------------------------------------------------------------------------


def test_odd_sizes_get_a_copy_of_the_last_row_and_column(tmp_path: Path) -> None:
    v = Video(write_video(tmp_path / "odd.mp4", (picture(0)[:47, :63] for _ in range(3)), 23.976))
    assert v.size == (48, 64)
    assert v.fps == pytest.approx(23.976, rel=1e-3)
    assert np.abs(v.frame(0)[:46, :62].astype(int) - picture(0)[:46, :62]).mean() < 8


def test_nothing_is_overwritten_and_nothing_half_written(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(TercelError, match="exists already"):
        write_video(clip, [picture(0)], 30)

    def breaks() -> Iterator[np.ndarray]:
        yield picture(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mp4", breaks(), 30)
    with pytest.raises(TercelError, match="no frames"):
        write_video(tmp_path / "a.mp4", [], 30)
    with pytest.raises(TercelError, match="frame 1 is 60x48, the first one 64x48"):
        write_video(tmp_path / "a.mp4", [picture(0), picture(1)[:, :60]], 30)
    with pytest.raises(TercelError, match="frames per second"):
        write_video(tmp_path / "a.mp4", [picture(0)], 0)
    assert list(tmp_path.iterdir()) == []


# -- the store of decoded pictures --------------------------------------------------------------------------------


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the frames that come out of the decoder as pixels."""
    seen: list[int] = []
    convert = video._Converter.__call__

    def counted(self: video._Converter, frame: av.VideoFrame, i: int) -> np.ndarray:
        seen.append(i)
        return convert(self, frame, i)

    monkeypatch.setattr(video._Converter, "__call__", counted)
    monkeypatch.setattr(cache, "DISK_RESERVE_GB", 1e-6)
    monkeypatch.setattr(cache, "available_memory", lambda: 1e9)
    return seen


def store(clip: Path, ram_gb: float, folder: Path, **more: float) -> PictureStore:
    frames = [Frame(clip, i) for i in range(N)]
    return PictureStore(frames, ram_gb, folder, sizes=dict.fromkeys(frames, (H, W)), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["ram", "disk", "none"])
def test_the_store_gives_the_same_frames_in_every_mode(
    clip: Path, expected: list[np.ndarray], tmp_path: Path, mode: str, converted: list[int]
) -> None:
    folder = tmp_path / "cache"
    if mode == "none":
        folder.write_text("not a folder")
    s = store(clip, 1.0 if mode == "ram" else 0.0, folder)
    assert s.mode == mode
    assert s.total_bytes == N * H * W * 3
    order = np.random.default_rng(1).permutation(N).tolist()
    for i in order * 2:
        picture_ = s.get(Frame(clip, i))
        assert np.array_equal(picture_, expected[i])
        assert not picture_.flags.writeable
    if mode != "none":
        assert sorted(converted) == list(range(N))  # each frame once, whatever the order
    if mode == "disk":
        assert len(list(folder.glob("*.npy"))) == N
        converted.clear()
        assert np.array_equal(store(clip, 0.0, folder).get(Frame(clip, 7)), expected[7])
        assert not converted


def test_random_frames_decode_each_stretch_once(
    clip: Path, tmp_path: Path, converted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = [0]
    raw = video_index._raw

    def counted(*args: object) -> Iterator[av.VideoFrame]:
        for f in raw(*args):  # type: ignore[arg-type]
            decoded[0] += 1
            yield f

    Video(clip)
    monkeypatch.setattr(video_index, "_raw", counted)
    s = store(clip, 1.0, tmp_path)
    for i in np.random.default_rng(2).permutation(N).tolist():
        s.get(Frame(clip, i))
    assert decoded[0] <= 2 * N  # frame by frame it would be ten times as many


def test_a_full_disk_still_gives_frames(
    clip: Path, expected: list[np.ndarray], tmp_path: Path, converted: list[int]
) -> None:
    s = store(clip, 0.0, tmp_path / "cache", disk_gb=10 * (H * W * 3 + 200) / 1e9)
    for i in range(N):
        assert np.array_equal(s.get(Frame(clip, i)), expected[i])
    assert "cache.full" in {f.check for f in s.findings()}
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 10


@pytest.mark.parametrize("ram", [1.0, 0.0])
def test_threads_get_the_right_frames(
    clip: Path, expected: list[np.ndarray], tmp_path: Path, ram: float, converted: list[int]
) -> None:
    s = store(clip, ram, tmp_path)
    gate = threading.Barrier(6)

    def work(seed: int) -> bool:
        gate.wait(timeout=10)
        order = np.random.default_rng(seed).permutation(N).tolist()
        return all(np.array_equal(s.get(Frame(clip, i)), expected[i]) for i in order)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def test_an_exchanged_video_is_noticed(clip: Path, tmp_path: Path, converted: list[int]) -> None:
    path = write_video(tmp_path / "a.mp4", (picture(i) for i in range(N)), 30, options=B_FRAMES)
    s = store(path, 0.0, tmp_path / "cache")
    before = s.get(Frame(path, 3)).copy()
    path.unlink()
    write_video(path, (picture(N - i) for i in range(N)), 25)
    assert not np.array_equal(s.get(Frame(path, 3)), before)
    assert np.array_equal(s.get(Frame(path, 3)), independent(path)[3])


def test_the_network_sees_the_frames_of_a_video(clip: Path, expected: list[np.ndarray]) -> None:
    frames = (Frame(clip, 20), Frame(clip, 21))
    images, warp = load_plain(Record("r", frames, (H, W), Objects.empty((H, W))), (H, W))
    assert np.array_equal(images, np.stack(expected[20:22]).transpose(0, 3, 1, 2))
    assert np.allclose(warp.points(np.array([[3.0, 5.0]])), [[3.0, 5.0]])
    with pytest.raises(TercelError, match=r"@20 is 48 x 64 px .* label says 48 x 63"):
        load_plain(Record("r", frames, (48, 63), Objects.empty((48, 63))), (H, W))


# -- real videos --------------------------------------------------------------------------------------------------


def test_real_videos(shared: Path) -> None:
    folder = shared / "data/tennis-tracking-videos/VideoInput"
    counts = {n: len(Video(folder / f"video_input{n}.mp4")) for n in (3, 4, 6, 8)}
    assert counts == {3: 93, 4: 125, 6: 107, 8: 168}
    v = Video(folder / "video_input3.mp4")
    assert (v.size, v.findings()) == ((1080, 1920), ())
    assert v.fps == pytest.approx(30)
    wanted = {0: None, 1: None, 47: None, 92: None}
    with av.open(str(v.path)) as container:
        for i, f in enumerate(container.decode(video=0)):
            if i in wanted:
                wanted[i] = f.to_ndarray(format="rgb24")
    for i in (47, 92, 0, 1):
        assert np.array_equal(v.frame(i), wanted[i])
