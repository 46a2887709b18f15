"""What differs between the tasks, as seen by the loop: how data becomes samples, and answers become a judgement.

The loop, the checkpoints and the run folder know no task; they ask the one that `task_of` gives. Boxes are here,
balls in clips are in engine/ball.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from tercel.config import (
    AnchorHead,
    BallGrid,
    BallHeatmap,
    BoxHead,
    KeypointHead,
    KeypointHeatmap,
    OrientedHead,
    Recipe,
)
from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Record
from tercel.core.schema import Schema
from tercel.data.cache import PictureStore
from tercel.data.loader import Loader
from tercel.data.predictions import write_predictions
from tercel.engine.device import Runtime
from tercel.engine.evaluate import Evaluation, Progress, detect, judge, plain_loader
from tercel.engine.run import Run
from tercel.metrics.ap import Kind
from tercel.metrics.flips import skeleton_findings
from tercel.models.detector import Detector

HEADS: dict[str, tuple[type, ...]] = {
    "boxes": (AnchorHead, BoxHead),
    "oriented": (OrientedHead,),
    "keypoints": (KeypointHeatmap, KeypointHead),
    "crowd": (AnchorHead, BoxHead),
    "ball": (BallGrid, BallHeatmap),
}
# Scores that only one task has; a run of another cannot be chosen by them.
OWN_SCORES = {"keypoints": ("OKS_AP", "PCK@.05", "PCK@.1"), "crowd": ("MR-2", "JI")}


class Task(Protocol):
    """The five questions."""

    def training(self, dataset: Dataset) -> Dataset:
        """The records that the training loader walks over (for clips: windows)."""

    def loader(self, dataset: Dataset, *, rank: int = 0, world: int = 1, store: PictureStore | None = None) -> Any:
        """This rank's share of the data set, without augmentation and in order; None when it gets nothing."""

    def detect(
        self, model: Detector, loader: Any, runtime: Runtime, progress: Progress | None = None
    ) -> tuple[dict[str, Any], tuple[Finding, ...]]:
        """Answers by record id of the data set behind the loader; ranks' shares are joined by the caller."""

    def judge(
        self,
        dataset: Dataset,
        found: dict[str, Any],
        findings: tuple[Finding, ...] = (),
        resamples: int | None = None,
    ) -> Evaluation:
        """Scores of the answers; `resamples` 0 leaves the intervals out."""

    def samples(self, dataset: Dataset, evaluation: Evaluation, count: int) -> list[tuple[Record, Objects]]:
        """Up to `count` fixed single pictures with what was found on them, for drawing."""

    def write(self, run: Run, dataset: Dataset, evaluation: Evaluation) -> None:
        """The answers, as files in the run folder."""


class BoxTask:
    """Boxes on still pictures, axis-aligned or oriented."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        oriented = recipe.task == "oriented" or recipe.evaluate.views.orient > 0
        self.geometry: Kind = "oriented" if oriented else "boxes"

    def training(self, dataset: Dataset) -> Dataset:
        return dataset

    def loader(self, dataset: Dataset, *, rank: int = 0, world: int = 1, store: PictureStore | None = None) -> Loader:
        return plain_loader(dataset, self.recipe.data, self.recipe.evaluate, rank=rank, world=world, store=store)

    def detect(
        self, model: Detector, loader: Loader, runtime: Runtime, progress: Progress | None = None
    ) -> tuple[dict[str, Any], tuple[Finding, ...]]:
        return detect(model, loader, self.recipe.evaluate, runtime, progress)

    def judge(
        self,
        dataset: Dataset,
        found: dict[str, Any],
        findings: tuple[Finding, ...] = (),
        resamples: int | None = None,
    ) -> Evaluation:
        return judge(dataset, found, self.recipe.evaluate, findings, resamples, self.geometry)

    def samples(self, dataset: Dataset, evaluation: Evaluation, count: int) -> list[tuple[Record, Objects]]:
        return list(zip(dataset.records[:count], evaluation.predictions, strict=False))

    def write(self, run: Run, dataset: Dataset, evaluation: Evaluation) -> None:
        pairs = zip(evaluation.ids, evaluation.predictions, strict=True)
        write_predictions(
            run.preds_path,
            dataset.schema.classes,
            pairs,
            task=self.geometry,
            source=dataset.source,
            replace=True,
            keypoints=dataset.schema.keypoints if self.geometry == "keypoints" else (),
        )


class KeypointTask(BoxTask):
    """Boxes with named points on still pictures."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.geometry = "keypoints"

    def training(self, dataset: Dataset) -> Dataset:
        """The data set itself.

        Raises:
            TercelError: no labelled point anywhere; for a heatmap, a picture with several animals.
        """
        if not any(_labelled(r.objects).any() for r in dataset.records):
            raise TercelError(
                f"train source {dataset.source} has no labelled point: every one is absent (visibility 0)",
                "check the visibility column of the labels, or use a recipe for boxes",
            )
        if isinstance(self.recipe.model.head, KeypointHeatmap):
            for r in dataset.records:
                if (count := int((~r.objects.ignore).sum())) > 1:
                    raise TercelError(
                        f"{r.source or r.id}: {count} animals, and a heatmap of keypoints answers for one per picture",
                        "use a recipe whose head is KeypointHead (`keypoints`, `turtle`), or crop the animals",
                    )
        return dataset


class CrowdTask(BoxTask):
    """Persons on still pictures, judged as CrowdHuman does."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.geometry = "crowd"


def _labelled(o: Objects) -> np.ndarray:
    """bool [N,K], the points that count; [0,0] without points."""
    return np.zeros((0, 0), bool) if o.visible is None else (o.visible > 0) & ~o.ignore[:, None]


def check_points(recipe: Recipe, schema: Schema, dataset: Dataset) -> None:
    """Of a recipe for keypoints: the data must name the points that the network answers for, in the same order.

    Raises:
        TercelError: they differ.
    """
    if recipe.task == "keypoints" and dataset.schema.keypoints != schema.keypoints:
        theirs, ours = list(dataset.schema.keypoints), list(schema.keypoints)
        raise TercelError(
            f"{dataset.source} has {len(theirs)} keypoints {theirs}, the network answers for {len(ours)}: {ours}",
            "both need the same names in the same order",
        )


def point_findings(recipe: Recipe, dataset: Dataset) -> tuple[Finding, ...]:
    """What the training data hold that the head of a recipe for keypoints cannot say, and what speaks against their
    skeleton."""
    head, ledger = recipe.model.head, Ledger()
    if recipe.task == "keypoints":
        ledger.extend(skeleton_findings(dataset))
    if isinstance(head, KeypointHead):
        for r in dataset.records:
            o = r.objects
            if o.points is None or not len(o):
                continue
            centre, length = (o.boxes[:, :2] + o.boxes[:, 2:]) / 2, (o.boxes[:, 2:] - o.boxes[:, :2]).max(1)
            far = np.abs(o.points - centre[:, None]).max(2) > head.reach * length[:, None]
            if count := int((far & _labelled(o)).sum()):
                message = (
                    f"labelled points lie beyond {head.reach:g} lengths of the box from its centre, where no "
                    "prediction gets: raise model.head.reach"
                )
                ledger.add("keypoints.beyond_reach", Severity.WARNING, message, r.source or r.id, count)
    return ledger.findings()


def task_of(recipe: Recipe) -> Task:
    """The task of a recipe.

    Raises:
        TercelError: a head or a score to select by that is for another task.
    """
    heads = HEADS[recipe.task]
    if not isinstance(recipe.model.head, heads):
        raise TercelError(
            f"task {recipe.task!r} needs a head of its own, not {type(recipe.model.head).__name__}",
            f"set model.head={heads[-1].__name__}",
        )
    for task, names in OWN_SCORES.items():
        if recipe.evaluate.select in names and recipe.task != task:
            raise TercelError(f"{recipe.evaluate.select} is a score of {task}, not of {recipe.task}",
                              "set evaluate.select to another one, AP for example")  # fmt: skip
    if recipe.task == "ball":
        from tercel.engine.ball import BallTask  # it needs what is above

        return BallTask(recipe)
    if recipe.model.clip != replace(recipe.model.clip, frames=1, background=False):
        raise TercelError("boxes are found on still pictures, and model.clip has several frames", "use a ball recipe")
    if recipe.task == "keypoints":
        if isinstance(recipe.model.head, KeypointHeatmap) and recipe.augment.mosaic:
            raise TercelError(
                "a mosaic shows several animals, and a heatmap of keypoints answers for one", "--set augment.mosaic=0"
            )
        if recipe.evaluate.tiles.on or recipe.evaluate.views.on:
            raise TercelError("tiles and views do not merge points yet", "leave evaluate.tiles and evaluate.views off")
        return KeypointTask(recipe)
    if recipe.task == "crowd":
        if recipe.evaluate.views.orient:
            raise TercelError("crowds are judged by axis-aligned boxes", "--set evaluate.views.orient=0")
        return CrowdTask(recipe)
    return BoxTask(recipe)
