"""Frames per second from a video file to a csv, beside TrackNet's network alone on frames of the same size.

Counted for us: decoding the video, letterbox, network, decoding of the answers, motion model, writing the csv. Counted
for TrackNet: its network only (3 frames in, 3 heatmaps out, windows that do not overlap), on tensors that are there
already. Weights are random on both sides: speed does not depend on them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tercel import recipes
from tercel.core.schema import Schema
from tercel.data.rallies import make_rallies
from tercel.engine import device
from tercel.engine.ball import answer, write_answer
from tercel.engine.stream import decode_video
from tercel.models.detector import Detector

SIZE, FRAMES, ROUNDS = (288, 512), 600, 3
OURS = {
    "ball_demo (3 frames, heatmap at stride 4)": "ball_demo",
    "pingpong (5 frames, heatmap)": "pingpong",
    "shuttle (10 frames, grid)": "shuttle",
}


class TrackNet(nn.Module):
    """TrackNetV2's network (Sun et al. 2020): VGG-like, three pools, skip connections; 3 RGB frames to 3 heatmaps."""

    def __init__(self, frames: int = 3) -> None:
        super().__init__()

        def stage(i: int, o: int, n: int) -> nn.Sequential:
            parts: list[nn.Module] = []
            for k in range(n):
                parts += [nn.Conv2d(i if k == 0 else o, o, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(o)]
            return nn.Sequential(*parts)

        self.down = nn.ModuleList([stage(3 * frames, 64, 2), stage(64, 128, 2), stage(128, 256, 3)])
        self.bottom = stage(256, 512, 3)
        self.up = nn.ModuleList([stage(768, 256, 3), stage(384, 128, 2), stage(192, 64, 2)])
        self.out = nn.Conv2d(64, frames, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for stage in self.down:
            x = stage(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for stage, skip in zip(self.up, reversed(skips), strict=True):
            x = stage(torch.cat([nn.functional.interpolate(x, scale_factor=2), skip], 1))
        y: Tensor = self.out(x).sigmoid()
        return y


def tracknet(bf16: bool) -> tuple[Callable[[], int], int]:
    """A call that runs some windows and returns how many frames they answer; the number of parameters."""
    net = TrackNet().eval().to(memory_format=torch.channels_last)
    x = torch.rand(1, 9, *SIZE).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def run() -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for _ in range(8):
                net(x)
        return 24

    return run, sum(p.numel() for p in net.parameters())


def ours(name: str, video: Path, folder: Path) -> tuple[Callable[[], int], int]:
    recipe = recipes.get(name)
    recipe = replace(recipe, evaluate=replace(recipe.evaluate, ball=replace(recipe.evaluate.ball, track=True)))
    runtime = device.choose(recipe.train)
    model = Detector(recipe.model, Schema(("ball",))).eval().to(memory_format=torch.channels_last)

    def run() -> int:
        out = folder / f"{name}-{time.monotonic_ns()}.csv"
        a = answer(decode_video(model, recipe, video, runtime), recipe, (), name=name)
        write_answer(out, a)
        return len(a.track)

    return run, sum(p.numel() for p in model.parameters())


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = make_rallies(folder / "rally", splits={"test": 1}, frames=FRAMES, size=SIZE, sport="badminton", seed=3)
        video = next(data.rglob("*.mp4"))
        sides = {what: ours(name, video, folder) for what, name in OURS.items()}
        sides |= {
            "TrackNetV2's network alone, fp32": tracknet(False),
            "TrackNetV2's network alone, bf16": tracknet(True),
        }
        rates: dict[str, list[float]] = {what: [] for what in sides}
        for call, _ in sides.values():
            call()  # warm-up
        for _ in range(ROUNDS):
            for what, (call, _) in sides.items():
                began = time.perf_counter()
                frames = call()
                rates[what].append(frames / (time.perf_counter() - began))
    base = statistics.median(rates["TrackNetV2's network alone, bf16"])
    rows = [
        {
            "what": what,
            "parameters (M)": round(sides[what][1] / 1e6, 2),
            "frames/s": round(statistics.median(values), 1),
            "range": f"{min(values):.1f}..{max(values):.1f}",
            "ratio to TrackNet bf16": round(statistics.median(values) / base, 2),
        }
        for what, values in rates.items()
    ]
    notes = [
        f"A generated clip of {FRAMES} frames at {SIZE[1]}x{SIZE[0]}, H.264; medians of {ROUNDS} rounds in turn, one "
        "process. Wanted: 30 frames/s with the light trunk, file to csv.",
        "Ours counts decoding, letterbox, network, answers, motion model and the csv; TrackNet's is the network alone.",
    ]
    return {"title": "A ball from file to csv", "rows": rows, "notes": notes}
