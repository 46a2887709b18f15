"""Trajectories on disk: every layout, every complaint with file and row, writing and reading back."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.record import Event
from tercel.core.track import Track
from tercel.data.tracks import Rally, read_rallies, read_tracks, split_gaps, write_track
from tercel.data.video import write_video

SIZE = (720, 1280)


def read(path: Path, text: str | bytes | None = None, **options: object) -> tuple[list[Rally], dict[str, Finding]]:
    """What a csv of this text gives, and the findings by check."""
    if text is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    ledger = Ledger()
    options.setdefault("size", SIZE)
    return read_rallies(path, ledger=ledger, **options), {f.check: f for f in ledger.findings()}  # type: ignore[arg-type]


def one(tmp_path: Path, text: str | bytes, **options: object) -> tuple[Rally, dict[str, Finding]]:
    (rally,), findings = read(tmp_path / "r_ball.csv", text, **options)
    return rally, findings


# -- layouts ------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "TrackNet": "Frame,Visibility,X,Y\n4,1,30,500\n5,0,0,0\n6,2,31,501\n",
    "other order": "Y,X,Visibility,Frame\n500,30,1,4\n0,0,0,5\n501,31,2,6\n",
    "other case": "FRAME,visibility,x,y\n4,1,30,500\n5,0,7,7\n6,2,31,501\n",
    "more columns": "Frame,Visibility,X,Y,dX,dY,Type,Z\n4,1,30,500,1,1,a,\n5,0,0,0,,,b,\n6,2,31,501,,,c,9\n",
    "byte-order mark": "\ufeffFrame,Visibility,X,Y\n4,1,30,500\n5,0,0,0\n6,2,31,501\n",
    "Windows ends": "Frame,Visibility,X,Y\r\n4,1,30,500\r\n5,0,0,0\r\n6,2,31,501\r\n",
    "semicolons": "Frame;Visibility;X;Y\n4;1;30;500\n5;0;0;0\n6;2;31;501\n",
    "blank lines": "Frame,Visibility,X,Y\n\n4,1,30,500\n5,0,0,0\n,,,\n6,2,31,501\n",
    "decimals": "Frame,Visibility,X,Y\n4.0,1.0,30.0,500\n5,0.0,nan,\n6,2,31,501.0\n",
    "tennis": "file name,visibility,x-coordinate,y-coordinate\n0004.jpg,1,30,500\n0005.jpg,0,,\n6.jpg,2,31,501\n",
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_layouts(tmp_path: Path, layout: str) -> None:
    """The probe lies low on the left: exchanged axes would show."""
    rally, _ = one(tmp_path, LAYOUTS[layout])
    t = rally.track
    assert t.frame.tolist() == [4, 5, 6]
    assert t.visibility.tolist() == [1, 0, 2]
    assert t.xy[[0, 2]].tolist() == [[30.5, 500.5], [31.5, 501.5]]
    assert np.isnan(t.xy[1]).all()
    assert (t.name, t.group, t.score) == ("r", "", None)
    assert [rally.where(i).rpartition(":")[2] for i in (0, 2)] == (
        ["3", "6"] if layout == "blank lines" else ["2", "4"]
    )


def test_without_a_visibility_column_blank_is_absent(tmp_path: Path) -> None:
    rally, findings = one(tmp_path, "frame,x,y,undistort_x\n0,,,\n1,978,289,978.4\n2,-1,-1,\n3,0,0,\n")
    assert rally.track.visibility.tolist() == [0, 1, 0, 0]
    assert rally.track.xy[1].tolist() == [978.5, 289.5]
    assert findings["labels.absent_by_place"].severity is Severity.INFO


def test_shares_of_the_frame(tmp_path: Path) -> None:
    text = "frame_num,x,y,visible\n0,0.25,0.75,1\n1,0,0,0\n2,0.5,0.125,1\n"
    rally, findings = one(tmp_path, text)
    assert rally.track.xy[[0, 2]].tolist() == [[320, 540], [640, 90]]
    assert "1280x720" in findings["labels.normalised"].message
    with pytest.raises(TercelError, match=r"r_ball\.csv:2: all coordinates lie between 0 and 1 \(here 0\.25, 0\.75\)"):
        one(tmp_path, text, size=None)


def test_rows_in_any_order_are_sorted(tmp_path: Path) -> None:
    rally, findings = one(tmp_path, "Frame,X,Y\n2,12,22\n0,10,20\n1,11,21\n")
    assert rally.track.xy.tolist() == [[10.5, 20.5], [11.5, 21.5], [12.5, 22.5]]
    assert [rally.where(i)[-1] for i in range(3)] == ["3", "4", "2"]
    assert "labels.order" in findings


def test_predictions(tmp_path: Path) -> None:
    text = "Frame,Visibility,X,Y,Score,Filled,Sigma\n0,1,10.25,20,0.75,0,\n1,0,3,4,0.25,0,\n2,1,11,21,0.5,1,2.5\n"
    t = one(tmp_path, text, predictions=True)[0].track
    assert t.xy[0].tolist() == [10.75, 20.5]
    assert (t.score.tolist(), t.filled.tolist(), t.sigma[2]) == ([0.75, 0.25, 0.5], [False, False, True], 2.5)  # type: ignore[union-attr,index]
    assert np.isnan(t.sigma[0])  # type: ignore[index]
    assert one(tmp_path, text)[0].track.score is None  # truth has none
    rally, findings = one(tmp_path, "Frame,Visibility,X,Y\n0,1,1,2\n1,0,0,0\n", predictions=True)
    assert rally.track.score.tolist() == [1, 0]  # type: ignore[union-attr]
    assert "predictions.no_score" in findings


# -- events -------------------------------------------------------------------------------------------------------

ROWS = "Frame,Visibility,X,Y,{}\n5,1,10,20,{}\n6,1,10,20,{}\n7,1,10,20,{}\n"


@pytest.mark.parametrize(
    ("column", "cells", "events"),
    [
        ("Event", ("", "bounce", "0"), [(1, "bounce")]),
        ("Event", ("1", "0", "0.0"), [(0, "hit")]),
        ("hit", ("0", "1.0", "1"), [(1, "hit"), (2, "hit")]),
        ("bounce", ("0", "0", "1"), [(2, "bounce")]),
        ("status", ("2", "0", "1"), [(0, "bounce"), (2, "hit")]),
        ("EVENT", ("Net", "none", "False"), [(0, "net")]),
    ],
)
def test_event_columns(tmp_path: Path, column: str, cells: tuple[str, ...], events: list[tuple[int, str]]) -> None:
    rally, findings = one(tmp_path, ROWS.format(column, *cells))
    assert [(e.frame, e.name) for e in rally.events] == events
    assert not findings


@pytest.mark.parametrize("value", ["0", "1", ""])
def test_a_constant_event_column_is_no_target(tmp_path: Path, value: str) -> None:
    rally, findings = one(tmp_path, ROWS.format("hit", value, value, value))
    assert rally.events == ()
    found = findings["labels.constant_events"]
    assert found.severity is Severity.WARNING
    assert f"{value or 'empty'!r} in all 3 rows" in found.message


def test_constant_in_one_file_is_fine_when_another_differs(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(ROWS.format("hit", 0, 0, 0))
    rallies, findings = read(tmp_path / "b.csv", ROWS.format("hit", 0, 1, 0))
    rallies, findings = read(tmp_path)
    assert [len(r.events) for r in rallies] == [0, 1]
    assert not findings


# -- folders ------------------------------------------------------------------------------------------------------


def test_names_and_groups(tmp_path: Path) -> None:
    text = "Frame,Visibility,X,Y\n0,1,1,2\n"
    for name in ("match2/csv/1_01_00_ball.csv", "match1/ball_trajectory/1_02.csv", "match1/corrected_csv/a_ball.csv"):
        read(tmp_path / name, text)
    (tmp_path / "match2/clip_events.csv").write_text("Frame,Event\n0,hit\n")
    rallies, _ = read(tmp_path)
    names = [(r.track.name, r.track.group) for r in rallies]
    assert names == [("match1/1_02", "match1"), ("match1/a", "match1"), ("match2/1_01_00", "match2")]
    assert rallies[0].track.source.endswith("match1/ball_trajectory/1_02.csv")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(TercelError, match="holds no csv"):
        read(tmp_path)
    with pytest.raises(TercelError, match="does not exist"):
        read(tmp_path / "x")


# -- sizes --------------------------------------------------------------------------------------------------------


def test_the_size_comes_from_the_video_or_is_assumed(tmp_path: Path) -> None:
    text = "Frame,Visibility,X,Y\n0,1,30,40\n"
    rally, findings = one(tmp_path, text, size=None)
    assert rally.track.size == SIZE
    assert findings["labels.size_assumed"].severity is Severity.INFO
    assert one(tmp_path, "Frame,Visibility,X,Y\n0,1,1900,40\n", size=None)[0].track.size == (1080, 1920)
    file = tmp_path / "m/csv/a_ball.csv"
    write_video(tmp_path / "m/video/a.mp4", [np.zeros((48, 64, 3), np.uint8)], 30)
    (rally,), findings = read(file, text, size=None)
    assert rally.track.size == (48, 64)
    assert not findings


def test_balls_outside_of_the_frame(tmp_path: Path) -> None:
    rows = "".join(f"{i},1,{i},600\n" for i in range(30))
    rally, findings = one(tmp_path, f"Frame,Visibility,X,Y\n{rows}30,1,1281,600\n")
    assert findings["labels.outside"].evidence == (f"{tmp_path}/r_ball.csv:32",)
    assert rally.track.xy[30, 0] == 1281.5
    with pytest.raises(TercelError, match=r"csv:2: the ball at x = 1300, y = 5 lies outside .* 1280x720") as e:
        one(tmp_path, "Frame,Visibility,X,Y\n0,1,1300,5\n1,1,1290,1290\n")
    assert "pair the labels" in e.value.remedy


def test_x_and_y_exchanged(tmp_path: Path) -> None:
    rows = "".join(f"{i},1,{300 + i},{700 + 20 * i}\n" for i in range(12))
    for size in (SIZE, None):
        with pytest.raises(
            TercelError, match=r"csv:3: .*11 of 12 balls do, and none would with x and y exchanged"
        ) as e:
            one(tmp_path, "Frame,Visibility,X,Y\n" + rows, size=size)
        assert "exchange the columns X and Y" in e.value.remedy


# -- bad input ----------------------------------------------------------------------------------------------------

HEAD = "Frame,Visibility,X,Y\n"
BAD = {
    "doubled": (HEAD + "0,1,5,6\n1,1,5,6\n1,1,5,6\n", r":3 and 4: frame 1 occurs twice$"),
    "several balls": (
        HEAD + "1,1,5,6\n0,1,1,1\n1,1,7,8\n",
        r":2 and 4: frame 1 occurs twice with different balls, 5,6 and",
    ),
    "NaN": (HEAD + "0,1,5,6\n1,1,nan,6\n", r":3: x is nan"),
    "infinite": (HEAD + "0,1,5,inf\n", r":2: y is inf"),
    "no number": (HEAD + "0,1,five,6\n", r":2: x is 'five', no number"),
    "blank place": (HEAD + "0,1,,\n", r":2: the ball is visible, but its place is blank"),
    "half a place": ("Frame,X,Y\n0,1,\n", r":2: y is '', no number"),
    "visibility": (HEAD + "0,4,5,6\n", r":2: visibility '4'"),
    "half visible": (HEAD + "0,0.5,5,6\n", r":2: visibility '0.5'"),
    "frame number": (HEAD + "zero,1,5,6\n", r":2: 'zero' is no frame number"),
    "negative frame": (HEAD + "-1,1,5,6\n", r":2: '-1' is no frame number"),
    "fields": (HEAD + "0,1,5\n", r":2: 3 fields, the header has 4"),
    "header": (
        "Time,Visibility,PosX,PosY\n0,1,5,6\n",
        r":1: no column frame .* x .* y; the columns are Time, Visibility",
    ),
    "no header": ("0,1,5,6\n1,1,5,6\n", r":1: no column frame"),
    "no rows": (HEAD, r": there is a header and no row"),
    "empty": ("", r"is empty"),
    "encoding": (HEAD.encode() + b"0,1,5,6\n1,1,\xff,6\n", r":3: byte \d+ is not UTF-8"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_named_with_file_and_row(tmp_path: Path, case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(TercelError, match=r"r_ball\.csv") as e:
        one(tmp_path, text)
    assert re.search(r"r_ball\.csv ?" + message, e.value.message), e.value.message
    assert e.value.remedy


@pytest.mark.parametrize("score", ["1.5", "-0.1", "x", "nan"])
def test_bad_scores(tmp_path: Path, score: str) -> None:
    with pytest.raises(TercelError, match=r"csv:2: score"):
        one(tmp_path, f"Frame,Visibility,X,Y,Score\n0,1,5,6,{score}\n", predictions=True)


def test_missing_frames_are_found_and_cut(tmp_path: Path) -> None:
    text = "Frame,Visibility,X,Y,Event\n3,1,5,6,\n4,1,5,6,hit\n7,1,5,6,bounce\n9,1,5,6,\n10,1,5,6,net\n"
    rally, findings = one(tmp_path, text)
    assert findings["labels.frames_missing"].count == 2
    assert "csv:4 (after 4 comes 7)" in findings["labels.frames_missing"].evidence[0]
    parts = split_gaps(rally)
    assert [(p.track.name, p.track.frame.tolist()) for p in parts] == [
        ("r.f000003", [3, 4]),
        ("r.f000007", [7]),
        ("r.f000009", [9, 10]),
    ]
    assert [p.events for p in parts] == [(Event(1, "hit"),), (Event(0, "bounce"),), (Event(1, "net"),)]
    assert {p.track.group for p in parts} == {"r"}
    assert parts[2].where(0).endswith(":5")
    assert split_gaps(parts[0]) == [parts[0]]


def test_hints(tmp_path: Path) -> None:
    _, findings = one(tmp_path, HEAD + "1,0,0,0\n2,0,0,0\n")
    assert set(findings) == {"labels.starts_at_one", "labels.all_absent"}
    _, findings = one(tmp_path, HEAD + "0,1,0,0\n1,1,5,6\n")
    assert findings["labels.at_origin"].evidence == (f"{tmp_path}/r_ball.csv:2",)


# -- writing ------------------------------------------------------------------------------------------------------


@given(data=st.data())
def test_write_then_read(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 8))
    visible = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), np.uint8)
    numbers = np.cumsum(data.draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)))
    xy = np.array(data.draw(st.lists(st.tuples(st.floats(2, 1280), st.floats(2, 720)), min_size=n, max_size=n)))
    score = np.array(data.draw(st.lists(st.floats(0, 1), min_size=n, max_size=n)))
    sigma = np.where(visible == 1, np.nan, score * 9)
    t = Track(SIZE, numbers, visible, xy, score, visible == 1, sigma)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        write_track(path, t, [Event(n - 1, "net")])
        (rally,), _ = read(path, predictions=True)
    b = rally.track
    assert b.frame.tolist() == t.frame.tolist()
    assert b.visibility.tolist() == t.visibility.tolist()
    np.testing.assert_allclose(b.xy, t.xy, rtol=0, atol=6e-5)
    np.testing.assert_allclose(b.score, score, rtol=0, atol=6e-7)  # type: ignore[arg-type]
    assert b.filled.tolist() == t.filled.tolist()  # type: ignore[union-attr]
    np.testing.assert_allclose(b.sigma, sigma, rtol=0, atol=6e-5)  # type: ignore[arg-type]
    assert rally.events == ((Event(n - 1, "net"),) if n > 1 else ())  # one row is a constant column


def test_what_is_written_word_for_word(tmp_path: Path) -> None:
    t = Track(SIZE, [7, 8, 9], [1, 0, 1], [[30.5, 500.5], [0, 0], [31.75, 0.5]], [1, 0, 0.5], [False, False, True])
    write_track(tmp_path / "a.csv", t)
    assert (tmp_path / "a.csv").read_text() == (
        "Frame,Visibility,X,Y,Score,Filled\n7,1,30,500,1,0\n8,0,0,0,0,0\n9,1,31.25,0,0.5,1\n"
    )
    with pytest.raises(TercelError, match="exists already"):
        write_track(tmp_path / "a.csv", t)


# -- real sets ----------------------------------------------------------------------------------------------------


def test_real_badminton_labels(shared: Path) -> None:
    ledger = Ledger()
    tracks = read_tracks(shared / "data/tracknetv3-corrected-labels", ledger=ledger)
    assert (len(tracks), sum(map(len, tracks)), sum(int(t.present.sum()) for t in tracks)) == (29, 12656, 10685)
    assert {t.group for t in tracks} == {"match1", "match2", "match3"}
    assert {t.size for t in tracks} == {SIZE}
    assert {f.check: f.count for f in ledger.findings()} == {"labels.size_assumed": 29, "labels.at_origin": 3}


def test_real_table_tennis_labels(shared: Path) -> None:
    ledger = Ledger()
    tracks = read_tracks(shared / "data/table-tennis-3cam-labels", ledger=ledger)
    assert (len(tracks), sum(map(len, tracks))) == (30, 8025 - 30)  # a header in each file
    assert {t.size for t in tracks} == {(1080, 1920)}
    assert {f.check for f in ledger.findings()} == {"labels.size_assumed"}


def test_the_oracles_files(shared: Path) -> None:
    truth = read_tracks(shared / "oracles/ball/truth", size=SIZE, ledger=Ledger())
    pred = read_tracks(shared / "oracles/ball/pred", size=SIZE, ledger=Ledger(), predictions=True)
    assert [t.name for t in truth] == [t.name for t in pred] == [f"rally_{i}" for i in range(1, 7)]
    counts = np.bincount(np.concatenate([t.visibility for t in truth]), minlength=4)
    assert counts.tolist() == [38, 483, 71, 38]
    for a, b in zip(truth, pred, strict=True):
        assert a.frame.tolist() == b.frame.tolist()
        assert (b.present == (b.score >= 0.5)).all()  # type: ignore[operator]
