"""Objects: validated at birth, never changed, every column carried along."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.objects import Objects, labels_count

N, K = 4, 3


def full(n: int = N) -> Objects:
    """All columns, each row different from the others."""
    i = np.arange(n)
    return Objects(
        (40, 60),
        i,
        np.stack([i, i + 1, i + 5, i + 7], 1) + 0.5,
        i % 2 == 1,
        obbs=np.stack([i + 9, i + 9, i + 4, i + 2, i / 10], 1),
        points=np.arange(n * K * 2).reshape(n, K, 2) / 3,
        visible=(np.arange(n * K).reshape(n, K) % 3),
        point_scores=np.arange(n * K).reshape(n, K) / (n * K),
        frame=i + 2,
        track=i + 70,
        area=i + 33.0,
        scores=i / 10,
    )


COLUMNS = (
    *("labels", "boxes", "ignore", "obbs", "points", "visible", "point_scores"),
    *("frame", "track", "area", "scores"),
)


def test_all_columns_are_there() -> None:
    assert full().columns == COLUMNS
    assert Objects.empty((4, 4)).columns == ("labels", "boxes", "ignore")


@pytest.mark.parametrize("rows", [[2, 0], np.array([True, False, True, False]), slice(1, 3), np.int64(1), [], [-1]])
def test_rows_take_every_column_along(rows: Any) -> None:
    o = full()
    picked = o[rows]
    index = np.atleast_1d(
        np.arange(N)[rows if isinstance(rows, slice) else np.asarray(rows, None if len(np.atleast_1d(rows)) else int)]
    )
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(picked, name), getattr(o, name)[index])
    assert picked.size == o.size


def test_concat_and_empty() -> None:
    o = full()
    assert Objects.concat([o[:1], o[1:]]).same(o)
    assert Objects.empty((9, 9), like=o).columns == COLUMNS
    assert Objects.empty((9, 9), like=o).points.shape == (0, K, 2)  # type: ignore[union-attr]
    assert Objects.concat([Objects.empty(o.size, like=o), o]).same(o)
    with pytest.raises(ValueError, match="parts differ"):
        Objects.concat([o, Objects.empty((40, 60))])
    with pytest.raises(ValueError, match="parts differ"):
        Objects.concat([o, o.replace(size=(41, 60))])


def test_json_there_and_back() -> None:
    o = full()
    assert Objects.from_json(json.loads(json.dumps(o.to_json()))).same(o)
    none = Objects.empty((9, 9), like=o.replace(ignore=np.zeros(N, bool)))
    assert len(Objects.from_json(json.loads(json.dumps(none.to_json())))) == 0


def test_arrays_are_private_and_read_only() -> None:
    mine = np.array([[1.0, 2, 3, 4]], np.float32)
    o = Objects((9, 9), [0], mine)
    mine[:] = 7
    assert o.boxes.tolist() == [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match="read-only"):
        o.boxes[0] = 0
    with pytest.raises(AttributeError):
        o.labels = np.zeros(1)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 5)}, "size is .height, width."),
        ({"labels": [0, -1, 0, 0]}, "labels are class ids"),
        ({"labels": [0, 0.5, 0, 0]}, "labels holds whole numbers"),
        ({"boxes": np.zeros((N, 5))}, r"boxes has shape \[N,4\] with N=4, not \[4, 5\]"),
        ({"boxes": np.zeros((N - 1, 4))}, r"boxes has shape \[N,4\]"),
        ({"boxes": np.full((N, 4), np.nan)}, "boxes holds a value that is not finite"),
        ({"boxes": np.array([[0, 0, 1, 1]] * 3 + [[5, 5, 4, 9]])}, "row 3 is"),
        ({"obbs": np.zeros((N, 4))}, "obbs has shape"),
        ({"points": None}, "come together"),
        ({"visible": np.zeros((N, K + 1))}, "need visible"),
        ({"scores": [0, 0.5, 1, 1.01]}, r"scores are probabilities in 0\.\.1"),
        ({"scores": [0, 0.5, 1, np.inf]}, "scores holds a value that is not finite"),
        ({"area": [1, 2]}, "area has shape"),
    ],
)
def test_bad_columns_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        full().replace(**changes)


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a mask over 4 objects"):
        full()[np.array([True, False])]


def test_labels_count_leaves_ignored_objects_out() -> None:
    assert labels_count([full(), full(2)], 4).tolist() == [2, 0, 1, 0]


@given(st.lists(st.booleans(), min_size=N, max_size=N))
def test_a_mask_and_its_complement_hold_everything_once(mask: list[bool]) -> None:
    o, m = full(), np.array(mask)
    both = Objects.concat([o[m], o[~m]])
    assert both[np.argsort(both.labels)].same(o)


def test_trusted_objects_equal_checked_ones() -> None:
    """The constructor that readers use for speed gives what the checking one gives."""
    o = full()
    columns = {n: getattr(o, n) for n in o.columns}
    trusted = Objects._trusted(o.size, columns)
    assert trusted.same(o)
    assert trusted[[1, 0]].same(o[[1, 0]])
    assert trusted.replace(size=(41, 60)).size == (41, 60)
    few = Objects._trusted(o.size, {n: columns[n] for n in ("labels", "boxes", "ignore")})
    assert few.scores is None
    assert few.columns == ("labels", "boxes", "ignore")


def test_point_scores_come_with_points_and_are_probabilities() -> None:
    o = full()
    with pytest.raises(ValueError, match=r"point_scores \[N,K\] come with points"):
        o.replace(points=None, visible=None)
    with pytest.raises(ValueError, match=r"point_scores \[N,K\] come with points"):
        o.replace(point_scores=o.point_scores[:, :2])  # type: ignore[index]
    with pytest.raises(ValueError, match="point_scores are probabilities"):
        o.replace(point_scores=o.point_scores + 0.5)  # type: ignore[operator]


def test_hulled_boxes_are_those_that_labelled_points_span() -> None:
    points = np.array([[[1, 2], [9, 4], [5, 8], [30, 30]]] * 5, np.float32)
    visible = [[2, 1, 2, 0], [2, 2, 2, 2], [2, 2, 0, 0], [2, 1, 2, 0], [0, 0, 0, 0]]
    boxes = [[1, 2, 9, 8], [1, 2, 30, 30], [1, 2, 9, 4], [1, 2, 9, 8.1], [0, 0, 0, 0]]
    o = Objects((40, 60), [0] * 5, boxes, points=points, visible=visible)
    assert o.hulled.tolist() == [True, True, False, False, False]  # the third has two points only
    assert o.replace(points=None, visible=None).hulled.tolist() == [False] * 5
