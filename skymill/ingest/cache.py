"""What is remembered of files between two runs of ingest, so that only new ones are read.

The cache holds modification times and may be deleted at any time; the sheet holds none.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from skymill.sheet import Row

__all__ = ["Remembered", "load_cache", "save_cache"]

#: Raised when the content of an entry or the meaning of a row changes.
FORMAT = 1


@dataclass
class Remembered:
    """One file as it was read.

    Parameters
    ----------
    size, mtime_ns : int
        Of the file; if one differs it is read again.
    context : str
        Digest of everything else that the rows depend on: instrument, overrides, settings.
    sha256, content : str
        Hash of the file and of its content after decompression.
    rows : list of dict
        Rows before the comparison of frames.
    facts : dict
        Frame id to figures of the pixels.
    """

    size: int
    mtime_ns: int
    context: str
    sha256: str = ""
    content: str = ""
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_cache(path: Path | None) -> dict[str, Remembered]:
    """Return what is remembered, by relative path; nothing if the cache cannot be used."""
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            return {}
        return {name: Remembered(**entry) for name, entry in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def save_cache(path: Path | None, files: dict[str, Remembered]) -> None:
    """Write the cache in one atomic step."""
    if path is None:
        return
    content = {"format": FORMAT, "files": {name: asdict(files[name]) for name in sorted(files)}}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
