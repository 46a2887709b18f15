"""DeepLabCut csv by hand: one animal and several, paths in one column and in three, half a pixel, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tercel.core.finding import TercelError
from tercel.core.record import Dataset
from tercel.data import source
from tercel.data.formats import deeplabcut

ONE = """scorer,Ann,Ann,Ann,Ann,Ann,Ann
bodyparts,snout,snout,leftear,leftear,rightear,rightear
coords,x,y,x,y,x,y
labeled-data/m1/img01.png,10,11.5,0,7.25,,
labeled-data/m1/img02.png,,,,,,
"""
SEVERAL = """scorer,,,Ann,Ann,Ann,Ann,Ann,Ann,Ann,Ann,Ann,Ann
individuals,,,a,a,a,a,b,b,b,b,single,single
bodyparts,,,snout,snout,tail,tail,snout,snout,tail,tail,corner,corner
coords,,,x,y,x,y,x,y,x,y,x,y
labeled-data,m1,img01.png,1,2,3,4,11,12,13,14,5,5
labeled-data,m1,img02.png,,,,,21,22,,,,
"""
CONFIG = "scorer: Ann\nskeleton:\n- [snout, leftear]\n- [snout, hip]\n"


def make(folder: Path, text: str = ONE, video: str = "m1", config: str = CONFIG, scorer: str = "Ann") -> Path:
    """A project with one video of two frames."""
    place = folder / "labeled-data" / video
    place.mkdir(parents=True, exist_ok=True)
    (place / f"CollectedData_{scorer}.csv").write_text(text)
    for name in ("img01.png", "img02.png"):
        Image.new("RGB", (60, 40)).save(place / name)
    (folder / "config.yaml").write_text(config)
    return folder


def said(d: Dataset) -> dict[str, int]:
    return {f.check: f.count for f in d.findings}


def test_one_animal_by_hand(tmp_path: Path) -> None:
    d = source.read(str(make(tmp_path)))
    assert d.schema.keypoints == ("snout", "leftear", "rightear")
    assert d.schema.edges == (("snout", "leftear"),)
    assert d.schema.flip_pairs == (("leftear", "rightear"),)
    o = d["img01"].objects
    assert o.points.tolist() == [[[10.5, 12], [0.5, 7.75], [0, 0]]]  # type: ignore[union-attr]
    assert o.visible.tolist() == [[2, 2, 0]]  # type: ignore[union-attr]
    assert o.boxes.tolist() == [[0.5, 7.75, 10.5, 12]]
    assert len(d["img02"].objects) == 0
    assert d["img01"].group == "m1"
    assert d["img01"].source.endswith("CollectedData_Ann.csv:4")
    assert said(d) == {"labels.flip_pairs": 1, "labels.skeleton": 1, "data.negatives": 1}  # hip is not labelled


def test_several_animals_by_hand(tmp_path: Path) -> None:
    d = source.read(str(make(tmp_path, SEVERAL, config="")))
    assert d.schema.keypoints == ("snout", "tail")
    assert d["img01"].objects.points.tolist() == [  # type: ignore[union-attr]
        [[1.5, 2.5], [3.5, 4.5]], [[11.5, 12.5], [13.5, 14.5]]]  # fmt: skip
    assert d["img02"].objects.visible.tolist() == [[2, 0]]  # type: ignore[union-attr]
    assert said(d)["labels.unique_points"] == 1  # the corner of the cage belongs to no animal


def test_a_csv_its_folder_and_the_project_are_one_source(tmp_path: Path) -> None:
    project = make(tmp_path)
    folder = project / "labeled-data/m1"
    for place in (project, project / "labeled-data", folder, folder / "CollectedData_Ann.csv"):
        d = source.read(str(place))
        assert [r.id for r in d.records] == ["img01", "img02"]
        assert d.schema.edges == (("snout", "leftear"),)


def test_videos_are_splits_and_groups(tmp_path: Path) -> None:
    make(tmp_path)
    other = ONE.replace("m1", "m2").replace("snout,snout,leftear,leftear", "leftear,leftear,snout,snout")
    make(tmp_path, other, "m2")
    d = source.read(str(tmp_path))
    assert deeplabcut.splits(tmp_path) == ["m1", "m2"]
    assert [r.id for r in d.records] == ["m1/img01", "m1/img02", "m2/img01", "m2/img02"]
    assert d["m2/img01"].objects.points[0, 0].tolist() == [0.5, 7.75]  # type: ignore[index]  # by name, not by column
    assert {r.group for r in source.read(f"{tmp_path}#m2").records} == {"m2"}
    assert len(source.read(f"{tmp_path}#m1,m2")) == 4
    with pytest.raises(TercelError, match="no split 'm3'"):
        source.read(f"{tmp_path}#m3")
    make(tmp_path, ONE.replace("snout", "nose"), "m2")
    with pytest.raises(TercelError, match=r"CollectedData_Ann.csv: other points than in the other videos \('nose'\)"):
        source.read(str(tmp_path))


def test_of_two_scorers_the_project_says_which(tmp_path: Path) -> None:
    make(tmp_path)
    make(tmp_path, ONE.replace("10,11.5", "20,21.5"), scorer="Bob")
    assert source.read(str(tmp_path))["img01"].objects.points[0, 0, 0] == 10.5  # type: ignore[index]
    bob = source.read(str(tmp_path / "labeled-data/m1/CollectedData_Bob.csv"))
    assert bob["img01"].objects.points[0, 0, 0] == 20.5  # type: ignore[index]
    make(tmp_path, config="")
    with pytest.raises(TercelError, match="holds 2 sets of labels"):
        source.read(str(tmp_path))


def test_frames_without_a_row_and_rows_without_a_frame_are_counted(tmp_path: Path) -> None:
    make(tmp_path)
    folder = tmp_path / "labeled-data/m1"
    Image.new("RGB", (60, 40)).save(folder / "img03.png")
    assert said(source.read(str(tmp_path)))["labels.none"] == 1
    (folder / "img02.png").unlink()
    assert said(source.read(str(tmp_path)))["pictures.missing"] == 1


BAD = {
    "a row that is too short": (",0,7.25,,", ",0,7.25", r"CollectedData_Ann.csv:4: 5 columns, the header has 7"),
    "no number": ("11.5", "left", r"CollectedData_Ann.csv:4: 'left' \(value 2\) is no number"),
    "no coords": ("coords,x,y,x,y,x,y\n", "", r"no header row 'coords'"),
    "likelihoods": ("coords,x,y,x,y,x,y", "coords,x,y,likelihood,x,y,likelihood", r"\(coords\): x, y, likelihood"),
    "a point twice": ("leftear,leftear", "snout,snout", r"the point 'snout' stands there twice"),
    "x of one and y of another": ("leftear,leftear", "leftear,nose", r"x of 'leftear' is followed by y of 'nose'"),
    "header rows that differ": ("scorer,Ann,", "scorer,", r"header rows of different length"),
    "a frame elsewhere": ("labeled-data/m1/img01.png", "labeled-data/m1/../../x.png", r"leaves the folder"),
    "no rows": ("labeled-data/m1/img01.png,10,11.5,0,7.25,,\nlabeled-data/m1/img02.png,,,,,,\n", "", "labels no frame"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_csv_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    old, new, message = BAD[case]
    assert old in ONE
    with pytest.raises(TercelError, match=message) as e:
        source.read(f"deeplabcut:{make(tmp_path, ONE.replace(old, new, 1))}")
    assert e.value.remedy


def test_points_that_are_infinite_count_as_absent(tmp_path: Path) -> None:
    d = source.read(str(make(tmp_path, ONE.replace("10,11.5", "10,inf"))))
    assert d["img01"].objects.visible.tolist() == [[0, 2, 0]]  # type: ignore[union-attr]
    assert said(d)["labels.point_not_finite"] == 1
