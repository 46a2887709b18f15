"""Whole pictures: what the tiles show, agreement with the plain way, zoom, views, caps, memory."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tercel.config import Recipe
from tercel.core.finding import Ledger, TercelError
from tercel.core.geometry import box_iou, canonical_obb, obb_corners, obb_hull
from tercel.core.objects import Objects
from tercel.core.rotated import obb_iou
from tercel.data import source
from tercel.data.loader import load_plain
from tercel.engine import device
from tercel.engine.evaluate import detect, plain_loader
from tercel.engine.tiles import (
    Tiles,
    Views,
    choose_zoom,
    combine,
    detect_tiled,
    predict_tiled,
    tile_pixels,
    tile_warps,
    view_warp,
)
from tercel.models.detector import Detector

Pixels = NDArray[np.uint8]
NET = (256, 320)


# -- what a tile shows ----------------------------------------------------------------------------------------------


@given(
    st.tuples(st.integers(20, 500), st.integers(20, 500)),
    st.sampled_from([1.0, 0.5, 0.7, 0.31, 1.6]),
    st.sampled_from([0.0, 90.0, -90.0, 180.0, 30.0]),
    st.booleans(),
)
def test_tiles_show_the_view(size: tuple[int, int], zoom: float, degrees: float, flip: bool) -> None:
    """Drawn from the picture or cut from the whole view: the same pixels."""
    ramp = np.indices(size).sum(axis=0)[..., None] * (1, 2, 3) // 4 % 200
    picture = cv2.GaussianBlur(ramp.astype(np.uint8), (0, 0), 3)
    view, net = view_warp(size, zoom, degrees, flip), (64, 96)
    whole = view.pixels(picture).astype(int)
    covered = np.zeros(view.dst, bool)
    for window, warp in tile_warps(view, net, 0.2):
        tile = tile_pixels(picture, warp).astype(int)
        x1, y1, x2, y2 = window.box
        if window.size == net:
            gap = np.abs(tile - whole[y1:y2, x1:x2])
            assert np.quantile(gap, 0.97) <= 2
        covered[y1:y2, x1:x2] = True
    assert covered.all() or degrees == 30


def test_what_fits_one_tile_looks_as_without_tiles() -> None:
    rng = np.random.default_rng(0)
    for size in ((100, 400), (256, 320), (77, 31), (1000, 999)):
        picture = rng.integers(0, 256, (*size, 3), np.uint8)
        images, warp = load_plain(picture, NET)
        zoom = choose_zoom(no_detector, picture, Tiles(size=1250), net=NET)
        ((_, there),) = tile_warps(view_warp(size, zoom), NET, 0.25)
        assert np.array_equal(there.matrix, warp.matrix)
        assert np.array_equal(tile_pixels(picture, there), images[0].transpose(1, 2, 0))


def no_detector(pictures: list[Pixels]) -> list[Objects]:
    raise AssertionError("nothing is to be detected")


def test_views_are_where_they_should_be() -> None:
    """A picture of 10 x 20: the pixel at its top left corner, by hand."""
    corner = np.array([[0.0, 0.0]])
    assert view_warp((10, 20), 1).points(corner).tolist() == [[0, 0]]
    assert view_warp((10, 20), 1, flip=True).points(corner).tolist() == [[20, 0]]
    assert view_warp((10, 20), 2, upside_down=True).points(corner).tolist() == [[0, 20]]
    turned = view_warp((10, 20), 1, 90)  # clockwise: the top left comes to the top right
    assert turned.dst == (20, 10)
    assert turned.points(corner).tolist() == [[10, 0]]
    assert turned.axis_aligned
    assert not view_warp((10, 20), 1, 30).axis_aligned


def test_tiles_that_show_nothing_of_a_turned_picture_are_left_out() -> None:
    view = view_warp((200, 2000), 1, 45)
    places = tile_warps(view, (128, 128), 0.2)
    assert len(places) < (view.dst[0] / 100) * (view.dst[1] / 100) / 3
    seen = np.zeros((200, 2000), np.uint8)
    for _, warp in places:
        seen |= warp.inverse().pixels(np.full((128, 128), 1, np.uint8), fill=0)
    assert seen.all()


# -- one picture ----------------------------------------------------------------------------------------------------


def painted(truth: Objects) -> Pixels:
    """Bright rectangles on black; the class is the colour."""
    picture = np.zeros((*truth.size, 3), np.uint8)
    corners = obb_corners(truth.obbs) if truth.obbs is not None else None
    for i, label in enumerate(truth.labels.tolist()):
        colour = (255, 255, 0) if label else (255, 0, 255)
        if corners is not None:
            shape = np.round((corners[i] - 0.5) * 256).astype(np.int32)
            cv2.fillConvexPoly(picture, shape, colour, cv2.LINE_AA, shift=8)
        else:
            x1, y1, x2, y2 = truth.boxes[i].astype(int)
            picture[y1:y2, x1:x2] = colour
    return picture


class Blobs:
    """A detector of bright spots: boxes, or oriented boxes. Whole ones and pieces alike."""

    def __init__(self, oriented: bool = False, size: tuple[int, int] = NET) -> None:
        self.oriented, self.size, self.most, self.calls = oriented, size, 0, 0

    def __call__(self, pictures: list[Pixels]) -> list[Objects]:
        self.most, self.calls = max(self.most, len(pictures)), self.calls + len(pictures)
        return [self.one(p) for p in pictures]

    def one(self, picture: Pixels) -> Objects:
        assert picture.shape == (*self.size, 3)
        labels, boxes, obbs = [], [], []
        for label, channel in ((0, 2), (1, 1)):
            on = ((picture[..., 0] > 128) & (picture[..., channel] > 128)).astype(np.uint8)
            count, spots, stats, centres = cv2.connectedComponentsWithStats(on, connectivity=4)
            for i in range(1, count):
                x1, y1, w, h, area = stats[i].tolist()
                if area < 12:
                    continue
                labels.append(label)
                boxes.append([x1, y1, x1 + w, y1 + h])
                shape = np.argwhere(spots[y1 : y1 + h, x1 : x1 + w] == i)[:, ::-1]
                value, axes = np.linalg.eigh(np.cov(shape.T) + 1e-6 * np.eye(2))
                sides = np.sqrt(12 * value[::-1])  # of a rectangle with these second moments
                obbs.append([*(centres[i] + 0.5), *sides, math.atan2(axes[1, 1], axes[0, 1])])
        n = len(labels)
        scores = np.linspace(0.9, 0.5, n)
        if not self.oriented:
            return Objects(self.size, labels, np.array(boxes, np.float32).reshape(n, 4), scores=scores)
        rows = canonical_obb(np.array(obbs, np.float32).reshape(n, 5))
        return Objects(self.size, labels, obb_hull(rows), obbs=rows, scores=scores)


def scattered(size: tuple[int, int], cell: int, oriented: bool = False, seed: int = 0) -> Objects:
    """One thing per cell of the picture, up to .7 of the cell long."""
    rng = np.random.default_rng(seed)
    y, x = (a.ravel() * cell + cell / 2 for a in np.indices((size[0] // cell, size[1] // cell)))
    n = len(x)
    length = rng.uniform(0.4, 0.65, n) * cell
    width, labels = length * rng.uniform(0.4, 0.6, n), rng.integers(0, 2, n)
    if oriented:
        obbs = np.stack([x, y, length, width, rng.uniform(-math.pi / 2, math.pi / 2, n)], axis=1)
        return Objects(size, labels, obb_hull(obbs), obbs=obbs)
    half = np.round(np.stack([length, width], axis=1) / 2)
    centre = np.round(np.stack([x, y], axis=1))
    return Objects(size, labels, np.concatenate([centre - half, centre + half], axis=1))


def agrees(found: Objects, truth: Objects, least: float) -> None:
    """Each truth is found once, with its class, and nothing else is."""
    assert len(found) == len(truth)
    if truth.obbs is None or found.obbs is None:
        iou = box_iou(found.boxes.astype(float), truth.boxes.astype(float))
    else:
        iou = obb_iou(found.obbs, truth.obbs)
    assert iou.max(axis=0).min() > least
    assert iou.max(axis=1).min() > least
    assert (found.labels[iou.argmax(axis=0)] == truth.labels).all()


@pytest.mark.parametrize("oriented", [False, True])
@pytest.mark.parametrize("how", ["nms", "fusion"])
def test_everything_is_found_once(oriented: bool, how: Any) -> None:
    truth = scattered((900, 1300), 50, oriented)
    blobs = Blobs(oriented)
    found, findings = predict_tiled(blobs, painted(truth), Tiles(size=320, overlap=0.2, merge=how), net=NET, batch=4)
    agrees(found, truth, 0.75 if oriented else 0.999)
    assert found.size == truth.size
    assert found.scores is not None
    assert (np.diff(found.scores) <= 0).all()
    assert blobs.most == 4
    assert blobs.calls == 5 * 5
    assert not findings


@pytest.mark.parametrize("how", ["nms", "fusion"])
@pytest.mark.parametrize("oriented", [False, True])
def test_views_agree_with_one_another(oriented: bool, how: Any) -> None:
    truth = scattered((500, 700), 60, oriented)
    turns = (0.0, 30.0) if oriented else (0.0, 90.0)
    views = Views(flip=True, flip_vertical=True, rotations=turns, scales=(1.0, 1.5), merge=how)
    assert len(views.combinations) == 16
    found, _ = predict_tiled(Blobs(oriented), painted(truth), Tiles(size=320), views, net=NET)
    agrees(found, truth, 0.75 if oriented else 0.9)


def test_each_zoom_is_seen() -> None:
    """A picture as large as the network's input, and twice as large: one tile, and three by three."""
    blobs = Blobs()
    predict_tiled(blobs, painted(scattered(NET, 60)), Tiles(), Views(scales=(1.0, 2.0)), net=NET)
    assert blobs.calls == 1 + 9


def test_boxes_become_oriented_ones_over_tiles() -> None:
    truth = scattered((500, 700), 60, oriented=True)
    found, findings = predict_tiled(Blobs(), painted(truth), Tiles(size=320), Views(orient=15), net=NET)
    agrees(found, truth, 0.8)
    assert not findings


def test_free_turns_of_boxes_are_refused() -> None:
    picture = painted(scattered((200, 300), 60))
    with pytest.raises(TercelError, match="30 degrees") as e:
        predict_tiled(Blobs(), picture, Tiles(), Views(rotations=(0.0, 30.0)), net=NET)
    assert "views.orient" in e.value.remedy
    with pytest.raises(TercelError, match="oriented boxes already"):
        predict_tiled(Blobs(True), picture, Tiles(), Views(orient=30), net=NET)


def test_the_cap_is_over_the_whole_picture_and_is_said() -> None:
    truth = scattered((900, 1300), 50)
    found, findings = predict_tiled(Blobs(), painted(truth), Tiles(size=320, max_detections=100), net=NET)
    assert len(found) == 100
    assert [f.check for f in findings] == ["tiles.cap"]
    assert "evaluate.tiles.max_detections" in findings[0].message


def test_what_is_longer_than_the_overlap_is_said() -> None:
    truth = scattered((400, 1400), 200)
    found, findings = predict_tiled(Blobs(), painted(truth), Tiles(size=320, overlap=0.1), net=NET)
    agrees(found, truth, 0.999)
    assert [f.check for f in findings] == ["tiles.joined"]


# -- the common vehicle ---------------------------------------------------------------------------------------------


def wide(width: float, size: tuple[int, int] = (1200, 1600)) -> Objects:
    y, x = (a.ravel() * 200.0 + 100 for a in np.indices((size[0] // 200, size[1] // 200)))
    half = np.array([1.2, 0.5]) * width
    centre = np.stack([x, y], axis=1)
    return Objects(size, np.zeros(len(x), int), np.concatenate([centre - half, centre + half], axis=1))


@pytest.mark.parametrize("width", [8, 20, 50])
def test_the_common_vehicle_becomes_as_wide_as_in_training(width: int) -> None:
    picture, ledger = painted(wide(width)), Ledger()
    zoom = choose_zoom(Blobs(), picture, Tiles(width=16), net=NET, ledger=ledger)
    assert zoom == pytest.approx(16 / width, rel=0.1)
    (finding,) = ledger.findings()
    assert (finding.check, str(finding.severity)) == ("tiles.zoom", "info")
    assert choose_zoom(no_detector, picture, Tiles(width=16, common=width), net=NET) == 16 / width


def test_without_sure_objects_nothing_is_rescaled_and_that_is_said() -> None:
    picture, ledger = np.zeros((600, 800, 3), np.uint8), Ledger()
    assert choose_zoom(Blobs(), picture, Tiles(width=16), net=NET, ledger=ledger) == 0.4
    assert [str(f.severity) for f in ledger.findings()] == ["warning"]


def test_the_size_of_tiles() -> None:
    picture = np.zeros((600, 800, 3), np.uint8)
    zooms = [choose_zoom(no_detector, picture, Tiles(size=s), net=NET) for s in (0, 160, 320, 640, 2000)]
    assert zooms == [0.4, 2.0, 1.0, 0.5, 0.4]
    assert not Tiles().on
    assert not Views().on
    assert Views(rotations=(90.0,)).on


# -- the network ----------------------------------------------------------------------------------------------------


@pytest.fixture
def network(recipe: Recipe, shapes: Path) -> tuple[Recipe, Any, Detector, Any]:
    dataset = source.read(f"{shapes}#val")
    torch.manual_seed(0)
    model = Detector(recipe.model, dataset.schema).eval()
    recipe = replace(recipe, evaluate=replace(recipe.evaluate, score_floor=0.0, suppress_iou=0.5, max_detections=3))
    return recipe, dataset, model, device.choose(recipe.train)


def test_whole_and_tiled_agree_on_small_pictures(network: tuple[Any, ...]) -> None:
    recipe, dataset, model, runtime = network
    plain, said = detect(model, plain_loader(dataset, recipe.data, recipe.evaluate), recipe.evaluate, runtime)
    model.train()
    settings = replace(recipe.evaluate, tiles=Tiles(size=144))
    tiled, also = detect_tiled(model, plain_loader(dataset, recipe.data, settings), settings, runtime)
    assert model.training  # as it was
    assert list(plain) == list(tiled)
    assert sum(map(len, plain.values())) > 0
    for id, a in plain.items():
        np.testing.assert_allclose(a.boxes, tiled[id].boxes, atol=1e-3)  # a batch of one may round otherwise
        np.testing.assert_allclose(a.scores, tiled[id].scores, atol=1e-6)
        assert (a.labels == tiled[id].labels).all()
    assert [f.check for f in said] == ["predict.cap"]
    assert [(f.check, f.count) for f in also] == [(f.check, f.count) for f in said]


def test_a_4k_frame_needs_little_memory() -> None:
    """The picture itself is 25 MB; the tiles of one batch are 7 MB."""
    truth = scattered((2160, 3840), 80)
    picture, blobs = painted(truth), Blobs(size=(768, 768))
    tracemalloc.start()
    try:
        found, _ = predict_tiled(blobs, picture, Tiles(size=768), Views(flip=True), net=(768, 768), batch=4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    agrees(found, truth, 0.99)
    assert peak < 100e6


def test_combining_nothing() -> None:
    nothing = Objects((10, 10), [], [], scores=[])
    for how in ("nms", "fusion"):
        assert len(combine([nothing, nothing], Views(merge=how))) == 0
    assert combine([nothing], Views()) is nothing
    with pytest.raises(ValueError, match="scores"):
        combine([Objects((10, 10), [], [])] * 2, Views(merge="nms"))
