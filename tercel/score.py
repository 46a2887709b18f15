"""`tercel score`: judge any prediction file against any labels. Needs no model, no picture and no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Ledger, Score, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Event, Record
from tercel.core.timeline import EventTruth
from tercel.core.track import Track
from tercel.data import events as event_files
from tercel.data.formats import tracknet
from tercel.data.prediction_dumps import is_dump, on_told_canvases
from tercel.data.predictions import read_predictions
from tercel.data.source import Source, parse, read
from tercel.data.tracks import read_rallies, read_tracks
from tercel.metrics.anatomy import Anatomy, dissect
from tercel.metrics.ap import MAX_DETECTIONS, Geometry, judge_boxes
from tercel.metrics.crowd import judge_crowd
from tercel.metrics.events import judge_events
from tercel.metrics.greedy import Rule
from tercel.metrics.keypoints import MAX_DETECTIONS as MAX_POSES
from tercel.metrics.keypoints import hulls_of_points, judge_keypoints
from tercel.metrics.match import IOUS
from tercel.metrics.points import judge_points
from tercel.metrics.rules import ALL, Tolerance
from tercel.metrics.stats import Interpolation

TASKS = ("boxes", "oriented", "keypoints", "crowd", "ball", "events")
OPENTTGAMES_FPS = 120.0


@dataclass(frozen=True, eq=False)
class ScoreResult:
    """Scores, the report behind them (of boxes, keypoints, a crowd, a ball or events), and what was noticed on the way.

    `errors` says where the score of boxes is lost, if that was asked for.
    """

    scores: list[Score]
    report: Any
    findings: tuple[Finding, ...]
    task: str = "boxes"
    errors: Anatomy | None = None

    def to_json(self) -> dict[str, Any]:
        out = {
            "scores": [s.to_json() for s in self.scores],
            "findings": [f.to_json() for f in self.findings],
            "report": self.report.to_json(),
        }
        return out if self.errors is None else out | {"errors": self.errors.to_json()}


def score(
    truth: str,
    pred: str | Path,
    task: str = "",
    *,
    max_detections: Sequence[int] | None = None,
    resamples: int = 200,
    seed: int = 0,
    ious: Sequence[float] = IOUS,
    interpolation: Interpolation = "101",
    matching: Rule = "coco",
    sigmas: Sequence[float] | None = None,
    rules: Sequence[str] = ALL,
    tolerance: str = "",
    size: tuple[int, int] | None = None,
    ball_size: float | None = None,
    fps: float | None = None,
    lab: bool = False,
) -> ScoreResult:
    """Judge the predictions in a file against a data source.

    Args:
        truth: `[format:]path[#split]`; its pictures need not be there. For a ball also a csv or a folder of csv, for
            events also a folder of OpenTTGames markup.
        pred: a file or folder of predictions; a picture, frame or game that it does not mention has none.
        task: "boxes", "oriented", "keypoints", "crowd", "ball" or "events"; "" = what the content of `pred` looks like.
            "oriented" judges axis-aligned hulls beside the oriented boxes; "boxes" judges nothing but hulls where there
            are such. "keypoints" judges the boxes too, where both sides have boxes of their own. "crowd" judges persons
            as CrowdHuman does (`tercel.metrics.crowd`), without a cap unless `max_detections` names one.
        max_detections, ious: boxes and keypoints, see `tercel.metrics.ap.judge_boxes` and
            `tercel.metrics.keypoints.judge_keypoints`; None = their defaults (COCO's).
        interpolation, matching: boxes, see `judge_boxes`.
        sigmas: keypoints, one per point or a single one for all; None = those of the labels.
        rules, tolerance: ball, see `tercel.metrics.points.judge_points`; a tolerance such as "5px@original" or "50%".
        size: (H, W) of the frames, where neither a video nor a picture tells it.
        ball_size: the ball's diameter in px, for a tolerance in % where the labels hold no boxes.
        fps: frames per second, for times in ms (default: 120 for OpenTTGames, else not known).
        lab: boxes, also say where the score is lost (`tercel.metrics.anatomy.dissect`), at the first overlap threshold
            and under COCO's matching whatever `matching` is.

    Raises:
        TercelError: an unknown task, a source or file that cannot be read, predictions that do not fit the truth,
            oriented boxes or points on one side only, boxes that are nothing but hulls of points, options of boxes for
            other things.
    """
    named = bool(task)
    task = task or recognise(Path(pred))
    if task not in TASKS:
        raise TercelError(f"task {task!r} cannot be judged; there is: {', '.join(TASKS)}", f"use --task {TASKS[0]}")
    if lab and task in ("ball", "events"):
        raise TercelError(f"the lab judges boxes, not {task}", "leave out --lab")
    if sigmas is not None and task not in ("boxes", "keypoints"):
        raise TercelError(f"sigmas are for keypoints, not for {task}", "leave out --sigmas")
    if task == "ball":
        bound = Tolerance.parse(tolerance) if tolerance else None
        return _ball(truth, Path(pred), rules, bound, size, ball_size, resamples, seed)
    if task == "events":
        return _events(truth, Path(pred), size, fps, resamples, seed)
    dataset = read(truth, pictures=False, as_written=True)
    ledger = Ledger()
    found = read_predictions(Path(pred), dataset, ledger=ledger)
    dataset = on_told_canvases(dataset, found)
    sides = [r.objects for r in dataset.records], [found[r.id] for r in dataset.records]
    options: dict[str, Any] = {
        "resamples": resamples,
        "seed": seed,
        "ids": [r.id for r in dataset.records],
        "sources": _folders(dataset.records),
        "groups": [r.group for r in dataset.records],
    }
    if task == "crowd":
        usual = not lab and interpolation == "101" and matching == "coco" and tuple(ious) == IOUS
        crowd = judge_crowd(*sides, dataset.schema.classes, max_detections=_crowd_cap(usual, max_detections), **options)
        return ScoreResult(crowd.scores, crowd, (*dataset.findings, *ledger.findings(), *crowd.findings), task)
    geometry = _geometry(task if named else "", *sides, truth, pred)
    options["ious"] = ious
    if geometry == "keypoints":
        if lab or interpolation != "101" or matching != "coco":
            raise TercelError(
                "points are judged by COCO's matching at 101 recalls, and the lab judges boxes",
                "leave out --lab, --interpolation and --matching, or judge boxes: --task boxes",
            )
        if sigmas is not None and len(sigmas) == 1:
            sigmas = tuple(sigmas) * len(dataset.schema.keypoints)
        caps = max_detections or MAX_POSES
        poses = judge_keypoints(*sides, dataset.schema, max_detections=caps, sigmas=sigmas, **options)
        said = (*dataset.findings, *ledger.findings(), *poses.findings)
        return ScoreResult(poses.scores, poses, said, geometry)
    if sigmas is not None:
        raise TercelError("sigmas are for keypoints, and boxes are judged here", "leave out --sigmas")
    caps = max_detections or MAX_DETECTIONS
    report = judge_boxes(
        *sides,
        dataset.schema.classes,
        max_detections=caps,
        interpolation=interpolation,
        geometry=geometry,
        matching=matching,
        **options,
    )
    errors = None
    if lab:
        errors = dissect(
            *sides,
            dataset.schema.classes,
            geometry=geometry,
            ious=ious,
            cap=caps[-1],
            matching=report.matching if matching == "coco" else None,
            resamples=resamples,
            seed=seed,
        )
    # What limits the errors limits the scores too: the report has said it.
    findings = (*dataset.findings, *ledger.findings(), *report.findings)
    return ScoreResult(report.scores, report, findings, geometry, errors)


def _crowd_cap(usual: bool, max_detections: Sequence[int] | None) -> int | None:
    """The cap of a crowd, None = none; `usual`: no option of boxes was given."""
    if not usual:
        raise TercelError(
            "crowds are judged by CrowdHuman's rule at IoU .5",
            "leave out --lab, --ious, --interpolation and --matching, or judge boxes: --task boxes",
        )
    if max_detections is not None and len(max_detections) != 1:
        raise TercelError("a crowd has one cap, or none", "for example --max-detections 500, or leave it out")
    return None if max_detections is None else max_detections[0]


def _geometry(
    task: str, truth: Sequence[Objects], found: Sequence[Objects], source: str, pred: str | Path
) -> Geometry | Literal["keypoints"]:
    """What to judge: what was asked for, else points or oriented boxes where both sides hold them, else boxes.

    What holds no object at all has no geometry and fits any.
    """
    sides = [(str(where), [o for o in side if len(o)]) for where, side in ((source, truth), (pred, found))]

    def kinds(column: str) -> list[set[bool]]:
        return [{getattr(o, column) is not None for o in side} for _, side in sides]

    posed, oriented = kinds("points"), kinds("obbs")
    points = any(True in k for k in posed) and not any(False in k for k in posed)
    if task == "keypoints" or (not task and points):
        for (where, _), k in zip(sides, posed, strict=True):
            if False in k:
                raise TercelError(f"{where} holds boxes without points, so points cannot be judged",
                                  "judge boxes instead: --task boxes")  # fmt: skip
        return "keypoints"
    if task == "oriented" or (not task and any(True in k for k in oriented)):
        for (where, _), k in zip(sides, oriented, strict=True):
            if False in k:
                raise TercelError(
                    f"{where} holds axis-aligned boxes, so oriented boxes cannot be judged: a hull is none",
                    "judge axis-aligned boxes and hulls instead: --task boxes",
                )
        return "oriented"
    for (where, side), k in zip(sides, posed, strict=True):
        if True in k and hulls_of_points(side):
            raise TercelError(f"{where} holds no boxes but the hulls of its points, so boxes cannot be judged",
                              "judge points instead: --task keypoints")  # fmt: skip
    return "boxes"


def _folders(records: Sequence[Record]) -> list[str]:
    """Where each picture's label comes from: the first folder below the one that all of them share."""
    paths = [Path(r.source.rpartition(":")[0] or r.source).parent.parts for r in records]
    shared = 0
    while paths and all(len(p) > shared and p[shared] == paths[0][shared] for p in paths):
        shared += 1
    return [p[shared] if len(p) > shared else "" for p in paths]


def recognise(pred: Path) -> str:
    """The task that a prediction file or folder belongs to, by content: CrowdHuman's dumps are of crowds, and what is
    no csv of balls or events either is boxes."""
    if pred.is_dir() and not any(True for _ in pred.rglob("*.csv")):
        return "boxes"
    if tracknet.matches(pred):
        return "ball"
    if pred.is_file() and is_dump(pred):
        return "crowd"
    return "events" if pred.exists() and event_files.is_answer(pred) else "boxes"


# -- a ball in video ----------------------------------------------------------------------------------------------


def _ball(
    truth: str,
    pred: Path,
    rules: Sequence[str],
    tolerance: Tolerance | None,
    size: tuple[int, int] | None,
    ball_size: float | None,
    resamples: int,
    seed: int,
) -> ScoreResult:
    ledger = Ledger()
    true, diameter = _true_tracks(parse(truth), size, ledger)
    canvas = true[0].size
    found = read_tracks(pred, size=canvas, ledger=ledger, predictions=True)
    report = judge_points(
        true,
        _on_the_same_canvas(found, true, canvas),
        rules=rules,
        tolerance=tolerance,
        diameter=ball_size if ball_size is not None else diameter,
        resamples=resamples,
        seed=seed,
    )
    return ScoreResult(report.scores, report, (*ledger.findings(), *report.findings), "ball")


def _csv_of(source: Source) -> Path | None:
    """The csv or folder of csv behind a source of TrackNet's kind, as it stands: not cut into runs, as training is."""
    if source.format not in (None, tracknet.NAME):
        return None
    path = source.path
    if source.split is not None:
        path = path / source.split
        if not path.is_dir():
            return None  # a list of matches, say
    return path if tracknet.matches(path) else None


def _true_tracks(
    source: Source, size: tuple[int, int] | None, ledger: Ledger
) -> tuple[list[Track], Mapping[str, NDArray[np.float64]] | None]:
    """The truth, and the diameters of its balls in px where the labels have boxes."""
    path = _csv_of(source)
    if path is not None:
        return read_tracks(path, size=size, ledger=ledger), None
    from tercel.data.clips import tracks

    dataset = read(str(source), pictures=False, as_written=True)
    if source.format is None and not any(r.objects.points is not None for r in dataset.records):
        raise TercelError(f"{source} holds no ball labels", "for boxes use --task boxes")
    ledger.extend(dataset.findings)
    diameter = {}
    for r in dataset.records:
        sides = np.full(len(r.frames), np.nan)
        if r.objects.frame is not None and len(r.objects):
            wh = (r.objects.boxes[:, 2:] - r.objects.boxes[:, :2]).astype(np.float64)
            sides[r.objects.frame] = np.sqrt(wh.prod(axis=1))  # of a ball, width and height differ by blur only
        diameter[r.id] = np.where(sides > 0, sides, np.nan)
    known = any(np.isfinite(d).any() for d in diameter.values())
    return tracks(dataset), diameter if known else None


def _on_the_same_canvas(found: Sequence[Track], true: Sequence[Track], canvas: tuple[int, int]) -> list[Track]:
    """Predictions carry no size: each gets that of the rally it is named after."""
    sizes = {t.name: t.size for t in true}
    return [p.replace(size=sizes.get(p.name, canvas)) for p in found]


# -- events -------------------------------------------------------------------------------------------------------


def _events(
    truth: str, pred: Path, size: tuple[int, int] | None, fps: float | None, resamples: int, seed: int
) -> ScoreResult:
    ledger = Ledger()
    source = parse(truth)
    markup = source.format in (None, "openttgames") and event_files.is_markup(source.path)
    if markup:
        games = event_files.read_markup(source.path, ledger, source.split)
        rate = OPENTTGAMES_FPS if fps is None else fps
    else:
        games, rate = _true_events(source, size, ledger), math.nan if fps is None else fps
    if not rate > 0 and not math.isnan(rate):
        raise TercelError(f"{rate:g} frames per second", "give the frame rate of the video, for example --fps 120")
    report = judge_events(games, event_files.read_answers(pred, ledger), fps=rate, resamples=resamples, seed=seed)
    return ScoreResult(report.scores, report, (*ledger.findings(), *report.findings), "events")


def _true_events(source: Source, size: tuple[int, int] | None, ledger: Ledger) -> list[EventTruth]:
    """Events of ball labels, by frame numbers of the video."""
    path = _csv_of(source)
    if path is not None:
        rallies = read_rallies(path, size=size, ledger=ledger)
        games = [
            EventTruth(
                r.track.name,
                tuple(Event(int(r.track.frame[e.frame]), e.name) for e in r.events),
                frames=int(r.track.frame[-1] - r.track.frame[0]) + 1,
                first=int(r.track.frame[0]),
                source=r.track.source,
            )
            for r in rallies
        ]
    else:
        dataset = read(str(source), pictures=False)
        ledger.extend(dataset.findings)
        games = [
            EventTruth(
                r.id,
                tuple(Event(r.first + e.frame, e.name) for e in r.events),
                frames=len(r.frames),
                first=r.first,
                source=r.source,
            )
            for r in dataset.records
        ]
    if not any(g.events for g in games):
        raise TercelError(f"{source} holds no events", "labels need a column Event, or an events_markup.json")
    return games
