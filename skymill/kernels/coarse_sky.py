"""A coarse map of the sky: its level and scatter in large cells, for judging single pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from skymill.kernels.order_statistics import select

__all__ = ["cell_sky", "expand", "value_at"]

#: A cell with fewer good samples says nothing.
_FEWEST_SAMPLES = 16


@njit(cache=True, nogil=True)
def cell_sky(sci: Any, err: Any, mask: Any, bad: Any, box: Any, step: Any) -> Any:
    """Return median and scatter of every ``step``-th good pixel and row of each cell.

    The scatter is the distance from the median down to the 16th percentile: sources do
    not reach it. NaN where a cell holds fewer than 16 good samples.

    Parameters
    ----------
    sci, err : ndarray of float32, shape (ny, nx)
        Image and its error.
    mask : ndarray of uint16, shape (ny, nx)
        Bits; pixels with any of ``bad`` are left out.
    bad : uint16
        Bits.
    box, step : int
        Side of a cell and distance of the samples in px.

    Returns
    -------
    level, scatter : ndarray of float32, shape (ceil(ny / box), ceil(nx / box))
    """
    ny, nx = sci.shape
    my, mx = (ny + box - 1) // box, (nx + box - 1) // box
    level = np.full((my, mx), np.nan, np.float32)
    scatter = np.full((my, mx), np.nan, np.float32)
    sample = np.empty((box // step + 1) ** 2, np.float32)
    for cy in range(my):
        for cx in range(mx):
            n = 0
            for y in range(cy * box, min((cy + 1) * box, ny), step):
                for x in range(cx * box, min((cx + 1) * box, nx), step):
                    v = sci[y, x]
                    if (mask[y, x] & bad) == 0 and abs(v) < np.inf and err[y, x] > 0:
                        sample[n] = v
                        n += 1
            if n >= _FEWEST_SAMPLES:
                middle = select(sample, n, n // 2)
                level[cy, cx] = middle
                # the smaller half is in front already
                scatter[cy, cx] = middle - select(sample, n // 2 + 1, int(0.1587 * n))
    return level, scatter


@njit(cache=True, nogil=True)
def value_at(mesh: Any, box: Any, y: Any, x: Any) -> Any:
    """Return a mesh of cell centres, interpolated linearly to a pixel; constant outside."""
    my, mx = mesh.shape
    v = min(max((y + 0.5) / box - 0.5, 0.0), my - 1.0)
    u = min(max((x + 0.5) / box - 0.5, 0.0), mx - 1.0)
    j, i = min(int(v), max(my - 2, 0)), min(int(u), max(mx - 2, 0))
    j1, i1 = min(j + 1, my - 1), min(i + 1, mx - 1)
    v, u = v - j, u - i
    low = mesh[j, i] * (1 - u) + mesh[j, i1] * u
    high = mesh[j1, i] * (1 - u) + mesh[j1, i1] * u
    return np.float32(low * (1 - v) + high * v)


@njit(cache=True, nogil=True)
def expand(mesh: Any, box: Any, ny: Any, nx: Any) -> Any:
    """Return a mesh interpolated linearly to every pixel, shape (ny, nx), float32."""
    out = np.empty((ny, nx), np.float32)
    steps = np.arange(max(box, 1)).astype(np.float32)
    for y in range(ny):
        for cx in range(0, nx, box // 2 if box > 1 else 1):
            # between two cell centres the line is straight
            last = min(cx + max(box // 2, 1), nx)
            first, slope = value_at(mesh, box, y, cx), np.float32(0)
            if last - cx > 1:
                slope = (value_at(mesh, box, y, last - 1) - first) / np.float32(last - 1 - cx)
            part = out[y, cx:last]
            for x in range(part.size):
                part[x] = first + slope * steps[x]
    return out
