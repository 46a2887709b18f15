"""Pictures to files: atomic, and named so that no id can leave the folder."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercel.core.files import write_atomic
from tercel.core.finding import TercelError

KINDS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


def safe_name(id: str) -> str:
    """A file name (without suffix) made of an id: letters and digits of any script, dot, dash and underscore.

    At most 80 characters and 200 bytes. Two ids may get one name: see `distinct_names`.
    """
    name = re.sub(r"[^\w.-]+", "_", Path(id).stem if "/" not in id else id)[-80:]
    return name.encode()[-200:].decode(errors="ignore").strip("._") or "picture"


def distinct_names(ids: Sequence[str]) -> list[str]:
    """`safe_name` of each id; where several ids would share one (a.jpg and a.png), later ones are numbered."""
    taken: set[str] = set()
    out = []
    for id in ids:
        name, n = safe_name(id), 1
        while name.casefold() in taken:
            n += 1
            name = f"{safe_name(id)}-{n}"
        taken.add(name.casefold())
        out.append(name)
    return out


def save_picture(path: Path, image: NDArray[np.uint8], quality: int = 88) -> None:
    """RGB u8 [H,W,3] as JPEG or PNG, by the suffix, atomically.

    Raises:
        TercelError: another suffix, or a folder that cannot be written.
    """
    if path.suffix.lower() not in KINDS:
        raise TercelError(f"{path}: pictures are written as .jpg or .png", "change the suffix")
    write_atomic(path, encode(image, path.suffix, quality))


def encode(image: NDArray[np.uint8], suffix: str, quality: int = 88) -> bytes:
    """RGB u8 [H,W,3] as the bytes of a .jpg or .png file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, KINDS[suffix.lower()], quality=quality)
    return buffer.getvalue()
