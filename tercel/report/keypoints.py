"""What report.html shows of named points: errors per point, the mean pose with its error ellipses, the worst poses.

Numbers and plots come from metrics.json alone. The galleries pair truth and detections again, as the judge did.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from tercel.core.finding import Score
from tercel.metrics.pck import PointPairs, pair_up, pck_name, shares
from tercel.report import keypoint_plots, skeleton
from tercel.report.plots import Plot
from tercel.report.reading import View
from tercel.report.walls import Bools, Floats, Ints, Walls
from tercel.report.words import count, score_of

FAR = 0.1  # of the size: a pose with a point farther off than this is shown among the worst
MEANING = {  # of headline scores
    "OKS_AP": "mean over OKS .50 to .95",
    "OKS_AP50": "at OKS .50",
    "OKS_AP75": "at OKS .75",
    "PCK@.05": "points within 5 % of the size",
    "PCK@.1": "points within 10 % of the size",
    "PCK@.2": "points within 20 % of the size",
    "swap_rate": "left and right exchanged; 0 is best",
}
STRAYS = ("swap_rate", "outside_picture", "outside_box")
ELSEWHERE = {
    "swap_rate": "nearer to the partner's place than to their own",
    "outside_picture": "called visible, outside the picture",
    "outside_box": "called visible, outside their own box",
}


def content(view: View) -> dict[str, Any] | None:
    """The section on points as plain values and plots, or None where nothing was judged by points."""
    rows = [r for r in view.report.get("points") or () if isinstance(r, Mapping)]
    names = tuple(str(r.get("point")) for r in rows)
    if not rows or names != view.schema.keypoints:
        return None
    rule = view.report.get("rule") or {}
    alphas = [float(a) for a in rule.get("alphas") or (0.05, 0.1, 0.2)]
    side = skeleton.sides(view.schema)
    per_point = {(s.name, str(s.where["point"])): s for s in view.scores if set(s.where) == {"point"}}
    first = pck_name(alphas[0])
    table = []
    for k, r in enumerate(rows):
        color = keypoint_plots.color_of(int(side[k])) if view.schema.flip_pairs else "transparent"
        own = {n: s.value for (n, point), s in per_point.items() if point == names[k]}
        spread = per_point.get((first, names[k]), Score(first, float("nan"), 0))
        table.append(
            dict(r) | {
                "number": k + 1, "swatch": color, "low": spread.low, "high_pck": spread.high,
                "pck": [r.get(pck_name(a)) for a in alphas],
                "percent": [_percent(r.get(q)) for q in ("median", "high")],
                "strays": [_percent(own.get(n)) for n in STRAYS],
            }
        )  # fmt: skip
    return {
        "alphas": [pck_name(a) for a in alphas],
        "table": table,
        "numbered": len(rows) > keypoint_plots.NAMED,
        "visibility": _by_visibility(view, alphas),
        "strays": [{"name": n, "words": ELSEWHERE[n], "score": s} for n in STRAYS if (s := view.overall(n))],
        "rule": rule,
        "sigmas": _sigma_words(rule),
        "plots": _plots(view, rows, alphas),
    }


def _plots(view: View, rows: list[Mapping[str, Any]], alphas: list[float]) -> list[Plot]:
    out = keypoint_plots.pose_plot(rows, view.schema)
    out += keypoint_plots.error_plot(rows, view.schema)
    pck = [r for r in view.report.get("pck") or () if isinstance(r, Mapping)]
    return out + (keypoint_plots.pck_plot(pck, alphas) if pck else [])


def _by_visibility(view: View, alphas: list[float]) -> list[dict[str, Any]]:
    """Visible and hidden points apart, where both occur."""
    out = []
    for title in ("visible", "hidden"):
        mine = {s.name: s for s in view.scores if s.where == {"visibility": title}}
        if mine:
            pck = [mine[pck_name(a)] for a in alphas]
            px, percent = mine["point_error_px"].value, _percent(mine["point_error"].value)
            out.append({"name": title, "n": pck[0].n, "pck": pck, "px": px, "percent": percent})
    return out


def _sigma_words(rule: Mapping[str, Any]) -> str:
    sigmas = [score_of(s) for s in rule.get("sigmas") or ()]
    if not sigmas:
        return ""
    same = len(set(sigmas)) == 1
    return f"sigma {sigmas[0]:g} for every point" if same else f"sigmas from {min(sigmas):g} to {max(sigmas):g}"


def _percent(share: Any) -> float:
    return 100 * score_of(share)


class PointWalls(Walls):
    """Galleries of poses: false positives and misses by OKS, then points far off, then left and right exchanged."""

    @cached_property
    def pairs(self) -> PointPairs:
        return pair_up(self.every, self.preds)

    @cached_property
    def rows(self) -> Ints:
        """i64 [G], the detection of each truth among all; -1 where nothing found it, or below its threshold."""
        first = np.searchsorted(self.preds.picture, np.arange(self.every.pictures))
        row = np.where(self.pairs.pred_row >= 0, first[self.pairs.picture] + self.pairs.pred_row, -1)
        counted = np.append(self.counts, False)  # index -1: no detection
        out: Ints = np.where(counted[row], row, -1)
        return out

    def placed(self) -> list[dict[str, Any]]:
        far = self.far()
        return [far, self.exchanged()] if self.gallery.data.schema.flip_pairs else [far]

    def far(self) -> dict[str, Any]:
        """Poses that were found and have a point farther off than a tenth of the size."""
        share, names = self.pairs.share, self.gallery.data.schema.keypoints
        known = ~np.isnan(share)
        worst: Floats = np.where(known, share, -1).max(axis=1, initial=-1)
        found = self.rows >= 0
        chosen = np.flatnonzero(found & (worst > FAR))
        chosen = chosen[np.argsort(-worst[chosen], kind="stable")]
        words = []
        for g in chosen:
            k = int(np.where(known[g], share[g], -1).argmax())
            more = int((share[g][known[g]] > FAR).sum()) - 1
            others = f", {more} more above {FAR:.0%}" if more else ""
            words.append(f"{names[k]} off by {share[g, k]:.0%} of the size{others}")
        note = f"{count(len(chosen))} of {count(int(found.sum()))} found animals at {self.chosen} have a point that is "
        note += f"off by more than {FAR:.0%} of the longer side of their box; the farthest first."
        return self.wall("Points far off", note, "No point far off to show.", self.rows[chosen], words)

    def exchanged(self) -> dict[str, Any]:
        """Poses with points that lie nearer to the true place of their partner than to their own."""
        share = shares(self.pairs, self.gallery.data.schema)["swap_rate"]
        tested: Bools = share.counted & (self.rows >= 0)[:, None]
        swapped = ((share.values > 0) & tested).sum(axis=1)
        chosen = np.flatnonzero(swapped)
        chosen = chosen[np.argsort(-swapped[chosen], kind="stable")]
        words = [f"{swapped[g]} of {int(tested[g].sum())} points exchanged" for g in chosen]
        note = f"{count(len(chosen))} of {count(int(tested.any(axis=1).sum()))} found animals have points that lie "
        note += "nearer to the true place of their partner on the other side than to their own; most of them first."
        return self.wall("Left and right exchanged", note, "Nothing exchanged to show.", self.rows[chosen], words)
