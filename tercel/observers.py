"""Observers of a training that every run has: the log, and the drawn samples."""

from __future__ import annotations

from tercel.core.record import Dataset
from tercel.data.video import read_frame
from tercel.engine.fit import EvalInfo, StepInfo
from tercel.engine.run import Run
from tercel.report import draw
from tercel.report.save import safe_name, save_picture


class Log:
    """Writes log.jsonl."""

    def on_start(self, run: Run, updates: int, step: int) -> None:
        self.run = run

    def on_step(self, info: StepInfo) -> None:
        self.run.log(
            {
                "kind": "step", "step": info.step, "epoch": info.epoch, "losses": info.losses, "lr": info.lr,
                "grad_norm": info.grad_norm, "n_objects": info.n_objects, "starved": info.starved,
                "seconds": info.seconds, "data_seconds": info.data_seconds,
                "pictures_per_second": info.pictures / info.seconds,
            }
        )  # fmt: skip

    def on_eval(self, info: EvalInfo) -> None:
        scores = [s.to_json() for s in info.scores]
        self.run.log(
            {"kind": "eval", "step": info.step, "epoch": info.epoch, "scores": scores, "seconds": info.seconds}
        )

    def on_message(self, message: str) -> None:
        pass

    def on_end(self) -> None:
        pass


class Samples:
    """Draws the fixed samples of every evaluation, so that one can watch the model learn."""

    def __init__(self, dataset: Dataset, min_score: float) -> None:
        self.schema, self.min_score = dataset.schema, min_score

    def on_start(self, run: Run, updates: int, step: int) -> None:
        self.folder = run.path / "samples"

    def on_step(self, info: StepInfo) -> None:
        pass

    def on_eval(self, info: EvalInfo) -> None:
        for i, (record, found) in enumerate(info.samples):
            picture = read_frame(record.frames[0])
            drawn = draw.draw_sample(picture, record.objects, found, self.schema, min_score=self.min_score)
            save_picture(self.folder / f"{info.epoch:05d}" / f"{i}_{safe_name(record.id)}.jpg", drawn)

    def on_message(self, message: str) -> None:
        pass

    def on_end(self) -> None:
        pass
