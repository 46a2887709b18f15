"""Errors of matched boxes: injected ones come back, edges and headings by hand, repairs give back the AP."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tercel.core.finding import TercelError
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.metrics.ap import judge_boxes
from tercel.metrics.errors import placement

SIZE = (1000, 1000)
QUARTER = np.pi / 2


def oriented(rows, labels=None, heading=None, **columns):
    """Canonical oriented boxes; `heading` in radians, NaN = not known."""
    rows = np.asarray(rows, float).reshape(-1, 5)
    if heading is not None:
        heading = np.asarray(heading, float)
        columns |= {"heading": np.nan_to_num(heading), "headed": ~np.isnan(heading)}
    labels = np.zeros(len(rows), int) if labels is None else labels
    return Objects(SIZE, labels, obb_hull(rows), obbs=canonical_obb(rows), **columns)


def vehicles(seed=0, pictures=8, n=25):
    """True boxes [n,5] per picture on a grid, none near another, at all angles."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(np.arange(5), np.arange(5)), axis=-1).reshape(-1, 2)[:n] * 180 + 100
    return [
        np.column_stack([place + rng.uniform(-20, 20, (n, 2)), rng.uniform(40, 60, n), rng.uniform(18, 26, n),
                         rng.uniform(-QUARTER, QUARTER, n)])
        for _ in range(pictures)
    ]  # fmt: skip


def move(rows, along=0.0, across=0.0, length=0.0, width=0.0, degrees=0.0):
    """Detections with known errors in the truths' own frames."""
    c, s = np.cos(rows[:, 4]), np.sin(rows[:, 4])
    out = rows.copy()
    out[:, 0] += along * c - across * s
    out[:, 1] += along * s + across * c
    return out + np.array([0, 0, length, width, np.radians(degrees)])


def judge(truths, preds, scores=0.9, **options):
    pred = [oriented(p, scores=np.full(len(p), scores)) for p in preds]
    return placement([oriented(t) for t in truths], pred, ["car"], **options)


def test_injected_errors_come_back():
    truths = vehicles()
    r = judge(truths, [move(t, 3, -2, 4, 1.5, 5) for t in truths])
    want = {"along_px": 3, "across_px": -2, "length_px": 4, "width_px": 1.5, "angle_deg": 5, "centre_px": math.sqrt(13)}
    rows = np.concatenate(truths)
    for name, value in want.items():
        assert r[f"{name}_bias"] == pytest.approx(value, abs=1e-3), name
        assert r[f"{name}_error"] == pytest.approx(abs(value), abs=1e-3), name
        assert r.values[name].std() < 1e-3
    assert r["length_percent_bias"] == pytest.approx(np.mean(400 / rows[:, 2]), rel=1e-4)
    assert r["width_percent_bias"] == pytest.approx(np.mean(150 / rows[:, 3]), rel=1e-4)
    assert len(r.iou) == 200
    assert all(row["n"] == 200 for row in r.table if row["quantity"] != "heading_deg")
    assert all(s.low <= s.value + 1e-9 and s.value <= s.high + 1e-9 for s in r.scores if not math.isnan(s.low))
    assert {s.where["unit"] for s in r.scores if s.name.startswith("width_percent")} == {"% of the truth's"}


def test_errors_do_not_depend_on_how_the_scene_lies():
    truths = vehicles(1)
    rng = np.random.default_rng(2)
    preds = [t + rng.normal(0, [2, 2, 3, 1.5, 0.05], t.shape) for t in truths]

    def turned(rows, by):
        c, s = np.cos(by), np.sin(by)
        return np.column_stack([(rows[:, :2] - 500) @ np.array([[c, s], [-s, c]]) + 500, rows[:, 2:4], rows[:, 4] + by])

    a = judge(truths, preds)
    b = judge([turned(t, 0.1) for t in truths], [turned(p, 0.1) for p in preds])
    for name, values in a.values.items():
        if name.split("_")[0] in ("front", "back", "left", "right"):
            continue  # they change sides where theta crosses the end of its range
        sign = -1 if name in ("along_px", "across_px") else 1
        np.testing.assert_allclose(np.abs(values), np.abs(b.values[name]), atol=2e-3, err_msg=f"{name} {sign}")


@pytest.mark.parametrize("quarters", range(4))
def test_edges_by_hand(quarters):
    """A vehicle 40 x 20 that points right, and a detection 3 px ahead of it, 2 px to its right, 4 longer, 2 narrower;
    then the scene turned by quarters."""
    by = quarters * QUARTER
    c, s = np.cos(by), np.sin(by)
    shift = np.array([3, 2]) @ np.array([[c, s], [-s, c]])
    truth = oriented([[500, 500, 40, 20, by]], heading=[by])
    pred = oriented([[*(500 + shift), 44, 18, by]], heading=[by + np.radians(190)], scores=[0.9])
    r = placement([truth], [pred], ["car"])
    got = {n: float(r.values[f"{n}_px"][0]) for n in ("front", "back", "left", "right")}
    assert got == pytest.approx({"front": 5, "back": -1, "left": -3, "right": 1}, abs=1e-3)
    assert r.values["heading_deg"][0] == pytest.approx(-170, abs=1e-3)
    assert r["heading_reversed"] == 1


def test_a_heading_across_the_long_side():
    """The front of a bus that drives sideways is its long side."""
    truth = oriented([[500, 500, 40, 20, 0]], heading=[QUARTER])  # the front looks down
    pred = oriented([[500, 503, 40, 24, 0]], scores=[0.9])
    r = placement([truth], [pred], ["bus"])
    got = {n: float(r.values[f"{n}_px"][0]) for n in ("front", "back", "left", "right")}
    assert got == pytest.approx({"front": 5, "back": -1, "left": 0, "right": 0}, abs=1e-3)
    assert r["width_px_bias"] == pytest.approx(4, abs=1e-3), "length stays the long side"
    assert math.isnan(r.values["heading_deg"][0]), "the detection knows no heading"
    assert math.isnan(r["heading_deg_bias"])


def test_a_square_turned_by_a_quarter_is_no_error():
    truth = oriented([[500, 500, 21, 20, 0.0]])
    pred = oriented([[500, 500, 21.5, 20.5, QUARTER + 0.02]], scores=[0.9])
    r = placement([truth], [pred], ["car"])
    assert r["angle_deg_bias"] == pytest.approx(np.degrees(0.02), abs=1e-3)
    assert (r["length_px_bias"], r["width_px_bias"]) == pytest.approx((-0.5, 1.5), abs=1e-3)


def test_each_repair_gives_back_what_its_error_cost():
    truths = vehicles(3)
    for name, error in {
        "centre": {"along": 4},
        "length": {"length": 8},
        "width": {"width": 4},
        "angle": {"degrees": 9},
    }.items():
        r = judge(truths, [move(t, **error) for t in truths], resamples=20)
        assert r["AP"] < 0.9, name
        assert r[f"AP_fixed_{name}"] == pytest.approx(1), name
        assert r["AP_fixed_all"] == pytest.approx(1)
        others = {"centre", "length", "width", "angle"} - {name}
        assert all(r[f"dAP_fixed_{o}"] == pytest.approx(0, abs=1e-9) for o in others), name
    assert [row["fixed"] for row in r.fixed] == ["nothing", "centre", "length", "width", "angle", "all"]
    assert r.fixed[0]["AP"] == r["AP"]


def test_what_is_not_placement_stays():
    """Repaired boxes do not mend misses and false alarms."""
    truths = vehicles(4, pictures=2, n=4)
    preds = [np.concatenate([move(t[:2], 1), [[900, 900, 40, 20, 0]]]) for t in truths]
    sides = [oriented(t) for t in truths], [oriented(p, scores=[0.5, 0.6, 0.9]) for p in preds]
    r = placement(*sides, ["car"], resamples=0)
    assert r["AP"] == pytest.approx(judge_boxes(*sides, ["car"], geometry="oriented", resamples=0)["AP"])
    perfect = [oriented(np.concatenate([t[:2], p[2:]]), scores=[0.5, 0.6, 0.9]) for t, p in zip(*(truths, preds))]
    want = judge_boxes(sides[0], perfect, ["car"], geometry="oriented", resamples=0)["AP"]
    assert r["AP_fixed_all"] == pytest.approx(want)
    assert want < 0.5


def test_axis_aligned_boxes():
    truth = Objects(SIZE, [0, 1], [[100, 100, 140, 180], [300, 300, 340, 340]])
    pred = Objects(SIZE, [0, 1], [[98, 103, 141, 184], [300, 300, 340, 340]], scores=[0.9, 0.2])
    r = placement([truth, truth], [pred, pred], ["a", "b"], score=0.5)
    assert len(r.iou) == 2, "the weak one is not shown"
    got = {n: float(x[0]) for n, x in r.values.items()}
    assert got == pytest.approx({
        "centre_px": math.hypot(-0.5, 3.5), "centre_percent": 100 * math.hypot(-0.5, 3.5) / math.sqrt(3200),
        "x_px": -0.5, "y_px": 3.5, "width_px": 3, "width_percent": 7.5, "height_px": 1, "height_percent": 1.25,
        "left_px": 2, "top_px": -3, "right_px": 1, "bottom_px": 4,
    })  # fmt: skip
    assert [row["fixed"] for row in r.fixed] == ["nothing", "centre", "width", "height", "all"]
    assert r["AP_fixed_all"] == pytest.approx(1)
    by_class = {row["class"]: row["n"] for row in r.table if row["quantity"] == "x_px"}
    assert by_class == {None: 2, "a": 2, "b": 0}


def test_hulls_when_they_are_asked_for():
    truths = vehicles(5, pictures=2)
    sides = [oriented(t) for t in truths], [oriented(move(t, 2), scores=np.full(len(t), 0.5)) for t in truths]
    assert placement(*sides, ["car"], resamples=0).rule["geometry"] == "oriented"
    hulls = placement(*sides, ["car"], geometry="boxes", resamples=0)
    assert hulls.rule["geometry"] == "boxes"
    assert "angle_deg" not in hulls.values


def test_ignored_truths_are_no_pairs():
    truth = oriented([[500, 500, 40, 20, 0]], ignore=[True])
    r = placement([truth], [oriented([[500, 500, 40, 20, 0]], scores=[0.9])], ["car"])
    assert len(r.iou) == 0
    assert math.isnan(r["width_px_bias"])
    assert math.isnan(r["AP"])
    json.loads(json.dumps(r.to_json(), allow_nan=False))


def test_histograms_hold_every_pair():
    truths = vehicles(6)
    rng = np.random.default_rng(0)
    r = judge(truths, [t + rng.normal(0, [2, 2, 3, 1.5, 0.05], t.shape) for t in truths], resamples=0)
    for h in r.histograms:
        n = int((~np.isnan(r.values[h["quantity"]])).sum())
        assert sum(h["counts"]) + h["outside"] == n
        assert h["outside"] <= 0.02 * n
        assert h["edges"][0] == -h["edges"][-1]
    row = next(x for x in r.table if x["quantity"] == "width_px" and x["class"] is None)
    x = r.values["width_px"]
    assert row["q05"] <= row["q25"] <= row["q50"] <= row["q75"] <= row["q95"]
    assert (row["bias"], row["error"]) == pytest.approx((x.mean(), np.median(np.abs(x))))


def test_silence_and_misuse():
    truth = oriented([[500, 500, 40, 20, 0]])
    silent = placement([truth], [Objects.empty(SIZE)], ["car"])
    assert silent.rule["geometry"] == "oriented"
    assert silent["AP"] == 0
    assert math.isnan(silent["angle_deg_error"])
    with pytest.raises(TercelError, match="score = 2"):
        placement([truth], [Objects.empty(SIZE)], ["car"], score=2)
