"""The error tables on the terminal hold the numbers of the analyses, and fit."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import pytest
from rich.console import Console

from tercel.core.objects import Objects
from tercel.metrics.anatomy import Anatomy, dissect
from tercel.report import error_plots
from tercel.report.error_tables import print_errors

_spec = importlib.util.spec_from_file_location(
    "anatomy_scenes", Path(__file__).parents[1] / "metrics" / "test_anatomy.py"
)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
CLASSES, SIZE = _module.CLASSES, _module.SIZE


@pytest.fixture(scope="module")
def found() -> Anatomy:
    return dissect(*_module.scenes(), CLASSES, resamples=20)  # type: ignore[no-any-return]


def printed(found: Anatomy, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_errors(console, found.to_json())
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def row(text: str, *cells: str) -> bool:
    return any(line.split()[: len(cells)] == list(cells) for line in text.splitlines())


def test_the_numbers_are_those_of_the_analyses(found: Anatomy) -> None:
    text = printed(found)
    assert "errors of oriented boxes" in text
    for r in found.tide.table:
        assert row(text, r["error"], str(r["count"]), f"{r['dAP']:.3f}")
    for r in found.lrp.table:
        assert row(text, r["class"], f"{r['oLRP']:.3f}", f"{r['oLRP_Loc']:.3f}", f"{r['oLRP_FP']:.3f}")
        assert f"{r['threshold']:.3f}" in text
    for r in found.placement.fixed:
        assert row(text, r["fixed"], f"{r['AP']:.3f}", f"{r['AP50']:.3f}", f"{r['AP75']:.3f}", f"{r['dAP']:.3f}")
    angle = next(r for r in found.placement.table if r["quantity"] == "angle_deg" and r["class"] is None)
    assert row(text, "angle_deg", str(angle["n"]), f"{angle['bias']:.1f}")
    assert row(text, "OC_cost", f"{found.occost['OC_cost']:.3f}")
    assert f"score {found.threshold:.2f} and above" in text


def test_it_fits_a_narrow_terminal(found: Anatomy) -> None:
    assert max(map(len, printed(found, 80).splitlines())) <= 80


def test_what_is_undefined_is_a_dash_and_what_is_not_known_is_left_out(found: Anatomy) -> None:
    assert "heading" not in printed(found)  # nobody knows the fronts
    truth, _ = _module.scenes()
    nothing = dissect(truth, [Objects.empty(SIZE)] * len(truth), CLASSES, resamples=0)
    text = printed(nothing)
    assert row(text, "mean", "1.000", "–", "–", "1.000")
    assert "nan" not in text.lower()


def test_plots_of_nothing_are_no_plots() -> None:
    truth, _ = _module.scenes()
    errors = dissect(truth, [Objects.empty(SIZE)] * len(truth), CLASSES, resamples=0).to_json()
    nan = float("nan")
    assert error_plots.error_histograms(errors["placement"]) == []
    assert error_plots.edge_plot(errors["placement"], (nan, nan)) == []
    assert error_plots.threshold_plot(errors["lrp"], CLASSES) == []


def test_plots_say_what_is_drawn(found: Anatomy) -> None:
    errors = found.to_json()
    (price,) = error_plots.price_plot(errors["tide"])
    for r in found.tide.table:
        assert f"{r['dAP']:.3f} · {r['count']}×" in price.svg
    (repair,) = error_plots.repair_plot(errors["placement"])
    for r in found.placement.fixed[1:]:
        assert f"{r['AP']:.3f} ({r['dAP']:+.3f})".replace("-", "−") in repair.svg
    titles = [p.title for p in error_plots.error_histograms(errors["placement"])]
    assert titles == ["Centre, % of the size", "Centre along, px", "Centre across, px", "Length, %", "Width, %",
                      "Angle, degrees"]  # fmt: skip
    (edges,) = error_plots.edge_plot(errors["placement"], (30, 14))
    front = next(r for r in found.placement.table if r["quantity"] == "front_px" and r["class"] is None)
    assert f"front {front['q50']:+.2f} px".replace("-", "−") in edges.svg
