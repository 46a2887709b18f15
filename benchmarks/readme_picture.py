"""The README's picture, from a demo run: `tercel demo`, then `python -m benchmarks.readme_picture demo/runs/NAME 1`.

One validation picture as the network saw it at four evaluations, beside the truth: learning, at a glance. Generated
shapes, so the picture belongs to the project.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tercel.core.files import write_atomic
from tercel.data.images import read_image
from tercel.report.draw import contact_sheet
from tercel.report.save import encode

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs/images/readme.jpg"
CAPTION = 24  # px below each half of a sample picture


def main(run: Path, number: int = 0) -> None:
    epochs = sorted(p for p in (run / "samples").iterdir() if p.is_dir())
    chosen = [epochs[i] for i in np.unique(np.linspace(0, len(epochs) - 1, 3).round().astype(int))]
    halves, captions = [], []
    for folder in chosen:
        picture = read_image(sorted(folder.glob(f"{number}_*.jpg"))[0])
        middle = picture.shape[1] // 2
        if not halves:
            halves.append(picture[:-CAPTION, :middle])
            captions.append("truth")
        halves.append(picture[:-CAPTION, middle:])
        captions.append(f"after {int(folder.name)} epochs")
    sheet = contact_sheet(halves, columns=len(halves), captions=captions)
    write_atomic(OUT, encode(sheet, ".jpg", 80))
    sys.stderr.write(f"{OUT} {sheet.shape[1]} x {sheet.shape[0]} px, {OUT.stat().st_size / 1024:.0f} KiB\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
