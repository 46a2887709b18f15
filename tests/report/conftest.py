"""The fake run of fake_run.py, built once and only read, and its builder for special cases."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tercel.core.record import Dataset


def _builder() -> Callable[..., tuple[Path, Dataset]]:
    spec = importlib.util.spec_from_file_location("fake_run", Path(__file__).with_name("fake_run.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    builder: Callable[..., Any] = module.fake_run
    return builder


@pytest.fixture(scope="session")
def fake_run() -> Callable[..., tuple[Path, Dataset]]:
    return _builder()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    return _builder()(tmp_path_factory.mktemp("finished"), pictures=20, epochs=10)
