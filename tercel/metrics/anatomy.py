"""Where a score is lost: all error analyses of one set of predictions, over one matching.

TIDE prices the kinds of errors, LRP finds the best score threshold of each class, the placement says how found boxes
lie and what each of their errors costs, OC-cost what it takes to correct every picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercel.core.finding import Finding, Score, TercelError
from tercel.core.objects import Objects
from tercel.metrics.breakdown import best_f1
from tercel.metrics.errors import Placement, placement
from tercel.metrics.lrp import Lrp, lrp_from
from tercel.metrics.match import IOUS, Matching, match_all
from tercel.metrics.occost import OcCost, occost
from tercel.metrics.sides import ALL, pooled
from tercel.metrics.tide import Tide, tide_from

BACKGROUND = 0.1


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The four analyses.

    Attributes:
        tide, lrp: over all detections. placement, occost: over those from `threshold` on, as one would use them.
        threshold: the score with the best F1 of all classes together; 0 where nothing was found.
        rule: geometry, overlap of a hit, cap, threshold.
    """

    tide: Tide
    lrp: Lrp
    placement: Placement
    occost: OcCost
    threshold: float
    rule: dict[str, Any]

    @property
    def scores(self) -> list[Score]:
        return [*self.tide.scores, *self.lrp.scores, *self.placement.scores, *self.occost.scores]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all four; the cap, which all of them meet, once."""
        parts = (self.tide, self.lrp, self.placement, self.occost)
        return tuple({f.message: f for part in parts for f in part.findings}.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is undefined is null. Names such as AP occur in several parts, which are kept apart."""
        return {
            "rule": self.rule,
            "tide": self.tide.to_json(),
            "lrp": self.lrp.to_json(),
            "placement": self.placement.to_json(),
            "occost": self.occost.to_json(),
        }


def dissect(
    truth: Sequence[Objects],
    predictions: Sequence[Objects],
    classes: Sequence[str],
    *,
    geometry: str = "",
    ious: Sequence[float] = IOUS,
    cap: int = 100,
    matching: Matching | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> Anatomy:
    """All error analyses at the first of the overlap thresholds.

    Args:
        truth, predictions: one Objects per picture.
        classes: names of the class ids 0..C-1.
        geometry: "boxes", "oriented", or "" = oriented when both sides hold oriented boxes.
        ious: thresholds over which the AP of repaired boxes is the mean, rising, the first below 1; a hit has the
            first of them.
        cap: detections kept per picture and class, the highest scores first.
        matching: that of a report on the same objects under COCO's rule, the same geometry, cap and first threshold
            (`BoxReport.matching`), so that it is not made again.
        resamples: bootstrap draws of pictures for the 95 % intervals; 0 = none (NaN).

    Raises:
        TercelError: see `sides.pooled`; thresholds that do not fit.
    """
    if not ious or list(ious) != sorted(set(ious)) or not 0 < ious[0] < 1 or ious[-1] > 1:
        raise TercelError(f"overlap thresholds {list(ious)}", "errors need rising ones, the first between 0 and 1")
    kind, all_truth, all_pred = pooled(truth, predictions, classes, geometry)
    first = float(ious[0])
    m = match_all(all_truth, all_pred, ious=(first,), sizes=ALL, cap=cap) if matching is None else matching
    threshold = float(np.nan_to_num(best_f1(m, None)["threshold"]))
    draws: dict[str, Any] = {"resamples": resamples, "seed": seed}
    shared: dict[str, Any] = {"iou": first, "score": threshold, "cap": cap, "geometry": kind, **draws}
    return Anatomy(
        tide_from(m, classes, background=min(BACKGROUND, first / 2), **draws),
        lrp_from(m, classes, **draws),
        placement(truth, predictions, classes, ious=ious, **shared),
        occost(truth, predictions, classes, **shared),
        threshold,
        {"geometry": kind, "iou": first, "ious": list(ious), "cap": cap, "threshold": threshold, **draws},
    )
