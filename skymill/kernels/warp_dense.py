"""Compiled resampling with any footprint: wider kernels, pixel overlap, oversampling.

Slower than `skymill.kernels.warp`, and free of its limits: the weights of all input pixels
are set up for each output pixel. A kernel's ``rule`` is (kind, support, widen, samples):
kind 0 is the nearest pixel, 1 the overlap with a box (support 1/2: the output pixel), 2 a table
of the kernel at distances of 1/2048; a widened kernel is stretched by the local scale where
that exceeds 1; several samples per axis are averaged over the output pixel.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skymill.kernels.footprints import line_linear, line_positions
from skymill.kernels.resample import _row_linear, _row_nodes
from skymill.kernels.warp import _TOUCH, _inside, bilinear_pixel

__all__ = ["TABLE_STEPS", "dense_band", "lag_products"]

TABLE_STEPS = 2048


@njit(cache=True)
def _axis(x, stretch, table, rule, w):  # type: ignore[no-untyped-def]
    """Weights along one axis, sum 1; returns the first pixel and how many."""
    kind, support, _, _ = rule
    if kind == 0:
        w[0] = 1.0
        return int(np.floor(x + 0.5)), 1
    if kind == 1:
        low = x - support * stretch
        high = x + support * stretch
        first = int(np.floor(low + 0.5))
        last = int(np.floor(high + 0.5))
    else:
        first = int(np.ceil(x - support * stretch))
        last = int(np.floor(x + support * stretch))
    total = 0.0
    for i in range(first, last + 1):
        if kind == 1:
            value = max(min(high, i + 0.5) - max(low, i - 0.5), 0.0)
        else:
            place = abs(i - x) / stretch * TABLE_STEPS
            k = min(int(place), table.size - 2)
            f = place - k
            value = table[k] * (1 - f) + table[k + 1] * f
        w[i - first] = value
        total += value
    n = last - first + 1
    for i in range(n):
        w[i] /= total
    return first, n


@njit(cache=True)
def _stretch(u, v, rule):  # type: ignore[no-untyped-def]
    """Width along one input axis from the derivatives by the two output axes."""
    size = np.sqrt(u * u + v * v)
    if rule[0] == 1:
        return max(size, 1.0 if rule[1] > 0.5 else 1e-3)
    return max(size, 1.0) if rule[2] else 1.0


@njit(cache=True)
def _weights(x, y, jac, table, rule, wx, wy, dense):  # type: ignore[no-untyped-def]
    """Fill the weights of all touched pixels; returns (y, x, rows, columns) of them."""
    size_x = _stretch(jac[0], jac[1], rule)
    size_y = _stretch(jac[2], jac[3], rule)
    samples = rule[3]
    if samples == 1:
        x0, nx = _axis(x, size_x, table, rule, wx)
        y0, ny = _axis(y, size_y, table, rule, wy)
        for j in range(ny):
            for i in range(nx):
                dense[j, i] = wy[j] * wx[i]
        return y0, x0, ny, nx
    far = 0.5 * (samples - 1) / samples
    reach_x = (abs(jac[0]) + abs(jac[1])) * far + rule[1] * size_x
    reach_y = (abs(jac[2]) + abs(jac[3])) * far + rule[1] * size_y
    x0 = int(np.floor(x - reach_x))
    y0 = int(np.floor(y - reach_y))
    nx = int(np.ceil(x + reach_x)) - x0 + 1
    ny = int(np.ceil(y + reach_y)) - y0 + 1
    dense[:ny, :nx] = 0
    share = 1.0 / (samples * samples)
    for q in range(samples):
        v = (q + 0.5) / samples - 0.5
        for p in range(samples):
            u = (p + 0.5) / samples - 0.5
            ax, mx = _axis(x + jac[0] * u + jac[1] * v, size_x, table, rule, wx)
            ay, my = _axis(y + jac[2] * u + jac[3] * v, size_y, table, rule, wy)
            for j in range(my):
                for i in range(mx):
                    dense[ay - y0 + j, ax - x0 + i] += share * wy[j] * wx[i]
    return y0, x0, ny, nx


@njit(cache=True, nogil=True)
def dense_band(  # type: ignore[no-untyped-def]
    planes,
    top,
    pad,
    in_shape,
    nodes,
    jacobian,
    step,
    row0,
    table,
    rule,
    bits_used,
    out,
):
    """Resample one band with a kernel of any width.

    Parameters
    ----------
    planes, top, pad, in_shape, nodes, step, row0, bits_used, out
        As for `skymill.kernels.warp.warp_band`.
    jacobian : ndarray of float64, shape (4, ky, kx)
        Derivatives of x by the output column and row, then of y, at the nodes.
    table : ndarray of float64, shape (n,)
        Kernel by distance.
    rule : tuple
        Kind, support, whether to widen, samples per axis.
    """
    my, mx = in_shape
    value, variance, bits = planes
    out_value, out_var, out_k2, out_mask = out
    rows, nx = out_value.shape
    bad, second = bits_used
    bottom = top + value.shape[0] - 2 * pad
    line = np.empty(nodes[0].shape[1], np.float64)
    x = np.empty(nx, np.float64)
    y = np.empty(nx, np.float64)
    a = np.empty(nx, np.float64)
    jac = np.empty((4, nx), np.float64)
    here = np.empty(4, np.float64)
    inside = np.empty(nx, np.bool_)
    wx = np.empty(2 * pad + 4, np.float64)
    wy = np.empty(2 * pad + 4, np.float64)
    dense = np.empty((2 * pad + 4, 2 * pad + 4), np.float64)
    for r in range(rows):
        _row_nodes(nodes[0], step, row0 + r, line)
        line_positions(line, step, nx, x)
        _row_nodes(nodes[1], step, row0 + r, line)
        line_positions(line, step, nx, y)
        _row_linear(nodes[2], step, row0 + r, line)
        line_linear(line, step, nx, a)
        for d in range(4):
            _row_linear(jacobian[d], step, row0 + r, line)
            line_linear(line, step, nx, jac[d])
        out_value[r, :] = np.nan
        out_var[r, :] = np.nan
        out_k2[r, :] = 0
        out_mask[r, :] = 0
        if not _inside(x, y, a, mx, my, inside):
            continue
        for c in range(nx):
            if not inside[c]:
                continue
            for d in range(4):
                here[d] = jac[d, c]
            y0, x0, ny, n = _weights(x[c], y[c], here, table, rule, wx, wy, dense)
            # Rows that were not read hold nothing; beyond them the frame counts as ended.
            j0 = y0 - top + pad
            i0 = x0 + pad
            found = 0
            v = 0.0
            s = 0.0
            k2 = 0.0
            for j in range(max(-j0, 0), min(ny, value.shape[0] - j0)):
                for i in range(max(-i0, 0), min(n, value.shape[1] - i0)):
                    w = dense[j, i]
                    if abs(w) > _TOUCH:
                        found |= bits[j0 + j, i0 + i]
                    v += w * value[j0 + j, i0 + i]
                    w *= w
                    s += w * variance[j0 + j, i0 + i]
                    k2 += w
            out_mask[r, c] = found
            if found & bad:
                if rule[0] == 0:
                    continue
                by = min(max(int(np.floor(y[c])), top - 1), bottom)
                bx = int(np.floor(x[c]))
                fy, fx = np.float32(y[c] - by), np.float32(x[c] - bx)
                v, s, k2 = bilinear_pixel(planes, by - top + pad, bx + pad, fx, fy, bad)
                if k2 == 0:
                    continue
                out_mask[r, c] = found | second
            out_value[r, c] = v * a[c]
            out_var[r, c] = s * a[c] * a[c]
            out_k2[r, c] = max(1, min(65535, int(k2 * 65535 + 0.5)))


@njit(cache=True)
def lag_products(x, y, jacobian, table, rule, half, size):  # type: ignore[no-untyped-def]
    """Return ``sum_j k_pj k_qj`` of pixels p and their neighbours q, averaged over p.

    Neighbours are placed by the local derivatives; over five pixels that is exact to the
    curvature of the mapping.

    Parameters
    ----------
    x, y : ndarray of float64, shape (n,)
        Positions of the pixels p.
    jacobian : ndarray of float64, shape (4, n)
        Derivatives of x by the output column and row, then of y.
    table, rule
        Kernel, as for `dense_band`.
    half : int
        Largest lag.
    size : int
        Largest number of taps per axis.

    Returns
    -------
    ndarray of float64, shape (2 half + 1, 2 half + 1)
        Covariance of white noise of variance 1 by lag (dy, dx).
    """
    out = np.zeros((2 * half + 1, 2 * half + 1), np.float64)
    wx = np.empty(size, np.float64)
    wy = np.empty(size, np.float64)
    if rule[3] == 1:  # the product of two profiles: so is the sum
        _lag_products_1d(x, y, jacobian, table, rule, half, (wx, wy, wx.copy(), wy.copy()), out)
        return _mirrored(out) / max(x.size, 1)
    one = np.empty((size, size), np.float64)
    two = np.empty((size, size), np.float64)
    for k in range(x.size):
        jac = jacobian[:, k].copy()
        y0, x0, ny, nx = _weights(x[k], y[k], jac, table, rule, wx, wy, one)
        for dy in range(half + 1):
            for dx in range(-half, half + 1):
                if dy == 0 and dx < 0:
                    continue
                u = x[k] + jac[0] * dx + jac[1] * dy
                v = y[k] + jac[2] * dx + jac[3] * dy
                y1, x1, my, mx = _weights(u, v, jac, table, rule, wx, wy, two)
                total = 0.0
                for j in range(max(y0, y1), min(y0 + ny, y1 + my)):
                    for i in range(max(x0, x1), min(x0 + nx, x1 + mx)):
                        total += one[j - y0, i - x0] * two[j - y1, i - x1]
                out[half + dy, half + dx] += total
    return _mirrored(out) / max(x.size, 1)


@njit(cache=True)
def _lag_products_1d(x, y, jacobian, table, rule, half, work, out):  # type: ignore[no-untyped-def]
    """Add the sums of a separable kernel; ``work`` holds two pairs of weights."""
    wx, wy, vx, vy = work
    for k in range(x.size):
        a, b, c, d = jacobian[0, k], jacobian[1, k], jacobian[2, k], jacobian[3, k]
        size_x, size_y = _stretch(a, b, rule), _stretch(c, d, rule)
        x0, nx = _axis(x[k], size_x, table, rule, wx)
        y0, ny = _axis(y[k], size_y, table, rule, wy)
        for dy in range(half + 1):
            for dx in range(-half if dy else 0, half + 1):
                x1, mx = _axis(x[k] + a * dx + b * dy, size_x, table, rule, vx)
                along = 0.0
                for i in range(max(x0, x1), min(x0 + nx, x1 + mx)):
                    along += wx[i - x0] * vx[i - x1]
                if along == 0.0:
                    continue
                y1, my = _axis(y[k] + c * dx + d * dy, size_y, table, rule, vy)
                across = 0.0
                for j in range(max(y0, y1), min(y0 + ny, y1 + my)):
                    across += wy[j - y0] * vy[j - y1]
                out[half + dy, half + dx] += along * across


@njit(cache=True)
def _mirrored(out):  # type: ignore[no-untyped-def]
    """Fill the lags that are minus those filled."""
    half = out.shape[0] // 2
    for dy in range(half + 1):
        for dx in range(-half, half + 1):
            if dy > 0 or dx > 0:
                out[half - dy, half - dx] = out[half + dy, half + dx]
    return out
