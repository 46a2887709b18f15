"""Objects: N things on one canvas or clip. Truth and predictions are the same type."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercel.core.geometry import box_area, points_hull

# column -> (dtype, trailing dimensions; None = free but equal among the columns that share it)
_COLUMNS: dict[str, tuple[type, tuple[int | None, ...]]] = {
    "labels": (np.int64, ()),
    "boxes": (np.float32, (4,)),
    "ignore": (np.bool_, ()),
    "obbs": (np.float32, (5,)),
    "heading": (np.float32, ()),
    "headed": (np.bool_, ()),
    "points": (np.float32, (None, 2)),
    "visible": (np.uint8, (None,)),
    "point_scores": (np.float32, (None,)),
    "frame": (np.int64, ()),
    "track": (np.int64, ()),
    "area": (np.float32, ()),
    "occlusion": (np.float32, ()),
    "spread": (np.float32, (4,)),
    "quality": (np.float32, ()),
    "scores": (np.float32, ()),
}
_SAME = 0.01  # px: text files round coordinates
_REQUIRED = ("labels", "boxes", "ignore")


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects as columns of arrays, validated at birth and never changed in place.

    A ball is a point with K = 1 and a frame. A box that was derived (the hull of an oriented box or of points) serves
    drawing and size bins and is never scored. Absent is an explicit flag (`visible` 0), never a coordinate.

    Attributes:
        size: canvas (H, W) in pixels.
        labels: i64 [N], class ids 0..C-1.
        boxes: f32 [N,4], x1 y1 x2 y2 in px, x2 >= x1 and y2 >= y1; may reach beyond the canvas.
        ignore: bool [N], regions that cost nothing when found or missed (crowd, difficult, disabled, don't care).
        obbs: f32 [N,5] cx cy length width theta, or None.
        heading: f32 [N] radians, clockwise on screen from the x axis: where the front points, apart from the theta of
            the box; meaningless where `headed` is False.
        headed: bool [N], whether the front is known; required with heading.
        points: f32 [N,K,2] x y in px, or None.
        visible: u8 [N,K], 0 absent, 1 hidden (place known), 2 visible, 3 visible but blurred; required with points.
        point_scores: f32 [N,K] in 0..1, how sure a prediction is of each of its points, or None.
        frame: i64 [N] index of the frame within the clip, or None for a still picture.
        track: i64 [N] identity over time, or None.
        area: f32 [N] annotated area in px^2 (COCO: that of the mask) for size bins, or None for that of the box.
        occlusion: f32 [N] in 0..1, the share of the object that something else hides, or None where not told. It serves
            the slices of the scores.
        spread: f32 [N,4] px, standard deviations that a detector states of its oriented boxes: centre x and y, length,
            width; or None.
        quality: f32 [N] in 0..1, the IoU with its truth that a detector expects of its box, or None.
        scores: f32 [N] in 0..1 for predictions, None for truth.

    Raises:
        ValueError: a column of the wrong shape, a coordinate that is not finite, a box with negative extent, a score
            outside 0..1; the message names the column and the expected shape.
    """

    size: tuple[int, int]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]
    ignore: NDArray[np.bool_] = None  # type: ignore[assignment]  # None at birth means "none ignored"
    obbs: NDArray[np.float32] | None = None
    heading: NDArray[np.float32] | None = None
    headed: NDArray[np.bool_] | None = None
    points: NDArray[np.float32] | None = None
    visible: NDArray[np.uint8] | None = None
    point_scores: NDArray[np.float32] | None = None
    frame: NDArray[np.int64] | None = None
    track: NDArray[np.int64] | None = None
    area: NDArray[np.float32] | None = None
    occlusion: NDArray[np.float32] | None = None
    spread: NDArray[np.float32] | None = None
    quality: NDArray[np.float32] | None = None
    scores: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        h, w = self.size
        object.__setattr__(self, "size", (int(h), int(w)))
        if self.size[0] <= 0 or self.size[1] <= 0:
            raise ValueError(f"size is (height, width) in pixels and positive, not {self.size}")
        n = len(np.asarray(self.labels))
        if self.ignore is None:
            object.__setattr__(self, "ignore", np.zeros(n, np.bool_))
        for name, (dtype, trailing) in _COLUMNS.items():
            value = getattr(self, name)
            if value is None:
                continue
            array = _column(name, value, dtype, trailing, n)
            object.__setattr__(self, name, array)
        if (self.heading is None) != (self.headed is None):
            raise ValueError("heading [N] and headed [N] come together")
        if self.obbs is not None and n and (self.obbs[:, 2:4] < 0).any():
            i = int(np.flatnonzero((self.obbs[:, 2:4] < 0).any(axis=1))[0])
            raise ValueError(f"obbs have length and width >= 0; row {i} is {self.obbs[i].tolist()}")
        self._check_points()
        if n and (self.boxes[:, 2:] < self.boxes[:, :2]).any():
            i = int(np.flatnonzero((self.boxes[:, 2:] < self.boxes[:, :2]).any(axis=1))[0])
            raise ValueError(f"boxes are x1 y1 x2 y2 with x2 >= x1, y2 >= y1; row {i} is {self.boxes[i].tolist()}")
        if n and (self.labels < 0).any():
            raise ValueError("labels are class ids 0..C-1; there is no background class and no -1")
        if self.occlusion is not None and not ((self.occlusion >= 0) & (self.occlusion <= 1)).all():
            raise ValueError("occlusion is the hidden share of an object: 0..1")
        if self.quality is not None and not ((self.quality >= 0) & (self.quality <= 1)).all():
            raise ValueError("quality is an expected IoU: 0..1")
        if self.scores is not None and n and not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise ValueError("scores are probabilities in 0..1; apply the sigmoid before making Objects")

    def _check_points(self) -> None:
        if (self.points is None) != (self.visible is None):
            raise ValueError("points [N,K,2] and visible [N,K] come together")
        if self.points is not None and self.visible is not None and self.points.shape[:2] != self.visible.shape:
            raise ValueError(
                f"points {self.points.shape} need visible {self.points.shape[:2]}, not {self.visible.shape}"
            )
        if self.point_scores is not None:
            if self.visible is None or self.point_scores.shape != self.visible.shape:
                raise ValueError("point_scores [N,K] come with points [N,K,2] and visible [N,K]")
            if not ((self.point_scores >= 0) & (self.point_scores <= 1)).all():
                raise ValueError("point_scores are probabilities in 0..1; apply the sigmoid before making Objects")

    @staticmethod
    def _trusted(size: tuple[int, int], columns: dict[str, NDArray[Any]]) -> Objects:
        """Objects from columns that a reader has already checked in bulk, without a copy: 10 times quicker.

        The caller vouches for dtypes, shapes and values, and that the arrays are read-only (slices of such are).
        """
        o = object.__new__(Objects)
        o.__dict__.update(dict.fromkeys(_COLUMNS), size=size, **columns)
        return o

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: ArrayLike | slice) -> Objects:
        """The rows chosen by a boolean mask [N], an integer index array or a slice."""
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            if rows.dtype == np.bool_ and rows.shape != (len(self),):
                raise ValueError(f"a mask over {len(self)} objects has shape ({len(self)},), not {rows.shape}")
            if rows.ndim == 0:
                rows = rows[None]
            if rows.size == 0:
                rows = rows.astype(np.int64) if rows.dtype != np.bool_ else rows
        # Rows of what was checked need no second check.
        return Objects._trusted(self.size, {n: _frozen(getattr(self, n)[rows]) for n in self.columns})

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are present."""
        return tuple(n for n in _COLUMNS if getattr(self, n) is not None)

    @property
    def areas(self) -> NDArray[np.float32]:
        """f32 [N] px^2 for size bins: the annotated area, else that of the box."""
        return self.area if self.area is not None else box_area(self.boxes).astype(np.float32)

    @property
    def hulled(self) -> NDArray[np.bool_]:
        """bool [N]: the box is the hull of the labelled points (to 0.01 px), of which there are three or more.

        It may have been derived from them, or annotated so: either way it must turn with the points.
        """
        if self.points is None or self.visible is None:
            return np.zeros(len(self), np.bool_)
        near = np.abs(points_hull(self.points, self.visible) - self.boxes) <= _SAME
        hulled: NDArray[np.bool_] = near.all(axis=1) & ((self.visible > 0).sum(axis=1) >= 3)
        return hulled

    def replace(self, **changes: Any) -> Objects:
        """A copy with other columns (or another size)."""
        return dataclasses.replace(self, **changes)

    def _with(self, size: tuple[int, int], **columns: NDArray[Any] | None) -> Objects:
        """As `replace`, for columns computed from checked ones: they keep dtype and shape and are not checked again.

        The loader moves objects a few thousand times a second; checking them each time costs as much as the pixels.
        """
        given = {n: _frozen(c) for n, c in columns.items() if c is not None}
        return Objects._trusted(size, {n: getattr(self, n) for n in self.columns} | given)

    @staticmethod
    def empty(size: tuple[int, int], like: Objects | None = None) -> Objects:
        """No objects; with the columns of `like` when it is given."""
        if like is not None:
            return like[np.zeros(0, np.int64)].replace(size=size)
        return Objects(size, np.zeros(0, np.int64), np.zeros((0, 4), np.float32))

    @staticmethod
    def concat(parts: Sequence[Objects]) -> Objects:
        """All rows of parts that share the canvas and the columns, in order."""
        if not parts:
            raise ValueError("concat needs at least one part (it gives the canvas)")
        first = parts[0]
        for p in parts[1:]:
            if p.size != first.size or p.columns != first.columns:
                raise ValueError(f"parts differ: {first.size} {first.columns} and {p.size} {p.columns}")
        columns = {n: _frozen(np.concatenate([getattr(p, n) for p in parts])) for n in first.columns}
        return Objects._trusted(first.size, columns)

    def to_json(self) -> dict[str, Any]:
        """Plain lists; `ignore` and other columns only when they say something."""
        out: dict[str, Any] = {"size": list(self.size)}
        for n in self.columns:
            if n == "ignore" and not self.ignore.any():
                continue
            out[n] = getattr(self, n).tolist()
        return out

    @staticmethod
    def from_json(d: dict[str, Any]) -> Objects:
        n = len(d["labels"])
        columns: dict[str, Any] = {}
        for name, (dtype, trailing) in _COLUMNS.items():
            if name in d:
                array: NDArray[Any] = np.asarray(d[name], dtype=dtype)
                if n == 0:
                    array = array.reshape((0, *(1 if t is None else t for t in trailing)))
                columns[name] = array
        return Objects(size=(d["size"][0], d["size"][1]), **columns)

    def same(self, other: Objects) -> bool:
        """Equal to the last bit, columns and canvas included."""
        return (
            self.size == other.size
            and self.columns == other.columns
            and all(np.array_equal(getattr(self, n), getattr(other, n)) for n in self.columns)
        )


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def _column(name: str, value: Any, dtype: type, trailing: tuple[int | None, ...], n: int) -> NDArray[Any]:
    array = np.asarray(value)
    if array.size == 0 and array.ndim <= 1 and n == 0:
        array = array.reshape((0, *(1 if t is None else t for t in trailing)))
    good = array.ndim == 1 + len(trailing) and len(array) == n
    good = good and all(t is None or array.shape[1 + i] == t for i, t in enumerate(trailing))
    if not good:
        shape_text = ",".join(["N", *("K" if t is None else str(t) for t in trailing)])
        raise ValueError(f"{name} has shape [{shape_text}] with N={n}, not {list(array.shape)}")
    fractions = array.dtype.kind == "f"
    if fractions and not np.isfinite(array).all():
        raise ValueError(f"{name} holds a value that is not finite")
    if fractions and issubclass(dtype, np.integer) and (array != np.rint(array)).any():
        raise ValueError(f"{name} holds whole numbers, not {array.dtype} fractions")
    # A private, read-only copy: neither the caller's array nor ours can change the other.
    array = np.array(array, dtype=dtype)
    array.setflags(write=False)
    return array


def labels_count(parts: Iterable[Objects], classes: int) -> NDArray[np.int64]:
    """How many non-ignored objects each class has, i64 [C]."""
    total = np.zeros(classes, np.int64)
    for o in parts:
        total += np.bincount(o.labels[~o.ignore], minlength=classes)
    return total
