"""What is special to each format of balls in video: layouts, splits, frames that do not fit, real sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tercel.config import Clip
from tercel.core.finding import Finding, TercelError
from tercel.core.record import Dataset, Event
from tercel.data import clips, source
from tercel.data.formats import openttgames, sequence, tracknet
from tercel.data.formats.common import Options
from tercel.data.splits import leaks
from tercel.data.video import write_video

H, W = 48, 64


def video(path: Path, frames: int, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, (np.full((H, W, 3), shade + i, np.uint8) for i in range(frames)), 30)


def pictures(folder: Path, names: list[str], size: tuple[int, int] = (H, W)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", size[::-1], (i, len(name), 7)).save(folder / name)


def table(path: Path, numbers: range | list[int], xy: tuple[int, int] = (5, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{n},1,{xy[0]},{xy[1]}" for n in numbers]
    path.write_text("\n".join(["Frame,Visibility,X,Y", *rows]) + "\n")
    return path


def found(d: Dataset) -> dict[str, Finding]:
    return {f.check: f for f in d.findings}


# -- tracknet -----------------------------------------------------------------------------------------------------


def test_videos_and_folders_of_frames(tmp_path: Path) -> None:
    video(tmp_path / "match1/video/1_01.mp4", 6)
    table(tmp_path / "match1/csv/1_01_ball.csv", range(6))
    pictures(tmp_path / "match2/frame/2_01", [f"{i}.png" for i in (10, 9, 8, 11)])
    table(tmp_path / "match2/ball_trajectory/2_01_ball.csv", range(8, 12))
    d = source.read(str(tmp_path))
    assert [(r.id, r.group, r.first, len(r.frames), r.size) for r in d.records] == [
        ("match1/1_01", "match1", 0, 6, (H, W)),
        ("match2/2_01", "match2", 8, 4, (H, W)),
    ]
    assert [f.index for f in d.records[0].frames] == list(range(6))
    assert [f.path.name for f in d.records[1].frames] == ["8.png", "9.png", "10.png", "11.png"]
    assert d.records[0].objects.points[:, 0].tolist() == [[5.5, 40.5]] * 6  # type: ignore[index]
    assert d.schema.classes == ("ball",)
    assert not d.findings
    assert source.splits(str(tmp_path)) == ["match1", "match2"]
    assert [r.id for r in source.read(f"{tmp_path}#match2").records] == ["match2/2_01"]
    assert len(source.read(f"{tmp_path}#match1,match2")) == 2
    with pytest.raises(TercelError, match="no split 'match3'"):
        source.read(f"{tmp_path}#match3")


def test_the_video_is_preferred_to_the_frames(tmp_path: Path) -> None:
    video(tmp_path / "match1/video/a.mp4", 2)
    pictures(tmp_path / "match1/frame/a", ["0.png", "1.png"])
    table(tmp_path / "match1/csv/a_ball.csv", range(2))
    assert source.read(str(tmp_path)).records[0].frames[0].index == 0


def test_splits_and_matches_of_the_same_name(tmp_path: Path) -> None:
    """TrackNet's match1 of Test is another match than match1 of Train: no leak, until the footage is the same."""
    for i, part in enumerate(("Train", "Test")):
        video(tmp_path / part / "match1/video/a.mp4", 4, shade=100 * i)
        table(tmp_path / part / "match1/csv/a_ball.csv", range(4))
    assert source.splits(str(tmp_path)) == ["Train", "Test"]
    train, test = source.read(f"{tmp_path}#train"), source.read(f"{tmp_path}#Test")
    assert [r.id for r in (*train.records, *test.records)] == ["match1/a", "match1/a"]
    assert leaks(train, test) == []
    assert [r.id for r in source.read(str(tmp_path)).records] == ["Test/match1/a", "Train/match1/a"]
    assert len(source.read(f"{tmp_path}#Test/match1")) == 1
    (tmp_path / "Test/match1/video/a.mp4").write_bytes((tmp_path / "Train/match1/video/a.mp4").read_bytes())
    assert {f.check for f in leaks(train, source.read(f"{tmp_path}#test"))} == {"split.shared_content"}


def test_csv_longer_and_shorter_than_the_video(tmp_path: Path) -> None:
    video(tmp_path / "m/video/a.mp4", 20)
    file = table(tmp_path / "m/csv/a_ball.csv", range(22))
    d = source.read(str(tmp_path))
    assert len(d.records[0].frames) == 20
    finding = found(d)["labels.longer_than_video"]
    assert (finding.count, finding.evidence) == (2, (f"{file}:22 (20 frames)",))
    table(file, range(2, 15))
    d = source.read(str(tmp_path))
    assert (d.records[0].first, len(d.records[0].frames)) == (2, 13)
    assert found(d)["labels.shorter_than_video"].count == 7
    table(file, range(30))
    with pytest.raises(TercelError, match=r"a_ball\.csv:22: frame 20, but .*a\.mp4 has frames 0\.\.19 \(10 of 30 rows"):
        source.read(str(tmp_path))


def test_labels_one_frame_late(tmp_path: Path) -> None:
    video(tmp_path / "m/video/a.mp4", 6)
    file = table(tmp_path / "m/csv/a_ball.csv", range(1, 7))
    with pytest.raises(TercelError, match=r"a_ball\.csv:2: rows are numbered 1\.\.6, the frames .* 0\.\.5") as e:
        source.read(str(tmp_path))
    assert e.value.remedy == "take 1 off all frame numbers"
    (tmp_path / "m/video/a.mp4").unlink()
    pictures(tmp_path / "m/frame/a", [f"{i}.png" for i in range(6)])
    with pytest.raises(TercelError, match=r"csv:2: rows are numbered from 1, the pictures in .*frame/a from 0"):
        source.read(str(tmp_path))
    table(file, range(6))
    assert not source.read(str(tmp_path)).findings


def test_missing_frames_cut_the_rally(tmp_path: Path) -> None:
    video(tmp_path / "m/video/a.mp4", 10)
    table(tmp_path / "m/csv/a_ball.csv", [0, 1, 2, 5, 6, 9])
    d = source.read(str(tmp_path))
    assert [(r.id, r.first, [f.index for f in r.frames], r.group) for r in d.records] == [
        ("m/a.f000000", 0, [0, 1, 2], "m"),
        ("m/a.f000005", 5, [5, 6], "m"),
        ("m/a.f000009", 9, [9], "m"),
    ]
    assert {"labels.frames_missing", "labels.cut_at_gaps"} <= set(found(d))
    windows = clips.training_windows(d, Clip(frames=2))
    assert [w.id for w in windows.records] == ["m/a.f000000@000000", "m/a.f000000@000001", "m/a.f000005@000005"]
    assert found(windows)["clips.too_short"].count == 1


def test_pictures_without_and_rows_without(tmp_path: Path) -> None:
    pictures(tmp_path / "m/frame/a", [f"img_{i:04d}.jpg" for i in range(10) if i != 4])
    file = table(tmp_path / "m/csv/a_ball.csv", range(10))
    d = source.read(str(tmp_path))
    assert [len(r.frames) for r in d.records] == [4, 5]
    assert found(d)["labels.no_picture"].evidence == (f"{file}:6",)
    table(file, range(30))
    with pytest.raises(TercelError, match=r"csv:6: there is no picture 4 in .*\(21 of 30 rows have none\)"):
        source.read(str(tmp_path))


def test_mixed_sizes_and_broken_pictures(tmp_path: Path) -> None:
    pictures(tmp_path / "m/frame/a", ["0.png", "1.png"])
    pictures(tmp_path / "m/frame/a", ["2.png"], (H, W + 2))
    table(tmp_path / "m/csv/a_ball.csv", range(3))
    with pytest.raises(TercelError, match=r"2\.png is 66x48, .*0\.png of the same rally 64x48"):
        source.read(str(tmp_path))
    data = (tmp_path / "m/frame/a/0.png").read_bytes()
    (tmp_path / "m/frame/a/2.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(TercelError, match=r"2\.png"):
        source.read(str(tmp_path))


def test_labels_without_footage(tmp_path: Path) -> None:
    table(tmp_path / "match1/csv/a_ball.csv", range(3))
    with pytest.raises(TercelError, match="none of 1 label files has a video or frames") as e:
        source.read(str(tmp_path))
    assert "match1/video/a.mp4" in e.value.remedy
    video(tmp_path / "match1/video/b.mp4", 3)
    table(tmp_path / "match1/csv/b_ball.csv", range(3))
    d = source.read(str(tmp_path))
    assert [r.id for r in d.records] == ["match1/b"]
    assert found(d)["pictures.missing"].count == 1
    assert len(source.read(str(tmp_path), pictures=False)) == 2


def test_balls_outside_become_absent(tmp_path: Path) -> None:
    video(tmp_path / "m/video/a.mp4", 20)
    file = table(tmp_path / "m/csv/a_ball.csv", range(20))
    file.write_text(file.read_text().replace("\n7,1,5,40", "\n7,1,64,40"))
    d = source.read(str(tmp_path))
    assert 7 not in d.records[0].objects.frame.tolist()  # type: ignore[union-attr]
    assert found(d)["labels.outside_absent"].evidence == (f"{file}:9",)


def test_events_of_a_tree(tmp_path: Path) -> None:
    video(tmp_path / "m/video/a.mp4", 3)
    (tmp_path / "m/csv").mkdir()
    (tmp_path / "m/csv/a_ball.csv").write_text("Frame,Visibility,X,Y,Event\n0,1,5,6,hit\n1,1,5,6,\n2,0,0,0,bounce\n")
    d = source.read(str(tmp_path))
    assert d.schema.events == ("bounce", "hit")
    assert d.records[0].events == (Event(0, "hit"), Event(2, "bounce"))


def test_tracknets_tennis_set(tmp_path: Path) -> None:
    clip = tmp_path / "game1/Clip2"
    pictures(clip, [f"{i:04d}.jpg" for i in range(3)])
    rows = "0000.jpg,1,5,40,0\n0001.jpg,0,,,\n0002.jpg,3,6,41,2\n"
    (clip / "Label.csv").write_text("file name,visibility,x-coordinate,y-coordinate,status\n" + rows)
    (r,) = source.read(str(tmp_path)).records
    assert (r.id, r.group, [f.path.name for f in r.frames]) == (
        "game1/Clip2",
        "game1",
        ["0000.jpg", "0001.jpg", "0002.jpg"],
    )
    assert r.events == (Event(2, "bounce"),)
    assert clips.tracks(Dataset(source.read(str(tmp_path)).schema, (r,)))[0].visibility.tolist() == [1, 0, 3]


def test_corrected_labels_come_first(tmp_path: Path) -> None:
    video(tmp_path / "match1/video/a.mp4", 3)
    table(tmp_path / "match1/csv/a_ball.csv", range(3), (1, 1))
    table(tmp_path / "match1/corrected_csv/a_ball.csv", range(3), (9, 9))
    d = source.read(str(tmp_path))
    assert d.records[0].objects.points[0, 0].tolist() == [9.5, 9.5]  # type: ignore[index]
    assert found(d)["labels.corrected"].evidence == (str(tmp_path / "match1/csv/a_ball.csv"),)
    table(tmp_path / "match1/ball_trajectory/b.csv", range(3))
    table(tmp_path / "match1/csv/b_ball.csv", range(3))
    with pytest.raises(TercelError, match="are both the rally 'match1/b'"):
        source.read(str(tmp_path))


def test_what_is_no_tree(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/prices.csv").write_text("day,price\n1,2\n")
    assert not tracknet.matches(tmp_path / "a")
    assert not tracknet.matches(tmp_path / "a/prices.csv")
    assert not tracknet.matches(tmp_path / "none")
    assert tracknet.matches(table(tmp_path / "b/x.csv", range(2)))
    assert len(source.read(str(tmp_path / "b/x.csv"), pictures=False)) == 1


def test_real_labels_as_a_source(shared: Path) -> None:
    root = shared / "data/tracknetv3-corrected-labels"
    d = source.read(str(root), pictures=False)
    assert (len(d), d.statistics()["frames"], d.statistics()["objects"]) == (29, 12656, 10685)
    assert len(source.read(f"{root}#match1,match3", pictures=False)) == 22


# -- openttgames --------------------------------------------------------------------------------------------------


def game(folder: Path, name: str, markup: object, events: object = None, frames: int = 20) -> Path:
    video(folder / f"{name}.mp4", frames, shade=len(name))
    (folder / name).mkdir()
    (folder / name / "ball_markup.json").write_text(json.dumps(markup))
    if events is not None:
        (folder / name / "events_markup.json").write_text(json.dumps(events))
    return folder / name / "ball_markup.json"


BALL, NONE = {"x": 5, "y": 40}, {"x": -1, "y": -1}


def test_games(tmp_path: Path) -> None:
    markup = {"10": BALL, "4": BALL, "5": NONE, "6": {"x": 60, "y": 3}, "11": BALL}
    game(tmp_path, "game_1", markup, {"5": "bounce", "4": "empty_event", "11": "net", "8": "bounce"})
    game(tmp_path, "test_1", {"0": BALL}, {})
    d = source.read(f"{tmp_path}#train")
    assert [(r.id, r.first, [f.index for f in r.frames], r.group) for r in d.records] == [
        ("game_1/000004", 4, [4, 5, 6], "game_1"),
        ("game_1/000010", 10, [10, 11], "game_1"),
    ]
    a = d.records[0].objects
    assert (a.frame.tolist(), a.points[:, 0].tolist()) == ([0, 2], [[5.5, 40.5], [60.5, 3.5]])  # type: ignore[union-attr,index]
    assert [r.events for r in d.records] == [(Event(1, "bounce"),), (Event(1, "net"),)]
    assert found(d)["labels.empty_events"].count == 1
    assert found(d)["labels.events_outside"].evidence == (f"{tmp_path / 'game_1/events_markup.json'}: frame 8",)
    assert d.schema.events == ("bounce", "net")
    assert source.splits(str(tmp_path)) == ["train", "test"]
    assert len(source.read(f"{tmp_path}#game_1,test_1")) == 3
    assert [r.id for r in source.read(str(tmp_path / "test_1")).records] == ["test_1/000000"]


@pytest.mark.parametrize(
    ("markup", "message"),
    [
        ({"0": {"x": 5}}, r'ball_markup\.json: frame 0: \{"x": 5\} is no place'),
        ({"0": {"x": "a", "y": 2}}, "is no place"),
        ({"3": {"x": -1, "y": 5}}, "frame 3: x = -1, y = 5"),
        ({"a": BALL}, "'a' is no frame number"),
        ([1], "not a table of frame numbers"),
        ({}, "no frame is annotated"),
        (
            {"0": {"x": 40, "y": 60}},
            r"frame 0: the ball at x = 40, y = 60 lies outside .* 64x48; none would with x and y",
        ),
        ({"2": {"x": 400, "y": 40}}, r"frame 2: the ball at x = 400, y = 40 lies outside of the frame of 64x48\n"),
        ({str(i): BALL for i in range(1, 21)}, "rows are numbered 1..20"),
        ({str(i): BALL for i in range(50)}, r"frame 20, but .*g\.mp4 has frames 0\.\.19"),
    ],
)
def test_bad_markup(tmp_path: Path, markup: object, message: str) -> None:
    game(tmp_path, "g", markup)
    with pytest.raises(TercelError, match=message):
        source.read(str(tmp_path))


def test_a_game_without_its_video(tmp_path: Path) -> None:
    game(tmp_path, "g", {"0": BALL})
    (tmp_path / "g.mp4").unlink()
    with pytest.raises(TercelError, match=r"the video .*g\.mp4 does not exist"):
        source.read(str(tmp_path))
    assert openttgames.read(tmp_path, None, Options(pictures=False)).records[0].size == (1080, 1920)


def test_the_oracles_games(shared: Path) -> None:
    d = source.read(str(shared / "oracles/events"), pictures=False)
    assert {r.group for r in d.records} == {"test_1", "test_2", "test_3"}
    marked = [json.loads(f.read_text()) for f in sorted((shared / "oracles/events").glob("*/ball_markup.json"))]
    assert d.statistics()["frames"] == sum(map(len, marked))
    assert d.statistics()["objects"] == sum(b["x"] >= 0 for m in marked for b in m.values())


# -- sequence -----------------------------------------------------------------------------------------------------

HEADER = "run,frame,image,x_px,y_px,w_px,h_px"


def listed(folder: Path, rows: list[str], header: str = HEADER) -> Path:
    pictures(folder / "p", [f"{i}.png" for i in range(6)])
    (folder / "frames.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_a_list_of_frames(tmp_path: Path) -> None:
    rows = ["1,9,p/1.png,5,40,4,6", "0,3,p/0.png,,,,", "1,8,p/2.png,60.5,3.25,,", "1,11,p/3.png,5,40,4,6"]
    d = source.read(str(listed(tmp_path, rows)))
    assert [(r.id, r.group, r.first, len(r.frames)) for r in d.records] == [
        ("0", "0", 3, 1),
        ("1.f000008", "1", 8, 2),
        ("1.f000011", "1", 11, 1),
    ]
    o = d.records[1].objects
    assert o.points[:, 0].tolist() == [[60.5, 3.25], [5, 40]]  # type: ignore[index]
    assert o.boxes.tolist() == [[60.5, 3.25, 60.5, 3.25], [3, 37, 7, 43]]
    assert set(found(d)) == {"labels.all_absent", "labels.cut_at_gaps"}
    assert len(source.read(f"{tmp_path}#0").records) == 1
    assert source.splits(str(tmp_path)) == ["0", "1"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0,1,p/0.png,5,40,4,6", "0,1,p/1.png,5,40,4,6"], r"csv:2 and .*csv:3: frame 1 of run '0' occurs twice"),
        (["0,1,p/0.png,5,40,4,6", "0,1,p/0.png,9,40,4,6"], r"occurs with different balls"),
        (["0,1,p/9.png,5,40,4,6"], r"frames\.csv:2: the picture .*9\.png does not exist"),
        (["0,1,../x.png,5,40,4,6"], "leaves the folder"),
        (["0,a,p/0.png,5,40,4,6"], r"csv:2: 'a' is no frame number"),
        (["0,1,p/0.png,5,,4,6"], r"csv:2: y_px is '', no number"),
        (["0,1,p/0.png,nan,5,4,6"], r"csv:2: x_px is 'nan', no number"),
        (["0,1,p/0.png,5,40,4"], r"csv:2: 6 fields, the header has 7"),
        (["0,1,p/0.png,40,60,4,6"], r"csv:2: the ball at x = 40, y = 60 lies outside .*; none would with x and y"),
        (["0,1,p/0.png,.5,.4,4,6", "0,2,p/1.png,.25,.4,4,6"], r"csv:2: all coordinates lie between 0 and 1"),
        ([], "holds no rally"),
    ],
)
def test_bad_lists(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(TercelError, match=message):
        source.read(str(listed(tmp_path, rows)))


def test_mixed_sizes_in_a_run(tmp_path: Path) -> None:
    listed(tmp_path, ["0,1,p/0.png,5,40,4,6", "0,2,p/big.png,5,40,4,6"])
    pictures(tmp_path / "p", ["big.png"], (H, W + 2))
    with pytest.raises(TercelError, match=r"big\.png is 66x48, .*0\.png of the same run 64x48"):
        source.read(str(tmp_path))


def yolo_frames(folder: Path, label: Callable[[int], str]) -> Path:
    for part, numbers in (("train", (1, 3, 4, 8)), ("valid", (2, 7))):
        pictures(folder / part / "images", [f"rally_a_{i:06d}.png" for i in numbers])
        (folder / part / "labels").mkdir()
        for i in numbers:
            if label(i):
                (folder / part / "labels" / f"rally_a_{i:06d}.txt").write_text(label(i))
    return folder


def test_numbered_pictures_with_yolo_labels(tmp_path: Path) -> None:
    yolo_frames(tmp_path, lambda i: "" if i == 3 else f"0 {i / 64} 0.75 0.0625 0.125\n")
    d = sequence.read(tmp_path)
    assert [(r.id, r.first, len(r.frames), r.group) for r in d.records] == [
        ("rally_a.f000001", 1, 4, "rally_a"),
        ("rally_a.f000007", 7, 2, "rally_a"),
    ]
    assert d.records[0].objects.frame.tolist() == [0, 1, 3]  # type: ignore[union-attr]
    assert d.records[0].objects.points[:, 0].tolist() == [[1, 36], [2, 36], [4, 36]]  # type: ignore[index]
    assert not sequence.matches(tmp_path)  # it is a YOLO data set until one says otherwise
    assert sequence.accepts(tmp_path)


def test_several_balls_in_a_yolo_frame(tmp_path: Path) -> None:
    yolo_frames(tmp_path, lambda i: "0 .5 .5 .1 .1\n" * (2 if i == 7 else 1))
    with pytest.raises(TercelError, match=r"rally_a_000007\.txt: 2 balls in one frame"):
        sequence.read(tmp_path)


def test_real_tennis_frames(shared: Path) -> None:
    root = shared / "data/tennis-ball-roboflow"
    assert sequence.matches(root)
    d = sequence.read(root)
    assert [(r.id, len(r.frames), len(r.objects), r.size) for r in d.records] == [
        ("0", 54, 54, (720, 1280)),
        ("1", 87, 87, (720, 1280)),
        ("2", 58, 58, (720, 1280)),
        ("3", 68, 68, (720, 1280)),
    ]
    assert not d.findings
    train, test = sequence.read(root, "0,1,2"), sequence.read(root, "3")
    assert (len(train), len(test)) == (3, 1)
    assert leaks(train, test) == []
    assert leaks(clips.training_windows(train, Clip(frames=3)), clips.training_windows(test, Clip(frames=3))) == []
    # The same frames by their YOLO labels, put together again from three folders: the list rounds to 0.1 px.
    other = sequence.read(root / "tennis-ball-detection-6")
    for a, b in zip(d.records, other.records, strict=True):
        assert [f.path for f in a.frames] == [f.path for f in b.frames]
        np.testing.assert_allclose(a.objects.points, b.objects.points, atol=0.051)  # type: ignore[arg-type]


def test_the_tennis_set_by_recognition(shared: Path) -> None:
    """Its root is a YOLO data set too: split names decide, and frames.csv where there are none."""
    root = shared / "data/tennis-ball-roboflow"
    assert len(source.read(f"sequence:{root}#0,1,2")) == 3
    assert len(source.read(f"{root}#0,1,2")) == 3
    assert len(source.read(str(root))) == 4
    assert len(source.read(f"{root}#train")) == 183
