"""Light curves of a field: corrected for transparency, in barycentric time.

The forced fluxes of all frames of a filter are divided by the transparency of the
frame, which an ensemble of constant stars tells; a star is never its own comparison.
All sources of a filter have the same frames: what could not be measured is a row with
flags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.curves.transit import Transit
from skymill.errors import Result, StepFailed
from skymill.steps.ensemble import Ensemble, differential_flux, fit_ensemble
from skymill.steps.lightcurve_columns import describe
from skymill.steps.lightcurve_detrend import Detrending, detrend_filter
from skymill.steps.lightcurve_levels import MMAG, NO_ENSEMBLE, curves_of
from skymill.steps.lightcurve_matrix import Matrix, column, matrix_of, per_frame
from skymill.steps.lightcurve_sources import field_sources, find_sources
from skymill.times import Site, airmass, bjd_tdb, parse_site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table
    from numpy.typing import NDArray

__all__ = [
    "NO_BJD",
    "NO_COMPARISON",
    "NO_ENSEMBLE",
    "LightCurves",
    "empty_lightcurves",
    "field_sources",
    "lightcurves",
]

#: Further bits of the flags of a light curve, far above those of `PhotFlag`.
NO_BJD = 1 << 24
NO_COMPARISON = 1 << 26


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
        catalogue of each filter (0 where it is not in it), its role.
    frames : Table
        One row per frame: transparency and number of comparison stars.
    """

    points: Table
    statistics: Table
    sources: Table
    frames: Table


@dataclass(frozen=True)
class _Plan:
    """What is done with the curves of every filter."""

    ensemble: dict[str, Any]
    detrend: dict[str, Any]
    targets: NDArray[np.int64]
    comparisons: NDArray[np.int64]


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
    targets: Sequence[str] = (),
    comparisons: Sequence[str] = (),
    magnitude_fit: bool = False,
    magnitude_terms: str = "O3{mag,x,y}",
    magnitude_max_error: float = 0.02,
    detrend: str = "none",
    epd_terms: str = "O3{airmass}",
    tfa_grid: int = 8,
    tfa_neighbour_px: float = 20.0,
    transit: Mapping[str, Any] | None = None,
) -> Result[LightCurves]:
    """Return the light curves of all sources of a field.

    Parameters
    ----------
    tables : mapping of str to Table
        Forced photometry of all frames, by filter.
    catalogs : mapping of str to Table
        Catalogue of the stack behind each table, by filter: source, x, y (common grid),
        ra, dec, mag if there is a zero point, and name if names are known.
    rows : mapping of str to mapping
        Rows of the sheet by frame id; used: exptime_s, mjd_mid, site, filter. Frames in
        a filter that are missing in its table become rows with flags.
    photcal : mapping of str to mapping
        Rows of the photometric calibration by frame id; used: throughput, fwhm_px. May
        be empty.
    minimum_snr, max_comparisons, reject_chi2 : float, int, float
        Choice of the comparison stars, see `fit_ensemble`.
    minimum_epochs : int
        Fewer frames of a filter make no light curve.
    match_radius_px : float
        Sources of two filters closer than this are one.
    targets, comparisons : sequence of str
        Names, numbers or ``ra,dec`` of stars. Targets never enter the ensemble; with
        comparisons the flux relative to the sum of just these is given, too.
    magnitude_fit, magnitude_terms, magnitude_max_error, detrend, epd_terms, tfa_grid,
    tfa_neighbour_px
        See `skymill.steps.lightcurve_detrend.detrend_filter`.
    transit : mapping, optional
        Keywords of `skymill.curves.transit.Transit`.

    Returns
    -------
    Result of LightCurves

    Raises
    ------
    StepFailed
        NO_FRAMES if no filter has enough frames.
    """
    sources = field_sources(catalogs, match_radius_px=match_radius_px)
    wanted, missing = find_sources(sources, targets)
    chosen, lost = find_sources(sources, comparisons)
    sources["role"] = _roles(len(sources), wanted, chosen)
    plan = _Plan(
        {"minimum_snr": minimum_snr, "max_comparisons": max_comparisons,
         "reject_chi2": reject_chi2},
        {"magnitude_fit": magnitude_fit, "magnitude_terms": magnitude_terms,
         "magnitude_max_error": magnitude_max_error, "detrend": detrend,
         "epd_terms": epd_terms, "tfa_grid": tfa_grid, "tfa_neighbour_px": tfa_neighbour_px,
         "colour": _colours(catalogs, sources),
         "transit": Transit(**transit) if transit else None},
        wanted, chosen,
    )  # fmt: skip
    flags: list[tuple[str, str]] = []
    if missing or lost:
        text = f"not among the sources of the field: {', '.join([*missing, *lost])}"
        flags.append(("NO_TARGET", text))
    numbers: dict[str, Any] = {"n_sources": len(sources)}
    parts: list[tuple[Table, Table, Table]] = []
    for name in sorted(tables):
        n_frames = len(set(np.asarray(tables[name]["frame_id"]).tolist()))
        if n_frames < minimum_epochs:
            flags.append(("TOO_FEW", f"{name}: {n_frames} frames, fewer than {minimum_epochs}"))
            continue
        part, facts = _one_filter(name, tables[name], catalogs[name], sources, rows, photcal, plan)
        if facts[f"n_comparisons_{name}"] < 3:
            text = f"{facts[f'n_comparisons_{name}']} comparison stars"
            flags.append(("FEW_STARS", f"{name}: {text}, so a variable one cannot be told"))
        parts.append(part)
        numbers |= facts
    if not parts:
        raise StepFailed(
            "NO_FRAMES",
            f"no filter of the field has {minimum_epochs} measured frames",
            n_sources=len(sources),
        )
    points, statistics, frames = (_stacked([part[i] for part in parts]) for i in range(3))
    product = LightCurves(points, statistics, sources, frames)
    describe(product.points, product.statistics, product.sources, product.frames)
    if (np.asarray(product.points["flags"]) & NO_BJD).all():
        flags.append(
            ("NO_BJD", "site, time or positions on the sky are not known; only mjd_mid is given")
        )
    return Result(product, tuple(flags), numbers)


def _roles(n: int, targets: NDArray[np.int64], comparisons: NDArray[np.int64]) -> NDArray[np.str_]:
    role = np.full(n, "", dtype="U10")
    role[comparisons] = "comparison"
    role[targets] = "target"
    return role


def _one_filter(
    name: str,
    table: Table,
    catalog: Table,
    sources: Table,
    rows: Mapping[str, Mapping[str, Any]],
    photcal: Mapping[str, Mapping[str, Any]],
    plan: _Plan,
) -> tuple[tuple[Table, Table, Table], dict[str, Any]]:
    """Points, statistics and frames of one filter, and the numbers of the outcome."""
    matrix = matrix_of(table, sources[f"id_{name}"], rows, filter_name=name)
    targets = np.isin(matrix.source, plan.targets)
    ensemble = fit_ensemble(
        matrix.columns["flux"],
        matrix.columns["flux_err"],
        matrix.good & ~targets[:, None],
        throughput=per_frame(matrix.frames, photcal, "throughput"),
        **plan.ensemble,
    )
    magnitudes = _by_source(catalog, "mag", sources[f"id_{name}"][matrix.source])
    curve, stats = curves_of(name, matrix, ensemble, magnitudes)
    curve = _with_times(curve, matrix, sources, rows, photcal)
    _add_differential(curve, matrix, plan)
    extra = _detrended(matrix, curve, sources, targets, plan.detrend)
    for key, values in extra.statistics.items():
        stats[key] = values
    facts = {
        f"n_frames_{name}": int(np.isfinite(matrix.columns["flux"]).any(axis=0).sum()),
        f"n_comparisons_{name}": int(ensemble.members.sum()),
        f"floor_mmag_{name}": MMAG * ensemble.floor,
    }
    if extra.n_templates:
        facts[f"n_templates_{name}"] = extra.n_templates
    frames = _frame_table(name, matrix, ensemble)
    for key, values in extra.frames.items():
        frames[key] = values
    return (_long(name, matrix, curve, extra), stats, frames), facts


def empty_lightcurves() -> LightCurves:
    """Return the light curves of no sources: all columns, units and descriptions."""
    from astropy.table import Table

    sources = field_sources({})
    sources["role"] = np.zeros(0, "U10")
    table = Table({"frame_id": np.zeros(0, "U1"), "source": np.zeros(0, np.int64)})
    for name in ("x", "y", "flux", "flux_err", "sky"):
        table[name] = np.zeros(0)
    table["flags"] = np.zeros(0, np.int32)
    matrix = matrix_of(table, np.zeros(0, np.int64), {})
    nothing = np.zeros(0)
    ensemble = Ensemble(
        np.zeros(0, bool), nothing, nothing, np.zeros((0, 0), bool), nothing, nothing, 0.0
    )
    curve, statistics = curves_of("", matrix, ensemble, nothing)
    curve = _with_times(curve, matrix, sources, {}, {})
    frames = _frame_table("", matrix, ensemble)
    product = LightCurves(_long("", matrix, curve, Detrending()), statistics, sources, frames)
    describe(product.points, product.statistics, product.sources, product.frames)
    return product


def _by_source(catalog: Table, name: str, numbers: Any) -> NDArray[np.float64]:
    values = dict(zip(np.asarray(catalog["source"]).tolist(), column(catalog, name), strict=True))
    return np.array([values.get(int(number), np.nan) for number in numbers])


def _colours(catalogs: Mapping[str, Table], sources: Table) -> NDArray[np.float64] | None:
    """Colour of each source from the first two filters that have magnitudes."""
    found = [
        _by_source(catalogs[name], "mag", sources[f"id_{name}"])
        for name in sorted(catalogs)
        if np.isfinite(column(catalogs[name], "mag")).any()
    ]
    if len(found) < 2 or not np.isfinite(found[0] - found[1]).any():
        return None
    return np.asarray(found[0] - found[1])


def _with_times(
    curve: dict[str, NDArray[Any]],
    matrix: Matrix,
    sources: Table,
    rows: Mapping[str, Mapping[str, Any]],
    photcal: Mapping[str, Mapping[str, Any]],
) -> dict[str, NDArray[Any]]:
    """Add mid times, barycentric times and airmasses, for the direction of each source."""
    shape = curve["flags"].shape
    mjd = per_frame(matrix.frames, rows, "mjd_mid")
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
    fwhm = per_frame(matrix.frames, photcal, "fwhm_px")
    return curve | {
        "mjd_mid": np.broadcast_to(mjd, shape),
        "bjd_tdb": bjd,
        "airmass": mass,
        "fwhm": np.broadcast_to(fwhm, shape),
        "flags": flags,
    }


def _add_differential(curve: dict[str, NDArray[Any]], matrix: Matrix, plan: _Plan) -> None:
    """Add the flux relative to the chosen comparison stars, if any are chosen."""
    if not plan.comparisons.size:
        return
    chosen = np.isin(matrix.source, plan.comparisons)
    ratio, err = differential_flux(
        matrix.columns["flux"], matrix.columns["flux_err"], matrix.good, chosen
    )
    curve["diff_flux"], curve["diff_flux_err"] = ratio, err
    lost = matrix.good & ~np.isfinite(ratio)
    curve["flags"] = curve["flags"] | np.where(lost, NO_COMPARISON, 0)


def _detrended(
    matrix: Matrix,
    curve: dict[str, NDArray[Any]],
    sources: Table,
    targets: NDArray[np.bool_],
    settings: dict[str, Any],
) -> Detrending:
    if not settings["magnitude_fit"] and settings["detrend"] == "none":
        return Detrending()
    x, y = (np.asarray(sources[name], np.float64)[matrix.source] for name in ("x", "y"))
    colour = settings["colour"]
    return detrend_filter(
        matrix,
        curve,
        good=matrix.good & np.isfinite(curve["flux_corr"]),
        position=(x, y),
        targets=targets if targets.any() else None,
        **settings | {"colour": None if colour is None else colour[matrix.source]},
    )


_ORDER = (
    "mjd_mid", "bjd_tdb", "airmass", "x", "y", "fwhm", "sky", "flux", "flux_err", "flux_corr",
    "flux_corr_err", "rel_flux", "rel_flux_err", "mag", "mag_err",
)  # fmt: skip


def _long(name: str, matrix: Matrix, curve: dict[str, NDArray[Any]], extra: Detrending) -> Table:
    from astropy.table import Table

    n_sources, n_frames = matrix.flags.shape
    table = Table()
    table["source"] = np.repeat(matrix.source + 1, n_frames)
    table["filter"] = np.full(n_sources * n_frames, name)
    table["frame_id"] = np.tile(np.array(matrix.frames, dtype=str), n_sources)
    columns = matrix.columns | curve
    for key in _ORDER:
        table[key] = np.ascontiguousarray(columns[key]).ravel()
    for key in ("diff_flux", "diff_flux_err"):
        if key in curve:
            table[key] = curve[key].ravel()
    for key, values in extra.columns.items():
        table[key] = values.astype(np.float32).ravel()
    for key, more in (matrix.apertures | matrix.aperture_flags).items():
        if key not in table.colnames:
            table[key] = more.ravel()
    table["flags"] = curve["flags"].ravel().astype(np.int32)
    return table


def _frame_table(name: str, matrix: Matrix, ensemble: Ensemble) -> Table:
    from astropy.table import Table

    table = Table()
    table["frame_id"] = np.array(matrix.frames, dtype=str)
    table["filter"] = np.full(len(matrix.frames), name)
    table["transparency"] = ensemble.transparency
    table["transparency_err"] = ensemble.transparency_err
    table["n_comparisons"] = ensemble.used.sum(axis=0)
    return table


def _stacked(tables: list[Table]) -> Table:
    """Join the filters; a column that one of them lacks is NaN (0 for flags) there."""
    from astropy.table import vstack

    if len(tables) == 1:
        return tables[0]
    joined = vstack(tables, metadata_conflicts="silent")
    for name in joined.colnames:
        values = joined[name]
        if hasattr(values, "mask"):
            joined[name] = values.filled(np.nan if values.dtype.kind == "f" else 0)
    return joined
