"""`tercel predict` for a ball: video files and folders of frames in; a trajectory, events and a drawn video out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.config import Recipe
from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.schema import Schema
from tercel.data.clips import median_picture, spread
from tercel.data.images import find_pictures, is_picture, read_image
from tercel.data.video import is_video
from tercel.engine.ball import BallAnswer, answer, write_answer
from tercel.engine.device import Runtime
from tercel.engine.evaluate import Progress
from tercel.engine.stream import Decoded, decode_frames, decode_video
from tercel.models.detector import Detector
from tercel.report.overlay import write_overlay
from tercel.report.save import distinct_names


@dataclass(frozen=True)
class Footage:
    """One clip: a video file, or the frames of a folder in the order of their numbers."""

    path: Path
    pictures: tuple[Path, ...] = ()

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        return map(read_image, self.pictures)


def find_footage(media: Sequence[str]) -> list[Footage]:
    """Video files, folders with videos, and folders or globs of pictures (each folder is one clip), in order.

    Raises:
        TercelError: an item that does not exist, or holds neither videos nor pictures.
    """
    found: dict[Path, Footage] = {}
    for item in media:
        path = Path(item)
        if path.is_file() and not is_picture(path):
            if not is_video(path):
                raise TercelError(f"{path} is neither a video nor a picture by its suffix", "convert it to mp4")
            found.setdefault(path.absolute(), Footage(path))
            continue
        videos = sorted(p for p in path.iterdir() if is_video(p) and p.is_file()) if path.is_dir() else []
        for video in videos:
            found.setdefault(video.absolute(), Footage(video))
        if videos:
            continue
        by_folder: dict[Path, list[Path]] = {}
        for p in find_pictures([item]):
            by_folder.setdefault(p.parent, []).append(p)
        for folder, pictures in by_folder.items():
            found.setdefault(folder.absolute(), Footage(folder, tuple(sorted(pictures, key=_number))))
    return list(found.values())


def _number(path: Path) -> tuple[Any, ...]:
    """Names in the order of the numbers in them: frame_9 before frame_10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name))


def predict_ball(
    model: Detector,
    recipe: Recipe,
    schema: Schema,
    footage: Sequence[Footage],
    out: Path,
    runtime: Runtime,
    *,
    drawn: bool = True,
    progress: Progress | None = None,
    drawing: Progress | None = None,
) -> tuple[list[BallAnswer], tuple[Finding, ...]]:
    """`out`/<clip>.csv, <clip>_events.csv where the model knows events, and <clip>_overlay.mp4 unless `drawn` is off.

    A clip that cannot be decoded is left out; an error finding says which and why.

    Raises:
        TercelError: not one clip can be decoded, or a file cannot be written.
    """
    ledger, answers = Ledger(), []
    for clip, name in zip(footage, distinct_names([f.path.stem for f in footage]), strict=True):
        try:
            decoded = _decode(model, recipe, clip, runtime, progress)
        except TercelError as e:
            message = "clips could not be decoded and were left out"
            ledger.add("predict.unreadable", Severity.ERROR, message, e.message)
            continue
        ledger.extend(decoded.findings)
        a = answer(decoded, recipe, schema.events, name=name, source=str(clip.path))
        write_answer(out / f"{name}.csv", a)
        answers.append(a)
        if drawn:
            video = clip.path if not clip.pictures else clip.frames()
            write_overlay(video, a.track, out / f"{name}_overlay.mp4", events=a.events, progress=drawing)
    findings = ledger.findings()
    if not answers:
        raise TercelError(f"none of the {len(footage)} clips can be decoded; the first: {findings[0].evidence[0]}",
                          "convert it (`ffmpeg -i IN OUT.mp4`), or name another clip")  # fmt: skip
    return answers, findings


def _decode(model: Detector, recipe: Recipe, clip: Footage, runtime: Runtime, progress: Progress | None) -> Decoded:
    if not clip.pictures:
        return decode_video(model, recipe, clip.path, runtime, progress)
    first = read_image(clip.pictures[0])
    background = None
    if recipe.model.clip.background:
        background = median_picture(read_image(clip.pictures[i]) for i in spread(len(clip.pictures)))
    return decode_frames(
        model, recipe, clip.frames(), first.shape[:2], runtime,
        background=background, total=len(clip.pictures), progress=progress,
    )  # fmt: skip
