"""A transit of 5 mmag from raw pixels, through clouds and drift, to the light curve.

The raw frames are those of the simulator, to which every frame is told the brightness that its
stars have then: many stars have a transit, at different times. The telescope drifts over an
uneven flat, the seeing changes, clouds pass. Nothing of the reduction is used for the truth.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table

from bench.photometry_night import light_within, main_aperture_fwhm
from bench.runs import Figure, project, skymill
from bench.truth_curves import DEPTH_MMAG, measure_depth
from skymill.io import read_table
from skymill.settings import Settings
from skymill.simulate import NightConfig, simulate_night
from skymill.simulate.simulator import Simulator

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Transits", "depths", "figures", "reduce_transits"]

#: Drift of the telescope over the night (px), and jitter from frame to frame.
DRIFT_PX, JITTER_PX = (18.0, -12.0), 0.7


@dataclass(frozen=True, eq=False)
class Transits:
    """A reduced night of transits and its truth.

    Parameters
    ----------
    config : NightConfig
        What was simulated.
    results : Path
        Products of the project.
    frames : tuple of dict
        Truth of each light frame.
    stars : Table
        id, ra, dec, V.
    targets : ndarray of int
        Rows of the stars with a transit.
    shape : ndarray, shape (targets, frames)
        Part of the depth that is lost.
    """

    config: NightConfig
    results: Path
    frames: tuple[dict[str, Any], ...]
    stars: Table
    targets: np.ndarray
    shape: np.ndarray


def night_config(**changes: Any) -> NightConfig:
    """Return a night of bright stars in wide images: little noise, nothing saturated."""
    values: dict[str, Any] = {
        "seed": 77,
        "shape": (800, 800),
        "n_bias": 15,
        "n_dark": 9,
        "n_flat": 21,
        "n_light": 200,
        "n_stars": 224,
        "mag_bright": 10.6,
        "mag_faint": 12.0,
        "count_slope": 0.0,
        "min_separation_px": 40.0,
        "fwhm_px": 5.0,
        "fwhm_scatter": 0.05,
        "gain_e_adu": 1.7,
        "vignetting": 0.2,
        "wcs": "offset",
        "distortion_px": 0.3,
        "dither_px": JITTER_PX,
        **changes,
    }
    u = np.linspace(-1, 1, values["n_light"])
    rng = np.random.default_rng(values["seed"])
    clouds = 0.85 + 0.1 * np.sin(9 * u) - 0.25 * np.exp(-((u - 0.4) ** 2) / 0.01)
    values["clouds"] = tuple(np.round(clouds * rng.uniform(0.95, 1.0, u.size), 4).tolist())
    return NightConfig(**values)


def reduce_transits(folder: Path, config: NightConfig, *, n_targets: int = 72) -> Transits:
    """Simulate the night with its transits and run everything."""
    shutil.rmtree(folder, ignore_errors=True)
    # Bias, dark and flat frames; the light frames follow with changing stars.
    truth = simulate_night(
        folder, config.model_copy(update={"n_light": 0, "clouds": (), "truth_images": False})
    )
    simulator = Simulator(config)
    stars = simulator.stars
    rng = np.random.default_rng(config.seed)
    n = config.n_light
    # Targets stay on the frame with their annulus, as one points a telescope.
    cos = np.cos(np.radians(config.dec_deg))
    away = np.maximum(np.abs(stars.ra - config.ra_deg) * cos, np.abs(stars.dec - config.dec_deg))
    margin = 8.0 * config.fwhm_px + abs(DRIFT_PX[0]) / 2
    room = (min(config.shape) / 2 - margin) * config.pixel_scale_arcsec / 3600
    targets = np.sort(rng.permutation(np.flatnonzero(away < room))[:n_targets])
    n_targets = len(targets)
    u = np.linspace(-1, 1, n)
    middle = rng.uniform(-0.3, 0.3, (n_targets, 1))
    shape = np.clip((0.4 - np.abs(u - middle)) / 0.1, 0, 1)
    night = truth.raw / config.night
    scale = config.pixel_scale_arcsec / 3600
    frames = []
    for k in range(n):
        mag = stars.mag("V").copy()
        mag[targets] += 1e-3 * DEPTH_MMAG * shape[:, k]
        simulator.stars = replace(stars, mags={"V": mag})
        simulator.config = config.model_copy(
            update={
                "ra_deg": config.ra_deg + 0.5 * DRIFT_PX[0] * u[k] * scale / cos,
                "dec_deg": config.dec_deg + 0.5 * DRIFT_PX[1] * u[k] ** 2 * scale,
            }
        )
        frame, light = simulator.light(simulator.regular("V", k))
        frame.hdu().writeto(night / f"{frame.name}.fits")
        frames.append(light.numbers | {"flux_e": light.flux_e})
    # Like a user who knows what is observed: targets are not for comparison.
    named = "".join(f'\n    - "{stars.ra[i]:.6f},{stars.dec[i]:.6f}"' for i in targets)
    place = project(
        folder / "project",
        truth.raw,
        reference=folder / "truth" / "reference.csv",
        more=f"\nlightcurves:\n  targets:{named}\nmovers:\n  enabled: false\n",
    )
    skymill("run", "-d", place)
    table = Table({"id": list(stars.ids), "ra": stars.ra, "dec": stars.dec, "V": stars.mag("V")})
    return Transits(config, place / "results", tuple(frames), table, targets, shape)


def theory(night: Transits) -> np.ndarray:
    """Return the relative error of every star on every frame by the CCD equation, (n, frames).

    ``F + n (1 + n / n_ann) (sky + dark + RN^2)`` with the light ``F`` and the ``n`` px of the
    main aperture and ``n_ann`` px of the annulus.
    """
    config, settings = night.config, Settings(raw="raw").photometry
    inner, outer = settings.annulus_fwhm
    out = []
    for frame in night.frames:
        fwhm = frame["fwhm_px"]
        radius = main_aperture_fwhm() * fwhm
        n, ring = np.pi * radius**2, np.pi * (outer**2 - inner**2) * fwhm**2
        flux = frame["flux_e"][: len(night.stars)] * light_within(config, fwhm, radius)
        dark = config.dark_e_s * config.exptime_s
        pixel = frame["sky_e"] + dark + config.read_noise_e**2 + config.gain_e_adu**2 / 12
        out.append(np.sqrt(flux + n * (1 + n / ring) * pixel) / flux)
    return np.array(out).T


def depths(night: Transits) -> dict[str, float]:
    """Return bias and error of the depths in per cent, and scatter over theory."""
    from scipy.spatial import cKDTree

    (path,) = sorted((night.results / "lightcurves").glob("*.parquet"))
    points = read_table(path)
    statistics = read_table(path.parent / "statistics" / path.name)
    (stack,) = sorted((night.results / "catalog").glob("*.parquet"))
    listed = read_table(stack)
    place = {int(row["source"]): (float(row["ra"]), float(row["dec"])) for row in listed}
    ra, dec = np.array([place[int(source)] for source in statistics["source"]]).T
    cos = np.cos(np.radians(night.config.dec_deg))
    far, which = cKDTree(
        np.column_stack([night.stars["ra"] * cos, night.stars["dec"]]) * 3600
    ).query(np.column_stack([ra * cos, dec]) * 3600)
    row_of = {
        int(i): int(source)
        for source, i, d in zip(statistics["source"], which, far, strict=True)
        if d < 2.0
    }
    times = np.array([frame["mjd_mid"] for frame in night.frames])
    relative = theory(night)
    compared = {
        int(i)
        for i, d, used in zip(which, far, statistics["comparison"], strict=True)
        if d < 2.0 and used
    }
    ensemble = 1 / np.sum([relative[i] ** -2 for i in sorted(compared)], axis=0)
    found, errors, common, ratios = [], [], [], []
    for k, i in enumerate(night.targets):
        mine = points[np.asarray(points["source"]) == row_of.get(int(i), -1)]
        mine = mine[(mine["flags"] == 0) & np.isfinite(mine["rel_flux"])]
        if len(mine) < 0.5 * times.size:
            continue
        at = np.abs(times[:, None] - np.asarray(mine["mjd_mid"])[None, :]).argmin(axis=0)
        mag = -2.5 * np.log10(np.asarray(mine["rel_flux"], float))
        sigma = 1.0857 * np.sqrt(relative[i, at] ** 2 + ensemble[at])
        depth, _ = measure_depth(mag, night.shape[k, at], sigma)
        found.append(depth)
        # The noise of the star is its own, that of the ensemble is shared by all targets.
        alone, shared = 1.0857 * relative[i, at], 1.0857 * np.sqrt(ensemble[at])
        errors.append(measure_depth(mag, night.shape[k, at], alone)[1])
        common.append(measure_depth(mag, night.shape[k, at], shared)[1])
        out = night.shape[k, at] == 0
        weight = sigma[out] ** -2
        rest = mag[out] - np.average(mag[out], weights=weight)
        # One mean was taken from them.
        ratios.append(float((weight * rest**2).sum() / (out.sum() - 1)))
    n = len(found)
    scale = 100 / DEPTH_MMAG
    return {
        "bias_percent": scale * (float(np.mean(found)) - DEPTH_MMAG),
        "error_percent": scale
        * float(np.hypot(np.sqrt(np.sum(np.square(errors))) / n, np.mean(common))),
        "scatter_over_theory": float(np.sqrt(np.mean(ratios))),
        "pull_width": float(np.std((np.array(found) - np.mean(found)) / errors)),
        "n": n,
        "comparisons": len(compared),
        "frames": int(times.size),
    }


def figures(folder: Path, **changes: Any) -> list[Figure]:
    """Reduce the night and return its figures."""
    found = depths(reduce_transits(folder, night_config(**changes)))
    n = int(found["n"])
    return [
        Figure("transit_depth_bias_percent", found["bias_percent"], "+-2", "%", n,
               f"5 mmag from raw pixels through clouds and a drift of {DRIFT_PX[0]:g} px, "
               f"{found['frames']:.0f} frames; error {found['error_percent']:.2f} %"),
        Figure("transit_scatter_over_theory", found["scatter_over_theory"], "<= 1.05", "", n,
               "out of transit, photon and read noise of star and of the "
               f"{found['comparisons']:.0f} comparison stars = 1"),
    ]  # fmt: skip
