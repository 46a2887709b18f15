"""What people read is true: commands parse, links lead somewhere, the file tree is the folder, messages are quoted."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from tercel.cli import app
from tercel.config import flat, override
from tercel.core.finding import TercelError
from tercel.data import images, source, synth
from tercel.data.formats import FORMATS
from tercel.data.predictions import read_predictions, write_predictions
from tercel.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GUIDE = ROOT / "docs" / "train-on-your-own-pictures.md"
VERBS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def blocks(text: str, *languages: str) -> list[str]:
    """Contents of the code blocks in one of the languages ("" = none said)."""
    return [body for language, body in FENCE.findall(text) if language in languages]


def spans(text: str) -> list[str]:
    """Inline code."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))


# -- commands -----------------------------------------------------------------------------------------------------


def check_command(line: str) -> None:
    """The verb and its options exist, values have the right type, and recipe, settings and formats are real."""
    words = shlex.split(re.split(r"\s#\s|\s#$", line)[0])
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    words = [w for w in words[1:] if w != "--debug"]
    if words[0] in {"--help", "--version"}:
        return
    assert words[0] in VERBS, f"no verb {words[0]!r}: {line}"
    if "--help" in words:
        return
    try:
        given = VERBS[words[0]].make_context(words[0], words[1:]).params
    except Exception as e:
        raise AssertionError(f"{line}: {e}") from e
    recipe = given.get("recipe") or "boxes"
    assert recipe in RECIPES, line
    override(RECIPES[recipe](), given.get("settings") or [])
    assert (given.get("to") or "voc") in FORMATS, line
    for key in ("train_", "val", "truth", "data", "source", "test_truth"):
        named = given.get(key) or []
        for text in named if isinstance(named, list) else [named]:
            source.parse(text)
    for text in (given["a"], given["b"]) if words[0] == "agree" else ():
        source.parse(text)


def commands(text: str) -> list[str]:
    found = []
    for block in blocks(text, "", "sh", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            bare = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
            if bare.startswith("tercel ") or (bare.startswith("torchrun ") and "tercel.cli" in bare):
                found.append(bare)
    return found


@pages
def test_commands_parse(page: Path) -> None:
    for line in commands(page.read_text()):
        check_command(line)


def test_there_are_commands_to_check() -> None:
    assert len(commands((ROOT / "README.md").read_text())) >= 5
    assert len(commands(GUIDE.read_text())) >= 10


@pytest.mark.parametrize(
    "line",
    [
        "tercel trian boxes --train a --val b",
        "tercel train boxes --train a",
        "tercel train boxes --train a --val b --epochs 3",
        "tercel train boxs --train a --val b",
        "tercel show boxes --set train.epoch=3",
        "tercel convert a b --to cocco",
        "tercel score --truth vocc:a --pred b",
        "tercel agree dota:a doto:b",
        "tercel predict run x.jpg --min-score 2",
        "torchrun --nproc-per-node 2 -m tercel.cli trian boxes",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises((AssertionError, TercelError)):
        check_command(line)


@pages
def test_names_in_the_text_exist(page: Path) -> None:
    """Inline code: `tercel VERB`, settings with and without a value, make targets."""
    makefile, recipes = (ROOT / "Makefile").read_text(), [make() for make in RECIPES.values()]
    keys = {k for r in recipes for k in flat(r)}
    for span in spans(page.read_text()):
        if verb := re.match(r"tercel ([a-z][\w-]*)", span):
            assert verb[1] in VERBS, span
        if target := re.fullmatch(r"make (\w+)", span):
            assert re.search(rf"^{target[1]}:", makefile, re.M), span
        setting = re.fullmatch(r"(?:--set )?((?:data|augment|model|train|evaluate)\.[a-z_.]+)(=\S+)?", span)
        if setting and not span.endswith((".yaml", ".txt", ".md")):
            assert any(k == setting[1] or k.startswith(setting[1] + ".") for k in keys), span
            if setting[2]:
                assert any(_accepts(r, setting[1] + setting[2]) for r in recipes), span


def _accepts(recipe: Any, setting: str) -> bool:
    try:
        override(recipe, [setting])
    except TercelError:
        return False
    return True


# -- README -------------------------------------------------------------------------------------------------------


def test_the_two_commands_come_first() -> None:
    head = (ROOT / "README.md").read_text().splitlines()[:25]
    for command in ("make demo", "make test"):
        assert any(line.startswith(command) for line in head), command


def tree(text: str) -> dict[str, str]:
    """Path -> phrase of the files in README's tree."""
    body = blocks(text[text.index("<!-- tree") :], "")[0]
    folders: list[str] = []
    found = {}
    for line in body.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, phrase = line.strip().partition(" ")
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
        else:
            path = "".join(folders) + name
            assert path not in found, path
            found[path] = phrase.strip()
    return found


def test_the_file_tree_is_the_folder() -> None:
    """Every Python file that has content is listed, with a phrase; nothing else is."""
    there = {str(p.relative_to(ROOT)) for p in (ROOT / "tercel").rglob("*.py") if p.stat().st_size}
    listed = tree((ROOT / "README.md").read_text())
    assert there - listed.keys() == set(), "missing in README.md"
    assert listed.keys() - there == set(), "in README.md only"
    assert [p for p, phrase in listed.items() if not phrase] == []


# -- links, paths, code -------------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pages
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in {slug(h) for h in re.findall(r"^#+ (.*)$", file.read_text(), re.M)}, target


def test_documents_that_the_code_names_exist() -> None:
    for file in [*(ROOT / "tercel").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for name in re.findall(r"docs/[\w./-]+\.md", file.read_text()):
            assert (ROOT / name).exists(), f"{file.relative_to(ROOT)} names {name}"


def test_decisions_are_numbered_and_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    files = sorted(p.name for p in folder.glob("*.md") if p.name != "README.md")
    assert [int(f[:4]) for f in files] == list(range(1, len(files) + 1))
    listing = (folder / "README.md").read_text()
    assert [f for f in files if f not in listing] == []


@pages
def test_python_compiles(page: Path) -> None:
    for block in blocks(page.read_text(), "python"):
        compile(block, str(page), "exec")


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its Python, from top to bottom, on a small data set."""
    monkeypatch.chdir(tmp_path)
    made = synth.make_boxes(tmp_path / "made", n=12, seed=0, size=(64, 80), splits={"train": 1.0})
    source.convert(f"yolo:{made}#train", "data/all", "voc")
    names: dict[str, Any] = {}
    for block in blocks(GUIDE.read_text(), "python"):
        exec(block, names)
    assert source.splits("voc:data/cells") == ["test", "train", "val"]
    assert "error" not in capsys.readouterr().out
    assert {r.group for r in names["everything"].records} == {""}


def text_files() -> list[Path]:
    """What is, or would be, under version control, as far as it is text."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    out = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in out.split("\0") if name]
    return [f for f in files if f.is_file() and b"\0" not in f.read_bytes()[:4096]]


MACHINE_PATH = re.compile(r"(?<![\w.\-*}$])/(?:" + "|".join(["work", "tmp", "root"]) + r")(?![\w-])")
HOSTS = [a + b for a, b in (("pypi", ".org"), ("pythonhosted", ".org"), ("download.", "pytorch.org"))]


def test_no_paths_of_a_machine_and_no_registry() -> None:
    found = []
    for file in text_files():
        for n, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if MACHINE_PATH.search(line) or any(h in line for h in HOSTS):
                found.append(f"{file.relative_to(ROOT)}:{n}: {line.strip()[:100]}")
    assert found == []
    assert MACHINE_PATH.search("see " + "/" + "tmp/x")
    assert not MACHINE_PATH.search("network/root of <user cache>" + "/" + "tmpfile")


def test_requirements_are_pinned_and_hashed() -> None:
    text = (ROOT / "requirements.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) > 30
    for line in lines:
        assert re.match(r"[A-Za-z0-9._\[\]-]+==\S+", line), line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", line), line
        assert "://" not in line, line


# -- messages -----------------------------------------------------------------------------------------------------


def yolo(folder: str, label: str) -> str:
    """A YOLO set of one picture, split val, with four classes."""
    for part in ("images/val", "labels/val"):
        Path(folder, part).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(f"{folder}/images/val/00014.jpg")
    Path(folder, "labels/val/00014.txt").write_text(label)
    Path(folder, "data.yaml").write_text("val: images/val\nnames: [disc, square, cross, triangle]\n")
    return f"{folder}#val"


def refusals() -> list[tuple[str, str]]:
    """(message, remedy) of what the guide quotes and what can be provoked in no time."""
    good = yolo("shapes", "0 .5 .5 .2 .2\n")
    source.convert(good, "cells", "voc", split="train")
    xml = Path("cells/Annotations/00014.xml")
    text = xml.read_text()
    shutil.copytree("cells", "mine")
    turned = text.replace("<width>40<", "<width>30<").replace("<height>30<", "<height>40<")
    Path("mine/Annotations/00014.xml").write_text(turned)
    broken = Path("shapes/cut.jpg")
    Image.effect_noise((64, 64), 90).save(broken)
    broken.write_bytes(broken.read_bytes()[:1000])
    truth = source.read(good)
    other = [("BloodImage_00007", truth.records[0].objects.replace(scores=[0.5]))]
    write_predictions(Path("preds.jsonl"), truth.schema.classes, other)
    calls = [
        lambda: source.read("voc:cell#trainval"),
        lambda: source.read("cells#trian"),
        lambda: source.read("vocc:cells#train"),
        lambda: override(RECIPES["boxes"](), ["train.epoch=50"]),
        lambda: override(RECIPES["boxes"](), ["train.epochs=many"]),
        lambda: source.read(yolo("bad1", "0 .5 .5 .2 .2\n7 .5 .5 .2 .2\n")),
        lambda: source.read(yolo("bad2", "0 50 50 20 20\n")),
        lambda: source.read(yolo("bad3", "0 .5 .5 0 .2\n")),
        lambda: source.read("mine#train"),
        lambda: images.read_image(broken),
        lambda: read_predictions(Path("preds.jsonl"), truth),
        lambda: read_predictions(Path("shapes/labels/val"), truth),
    ]
    out = []
    for call in calls:
        with pytest.raises(TercelError) as e:
            call()
        out.append((e.value.message, e.value.remedy))
    return out


def shape(text: str) -> str:
    """A message without what depends on the data: names in quotes, paths, numbers."""
    text = re.sub(r"'[^']*'", "'?'", text)
    return re.sub(r"\d+", "0", re.sub(r"[\w./]+/[\w./]+", "PATH", text))


def test_messages_are_quoted_as_they_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = FENCE.sub("", GUIDE.read_text())
    quoted = [shape(q) for q in (*re.findall(r"``(.+?)``", text), *spans(text))]
    for message, _ in refusals():
        assert any(shape(message) in q or (len(q) > 15 and shape(message).startswith(q)) for q in quoted), message


def test_pitfalls_name_tests_that_exist_and_leave_no_id_out() -> None:
    text = (ROOT / "docs/pitfalls.md").read_text()
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.M), f"{path}::{name}"
    for system, count in (("shuttle", 37), ("pingpong", 28), ("crowd", 34), ("turtle", 15), ("aerial", 44)):
        assert re.findall(rf"^\| {system}-(\d+) \|", text, re.M) == [str(i + 1) for i in range(count)]
