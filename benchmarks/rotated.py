"""Overlap and suppression of oriented boxes, beside OpenCV's, one pair and one thread at a time.

Figures: an IoU matrix of 1,000 x 1,000 under 0.25 s; greedy NMS of 20,000 boxes under 1 s; at least 50 times as fast as
cv2.rotatedRectangleIntersection called per pair. What is compiled at the first call is timed apart.
Run: python benchmarks/rotated.py
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from tercel.core.rotated import obb_iou, reference_iou
from tercel.core.suppress import greedy, soft

MATRIX_S, NMS_S, TIMES = 0.25, 1.0, 50.0
REPEATS = 7
PEER_ROWS = 120  # rows and columns of the matrix that the peer and the reference work through


def scene(count: int, side: float, seed: int) -> np.ndarray:
    """Oriented boxes f64 [N,5] of 8..60 px, anywhere in a square of `side` px."""
    rng = np.random.default_rng(seed)
    turn = rng.uniform(-np.pi / 2, np.pi / 2, count)
    return np.c_[rng.uniform(0, side, (count, 2)), rng.uniform(8, 60, (count, 2)), turn]


def seconds(
    call: Callable[[], Any], repeats: int = REPEATS, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Median and best time by a clock; the wall's if none is named."""
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return statistics.median(times), min(times)


def opencv_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU [N,M] as one writes it with OpenCV: quick rejection of far pairs is left to it."""

    def rectangles(boxes: np.ndarray) -> list[Any]:
        return [((x, y), (w, h), np.degrees(t)) for x, y, w, h, t in boxes.tolist()]

    ours, theirs = rectangles(a), rectangles(b)
    out = np.zeros((len(a), len(b)))
    for i, p in enumerate(ours):
        for j, q in enumerate(theirs):
            kind, points = cv2.rotatedRectangleIntersection(p, q)
            if kind != cv2.INTERSECT_NONE and points is not None:
                shared = cv2.contourArea(cv2.convexHull(points))
                out[i, j] = shared / (p[1][0] * p[1][1] + q[1][0] * q[1][1] - shared)
    return out


def matrix_row(side: float) -> dict[str, Any]:
    a, b = scene(1000, side, 0), scene(1000, side, 1)
    median, best = seconds(lambda: obb_iou(a, b))
    few, others = a[:PEER_ROWS], b[:PEER_ROWS]
    # Both on the same pairs, processor time: a busy machine must not favour the one that it let run.
    ours = seconds(lambda: [obb_iou(few, others) for _ in range(20)], clock=time.process_time)[0] / 20
    peer = seconds(lambda: opencv_iou(few, others), 3, time.process_time)[0]
    exact = reference_iou(few, others)
    return {
        "what": f"IoU matrix, 1,000 x 1,000, {(obb_iou(a, b) > 0).mean():.0%} of the pairs overlap",
        "median s": round(median, 3),
        "best s": round(best, 3),
        "CPU ns per pair": round(1e9 * ours / exact.size),
        "OpenCV: CPU ns per pair": round(1e9 * peer / exact.size),
        "times as fast": round(peer / ours, 1),
        "greatest error": float(f"{np.abs(obb_iou(few, others) - exact).max():.1e}"),
        "OpenCV's greatest error": float(f"{np.abs(opencv_iou(few, others) - exact).max():.1e}"),
    }


def nms_row(name: str, boxes: np.ndarray, method: Callable[..., Any]) -> dict[str, Any]:
    scores = np.random.default_rng(2).random(len(boxes))
    median, best = seconds(lambda: method(boxes, scores), 3)
    kept = method(boxes, scores)
    kept = kept[0] if isinstance(kept, tuple) else kept
    what = f"{name}, {len(boxes):,} boxes, {len(kept):,} stay"
    return {"what": what, "median s": round(median, 3), "best s": round(best, 3)}


def opencv_nms(boxes: np.ndarray, scores: np.ndarray) -> Any:
    rectangles = [((x, y), (w, h), np.degrees(t)) for x, y, w, h, t in boxes.tolist()]
    return cv2.dnn.NMSBoxesRotated(rectangles, scores.tolist(), 0.0, 0.5)


def run() -> dict[str, Any]:
    """{"title", "rows", "notes"}; one thread, OpenCV's too."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        began = time.perf_counter()
        obb_iou(scene(2, 10, 0), scene(2, 10, 0))
        first = time.perf_counter() - began
        greedy(scene(2, 10, 0), [0.5, 0.4], 0.5)
        soft(scene(2, 10, 0), [0.5, 0.4])
        matrices = [matrix_row(side) for side in (2000.0, 300.0, 20.0)]
        giants = scene(20_000, 3840, 3)
        giants[:20, 2:4] *= 50
        suppressions = [
            nms_row("greedy NMS, 3840 x 3840 px", scene(20_000, 3840, 3), lambda b, s: greedy(b, s, 0.5)),
            nms_row("greedy NMS, the same with 20 giants", giants, lambda b, s: greedy(b, s, 0.5)),
            nms_row("greedy NMS, 1000 x 1000 px", scene(20_000, 1000, 3), lambda b, s: greedy(b, s, 0.5)),
            nms_row("soft NMS, 3840 x 3840 px", scene(3000, 3840, 3), soft),
            nms_row("greedy NMS, 1000 x 1000 px", scene(2000, 1000, 3), lambda b, s: greedy(b, s, 0.5)),
            nms_row("cv2.dnn.NMSBoxesRotated, the same", scene(2000, 1000, 3), opencv_nms),
        ]
    finally:
        cv2.setNumThreads(threads)
    met = [
        ("the matrix", all(r["median s"] < MATRIX_S for r in matrices)),
        ("NMS of 20,000", all(r["median s"] < NMS_S for r in suppressions[:3])),
        (f"{TIMES:g} times OpenCV per pair", all(r["times as fast"] >= TIMES for r in matrices)),
    ]
    return {
        "title": "Oriented boxes: overlap and suppression, one thread",
        "rows": [*matrices, *suppressions],
        "notes": [
            f"Figures: matrix under {MATRIX_S:g} s, NMS of 20,000 boxes under {NMS_S:g} s, {TIMES:g} times OpenCV: "
            + "; ".join(f"{name} {'met' if good else 'MISSED'}" for name, good in met)
            + ".",
            f"The first call of a process took {first:.1f} s more or less: numba's import, and compiling where its "
            "cache is empty.",
            f"OpenCV is called pair by pair (cv2.rotatedRectangleIntersection, contourArea of the hull, float32) on "
            f"{PEER_ROWS} x {PEER_ROWS} of the pairs; greatest errors are against our slow reference on those.",
        ],
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
