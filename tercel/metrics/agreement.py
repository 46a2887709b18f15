"""How far do two label sets of the same pictures agree? And which AP would the truth itself get, if labelled again?

Objects are paired one to one within a picture, whatever their class, so that the sum of overlaps is highest
(Kuhn 1955); the classes of the pairs make the confusion table. The mean of each object's best overlap depends on which
set one starts from (an object labelled twice counts once or twice), so both directions are given beside it.

The ceiling: the truth, moved by disagreements drawn from the pairs, is judged against the truth. NumPy and SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding, Ledger, Score, Severity, TercelError
from tercel.core.geometry import box_area
from tercel.core.objects import Objects
from tercel.metrics.breakdown import plain
from tercel.metrics.match import pair_overlap

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PAIRED = 0.1  # overlaps below this are chance: such objects stay alone
BINS = 20


@dataclass(frozen=True, eq=False)
class Agreement:
    """Two label sets, A and B, of the same pictures.

    Attributes:
        scores: mIoU with ``where["direction"]`` "A to B", "B to A" (each object's best overlap, 0 where there is
            none), "one to one" (pairs only) and "one to one, all" (objects left alone count 0); paired_A, paired_B:
            the shares of objects that found a partner; same_class: the share of pairs with the same class. `n` counts
            objects or pairs; intervals are over pictures.
        histogram: rows low, high, n of the overlaps of the pairs, 0..1.
        confusion: rows A, B, count: class names of the pairs.
        alone: rows side ("A" or "B"), picture, row (within its Objects), class, box: objects without a partner.
        iou, area: f64 [P] overlap, and area in A in px^2, of each pair.
        residuals: f64 [P,K] of B from A in A's own frame: along and across in lengths and widths, log ratios of both
            sides (K = 4), and for oriented boxes the turn in radians (K = 5).
        labels: i64 [P,2] classes of each pair, ids of `classes`.
        rows: i64 rows of A and of B that make the pairs, per picture.
        rates: share of A's objects that B lacks, and of B's objects that A lacks, per object of A.
        ignored: objects of either side left out, because they or what they lie on is marked ignore.
        geometry: "oriented" or "boxes". findings: what to bear in mind.
    """

    scores: list[Score]
    histogram: list[dict[str, Any]]
    confusion: list[dict[str, Any]]
    alone: list[dict[str, Any]]
    iou: Floats
    area: Floats
    residuals: Floats
    labels: Ints
    rows: list[tuple[Ints, Ints]]
    rates: tuple[float, float]
    ignored: int
    classes: tuple[str, ...]
    geometry: str
    findings: list[Finding]

    def __getitem__(self, direction: str) -> float:
        """mIoU of a direction, for example ``agreement["one to one"]``."""
        return next(s.value for s in self.scores if s.name == "mIoU" and s.where["direction"] == direction)

    def to_json(self) -> dict[str, Any]:
        return {
            "geometry": self.geometry,
            "histogram": self.histogram,
            "confusion": self.confusion,
            "alone": self.alone,
            "rates": [plain(x) for x in self.rates],
            "ignored": self.ignored,
            "residuals": self._spread(),
        }

    def _spread(self) -> list[dict[str, Any]]:
        """Mean and standard deviation of each kind of disagreement."""
        names: tuple[str, ...] = ("along / length", "across / width", "log length", "log width", "turn (degrees)")
        if self.geometry == "boxes":
            names = ("x / width", "y / height", "log width", "log height")
        rows = []
        for name, x in zip(names, self.residuals.T, strict=False):
            unit = math.degrees(1) if "degrees" in name else 1.0
            mean, deviation = (float(x.mean()) * unit, float(x.std()) * unit) if len(x) else (math.nan, math.nan)
            rows.append({"of": name, "mean": plain(mean), "deviation": plain(deviation), "n": len(x)})
        return rows


def agree(
    a: Sequence[Objects],
    b: Sequence[Objects],
    classes_a: Sequence[str],
    classes_b: Sequence[str] | None = None,
    *,
    ids: Sequence[str] | None = None,
    hashes: tuple[Sequence[str], Sequence[str]] | None = None,
    geometry: str = "",
    paired: float = PAIRED,
    resamples: int = 200,
    seed: int = 0,
) -> Agreement:
    """Compare two label sets.

    Args:
        a, b: one Objects per picture, in the same order, on the same canvas.
        classes_a, classes_b: names of the class ids; classes are compared by name (None: the same as A).
        ids: names of the pictures. hashes: what tells the pictures of both sides apart ("" = not known); where they
            differ, the labels belong to different pixels, and a finding says so.
        geometry: "boxes", "oriented", or "" = oriented when both sides hold oriented boxes.
        paired: lowest overlap of a pair. resamples, seed: bootstrap over pictures.

    Raises:
        TercelError: different numbers of pictures, other canvases, oriented boxes asked for where a side has none.
    """
    names = _names(classes_a, classes_b)
    place = {c: i for i, c in enumerate(names)}
    ids = [str(i) for i in range(len(a))] if ids is None else list(map(str, ids))
    kind = _check(a, b, ids, geometry)
    maps = [
        np.array([place[c] for c in cs], np.int64) for cs in (classes_a, classes_a if classes_b is None else classes_b)
    ]
    ledger = Ledger()
    if kind == "boxes" and any(_oriented(x) for x in (a, b)):
        message = "only one side has oriented boxes, or boxes were asked for: their hulls were compared"
        ledger.add("agree.hulls", Severity.WARNING if not geometry else Severity.INFO, message)
    for i in np.flatnonzero([bool(x) and bool(y) and x != y for x, y in zip(*hashes, strict=True)] if hashes else []):
        message = "pictures differ in content between the two sets (retouched or mixed up): labels cannot agree there"
        ledger.add("agree.other_pixels", Severity.WARNING, message, ids[i])
    parts = [_pair(x, y, kind, maps, paired) for x, y in zip(a, b, strict=True)]
    return _agreement(parts, names, ids, kind, ledger, resamples, seed)


@dataclass(frozen=True)
class _Pairs:
    """One picture: best overlap of each object that counts on either side, and the pairs as rows of A and B."""

    best: tuple[Floats, Floats]
    rows: tuple[Ints, Ints]
    iou: Floats
    area: Floats
    residuals: Floats
    labels: Ints
    alone: list[dict[str, Any]]
    ignored: int


def _names(a: Sequence[str], b: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*a, *(b or ())]))


def _oriented(parts: Sequence[Objects]) -> bool:
    return all(p.obbs is not None for p in parts if len(p)) and any(len(p) for p in parts)


def _check(a: Sequence[Objects], b: Sequence[Objects], ids: Sequence[str], geometry: str) -> str:
    if not len(a) == len(b) == len(ids):
        message = f"{len(a)}, {len(b)} label sets and {len(ids)} ids: not the same pictures"
        raise TercelError(message, "give one Objects per picture on both sides")
    for i, x, y in zip(ids, a, b, strict=True):
        if x.size != y.size:
            message = f"picture {i}: {x.size[0]}x{x.size[1]} px in A, {y.size[0]}x{y.size[1]} px in B"
            raise TercelError(message, "compare labels of the same pictures at the same size")
    if geometry not in ("", "boxes", "oriented"):
        raise TercelError(f"geometry {geometry!r} is not one of boxes, oriented", "choose one of them")
    possible = _oriented(a) and _oriented(b)
    if geometry == "oriented" and not possible:
        raise TercelError("oriented boxes are to be compared, but one side has none", "use --geometry boxes")
    return "oriented" if possible and geometry != "boxes" else "boxes"


def _shapes(o: Objects, kind: str) -> Floats:
    """[N,5] or [N,4] in float64."""
    return np.asarray(o.obbs if kind == "oriented" and o.obbs is not None else o.boxes, np.float64)


def _matrix(a: Floats, b: Floats, of_first: bool = False) -> Floats:
    """Overlaps [N,M]: IoU, or intersection over the area of the first."""
    i, j = np.divmod(np.arange(len(a) * len(b)), max(len(b), 1))
    return pair_overlap(a[i], b[j], np.full(len(i), of_first)).reshape(len(a), len(b))


def _pair(a: Objects, b: Objects, kind: str, maps: Sequence[Ints], paired: float) -> _Pairs:
    from scipy.optimize import linear_sum_assignment

    shapes = _shapes(a, kind), _shapes(b, kind)
    free = []
    for o, x, other, y in ((a, shapes[0], b, shapes[1]), (b, shapes[1], a, shapes[0])):
        covered = _matrix(x, y[other.ignore], of_first=True) if other.ignore.any() else np.zeros((len(o), 0))
        free.append((~o.ignore, covered.max(axis=1, initial=0) >= 0.5))
    iou = _matrix(*shapes)
    iou[~free[0][0]] = 0
    iou[:, ~free[1][0]] = 0
    left, right = linear_sum_assignment(-np.where(iou >= paired, iou, 0))
    good = iou[left, right] >= paired
    left, right = left[good], right[good]
    best, alone, ignored = [], [], 0
    for side, o, (real, covered), taken, axis in (("A", a, free[0], left, 1), ("B", b, free[1], right, 0)):
        single = real.copy()
        single[taken] = False
        spared = single & covered  # the other annotator marked it as not to be judged
        ignored += int((~real).sum() + spared.sum())
        best.append(iou.max(axis=axis, initial=0)[real & ~spared])
        names = maps[0 if side == "A" else 1]
        rows = np.flatnonzero(single & ~spared).tolist()
        alone += [{"side": side, "row": r, "label": int(names[o.labels[r]]), "box": o.boxes[r].tolist()} for r in rows]
    x, y = shapes[0][left], shapes[1][right]
    labels = np.stack([maps[0][a.labels[left]], maps[1][b.labels[right]]], axis=1)
    area = x[:, 2] * x[:, 3] if kind == "oriented" else np.asarray(box_area(x), np.float64)
    residuals = difference_of(x, y)
    return _Pairs((best[0], best[1]), (left, right), iou[left, right], area, residuals, labels, alone, ignored)


# -- geometry of a disagreement -----------------------------------------------------------------------------------


def difference_of(a: Floats, b: Floats) -> Floats:
    """What turns a into b, both [P,5] or both [P,4], as residuals [P,5] or [P,4] in a's own frame (see Agreement)."""
    tiny = 1e-6
    if a.shape[1] == 4:
        size, other = (np.maximum(x[:, 2:] - x[:, :2], tiny) for x in (a, b))
        centre = (b[:, :2] + b[:, 2:] - a[:, :2] - a[:, 2:]) / 2
        return np.concatenate([centre / size, np.log(other / size)], axis=1)
    size = np.maximum(a[:, 2:4], tiny)
    c, s = np.cos(a[:, 4]), np.sin(a[:, 4])
    dx, dy = (b[:, :2] - a[:, :2]).T
    moved = np.stack([c * dx + s * dy, c * dy - s * dx], axis=1) / size
    # Of a nearly square box either side may be called the length: the reading with the smaller turn is meant.
    turn = np.mod(b[:, 4] - a[:, 4] + np.pi / 2, np.pi) - np.pi / 2
    swap = np.abs(turn) > np.pi / 4
    turn = np.where(swap, turn - np.copysign(np.pi / 2, turn), turn)
    sides = np.where(swap[:, None], b[:, [3, 2]], b[:, 2:4])
    return np.concatenate([moved, np.log(np.maximum(sides, tiny) / size), turn[:, None]], axis=1)


def moved_by(a: Floats, residuals: Floats) -> Floats:
    """The other way: a [P,5] or [P,4] moved by residuals."""
    if a.shape[1] == 4:
        size = a[:, 2:] - a[:, :2]
        centre = (a[:, :2] + a[:, 2:]) / 2 + residuals[:, :2] * size
        half = size * np.exp(residuals[:, 2:4]) / 2
        return np.concatenate([centre - half, centre + half], axis=1)
    c, s = np.cos(a[:, 4]), np.sin(a[:, 4])
    u, v = (residuals[:, :2] * a[:, 2:4]).T
    centre = a[:, :2] + np.stack([c * u - s * v, s * u + c * v], axis=1)
    return np.concatenate([centre, a[:, 2:4] * np.exp(residuals[:, 2:4]), a[:, 4:] + residuals[:, 4:]], axis=1)


# -- the whole set ------------------------------------------------------------------------------------------------


def _agreement(
    parts: Sequence[_Pairs], names: tuple[str, ...], ids: Sequence[str], kind: str, ledger: Ledger, resamples: int,
    seed: int,
) -> Agreement:  # fmt: skip
    width = 5 if kind == "oriented" else 4
    iou = np.concatenate([np.zeros(0), *(p.iou for p in parts)])
    area = np.concatenate([np.zeros(0), *(p.area for p in parts)])
    residuals = np.concatenate([np.zeros((0, width)), *(p.residuals for p in parts)])
    labels = np.concatenate([np.zeros((0, 2), np.int64), *(p.labels for p in parts)])
    alone = []
    for i, p in zip(ids, parts, strict=True):
        alone += [{"picture": i, **{k: v for k, v in r.items() if k != "label"}, "class": names[r["label"]]}
                  for r in p.alone]  # fmt: skip
    n_a, n_b = (sum(len(p.best[s]) for p in parts) for s in (0, 1))
    rates = (math.nan, math.nan) if not n_a else ((n_a - len(iou)) / n_a, (n_b - len(iou)) / n_a)
    counts = np.histogram(iou, bins=BINS, range=(0, 1))[0].tolist()
    pairs, times = np.unique(labels, axis=0, return_counts=True)
    if not len(iou):
        ledger.add("agree.nothing", Severity.WARNING, "no two objects overlap: are these labels of the same pictures?")
    return Agreement(
        _scores(parts, resamples, seed),
        [{"low": i / BINS, "high": (i + 1) / BINS, "n": c} for i, c in enumerate(counts)],
        [{"A": names[x], "B": names[y], "count": int(c)} for (x, y), c in zip(pairs.tolist(), times, strict=True)],
        alone, iou, area, residuals, labels, [p.rows for p in parts], rates, sum(p.ignored for p in parts), names, kind,
        list(ledger.findings()),
    )  # fmt: skip


def _scores(parts: Sequence[_Pairs], resamples: int, seed: int) -> list[Score]:
    from tercel.metrics.stats import interval, picture_weights

    weights = picture_weights(len(parts), resamples, seed, np.float64)

    def score(name: str, above: Sequence[float], below: Sequence[float], **where: Any) -> Score:
        top, count = np.array(above, np.float64) @ weights, np.array(below, np.float64) @ weights
        x = np.divide(top, count, out=np.full(len(top), np.nan), where=count > 0)
        return Score(name, float(x[0]), int(count[0]), *interval(float(x[0]), x[1:]), where)

    def each(of: Any) -> list[float]:
        return [float(of(p)) for p in parts]

    total, pairs = each(lambda p: p.iou.sum()), each(lambda p: len(p.iou))
    n_a, n_b = each(lambda p: len(p.best[0])), each(lambda p: len(p.best[1]))
    everything = [x + y - z for x, y, z in zip(n_a, n_b, pairs, strict=True)]
    return [
        score("mIoU", total, pairs, direction="one to one"),
        score("mIoU", each(lambda p: p.best[0].sum()), n_a, direction="A to B"),
        score("mIoU", each(lambda p: p.best[1].sum()), n_b, direction="B to A"),
        score("mIoU", total, everything, direction="one to one, all"),
        score("paired_A", pairs, n_a),
        score("paired_B", pairs, n_b),
        score("same_class", each(lambda p: (p.labels[:, 0] == p.labels[:, 1]).sum()), pairs),
    ]
