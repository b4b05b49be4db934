"""Correlation of two light curves against lag, for any sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skymill.curves.series import Series

__all__ = ["Correlation", "cross_correlation"]

_FEWEST_PAIRS = 5


@dataclass(frozen=True)
class Correlation:
    """Discrete correlation function.

    Parameters
    ----------
    lag : ndarray of float64
        Days; positive if the second curve follows the first.
    value, err : ndarray of float64
        Correlation, and the standard error of its mean; NaN with fewer than five pairs.
    pairs : ndarray of int64
        Pairs of points.
    """

    lag: NDArray[np.float64]
    value: NDArray[np.float64]
    err: NDArray[np.float64]
    pairs: NDArray[np.int64]

    @property
    def peak(self) -> float:
        """Lag of the highest value, by a parabola through its neighbours (d)."""
        known = np.isfinite(self.value)
        if not known.any():
            return float("nan")
        i = int(np.nanargmax(self.value))
        if 0 < i < self.lag.size - 1 and known[i - 1] and known[i + 1]:
            a, b, c = self.value[i - 1 : i + 2]
            bend = a - 2 * b + c
            if bend < 0:
                return float(self.lag[i] + 0.5 * (a - c) / bend * (self.lag[i + 1] - self.lag[i]))
        return float(self.lag[i])

    def plot(self, ax: Any = None, **keywords: Any) -> Any:
        """Draw the correlation against lag; return the axes."""
        import matplotlib.pyplot as plt

        if ax is None:
            ax = plt.subplots(figsize=(8, 4))[1]
        ax.errorbar(self.lag, self.value, self.err, **({"fmt": ".-", "lw": 0.8} | keywords))
        ax.axvline(0, color="0.8")
        ax.set_xlabel("lag [d]")
        ax.set_ylabel("correlation")
        return ax


def cross_correlation(
    first: Series, second: Series, *, max_lag: float | None = None, step: float | None = None
) -> Correlation:
    """Return the discrete correlation function (Edelson and Krolik 1988).

    Every pair of points tells something about the lag between them, so that the two
    filters need not be exposed at the same times, and nothing is interpolated over gaps.
    The scatter that the errors bring is taken off the variances.

    Parameters
    ----------
    first, second : Series
        Two curves in the same time scale.
    max_lag : float, optional
        Largest lag in days; a third of the shorter curve by default.
    step : float, optional
        Width of a bin of lag in days; the longer median step by default.

    Raises
    ------
    ValueError
        If the times are not of the same kind or a curve has fewer than five points.
    """
    if first.scale != second.scale:
        raise ValueError(f"times of different kinds: {first.scale} and {second.scale}")
    a, b = first.used(), second.used()
    if min(len(a), len(b)) < _FEWEST_PAIRS:
        raise ValueError("a correlation needs five good points in either curve")
    width = step or max(a.step, b.step)
    reach = max_lag or min(np.ptp(a.time), np.ptp(b.time)) / 3
    half = int(np.floor(reach / width))
    n = 2 * half + 1
    x, y = _deviations(a), _deviations(b)
    total, square, count = np.zeros(n), np.zeros(n), np.zeros(n, np.int64)
    low = np.searchsorted(b.time, a.time - (half + 0.5) * width)
    high = np.searchsorted(b.time, a.time + (half + 0.5) * width)
    for i in range(len(a)):
        near = slice(int(low[i]), int(high[i]))
        place = np.floor((b.time[near] - a.time[i]) / width + 0.5).astype(np.int64) + half
        inside = (place >= 0) & (place < n)
        product = x[i] * y[near][inside]
        place = place[inside]
        total += np.bincount(place, product, n)
        square += np.bincount(place, product**2, n)
        count += np.bincount(place, minlength=n)
    enough = count >= _FEWEST_PAIRS
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(enough, total / count, np.nan)
        spread = np.sqrt(np.maximum(square / count - mean**2, 0) / (count - 1))
    lag = np.asarray((np.arange(n) - half) * width, np.float64)
    return Correlation(lag, mean, np.where(enough, spread, np.nan), count)


def _deviations(series: Series) -> NDArray[np.float64]:
    """Deviations in units of the scatter that is not due to the errors."""
    rest = series.value - series.value.mean()
    variance = float((rest**2).mean())
    real = variance - float((series.err**2).mean())
    # Where the errors explain all of the scatter, plain correlation is what is left.
    return np.asarray(rest / np.sqrt(real if real > 0.01 * variance else variance))
