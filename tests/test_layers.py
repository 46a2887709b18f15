"""The layers of tercel: arrows never turn round, and judging files starts without torch. Reads the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "tercel"

# What each layer may import from tercel besides itself. `config` holds values only and may be read by all.
ALLOWED = {
    "core": set(),
    "config": {"core"},
    "data": {"core", "config"},
    "models": {"core", "config"},
    "metrics": {"core", "config"},
    "engine": {"core", "config", "data", "models", "metrics"},
    "doctor": {"core", "config", "data", "models", "metrics", "engine"},
    "report": {"core", "config", "data", "models", "metrics", "engine"},
    "recipes": {"core", "config", "data", "models", "metrics", "engine", "doctor", "report"},
    "cli": {"core", "config", "data", "models", "metrics", "engine", "doctor", "report", "recipes"},
}
HEAVY = {"torch", "torchvision", "timm", "matplotlib", "numba", "scipy", "h5py"}  # not at module level in light layers
COMPILED = "core/rotated_kernels"  # needs numba; imported inside functions only
LIGHT = (
    "core",
    "config",
    "metrics",
    "report",
    "data/formats",
    "data/source",
    "data/images",
    "data/splits",
    "data/prediction",  # predictions, and the readers behind it
    "data/events",
    "data/tracks",
    "data/clips",
    "data/video",
    "data/tiles",
    "data/vehicles",
    "data/turtle",  # turtles and their sprites
    "data/crowd",  # crowds and their sprites
    "data/stored",
    "cli",
    "terminal",
    "score",
    "lab",
)


def imports(tree: ast.AST, package: str) -> Iterator[tuple[str, bool]]:
    """(absolute module, whether it is imported when the file is) of every import; those for type checkers left out."""

    def walk(node: ast.AST, outer: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((a.name, outer) for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
                module = ".".join([*base, *([child.module] if child.module else [])])
                yield module, outer
                yield from ((f"{module}.{a.name}", outer) for a in child.names)
            inner = outer and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, inner)

    yield from walk(tree, True)


def layer(module: str) -> str | None:
    """The layer of a module; the modules beside cli.py (api, demo...) are of its layer, the topmost."""
    parts = module.split(".")
    if parts[0] != "tercel" or len(parts) == 1 or parts[1].startswith("__"):
        return None
    return parts[1] if parts[1] in ALLOWED or not (ROOT / f"{parts[1]}.py").is_file() else "cli"


def violations(path: Path, source: str) -> list[str]:
    name = "tercel." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    own = layer(name)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = []
    for module, at_start in imports(ast.parse(source), package.removesuffix(".__init__")):
        other = layer(module)
        if own in ALLOWED and other in ALLOWED and other != own and other not in ALLOWED[own]:
            found.append(f"{name} imports {module}")
        place = path.relative_to(ROOT).with_suffix("").as_posix()
        light = place.startswith(LIGHT) and place != COMPILED
        if light and at_start and (module.split(".")[0] in HEAVY or module.endswith(COMPILED.replace("/", "."))):
            found.append(f"{name} imports {module} at start-up")
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_never_turn_round(path: Path) -> None:
    assert violations(path, path.read_text()) == []


def test_every_folder_is_a_layer() -> None:
    assert {p.relative_to(ROOT).parts[0] for p in FILES if p.parent != ROOT} <= set(ALLOWED)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("metrics/ap.py", "from tercel.data.source import read"),
        ("metrics/ap.py", "def f():\n    import tercel.models.heads"),
        ("models/x.py", "from tercel import data"),
        ("models/x.py", "from ..data import source"),
        ("core/x.py", "from tercel.config import Recipe"),
        ("engine/fit.py", "from tercel.recipes import boxes"),
        ("recipes/x.py", "from tercel import cli"),
        ("core/x.py", "import torch"),
        ("core/rotated.py", "from tercel.core import rotated_kernels"),
        ("metrics/x.py", "from scipy.optimize import linear_sum_assignment"),
        ("data/prediction_texts.py", "import numba"),
        ("lab.py", "import torch"),
        ("data/formats/x.py", "class A:\n    from torch import nn"),
        ("metrics/x.py", "try:\n    import matplotlib.pyplot as plt\nexcept ImportError:\n    pass"),
    ],
)
def test_a_planted_violation_is_found(file: str, source: str) -> None:
    assert violations(ROOT / file, source)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("metrics/ap.py", "from tercel.core.objects import Objects\nimport numpy"),
        ("metrics/x.py", "def f():\n    import matplotlib"),
        ("core/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("data/loader.py", "import torch"),
        ("core/rotated_kernels.py", "from numba import njit"),
        ("core/rotated.py", "def f():\n    from tercel.core import rotated_kernels"),
        ("engine/x.py", "from tercel.models.detector import Detector"),
    ],
)
def test_what_is_allowed_passes(file: str, source: str) -> None:
    assert violations(ROOT / file, source) == []


def test_judging_files_starts_without_torch() -> None:
    """In a process of its own: what other imports drag in counts too."""
    light = ["tercel", "tercel.config", "tercel.report", "tercel.data.source", "tercel.data.predictions"]
    light += ["tercel.data.images", "tercel.data.splits", "tercel.data.tiles", "tercel.data.vehicles"]
    light += ["tercel.cli", "tercel.score", "tercel.lab", "tercel.report.lab_tables", "tercel.report.error_tables"]
    light += [f"tercel.{p.parent.name}.{p.stem}" for p in FILES if p.parent.name in {"core", "metrics", "formats"}]
    names = [n.replace("tercel.formats", "tercel.data.formats").removesuffix(".__init__") for n in light]
    names.remove("tercel." + COMPILED.replace("/", "."))
    code = f"import importlib, sys\nfor m in {names!r}: importlib.import_module(m)\n"
    code += f"print(*({HEAVY!r} & sys.modules.keys()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == []
