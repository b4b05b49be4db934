"""Local reference catalogues: positions, magnitudes and their errors.

CSV, ECSV, FITS tables, VOTables and Parquet are read; columns are recognised by name
or named in a column map. Bands that are not listed are derived from colours
(``R = V - (V-R)``). A star without an error gets a stated one, never infinite weight.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from astropy.table import Table
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["RefCatalog", "read_catalog"]

#: Photometric bands that are recognised by name. Case counts: r is not R.
BANDS = (
    *("U", "B", "V", "R", "I", "Rc", "Ic", "u", "g", "r", "i", "z", "y", "w"),
    *("up", "gp", "rp", "ip", "zp", "Y", "Z", "J", "H", "K", "Ks"),
    *("G", "BP", "RP", "BT", "VT", "W1", "W2", "W3", "W4", "L", "Lum", "Clear"),
)

_ALIASES = {"phot_g_mean": "G", "phot_bp_mean": "BP", "phot_rp_mean": "RP", "Gmag": "G"}
_RA = ("ra", "raj2000", "ra_icrs", "ra_deg", "_raj2000", "alpha_j2000", "ramean", "raicrs")
_DEC = (
    *("dec", "de", "dej2000", "decj2000", "de_icrs", "dec_icrs", "dec_deg", "_dej2000"),
    *("delta_j2000", "decmean", "deicrs", "dedeg"),
)
_NAME = ("name", "star", "id", "source_id", "designation", "identifier", "object", "source")
_PMRA = ("pmra", "pm_ra", "pmra_cosdec")
_PMDEC = ("pmdec", "pm_dec", "pmde")
_EPOCH = ("ref_epoch", "epoch")

#: Magnitudes outside are blanks written as numbers (99.999, -999).
_MAG_RANGE = (-30.0, 50.0)

_READERS = {
    **dict.fromkeys((".csv",), "ascii.csv"),
    **dict.fromkeys((".ecsv",), "ascii.ecsv"),
    **dict.fromkeys((".fits", ".fit", ".fts"), "fits"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".vot", ".votable", ".xml"), "votable"),
}


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
        step = np.radians((year - self.epoch) / 3.6e6)
        lon, lat = np.radians(self.ra), np.radians(self.dec)
        zero = np.zeros_like(lon)
        east = np.stack([-np.sin(lon), np.cos(lon), zero], axis=1)
        north = np.stack(
            [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=1
        )
        moved = _unit(self.ra, self.dec) + step * (
            np.nan_to_num(self.pmra)[:, None] * east + np.nan_to_num(self.pmdec)[:, None] * north
        )
        moved /= np.sqrt((moved**2).sum(axis=1))[:, None]
        return replace(
            self,
            ra=np.degrees(np.arctan2(moved[:, 1], moved[:, 0])) % 360,
            dec=np.degrees(np.arcsin(np.clip(moved[:, 2], -1, 1))),
            epoch=year,
        )


def _unit(ra: Floats, dec: Floats) -> Floats:
    lon, lat = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def read_catalog(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
) -> RefCatalog:
    """Read a reference catalogue.

    Parameters
    ----------
    path : str or Path
        CSV, ECSV, FITS, VOTable or Parquet file, by its suffix.
    columns : mapping, optional
        Column by meaning, where the names are not recognised: ``ra``, ``dec``,
        ``name``, ``pmra``, ``pmdec``, ``epoch``, a band (``V``) or its error (``e_V``).

    Returns
    -------
    RefCatalog

    Raises
    ------
    ConfigError
        If the file cannot be read, or positions are not found in it.
    """
    table = _open(Path(path))
    chosen = dict(columns or {})
    missing = [value for value in chosen.values() if value not in table.colnames]
    if missing:
        raise ConfigError(
            f"catalogue {Path(path).name}: no column {missing[0]!r} (it has {_listed(table)})"
        )
    ra = _angle(table, _column(table, chosen, "ra", _RA, path), hours=True)
    dec = _angle(table, _column(table, chosen, "dec", _DEC, path), hours=False)
    good = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
    mags, errs, derived = _photometry(table, chosen)
    epoch_column = chosen.get("epoch") or _first(table, _EPOCH)
    motions = [
        _numbers(table, column) if column else None
        for column in (
            chosen.get("pmra") or _first(table, _PMRA),
            chosen.get("pmdec") or _first(table, _PMDEC),
        )
    ]
    epochs = _numbers(table, epoch_column) if epoch_column else np.zeros(0)
    epochs = epochs[np.isfinite(epochs)]
    name_column = chosen.get("name") or _first(table, _NAME)
    names = (
        np.array([str(v).strip() for v in table[name_column]], dtype=str)
        if name_column
        else np.array([f"{a:.5f}{d:+.5f}" for a, d in zip(ra, dec, strict=True)], dtype=str)
    )
    whole = RefCatalog(
        Path(path).name,
        ra % 360,
        dec,
        names if len(names) else np.zeros(0, "U1"),
        mags,
        errs,
        pmra=motions[0],
        pmdec=motions[1],
        epoch=float(np.median(epochs)) if len(epochs) else 2000.0,
        derived=derived,
    )
    return whole.take(np.flatnonzero(good))


def _open(path: Path) -> Table:
    from astropy.table import Table

    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"catalogue {path.name}: the suffix tells no format, use one of "
            f"{', '.join(sorted(_READERS))}"
        )
    options: dict[str, Any] = {"comment": "#"} if reader == "ascii.csv" else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Table.read(path, format=reader, **options)
    except FileNotFoundError:
        raise ConfigError(f"catalogue {path.name}: there is no such file") from None
    # Every reader has its own exceptions for damaged files.
    except Exception as error:
        raise ConfigError(
            f"catalogue {path.name}: cannot be read as {reader}: {type(error).__name__}: {error}"
        ) from error


def _listed(table: Table) -> str:
    return ", ".join(table.colnames[:30])


def _first(table: Table, names: tuple[str, ...]) -> str | None:
    lower = {column.lower(): column for column in reversed(table.colnames)}
    return next((lower[name] for name in names if name in lower), None)


def _column(
    table: Table, chosen: Mapping[str, str], meaning: str, names: tuple[str, ...], path: Any
) -> str:
    found = chosen.get(meaning) or _first(table, names)
    if found is None:
        raise ConfigError(
            f"catalogue {Path(path).name}: no column for {meaning} among {_listed(table)}; "
            f"rename the one that holds it to {meaning}"
        )
    return found


def _numbers(table: Table, column: str) -> Floats:
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


def _angle(table: Table, column: str, *, hours: bool) -> Floats:
    """Return an angle in degree: numbers in their unit, text in sexagesimal notation.

    Sexagesimal right ascensions are hours. Plain numbers are degrees unless the column
    has another unit.
    """
    values = table[column]
    unit = str(values.unit or "").strip().lower()
    if values.dtype.kind in "iuf":
        factor = 15.0 if unit in ("h", "hr", "hour", "hourangle") else 1.0
        factor = np.degrees(1.0) if unit == "rad" else factor
        return _numbers(table, column) * factor
    out = np.full(len(values), np.nan)
    for i, text in enumerate(values):
        out[i] = _sexagesimal(str(text), hours=hours)
    return out


def _sexagesimal(text: str, *, hours: bool) -> float:
    """Return degrees for ``12:34:56.7``, ``12 34 56.7``, ``12h34m56.7s`` or ``188.73``."""
    words = [word for word in re.split(r"[:\shdms'\"°]+", text.strip().lower()) if word]
    try:
        parts = [float(word) for word in words]
    except ValueError:
        return float("nan")
    if not parts or len(parts) > 3 or any(part < 0 for part in parts[1:]):
        return float("nan")
    value = sum(abs(part) / 60**i for i, part in enumerate(parts))
    value *= 15.0 if hours and len(parts) > 1 else 1.0
    return -value if words[0].startswith("-") else value


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


def _photometry(
    table: Table, chosen: Mapping[str, str]
) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, str]]:
    """Collect magnitudes, and derive the bands that colours give."""
    mags: dict[str, Floats] = {}
    errs: dict[str, Floats] = {}
    for column in table.colnames:
        band = _band_of(column, _FORMS)
        if band and band not in mags:
            mags[band] = _magnitudes(table, column)
    for column in table.colnames:
        band = _band_of(column, _ERROR_FORMS)
        if band and band not in errs:
            errs[band] = _numbers(table, column)
    taken = {"ra", "dec", "name", "pmra", "pmdec", "epoch"}
    for meaning, column in chosen.items():
        if meaning.startswith("e_"):
            errs[meaning[2:]] = _numbers(table, column)
        elif meaning not in taken:
            mags[meaning] = _magnitudes(table, column)
    for band, values in mags.items():
        errs[band] = _error(values, errs.get(band))
    errs = {band: errs[band] for band in mags}
    return mags, errs, _derive(table, mags, errs)


def _magnitudes(table: Table, column: str) -> Floats:
    values = _numbers(table, column)
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
            error = next((_numbers(table, name) for name in names if name in table.colnames), None)
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
