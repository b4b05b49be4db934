"""What is known of a frame besides its pixels. Whatever is missing is None."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from skymill.products.base import LoadedFrame, number
from skymill.times import Site, parse_site
from skymill.wcsmath import pixel_to_sky

__all__ = ["ALIASES", "DescribedFrame"]

#: Names of one quantity, the canonical keyword first. Only for reading products and for
#: `update_header`: raw headers are read by the rules of the instrument file.
ALIASES: dict[str, tuple[str, ...]] = {
    "EXPTIME": ("EXPTIME", "EXPOSURE"),
    "DATE-OBS": ("DATE-OBS", "OBSDATE", "UTCDATE"),
    "MJD-AVG": ("MJD-AVG", "MJDMID"),
    "MJD-OBS": ("MJD-OBS", "MJD"),
    "FILTER": ("FILTER", "FILTNAME", "BAND"),
    "OBJECT": ("OBJECT", "OBJNAME", "TARGET"),
    "TELESCOP": ("TELESCOP", "TELNAME"),
    "OBSERVAT": ("OBSERVAT", "SITENAME"),
    "INSTRUME": ("INSTRUME", "DETECTOR", "CCD"),
    "CCD-TEMP": ("CCD-TEMP", "CCDTEMP"),
    "NCOMBINE": ("NCOMBINE", "NCOMB", "NFRAMES"),
    "SATURATE": ("SATURATE",),
    "GAIN": ("GAIN", "EGAIN"),
    "RDNOISE": ("RDNOISE", "READNOIS"),
    "ZP": ("ZP", "ZP_AUTO", "ZP_2"),
    "ZPERR": ("ZPERR", "EZP_AUTO"),
}
_MASTERS = {"bias": "BIASCOR", "dark": "DARKCOR", "flat": "FLATCOR"}
#: Steps of the status, and the step of the workflow that decides each.
_STATUS = {
    "MASK": "mask", "BKGSUB": "background", "SOURCES": "sources", "ASTROMETRY": "astrometry",
    "ZPCALC": "photcal", "PHOTOMETRY": "photometry",
}  # fmt: skip
_MJD0 = 2400000.5


class DescribedFrame(LoadedFrame):
    """A frame with its facts."""

    def _card(self, keyword: str) -> Any:
        header = self.frame.header
        for name in ALIASES.get(keyword, (keyword,)):
            if name in header and header[name] not in ("", None):
                return header[name]
        return None

    def _text(self, column: str, keyword: str) -> str | None:
        value = self.row.get(column) or self._card(keyword)
        return None if value is None else str(value)

    # --- pixels and sky ---------------------------------------------------------------

    @property
    def naxis1(self) -> int:
        """Columns."""
        return self.frame.shape[1]

    @property
    def naxis2(self) -> int:
        """Rows."""
        return self.frame.shape[0]

    @property
    def pixelscale(self) -> tuple[float, float] | None:
        """Arcsec per pixel along x and along y in the middle of the frame."""
        wcs = self.wcs
        if wcs is None or not wcs.has_celestial:
            return None
        x, y = (self.naxis1 - 1) / 2, (self.naxis2 - 1) / 2
        around = np.array([[x, y], [x + 1, y], [x, y + 1]])
        ra, dec = np.radians(pixel_to_sky(wcs, around)).T
        east = (ra - ra[0] + np.pi) % (2 * np.pi) - np.pi
        step = np.hypot(east * np.cos(dec[0]), dec - dec[0])[1:] * 206264.80624709636
        return float(step[0]), float(step[1])

    @property
    def fovx(self) -> float | None:
        """Width in degree."""
        scale = self.pixelscale
        return None if scale is None else scale[0] * self.naxis1 / 3600

    @property
    def fovy(self) -> float | None:
        """Height in degree."""
        scale = self.pixelscale
        return None if scale is None else scale[1] * self.naxis2 / 3600

    @property
    def center(self) -> dict[str, float | None]:
        """Middle of the frame: ``x``, ``y`` (0-based px), ``ra``, ``dec`` (degree)."""
        x, y = (self.naxis1 - 1) / 2, (self.naxis2 - 1) / 2
        ra = dec = None
        if self.wcs is not None and self.wcs.has_celestial:
            ra, dec = (float(v) for v in pixel_to_sky(self.wcs, np.array([[x, y]]))[0])
        return {"x": x, "y": y, "ra": ra, "dec": dec}

    @property
    def ra(self) -> float | None:
        """Right ascension of the pointing in degree, else of the middle of the frame."""
        value = number(self.row.get("ra_deg"))
        return self.center["ra"] if value is None else value

    @property
    def dec(self) -> float | None:
        """Declination of the pointing in degree, else of the middle of the frame."""
        value = number(self.row.get("dec_deg"))
        return self.center["dec"] if value is None else value

    @property
    def site(self) -> Site | None:
        """The telescope's place, of the sheet or of the cards SITELONG and SITELAT."""
        found = parse_site(str(self.row.get("site") or ""))
        if found is not None:
            return found
        lon, lat = (number(self._card(key)) for key in ("SITELONG", "SITELAT"))
        if lon is None or lat is None:
            return None
        return Site(lon, lat, number(self._card("SITEELEV")) or 0.0)

    @cached_property
    def _horizontal(self) -> tuple[float | None, float | None]:
        """Altitude and azimuth of the middle of the frame at mid exposure."""
        site, mjd, at = self.site, self.mjd, self.center
        ra, dec = (at["ra"], at["dec"]) if at["ra"] is not None else (self.ra, self.dec)
        if site is None or mjd is None or ra is None or dec is None:
            return None, None
        from astropy import units as u
        from astropy.coordinates import AltAz, EarthLocation, SkyCoord
        from astropy.time import Time

        from skymill.offline import no_downloads

        no_downloads()
        where = EarthLocation.from_geodetic(site.lon_deg, site.lat_deg, site.height_m)
        frame = AltAz(obstime=Time(mjd, format="mjd", scale="utc"), location=where)
        found = SkyCoord(ra * u.deg, dec * u.deg).transform_to(frame)
        return float(found.alt.deg), float(found.az.deg)

    @property
    def altitude(self) -> float | None:
        """Altitude in degree, computed, without refraction."""
        return self._horizontal[0]

    @property
    def azimuth(self) -> float | None:
        """Azimuth in degree from north through east, computed."""
        return self._horizontal[1]

    # --- exposure and time ------------------------------------------------------------

    @property
    def exptime(self) -> float | None:
        """Exposure that the values refer to, in seconds."""
        return number(self._card("EXPTIME"))

    @property
    def exptime_total(self) -> float | None:
        """Sum of the exposures of a stack, else the exposure, in seconds."""
        total = number(self._card("EXPTOTAL"))
        return self.exptime if total is None else total

    @property
    def ncombine(self) -> int:
        """Number of exposures in the image."""
        return int(number(self._card("NCOMBINE")) or 1)

    @property
    def mjd_start(self) -> float | None:
        """Start of the (first) exposure, MJD UTC."""
        found = number(self._card("MJD-BEG" if self.is_stack else "MJD-OBS"))
        if found is not None or self._card("DATE-OBS") is None:
            return found
        from astropy.time import Time

        try:
            return float(Time(str(self._card("DATE-OBS")), scale="utc").mjd)
        except ValueError:
            return None

    @property
    def mjd(self) -> float | None:
        """Middle of the exposure, MJD UTC; weighted mean of a stack."""
        found = number(self._card("MJD-AVG"))
        start, exposure = self.mjd_start, self.exptime
        if found is None and start is not None and exposure is not None:
            return start + exposure / 172800
        return found

    @property
    def jd(self) -> float | None:
        """Middle of the exposure, JD UTC."""
        return None if self.mjd is None else self.mjd + _MJD0

    @property
    def obsdate(self) -> str | None:
        """Middle of the exposure, ISO date and time, UTC."""
        return _iso(self.mjd)

    @property
    def obsdate_start(self) -> str | None:
        """Start of the exposure, ISO date and time, UTC."""
        return _iso(self.mjd_start)

    # --- instrument -------------------------------------------------------------------

    @property
    def egain(self) -> float | None:
        """Electron/ADU that was applied; of a stack the effective gain."""
        return number(self._card("GAIN"))

    @property
    def gain(self) -> float | None:
        """The same as `egain`: in a product GAIN is never a setting of the camera."""
        return self.egain

    @property
    def read_noise(self) -> float | None:
        """Read noise in electron."""
        return number(self._card("RDNOISE"))

    @property
    def saturation(self) -> float | None:
        """Signal in electron at which a pixel saturates."""
        return number(self._card("SATURATE"))

    @property
    def filter(self) -> str | None:
        """Filter."""
        return self._text("filter", "FILTER")

    @property
    def objname(self) -> str | None:
        """Target as the header names it."""
        return self._text("object", "OBJECT")

    @property
    def imgtype(self) -> str:
        """BIAS, DARK, FLAT or LIGHT; a frame without a kind is LIGHT."""
        kind = str(self.row.get("kind") or "light").upper()
        return {"FLAT_DARK": "DARK"}.get(kind, kind)

    @property
    def binning(self) -> tuple[int, int] | None:
        """Binning along x and y."""
        text = str(self.row.get("binning") or self._card("CCDSUM") or "").replace(" ", "x")
        parts = [part for part in text.split("x") if part.isdigit()]
        return (int(parts[0]), int(parts[-1])) if parts else None

    @property
    def ccd(self) -> str | None:
        """Detector or instrument."""
        return self._text("detector", "INSTRUME")

    @property
    def observatory(self) -> str | None:
        """Observatory."""
        return self._text("", "OBSERVAT")

    @property
    def telname(self) -> str | None:
        """Telescope."""
        return self._text("", "TELESCOP")

    @property
    def available_telescope_keys(self) -> list[str]:
        """Names of the instrument files that are at hand."""
        from skymill.instruments import instrument_names

        return instrument_names()

    @property
    def ccdtemp(self) -> float | None:
        """Temperature of the detector in degree Celsius; never its set point."""
        value = number(self.row.get("temperature_c"))
        return number(self._card("CCD-TEMP")) if value is None else value

    # --- calibration ------------------------------------------------------------------

    @property
    def masters(self) -> dict[str, dict[str, Any]]:
        """Masters that were applied: name, SHA-256 of the pixels, and file if it is there."""
        found = {}
        for kind in _MASTERS:
            name = str(self._card(f"{kind.upper()}ID") or "")
            if name:
                path = self.results / "masters" / f"{name}.fits"
                found[kind] = {
                    "name": name,
                    "sha256": self._card(f"{kind.upper()}SHA"),
                    "path": path if path.is_file() else None,
                }
        return found

    def _master_path(self, kind: str) -> Path | None:
        path: Path | None = self.masters.get(kind, {}).get("path")
        return None if path is None else path.relative_to(self.results.parent)

    @property
    def biaspath(self) -> Path | None:
        """Master bias, relative to the project."""
        return self._master_path("bias")

    @property
    def darkpath(self) -> Path | None:
        """Master dark, relative to the project."""
        return self._master_path("dark")

    @property
    def flatpath(self) -> Path | None:
        """Master flat, relative to the project."""
        return self._master_path("flat")

    @property
    def zero_point(self) -> float | None:
        """Magnitude of 1 electron/s, or None if the scale is relative."""
        return number(self._card("ZP") if self.is_stack else self.photcal.get("zp"))

    zp = zero_point

    @property
    def zperr(self) -> float | None:
        """Statistical error of the zero point in mag; the scatter is ``photcal["zp_scatter"]``."""
        return number(self._card("ZPERR") if self.is_stack else self.photcal.get("zp_err"))

    @property
    def depth(self) -> float | None:
        """Magnitude of a 5-sigma source, or None."""
        return number(self.photcal.get("depth_mag"))

    @property
    def seeing(self) -> float | None:
        """FWHM in arcsec, or None; in pixels it is ``photcal["fwhm_px"]``."""
        return number(self.photcal.get("fwhm_arcsec"))

    @property
    def status(self) -> dict[str, bool]:
        """Steps that were done, as calibration and the outcomes recorded them."""
        done = {step: kind in self.masters for kind, step in _MASTERS.items()}
        usable = {outcome.step for outcome in self.outcomes if outcome.usable}
        done |= {name: step in usable for name, step in _STATUS.items()}
        # positions relative to another frame are no astrometry
        done["ASTROMETRY"] &= bool(self.wcs is not None and self.wcs.has_celestial)
        done["STACK"] = self.is_stack
        return done

    @property
    def info(self) -> dict[str, Any]:
        """All facts in one dictionary, rebuilt when it is asked for."""
        names = (
            "id", "block", "is_stack", "naxis1", "naxis2", "pixelscale", "fovx", "fovy",
            "center", "ra", "dec", "altitude", "azimuth", "exptime", "exptime_total", "ncombine",
            "mjd_start", "mjd", "jd", "obsdate", "obsdate_start", "egain", "read_noise",
            "saturation", "filter", "objname", "imgtype", "binning", "ccd", "observatory",
            "telname", "ccdtemp", "zero_point", "zperr", "depth", "seeing", "status", "masters",
            "version",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


def _iso(mjd: float | None) -> str | None:
    if mjd is None:
        return None
    from astropy.time import Time

    return str(Time(mjd, format="mjd", scale="utc", precision=3).isot)
