"""Compiled search for places where nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["clear_places"]


@njit(cache=True, nogil=True)
def clear_places(
    x: Any, y: Any, sci: Any, mask: Any, dx: Any, dy: Any, sx: Any, sy: Any, reach: Any
) -> Any:
    """Say which places have good pixels only and no source near.

    Parameters
    ----------
    x, y : ndarray of float64, shape (n,)
        0-based places, all of whose pixels lie on the frame.
    sci, mask : ndarray, shape (ny, nx)
        Image and its mask; a pixel is good if it is finite and has no bit.
    dx, dy : ndarray of int64, shape (m,)
        Pixels of an aperture, relative to its central one.
    sx, sy, reach : ndarray of float64, shape (s,)
        Sources by x, and how far from each is near.
    """
    n = len(x)
    out = np.ones(n, np.bool_)
    most = reach.max() if len(reach) else 0.0
    first = np.searchsorted(sx, x - most)
    for i in range(n):
        for s in range(first[i], len(sx)):
            away = sx[s] - x[i]
            if away > most:
                break
            if away * away + (sy[s] - y[i]) ** 2 <= reach[s] * reach[s]:
                out[i] = False
                break
        if not out[i]:
            continue
        column, row = int(np.rint(x[i])), int(np.rint(y[i]))
        for k in range(len(dx)):
            at_y, at_x = row + dy[k], column + dx[k]
            if mask[at_y, at_x] != 0 or not np.isfinite(sci[at_y, at_x]):
                out[i] = False
                break
    return out
