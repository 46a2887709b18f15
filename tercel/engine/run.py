"""The run folder: what a run leaves behind, who may write it, and what it says of itself."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import math
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tercel import __version__
from tercel.config import Recipe, dump, flat, load
from tercel.core.files import read_json, write_atomic, write_json
from tercel.core.finding import TercelError
from tercel.core.schema import Schema

PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "hotcoco", "pillow", "safetensors")


class Run:
    """A run folder.

    run.json (recipe, data, machine, status), log.jsonl (one line per logged step and evaluation),
    checkpoints/{last,best}.safetensors, samples/, preds.jsonl, metrics.json, report.html, card.md.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info_path, self.log_path = path / "run.json", path / "log.jsonl"
        self.preds_path, self.metrics_path = path / "preds.jsonl", path / "metrics.json"
        self._info: dict[str, Any] | None = None

    @staticmethod
    def create(out: Path, recipe: Recipe, name: str = "") -> Run:
        """A new folder under `out`; its name is `name`, or recipe, date and time.

        Raises:
            TercelError: the folder exists and is not empty; nothing is overwritten.
        """
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", recipe.name)
        path = out / (name or f"{safe}-{stamp}")
        number = 1
        while not name and path.exists():  # two runs within a second
            number += 1
            path = out / f"{safe}-{stamp}-{number}"
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise TercelError(
                f"{path} exists already and nothing in it will be overwritten",
                f"choose another --name, or continue it with `tercel resume {path}`",
            )
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise TercelError(f"cannot create {path}: {e.strerror}", "choose another --out") from e
        return Run(path)

    @staticmethod
    def open(path: Path) -> Run:
        """An existing run folder.

        Raises:
            TercelError: no run.json there; the nearest folders that have one are named.
        """
        run = Run(path)
        if not run.info_path.is_file():
            near = sorted(str(p.parent) for p in path.glob("*/run.json")) if path.is_dir() else []
            near = near or sorted(str(p.parent) for p in path.parent.glob("*/run.json"))
            remedy = f"runs nearby: {', '.join(near[-3:])}" if near else "`tercel runs` lists the runs there are"
            raise TercelError(f"{path} is not a run: it has no run.json", remedy)
        return run

    # -- run.json -----------------------------------------------------------------------------------------------------

    @property
    def info(self) -> dict[str, Any]:
        if self._info is None:
            self._info = dict(read_json(self.info_path))
        return self._info

    def write_info(self, **changes: Any) -> None:
        """Merge `changes` into run.json."""
        known = self.info if self.info_path.exists() else {}
        self._info = {**known, **changes}
        write_json(self.info_path, self._info)

    @property
    def recipe(self) -> Recipe:
        return load(Recipe, self.info["recipe"])

    @property
    def schema(self) -> Schema:
        return Schema.from_json(self.info["schema"])

    # -- log.jsonl ----------------------------------------------------------------------------------------------------

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line; a value that is not finite becomes null, for JSON has none."""
        with open(self.log_path, "a", encoding="utf-8") as f:
            f.write(json.dumps(_finite(line), ensure_ascii=False) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """All lines; a last line that a crash cut short is left out."""
        if not self.log_path.exists():
            return []
        lines = self.log_path.read_text(encoding="utf-8").split("\n")
        out = []
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                out.append(json.loads(line))
            except json.JSONDecodeError as e:
                if number >= len(lines) - 1:
                    break
                raise TercelError(f"{self.log_path}:{number}: not JSON: {e.msg}") from e
        return out

    def truncate_log(self, step: int) -> int:
        """Drop lines after update `step` (they will be written again); returns how many."""
        lines = self.read_log()
        kept = [x for x in lines if x["step"] <= step]
        write_atomic(self.log_path, "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in kept))
        return len(lines) - len(kept)

    # -- one writer ---------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            TercelError: another process holds it.
        """
        with open(self.path / ".lock", "a+", encoding="utf-8") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                f.seek(0)
                owner = f.read().strip() or "unknown"
                raise TercelError(
                    f"{self.path} is in use by process {owner}", "wait for it, or end that process first"
                ) from e
            f.truncate(0)
            f.write(str(os.getpid()))
            f.flush()
            yield


def provenance() -> dict[str, Any]:
    """Versions, git state of the working folder, start time."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "tercel": __version__,
        "packages": packages,
        "git": git_state(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_state() -> dict[str, Any] | None:
    """Commit and whether files differ from it; None outside a repository or without git."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def config_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON."""
    return dict(dump(recipe))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def list_runs(out: Path) -> list[dict[str, Any]]:
    """One row per run under `out`, oldest first: name, status, data, scores, and the settings in which runs differ.

    Raises:
        TercelError: `out` is missing or holds no run.
    """
    paths = sorted(p.parent for p in out.glob("*/run.json")) if out.is_dir() else []
    if not paths:
        raise TercelError(f"there are no runs in {out}", "train one, or name the folder that holds them")
    rows, settings = [], []
    for path in paths:
        run = Run(path)
        info = run.info
        metrics = read_json(run.metrics_path) if run.metrics_path.exists() else {"scores": []}
        scores = {s["name"]: s for s in metrics["scores"] if not s["where"] and s["name"] in ("AP", "AP50", "AP75")}
        settings.append(flat(run.recipe))
        rows.append(
            {
                "run": str(path), "recipe": info["recipe"]["name"], "status": info["status"],
                "started": info["started"], "seconds": info["seconds"], "train": info["train"]["source"],
                "val": info["val"]["source"], "fingerprint": info["train"]["fingerprint"][:8],
                "val_fingerprint": info["val"]["fingerprint"][:8], "scores": scores,
            }
        )  # fmt: skip
    for row, mine in zip(rows, settings, strict=True):
        row["differs"] = {k: v for k, v in mine.items() if any(other.get(k) != v for other in settings)}
    return rows
