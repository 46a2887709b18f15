"""Every figure that we quote: `python -m benchmarks [name ...]`, or `make bench` for all of them.

Results go into docs/benchmarks.json and from there into docs/benchmarks.md, with the date, the machine and the command;
running one benchmark renews its section and leaves the others. Run on a quiet machine: the load is written down too.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from tercel.core.files import read_json, write_atomic, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "docs/benchmarks.json", ROOT / "docs/benchmarks.md"
# In the order of the page; the quick ones first.
NAMES = (
    "parity", "ceiling", "startup", "score_speed", "rotated", "lab_speed", "assign_speed", "loader_speed",
    "train_speed", "blood_cells", "hit_uav", "whole_pictures", "keypoint_ceiling", "flies", "turtles", "glue_tubes",
    "crowd_tables", "hit_persons", "ball_rules", "ball_ceiling", "ball_speed", "ball_demo", "ball_recipes", "tennis",
)  # fmt: skip

HEAD = """# Benchmarks

Every figure here was made by `python -m benchmarks NAME` on the machine named beside it, on the day named beside it;
`make bench` makes them all again. Peers run in environments of their own, side by side in the same run, and are never
a dependency. Data lie in `../shared` (or `TERCEL_SHARED`); a peer's Python is named by `TERCEL_PEER_PYTHON`.
"""


def machine() -> str:
    model = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            lines = f.read().splitlines()
        model = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), model)
    except OSError:  # not Linux
        pass
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table; columns in the order in which rows name them."""
    columns = list(dict.fromkeys(k for r in rows for k in r))

    def cell(value: Any) -> str:
        if value is None:
            return "–"
        return f"{value:g}" if isinstance(value, float) else str(value).replace("|", "\\|")

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(r.get(c)) for c in columns) + " |" for r in rows]
    return "\n".join(lines)


def page(results: dict[str, Any]) -> str:
    parts = [HEAD]
    for name in NAMES:
        if name in results:
            r = results[name]
            notes = "\n".join(f"* {n}" for n in r["notes"])
            made = f"`python -m benchmarks {name}`, {r['date']}, {r['machine']}, load before: {r['load']}"
            parts.append(f"## {r['title']}\n\n{made}\n\n{table(r['rows'])}\n\n{notes}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--page", action="store_true", help="only write the page again from the results")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"unknown benchmark {sorted(unknown)[0]!r}")
    results = read_json(RESULTS) if RESULTS.exists() else {}
    for name in () if options.page else options.names or NAMES:
        load = round(os.getloadavg()[0], 2)
        began = time.monotonic()
        result = importlib.import_module(f"benchmarks.{name}").run()
        results[name] = {**result, "date": date.today().isoformat(), "machine": machine(), "load": load}
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n{table(result['rows'])}\n")
        write_json(RESULTS, results)
        write_atomic(PAGE, page(results))
    write_atomic(PAGE, page(results))


if __name__ == "__main__":
    main()
