"""The training loop.

A training is a pure function of recipe, data and seed: the order and the augmentation of every sample are decided by
(seed, epoch, index), so a run that was killed and resumed ends with the weights of one that was not (bit for bit on a
CPU). One update may span several batches and several devices; gradients of *sums* are accumulated and divided once by
the weight of all of them, so a short last group and an uneven split count as what they are.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tercel.config import Recipe
from tercel.core.files import write_json
from tercel.core.finding import Finding, Score, Severity, TercelError, direction
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Record
from tercel.data.loader import Batch, Loader
from tercel.engine import checkpoint
from tercel.engine.device import Runtime
from tercel.engine.dist import World
from tercel.engine.optim import Average, gradient_norm, learning_rate, make_optimizer
from tercel.engine.run import Run
from tercel.engine.tasks import task_of
from tercel.models.detector import Detector


@dataclass(frozen=True)
class StepInfo:
    """One update, as observers see it."""

    step: int  # updates done, this one included
    epoch: int  # the first one is 0; evaluations count the epochs that are done
    losses: dict[str, float]  # per unit of weight, gains included
    lr: float
    grad_norm: float
    n_objects: int
    starved: int  # truths that no prior was assigned to
    seconds: float
    data_seconds: float  # of which waiting for pictures
    pictures: int


@dataclass(frozen=True)
class EvalInfo:
    """One evaluation, with what was found on the fixed samples (single pictures)."""

    epoch: int
    step: int
    scores: list[Score]
    seconds: float
    samples: list[tuple[Record, Objects]]


class Observer(Protocol):
    """Told about everything, decides nothing."""

    def on_start(self, run: Run, updates: int, step: int) -> None: ...
    def on_step(self, info: StepInfo) -> None: ...
    def on_eval(self, info: EvalInfo) -> None: ...
    def on_message(self, message: str) -> None: ...
    def on_end(self) -> None: ...


class DivergedError(TercelError):
    """The loss or a gradient is not finite; the batch and the norms were written to the run folder."""

    exit_code = 1


@dataclass
class State:
    """Where a training stands: everything that changes, and so everything a checkpoint holds."""

    model: Detector
    optimizer: torch.optim.Optimizer
    average: Average[Detector]
    epoch: int = 0
    batches: int = 0  # of this epoch, done
    step: int = 0  # updates done
    best: float = -math.inf
    best_epoch: int = 0

    def names(self) -> dict[Tensor, str]:
        return {p: n for n, p in self.model.named_parameters() if p.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        return (
            {f"model.{k}": v for k, v in self.model.state_dict().items()}
            | {f"ema.{k}": v for k, v in self.average.model.state_dict().items()}
            | checkpoint.optimizer_tensors(self.optimizer, self.names())
            | {"rng": torch.get_rng_state()}
        )

    def position(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "batches": self.batches,
            "step": self.step,
            "best": self.best if math.isfinite(self.best) else None,
            "best_epoch": self.best_epoch,
            "average_updates": self.average.updates,
        }

    def restore(self, tensors: dict[str, Tensor], position: dict[str, Any], where: str) -> None:
        checkpoint.load_strict(self.model, checkpoint.pick(tensors, "model."), where)
        checkpoint.load_strict(self.average.model, checkpoint.pick(tensors, "ema."), where)
        checkpoint.restore_optimizer(self.optimizer, self.names(), tensors, where)
        torch.set_rng_state(tensors["rng"])
        self.epoch, self.batches, self.step = position["epoch"], position["batches"], position["step"]
        self.best = -math.inf if position["best"] is None else position["best"]
        self.best_epoch, self.average.updates = position["best_epoch"], position["average_updates"]


class Fit:
    """One training: build it, then `run()`."""

    def __init__(
        self,
        recipe: Recipe,
        train: Dataset,
        val: Dataset,
        run: Run,
        runtime: Runtime,
        world: World,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.recipe, self.config, self.run_folder = recipe, recipe.train, run
        self.train_set, self.val_set, self.runtime, self.world = train, val, runtime, world
        self.task = task_of(recipe)
        self.observers = observers if world.main else ()
        c = self.config
        torch.manual_seed(c.seed)
        model = Detector(recipe.model, train.schema).to(runtime.device)
        model = model.to(memory_format=runtime.memory_format)
        self.loader = Loader(
            self.task.training(train), recipe.data, recipe.augment, batch=c.batch, seed=c.seed, samples=c.samples,
            rank=world.rank, world=world.size, epochs=c.epochs,
        )  # fmt: skip
        self.val_loader = self.task.loader(val, rank=world.rank, world=world.size)
        self.state = State(model, make_optimizer(model, c), Average(model, c.ema))
        self.updates_per_epoch = math.ceil(self.loader.steps / c.accumulate)
        self.updates = self.updates_per_epoch * c.epochs
        self.wrapped = self._distribute(model)
        self.last_saved = time.monotonic()
        self.interrupted = False

    def _distribute(self, model: Detector) -> torch.nn.Module:
        if self.world.size == 1:
            return model
        ids = [self.runtime.device.index] if self.runtime.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)

    # -- the story ----------------------------------------------------------------------------------------------------

    def run(self) -> State:
        """Train from where the state stands to the end, or to an interrupt (then `interrupted` is set)."""
        s = self.state
        for o in self.observers:
            o.on_start(self.run_folder, self.updates, s.step)
        try:
            with self._graceful():
                self._epochs()
        finally:
            for o in self.observers:
                o.on_end()
        return s

    def _epochs(self) -> None:
        s = self.state
        while s.epoch < self.config.epochs and not self.interrupted:
            self._epoch()
            if self.interrupted:
                break
            s.epoch, s.batches = s.epoch + 1, 0
            if s.epoch % self.config.evaluate_every == 0 or s.epoch == self.config.epochs:
                self._evaluate()
                self._save()
            elif self._overdue():
                self._save()
        if self.interrupted:
            self._save()

    def _epoch(self) -> None:
        s, c = self.state, self.config
        s.model.train()
        batches = iter(self.loader.epoch(s.epoch, start_step=s.batches))
        with contextlib.closing(batches):  # type: ignore[type-var]
            while group := self._fetch(batches, c.accumulate):
                self._update(group)
                s.batches += len(group)
                if self._stop_now():
                    return
                if self._overdue():
                    self._save()

    def _overdue(self) -> bool:
        minutes = (time.monotonic() - self.last_saved) / 60
        return bool(self.config.checkpoint_minutes) and minutes >= self.config.checkpoint_minutes

    def _fetch(self, batches: Iterator[Batch], n: int) -> list[Batch]:
        self.started = time.perf_counter()
        group = list(islice(batches, n))
        self.waited = time.perf_counter() - self.started
        return group

    def _update(self, group: list[Batch]) -> None:
        s, c = self.state, self.config
        lr = learning_rate(c, s.step, self.updates)
        for g in s.optimizer.param_groups:
            g["lr"] = lr
        sums: dict[str, Tensor] = {}
        weight = torch.zeros((), device=self.runtime.device)
        facts: dict[str, float] = {}
        for i, batch in enumerate(group):
            with self._together(i == len(group) - 1):
                images = batch.tensor().to(self.runtime.device, non_blocking=True)
                with self.runtime.autocast():
                    raw = self.wrapped(images)
                targets = s.model.head.encode(batch.objects, batch.events).to(self.runtime.device)
                loss = s.model.head.loss(raw, targets)
                loss.total.backward()
            for name, value in loss.sums.items():
                sums[name] = sums.get(name, torch.zeros_like(weight)) + value.detach()
            weight += loss.weight
            for name, fact in loss.facts.items():
                facts[name] = facts.get(name, 0.0) + fact
        totals = self.world.sum(torch.stack([weight, *sums.values()]))
        weight = totals[0].clamp(min=1.0)  # an update without truths is divided by 1
        losses = dict(zip(sums, (totals[1:] / weight).tolist(), strict=True))
        norm = self._normalise(weight)
        if not math.isfinite(sum(losses.values())) or not math.isfinite(norm):
            self._dump(group, losses, norm)
        s.optimizer.step()
        s.optimizer.zero_grad(set_to_none=True)
        s.average.update(s.model)
        s.step += 1
        info = StepInfo(
            step=s.step, epoch=s.epoch, losses=losses, lr=lr, grad_norm=norm,
            n_objects=int(facts["truths"]), starved=int(facts["starved"]),
            seconds=time.perf_counter() - self.started, data_seconds=self.waited,
            pictures=sum(len(b.ids) for b in group) * self.world.size,
        )  # fmt: skip
        for o in self.observers:
            o.on_step(info)

    def _together(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are exchanged once per update: with its last batch."""
        if isinstance(self.wrapped, torch.nn.parallel.DistributedDataParallel) and not last:
            return self.wrapped.no_sync()
        return contextlib.nullcontext()

    def _normalise(self, weight: Tensor) -> float:
        """Gradients of sums -> gradient of the mean over the whole update, clipped; returns the norm before clipping.

        DDP has averaged the sums over the processes already, hence the factor `size`.
        """
        parameters = [p for p in self.state.model.parameters() if p.grad is not None]
        grads = [p.grad for p in parameters if p.grad is not None]
        scale = self.world.size / weight
        norm = float(gradient_norm(parameters) * scale)
        if self.config.clip and norm > self.config.clip:
            scale = scale * (self.config.clip / norm)
        torch._foreach_mul_(grads, scale)
        return norm

    # -- evaluation and checkpoints -----------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        s, settings = self.state, self.recipe.evaluate
        started = time.perf_counter()
        mine: tuple[dict[str, Any], tuple[Finding, ...]] = ({}, ())
        if self.val_loader is not None:
            mine = self.task.detect(s.average.model, self.val_loader, self.runtime)
        parts = self.world.gather(mine)
        if parts is not None:
            found = {k: v for part, _ in parts for k, v in part.items()}
            result = self.task.judge(self.val_set, found, tuple(f for _, fs in parts for f in fs), resamples=0)
            value = direction(settings.select) * result.overall(settings.select)
            if value > s.best:  # argmax of the log (of MR-2 its negative); the first of equals; NaN never wins
                s.best, s.best_epoch = value, s.epoch
                self._write("best", {k: v for k, v in s.tensors().items() if k.startswith("ema.")})
            samples = self.task.samples(self.val_set, result, self.config.sample_pictures)
            info = EvalInfo(s.epoch, s.step, result.scores, time.perf_counter() - started, samples)
            for o in self.observers:
                o.on_eval(info)
        s.best, s.best_epoch = self.world.share((s.best, s.best_epoch))

    def _save(self) -> None:
        self.last_saved = time.monotonic()
        if self.world.main:
            self._write("last", self.state.tensors())

    def _write(self, name: str, tensors: dict[str, Tensor]) -> None:
        path = self.run_folder.path / "checkpoints" / f"{name}.safetensors"
        schema = self.train_set.schema
        checkpoint.save(path, tensors, checkpoint.header(self.recipe, schema, position=self.state.position()))
        checkpoint.verify(path, self.state.average.model, self.recipe, schema)

    def start_from(self, path: Path) -> None:
        """Take the averaged weights of another run's checkpoint instead of random ones.

        Raises:
            TercelError: they do not fit this network.
        """
        state = checkpoint.pick(checkpoint.read(path)[0], "ema.")
        for model in (self.state.model, self.state.average.model):
            checkpoint.load_strict(model, state, str(path))

    def restore(self) -> int:
        """Continue from `last`; returns the number of log lines that will be written again."""
        path = self.run_folder.path / "checkpoints" / "last.safetensors"
        tensors, header = checkpoint.read(path)
        self.state.restore(tensors, header["position"], str(path))
        return self.run_folder.truncate_log(self.state.step) if self.world.main else 0

    # -- ends ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _graceful(self) -> Iterator[None]:
        """Ctrl-C (and SIGTERM) finish the update, save, and leave; a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals belong to the main thread; whoever runs us elsewhere handles them
            return

        def ask(number: int, frame: Any) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for o in self.observers:
                o.on_message("stopping after this update; the checkpoint will be saved (Ctrl-C again stops at once)")

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_now(self) -> bool:
        if self.world.size > 1:  # all ranks stop at the same update, or none
            flag = torch.tensor([float(self.interrupted)], device=self.runtime.device)
            self.interrupted = bool(self.world.sum(flag).item() > 0)
        return self.interrupted

    def _dump(self, group: list[Batch], losses: dict[str, float], norm: float) -> None:
        folder = self.run_folder.path / f"nonfinite-rank{self.world.rank}"
        from safetensors.torch import save_file

        folder.mkdir(exist_ok=True)
        save_file({f"images.{i}": b.tensor().contiguous() for i, b in enumerate(group)}, folder / "batch.safetensors")
        norms = {n: float(p.detach().norm()) for n, p in self.state.model.named_parameters()}
        text = {k: repr(v) for k, v in losses.items()}
        info = {
            "step": self.state.step + 1, "epoch": self.state.epoch, "losses": text, "gradient_norm": repr(norm),
            "ids": [b.ids for b in group], "objects": [[o.to_json() for o in b.objects] for b in group],
            "weight_norms": {n: repr(v) for n, v in norms.items()},
        }  # fmt: skip
        write_json(folder / "info.json", info)
        raise DivergedError(
            f"update {self.state.step + 1} is not finite: losses {text}, gradient norm {norm}; "
            f"batch, ids and weight norms are in {folder}",
            "lower train.lr or raise train.warmup; see the pictures named in info.json; the last checkpoint is good",
        )


def data_findings(train: Dataset, val: Dataset) -> tuple[Finding, ...]:
    """What must hold before training starts.

    Raises:
        TercelError: no pictures, no objects, or class lists that differ.
    """
    for name, d in (("train", train), ("val", val)):
        if not len(d):
            raise TercelError(f"{name} source {d.source} has no pictures", "check its path and its split")
    if train.schema.classes != val.schema.classes:
        raise TercelError(
            f"train has classes {list(train.schema.classes)}, val has {list(val.schema.classes)}",
            "both need the same names in the same order",
        )
    if not sum(int((~r.objects.ignore).sum()) for r in train.records):
        raise TercelError(f"train source {train.source} has pictures but no objects", "check the label files")
    out = []
    if not sum(int((~r.objects.ignore).sum()) for r in val.records):
        out.append(Finding("data.no_truth", Severity.WARNING, "val has no objects: every score will be undefined"))
    return tuple(out)
