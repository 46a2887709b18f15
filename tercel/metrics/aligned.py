"""Truth and predicted tracks brought together: one row per frame of the truth, and what does not fit is counted.

Rallies are matched by name, frames by number. A frame that the prediction lacks counts as "no ball found"; a frame that
the truth lacks cannot be judged. Shape legend: N frames of the truth over all rallies.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.track import Track

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Aligned:
    """Every frame of the truth with the answer to it; rallies in order of their names, frames in order of time.

    Attributes:
        rallies: names. rally: i64 [N], index into them. frame: i64 [N] frame numbers. size: i64 [N,2] (H, W).
        visibility: u8 [N] of the truth. xy: f64 [N,2] px, NaN = no ball.
        found: bool [N], a ball was predicted. place: f64 [N,2] px, NaN = none. score: f64 [N], 0 where none.
        filled: bool [N], predicted points that no detection supports.
        scored: do all predictions carry scores?
    """

    rallies: tuple[str, ...]
    rally: Ints
    frame: Ints
    size: Ints
    visibility: NDArray[np.uint8]
    xy: Floats
    found: Bools
    place: Floats
    score: Floats
    filled: Bools
    scored: bool

    def __len__(self) -> int:
        return len(self.frame)


def align(truth: Sequence[Track], pred: Sequence[Track], ledger: Ledger) -> Aligned:
    """Match rallies by name and frames by number.

    Names are the same when they are equal, or when their last parts are ("match1/1_01_00" and "1_01_00_ball") and no
    other rally has that one. One rally against one rally are the same whatever they are called (counted).

    Raises:
        TercelError: no frames, a rally that occurs twice, predictions for a rally that the truth does not have (the
            nearest name is given), frames of another size.
    """
    truth = sorted(truth, key=lambda t: t.name)
    if not sum(map(len, truth)):
        raise TercelError("the truth has no frames", "check the path of the labels")
    for tracks, what in ((truth, "truth"), (pred, "predictions")):
        twice = [n for n, k in Counter(t.name for t in tracks).items() if k > 1]
        if twice:
            raise TercelError(f"rally {twice[0]!r} occurs twice in the {what}", "give every rally its own name")
    answers = _pair(truth, pred, ledger)
    columns = [_rows(t, p, ledger) for t, p in zip(truth, answers, strict=True)]
    found, place, score, filled = (np.concatenate(c) for c in zip(*columns, strict=True))
    lengths = [len(t) for t in truth]
    return Aligned(
        rallies=tuple(t.name for t in truth),
        rally=np.repeat(np.arange(len(truth)), lengths),
        frame=np.concatenate([t.frame for t in truth]),
        size=np.repeat(np.array([t.size for t in truth], np.int64), lengths, axis=0),
        visibility=np.concatenate([t.visibility for t in truth]),
        xy=np.concatenate([t.xy for t in truth]),
        found=found, place=place, score=score, filled=filled,
        scored=all(p is None or p.score is not None for p in answers),
    )  # fmt: skip


def plain_name(name: str) -> str:
    """A rally's name without folders and without what tools append."""
    return re.sub(r"_(ball|predict|pred|prediction|events)$", "", name.rpartition("/")[2])


def _pair(truth: Sequence[Track], pred: Sequence[Track], ledger: Ledger) -> list[Track | None]:
    """The prediction for each truth, or None."""
    by_name = {t.name: i for i, t in enumerate(truth)}
    plain = Counter(plain_name(t.name) for t in truth)
    by_plain = {plain_name(t.name): i for i, t in enumerate(truth) if plain[plain_name(t.name)] == 1}
    out: list[Track | None] = [None] * len(truth)
    for p in pred:
        i = by_name.get(p.name, by_plain.get(plain_name(p.name)))
        if i is None and len(truth) == len(pred) == 1:
            i = 0
            ledger.add("score.rally_name", Severity.INFO,
                       "the only rally of the predictions is taken for the only one of the truth",
                       f"{p.name} for {truth[0].name}")  # fmt: skip
        if i is None:
            near = difflib.get_close_matches(p.name, by_name, n=1, cutoff=0.0)
            raise TercelError(
                f"{p.source or 'predictions'}: the truth has no rally {p.name!r}",
                f"did you mean {near[0]!r}? name the file after the rally that it belongs to",
            )
        other = out[i]
        if other is not None:
            raise TercelError(
                f"{p.source or p.name}: rally {truth[i].name!r} has two predictions, {other.name!r} and {p.name!r}",
                "predict every rally once",
            )
        if p.size != truth[i].size:
            raise TercelError(
                f"rally {truth[i].name!r}: the truth lies on {truth[i].size[0]}x{truth[i].size[1]} px (height x width),"
                f" the predictions on {p.size[0]}x{p.size[1]}",
                "map the predictions back to the original frame before judging them",
            )
        out[i] = p
    return out


def _rows(t: Track, p: Track | None, ledger: Ledger) -> tuple[Bools, Floats, Floats, Bools]:
    """found, place, score, filled of the prediction `p` for each frame of the truth `t`."""
    n = len(t)
    found, filled = np.zeros((2, n), np.bool_)
    place, score = np.full((n, 2), np.nan), np.zeros(n)
    if p is None:
        ledger.add("score.rally_without_prediction", Severity.WARNING,
                   "rallies without predictions; all their frames count as `no ball found`", t.name)  # fmt: skip
        return found, place, score, filled
    where = p.source or p.name
    if np.array_equal(t.frame, p.frame):  # the usual case
        both, at, row = t.frame, np.arange(n), np.arange(n)
    else:
        both, at, row = np.intersect1d(t.frame, p.frame, assume_unique=True, return_indices=True)
    extra = p.frame[~np.isin(p.frame, both)] if len(both) < len(p) else p.frame[:0]
    if len(extra):
        ledger.add("score.frames_beyond_truth", Severity.ERROR,
                   "predicted frames that the truth lacks; they are not judged. Is this the right file, and do both "
                   "count from 0?", f"{where}: frame {_runs(extra)}", len(extra))  # fmt: skip
    lost = t.frame[~np.isin(t.frame, both)] if len(both) < n else t.frame[:0]
    if len(lost):
        ledger.add("score.frames_without_prediction", Severity.WARNING,
                   "frames of the truth that the prediction lacks; they count as `no ball found`",
                   f"{where}: frame {_runs(lost)}", len(lost))  # fmt: skip
    found[at], place[at] = p.present[row], p.xy[row]
    score[at] = 1.0 if p.score is None else p.score[row]
    if p.filled is not None:
        filled[at] = p.filled[row] & p.present[row]
    return found, place, np.where(found, score, 0.0), filled


def _runs(frames: Ints, most: int = 3) -> str:
    """ "3-7, 12" for sorted numbers."""
    parts = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    words = [f"{r[0]}" if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in parts[:most]]
    return ", ".join(words) + (", ..." if len(parts) > most else "")


# -- doubts -------------------------------------------------------------------------------------------------------


def doubts(a: Aligned, ledger: Ledger) -> None:
    """Findings about predictions that look as if they were written in another frame, order or numbering.

    Each compares how many balls lie within 1/128 of the width (10 px of 1280) as they are, and after the change that
    would mend them. A change that finds a fifth more, and five more, is named.
    """
    if not a.found.any():
        ledger.add("score.no_detections", Severity.WARNING, "no ball was predicted anywhere; is this the right file?")
        return
    if not (a.visibility > 0).any():
        ledger.add("score.nothing_to_find", Severity.WARNING,
                   "the truth holds no ball, so recall, F1 and AP are undefined")  # fmt: skip
        return
    if (a.visibility > 0).all():
        message = "every frame of the truth has a ball: nothing here shows how often one is seen where none is"
        ledger.add("score.no_absent", Severity.INFO, message)
    wide = a.size[:, ::-1].astype(np.float64)
    place = a.place[a.found]
    outside = int(((place < 0) | (place > wide[a.found])).any(axis=1).sum())
    if outside:
        ledger.add("score.outside", Severity.WARNING,
                   "predicted balls outside the frame; are x and y, or height and width, swapped?",
                   count=outside)  # fmt: skip
    if place.max() <= 2 and wide.min() > 8:  # shares of the frame, plus the half pixel
        ledger.add("score.normalised", Severity.WARNING,
                   "all predicted balls lie within 2 px of the corner: are they shares, not pixels?")  # fmt: skip
        return
    usual = _near(a, a.place)
    tried = {
        "with x and y swapped": _near(a, a.place[:, ::-1]),
        "read as pixels of 512x288": _near(a, a.place * wide / (512, 288)),
        **{f"read as belonging to {abs(k)} frame{'s' * (abs(k) > 1)} {'later' if k > 0 else 'earlier'}":
           _near(a, _shifted(a, k)) for k in (-2, -1, 1, 2)},
    }  # fmt: skip
    best = max(tried, key=lambda k: tried[k])
    if tried[best] >= max(1.2 * usual, usual + 5):
        ledger.add("score.misread", Severity.WARNING,
                   f"the predictions fit the truth better when {best} "
                   f"({tried[best]} balls near it instead of {usual})")  # fmt: skip


def _near(a: Aligned, place: Floats) -> int:
    distance = np.sqrt(((place - a.xy) ** 2).sum(axis=1))
    return int((distance <= a.size[:, 1] / 128).sum())


def _shifted(a: Aligned, by: int) -> Floats:
    """Places as if each had been predicted for the frame `by` later; rows without such a frame are NaN."""
    n = len(a)
    source = np.arange(n) - by
    inside = (source >= 0) & (source < n)
    source = np.clip(source, 0, n - 1)
    same = inside & (a.rally[source] == a.rally) & (a.frame[source] == a.frame - by)
    return np.where(same[:, None], a.place[source], np.nan)


def diameters(
    tracks: Sequence[Track], given: float | Mapping[str, Floats] | None, a: Aligned, ledger: Ledger
) -> Floats:
    """The ball's diameter [N] in px of the original: one number for all, or per rally a value per frame of its truth.

    A frame whose ball has no size gets the median of its rally.

    Raises:
        TercelError: no sizes at all, a rally without any, a wrong length.
    """
    if given is None:
        raise TercelError(
            "a tolerance in % of the ball needs the ball's size, and the truth holds points only",
            "state its diameter in pixels (--ball-size 10), or use labels with boxes, or a tolerance in px",
        )
    if isinstance(given, int | float):
        if not 0 < given < np.inf:
            raise TercelError(f"a ball of {given:g} px has no size", "give its diameter in pixels")
        return np.full(len(a), float(given))
    lengths = {t.name: len(t) for t in tracks}
    out = []
    for name in a.rallies:
        size = np.asarray(given.get(name, ()), np.float64)
        known = np.isfinite(size) & (size > 0)
        if size.shape != (lengths[name],) or not known.any():
            raise TercelError(f"rally {name!r}: the ball's size is not known", "state its diameter: --ball-size 10")
        if not known.all():
            ledger.add("score.ball_size", Severity.INFO, "frames whose ball has no size: the rally's median is taken",
                       name, int((~known).sum()))  # fmt: skip
        out.append(np.where(known, size, np.median(size[known])))
    return np.concatenate(out)
