"""`tercel score` on files of keypoints: known numbers, what is recognised, what is refused, what the command prints."""

from __future__ import annotations

import json

import pytest

from tercel.core.finding import TercelError
from tercel.score import score

NAMES = ["nose", "left", "right"]
TRUE = [[60, 20, 2, 20, 60, 2, 100, 60, 1], [260, 120, 2, 220, 160, 2, 0, 0, 0]]
BOXES = [[10, 10, 100, 60], [210, 110, 100, 60]]


def value(result, name):
    return next(s.value for s in result.scores if s.name == name and not s.where)


@pytest.fixture
def files(tmp_path):
    """One picture with two animals, both found, the second one with left and nose apart by 4 px."""
    truth = {
        "images": [{"id": 5, "width": 400, "height": 300, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "fox", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}],
        "annotations": [
            {"id": i, "image_id": 5, "category_id": 3, "bbox": b, "area": 6000, "iscrowd": 0, "keypoints": kp,
             "num_keypoints": 3 - i}
            for i, (kp, b) in enumerate(zip(TRUE, BOXES, strict=True))
        ],
    }  # fmt: skip
    moved = [264, 120, 2, 224, 160, 2, 300, 160, 2]
    found = [{"image_id": 5, "category_id": 3, "keypoints": kp, "bbox": b, "score": s}
             for kp, b, s in zip([TRUE[0], moved], BOXES, (0.9, 0.8), strict=True)]  # fmt: skip
    paths = []
    for name, content in (
        ("gt", truth),
        ("poses", found),
        ("unboxed", [{k: v for k, v in r.items() if k != "bbox"} for r in found]),
        ("boxes", [{k: v for k, v in r.items() if k != "keypoints"} for r in found]),
        ("none", []),
    ):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(content))
    return f"coco:{paths[0]}", *paths[1:]


def test_oracle_files(shared):
    folder = shared / "oracles/coco_keypoints"
    want = json.loads((folder / "expected.json").read_text())
    r = score(f"coco:{folder / 'gt.json'}", folder / "dets.json", sigmas=want["sigmas"], resamples=0)
    assert r.task == "keypoints"
    assert [value(r, f"OKS_{n}") for n in want["stats_names"]] == pytest.approx(want["stats"], abs=1e-6)
    json.dumps(r.to_json(), allow_nan=False)


def test_poses_are_recognised_and_their_boxes_judged_beside(files):
    truth, poses, unboxed, boxes, none = files
    r = score(truth, poses, resamples=0)
    assert r.task == "keypoints"
    assert value(r, "PCK@.05") == 1  # 4 px of 100
    assert value(r, "point_error_px") == pytest.approx(8 / 5)
    assert value(r, "box_AP") == pytest.approx(1)
    assert "box_AP" not in {s.name for s in score(truth, unboxed, resamples=0).scores}
    assert score(truth, boxes, resamples=0).task == "boxes"
    assert value(score(truth, poses, "boxes", resamples=0), "AP") == pytest.approx(1)
    assert value(score(truth, none, "keypoints", resamples=0), "PCK@.2") == 0


def test_sigmas(files):
    truth, poses, *_ = files
    narrow, one = (score(truth, poses, sigmas=s, resamples=0) for s in ((0.001, 0.001, 0.001), (0.001,)))
    assert value(narrow, "OKS_AP") < 1
    assert value(narrow, "OKS_AP") == value(one, "OKS_AP")
    assert one.report.rule["sigmas"] == [0.001] * 3


@pytest.mark.parametrize(
    ("pred", "options", "says"),
    [
        (3, {"task": "keypoints"}, r"boxes\.json holds boxes without points.*\n.*--task boxes"),
        (2, {"task": "boxes"}, r"unboxed\.json holds no boxes but the hulls.*\n.*--task keypoints"),
        (1, {"lab": True}, "the lab judges boxes"),
        (1, {"matching": "voc"}, "leave out .*--matching"),
        (1, {"sigmas": (0.1, 0.1)}, "2 sigmas for 3 keypoints"),
        (3, {"sigmas": (0.1,)}, "sigmas are for keypoints, and boxes are judged"),
        (1, {"task": "ball", "sigmas": (0.1,)}, "not for ball"),
    ],
)
def test_misuse(files, pred, options, says):
    with pytest.raises(TercelError, match=f"(?s){says}"):
        score(files[0], files[pred], **options)


def test_what_the_command_prints(tercel, files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    truth, poses, *_ = files
    said = tercel("score", "--truth", truth, "--pred", poses, "--resamples", 0, "--sigmas", 0.05)
    assert said.code == 0
    rows = {line.split()[0]: line.split()[1:] for line in said.out.splitlines() if line.split()}
    assert rows["PCK@.05"][0] == "1.000"
    assert rows["nose"][:2] == ["2", "2"]
    assert rows["right"][:3] == ["1", "1", "1.000"]
    assert "boxes of the same predictions" in said.out
    out = json.loads(tercel("score", "--truth", truth, "--pred", poses, "--json", "--resamples", 0).out)
    assert {"name": "PCK@.05", "value": 1.0, "where": {"point": "nose"}}.items() <= next(
        s for s in out["scores"] if s["name"] == "PCK@.05" and s["where"] == {"point": "nose"}
    ).items()
