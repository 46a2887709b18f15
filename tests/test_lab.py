"""`tercel agree`, `compare`, `calibrate` on files: what they say, write and refuse; they start without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tercel import lab
from tercel.core.calibration import read_calibration
from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.data import source
from tercel.data.predictions import write_predictions

CATEGORIES = [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}]


def scene(seed: int, pictures: int = 12) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(picture, x y w h [N,4], category [N])."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(pictures):
        n = int(rng.integers(6, 12))
        corner = np.stack(np.meshgrid(np.arange(4) * 150, np.arange(3) * 150), -1).reshape(-1, 2)[:n] + rng.uniform(
            0, 40, (n, 2)
        )
        out.append((f"{i + 1}", np.c_[corner, rng.uniform(30, 60, (n, 2))], rng.integers(1, 3, n)))
    return out


def write_truth(path: Path, parts, noise: float = 0, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    rows = [
        {"id": 1000 * int(name) + k, "image_id": int(name), "category_id": int(c), "iscrowd": 0,
         "area": float(b[2] * b[3]), "bbox": (b + rng.normal(0, noise, 4)).tolist()}
        for name, xywh, cats in parts
        for k, (b, c) in enumerate(zip(xywh, cats, strict=True))
    ]  # fmt: skip
    images = [{"id": int(name), "width": 640, "height": 480, "file_name": f"{name}.jpg"} for name, *_ in parts]
    path.write_text(json.dumps({"images": images, "categories": CATEGORIES, "annotations": rows}))
    return f"coco:{path}"


def write_pred(path: Path, parts, width: float = 1.0, shift: float = 0.0, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    rows = []
    for name, xywh, cats in parts:
        for b, c in zip(xywh, cats, strict=True):
            x, y, w, h = b + np.r_[rng.normal(0, 0.4, 2) + shift, 0, 0]
            box = [x - w * (width - 1) / 2, y, w * width, h]
            rows.append({"image_id": int(name), "category_id": int(c), "bbox": box, "score": rng.uniform(0.3, 0.95)})
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def files(tmp_path: Path):
    parts = scene(0)
    return tmp_path, parts, write_truth(tmp_path / "truth.json", parts)


# -- calibrate ----------------------------------------------------------------------------------------------------


def test_calibrate_fits_writes_and_warns(files, tercel):
    tmp, parts, truth = files
    pred = write_pred(tmp / "pred.json", parts, width=1 / 0.9)
    said = tercel("calibrate", "--truth", truth, "--pred", pred, "--out", tmp / "c.json", "--resamples", 20)
    assert said.code == 0, said.err
    assert "calibrate.same_data" not in said.out
    assert "fitted on 12 of the 12 pictures that it is judged on" in said.err
    assert "cross-fitted" in said.out
    assert str(tmp / "c.json") in said.out
    c = read_calibration(tmp / "c.json")
    assert c.width == pytest.approx(0.9, abs=0.01)
    assert c.height == pytest.approx(1, abs=0.02)
    assert "id 1" in c.fitted_on
    assert json.loads((tmp / "c.json").read_text())["report"]["boxes"]["curves"].keys() == {"width", "height"}
    again = tercel("calibrate", "--truth", truth, "--pred", pred, "--out", tmp / "c.json")
    assert again.code == 2
    assert "exists already" in again.err


def test_calibrate_reports_on_other_data(files):
    tmp, parts, truth = files
    pred = write_pred(tmp / "pred.json", parts, width=1 / 0.9)
    other = [(str(int(n) + 50), *rest) for n, *rest in scene(1)]
    test = write_truth(tmp / "test.json", other), write_pred(tmp / "test_pred.json", other, width=1 / 0.9)
    r = lab.calibrate_files(truth, pred, test_truth=test[0], test_pred=test[1], resamples=20)
    assert "calibrate.same_data" not in {f.check for f in r.findings}
    on_test = {s.where["boxes"]: s.value for s in r.scores if s.name == "AP" and s.where.get("data") == "test"}
    assert on_test["calibrated"] > on_test["as given"] + 0.05
    json.dumps(r.to_json(), allow_nan=False)
    same = lab.calibrate_files(truth, pred, test_truth=truth, test_pred=pred, resamples=0)
    assert "calibrate.same_data" in {f.check for f in same.findings}


def test_calibrated_predictions_are_not_fitted_again(files):
    tmp, _, truth = files
    dataset = source.read(truth, pictures=False)
    path = tmp / "preds.jsonl"
    items = [(r.id, r.objects.replace(scores=np.full(len(r.objects), 0.5))) for r in dataset.records]
    write_predictions(path, dataset.schema.classes, items)
    head, _, rest = path.read_text().partition("\n")
    path.write_text(json.dumps({**json.loads(head), "calibration": {"width": 0.9}}) + "\n" + rest)
    with pytest.raises(TercelError, match="calibrated already"):
        lab.calibrate_files(truth, path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there must be one thing to calibrate"),
        (["run", "--truth", "x", "--pred", "y"], "there must be one thing to calibrate"),
        (["run", "--out", "c.json"], "leave out --out"),
        (["run"], "run is not a run"),
        (["--truth", "x", "--pred", "y", "--factors", "1"], "is no range"),
        (["--truth", "x", "--pred", "y", "--test-truth", "z"], "give both"),
    ],
)
def test_calibrate_misuse(tercel, words, message):
    said = tercel("calibrate", *words)
    assert said.code == 2
    assert message in said.err


def fake_run(tmp: Path, name: str, truth: str, parts, **pred) -> Path:
    """A run folder as far as the lab reads it."""
    from tercel import config, recipes

    run = tmp / name
    run.mkdir()
    recipe = recipes.get("boxes", [f"train.epochs={len(name)}"])
    dataset = source.read(truth, pictures=False)
    info = {
        "recipe": config.dump(recipe), "schema": dataset.schema.to_json(), "status": "finished",
        "train": {"source": truth, "fingerprint": "t"}, "val": {"source": truth, "fingerprint": "v"},
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(info))
    found = lab._predictions(write_pred(tmp / f"{name}.json", parts, **pred), dataset)[0]
    write_predictions(
        run / "preds.jsonl", dataset.schema.classes, zip([r.id for r in dataset.records], found, strict=True)
    )
    return run


def test_calibrate_a_run(files, tercel):
    tmp, parts, truth = files
    run = fake_run(tmp, "one", truth, parts, width=1 / 0.9)
    said = tercel("calibrate", run, "--resamples", 0, "--json")
    assert said.code == 0, said.err
    out = json.loads(said.out)
    assert out["run"] == str(run)
    assert out["out"] == str(run / "calibration.json")
    assert read_calibration(run / "calibration.json").width == pytest.approx(0.9, abs=0.01)
    assert tercel("calibrate", run, "--resamples", 0).code == 0  # fitted again, in place of the first


# -- compare ------------------------------------------------------------------------------------------------------


def test_compare_files(files, tercel):
    tmp, parts, truth = files
    good, bad = write_pred(tmp / "good.json", parts), write_pred(tmp / "bad.json", parts, shift=4)
    better = tercel("compare", bad, good, "--truth", truth, "--resamples", 100)
    assert better.code == 0, better.err
    assert "pictures that changed most" in better.out
    worse = tercel("compare", good, bad, "--truth", truth, "--resamples", 100, "--json")
    assert worse.code == 1  # a regression
    out = json.loads(worse.out)
    ap = next(
        s for s in out["scores"] if s["name"] == "AP" and s["where"]["of"] == "B - A" and "class" not in s["where"]
    )
    assert ap["high"] < 0
    assert out["report"]["names"] == [str(good), str(bad)]
    refused = tercel("compare", good, bad)
    assert refused.code == 2
    assert "add --truth SOURCE" in refused.err


def test_compare_runs(files, tercel):
    tmp, parts, truth = files
    a, b = fake_run(tmp, "one", truth, parts, shift=4), fake_run(tmp, "other", truth, parts)
    said = tercel("compare", a, b, "--resamples", 50, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["report"]["settings"] == {"train.epochs": [3, 5]}
    info = json.loads((b / "run.json").read_text())
    info["val"]["fingerprint"] = "w"
    (b / "run.json").write_text(json.dumps(info))
    refused = tercel("compare", a, b)
    assert refused.code == 2
    assert "judged on different data" in refused.err
    (b / "preds.jsonl").unlink()
    assert "has no preds.jsonl" in tercel("compare", a, b, "--truth", truth).err


# -- agree --------------------------------------------------------------------------------------------------------


def test_agree_on_files(files, tercel):
    tmp, parts, truth = files
    other = write_truth(tmp / "other.json", [*parts[:-1], ("99", *parts[-1][1:])], noise=1.0)
    pred = write_pred(tmp / "pred.json", parts)
    said = tercel("agree", truth, other, "--pred", pred, "--draws", 5, "--json")
    assert said.code == 0, said.err
    out = json.loads(said.out)
    assert {s["where"].get("ceiling") for s in out["scores"]} >= {"placed", "labelled again"}
    assert [s["value"] for s in out["scores"] if s["where"].get("boxes") == "predictions"]
    left_out = [f for f in out["findings"] if f["check"] == "agree.one_set_only"]
    assert [(f["count"], f["evidence"]) for f in left_out] == [(1, ["12"]), (1, ["99"])]
    text = tercel("agree", truth, other, "--pred", pred, "--draws", 5).out
    for word in ("one to one", "A to B", "B to A", "model", "truth, labelled again", "AP95"):
        assert word in text


def test_agree_pairs_by_file_name_and_compares_pixels(tmp_path: Path):
    """The same picture under two ids; its second copy was retouched."""
    paths = []
    for k, content in enumerate((b"one", b"two")):
        folder = tmp_path / str(k)
        folder.mkdir()
        (folder / "a.jpg").write_bytes(content)
        image = {"id": 7 + k, "width": 640, "height": 480, "file_name": "a.jpg"}
        row = {"id": 1, "image_id": 7 + k, "category_id": 1, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}
        (folder / "l.json").write_text(json.dumps({"images": [image], "categories": CATEGORIES, "annotations": [row]}))
        paths.append(f"coco:{folder / 'l.json'}")
    r = lab.agree(*paths, draws=0)
    assert r.report["pictures"] == 1
    assert "agree.other_pixels" in {f.check for f in r.findings}
    assert "agree.other_pixels" not in {f.check for f in lab.agree(paths[0], paths[0], draws=0).findings}


def test_agree_needs_pictures_in_common(files):
    tmp, parts, truth = files
    other = write_truth(tmp / "other.json", [(str(int(n) + 50), *rest) for n, *rest in parts])
    with pytest.raises(TercelError, match="no picture in common"):
        lab.agree(truth, other)


def test_an_oracle_file_is_read_as_oriented(shared, tercel):
    folder = shared / "oracles/obb_ap"
    want = json.loads((folder / "expected.json").read_text())["coco"]["maxdets_100"]["stats"][0]
    said = tercel(
        "calibrate", "--truth", folder / "gt.json", "--pred", folder / "dets.json", "--resamples", 0, "--json"
    )
    out = json.loads(said.out)
    assert out["report"]["boxes"]["rule"]["geometry"] == "oriented"
    ap = next(s["value"] for s in out["scores"] if s["name"] == "AP" and s["where"].get("boxes") == "as given")
    assert ap == pytest.approx(want, abs=1e-6)


# -- label errors -------------------------------------------------------------------------------------------------


def test_the_queue_is_a_data_set_that_can_be_written(files):
    tmp, parts, _ = files
    name, xywh, cats = parts[2]
    pred = write_pred(tmp / "pred.json", parts)
    rows = json.loads(pred.read_text())
    next(r for r in rows if r["image_id"] == int(name))["score"] = 0.99
    pred.write_text(json.dumps(rows))
    torn = [*parts[:2], (name, xywh[1:], cats[1:]), *parts[3:]]
    result, queue = lab.label_errors(write_truth(tmp / "torn.json", torn), pred)
    assert result.report["counts"]["missed"] == 1
    assert [r.id for r in queue.records] == [name]
    source.write(queue, tmp / "queue.json", "coco", pictures=False)
    back = source.read(f"coco:{tmp / 'queue.json'}", pictures=False)
    assert len(back.records[0].objects) == len(xywh)
    assert any(c.startswith("check_missed_") for c in back.schema.classes)
    assert isinstance(back.records[0].objects, Objects)


def test_starts_without_torch():
    code = "import sys, tercel.lab, tercel.report.lab_tables\n"
    code += "print(*({'torch', 'matplotlib', 'numba', 'scipy'} & sys.modules.keys()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (out.returncode, out.stdout.split()) == (0, []), out.stderr
