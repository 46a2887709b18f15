"""One loader for all pixel types, upright; every broken picture named with a remedy."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tercel.core.finding import TercelError
from tercel.data.images import find_pictures, picture_header, picture_size, read_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 31, 3), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(0, 240, 4)[:, None], np.arange(0, 160, 2)[None], 90), -1).astype(
    np.uint8
)


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "gif", "webp", "jpg"])
def test_file_formats(suffix: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(SMOOTH), **({"lossless": True} if suffix == "webp" else {}))
    out = read_image(path)
    assert out.dtype == np.uint8
    assert out.flags["C_CONTIGUOUS"]
    assert out.flags["WRITEABLE"]
    assert out.shape == SMOOTH.shape
    tolerance = {"jpg": 6, "gif": 40}.get(suffix, 0)
    assert np.abs(out.astype(int) - SMOOTH).max() <= tolerance
    assert picture_size(path) == SMOOTH.shape[:2]


def test_the_channels_are_red_green_blue(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    for suffix in ("png", "jpg", "bmp"):
        out = read_image(save(tmp_path / f"r.{suffix}", Image.fromarray(red)))
        assert out[4, 4, 0] > 250
        assert out[4, 4, 2] < 5


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(suffix: str, orientation: int, tmp_path: Path) -> None:
    """Against Pillow's own exif_transpose, for all eight orientations, on a picture that is not square."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(RGB), exif=exif)
    with Image.open(path) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    out = read_image(path)
    assert out.shape == upright.shape
    assert (out == upright).all()
    assert picture_size(path) == upright.shape[:2]
    assert picture_header(path)[1] == orientation


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_counts_as_upright(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "JPEG", exif=b"Exif\0\0MM\0*garbage" * 3)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert read_image(tmp_path / "a.jpg").shape == RGB.shape


def test_grey_and_palette(tmp_path: Path) -> None:
    grey = RGB[..., 0]
    for suffix in ("png", "tif"):
        out = read_image(save(tmp_path / f"g.{suffix}", Image.fromarray(grey)))
        assert (out == grey[..., None]).all()
    few = (RGB // 128) * 255
    out = read_image(save(tmp_path / "p.png", Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE)))
    assert np.abs(out.astype(int) - few).max() <= 1
    bits = save(tmp_path / "b.png", Image.fromarray(grey > 128))
    assert (read_image(bits) == ((grey > 128) * 255)[..., None]).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_its_high_byte_whatever_the_picture_shows(suffix: str, tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (12, 9), dtype=np.uint16)
    out = read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(values)))
    assert (out == (values >> 8)[..., None]).all()
    dark = np.minimum(values, 1000).astype(np.uint16)
    assert read_image(save(tmp_path / f"d.{suffix}", Image.fromarray(dark))).max() == 3


def test_16_bit_colour_png(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (12, 9, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values[..., ::-1])
    assert (read_image(tmp_path / "a.png") == values >> 8).all()


def test_float_pictures_have_no_range(tmp_path: Path) -> None:
    path = save(tmp_path / "f.tif", Image.fromarray(np.ones((4, 4), np.float32)))
    with pytest.raises(TercelError, match=r"f\.tif: pixels of type float32"):
        read_image(path)


def test_alpha_is_composited_over_the_grey_of_no_picture(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    rgba[:, :10, 3] = 0
    out = read_image(save(tmp_path / "a.png", Image.fromarray(rgba)))
    assert (out[:, :10] == 114).all()
    assert (out[:, 10:] == RGB[:, 10:]).all()
    keyed = save(tmp_path / "t.png", Image.fromarray(np.zeros((4, 4, 3), np.uint8)), transparency=(0, 0, 0))
    assert (read_image(keyed) == 114).all()


def test_cmyk(tmp_path: Path) -> None:
    picture = Image.fromarray(SMOOTH).convert("CMYK")
    out = read_image(save(tmp_path / "c.jpg", picture, quality=95))
    assert np.abs(out.astype(int) - SMOOTH).max() <= 12


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_pictures_are_refused_by_name(suffix: str, share: float, tmp_path: Path) -> None:
    path = save(tmp_path / f"half.{suffix}", Image.fromarray(RGB))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(TercelError, match=rf"half\.{suffix}: not a readable picture") as e:
        read_image(path)
    assert e.value.remedy


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_decoder_that_fills_up_truncated_data_is_not_believed(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV before 5 gave half a picture and the rest grey, with no more than a line on standard error."""
    path = save(tmp_path / f"half.{suffix}", Image.fromarray(RGB))
    path.write_bytes(path.read_bytes()[:-30])
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.full((20, 31, 3), 128, np.uint8))
    with pytest.raises(TercelError, match="not a readable picture"):
        read_image(path)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(RGB))
    clean = read_image(path)
    path.write_bytes(path.read_bytes() + b"\0" * 7)
    assert (read_image(path) == clean).all()


@pytest.mark.parametrize("reader", [read_image, picture_size])
def test_what_is_no_picture(reader: object, tmp_path: Path) -> None:
    (tmp_path / "dir.jpg").mkdir()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").touch()
    for name, message in (
        ("dir.jpg", "is a directory"),
        ("text.jpg", "not a readable picture"),
        ("empty.png", r"empty \(0 bytes\)"),
        ("missing.jpg", "does not exist"),
    ):
        with pytest.raises(TercelError, match=rf"{name}.*{message}"):
            reader(tmp_path / name)  # type: ignore[operator]


def test_find_pictures(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", "sub/c.tiff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "fake.png").mkdir()
    assert [p.name for p in find_pictures([str(tmp_path)])] == ["a.png", "b.JPG"]
    assert [p.name for p in find_pictures([str(tmp_path / "**" / "*")])] == ["a.png", "b.JPG", "c.tiff"]
    assert [p.name for p in find_pictures([str(tmp_path / "b.JPG"), str(tmp_path)])] == ["b.JPG", "a.png"]
    for item, message in (
        ("notes.txt", "not a picture by its suffix"),
        ("nothing/*.png", "no picture matches"),
        ("a.jpg", "does not exist"),
        ("fake.png", "holds no picture"),
    ):
        with pytest.raises(TercelError, match=message):
            find_pictures([str(tmp_path / item)])
    with pytest.raises(TercelError) as e:
        find_pictures([str(tmp_path / "a.jpg")])
    assert "a.png" in e.value.remedy
    with pytest.raises(TercelError, match="no pictures were named"):
        find_pictures([])


def test_an_empty_folder_points_to_the_pictures_below(tmp_path: Path) -> None:
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "deep" / "down" / "a.png").touch()
    with pytest.raises(TercelError, match="holds no picture") as e:
        find_pictures([str(tmp_path)])
    assert str(tmp_path / "deep" / "down") in e.value.remedy


def test_a_file_whose_name_looks_like_a_pattern_is_found(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").touch()
    assert find_pictures([str(tmp_path / "a[1].png")]) == [tmp_path / "a[1].png"]
