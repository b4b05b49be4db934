"""Magnitudes of a reference catalogue: bands recognised by name, others from colours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from skymill.catalog_columns import numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["BANDS", "NOT_BANDS", "photometry"]

#: Photometric bands that are recognised by name. Case counts: r is not R.
BANDS = (
    *("U", "B", "V", "R", "I", "Rc", "Ic", "u", "g", "r", "i", "z", "y", "w"),
    *("up", "gp", "rp", "ip", "zp", "Y", "Z", "J", "H", "K", "Ks"),
    *("G", "BP", "RP", "BT", "VT", "W1", "W2", "W3", "W4", "L", "Lum", "Clear"),
)

#: Meanings of a column map that are no bands.
NOT_BANDS = frozenset(
    {"ra", "ra_hours", "dec", "name", "pmra", "pmra_coordinate", "pmdec", "epoch"}
)

_ALIASES = {"phot_g_mean": "G", "phot_bp_mean": "BP", "phot_rp_mean": "RP", "Gmag": "G"}

#: Magnitudes outside are blanks written as numbers (99.999, -999).
_MAG_RANGE = (-30.0, 50.0)

_BAND = "|".join(sorted(BANDS, key=len, reverse=True))
_FORMS = (
    rf"(?P<band>{_BAND})",
    rf"(?P<band>{_BAND})_?mag",
    rf"mag_?(?P<band>{_BAND})",
    rf"(?P<band>{_BAND})(?:Mean)?PSFMag",
)
_ERROR_FORMS = (
    rf"(?:e|err|sigma|d)_?(?P<band>{_BAND})(?:_?mag)?",
    rf"(?P<band>{_BAND})_?(?:mag)?_?(?:err|error|e|sigma|unc)",
    rf"(?:magerr|e_?mag)_?(?P<band>{_BAND})",
    rf"(?P<band>{_BAND})(?:Mean)?PSFMagErr",
)


def _band_of(column: str, forms: tuple[str, ...]) -> str | None:
    for alias, band in _ALIASES.items():
        wanted = f"{alias}_mag" if forms is _FORMS else f"{alias}_mag_error"
        if column in (wanted, alias if forms is _FORMS else f"e_{alias}"):
            return band
    for form in forms:
        found = re.fullmatch(form, column)
        if found:
            return found["band"]
    return None


def photometry(
    table: Table, chosen: Mapping[str, str]
) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, str]]:
    """Collect magnitudes, and derive the bands that colours give.

    Parameters
    ----------
    table : Table
        The catalogue, n rows.
    chosen : mapping
        Column map: band (``V``) or error of a band (``e_V``) to column.

    Returns
    -------
    mags, errs : dict of ndarray of float64, shape (n,)
        NaN where not measured or not given.
    derived : dict of str
        How a band was made that is no column.
    """
    mags: dict[str, Floats] = {}
    errs: dict[str, Floats] = {}
    for column in table.colnames:
        band = _band_of(column, _FORMS)
        if band and band not in mags:
            mags[band] = _magnitudes(table, column)
    for column in table.colnames:
        band = _band_of(column, _ERROR_FORMS)
        if band and band not in errs:
            errs[band] = numbers(table, column)
    for meaning, column in chosen.items():
        if meaning.startswith("e_"):
            errs[meaning[2:]] = numbers(table, column)
        elif meaning not in NOT_BANDS:
            mags[meaning] = _magnitudes(table, column)
    for band, values in mags.items():
        errs[band] = _error(values, errs.get(band))
    errs = {band: errs[band] for band in mags}
    return mags, errs, _derive(table, mags, errs)


def _magnitudes(table: Table, column: str) -> Floats:
    values = numbers(table, column)
    values[~((values > _MAG_RANGE[0]) & (values < _MAG_RANGE[1]))] = np.nan
    return values


def _error(values: Floats, errors: Floats | None) -> Floats:
    """Return errors; NaN where none, zero or a negative one is given."""
    if errors is None:
        return np.full(len(values), np.nan)
    return np.where(np.isfinite(values) & (errors > 0), errors, np.nan)


def _derive(table: Table, mags: dict[str, Floats], errs: dict[str, Floats]) -> dict[str, str]:
    """Derive bands from colours, star by star, by the shortest chain of colours.

    The errors of the band and the colours are added in quadrature, as for catalogues
    that measure colours (Landolt).
    """
    colours = []
    for column in table.colnames:
        found = re.fullmatch(rf"(?P<one>{_BAND})-(?P<two>{_BAND})", column)
        if found:
            values = _magnitudes(table, column)
            names = (f"e_{column}", f"{column}_err", f"e({column})", f"err_{column}")
            error = next((numbers(table, name) for name in names if name in table.colnames), None)
            colours.append((found["one"], found["two"], values, _error(values, error)))
    measured = set(mags)
    derived: dict[str, str] = {}
    for _ in range(len(colours)):
        known = {band: (mags[band].copy(), errs[band].copy()) for band in mags}
        for one, two, colour, error in colours:
            for start, end, sign in ((one, two, -1.0), (two, one, 1.0)):
                if start not in known or end in measured:
                    continue
                value = known[start][0] + sign * colour
                sigma = np.hypot(known[start][1], error)
                old = mags.setdefault(end, np.full(len(value), np.nan))
                errs.setdefault(end, np.full(len(value), np.nan))
                fill = ~np.isfinite(old) & np.isfinite(value)
                mags[end] = np.where(fill, value, old)
                errs[end] = np.where(fill, sigma, errs[end])
                mark = "-" if sign < 0 else "+"
                if fill.any():
                    derived.setdefault(end, f"{start} {mark} ({one}-{two})")
    return derived
