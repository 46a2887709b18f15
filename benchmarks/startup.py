"""How long the command line takes to answer."""

from __future__ import annotations

import statistics
import sys
from typing import Any

from benchmarks.common import timed

REPEATS = 9


def run() -> dict[str, Any]:
    rows = []
    for words in (["--help"], ["train", "--help"], ["recipes"]):
        seconds = [timed([sys.executable, "-m", "tercel.cli", *words])[0] for _ in range(REPEATS)]
        row = {"command": "tercel " + " ".join(words), "median s": round(statistics.median(seconds), 3)}
        rows.append(row | {"max s": round(max(seconds), 3)})
    return {
        "title": "Start-up",
        "rows": rows,
        "notes": [f"Whole processes, {REPEATS} runs. Wanted: --help under 0.4 s."],
    }
