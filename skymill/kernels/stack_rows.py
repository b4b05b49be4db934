"""Compiled code of the stack: what frames are before they are resampled.

Background of some rows, signal without it, smooth quantities between nodes, cell medians.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skymill.kernels.mesh import spline_row
from skymill.kernels.order_statistics import select

__all__ = [
    "cell_medians",
    "expand_rows",
    "fill_runs",
    "prepare_rows",
    "runs_of",
    "smooth_rows",
    "word_total",
]


@njit(cache=True, nogil=True)
def expand_rows(spline, y0, y1, nx):  # type: ignore[no-untyped-def]
    """Expand some rows of a prepared mesh (`skymill.kernels.mesh.mesh_spline`).

    Returns
    -------
    ndarray of float32, shape (y1 - y0, nx)
    """
    mx = spline[0].shape[1]
    out = np.empty((y1 - y0, nx), np.float32)
    row, bend, work = np.zeros(mx + 1), np.zeros(mx + 1), np.zeros(mx + 1)
    for y in range(y0, y1):
        spline_row(spline, y, row, bend, work, out[y - y0])
    return out


@njit(cache=True, nogil=True)
def prepare_rows(sci, err, mask, background, bad, no_data, value, sigma, bits):  # type: ignore[no-untyped-def]
    """Subtract the background; bad pixels become zeros that a bit excludes.

    A bad pixel must not leak through a rounded weight, nor a NaN without a bit.

    Parameters
    ----------
    sci, err : ndarray of float32, shape (rows, nx)
        Planes of the frame.
    mask : ndarray of uint16, shape (rows, nx)
        Its bits.
    background : ndarray of float32, shape (rows, nx)
        To be subtracted.
    bad, no_data : int
        Bits that exclude a pixel; bit set where value or error is not finite.
    value, sigma, bits : ndarray, shape (rows, nx)
        Filled.
    """
    # One result at a time: the compiler then does several pixels at once.
    for r in range(sci.shape[0]):
        _mark_row(sci[r], err[r], mask[r], np.uint16(no_data), bits[r])
        _subtract_row(sci[r], background[r], bits[r], np.uint16(bad), value[r])
        _select_row(err[r], bits[r], np.uint16(bad), sigma[r])


@njit(cache=True, nogil=True)
def _mark_row(sci, err, mask, no_data, bits):  # type: ignore[no-untyped-def]
    for c in range(sci.size):
        # The difference of a value that is not finite from itself is not zero.
        finite = (sci[c] - sci[c] == 0) & (err[c] - err[c] == 0)
        bits[c] = mask[c] | (np.uint16(0) if finite else no_data)


@njit(cache=True, nogil=True)
def _subtract_row(sci, background, bits, bad, value):  # type: ignore[no-untyped-def]
    for c in range(sci.size):
        v = sci[c] - background[c]
        value[c] = v if (bits[c] & bad) == 0 else np.float32(0)


@njit(cache=True, nogil=True)
def _select_row(err, bits, bad, sigma):  # type: ignore[no-untyped-def]
    for c in range(err.size):
        s = err[c]
        sigma[c] = s if (bits[c] & bad) == 0 else np.float32(0)


@njit(cache=True, nogil=True, error_model="numpy")
def smooth_rows(nodes, step, row0, rows, nx, out):  # type: ignore[no-untyped-def]
    """Interpolate a smooth quantity linearly at every eighth column of some rows.

    Parameters
    ----------
    nodes : ndarray of float64, shape (ky, kx)
        Values at the nodes: node ``k`` of an axis lies at the pixel ``(k - 1) * step``.
    step, row0, rows, nx : int
        Distance of the nodes; first row, number of rows, number of columns.
    out : ndarray of float32, shape (rows, ceil(nx / 8))
        Filled with the value at the middle of each group of eight columns; 1 where it is
        not known, which is where no pixel is used.
    """
    line = np.empty(nodes.shape[1])
    for r in range(rows):
        j = (row0 + r) // step
        g = (row0 + r - j * step) / step
        for k in range(line.size):
            line[k] = nodes[j + 1, k] * (1 - g) + nodes[j + 2, k] * g
        for i in range(out.shape[1]):
            x = min(8 * i + 3.5, nx - 1.0)
            k = int(x) // step
            f = (x - k * step) / step
            value = line[k + 1] * (1 - f) + line[k + 2] * f
            out[r, i] = value if np.isfinite(value) and value > 0 else 1.0


@njit(cache=True, nogil=True)
def cell_medians(value, k2, size, out):  # type: ignore[no-untyped-def]
    """Median of the usable values of some rows in each of ``out.size`` runs of columns.

    NaN where fewer than half of the pixels are usable.
    """
    rows, nx = value.shape
    buffer = np.empty(rows * size, np.float32)
    for i in range(out.size):
        stop = min((i + 1) * size, nx)
        m = 0
        for r in range(rows):
            for c in range(i * size, stop):
                if k2[r, c]:
                    buffer[m] = value[r, c]
                    m += 1
        half = rows * (stop - i * size) / 2
        out[i] = select(buffer, m, m // 2) if m > 0 and m >= half else np.nan


@njit(cache=True, nogil=True)
def word_total(words):  # type: ignore[no-untyped-def]
    """Sum of 32-bit words in the byte order of this machine."""
    total = np.uint64(0)
    for i in range(words.size):
        total += np.uint64(words[i])
    return total


@njit(cache=True, nogil=True)
def runs_of(mask, starts, values):  # type: ignore[no-untyped-def]
    """Write where runs of equal bits begin; returns how many there are.

    Parameters
    ----------
    mask : ndarray of uint16, shape (n,)
        Mask, row after row.
    starts, values : ndarray
        Filled as far as they reach; too small ones only count.
    """
    found = 0
    last = -1
    for i in range(mask.size):
        value = int(mask[i])
        if value != last:
            if found < starts.size:
                starts[found] = i
                values[found] = mask[i]
            found += 1
            last = value
    return found


@njit(cache=True, nogil=True)
def fill_runs(starts, values, first, out):  # type: ignore[no-untyped-def]
    """Expand runs into ``out``, which begins at the pixel ``first``."""
    k = np.searchsorted(starts, first, side="right") - 1
    stop = first + out.size
    place = first
    while place < stop:
        end = starts[k + 1] if k + 1 < starts.size else stop
        end = min(end, stop)
        out[place - first : end - first] = values[k]
        place = end
        k += 1
