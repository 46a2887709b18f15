"""`tercel score` on files: known numbers, bad input, and what it does not import; balls and events included."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import hotcoco
import pytest

from tercel.core.finding import TercelError
from tercel.score import score


def values(result):
    return {s.name: s.value for s in result.scores if "class" not in s.where}


@pytest.mark.parametrize("cap", [100, 500])
def test_oracle_files(shared, cap):
    folder = shared / "oracles/coco_boxes"
    want = json.loads((folder / "expected.json").read_text())[f"maxdets_{cap}"]["stats"]
    r = score(f"coco:{folder / 'gt.json'}", folder / "dets.json", max_detections=(1, 10, cap), resamples=0)
    names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", f"AR{cap}",
             "AR_small", "AR_medium", "AR_large"]  # fmt: skip
    assert [values(r)[n] for n in names] == pytest.approx(want, abs=1e-6)
    assert ("score.cap_detections" in {f.check for f in r.findings}) == (cap == 100)
    json.dumps(r.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("truth", "pred", "ap", "ap50"),
    [
        ("cocoapi/instances_val2014_100.json", "cocoapi/instances_val2014_fakebbox100_results.json", 0.5046, 0.6970),
        ("gt_dataset.json", "dt_dataset.json", 0.6947, None),
    ],
)
def test_coco_pairs(shared, truth, pred, ap, ap50):
    folder = shared / "data/coco-eval-fixtures/tests/dataset"
    r = values(score(f"coco:{folder / truth}", folder / pred, resamples=0))
    assert r["AP"] == pytest.approx(ap, abs=5e-5)
    assert ap50 is None or r["AP50"] == pytest.approx(ap50, abs=5e-5)


@pytest.fixture
def files(tmp_path):
    """One picture, two truths of two classes, one of them found."""
    truth = {
        "images": [{"id": 5, "width": 100, "height": 80, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 3, "bbox": [10, 10, 20, 30], "area": 600, "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 9, "bbox": [50, 10, 20, 30], "area": 600, "iscrowd": 0},
        ],
    }
    found = [{"image_id": 5, "category_id": 3, "bbox": [10, 10, 20, 30], "score": 0.9}]
    paths = tmp_path / "truth.json", tmp_path / "found.json"
    for path, content in zip(paths, (truth, found), strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_small_files(files):
    r = score(f"coco:{files[0]}", files[1])
    assert values(r)["AP"] == pytest.approx(0.5)
    per_class = {s.where["class"]: s.value for s in r.scores if s.name == "AP" and "class" in s.where}
    assert per_class == {"cat": pytest.approx(1), "dog": 0}
    assert math.isnan(values(r)["AP_large"])


def test_unknown_task(files):
    with pytest.raises(TercelError, match="boxes"):
        score(f"coco:{files[0]}", files[1], task="crowds")


def test_truth_or_predictions_that_are_not_there(files, tmp_path):
    with pytest.raises(TercelError, match="nowhere"):
        score(f"coco:{files[0]}", tmp_path / "nowhere.json")
    with pytest.raises(TercelError, match="nowhere"):
        score(f"coco:{tmp_path / 'nowhere.json'}", files[1])


def test_no_torch_and_no_drawing_is_loaded(files):
    """Judging files starts at once and works on machines without the GPU stack."""
    code = (
        "import sys; from tercel.score import score; score(sys.argv[1], sys.argv[2])\n"
        "heavy = {'torch', 'timm', 'torchvision', 'matplotlib', 'cv2', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, f"coco:{files[0]}", str(files[1])], check=True)


def test_string_image_ids_and_missing_areas(shared, tmp_path):
    """Files that pycocotools cannot read as they are: text ids on one side only, and no area field."""
    folder = shared / "data/coco-eval-fixtures/tests/dataset"
    r = score(f"coco:{folder / 'gt_ignore_test.json'}", folder / "dt_ignore_test.json", resamples=0)
    truth = json.loads((folder / "gt_ignore_test.json").read_text())
    for a in [*truth["images"], *truth["annotations"]]:
        a |= {k: int(a[k]) for k in ("id", "image_id") if k in a}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    gt = hotcoco.COCO(str(tmp_path / "truth.json"))
    ev = hotcoco.COCOeval(gt, gt.load_res(str(folder / "dt_ignore_test.json")), "bbox")
    ev.run()
    assert list(values(r).values())[:12] == pytest.approx(
        [x if x >= 0 else math.nan for x in ev.stats], abs=1e-6, nan_ok=True
    )
    with pytest.raises(TercelError, match=r"outside 0\.\.1"):
        score(f"coco:{folder / 'example_crowdpose_val.json'}", folder / "example_crowdpose_preds.json")


# -- a ball in video, and events ----------------------------------------------------------------------------------


@pytest.fixture
def rallies(tmp_path):
    """Two rallies as csv: truth of 30 and 20 frames, predictions that miss some and see a ghost."""
    for name, n in (("a", 30), ("b", 20)):
        for side in ("truth", "pred"):
            (tmp_path / side).mkdir(exist_ok=True)
        rows = [f"{i},{int(i % 10 > 0)},{100 + 7 * i},{200 + 3 * i}" for i in range(n)]
        (tmp_path / "truth" / f"{name}_ball.csv").write_text("\n".join(["Frame,Visibility,X,Y", *rows, ""]))
        rows = [f"{i},{int(i % 7 > 0)},{101 + 7 * i},{200 + 3 * i},{0.9 if i % 7 else 0.1}" for i in range(n)]
        (tmp_path / "pred" / f"{name}.csv").write_text("\n".join(["Frame,Visibility,X,Y,Score", *rows, ""]))
    return tmp_path


def test_ball_oracle_through_files(shared):
    """The path that a user goes: folders of csv on both sides, recognised by content."""
    folder = shared / "oracles/ball"
    want = json.loads((folder / "expected.json").read_text())["rules"]
    r = score(str(folder / "truth"), folder / "pred", resamples=0)
    assert r.task == "ball"
    for row in r.report.table:
        expected = want[row["rule"]]
        names = {"TP": "TP", "FP_wrong": "FP1", "FP_ghost": "FP2", "FN": "FN", "TN": "TN"}
        assert {ours: row[ours] for ours in names} == {ours: expected[theirs] for ours, theirs in names.items()}
        for ours, theirs in (("accuracy",) * 2, ("precision",) * 2, ("recall",) * 2, ("F1", "f1"), ("AP", "ap")):
            assert row[ours] == pytest.approx(expected[theirs], abs=1e-9)
        assert row["RMS_error"] == pytest.approx(expected["rmse"], abs=1e-6)
    json.dumps(r.to_json(), allow_nan=False)


def test_the_table_in_the_documents_is_what_the_command_says(shared):
    """The one in docs/metrics.md, cell by cell."""
    page = (Path(__file__).resolve().parents[1] / "docs/metrics.md").read_text()
    printed = {m[1]: m[2] for m in re.finditer(r"^\| `(\w+)` \| (\.\d{3} \|.*) \|$", page, re.M)}
    folder = shared / "oracles/ball"
    report = score(str(folder / "truth"), folder / "pred").report
    spread = {s.where["rule"]: s for s in report.scores if s.name == "F1" and set(s.where) == {"rule"}}
    assert list(printed) == [r["rule"] for r in report.table]
    for r in report.table:
        f1 = spread[r["rule"]]
        ratios = [r["F1"], f1.low, f1.high, *(r[k] for k in ("precision", "recall", "recall_all", "accuracy", "AP"))]
        words = [f"{x:.3f}".removeprefix("0") for x in ratios]
        words[1:3] = [f"{words[1]} – {words[2]}"]
        words += [str(r[k]) for k in ("TP", "FP_wrong", "FP_ghost", "FN", "TN")]
        assert printed[r["rule"]] == " | ".join([*words, f"{r['RMS_error']:.1f}"])


def test_event_oracle_through_files(shared):
    folder = shared / "oracles/events"
    want = json.loads((folder / "expected.json").read_text())
    dense, given = score(str(folder), folder, resamples=0), score(str(folder), folder / "predicted_events.json")
    assert (dense.task, given.task) == ("events", "events")
    assert dense.report["PCE"] == pytest.approx(want["ttnet_smooth"]["PCE"], abs=1e-9)
    assert dense.report.samples["smooth"] == want["ttnet_smooth"]["samples"]
    assert dense.report["mAP@2"] == pytest.approx(want["mAP"]["dense_nms_5"]["k2"]["mAP"], abs=1e-9)
    assert given.report["mAP@5"] == pytest.approx(want["mAP"]["sparse"]["k5"]["mAP"], abs=1e-9)
    assert given.report["timing_error_ms"] == pytest.approx(given.report["timing_error_frames"] * 1000 / 120)


def test_games_are_chosen_by_split_and_name(shared):
    folder = shared / "oracles/events"
    for split, games in (("", 3), ("#test", 3), ("#test_2", 1), ("#test_1,test_3", 2)):
        r = score(f"openttgames:{folder}{split}", folder / "predicted_events.json") if games == 3 else None
        assert r is None or r.report.rule["games"] == games
        if games < 3:  # the file also speaks of other games
            with pytest.raises(TercelError, match="the truth has no game"):
                score(f"{folder}{split}", folder / "predicted_events.json")
    one = score(f"{folder}#test_2", folder / "test_2/probabilities.csv", resamples=0)
    assert one.report.rule["games"] == 1
    with pytest.raises(TercelError, match="no split or game 'game_9'"):
        score(f"{folder}#game_9", folder)


def test_ball_on_the_command_line(tercel, rallies):
    truth, pred = rallies / "truth", rallies / "pred"
    said = tercel("score", "--truth", truth, "--pred", pred, "--rule", "wasb,totnet", "--tolerance", "50%",
                  "--ball-size", "10", "--size", "720x1280", "--json")  # fmt: skip
    assert said.code == 0, said.err
    out = json.loads(said.out)
    assert set(out) == {"scores", "findings", "run", "data"}
    f1 = {s["where"]["rule"]: s["value"] for s in out["scores"] if s["name"] == "F1" and set(s["where"]) == {"rule"}}
    balls = sum(i % 10 > 0 for n in (30, 20) for i in range(n))
    found = sum(i % 7 > 0 for n in (30, 20) for i in range(n))
    hits = sum(i % 10 > 0 and i % 7 > 0 for n in (30, 20) for i in range(n))
    assert f1 == dict.fromkeys(("50%", "wasb", "totnet"), pytest.approx(2 * hits / (balls + found)))
    table = tercel("score", "--truth", truth, "--pred", pred).out
    assert re.search(r"^tracknet_v2_v3 +d <= 4 at 512x288 ", table, re.M)
    assert re.search(r"^px +1 +2 +3 ", table, re.M)
    assert re.search(r"^[ab] +\d+ ", table, re.M)


def test_frames_that_the_truth_lacks_exit_with_1(tercel, rallies):
    with open(rallies / "pred/a.csv", "a") as f:
        f.write("30,1,5,5,0.9\n")
    said = tercel("score", "--truth", rallies / "truth", "--pred", rallies / "pred")
    assert said.code == 1
    assert "a.csv: frame 30" in said.err
    assert said.out, "the scores are printed all the same"


def test_ball_files_that_do_not_fit(tercel, rallies):
    (rallies / "pred/a.csv").rename(rallies / "pred/c.csv")
    said = tercel("score", "--truth", rallies / "truth", "--pred", rallies / "pred")
    assert said.code == 2
    assert "no rally 'c'" in said.err
    for words, option in (("height x width", ["--size", "720"]), ("no rule", ["--rule", "wasp"]),
                          ("not understood", ["--tolerance", "5"])):  # fmt: skip
        said = tercel("score", "--truth", rallies / "truth", "--pred", rallies / "truth", *option)
        assert said.code == 2, option
        assert words in said.err
    assert tercel("score", "--truth", "x").code == 2


def test_events_of_ball_labels(tercel, tmp_path):
    rows = [f"{i},1,{100 + i},200,{'bounce' if i in (20, 60) else ''}" for i in range(10, 90)]
    (tmp_path / "clip.csv").write_text("\n".join(["Frame,Visibility,X,Y,Event", *rows, ""]))
    (tmp_path / "clip_events.csv").write_text("Frame,Event,Score\n21,bounce,0.9\n60,bounce,0.8\n")
    said = tercel("score", "--truth", tmp_path / "clip.csv", "--pred", tmp_path / "clip_events.csv", "--fps", "50",
                  "--json")  # fmt: skip
    assert said.code == 0, said.err
    values = {s["name"]: s["value"] for s in json.loads(said.out)["scores"] if "class" not in s["where"]}
    assert (values["mAP@0"], values["mAP@1"], values["timing_error_ms"]) == (0.25, 1, 10)
    printed = tercel("score", "--truth", tmp_path / "clip.csv", "--pred", tmp_path / "clip_events.csv").out
    assert re.search(r"^as given +mean +2 ", printed, re.M)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Frame,Event,Score\n-3,net,0.5\n", "e.csv:2: frame is '-3'"),
        ("Frame,Event,Score\n3,,0.5\n", "e.csv:2: the event has no name"),
        ("Frame,Event,Score\n3,net,1.5\n", "e.csv:2: score is '1.5'"),
        ("Frame,Event,Score\n3,net\n", "e.csv:2: 2 fields"),
        ("frame,p_net\n3,0.5\n3,0.6\n", "e.csv:3: frame 3 occurs twice"),
        ("frame,p_net\n3,x\n", "e.csv:2: p_net is 'x'"),
    ],
)
def test_bad_event_files(tmp_path, text, words):
    (tmp_path / "g").mkdir()
    (tmp_path / "g/events_markup.json").write_text('{"3": "net"}')
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(TercelError, match=re.escape(words)):
        score(str(tmp_path / "g"), tmp_path / "e.csv")


def test_check_table(tercel, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("name,TP,TN,FP1,FP2,FN,total,accuracy\ngood,8,1,1,0,2,12,75.0\nbad,8,1,1,0,2,13,70.0\n")
    said = tercel("score", "--check-table", path)
    assert said.code == 1
    assert re.search(r"^good +2 +yes ", said.out, re.M)
    assert re.search(r"^bad +3 +no +13 ≠ 12 +70 ≠ 75", said.out, re.M)
    assert f"{path}:3" in said.err
    out = json.loads(tercel("score", "--check-table", path, "--json").out)
    assert [r["ok"] for r in out["rows"]] == [True, False]
    path.write_text("name,TP,TN,FP1,FP2,FN,total,accuracy\ngood,8,1,1,0,2,12,75.0\n")
    assert tercel("score", "--check-table", path).code == 0


@pytest.mark.parametrize("task", ["ball", "events"])
def test_video_starts_without_torch_and_drawing(task, tmp_path):
    (tmp_path / "clip.csv").write_text("Frame,Visibility,X,Y,Event\n0,1,5,5,net\n1,0,0,0,\n")
    (tmp_path / "clip_events.csv").write_text("Frame,Event,Score\n0,net,0.9\n")
    code = (
        "import sys; from tercel.score import score; score(sys.argv[1], sys.argv[2], task=sys.argv[3])\n"
        "heavy = {'torch', 'timm', 'torchvision', 'matplotlib', 'cv2', 'scipy', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    pred = tmp_path / ("clip.csv" if task == "ball" else "clip_events.csv")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "clip.csv"), str(pred), task], check=True)


def test_a_tolerance_in_percent_takes_the_size_from_boxes(tmp_path):
    """Balls of 8 x 8 and 18 x 8 px (12 px across as a circle of that area); both predictions are 5 px off."""
    from PIL import Image

    for i in range(2):
        Image.new("RGB", (128, 96)).save(tmp_path / f"f{i}.png")
    rows = ["run,frame,image,x_px,y_px,w_px,h_px", "r,0,f0.png,40,40,8,8", "r,1,f1.png,60,40,18,8"]
    (tmp_path / "frames.csv").write_text("\n".join([*rows, ""]))
    (tmp_path / "pred").mkdir()
    (tmp_path / "pred/r.csv").write_text("Frame,Visibility,X,Y,Score\n0,1,44.5,39.5,0.9\n1,1,64.5,39.5,0.8\n")
    r = score(f"sequence:{tmp_path}", tmp_path / "pred", task="ball", rules=["wasb"], tolerance="50%")
    assert [r.report.table[0][k] for k in ("rule", "TP", "FP_wrong", "mean_error")] == ["50%", 1, 1, 5]
    with pytest.raises(TercelError, match="needs the ball's size"):
        score(str(tmp_path / "pred/r.csv"), tmp_path / "pred", task="ball", tolerance="50%")
