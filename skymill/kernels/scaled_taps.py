"""Compiled code of kernels that are tabulated by pitch and fraction of the position."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["table_lags", "table_number", "table_weights"]


@njit(cache=True)
def table_number(index, step, row, column):  # type: ignore[no-untyped-def]
    """Number of the table at a pixel: that of the next node."""
    j = min((row + step // 2) // step + 1, index.shape[0] - 1)
    i = min((column + step // 2) // step + 1, index.shape[1] - 1)
    return int(index[j, i])


@njit(cache=True)
def table_weights(f, n, table, weights, squares, total):  # type: ignore[no-untyped-def]
    """Look up the weights of the taps of ``n`` positions along one axis (linear in between).

    Parameters
    ----------
    f : ndarray of float32, shape (>= n,)
        Fraction of the position above its pixel.
    n : int
        Number of positions.
    table : ndarray of float32, shape (steps + 1, taps)
        Weights by fraction.
    weights, squares : ndarray of float32, shape (taps, >= n)
        Filled with the weights and their squares.
    total : ndarray of float32, shape (>= n,)
        Filled with the sum of the squares.
    """
    last = table.shape[0] - 2
    steps = np.float32(last + 1)
    taps = table.shape[1]
    for c in range(n):
        place = f[c] * steps
        k = min(np.int64(place), last)
        g = place - np.float32(k)
        low = table[k]
        high = table[k + 1]
        for t in range(taps):
            weights[t, c] = low[t] + g * (high[t] - low[t])
    total[:n] = 0
    for t in range(taps):
        w = weights[t]
        q = squares[t]
        for c in range(n):
            q[c] = w[c] * w[c]
            total[c] += q[c]


@njit(cache=True)
def _line_product(tables, number, a, b):  # type: ignore[no-untyped-def]
    """Sum of the products of the weights of two positions, to the next entry of the table."""
    table = tables[number]
    steps = table.shape[0] - 1
    taps = table.shape[1]
    first = int(np.floor(a))
    second = int(np.floor(b))
    shift = second - first
    if abs(shift) >= taps:
        return 0.0
    one = table[int((a - first) * steps + 0.5)]
    two = table[int((b - second) * steps + 0.5)]
    total = 0.0
    for t in range(max(0, shift), min(taps, taps + shift)):
        total += np.float64(one[t]) * np.float64(two[t - shift])
    return total


@njit(cache=True)
def table_lags(x, y, jacobian, tables, numbers, half):  # type: ignore[no-untyped-def]
    """As `skymill.kernels.warp_dense.lag_products`, for tabulated kernels.

    Parameters
    ----------
    x, y : ndarray of float64, shape (n,)
        Positions of pixels.
    jacobian : ndarray of float64, shape (4, n)
        Derivatives of x by the output column and row, then of y.
    tables : tuple of ndarray of float32, shape (tables, steps + 1, taps)
        Weights along x and y.
    numbers : ndarray of int64, shape (2, n)
        Table of each pixel along x and y.
    half : int
        Largest lag.

    Returns
    -------
    ndarray of float64, shape (2 half + 1, 2 half + 1)
        Covariance of white noise of variance 1 by lag (dy, dx).
    """
    out = np.zeros((2 * half + 1, 2 * half + 1), np.float64)
    for k in range(x.size):
        for dy in range(-half, half + 1):
            for dx in range(-half, half + 1):
                u = x[k] + jacobian[0, k] * dx + jacobian[1, k] * dy
                v = y[k] + jacobian[2, k] * dx + jacobian[3, k] * dy
                product = _line_product(tables[0], numbers[0, k], x[k], u)
                if product != 0:
                    product *= _line_product(tables[1], numbers[1, k], y[k], v)
                out[half + dy, half + dx] += product
    # Both directions of a lag are one pair of pixels.
    return (out + out[::-1, ::-1]) / (2 * max(x.size, 1))
