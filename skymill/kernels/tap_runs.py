"""Compiled sums over the taps of a kernel, for runs of pixels that lie side by side.

Along an output row the input pixel usually moves by one per output pixel. Such a run is one
plain loop, which the compiler turns into vector code without changing the order of any sum.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["CHUNK", "SQUARES", "SUMS", "WORK", "tap_sums"]

#: Pixels that are computed at a time.
CHUNK = 256
#: Rows of the working array: weights along x and y (8 each), their squares, both sums.
SQUARES, SUMS, WORK = 16, 32, 34
#: Row of the second sum, counted from the squares; the run needs it as a constant.
_SECOND = 17
#: Shorter runs of eight taps are computed pixel by pixel.
_SHORT = 5

# Weights and sums lie in one array, a fixed distance apart: the compiler then knows that they
# do not overlap. A run is one loop, because to set up a loop takes as long as many pixels. All
# orders of sums are written out, and the same for a run and for a single pixel.


@njit(cache=True)
def _run_two(plane, y, x, n, w, out):  # type: ignore[no-untyped-def]
    """As `_run_six`, two by two taps."""
    r0 = plane[y, x : x + n + 1]
    r1 = plane[y + 1, x : x + n + 1]
    for c in range(n):
        w0, w1 = w[c], w[CHUNK + c]
        t = w0 * r0[c] + w1 * r0[c + 1]
        s = w[8 * CHUNK + c] * t
        t = w0 * r1[c] + w1 * r1[c + 1]
        s += w[9 * CHUNK + c] * t
        w[out * CHUNK + c] = s


@njit(cache=True)
def _run_four(plane, y, x, n, w, out):  # type: ignore[no-untyped-def]
    """As `_run_six`, four by four taps."""
    r0 = plane[y, x : x + n + 3]
    r1 = plane[y + 1, x : x + n + 3]
    r2 = plane[y + 2, x : x + n + 3]
    r3 = plane[y + 3, x : x + n + 3]
    for c in range(n):
        w0, w1 = w[c], w[CHUNK + c]
        w2, w3 = w[2 * CHUNK + c], w[3 * CHUNK + c]
        t = (w0 * r0[c] + w3 * r0[c + 3]) + (w1 * r0[c + 1] + w2 * r0[c + 2])
        s = w[8 * CHUNK + c] * t
        t = (w0 * r1[c] + w3 * r1[c + 3]) + (w1 * r1[c + 1] + w2 * r1[c + 2])
        s += w[9 * CHUNK + c] * t
        t = (w0 * r2[c] + w3 * r2[c + 3]) + (w1 * r2[c + 1] + w2 * r2[c + 2])
        s += w[10 * CHUNK + c] * t
        t = (w0 * r3[c] + w3 * r3[c + 3]) + (w1 * r3[c + 1] + w2 * r3[c + 2])
        s += w[11 * CHUNK + c] * t
        w[out * CHUNK + c] = s


@njit(cache=True)
def _run_six(plane, y, x, n, w, out):  # type: ignore[no-untyped-def]
    """Sums over six by six taps for ``n`` pixels side by side.

    ``w`` holds the weights along x, from row 8 on those along y, and the sums in row ``out``.
    """
    r0 = plane[y, x : x + n + 5]
    r1 = plane[y + 1, x : x + n + 5]
    r2 = plane[y + 2, x : x + n + 5]
    r3 = plane[y + 3, x : x + n + 5]
    r4 = plane[y + 4, x : x + n + 5]
    r5 = plane[y + 5, x : x + n + 5]
    for c in range(n):
        w0, w1 = w[c], w[CHUNK + c]
        w2, w3 = w[2 * CHUNK + c], w[3 * CHUNK + c]
        w4, w5 = w[4 * CHUNK + c], w[5 * CHUNK + c]
        t = (w0 * r0[c] + w5 * r0[c + 5]) + (w1 * r0[c + 1] + w4 * r0[c + 4])
        t += w2 * r0[c + 2] + w3 * r0[c + 3]
        s = w[8 * CHUNK + c] * t
        t = (w0 * r1[c] + w5 * r1[c + 5]) + (w1 * r1[c + 1] + w4 * r1[c + 4])
        t += w2 * r1[c + 2] + w3 * r1[c + 3]
        s += w[9 * CHUNK + c] * t
        t = (w0 * r2[c] + w5 * r2[c + 5]) + (w1 * r2[c + 1] + w4 * r2[c + 4])
        t += w2 * r2[c + 2] + w3 * r2[c + 3]
        s += w[10 * CHUNK + c] * t
        t = (w0 * r3[c] + w5 * r3[c + 5]) + (w1 * r3[c + 1] + w4 * r3[c + 4])
        t += w2 * r3[c + 2] + w3 * r3[c + 3]
        s += w[11 * CHUNK + c] * t
        t = (w0 * r4[c] + w5 * r4[c + 5]) + (w1 * r4[c + 1] + w4 * r4[c + 4])
        t += w2 * r4[c + 2] + w3 * r4[c + 3]
        s += w[12 * CHUNK + c] * t
        t = (w0 * r5[c] + w5 * r5[c + 5]) + (w1 * r5[c + 1] + w4 * r5[c + 4])
        t += w2 * r5[c + 2] + w3 * r5[c + 3]
        s += w[13 * CHUNK + c] * t
        w[out * CHUNK + c] = s


@njit(cache=True)
def _run_eight(plane, y, x, n, w, out):  # type: ignore[no-untyped-def]
    """As `_run_six`, eight by eight taps."""
    r0 = plane[y, x : x + n + 7]
    r1 = plane[y + 1, x : x + n + 7]
    r2 = plane[y + 2, x : x + n + 7]
    r3 = plane[y + 3, x : x + n + 7]
    r4 = plane[y + 4, x : x + n + 7]
    r5 = plane[y + 5, x : x + n + 7]
    r6 = plane[y + 6, x : x + n + 7]
    r7 = plane[y + 7, x : x + n + 7]
    for c in range(n):
        w0, w1 = w[c], w[CHUNK + c]
        w2, w3 = w[2 * CHUNK + c], w[3 * CHUNK + c]
        w4, w5 = w[4 * CHUNK + c], w[5 * CHUNK + c]
        w6, w7 = w[6 * CHUNK + c], w[7 * CHUNK + c]
        t = (w0 * r0[c] + w7 * r0[c + 7]) + (w1 * r0[c + 1] + w6 * r0[c + 6])
        t += (w2 * r0[c + 2] + w5 * r0[c + 5]) + (w3 * r0[c + 3] + w4 * r0[c + 4])
        s = w[8 * CHUNK + c] * t
        t = (w0 * r1[c] + w7 * r1[c + 7]) + (w1 * r1[c + 1] + w6 * r1[c + 6])
        t += (w2 * r1[c + 2] + w5 * r1[c + 5]) + (w3 * r1[c + 3] + w4 * r1[c + 4])
        s += w[9 * CHUNK + c] * t
        t = (w0 * r2[c] + w7 * r2[c + 7]) + (w1 * r2[c + 1] + w6 * r2[c + 6])
        t += (w2 * r2[c + 2] + w5 * r2[c + 5]) + (w3 * r2[c + 3] + w4 * r2[c + 4])
        s += w[10 * CHUNK + c] * t
        t = (w0 * r3[c] + w7 * r3[c + 7]) + (w1 * r3[c + 1] + w6 * r3[c + 6])
        t += (w2 * r3[c + 2] + w5 * r3[c + 5]) + (w3 * r3[c + 3] + w4 * r3[c + 4])
        s += w[11 * CHUNK + c] * t
        t = (w0 * r4[c] + w7 * r4[c + 7]) + (w1 * r4[c + 1] + w6 * r4[c + 6])
        t += (w2 * r4[c + 2] + w5 * r4[c + 5]) + (w3 * r4[c + 3] + w4 * r4[c + 4])
        s += w[12 * CHUNK + c] * t
        t = (w0 * r5[c] + w7 * r5[c + 7]) + (w1 * r5[c + 1] + w6 * r5[c + 6])
        t += (w2 * r5[c + 2] + w5 * r5[c + 5]) + (w3 * r5[c + 3] + w4 * r5[c + 4])
        s += w[13 * CHUNK + c] * t
        t = (w0 * r6[c] + w7 * r6[c + 7]) + (w1 * r6[c + 1] + w6 * r6[c + 6])
        t += (w2 * r6[c + 2] + w5 * r6[c + 5]) + (w3 * r6[c + 3] + w4 * r6[c + 4])
        s += w[14 * CHUNK + c] * t
        t = (w0 * r7[c] + w7 * r7[c + 7]) + (w1 * r7[c + 1] + w6 * r7[c + 6])
        t += (w2 * r7[c + 2] + w5 * r7[c + 5]) + (w3 * r7[c + 3] + w4 * r7[c + 4])
        s += w[15 * CHUNK + c] * t
        w[out * CHUNK + c] = s


@njit(cache=True)
def _one_eight(plane, y, x, w):  # type: ignore[no-untyped-def]
    """`_run_eight` of one pixel."""
    w0, w1, w2, w3 = w[0], w[CHUNK], w[2 * CHUNK], w[3 * CHUNK]
    w4, w5, w6, w7 = w[4 * CHUNK], w[5 * CHUNK], w[6 * CHUNK], w[7 * CHUNK]
    s = np.float32(0)
    for j in range(8):
        r = plane[y + j, x : x + 8]
        total = (w0 * r[0] + w7 * r[7]) + (w1 * r[1] + w6 * r[6])
        total += (w2 * r[2] + w5 * r[5]) + (w3 * r[3] + w4 * r[4])
        s += w[(8 + j) * CHUNK] * total
    return s


@njit(cache=True)
def tap_sums(planes, y, x, n, taps, k, work):  # type: ignore[no-untyped-def]
    """Sums of value and variance of ``n`` pixels whose first tap lies at (y, x)."""
    value, variance, _ = planes
    w = work[k:]
    q = work[SQUARES * CHUNK + k :]
    if taps == 6:
        _run_six(value, y, x, n, w, SUMS)
        _run_six(variance, y, x, n, q, _SECOND)
    elif taps == 8:
        if n < _SHORT:
            for c in range(n):
                w[SUMS * CHUNK + c] = _one_eight(value, y, x + c, w[c:])
                q[_SECOND * CHUNK + c] = _one_eight(variance, y, x + c, q[c:])
            return
        _run_eight(value, y, x, n, w, SUMS)
        _run_eight(variance, y, x, n, q, _SECOND)
    elif taps == 4:
        _run_four(value, y, x, n, w, SUMS)
        _run_four(variance, y, x, n, q, _SECOND)
    else:
        _run_two(value, y, x, n, w, SUMS)
        _run_two(variance, y, x, n, q, _SECOND)
