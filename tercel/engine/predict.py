"""Detections on pictures that have no labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tercel.config import Data, Recipe
from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data.cache import Picture, PictureStore
from tercel.data.images import FILL, picture_size, read_image
from tercel.engine.device import Runtime
from tercel.engine.evaluate import Progress, detect, plain_loader
from tercel.models.detector import Detector


class PatientStore(PictureStore):
    """Decodes at each use, keeps nothing, and stands a grey picture in for one that cannot be decoded.

    `broken` then says which and why: whoever predicts leaves those out afterwards, so that nothing is decoded twice
    merely to find out whether it can be.
    """

    def __init__(self, sizes: dict[Path, tuple[int, int]]) -> None:
        super().__init__([], 0, Path())
        self.sizes = sizes
        self.broken: dict[Path, str] = {}

    def get(self, picture: Path | Frame) -> Picture:
        path = picture.path if isinstance(picture, Frame) else picture
        try:
            pixels = read_image(path)
            if pixels.shape[:2] == tuple(self.sizes[path]):
                return pixels
            self.broken[path] = f"{path}: its header tells another size than its pixels have"
        except TercelError as e:
            self.broken[path] = e.message
        return np.full((*self.sizes[path], 3), FILL, np.uint8)


def pictures_dataset(paths: Sequence[Path], schema: Schema, ledger: Ledger) -> Dataset:
    """Records without truth; a picture whose header cannot be read is left out and counted.

    Ids are file names where those are unique, else whole paths.
    """
    names = Counter(p.name for p in paths)
    records = []
    for path in paths:
        id = path.name if names[path.name] == 1 else str(path)
        try:
            id.encode()
            size = picture_size(path)
        except UnicodeEncodeError:
            leave_out(ledger, f"{str(path)!r}: the file name is not UTF-8")
        except TercelError as e:
            leave_out(ledger, e.message)
        else:
            records.append(Record(id, (Frame(path),), size, Objects.empty(size), source=str(path)))
    return Dataset(schema, tuple(records), source="pictures")


def leave_out(ledger: Ledger, why: str) -> None:
    ledger.add("predict.unreadable", Severity.ERROR, "pictures could not be read and were left out", why)


def predict_pictures(
    model: Detector,
    recipe: Recipe,
    paths: Sequence[Path],
    runtime: Runtime,
    data: Data | None = None,
    progress: Progress | None = None,
) -> tuple[Dataset, dict[str, Objects], tuple[Finding, ...]]:
    """Detections by id on the original canvases, with the records they belong to.

    Raises:
        TercelError: not one of the pictures can be read.
    """
    ledger = Ledger()
    dataset = pictures_dataset(paths, model.schema, ledger)
    found: dict[str, Objects] = {}
    if len(dataset):
        store = PatientStore({r.frames[0].path: r.size for r in dataset.records})
        loader = plain_loader(dataset, data or recipe.data, recipe.evaluate, store=store)
        found, more = detect(model, loader, recipe.evaluate, runtime, progress)
        ledger.extend(more)
        for why in store.broken.values():
            leave_out(ledger, why)
        dataset = dataset.subset([r.id for r in dataset.records if r.frames[0].path not in store.broken])
    findings = ledger.findings()
    if not len(dataset):
        first = next((f.evidence[0] for f in findings if f.check == "predict.unreadable"), "nothing given")
        hint = "replace it" if len(paths) == 1 else "name other pictures"
        raise TercelError(f"none of the {len(paths)} pictures can be read; the first: {first}", hint)
    return dataset, {r.id: found[r.id] for r in dataset.records}, findings
