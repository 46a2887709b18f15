"""Named points in pictures and on pages: colours of sides, error ellipses, the report of a run, the page of a set."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.metrics.keypoints import judge_keypoints
from tercel.report import keypoint_plots, skeleton
from tercel.report.card import write_card
from tercel.report.draw import TRUTH, class_color, draw
from tercel.report.explore import write_exploration
from tercel.report.html import write_report
from tercel.report.judge import judge_all
from tercel.report.keypoint_plots import ellipse
from tercel.report.keypoints import PointWalls

Run = tuple[Path, Dataset]
Builder = Callable[..., Run]
SIZE = (100, 200)
SCHEMA = Schema(
    ("mouse",),
    ("nose", "ear_right", "ear_left", "tail"),
    (("ear_right", "ear_left"),),
    (("nose", "ear_left"), ("nose", "ear_right"), ("ear_left", "ear_right"), ("nose", "tail")),
)
GREY = np.full((*SIZE, 3), 120, np.uint8)


def mouse(points: object, visible: object = ((2, 2, 2, 2),), **columns: object) -> Objects:
    n = len(points)  # type: ignore[arg-type]
    visible = np.broadcast_to(np.asarray(visible), (n, 4))
    return Objects(SIZE, [0] * n, [[10, 10, 110, 90]] * n, points=points, visible=visible, **columns)  # type: ignore[arg-type]


PLACES = [[100, 50], [60, 30], [60, 70], [20, 50]]


def color_at(image: np.ndarray, x: float, y: float) -> tuple[int, ...] | None:
    """The named colour that a pixel has, up to what the smoothing of lines changes; None for any other."""
    named = [*skeleton.COLORS.values(), TRUTH]
    return next((c for c in named if np.abs(image[int(y), int(x)].astype(int) - c).max() < 30), None)


# -- drawing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "left"),
    [
        (("left_eye", "right_eye"), 0), (("right_eye", "left_eye"), 1), (("eyeR", "eyeL"), 1), (("legL1", "legR1"), 0),
        (("R_ear", "L_ear"), 1), (("ear.r", "ear.l"), 1), (("Right Ear", "Left Ear"), 1), (("rump", "tail"), 0),
        (("bright_left", "bright_right"), 0), (("wing1", "wing2"), 0),
    ],
)  # fmt: skip
def test_which_is_left_is_read_from_the_names(pair: tuple[str, str], left: int) -> None:
    schema = Schema(("a",), (*pair, "middle"), (pair,))
    assert skeleton.sides(schema).tolist() == [*((-1, 1) if left == 0 else (1, -1)), 0]


def test_points_and_edges_have_the_colour_of_their_side() -> None:
    drawn = draw(GREY, mouse([PLACES]), SCHEMA, labels=False, width=4)
    assert [color_at(drawn, *p) for p in PLACES] == [
        skeleton.MIDDLE, skeleton.RIGHT, skeleton.LEFT, skeleton.MIDDLE,
    ]  # fmt: skip
    assert color_at(drawn, 80, 60) == skeleton.LEFT  # nose to left ear
    assert color_at(drawn, 80, 40) == skeleton.RIGHT
    assert color_at(drawn, 60, 50) == skeleton.MIDDLE  # from ear to ear
    assert color_at(drawn, 40, 50) == skeleton.MIDDLE


def test_hidden_points_are_hollow_and_absent_ones_draw_nothing() -> None:
    bare = Schema(SCHEMA.classes, SCHEMA.keypoints, SCHEMA.flip_pairs)  # no edge runs into a ring
    drawn = draw(GREY, mouse([PLACES], [[2, 1, 0, 2]]), bare, labels=False, width=4)
    assert color_at(drawn, 60, 30) is None
    assert any(color_at(drawn, 60 + r, 30) == skeleton.RIGHT for r in range(3, 10))
    assert not any(color_at(drawn, x, y) == skeleton.LEFT for x in range(200) for y in range(100))


def test_without_flip_pairs_all_points_have_the_colour_of_the_class() -> None:
    plain = Schema(("mouse",), SCHEMA.keypoints, edges=SCHEMA.edges)
    drawn = draw(GREY, mouse([PLACES]), plain, labels=False, width=2)
    assert {tuple(drawn[y, x].tolist()) for x, y in PLACES} == {class_color(0)}


def test_truth_lies_white_under_the_prediction() -> None:
    moved = mouse([[[x + 20, y] for x, y in PLACES]], scores=[0.9])
    drawn = draw(GREY, moved, SCHEMA, truth=mouse([PLACES]), labels=False, width=4)
    assert color_at(drawn, *PLACES[1]) == color_at(drawn, *PLACES[2]) == TRUTH
    assert color_at(drawn, 80, 70) == skeleton.LEFT
    alone = draw(GREY, moved[:0], SCHEMA, truth=mouse([PLACES]), labels=False, width=4)
    light = (alone[50, 30:90] > 115).all(axis=1)  # the edge to the tail is dashed: between dashes its rim darkens
    assert 0.2 < light.mean() < 0.9
    assert all(color_at(drawn, x, 50) == skeleton.MIDDLE for x in range(45, 54))


def test_dots_of_neighbours_stay_apart() -> None:
    near = np.array([[10.0, 10], [16, 10], [22, 10]])
    assert skeleton.radius(near, 8) == pytest.approx(2)  # 2 + 2 < 6
    assert skeleton.radius(near * 100, 8) == 13
    assert skeleton.radius(near / 100, 8) == 1.5


def test_the_legend_names_the_sides() -> None:
    drawn = draw(GREY, mouse([PLACES]), SCHEMA, legend=True)
    strip = {tuple(p) for p in drawn[SIZE[0] :].reshape(-1, 3).tolist()}
    assert set(skeleton.COLORS.values()) <= strip
    plain = draw(GREY, mouse([PLACES]), Schema(("mouse",), SCHEMA.keypoints), legend=True)
    assert not set(skeleton.COLORS.values()) & {tuple(p) for p in plain[SIZE[0] :].reshape(-1, 3).tolist()}


# -- plots --------------------------------------------------------------------------------------------------------


def test_an_ellipse_lies_where_its_covariance_says() -> None:
    """Of a known turn; and of a sample, it holds the share that two standard deviations of a Gaussian hold."""
    turn = np.array([[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]])
    cov = turn @ np.diag([9.0, 1.0]) @ turn.T
    ring = ellipse(cov, 2.0, n=400)
    length = np.hypot(*ring.T)
    assert length.max() == pytest.approx(6, rel=1e-3)
    assert length.min() == pytest.approx(2, rel=1e-3)
    long = ring[length.argmax()] / 6
    assert abs(long @ turn[:, 0]) == pytest.approx(1, abs=1e-3)
    sample = np.random.default_rng(0).multivariate_normal([0, 0], cov, 20_000)
    inside = np.einsum("ni,ij,nj->n", sample, np.linalg.inv(cov), sample) <= 4
    assert inside.mean() == pytest.approx(1 - math.exp(-2), abs=0.01)
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", ring, np.linalg.inv(cov), ring), 4, rtol=1e-9)


@pytest.mark.parametrize(("deviation", "zoom"), [(0.001, 10), (0.004, 2), (0.0175, 1), (0.2, 1), (0.0, 1)])
def test_small_ellipses_are_enlarged_and_it_is_said(deviation: float, zoom: int) -> None:
    cov = np.broadcast_to(np.eye(2) * deviation**2, (3, 2, 2))
    assert keypoint_plots.zoom_of(cov) == zoom
    rows = [{"point": f"p{i}", "x": 0.1 * i, "y": 0.0, "bias_x": 0.0, "bias_y": 0.0, "cov_xx": deviation**2,
             "cov_xy": 0.0, "cov_yy": deviation**2} for i in range(3)]  # fmt: skip
    (plot,) = keypoint_plots.pose_plot(rows, Schema(("a",), ("p0", "p1", "p2")))
    assert (f"{zoom} times as large" in plot.note) == (zoom > 1)
    assert "<svg" in plot.svg


def test_a_pose_without_any_known_place_is_no_plot() -> None:
    row = dict.fromkeys(("x", "y", "bias_x", "bias_y", "cov_xx", "cov_xy", "cov_yy"), None)
    schema = Schema(("a",), ("p", "q"))
    assert keypoint_plots.pose_plot([{"point": "p", **row}, {"point": "q", **row}], schema) == []
    assert keypoint_plots.error_plot([{"point": "p", "median": None, "high": None}] * 2, schema) == []


# -- galleries ----------------------------------------------------------------------------------------------------


def point_walls(truth: Objects, pred: Objects, threshold: float = 0.3) -> PointWalls:
    data = Dataset(SCHEMA, (Record("pic", (Frame(Path("pic.png")),), SIZE, truth),))
    sigmas = [0.05] * 4
    judged = judge_all(["pic"], [truth], [pred], sigmas=sigmas)
    return PointWalls(data, [pred], judged, np.array([threshold]), "score ≥ .3", lambda frame: GREY, sigmas)


def said(wall: dict[str, Any]) -> list[str]:
    return [e["kind"] for part in wall["parts"] for e in part["items"]]


def test_the_worst_poses_name_the_point_and_the_share() -> None:
    """Boxes are 100 px long: a tail that is 30 px off is off by 30 %."""
    good, off = [*PLACES], [*PLACES[:3], [50, 50]]
    truth = mouse([PLACES, [[x + 60, y] for x, y in PLACES]])
    truth = truth.replace(boxes=[[10, 10, 110, 90], [70, 10, 170, 90]])
    pred = mouse([off, [[x + 60, y] for x, y in good]], scores=[0.9, 0.8])
    far, exchanged = point_walls(truth, pred).placed()
    assert said(far) == ["tail off by 30% of the size"]
    assert "1 of 2 found animals" in far["note"]
    assert said(exchanged) == []
    far, _ = point_walls(truth, pred, threshold=0.85).placed()
    assert "1 of 1 found animals" in far["note"]
    assert said(point_walls(truth, pred, threshold=0.95).placed()[0]) == []


def test_exchanged_sides_are_found() -> None:
    pred = mouse([[PLACES[i] for i in SCHEMA.flip_index]], scores=[0.9])
    far, exchanged = point_walls(mouse([PLACES]), pred).placed()
    assert said(exchanged) == ["2 of 2 points exchanged"]
    assert said(far) == ["ear_right off by 40% of the size, 1 more above 10%"]


def test_mistakes_are_counted_by_oks_and_unlabelled_truths_are_none() -> None:
    """The same box every time: by IoU all would be hits."""
    truth = mouse([PLACES, PLACES], [[2, 2, 2, 2], [0, 0, 0, 0]])
    truth = truth.replace(boxes=[[10, 10, 110, 90], [150, 80, 155, 85]])
    pred = mouse([[[x + 80, y] for x, y in PLACES]], scores=[0.9])
    walls = point_walls(truth, pred)
    positives, misses = walls.all()[:2]
    assert "1 at score ≥ .3 and OKS 0.5" in positives["note"]
    assert misses["note"].startswith("1 of 1 objects")


# -- the page -----------------------------------------------------------------------------------------------------


def text_of(page: Path) -> str:
    text = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.fixture(scope="module")
def turtles(fake_run: Builder, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fake_run(tmp_path_factory.mktemp("turtles"), pictures=14, epochs=5, keypoints=True)


@pytest.fixture(scope="module")
def page(turtles: Run) -> tuple[str, str]:
    path = write_report(*turtles)
    return path.read_text(encoding="utf-8"), text_of(path)


def test_sections_and_galleries(page: tuple[str, str]) -> None:
    ids = re.findall(r'<section id="(\w+)"', page[0])
    assert ids == ["findings", "changed", "scores", "points", "detections", "training", "learning", "mistakes", "data",
                   "conditions"]  # fmt: skip
    walls = ["Most confident false positives", "Missed objects", "Points far off", "Left and right exchanged"]
    assert [w for w in re.findall(r"<h3>([^<]+)</h3>", page[0]) if w in walls] == walls
    assert len(page[0]) < 5_000_000
    assert "nan" not in page[1].lower().split()
    assert "IoU" not in page[1]  # all of it is by OKS


def test_every_point_has_its_row(turtles: Run, page: tuple[str, str]) -> None:
    report = json.loads((turtles[0] / "metrics.json").read_text())["report"]
    assert len(report["points"]) == 6
    for r in report["points"]:
        hidden = f" {r['hidden']} hidden" if r["hidden"] else ""
        low, high = next((s["low"], s["high"]) for s in report["scores"]
                         if s["name"] == "PCK@.05" and s["where"] == {"point": r["point"]})  # fmt: skip
        cells = f"{r['point']} {r['n']}{hidden} {r['found']} {r['PCK@.05']:.3f} {low:.3f} – {high:.3f} "
        cells += f"{r['PCK@.1']:.3f} {r['PCK@.2']:.3f} {r['median_px']:.2f} {r['high_px']:.2f} {100 * r['median']:.1f} "
        assert cells in page[1]


def test_the_headline_is_of_points(turtles: Run, page: tuple[str, str]) -> None:
    scores = {s["name"]: s["value"] for s in json.loads((turtles[0] / "metrics.json").read_text())["scores"]
              if not s["where"]}  # fmt: skip
    for name in ("OKS_AP", "OKS_AP50", "PCK@.05", "PCK@.1", "swap_rate"):
        assert re.search(rf'<div class="name">{re.escape(name)}</div>', page[0])
        assert f"{scores[name]:.3f}" in page[1]


def test_the_card_has_a_row_per_point(turtles: Run) -> None:
    text = write_card(turtles[0]).read_text()
    assert "6 named points: eye, shell" in text
    assert re.search(r"^\| front_left \| \d+ \| [01]\.\d{3} \|", text, re.M)


def test_a_run_that_found_nothing(fake_run: Builder, tmp_path: Path) -> None:
    text = text_of(write_report(*fake_run(tmp_path, pictures=3, epochs=5, keypoints=True, detections=False)))
    assert "nothing detected there" in text
    assert "No point far off to show." in text


def test_labels_with_other_points_leave_the_numbers(turtles: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(turtles[0], copy)
    other = replace(turtles[1].schema, keypoints=("a", "b", "c", "d", "e", "f"), flip_pairs=(), edges=(), sigmas=())
    text = text_of(write_report(copy, Dataset(other, turtles[1].records)))
    assert "the validation labels name other points now" in text
    assert "front_left" in text
    assert "Points far off" not in text


# -- a data set ---------------------------------------------------------------------------------------------------


def test_a_set_shows_its_mean_pose_and_how_often_points_are_labelled(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", SIZE[::-1], (90, 90, 90)).save(path)
    visible = [[2, 2, 1, 0], [2, 1, 1, 0]]
    o = mouse([PLACES, PLACES], visible, ignore=[False, False])
    gone = mouse([PLACES], [[0, 0, 0, 0]])
    data = Dataset(SCHEMA, tuple(Record(str(i), (Frame(path),), SIZE, x) for i, x in enumerate((o, gone))), source="m")
    plain = Objects(SIZE, [0], [[0, 0, 20, 50]])
    boxes = Dataset(Schema(("car",)), (Record("c", (Frame(path),), SIZE, plain),), source="cars")
    write_exploration([data, boxes], tmp_path / "page.html")
    text = text_of(tmp_path / "page.html")
    assert "1 · nose 2 (100%) –" in text
    assert "3 · ear_left 2 (100%), 2 hidden –" in text
    assert "4 · tail 0 (0%) –" in text
    assert "ear_right – ear_left" in text
    assert "n = 2 objects, each turned" in text


def test_the_mean_pose_of_a_set_is_that_of_its_animals() -> None:
    """Turned, moved and enlarged copies of one pose: their mean is the pose."""
    from tercel.report import explore_points

    rng = np.random.default_rng(3)
    base, found = np.array(PLACES, np.float64), []
    for _ in range(12):
        t, s = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 2)
        turned = (base - base.mean(0)) @ np.array([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]]) * s
        at = turned + rng.uniform(40, 60, 2)
        side = 100 * s
        found.append(Objects(SIZE, [0], [[0, 0, side, side]], points=at[None], visible=[[2] * 4]))
    records = tuple(Record(str(i), (Frame(Path("x")),), SIZE, o) for i, o in enumerate(found))
    seen: list[Any] = []
    plot = keypoint_plots.pose_plot
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore_points, "pose_plot", lambda rows, *a, **k: seen.append(rows) or plot(rows, *a, **k))
        explore_points.content([Dataset(SCHEMA, records)], ["m"])
    xy = np.array([[r["x"], r["y"]] for r in seen[0]])
    gaps = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1))
    true = np.hypot(*(base[:, None] - base[None]).transpose(2, 0, 1)) / 100
    np.testing.assert_allclose(gaps, true, atol=1e-6)
    a, b = xy[1] - xy[0], xy[2] - xy[0]
    assert a[0] * b[1] - a[1] * b[0] == pytest.approx(-0.4 * 0.4 * 2 / 2 * 1.0, abs=0.2)  # not mirrored


def test_point_scores_of_a_judgement_can_be_read_again(turtles: Run) -> None:
    """The report is made of plain values: nothing of it needs the judge's objects."""
    report = judge_keypoints([r.objects for r in turtles[1].records][:2],
                             [r.objects.replace(scores=[1.0] * len(r.objects)) for r in turtles[1].records][:2],
                             turtles[1].schema, resamples=0)  # fmt: skip
    rows = json.loads(json.dumps(report.to_json()["points"]))
    assert keypoint_plots.pose_plot(rows, turtles[1].schema)
