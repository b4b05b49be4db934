"""Opening the file of a reference catalogue, of a large one only what lies near a field.

A Parquet file is read by row groups whose declinations (and right ascensions) overlap the
field, a large FITS table through the page cache, only the rows near the field. Text and
VOTable files are read whole: catalogues of the whole sky belong into Parquet or FITS.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.catalog_columns import find_column
from skymill.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from astropy.table import Table
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Region", "open_table", "region_of"]

READERS = {
    **dict.fromkeys((".csv",), "ascii.csv"),
    **dict.fromkeys((".ecsv",), "ascii.ecsv"),
    **dict.fromkeys((".fits", ".fit", ".fts"), "fits"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".vot", ".votable", ".xml"), "votable"),
}

#: FITS tables above (byte) are read through the page cache.
LARGE_FITS = 50_000_000
#: Rows of a large FITS table looked at in one go.
_ROWS = 1 << 20


@dataclass(frozen=True)
class Region:
    """A circle on the sky.

    Parameters
    ----------
    ra, dec, radius_deg : float
        Centre (ICRS) and radius in degree.
    """

    ra: float
    dec: float
    radius_deg: float

    def contains(self, other: Region) -> bool:
        """Return True if another circle lies inside."""
        away = separation_deg(self.ra, self.dec, other.ra, other.dec)
        return away + other.radius_deg <= self.radius_deg + 1e-9

    def rounded(self) -> Region:
        """Return a circle on a grid of 0.01 degree that contains this one.

        Fields that differ by a little then ask for the same stars, and the name of a cached
        answer does not depend on the last digits of a pointing.
        """
        ra, dec = round(self.ra, 2) % 360, round(self.dec, 2)
        away = separation_deg(self.ra, self.dec, ra, dec)
        return Region(ra, dec, math.ceil((self.radius_deg + away) * 100 - 1e-6) / 100)

    def boxes(self) -> tuple[tuple[float, float], list[tuple[float, float]]]:
        """Return the range of declinations, and the ranges of right ascensions (degree)."""
        low, high = self.dec - self.radius_deg, self.dec + self.radius_deg
        if low <= -90 or high >= 90:
            return (max(low, -90.0), min(high, 90.0)), [(0.0, 360.0)]
        sine = math.sin(math.radians(self.radius_deg)) / math.cos(math.radians(self.dec))
        half = math.degrees(math.asin(min(1.0, sine))) + 1e-9
        one, two = self.ra - half, self.ra + half
        if one < 0:
            return (low, high), [(0.0, two), (one + 360, 360.0)]
        if two > 360:
            return (low, high), [(one, 360.0), (0.0, two - 360)]
        return (low, high), [(one, two)]

    def inside(self, ra: Floats, dec: Floats) -> NDArray[np.bool_]:
        """Return which positions (degree) lie in the circle; those that are NaN do not."""
        away = separation_deg(self.ra, self.dec, ra, dec)
        return np.asarray(away <= self.radius_deg, dtype=bool)


def separation_deg(ra1: float, dec1: float, ra2: Any, dec2: Any) -> Any:
    """Return the angle between positions in degree (haversine, right at small angles)."""
    lon1, lat1 = np.radians(ra1), np.radians(dec1)
    lon2, lat2 = np.radians(ra2), np.radians(dec2)
    a = np.sin((lat2 - lat1) / 2) ** 2
    a = a + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(np.clip(a, 0, 1))))


def region_of(points: Iterable[tuple[float, float]], margin_deg: float) -> Region | None:
    """Return a circle around points of the sky, widened by a margin; None without points.

    Parameters
    ----------
    points : iterable of tuple
        Right ascension and declination in degree.
    margin_deg : float
        Added to the radius.
    """
    xy = np.array(list(points), dtype=np.float64).reshape(-1, 2)
    xy = xy[np.isfinite(xy).all(axis=1)]
    if not len(xy):
        return None
    lon, lat = np.radians(xy[:, 0]), np.radians(xy[:, 1])
    unit = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    # The middle of the extremes, not the mean: many frames of one corner do not pull it.
    middle = (unit.min(axis=0) + unit.max(axis=0)) / 2
    middle /= np.sqrt((middle**2).sum()) or 1.0
    ra = math.degrees(math.atan2(middle[1], middle[0])) % 360
    dec = math.degrees(math.asin(max(-1.0, min(1.0, middle[2]))))
    away = separation_deg(ra, dec, xy[:, 0], xy[:, 1])
    return Region(ra, dec, float(away.max()) + margin_deg)


def open_table(path: Path, chosen: Mapping[str, str], region: Region | None) -> tuple[Table, int]:
    """Read a catalogue.

    Parameters
    ----------
    path : Path
        The file; its suffix tells the format.
    chosen : mapping
        Column map, for the names of the positions.
    region : Region or None
        Rows far from it may be left out; those that are read may still lie outside.

    Returns
    -------
    table : Table
        The rows.
    total : int
        Number of rows of the file.

    Raises
    ------
    ConfigError
        If the file does not exist, its format is not known, or it is damaged.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"catalogue {path.name}: the suffix tells no format, use one of "
            f"{', '.join(sorted(READERS))}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if reader == "parquet":
                return _parquet(path, chosen, region)
            if reader == "fits" and region is not None and path.stat().st_size > LARGE_FITS:
                return _large_fits(path, chosen, region)
            return _whole(path, reader)
    except FileNotFoundError:
        raise ConfigError(f"catalogue {path.name}: there is no such file") from None
    except ConfigError:
        raise
    # Every reader has its own exceptions for damaged files.
    except Exception as error:
        raise ConfigError(
            f"catalogue {path.name}: cannot be read as {reader}: {type(error).__name__}: {error}"
        ) from error


def _whole(path: Path, reader: str) -> tuple[Table, int]:
    from astropy.table import Table

    options: dict[str, Any] = {"comment": "#"} if reader == "ascii.csv" else {}
    table = Table.read(path, format=reader, **options)
    return table, len(table)


def _large_fits(path: Path, chosen: Mapping[str, str], region: Region) -> tuple[Table, int]:
    from astropy.table import Table, vstack

    whole = Table.read(path, format="fits", memmap=True, mask_invalid=False)
    columns = [find_column(whole.colnames, chosen, meaning) for meaning in ("ra", "dec")]
    if None in columns or any(whole[c].dtype.kind not in "iuf" for c in columns):
        return _whole(path, "fits")  # positions as text: nothing to choose by
    unit = str(whole[columns[0]].unit or "").strip().lower()
    if unit not in ("", "deg", "degree", "degrees"):
        return _whole(path, "fits")
    kept = []
    for start in range(0, len(whole), _ROWS):
        part = whole[start : start + _ROWS]
        ra, dec = (np.asarray(part[c], dtype=np.float64) for c in columns)
        kept.append(part[np.flatnonzero(region.inside(ra, dec))])
    return vstack(kept, metadata_conflicts="silent"), len(whole)


def _parquet(path: Path, chosen: Mapping[str, str], region: Region | None) -> tuple[Table, int]:
    import pyarrow.parquet as pq
    from astropy.table import Column, MaskedColumn, Table

    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        units = _parquet_units(schema)
        groups = list(range(file.metadata.num_row_groups))
        if region is not None:
            groups = _near(file.metadata, groups, schema.names, units, chosen, region)
        data = file.read_row_groups(groups)
        total = int(file.metadata.num_rows)
    columns: list[Any] = []
    for index, name in enumerate(schema.names):
        if name.endswith(".mask") and name.removesuffix(".mask") in schema.names:
            continue  # astropy keeps the mask of a column beside it
        chunk = data.column(index)
        bad = np.asarray(chunk.is_null())
        if f"{name}.mask" in schema.names:
            beside = data.column(schema.names.index(f"{name}.mask"))
            bad = bad | np.asarray(beside.fill_null(True), dtype=bool)
        if "string" in str(chunk.type) or "binary" in str(chunk.type):
            values = np.array([_text(value) for value in chunk.to_pylist()] or [], dtype=str)
            values[bad] = ""
        else:
            values = np.array(chunk.fill_null(0).to_numpy() if chunk.null_count else chunk)
        is_text = values.dtype.kind == "U"
        more = {} if is_text or not bad.any() else {"mask": bad}
        make = MaskedColumn if more else Column
        columns.append(make(values, name=name, unit=units.get(name), **more))
    return Table(columns), total


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _parquet_units(schema: Any) -> dict[str, str]:
    """Units as skymill writes them, or as astropy does."""
    found = {}
    for item in schema:
        if item.metadata and b"unit" in item.metadata:
            found[item.name] = item.metadata[b"unit"].decode()
    text = (schema.metadata or {}).get(b"table_meta_yaml")
    if text:
        from astropy.table import meta

        header = meta.get_header_from_yaml(text.decode().split("\n"))
        for column in header["datatype"]:
            if column.get("unit"):
                found[column["name"]] = str(column["unit"])
    return found


def _near(
    metadata: Any,
    groups: list[int],
    columns: list[str],
    units: Mapping[str, str],
    chosen: Mapping[str, str],
    region: Region,
) -> list[int]:
    """Row groups that can hold stars of a region, by their statistics."""
    names = [find_column(columns, chosen, meaning) for meaning in ("ra", "dec")]
    (low, high), ranges = region.boxes()
    wanted = (ranges, [(low, high)])
    out = []
    for group in groups:
        keep = True
        for name, limits in zip(names, wanted, strict=True):
            if name is None or str(units.get(name, "deg")) not in ("deg", "degree"):
                continue
            part = metadata.row_group(group).column(columns.index(name)).statistics
            if part is None or not part.has_min_max or isinstance(part.min, str | bytes):
                continue
            near = any(part.min <= end and part.max >= start for start, end in limits)
            # Right ascensions of -180 to 180 degree count from another zero: not judged.
            keep &= near or (part.min < 0 and limits is ranges)
        if keep:
            out.append(group)
    return out
