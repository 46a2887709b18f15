"""Pictures inside the page: JPEGs as data URIs, and the fixed samples of a run from epoch to epoch."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

from tercel.core.finding import Finding, Severity
from tercel.report.reading import View
from tercel.report.strokes import Picture

SAMPLE_WIDTH = 1000  # px


def data_uri(picture: Picture, quality: int = 82) -> str:
    """A JPEG inside a link."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, optimize=True)
    return _uri(buffer.getvalue())


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def samples(view: View, budget: int) -> tuple[dict[str, Any], tuple[Finding, ...]]:
    """The fixed samples by picture and epoch: {"epochs": [...], "pictures": [{"name", "frames": [uri or None]}]}.

    Args:
        budget: bytes of JPEG, roughly; evaluations are left out to keep to it.
    """
    epochs = list(view.samples)
    names = list(dict.fromkeys(n for files in view.samples.values() for n in files))[:6]
    if not epochs or not names:
        return {"epochs": [], "pictures": [], "total": 0}, ()
    first, bad = _thumbnail(view.samples[epochs[-1]].get(names[0])), []
    room = max(2, budget // max(1, len(first or b"") or 60_000) // len(names))
    chosen = [
        epochs[i] for i in np.unique(np.linspace(0, len(epochs) - 1, min(room, 14, len(epochs))).round().astype(int))
    ]
    pictures = []
    used = 0
    for name in names:
        frames: list[str | None] = []
        for epoch in chosen:
            file = view.samples[epoch].get(name)
            jpeg = _thumbnail(file)
            if file is not None and jpeg is None:
                bad.append(str(file))
            used += len(jpeg or b"")
            frames.append(_uri(jpeg) if jpeg is not None and used <= 1.3 * budget else None)
        if any(frames):
            pictures.append({"name": name.partition("_")[2] or name, "frames": frames})
    message = "drawn samples cannot be read and are left out"
    notes = [Finding("report.sample", Severity.INFO, message, len(bad), tuple(bad[:5]))] if bad else []
    return {"epochs": chosen, "pictures": pictures, "total": len(epochs)}, tuple(notes)


def _thumbnail(file: Path | None) -> bytes | None:
    """The picture as a small JPEG, or None when it cannot be read."""
    from PIL import Image

    if file is None:
        return None
    try:
        with Image.open(file) as picture:
            small = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError):
        return None
    small.thumbnail((SAMPLE_WIDTH, 4 * SAMPLE_WIDTH))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=74, optimize=True)
    return buffer.getvalue()
