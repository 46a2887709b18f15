"""What the command line does, as functions: train, resume, evaluate, predict. Engine and report meet here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tercel.config import Recipe
from tercel.core.files import write_json
from tercel.core.finding import Finding, Severity, TercelError
from tercel.core.record import Dataset
from tercel.data import source as sources
from tercel.data.images import find_pictures, read_image
from tercel.data.predictions import write_predictions
from tercel.data.splits import leaks
from tercel.engine import checkpoint, device, run as runs_module
from tercel.engine.dist import world
from tercel.engine.evaluate import Evaluation, Progress, detect, judge, plain_loader
from tercel.engine.fit import EvalInfo, Fit, Observer, StepInfo, data_findings
from tercel.engine.predict import predict_pictures
from tercel.engine.run import Run
from tercel.models.detector import check_size
from tercel.report import draw
from tercel.report.card import write_card
from tercel.report.html import write_report
from tercel.report.save import safe_name, save_picture


class Log:
    """Writes log.jsonl."""

    def on_start(self, run: Run, updates: int, step: int) -> None:
        self.run = run

    def on_step(self, info: StepInfo) -> None:
        self.run.log(
            {
                "kind": "step", "step": info.step, "epoch": info.epoch, "losses": info.losses, "lr": info.lr,
                "grad_norm": info.grad_norm, "n_objects": info.n_objects, "starved": info.starved, "seconds": info.seconds,
                "data_seconds": info.data_seconds, "pictures_per_second": info.pictures / info.seconds,
            }
        )  # fmt: skip

    def on_eval(self, info: EvalInfo) -> None:
        scores = [s.to_json() for s in info.scores]
        self.run.log(
            {"kind": "eval", "step": info.step, "epoch": info.epoch, "scores": scores, "seconds": info.seconds}
        )

    def on_message(self, message: str) -> None:
        pass

    def on_end(self) -> None:
        pass


class Samples:
    """Draws the fixed samples of every evaluation, so that one can watch the model learn."""

    def __init__(self, dataset: Dataset, min_score: float) -> None:
        self.schema, self.min_score = dataset.schema, min_score

    def on_start(self, run: Run, updates: int, step: int) -> None:
        self.folder = run.path / "samples"

    def on_step(self, info: StepInfo) -> None:
        pass

    def on_eval(self, info: EvalInfo) -> None:
        for i, (record, found) in enumerate(info.samples):
            picture = read_image(record.frames[0].path)
            drawn = draw.draw_sample(picture, record.objects, found, self.schema, min_score=self.min_score)
            save_picture(self.folder / f"{info.epoch:05d}" / f"{i}_{safe_name(record.id)}.jpg", drawn)

    def on_message(self, message: str) -> None:
        pass

    def on_end(self) -> None:
        pass


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
    observers: Sequence[Observer] = (),
) -> Run:
    """Train, evaluate the chosen checkpoint, write report and card; returns the run.

    Under `torchrun` every process calls this and rank 0 writes.

    Raises:
        TercelError: bad sources, sets that share pictures or groups (unless `allow_leaks`), a run folder that exists, a full disk; DivergedError: a loss that is not finite.
    """
    train_set, val_set = sources.read(train_source), sources.read(val_source)
    check_size(recipe.data.size, recipe.model.strides)
    findings = [*data_findings(train_set, val_set), *leaks(train_set, val_set)]
    shared = [f for f in findings if f.severity is Severity.ERROR]
    if shared and not allow_leaks:
        raise TercelError(
            "; ".join(str(f) for f in shared),
            "split again so that nothing is in both, or pass --allow-leaks when that is meant (the report will say so)",
        )
    runtime = device.choose(recipe.train)
    findings += runtime.findings
    with world(runtime.device) as w, ExitStack() as stack:
        run = Run(Path(w.share(str(Run.create(out, recipe, name).path) if w.main else "")))
        if w.main:
            stack.enter_context(run.writing())
            run.write_info(
                **runs_module.provenance(),
                recipe=runs_module.config_json(recipe),
                schema=train_set.schema.to_json(),
                train=describe(train_set, train_source),
                val=describe(val_set, val_source),
                machine={**device.machine(), "device": str(runtime.device), "bf16": runtime.bf16, "processes": w.size},
                command=command,
                findings=[f.to_json() for f in findings],
                status="running",
                finished=None,
                seconds=0.0,
            )
        for o in observers if w.main else ():
            for f in (*train_set.findings, *val_set.findings, *findings):
                o.on_message(str(f))
        fit = Fit(recipe, train_set, val_set, run, runtime, w, (Log(), Samples(val_set, recipe.evaluate.show_score), *observers))
        _drive(fit, val_set)
    return run


def resume(path: Path, *, observers: Sequence[Observer] = ()) -> Run:
    """Continue a run from its last checkpoint, on the same data.

    Raises:
        TercelError: no checkpoint, data that changed since (fingerprints differ), a run that is finished or in use.
    """
    run = Run.open(path)
    info = run.info
    if info["status"] == "finished":
        raise TercelError(f"{path} is finished", "train again with more epochs: `tercel train ... --set train.epochs=N`")
    recipe = run.recipe
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
            run.write_info(status="running", resumed=[*info.get("resumed", []), datetime.now(UTC).isoformat(timespec="seconds")])
        fit = Fit(recipe, train_set, val_set, run, runtime, w, (Log(), Samples(val_set, recipe.evaluate.show_score), *observers))
        again = fit.restore()
        for o in observers if w.main else ():
            o.on_message(
                f"resumed at update {fit.state.step} of {fit.updates}; {again} log lines after it are written again"
            )
        _drive(fit, val_set)
    return run


def _drive(fit: Fit, val_set: Dataset) -> None:
    """Run the loop, then evaluate what was chosen, and leave a true status behind whatever happens."""
    run, main = fit.run_folder, fit.world.main
    started = time.monotonic()
    before = float(run.info.get("seconds", 0.0)) if main else 0.0
    status = "failed"
    for o in fit.observers:
        for f in fit.loader.findings():
            o.on_message(str(f))
    try:
        fit.run()
        status = "interrupted" if fit.interrupted else "finished"
    finally:
        if main:
            run.write_info(
                findings=_merge(run.info["findings"], (*fit.loader.findings(), *_starved(run))),
                status=status,
                seconds=round(before + time.monotonic() - started, 1),
                finished=datetime.now(UTC).isoformat(timespec="seconds"),
                parameters=sum(p.numel() for p in fit.state.model.parameters()),
            )
            if status == "failed":
                write_report(run.path)
    if not main:
        return
    if status == "finished":
        _conclude(run, val_set, fit, started, before)
    write_report(run.path)


def _conclude(run: Run, val_set: Dataset, fit: Fit, started: float, before: float) -> None:
    """Judge the last weights and the chosen ones with intervals; write preds.jsonl, metrics.json and the card."""
    settings = fit.recipe.evaluate
    evaluations = sum(x["kind"] == "eval" for x in run.read_log())
    best = run.path / "checkpoints" / "best.safetensors"
    chosen = "best" if best.exists() else "last"
    results: dict[str, Evaluation] = {}
    for name in dict.fromkeys(["last", chosen]):
        if name == "best" and fit.state.best_epoch == fit.state.epoch:
            results[name] = results["last"]  # the last evaluation was the best one
            continue
        model = fit.state.average.model if name == "last" else checkpoint.load_detector(best)[0].to(fit.runtime.device)
        found, findings = detect(model, _whole(val_set, fit), settings, fit.runtime)
        results[name] = judge(val_set, found, settings, findings)
    e = results[chosen]
    selection = (
        f"best of {evaluations} evaluations by {settings.select} on the validation data (epoch {fit.state.best_epoch}), so its "
        f"scores there are optimistic; the last weights (epoch {fit.state.epoch}), which nobody chose, are scored beside them"
    )
    write_evaluation(run, val_set, e, chosen, last=results["last"])
    run.write_info(
        selection=selection,
        seconds=round(before + time.monotonic() - started, 1),
        findings=_merge(run.info["findings"], e.findings),
    )
    write_card(run.path)


def _starved(run: Run) -> list[Finding]:
    """Truths, summed over all updates, for which no prior was left: the network cannot learn them."""
    steps = [x for x in run.read_log() if x["kind"] == "step"]
    starved, total = sum(x["starved"] for x in steps), sum(x["n_objects"] for x in steps)
    if not starved:
        return []
    message = f"of {total} truths in all updates had no prior to learn them: raise data.size, or use finer strides"
    return [Finding("assign.starved", Severity.WARNING, message, starved)]


def _merge(old: list[dict[str, Any]], new: Iterable[Finding]) -> list[dict[str, Any]]:
    known = {(f["check"], f["message"]) for f in old}
    return [*old, *(f.to_json() for f in new if (f.check, f.message) not in known)]


def _whole(dataset: Dataset, fit: Fit) -> Any:
    return plain_loader(dataset, fit.recipe.data, fit.recipe.evaluate)


def write_evaluation(run: Run, dataset: Dataset, e: Evaluation, name: str, last: Evaluation | None = None) -> None:
    """preds.jsonl and metrics.json of an evaluation, into the run folder."""
    write_predictions(run.preds_path, dataset.schema.classes, zip(e.ids, e.predictions, strict=True), source=dataset.source, replace=True)
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
    path: Path, data: str = "", *, which: str = "best", out: Path | None = None, progress: Progress | None = None
) -> tuple[Evaluation, Dataset]:
    """Judge a run's checkpoint on `data` (default: the run's validation data).

    The run folder is not changed; with `out`, predictions (preds.jsonl) and metrics.json are written there.

    Raises:
        TercelError: another class list than the checkpoint's, `out` holding an evaluation already.
    """
    run = Run.open(path)
    model, recipe, schema, _ = checkpoint.load_detector(checkpoint_path(run, which))
    dataset = sources.read(data or run.info["val"]["resolved"])
    if dataset.schema.classes != schema.classes:
        raise TercelError(
            f"{dataset.source} has classes {list(dataset.schema.classes)}, the checkpoint has {list(schema.classes)}",
            "evaluate on data with the same names in the same order",
        )
    runtime = device.choose(recipe.train)
    model.to(runtime.device)
    found, findings = detect(model, plain_loader(dataset, recipe.data, recipe.evaluate), recipe.evaluate, runtime, progress)
    result = judge(dataset, found, recipe.evaluate, (*dataset.findings, *findings))
    if out is not None:
        target = Run(out)
        if target.metrics_path.exists() or target.preds_path.exists():
            raise TercelError(f"{out} holds an evaluation already", "choose another --out")
        write_evaluation(target, dataset, result, which)
    return result, dataset


def checkpoint_path(run: Run, which: str = "best") -> Path:
    """best (or last) of a run; `best` falls back to nothing: a run without an evaluation has none and says so."""
    path = run.path / "checkpoints" / f"{which}.safetensors"
    if not path.exists():
        there = sorted(p.stem for p in path.parent.glob("*.safetensors"))
        raise TercelError(f"{run.path} has no checkpoint {which!r}", f"there is: {', '.join(there) or 'none yet'}")
    return path


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
    min_score: float | None = None,
    drawn: bool = True,
    progress: Progress | None = None,
) -> Predicted:
    """Detect on pictures, folders and globs: `out`/predictions.jsonl and, unless switched off, drawn copies.

    Raises:
        TercelError: nothing found, nothing readable, or `out` not empty.
    """
    run = Run.open(path)
    paths = find_pictures(media)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TercelError(f"{out} is not empty and nothing in it will be overwritten", "choose another --out")
    model, recipe, schema, _ = checkpoint.load_detector(checkpoint_path(run, which))
    score = recipe.evaluate.show_score if min_score is None else min_score
    recipe = replace(recipe, evaluate=replace(recipe.evaluate, score_floor=min(score, 0.999)))
    runtime = device.choose(recipe.train)
    model.to(runtime.device)
    dataset, found, findings = predict_pictures(model, recipe, paths, runtime, progress=progress)
    write_predictions(out / "predictions.jsonl", schema.classes, ((r.id, found[r.id]) for r in dataset.records), source=str(path))
    if drawn:
        for r in dataset.records:
            picture = read_image(r.frames[0].path)
            image = draw.draw(picture, found[r.id], schema.classes, min_score=score)
            save_picture(out / "drawn" / f"{safe_name(r.id)}.jpg", image)
    return Predicted(out, len(dataset), sum(len(o) for o in found.values()), findings)
