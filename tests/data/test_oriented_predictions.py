"""Oriented boxes in COCO-like json (truth and results), preds.jsonl and YOLO-OBB text, and what spoils a score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel.core.finding import Ledger, TercelError
from tercel.core.geometry import canonical_obb, obb_corners, obb_hull
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data import source
from tercel.data.formats import coco
from tercel.data.predictions import read_predictions, write_predictions

SIZE = (40, 60)
OBBS = np.array([[30, 20, 20, 8, 0.6], [12.5, 9.25, 10, 4, -1.2]])
SCORES = [0.75, 0.5]


def truth(*ids: str) -> Dataset:
    records = (Record(i, (Frame(Path(f"/x/pic_{i}.jpg")),), SIZE, Objects.empty(SIZE)) for i in ids or ("7", "8"))
    return Dataset(Schema(("car", "bus"), category_ids=(3, 90)), tuple(records))


def objects(obbs: Any = OBBS, scores: Any = SCORES) -> Objects:
    ours = canonical_obb(np.asarray(obbs, np.float32))
    area = ours[:, 2] * ours[:, 3]
    return Objects(SIZE, [1, 0][: len(ours)], obb_hull(ours), obbs=ours, area=area, scores=np.array(scores))


def quads() -> Any:
    """Corners of OBBS by the formula of the conventions."""
    out = []
    for cx, cy, length, width, t in OBBS:
        u, v = np.array([np.cos(t), np.sin(t)]), np.array([-np.sin(t), np.cos(t)])
        out.append([[cx, cy] + a * length / 2 * u + b * width / 2 * v for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
    return np.array(out)


def results(**extra: Any) -> list[dict[str, Any]]:
    rows = [{"image_id": 7, "category_id": (90, 3)[i], "score": SCORES[i]} for i in range(2)]
    return [r | {k: v[i] for k, v in extra.items()} for i, r in enumerate(rows)]


def save(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def yolo(folder: Path, *lines: str, name: str = "7") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def yolo_line(i: int, label: int) -> str:
    shares = quads()[i] / SIZE[::-1]
    return " ".join([str(label), *(f"{v:.9f}" for v in shares.ravel()), str(SCORES[i])])


def checks(ledger: Ledger) -> dict[str, int]:
    return {f.check: f.count for f in ledger.findings()}


def test_the_same_detections_in_every_kind_of_file(tmp_path: Path) -> None:
    swapped = OBBS[:, [0, 1, 3, 2, 4]] + [0, 0, 0, 0, np.pi / 2]  # the same rectangles
    empty = Objects.empty(SIZE, objects())
    write_predictions(tmp_path / "p.jsonl", ("car", "bus"), [("7", objects()), ("8", empty)], task="oriented")
    files = {
        "p.jsonl": tmp_path / "p.jsonl",
        "obb": save(tmp_path / "obb.json", results(obb=OBBS.tolist())),
        "swapped": save(tmp_path / "swapped.json", results(obb=swapped.tolist(), bbox=[[0, 0, 1, 1]] * 2)),
        "corners": save(tmp_path / "corners.json", results(corners=quads().reshape(2, 8).tolist())),
        "pairs": save(tmp_path / "pairs.json", results(corners=quads().tolist())),
        "yolo": yolo(tmp_path / "yolo", yolo_line(0, 1), yolo_line(1, 0)),
    }
    for name, path in files.items():
        ledger = Ledger()
        found = read_predictions(path, truth(), ledger=ledger)
        o = found["7"]
        assert o.obbs is not None, name
        assert o.scores is not None, name
        assert o.labels.tolist() == [1, 0], name
        assert o.scores.tolist() == SCORES, name
        np.testing.assert_allclose(o.obbs, OBBS, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(o.boxes, obb_hull(OBBS), atol=2e-5, err_msg=name)
        np.testing.assert_allclose(o.areas, [160, 40], rtol=1e-5, err_msg=name)
        assert len(found["8"]) == 0, name
        assert found["8"].columns == o.columns, name
        assert not ledger.findings(), name


def test_the_oracle_is_read_alike_from_obb_and_from_corners(shared: Path, tmp_path: Path) -> None:
    folder = shared / "oracles/obb_ap"
    dataset = source.read(f"coco:{folder / 'gt.json'}", pictures=False)
    assert sum(len(r.objects) for r in dataset.records) == 572
    rows = json.loads((folder / "dets.json").read_text())
    whole = read_predictions(folder / "dets.json", dataset)
    only = [{k: v for k, v in r.items() if k != "obb"} for r in rows]
    corners = read_predictions(save(tmp_path / "corners.json", only), dataset)
    assert sum(map(len, whole.values())) == 678
    for id_, o in whole.items():
        other = corners[id_]
        assert (o.obbs is None) == (other.obbs is None) is False
        distance = np.linalg.norm(obb_corners(o.obbs)[:, :, None] - obb_corners(other.obbs)[:, None], axis=-1)
        assert distance.min(axis=1).max(initial=0) < 1e-3


def test_truth_in_coco_keeps_angles_and_headings(tmp_path: Path) -> None:
    o = objects().replace(scores=None, heading=[0.6, 0.0], headed=[True, False])
    record = Record("7", (Frame(Path("/x/a.jpg")),), SIZE, o)
    coco.write(Dataset(Schema(("car", "bus")), (record,)), tmp_path / "t.json", pictures=False)
    written = json.loads((tmp_path / "t.json").read_text())["annotations"]
    assert [sorted(a) for a in written] == [
        ["area", "bbox", "category_id", "heading", "id", "image_id", "iscrowd", "obb"],
        ["area", "bbox", "category_id", "id", "image_id", "iscrowd", "obb"],
    ]
    assert source.read(str(tmp_path / "t.json"), pictures=False)["7"].objects.same(o)


def test_truth_with_angles_needs_no_bbox_and_no_area(tmp_path: Path) -> None:
    rows = [{"id": 1, "image_id": 7, "category_id": 3, "obb": [30, 20, 8, 20, 0.6], "iscrowd": 1}]
    images = [{"id": 7, "file_name": "a.jpg", "width": 60, "height": 40}]
    save(tmp_path / "t.json", {"images": images, "annotations": rows, "categories": [{"id": 3, "name": "car"}]})
    o = source.read(str(tmp_path / "t.json"), pictures=False)["7"].objects
    assert o.obbs is not None
    assert o.obbs[0].tolist() == pytest.approx([30, 20, 20, 8, 0.6 - np.pi / 2], abs=1e-6)
    assert o.areas.tolist() == [160]
    assert o.ignore.tolist() == [True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obb": [30, 20, 20, 8, 37.5]}, r"\[1\].*the angle 37\.5 is beyond a full turn"),
        ({"obb": [30, 20, 20, 8]}, r"\[1\].*obb is cx cy w h theta"),
        ({"obb": "x"}, r"\[1\].*obb is cx cy w h theta"),
        ({"obb": [30, 20, -20, 8, 0]}, r"\[1\].*negative width or height"),
        ({"obb": [30, 20, float("nan"), 8, 0]}, r"\[1\].*NaN"),
        ({"score": 1.5}, r"\[1\].*a score outside 0\.\.1"),
        ({"score": None}, r"\[1\].*NaN"),
        ({"category_id": 4}, r"\[1\].*unknown class 4"),
    ],
)
def test_bad_results(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    rows = results(obb=OBBS.tolist())
    rows[1] |= change
    with pytest.raises(TercelError, match=message):
        read_predictions(save(tmp_path / "r.json", rows), truth())


def test_results_of_two_kinds(tmp_path: Path) -> None:
    rows = results(obb=OBBS.tolist())
    rows[1]["bbox"] = rows[1].pop("obb")[:4]
    with pytest.raises(TercelError, match=r"\[1\].*has no 'obb', others have"):
        read_predictions(save(tmp_path / "r.json", rows), truth())
    with pytest.raises(TercelError, match=r"7\.txt:2: 6 fields, .*7\.txt:1 has 10"):
        read_predictions(yolo(tmp_path / "y", yolo_line(0, 1), "0 .5 .5 .1 .1 .9"), truth())
    lines = [
        {"format": "tercel-predictions", "version": 1, "classes": ["car", "bus"]},
        {"id": "7"} | objects().to_json(),
        {"id": "8", "size": SIZE, "labels": [0], "boxes": [[1, 2, 3, 4]], "scores": [0.5]},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(TercelError, match="'8' has boxes of another kind"):
        read_predictions(tmp_path / "p.jsonl", truth())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 " + yolo_line(0, 1)[2:], "7.txt:1: unknown class 2"),
        ("-1 " + yolo_line(0, 1)[2:], "7.txt:1: unknown class '-1'"),
        (yolo_line(0, 1).rsplit(maxsplit=1)[0], "are the scores missing"),
        (yolo_line(0, 1).rsplit(maxsplit=1)[0] + " 7", "a score outside"),
        ("1 " + " ".join(f"{v:.1f}" for v in quads()[0].ravel()) + " .5", "corners beyond 2 times the picture"),
    ],
)
def test_bad_yolo_lines(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TercelError) as e:
        read_predictions(yolo(tmp_path / "y", line), truth())
    assert message in f"{e.value.message} {e.value.remedy}"


def test_crossing_corners_are_counted(tmp_path: Path) -> None:
    crossed = quads()[:, [0, 2, 1, 3]]
    ledger = Ledger()
    found = read_predictions(save(tmp_path / "r.json", results(corners=crossed.tolist())), truth(), ledger=ledger)
    assert checks(ledger) == {"labels.crossing": 2}
    np.testing.assert_allclose(found["7"].areas, [160, 40], rtol=1e-5)


def test_boxes_of_preds_jsonl_follow_from_its_obbs(tmp_path: Path) -> None:
    header = {"format": "tercel-predictions", "version": 1, "classes": ["car", "bus"]}
    line = {"id": "7", "size": SIZE, "labels": [1], "obbs": [[30, 20, 8, 20, 0.6]], "scores": [0.5]}
    (tmp_path / "p.jsonl").write_text(json.dumps(header) + "\n" + json.dumps(line) + "\n")
    o = read_predictions(tmp_path / "p.jsonl", truth())["7"]
    assert o.obbs is not None
    assert o.obbs[0].tolist() == pytest.approx([30, 20, 20, 8, 0.6 - np.pi / 2], abs=1e-6)
    np.testing.assert_allclose(o.boxes, obb_hull(np.array([[30, 20, 8, 20, 0.6]])), atol=1e-5)


@pytest.mark.parametrize("key", ["obb", "bbox"])
def test_duplicates_are_counted_and_kept(key: str, tmp_path: Path) -> None:
    """Of one class on one spot of one picture; another class, picture or spot is another detection."""
    place = [30, 20, 20, 8, 0.6] if key == "obb" else [1, 2, 3, 4]
    near = [*place[:-1], place[-1] + 1e-3]
    rows = [
        {"image_id": image, "category_id": c, key: p, "score": s}
        for image, c, p, s in (
            (7, 3, place, 0.9), (7, 90, place, 0.9), (7, 3, place, 0.8), (8, 3, place, 0.9), (7, 3, place, 0.9),
            (7, 3, near, 0.9),
        )
    ]  # fmt: skip
    ledger = Ledger()
    found = read_predictions(save(tmp_path / "r.json", rows), truth(), ledger=ledger)
    assert sum(map(len, found.values())) == 6
    assert checks(ledger) == {"predictions.duplicate": 2}


@pytest.mark.parametrize(("count", "score", "warned"), [(12, 1.0, True), (12, None, False), (3, 1.0, False)])
def test_equal_scores_are_doubted(count: int, score: float | None, warned: bool, tmp_path: Path) -> None:
    rows = [
        {"image_id": 7 + i % 2, "category_id": 3, "bbox": [i, 2, 3, 4], "score": i / count if score is None else score}
        for i in range(count)
    ]
    ledger = Ledger()
    read_predictions(save(tmp_path / "r.json", rows), truth(), ledger=ledger)
    assert checks(ledger) == ({"predictions.equal_scores": count} if warned else {})


def test_unknown_pictures_are_counted(tmp_path: Path) -> None:
    rows = results(obb=OBBS.tolist())
    rows[1]["image_id"] = 99
    ledger = Ledger()
    found = read_predictions(save(tmp_path / "r.json", rows), truth(), ledger=ledger)
    assert (len(found["7"]), checks(ledger)) == (1, {"predictions.unknown_picture": 1})
