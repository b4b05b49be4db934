"""What is left of the zero point of a frame at each catalogue star."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.matching import mutual_pairs
from skymill.steps.sources import SourceFlag
from skymill.wcsmath import sky_to_pixel
from skymill.zero_points import colour_pair

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table
    from astropy.wcs import WCS

    from skymill.catalogs import RefCatalog

__all__ = ["zero_point_residuals"]

#: Fainter stars say nothing of a zero point.
_SNR = 20.0
#: Residuals further than this from the median, in robust sigma, were not used.
_CLIP = 4.0


def zero_point_residuals(
    sources: Table,
    catalog: RefCatalog,
    wcs: WCS,
    photcal: Mapping[str, Any],
    *,
    match_radius_px: float = 2.0,
) -> Table | None:
    """Return the residuals of a frame with the zero point and colour term that it was given.

    ``residual = m_cat - (m_inst + zp + k (colour - colour_0))`` with
    ``m_inst = -2.5 log10(flux_total / exposure)``. A spatial term is not subtracted: it is what
    a map of the residuals shall show.

    Parameters
    ----------
    sources : Table
        Sources of the frame: x, y, flux_total, flux_total_err, flags.
    catalog : RefCatalog
        The reference catalogue near the field.
    wcs : astropy.wcs.WCS
        Solution of the frame.
    photcal : mapping
        Its row of the step photcal: zp, band, exptime_s, colour, colour_0, colour_term.
    match_radius_px : float
        Distance within which a source is a star of the catalogue.

    Returns
    -------
    Table or None
        Columns x, y, mag, colour, residual, err, keep; None if the frame has no zero point in a
        band of the catalogue, no positions on the sky, or no star matches.
    """
    from astropy.table import Table

    zp, exptime = (_number(photcal, name) for name in ("zp", "exptime_s"))
    band = str(photcal.get("band") or "")
    if not (np.isfinite(zp) and exptime > 0 and wcs.has_celestial and band in catalog.bands):
        return None
    x, y, flux, err = (
        np.asarray(sources[name], np.float64) for name in ("x", "y", "flux_total", "flux_total_err")
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        good = (flux > 0) & (flux / err >= _SNR) & np.isfinite(x) & np.isfinite(y)
    wrong = int(SourceFlag.unusable() | SourceFlag.BLENDED)
    good &= (np.asarray(sources["flags"], np.int64) & wrong) == 0
    xy = np.stack([x[good], y[good]], axis=1)
    mag, mag_err = catalog.band(band)
    expected = sky_to_pixel(wcs, catalog.ra, catalog.dec)
    expected[~np.isfinite(mag)] = np.nan
    i, j = mutual_pairs(xy, expected, match_radius_px)
    if not len(i):
        return None
    own = -2.5 * np.log10(flux[good][i] / exptime)
    colour = _colour(catalog, band, str(photcal.get("colour") or ""))[j]
    term, middle = (_number(photcal, name) for name in ("colour_term", "colour_0"))
    shift = np.zeros(len(i))
    if np.isfinite(term) and np.isfinite(middle):
        shift = np.where(np.isfinite(colour), term * (colour - middle), 0.0)
    residual = mag[j] - (own + zp + shift)
    sigma = np.hypot(1.0857 * err[good][i] / flux[good][i], mag_err[j])
    centre = np.median(residual)
    spread = 1.4826 * np.median(np.abs(residual - centre))
    keep = np.abs(residual - centre) <= _CLIP * np.hypot(np.nan_to_num(sigma), spread) + 1e-9
    return Table(
        {
            "x": xy[i, 0], "y": xy[i, 1], "mag": mag[j], "colour": colour,
            "residual": residual, "err": sigma, "keep": keep,
        }
    )  # fmt: skip


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return float("nan") if value is None else float(value)


def _colour(catalog: RefCatalog, band: str, name: str) -> Any:
    """Colour of each star, as the zero point used it, else the usual one of the band."""
    pair = tuple(name.split("-")) if name.count("-") == 1 else colour_pair(catalog, band, None)
    if pair is None or not set(pair) <= set(catalog.bands):
        return np.full(len(catalog.ra), np.nan)
    return catalog.band(pair[0])[0] - catalog.band(pair[1])[0]
