"""`tercel show --batch`: what the network really gets, drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tercel.config import Recipe
from tercel.core.finding import TercelError
from tercel.data import source
from tercel.data.loader import Loader
from tercel.report import draw
from tercel.report.save import save_picture


def draw_batch(recipe: Recipe, train_source: str, out: Path) -> Path:
    """One augmented training batch with its truth, as a contact sheet; the file must not exist.

    Raises:
        TercelError: bad source, or `out` exists.
    """
    if out.exists():
        raise TercelError(f"{out} exists and will not be overwritten", "choose another name")
    dataset = source.read(train_source)
    loader = Loader(
        dataset,
        recipe.data,
        recipe.augment,
        batch=recipe.train.batch,
        seed=recipe.train.seed,
        epochs=recipe.train.epochs,
    )
    batch = next(iter(loader.epoch(0)))
    pictures = [
        draw.draw(np.ascontiguousarray(image[-1].transpose(1, 2, 0)), objects, dataset.schema.classes, min_score=0)
        for image, objects in zip(batch.images, batch.objects, strict=True)
    ]
    sheet = draw.contact_sheet(pictures, columns=min(4, len(pictures)), captions=[str(i) for i in batch.ids])
    save_picture(out, sheet)
    return out
