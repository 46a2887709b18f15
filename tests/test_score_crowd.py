"""`tercel score --task crowd` on CrowdHuman's files: known numbers, what is recognised, refused and printed."""

from __future__ import annotations

import json

import pytest

from tercel.core.finding import TercelError
from tercel.score import score


@pytest.fixture
def files(tmp_path):
    """Two pictures of two persons; one of each is found, the other is half hidden. One mask, found too."""
    box = {"fbox": [10, 10, 20, 50], "vbox": [10, 10, 20, 50]}
    hidden = {"fbox": [60, 10, 20, 50], "vbox": [60, 10, 20, 25]}
    mask = {"tag": "mask", "fbox": [110, 10, 80, 80], "extra": {"ignore": 1}}
    people = [{"tag": "person", **box}, {"tag": "person", **hidden}, mask]
    lines = [{"ID": i, "height": 100, "width": 200, "gtboxes": people} for i in ("a", "b")]
    rows = [{"box": [10, 10, 20, 50], "score": 0.9, "tag": 1}, {"box": [120, 20, 20, 50], "score": 0.95, "tag": 1}]
    found = [{"ID": i, "height": 100, "width": 200, "dtboxes": rows} for i in ("a", "b")]
    paths = tmp_path / "annotation_val.odgt", tmp_path / "dump.jsonl"
    for path, content in zip(paths, (lines, found), strict=True):
        path.write_text("".join(f"{json.dumps(x)}\n" for x in content))
    return f"odgt:{paths[0]}", paths[1]


def values(result):
    return {s.name: s.value for s in result.scores if not s.where}


@pytest.mark.parametrize(("kind", "name", "dump"), [("full", "body_fbox", "body"), ("head", "head_hbox", "head")])
def test_oracle_files(shared, kind, name, dump):
    folder = shared / "oracles/crowd"
    want = json.loads((folder / "expected.json").read_text())[name]
    r = score(f"odgt:{folder / 'annotation.odgt'}#{kind}", folder / f"detections_{dump}.jsonl", "crowd", resamples=0)
    got = values(r)
    assert got["AP50"] == pytest.approx(want["AP"], abs=1e-9)
    assert got["MR-2"] == pytest.approx(want["MR_2"], abs=1e-9)
    if "JI" in want:
        assert got["JI"] == pytest.approx(want["JI"], abs=1e-6)
    assert (r.report.counts["persons"], r.report.counts["ignored"]) == (want["gt"], want["ignored_gt"])
    json.dumps(r.to_json(), allow_nan=False)


def test_a_dump_is_recognised_as_a_crowd(files):
    r = score(*files, resamples=10)
    assert r.task == "crowd"
    assert values(r)["MR-2"] == pytest.approx(0.5)
    assert r.report.counts["spared"] == 2
    rows = {(c["by"], c["name"]): c["recall"] for c in r.report.crowds}
    assert rows["occlusion", "bare, below .1"] == 1
    assert rows["occlusion", "heavy, .35 to .8"] == 0


def test_caps_and_options(files):
    r = score(*files, "crowd", max_detections=(1,), resamples=0)
    assert (r.report.counts["beyond_cap"], values(r)["MR-2"]) == (2, 1)  # the mask took the only place
    for options in ({"lab": True}, {"ious": (0.5,)}, {"interpolation": "11"}, {"matching": "voc"}):
        with pytest.raises(TercelError, match="rule at IoU"):
            score(*files, "crowd", **options)
    with pytest.raises(TercelError, match="one cap"):
        score(*files, "crowd", max_detections=(1, 10))
    with pytest.raises(TercelError, match="sigmas"):
        score(*files, "crowd", sigmas=(0.1,))


def test_what_the_command_prints(files, tercel):
    said = tercel("score", "--task", "crowd", "--truth", files[0], "--pred", files[1], "--resamples", "20")
    assert said.code == 0
    lines = {line.split("  ")[0].strip(): line for line in said.out.splitlines()}
    assert lines["MR-2"].split()[:2] == ["MR-2", "0.500"]
    assert "4 persons and 2 ignored boxes in 2 pictures; 4 detections, no cap. Of MR-2 lower is better." in said.out
    assert "by the hidden share of a person" in said.out
    assert "0.500*" in said.out  # no false positive at all: the curve ends before each of the points
    capped = tercel("score", "--truth", files[0], "--pred", files[1], "--max-detections", "1")
    assert "2 of them beyond the cap of 1 per picture" in capped.out
    known = json.loads(tercel("score", "--truth", files[0], "--pred", files[1], "--json").out)
    assert next(s["value"] for s in known["scores"] if s["name"] == "MR-2" and not s["where"]) == 0.5


def test_without_persons_the_command_shows_dashes(files, tmp_path, tercel):
    empty = tmp_path / "none.odgt"
    empty.write_text("".join(f'{{"ID": "{i}", "height": 100, "width": 200, "gtboxes": []}}\n' for i in "ab"))
    said = tercel("score", "--truth", f"odgt:{empty}", "--pred", files[1])
    assert next(line.split()[1] for line in said.out.splitlines() if line.startswith("MR-2")) == "–"
    assert "no truth counts" in said.err


def test_two_dumps_are_compared_and_a_lower_miss_rate_is_better(files, tmp_path, tercel):
    """B finds nobody else, and calls another place a person, surer than all: MR-2 rises, and that is worse."""
    lines = [json.loads(line) for line in files[1].read_text().splitlines()]
    for line in lines:
        line["dtboxes"].append({"box": [32, 60, 20, 30], "score": 0.99, "tag": 1})
    worse = tmp_path / "worse.jsonl"
    worse.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    said = tercel("compare", files[1], worse, "--truth", files[0], "--resamples", "50", "--json")
    assert said.code == 1
    rows = {s["name"]: s for s in json.loads(said.out)["scores"] if s["where"].keys() == {"of", "p"}}
    assert rows["MR-2"]["value"] == pytest.approx(0.5)
    assert rows["JI"]["value"] < 0
    assert {"AP50", "COCO_AP50", "AP"} <= set(rows)
    assert tercel("compare", worse, files[1], "--truth", files[0], "--resamples", "50").code == 0


def test_of_250_persons_a_comparison_loses_none(tmp_path, tercel):
    """Both dumps find everyone, B with the scores the other way round. A cap would lose 150, and is said aloud."""
    boxes = [[12 * (i % 25), 30 * (i // 25), 10, 25] for i in range(250)]
    people = [{"tag": "person", "fbox": box} for box in boxes]
    truth = tmp_path / "annotation_val.odgt"
    truth.write_text(json.dumps({"ID": "a", "height": 300, "width": 300, "gtboxes": people}) + "\n")
    dumps = []
    for name, order in (("a", range(250)), ("b", reversed(range(250)))):
        rows = [{"box": boxes[i], "score": 0.5 + k / 1000, "tag": 1} for k, i in enumerate(order)]
        dumps.append(tmp_path / f"{name}.jsonl")
        dumps[-1].write_text(json.dumps({"ID": "a", "height": 300, "width": 300, "dtboxes": rows}) + "\n")
    words = ["compare", *dumps, "--truth", f"odgt:{truth}", "--resamples", "10"]
    said = tercel(*words)
    assert said.code == 0
    assert "cap" not in said.err
    table = {line.split()[0]: line.split()[2:4] for line in said.out.splitlines() if " all " in line}
    assert table["JI"] == table["AP"] == table["COCO_AP50"] == ["1.000", "1.000"]
    assert table["AP50"] == ["0.996", "0.996"]  # 1 - 1 / 250: CrowdDet's sum starts at the first detection's point
    capped = tercel(*words, "--max-detections", "100")
    assert "beyond the cap of 100 per picture and class do not count: raise --max-detections (150x)" in capped.err
