"""The whole chain against the usual scripts: paired runs of whole processes.

The same simulated night of 2048 x 2048 px goes through ``skymill run`` (Snakemake, every job's
interpreter and imports, and all that the scripts leave out: checks of the input, astrometry, zero
points, masks by name, errors, stack catalogue, forced photometry, light curves, report) and through
the two routes of `bench.peer_routes`. One core each, in turn.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from bench.runs import ROOT, Cost, Figure, project, simulated, skymill
from skymill.simulate import NightConfig

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["figures"]


def night(n_light: int) -> NightConfig:
    """Return a night whose headers hold true positions: the scripts solve none."""
    return NightConfig(
        seed=41,
        shape=(2048, 2048),
        n_bias=5,
        n_dark=3,
        n_flat=5,
        n_light=n_light,
        n_stars=3000,
        wcs="true",
        distortion_px=0.0,
        cosmic_rate_mpx_s=2.4,
    )


def figures(folder: Path, *, n_light: int = 12, rounds: int = 2) -> list[Figure]:
    """Run all routes in turn and return the paired ratios of CPU time."""
    place = simulated(folder / "night", night(n_light))
    routes = ["A", "B"] if shutil.which("SWarp") else ["A"]
    costs: dict[str, list[Cost]] = {name: [] for name in ["S", *routes]}
    for _ in range(rounds):
        costs["S"].append(_ours(folder / "project", place))
        for route in routes:
            costs[route].append(_peer(route, place / "raw", folder / f"peer_{route}"))
    ratios = {
        route: _star_ratio(folder / f"peer_{route}" / "stack.fits", place) for route in routes
    }
    ratios["S"] = _star_ratio(next((folder / "project/results/stack").glob("*.fits")), place)
    for name, ratio in ratios.items():
        if not 0.93 < ratio < 1.03:
            raise RuntimeError(f"route {name}: {ratio:.3f} of the light of stars is inside 6 px")
    out = []
    for route in routes:
        pairs = [c.cpu_s / s.cpu_s for c, s in zip(costs[route], costs["S"], strict=True)]
        out.append(
            Figure(f"chain_2k_speedup_peers_{route.lower()}", median(pairs),
                   {"A": ">= 10, aim 20", "B": ">= 5"}[route], "", n_light,
                   f"{min(pairs):.1f} to {max(pairs):.1f} in {rounds} pairs of whole "
                   f"processes, one core; {costs[route][-1].cpu_s:.0f} against "
                   f"{costs['S'][-1].cpu_s:.0f} CPU s; "
                   "ours also solves, calibrates, makes light curves and a report")
        )  # fmt: skip
    return out


def _ours(folder: Path, place: Path) -> Cost:
    """Ingest and run, all in one cost."""
    made = project(folder, place / "raw", reference=place / "truth" / "reference.csv")
    first = skymill("ingest", "-d", made)
    second = skymill("run", "-d", made, "--cores", 1)
    return Cost(first.cpu_s + second.cpu_s, first.wall_s + second.wall_s)


def _peer(route: str, raw: Path, out: Path) -> Cost:
    shutil.rmtree(out, ignore_errors=True)
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.peer_routes", route, str(raw), str(out)],
        cwd=ROOT, env=os.environ | pinned, check=True, capture_output=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu, time.perf_counter() - start)


def _star_ratio(path: Path, place: Path) -> float:
    """Light of bright stars inside 6 px relative to that inside 12 px, at the true places.

    It tells whether the stars of a stack are round, whole and where they should be, on
    whatever scale of flux.
    """
    from photutils.aperture import CircularAperture, aperture_photometry

    with fits.open(path) as hdus:
        plane: Any = hdus["SCI"] if "SCI" in hdus else hdus[0]
        image, wcs = np.nan_to_num(plane.data.astype(np.float64)), WCS(plane.header)
    stars = Table.read(place / "truth" / "reference.csv")
    stars.sort(stars.colnames[3])
    x, y = wcs.all_world2pix(stars["ra"], stars["dec"], 0)
    inside = (x > 30) & (y > 30) & (x < image.shape[1] - 30) & (y < image.shape[0] - 30)
    places = np.transpose([x[inside], y[inside]])[20:220]
    sums = aperture_photometry(image, [CircularAperture(places, r) for r in (6.0, 12.0)])
    inner, outer = (np.asarray(sums[f"aperture_sum_{i}"]) for i in (0, 1))
    seen = outer > 0
    return float(np.median(inner[seen] / outer[seen]))
