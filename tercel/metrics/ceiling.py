"""The annotator-noise ceiling: the AP that the truth itself would get if it were labelled again.

Every truth is moved by the disagreement of a pair of about its size (see `agreement`), and judged against the truth.
Above this a detector is judged by noise. NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Score, TercelError
from tercel.core.geometry import canonical_obb, obb_hull
from tercel.core.objects import Objects
from tercel.metrics.agreement import Agreement, moved_by
from tercel.metrics.breakdown import plain
from tercel.metrics.compare import sample
from tercel.metrics.match import IOUS, Pool, pair_overlap
from tercel.metrics.stats import mean_over_classes

Floats = NDArray[np.float64]

# kind of draw -> what it says; the order is from the most favourable on
KINDS = {
    "placed, best first": "moved only, and the scores know which boxes fit best",
    "placed": "moved only; scores say nothing",
    "labelled again": "moved, with the misses, additions and changed classes that were measured; scores say nothing",
}
_DONORS = 0.05  # share of the pairs, those of nearest size, that a truth's disagreement is drawn from


@dataclass(frozen=True, eq=False)
class Ceiling:
    """AP of the truth labelled again.

    Attributes:
        scores: AP, AP50, AP75 with ``where["ceiling"]`` one of `KINDS`: mean over the draws, and the middle 95 % of
            them. `n` counts truths.
        table: rows kind, class (None = mean), AP and AP at each threshold by name; mean over the draws.
        draws: kind -> f64 [draws, T], AP over all classes.
    """

    scores: list[Score]
    table: list[dict[str, Any]]
    draws: dict[str, Floats]
    rule: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": [s.to_json() for s in self.scores],
            "table": [{k: plain(v) for k, v in row.items()} for row in self.table],
            "rule": self.rule,
        }


def noise_ceiling(
    truth: Sequence[Objects],
    agreement: Agreement,
    classes: Sequence[str],
    *,
    ious: Sequence[float] = IOUS,
    draws: int = 20,
    seed: int = 0,
) -> Ceiling:
    """AP table that the truth would get against itself after the disagreement in `agreement`.

    Two annotators differ by the errors of both. If the truth is one of them, that is also how far a perfect detector
    may lie from it that learned from the other.

    Args:
        truth: labels, of the same pictures or of others. agreement: of two label sets of the same kind of pictures.
        classes: names of the class ids of `truth`.
        draws: how often the truth is labelled again.

    Raises:
        TercelError: no pair in the agreement, or oriented disagreements for boxes without angle.
    """
    pool = Pool.of(truth)
    if not len(agreement.iou):
        raise TercelError("the two label sets have no object in common: no disagreement to draw from", "compare others")
    if agreement.geometry == "oriented" and pool.obbs is None and len(pool):
        raise TercelError("the disagreement is of oriented boxes, the truth has none", "compare with --geometry boxes")
    if agreement.geometry == "boxes":
        pool = pool.hulls()
    counted = pool.take(np.flatnonzero(~pool.ignore))
    weights = np.ones((max(pool.pictures, 1), 1))
    per_class: dict[str, list[Floats]] = {k: [] for k in KINDS}
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        shapes = moved_by(_shapes(counted), _drawn(counted, agreement, rng))
        iou = pair_overlap(shapes, _shapes(counted), np.zeros(len(counted), np.bool_))
        chance = rng.random(len(counted))
        answers = {
            "placed, best first": _pool(counted, shapes, np.clip(iou, 0, 1)),
            "placed": _pool(counted, shapes, chance),
            "labelled again": _labelled_again(_pool(counted, shapes, chance), agreement, classes, rng),
        }
        for kind, pred in answers.items():
            s = sample(pool, pred, len(classes), weights, ious=ious, cap=None)
            per_class[kind].append(s.ap[..., 0].astype(np.float64))
    return _summary(per_class, counted, classes, ious, {"draws": draws, "seed": seed, "ious": list(ious)})


def _shapes(pool: Pool) -> Floats:
    return pool.boxes if pool.obbs is None else pool.obbs


def _pool(like: Pool, shapes: Floats, scores: Floats) -> Pool:
    """These objects with other boxes, as predictions."""
    if like.obbs is None:
        return Pool(like.picture, like.row, like.labels, shapes, like.areas, like.ignore, scores, like.pictures)
    obbs = np.asarray(canonical_obb(shapes), np.float64)
    hulls = np.asarray(obb_hull(obbs), np.float64)
    return Pool(like.picture, like.row, like.labels, hulls, like.areas, like.ignore, scores, like.pictures, obbs)


def _drawn(pool: Pool, agreement: Agreement, rng: np.random.Generator) -> Floats:
    """For each object the residuals of a random pair among those of nearest size: small objects disagree by more.

    The pairs are drawn anew with replacement first, so that the spread of the draws knows how few they are.
    """
    pairs = len(agreement.area)
    chosen = rng.integers(0, pairs, pairs)
    order = chosen[np.argsort(agreement.area[chosen], kind="stable")]
    width = min(pairs, max(20, round(_DONORS * pairs)))
    sides = _shapes(pool)
    area = sides[:, 2] * sides[:, 3] if pool.obbs is not None else (sides[:, 2:] - sides[:, :2]).prod(axis=1)
    first = np.clip(np.searchsorted(agreement.area[order], area) - width // 2, 0, pairs - width)
    residuals: Floats = agreement.residuals[order[first + rng.integers(0, width, len(pool))]]
    return residuals


def _labelled_again(pred: Pool, agreement: Agreement, classes: Sequence[str], rng: np.random.Generator) -> Pool:
    """Some are missed, some are added somewhere, some change class, at the measured rates."""
    missed, added = agreement.rates
    labels = pred.labels.copy()
    place = {c: i for i, c in enumerate(classes)}
    names = np.array([place.get(c, -1) for c in agreement.classes])
    pairs = names[agreement.labels]
    for c in np.unique(labels).tolist():
        seen = pairs[pairs[:, 0] == c, 1]
        mine = np.flatnonzero(labels == c) if len(seen) else np.zeros(0, np.int64)
        drawn = rng.choice(seen, len(mine)) if len(seen) else labels[mine]
        labels[mine] = np.where(drawn < 0, c, drawn)  # a name that only the agreement has stays what it was
    kept = np.flatnonzero(rng.random(len(pred)) >= missed)
    extra = rng.choice(len(pred), rng.binomial(len(pred), min(added, 1.0))) if len(pred) else kept
    rows = np.concatenate([kept, extra])
    out = pred.take(rows)
    picture = out.picture.copy()
    away = slice(len(kept), None)  # an addition is a box of some object in a picture where that object is not
    picture[away] = rng.integers(0, pred.pictures, len(extra))
    return Pool(
        picture, np.arange(len(rows)), labels[rows], out.boxes, out.areas, out.ignore, rng.random(len(rows)),
        out.pictures, out.obbs,
    )  # fmt: skip


def _summary(
    per_class: dict[str, list[Floats]], truth: Pool, classes: Sequence[str], ious: Sequence[float], rule: dict[str, Any]
) -> Ceiling:
    counts = np.bincount(truth.labels, minlength=len(classes))
    scores, table, all_draws = [], [], {}
    for kind, made in per_class.items():
        ap = np.array(made)  # [draws,T,C]
        over_all = mean_over_classes(ap[..., None])[..., 0].astype(np.float64)  # [draws,T]
        all_draws[kind] = over_all
        named = {"AP": over_all.mean(axis=1)}
        for percent in (50, 75):
            t = next((t for t, x in enumerate(ious) if math.isclose(x, percent / 100)), None)
            if t is not None:
                named[f"AP{percent}"] = over_all[:, t]
        for name, x in named.items():
            low, high = np.quantile(x, [0.025, 0.975]).tolist()
            scores.append(Score(name, float(x.mean()), int(counts.sum()), low, high, {"ceiling": kind}))
        for c in (None, *range(len(classes))):
            mean = over_all.mean(axis=0) if c is None else ap[:, :, c].mean(axis=0)
            names = [f"AP{100 * iou:.0f}" for iou in ious]
            row = {"ceiling": kind, "class": None if c is None else classes[c], "AP": float(mean.mean())}
            table.append(row | dict(zip(names, mean.tolist(), strict=True)))
    return Ceiling(scores, table, all_draws, rule)
