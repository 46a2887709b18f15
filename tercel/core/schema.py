"""Schema: what the numbers in a data set mean (class names, keypoint names, flip pairs, sigmas, event names)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import TercelError


@dataclass(frozen=True)
class Schema:
    """Names behind the ids. Class id i is `classes[i]`; there is no background class.

    Attributes:
        classes: class names, unique.
        keypoints: names of the K points of an object (empty: no keypoints).
        flip_pairs: pairs of keypoint *names* that a mirror image exchanges (left_eye, right_eye).
        edges: pairs of keypoint names, for drawing.
        sigmas: one OKS sigma per keypoint, or empty.
        events: names of the events in time (bounce, net, hit).
        category_ids: the class ids of the files that the data came from (COCO's are sparse), one per class, or empty.
            Kept so that results can be written with them; nothing else reads them.

    Raises:
        TercelError: a repeated name, a pair or edge that names a missing point, a point in two pairs, or a number of
            sigmas that differs from the number of keypoints.
    """

    classes: tuple[str, ...]
    keypoints: tuple[str, ...] = ()
    flip_pairs: tuple[tuple[str, str], ...] = ()
    edges: tuple[tuple[str, str], ...] = ()
    sigmas: tuple[float, ...] = ()
    events: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for kind, names in (("class", self.classes), ("keypoint", self.keypoints), ("event", self.events)):
            repeated = sorted({n for n in names if names.count(n) > 1})
            if repeated:
                raise TercelError(f"{kind} name {repeated[0]!r} occurs twice", "give every name once")
        for what, pairs in (("flip pair", self.flip_pairs), ("skeleton edge", self.edges)):
            for pair in pairs:
                for name in pair:
                    if name not in self.keypoints:
                        raise TercelError(
                            f"{what} {pair} names the point {name!r}, which is not among {list(self.keypoints)}",
                            "use the names of the keypoints",
                        )
        used = [name for pair in self.flip_pairs for name in pair]
        twice = sorted({n for n in used if used.count(n) > 1})
        if twice:
            raise TercelError(
                f"keypoint {twice[0]!r} occurs in two flip pairs, so that flipping twice would not give it back",
                "list each pair once; points on the axis belong to no pair",
            )
        if self.sigmas and len(self.sigmas) != len(self.keypoints):
            raise TercelError(f"{len(self.sigmas)} sigmas for {len(self.keypoints)} keypoints", "give one per keypoint")
        ids = self.category_ids
        if ids and (len(ids) != len(self.classes) or len(set(ids)) != len(ids)):
            raise TercelError(
                f"{len(set(ids))} distinct category ids for {len(self.classes)} classes", "give one per class"
            )

    @property
    def flip_index(self) -> NDArray[np.int64]:
        """Index [K] such that `points[:, flip_index]` are the points of the mirrored object; an involution."""
        index = np.arange(len(self.keypoints))
        for a, b in self.flip_pairs:
            i, j = self.keypoints.index(a), self.keypoints.index(b)
            index[i], index[j] = j, i
        return index

    def to_json(self) -> dict[str, Any]:
        return {
            "classes": list(self.classes),
            "keypoints": list(self.keypoints),
            "flip_pairs": [list(p) for p in self.flip_pairs],
            "edges": [list(p) for p in self.edges],
            "sigmas": list(self.sigmas),
            "events": list(self.events),
            "category_ids": list(self.category_ids),
        }

    @staticmethod
    def from_json(d: dict[str, Any]) -> Schema:
        return Schema(
            tuple(d["classes"]),
            tuple(d.get("keypoints", ())),
            tuple((a, b) for a, b in d.get("flip_pairs", ())),
            tuple((a, b) for a, b in d.get("edges", ())),
            tuple(d.get("sigmas", ())),
            tuple(d.get("events", ())),
            tuple(d.get("category_ids", ())),
        )
