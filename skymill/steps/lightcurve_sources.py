"""The sources of a field: the same star in several filters, and stars that are asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from skymill.steps.lightcurve_matrix import column

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table
    from numpy.typing import NDArray

__all__ = ["field_sources", "find_sources"]

#: A position given in the settings is this star if it is closer (arcsec).
MATCH_ARCSEC = 3.0


def field_sources(catalogs: Mapping[str, Table], *, match_radius_px: float = 2.0) -> Table:
    """Identify the sources of several filters by position on the common grid.

    The longest catalogue comes first (by name if equal); of the others, sources without
    a mutual nearest neighbour within the radius are appended. No source is claimed twice.

    Parameters
    ----------
    catalogs : mapping of str to Table
        Catalogues by filter: source, x, y, and ra, dec, name where they are known.
    match_radius_px : float
        Largest distance of one source in two filters.

    Returns
    -------
    Table
        Columns source (1..n), x, y, ra, dec, name (if a catalogue has names), and
        ``id_<filter>``: number in that filter's catalogue, 0 if absent.
    """
    from astropy.table import Table

    names = sorted(catalogs, key=lambda name: (-len(catalogs[name]), name))
    x = y = ra = dec = np.zeros(0)
    label = np.zeros(0, dtype=str)
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
        ra = np.concatenate([ra, column(table, "ra")[new]])
        dec = np.concatenate([dec, column(table, "dec")[new]])
        label = _named(label, table, where, new)
    out = Table()
    out["source"] = np.arange(1, x.size + 1)
    out["x"], out["y"], out["ra"], out["dec"] = x, y, ra, dec
    if (label != "").any():
        out["name"] = label
    for name in sorted(catalogs):
        out[f"id_{name}"] = ids[name]
    return out


def _named(
    label: NDArray[np.str_], table: Table, where: NDArray[np.int64], new: NDArray[np.bool_]
) -> NDArray[np.str_]:
    """Names of the sources; the first catalogue that names one decides."""
    out = [*label.tolist(), *([""] * int(new.sum()))]
    if "name" in table.colnames:
        for index, text in zip(where.tolist(), np.asarray(table["name"]).astype(str), strict=True):
            out[index] = out[index] or str(text).strip()
    return np.array(out, dtype=str)


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


def find_sources(
    sources: Table, wanted: Sequence[str], *, radius_arcsec: float = MATCH_ARCSEC
) -> tuple[NDArray[np.int64], list[str]]:
    """Return the sources that are asked for.

    Parameters
    ----------
    sources : Table
        Columns source, ra, dec, and name if names are known.
    wanted : sequence of str
        Names, numbers of sources, or positions ``ra,dec`` in degrees (ICRS).
    radius_arcsec : float
        The nearest source within this distance of a position is meant.

    Returns
    -------
    index : ndarray of int64
        Rows of `sources`, in the order asked for, each once.
    missing : list of str
        What was not found. Positions beyond the sources of the field belong to another
        field and are not missing.
    """
    index: list[int] = []
    missing = []
    for text in dict.fromkeys(str(item).strip() for item in wanted):
        row, elsewhere = _one(sources, text, radius_arcsec)
        if row is not None:
            index.append(row)
        elif not elsewhere:
            missing.append(text)
    return np.array(list(dict.fromkeys(index)), np.int64), missing


def _one(sources: Table, text: str, radius_arcsec: float) -> tuple[int | None, bool]:
    """Row of a source, or None and whether it lies in another field."""
    if "name" in sources.colnames:
        same = np.flatnonzero(np.char.lower(np.asarray(sources["name"], str)) == text.lower())
        if same.size:
            return int(same[0]), False
    if re.fullmatch(r"\d+", text):
        same = np.flatnonzero(np.asarray(sources["source"]) == int(text))
        return (int(same[0]) if same.size else None), False
    parts = re.split(r"\s*[,;\s]\s*", text)
    try:
        ra, dec = (float(part) for part in parts)
    except ValueError:
        return None, False
    distance = _arcsec(np.asarray(sources["ra"], float), np.asarray(sources["dec"], float), ra, dec)
    if not np.isfinite(distance).any():
        return None, False
    best = int(np.nanargmin(distance))
    if distance[best] <= radius_arcsec:
        return best, False
    return None, bool(distance[best] > _reach(sources))


def _reach(sources: Table) -> float:
    """Ten times the typical distance of neighbours: further than that is outside (arcsec)."""
    ra, dec = (np.asarray(sources[name], float) for name in ("ra", "dec"))
    good = np.isfinite(ra) & np.isfinite(dec)
    if good.sum() < 2:
        return MATCH_ARCSEC
    area = np.ptp(dec[good]) * np.ptp(np.unwrap(ra[good], period=360.0))
    area *= np.cos(np.radians(dec[good].mean()))
    return float(10 * 3600 * np.sqrt(max(area, 0.0) / good.sum()))


def _arcsec(
    ra: NDArray[np.float64], dec: NDArray[np.float64], ra0: float, dec0: float
) -> NDArray[np.float64]:
    """Angular distance by the half-versed sine, exact for small angles."""
    a, d, a0, d0 = (np.radians(item) for item in (ra, dec, ra0, dec0))
    square = np.sin((d - d0) / 2) ** 2 + np.cos(d) * np.cos(d0) * np.sin((a - a0) / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(square, 0, 1)))) * 3600)
