"""The light curves of a field, as a reduction left them, ready for analysis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.curves.series import Series
from skymill.errors import ConfigError
from skymill.steps.ensemble import differential_flux
from skymill.steps.lightcurve_sources import find_sources
from skymill.steps.photometry import PhotFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.table import Table
    from numpy.typing import NDArray

    from skymill.curves.correlation import Correlation
    from skymill.curves.frequencies import Periodogram, PowerSpectrum

__all__ = ["LightCurves", "open_lightcurves"]

Source = int | str | tuple[float, float]
_ERRORS = {"mag_epd": ("mag_fit_err", "mag_err"), "mag_tfa": ("mag_fit_err", "mag_err")}


def open_lightcurves(place: str | Path, field: str | None = None) -> LightCurves:
    """Open the light curves of a reduction.

    Parameters
    ----------
    place : str or Path
        Folder of a project, its folder of results, or a table of light curves.
    field : str, optional
        The field, or the beginning of its name, where there are several.

    Returns
    -------
    LightCurves

    Raises
    ------
    ConfigError
        If there are no light curves, or several fields and none was named.
    """
    from skymill import io

    path = Path(place)
    if path.is_dir():
        path = _table_of(path, field)
    elif not path.is_file():
        raise ConfigError(f"light curves: {path} does not exist")
    folder, name = path.parent, path.stem
    parts = {}
    for part in ("statistics", "sources", "frames"):
        file = folder / part / path.name
        if not file.is_file():
            raise ConfigError(f"light curves: {part}/{path.name} is missing beside {path.name}")
        parts[part] = io.read_table(file)
    return LightCurves(io.read_table(path), **parts, field=name)


def _table_of(folder: Path, field: str | None) -> Path:
    for base in (folder / "results" / "lightcurves", folder / "lightcurves", folder):
        found = sorted(base.glob("*.parquet"))
        if found:
            break
    else:
        raise ConfigError(f"light curves: there are none in {folder}")
    chosen = [p for p in found if field is None or p.stem.startswith(field)]
    exact = [p for p in chosen if p.stem == field]
    if len(exact or chosen) != 1:
        names = ", ".join(p.stem for p in found)
        raise ConfigError(f"light curves: name one field; there are {names}")
    return (exact or chosen)[0]


@dataclass(frozen=True)
class LightCurves:
    """Light curves of the sources of a field.

    Parameters
    ----------
    points : Table
        One row per source, filter and frame.
    statistics : Table
        One row per source and filter.
    sources : Table
        One row per source.
    frames : Table
        One row per frame.
    field : str
        Name of the field.
    """

    points: Table
    statistics: Table
    sources: Table
    frames: Table
    field: str = ""

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        n = len(np.unique(np.asarray(self.points["source"])))
        filters = ", ".join(self.filters)
        return f"<LightCurves {self.field}: {n} sources, {len(self.points)} points in {filters}>"

    @property
    def filters(self) -> tuple[str, ...]:
        """Filters, sorted."""
        return tuple(sorted({str(name) for name in self.points["filter"]}))

    @property
    def good(self) -> NDArray[np.bool_]:
        """Which points have no flag that spoils them."""
        flags = np.asarray(self.points["flags"], np.int64)
        return np.asarray((flags & int(PhotFlag.bad())) == 0)

    def source(self, which: Source) -> int:
        """Return the number of a source given by number, name or position.

        Parameters
        ----------
        which : int, str or (float, float)
            Number, name, ``"ra,dec"``, or a pair of degrees; the nearest source within
            3 arcsec of a position is meant.

        Raises
        ------
        KeyError
            If there is none.
        """
        text = f"{which[0]},{which[1]}" if isinstance(which, tuple) else str(which)
        index, _ = find_sources(self.sources, [text])
        if not index.size:
            raise KeyError(f"no source {text!r} in {self.field or 'the field'}")
        return int(self.sources["source"][int(index[0])])

    def select(
        self,
        source: Source | list[Source] | None = None,
        *,
        filter: str | Sequence[str] | None = None,
        time: tuple[float | None, float | None] | None = None,
        near: tuple[float, float, float] | None = None,
        without: int | None = None,
        good: bool = False,
    ) -> LightCurves:
        """Return a part of the light curves.

        Parameters
        ----------
        source : int, str, pair, or list of these, optional
            See `source`.
        filter : str or sequence of str, optional
            Filters.
        time : (first, last), optional
            Range of bjd_tdb, or of mjd_mid for values below 1e6; None is open.
        near : (x, y, radius), optional
            Pixels of the field's grid.
        without : int, optional
            Leave points with any of these flags out.
        good : bool
            Leave points out that are flagged as bad. The time grids of the sources are
            no longer the same then.
        """
        keep = np.ones(len(self.points), bool)
        number = np.asarray(self.points["source"])
        if source is not None:
            # A tuple is a position; several sources come as a list.
            stars: list[Source] = list(source) if isinstance(source, list) else [source]
            wanted = [self.source(star) for star in stars]
            keep &= np.isin(number, wanted)
        if filter is not None:
            names = [filter] if isinstance(filter, str) else list(filter)
            keep &= np.isin(np.asarray(self.points["filter"]).astype(str), names)
        if near is not None:
            x, y = (np.asarray(self.sources[key], float) for key in ("x", "y"))
            close = np.hypot(x - near[0], y - near[1]) <= near[2]
            keep &= np.isin(number, np.asarray(self.sources["source"])[close])
        if time is not None:
            keep &= self._between(*time)
        if without is not None:
            keep &= (np.asarray(self.points["flags"], np.int64) & without) == 0
        if good:
            keep &= self.good
        return replace(self, points=self.points[keep])

    def _between(self, first: float | None, last: float | None) -> NDArray[np.bool_]:
        given = first if first is not None else last
        name = "mjd_mid" if given is not None and given < 1e6 else "bjd_tdb"
        times = np.asarray(self.points[name], float)
        low = -np.inf if first is None else first
        high = np.inf if last is None else last
        return np.asarray((times >= low) & (times <= high))

    def series(
        self, source: Source | None = None, filter: str | None = None, column: str = "rel_flux"
    ) -> Series:
        """Return the light curve of one source in one filter.

        Parameters
        ----------
        source, filter : optional
            May be left out if only one is left.
        column : str
            rel_flux, flux_corr, flux, diff_flux, mag, mag_fit, mag_epd, mag_tfa, or the
            flux of an aperture as photometry calls it.

        Raises
        ------
        KeyError
            If there is no such source or column.
        ValueError
            If several sources or filters are left.
        """
        part = self
        if source is not None or filter is not None:
            part = self.select(source, filter=filter)
        for name in ("source", "filter"):
            left = sorted({str(value) for value in part.points[name]})
            if len(left) > 1:
                raise ValueError(f"several {name}s are left, name one of {', '.join(left[:12])}")
        if not len(part.points):
            raise KeyError(f"no points of source {source} in filter {filter}")
        table = part.points
        if column not in table.colnames:
            raise KeyError(f"no column {column!r}; there are {', '.join(table.colnames)}")
        error = next(
            (n for n in (f"{column}_err", *_ERRORS.get(column, ())) if n in table.colnames), None
        )
        bjd = np.asarray(table["bjd_tdb"], float)
        scale = "tdb" if np.isfinite(bjd).any() else "utc"
        time = bjd if scale == "tdb" else np.asarray(table["mjd_mid"], float)
        value = np.asarray(table[column], float)
        err = np.asarray(table[error], float) if error else np.full(value.size, np.nan)
        if not np.isfinite(err).any() and column.startswith("mag"):
            # Without a zero point mag has no error; that of the flux is the same.
            flux, noise = (np.asarray(table[n], float) for n in ("flux_corr", "flux_corr_err"))
            with np.errstate(invalid="ignore", divide="ignore"):
                err = 2.5 / np.log(10) * noise / flux
        order = np.argsort(time, kind="stable")
        with np.errstate(invalid="ignore"):
            good = part.good & np.isfinite(value) & np.isfinite(time) & (err > 0)
        unit = table[column].unit
        number, band = table["source"][0], table["filter"][0]
        return Series(
            time[order], value[order], err[order], good[order], scale,
            "" if unit is None else unit.to_string(), f"source {number}, {band}, {column}",
        )  # fmt: skip

    def bin(self, width: float, *, column: str = "rel_flux", **keywords: Any) -> Series:
        """Return the bins of the only curve left, see `Series.bin`."""
        return self.series(column=column).bin(width, **keywords)

    def phase_fold(self, period: float, *, column: str = "rel_flux", **keywords: Any) -> Series:
        """Return the only curve left against phase, see `Series.phase_fold`."""
        return self.series(column=column).phase_fold(period, **keywords)

    def periodogram(self, *, column: str = "rel_flux", **keywords: Any) -> Periodogram:
        """Return the periodogram of the only curve left."""
        return self.series(column=column).periodogram(**keywords)

    def power_spectrum(self, *, column: str = "rel_flux", **keywords: Any) -> PowerSpectrum:
        """Return the averaged power spectrum of the only curve left."""
        return self.series(column=column).power_spectrum(**keywords)

    def cross_correlation(
        self, source: Source, first: str, second: str, *, column: str = "rel_flux", **keywords: Any
    ) -> Correlation:
        """Return the correlation of a source's curves in two filters against lag.

        A positive lag says that the second filter follows the first.
        """
        one, other = (self.series(source, name, column) for name in (first, second))
        return one.cross_correlation(other, **keywords)

    def differential(
        self, target: Source, comparisons: Sequence[Source], *, filter: str | None = None
    ) -> Series:
        """Return the flux of a source over the sum of comparison stars.

        Parameters
        ----------
        target : int, str or pair
            The source.
        comparisons : sequence of these
            The comparison stars. Frames on which one of them is flagged have no value.
        filter : str, optional
            The filter, if there are several.

        Raises
        ------
        KeyError, ValueError
            As `series`; ValueError without a comparison star.
        """
        wanted = [self.source(target), *(self.source(item) for item in comparisons)]
        chosen = list(dict.fromkeys(number for number in wanted[1:] if number != wanted[0]))
        if not chosen:
            raise ValueError("a differential light curve needs a comparison star")
        curves = [self.series(number, filter, "flux") for number in (wanted[0], *chosen)]
        flux, err, good = (
            np.stack([getattr(curve, name) for curve in curves])
            for name in ("value", "err", "good")
        )
        members = np.arange(len(curves)) > 0
        ratio, noise = differential_flux(flux, err, good, members)
        with np.errstate(invalid="ignore"):
            usable = good[0] & (noise[0] > 0)
        label = f"source {wanted[0]} over {', '.join(map(str, chosen))}"
        return replace(curves[0], value=ratio[0], err=noise[0], good=usable, unit="", label=label)

    def comparison_check(
        self, comparisons: Sequence[Source], *, filter: str | None = None
    ) -> Table:
        """Return how constant each comparison star is against the others.

        Returns
        -------
        Table
            source, n, rms_mmag, expected_mmag, chi2 (reduced) of each star's flux over the
            sum of the others, and beta, see `skymill.curves.noise`.

        Raises
        ------
        ValueError
            With fewer than two stars.
        """
        from astropy.table import Table

        from skymill.curves.noise import red_noise

        rows = []
        for star in comparisons:
            others = [item for item in comparisons if self.source(item) != self.source(star)]
            curve = self.differential(star, others, filter=filter).normalised()
            value, err = curve.value[curve.good], curve.err[curve.good]
            n = value.size
            mean = float((value / err**2).sum() / (1 / err**2).sum()) if n else np.nan
            beta, _ = red_noise(np.where(curve.good, curve.value, np.nan)[None, :])
            rows.append(
                {
                    "source": self.source(star),
                    "n": n,
                    "rms_mmag": float(2.5e3 / np.log(10) * value.std(ddof=1)) if n > 1 else np.nan,
                    "expected_mmag": float(2.5e3 / np.log(10) * np.sqrt((err**2).mean()))
                    if n
                    else np.nan,
                    "chi2": float((((value - mean) / err) ** 2).sum() / max(n - 1, 1)),
                    "beta": float(beta[0]),
                }
            )
        return Table(rows=rows)

    def matrix(self, column: str, filter: str | None = None) -> tuple[NDArray[np.int64], Any]:
        """Return the numbers of the sources and a column as sources by frames.

        Raises
        ------
        ValueError
            If the sources no longer share one grid of frames, or several filters are left.
        """
        part = self if filter is None else self.select(filter=filter)
        if len(part.filters) > 1:
            raise ValueError(f"several filters are left, name one of {', '.join(part.filters)}")
        number = np.asarray(part.points["source"])
        unique, counts = np.unique(number, return_counts=True)
        if unique.size and (counts != counts[0]).any():
            raise ValueError("the sources have no common grid of frames; select without good=True")
        order = np.argsort(number, kind="stable")
        values = np.asarray(part.points[column])[order]
        return unique, values.reshape(unique.size, -1)

    def to_pandas(self) -> Any:
        """Return the points as a pandas DataFrame."""
        return self.points.to_pandas(index=False)

    def plot(
        self, ax: Any = None, *, column: str = "rel_flux", offset: float = 0.0, **keywords: Any
    ) -> Any:
        """Draw every curve that is left, each lower by `offset`; return the axes.

        Raises
        ------
        ValueError
            If more than 20 curves are left.
        """
        pairs = sorted({(int(a), str(b)) for a, b in self.points["source", "filter"]})
        if len(pairs) > 20:
            raise ValueError(f"{len(pairs)} curves are left; select at most 20 of them")
        for i, (number, name) in enumerate(pairs):
            curve = self.series(number, name, column)
            moved = replace(curve, value=curve.value - i * offset)
            ax = moved.plot(ax, gaps=i == 0, **keywords)
        if ax is not None and len(pairs) > 1:
            ax.legend(fontsize="small")
            ax.set_ylabel(column)
        return ax
