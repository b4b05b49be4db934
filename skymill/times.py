"""Barycentric times and airmass, without a network.

Times in are mid-exposures as MJD in UTC. The position of the Earth comes from the
analytic ephemeris of ERFA (``epv00``: 15 km, so 50 microseconds of light time), that
of the telescope from the Earth's rotation with UT1 = UTC (an error below 0.9 s of
rotation, so below 2 microseconds). Polar motion is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Site", "airmass", "bjd_tdb", "parse_site"]

_AU_LIGHT_S = 499.004783836156412
_AU_M = 149597870700.0
_DAY_S = 86400.0
_MJD0 = 2400000.5


@dataclass(frozen=True)
class Site:
    """Geodetic position of a telescope (WGS84).

    Parameters
    ----------
    lon_deg, lat_deg : float
        East longitude and latitude in degrees.
    height_m : float
        Height above the ellipsoid in metres.
    """

    lon_deg: float
    lat_deg: float
    height_m: float = 0.0

    def __post_init__(self) -> None:
        if not (-360 <= self.lon_deg <= 360 and -90 <= self.lat_deg <= 90):
            raise ValueError(
                f"a site needs an east longitude of +-360 deg and a latitude of +-90 deg, "
                f"got {self.lon_deg}, {self.lat_deg}"
            )


def parse_site(text: str | None) -> Site | None:
    """Read a site from the sheet's ``lon_deg;lat_deg;height_m``.

    Returns
    -------
    Site or None
        None for an empty or unreadable entry.
    """
    parts = (text or "").split(";")
    try:
        values = [float(part) for part in parts]
        return Site(*values) if len(values) in (2, 3) and np.isfinite(values).all() else None
    except ValueError:
        return None


def _directions(ra_deg: ArrayLike, dec_deg: ArrayLike) -> NDArray[np.float64]:
    """Unit vectors, shape (..., 3), of ICRS positions."""
    ra, dec = np.broadcast_arrays(np.radians(ra_deg), np.radians(dec_deg))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def _epochs(mjd: NDArray[np.float64]) -> tuple[Any, Any]:
    """Return TT and TDB (two-part Julian dates) of UTC times; no tables from the net."""
    import warnings

    import erfa  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", erfa.ErfaWarning)
        tai = erfa.utctai(_MJD0, mjd)
        tt = erfa.taitt(*tai)
        # Fairhead and Bretagnon; the site's part is below 2 microseconds.
        shift = erfa.dtdb(tt[0], tt[1], np.mod(mjd, 1.0), 0.0, 0.0, 0.0)
        tdb = erfa.tttdb(tt[0], tt[1], shift)
    return tt, tdb


def _site_gcrs_m(
    mjd: NDArray[np.float64], tt: Any, site: Site
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Site in GCRS (m, shape (n, 3)), ICRS-to-intermediate matrices and rotation angles."""
    import erfa

    angle = erfa.era00(_MJD0, mjd)
    where = erfa.pvtob(
        np.radians(site.lon_deg), np.radians(site.lat_deg), site.height_m, 0.0, 0.0, 0.0, angle
    )["p"]
    matrix = np.asarray(erfa.c2i06a(*tt))
    gcrs = (matrix * where[..., :, None]).sum(axis=-2)
    return gcrs, matrix, np.asarray(angle)


def _finite_epochs(mjd: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Distinct finite times and, per time, its index among them (-1 if not finite)."""
    flat = mjd.ravel()
    finite = np.isfinite(flat)
    epochs, inverse = np.unique(flat[finite], return_inverse=True)
    index = np.full(flat.size, -1, np.intp)
    index[finite] = inverse
    return epochs, index.reshape(mjd.shape)


def bjd_tdb(
    mjd_mid_utc: ArrayLike, ra_deg: ArrayLike, dec_deg: ArrayLike, site: Site
) -> NDArray[np.float64]:
    """Return barycentric Julian dates in TDB for the directions of the sources.

    ``BJD_TDB = TDB(mid) + r . n / c`` with the barycentric position ``r`` of the
    telescope and the direction ``n`` of the source. Each distinct time is worked out
    once, each source costs one scalar product.

    Parameters
    ----------
    mjd_mid_utc : array_like
        Mid-exposure times (MJD, UTC).
    ra_deg, dec_deg : array_like
        ICRS positions in degrees. The three are broadcast against each other: times of
        shape (n, 1) and positions of shape (m,) give shape (n, m).
    site : Site
        The telescope.

    Returns
    -------
    ndarray of float64
        Julian dates; NaN where time or position is not finite.
    """
    import erfa

    mjd, ra, dec = np.broadcast_arrays(
        *(np.asarray(item, dtype=np.float64) for item in (mjd_mid_utc, ra_deg, dec_deg))
    )
    epochs, index = _finite_epochs(mjd)
    out = np.full(mjd.shape, np.nan)
    if not epochs.size:
        return out
    tt, tdb = _epochs(epochs)
    earth = erfa.epv00(*tdb)[1]["p"]
    place_s = earth * _AU_LIGHT_S + _site_gcrs_m(epochs, tt, site)[0] * (_AU_LIGHT_S / _AU_M)
    # Days since MJD0 keep the digits; the large constant is added last.
    days = (tdb[0] - _MJD0) + tdb[1]
    good = index >= 0
    which = index[good]
    light_s = (place_s[which] * _directions(ra[good], dec[good])).sum(axis=-1)
    out[good] = (days[which] + light_s / _DAY_S) + _MJD0
    return out


def airmass(
    mjd_utc: ArrayLike, ra_deg: ArrayLike, dec_deg: ArrayLike, site: Site
) -> NDArray[np.float64]:
    """Return the airmass (Pickering 2002) of sources; no refraction of the altitude.

    Parameters
    ----------
    mjd_utc, ra_deg, dec_deg : array_like
        As in `bjd_tdb`.
    site : Site
        The telescope.

    Returns
    -------
    ndarray of float64
        NaN below the horizon or where an input is not finite.
    """
    mjd, ra, dec = np.broadcast_arrays(
        *(np.asarray(item, dtype=np.float64) for item in (mjd_utc, ra_deg, dec_deg))
    )
    epochs, index = _finite_epochs(mjd)
    out = np.full(mjd.shape, np.nan)
    if not epochs.size:
        return out
    tt, _ = _epochs(epochs)
    _, matrix, angle = _site_gcrs_m(epochs, tt, site)
    # The zenith in ICRS: its hour angle is zero, so its CIRS right ascension is ERA + longitude.
    lon = angle + np.radians(site.lon_deg)
    lat = np.radians(site.lat_deg)
    cirs = np.stack(
        [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.full_like(lon, np.sin(lat))], -1
    )
    zenith = (matrix * cirs[..., :, None]).sum(axis=-2)
    good = index >= 0
    sine = (zenith[index[good]] * _directions(ra[good], dec[good])).sum(axis=-1)
    altitude = np.degrees(np.arcsin(np.clip(sine, -1, 1)))
    with np.errstate(invalid="ignore"):
        bent = np.radians(altitude + 244 / (165 + 47 * np.abs(altitude) ** 1.1))
        out[good] = np.where(altitude > 0, 1 / np.sin(bent), np.nan)
    return out
