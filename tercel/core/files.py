"""Writing files so that a crash, a full disk or a second writer never leaves half a file or loses the old one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tercel.core.finding import TercelError

# Read once, at import, while no other thread runs: umask can only be read by setting it.
_UMASK = os.umask(0)
os.umask(_UMASK)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a temporary file beside `path`, fsync it, rename it over `path`, fsync the folder.

    Raises:
        TercelError: the disk is full or the folder cannot be written; the old file is still there.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
            temporary = f.name
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as e:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise TercelError(
            f"cannot write {path}: {e.strerror or e}",
            "free some space or choose another folder; what was there before is untouched",
        ) from e


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, atomically. NaN and infinity are refused: JSON has none."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Parsed JSON.

    Raises:
        TercelError: missing, not UTF-8, or not JSON (line and column named).
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as e:
        raise TercelError(f"{path} does not exist", "check the path") from e
    except UnicodeDecodeError as e:
        raise TercelError(f"{path}: byte {e.start} is not UTF-8", "save the file as UTF-8") from e
    except json.JSONDecodeError as e:
        raise TercelError(f"{path}:{e.lineno}: not JSON: {e.msg} (column {e.colno})", "was the file cut off?") from e
    except (ValueError, RecursionError) as e:  # a number of thousands of digits, brackets in thousands
        raise TercelError(f"{path}: not JSON that can be read: {e}", "write the file again") from e
    except OSError as e:
        raise TercelError(f"cannot read {path}: {e.strerror or e}", "check the path and its permissions") from e


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
