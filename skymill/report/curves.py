"""Read light curves: the scatter of every source, and the points of the most variable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import SkymillError
from skymill.report.model import Field, LightCurve

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from astropy.table import Table
    from numpy.typing import NDArray

__all__ = ["field_curves", "load_fields"]

_UNREADABLE = (OSError, KeyError, ValueError, SkymillError)
_MAG = 2.5 / np.log(10)
#: Fewer points do not tell a variable source from a bad one.
_LEAST_POINTS = 5
#: Points of light curves, and sources in plots of scatter, drawn on the whole page.
_MOST_POINTS = 15_000
_MOST_SOURCES = 3_000


def load_fields(
    results: Path, planned: Collection[str] | None, max_curves: int, missing: list[str]
) -> tuple[Field, ...]:
    """Return the light curves of all fields.

    Parameters
    ----------
    results : Path
        Folder of the products.
    planned : collection of str or None
        Ids of the fields that are shown; None for all.
    max_curves : int
        Most light curves drawn, shared by the fields; the most variable first.
    missing : list of str
        Sentences about what could not be read are added to it.
    """
    from skymill.io import read_table

    folder = results / "lightcurves"
    paths = sorted(folder.glob("*.parquet"))
    if planned is not None:
        paths = [p for p in paths if p.name.removesuffix(".parquet") in planned]
    each = -(-max_curves // max(len(paths), 1))
    fields = []
    for path in paths:
        name = path.name.removesuffix(".parquet")
        try:
            points = read_table(path)
            statistics = read_table(folder / "statistics" / f"{name}.parquet")
            most = _MOST_POINTS // max(len(paths), 1)
            field = field_curves(
                name,
                points,
                statistics,
                max_curves=each,
                max_points=most,
                max_sources=_MOST_SOURCES // max(len(paths), 1),
            )
        except _UNREADABLE as error:
            missing.append(f"The light curves of {name} could not be read: {_brief(error)}")
            continue
        if field.points:
            fields.append(field)
    return tuple(fields)


def _brief(error: BaseException) -> str:
    """Kind of an error; its text may hold a path of this computer."""
    return type(error).__name__


def field_curves(
    name: str,
    points: Table,
    statistics: Table,
    *,
    max_curves: int,
    max_points: int = _MOST_POINTS,
    max_sources: int = _MOST_SOURCES,
) -> Field:
    """Return the light curves of one field.

    Parameters
    ----------
    name : str
        The field.
    points : Table
        One row per source, filter and frame: source, filter, mjd_mid, bjd_tdb, rel_flux,
        rel_flux_err, flux_corr, mag, flags.
    statistics : Table
        One row per source and filter: source, filter, n, median_flux, rms_mmag,
        expected_mmag, comparison.
    max_curves, max_points : int
        Most light curves, and most points of all of them together, that are kept.
    max_sources : int
        Most sources kept for the plot of scatter over magnitude.

    Raises
    ------
    KeyError
        If a column is missing.
    """
    zero = _zero_points(points)
    curves = _statistics(statistics, zero)
    order = sorted(
        (c for c in curves if np.isfinite(c.excess)), key=lambda c: (-c.excess, c.filter, c.source)
    )
    if len(curves) > max_sources:
        curves = _thinned(curves, max_sources)
    times = np.asarray(points["bjd_tdb"], float)
    barycentric = bool(np.isfinite(times).any())
    if not barycentric:
        times = np.asarray(points["mjd_mid"], float)
    good = _good(points, times)
    sources = np.asarray(points["source"]).astype(str)
    bands = np.asarray(points["filter"]).astype(str)
    drawn, left = [], max_points
    for curve in order[:max_curves]:
        rows = np.flatnonzero(good & (sources == curve.source) & (bands == curve.filter))
        if len(rows) < _LEAST_POINTS or len(rows) > left:
            continue
        left -= len(rows)
        drawn.append(_with_points(curve, points, times, rows))
    return Field(
        name,
        "BJD_TDB" if barycentric else "MJD",
        bool(zero),
        tuple(curves),
        tuple(drawn),
        len(statistics),
    )


def _good(points: Table, times: NDArray[np.float64]) -> NDArray[np.bool_]:
    from skymill.steps.photometry import PhotFlag

    flux = np.asarray(points["rel_flux"], float)
    err = np.asarray(points["rel_flux_err"], float)
    flags = np.asarray(points["flags"], np.int64)
    return np.asarray(
        ((flags & int(PhotFlag.bad())) == 0)
        & np.isfinite(times)
        & np.isfinite(flux)
        & (flux > 0)
        & (err > 0)
    )


def _zero_points(points: Table) -> dict[str, float]:
    """Magnitude of a corrected flux of one, by filter; empty without a zero point."""
    mag, flux = np.asarray(points["mag"], float), np.asarray(points["flux_corr"], float)
    bands = np.asarray(points["filter"]).astype(str)
    known = np.isfinite(mag) & (flux > 0)
    out = {}
    for band in np.unique(bands[known]):
        rows = known & (bands == band)
        out[str(band)] = float(np.median(mag[rows] + 2.5 * np.log10(flux[rows])))
    return out


def _statistics(table: Table, zero: dict[str, float]) -> list[LightCurve]:
    columns = {name: table[name].tolist() for name in ("source", "filter", "n", "comparison")}
    flux = np.asarray(table["median_flux"], float)
    rms = np.asarray(table["rms_mmag"], float) / 1000
    expected = np.asarray(table["expected_mmag"], float) / 1000
    out = []
    rows = zip(*columns.values(), flux.tolist(), rms.tolist(), expected.tolist(), strict=True)
    for source, band, n, star, level, scatter, should in rows:
        if n < _LEAST_POINTS or not (level > 0 and scatter > 0 and should > 0):
            continue
        mag = zero.get(str(band), 0.0) - 2.5 * float(np.log10(level))
        out.append(LightCurve(str(source), str(band), mag, scatter, should, bool(star)))
    return out


def _thinned(curves: list[LightCurve], most: int) -> list[LightCurve]:
    """Keep comparison stars and variable sources, and every n-th of the rest by magnitude."""
    kept = [c for c in curves if c.is_comparison or c.excess > 3][:most]
    names = {(c.source, c.filter) for c in kept}
    rest = sorted(
        (c for c in curves if (c.source, c.filter) not in names),
        key=lambda c: (c.mag, c.filter, c.source),
    )
    room = max(most - len(kept), 1)
    return kept + rest[:: -(-len(rest) // room) or 1]


def _with_points(
    curve: LightCurve, points: Table, times: NDArray[np.float64], rows: NDArray[Any]
) -> LightCurve:
    rows = rows[np.argsort(times[rows], kind="stable")]
    flux = np.asarray(points["rel_flux"], float)[rows]
    err = np.asarray(points["rel_flux_err"], float)[rows]
    return LightCurve(
        curve.source,
        curve.filter,
        curve.mag,
        curve.rms,
        curve.expected,
        curve.is_comparison,
        tuple(times[rows].tolist()),
        tuple((-2.5 * np.log10(flux)).tolist()),
        tuple((_MAG * err / flux).tolist()),
    )
