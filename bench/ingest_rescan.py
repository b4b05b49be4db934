"""Speed of ingest on a large archive: a first look at every file, and a second one."""

from __future__ import annotations

import io
import shutil
import time
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits

from bench.runs import Figure
from skymill.ingest import ingest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["figures"]

PER_NIGHT = 200


def figures(folder: Path, n: int = 20_000) -> list[Figure]:
    """Measure both passes over ``n`` tiny frames of nights of 200.

    Parameters
    ----------
    folder : Path
        Working folder; emptied.
    n : int
        Number of files.
    """
    shutil.rmtree(folder, ignore_errors=True)
    _archive(folder / "raw", n)
    cache = folder / "ingest.json"
    began = time.process_time()
    first = ingest(folder / "raw", cache=cache)
    read_s = time.process_time() - began
    seconds = []
    for _ in range(3):
        began = time.process_time()
        again = ingest(folder / "raw", cache=cache, previous=first.rows)
        seconds.append(time.process_time() - began)
        if again.n_read or again.rows != first.rows:
            raise RuntimeError("the second look read files or gave other rows")
    shutil.rmtree(folder)
    return [
        Figure("ingest_rescan_files_per_s", n / float(np.median(seconds)), ">= 20000", "files/s", n,
               "known files, cache included, CPU of one core; median of 3 passes"),
        Figure("ingest_first_files_per_s", n / read_s, "", "files/s", n,
               "tiny frames of 24 x 20 px never seen before: cost of headers and bookkeeping"),
    ]  # fmt: skip


def _archive(raw: Path, n: int) -> None:
    """Write small light frames that differ in pixels and time."""
    rng = np.random.default_rng(1)
    header = fits.Header()
    cards = {
        "IMAGETYP": "Light Frame", "INSTRUME": "test camera", "OBJECT": "field", "FILTER": "R",
        "EXPTIME": 30.0, "DATE-OBS": "2024-01-02T03:04:05", "GAIN": 1.5, "RDNOISE": 5.0,
        "SATURATE": 60000, "SITELAT": 30.0, "SITELONG": -110.0, "SITEELEV": 2000.0,
    }  # fmt: skip
    for key, value in cards.items():
        header[key] = value
    stream = io.BytesIO()
    pixels = rng.normal(1000, 12, (24, 20)).astype(np.uint16)
    fits.PrimaryHDU(pixels, header).writeto(stream)
    content = bytearray(stream.getvalue())
    where = content.index(b"2024-01-02")
    for number in range(n):
        night, frame = divmod(number, PER_NIGHT)
        folder = raw / f"night{night:04d}"
        if frame == 0:
            folder.mkdir(parents=True)
        date = np.datetime64("2015-01-01T03:00:00") + np.timedelta64(night, "D")
        text = str(date + np.timedelta64(60 * frame, "s"))
        content[where : where + len(text)] = text.encode()
        content[2880:2884] = number.to_bytes(4, "big")
        (folder / f"frame{number:06d}.fits").write_bytes(content)
