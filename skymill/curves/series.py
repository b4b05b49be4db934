"""One light curve: times, values and errors of one source in one filter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from skymill.curves.correlation import Correlation
    from skymill.curves.frequencies import Periodogram, PowerSpectrum
    from skymill.curves.noise import BinnedScatter

__all__ = ["Series"]

#: A pause longer than this many median time steps is a gap.
GAP_STEPS = 1.5
_MJD0 = 2400000.5


@dataclass(frozen=True)
class Series:
    """A light curve.

    Parameters
    ----------
    time : ndarray of float64, shape (n,)
        Days, ascending: Julian dates if `scale` is "tdb", MJD if it is "utc", phases if
        it is "phase".
    value, err : ndarray of float64, shape (n,)
        Values and one-sigma errors; NaN where nothing was measured.
    good : ndarray of bool, shape (n,)
        Points that are used; the others stay, so that the grid of times is kept.
    scale : {"tdb", "utc", "phase"}
        What the times are.
    unit : str
        Unit of the values.
    label : str
        What they are, for plots.
    count : ndarray of int64, shape (n,), optional
        Points behind each value, if these are bins.
    """

    time: NDArray[np.float64]
    value: NDArray[np.float64]
    err: NDArray[np.float64]
    good: NDArray[np.bool_]
    scale: str = "tdb"
    unit: str = ""
    label: str = ""
    count: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, time: ArrayLike, value: ArrayLike, err: ArrayLike, **more: Any) -> Series:
        """Return a light curve of arrays, in order of time; all finite points are good."""
        t, v, e = (np.asarray(item, np.float64) for item in (time, value, err))
        order = np.argsort(t, kind="stable")
        good = np.isfinite(t) & np.isfinite(v) & np.isfinite(e) & (e > 0)
        return cls(t[order], v[order], e[order], good[order], **more)

    def __len__(self) -> int:
        return int(self.time.size)

    def used(self) -> Series:
        """Return the good points alone."""
        keep = self.good
        count = None if self.count is None else self.count[keep]
        return replace(
            self, time=self.time[keep], value=self.value[keep], err=self.err[keep],
            good=np.ones(int(keep.sum()), bool), count=count,
        )  # fmt: skip

    @property
    def step(self) -> float:
        """Median time step of all points (d)."""
        times = self.time[np.isfinite(self.time)]
        return float(np.median(np.diff(times))) if times.size > 1 else float("nan")

    def gaps(self, *, steps: float = GAP_STEPS) -> list[tuple[float, float]]:
        """Return first and last time of the pauses between good points.

        Parameters
        ----------
        steps : float
            A pause is longer than this many median time steps.
        """
        times = self.time[self.good]
        if times.size < 2:
            return []
        long = np.flatnonzero(np.diff(times) > steps * self.step)
        return [(float(times[i]), float(times[i + 1])) for i in long]

    def segments(self, *, steps: float = GAP_STEPS) -> list[Series]:
        """Return the stretches of good points between the gaps."""
        points = self.used()
        if not len(points):
            return []
        cut = np.flatnonzero(np.diff(points.time) > steps * self.step) + 1
        parts = []
        for index in np.split(np.arange(len(points)), cut):
            count = None if points.count is None else points.count[index]
            parts.append(
                replace(
                    points, time=points.time[index], value=points.value[index],
                    err=points.err[index], good=points.good[index], count=count,
                )
            )  # fmt: skip
        return parts

    def normalised(self) -> Series:
        """Return values over their median; the errors follow."""
        middle = float(np.median(self.value[self.good])) if self.good.any() else float("nan")
        return replace(self, value=self.value / middle, err=self.err / abs(middle), unit="")

    def bin(self, width: float, *, start: float | None = None, weighted: bool = True) -> Series:
        """Return means in bins of equal width; empty bins are NaN.

        Parameters
        ----------
        width : float
            Width of a bin in days (in phase for a folded curve).
        start : float, optional
            Beginning of the first bin; the first time by default.
        weighted : bool
            Weight by inverse variances, else all points alike.

        Returns
        -------
        Series
            Times are the (weighted) mean times of the points in a bin, its middle where
            it is empty. ``err = sqrt(sum w^2 err^2)/sum w``.

        Raises
        ------
        ValueError
            If the width is not positive.
        """
        if not width > 0:
            raise ValueError(f"the width of a bin must be above 0, got {width}")
        points = self.used()
        times = self.time[np.isfinite(self.time)]
        if not times.size:
            return points
        first = float(times[0]) if start is None else start
        n = int(np.floor((times[-1] - first) / width)) + 1
        place = np.floor((points.time - first) / width).astype(np.int64)
        inside = (place >= 0) & (place < n)
        place = place[inside]
        t, v, e = points.time[inside], points.value[inside], points.err[inside]
        w = 1 / e**2 if weighted else np.ones(t.size)

        def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(np.bincount(place, weights=values, minlength=n), np.float64)

        count = np.bincount(place, minlength=n)
        filled = count > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            sum_w = total(w)
            value = total(w * v) / sum_w
            err = np.sqrt(total(w**2 * e**2)) / sum_w
            middle = first + (np.arange(n) + 0.5) * width
            time = np.where(filled, first + total(w * (t - first)) / sum_w, middle)
        return replace(self, time=time, value=value, err=err, good=filled, count=count)

    def phase_fold(
        self, period: float, *, t0: float | None = None, bins: int | None = None
    ) -> Series:
        """Return the curve against phase in -0.5..0.5, sorted by phase.

        Parameters
        ----------
        period : float
            Period in days.
        t0 : float, optional
            Time of phase 0; the first good time by default.
        bins : int, optional
            Bin into this many phase bins, errors propagated.

        Raises
        ------
        ValueError
            If the period is not positive.
        """
        if not period > 0:
            raise ValueError(f"a period must be above 0, got {period}")
        points = self.used()
        start = t0 if t0 is not None else (float(points.time[0]) if len(points) else 0.0)
        cycles = (points.time - start) / period
        phase = cycles - np.floor(cycles + 0.5)
        order = np.argsort(phase, kind="stable")
        folded = replace(
            points, time=phase[order], value=points.value[order], err=points.err[order],
            scale="phase", count=None,
        )  # fmt: skip
        return folded if bins is None else folded._phase_bins(bins)

    def _phase_bins(self, bins: int) -> Series:
        edge = Series(
            np.array([-0.5, 0.5 - 1e-12]), np.full(2, np.nan), np.full(2, np.nan),
            np.zeros(2, bool), "phase",
        )  # fmt: skip
        both = replace(
            self,
            time=np.concatenate([edge.time[:1], self.time, edge.time[1:]]),
            value=np.concatenate([edge.value[:1], self.value, edge.value[1:]]),
            err=np.concatenate([edge.err[:1], self.err, edge.err[1:]]),
            good=np.concatenate([edge.good[:1], self.good, edge.good[1:]]),
        )
        return both.bin(1.0 / bins, start=-0.5)

    def rms_by_bin(self) -> BinnedScatter:
        """Return the scatter against the size of bins, see `skymill.curves.noise`."""
        from skymill.curves.noise import rms_by_bin

        return rms_by_bin(np.where(self.good, self.value, np.nan))

    def periodogram(self, **keywords: Any) -> Periodogram:
        """Return the Lomb-Scargle periodogram, see `skymill.curves.frequencies.periodogram`."""
        from skymill.curves.frequencies import periodogram

        return periodogram(self, **keywords)

    def power_spectrum(self, **keywords: Any) -> PowerSpectrum:
        """Return the averaged power spectrum, see `skymill.curves.frequencies.power_spectrum`."""
        from skymill.curves.frequencies import power_spectrum

        return power_spectrum(self, **keywords)

    def cross_correlation(self, other: Series, **keywords: Any) -> Correlation:
        """Return the correlation with another curve against lag.

        See `skymill.curves.correlation.cross_correlation`.
        """
        from skymill.curves.correlation import cross_correlation

        return cross_correlation(self, other, **keywords)

    def timeseries(self) -> Any:
        """Return an `astropy.timeseries.TimeSeries` with columns value, err, good.

        Raises
        ------
        ValueError
            For a folded curve, which has no times.
        """
        import astropy.units as u
        from astropy.time import Time
        from astropy.timeseries import TimeSeries

        from skymill.offline import no_downloads

        if self.scale == "phase":
            raise ValueError("a folded curve has phases and no times")
        no_downloads()
        known = np.isfinite(self.time)
        form = "jd" if self.scale == "tdb" else "mjd"
        table = TimeSeries(time=Time(self.time[known], format=form, scale=self.scale))
        unit = u.Unit(self.unit) if self.unit else u.dimensionless_unscaled
        table["value"] = self.value[known] * unit
        table["err"] = self.err[known] * unit
        table["good"] = self.good[known]
        table.meta["label"] = self.label
        return table

    def plot(self, ax: Any = None, *, gaps: bool = True, **keywords: Any) -> Any:
        """Draw the good points with error bars; gaps are shaded. Return the axes."""
        import matplotlib.pyplot as plt

        if ax is None:
            ax = plt.subplots(figsize=(8, 4))[1]
        points = self.used()
        zero = 0.0
        if self.scale != "phase" and len(points):
            zero = float(np.floor(points.time.min()))
        style = {"fmt": ".", "ms": 4, "lw": 0.8, "label": self.label or None} | keywords
        ax.errorbar(points.time - zero, points.value, points.err, **style)
        if gaps and self.scale != "phase":
            for first, last in self.gaps():
                ax.axvspan(first - zero, last - zero, color="0.93", zorder=0)
        names = {"tdb": "BJD (TDB)", "utc": "MJD (UTC)", "phase": "phase"}
        ax.set_xlabel(names[self.scale] + (f" - {zero:.0f}" if zero else ""))
        ax.set_ylabel(f"{self.label} [{self.unit}]" if self.unit else self.label)
        if self.unit == "mag" and not ax.yaxis_inverted():
            ax.invert_yaxis()
        return ax
