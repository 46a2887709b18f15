"""How configuration works: checked dataclasses, `--set key=value`, JSON there and back. Standard library only.

The fields themselves are in tercel/config.py. Unknown keys, wrong types and values out of range are refused.
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
from dataclasses import field
from typing import Any, Literal, TypeVar

from tercel.core.finding import TercelError

T = TypeVar("T")


def num(default: float, low: float, high: float) -> Any:
    """A number field with its legal range, both ends included."""
    return field(default=default, metadata={"low": low, "high": high})


def nums(default: tuple[Any, ...], low: float, high: float, rising: bool = False) -> Any:
    """A list of numbers, not empty, with the legal range of each; `rising`: each larger than the one before."""
    return field(default=default, metadata={"low": low, "high": high, "rising": rising})


class Checked:
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
            raise TercelError(f"{key!r}: {name!r} is a value and has no fields", f"set {name} itself")
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
            raise TercelError(f"{key} = {value!r} needs {len(args)} values", f"give it {len(args)}, as 1,2,...")
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
