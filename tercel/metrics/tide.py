"""Which kind of error costs how much AP: the six errors of TIDE. NumPy only.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors" (2020), as their program computes it:
each false positive gets one kind, each kind is repaired alone, and the AP gained is its price. The prices do not add
up to what is missing from 1, because repairing one kind uncovers others.

Two deviations, both towards COCO: the AP is the mean over classes with truth (tidecv counts a class that has
detections but no truth as 0), and the cap holds per picture and class (tidecv: per picture). The grid of recalls is
tidecv's, so that the AP may differ from that of the table in the fourth decimal (see `weighted_ap`).

Shape legend: D detections, G truths, I pictures, C classes, R weights of pictures (see `stats.picture_weights`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Score, TercelError
from tercel.core.objects import Objects
from tercel.metrics.match import Bools, Floats, Ints, Matching, Pool, candidates, match_all
from tercel.metrics.sides import ALL, Analysis, over_cap, pooled, weights_and_draws
from tercel.metrics.stats import BLOCK, Array, interval, mean_over_classes, weighted_ap

# The kinds of a false positive, by code; -1 = none.
KINDS: tuple[str, ...] = ("Cls", "Loc", "Both", "Dupe", "Bkg")
CLS, LOC, BOTH, DUPE, BKG = range(5)
MEANING: Mapping[str, str] = {
    "Cls": "well placed, wrong class",
    "Loc": "right class, badly placed",
    "Both": "wrong class and badly placed",
    "Dupe": "a better detection of the same object exists",
    "Bkg": "nothing there",
    "Miss": "not found, by no badly placed or wrongly named detection either",
    "FalsePos": "all false positives together",
    "FalseNeg": "all truths not found together",
}


@dataclass(frozen=True, eq=False)
class Tide(Analysis):
    """What each kind of error costs.

    Attributes:
        scores: the AP at the positive threshold (``AP50``), then ``dAP_Cls`` ... ``dAP_Miss``, ``dAP_FalsePos`` and
            ``dAP_FalseNeg`` (0..1; `n` = how many errors), over all classes and per class (``where["class"]``).
            Intervals are over pictures.
        table: one row per kind: error, meaning, count, dAP. by_class: one row per class: counts and dAP of each kind.
        kind: i8 [D], index into `KINDS` for each detection of `matching.pred`, -1 = no error. Detections that took an
            ignored truth have a kind too, as in tidecv.
        about: i64 [D], the truth (index into `matching.truth`) that a Cls, Loc or Dupe error points to, else -1.
        missed: bool [G], truths that are a Miss. not_found: bool [G], all truths that nobody found.
        matching: who found what at the positive threshold.
    """

    PARTS: ClassVar = ("table", "by_class")

    table: list[dict[str, Any]]
    by_class: list[dict[str, Any]]
    kind: NDArray[np.int8]
    about: Ints
    missed: Bools
    not_found: Bools
    matching: Matching


def tide(
    truth: Sequence[Objects],
    predictions: Sequence[Objects],
    classes: Sequence[str],
    *,
    positive: float = 0.5,
    background: float = 0.1,
    cap: int | None = 100,
    geometry: str = "",
    resamples: int = 200,
    seed: int = 0,
) -> Tide:
    """Sort all false positives and misses into TIDE's errors and price them.

    Args:
        truth, predictions: one Objects per picture.
        classes: names of the class ids 0..C-1.
        positive: overlap of a hit. background: overlap up to which a detection meets nothing.
        cap: detections kept per picture and class, the highest scores first; None = all.
        geometry: "boxes", "oriented", or "" = oriented when both sides hold oriented boxes.
        resamples: bootstrap draws of pictures for the 95 % intervals; 0 = none (NaN).

    Raises:
        TercelError: see `pooled`; thresholds that are not 0 <= background < positive <= 1.
    """
    _check_thresholds(positive, background)
    _, all_truth, all_pred = pooled(truth, predictions, classes, geometry)
    m = match_all(all_truth, all_pred, ious=(positive,), sizes=ALL, cap=cap)
    return tide_from(m, classes, background=background, resamples=resamples, seed=seed)


def tide_from(
    m: Matching, classes: Sequence[str], *, background: float = 0.1, resamples: int = 200, seed: int = 0
) -> Tide:
    """As `tide`, from a matching at hand (`BoxReport.matching`): its first threshold is the positive one."""
    positive = m.ious[0]
    _check_thresholds(positive, background)
    used = np.zeros(len(m.truth), np.bool_)
    used[m.partner[m.hit_at_first]] = True
    kind, about = _kinds(m, used, positive, background)
    not_found = m.countable[0] & ~used
    wins = _wins(m, kind, about, not_found)
    missed = not_found.copy()
    missed[about[(kind == CLS) | (kind == LOC)]] = False

    weights = weights_and_draws(m, resamples, seed)
    repairs = _repairs(m, kind, about, wins, missed, not_found)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # NumPy works outside the interpreter's lock
        priced = pool.map(lambda r: _class_ap(r, m, len(classes), weights), repairs.values())
        ap = dict(zip(repairs, priced, strict=True))
    counts = _counts(m, kind, missed, not_found, len(classes))
    scores, prices = _scores(ap, counts, classes, positive, int(m.countable[0].sum()))
    by_class = [
        {"class": name, **{k: int(counts[k][c]) for k in MEANING}, **{f"dAP_{k}": prices[k][c] for k in MEANING}}
        for c, name in enumerate(classes)
    ]
    total = {s.name.removeprefix("dAP_"): s for s in scores if "class" not in s.where}
    table = [{"error": k, "meaning": MEANING[k], "count": total[k].n, "dAP": total[k].value} for k in MEANING]
    rule = {"protocol": "tide", "positive": positive, "background": background, "resamples": resamples, "seed": seed}
    return Tide(scores, over_cap(m, "tide.cap"), rule, table, by_class, kind, about, missed, not_found, m)


def _check_thresholds(positive: float, background: float) -> None:
    if not 0 <= background < positive <= 1:
        raise TercelError(
            f"overlap thresholds: background {background:g}, positive {positive:g}",
            "0 <= background < positive <= 1, for example .1 and .5",
        )


# -- kinds --------------------------------------------------------------------------------------------------------


def _kinds(m: Matching, used: Bools, positive: float, background: float) -> tuple[NDArray[np.int8], Ints]:
    """Kind and truth of each detection. TIDE's order: Loc, Cls, Dupe, Bkg, the rest is Both."""
    real = np.flatnonzero(m.countable[0])
    # Spared without a partner: outside the size bin, no error of it.
    wrong = np.flatnonzero(~m.hit_at_first & ~(m.spared_at_first & (m.partner < 0)))
    truth, pred = m.truth.take(real), m.pred.take(wrong)
    d, g, iou = _pairs(truth, pred)
    same = pred.labels[d] == truth.labels[g]
    order = np.lexsort((g, -iou, d))  # of equal overlaps the first truth

    def best(chosen: Bools) -> tuple[Floats, Ints]:
        """Greatest overlap among these pairs, and with which truth: [n] each."""
        rows = order[chosen[order]]
        who, first = np.unique(d[rows], return_index=True)
        value, at = np.zeros(len(pred)), np.full(len(pred), -1)
        value[who], at[who] = iou[rows[first]], g[rows[first]]
        return value, at

    own, own_at = best(same)
    other, other_at = best(~same)
    taken, taken_at = best(same & used[real][g])
    loc = (own >= background) & (own <= positive) & (own_at >= 0)
    cases = [loc, other >= positive, taken >= positive, np.maximum(own, other) <= background]
    found = np.select(cases, [LOC, CLS, DUPE, BKG], BOTH)
    at = np.select(cases[:3], [own_at, other_at, taken_at], -1)
    kind, about = np.full(len(m.pred), -1, np.int8), np.full(len(m.pred), -1)
    kind[wrong] = found
    about[wrong[at >= 0]] = real[at[at >= 0]]
    return kind, about


def _pairs(truth: Pool, pred: Pool) -> tuple[Ints, Ints, Floats]:
    """Pairs (detection, truth, overlap) that meet in the same picture, whatever their classes."""
    one = [replace(p, labels=np.zeros_like(p.labels)) for p in (truth, pred)]
    return candidates(one[0], one[1], pred.picture, 0.0)


def _wins(m: Matching, kind: NDArray[np.int8], about: Ints, not_found: Bools) -> Bools:
    """bool [D]: the best Cls or Loc error of each truth that nobody found; repaired, it becomes a hit."""
    rows = np.flatnonzero((kind == CLS) | (kind == LOC))
    rows = rows[not_found[about[rows]]]
    rows = rows[np.lexsort((m.pred.row[rows], -m.pred.scores[rows], about[rows]))]
    wins = np.zeros(len(m.pred), np.bool_)
    wins[rows[np.unique(about[rows], return_index=True)[1]]] = True
    return wins


# -- prices -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Repair:
    """A list of detections after one kind of error was repaired: [n] each, and the truths that stay [G]."""

    rows: Ints
    labels: Ints
    hit: Bools
    truths: Bools


def _repairs(
    m: Matching, kind: NDArray[np.int8], about: Ints, wins: Bools, missed: Bools, not_found: Bools
) -> dict[str, _Repair]:
    hit, real = m.hit_at_first, m.countable[0]
    spared = m.spared_at_first  # no part of AP: they took an ignored truth; only a repair may make hits of them

    def list_of(keep: Bools, hits: Bools, labels: Ints = m.pred.labels) -> _Repair:
        rows = np.flatnonzero(keep & (hits | ~spared))
        return _Repair(rows, labels[rows], hits[rows], real)

    every = np.ones(len(kind), np.bool_)
    out = {"": list_of(every, hit)}
    moved, renamed = m.pred.labels.copy(), np.flatnonzero(wins & (kind == CLS))
    moved[renamed] = m.truth.labels[about[renamed]]
    for code, name in enumerate(KINDS):
        mine = kind == code
        repaired = mine & wins  # Both, Dupe and Bkg never win: they are deleted
        out[name] = list_of(~mine | repaired, hit | repaired, moved if code == CLS else m.pred.labels)
    whole = list_of(every, hit)
    out["Miss"] = replace(whole, truths=real & ~missed)
    out["FalsePos"] = list_of(hit, hit)  # behind all hits false positives lower no precision
    out["FalseNeg"] = replace(whole, truths=real & ~not_found)
    return out


def _class_ap(r: _Repair, m: Matching, classes: int, weights: Sequence[Array]) -> Array:
    """AP [C,R] under weights [I,R1], [I,R2]...; NaN where a class has no truth, 0 where all of it was repaired away and
    detections are left, as in tidecv."""
    order = np.lexsort((r.rows, -m.pred.scores[r.rows], r.labels))
    picture, hit = m.pred.picture[r.rows[order]], r.hit[order]
    starts = np.searchsorted(r.labels[order], np.arange(classes + 1))
    out = np.full((classes, sum(w.shape[1] for w in weights)), np.nan)
    for c in range(classes):
        truths = m.truth.labels == c
        rows, left, before = slice(starts[c], starts[c + 1]), truths & r.truths, truths & m.countable[0]
        if not before.any():
            continue
        width, column = max(8, BLOCK // max(1, rows.stop - rows.start)), 0
        for part in (x[:, i : i + width] for x in weights for i in range(0, x.shape[1], width)):
            w = np.ascontiguousarray(part)
            positives = w[m.truth.picture[left]].sum(axis=0)
            ap, _ = weighted_ap(
                picture[rows], hit[None, rows], np.zeros((1, rows.stop - rows.start), np.bool_),
                positives=positives, weights=w, late=False,
            )  # fmt: skip
            if (positives == 0).any():
                gone = (positives == 0) & (w[m.truth.picture[before]].sum(axis=0) > 0)
                ap[0, gone & (w[picture[rows]].sum(axis=0) > 0)] = 0
            out[c, column : column + w.shape[1]] = ap[0]
            column += w.shape[1]
    return out


def _counts(m: Matching, kind: NDArray[np.int8], missed: Bools, not_found: Bools, classes: int) -> dict[str, Ints]:
    """How many errors of each kind, i64 [C]: by the class of the detection, misses by that of the truth."""
    count = lambda labels: np.bincount(labels, minlength=classes)  # noqa: E731
    out = {name: count(m.pred.labels[kind == code]) for code, name in enumerate(KINDS)}
    out["Miss"] = count(m.truth.labels[missed])
    out["FalsePos"] = count(m.pred.labels[~m.hit_at_first & ~m.spared_at_first])
    out["FalseNeg"] = count(m.truth.labels[not_found])
    return out


def _scores(
    ap: Mapping[str, Array], counts: Mapping[str, Ints], classes: Sequence[str], positive: float, truths: int
) -> tuple[list[Score], dict[str, list[float]]]:
    """Scores over all classes and per class, and dAP of each kind per class."""
    base, mean = ap[""], mean_over_classes(ap[""])
    out = [Score(f"AP{100 * positive:g}", float(mean[0]), truths, *interval(float(mean[0]), mean[1:]))]
    prices, rest = {}, []
    for name in MEANING:
        # A repair may cost a little by the steps of the 101 points; TIDE calls that 0.
        floor = 0.0 if name in (*KINDS, "Miss") else -np.inf
        gain = np.maximum(mean_over_classes(ap[name]) - mean, floor)
        out.append(Score(f"dAP_{name}", float(gain[0]), int(counts[name].sum()), *interval(float(gain[0]), gain[1:])))
        each = np.maximum(ap[name] - base, floor)
        prices[name] = each[:, 0].tolist()
        rest += [
            Score(f"dAP_{name}", float(x[0]), int(n), *interval(float(x[0]), x[1:]), {"class": c})
            for c, x, n in zip(classes, each, counts[name], strict=True)
        ]
    return out + rest, prices
