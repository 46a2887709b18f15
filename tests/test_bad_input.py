"""Bad input, typed as a user would type it: one clear message with place and remedy, no traceback, nothing lost.

Every case starts from a small good data set or run in a folder of its own, spoils one thing, and runs one command.
After each the files that were there before must still be there, byte for byte.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercel import api, recipes
from tercel.core import files
from tercel.data import source, synth
from tercel.engine import checkpoint

Run = Callable[..., Any]
SIZE = (48, 64)
TINY = [
    "data.size=32x64", "data.workers=1", "train.batch=2", "train.epochs=1", "train.precision=fp32", "model.norm=group",
    "model.backbone.stem=8", "model.backbone.widths=8,8,8,8", "model.backbone.depths=0,0,0,0", "model.neck.width=8",
    "model.head.width=8", "model.head.depth=1", "evaluate.resamples=0", "augment.close_epochs=0",
    "train.sample_pictures=1",
]  # fmt: skip
SET = [w for s in TINY for w in ("--set", s)]


# -- the place ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small data set (4 train, 2 val pictures) as yolo/, voc/ and coco/, and a finished run r/."""
    here = tmp_path_factory.mktemp("good")
    data = synth.make_boxes(here / "yolo", n=6, seed=2, size=SIZE, splits={"train": 4 / 6, "val": 2 / 6})
    for split in ("train", "val"):
        for kind in ("voc", "coco"):
            source.convert(f"yolo:{data}#{split}", here / kind, kind)
    for picture in [p for p in here.rglob("*.jpg") if p.stat().st_nlink > 1]:  # hard links would spoil the others
        content = picture.read_bytes()
        picture.unlink()
        picture.write_bytes(content)
    recipe = recipes.get("boxes", TINY)
    api.train(recipe, f"yolo:{data}#train", f"yolo:{data}#val", out=here, name="r", command="tercel train boxes")
    return here


@pytest.fixture
def place(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil; the current folder is in it, so that messages name short paths."""
    shutil.copytree(good, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


def snapshot(place: Path) -> dict[str, bytes | None]:
    """Content of every file; None for what is no plain file."""
    return {
        os.fsdecode(os.path.relpath(os.path.join(base, f), place)): (
            Path(base, f).read_bytes() if os.path.isfile(os.path.join(base, f)) else None
        )
        for base, folders, names in os.walk(place)
        for f in [*names, *(x for x in folders if os.path.islink(os.path.join(base, x)))]
    }


def check(said: Any, code: int, parts: tuple[str, ...], before: dict[str, bytes | None], place: Path) -> None:
    """What holds for every refusal."""
    assert said.code == code, said.err
    for part in parts:
        assert part in said.err, f"{part!r} is not in:\n{said.err}"
    assert "Traceback" not in said.err
    assert "bug in tercel" not in said.err
    after = snapshot(place)
    assert [n for n in before if before[n] != after.get(n)] == [], "a file was lost or overwritten"
    assert [n for n in after if n.endswith((".tmp", ".part")) or "/.pre" in n] == []
    if code == 2:
        assert said.out == ""
        assert said.err.count("error: ") == 1
        assert re.search(r"^  remedy: \S", said.err, re.M), "no remedy"


# -- spoiling -----------------------------------------------------------------------------------------------------

XML = "voc/Annotations/00000.xml"
LIST = "voc/ImageSets/Main/train.txt"
TXT = "yolo/labels/train/00000.txt"
YAML = "yolo/data.yaml"
COCO = "coco/annotations/instances_train.json"
JPG = {"voc": "voc/JPEGImages/00000.jpg", "yolo": "yolo/images/train/00000.jpg", "coco": "coco/train/00000.jpg"}
BOX = re.compile(r"<bndbox>.*?</bndbox>")


def text(path: str, old: str, new: str, count: int = 1) -> None:
    content = Path(path).read_text()
    assert old in content, (path, old)
    Path(path).write_text(content.replace(old, new, count))


def boxes(*new: str) -> None:
    """Exchange the first boxes of the VOC label by "x1 y1 x2 y2"."""
    content = Path(XML).read_text()
    for old, box in zip(BOX.findall(content), new, strict=False):
        sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True))
        content = content.replace(old, f"<bndbox>{sides}</bndbox>", 1)
    Path(XML).write_text(content)


def coco(change: Callable[[Any], Any]) -> None:
    data = json.loads(Path(COCO).read_text())
    change(data)
    Path(COCO).write_text(json.dumps(data))


def cut(path: str, share: float = 0.5) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * share)])


def write(path: str, content: str | bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content.encode() if isinstance(content, str) else content)


def folder(path: str) -> None:
    if Path(path).exists():
        Path(path).unlink()
    Path(path).mkdir(parents=True)


def picture(path: str, mode: str = "RGB", kind: str = "JPEG", orientation: int = 1, turn: bool = False) -> None:
    """The picture again in another pixel type, format or EXIF orientation; `turn`: its pixels turned to suit."""
    image = Image.open(path).convert("RGB")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image.transpose(Image.Transpose.ROTATE_90) if turn else image
    image.save(path, kind, **({"exif": exif} if orientation > 1 else {}))


def huge_png(path: str, w: int, h: int) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)
    write(path, b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def laughs() -> str:
    """A YAML bomb: ten aliases within ten aliases, ten times over."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "\n".join([*lines, "train: images/train", "names: *a9", ""])


def spoil_run(**changes: Any) -> None:
    info = json.loads(Path("r/run.json").read_text())
    Path("r/run.json").write_text(json.dumps({**info, **changes}))


# -- the tables ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """what: the spoiled thing; how: spoils it; words: the command; code: exit code; parts: of the message."""

    what: str
    words: list[str]
    code: int
    parts: tuple[str, ...]
    how: Callable[[], Any] = field(default=lambda: None)

    def __str__(self) -> str:
        return self.what.replace(" ", "-")


def convert(what: str, kind: str, how: Callable[[], Any], code: int, *parts: str) -> Case:
    """Read the spoiled training split of voc, yolo or coco; every verb that takes a SOURCE reads it this way."""
    return Case(what, ["convert", f"{kind}:{kind}#train", "out", "--to", "odm"], code, parts, how)


def train(what: str, how: Callable[[], Any], code: int, *parts: str, words: tuple[str, ...] = ()) -> Case:
    given = ["train", "boxes", "--train", "voc:voc#train", "--val", "voc:voc#val", "--out", "runs", "--name", "new"]
    return Case(what, [*given, *SET, *words], code, parts, how)


def nothing() -> None:
    pass


LEFT_OUT = "warning: "

SOURCES = [
    # missing, empty, unclear
    Case("no such source", ["convert", "voc:nowhere#train", "out", "--to", "coco"], 2,
         ("nowhere does not exist", "did you mean voc:voc")),
    Case("no such split", ["convert", "voc:voc#trian", "out", "--to", "coco"], 2,
         ("voc has no split 'trian'", "did you mean #train?")),
    Case("no such format", ["convert", "vco:voc", "out", "--to", "coco"], 2,
         ("there is no format 'vco'", "did you mean voc?")),
    Case("no such target format", ["convert", "voc:voc#val", "out", "--to", "cocco"], 2, ("did you mean coco?",)),
    Case("empty text", ["convert", "", "out", "--to", "coco"], 2, ("names no path", "[format:]path[#split]")),
    Case("empty folder", ["convert", "empty", "out", "--to", "coco"], 2,
         ("empty holds no data set", "Annotations/*.xml", "data.yaml"), lambda: folder("empty")),
    Case("empty file", ["convert", "coco:empty.json", "out", "--to", "voc"], 2,
         ("empty.json is empty",), lambda: write("empty.json", "")),
    Case("ambiguous folder", ["convert", "yolo", "out", "--to", "voc"], 2,
         ("yolo may be voc or yolo", "voc:yolo"), lambda: shutil.copy(XML, "yolo/x.xml")),
    convert("split file without a line", "voc", lambda: write(LIST, "\n"), 2, "voc#train lists no picture"),
    # label and picture apart
    convert("label without picture", "voc", lambda: Path(JPG["voc"]).unlink(), 0,
            "labels without their picture were left out", f"{XML}:4"),
    convert("label without picture, yolo", "yolo", lambda: Path(JPG["yolo"]).unlink(), 0,
            "label files without a picture were left out", TXT),
    convert("label without picture, coco", "coco", lambda: Path(JPG["coco"]).unlink(), 0,
            "labels without their picture were left out", f"{COCO}: image 1"),
    convert("picture without label", "voc", lambda: Path(XML).unlink(), 0,
            "pictures without an annotation file count as negatives", f"{LIST}:1"),
    convert("picture without label, yolo", "yolo", lambda: Path(TXT).unlink(), 0,
            "pictures without a label file count as negatives", JPG["yolo"]),
    convert("neither of both", "voc", lambda: write(LIST, "00000\n99999\n"), 0,
            "names without picture and annotation file were left out", f"{LIST}:2: 99999"),
    convert("all pictures gone", "voc", lambda: shutil.rmtree("voc/JPEGImages"), 2,
            "voc#train: 4 of 4 labelled pictures do not exist", "voc/JPEGImages/00000.jpg"),
    convert("all labels gone", "yolo", lambda: shutil.rmtree("yolo/labels"), 2, "has a label", TXT),
    # pictures
    convert("no picture at all in it", "voc", lambda: write(JPG["voc"], "hello"), 2, JPG["voc"],
            "not a readable picture"),
    convert("truncated picture", "voc", lambda: cut(JPG["voc"]), 2, JPG["voc"], "truncated"),
    convert("picture of 0 bytes", "yolo", lambda: write(JPG["yolo"], b""), 2, JPG["yolo"], "is empty (0 bytes)"),
    convert("two bad pictures", "voc",
            lambda: [write(f"voc/JPEGImages/0000{i}.jpg", "x") for i in (1, 2)], 2,
            "00001.jpg", "00002.jpg", "2 of 4 pictures of voc#train cannot be read"),
    convert("directory named like a picture", "voc", lambda: folder(JPG["voc"]), 2,
            f"{JPG['voc']} is a directory, not a picture"),
    convert("directory named like a label", "yolo", lambda: folder(TXT), 2, f"cannot read {TXT}: Is a directory"),
    convert("link to nowhere", "yolo", lambda: (Path(JPG["yolo"]).unlink(), Path(JPG["yolo"]).symlink_to("/no.jpg")), 2,
            f"{JPG['yolo']} is a link to /no.jpg, which does not exist"),
    convert("link to a picture", "yolo",
            lambda: (Path(JPG["yolo"]).rename("a.jpg"), Path(JPG["yolo"]).symlink_to(Path("a.jpg").resolve())), 0,
            "4 pictures and"),
    convert("links in a circle", "yolo", lambda: Path("yolo/images/train/up").symlink_to(Path("yolo/images").resolve()),
            0, "4 pictures and"),
    convert("too many pixels", "yolo", lambda: huge_png(JPG["yolo"], 60_000, 60_000), 2,
            JPG["yolo"], "too many pixels", "tiles"),
    convert("float pixels", "yolo",
            lambda: Image.fromarray(np.zeros(SIZE, np.float32)).save(JPG["yolo"], "TIFF"), 2,
            JPG["yolo"], "float32 have no known range"),
    convert("file name that is not UTF-8", "yolo",
            lambda: os.rename(os.fsencode(JPG["yolo"]), b"yolo/images/train/\xff.jpg"), 2, "is not UTF-8", "rename"),
    convert("two pictures for one label", "yolo",
            lambda: shutil.copy(JPG["yolo"], JPG["yolo"].replace("jpg", "png")), 2, "share one label file"),
    convert("EXIF, labels on the upright picture", "voc",
            lambda: picture(JPG["voc"], orientation=6, turn=True), 0, "stored turned or mirrored (EXIF)", JPG["voc"]),
    convert("EXIF, labels on the stored picture", "voc", lambda: picture(JPG["voc"], orientation=6), 2,
            f"{XML}:4", "made for 64x48", "is 48x64 when upright", "EXIF"),
    convert("EXIF, labels that declare no size", "yolo", lambda: picture(JPG["yolo"], orientation=6), 0,
            "stored turned or mirrored (EXIF)", "check that their labels fit"),
    convert("wrong size in the label", "voc", lambda: text(XML, "<width>64", "<width>640"), 2,
            f"{XML}:4", "a picture of 640x48", "is 64x48"),
    convert("size that is no number", "voc", lambda: text(XML, "<width>64", "<width>wide"), 2, f"{XML}:4", "<size>"),
    convert("no size in the label", "voc", lambda: text(XML, "<width>64", "<width>0"), 0, "declare no picture size"),
    convert("wrong size, coco", "coco", lambda: coco(lambda d: d["images"][0].update(width=3)), 2,
            f"{COCO}: image 1", "3x48"),
    # boxes
    convert("boxes without area and outside", "voc", lambda: boxes("5 5 5 9", "500 500 600 600"), 0,
            f"boxes without area were left out [{XML}:9]", f"boxes outside their picture were left out [{XML}:14]"),
    convert("NaN and text in boxes", "voc", lambda: boxes("nan 1 9 9", "a 1 9 9"), 0,
            f"NaN or infinite coordinates were left out [{XML}:9]", f"as numbers were left out [{XML}:14]"),
    convert("boxes inside out", "voc", lambda: boxes("9 5 2 9"), 0, "lies before left or top", f"{XML}:9"),
    convert("NaN in yolo", "yolo", lambda: write(TXT, "0 nan .5 .1 .1\n"), 0, "NaN or infinite", f"{TXT}:1"),
    convert("four fields", "yolo", lambda: write(TXT, "0 .5 .5 .1\n"), 0, "not five numbers", f"{TXT}:1"),
    convert("NaN in coco", "coco", lambda: coco(lambda d: d["annotations"][0].update(bbox=[float("nan"), 1, 2, 3])), 0,
            "NaN or infinite", "annotations[0] (id 1)"),
    convert("infinity in coco", "coco", lambda: coco(lambda d: d["annotations"][0].update(bbox=[1e999, 1, 2, 3])), 0,
            "NaN or infinite", "annotations[0] (id 1)"),
    convert("odd bbox in coco", "coco", lambda: coco(lambda d: d["annotations"][0].update(bbox=[1, 2, 3])), 0,
            "is missing or odd were left out", "annotations[0] (id 1)"),
    convert("iscrowd in words", "coco", lambda: coco(lambda d: d["annotations"][0].update(iscrowd="no")), 0,
            "is missing or odd were left out", "annotations[0] (id 1)"),
    convert("most boxes lost", "yolo", lambda: write(TXT, "0 nan .5 .1 .1\n" * 500), 2,
            "500 of ", "NaN or infinite", f"{TXT}:1"),
    convert("pixels for shares", "yolo", lambda: write(TXT, "0 50 50 10 10\n" * 500), 2,
            f"{TXT}:1", "far above 1", "not pixels"),
    # classes
    convert("unknown class", "voc", lambda: text(XML, "<name>", "<name>x"), 2, f"{XML}:", "unknown class 'x",
            "did you mean"),
    convert("class id beyond the names", "yolo", lambda: write(TXT, "9 .5 .5 .1 .1\n"), 2,
            f"{TXT}:1", "class id 9", f"{YAML} names 4 classes"),
    convert("class id that is none", "yolo", lambda: write(TXT, "-1 .5 .5 .1 .1\n"), 2, f"{TXT}:1", "class id -1"),
    convert("unknown category", "coco", lambda: coco(lambda d: d["annotations"][0].update(category_id=77)), 2,
            "annotations[0] (id 1)", "unknown class 77"),
    convert("class count that disagrees", "yolo", lambda: write(YAML, "train: images/train\nnc: 3\nnames: [a, b]\n"), 2,
            YAML, "nc is 3 but there are 2 names"),
    convert("class named twice", "yolo", lambda: text(YAML, "1: square", "1: disc"), 2, YAML, "'disc' occurs twice"),
    convert("class named twice, voc", "voc", lambda: write("voc/classes.txt", "disc\nsquare\ndisc\n"), 2,
            "voc/classes.txt:3", "'disc' stands in line 1 already"),
    convert("class without a name", "yolo", lambda: text(YAML, "1: square", "1: ''"), 2, YAML, "a class name is empty"),
    convert("class name with a line break", "coco", lambda: coco(lambda d: d["categories"][0].update(name="a\nb")), 2,
            COCO, "'a\\nb'", "control character"),
    convert("class name with half a character", "yolo", lambda: text(YAML, "1: square", '1: "\\ud83d"'), 2,
            "yolo#train", "half a character"),
    convert("category without a name", "coco", lambda: coco(lambda d: d["categories"][0].update(name=None)), 2,
            COCO, "a category without"),
    # ids
    convert("picture listed twice", "voc", lambda: write(LIST, "00000\n00001\n00000\n"), 2, "'00000' occurs twice"),
    convert("image id twice", "coco", lambda: coco(lambda d: d["images"][1].update(id=1)), 2, "images[1]",
            "id 1 occurs twice"),
    convert("one file twice", "coco", lambda: coco(lambda d: d["images"][1].update(file_name="00000.jpg")), 2,
            "images 1 and 2 are one file"),
    convert("annotation id twice", "coco", lambda: coco(lambda d: d["annotations"][1].update(id=1)), 2,
            "annotation id 1 occurs twice"),
    convert("annotation id that is a list", "coco", lambda: coco(lambda d: d["annotations"][1].update(id=[1])), 2,
            "annotations[1]", "the id [1] is no number"),
    convert("category id twice", "coco", lambda: coco(lambda d: d["categories"][1].update(id=1)), 2,
            "category id 1 occurs twice"),
    convert("image without a name", "coco", lambda: coco(lambda d: d["images"][0].update(file_name=None)), 2,
            "images[0]"),
    # files
    convert("XML that is not UTF-8", "voc",
            lambda: write(XML, Path(XML).read_text().replace("JPEGImages", "é").encode("latin1")), 2, f"{XML}:2",
            "UTF-8"),
    convert("list that is not UTF-8", "voc", lambda: write(LIST, b"00000\n\xff\n"), 2, f"{LIST}:2", "UTF-8"),
    convert("text that is not UTF-8", "yolo", lambda: write(TXT, b"0 .5 .5 .1 .1\n\xff\n"), 2, f"{TXT}:2", "UTF-8"),
    convert("json that is not UTF-8", "coco",
            lambda: write(COCO, Path(COCO).read_bytes().replace(b"disc", b"d\xefsc")), 2, COCO, "UTF-8"),
    convert("XML cut off", "voc", lambda: cut(XML), 2, XML, "broken XML"),
    convert("json cut off", "coco", lambda: write(COCO, Path(COCO).read_bytes()[:-9]), 2, f"{COCO}:1", "not JSON",
            "cut off"),
    convert("yaml broken", "yolo", lambda: write(YAML, "train: images/train\nnames: [a, 'b\n"), 2, f"{YAML}:",
            "not YAML"),
    convert("XML bomb", "voc",
            lambda: text(XML, "<annotation>",
                         '<!DOCTYPE a [\n<!ENTITY b "b">\n<!ENTITY c "&b;&b;&b;">\n]>\n<annotation>'), 2,
            f"{XML}:2", "declares entities"),
    convert("yaml bomb", "yolo", lambda: write(YAML, laughs()), 2, YAML, "names is no list"),
    convert("yaml that runs code", "yolo",
            lambda: write(YAML, "train: images/train\nnames: !!python/object/apply:os.system ['touch pwned']\n"), 2,
            f"{YAML}:2", "not YAML"),
    convert("json bomb", "coco", lambda: write(COCO, '{"images": [], "annotations": ' + "[" * 100_000), 2, COCO,
            "not JSON"),
    convert("json with a number of 5000 digits", "coco",
            lambda: write(COCO, Path(COCO).read_text().replace('"id": 1,', '"id": ' + "9" * 5000 + ",", 1)), 2, COCO,
            "digits"),
    # paths that leave
    convert("list that climbs out", "voc", lambda: write(LIST, "00000\n../../../etc/passwd\n"), 2,
            f"{LIST}:2", "leaves the folder voc/Annotations"),
    convert("json that climbs out", "coco", lambda: coco(lambda d: d["images"][1].update(file_name="../../x.jpg")), 2,
            "images[1]", "leaves the folder"),
    convert("json with an absolute path", "coco",
            lambda: coco(lambda d: d["images"][1].update(file_name="/etc/passwd")), 2,
            "images[1]", "'/etc/passwd' leaves the folder"),
    convert("yaml that points outside", "yolo", lambda: text(YAML, "images/train", "../../../etc"), 2,
            f"{YAML} (train)", "leaves the folder yolo"),
    convert("yaml whose path points outside", "yolo",
            lambda: write(YAML, "path: /etc\ntrain: ssl\nnames: [a]\n"), 2, YAML, "'/etc' leaves the folder"),
    convert("yaml with a nested split", "yolo", lambda: text(YAML, "images/train", "{a: b}"), 2, f"{YAML} (train)",
            "not a path"),
    # writing
    Case("convert into the source", ["convert", "voc:voc#val", "voc", "--to", "yolo"], 2, ("lies inside the source",)),
    Case("convert over files", ["convert", "yolo:yolo#val", "voc", "--to", "voc"], 2, ("exists already",)),
    Case("convert in the folder of the source", ["convert", "yolo:data.yaml#val", "out", "--to", "coco"], 0,
         ("2 pictures and",),
         lambda: (shutil.copytree("yolo", ".", dirs_exist_ok=True),)),
    Case("convert below a file", ["convert", "yolo:yolo#val", f"{XML}/x", "--to", "voc"], 2, (XML, "Not a directory")),
]  # fmt: skip


@pytest.mark.parametrize("case", SOURCES, ids=str)
def test_sources(case: Case, place: Path, tercel: Run) -> None:
    case.how()
    before = snapshot(place)
    check(tercel(*case.words), case.code, case.parts, before, place)
    assert case.code == 0 or not Path("out").exists()
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("I;16", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG"), ("P", "GIF"),
                       ("1", "PNG"), ("RGB", "WEBP"), ("RGB", "TIFF"), ("RGB", "BMP")],
)  # fmt: skip
def test_every_kind_of_pixel_is_read(mode: str, kind: str, place: Path, tercel: Run) -> None:
    picture(JPG["yolo"], mode, kind)
    before = snapshot(place)
    check(tercel("convert", "yolo:yolo#train", "out", "--to", "coco"), 0, ("4 pictures and",), before, place)


TRAINING = [
    train("run folder that exists", lambda: folder("runs/new/x"), 2, "runs/new exists already", "another --name"),
    train("run that exists", lambda: shutil.copytree("r", "runs/new"), 2, "runs/new exists already",
          "tercel resume runs/new"),
    train("file in the run's place", lambda: write("runs/new", "x"), 2, "runs/new exists already"),
    train("out is a file", lambda: write("runs", "x"), 2, "runs/new", "Not a directory"),
    train("name that climbs out", nothing, 2, "'../x' cannot name a run's folder", words=("--name", "../x")),
    train("name that is the folder itself", nothing, 2, "'.' cannot name a run's folder", words=("--name", ".")),
    train("name with a line break", nothing, 2, "cannot name a run's folder", words=("--name", "a\nb")),
    train("name of 300 letters", nothing, 2, "cannot name a run's folder", words=("--name", "x" * 300)),
    train("no val source", nothing, 2, "nowhere does not exist", words=("--val", "voc:nowhere")),
    train("truncated training picture", lambda: cut(JPG["voc"]), 2, JPG["voc"], "truncated"),
    train("truncated validation picture", lambda: cut("voc/JPEGImages/00005.jpg"), 2, "00005.jpg", "truncated"),
    train("no objects", lambda: [Path(p).write_text(re.sub(r"<object>.*?</object>", "", p.read_text(), flags=re.S))
                                 for p in Path("voc/Annotations").iterdir()], 2, "pictures but no objects"),
    train("classes in another order", lambda: (text(YAML, "0: disc", "0: coin"), text(YAML, "1: square", "1: disc")), 2,
          "train has classes", "val has", words=("--val", "yolo:yolo#val")),
    train("train and val share pictures", nothing, 2, "occur in both sets (4x", "--allow-leaks", words=("--val",
          "voc:voc#train")),
    train("unknown key", nothing, 2, "unknown key 'train.epoch'", "did you mean 'train.epochs'", words=("--set",
          "train.epoch=3")),
    train("unknown key without its part", nothing, 2, "unknown key 'epochs'", words=("--set", "epochs=3")),
    train("no value", nothing, 2, "is not key=value", words=("--set", "train.epochs")),
    train("wrong type", nothing, 2, "train.epochs = 'many' is not int", words=("--set", "train.epochs=many")),
    train("fraction for a count", nothing, 2, "train.epochs = 2.5 is not int", words=("--set", "train.epochs=2.5")),
    train("number for a switch", nothing, 2, "is not bool", words=("--set", "evaluate.class_agnostic=1")),
    train("out of range", nothing, 2, "train.lr = -1.0 lies outside 0..10", words=("--set", "train.lr=-1")),
    train("infinite", nothing, 2, "train.lr = inf lies outside", words=("--set", "train.lr=1e999")),
    train("NaN", nothing, 2, "train.lr is not a number", words=("--set", "train.lr=NaN")),
    train("size of nothing", nothing, 2, "data.size = (0, 0) lies outside", words=("--set", "data.size=0x0")),
    train("size below nothing", nothing, 2, "data.size = (-64, -64) lies outside", words=("--set",
          "data.size=-64x-64")),
    train("size that the strides do not divide", nothing, 2, "33x33 is not a multiple of 32", words=("--set",
          "data.size=33x33")),
    train("no strides", nothing, 2, "model.strides is empty", words=("--set", "model.strides=[]")),
    train("strides in disorder", nothing, 2, "does not rise", words=("--set", "model.strides=16,8")),
    train("strides that the backbone has not", nothing, 2, "no map at stride 7", words=("--set", "model.strides=7,8")),
    train("widths of nothing", nothing, 2, "lies outside 1..", words=("--set", "model.backbone.widths=0,1,2,3")),
    train("standard deviation of nothing", nothing, 2, "lies outside", words=("--set", "model.std=0,0,0")),
    train("a score that does not exist", nothing, 2, "evaluate.select = 'AQ' is not one of AP", words=("--set",
          "evaluate.select=AQ")),
    train("a network that cannot be", nothing, 2, "no network can be built", words=("--set", "model.neck.width=17")),
    train("a kind that does not exist", nothing, 2, "is not one of Fpn, Pan", words=("--set", "model.neck=Pna")),
    train("another task's head", nothing, 2, "'ball' needs a head of its own", "set model.head=BallHeatmap",
          words=("--set", "task=ball")),
    train("a clip for boxes", nothing, 2, "boxes are found on still pictures", words=("--set", "model.clip.frames=3")),
    train("weights of no run", nothing, 2, "nowhere", words=("--start", "nowhere")),
    train("no GPU", nothing, 2, "finds no CUDA device", "train.device=cpu", words=("--set", "train.device=cuda")),
]  # fmt: skip


@pytest.mark.parametrize("case", TRAINING, ids=str)
def test_training_is_refused_before_it_begins(case: Case, place: Path, tercel: Run) -> None:
    """A mistake costs no training time, and leaves no half-made run that is in the way of the next try."""
    if case.what == "no GPU":
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has one")
    case.how()
    before = snapshot(place)
    check(tercel(*case.words), case.code, case.parts, before, place)
    assert snapshot(place).keys() == before.keys()


# -- runs ---------------------------------------------------------------------------------------------------------

PICTURES = "yolo/images/val"
DAMAGED = [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b'{"status": "interrupted"}', b'{"recipe": 3, "val": []}']

RUNS = [
    Case("resume nothing", ["resume", "nowhere"], 2, ("nowhere is not a run: it has no run.json", "runs nearby: r")),
    Case("resume a finished run", ["resume", "r"], 2, ("r is finished", "train.epochs=N")),
    Case("resume before any checkpoint", ["resume", "r"], 2, ("no checkpoint to continue from", "tercel train boxes"),
         lambda: (spoil_run(status="failed"), shutil.rmtree("r/checkpoints"))),
    Case("resume a checkpoint cut off", ["resume", "r"], 2, ("last.safetensors is not a readable Tercel checkpoint",),
         lambda: (spoil_run(status="failed"), cut("r/checkpoints/last.safetensors"))),
    Case("resume with another recipe", ["resume", "r"], 2, ("r/run.json has other settings than", "train.batch"),
         lambda: (spoil_run(status="failed"), text("r/run.json", '"batch": 2', '"batch": 4'))),
    Case("resume with a recipe of another version", ["resume", "r"], 2,
         ("r/run.json (recipe): unknown key 'train.epoch'",),
         lambda: (spoil_run(status="failed"), text("r/run.json", '"epochs"', '"epoch"'))),
    Case("resume on changed labels", ["resume", "r"], 2, ("is not what this run began with", "fingerprint"),
         lambda: (spoil_run(status="failed", train={**json.loads(Path("r/run.json").read_text())["train"],
                                                    "resolved": f"yolo:{Path(YAML).resolve()}#train"}),
                  write(TXT, "0 .5 .5 .1 .1\n"))),
    Case("resume a broken log", ["resume", "r"], 2, ("r/log.jsonl:1: not JSON",),
         lambda: (spoil_run(status="failed"), write("r/log.jsonl", "{bad\n{}\n{}\n"))),
    Case("eval nothing", ["eval", "yolo"], 2, ("yolo is not a run",)),
    Case("eval a file", ["eval", YAML], 2, ("is not a run",)),
    Case("eval without a checkpoint", ["eval", "r", "--checkpoint", "bst"], 2, ("no checkpoint 'bst'", "best, last")),
    Case("eval a checkpoint elsewhere", ["eval", "r", "--checkpoint", "../../yolo"], 2, ("no checkpoint",)),
    Case("eval a checkpoint of zeros", ["eval", "r"], 2, ("best.safetensors is not a readable",),
         lambda: write("r/checkpoints/best.safetensors", bytes(5000))),
    Case("eval on other classes", ["eval", "r", "--data", "yolo:yolo#val"], 2, ("has classes", "the checkpoint has"),
         lambda: text(YAML, "disc", "coin")),
    Case("eval on fewer classes", ["eval", "r", "--data", "yolo:few/data.yaml#val"], 2, ("has classes",
         "the checkpoint has"),
         lambda: (shutil.copytree("yolo", "few"), write("few/data.yaml", "val: images/val\nnames: [disc, square]\n"),
                  [write(str(p), "0 .5 .5 .2 .2\n") for p in Path("few/labels/val").iterdir()])),
    Case("eval over an evaluation", ["eval", "r", "--out", "r"], 2, ("r holds an evaluation already",)),
    Case("eval into a file", ["eval", "r", "--out", YAML], 2, ("cannot make the folder", "it is a file")),
    Case("eval, data gone", ["eval", "r"], 2, ("does not exist", "--data SOURCE"),
         lambda: spoil_run(val={"resolved": "yolo:gone/data.yaml#val", "source": "x", "fingerprint": "y"})),
    Case("report of nothing", ["report", "nowhere"], 2, ("nowhere is not a run",)),
    Case("runs of nothing", ["runs", "yolo"], 2, ("there are no runs in yolo",)),
    Case("runs, metrics damaged", ["runs", "."], 1, ("r/metrics.json:1: not JSON",), lambda: write("r/metrics.json",
         "{")),
    Case("runs, metrics of another kind", ["runs", "."], 1, ("r/metrics.json is damaged",),
         lambda: write("r/metrics.json", "[1]")),
    Case("predict nothing", ["predict", "r", "nowhere.jpg"], 2, ("nowhere.jpg does not exist",)),
    Case("predict an empty pattern", ["predict", "r", "yolo/*.tif"], 2, ("no picture matches yolo/*.tif", "quote it")),
    Case("predict a text file", ["predict", "r", YAML], 2, (f"{YAML} is not a picture by its suffix",)),
    Case("predict a text that is called a picture", ["predict", "r", "a.jpg"], 2, ("none of the 1 pictures", "a.jpg"),
         lambda: write("a.jpg", "hello")),
    Case("predict a folder of folders", ["predict", "r", "yolo/images"], 2, ("holds no picture",
         f"did you mean yolo/images/train or {PICTURES}")),
    Case("predict into a full folder", ["predict", "r", PICTURES, "--out", "voc"], 2, ("voc is not empty",)),
    Case("predict into a file", ["predict", "r", PICTURES, "--out", YAML], 2, ("it is a file",)),
    Case("predict below a file", ["predict", "r", PICTURES, "--out", f"{YAML}/x"], 2, ("Not a directory",)),
    Case("show over a file", ["show", "boxes", "--batch", YAML, "--train", "yolo:yolo#train"], 2,
         ("exists and will not be overwritten",)),
    Case("show as gif", ["show", "boxes", "--batch", "b.gif", "--train", "yolo:yolo#train", *SET], 2, (".jpg or .png",
         )),
    Case("show without data", ["show", "boxes", "--batch", "b.png"], 2, ("--batch needs data", "--train SOURCE")),
    Case("eval below a file", ["eval", "r", "--out", f"{YAML}/x"], 2, ("cannot make the folder", "Not a directory")),
    Case("demo below a file", ["demo", "--out", f"{YAML}/x"], 2, ("cannot write", "Not a directory")),
    Case("demo into a file", ["demo", "--out", YAML], 2, (YAML,)),
    Case("score a folder", ["score", "--truth", "yolo:yolo#val", "--pred", "r"], 2, ("did you mean r/preds.jsonl?",)),
    Case("score labels", ["score", "--truth", "yolo:yolo#val", "--pred", "yolo/labels/val"], 2,
         ("are the scores missing?",)),
    Case("score truth as predictions", ["score", "--truth", f"coco:{COCO}", "--pred", COCO], 2,
         ("this looks like truth",)),
    Case("score another set", ["score", "--truth", "yolo:yolo#train", "--pred", "r/preds.jsonl"], 2,
         ("no picture of the predictions occurs in the truth",)),
    Case("score predictions cut off", ["score", "--truth", "yolo:yolo#val", "--pred", "r/preds.jsonl"], 2,
         ("r/preds.jsonl:3: not JSON", "cut off"),
         lambda: cut("r/preds.jsonl", 0.98)),
    Case("score a json bomb", ["score", "--truth", "yolo:yolo#val", "--pred", "p.json"], 2, ("p.json",),
         lambda: write("p.json", "[" * 100_000)),
    Case("score classes that are lists", ["score", "--truth", "yolo:yolo#val", "--pred", "r/preds.jsonl"], 2,
         ("r/preds.jsonl:1", "no classes"),
         lambda: text("r/preds.jsonl", '"disc"', '["disc"]')),
    Case("score NaN", ["score", "--truth", "yolo:yolo#val", "--pred", "p.json"], 2, ("p.json[0]", "NaN"),
         lambda: write("p.json", '[{"image_id": "00004", "category_id": 1, "bbox": [1, 2, 3, NaN], "score": 0.5}]')),
    Case("score no predictions", ["score", "--truth", "yolo:yolo#val", "--pred", "p.json"], 0,
         ("warning: there are no detections at all",),
         lambda: write("p.json", "[]")),
    Case("score with odd caps", ["score", "--truth", "yolo:yolo#val", "--pred", "r/preds.jsonl", "--max-detections",
         "100,10"], 2, ("not rising",)),
    Case("score without truth", ["score", "--truth", "yolo:yolo#none", "--pred", "r/preds.jsonl"], 2,
         ("has no split 'none'",)),
]  # fmt: skip


@pytest.mark.parametrize("case", RUNS, ids=str)
def test_runs(case: Case, place: Path, tercel: Run) -> None:
    case.how()
    before = snapshot(place)
    check(tercel(*case.words), case.code, case.parts, before, place)


@pytest.mark.parametrize("content", DAMAGED, ids=repr)
def test_a_damaged_run_json(content: bytes, place: Path, tercel: Run) -> None:
    """Named with its place by every verb that needs it; its checkpoints still predict, other runs are still listed."""
    shutil.copytree("r", "whole")
    write("r/run.json", content)
    before = snapshot(place)
    for verb in ("resume", "eval", "report"):
        check(tercel(verb, "r"), 2, ("r/run.json", "restore it from a copy"), before, place)
    listed = tercel("runs", ".")
    check(listed, 1, ("runs that cannot be read were left out", "r/run.json"), before, place)
    assert "whole" in listed.out
    assert tercel("predict", "r", PICTURES, "--out", "p").code == 0


def test_a_run_can_be_moved_and_its_data_can_vanish(place: Path, tercel: Run) -> None:
    Path("elsewhere").mkdir()
    Path("r").rename("elsewhere/moved")
    assert tercel("eval", "elsewhere/moved").code == 0
    resolved = f"yolo:{place / 'gone' / 'data.yaml'}#val"
    info = json.loads(Path("elsewhere/moved/run.json").read_text())
    info["val"]["resolved"] = resolved
    Path("elsewhere/moved/run.json").write_text(json.dumps(info))
    said = tercel("report", "elsewhere/moved")  # written from what is left, and the page says what is missing
    assert (said.code, said.err) == (0, "")
    assert "the validation data cannot be read any more" in Path("elsewhere/moved/report.html").read_text()


# -- predictions --------------------------------------------------------------------------------------------------


def test_bad_pictures_among_good_ones(place: Path, tercel: Run) -> None:
    """Left out, counted and named, exit 1; the others are predicted, each once, and none of their copies is lost."""
    Path("in").mkdir()
    for name in ("a.jpg", "a b.jpg", "a_b.jpg", "ünï 雪.jpg", "雪.jpg", "new\nline.jpg", "<b>&'\".jpg"):
        shutil.copy(JPG["yolo"], Path("in", name))
    picture(str(shutil.copy("in/a.jpg", "in/a.png")), kind="PNG")
    write("in/empty.jpg", b"")
    write("in/text.png", "hello")
    shutil.copy("in/a.jpg", "in/cut.jpg")
    cut("in/cut.jpg")
    Path("in/link.jpg").symlink_to("/nowhere.jpg")
    shutil.copy(b"in/a.jpg", b"in/\xff.jpg")
    folder("in/folder.jpg")
    before = snapshot(place)
    said = tercel("predict", "r", "in", "in/a.jpg", "in/../in/a.jpg", "--out", "p", "--json")
    check(said, 1, ("pictures could not be read and were left out (5x)",), before, place)
    for name in ("empty.jpg: the picture is empty", "text.png", "cut.jpg", "link.jpg is a link to", "not UTF-8"):
        assert name in said.err
    told = json.loads(said.out)
    assert (told["pictures"], told["findings"][0]["count"]) == (8, 5)
    lines = [json.loads(x) for x in Path("p/predictions.jsonl").read_text().split("\n")[1:-1]]
    assert sorted(x["id"] for x in lines) == sorted(
        ["a.jpg", "a.png", "a b.jpg", "a_b.jpg", "ünï 雪.jpg", "雪.jpg", "new\nline.jpg", "<b>&'\".jpg"]
    )
    assert len(list(Path("p/drawn").iterdir())) == 8


def test_every_picture_is_decoded_once(place: Path, tercel: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from tercel.engine import predict

    seen: list[Path] = []
    real = predict.read_image
    monkeypatch.setattr(predict, "read_image", lambda path: seen.append(path) or real(path))
    assert tercel("predict", "r", PICTURES, "--out", "p", "--no-drawn").code == 0
    assert len(seen) == len(set(seen)) == 2
    assert not Path("p/drawn").exists()


# -- names that bite ----------------------------------------------------------------------------------------------

EVIL = ["<script>alert(1)</script>", "two words & 'quotes\"", "$x_{$ {{7*7}}", "emoji 😀 \u202e"]
FILES = ["<script>alert(2)<", "sp ace \"'", "new\nline", "\x1b[31mred 😀"]


def test_names_survive_the_whole_way(place: Path, tercel: Run) -> None:
    """Markup, quotes, line breaks, escape codes and emoji in class, file and folder names, from labels to report."""
    home = Path("evil <b> dir 😀")
    shutil.copytree("yolo", home)
    names = json.dumps(EVIL, ensure_ascii=False)
    (home / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {names}\n")
    for split in ("train", "val"):
        pictures = sorted((home / "images" / split).iterdir())
        for old, new in zip(pictures, FILES if split == "train" else FILES[2:], strict=False):
            old.rename(old.with_name(f"{new}.jpg"))
            label = home / "labels" / split / f"{old.stem}.txt"
            label.rename(label.with_name(f"{new}.txt"))
    given = ["train", "boxes", "--train", f"yolo:{home}#train", "--val", f"yolo:{home}#val", "--out", "runs"]
    said = tercel(*given, "--name", "<i>evil", *SET)
    assert said.code == 0, said.err
    assert "\x1b" not in said.out + said.err
    run = Path("runs/<i>evil")
    page = (run / "report.html").read_text()
    assert len(re.findall("<script", page)) == 1
    assert "<i>evil" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in (run / "card.md").read_text()
    ids = [json.loads(x)["id"] for x in (run / "preds.jsonl").read_text().split("\n")[1:-1]]
    assert sorted(ids) == sorted(FILES[2:])
    for verb in (["eval", run], ["report", run], ["runs", "runs"],
                 ["score", "--truth", f"yolo:{home}#val", "--pred", run / "preds.jsonl"],
                 ["convert", f"yolo:{home}#val", "c", "--to", "coco"]):  # fmt: skip
        said = tercel(*verb)
        assert said.code == 0, said.err
        assert "\x1b" not in said.out + said.err


# -- many objects -------------------------------------------------------------------------------------------------


def test_more_objects_than_any_cap(place: Path, tercel: Run) -> None:
    """All 1,500 are kept, trained on and judged; that the caps are reached is said at the end."""
    rng = np.random.default_rng(0)
    for label in ("train/00000", "val/00004"):
        rows = (f"{i % 4} {x:.4f} {y:.4f} .02 .03\n" for i, (x, y) in enumerate(rng.uniform(0.05, 0.95, (1500, 2))))
        write(f"yolo/labels/{label}.txt", "".join(rows))
    given = [
        "train",
        "boxes",
        "--train",
        "yolo:yolo#train",
        "--val",
        "yolo:yolo#val",
        "--out",
        "runs",
        "--name",
        "many",
    ]
    said = tercel(*given, *SET, "--set", "evaluate.max_detections=1", "--set", "evaluate.score_floor=0")
    assert said.code == 0, said.err
    assert "pictures reach the cap of 1 detections" in said.err
    assert "raise evaluate.max_detections" in said.err
    assert "recall cannot be judged" in said.err
    info = json.loads(Path("runs/many/run.json").read_text())
    assert info["train"]["statistics"]["most_per_record"] == info["val"]["statistics"]["most_per_record"] == 1500
    steps = [json.loads(x) for x in Path("runs/many/log.jsonl").read_text().splitlines()]
    assert max(s["n_objects"] for s in steps if s["kind"] == "step") > 1000


# -- disks --------------------------------------------------------------------------------------------------------


class FullDisk:
    """os.fsync that finds the disk full from the n-th file on."""

    def __init__(self, after: int) -> None:
        self.left, self.real = after, os.fsync

    def __call__(self, fd: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.real(fd)


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize(
    "words",
    [
        ["predict", "r", PICTURES, "--out", "out"],
        ["eval", "r", "--out", "out"],
        ["convert", "yolo:yolo#val", "out", "--to", "voc"],
        ["convert", "yolo:yolo#val", "out/x.json", "--to", "coco"],
        ["report", "r"],
        ["show", "boxes", "--batch", "out.png", "--train", "yolo:yolo#train", *SET],
        ["train", "boxes", "--train", "yolo:yolo#train", "--val", "yolo:yolo#val", "--out", "out", *SET],
    ],
    ids=lambda w: w[0],
)
def test_a_full_disk(words: list[str], after: int, place: Path, tercel: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was there stays, no half file is left, and the message names the file that could not be written."""
    before = snapshot(place)
    monkeypatch.setattr(files.os, "fsync", FullDisk(after))
    said = tercel(*words)
    if after and words[0] in {"report", "show"}:  # they write one file, and the folder is what is synced next
        return
    check(said, 2, ("cannot write ", "No space left on device", "remedy: free some space"), before, place)
    for name in snapshot(place).keys() - before.keys():
        assert not Path(name).name.startswith(".") or Path(name).name == ".lock", name


def test_a_full_disk_during_a_checkpoint(place: Path, tercel: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint that was there stays, the run says so, and it can be continued when there is room again."""
    real, written = checkpoint.save_file, 0

    def full(tensors: Any, path: Any, metadata: Any) -> None:
        nonlocal written
        written += 1
        if written > 2:  # best and last of the first epoch are whole
            Path(path).write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", full)
    given = ["train", "boxes", "--train", "yolo:yolo#train", "--val", "yolo:yolo#val", "--out", "runs", "--name", "n"]
    more = ["--set", "train.epochs=2", "--set", "train.evaluate_every=1"]
    before = snapshot(place)
    said = tercel(*given, *SET, *more)
    check(said, 2, ("cannot write the checkpoint", "No space left", "tercel resume"), before, place)
    assert sorted(p.name for p in Path("runs/n/checkpoints").iterdir()) == ["best.safetensors", "last.safetensors"]
    assert json.loads(Path("runs/n/run.json").read_text())["status"] == "failed"
    assert checkpoint.read_header(Path("runs/n/checkpoints/last.safetensors"))["position"]["epoch"] == 1
    monkeypatch.setattr(checkpoint, "save_file", real)
    said = tercel("resume", "runs/n")
    assert said.code == 0, said.err
    assert json.loads(Path("runs/n/run.json").read_text())["status"] == "finished"
    assert Path("runs/n/report.html").is_file()


def test_a_disk_that_fills_up_after_the_last_epoch(place: Path, tercel: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is finished only when it is judged: the trained weights are not stranded without scores and report."""

    def full(*_: Any, **__: Any) -> None:
        assert json.loads(Path("runs/n/run.json").read_text())["status"] == "running"  # should the power go now
        raise files.TercelError("cannot write preds.jsonl: No space left on device", "free some space")

    given = ["train", "boxes", "--train", "yolo:yolo#train", "--val", "yolo:yolo#val", "--out", "runs", "--name", "n"]
    with monkeypatch.context() as patch:
        patch.setattr(api, "write_evaluation", full)
        assert tercel(*given, *SET).code == 2
    assert json.loads(Path("runs/n/run.json").read_text())["status"] == "failed"
    said = tercel("resume", "runs/n")
    assert said.code == 0, said.err
    assert json.loads(Path("runs/n/metrics.json").read_text())["scores"]


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "r", PICTURES, "--out", "ro/p"],
        ["eval", "r", "--out", "ro/p"],
        ["convert", "yolo:yolo#val", "ro/c", "--to", "voc"],
        ["demo", "--out", "ro/d"],
    ],
    ids=lambda w: w[0],
)
def test_a_folder_that_cannot_be_made(words: list[str], place: Path, tercel: Run) -> None:
    """The parent is a file, so that not even root can make a folder in it."""
    Path("ro").write_text("a file")
    before = snapshot(place)
    check(tercel(*words), 2, ("ro/", "Not a directory"), before, place)


# -- interruptions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["read", "detect"])
def test_ctrl_c_outside_the_loop(where: str, place: Path, tercel: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """While data are read nothing is left behind; while the final judgement runs the training can be resumed."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    given = ["train", "boxes", "--train", "yolo:yolo#train", "--val", "yolo:yolo#val", "--out", "runs", "--name", "n"]
    before = snapshot(place)
    with monkeypatch.context() as patch:
        patch.setattr(*((source, "read", stop) if where == "read" else (api, "write_evaluation", stop)))
        said = tercel(*given, *SET)
    check(said, 130, ("stopped",), before, place)
    if where == "read":
        assert not Path("runs").exists()
        return
    assert "tercel resume runs/n" in said.err
    assert json.loads(Path("runs/n/run.json").read_text())["status"] == "interrupted"
    assert tercel("resume", "runs/n").code == 0


def test_as_it_is_typed(place: Path) -> None:
    """The same through the installed program: a bad label, a bad picture, and what a shell sees."""
    boxes("nan 1 9 9")
    cut(JPG["voc"])
    words = [sys.executable, "-m", "tercel.cli", "convert", "voc:voc#train", "out", "--to", "coco"]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith(f"error: {JPG['voc']}: not a readable picture: image file is truncated")
    assert "Traceback" not in said.stderr
