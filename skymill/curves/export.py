"""Light curves as files for other programs, with units and the meaning of the times.

Every source keeps every frame: what was not measured is an empty value with flags, so
that all files share one grid of times.
"""

from __future__ import annotations

import io as memory
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill import io
from skymill.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.table import Table

    from skymill.curves.collection import LightCurves

__all__ = ["FORMATS", "background_table", "export_lightcurves", "export_opticam", "table_bytes"]

#: Format to suffix of its files.
FORMATS = {"parquet": ".parquet", "fits": ".fits", "ecsv": ".ecsv", "csv": ".csv"}

#: What the times are, in words and cards that other programs know (FITS paper IV).
TIME_FACTS = {
    "TIMESYS": "TDB",
    "TREFPOS": "BARYCENTER",
    "TIMEUNIT": "d",
    "TIMEREF": "bjd_tdb: Julian date TDB at the barycentre; mjd_mid: MJD UTC at the site",
    "TIMEPOS": "middle of the exposure",
}
_MJD0 = 2400000.5
#: More files than this are hardly meant.
_MOST_FILES = 20_000


def export_lightcurves(
    curves: LightCurves,
    out: str | Path,
    *,
    format: str = "ecsv",
    per_source: bool = False,
    columns: Sequence[str] | None = None,
) -> list[Path]:
    """Write light curves.

    Parameters
    ----------
    curves : LightCurves
        What is written; select before.
    out : str or Path
        The file, or the folder of the files with `per_source`.
    format : {"parquet", "fits", "ecsv", "csv"}
        Format. CSV has units and descriptions in lines that begin with ``#``.
    per_source : bool
        One file for each source, ``<field>-<source>.<suffix>``, in order of filter and
        time, with the source's position in the metadata.
    columns : sequence of str, optional
        Columns to write besides source, filter, frame_id, times and flags; all by
        default.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ConfigError
        For an unknown format or column, or if there is nothing to write.
    """
    if format not in FORMATS:
        raise ConfigError(f"export: no format {format!r}; there are {', '.join(FORMATS)}, opticam")
    table = _chosen(curves.points, columns)
    if not len(table):
        raise ConfigError("export: no light curve is left to write")
    facts = {**_facts(curves), **TIME_FACTS}
    if not per_source:
        path = Path(out)
        _write(path, table, facts, format)
        return [path]
    numbers = np.unique(np.asarray(table["source"]))
    if numbers.size > _MOST_FILES:
        raise ConfigError(f"export: {numbers.size} files; name the sources that are wanted")
    paths = []
    for number in numbers.tolist():
        part = table[np.asarray(table["source"]) == number]
        order = np.lexsort((np.asarray(part["mjd_mid"]), np.asarray(part["filter"]).astype(str)))
        path = Path(out) / f"{_safe(curves.field)}-{number:05d}{FORMATS[format]}"
        _write(path, part[order], facts | _about(curves, number), format)
        paths.append(path)
    return paths


def _facts(curves: LightCurves) -> dict[str, Any]:
    """Provenance that a table of another format can hold."""
    known = curves.points.meta
    out = {"FIELD": curves.field}
    out |= {k: known[k] for k in ("step", "version", "settings", "code") if k in known}
    return out


def _about(curves: LightCurves, number: int) -> dict[str, Any]:
    row = curves.sources[np.asarray(curves.sources["source"]) == number][0]
    out: dict[str, Any] = {"SOURCE": number}
    for name in ("name", "ra", "dec"):
        if name in curves.sources.colnames:
            value = row[name]
            if name == "name" or np.isfinite(value):
                out[name.upper()] = str(value) if name == "name" else float(value)
    return out


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name) or "field"


def _chosen(table: Table, columns: Sequence[str] | None) -> Table:
    if columns is None:
        return table
    unknown = [name for name in columns if name not in table.colnames]
    if unknown:
        raise ConfigError(
            f"export: no column {unknown[0]!r}; there are {', '.join(table.colnames)}"
        )
    always = ("source", "filter", "frame_id", "mjd_mid", "bjd_tdb", "flags")
    return table[[name for name in table.colnames if name in always or name in columns]]


def _write(path: Path, table: Table, facts: dict[str, Any], format: str) -> None:
    if format == "parquet":
        plain = table.copy(copy_data=False)
        plain.meta = {}
        io.write_table(path, plain, facts)
    else:
        io.write_bytes(path, table_bytes(table, facts, format))


def table_bytes(table: Table, facts: dict[str, Any], format: str) -> bytes:
    """Return a table as the content of a FITS, ECSV or CSV file.

    Parameters
    ----------
    table : Table
        Columns with units and descriptions.
    facts : dict
        Metadata; texts and numbers.
    format : {"fits", "ecsv", "csv"}
        Format.
    """
    copy = table.copy(copy_data=format == "fits")
    copy.meta = dict(facts)
    if format == "fits":
        from astropy.units import UnitsWarning

        copy.meta = {_card(name): value for name, value in facts.items()}
        for name in copy.colnames:
            copy[name].unit = _fits_unit(copy[name].unit)
        content = memory.BytesIO()
        with warnings.catch_warnings():
            # The electron is no unit of the FITS standard, but the word says what is meant.
            warnings.simplefilter("ignore", UnitsWarning)
            copy.write(content, format="fits")
        return content.getvalue()
    text = memory.StringIO()
    if format == "ecsv":
        copy.write(text, format="ascii.ecsv", delimiter=",")
    else:
        text.write(_csv_head(copy, facts))
        copy.meta = {}
        copy.write(text, format="ascii.csv")
    return text.getvalue().encode("utf-8")


def _fits_unit(unit: Any) -> Any:
    """Return a unit in words that a FITS file can hold."""
    if unit is None:
        return None
    from astropy.units import Unit

    try:
        unit.to_string(format="fits")
    except ValueError:
        return Unit(unit.to_string().replace(" ", ""), format="fits", parse_strict="silent")
    return unit


def _card(name: str) -> str:
    return re.sub(r"[^A-Z0-9_-]", "", name.upper())[:8]


def _csv_head(table: Table, facts: dict[str, Any]) -> str:
    """Lines that say what CSV has no place for; readers skip them with ``comment='#'``."""
    lines = [f"# {name}: {str(value).splitlines()[0]}" for name, value in facts.items() if value]
    for name in table.colnames:
        unit = "" if table[name].unit is None else f" [{table[name].unit.to_string()}]"
        lines.append(f"# {name}{unit}: {table[name].description or ''}")
    return "\n".join(lines) + "\n"


def export_opticam(
    curves: LightCurves,
    out: str | Path,
    *,
    column: str = "flux",
    background: bool = False,
    barycentre: bool = True,
) -> list[Path]:
    """Write one CSV per source and filter, as opticam does, but with all epochs.

    ``<filter>_source_<n>.csv`` has the columns BMJD (MJD without `barycentre`, or where it is
    not known), flux, flux_err, background where it is asked for, and flags. BMJD is
    BJD_TDB - 2400000.5.
    Epochs without a value stay, with an empty field: all sources share one grid of times.
    ``<filter>_background.ecsv`` has the sky of each frame, in the same order.

    Parameters
    ----------
    curves : LightCurves
        What is written.
    out : str or Path
        Folder.
    column : str
        The flux; its error is ``<column>_err``.
    background : bool
        Add the local background per pixel of each point.
    barycentre : bool
        Times at the barycentre (TDB), or at the site (UTC).

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ConfigError
        If there is no such column or nothing to write.
    """
    points = curves.points
    if f"{column}_err" not in points.colnames:
        raise ConfigError(f"export: no column {column!r} with an error")
    if not len(points):
        raise ConfigError("export: no light curve is left to write")
    paths = []
    names = np.asarray(points["filter"]).astype(str)
    for name in curves.filters:
        mine = points[names == name]
        number = np.asarray(mine["source"])
        for source in np.unique(number).tolist():
            part = mine[number == source]
            path = Path(out) / f"{_safe(name)}_source_{source}.csv"
            io.write_text(path, _opticam_text(part, column, background, barycentre))
            paths.append(path)
        path = Path(out) / f"{_safe(name)}_background.ecsv"
        table = background_table(curves, name)
        io.write_bytes(path, table_bytes(table, {**_facts(curves), **TIME_FACTS}, "ecsv"))
        paths.append(path)
    return paths


def _opticam_text(table: Table, column: str, background: bool, barycentre: bool) -> str:
    times = np.asarray(table["bjd_tdb"], float) - _MJD0
    # Without site or position there is no barycentric time; the name of the column says so.
    barycentre = barycentre and bool(np.isfinite(times).any())
    if not barycentre:
        times = np.asarray(table["mjd_mid"], float)
    table = table[np.argsort(times, kind="stable")]
    times = np.sort(times, kind="stable")
    head = ["BMJD" if barycentre else "MJD", "flux", "flux_err"]
    values = [np.asarray(table[name], float) for name in (column, f"{column}_err")]
    if background:
        head.append("background")
        values.append(np.asarray(table["sky"], float))
    lines = [",".join([*head, "flags"])]
    for i, flags in enumerate(np.asarray(table["flags"]).tolist()):
        cells = [_number(float(times[i]), ".8f"), *(_number(float(v[i]), ".10g") for v in values)]
        lines.append(",".join([*cells, str(flags)]))
    return "\n".join(lines) + "\n"


def _number(value: float, style: str) -> str:
    return format(value, style) if np.isfinite(value) else ""


def background_table(curves: LightCurves, filter: str) -> Table:
    """Return the sky of each frame: median over the sources, and its scatter.

    Parameters
    ----------
    curves : LightCurves
        Light curves of all sources.
    filter : str
        The filter.

    Returns
    -------
    Table
        frame_id, mjd_mid (UTC), bmjd (TDB, at the middle of the sources), background and
        background_rms (1.4826 MAD between the sources) per pixel.
    """
    from astropy.table import Column, Table

    points = curves.points[np.asarray(curves.points["filter"]).astype(str) == filter]
    first = np.unique(np.asarray(points["frame_id"]).astype(str), return_inverse=True)
    order = np.argsort(first[1], kind="stable")
    edges = np.searchsorted(first[1][order], np.arange(first[0].size + 1))
    sky = np.asarray(points["sky"], float)[order]
    unit = points["sky"].unit
    rows = []
    for i in range(first[0].size):
        part = slice(int(edges[i]), int(edges[i + 1]))
        known = sky[part][np.isfinite(sky[part])]
        level = float(np.median(known)) if known.size else np.nan
        rms = float(1.4826 * np.median(np.abs(known - level))) if known.size else np.nan
        bjd = np.asarray(points["bjd_tdb"], float)[order][part]
        middle = float(np.median(bjd[np.isfinite(bjd)])) if np.isfinite(bjd).any() else np.nan
        mjd = float(np.asarray(points["mjd_mid"], float)[order][part][0])
        rows.append((str(first[0][i]), mjd, middle - _MJD0, level, rms))
    rows.sort(key=lambda row: (not np.isfinite(row[1]), row[1] if np.isfinite(row[1]) else 0.0))
    about = (
        ("frame_id", None, "frame"),
        ("mjd_mid", "d", "middle of the exposure, MJD UTC at the site"),
        ("bmjd", "d", "BJD_TDB - 2400000.5 at the middle of the sources"),
        ("background", unit, "median background per pixel"),
        ("background_rms", unit, "scatter of the background between the sources"),
    )
    return Table(
        [
            Column([row[i] for row in rows], name=name, unit=u, description=text)
            for i, (name, u, text) in enumerate(about)
        ]
    )
