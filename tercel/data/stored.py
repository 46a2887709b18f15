"""Still pictures that lie within one HDF5 file, as DeepPoseKit keeps them: `Frame(path, index)` names one.

The data set `images` is u8 [N,H,W], [N,H,W,1] (grey) or [N,H,W,3]. Three channels are blue, green, red: DeepPoseKit
fills its files through OpenCV and shows them through it. Shape legend: N pictures of H, W px.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.finding import TercelError
from tercel.core.record import Frame

if TYPE_CHECKING:
    import h5py

SUFFIXES = (".h5", ".hdf5")
KEY = "images"
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_store(path: Path) -> bool:
    """True when the name ends like an HDF5 file; nothing is opened."""
    return path.suffix.lower() in SUFFIXES


def is_hdf5(path: Path) -> bool:
    """True for a file that begins as HDF5 files do."""
    try:
        with open(path, "rb") as f:
            return f.read(len(_SIGNATURE)) == _SIGNATURE
    except OSError:
        return False


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises:
        TercelError: no such file, or no (whole) HDF5 file; also for what fails while it is read.
    """
    import h5py

    if not path.is_file():
        raise TercelError(f"{path} does not exist" if not path.exists() else f"{path} is no file", "check the path")
    try:
        with h5py.File(path, "r") as f:
            yield f
    except (OSError, RuntimeError) as e:
        reason = "it is no HDF5 file" if not is_hdf5(path) else str(e).split("(")[0].strip().lower()
        raise TercelError(f"cannot read {path}: {reason}", "replace the file (was it copied as a whole?)") from e


def pictures(file: h5py.File, path: Path) -> tuple[h5py.Dataset, tuple[int, int]]:
    """The data set of pictures, and their (H, W).

    Raises:
        TercelError: there is none, or it holds something else than pictures u8.
    """
    import h5py

    data = file.get(KEY)
    if not isinstance(data, h5py.Dataset):
        raise TercelError(
            f"{path} has no data set {KEY!r}; it holds {', '.join(file) or 'nothing'}", "name the pictures `images`"
        )
    channels = data.shape[3] if data.ndim == 4 else 1
    if data.ndim not in (3, 4) or channels not in (1, 3) or 0 in data.shape[1:3] or data.dtype != np.uint8:
        raise TercelError(
            f"{path}: {KEY!r} is {data.dtype} {list(data.shape)}",
            "pictures are uint8 [number, height, width, 1 or 3]",
        )
    return data, (int(data.shape[1]), int(data.shape[2]))


def stored_size(path: Path) -> tuple[int, int]:
    """(H, W) of the pictures of an HDF5 file.

    Raises:
        TercelError: as `read_stored`.
    """
    with opened(path) as file:
        return pictures(file, path)[1]


def read_stored(frame: Frame) -> NDArray[np.uint8]:
    """The picture RGB u8 [H,W,3] of an HDF5 file.

    Raises:
        TercelError: no such file or picture, no HDF5 file, no pictures in it.
    """
    with opened(frame.path) as file:
        data, _ = pictures(file, frame.path)
        if not 0 <= frame.index < len(data):
            raise TercelError(f"{frame.path} has no picture {frame.index}: it holds {len(data)}", "check the labels")
        pixels: NDArray[Any] = data[frame.index]
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels[..., ::-1])
    return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)


def pixel_hash(frame: Frame) -> str:
    """128-bit BLAKE2 of the pixels of a picture, in hex: files that hold the same pictures differ in their labels.

    Raises:
        TercelError: as `read_stored`.
    """
    pixels = read_stored(frame)
    return hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()
