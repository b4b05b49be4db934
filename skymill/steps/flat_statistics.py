"""Statistics of flat fields: levels, gradients, and the gain from pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.robust import clipped_mean_std
from skymill.steps.masters_intake import box_corners

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["gain_from_pairs", "histogram_mode", "level_of", "relative_gradient", "sparse"]

#: Fewest usable pixels of a box in a pair.
MINIMUM_PIXELS = 100


def level_of(values: NDArray[Any], scale: str) -> float:
    """Level of a frame: ``median``, clipped ``mean`` or ``mode`` of the finite values.

    Parameters
    ----------
    values : ndarray, any shape
        Pixels (ADU).
    scale : str
        Statistic.

    Returns
    -------
    float
    """
    good = values[np.isfinite(values)]
    if scale == "median":
        return float(np.median(good))
    if scale == "mean":
        return clipped_mean_std(good, 5.0, 5)[0]
    if scale == "mode":
        return histogram_mode(good)
    raise ValueError(f"scale must be median, mean or mode, got {scale!r}")


def sparse(image: NDArray[Any], most: int = 10_000) -> NDArray[Any]:
    """Return every k-th pixel of every k-th row, with the smallest k for ``most`` pixels."""
    ny, nx = image.shape
    for step in range(1, 11):
        if ((nx - 1) // step + 1) * ((ny - 1) // step + 1) < most:
            break
    part: NDArray[Any] = image[::step, ::step]
    return part


def histogram_mode(values: NDArray[Any]) -> float:
    """Most frequent value: the middle of the fullest sliding bin.

    Bins of a tenth of the range of the central 80 % of the values slide in steps of a
    hundredth of that range. This is the definition behind ``scale = mode`` of IRAF's
    ccdred tasks, so that combinations can be compared.

    Parameters
    ----------
    values : ndarray
        Finite values.

    Returns
    -------
    float
        The middle value for fewer than ten.
    """
    ordered = np.sort(np.asarray(values, np.float64).ravel())
    n = ordered.size
    if n < 10:
        return float(ordered[max(n // 2 - 1, 0)])
    first, last = int(1 + n * 0.1) - 1, min(int(1 + n * 0.9) - 1, n - 1)
    low, high = ordered[first], ordered[last]
    if low == high:
        return float(low)
    width = high - low
    starts = low + 0.01 * width * np.arange(101)
    inside = ordered[first:last]
    begin = first + np.searchsorted(inside, starts, side="left")
    end = first + np.searchsorted(inside, starts + 0.1 * width, side="left")
    # bins that reach beyond the range hold less, except the first one to touch its end
    whole = int(np.argmax(end >= last)) + 1 if (end >= last).any() else len(end)
    best = int(np.argmax((end - begin)[:whole]))
    # positions count from 1 there: halving the sum rounds the other way than from 0
    return float(ordered[(begin[best] + 1 + end[best] + 1) // 2 - 1])


def relative_gradient(samples: NDArray[np.float64], shape: tuple[int, int]) -> list[float]:
    """Peak-to-valley of a plane through each flat divided by the median flat.

    Parameters
    ----------
    samples : ndarray, shape (frames, boxes, side, side)
        Corrected boxes of each flat (ADU).
    shape : tuple of int
        Shape (ny, nx) of the frames.

    Returns
    -------
    list of float
        Relative; 0 for a single frame, where there is nothing to compare with.
    """
    if len(samples) < 2:
        return [0.0] * len(samples)
    flat = samples.reshape(*samples.shape[:2], -1)
    filled = np.where(np.isfinite(flat), flat, np.nanmedian(flat, axis=(1, 2), keepdims=True))
    level = np.median(filled, axis=2)
    level = level / np.median(level, axis=1, keepdims=True)
    ratio = level / np.median(level, axis=0)
    corners = np.array(box_corners(shape)[0], float)
    at = (corners - corners.mean(axis=0)) / np.maximum(np.ptp(corners, axis=0), 1)
    # the grid is regular, so the two slopes are independent of each other
    power = np.maximum((at**2).sum(axis=0), 1e-12)
    slopes = (ratio[:, :, None] * at[None]).sum(axis=1) / power
    return [float(np.abs(pair).sum()) for pair in slopes]


def gain_from_pairs(
    samples: Sequence[NDArray[np.float64]], quiet_variance: Sequence[float]
) -> tuple[float, float]:
    """Gain from pairs of flats: photons scatter by their square root.

    In a box with mean levels ``a`` and ``b = a / r`` the scatter of ``x - r y`` is
    ``(a + r^2 b) / g + (1 + r^2) q``; the pattern of the flat cancels.

    Parameters
    ----------
    samples : sequence of ndarray, shape (boxes, side, side)
        Corrected boxes of each flat (ADU), NaN where not usable.
    quiet_variance : sequence of float
        Variance ``q`` without light of each flat (ADU^2).

    Returns
    -------
    gain, error : float
        Electron/ADU and standard error from the scatter between boxes; NaN if there
        are fewer than two flats or no usable box.
    """
    inverse = []
    for k in range(len(samples) - 1):
        quiet = quiet_variance[k], quiet_variance[k + 1]
        for one, two in zip(samples[k], samples[k + 1], strict=True):
            good = np.isfinite(one) & np.isfinite(two)
            if good.sum() < MINIMUM_PIXELS:
                continue
            a, b = float(np.median(one[good])), float(np.median(two[good]))
            if a <= 0 or b <= 0:
                continue
            ratio = a / b
            _, spread = clipped_mean_std(one[good] - ratio * two[good], 4.0, 5, 0.4)
            shot = spread**2 - quiet[0] - ratio**2 * quiet[1]
            inverse.append(shot / (a + ratio**2 * b))
    if len(inverse) < 2:
        return np.nan, np.nan
    mean, scatter = clipped_mean_std(np.array(inverse), 4.0, 5)
    if not mean > 0:
        return np.nan, np.nan
    error = scatter / np.sqrt(len(inverse)) / mean**2
    return 1 / mean, float(error)
