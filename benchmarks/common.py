"""What several benchmarks need: where the data are, where the peer is, how to run `tercel` as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("TERCEL_SHARED", ROOT.parent / "shared"))
SCRATCH = ROOT / ".bench"
BCCD = SHARED / "data/bccd/BCCD"


def peer_python() -> str:
    """Python of the peer's own environment: TERCEL_PEER_PYTHON, else made once under .bench/peer (AGPL: never ours)."""
    named = os.environ.get("TERCEL_PEER_PYTHON")
    if named:
        return named
    python = SCRATCH / "peer/bin/python"
    if not python.exists():
        subprocess.run(["uv", "venv", "--quiet", str(python.parents[1])], check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", str(python), "ultralytics"], check=True)
    return str(python)


def timed(words: list[str], **env: str) -> tuple[float, str]:
    """Wall seconds and standard output of a process; its errors are shown when it fails."""
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | env, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return seconds, done.stdout


def tercel(*words: str) -> tuple[float, dict[str, Any]]:
    """Wall seconds and JSON of a `tercel ... --json` command."""
    seconds, out = timed([sys.executable, "-m", "tercel.cli", *words, "--json"])
    return seconds, json.loads(out)
