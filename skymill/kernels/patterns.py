"""Counting how many stars each of many hypotheses brings near a reference star."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["raster_votes"]


@njit(cache=True)
def raster_votes(
    a: np.ndarray, b: np.ndarray, source: np.ndarray, low: complex, step: float, raster: np.ndarray
) -> np.ndarray:
    """Return, for each map ``z -> a z + b``, the sources that fall on a set cell.

    Parameters
    ----------
    a, b : ndarray of complex128, shape (n,)
        The maps.
    source : ndarray of complex128, shape (m,)
        Positions x + iy.
    low, step : complex and float
        Corner of the raster and size of its cells.
    raster : ndarray of bool, shape (ny, nx)
        Cells near a reference star.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    ny, nx = raster.shape
    votes = np.zeros(len(a), dtype=np.int64)
    scale = 1.0 / step
    for i in range(len(a)):
        count = 0
        for k in range(len(source)):
            z = a[i] * source[k] + b[i] - low
            x, y = z.real * scale, z.imag * scale
            if x >= 0.0 and y >= 0.0 and x < nx and y < ny and raster[int(y), int(x)]:
                count += 1
        votes[i] = count
    return votes
