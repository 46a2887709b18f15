"""The pages about oriented boxes, points, crowds and the lab: what they show is printed, what they quote is said."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
JUDGE, ORIENTED = ROOT / "docs/judge-from-files.md", ROOT / "docs/oriented-boxes.md"
POINTS, CROWDS = ROOT / "docs/points-on-your-own-animals.md", ROOT / "docs/crowds.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def lines_of(text: str) -> list[str]:
    """Lines without what only lays them out; empty ones and the dots of an omission are none."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line and line != "..."]


def missing(shown: str, printed: str) -> list[str]:
    """Lines of `shown` that `printed` does not have, in this order."""
    out, rest = [], lines_of(printed)
    for line in lines_of(shown):
        if line in rest:
            rest = rest[rest.index(line) + 1 :]
        else:
            out.append(line)
    return out


def test_the_lab_prints_what_its_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tercel: Any) -> None:
    """From top to bottom: Python runs, commands end well, and every line shown below them was printed."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed, compared = "", 0
    for language, block in FENCE.findall(JUDGE.read_text(encoding="utf-8")):
        if language == "python":
            exec(block, names)
        elif block.startswith("tercel "):
            said = tercel(*shlex.split(block.replace("\\\n", " "))[1:])
            assert said.code == 0, said.err
            printed = said.out
        elif not language and printed:
            assert missing(block, printed) == []
            compared += len(lines_of(block))
    assert compared > 60


def test_a_line_that_was_not_printed_is_found() -> None:
    printed = "a  b\n\nAP  0.445  0.381 – 0.508\nend\n"
    assert missing("a b\n...\nend\n", printed) == []
    assert missing("AP 0.444 0.381 – 0.508", printed) == ["AP 0.444 0.381 – 0.508"]
    assert missing("end\na b", printed) == ["a b"]


# -- messages -----------------------------------------------------------------------------------------------------


def templates() -> list[list[str | None]]:
    """Every text in the package, as literal parts; None stands for what is filled in."""
    out: list[list[str | None]] = []
    for file in (ROOT / "tercel").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                out.append([v.value if isinstance(v, ast.Constant) else None for v in node.values])  # type: ignore[misc]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                out.append([node.value])
    return out


def fits(quoted: str, parts: list[str | None]) -> bool:
    """Is this the message, or its beginning? What is filled in may be anything, but does not end a beginning."""
    if not parts or not quoted:
        return not quoted
    first, rest = parts[0], parts[1:]
    if first is None:
        ends = range(1, len(quoted) + 1) if rest else [len(quoted)]
        return any(fits(quoted[i:], rest) for i in ends if quoted[i:] or not rest)
    return first.startswith(quoted) or (quoted.startswith(first) and fits(quoted[len(first) :], rest))


def quotes(text: str) -> list[str]:
    """The messages in the first column of the tables that have one."""
    rows = re.findall(r"^\| (`[^|]*) \|", text[text.index("| message says |") :], re.M)
    return [q for row in rows for q in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("page", [ORIENTED, POINTS, CROWDS], ids=lambda p: p.stem)
def test_messages_are_quoted_as_they_are_said(page: Path) -> None:
    known = [t for t in templates() if sum(len(p) for p in t if p) > 8]
    quoted = quotes(page.read_text(encoding="utf-8"))
    assert len(quoted) > 20
    assert [q for q in quoted if not any(fits(q, t) for t in known)] == []


@pytest.mark.parametrize(
    ("quoted", "found"),
    [
        ("pictures have a white border (1, 2 px at top", True),
        ("lot/1.txt:1: unknown class 'cra'", True),
        ("pictures have a black border", False),
        ("lot/1.txt:1: unknown kind 'cra'", False),
    ],
)
def test_a_wrong_quote_is_found(quoted: str, found: bool) -> None:
    border: list[str | None] = ["pictures have a white border (", None, " px at top, right", None, ")"]
    known: list[list[str | None]] = [border, [None, ": unknown class ", None]]
    assert any(fits(quoted, t) for t in known) == found


@pytest.mark.parametrize(("task", "page"), [("oriented", ORIENTED), ("keypoints", POINTS), ("crowd", CROWDS)])
def test_the_table_of_formats_is_complete(task: str, page: Path) -> None:
    """Every format of oriented boxes, of points, or of persons alone has a row, and a source that names it."""
    from tercel.data.formats import FORMATS

    text = page.read_text(encoding="utf-8")
    named = {name for name, f in FORMATS.items() if task == ("crowd" if hasattr(f, "ONLY_CLASSES") else f.TASK)}
    assert len(named) > 1
    assert named - set(re.findall(r"`(\w+):[^`]+` \|$", text, re.M)) == set()


def test_the_angles_of_the_page() -> None:
    """Its Python: the rectangle of the conventions page, 40 long, 20 wide, at 60 degrees."""
    names: dict[str, Any] = {}
    (block,) = [b for language, b in FENCE.findall(ORIENTED.read_text(encoding="utf-8")) if language == "python"]
    exec(block, names)
    assert names["ours"][0].tolist() == pytest.approx([50, 40, 40, 20, 1.0472], abs=1e-4)
