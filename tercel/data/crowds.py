"""Generated streets with people who hide each other by a wanted amount, exact to the pixel, for tables, demo and tests.

People stand in chains: each one overlaps the next by an IoU that is solved for, until the mean over all people of the
greatest IoU of their full box with another's is what was asked for. Perspective is that of a camera above the ground:
the lower the feet, the taller the person. Who stands lower hides who stands higher; posts, bins, signs and bushes hide
both. A person's full box is the hull of its cut-out, hidden or not, and may reach beyond the picture; the visible box
is the hull of the pixels that show it. Crowds too far away to be told apart, posters and statues are regions to ignore.

Splits share neither a person nor a street: sources.json tells for each picture which it is made of, by content, and
what overlap was reached.

Shape legend: H, W picture; N people; 4 = x1 y1 x2 y2 px.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic, write_json
from tercel.core.finding import TercelError
from tercel.core.geometry import box_intersection, box_iou
from tercel.data.crowd_sprites import (
    Cutout,
    draw_far_crowd,
    draw_poster,
    draw_statue,
    draw_street,
    draw_thing,
    mask_box,
    over,
    paint_person,
    pose_person,
)
from tercel.data.formats.odgt import Person, line
from tercel.data.synth import Floats, finish, fresh_folder, write_picture
from tercel.data.turtles import SOURCES, shared_sources

VERSION = 1  # raised whenever a picture of the same seed would look different
PEOPLE = (5, 40)  # in a picture, as many as there is room for
SHORTEST, TALLEST = 26, 0.55  # heights: px, and share of the picture's height
HIGHEST = 0.75  # wanted overlap: people of the same size differ in shape, and all must be seen
LEAST_SHOWN = 0.12  # share of a person's pixels that must show
HEAD_SHOWN = 0.2  # the same of a head that is labelled
NEAR = 0.03  # of the wanted overlap, in every picture
ROUNDS, TRIES = 8, 20  # times that hidden people leave and the others close up; crowds until one is right
_STREET, _PICTURE = 1, 2  # streams of random numbers that must not meet


class Layer(NamedTuple):
    """Something that stands in the street: premultiplied pixels, what they cover, and where.

    `person` is the number of the one whom it shows, -1 for what nobody is asked about.
    """

    rgba: NDArray[np.float32]  # [h,w,4]
    mask: NDArray[np.bool_]  # [h,w]
    x: int
    y: int
    foot: float  # y where it stands: lower ones hide higher ones
    person: int = -1
    head: tuple[int, int, int, int] | None = None  # its hull in the layer

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Hull of the mask; may reach beyond the picture."""
        x1, y1, x2, y2 = mask_box(self.mask)
        return float(self.x + x1), float(self.y + y1), float(self.x + x2), float(self.y + y2)

    def window(self, size: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Rows and columns in the picture (H, W), and the same ones in the layer."""
        (h, w), spans = self.mask.shape, []
        for start, length, limit in ((self.y, h, size[0]), (self.x, w, size[1])):
            low, high = min(max(start, 0), limit), min(max(start + length, 0), limit)
            spans.append((slice(low, high), slice(low - start, high - start)))
        return (spans[0][0], spans[1][0]), (spans[0][1], spans[1][1])


@dataclass(frozen=True, eq=False)
class Crowd:
    """A drawn picture and its truth.

    Attributes:
        image: u8 [H,W,3].
        people: N people, then the regions to ignore.
        layers: of the N people; cut-outs whole, hidden or not.
        owner: i64 [H,W], the number of the person that a pixel shows, -1 where it shows none.
    """

    image: NDArray[np.uint8]
    people: tuple[Person, ...]
    layers: tuple[Layer, ...]
    owner: NDArray[np.int64]

    @property
    def overlap(self) -> float:
        """Mean over the people of the greatest IoU of their full box with another's."""
        return mean_overlap(np.array([p.full for p in self.people if not p.ignore]).reshape(-1, 4))


def mean_overlap(boxes: Floats) -> float:
    """Mean of each box's greatest IoU with another, boxes [N,4]; NaN without boxes."""
    if not len(boxes):
        return float("nan")
    iou = box_iou(boxes, boxes)
    np.fill_diagonal(iou, 0.0)
    return float(iou.max(1).mean())


# -- where people stand -------------------------------------------------------------------------------------------


class _Chain(NamedTuple):
    """People who stand side by side, each a step behind the one before."""

    members: list[int]
    start: float  # x of the first one's middle
    side: int  # 1: the next one stands to the right, -1: to the left
    wish: float  # how much more than others this chain overlaps


class _Scene(NamedTuple):
    """A street's perspective: a person whose feet are at y is (y - horizon) * slope px tall."""

    size: tuple[int, int]
    horizon: int
    slope: float

    def height(self, foot: float) -> float:
        return (foot - self.horizon) * self.slope

    def foot(self, height: float) -> float:
        return self.horizon + height / self.slope


def _gather(
    rng: np.random.Generator, scene: _Scene, count: int, overlap: float
) -> tuple[list[Cutout], list[float], list[_Chain]]:
    """`count` painted people, the y of their feet, and the chains that they stand in, the nearest one first.

    Those of a chain have similar shapes and sizes, the more so the more they are to overlap.
    """
    figures = sorted((pose_person(rng) for _ in range(count)), key=lambda f: f.aspect)
    lengths = _lengths(rng, count, overlap)
    h, w = scene.size
    tallest = min(TALLEST * h, scene.height(1.12 * h))
    heights = np.exp(rng.uniform(np.log(SHORTEST), np.log(max(tallest, SHORTEST + 1)), len(lengths)))
    people: list[Cutout] = []
    feet: list[float] = []
    chains: list[_Chain] = []
    taken = np.zeros((0, 4))
    looseness, begin = 1.2 - overlap, np.cumsum([0, *lengths])
    for number in np.argsort(-heights):
        height, members = float(heights[number]), []
        for figure in figures[begin[number] : begin[number + 1]]:
            members.append(len(people))
            feet.append(scene.foot(height))
            people.append(paint_person(rng, figure, height * rng.normal(1, 0.05 * looseness)))
            height *= 1 - rng.uniform(0.01, 0.06) * looseness
        side = int(rng.choice((-1, 1)))
        across = sum(people[i].size[1] for i in members) * (1 - overlap * (len(members) - 1) / len(members))
        tries = [_rough(x, side, across, feet[members[0]], height) for x in rng.uniform(-0.03 * w, 1.03 * w, 8)]
        covered = [float(box_intersection(t[None], taken).sum()) if len(taken) else 0.0 for t in tries]
        best = tries[int(np.argmin(covered))]
        taken = np.concatenate([taken, best[None]])
        start = best[0] if side > 0 else best[2]
        chains.append(_Chain(members, float(start), side, float(rng.uniform(-0.15, 0.15))))
    return people, feet, chains


def _lengths(rng: np.random.Generator, count: int, overlap: float) -> list[int]:
    """How many stand in each chain: 2 to 6, and now and then somebody alone."""
    lengths: list[int] = []
    while (left := count - sum(lengths)) > 0:
        lengths.append(min(left, 1 if rng.random() < 0.12 * (1 - overlap) else int(rng.integers(2, 6))))
    if len(lengths) > 1 and lengths[-1] == 1:  # a lone rest
        lengths[-2:] = [lengths[-2] + 1]
    return lengths


def _rough(x: float, side: int, across: float, foot: float, height: float) -> Floats:
    """About where a chain will stand [4]."""
    return np.array([min(x, x + side * across), foot - height, max(x, x + side * across), foot])


def _stand(people: Sequence[Cutout], feet: Sequence[float], chains: Sequence[_Chain], level: float) -> Floats:
    """Full boxes [N,4], on whole px, where neighbours in a chain overlap by an IoU of `level` and the chain's wish.

    They stand as close as they can where their sizes do not allow so much, and side by side where it is below 0.
    """
    boxes = np.zeros((len(people), 4))
    for chain in chains:
        before = -1
        for i in chain.members:
            (h, w), bottom = people[i].size, round(feet[i])
            x = chain.start - w / 2
            if before >= 0:
                x1, y1, x2, y2 = boxes[before]
                wanted = min(max(level + chain.wish, 0.0), 0.95)
                common = wanted * ((x2 - x1) * (y2 - y1) + w * h) / (1 + wanted)
                wide = min(common / max(min(y2, bottom) - max(y1, bottom - h), 1), w, x2 - x1)
                x = x2 - wide if chain.side > 0 else x1 + wide - w
            boxes[i] = round(x), bottom - h, round(x) + w, bottom
            before = i
    return boxes


def _solve(people: Sequence[Cutout], feet: Sequence[float], chains: Sequence[_Chain], overlap: float) -> Floats:
    """Full boxes [N,4] of the wanted mean overlap, by bisection of the level: the mean grows with it."""
    low, high = -0.2, 1.2
    for _ in range(12):
        level = (low + high) / 2
        if mean_overlap(_stand(people, feet, chains, level)) < overlap:
            low = level
        else:
            high = level
    return _stand(people, feet, chains, high)


def _without(
    gone: Sequence[int], people: Sequence[Cutout], feet: Sequence[float], chains: Sequence[_Chain]
) -> tuple[list[Cutout], list[float], list[_Chain]]:
    """The same without some people."""
    kept = [i for i in range(len(people)) if i not in set(gone)]
    number = {old: new for new, old in enumerate(kept)}
    shorter = [c._replace(members=[number[i] for i in c.members if i in number]) for c in chains]
    return [people[i] for i in kept], [feet[i] for i in kept], [c for c in shorter if c.members]


# -- one picture --------------------------------------------------------------------------------------------------


def draw_crowd(
    rng: np.random.Generator, street: NDArray[np.float32], horizon: int, *, overlap: float, people: tuple[int, int]
) -> Crowd:
    """One picture of a street f32 [H,W,3] with people of the wanted overlap, as many as `people` says (from, to).

    Raises:
        TercelError: so many people do not fit.
    """
    size = (street.shape[0], street.shape[1])
    scene = _Scene(size, horizon, float(rng.uniform(0.4, 0.9)))
    layers = _people(rng, scene, overlap, people)
    regions = _regions(rng, scene, layers)
    things = list(regions)
    for _ in range(int(rng.poisson(3))):
        things += _unless_hiding(size, [*layers, *things], _thing(rng, scene, layers))
    every = sorted([*layers, *things], key=lambda a: a.foot)
    image, owner = street.copy(), _owners(size, every)
    for layer in every:
        _shade(image, layer)
        there, here = layer.window(size)
        over(image[there], layer.rgba[here])
    truth = [_label(layer, owner) for layer in layers]
    truth += [Person(full=region.box, ignore=True, tag="mask") for region in regions]
    return Crowd(finish(rng, image), tuple(truth), tuple(layers), owner)


def _people(rng: np.random.Generator, scene: _Scene, overlap: float, people: tuple[int, int]) -> list[Layer]:
    """People at the wanted overlap who all show: whoever would be hidden leaves."""
    for _ in range(TRIES):
        count = int(rng.integers(people[0], people[1] + 1))
        painted, feet, chains = _gather(rng, scene, count, overlap)
        for _ in range(ROUNDS):
            boxes = _solve(painted, feet, chains, overlap)
            layers = [
                Layer(p.rgba, p.mask, int(b[0]), int(b[1]), foot, i, p.head)
                for i, (p, b, foot) in enumerate(zip(painted, boxes, feet, strict=True))
            ]
            hidden = _hidden(scene.size, layers)
            if not hidden and abs(mean_overlap(boxes) - overlap) < NEAR:
                return layers
            painted, feet, chains = _without(hidden, painted, feet, chains)
            if not hidden or len(painted) < people[0]:
                break
    raise TercelError(
        f"no {people[0]} to {people[1]} people who overlap by {overlap:g} fit in {scene.size[0]}x{scene.size[1]} px",
        "ask for fewer people, less overlap or larger pictures",
    )


def _owners(size: tuple[int, int], layers: Sequence[Layer]) -> NDArray[np.int64]:
    """i64 [H,W]: the person whom each pixel shows, -1 for none; layers from back to front."""
    owner = np.full(size, -1, np.int64)
    for layer in layers:
        there, here = layer.window(size)
        owner[there][layer.mask[here]] = layer.person
    return owner


def _hidden(size: tuple[int, int], layers: Sequence[Layer]) -> list[int]:
    """Numbers of the people of whom less than LEAST_SHOWN shows in the picture."""
    owner = _owners(size, sorted(layers, key=lambda a: a.foot))
    shown = np.bincount(owner[owner >= 0], minlength=len(layers))
    return [a.person for a in layers if a.person >= 0 and shown[a.person] < LEAST_SHOWN * a.mask.sum()]


def _unless_hiding(size: tuple[int, int], others: Sequence[Layer], thing: Layer) -> list[Layer]:
    """The thing, unless it would hide somebody."""
    return [] if _hidden(size, [*others, thing]) else [thing]


def _thing(rng: np.random.Generator, scene: _Scene, people: Sequence[Layer]) -> Layer:
    """A post, bin, sign or bush, mostly in front of somebody."""
    one = people[int(rng.integers(len(people)))]
    x1, y1, x2, y2 = one.box
    if rng.random() < 0.7:
        x, foot = rng.uniform(x1, x2), one.foot + rng.uniform(0.01, 0.15) * (y2 - y1)
    else:
        x, foot = rng.uniform(0, scene.size[1]), scene.foot(rng.uniform(SHORTEST, TALLEST * scene.size[0]))
    height = scene.height(foot) * rng.uniform(0.5, 1.0)
    rgba = np.zeros((int(1.7 * height), int(1.2 * height), 4), np.float32)
    middle, bottom = int(0.6 * height), int(1.6 * height)
    draw_thing(rng, rgba, np.array([middle, bottom], np.float64), height)
    return _layer(rgba, x - middle, foot - bottom, foot)


def _regions(rng: np.random.Generator, scene: _Scene, people: Sequence[Layer]) -> list[Layer]:
    """What looks like people and is to be ignored: a crowd far away, a poster, a statue; often none."""
    wanted: list[tuple[NDArray[np.float32], float]] = []  # pixels, and y of the foot
    if rng.random() < 0.35:
        wanted.append((draw_far_crowd(rng), scene.foot(0.7 * SHORTEST)))
    for share, draw in ((0.25, draw_poster), (0.2, draw_statue)):
        if rng.random() < share:
            height = float(rng.uniform(1.5 * SHORTEST, 0.35 * scene.size[0]))
            wanted.append((draw(rng, height), scene.foot(0.6 * height)))
    regions: list[Layer] = []
    for rgba, foot in wanted:
        x = rng.uniform(0, scene.size[1] - rgba.shape[1])
        regions += _unless_hiding(scene.size, [*people, *regions], _layer(rgba, x, foot - len(rgba), foot))
    return regions


def _layer(rgba: NDArray[np.float32], x: float, y: float, foot: float) -> Layer:
    return Layer(rgba, rgba[..., 3] >= 127.5, round(x), round(y), foot)


def _label(layer: Layer, owner: NDArray[np.int64]) -> Person:
    """The boxes of a person who shows somewhere; no head where less than a fifth of it shows."""
    mine = owner == layer.person
    x1, y1, x2, y2 = mask_box(mine)
    assert layer.head is not None
    a, b, c, d = layer.head
    u, v = max(layer.x + a, 0), max(layer.y + b, 0)
    shown = int(mine[v : max(layer.y + d, v), u : max(layer.x + c, u)].sum())
    head = (float(layer.x + a), float(layer.y + b), float(layer.x + c), float(layer.y + d))
    seen = shown >= HEAD_SHOWN * layer.mask[b:d, a:c].sum()
    return Person(layer.box, (float(x1), float(y1), float(x2), float(y2)), head if seen else None)


def _shade(image: NDArray[np.float32], layer: Layer) -> None:
    """A soft shadow on the ground, in place."""
    x1, y1, x2, y2 = layer.box
    wide, flat = 0.6 * (x2 - x1), max(0.04 * (y2 - y1), 1.0)
    left, right = (int(np.clip(v, 0, image.shape[1])) for v in (x1 - wide, x2 + wide))
    top, bottom = (int(np.clip(v, 0, image.shape[0])) for v in (y2 - 3 * flat, y2 + 3 * flat))
    across = (np.arange(left, right) + 0.5 - (x1 + x2) / 2) / wide
    down = (np.arange(top, bottom) + 0.5 - y2) / flat
    dark = 0.4 * np.exp(-(down[:, None] ** 2) - across**2)
    image[top:bottom, left:right] *= (1 - dark[..., None]).astype(np.float32)


# -- whole sets ---------------------------------------------------------------------------------------------------


def make_crowds(
    out: Path,
    *,
    splits: Mapping[str, int],
    seed: int = 0,
    overlap: float = 0.5,
    size: tuple[int, int] = (320, 480),
    people: tuple[int, int] = PEOPLE,
) -> Path:
    """Draw pictures of crowds and write them as CrowdHuman's odgt: `odgt:<out>/annotation_train.odgt`.

    Args:
        out: folder to make; one that holds the same set already is left as it is.
        splits: pictures per split. People and streets of a split are its own.
        overlap: wanted mean over the people of a picture of the greatest IoU of their full box with another's.
        size: (H, W) of each picture in px.
        people: the fewest and the most in a picture.

    Returns:
        `out`, with annotation_<split>.odgt, Images/<split>_*.jpg and sources.json, which also says for each picture
        and each split what overlap was reached.

    Raises:
        TercelError: counts, an overlap or sizes that make no sense, people who do not fit, splits that share a person
            or a street, or a folder that holds something else.
    """
    counts = dict(splits)
    if not counts or min(counts.values()) < 1 or min(size) < 128 or not 2 <= people[0] <= people[1]:
        given = f"splits {counts}, size {tuple(size)}, people {tuple(people)}"
        raise TercelError(f"no crowds can be drawn with {given}", "splits from 1, sides from 128, people from 2 on")
    if not 0 <= overlap <= HIGHEST:
        raise TercelError(f"people cannot overlap by {overlap:g} on average", f"it lies in 0..{HIGHEST}")
    recipe: dict[str, Any] = {
        "kind": "crowds", "version": VERSION, "seed": seed, "splits": counts, "size": list(size), "overlap": overlap,
        "people": list(people),
    }  # fmt: skip
    out = Path(out)
    with fresh_folder(out, recipe) as work:
        if work is not None:
            sources = []
            for number, (split, count) in enumerate(counts.items()):
                sources += _write_split(work, split, count, [seed, number], size, overlap, people)
            shared = shared_sources(sources)
            if shared:
                raise TercelError(f"{out}: {shared[0].message} ({shared[0].evidence[0]})", "draw each split's own")
            reached = {k: float(np.mean([r["overlap"] for r in sources if r["split"] == k])) for k in counts}
            write_json(work / SOURCES, {"pictures": sources, "overlap": {k: round(v, 4) for k, v in reached.items()}})
    return out


def _write_split(
    work: Path,
    split: str,
    count: int,
    seed: list[int],
    size: tuple[int, int],
    overlap: float,
    people: tuple[int, int],
) -> list[dict[str, Any]]:
    """Pictures and labels of one split; returns its rows of sources.json."""
    lines, sources = [], []
    for i in range(count):
        rng = np.random.default_rng([*seed, _STREET, i])
        horizon = int(size[0] * rng.uniform(0.15, 0.4))
        street = draw_street(rng, size, horizon)
        crowd = draw_crowd(np.random.default_rng([*seed, _PICTURE, i]), street, horizon, overlap=overlap, people=people)
        name = f"{split}_{i:05d}"
        write_picture(work / "Images" / f"{name}.jpg", crowd.image)
        lines.append(f"{line(name, crowd.people, size)}\n")
        sources.append(
            {
                "split": split,
                "picture": f"{name}.jpg",
                "ground": _digest(street),
                "sprites": [_digest(layer.rgba) for layer in crowd.layers],
                "overlap": round(crowd.overlap, 4),
            }
        )
    write_atomic(work / f"annotation_{split}.odgt", "".join(lines))
    return sources


def _digest(pixels: NDArray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=8).hexdigest()
