"""Training as a user sees it: a run folder, an interrupt, a kill, a resume, many processes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tercel import api
from tercel.config import Recipe, dump
from tercel.core.finding import TercelError
from tercel.data import source
from tercel.engine import checkpoint, device
from tercel.engine.dist import World
from tercel.engine.fit import DivergedError, Fit
from tercel.engine.run import Run

RUNNER = """
import json, sys, time
from pathlib import Path
from tercel import api
from tercel.config import Recipe, load
class Slow:
    def on_start(self, run, updates, step): pass
    def on_step(self, info):
        print("step", info.step, flush=True)
        time.sleep({pause})
    def on_eval(self, info): pass
    def on_message(self, message): pass
    def on_end(self): pass
recipe = load(Recipe, json.loads(Path(sys.argv[1]).read_text()))
verb, data, out, name = sys.argv[2:6]
if verb == "train":
    run = api.train(recipe, f"yolo:{{data}}#train", f"yolo:{{data}}#val", out=Path(out), name=name, observers=(Slow(),))
else:
    run = api.resume(Path(out) / name, observers=(Slow(),))
print(json.loads((run.path / "run.json").read_text())["status"])
"""

# Its standard error becomes a pipe without a reader after two updates; after four it is asked to end.
CLOSER = """
import json, os, signal, sys
from pathlib import Path
from tercel import api
from tercel.config import Recipe, load
from tercel.progress import Terminal
class Closer(Terminal):
    QUIET_SECONDS = 0.0
    def on_step(self, info):
        if info.step == 2:
            read, write = os.pipe(); os.close(read); os.dup2(write, 2)
        super().on_step(info)
        if info.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
recipe, train, val, out = load(Recipe, json.loads(sys.argv[1])), *sys.argv[2:]
api.train(recipe, train, val, out=Path(out), name="r", observers=(Closer(),))
"""


def start(recipe: Recipe, data: Path, out: Path, name: str, verb: str = "train", pause: float = 0.0, n: int = 1) -> Any:
    out.mkdir(exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(dump(recipe)))
    (out / "runner.py").write_text(RUNNER.format(pause=pause))
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"] if n > 1 else []
    words = [sys.executable, *launch, str(out / "runner.py"), str(out / "recipe.json"), verb, str(data), str(out), name]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def finish(process: Any) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return str(out)


def wait_for(process: Any, step: int) -> None:
    for line in process.stdout:
        if line.startswith("step ") and int(line.split()[1]) >= step:
            return
    raise AssertionError(process.stderr.read()[-3000:])


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return checkpoint.read(run / "checkpoints" / f"{name}.safetensors")[0]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def sources(data: Path) -> tuple[str, str]:
    return f"yolo:{data}#train", f"yolo:{data}#val"


def test_run_folder(recipe: Recipe, shapes: Path, tmp_path: Path) -> None:
    run = api.train(recipe, *sources(shapes), out=tmp_path, name="r")
    info = json.loads((run.path / "run.json").read_text())
    assert info["status"] == "finished"
    assert info["train"]["statistics"]["records"] == 22
    assert len(info["train"]["fingerprint"]) == 32
    log = run.read_log()
    steps = [x for x in log if x["kind"] == "step"]
    evaluations = [x for x in log if x["kind"] == "eval"]
    assert [s["step"] for s in steps] == list(range(1, 13))  # 22 pictures in batches of 4: 6 updates an epoch
    assert [e["epoch"] for e in evaluations] == [1, 2]
    metrics = json.loads((run.path / "metrics.json").read_text())
    assert metrics["checkpoint"] == "best"
    for name in (
        "report.html",
        "card.md",
        "preds.jsonl",
        "checkpoints/last.safetensors",
        "checkpoints/best.safetensors",
    ):
        assert (run.path / name).stat().st_size > 0, name
    assert len(list((run.path / "samples").glob("*/*.jpg"))) == 2
    # best is the argmax of the log
    values = [next(s["value"] for s in e["scores"] if s["name"] == "AP" and not s["where"]) for e in evaluations]
    header = checkpoint.read(run.path / "checkpoints/best.safetensors")[1]
    assert header["position"]["best_epoch"] == evaluations[int(np.argmax(values))]["epoch"]
    with pytest.raises(TercelError, match="exists already"):
        api.train(recipe, *sources(shapes), out=tmp_path, name="r")
    with pytest.raises(TercelError, match="finished"):
        api.resume(run.path)
    # evaluating the checkpoint again gives the very scores of the log and of metrics.json
    result, _ = api.evaluate(run.path)
    again = {(s.name, str(s.where)): s.to_json()["value"] for s in result.scores}
    assert again == {(s["name"], str(s["where"])): s["value"] for s in metrics["scores"]}


def test_same_seed_same_weights(recipe: Recipe, shapes: Path, tmp_path: Path) -> None:
    a = api.train(recipe, *sources(shapes), out=tmp_path, name="a")
    other = replace(recipe, data=replace(recipe.data, workers=2))  # the number of workers changes nothing
    b = api.train(other, *sources(shapes), out=tmp_path, name="b")
    assert same(weights(a.path), weights(b.path))
    c = api.train(replace(recipe, train=replace(recipe.train, seed=1)), *sources(shapes), out=tmp_path, name="c")
    assert not same(weights(a.path), weights(c.path))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_is_bit_for_bit(recipe: Recipe, shapes: Path, tmp_path: Path, how: signal.Signals) -> None:
    """Ended within an epoch, after a checkpoint within an epoch: the weights are those of a whole run."""
    recipe = replace(recipe, train=replace(recipe.train, accumulate=2, checkpoint_minutes=0.001))
    finish(start(recipe, shapes, tmp_path, "whole"))
    cut = start(recipe, shapes, tmp_path, "cut", pause=0.12)
    wait_for(cut, 5)  # 3 updates an epoch: this is within the second one
    cut.send_signal(how)
    cut.communicate(timeout=120)
    status = json.loads((tmp_path / "cut" / "run.json").read_text())["status"]
    assert status == ("running" if how == signal.SIGKILL else "interrupted")
    position = checkpoint.read(tmp_path / "cut/checkpoints/last.safetensors")[1]["position"]
    assert 0 < position["step"] < 6
    assert "finished" in finish(start(recipe, shapes, tmp_path, "cut", verb="resume"))
    a, b = Run(tmp_path / "whole"), Run(tmp_path / "cut")
    assert same(weights(a.path), weights(b.path))
    assert same(weights(a.path, "best"), weights(b.path, "best"))
    keys = ("kind", "step", "epoch", "losses", "lr", "grad_norm", "scores")
    assert [{k: x.get(k) for k in keys} for x in a.read_log()] == [{k: x.get(k) for k in keys} for x in b.read_log()]


def test_two_processes_equal_the_doubled_batch(recipe: Recipe, shapes: Path, tmp_path: Path) -> None:
    one = replace(recipe, train=replace(recipe.train, batch=8))
    finish(start(one, shapes, tmp_path, "one"))
    finish(start(recipe, shapes, tmp_path, "two", n=2))
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in a:
        if key.startswith(("model.", "ema.")):
            torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=2e-5)


def test_accumulation_equals_the_large_batch(recipe: Recipe, shapes: Path, tmp_path: Path) -> None:
    """22 pictures: batch 8 x 1 and batch 4 x 2 make the same groups, the short last one included."""
    large = replace(recipe, train=replace(recipe.train, batch=8, optimizer="sgd", lr=0.01))
    split = replace(recipe, train=replace(recipe.train, batch=4, accumulate=2, optimizer="sgd", lr=0.01))
    a = api.train(large, *sources(shapes), out=tmp_path, name="a")
    b = api.train(split, *sources(shapes), out=tmp_path, name="b")
    for key, value in weights(a.path).items():
        if key.startswith("model."):
            torch.testing.assert_close(value, weights(b.path)[key], rtol=1e-4, atol=1e-5)


def make_fit(recipe: Recipe, data: Path, out: Path) -> Fit:
    train, val = (source.read(s) for s in sources(data))
    run = Run.create(out, recipe, "fit")
    runtime = device.choose(recipe.train)
    return Fit(recipe, train, val, run, runtime, World(runtime.device))


def test_non_finite_loss_stops_with_a_dump(recipe: Recipe, shapes: Path, tmp_path: Path) -> None:
    fit = make_fit(recipe, shapes, tmp_path)
    with torch.no_grad():
        next(fit.state.model.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match="not finite") as e:
        fit.run()
    assert e.value.exit_code == 1
    info = json.loads((tmp_path / "fit/nonfinite-rank0/info.json").read_text())
    assert info["step"] == 1
    assert len(info["ids"][0]) == 4
    assert any(v == "nan" for v in info["weight_norms"].values())


def test_full_disk_keeps_the_old_checkpoint(
    recipe: Recipe, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = make_fit(recipe, shapes, tmp_path)
    fit._save()
    path = tmp_path / "fit/checkpoints/last.safetensors"
    before = path.read_bytes()

    def full(tensors: Any, name: Any, metadata: Any) -> None:
        Path(name).write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TercelError, match="No space left"):
        fit._save()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["last.safetensors"]


def test_checkpoint_is_verified(recipe: Recipe, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that does not reach the file is noticed at once (shuttle-3)."""
    fit = make_fit(recipe, shapes, tmp_path)
    honest = checkpoint.save

    def forgetful(path: Path, tensors: dict[str, torch.Tensor], header: Any) -> None:
        name = next(k for k in tensors if k.startswith("ema.") and "weight" in k)
        honest(path, {**tensors, name: tensors[name] * 1.01}, header)

    monkeypatch.setattr(checkpoint, "save", forgetful)
    with pytest.raises(TercelError, match="does not reproduce"):
        fit._save()


def test_refusals(recipe: Recipe, shapes: Path, tmp_path: Path) -> None:
    run = api.train(replace(recipe, train=replace(recipe.train, epochs=1)), *sources(shapes), out=tmp_path, name="r")
    with pytest.raises(TercelError, match="is not a run"):
        api.evaluate(tmp_path / "nothing")
    # other class names
    text = shapes.read_text().replace("disc", "coin")
    other = shapes.with_name("other.yaml")
    other.write_text(text)
    with pytest.raises(TercelError, match="classes"):
        api.evaluate(run.path, f"yolo:{other}#val")
    with pytest.raises(TercelError, match="classes"):
        api.train(recipe, sources(shapes)[0], f"yolo:{other}#val", out=tmp_path, name="x")
    # a second process on the same run folder
    with run.writing(), pytest.raises(TercelError, match="in use by process"), Run.open(run.path).writing():
        raise AssertionError("two writers")
    # a checkpoint cut short
    path = run.path / "checkpoints/best.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TercelError, match="not a readable"):
        api.evaluate(run.path)
    # an input size that the strides do not divide
    odd = replace(recipe, data=replace(recipe.data, size=(64, 100)))
    with pytest.raises(TercelError, match="multiple of 32"):
        api.train(odd, *sources(shapes), out=tmp_path, name="odd")


def test_resume_refuses_other_data(recipe: Recipe, tmp_path: Path) -> None:
    from tercel.data import synth

    data = synth.make_boxes(tmp_path / "d", n=12, seed=0, size=(96, 128), splits={"train": 0.5, "val": 0.5})
    run = api.train(replace(recipe, train=replace(recipe.train, epochs=1)), *sources(data), out=tmp_path, name="r")
    run.write_info(status="interrupted")
    label = next((tmp_path / "d/labels/train").glob("*.txt"))
    label.write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(TercelError, match="fingerprint"):
        api.resume(run.path)


def test_predict_equals_evaluate(recipe: Recipe, shapes: Path, tmp_path: Path) -> None:
    """A picture predicted is the picture evaluated (ultralytics#2783)."""
    run = api.train(replace(recipe, train=replace(recipe.train, epochs=1)), *sources(shapes), out=tmp_path, name="r")
    result, dataset = api.evaluate(run.path)
    out = api.predict(run.path, [str(shapes.parent / "images/val")], out=tmp_path / "p", min_score=0.001)
    lines = [json.loads(x) for x in (out.folder / "predictions.jsonl").read_text().splitlines()[1:]]
    assert len(lines) == len(dataset) == out.pictures
    by_name = {dataset.records[i].frames[0].path.name: p for i, p in enumerate(result.predictions)}
    for line in lines:
        p = by_name[line["id"]]
        assert line["boxes"] == p.boxes.tolist()
        assert line["scores"] == p.scores.tolist()
    assert len(list((out.folder / "drawn").glob("*.jpg"))) == len(dataset)
    with pytest.raises(TercelError, match="not empty"):
        api.predict(run.path, [str(shapes.parent / "images/val")], out=out.folder)


def test_a_calibration_is_applied_by_predict_and_by_eval_if_asked(recipe: Recipe, shapes: Path, tmp_path: Path) -> None:
    """aerial-3: the same boxes, half as wide and .8 as high; plain evaluation stays what it was."""
    from tercel.core.calibration import Calibration

    run = api.train(replace(recipe, train=replace(recipe.train, epochs=1)), *sources(shapes), out=tmp_path, name="r")
    media = [str(shapes.parent / "images/val")]

    def predicted(name: str) -> tuple[np.ndarray, set[str]]:
        done = api.predict(run.path, media, out=tmp_path / name, min_score=0.001, drawn=False)
        lines = [json.loads(x) for x in (done.folder / "predictions.jsonl").read_text().splitlines()[1:]]
        rows = np.concatenate([np.reshape(x["boxes"], (-1, 4)) for x in lines])
        return rows, {f.check for f in done.findings}

    plain, said = predicted("plain")
    assert len(plain) > 0
    assert "predict.calibrated" not in said
    with pytest.raises(TercelError, match=r"calibration\.json"):
        api.evaluate(run.path, calibrated=True)
    calibration = Calibration(width=0.5, height=0.8, fitted_on=("id nothing",))
    (run.path / "calibration.json").write_text(json.dumps(calibration.to_json()))
    moved, said = predicted("moved")
    assert "predict.calibrated" in said
    np.testing.assert_allclose(moved[:, 2:] - moved[:, :2], (plain[:, 2:] - plain[:, :2]) * [0.5, 0.8], rtol=1e-4)
    np.testing.assert_allclose(moved[:, 2:] + moved[:, :2], plain[:, 2:] + plain[:, :2], rtol=1e-4)
    as_is, asked = (api.evaluate(run.path, calibrated=c)[0].predictions for c in (False, True))
    areas = [float(sum((o.boxes[:, 2:] - o.boxes[:, :2]).prod(axis=1).sum() for o in p)) for p in (as_is, asked)]
    assert areas[1] == pytest.approx(0.4 * areas[0], rel=1e-3)


def test_schedule_and_average() -> None:
    from tercel.config import Train
    from tercel.engine.optim import Average, learning_rate

    c = Train(lr=1.0, warmup=0.1, final_lr=0.1)
    rates = [learning_rate(c, i, 100) for i in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))  # noqa: RUF007 - two slices
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 0.0)
    average = Average(net, 0.5)
    torch.nn.init.constant_(net.weight, 1.0)
    expected = 0.0
    for t in range(20):
        average.update(net)
        d = min(0.5, (1 + t) / (10 + t))
        expected = d * expected + (1 - d)
        assert float(average.model.weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_optimizer_groups(recipe: Recipe) -> None:
    """Every optimiser group is used, and only weights of two and more dimensions decay (aerial-39)."""
    from tercel.core.schema import Schema
    from tercel.engine.optim import make_optimizer
    from tercel.models.detector import Detector

    model = Detector(recipe.model, Schema(("a",)))
    groups = make_optimizer(model, recipe.train).param_groups
    assert sum(len(g["params"]) for g in groups) == sum(1 for _ in model.parameters())
    assert {p.ndim > 1 for p in groups[0]["params"]} == {True}
    assert {p.ndim > 1 for p in groups[1]["params"]} == {False}
    assert groups[1]["weight_decay"] == 0


def test_clock(recipe: Recipe, shapes: Path, tmp_path: Path) -> None:
    """checkpoint_minutes=0 saves at evaluations only."""
    fit = make_fit(replace(recipe, train=replace(recipe.train, checkpoint_minutes=0.0)), shapes, tmp_path)
    fit.last_saved = time.monotonic() - 1e6
    assert not fit._overdue()


def test_torchrun_from_the_command_line(shapes: Path, tmp_path: Path) -> None:
    """Two processes of the real command: one speaks, everything is written, leaks are refused by both."""
    small = {
        "model.backbone.stem": 8, "model.backbone.widths": "[8,16,16,16]", "model.backbone.depths": "[0,1,1,1]",
        "model.neck.width": 16, "model.head.width": 16, "model.head.depth": 1, "model.norm": "group",
        "data.size": "64x96", "train.epochs": 1, "train.batch": 4, "evaluate.resamples": 0,
    }  # fmt: skip
    settings = [w for k, v in small.items() for w in ("--set", f"{k}={v}")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tercel.cli"]
    train, val = sources(shapes)
    words = [*launch, "train", "boxes_demo", "--train", train, "--val", val, "--out", str(tmp_path), "--name", "r"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words, *settings], capture_output=True, text=True, env=env, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1
    assert json.loads((tmp_path / "r/run.json").read_text())["status"] == "finished"
    assert (tmp_path / "r/report.html").exists()


def test_leaks_are_refused(recipe: Recipe, shapes: Path, tmp_path: Path) -> None:
    train, _ = sources(shapes)
    with pytest.raises(TercelError, match="occur in both sets"):
        api.train(recipe, train, train, out=tmp_path, name="r")
    assert not (tmp_path / "r").exists()
    once = replace(recipe, train=replace(recipe.train, epochs=1))
    run = api.train(once, train, train, out=tmp_path, name="r", allow_leaks=True)
    assert any(f["check"] == "split.shared_path" for f in run.info["findings"])


def test_a_training_outlives_its_reader(recipe: Recipe, shapes: Path, tmp_path: Path) -> None:
    """Whoever reads standard error goes away and then ends the run: it is interrupted with a checkpoint, not failed."""
    words = [sys.executable, "-c", CLOSER, json.dumps(dump(recipe)), *sources(shapes), str(tmp_path)]
    subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120, check=False)
    assert json.loads((tmp_path / "r/run.json").read_text())["status"] == "interrupted"
    assert checkpoint.read(tmp_path / "r/checkpoints/last.safetensors")[1]["position"]["step"] == 4
