"""Photometry from raw pixels against planted truth: fluxes, empty sky, zero points, depth.

A simulated night goes through the whole chain (`bench.photometry_night`). The truth is that of
the simulator: fluxes of stars, noiseless images, throughput. What a flux should be is worked
out here, from the profile that was simulated. ``python -m bench.truth_photometry``
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.photometry_night import (
    COLOUR_TERM,
    INJECTIONS,
    SCATTER,
    Night,
    aperture_truth,
    light_within,
    main_aperture_fwhm,
    night_config,
    reduce_night,
    reference,
    tables,
)
from bench.runs import BUILD, Figure, publish
from bench.truth_transit import figures as transit_figures

if TYPE_CHECKING:
    from pathlib import Path

    from astropy.table import Table

__all__ = ["figures", "flux_figures", "night_figures"]

MMAG = 2500 / np.log(10)
#: Radius of the total flux in FWHM.
TOTAL_FWHM = 4.0
#: Edges of the bins of magnitude.
BINS = (12.5, 14.0, 15.5, 17.0, 18.2, 19.4)
METHODS = {"aperture": "", "optimal": "_opt", "psf": "_psf"}
#: Pairs of frames and catalogues for the zero points.
TRIALS, TRIAL_STARS = 600, 60


class Measured(NamedTuple):
    """Clean measurements of catalogue stars: columns of numbers, all frames together."""

    mag: np.ndarray
    flux: dict[str, np.ndarray]
    err: dict[str, np.ndarray]
    true: dict[str, np.ndarray]
    apcor: np.ndarray


def figures(folder: Path) -> list[Figure]:
    """Measure everything."""
    return [*night_figures(folder / "night"), *transit_figures(folder / "transit")]


def night_figures(folder: Path, **changes: Any) -> list[Figure]:
    """Reduce the night and return its figures."""
    night = reduce_night(folder, night_config(**changes), injections=INJECTIONS)
    return [
        *flux_figures(measured(night)),
        *empty_figures(night),
        *zero_point_figures(night),
        *completeness_figures(night),
    ]


def measured(night: Night) -> Measured:
    """Match the forced photometry of the stack's catalogue with the stars that were planted.

    Measurements with a flag, or with a planted hit or saturated pixel in the main aperture, are
    left out. The truth of the aperture is the sum of the noiseless image in the same circle,
    that of the other methods the light within 4 FWHM as measured, which is their definition.
    """
    from scipy.spatial import cKDTree

    stars = night.fluxes()
    mags = dict(zip(map(str, night.stars["id"]), night.stars["V"], strict=True))
    parts: list[dict[str, np.ndarray]] = []
    for frame in night.frames:
        mine = night.of_frame(night.points, frame)
        mine = mine[(mine["source"] > 0) & (mine["flags"] == 0) & np.isfinite(mine["flux"])]
        there = stars[frame["id"]]
        xy = np.column_stack([mine["x"], mine["y"]])
        far, which = cKDTree(np.column_stack([there["x"], there["y"]])).query(xy)
        image, hits = night.image(frame)
        radius = main_aperture_fwhm() * float(mine["fwhm"][0])
        clean = aperture_truth(hits.astype(float), mine["x"], mine["y"], radius + 1) == 0
        keep = (far < 1.0) & clean
        mine, true = mine[keep], there[which[keep]]
        whole = np.asarray(true["flux_e"], float)
        whole = whole * light_within(
            night.config, frame["fwhm_px"], TOTAL_FWHM * float(mine["fwhm"][0])
        )
        part = {"mag": np.array([mags[str(name)] for name in true["id"]])}
        part["apcor"] = np.asarray(mine["apcor"], float)
        part["whole"] = whole
        part["circle"] = aperture_truth(image, mine["x"], mine["y"], radius)
        for suffix in METHODS.values():
            part[f"flux{suffix}"] = np.asarray(mine[f"flux{suffix}"], float)
            part[f"err{suffix}"] = np.asarray(mine[f"flux_err{suffix}"], float)
        parts.append(part)
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return Measured(
        joined["mag"],
        {name: joined[f"flux{suffix}"] for name, suffix in METHODS.items()},
        {name: joined[f"err{suffix}"] for name, suffix in METHODS.items()},
        {name: joined["circle" if name == "aperture" else "whole"] for name in METHODS},
        joined["apcor"],
    )


def flux_figures(found: Measured) -> list[Figure]:
    """Bias of total fluxes and width of the pulls, of every method; the worst is the figure."""
    bias, stated = {}, {}
    whole = found.true["psf"]
    for name in METHODS:
        factor = found.apcor if name == "aperture" else np.ones(whole.size)
        bright = found.flux[name] > 100 * found.err[name]
        weight = (whole / (found.err[name] * factor))[bright] ** 2
        off = (found.flux[name] * factor / whole - 1)[bright]
        bias[name] = MMAG * float((weight * off).sum() / weight.sum())
        stated[name] = (MMAG / float(np.sqrt(weight.sum())), int(bright.sum()))
    worst = max(bias, key=lambda name: abs(bias[name]))
    note = ", ".join(f"{name} {value:+.2f}" for name, value in bias.items())
    out = [
        Figure("flux_bias_mmag", bias[worst], "+-1", "mmag", stated[worst][1],
               f"raw pixels to total flux, S/N > 100, worst method ({note}); error of each "
               f"{stated[worst][0]:.2f}; total is the light within 4 FWHM")
    ]  # fmt: skip
    widths: dict[tuple[str, int], tuple[float, int]] = {}
    for name in METHODS:
        for k, (low, high) in enumerate(pairwise(BINS)):
            here = (found.mag >= low) & (found.mag < high)
            pull = ((found.flux[name] - found.true[name]) / found.err[name])[here]
            if pull.size > 50:
                widths[name, k] = (float(pull.std(ddof=1)), pull.size)
    for name in METHODS:
        mine = {k: v for (method, k), v in widths.items() if method == name}
        k = max(mine, key=lambda k: abs(mine[k][0] - 1))
        width, n = mine[k]
        shown = ", ".join(f"{mine[k][0]:.3f}" for k in sorted(mine))
        title = "flux_pull_width" if name == "aperture" else f"flux_pull_width_{name}"
        out.append(
            Figure(title, width, "1.00 +- 0.02", "", n,
                   f"{name}, worst bin of magnitude (V {BINS[k]:g} to {BINS[k + 1]:g}), plain "
                   f"std, statistical error {1 / np.sqrt(2 * n):.3f}; all bins: {shown}")
        )  # fmt: skip
    return out


def empty_figures(night: Night) -> list[Figure]:
    """Forced photometry where nothing is; the wings of far stars are taken from the truth."""
    pulls: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
    for frame in night.frames:
        mine = night.of_frame(night.points, frame)
        mine = mine[(mine["source"] < 0) & (mine["flags"] == 0)]
        image, hits = night.image(frame)
        radius = main_aperture_fwhm() * float(mine["fwhm"][0])
        clean = aperture_truth(hits.astype(float), mine["x"], mine["y"], radius + 1) == 0
        mine = mine[clean]
        wings = aperture_truth(image, mine["x"], mine["y"], radius)
        for name, suffix in METHODS.items():
            # The wings are flat there: weights of a profile see them like a circle does.
            per_px = wings / (np.pi * radius**2)
            true = wings if name == "aperture" else per_px * _area(night.config, frame)
            pulls[name].append(
                np.asarray((mine[f"flux{suffix}"] - true) / mine[f"flux_err{suffix}"])
            )
    joined = {name: np.concatenate(value) for name, value in pulls.items()}
    joined = {name: value[np.isfinite(value)] for name, value in joined.items()}
    n = joined["aperture"].size
    means = ", ".join(f"{name} {value.mean():+.3f}" for name, value in joined.items())
    widths = ", ".join(f"{name} {value.std(ddof=1):.3f}" for name, value in joined.items())
    return [
        Figure("forced_empty_mean", float(joined["aperture"].mean()), "0.00 +- 0.02", "", n,
               f"pulls at random empty positions, aperture; error {1 / np.sqrt(n):.3f}; {means}"),
        Figure("forced_empty_width", float(joined["aperture"].std(ddof=1)), "1.00 +- 0.02", "", n,
               f"plain std of the same; error {1 / np.sqrt(2 * n):.3f}; {widths}"),
    ]  # fmt: skip


def _area(config: Any, frame: dict[str, Any]) -> float:
    """Noise-equivalent area ``1 / sum(P^2)`` (px^2): so often a flat level counts."""
    beta, fwhm = config.moffat_beta, frame["fwhm_px"]
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    return float(np.pi * alpha**2 * (2 * beta - 1) / (beta - 1) ** 2)


def zero_point_figures(night: Night) -> list[Figure]:
    """Compare zero points with the truth: one catalogue in the chain, many with its sources."""
    from skymill.steps.photcal import photcal

    solved = {str(row["frame_id"]): row for row in tables(night.results / "photcal")}
    chain = [
        float(solved[f["id"]]["zp"]) - _true_zp(night, f, float(solved[f["id"]]["colour_0"]))
        for f in night.frames
    ]
    terms = np.array([float(solved[f["id"]]["colour_term"]) for f in night.frames])
    sources = tables(night.results / "sources")
    solutions = {str(row["frame_id"]): dict(zip(row.colnames, row, strict=True))
                 for row in tables(night.results / "astrometry")}  # fmt: skip
    lists = {f["id"]: night.of_frame(sources, f) for f in night.frames}
    rng = np.random.default_rng(night.config.seed + 1)
    off, error, slope = np.empty((3, TRIALS))
    usable = night.stars[(night.stars["V"] > 13.5) & (night.stars["V"] < 16.5)]
    for trial in range(TRIALS):
        frame = night.frames[trial % len(night.frames)]
        name = frame["id"]
        picked = usable[np.sort(rng.choice(len(usable), TRIAL_STARS, replace=False))]
        row = {"frame_id": name, "filter": "V", "exptime_s": night.config.exptime_s}
        value = photcal(
            lists[name], row, solution=solutions[name], catalog=_catalog(reference(picked, rng)),
            measured=night.seeing[name], colours={"V": ("V", "R")},
        ).value  # fmt: skip
        off[trial] = value["zp"] - _true_zp(night, frame, value["colour_0"])
        error[trial] = value["zp_err"]
        slope[trial] = value["colour_term"] - COLOUR_TERM
    good = np.isfinite(off)
    n = int(good.sum())
    pull = off[good] / error[good]
    bias, bias_err = 1000 * float(off[good].mean()), 1000 * float(off[good].std() / np.sqrt(n))
    return [
        Figure("zeropoint_bias_mmag", bias, "+-2", "mmag", n,
               f"error {bias_err:.2f}; sources of the chain against catalogues of {TRIAL_STARS} "
               f"stars, 10 % wrong by 0.3 to 1.5 mag, scatter {1000 * SCATTER:g} mmag, colour term "
               f"{COLOUR_TERM:g}"),
        Figure("zeropoint_pull_width", float(pull.std(ddof=1)), "1.0 +- 0.1", "", n,
               f"(zero point - truth) / zp_err of the same; error {1 / np.sqrt(2 * n):.3f}; the "
               "expected scatter makes it smaller where stars scatter less"),
        Figure("zeropoint_colour_term_bias", float(np.nanmean(slope)), "0", "", n,
               f"fitted - planted colour term; error {np.nanstd(slope) / np.sqrt(n):.4f}; of the "
               f"chain {terms.mean() - COLOUR_TERM:+.4f}"),
        Figure("zeropoint_chain_bias_mmag", 1000 * float(np.mean(chain)), "", "mmag", len(chain),
               "the run's own zero points: one catalogue for all frames, whose errors they share"),
    ]  # fmt: skip


def _true_zp(night: Night, frame: dict[str, Any], colour_0: float) -> float:
    """Zero point of the simulated sky for the light within 4 FWHM and a star of this colour."""
    measured_fwhm = float(night.seeing[frame["id"]]["fwhm_px"])
    inside = light_within(night.config, frame["fwhm_px"], TOTAL_FWHM * measured_fwhm)
    term = COLOUR_TERM * colour_0 if np.isfinite(colour_0) else 0.0
    return float(frame["zero_point_mag"] + term + 2.5 * np.log10(inside))


def _catalog(table: Table) -> Any:
    from skymill.catalogs import RefCatalog

    def numbers(name: str) -> np.ndarray:
        return np.asarray(table[name], float)

    return RefCatalog(
        "planted", numbers("ra"), numbers("dec"), np.asarray(table["id"]).astype(str),
        {"V": numbers("V"), "R": numbers("R")}, {"V": numbers("V_err"), "R": numbers("R_err")},
    )  # fmt: skip


def completeness_figures(night: Night) -> list[Figure]:
    """Compare the magnitude of half completeness with a theory of our own.

    The threshold is 4.5 sigma of the filtered image; a source must have 4 such pixels. With the
    true profile and the true noise the fourth brightest pixel of the filtered star is at the
    threshold for half of the stars.
    """
    from scipy.optimize import minimize
    from scipy.spatial import cKDTree
    from scipy.stats import norm

    rows = {str(row["frame_id"]): row for row in tables(night.results / "photcal")}
    sources = tables(night.results / "sources")
    truth = night.fluxes()
    planted, relative, seen, off = [], [], [], []
    for frame in night.frames:
        flux = half_flux(night.config, frame)
        theory = frame["zero_point_mag"] - 2.5 * np.log10(flux / night.config.exptime_s)
        value = float(rows[frame["id"]]["half_mag"])
        zp = float(rows[frame["id"]]["zp"])
        # In fluxes, so that the error of the zero point stays out.
        planted.append(value - zp - (theory - frame["zero_point_mag"]))
        off.append(float(rows[frame["id"]]["half_offset_mag"]))
        stars = truth[frame["id"]]
        x, y = np.asarray(stars["x"]), np.asarray(stars["y"])
        ny, nx = night.config.shape
        inside = (x > 20) & (y > 20) & (x < nx - 20) & (y < ny - 20)
        delta = -2.5 * np.log10(np.asarray(stars["flux_e"]) / flux)
        near = inside & (np.abs(delta) < 1.2)
        mine = night.of_frame(sources, frame)
        gap, _ = cKDTree(np.column_stack([mine["x"], mine["y"]])).query(
            np.column_stack([x[near], y[near]])
        )
        relative.append(delta[near])
        seen.append(gap < 0.5 * frame["fwhm_px"])
    delta, found = np.concatenate(relative), np.concatenate(seen)

    def cost(p: np.ndarray) -> float:
        chance = np.clip(norm.cdf((p[0] - delta) / np.exp(p[1])), 1e-6, 1 - 1e-6)
        return float(-(np.log(chance[found]).sum() + np.log1p(-chance[~found]).sum()))

    best = minimize(cost, np.array([0.0, np.log(0.2)]), method="Nelder-Mead").x
    # Positive: less deep than theory.
    by_frame = -np.array(planted)
    return [
        Figure("completeness_offset_mag", float(by_frame.mean()), "+-0.1", "mag", by_frame.size,
               f"half of planted stars found, less deep than theory; {INJECTIONS} stars a frame; "
               f"frames scatter by {by_frame.std(ddof=1):.3f}; by the step's own theory "
               f"{np.mean(off):+.3f}"),
        Figure("completeness_of_stars_offset_mag", float(-best[0]), "+-0.1", "mag", delta.size,
               "the same for the stars of the raw frames themselves"),
    ]  # fmt: skip


def half_flux(config: Any, frame: dict[str, Any]) -> float:
    """Total flux (electron) of which half is found at 4.5 sigma in 4 pixels, from the truth."""
    from scipy.signal import fftconvolve

    from skymill.settings import Settings
    from skymill.simulate.psf import Profile, add_sources

    settings = Settings(raw="raw").sources
    noise = np.sqrt(frame["sky_e"] + config.dark_e_s * config.exptime_s + config.read_noise_e**2)
    fwhm = frame["fwhm_px"]
    # A Gaussian of the seeing, cut at two sigma: what the step says of its filter.
    reach = int(np.ceil(2 * fwhm / 2.3548))
    grid = np.arange(-reach, reach + 1)
    kernel = np.exp(-4 * np.log(2) * (grid[:, None] ** 2 + grid**2) / fwhm**2)
    kernel /= kernel.sum()
    profile = Profile(
        config.psf, fwhm, config.moffat_beta, config.ellipticity, config.ellipse_angle_deg
    )
    weakest = []
    for x in (-0.375, -0.125, 0.125, 0.375):
        for y in (-0.375, -0.125, 0.125, 0.375):
            star = np.zeros((61, 61))
            add_sources(star, np.array([30 + x]), np.array([30 + y]), np.array([1e4]), profile)
            light = fftconvolve(star / 1e4, kernel, mode="same").ravel()
            weakest.append(np.sort(light)[-settings.minimum_area_px])
    sigma = noise * np.sqrt((kernel**2).sum())
    return float(settings.threshold_sigma * sigma / np.mean(weakest))


def main() -> None:
    """Measure, print and write."""
    publish(figures(BUILD / "truth" / "photometry"), BUILD / "truth_photometry.json")


if __name__ == "__main__":
    main()
