"""What all error analyses share: the report, both sides pooled in one geometry, overlaps of who found what, draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from tercel.core.finding import Finding, Score, Severity, TercelError
from tercel.core.objects import Objects
from tercel.metrics.breakdown import plain
from tercel.metrics.compare import pools
from tercel.metrics.match import Floats, Matching, Pool, pair_overlap
from tercel.metrics.stats import Array, picture_weights

ALL: Mapping[str, tuple[float, float]] = {"all": (0.0, np.inf)}  # one size bin


def pooled(
    truth: Sequence[Objects], predictions: Sequence[Objects], classes: Sequence[str], geometry: str = ""
) -> tuple[str, Pool, Pool]:
    """The geometry ("oriented" when both sides hold oriented boxes, if nothing else is asked for) and both sides in it.

    Raises:
        TercelError: see `compare.pools`; labels beyond the classes.
    """
    kind, (all_truth, all_pred) = pools(truth, predictions, geometry=geometry)
    top = max(int(side.labels.max(initial=-1)) for side in (all_truth, all_pred))
    if top >= len(classes):
        raise TercelError(f"class id {top}, but only {len(classes)} classes", "list all class names")
    if kind == "oriented":  # a side without any object is oriented too
        none = np.zeros((0, 5))
        all_truth, all_pred = (replace(s, obbs=none) if s.obbs is None else s for s in (all_truth, all_pred))
    return kind, all_truth, all_pred


def partner_iou(m: Matching) -> Floats:
    """Overlap f64 [D] of each detection with its partner at the first threshold, of oriented boxes where both sides
    have them; NaN without a partner."""
    out = np.full(len(m.pred), np.nan)
    rows = np.flatnonzero(m.partner >= 0)
    at, pred, truth = m.partner[rows], m.pred.boxes, m.truth.boxes
    if m.pred.obbs is not None and m.truth.obbs is not None:
        pred, truth = m.pred.obbs, m.truth.obbs
    out[rows] = pair_overlap(pred[rows], truth[at], m.truth.ignore[at])
    return out


def weights_and_draws(m: Matching, resamples: int, seed: int) -> tuple[Array, Array]:
    """Weights of pictures: ones f64 [I,1] for the value itself, and draws f32 [I,R] for its interval.

    No draws when the truths that count lie in fewer than two pictures: resampling would show no spread.
    """
    pictures = m.pred.pictures
    some = len(np.unique(m.truth.picture[m.countable[0]])) > 1
    return np.ones((pictures, 1)), picture_weights(pictures, resamples if some else 0, seed)[:, 1:]


def over_cap(m: Matching, check: str) -> list[Finding]:
    """A warning when the matching left out detections."""
    message = "detections beyond the cap per picture and class are not judged; raise the cap"
    return [Finding(check, Severity.WARNING, message, m.dropped)] if m.dropped else []


@dataclass(frozen=True, eq=False)
class Analysis:
    """What an analysis of one matching gives; each kind adds its own tables and arrays.

    Attributes:
        scores: see the kind. Those over everything have neither a class nor a size in ``where``.
        findings: what limits the numbers. rule: what was computed.
    """

    PARTS: ClassVar[tuple[str, ...]] = ()  # attributes that `to_json` writes beside these

    scores: list[Score]
    findings: list[Finding]
    rule: dict[str, Any]

    def __getitem__(self, name: str) -> float:
        """Value of the score `name` over everything, for example ``tide["dAP_Loc"]``.

        Raises:
            KeyError: no such score; the message lists those there are.
        """
        values = {s.name: s.value for s in self.scores if "class" not in s.where and "size" not in s.where}
        if name not in values:
            raise KeyError(f"{name}; there are {', '.join(values)}")
        return values[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is undefined is null."""
        scores, findings = [s.to_json() for s in self.scores], [f.to_json() for f in self.findings]
        parts = {k: plain(getattr(self, k)) for k in self.PARTS}
        return {"rule": self.rule, "scores": scores, **parts, "findings": findings}
