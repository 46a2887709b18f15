"""Checkpoints: one safetensors file with JSON in its header. Nothing is unpickled; nothing half-written is kept.

Tensors: `model.*` (only in `last`), `ema.*` (the weights that predict), `optim.<parameter>.<field>` and `rng`.
Header: {"tercel": JSON text} with recipe, schema, position in training, and the preprocessing probe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tercel.config import Data, Recipe, SmpNet, TimmNet, dump, load
from tercel.core.files import sync_folder
from tercel.core.finding import TercelError
from tercel.core.schema import Schema
from tercel.data.loader import load_plain
from tercel.models.detector import Detector

FORMAT = 1


def save(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write beside `path`, fsync, rename over it.

    Raises:
        TercelError: the disk is full or read-only; the checkpoint that was there is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(plain, temporary, {"tercel": json.dumps({"format": FORMAT, **header})})
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as e:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        old = "the previous checkpoint is untouched and `tercel resume` continues from it" if path.exists() else ""
        hint = f"free some space; {old or 'there is no earlier checkpoint: start again'}"
        raise TercelError(f"cannot write the checkpoint {path}: {e}", hint) from e


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors and the header.

    Raises:
        TercelError: missing, cut short, or not written by Tercel.
    """
    if not path.is_file():
        raise TercelError(f"there is no checkpoint {path}", "train first, or name another run")
    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as e:
        raise TercelError(f"{path} is not a readable Tercel checkpoint: {e}", "use another checkpoint") from e
    return tensors, header


def read_header(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, without its tensors.

    Raises:
        TercelError: missing, cut short, or not written by Tercel.
    """
    if not path.is_file():
        raise TercelError(f"there is no checkpoint {path}", "train first, or name another run")
    try:
        with safe_open(path, framework="pt") as f:
            header: dict[str, Any] = json.loads((f.metadata() or {})["tercel"])
            found, _ = header["format"], (header["recipe"], header["schema"], header["probe"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as e:
        raise TercelError(f"{path} is not a readable Tercel checkpoint: {e}", "use another checkpoint") from e
    if found != FORMAT:
        hint = "use the Tercel that wrote it"
        raise TercelError(f"{path} has checkpoint format {found}, this Tercel reads {FORMAT}", hint)
    return header


def load_detector(path: Path) -> tuple[Detector, Recipe, Schema, dict[str, Any]]:
    """The network that predicts (averaged weights), with everything needed to use it, from the file alone.

    Raises:
        TercelError: unreadable; weights that do not fit the configuration (each missing or surplus name is listed);
            a preprocessing that no longer gives what the network was trained on.
    """
    tensors, header = read(path)
    recipe, schema = load(Recipe, header["recipe"]), Schema.from_json(header["schema"])
    check_probe(path, recipe.data, header["probe"])
    model = fresh(recipe, schema)
    load_strict(model, pick(tensors, "ema."), str(path))
    return model, recipe, schema, header


def fresh(recipe: Recipe, schema: Schema) -> Detector:
    """A network with the recipe's shape whose weights will be loaded: pretrained ones are not fetched again."""
    config = recipe.model
    if isinstance(config.backbone, TimmNet | SmpNet):
        config = replace(config, backbone=replace(config.backbone, weights=False))
    with torch.random.fork_rng(devices=[]):  # its throw-away start must not move the training's random stream
        model = Detector(config, schema)
    return model.to(memory_format=torch.channels_last).eval()


def load_strict(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """load_state_dict with a readable refusal."""
    wanted = model.state_dict()
    missing, surplus = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape]
    if missing or surplus or shapes:
        listed = "; ".join(
            f"{name}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for name, names in (("missing", missing), ("surplus", surplus), ("other shape", sorted(shapes)))
            if names
        )
        raise TercelError(f"{where} does not fit this network ({listed})", "use the recipe it was trained with")
    model.load_state_dict(dict(state))


def pick(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """State of every parameter as `optim.<parameter>.<field>`."""
    return {
        f"optim.{names[p]}.{field}": value if isinstance(value, Tensor) else torch.tensor(float(value))
        for p, state in optimizer.state.items()
        for field, value in state.items()
        if value is not None
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor], where: str
) -> None:
    """The inverse of `optimizer_tensors`; a parameter without state is an error, never a silent restart."""
    for p, name in names.items():
        state = pick(tensors, f"optim.{name}.")
        state = {k: v for k, v in state.items() if "." not in k}
        if not state:
            raise TercelError(f"{where} holds no optimiser state for {name}", "train again from the start")
        # The fused optimisers walk over memory, not over indices: a state must lie in memory as its parameter does.
        optimizer.state[p] = {k: torch.empty_like(p).copy_(v) if v.ndim else v for k, v in state.items()}


# -- the saved file holds what was trained ------------------------------------------------------------------------


@torch.no_grad()
def verify(path: Path, model: Detector, recipe: Recipe, schema: Schema) -> None:
    """Reload `path` into a fresh network and require its output on a fixed batch to equal `model`'s, to the last bit.

    Raises:
        TercelError: they differ (a layer that is not saved, say).
    """
    again = fresh(recipe, schema)
    tensors, _ = read(path)
    load_strict(again, pick(tensors, "ema."), str(path))
    device = next(model.parameters()).device
    again.to(device)
    generator = torch.Generator().manual_seed(0)
    frames = recipe.model.clip.frames + recipe.model.clip.background
    shape = (2, frames, 3, *recipe.data.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    was_training = model.training
    model.eval()
    a, b = model(images), again(images)
    model.train(was_training)
    if not all(torch.equal(x, y) for x, y in zip(_tensors(a), _tensors(b), strict=True)):
        raise TercelError(
            f"{path} does not reproduce the network it was saved from", "this is a bug in Tercel: report it"
        )


def _tensors(raw: Any) -> list[Tensor]:
    """All tensors of a raw output (nested tuples), in order."""
    if isinstance(raw, Tensor):
        return [raw]
    return [t for part in raw for t in _tensors(part)] if isinstance(raw, tuple) else []


def probe(data: Data) -> list[float]:
    """Mean grey of a 4x4 grid, per channel, of a fixed picture after preprocessing: 48 numbers.

    They travel with the checkpoint; predicting with another preprocessing (size, border, channel order, resampling)
    is refused.
    """
    y, x = np.mgrid[0:150, 0:230]
    picture = np.stack([x % 256, (y * 2 + x // 3) % 256, (x // 16 + y // 16) % 2 * 200], -1).astype(np.uint8)
    image, _ = load_plain(picture, data.size, data.fill)
    image = image[0].transpose(1, 2, 0)
    h, w = image.shape[0] // 4, image.shape[1] // 4
    grid = image[: 4 * h, : 4 * w].reshape(4, h, 4, w, 3).astype(np.float64).mean(axis=(1, 3))
    return [round(float(v), 3) for v in grid.ravel()]


def check_probe(path: Path, data: Data, expected: list[float]) -> None:
    difference = float(np.abs(np.array(probe(data)) - np.array(expected)).max())
    if difference > 0.5:
        raise TercelError(
            f"{path}: pictures are prepared differently now than in its training ({difference:.1f} grey levels apart)",
            "predict with the Tercel and OpenCV versions named in run.json",
        )


def header(recipe: Recipe, schema: Schema, **position: Any) -> dict[str, Any]:
    return {"recipe": dump(recipe), "schema": schema.to_json(), "probe": probe(recipe.data), **position}
