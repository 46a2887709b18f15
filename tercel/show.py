"""`tercel show --batch`: what the network really gets, and which of its priors answer for it, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercel.config import FreeAnchor, Recipe, override
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.data import source
from tercel.data.loader import Batch, Loader, Sample
from tercel.engine import checkpoint
from tercel.engine.run import Run
from tercel.engine.tasks import task_of
from tercel.models.detector import Detector
from tercel.models.free_anchor import bags_of, likelihoods
from tercel.models.heads.anchors import AnchorBoxes, AnchorRaw
from tercel.models.heads.boxes import DenseBoxes
from tercel.models.heads.upright import NOBODY, BoxTargets, counted
from tercel.report import draw
from tercel.report.assigned import Assigned, draw_assigned
from tercel.report.save import save_picture


def draw_batch(recipe: Recipe, train_source: str, out: Path, *, model: Detector | None = None) -> Path:
    """One augmented training batch with its truth, as a contact sheet; the file must not exist. A clip is a row.

    Where the head assigns priors to boxes, the picture shows which ones (`report.assigned`); animals with points show
    their skeletons instead, by which wrong labels and flip pairs are seen. Some assigners look at
    what the network says: that is `model`, or without one the network with which a training begins (of pretrained
    backbones with random weights).

    Raises:
        TercelError: bad source, `out` exists, or a model for other classes.
    """
    if out.exists():
        raise TercelError(f"{out} exists and will not be overwritten", "choose another name")
    task, dataset = task_of(recipe), source.read(train_source)
    if model is not None and dataset.schema.classes != model.schema.classes:
        raise TercelError(
            f"{train_source} has classes {list(dataset.schema.classes)}, the run has {list(model.schema.classes)}",
            "show it data with the same names in the same order",
        )
    loader = Loader(
        task.training(dataset),
        recipe.data,
        recipe.augment,
        batch=recipe.train.batch,
        seed=recipe.train.seed,
        epochs=recipe.train.epochs,
    )
    batch = next(iter(loader.epoch(0)))
    answering = _answering(recipe, dataset.schema, batch, model)
    pictures, captions = [], []
    for number, sample in enumerate(batch.samples):
        for t, image in enumerate(sample.images):
            objects = sample.objects
            if objects.frame is not None:
                objects = objects[objects.frame == t]
            elif t:  # an empty clip's objects have no frames
                objects = Objects.empty(objects.size)
            picture = np.ascontiguousarray(image.transpose(1, 2, 0))
            if answering:
                pictures.append(draw_assigned(picture, objects, answering[number]))
            else:
                pictures.append(draw.draw(picture, objects, dataset.schema, min_score=0))
            captions.append(_caption(sample, t, loader.frames))
    shown = len(batch.samples[0].images)
    columns = min(4, len(pictures)) if shown == 1 else shown
    save_picture(out, draw.contact_sheet(pictures, columns=columns, captions=captions))
    return out


def trained(run: Path, settings: Sequence[str] = (), which: str = "best") -> tuple[Recipe, Detector, str]:
    """A run's recipe with `settings` applied, its network, and the source of its training data.

    Raises:
        TercelError: no run, no such checkpoint, settings that change the network so that its weights do not fit.
    """
    from tercel.api import checkpoint_path

    opened = Run.open(run)
    path = checkpoint_path(opened, which)
    model, recipe, schema, _ = checkpoint.load_detector(path)
    changed = override(recipe, settings)
    if changed.model != recipe.model:
        other = checkpoint.fresh(changed, schema)
        checkpoint.load_strict(other, model.state_dict(), str(path))
        model = other
    return changed, model, opened.info["train"]["resolved"]


def _caption(sample: Sample, t: int, frames: int) -> str:
    """The record's id; in a clip with the number of the frame, and with the events that fall on it."""
    if len(sample.images) == 1:
        return sample.id
    if t == frames:
        return "background"
    return " ".join([sample.id if t == 0 else f"frame {t}", *(e.name for e in sample.events if e.frame == t)])


# -- who answers for whom -----------------------------------------------------------------------------------------


@torch.no_grad()
def _answering(recipe: Recipe, schema: Schema, batch: Batch, model: Detector | None) -> list[Assigned]:
    """For each picture of the batch; empty where the head assigns no priors."""
    if model is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.train.seed)
            model = checkpoint.fresh(recipe, schema).train()
    head: Any = model.head
    if not isinstance(head, DenseBoxes | AnchorBoxes):
        return []
    raw: Any = model(batch.tensor())
    targets: Any = head.encode(batch.objects, batch.events)
    return assigned(head, raw, targets)


@torch.no_grad()
def assigned(head: DenseBoxes | AnchorBoxes, raw: Any, targets: BoxTargets) -> list[Assigned]:
    """For each picture of a batch the priors that are positives, and those that are not asked.

    The weight of a pair is what the assigner gives it in the loss where it does (one-to-one), else its quality. Of
    FreeAnchor all priors of a bag are positives, and weigh as much as is likely that they say their truth.
    """
    points = raw.anchors.centres if isinstance(raw, AnchorRaw) else raw.priors.points
    boxes, config = head.boxes(raw), head.config.assigner
    if isinstance(config, FreeAnchor):
        truth, image, prior, weight = _bags(head, config, raw, targets)
        answers = torch.ones_like(truth, dtype=torch.bool)
        quiet = counted(boxes, points, NOBODY, targets) == 0
    else:
        a = head.assign(raw, boxes, targets)
        truth, image, prior = a.truth, a.image, a.prior
        weight, answers = (
            (a.quality, torch.ones_like(truth, dtype=torch.bool)) if a.share is None else (a.share, a.quality > 0)
        )
        quiet = counted(boxes, points, a, targets) == 0
        if a.between is not None:
            quiet = quiet | a.between
    out = []
    for number in range(targets.batch):
        mine = image == number
        first = int((targets.truths.image < number).sum())
        columns = (points[prior[mine]], truth[mine] - first, weight[mine], answers[mine], points[quiet[number]])
        out.append(Assigned(*(x.cpu().numpy() for x in columns)))
    return out


def _bags(
    head: DenseBoxes | AnchorBoxes, config: FreeAnchor, raw: Any, targets: BoxTargets
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth, picture, prior and likelihood of all pairs in bags."""
    if isinstance(head, AnchorBoxes):
        bags = bags_of(config, raw.anchors, targets.truths)
        place = head.place(raw, bags, targets)
    else:
        bags = head.bags(raw.priors, targets)
        place = head.place(raw, head.boxes(raw), bags, targets)
    likely = likelihoods(config, raw.logits, place, bags, targets.truths)
    return *bags.pairs, likely.exp()
