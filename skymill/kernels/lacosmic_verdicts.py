"""The tests of L.A.Cosmic at single pixels, decided by counting instead of medians.

A median of 25 is below a bound if 13 of the values are. So ``S = L / (2 N)`` exceeds a
bound if 13 of the 25 variances lie below ``(L / (2 bound))^2``, and ``S' = S - med5(S)``
exceeds a threshold if 13 of the 25 ``S`` lie below ``S - threshold``. Only where a value
is within rounding of its bound, the medians are taken.

Most candidates are stars. ``S' <= S``, and the noise is the same in S and F, so
``L / 2 <= objlim (med3 - med7(med3))`` clears a pixel; and a median of medians is below a
bound if a majority of majorities of pixels is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from skymill.kernels.order_statistics import box_median, median_of_9, select

__all__ = ["LEAST_VARIANCE", "exceeds", "excess", "fine_structure", "has_structure",
           "laplacian", "positive_laplacian"]  # fmt: skip

_ZERO, _QUARTER, _TWO, _FOUR = (np.float32(v) for v in (0.0, 0.25, 2.0, 4.0))
LEAST_VARIANCE = np.float32(1e-5)
_LEAST_STRUCTURE = np.float32(0.01)
#: Values this close to a bound (relative) are not decided by counting.
_BELOW, _ABOVE, _NEAR = np.float32(1 - 1e-5), np.float32(1 + 1e-5), np.float32(1e-5)


@njit(cache=True, inline="always")
def positive_laplacian(c: Any, south: Any, north: Any, west: Any, east: Any) -> Any:
    """Return the positive part of the Laplacian of the twice subsampled image, averaged back.

    Each of the four subpixels has two neighbours inside its own pixel.
    """
    four = _FOUR * c
    total = max(four - c - west - c - south, _ZERO)
    total += max(four - c - west - north - c, _ZERO)
    total += max(four - east - c - north - c, _ZERO)
    total += max(four - east - c - c - south, _ZERO)
    return total * _QUARTER


@njit(cache=True)
def laplacian(image: Any, y: Any, x: Any) -> Any:
    """Return the Laplacian at any pixel; outside the image there is zero."""
    ny, nx = image.shape
    south = image[y - 1, x] if y > 0 else _ZERO
    north = image[y + 1, x] if y < ny - 1 else _ZERO
    west = image[y, x - 1] if x > 0 else _ZERO
    east = image[y, x + 1] if x < nx - 1 else _ZERO
    return positive_laplacian(image[y, x], south, north, west, east)


@njit(cache=True)
def _noise(spread: Any, extra: Any, y: Any, x: Any, work: Any) -> Any:
    """Noise of a pixel: root of the 5 x 5 median of the variance."""
    ny, nx = spread.shape
    value = spread[y, x]
    if 2 <= y < ny - 2 and 2 <= x < nx - 2:
        value = box_median(spread, y, x, 2, work)
    if extra.shape[0] == ny:
        value += extra[y, x]
    return np.sqrt(max(value, LEAST_VARIANCE))


@njit(cache=True)
def _signal(image: Any, spread: Any, extra: Any, y: Any, x: Any, work: Any) -> Any:
    """S: the Laplacian over twice the noise."""
    return laplacian(image, y, x) / (_TWO * _noise(spread, extra, y, x, work))


@njit(cache=True)
def _side(image: Any, spread: Any, extra: Any, y: Any, x: Any, bound: Any) -> Any:
    """Return 1 if S is above a positive bound, -1 if below, 0 if too close to say."""
    ny, nx = spread.shape
    lap = laplacian(image, y, x)
    if lap == _ZERO:
        return -1
    most = lap / (_TWO * bound)
    most *= most
    low, high = most * _BELOW, most * _ABOVE
    if low <= LEAST_VARIANCE:
        return -1 if high < LEAST_VARIANCE else 0
    add = extra[y, x] if extra.shape[0] == ny else _ZERO
    if not (2 <= y < ny - 2 and 2 <= x < nx - 2):
        value = spread[y, x] + add
        return 1 if value < low else (-1 if value > high else 0)
    quiet, loud = 0, 0
    for j in range(y - 2, y + 3):
        for i in range(x - 2, x + 3):
            value = spread[j, i] + add
            quiet += value < low
            loud += value > high
    return 1 if quiet > 12 else (-1 if loud > 12 else 0)


@njit(cache=True)
def excess(image: Any, spread: Any, extra: Any, y: Any, x: Any, work: Any, box: Any) -> Any:
    """Return S' = S - med5(S); zero within two pixels of the edge."""
    ny, nx = image.shape
    if not (2 <= y < ny - 2 and 2 <= x < nx - 2):
        return _ZERO
    n = 0
    for j in range(y - 2, y + 3):
        for i in range(x - 2, x + 3):
            box[n] = _signal(image, spread, extra, j, i, work)
            n += 1
    centre = box[12]
    return centre - select(box, 25, 12)


@njit(cache=True)
def exceeds(
    image: Any, spread: Any, extra: Any, y: Any, x: Any, least: Any, structure: Any,
    work: Any, box: Any,
) -> Any:  # fmt: skip
    """Tell whether ``S' / structure`` is above ``least``.

    Parameters
    ----------
    image, spread, extra : ndarray of float32, shape (ny, nx)
        Image, variance, and what is added to the variance after its median (or one pixel).
    y, x : int
        Pixel.
    least, structure : float32
        Threshold, and what S' is divided by; both positive.
    work, box : ndarray of float32, shape (49,)
        Work space.
    """
    ny, nx = image.shape
    if not (2 <= y < ny - 2 and 2 <= x < nx - 2):
        return False
    threshold = least * structure
    if threshold <= _ZERO:
        return excess(image, spread, extra, y, x, work, box) / structure > least
    if _side(image, spread, extra, y, x, threshold) < 0:
        return False
    own = _signal(image, spread, extra, y, x, work)
    bound = own - threshold
    low, high = bound - _NEAR * own, bound + _NEAR * own
    if low > _ZERO:
        below, above = 0, 0
        for j in range(y - 2, y + 3):
            for i in range(x - 2, x + 3):
                if _side(image, spread, extra, j, i, low) < 0:
                    below += 1
                    if below == 13:
                        return True
                elif _side(image, spread, extra, j, i, high) > 0:
                    above += 1
                    if above == 13:
                        return False
    elif high < _ZERO:
        return False
    return excess(image, spread, extra, y, x, work, box) / structure > least


@njit(cache=True)
def has_structure(image: Any, y: Any, x: Any, objlim: Any) -> Any:
    """Tell whether the fine structure alone surely clears a pixel, whatever its S'.

    Counts how many 3 x 3 medians of the 7 x 7 box lie below the bound. A row of the
    comparisons is a word of four bits each, so that the sums of three run in parallel.
    """
    ny, nx = image.shape
    if not (4 <= y < ny - 4 and 4 <= x < nx - 4 and objlim > _ZERO):
        return False
    centre = median_of_9(image, y, x)
    bound = centre - laplacian(image, y, x) / (_TWO * objlim) * _ABOVE
    bound -= np.float32(1e-6) * abs(centre)
    two_before, before, count = np.int64(0), np.int64(0), np.int64(0)
    for j in range(9):
        word = np.int64(0)
        for i in range(9):
            word = (word << 4) | np.int64(image[y + j - 4, x + i - 4] < bound)
        here = word + (word >> 4) + (word >> 8)
        if j >= 2:
            # of nine, five are a majority: 5 + 3 sets the highest of the four bits
            majority = ((here + before + two_before + 0x3333333) >> 3) & 0x1111111
            count += ((majority * 0x1111111) >> 24) & 15
        two_before, before = before, here
    return count > 24


@njit(cache=True)
def fine_structure(image: Any, spread: Any, extra: Any, y: Any, x: Any, work: Any, box: Any) -> Any:
    """Return F = (med3 - med7(med3)) / N, at least 0.01."""
    ny, nx = image.shape
    if not (3 <= y < ny - 3 and 3 <= x < nx - 3):
        return _LEAST_STRUCTURE
    n = 0
    for j in range(y - 3, y + 4):
        for i in range(x - 3, x + 4):
            # the outermost pixels have no median: they copy
            inner = 1 <= j < ny - 1 and 1 <= i < nx - 1
            box[n] = median_of_9(image, j, i) if inner else image[j, i]
            n += 1
    centre = box[24]
    fine = (centre - select(box, 49, 24)) / _noise(spread, extra, y, x, work)
    return max(fine, _LEAST_STRUCTURE)
