"""Running SWarp so that it does what is meant and nothing else.

Every option that matters is given explicitly with an empty configuration file, in a private
folder, with one thread. The grid is a ``.head`` file with a full CD matrix. SWarp ignores SIP,
so polynomials are handed over as TPV, which represents them exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill.errors import StepFailed
from skymill.programs import Program, find_program, run_program
from skymill.wcsmath import wcs_header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.wcs import WCS
    from numpy.typing import NDArray

__all__ = ["OPTIONS", "find_swarp", "run_swarp", "swarp_cards", "write_head", "write_image"]

#: Names of the program in the order of Debian and conda.
NAMES = ("SWarp", "swarp")
#: What is always set: SWarp's defaults subtract the background, rescale the weights, use
#: threads and look for a configuration file in the folder.
OPTIONS: dict[str, str] = {
    "SUBTRACT_BACK": "N",
    "RESCALE_WEIGHTS": "N",
    "WEIGHT_TYPE": "NONE",
    "BLANK_BADPIXELS": "N",
    "INTERPOLATE": "N",
    "FSCALASTRO_TYPE": "NONE",
    "FSCALE_KEYWORD": "FLXSCALE",
    "FSCALE_DEFAULT": "1.0",
    "GAIN_KEYWORD": "SMGAIN",
    "GAIN_DEFAULT": "1e6",
    "CELESTIAL_TYPE": "NATIVE",
    "PROJECTION_ERR": "0.0001",
    "COMBINE_TYPE": "MEDIAN",
    "NTHREADS": "1",
    "WRITE_XML": "N",
    "VERBOSE_TYPE": "NORMAL",
    "DELETE_TMPFILES": "Y",
    "COPY_KEYWORDS": "OBJECT",
}
#: First index and powers of each order of TPV; the indices between hold powers of the radius.
_TPV_FIRST = {0: 0, 1: 1, 2: 4, 3: 7, 4: 12, 5: 17, 6: 24, 7: 31}


def find_swarp(path: str | Path | None = None) -> Program:
    """Find SWarp.

    Parameters
    ----------
    path : str or Path, optional
        The program, if it is not on the path.

    Raises
    ------
    ProgramError
        TOOL_MISSING, with what to install.
    """
    names = (str(path),) if path is not None else NAMES
    return find_program(
        names,
        purpose="resampling with SWarp (Debian and Ubuntu: package swarp; conda: astromatic-swarp)",
        version_args=("-v",),
    )


def run_swarp(
    program: Program,
    folder: Path,
    inputs: Sequence[str],
    options: Mapping[str, Any],
    outputs: Sequence[str],
) -> str:
    """Run SWarp in a folder and check what it wrote.

    Parameters
    ----------
    program : Program
        Result of `find_swarp`.
    folder : Path
        Private folder that holds the inputs and the ``.head`` file.
    inputs : sequence of str
        Names of the images.
    options : mapping
        Options beside `OPTIONS`, which they override.
    outputs : sequence of str
        Names of the files that must be there afterwards.

    Returns
    -------
    str
        What SWarp said.

    Raises
    ------
    ProgramError
        TOOL_FAILED with the last lines of its log.
    """
    (folder / "empty.swarp").write_text("", encoding="ascii")
    arguments = [*inputs, "-c", "empty.swarp"]
    places = {"RESAMPLE_DIR": ".", "VMEM_DIR": "."}
    for key, value in {**OPTIONS, **places, **options}.items():
        text = "Y" if value is True else "N" if value is False else str(value)
        arguments += [f"-{key}", text]
    return run_program(program, arguments, outputs=outputs, folder=folder)


def swarp_cards(wcs: WCS, shape: tuple[int, int]) -> fits.Header:
    """Return the cards of a WCS in a form that SWarp reads.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        On the sky, or linear (then both images must be; they are put on a tangent plane).
    shape : tuple of int
        Shape (ny, nx) over which a distortion is represented.

    Raises
    ------
    StepFailed
        TOOL_FAILED if the distortion is neither SIP nor one that SWarp knows.
    """
    header = fits.Header()
    matrix = np.asarray(wcs.pixel_scale_matrix, float)
    crval = np.asarray(wcs.wcs.crval, float)
    crpix = np.asarray(wcs.wcs.crpix, float)
    ctype = [str(name) for name in wcs.wcs.ctype]
    if not wcs.has_celestial:
        # Two linear systems on one tangent plane: the way between them stays affine.
        crpix = crpix - np.linalg.solve(matrix, crval)
        matrix, crval, ctype = matrix * 1e-5, np.array([150.0, 0.0]), ["RA---TAN", "DEC--TAN"]
    elif wcs.cpdis1 is not None or wcs.cpdis2 is not None or wcs.det2im1 is not None:
        raise StepFailed("TOOL_FAILED", "SWarp cannot read a distortion that is a table")
    elif wcs.sip is not None:
        if not ctype[0].startswith("RA---TAN"):
            raise StepFailed("TOOL_FAILED", f"SIP beside {ctype[0]} cannot be put as TPV for SWarp")
        ctype = ["RA---TPV", "DEC--TPV"]
        header.update(_tpv(wcs, matrix, shape))
    else:
        for key, value in wcs_header(wcs).items():
            if key.startswith("PV") or key in ("LONPOLE", "LATPOLE"):
                header[key] = value
    frame = str(wcs.wcs.radesys).strip() or "ICRS"
    header["RADESYS"] = frame
    header["EQUINOX"] = float(wcs.wcs.equinox) if np.isfinite(wcs.wcs.equinox) else 2000.0
    for i in (1, 2):
        header[f"CTYPE{i}"] = ctype[i - 1]
        header[f"CUNIT{i}"] = "deg"
        header[f"CRVAL{i}"] = float(crval[i - 1])
        header[f"CRPIX{i}"] = float(crpix[i - 1])
        for j in (1, 2):
            header[f"CD{i}_{j}"] = float(matrix[i - 1, j - 1])
    return header


def _tpv(wcs: WCS, matrix: NDArray[np.float64], shape: tuple[int, int]) -> dict[str, float]:
    """Return the TPV coefficients of a SIP polynomial: the same map in other variables."""
    order = max(wcs.sip.a_order, wcs.sip.b_order)
    if order > max(_TPV_FIRST):
        raise StepFailed("TOOL_FAILED", f"SIP of order {order} is beyond TPV, which ends at 7")
    ny, nx = shape
    n = 3 * order + 6
    grid = [v.ravel() for v in np.meshgrid(np.linspace(0, nx, n), np.linspace(0, ny, n))]
    offset = np.stack([v - p for v, p in zip(grid, np.asarray(wcs.wcs.crpix), strict=True)])
    sums = []
    for table, top in ((wcs.sip.a, wcs.sip.a_order), (wcs.sip.b, wcs.sip.b_order)):
        total = np.zeros(offset.shape[1])
        for p in range(top + 1):
            for q in range(top + 1 - p):
                total += table[p, q] * offset[0] ** p * offset[1] ** q
        sums.append(total)
    plane, wanted = matrix @ offset, matrix @ (offset + np.array(sums))
    size = float(np.abs(plane).max()) or 1.0
    powers = [(d - k, k) for d in range(order + 1) for k in range(d + 1)]
    out: dict[str, float] = {}
    for axis in (0, 1):
        # The second axis names its own coordinate first.
        u, v = plane[axis] / size, plane[1 - axis] / size
        design = np.stack([u**a * v**b for a, b in powers], axis=1)
        solution, *_ = np.linalg.lstsq(design, wanted[axis] / size, rcond=None)
        for (a, b), value in zip(powers, solution, strict=True):
            out[f"PV{axis + 1}_{_TPV_FIRST[a + b] + b}"] = float(value / size ** (a + b - 1))
    return out


def _with_points(header: fits.Header) -> fits.Header:
    """Write all floats with a decimal point: SWarp does not read ``1E-05`` as a number."""
    out = fits.Header()
    for card in header.cards:
        if isinstance(card.value, float):
            out.append(fits.Card.fromstring(f"{card.keyword:<8}= {card.value:25.16E}"))
        else:
            out.append(card)
    return out


def write_head(path: Path, wcs: WCS, shape: tuple[int, int]) -> None:
    """Write the ``.head`` file of an output grid."""
    header = fits.Header()
    header["NAXIS"] = 2
    header["NAXIS1"], header["NAXIS2"] = shape[1], shape[0]
    header.update(swarp_cards(wcs, shape))
    header = _with_points(header)
    text = header.tostring(sep="\n", endcard=True, padding=False) + "\n"
    path.write_text(text, encoding="ascii")


def write_image(path: Path, image: NDArray[Any], header: fits.Header) -> None:
    """Write a float32 image that SWarp reads."""
    from skymill.fits_bytes import image_unit
    from skymill.io import write_atomic

    plane = np.ascontiguousarray(image, np.float32)
    write_atomic(path, image_unit(plane, _with_points(header), "", primary=True).chunks())
