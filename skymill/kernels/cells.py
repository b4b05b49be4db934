"""Clipped statistics of the cells of a mesh: compiled kernels.

Plain loops in a fixed order, float64 inside: the same bytes on every machine and with any
number of threads.
"""

from __future__ import annotations

from math import erf, exp, pi, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from skymill.kernels.mesh import Spline, mesh_spline, spline_row
from skymill.kernels.order_statistics import select_between

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CellStatistics", "LineSums", "cell_statistics"]

#: The clip is repeated until nothing changes, at most so often.
_ROUNDS = 10
#: Pixels of a cell that give the first guess of its centre and width.
_SAMPLE = 300


class CellStatistics(NamedTuple):
    """Result of `cell_statistics`, each of shape (my, mx).

    Attributes
    ----------
    mean, median, scatter : ndarray of float64
        Clipped mean, median of about 300 of the clipped values, and one-sigma scatter
        corrected for the clipping. NaN in a cell of fewer than two usable pixels. The median
        is only there if no ``start`` was given.
    variance : ndarray of float64
        Mean of ``err**2`` over the same pixels.
    n : ndarray of int64
        Pixels kept by the clip.
    """

    mean: NDArray[np.float64]
    median: NDArray[np.float64]
    scatter: NDArray[np.float64]
    variance: NDArray[np.float64]
    n: NDArray[np.int64]


class LineSums(NamedTuple):
    """Sums and numbers of usable values along rows, shape (ny,), and columns, shape (nx,)."""

    rows: NDArray[np.float64]
    n_rows: NDArray[np.int64]
    columns: NDArray[np.float64]
    n_columns: NDArray[np.int64]

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> LineSums:
        """Return sums to be filled."""
        ny, nx = shape
        return cls(np.zeros(ny), np.zeros(ny, np.int64), np.zeros(nx), np.zeros(nx, np.int64))


def cell_statistics(
    values: NDArray[np.float32],
    err: NDArray[np.float32] | None,
    state: NDArray[np.uint8],
    box_size_px: int,
    *,
    clip_sigma: float = 3.0,
    limit: int = 0,
    step: int = 1,
    level: Spline | None = None,
    start: NDArray[np.float64] | None = None,
    lines: LineSums | None = None,
) -> CellStatistics:
    """Clipped mean, median and scatter of each square cell of an image.

    The clip starts from the median and the quartiles of about 300 pixels, or from
    ``start``, and is repeated with the corrected standard deviation about the mean until
    nothing changes (at most 10 times).

    Parameters
    ----------
    values, err : ndarray of float32, shape (ny, nx)
        Image and its one-sigma error; without errors there is no variance.
    state : ndarray of uint8, shape (ny, nx)
        Pixels above ``limit`` are left out; values of the others must be finite.
    box_size_px : int
        Side of a cell; the last cells may be cut by the frame.
    clip_sigma : float
        Clip in sigma.
    limit : int
        Highest state that is used.
    step : int
        Use every ``step``-th row and column only (1: all).
    level : Spline, optional
        Subtracted from the values, see `mesh_spline`.
    start : ndarray of float64, shape (2, my, mx), optional
        Centre and width of each cell to start from; where the width is 0, none is known.
    lines : LineSums, optional
        Filled with the sums of the usable values, unclipped.

    Returns
    -------
    CellStatistics
    """
    k = clip_sigma
    kept = erf(k / sqrt(2.0))
    shrink = sqrt((kept - 2.0 * k * exp(-0.5 * k * k) / sqrt(2.0 * pi)) / kept)
    shape = (values.shape[0], values.shape[1])
    cells = tuple(-(-n // box_size_px) for n in shape)
    flat = level is None
    spline = mesh_spline(np.zeros((1, 1)), shape, max(shape)) if level is None else level
    sums = LineSums.empty((1, 1)) if lines is None else lines
    first = np.zeros((2, *cells)) if start is None else start
    return CellStatistics(
        *_cells(
            np.ascontiguousarray(values, np.float32),
            np.ascontiguousarray(values if err is None else err, np.float32),
            np.ascontiguousarray(state, np.uint8),
            (box_size_px, limit, step, flat, start is not None, lines is not None, err is not None),
            (k, shrink),
            np.ascontiguousarray(first, np.float64),
            tuple(spline),
            tuple(sums),
        )
    )


@njit(cache=True)
def _sample(cell: Any, n: Any, low: Any, high: Any, sample: Any) -> Any:
    """Copy about 300 values between low and high; return their number."""
    # Values come row by row: an odd stride meets columns of both parities.
    stride = (n // _SAMPLE) | 1
    count = 0
    for k in range(0, n, stride):
        if low <= cell[k] <= high:
            sample[count] = cell[k]
            count += 1
    return count


@njit(cache=True)
def _split(cell: Any, n: Any, centre: Any, inner: Any, outer: Any, tail: Any) -> Any:
    """Sum up the values near the centre, and list those between two distances from it.

    Returns the number, sum and sum of squares of the differences from the centre that are
    at most ``inner``, and how many are listed. Four sums side by side, so that no addition
    waits for the one before.
    """
    zero, one = np.float64(0.0), np.float64(1.0)
    n0 = n1 = s0 = s1 = s2 = s3 = q0 = q1 = q2 = q3 = zero
    whole, m = n - n % 4, 0
    for k in range(0, whole, 4):
        d0, d1 = cell[k] - centre, cell[k + 1] - centre
        d2, d3 = cell[k + 2] - centre, cell[k + 3] - centre
        a0, a1, a2, a3 = abs(d0), abs(d1), abs(d2), abs(d3)
        w0, w1 = one if a0 <= inner else zero, one if a1 <= inner else zero
        w2, w3 = one if a2 <= inner else zero, one if a3 <= inner else zero
        n0, n1 = n0 + (w0 + w2), n1 + (w1 + w3)
        s0, s1, s2, s3 = s0 + w0 * d0, s1 + w1 * d1, s2 + w2 * d2, s3 + w3 * d3
        q0, q1 = q0 + w0 * d0 * d0, q1 + w1 * d1 * d1
        q2, q3 = q2 + w2 * d2 * d2, q3 + w3 * d3 * d3
        if w0 + w1 + w2 + w3 < 4.0:
            for d, a in ((d0, a0), (d1, a1), (d2, a2), (d3, a3)):
                if inner < a <= outer:
                    tail[m] = d
                    m += 1
    for k in range(whole, n):
        d = cell[k] - centre
        if abs(d) <= inner:
            n0, s0, q0 = n0 + one, s0 + d, q0 + d * d
        elif abs(d) <= outer:
            tail[m] = d
            m += 1
    return n0 + n1, (s0 + s1) + (s2 + s3), (q0 + q1) + (q2 + q3), m


@njit(cache=True)
def _sum_between(cell: Any, noise: Any, n: Any, low: Any, high: Any) -> Any:
    """Sum of the noise of the values between low and high."""
    zero = np.float64(0.0)
    t0 = t1 = t2 = t3 = zero
    whole = n - n % 4
    for k in range(0, whole, 4):
        t0 += noise[k] if (cell[k] >= low) & (cell[k] <= high) else zero
        t1 += noise[k + 1] if (cell[k + 1] >= low) & (cell[k + 1] <= high) else zero
        t2 += noise[k + 2] if (cell[k + 2] >= low) & (cell[k + 2] <= high) else zero
        t3 += noise[k + 3] if (cell[k + 3] >= low) & (cell[k + 3] <= high) else zero
    for k in range(whole, n):
        t0 += noise[k] if (cell[k] >= low) & (cell[k] <= high) else zero
    return (t0 + t1) + (t2 + t3)


@njit(cache=True)
def _gather(
    band: Any, err: Any, state: Any, y0: Any, y1: Any, x0: Any, x1: Any, limit: Any, step: Any,
    noisy: Any, cell: Any, noise: Any,
) -> Any:  # fmt: skip
    """Copy the usable values of a cell and, if asked, their variances; return their number."""
    n = 0
    for y in range(y0, y1, step):
        # Every other row of a lattice is shifted: no column parity is preferred.
        shift = ((y - y0) // step) % step
        values, use = band[y - y0, x0:x1], state[y, x0:x1]
        if noisy:
            error = err[y, x0:x1]
            for x in range(shift, x1 - x0, step):
                cell[n] = values[x]
                noise[n] = error[x] * error[x]
                n += use[x] <= limit
        else:
            for x in range(shift, x1 - x0, step):
                cell[n] = values[x]
                n += use[x] <= limit
    return n


@njit(cache=True)
def _cells(
    values: Any, err: Any, state: Any, how: Any, clip: Any, start: Any, spline: Any, lines: Any
) -> Any:
    box, limit, step, flat, started, summed, noisy = how
    ny, nx = values.shape
    my, mx = (ny + box - 1) // box, (nx + box - 1) // box
    out = np.full((4, my, mx), np.nan)
    kept = np.zeros((my, mx), np.int64)
    cell, noise = np.empty(box * box + 1), np.empty(box * box + 1, np.float32)
    sample, tail = np.empty(box * box + 1), np.empty(box * box + 1)
    band = np.empty((min(box, ny), nx), np.float32)
    nodes = spline[0].shape[1]
    row, bend, work = np.zeros(nodes + 1), np.zeros(nodes + 1), np.zeros(nodes + 1)
    for j in range(my):
        y0, y1 = j * box, min((j + 1) * box, ny)
        for y in range(y0, y1, step):
            if flat:
                band[y - y0] = values[y]
            else:
                rest, given = band[y - y0], values[y]
                spline_row(spline, y, row, bend, work, rest)
                for x in range(nx):
                    rest[x] = given[x] - rest[x]
        if summed:
            _add_lines(band, state, y0, y1, limit, lines)
        for i in range(mx):
            x0, x1 = i * box, min((i + 1) * box, nx)
            n = _gather(band, err, state, y0, y1, x0, x1, limit, step, noisy, cell, noise)
            if n < 2:
                continue
            centre, sigma = start[0, j, i], start[1, j, i]
            if not started or sigma <= 0.0:
                m = _sample(cell, n, -np.inf, np.inf, sample)
                centre = select_between(sample, 0, m - 1, m // 2)
                lower = select_between(sample, 0, m // 2, m // 4)
                sigma = (select_between(sample, m // 2, m - 1, (3 * m) // 4) - lower) / 1.349
            kept[j, i], low, high = _clip(cell, n, centre, sigma, clip, tail, out[:, j, i])
            if kept[j, i] == 0:
                continue
            if noisy:
                out[3, j, i] = _sum_between(cell, noise, n, low, high) / kept[j, i]
            if not started:
                m = _sample(cell, n, low, high, sample)
                if m > 0:
                    out[1, j, i] = select_between(sample, 0, m - 1, m // 2)
    return out[0], out[1], out[2], out[3], kept


@njit(cache=True)
def _clip(cell: Any, n: Any, guess: Any, width: Any, clip: Any, tail: Any, out: Any) -> Any:
    """Clip until nothing changes; put mean and scatter in out, return number and limits.

    The limits move little. Values that lie far inside them are summed once and those far
    outside are forgotten, until the limits move further than that.
    """
    k, shrink = clip
    reference, inner, outer = guess, -1.0, -1.0
    count = total = square = 0.0
    listed, before, kept = 0, -1.0, 0
    centre, sigma, low, high = guess, width, 0.0, 0.0
    for _ in range(_ROUNDS):
        lower, upper = centre - k * sigma, centre + k * sigma
        off = abs(centre - reference)
        if k * sigma - off < inner or k * sigma + off > outer or inner < 0.0:
            reference, inner, outer = centre, 0.85 * k * sigma, 1.25 * k * sigma
            count, total, square, listed = _split(cell, n, reference, inner, outer, tail)
        number, first, second = count, total, square
        for m in range(listed):
            d = tail[m]
            if lower <= reference + d <= upper:
                number += 1.0
                first += d
                second += d * d
        if number < 2.0:
            break
        low, high, kept = lower, upper, int(number)
        average = first / number
        spread = max(second / number - average * average, 0.0) * number / (number - 1.0)
        centre, sigma = reference + average, np.sqrt(spread) / shrink
        out[0], out[2] = centre, sigma
        if number == before:
            break
        before = number
    return kept, low, high


@njit(cache=True)
def _add_lines(band: Any, state: Any, y0: Any, y1: Any, limit: Any, lines: Any) -> Any:
    rows, n_rows, columns, n_columns = lines
    for y in range(y0, y1):
        total, count = np.float64(0.0), 0
        values, use = band[y - y0], state[y]
        for x in range(values.size):
            w = use[x] <= limit
            columns[x] += values[x] if w else np.float32(0)
            n_columns[x] += w
        for x in range(values.size):
            w = use[x] <= limit
            total += values[x] if w else np.float32(0)
            count += w
        rows[y], n_rows[y] = total, count
