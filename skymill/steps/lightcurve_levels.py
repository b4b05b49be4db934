"""Corrected, relative and calibrated fluxes of one filter, and how constant a source is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.curves.noise import red_noise
from skymill.steps.ensemble import corrected

if TYPE_CHECKING:
    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.steps.ensemble import Ensemble
    from skymill.steps.lightcurve_matrix import Matrix

__all__ = ["MMAG", "NO_ENSEMBLE", "curves_of"]

#: Millimagnitudes of a relative flux.
MMAG = 2.5e3 / np.log(10)
#: Flag: no other comparison star was measured in the frame.
NO_ENSEMBLE = 1 << 25


def curves_of(
    name: str, matrix: Matrix, ensemble: Ensemble, magnitudes: NDArray[np.float64]
) -> tuple[dict[str, NDArray[Any]], Table]:
    """Return the corrected curves of all sources, and how constant each one is.

    Parameters
    ----------
    name : str
        The filter.
    matrix : Matrix
        Measurements.
    ensemble : Ensemble
        Transparency of the frames.
    magnitudes : ndarray of float64, shape (n_sources,)
        Magnitudes of the catalogue, NaN where there are none.

    Returns
    -------
    curve : dict
        flux_corr, rel_flux, mag with errors, and flags, by source and frame.
    statistics : Table
        One row per source.
    """
    from astropy.table import Table

    flux, err = corrected(matrix.columns["flux"], matrix.columns["flux_err"], ensemble)
    flags = matrix.flags | np.where(np.isfinite(flux), 0, NO_ENSEMBLE)
    good = matrix.good & np.isfinite(flux)
    n = good.sum(axis=1)
    level = _median(flux, good)
    typical = _median(err, good)
    with np.errstate(invalid="ignore", divide="ignore"):
        level_err = 1.2533 * typical / np.sqrt(n)
        unit = np.where(level > 3 * level_err, level, np.nan)[:, None]
        zero = np.median(_offsets(level, magnitudes, ensemble.members))
        positive = flux > 3 * err
        mag = np.where(positive, zero - 2.5 * np.log10(np.where(positive, flux, 1)), np.nan)
        mag_err = np.where(positive & np.isfinite(mag), MMAG / 1e3 * err / flux, np.nan)
        rest = np.where(good, flux / unit - 1, 0.0)
        relative = np.where(good, err / unit, 0.0)
        mean = rest.sum(axis=1) / n
        rms = np.sqrt(((rest - mean[:, None]) ** 2 * good).sum(axis=1) / (n - 1))
        expected = np.sqrt((relative**2).sum(axis=1) / n)
        w = np.where(good, 1 / err**2, 0.0)
        centre = np.where(good, w * flux, 0.0).sum(axis=1) / w.sum(axis=1)
        pull = np.where(good, (flux - centre[:, None]) / err, 0.0)
        chi2 = (pull**2).sum(axis=1) / (n - 1)
        beta, red = red_noise(np.where(good, flux / unit - 1, np.nan))
    curve: dict[str, NDArray[Any]] = {
        "flux_corr": flux,
        "flux_corr_err": err,
        "rel_flux": flux / unit,
        "rel_flux_err": err / unit,
        "mag": mag,
        "mag_err": mag_err,
        "flags": flags,
    }
    stats = Table()
    stats["source"] = matrix.source + 1
    stats["filter"] = np.full(n.size, name)
    stats["n"] = n
    stats["median_flux"] = level
    stats["median_flux_err"] = level_err
    stats["rms_mmag"] = np.where(n > 1, MMAG * rms, np.nan)
    stats["expected_mmag"] = np.where(n > 1, MMAG * expected, np.nan)
    stats["chi2"] = np.where(n > 1, chi2, np.nan)
    stats["beta"] = beta
    stats["red_noise_mmag"] = MMAG * red
    stats["comparison"] = ensemble.members
    return curve, stats


def _median(values: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    out = np.full(values.shape[0], np.nan)
    rows = good.any(axis=1)
    if rows.any():
        out[rows] = np.nanmedian(np.where(good[rows], values[rows], np.nan), axis=1)
    return out


def _offsets(
    level: NDArray[np.float64], magnitudes: NDArray[np.float64], members: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Catalogue minus instrumental magnitude: zero point and aperture correction in one."""
    use = np.isfinite(magnitudes) & (level > 0)
    use = use & members if (use & members).any() else use
    if not use.any():
        return np.array([np.nan])
    return np.asarray(magnitudes[use] + 2.5 * np.log10(level[use]))
