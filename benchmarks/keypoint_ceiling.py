"""Encode ceiling of both heads for points: truth encoded, answered perfectly, decoded, judged by PCK@.01."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import SHARED
from tercel import recipes
from tercel.core.record import Dataset
from tercel.data.source import read
from tercel.data.turtles import make_turtles
from tercel.engine.evaluate import encode_ceiling
from tercel.engine.tasks import point_findings
from tercel.models.heads import build_head

ALPHA = 0.01  # of the size
HEADS = {"dense": "keypoints", "heatmap": "keypoints_heatmap"}


def sets(folder: Path) -> Iterator[tuple[str, Dataset]]:
    """Every data set with points that is at hand."""
    yield "flies, 32 points", read(f"deepposekit:{SHARED / 'data/deepposekit-fly'}")
    yield "tubes of glue, 2 points", read(f"points_json:{SHARED / 'data/glue-tubes-keypoints'}")
    yield "oracle, 6 points", read(f"coco:{SHARED / 'oracles/coco_keypoints/gt.json'}", pictures=False)
    for most in (1, 4):
        made = make_turtles(folder / str(most), seed=0, splits={"all": 40}, most=most)
        yield f"turtles, 6 points, up to {most} per picture", read(f"coco:{made}#all")


def fit(head: str, data: Dataset) -> Dataset:
    """What a head does not refuse: the heatmap answers for pictures with at most one animal, of one class."""
    if head == "dense":
        return data
    alone = len(data.schema.classes) == 1
    return data.subset([r.id for r in data.records if alone and len(r.objects) < 2])


def run() -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, data in sets(Path(folder)):
            for head, recipe_name in HEADS.items():
                part, recipe = fit(head, data), recipes.get(recipe_name)
                if not any(len(r.objects) for r in part.records):
                    continue
                model = recipe.model
                model_head = build_head(model.head, part.schema, model.strides, model.clip)
                e = encode_ceiling(recipe, part, model_head, suppress=False)
                (pck,) = [r for r in e.report.to_json()["pck"] if r["alpha"] == ALPHA]
                size = "x".join(map(str, recipe.data.size))
                row = {"data": name, "head": f"{head}, {size}", "pictures": len(part.records), "points": pck["n"]}
                far = [f.count for f in point_findings(recipe, part) if f.check == "keypoints.beyond_reach"]
                row |= {"PCK@.01": round(pck["PCK"], 4), "mean error px": round(e.overall("point_error_px"), 4)}
                row["beyond reach"] = sum(far)
                rows.append(row)
    notes = [
        "Beyond reach: points farther than `model.head.reach` box lengths from the centre of their box, where the "
        "dense head says nothing; training warns of them. The oracle has three, points at x = 0 of animals "
        "that lie elsewhere, and they are all that it misses.",
        "Suppression off: it says which animals are told apart, and nothing about points. Errors in px of the original "
        "picture. Wanted: PCK@.01 = 1. The heatmap gets the pictures with at most one animal, of sets with one class.",
    ]
    return {"title": "Encode ceiling of the heads for points", "rows": rows, "notes": notes}
