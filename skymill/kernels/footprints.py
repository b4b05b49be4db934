"""Compiled preparation of resampling: positions, padded input rows, footprints of masks."""

from __future__ import annotations

import numpy as np
from numba import njit

from skymill.kernels.resample import _row_linear, _row_nodes

__all__ = ["footprint_or", "line_linear", "line_positions", "linear_rows", "pad_rows", "row_span"]


@njit(cache=True, nogil=True)
def line_positions(line, step, nx, out):  # type: ignore[no-untyped-def]
    """Cubic along a row of nodes, in the coefficients of each cell, for ``nx`` pixels."""
    for k in range((nx + step - 1) // step):
        a = line[k]
        b = line[k + 1]
        c = line[k + 2]
        d = line[k + 3]
        c1 = c - a / 3 - b / 2 - d / 6
        c2 = (a + c) / 2 - b
        c3 = (d - a) / 6 + (b - c) / 2
        start = k * step
        cell = out[start : min(start + step, nx)]
        for i in range(cell.size):
            f = i / step
            cell[i] = ((c3 * f + c2) * f + c1) * f + b


@njit(cache=True, nogil=True)
def line_linear(line, step, nx, out):  # type: ignore[no-untyped-def]
    """Linear along a row of nodes, for ``nx`` pixels."""
    for k in range((nx + step - 1) // step):
        b = line[k + 1]
        slope = (line[k + 2] - b) / step
        start = k * step
        cell = out[start : min(start + step, nx)]
        for i in range(cell.size):
            cell[i] = b + slope * i


@njit(cache=True, nogil=True)
def linear_rows(nodes, step, row0, rows, nx):  # type: ignore[no-untyped-def]
    """Return a smooth quantity at every pixel of some rows, linear between the nodes.

    Parameters
    ----------
    nodes : ndarray of float64, shape (ky, kx)
        Values at the nodes.
    step, row0, rows, nx : int
        Distance of the nodes; first row, rows and columns.

    Returns
    -------
    ndarray of float32, shape (rows, nx)
    """
    out = np.empty((rows, nx), np.float32)
    line = np.empty(nodes.shape[1], np.float64)
    for r in range(rows):
        _row_linear(nodes, step, row0 + r, line)
        line_linear(line, step, nx, out[r])
    return out


@njit(cache=True, nogil=True)
def row_span(x_nodes, y_nodes, step, row0, rows, nx, my, mx):  # type: ignore[no-untyped-def]
    """Return the lowest and highest input position that some output rows reach.

    Exact on the first and last row and on every row of nodes; between them a smooth
    mapping stays within a pixel.

    Parameters
    ----------
    x_nodes, y_nodes : ndarray of float64, shape (ky, kx)
        0-based input positions at the nodes.
    step, row0, rows, nx : int
        Distance of the nodes; output rows; output columns.
    my, mx : int
        Shape of the input.

    Returns
    -------
    tuple of float
        Lowest and highest y within the frame; the first above the second if none is.
    """
    line = np.empty(x_nodes.shape[1], np.float64)
    x = np.empty(nx, np.float64)
    y = np.empty(nx, np.float64)
    low = np.inf
    high = -np.inf
    row = row0
    end = row0 + rows - 1
    while True:
        _row_nodes(x_nodes, step, row, line)
        line_positions(line, step, nx, x)
        _row_nodes(y_nodes, step, row, line)
        line_positions(line, step, nx, y)
        # Rows between two that are looked at may enter the frame at its corners.
        for c in range(nx):
            near = x[c] > -3 - step and x[c] < mx + 2 + step
            if near and y[c] > -3 - step and y[c] < my + 2 + step:
                low = min(low, y[c])
                high = max(high, y[c])
        if row == end:
            return low, high
        row = min((row // step + 1) * step, end)


@njit(cache=True, nogil=True)
def pad_rows(value, err, mask, bad, edge, no_data, pad, out):  # type: ignore[no-untyped-def]
    """Copy input rows into padded planes: bad pixels hold zero, the border has a bit.

    Parameters
    ----------
    value, err : ndarray of float32, shape (n, mx)
    mask : ndarray of uint16, shape (n, mx)
    bad, edge, no_data : int
        Bits that exclude a pixel; bit of what lies beyond; bit of what is not finite.
    pad : int
        Rows and columns of padding on each side.
    out : tuple of ndarray, shape (n + 2 pad, mx + 2 pad)
        Filled: value (float32), variance (float32) and bits (uint16).
    """
    n, mx = value.shape
    v, s, b = out
    ny = v.shape[0]
    zero = np.float32(0)
    for r in range(ny):
        v[r, :] = zero
        s[r, :] = zero
        b[r, :] = edge
        j = r - pad
        if j < 0 or j >= n:
            continue
        vr = v[r, pad : pad + mx]
        sr = s[r, pad : pad + mx]
        br = b[r, pad : pad + mx]
        source = value[j]
        sigma = err[j]
        bits = mask[j]
        for c in range(mx):
            known = np.isfinite(source[c]) and np.isfinite(sigma[c])
            own = np.int64(bits[c]) | (0 if known else no_data)
            good = (own & bad) == 0
            vr[c] = source[c] if good else zero
            sr[c] = sigma[c] * sigma[c] if good else zero
            br[c] = own


@njit(cache=True, nogil=True)
def _or_shifted(source, shift, out):  # type: ignore[no-untyped-def]
    moved = source[shift:]
    for c in range(moved.size):
        out[c] = source[c] | moved[c]


@njit(cache=True, nogil=True)
def _or_rows(one, two, out):  # type: ignore[no-untyped-def]
    for c in range(out.size):
        out[c] = one[c] | two[c]


@njit(cache=True, nogil=True)
def footprint_or(bits, taps):  # type: ignore[no-untyped-def]
    """Return the OR of ``taps x taps`` pixels, at the lowest row and column of each.

    Parameters
    ----------
    bits : ndarray of uint16, shape (ny, nx)
    taps : int
        Even side of the footprint.

    Returns
    -------
    ndarray of uint16, shape (ny, nx)
        The last ``taps - 1`` rows and columns hold no full footprint and are not used.
    """
    ny, nx = bits.shape
    plane = np.empty_like(bits)
    line = np.empty((2, nx), bits.dtype)
    for r in range(ny):
        line[0] = bits[r]
        have = 1
        now = 0
        while have < taps:
            shift = min(have, taps - have)
            target = plane[r] if have + shift == taps else line[1 - now]
            target[nx - shift :] = 0
            _or_shifted(line[now], shift, target)
            now = 1 - now
            have += shift
    have = 1
    while have < taps:
        shift = min(have, taps - have)
        for r in range(ny - shift):
            _or_rows(plane[r], plane[r + shift], plane[r])
        have += shift
    return plane
