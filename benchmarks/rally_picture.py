"""The documentation's picture of generated rallies: `python -m benchmarks.rally_picture`.

Three sports in two rows: a frame as a network gets it, and the same frame with the truth of the frames before it. All
of it is generated, so the picture belongs to the project.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from tercel.core.files import write_atomic
from tercel.core.track import ABSENT, BLURRED, CLEAR, OCCLUDED
from tercel.data.rallies import film_rally
from tercel.report.draw import contact_sheet
from tercel.report.save import encode

OUT = Path(__file__).resolve().parents[1] / "docs/images/rallies.jpg"
TILE = (216, 384)
TRAIL = 9  # frames
CHOSEN = (("badminton", 2, 30), ("table_tennis", 9, 72), ("tennis", 6, 34))  # sport, match, frame
COLOURS = {CLEAR: (86, 180, 233), BLURRED: (230, 159, 0), OCCLUDED: (213, 94, 0)}


def main() -> None:
    plain, marked = [], []
    for sport, match, frame in CHOSEN:
        film = film_rally(sport, seed=1, match=match, rally=match % 3, frames=120, size=(288, 512), fps=30.0)
        shots = [s for s, _ in zip(film, range(frame + 1), strict=False)]
        picture = shots[frame].image
        plain.append(_tile(picture))
        big = cv2.resize(picture, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        for s in shots[max(0, frame - TRAIL) :]:
            if s.visibility != ABSENT:
                centre = round(s.xy[0] * 4 - 0.5), round(s.xy[1] * 4 - 0.5)
                cv2.circle(big, centre, 20, COLOURS[s.visibility], 5, cv2.LINE_AA)
        marked.append(_tile(big))
    captions = [f"{sport.replace('_', ' ')}" for sport, _, _ in CHOSEN] + ["the last ten places of the ball"] * 3
    sheet = contact_sheet(plain + marked, columns=3, captions=captions)
    write_atomic(OUT, encode(sheet, ".jpg", 80))
    sys.stderr.write(f"{OUT} {sheet.shape[1]} x {sheet.shape[0]} px, {OUT.stat().st_size / 1024:.0f} KiB\n")


def _tile(picture: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(picture, TILE[::-1], interpolation=cv2.INTER_AREA), np.uint8)


if __name__ == "__main__":
    main()
