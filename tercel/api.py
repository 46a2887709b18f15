"""What the command line does, as functions: train, resume, evaluate, predict. Engine and report meet here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tercel.config import Recipe, Train, dump, flat, load, override
from tercel.core.calibration import apply as calibrate_objects
from tercel.core.calibration import read_calibration
from tercel.core.files import write_json
from tercel.core.finding import Finding, Severity, TercelError
from tercel.core.record import Dataset
from tercel.core.schema import Schema
from tercel.data import source as sources
from tercel.data.images import find_pictures, read_image
from tercel.data.predictions import write_predictions
from tercel.data.splits import leaks
from tercel.engine import checkpoint, device
from tercel.engine import run as runs_module
from tercel.engine.dist import World, world
from tercel.engine.evaluate import Evaluation, Progress
from tercel.engine.fit import Fit, Observer, data_findings
from tercel.engine.predict import predict_pictures
from tercel.engine.run import Run
from tercel.engine.tasks import Task, check_points, point_findings, task_of
from tercel.lab import RUN_FILE as CALIBRATION
from tercel.metrics.calibrate import fitted_on_reported
from tercel.models.detector import check_size, divisors
from tercel.observers import Log, Samples
from tercel.predict_ball import find_footage, predict_ball
from tercel.report import draw
from tercel.report.card import write_card
from tercel.report.html import write_report
from tercel.report.save import distinct_names, save_picture

AFTER_TRAINING = ("data.workers", "train.device", "train.threads", "train.precision")  # beside evaluate.*


def describe(dataset: Dataset, text: str) -> dict[str, Any]:
    """What run.json keeps of a data set: also where it lies, so that a run can be continued from any folder."""
    source = sources.parse(text)
    return {
        "source": text,
        "resolved": str(replace(source, path=source.path.resolve())),
        "fingerprint": dataset.fingerprint(),
        "statistics": dataset.statistics(),
        "findings": [f.to_json() for f in dataset.findings],
    }


def train(
    recipe: Recipe,
    train_source: str,
    val_source: str,
    *,
    out: Path = Path("runs"),
    name: str = "",
    command: str = "",
    allow_leaks: bool = False,
    start: Path | None = None,
    observers: Sequence[Observer] = (),
) -> Run:
    """Train, evaluate the chosen checkpoint, write report and card; returns the run.

    Under `torchrun` every process calls this and rank 0 writes. With `start`, the training begins with the best
    weights of that run instead of random ones.

    Raises:
        TercelError: bad sources, sets that share pictures or groups (unless `allow_leaks`), a run folder that exists,
            a full disk; DivergedError: a loss that is not finite.
    """
    task_of(recipe)  # refuses what cannot be trained, before all the reading
    weights = checkpoint_path(Run.open(start)) if start is not None else None
    if name and os.environ.get("RANK", "0") == "0":
        Run.check(out, name)  # before all the reading
    for o in observers:
        o.on_message(f"reading {train_source} and {val_source}")
    train_set, val_set = sources.read(train_source), sources.read(val_source)
    check_size(recipe.data.size, divisors(recipe.model))
    check_points(recipe, train_set.schema, val_set)
    findings = [*data_findings(train_set, val_set), *point_findings(recipe, train_set)]
    findings += _shared(train_set, val_set, allow_leaks)
    runtime = device.choose(recipe.train)
    findings += runtime.findings
    with world(runtime.device) as w, ExitStack() as stack:
        run = Run(Path(w.share(str(Run.create(out, recipe, name).path) if w.main else "")))
        try:
            if w.main:
                stack.enter_context(run.writing())
                run.write_info(
                    **runs_module.provenance(),
                    recipe=dump(recipe),
                    schema=train_set.schema.to_json(),
                    train=describe(train_set, train_source),
                    val=describe(val_set, val_source),
                    machine=_machine(runtime, w),
                    command=command,
                    start=str(weights.resolve()) if weights is not None else None,
                    findings=[f.to_json() for f in findings],
                    **{"status": "running", "finished": None, "seconds": 0.0},
                )
            for o in observers if w.main else ():
                for f in (*train_set.findings, *val_set.findings, *findings):
                    o.on_message(str(f))
            val_set = _under(train_set.schema, val_set)
            fit = _fit(recipe, train_set, val_set, run, runtime, w, observers)
            if weights is not None:
                fit.start_from(weights)
        except TercelError:
            if w.main:
                run.discard()
            raise
        _drive(fit, val_set)
    return run


def _shared(train_set: Dataset, val_set: Dataset, allowed: bool) -> list[Finding]:
    """What both sets share: an error unless it is allowed."""
    found = leaks(train_set, val_set)
    shared = [f for f in found if f.severity is Severity.ERROR]
    if shared and not allowed:
        raise TercelError(
            "; ".join(f"{f.message} ({f.count}x, for example {f.evidence[0]})" for f in shared),
            "split again so that nothing is in both, or pass --allow-leaks when that is meant (the report will say so)",
        )
    return found


def _under(schema: Schema, dataset: Dataset) -> Dataset:
    """The data set with the event names that the network knows, in their order.

    Raises:
        TercelError: it has an event that the network does not know.
    """
    new = sorted(set(dataset.schema.events) - set(schema.events))
    if new:
        raise TercelError(
            f"{dataset.source} has the event {new[0]!r}, which the training data {list(schema.events)} lack",
            "rename it, or train on data that have it",
        )
    return replace(dataset, schema=replace(dataset.schema, events=schema.events), _places={})


def _machine(runtime: device.Runtime, w: World) -> dict[str, Any]:
    return {**device.machine(), "device": str(runtime.device), "bf16": runtime.bf16, "processes": w.size}


def _fit(
    recipe: Recipe,
    train_set: Dataset,
    val_set: Dataset,
    run: Run,
    runtime: device.Runtime,
    w: World,
    observers: Sequence[Observer],
) -> Fit:
    """The training, ready to run.

    Raises:
        TercelError: a recipe that gives no network.
    """
    watching: tuple[Observer, ...] = (Log(), Samples(val_set, recipe.evaluate.show_score), *observers)
    try:
        return Fit(recipe, train_set, val_set, run, runtime, w, watching)
    except TercelError as e:
        raise TercelError(e.message, e.remedy or "see the model settings in `tercel show RECIPE`") from e
    except (ValueError, TypeError, RuntimeError) as e:
        if type(e).__name__ == "OutOfMemoryError":
            raise
        hint = "see the model settings in `tercel show RECIPE`; --debug shows where it fails"
        raise TercelError(f"no network can be built from this recipe: {e}", hint) from e


def resume(path: Path, *, observers: Sequence[Observer] = ()) -> Run:
    """Continue a run from its last checkpoint, on the same data.

    Raises:
        TercelError: no checkpoint, data that changed since (fingerprints differ), a run that is finished or in use.
    """
    run = Run.open(path)
    info = run.info
    if info["status"] == "finished":
        raise TercelError(
            f"{path} is finished", "train again with more epochs: `tercel train ... --set train.epochs=N`"
        )
    recipe = run.recipe
    _check_resumable(run, recipe)
    train_set, val_set = sources.read(info["train"]["resolved"]), sources.read(info["val"]["resolved"])
    for key, dataset in (("train", train_set), ("val", val_set)):
        if dataset.fingerprint() != info[key]["fingerprint"]:
            raise TercelError(
                f"the {key} data {dataset.source} is not what this run began with (its fingerprint differs)",
                "restore the data, or start a new run with `tercel train`",
            )
    runtime = device.choose(recipe.train)
    with world(runtime.device) as w, ExitStack() as stack:
        if w.main:
            stack.enter_context(run.writing())
        val_set = _under(train_set.schema, val_set)
        fit = _fit(recipe, train_set, val_set, run, runtime, w, observers)
        again = fit.restore()
        if w.main:
            run.write_info(status="running", resumed=[*info.get("resumed", []), _now()])
        for o in observers if w.main else ():
            o.on_message(
                f"resumed at update {fit.state.step} of {fit.updates}; {again} log lines after it are written again"
            )
        _drive(fit, val_set)
    return run


def _check_resumable(run: Run, recipe: Recipe) -> None:
    last = run.path / "checkpoints" / "last.safetensors"
    if not last.exists():
        raise TercelError(
            f"{run.path} has no checkpoint to continue from: it ended before the first one was written",
            f"start again under another --name: {run.info.get('command') or 'tercel train ...'}",
        )
    run.read_log()  # raises when it is damaged, before anything is changed
    now, then = flat(recipe), flat(load(Recipe, checkpoint.read_header(last)["recipe"]))
    changed = [k for k in {**then, **now} if now.get(k) != then.get(k)]
    if changed:
        raise TercelError(
            f"{run.info_path} has other settings than {last}: {', '.join(changed[:5])}",
            "a run ends as it began: restore run.json, or start a new run with `tercel train`",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _drive(fit: Fit, val_set: Dataset) -> None:
    """Run the loop, then evaluate what was chosen, and leave a true status behind whatever happens."""
    run, main = fit.run_folder, fit.world.main
    started = time.monotonic()
    before = float(run.info.get("seconds", 0.0)) if main else 0.0

    def note(status: str) -> None:
        run.write_info(
            findings=_merge(run.info["findings"], (*fit.loader.findings(), *_starved(run))),
            status=status,
            seconds=round(before + time.monotonic() - started, 1),
            finished=_now(),
            parameters=sum(p.numel() for p in fit.state.model.parameters()),
        )

    for o in fit.observers:
        for f in fit.loader.findings():
            o.on_message(str(f))
    try:
        fit.run()
        if main and not fit.interrupted:
            note("running")  # it is finished when it is judged: until then `resume` can make up for what is missing
            _conclude(run, val_set, fit)
    except BaseException as e:
        if isinstance(e, KeyboardInterrupt) and (run.path / "checkpoints" / "last.safetensors").exists():
            for o in fit.observers:
                o.on_message(f"stopped at once; continue from the last checkpoint with: tercel resume {run.path}")
        if main:
            with suppress(TercelError):  # a full disk, say, which is what `e` is about
                note("interrupted" if isinstance(e, KeyboardInterrupt) else "failed")
                write_report(run.path)
        raise
    if main:
        note("interrupted" if fit.interrupted else "finished")
        if not fit.interrupted:
            write_card(run.path)
        write_report(run.path)


def _conclude(run: Run, val_set: Dataset, fit: Fit) -> None:
    """Judge the last weights and the chosen ones with intervals; write preds.jsonl and metrics.json."""
    settings = fit.recipe.evaluate
    # The loop's own loader has the pictures decoded already; among several processes it holds only a share of them.
    loader = fit.val_loader if fit.world.size == 1 else fit.task.loader(val_set)
    assert loader is not None  # one process gets everything
    evaluations = sum(x["kind"] == "eval" for x in run.read_log())
    best = run.path / "checkpoints" / "best.safetensors"
    chosen = "best" if best.exists() else "last"
    results: dict[str, Evaluation] = {}
    for name in dict.fromkeys(["last", chosen]):
        if name == "best" and fit.state.best_epoch == fit.state.epoch:
            results[name] = results["last"]  # the last evaluation was the best one
            continue
        model = fit.state.average.model if name == "last" else checkpoint.load_detector(best)[0].to(fit.runtime.device)
        found, findings = fit.task.detect(model, loader, fit.runtime)
        results[name] = fit.task.judge(val_set, found, findings)
    e = results[chosen]
    undefined = f"{settings.select} was undefined in all {evaluations} evaluations, so nothing could be chosen by it; "
    selection = (
        undefined + "the last weights are judged"
        if chosen == "last"
        else (
            f"best of {evaluations} evaluations by {settings.select} on the validation data (epoch "
            f"{fit.state.best_epoch}), so its scores there are optimistic; the last weights (epoch {fit.state.epoch}), "
            "which nobody chose, are scored beside them"
        )
    )
    write_evaluation(run, val_set, fit.task, e, chosen, last=results["last"])
    run.write_info(selection=selection, findings=_merge(run.info["findings"], e.findings))


def _starved(run: Run) -> list[Finding]:
    """Truths, summed over all updates, for which no prior was left: the network cannot learn them."""
    steps = [x for x in run.read_log() if x["kind"] == "step"]
    starved, total = sum(x.get("starved", 0) for x in steps), sum(x["n_objects"] for x in steps)
    if not starved:
        return []
    message = f"of {total} truths in all updates had no prior to learn them: raise data.size, or use finer strides"
    return [Finding("assign.starved", Severity.WARNING, message, starved)]


def _merge(old: list[dict[str, Any]], new: Iterable[Finding]) -> list[dict[str, Any]]:
    known = {(f["check"], f["message"]) for f in old}
    return [*old, *(f.to_json() for f in new if (f.check, f.message) not in known)]


def write_evaluation(
    run: Run, dataset: Dataset, task: Task, e: Evaluation, name: str, last: Evaluation | None = None
) -> None:
    """The answers (boxes: preds.jsonl, balls: tracks/) and metrics.json of an evaluation, into the run folder."""
    task.write(run, dataset, e)
    write_json(
        run.metrics_path,
        {
            "checkpoint": name,
            "data": dataset.source,
            "scores": [s.to_json() for s in e.scores],
            "last": [s.to_json() for s in last.scores] if last else None,
            "report": e.report.to_json(),
            "findings": [f.to_json() for f in e.findings],
        },
    )


def evaluate(
    path: Path,
    data: str = "",
    *,
    which: str = "best",
    settings: Sequence[str] = (),
    calibrated: bool = False,
    out: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, Dataset]:
    """Judge a run's checkpoint on `data` (default: the run's validation data).

    The run folder is not changed; with `out`, predictions (preds.jsonl) and metrics.json are written there.

    Args:
        settings: overrides of `evaluate.*`, for example "evaluate.tiles.size=768".
        calibrated: apply the run's calibration (see `tercel.lab.calibrate`) before judging.

    Raises:
        TercelError: another class list than the checkpoint's, `out` holding an evaluation already, a setting that
            training has decided, no calibration though asked for.
    """
    run = Run.open(path)
    target = Run(out) if out is not None else None
    if target is not None:
        if any(p.exists() for p in (target.metrics_path, target.preds_path, target.path / "tracks")):
            raise TercelError(f"{out} holds an evaluation already", "choose another --out")
        _make_folder(target.path)
    model, recipe, schema, _ = checkpoint.load_detector(checkpoint_path(run, which))
    recipe = _with(recipe, settings)
    calibration = read_calibration(run.path / CALIBRATION) if calibrated else None
    dataset = _validation(run) if not data else sources.read(data)
    if dataset.schema.classes != schema.classes:
        raise TercelError(
            f"{dataset.source} has classes {list(dataset.schema.classes)}, the checkpoint has {list(schema.classes)}",
            "evaluate on data with the same names in the same order",
        )
    check_points(recipe, schema, dataset)
    dataset = _under(schema, dataset)
    runtime = device.choose(_anywhere(recipe.train))
    model.to(runtime.device)
    task = task_of(recipe)
    loader = task.loader(dataset)
    assert loader is not None  # one process gets everything
    found, findings = task.detect(model, loader, runtime, progress)
    if calibration is not None:
        found = {i: calibrate_objects(o, calibration) for i, o in found.items()}
        same = fitted_on_reported(calibration, dataset.records)
        findings = (*findings, *([same] if same else []))
    result = task.judge(dataset, found, (*dataset.findings, *findings))
    if target is not None:
        write_evaluation(target, dataset, task, result, which)
    return result, dataset


def _with(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe of a trained run with other settings for decoding and judging.

    Raises:
        TercelError: a setting that training has decided, or one that is refused.
    """
    for s in settings:
        key = s.partition("=")[0].strip()
        if not key.startswith("evaluate.") and key not in AFTER_TRAINING:
            raise TercelError(
                f"--set {s}: training has decided that",
                f"what can still be set is evaluate.*, {', '.join(AFTER_TRAINING)}",
            )
    return override(recipe, settings)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        what = "it is a file" if path.is_file() else e.strerror
        raise TercelError(f"cannot make the folder {path}: {what}", "choose another --out") from e


def _validation(run: Run) -> Dataset:
    """The validation data of a run, where they lay when it was trained."""
    try:
        return sources.read(run.info["val"]["resolved"])
    except TercelError as e:
        hint = f"{e.remedy}; or" if e.remedy else ""
        raise TercelError(e.message, f"{hint} name the data to judge with --data SOURCE".strip()) from e


def _anywhere(config: Train) -> Train:
    """The training's settings for a machine that may have no GPU, though the training asked for one."""
    return replace(config, device="auto") if config.device == "cuda" else config


def checkpoint_path(run: Run, which: str = "best") -> Path:
    """best (or last) of a run; `best` falls back to nothing: a run without an evaluation has none and says so."""
    there = sorted(p.stem for p in (run.path / "checkpoints").glob("*.safetensors") if not p.name.startswith("."))
    if which not in there:
        raise TercelError(f"{run.path} has no checkpoint {which!r}", f"there is: {', '.join(there) or 'none yet'}")
    return run.path / "checkpoints" / f"{which}.safetensors"


@dataclass(frozen=True)
class Predicted:
    """What `predict` wrote."""

    folder: Path
    pictures: int
    detections: int
    findings: tuple[Finding, ...]


def predict(
    path: Path,
    media: Sequence[str],
    *,
    out: Path,
    which: str = "best",
    settings: Sequence[str] = (),
    min_score: float | None = None,
    drawn: bool = True,
    progress: Progress | None = None,
    drawing: Progress | None = None,
) -> Predicted:
    """Detect on pictures, folders and globs: `out`/predictions.jsonl and, unless switched off, drawn copies.

    A ball is looked for in video files and folders of frames instead, see `predict_ball`. A calibration of the run is
    applied, and a finding says so; `settings` are overrides of `evaluate.*`. What cannot be read is left out; an error
    finding says which and why. `progress` is told of pictures that went through the network, `drawing` of copies.

    Raises:
        TercelError: nothing found, nothing readable, or `out` not empty.
    """
    run = Run.open(path)
    model, recipe, schema, _ = checkpoint.load_detector(checkpoint_path(run, which))
    recipe = _with(recipe, settings)
    balls = recipe.task == "ball"
    footage = find_footage(media) if balls else []
    paths = [] if balls else find_pictures(media)
    _make_folder(out)  # before the work that would be in vain
    if any(out.iterdir()):
        raise TercelError(f"{out} is not empty and nothing in it will be overwritten", "choose another --out")
    if balls and min_score is not None:  # of a ball it is the score from which a frame has one
        recipe = replace(
            recipe, evaluate=replace(recipe.evaluate, ball=replace(recipe.evaluate.ball, threshold=min_score))
        )
    score = recipe.evaluate.show_score if min_score is None else min_score
    floor = min(score, 0.999)
    calibration = read_calibration(run.path / CALIBRATION) if (run.path / CALIBRATION).is_file() and not balls else None
    if recipe.evaluate.views.on or (calibration and calibration.moves_scores):
        floor = min(floor, 0.05)  # views that agree, or the map, may still raise what is dim now
    recipe = replace(recipe, evaluate=replace(recipe.evaluate, score_floor=floor))
    runtime = device.choose(_anywhere(recipe.train))
    model.to(runtime.device)
    if balls:
        answers, findings = predict_ball(
            model, recipe, schema, footage, out, runtime, drawn=drawn, progress=progress, drawing=drawing
        )
        frames, seen = sum(len(a.track) for a in answers), sum(int(a.track.present.sum()) for a in answers)
        return Predicted(out, frames, seen, findings)
    dataset, found, findings = predict_pictures(model, recipe, paths, runtime, progress=progress)
    if calibration is not None:
        found = {i: calibrate_objects(o, calibration) for i, o in found.items()}
        note = Finding("predict.calibrated", Severity.INFO, f"{run.path / CALIBRATION} was applied", 1)
        findings = (*findings, note)
    found = {i: o if o.scores is None else o[o.scores >= min(score, 0.999)] for i, o in found.items()}
    items = ((r.id, found[r.id]) for r in dataset.records)
    task = "oriented" if recipe.evaluate.views.orient else recipe.task
    points = schema.keypoints if task == "keypoints" else ()
    write_predictions(out / "predictions.jsonl", schema.classes, items, task=task, source=str(path), keypoints=points)
    if drawn:
        for done, (r, name) in enumerate(zip(dataset.records, distinct_names(list(found)), strict=True), 1):
            picture = draw.draw(read_image(r.frames[0].path), found[r.id], schema, min_score=score)
            save_picture(out / "drawn" / f"{name}.jpg", picture)
            if drawing:
                drawing(done, len(dataset))
    return Predicted(out, len(dataset), sum(len(o) for o in found.values()), findings)
