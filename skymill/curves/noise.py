"""Scatter of light curves against the size of bins: white noise averages, red does not.

White noise falls as ``1/sqrt(n)``. What is left over is quoted as a factor ``beta``
(Winn et al. 2008) and as a correlated part ``sigma_r`` with
``rms_n^2 = sigma_w^2/n + sigma_r^2`` (Pont, Zucker and Queloz 2006).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BinnedScatter", "red_noise", "rms_by_bin"]

#: Fewer bins do not tell their scatter.
_FEWEST_BINS = 5


class BinnedScatter(NamedTuple):
    """Scatter of bin means.

    Parameters
    ----------
    sizes : ndarray of int64, shape (n_sizes,)
        Points in a bin.
    rms : ndarray of float64, shape (n_sizes,) or (n_sources, n_sizes)
        Scatter of the means of bins.
    white : ndarray of float64, of the shape of `rms`
        What white noise of the scatter of single points leads to expect.
    """

    sizes: NDArray[np.int64]
    rms: NDArray[np.float64]
    white: NDArray[np.float64]


def rms_by_bin(
    values: NDArray[np.float64], *, sizes: NDArray[np.int64] | None = None
) -> BinnedScatter:
    """Return the scatter of the means of bins of consecutive points.

    Parameters
    ----------
    values : ndarray of float64, shape (n,) or (n_sources, n)
        In order of time; NaN is left out. Bins less than half full do not count.
    sizes : ndarray of int64, optional
        Points in a bin; 1, 2, 4, ... as long as there are five bins by default.

    Returns
    -------
    BinnedScatter
        NaN where fewer than five bins are left.
    """
    table = np.atleast_2d(np.asarray(values, np.float64))
    n = table.shape[1]
    if sizes is None:
        sizes = 2 ** np.arange(max(int(np.log2(max(n / _FEWEST_BINS, 1))) + 1, 1))
    found = [_scatter_of_bins(table, int(size)) for size in sizes]
    rms = np.stack([item[0] for item in found], axis=1)
    count = np.stack([item[1] for item in found], axis=1)
    mean_size = np.stack([item[2] for item in found], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        white = np.where(count > 0, rms[:, :1] / np.sqrt(mean_size), np.nan)
    if np.ndim(values) == 1:
        return BinnedScatter(np.asarray(sizes), rms[0], white[0])
    return BinnedScatter(np.asarray(sizes), rms, white)


def _scatter_of_bins(
    table: NDArray[np.float64], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Scatter of the means, number of bins and mean number of points in one, by source."""
    bins = table.shape[1] // size
    parts = table[:, : bins * size].reshape(table.shape[0], bins, size)
    good = np.isfinite(parts)
    inside = good.sum(axis=2)
    full = 2 * inside >= max(size, 1)
    full &= inside > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(good, parts, 0.0).sum(axis=2) / inside
        count = full.sum(axis=1).astype(float)
        centre = np.where(full, means, 0.0).sum(axis=1) / count
        square = np.where(full, (means - centre[:, None]) ** 2, 0.0).sum(axis=1)
        rms = np.where(count >= _FEWEST_BINS, np.sqrt(square / (count - 1)), np.nan)
        # White noise averages as the mean of 1/n, not as 1/mean(n).
        inverse = np.where(full, 1 / np.maximum(inside, 1), 0.0).sum(axis=1) / count
        return rms, count, 1 / inverse


def red_noise(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far the scatter of bins exceeds that of white noise.

    Parameters
    ----------
    values : ndarray of float64, shape (n_sources, n)
        In order of time, NaN where nothing is known.

    Returns
    -------
    beta : ndarray of float64, shape (n_sources,)
        Mean of measured over expected scatter of the bins of 4 points and more; 1 for
        white noise. NaN with fewer than 20 points.
    sigma_r : ndarray of float64, shape (n_sources,)
        Correlated part of the scatter, in the unit of the values; 0 if there is none.
    """
    table = np.atleast_2d(np.asarray(values, np.float64))
    binned = rms_by_bin(table)
    larger = binned.sizes >= 4
    nothing = np.full(table.shape[0], np.nan)
    if not larger.any():
        return nothing, nothing.copy()
    ratio = binned.rms[:, larger] / binned.white[:, larger]
    known = np.isfinite(ratio)
    n = known.sum(axis=1)
    excess = binned.rms[:, larger] ** 2 - binned.white[:, larger] ** 2
    weight = np.where(known, binned.sizes[larger], 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        beta = np.where(known, ratio, 0.0).sum(axis=1) / n
        # White noise of a small bin hides the red part; large bins tell it better.
        part = np.where(known, excess * weight, 0.0).sum(axis=1) / weight.sum(axis=1)
        share = np.where(known, weight / np.where(known, _white_size(binned, larger), 1), 0.0)
        # The scatter of single points holds the red part, too.
        part = part / (1 - share.sum(axis=1) / weight.sum(axis=1))
    return beta, np.where(n > 0, np.sqrt(np.maximum(part, 0.0)), np.nan)


def _white_size(binned: BinnedScatter, larger: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Effective number of points in a bin: expected variances of one and of many."""
    with np.errstate(invalid="ignore", divide="ignore"):
        size = (binned.rms[:, :1] / binned.white[:, larger]) ** 2
    return np.where(np.isfinite(size), size, 1.0)
