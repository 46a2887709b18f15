"""Configuration: frozen, typed, keyword-only dataclasses, and `--set key=value`. Standard library only.

A recipe (tercel/recipes) is a function that returns a `Recipe`; a variant is `dataclasses.replace(...)`. There is one
default, in one place: here, or in the recipe. Unknown keys, wrong types and values out of range are refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from tercel.core.finding import TercelError

T = TypeVar("T")


def num(default: float, low: float, high: float) -> Any:
    """A number field with its legal range, both ends included."""
    return field(default=default, metadata={"low": low, "high": high})


def nums(default: tuple[Any, ...], low: float, high: float, rising: bool = False) -> Any:
    """A list of numbers, not empty, with the legal range of each; `rising`: each larger than the one before."""
    return field(default=default, metadata={"low": low, "high": high, "rising": rising})


class _Checked:
    """Every value is checked at birth, so a recipe in Python is held to the same rules as `--set`."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _convert(getattr(self, f.name), hints[f.name], f"{type(self).__name__}.{f.name}")
            _check_range(value, f.metadata, f"{type(self).__name__}.{f.name}")
            object.__setattr__(self, f.name, value)


def _check_range(value: Any, metadata: Mapping[str, Any], key: str) -> None:
    if "low" not in metadata or isinstance(value, bool):
        return
    low, high = metadata["low"], metadata["high"]
    values = value if isinstance(value, tuple) else (value,)
    if not values:
        raise TercelError(f"{key} is empty", f"give it numbers between {low} and {high}")
    if not all(low <= v <= high for v in values):
        raise TercelError(f"{key} = {value} lies outside {low}..{high}", "choose a value within")
    if metadata.get("rising") and any(a >= b for a, b in itertools.pairwise(values)):
        raise TercelError(f"{key} = {value} does not rise", "list it in rising order, each once")


# -- reading and writing ------------------------------------------------------------------------------------------


def dump(config: Any) -> Any:
    """Plain JSON values; a dataclass gets its class name under "kind" so that a union can be read back."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {"kind": type(config).__name__} | {
            f.name: dump(getattr(config, f.name)) for f in dataclasses.fields(config)
        }
    return list(config) if isinstance(config, tuple) else config


def load(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """The dataclass that `dump` wrote; every key is checked."""
    hints = typing.get_type_hints(cls)
    given = {k: v for k, v in values.items() if k != "kind"}
    for key in given:
        if key not in hints:
            raise _unknown(key, list(hints), where)
    return cls(**{k: _convert(v, hints[k], f"{where}{k}") for k, v in given.items()})


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"train.epochs": 50, ...}; a union field also shows its kind."""
    out: dict[str, Any] = {}
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value, key = getattr(config, f.name), f"{prefix}{f.name}"
        if dataclasses.is_dataclass(value):
            if isinstance(hints[f.name], types.UnionType):
                out[key] = type(value).__name__
            out |= flat(value, key + ".")
        else:
            out[key] = value
    return out


def override(config: T, settings: Sequence[str]) -> T:
    """Apply `--set` settings ("train.epochs=50") in order.

    A field that may be one of several kinds takes a kind's name ("model.head.assigner=SimOta"), with its defaults.

    Raises:
        TercelError: no "=", an unknown key (the nearest one is named), a wrong type, a value out of range.
    """
    for setting in settings:
        key, eq, text = setting.partition("=")
        if not eq:
            raise TercelError(f"--set {setting!r} is not key=value", "for example --set train.epochs=50")
        config = _set(config, key.strip().split("."), text.strip(), key.strip())
    return config


def _set(config: Any, path: list[str], text: str, key: str) -> Any:
    hints = typing.get_type_hints(type(config))
    name, *rest = path
    if name not in hints:
        prefix = key[: len(key) - len(".".join(path))]
        raise _unknown(key, [prefix + k for k in _keys(config)], "")
    old = getattr(config, name)
    if rest:
        if not dataclasses.is_dataclass(old):
            raise TercelError(f"{key!r}: {name!r} is a value and has no fields")
        return dataclasses.replace(config, **{name: _set(old, rest, text, key)})
    value = _convert(_parse(text), hints[name], key)
    _check_range(value, next(f.metadata for f in dataclasses.fields(config) if f.name == name), key)
    return dataclasses.replace(config, **{name: value})


def _keys(config: Any) -> list[str]:
    return sorted(set(flat(config)) | {f.name for f in dataclasses.fields(config)})


def _unknown(key: str, known: list[str], where: str) -> TercelError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return TercelError(f"unknown key {where + key!r}", f"did you mean {near[0]!r}?" if near else "")


def _parse(text: str) -> Any:
    """JSON where it is JSON (numbers, true, [8,16]), 8,16 and 8x16 as lists, else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    lowered = text.lower()
    if lowered in {"true", "yes", "on"}:
        return True
    if lowered in {"false", "no", "off"}:
        return False
    for separator in (",", "x"):
        parts = text.split(separator)
        if len(parts) > 1:
            try:
                return [json.loads(p) for p in parts]
            except json.JSONDecodeError:
                continue
    return text


def _convert(value: Any, hint: Any, key: str) -> Any:  # noqa: PLR0911, PLR0912 - one branch per type
    """`value` as the type `hint`, or an error that says what was expected."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in args:
            near = difflib.get_close_matches(str(value), [str(a) for a in args], n=1, cutoff=0.0)
            raise TercelError(
                f"{key} = {value!r} is not one of {', '.join(map(str, args))}", f"did you mean {near[0]}?"
            )
        return value
    if isinstance(hint, types.UnionType) or dataclasses.is_dataclass(hint):
        kinds = {k.__name__: k for k in (args or (hint,))}
        if type(value) in kinds.values():
            return value
        if isinstance(value, str) and value in kinds:
            return kinds[value]()
        if isinstance(value, Mapping) and value.get("kind", next(iter(kinds))) in kinds:
            return load(kinds[value.get("kind", next(iter(kinds)))], value, key + ".")
        raise TercelError(
            f"{key} = {value!r} is not one of {', '.join(kinds)}", f"use {key}=<kind> or {key}.<field>=<value>"
        )
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TercelError(f"{key} = {value!r} is not a list", f"for example {key}=[8,16,32]")
        item = args[0]
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise TercelError(f"{key} = {value!r} needs {len(args)} values")
        return tuple(_convert(v, item, key) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and not isinstance(value, str) and not isinstance(value, list | dict | bool) and value is not None:
        return str(value)
    if isinstance(value, hint) and not (hint is not bool and isinstance(value, bool)):
        if hint is float and math.isnan(value):
            raise TercelError(f"{key} is not a number", "give it one")
        return value
    raise TercelError(f"{key} = {value!r} is not {hint.__name__}", f"give {key} a value of type {hint.__name__}")


# -- data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Data(_Checked):
    """How pictures reach the network."""

    size: tuple[int, int] = nums((320, 320), 8, 16_384)  # network input (height, width) in px
    fill: int = num(114, 0, 255)  # grey of the letterbox border
    workers: int = num(2, 0, 64)  # loader threads; 0 = load in the training thread
    cache_gb: float = num(4.0, 0, 4096)  # RAM for decoded pictures; what does not fit is cached on disk
    cache_dir: str = ""  # disk cache of decoded pictures; empty = <user cache>/tercel
    min_visible: float = num(0.2, 0, 1)  # truth of which less stays in view after augmentation leaves


@dataclass(frozen=True, kw_only=True)
class Augment(_Checked):
    """Random changes of training pictures. All geometry folds into one warp per source picture."""

    mosaic: float = num(0.5, 0, 1)  # probability of four pictures on one canvas
    scale: float = num(0.5, 0, 0.95)  # zoom factor drawn log-uniformly from 1-s .. 1/(1-s)
    shift: float = num(0.1, 0, 0.5)  # shift as a share of the canvas
    rotate: float = num(0.0, 0, 180)  # degrees, both ways
    shear: float = num(0.0, 0, 45)  # degrees, both ways
    flip: float = num(0.5, 0, 1)  # probability of a left-right mirror
    flip_vertical: float = num(0.0, 0, 1)  # probability of an upside-down mirror
    hue: float = num(0.015, 0, 0.5)  # share of the colour circle, both ways
    saturation: float = num(0.5, 0, 1)  # factor 1-s .. 1+s
    brightness: float = num(0.4, 0, 1)  # factor 1-b .. 1+b
    blur: float = num(0.0, 0, 1)  # probability of a light Gaussian blur
    noise: float = num(0.0, 0, 64)  # standard deviation of pixel noise in grey levels, drawn from 0..n
    close_epochs: int = num(0, 0, 1_000_000)  # the last epochs run without mosaic


# -- model ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SmallNet(_Checked):
    """Our small backbone: patch stem, dense 3x3 residual blocks, quick in bf16 on CPUs (docs/decisions)."""

    stem: int = num(32, 8, 512)
    widths: tuple[int, ...] = nums((32, 64, 128, 256), 1, 8192)  # at strides 4, 8, 16, 32
    depths: tuple[int, ...] = nums((1, 2, 2, 1), 0, 64)


@dataclass(frozen=True, kw_only=True)
class TimmNet(_Checked):
    """Any timm backbone that has features_only; `weights` fetches pretrained ones."""

    model: str = "resnet18"
    weights: bool = False
    frozen_statistics: bool = False  # batch norm keeps its statistics (small batches, several devices)


@dataclass(frozen=True, kw_only=True)
class Fpn(_Checked):
    """Feature pyramid, top-down only (Lin et al. 2017)."""

    width: int = num(96, 8, 1024)


@dataclass(frozen=True, kw_only=True)
class Pan(_Checked):
    """Feature pyramid with a second, bottom-up path (Liu et al. 2018)."""

    width: int = num(96, 8, 1024)
    depth: int = num(1, 1, 8)


@dataclass(frozen=True, kw_only=True)
class TaskAligned(_Checked):
    """Task-aligned assignment (TOOD, Feng et al. 2021): the top k priors by score^alpha * IoU^beta."""

    topk: int = num(10, 1, 100)
    alpha: float = num(0.5, 0, 10)
    beta: float = num(6.0, 0, 10)


@dataclass(frozen=True, kw_only=True)
class SimOta(_Checked):
    """SimOTA (YOLOX, Ge et al. 2021): cost = class loss + weight * IoU loss; k from the sum of the best IoUs."""

    candidates: int = num(10, 1, 100)
    radius: float = num(2.5, 0.5, 10)  # centre region in strides
    iou_weight: float = num(3.0, 0, 100)


@dataclass(frozen=True, kw_only=True)
class BoxHead(_Checked):
    """Anchor-free dense boxes: class scores and the distances to the four sides as distributions over bins."""

    width: int = num(64, 8, 1024)
    depth: int = num(2, 0, 8)
    bins: int = num(16, 2, 64)  # distance bins, in strides; the first one is at -1
    assigner: TaskAligned | SimOta = TaskAligned()
    class_loss: Literal["bce", "focal", "quality", "varifocal"] = "bce"
    box_loss: Literal["iou", "giou", "diou", "ciou", "smooth_l1"] = "ciou"
    class_gain: float = num(0.5, 0, 1000)
    box_gain: float = num(7.5, 0, 1000)
    dfl_gain: float = num(1.5, 0, 1000)
    prior: float = num(0.01, 1e-6, 0.5)  # class probability at the start


@dataclass(frozen=True, kw_only=True)
class Model(_Checked):
    """Backbone, neck, head."""

    backbone: SmallNet | TimmNet = SmallNet()
    neck: Fpn | Pan = Pan()
    head: BoxHead = BoxHead()
    strides: tuple[int, ...] = nums((8, 16, 32), 1, 128, rising=True)
    norm: Literal["batch", "group"] = "batch"
    mean: tuple[float, float, float] = nums(
        (123.675, 116.28, 103.53), -1000, 1000
    )  # RGB, subtracted inside the network
    std: tuple[float, float, float] = nums((58.395, 57.12, 57.375), 1e-3, 1000)


# -- training, evaluation ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Train(_Checked):
    """The loop."""

    epochs: int = num(50, 1, 100_000)
    samples: int = num(0, 0, 1_000_000_000)  # samples in an epoch (virtual epoch); 0 = the data set once
    batch: int = num(16, 1, 65_536)  # per step and device
    accumulate: int = num(1, 1, 1024)  # steps whose gradients are summed into one update
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = num(2e-3, 0, 10)
    weight_decay: float = num(0.02, 0, 1)  # on weights of convolutions and linear layers only
    momentum: float = num(0.9, 0, 0.9999)
    warmup: float = num(0.03, 0, 0.9)  # share of all updates
    final_lr: float = num(0.01, 0, 1)  # of lr, at the end of the cosine
    clip: float = num(10.0, 0, 1e9)  # gradient norm; 0 = off
    ema: float = num(0.998, 0, 0.99999)  # decay of the averaged weights; 0 = off
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = num(0, 0, 1024)  # CPU threads of the network; 0 = all cores
    seed: int = num(0, 0, 2**31)
    evaluate_every: int = num(5, 1, 100_000)  # epochs
    checkpoint_minutes: float = num(5.0, 0, 10_000)  # a checkpoint at least this often; 0 = only at evaluations
    sample_pictures: int = num(4, 0, 64)  # fixed pictures drawn at each evaluation


@dataclass(frozen=True, kw_only=True)
class Evaluate(_Checked):
    """Decoding and judging."""

    batch: int = num(16, 1, 4096)
    score_floor: float = num(0.001, 0, 1)  # detections below are not kept for the curves
    suppress_iou: float = num(0.65, 0, 1)
    class_agnostic: bool = False  # suppress across classes
    max_detections: int = num(300, 1, 1_000_000)  # per picture; a picture that reaches it is reported
    max_candidates: int = num(3000, 1, 10_000_000)  # per picture, before suppression
    show_score: float = num(0.3, 0, 1)  # detections drawn on pictures
    select: Literal["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "F1"] = (
        "AP"  # the score whose highest value in the log names best
    )
    resamples: int = num(200, 0, 100_000)  # bootstrap over pictures for the intervals; 0 = no intervals


@dataclass(frozen=True, kw_only=True)
class Recipe(_Checked):
    """Everything that decides a run, apart from the data."""

    name: str
    task: Literal["boxes", "oriented", "keypoints", "crowd", "ball"] = "boxes"
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
