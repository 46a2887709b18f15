"""A ball from the command line: train, evaluate, predict, judge the files, go on; and what the task promises."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel import recipes
from tercel.core.finding import Ledger, TercelError
from tercel.core.record import Event
from tercel.data import source
from tercel.data.rallies import make_rallies
from tercel.data.tracks import read_tracks
from tercel.engine.ball import BallTask, peaks
from tercel.engine.tasks import task_of

SMALL = [
    "--set", "data.size=64x96", "--set", "train.epochs=2", "--set", "train.samples=24", "--set", "train.batch=4",
    "--set", "train.evaluate_every=1", "--set", "model.backbone.widths=16,16,16,16", "--set", "model.backbone.stem=16",
    "--set", "data.workers=1", "--set", "train.threads=1", "--set", "evaluate.resamples=10",
]  # fmt: skip


@pytest.fixture(scope="module")
def rallies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table tennis at 72 x 128: train has every event."""
    out = tmp_path_factory.mktemp("ball") / "rallies"
    return make_rallies(out, splits={"train": 3, "val": 2}, frames=40, size=(72, 128), sport="table_tennis", seed=4)


def train(tercel: Callable[..., Any], rallies: Path, name: str, recipe: str = "pingpong_events", *words: str) -> Any:
    given = ["train", recipe, "--train", f"tracknet:{rallies}#train", "--val", f"tracknet:{rallies}#val"]
    return tercel(*given, "--out", "runs", "--name", name, *SMALL, "--json", *words)


def test_from_the_command_line(
    tercel: Callable[..., Any], rallies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = train(tercel, rallies, "a")
    assert said.code == 0, said.err
    scores = json.loads(said.out)["scores"]
    assert {s["where"]["rule"] for s in scores if set(s["where"]) == {"rule"}} >= {"tracknet_v2_v3", "wasb", "totnet"}
    assert any(s["name"] == "PCE" for s in scores)
    run = Path("runs/a")
    files = sorted(p.relative_to(run / "tracks").as_posix() for p in (run / "tracks").rglob("*.csv"))
    assert len(files) == 4  # two rallies, each with its events
    with open(run / "tracks" / files[0]) as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == ["Frame", "Visibility", "X", "Y", "Score", "Filled", "Sigma"]
    assert [int(r["Frame"]) for r in rows] == list(range(40))
    assert "x and y over time" in (run / "report.html").read_text()

    # The same model, asked again in three ways, gives the same numbers.
    again = tercel("eval", run, "--json")
    assert json.loads(again.out)["scores"] == scores
    judged = tercel("score", "--truth", f"tracknet:{rallies}#val", "--pred", run / "tracks", "--resamples", 0, "--json")
    first = {s["name"]: s["value"] for s in scores if s["where"] == {"rule": "tracknet_v2_v3"}}
    from_files = {
        s["name"]: s["value"] for s in json.loads(judged.out)["scores"] if s["where"] == {"rule": "tracknet_v2_v3"}
    }
    for name in ("TP", "FP_wrong", "FP_ghost", "FN", "TN", "F1"):
        assert from_files[name] == pytest.approx(first[name], nan_ok=True), name

    video = sorted((rallies / "val").rglob("*.mp4"))[0]
    found = tercel("predict", run, video, "--out", "found")
    assert found.code == 0, found.err
    stem = video.stem
    assert {p.name for p in Path("found").iterdir()} == {f"{stem}.csv", f"{stem}_events.csv", f"{stem}_overlay.mp4"}
    mine = read_tracks(Path("found") / f"{stem}.csv", size=(72, 128), ledger=Ledger(), predictions=True)[0]
    theirs = next(
        t for t in read_tracks(run / "tracks", size=(72, 128), ledger=Ledger(), predictions=True)
        if t.name.endswith(stem) and video.parent.parent.name in t.name
    )  # fmt: skip
    assert np.allclose(mine.xy, theirs.xy, atol=2e-4, equal_nan=True)
    assert (mine.visibility == theirs.visibility).all()
    assert tercel("predict", run, video, "--out", "found").code == 2  # nothing is written over

    after = train(tercel, rallies, "b", "pingpong_events", "--start", "runs/a")
    assert after.code == 0, after.err
    assert json.loads(Path("runs/b/run.json").read_text())["start"].endswith("runs/a/checkpoints/best.safetensors")
    other = train(tercel, rallies, "c", "shuttle_heatmap", "--start", "runs/a")
    assert other.code == 2
    assert "does not fit this network" in other.err


def test_a_folder_of_frames_is_a_clip(
    tercel: Callable[..., Any], rallies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the numbers, and with the same answers as the video that the frames are from."""
    from PIL import Image

    from tercel.data.video import Video

    monkeypatch.chdir(tmp_path)
    assert train(tercel, rallies, "a", "shuttle_heatmap").code == 0
    video = sorted((rallies / "val").rglob("*.mp4"))[0]
    Path("frames").mkdir()
    for i, frame in enumerate(Video(video).frames()):
        Image.fromarray(frame).save(f"frames/f_{i}.png")  # f_10 comes before f_2 in the alphabet
    for name, media in (("x", video), ("y", "frames")):
        assert tercel("predict", "runs/a", media, "--out", name, "--no-drawn").code == 0
    assert Path("y/frames.csv").read_text() == Path(f"x/{video.stem}.csv").read_text()


def test_bad_footage_is_told(
    tercel: Callable[..., Any], rallies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(tercel, rallies, "a", "shuttle_heatmap").code == 0
    good = sorted((rallies / "val").rglob("*.mp4"))[0]
    Path("bad.mp4").write_bytes(b"no video" * 100)
    Path("note.txt").write_text("x")
    said = tercel("predict", "runs/a", "bad.mp4", "--out", "p")
    assert said.code == 2
    assert "bad.mp4" in said.err
    said = tercel("predict", "runs/a", "bad.mp4", good, "--out", "q", "--no-drawn")
    assert said.code == 1  # the other clip is there, and the exit code tells
    assert "bad.mp4" in said.err
    assert (Path("q") / f"{good.stem}.csv").exists()
    for media, message in (("note.txt", "neither a video nor a picture"), ("none.mp4", "does not exist")):
        said = tercel("predict", "runs/a", media, "--out", "r")
        assert said.code == 2
        assert message in said.err


def test_events_of_the_training_are_those_of_the_network(rallies: Path) -> None:
    """A validation set that lacks an event keeps the columns in place; one that has a new one is refused."""
    from tercel.api import _under

    data = source.read(f"tracknet:{rallies}#train")
    assert set(data.schema.events) == {"bounce", "hit", "net"} or len(data.schema.events) >= 2
    fewer = source.read(f"tracknet:{rallies}#val")
    assert _under(data.schema, fewer).schema.events == data.schema.events
    with pytest.raises(TercelError, match="training data"):
        _under(source.read(f"tracknet:{rallies}#val").schema.__class__(("ball",), events=("bounce",)), data)


def test_rallies_are_dealt_whole(rallies: Path) -> None:
    task = task_of(recipes.get("shuttle_heatmap", ["data.size=64x96"]))
    assert isinstance(task, BallTask)
    data = source.read(f"tracknet:{rallies}#train")
    shares = [task.loader(data, rank=r, world=2) for r in range(2)]
    ids = [{r.id for r in s.dataset.records} for s in shares if s is not None]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {r.id for r in data.records}
    assert task.loader(data, rank=5, world=6) is None


def test_a_hop_that_leaves_frames_out_is_refused_before_training() -> None:
    with pytest.raises(TercelError, match="hop"):
        task_of(recipes.get("shuttle_heatmap", ["evaluate.ball.hop=4"]))


def test_peaks_by_hand() -> None:
    p = np.array([0.1, 0.6, 0.9, 0.9, 0.2, 0.1, 0.1, 0.7, 0.4])
    assert peaks(p, 0.5, 2) == [2, 7]
    assert peaks(p, 0.5, 6) == [2]
    assert peaks(p, 0.95, 2) == []
    assert Event(2, "hit") == Event(2, "hit")


class Stop:
    """Ctrl-C at an update."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_start(self, run: Any, updates: int, step: int) -> None:
        pass

    def on_step(self, info: Any) -> None:
        if info.step == self.step:
            raise KeyboardInterrupt

    def on_eval(self, info: Any) -> None:
        pass

    def on_message(self, message: str) -> None:
        pass

    def on_end(self) -> None:
        pass


def test_resumed_is_bit_for_bit(rallies: Path, tmp_path: Path) -> None:
    """Windows, masked and moved balls, events: all of it is decided by seed, epoch and index."""
    import torch
    from safetensors.torch import load_file

    from tercel import api

    settings = [s for s in SMALL if s != "--set"]
    recipe = recipes.get("pingpong_events", [*settings, "train.checkpoint_minutes=0.00001", "augment.paste_ball=0.3"])
    sources = (f"tracknet:{rallies}#train", f"tracknet:{rallies}#val")
    whole = api.train(recipe, *sources, out=tmp_path, name="whole")
    with pytest.raises(KeyboardInterrupt):
        api.train(recipe, *sources, out=tmp_path, name="cut", observers=[Stop(9)])
    assert json.loads((tmp_path / "cut/run.json").read_text())["status"] == "interrupted"
    again = api.resume(tmp_path / "cut")
    a, b = (load_file(r.path / "checkpoints/last.safetensors") for r in (whole, again))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    tracks = sorted((whole.path / "tracks").rglob("*.csv"))
    assert tracks
    for file in tracks:
        assert file.read_text() == (again.path / file.relative_to(whole.path)).read_text()


def test_two_processes_share_the_rallies(rallies: Path, tmp_path: Path) -> None:
    """Through torchrun, as a user types it: judged on all rallies, each decoded by one process."""
    import subprocess
    import sys

    words = ["train", "shuttle_heatmap", "--train", f"tracknet:{rallies}#train", "--val", f"tracknet:{rallies}#val"]
    words += ["--out", str(tmp_path), "--name", "two", *SMALL, "--set", "model.norm=group", "--json"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tercel.cli", *words], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((tmp_path / "two/metrics.json").read_text())
    assert metrics["report"]["rule"]["rallies"] == 2
    assert metrics["report"]["rule"]["frames"] == 80


def test_a_clip_is_a_row_of_the_drawn_batch(
    tercel: Callable[..., Any], rallies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two windows of three frames and their background: two rows of four pictures, the ball marked in colour."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    sets = ["data.size=64x96", "train.batch=2", "model.clip.background=true", "augment.mask_ball=0"]
    words = [w for s in sets for w in ("--set", s)]
    said = tercel("show", "shuttle_heatmap", "--batch", "b.png", "--train", f"tracknet:{rallies}#train", *words)
    assert said.code == 0, said.err
    with Image.open("b.png") as sheet:
        width, height = sheet.size
    assert 4 * 96 <= width < 5 * 96
    assert 2 * 64 <= height < 4 * 64
