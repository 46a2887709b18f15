"""Shared fixtures. Real data and oracles live beside the checkout in ../shared; whoever clones has none."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

settings.register_profile("tercel", deadline=None, max_examples=60, derandomize=bool(os.environ.get("CI")))
settings.load_profile("tercel")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and oracles; without it the test skips and says so, and in CI it fails."""
    path = Path(os.environ.get("TERCEL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not path.is_dir():
        message = f"needs {path} (real data sets and oracles; set TERCEL_SHARED to another place)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


class Said(NamedTuple):
    """What a command did: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def tercel(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`tercel(verb, ...)` runs the command line within this process."""
    from tercel import cli

    def run(*words: Any) -> Said:
        monkeypatch.setattr(sys, "argv", ["tercel", *map(str, words)])
        capsys.readouterr()
        code: Any = 0
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            cli.main()
        except SystemExit as e:
            code = e.code or 0
        finally:
            signal.signal(signal.SIGINT, interrupt)
        return Said(code, *capsys.readouterr())

    return run
