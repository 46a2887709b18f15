"""The linter for tables of counts, on tables that were published and on rows with one planted mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from tercel.core.finding import TercelError
from tercel.metrics.counts import check_table

# RESULT.md among the documents of TrackNetV4 (github.com/TrackNetV4/TrackNetV4, 558cfd6), numbers as they stand there.
TRACKNET_V4 = """\
| Model | Total Test Images | TP | TN | FP1 | FP2 | FN | Acc. | Prec. | Rec. | F1 | Speed |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| game V2 | 17193 | 15863 | 396 | 142 | 17 | 775 | 94.6 | 99.0 | 95.7 | 97.3 | 156.9 FPS |
| game V2 (+Motion) | 17193 | 15973 | 389 | 167 | 24 | 640 | 95.2 | 98.8 | 96.1 | 97.5 | 155.7 FPS |
| clip V2 | 17760 | 16195 | 393 | 163 | 25 | 993 | 93.4 | 98.9 | 94.2 | 96.4 | 160.9 FPS |
| clip V2 (+Motion) | 17760 | 16243 | 399 | 199 | 19 | 778 | 94.4 | 98.7 | 95.5 | 97.0 | 158.6 FPS |
| YOLOv7 | 13064 | 9447 | 1514 | 751 | 218 | 1134 | 72.3 | 78.5 | 60.0 | 68.0 | - |
| V2 (3 in 1 out) | 39192 | 29129 | 4264 | 468 | 358 | 4973 | 85.2 | 92.2 | 85.4 | 88.6 | 31.8 FPS |
| V2 (3 in 3 out) | 37794 | 26324 | 6013 | 438 | 393 | 4526 | 85.6 | 92.0 | 85.3 | 88.5 | 33.9 FPS |
| V2 | 37794 | 26529 | 5993 | 523 | 511 | 4731 | 84.6 | 90.8 | 84.8 | 87.7 | 162.1 FPS |
| V2 (+Motion) | 37794 | 26878 | 5834 | 565 | 672 | 4845 | 86.6 | 90.7 | 85.1 | 87.8 | 161.1 FPS |
| V3 (3 in 3 out) | 10836 | 8869 | 1378 | 55 | 66 | 468 | 94.6 | 99.2 | 95.0 | 96.8 | 15.0 FPS |
| V3 (+Motion) | 10836 | 8919 | 1387 | 55 | 16 | 459 | 95.1 | 99.2 | 95.1 | 97.1 | **15.0\\*** FPS |
"""
NEW_TENNIS = """\
Model,Total Frames,TP,TN,FP1,FP2,FN,Accuracy,Precision,Recall,F1
TrackNetV2,8472,6137,425,417,175,1318,77.46,91.20,82.32,86.53
TrackNetV4 Type A,8472,6344,406,331,194,1197,79.67,92.36,84.13,88.05
TrackNetV4 Type B,8472,6317,453,265,147,1290,79.91,93.88,83.04,88.13
"""


def check(tmp_path: Path, text: str):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return check_table(path)


def test_the_published_table_that_does_not_add_up(tmp_path):
    t = check(tmp_path, TRACKNET_V4)
    rows = {r["name"]: r for r in t.rows}
    assert [n for n, r in rows.items() if r["ok"]] == ["game V2 (+Motion)", "V3 (+Motion)"]
    assert rows["V2"]["sum"] - rows["V2"]["total"] == 38287 - 37794
    assert rows["V2"]["precision"]["computed"] == pytest.approx(96.25, abs=0.005)
    assert rows["V2"]["F1"]["computed"] == pytest.approx(90.20, abs=0.005)
    assert rows["V2 (+Motion)"]["sum"] == 38794
    assert rows["V2 (+Motion)"]["accuracy"]["computed"] == pytest.approx(84.32, abs=0.005)
    assert rows["V2 (+Motion)"]["precision"]["computed"] == pytest.approx(95.60, abs=0.005)
    assert rows["YOLOv7"]["accuracy"]["computed"] == pytest.approx(83.90, abs=0.005)
    assert rows["YOLOv7"]["F1"]["computed"] == pytest.approx(89.98, abs=0.005)
    assert "sum" in rows["YOLOv7"], "its sum is right"
    messages = [str(f) for f in t.findings if f.severity == "error"]
    assert any("1 000 too many (one digit?)" in m and "table.csv:11" in m for m in messages)
    assert any("table says 85.6 (85.56 with the printed total)" in m for m in messages)


def test_the_published_table_that_adds_up(tmp_path):
    t = check(tmp_path, NEW_TENNIS)
    assert [r["ok"] for r in t.rows] == [True, True, True]
    assert not t.findings


@pytest.mark.parametrize(
    ("column", "printed", "what"),
    [("total", 1001, "table.sum"), ("TP", 801, "table.sum"), ("accuracy", 0.891, "table.accuracy"),
     ("precision", 0.943, "table.precision"), ("recall", 0.942, "table.recall"), ("F1", 0.93, "table.F1")],
)  # fmt: skip
def test_one_wrong_number_is_found(tmp_path, column, printed, what):
    """800 right, 90 rightly empty, 30 + 20 wrong, 60 missed, as shares in another order."""
    row = {"F1": 0.936, "recall": 0.930, "precision": 0.941, "accuracy": 0.890, "total": 1000, "TN": 90, "TP": 800,
           "FP1": 30, "FN": 60, "FP2": 20}  # fmt: skip
    good = ",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n"
    assert [r["ok"] for r in check(tmp_path, good).rows] == [True]
    row[column] = printed
    bad = check(tmp_path, ",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n")
    assert what in {f.check for f in bad.findings}
    assert bad.rows[0]["ok"] is False


def test_rounding_counts_and_truncation_does_not(tmp_path):
    """2 of 3 = 66.67 %: 66.7 and 67 are right, 66.6 is not."""
    for printed, ok in (("66.7", True), ("67", True), ("66.67%", True), ("66.6", False), ("66", False)):
        assert check(tmp_path, f"TP,FP,precision\n2,1,{printed}\n").rows[0]["ok"] is ok, printed


def test_the_other_recall_is_named(tmp_path):
    t = check(tmp_path, "name;TP;FP1;FP2;FN;recall\na;60;20;5;20;60.0\n")
    assert t.rows[0]["ok"] is True
    assert t.rows[0]["recall"]["as"] == "TP / (TP + FP1 + FN)"


def test_without_counts_f1_must_follow_from_precision_and_recall(tmp_path):
    t = check(tmp_path, "method,P,R,F1\nYOLOv7,78.53,59.96,68.00\nV2,90.8,84.8,87.7\nx,80.0,60.0,70.0\n")
    assert [r["ok"] for r in t.rows] == [True, True, False]


def test_thousands_and_what_is_not_known(tmp_path):
    t = check(tmp_path, "name\tTP\tTN\tFP\tFN\ttotal\na\t1 000\t2,000\t3\t4\t3 007\nb\t1\t-\t\t2\t5\n")
    assert [r["ok"] for r in t.rows] == [True, None]
    assert {f.check for f in t.findings} == {"table.nothing_to_check"}


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,b\n1,2\n", "no column of counts"), ("TP,tp\n1,2\n", "two columns"), ("TP,FP\n1,x\n", "table.csv:2"),
     ("", "empty")],
)  # fmt: skip
def test_bad_tables_are_refused(tmp_path, text, words):
    with pytest.raises(TercelError, match=words):
        check(tmp_path, text)


def test_negative_and_broken_counts(tmp_path):
    t = check(tmp_path, "TP,FP,precision\n-1,2,0.5\n1.5,2,0.5\n")
    assert [f.check for f in t.findings] == ["table.count", "table.count"]
