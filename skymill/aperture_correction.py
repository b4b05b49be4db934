"""From the light in an aperture to all light of a star, by the bright stars of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skymill.zeropoint import robust_offset

if TYPE_CHECKING:
    from astropy.table import Table
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["contaminated", "total_over_main"]

#: Signal-to-noise ratio of the stars that tell the correction; less if there are none.
_BRIGHT_SNR = 50.0
#: Neighbours within the large aperture spoil a star from this part of its flux on.
_NEIGHBOUR = 0.02
#: Scatter of the ratio that is expected beyond its errors (mag).
_SCATTER_MAG = 0.01


def contaminated(xy: Floats, flux: Floats, radius: float, limit: float) -> NDArray[np.bool_]:
    """Say which sources have a neighbour within a radius that disturbs their flux.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Positions.
    flux : ndarray, shape (n,)
        Fluxes; sources without a positive one disturb nothing.
    radius : float
        Radius of the aperture in pixels.
    limit : float
        Flux of the neighbour as a fraction of the source's own.
    """
    from scipy.spatial import cKDTree

    out = np.zeros(len(xy), dtype=bool)
    good = np.flatnonzero(np.isfinite(xy).all(axis=1) & (flux > 0))
    pairs = cKDTree(xy[good]).query_pairs(radius, output_type="ndarray")
    i, j = good[pairs[:, 0]], good[pairs[:, 1]]
    out[i[flux[j] > limit * flux[i]]] = True
    out[j[flux[i] > limit * flux[j]]] = True
    return out


def total_over_main(sources: Table, radius_px: float) -> tuple[float, float, int]:
    """Return total over main flux of stars, its error, and the number of stars.

    The robust weighted mean over bright, clean and isolated stars: neighbours in the
    large aperture would make every faint star look wide.

    Parameters
    ----------
    sources : Table
        Columns x, y, flux, flux_err, flux_total, flux_total_err, flags.
    radius_px : float
        Radius of the aperture of ``flux_total`` (NaN: neighbours are not looked at).

    Returns
    -------
    ratio, error, number : float, float, int
        1, NaN and 0 if there is no such star.
    """
    names = ("flux", "flux_err", "flux_total", "flux_total_err")
    flux, err, total, total_err = (np.asarray(sources[name], float) for name in names)
    with np.errstate(all="ignore"):
        snr = flux / err
        clean = (np.asarray(sources["flags"], int) == 0) & (total > 0) & (total_err > 0)
        clean &= np.isfinite(snr) & (flux > 0)
    if radius_px > 0 and clean.any():
        xy = np.column_stack([np.asarray(sources[name], float) for name in ("x", "y")])
        alone = clean & ~contaminated(xy, flux, radius_px, _NEIGHBOUR)
        clean = alone if alone.any() else clean
    bright = clean & (snr > min(_BRIGHT_SNR, np.max(snr[clean], initial=0.0) / 2))
    if not bright.any():
        return 1.0, float("nan"), 0
    offset = robust_offset(
        -2.5 * np.log10(total[bright] / flux[bright]),
        1.0857 * total_err[bright] / total[bright],
        expected_scatter=_SCATTER_MAG,
    )
    ratio = float(10 ** (-0.4 * offset.value))
    return ratio, ratio * offset.err / 1.0857, int(offset.keep.sum())
