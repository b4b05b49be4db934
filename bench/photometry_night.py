"""The night behind `bench.truth_photometry`: what is planted, and sums over its truth."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.wcs import WCS

from bench.runs import project, read_truth, skymill
from skymill.io import read_outcomes, read_table
from skymill.settings import Settings
from skymill.sheet import read_sheet
from skymill.simulate import NightConfig, simulate_night

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["COLOUR_TERM", "Night", "light_within", "night_config", "reduce_night"]

#: Colour term of the instrument against the reference catalogue, mag per mag of V - R.
COLOUR_TERM = 0.08
#: Part of the reference stars that are wrong, by 0.3 to 1.5 mag.
OUTLIERS = 0.1
#: Scatter of the reference stars beyond their errors (mag).
SCATTER = 0.015
#: Stars planted to see how many are found again.
INJECTIONS = 300
_SETTINGS = """
photometry:
  methods: [aperture, optimal, psf]
  positions: empty.csv
photcal:
  injections: {injections}
  colours: {{V: [V, R]}}
"""


@dataclass(frozen=True, eq=False)
class Night:
    """A reduced night and its truth.

    Parameters
    ----------
    config : NightConfig
        What was simulated.
    results : Path
        Products of the project.
    frames : tuple of dict
        Truth of each light frame, with ``id``: its frame_id.
    points : Table
        Forced photometry of all frames.
    seeing : dict
        Figures of the step ``sources`` by frame_id.
    stars : Table
        True catalogue: id, ra, dec, V; and R, of which only the reference knows.
    """

    folder: Path
    config: NightConfig
    results: Path
    frames: tuple[dict[str, Any], ...]
    points: Table
    seeing: dict[str, dict[str, Any]]
    stars: Table

    def image(self, frame: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Noiseless sources of a frame without the sky (electron), and its planted hits."""
        with fits.open(self.folder / "truth" / "images" / f"{frame['frame']}.fits") as hdus:
            return hdus[0].data.astype(np.float64) - frame["sky_e"], hdus["MASK"].data != 0

    def of_frame(self, table: Table, frame: dict[str, Any]) -> Table:
        """Rows of one frame."""
        return table[np.asarray(table["frame_id"]).astype(str) == frame["id"]]

    def fluxes(self) -> dict[str, Table]:
        """True flux and position of the stars by frame_id: id, flux_e, x, y."""
        folder = self.folder / "truth"
        flux = Table.read(folder / "lightcurves.csv", format="ascii.csv")
        place = Table.read(folder / "positions.csv", format="ascii.csv")
        flux["x"], flux["y"] = place["x"], place["y"]
        return {f["id"]: flux[flux["frame"] == f["frame"]] for f in self.frames}


def night_config(**changes: Any) -> NightConfig:
    """Return a night of stars of all magnitudes, isolated, with an uneven flat and clouds."""
    return NightConfig(
        **{
            "seed": 20260801,
            "shape": (1100, 1100),
            "n_bias": 15,
            "n_dark": 9,
            "n_flat": 15,
            "n_light": 12,
            "n_stars": 950,
            "mag_bright": 12.6,
            "mag_faint": 19.4,
            "count_slope": 0.0,
            "min_separation_px": 26.0,
            "gain_e_adu": 1.7,
            "vignetting": 0.25,
            "sky_gradient": 0.0,
            "wcs": "offset",
            "clouds": (1.0, 0.95, 0.9, 1.0, 0.8),
            **changes,
        }
    )


def reduce_night(
    folder: Path, config: NightConfig, *, n_empty: int = 700, injections: int = INJECTIONS
) -> Night:
    """Simulate the night, plant positions and a reference catalogue, and run everything."""
    shutil.rmtree(folder, ignore_errors=True)
    simulate_night(folder, config)
    truth = read_truth(folder)
    stars = Table.read(folder / "truth" / "catalog.csv", format="ascii.csv")
    rng = np.random.default_rng(config.seed)
    stars["R"] = np.asarray(stars["V"]) - rng.normal(0.6, 0.35, len(stars))
    reference(stars, rng).write(folder / "reference.csv", format="ascii.csv")
    place = project(
        folder / "project",
        folder / "raw",
        reference=folder / "reference.csv",
        more=_SETTINGS.format(injections=injections),
    )
    lights = [f for f in truth["frames"] if f["kind"] == "light"]
    empty_positions(lights[0], stars, config, n_empty, rng).write(
        place / "empty.csv", format="ascii.csv"
    )
    skymill("run", "-d", place)
    names = {row["path"]: row["frame_id"] for row in read_sheet(place / "config" / "frames.csv")}
    results = place / "results"
    seeing = {
        o.frame_id: dict(o.numbers)
        for path in sorted((results / "outcomes" / "sources").glob("*.csv"))
        for o in read_outcomes(path)
    }
    return Night(
        folder, config, results, tuple(f | {"id": names[f["path"]]} for f in lights),
        tables(results / "photometry"), seeing, stars,
    )  # fmt: skip


def reference(
    stars: Table, rng: np.random.Generator, *, error: float = 0.01, outliers: float = OUTLIERS
) -> Table:
    """Return a reference catalogue in whose V the instrument has a colour term; some are wrong.

    Its errors are as quoted, but stars scatter beyond them, as real ones do.
    """
    n = len(stars)
    colour = np.asarray(stars["V"] - stars["R"])
    wrong = (rng.random(n) < outliers) * rng.choice([-1, 1], n) * rng.uniform(0.3, 1.5, n)
    table = Table({"id": stars["id"]})
    table["ra"] = stars["ra"] + rng.normal(0, 0.03, n) / 3600 / np.cos(np.radians(stars["dec"]))
    table["dec"] = stars["dec"] + rng.normal(0, 0.03, n) / 3600
    v = stars["V"] + COLOUR_TERM * colour
    # The colour of a star is known better than its magnitude, as of one catalogue.
    table["V"] = v + rng.normal(0, np.hypot(error, SCATTER), n) + wrong
    table["V_err"] = np.full(n, error)
    table["R"] = table["V"] - colour
    table["R_err"] = np.full(n, error)
    return table


def empty_positions(
    frame: dict[str, Any], stars: Table, config: NightConfig, number: int, rng: np.random.Generator
) -> Table:
    """Return random positions on the sky far from all stars and from each other."""
    from scipy.spatial import cKDTree

    wcs = true_wcs(frame)
    xy = np.column_stack(wcs.all_world2pix(stars["ra"], stars["dec"], 0))
    ny, nx = config.shape
    edge = 8 * config.fwhm_px
    tries = np.column_stack([rng.uniform(edge, nx - edge, 40 * number),
                             rng.uniform(edge, ny - edge, 40 * number)])  # fmt: skip
    # The wings of bright stars reach further.
    bright = np.clip((17 - np.asarray(stars["V"])) / 4.4, 0, 1)
    reach = config.fwhm_px * (4.7 + 2.0 * bright)
    far, which = cKDTree(xy).query(tries, k=3)
    tries = tries[(far > reach[which]).all(axis=1)]
    kept: list[int] = []
    close = cKDTree(tries).query_ball_point(tries, 3.2 * config.fwhm_px)
    taken = np.zeros(len(tries), bool)
    for k, near in enumerate(close):
        if not taken[k]:
            kept.append(k)
            taken[near] = True
        if len(kept) == number:
            break
    ra, dec = wcs.all_pix2world(tries[kept, 0], tries[kept, 1], 0)
    names = [f"empty{k}" for k in range(len(kept))]
    return Table({"object": names, "ra": ra, "dec": dec})


def true_wcs(frame: dict[str, Any]) -> WCS:
    """Return the true world coordinates of a light frame."""
    return WCS(fits.Header(frame["wcs"]))


def light_within(config: NightConfig, fwhm_px: float, radius_px: float) -> float:
    """Part of a star's light within a circle: the integral of its elliptical Moffat profile.

    Pixels, which blur the profile, are left out: at 4 FWHM that makes 2e-5, at 1.5 FWHM 0.4 %.
    """
    beta, ratio = config.moffat_beta, 1.0 - config.ellipticity
    alpha = fwhm_px / (2 * np.sqrt(2 ** (1 / beta) - 1))
    angle = (np.arange(720) + 0.5) * 2 * np.pi / 720
    stretch = ratio * np.cos(angle) ** 2 + np.sin(angle) ** 2 / ratio
    # Along each direction the radial integral is that of a circle of radius r sqrt(stretch).
    part = (1 - (1 + radius_px**2 * stretch / alpha**2) ** (1 - beta)) / stretch
    return float(np.mean(part))


def aperture_truth(image: np.ndarray, x: Any, y: Any, radius: float) -> np.ndarray:
    """Sums of a noiseless image in circles, by sep with exact overlap."""
    import sep

    flux, _, _ = sep.sum_circle(image, np.asarray(x, float), np.asarray(y, float), radius, subpix=0)
    return np.asarray(flux)


def main_aperture_fwhm() -> float:
    """Radius of the main aperture in FWHM."""
    settings = Settings(raw="raw").photometry
    return float(settings.apertures_fwhm[settings.main_aperture])


def tables(folder: Path) -> Table:
    """Read and join all tables of a step."""
    parts = [read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return vstack(parts, metadata_conflicts="silent")
