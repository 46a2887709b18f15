"""A plausible run folder without training: drawn scenes, their truth, and predictions with every kind of error.

Core types only, seeded. `python tests/report/fake_run.py FOLDER [oriented|keypoints|crowd]` writes one to look at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tercel.config import Recipe, dump, override
from tercel.core.files import write_json
from tercel.core.finding import Finding, Score, Severity
from tercel.core.geometry import box_area, box_iou, canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data.crowd_sprites import draw_street
from tercel.data.crowds import draw_crowd
from tercel.data.turtle_sprites import SCHEMA as TURTLE
from tercel.data.turtle_sprites import draw_ground, draw_sprite
from tercel.data.turtles import draw_turtles
from tercel.data.vehicles import CLASSES as VEHICLES
from tercel.data.vehicles import draw_vehicles
from tercel.report.draw import draw_sample

CLASSES = ("disc", "ring", "speck")
SIZE = (240, 320)


def scene(rng: np.random.Generator, classes: int) -> tuple[np.ndarray, Objects]:
    """One picture with its truth; discs are large, rings middling, specks a few pixels."""
    h, w = SIZE
    image = cv2.GaussianBlur(rng.normal(150, 40, (h, w, 3)), (0, 0), 6)
    image += np.array([28, 10, -6]) + np.linspace(-25, 25, w)[None, :, None]
    labels, boxes, ignore = [], [], []
    for _ in range(rng.integers(3, 14)):
        c = int(rng.choice(min(3, classes), p=[0.25, 0.3, 0.45] if classes > 2 else None))
        r = float(rng.uniform(*((18, 34), (9, 18), (2.5, 6))[c]))
        x, y = rng.uniform(r, w - r), rng.uniform(r, h - r)
        box = [x - r, y - r, x + r, y + r]
        if boxes and box_iou(np.array([box]), np.array(boxes)).max() > 0.2:
            continue
        color = ((96, 60, 110), (40, 95, 120), (70, 40, 30))[c]
        centre = (round((x - 0.5) * 16), round((y - 0.5) * 16))
        cv2.circle(image, centre, round((r - 2 * (c == 1)) * 16), color, 4 if c == 1 else -1, cv2.LINE_AA, 4)
        labels.append(c)
        boxes.append(box)
        ignore.append(bool(rng.random() < 0.04))
    image = np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
    return image, Objects(SIZE, labels, boxes or np.zeros((0, 4)), ignore=ignore)


def noisy(rng: np.random.Generator, truth: Objects, skill: float) -> Objects:
    """Predictions of a detector of some skill (0..1): misses, jitter, duplicates, confusions, background."""
    labels, boxes, scores = [], [], []
    for label, box in zip(truth.labels.tolist(), truth.boxes, strict=True):
        size = box[2] - box[0]
        if rng.random() > skill * min(1, 0.55 + size / 40):
            continue
        jitter = rng.normal(0, 0.05 + 0.12 * (1 - skill), 4) * size
        score = float(np.clip(rng.beta(2 + 7 * skill, 2), 0.02, 0.999))
        labels.append(label if rng.random() < 0.9 + 0.09 * skill or label == 0 else label - 1)
        boxes.append(_ordered(box + jitter))
        scores.append(score)
        if rng.random() < 0.05:
            labels.append(label)
            boxes.append(_ordered(box + rng.normal(0, 0.1, 4) * size))
            scores.append(score * 0.7)
    for _ in range(rng.poisson(2.5)):
        x, y, r = rng.uniform(0, SIZE[1]), rng.uniform(0, SIZE[0]), rng.uniform(3, 20)
        labels.append(int(rng.integers(0, int(truth.labels.max(initial=0)) + 1)))
        boxes.append(np.array([x - r, y - r, x + r, y + r]))
        scores.append(float(rng.beta(1, 6 + 4 * skill)))
    return Objects(SIZE, labels, np.array(boxes).reshape(-1, 4), scores=np.array(scores, np.float32))


def vehicles(rng: np.random.Generator, classes: int) -> tuple[np.ndarray, Objects]:
    """One view from above; a few vehicles do not count."""
    drawn = draw_vehicles(rng, SIZE)
    return drawn.image, drawn.objects.replace(ignore=rng.random(len(drawn.objects)) < 0.04)


def noisy_vehicles(rng: np.random.Generator, truth: Objects, skill: float) -> Objects:
    """As `noisy`: too wide, sometimes turned, sometimes the front at the back, sometimes far too large."""
    found = truth[rng.random(len(truth)) < skill]
    n, extra = len(found), int(rng.poisson(2.5))
    b = np.zeros((0, 5)) if found.obbs is None else found.obbs.astype(np.float64)
    off = 1.3 - skill
    b[:, :2] += rng.normal(0, 0.08 * off, (n, 2)) * b[:, 2:3]
    b[:, 2:4] *= np.exp(rng.normal((0.02, 0.09), 0.15 * off, (n, 2)))
    turned = rng.random(n) < 0.08
    b[:, 4] += rng.normal(0, 0.08 * off, n) + turned * rng.uniform(0.3, 1.5, n)
    b[rng.random(n) < 0.05, 2:4] *= 1.3
    front = np.zeros(0) if found.heading is None else found.heading + np.pi * (rng.random(n) < 0.06)
    at = np.column_stack([rng.uniform(0, SIZE[::-1], (extra, 2)), rng.uniform(8, 60, extra), rng.uniform(6, 20, extra)])
    b = canonical_obb(np.concatenate([b, np.column_stack([at, rng.uniform(-1.5, 1.5, extra)])]))
    labels = np.concatenate([found.labels, rng.integers(0, 3, extra)])
    swapped = rng.random(len(labels)) < 0.06
    labels[swapped] = rng.integers(0, 3, int(swapped.sum()))
    return Objects(
        SIZE, labels, obb_hull(b), obbs=b, heading=np.concatenate([front, np.zeros(extra)]),
        headed=np.arange(n + extra) < n, scores=np.concatenate([rng.beta(2 + 7 * skill, 2, n), rng.beta(1, 8, extra)]),
    )  # fmt: skip


def turtles(rng: np.random.Generator, classes: int) -> tuple[np.ndarray, Objects]:
    """One or two turtles; a few do not count, a few have no labelled point."""
    drawn = draw_turtles(rng, draw_ground(rng, SIZE), [draw_sprite(rng) for _ in range(2)], most=2).scene
    o = drawn.objects
    gone = rng.random(len(o)) < 0.05
    visible = np.where(gone[:, None], 0, o.visible)
    return drawn.image, o.replace(visible=visible, ignore=rng.random(len(o)) < 0.04)


def noisy_turtles(rng: np.random.Generator, truth: Objects, skill: float) -> Objects:
    """Points off by some px, flippers more than the shell; sometimes left and right exchanged, or one point far off."""
    found = truth[rng.random(len(truth)) < skill]
    n = len(found)
    assert found.points is not None
    size = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1, initial=0)[:, None, None]
    spread = np.array([0.01, 0.012, 0.03, 0.03, 0.03, 0.02]) * (1.9 - skill)
    points = found.points + rng.normal(0, 1, (n, 6, 2)) * spread[:, None] * size
    swapped = rng.random(n) < 0.08
    points[swapped] = points[swapped][:, TURTLE.flip_index]
    wild = rng.random((n, 6)) < 0.02
    points[wild] += rng.normal(0, 80, (int(wild.sum()), 2))
    boxes = found.boxes + rng.normal(0, 0.03, (n, 4)) * size[:, 0]
    visible = np.where(rng.random((n, 6)) < 0.1, 1, 2)
    return Objects(SIZE, found.labels, boxes, points=points, visible=visible, scores=rng.beta(2 + 7 * skill, 2, n))


def people(rng: np.random.Generator, classes: int) -> tuple[np.ndarray, Objects]:
    """A street with people, half hidden by each other, and a few regions to ignore."""
    drawn = draw_crowd(rng, draw_street(rng, SIZE, 60), 60, overlap=0.45, people=(4, 24))
    boxes = np.array([p.full for p in drawn.people])
    seen = np.array([p.visible or p.full for p in drawn.people])
    share = box_area(seen) / np.maximum(box_area(boxes), 1e-9)
    ignore = [p.ignore for p in drawn.people]
    truth = Objects(SIZE, np.zeros(len(boxes), int), boxes, ignore, occlusion=np.clip(1 - share, 0, 1))
    return drawn.image, truth


def noisy_people(rng: np.random.Generator, truth: Objects, skill: float) -> Objects:
    """As `noisy`; whoever is hidden is missed more often and less sure."""
    hidden = np.zeros(len(truth)) if truth.occlusion is None else truth.occlusion
    found = rng.random(len(truth)) < skill * (1 - 0.7 * hidden)
    boxes, off = truth.boxes[found].astype(float), 1.2 - skill
    side = (boxes[:, 2:] - boxes[:, :2])[:, [0, 1, 0, 1]]
    boxes += rng.normal(0, 0.12 * off, boxes.shape) * side
    scores = np.clip(rng.beta(2 + 7 * skill, 2, len(boxes)) * (1 - 0.5 * hidden[found]), 0.02, 0.99)
    twice = rng.random(len(boxes)) < 0.25
    copies = boxes[twice] + rng.normal(0, 0.12, (int(twice.sum()), 4)) * side[twice]
    low = rng.uniform(0, 200, (int(rng.poisson(3)), 2))
    every = np.concatenate([boxes, copies, np.concatenate([low, low + rng.uniform(10, 60, low.shape)], axis=1)])
    every = np.concatenate([np.minimum(every[:, :2], every[:, 2:]), np.maximum(every[:, :2], every[:, 2:])], axis=1)
    return Objects(
        SIZE, np.zeros(len(every), int), every, scores=np.concatenate([scores, 0.6 * scores[twice],
        rng.beta(1, 6, len(low))]),
    )  # fmt: skip


def _ordered(box: np.ndarray) -> np.ndarray:
    return np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])])


def fake_run(
    folder: Path,
    *,
    pictures: int = 40,
    epochs: int = 30,
    classes: tuple[str, ...] = CLASSES,
    status: str = "finished",
    seed: int = 0,
    prefix: str = "scene",
    detections: bool = True,
    metrics: dict[str, Any] | None = None,
    oriented: bool = False,
    keypoints: bool = False,
    crowd: bool = False,
) -> tuple[Path, Dataset]:
    """Write pictures and a run; returns the run folder and the validation data.

    Args:
        oriented: vehicles from above with oriented boxes and fronts, instead of discs. keypoints: turtles. crowd: a
            street with people.
        metrics: content of metrics.json; None = that of tercel.metrics on the predictions.
    """
    rng = np.random.default_rng(seed)
    task, scene_of, found_of = ("oriented", vehicles, noisy_vehicles) if oriented else ("boxes", scene, noisy)
    classes = VEHICLES if oriented else classes
    if keypoints:
        task, scene_of, found_of, classes = "keypoints", turtles, noisy_turtles, TURTLE.classes
    if crowd:
        task, scene_of, found_of, classes = "crowd", people, noisy_people, ("person",)
    run = folder / "runs" / "fake"
    images = folder / "pictures"
    images.mkdir(parents=True)
    schema = TURTLE if keypoints else Schema(classes)
    records, preds = [], []
    pixels = {}
    for i in range(pictures):
        image, truth = scene_of(rng, len(classes))
        name = f"{prefix}-{i:03d}"
        path = images / f"{name.replace('/', '_')}.png"
        cv2.imwrite(str(path), image[..., ::-1])
        records.append(Record(name, (Frame(path),), SIZE, truth, source=f"{path}:1"))
        preds.append(found_of(rng, truth, 0.9) if detections else found_of(rng, truth, 0.9)[:0])
        pixels[name] = image
    data = Dataset(schema, tuple(records), source=str(images))
    recipe = override(Recipe(name=task, task=task), [f"train.epochs={epochs}", "train.lr=0.004", "augment.mosaic=0.3"])
    run.mkdir(parents=True)
    steps = _log(run, rng, epochs, status, task)
    for epoch in range(5, epochs + 1, 5):
        for k, r in enumerate(records[:3]):
            drawn = draw_sample(pixels[r.id], r.objects, found_of(rng, r.objects, min(0.95, epoch / epochs)), schema)
            path = run / "samples" / f"{epoch:05d}" / f"{k}_scene-{k:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    lines = [{"format": "tercel-predictions", "version": 1, "task": task, "classes": list(classes)}]
    lines += [{"id": r.id, **p.to_json()} for r, p in zip(records, preds, strict=True)]
    (run / "preds.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    findings = [
        Finding("labels.zero_area", Severity.WARNING, "boxes without area were left out", 2, ("a.xml:12", "b.xml:9")),
        Finding("labels.outside", Severity.INFO, "boxes reach beyond the picture and were cut at its border", 7),
    ]
    side = {
        "source": str(images),
        "fingerprint": "5c0ffee5c0ffee5c0ffee5c0ffee5c0f",
        "statistics": data.statistics(),
        "findings": [f.to_json() for f in findings],
    }
    write_json(
        run / "run.json",
        {
            "tercel": "0.1.0",
            "recipe": dump(recipe),
            "schema": schema.to_json(),
            "train": side,
            "val": {**side, "findings": []},
            "git": {"commit": "9e05a08b7cbb2d4c1a", "changed": True},
            "packages": {"torch": "2.15.0", "numpy": "2.3.0"},
            "machine": {"cpu": "2 cores", "device": "cpu", "memory_gb": 8},
            "started": "2025-11-20T10:00:00+00:00",
            "finished": "2025-11-20T10:03:12+00:00" if status == "finished" else None,
            "status": status,
            "seconds": 192.4,
            "parameters": 2_913_455,
            "command": "tercel train boxes --train pictures --val pictures",
            "findings": [
                Finding(
                    "caps.detections", Severity.WARNING, "pictures reach max_detections; raise it", 3, ("scene-003",)
                ).to_json()
            ],
            "selection": "the epoch with the highest AP on the validation data, 30 of 30 epochs",
            "steps": steps,
        },
    )
    if status == "finished":
        content = measured(data, preds, task) if metrics is None else metrics
        write_json(run / "metrics.json", content)
    return run, data


def _log(run: Path, rng: np.random.Generator, epochs: int, status: str, task: str = "") -> int:
    lines: list[dict[str, Any]] = []
    step, per = 0, 18
    for epoch in range(1, epochs + 1):
        for _ in range(per):
            step += 1
            t = step / (epochs * per)
            loss = {k: float(v * (0.25 + np.exp(-5 * t)) * rng.lognormal(0, 0.12)) for k, v in _TERMS.items()}
            data = float(rng.gamma(2, 0.01))
            compute = 0.21 + float(rng.normal(0, 0.01))
            lines.append(
                {
                    "kind": "step", "step": step, "epoch": epoch - 1, "losses": loss,
                    "lr": 0.004 * min(1, t / 0.03) * (0.505 + 0.495 * float(np.cos(np.pi * t))),
                    "grad_norm": float(rng.lognormal(1.2 - t, 0.25)), "n_objects": 120,
                    "seconds": data + compute, "data_seconds": data, "pictures_per_second": 16 / (data + compute),
                }
            )  # fmt: skip
        if epoch % 5 == 0:
            ap = 0.62 * (1 - np.exp(-epoch / 9)) + float(rng.normal(0, 0.008))
            scores = [
                Score(n, min(v, 1), 400, v - 0.03, min(v + 0.028, 1), {})
                for n, v in (("AP", ap), ("AP50", ap * 1.38), ("AP75", ap * 1.05))
            ]
            if task == "crowd":
                scores += [Score(n, v, 400, v - 0.03, v + 0.03) for n, v in (("MR-2", 1.1 - ap), ("JI", ap * 1.2))]
            lines.append(
                {"kind": "eval", "epoch": epoch, "step": step, "seconds": 2.0, "scores": [s.to_json() for s in scores]}
            )
    text = "".join(json.dumps(x) + "\n" for x in lines)
    (run / "log.jsonl").write_text(text if status == "finished" else text[: len(text) // 2])
    return step


_TERMS = {"box": 2.1, "class": 1.4, "dfl": 1.2}


def measured(data: Dataset, preds: list[Objects], task: str = "") -> dict[str, Any]:
    """metrics.json as the evaluation writes it."""
    from tercel.metrics.ap import judge_boxes
    from tercel.metrics.crowd import judge_crowd
    from tercel.metrics.keypoints import judge_keypoints

    truth, ids = [r.objects for r in data.records], [r.id for r in data.records]
    kind = "oriented" if any(t.obbs is not None for t in truth) else "boxes"
    if data.schema.keypoints:
        report = judge_keypoints(truth, preds, data.schema, ids=ids).to_json()
    elif task == "crowd":
        report = judge_crowd(truth, preds, data.schema.classes, ids=ids, max_detections=300).to_json()
    else:
        report = judge_boxes(truth, preds, data.schema.classes, ids=ids, geometry=kind).to_json()
    return {"checkpoint": "best", "scores": report["scores"], "report": report, "findings": [], "conditions": {}}


if __name__ == "__main__":
    print(fake_run(Path(sys.argv[1]), **dict.fromkeys(sys.argv[2:], True))[0])
