"""Warp: the affine map between two canvases. One warp serves pixels and every field of Objects alike.

A whole augmentation chain folds into ONE warp, so pixels are resampled once and no field can be forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import (
    box_area,
    box_corners,
    canonical_obb,
    clip_boxes,
    corners_to_obb,
    hull,
    obb_corners,
    points_hull,
)
from tercel.core.objects import Objects


@dataclass(frozen=True, eq=False)
class Warp:
    """Affine map from canvas `src` to canvas `dst`, both (H, W).

    Attributes:
        matrix: f64 [3,3]; (x', y', 1) = matrix @ (x, y, 1) in continuous pixel coordinates.
    """

    matrix: NDArray[np.float64]
    src: tuple[int, int]
    dst: tuple[int, int]

    def __post_init__(self) -> None:
        m = np.array(self.matrix, dtype=np.float64)
        if m.shape != (3, 3) or not np.isfinite(m).all() or np.abs(m[2] - (0, 0, 1)).max() > 1e-8:
            raise ValueError(f"matrix is a finite affine [3,3] with last row 0 0 1, not {m.tolist()}")
        m.setflags(write=False)
        object.__setattr__(self, "matrix", m)
        if abs(self.determinant) < 1e-12:
            raise ValueError("the warp is singular: it flattens the picture")

    # -- construction -------------------------------------------------------------------------------------------

    @staticmethod
    def identity(size: tuple[int, int]) -> Warp:
        return Warp(np.eye(3), size, size)

    @staticmethod
    def letterbox(src: tuple[int, int], dst: tuple[int, int], upscale: bool = True) -> Warp:
        """Largest centred fit of `src` into `dst` that keeps the aspect ratio."""
        s = min(dst[0] / src[0], dst[1] / src[1])
        s = s if upscale else min(s, 1.0)
        return Warp(scaling(s), src, dst).recentred()

    @staticmethod
    def flip(size: tuple[int, int]) -> Warp:
        """Mirror left and right: x' = W - x."""
        return Warp(np.array([[-1, 0, size[1]], [0, 1, 0], [0, 0, 1]]), size, size)

    def recentred(self) -> Warp:
        """The same linear part, shifted so that the centre of `src` lands on the centre of `dst`."""
        m = self.matrix.copy()
        centre = np.array([self.src[1] / 2, self.src[0] / 2])
        m[:2, 2] = np.array([self.dst[1] / 2, self.dst[0] / 2]) - m[:2, :2] @ centre
        return Warp(m, self.src, self.dst)

    def __matmul__(self, first: Warp) -> Warp:
        """`b @ a`: first a, then b."""
        if first.dst != self.src:
            raise ValueError(f"cannot compose: the first warp ends on {first.dst}, the second starts on {self.src}")
        product: NDArray[np.float64] = np.matmul(self.matrix, first.matrix)
        return Warp(product, first.src, self.dst)

    def inverse(self) -> Warp:
        inverse: NDArray[np.float64] = np.linalg.inv(self.matrix).astype(np.float64)
        return Warp(inverse, self.dst, self.src)

    # -- properties ---------------------------------------------------------------------------------------------

    @property
    def determinant(self) -> float:
        """Of the linear part: the area ratio, negative when the picture is mirrored."""
        (a, b, _), (c, d, _), _ = self.matrix.tolist()
        return float(a * d - b * c)

    @property
    def mirrored(self) -> bool:
        """True when left and right are exchanged (negative determinant)."""
        return self.determinant < 0

    @property
    def scale(self) -> float:
        """Square root of the area ratio: the mean linear scale."""
        return math.sqrt(abs(self.determinant))

    @property
    def axis_aligned(self) -> bool:
        """True when axis-aligned boxes stay exact (no rotation other than by 90 degrees, no shear)."""
        a = np.abs(self.matrix[:2, :2])
        return bool(max(a[0, 1], a[1, 0]) < 1e-12 or max(a[0, 0], a[1, 1]) < 1e-12)

    # -- action -------------------------------------------------------------------------------------------------

    def points(self, xy: NDArray[np.floating]) -> NDArray[np.floating]:
        """Points [...,2] of `src` on `dst`."""
        out = np.asarray(xy, np.float64) @ self.matrix[:2, :2].T + self.matrix[:2, 2]
        return out.astype(xy.dtype)

    def objects(
        self,
        o: Objects,
        flip_index: NDArray[np.int64] | None = None,
        min_visible: float = 0.0,
        clip: bool = False,
    ) -> Objects:
        """Every field of `o` on `dst`.

        A box that is the hull of its labelled points (`Objects.hulled`) stays their hull; any other one becomes the
        hull of its turned corners.

        Args:
            flip_index: [K], the keypoint order of the mirrored object (Schema.flip_index); required when the warp
                mirrors objects with more than one point.
            min_visible: with `clip`, objects of which a smaller share of the box area stays on the canvas leave.
            clip: boxes are cut at the canvas (oriented boxes and points never are) and empty ones leave.

        Raises:
            ValueError: `o` is not on `src`; a mirror without flip_index, or with that of another K.
        """
        if o.size != self.src:
            raise ValueError(f"the objects lie on a canvas {o.size}, the warp starts on {self.src}")
        points, visible, point_scores = self._named(o, flip_index)
        obbs = None if o.obbs is None else self._obbs(o.obbs)
        heading = None if o.heading is None else self._angles(o.heading)
        box_points = obb_corners(obbs) if obbs is not None else self.points(box_corners(o.boxes))
        boxes = hull(box_points) if len(o) else o.boxes
        if points is not None and visible is not None and not self.axis_aligned:
            tight = o.hulled  # the hull of a turned hull would be loose
            boxes = np.where(tight[:, None], points_hull(points, visible), boxes)
        area = None if o.area is None else o.area * np.float32(self.scale**2)
        spread = None if o.spread is None else o.spread * np.float32(self.scale)
        out = o._with(
            self.dst,
            boxes=boxes,
            obbs=obbs,
            heading=heading,
            points=points,
            visible=visible,
            point_scores=point_scores,
            area=area,
            spread=spread,
        )
        if not clip or not len(out):
            return out
        cut = clip_boxes(out.boxes, self.dst)
        whole, kept = box_area(out.boxes), box_area(cut)
        stays = (kept > 0) & (kept >= min_visible * whole)
        share = np.divide(kept, whole, out=np.zeros_like(kept), where=whole > 0)
        area = None if out.area is None else out.area * share
        return out.replace(boxes=cut, area=area)[stays]

    def _named(
        self, o: Objects, flip_index: NDArray[np.int64] | None
    ) -> tuple[NDArray[Any] | None, NDArray[np.uint8] | None, NDArray[np.float32] | None]:
        """Points, visible and point_scores of `o` on `dst`, in the order of the mirrored object where this mirrors."""
        if o.points is None or o.visible is None:
            return None, None, None
        points, visible, scores = self.points(o.points), o.visible, o.point_scores
        if not self.mirrored or points.shape[1] <= 1:
            return points, visible, scores
        if flip_index is None:
            raise ValueError("a mirrored warp of keypoints needs flip_index (Schema.flip_index)")
        if len(flip_index) != points.shape[1]:
            raise ValueError(f"flip_index has {len(flip_index)} entries for {points.shape[1]} points")
        scores = None if scores is None else scores[:, flip_index]
        return points[:, flip_index], visible[:, flip_index], scores

    def _obbs(self, obbs: NDArray[np.float32]) -> NDArray[np.float32]:
        if not len(obbs):
            return obbs
        a = self.matrix[:2, :2]
        s = self.scale
        if np.allclose(a.T @ a, s * s * np.eye(2), atol=1e-9 * s * s):  # similarity: exact, no fit needed
            out = obbs.astype(np.float64)
            direction = np.stack([np.cos(out[:, 4]), np.sin(out[:, 4])], axis=1) @ a.T
            out[:, :2] = self.points(out[:, :2])
            out[:, 2:4] *= s
            out[:, 4] = np.arctan2(direction[:, 1], direction[:, 0])
            return canonical_obb(out.astype(np.float32))
        return corners_to_obb(self.points(obb_corners(obbs.astype(np.float64)))).astype(np.float32)

    def _angles(self, theta: NDArray[np.float32]) -> NDArray[np.float32]:
        """Directions [N] of `src`, radians, as they are on `dst`."""
        angle = theta.astype(np.float64)  # in float32 even a shift would change the last bit
        direction = np.stack([np.cos(angle), np.sin(angle)], axis=1) @ self.matrix[:2, :2].T
        return np.arctan2(direction[:, 1], direction[:, 0]).astype(np.float32)

    def pixels(self, image: NDArray[np.uint8], fill: int = 114) -> NDArray[np.uint8]:
        """The picture u8 [H,W,3] (or [H,W]) on `dst`, bilinear; outside is `fill`.

        Strong reductions average whole blocks of pixels first, so that small things do not vanish between samples.
        """
        out = np.full((*self.dst, *image.shape[2:]), fill, np.uint8)
        self.paint(image, out)
        return out

    def paint(self, image: NDArray[np.uint8], canvas: NDArray[np.uint8]) -> None:
        """Draw the picture onto `canvas` (size `dst`, rows contiguous) in place, leaving what it does not cover.

        A canvas pixel is covered when its centre lies in the picture, half-open like the picture's own pixels, so two
        pictures that meet at a line neither overlap nor leave a gap. Near its border the picture continues.
        """
        import cv2  # pixels are the only part of core that needs more than NumPy

        if image.shape[:2] != self.src or canvas.shape[:2] != self.dst:
            given = f"picture {image.shape[:2]} and canvas {canvas.shape[:2]}"
            raise ValueError(f"{given} do not fit {self.src}, {self.dst}")
        corners = self.points(np.array([[0.0, 0], [self.src[1], 0], [self.src[1], self.src[0]], [0, self.src[0]]]))
        x1, y1 = np.clip(np.ceil(np.round(corners.min(0), 6) - 0.5).astype(int), 0, (self.dst[1], self.dst[0]))
        x2, y2 = np.clip(np.ceil(np.round(corners.max(0), 6) - 0.5).astype(int), 0, (self.dst[1], self.dst[0]))
        if x2 <= x1 or y2 <= y1:
            return
        roi = canvas[y1:y2, x1:x2]
        k = int(1 / max(self.scale, 1e-3))
        if self._resize(image, roi, (x1, y1, x2, y2), cv2.INTER_AREA if k >= 2 else cv2.INTER_LINEAR):
            return
        m = self.matrix
        if k >= 2:
            h, w = max(1, round(self.src[0] / k)), max(1, round(self.src[1] / k))
            image = np.asarray(cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA), np.uint8)
            m = m @ scaling(self.src[1] / w, self.src[0] / h)
        # OpenCV puts pixel centres on whole numbers, we put them at +0.5.
        centred = (translation(-0.5 - x1, -0.5 - y1) @ m @ translation(0.5, 0.5))[:2]
        size = (int(x2 - x1), int(y2 - y1))
        linear, nearest = cv2.INTER_LINEAR, cv2.INTER_NEAREST
        if self.axis_aligned:  # the window is the picture
            cv2.warpAffine(image, centred, size, dst=roi, flags=linear, borderMode=cv2.BORDER_REPLICATE)
            return
        drawn = cv2.warpAffine(image, centred, size, flags=linear, borderMode=cv2.BORDER_REPLICATE)
        whole = np.full(image.shape[:2], 255, np.uint8)
        inside = cv2.warpAffine(whole, centred, size, flags=nearest, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        cv2.copyTo(drawn, inside, roi)

    def _resize(
        self, image: NDArray[np.uint8], roi: NDArray[np.uint8], window: tuple[int, int, int, int], how: int
    ) -> bool:
        """Fill `roi`, the canvas `window` x1 y1 x2 y2, from whole source pixels when the warp allows: 3 times quicker.

        It does when it only scales and mirrors, and the window's edges lie on edges of source pixels.
        """
        import cv2

        m = self.matrix
        if m[0, 1] != 0 or m[1, 0] != 0:
            return False
        edges = [(window[0] - m[0, 2]) / m[0, 0], (window[1] - m[1, 2]) / m[1, 1]]
        edges += [(window[2] - m[0, 2]) / m[0, 0], (window[3] - m[1, 2]) / m[1, 1]]
        x1, y1, x2, y2 = whole = [round(e) for e in edges]
        if max(abs(e - r) for e, r in zip(edges, whole, strict=True)) > 1e-3 or x1 == x2 or y1 == y2:
            return False
        if min(x1, x2, y1, y2) < 0 or max(x1, x2) > self.src[1] or max(y1, y2) > self.src[0]:
            return False
        part = image[min(y1, y2) : max(y1, y2), min(x1, x2) : max(x1, x2)]
        mirrored = {(True, False): 1, (False, True): 0, (True, True): -1}.get((x2 < x1, y2 < y1))
        if part.shape != roi.shape and mirrored is None:
            cv2.resize(part, roi.shape[1::-1], dst=roi, interpolation=how)
        elif mirrored is None:
            roi[...] = part
        else:
            part = part if part.shape == roi.shape else cv2.resize(part, roi.shape[1::-1], interpolation=how)
            cv2.flip(part, mirrored, dst=roi)
        return True


def translation(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def scaling(x: float, y: float | None = None) -> NDArray[np.float64]:
    return np.array([[x, 0, 0], [0, x if y is None else y, 0], [0, 0, 1]], dtype=np.float64)


def rotation(angle: float) -> NDArray[np.float64]:
    """Rotation by `angle` radians, clockwise on screen, about the origin."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def shearing(x: float, y: float) -> NDArray[np.float64]:
    """Shear by angles `x` and `y` in radians."""
    return np.array([[1, np.tan(x), 0], [np.tan(y), 1, 0], [0, 0, 1]])
