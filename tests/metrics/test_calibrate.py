"""Calibration recovers what was done to the boxes and the scores, and says when it cannot be believed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tercel.core.calibration import Calibration, apply, map_scores
from tercel.core.finding import TercelError
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Frame, Record
from tercel.metrics.ap import judge_boxes
from tercel.metrics.calibrate import Problem, fit_boxes, fitted_on_reported
from tercel.metrics.calibrate_scores import fit_isotonic, fit_scores
from tercel.metrics.compare import pools, sample
from tercel.metrics.match import IOUS

SIZE = (800, 1000)
CLASSES = ("car", "truck")


def vehicles(seed: int, pictures: int = 25, noise: float = 1.0, **bias: float) -> tuple[list[Objects], list[Objects]]:
    """Oriented truths, and detections with noise, misses, false alarms and the given bias (sides, angle)."""
    rng = np.random.default_rng(seed)
    truth, pred = [], []
    for _ in range(pictures):
        n = 24
        length = rng.uniform(25, 60, n)
        obbs = np.c_[rng.uniform(40, 760, (n, 2)), length, length / rng.uniform(1.8, 2.8, n), rng.uniform(-1.5, 1.5, n)]
        labels = rng.integers(0, 2, n)
        truth.append(Objects(SIZE, labels, obb_hull(obbs), rng.random(n) < 0.08, obbs=obbs))
        found = rng.random(n) < 0.9
        q = obbs[found]
        m = len(q)
        q[:, :2] += noise * rng.normal(0, 0.8, (m, 2))
        q[:, 2:4] *= np.exp(noise * rng.normal(0, 0.03, (m, 2)))
        q[:, 4] += noise * rng.normal(0, 0.03, m) + bias.get("angle", 0)
        q[:, 2:4] *= bias.get("length", 1), bias.get("width", 1)
        alarms = np.c_[
            rng.uniform(40, 760, (8, 2)), rng.uniform(25, 60, 8), rng.uniform(10, 25, 8), rng.uniform(-1, 1, 8)
        ]
        every = canonical_obb(np.r_[q, alarms])
        scores = np.r_[rng.beta(5, 2, m), rng.beta(2, 5, 8)]
        pred.append(
            Objects(SIZE, np.r_[labels[found], rng.integers(0, 2, 8)], obb_hull(every), obbs=every, scores=scores)
        )
    return truth, pred


def aligned(parts: list[Objects], width: float = 1.0, height: float = 1.0) -> list[Objects]:
    """The hulls alone, wider and higher."""
    c = Calibration(width=width, height=height)
    return [apply(o.replace(obbs=None), c) for o in parts]


def value(result, name: str, kind: str) -> float:
    return next(s.value for s in result.scores if s.name == name and s.where["boxes"] == kind)


# -- boxes --------------------------------------------------------------------------------------------------------


def test_an_injected_width_is_recovered():
    truth, pred = vehicles(0, noise=0, width=1 / 0.923)
    fit = fit_boxes(truth, pred, CLASSES, resamples=0)
    assert fit.calibration.width == pytest.approx(0.923, abs=0.005)
    assert fit.calibration.length == pytest.approx(1, abs=0.005)
    assert fit.calibration.angle == pytest.approx(0, abs=0.002)
    exact = fit_boxes(*vehicles(0, noise=0), CLASSES, resamples=0)
    assert exact.calibration == Calibration()
    assert value(fit, "AP", "as given") < value(fit, "AP", "calibrated") - 0.05
    assert value(fit, "AP", "calibrated") == pytest.approx(value(exact, "AP", "as given"), abs=1e-3)
    assert not fit.findings


def test_an_injected_width_is_recovered_from_noisy_boxes():
    """With noise the best factor is not 1 but near it; the bias moves it by its own factor."""
    plain, biased = (fit_boxes(*vehicles(1, pictures=40, **kw), CLASSES) for kw in ({}, {"width": 1 / 0.923}))
    assert biased.calibration.width / plain.calibration.width == pytest.approx(0.923, abs=0.005)
    assert value(biased, "AP", "cross-fitted") == pytest.approx(value(plain, "AP", "as given"), abs=0.005)
    gain = next(s for s in biased.scores if s.name == "AP" and s.where["boxes"] == "gain")
    assert gain.low > 0.01
    assert gain.where["p"] < 0.02


def test_length_width_and_angle_together():
    fit = fit_boxes(*vehicles(2, noise=0.3, length=1.06, width=0.93, angle=0.06), CLASSES, resamples=0)
    assert fit.calibration.length == pytest.approx(1 / 1.06, abs=0.01)
    assert fit.calibration.width == pytest.approx(1 / 0.93, abs=0.015)
    assert fit.calibration.angle == pytest.approx(-0.06, abs=0.01)


def test_axis_aligned_boxes_have_width_and_height():
    truth, pred = vehicles(3, noise=0.2)
    fit = fit_boxes(aligned(truth), aligned(pred, width=1 / 0.9, height=1 / 1.06), CLASSES, resamples=0)
    assert fit.rule["geometry"] == "boxes"
    assert set(fit.curves) == {"width", "height"}
    assert fit.calibration.width == pytest.approx(0.9, abs=0.01)
    assert fit.calibration.height == pytest.approx(1.06, abs=0.012)


def test_an_optimum_at_the_edge_is_a_warning():
    fit = fit_boxes(*vehicles(4, pictures=8, noise=0.5, width=1.4), CLASSES, resamples=0)
    assert [(f.check, f.severity) for f in fit.findings] == [("calibrate.edge", "warning")]
    assert "width" in fit.findings[0].message
    wide = fit_boxes(*vehicles(4, pictures=8, noise=0.5, width=1.4), CLASSES, resamples=0, factors=(0.6, 1.6))
    assert not wide.findings
    assert wide.calibration.width == pytest.approx(1 / 1.4, abs=0.02)


@pytest.mark.parametrize(
    "c", [Calibration(), Calibration(width=0.9), Calibration(width=0.8, length=1.25, angle=0.17)], ids=repr
)
def test_groups_give_the_same_ap_as_the_whole_matching(c):
    truth, pred = vehicles(5, pictures=10, noise=2)
    _, (t, p) = pools(truth, pred)
    problem = Problem(t, p, classes=2, ious=IOUS, cap=100)
    whole = sample(*pools(truth, [apply(x, c) for x in pred])[1], 2, np.ones((10, 1)))
    assert problem(c)[0] == pytest.approx(whole.ap.mean(), abs=1e-6)  # apply rounds to float32


def test_ap_is_that_of_the_judge():
    truth, pred = vehicles(6, pictures=10)
    fit = fit_boxes(truth, pred, CLASSES, resamples=0)
    report = judge_boxes(truth, pred, CLASSES, geometry="oriented", resamples=0)
    for name in ("AP", "AP50", "AP75"):
        assert value(fit, name, "as given") == pytest.approx(report[name], abs=1e-6)
    at_one = min(fit.curves["width"], key=lambda point: abs(point[0] - 1))
    assert at_one == pytest.approx((1, report["AP"]), abs=1e-6)


def test_without_bias_nothing_is_gained():
    fit = fit_boxes(*vehicles(7), CLASSES)
    gain = next(s for s in fit.scores if s.name == "AP" and s.where["boxes"] == "gain")
    assert gain.low <= 0.001
    assert abs(gain.value) < 0.005


def test_nothing_to_fit_is_refused():
    truth, pred = vehicles(8, pictures=2)
    nothing = [Objects.empty(SIZE)] * 2
    for t, p in ((truth, nothing), ([o.replace(ignore=np.ones(len(o), bool)) for o in truth], pred)):
        with pytest.raises(TercelError, match="nothing to calibrate on"):
            fit_boxes(t, p, CLASSES)
    with pytest.raises(TercelError, match="no range around 1"):
        fit_boxes(truth, pred, CLASSES, factors=(1.1, 1.2))
    with pytest.raises(TercelError, match="hull is none"):
        fit_boxes(truth, aligned(pred), CLASSES)


def test_the_fitting_data_is_not_the_reported_data():
    records = [Record(str(i), (Frame(Path(f"{i}.jpg")),), SIZE, Objects.empty(SIZE)) for i in range(6)]
    c = Calibration(fitted_on=("id 0", "id 1"))
    finding = fitted_on_reported(c, records)
    assert finding is not None
    assert (finding.check, finding.count, finding.evidence) == ("calibrate.same_data", 2, ("0", "1"))
    assert fitted_on_reported(c, records[2:]) is None


# -- scores -------------------------------------------------------------------------------------------------------


def scored(seed: int, temperature: float = 1.0, pictures: int = 60) -> tuple[list[Objects], list[Objects]]:
    """Detections that are right with probability p, whose score is p at another temperature."""
    rng = np.random.default_rng(seed)
    truth, pred = [], []
    for _ in range(pictures):
        p = rng.uniform(0.03, 0.97, 40)
        right = rng.random(40) < p
        corner = np.stack(np.meshgrid(np.arange(8) * 100, np.arange(5) * 100), -1).reshape(-1, 2).astype(float)
        boxes = np.c_[corner, corner + 50]
        truth.append(Objects(SIZE, np.zeros(right.sum(), int), boxes[right]))
        score = map_scores(p, Calibration(temperature=temperature)) if temperature != 1 else p
        pred.append(Objects(SIZE, np.zeros(40, int), boxes, scores=score))
    return truth, pred


def score_of(fit, name: str, kind: str) -> float:
    return next(s.value for s in fit.scores if s.name == name and s.where["scores"] == kind)


def test_an_injected_temperature_is_recovered():
    fit = fit_scores(*scored(0, temperature=0.4), method="temperature")
    assert fit.calibration.temperature == pytest.approx(1 / 0.4, rel=0.1)
    assert score_of(fit, "ECE", "as given") > 0.1
    assert score_of(fit, "ECE", "temperature") < 0.05  # 2,000 detections in 15 bins: chance alone gives .03
    assert score_of(fit, "ECE", "isotonic") < 0.05
    assert fit_scores(*scored(0, temperature=0.4)).method in ("temperature", "isotonic")


def test_good_scores_stay_good():
    fit = fit_scores(*scored(1))
    assert score_of(fit, "ECE", "as given") < 0.04
    assert fit_scores(*scored(1), method="temperature").calibration.temperature == pytest.approx(1, abs=0.1)
    assert fit.method == "none" or abs(fit.calibration.temperature - 1) < 0.1
    assert fit_scores(*scored(1), method="none").calibration == Calibration()


def test_ece_is_that_of_a_slow_loop():
    truth, pred = scored(2, temperature=0.6, pictures=5)
    fit = fit_scores(truth, pred, floor=0.05, resamples=0)
    rows = [
        (float(s), any(np.array_equal(b, x) for x in t.boxes))
        for t, p in zip(truth, pred, strict=True)
        for s, b in zip(p.scores, p.boxes, strict=True)
        if s >= 0.05
    ]
    ece = 0.0
    for i in range(15):
        mine = [(s, r) for s, r in rows if min(int(s * 15), 14) == i]
        if mine:
            ece += abs(sum(r for _, r in mine) - sum(s for s, _ in mine)) / len(rows)
    assert score_of(fit, "ECE", "as given") == pytest.approx(ece, abs=1e-6)
    assert score_of(fit, "Brier", "as given") == pytest.approx(np.mean([(s - r) ** 2 for s, r in rows]), abs=1e-6)
    assert sum(r["n"] for r in fit.bins if r["scores"] == "as given") == len(rows)


def test_isotonic_by_hand():
    score, right = np.array([0.4, 0.1, 0.3, 0.2]), np.array([True, False, False, True])
    np.testing.assert_allclose(fit_isotonic(score, right).knots, [(0.1, 0), (0.25, 0.5), (0.4, 1)])


def test_errors_after_a_map_are_cross_fitted():
    """Scores without information: an isotonic map fitted and judged on the same detections would look better than
    the constant that is true."""
    rng = np.random.default_rng(3)
    truth, pred = scored(3, pictures=12)
    pred = [p.replace(scores=rng.random(len(p))) for p in pred]
    fit = fit_scores(truth, pred, method="isotonic", floor=0)
    rows = np.concatenate([np.isin(p.boxes[:, 0] * 1000 + p.boxes[:, 1], t.boxes[:, 0] * 1000 + t.boxes[:, 1])
                           for t, p in zip(truth, pred, strict=True)])  # fmt: skip
    assert score_of(fit, "Brier", "isotonic") > rows.mean() * (1 - rows.mean())


def test_few_detections_are_a_finding():
    fit = fit_scores(*scored(4, pictures=1))
    assert [f.check for f in fit.findings] == ["calibrate.few_detections"]
    with pytest.raises(TercelError, match="no detection"):
        fit_scores([Objects.empty(SIZE)], [Objects.empty(SIZE)])
    assert math.isfinite(score_of(fit, "ECE", "temperature"))
