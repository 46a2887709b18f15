"""Events of one game or rally: what really happened, and what somebody says happened. NumPy only.

An event is a frame number and a name (`tercel.core.record.Event`). Here frame numbers are those of the video or label
file. Shape legend: N events, F frames, E event classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercel.core.record import Event

EMPTY = "empty_event"  # OpenTTGames: annotated as a moment at which nothing happens


@dataclass(frozen=True, eq=False)
class EventTruth:
    """The annotated events of one game or rally.

    Attributes:
        name: unique within its set.
        events: in the file's order; `EMPTY` marks annotated moments without an event.
        shown: i64 [F], rising, the frames known to show the ball (windows must end at one), or None = all frames.
        frames: how many frames there are, counted from frame `first`; 0 = not known.
        first: number of the first frame.
        source: the file it came from, for messages.
    """

    name: str
    events: tuple[Event, ...]
    shown: NDArray[np.int64] | None = None
    frames: int = 0
    first: int = 0
    source: str = ""


@dataclass(frozen=True, eq=False)
class EventAnswer:
    """Predicted events of one game or rally: a list with scores, or a probability per frame and class, or both.

    Attributes:
        events: predicted events. scores: f64 [N] in 0..1, one for each.
        frame: i64 [F], rising: the frames of `probability`, f64 [F,E] in 0..1, whose row is the output for the window
            that is centred there. None where only a list was given.
        classes: names of the columns of `probability`.

    Raises:
        ValueError: columns of the wrong shape, frames that do not rise, numbers outside 0..1.
    """

    name: str
    events: tuple[Event, ...] = ()
    scores: NDArray[np.float64] | None = None
    frame: NDArray[np.int64] | None = None
    probability: NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        scores = np.ones(len(self.events)) if self.scores is None else np.asarray(self.scores, np.float64)
        if scores.shape != (len(self.events),) or not ((scores >= 0) & (scores <= 1)).all():
            raise ValueError(f"{len(self.events)} events need as many scores in 0..1")
        object.__setattr__(self, "scores", scores)
        if (self.frame is None) != (self.probability is None):
            raise ValueError("probabilities need their frame numbers, and frame numbers probabilities")
        if self.frame is None or self.probability is None:
            return
        frame, p = np.asarray(self.frame, np.int64), np.asarray(self.probability, np.float64)
        if p.shape != (len(frame), len(self.classes)):
            shape = [len(frame), len(self.classes)]
            raise ValueError(f"probability has shape {shape} (frames, classes), not {list(p.shape)}")
        if (np.diff(frame) <= 0).any():
            raise ValueError("frame numbers of probabilities rise")
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError("probabilities lie in 0..1")
        object.__setattr__(self, "frame", frame)
        object.__setattr__(self, "probability", p)
