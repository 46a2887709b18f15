"""How far two labellings of the same animals lie apart, point by point, and the OKS sigmas that follow.

sigma_i^2 = E[d_i^2 / s^2]: d_i is the distance of two labels of point i, s the square root of the animal's area, over
pictures that were labelled twice (cocodataset.org, "Keypoint Evaluation"; OKS then has k_i = 2 sigma_i). The area is
the mean of what both labels say: that of the file, else of the box.

Shape legend: P pairs of animals, K points, I pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercel.core.finding import Finding, Ledger, Score, Severity, TercelError
from tercel.core.objects import Objects
from tercel.metrics.breakdown import plain
from tercel.metrics.match import Bools, Floats, Ints
from tercel.metrics.stats import interval, picture_weights

FEW = 20  # labels of a point from which a sigma is worth something


@dataclass(frozen=True)
class PointAgreement:
    """Two labellings of one point.

    Attributes:
        name: of the point. n: animals for which both have it.
        px: mean distance in px. share: the same over the longer side of A's box.
        one_only: animals for which only one of the two has it.
        sigma: estimated OKS sigma, with its interval over pictures.
    """

    name: str
    n: int
    px: float
    share: float
    one_only: int
    sigma: Score

    def to_json(self) -> dict[str, Any]:
        return {
            "point": self.name,
            "n": self.n,
            "px": plain(self.px),
            "share": plain(self.share),
            "one_only": self.one_only,
            "sigma": plain(self.sigma.value),
            "low": plain(self.sigma.low),
            "high": plain(self.sigma.high),
        }


def compare_points(
    a: Sequence[Objects],
    b: Sequence[Objects],
    pairs: Sequence[tuple[Ints, Ints]],
    names_a: Sequence[str],
    names_b: Sequence[str],
    *,
    resamples: int = 200,
    seed: int = 0,
) -> tuple[list[PointAgreement], list[Finding]]:
    """Distances and sigmas of every point that both label sets name, in the order of A.

    Args:
        a, b: I Objects with points, on the same canvas each. pairs: rows of A and of B that are the same animals.
        names_a, names_b: names of their points. resamples, seed: bootstrap over pictures.

    Raises:
        TercelError: no point is named in both.
    """
    shared = [n for n in names_a if n in names_b]
    if not shared:
        what = f"the points of A ({', '.join(names_a)}) and of B ({', '.join(names_b)}) have no name in common"
        raise TercelError(what, "name the points alike")
    ledger = Ledger()
    for side, names in (("A", names_a), ("B", names_b)):
        for n in (n for n in names if n not in shared):
            ledger.add("agree.points", Severity.WARNING, f"points that only {side} names were left out", n)
    columns = [names_a.index(n) for n in shared], [names_b.index(n) for n in shared]
    xy, known, size, area = _laid_out(a, b, pairs, columns)
    picture = np.repeat(np.arange(len(a)), [len(rows) for rows, _ in pairs])
    both, either = np.asarray(known.all(axis=1)), np.asarray(known.any(axis=1))
    distance = np.hypot(*np.moveaxis(xy[:, 1] - xy[:, 0], -1, 0))
    weights = picture_weights(len(a), resamples, seed, np.float64)
    out = []
    for k, name in enumerate(shared):
        used = both[:, k] & (area > 0)
        d, p = distance[used, k], picture[used]
        squares = np.bincount(p, d**2 / area[used], len(a)) @ weights
        count = np.bincount(p, minlength=len(a)).astype(np.float64) @ weights
        with np.errstate(invalid="ignore", divide="ignore"):
            x = np.sqrt(squares / count)
        sigma = Score("sigma", float(x[0]), int(used.sum()), *interval(float(x[0]), x[1:]), {"point": name})
        px, share = (float(v.mean()) if len(v) else math.nan for v in (d, d / size[used]))
        out.append(PointAgreement(name, int(used.sum()), px, share, int((either & ~both)[:, k].sum()), sigma))
    for point in out:
        if point.n < FEW:
            message = f"points that fewer than {FEW} animals have in both label sets: their sigmas are guesses"
            ledger.add("agree.few_points", Severity.WARNING, message, f"{point.name}: {point.n}")
    return out, list(ledger.findings())


def _laid_out(
    a: Sequence[Objects], b: Sequence[Objects], pairs: Sequence[tuple[Ints, Ints]], columns: tuple[list[int], list[int]]
) -> tuple[Floats, Bools, Floats, Floats]:
    """xy f64 [P,2,K,2] px and known bool [P,2,K] of both labels, A's longer side [P] px, mean area [P] px^2."""
    k = len(columns[0])
    xy, known = [np.zeros((0, 2, k, 2))], [np.zeros((0, 2, k), np.bool_)]
    size, area = [np.zeros(0)], [np.zeros(0)]
    for one, two, rows in zip(a, b, pairs, strict=True):
        sides = [o[r] for o, r in zip((one, two), rows, strict=True)]
        if not len(sides[0]):
            continue
        points = [np.asarray(o.points, np.float64)[:, c] for o, c in zip(sides, columns, strict=True)]
        visible = [np.asarray(o.visible)[:, c] > 0 for o, c in zip(sides, columns, strict=True)]
        xy.append(np.stack(points, axis=1))
        known.append(np.stack(visible, axis=1))
        size.append((sides[0].boxes[:, 2:] - sides[0].boxes[:, :2]).max(axis=1).astype(np.float64))
        area.append((sides[0].areas.astype(np.float64) + sides[1].areas) / 2)
    return np.concatenate(xy), np.concatenate(known), np.concatenate(size), np.concatenate(area)
