"""Pages that work offline: one file that loads nothing, with a content policy that forbids every connection.

All text from outside (file names, class names, messages) is escaped by Jinja2; pictures are data URIs, plots inline
SVG.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercel.report.draw import class_color
from tercel.report.words import count, fixed, pixels, plain, when

TEMPLATES = Path(__file__).parent / "templates"


def page(template: str, content: Mapping[str, Any]) -> str:
    """A template of the folder `templates`, filled; scripts other than our own are forbidden by the page itself."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": fixed, "count": count, "pixels": pixels, "when": when, "plain": plain}
    environment.filters["svg"] = Markup  # drawn by plots.py, where matplotlib escapes all text
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        **content,
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        digest=digest,
    )


def swatch(label: int) -> str:
    """The colour of a class (or of another series) for CSS; none for -1."""
    return "#{:02x}{:02x}{:02x}".format(*class_color(label)) if label >= 0 else "transparent"
