"""The gallery and what stands behind it: hand-made scenes with one mistake of each kind."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tercel.core.finding import Finding, Score, Severity, TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.metrics.ap import judge_boxes
from tercel.report import plots
from tercel.report.draw import class_color
from tercel.report.gallery import CROP, Gallery
from tercel.report.judge import HIT, IGNORED, judge, judge_all
from tercel.report.reading import read_run
from tercel.report.tables import print_findings, print_scores, runs_table

SIZE = (100, 200)
CLASSES = ("cat", "dog")
GREY = np.full((*SIZE, 3), 120, np.uint8)


def scene() -> tuple[Objects, Objects]:
    """Truth and predictions with each kind of mistake once; the comments name it."""
    truth = Objects(
        SIZE,
        [0, 0, 1, 0, 0],
        [[0, 0, 20, 20], [40, 0, 60, 20], [80, 0, 100, 20], [120, 0, 160, 40], [0, 60, 40, 100]],
        ignore=[False, False, False, True, False],
    )
    pred = Objects(
        SIZE,
        [0, 0, 0, 0, 0, 0],
        [
            [0, 0, 20, 20],  # hit
            [0, 0, 20, 19],  # duplicate of it
            [40, 8, 60, 28],  # badly placed: IoU 12/28
            [80, 0, 100, 20],  # cat where a dog is
            [125, 5, 155, 35],  # inside an ignore region
            [170, 70, 190, 90],  # background
        ],
        scores=[0.9, 0.8, 0.7, 0.6, 0.5, 0.95],
    )
    return truth, pred


def gallery(read: object = lambda path: GREY, threshold: float = 0.5) -> tuple[Gallery, np.ndarray]:
    truth, pred = scene()
    data = Dataset(Schema(CLASSES), (Record("pic", (Frame(Path("pic.png")),), SIZE, truth),))
    judged = judge_all(["pic"], [truth], [pred])
    return Gallery(data, [pred], judged, read), np.array([threshold, np.nan])  # type: ignore[arg-type]


def test_each_kind_of_mistake_is_named() -> None:
    v = judge(*scene())
    assert v.kind.tolist() == [HIT, "duplicate", "localisation", "class", IGNORED, "background"]
    assert v.about.tolist() == [0, 0, 1, 2, -1, -1]
    assert v.iou[:4] == pytest.approx([1, 0.95, 12 / 28, 1])
    assert v.hit_by.tolist() == [0, -1, -1, -1, -1]


def test_verdicts_agree_with_the_counts_of_the_evaluation() -> None:
    rng = np.random.default_rng(3)
    truths, preds = [], []
    for _ in range(30):
        n, m = rng.integers(0, 8), rng.integers(0, 12)
        boxes = [rng.uniform(0, 60, (k, 2)) for k in (n, m)]
        boxes = [np.concatenate([b, b + rng.uniform(10, 40, b.shape)], axis=1) for b in boxes]
        truths.append(Objects(SIZE, rng.integers(0, 2, n), boxes[0], ignore=rng.random(n) < 0.2))
        preds.append(Objects(SIZE, rng.integers(0, 2, m), boxes[1], scores=rng.random(m).astype(np.float32)))
    table = judge_boxes(truths, preds, CLASSES, resamples=0).table
    j = judge_all([str(i) for i in range(30)], truths, preds)
    for c, row in enumerate(table):
        mine = j.kind[j.label == c]
        assert (mine == HIT).sum() == row["TP"] == (j.truth_score[j.truth_label == c] >= 0).sum()
        assert (mine == IGNORED).sum() == row["ignored"]
        assert ((mine != HIT) & (mine != IGNORED)).sum() == row["FP"]
        assert (j.truth_label == c).sum() == row["GT"]
        found = j.found(np.array([r["threshold"] for r in table]))[j.truth_label == c]
        assert found.sum() == pytest.approx(row["recall"] * row["GT"])


def test_false_positives_come_by_score_with_their_reason() -> None:
    g, _ = gallery()
    shown = g.false_positives()
    assert [round(e.score, 2) for e in shown] == [0.95, 0.8, 0.7, 0.6]  # no hit, nothing ignored
    assert [e.kind.split(" (")[0].split(":")[0] for e in shown] == [
        "background", "duplicate", "badly placed", "confused with dog",
    ]  # fmt: skip
    assert all(e.picture.shape == (CROP, CROP, 3) for e in shown)
    assert all((e.picture == class_color(0)).all(axis=2).any() for e in shown)
    assert len(g.false_positives(2)) == 2


def test_misses_name_what_happened_instead() -> None:
    g, limits = gallery()
    kinds = {(e.name, e.size): e.kind for e in g.misses(limits)}
    assert kinds == {
        ("cat", (20.0, 20.0)): "badly placed: IoU 0.43 < 0.5",
        ("cat", (40.0, 40.0)): "nothing detected there",
        ("dog", (20.0, 20.0)): "taken for cat (IoU 1.00)",
    }
    g, limits = gallery(threshold=0.95)  # now the hit is too unsure
    assert "found, but below the threshold" in {e.kind for e in g.misses(limits)}


def test_one_picture_cannot_fill_the_wall() -> None:
    empty = Objects.empty(SIZE)
    many = Objects(SIZE, [0] * 20, [[i, 0, i + 9, 9] for i in range(20)], scores=np.linspace(0.9, 0.99, 20))
    few = Objects(SIZE, [0] * 2, [[0, 0, 9, 9], [50, 50, 60, 60]], scores=[0.1, 0.2])
    records = tuple(Record(i, (Frame(Path(i)),), SIZE, empty) for i in "ab")
    judged = judge_all(["a", "b"], [empty, empty], [many, few])
    g = Gallery(Dataset(Schema(CLASSES), records), [many, few], judged, lambda path: GREY)
    assert [e.id for e in g.false_positives(5)] == ["a", "a", "a", "b", "b"]


def test_unreadable_and_changed_pictures_are_counted_not_raised() -> None:
    def gone(path: Path) -> np.ndarray:
        raise TercelError(f"{path} does not exist")

    for read, check in ((gone, "report.picture"), (lambda path: GREY[:50], "report.picture_size")):
        g, limits = gallery(read)
        assert g.false_positives() == []
        assert g.misses(limits) == []
        assert [f.check for f in g.findings] == [check]


def test_nothing_at_all() -> None:
    j = judge_all([], [], [])
    g = Gallery(Dataset(Schema(CLASSES), ()), [], j, lambda path: GREY)
    assert g.false_positives() == g.misses(np.zeros(2)) == []
    assert plots.score_histogram(j) == plots.size_histogram(j, np.zeros(2)) == plots.pr_plots([]) == []
    assert plots.loss_plots([]) == plots.schedule_plots([]) == plots.score_plots([], ["AP"]) == []


# -- plots --------------------------------------------------------------------------------------------------------


def test_a_running_median_invents_nothing() -> None:
    y = np.array([1.0, 9, 2, 8, 3, 7])
    assert plots.running_median(y, 1).tolist() == y.tolist()
    assert plots.running_median(y, 3).tolist() == [5, 2, 8, 3, 7, 5]
    flat = np.full(100, 4.0)
    assert plots.running_median(flat, 51).tolist() == flat.tolist()


def test_plots_say_what_they_are_of_and_skip_values_that_are_not_finite() -> None:
    steps = [
        {"kind": "step", "step": i, "epoch": 1 + i // 50, "losses": {"box": 1 / i if i % 10 else None}, "lr": 0.1}
        for i in range(1, 100)
    ]
    (loss,) = plots.loss_plots(steps)
    assert loss.title == "Loss: box"
    assert "n = 90" in loss.note
    assert "9 not finite" in loss.note
    assert "#0102" not in loss.svg  # all placeholders became theme colours
    assert loss.svg.startswith("<svg")
    assert all("$" not in p.svg for p in plots.schedule_plots(steps))  # no formula that nobody sets


def test_steps_are_placed_in_epochs_that_count_from_zero() -> None:
    steps = [{"step": i + 1, "epoch": i // 4} for i in range(10)]  # two whole epochs of four, and half of one
    assert plots._epochs(steps).tolist() == [i / 4 for i in range(1, 11)]


def test_at_most_eight_classes_in_one_plot_and_the_note_says_so() -> None:
    x = np.linspace(0, 1, 101)
    curves = [plots.Curve(f"c{i}", i, 0.5, x, np.where(x < i / 20, 1.0, 0.0)) for i in range(20)]
    (p,) = plots.pr_plots(curves)
    assert "8 of 20 classes" in p.note
    assert "c19" in p.svg
    assert "c0<" in p.svg


def test_sizes_far_apart_still_give_a_few_bins() -> None:
    for sizes in ([0.1, 3000.0], [5.0], [10.0, 10.0], [1.0, 20000.0]):
        edges = plots._size_edges(np.maximum(np.array(sizes), 0.5))
        assert 2 <= len(edges) <= 13
        assert edges[0] <= max(0.5, min(sizes))
        assert edges[-1] > max(sizes)
        assert (np.diff(edges) > 0).all()


# -- tables -------------------------------------------------------------------------------------------------------


def printed(show: object, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=terminal, color_system=None)
    show(console)  # type: ignore[operator]
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_tables_are_plain_text_when_nobody_watches() -> None:
    scores = [Score("AP", 0.5, 10, 0.4, 0.6), Score("AP", float("nan"), 0, where={"class": "[red]x"})]
    table = [{"class": "[red]x", "AP": float("nan"), "AP50": None, "GT": 0, "TP": 0, "FP": 3, "FN": 0}]
    text = printed(lambda c: print_scores(c, scores, table))
    assert text.isascii() or not set(text) & set("─│┌┐━┃")
    assert "0.500" in text
    assert "0.400 – 0.600" in text
    assert "[red]x" in text  # a name, not markup
    assert "nan" not in text.lower()
    assert "─" in printed(lambda c: print_scores(c, scores, table), terminal=True)


def test_control_characters_never_reach_the_terminal() -> None:
    finding = Finding("a.b", Severity.ERROR, "evil \x1b[2J name", 2, ("f.xml:3",))
    text = printed(lambda c: print_findings(c, [finding]))
    assert "\x1b" not in text
    assert "f.xml:3" in text


def test_runs_are_listed_oldest_first(finished: tuple[Path, Dataset]) -> None:
    view = read_run(finished[0], pictures=False)
    text = printed(lambda c: c.print(runs_table(c, [view])))
    assert "fake" in text
    assert "10/10" in text
    assert f"{view.headline[0].value:.3f}" in text
