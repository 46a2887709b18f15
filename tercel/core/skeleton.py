"""Skeletons: what follows from the names of the points, and from tables of parents and of mirror partners.

Shape legend: K points.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tercel.core.finding import TercelError

DEFAULT_SIGMA = 0.05  # OKS sigma of a point for which none is given

# Where a name may say its side. A pair needs both names, so that a stray hit (barreL) costs nothing.
_SIDES = re.compile(
    r"left|right"  # left_eye, EyeRight, LEFTEYE: any case, anywhere
    r"|(?<![a-z])[lr](?-i:(?![a-z]))"  # l_eye, eye_l, eye.L, l1, lEye, LF
    r"|(?-i:(?<=[a-z])[LR](?![a-z]))"  # eyeL, legL1, eyeL_tip
    r"|(?-i:(?<=[A-Z])[LR](?![A-Za-z]))"  # FL, EYEL, EYEL1
    r"|(?<=[a-z])[lr](?=\d)",  # legl1
    re.IGNORECASE,
)
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def infer_flip_pairs(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of names that a mirror image exchanges, as far as the names say it; the left one first.

    Understood are the words left and right in any place and case, and the letters l and r as a part of their own
    (l_eye, eye.L, lEye, eyeL, legL1, FL). A pair needs both its names. A name that has two possible partners gets none:
    which side it means cannot be told.
    """
    exact = set(names)
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)

    def partners(name: str) -> dict[str, bool]:
        """Names that could be the mirror of `name` -> whether `name` is the left one."""
        found: dict[str, bool] = {}
        for left, other in _mirrored(name):
            near = [other] if other in exact else folded.get(other.casefold(), [])
            found |= {n: left for n in near if n != name}
        return found

    able = {name: partners(name) for name in names}
    pairs = []
    for name in names:
        if len(able[name]) != 1:
            continue
        other, left = next(iter(able[name].items()))
        if left and list(able[other]) == [name]:
            pairs.append((name, other))
    return tuple(pairs)


def _mirrored(name: str) -> Iterator[tuple[bool, str]]:
    """(whether this part says left, the name with this part exchanged) of every part of a name that may say a side."""
    for m in _SIDES.finditer(name):
        side = m[0]
        other = _OTHER[side.lower()]
        other = other.upper() if side.isupper() else other.capitalize() if side[0].isupper() else other
        yield side[0] in "lL", name[: m.start()] + other + name[m.end() :]


def edges_from_parents(
    names: Sequence[str], parents: Sequence[str], where: Callable[[int], str]
) -> tuple[tuple[str, str], ...]:
    """Edges (parent, point) of a table with the parent of each of K points; "" = a root.

    Args:
        where: "file:line" of row i, for messages.

    Raises:
        TercelError: a parent that is no point, or points that are their own ancestors.
    """
    index = {name: i for i, name in enumerate(names)}
    for i, parent in enumerate(parents):
        if parent and parent not in index:
            message = f"{where(i)}: {names[i]!r} hangs on {parent!r}, which is no point of the skeleton"
            raise TercelError(message, f"points are {', '.join(names)}")
    for i, name in enumerate(names):
        at, steps = name, 0
        while parents[index[at]] and steps <= len(names):
            at, steps = parents[index[at]], steps + 1
        if steps > len(names):
            raise TercelError(f"{where(i)}: {name!r} is its own ancestor", "leave the parent of one of them empty")
    return tuple((parent, name) for name, parent in zip(names, parents, strict=True) if parent)


@dataclass(frozen=True)
class Swaps:
    """What a table of mirror partners comes to.

    Attributes:
        pairs: pairs of names that can be used.
        faults: rows i whose partner does not name them back, the row at fault before those that suffer from it.
        mended: those pairs that the table has wrong and the names have right.
    """

    pairs: tuple[tuple[str, str], ...]
    faults: tuple[int, ...]
    mended: tuple[tuple[str, str], ...]


def check_involution(names: Sequence[str], swaps: Sequence[str]) -> Swaps:
    """Flip pairs of a table with the mirror partner of each of K points ("" = on the axis, none).

    A mirror image seen in a mirror is the first image again: whoever is a partner must name the other one back. Rows
    that do not are faults. They are mended where the names say the pair and neither point is taken; else they are left
    without partner. What is a fault and what is mended is the caller's to say.
    """
    index = {name: i for i, name in enumerate(names)}
    partner = [index.get(s, -1) for s in swaps]
    mutual = {i: j for i, j in enumerate(partner) if j >= 0 and j != i and partner[j] == i}
    faults = [i for i, s in enumerate(swaps) if s and i not in mutual]
    faults.sort(key=lambda i: (partner[i] not in mutual, i))  # one that names a taken point is at fault itself
    pairs = [(names[i], names[j]) for i, j in mutual.items() if i < j]
    odd = {names[i] for i in faults}
    free = set(names) - {n for pair in pairs for n in pair}
    mended = [p for p in infer_flip_pairs(names) if set(p) <= free and odd & set(p)]
    return Swaps((*pairs, *mended), tuple(faults), tuple(mended))
