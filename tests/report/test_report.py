"""report.html and card.md: they say what the run folder says, load nothing, and survive whatever is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset
from tercel.report.card import write_card
from tercel.report.html import SAMPLE_BYTES, write_report
from tercel.report.reading import read_run

Run = tuple[Path, Dataset]
Builder = Callable[..., Run]
VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(run: Path, data: Dataset | None = None) -> tuple[str, Page]:
    text = write_report(run, data).read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def page(finished: Run) -> tuple[str, Page]:
    return page_of(*finished)


def test_the_page_holds_the_numbers_of_metrics_json(finished: Run, page: tuple[str, Page]) -> None:
    report = json.loads((finished[0] / "metrics.json").read_text())["report"]
    text = page[1].text
    for s in report["scores"]:
        for key, digits in (("value", 4), ("low", 3), ("high", 3)):
            if s[key] is not None:
                assert f"{s[key]:.{digits}f}" in text
    for row in report["table"]:
        cells = [f"{row[k]:.3f}" for k in ("AP", "AP50")], [str(row[k]) for k in ("GT", "TP", "FP", "FN")]
        assert re.search(rf"{row['class']} {cells[0][0]} .{{0,20}}{cells[0][1]} {' '.join(cells[1])}", text)
    assert "–" in text  # no large objects: undefined is a dash, never 0 or -1
    large = next(r for r in report["sizes"] if r["size"] == "large")
    assert large["AP"] is None
    assert "large – – – 0 0 0 0" in text


def test_the_page_loads_nothing_from_anywhere(page: tuple[str, Page]) -> None:
    text, parsed = page
    assert not re.search(r"https?://|//[a-z]+\.[a-z]+|@import", text)
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "data", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#"))
    assert len(text) < 5_000_000
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_content_policy_names_the_script_that_the_page_has(page: tuple[str, Page]) -> None:
    import base64
    import hashlib

    scripts = re.findall(r"<script>(.*?)</script>", page[0], flags=re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page[0]


def test_links_within_the_page_and_its_svgs_lead_somewhere_and_ids_are_unique(page: tuple[str, Page]) -> None:
    text, parsed = page
    ids = [a["id"] for _, a in parsed.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    used = [a["href"] for _, a in parsed.tags if a.get("href")] + re.findall(r"url\((#[^)]+)\)", text)
    assert used
    assert {str(u)[1:] for u in used} <= set(ids)


def test_every_section_is_there_for_a_finished_run(page: tuple[str, Page]) -> None:
    ids = [a["id"] for t, a in page[1].tags if t == "section"]
    assert ids == [
        "findings", "changed", "scores", "detections", "errors", "training", "learning", "mistakes", "data",
        "conditions",
    ]  # fmt: skip
    assert "train.epochs 50 10" in page[1].text  # a setting, its default, its value
    assert "Training and validation data are the same" in page[1].text
    assert sum(t == "svg" for t, _ in page[1].tags) >= 8


def test_names_from_outside_cannot_become_markup(fake_run: Builder, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    run, data = fake_run(
        tmp_path, pictures=6, epochs=5, classes=(evil, "<b>ring", "$x_{ 雪"), prefix="<img src=x onerror=alert(2)>"
    )
    info = json.loads((run / "run.json").read_text())
    info["findings"][0]["message"] = info["command"] = info["val"]["source"] = "</section><script>alert(3)</script>"
    info["recipe"]["name"] = "<i>"
    (run / "run.json").write_text(json.dumps(info))
    _, parsed = page_of(run, data)
    assert sum(t == "script" for t, _ in parsed.tags) == 1
    assert not [t for t, _ in parsed.tags if t == "i" and "style" not in dict(_)]
    assert all(not k.startswith("on") for _, a in parsed.tags for k in a)
    assert "alert(1)" in parsed.text  # it is shown, as text
    assert "onerror=alert(2)" in parsed.text
    card = write_card(run).read_text()
    assert not re.search(r"<(script|img|i|b)\b", card)


def test_planted_a_page_without_escaping_is_noticed(fake_run: Builder, tmp_path: Path, monkeypatch: Any) -> None:
    import jinja2

    real = jinja2.Environment

    def careless(**options: Any) -> jinja2.Environment:
        return real(**{**options, "autoescape": False})

    monkeypatch.setattr(jinja2, "Environment", careless)
    run, data = fake_run(tmp_path, pictures=3, epochs=5, classes=("<script>alert(1)</script>",))
    text = write_report(run, data).read_text()
    assert text.count("<script>") > 1


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_unfinished_runs_say_so(fake_run: Builder, tmp_path: Path, status: str) -> None:
    run, data = fake_run(tmp_path, pictures=3, epochs=5, status=status)
    (run / "preds.jsonl").unlink()
    text = page_of(run, data)[1].text
    assert {"running": "still running", "interrupted": "interrupted", "failed": "failed"}[status] in text
    assert "no scores yet" in text
    card = write_card(run).read_text()
    assert status in card
    assert "no scores yet" in card


def test_a_run_that_only_just_began(fake_run: Builder, tmp_path: Path) -> None:
    run, _ = fake_run(tmp_path, pictures=3, epochs=5, status="running")
    for path in run.iterdir():
        if path.name != "run.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    info = json.loads((run / "run.json").read_text())
    keep = {k: info[k] for k in ("recipe", "schema", "status", "started")}
    (run / "run.json").write_text(json.dumps(keep))
    assert "still running" in page_of(run)[1].text
    assert write_card(run).exists()


def test_a_run_without_detections_and_a_class_without_truth(fake_run: Builder, tmp_path: Path) -> None:
    run, data = fake_run(tmp_path, pictures=4, epochs=5, classes=("disc", "ring", "speck", "ghost"), detections=False)
    text = page_of(run, data)[1].text
    assert "No false positive to show." in text
    assert "nothing detected there" in text
    assert re.search(r"ghost – – – 0 0 0 0", text)
    assert "Class ghost has no object in the validation data" in write_card(run).read_text()


def test_pictures_that_are_gone_are_reported(fake_run: Builder, tmp_path: Path) -> None:
    run, data = fake_run(tmp_path, pictures=4, epochs=5)
    shutil.rmtree(tmp_path / "pictures")
    text = page_of(run, data)[1].text
    assert "pictures cannot be read any more" in text
    assert "Missed objects" in text


def test_labels_that_are_gone_are_reported_and_the_numbers_stay(fake_run: Builder, tmp_path: Path) -> None:
    run, _ = fake_run(tmp_path, pictures=4, epochs=5)
    shutil.rmtree(tmp_path / "pictures")
    text = page_of(run)[1].text
    assert "the validation data cannot be read any more" in text
    ap = json.loads((run / "metrics.json").read_text())["scores"][0]["value"]
    assert f"{ap:.3f}" in text


def test_validation_truth_without_any_object(fake_run: Builder, tmp_path: Path) -> None:
    run, data = fake_run(tmp_path, pictures=3, epochs=5)
    bare = Dataset(
        data.schema,
        tuple(
            type(r)(r.id, r.frames, r.size, Objects.empty(r.size), source=r.source) for r in data.records
        ),
    )  # fmt: skip
    (run / "metrics.json").unlink()
    text = page_of(run, bare)[1].text
    assert "the validation labels have changed" in text
    assert "No missed object to show." in text


def test_broken_files_become_warnings(fake_run: Builder, tmp_path: Path) -> None:
    run, data = fake_run(tmp_path, pictures=3, epochs=5)
    (run / "metrics.json").write_text("{")
    (run / "preds.jsonl").write_text('{"format": "tercel-predictions"}\n{"id": 3')
    next((run / "samples").rglob("*.jpg")).write_bytes(b"no picture")
    text = page_of(run, data)[1].text
    assert "the metrics cannot be read" in text
    assert "preds.jsonl:2" in text
    assert "drawn samples cannot be read" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for write in (write_report, write_card):
        with pytest.raises(TercelError, match=r"run\.json"):
            write(tmp_path)


def test_what_changed_since_the_run_before(fake_run: Builder, tmp_path: Path) -> None:
    run, data = fake_run(tmp_path, pictures=3, epochs=5)
    before = run.parent / "before"
    before.mkdir()
    info = json.loads((run / "run.json").read_text())
    info["started"], info["recipe"]["train"]["lr"] = "2025-11-19T10:00:00+00:00", 0.5
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["scores"][0]["value"] -= 0.25
    (before / "run.json").write_text(json.dumps(info))
    (before / "metrics.json").write_text(json.dumps(metrics))
    text = page_of(run, data)[1].text
    assert "Since before" in text
    assert "+0.250" in text
    assert "train.lr 0.5 0.004" in text
    info["val"]["fingerprint"] = "another"  # judged on other data: not comparable
    (before / "run.json").write_text(json.dumps(info))
    assert "Since before" not in page_of(run, data)[1].text


def test_many_samples_stay_within_the_budget(fake_run: Builder, tmp_path: Path) -> None:
    import cv2

    run, data = fake_run(tmp_path, pictures=3, epochs=5)
    noise = np.random.default_rng(0).integers(0, 255, (500, 1000, 3), dtype=np.uint8)
    coded = cv2.imencode(".jpg", noise)[1].tobytes()
    for epoch in range(1, 31):
        for k in range(4):
            path = run / "samples" / f"{epoch:05d}" / f"{k}_a.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(coded)
    text, parsed = page_of(run, data)
    assert len(text) < 5_000_000
    assert re.search(r"\d+ of 30 evaluations are shown", parsed.text)
    assert SAMPLE_BYTES < 4_000_000


def test_the_card_says_what_the_run_says(finished: Run) -> None:
    card = write_card(finished[0]).read_text()
    info = json.loads((finished[0] / "run.json").read_text())
    for s in json.loads((finished[0] / "metrics.json").read_text())["scores"]:
        if s["value"] is not None and not s["where"]:
            assert f"{s['value']:.3f}" in card
    assert info["train"]["fingerprint"] in card
    assert "Apache-2.0" in card
    assert "No large object was judged." in card
    assert "`train.epochs` = 10 (default 50)" in card
    for line in card.splitlines():
        if line.startswith("|"):  # every table row has the columns of its neighbours
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 5, 9)


def test_the_last_weights_stand_beside_the_chosen_ones(fake_run: Builder, tmp_path: Path) -> None:
    run, data = fake_run(tmp_path, pictures=3, epochs=5)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["last"] = json.loads(json.dumps(metrics["scores"]))
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "last weights" not in page_of(run, data)[1].text.lower()  # they are the chosen ones
    metrics["last"][0]["value"] = 0.1234
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "last weights: 0.123" in page_of(run, data)[1].text
    assert "The last weights, which nobody chose: AP 0.123" in write_card(run).read_text()


def test_reading_without_pictures_is_the_quick_way(finished: Run) -> None:
    view = read_run(finished[0], pictures=False)
    assert view.preds is None
    assert view.data is None
    assert [s.name for s in view.headline] == ["AP", "AP50", "AP75", "AR100"]
    assert len(view.steps) == 180
    assert [e["epoch"] for e in view.evals] == [5, 10]
