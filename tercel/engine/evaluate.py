"""From a data set to boxes on its original canvases, and to a judgement; balls are in engine/ball.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from tercel.config import Data, Recipe
from tercel.config import Evaluate as Settings
from tercel.core.finding import Finding, Ledger, Score, Severity
from tercel.core.geometry import clip_boxes
from tercel.core.objects import Objects
from tercel.core.record import Dataset
from tercel.core.warp import Warp
from tercel.data.loader import Loader
from tercel.engine.device import Runtime
from tercel.metrics.ap import Kind, judge_boxes
from tercel.metrics.crowd import judge_crowd
from tercel.metrics.keypoints import judge_keypoints
from tercel.models.detector import Detector
from tercel.models.suppress import suppression_findings

Progress = Callable[[int, int], None]  # (done, total) pictures


class Report(Protocol):
    """What a judge returns, whatever it judges (tercel/metrics)."""

    @property
    def scores(self) -> Sequence[Score]: ...
    @property
    def findings(self) -> Sequence[Finding]: ...

    def __getitem__(self, name: str) -> float: ...
    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Evaluation:
    """Answers per record, in the data set's order (boxes: Objects, balls: Track), and what the judge says."""

    ids: tuple[str, ...]
    predictions: tuple[Any, ...]
    report: Report
    findings: tuple[Finding, ...]

    @property
    def scores(self) -> list[Score]:
        return list(self.report.scores)

    def overall(self, name: str) -> float:
        """The score of this name over all classes; KeyError lists the names there are."""
        return self.report[name]


@torch.no_grad()
def detect(
    model: Detector, loader: Loader, settings: Settings, runtime: Runtime, progress: Progress | None = None
) -> tuple[dict[str, Objects], tuple[Finding, ...]]:
    """Detections by record id, on the original canvas, clipped to it.

    The same network output is decoded in training's evaluation, `eval` and `predict`: there is one path.
    """
    if settings.tiles.on or settings.views.on:
        from tercel.engine.tiles import detect_tiled  # it needs what is below

        return detect_tiled(model, loader, settings, runtime, progress)
    ledger = Ledger()
    ledger.extend(suppression_findings(settings, model.head))
    found: dict[str, Objects] = {}
    was_training = model.training
    model.eval()
    total = len(loader.dataset)
    for batch in loader.epoch(0):
        with runtime.autocast():
            raw = model(batch.tensor().to(runtime.device))
        decoded, capped = model.head.decode(raw, settings)
        for id, objects, warp, cap in zip(batch.ids, decoded, batch.warps, capped, strict=True):
            found[id] = unwarp(objects, warp)
            if cap:
                ledger.add(
                    "predict.cap",
                    Severity.WARNING,
                    f"pictures reach the cap of {settings.max_detections} detections or {settings.max_candidates} "
                    "candidates: raise evaluate.max_detections or evaluate.max_candidates",
                    id,
                )
        if progress:
            progress(len(found), total)
    model.train(was_training)
    return found, ledger.findings()


def unwarp(objects: Objects, warp: Warp) -> Objects:
    """Detections on the network canvas, back on the picture they came from."""
    out = warp.inverse().objects(objects)
    if out.obbs is not None:  # an oriented box is not cut; one that lies in the letterbox's border alone is none
        (h, w), b = out.size, out.boxes
        return out[(b[:, 2] > 0) & (b[:, 3] > 0) & (b[:, 0] < w) & (b[:, 1] < h)]
    boxes = clip_boxes(out.boxes, out.size)
    solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) if len(out) else np.zeros(0, bool)
    if out.points is not None:  # the hull of a single point has no extent, and is no reason to lose the point
        solid |= (out.boxes[:, 2:] <= out.boxes[:, :2]).any(axis=1)
    return out.replace(boxes=boxes)[solid]


def plain_loader(dataset: Dataset, data: Data, settings: Settings, **options: Any) -> Loader:
    """Every record once, in order, without augmentation."""
    return Loader(dataset, data, None, batch=settings.batch, **options)


def judge(
    dataset: Dataset,
    found: dict[str, Objects],
    settings: Settings,
    findings: Iterable[Finding] = (),
    resamples: int | None = None,
    geometry: Kind = "boxes",
) -> Evaluation:
    """Scores of detections against the truth, of points or of crowds; `resamples` 0 leaves the intervals out."""
    tiled = settings.tiles.on or settings.views.on
    cap = max(settings.max_detections, settings.tiles.max_detections if tiled else 0)
    ids = tuple(r.id for r in dataset.records)
    sides = [r.objects for r in dataset.records], [found[i] for i in ids]
    options: dict[str, Any] = {
        "resamples": settings.resamples if resamples is None else resamples,
        "ids": ids,
        "groups": [r.group for r in dataset.records],
    }
    report: Report
    if geometry == "keypoints":
        report = judge_keypoints(*sides, dataset.schema, max_detections=tuple(sorted({20, max(20, cap)})), **options)
    elif geometry == "crowd":
        report = judge_crowd(*sides, dataset.schema.classes, max_detections=cap, **options)
    else:
        caps = (1, 10, max(100, cap))
        report = judge_boxes(*sides, dataset.schema.classes, max_detections=caps, geometry=geometry, **options)
    return Evaluation(ids, tuple(found[i] for i in ids), report, (*findings, *report.findings))


def encode_ceiling(recipe: Recipe, dataset: Dataset, model_head: Any, suppress: bool = True) -> Evaluation:
    """The score of a perfect network: truth encoded, answered ideally, decoded and judged by the real evaluator.

    It needs no training and exposes half-cell shifts, swapped axes, wrong class offsets and boxes that no prior can
    express. `suppress=False` takes the suppression out, to tell the coder's share from the suppression's.
    """
    settings = recipe.evaluate if suppress else replace(recipe.evaluate, suppress="none")
    found = {}
    for r in dataset.records:
        warp = Warp.letterbox(r.size, recipe.data.size)
        targets = model_head.encode([warp.objects(r.objects, dataset.schema.flip_index)])
        decoded, _ = model_head.decode(model_head.ideal(targets, recipe.data.size), settings)
        found[r.id] = unwarp(decoded[0], warp)
    geometry: Kind = recipe.task if recipe.task in ("oriented", "keypoints", "crowd") else "boxes"
    return judge(dataset, found, settings, resamples=0, geometry=geometry)
