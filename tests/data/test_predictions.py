"""Prediction files of four kinds, told apart by content, and every way they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.finding import Ledger, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data import source
from tercel.data.predictions import read_predictions, write_predictions

CLASSES = ("ball", "net")


def truth(ids: tuple[str, ...] = ("7", "8"), category_ids: tuple[int, ...] = (3, 90)) -> Dataset:
    records = (Record(i, (Frame(Path(f"/x/pic_{i}.jpg")),), (40, 60), Objects.empty((40, 60))) for i in ids)
    return Dataset(Schema(CLASSES, category_ids=category_ids), tuple(records))


def preds(*rows: tuple[int, list[float], float]) -> Objects:
    labels, boxes, scores = zip(*rows, strict=True) if rows else ((), np.zeros((0, 4)), ())
    return Objects((40, 60), np.array(labels, np.int64), np.array(boxes), scores=np.array(scores, np.float64))


def kept(found: dict[str, Objects]) -> dict[str, list[tuple[int, list[float], float]]]:
    def rows(o: Objects) -> list[tuple[int, list[float], float]]:
        assert o.scores is not None
        scores = [round(float(s), 4) for s in o.scores]
        return list(zip(o.labels.tolist(), [[round(float(v), 3) for v in b] for b in o.boxes], scores, strict=True))

    return {k: rows(o) for k, o in found.items()}


GOOD = {"7": [(1, [1, 2, 11, 22], 0.5), (0, [5, 5, 9, 9], 0.25)], "8": []}


def jsonl(path: Path, *lines: Any, classes: tuple[str, ...] = CLASSES, version: int = 1) -> Path:
    header = {"format": "tercel-predictions", "version": version, "task": "boxes", "classes": classes, "source": ""}
    texts = [x if isinstance(x, str) else json.dumps(x) for x in (header, *lines)]
    path.write_text("\n".join(texts) + "\n")
    return path


LINE = {"id": "7", "size": [40, 60], "labels": [1, 0], "boxes": [[1, 2, 11, 22], [5, 5, 9, 9]], "scores": [0.5, 0.25]}


def test_the_same_detections_in_every_kind_of_file(tmp_path: Path) -> None:
    write_predictions(tmp_path / "preds.jsonl", CLASSES, [("7", preds(*GOOD["7"])), ("8", preds())])
    (tmp_path / "coco.json").write_text(
        json.dumps(
            [
                {"image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 20], "score": 0.5},
                {"image_id": 7, "category_id": 3, "bbox": [5, 5, 4, 4], "score": 0.25},
            ]
        )
    )
    texts = {
        "yolo": "1 0.1 0.3 0.1666666667 0.5 0.5\n0 0.11666666667 0.175 0.06666666667 0.1 0.25\n",
        "odm": "net .5 1 2 10 20\nball .25 5 5 4 4\n",
        "corners": "net .5 1 2 11 22\nball .25 5 5 9 9\n",
        "shares": "net .5 0.1 0.3 0.1666666667 0.5\nball .25 0.11666666667 0.175 0.06666666667 0.1\n",
    }
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "pic_7.txt").write_text(text)
    for name in ("preds.jsonl", "coco.json", *texts):
        found = read_predictions(tmp_path / name, truth(), corners=name == "corners")
        assert kept(found) == GOOD, name
        assert all(o.size == (40, 60) for o in found.values())


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4),
            st.floats(0, 1, width=32),
        ),
        max_size=5,
    )
)
def test_preds_jsonl_is_lossless(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    o = preds(*((c, [*np.minimum(b[:2], b[2:]), *np.maximum(b[:2], b[2:])], s) for c, b, s in rows))
    path = tmp_path_factory.mktemp("p") / "preds.jsonl"
    write_predictions(path, CLASSES, [("8", o)])
    assert read_predictions(path, truth())["8"].same(o)


def test_writing_refuses(tmp_path: Path) -> None:
    path = tmp_path / "preds.jsonl"
    with pytest.raises(TercelError, match="two predictions for the id 'a'"):
        write_predictions(path, CLASSES, [("a", preds()), ("a", preds())])
    with pytest.raises(TercelError, match="have no scores"):
        write_predictions(path, CLASSES, [("a", Objects.empty((4, 4)))])
    assert not path.exists()
    write_predictions(path, CLASSES, [("a", preds())])
    before = path.read_bytes()
    with pytest.raises(TercelError, match="exists already"):
        write_predictions(path, CLASSES, [])
    assert path.read_bytes() == before
    write_predictions(path, CLASSES, [], replace=True)


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p", LINE, classes=("net", "unused", "ball")[:2])
    with pytest.raises(TercelError, match=r"p:2: unknown class 'unused'"):
        read_predictions(path, truth())
    path = jsonl(tmp_path / "p", LINE | {"labels": [0, 2]}, classes=("net", "unused", "ball"))
    assert read_predictions(path, truth())["7"].labels.tolist() == [1, 0]


def test_pictures_are_matched_by_id_then_by_file_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p", LINE | {"id": "pic_7"})
    assert len(read_predictions(path, truth())["7"]) == 2
    numbered = Dataset(
        Schema(CLASSES),
        tuple(
            Record(i, (Frame(Path(f"{s}.jpg")),), (40, 60), Objects.empty((40, 60)))
            for i, s in (("a", "000139"), ("b", "000140"))
        ),
    )
    row = {"image_id": 139, "category_id": 1, "bbox": [1, 2, 10, 20], "score": 0.5}
    (tmp_path / "c.json").write_text(json.dumps([row]))
    ledger = Ledger()
    found = read_predictions(tmp_path / "c.json", numbered, ledger=ledger)
    assert [len(found[i]) for i in "ab"] == [1, 0]
    assert found["a"].labels.tolist() == [0]
    assert [f.check for f in ledger.findings()] == ["predictions.category_ids"]  # 1..C was an assumption: said


def test_results_in_any_order_reach_their_picture(tmp_path: Path) -> None:
    rows = [ROW | {"image_id": i, "bbox": [x, 1, 2, 2]} for i, x in ((8, 1), (7, 2), (8, 3), (7, 4))]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    found = read_predictions(tmp_path / "c.json", truth())
    assert {i: o.boxes[:, 0].tolist() for i, o in found.items()} == {"7": [2, 4], "8": [1, 3]}


def test_unknown_pictures_are_counted(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("pic_7", "other"):
        (tmp_path / "d" / f"{name}.txt").write_text("net .5 1 2 10 20\n")
    row = {"image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 20], "score": 0.5}
    (tmp_path / "c.json").write_text(json.dumps([row, row | {"image_id": 9, "category_id": 1}]))
    jsonl(tmp_path / "p", LINE, LINE | {"id": "9"})
    for name in ("d", "c.json", "p"):
        ledger = Ledger()
        found = read_predictions(tmp_path / name, truth(), ledger=ledger)
        assert len(found["7"]) >= 1
        assert [(f.check, f.count) for f in ledger.findings()] == [("predictions.unknown_picture", 1)]


def test_no_picture_in_common_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "other.txt").write_text("net .5 1 2 10 20\n")
    (tmp_path / "c.json").write_text('[{"image_id": 9, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    jsonl(tmp_path / "p", LINE | {"id": "9"})
    for name in ("d", "c.json", "p"):
        with pytest.raises(TercelError, match="no picture of the predictions occurs in the truth"):
            read_predictions(tmp_path / name, truth())


ROW = {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 4}, r"c\.json\[1\] \(image_id 7\): unknown class 4"),
        ({"score": 1.01}, r"\[1\].*a score outside 0\.\.1"),
        ({"score": float("nan")}, r"\[1\].*NaN or infinite"),
        ({"bbox": [1, 2, float("inf"), 4]}, r"\[1\].*NaN or infinite"),
        ({"bbox": [1, 2, -3, 4]}, r"\[1\].*a negative width or height"),
        ({"bbox": [1, 2, 3]}, r"\[1\]: bbox is x y width height"),
        ({"bbox": None}, r"\[1\]: bbox is x y width height"),
        ({"score": "high"}, r"\[1\]: bbox is x y width height and score a number"),
        ({"image_id": [7]}, r"\[1\]: image_id and category_id are ids"),
    ],
)
def test_bad_coco_results(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps([ROW, ROW | change]))
    with pytest.raises(TercelError, match=message):
        read_predictions(tmp_path / "c.json", truth())


@pytest.mark.parametrize("key", list(ROW))
def test_coco_results_that_lack_a_key(key: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps([ROW, {k: v for k, v in ROW.items() if k != key}]))
    with pytest.raises(TercelError, match=rf"c\.json\[1\]: has no '{key}'"):
        read_predictions(tmp_path / "c.json", truth())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE | {"scores": [0.5, 2]}, "p:2: scores are probabilities"),
        (LINE | {"scores": [0.5]}, "p:2: scores has shape"),
        (LINE | {"boxes": [[1, 2, 0, 4], [5, 5, 9, 9]]}, "p:2: boxes are x1 y1 x2 y2"),
        (LINE | {"boxes": [[1, 2, float("nan"), 4], [5, 5, 9, 9]]}, "p:2: boxes holds a value that is not finite"),
        (LINE | {"labels": [0, 5]}, "p:2: "),
        (LINE | {"labels": [0, -1]}, "p:2: labels are class ids"),
        (LINE | {"size": [60, 40]}, "p:2: predicted on 40x60, but the truth of '7' is 60x40"),
        (LINE | {"id": 7}, "p:2: needs an id and scores"),
        ({k: v for k, v in LINE.items() if k != "scores"}, "p:2: needs an id and scores"),
        ('{"id": "7", "si', "p:2: not JSON"),
        ("[1]", "p:2: not a JSON object"),
    ],
)
def test_bad_lines_of_preds_jsonl(line: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TercelError, match=message):
        read_predictions(jsonl(tmp_path / "p", line), truth())


def test_bad_preds_jsonl(tmp_path: Path) -> None:
    with pytest.raises(TercelError, match="p:3: a second line for '7'"):
        read_predictions(jsonl(tmp_path / "p", LINE, LINE), truth())
    with pytest.raises(TercelError, match="p:3: a second line for 'pic_7'"):
        read_predictions(jsonl(tmp_path / "p", LINE, LINE | {"id": "pic_7"}), truth())
    with pytest.raises(TercelError, match="p:1: version 2"):
        read_predictions(jsonl(tmp_path / "p", LINE, version=2), truth())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("net .5 1 2 10", "a detection is"),
        ("net x 1 2 10 20", "a detection is"),
        ("nett .5 1 2 10 20", "unknown class 'nett'"),
        ("net 1.5 1 2 10 20", "a score outside"),
        ("net .5 1 2 -10 20", "a negative width"),
        ("net nan 1 2 10 20", "a number that is NaN"),
        ("2 .5 .5 .1 .1 .9", "unknown class 2"),
        ("1 .5 .5 .1 .1", "a detection is"),
        ("1 .5 .5 .1 .1 1.2", "a score outside"),
    ],
)
def test_bad_text_lines(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "7.txt").write_text(("net .5 1 2 10 20\n" if line[0] == "n" else "1 .5 .5 .1 .1 .9\n") + line + "\n")
    with pytest.raises(TercelError, match=rf"7\.txt:2: {message}"):
        read_predictions(tmp_path, truth())


def test_what_is_no_prediction_file(tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text('{"images": [], "annotations": []}')
    (tmp_path / "x.bin").write_bytes(b"\x00\x01")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("gt.json", "is no prediction file"),
        ("x.bin", "is no prediction file"),
        ("empty", "holds no text file"),
        ("nothing", "does not exist"),
    ):
        with pytest.raises(TercelError, match=message):
            read_predictions(tmp_path / name, truth())


def test_the_published_example_folder(shared: Path) -> None:
    """7 pictures, 15 truths, 24 detections; the same detections as shares and as px."""
    root = shared / "data/object-detection-metrics"
    d = source.read(f"{root}#groundtruths", pictures=False)
    found = read_predictions(root / "detections", d)
    assert (len(d), sum(len(r.objects) for r in d.records)) == (7, 15)
    assert sum(len(o) for o in found.values()) == 24
    assert found["00001"].boxes[0].tolist() == [5, 67, 36, 115]  # "person .88 5 67 31 48"
    with pytest.raises(TercelError, match="whose size the truth does not tell"):
        read_predictions(root / "detections_rel", d)
    sized = tuple(  # its pictures are 200 px wide and high
        Record(r.id, r.frames, (200, 200), r.objects.replace(size=(200, 200))) for r in d.records
    )
    relative = read_predictions(root / "detections_rel", Dataset(d.schema, sized))
    for id_, o in found.items():
        np.testing.assert_allclose(relative[id_].boxes, o.boxes, atol=0.51)  # shares were made from whole px


def test_coco_fixtures(shared: Path) -> None:
    tests = shared / "data/coco-eval-fixtures/tests/dataset/cocoapi"
    d = source.read(str(tests / "instances_val2014_100.json"), pictures=False, as_written=True)
    path = tests / "instances_val2014_fakebbox100_results.json"
    found = read_predictions(path, d)
    results = json.loads(path.read_text())
    assert sum(len(o) for o in found.values()) == len(results)
    for r in results[:50]:
        o = found[str(r["image_id"])]
        assert any(
            np.float32(r["score"]) == o.scores[i]  # type: ignore[index]
            and d.schema.category_ids[o.labels[i]] == r["category_id"]
            and o.boxes[i, 0] == np.float32(r["bbox"][0])
            for i in range(len(o))
        )


def test_five_thousand_pictures_lose_nothing(tmp_path: Path) -> None:
    """36,781 truths and 43,700 detections; how long it takes is a benchmark (score_speed)."""
    rng = np.random.default_rng(0)

    def boxes(n: int) -> list[list[float]]:
        return np.round(np.concatenate([rng.uniform(0, 400, (n, 2)), rng.uniform(2, 80, (n, 2))], 1), 2).tolist()

    n, rows, dets = 5000, 36_781, 43_700
    owner, cats = rng.integers(0, n, rows).tolist(), rng.integers(1, 81, rows).tolist()
    content = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640} for i in range(n)],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(1, 81)],
        "annotations": [
            {"id": i, "image_id": o, "category_id": c, "bbox": b, "area": b[2] * b[3] * 0.6, "iscrowd": 0}
            for i, (o, c, b) in enumerate(zip(owner, cats, boxes(rows), strict=True))
        ],
    }
    (tmp_path / "gt.json").write_text(json.dumps(content))
    owner, cats = rng.integers(0, n, dets).tolist(), rng.integers(1, 81, dets).tolist()
    results = [
        {"image_id": o, "category_id": c, "bbox": b, "score": 0.5}
        for o, c, b in zip(owner, cats, boxes(dets), strict=True)
    ]
    (tmp_path / "dt.json").write_text(json.dumps(results))
    d = source.read(f"coco:{tmp_path / 'gt.json'}", pictures=False)
    found = read_predictions(tmp_path / "dt.json", d)
    assert sum(len(r.objects) for r in d.records) == rows
    assert sum(len(o) for o in found.values()) == dets
