"""Bad keypoints, typed as a user would type it: one message that names file and row, with a remedy; no traceback.

Every case starts from one small good set of foxes in five formats, spoils one thing and runs one command. What is
refused leaves all files as they were; what is merely doubtful is said, counted, and carried on with.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tercel import api, recipes
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data.formats import FORMATS

SIZE = (48, 64)
SCHEMA = Schema(("animal",), ("nose", "left_ear", "right_ear"), (("left_ear", "right_ear"),), (("nose", "left_ear"),))
FORMS = ("coco", "yolo_pose", "deepposekit", "deeplabcut", "points_json")
TINY = [
    "data.size=32x64", "data.workers=1", "train.batch=2", "train.epochs=1", "train.precision=fp32", "model.norm=group",
    "model.backbone.stem=8", "model.backbone.widths=8,8,8,8", "model.backbone.depths=0,0,0,0", "model.neck.width=8",
    "model.head.width=8", "model.head.depth=1", "model.head.box.width=8", "model.head.box.depth=1",
    "evaluate.resamples=0", "augment.close_epochs=0", "train.sample_pictures=1", "augment.mosaic=0",
]  # fmt: skip
SET = [w for s in TINY for w in ("--set", s)]


def foxes(folder: Path, names: tuple[str, ...], seed: int) -> Dataset:
    """Two pictures with a fox each, whose box is the hull of its points."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    records = []
    for i in range(2):
        x, y = rng.uniform(12, 40, 2)
        points = np.array([[x, y - 8], [x - 8, y + 6], [x + 8, y + 5], [x + 4, y + 1]], np.float32)[: len(names)]
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), np.uint8)).save(folder / f"{i}.png")
        o = Objects(SIZE, [0], [[*points.min(0), *points.max(0)]], points=[points], visible=[[2] * len(names)])
        records.append(Record(str(i), (Frame(folder / f"{i}.png"),), SIZE, o))
    keep = set(names)
    pairs = tuple(p for p in SCHEMA.flip_pairs if set(p) <= keep)
    edges = tuple(e for e in SCHEMA.edges if set(e) <= keep)
    return Dataset(Schema(("animal",), names, pairs, edges), tuple(records))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set in all formats, one of four points in `four`, and a finished run r/."""
    here = tmp_path_factory.mktemp("good")
    for n, split in enumerate(("train", "val")):
        pictures = foxes(here / "pictures" / split, SCHEMA.keypoints, n)
        for form in FORMS:
            FORMATS[form].write(pictures, here / form, split=split)
        four = foxes(here / "pictures4" / split, (*SCHEMA.keypoints, "tail"), n)
        FORMATS["coco"].write(four, here / "four", split=split)
    for picture in [p for p in here.rglob("*.png") if p.stat().st_nlink > 1]:  # hard links would spoil the others
        content = picture.read_bytes()
        picture.unlink()
        picture.write_bytes(content)
    recipe = recipes.get("keypoints", TINY)
    api.train(recipe, f"coco:{here}/coco#train", f"coco:{here}/coco#val", out=here, name="r", command="tercel train")
    return here


@pytest.fixture
def place(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil; the current folder is in it, so that messages name short paths."""
    shutil.copytree(good, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


# -- spoiling -----------------------------------------------------------------------------------------------------

COCO = "coco/annotations/instances_train.json"
LINES = "yolo_pose/labels/train/0.txt"
YAML = "yolo_pose/data.yaml"
H5 = "deepposekit/train.h5"
TABLE = "deepposekit/skeleton.csv"
CSV = "deeplabcut/labeled-data/train/CollectedData_tercel.csv"
JSON = "points_json/train/annotations/0.json"


def sub(path: str, old: str, new: str) -> Callable[[], None]:
    """Exchange the first match of a regular expression."""

    def spoil() -> None:
        content = Path(path).read_text()
        changed = re.sub(old, new, content, count=1)
        assert changed != content, (path, old)
        Path(path).write_text(changed)

    return spoil


def edit(path: str, change: Callable[[Any], Any]) -> Callable[[], None]:
    """Change the content of a json file in place."""

    def spoil() -> None:
        data = json.loads(Path(path).read_text())
        change(data)
        Path(path).write_text(json.dumps(data))

    return spoil


def points(values: dict[int, Any], row: int = 0) -> Callable[[], None]:
    """Set numbers of the `keypoints` of a COCO annotation."""

    def change(data: Any) -> None:
        for i, v in values.items():
            data["annotations"][row]["keypoints"][i] = v
        del data["annotations"][row]["num_keypoints"]

    return edit(COCO, change)


def all_absent(path: str = COCO) -> Callable[[], None]:
    def change(data: Any) -> None:
        for a in data["annotations"]:
            a["keypoints"], a["num_keypoints"] = [0] * 9, 0

    return edit(path, change)


def store(change: Callable[[Any], Any]) -> Callable[[], None]:
    def spoil() -> None:
        with h5py.File(H5, "r+") as f:
            change(f)

    return spoil


def drop(key: str) -> Callable[[], None]:
    return store(lambda f: f.__delitem__(key))


def shape(key: str, value: Any) -> Callable[[], None]:
    def change(f: Any) -> None:
        del f[key]
        f[key] = value

    return store(change)


def snapshot(place: Path) -> dict[str, bytes]:
    return {str(p.relative_to(place)): p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}


# -- refused ------------------------------------------------------------------------------------------------------


def train(source: str, val: str = "") -> list[str]:
    return ["train", "keypoints", "--train", source, "--val", val or source.replace("train", "val"), *SET]


def every_way(source: str) -> list[list[str]]:
    """The commands that read labels."""
    return [
        train(source),
        ["show", "--data", source, "--out", "page.html"],
        ["convert", source, "new", "--to", "coco"],
        ["score", "--truth", source, "--pred", "dets.json"],
    ]


Case = tuple[Callable[[], Any], str, tuple[str, ...]]
# what is spoilt, the source that has it, and what must be said
READING: dict[str, Case] = {
    "COCO: a row that is too short": (
        edit(COCO, lambda d: d["annotations"][1]["keypoints"].pop()), "coco:coco#train",
        (f"{COCO} annotations[1] (id 2): keypoints has 8 numbers, but 3 points are 9",),
    ),
    "YOLO: a line that is too short": (
        sub(LINES, r" \S+\n$", "\n"), "yolo_pose:yolo_pose#train",
        (f"{LINES}:1", "14 numbers (class cx cy w h and x y v of 3 points)"),
    ),
    "DeepLabCut: a row that is too short": (
        sub(CSV, r",[^,]+\n$", "\n"), "deeplabcut:deeplabcut#train", (f"{CSV}:5: 8 columns, the header has 9",),
    ),
    "json: an object with too few points": (
        edit(JSON, lambda d: d["keypoints"][0].pop()), "points_json:points_json#train",
        (f"{JSON} keypoints[0]: 2 points", "skeleton.json has 3"),
    ),
    "COCO: pairs that are no involution": (
        edit(COCO, lambda d: d["categories"][0].update(flip_pairs=[["nose", "left_ear"], ["left_ear", "right_ear"]])),
        "coco:coco#train", (COCO, "'left_ear' occurs in two flip pairs"),
    ),
    "YOLO: pairs that are no involution": (
        sub(YAML, r"flip_idx:\n- 0\n- 2\n- 1", "flip_idx:\n- 1\n- 2\n- 0"), "yolo_pose:yolo_pose#train",
        (f"{YAML} (flip_idx): no involution: 'nose' (0) goes to 'left_ear' (1)",),
    ),
    "DeepPoseKit: pairs that are no involution": (
        sub(TABLE, "nose,,", "nose,,left_ear"), "deepposekit:deepposekit#train",
        (f"{TABLE}:2: the mirror partner of 'nose' is 'left_ear', but that one's is 'right_ear'",),
    ),
    "YOLO: an edge to a missing point": (
        sub(YAML, r"edges:\n- - nose", "edges:\n- - snout"), "yolo_pose:yolo_pose#train", (YAML, "'snout'"),
    ),
    "DeepPoseKit: an edge to a missing point": (
        sub(TABLE, "left_ear,nose", "left_ear,snout"), "deepposekit:deepposekit#train",
        (f"{TABLE}:3: 'left_ear' hangs on 'snout', which is no point of the skeleton",),
    ),
    "json: an edge to a missing point": (
        edit("points_json/skeleton.json", lambda d: d.update(edges=[["snout", "left_ear"]])),
        "points_json:points_json#train", ("points_json/skeleton.json", "'snout'"),
    ),
    "HDF5 without annotations": (
        drop("annotations"), f"deepposekit:{H5}",
        (f"{H5} has no data set 'annotations'; it holds annotated, ids, images",),
    ),
    "HDF5 without pictures": (drop("images"), f"deepposekit:{H5}", (f"{H5} has no data set 'images'",)),
    "HDF5 with annotations of another shape": (
        shape("annotations", np.zeros((2, 3, 3))), f"deepposekit:{H5}", (f"{H5}: 'annotations' is [2, 3, 3]",),
    ),
    "HDF5 that is none": (
        lambda: Path(H5).write_text("no"), f"deepposekit:{H5}", (f"{H5} is no deepposekit source",),
    ),
    "names for another number of points": (
        sub(TABLE, "right_ear,.*\n", ""), "deepposekit:deepposekit#train", (f"{TABLE} names 2 points", f"{H5} has 3"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READING)
def test_labels_are_refused_by_every_command(case: str, place: Path, tercel: Any) -> None:
    spoil, source, parts = READING[case]
    spoil()
    before = snapshot(place)
    (place / "dets.json").write_text("[]")
    for command in every_way(source):
        said = tercel(*command)
        check_refused(said, parts)
        after = snapshot(place)
        assert {n: after.get(n) for n in before} == before, "a file was lost or changed"


def check_refused(said: Any, parts: tuple[str, ...]) -> None:
    assert said.code == 2, said.err
    for part in parts:
        assert part in said.err, f"{part!r} is not in:\n{said.err}"
    assert "Traceback" not in said.err
    assert said.err.count("error: ") == 1
    assert re.search(r"^  remedy: \S", said.err, re.M), "no remedy"


TRAINING: dict[str, tuple[Callable[[], Any], list[str], tuple[str, ...]]] = {
    "train and val with different points": (
        lambda: None, train("coco:coco#train", "coco:four#val"), ("coco:four#val"[5:], "4 keypoints", "answers for 3"),
    ),
    "a run on data with other points": (
        lambda: None, ["eval", "r", "--data", "coco:four#val"], ("4 keypoints", "answers for 3"),
    ),
    "predictions with other points": (
        lambda: Path("dets.json").write_text(json.dumps(
            [{"image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9], "score": 0.5, "keypoints": [5, 5, 1] * 4}]
        )),
        ["score", "--truth", "coco:coco#train", "--pred", "dets.json", "--task", "keypoints"],
        ("dets.json", "12 numbers, but 3 points are 9"),
    ),
    "every point invisible": (
        all_absent(), train("coco:coco#train"), ("coco#train", "no labelled point"),
    ),
    "several animals for a heatmap": (
        edit(COCO, lambda d: d["annotations"][1].update(image_id=0)),
        ["train", "keypoints_heatmap", "--train", "coco:coco#train", "--val", "coco:coco#val"],
        (COCO, "2 animals, and a heatmap of keypoints answers for one per picture"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TRAINING)
def test_what_training_and_judging_refuse(case: str, place: Path, tercel: Any) -> None:
    spoil, command, parts = TRAINING[case]
    spoil()
    before = snapshot(place)
    check_refused(tercel(*command), parts)
    assert snapshot(place) == before


# -- said, and carried on with ------------------------------------------------------------------------------------

DOUBTS: dict[str, Case] = {
    "every point invisible": (all_absent(), "coco:coco#train", ("no object has a labelled point",)),
    "points outside the picture and the box": (
        points({0: -5, 3: 70}), "coco:coco#train",
        ("points outside their picture were kept as they are (2x)", "points outside the box", f"{COCO} annotations[0]"),
    ),
    "pictures without an instance": (
        edit(COCO, lambda d: d["annotations"].pop()), "coco:coco#train", ("pictures without any object",),
    ),
    "HDF5: pictures without an animal": (
        store(lambda f: f["annotations"].__setitem__(1, np.nan)), "deepposekit:deepposekit#train",
        ("pictures without any object", f"{H5}@1"),
    ),
    "HDF5: pictures that nobody has annotated": (
        store(lambda f: f["annotated"].__setitem__(1, False)), "deepposekit:deepposekit#train",
        ("pictures that nobody has annotated were left out", f"{H5}@1"),
    ),
    "COCO: an edge to a missing point": (
        edit(COCO, lambda d: d["categories"][0].update(skeleton=[[1, 9]])), "coco:coco#train",
        ("the skeleton edge [1, 9] leads to a point that is not there", COCO),
    ),
    "HDF5: a wrong partner that the names mend": (
        sub(TABLE, "right_ear,,left_ear", "right_ear,,nose"), "deepposekit:deepposekit#train",
        (f"{TABLE}:4", "left_ear and right_ear were paired by their names"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DOUBTS)
def test_doubts_are_said_and_nothing_stops(case: str, place: Path, tercel: Any) -> None:
    spoil, source, parts = DOUBTS[case]
    spoil()
    for command in (["show", "--data", source, "--out", "page.html"], ["convert", source, "new", "--to", "coco"]):
        said = tercel(*command)
        assert said.code == 0, said.err
        for part in parts:
            assert part in said.err, f"{part!r} is not in:\n{said.err}"
    assert os.path.getsize("page.html") > 1000


def test_a_point_at_the_left_edge_stays_a_point(place: Path, tercel: Any) -> None:
    """Visibility is what the file says: (0, y) and (0, 0) are places (turtle-6)."""
    points({0: 0, 1: 7, 2: 2, 3: 0, 4: 0, 5: 1})()
    for form in ("yolo_pose", "points_json", "coco"):
        assert tercel("convert", "coco:coco#train", f"new_{form}", "--to", form).code == 0
        o = FORMATS[form].read(place / f"new_{form}", "train").records[0].objects
        assert o.visible.tolist() == [[2, 1, 2]]  # type: ignore[union-attr]
        np.testing.assert_allclose(o.points[0, :2], [[0, 7], [0, 0]], atol=1e-5)  # type: ignore[index]


def test_training_goes_on_with_negatives_and_with_hdf5(place: Path, tercel: Any) -> None:
    store(lambda f: f["annotations"].__setitem__(1, np.nan))()
    said = tercel(*train("deepposekit:deepposekit#train"), "--out", "runs", "--name", "n")
    assert said.code == 0, said.err
    assert "pictures without any object" in said.err
    assert (place / "runs/n/report.html").is_file()
