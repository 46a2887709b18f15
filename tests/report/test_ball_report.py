"""report.html and card.md of a ball run: what the files say, the mistakes, and whatever is missing."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercel.core.objects import Objects
from tercel.core.record import Dataset, Event, Frame, Record
from tercel.core.schema import Schema
from tercel.core.track import Track
from tercel.metrics.outcomes import FN, GHOST, TN, TP, WRONG
from tercel.metrics.rules import RULES
from tercel.report import ball, ball_events
from tercel.report.ball_judge import Rally, judged
from tercel.report.card import write_card
from tercel.report.html import write_report
from tercel.report.reading import View, read_run
from tercel.report.reels import FRAMES, MAP_WIDTH, TILE, Pixels, heat_map, reel
from tercel.report.strokes import Picture

Run = tuple[Path, Dataset, list[Track]]
Builder = Callable[..., Run]
SIZE = (288, 512)


def load(name: str) -> ModuleType:
    """A module beside this one."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Page: Any = load("test_report").Page
build: Builder = load("fake_ball_run").fake_ball_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return build(tmp_path_factory.mktemp("ball"))


def page_of(run: Path, data: Dataset | None = None) -> tuple[str, Any]:
    text = write_report(run, data).read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def page(finished: Run) -> tuple[str, Any]:
    return page_of(finished[0], finished[1])


def test_every_rule_stands_in_the_table_with_its_counts(finished: Run, page: tuple[str, Any]) -> None:
    report = json.loads((finished[0] / "metrics.json").read_text())["report"]
    assert len(report["table"]) == len(RULES)
    for row in report["table"]:
        counts = " ".join(str(row[k]) for k in ("TP", "FP_wrong", "FP_ghost", "FN", "TN"))
        ratios = " ".join(f"{row[k]:.3f}" for k in ("accuracy", "precision", "recall", "F1"))
        found = re.search(rf"\b{row['rule']} [^0-9]*d .{{1,60}}? {counts} {ratios}", page[1].text)
        assert found, (row["rule"], counts, ratios)
    f1 = next(s for s in report["scores"] if s["name"] == "F1" and s["where"] == {"rule": "tracknet_v2_v3"})
    assert f"{f1['low']:.3f} – {f1['high']:.3f}" in page[1].text


def test_every_section_is_there_and_the_page_loads_nothing(page: tuple[str, Any]) -> None:
    text, parsed = page
    ids = [a["id"] for t, a in parsed.tags if t == "section"]
    assert ids == [
        "findings", "changed", "scores", "trajectories", "events", "training", "learning", "mistakes", "data",
        "conditions",
    ]  # fmt: skip
    assert not re.search(r"https?://|//[a-z]+\.[a-z]+|@import", text)
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "data", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#"))
    every = [a["id"] for _, a in parsed.tags if a.get("id")]
    assert len(every) == len(set(every))
    links = [a["href"] for t, a in parsed.tags if t == "a"]
    assert {str(u)[1:] for u in links} <= set(ids)
    assert len(text) < 3_000_000
    assert "pictures" not in parsed.text.split("Mistakes", 1)[0].replace("The same pictures", "")  # rallies, frames


def test_headline_and_words_are_those_of_a_ball(finished: Run, page: tuple[str, Any]) -> None:
    report = json.loads((finished[0] / "metrics.json").read_text())["report"]
    text = page[1].text
    first = report["table"][0]
    assert f"F1 rule tracknet_v2_v3 {first['F1']:.3f}" in text
    assert "4 rallies, 240 frames, 224 of them with a ball" in text
    assert "F1 on validation data" in text
    assert "IoU" not in text
    assert [s.name for s in read_run(finished[0], pictures=False).headline] == [
        "F1", "precision", "recall", "accuracy", "AP",
    ]  # fmt: skip


def strips(text: str) -> list[tuple[int, int, Picture]]:
    """(n, at, pixels) of every strip on the page."""
    found = re.findall(r'class="reel" style="--n:(\d+);--at:(\d+)"><img src="data:image/jpeg;base64,([^"]+)"', text)
    return [(int(n), int(at), np.asarray(Image.open(io.BytesIO(base64.b64decode(x))))) for n, at, x in found]


def longest_miss(data: Dataset, preds: list[Track]) -> int:
    """Frames in a row with a ball in truth and none in the prediction, counted in a plain loop."""
    most = 0
    for record, pred in zip(data.records, preds, strict=True):
        here, balls = 0, set(np.asarray(record.objects.frame).tolist())
        for k in range(len(record.frames)):
            here = here + 1 if k in balls and not pred.present[k] else 0
            most = max(most, here)
    return most


def test_the_strips_play_nine_frames_and_name_what_went_wrong(finished: Run, page: tuple[str, Any]) -> None:
    shown = strips(page[0])
    assert 9 <= len(shown) <= 12
    for n, at, pixels in shown:
        assert n == FRAMES
        assert 0 <= at < n
        assert pixels.shape == (TILE, n * TILE, 3)
    text = page[1].text
    assert re.search(r"Missed balls \d+ frames in \d+ stretches", text)
    assert f"missed for {longest_miss(finished[1], finished[2])} frames in a row" in text
    assert re.search(r"\d+ px off, score 0\.62", text)
    assert "no ball there, score 0.55" in text
    assert "@keyframes reel" in page[0]
    assert "animation: none" in page[0].split("@media print")[1]


def test_names_from_outside_cannot_become_markup(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(2)>"
    event = "<script>alert(1)<"
    run, data, _ = build(tmp_path, rallies=(evil, "b&b/<i>1"), events=(event, "bounce"), frames=40)
    _, parsed = page_of(run, data)
    assert sum(t == "script" for t, _ in parsed.tags) == 1
    assert all(not k.startswith("on") for _, a in parsed.tags for k in a)
    assert not [t for t, a in parsed.tags if t == "i" and "style" not in a]
    assert "onerror=alert(2)" in parsed.text
    assert not re.search(r"<(script|img|i|b)\b", write_card(run).read_text())


# -- what may be missing ------------------------------------------------------------------------------------------


def test_frames_that_are_gone_are_reported(tmp_path: Path) -> None:
    run, data, _ = build(tmp_path, frames=40, pictures=False)
    text, parsed = page_of(run, data)
    assert "frames cannot be read any more" in parsed.text
    assert not strips(text)
    assert "missed for" not in parsed.text
    assert "x and y over time" in parsed.text  # numbers need no pictures


def test_truth_or_trajectories_that_are_gone_are_reported(tmp_path: Path) -> None:
    run, data, _ = build(tmp_path, frames=40)
    text = page_of(run)[1].text  # the source of the fake is no data set
    assert "the validation data cannot be read any more" in text
    assert "without the validation truth there are no pictures" in text
    assert "tracknet_v2_v3" in text
    shutil.rmtree(run / "tracks")
    assert "without the trajectories (tracks/) there are no pictures" in page_of(run, data)[1].text


def test_broken_and_foreign_trajectories_are_reported(tmp_path: Path) -> None:
    run, data, _ = build(tmp_path, frames=40)
    folder = run / "tracks" / "match1"
    (folder / "1_01_00.csv").write_text("Frame,Visibility,X,Y\n1,1,nonsense,3\n")
    (folder / "1_02_00.csv").rename(folder / "another.csv")
    (folder / "1_02_00_events.csv").write_text("Frame,Event,Score\nsoon,bounce,1\n")
    text = page_of(run, data)[1].text
    assert "1_01_00.csv" in text
    assert "trajectories are for rallies that the validation data no longer has" in text
    assert "rallies of the validation data have no trajectories" in text
    assert "1_02_00_events.csv:2" in text


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_unfinished_runs_show_the_scores_of_the_log(tmp_path: Path, status: str) -> None:
    run, _, _ = build(tmp_path, frames=40, status=status, pictures=False)
    shutil.rmtree(run / "tracks")
    text = page_of(run)[1].text
    assert {"running": "still running", "interrupted": "interrupted", "failed": "failed"}[status] in text
    assert "Scores of the last evaluation during training" in text
    assert "tracknet_v5" in text
    (run / "log.jsonl").unlink()
    assert "There are no scores yet." in page_of(run)[1].text
    assert "There are no scores yet." in write_card(run).read_text()


def test_the_card_speaks_of_rallies_and_rules(finished: Run) -> None:
    card = write_card(finished[0]).read_text()
    assert (
        "A ball tracker for video. It sees 3 frames at once and answers for all of them. Events: bounce, hit." in card
    )
    assert "Under the rule tracknet" in card
    for name in RULES:
        assert name.replace("_", "\\_") in card or name in card
    assert "| rallies | 4 | 4 |" in card
    assert "Judged on only 4 rallies" in card
    assert "object" not in card
    for line in card.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 5, 12)


# -- outcomes, by hand --------------------------------------------------------------------------------------------


def rally(
    truth: list[tuple[float, float] | None], pred: list[tuple[float, float] | None], visible: list[int] | None = None,
    path: Path = Path("nowhere"), rule: str = "wasb", scores: list[float] | None = None,
) -> Rally:  # fmt: skip
    """One rally out of places per frame."""
    n = len(truth)
    rows = [i for i, p in enumerate(truth) if p is not None]
    xy = np.array([p for p in truth if p is not None], np.float64).reshape(-1, 2)
    flags = np.array([2] * n if visible is None else visible)[rows]
    objects = Objects(
        SIZE, np.zeros(len(rows), np.int64), np.concatenate([xy, xy], axis=1), frame=np.array(rows, np.int64),
        points=xy[:, None], visible=flags[:, None],
    )  # fmt: skip
    record = Record("r", tuple(Frame(path / f"{k}.png") for k in range(n)), SIZE, objects, group="m", first=7)
    places = np.array([(np.nan, np.nan) if p is None else p for p in pred])
    found = np.isfinite(places).all(axis=1)
    score = np.where(found, 1.0 if scores is None else np.array(scores), 0.0)
    track = Track(SIZE, np.arange(7, 7 + n), found, places, score, name="r")
    (out,) = judged(Dataset(Schema(("ball",)), (record,)), [track], RULES[rule])
    return out


def test_frames_are_called_what_they_are() -> None:
    r = rally(
        [(10.5, 10.5), (10.5, 10.5), (10.5, 10.5), None, None, (50.5, 50.5)],
        [(13.5, 10.5), (14.5, 10.5), None, (5.5, 5.5), None, (50.5, 50.5)],
        visible=[2, 2, 2, 0, 0, 1],  # the last one is occluded, which WASB's rule counts as absent
    )
    assert r.outcome.tolist() == [TP, WRONG, FN, GHOST, TN, GHOST]
    assert r.distance[:2].tolist() == [3, 4]
    assert np.isnan(r.distance[2:5]).all()
    assert r.frame.tolist() == [7, 8, 9, 10, 11, 12]
    assert r.wrong.tolist() == [False, True, True, True, False, True]


def test_the_longest_the_farthest_and_the_surest_come_first() -> None:
    here, off = (100.5, 100.5), (140.5, 100.5)
    r = rally(
        [here] * 12 + [None] * 4,
        [None, here, None, None, None, here, off, here, (300.5, 100.5), here, off, here, here, None, here, None],
        scores=[1.0] * 12 + [0.6, 0, 0.9, 0],
    )
    by_kind = {k: ball.worst(list(ball._stretches(0, r, k)), each=9) for k in (FN, WRONG, GHOST)}
    assert [(s.start, s.stop, s.row) for s in by_kind[FN]] == [(2, 5, 3), (0, 1, 0)]
    assert [s.row for s in by_kind[WRONG]] == [8, 6, 10]
    assert [s.row for s in by_kind[GHOST]] == [14, 12]
    assert ball._caption(r, by_kind[FN][0], FN) == "missed for 3 frames in a row"
    assert ball._caption(r, by_kind[WRONG][0], WRONG) == "200 px off, score 1.00"
    assert ball._caption(r, by_kind[GHOST][0], GHOST) == "no ball there, score 0.90"


def test_one_bad_rally_does_not_fill_the_wall() -> None:
    items = [ball._Stretch(0, k, k + 1, k, 100 - k) for k in range(10)] + [ball._Stretch(1, 0, 1, 0, 1.0)]
    assert [(s.rally, s.row) for s in ball.worst(items, 4)] == [(0, 0), (0, 1), (1, 0), (0, 2)]


# -- pixels -------------------------------------------------------------------------------------------------------


def frames(folder: Path, n: int, spot: tuple[float, float]) -> None:
    """n black frames whose pixel under `spot` is red."""
    folder.mkdir()
    for k in range(n):
        image = np.zeros((*SIZE, 3), np.uint8)
        image[int(spot[1]) - 1 : int(spot[1]) + 2, int(spot[0]) - 1 : int(spot[0]) + 2] = (255, 0, 0)
        Image.fromarray(image).save(folder / f"{k}.png")


@pytest.mark.parametrize("spot", [(250.5, 140.5), (20.5, 270.5)])
def test_the_ring_in_a_strip_lies_around_the_pixels_of_the_ball(tmp_path: Path, spot: tuple[float, float]) -> None:
    frames(tmp_path / "f", 11, spot)
    r = rally([spot] * 11, [None] * 11, path=tmp_path / "f")
    made = reel(r, 5, Pixels())
    assert made is not None
    assert (made.n, made.at) == (9, 4)
    tile = made.picture[:, made.at * TILE : (made.at + 1) * TILE].astype(int)
    inner = tile[24:-10, 4:-4]  # without frame number, bar and seam
    red = (inner[..., 0] > 90) & (inner[..., 1] < 60)
    white = (inner > 150).all(axis=2)
    places = [np.array(np.nonzero(m)).mean(axis=1) for m in (red, white)]
    assert np.abs(places[0] - places[1]).max() < 2.5


def test_strips_at_the_ends_of_a_rally_and_of_short_ones(tmp_path: Path) -> None:
    frames(tmp_path / "f", 12, (250.5, 140.5))
    spot = (250.5, 140.5)
    for n, row, expected in ((12, 0, (9, 0)), (12, 11, (9, 8)), (12, 2, (9, 2)), (3, 1, (3, 1)), (1, 0, (1, 0))):
        made = reel(rally([spot] * n, [None] * n, path=tmp_path / "f"), row, Pixels())
        assert made is not None
        assert (made.n, made.at) == expected


def test_both_points_of_a_large_error_are_in_view(tmp_path: Path) -> None:
    frames(tmp_path / "f", 3, (5.5, 5.5))
    r = rally([(5.5, 5.5)] * 3, [(505.5, 280.5)] * 3, path=tmp_path / "f")
    made = reel(r, 1, Pixels())
    assert made is not None
    tile = made.picture[:, TILE : 2 * TILE].astype(int)
    assert ((tile > 200).all(axis=2)[20:]).any()  # white: truth
    assert (np.abs(tile - (230, 159, 0)) < 40).all(axis=2).any()  # orange: prediction


def test_frames_of_a_video_are_shown(tmp_path: Path) -> None:
    from tercel.data.video import write_video

    colors = [np.full((*SIZE, 3), 20 * k, np.uint8) for k in range(12)]
    write_video(tmp_path / "a.mp4", colors, 25)
    r = rally([(100.5, 100.5)] * 5, [None] * 5)
    record = Record("r", tuple(Frame(tmp_path / "a.mp4", k) for k in range(4, 9)), SIZE, r.record.objects, first=4)
    pictures = Pixels().read(record, 1, 4)
    assert pictures is not None
    assert [round(float(p.mean()) / 20) for p in pictures] == [5, 6, 7]


def test_heat_lies_where_the_points_are() -> None:
    ground = np.full((*SIZE, 3), 90, np.uint8)
    xy = np.repeat([[0.25, 0.75]], 30, axis=0)
    picture = heat_map(xy, ground, SIZE, (86, 180, 233)).astype(int)
    assert picture.shape == (360, MAP_WIDTH, 3)
    hot = np.array(np.unravel_index((picture[..., 2] - picture[..., 0]).argmax(), picture.shape[:2]))
    assert np.abs(hot - [0.75 * 360, 0.25 * MAP_WIDTH]).max() < 10
    assert (heat_map(np.zeros((0, 2)), None, SIZE, (1, 2, 3)) == 40).all()


# -- events -------------------------------------------------------------------------------------------------------


def view_of(events: list[Event], spotted: list[tuple[int, str, float]], report: dict[str, Any]) -> View:
    objects = Objects.empty(SIZE)
    record = Record("r", tuple(Frame(Path(f"{k}.png")) for k in range(50)), SIZE, objects, tuple(events), first=100)
    data = Dataset(Schema(("ball",), events=("bounce", "net")), (record,))
    return View(Path("run"), {}, metrics={"report": {"events": report}}, data=data, spotted={"r": spotted})


def test_events_are_late_by_the_frames_that_they_are_late() -> None:
    view = view_of(
        [Event(10, "bounce"), Event(20, "bounce"), Event(30, "net")],
        [(112, "bounce", 0.9), (119, "bounce", 0.8), (128, "bounce", 0.7), (130, "net", 0.6), (149, "net", 0.9)],
        {},
    )
    late = ball_events.offsets(view)
    assert late is not None
    assert sorted(late.tolist()) == [-1, 0, 2]  # by hand: 112-110, 119-120, 130-130
    plot = ball_events.timing(late)
    assert plot is not None
    assert "n = 3 events found within 5 frames" in plot.note


def test_the_confusion_has_truth_by_row() -> None:
    rows = [("bounce", "bounce", 6), ("bounce", "net", 1), ("bounce", "nothing", 3), ("net", "bounce", 0),
            ("net", "net", 4), ("net", "nothing", 0), ("nothing", "bounce", 2), ("nothing", "net", 0)]  # fmt: skip
    report = {"confusion": [{"of": "events", "true": t, "predicted": p, "count": n} for t, p, n in rows]}
    table = ball_events._confusion(report)
    assert table is not None
    assert table["columns"] == ["bounce", "net", "nothing"]
    name, cells = table["rows"][0]
    assert name == "bounce"
    assert [(c["n"], c["share"], c["right"]) for c in cells] == [(6, 60, True), (1, 10, False), (3, 30, False)]
    assert table["rows"][2][1][2]["n"] is None  # nothing taken for nothing: not defined


def test_a_run_without_events_has_no_such_section(tmp_path: Path) -> None:
    run, data, _ = build(tmp_path, frames=40, events=(), pictures=False)
    ids = [a["id"] for t, a in page_of(run, data)[1].tags if t == "section"]
    assert "events" not in ids
    assert "trajectories" in ids
