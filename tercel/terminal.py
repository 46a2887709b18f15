"""What all verbs share on the terminal: results on standard output, everything else on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from tercel.core.finding import Finding, Severity, TercelError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def console() -> Any:
    """Standard output; wide enough for whole tables when it is a pipe or a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 1000)


def say(message: str) -> None:
    from tercel.progress import write_line

    write_line(message)


def print_findings(findings: Iterable[Finding]) -> None:
    for f in findings:
        say(str(f))


def exit_on_error(findings: Iterable[Finding]) -> None:
    if any(f.severity is Severity.ERROR for f in findings):
        raise typer.Exit(1)


def numbers(option: str, text: str, kind: type[int] | type[float], example: str) -> tuple[Any, ...]:
    """A list such as 1,10,500."""
    try:
        return tuple(kind(x) for x in text.split(","))
    except ValueError as e:
        raise TercelError(f"{option} {text!r} is not a list of numbers", f"for example {example}") from e
