"""Pictures from disk: ONE loader for training, evaluation, prediction and export, so that all four see equal pixels.

What comes out is always RGB u8 [H,W,3], upright (the EXIF orientation is applied):

- grey: the value three times; palette: its colours;
- 16-bit: the high byte, v // 256, a fixed scale. It never depends on what the picture shows, so that equal values
  stay equal from picture to picture; stretch a camera's 12 or 14 bits yourself, once, for the whole set;
- alpha: composited over the grey FILL (114), the colour that Tercel paints wherever there is no picture;
- CMYK: converted by Pillow; several pages or frames in one file: the first.

Shape legend: H, W picture size in px.
"""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import TercelError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
FILL = 114  # what shows through transparent pixels; the letterbox grey of config.Data.fill

_ORIENTATION = 0x0112  # EXIF tag
_REMEDY = "replace or remove the picture (does another program open it?)"


def is_picture(name: str | Path) -> bool:
    """True when the name ends like a picture that Tercel reads; nothing is opened."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def read_image(path: Path) -> NDArray[np.uint8]:
    """The picture as RGB u8 [H,W,3], EXIF orientation applied; see the top of this file for other pixel types.

    JPEG data that is damaged in its middle but complete at its end cannot be told from a strange picture.

    Raises:
        TercelError: no such file, a directory, not a picture, truncated, or pixels without a known range.
    """
    data = _bytes(path)
    with _opened(path, data) as picture:
        orientation = _orientation(picture)
        quick = picture.mode in {"RGB", "L"} and "transparency" not in picture.info
        if quick and picture.format in {"JPEG", "PNG"} and _complete(data, picture.format):
            import cv2

            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            if pixels is not None:
                return _upright(pixels.astype(np.uint8, copy=False), orientation)
        # Pillow turns TIFF files upright by itself while it loads them, and no others.
        return _upright(_pixels(path, picture), 1 if picture.format == "TIFF" else orientation)


def picture_size(path: Path) -> tuple[int, int]:
    """(H, W) of the upright picture, from its header only.

    Raises:
        TercelError: no such file, a directory, or not a picture.
    """
    return picture_header(path)[0]


def picture_header(path: Path) -> tuple[tuple[int, int], int]:
    """(H, W) of the upright picture, and its EXIF orientation 1..8 (1 = stored upright, 5..8 = sides exchanged)."""
    with _opened(path, None) as picture:
        if picture.mode == "F":
            raise _no_range(path, "float32")
        orientation = _orientation(picture)
        w, h = picture.size
    # Pillow gives the size of TIFF files after, of all others before their orientation.
    swapped = orientation >= 5 and picture.format != "TIFF"
    return ((w, h) if swapped else (h, w)), orientation


def check_whole(path: Path) -> None:
    """Refuse a picture that was cut off, by its last bytes; only one that looks odd there is decoded.

    Raises:
        TercelError: no such file, or truncated.
    """
    ends = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}
    end = ends.get(os.path.splitext(path)[1].lower())
    try:
        with open(path, "rb") as f:
            f.seek(-min(8, os.fstat(f.fileno()).st_size), os.SEEK_END)
            odd = end is None or not f.read(8).endswith(end)
    except OSError as e:
        raise _unreadable(path, e) from e
    if odd:
        read_image(path)


def find_pictures(items: Sequence[str]) -> list[Path]:
    """Picture files behind file names, folders (not their subfolders) and globs (`**` too); each once, in order.

    What merely has a picture's name (a broken link, a text file) is listed too: reading it says what is wrong.

    Raises:
        TercelError: an item that does not exist, holds no picture, or is not a picture by its suffix.
    """
    found: dict[str, Path] = {}  # by normalised path: a picture that is named twice is one picture

    def add(paths: Iterable[Path]) -> None:
        for p in paths:
            found.setdefault(os.path.abspath(p), p)

    for item in items:
        path = Path(item)
        if path.is_dir():
            add(_in_folder(path))
        elif os.path.lexists(path):
            if not is_picture(path):
                raise TercelError(f"{path} is not a picture by its suffix", f"pictures end in {' '.join(SUFFIXES)}")
            add([path])
        elif glob.has_magic(item):
            matches = [Path(m) for m in sorted(glob.glob(item, recursive=True)) if is_picture(m)]
            files = [m for m in matches if not m.is_dir()]
            if not files:
                raise TercelError(
                    f"no picture matches {item}", "check the pattern (quote it, so that the shell keeps it)"
                )
            add(files)
        else:
            beside = sorted(p.name for p in path.parent.glob(f"{glob.escape(path.stem)}.*"))[:3]
            hint = f"there is {', '.join(beside)}" if beside else "check the spelling"
            raise TercelError(f"{path} does not exist", hint)
    if not found:
        raise TercelError("no pictures were named", "give picture files, folders or globs")
    return list(found.values())


def _in_folder(folder: Path) -> list[Path]:
    pictures = sorted(p for p in folder.iterdir() if is_picture(p) and not p.is_dir())
    if not pictures:
        below = sorted({str(p.parent) for p in folder.rglob("*") if is_picture(p) and p.is_file()})[:3]
        raise TercelError(
            f"{folder} holds no picture",
            f"did you mean {' or '.join(below)}?" if below else f"pictures end in {' '.join(SUFFIXES)}",
        )
    return pictures


# -- reading ------------------------------------------------------------------------------------------------------


def _bytes(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as e:
        raise _unreadable(path, e) from e


def _opened(path: Path, data: bytes | None) -> Image:
    """The picture with its header read and its pixels not."""
    import PIL.Image

    try:
        return PIL.Image.open(path if data is None else io.BytesIO(data))
    except PIL.Image.DecompressionBombError as e:
        reason = str(e).split(",")[0]
        raise TercelError(f"{path}: too many pixels to read at once: {reason}", "cut it into tiles") from e
    except (OSError, ValueError, SyntaxError, EOFError) as e:
        raise _unreadable(path, e) from e


def _unreadable(path: Path, e: Exception) -> TercelError:
    if Path(path).is_dir():
        return TercelError(f"{path} is a directory, not a picture", "rename or remove the directory")
    if isinstance(e, FileNotFoundError):
        if os.path.islink(path):
            return TercelError(f"{path} is a link to {os.readlink(path)}, which does not exist", "mend or remove it")
        return TercelError(f"{path} does not exist", "check the path")
    if Path(path).is_file() and Path(path).stat().st_size == 0:
        return TercelError(f"{path}: the picture is empty (0 bytes)", _REMEDY)
    reason = (e.strerror if isinstance(e, OSError) else None) or str(e).split("'")[0].strip() or type(e).__name__
    return TercelError(f"{path}: not a readable picture: {reason}", _REMEDY)


def _orientation(picture: Image) -> int:
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF blocks come damaged in every way; such a picture counts as upright, as in all viewers
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _complete(data: bytes, format: str) -> bool:
    """True when the data ends as its format must. OpenCV only warns about some that do not; Pillow refuses them."""
    return data.endswith(b"\xff\xd9" if format == "JPEG" else b"IEND\xaeB`\x82")


def _pixels(path: Path, picture: Image) -> NDArray[np.uint8]:
    """RGB u8 [H,W,3] by Pillow, which refuses truncated data; not yet upright (but TIFF files are)."""
    import PIL.Image

    try:
        picture.load()
        mode = picture.mode
        if mode in {"I", "F"} or mode.startswith("I;"):
            return _wide(path, np.asarray(picture))
        if mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in picture.info:
            top = picture.convert("RGBA")
            ground = PIL.Image.new("RGBA", top.size, (FILL, FILL, FILL, 255))
            picture = PIL.Image.alpha_composite(ground, top)
        return np.array(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, PIL.Image.DecompressionBombError) as e:
        raise _unreadable(path, e) from e


def _wide(path: Path, grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values of 16 bits as RGB u8 by their high byte."""
    if not np.issubdtype(grey.dtype, np.integer) or (grey.size and (grey.min() < 0 or grey.max() > 65535)):
        raise _no_range(path, str(grey.dtype))
    return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)


def _no_range(path: Path, kind: str) -> TercelError:
    return TercelError(f"{path}: pixels of type {kind} have no known range", "convert the pictures to 8 or 16 bits")


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the EXIF orientation (EXIF 2.3, tag 0x0112: which side of the scene the stored rows and columns are)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
