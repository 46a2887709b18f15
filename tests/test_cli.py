"""The command line as people and scripts rely on it: verbs, options, exit codes, streams, start-up, widths."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from tercel import cli, config, recipes
from tercel.core.finding import TercelError
from tercel.data import source, synth

Run = Callable[..., Any]
VERBS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]

# Scripts depend on this. Whoever changes a line here changes them, and says so in the changelog.
FROZEN = {
    "demo": ["task str = ball", "--out Path = demo", "--set list[str] ...", "--json bool"],
    "recipes": ["--json bool"],
    "show": [
        "recipe str", "--set list[str] ...", "--batch Path", "--train str", "--run Path", "--data list[str] ...",
        "--out Path = data.html", "--json bool",
    ],
    "train": [
        "recipe str required", "--train str required", "--val str required", "--set list[str] ...", "--out Path = runs",
        "--name str", "--allow-leaks bool", "--start Path", "--json bool",
    ],
    "resume": ["run Path required", "--json bool"],
    "eval": ["run Path required", "--data str", "--checkpoint str = best", "--set list[str] ...",
             "--calibrated bool", "--out Path", "--json bool"],
    "score": [
        "--truth str", "--pred str", "--task str", "--rule str = all", "--tolerance str", "--size str",
        "--ball-size float", "--fps float", "--check-table Path", "--max-detections str",
        "--ious str", "--interpolation str = 101", "--matching str = coco", "--sigmas str", "--resamples int = 200",
        "--lab bool", "--json bool",
    ],
    "predict": [
        "run Path required", "media list[str] required ...", "--out Path = predictions", "--checkpoint str = best",
        "--set list[str] ...", "--min-score float 0..1", "--drawn/--no-drawn bool = True", "--json bool",
    ],
    "agree": [
        "a str required", "b str required", "--pred str", "--geometry str", "--draws int 0..None = 20",
        "--max-detections int 1..None = 100", "--resamples int = 200", "--json bool",
    ],
    "compare": [
        "a Path required", "b Path required", "--truth str", "--geometry str", "--max-detections int 1..None",
        "--resamples int = 1000", "--json bool",
    ],
    "calibrate": [
        "run Path", "--truth str", "--pred str", "--test-truth str", "--test-pred str", "--out Path", "--method str",
        "--factors str = 0.8,1.25", "--angle float 0..45 = 10.0", "--geometry str",
        "--max-detections int 1..None = 100", "--resamples int = 200", "--json bool",
    ],
    "suspects": [
        "--truth str required", "--pred str required", "--out Path", "--to str", "--limit int 0..None",
        "--geometry str", "--json bool",
    ],
    "convert": [
        "source str required", "out Path required", "--to str required", "--split str", "--classes str", "--json bool",
    ],
    "runs": ["out Path = runs", "--json bool"],
    "report": ["run Path required", "--json bool"],
}  # fmt: skip


def described(p: Any) -> str:
    """A parameter in one line: name, type, whether it is needed, its default, whether it may be repeated."""
    kind = p.type_descriptor.annotation
    words = ["/".join([*p.opts, *p.secondary_opts]), getattr(kind, "__name__", str(kind)).replace("list", "list[str]")]
    words += [f"{p.min}..{p.max}"] if p.min is not None else []
    words += ["required"] if p.required else []
    words += [f"= {p.default}"] if p.default not in (None, "", False) else []
    words += ["..."] if p.multiple or p.nargs == -1 else []
    return " ".join(words)


def test_verbs_and_options_are_frozen() -> None:
    assert {name: [described(p) for p in verb.params] for name, verb in VERBS.items()} == FROZEN


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml of 4 train and 2 val pictures."""
    out = tmp_path_factory.mktemp("cli") / "set"
    return synth.make_boxes(out, n=6, seed=1, size=(48, 64), splits={"train": 4 / 6, "val": 2 / 6})


TINY = [
    "data.size=32x64", "data.workers=1", "train.batch=2", "train.epochs=1", "train.precision=fp32", "model.norm=group",
    "model.backbone.stem=8", "model.backbone.widths=8,8,8,8", "model.backbone.depths=0,0,0,0", "model.neck.width=8",
    "model.head.width=8", "model.head.depth=1", "evaluate.resamples=0", "augment.close_epochs=0",
]  # fmt: skip
SET = [w for s in TINY for w in ("--set", s)]


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny network; read only."""
    from tercel import api

    out = tmp_path_factory.mktemp("runs")
    recipe = recipes.get("boxes", TINY)
    return api.train(recipe, f"yolo:{shapes}#train", f"yolo:{shapes}#val", out=out, name="r").path


# -- exit codes and streams ---------------------------------------------------------------------------------------


def test_help_of_everything_fits_80_columns(tercel: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([], ["-h"], ["--help"], *([v, "--help"] for v in VERBS)):
        said = tercel(*words)
        assert said.code == (0 if words else 2), words  # no verb: help, and exit 2 as for any misuse
        text = said.out + said.err
        assert text.startswith("Usage: tercel")
        assert max(map(len, text.splitlines())) <= 80
    listed = tercel("--help").out
    for name, verb in VERBS.items():
        summary = verb.help.splitlines()[0]
        assert re.search(rf"^  {name} +{re.escape(summary)}$", listed, re.M), f"{name} is cut off in the list"
        for p in verb.params:
            assert p.help, f"{name} {p.name} has no help"


def test_version(tercel: Run) -> None:
    from tercel import __version__

    assert tercel("--version") == (0, f"tercel {__version__}\n", "")
    assert tercel("--debug", "--version").out == f"tercel {__version__}\n"


def test_a_batch_is_drawn_with_a_trained_network(tercel: Run, trained: Path, shapes: Path, tmp_path: Path) -> None:
    """By the run's own recipe and data, or with another assigner; not with a network that its weights do not fit."""
    own, other = tmp_path / "own.png", tmp_path / "other.png"
    assert tercel("show", "--run", trained, "--batch", own) == (0, f"{own}\n", "")
    words = ["--set", "model.head.assigner=SimOta", "--train", f"yolo:{shapes}#val"]
    assert tercel("show", "--run", trained, "--batch", other, *words).code == 0
    assert own.read_bytes() != other.read_bytes()
    for more, message in (
        ([], "--run is for --batch"),
        (["boxes", "--batch", tmp_path / "x.png"], "there must be one thing to show"),
        (["--batch", own], "will not be overwritten"),
        (["--batch", tmp_path / "x.png", "--set", "model.head.width=16"], "does not fit this network"),
        (["--batch", tmp_path / "x.png", "--train", f"coco:{tmp_path}#train"], "remedy:"),
    ):
        said = tercel("show", "--run", trained, *more)
        assert (said.code, said.out) == (2, ""), more
        assert message in said.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.png", "own.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument 'recipe'"),
        (["train", "boxes"], "Missing option '--train'"),
        (["train", "boxes", "--trian", "x"], "No such option: --trian"),
        (["score", "--truth", "x", "--pred", "y", "--resamples", "many"], "--resamples"),
        (["predict", "r", "x.jpg", "--min-score", "1.5"], "--min-score"),
        (["recipes", "boxes"], "unexpected extra argument"),
        (["score", "--truth", "nowhere", "--pred", "y"], "nowhere does not exist"),
        (["show", "bxes"], "there is no recipe 'bxes'"),
        (["demo", "circles"], "there is no demo 'circles'"),
    ],
)
def test_misuse_is_2_and_says_why(tercel: Run, words: list[str], message: str) -> None:
    said = tercel(*words)
    assert said.code == 2
    assert said.out == ""
    assert message in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ZeroDivisionError("x"), 3, "bug in tercel: ZeroDivisionError: x"),
        (KeyError("x"), 3, "bug in tercel: KeyError"),
        (TercelError("bad thing", "mend it"), 2, "error: bad thing\n  remedy: mend it\n"),
        (PermissionError(13, "Permission denied", "/a/b"), 2, "error: /a/b: Permission denied\n  remedy: "),
        (MemoryError(), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_every_failure_has_its_code(
    tercel: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(source, "convert", fail)
    said = tercel("convert", "a", "b", "--to", "voc")
    assert (said.code, said.out) == (code, "")
    assert message in said.err
    assert "Traceback" not in said.err
    assert code != 3 or "--debug" in said.err
    if isinstance(error, Exception):  # with --debug the interpreter shows it, wherever --debug stands
        with pytest.raises(type(error)):
            tercel("convert", "a", "b", "--to", "voc", "--debug")


def test_an_error_of_a_worker_is_told_like_its_cause(tercel: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("record 'a'") from MemoryError("4 GB")

    monkeypatch.setattr(source, "convert", fail)
    said = tercel("convert", "a", "b", "--to", "voc")
    assert (said.code, "out of memory: 4 GB" in said.err) == (2, True)


def test_debug_shows_a_traceback_and_nothing_else_does() -> None:
    words = [sys.executable, "-m", "tercel.cli", "score", "--truth", "nowhere", "--pred", "x"]
    plain = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (plain.returncode, plain.stdout, "Traceback" in plain.stderr) == (2, "", False)
    debug = subprocess.run([*words, "--debug"], capture_output=True, text=True, check=False)
    assert (debug.returncode, "Traceback" in debug.stderr) == (1, True)


def test_findings_of_severity_error_give_1(tercel: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text("{")
    (tmp_path / "r").symlink_to(trained)
    said = tercel("runs", tmp_path)
    assert said.code == 1
    assert "old/run.json:1: not JSON" in said.err
    assert re.search(r"^r +boxes +finished", said.out, re.M)  # the others are listed all the same
    assert tercel("runs", tmp_path, "--json").code == 1


# -- --json -------------------------------------------------------------------------------------------------------


def json_commands(shapes: Path, run: Path, out: Path) -> dict[str, list[Any]]:
    val = f"yolo:{shapes}#val"
    return {
        "demo": ["demo", "--out", out / "demo"],
        "recipes": ["recipes"],
        "show": ["show", "boxes", "--set", "train.lr=0.1"],
        "train": ["train", "boxes", "--train", f"yolo:{shapes}#train", "--val", val, "--out", out / "t", *SET],
        "resume": ["resume", out / "t" / "stopped"],
        "eval": ["eval", run],
        "score": ["score", "--truth", val, "--pred", run / "preds.jsonl", "--resamples", "0"],
        "predict": ["predict", run, shapes.parent / "images/val", "--out", out / "p"],
        "agree": ["agree", val, val, "--draws", "2", "--resamples", "0"],
        "compare": ["compare", run, run / "preds.jsonl", "--truth", val, "--resamples", "50"],
        "calibrate": ["calibrate", "--truth", val, "--pred", run / "preds.jsonl", "--out", out / "calibration.json"],
        "suspects": ["suspects", "--truth", val, "--pred", run / "preds.jsonl", "--out", out / "queue", "--to", "voc"],
        "convert": ["convert", val, out / "voc", "--to", "voc"],
        "runs": ["runs", run.parent],
        "report": ["report", out / "t" / "stopped"],
    }


def test_json_is_one_object_on_standard_output(
    tercel: Run, shapes: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tercel import demo
    from tercel.engine.run import Run as RunFolder

    monkeypatch.setattr(demo, "demo", lambda *_, **__: RunFolder(trained))  # the real one takes minutes
    commands = json_commands(shapes, trained, tmp_path)
    assert commands.keys() == VERBS.keys()
    said = {}
    for name, words in commands.items():
        if name == "resume":
            first = next((tmp_path / "t").iterdir())
            first.rename(tmp_path / "t" / "stopped")
            RunFolder(tmp_path / "t" / "stopped").write_info(status="interrupted")
        done = tercel(*words, "--json")
        assert done.code == 0, (name, done.err)
        assert done.out.count("\n") == 1, name
        said[name] = json.loads(done.out)
        assert isinstance(said[name], dict)
    for name in ("demo", "train", "resume", "eval", "score"):
        scores = {s["name"]: s for s in said[name]["scores"] if not s["where"]}
        assert scores["AP"].keys() == {"name", "value", "n", "low", "high", "where"}
        assert isinstance(said[name]["findings"], list)
        assert "run" in said[name]
    assert said["eval"]["scores"] == json.loads((trained / "metrics.json").read_text())["scores"]
    assert said["predict"].keys() == {"scores", "findings", "run", "out", "pictures", "detections"}
    assert said["predict"]["pictures"] == 2
    assert said["convert"].keys() == {"scores", "findings", "run", "out"}
    assert [Path(r["run"]).name for r in said["runs"]["runs"]] == ["r"]
    assert said["show"]["train"]["lr"] == 0.1
    assert said["recipes"]["recipes"].keys() == recipes.RECIPES.keys()
    assert Path(said["report"]["report"]).is_file()


def test_without_json_only_results_are_on_standard_output(
    tercel: Run, shapes: Path, trained: Path, tmp_path: Path
) -> None:
    train = tercel(*json_commands(shapes, trained, tmp_path)["train"])
    assert train.out.splitlines()[-1].startswith("report: ")
    assert "run: " in train.err
    assert "epoch 1: AP" in train.err
    assert "info:" not in train.out
    assert "\x1b" not in train.out + train.err  # no colours, no bars, where nobody watches
    predict = tercel(*json_commands(shapes, trained, tmp_path)["predict"])
    assert re.fullmatch(r"\d+ detections? on 2 pictures: \S+predictions\.jsonl\n", predict.out)


# -- booleans -----------------------------------------------------------------------------------------------------


FLAGS = [(v, p) for v, verb in VERBS.items() for p in verb.params if p.type_descriptor.annotation is bool]


@pytest.mark.parametrize(("verb", "flag"), FLAGS, ids=lambda x: x if isinstance(x, str) else x.name)
def test_every_flag_can_be_switched_and_takes_no_value(verb: str, flag: Any) -> None:
    """A flag that swallows the word False and means True by it trains the wrong thing (shuttle-31)."""
    needed = {"train": ["boxes", "--train", "a", "--val", "b"], "score": ["--truth", "a", "--pred", "b"],
              "predict": ["r", "x.jpg"], "convert": ["a", "b", "--to", "voc"], "show": ["boxes"], "resume": ["r"],
              "eval": ["r"], "report": ["r"], "agree": ["a", "b"], "compare": ["a", "b"],
              "suspects": ["--truth", "a", "--pred", "b"]}  # fmt: skip

    def value(*words: str) -> Any:
        return VERBS[verb].make_context(verb, [*needed.get(verb, []), *words]).params[flag.name]

    assert value() is flag.default
    assert value(flag.opts[0]) is True
    for off in flag.secondary_opts:
        assert value(off) is False
    for odd in ("=False", "=0", "=true"):
        with pytest.raises(Exception, match="does not take a value"):
            value(flag.opts[0] + odd)


def test_every_boolean_setting_reads_words_and_refuses_numbers() -> None:
    flags = [k for r in recipes.RECIPES.values() for k, v in config.flat(r()).items() if isinstance(v, bool)]
    assert "evaluate.class_agnostic" in flags
    base = {k: r for r in recipes.RECIPES for k in config.flat(recipes.get(r))}
    for key in set(flags):
        for text, meant in (
            ("true", True),
            ("False", False),
            ("yes", True),
            ("NO", False),
            ("on", True),
            ("off", False),
        ):
            assert config.flat(recipes.get(base[key], [f"{key}={text}"]))[key] is meant
        for text in ("0", "1", "", "maybe", "null", '"true"'):
            with pytest.raises(TercelError, match="is not bool"):
                recipes.get(base[key], [f"{key}={text}"])


def test_a_boolean_field_is_never_a_string() -> None:
    kinds = {f.type for c in vars(config).values() if dataclasses.is_dataclass(c) for f in dataclasses.fields(c)}
    assert "bool" in kinds
    assert not any("bool |" in str(k) or "| bool" in str(k) for k in kinds)


# -- start-up -----------------------------------------------------------------------------------------------------

STARTUP = """
import io, sys
from contextlib import redirect_stdout, redirect_stderr
from tercel import cli
heavy = {"torch", "timm", "torchvision", "matplotlib", "scipy"}
for words in WORDS:
    sys.argv = ["tercel", *words]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
        try:
            cli.main()
        except SystemExit as e:
            assert not e.code, (words, err.getvalue())
    # typer itself loads pydantic as soon as a verb has parameters, 0.15 s that are not ours to save
    found = (heavy | ({"pydantic"} if words[0][0] == "-" else set())) & set(sys.modules)
    assert not found, (words, found)
"""


def test_what_needs_no_network_does_not_load_torch(shapes: Path, trained: Path, tmp_path: Path) -> None:
    val = f"yolo:{shapes}#val"
    words = [
        ["--help"], ["--version"], ["train", "--help"], ["recipes"], ["recipes", "--json"], ["show", "boxes"],
        ["score", "--truth", val, "--pred", str(trained / "preds.jsonl")], ["runs", str(trained.parent)],
        ["convert", val, str(tmp_path / "voc"), "--to", "voc"],
    ]  # fmt: skip
    subprocess.run([sys.executable, "-c", f"WORDS = {words!r}\n{STARTUP}"], check=True)


# -- terminals ----------------------------------------------------------------------------------------------------


def on_terminal(words: list[str], columns: int = 80) -> str:
    """What a command writes to a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm"}
    env.pop("COLUMNS", None)
    process = subprocess.Popen(words, stdout=slave, stderr=slave, stdin=subprocess.DEVNULL, env=env)
    os.close(slave)
    out = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        out += part
    os.close(master)
    assert process.wait() == 0, out.decode()
    return out.decode()


def test_tables_fit_a_terminal_of_80_columns(shapes: Path, trained: Path) -> None:
    """No line is wrapped, and no column that says what a row is about is squeezed away."""
    words = [sys.executable, "-m", "tercel.cli", "score", "--truth", f"yolo:{shapes}#val"]
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", on_terminal([*words, "--pred", str(trained / "preds.jsonl")]))
    tables = [line.rstrip() for line in text.splitlines() if not line.startswith(("info:", "warning:"))]
    assert max(map(len, tables)) <= 80
    for name in ("disc", "square", "cross", "triangle"):
        assert re.search(rf"^{name} +[\d–]", text, re.M), text
    header = next(line for line in tables if line.startswith("class"))
    assert header.split()[:2] == ["class", "AP"]
    assert {"AP50", "GT", "TP", "FP", "precision", "recall"} <= set(header.split())


def test_a_reader_that_leaves_and_a_terminal_without_unicode(shapes: Path, trained: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    score = [sys.executable, "-m", "tercel.cli", "score", "--truth", f"yolo:{shapes}#val"]
    command = [*score, "--pred", str(trained / "preds.jsonl"), "--resamples", "0"]
    said = subprocess.run(command, capture_output=True, env=env, check=True, text=True)
    assert "AP50" in said.stdout
    shell = subprocess.run(
        f"{sys.executable} -m tercel.cli show boxes | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert shell.stdout.startswith("name")
    assert shell.stderr == ""


def test_bars_and_lines_of_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody watches a bar, a line now and then; control characters never get through."""
    from tercel import progress

    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    with progress.bars("pictures", "drawn copies") as (seen, drawn):
        seen(1, 4)
        drawn(2, 4)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"^pictures 1/4 .* min left$", err, re.M)
    assert re.search(r"^drawn copies 2/4 .* min left$", err, re.M)
    progress.write_line("evil \x1b[2J name\nsecond line")
    assert capsys.readouterr().err == "evil \ufffd[2J name\nsecond line\n"
