"""Synthetic labelled scenes: small data sets whose truth is exact, for the demo, the tests and the doctor.

A scene is drawn from its own generator, seeded by (seed, index): picture 7 is the same picture in a set of 10 and in
a set of 1000. Shapes are polygons; the label is the hull of the polygon, so it is exact to the last digit, and the
pixels are the polygon's coverage at 8 x 8 sub-pixels.

Each kind of scene is one pair of functions: `draw_<kind>(rng, ...) -> Scene` and `make_<kind>(out, ...) -> Path`.
Shared by all kinds: `background`, `Shape` and its `coverage`, `finish`, and `write_all`, which knows about folders.

Shape legend: H, W picture; P polygon corners; 3 = RGB; float colours in 0..255.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import read_json, write_atomic, write_json
from tercel.core.finding import TercelError
from tercel.core.geometry import clip_boxes
from tercel.core.objects import Objects

Floats = NDArray[np.float64]

SUB = 8  # sub-pixels per side of a pixel
VERSION = 2  # raised whenever a scene of the same seed would look different
MARKER = "synth.json"  # what the folder was made from


@dataclass(frozen=True)
class Shape:
    """A filled outline: one or more closed polygons (even-odd, so that a second one is a hole) in picture px."""

    name: str
    polygons: tuple[Floats, ...]  # each [P,2]

    @property
    def box(self) -> Floats:
        """Exact hull x1 y1 x2 y2; may reach beyond the picture."""
        p = self.polygons[0]
        return np.concatenate([p.min(0), p.max(0)])

    def visible_box(self, size: tuple[int, int]) -> Floats:
        """Hull of the part within the picture: tighter than the cut hull, where a slanted side meets the edge.

        Empty (all zeros) when nothing lies within.
        """
        p = self.polygons[0]
        for axis, limit, sign in ((0, 0, 1), (1, 0, 1), (0, size[1], -1), (1, size[0], -1)):
            p = _half_plane(p, sign * (p[:, axis] - limit))
        return np.concatenate([p.min(0), p.max(0)]) if len(p) else np.zeros(4)

    def coverage(self, size: tuple[int, int]) -> tuple[NDArray[np.float32], tuple[slice, slice]]:
        """Covered share 0..1 of each pixel in a window of the picture, and the window (rows, columns)."""
        import cv2

        h, w = size
        x1, y1, x2, y2 = self.box
        left, top = int(np.clip(np.floor(x1), 0, w)), int(np.clip(np.floor(y1), 0, h))
        right, bottom = int(np.clip(np.ceil(x2), left, w)), int(np.clip(np.ceil(y2), top, h))
        window = slice(top, bottom), slice(left, right)
        if right <= left or bottom <= top:
            return np.zeros((bottom - top, right - left), np.float32), window
        fine = np.zeros(((bottom - top) * SUB, (right - left) * SUB), np.uint8)
        # OpenCV puts sub-pixel centres on whole numbers; `shift` gives it 8 binary digits behind the point.
        corners = [np.rint(((p - (left, top)) * SUB - 0.5) * 256).astype(np.int32) for p in self.polygons]
        cv2.fillPoly(fine, corners, 255, lineType=cv2.LINE_8, shift=8)
        share = cv2.resize(fine, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
        return np.asarray(share, np.float32) / np.float32(255), window


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn picture u8 [H,W,3] and its truth."""

    image: NDArray[np.uint8]
    objects: Objects
    shapes: tuple[Shape, ...] = ()


def _half_plane(polygon: Floats, depth: Floats) -> Floats:
    """Corners [P,2] kept where `depth` [P] >= 0, with the crossings of the edge (Sutherland and Hodgman 1974).

    A concave outline may come back with parts joined along the edge; its hull is right all the same.
    """
    out = []
    for i in range(len(polygon)):
        j = i - 1
        if (depth[i] >= 0) != (depth[j] >= 0):
            t = depth[j] / (depth[j] - depth[i])
            out.append(polygon[j] + t * (polygon[i] - polygon[j]))
        if depth[i] >= 0:
            out.append(polygon[i])
    return np.array(out).reshape(-1, 2)


# -- outlines ---------------------------------------------------------------------------------------------------


def _disc(rng: np.random.Generator) -> list[Floats]:
    # 128 corners, extreme points included: the hull is exact and the edge is within r * 3e-4 of the circle.
    a = np.arange(128) * (2 * np.pi / 128)
    return [np.stack([np.cos(a), np.sin(a)], 1)]


def _ring(rng: np.random.Generator) -> list[Floats]:
    outer = _disc(rng)[0]
    return [outer, outer * rng.uniform(0.45, 0.65)]


def _square(rng: np.random.Generator) -> list[Floats]:
    return [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.85]


def _triangle(rng: np.random.Generator) -> list[Floats]:
    a = -np.pi / 2 + np.arange(3) * (2 * np.pi / 3)
    return [np.stack([np.cos(a), np.sin(a)], 1) * 1.1]


def _cross(rng: np.random.Generator) -> list[Floats]:
    b = rng.uniform(0.25, 0.4)
    half = [[-b, -1], [b, -1], [b, -b], [1, -b], [1, b], [b, b]]
    return [np.array(half + [[-x, -y] for x, y in half])]


OUTLINES: dict[str, Callable[[np.random.Generator], list[Floats]]] = {
    "disc": _disc,
    "square": _square,
    "cross": _cross,
    "triangle": _triangle,
    "ring": _ring,
}


def random_shape(rng: np.random.Generator, name: str, centre: tuple[float, float], radius: float) -> Shape:
    """The outline `name` at `centre` (x, y) with `radius` px, slightly stretched and turned."""
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    angle = rng.uniform(-np.pi, np.pi)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, s], [-s, c]])
    squeeze = np.array([stretch, 1 / stretch])
    return Shape(name, tuple((p * squeeze) @ turn * radius + np.array(centre) for p in OUTLINES[name](rng)))


# -- pixels -----------------------------------------------------------------------------------------------------


def palette(rng: np.random.Generator, value: tuple[float, float], saturation: tuple[float, float]) -> Floats:
    """A random RGB colour [3] in 0..255 of the given ranges of HSV value and saturation."""
    h, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    k = (np.array([5.0, 3.0, 1.0]) + h) % 6
    return np.asarray(255 * v * (1 - s * np.clip(np.minimum(k, 4 - k), 0, 1)))


def clouds(rng: np.random.Generator, size: tuple[int, int], grain: int) -> NDArray[np.float32]:
    """Smooth noise [H,W] of about -1..1 whose features are about `grain` px wide."""
    import cv2

    h, w = size
    coarse = rng.uniform(-1, 1, (max(2, h // grain + 2), max(2, w // grain + 2))).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC), np.float32)


def background(rng: np.random.Generator, size: tuple[int, int], clutter: float) -> NDArray[np.float32]:
    """An empty scene f32 [H,W,3]: a colour gradient, clouds, and `clutter` (0..1) of strokes and soft blots."""
    import cv2

    h, w = size
    a, b = palette(rng, (0.25, 0.85), (0.05, 0.4)), palette(rng, (0.25, 0.85), (0.05, 0.4))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    ramp = (x / w - 0.5) * np.cos(angle) + (y / h - 0.5) * np.sin(angle) + 0.5
    ramp = np.clip(ramp + 0.15 * clouds(rng, size, 80), 0, 1)
    image = np.ascontiguousarray((a + (b - a) * ramp[..., None]).astype(np.float32))
    image += (rng.uniform(2, 14) * clouds(rng, size, 16))[..., None]
    mean = image.mean((0, 1))
    for _ in range(rng.poisson(14 * clutter)):
        colour = (mean + rng.normal(0, 28, 3)).tolist()
        p, q = rng.uniform((0, 0), (w, h), (2, 2)).astype(int).tolist()
        cv2.line(image, p, q, colour, int(rng.integers(1, 3)), cv2.LINE_AA)
    for _ in range(rng.poisson(8 * clutter)):
        centre, r = rng.uniform((0, 0), (w, h)), rng.uniform(0.04, 0.16) * min(h, w)
        blot = np.exp(-(((x - centre[0]) / r) ** 2 + ((y - centre[1]) / (r * rng.uniform(0.5, 1))) ** 2))
        image += blot[..., None] * rng.normal(0, 30, 3).astype(np.float32)
    return image


def paint_shape(rng: np.random.Generator, image: NDArray[np.float32], shape: Shape) -> None:
    """Draw `shape` on `image` f32 [H,W,3] in place: its own colour, soft shading, and a plain or striped texture."""
    share, (rows, columns) = shape.coverage(image.shape[:2])
    if not share.size:
        return
    under = image[rows, columns]
    colour = palette(rng, (0.2, 1.0), (0.35, 0.95))
    for _ in range(8):  # a shape that nobody could see would be a wrong label
        if np.abs(colour - under.mean((0, 1))).max() > 70:
            break
        colour = palette(rng, (0.1, 1.0), (0.35, 0.95))
    x1, y1, x2, y2 = shape.box
    y, x = np.mgrid[rows, columns].astype(np.float32) + 0.5
    u, v = (x - x1) / (x2 - x1) - 0.5, (y - y1) / (y2 - y1) - 0.5
    light = 1.0 - 0.35 * (u * rng.uniform(-1, 1) + v)
    if rng.random() < 0.35:
        angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 5)
        light = light * (1 + 0.22 * np.sign(np.sin(2 * np.pi * waves * (u * np.cos(angle) + v * np.sin(angle)))))
    fill = colour.astype(np.float32) * light[..., None].astype(np.float32)
    fill += rng.normal(0, rng.uniform(0, 8), share.shape).astype(np.float32)[..., None]
    under += share[..., None] * (np.clip(fill, 0, 255) - under)


def blend(image: NDArray[np.float32], corners: Floats, value: float | Floats, share: float = 1.0) -> None:
    """Paint the polygon `corners` [P,2] on `image` f32 [H,W,C] in place: the colour `value` (C) weighs `share`."""
    covered, (rows, columns) = Shape("", (corners,)).coverage(image.shape[:2])
    under = image[rows, columns]
    under += share * covered[..., None] * (np.asarray(value, np.float32) - under)


def finish(rng: np.random.Generator, image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Sensor noise, a little blur now and then, and whole grey levels."""
    import cv2

    if rng.random() < 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (3, 3), rng.uniform(0.3, 0.8)), np.float32)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0.5, 5)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


# -- boxes ------------------------------------------------------------------------------------------------------


def draw_boxes(
    rng: np.random.Generator, size: tuple[int, int], classes: Sequence[str], *, most_hidden: float = 0.4
) -> Scene:
    """One scene of shapes: 1 in 16 without any, 1 in 12 crowded, the rest with 1 to 9.

    Truth is the hull of what lies within the picture, covered or not; at least half of each shape's box lies within the
    picture and at most `most_hidden` of its pixels are covered by later shapes.
    """
    h, w = size
    image = background(rng, size, rng.uniform(0, 1) ** 2)
    kind = rng.random()
    crowded = kind > 1 - 1 / 12
    count = 0 if kind < 1 / 16 else int(rng.integers(18, 46)) if crowded else int(rng.integers(1, 10))
    short = min(h, w)
    low, high = (0.035, 0.08) if crowded else (0.055, 0.2)
    shapes: list[Shape] = []
    owner = np.full(size, -1, np.int64)  # which shape a pixel shows
    whole: list[int] = []
    for _ in range(count):
        for _attempt in range(20):
            name = classes[int(rng.integers(len(classes)))]
            radius = max(6.0, short * float(np.exp(rng.uniform(np.log(low), np.log(high)))))
            shape = random_shape(rng, name, (rng.uniform(0, w), rng.uniform(0, h)), radius)
            if _fits(shape, size, owner, whole, most_hidden):
                break
        else:
            continue  # the picture is full
        share, window = shape.coverage(size)
        mine = share >= 0.5
        owner[window][mine] = len(shapes)
        whole.append(int(mine.sum()))
        shapes.append(shape)
        paint_shape(rng, image, shape)
    # A crossing with the edge is off by a rounding error now and then.
    boxes = clip_boxes(np.array([s.visible_box(size) for s in shapes]).reshape(-1, 4), size)
    labels = np.array([classes.index(s.name) for s in shapes], np.int64)
    return Scene(finish(rng, image), Objects(size, labels, boxes.astype(np.float32)), tuple(shapes))


def _fits(
    shape: Shape, size: tuple[int, int], owner: NDArray[np.int64], whole: Sequence[int], most_hidden: float
) -> bool:
    """Enough of the shape lies in the picture, and it hides no earlier one too much."""
    x1, y1, x2, y2 = shape.box
    cut = clip_boxes(shape.box[None], size)[0]
    if (cut[2] - cut[0]) * (cut[3] - cut[1]) < 0.5 * (x2 - x1) * (y2 - y1):
        return False
    share, window = shape.coverage(size)
    mine = share >= 0.5
    if mine.sum() < 12:
        return False
    for i in np.unique(owner[window][mine]):
        if i >= 0:
            left = int((owner == i).sum()) - int((owner[window][mine] == i).sum())
            if left < (1 - most_hidden) * whole[i]:
                return False
    return True


def make_boxes(
    out: Path,
    *,
    n: int,
    seed: int,
    size: tuple[int, int] = (240, 320),
    classes: Sequence[str] = ("disc", "square", "cross", "triangle"),
    splits: Mapping[str, float] | None = None,
) -> Path:
    """Draw `n` scenes of labelled shapes and write them as a YOLO data set.

    Args:
        out: folder to make; one that holds the same set already is left as it is.
        size: (H, W) of each picture in px.
        classes: among `OUTLINES`; the class id is the place in this list.
        splits: split name -> share of the scenes, in order; the default is train .8, val .2.

    Returns:
        The path of data.yaml (`yolo:<path>#train`).

    Raises:
        TercelError: an unknown class, shares that do not add up to 1, or a folder that holds something else.
    """
    unknown = [c for c in classes if c not in OUTLINES]
    if unknown or not classes:
        raise TercelError(f"no shape is called {unknown[:1]}", f"choose among {', '.join(OUTLINES)}")
    names = list(classes)
    if len(set(names)) != len(names):
        raise TercelError(f"a class occurs twice in {names}", "name every class once")
    shares = dict(splits or {"train": 0.8, "val": 0.2})
    recipe = {"kind": "boxes", "version": VERSION, "n": n, "seed": seed, "size": list(size), "classes": names} | {
        "splits": shares
    }

    def conclude(folder: Path) -> None:
        for split in shares:
            (folder / "images" / split).mkdir(parents=True, exist_ok=True)
            (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
        lines = [f"{split}: images/{split}" for split in shares]
        lines += ["names:", *(f"  {i}: {name}" for i, name in enumerate(names))]
        write_atomic(folder / "data.yaml", "\n".join(["path: .", *lines]) + "\n")

    write_all(Path(out), recipe, lambda rng: draw_boxes(rng, size, names), _write_yolo, conclude)
    return Path(out) / "data.yaml"


# -- folders ----------------------------------------------------------------------------------------------------


def split_counts(n: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole counts per split that add up to n, each within 1 of its share.

    Raises:
        TercelError: a negative share, or shares that do not add up to 1.
    """
    if not shares or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise TercelError(f"split shares {dict(shares)} do not add up to 1", "for example {'train': .8, 'val': .2}")
    edges = np.rint(np.cumsum([0.0, *shares.values()]) * n).astype(int)
    return dict(zip(shares, np.diff(edges).tolist(), strict=True))


def write_all(
    out: Path,
    recipe: dict[str, Any],
    draw: Callable[[np.random.Generator], Scene],
    write: Callable[[Path, str, str, Scene], None],
    conclude: Callable[[Path], None],
) -> None:
    """Draw every scene into a temporary folder beside `out` and rename it: half a set never looks like a whole one.

    Args:
        recipe: what the set is made from, with n, seed and splits; a folder that holds the same is left as it is.
        write: (folder, split, name, scene) writes one picture and its label; `conclude` what the whole folder needs.
    """
    counts = split_counts(recipe["n"], recipe["splits"])
    with fresh_folder(out, recipe) as work:
        if work is None:
            return
        index = 0
        for split, count in counts.items():
            for _ in range(count):
                scene = draw(np.random.default_rng([recipe["seed"], index]))
                write(work, split, f"{index:05d}", scene)
                index += 1
        conclude(work)


@contextmanager
def fresh_folder(out: Path, recipe: Mapping[str, Any]) -> Iterator[Path | None]:
    """A temporary folder beside `out` to be filled, renamed to `out` at the end and removed after any error.

    Yields None where `out` holds already what the same recipe made.

    Raises:
        TercelError: `out` is a file or holds something else, or nothing can be written there.
    """
    if out.exists() and not out.is_dir():
        raise TercelError(f"{out} is a file", "choose another folder")
    if out.is_dir() and any(out.iterdir()):
        marker = out / MARKER
        if marker.is_file() and read_json(marker) == recipe:
            yield None
            return
        raise TercelError(f"{out} is not empty and holds another data set", "choose another folder or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as e:
        raise TercelError(f"cannot write {out}: {e.strerror or e}", "choose another folder") from e
    try:
        yield work
        write_json(work / MARKER, recipe)
        work.chmod(0o755)
        if out.is_dir():
            out.rmdir()  # empty, as we saw; otherwise this fails and nothing is lost
        work.rename(out)
    except OSError as e:
        raise TercelError(f"cannot write {out}: {e.strerror or e}", "free some space or choose another folder") from e
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_picture(path: Path, image: NDArray[np.uint8]) -> None:
    """The picture u8 [H,W,3] as a JPEG of good quality, in a folder that is made."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    done, code = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not done:
        raise TercelError(f"cannot encode {path}", "check that there is space, and OpenCV's installation")
    path.write_bytes(code.tobytes())


def _write_yolo(folder: Path, split: str, name: str, scene: Scene) -> None:
    """One picture and its label file: class, centre and size as shares of the picture's width and height."""
    label = folder / "labels" / split / f"{name}.txt"
    write_picture(folder / "images" / split / f"{name}.jpg", scene.image)
    label.parent.mkdir(parents=True, exist_ok=True)
    h, w = scene.objects.size
    rows = []
    for c, (x1, y1, x2, y2) in zip(scene.objects.labels, scene.objects.boxes.astype(np.float64), strict=True):
        rows.append(f"{c} {(x1 + x2) / 2 / w:.8f} {(y1 + y2) / 2 / h:.8f} {(x2 - x1) / w:.8f} {(y2 - y1) / h:.8f}\n")
    label.write_text("".join(rows))
