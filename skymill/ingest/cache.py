"""What is remembered of files between two runs of ingest, so that only new ones are read.

The cache holds modification times and may be deleted at any time; the sheet holds none.
Cells are kept as lists in the order of the sheet's columns: names in every row would make
the file three times as large, and reading it is most of the work of a second look at a
large archive.
"""

from __future__ import annotations

import gc
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from skymill.sheet import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from skymill.sheet import Row

__all__ = ["Remembered", "load_cache", "save_cache"]

#: Raised when the content of an entry or the meaning of a row changes.
FORMAT = 2

_COLUMNS = list(COLUMNS)


@dataclass(slots=True)
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
    # Nothing of what is made here can be garbage, and looking for some takes a third of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["columns"] != _COLUMNS:
            return {}
        return {name: _from_list(entry) for name, entry in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    finally:
        if collecting:
            gc.enable()


def _from_list(entry: list[Any]) -> Remembered:
    size, mtime_ns, context, sha256, content, rows, facts = entry
    named = [dict(zip(_COLUMNS, cells, strict=True)) for cells in rows]
    if not isinstance(facts, dict):
        raise TypeError("the figures are not named")
    return Remembered(size, mtime_ns, context, sha256, content, named, facts)


def save_cache(
    path: Path | None,
    files: Mapping[str, Remembered],
    known: Mapping[str, Remembered] | None = None,
) -> None:
    """Write the cache in one atomic step.

    Parameters
    ----------
    path : Path or None
        The file; None writes nothing.
    files : mapping
        Relative path to what is to be remembered.
    known : mapping, optional
        What the file holds. Nothing is written if every entry is the same object.
    """
    if path is None:
        return
    known = known or {}
    same = len(known) == len(files) and all(known.get(n) is one for n, one in files.items())
    if same and path.is_file():
        return
    content = {
        "format": FORMAT,
        "columns": _COLUMNS,
        "files": {name: _as_list(files[name]) for name in sorted(files)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _as_list(one: Remembered) -> list[Any]:
    rows = [[row[name] for name in _COLUMNS] for row in one.rows]
    return [one.size, one.mtime_ns, one.context, one.sha256, one.content, rows, one.facts]
