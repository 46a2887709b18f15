"""XML of labelImg and its kin (<annotation> with <object>s), parsed with the line of each object.

Shared by voc and by the formats whose objects hold other shapes than <bndbox>.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tercel.core.finding import TercelError
from tercel.data.formats import common


@dataclass
class Object:
    """One <object>: `parts` holds what lies within it, such as {"bndbox": {"xmin": "3", ...}}; texts as written."""

    line: int
    name: str = ""
    difficult: str = "0"
    parts: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass
class Annotation:
    """One file: `size` (H, W) or None where it declares none, `line` where it does."""

    path: Path = Path()
    line: int = 1
    filename: str = ""
    sides: dict[str, str] = field(default_factory=dict)
    objects: list[Object] = field(default_factory=list)
    size: tuple[int, int] | None = None


class _Target:
    """Receives the parser's events; keeps what we read and the line it stood on."""

    def __init__(self, path: Path) -> None:
        self.found, self.path, self.text = Annotation(path), [""], ""
        self.expat: Any = None

    def start(self, tag: str, _: dict[str, str]) -> None:
        self.path.append(tag)
        self.text = ""
        if self.path == ["", "annotation", "object"]:
            self.found.objects.append(Object(self.expat.CurrentLineNumber))
        elif tag == "size":
            self.found.line = self.expat.CurrentLineNumber

    def data(self, text: str) -> None:
        self.text += text

    def end(self, tag: str) -> None:
        parents = self.path[2:-1]
        if len(parents) == 2 and parents[0] == "object":
            self.found.objects[-1].parts.setdefault(parents[1], {})[tag] = self.text
        elif parents == ["object"] and tag in {"name", "difficult"}:
            setattr(self.found.objects[-1], tag, self.text.strip())
        elif parents == ["size"]:
            self.found.sides[tag] = self.text
        elif not parents and tag == "filename":
            self.found.filename = self.text.strip()
        self.path.pop()

    def close(self) -> Annotation:
        return self.found


def parse(path: Path) -> Annotation:
    """The file's objects and what it says of its picture.

    Raises:
        TercelError: unreadable, broken, not UTF-8 where nothing else is declared, or XML that declares entities.
    """
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    events = _Target(path)
    parser = DefusedXMLParser(target=events)
    events.expat = parser.parser
    try:
        data = path.read_bytes()
        parser.feed(data)
        parser.close()
    except DefusedXmlException as e:
        line = events.expat.CurrentLineNumber
        raise TercelError(f"{path}:{line}: declares entities, which labels never need", "remove the DOCTYPE") from e
    except ParseError as e:
        line = e.position[0]
        if b"encoding=" not in data[:200]:
            common.read_text(path)  # says so when the real trouble is the encoding
        raise TercelError(f"{path}:{line}: broken XML: {e}", "correct or remove the file") from e
    except (OSError, LookupError, ValueError) as e:
        raise TercelError(f"cannot read {path}: {e}", "correct or remove the file") from e
    found = events.found
    if found.sides:
        try:
            found.size = int(float(found.sides["height"])), int(float(found.sides["width"]))
        except (KeyError, ValueError, OverflowError) as e:
            raise TercelError(f"{path}:{found.line}: the picture size is no width and height", "correct <size>") from e
    return found
