"""Compiled resampling of a band: value, exact variance, squared kernel and mask in one pass.

Runs of neighbouring pixels are summed by `skymill.kernels.tap_runs`; what lies near bad pixels
is mended afterwards.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skymill.kernels.footprints import line_linear, line_positions
from skymill.kernels.resample import _row_linear, _row_nodes
from skymill.kernels.tap_runs import CHUNK, SQUARES, SUMS, WORK, tap_sums
from skymill.kernels.taps import table_number, table_weights, tap_weights

__all__ = ["warp_band"]

#: Taps of less weight do not count as touched: they are rounding of whole shifts.
_TOUCH = 1e-5


@njit(cache=True)
def _touched(bits, y, x, wx, wy, k):  # type: ignore[no-untyped-def]
    """Bits of all taps whose weight counts."""
    taps = wx.shape[0]
    found = 0
    for j in range(taps):
        if abs(wy[j, k]) <= _TOUCH / 2:
            continue
        for i in range(taps):
            if abs(wx[i, k] * wy[j, k]) > _TOUCH:
                found |= bits[y + j, x + i]
    return found


@njit(cache=True)
def _least(weights, n, least):  # type: ignore[no-untyped-def]
    """Smallest size of a weight of each position."""
    for c in range(n):
        least[c] = abs(weights[0, c])
    for t in range(1, weights.shape[0]):
        line = weights[t]
        for c in range(n):
            w = abs(line[c])
            least[c] = w if w < least[c] else least[c]


@njit(cache=True)
def bilinear_pixel(planes, y, x, fx, fy, bad):  # type: ignore[no-untyped-def]
    """Bilinear value, variance and squared sum; the last is 0 where a tap is bad."""
    value, variance, bits = planes
    zero = np.float32(0)
    one = np.float32(1)
    touch = np.float32(_TOUCH)
    gx = one - fx
    gy = one - fy
    a, b, c, d = gy * gx, gy * fx, fy * gx, fy * fx
    # A tap that does not count is not looked at.
    a = a if a > touch else zero
    b = b if b > touch else zero
    c = c if c > touch else zero
    d = d if d > touch else zero
    # Places in a slice are known not to be negative.
    low, high = bits[y, x : x + 2], bits[y + 1, x : x + 2]
    found = (low[0] if a > 0 else np.uint16(0)) | (low[1] if b > 0 else np.uint16(0))
    found |= (high[0] if c > 0 else np.uint16(0)) | (high[1] if d > 0 else np.uint16(0))
    if found & bad:
        return zero, zero, zero
    v0, v1 = value[y, x : x + 2], value[y + 1, x : x + 2]
    s0, s1 = variance[y, x : x + 2], variance[y + 1, x : x + 2]
    v = (a * v0[0] + b * v0[1]) + (c * v1[0] + d * v1[1])
    a, b, c, d = a * a, b * b, c * c, d * d
    return v, (a * s0[0] + b * s0[1]) + (c * s1[0] + d * s1[1]), (a + b) + (c + d)


@njit(cache=True)
def _split(position, n, first, last, nearest, whole, fraction):  # type: ignore[no-untyped-def]
    """Pixel and fraction of positions, held within ``first`` and ``last``; NaN is first."""
    for c in range(n):
        p = position[c]
        p = p if p > first else first
        p = p if p < last else last
        base = np.floor(p)
        f = np.float32(p - base)
        if nearest:
            f = np.float32(1) if f >= np.float32(0.5) else np.float32(0)
        whole[c] = np.int32(base)
        fraction[c] = f


@njit(cache=True)
def _finish(a, n, sx, sy, work, v, s, k2):  # type: ignore[no-untyped-def]
    """Flux scale, and the squared sum as an integer of at least 1."""
    sums = work[SUMS * CHUNK :]
    full = np.float32(65535)
    half = np.float32(0.5)
    one = np.float32(1)
    for c in range(n):
        scale = np.float32(a[c])
        v[c] = sums[c] * scale
        s[c] = sums[CHUNK + c] * (scale * scale)
        q = sx[c] * sy[c] * full + half
        q = q if q > one else one
        q = q if q < full else full
        k2[c] = np.uint16(np.int32(q))


@njit(cache=True)
def _run_end(ix, iy, inside, first, n):  # type: ignore[no-untyped-def]
    """End of the run of neighbouring input pixels that begins at ``first``."""
    shift = ix[first] - np.int32(first)
    y = iy[first]
    k = first
    # Whole blocks without a branch per pixel, then to the pixel.
    while k + 32 <= n:
        bx = ix[k : k + 32]
        by = iy[k : k + 32]
        bi = inside[k : k + 32]
        broken = np.int32(0)
        base = shift + np.int32(k)
        for c in range(32):
            broken |= (bx[c] - np.int32(c)) ^ base
            broken |= by[c] ^ y
            broken |= np.int32(not bi[c])
        if broken:
            break
        k += 32
    while k < n and ix[k] - np.int32(k) == shift and iy[k] == y and inside[k]:
        k += 1
    return k


@njit(cache=True)
def _unfinished(mask, inside):  # type: ignore[no-untyped-def]
    """Whether a pixel lies outside or has a bit somewhere in its footprint."""
    bits = np.uint16(0)
    out = False
    for c in range(mask.size):
        bits |= mask[c]
    for c in range(inside.size):
        out |= not inside[c]
    return out or bits != 0


@njit(cache=True)
def _reversed(line):  # type: ignore[no-untyped-def]
    n = line.size
    for c in range(n // 2):
        line[c], line[n - 1 - c] = line[n - 1 - c], line[c]


@njit(cache=True)
def _inside(x, y, a, mx, my, inside):  # type: ignore[no-untyped-def]
    """Mark pixels between the outermost bilinear taps; returns whether there is one."""
    found = False
    for c in range(inside.size):
        here = (x[c] > -1) & (x[c] < mx) & (y[c] > -1) & (y[c] < my) & (a[c] == a[c])
        inside[c] = here
        found |= here
    return found


@njit(cache=True)
def _mend(planes, place, pads, bits_used, weights, least, a, inside, chosen, out):  # type: ignore[no-untyped-def]
    """Pixels outside the frame, and those whose footprint holds a bit."""
    iy, ix, fy, fx = place
    top, pad = pads
    bad, second = bits_used
    wx, wy = weights
    lx, ly = least
    v, s, k2, mask = out
    pairs = wx.shape[0] // 2
    lost = np.float32(np.nan)
    touch = np.float32(1.01 * _TOUCH)
    # First which pixels: bad ones are scattered, and a guess of the processor would fail often.
    n = 0
    for c in range(v.size):
        if not inside[c]:
            v[c] = lost
            s[c] = lost
            k2[c] = 0
            mask[c] = 0
        chosen[n] = c
        n += 1 if mask[c] != 0 else 0
    for m in range(n):
        c = chosen[m]
        y = iy[c] - top + pad
        x = ix[c] + pad
        found = np.int64(mask[c])
        if not lx[c] * ly[c] > touch:  # not every tap counts
            found = _touched(planes[2], y - pairs + 1, x - pairs + 1, wx, wy, c)
            mask[c] = found
        if not found & bad:
            continue
        v1, s1, q1 = bilinear_pixel(planes, y, x, fx[c], fy[c], bad)
        good = pairs > 1 and q1 > 0
        scale = np.float32(a[c])
        v[c] = v1 * scale if good else lost
        s[c] = s1 * scale * scale if good else lost
        q = np.int32(q1 * np.float32(65535) + np.float32(0.5))
        k2[c] = max(1, min(65535, q)) if good else 0
        mask[c] = found | second if good else found


@njit(cache=True, nogil=True)
def warp_band(  # type: ignore[no-untyped-def]
    planes,
    footprint,
    top,
    pad,
    in_shape,
    nodes,
    step,
    row0,
    coefs,
    tables,
    nearest,
    bits_used,
    out,
):
    """Resample one band with a kernel of at most eight taps.

    Parameters
    ----------
    planes : tuple of ndarray, shape (n, mx + 2 pad)
        Value and variance (float32) and bits (uint16) of input rows; bad pixels hold 0.
    footprint : ndarray of uint16, shape (n, mx + 2 pad)
        Result of `footprint_or` for the taps of the kernel.
    top, pad : int
        Row of the input that is row ``pad`` of the planes; width of the padding.
    in_shape : tuple of int
        Shape (my, mx) of the input.
    nodes : tuple of ndarray of float64, shape (ky, kx)
        Input positions x, y and flux scale at the nodes.
    step, row0 : int
        Distance of the nodes; first output row.
    coefs : ndarray of float32, shape (a, 2, 5)
        Kernel, see `skymill.kernels.taps`; of length 0 with tables.
    tables : tuple of ndarray
        Weights along x and y (float32, shape (tables, steps + 1, 8)), and the number of
        the table at the nodes (float64, shape (2, ky, kx)); of no table for ``coefs``.
    nearest : bool
        Round the fraction.
    bits_used : tuple of int
        Bits that exclude a pixel, and the bit of a second-class value.
    out : tuple of ndarray, shape (rows, nx)
        Value and variance (float32, NaN where excluded), squared-kernel sum times
        65535 (uint16, 0 where excluded) and bits (uint16).
    """
    my, mx = in_shape
    out_value, out_var, out_k2, out_mask = out
    rows, nx = out_value.shape
    tabulated = tables[0].shape[0] > 0
    taps = tables[0].shape[2] if tabulated else 2 * coefs.shape[0]
    before = taps // 2 - 1
    bottom = top + planes[0].shape[0] - 2 * pad
    line = np.empty(nodes[0].shape[1], np.float64)
    x = np.empty(nx, np.float64)
    y = np.empty(nx, np.float64)
    a = np.empty(nx, np.float64)
    inside = np.empty(nx, np.bool_)
    v = np.empty(nx, np.float32)
    s = np.empty(nx, np.float32)
    k2 = np.empty(nx, np.uint16)
    mask = np.empty(nx, np.uint16)
    ix = np.empty(CHUNK, np.int32)
    iy = np.empty(CHUNK, np.int32)
    fx = np.empty(CHUNK, np.float32)
    fy = np.empty(CHUNK, np.float32)
    sx = np.empty(CHUNK, np.float32)
    sy = np.empty(CHUNK, np.float32)
    chosen = np.empty(CHUNK + 1, np.int64)
    lx = np.empty(CHUNK, np.float32)
    ly = np.empty(CHUNK, np.float32)
    work = np.zeros(WORK * CHUNK, np.float32)
    rows_of = work.reshape(WORK, CHUNK)
    wx, wy = rows_of[:taps], rows_of[8 : 8 + taps]
    qx, qy = rows_of[SQUARES : SQUARES + taps], rows_of[SQUARES + 8 : SQUARES + 8 + taps]
    lost = np.float32(np.nan)
    for r in range(rows):
        _row_nodes(nodes[0], step, row0 + r, line)
        line_positions(line, step, nx, x)
        # A frame seen after a meridian flip runs backwards.
        flip = x[nx // 2] < x[nx // 2 - 1] if nx > 1 else False
        _row_nodes(nodes[1], step, row0 + r, line)
        line_positions(line, step, nx, y)
        _row_linear(nodes[2], step, row0 + r, line)
        line_linear(line, step, nx, a)
        if not _inside(x, y, a, mx, my, inside):
            out_value[r, :] = lost
            out_var[r, :] = lost
            out_k2[r, :] = 0
            out_mask[r, :] = 0
            continue
        if flip:
            _reversed(x)
            _reversed(y)
            _reversed(a)
            _reversed(inside)
        for start in range(0, nx, CHUNK):
            n = min(CHUNK, nx - start)
            here = inside[start : start + n]
            _split(x[start:], n, -1.0, np.float64(mx), nearest, ix, fx)
            _split(y[start:], n, top - 1.0, np.float64(bottom), nearest, iy, fy)
            if tabulated:
                middle = start + n // 2
                middle = nx - 1 - middle if flip else middle
                i = table_number(tables[2][0], step, row0 + r, middle)
                j = table_number(tables[2][1], step, row0 + r, middle)
                table_weights(fx, n, tables[0][i], wx, qx, sx)
                table_weights(fy, n, tables[1][j], wy, qy, sy)
            else:
                tap_weights(fx, n, coefs, wx, qx, sx)
                tap_weights(fy, n, coefs, wy, qy, sy)
            ms = mask[start : start + n]
            k = 0
            while k < n:
                if not here[k]:
                    k += 1
                    continue
                first = k
                k = _run_end(ix, iy, here, k, n)
                at_y = iy[first] - top + pad - before
                at_x = ix[first] + pad - before
                tap_sums(planes, at_y, at_x, k - first, taps, first, work)
                ms[first:k] = footprint[at_y, at_x : at_x + k - first]
            vs, ss, ks = v[start : start + n], s[start : start + n], k2[start : start + n]
            scale = a[start : start + n]
            _finish(scale, n, sx, sy, work, vs, ss, ks)
            if _unfinished(ms, here):
                _least(wx, n, lx)
                _least(wy, n, ly)
                place, result = (iy, ix, fy, fx), (vs, ss, ks, ms)
                weights, least = (wx, wy), (lx, ly)
                _mend(
                    planes,
                    place,
                    (top, pad),
                    bits_used,
                    weights,
                    least,
                    scale,
                    here,
                    chosen,
                    result,
                )
        if flip:
            _reversed(v)
            _reversed(s)
            _reversed(k2)
            _reversed(mask)
        out_value[r, :] = v
        out_var[r, :] = s
        out_k2[r, :] = k2
        out_mask[r, :] = mask
