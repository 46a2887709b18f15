"""What the engine makes of points: back from the network's canvas, and judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tercel.config import Evaluate
from tercel.core.finding import headline
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.core.warp import Warp
from tercel.engine.evaluate import judge, unwarp

SIZE = (300, 200)


def animal(points, box, **columns):
    points = np.asarray(points, float)[None]
    return Objects(SIZE, [0], [box], points=points, visible=np.full(points.shape[:2], 2), **columns)


def test_points_come_back_from_the_letterbox_uncut():
    o = animal([[-40, 20], [150, 320]], [20, 10, 180, 290], scores=[0.5], point_scores=[[0.9, 0.2]])
    warp = Warp.letterbox(SIZE, (256, 256))
    back = unwarp(warp.objects(o), warp)
    np.testing.assert_allclose(back.points, o.points, atol=1e-3)
    assert back.visible.tolist() == [[2, 2]]
    assert back.point_scores.tolist() == o.point_scores.tolist()


def test_a_hull_without_extent_is_kept():
    """A heatmap of one point: the box is that point, and clipping leaves nothing of it."""
    o = animal([[40, 50]], [40, 50, 40, 50], scores=[0.5])
    warp = Warp.letterbox(SIZE, (256, 256))
    assert len(unwarp(warp.objects(o), warp)) == 1
    plain = o.replace(points=None, visible=None)
    assert len(unwarp(warp.objects(plain), warp)) == 0


def test_judgement_of_a_run():
    schema = Schema(("fox",), ("left", "right"), (("left", "right"),))
    truth = [animal([[30, 40], [90, 150]], [20, 30, 120, 160]) for _ in range(2)]
    found = {str(i): t.replace(scores=[0.9], points=t.points + 3 * i) for i, t in enumerate(truth)}
    frame = Frame(Path("x.png"))
    records = tuple(Record(str(i), (frame,), SIZE, t, group=f"g{i}") for i, t in enumerate(truth))
    e = judge(Dataset(schema, records), found, Evaluate(), resamples=20, geometry="keypoints")
    assert e.overall("PCK@.05") == 1
    assert e.overall("point_error_px") == pytest.approx(3 * np.sqrt(2) / 2)
    assert e.report.rule["max_detections"] == [20, 300]
    assert "OKS_AR20" in {s.name for s in e.scores}
    assert list(headline(e.scores)) == ["OKS_AP", "PCK@.05", "PCK@.1"]
    assert "score.default_sigmas" in {f.check for f in e.findings}
