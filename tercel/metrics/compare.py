"""Two sets of predictions on the same pictures: is one better, by how much, and where?

Both are judged on the same resamples of pictures (a paired bootstrap, Efron and Tibshirani 1993), so that pictures
which are hard for both move both scores and leave the difference alone. NumPy only.

Shape legend: I pictures, T thresholds, C classes, R resamples; column 0 of 1 + R is the plain score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Score, Severity, TercelError
from tercel.core.objects import Objects
from tercel.metrics.ap import MAX_DETECTIONS
from tercel.metrics.breakdown import best_f1, plain
from tercel.metrics.crowd import crowd_samples
from tercel.metrics.match import IOUS, Matching, Pool, match_all
from tercel.metrics.stats import Array, Interpolation, interval, mean_over_classes, picture_weights, resample

Floats = NDArray[np.float64]
EVERY = {"all": (0.0, math.inf)}  # one size bin
GEOMETRIES = ("", "boxes", "oriented")
_COCO = {"AP50": "COCO_AP50"}  # beside CrowdHuman's


@dataclass(frozen=True, eq=False)
class Comparison:
    """B against A.

    Attributes:
        scores: AP, AP50, AP75 over all classes and per class; ``where["of"]`` is "A", "B", or "B - A" for the
            difference, which also has its `p` there. `n` counts truths. Intervals are over pictures. Of crowds also
            MR-2, which is better when it falls, JI and CrowdHuman's AP50; COCO's is COCO_AP50 then.
        table: the same, one row per metric and class (None = all): A, B, difference, low, high, p, n.
        pictures: one row per picture, those that changed most first: its id; `mistakes_A`, `mistakes_B`: false
            positives and misses, the mean over the thresholds, at the score threshold where each one's F1 is best;
            `change` = mistakes of A less those of B, above 0 where B is better.
        thresholds: the two score thresholds. findings: what to bear in mind.
    """

    scores: list[Score]
    table: list[dict[str, Any]]
    pictures: list[dict[str, Any]]
    thresholds: tuple[float, float]
    findings: list[Finding]
    names: tuple[str, str]
    rule: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = plain(
            {
                "table": self.table,
                "pictures": self.pictures,
                "thresholds": self.thresholds,
                "names": self.names,
                "rule": self.rule,
            }
        )
        return out


@dataclass(frozen=True, eq=False)
class Sampled:
    """One set of predictions under resampled pictures: its matching, and AP [T,C,1+R] (NaN without truth)."""

    matching: Matching
    ap: Array

    def named(self) -> dict[str, Array]:
        """AP, AP50, AP75 by name, each [C,1+R]; only the thresholds that were asked for."""
        out = {"AP": self.ap.mean(axis=0)}
        for name, iou in (("AP50", 0.5), ("AP75", 0.75)):
            at = next((t for t, x in enumerate(self.matching.ious) if math.isclose(x, iou)), None)
            if at is not None:
                out[name] = self.ap[at]
        return out


def sample(
    truth: Pool, pred: Pool, classes: int, weights: Array, *, ious: Sequence[float] = IOUS,
    cap: int | None = MAX_DETECTIONS[-1], interpolation: Interpolation = "101",
) -> Sampled:  # fmt: skip
    """Match once, then AP under every column of `weights` [I,1+R] (see `stats.picture_weights`)."""
    m = match_all(truth, pred, ious=ious, sizes=EVERY, cap=cap)
    most = int(m.rank.max(initial=0)) + 1
    return Sampled(m, resample(m, classes, weights, (most,), interpolation).ap[0].astype(np.float64))


def pools(truth: Sequence[Objects], *predictions: Sequence[Objects], geometry: str = "") -> tuple[str, list[Pool]]:
    """One Pool per side, all in one geometry: "oriented" where the sides hold oriented boxes, if nothing is asked for.

    Returns:
        The geometry, and the pools of the truth and of each set of predictions.

    Raises:
        TercelError: different numbers of pictures or other canvases, predictions without scores, an unknown geometry,
            or oriented boxes on some sides only.
    """
    if geometry not in GEOMETRIES:
        raise TercelError(f"geometry {geometry!r} is not one of boxes, oriented", "choose one of them")
    for pred in predictions:
        if len(pred) != len(truth):
            message = f"{len(truth)} truths and {len(pred)} predictions: not the same pictures"
            raise TercelError(message, "give one Objects per picture; Objects.empty(size) where nothing was found")
        for i, (t, p) in enumerate(zip(truth, pred, strict=True)):
            if t.size != p.size:
                sizes = f"{t.size[0]}x{t.size[1]} and {p.size[0]}x{p.size[1]} px"
                raise TercelError(f"picture {i}: truth and predictions lie on {sizes}", "map them to the same picture")
            if len(p) and p.scores is None:
                raise TercelError(f"picture {i}: predictions have no scores", "AP needs a score for each detection")
    made = [Pool.of(side) for side in (truth, *predictions)]
    kinds = {p.obbs is not None for p in made if len(p)}  # what holds no object fits either
    if False in kinds and (geometry == "oriented" or (True in kinds and not geometry)):
        message = "one side holds axis-aligned boxes, so oriented boxes cannot be judged: a hull is none"
        raise TercelError(message, "judge axis-aligned boxes and hulls instead: --geometry boxes")
    if geometry == "boxes" or True not in kinds:
        return "boxes", [p.hulls() for p in made]
    return "oriented", [replace(p, obbs=np.zeros((0, 5))) if p.obbs is None else p for p in made]


def compare(
    truth: Sequence[Objects],
    pred_a: Sequence[Objects],
    pred_b: Sequence[Objects],
    classes: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
    names: tuple[str, str] = ("A", "B"),
    geometry: str = "",
    ious: Sequence[float] = IOUS,
    cap: int | None = MAX_DETECTIONS[-1],
    resamples: int = 1000,
    seed: int = 0,
    crowd: bool = False,
) -> Comparison:
    """Judge two sets of predictions on the same pictures and say what differs.

    Args:
        truth, pred_a, pred_b: one Objects per picture, in the same order.
        classes: names of the class ids.
        ids: names of the pictures. names: what the two are called.
        geometry: "boxes", "oriented", or "" = oriented when all three sides hold oriented boxes.
        ious, cap: as in `ap.judge_boxes`. resamples: bootstrap draws; the smallest p is 2 / (resamples + 1).
        crowd: also by CrowdHuman's evaluation (`tercel.metrics.crowd`), which knows no cap.

    Raises:
        TercelError: see `pools`; fewer than 2 resamples.
    """
    if resamples < 2:
        raise TercelError(f"resamples = {resamples}", "a comparison needs draws: 1000, say")
    kind, (all_truth, a, b) = pools(truth, pred_a, pred_b, geometry=geometry)
    ids = [str(i) for i in range(len(truth))] if ids is None else list(map(str, ids))
    weights = picture_weights(len(truth), resamples, seed)
    both = [sample(all_truth, p, len(classes), weights, ious=ious, cap=cap) for p in (a, b)]
    scores, table = _scores(both, classes)
    if crowd:
        drawn = [crowd_samples(truth, side, resamples=resamples, seed=seed) for side in (pred_a, pred_b)]
        own, rows = _crowd_scores(drawn, int((~all_truth.ignore).sum()))
        scores = own + [replace(s, name=_COCO.get(s.name, s.name)) for s in scores]
        table = rows + [r | {"metric": _COCO.get(r["metric"], r["metric"])} for r in table]
    cuts = best_f1(both[0].matching, None)["threshold"], best_f1(both[1].matching, None)["threshold"]
    changed = _pictures([mistakes_per_picture(s.matching, cut) for s, cut in zip(both, cuts, strict=True)], ids)
    return Comparison(
        scores, table, changed, cuts, _findings(both, cap, names), names,
        {"geometry": kind, "ious": list(ious), "max_detections": cap, "resamples": resamples, "seed": seed,
         "pictures": len(truth)},
    )  # fmt: skip


def difference(a: Array, b: Array) -> tuple[float, float, float, float]:
    """b - a of samples [1+R] that belong together: (value, low, high, p).

    The interval is the middle 95 % of the resampled differences, moved so that their mean is the value (resampling
    biases AP; see `stats.interval`). p is two-sided: twice the share of draws on the far side of 0, at least
    2 / (R + 1). NaN where either is undefined.
    """
    d = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    value, draws = float(d[0]), np.sort(d[1:][~np.isnan(d[1:])])
    if math.isnan(value) or len(draws) < 2:
        return value, math.nan, math.nan, math.nan
    draws += value - draws.mean()
    low, high = np.quantile(draws, [0.025, 0.975])
    tiny = 1e-12  # equal sets of predictions differ by nothing but rounding
    beyond = min(int((draws <= tiny).sum()), int((draws >= -tiny).sum()))
    p = min(1.0, 2 * (beyond + 1) / (len(draws) + 1))
    return value, float(np.clip(low, -1, value)), float(np.clip(high, value, 1)), p


def _scores(both: Sequence[Sampled], classes: Sequence[str]) -> tuple[list[Score], list[dict[str, Any]]]:
    m = both[0].matching
    counts = np.bincount(m.truth.labels[m.countable[0]], minlength=len(classes))
    a, b = both[0].named(), both[1].named()
    scores, table = [], []
    for c in (None, *range(len(classes))):
        n = int(counts.sum() if c is None else counts[c])
        where = {} if c is None else {"class": classes[c]}
        for metric in a:
            x, y = (mean_over_classes(s[metric]) if c is None else s[metric][c] for s in (a, b))
            own, row = _one(metric, x, y, n, where)
            scores += own
            table.append(row)
    return scores, table


def _crowd_scores(drawn: Sequence[dict[str, Array]], n: int) -> tuple[list[Score], list[dict[str, Any]]]:
    found = [_one(metric, drawn[0][metric], drawn[1][metric], n, {}) for metric in drawn[0]]
    return [s for own, _ in found for s in own], [row for _, row in found]


def _one(metric: str, x: Array, y: Array, n: int, where: dict[str, Any]) -> tuple[list[Score], dict[str, Any]]:
    """A metric of A, of B, and the difference, from their samples [1+R]; and the row of the table."""
    value, low, high, p = difference(x, y)
    out = [
        Score(metric, float(z[0]), n, *interval(float(z[0]), z[1:]), {**where, "of": name})
        for name, z in (("A", x), ("B", y))
    ]
    out.append(Score(metric, value, n, low, high, {**where, "of": "B - A", "p": plain(p)}))
    row = {"metric": metric, "class": where.get("class"), "A": float(x[0]), "B": float(y[0]), "difference": value,
           "low": low, "high": high, "p": p, "n": n}  # fmt: skip
    return out, row


def mistakes_per_picture(m: Matching, cut: float) -> Floats:
    """False positives and misses [I] among detections of at least `cut`, the mean over the thresholds."""
    kept = m.pred.scores >= cut  # NaN keeps none
    hits, spared = m.unpack(m.hits, 0) & kept, m.unpack(m.spared, 0)

    def count(picture: NDArray[np.int64]) -> Floats:
        return np.bincount(picture, minlength=m.pred.pictures).astype(np.float64)

    truths = count(m.truth.picture[m.countable[0]])
    wrong = [
        count(m.pred.picture[kept & ~h & ~s]) + truths - count(m.pred.picture[h])
        for h, s in zip(hits, spared, strict=True)
    ]
    mean: Floats = np.mean(wrong, axis=0)
    return mean


def _pictures(mistakes: Sequence[Floats], ids: Sequence[str]) -> list[dict[str, Any]]:
    change = mistakes[0] - mistakes[1]
    order = np.argsort(-np.abs(change), kind="stable").tolist()
    a, b = (m.tolist() for m in mistakes)
    return [{"picture": ids[i], "mistakes_A": a[i], "mistakes_B": b[i], "change": a[i] - b[i]} for i in order]


def _findings(both: Sequence[Sampled], cap: int | None, names: tuple[str, str]) -> list[Finding]:
    out = []
    for s, name in zip(both, names, strict=True):
        if s.matching.dropped:
            message = (
                f"{name}: detections beyond the cap of {cap} per picture and class do not count: raise --max-detections"
            )
            out.append(Finding("compare.cap", Severity.WARNING, message, s.matching.dropped))
    m = both[0].matching
    pictures = len(np.unique(m.truth.picture[m.countable[0]]))
    if 0 < pictures < 20:
        message = f"the truths lie in {pictures} pictures: intervals and p of so few say little"
        out.append(Finding("compare.few_pictures", Severity.WARNING, message, pictures))
    return out
