"""A plausible run folder of a ball tracker without training: drawn rallies, their truth, trajectories with every kind
of mistake, and events.

Seeded. `python tests/report/fake_ball_run.py FOLDER` writes one and its report, to look at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tercel.config import BallHeatmap, Clip, Model, Recipe, dump
from tercel.core.files import write_json
from tercel.core.finding import Score
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Event, Frame, Record
from tercel.core.schema import Schema
from tercel.core.timeline import EventAnswer, EventTruth
from tercel.core.track import Track
from tercel.metrics.events import judge_events
from tercel.metrics.points import judge_points
from tercel.report.draw import draw_sample

SIZE = (288, 512)
EVENTS = ("bounce", "hit")
RALLIES = ("match1/1_01_00", "match1/1_02_00", "match2/1_01_00", "match2/2_01_03")
Spotted = list[tuple[int, str, float]]


def flight(rng: np.random.Generator, n: int) -> tuple[np.ndarray, list[Event]]:
    """Places f64 [n,2] of a ball that goes to and fro over a net, and its events."""
    h, w = SIZE
    xy, events, t, side, near = [], [], 0, 1, 0.2
    while t < n:
        length, far = int(rng.integers(16, 26)), 1 - near + rng.uniform(-0.08, 0.08)
        s = np.linspace(0, 1, length)
        x = w * (near + (far - near) * s)
        y = h * (0.62 - rng.uniform(0.3, 0.5) * 4 * s * (1 - s) * (1 - 0.3 * s))
        xy.append(np.stack([x, y], axis=1))
        events.append(Event(t, "hit"))
        if rng.random() < 0.6:
            events.append(Event(t + int(length * 0.8), "bounce"))
        t, side, near = t + length, -side, far
    return np.concatenate(xy)[:n], [e for e in events if e.frame < n]


def court(rng: np.random.Generator) -> np.ndarray:
    """An empty court, u8 [H,W,3]."""
    h, w = SIZE
    image = np.full((h, w, 3), (36, 92, 60), np.uint8)
    image[: h // 4] = (70, 74, 82)
    corners = np.array([[90, 110], [w - 90, 110], [w - 20, 270], [20, 270]], np.int32)
    cv2.fillPoly(image, [corners], (48, 128, 84))
    cv2.polylines(image, [corners], True, (225, 230, 225), 2, cv2.LINE_AA)
    cv2.line(image, (w // 2, 96), (w // 2, 275), (230, 230, 230), 2, cv2.LINE_AA)
    noise = rng.normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def picture(ground: np.ndarray, xy: np.ndarray, k: int) -> np.ndarray:
    """The court with two players and the ball, where there is one."""
    image = ground.copy()
    for x in (70 + 20 * np.sin(k / 9), 430 + 18 * np.cos(k / 7)):
        cv2.ellipse(image, (int(x), 190), (10, 30), 0, 0, 360, (60, 50, 150), -1, cv2.LINE_AA)
        cv2.circle(image, (int(x), 152), 8, (170, 130, 110), -1, cv2.LINE_AA)
    if np.isfinite(xy).all():
        centre = tuple(round((v - 0.5) * 16) for v in xy)
        cv2.circle(image, centre, round(2.6 * 16), (235, 255, 120), -1, cv2.LINE_AA, 4)
    return image


def answered(rng: np.random.Generator, truth: Track, first: bool) -> Track:
    """A trajectory with misses, jumps to a white shoe, ghosts, and a gap that was filled in."""
    n = len(truth)
    found = truth.present & (rng.random(n) > 0.03)
    xy = truth.xy + rng.normal(0, 1.1, (n, 2))
    score = np.clip(rng.beta(9, 2, n), 0.5, 0.999)
    filled, sigma = np.zeros(n, bool), np.full(n, np.nan)
    a = int(rng.integers(5, n - 20))
    found[a : a + (9 if first else 4)] = False  # missed
    b = (a + 15) % (n - 6)
    rows = np.arange(b, b + 4)
    filled[rows], found[rows], sigma[rows], score[rows] = True, True, [1.5, 4.0, 5.0, 2.0], 0
    xy[rows] += [[1, 0], [6, 5], [9, 8], [2, 1]]
    for k in rng.choice(np.flatnonzero(truth.present & ~filled), 3, replace=False):
        found[k], xy[k], score[k] = True, (75, 222), 0.62
    ghosts = np.flatnonzero(~truth.present)[:3]
    found[ghosts], xy[ghosts], score[ghosts] = True, (430, 224), 0.55
    missing = found & ~np.isfinite(xy).all(axis=1)
    found[missing] = False
    score[~found] = 0
    filled &= found
    return Track(
        SIZE, truth.frame, found, xy, np.where(filled, 0, score), filled, np.where(filled, sigma, np.nan), truth.name
    )


def fake_ball_run(
    folder: Path,
    *,
    rallies: tuple[str, ...] = RALLIES,
    frames: int = 60,
    events: tuple[str, ...] = EVENTS,
    status: str = "finished",
    pictures: bool = True,
    seed: int = 0,
) -> tuple[Path, Dataset, list[Track]]:
    """Write frames and a run; returns the run folder, the validation data, and the trajectories in its order."""
    rng = np.random.default_rng(seed)
    run = folder / "runs" / "ball"
    run.mkdir(parents=True)
    records, preds, spotted = [], [], {}
    for number, name in enumerate(rallies):
        ground = court(rng)
        record = _rally(rng, folder / "frames" / str(number), name, frames, events, ground, pictures, 100 * number)
        records.append(record)
        truth = Track.from_objects(record.objects, record.first + np.arange(frames), name=name)
        preds.append(answered(rng, truth, number == 0))
        spotted[name] = [
            (record.first + e.frame + int(rng.integers(-2, 3)), e.name, round(float(rng.uniform(0.5, 1)), 4))
            for e in record.events if rng.random() < 0.85
        ]  # fmt: skip
        spotted[name].sort()
        write_answer(run / "tracks", preds[-1], spotted[name])
    data = Dataset(Schema(("ball",), events=events), tuple(records), source=str(folder / "frames"))
    points = judge_points(
        [Track.from_objects(r.objects, r.first + np.arange(frames), name=r.id) for r in records], preds
    )
    report = {**points.to_json(), "events": _judged(data, spotted) if events else None}
    _write_info(run, data, status)
    _write_log(run, points.scores, rng, status)
    for epoch in (5, 10):
        for k, (r, p) in enumerate(zip(records[:2], preds, strict=False)):
            if pictures:
                path = run / "samples" / f"{epoch:05d}" / f"{k}_{r.id.replace('/', '_')}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = cv2.imread(str(r.frames[9].path))[..., ::-1]
                one, found = r.objects[r.objects.frame == 9], p.objects()
                drawn = draw_sample(image, one, found[found.frame == 9], data.schema)
                cv2.imwrite(str(path), drawn[..., ::-1])
    if status == "finished":
        scores = [s.to_json() for s in points.scores] + (report["events"] or {}).get("scores", [])
        content = {"checkpoint": "best", "data": data.source, "scores": scores, "last": None, "report": report}
        write_json(run / "metrics.json", content | {"findings": []})
    return run, data, preds


def _rally(
    rng: np.random.Generator, folder: Path, name: str, n: int, events: tuple[str, ...], ground: np.ndarray,
    pictures: bool, first: int,
) -> Record:  # fmt: skip
    xy, happened = flight(rng, n)
    absent = np.zeros(n, bool)
    absent[:4] = True
    visible = np.full(n, 2)
    visible[rng.random(n) < 0.15] = 3  # blurred
    visible[30:33] = 1  # occluded
    shown = np.where(absent[:, None], np.nan, xy)
    folder.mkdir(parents=True)
    paths = [folder / f"{k:04d}.jpg" for k in range(n)]
    for k, path in enumerate(paths if pictures else ()):
        seen = shown[k] if visible[k] != 1 else np.full(2, np.nan)
        cv2.imwrite(str(path), picture(ground, seen, k)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    rows = np.flatnonzero(~absent)
    objects = Objects(
        SIZE, np.zeros(len(rows), np.int64), np.concatenate([xy[rows], xy[rows]], axis=1), frame=rows,
        points=xy[rows, None], visible=visible[rows, None],
    )  # fmt: skip
    kept = tuple(e for e in happened if e.name in events)
    frames = tuple(Frame(p) for p in paths)
    return Record(name, frames, SIZE, objects, kept, group=name.partition("/")[0], first=first)


def write_answer(folder: Path, track: Track, events: Spotted) -> None:
    """tracks/RALLY.csv and tracks/RALLY_events.csv, written by hand: label files hold pixel indices."""
    path = folder / f"{track.name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["Frame,Visibility,X,Y,Score,Filled,Sigma"]
    assert track.score is not None
    assert track.filled is not None
    assert track.sigma is not None
    for i, frame in enumerate(track.frame):
        x, y = track.xy[i] - 0.5 if track.present[i] else (0, 0)
        sigma = "" if np.isnan(track.sigma[i]) else f"{track.sigma[i]:.4f}"
        row = (frame, int(track.present[i]), f"{x:.4f}", f"{y:.4f}", f"{track.score[i]:.4f}", int(track.filled[i]))
        lines.append(",".join(map(str, (*row, sigma))))
    path.write_text("\n".join(lines) + "\n")
    listed = [f"{f},{name},{score}" for f, name, score in events]
    path.with_name(f"{path.stem}_events.csv").write_text("\n".join(["Frame,Event,Score", *listed]) + "\n")


def _judged(data: Dataset, spotted: dict[str, Spotted]) -> dict[str, Any]:
    truth = [
        EventTruth(r.id, tuple(Event(r.first + e.frame, e.name) for e in r.events), frames=len(r.frames), first=r.first)
        for r in data.records
    ]
    said = [
        EventAnswer(name, tuple(Event(f, n) for f, n, _ in rows), np.array([s for *_, s in rows]))
        for name, rows in spotted.items()
    ]
    return judge_events(truth, said, classes=data.schema.events).to_json()


def _write_info(run: Path, data: Dataset, status: str) -> None:
    model = Model(clip=Clip(frames=3), head=BallHeatmap(), strides=(4, 8, 16))
    recipe = Recipe(name="shuttle_heatmap", task="ball", model=model)
    side = {
        "source": data.source, "fingerprint": "ba11ba11ba11ba11", "statistics": data.statistics(), "findings": [],
    }  # fmt: skip
    write_json(
        run / "run.json",
        {
            "tercel": "0.1.0", "recipe": dump(recipe), "schema": data.schema.to_json(),
            "train": {**side, "fingerprint": "cafecafecafecafe"}, "val": side, "git": None,
            "packages": {"torch": "2.15.0"}, "machine": {"cpu": "2 cores"}, "started": "2025-11-20T10:00:00+00:00",
            "finished": None, "status": status, "seconds": 150.0, "parameters": 1_200_345, "findings": [],
            "command": "tercel train shuttle_heatmap --train rallies#train --val rallies#val",
            "selection": "best of 2 evaluations by F1 on the validation data (epoch 10)",
        },
    )  # fmt: skip


def _write_log(run: Path, scores: list[Score], rng: np.random.Generator, status: str) -> None:
    lines: list[dict[str, Any]] = []
    for step in range(1, 101):
        fall = 0.2 + float(np.exp(-step / 25))
        losses = {"heatmap": fall * float(rng.lognormal(0, 0.1)), "offset": 0.5 * fall * float(rng.lognormal(0, 0.1))}
        lines.append(
            {"kind": "step", "step": step, "epoch": (step - 1) // 10, "losses": losses, "lr": 0.002, "grad_norm": 1.0,
             "n_objects": 30, "seconds": 0.3, "data_seconds": 0.05}
        )  # fmt: skip
        if step % 50 == 0:
            now = [s for s in scores if set(s.where) == {"rule"}]
            faded = [Score(s.name, s.value * step / 100, s.n, where=s.where) for s in now]
            lines.append({"kind": "eval", "step": step, "epoch": step // 10, "scores": [s.to_json() for s in faded]})
    cut = lines if status == "finished" else lines[:60]
    (run / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in cut))


if __name__ == "__main__":
    from tercel.report.card import write_card
    from tercel.report.html import write_report

    made, truth_data, _ = fake_ball_run(Path(sys.argv[1]))
    print(write_report(made, truth_data), write_card(made))
