"""Means and scatters that outliers do not spoil."""

from __future__ import annotations

from math import erf, exp, pi, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["clipped_mean_std", "robust_sigma", "tail_factor"]

#: Values that the first guess of a clipped mean is made of.
_START = 20_000


def robust_sigma(values: NDArray[Any]) -> float:
    """Half the distance of the 15.87 and 84.13 percentiles.

    The percentiles are interpolated between the borders of equal values on a normal
    scale, so that the result of integers grows smoothly with the noise where a median
    of absolute deviations jumps. Rounding does not enter the result.

    Parameters
    ----------
    values : ndarray, any shape
        Finite values.

    Returns
    -------
    float
        Zero if all values are equal.
    """
    levels, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    if levels.size < 4:
        return float(np.std(values)) if levels.size > 1 else 0.0
    borders = 0.5 * (levels[1:] + levels[:-1])
    below = np.cumsum(counts)[:-1] / counts.sum()
    inverse = NormalDist().inv_cdf
    ends = []
    for target in (-1.0, 1.0):
        j = int(np.searchsorted(below, NormalDist().cdf(target)))
        j = min(max(j, 1), below.size - 1)
        z0, z1 = inverse(below[j - 1]), inverse(below[j])
        ends.append(borders[j - 1] + (target - z0) / (z1 - z0) * (borders[j] - borders[j - 1]))
    return float(ends[1] - ends[0]) / 2


def clipped_mean_std(
    values: NDArray[Any], sigma: float = 4.0, iterations: int = 5, floor: float = 0.0
) -> tuple[float, float]:
    """Mean and standard deviation of the values near the median.

    Parameters
    ----------
    values : ndarray, any shape
        Values; those that are not finite are left out.
    sigma : float
        Threshold in standard deviations.
    iterations : int
        Largest number of rounds.
    floor : float
        Smallest standard deviation used for clipping.

    Returns
    -------
    mean, std : float
        The standard deviation is corrected for the clipped tails of a normal
        distribution. NaN if there is no value.
    """
    good = np.asarray(values, np.float64)
    good = good[np.isfinite(good)]
    if good.size == 0:
        return np.nan, np.nan
    start = good[:: -(-good.size // _START)]
    centre, spread = float(np.median(start)), robust_sigma(start)
    shrink = tail_factor(sigma)
    kept = good
    for _ in range(max(iterations, 1)):
        near = good[np.abs(good - centre) <= sigma * max(spread, floor)]
        if near.size == 0:
            break
        same = near.size == kept.size
        kept = near
        centre = float(kept.mean())
        spread = float(kept.std(ddof=1 if kept.size > 1 else 0)) / shrink
        if same:
            break
    return centre, spread


def tail_factor(k: float) -> float:
    """Return the standard deviation of a unit normal distribution cut at +-k."""
    inside = erf(k / sqrt(2))
    return sqrt(1 - 2 * k * exp(-k * k / 2) / sqrt(2 * pi) / inside)
