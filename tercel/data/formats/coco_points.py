"""Named points in COCO-like json: `keypoints` of annotations and results, the skeleton of categories.

`keypoints` of an annotation are x y v for each point: v = 0 not labelled, 1 hidden, 2 visible. It alone says whether a
point is labelled; labelled points at x = 0 are as good as any. `num_keypoints` 0 marks an object without points. A
category lists the names in `keypoints` and the edges in `skeleton`, as pairs of numbers from 1. Beside these we write
and read `flip_pairs` (pairs of names) and `sigmas` (one per point), which COCO keeps in its evaluation's source.

Shape legend: N annotations; K points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.schema import Schema
from tercel.data.formats import skeletons


def read_skeleton(
    file: Path, categories: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]], ledger: Ledger
) -> Schema | None:
    """The skeleton of a file (a Schema without classes), or None where neither category nor annotation has `keypoints`.

    Categories without `keypoints` (things beside the animals) may stand beside those that have them. Where only the
    annotations have any, the points are called point1, point2, ...

    Raises:
        TercelError: categories with different skeletons, see also `skeletons.parse`.
    """
    found = [c for c in categories if c.get("keypoints")]
    for c in found[1:]:
        for key in ("keypoints", "skeleton", "flip_pairs", "sigmas"):
            if c.get(key) != found[0].get(key):
                what = f"the categories {found[0].get('name')!r} and {c.get('name')!r} differ in their {key}"
                raise TercelError(f"{file}: {what}", "all categories share one skeleton: write one file for each kind")
    if found:
        return _category(file, found[0], ledger)
    row = next((a["keypoints"] for a in annotations if isinstance(a.get("keypoints"), list) and a["keypoints"]), None)
    if row is None:
        return None
    return skeletons.parse(skeletons.unnamed(max(1, len(row) // 3), str(file), ledger), str(file), ledger)


def _category(file: Path, category: dict[str, Any], ledger: Ledger) -> Schema:
    where = f"{file} (category {category.get('name')!r})"
    names, edges = category["keypoints"], category.get("skeleton") or []
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise TercelError(f"{where}: keypoints is no list of names", 'for example "keypoints": ["nose", "tail"]')
    odd = next((e for e in edges if not _is_edge(e, len(names))), None) if isinstance(edges, list) else edges
    if odd is not None:  # edges are for drawing only, and public files come with the skeleton of another set of points
        message = (
            f"the skeleton edge {str(odd)[:40]} leads to a point that is not there (edges are pairs of numbers from 1 "
            f"to {len(names)}): all edges were left out, correct the skeleton"
        )
        ledger.add("labels.skeleton", Severity.WARNING, message, where)
        edges = []
    return skeletons.parse(
        names,
        where,
        ledger,
        flip_pairs=category.get("flip_pairs"),
        edges=[(names[i - 1], names[j - 1]) for i, j in edges],
        sigmas=category.get("sigmas"),
    )


def _is_edge(edge: Any, k: int) -> bool:
    pair = isinstance(edge, list) and len(edge) == 2 and all(isinstance(i, int) for i in edge)
    return pair and edge[0] != edge[1] and all(1 <= i <= k for i in edge)


def category_keys(schema: Schema) -> dict[str, Any]:
    """What a category says of its points; nothing without any."""
    if not schema.keypoints:
        return {}
    number = {n: i for i, n in enumerate(schema.keypoints, 1)}
    keys: dict[str, Any] = {
        "keypoints": list(schema.keypoints),
        "skeleton": [[number[a], number[b]] for a, b in schema.edges],
        "flip_pairs": [list(p) for p in schema.flip_pairs],
    }
    return keys | ({"sigmas": list(schema.sigmas)} if schema.sigmas else {})


def annotation_keys(o: Objects) -> list[dict[str, Any]]:
    """`keypoints` and `num_keypoints` of each of N objects; nothing without points."""
    if o.points is None or o.visible is None:
        return [{} for _ in range(len(o))]
    visible = np.minimum(o.visible, 2).astype(np.float64)
    points = np.where((visible > 0)[..., None], o.points.astype(np.float64), 0.0)
    triples = np.concatenate([points, visible[..., None]], axis=-1).reshape(len(o), 3 * o.points.shape[1])
    counts = (visible > 0).sum(axis=1).tolist()
    return [
        {"keypoints": [int(v) if i % 3 == 2 else v for i, v in enumerate(row)], "num_keypoints": n}
        for row, n in zip(triples.tolist(), counts, strict=True)
    ]


def result_keys(o: Objects) -> list[dict[str, Any]]:
    """`keypoints` x y c of each of N detections, c being the point's score (1 where there is none); or nothing."""
    if o.points is None:
        return [{} for _ in range(len(o))]
    scores = np.ones(o.points.shape[:2]) if o.point_scores is None else o.point_scores.astype(np.float64)
    rows = np.concatenate([o.points.astype(np.float64), scores[..., None]], axis=-1)
    return [{"keypoints": row} for row in rows.reshape(len(o), 3 * o.points.shape[1]).tolist()]


def read_points(
    annotations: Sequence[dict[str, Any]], k: int, where: Callable[[int], str], ledger: Ledger
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """points f64 [N,K,2] px and visible u8 [N,K]; annotations without `keypoints` have K absent ones.

    Raises:
        TercelError: another number of numbers than 3 K, no numbers, a v that is not 0, 1 or 2.
    """
    table = triples(annotations, k, where)
    v = table[..., 2]
    for i, j in np.argwhere(~np.isin(v, (0, 1, 2)))[:1].tolist():
        raise TercelError(
            f"{where(i)}: the visibility of point {j + 1} is {v[i, j]:g}", "it is 0 absent, 1 hidden or 2 visible"
        )
    visible = v.astype(np.uint8)
    for i, a in enumerate(annotations):
        if "num_keypoints" in a and a["num_keypoints"] != int((visible[i] > 0).sum()):
            message = "annotations whose num_keypoints is not the number of their labelled points: 0 counts as none"
            ledger.add("labels.num_keypoints", Severity.WARNING, message, where(i))
            if a["num_keypoints"] == 0:
                visible[i] = 0
    return table[..., :2], visible


def triples(entries: Sequence[dict[str, Any]], k: int, where: Callable[[int], str]) -> NDArray[np.float64]:
    """The `keypoints` f64 [N,K,3] (x, y, third number) of N annotations or results, zeros where there are none.

    Raises:
        TercelError: another number of numbers than 3 K, or something that is no number.
    """
    nothing = [0.0] * (3 * k)
    rows = [e.get("keypoints") or nothing for e in entries]
    try:
        return np.array(rows, np.float64).reshape(len(rows), k, 3)
    except (TypeError, ValueError) as e:
        for i, row in enumerate(rows):
            if not isinstance(row, list) or len(row) != 3 * k:
                given = f"{len(row)} numbers" if isinstance(row, list) else repr(row)[:40]
                raise TercelError(
                    f"{where(i)}: keypoints has {given}, but {k} points are {3 * k} (x y v of each)",
                    "give every object all points, in the order of the names; v = 0 for those that are not labelled",
                ) from e
            if not all(isinstance(x, int | float) for x in row):
                raise TercelError(f"{where(i)}: keypoints holds something that is no number", "correct it") from e
        raise


def with_boxes(annotations: list[dict[str, Any]], ledger: Ledger, where: Callable[[int], str]) -> list[dict[str, Any]]:
    """The annotations; those without a `bbox` get the hull of their labelled points, counted."""
    return [a if "bbox" in a else _with_hull(a, ledger, where(i)) for i, a in enumerate(annotations)]


def _with_hull(annotation: dict[str, Any], ledger: Ledger, where: str) -> dict[str, Any]:
    try:
        table = np.array(annotation.get("keypoints") or [], np.float64).reshape(-1, 3)
    except (TypeError, ValueError):
        return annotation  # what is wrong with it is said where the points are read
    known = table[table[:, 2] > 0, :2]
    if not len(known):
        return annotation
    low, high = known.min(axis=0), known.max(axis=0)
    ledger.add("labels.hull", Severity.INFO, "objects without a box got the hull of their labelled points", where)
    return {**annotation, "bbox": [*low.tolist(), *(high - low).tolist()]}
