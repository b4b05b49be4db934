"""The walk through the raw tree: every entry that looks like an image, or cannot be walked."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from skymill.io_raw import looks_like_fits

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Entry", "Listing", "list_tree"]

#: Names that promise an image; case does not matter.
_IMAGE = re.compile(r"\.(fits?|fts)(\.(gz|bz2|xz|fz|z|zip))?$|\.fz$", re.IGNORECASE)
_OTHER = re.compile(
    r"\.(cr2|cr3|nef|arw|dng|raf|orf|rw2|ser|xisf|tiff?|png|jpe?g|avi|zip|tar|tgz|tar\.(gz|bz2|xz))$",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Entry(NamedTuple):
    """One entry of the tree that gets a row.

    Parameters
    ----------
    path : str
        Relative path with ``/``; unprintable parts are escaped.
    full : str
        Where it lies.
    size, mtime_ns : int
        Of the file; 0 if it could not be looked at.
    code, message : str
        Why it cannot be read, empty for a file to read.
    """

    path: str
    full: str
    size: int = 0
    mtime_ns: int = 0
    code: str = ""
    message: str = ""


@dataclass
class Listing:
    """What the walk found."""

    entries: list[Entry] = field(default_factory=list)
    unreadable_dirs: list[str] = field(default_factory=list)
    hidden: int = 0


def list_tree(root: Path, *, follow_links: bool = False) -> Listing:
    """Return every entry below a folder that is an image by name or content.

    Hidden files and folders (``.name``) are counted and passed over. Nothing is opened
    that is not a regular file.

    Parameters
    ----------
    root : Path
        The raw folder.
    follow_links : bool
        Follow links that lead out of the tree, and links to folders.

    Returns
    -------
    Listing
        Entries sorted by path.
    """
    listing = Listing()
    real_root = Path(os.path.realpath(root))
    seen: set[tuple[int, int]] = set()
    folders = [(real_root, "")]
    while folders:
        folder, relative = folders.pop()
        for entry in _entries(folder, relative, listing, seen):
            path = f"{relative}/{entry.name}" if relative else entry.name
            if entry.name.startswith("."):
                listing.hidden += 1
                continue
            inner = _classify(entry, path, real_root, listing, follow_links)
            if inner is not None:
                folders.append((inner, path))
    listing.entries.sort(key=attrgetter("path"))
    listing.unreadable_dirs.sort()
    return listing


def _entries(
    folder: Path, relative: str, listing: Listing, seen: set[tuple[int, int]]
) -> Iterator[os.DirEntry[str]]:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda e: e.name)
    except OSError as error:
        shown = _printable(relative) or "."
        listing.unreadable_dirs.append(shown)
        message = f"The folder {shown} cannot be read: {error.strerror or error}."
        listing.entries.append(Entry(shown, str(folder), code="UNREADABLE_DIR", message=message))


def _classify(
    entry: os.DirEntry[str], path: str, root: Path, listing: Listing, follow_links: bool
) -> Path | None:
    """Add an entry to the listing, or return the folder to walk into."""
    named = bool(_IMAGE.search(entry.name) or _OTHER.search(entry.name))

    def add(code: str, message: str) -> None:
        listing.entries.append(Entry(_printable(path), entry.path, 0, 0, code, message))

    if entry.is_symlink():
        full = Path(entry.path)
        problem = _link_problem(full, root, follow_links)
        if problem:
            if named or full.is_dir():
                add("BAD_LINK", problem)
            return None
    try:
        status = entry.stat()
    except FileNotFoundError:
        if named:
            add("VANISHED", f"{_printable(entry.name)} was gone before it could be read.")
        return None
    except OSError as error:
        if named:
            add("UNREADABLE", f"{_printable(entry.name)} cannot be looked at: {error.strerror}.")
        return None
    if stat.S_ISDIR(status.st_mode):
        if _IMAGE.search(entry.name):
            add("NOT_A_FILE", f"{_printable(entry.name)} is a folder with an image's name.")
        return Path(entry.path)
    if not stat.S_ISREG(status.st_mode):
        if named:
            add("NOT_A_FILE", f"{_printable(entry.name)} is a pipe, socket or device.")
        return None
    if not named and not looks_like_fits(entry.path):
        return None
    if _printable(path) != path:
        add(
            "BAD_NAME",
            f"The name {_printable(path)} has control or undecodable characters; rename it.",
        )
    else:
        size, changed = status.st_size, status.st_mtime_ns
        listing.entries.append(Entry(path, entry.path, size, changed))
    return None


def _link_problem(link: Path, root: Path, follow_links: bool) -> str:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return "The link leads nowhere or in a circle."
    if follow_links:
        return ""
    if target.is_dir():
        return "The link leads to a folder; it is followed with ingest.follow_links only."
    if not target.is_relative_to(root):
        return "The link leads out of the raw folder; it is followed with ingest.follow_links only."
    return ""


def _printable(path: str) -> str:
    """Escape control characters and bytes that are not UTF-8."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda m: f"\\x{ord(m.group()):02x}", text)
