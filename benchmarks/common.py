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
SEEDS = tuple(int(s) for s in os.environ.get("TERCEL_BENCH_SEEDS", "0").split(","))


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


def spread(s: dict[str, Any]) -> str:
    """A score out of a `--json` with its interval: ".953 (.931–.972)" with leading zeros; a dash when undefined."""
    if s["value"] is None:
        return "–"
    if s["low"] is None:
        return f"{s['value']:.3f}"
    return f"{s['value']:.3f} ({s['low']:.3f}–{s['high']:.3f})"


def overall(scores: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name -> score, of the scores over everything; those at a threshold are among them."""
    return {s["name"]: s for s in scores if {"class", "point", "visibility"}.isdisjoint(s["where"])}
