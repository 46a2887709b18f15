"""What the labelled poses say against the skeleton: flip pairs that a mirror does not bear out, points that are one.

The flip test: a mirror image exchanges left and right, so the mean pose, mirrored and with its pairs exchanged, must
lie on itself. The mean pose is that of `pck.pose`, in shares of the size. It is mirrored about the line that brings the
given pairs together best; where that leaves most points apart, about the line that brings nearly every point near some
other one. Where another point than the given partner then lies nearer by more than `APART`, the pair is doubtful. An
animal that is no mirror image of itself, as one seen from its side, cannot be tested.

Shape legend: G animals that count, K points; complex numbers are places x + i y.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Ledger, Severity
from tercel.core.record import Dataset
from tercel.core.schema import Schema
from tercel.metrics.match import Floats, Ints, Pool
from tercel.metrics.pck import APART, PointPairs, pose, self_pairs

LEAST = 10  # animals: fewer say little
SYMMETRIC = 0.1  # of the size: how near to a mirrored point the points of an animal lie that is its own mirror image
ANGLES, ENOUGH = 90, 8  # lines that are tried; points from which some line does not fit by chance
TOGETHER = 0.01  # of the size, the median distance of two points that are taken for one

Places = NDArray[np.complex128]


def skeleton_findings(dataset: Dataset) -> list[Finding]:
    """What the poses say against the skeleton; nothing about fewer than 10 animals."""
    k = len(dataset.schema.keypoints)
    if not k:
        return []
    pool = Pool.of([r.objects for r in dataset.records], [1.0] * k)
    pool = pool.take(np.flatnonzero(pool.counted))
    if len(pool) < LEAST:
        return []
    pairs, ledger = self_pairs(pool), Ledger()
    for what in _together(pairs, dataset.schema):
        message = "points that are labelled at one place in nearly every animal: is one of them another point's copy?"
        ledger.add("labels.points_together", Severity.WARNING, message, what)
    mean = np.array([complex(p["x"], p["y"]) for p in pose(pairs)])
    _test_flips(mean, dataset.schema, ledger, dataset.source)
    return list(ledger.findings())


def _together(pairs: PointPairs, schema: Schema) -> Iterator[str]:
    """Pairs of points whose median distance is below TOGETHER, in words."""
    for j in range(1, len(schema.keypoints)):
        for i in range(j):
            both = pairs.labelled[:, i] & pairs.labelled[:, j] & ~np.isnan(pairs.size)
            if both.sum() >= LEAST:
                distance = np.hypot(*(pairs.truth[both, i] - pairs.truth[both, j]).T) / pairs.size[both]
                if (median := float(np.median(distance))) < TOGETHER:
                    yield f"{schema.keypoints[j]} and {schema.keypoints[i]}: {median:.1%} of the size apart"


# -- the flip test ------------------------------------------------------------------------------------------------


def _test_flips(mean: Places, schema: Schema, ledger: Ledger, source: str) -> None:
    known = np.flatnonzero(np.isfinite(mean))
    if len(known) < 4:  # two or three points are symmetric in several ways
        return
    far = mirrored_distances(mean, schema.flip_index, known)
    if far is None:
        if schema.flip_pairs:
            message = "the flip pairs could not be checked: the mean pose is no mirror image of itself"
            ledger.add("labels.flip_test", Severity.INFO, message, source, len(schema.flip_pairs))
        return
    message = (
        "points that a mirror image brings onto another point than the flip pairs say: correct the pairs, or train "
        "with augment.flip=0"
    )
    for i, given, found in doubtful(far, schema.flip_index, known):
        names, lies = schema.keypoints, f"({far[i, given]:.0%})"
        partner = f"not near {names[given]} {lies}" if given != i else f"and is in no pair {lies}"
        where = f"{names[i]} comes to lie near {names[found]} ({far[i, found]:.0%} of the size away), {partner}"
        ledger.add("labels.flip_test", Severity.WARNING, message, where)


def mirrored_distances(mean: Places, partner: Ints, known: Ints) -> Floats | None:
    """f64 [K,K], how far point i of the mean pose lies from the mirrored point j; None where it is no mirror image.

    Args:
        mean: [K] places in shares of the size. partner: i64 [K], see `Schema.flip_index`. known: which points are.
    """
    own = known[np.isin(partner[known], known)]
    here, there = mean[own], mean[partner[own]]
    lean = ((here - here.mean()) * (there - there.mean())).sum()  # least squares over reflections, as Procrustes
    turn = lean / abs(lean) if abs(lean) else 1.0
    far: Floats = np.abs(mean[:, None] - (turn * (mean - there.mean()).conj() + here.mean())[None])
    if np.median(far[own, partner[own]]) <= SYMMETRIC:
        return far
    if len(known) < ENOUGH:
        return None
    centred = mean - mean[known].mean()
    best, least = far, np.inf
    for angle in np.arange(ANGLES) * np.pi / ANGLES:
        far = np.abs(centred[:, None] - np.exp(2j * angle) * centred.conj()[None])
        cost = float(np.quantile(far[np.ix_(known, known)].min(axis=1), 0.9))  # a horse from its side is half alike
        best, least = (far, cost) if cost < least else (best, least)
    return best if least <= SYMMETRIC else None


def doubtful(far: Floats, partner: Ints, known: Ints) -> Iterator[tuple[int, int, int]]:
    """(point, its given partner, the point that it comes to lie near in the mirror instead); each couple once, and
    only where both are nearest to each other."""
    nearest = np.full(len(far), -1)
    nearest[known] = known[far[np.ix_(known, known)].argmin(axis=1)]
    for i in known.tolist():
        found, given = int(nearest[i]), int(partner[i])
        near = nearest[found] == i and far[i, found] <= SYMMETRIC
        if near and i <= found != given and far[i, given] - far[i, found] > APART:
            yield i, given, found
