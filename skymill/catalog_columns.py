"""Columns of a reference catalogue: recognised by name, brought to one unit.

Angles in degree, proper motions in mas/yr along great circles, epochs in years; NaN where a
value is missing or cannot be read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from skymill.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from astropy.table import Table
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["epochs", "find_column", "names", "numbers", "positions", "proper_motions"]

#: Names of columns by meaning, in lower case, the surest first.
NAMES: dict[str, tuple[str, ...]] = {
    "ra": ("ra", "raj2000", "ra_icrs", "ra_deg", "_raj2000", "alpha_j2000", "ramean", "raicrs",
           "ramdeg"),
    "ra_hours": ("ra_hours", "rahours", "ra_h"),
    "dec": ("dec", "de", "dej2000", "decj2000", "de_icrs", "dec_icrs", "dec_deg", "_dej2000",
            "delta_j2000", "decmean", "deicrs", "dedeg", "demdeg"),
    "name": ("name", "star", "id", "source_id", "designation", "identifier", "object", "source"),
    "pmra": ("pmra", "pm_ra", "pmra_cosdec", "pm_ra_cosdec", "pmracosdec"),
    "pmra_coordinate": ("pmra_coordinate", "pmra_nocosdec"),
    "pmdec": ("pmdec", "pm_dec", "pmde", "pm_de"),
    "epoch": ("ref_epoch", "epoch"),
}  # fmt: skip

#: Words of a unit that says hours of right ascension.
_HOURS = ("h", "hr", "hour", "hourangle", "hour_angle", "hours")
#: Sexagesimal position in columns of its own, as the tables of journals have it.
_RA_PARTS = ("RAh", "RAm", "RAs")
_DEC_PARTS = ("DEd", "DEm", "DEs")
#: Dates above are Julian, above the second limit not even reduced to modified ones.
_YEAR_LIMIT, _MJD_LIMIT = 3000.0, 400000.0


def find_column(columns: Iterable[str], chosen: Mapping[str, str], meaning: str) -> str | None:
    """Return the column that holds a meaning: as the map says, else by its name."""
    if meaning in chosen:
        return chosen[meaning]
    lower = {column.lower(): column for column in reversed(list(columns))}
    return next((lower[name] for name in NAMES[meaning] if name in lower), None)


def numbers(table: Table, column: str) -> Floats:
    """Return a column as float64 with NaN for blanks."""
    values = table[column]
    if values.dtype.kind in "iufb":
        return np.asarray(np.ma.filled(np.ma.asarray(values, dtype=float), np.nan), dtype=float)
    out = np.full(len(values), np.nan)
    for i, text in enumerate(values):
        try:
            out[i] = float(text)
        except (TypeError, ValueError):
            continue
    return out


def names(table: Table, column: str) -> NDArray[np.str_]:
    """Return a column of names; bytes of FITS tables are decoded, blanks are empty."""
    values = [
        "" if v is np.ma.masked else v.decode("utf-8", "replace") if isinstance(v, bytes) else v
        for v in table[column]
    ]
    return np.array([str(value).strip() for value in values] or [], dtype=np.str_)


def positions(table: Table, chosen: Mapping[str, str], label: str) -> tuple[Floats, Floats]:
    """Return right ascension and declination in degree, each of shape (n,).

    Plain numbers are degrees unless the unit of the column (or the name ``ra_hours``) says
    otherwise; text is sexagesimal, right ascensions then in hours, and ``-00 30`` is south.

    Parameters
    ----------
    table : Table
        The catalogue.
    chosen : mapping
        Column map.
    label : str
        Name of the catalogue, for messages.

    Raises
    ------
    ConfigError
        If there is no such column, or its values are no angles.
    """
    found = {key: find_column(table.colnames, chosen, key) for key in ("ra", "ra_hours", "dec")}
    if found["ra"] is None and found["ra_hours"] is None and _has_parts(table):
        return _parts(table, _RA_PARTS) * 15.0, _parts(table, _DEC_PARTS) * _signs(table)
    if "ra_hours" in chosen or (found["ra"] is None and found["ra_hours"] is not None):
        ra = _angle(table, str(found["ra_hours"]), hours=True, number_hours=True)
    else:
        ra = _angle(table, _required(table, found["ra"], "ra", label), hours=True)
    dec = _angle(table, _required(table, found["dec"], "dec", label), hours=False)
    _plausible(ra, dec, label)
    return ra % 360, dec


def _required(table: Table, found: str | None, meaning: str, label: str) -> str:
    if found is None:
        raise ConfigError(
            f"catalogue {label}: no column for {meaning} among "
            f"{', '.join(table.colnames[:30])}; rename the one that holds it to {meaning}, or "
            f"name it in the column map (`reference: {{file: ..., columns: {{{meaning}: ...}}}}`)"
        )
    return found


def _plausible(ra: Floats, dec: Floats, label: str) -> None:
    """Refuse columns that are no angles at all; single bad rows are left out later."""
    known = np.isfinite(ra) & np.isfinite(dec)
    if len(ra) and not known.any():
        raise ConfigError(f"catalogue {label}: no row has a position that can be read")
    wrong = known & ((np.abs(dec) > 90) | (ra < -360) | (ra > 720))
    if 2 * int(wrong.sum()) > int(known.sum()):
        row = int(np.flatnonzero(wrong)[0])
        raise ConfigError(
            f"catalogue {label}: {int(wrong.sum())} of {int(known.sum())} positions are no "
            f"degrees (row {row + 1}: {ra[row]:g}, {dec[row]:g}); are ra and dec the right columns?"
        )


def _has_parts(table: Table) -> bool:
    return set(table.colnames) >= {*_RA_PARTS, *_DEC_PARTS}


def _parts(table: Table, columns: tuple[str, ...]) -> Floats:
    value = np.zeros(len(table))
    for power, column in enumerate(columns):
        value += np.abs(numbers(table, column)) / 60.0**power
    return value


def _signs(table: Table) -> Floats:
    """Sign of the declination: a column of its own, since ``-00`` as a number has none."""
    if "DE-" in table.colnames:
        return np.where(names(table, "DE-") == "-", -1.0, 1.0)
    return np.where(np.signbit(numbers(table, "DEd")), -1.0, 1.0)


def _angle(table: Table, column: str, *, hours: bool, number_hours: bool = False) -> Floats:
    """Return an angle in degree: numbers in their unit, text in sexagesimal notation."""
    values = table[column]
    unit = str(values.unit or "").strip().lower()
    if values.dtype.kind in "iuf":
        factor = 15.0 if unit in _HOURS or (number_hours and not unit) else 1.0
        factor = np.degrees(1.0) if unit in ("rad", "radian") else factor
        factor = 1 / 3600 if unit in ("arcsec", "mas") else factor
        return numbers(table, column) * (factor / 1000 if unit == "mas" else factor)
    plain = 15.0 if number_hours or unit in _HOURS else 1.0
    return np.array([_sexagesimal(t, 15.0 if hours else 1.0, plain) for t in names(table, column)])


def _sexagesimal(text: str, factor: float, plain: float) -> float:
    """Return degrees for ``12:34:56.7``, ``12 34 56.7``, ``12h34m56.7s`` or ``188.73``.

    Several parts are multiplied by ``factor``, a single number by ``plain``.
    """
    text = text.strip().lower().replace("\N{MINUS SIGN}", "-")
    words = [word for word in re.split(r"[:\shdms'\"°]+", text) if word]
    if words and words[0] in ("-", "+"):  # "- 00 30"
        words = [words[0] + words[1], *words[2:]] if len(words) > 1 else []
    try:
        parts = [float(word) for word in words]
    except ValueError:
        return float("nan")
    if not parts or len(parts) > 3 or any(not 0 <= part < 60 for part in parts[1:]):
        return float("nan")
    value = sum(abs(part) / 60**i for i, part in enumerate(parts))
    value *= factor if len(parts) > 1 else plain
    return -value if words[0].startswith("-") else value


def epochs(table: Table, chosen: Mapping[str, str], label: str) -> Floats | None:
    """Return the year of each position, shape (n,), or None if there is no such column.

    Years (``2016.0``, ``J2016.0``), Julian and modified Julian dates are understood.
    """
    column = find_column(table.colnames, chosen, "epoch")
    if column is None:
        return None
    values = table[column]
    if values.dtype.kind in "iuf":
        years = numbers(table, column)
    else:
        years = np.array([_year(text) for text in names(table, column)])
    julian = years > _YEAR_LIMIT
    days = np.where(years > _MJD_LIMIT, years - 2400000.5, years)
    years = np.where(julian, 2000.0 + (days - 51544.5) / 365.25, years)
    bad = np.isfinite(years) & ((years < 1800) | (years > 2200))
    if bad.any():
        raise ConfigError(
            f"catalogue {label}: {years[bad][0]:g} in column {column} is no epoch of a position"
        )
    return years


def _year(text: str) -> float:
    try:
        return float(text.strip().lstrip("JjBb"))
    except ValueError:
        return float("nan")


def proper_motions(
    table: Table, chosen: Mapping[str, str], dec: Floats, label: str
) -> tuple[Floats, Floats] | None:
    """Return the proper motion in mas/yr, east (with cos(dec)) and north, each of shape (n,).

    ``pmra`` is taken along the great circle, as all modern catalogues give it; one of the
    coordinate itself (``pmra_coordinate``, or in seconds of time) is multiplied by cos(dec).
    None if the catalogue has none; a single missing value is NaN.
    """
    north = find_column(table.colnames, chosen, "pmdec")
    east = find_column(table.colnames, chosen, "pmra")
    bare = find_column(table.colnames, chosen, "pmra_coordinate")
    if north is None or (east is None and bare is None):
        return None
    if "pmra_coordinate" in chosen or east is None:
        east, coordinate = str(bare), True
    else:
        coordinate = False
    factor, is_time = _per_year(table, east, label)
    pmra = numbers(table, east) * factor
    if coordinate or is_time:
        pmra = pmra * np.cos(np.radians(dec))
    factor, is_time = _per_year(table, north, label)
    if is_time:
        raise ConfigError(f"catalogue {label}: {north} is in seconds of time; expected an angle")
    return pmra, numbers(table, north) * factor


def _per_year(table: Table, column: str, label: str) -> tuple[float, bool]:
    """Return the factor to mas/yr, and whether the unit is one of time."""
    from astropy import units as u

    unit = table[column].unit
    if unit is None or not str(unit):
        return 1.0, False
    parsed = u.Unit(str(unit), parse_strict="silent")
    wanted = u.mas / u.yr
    if parsed.is_equivalent(wanted):
        return float(parsed.to(wanted)), False
    if parsed.is_equivalent(u.s / u.yr):
        return float(parsed.to(u.s / u.yr)) * 15e3, True
    raise ConfigError(
        f"catalogue {label}: column {column} is in {unit}; expected an angle per time (mas/yr)"
    )
