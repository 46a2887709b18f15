"""Shared fixtures. Real data and oracles live beside the checkout in ../shared; whoever clones has none."""

from __future__ import annotations

import os
from pathlib import Path

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
