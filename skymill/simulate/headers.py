"""Header cards of raw frames, as a camera program writes them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from astropy.io import fits

from skymill.simulate.pointing import iso, sexagesimal, wcs_cards
from skymill.simulate.seeds import Stream, generator

if TYPE_CHECKING:
    from datetime import datetime

    from skymill.simulate.config import NightConfig
    from skymill.simulate.frames import Exposure

__all__ = ["frame_header", "light_header"]


def frame_header(
    config: NightConfig,
    imagetyp: str,
    exptime_s: float,
    start: datetime,
    seeds: tuple[str, int],
    *,
    band: str = "",
) -> fits.Header:
    """Return the cards that every frame has.

    Parameters
    ----------
    config : NightConfig
        The night.
    imagetyp : str
        ``Bias Frame``, ``Dark Frame``, ``Flat Field`` or ``Light Frame``.
    exptime_s : float
        Exposure in seconds.
    start : datetime
        Start of the exposure, naive UTC.
    seeds : tuple of (str, int)
        Kind and number of the frame, for the scatter of its temperature.
    band : str
        Filter; empty for frames without one.
    """
    ny, nx = config.shape
    left = config.prescan_px
    rng = generator(config.seed, Stream.TEMPERATURE, *seeds, config.night_index)
    temperature = config.temperature_c + float(rng.normal(0.0, 0.05))
    header = fits.Header()
    header["IMAGETYP"] = (imagetyp, "kind of frame")
    header["INSTRUME"] = config.instrument
    header["TELESCOP"] = config.telescope
    if band:
        header["FILTER"] = band
    header["EXPTIME"] = (exptime_s, "[s] exposure")
    header["DATE-OBS"] = (iso(start), "UTC, start of exposure")
    header["GAIN"] = (config.header_gain_e_adu or config.gain_e_adu, "[electron/ADU]")
    header["RDNOISE"] = (config.read_noise_e, "[electron]")
    header["SATURATE"] = (config.saturate_adu, "[ADU]")
    header["XBINNING"] = 1
    header["YBINNING"] = 1
    header["SET-TEMP"] = (config.temperature_c, "[deg C]")
    header["CCD-TEMP"] = (round(temperature, 2), "[deg C]")
    header["TRIMSEC"] = f"[{left + 1}:{left + nx},1:{ny}]"
    if config.overscan_px:
        header["BIASSEC"] = f"[{left + nx + 1}:{left + nx + config.overscan_px},1:{ny}]"
    header["SITELAT"] = (config.site_lat_deg, "[deg] north positive")
    header["SITELONG"] = (config.site_lon_deg, "[deg] east positive")
    header["SITEELEV"] = (config.site_height_m, "[m]")
    return header


def light_header(
    config: NightConfig,
    shot: Exposure,
    pointing: tuple[float, float],
    turn_deg: float,
    mass: float,
) -> fits.Header:
    """Return the cards of a light frame, with the world coordinates that were asked for.

    Parameters
    ----------
    config : NightConfig
        The night.
    shot : Exposure
        The frame.
    pointing : tuple of float
        True pointing (ra, dec) in degrees.
    turn_deg : float
        180 after a meridian flip.
    mass : float
        Airmass at mid-exposure.
    """
    header = frame_header(
        config,
        "Light Frame",
        config.exptime_s,
        shot.start,
        (shot.stream, shot.index),
        band=shot.band,
    )
    header["OBJECT"] = shot.target
    ra, dec = pointing if config.wcs == "true" else _believed(config, shot, pointing)
    header["RA"] = (sexagesimal(ra, hours=True), "pointing, ICRS")
    header["DEC"] = (sexagesimal(dec, hours=False), "pointing, ICRS")
    header["AIRMASS"] = (round(mass, 5), "at mid-exposure")
    if config.wcs == "none":
        return header
    wrong = config.wcs == "offset"
    header.update(
        wcs_cards(
            config,
            ra,
            dec,
            rotation_deg=turn_deg + (config.wcs_rotation_deg if wrong else 0.0),
            distorted=not wrong,
            trimmed=False,
        )
    )
    return header


def _believed(
    config: NightConfig, shot: Exposure, pointing: tuple[float, float]
) -> tuple[float, float]:
    """Where the telescope thinks it points: an error of the night and a small jitter."""
    angle = generator(config.seed, Stream.POINTING_ERROR, "night", 0, config.night_index).uniform(
        0.0, 2.0 * math.pi
    )
    rng = generator(config.seed, Stream.POINTING_ERROR, shot.stream, shot.index, config.night_index)
    jitter = rng.normal(0.0, 0.1, 2)
    size = config.wcs_offset_arcsec / 3600.0
    east = size * (math.sin(angle) + float(jitter[0]))
    north = size * (math.cos(angle) + float(jitter[1]))
    ra = pointing[0] + east / math.cos(math.radians(pointing[1]))
    return ra % 360.0, pointing[1] + north
