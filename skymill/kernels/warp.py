"""Compiled resampling of a band: value, exact variance, squared kernel and mask in one pass.

Along an output row the input pixel usually moves by one per output pixel. Such runs are
computed tap by tap in plain loops over the run, which the compiler turns into vector code
without changing the order of any sum; only broken runs (rotated frames) go pixel by pixel.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skymill.kernels.footprints import line_linear, line_positions
from skymill.kernels.resample import _row_linear, _row_nodes
from skymill.kernels.taps import tap_weights

__all__ = ["warp_band"]

#: Taps of less weight do not count as touched: they are rounding of whole shifts.
_TOUCH = 1e-5
_CHUNK = 256
#: Shorter runs are computed pixel by pixel: to set up a run takes as long as many pixels.
_SHORT = 24
_SHORT_SIX = 128


@njit(cache=True)
def _add_six(row, at, n, w, weights, k, total):  # type: ignore[no-untyped-def]
    """Add ``w`` times six taps of one input row, for ``n`` pixels side by side."""
    s0 = row[at : at + n]
    s1 = row[at + 1 : at + 1 + n]
    s2 = row[at + 2 : at + 2 + n]
    s3 = row[at + 3 : at + 3 + n]
    s4 = row[at + 4 : at + 4 + n]
    s5 = row[at + 5 : at + 5 + n]
    w0 = weights[0, k : k + n]
    w1 = weights[1, k : k + n]
    w2 = weights[2, k : k + n]
    w3 = weights[3, k : k + n]
    w4 = weights[4, k : k + n]
    w5 = weights[5, k : k + n]
    for c in range(n):
        outer = w0[c] * s0[c] + w5[c] * s5[c]
        middle = w1[c] * s1[c] + w4[c] * s4[c]
        inner = w2[c] * s2[c] + w3[c] * s3[c]
        total[c] += w[c] * ((outer + middle) + inner)


@njit(cache=True)
def _add_pair(row, at, far, n, w0, w1, total):  # type: ignore[no-untyped-def]
    s0 = row[at : at + n]
    s1 = row[at + far : at + far + n]
    for c in range(n):
        total[c] += w0[c] * s0[c] + w1[c] * s1[c]


@njit(cache=True)
def _add_row(row, at, n, w, weights, k, line, total):  # type: ignore[no-untyped-def]
    """As `_add_six` for any number of taps, in the same order of sums."""
    taps = weights.shape[0]
    line[:n] = 0
    for i in range(taps // 2):
        far = taps - 1 - 2 * i
        _add_pair(row, at + i, far, n, weights[i, k : k + n], weights[i + far, k : k + n], line)
    for c in range(n):
        total[c] += w[c] * line[c]


@njit(cache=True)
def _run(planes, y, x, n, wx, wy, qx, qy, k, line, v, s):  # type: ignore[no-untyped-def]
    """Sums of a run of ``n`` pixels whose first tap lies at (y, x)."""
    value, variance, _ = planes
    taps = wx.shape[0]
    tv = v[k : k + n]
    ts = s[k : k + n]
    tv[:] = 0
    ts[:] = 0
    for j in range(taps):
        if taps == 6:
            _add_six(value[y + j], x, n, wy[j, k : k + n], wx, k, tv)
            _add_six(variance[y + j], x, n, qy[j, k : k + n], qx, k, ts)
        else:
            _add_row(value[y + j], x, n, wy[j, k : k + n], wx, k, line, tv)
            _add_row(variance[y + j], x, n, qy[j, k : k + n], qx, k, line, ts)


@njit(cache=True)
def _one(planes, y, x, wx, wy, qx, qy, k):  # type: ignore[no-untyped-def]
    """Sums of one pixel, in the order of `_run`."""
    value, variance, _ = planes
    taps = wx.shape[0]
    tv = np.float32(0)
    ts = np.float32(0)
    for j in range(taps):
        row = value[y + j, x : x + taps]
        square = variance[y + j, x : x + taps]
        lv = np.float32(0)
        ls = np.float32(0)
        for i in range(taps // 2):
            m = taps - 1 - i
            lv += wx[i, k] * row[i] + wx[m, k] * row[m]
            ls += qx[i, k] * square[i] + qx[m, k] * square[m]
        tv += wy[j, k] * lv
        ts += qy[j, k] * ls
    return tv, ts


@njit(cache=True)
def _one_six(planes, y, x, wx, wy, qx, qy, k):  # type: ignore[no-untyped-def]
    """`_one` for six taps, written out."""
    value, variance, _ = planes
    w0, w1, w2, w3, w4, w5 = wx[0, k], wx[1, k], wx[2, k], wx[3, k], wx[4, k], wx[5, k]
    q0, q1, q2, q3, q4, q5 = qx[0, k], qx[1, k], qx[2, k], qx[3, k], qx[4, k], qx[5, k]
    tv = np.float32(0)
    ts = np.float32(0)
    for j in range(6):
        a = value[y + j, x : x + 6]
        b = variance[y + j, x : x + 6]
        lv = ((w0 * a[0] + w5 * a[5]) + (w1 * a[1] + w4 * a[4])) + (w2 * a[2] + w3 * a[3])
        ls = ((q0 * b[0] + q5 * b[5]) + (q1 * b[1] + q4 * b[4])) + (q2 * b[2] + q3 * b[3])
        tv += wy[j, k] * lv
        ts += qy[j, k] * ls
    return tv, ts


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
    gx = 1.0 - fx
    gy = 1.0 - fy
    a, b, c, d = gy * gx, gy * fx, fy * gx, fy * fx
    # A tap that does not count is not looked at.
    a = a if a > _TOUCH else 0.0
    b = b if b > _TOUCH else 0.0
    c = c if c > _TOUCH else 0.0
    d = d if d > _TOUCH else 0.0
    found = (bits[y, x] if a > 0 else 0) | (bits[y, x + 1] if b > 0 else 0)
    found |= (bits[y + 1, x] if c > 0 else 0) | (bits[y + 1, x + 1] if d > 0 else 0)
    if found & bad:
        return 0.0, 0.0, 0.0
    v = a * value[y, x] + b * value[y, x + 1] + c * value[y + 1, x] + d * value[y + 1, x + 1]
    s = a * a * variance[y, x] + b * b * variance[y, x + 1]
    s += c * c * variance[y + 1, x] + d * d * variance[y + 1, x + 1]
    return v, s, a * a + b * b + c * c + d * d


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
def _finish(a, n, sx, sy, v, s, k2):  # type: ignore[no-untyped-def]
    """Flux scale, and the squared sum as an integer of at least 1."""
    full = np.float32(65535)
    half = np.float32(0.5)
    one = np.float32(1)
    for c in range(n):
        scale = np.float32(a[c])
        v[c] *= scale
        s[c] *= scale * scale
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
    nearest,
    bits_used,
    out,
):
    """Resample one band with a kernel as wide as the pixels of the input.

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
        Kernel, see `skymill.kernels.taps`.
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
    bad, second = bits_used
    pairs = coefs.shape[0]
    taps = 2 * pairs
    short = _SHORT_SIX if taps == 6 else _SHORT
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
    ix = np.empty(_CHUNK, np.int32)
    iy = np.empty(_CHUNK, np.int32)
    fx = np.empty(_CHUNK, np.float32)
    fy = np.empty(_CHUNK, np.float32)
    sx = np.empty(_CHUNK, np.float32)
    sy = np.empty(_CHUNK, np.float32)
    lx = np.empty(_CHUNK, np.float32)
    ly = np.empty(_CHUNK, np.float32)
    work = np.empty(_CHUNK, np.float32)
    wx = np.empty((taps, _CHUNK), np.float32)
    wy = np.empty((taps, _CHUNK), np.float32)
    qx = np.empty((taps, _CHUNK), np.float32)
    qy = np.empty((taps, _CHUNK), np.float32)
    lost = np.float32(np.nan)
    touch = np.float32(1.01 * _TOUCH)
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
        for start in range(0, nx, _CHUNK):
            n = min(_CHUNK, nx - start)
            _split(x[start:], n, -1.0, np.float64(mx), nearest, ix, fx)
            _split(y[start:], n, top - 1.0, np.float64(bottom), nearest, iy, fy)
            tap_weights(fx, n, coefs, wx, qx, sx)
            tap_weights(fy, n, coefs, wy, qy, sy)
            _least(wx, n, lx)
            _least(wy, n, ly)
            vs = v[start : start + n]
            ss = s[start : start + n]
            ms = mask[start : start + n]
            k = 0
            while k < n:
                if not inside[start + k]:
                    vs[k] = lost
                    ss[k] = lost
                    ms[k] = 0
                    k += 1
                    continue
                first = k
                x0 = ix[k]
                y0 = iy[k]
                k = _run_end(ix, iy, inside[start:], k, n)
                at_y = y0 - top + pad - pairs + 1
                at_x = x0 + pad - pairs + 1
                if k - first >= short:
                    _run(planes, at_y, at_x, k - first, wx, wy, qx, qy, first, work, vs, ss)
                elif taps == 6:
                    for c in range(first, k):
                        here = at_x + c - first
                        vs[c], ss[c] = _one_six(planes, at_y, here, wx, wy, qx, qy, c)
                else:
                    for c in range(first, k):
                        vs[c], ss[c] = _one(planes, at_y, at_x + c - first, wx, wy, qx, qy, c)
                ms[first:k] = footprint[at_y, at_x : at_x + k - first]
            _finish(a[start : start + n], n, sx, sy, vs, ss, k2[start : start + n])
            if not _unfinished(ms, inside[start : start + n]):
                continue
            for c in range(n):
                if not inside[start + c]:
                    k2[start + c] = 0
                elif ms[c]:
                    at_y = iy[c] - top + pad
                    at_x = ix[c] + pad
                    found = np.int64(ms[c])
                    if not lx[c] * ly[c] > touch:
                        found = _touched(planes[2], at_y - pairs + 1, at_x - pairs + 1, wx, wy, c)
                        ms[c] = found
                    if not found & bad:
                        continue
                    v1, s1, q1 = bilinear_pixel(planes, at_y, at_x, fx[c], fy[c], bad)
                    if pairs > 1 and q1 > 0:
                        scale = a[start + c]
                        vs[c] = v1 * scale
                        ss[c] = s1 * scale * scale
                        k2[start + c] = max(1, min(65535, int(q1 * 65535 + 0.5)))
                        ms[c] = found | second
                    else:
                        vs[c] = lost
                        ss[c] = lost
                        k2[start + c] = 0
        if flip:
            _reversed(v)
            _reversed(s)
            _reversed(k2)
            _reversed(mask)
        out_value[r, :] = v
        out_var[r, :] = s
        out_k2[r, :] = k2
        out_mask[r, :] = mask
