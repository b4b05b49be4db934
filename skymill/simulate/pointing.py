"""Where the telescope points and when: times, airmass and world coordinates."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from skymill.simulate.seeds import Stream, generator

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from skymill.simulate.config import NightConfig

__all__ = [
    "airmass",
    "dither",
    "flat_start",
    "iso",
    "light_start",
    "mjd",
    "pointing_wcs",
    "sexagesimal",
    "wcs_cards",
]

_MJD_ZERO = datetime(1858, 11, 17)


def mjd(when: datetime) -> float:
    """Modified Julian date (UTC) of a naive UTC time."""
    past = when - _MJD_ZERO
    return past.days + (past.seconds + past.microseconds * 1e-6) / 86400.0


def iso(when: datetime) -> str:
    """``YYYY-MM-DDThh:mm:ss.sss``."""
    return when.isoformat(timespec="milliseconds")


def light_start(config: NightConfig, band: int, index: int) -> datetime:
    """Start of light frame ``index`` of filter number ``band``: the filters alternate."""
    slot = index * len(config.filters) + band
    return config.start + timedelta(milliseconds=round(1000.0 * config.cadence * slot))


def flat_start(config: NightConfig, band: int, index: int) -> datetime:
    """Start of a flat: 90 minutes before the first light, 15 minutes per filter."""
    seconds = 900.0 * band + (config.flat_exptime_s + 8.0) * index
    return config.start + timedelta(minutes=-90, milliseconds=round(1000.0 * seconds))


def airmass(config: NightConfig, when: datetime) -> float:
    """Airmass of the field's centre.

    Sidereal time from the IAU 1982 expression, airmass from Young and Irvine (1967),
    ``sec z (1 - 0.0012 (sec^2 z - 1))``. Below 8 degrees the altitude is held.
    """
    days = mjd(when) - 51544.5
    sidereal = 280.46061837 + 360.98564736629 * days + config.site_lon_deg
    hour = math.radians(sidereal - config.ra_deg)
    lat, dec = math.radians(config.site_lat_deg), math.radians(config.dec_deg)
    sine = math.sin(lat) * math.sin(dec) + math.cos(lat) * math.cos(dec) * math.cos(hour)
    secant = 1.0 / max(sine, math.sin(math.radians(8.0)))
    return secant * (1.0 - 0.0012 * (secant * secant - 1.0))


def dither(config: NightConfig, name: str, index: int) -> tuple[float, float]:
    """Shift (x, y) in px of the sky on the detector in one light frame."""
    rng = generator(config.seed, Stream.POINTING, name, index, config.night_index)
    x, y = rng.uniform(-config.dither_px, config.dither_px, 2)
    return round(float(x), 4), round(float(y), 4)


def wcs_cards(
    config: NightConfig,
    ra_deg: float,
    dec_deg: float,
    *,
    rotation_deg: float = 0.0,
    distorted: bool = True,
    trimmed: bool = True,
) -> dict[str, Any]:
    """Return the cards of a TAN or TAN-SIP solution.

    Parameters
    ----------
    config : NightConfig
        The night.
    ra_deg, dec_deg : float
        Pointing: the sky at the centre of the image area.
    rotation_deg : float
        Added to the position angle of the camera.
    distorted : bool
        True for TAN-SIP with the distortion of the optics, fixed to the detector.
    trimmed : bool
        True for pixels of the image area, False for those of the raw frame.

    Returns
    -------
    dict
        Keyword to value.
    """
    ny, nx = config.shape
    angle = math.radians(config.rotation_deg + rotation_deg)
    scale = config.pixel_scale_arcsec / 3600.0
    east = scale if config.mirrored else -scale
    sip = distorted and config.distortion_px > 0
    cards: dict[str, Any] = {
        "WCSAXES": 2,
        "CTYPE1": "RA---TAN-SIP" if sip else "RA---TAN",
        "CTYPE2": "DEC--TAN-SIP" if sip else "DEC--TAN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRVAL1": round(ra_deg % 360.0, 10),
        "CRVAL2": round(dec_deg, 10),
        "CRPIX1": (nx + 1) / 2.0 + (0 if trimmed else config.prescan_px),
        "CRPIX2": (ny + 1) / 2.0,
        "CD1_1": round(east * math.cos(angle), 14),
        "CD1_2": round(scale * math.sin(angle), 14),
        "CD2_1": round(-east * math.sin(angle), 14),
        "CD2_2": round(scale * math.cos(angle), 14),
        "RADESYS": "ICRS",
        "EQUINOX": 2000.0,
    }
    if sip:
        # A radial cubic term and a smaller tilt, as a lens and a tilted detector give.
        corner = math.hypot(nx / 2.0, ny / 2.0)
        cubic, tilt = config.distortion_px / corner**3, 0.2 * config.distortion_px / corner**2
        cards |= {"A_ORDER": 3, "A_3_0": cubic, "A_1_2": cubic, "A_2_0": tilt}
        cards |= {"B_ORDER": 3, "B_0_3": cubic, "B_2_1": cubic, "B_1_1": -0.5 * tilt}
    return cards


def pointing_wcs(cards: dict[str, Any]) -> WCS:
    """Return the astropy WCS of some cards."""
    from astropy.io import fits
    from astropy.wcs import WCS

    header = fits.Header()
    for key, value in cards.items():
        header[key] = value
    return WCS(header)


def sexagesimal(value: float, *, hours: bool) -> str:
    """``hh:mm:ss.ss`` of an angle in degrees, or ``+dd:mm:ss.s``."""
    digits, factor = (2, 240.0) if hours else (1, 3600.0)
    total = round(abs(value) * factor * 10**digits)
    if hours:
        total %= 86400 * 10**digits
    whole, rest = divmod(total, 10**digits)
    sign = "" if hours else "-" if value < 0 else "+"
    fields = f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{sign}{fields}.{rest:0{digits}d}"
