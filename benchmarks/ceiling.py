"""Encode ceiling: the score of a perfect network, through the coder, the suppression and the evaluator."""

from __future__ import annotations

from typing import Any

from benchmarks.common import BCCD
from tercel import recipes
from tercel.data.source import read
from tercel.engine.evaluate import encode_ceiling
from tercel.models.heads import build_head


def run() -> dict[str, Any]:
    recipe, rows = recipes.get("boxes"), []
    for split in ("trainval", "test"):
        data = read(f"voc:{BCCD}#{split}")
        head = build_head(recipe.model.head, data.schema, recipe.model.strides, recipe.model.clip)
        for suppress in (False, True):
            e = encode_ceiling(recipe, data, head, suppress=suppress)
            n = sum(len(r.objects) for r in data.records)
            how = f"IoU > {recipe.evaluate.suppress_iou:g}" if suppress else "off"
            rows.append({"data": f"bccd {split}", "truths": n, "suppression": how, "AP": round(e.overall("AP"), 4)})
    notes = [
        "320 px, recipe boxes. Wanted: AP >= .999 of the head.",
        "With suppression on, truths that overlap by more than its threshold cost what no detector can win back.",
    ]
    return {"title": "Encode ceiling of the box head on blood cells", "rows": rows, "notes": notes}
