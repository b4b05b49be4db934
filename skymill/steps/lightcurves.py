"""Light curves of a field: corrected for transparency, in barycentric time.

The forced fluxes of all frames of a filter are divided by the transparency of the
frame, which an ensemble of constant stars tells; a star is never its own comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import Result, StepFailed
from skymill.steps.ensemble import Ensemble, corrected, fit_ensemble
from skymill.steps.lightcurve_columns import describe
from skymill.steps.photometry import PhotFlag
from skymill.times import Site, airmass, bjd_tdb, parse_site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table
    from numpy.typing import NDArray

__all__ = [
    "NO_BJD",
    "NO_ENSEMBLE",
    "LightCurves",
    "empty_lightcurves",
    "field_sources",
    "lightcurves",
]

#: Further bits of the flags of a light curve, above those of `PhotFlag`.
NO_BJD = 1 << 8
NO_ENSEMBLE = 1 << 9

_MMAG = 2.5e3 / np.log(10)


@dataclass(frozen=True)
class LightCurves:
    """Light curves of a field.

    Parameters
    ----------
    points : Table
        One row per source, filter and frame.
    statistics : Table
        One row per source and filter: how constant it is.
    sources : Table
        One row per source: position on the grid and on the sky, its number in the
        catalogue of each filter (0 where it is not in it).
    frames : Table
        One row per frame: transparency and number of comparison stars.
    """

    points: Table
    statistics: Table
    sources: Table
    frames: Table


@dataclass(frozen=True)
class _Matrix:
    """Measurements of one filter, sources by frames."""

    frames: list[str]
    source: NDArray[np.int64]
    columns: dict[str, NDArray[np.float64]]
    flags: NDArray[np.int64]


def lightcurves(
    tables: Mapping[str, Table],
    catalogs: Mapping[str, Table],
    rows: Mapping[str, Mapping[str, Any]],
    photcal: Mapping[str, Mapping[str, Any]],
    *,
    minimum_snr: float = 30.0,
    max_comparisons: int = 300,
    minimum_epochs: int = 3,
    reject_chi2: float = 4.0,
    match_radius_px: float = 2.0,
) -> Result[LightCurves]:
    """Return the light curves of all sources of a field.

    Parameters
    ----------
    tables : mapping of str to Table
        Forced photometry of all frames, by filter.
    catalogs : mapping of str to Table
        Catalogue of the stack behind each table, by filter: source, x, y (common grid),
        ra, dec, and mag if there is a zero point.
    rows : mapping of str to mapping
        Rows of the sheet by frame id; used: exptime_s, mjd_mid, site.
    photcal : mapping of str to mapping
        Rows of the photometric calibration by frame id; used: throughput, fwhm_px. May
        be empty.
    minimum_snr, max_comparisons, reject_chi2 : float, int, float
        Choice of the comparison stars, see `fit_ensemble`.
    minimum_epochs : int
        Fewer frames of a filter make no light curve.
    match_radius_px : float
        Sources of two filters closer than this are one.

    Returns
    -------
    Result of LightCurves

    Raises
    ------
    StepFailed
        NO_FRAMES if no filter has enough frames.
    """
    sources = field_sources(catalogs, match_radius_px=match_radius_px)
    flags: list[tuple[str, str]] = []
    points, statistics, frames = [], [], []
    numbers: dict[str, Any] = {"n_sources": len(sources)}
    for name in sorted(tables):
        matrix = _matrix(tables[name], sources[f"id_{name}"], rows)
        if len(matrix.frames) < minimum_epochs:
            text = f"{name}: {len(matrix.frames)} frames, fewer than {minimum_epochs}"
            flags.append(("TOO_FEW", text))
            continue
        ensemble = fit_ensemble(
            matrix.columns["flux"],
            matrix.columns["flux_err"],
            (matrix.flags & int(PhotFlag.bad())) == 0,
            minimum_snr=minimum_snr,
            max_comparisons=max_comparisons,
            reject_chi2=reject_chi2,
            throughput=_per_frame(matrix.frames, photcal, "throughput"),
        )
        n_stars = int(ensemble.members.sum())
        if n_stars < 3:
            text = f"{name}: {n_stars} comparison stars, so a variable one cannot be told"
            flags.append(("FEW_STARS", text))
        magnitudes = _by_source(catalogs[name], "mag", sources[f"id_{name}"][matrix.source])
        curve, stats = _curves(name, matrix, ensemble, magnitudes)
        curve = _with_times(curve, matrix, sources, rows, photcal)
        points.append(_long(name, matrix, curve))
        statistics.append(stats)
        frames.append(_frame_table(name, matrix, ensemble))
        numbers |= {f"n_frames_{name}": len(matrix.frames), f"n_comparisons_{name}": n_stars}
        numbers[f"floor_mmag_{name}"] = _MMAG * ensemble.floor
    if not points:
        raise StepFailed(
            "NO_FRAMES",
            f"no filter of the field has {minimum_epochs} measured frames",
            n_sources=len(sources),
        )
    product = LightCurves(_stacked(points), _stacked(statistics), sources, _stacked(frames))
    describe(product.points, product.statistics, product.sources, product.frames)
    if (np.asarray(product.points["flags"]) & NO_BJD).all():
        flags.append(
            ("NO_BJD", "site, time or positions on the sky are not known; only mjd_mid is given")
        )
    return Result(product, tuple(flags), numbers)


def empty_lightcurves() -> LightCurves:
    """Return the light curves of no sources: all columns, units and descriptions."""
    from astropy.table import Table

    sources = field_sources({})
    table = Table({"frame_id": np.zeros(0, "U1"), "source": np.zeros(0, np.int64)})
    for name in ("x", "y", "flux", "flux_err", "sky"):
        table[name] = np.zeros(0)
    table["flags"] = np.zeros(0, np.int32)
    matrix = _matrix(table, np.zeros(0, np.int64), {})
    nothing = np.zeros(0)
    ensemble = Ensemble(
        np.zeros(0, bool), nothing, nothing, np.zeros((0, 0), bool), nothing, nothing, 0.0
    )
    curve, statistics = _curves("", matrix, ensemble, nothing)
    curve = _with_times(curve, matrix, sources, {}, {})
    frames = _frame_table("", matrix, ensemble)
    product = LightCurves(_long("", matrix, curve), statistics, sources, frames)
    describe(product.points, product.statistics, product.sources, product.frames)
    return product


def field_sources(catalogs: Mapping[str, Table], *, match_radius_px: float = 2.0) -> Table:
    """Identify the sources of several filters by position on the common grid.

    The longest catalogue comes first (by name if equal); of the others, sources without
    a mutual nearest neighbour within the radius are appended.

    Returns
    -------
    Table
        Columns source (1..n), x, y, ra, dec, and ``id_<filter>``: number in that
        filter's catalogue, 0 if absent.
    """
    from astropy.table import Table

    names = sorted(catalogs, key=lambda name: (-len(catalogs[name]), name))
    x = y = ra = dec = np.zeros(0)
    ids: dict[str, NDArray[np.int64]] = {name: np.zeros(0, np.int64) for name in names}
    for name in names:
        table = catalogs[name]
        cx, cy = (np.asarray(table[key], np.float64) for key in ("x", "y"))
        where = _mutual(x, y, cx, cy, match_radius_px)
        new = where < 0
        number = np.asarray(table["source"], np.int64)
        for other in names:
            ids[other] = np.concatenate([ids[other], np.zeros(int(new.sum()), np.int64)])
        where[new] = np.arange(x.size, x.size + int(new.sum()))
        ids[name][where] = number
        x, y = np.concatenate([x, cx[new]]), np.concatenate([y, cy[new]])
        ra = np.concatenate([ra, _column(table, "ra")[new]])
        dec = np.concatenate([dec, _column(table, "dec")[new]])
    out = Table()
    out["source"] = np.arange(1, x.size + 1)
    out["x"], out["y"], out["ra"], out["dec"] = x, y, ra, dec
    for name in sorted(catalogs):
        out[f"id_{name}"] = ids[name]
    return out


def _column(table: Table, name: str) -> NDArray[np.float64]:
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    return np.asarray(np.ma.filled(table[name], np.nan), np.float64)


def _mutual(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    cx: NDArray[np.float64],
    cy: NDArray[np.float64],
    radius: float,
) -> NDArray[np.int64]:
    """Index of the mutual nearest neighbour of each new position, -1 without one."""
    from scipy.spatial import cKDTree

    out = np.full(cx.size, -1, np.int64)
    if not x.size or not cx.size:
        return out
    here, there = np.column_stack([x, y]), np.column_stack([cx, cy])
    found = cKDTree(here).query(there)
    distance, nearest = np.asarray(found[0]), np.asarray(found[1], np.int64)
    back = np.asarray(cKDTree(there).query(here)[1], np.int64)
    match = (distance < radius) & (back[nearest] == np.arange(cx.size))
    out[match] = nearest[match]
    return out


def _matrix(table: Table, catalog_id: Any, rows: Mapping[str, Mapping[str, Any]]) -> _Matrix:
    """Arrange a long table as sources by frames, frames in order of time."""
    unique = np.unique(np.asarray(table["frame_id"]).astype(str), return_inverse=True)
    names, frame_of = unique[0], np.asarray(unique[1], np.int64)
    times = np.array([_number(rows.get(name), "mjd_mid") for name in names])
    order = np.lexsort((names, times))
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    frame_of = rank[frame_of]
    present = np.flatnonzero(np.asarray(catalog_id) > 0)
    numbers = np.asarray(catalog_id, np.int64)[present]
    by_number = np.argsort(numbers)
    measured = np.asarray(table["source"], np.int64)
    slot = np.searchsorted(numbers[by_number], measured)
    slot = np.minimum(slot, max(numbers.size - 1, 0))
    known = numbers.size > 0
    valid = (numbers[by_number][slot] == measured) if known else np.zeros(measured.size, bool)
    source_of = by_number[slot[valid]] if known else np.zeros(0, np.int64)
    shape = (present.size, names.size)
    columns = {}
    for key in ("x", "y", "flux", "flux_err", "sky"):
        columns[key] = np.full(shape, np.nan)
        columns[key][source_of, frame_of[valid]] = _column(table, key)[valid]
    flags = np.full(shape, int(PhotFlag.NO_FLUX), np.int64)
    flags[source_of, frame_of[valid]] = np.asarray(table["flags"], np.int64)[valid]
    frames = [str(names[i]) for i in order]
    exptime = np.array([_number(rows.get(name), "exptime_s") for name in frames])
    exptime[~(exptime > 0)] = np.nan
    columns["flux"] = columns["flux"] / exptime
    columns["flux_err"] = columns["flux_err"] / exptime
    return _Matrix(frames, present, columns, flags)


def _number(row: Mapping[str, Any] | None, name: str) -> float:
    value = (row or {}).get(name)
    return float(value) if isinstance(value, (int, float, np.number)) else float("nan")


def _per_frame(
    frames: list[str], table: Mapping[str, Mapping[str, Any]], name: str
) -> NDArray[np.float64]:
    return np.array([_number(table.get(frame), name) for frame in frames])


def _by_source(catalog: Table, name: str, numbers: Any) -> NDArray[np.float64]:
    values = dict(zip(np.asarray(catalog["source"]).tolist(), _column(catalog, name), strict=True))
    return np.array([values.get(int(number), np.nan) for number in numbers])


def _curves(
    name: str, matrix: _Matrix, ensemble: Ensemble, magnitudes: NDArray[np.float64]
) -> tuple[dict[str, NDArray[Any]], Table]:
    """Corrected, relative and calibrated fluxes, and how constant each source is."""
    from astropy.table import Table

    flux, err = corrected(matrix.columns["flux"], matrix.columns["flux_err"], ensemble)
    flags = matrix.flags | np.where(np.isfinite(flux), 0, NO_ENSEMBLE)
    good = ((flags & int(PhotFlag.bad())) == 0) & np.isfinite(flux)
    n = good.sum(axis=1)
    level = _median(flux, good)
    typical = _median(err, good)
    with np.errstate(invalid="ignore", divide="ignore"):
        level_err = 1.2533 * typical / np.sqrt(n)
        unit = np.where(level > 3 * level_err, level, np.nan)[:, None]
        zero = np.median(_offsets(level, magnitudes, ensemble.members))
        positive = flux > 3 * err
        mag = np.where(positive, zero - 2.5 * np.log10(np.where(positive, flux, 1)), np.nan)
        mag_err = np.where(positive & np.isfinite(mag), _MMAG / 1e3 * err / flux, np.nan)
        rest = np.where(good, flux / unit - 1, 0.0)
        relative = np.where(good, err / unit, 0.0)
        mean = rest.sum(axis=1) / n
        rms = np.sqrt(((rest - mean[:, None]) ** 2 * good).sum(axis=1) / (n - 1))
        expected = np.sqrt((relative**2).sum(axis=1) / n)
        w = np.where(good, 1 / err**2, 0.0)
        centre = np.where(good, w * flux, 0.0).sum(axis=1) / w.sum(axis=1)
        pull = np.where(good, (flux - centre[:, None]) / err, 0.0)
        chi2 = (pull**2).sum(axis=1) / (n - 1)
    curve: dict[str, NDArray[Any]] = {
        "flux_corr": flux,
        "flux_corr_err": err,
        "rel_flux": flux / unit,
        "rel_flux_err": err / unit,
        "mag": mag,
        "mag_err": mag_err,
        "flags": flags,
    }
    stats = Table()
    stats["source"] = matrix.source + 1
    stats["filter"] = np.full(n.size, name)
    stats["n"] = n
    stats["median_flux"] = level
    stats["median_flux_err"] = level_err
    stats["rms_mmag"] = np.where(n > 1, _MMAG * rms, np.nan)
    stats["expected_mmag"] = np.where(n > 1, _MMAG * expected, np.nan)
    stats["chi2"] = np.where(n > 1, chi2, np.nan)
    stats["comparison"] = ensemble.members
    return curve, stats


def _median(values: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    out = np.full(values.shape[0], np.nan)
    rows = good.any(axis=1)
    if rows.any():
        out[rows] = np.nanmedian(np.where(good[rows], values[rows], np.nan), axis=1)
    return out


def _offsets(
    level: NDArray[np.float64], magnitudes: NDArray[np.float64], members: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Catalogue minus instrumental magnitude: zero point and aperture correction in one."""
    use = np.isfinite(magnitudes) & (level > 0)
    use = use & members if (use & members).any() else use
    if not use.any():
        return np.array([np.nan])
    return np.asarray(magnitudes[use] + 2.5 * np.log10(level[use]))


def _with_times(
    curve: dict[str, NDArray[Any]],
    matrix: _Matrix,
    sources: Table,
    rows: Mapping[str, Mapping[str, Any]],
    photcal: Mapping[str, Mapping[str, Any]],
) -> dict[str, NDArray[Any]]:
    """Add mid times, barycentric times and airmasses, for the direction of each source."""
    shape = curve["flags"].shape
    mjd = _per_frame(matrix.frames, rows, "mjd_mid")
    ra = np.asarray(sources["ra"], np.float64)[matrix.source][:, None]
    dec = np.asarray(sources["dec"], np.float64)[matrix.source][:, None]
    bjd, mass = np.full(shape, np.nan), np.full(shape, np.nan)
    sites: dict[Site, list[int]] = {}
    for i, frame in enumerate(matrix.frames):
        site = parse_site((rows.get(frame) or {}).get("site"))
        if site is not None:
            sites.setdefault(site, []).append(i)
    for site, index in sites.items():
        bjd[:, index] = bjd_tdb(mjd[index], ra, dec, site)
        mass[:, index] = airmass(mjd[index], ra, dec, site)
    flags = curve["flags"] | np.where(np.isfinite(bjd), 0, NO_BJD)
    fwhm = _per_frame(matrix.frames, photcal, "fwhm_px")
    return curve | {
        "mjd_mid": np.broadcast_to(mjd, shape),
        "bjd_tdb": bjd,
        "airmass": mass,
        "fwhm": np.broadcast_to(fwhm, shape),
        "flags": flags,
    }


_ORDER = (
    "mjd_mid", "bjd_tdb", "airmass", "x", "y", "fwhm", "sky", "flux", "flux_err", "flux_corr",
    "flux_corr_err", "rel_flux", "rel_flux_err", "mag", "mag_err",
)  # fmt: skip


def _long(name: str, matrix: _Matrix, curve: dict[str, NDArray[Any]]) -> Table:
    from astropy.table import Table

    n_sources, n_frames = matrix.flags.shape
    table = Table()
    table["source"] = np.repeat(matrix.source + 1, n_frames)
    table["filter"] = np.full(n_sources * n_frames, name)
    table["frame_id"] = np.tile(np.array(matrix.frames, dtype=str), n_sources)
    columns = matrix.columns | curve
    for key in _ORDER:
        table[key] = np.ascontiguousarray(columns[key]).ravel()
    table["flags"] = curve["flags"].ravel().astype(np.int32)
    return table


def _frame_table(name: str, matrix: _Matrix, ensemble: Ensemble) -> Table:
    from astropy.table import Table

    table = Table()
    table["frame_id"] = np.array(matrix.frames, dtype=str)
    table["filter"] = np.full(len(matrix.frames), name)
    table["transparency"] = ensemble.transparency
    table["transparency_err"] = ensemble.transparency_err
    table["n_comparisons"] = ensemble.used.sum(axis=0)
    return table


def _stacked(tables: list[Table]) -> Table:
    from astropy.table import vstack

    return tables[0] if len(tables) == 1 else vstack(tables, metadata_conflicts="silent")
