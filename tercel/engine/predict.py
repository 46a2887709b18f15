"""Detections on pictures that have no labels: JSON lines, and drawn copies made by the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tercel.config import Data, Recipe
from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data.images import picture_size, read_image
from tercel.engine.device import Runtime
from tercel.engine.evaluate import Progress, detect, plain_loader
from tercel.models.detector import Detector


def pictures_dataset(paths: Sequence[Path], schema: Schema) -> tuple[Dataset, tuple[Finding, ...]]:
    """Records without truth; a picture that cannot be read is left out and reported.

    Ids are file names where those are unique, else whole paths.
    """
    ledger = Ledger()
    names = [p.name for p in paths]
    records = []
    for path, name in zip(paths, names, strict=True):
        try:
            size = picture_size(path)
            read_image(path)  # headers can lie: only a decoded picture is a picture
        except TercelError as e:
            ledger.add("predict.unreadable", Severity.ERROR, "pictures could not be read and were left out", e.message)
            continue
        id = name if names.count(name) == 1 else str(path)
        records.append(Record(id, (Frame(path),), size, Objects.empty(size), source=str(path)))
    if not records:
        first = ledger.findings()[0].evidence[0] if ledger.findings() else "nothing given"
        raise TercelError(f"none of {len(paths)} pictures could be read, for example: {first}")
    return Dataset(schema, tuple(records), source="pictures"), ledger.findings()


def predict_pictures(
    model: Detector,
    recipe: Recipe,
    paths: Sequence[Path],
    runtime: Runtime,
    data: Data | None = None,
    progress: Progress | None = None,
) -> tuple[Dataset, dict[str, Objects], tuple[Finding, ...]]:
    """Detections by id on the original canvases, with the records they belong to."""
    dataset, findings = pictures_dataset(paths, model.schema)
    loader = plain_loader(dataset, data or recipe.data, recipe.evaluate)
    found, more = detect(model, loader, recipe.evaluate, runtime, progress)
    return dataset, found, (*findings, *more)
