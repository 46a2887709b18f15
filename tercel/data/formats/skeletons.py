"""What files say of a skeleton, checked: names of points, flip pairs, edges, sigmas. All formats with points share it.

A skeleton is a `Schema` without classes; `onto` puts it beside the classes of a data set. Shape legend: K points.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from tercel.core.finding import Ledger, Severity, TercelError
from tercel.core.schema import Schema
from tercel.core.skeleton import check_involution, edges_from_parents, infer_flip_pairs

_PAIRS = 'a pair is two names, for example ["left_eye", "right_eye"]'


def parse(
    names: Any, where: str, ledger: Ledger, *, flip_pairs: Any = None, edges: Any = None, sigmas: Any = None
) -> Schema:
    """The skeleton of named points, from whatever a json or yaml file holds.

    Args:
        names: list of K names. where: the file, for messages.
        flip_pairs: list of pairs of names; None where the file does not say: then they are read from the names, and a
            finding says so. An empty list says that a mirror image exchanges nothing.
        edges: list of pairs of names, or None. sigmas: list of K OKS sigmas, or None.

    Raises:
        TercelError: not of this form, a name that occurs twice, a pair or an edge to a point that is not there, a point
            in two pairs, sigmas that are no K positive numbers.
    """
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise TercelError(f"{where}: the names of the points are no list of texts", "for example [nose, tail]")
    points = tuple(names)
    if flip_pairs is None:
        given = infer_flip_pairs(points)
        if given:
            shown = ", ".join(f"{a} and {b}" for a, b in given[:4]) + (" ..." if len(given) > 4 else "")
            message = f"no flip pairs are given: {len(given)} were read from the names ({shown})"
            ledger.add("labels.flip_pairs", Severity.INFO, message, where)
    else:
        given = _pairs(flip_pairs, "flip pairs", where)
    try:
        return Schema((), points, given, _pairs(edges or [], "edges", where), _sigmas(sigmas or [], len(points), where))
    except TercelError as e:
        raise TercelError(e.message if e.message.startswith(where) else f"{where}: {e.message}", e.remedy) from e


def of_table(
    names: Sequence[str], parents: Sequence[str], swaps: Sequence[str], where: Callable[[int], str], ledger: Ledger
) -> Schema:
    """The skeleton of a table with the parent and the mirror partner of each of K points; "" = none.

    Partners that do not name each other are mended from the names where these say the pair, which a finding tells.

    Args:
        where: "file:line" of row i, for messages.

    Raises:
        TercelError: a name that is empty or occurs twice, a parent that is no point, points that are their own
            ancestors, partners that do not name each other and that the names do not mend.
    """
    for i, name in enumerate(names):
        if not name.strip() or name in names[:i]:
            what = f"the name {name!r} occurs twice" if name.strip() else "a point has no name"
            raise TercelError(f"{where(i)}: {what}", "give every point its own name")
    edges = edges_from_parents(names, parents, where)
    found = check_involution(names, swaps)
    healed = {n for pair in found.mended for n in pair}
    for i in found.faults:
        partner = swaps[i]
        back = swaps[names.index(partner)] if partner in names else None
        what = f"the mirror partner of {names[i]!r} is {partner!r}, "
        what += "which is no point" if back is None else f"but that one's is {back!r}" if back else "which has none"
        if names[i] not in healed:
            remedy = "partners name each other: correct the table; a point on the axis has no partner"
            raise TercelError(f"{where(i)}: {what}", remedy)
        pair = next(p for p in found.mended if names[i] in p)
        if partner in pair:
            continue  # the other row is the wrong one
        message = f"{what}: {pair[0]} and {pair[1]} were paired by their names; correct the table"
        ledger.add("labels.flip_pairs", Severity.WARNING, message, where(i))
    return Schema((), tuple(names), found.pairs, edges)


def unnamed(k: int, where: str, ledger: Ledger) -> list[str]:
    """point1 to pointK, and a finding that says so."""
    message = f"the points have no names: they are called point1 to point{k}"
    ledger.add("labels.point_names", Severity.INFO, message, where)
    return [f"point{i}" for i in range(1, k + 1)]


def pairs_of_index(index: Any, names: Sequence[str], where: str) -> list[list[str]]:
    """Flip pairs of a flip index: entry i is the number of the point that point i becomes in the mirror.

    Raises:
        TercelError: not K whole numbers from 0 to K - 1, or no involution (i goes to j, but j not to i).
    """
    good = isinstance(index, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in index)
    if not good or len(index) != len(names) or not all(0 <= i < len(names) for i in index):
        raise TercelError(
            f"{where}: it is {str(index)[:60]}, not {len(names)} numbers of points from 0 to {len(names) - 1}",
            "entry i is the number of the point that point i becomes in a mirror image",
        )
    odd = next((i for i, j in enumerate(index) if index[j] != i), None)
    if odd is not None:
        i, j = odd, index[odd]
        raise TercelError(
            f"{where}: no involution: {names[i]!r} ({i}) goes to {names[j]!r} ({j}), which goes to {names[index[j]]!r} "
            f"({index[j]})",
            "a mirror image seen in a mirror is the first image again: exchange points in pairs",
        )
    return [[names[i], names[j]] for i, j in enumerate(index) if i < j]


def onto(schema: Schema, skeleton: Schema | None) -> Schema:
    """The classes of `schema` with the points of `skeleton` (None: as it is)."""
    if skeleton is None:
        return schema
    s = skeleton
    return dataclasses.replace(schema, keypoints=s.keypoints, flip_pairs=s.flip_pairs, edges=s.edges, sigmas=s.sigmas)


def _pairs(value: Any, what: str, where: str) -> tuple[tuple[str, str], ...]:
    good = isinstance(value, list | tuple) and all(
        isinstance(p, list | tuple) and len(p) == 2 and all(isinstance(n, str) for n in p) and p[0] != p[1]
        for p in value
    )
    if not good:
        raise TercelError(f"{where}: {what} are no list of pairs of names: {str(value)[:60]}", _PAIRS)
    return tuple((a, b) for a, b in value)


def _sigmas(value: Any, k: int, where: str) -> tuple[float, ...]:
    good = isinstance(value, list | tuple) and all(
        isinstance(s, int | float) and not isinstance(s, bool) and math.isfinite(s) and s > 0 for s in value
    )
    if not good or len(value) not in (0, k):
        raise TercelError(
            f"{where}: sigmas are no {k} positive numbers: {str(value)[:60]}",
            "give one per point, around 0.05 as in COCO",
        )
    return tuple(float(s) for s in value)
