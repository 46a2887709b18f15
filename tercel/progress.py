"""Progress on the terminal: bars with the remaining time, or one line now and then when nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from tercel.core.finding import headline

if TYPE_CHECKING:
    from tercel.engine.fit import EvalInfo, StepInfo
    from tercel.engine.run import Run


QUIET_SECONDS = 30.0  # between two lines where nobody watches a bar


def printable(text: str) -> str:
    """Names from outside may hold anything: no control character but the line break reaches the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def write_line(text: str) -> None:
    """One line on standard error. A reader that has gone (a closed pipe) must not end a training: log.jsonl goes on."""
    with suppress(BrokenPipeError):
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


def _progress(transient: bool) -> Any:
    """A bar for 80 columns: what, bar, 12/345, remaining time, note."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    what, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    columns = (what, BarColumn(10), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn(), note)
    return Progress(*columns, console=Console(stderr=True), transient=transient)


@contextmanager
def bars(*units: str) -> Iterator[list[Callable[[int, int], None]]]:
    """One bar per unit, to be told (done, total); lines now and then when standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield [_lines(u) for u in units]
        return
    with _progress(transient=True) as p:

        def ticker(unit: str) -> Callable[[int, int], None]:
            task = p.add_task(unit, total=None, visible=False, note="")
            return lambda done, total: p.update(task, completed=done, total=total, visible=True)

        yield [ticker(u) for u in units]


def _lines(unit: str) -> Callable[[int, int], None]:
    began = spoke = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal spoke
        now = time.monotonic()
        if now - spoke > QUIET_SECONDS and done:
            spoke = now
            write_line(f"{unit} {done}/{total}  {(now - began) / done * (total - done) / 60:.1f} min left")

    return line


class Terminal:
    """Observer of a training: a live bar on a terminal, a line every half minute and per evaluation elsewhere."""

    progress: Any = None

    def on_start(self, run: Run, updates: int, step: int) -> None:
        self.updates, self.began, self.first, self.spoke = updates, time.monotonic(), step, time.monotonic()
        self.say(f"run: {run.path}")
        if sys.stderr.isatty():
            self.progress = _progress(transient=False)
            self.task = self.progress.add_task("updates", total=updates, completed=step, note="")
            self.progress.start()

    def on_step(self, info: StepInfo) -> None:
        rate = info.pictures / max(info.seconds, 1e-9)
        note = f"epoch {info.epoch + 1}, loss {sum(info.losses.values()):.3g}, {rate:.0f} pictures/s"
        parts = " ".join(f"{k} {v:.3f}" for k, v in info.losses.items())
        if self.progress is not None:
            if self.progress.console.width >= 120:
                note += f", {parts}, lr {info.lr:.2g}"
            self.progress.update(self.task, completed=info.step, note=note)
        elif time.monotonic() - self.spoke > QUIET_SECONDS:
            self.spoke = time.monotonic()
            left = (self.spoke - self.began) / (info.step - self.first) * (self.updates - info.step)
            self.say(f"update {info.step}/{self.updates}  {left / 60:.1f} min left  {note}, {parts}")

    def on_eval(self, info: EvalInfo) -> None:
        shown = "  ".join(f"{name} {s.value:.3f}" for name, s in headline(info.scores).items())
        self.say(f"epoch {info.epoch}: {shown}  ({info.seconds:.1f} s)")

    def on_message(self, message: str) -> None:
        self.say(message)

    def on_end(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def say(self, message: str) -> None:
        if self.progress is not None:
            self.progress.console.print(printable(message), markup=False, highlight=False, soft_wrap=True)
        else:
            write_line(message)
