"""What report.html shows of a ball run: every rule, the trajectories, where the ball was, and the mistakes, playing.

Numbers come from metrics.json. Pictures come from tracks/ and from the validation truth, judged again frame by frame
under the run's main rule; where one of them is gone, the page says so and keeps the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from tercel.metrics.outcomes import FN, GHOST, TP, WRONG
from tercel.report import ball_events, ball_plots, ball_tables
from tercel.report.ball_judge import Rally, main_rule, rallies
from tercel.report.draw import class_color
from tercel.report.pictures import data_uri
from tercel.report.reading import View
from tercel.report.reels import OFF, Pixels, heat_map, reel
from tercel.report.words import count

STRIPS = 4  # of each kind


# -- the page's part ----------------------------------------------------------------------------------------------


def content(view: View) -> dict[str, Any]:
    """Everything that the template shows of a ball run; "notes" are findings of this reading."""
    found, notes = rallies(view)
    pixels = Pixels()
    rule = main_rule(view)
    curve = ball_plots.tolerance(view)
    made = view.report.get("rule") or {}
    out = {
        "rule": {"name": rule.name, "words": rule.words().replace("<=", "≤")},
        "resamples": made.get("resamples"),
        "resampled": made.get("resampled") or "rallies",
        "rules": ball_tables.rules(view),
        "splits": ball_tables.splits(view),
        "rallies": ball_tables.by_rally(view),
        # Drawn by plots.py, where matplotlib escapes all text.
        "curve": {"title": curve.title, "note": curve.note, "svg": Markup(curve.svg)} if curve else None,
        "paths": [{**p, "svgs": [Markup(svg) for svg in p["svgs"]]} for p in ball_plots.paths(found)],
        "maps": _maps(found, pixels),
        "strips": _strips(found, pixels),
        "events": ball_events.events(view),
    }
    return out | {"notes": [*notes, *pixels.findings]}


def _maps(found: Sequence[Rally], pixels: Pixels) -> list[dict[str, Any]]:
    """Where in the picture the ball was, and where it was missed or misplaced."""
    if not found:
        return []
    ground = pixels.read(found[0].record, 0, 1)
    base = f"Over a frame of {found[0].name}" if ground else "Without a frame"
    many = len({r.record.group for r in found})
    base += f"; {many} matches together, which may have other views" if many > 1 else ""
    out = []
    for title, color, dots, outcomes in (
        ("Where the ball was", class_color(1), False, (TP, WRONG, FN)),
        ("Where it was missed or misplaced", OFF, True, (WRONG, FN)),
    ):
        xy = np.concatenate([r.truth[np.isin(r.outcome, outcomes)] / r.size[::-1] for r in found])
        picture = heat_map(xy, ground[0] if ground else None, found[0].size, color, dots=dots)
        note = f"n = {count(len(xy))} frames, by the truth. {base}."
        out.append({"title": title, "note": note, "src": data_uri(picture, 78)})
    return out


# -- strips -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stretch:
    """Consecutive frames start..stop-1 of rally number `rally` with the same mistake; `row` stands for them."""

    rally: int
    start: int
    stop: int
    row: int
    badness: float


_KINDS = (
    (FN, "Missed balls", "The longest stretches in which a visible ball was not found."),
    (WRONG, "Wrong places", "The largest distances between truth and prediction."),
    (GHOST, "Ghosts", "The most confident predictions where there was no ball."),
)


def _strips(found: Sequence[Rally], pixels: Pixels) -> list[dict[str, Any]]:
    """The worst mistakes of each kind: missed for longest, farthest off, most confident ghosts."""
    out = []
    for kind, title, note in _KINDS if found else ():
        stretches = [s for i, r in enumerate(found) for s in _stretches(i, r, kind)]
        shown = [_strip(found[s.rally], s, kind, pixels) for s in worst(stretches)]
        frames = sum(s.stop - s.start for s in stretches)
        words = f"{count(frames)} frames in {count(len(stretches))} stretches. {note}" if frames else "None."
        out.append({"title": title, "note": words, "items": [s for s in shown if s is not None]})
    return out


def _stretches(rally: int, r: Rally, kind: int) -> Iterator[_Stretch]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], r.outcome == kind, [0]]).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2).tolist():
        value = {WRONG: r.distance, GHOST: r.score}.get(kind)
        row = (start + stop) // 2 if value is None else start + int(value[start:stop].argmax())
        yield _Stretch(rally, start, stop, row, float(stop - start if value is None else value[row]))


def worst(stretches: Sequence[_Stretch], count: int = STRIPS, each: int = 2) -> list[_Stretch]:
    """Those with the most badness; at most `each` of a rally before all others."""
    seen: Counter[int] = Counter()
    first: list[_Stretch] = []
    later: list[_Stretch] = []
    for s in sorted(stretches, key=lambda s: -s.badness):
        seen[s.rally] += 1
        (first if seen[s.rally] <= each else later).append(s)
    return (first + later)[:count]


def _strip(r: Rally, s: _Stretch, kind: int, pixels: Pixels) -> dict[str, Any] | None:
    made = reel(r, s.row, pixels)
    if made is None:
        return None
    frame, words = int(r.frame[s.row]), _caption(r, s, kind)
    alt = f"{made.n} frames of {r.name} around frame {frame}: {words}"
    return {"src": data_uri(made.picture, 72), "n": made.n, "at": made.at, "rally": r.name, "words": words,
            "frame": frame, "alt": alt}  # fmt: skip


def _caption(r: Rally, s: _Stretch, kind: int) -> str:
    length = s.stop - s.start
    stretch = f"{length} frame{'s' if length != 1 else ''} in a row"
    if kind == FN:
        return f"missed for {stretch}" if length > 1 else "missed"
    if kind == WRONG:
        what = f"{r.distance[s.row]:.0f} px off"
    else:
        # Some rules count an occluded ball as absent.
        what = "no ball there" if np.isnan(r.truth[s.row]).any() else "a ball that this rule does not count"
    sure = "filled in by the motion model" if r.filled[s.row] else f"score {r.score[s.row]:.2f}"
    return ", ".join([what, sure] + [stretch] * (length > 1))
