"""Compiled code of the stack: weighted means, and which pixels need a closer look.

Arrays in, arrays out. One thread, sums in the order of the frames in float64, so the
result does not depend on anything but the input, and not on the bands.

The planes of a band are flat arrays, one frame after the other: frame ``i``, row ``r`` and
column ``c`` lie at ``i * stride + r * nx + c``. The stride is free, so that the frames of a
pixel do not share one set of the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GROUP", "K2_ONE", "Cube", "Planes", "empty_planes", "first_pass", "row_statistics"]

#: Value of ``k2`` that stands for a squared-kernel sum of one.
K2_ONE = 65535.0
#: Columns that share one flux scale and one background variance.
GROUP = 8
#: Columns whose sums stay in the cache.
BLOCK = 256


class Cube(NamedTuple):
    """Resampled planes of the frames of a band; see the module for their layout.

    ``value``, ``variance`` (float32) on the common scale; ``k2`` (uint16), the sum of the
    squared kernel times 65535, 0 excludes the pixel; ``mask`` (uint16), bits of all touched
    pixels; ``state`` (uint8): 0 used, 1 rejected, 2 rejected beside a rejected one, 3
    rejected but used because nothing else is left. ``scale``, ``noise`` (float32, shape
    (n, rows, ceil(nx / 8))): flux scale ``a`` and background variance ``V_b`` before scaling.
    ``factor``, ``tolerance`` (float64, shape (n,)): factor of the weight, relative error of
    the flux scale. ``reach`` (int64, shape (n, 2)): rows of the band that a frame can touch.
    """

    value: NDArray[np.float32]
    variance: NDArray[np.float32]
    k2: NDArray[np.uint16]
    mask: NDArray[np.uint16]
    state: NDArray[np.uint8]
    scale: NDArray[np.float32]
    noise: NDArray[np.float32]
    factor: NDArray[np.float64]
    tolerance: NDArray[np.float64]
    reach: NDArray[np.int64]
    stride: int
    nx: int


class Planes(NamedTuple):
    """Planes of the stack, each of shape (ny, nx)."""

    sci: NDArray[np.float32]
    err: NDArray[np.float32]
    mask: NDArray[np.uint16]
    any_bits: NDArray[np.uint16]
    all_bits: NDArray[np.uint16]
    coverage: NDArray[np.uint16]
    rejected: NDArray[np.uint16]


@njit(cache=True, error_model="numpy")
def _lines(cube, equal, i, r, c0, n, lines):  # type: ignore[no-untyped-def]
    """Weight, weight of the median, and both terms of the model, column by column."""
    for g in range(c0 // GROUP, (c0 + n + GROUP - 1) // GROUP):
        a = np.float64(cube.scale[i, r, g])
        square = a * a * np.float64(cube.noise[i, r, g])
        w = 1.0 if equal else cube.factor[i] / square
        u = 1 / np.sqrt(square)
        own = square / K2_ONE
        light = a / K2_ONE
        start = g * GROUP - c0
        for j in range(start, start + GROUP):
            lines[j] = w
            lines[BLOCK + j] = u
            lines[2 * BLOCK + j] = own
            lines[3 * BLOCK + j] = light


# The sums of a block lie in one array, a fixed distance apart: the compiler then knows that
# they do not overlap, and does several pixels at a time.


@njit(cache=True, error_model="numpy")
def _add_bits(bits, k2, majority, sums):  # type: ignore[no-untyped-def]
    """Any, all, number of frames, number with a bit of the majority, any value."""
    for j in range(bits.size):
        b = bits[j]
        k = k2[j]
        covers = (b | k) != 0
        sums[j] |= b
        sums[BLOCK + j] &= b if covers else np.uint16(0xFFFF)
        sums[2 * BLOCK + j] += np.uint16(1) if covers else np.uint16(0)
        sums[3 * BLOCK + j] += np.uint16(1) if (b & majority) != 0 else np.uint16(0)
        sums[4 * BLOCK + j] |= k


@njit(cache=True, error_model="numpy")
def _add_values(x, v, k2, bits, second, lines, sums):  # type: ignore[no-untyped-def]
    """Add one frame to W, W x, w^2 V, U, U x, U x^2 and N; returns its share of N."""
    used = 0
    for j in range(x.size):
        ok = (k2[j] != 0) & ((bits[j] & second) == 0)
        value = np.float64(x[j])
        variance = np.float64(v[j])
        value = value if ok else np.float64(0.0)
        variance = variance if ok else np.float64(0.0)
        w = lines[j] if ok else 0.0
        u = lines[BLOCK + j] if ok else 0.0
        sums[j] += w
        sums[BLOCK + j] += w * value
        sums[2 * BLOCK + j] += w * w * variance
        sums[3 * BLOCK + j] += u
        sums[4 * BLOCK + j] += u * value
        sums[5 * BLOCK + j] += u * value * value
        sums[6 * BLOCK + j] += 1.0 if ok else 0.0
        used += 1 if ok else 0
    return used


@njit(cache=True, error_model="numpy")
def _deviates(x, k2, bits, second, lines, k, stats, out):  # type: ignore[no-untyped-def]
    """Mark pixels where a value may be beyond k sigma of the weighted median.

    No median is further from the mean than one standard deviation of the values, all
    with the same weights. So no value is beyond the threshold from the median if it is
    within the threshold less that standard deviation from the mean. A frame that
    outweighs all others gets less weight in the median: those pixels are marked too.
    """
    square = k * k
    for j in range(x.size):
        ok = (k2[j] != 0) & ((bits[j] & second) == 0)
        gap = abs(np.float64(x[j]) - stats[j]) + stats[BLOCK + j]
        own = lines[2 * BLOCK + j] + lines[3 * BLOCK + j] * stats[2 * BLOCK + j]
        far = gap * gap > square * own * np.float64(k2[j])
        heavy = (2 * lines[BLOCK + j] > stats[3 * BLOCK + j]) & (stats[4 * BLOCK + j] > 2)
        out[j] |= np.uint8(1) if ok & (far | heavy) else np.uint8(0)


@njit(cache=True, error_model="numpy")
def _centre_stats(sums, m, stats):  # type: ignore[no-untyped-def]
    """Mean, standard deviation, least light of the median, sum of weights and N."""
    for j in range(m):
        count, plain = sums[6 * BLOCK + j], sums[3 * BLOCK + j]
        mean = sums[4 * BLOCK + j] / plain if count > 0 else 0.0
        variance = sums[5 * BLOCK + j] / plain - mean * mean if count > 0 else 0.0
        width = np.sqrt(variance) if variance > 0 else 0.0
        stats[j] = mean
        stats[BLOCK + j] = width
        stats[2 * BLOCK + j] = max(mean - width, 0.0)
        stats[3 * BLOCK + j] = plain
        stats[4 * BLOCK + j] = count


@njit(cache=True, error_model="numpy")
def _write(sums, found, stats, marks, bits, planes, centre, out, c0, m):  # type: ignore[no-untyped-def]
    """Planes of a block of one row."""
    second, majority, hole = np.uint16(bits[0]), np.uint16(bits[1]), np.uint16(bits[2])
    for j in range(m):
        c = c0 + j
        seen, many = np.int64(found[2 * BLOCK + j]), np.int64(found[3 * BLOCK + j])
        any_bits = found[j]
        planes.any_bits[out, c] = any_bits
        planes.all_bits[out, c] = found[BLOCK + j] if seen else 0
        planes.coverage[out, c] = np.int64(sums[6 * BLOCK + j])
        planes.rejected[out, c] = 0
        handed = any_bits & majority if many and 2 * many >= seen else np.uint16(0)
        if sums[6 * BLOCK + j] > 0:
            centre[c] = stats[j]
            planes.sci[out, c] = sums[BLOCK + j] / sums[j]
            planes.err[out, c] = np.sqrt(sums[2 * BLOCK + j]) / sums[j]
            planes.mask[out, c] = handed
            continue
        centre[c] = np.nan
        planes.sci[out, c] = np.nan
        planes.err[out, c] = np.nan
        if found[4 * BLOCK + j]:
            marks[j] = 2
            planes.mask[out, c] = handed | second
        else:
            planes.mask[out, c] = any_bits | hole


@njit(cache=True, nogil=True, error_model="numpy")
def first_pass(cube, row0, start, stop, clip, equal, bits, planes, centre, todo, used):  # type: ignore[no-untyped-def]
    """Weighted mean of all values of some rows, and which pixels must be looked at.

    Parameters
    ----------
    cube : Cube
        The frames.
    row0 : int
        Row of the grid that is row 0 of the band.
    start, stop : int
        Rows of the band to do.
    clip : float
        Threshold in sigma; 0 for no clipping.
    equal : bool
        Give all frames the same weight.
    bits : tuple of int
        Bit of second-class values; bits handed on if at least half of the frames there
        have them; bit of a pixel without value.
    planes : Planes
        Filled for the rows.
    centre : ndarray of float64, shape (rows, nx)
        Filled with the mean; NaN where no value is.
    todo : ndarray of uint8, shape (rows, nx)
        1 where a value may have to be rejected, 2 where only second-class values exist.
    used : ndarray of int64, shape (n,)
        Increased by the first-class values of each frame.
    """
    second, majority = np.uint16(bits[0]), np.uint16(bits[1])
    n, nx = cube.factor.size, cube.nx
    sums, lines, stats = np.empty(7 * BLOCK), np.empty(4 * BLOCK), np.empty(5 * BLOCK)
    found = np.empty(5 * BLOCK, np.uint16)
    for r in range(start, stop):
        for c0 in range(0, nx, BLOCK):
            m = min(BLOCK, nx - c0)
            sums[:] = 0.0
            found[:] = 0
            found[BLOCK : 2 * BLOCK] = np.uint16(0xFFFF)
            for i in range(n):
                if r < cube.reach[i, 0] or r >= cube.reach[i, 1]:
                    continue
                p = i * cube.stride + r * nx + c0
                k2, mask = cube.k2[p : p + m], cube.mask[p : p + m]
                _lines(cube, equal, i, r, c0, m, lines)
                _add_bits(mask, k2, majority, found)
                x, v = cube.value[p : p + m], cube.variance[p : p + m]
                used[i] += _add_values(x, v, k2, mask, second, lines, sums)
            marks = todo[r, c0 : c0 + m]
            marks[:] = 0
            _centre_stats(sums, m, stats)
            for i in range(n if clip > 0 else 0):
                if r < cube.reach[i, 0] or r >= cube.reach[i, 1]:
                    continue
                p = i * cube.stride + r * nx + c0
                k2, mask = cube.k2[p : p + m], cube.mask[p : p + m]
                _lines(cube, equal, i, r, c0, m, lines)
                _deviates(cube.value[p : p + m], k2, mask, second, lines, clip, stats, marks)
            _write(sums, found, stats, marks, bits, planes, centre[r], row0 + r, c0, m)


@njit(cache=True, nogil=True, error_model="numpy")
def row_statistics(cube, r, out_row, equal, second, box, squares, white, variance):  # type: ignore[no-untyped-def]
    """Add one finished row to the shares of the frames and to the noise of the cells.

    Parameters
    ----------
    cube : Cube
        The frames; their states are final.
    r, out_row : int
        Row of the band, and of the grid.
    equal : bool
        All frames have the same weight.
    second : int
        Bit of second-class values.
    box : int
        Side of a cell.
    squares : ndarray of float64, shape (n,)
        Increased by ``w^2 V / W^2`` of each frame: its share in the stack's variance.
    white, variance : ndarray of float64, shape (cells_y, cells_x)
        Increased by the variance that the stack would have without the smoothing of the
        kernel, and by its variance.
    """
    n, nx = cube.factor.size, cube.nx
    total = np.zeros(nx)
    firsts = np.zeros(nx, np.uint8)
    for i in range(n):
        p = i * cube.stride + r * nx
        k2, mask = cube.k2[p : p + nx], cube.mask[p : p + nx]
        for c in range(nx):
            firsts[c] |= np.uint8(1) if (k2[c] != 0) & ((mask[c] & second) == 0) else np.uint8(0)
    for turn in range(2):
        for i in range(n):
            p = i * cube.stride + r * nx
            k2, mask = cube.k2[p : p + nx], cube.mask[p : p + nx]
            state, v = cube.state[p : p + nx], cube.variance[p : p + nx]
            share = 0.0
            for g in range(cube.scale.shape[2]):
                a = np.float64(cube.scale[i, r, g])
                w = 1.0 if equal else cube.factor[i] / (a * a * np.float64(cube.noise[i, r, g]))
                for c in range(g * GROUP, min((g + 1) * GROUP, nx)):
                    ok = (k2[c] != 0) & ((firsts[c] == 0) | ((mask[c] & second) == 0))
                    if not ok or state[c] == 1 or state[c] == 2:
                        continue
                    if turn == 0:
                        total[c] += w
                        continue
                    part = w * w * np.float64(v[c]) / (total[c] * total[c])
                    share += part
                    white[out_row // box, c // box] += part * K2_ONE / k2[c]
                    variance[out_row // box, c // box] += part
            squares[i] += share


def empty_planes(shape: tuple[int, int]) -> Planes:
    """Planes of a stack without any frame: no row of them is left unset."""
    return Planes(
        np.full(shape, np.nan, np.float32),
        np.full(shape, np.nan, np.float32),
        *(np.zeros(shape, np.uint16) for _ in range(5)),
    )
