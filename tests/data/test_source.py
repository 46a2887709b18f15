"""Sources: parsing, recognition, helpful refusals, conversion."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.objects import Objects
from tercel.core.record import Dataset, Frame, Record
from tercel.core.schema import Schema
from tercel.data import source
from tercel.data.formats import FORMATS
from tercel.data.source import Source, parse


def dataset(folder: Path, n: int = 3, ignore: bool = False) -> Dataset:
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i in range(1, n + 1):
        path = folder / f"{i}.png"
        Image.new("RGB", (60, 40), (i, 0, 0)).save(path)
        o = Objects((40, 60), [0, 1], [[1, 2, 30, 20], [4, 4, 9, 9]], [False, ignore])
        records.append(Record(str(i), (Frame(path),), (40, 60), o))
    return Dataset(Schema(("ball", "net")), tuple(records))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("voc:data/BCCD#trainval", Source(Path("data/BCCD"), "voc", "trainval")),
        ("coco:val.json", Source(Path("val.json"), "coco", None)),
        ("data/x", Source(Path("data/x"))),
        ("data/x#", Source(Path("data/x"))),
        ("yolo:a#b#c", Source(Path("a#b"), "yolo", "c")),
        ("./odd:name/x", Source(Path("odd:name/x"))),
    ],
)
def test_parse(text: str, wanted: Source) -> None:
    assert parse(text) == wanted


def test_parse_prefers_files_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("voc:x#y")
    assert parse("voc:x#y") == Source(Path("voc:x#y"))


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("", "names no path", "for example"),
        ("voc:", "names no path", "for example"),
        ("coc:x.json", "there is no format 'coc'", "did you mean coco"),
    ],
)
def test_parse_errors(text: str, message: str, remedy: str) -> None:
    with pytest.raises(TercelError, match=message) as e:
        parse(text)
    assert remedy in e.value.remedy


def test_nearest_places_are_named(tmp_path: Path) -> None:
    source.write(dataset(tmp_path / "in"), tmp_path / "deep" / "set", "voc")
    wanted = f"voc:{tmp_path / 'deep' / 'set'}"
    for text in (
        tmp_path,
        tmp_path / "deep",
        tmp_path / "deep" / "st",
        tmp_path / "deep" / "set" / "JPEGImages",
        tmp_path / "deep" / "set" / "Annotations",
        f"voc:{tmp_path / 'deep'}",
        f"voc:{tmp_path / 'deep' / 'set' / 'nothing'}",
    ):
        with pytest.raises(TercelError) as e:
            source.read(str(text))
        assert wanted in e.value.remedy, text


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TercelError) as e:
        source.read(str(tmp_path / "empty"))
    for f in FORMATS.values():
        assert f.LOOKS_LIKE in e.value.message


def test_the_wrong_format_is_refused(tmp_path: Path) -> None:
    source.write(dataset(tmp_path / "in"), tmp_path / "out", "voc")
    with pytest.raises(TercelError, match="is no coco source"):
        source.read(f"coco:{tmp_path / 'out'}")


def test_two_formats_in_one_place_are_ambiguous(tmp_path: Path) -> None:
    d = dataset(tmp_path / "in")
    for format_ in ("voc", "yolo"):
        source.write(d, tmp_path / "out", format_)
    with pytest.raises(TercelError, match="may be voc or yolo") as e:
        source.read(str(tmp_path / "out"))
    assert f"voc:{tmp_path / 'out'}" in e.value.remedy
    assert len(source.read(f"voc:{tmp_path / 'out'}#train")) == 3
    assert len(source.read(f"yolo:{tmp_path / 'out'}#train")) == 3


def test_splits_are_listed(tmp_path: Path) -> None:
    source.write(dataset(tmp_path / "in"), tmp_path / "out", "yolo", split="val")
    assert source.splits(f"{tmp_path / 'out'}#whatever") == ["val"]
    with pytest.raises(TercelError, match="no split 'train'") as e:
        source.read(f"{tmp_path / 'out'}#train")
    assert "it has val" in e.value.remedy


def test_convert_counts_what_goes_in_and_out(tmp_path: Path) -> None:
    source.write(dataset(tmp_path / "in", ignore=True), tmp_path / "voc", "voc", split="val")
    findings = source.convert(f"{tmp_path / 'voc'}#val", tmp_path / "coco", "coco")
    assert {f.check: f.count for f in findings} == {"convert.counts": 6}
    assert [o.objects.ignore.sum() for o in source.read(f"{tmp_path / 'coco'}#val").records] == [1, 1, 1]
    findings = source.convert(f"{tmp_path / 'voc'}#val", tmp_path / "yolo", "yolo")
    assert {f.check: f.count for f in findings} == {"convert.ignored": 3, "convert.counts": 3}
    with pytest.raises(TercelError, match="there is no format 'yoloo'") as e:
        source.convert(f"{tmp_path / 'voc'}#val", tmp_path / "z", "yoloo")
    assert "did you mean yolo" in e.value.remedy


def test_convert_notices_a_writer_that_loses_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    d = dataset(tmp_path / "in")
    source.write(d, tmp_path / "voc", "voc")
    write = FORMATS["coco"].write

    def lossy(d: Dataset, out: Path, **options: Any) -> list[Path]:
        r = d.records[0]
        fewer = Record(r.id, r.frames, r.size, r.objects[np.array([True, False])])
        return write(Dataset(d.schema, (fewer, *d.records[1:])), out, **options)

    monkeypatch.setattr(FORMATS["coco"], "write", lossy)
    with pytest.raises(TercelError, match="3 pictures and 6 objects went in, 3 and 5 came out"):
        source.convert(f"{tmp_path / 'voc'}#train", tmp_path / "coco", "coco")


def test_bccd_to_other_formats_and_back(shared: Path, tmp_path: Path) -> None:
    truth = source.read(f"voc:{shared / 'data/bccd/BCCD'}#test")
    for format_ in ("coco", "yolo"):
        source.convert(f"voc:{shared / 'data/bccd/BCCD'}#test", tmp_path / format_, format_)
        back = source.read(f"{tmp_path / format_}#test", classes=truth.schema.classes)
        for a, b in zip(truth.records, back.records, strict=True):
            assert a.objects.labels.tolist() == b.objects.labels.tolist()
            np.testing.assert_allclose(a.objects.boxes, b.objects.boxes, atol=1e-4)


def test_written_pictures_are_links_where_possible(tmp_path: Path) -> None:
    d = dataset(tmp_path / "in", 1)
    source.write(d, tmp_path / "out", "voc")
    assert (tmp_path / "out" / "JPEGImages" / "1.png").samefile(d.records[0].frames[0].path)


def test_without_hard_links_pictures_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    d = dataset(tmp_path / "in", 1)
    source.write(d, tmp_path / "out", "voc")
    copy = tmp_path / "out" / "JPEGImages" / "1.png"
    assert not copy.samefile(d.records[0].frames[0].path)
    assert copy.read_bytes() == d.records[0].frames[0].path.read_bytes()
    assert [p.name for p in copy.parent.iterdir()] == ["1.png"]
