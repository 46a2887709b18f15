"""When is a predicted ball right? The published rules, each with the frame, the bound and the classes it really uses.

Papers that all say "within 4 pixels" mean different pixels. The published codes work on what the label file holds, a
pixel index, and two of the frames below are reached by cutting decimals off; so `Rule.places` first takes off the half
pixel that our readers add.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import TercelError
from tercel.core.track import BLURRED, CLEAR, OCCLUDED

Floats = NDArray[np.floating]

SEEN = (CLEAR, BLURRED, OCCLUDED)
# (height, width) of the frames that codes truncate to: the input of TrackNet, and a square of the same width.
TRUNCATED = {"net": (288, 512), "square": (512, 512)}


@dataclass(frozen=True)
class Rule:
    """A definition of a correct ball.

    Attributes:
        name: as scores name it.
        frame: "original" (pixels of the video), "net" and "square" (int(x * 512 / width), int(y * 288 or 512 /
            height)), or "HxW" (scaled, not truncated).
        tolerance: largest distance of a hit, in px of that frame or in % of the ball's diameter.
        inclusive: is a distance of exactly `tolerance` a hit?
        visible: visibility classes that count as "there is a ball"; frames of other classes count as empty.
        percent: `tolerance` is in % of the ball's diameter (frame "original" only).
        source: where the definition comes from.
    """

    name: str
    frame: str
    tolerance: float
    inclusive: bool
    visible: tuple[int, ...] = SEEN
    percent: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        if self.frame not in ("original", *TRUNCATED) and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", self.frame):
            raise TercelError(
                f"there is no frame {self.frame!r}",
                f"use original, {', '.join(TRUNCATED)}, or height x width such as 288x512",
            )
        if not 0 < self.tolerance < np.inf:
            raise TercelError(f"a tolerance of {self.tolerance:g} accepts nothing", "give a positive number")
        if self.percent and self.frame != "original":
            raise TercelError(
                f"a tolerance in % of the ball in frame {self.frame}", "the ball's size is known in the original only"
            )

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the rule's frame for a video of `size`."""
        if self.frame == "original":
            return size
        if self.frame in TRUNCATED:
            return TRUNCATED[self.frame]
        height, _, width = self.frame.partition("x")
        return int(height), int(width)

    def hit(self, distance: Floats) -> NDArray[np.bool_]:
        """Which distances (px of the frame, or %) are hits; NaN is none."""
        return np.asarray(distance <= self.tolerance if self.inclusive else distance < self.tolerance)

    def reach(self, size: tuple[int, int]) -> tuple[float, float]:
        """How far (x, y) the tolerance reaches in px of a video of `size`; NaN for a tolerance in %."""
        if self.percent:
            return float("nan"), float("nan")
        height, width = self.canvas(size)
        return self.tolerance * size[1] / width, self.tolerance * size[0] / height

    def words(self) -> str:
        """The rule in a few words, for tables: "d <= 4 at 512x288"."""
        where = self.frame
        if self.frame in TRUNCATED:
            where = "{1}x{0}".format(*TRUNCATED[self.frame])
        elif self.frame != "original":
            where = "{1}x{0}".format(*self.frame.split("x"))
        unit = "% of the ball" if self.percent else f" at {where}" if where != "original" else " px"
        return f"d {'<=' if self.inclusive else '<'} {self.tolerance:g}{unit}"


_LIST = (
    Rule("tracknet_v2_v3", "net", 4, True, source="TrackNetV3 test.py evaluate; TrackNetV2 and V4 outcome"),
    Rule("tracknet_v5", "net", 4, False, source="TracknetV5 TrackNetV2Metric(min_dist=4), its final configs"),
    Rule("tracknet_v5_class_default", "net", 10, False, source="TracknetV5 TrackNetV2Metric as its class defaults"),
    Rule("wasb", "original", 4, False, (CLEAR, BLURRED), source="WASB-SBDT Evaluator, tennis config"),
    Rule("wasb_occluded_visible", "original", 4, False, source="WASB-SBDT Evaluator, occluded balls count"),
    Rule("totnet", "net", 5, True, source="TOTNet metrics.py as its docstring states it (its code does not)"),
    Rule("pingpong", "square", 3, False, source="ball_detect calculate_metric(rmse_thresh=3)"),
)
RULES = {r.name: r for r in _LIST}
ALL = tuple(RULES)


@dataclass(frozen=True)
class Tolerance:
    """A rule of one's own: `value` px of a declared frame, or % of the ball's diameter; occluded balls count."""

    value: float
    percent: bool = False
    frame: str = "original"
    inclusive: bool = True

    @staticmethod
    def parse(text: str) -> Tolerance:
        """ "5px@original", "<4px@288x512", "50%": [< or <=]NUMBER(px or %)[@FRAME]; without a frame, the original.

        Raises:
            TercelError: not of this form, an unknown frame, nothing that could be hit.
        """
        form = r"\s*(<=?)?\s*(\d+(?:\.\d*)?|\.\d+)\s*(px|%)\s*(?:@\s*([\w]+))?\s*"
        found = re.fullmatch(form, text)
        if not found:
            raise TercelError(
                f"tolerance {text!r} is not understood", "say number, unit and frame: 5px@original, 5px@net, or 50%"
            )
        bound, number, unit, frame = found.groups()
        out = Tolerance(float(number), unit == "%", frame or "original", bound != "<")
        out.rule()  # refuses unknown frames
        return out

    def rule(self) -> Rule:
        unit = "%" if self.percent else f"px@{self.frame}"
        name = f"{'' if self.inclusive else '<'}{self.value:g}{unit}"
        return Rule(name, self.frame, self.value, self.inclusive, percent=self.percent, source="--tolerance")


def choose(names: Sequence[str], tolerance: Tolerance | None = None) -> tuple[Rule, ...]:
    """The rules by name, one's own first.

    Raises:
        TercelError: a name that does not exist (the nearest is named) or occurs twice, or no rule at all.
    """
    chosen = [] if tolerance is None else [tolerance.rule()]
    for name in names:
        if name not in RULES:
            near = difflib.get_close_matches(name, ALL, n=1, cutoff=0.0)[0]
            raise TercelError(f"there is no rule {name!r}", f"did you mean {near}? rules are {', '.join(ALL)}")
        chosen.append(RULES[name])
    if not chosen or len({r.name for r in chosen}) < len(chosen):
        raise TercelError(f"rules {', '.join(names) or '(none)'}", "name at least one rule, and each once")
    return tuple(chosen)


def file_numbers(xy: Floats) -> Floats:
    """What a label file holds (pixel indices) for our continuous coordinates [N,2].

    Rounded to 1e-9 px, so that 511.7 is 511.7 again after half a pixel came and went: borderline distances decide.
    """
    return np.asarray(np.round(xy - 0.5, 9))


def places(frame: Rule, numbers: Floats, size: NDArray[np.int64]) -> Floats:
    """Places [N,2] in the rule's frame of file numbers [N,2] in videos of size [N,2] (height, width)."""
    if frame.frame == "original":
        return numbers
    video = size[:, ::-1].astype(np.float64)
    if frame.frame in TRUNCATED:
        height, width = TRUNCATED[frame.frame]
        return np.asarray(np.trunc(numbers * (width, height) / video))
    height, width = frame.canvas((0, 0))
    return np.asarray((numbers + 0.5) * (width, height) / video)
