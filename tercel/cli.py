"""The command line: thin verbs over public functions.

Results go to standard output, everything else to standard error; with --json the result is exactly one object.

Exit codes: 0 fine, 1 findings or a run that failed, 2 misuse or bad input, 3 a bug in Tercel, 130 interrupted. Heavy
imports sit inside the verbs, so that help and `score` start at once.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercel import cli_lab
from tercel.core.finding import Finding, Ledger, Score, Severity, TercelError
from tercel.terminal import Json, console, exit_on_error, numbers, print_findings, say

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    help="Trains, debugs and judges detectors of small, fast and crowded things.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]}, rich_markup_mode=None,
)  # fmt: skip

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field of the recipe; may be repeated."),
]
Which = Annotated[str, typer.Option("--checkpoint", help="best or last.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Options of every verb are read in `main`; they stand here to be documented."""


@app.command()
def demo(
    task: Annotated[str, typer.Argument(help="Which kind: ball, boxes, crowd, keypoints, oriented.")] = "ball",
    out: Annotated[Path, typer.Option(help="Folder for data and runs.")] = Path("demo"),
    settings: Settings = None,
    json_: Json = False,
) -> None:
    """Generate data, train, evaluate, predict, and name the report."""
    from tercel import demo as demos

    run = demos.demo(task, out, settings or (), observers=_observers(), say=say)
    _after_training(run.path, json_)


@app.command()
def recipes(json_: Json = False) -> None:
    """List the recipes."""
    from tercel.recipes import RECIPES

    lines = {name: (make.__doc__ or "").strip().splitlines()[0] for name, make in RECIPES.items()}
    if json_:
        typer.echo(json.dumps({"recipes": lines}))
    else:
        for name, line in lines.items():
            typer.echo(f"{name:16} {line}")


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")] = "",
    settings: Settings = None,
    batch: Annotated[
        Path | None, typer.Option(help="Draw one augmented batch into this PNG, and which priors answer for its truth.")
    ] = None,
    train_: Annotated[
        str, typer.Option("--train", metavar="SOURCE", help="Data for --batch; default: the run's.")
    ] = "",
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="For --batch: this run's recipe and trained network.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE", help="Labels to look at, without a recipe; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="New page for --data.")] = Path("data.html"),
    json_: Json = False,
) -> None:
    """Show a recipe, a training batch, or data."""
    if sum(map(bool, (recipe, data, run))) != 1:
        raise TercelError("there must be one thing to show", "name a recipe, or give --data SOURCE or --run RUN")
    if data:
        from tercel.report.explore import explore

        findings = explore(data, out)
        print_findings(findings)
        listed = {"findings": [f.to_json() for f in findings], "page": str(out)}
        typer.echo(json.dumps(listed) if json_ else str(out))
        exit_on_error(findings)
        return
    from tercel import recipes as book
    from tercel.config import dump, flat

    if run is not None:
        from tercel.show import draw_batch, trained

        if batch is None:
            raise TercelError("--run is for --batch", "add --batch FILE")
        resolved, model, source = trained(run, settings or ())
        path = draw_batch(resolved, train_ or source, batch, model=model)
        typer.echo(json.dumps({"batch": str(path)}) if json_ else str(path))
        return
    resolved = book.get(recipe, settings or ())
    if batch is not None:
        from tercel.show import draw_batch

        if not train_:
            raise TercelError("--batch needs data", "add --train SOURCE")
        path = draw_batch(resolved, train_, batch)
        typer.echo(json.dumps({"batch": str(path)}) if json_ else str(path))
    elif json_:
        typer.echo(json.dumps(dump(resolved)))
    else:
        from tercel.report.words import plain

        usual = flat(book.RECIPES[recipe]())
        for key, value in flat(resolved).items():
            changed = f"   (recipe: {plain(usual.get(key))})" if usual.get(key) != value else ""
            typer.echo(f"{key:34} {plain(value)}{changed}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe.")],
    train_: Annotated[str, typer.Option("--train", metavar="SOURCE", help="[format:]path[#split]")],
    val: Annotated[str, typer.Option(metavar="SOURCE", help="[format:]path[#split]")],
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs"),
    name: Annotated[str, typer.Option(help="Name of the run's folder; default: recipe, date and time.")] = "",
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Train although train and val share pictures.")
    ] = False,
    start: Annotated[Path | None, typer.Option(metavar="RUN", help="Begin with this run's best weights.")] = None,
    json_: Json = False,
) -> None:
    """Train and judge a detector in a new run folder."""
    from tercel import recipes as book

    resolved = book.get(recipe, settings or ())
    from tercel import api

    command = shlex.join(["tercel", *sys.argv[1:]])
    run = api.train(
        resolved, train_, val, out=out, name=name, command=command, allow_leaks=allow_leaks, start=start,
        observers=_observers(),
    )  # fmt: skip
    _after_training(run.path, json_)


@app.command()
def resume(run: Annotated[Path, typer.Argument(help="Run folder.")], json_: Json = False) -> None:
    """Continue an interrupted run as if nothing had happened."""
    from tercel import api

    api.resume(run, observers=_observers())
    _after_training(run, json_)


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Annotated[str, typer.Option(metavar="SOURCE", help="Default: the run's validation data.")] = "",
    which: Which = "best",
    settings: Settings = None,
    calibrated: Annotated[bool, typer.Option("--calibrated", help="Apply the run's calibration.json first.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write preds.jsonl and metrics.json here.")] = None,
    json_: Json = False,
) -> None:
    """Judge a checkpoint on labelled data."""
    from tercel import api

    with _progress("pictures") as (tick,):
        result, dataset = api.evaluate(
            run, data, which=which, settings=settings or (), calibrated=calibrated, out=out, progress=tick
        )
    _print_scores(result.scores, result.findings, json_, run=str(run), report=result.report, data=dataset.source)


@app.command()
def score(
    truth: Annotated[str, typer.Option(metavar="SOURCE", help="Labels: [format:]path[#split]")] = "",
    pred: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="preds.jsonl, COCO results, CrowdHuman dump, text folder; csv of balls or events."
        ),
    ] = "",
    task: Annotated[
        str, typer.Option(help="boxes, oriented, keypoints, crowd, ball or events; default: what both files hold.")
    ] = "",
    rule: Annotated[str, typer.Option(help="Ball: published rules, as a,b, or all.")] = "all",
    tolerance: Annotated[str, typer.Option(help="Ball: a rule of your own, 5px@original or 50% of the ball.")] = "",
    size: Annotated[str, typer.Option(metavar="HxW", help="Ball: size of the frames, if nothing tells it.")] = "",
    ball_size: Annotated[float | None, typer.Option(help="Ball: its diameter in px, for a tolerance in %.")] = None,
    fps: Annotated[float | None, typer.Option(help="Events: frames per second, for times in ms.")] = None,
    check_table: Annotated[
        Path | None, typer.Option(help="A csv of published counts: which rows do not add up?")
    ] = None,
    max_detections: Annotated[
        str, typer.Option(help="Detections per picture that count; default: 1,10,100, keypoints 20, crowd no cap.")
    ] = "",
    ious: Annotated[str, typer.Option(help="Overlap (keypoints: OKS) thresholds; default: .50 to .95.")] = "",
    interpolation: Annotated[str, typer.Option(help="Boxes: 101 recalls (COCO), every or 11 (VOC).")] = "101",
    matching: Annotated[str, typer.Option(help="Boxes: coco, or voc (a detection's best truth alone).")] = "coco",
    sigmas: Annotated[str, typer.Option(help="Keypoints: OKS sigmas, one per point or one for all.")] = "",
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples for the intervals; 0 = none.")] = 200,
    lab: Annotated[bool, typer.Option("--lab", help="Boxes: also say where the score is lost.")] = False,
    json_: Json = False,
) -> None:
    """Judge any prediction file against labels."""
    if check_table is not None:
        _check_table(check_table, json_)
        return
    if not truth or not pred:
        raise TercelError("there is nothing to judge", "give --truth SOURCE and --pred FILE, or --check-table FILE")
    from tercel.score import score as judge

    caps = numbers("--max-detections", max_detections, int, "1,10,500") if max_detections else None
    more: dict[str, Any] = {"interpolation": interpolation, "matching": matching}
    if ious:
        more["ious"] = numbers("--ious", ious, float, "0.5,0.75")
    if sigmas:
        more["sigmas"] = numbers("--sigmas", sigmas, float, "0.025,0.05")
    result = judge(
        truth, pred, task, max_detections=caps, resamples=resamples, rules=_rules(rule), tolerance=tolerance,
        size=_size(size), ball_size=ball_size, fps=fps, lab=lab, **more,
    )  # fmt: skip
    errors = None if result.errors is None else result.errors.to_json()
    _print_scores(result.scores, result.findings, json_, report=result.report, data=truth, errors=errors)
    exit_on_error(result.findings)


def _rules(text: str) -> tuple[str, ...]:
    """`--rule`: names, or all of them."""
    from tercel.metrics.rules import ALL

    return ALL if text == "all" else tuple(t.strip() for t in text.split(","))


def _size(text: str) -> tuple[int, int] | None:
    """`--size` as (H, W)."""
    height, _, width = text.partition("x")
    if text and not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise TercelError(f"--size {text!r} is not height x width", "for example --size 720x1280")
    return (int(height), int(width)) if text else None


def _check_table(path: Path, as_json: bool) -> None:
    """Which rows of a table of counts do not add up; exit 1 when there is one."""
    from tercel.metrics.counts import check_table
    from tercel.report.tables import print_checked

    checked = check_table(path)
    if as_json:
        findings = [f.to_json() for f in checked.findings]
        typer.echo(json.dumps({"scores": [], "findings": findings, "run": None, "rows": checked.rows}))
    else:
        print_checked(console(), checked.rows)
        print_findings(checked.findings)
    exit_on_error(checked.findings)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    media: Annotated[list[str], typer.Argument(help="Pictures, folders, globs; for a ball videos too.")],
    out: Annotated[Path, typer.Option(help="New folder for predictions.jsonl and drawn copies.")] = Path("predictions"),
    which: Which = "best",
    settings: Settings = None,
    min_score: Annotated[float | None, typer.Option(min=0, max=1, help="Default: the recipe's show_score.")] = None,
    drawn: Annotated[bool, typer.Option(help="Write drawn copies.")] = True,
    json_: Json = False,
) -> None:
    """Detect on pictures or videos: answers and drawn copies."""
    from tercel import api

    with _progress("pictures", "drawn copies") as (seen, copied):
        p = api.predict(
            run, media, out=out, which=which, settings=settings or (), min_score=min_score, drawn=drawn, progress=seen,
            drawing=copied,
        )  # fmt: skip
    print_findings(p.findings)
    if json_:
        typer.echo(
            json.dumps(
                {"scores": [], "findings": [f.to_json() for f in p.findings], "run": str(run), "out": str(p.folder),
                 "pictures": p.pictures, "detections": p.detections}
            )
        )  # fmt: skip
    else:
        what = f"{p.detections} detection{'s' * (p.detections != 1)} on {p.pictures} picture{'s' * (p.pictures != 1)}"
        file = p.folder / "predictions.jsonl"
        typer.echo(f"{what}: {file if file.exists() else p.folder}")
    exit_on_error(p.findings)


for verb in cli_lab.VERBS:
    app.command()(verb)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="[format:]path[#split]")],
    out: Annotated[Path, typer.Argument(help="New folder or file.")],
    to: Annotated[str, typer.Option(help="voc, coco, yolo, ...")],
    split: Annotated[str, typer.Option(metavar="NAME", help="Split to write; default: the source's, or train.")] = "",
    classes: Annotated[str, typer.Option(metavar="NAME,NAME", help="Only these classes, in this order.")] = "",
    json_: Json = False,
) -> None:
    """Rewrite and check a data set in another format."""
    from tercel.data.source import convert as run_convert

    chosen = [c.strip() for c in classes.split(",")] if classes else None
    findings = run_convert(source, out, to, split=split or None, classes=chosen)
    print_findings(findings)
    if json_:
        listed = [f.to_json() for f in findings]
        typer.echo(json.dumps({"scores": [], "findings": listed, "run": None, "out": str(out)}))
    else:
        typer.echo(str(out))
    exit_on_error(findings)


@app.command()
def runs(
    out: Annotated[Path, typer.Argument(help="Folder that holds the runs.")] = Path("runs"), json_: Json = False
) -> None:
    """List runs: data, what differs, scores."""
    from tercel.engine.run import list_runs

    ledger = Ledger()
    rows = list_runs(out, ledger)
    if json_:
        typer.echo(json.dumps({"runs": rows, "findings": [f.to_json() for f in ledger.findings()]}))
    elif rows:
        from tercel.report.reading import read_run
        from tercel.report.tables import runs_table

        screen = console()
        screen.print(runs_table(screen, [read_run(Path(r["run"]), pictures=False) for r in rows]))
        for r in rows:
            if r["differs"]:
                settings = ", ".join(f"{k}={v}" for k, v in r["differs"].items())
                screen.print(f"{Path(r['run']).name}: {settings}", markup=False, highlight=False, soft_wrap=True)
    print_findings(ledger.findings())
    exit_on_error(ledger.findings())


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run folder.")], json_: Json = False) -> None:
    """Write report.html again."""
    from tercel.engine.run import Run
    from tercel.report.html import write_report

    path = write_report(Run.open(run).path)
    typer.echo(json.dumps({"run": str(run), "report": str(path)}) if json_ else str(path))


# -- printing -------------------------------------------------------------------------------------------------------


def _observers() -> Sequence[Any]:
    from tercel.progress import Terminal

    return (Terminal(),)


def _progress(*units: str) -> Any:
    from tercel.progress import bars

    return bars(*units)


def _print_scores(
    scores: Sequence[Score],
    findings: Sequence[Finding],
    as_json: bool,
    *,
    run: str | None = None,
    report: Any = None,
    data: str = "",
    errors: dict[str, Any] | None = None,
) -> None:
    if as_json:
        parts: dict[str, Any] = {"scores": [s.to_json() for s in scores], "findings": [f.to_json() for f in findings]}
        parts |= {} if errors is None else {"errors": errors}
        typer.echo(json.dumps({**parts, "run": run, "data": data}, allow_nan=False))
        return
    print_findings(findings)
    from tercel.report.tables import print_report

    print_report(console(), scores, report.to_json())
    if errors is not None:
        from tercel.report.error_tables import print_errors

        print_errors(console(), errors)


def _after_training(path: Path, as_json: bool) -> None:
    """What a training says at its end; under torchrun only the first process speaks."""
    if os.environ.get("RANK", "0") != "0":
        return
    status = json.loads((path / "run.json").read_text(encoding="utf-8"))["status"]
    if status == "interrupted":
        say(f"interrupted; continue with: tercel resume {path}")
        if as_json:
            typer.echo(json.dumps({"scores": [], "findings": [], "run": str(path), "status": status}))
        raise typer.Exit(130)
    _summary(path, as_json)
    if not as_json:
        typer.echo(f"report: {path / 'report.html'}")


def _summary(path: Path, as_json: bool) -> None:
    """The final scores of a finished run."""
    metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    if as_json:
        out = {k: metrics[k] for k in ("scores", "findings", "checkpoint", "last")} | {"run": str(path)}
        typer.echo(json.dumps(out))
        return
    from tercel.report.reading import to_finding
    from tercel.report.tables import print_report

    print_findings(f for f in map(to_finding, metrics["findings"]) if f.severity is not Severity.INFO)
    judged = metrics["report"]
    print_report(console(), [Score.from_json(s) for s in metrics["scores"]], judged)


def main() -> None:
    """Entry point: errors become one message and an exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without Unicode gets ? instead of a crash
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # large pictures are our daily bread
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    if arguments[:1] == ["--version"]:
        from tercel import __version__

        typer.echo(f"tercel {__version__}")
        return
    try:
        app(args=arguments, prog_name="tercel")  # exits by itself: 0, 2 for wrong usage, 130 after Ctrl-C
    except SystemExit as e:
        if e.__context__ is not None and isinstance(e.__context__.__cause__, KeyboardInterrupt):
            _stopped()
        raise
    except KeyboardInterrupt as e:
        _stopped()
        raise SystemExit(130) from e
    except Exception as e:
        if debug:
            raise
        message, code = _explain(e)
        say(message)
        raise SystemExit(code) from e


def _stopped() -> None:
    """Ctrl-C; one more while we leave must not end in a traceback."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stderr.write("stopped\n")


def _explain(e: BaseException) -> tuple[str, int]:
    """What to say of an error, and the exit code: 2 when the user or the machine can mend it, 3 when only we can."""
    if isinstance(e, TercelError):
        return f"error: {e}", getattr(e, "exit_code", 2)
    if isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(e):
        return f"error: out of memory: {e}\n  remedy: lower train.batch, data.size or data.cache_gb", 2
    if isinstance(e, OSError) and e.strerror:
        place = f"{e.filename}: " if e.filename else ""
        return (
            f"error: {place}{e.strerror}\n  remedy: check the path, its permissions and the space left on the disk",
            2,
        )
    if isinstance(e, RuntimeError) and isinstance(e.__cause__, MemoryError | OSError):  # a loader's worker met it
        return _explain(e.__cause__)
    return f"bug in tercel: {type(e).__name__}: {e}\n  remedy: run it again with --debug and report what it prints", 3


if __name__ == "__main__":
    main()
