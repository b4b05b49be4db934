"""Measurements of one filter arranged as sources by frames, on one grid of times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.steps.photometry import PhotFlag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table
    from numpy.typing import NDArray

__all__ = ["Matrix", "column", "matrix_of", "number", "per_frame"]

_MAIN = ("x", "y", "flux", "flux_err", "sky")


@dataclass(frozen=True)
class Matrix:
    """Measurements of one filter, sources by frames.

    Parameters
    ----------
    frames : list of str
        Frames in order of time.
    source : ndarray of int64, shape (n_sources,)
        Index in the table of the field's sources.
    columns : dict
        x, y, sky, and flux and flux_err of the main aperture per second.
    apertures : dict
        Further fluxes and errors per second, by the names that photometry gave them;
        float32.
    aperture_flags : dict
        Flags of single apertures, where photometry gave any.
    flags : ndarray of int64, shape (n_sources, n_frames)
        Bits of PhotFlag; NO_FLUX where there is no row.
    """

    frames: list[str]
    source: NDArray[np.int64]
    columns: dict[str, NDArray[np.float64]]
    apertures: dict[str, NDArray[np.float32]]
    aperture_flags: dict[str, NDArray[np.int32]]
    flags: NDArray[np.int64]

    @property
    def good(self) -> NDArray[np.bool_]:
        """Measurements without a flag that spoils them."""
        return np.asarray((self.flags & int(PhotFlag.bad())) == 0)


def matrix_of(
    table: Table, catalog_id: Any, rows: Mapping[str, Mapping[str, Any]], *, filter_name: str = ""
) -> Matrix:
    """Arrange a long table as sources by frames.

    Parameters
    ----------
    table : Table
        Forced photometry: frame_id, source, x, y, flux, flux_err, sky, flags; all further
        columns ``flux_*`` and ``flags_*`` are handed on.
    catalog_id : array_like of int, shape (n_field_sources,)
        Number of each source of the field in the catalogue behind the table, 0 without.
    rows : mapping of str to mapping
        Rows of the sheet; used: mjd_mid, exptime_s, filter.
    filter_name : str
        Frames of the sheet in this filter get a column even where photometry failed.

    Returns
    -------
    Matrix
    """
    frames, frame_of = _frames(table, rows, filter_name)
    present = np.flatnonzero(np.asarray(catalog_id) > 0)
    source_of, valid = _places(np.asarray(catalog_id, np.int64)[present], table)
    where = (source_of, frame_of[valid])
    shape = (present.size, len(frames))
    exptime = per_frame(frames, rows, "exptime_s")
    exptime[~(exptime > 0)] = np.nan

    def filled(name: str) -> NDArray[np.float64]:
        out = np.full(shape, np.nan)
        out[where] = column(table, name)[valid]
        return out

    columns = {name: filled(name) for name in _MAIN}
    for name in ("flux", "flux_err"):
        columns[name] = columns[name] / exptime
    apertures, aperture_flags = {}, {}
    for name in table.colnames:
        if name.startswith("flux_") and name not in _MAIN and table[name].dtype.kind == "f":
            apertures[name] = (filled(name) / exptime).astype(np.float32)
        elif name.startswith("flags_") and table[name].dtype.kind in "iu":
            bits = np.full(shape, int(PhotFlag.NO_FLUX), np.int32)
            bits[where] = np.asarray(table[name])[valid]
            aperture_flags[name] = bits
    flags = np.full(shape, int(PhotFlag.NO_FLUX), np.int64)
    flags[where] = np.asarray(table["flags"], np.int64)[valid]
    return Matrix(frames, present, columns, apertures, aperture_flags, flags)


def _frames(
    table: Table, rows: Mapping[str, Mapping[str, Any]], filter_name: str
) -> tuple[list[str], NDArray[np.int64]]:
    """Frames in order of time, and the place of each row of the table among them."""
    unique = np.unique(np.asarray(table["frame_id"]).astype(str), return_inverse=True)
    measured = unique[0].tolist()
    known = set(measured)
    lost = [
        str(name)
        for name, row in rows.items()
        if filter_name and str(row.get("filter")) == filter_name and str(name) not in known
    ]
    names = np.array([*measured, *sorted(lost)], dtype=str)
    times = per_frame(names.tolist(), rows, "mjd_mid")
    order = np.lexsort((names, times))
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    return [str(names[i]) for i in order], rank[np.asarray(unique[1], np.int64)]


def _places(
    numbers: NDArray[np.int64], table: Table
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Row of each measurement among the sources, and which measurements have one."""
    measured = np.asarray(table["source"], np.int64)
    if not numbers.size:
        return np.zeros(0, np.int64), np.zeros(measured.size, bool)
    by_number = np.argsort(numbers)
    slot = np.minimum(np.searchsorted(numbers[by_number], measured), numbers.size - 1)
    valid = numbers[by_number][slot] == measured
    return by_number[slot[valid]], valid


def column(table: Table, name: str) -> NDArray[np.float64]:
    """Return a column as float64; NaN where it is masked or missing."""
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    return np.asarray(np.ma.filled(table[name], np.nan), np.float64)


def number(row: Mapping[str, Any] | None, name: str) -> float:
    """Return a value of a row as float, NaN if it is no number."""
    value = (row or {}).get(name)
    return float(value) if isinstance(value, (int, float, np.number)) else float("nan")


def per_frame(
    frames: list[str], table: Mapping[str, Mapping[str, Any]], name: str
) -> NDArray[np.float64]:
    """Return a value of each frame."""
    return np.array([number(table.get(frame), name) for frame in frames], np.float64)
