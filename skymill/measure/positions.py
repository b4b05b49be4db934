"""Positions to measure: lists of the user, and ephemerides of moving objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import ConfigError

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Positions", "read_positions"]

_NAMES = ("object", "name", "target", "id")


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions by name: fixed on the sky, fixed in pixels, or moving.

    Parameters
    ----------
    names : tuple of str
        Objects, in the order of the file.
    a, b : tuple of ndarray of float64
        For each object its right ascensions and declinations in degree, or x and y in px.
    mjd : tuple of ndarray of float64
        Times (UTC) of the entries of each object; empty for one that does not move.
    celestial : bool
        False if positions are 0-based pixels.
    """

    names: tuple[str, ...]
    a: tuple[Floats, ...]
    b: tuple[Floats, ...]
    mjd: tuple[Floats, ...]
    celestial: bool

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_table(cls, table: Table, label: str = "positions") -> Positions:
        """Read a table: ``ra, dec`` (deg, or sexagesimal) or ``x, y``, with ``mjd`` if it moves.

        Without ``mjd`` every row is an object; with it rows of one ``object`` (or ``name``,
        ``target``, ``id``; all rows if there is no such column) are its ephemeris.

        Raises
        ------
        ConfigError
            If columns are missing, nothing can be read, or times repeat.
        """
        columns = {name.lower(): name for name in table.colnames}
        celestial = {"ra", "dec"} <= set(columns)
        if not celestial and not {"x", "y"} <= set(columns):
            raise ConfigError(
                f"{label}: columns ra, dec or x, y are needed, found {', '.join(table.colnames)}"
            )
        if not len(table):
            raise ConfigError(f"{label}: the table has no row")
        if celestial:
            a, b = _degrees(table[columns["ra"]], hours=True), _degrees(table[columns["dec"]])
        else:
            a, b = (_numbers(table[columns[name]]) for name in ("x", "y"))
        title = next((columns[name] for name in _NAMES if name in columns), None)
        moving = "mjd" in columns
        names = (
            np.array([str(value).strip() for value in table[title]])
            if title
            else np.array(["object"] * len(a) if moving else [f"p{i + 1}" for i in range(len(a))])
        )
        if not (np.isfinite(a) & np.isfinite(b)).all():
            row = int(np.flatnonzero(~(np.isfinite(a) & np.isfinite(b)))[0]) + 1
            raise ConfigError(f"{label}: row {row} has no position that can be read")
        if not moving:
            nothing = np.zeros(0)
            return cls(
                tuple(map(str, names)), tuple(a[:, None]), tuple(b[:, None]),
                tuple(nothing for _ in a), celestial,
            )  # fmt: skip
        mjd = _numbers(table[columns["mjd"]])
        parts: list[tuple[str, Floats, Floats, Floats]] = []
        for name in dict.fromkeys(names.tolist()):
            rows = np.flatnonzero(names == name)
            rows = rows[np.argsort(mjd[rows], kind="stable")]
            if not np.isfinite(mjd[rows]).all() or (np.diff(mjd[rows]) <= 0).any():
                raise ConfigError(f"{label}: times of {name} repeat or cannot be read")
            parts.append((str(name), a[rows], b[rows], mjd[rows]))
        columns_of = list(zip(*parts, strict=True))
        return cls(columns_of[0], columns_of[1], columns_of[2], columns_of[3], celestial)

    def at(self, mjd: float | None) -> tuple[Floats, Floats]:
        """Return the positions at a time (MJD, UTC), shape (n,) each.

        Directions are interpolated as vectors: by a cubic spline through four entries or
        more, along a great circle between fewer. Outside its entries an object is NaN.
        """
        out = np.full((2, len(self)), np.nan)
        for k, (a, b, times) in enumerate(zip(self.a, self.b, self.mjd, strict=True)):
            if not times.size:
                out[:, k] = a[0], b[0]
            elif mjd is not None and np.isfinite(mjd) and times[0] <= mjd <= times[-1]:
                out[:, k] = _interpolate(a, b, times, float(mjd), self.celestial)
        return out[0], out[1]

    def pixels(
        self, wcs: WCS, mjd: float | None, *, grid: WCS | None = None
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Return x, y on a frame and ra, dec (NaN without celestial coordinates).

        Parameters
        ----------
        wcs : WCS
            World coordinates of the frame.
        mjd : float or None
            Mid-exposure (UTC).
        grid : WCS, optional
            World coordinates that positions in pixels belong to; by default the frame's own.

        Raises
        ------
        ConfigError
            For positions on the sky and a frame whose coordinates are relative.
        """
        a, b = self.at(mjd)
        unknown = np.full(len(self), np.nan)
        if self.celestial:
            if not wcs.has_celestial:
                raise ConfigError(
                    "positions on the sky need frames with a solution on the sky; "
                    "give x, y on the field's grid"
                )
            x, y = _finite(wcs.all_world2pix, a, b)
            return x, y, a, b
        if grid is None:
            return a, b, unknown, unknown
        from skymill.resample import pixel_to_pixel

        x, y = _finite(lambda u, v, _: pixel_to_pixel(grid, u, v, wcs), a, b)
        if wcs.has_celestial:
            return x, y, *_finite(wcs.all_pix2world, x, y)
        return x, y, unknown, unknown


def read_positions(path: str | Path) -> Positions:
    """Read positions from a CSV, ECSV, FITS, VOTable or Parquet table.

    Raises
    ------
    ConfigError
        If the file cannot be read or lacks columns (see `Positions.from_table`).
    """
    from astropy.table import Table

    path = Path(path)
    kind = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".dat": "ascii", ".txt": "ascii"}
    try:
        table = Table.read(path, format=kind.get(path.suffix.lower()))
    except Exception as error:
        raise ConfigError(f"positions {path.name} cannot be read: {error}") from error
    return Positions.from_table(table, path.name)


def _finite(convert: Any, a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Convert what is finite; the rest stays NaN."""
    out = np.full((2, a.size), np.nan)
    there = np.isfinite(a) & np.isfinite(b)
    if there.any():
        out[:, there] = convert(a[there], b[there], 0)
    return out[0], out[1]


def _interpolate(
    a: Floats, b: Floats, times: Floats, mjd: float, celestial: bool
) -> tuple[float, float]:
    from scipy.interpolate import CubicSpline

    if celestial:
        ra, dec = np.radians(a), np.radians(b)
        points = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    else:
        points = np.stack([a, b], axis=1)
    if times.size == 1:
        vector = points[0]
    elif times.size >= 4:
        vector = CubicSpline(times - times[0], points)(mjd - times[0])
    else:
        k = min(int(np.searchsorted(times, mjd, side="right")) - 1, times.size - 2)
        part = (mjd - times[k]) / (times[k + 1] - times[k])
        vector = _between(points[k], points[k + 1], part, celestial)
    if not celestial:
        return float(vector[0]), float(vector[1])
    x, y, z = vector / np.sqrt((vector**2).sum())
    angle = float(np.degrees(np.arctan2(y, x)))
    angle = angle + 360 if angle < -1e-12 else max(angle, 0.0)
    return angle, float(np.degrees(np.arctan2(z, np.hypot(x, y))))


def _between(p: Floats, q: Floats, part: float, celestial: bool) -> Floats:
    """Point between two: on the great circle at constant speed, or on the line."""
    if celestial:
        angle = 2 * np.arcsin(min(0.5 * float(np.sqrt(((q - p) ** 2).sum())), 1.0))
        if angle > 1e-9:
            weights = np.sin((1 - part) * angle), np.sin(part * angle)
            return np.asarray((weights[0] * p + weights[1] * q) / np.sin(angle))
    return np.asarray(p + part * (q - p))


def _numbers(column: Any) -> Floats:
    out = np.full(len(column), np.nan)
    for i, value in enumerate(column):
        try:
            out[i] = float(value)
        except (TypeError, ValueError):
            continue
    return out


def _degrees(column: Any, *, hours: bool = False) -> Floats:
    """Degrees; sexagesimal words are hours for right ascensions."""
    from astropy.coordinates import Angle

    out = _numbers(column)
    for i in np.flatnonzero(~np.isfinite(out)):
        try:
            out[i] = Angle(str(column[i]), unit="hourangle" if hours else "deg").deg
        except (ValueError, TypeError):
            continue
    return out
