"""What a run folder holds, read for people: whatever is missing becomes a sentence, never a crash.

A run that is still going, was interrupted or failed has no metrics yet; pictures and labels may have been moved since.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.config import Recipe, flat, load
from tercel.core.files import read_json
from tercel.core.finding import Finding, Ledger, Score, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset
from tercel.core.schema import Schema
from tercel.core.track import Track
from tercel.engine.run import Run
from tercel.metrics.keypoints import point_sigmas
from tercel.report.judge import Judged, judge_all
from tercel.report.words import score_of

IOU = 0.5  # at which single detections are called right or wrong in pictures and histograms
# Headline scores, as far as there are any, then the widest AR.
MAIN = ("AP", "AP50", "AP75", "OKS_AP", "OKS_AP50", "PCK@.05", "PCK@.1", "swap_rate", "MR-2", "JI")
CROWD = ("AP50", "MR-2", "JI", "AP", "AR")
BALL = ("F1", "precision", "recall", "accuracy", "AP")  # headline scores of a ball run, under its main rule


@dataclass(frozen=True, eq=False)
class View:
    """A run folder as far as it could be read.

    Attributes:
        info: run.json. steps, evals: lines of log.jsonl. metrics: metrics.json or {}. notes: what could not be read.
        preds: detections by record id, or None. data: the validation truth, or None.
        tracks: trajectories of a ball run by record id (rally), or None.
        spotted: predicted events (frame, name, score) of a ball run by record id, or None.
        samples: epoch -> file name -> picture file.
    """

    path: Path
    info: Mapping[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    preds: Mapping[str, Objects] | None = None
    data: Dataset | None = None
    samples: Mapping[int, Mapping[str, Path]] = field(default_factory=dict)
    notes: tuple[Finding, ...] = ()
    tracks: Mapping[str, Track] | None = None
    spotted: Mapping[str, list[tuple[int, str, float]]] | None = None

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def task(self) -> str:
        return str((self.info.get("recipe") or {}).get("task") or "boxes")

    @cached_property
    def rule(self) -> str:
        """The published rule whose scores are shown first (ball runs); "" where scores need no rule."""
        if self.task != "ball":
            return ""
        named = [str(s.where["rule"]) for s in self.scores if "rule" in s.where]
        wanted = str((((self.info.get("recipe") or {}).get("evaluate") or {}).get("ball") or {}).get("rule") or "")
        return wanted if wanted in named or not named else named[0]

    def is_overall(self, s: Score) -> bool:
        """Whether a score is over all classes, sizes and rallies; of a ball run, under the main rule."""
        return s.where == ({"rule": self.rule} if self.rule else {})

    @property
    def status(self) -> str:
        return str(self.info.get("status") or "unknown")

    @property
    def epochs(self) -> tuple[int, int]:
        """Epochs done and planned (0 = unknown). Steps count epochs from 0, evaluations count those that are done."""
        planned = score_of(((self.info.get("recipe") or {}).get("train") or {}).get("epochs"))
        known = [int(s.get("epoch") or 0) for s in (*self.steps[-1:], *self.evals[-1:])]
        planned = 0 if math.isnan(planned) else int(planned)
        return (planned if self.status == "finished" else max(known, default=0)), planned

    @cached_property
    def schema(self) -> Schema:
        return Schema.from_json(dict(self.info.get("schema") or {"classes": []}))

    @cached_property
    def scores(self) -> list[Score]:
        """Those of metrics.json; before there are any, those of the last evaluation in the log."""
        given = self.metrics.get("scores")
        if not given and self.evals:
            given = self.evals[-1].get("scores")
        return [Score.from_json(s) for s in given or ()]

    @cached_property
    def last(self) -> dict[str, float]:
        """Overall scores of the last weights by name, when another checkpoint was chosen and scores differently."""
        scores = [Score.from_json(s) for s in self.metrics.get("last") or ()]
        last = {s.name: s.value for s in scores if self.is_overall(s)}
        chosen = {s.name: s.value for s in self.scores if self.is_overall(s)}
        return last if self.metrics.get("checkpoint") != "last" and json.dumps(last) != json.dumps(chosen) else {}

    def overall(self, name: str) -> Score | None:
        return next((s for s in self.scores if s.name == name and self.is_overall(s)), None)

    @property
    def headline(self) -> list[Score]:
        overall = [s for s in self.scores if self.is_overall(s)]
        if self.task == "ball":
            return [s for n in BALL for s in overall if s.name == n] or overall[:5]
        if self.task == "crowd":
            return [s for n in CROWD for s in overall if s.name == n] or overall[:5]
        recalls = [s for s in overall if s.name.startswith("AR") and s.name[2:].isdigit()]
        recalls.sort(key=lambda s: -int(s.name[2:]))
        return ([s for n in MAIN for s in overall if s.name == n] + recalls[:1] or overall)[:5]

    @property
    def report(self) -> Mapping[str, Any]:
        return self.metrics.get("report") or {}

    @cached_property
    def findings(self) -> list[Finding]:
        """Of the run, of the data, of the evaluation, and our own notes; the gravest first, each once."""
        parts: list[tuple[str, Any]] = [
            ("", self.info.get("findings")),
            ("training data: ", (self.info.get("train") or {}).get("findings")),
            ("validation data: ", (self.info.get("val") or {}).get("findings")),
            ("", self.metrics.get("findings")),
            ("", self.report.get("findings")),
        ]
        out: dict[tuple[str, str], Finding] = {}
        for prefix, given in parts:
            for f in given or ():
                found = to_finding(f, prefix)
                out.setdefault((found.check, found.message), found)
        for note in self.notes:
            out.setdefault((note.check, note.message), note)
        rank = list(Severity)
        return sorted(out.values(), key=lambda f: rank.index(f.severity))

    @cached_property
    def judged(self) -> tuple[Judged, list[Objects]] | None:
        """Verdicts on all validation pictures, with the detections in the order of the records."""
        if self.data is None or self.preds is None:
            return None
        preds = [self.preds.get(r.id, Objects.empty(r.size)) for r in self.data.records]
        sigmas = point_sigmas(self.data.schema) if self.task == "keypoints" else None
        sides = [r.objects for r in self.data.records], preds
        return judge_all([r.id for r in self.data.records], *sides, IOU, sigmas), preds

    @cached_property
    def changed(self) -> list[tuple[str, Any, Any]]:
        """Settings that differ from their defaults: (key, default, value)."""
        try:
            recipe = load(Recipe, self.info["recipe"])
        except (KeyError, TercelError):
            return []
        default, given = flat(Recipe(name=recipe.name, task=recipe.task)), flat(recipe)
        return [(k, default.get(k), v) for k, v in given.items() if default.get(k) != v]


def to_finding(d: Mapping[str, Any], prefix: str = "") -> Finding:
    return Finding(
        str(d.get("check", "")),
        Severity(d.get("severity", "info")),
        prefix + str(d.get("message", "")),
        int(d.get("count", 1)),
        tuple(map(str, d.get("evidence") or ())),
    )


def read_run(path: Path, data: Dataset | None = None, pictures: bool = True) -> View:
    """Read a run folder.

    Args:
        data: the validation truth; by default it is read again from the source that run.json names.
        pictures: also read predictions and truth (False: numbers only, which is quick).

    Raises:
        TercelError: there is no run.json, or it is not JSON.
    """
    run = Run.open(path)
    info = run.info
    notes: list[Finding] = []
    lines = _try(run.read_log, notes, "the log cannot be read", [])
    metrics: Any = {}
    if run.metrics_path.exists():
        metrics = _try(lambda: read_json(run.metrics_path), notes, "the metrics cannot be read", {})
    preds = tracks = spotted = None
    if pictures and (path / "tracks").is_dir():
        data = _truth(info, notes) if data is None else data
        tracks, spotted = _tracks(path / "tracks", data, info, notes)
        data = None if data is None or not tracks else _comparable(data, tracks, info, notes)
    elif pictures and run.preds_path.exists():
        preds = _try(lambda: read_predictions(run.preds_path), notes, "the predictions cannot be read", None)
        if preds is not None:
            data = _truth(info, notes) if data is None else data
            data = None if data is None else _comparable(data, preds, info, notes)
    return View(
        path,
        info,
        [x for x in lines if x.get("kind") == "step"],
        [x for x in lines if x.get("kind") == "eval"],
        metrics if isinstance(metrics, dict) else {},
        preds,
        data,
        _samples(path / "samples"),
        tuple(notes),
        tracks,
        spotted,
    )


def read_predictions(path: Path) -> dict[str, Objects]:
    """Detections by record id from preds.jsonl.

    Raises:
        TercelError: not a prediction file of Tercel, or a broken line (named).
    """
    out: dict[str, Objects] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            if number == 1:
                if row.get("format") != "tercel-predictions":
                    raise TercelError(f"{path}:1: not a prediction file of Tercel", "evaluate the run again")
            else:
                out[str(row["id"])] = Objects.from_json(row)
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise TercelError(f"{path}:{number}: {e}", "predict again") from e
    return out


def _try(call: Any, notes: list[Finding], what: str, default: Any) -> Any:
    try:
        return call()
    except TercelError as e:
        notes.append(Finding("report.unreadable", Severity.WARNING, f"{what}: {e.message}"))
        return default


def _truth(info: Mapping[str, Any], notes: list[Finding]) -> Dataset | None:
    """The validation labels, read again; without looking at the pictures when those are gone."""
    source = str((info.get("val") or {}).get("resolved") or (info.get("val") or {}).get("source") or "")
    if not source:
        return None
    from tercel.data.source import read

    failed: list[Finding] = []
    data: Dataset | None = _try(lambda: read(source), failed, "the validation data cannot be read any more", None)
    if data is None:
        notes += failed
        data = _try(lambda: read(source, pictures=False), [], "", None)
    return data


def _tracks(
    folder: Path, data: Dataset | None, info: Mapping[str, Any], notes: list[Finding]
) -> tuple[dict[str, Track] | None, dict[str, list[tuple[int, str, float]]] | None]:
    """Predicted trajectories and events by rally, out of tracks/RALLY.csv and tracks/RALLY_events.csv.

    The size of the frames is that of the truth; without it, the one that all validation data have.
    """
    from tercel.data.tracks import read_tracks

    sizes = {} if data is None else {r.id: r.size for r in data.records}
    stated = list(((info.get("val") or {}).get("statistics") or {}).get("sizes") or ())
    high, _, wide = str(stated[0] if len(stated) == 1 else "720x1280").partition("x")
    out: dict[str, Track] = {}
    spotted: dict[str, list[tuple[int, str, float]]] = {}
    ledger = Ledger()
    for file in sorted(folder.rglob("*.csv")):
        id = file.relative_to(folder).with_suffix("").as_posix()
        what = f"{file.name} cannot be read"
        if id.endswith("_events") and id not in sizes:
            spotted[id.removesuffix("_events")] = _try(partial(_read_events, file), notes, what, [])
            continue
        size = sizes.get(id, (int(high), int(wide)))
        for t in _try(partial(read_tracks, file, size=size, ledger=ledger, predictions=True), notes, what, []):
            out[id] = t.replace(name=id)
    notes += ledger.findings()
    return out or None, spotted or None


def _read_events(path: Path) -> list[tuple[int, str, float]]:
    """(frame, name, score) of a csv `Frame,Event,Score`.

    Raises:
        TercelError: another file, or a row that is no event (named).
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise TercelError(f"{path}: {e}", "predict again") from e
    out = []
    for line, r in enumerate(rows, 2):
        try:
            out.append((int(r["Frame"]), r["Event"], float(r["Score"])))
        except (KeyError, TypeError, ValueError) as e:
            raise TercelError(f"{path}:{line}: not an event: {e}", "predict again") from e
    return out


def _comparable(
    data: Dataset, preds: Mapping[str, Objects] | Mapping[str, Track], info: Mapping[str, Any], notes: list[Finding]
) -> Dataset | None:
    """The truth if it is still that of the run, as far as names, sizes and counts can tell."""
    ball = (info.get("recipe") or {}).get("task") == "ball"
    what, found = ("rallies", "trajectories") if ball else ("pictures", "predictions")

    def note(message: str, count: int, where: list[str]) -> None:
        notes.append(Finding("report.truth", Severity.WARNING, message, count, tuple(where[:5])))

    classes = (info.get("schema") or {}).get("classes")
    if classes and list(data.schema.classes) != list(classes):
        note("the validation labels have other classes now: no gallery", 1, [])
        return None
    points = (info.get("schema") or {}).get("keypoints")
    if points and list(data.schema.keypoints) != list(points):
        note("the validation labels name other points now: no gallery", 1, [])
        return None
    extra = [i for i in preds if i not in {r.id for r in data.records}]
    lacking = [r.id for r in data.records if r.id not in preds]
    other = [r.id for r in data.records if r.id in preds and preds[r.id].size != r.size]
    if extra:
        note(f"{found} are for {what} that the validation data no longer has", len(extra), extra)
    if lacking:
        note(f"{what} of the validation data have no {found}: left out below", len(lacking), lacking)
    if other:
        note(f"{what} have another size than their {found}: left out below", len(other), other)
    then = ((info.get("val") or {}).get("statistics") or {}).get("objects")
    now = data.statistics()["objects"]
    if then is not None and then != now:
        note(f"the validation labels have changed: {then} objects then, {now} now", 1, [])
    kept = set(preds) - set(other)
    rest = [r.id for r in data.records if r.id in kept]
    return data.subset(rest) if rest else None


def _samples(folder: Path) -> dict[int, dict[str, Path]]:
    """samples/<epoch>/<n>_<id>.jpg by epoch and file name."""
    out: dict[int, dict[str, Path]] = {}
    for part in sorted(folder.glob("*")) if folder.is_dir() else ():
        if part.is_dir() and part.name.isdigit():
            files = {f.stem: f for f in sorted(part.glob("*.jpg"), key=lambda f: _leading(f.name))}
            if files:
                out[int(part.name)] = files
    return dict(sorted(out.items()))


def _leading(name: str) -> tuple[int, str]:
    head = name.partition("_")[0]
    return (int(head) if head.isdigit() else 1 << 30), name


def thresholds_of(view: View) -> tuple[NDArray[np.float64], str]:
    """Score threshold per class f64 [C] and how it was chosen."""
    rows = {str(r.get("class")): r for r in view.report.get("table") or ()}
    given = np.array([score_of(rows.get(c, {}).get("threshold")) for c in view.schema.classes], dtype=np.float64)
    if np.isfinite(given).any():
        return given, "the score threshold with the best F1 of each class"
    shown = score_of(((view.info.get("recipe") or {}).get("evaluate") or {}).get("show_score"))
    shown = 0.3 if math.isnan(shown) else shown
    return np.full(len(view.schema.classes), shown), f"score ≥ {shown:g}"
