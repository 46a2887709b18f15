"""The lab on files: `tercel agree`, `compare`, `calibrate`, and suspicious labels. Needs no model and no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercel.core.calibration import Calibration, apply, picture_keys
from tercel.core.files import write_json
from tercel.core.finding import Finding, Ledger, Score, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Record, content_hash
from tercel.data.prediction_dumps import is_dump, on_told_canvases
from tercel.data.predictions import read_predictions
from tercel.data.source import read
from tercel.data.stored import is_store, pixel_hash
from tercel.metrics import agreement as agreements
from tercel.metrics import compare as comparing
from tercel.metrics import label_errors as suspicious
from tercel.metrics.ap import MAX_DETECTIONS
from tercel.metrics.breakdown import plain
from tercel.metrics.calibrate import ANGLE, FACTORS, effect, fit_boxes, fitted_on_reported
from tercel.metrics.calibrate_scores import Method, fit_scores
from tercel.metrics.ceiling import noise_ceiling
from tercel.metrics.sigmas import compare_points

RUN_FILE = "calibration.json"


@dataclass(frozen=True, eq=False)
class LabResult:
    """Scores, what is behind them as plain values, and what was noticed on the way.

    Attributes:
        kind: "agreement", "comparison", "calibration" or "label errors". calibration: what was fitted, if anything.
    """

    kind: str
    scores: list[Score]
    report: dict[str, Any]
    findings: tuple[Finding, ...]
    calibration: Calibration | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": [s.to_json() for s in self.scores],
            "findings": [f.to_json() for f in self.findings],
            "report": plain(self.report),
        }


# -- agree --------------------------------------------------------------------------------------------------------


def agree(
    a: str,
    b: str,
    *,
    pred: str | Path = "",
    geometry: str = "",
    max_detections: int = MAX_DETECTIONS[-1],
    draws: int = 20,
    resamples: int = 200,
    seed: int = 0,
) -> LabResult:
    """Compare two label sets of the same pictures, and say which AP the truth A would get if it were labelled again.

    Of animals with named points also how far the labels of each point lie apart, and the OKS sigmas that follow.

    Args:
        a, b: sources, `[format:]path[#split]`; pictures are paired by id, else by file name.
        pred: predictions on A, whose AP then stands beside the ceiling.
        geometry: "boxes", "oriented", or "" = oriented where both sides hold oriented boxes.
        draws: how often the truth is labelled again; 0 = no ceiling.

    Raises:
        TercelError: sources or predictions that cannot be read, or no picture in common.
    """
    left, right = (read(s, pictures=False, as_written=True) for s in (a, b))
    ledger = Ledger()
    pairs = _paired(left, right, ledger)
    hashes = tuple([_hash(r) for r in side] for side in zip(*pairs, strict=True))
    one, two = ([r.objects for r in side] for side in zip(*pairs, strict=True))
    found = agreements.agree(
        one, two, left.schema.classes, right.schema.classes, ids=[r.id for r, _ in pairs],
        hashes=(hashes[0], hashes[1]), geometry=geometry, resamples=resamples, seed=seed,
    )  # fmt: skip
    scores, report = list(found.scores), {**found.to_json(), "a": a, "b": b, "pictures": len(pairs)}
    findings = [*left.findings, *right.findings, *ledger.findings(), *found.findings]
    if left.schema.keypoints and right.schema.keypoints:
        points, more = compare_points(
            one, two, found.rows, left.schema.keypoints, right.schema.keypoints, resamples=resamples, seed=seed
        )
        scores += [p.sigma for p in points]
        report["points"] = [p.to_json() for p in points]
        findings += more
    if draws and len(found.iou):
        truth, classes = [r.objects for r in left.records], left.schema.classes
        ceiling = noise_ceiling(truth, found, classes, draws=draws, seed=seed)
        scores += ceiling.scores
        report["ceiling"] = ceiling.to_json()
        if pred:
            predictions, more = _predictions(pred, left)
            own, rows = effect(
                truth, {"predictions": predictions}, classes, geometry=found.geometry, cap=max_detections,
                resamples=resamples, seed=seed,
            )  # fmt: skip
            scores += [s for s in own if s.where["boxes"] == "predictions"]
            report["model"] = rows
            findings += more
    return LabResult("agreement", scores, report, tuple(findings))


def _paired(a: Dataset, b: Dataset, ledger: Ledger) -> list[tuple[Record, Record]]:
    """Records of the same picture: same id, else same file name without suffix."""

    def stem(r: Record) -> str:
        return r.frames[0].path.stem

    by_id = {r.id: r for r in b.records}
    keys: Any = (lambda r: r.id) if any(r.id in by_id for r in a.records) else stem
    other = {keys(r): r for r in b.records}
    pairs = [(r, other[keys(r)]) for r in a.records if keys(r) in other]
    message = "pictures of one set only were left out"
    taken = {keys(r) for r, _ in pairs}
    for name, side in (("A", a), ("B", b)):
        for r in side.records:
            if keys(r) not in taken:
                ledger.add("agree.one_set_only", Severity.WARNING, f"{message} ({name})", r.id)
    good = [(x, y) for x, y in pairs if x.size == y.size]
    for x, y in pairs:
        if x.size != y.size:
            sizes = f"{x.id}: {x.size[0]}x{x.size[1]} and {y.size[0]}x{y.size[1]} px"
            ledger.add("agree.other_size", Severity.WARNING, "pictures of two sizes were left out", sizes)
    if not good:
        some = " and ".join(side.records[0].id if len(side) else "(none)" for side in (a, b))
        raise TercelError(
            f"{a.source} and {b.source} have no picture in common (such as {some})",
            "compare labels of the same pictures",
        )
    return good


def _hash(r: Record) -> str:
    first = r.frames[0]
    if not first.path.is_file():
        return ""
    return pixel_hash(first) if first.index >= 0 and is_store(first.path) else content_hash(first.path)


# -- compare ------------------------------------------------------------------------------------------------------


def compare(
    truth: str,
    pred_a: str | Path,
    pred_b: str | Path,
    *,
    geometry: str = "",
    max_detections: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> LabResult:
    """Is B better than A? Each may be a file of predictions or a run folder.

    Runs of the task crowd and CrowdHuman's dumps are compared by CrowdHuman's scores too.

    Args:
        truth: a source; "" = the validation data of the two runs, which must then be the same.
        max_detections: per picture and class; None = 100 as in COCO, and of crowds all.

    Raises:
        TercelError: no truth for files, runs with different validation data, or what cannot be read.
    """
    names = str(pred_a), str(pred_b)
    runs = [_run(p) for p in (pred_a, pred_b)]
    report: dict[str, Any] = {}
    if all(r is not None for r in runs):
        from tercel.config import flat

        a, b = (flat(r.recipe) for r in runs)
        report["settings"] = {k: [a.get(k), b.get(k)] for k in {**a, **b} if a.get(k) != b.get(k)}
    truth = truth or _common_truth(runs, names)
    dataset = read(truth, pictures=False, as_written=True)
    sides, findings = [], list(dataset.findings)
    for given, run in zip((pred_a, pred_b), runs, strict=True):
        objects, more = _predictions(given if run is None else _answers(run), dataset)
        sides.append(objects)
        findings += more
    dataset = on_told_canvases(dataset, {r.id: o for r, o in zip(dataset.records, sides[0], strict=True)})
    crowd = all(_of_crowd(p, r) for p, r in zip((pred_a, pred_b), runs, strict=True))
    cap = max_detections if max_detections is not None or crowd else MAX_DETECTIONS[-1]
    c = comparing.compare(
        [r.objects for r in dataset.records], sides[0], sides[1], dataset.schema.classes,
        ids=[r.id for r in dataset.records], names=names, geometry=geometry, cap=cap,
        resamples=resamples, seed=seed, crowd=crowd,
    )  # fmt: skip
    report |= {**c.to_json(), "truth": truth}
    return LabResult("comparison", c.scores, report, (*findings, *c.findings))


def _run(path: str | Path) -> Any:
    """The run in this folder, or None when it holds none."""
    if not (Path(path) / "run.json").is_file():
        return None
    from tercel.engine.run import Run

    return Run.open(Path(path))


def _of_crowd(path: str | Path, run: Any) -> bool:
    return run.recipe.task == "crowd" if run is not None else Path(path).is_file() and is_dump(Path(path))


def _answers(run: Any) -> Path:
    if not run.preds_path.is_file():
        raise TercelError(f"{run.path} has no preds.jsonl", "only finished runs of boxes have one: see `tercel eval`")
    path: Path = run.preds_path
    return path


def _common_truth(runs: Sequence[Any], names: tuple[str, str]) -> str:
    if any(r is None for r in runs):
        raise TercelError(
            f"{names[0]} and {names[1]} are not both runs: their truth is not known", "add --truth SOURCE"
        )
    a, b = (r.info["val"] for r in runs)
    if a["fingerprint"] != b["fingerprint"]:
        message = f"the runs were judged on different data: {a['source']} and {b['source']}"
        raise TercelError(message, "evaluate both on the same data with --out, and compare those predictions")
    return str(a["source"])


# -- calibrate ----------------------------------------------------------------------------------------------------


def calibrate_files(
    truth: str,
    pred: str | Path,
    *,
    test_truth: str = "",
    test_pred: str | Path = "",
    geometry: str = "",
    method: Method = "",
    factors: tuple[float, float] = FACTORS,
    angle: float = ANGLE,
    max_detections: int = MAX_DETECTIONS[-1],
    resamples: int = 200,
    seed: int = 0,
) -> LabResult:
    """Fit factors for the boxes, then a map for the scores, on validation data; say what they buy.

    Args:
        truth, pred: the validation data and what the detector found on it.
        test_truth, test_pred: other data to report on; without them the report is on the fitting data, which a warning
            says, and the cross-fitted row is the one to believe.
        method: of the scores, see `fit_scores`. factors, angle: ranges, see `fit_boxes`.

    Raises:
        TercelError: what cannot be read; predictions that are calibrated already; see `fit_boxes`, `fit_scores`.
    """
    if bool(test_truth) != bool(test_pred):
        raise TercelError("test data need labels and predictions", "give both --test-truth and --test-pred, or neither")
    dataset = read(truth, pictures=False, as_written=True)
    found, findings = _predictions(pred, dataset, fresh=True)
    objects, classes = [r.objects for r in dataset.records], dataset.schema.classes
    options: dict[str, Any] = {"cap": max_detections, "resamples": resamples, "seed": seed}
    boxes = fit_boxes(objects, found, classes, geometry=geometry, factors=factors, angle=angle, **options)
    moved = [apply(p, boxes.calibration) for p in found]
    kind = boxes.rule["geometry"]
    scores = fit_scores(objects, moved, geometry=kind, method=method, **options)
    keys = sorted({k for r in dataset.records for k in picture_keys(r)})
    c = boxes.calibration.replace(
        temperature=scores.calibration.temperature, knots=scores.calibration.knots, fitted_on=tuple(keys), source=truth
    )
    report: dict[str, Any] = {
        "truth": truth,
        "pred": str(pred),
        "boxes": boxes.to_json(),
        "score_map": scores.to_json(),
    }
    named = [n for n in ("length", "width", "height", "angle") if n in boxes.curves]
    report["factors"] = {n: getattr(c, n) for n in named} | {"temperature": c.temperature, "knots": len(c.knots)}
    findings += [*dataset.findings, *boxes.findings, *scores.findings]
    listed = [*boxes.scores, *scores.scores]
    other = dataset
    if test_truth:
        other = read(test_truth, pictures=False, as_written=True, classes=classes)
        theirs, more = _predictions(test_pred, other, fresh=True)
        kinds = {"as given": theirs, "calibrated": [apply(p, c) for p in theirs]}
        own, table = effect([r.objects for r in other.records], kinds, classes, geometry=kind, **options)
        report["test"] = {"truth": test_truth, "pred": str(test_pred), "table": table,
                          "scores": [s.to_json() for s in own]}  # fmt: skip
        listed += [Score(s.name, s.value, s.n, s.low, s.high, {**s.where, "data": "test"}) for s in own]
        findings += [*other.findings, *more]
    same = fitted_on_reported(c, other.records)
    return LabResult("calibration", listed, report, (*findings, *([same] if same else [])), c)


def calibrate(run: Path, **options: Any) -> LabResult:
    """Calibrate a run on its validation data; writes calibration.json into the run folder, in place of an older one.

    Args:
        options: as for `calibrate_files`.

    Raises:
        TercelError: no run, or one without predictions of boxes; as `calibrate_files`.
    """
    from tercel.engine.run import Run

    opened = Run.open(run)
    result = calibrate_files(str(opened.info["val"]["source"]), _answers(opened), **options)
    with opened.writing():
        write_json(run / RUN_FILE, calibration_json(result))
    return result


def save_calibration(result: LabResult, path: Path) -> None:
    """Write a calibration as a new file.

    Raises:
        TercelError: the file exists.
    """
    if path.exists():
        raise TercelError(f"{path} exists already", "choose another --out")
    write_json(path, calibration_json(result))


def calibration_json(result: LabResult) -> dict[str, Any]:
    """What `tercel.core.calibration.read_calibration` reads, and how it was found."""
    if result.calibration is None:
        raise ValueError("this result holds no calibration")
    return {**result.calibration.to_json(), "report": plain(result.report)}


# -- label errors -------------------------------------------------------------------------------------------------


def label_errors(
    truth: str, pred: str | Path, *, geometry: str = "", limit: int | None = None
) -> tuple[LabResult, Dataset]:
    """Labels that are probably wrong, and the pictures to look at again (a data set that `source.write` writes).

    Args:
        truth: labels; pred: predictions of a detector that has not learned from them.
        limit: at most so many pictures in the queue.
    """
    dataset = read(truth, pictures=False)
    found, findings = _predictions(pred, dataset)
    classes = dataset.schema.classes
    suspects = suspicious.label_errors(
        [r.objects for r in dataset.records], found, classes, ids=[r.id for r in dataset.records], geometry=geometry
    )
    counts = {str(k): sum(s.kind is k for s in suspects) for k in suspicious.Doubt}
    report = {"counts": counts, "suspects": [s.to_json() for s in suspects], "classes": list(classes)}
    queue = suspicious.relabel_queue(dataset, suspects, limit)
    return LabResult("label errors", [], report, (*dataset.findings, *findings)), queue


# -- files --------------------------------------------------------------------------------------------------------


def _predictions(path: str | Path, truth: Dataset, fresh: bool = False) -> tuple[list[Objects], list[Finding]]:
    """Predictions for every record, in order; `fresh` refuses those that a calibration has touched."""
    path, ledger = Path(path), Ledger()
    if fresh and path.is_file():
        with open(path, "rb") as f:
            head = f.readline(1 << 16)
        if b'"calibration"' in head and _calibrated(head):
            message = f"{path} holds predictions that are calibrated already: a second fit would add to the first"
            raise TercelError(message, "predict without calibration, and fit on that")
    found = read_predictions(path, truth, ledger=ledger)
    return [found[r.id] for r in truth.records], list(ledger.findings())


def _calibrated(head: bytes) -> bool:
    try:
        return bool(json.loads(head).get("calibration"))
    except (ValueError, AttributeError):
        return False
