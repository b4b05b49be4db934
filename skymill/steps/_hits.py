"""Cosmic rays of one frame: L.A.Cosmic, and the acquittal of what the seeing explains.

L.A.Cosmic tells sharp from smooth by the contrast of a pixel's Laplacian to the fine
structure around it. Its limit must be high where stars are undersampled and can be low
where they are not, so it follows the sampling of the frame. And every group of hits must
be sharper, in some direction, than the stars of the frame are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skymill.frame import MaskBit
from skymill.kernels.bits import flagged
from skymill.kernels.cosmics import judge, peak_ratios, prepare
from skymill.kernels.lacosmic import lacosmic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.frame import Frame
    from skymill.steps._coarse_sky import CoarseSky

__all__ = ["ENGINES", "Hits", "find_hits", "star_ratio"]

ENGINES = ("skymill", "astroscrappy", "astroscrappy_exact")
#: Light above the sky is uncertain by this fraction: defocus, flat field, seeing.
_STRUCTURE = np.float32(0.02)
#: Values that mean nothing; other bad pixels have one, though not of the sky.
_HOLES = (
    MaskBit.NO_DATA | MaskBit.OUTSIDE | MaskBit.HOT | MaskBit.COLD
    | MaskBit.DEAD | MaskBit.LOW_FLAT
)  # fmt: skip
#: Stars that measure the seeing: this many sigma high, and at least so many of them.
_PEAK_SIGMA, _FEWEST_STARS = 30.0, 4
#: Width of the clump of stars in the logarithm of the ratio.
_CLUMP = 0.5
#: Ratio of a star of FWHM 1.2 px: sharper stars are not expected.
_LEAST_RATIO = 0.055
#: Part of the stars' ratio that counts as sharper than they are: the image of a star is
#: not the same everywhere in a frame.
_SAFETY = 0.7
#: A pixel must be so many sigma blunter than a star to be let off.
_BLUNT_SIGMA = 1.0
#: Contrast limits at and below, and at and above, these widths (FWHM, px).
_OBJLIM_AT = ((1.6, 1.5), (2.5, 1.0))
_ASTROSCRAPPY_OBJLIM = 5.0
_FWHM_PER_SIGMA = 2.354820045


class Hits(NamedTuple):
    """Hits of a frame.

    Attributes
    ----------
    mask : ndarray of bool, shape (ny, nx)
        Where.
    n : int
        Number of connected groups.
    n_px : int
        Number of pixels.
    acquitted : int
        Groups that were no sharper than a star.
    fwhm_px : float
        Width of a star as measured from the ratios; NaN if there are too few stars.
    """

    mask: NDArray[np.bool_]
    n: int
    n_px: int
    acquitted: int
    fwhm_px: float


def find_hits(
    frame: Frame,
    bits: NDArray[np.uint16],
    sky: CoarseSky,
    *,
    engine: str,
    sigclip: float,
    sigfrac: float,
    objlim: float | None,
    niter: int,
    sharp_sigma: float,
) -> Hits:
    """Search cosmic rays.

    Parameters
    ----------
    frame : Frame
        Calibrated frame in electron.
    bits : ndarray of uint16, shape (ny, nx)
        Its mask so far; bad pixels and their neighbours are no hits.
    sky : CoarseSky
        Its sky.
    engine : str
        One of `ENGINES`.
    sigclip, sigfrac, objlim, niter : float, float, float or None, int
        As in L.A.Cosmic; the contrast ``objlim`` by the sampling if it is None.
    sharp_sigma : float
        How much sharper than a star a group must be; 0 acquits nothing.

    Returns
    -------
    Hits
    """
    holes, skip = np.uint16(int(_HOLES)), np.uint16(int(MaskBit.bad()))
    image, variance, hollow = prepare(
        frame.sci, frame.err, bits, holes, sky.level, sky.box,
        np.float32(sky.typical_rms), _STRUCTURE,
    )  # fmt: skip
    # peaks have at least the noise of the sky, give or take a factor of two
    floor = np.float32(sky.level.min() + _PEAK_SIGMA * 0.5 * sky.rms.min())
    ratios = peak_ratios(image, variance, bits, skip, sky.level, sky.box, _PEAK_SIGMA, floor)
    ratio, fwhm_px = star_ratio(ratios)
    bad = flagged(bits, skip)
    if hollow.any():
        bad |= hollow
    limit = objlim if objlim is not None else _contrast(engine, fwhm_px)
    # image and variance are worked on in place
    found = _search(engine, image, variance, bad, sigclip, sigfrac, limit, niter, sky)
    if hollow.any():
        found &= ~hollow
    stand, acquitted, pixels = judge(
        found, frame.sci, frame.err, hollow, sky.level, sky.box, _STRUCTURE,
        _SAFETY * ratio if sharp_sigma > 0 else 0.0, sharp_sigma, _BLUNT_SIGMA,
    )  # fmt: skip
    return Hits(found, int(stand), int(pixels), int(acquitted), fwhm_px)


def star_ratio(ratios: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ratio ``a b / c^2`` of the stars, and their FWHM in px.

    Hits have small ratios of any value; the ratios of stars are alike. They are the
    densest clump in the logarithm.

    Parameters
    ----------
    ratios : ndarray of float64, shape (n,)
        Ratios of bright maxima, see `skymill.kernels.cosmics.peak_ratios`.

    Returns
    -------
    ratio : float
        The smallest that is expected if there are too few stars.
    fwhm_px : float
        NaN if there are too few stars. Of a Gaussian star of dispersion ``s`` integrated
        over the pixels the ratio is ``exp(-1 / (s^2 + 1/12))``.
    """
    values = np.sort(np.log(ratios[ratios > _LEAST_RATIO]))
    ends = np.searchsorted(values, values + _CLUMP, side="right")
    members = ends - np.arange(values.size)
    if values.size == 0 or members.max() < _FEWEST_STARS:
        return _LEAST_RATIO, float("nan")
    first = int(np.argmax(members))
    clump = values[first : ends[first]]
    middle = min(float(np.median(clump)), -1e-3)
    variance = max(-1 / middle - 1 / 12, 0.05)
    return float(np.exp(middle)), _FWHM_PER_SIGMA * float(np.sqrt(variance))


def _contrast(engine: str, fwhm_px: float) -> float:
    if engine != "skymill":
        return _ASTROSCRAPPY_OBJLIM
    if np.isnan(fwhm_px):
        return _OBJLIM_AT[0][1]
    widths, limits = zip(*_OBJLIM_AT, strict=True)
    return float(np.interp(fwhm_px, widths, limits))


def _search(
    engine: str,
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    bad: NDArray[np.bool_],
    sigclip: float,
    sigfrac: float,
    objlim: float,
    niter: int,
    sky: CoarseSky,
) -> NDArray[np.bool_]:
    if engine == "skymill":
        return lacosmic(
            image, variance=variance, mask=bad, sigclip=sigclip, sigfrac=sigfrac,
            objlim=objlim, niter=niter, overwrite=True,
            fallback=(float(np.median(sky.level)), min(sky.typical_rms, 1e18) ** 2),
        ).mask  # fmt: skip
    from astroscrappy import detect_cosmics

    hits, _ = detect_cosmics(
        image, inmask=bad, invar=variance, sigclip=sigclip, sigfrac=sigfrac, objlim=objlim,
        gain=1.0, readnoise=0.0, satlevel=np.inf, niter=niter,
        sepmed=engine == "astroscrappy",
    )  # fmt: skip
    return np.array(hits, bool)
