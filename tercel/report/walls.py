"""The galleries of a run of boxes: false positives and misses by size and place, loose boxes, wrong angles and fronts.

Sizes are relative to the picture's usual object, because one picture is taken from 30 m and the next from 100: a house
taken for a truck is a wrong size before it is anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Finding
from tercel.core.objects import Objects
from tercel.core.record import Dataset
from tercel.metrics.match import Mistake, Pool
from tercel.report import error_plots
from tercel.report.gallery import Exhibit, Gallery
from tercel.report.judge import HIT, IGNORED, Judged
from tercel.report.pictures import data_uri
from tercel.report.plots import Plot
from tercel.report.words import count

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SIZES = ("usual size", "smaller than usual", "larger than usual")
USUAL = (0.7, 1.4)  # times the median size of the picture's objects
FEW = 3  # objects below which a picture has no usual size of its own
BORDER = 0.02  # of the picture's sides
EACH = 4  # exhibits per size and place
SHOWN = 8  # loose boxes, wrong angles
LOOSE = 0.75  # IoU below which a well placed box is loose
CENTRED = 0.2  # of the root of the truth's area
TURNED = 10.0  # degrees
SQUARE = 1.25  # ratio of the sides below which a quarter turn cannot be told
CELLS = (6, 8)  # rows and columns of the map of places


@dataclass(frozen=True, eq=False)
class _Side:
    """All detections, or all truths that count, as the columns of `Judged`.

    Attributes:
        picture: i64 [N]. size: f64 [N] times the usual size of the picture. border: bool [N].
        centre: f64 [N,2] as shares of the picture's width and height.
    """

    picture: Ints
    size: Floats
    border: Bools
    centre: Floats

    @cached_property
    def group(self) -> Ints:
        """i64 [N], index into `SIZES`."""
        return np.where(self.size < USUAL[0], 1, np.where(self.size > USUAL[1], 2, 0))


def _side(pool: Pool, picture: Ints, canvas: Floats, usual: Floats) -> _Side:
    """`canvas` f64 [I,4]: width, height, width, height."""
    share = pool.boxes / canvas[picture]
    border: Bools = np.any(np.c_[share[:, :2] <= BORDER, share[:, 2:] >= 1 - BORDER], axis=1)
    size = np.sqrt(pool.areas) / usual[picture]
    return _Side(picture, size, border, (share[:, :2] + share[:, 2:]) / 2)


class Walls:
    """The galleries, as plain values for the page.

    Args:
        data: the pictures' truth. preds: one per record. judged: the verdicts on them.
        thresholds: f64 [C], score from which a detection of a class counts; NaN = none does. chosen: that in words.
        read: loads a frame as RGB u8. sigmas: those by whose OKS points were judged; None = by IoU.
    """

    def __init__(
        self, data: Dataset, preds: Sequence[Objects], judged: Judged, thresholds: Floats, chosen: str,
        read: Callable[..., Any], sigmas: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        self.measure = "IoU" if sigmas is None else "OKS"
        self.gallery = Gallery(data, preds, judged, read, self.measure)
        self.judged, self.thresholds, self.chosen = judged, thresholds, chosen
        self.preds, self.every = Pool.of(preds, sigmas), Pool.of([r.objects for r in data.records], sigmas)
        truths = self.every.take(np.flatnonzero(self.every.counted))
        self.parts = preds, [r.objects for r in data.records]
        canvas = np.array([[r.size[1], r.size[0]] * 2 for r in data.records], np.float64).reshape(-1, 4)
        usual = _usual(np.sqrt(truths.areas), judged.truth_picture, len(data.records))
        self.found = _side(self.preds, judged.pred_picture, canvas, usual)
        self.truth = _side(truths, judged.truth_picture, canvas, usual)
        self.shape = (float(canvas[0, 1]), float(canvas[0, 0])) if len(canvas) else (1.0, 1.0)

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.gallery.findings

    @cached_property
    def counts(self) -> Bools:
        """bool [N], detections that reach the threshold of their class."""
        limit = self.thresholds[self.judged.label]
        out: Bools = self.judged.score >= np.where(np.isnan(limit), 2.0, limit)
        return out

    @cached_property
    def wrong(self) -> Bools:
        """bool [N], false positives."""
        out: Bools = (self.judged.kind != HIT) & (self.judged.kind != IGNORED)
        return out

    def all(self) -> list[dict[str, Any]]:
        """Every wall: title, note, what to say when it is empty, and parts with a title, a note and exhibits."""
        return [self.false_positives(), self.misses(), *self.placed()]

    # -- by size and place ----------------------------------------------------------------------------------------

    def false_positives(self) -> dict[str, Any]:
        used = self.wrong & self.counts
        parts = self._parts(self.wrong, used, self.found, self.gallery.false_positives)
        note = f"{_n(used)} at {self.chosen} and {self.measure} {self.judged.iou:g}, {_n(self.wrong)} in all; "
        note += "shown by size and place, and there by score, at most three per picture first. "
        note += self._usual_words()
        return {"title": "Most confident false positives", "note": note, "empty": "No false positive to show.",
                "parts": parts}  # fmt: skip

    def misses(self) -> dict[str, Any]:
        lost, limits = ~self.judged.found(self.thresholds), self.thresholds
        parts = self._parts(lost, lost, self.truth, lambda c, mask: self.gallery.misses(limits, c, mask))
        note = f"{_n(lost)} of {count(len(lost))} objects were missed at {self.chosen} and "
        note += f"{self.measure} {self.judged.iou:g}; shown by size and place, there in turn by size and class, "
        note += "large ones first."
        return {"title": "Missed objects", "note": note, "empty": "No missed object to show.", "parts": parts}

    def _parts(
        self, shown: Bools, used: Bools, side: _Side, pick: Callable[[int, Bools], list[Exhibit]]
    ) -> list[dict[str, Any]]:
        """One part per size: what lies inside the pictures, then what lies at their borders."""
        out = []
        for i, name in enumerate(SIZES):
            mine = side.group == i
            items = [_exhibit(e) for e in pick(EACH, mine & ~side.border)]
            items += [_exhibit(e, "at the border") for e in pick(EACH, mine & side.border)]
            n, edge = int((used & mine).sum()), int((used & mine & side.border).sum())
            words = f"{count(n)}, {count(edge)} of them at the border" if n else "none at the threshold"
            if items:
                out.append({"title": name.capitalize(), "note": words, "items": items})
        return out

    def _usual_words(self) -> str:
        return (
            f"Usual: {USUAL[0]:g} to {USUAL[1]:g} times the median size of the picture's objects; "
            f"at the border: within {BORDER:.0%} of it."
        )

    def places(self) -> list[Plot]:
        """Maps of the picture: the share of objects that were missed, and the false positives."""
        out = []
        lost = ~self.judged.found(self.thresholds)
        if lost.any():
            total, gone = _cells(self.truth.centre), _cells(self.truth.centre[lost])
            share = np.divide(gone, total, out=np.full(CELLS, np.nan), where=total > 0)
            note = f"n = {_n(lost)} of {count(len(lost))} objects, all pictures over each other; the share "
            note += f"that was missed, {np.nanmax(share):.0%} where it is strongest."
            out.append(error_plots.place_plot("Where objects were missed", note, share, self.shape))
        wrong = self.wrong & self.counts
        if wrong.any():
            here = _cells(self.found.centre[wrong])
            note = f"n = {_n(wrong)} at {self.chosen}, all pictures over each other; {count(here.max())} "
            note += "where they are most."
            out.append(error_plots.place_plot("Where false positives lie", note, here, self.shape))
        return out

    def wall(self, title: str, note: str, empty: str, rows: Ints, words: Sequence[str]) -> dict[str, Any]:
        """A wall of some detections, `rows` of all, in this order, with what is to be said of each."""
        items = [_exhibit(e) for e in self.gallery.detections(rows, words, SHOWN)]
        parts = [{"title": "", "note": "", "items": items}] if items else []
        return {"title": title, "note": note, "empty": empty, "parts": parts}

    # -- how found boxes lie --------------------------------------------------------------------------------------

    def placed(self) -> list[dict[str, Any]]:
        """Loose boxes; of oriented ones also wrong angles, and fronts at the wrong end where fronts are known."""
        j = self.judged
        about = np.concatenate([np.zeros(0, np.int64), *(v.about for v in j.verdicts)])
        iou = np.concatenate([np.zeros(0), *(v.iou for v in j.verdicts)])
        rows = np.flatnonzero(np.isin(j.kind, (HIT, str(Mistake.LOCALISATION))) & (about >= 0) & self.counts)
        first = np.searchsorted(self.every.picture, np.arange(len(j.ids)))
        at = first[j.pred_picture[rows]] + about[rows] if len(rows) else rows
        return _Placed(self, rows, at, iou[rows]).walls()


@dataclass(frozen=True, eq=False)
class _Placed:
    """Detections `rows` [P] of all, the truths `at` [P] of all that they mean, and their IoU [P]."""

    of: Walls
    rows: Ints
    at: Ints
    iou: Floats

    @cached_property
    def oriented(self) -> bool:
        return self.of.preds.obbs is not None and self.of.every.obbs is not None

    @cached_property
    def shapes(self) -> tuple[Floats, Floats]:
        """Detections and truths [P,5]; axis-aligned ones with the angle 0."""
        return _shapes(self.of.preds.take(self.rows), self.oriented), _shapes(
            self.of.every.take(self.at), self.oriented
        )

    @cached_property
    def centred(self) -> Floats:
        """Distance of the centres [P] in sizes of the truth."""
        p, t = self.shapes
        out: Floats = np.hypot(*(p[:, :2] - t[:, :2]).T) / np.sqrt(np.maximum(t[:, 2] * t[:, 3], 1e-9))
        return out

    @cached_property
    def turn(self) -> Floats:
        """Degrees [P] between the long sides, 0 to 90; of boxes that are nearly square, 0 to 45."""
        p, t = self.shapes
        period = np.where(np.minimum(_ratio(p), _ratio(t)) < SQUARE, 90.0, 180.0)
        off = np.degrees(p[:, 4] - t[:, 4])
        out: Floats = np.abs((off + period / 2) % period - period / 2)
        return out

    def walls(self) -> list[dict[str, Any]]:
        out = [self.loose()]
        if self.oriented:
            out.append(self.angles())
            fronts = self.fronts()
            out += [fronts] if fronts else []
        return out

    def loose(self) -> dict[str, Any]:
        near = (self.centred < CENTRED) & (self.turn < TURNED)
        chosen = np.flatnonzero(near & (self.iou < LOOSE))
        chosen = chosen[np.argsort(self.iou[chosen], kind="stable")]
        p, t = self.shapes
        names = ("long", "short"), ("wide", "narrow")
        if not self.oriented:
            names = ("wide", "narrow"), ("high", "low")
        words = []
        for i in chosen.tolist():
            sides = [_side_words(p[i, 2 + k] / max(t[i, 2 + k], 1e-9), *names[k]) for k in (0, 1)]
            words.append(", ".join([f"IoU {self.iou[i]:.2f}", *filter(None, sides)]))
        turned = f" and the angle by less than {TURNED:g}°" if self.oriented else ""
        note = f"{count(len(chosen))} of the {_n(near)} detections at {self.of.chosen} whose centre is off by "
        note += f"less than a fifth of the size{turned} have an IoU below {LOOSE:g}; the lowest first."
        return self._wall("Loose boxes", note, "No loose box to show.", chosen, words)

    def angles(self) -> dict[str, Any]:
        near = self.centred < 2 * CENTRED
        chosen = np.flatnonzero(near & (self.turn >= TURNED))
        chosen = chosen[np.argsort(-self.turn[chosen], kind="stable")]
        words = [f"turned by {self.turn[i]:.0f}°, IoU {self.iou[i]:.2f}" for i in chosen]
        note = f"{count(len(chosen))} of the {_n(near)} detections at {self.of.chosen} whose centre lies on "
        note += f"the object are turned by {TURNED:g}° or more; those that are turned most first."
        return self._wall("Wrong angles", note, "No wrong angle to show.", chosen, words)

    def fronts(self) -> dict[str, Any] | None:
        """Headings that point backwards, or None where fronts are not known on both sides."""
        mine = _heading(self.of.parts[0], self.of.preds.take(self.rows))
        theirs = _heading(self.of.parts[1], self.of.every.take(self.at))
        off = np.abs((np.degrees(mine - theirs) + 180) % 360 - 180)
        known = ~np.isnan(off)
        if not known.any():
            return None
        chosen = np.flatnonzero(known & (off > 90))
        chosen = chosen[np.argsort(-self.of.judged.score[self.rows[chosen]], kind="stable")]
        words = [f"front off by {off[i]:.0f}°" for i in chosen]
        note = f"{count(len(chosen))} of {_n(known)} detections with a known front point backwards (lines run "
        note += "from the centre to the front); by score."
        return self._wall("Fronts at the wrong end", note, "No wrong front to show.", chosen, words)

    def _wall(self, title: str, note: str, empty: str, chosen: Ints, words: Sequence[str]) -> dict[str, Any]:
        return self.of.wall(title, note, empty, self.rows[chosen], words)


def _usual(size: Floats, picture: Ints, pictures: int) -> Floats:
    """The usual size of objects in each picture [I]: the median of its own, or of all where it has few."""
    out = np.full(pictures, float(np.median(size)) if len(size) else 1.0)
    order = np.argsort(picture, kind="stable")
    for p, own in zip(*_runs(picture[order], size[order]), strict=True):
        if len(own) >= FEW:
            out[p] = np.median(own)
    return np.asarray(np.maximum(out, 1e-9))


def _runs(key: Ints, value: Floats) -> tuple[list[int], list[Floats]]:
    keys, first = np.unique(key, return_index=True)
    return keys.tolist(), np.split(value, first[1:]) if len(keys) else []


def _cells(centre: Floats) -> Floats:
    """How many centres lie in each cell of the picture [rows,columns]."""
    inside = np.clip(centre, 0, 1 - 1e-9)
    at = (inside[:, 1] * CELLS[0]).astype(np.int64) * CELLS[1] + (inside[:, 0] * CELLS[1]).astype(np.int64)
    return np.bincount(at, minlength=CELLS[0] * CELLS[1]).reshape(CELLS).astype(np.float64)


def _shapes(pool: Pool, oriented: bool) -> Floats:
    if oriented and pool.obbs is not None:
        return pool.obbs
    low, high = pool.boxes[:, :2], pool.boxes[:, 2:]
    return np.concatenate([(low + high) / 2, high - low, np.zeros((len(pool), 1))], axis=1)


def _ratio(shapes: Floats) -> Floats:
    long, short = shapes[:, 2:4].max(axis=1), shapes[:, 2:4].min(axis=1)
    return np.asarray(long / np.maximum(short, 1e-9))


def _heading(parts: Sequence[Objects], pool: Pool) -> Floats:
    """Heading [N] in radians; NaN where it is not known."""
    out = np.full(len(pool), np.nan)
    for i, (p, row) in enumerate(zip(pool.picture.tolist(), pool.row.tolist(), strict=True)):
        o = parts[p]
        if o.heading is not None and o.headed is not None and o.headed[row]:
            out[i] = o.heading[row]
    return out


def _n(mask: Bools) -> str:
    return count(int(mask.sum()))


def _side_words(factor: float, more: str, less: str) -> str:
    percent = round(100 * (factor - 1))
    return "" if abs(percent) < 5 else f"{abs(percent)} % too {more if percent > 0 else less}"


def _exhibit(e: Exhibit, place: str = "") -> dict[str, Any]:
    return {
        "src": data_uri(e.picture),
        "id": e.id,
        "name": e.name,
        "score": e.score,
        "kind": e.kind,
        "size": f"{e.size[0]:.0f} × {e.size[1]:.0f} px" + (f" · {place}" if place else ""),
    }
