"""Generated rallies: labelled video whose truth is exact, for the demo, the tests and pre-training.

Physics in metres (rally/physics.py, rally/play.py), a broadcast camera, people, boards and noise (rally/film.py). It is
made to be hard in the way of real footage: one frame often shows several things that could be the ball, and only one of
them flies. The ball may also follow real trajectories (`trajectories=`); there are no events then.

Every rally is drawn from a generator of its own, seeded by (seed, match, rally).
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tercel.core.files import read_json, write_atomic, write_json
from tercel.core.finding import TercelError
from tercel.core.record import content_hash
from tercel.core.track import ABSENT
from tercel.data.rally.film import Drive, Film, Shot
from tercel.data.rally.physics import SPORTS, Floats
from tercel.data.rally.style import match_style
from tercel.data.video import write_video

VERSION = 1  # raised whenever a rally of the same seed would look different
MARKER = "rallies.json"  # what the folder was made from
EVENTS = ("hit", "bounce", "net")
HEADER = ("Frame", "Visibility", "X", "Y", "Event")


def film_rally(
    sport: str, *, seed: int, match: int, rally: int, frames: int, size: tuple[int, int], fps: float,
    drive: Drive | None = None, plain: bool = False,
) -> Film:  # fmt: skip
    """One rally as an iterable of `Shot`s (frame u8 [H,W,3], visibility, place, event).

    Args:
        plain: without people, distractors, noise, softness and camera movement.
    """
    look = match_style(np.random.default_rng([seed, match]), SPORTS[sport], match)
    rng = np.random.default_rng([seed, match, rally + 1])
    return Film(
        rng, look.plain() if plain else look, SPORTS[sport], frames=frames, size=size, fps=fps, drive=drive
    )  # fmt: skip


def make_rallies(
    folder: Path,
    *,
    splits: Mapping[str, int] | None = None,
    frames: int = 96,
    size: tuple[int, int] = (288, 512),
    sport: str = "badminton",
    seed: int = 0,
    fps: float = 30.0,
    rallies_per_match: int = 4,
    trajectories: Path | None = None,
) -> Path:
    """Film rallies and write them as TrackNet trees, one per split.

    `<folder>/<split>/match<N>/video/1_<rally>_00.mp4` and `csv/1_<rally>_00_ball.csv` with Frame, Visibility, X, Y
    (pixel indices), Event. Match numbers run on over the splits: no match, look or player occurs in two of them.

    Args:
        folder: to make; one that holds the same rallies already is left as it is.
        splits: rallies per split, in order; the default is train 12, val 4, test 4.
        frames: of every rally (fewer where a trajectory is shorter).
        size: (H, W) of the video in px, even numbers.
        sport: badminton, table_tennis or tennis.
        rallies_per_match: rallies that share court, players and camera habits.
        trajectories: a CSV file or a folder of them whose ball positions are followed; blank or invisible = absent.

    Returns:
        `folder` (read a split as `tracknet:<folder>/<split>`).

    Raises:
        TercelError: an unknown sport, sizes or counts that make no sense, unusable trajectories, or a folder that holds
            something else.
    """
    counts = dict(splits) if splits is not None else {"train": 12, "val": 4, "test": 4}
    _check(counts, frames, size, sport, fps, rallies_per_match)
    recipe: dict[str, Any] = {
        "kind": "rallies", "version": VERSION, "splits": counts, "frames": frames, "size": list(size), "sport": sport,
        "seed": seed, "fps": fps, "rallies_per_match": rallies_per_match, "trajectories": None,
    }  # fmt: skip
    sources: dict[str, list[list[Path]]] = {}
    if trajectories is not None:
        groups = trajectory_groups(Path(trajectories))
        names = [p for g in groups for p in g]
        digest = hashlib.blake2b("".join(content_hash(p) for p in names).encode(), digest_size=16)
        recipe["trajectories"] = {"files": len(names), "hash": digest.hexdigest()}
        sources = _deal(groups, counts, Path(trajectories))
    folder = Path(folder)
    if _made(folder, recipe):
        return folder
    work = _beside(folder)
    try:
        match = 0
        for split, count in counts.items():
            (work / split).mkdir(parents=True, exist_ok=True)
            for first in range(0, count, rallies_per_match):
                match += 1
                files = sources[split][(first // rallies_per_match) % len(sources[split])] if sources else []
                for rally in range(min(rallies_per_match, count - first)):
                    drive = _drive(files, seed, match, rally, first, frames, size) if files else None
                    n = frames if drive is None else len(drive.xy)
                    film = film_rally(
                        sport, seed=seed, match=match, rally=rally, frames=n, size=size, fps=fps, drive=drive
                    )
                    write_rally(film, work / split / f"match{match}", f"1_{rally + 1:02d}_00", fps)
        write_json(work / MARKER, recipe)
        work.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()  # empty, as we saw; otherwise this fails and nothing is lost
        work.rename(folder)
    except OSError as e:
        raise TercelError(
            f"cannot write {folder}: {e.strerror or e}", "free some space or choose another folder"
        ) from e
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def write_rally(film: Film, match: Path, name: str, fps: float) -> None:
    """Write one rally into a match's folder: video/<name>.mp4 and csv/<name>_ball.csv."""
    rows = [",".join(HEADER)]

    def frames(shots: Iterator[Shot]) -> Iterator[Any]:
        for f, s in enumerate(shots):
            # Files hold pixel indices: a pixel's centre is a whole number. Absent is written as TrackNet does, 0, 0.
            x, y = (0.0, 0.0) if s.visibility == ABSENT else (s.xy[0] - 0.5, s.xy[1] - 0.5)
            rows.append(f"{f},{s.visibility},{x:.2f},{y:.2f},{s.event}")
            yield s.image

    # The same bytes every time: one thread, and no macroblock tree (with it x264 165 varies from run to run).
    options = {"threads": "1", "x264-params": "mbtree=0"}
    write_video(match / "video" / f"{name}.mp4", frames(iter(film)), fps, crf=18, options=options)
    write_atomic(match / "csv" / f"{name}_ball.csv", "\n".join(rows) + "\n")


# -- folders --------------------------------------------------------------------------------------------------------


def _check(
    counts: Mapping[str, int], frames: int, size: tuple[int, int], sport: str, fps: float, per_match: int
) -> None:
    if sport not in SPORTS:
        raise TercelError(f"no sport is called {sport!r}", f"choose among {', '.join(SPORTS)}")
    if not counts or min(counts.values()) < 0 or sum(counts.values()) == 0:
        raise TercelError(f"rallies per split: {dict(counts)}", "for example {'train': 12, 'val': 4}")
    if any(not s or s != Path(s).name for s in counts):
        raise TercelError(f"split names {list(counts)}", "plain names without a slash")
    if min(size) < 64 or size[0] % 2 or size[1] % 2:
        raise TercelError(f"video of {size[1]}x{size[0]} px", "even numbers of at least 64, as (height, width)")
    if frames < 2 or not 5 <= fps <= 240 or per_match < 1:
        raise TercelError(
            f"{frames} frames at {fps} per second, {per_match} rallies per match",
            "at least 2 frames, 5 to 240 per second",
        )


def _made(folder: Path, recipe: Mapping[str, Any]) -> bool:
    """True when `folder` holds exactly this set; an error when it holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise TercelError(f"{folder} is a file", "choose another folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    marker = folder / MARKER
    if marker.is_file() and read_json(marker) == recipe:
        return True
    raise TercelError(f"{folder} is not empty and holds another data set", "choose another folder or remove it")


def _beside(folder: Path) -> Path:
    """A temporary folder beside `folder`: half a set never looks like a whole one."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as e:
        raise TercelError(f"cannot write {folder}: {e.strerror or e}", "choose another folder") from e


# -- trajectories ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Table:
    xy: Floats  # [F,2] pixel indices, NaN where not visible


def trajectory_groups(source: Path) -> list[list[Path]]:
    """Trajectory files in groups that must not be split: one match each, or one rally seen by several cameras.

    A folder named match<N> above the file names the group. Elsewhere files with equally many rows belong together:
    cameras that filmed the same rally wrote equally many.

    Raises:
        TercelError: nothing there.
    """
    files = [source] if source.is_file() else sorted(source.rglob("*.csv"))
    if not files:
        raise TercelError(f"{source}: no trajectory (*.csv)", "name a CSV file or a folder of them")
    groups: dict[str, list[Path]] = {}
    for path in files:
        above = [p for p in path.parts[:-1] if p.lower().startswith("match")]
        groups.setdefault(above[-1] if above else f"rows {len(_table(path).xy)}", []).append(path)
    return list(groups.values())


def _table(path: Path) -> _Table:
    """Frame, (Visibility,) X, Y in any case; blank = not visible; (0, 0) is how labellers write the same."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise TercelError(f"cannot read {path}: {e}", "a CSV with Frame, Visibility, X, Y") from e
    found: dict[int, tuple[float, float]] = {}
    for line, raw in enumerate(rows, 2):
        row = {str(k).strip().lower(): (v or "").strip() if isinstance(v, str) else "" for k, v in raw.items()}
        try:
            frame = int(row["frame"])
            seen = row["x"] != "" and row["y"] != "" and int(row.get("visibility") or 1) > 0
            xy = (float(row["x"]), float(row["y"])) if seen else (np.nan, np.nan)
        except (KeyError, ValueError) as e:
            raise TercelError(f"{path}:{line}: not a trajectory row: {e}", "a CSV with Frame, Visibility, X, Y") from e
        if frame < 0 or frame > 1_000_000:
            raise TercelError(f"{path}:{line}: frame {frame}", "frame numbers count from 0")
        found[frame] = xy if xy != (0.0, 0.0) else (np.nan, np.nan)
    if not found:
        raise TercelError(f"{path}: no rows", "a CSV with Frame, Visibility, X, Y")
    out = np.full((max(found) + 1, 2), np.nan)
    out[list(found)] = list(found.values())
    return _Table(out)


def _deal(groups: list[list[Path]], counts: Mapping[str, int], source: Path) -> dict[str, list[list[Path]]]:
    """Groups to splits, about in proportion to their rallies, at least one each, none to two."""
    wanted = [s for s, n in counts.items() if n]
    if len(groups) < len(wanted):
        raise TercelError(
            f"{source}: {len(groups)} matches or rallies for {len(wanted)} splits", "fewer splits, or more trajectories"
        )
    spare = len(groups) - len(wanted)
    total = sum(counts[s] for s in wanted)
    edges = np.rint(np.cumsum([0.0, *(counts[s] / total * spare for s in wanted)])).astype(int)
    sizes = np.diff(edges) + 1
    starts = itertools.accumulate(sizes, initial=0)
    return {s: groups[a : a + n] for s, a, n in zip(wanted, starts, sizes, strict=False)} | {
        s: [[]] for s, n in counts.items() if not n
    }


def _drive(
    files: Sequence[Path], seed: int, match: int, rally: int, first: int, frames: int, size: tuple[int, int]
) -> Drive:
    """A stretch of one of the files, at the size of the picture: of 8 random ones that in which the ball shows most."""
    rng = np.random.default_rng([seed, match, rally + 1, 7])
    xy = _table(files[(first + rally) % len(files)]).xy
    n = min(frames, len(xy))
    starts = rng.integers(0, len(xy) - n + 1, 8)
    shown = [int(np.isfinite(xy[s : s + n, 0]).sum()) for s in starts]
    start = int(starts[int(np.argmax(shown))])
    # The files do not say for which picture they are: 720p, or 1080p where a file of the group goes beyond it.
    most = np.nanmax([[1, 1], *(np.nanmax(np.append(_table(p).xy, [[1, 1]], 0), 0) for p in files)], axis=0)
    full = (720, 1280) if most[0] < 1280 and most[1] < 720 else (1080, 1920)
    scale = np.array([size[1] / full[1], size[0] / full[0]])
    return Drive((xy[start : start + n] + 0.5) * scale)
