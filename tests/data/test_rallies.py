"""Generated rallies: truth against the drawn pixels, physics against closed forms, whole folders or none."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tercel.core.finding import TercelError
from tercel.core.track import ABSENT, BLURRED, CLEAR, OCCLUDED
from tercel.data import rallies
from tercel.data.rally.film import Drive, Film, Seen, Shot
from tercel.data.rally.physics import BADMINTON, SPORTS, TABLE_TENNIS, Flight, G, Sport, advance, aim, look
from tercel.data.rally.play import Point, play
from tercel.data.rally.players import figure
from tercel.data.rally.style import match_style
from tercel.data.video import Video

SIZE = (288, 512)
DT = 1 / 480
names = pytest.mark.parametrize("name", list(SPORTS))


def film(name: str, *, match: int = 1, rally: int = 0, frames: int = 60, seed: int = 3, **changes: float) -> Film:
    """A film without people and noise; `changes` are fields of its Style."""
    sport = SPORTS[name]
    style = replace(match_style(np.random.default_rng([seed, match]), sport, match).plain(), **changes)
    return Film(np.random.default_rng([seed, match, rally]), style, sport, frames=frames, size=SIZE, fps=30.0)


def point(name: str, seed: int, seconds: float = 4.0) -> Point:
    return play(SPORTS[name], np.random.default_rng(seed), seconds, DT)


# -- truth against pixels -------------------------------------------------------------------------------------------


def drawn_centre(f: Film, shot: Shot, number: int) -> np.ndarray:
    """Centroid [2] of the ball's coverage, which is solved from the picture with and without the ball."""
    x, y = (int(v) for v in shot.xy)
    window = slice(max(0, y - 30), y + 31), slice(max(0, x - 30), x + 31)
    empty = f._expose(f.stage.picture, number)[window].astype(float)
    step = np.array(f.style.ball) - empty
    alpha = ((shot.image[window] - empty) * step).sum(-1) / (step**2).sum(-1)
    rows, columns = np.mgrid[window] + 0.5
    alpha = np.where(alpha > 0.02, alpha, 0)
    return np.array([(alpha * columns).sum(), (alpha * rows).sum()]) / max(alpha.sum(), 1e-9)


def errors(f: Film, shift: float = 0.0) -> np.ndarray:
    """Distance in px between truth and drawn ball where nothing else disturbs; truth moved by `shift` frames."""
    f.stage = replace(f.stage, layers=())
    shots = list(f)
    busy = {i + d for i, s in enumerate(shots) if s.event for d in (-1, 0, 1)}
    out = []
    for i in range(1, len(shots) - 1):
        before, s = shots[i - 1], shots[i]
        if i in busy or ABSENT in {before.visibility, s.visibility} or s.visibility == OCCLUDED:
            continue
        if not (40 < s.xy[0] < SIZE[1] - 40 and 40 < s.xy[1] < SIZE[0] - 40):
            continue
        moved = np.array(s.xy) + shift * (np.array(s.xy) - before.xy)
        out.append(float(np.hypot(*(drawn_centre(f, s, i) - moved))))
    return np.array(out)


@names
@pytest.mark.parametrize("changes", [{}, {"pan": 7.0, "jitter": 0.25}, {"exposure": 0.9}])
def test_truth_is_the_middle_of_what_is_drawn(name: str, changes: dict[str, float]) -> None:
    found = np.concatenate([errors(film(name, rally=r, **changes)) for r in range(3)])
    assert len(found) > 40
    assert np.median(found) < 0.12
    assert np.quantile(found, 0.99) < 0.5


def test_the_truth_test_would_see_another_moment_and_half_a_pixel() -> None:
    assert np.median(errors(film("tennis", rally=1), shift=-0.5)) > 0.5
    f = film("table_tennis")
    f.cut = f.cut + 0.5  # the camera moves, the picture with it
    shots = list(f)
    f.cut = f.cut - 0.5
    off = [s for s in shots if s.visibility == CLEAR]
    assert off
    assert np.median([np.hypot(*(drawn_centre(f, s, 0) - s.xy)) for s in off]) > 0.3


def test_the_ball_is_as_large_as_on_television() -> None:
    for name in SPORTS:
        f = film(name)
        sizes = [s.diameter for s in _seen(f)]
        assert 2.4 < min(sizes) <= max(sizes) < 6.1


def _seen(f: Film) -> list[Seen]:
    found: list[Seen] = []
    draw = f._draw_ball
    f._draw_ball = lambda image, ball: (found.append(ball), draw(image, ball))[1]  # type: ignore[method-assign]
    list(f)
    return found


# -- visibility -----------------------------------------------------------------------------------------------------


def still_ball(f: Film, xy: tuple[float, float], key: float, length: float = 0.0, diameter: float = 4.0) -> Seen:
    middle = np.array(xy) + f.cut[0]
    return Seen(middle, middle + np.linspace(-0.5, 0.5, 41)[:, None] * (length, 0), diameter, key)


def test_a_player_nearer_to_the_camera_hides_the_ball() -> None:
    f = film("badminton")
    kit = f.style.kits[0]
    parts = figure(kit, (1.0, -3.0), 1, 0.0)
    chest = f.camera.project(np.array([[1.0, -3.0, 1.1]]))[0][0] - f.cut[0]
    x, y = float(chest[0]), float(chest[1])
    row, column = int(y), int(x)
    hidden = f._shot(0, [(-3.0, parts)], still_ball(f, (x, y), key=-2.0), "")
    assert hidden.visibility == OCCLUDED
    assert hidden.xy == pytest.approx((x, y))
    np.testing.assert_allclose(hidden.image[row, column], kit.shirt, atol=2)
    before = f._shot(0, [(-3.0, parts)], still_ball(f, (x, y), key=-4.0), "")
    assert before.visibility == CLEAR
    np.testing.assert_allclose(before.image[row, column], f.style.ball, atol=2)
    beside = f._shot(0, [(-3.0, parts)], still_ball(f, (x + 60, y), key=-2.0), "")
    assert beside.visibility == CLEAR


def test_the_table_hides_a_ball_below_it() -> None:
    f = film("table_tennis")
    flown = Flight(TABLE_TENNIS, DT, (0.0, 0.0, 0.3))
    for _ in range(16):
        flown.step()
    from tercel.data.rally.film import _Flown

    path = np.array(flown.path)
    ball = _Flown(Point(path, path, (), (), 17), f.camera, TABLE_TENNIS, SIZE[1], 0.5).seen(8)
    assert ball is not None
    assert f._shot(0, [], ball, "").visibility == OCCLUDED
    path[:, 2] += 1.0  # above the table
    ball = _Flown(Point(path, path, (), (), 17), f.camera, TABLE_TENNIS, SIZE[1], 0.5).seen(8)
    assert ball is not None
    assert f._shot(0, [], ball, "").visibility == CLEAR


def test_blurred_means_longer_than_two_diameters_and_absent_means_outside() -> None:
    f = film("tennis")
    kinds = [f._shot(0, [], still_ball(f, (250, 200), -9, length), "").visibility for length in (0.0, 7.9, 8.1, 40.0)]
    assert kinds == [CLEAR, CLEAR, BLURRED, BLURRED]
    for xy in ((-0.1, 50.0), (512.0, 50.0), (50.0, -0.1), (50.0, 288.0)):
        gone = f._shot(0, [], still_ball(f, xy, -9), "")
        assert gone.visibility == ABSENT
        assert np.isnan(gone.xy).all()
    assert f._shot(0, [], still_ball(f, (0.0, 0.0), -9), "").visibility == CLEAR
    assert f._shot(0, [], None, "").visibility == ABSENT


def test_a_ball_that_moves_fades() -> None:
    f = film("table_tennis")
    f.stage = replace(f.stage, layers=())
    gains = []
    for length in (0.0, 10.0, 30.0):
        shot = f._shot(0, [], still_ball(f, (250, 40), -9, length), "")
        gains.append(int((shot.image.astype(int) - f._expose(f.stage.picture, 0)).max()))
    assert gains[0] > 1.5 * gains[1] > 2 * gains[2]


def test_players_hide_the_ball_now_and_then_and_all_classes_occur() -> None:
    seen = np.zeros(4, int)
    for match in range(6):
        sport = ("badminton", "table_tennis")[match % 2]
        shots = rallies.film_rally(sport, seed=5, match=match, rally=0, frames=80, size=(144, 256), fps=30.0)
        seen += np.bincount([s.visibility for s in shots], minlength=4)
    assert seen.sum() == 480
    assert (seen > 4).all()
    assert seen[CLEAR] + seen[BLURRED] > 0.55 * seen.sum()


def test_one_frame_shows_more_than_one_thing_that_could_be_the_ball() -> None:
    shots = list(rallies.film_rally("badminton", seed=1, match=2, rally=0, frames=40, size=SIZE, fps=30.0))
    clear = [s for s in shots if s.visibility == CLEAR and 10 < s.xy[0] < 500 and 10 < s.xy[1] < 280]
    rivals = []
    for s in clear:
        grey = s.image.mean(-1)
        x, y = int(s.xy[0]), int(s.xy[1])
        peak = grey[y - 2 : y + 3, x - 2 : x + 3].max()
        grey[y - 8 : y + 9, x - 8 : x + 9] = 0
        rivals.append(int((grey >= peak).sum()))
    assert len(clear) > 10
    assert np.median(rivals) > 20


# -- physics --------------------------------------------------------------------------------------------------------


def test_free_fall_follows_the_closed_form() -> None:
    """A falling body with quadratic drag has v(t) = vt tanh(g t / vt), z(t) = vt^2 / g ln cosh(g t / vt)."""
    for sport in SPORTS.values():
        p, v = (0.0, 0.0, 100.0), (0.0, 0.0, 0.0)
        for _ in range(960):
            p, v = advance(p, v, DT, sport.drag)
        t, vt = 960 * DT, sport.terminal
        assert -v[2] == pytest.approx(vt * np.tanh(G * t / vt), rel=1e-4)
        assert 100 - p[2] == pytest.approx(vt**2 / G * np.log(np.cosh(G * t / vt)), rel=1e-4)


def test_a_parabola_is_exact_and_spin_does_no_work() -> None:
    p, v = (1.0, 2.0, 3.0), (4.0, -5.0, 6.0)
    for _ in range(100):
        p, v = advance(p, v, 0.01, 0.0)
    np.testing.assert_allclose(p, (5.0, -3.0, 3 + 6 - G / 2), atol=1e-12)
    still = energy(np.array([p]), np.array([v]))[0]
    for _ in range(100):
        p, v = advance(p, v, DT, 0.0, (0.7, -0.2, 0.1))
    assert energy(np.array([p]), np.array([v]))[0] == pytest.approx(still, rel=1e-6)


def test_a_shuttle_slows_down_as_it_flies() -> None:
    """Level flight under quadratic drag alone: v(x) = v0 exp(-k x)."""
    p, v = (0.0, 0.0, 50.0), (0.0, 60.0, 0.0)
    while p[1] < 5:
        p, v = advance(p, v, DT / 4, BADMINTON.drag)
    assert v[1] == pytest.approx(60 * np.exp(-BADMINTON.drag * p[1]), rel=0.01)


@pytest.mark.parametrize("drag", [0.0, BADMINTON.drag])
def test_aim_meets_its_target(drag: float) -> None:
    start, end = (0.5, -6.0, 2.4), (-2.0, 5.5, 2.3)
    v = aim(start, end, 1.3, drag, (0.0, 0.0, 0.0))
    assert v is not None
    p = start
    for _ in range(1000):
        p, v = advance(p, v, 0.0013, drag)
    np.testing.assert_allclose(p, end, atol=0.08)


@names
def test_a_bounce_returns_its_share_of_the_speed(name: str) -> None:
    sport = replace(SPORTS[name], terminal=1e9)  # no drag
    drop = Flight(sport, DT, (0.0, 0.3, sport.top + sport.diameter / 2 + 1.0))
    while len(drop.events) < 2 and drop.now < 2000:
        drop.step()
    bounce = drop.events[0][0]
    assert drop.events[0][1] == "bounce"
    assert bounce == pytest.approx(np.sqrt(2 / G) / DT, abs=1)
    assert drop.velocity[bounce + 1][2] == pytest.approx(sport.restitution * np.sqrt(2 * G), abs=0.05)
    peak = max(p[2] for p in drop.path[bounce + 1 : bounce + 400]) - sport.top - sport.diameter / 2
    assert peak == pytest.approx(sport.restitution**2, abs=0.01)


def energy(p: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.5 * (v**2).sum(-1) + G * p[:, 2]


@names
@pytest.mark.parametrize("seed", range(4))
def test_energy_never_grows_but_by_a_racket(name: str, seed: int) -> None:
    p = point(name, seed)
    e = energy(p.path, p.velocity)
    grown = np.nonzero(np.diff(e) > 1e-3 * e[:-1].clip(1))[0] + 1
    assert set(grown) <= {s.step for s in p.strokes}


@names
@pytest.mark.parametrize("seed", range(4))
def test_events_lie_where_the_ball_changes_its_course(name: str, seed: int) -> None:
    p, sport = point(name, seed), SPORTS[name]
    change = np.linalg.norm(np.diff(p.velocity, axis=0), axis=1)
    speed = np.linalg.norm(p.velocity[:-1], axis=1)
    smooth = (sport.drag * speed**2 + G + 1.2 * speed) * DT * 1.2  # what drag, weight and spin can do in a step
    told = {s for s, _ in p.events}
    assert told
    for step, _ in p.events:
        if step == 0:  # hit out of the hand: the path begins there
            continue
        assert max(change[max(0, step - 1) : step + 1]) > 3 * smooth[max(0, step - 1) : step + 1].min()
    for step in np.nonzero(change > smooth + 0.6)[0] + 1:
        at = np.abs(p.path[step])
        quiet = abs(p.velocity[step - 1, 2]) < 1.05 and at[2] < sport.top + 0.1
        board = (at[:2] > np.array(sport.wall) - 0.3).any()
        assert quiet or board or {step - 1, step, step + 1} & told, step


def test_the_net_stops_what_is_too_low() -> None:
    for height, stopped in ((1.2, True), (1.7, False), (0.5, False)):  # over it, through it, under it
        ball = Flight(BADMINTON, DT, (0.0, -0.2, height), (0.0, 20.0, 0.0))
        for _ in range(10):
            ball.step()
        assert (ball.p[1] < 0) == stopped
        assert [e for _, e, _ in ball.events] == ["net"] * stopped


@names
def test_points_are_played_by_the_rules(name: str) -> None:
    nets = 0
    for seed in range(12):
        p, sport = point(name, seed), SPORTS[name]
        sides = [s.side for s in p.strokes]
        assert sides == [sides[0] * (-1) ** i for i in range(len(sides))]
        assert all(s.side * s.place[1] > 0 for s in p.strokes)
        assert [e for _, e in p.events].count("hit") == len(sides)
        nets += sum(e == "net" for _, e in p.events)
        steps = [s for s, _ in p.events]
        assert steps == sorted(steps)
        if name == "table_tennis":
            serve, played = p.strokes[0].step, [(s, e) for s, e in p.events if s > p.strokes[0].step]
            assert [e for _, e in played[:2]] == ["bounce", "bounce"]
            first, second = (p.path[s, 1] for s, _ in played[:2])
            assert first * sides[0] > 0 > second * sides[0]
            assert serve > 0  # it was tossed
        for step, e in p.events:
            if e == "bounce" and step < p.over:
                assert p.path[step, 2] == pytest.approx(sport.top + sport.diameter / 2, abs=0.02)
    assert 0 <= nets <= 6


def test_the_camera_projects_as_on_paper() -> None:
    camera = look((0.0, -10.0, 0.0), (0.0, 0.0, 0.0), 100.0, (50.0, 40.0))
    xy, depth = camera.project(np.array([[1.0, 0.0, 2.0], [0.0, 10.0, -1.0]]))
    np.testing.assert_allclose(xy, [[60, 20], [50, 45]], atol=1e-9)
    np.testing.assert_allclose(depth, [10, 20])


# -- folders --------------------------------------------------------------------------------------------------------

SMALL = {"frames": 10, "size": (96, 160), "seed": 4}


def small(folder: Path, **more: object) -> Path:
    return rallies.make_rallies(folder, **{**SMALL, "splits": {"train": 3, "val": 1}, "rallies_per_match": 2, **more})  # type: ignore[arg-type]


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_folder_holds_the_film_and_its_truth(tmp_path: Path) -> None:
    folder = small(tmp_path / "a", sport="table_tennis", frames=40)
    videos = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.mp4"))
    assert videos == [
        "train/match1/video/1_01_00.mp4",
        "train/match1/video/1_02_00.mp4",
        "train/match2/video/1_01_00.mp4",
        "val/match3/video/1_01_00.mp4",
    ]
    table = rows(folder / "train/match1/csv/1_02_00_ball.csv")
    assert list(table[0]) == list(rallies.HEADER)
    shots = list(rallies.film_rally("table_tennis", seed=4, match=1, rally=1, frames=40, size=(96, 160), fps=30.0))
    with Video(folder / videos[1]) as video:
        assert video.count == len(table) == 40
        assert video.size == (96, 160)
        assert video.fps == pytest.approx(30)
        for i, (row, shot) in enumerate(zip(table, shots, strict=True)):
            assert int(row["Frame"]) == i
            assert int(row["Visibility"]) == shot.visibility
            assert row["Event"] == shot.event
            if shot.visibility != ABSENT:
                assert (float(row["X"]) + 0.5, float(row["Y"]) + 0.5) == pytest.approx(shot.xy, abs=0.0051)
            assert np.abs(video.frame(i).astype(int) - shot.image).mean() < 6
    assert {r["Event"] for p in folder.rglob("*.csv") for r in rows(p)} - {""} <= set(rallies.EVENTS)


def test_the_same_bytes_twice_and_whatever_follows(tmp_path: Path) -> None:
    a, b = small(tmp_path / "a"), small(tmp_path / "b")
    c = small(tmp_path / "c", splits={"train": 4, "test": 2})
    files = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert len(files) == 9
    for name in files:
        assert (a / name).read_bytes() == (b / name).read_bytes()
        if name.parts[0] == "train":
            assert (a / name).read_bytes() == (c / name).read_bytes()
    d = small(tmp_path / "d", seed=5)
    assert all((a / n).read_bytes() != (d / n).read_bytes() for n in files if n.suffix == ".mp4")


def test_splits_share_no_match_and_no_look(tmp_path: Path) -> None:
    folder = small(tmp_path / "a", splits={"train": 3, "val": 2, "test": 1})
    matches = {s: {p.name for p in (folder / s).iterdir()} for s in ("train", "val", "test")}
    assert matches == {"train": {"match1", "match2"}, "val": {"match3"}, "test": {"match4"}}
    for sport in SPORTS.values():
        looks = [match_style(np.random.default_rng([4, m]), sport, m) for m in range(1, 21)]
        hues = np.sort([_hue(s.court) for s in looks])
        assert np.diff(hues, append=hues[0] + 1).min() > 0.02
        assert len({s.kits for s in looks}) == 20


def _hue(colour: tuple[float, float, float]) -> float:
    import colorsys

    return colorsys.rgb_to_hsv(*(c / 255 for c in colour))[0]


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small(tmp_path / "a")
    before = json.loads((folder / rallies.MARKER).read_text())
    monkeypatch.setattr(rallies, "film_rally", None)  # the same request films nothing
    assert small(tmp_path / "a") == folder
    with pytest.raises(TercelError, match="another data set"):
        small(tmp_path / "a", seed=9)
    assert json.loads((folder / rallies.MARKER).read_text()) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(TercelError, match="not empty"):
        small(tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(TercelError, match="is a file"):
        small(tmp_path / "file")


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rallies, "write_rally", full)
    with pytest.raises(TercelError, match="No space left"):
        small(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sport": "chess"}, "chess"),
        ({"size": (95, 160)}, "even numbers"),
        ({"size": (32, 32)}, "even numbers"),
        ({"splits": {}}, "rallies per split"),
        ({"splits": {"train": -1}}, "rallies per split"),
        ({"splits": {"../x": 1}}, "split names"),
        ({"frames": 1}, "at least 2 frames"),
        ({"fps": 0.0}, "per second"),
        ({"trajectories": Path("nowhere")}, "no trajectory"),
    ],
)
def test_misuse(tmp_path: Path, wrong: dict[str, object], words: str) -> None:
    with pytest.raises(TercelError, match=words):
        small(tmp_path / "a", **wrong)
    assert list(tmp_path.iterdir()) == []


# -- trajectories ---------------------------------------------------------------------------------------------------


def tracks(folder: Path, matches: int = 2) -> Path:
    """TrackNet labels for 1280x720: a ball on a line, away in frames 3 and 4."""
    for m in range(1, matches + 1):
        path = folder / f"match{m}" / "corrected_csv" / "1_01_01_ball.csv"
        path.parent.mkdir(parents=True)
        lines = [f"{i},{int(i not in (3, 4))},{200 + 40 * i + m},{300 + 10 * i}" for i in range(8)]
        path.write_text("Frame,Visibility,X,Y\n" + "\n".join(lines) + "\n")
    return folder


def test_the_ball_follows_a_trajectory(tmp_path: Path) -> None:
    source = tracks(tmp_path / "labels")
    folder = small(tmp_path / "a", trajectories=source, frames=8, size=(288, 512))
    for csv_path, m in (("train/match1/csv/1_01_00_ball.csv", 1), ("val/match3/csv/1_01_00_ball.csv", 2)):
        for i, row in enumerate(rows(folder / csv_path)):
            assert row["Event"] == ""
            if i in (3, 4):
                assert row["Visibility"] == "0"
                continue
            # continuous place = index + .5; 1280 -> 512 is a factor of .4
            assert int(row["Visibility"]) in (CLEAR, BLURRED)
            assert float(row["X"]) == pytest.approx((200 + 40 * i + m + 0.5) * 0.4 - 0.5, abs=0.0051)
            assert float(row["Y"]) == pytest.approx((300 + 10 * i + 0.5) * 0.4 - 0.5, abs=0.0051)
    with pytest.raises(TercelError, match="another data set"):
        small(tmp_path / "a", frames=8, size=(288, 512))


def test_a_driven_ball_is_drawn_where_it_shall_be() -> None:
    xy = np.stack([np.linspace(80, 420, 30), np.linspace(250, 90, 30)], 1)
    xy[10:13] = np.nan
    style = replace(match_style(np.random.default_rng(0), TABLE_TENNIS, 1).plain(), pan=5.0)
    f = Film(np.random.default_rng(1), style, TABLE_TENNIS, frames=30, size=SIZE, fps=30.0, drive=Drive(xy))
    f.stage = replace(f.stage, layers=())
    shots = list(f)
    assert [i for i, s in enumerate(shots) if s.visibility == ABSENT] == [10, 11, 12]
    off = [np.hypot(*(drawn_centre(f, s, i) - xy[i])) for i, s in enumerate(shots) if s.visibility != ABSENT]
    assert np.median(off) < 0.05
    assert np.max(off) < 0.3


def test_trajectories_do_not_cross_splits(tmp_path: Path) -> None:
    with pytest.raises(TercelError, match="2 matches or rallies for 3 splits"):
        small(tmp_path / "a", trajectories=tracks(tmp_path / "l"), splits={"train": 2, "val": 1, "test": 1})
    bad = tmp_path / "bad.csv"
    bad.write_text("Frame,Visibility,X,Y\n0,1,5,6\n1,1,five,6\n")
    with pytest.raises(TercelError, match=r"bad\.csv:3"):
        small(tmp_path / "b", trajectories=bad, splits={"train": 1})
    bad.write_text("Frame,Visibility,X,Y\n")
    with pytest.raises(TercelError, match="no rows"):
        small(tmp_path / "b", trajectories=bad, splits={"train": 1})


@pytest.mark.parametrize("kind", ["tracknetv3-corrected-labels", "table-tennis-3cam-labels"])
def test_real_trajectories(shared: Path, tmp_path: Path, kind: str) -> None:
    source = shared / "data" / kind
    groups = rallies.trajectory_groups(source)
    assert sum(map(len, groups)) == (29 if kind.startswith("track") else 30)
    assert len(groups) == (3 if kind.startswith("track") else 7)
    sport = "badminton" if kind.startswith("track") else "table_tennis"
    splits = {"train": 2, "val": 1, "test": 1}
    folder = small(tmp_path / "a", trajectories=source, sport=sport, splits=splits, frames=40)
    seen = [r for p in folder.rglob("*.csv") for r in rows(p) if r["Visibility"] != "0"]
    assert len(seen) > 60
    xy = np.array([(float(r["X"]), float(r["Y"])) for r in seen])
    assert (xy > -0.5).all()
    assert (xy < [160, 96]).all()
    assert np.ptp(xy[:, 0]) > 20


def test_sports_are_what_their_rules_say() -> None:
    assert {n: (s.length, s.width) for n, s in SPORTS.items()} == {
        "badminton": (13.4, 6.1),
        "table_tennis": (2.74, 1.525),
        "tennis": (23.77, 10.97),
    }
    assert isinstance(TABLE_TENNIS, Sport)
