"""Makes the frames of a night: light through the optics, the detector and the ADC."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.simulate import hits
from skymill.simulate.detector import Charge, collect, make_detector, read_out
from skymill.simulate.frames import Exposure, LightTruth, RawFrame, TruthBit
from skymill.simulate.headers import frame_header, light_header
from skymill.simulate.pointing import (
    airmass,
    dither,
    flat_start,
    iso,
    light_start,
    mjd,
    pointing_wcs,
    wcs_cards,
)
from skymill.simulate.psf import Profile, add_sources
from skymill.simulate.seeds import Stream, generator
from skymill.simulate.stars import make_stars, moving_places, relative_flux

if TYPE_CHECKING:
    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.simulate.config import NightConfig

    Sources = tuple[
        tuple[str, ...],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
        NDArray[np.float64],
    ]

__all__ = ["Simulator"]


class Simulator:
    """Makes the frames of one night.

    Parameters
    ----------
    config : NightConfig
        The night.
    catalog : astropy.table.Table, optional
        Stars to use instead of random ones; see `skymill.simulate.stars.make_stars`.
    """

    def __init__(self, config: NightConfig, catalog: Table | None = None) -> None:
        self.config = config
        self.detector = make_detector(config)
        self.stars = make_stars(config, catalog)

    def bias(self, name: str, stream: str, index: int) -> RawFrame:
        """Return a bias frame, taken 3.5 hours before the first light frame."""
        config = self.config
        start = config.start + timedelta(hours=-3.5, seconds=12 * index)
        header = frame_header(config, "Bias Frame", 0.0, start, (stream, index))
        return RawFrame(name, self._read(None, stream, index)[0], header)

    def dark(self, name: str, stream: str, index: int) -> RawFrame:
        """Return a dark frame, taken from 8 hours after the first light frame on."""
        config = self.config
        exptime = config.dark_exptime_s
        start = config.start + timedelta(hours=8, seconds=(exptime + 8.0) * index)
        header = frame_header(config, "Dark Frame", exptime, start, (stream, index))
        dark = np.zeros(config.shape)
        return RawFrame(name, self._expose(dark, exptime, stream, index)[0], header)

    def flat(
        self,
        name: str,
        band: str,
        stream: str,
        index: int,
        *,
        level_adu: float | None = None,
        slope: float = 0.0,
    ) -> RawFrame:
        """Return a twilight flat.

        Parameters
        ----------
        level_adu : float, optional
            Median level above bias; by default drawn from ``flat_level_adu``.
        slope : float
            Relative change of the light from the left to the right border.
        """
        config = self.config
        exptime = config.flat_exptime_s
        number = config.filters.index(band) if band in config.filters else 0
        header = frame_header(
            config,
            "Flat Field",
            exptime,
            flat_start(config, number, index),
            (stream, index),
            band=band,
        )
        if level_adu is None:
            level_adu = self._rng(Stream.LEVEL, stream, index).uniform(*config.flat_level_adu)
        ny, nx = config.shape
        light = np.full(config.shape, level_adu * config.gain_e_adu)
        light *= 1.0 + slope * (np.arange(nx) / (nx - 1) - 0.5)
        if config.flat_stars:
            rng = self._rng(Stream.FLAT_STARS, stream, index)
            x, y = rng.uniform(0, nx, config.flat_stars), rng.uniform(0, ny, config.flat_stars)
            profile = self._profile(config.fwhm_px)
            peak = rng.uniform(0.02, 0.4, config.flat_stars) * level_adu * config.gain_e_adu
            add_sources(light, x, y, peak / profile.peak, profile)
        light *= self.detector.flat(band)
        return RawFrame(name, self._expose(light, exptime, stream, index)[0], header)

    def regular(self, band: str, index: int) -> Exposure:
        """Return what light frame ``index`` of a filter is."""
        config = self.config
        number = config.filters.index(band)
        return Exposure(
            f"light_{band}_{index + 1:03d}",
            band,
            f"light {band}",
            index,
            light_start(config, number, index),
            config.target,
            config.clouds[index] if index < len(config.clouds) else 1.0,
            trail=number == 0 and index in config.trails,
        )

    def light(self, shot: Exposure) -> tuple[RawFrame, LightTruth]:
        """Return a light frame and its truth."""
        config = self.config
        flipped = config.meridian_flip_at is not None and shot.index >= config.meridian_flip_at
        turn = 180.0 if flipped else 0.0
        pointing, cards = self._point(shot, turn)
        middle = shot.start + timedelta(seconds=config.exptime_s / 2.0)
        mass = airmass(config, middle)
        extinction = config.per_filter("extinction_mag", shot.band)
        throughput = shot.clouds * 10.0 ** (-0.4 * extinction * mass)
        seeing = self._rng(Stream.SEEING, shot.stream, shot.index).standard_normal()
        profile = self._profile(config.fwhm_px * math.exp(config.fwhm_scatter * seeing))

        image, sky = self._sky(shot)
        sources = self._sources(shot, cards, throughput, image, profile)
        light, trail_numbers = image, None
        trail = np.zeros(config.shape)
        if shot.trail:
            trail, trail_numbers = hits.satellite_trail(
                config, profile.fwhm_px, shot.stream, shot.index
            )
            light = image + trail
        flat = self.detector.flat(shot.band)
        cosmic = hits.cosmic_rays(config, config.exptime_s, shot.stream, shot.index)
        data, level, saturated, bled = self._expose(
            light * flat, config.exptime_s, shot.stream, shot.index, cosmic
        )

        noise = np.sqrt(image * flat + config.read_noise_e**2)
        mask = (
            TruthBit.COSMIC * (cosmic > 0.5 * noise)
            + TruthBit.TRAIL * (trail * flat > 0.5 * noise)
            + TruthBit.SATURATED * saturated
            + TruthBit.BLEED * bled
        ).astype(np.uint8)
        zero_point = config.per_filter("zero_point_mag", shot.band)
        numbers = {
            "frame": shot.name,
            "kind": "light",
            "filter": shot.band,
            "object": shot.target,
            "date_obs": iso(shot.start),
            "mjd_mid": round(mjd(middle), 9),
            "exptime_s": config.exptime_s,
            "airmass": round(mass, 6),
            "clouds": shot.clouds,
            "throughput": round(throughput, 8),
            "zero_point_mag": (
                round(zero_point + 2.5 * math.log10(throughput), 6) if throughput else None
            ),
            "fwhm_px": round(profile.fwhm_px, 5),
            "sky_e": round(sky, 5),
            "overscan_adu": round(level, 5),
            "ra_deg": cards["CRVAL1"],
            "dec_deg": cards["CRVAL2"],
            "dither_px": list(dither(config, shot.stream, shot.index)),
            "turned_deg": turn,
            "trail": trail_numbers,
            "n_cosmic_px": int(np.count_nonzero(mask & TruthBit.COSMIC)),
            "n_saturated_px": int(np.count_nonzero(mask & TruthBit.SATURATED)),
            "wcs": cards,
        }
        header = light_header(config, shot, pointing, turn, mass)
        truth = LightTruth(numbers, *sources, image.astype(np.float32), mask, cosmic, cards)
        return RawFrame(shot.name, data, header), truth

    def _rng(self, stream: Stream, name: str, index: int) -> np.random.Generator:
        return generator(self.config.seed, stream, name, index, self.config.night_index)

    def _profile(self, fwhm_px: float) -> Profile:
        config = self.config
        return Profile(
            config.psf, fwhm_px, config.moffat_beta, config.ellipticity, config.ellipse_angle_deg
        )

    def _point(self, shot: Exposure, turn: float) -> tuple[tuple[float, float], dict[str, Any]]:
        """Return the true pointing (ra, dec) and the true cards of the image area."""
        config = self.config
        ny, nx = config.shape
        centre = pointing_wcs(
            wcs_cards(config, config.ra_deg, config.dec_deg, rotation_deg=turn, distorted=False)
        )
        dx, dy = dither(config, shot.stream, shot.index)
        ra, dec = centre.all_pix2world((nx - 1) / 2.0 - dx, (ny - 1) / 2.0 - dy, 0)
        pointing = (float(ra), float(dec))
        return pointing, wcs_cards(config, *pointing, rotation_deg=turn)

    def _sky(self, shot: Exposure) -> tuple[NDArray[np.float64], float]:
        """Return the noiseless sky in electron and its mean level."""
        config = self.config
        ny, nx = config.shape
        scatter = self._rng(Stream.SKY, shot.stream, shot.index).standard_normal()
        level = config.per_filter("sky_e_s", shot.band) * config.exptime_s * shot.sky_factor
        level *= math.exp(config.sky_scatter * scatter)
        v = np.arange(ny)[:, None] / (ny - 1) - 0.5
        u = np.arange(nx)[None, :] / (nx - 1) - 0.5
        slope = config.sky_gradient * (0.8 * u + 0.6 * v) + shot.sky_slope * u
        return level * (1.0 + slope), level

    def _sources(
        self,
        shot: Exposure,
        cards: dict[str, Any],
        throughput: float,
        image: NDArray[np.float64],
        profile: Profile,
    ) -> Sources:
        """Add all sources to the image; return ids, x, y, flux, relative flux."""
        config, stars = self.config, self.stars
        wcs = pointing_wcs(cards)
        zero_point = config.per_filter("zero_point_mag", shot.band)
        scale = config.exptime_s * throughput
        relative = relative_flux(config, stars, shot.start, config.exptime_s)
        flux = scale * relative * 10.0 ** (-0.4 * (stars.mag(shot.band) - zero_point))
        x, y = _pixels(wcs, stars.ra, stars.dec, config)
        _draw(image, x, y, flux, profile, jump_px=shot.jump_px)
        ids, xs, ys, fluxes, changes = list(stars.ids), [x], [y], [flux], [relative]
        for number, moving in enumerate(config.moving):
            path_x, path_y = _pixels(
                wcs, *moving_places(config, moving, shot.start, config.exptime_s), config
            )
            total = scale * 10.0 ** (-0.4 * (moving.mag - zero_point))
            n = len(path_x)
            parts = np.full(n, total / n)
            _draw(image, path_x, path_y, parts, profile, jump_px=shot.jump_px)
            ids.append(f"moving_{number + 1}")
            xs.append(np.array([0.5 * (path_x[0] + path_x[-1])]))
            ys.append(np.array([0.5 * (path_y[0] + path_y[-1])]))
            fluxes.append(np.array([total]))
            changes.append(np.ones(1))
        return (
            tuple(ids),
            np.concatenate(xs),
            np.concatenate(ys),
            np.concatenate(fluxes),
            np.concatenate(changes),
        )

    def _expose(
        self,
        light_e: NDArray[np.float64],
        exptime_s: float,
        stream: str,
        index: int,
        cosmic_e: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.uint16], float, NDArray[np.bool_], NDArray[np.bool_]]:
        """Collect light and read it out: raw frame, level, saturated, bled."""
        if cosmic_e is None:
            cosmic_e = hits.cosmic_rays(self.config, exptime_s, stream, index)
        photons = self._rng(Stream.PHOTONS, stream, index)
        charge = collect(self.detector, light_e, exptime_s, photons, cosmic_e)
        raw, level, saturated = self._read(charge, stream, index)
        return raw, level, saturated, charge.bled

    def _read(
        self, charge: Charge | None, stream: str, index: int
    ) -> tuple[NDArray[np.uint16], float, NDArray[np.bool_]]:
        return read_out(
            self.detector,
            charge,
            self._rng(Stream.READ_NOISE, stream, index),
            self._rng(Stream.DRIFT, stream, index),
        )


def _draw(
    image: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    profile: Profile,
    *,
    jump_px: float,
) -> None:
    """Add sources, half of their light at another place if the telescope jumped."""
    if jump_px == 0.0:
        add_sources(image, x, y, flux, profile)
        return
    for part in (0.0, jump_px):
        add_sources(image, x + part, y, 0.5 * flux, profile)


def _pixels(
    wcs: Any, ra: NDArray[np.float64], dec: NDArray[np.float64], config: NightConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels of sky positions, 0-based; NaN for those far outside the frame."""
    x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
    ra0, dec0 = np.radians(wcs.wcs.crval)
    cosine = np.sin(dec0) * np.sin(np.radians(dec)) + np.cos(dec0) * np.cos(
        np.radians(dec)
    ) * np.cos(np.radians(ra) - ra0)
    reach = 0.75 * math.hypot(*config.shape) * config.pixel_scale_arcsec / 3600.0
    near = cosine > math.cos(math.radians(min(reach + 0.01, 60.0)))
    if near.any():
        x[near], y[near] = wcs.all_world2pix(ra[near], dec[near], 0, tolerance=1e-8)
    return x, y
