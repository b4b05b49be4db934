"""Compiled code of the stack: plain medians, and sums with weights that are fixed.

See `skymill.kernels.stack` for the layout of the planes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skymill.kernels.order_statistics import select
from skymill.kernels.stack import GROUP

__all__ = ["fixed_rows", "map_rows", "median_efficiency", "median_rows"]

#: Columns whose values are turned so that those of a pixel lie side by side.
_TURN = 16


@njit(cache=True, error_model="numpy")
def median_efficiency(n):  # type: ignore[no-untyped-def]
    """Variance of the median of n normal values over that of their mean.

    Fit to simulated values, within 0.6 %; the median of two is their mean.
    """
    if n <= 2:
        return 1.0
    if n % 2:
        return 0.5 * np.pi * (1 - 0.44 / n)
    return 0.5 * np.pi * (1 - 1.3 / n + 1.3 / (n * n))


@njit(cache=True, error_model="numpy")
def _middle(values, n):  # type: ignore[no-untyped-def]
    """Median of the first n values, which are reordered."""
    upper = select(values, n, n // 2)
    if n % 2:
        return upper
    lower = values[0]
    for i in range(1, n // 2):
        lower = max(lower, values[i])
    return 0.5 * (lower + upper)


@njit(cache=True, nogil=True, error_model="numpy")
def median_rows(cube, row0, start, stop, second, planes, todo):  # type: ignore[no-untyped-def]
    """Replace the means of `first_pass` by medians.

    The variance is ``c_N N / (sum 1/s)^2``, the efficiency of the median times the
    variance that its asymptotic formula gives for values of unequal noise; for equal
    noise it is ``c_N s^2 / N``.

    Parameters
    ----------
    cube : Cube
        The frames.
    row0, start, stop : int
        Row of the grid that is row 0 of the band; rows of the band to do.
    second : int
        Bit of second-class values.
    planes : Planes
        ``sci``, ``err`` and ``coverage`` are set where there is a value.
    todo : ndarray of uint8, shape (rows, nx)
        2 where only second-class values exist.
    """
    n, nx = cube.factor.size, cube.nx
    values, inverse = np.empty((_TURN, n)), np.empty(_TURN)
    count = np.empty(_TURN, np.int64)
    for r in range(start, stop):
        out = row0 + r
        for c0 in range(0, nx, _TURN):
            m = min(_TURN, nx - c0)
            count[:] = 0
            inverse[:] = 0.0
            for i in range(n):
                p = i * cube.stride + r * nx + c0
                for j in range(m):
                    ok = todo[r, c0 + j] == 2 or not cube.mask[p + j] & second
                    if cube.k2[p + j] and ok:
                        values[j, count[j]] = cube.value[p + j]
                        inverse[j] += 1 / np.sqrt(np.float64(cube.variance[p + j]))
                        count[j] += 1
            for j in range(m):
                k = count[j]
                if k:
                    planes.sci[out, c0 + j] = _middle(values[j], k)
                    planes.err[out, c0 + j] = np.sqrt(median_efficiency(k) * k) / inverse[j]
                    planes.coverage[out, c0 + j] = k


@njit(cache=True, error_model="numpy")
def _used(cube, p, firsts, second):  # type: ignore[no-untyped-def]
    if cube.k2[p] == 0 or (firsts and cube.mask[p] & second):
        return False
    return cube.state[p] == 0 or cube.state[p] == 3


@njit(cache=True, error_model="numpy")
def _weight(cube, equal, i, r, c):  # type: ignore[no-untyped-def]
    if equal:
        return 1.0
    a = np.float64(cube.scale[i, r, c // GROUP])
    return cube.factor[i] / (a * a * np.float64(cube.noise[i, r, c // GROUP]))


@njit(cache=True, error_model="numpy")
def _has_first(cube, r, second, firsts):  # type: ignore[no-untyped-def]
    """Mark the pixels of a row that have a first-class value."""
    firsts[:] = 0
    for i in range(cube.factor.size):
        p = i * cube.stride + r * cube.nx
        for c in range(cube.nx):
            if cube.k2[p + c] and not cube.mask[p + c] & second:
                firsts[c] = 1


@njit(cache=True, nogil=True, error_model="numpy")
def fixed_rows(cube, other, start, stop, equal, median, second, out):  # type: ignore[no-untyped-def]
    """Combine other values with the weights and rejections of a finished band.

    Parameters
    ----------
    cube : Cube
        The frames; their states are final.
    other : ndarray of float32
        Values in the layout of ``cube.value``.
    start, stop : int
        Rows of the band.
    equal, median : bool
        All frames have the same weight; take the median.
    second : int
        Bit of second-class values.
    out : ndarray of float32, shape (stop - start, nx)
        Filled; NaN where no value is used.
    """
    n, nx = cube.factor.size, cube.nx
    firsts = np.empty(nx, np.uint8)
    values = np.empty(n)
    for r in range(start, stop):
        _has_first(cube, r, second, firsts)
        for c in range(nx):
            m = 0
            total = 0.0
            signal = 0.0
            for i in range(n):
                p = i * cube.stride + r * nx + c
                if not _used(cube, p, firsts[c], second):
                    continue
                values[m] = other[p]
                m += 1
                w = _weight(cube, equal, i, r, c)
                total += w
                signal += w * other[p]
            out[r - start, c] = np.nan
            if m:
                out[r - start, c] = _middle(values, m) if median else signal / total


@njit(cache=True, nogil=True, error_model="numpy")
def map_rows(cube, start, stop, equal, second, exposure, fwhm, out_exposure, out_fwhm):  # type: ignore[no-untyped-def]
    """Sum of the exposures, and weighted mean of the seeing, of the values used.

    Parameters
    ----------
    cube : Cube
        The frames; their states are final.
    start, stop : int
        Rows of the band.
    equal : bool
        All frames have the same weight.
    second : int
        Bit of second-class values.
    exposure, fwhm : ndarray of float64, shape (n,)
        Of each frame (s, px of the grid); NaN if unknown.
    out_exposure, out_fwhm : ndarray of float32, shape (stop - start, nx)
        Filled; 0 and NaN where no value is used.
    """
    n, nx = cube.factor.size, cube.nx
    firsts = np.empty(nx, np.uint8)
    time, total, size = np.empty(nx), np.empty(nx), np.empty(nx)
    for r in range(start, stop):
        _has_first(cube, r, second, firsts)
        time[:] = 0
        total[:] = 0
        size[:] = 0
        for i in range(n):
            p = i * cube.stride + r * nx
            for c in range(nx):
                if _used(cube, p + c, firsts[c], second):
                    time[c] += exposure[i]
                    if np.isfinite(fwhm[i]):
                        w = _weight(cube, equal, i, r, c)
                        total[c] += w
                        size[c] += w * fwhm[i]
        for c in range(nx):
            out_exposure[r - start, c] = time[c]
            out_fwhm[r - start, c] = size[c] / total[c] if total[c] > 0 else np.nan
