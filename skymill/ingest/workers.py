"""Reading many files at a time: every file is on its own, so processes share the work."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from skymill.ingest.files import Context, read_file

if TYPE_CHECKING:
    from skymill.ingest.cache import Remembered
    from skymill.ingest.scan import Entry

__all__ = ["read_files"]

_log = logging.getLogger(__name__)

#: Fewer files are read before the processes have started; more processes wait for the disk.
_FEWEST_FILES, _MOST_WORKERS = 100, 8
#: Files handed over at a time.
_CHUNK = 16
#: Bytes that all processes may take, and how many times the size of a file one takes.
_MEMORY, _TIMES = 4_000_000_000, 10


def _workers(sizes: Sequence[int]) -> int:
    """Return how many processes read files of some sizes (byte)."""
    if len(sizes) < _FEWEST_FILES:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(min(cores or 1, _MOST_WORKERS, _MEMORY // (_TIMES * max(*sizes, 1))), 1)


def read_files(
    entries: Sequence[Entry], context: Context, *, workers: int | None = None
) -> Iterator[Remembered]:
    """Yield what `read_file` finds, in the order of the entries.

    Parameters
    ----------
    entries : sequence of Entry
        Files to read.
    context : Context
        What their rows depend on besides.
    workers : int, optional
        Processes; by default as many as there are cores, up to 8, fewer if files are so large
        that memory is short, and one for few files. The result does not depend on it.
    """
    if workers is None:
        workers = _workers([entry.size for entry in entries])
    done = 0
    if workers > 1:
        try:
            with ProcessPoolExecutor(workers) as pool:
                work = partial(read_file, context=context)
                for found in pool.map(work, entries, chunksize=_CHUNK):
                    yield found
                    done += 1
        except (BrokenProcessPool, OSError) as error:
            # One process was killed, or none could be started: the rest is read here.
            _log.warning("ingest goes on with one process (%s)", error)
    for entry in islice(entries, done, None):
        yield read_file(entry, context)
