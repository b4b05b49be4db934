"""Compiled code of the shared calibration terms: sums over pairs of frames."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["overlap", "shared_cells"]

#: Beyond this many pixels two kernels have nothing in common.
_REACH = 4.0


@njit(cache=True)
def overlap(lags, shift):  # type: ignore[no-untyped-def]
    """Covariance of one axis at a shift between whole lags (cubic convolution).

    Parameters
    ----------
    lags : ndarray of float64, shape (odd,)
        Covariance at whole lags, the middle one is lag 0.
    shift : float
        Shift in pixels.
    """
    half = lags.size // 2
    d = abs(shift)
    k = int(d)
    if k + 2 > half:
        return 0.0
    f = d - k
    a = lags[half + abs(k - 1)]
    b = lags[half + k]
    c = lags[half + k + 1]
    e = lags[half + k + 2]
    slope = 0.5 * (c - a)
    after = 0.5 * (e - b)
    return b + f * (
        slope + f * (3 * (c - b) - 2 * slope - after + f * (2 * (b - c) + slope + after))
    )


@njit(cache=True)
def shared_cells(group, place, weight, terms, lags, out):  # type: ignore[no-untyped-def]
    """Sum over all pairs of frames that are within reach of each other on the detector.

    Parameters
    ----------
    group : ndarray of int64, shape (3, n)
        Number of the bias, dark and flat of each frame, -1 for none.
    place : ndarray of float64, shape (2, n, cells)
        Position on the detector (x, y); NaN outside.
    weight : ndarray of float64, shape (n, cells)
        Weights, 0 outside.
    terms : ndarray of float64, shape (4, n, cells)
        Sigma times coefficient of bias, dark, and flat (of the sky, of one electron).
    lags : ndarray of float64, shape (n, 2, odd)
        Covariance of the resampled frame along x and y.
    out : ndarray of float64, shape (3, cells)
        Filled with the variance of the sky, and the factors of the signal and its square.
    """
    n, cells = weight.shape
    key = np.empty(n)
    for c in range(cells):
        total = 0.0
        for i in range(n):
            total += weight[i, c]
            key[i] = place[0, i, c] if np.isfinite(place[0, i, c]) else np.inf
        if total <= 0:
            continue
        order = np.argsort(key, kind="mergesort")
        sky = 0.0
        slope = 0.0
        square = 0.0
        for p in range(n):
            i = order[p]
            if not np.isfinite(key[i]):
                break
            for q in range(p + 1, n):
                j = order[q]
                dx = key[j] - key[i]
                if dx >= _REACH:
                    break
                dy = place[1, j, c] - place[1, i, c]
                if abs(dy) >= _REACH:
                    continue
                k = overlap(lags[i, 0], dx) * overlap(lags[i, 1], dy)
                k *= 2 * weight[i, c] * weight[j, c] / (total * total)
                for m in range(2):
                    if group[m, i] >= 0 and group[m, i] == group[m, j]:
                        sky += k * terms[m, i, c] * terms[m, j, c]
                if group[2, i] >= 0 and group[2, i] == group[2, j]:
                    sky += k * terms[2, i, c] * terms[2, j, c]
                    slope += k * (terms[2, i, c] * terms[3, j, c] + terms[3, i, c] * terms[2, j, c])
                    square += k * terms[3, i, c] * terms[3, j, c]
        out[0, c] = sky
        out[1, c] = slope
        out[2, c] = square
