"""`tercel show --batch`: what the network really gets, drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tercel.config import Recipe
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.data import source
from tercel.data.loader import Loader, Sample
from tercel.engine.tasks import task_of
from tercel.report import draw
from tercel.report.save import save_picture


def draw_batch(recipe: Recipe, train_source: str, out: Path) -> Path:
    """One augmented training batch with its truth, as a contact sheet; the file must not exist. A clip is a row.

    Raises:
        TercelError: bad source, or `out` exists.
    """
    if out.exists():
        raise TercelError(f"{out} exists and will not be overwritten", "choose another name")
    task, dataset = task_of(recipe), source.read(train_source)
    loader = Loader(
        task.training(dataset),
        recipe.data,
        recipe.augment,
        batch=recipe.train.batch,
        seed=recipe.train.seed,
        epochs=recipe.train.epochs,
    )
    batch = next(iter(loader.epoch(0)))
    pictures, captions = [], []
    for sample in batch.samples:
        for t, image in enumerate(sample.images):
            objects = sample.objects
            if objects.frame is not None:
                objects = objects[objects.frame == t]
            elif t:  # an empty clip's objects have no frames
                objects = Objects.empty(objects.size)
            picture = np.ascontiguousarray(image.transpose(1, 2, 0))
            pictures.append(draw.draw(picture, objects, dataset.schema, min_score=0))
            captions.append(_caption(sample, t, loader.frames))
    shown = len(batch.samples[0].images)
    columns = min(4, len(pictures)) if shown == 1 else shown
    save_picture(out, draw.contact_sheet(pictures, columns=columns, captions=captions))
    return out


def _caption(sample: Sample, t: int, frames: int) -> str:
    """The record's id; in a clip with the number of the frame, and with the events that fall on it."""
    if len(sample.images) == 1:
        return sample.id
    if t == frames:
        return "background"
    return " ".join([sample.id if t == 0 else f"frame {t}", *(e.name for e in sample.events if e.frame == t)])
