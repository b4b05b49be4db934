"""Compiled resampling with kernels that are tabulated by pitch and fraction of the position.

The tables come from `skymill.engines.scaled`. Taps are laid out in blocks of eight, which the
compiler turns into vector code, in a fixed order of sums.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skymill.kernels.footprints import line_linear, line_positions
from skymill.kernels.resample import _row_linear, _row_nodes
from skymill.kernels.taps import table_number
from skymill.kernels.warp import _TOUCH, _inside, bilinear_pixel

__all__ = ["scaled_band", "table_lags"]


@njit(cache=True)
def _look_up(table, f, w, q):  # type: ignore[no-untyped-def]
    """Weights at a fraction, linear between two entries; their squares, and the sum of these."""
    last = table.shape[0] - 2
    place = f * np.float32(last + 1)
    k = min(np.int64(place), last)
    g = place - np.float32(k)
    total = np.float32(0)
    for at in range(0, w.size, 8):
        a = table[k, at : at + 8]
        b = table[k + 1, at : at + 8]
        a0, a1, a2, a3, a4, a5, a6, a7 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
        b0, b1, b2, b3, b4, b5, b6, b7 = b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]
        a0 += g * (b0 - a0)
        a1 += g * (b1 - a1)
        a2 += g * (b2 - a2)
        a3 += g * (b3 - a3)
        a4 += g * (b4 - a4)
        a5 += g * (b5 - a5)
        a6 += g * (b6 - a6)
        a7 += g * (b7 - a7)
        o = w[at : at + 8]
        o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7] = a0, a1, a2, a3, a4, a5, a6, a7
        a0, a1, a2, a3 = a0 * a0, a1 * a1, a2 * a2, a3 * a3
        a4, a5, a6, a7 = a4 * a4, a5 * a5, a6 * a6, a7 * a7
        o = q[at : at + 8]
        o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7] = a0, a1, a2, a3, a4, a5, a6, a7
        total += ((a0 + a4) + (a1 + a5)) + ((a2 + a6) + (a3 + a7))
    return total


@njit(cache=True)
def _sum_eight(plane, y, x, wy, wx, at):  # type: ignore[no-untyped-def]
    """Weighted sum over all rows of eight columns."""
    zero = np.float32(0)
    a0, a1, a2, a3, a4, a5, a6, a7 = zero, zero, zero, zero, zero, zero, zero, zero
    for j in range(wy.size):
        # Places in a slice are known not to be negative, which a vector load needs.
        row = plane[y + j, x : x + 8]
        w = wy[j]
        a0 += w * row[0]
        a1 += w * row[1]
        a2 += w * row[2]
        a3 += w * row[3]
        a4 += w * row[4]
        a5 += w * row[5]
        a6 += w * row[6]
        a7 += w * row[7]
    part = wx[at : at + 8]
    w0, w1, w2, w3, w4, w5, w6, w7 = (
        part[0], part[1], part[2], part[3], part[4], part[5], part[6], part[7],
    )  # fmt: skip
    left = (a0 * w0 + a4 * w4) + (a1 * w1 + a5 * w5)
    return left + ((a2 * w2 + a6 * w6) + (a3 * w3 + a7 * w7))


@njit(cache=True)
def _touched(bits, y, x, wy, wx):  # type: ignore[no-untyped-def]
    """Bits of all taps whose weight counts."""
    found = 0
    for j in range(wy.size):
        for i in range(wx.size):
            if abs(wy[j] * wx[i]) > _TOUCH:
                found |= bits[y + j, x + i]
    return found


@njit(cache=True, nogil=True)
def scaled_band(  # type: ignore[no-untyped-def]
    planes,
    footprint,
    top,
    pad,
    in_shape,
    nodes,
    step,
    row0,
    tables,
    bits_used,
    out,
):
    """Resample one band.

    Parameters
    ----------
    planes, footprint, top, pad, in_shape, nodes, step, row0, bits_used, out
        As for `skymill.kernels.warp.warp_band`.
    tables : tuple of ndarray
        Weights along x and y (float32, shape (tables, steps + 1, taps), taps a multiple of
        eight), and the number of the table at the nodes (float64, shape (2, ky, kx)).
    """
    my, mx = in_shape
    x_tables, y_tables, index = tables
    value, variance, bits = planes
    out_value, out_var, out_k2, out_mask = out
    rows, nx = out_value.shape
    bad, second = bits_used
    taps = x_tables.shape[2]
    before = taps // 2 - 1
    low = top - 1
    bottom = top + value.shape[0] - 2 * pad
    line = np.empty(nodes[0].shape[1], np.float64)
    x = np.empty(nx, np.float64)
    y = np.empty(nx, np.float64)
    a = np.empty(nx, np.float64)
    inside = np.empty(nx, np.bool_)
    wx = np.empty(taps, np.float32)
    wy = np.empty(taps, np.float32)
    qx = np.empty(taps, np.float32)
    qy = np.empty(taps, np.float32)
    for r in range(rows):
        _row_nodes(nodes[0], step, row0 + r, line)
        line_positions(line, step, nx, x)
        _row_nodes(nodes[1], step, row0 + r, line)
        line_positions(line, step, nx, y)
        _row_linear(nodes[2], step, row0 + r, line)
        line_linear(line, step, nx, a)
        out_value[r, :] = np.nan
        out_var[r, :] = np.nan
        out_k2[r, :] = 0
        out_mask[r, :] = 0
        if not _inside(x, y, a, mx, my, inside):
            continue
        for start in range(0, nx, step):
            x_table = x_tables[table_number(index[0], step, row0 + r, start)]
            y_table = y_tables[table_number(index[1], step, row0 + r, start)]
            for c in range(start, min(start + step, nx)):
                if not inside[c]:
                    continue
                ix = int(np.floor(x[c]))
                iy = min(max(int(np.floor(y[c])), low), bottom)
                fx = np.float32(x[c] - ix)
                fy = np.float32(min(max(y[c] - iy, 0.0), 1.0))
                k2 = _look_up(x_table, fx, wx, qx) * _look_up(y_table, fy, wy, qy)
                at_y = iy - top + pad
                at_x = ix + pad
                y0 = at_y - before
                x0 = at_x - before
                found = np.int64(footprint[y0, x0])
                if found:
                    found = _touched(bits, y0, x0, wy, wx)
                    out_mask[r, c] = found
                scale = a[c]
                if found & bad:
                    v1, s1, q1 = bilinear_pixel(planes, at_y, at_x, fx, fy, bad)
                    if q1 == 0:
                        continue
                    out_value[r, c] = v1 * scale
                    out_var[r, c] = s1 * scale * scale
                    out_k2[r, c] = max(1, min(65535, int(q1 * 65535 + 0.5)))
                    out_mask[r, c] = found | second
                    continue
                v = np.float32(0)
                s = np.float32(0)
                for at in range(0, taps, 8):
                    v += _sum_eight(value, y0, x0 + at, wy, wx, at)
                    s += _sum_eight(variance, y0, x0 + at, qy, qx, at)
                out_value[r, c] = v * scale
                out_var[r, c] = s * scale * scale
                out_k2[r, c] = max(1, min(65535, int(k2 * 65535 + 0.5)))


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
