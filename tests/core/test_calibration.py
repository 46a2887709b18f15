"""Calibration: what it does to boxes and scores, by hand; what it refuses; how it knows its own pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tercel.core.calibration import Calibration, apply, map_scores, picture_keys, read_calibration
from tercel.core.finding import TercelError
from tercel.core.geometry import obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Frame, Record

SIZE = (100, 200)


def oriented(**columns) -> Objects:
    obbs = np.array([[50, 40, 40, 20, 0.1], [120, 60, 30, 25, -1.5]])
    return Objects(SIZE, [0, 1], obb_hull(obbs), obbs=obbs, scores=[0.9, 0.2], **columns)


def test_sides_and_angle_by_hand():
    o = oriented(area=[800, 750], heading=[0.1, 3.0], headed=[True, False])
    got = apply(o, Calibration(length=1.5, width=0.5, angle=0.2))
    np.testing.assert_allclose(got.obbs, [[50, 40, 60, 10, 0.3], [120, 60, 45, 12.5, -1.3]], atol=1e-5)
    np.testing.assert_allclose(got.boxes, obb_hull(got.obbs.astype(float)), atol=1e-4)
    np.testing.assert_allclose(got.area, [600, 562.5])
    np.testing.assert_allclose(got.heading, [0.3, 3.2 - 2 * math.pi], atol=1e-6)
    assert got.headed.tolist() == [True, False]
    assert got.scores.tolist() == o.scores.tolist()


def test_a_box_that_becomes_wider_than_long_is_written_anew():
    got = apply(oriented(), Calibration(length=0.5, width=2))
    np.testing.assert_allclose(got.obbs[0], [50, 40, 40, 20, 0.1 - math.pi / 2], atol=1e-5)


def test_axis_aligned_boxes_by_hand():
    o = Objects(SIZE, [0], [[10, 10, 30, 20]], scores=[0.5])
    got = apply(o, Calibration(width=0.5, height=2, length=7, angle=1))
    np.testing.assert_allclose(got.boxes, [[15, 5, 25, 25]])


def test_nothing_to_do_changes_nothing():
    o = oriented()
    assert apply(o, Calibration()) is o
    empty = Objects.empty(SIZE, like=o)
    assert apply(empty, Calibration(width=2, temperature=2)) is empty


def test_temperature_by_hand():
    # logit(.9) = ln 9; half of it is ln 3, and sigmoid(ln 3) = 3/4.
    assert map_scores(np.array([0.9]), Calibration(temperature=2))[0] == pytest.approx(0.75, abs=2e-4)
    assert map_scores(np.array([0.75]), Calibration(temperature=0.5))[0] == pytest.approx(0.9, abs=2e-4)
    ends = map_scores(np.array([0.0, 0.5, 1.0]), Calibration(temperature=3))
    assert ends[1] == pytest.approx(0.5)
    assert 0 <= ends[0] < 0.01
    assert 0.99 < ends[2] <= 1


def test_knots_by_hand():
    c = Calibration(knots=((0.2, 0.0), (0.6, 0.4), (0.8, 0.4)))
    got = map_scores(np.array([0.1, 0.4, 0.7, 0.9]), c)
    np.testing.assert_allclose(got, [0, 0.2, 0.4, 0.4], atol=2e-4)


@pytest.mark.parametrize("c", [Calibration(temperature=0.4), Calibration(knots=((0.1, 0.0), (0.4, 0.5), (0.9, 0.5)))])
def test_the_ranking_stays(c):
    """Also where the map is flat."""
    scores = np.random.default_rng(0).permutation(np.linspace(0.01, 0.99, 99))
    assert np.argsort(map_scores(scores, c)).tolist() == np.argsort(scores).tolist()


def test_json_round_trip(tmp_path: Path):
    c = Calibration(length=0.9, width=0.923, angle=-0.01, knots=((0.1, 0.2), (0.5, 0.7)), fitted_on=("a",), source="x")
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**c.to_json(), "report": {"any": "thing"}}))
    assert read_calibration(path) == c


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no calibration"),
        ({"version": 9}, "version 9"),
        ({"widht": 1}, "unknown key 'widht'"),
        ({"width": "wide"}, "could not convert"),
        ({"width": -1}, "width is -1"),
        ({"temperature": 0}, "temperature is 0"),
        ({"knots": [[0.5, 0.1], [0.2, 0.3]]}, "do not rise"),
        ({"knots": [[0.5, 1.1]]}, "do not rise within"),
        ({"knots": [[0.5, 0.1]], "temperature": 2}, "both there"),
    ],
)
def test_bad_files_are_refused(change, message):
    with pytest.raises(TercelError, match=message):
        Calibration.from_json({**Calibration().to_json(), **change})


def record(id: str, path: Path) -> Record:
    return Record(id, (Frame(path),), SIZE, Objects.empty(SIZE))


def test_its_own_pictures_are_known_by_content(tmp_path: Path):
    for name, content in (("a.jpg", b"one"), ("b.jpg", b"one"), ("c.jpg", b"two")):
        (tmp_path / name).write_bytes(content)
    c = Calibration(fitted_on=picture_keys(record("1", tmp_path / "a.jpg")))
    assert c.shared([record("7", tmp_path / "b.jpg"), record("1", tmp_path / "c.jpg")]) == ["7"]
    assert c.shared([record("1", tmp_path / "gone.jpg"), record("2", tmp_path / "gone.jpg")]) == ["1"]  # by id then
    assert Calibration(fitted_on=("id 1",)).shared([record("1", tmp_path / "c.jpg")]) == ["1"]
