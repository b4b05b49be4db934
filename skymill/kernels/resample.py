"""Compiled code of resampling: pixel positions, smooth quantities, exact variance.

Arrays in, arrays out, one thread. Smooth quantities (input positions, flux scale,
background variance) are given at *nodes*: node ``k`` of an axis lies at the output pixel
``(k - 1) * step``, so there is one node before the first pixel and there are at least
two after the last.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["node_positions", "resample_band", "smooth_rows"]

#: Taps of less weight do not count as touched: they are rounding of whole shifts.
_TOUCH = 1e-5


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


@njit(cache=True)
def smooth_rows(nodes, step, row0, rows, nx):  # type: ignore[no-untyped-def]
    """Return a smooth quantity for every eighth column of some rows (linear).

    Parameters
    ----------
    nodes : ndarray of float64, shape (ky, kx)
        Values at the nodes.
    step : int
        Distance of the nodes in output pixels.
    row0, rows, nx : int
        First row, number of rows, number of output columns.

    Returns
    -------
    ndarray of float32, shape (rows, ceil(nx / 8))
        Value at the middle of each group of eight columns.
    """
    out = np.empty((rows, (nx + 7) // 8), np.float32)
    line = np.empty(nodes.shape[1], np.float64)
    for r in range(rows):
        _row_linear(nodes, step, row0 + r, line)
        for j in range(out.shape[1]):
            x = min(8 * j + 3.5, nx - 1.0)
            k = int(x) // step
            f = (x - k * step) / step
            out[r, j] = line[k + 1] * (1 - f) + line[k + 2] * f
    return out


@njit(cache=True, nogil=True)
def resample_band(  # type: ignore[no-untyped-def]
    value,
    err,
    mask,
    x_nodes,
    y_nodes,
    scale_nodes,
    step,
    row0,
    bad,
    edge,
    no_data,
    out_value,
    out_var,
    out_k2,
    out_mask,
):
    """Finish one frame's band: exact variance, touched mask bits, flux scale.

    ``V = a^2 sum k^2 V_j`` over the four bilinear taps, with ``a`` the flux scale times
    the pixel-area ratio. A tap touches the pixel if its weight exceeds 1e-5.

    Parameters
    ----------
    value : ndarray of float32, shape (rows, nx)
        Bilinear resampled signal of the output rows ``row0 ...`` (frame's own unit).
    err, mask : ndarray, shape (my, mx)
        Planes of the input frame.
    x_nodes, y_nodes, scale_nodes : ndarray of float64, shape (ky, kx)
        0-based input positions and flux scale ``a`` at the nodes.
    step, row0 : int
        Distance of the nodes; first output row.
    bad, edge, no_data : int
        Bits that exclude a pixel; bits to set where the kernel leaves the frame, and
        where a value or error is not finite.
    out_value, out_var : ndarray of float32, shape (rows, nx)
        Scaled signal and variance; NaN where excluded.
    out_k2 : ndarray of uint8, shape (rows, nx)
        Sum of the squared kernel times 255; 0 where excluded.
    out_mask : ndarray of uint16, shape (rows, nx)
        Bits of all touched pixels; 0 where the frame does not reach.
    """
    rows, nx = out_value.shape
    my, mx = err.shape
    xs = np.empty(x_nodes.shape[1], np.float64)
    ys = np.empty(x_nodes.shape[1], np.float64)
    scales = np.empty(x_nodes.shape[1], np.float64)
    wx = np.empty(2, np.float64)
    wy = np.empty(2, np.float64)
    for r in range(rows):
        _row_nodes(x_nodes, step, row0 + r, xs)
        _row_nodes(y_nodes, step, row0 + r, ys)
        _row_linear(scale_nodes, step, row0 + r, scales)
        for c in range(nx):
            out_value[r, c] = np.nan
            out_var[r, c] = np.nan
            out_k2[r, c] = 0
            out_mask[r, c] = 0
            k = c // step
            f = (c - k * step) / step
            x = _cubic(xs[k], xs[k + 1], xs[k + 2], xs[k + 3], f)
            y = _cubic(ys[k], ys[k + 1], ys[k + 2], ys[k + 3], f)
            if not (x > -1 and y > -1 and x < mx and y < my):
                continue
            ix = int(np.floor(x))
            iy = int(np.floor(y))
            wx[1] = x - ix
            wx[0] = 1 - wx[1]
            wy[1] = y - iy
            wy[0] = 1 - wy[1]
            bits = 0
            variance = 0.0
            k2 = 0.0
            for j in range(2):
                for i in range(2):
                    weight = wy[j] * wx[i]
                    if weight <= _TOUCH:
                        continue
                    if iy + j < 0 or ix + i < 0 or iy + j >= my or ix + i >= mx:
                        bits |= edge
                        continue
                    bits |= mask[iy + j, ix + i]
                    sigma = np.float64(err[iy + j, ix + i])
                    if not np.isfinite(sigma):
                        bits |= no_data
                    variance += weight * weight * sigma * sigma
                    k2 += weight * weight
            a = scales[k + 1] * (1 - f) + scales[k + 2] * f
            v = np.float64(value[r, c]) * a
            if not np.isfinite(v):
                bits |= no_data
            out_mask[r, c] = bits
            if bits & bad:
                continue
            out_value[r, c] = v
            out_var[r, c] = variance * a * a
            out_k2[r, c] = max(1, min(255, int(k2 * 255 + 0.5)))
