"""Local reference catalogues: positions, magnitudes and their errors.

CSV, ECSV, FITS tables, VOTables and Parquet are read; columns are recognised by name
or named in a column map. Bands that are not listed are derived from colours
(``R = V - (V-R)``). A star without an error gets a stated one, never infinite weight.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.catalog_bands import photometry
from skymill.catalog_columns import epochs, find_column, names, positions, proper_motions
from skymill.catalog_tables import Region, open_table
from skymill.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["RefCatalog", "Region", "as_table", "from_table", "join", "read_catalog"]

#: Stars closer than this are one that was listed twice (degree; 4 mas).
_SAME_DEG = 1e-6


@dataclass(frozen=True, eq=False)
class RefCatalog:
    """Reference stars.

    Parameters
    ----------
    label : str
        Name of the catalogue (that of its file).
    ra, dec : ndarray of float64, shape (n,)
        Position in degree (ICRS or J2000) at ``epoch``.
    name : ndarray of str, shape (n,)
        Names of the stars.
    mags, errs : dict of ndarray of float64, shape (n,)
        Magnitudes and their errors by band. NaN where not measured or not given: ask
        `band`, which never returns a star of unknown error with infinite weight.
    pmra, pmdec : ndarray of float64, shape (n,), or None
        Proper motion in mas/yr, pmra with cos(dec); NaN counts as zero.
    epoch : float
        Year of the positions.
    derived : dict of str
        How a band was made, for those that are not columns of the file.
    n_rows, n_duplicates : int
        Rows of the file, and how many of those that were read stood there twice.
    """

    label: str
    ra: Floats
    dec: Floats
    name: NDArray[np.str_]
    mags: Mapping[str, Floats] = field(default_factory=dict)
    errs: Mapping[str, Floats] = field(default_factory=dict)
    pmra: Floats | None = None
    pmdec: Floats | None = None
    epoch: float = 2000.0
    derived: Mapping[str, str] = field(default_factory=dict)
    n_rows: int = 0
    n_duplicates: int = 0

    def __len__(self) -> int:
        return len(self.ra)

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands in order of their names."""
        return tuple(sorted(self.mags))

    def find_band(self, name: str) -> str | None:
        """Return the band of this name: as written, else regardless of case if only one fits."""
        if name in self.mags:
            return name
        same = [band for band in self.mags if band.lower() == name.lower()]
        return same[0] if len(same) == 1 else None

    def band(self, name: str, missing_error_mag: float = 0.03) -> tuple[Floats, Floats]:
        """Return magnitudes and errors of a band, each of shape (n,).

        Parameters
        ----------
        name : str
            Band; regardless of case if only one fits.
        missing_error_mag : float
            Error of magnitudes that come without one, with zero or with a negative one.

        Raises
        ------
        KeyError
            If the catalogue does not have the band.
        """
        found = self.find_band(name)
        if found is None:
            raise KeyError(f"catalogue {self.label} has no band {name!r}, only {self.bands}")
        mag, err = self.mags[found], self.errs[found]
        err = np.where(np.isfinite(err), err, missing_error_mag)
        return mag, np.where(np.isfinite(mag), err, np.nan)

    def take(self, index: Any) -> RefCatalog:
        """Return the stars of an index or boolean array."""

        def pick(values: Floats | None) -> Floats | None:
            return None if values is None else values[index]

        return replace(
            self,
            ra=self.ra[index],
            dec=self.dec[index],
            name=self.name[index],
            mags={key: value[index] for key, value in self.mags.items()},
            errs={key: value[index] for key, value in self.errs.items()},
            pmra=pick(self.pmra),
            pmdec=pick(self.pmdec),
        )

    def near(self, ra: float, dec: float, radius_deg: float) -> RefCatalog:
        """Return the stars within a radius of a position (correct at RA 0 h and the poles)."""
        centre = _unit(np.array([ra]), np.array([dec]))[0]
        chord = 2 * np.sin(np.radians(min(radius_deg, 180.0)) / 2)
        distance2 = ((_unit(self.ra, self.dec) - centre) ** 2).sum(axis=1)
        return self.take(np.flatnonzero(distance2 <= chord**2))

    def at_mjd(self, mjd: float | None) -> RefCatalog:
        """Return the catalogue as `at_epoch` at a date; as it is if that is not known."""
        if mjd is None or not np.isfinite(mjd):
            return self
        return self.at_epoch(2000.0 + (mjd - 51544.5) / 365.25)

    def at_epoch(self, year: float) -> RefCatalog:
        """Return the catalogue with its positions moved to a year by proper motion.

        The star moves along the great circle of its proper motion, so that poles and
        RA 0 h need no care. Stars without a proper motion stay.
        """
        if self.pmra is None or self.pmdec is None:
            return self
        ra, dec = _moved(self.ra, self.dec, self.pmra, self.pmdec, year - self.epoch)
        return replace(self, ra=ra, dec=dec, epoch=year)


def _moved(
    ra: Floats, dec: Floats, pmra: Floats, pmdec: Floats, years: Floats | float
) -> tuple[Floats, Floats]:
    """Move stars along the great circles of their proper motions (mas/yr); NaN counts as 0."""
    step = np.radians(np.broadcast_to(years, ra.shape) / 3.6e6)[:, None]
    lon, lat = np.radians(ra), np.radians(dec)
    zero = np.zeros_like(lon)
    east = np.stack([-np.sin(lon), np.cos(lon), zero], axis=1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=1)
    moved = _unit(ra, dec) + step * (
        np.nan_to_num(pmra)[:, None] * east + np.nan_to_num(pmdec)[:, None] * north
    )
    moved /= np.sqrt((moved**2).sum(axis=1))[:, None]
    return (
        np.degrees(np.arctan2(moved[:, 1], moved[:, 0])) % 360,
        np.degrees(np.arcsin(np.clip(moved[:, 2], -1, 1))),
    )


def _unit(ra: Floats, dec: Floats) -> Floats:
    lon, lat = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def read_catalog(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    region: Region | None = None,
) -> RefCatalog:
    """Read a reference catalogue.

    Parameters
    ----------
    path : str or Path
        CSV, ECSV, FITS, VOTable or Parquet file, by its suffix.
    columns : mapping, optional
        Column by meaning, where the names are not recognised: ``ra`` or ``ra_hours``,
        ``dec``, ``name``, ``pmra`` (with cos(dec)) or ``pmra_coordinate`` (without),
        ``pmdec``, ``epoch``, a band (``V``) or its error (``e_V``).
    region : Region, optional
        Only its stars; the file may be larger than the memory (Parquet, FITS).

    Returns
    -------
    RefCatalog
        Stars with a position, each once, at one epoch.

    Raises
    ------
    ConfigError
        If the file cannot be read, is empty, or positions are not found in it.
    """
    path = Path(path)
    chosen = dict(columns or {})
    stored = _stored(path)
    if stored is not None:
        return stored if region is None else stored.near(region.ra, region.dec, region.radius_deg)
    table, total = open_table(path, chosen, region)
    found = from_table(table, path.name, chosen)
    if not total:
        raise ConfigError(f"catalogue {path.name}: the table has no row")
    if not len(found) and len(table):
        raise ConfigError(f"catalogue {path.name}: no row has a position that can be read")
    found = replace(found, n_rows=total)
    return found if region is None else found.near(region.ra, region.dec, region.radius_deg)


def from_table(
    table: Table, label: str, columns: Mapping[str, str] | None = None, epoch: float = 2000.0
) -> RefCatalog:
    """Return a table as a catalogue; see `read_catalog`.

    Parameters
    ----------
    table : Table
        Rows with positions.
    label : str
        Name of the catalogue.
    columns : mapping, optional
        Column by meaning.
    epoch : float
        Year of positions that come without one.

    Raises
    ------
    ConfigError
        If positions are not found, or columns of the map do not exist.
    """
    chosen = dict(columns or {})
    missing = [value for value in chosen.values() if value not in table.colnames]
    if missing:
        raise ConfigError(
            f"catalogue {label}: no column {missing[0]!r} (it has {', '.join(table.colnames[:30])})"
        )
    ra, dec = positions(table, chosen, label)
    good = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
    motion = proper_motions(table, chosen, dec, label)
    years = epochs(table, chosen, label)
    if years is not None and np.isfinite(years).any():
        epoch = float(np.median(years[np.isfinite(years)]))
        if motion is not None:  # stars of different epochs are brought to that of most
            span = np.where(np.isfinite(years) & good, epoch - years, 0.0)
            moved = _moved(np.nan_to_num(ra), np.nan_to_num(dec), *motion, span)
            ra, dec = (
                np.where(span != 0, new, old) for new, old in zip(moved, (ra, dec), strict=True)
            )
    mags, errs, derived = photometry(table, chosen)
    column = find_column(table.colnames, chosen, "name")
    title = (
        names(table, column)
        if column
        else np.array([f"{a:.5f}{d:+.5f}" for a, d in zip(ra, dec, strict=True)], dtype=np.str_)
    )
    whole = RefCatalog(
        label,
        ra,
        dec,
        title if len(title) else np.zeros(0, "U1"),
        mags,
        errs,
        pmra=None if motion is None else motion[0],
        pmdec=None if motion is None else motion[1],
        epoch=epoch,
        derived=derived,
        n_rows=len(table),
    )
    return _once(whole.take(np.flatnonzero(good)))


def _once(catalog: RefCatalog) -> RefCatalog:
    """Leave out rows that repeat the position of another; the one with more bands stays.

    Doubles that are wider than the rounding of a catalogue are stars of their own.
    """
    key = np.stack([np.round(v / _SAME_DEG).astype(np.int64) for v in (catalog.ra, catalog.dec)])
    bands = sum((np.isfinite(v).astype(int) for v in catalog.mags.values()), 0)
    rank = np.broadcast_to(-np.asarray(bands), catalog.ra.shape)
    order = np.lexsort((np.arange(len(catalog)), rank, key[1], key[0]))
    sorted_key = key[:, order]
    first = np.ones(len(catalog), bool)
    first[1:] = (sorted_key[:, 1:] != sorted_key[:, :-1]).any(axis=0)
    kept = np.sort(order[first])
    return replace(catalog.take(kept), n_duplicates=int(len(catalog) - len(kept)))


def join(catalogs: list[RefCatalog]) -> RefCatalog:
    """Return the stars of several parts of one catalogue, each once.

    Parameters
    ----------
    catalogs : list of RefCatalog
        Parts with the same bands and the same epoch, at least one.
    """
    first = catalogs[0]

    def all_of(values: list[Any]) -> Any:
        return None if any(v is None for v in values) else np.concatenate(values)

    whole = replace(
        first,
        ra=all_of([c.ra for c in catalogs]),
        dec=all_of([c.dec for c in catalogs]),
        name=all_of([c.name for c in catalogs]),
        mags={band: all_of([c.mags[band] for c in catalogs]) for band in first.mags},
        errs={band: all_of([c.errs[band] for c in catalogs]) for band in first.errs},
        pmra=all_of([c.pmra for c in catalogs]),
        pmdec=all_of([c.pmdec for c in catalogs]),
    )
    return _once(whole)


#: Key of the facts of a table that holds a catalogue as skymill writes it.
_MARK = "reference_catalog"


def as_table(catalog: RefCatalog) -> Table:
    """Return a catalogue as a table, for `skymill.io.write_table`; `read_catalog` reads it.

    Columns are ra, dec (degree), name, pmra, pmdec (mas/yr) and, by band, ``mag_V`` and
    ``err_V`` (mag), NaN where unknown; the facts hold label, epoch and derived bands.
    """
    from astropy.table import Column, Table

    table = Table()
    table["ra"] = Column(catalog.ra, unit="deg", description="right ascension")
    table["dec"] = Column(catalog.dec, unit="deg", description="declination")
    table["name"] = Column(catalog.name, description="name of the star", dtype=str)
    for name, values in (("pmra", catalog.pmra), ("pmdec", catalog.pmdec)):
        if values is not None:
            text = "proper motion along the great circle"
            table[name] = Column(values, unit="mas / yr", description=text)
    for band in catalog.mags:
        table[f"mag_{band}"] = Column(catalog.mags[band], unit="mag", description=f"{band}")
        text = f"error of {band}, NaN where not given"
        table[f"err_{band}"] = Column(catalog.errs[band], unit="mag", description=text)
    table.meta[_MARK] = {
        "label": catalog.label,
        "epoch": catalog.epoch,
        "bands": list(catalog.mags),
        "derived": dict(catalog.derived),
        "n_rows": catalog.n_rows,
        "n_duplicates": catalog.n_duplicates,
    }
    return table


def _stored(path: Path) -> RefCatalog | None:
    """Return a catalogue that skymill wrote; None if the file is another one."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    from skymill import io

    try:
        facts = json.loads((pq.read_schema(path).metadata or {}).get(b"skymill", b"{}"))
    except pa.ArrowInvalid:
        return None  # the reader of the format says what is wrong
    about = facts.get(_MARK)
    if about is None:
        return None
    table = io.read_table(path)
    return RefCatalog(
        about["label"],
        np.asarray(table["ra"], dtype=float),
        np.asarray(table["dec"], dtype=float),
        np.asarray(table["name"], dtype=np.str_),
        {band: np.asarray(table[f"mag_{band}"], dtype=float) for band in about["bands"]},
        {band: np.asarray(table[f"err_{band}"], dtype=float) for band in about["bands"]},
        pmra=np.asarray(table["pmra"], dtype=float) if "pmra" in table.colnames else None,
        pmdec=np.asarray(table["pmdec"], dtype=float) if "pmdec" in table.colnames else None,
        epoch=float(about["epoch"]),
        derived=about["derived"],
        n_rows=int(about["n_rows"]),
        n_duplicates=int(about["n_duplicates"]),
    )
