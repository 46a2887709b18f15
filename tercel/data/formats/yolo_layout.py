"""Where a YOLO source keeps its pictures and labels: a data.yaml, or folders images/ and labels/; read and written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tercel.core.finding import TercelError
from tercel.data.formats import common
from tercel.data.images import is_picture

LOOKS_LIKE = "a data.yaml with names and train/val/test, or a folder with images/ and labels/"

SPLITS = ("train", "val", "valid", "test")
_NO_SPLITS = {
    *("path", "names", "nc", "download", "yaml_file"),
    *("kpt_shape", "flip_idx", "kpt_names", "keypoints", "flip_pairs", "edges", "sigmas"),
}
_MARK = "# written by tercel; further splits are added here\n"


@dataclass(frozen=True)
class Layout:
    """Where a source keeps what. `splits`: name -> folders, picture lists or pictures, as written: one that is broken
    must not keep the others from being read."""

    root: Path
    splits: dict[str, list[str]]
    names: tuple[str, ...] | None = None
    config: Path | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def entries(self, split: str | None) -> list[Path]:
        """What a split (None: all together) consists of."""
        keys = self.splits if split is None else [split]
        found = [_entry(self.root, e, f"{self.config or self.root} ({k})") for k in keys for e in self.splits[k]]
        return list(dict.fromkeys(found))


def is_config(path: Path) -> bool:
    with open(path, "rb") as f:
        head = b"\n" + f.read(65536)
    return b"\nnames:" in head and (_MARK.encode() in head or any(f"\n{s}:".encode() in head for s in SPLITS))


def find_config(folder: Path) -> Path | None:
    found = [p for p in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]) if p.is_file() and is_config(p)]
    named = [p for p in found if p.stem == "data"]
    return named[0] if named else found[0] if len(found) == 1 else None


def plain_folders(path: Path, beside: bool) -> dict[str, list[str]]:
    """Picture folders of a source without data.yaml, by split; "" for pictures outside of any split's folder."""
    if (path / "images").is_dir() and (path / "labels").is_dir():
        below = sorted(p for p in (path / "images").iterdir() if p.is_dir() and not is_picture(p))
        loose = any(is_picture(p) for p in (path / "images").iterdir())
        return ({"": ["images"]} if loose or not below else {}) | {p.name: [f"images/{p.name}"] for p in below}
    if not path.is_dir():
        return {}
    good = [p for p in sorted(path.iterdir()) if (p / "images").is_dir() and (p / "labels").is_dir()]
    if good or not beside:
        return {p.name: [f"{p.name}/images"] for p in good}
    if _labelled(path):
        return {"": ["."]}
    return {p.name: [p.name] for p in sorted(path.iterdir()) if p.is_dir() and _labelled(p)}


def _labelled(folder: Path) -> bool:
    """True for a folder that holds both pictures and text files."""
    names = os.listdir(folder)
    return any(n.endswith(".txt") and n != "classes.txt" for n in names) and any(map(is_picture, names))


def layout_of(path: Path, beside: bool) -> Layout:
    config = path if path.is_file() else find_config(path)
    if config is not None:
        return _configured(config)
    folders = plain_folders(path, beside)
    if not folders:
        raise TercelError(f"{path} is no YOLO source", f"looked for {LOOKS_LIKE}")
    listed = next((p for p in (path / "classes.txt", path / "labels" / "classes.txt") if p.is_file()), None)
    names = common.read_classes(listed) if listed else None
    return Layout(path, folders, names, listed)


def _configured(config: Path) -> Layout:
    import yaml

    try:
        data = yaml.safe_load(common.read_text(config))
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        problem = getattr(e, "problem", None) or "it cannot be read"
        raise TercelError(f"{config}:{mark.line + 1 if mark else 1}: not YAML: {problem}", "correct the line") from e
    if not isinstance(data, dict):
        raise TercelError(f"{config}: not a mapping of names and splits", f"looked for {LOOKS_LIKE}")
    root = _root(config, data)
    found: dict[str, list[str]] = {}
    others = [k for k, v in data.items() if k not in _NO_SPLITS and isinstance(v, str) and (root / v).exists()]
    for key in dict.fromkeys([*SPLITS, *others]):
        value = data.get(key)
        if value is not None and value != "":
            entries = value if isinstance(value, list) else [value]
            if not all(isinstance(e, str) for e in entries):
                hint = f"for example {key}: images/{key}"
                raise TercelError(f"{config} ({key}): not a path or a list of paths", hint)
            found[key] = entries
    return Layout(root, found, _names(config, data), config, data)


def _root(config: Path, data: dict[str, Any]) -> Path:
    """The folder that `path` names when that lies below the data.yaml, else the data.yaml's own."""
    given = data.get("path")
    if not given:
        return config.parent
    if not isinstance(given, str):
        raise TercelError(f"{config} (path): not a path", "for example path: .")
    try:
        root = common.inside(config.parent, given, str(config))
    except TercelError:
        # Downloaded files often carry the path of the machine they were made on. We never follow it outside.
        if any(isinstance(data.get(s), str) and (config.parent / data[s]).exists() for s in SPLITS):
            return config.parent
        raise
    return root if root.is_dir() else config.parent


def _entry(root: Path, text: str, where: str) -> Path:
    """A split's folder, list or picture. `../train/images` for what lies beside data.yaml is common."""
    stripped = text.strip().replace("\\", "/")
    if stripped.startswith("../") and (root / stripped[3:]).exists():
        stripped = stripped[3:]
    path = common.inside(root, stripped, where)
    if not path.exists():
        raise TercelError(f"{where}: {path} does not exist", "correct the path, or name a split that is there")
    return path


def _names(config: Path, data: dict[str, Any]) -> tuple[str, ...] | None:
    names, nc = data.get("names"), data.get("nc")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise TercelError(f"{config}: the ids of names are not 0..{len(names) - 1}", "number the names from 0")
        names = [names[i] for i in range(len(names))]
    if names is None and isinstance(nc, int):
        names = list(range(nc))
    if not isinstance(names, list) or not all(isinstance(n, str | int | float) for n in names):
        raise TercelError(f"{config}: names is no list or table of class names", "for example names: [ball, racket]")
    if nc is not None and nc != len(names):
        raise TercelError(f"{config}: nc is {nc} but there are {len(names)} names", "correct one of them")
    texts = tuple(str(n) for n in names)
    for n in texts:
        if not n.strip() or texts.count(n) > 1:
            what = f"the class name {n!r} occurs twice" if n.strip() else "a class name is empty"
            raise TercelError(f"{config}: {what}", "give every class its own name")
    return texts


def config_text(config: Path, split: str, classes: tuple[str, ...], more: Mapping[str, Any]) -> str:
    import yaml

    if split in _NO_SPLITS:
        raise TercelError(f"a data.yaml cannot have a split {split!r}", f"write it as one of {', '.join(SPLITS)}")
    data: dict[str, Any] = {"path": "."}
    if config.exists():
        text = common.read_text(config)
        if not text.startswith(_MARK):
            raise TercelError(f"{config} exists already and is not ours", "write into a new folder")
        data = yaml.safe_load(text)
        if split in data:
            raise TercelError(f"{config} has a split {split!r} already", "write into a new folder or under a new split")
        if tuple(data["names"].values()) != classes:
            raise TercelError(f"{config} lists other classes than the data being written", "write into a new folder")
        if any(data.get(k) != v for k, v in more.items()):
            raise TercelError(f"{config} has another skeleton than the data being written", "write into a new folder")
    data[split] = f"images/{split}"
    data["names"] = data.pop("names", dict(enumerate(classes)))
    data |= more
    return _MARK + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
