"""Progress on the terminal: bars with the remaining time, or one line now and then when nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tercel.engine.fit import EvalInfo, StepInfo
    from tercel.engine.run import Run


def _columns() -> tuple[Any, ...]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return (
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip


@contextmanager
def bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar to be told (done, total); silent when standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*_columns(), console=Console(stderr=True), transient=True) as p:
        task = p.add_task(unit, total=None, note="")
        yield lambda done, total: p.update(task, completed=done, total=total)


class Terminal:
    """Observer of a training: a live bar on a terminal, a line every half minute and per evaluation elsewhere."""

    QUIET_SECONDS = 30.0

    def on_start(self, run: Run, updates: int, step: int) -> None:
        self.updates, self.began, self.first, self.spoke = updates, time.monotonic(), step, time.monotonic()
        self.say(f"run: {run.path}")
        self.progress: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self.progress = Progress(*_columns(), console=Console(stderr=True))
            self.task = self.progress.add_task("updates", total=updates, completed=step, note="")
            self.progress.start()

    def on_step(self, info: StepInfo) -> None:
        losses = " ".join(f"{k} {v:.3f}" for k, v in info.losses.items())
        rate = info.pictures / max(info.seconds, 1e-9)
        note = f"epoch {info.epoch + 1}  {losses}  lr {info.lr:.2g}  {rate:.0f} pictures/s"
        if self.progress is not None:
            self.progress.update(self.task, completed=info.step, note=note)
        elif time.monotonic() - self.spoke > self.QUIET_SECONDS:
            self.spoke = time.monotonic()
            left = (self.spoke - self.began) / (info.step - self.first) * (self.updates - info.step)
            self.say(f"update {info.step}/{self.updates}  {note}  {left / 60:.1f} min left")

    def on_eval(self, info: EvalInfo) -> None:
        overall = {s.name: s.value for s in info.scores if not s.where}
        shown = "  ".join(f"{k} {overall[k]:.3f}" for k in ("AP", "AP50", "AP75") if k in overall)
        self.say(f"epoch {info.epoch}: {shown}  ({info.seconds:.1f} s)")

    def on_message(self, message: str) -> None:
        self.say(message)

    def on_end(self) -> None:
        if self.progress is not None:
            self.progress.stop()

    def say(self, message: str) -> None:
        progress = getattr(self, "progress", None)
        if progress is not None:
            progress.console.print(message, markup=False, highlight=False)
        else:
            sys.stderr.write(message + "\n")
            sys.stderr.flush()
