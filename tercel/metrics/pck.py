"""How far named points lie from the truth: PCK, errors in px and as a share of the size, swaps of left and right.

PCK@a is the share of labelled points with a prediction within a times the longer side of the truth's box (Yang and
Ramanan 2013, who take the box of the object for the size). Every labelled point of every truth that counts is in the
denominator: those of a truth that nothing found are wrong.

Shape legend: G truths that count, D predictions, K points, I pictures, R draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Score
from tercel.core.schema import Schema
from tercel.metrics.match import Bools, Floats, Ints, Pool, candidates
from tercel.metrics.oks import Points
from tercel.metrics.stats import Array, interval

ALPHAS = (0.05, 0.1, 0.2)
CURVE = tuple(round(0.01 * i, 2) for i in range(51))  # of PCK, as a share of the size
APART = 0.05  # of the size: partners that lie nearer to each other than this cannot be told apart
FLOOR = 0.1  # OKS below which a truth that counts has no claim to a prediction that lies nearer to an ignored one


@dataclass(frozen=True, eq=False)
class PointPairs:
    """Every truth that counts, and the one prediction that stands for it.

    Attributes:
        picture, truth_row: i64 [G], which object. pred_row: i64 [G], -1 = nothing found it. label: i64 [G].
        size: f64 [G] px, the longer side of the truth's box; NaN where the box has no extent.
        truth, found: f64 [G,K,2] px; `found` is NaN without a prediction.
        visible: u8 [G,K] of the truth, 0 = not labelled. oks, score: f64 [G], NaN without a prediction.
    """

    picture: Ints
    truth_row: Ints
    pred_row: Ints
    label: Ints
    size: Floats
    truth: Floats
    found: Floats
    visible: NDArray[np.uint8]
    oks: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.label)

    @property
    def labelled(self) -> Bools:
        """bool [G,K]"""
        return self.visible > 0

    @cached_property
    def error(self) -> Floats:
        """f64 [G,K] px, NaN where the point is not labelled or nothing found the truth."""
        d: Floats = np.hypot(*np.moveaxis(self.found - self.truth, -1, 0))
        return np.where(self.labelled, d, np.nan)

    @cached_property
    def share(self) -> Floats:
        """f64 [G,K] the error as a share of the size."""
        out: Floats = self.error / self.size[:, None]
        return out


def pair_up(truth: Pool, pred: Pool) -> PointPairs:
    """Give every truth that counts at most one prediction, both of pools with points and over the same pictures.

    A prediction speaks of the truth of its class with which its OKS is highest; of those that speak of the same truth
    the one with the highest score stands for it. So a duplicate takes no second truth, however far away, and a weak
    prediction that happens to lie better changes nothing. A prediction that lies nearest to an ignored truth is left
    out, unless its OKS with one that counts is .1 or more.
    """
    points, xy = _points(truth), _points(pred).xy
    key = pred.labels * pred.pictures + pred.picture
    d, g, oks = candidates(truth, pred, key, 0.0)
    claim = truth.counted[g] & (oks >= FLOOR)
    order = np.lexsort((g, -oks, ~claim, d))
    d, g, oks = d[order], g[order], oks[order]
    own = np.diff(d, prepend=-1) > 0
    own &= truth.counted[g]
    d, g, oks = d[own], g[own], oks[own]
    order = np.lexsort((d, -pred.scores[d], g))
    d, g, oks = d[order], g[order], oks[order]
    best = np.diff(g, prepend=-1) > 0
    d, g, oks = d[best], g[best], oks[best]

    kept = np.flatnonzero(truth.counted)
    at = np.searchsorted(kept, g)
    found, near, score = np.full((len(kept), *xy.shape[1:]), np.nan), *np.full((2, len(kept)), np.nan)
    pred_row = np.full(len(kept), -1)
    found[at], near[at], score[at], pred_row[at] = xy[d], oks, pred.scores[d], pred.row[d]
    size = (truth.boxes[kept, 2:] - truth.boxes[kept, :2]).max(axis=1, initial=0)
    return PointPairs(
        truth.picture[kept], truth.row[kept], pred_row, truth.labels[kept], np.where(size > 0, size, np.nan),
        points.xy[kept], found, points.visible[kept], near, score,
    )  # fmt: skip


def _points(pool: Pool) -> Points:
    if pool.points is None:
        raise ValueError("pools of points are made with sigmas: Pool.of(parts, sigmas)")
    return pool.points


def pck_name(alpha: float) -> str:
    """.05 -> "PCK@.05"."""
    return f"PCK@{alpha:g}".replace("@0.", "@.")


# -- counts per picture, and their ratios under weights -------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Share:
    """A mean over points: what is added up, and over which points; both [N,K]."""

    values: Floats
    counted: Bools


class Means:
    """Means over points of any kind, with intervals from resampled pictures.

    Args:
        weights: f64 [I,1+R], see `picture_weights`.
    """

    def __init__(self, weights: Array) -> None:
        self.weights = weights

    def __call__(self, name: str, share: Share, picture: Ints, rows: Any = slice(None), **where: Any) -> Score:
        """The mean over the points of some `rows` (of [N] or [N,K]) of objects that lie in `picture` [N]."""
        counted = np.zeros_like(share.counted)
        counted[rows] = share.counted[rows]
        n = int(counted.sum())
        if not n:
            return Score(name, np.nan, 0, where=where)
        value = np.where(counted, share.values, 0).sum(axis=1)
        pictures = len(self.weights)
        total = np.bincount(picture, value, pictures) @ self.weights
        count = np.bincount(picture, counted.sum(axis=1), pictures) @ self.weights
        draws = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
        some = np.unique(picture[counted.any(axis=1)])
        low = high = np.nan
        if len(some) > 1:  # from one picture, resampling shows no spread
            top = max(1.0, float(share.values[counted].max()))  # no mean is above; `interval` keeps within 0..1
            low, high = (top * x for x in interval(float(draws[0]) / top, draws[1:] / top))
        return Score(name, float(draws[0]), n, low, high, where)


def shares(pairs: PointPairs, schema: Schema, alphas: Sequence[float] = ALPHAS) -> dict[str, Share]:
    """What is averaged over the points of truths: PCK at each alpha, errors, swaps. Name -> Share [G,K]."""
    found = ~np.isnan(pairs.error)
    sized = pairs.labelled & ~np.isnan(pairs.size)[:, None]
    with np.errstate(invalid="ignore"):
        out = {pck_name(a): Share((pairs.share <= a).astype(np.float64), sized) for a in alphas}
    swapped, tested = _swaps(pairs, schema)
    return out | {
        "point_error_px": Share(np.where(found, pairs.error, 0), found),
        "point_error": Share(np.where(found & sized, pairs.share, 0), found & sized),
        "swap_rate": Share(swapped.astype(np.float64), tested),
    }


def _swaps(pairs: PointPairs, schema: Schema) -> tuple[Bools, Bools]:
    """Points [G,K] that lie nearer to their partner's truth than to their own, and those for which it can be told.

    It can where truth and partner are both labelled and apart by APART of the size, and something found the truth.
    """
    partner = schema.flip_index
    other = pairs.truth[:, partner]
    d = np.hypot(*np.moveaxis(pairs.found - other, -1, 0))
    apart = np.hypot(*np.moveaxis(pairs.truth - other, -1, 0))
    with np.errstate(invalid="ignore"):
        tested = (apart > APART * pairs.size[:, None]) & ~np.isnan(pairs.error) & pairs.labelled[:, partner]
        return d < pairs.error, tested & (partner != np.arange(len(partner)))


def outside(pred: Pool, canvas: Floats, tolerance: float = 1e-2) -> dict[str, Share]:
    """Points that a prediction calls visible and that lie outside the picture, or outside the prediction's own box.

    Args:
        canvas: f64 [D,2] (w, h) px of each prediction's picture. tolerance: px, for what was rounded on its way.
    """
    points = _points(pred)
    xy, seen = points.xy, points.visible == 2

    def beyond(low: Floats, high: Floats) -> Share:
        off: Bools = np.any((xy < low[:, None] - tolerance) | (xy > high[:, None] + tolerance), axis=2)
        return Share(off.astype(np.float64), seen)

    return {
        "outside_picture": beyond(np.zeros_like(canvas), canvas),
        "outside_box": beyond(pred.boxes[:, :2], pred.boxes[:, 2:]),
    }


# -- tables ---------------------------------------------------------------------------------------------------------


def point_rows(pairs: PointPairs, schema: Schema, scores: Sequence[Score]) -> list[dict[str, Any]]:
    """One row per named point: its scores, quantiles of its errors, and where it lies on the mean pose (`pose`)."""
    mine: Mapping[str, dict[str, float]] = {name: {} for name in schema.keypoints}
    for s in scores:
        if set(s.where) == {"point"}:
            mine[s.where["point"]][s.name] = s.value
    poses = list(pose(pairs))
    rows = []
    for k, name in enumerate(schema.keypoints):
        error, share = pairs.error[:, k], pairs.share[:, k]
        rows.append({
            "point": name,
            "n": int(pairs.labelled[:, k].sum()),
            "hidden": int((pairs.visible[:, k] == 1).sum()),
            "found": int((~np.isnan(error)).sum()),
            **mine[name],
            "median_px": _quantile(error, 0.5), "high_px": _quantile(error, 0.95),
            "median": _quantile(share, 0.5), "high": _quantile(share, 0.95),
            **poses[k],
        })  # fmt: skip
    return rows


def _quantile(x: Floats, q: float) -> float:
    real = x[~np.isnan(x)]
    return float(np.quantile(real, q)) if len(real) else float("nan")


def curve_rows(pairs: PointPairs) -> list[dict[str, float]]:
    """PCK at every share of the size, and n points."""
    sized = pairs.labelled & ~np.isnan(pairs.size)[:, None]
    share, n = np.sort(pairs.share[sized & ~np.isnan(pairs.share)]), int(sized.sum())
    within = np.searchsorted(share, CURVE, "right")
    return [{"alpha": a, "PCK": k / n if n else float("nan"), "n": n} for a, k in zip(CURVE, within.tolist())]


def self_pairs(truth: Pool) -> PointPairs:
    """Every truth with itself for its prediction: the truths alone, for `pose`."""
    points, size = _points(truth), (truth.boxes[:, 2:] - truth.boxes[:, :2]).max(axis=1, initial=0)
    none = np.full(len(truth), np.nan)
    return PointPairs(
        truth.picture, truth.row, truth.row, truth.labels, np.where(size > 0, size, np.nan), points.xy, points.xy,
        points.visible, none, none,
    )  # fmt: skip


def pose(pairs: PointPairs) -> Iterator[dict[str, float]]:
    """Per point: its place on the mean pose, and mean and covariance of its errors, turned with the animal.

    All in shares of the size, x right and y down; the mean pose lies around its own centre with its long axis upright
    and the first labelled point in the upper half. Truths are turned (not mirrored, not scaled) onto their mean, which
    a few rounds settle (Procrustes analysis; Gower 1975). In complex numbers, where a turn is a factor of length 1.
    """
    known = pairs.labelled & ~np.isnan(pairs.size)[:, None]
    z = np.where(known, (pairs.truth[..., 0] + 1j * pairs.truth[..., 1]) / np.where(known, pairs.size[:, None], 1), 0)
    count = np.maximum(known.sum(axis=1), 1)
    centred = np.where(known, z - (z.sum(axis=1) / count)[:, None], 0)
    turn = np.ones(len(z), np.complex128)
    seen: Bools = np.any(known, axis=0)
    times = np.maximum(known.sum(axis=0), 1)
    mean = centred[known.sum(axis=1).argmax()].copy() if len(z) else np.zeros(known.shape[1], np.complex128)
    for _ in range(10):
        middle = np.where(known, mean, 0).sum(axis=1) / count  # of the points that this truth has
        onto = np.where(known, mean - middle[:, None], 0)
        lean = (onto * centred.conj()).sum(axis=1)
        turn = np.where(np.abs(lean) > 0, lean / np.maximum(np.abs(lean), 1e-300), 1)
        laid = np.where(known, turn[:, None] * centred + middle[:, None], 0)
        mean = laid.sum(axis=0) / times
    mean = np.where(seen, mean - mean[seen].mean() if seen.any() else mean, 0)
    upright = 1j * np.exp(-0.5j * np.angle((mean**2).sum()))
    if seen.any() and (upright * mean[seen.argmax()]).imag > 0:
        upright = -upright
    mean, turn = mean * upright, turn * upright
    move = (pairs.found - pairs.truth) / pairs.size[:, None, None]
    error = turn[:, None] * (move[..., 0] + 1j * move[..., 1])
    for k in range(known.shape[1]):
        e = error[known[:, k] & ~np.isnan(error[:, k]), k]
        cov = np.cov(e.real, e.imag) if len(e) > 2 else np.full((2, 2), np.nan)
        bias = e.mean() if len(e) else complex(np.nan, np.nan)
        place = mean[k] if seen[k] else complex(np.nan, np.nan)
        yield {
            "x": float(place.real), "y": float(place.imag), "bias_x": float(bias.real), "bias_y": float(bias.imag),
            "cov_xx": float(cov[0, 0]), "cov_xy": float(cov[0, 1]), "cov_yy": float(cov[1, 1]),
        }  # fmt: skip
