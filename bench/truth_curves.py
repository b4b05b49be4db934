"""Light curves against planted truth: transits through clouds and drift, times, trends.

The fluxes are made here from first principles: nothing of the reduction is used for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.runs import Figure

__all__ = ["Night", "bjd_error_s", "figures", "measure_depth", "night", "reduce_night", "transits"]

SITE = (-115.463611, 31.044167, 2790.0)
OTHER_SITES = ((-155.4681, 19.8208, 4205.0), (-70.4042, -24.6272, 2635.0),
               (170.465, -43.987, 1029.0), (0.0, 89.9, 0.0))  # fmt: skip
DEPTH_MMAG = 5.0
#: Days of UTC that are or follow leap seconds, and ordinary ones.
DATES = (49169.5, 53735.99999, 53736.0, 56108.9999, 56109.0001, 57203.75, 57753.99995, 57754.00005,
         60000.25, 61000.6)  # fmt: skip


@dataclass(frozen=True)
class Night:
    """A simulated night of fluxes.

    ``flux`` and ``err`` are electrons, sources by frames; ``theory`` the relative scatter
    of a corrected flux with an ideal ensemble; ``shape`` the trapezoids of the targets.
    """

    mjd: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    err: np.ndarray
    theory: np.ndarray
    targets: np.ndarray
    middle: np.ndarray
    duration_d: float
    shape: np.ndarray
    fwhm: np.ndarray
    ra: np.ndarray
    dec: np.ndarray


def night(
    seed: int,
    *,
    n_stars: int = 90,
    n_frames: int = 400,
    n_targets: int = 10,
    depth_mmag: float = DEPTH_MMAG,
    trend_mmag: float = 0.0,
    faintest: float = 8e4,
    common: bool = False,
) -> Night:
    """Return stars under clouds and drift; some have a transit in the middle of the night.

    Parameters
    ----------
    trend_mmag : float
        Amplitude of trends that an ensemble does not remove: with the seeing, different
        for each star, and with the position of the star, smooth over the field.
    common : bool
        All transits at one time, as one window for all of them needs.
    """
    rng = np.random.default_rng(seed)
    mjd = 60000.15 + np.arange(n_frames) * 50 / 86400
    u = np.linspace(-1, 1, n_frames)
    clouds = (
        0.75 + 0.2 * np.sin(9 * u + rng.uniform(0, 6)) - 0.25 * np.exp(-((u - 0.4) ** 2) / 0.01)
    )
    clouds *= rng.uniform(0.93, 1.0, n_frames)
    x0, y0 = rng.uniform(0, 1000, (2, n_stars))
    # The telescope drifts by 25 px and jitters by 1 px, over a flat with an error of 1 %.
    x = x0[:, None] + 15 * u + rng.normal(0, 1, n_frames)
    y = y0[:, None] - 20 * u**2 + rng.normal(0, 1, n_frames)
    flat = 1 + 0.005 * (x - 500) / 500 - 0.005 * ((y - 500) / 500) ** 2
    fwhm = 3 + 0.6 * np.sin(5 * u + rng.uniform(0, 6)) + rng.normal(0, 0.1, n_frames)
    level = faintest * 10 ** rng.uniform(0, 1.7, n_stars)
    targets = np.argsort(level)[-2 * n_targets :: 2]
    duration = 0.3 * np.ptp(mjd)
    middle = mjd.mean() + rng.uniform(-0.15, 0.15, n_targets) * np.ptp(mjd)
    if common:
        middle[:] = middle[0]
    hours = np.abs(mjd - middle[:, None])
    ingress = 0.15 * duration
    shape = np.clip((0.5 * duration - hours) / ingress, 0, 1)
    signal = np.ones((n_stars, n_frames))
    signal[targets] = 10 ** (-0.4e-3 * depth_mmag * shape)
    own = rng.normal(0, 1, n_stars)[:, None] * (fwhm - 3) / 0.6
    field = ((x0 - 500) / 500)[:, None] * np.sin(4 * u) + ((y0 - 500) / 500)[:, None] ** 2 * u
    trend = 10 ** (-0.4e-3 * trend_mmag * (own + field))
    truth = level[:, None] * clouds * flat * signal * trend
    err = np.sqrt(truth + 2000.0)
    flux = truth + rng.normal(0, 1, truth.shape) * err
    relative = (err / truth) ** 2
    total = (1 / relative).sum(axis=0)
    theory = np.sqrt(relative + 1 / (total - 1 / relative))
    ra = 150 + (x0 - 500) * 0.002
    dec = 20 + (y0 - 500) * 0.002
    return Night(mjd, x, y, flux, err, theory, targets, middle, duration, shape, fwhm, ra, dec)


def reduce_night(sky: Night, **settings: Any) -> Any:
    """Return what the step makes of the fluxes."""
    from astropy.table import Table

    from skymill.steps.lightcurves import lightcurves

    n_stars, n_frames = sky.flux.shape
    names = np.array([f"f{j:04d}" for j in range(n_frames)])
    table = Table()
    table["frame_id"] = np.repeat(names, n_stars)
    table["source"] = np.tile(np.arange(1, n_stars + 1), n_frames)
    for name in ("x", "y", "flux"):
        table[name] = getattr(sky, name).T.ravel()
    table["flux_err"] = sky.err.T.ravel()
    table["sky"] = np.full(n_stars * n_frames, 100.0)
    table["flags"] = np.zeros(n_stars * n_frames, np.int32)
    stars = Table({"source": np.arange(1, n_stars + 1), "x": sky.x[:, 0], "y": sky.y[:, 0]})
    stars["ra"], stars["dec"] = sky.ra, sky.dec
    site = ";".join(map(str, SITE))
    rows = {name: {"exptime_s": 40.0, "mjd_mid": float(t), "site": site}
            for name, t in zip(names, sky.mjd, strict=True)}  # fmt: skip
    photcal = {name: {"fwhm_px": float(f)} for name, f in zip(names, sky.fwhm, strict=True)}
    return lightcurves({"V": table}, {"V": stars}, rows, photcal, **settings)


def measure_depth(mag: np.ndarray, shape: np.ndarray, err: np.ndarray) -> tuple[float, float]:
    """Depth of a trapezoid on a constant by least squares, and its error, in mmag."""
    good = np.isfinite(mag)
    w = 1 / err[good] ** 2
    s = shape[good] - (w * shape[good]).sum() / w.sum()
    depth = (w * s * mag[good]).sum() / (w * s**2).sum()
    return 1e3 * float(depth), 1e3 * float((w * s**2).sum() ** -0.5)


def transits(
    seeds: tuple[int, ...] = (1, 2, 3), column: str = "rel_flux", **more: Any
) -> dict[str, float]:
    """Return bias and error of the depths in per cent, and scatter over theory.

    Parameters
    ----------
    seeds : tuple of int
        Nights.
    column : str
        rel_flux, or one of the detrended magnitudes.
    more
        Keywords of `night` (trend_mmag, ...) and settings of the step.
    """
    ours = {k: more.pop(k) for k in ("trend_mmag", "n_targets", "common", "faintest") if k in more}
    fit = more.pop("fit", False)
    depths, errors, ratios, members = [], [], [], 0
    for seed in seeds:
        sky = night(seed, **ours)
        if ours.get("common"):
            more |= window(sky, fit=fit)
        curves = reduce_night(sky, **more).value
        value = np.asarray(curves.points[column], float).reshape(sky.flux.shape)
        if column == "rel_flux":
            value = -2.5 * np.log10(value)
        for k, i in enumerate(sky.targets):
            err = sky.theory[i] * 2.5 / np.log(10)
            depth, error = measure_depth(value[i], sky.shape[k], err)
            depths.append(depth)
            errors.append(error)
            out = sky.shape[k] == 0
            rest = value[i][out] - np.average(value[i][out], weights=1 / err[out] ** 2)
            ratios.append(float(np.sqrt((rest**2).mean() / (err[out] ** 2).mean())))
        members += int(np.asarray(curves.statistics["comparison"])[sky.targets].sum())
    scale = 100 / DEPTH_MMAG
    n = len(depths)
    return {
        "bias_percent": scale * (float(np.mean(depths)) - DEPTH_MMAG),
        "error_percent": scale * float(np.sqrt(np.sum(np.square(errors)))) / n,
        "scatter_over_theory": float(np.sqrt(np.mean(np.square(ratios)))),
        "pull_width": float(np.std((np.array(depths) - np.mean(depths)) / errors)),
        "n": n,
        "targets_in_ensemble": members,
    }


def bjd_error_s() -> tuple[float, int]:
    """Return the largest difference from astropy's BJD_TDB, and the number of times.

    Arbitrary targets from several sites on ordinary days and at leap seconds, and sources
    over a field of six degrees through the whole step.
    """
    import astropy.units as u
    from astropy.coordinates import EarthLocation, SkyCoord
    from astropy.time import Time

    from skymill.offline import no_downloads
    from skymill.times import Site, bjd_tdb

    no_downloads()
    rng = np.random.default_rng(77)
    worst, n = 0.0, 0

    def truth(mjd: Any, ra: Any, dec: Any, site: tuple[float, float, float]) -> Any:
        place = EarthLocation.from_geodetic(site[0] * u.deg, site[1] * u.deg, site[2] * u.m)
        times = Time(mjd, format="mjd", scale="utc", location=place)
        light = times.light_travel_time(SkyCoord(ra, dec, unit="deg"), ephemeris="builtin")
        both = times.tdb + light
        return (both.jd1 - 2400000.5) + both.jd2

    for site in (SITE, *OTHER_SITES):
        ra = rng.uniform(0, 360, len(DATES))
        dec = np.degrees(np.arcsin(rng.uniform(-1, 1, len(DATES))))
        ours = bjd_tdb(np.array(DATES), ra, dec, Site(*site)) - 2400000.5
        worst = max(worst, float(np.abs(ours - truth(DATES, ra, dec, site)).max()))
        n += len(DATES)
    sky = night(5, n_stars=60, n_frames=12, n_targets=2)
    wide = Night(
        **{**sky.__dict__, "ra": 150 + rng.uniform(-3, 3, 60), "dec": 20 + rng.uniform(-3, 3, 60)}
    )
    points = reduce_night(wide).value.points
    ours = np.asarray(points["bjd_tdb"]).reshape(60, 12) - 2400000.5
    for j, mjd in enumerate(wide.mjd):
        worst = max(worst, float(np.abs(ours[:, j] - truth(mjd, wide.ra, wide.dec, SITE)).max()))
    return worst * 86400, n + ours.size


def figures() -> list[Figure]:
    """Measure everything."""
    plain = transits(tuple(range(1, 9)))
    out = [
        Figure("transit_of_fluxes_depth_bias_percent", plain["bias_percent"], "+-2", "%",
               plain["n"], "5 mmag through clouds and drift, ensemble; error "
               f"{plain['error_percent']:.2f} %"),
        Figure("transit_of_fluxes_scatter_over_theory", plain["scatter_over_theory"], "< 1.05", "",
               plain["n"], "out of transit, photon noise of star and ideal ensemble = 1"),
    ]  # fmt: skip
    worst, n = bjd_error_s()
    out.append(Figure("bjd_error_s", worst, "< 0.1", "s", n,
                      "against astropy: five sites, leap seconds, 6 deg"))  # fmt: skip
    for name, column, settings in DETREND:
        found = transits(
            (1, 2, 3, 4), column, trend_mmag=3.0, faintest=1e6, common=True, **settings
        )
        out.append(Figure(f"transit_depth_bias_{name}_percent", found["bias_percent"], "+-2", "%",
                          found["n"], "trends of 3 mmag, window known; error "
                          f"{found['error_percent']:.2f} %, scatter over theory "
                          f"{found['scatter_over_theory']:.2f}"))  # fmt: skip
    return out


#: Name, column and settings of the ways to detrend.
DETREND: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("epd", "mag_epd", {"detrend": "epd", "magnitude_fit": True, "epd_terms": "O1{fwhm,time}"}),
    ("tfa", "mag_tfa", {"detrend": "tfa", "magnitude_fit": True}),
    ("both", "mag_tfa", {"detrend": "both", "magnitude_fit": True, "epd_terms": "{fwhm}"}),
)


def window(sky: Night, *, fit: bool = False) -> dict[str, Any]:
    """Return the settings that name the targets and their common transit."""
    import astropy.units as u
    from astropy.coordinates import EarthLocation, SkyCoord
    from astropy.time import Time

    from skymill.offline import no_downloads

    no_downloads()
    place = EarthLocation.from_geodetic(SITE[0] * u.deg, SITE[1] * u.deg, SITE[2] * u.m)
    time = Time(sky.middle[0], format="mjd", scale="utc", location=place)
    light = time.light_travel_time(SkyCoord(150, 20, unit="deg"), ephemeris="builtin")
    transit = {
        "t0": float((time.tdb + light).jd),
        "duration_h": sky.duration_d * 24,
        "ingress_h": 0.15 * sky.duration_d * 24,
        "fit": fit,
    }
    return {"targets": [str(i + 1) for i in sky.targets], "transit": transit}
