"""Recipes: functions that return a `Recipe`. A new one is a module here and a line in RECIPES."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from tercel.config import Recipe, override
from tercel.core.finding import TercelError
from tercel.recipes.ball import ball_demo, pingpong, pingpong_events, shuttle, shuttle_heatmap
from tercel.recipes.boxes import boxes, boxes_demo, boxes_resnet
from tercel.recipes.crowd import crowd, crowd_demo, crowd_fcos, crowd_retinanet, crowd_yolov3
from tercel.recipes.keypoints import keypoints, keypoints_demo, keypoints_heatmap, turtle
from tercel.recipes.oriented import aerial, aerial_effdet, oriented, oriented_demo

RECIPES: dict[str, Callable[[], Recipe]] = {
    f.__name__: f
    for f in (
        boxes,
        boxes_demo,
        boxes_resnet,
        oriented,
        oriented_demo,
        aerial,
        aerial_effdet,
        keypoints,
        keypoints_demo,
        keypoints_heatmap,
        turtle,
        crowd,
        crowd_demo,
        crowd_retinanet,
        crowd_fcos,
        crowd_yolov3,
        ball_demo,
        shuttle,
        shuttle_heatmap,
        pingpong,
        pingpong_events,
    )
}


def get(name: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of this name with `--set` settings applied.

    Raises:
        TercelError: an unknown name (the nearest one is named), or a setting that is refused.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.0)
        raise TercelError(f"there is no recipe {name!r}", f"did you mean {near[0]!r}? `tercel recipes` lists them")
    return override(RECIPES[name](), settings)
