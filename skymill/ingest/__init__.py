"""From a tree of raw files to the sheet: find, read, classify, check.

`ingest` gives every file that looks like an image a row, the bad ones with a code and a
sentence. Nothing is written to the raw tree, and nothing in a file's header can stop it.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skymill.errors import ConfigError
from skymill.ingest.cache import Remembered, load_cache, save_cache
from skymill.ingest.files import Context, rejected_row, remembered
from skymill.ingest.group import check_groups
from skymill.ingest.image import Checks
from skymill.ingest.overrides import Overrides, read_overrides
from skymill.ingest.scan import Entry, list_tree
from skymill.ingest.table import summary
from skymill.ingest.workers import read_files
from skymill.instruments import all_instruments, instrument_names, load_instrument
from skymill.io_raw import Limits
from skymill.sheet import sort_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from skymill.sheet import Row

__all__ = ["Ingested", "Overrides", "ingest", "read_overrides", "summary"]


_PASSING = frozenset({"GROWING", "UNREADABLE", "VANISHED"})


@dataclass
class Ingested:
    """What ingest found.

    Parameters
    ----------
    rows : list of dict
        Rows of the sheet, sorted by path and HDU.
    unmatched_overrides : list of str
        Patterns of the overrides that match no file.
    unreadable_dirs : list of str
        Folders that could not be read.
    gone : list of str
        Paths of the previous sheet that are not there any more.
    n_read : int
        Files that were read; the others were known.
    notes : list of str
        What else is worth saying.
    """

    rows: list[Row]
    unmatched_overrides: list[str] = field(default_factory=list)
    unreadable_dirs: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    n_read: int = 0
    notes: list[str] = field(default_factory=list)


def ingest(
    raw: Path,
    *,
    instrument: str | None = None,
    overrides: Overrides | None = None,
    previous: Sequence[Row] | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    max_file_mb: float = 4096,
    follow_links: bool = False,
    checksum: str = "reject",
    max_cards: int = 10_000,
    min_side_px: int = 16,
    settle_s: float = 0.0,
    bias_max_exposure_s: float = 1.0,
    temperature_tolerance_k: float = 3.0,
    dead_area_reject: float = 0.6,
    unused_overrides: str = "error",
    workers: int | None = None,
) -> Ingested:
    """Read a raw tree and return the rows of its sheet.

    Parameters
    ----------
    raw : Path
        Folder of the raw files; only read.
    instrument : str, optional
        Instrument of all files, by name or path; without it each header tells.
    overrides : Overrides, optional
        Corrections by hand.
    previous : sequence of dict, optional
        Rows of the last sheet, to tell what is gone.
    cache : Path, optional
        File that remembers what was read (``.skymill/ingest.json``); files whose size and
        modification time are the same are not read again.
    progress : callable, optional
        Called with (files done, files found) now and then.
    max_file_mb, follow_links, checksum, max_cards, min_side_px, settle_s, bias_max_exposure_s, \
temperature_tolerance_k, dead_area_reject, unused_overrides
        Settings of ingest, described in docs/settings.md.
    workers : int, optional
        Processes that read, see `skymill.ingest.workers.read_files`.

    Returns
    -------
    Ingested
        Every entry that looks like an image has a row: accepted, with fixes, degraded or
        rejected.

    Raises
    ------
    ConfigError
        If the folder or the instrument does not exist, or (``unused_overrides = error``) an
        override matches no file: OVERRIDE_UNUSED.
    """
    if not raw.is_dir():
        raise ConfigError(f"raw: {raw} is not a folder")
    overrides = overrides or Overrides()
    context = Context(
        load_instrument(instrument) if instrument else None,
        _instruments_digest(instrument),
        overrides,
        Limits(int(max_file_mb * 10**6), max_cards),
        Checks(min_side_px, bias_max_exposure_s, temperature_tolerance_k, dead_area_reject),
        checksum,
        settle_s,
        time.time(),
        all_instruments(),
    )
    listing = list_tree(raw, follow_links=follow_links)
    unmatched = overrides.unmatched([entry.path for entry in listing.entries])
    if unmatched and unused_overrides == "error":
        raise ConfigError(_unused(unmatched, len(listing.entries)))
    known = load_cache(cache)
    files: dict[str, Remembered] = {}
    rows: list[Row] = []
    old = {
        entry.path: remembered(entry, known.get(entry.path), context)
        for entry in listing.entries
        if not entry.code
    }
    wanted = [entry for entry in listing.entries if not entry.code and old[entry.path] is None]
    reading = read_files(wanted, context, workers=workers)
    for number, entry in enumerate(listing.entries):
        if entry.code:
            rows.append(rejected_row(entry, entry.code, entry.message))
            continue
        fresh = old[entry.path] or next(reading)
        rows.extend(fresh.rows)
        # What may heal without a change of the file's time is looked at again.
        if not any(row["code"] in _PASSING for row in fresh.rows):
            files[entry.path] = fresh
        if progress is not None:
            progress(number + 1, len(listing.entries))
    save_cache(cache, files, known)
    rows.sort(key=sort_key)
    facts = {name: figures for one in files.values() for name, figures in one.facts.items()}
    paths = {row["path"] for row in rows}
    return Ingested(
        check_groups(rows, facts),
        unmatched,
        listing.unreadable_dirs,
        sorted({str(row["path"]) for row in previous or () if row["path"] not in paths}),
        len(wanted),
        _notes(listing.hidden, listing.entries, context.now_s),
    )


def _instruments_digest(name: str | None) -> str:
    """Return a digest of the instrument, or of all that could be chosen."""
    names = [name] if name else instrument_names()
    text = "".join(load_instrument(one).model_dump_json() for one in names)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unused(unmatched: list[str], count: int) -> str:
    listed = ", ".join(repr(pattern) for pattern in unmatched)
    return (
        f"OVERRIDE_UNUSED: {listed} in config/overrides.yaml matches none of the {count} files. "
        "Patterns hold for the path relative to the raw folder, or for the file name if they have "
        "no slash."
    )


def _notes(hidden: int, entries: Sequence[Entry], now_s: float) -> list[str]:
    notes = []
    if hidden:
        notes.append(f"{hidden} hidden entries (names that begin with a dot) were passed over.")
    skewed = [e.path for e in entries if not e.code and not 3e8 < e.mtime_ns / 1e9 < now_s + 86400]
    if skewed:
        notes.append(
            f"CLOCK_SKEW: {len(skewed)} files have an implausible modification time, for example "
            f"{skewed[0]}; content decides, not time."
        )
    return notes
