"""Loops for the search of straight trails: binning, Hough transform, strips along a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "angles", "best_line", "binned_signal", "paint", "strip_profiles", "strip_values", "vote",
]  # fmt: skip


@njit(cache=True, nogil=True)
def binned_signal(sci: Any, level: Any, rms: Any, bad: Any, side: Any, clip: Any) -> Any:
    """Signal to noise of boxes of ``side`` x ``side`` px; zero where half of a box is bad.

    Single pixels count at most ``clip`` sigma, so that one hit does not make a box bright.
    """
    ny, nx = sci.shape
    my, mx = ny // side, nx // side
    out = np.zeros((my, mx), np.float32)
    least = side * side / 2
    total = np.zeros(mx, np.float32)
    count = np.zeros(mx, np.int32)
    signal, known = np.zeros(nx, np.float32), np.zeros(nx, np.int32)
    zero = np.float32(0)
    for j in range(my):
        total[:] = 0
        count[:] = 0
        for y in range(j * side, (j + 1) * side):
            light, sky, noise, lost = sci[y], level[y], rms[y], bad[y]
            for x in range(nx):
                s = (light[x] - sky[x]) / noise[x]
                use = (not lost[x]) & (not np.isnan(s))
                s = s if s > -clip else -clip
                s = s if s < clip else clip
                signal[x], known[x] = s if use else zero, np.int32(use)
            for i in range(mx):
                for x in range(i * side, (i + 1) * side):
                    total[i] += signal[x]
                    count[i] += known[x]
        for i in range(mx):
            if count[i] >= least:
                out[j, i] = total[i] / np.sqrt(np.float32(count[i]))
    return out


@njit(cache=True, nogil=True)
def vote(counts: Any, y: Any, x: Any, cosine: Any, sine: Any, offset: Any, weight: Any) -> Any:
    """Add points to the counts of lines ``x cos + y sin = rho``; rho bins of one box.

    Parameters
    ----------
    counts : ndarray of int32, shape (m, size)
        Changed in place.
    y, x : ndarray of int32, shape (n,)
        Points.
    cosine, sine : ndarray of float32, shape (m,)
        Directions of the normals.
    offset : int
        Added to rho, so that it is not negative.
    weight : int
        1 to add points, -1 to take them away.
    """
    for a in range(cosine.size):
        c, s = cosine[a], sine[a]
        row = counts[a]
        for k in range(x.size):
            row[int(c * x[k] + s * y[k] + offset)] += weight


@njit(cache=True, nogil=True)
def best_line(counts: Any, least: Any) -> Any:
    """Return the line with the largest excess of points over lines beside it.

    Two neighbouring bins count together, since a trail rarely falls into one. What 41
    bins around hold is expected; its root is the deviation.

    Parameters
    ----------
    counts : ndarray of int32, shape (m, size)
        Counts of `vote`.
    least : float
        Fewer points are no line.

    Returns
    -------
    a, r : int
        Direction and upper of the two bins.
    score : float
        Excess in standard deviations; 0 if there is no line.
    """
    m, size = counts.shape
    best, best_a, best_r = 0.0, 0, 0
    total = np.zeros(size + 1, np.int64)
    for a in range(m):
        row = counts[a]
        some = False
        for r in range(size - 1):
            some |= row[r] + row[r + 1] >= least
        if not some:
            continue
        for r in range(size):
            total[r + 1] = total[r] + row[r]
        for r in range(size - 1):
            pair = row[r] + row[r + 1]
            if pair < least:
                continue
            low, high = max(r - 20, 0), min(r + 22, size)
            around = 2.0 * (total[high] - total[low] - pair) / (high - low - 2)
            around = max(around, 0.25)
            score = (pair - around) / np.sqrt(around)
            if score > best:
                best, best_a, best_r = score, a, r + 1
    return best_a, best_r, best


@njit(cache=True, nogil=True)
def strip_profiles(
    sci: Any, level: Any, rms: Any, bad: Any, line: Any, reach: Any, segment: Any, clip: Any
) -> Any:
    """Mean clipped signal to noise along and across a line.

    Parameters
    ----------
    sci, level, rms : ndarray of float32, shape (ny, nx)
        Image, background and its scatter.
    bad : ndarray of bool, shape (ny, nx)
        Pixels to leave out.
    line : ndarray of float64, shape (6,)
        Start (x, y), unit vector along the line (x, y), length in px, unused.
    reach : int
        Half-width of the strip in px.
    segment : int
        Length of a segment in px.
    clip : float
        Largest signal to noise of a pixel.

    Returns
    -------
    mean : ndarray of float64, shape (segments, 2 reach + 1)
        Mean of the pixels; the line lies in the middle column.
    count : ndarray of int64, same shape
    """
    ny, nx = sci.shape
    x0, y0, ux, uy, length = line[0], line[1], line[2], line[3], line[4]
    segments = int(length) // segment + 1
    width = 2 * reach + 1
    total = np.zeros((segments, width))
    count = np.zeros((segments, width), np.int64)
    for t in range(int(length) + 1):
        k = t // segment
        for v in range(width):
            across = v - reach
            x = int(np.floor(x0 + t * ux - across * uy + 0.5))
            y = int(np.floor(y0 + t * uy + across * ux + 0.5))
            if x < 0 or y < 0 or x >= nx or y >= ny or bad[y, x]:
                continue
            s = (sci[y, x] - level[y, x]) / rms[y, x]
            if not np.isnan(s):
                total[k, v] += min(max(s, -clip), clip)
                count[k, v] += 1
    for k in range(segments):
        for v in range(width):
            total[k, v] = total[k, v] / count[k, v] if count[k, v] > 0 else np.nan
    return total, count


@njit(cache=True, nogil=True)
def strip_values(
    sci: Any, level: Any, rms: Any, bad: Any, line: Any, bend: Any, first: Any, last: Any,
    reach: Any,
) -> Any:  # fmt: skip
    """Signal to noise of the pixels along a bent line, NaN where bad or outside.

    Parameters
    ----------
    sci, level, rms, bad, line, reach
        As in `strip_profiles`.
    bend : ndarray of float64, shape (3,)
        Offset of the trail across the line, as a polynomial in the distance along it.
    first, last : int
        Part of the line, in px along it.

    Returns
    -------
    ndarray of float32, shape (last - first, 2 reach + 1)
    """
    ny, nx = sci.shape
    x0, y0, ux, uy = line[0], line[1], line[2], line[3]
    width = 2 * reach + 1
    out = np.full((last - first, width), np.nan, np.float32)
    for t in range(first, last):
        middle = bend[0] + t * (bend[1] + t * bend[2])
        for v in range(width):
            across = middle + v - reach
            x = int(np.floor(x0 + t * ux - across * uy + 0.5))
            y = int(np.floor(y0 + t * uy + across * ux + 0.5))
            if x < 0 or y < 0 or x >= nx or y >= ny or bad[y, x]:
                continue
            out[t - first, v] = (sci[y, x] - level[y, x]) / rms[y, x]
    return out


@njit(cache=True, nogil=True)
def paint(mask: Any, line: Any, first: Any, last: Any, bend: Any, below: Any, above: Any) -> Any:
    """Set the pixels of a band along a line.

    The middle of the band lies ``bend[0] + bend[1] t + bend[2] t^2`` px across the line at
    ``t`` px along it; the band reaches from ``-below`` to ``above`` around it, for
    ``first <= t <= last``.
    """
    ny, nx = mask.shape
    x0, y0, ux, uy = line[0], line[1], line[2], line[3]
    # extremes of the middle: ends and vertex
    low, high = np.inf, -np.inf
    vertex = first if bend[2] == 0 else min(max(-bend[1] / (2 * bend[2]), first), last)
    for t in (first, last, vertex):
        middle = bend[0] + t * (bend[1] + t * bend[2])
        low, high = min(low, middle), max(high, middle)
    low, high = low - below, high + above
    for y in range(ny):
        dy = y - y0
        left, right = 0.0, nx - 1.0
        if abs(uy) > 1e-9:
            a, b = x0 + (dy * ux - low) / uy, x0 + (dy * ux - high) / uy
            left, right = max(left, min(a, b)), min(right, max(a, b))
        elif not low - 1 <= dy * ux <= high + 1:
            continue
        if abs(ux) > 1e-9:
            a, b = x0 + (first - dy * uy) / ux, x0 + (last - dy * uy) / ux
            left, right = max(left, min(a, b)), min(right, max(a, b))
        for x in range(max(int(left) - 1, 0), min(int(right) + 2, nx)):
            t = (x - x0) * ux + dy * uy
            if t < first or t > last:
                continue
            across = -(x - x0) * uy + dy * ux
            middle = bend[0] + t * (bend[1] + t * bend[2])
            if -below <= across - middle <= above:
                mask[y, x] = True


def angles(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Directions of normals so fine that the ends of a line move by one box."""
    number = max(180, int(np.ceil(np.pi * size / 2)))
    # a multiple of four holds both axes and the diagonals
    number += -number % 4
    theta = np.pi * np.arange(number) / number
    cosine, sine = np.cos(theta), np.sin(theta)
    cosine[number // 2] = 0.0
    return cosine.astype(np.float32), sine.astype(np.float32)
