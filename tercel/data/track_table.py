"""The csv behind a trajectory: columns found by name, values checked, every complaint with file and row.

Rows are named by their line in the file, the header being line 1.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.track import ABSENT, CLEAR, OCCLUDED

# What a column is called elsewhere, in small letters without spaces, dots, dashes and underscores.
NAMES = {
    "frame": ("frame", "framenum", "framenumber", "frameid", "frameno", "frameindex", "frameidx", "filename", "image"),
    "visibility": ("visibility", "visible", "vis"),
    "x": ("x", "xcoordinate", "ballx", "xpx"),
    "y": ("y", "ycoordinate", "bally", "ypx"),
    "event": ("event", "events", "hit", "bounce", "status"),
    "score": ("score", "confidence", "conf"),
    "filled": ("filled",),
    "sigma": ("sigma",),
}
_TRUE, _FALSE = {"1", "1.0", "true", "yes"}, {"", "0", "0.0", "false", "no"}


def plain_name(text: str) -> str:
    """A column's name as NAMES has it."""
    return re.sub(r"[\s._-]", "", text.strip().lower())


def columns_of(header: list[str]) -> dict[str, int]:
    """Which of a header's columns is what; the first of several that would do."""
    names = [plain_name(h) for h in header]
    found = {key: next((names.index(n) for n in options if n in names), -1) for key, options in NAMES.items()}
    return {key: i for key, i in found.items() if i >= 0}


def is_trajectory(header: list[str]) -> bool:
    """True when a header has a frame, x and y, and is not one of ours that lists pictures (frames.csv)."""
    return {"frame", "x", "y"} <= columns_of(header).keys() and "run" not in map(plain_name, header)


def read(path: Path, ledger: Ledger) -> Table:
    """The rows of a csv (separated by comma, semicolon or tab), sorted by frame number.

    Raises:
        TercelError: not UTF-8, empty, no rows, a column missing, a row of another length, a frame number that is none,
            or one that occurs twice.
    """
    from tercel.data.formats.common import read_text

    text = read_text(path)
    first = text.lstrip("\n\r").partition("\n")[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    rows = [(reader.line_num, r) for r in reader if any(map(str.strip, r))]
    if not rows:
        raise TercelError(f"{path} is empty", "a trajectory has the columns Frame,Visibility,X,Y")
    line, header = rows[0]
    columns = columns_of(header)
    missing = [c for c in ("frame", "x", "y") if c not in columns]
    if missing:
        shown = ", ".join(h.strip() for h in header[:12])
        raise TercelError(
            f"{path}:{line}: no column {' and no column '.join(missing)}; the columns are {shown}",
            "name the columns Frame,Visibility,X,Y (or Frame,X,Y with blanks where the ball is not visible)",
        )
    if len(rows) == 1:
        raise TercelError(f"{path}: there is a header and no row", "is the file cut off?")
    for n, row in rows[1:]:
        if len(row) != len(header):
            raise TercelError(f"{path}:{n}: {len(row)} fields, the header has {len(header)}", "correct the row")
    lines = np.array([n for n, _ in rows[1:]])
    cells = {key: [r[i].strip() for _, r in rows[1:]] for key, i in columns.items()}
    name = plain_name(header[columns["event"]]) if "event" in columns else ""
    table = Table(path, np.array([_number(path, n, t) for n, t in zip(lines, cells["frame"])]), lines, cells, name)
    order = np.argsort(table.frame, kind="stable")
    if (order[1:] < order[:-1]).any():
        message = "rows were not in the order of their frame numbers and have been sorted"
        ledger.add("labels.order", Severity.INFO, message, str(path))
    table = Table(path, table.frame[order], lines[order], {k: [c[i] for i in order] for k, c in cells.items()}, name)
    table.check_repeated()
    return table


def _number(path: Path, line: int, text: str) -> int:
    """A frame number, also out of a file name."""
    found = re.fullmatch(r"(\d+)(?:\.0*)?", text) or re.search(r"(\d+)\.[A-Za-z]+$", text)
    if found is None:
        raise TercelError(f"{path}:{line}: {text!r} is no frame number", "frames are numbered 0, 1, 2, ...")
    return int(found[1])


@dataclass(frozen=True, eq=False)
class Table:
    """N rows by rising frame number: `frame` i64 [N], `line` i64 [N] in the file, and the cells as they were read."""

    path: Path
    frame: NDArray[np.int64]
    line: NDArray[np.int64]
    cells: dict[str, list[str]]
    event_name: str = ""

    def where(self, i: int) -> str:
        """file:line of row i."""
        return f"{self.path}:{self.line[i]}"

    def check_repeated(self) -> None:
        """
        Raises:
            TercelError: a frame number that occurs twice; both rows are named.
        """
        again = np.flatnonzero(np.diff(self.frame) == 0)
        if not len(again):
            return
        i = int(again[0])
        x, y = self.cells["x"], self.cells["y"]
        here = f"{self.where(i)} and {self.line[i + 1]}: frame {self.frame[i]} occurs twice"
        more = f" ({len(again)} such rows)" if len(again) > 1 else ""
        if (x[i], y[i]) != (x[i + 1], y[i + 1]):
            places = f"{x[i] or '-'},{y[i] or '-'} and {x[i + 1] or '-'},{y[i + 1] or '-'}"
            raise TercelError(
                f"{here} with different balls, {places}{more}", "keep the ball in play, one row per frame"
            )
        raise TercelError(here + more, "keep one row per frame")

    def places(self, ledger: Ledger) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Visibility u8 [N] and the file's own numbers f64 [N,2], NaN where absent.

        Raises:
            TercelError: a visibility that is not 0, 1, 2 or 3; a visible ball whose place is blank or no number.
        """
        n = len(self.frame)
        visibility, xy = np.full(n, CLEAR, np.uint8), np.full((n, 2), np.nan)
        declared = self.cells.get("visibility")
        for i, texts in enumerate(zip(self.cells["x"], self.cells["y"])):
            if declared is not None:
                visibility[i] = self._visibility(i, declared[i])
                if visibility[i] == ABSENT:
                    continue
                if not texts[0] or not texts[1]:
                    raise TercelError(
                        f"{self.where(i)}: the ball is visible, but its place is blank", "fill in X and Y"
                    )
            elif not texts[0] and not texts[1]:
                visibility[i] = ABSENT
                continue
            xy[i] = self._real(i, "x", texts[0]), self._real(i, "y", texts[1])
        if declared is None:
            for value in (-1.0, 0.0):
                marks = np.flatnonzero((xy == value).all(1))
                for i in marks.tolist():
                    message = f"there is no visibility column: {value:g},{value:g} was taken as 'no ball'"
                    ledger.add("labels.absent_by_place", Severity.INFO, message, self.where(i))
                visibility[marks], xy[marks] = ABSENT, np.nan
        else:
            for i in np.flatnonzero((visibility != ABSENT) & (xy == 0).all(1)).tolist():
                message = "visible balls at 0,0: is that meant to be 'no ball'?"
                ledger.add("labels.at_origin", Severity.WARNING, message, self.where(i))
        return visibility, xy

    def _visibility(self, i: int, text: str) -> int:
        if text.lower() in {"true", "false"}:
            return int(text.lower() == "true")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if value not in range(OCCLUDED + 1):
            raise TercelError(f"{self.where(i)}: visibility {text!r}", "0 absent, 1 clear, 2 blurred, 3 occluded")
        return int(value)

    def _real(self, i: int, column: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
            if text.lower().strip("+-") != "nan":
                raise TercelError(f"{self.where(i)}: {column} is {text!r}, no number", "correct the row") from None
        if not math.isfinite(value):
            remedy = "leave X and Y blank, or set Visibility to 0, where there is no ball"
            raise TercelError(f"{self.where(i)}: {column} is {text}", remedy)
        return value

    def scores(self, visibility: NDArray[np.uint8], ledger: Ledger) -> NDArray[np.float64]:
        """f64 [N] in 0..1.

        Raises:
            TercelError: a score that is no number or not within 0..1.
        """
        if "score" not in self.cells:
            message = "there is no Score column: every ball that was found counts with score 1, AP says nothing"
            ledger.add("predictions.no_score", Severity.INFO, message, str(self.path))
            return np.where(visibility != ABSENT, 1.0, 0.0)
        values = np.array([self._real(i, "score", t or "0") for i, t in enumerate(self.cells["score"])])
        for i in np.flatnonzero((values < 0) | (values > 1))[:1].tolist():
            raise TercelError(f"{self.where(i)}: score {values[i]:g}", "scores are probabilities in 0..1")
        return values

    def flags(self) -> NDArray[np.bool_] | None:
        """bool [N] of the column Filled, or None."""
        if "filled" not in self.cells:
            return None
        texts = [t.lower() for t in self.cells["filled"]]
        for i, t in enumerate(texts):
            if t not in _TRUE | _FALSE:
                raise TercelError(f"{self.where(i)}: filled is {t!r}", "write 0 or 1")
        return np.array([t in _TRUE for t in texts])

    def sigmas(self) -> NDArray[np.float64] | None:
        """f64 [N] px of the column Sigma (NaN = blank), or None."""
        if "sigma" not in self.cells:
            return None
        return np.array([self._real(i, "sigma", t) if t else math.nan for i, t in enumerate(self.cells["sigma"])])

    def events(self) -> tuple[str, list[str]]:
        """The name of the event column and its cells; nothing where there is none."""
        return self.event_name, self.cells.get("event", [])
