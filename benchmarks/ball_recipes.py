"""The four ball recipes on generated rallies, a few minutes each: what one may expect of them, events included.

Every rally is of another match; the matches that judge were not trained on. The runs are short on purpose, and not the
recipes' own lengths.
"""

from __future__ import annotations

import shutil
from typing import Any

from benchmarks.common import SCRATCH, tercel
from tercel.data.rallies import make_rallies

EPOCHS, WINDOWS = 5, 720
RUNS = {
    "shuttle": "badminton",
    "shuttle_heatmap": "badminton",
    "pingpong": "table_tennis",
    "pingpong_events": "table_tennis",
}


def number(value: float | None) -> float | None:
    """Rounded; undefined stays undefined."""
    return None if value is None else round(value, 3)


def run() -> dict[str, Any]:
    out = SCRATCH / "ball-recipes"
    rows = []
    for recipe, sport in RUNS.items():
        data = SCRATCH / f"rallies-{sport}"
        make_rallies(data, splits={"train": 32, "val": 8}, frames=60, sport=sport, seed=1, rallies_per_match=1)
        shutil.rmtree(out / recipe, ignore_errors=True)
        seconds, result = tercel(
            "train", recipe, "--train", f"tracknet:{data}#train", "--val", f"tracknet:{data}#val",
            "--set", f"train.epochs={EPOCHS}", "--set", f"train.samples={WINDOWS}", "--out", str(out), "--name", recipe,
        )  # fmt: skip
        last = result["last"]
        ball = {s["name"]: s for s in last if s["where"] == {"rule": "tracknet_v2_v3"}}
        f1 = ball["F1"]
        row: dict[str, Any] = {"recipe": recipe, "sport": sport}
        row["F1"] = f"{f1['value']:.3f} ({f1['low']:.3f}–{f1['high']:.3f})"
        row |= {k: number(ball[k]["value"]) for k in ("precision", "recall")}
        events = {s["name"]: s["value"] for s in last if s["where"] == {"nms": 1}}  # none of a recipe without events
        row |= {k: number(v) for k, v in events.items() if k.startswith("mAP@")}
        rows.append(row | {"wall s": round(seconds)})
    notes = [
        f"{EPOCHS} epochs of {WINDOWS} windows, last weights, rule tracknet_v2_v3, 95 % interval over 8 rallies.",
        "mAP@k: events within k frames of the true one; of neighbouring frames the surer one counts.",
    ]
    return {"title": "The ball recipes on generated rallies", "rows": rows, "notes": notes}
