"""Compiled code of resampling: positions and smooth quantities at nodes.

Arrays in, arrays out, one thread. Smooth quantities (input positions, flux scale,
background variance) are given at *nodes*: node ``k`` of an axis lies at the output pixel
``(k - 1) * step``, so there is one node before the first pixel and there are at least
two after the last.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["node_positions"]


@njit(cache=True)
def _cubic(a: float, b: float, c: float, d: float, f: float) -> float:
    """Lagrange cubic through values at -1, 0, 1, 2."""
    low = f * (f - 1) * (d * (f + 1) - a * (f - 2)) / 6
    return low + (f + 1) * (f - 2) * (b * (f - 1) - c * f) / 2


@njit(cache=True)
def _row_nodes(nodes, step, row, out):  # type: ignore[no-untyped-def]
    """Cubic interpolation of the nodes of a column grid to one output row."""
    k = row // step
    f = (row - k * step) / step
    for i in range(nodes.shape[1]):
        out[i] = _cubic(nodes[k, i], nodes[k + 1, i], nodes[k + 2, i], nodes[k + 3, i], f)


@njit(cache=True)
def _row_linear(nodes, step, row, out):  # type: ignore[no-untyped-def]
    k = row // step
    f = (row - k * step) / step
    for i in range(nodes.shape[1]):
        out[i] = nodes[k + 1, i] * (1 - f) + nodes[k + 2, i] * f


@njit(cache=True)
def node_positions(nodes, step, rows, columns):  # type: ignore[no-untyped-def]
    """Return a smooth quantity at chosen output pixels.

    Parameters
    ----------
    nodes : ndarray of float64, shape (ky, kx)
        Values at the nodes.
    step : int
        Distance of the nodes in output pixels.
    rows, columns : ndarray of int64, shape (n,)
        Output pixels.

    Returns
    -------
    ndarray of float64, shape (n,)
        Cubic interpolation.
    """
    out = np.empty(rows.size, np.float64)
    line = np.empty(4, np.float64)
    for n in range(rows.size):
        j = rows[n] // step
        k = columns[n] // step
        f = (rows[n] - j * step) / step
        for i in range(4):
            m = k + i
            line[i] = _cubic(nodes[j, m], nodes[j + 1, m], nodes[j + 2, m], nodes[j + 3, m], f)
        f = (columns[n] - k * step) / step
        out[n] = _cubic(line[0], line[1], line[2], line[3], f)
    return out
