"""The scores of a matching: AP and AR over all classes and per class, and the operating point. See `tercel.metrics.ap`.

Shape legend: T overlap thresholds, C classes, A size bins, M caps, R draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Score
from tercel.metrics.breakdown import at, best_f1
from tercel.metrics.match import Matching
from tercel.metrics.stats import Array, Resampled, interval, mean_over_classes


def _score(name: str, samples: Array, n: int, spread: bool, **where: Any) -> Score:
    """Column 0 is the value, the others are draws; no interval when the truths lie in fewer than two pictures."""
    low, high = interval(float(samples[0]), samples[1:]) if spread else (math.nan, math.nan)
    return Score(name, float(samples[0]), n, low, high, where)


def _spread(m: Matching, truths: NDArray[np.bool_]) -> bool:
    """Do these truths lie in at least two pictures? From one, resampling shows no spread."""
    picture = m.truth.picture[truths]
    return len(picture) > 0 and bool((picture != picture[0]).any())


def overall_scores(m: Matching, s: Resampled, caps: Sequence[int], thresholds: bool = False) -> list[Score]:
    """AP, AP50, AP75, AP per size, AR per cap, AR per size: means over classes that have truth.

    Args:
        s: column 0 is the value, the others are draws. caps: rising; scores other than AR hold under the last one.
        thresholds: also AR50 and AR75, recall at one threshold; they would share their names with caps of 50 and 75.
    """
    with_n = [(int(c.sum()), _spread(m, c)) for c in m.countable]
    n, spread = with_n[0]
    ap = mean_over_classes(s.ap)  # [A,T,1+R]
    out = [_score("AP", ap[0].mean(axis=0), n, spread)]
    for percent in (50, 75):
        t = at(m, percent / 100)
        if t is not None:
            out.append(_score(f"AP{percent}", ap[0, t], n, spread))
    if len(m.ious) == 1 and at(m, 0.5) is None:
        out.append(_score(f"AP{100 * m.ious[0]:g}", ap[0, 0], n, spread))
    sizes = list(enumerate(m.sizes))[1:]
    out += [_score(f"AP_{size}", ap[a].mean(axis=0), *with_n[a]) for a, size in sizes]
    ar = mean_over_classes(s.recall_at).mean(axis=1)
    out += [_score(f"AR{cap}", ar[i], n, spread) for i, cap in enumerate(caps)]
    for percent in (50, 75) if thresholds else ():
        t = at(m, percent / 100)
        if t is not None:
            out.append(_score(f"AR{percent}", mean_over_classes(s.recall[0, t]), n, spread))
    by_size = mean_over_classes(s.recall).mean(axis=1)
    return out + [_score(f"AR_{size}", by_size[a], *with_n[a]) for a, size in sizes]


def class_scores(m: Matching, s: Resampled, classes: Sequence[str], cap: int) -> list[Score]:
    """AP, AP50, AP75 and AR under the last cap of each class."""
    out = []
    for c, name in enumerate(classes):
        truths = m.countable[0] & (m.truth.labels == c)
        n, spread = int(truths.sum()), _spread(m, truths)
        out.append(_score("AP", s.ap[0, :, c].mean(axis=0), n, spread, **{"class": name}))
        for percent in (50, 75):
            t = at(m, percent / 100)
            if t is not None:
                out.append(_score(f"AP{percent}", s.ap[0, t, c], n, spread, **{"class": name}))
        out.append(_score(f"AR{cap}", s.recall[0, :, c].mean(axis=0), n, spread, **{"class": name}))
    return out


def operating_point(m: Matching, weights: Array) -> list[Score]:
    """precision, recall, F1 of all classes together where F1 is best; the draws keep that threshold."""
    best = best_f1(m, None)
    kept = m.pred.scores >= best["threshold"]  # NaN keeps none
    count = lambda picture: np.bincount(picture, minlength=m.pred.pictures).astype(np.float64) @ weights  # noqa: E731
    found = count(m.pred.picture[kept & m.hit_at_first])
    total = count(m.pred.picture[kept & ~m.spared_at_first])
    truths = count(m.truth.picture[m.countable[0]])
    n, spread = int(m.countable[0].sum()), _spread(m, m.countable[0])
    where = {"iou": m.ious[0], "threshold": best["threshold"] if kept.any() else None}
    nan = np.full(len(found), np.nan)
    ratios = {
        "precision": np.divide(found, total, out=nan.copy(), where=(total > 0) & (truths > 0)),
        "recall": np.divide(found, truths, out=nan.copy(), where=truths > 0),
        "F1": np.divide(2 * found, total + truths, out=nan.copy(), where=(truths > 0) & (total > 0)),
    }
    return [_score(name, x, n, spread, **where) for name, x in ratios.items()]
