"""Blind solution by an optional installed solver: astrometry.net's ``solve-field``.

The solver gets a list of positions, never an image. What it returns is a first guess
like that of a header: `skymill.solve.solve` must confirm it by the catalogue.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skymill.star_lists import Refusal
from skymill.wcsmath import sane

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.wcs import WCS

    from skymill.star_lists import Stars

__all__ = ["PROGRAM", "arguments", "find_solver", "solve_blind"]

PROGRAM = "solve-field"

#: Brightest stars that are handed over.
_MOST_STARS = 300
_FEWEST_STARS = 5
#: Seconds beyond the limit of CPU time after which the program is ended.
_GRACE_S = 10.0
#: What the solver says where it has no index files, or none of the right scale.
_NO_INDEX = ("at least one index", "no index files", "couldn't find any index", "no indexes")


def find_solver(blind: str) -> str | None:
    """Return the program of a setting ``auto``, ``never`` or a path; None if there is none."""
    if blind == "never":
        return None
    return shutil.which(PROGRAM if blind == "auto" else blind)


def arguments(
    program: str,
    stars: Path,
    shape: tuple[int, int],
    *,
    scale_arcsec: float | None,
    scale_error: float,
    time_limit_s: float,
) -> list[str]:
    """Return the command line; no shell sees it.

    Parameters
    ----------
    program : str
        Path of ``solve-field``.
    stars : Path
        FITS table with columns X, Y (1-based pixels) and FLUX, in a private folder.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    scale_arcsec, scale_error : float
        Pixel scale, if known, and its relative error.
    time_limit_s : float
        CPU seconds.
    """
    folder = stars.parent
    out = [
        *(program, "--no-plots", "--overwrite", "--dir", str(folder), "--temp-dir", str(folder)),
        *("--out", "blind", "--wcs", str(folder / "blind.wcs")),
        *("--x-column", "X", "--y-column", "Y", "--sort-column", "FLUX"),
        *("--width", str(shape[1]), "--height", str(shape[0])),
        *("--crpix-center", "--no-tweak", "--cpulimit", f"{time_limit_s:.0f}"),
        *("--new-fits", "none", "--solved", "none", "--match", "none", "--rdls", "none"),
        *("--corr", "none", "--index-xyls", "none"),
    ]
    if scale_arcsec is not None and np.isfinite(scale_arcsec):
        out += ["--scale-units", "arcsecperpix"]
        out += ["--scale-low", f"{scale_arcsec * (1 - scale_error):.6g}"]
        out += ["--scale-high", f"{scale_arcsec * (1 + scale_error):.6g}"]
    return [*out, str(stars)]


def solve_blind(
    stars: Stars,
    shape: tuple[int, int],
    *,
    program: str,
    time_limit_s: float,
    scale_arcsec: float | None = None,
    scale_error: float = 0.1,
) -> WCS | Refusal:
    """Ask the solver where a list of stars lies.

    Parameters
    ----------
    stars : Stars
        Stars of the frame, the brightest first.
    shape : tuple of int
        Shape (ny, nx) of the frame.
    program : str
        Path of ``solve-field``.
    time_limit_s : float
        CPU seconds; the program and its children are ended a little later.
    scale_arcsec, scale_error : float
        Pixel scale, if known, and its relative error.

    Returns
    -------
    astropy.wcs.WCS or Refusal
        TOOL_FAILED (it cannot be run, it broke, index files are absent, the time ran out)
        or NO_MATCH (it ran and found nothing).
    """
    from astropy.table import Table

    if len(stars) < _FEWEST_STARS:
        return Refusal("FEW_STARS", f"{len(stars)} stars, {_FEWEST_STARS} are needed")
    with tempfile.TemporaryDirectory(prefix="skymill-blind-") as name:
        path = Path(name) / "stars.xyls"
        top = slice(0, _MOST_STARS)
        columns = [stars.xy[top, 0] + 1, stars.xy[top, 1] + 1, stars.flux[top]]
        Table(columns, names=["X", "Y", "FLUX"]).write(path, format="fits")
        command = arguments(
            program,
            path,
            shape,
            scale_arcsec=scale_arcsec,
            scale_error=scale_error,
            time_limit_s=time_limit_s,
        )
        said = _run(command, Path(name), time_limit_s + _GRACE_S)
        if isinstance(said, Refusal):
            return said
        return _answer(Path(name) / "blind.wcs", said, shape)


def _run(command: Sequence[str], folder: Path, limit_s: float) -> str | Refusal:
    """Run a program in its own process group and return what it said."""
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Refusal("TOOL_FAILED", f"{PROGRAM} cannot be run: {error.strerror}")
    try:
        said, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        # The engine is a child of the program and would go on.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Refusal("TOOL_FAILED", f"{PROGRAM} did not end within {limit_s:g} s")
    lower = said.lower()
    if any(words in lower for words in _NO_INDEX):
        return Refusal("TOOL_FAILED", f"{PROGRAM} has no index files for this field of view")
    if process.returncode != 0:
        last = [line.strip() for line in said.splitlines() if line.strip()][-1:] or ["nothing"]
        text = last[0].replace(str(folder), "")[:200]
        return Refusal("TOOL_FAILED", f"{PROGRAM} ended with {process.returncode}, saying: {text}")
    return said


def _answer(path: Path, said: str, shape: tuple[int, int]) -> WCS | Refusal:
    from astropy.io.fits import Header

    from skymill.wcsmath import wcs_from_header

    if not path.is_file():
        late = "cpu time limit" in said.lower() or "timed out" in said.lower()
        why = "ran out of time" if late else "found no position that fits its index files"
        return Refusal("NO_MATCH", f"{PROGRAM} {why}")
    try:
        cards = Header.fromfile(path)
        wcs = wcs_from_header(cards)
    # A program's output may break any parser.
    except Exception as error:
        return Refusal("TOOL_FAILED", f"{PROGRAM} wrote no readable answer: {error}")
    wrong = sane(wcs, shape)
    return Refusal("TOOL_FAILED", f"{PROGRAM}: {wrong}") if wrong else wcs
