"""Local sky: rings around positions, without the light of other sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skymill.frame import MaskBit
from skymill.kernels.apertures import annulus_background
from skymill.kernels.disks import add_disks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["RING_CLIP_SIGMA", "LocalSky", "local_sky", "mask_sources"]

#: Clip of a ring. At 3 sigma the skewness of the counts biases the level low by 0.03 of
#: an aperture's error; at 4 it does not, and sources are masked anyway.
RING_CLIP_SIGMA = 4.0
#: Fainter sources are not left out: their wings are below the noise, and to leave out what
#: merely fluctuates upwards would bias the rings.
_SNR = 5.0
#: Disk of a known source that this frame does not show (FWHM).
_FAINT_FWHM = 1.5
#: Largest disk (FWHM): beyond it wings are scattered light, which all of a frame has.
_MOST_FWHM = 6.0


def mask_sources(
    mask: NDArray[np.uint16],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    snr: NDArray[np.float64],
    fwhm_px: float,
    *,
    known: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint16]:
    """Return the mask with a disk of SOURCE around every significant source.

    Rings of crowded stars would take the wings of the neighbours for sky: clipping does
    not see them. The radius is ``r = FWHM (0.9 + 1.6 log10(S/N))``, at most 6 FWHM: with
    smaller disks, ``0.6 + 0.87 log10(S/N)``, the wings that were left, and the sources too
    faint for a disk, made the flux of empty places too small by 0.1 of its error.

    Parameters
    ----------
    mask : ndarray of uint16, shape (ny, nx)
        Mask of the frame. Not modified.
    x, y : ndarray of float64, shape (n,)
        0-based positions.
    snr : ndarray of float64, shape (n,)
        Signal to noise in an aperture of about a FWHM.
    fwhm_px : float
        FWHM of the frame.
    known : ndarray of bool, shape (n,), optional
        Sources that are known from elsewhere: they get a disk however faint they are here.

    Returns
    -------
    ndarray of uint16, shape (ny, nx)
    """
    clean = np.nan_to_num(snr)
    seen = clean > _SNR
    there = (seen if known is None else seen | known) & np.isfinite(x) & np.isfinite(y)
    reach = np.minimum(0.9 + 1.6 * np.log10(np.maximum(clean, 1.0)), _MOST_FWHM)
    # The size of a faint one must not follow its noise, or rings would lose upward noise only.
    radius = fwhm_px * np.where(seen, reach, _FAINT_FWHM)
    return add_disks(mask, x[there], y[there], radius[there], int(MaskBit.SOURCE))


class LocalSky(NamedTuple):
    """Result of `local_sky`, each of shape (n,).

    Attributes
    ----------
    level, level_err : ndarray of float64
        Level per pixel and its one-sigma error; the global ones where there is no ring.
    missing : ndarray of bool
        Where too few pixels of the ring are good.
    """

    level: NDArray[np.float64]
    level_err: NDArray[np.float64]
    missing: NDArray[np.bool_]


def local_sky(
    sci: NDArray[np.float32],
    mask: NDArray[np.uint16],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    annulus: Sequence[float] | None,
    *,
    estimator: str = "mean",
    clip_sigma: float = RING_CLIP_SIGMA,
    level_err: float = 0.0,
    minimum_px: int = 12,
) -> LocalSky:
    """Measure the sky around positions; without an annulus it is 0, the image's own.

    Parameters
    ----------
    sci, mask : ndarray, shape (ny, nx)
        Background-subtracted image and its mask; pixels with any bit, SOURCE too, are left
        out (see `mask_sources`).
    x, y : ndarray of float64, shape (n,)
        0-based positions.
    annulus : (float, float) or None
        Inner and outer radius in px.
    estimator : {"mean", "median", "mode"}
        Of the clipped pixels.
    clip_sigma : float
        Clip in sigma.
    level_err : float
        Error of the background that was subtracted, where there is no ring.
    minimum_px : int
        Fewest pixels of a ring.
    """
    n = len(x)
    level, error = np.zeros(n), np.full(n, float(level_err))
    if annulus is None:
        return LocalSky(level, error, np.zeros(n, bool))
    inner, outer = annulus
    ring = annulus_background(
        sci, mask, x, y, inner, outer,
        clip_sigma=clip_sigma, estimator=estimator, minimum_px=minimum_px,
    )  # fmt: skip
    missing = ~(np.isfinite(ring.level) & np.isfinite(ring.level_err))
    return LocalSky(
        np.where(missing, level, ring.level), np.where(missing, error, ring.level_err), missing
    )
