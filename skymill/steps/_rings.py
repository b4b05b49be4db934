"""Keeping the light of other sources out of the rings that measure a local sky."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skymill.frame import MaskBit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RING_CLIP_SIGMA", "mask_sources"]

#: Clip of a ring. At 3 sigma the skewness of the counts biases the level low by 0.03 of
#: an aperture's error; at 4 it does not, and sources are masked anyway.
RING_CLIP_SIGMA = 4.0
#: Fainter sources are not left out: their wings are below the noise, and to leave out what
#: merely fluctuates upwards would bias the rings.
_SNR = 5.0


def mask_sources(
    mask: NDArray[np.uint16],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    snr: NDArray[np.float64],
    fwhm_px: float,
) -> NDArray[np.uint16]:
    """Return the mask with a disk of SOURCE around every significant source.

    Rings of crowded stars would take the wings of the neighbours for sky: clipping does
    not see them. A disk ends where a Moffat profile (beta 3.5) falls to a tenth of the
    noise of a pixel, ``r = FWHM (0.6 + 0.87 log10(S/N))`` within a few per cent.

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

    Returns
    -------
    ndarray of uint16, shape (ny, nx)
    """
    out = mask.copy()
    ny, nx = mask.shape
    clean = np.nan_to_num(snr)
    there = (clean > _SNR) & np.isfinite(x) & np.isfinite(y)
    radius = fwhm_px * (0.6 + 0.87 * np.log10(np.clip(clean, 1.0, 1e5)))
    for cx, cy, r in zip(x[there], y[there], radius[there], strict=True):
        if not (-r < cx < nx + r and -r < cy < ny + r):
            continue
        y0, y1 = max(0, int(cy - r)), min(ny, int(cy + r) + 2)
        x0, x1 = max(0, int(cx - r)), min(nx, int(cx + r) + 2)
        inside = (np.arange(y0, y1)[:, None] - cy) ** 2 + (np.arange(x0, x1) - cx) ** 2 < r * r
        out[y0:y1, x0:x1][inside] |= np.uint16(MaskBit.SOURCE)
    return out
