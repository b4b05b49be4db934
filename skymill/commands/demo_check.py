"""Measured against true: what the reduction of a simulated night is worth.

Each line compares one kind of measurement with the truth of the simulation: the median
difference with its standard error, the scatter, and the root mean square of difference
over claimed error, which is 1 if the errors are true.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.commands.project import Project
    from skymill.simulate import Truth

    Floats = NDArray[np.float64]

__all__ = ["Comparison", "compare", "comparison", "surprises"]

#: Stars that are compared: alone within this many pixels, and at least this bright
#: over their error, or the nearest faint neighbour would be taken for them.
_ISOLATION_PX = 12.0
_SNR = 20.0
_MATCH_PX = 1.0


@dataclass(frozen=True)
class Comparison:
    """One line of the table.

    Parameters
    ----------
    name, unit : str
        What was compared, and the unit of the difference.
    number : int
        Number of measurements.
    difference, difference_err : float
        Median of measured minus true, and its standard error.
    scatter : float
        Robust standard deviation of the differences.
    pull : float
        Root mean square of difference over claimed error, NaN if no error is claimed.
    """

    name: str
    unit: str
    number: int
    difference: float
    difference_err: float
    scatter: float
    pull: float


def comparison(project: Project, truth: Path) -> list[str]:
    """Return the table of truth against measurement as lines of text.

    Parameters
    ----------
    project : Project
        A finished reduction.
    truth : Path
        The truth folder of the simulated night.
    """
    from skymill.simulate import Truth

    found = list(_comparisons(project, Truth.load(truth)))
    if not found:
        return ["nothing could be compared with the truth: see the report"]
    head = ("measured against true", "n", "median difference", "scatter", "rms of diff/error")
    lines = [f"{head[0]:<34} {head[1]:>6} {head[2]:>24} {head[3]:>12} {head[4]:>18}"]
    for one in found:
        median = f"{one.difference:+.2f} +- {one.difference_err:.2f} {one.unit}"
        scatter = f"{one.scatter:.2f} {one.unit}"
        pull = "" if math.isnan(one.pull) else f"{one.pull:.2f}"
        lines.append(f"{one.name:<34} {one.number:>6} {median:>24} {scatter:>12} {pull:>18}")
    return lines


def surprises(project: Project, truth: Path) -> list[str]:
    """Return a sentence for every frame that did not end as the simulation expects.

    A planted bad frame must have one of the expected ends and one of the expected codes;
    every other frame must be used.

    Parameters
    ----------
    project : Project
        A finished reduction.
    truth : Path
        The truth folder of the simulated night.
    """
    from skymill.commands.status import state
    from skymill.simulate import Truth

    now = state(project)
    planted = {bad["path"]: bad["expected"] for bad in Truth.load(truth).bad}
    fixes = {row["frame_id"]: re.findall(r"[A-Z0-9_]{3,}", row["fixes"]) for row in project.rows()}
    found = [f"{row['path']} has no end" for row in now.pending]
    for fate in now.funnel.fates:
        expected = planted.get(fate.path, {"statuses": ["ok", "degraded"], "codes": []})
        codes = {*fate.code.split(";"), *fixes[fate.frame_id]}
        status = "ok" if fate.fate == "used" else fate.fate
        # A calibration frame that nothing needs has no status of its own.
        as_status = status in expected["statuses"] or status == "not_needed"
        as_code = not expected["codes"] or codes & set(expected["codes"])
        if not (as_status and as_code):
            wanted = "/".join(expected["codes"] or expected["statuses"])
            found.append(f"{fate.path} is {status} {fate.code} ({fate.step}), expected {wanted}")
    return found


def compare(
    name: str, unit: str, difference: Floats, error: Floats | None = None
) -> Comparison | None:
    """Return the statistics of some differences, None if there are fewer than two.

    Parameters
    ----------
    name, unit : str
        What is compared.
    difference : ndarray of float64, shape (n,)
        Measured minus true; values that are not finite are left out.
    error : ndarray of float64, shape (n,), optional
        Claimed one-sigma errors, in the same unit.
    """
    good = np.isfinite(difference)
    if error is not None:
        good &= np.isfinite(error) & (error > 0)
    values = difference[good]
    if values.size < 2:
        return None
    middle = float(np.median(values))
    scatter = 1.4826 * float(np.median(np.abs(values - middle)))
    # The standard error of a median of normal values is sqrt(pi/2) of that of the mean.
    median_err = math.sqrt(math.pi / 2) * scatter / math.sqrt(values.size)
    pull = math.nan if error is None else float(np.sqrt(np.mean((values / error[good]) ** 2)))
    return Comparison(name, unit, values.size, middle, median_err, scatter, pull)


def _comparisons(project: Project, truth: Truth) -> Iterator[Comparison]:
    frames = {row["path"]: row["frame_id"] for row in project.rows()}
    names = {frames[light["path"]]: light for light in truth.lights if light["path"] in frames}
    for one in (
        _fluxes(project, truth, names),
        _zero_points(project, names),
        *_catalog(project, truth),
    ):
        if one is not None:
            yield one


def _tables(project: Project, kind: str) -> list[Table]:
    from skymill.io import read_table

    return [read_table(path) for path in sorted((project.results / kind).glob("*.parquet"))]


def _fluxes(project: Project, truth: Truth, names: dict[str, Any]) -> Comparison | None:
    """Total fluxes of single frames at the places where the stars truly are."""
    places, fluxes = truth.positions(), truth.lightcurves()
    difference, error = [], []
    for table in _tables(project, "sources"):
        for frame in np.unique(np.asarray(table["frame_id"])):
            light = names.get(str(frame))
            if light is None:
                continue
            rows = table[np.asarray(table["frame_id"]) == frame]
            rows = rows[np.asarray(rows["flags"]) == 0]
            place = places[places["frame"] == light["frame"]]
            true = fluxes[fluxes["frame"] == light["frame"]]
            flux = dict(zip(true["id"].tolist(), true["flux_e"].tolist(), strict=True))
            xy = _columns(place, "x", "y")
            of_star, of_row = _matched(xy, _columns(rows, "x", "y"), _isolated(xy))
            expected = np.array([flux[name] for name in place["id"][of_star].tolist()])
            measured, errors = _columns(rows[of_row], "flux_total", "flux_total_err").T
            bright = measured > _SNR * errors
            difference.append(100 * (measured / expected - 1)[bright])
            error.append(100 * (errors / expected)[bright])
    if not difference:
        return None
    return compare(
        "star flux, single frames", "%", np.concatenate(difference), np.concatenate(error)
    )


def _zero_points(project: Project, names: dict[str, Any]) -> Comparison | None:
    difference, error = [], []
    for table in _tables(project, "photcal"):
        for row in table:
            light = names.get(str(row["frame_id"]))
            if light and row["solution"] == "absolute" and light["zero_point_mag"] is not None:
                difference.append(1e3 * (row["zp"] - light["zero_point_mag"]))
                error.append(1e3 * row["zp_err"])
    return compare("zero point of a frame", "mmag", np.array(difference), np.array(error))


def _catalog(project: Project, truth: Truth) -> Iterator[Comparison | None]:
    """Positions and magnitudes of the stacks' catalogues, bands together."""
    from skymill.io import read_table

    stars = truth.catalog()
    constant = np.asarray(stars["variable"] == "constant")
    east, north, magnitude, errors = [], [], [], []
    plan = project.plan()
    for stack in plan.stacks.values():
        path = project.results / "catalog" / f"{stack.id}.parquet"
        if not path.is_file() or stack.filter not in stars.colnames:
            continue
        table = read_table(path)
        table = table[(np.asarray(table["flags"]) == 0) & np.isfinite(np.asarray(table["ra"]))]
        centre = (truth.config.ra_deg, truth.config.dec_deg)
        sky = _plane(stars, centre, truth.config.pixel_scale_arcsec)
        found = _plane(table, centre, truth.config.pixel_scale_arcsec)
        of_star, of_row = _matched(sky, found, _isolated(sky) & constant)
        snr = np.asarray(table["flux"] / table["flux_err"])[of_row]
        of_star, of_row = of_star[snr > _SNR], of_row[snr > _SNR]
        offset = truth.config.pixel_scale_arcsec * 1e3 * (found[of_row] - sky[of_star])
        east.append(offset[:, 0])
        north.append(offset[:, 1])
        true = np.asarray(stars[stack.filter], np.float64)[of_star]
        magnitude.append(1e3 * (_columns(table[of_row], "mag")[:, 0] - true))
        errors.append(1e3 * _columns(table[of_row], "mag_err")[:, 0])
    if not east:
        return
    yield compare("position in the stack, east", "mas", np.concatenate(east))
    yield compare("position in the stack, north", "mas", np.concatenate(north))
    yield compare(
        "magnitude in the stack", "mmag", np.concatenate(magnitude), np.concatenate(errors)
    )


def _columns(table: Table, *names: str) -> Floats:
    """Return columns as an array of shape (n, number of names)."""
    return np.stack([np.asarray(table[name], np.float64) for name in names], axis=1)


def _plane(table: Table, centre: tuple[float, float], scale_arcsec: float) -> Floats:
    """Return offsets from the centre to the east and north in pixels, gnomonic projection."""
    ra, dec = np.deg2rad(_columns(table, "ra", "dec").T)
    ra0, dec0 = math.radians(centre[0]), math.radians(centre[1])
    cosine = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra - ra0)
    east = np.cos(dec) * np.sin(ra - ra0) / cosine
    north = np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(ra - ra0)
    return np.rad2deg(np.stack([east, north / cosine], axis=1)) * 3600 / scale_arcsec


def _isolated(xy: Floats) -> NDArray[np.bool_]:
    """Return True where no other star is near. NaN positions are never isolated."""
    from scipy.spatial import cKDTree

    alone = np.zeros(len(xy), bool)
    good = np.isfinite(xy).all(axis=1)
    if good.sum() > 1:
        alone[good] = np.asarray(cKDTree(xy[good]).query(xy[good], k=2)[0])[:, 1] > _ISOLATION_PX
    return alone


def _matched(
    stars: Floats, found: Floats, allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return indices of stars and of the nearest found source within a pixel."""
    from scipy.spatial import cKDTree

    index = np.flatnonzero(allowed)
    if not len(index) or not len(found):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    distance, nearest = cKDTree(found).query(stars[index])
    near = np.asarray(distance) < _MATCH_PX
    return index[near], np.asarray(nearest)[near]
