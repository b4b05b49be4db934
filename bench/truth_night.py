"""A simulated night of twenty frames: pulls, biases and positions against the truth."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from bench.runs import Figure, project, read_truth, skymill
from skymill.frame import MaskBit, has_bits
from skymill.io import read_frame, read_mask, read_table
from skymill.settings import Settings
from skymill.sheet import read_sheet
from skymill.simulate import NightConfig, simulate_night

if TYPE_CHECKING:
    from pathlib import Path

_PHOTOMETRY = Settings(raw="raw").photometry
MAIN_APERTURE_FWHM = _PHOTOMETRY.apertures_fwhm[_PHOTOMETRY.main_aperture]


def night_config() -> NightConfig:
    """Return the night: uneven flat, gain, dark and header pointing away from the easy case."""
    return NightConfig(
        seed=20260721,
        shape=(640, 600),
        n_bias=15,
        n_dark=9,
        n_flat=11,
        n_light=20,
        n_stars=350,
        gain_e_adu=1.7,
        vignetting=0.25,
        sky_gradient=0.0,
        wcs="offset",
        clouds=(1.0, 0.95, 0.9, 1.0, 0.8),
    )


def figures(folder: Path) -> list[Figure]:
    """Reduce the night and compare it with its truth."""
    if folder.exists():
        shutil.rmtree(folder)
    simulate_night(folder / "night", night_config())
    truth = read_truth(folder / "night")
    place = project(
        folder / "project",
        folder / "night" / "raw",
        reference=folder / "night" / "truth" / "reference.csv",
    )
    skymill("run", "-d", place)
    rows = read_sheet(place / "config" / "frames.csv")
    lights = {row["path"]: row["frame_id"] for row in rows if row["kind"] == "light"}
    frames = [f | {"id": lights[f["path"]]} for f in truth["frames"] if f["kind"] == "light"]
    images = {f["id"]: _truth_image(folder / "night", f["frame"]) for f in frames}
    results = place / "results"
    return [
        *_pixel_pulls(results, images),
        *_star_fluxes(results, frames, images),
        *_positions(results, frames, folder / "night"),
        *_zero_points(results, frames),
        *_light_curves(results),
    ]


def _truth_image(night: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    with fits.open(night / "truth" / "images" / f"{name}.fits") as hdus:
        return hdus[0].data.astype(np.float64), hdus["MASK"].data != 0


def _pixel_pulls(results: Path, images: dict[str, Any]) -> list[Figure]:
    pulls, found, hits, wrong, clean = [], 0, 0, 0, 0
    for path in sorted(results.glob("calibrated/*/*.fits")):
        frame = read_frame(path)
        mask = read_mask(results / "mask" / path.parent.name / path.name)
        model, hit = images[path.stem]
        good = frame.good & ~has_bits(mask, MaskBit.bad())
        pulls.append(((frame.sci - model) / frame.err)[good & ~hit])
        cosmic = has_bits(mask, MaskBit.COSMIC | MaskBit.SATURATED | MaskBit.BLEED)
        bright = hit & (frame.sci - model > 10 * frame.err)
        found, hits = found + int((cosmic & bright).sum()), hits + int(bright.sum())
        wrong, clean = wrong + int((cosmic & ~hit).sum()), clean + int((~hit).sum())
    pull = np.concatenate(pulls)
    return [
        Figure("frame_pixel_pull_width", float(pull.std()), "1.00 +- 0.02", "", pull.size,
               "std of (SCI - truth) / ERR over unmasked pixels without planted hits"),
        Figure("frame_pixel_pull_mean", float(pull.mean()), "0.00 +- 0.02", "", pull.size,
               "mean of the same"),
        Figure("hit_pixels_masked", found / max(hits, 1), "", "", hits,
               "share of planted hits and saturated pixels above 10 sigma that are masked"),
        Figure("clean_pixels_masked", wrong / clean, "", "", clean,
               "share of pixels without a hit that are masked as cosmic ray or saturated"),
    ]  # fmt: skip


def _star_fluxes(
    results: Path, frames: list[dict[str, Any]], images: dict[str, Any]
) -> list[Figure]:
    """Forced fluxes against sums over the noiseless image in the same apertures."""
    from photutils.aperture import CircularAperture, aperture_photometry

    seeing = {row["frame_id"]: row["fwhm_px"] for row in _tables(results / "photcal")}
    pulls, relative, weights = [], [], []
    for table in (read_table(path) for path in sorted(results.glob("photometry/*.parquet"))):
        for frame in frames:
            mine = table[(table["frame_id"] == frame["id"]) & (table["flags"] == 0)]
            if not len(mine):
                continue
            model = images[frame["id"]][0] - frame["sky_e"]
            aperture = CircularAperture(
                np.c_[mine["x"], mine["y"]], r=MAIN_APERTURE_FWHM * seeing[frame["id"]]
            )
            true = np.asarray(aperture_photometry(model, aperture)["aperture_sum"])
            pulls.append(np.asarray((mine["flux"] - true) / mine["flux_err"]))
            bright = np.asarray(mine["flux"] > 100 * mine["flux_err"])
            relative.append(np.asarray(mine["flux"] / true - 1)[bright])
            weights.append(np.asarray(mine["flux"] / mine["flux_err"])[bright] ** 2)
    pull, rel, weight = np.concatenate(pulls), np.concatenate(relative), np.concatenate(weights)
    bias = 1085.7 * float(np.average(rel, weights=weight))
    return [
        Figure("star_flux_pull_width", float(1.4826 * np.median(np.abs(pull - np.median(pull)))),
               "1.00 +- 0.02", "", pull.size,
               "robust width of (flux - truth) / flux_err, forced photometry, main aperture"),
        Figure("star_flux_pull_std", float(pull.std()), "", "", pull.size, "plain std of the same"),
        Figure("star_flux_pull_mean", float(pull.mean()), "0.00 +- 0.05", "", pull.size,
               "mean of the same"),
        Figure("star_flux_bias_mmag", bias, "< 1", "mmag", rel.size,
               "weighted mean of flux / truth - 1 at S/N > 100"),
    ]  # fmt: skip


def _positions(results: Path, frames: list[dict[str, Any]], night: Path) -> list[Figure]:
    from scipy.spatial import cKDTree

    truth = Table.read(night / "truth" / "positions.csv", format="ascii.csv")
    delta, sky = [], []
    sources = _tables(results / "sources")
    for frame in frames:
        there = truth[truth["frame"] == frame["frame"]]
        mine = sources[(sources["frame_id"] == frame["id"]) & (sources["flags"] == 0)]
        mine = mine[mine["flux"] > 50 * mine["flux_err"]]
        tree = cKDTree(np.c_[there["x"], there["y"]])
        distance, which = tree.query(np.c_[mine["x"], mine["y"]])
        near = distance < 1.0
        delta += [np.asarray(mine[c] - there[c][which])[near] for c in ("x", "y")]
    catalog = Table.read(night / "truth" / "catalog.csv", format="ascii.csv")
    for path in sorted(results.glob("catalog/*.parquet")):
        found = read_table(path)
        found = found[(found["flags"] == 0) & (found["flux"] > 50 * found["flux_err"])]
        cos = np.cos(np.radians(np.mean(catalog["dec"])))
        tree = cKDTree(np.c_[catalog["ra"] * cos, catalog["dec"]] * 3600)
        points = np.c_[found["ra"] * cos, found["dec"]] * 3600
        distance, which = tree.query(points)
        near = distance < 2.0
        sky += list((points - tree.data[which])[near].ravel())
    offsets, arcsec = np.concatenate(delta), np.array(sky)
    return [
        Figure("position_rms_px", float(np.sqrt(np.mean(offsets**2))), "", "px", offsets.size,
               "rms per axis of x, y on single frames against truth, S/N > 50"),
        Figure("stack_position_rms_arcsec", float(np.sqrt(np.mean(arcsec**2))), "", "arcsec",
               arcsec.size, "rms per axis of the stack catalogue on the sky, S/N > 50"),
    ]  # fmt: skip


def _zero_points(results: Path, frames: list[dict[str, Any]]) -> list[Figure]:
    """Zero points against those of the simulated sky, the light outside the aperture included."""
    solved = {row["frame_id"]: row for row in _tables(results / "photcal")}
    rows = [(solved[f["id"]], f["zero_point_mag"]) for f in frames]
    delta = np.array([row["zp"] - true for row, true in rows])
    error = np.array([row["zp_err"] for row, _ in rows])
    return [
        Figure("zero_point_bias_mmag", float(1000 * np.mean(delta)), "", "mmag", delta.size,
               "mean of zero point - truth; the aperture of 4 FWHM leaves out the far wings"),
        Figure("zero_point_scatter_over_error", float(delta.std(ddof=1) / np.mean(error)), "", "",
               delta.size, "frame-to-frame scatter over the quoted error (stars are shared)"),
    ]  # fmt: skip


def _light_curves(results: Path) -> list[Figure]:
    """Compare the scatter of all stars with what their errors say."""
    (path,) = sorted(results.glob("lightcurves/*.parquet"))
    points = read_table(path)
    statistics = read_table(path.parent / "statistics" / path.name)
    good = points[(points["flags"] == 0) & np.isfinite(points["rel_flux"])]
    pulls = []
    for source in np.unique(good["source"]):
        mine = good[good["source"] == source]
        if len(mine) < 15:
            continue
        flux, error = np.asarray(mine["rel_flux"]), np.asarray(mine["rel_flux_err"])
        mean = np.average(flux, weights=error**-2)
        pulls.append((flux - mean) / error * np.sqrt(len(mine) / (len(mine) - 1)))
    pull = np.concatenate(pulls)
    return [
        Figure("lightcurve_pull_width", float(1.4826 * np.median(np.abs(pull))), "1.00 +- 0.03", "",
               pull.size, "robust width of (rel_flux - mean) / error of all stars"),
        Figure("lightcurve_sources", float(len(statistics)), "", "", len(statistics),
               "light curves of the night"),
    ]  # fmt: skip


def _tables(folder: Path) -> Table:
    from astropy.table import vstack

    tables = [read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return vstack(tables, metadata_conflicts="silent")
