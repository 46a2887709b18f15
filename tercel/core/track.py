"""Track: one ball through one clip, a row per frame. Truth and predictions alike; NumPy only.

`Objects` answers "what is on this canvas"; a trajectory also has to say "nothing was there" for a frame, how sure a
filled-in point is, and under which frame number of its video a row stands. That is a Track. Windows for the network
carry `Objects` (a ball is a point with K = 1 and a frame); `from_objects` and `objects` go between the two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercel.core.objects import Objects

# Visibility classes of the ball-tracking field (TrackNet, WASB, TOTNet).
ABSENT, CLEAR, BLURRED, OCCLUDED = 0, 1, 2, 3
# The same as flags of `Objects.visible`, whose 0, 1, 2 are those of COCO keypoints and whose 3 is "seen, blurred".
_TO_FLAG = np.array([0, 2, 3, 1], np.uint8)
_FROM_FLAG = np.array([ABSENT, OCCLUDED, CLEAR, BLURRED], np.uint8)


@dataclass(frozen=True, eq=False)
class Track:
    """N frames of one clip with at most one ball each, validated at birth and never changed in place.

    Attributes:
        size: (H, W) of the frames in px.
        frame: i64 [N] frame numbers in the video or label file, strictly rising.
        visibility: u8 [N], 0 absent, 1 clear, 2 blurred, 3 occluded (place estimated); predictions use 0 and 1.
        xy: f64 [N,2] px, continuous coordinates (a pixel's centre lies at +0.5); NaN where the ball is absent.
        score: f64 [N] in 0..1 for predictions (0 where nothing was found), None for truth.
        filled: bool [N], points that no detection supports (the motion model put them there), or None.
        sigma: f64 [N] standard deviation of each point in px (NaN = not known), or None.
        name: the rally, unique within its set ("match1/1_01_00").
        group: what must not be split (the match); "" = the rally itself.
        source: the file it came from, for messages.

    Raises:
        ValueError: a column of the wrong shape, frame numbers that do not rise, a visible ball without a finite place,
            a score outside 0..1; the message names the column and the row.
    """

    size: tuple[int, int]
    frame: NDArray[np.int64]
    visibility: NDArray[np.uint8]
    xy: NDArray[np.float64]
    score: NDArray[np.float64] | None = None
    filled: NDArray[np.bool_] | None = None
    sigma: NDArray[np.float64] | None = None
    name: str = ""
    group: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        h, w = self.size
        object.__setattr__(self, "size", (int(h), int(w)))
        if self.size[0] <= 0 or self.size[1] <= 0:
            raise ValueError(f"size is (height, width) in pixels and positive, not {self.size}")
        n = len(np.asarray(self.frame))
        for name, dtype, shape in (
            ("frame", np.int64, (n,)), ("visibility", np.uint8, (n,)), ("xy", np.float64, (n, 2)),
            ("score", np.float64, (n,)), ("filled", np.bool_, (n,)), ("sigma", np.float64, (n,)),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is None:
                continue
            array = np.array(value, dtype=dtype)
            if name == "xy" and n == 0:
                array = array.reshape(0, 2)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {list(shape)}, not {list(array.shape)}")
            object.__setattr__(self, name, array)
        self._check_rows()
        self.xy[~self.present] = np.nan
        for name in ("frame", "visibility", "xy", "score", "filled", "sigma"):
            if getattr(self, name) is not None:
                getattr(self, name).setflags(write=False)

    def _check_rows(self) -> None:
        falls = np.flatnonzero(np.diff(self.frame) <= 0)
        if len(falls):
            i = int(falls[0])
            raise ValueError(f"frame numbers rise; after {self.frame[i]} comes {self.frame[i + 1]}")
        if (self.visibility > OCCLUDED).any():
            raise ValueError(f"visibility is 0, 1, 2 or 3, not {int(self.visibility.max())}")
        lost = np.flatnonzero(self.present & ~np.isfinite(self.xy).all(1))
        if len(lost):
            raise ValueError(f"frame {self.frame[lost[0]]}: a visible ball needs a finite place")
        if self.score is not None and not ((self.score >= 0) & (self.score <= 1)).all():
            raise ValueError("scores are probabilities in 0..1")

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows: ArrayLike | slice) -> Track:
        """The rows chosen by a boolean mask, an index array (rising) or a slice."""
        index = np.arange(len(self))[rows if isinstance(rows, slice) else np.asarray(rows)]
        columns = ("frame", "visibility", "xy", "score", "filled", "sigma")
        return self.replace(**{n: getattr(self, n)[index] for n in columns if getattr(self, n) is not None})

    @property
    def present(self) -> NDArray[np.bool_]:
        """bool [N]: frames with a ball."""
        return np.asarray(self.visibility != ABSENT)

    def replace(self, **changes: Any) -> Track:
        """A copy with other columns."""
        return dataclasses.replace(self, **changes)

    def objects(self) -> Objects:
        """The balls as points of a clip: `frame` counts rows of this track from 0; absent frames have no row."""
        rows = np.flatnonzero(self.present)
        xy = self.xy[rows].astype(np.float32)
        return Objects(
            self.size, np.zeros(len(rows), np.int64), np.concatenate([xy, xy], axis=1), frame=rows,
            points=xy[:, None], visible=_TO_FLAG[self.visibility[rows]][:, None],
            scores=None if self.score is None else self.score[rows].astype(np.float32),
        )  # fmt: skip

    @staticmethod
    def from_objects(objects: Objects, frames: Sequence[int] | NDArray[np.int64], **names: Any) -> Track:
        """The track behind a clip's objects, one row for each of the clip's frame numbers.

        Of several balls in one frame the one with the highest score counts (the first of equals).

        Args:
            objects: points with K = 1 and a `frame` column that indexes `frames`.
            frames: the frame number of every frame of the clip.
            names: name, group, source.
        """
        n = len(frames)
        visibility, xy, score = np.zeros(n, np.uint8), np.full((n, 2), np.nan), np.zeros(n)
        if len(objects):
            if objects.points is None or objects.visible is None or objects.frame is None:
                raise ValueError("a track is made of objects with points, visible and frame")
            rank = -objects.scores if objects.scores is not None else np.zeros(len(objects))
            order = np.argsort(rank, kind="stable")[::-1]  # the best of a frame is written last and stays
            order = order[objects.visible[order, 0] > 0]
            at = objects.frame[order]
            visibility[at] = _FROM_FLAG[np.minimum(objects.visible[order, 0], 3)]
            xy[at] = objects.points[order, 0]
            if objects.scores is not None:
                score[at] = objects.scores[order]
        return Track(
            objects.size, np.asarray(frames), visibility, xy, None if objects.scores is None else score, **names
        )
