"""Whole pictures of any size: rescaled, in tiles, seen from several sides, and one answer from all of it.

A picture is never copied as a whole: each tile is drawn straight from it, whatever the zoom, turn and mirror of the
view. So a frame of 4K needs little more memory than the tiles of one batch.

picture --View.warp--> the view's canvas --tile_grid--> tiles of the network's input size --detect--> merge within the
view --> back on the picture --> one answer of all views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from tercel.config import Evaluate, Tiles, Views
from tercel.core.finding import Finding, Ledger, Severity, TercelError
from tercel.core.fusion import fuse
from tercel.core.objects import Objects
from tercel.core.suppress import greedy
from tercel.core.warp import Warp, rotation, scaling, translation
from tercel.data.loader import Loader, read_checked
from tercel.data.tiles import Window, capped, common_width, merge, scale_for, tile_grid
from tercel.engine.device import Runtime
from tercel.engine.evaluate import Progress, unwarp
from tercel.engine.oriented_from_boxes import angles, from_boxes
from tercel.models.detector import Detector
from tercel.models.suppress import suppression_findings

Pixels = NDArray[np.uint8]
Detect = Callable[[list[Pixels]], list[Objects]]  # pictures u8 [H,W,3] of the network's size, detections on each


# -- one view -----------------------------------------------------------------------------------------------------


def view_warp(
    size: tuple[int, int], zoom: float, degrees: float = 0.0, flip: bool = False, upside_down: bool = False
) -> Warp:
    """From a picture of `size` (H, W) to the smallest canvas that holds all of it zoomed, mirrored, then turned."""
    mirror = np.diag([-1.0 if flip else 1.0, -1.0 if upside_down else 1.0, 1.0])
    linear = np.round(rotation(math.radians(degrees)), 15) @ mirror @ scaling(zoom)
    extent = np.abs(linear[:2, :2]) @ (size[1], size[0])
    width, height = (max(1, math.ceil(round(e, 6))) for e in extent.tolist())
    return Warp(linear, size, (height, width)).recentred()


def tile_warps(view: Warp, net: tuple[int, int], overlap: float) -> list[tuple[Window, Warp]]:
    """The tiles of a view's canvas, each with the warp from the picture to the network's canvas of size `net`.

    Where the view is smaller than the network's canvas it lies in its middle, as the letterbox has it, so a picture
    that fits looks to the network exactly as it does without tiles. Tiles of a turned view that show nothing of the
    picture are left out.
    """
    out = []
    centred = Warp(view.matrix, view.src, net).recentred().matrix
    corners = np.array([[0, 0], [net[1], 0], [net[1], net[0]], [0, net[0]]], np.float64)
    for window in tile_grid(view.dst, net, int(overlap * min(net))):
        matrix = view.matrix.copy()
        for axis, start in ((0, window.x), (1, window.y)):
            fits = window.size[1 - axis] == view.dst[1 - axis]
            matrix[axis, 2] = centred[axis, 2] if fits else matrix[axis, 2] - start
        warp = Warp(matrix, view.src, net)
        there = warp.inverse().points(corners)
        if (there.max(0) > 0).all() and (there.min(0) < (view.src[1], view.src[0])).all():
            out.append((window, warp))
    return out


def tile_pixels(picture: Pixels, warp: Warp, fill: int = 114) -> Pixels:
    """The picture u8 [H,W,3] on the network's canvas; only the part that the tile shows is touched."""
    (h, w), (net_h, net_w) = warp.src, warp.dst
    seen = warp.inverse().points(np.array([[0, 0], [net_w, 0], [net_w, net_h], [0, net_h]], np.float64))
    margin = 2 + 2 / warp.scale
    x1, y1 = np.clip(np.floor(seen.min(0) - margin), 0, (w, h)).astype(int).tolist()
    x2, y2 = np.clip(np.ceil(seen.max(0) + margin), 0, (w, h)).astype(int).tolist()
    part = picture[y1:y2, x1:x2]
    return Warp(warp.matrix @ translation(x1, y1), (y2 - y1, x2 - x1), warp.dst).pixels(part, fill)


def see(
    detect: Detect,
    picture: Pixels,
    view: Warp,
    net: tuple[int, int],
    tiles: Tiles,
    batch: int = 8,
    fill: int = 114,
    ledger: Ledger | None = None,
) -> Objects:
    """Detections on the view's canvas, those of its tiles merged."""
    places = tile_warps(view, net, tiles.overlap)
    parts: list[tuple[Window, Objects]] = []
    for start in range(0, len(places), batch):
        chunk = places[start : start + batch]
        found = detect([tile_pixels(picture, warp, fill) for _, warp in chunk])
        for (window, warp), o in zip(chunk, found, strict=True):
            to_net = Warp((warp @ view.inverse()).matrix @ translation(window.x, window.y), window.size, net)
            parts.append((window, unwarp(o, to_net)))
    return merge(parts, view.dst, tiles.iou, tiles.merge, ledger=ledger)


# -- one picture --------------------------------------------------------------------------------------------------


def predict_tiled(
    detect: Detect,
    picture: Pixels,
    tiles: Tiles,
    views: Views | None = None,
    *,
    net: tuple[int, int],
    batch: int = 8,
    fill: int = 114,
) -> tuple[Objects, tuple[Finding, ...]]:
    """Detections on a picture u8 [H,W,3] of any size, and what there is to say about them.

    Args:
        detect: from pictures u8 [h,w,3] of the size `net` to detections on them; given at most `batch` at once.
        net: (H, W) of the network's input.

    Raises:
        TercelError: turned views of axis-aligned boxes, which would grow by the turn.
    """
    views, ledger = views or Views(), Ledger()
    h, w = picture.shape[:2]
    zoom = choose_zoom(detect, picture, tiles, net=net, batch=batch, fill=fill, ledger=ledger)

    def look(warp: Warp) -> Objects:
        return see(detect, picture, warp, net, tiles, batch, fill, ledger)

    if views.orient:
        turned = [view_warp((h, w), zoom, a) for a in angles(views.orient)]
        seen = [(warp, look(warp)) for warp in turned]
        if any(o.obbs is not None for _, o in seen):
            raise TercelError("the model gives oriented boxes already", "leave evaluate.views.orient at 0")
        found = from_boxes(seen, share=views.orient_seen, ledger=ledger).objects
    else:
        parts = []
        for scale, degrees, flip, upside_down in views.combinations:
            warp = view_warp((h, w), zoom * scale, degrees, flip, upside_down)
            places = tile_warps(warp, net, tiles.overlap)
            if len(places) == 1:  # straight back, as without tiles: equal to the last bit
                part = unwarp(detect([tile_pixels(picture, places[0][1], fill)])[0], places[0][1])
            else:
                part = unwarp(look(warp), warp)
            if not warp.axis_aligned and part.obbs is None:
                message = f"a view turned by {degrees:g} degrees makes axis-aligned boxes too large"
                hint = "use evaluate.views.rotations of 0, 90, 180 or -90, or evaluate.views.orient=5"
                raise TercelError(message, hint)
            parts.append(part)
        found = combine(parts, views)
    return capped(found, tiles.max_detections, ledger), ledger.findings()


def combine(parts: Sequence[Objects], views: Views) -> Objects:
    """One set of detections from those of several views of one picture, by descending score."""
    if len(parts) == 1:
        return parts[0]
    if views.merge == "fusion":
        return fuse([p.replace(area=None) for p in parts], None, views.iou)
    every = Objects.concat([p for p in parts if len(p)] or [parts[0]])
    if every.scores is None:
        raise ValueError("detections have scores")
    return every[greedy(every.boxes if every.obbs is None else every.obbs, every.scores, views.iou, every.labels)]


def choose_zoom(
    detect: Detect,
    picture: Pixels,
    tiles: Tiles,
    *,
    net: tuple[int, int],
    batch: int = 8,
    fill: int = 114,
    ledger: Ledger | None = None,
) -> float:
    """px of the network's canvas per px of the picture.

    With `tiles.width`: so that the common object is that wide; without `tiles.common` its width is measured on what is
    found, first in the whole picture, then closer, until the zoom stays within a tenth. With `tiles.size` alone: so
    that a tile is that long, but no less than shows the whole picture.
    """
    h, w = picture.shape[:2]
    whole = min(net[0] / h, net[1] / w)
    start: float = max(whole, max(net) / tiles.size) if tiles.size else whole
    if not tiles.width:
        return start
    if tiles.common:
        return _bounded(scale_for(tiles.common, tiles.width))
    zoom, common = float(start), math.nan
    for _ in range(5):
        view = view_warp((h, w), zoom)
        found = see(detect, picture, view, net, tiles, batch, fill)
        sure = found if found.scores is None else found[found.scores >= tiles.sure]
        if len(sure) < MEASURED:
            if zoom >= 1:
                break
            zoom = min(1.0, 2 * zoom)
            continue
        common = common_width(sure) / view.scale
        wanted = _bounded(scale_for(common, tiles.width))
        settled = abs(math.log(wanted / zoom)) < 0.1
        zoom = wanted
        if settled:
            break
    if math.isnan(common):
        zoom = start
    _say_zoom(ledger, common)
    return zoom


MEASURED = 5  # detections from which a common width is believed


def _bounded(zoom: float) -> float:
    return min(max(zoom, 1 / 64), 16.0)


def _say_zoom(ledger: Ledger | None, common: float) -> None:
    if ledger is None:
        return
    if math.isnan(common):
        message = (
            f"pictures show fewer than {MEASURED} sure objects to measure, and were not rescaled to "
            "evaluate.tiles.width: give their width with evaluate.tiles.common"
        )
        ledger.add("tiles.zoom", Severity.WARNING, message)
    else:
        message = "pictures were rescaled by the measured width of their common object"
        ledger.add("tiles.zoom", Severity.INFO, message, f"{common:.1f} px")


# -- the network --------------------------------------------------------------------------------------------------


class Network:
    """A detector as a function from pictures to detections; full tiles are counted in `ledger`."""

    def __init__(self, model: Detector, settings: Evaluate, runtime: Runtime, ledger: Ledger) -> None:
        self.model, self.settings, self.runtime, self.ledger = model.eval(), settings, runtime, ledger

    @torch.no_grad()
    def __call__(self, pictures: list[Pixels]) -> list[Objects]:
        images = torch.from_numpy(np.stack(pictures)[:, None].transpose(0, 1, 4, 2, 3))  # u8 [B,1,3,H,W]
        with self.runtime.autocast():
            raw = self.model(images.to(self.runtime.device))
        decoded, full = self.model.head.decode(raw, self.settings)
        if any(full):
            message = (
                f"tiles reach the cap of {self.settings.max_detections} detections or "
                f"{self.settings.max_candidates} candidates: raise evaluate.max_detections or evaluate.max_candidates"
            )
            self.ledger.add("predict.cap", Severity.WARNING, message, count=sum(map(bool, full)))
        return list(decoded)


def detect_tiled(
    model: Detector,
    loader: Loader,
    settings: Evaluate,
    runtime: Runtime,
    progress: Progress | None = None,
) -> tuple[dict[str, Objects], tuple[Finding, ...]]:
    """Detections by record id on the original canvas, as `tercel.engine.evaluate.detect` gives them without tiles.

    Of the loader its records, its pictures and its canvas are used, one picture at a time.
    """
    ledger, found, net = Ledger(), {}, loader.data.size
    ledger.extend(suppression_findings(settings, model.head))
    was_training = model.training
    network = Network(model, settings, runtime, ledger)
    for record in loader.dataset.records[loader.rank :: loader.world]:
        picture = read_checked(record, record.frames[0], loader.store.get)
        answer, findings = predict_tiled(
            network, picture, settings.tiles, settings.views, net=net, batch=settings.batch, fill=loader.data.fill
        )
        found[record.id] = answer
        ledger.extend(
            replace(f, evidence=tuple(f"{record.id}: {e}" for e in f.evidence) or (record.id,)) for f in findings
        )
        if progress:
            progress(len(found), len(loader.dataset))
    model.train(was_training)
    return found, ledger.findings()
