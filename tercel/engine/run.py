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
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tercel import __version__
from tercel.config import Recipe, flat, load
from tercel.core.files import read_json, write_atomic, write_json
from tercel.core.finding import Ledger, Score, Severity, TercelError, headline
from tercel.core.schema import Schema

PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "hotcoco", "pillow", "safetensors")


class DamagedError(TercelError, KeyError):
    """run.json lacks a key; also a KeyError, so that whoever has a default for it can use that."""


class _Table(dict[str, Any]):
    """What run.json holds; a key that is missing is an error with a place, not a bug."""

    def __init__(self, path: Path, values: Any, name: str = "") -> None:
        if not isinstance(values, dict):
            raise TercelError(f"{path} is damaged: {name or 'it'} is no JSON object", _DAMAGED)
        super().__init__(values)
        self.path, self.name = path, name
        for key in () if name else ("recipe", "schema", "train", "val"):
            if key in values:
                self[key] = _Table(path, values[key], key)

    def __missing__(self, key: str) -> Any:
        raise DamagedError(f"{self.path} is damaged: {self.name or 'it'} has no {key!r}", _DAMAGED)


_DAMAGED = "restore it from a copy; the checkpoints beside it carry their own recipe, so `tercel predict` still works"


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
            TercelError: as `check`, or a folder that cannot be made.
        """
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", recipe.name)
        path = out / (name or f"{safe}-{stamp}")
        number = 1
        while not name and path.exists():  # two runs within a second
            number += 1
            path = out / f"{safe}-{stamp}-{number}"
        Run.check(out, path.name)
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise TercelError(f"cannot create {path}: {e.strerror}", "choose another --out") from e
        return Run(path)

    @staticmethod
    def check(out: Path, name: str) -> None:
        """
        Raises:
            TercelError: a name that is no folder name; a folder that exists and is not empty: nothing is overwritten.
        """
        if name in {"", ".", ".."} or "/" in name or not name.isprintable() or len(name.encode()) > 200:
            hint = "give a short name without slashes; --out says where it lies"
            raise TercelError(f"{name[:200]!r} cannot name a run's folder", hint)
        path = out / name
        try:
            taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        except OSError as e:
            raise TercelError(f"cannot look into {path}: {e.strerror}", "choose another --out") from e
        if taken:
            more = f", or continue it with `tercel resume {path}`" if (path / "run.json").is_file() else ""
            raise TercelError(
                f"{path} exists already and nothing in it will be overwritten", f"choose another --name{more}"
            )

    def discard(self) -> None:
        """Remove the folder again, if it holds nothing but what `create`, `writing` and `write_info` put there."""
        with suppress(OSError):
            (self.path / "checkpoints").rmdir()
            if {p.name for p in self.path.iterdir()} <= {"run.json", ".lock"}:
                self.info_path.unlink(missing_ok=True)
                (self.path / ".lock").unlink(missing_ok=True)
                self.path.rmdir()

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
            try:
                self._info = _Table(self.info_path, read_json(self.info_path))
            except TercelError as e:
                raise TercelError(e.message, _DAMAGED) from e
        return self._info

    def write_info(self, **changes: Any) -> None:
        """Merge `changes` into run.json."""
        known = self.info if self.info_path.exists() else {}
        self._info = {**known, **changes}
        write_json(self.info_path, self._info)

    @property
    def recipe(self) -> Recipe:
        try:
            return load(Recipe, self.info["recipe"])
        except TypeError as e:  # a field without default is missing
            raise TercelError(f"{self.info_path} is damaged: {e}", _DAMAGED) from e
        except TercelError as e:
            raise TercelError(f"{self.info_path} (recipe): {e.message}", e.remedy) from e

    @property
    def schema(self) -> Schema:
        return Schema.from_json(self.info["schema"])

    # -- log.jsonl ----------------------------------------------------------------------------------------------------

    def log(self, line: Mapping[str, Any]) -> None:
        """Append one line; a value that is not finite becomes null, for JSON has none."""
        try:
            with open(self.log_path, "a", encoding="utf-8") as f:
                f.write(json.dumps(_finite(line), ensure_ascii=False) + "\n")
        except OSError as e:
            raise TercelError(
                f"cannot write {self.log_path}: {e.strerror or e}", f"free some space, then `tercel resume {self.path}`"
            ) from e

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
                raise TercelError(
                    f"{self.log_path}:{number}: not JSON: {e.msg}", "remove the broken line, or the whole file"
                ) from e
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
        try:
            lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as e:
            raise TercelError(f"cannot write into {self.path}: {e.strerror or e}", "check its permissions") from e
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                owner = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
                raise TercelError(
                    f"{self.path} is in use by process {owner}", "wait for it, or end that process first"
                ) from e
            with suppress(OSError):  # the number only serves the message above; the lock holds on a full disk too
                os.ftruncate(lock, 0)
                os.write(lock, str(os.getpid()).encode())
            yield
        finally:
            os.close(lock)


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


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def list_runs(out: Path, ledger: Ledger | None = None) -> list[dict[str, Any]]:
    """One row per run under `out`, oldest first: name, status, data, scores, and the settings in which runs differ.

    Args:
        ledger: receives the runs that cannot be read; without one, the first of them is an error.

    Raises:
        TercelError: `out` is missing or holds no run.
    """
    paths = sorted(p.parent for p in out.glob("*/run.json")) if out.is_dir() else []
    if not paths:
        raise TercelError(f"there are no runs in {out}", "train one, or name the folder that holds them")
    rows, settings = [], []
    for path in paths:
        try:
            row, recipe = _row(Run(path))
        except TercelError as e:
            if ledger is None:
                raise
            ledger.add("runs.damaged", Severity.ERROR, "runs that cannot be read were left out", e.message)
            continue
        rows.append(row)
        settings.append(flat(recipe))
    for row, mine in zip(rows, settings, strict=True):
        row["differs"] = {k: v for k, v in mine.items() if any(other.get(k) != v for other in settings)}
    return rows


def _row(run: Run) -> tuple[dict[str, Any], Recipe]:
    info = run.info
    metrics = read_json(run.metrics_path) if run.metrics_path.exists() else {}
    try:
        found = headline(Score.from_json(s) for s in metrics.get("scores", ()))
        scores = {name: s.to_json() for name, s in found.items()}
    except (AttributeError, KeyError, TypeError) as e:
        raise TercelError(f"{run.metrics_path} is damaged: it holds no scores", "evaluate the run again") from e
    row = {
        "run": str(run.path), "recipe": info["recipe"]["name"], "status": info["status"],
        "started": info["started"], "seconds": info["seconds"], "train": info["train"]["source"],
        "val": info["val"]["source"], "fingerprint": info["train"]["fingerprint"][:8],
        "val_fingerprint": info["val"]["fingerprint"][:8], "scores": scores,
    }  # fmt: skip
    return row, run.recipe
