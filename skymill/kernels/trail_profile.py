"""Loops for the judgement of trails: what a strip along a line shows, segment by segment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from skymill.kernels.order_statistics import select

__all__ = ["aligned", "column_quantiles", "ground", "piece_light", "shown", "straightened"]

_ROBUST = 1.4826


@njit(cache=True, nogil=True)
def _median(values: Any, n: Any) -> Any:
    """Median of the first n values, at least one; they are put in partial order."""
    high = np.float64(select(values, n, n // 2))
    if n % 2:
        return high
    return 0.5 * (np.float64(select(values, n, n // 2 - 1)) + high)


@njit(cache=True, nogil=True)
def _smoothed(row: Any, known: Any, half: Any, weight: Any, smooth: Any) -> Any:
    """Running mean of the known values within ``half`` columns, and how many they are."""
    width = row.size
    for i in range(width):
        total, count = 0.0, 0
        for k in range(max(i - half, 0), min(i + half + 1, width)):
            total += row[k]
            count += known[k]
        weight[i] = count
        smooth[i] = total / max(count, 1)


@njit(cache=True, nogil=True)
def shown(
    mean: Any, count: Any, bend: Any, wander: Any, scale: Any, segment: Any, sigma: Any
) -> Any:
    """Tell which segments of a strip show a trail near its expected middle, and where.

    Parameters
    ----------
    mean : ndarray of float64, shape (segments, width)
        Mean signal to noise, see `skymill.kernels.trails.strip_profiles`.
    count : ndarray of int64, same shape
        Pixels.
    bend : ndarray of float64, shape (3,)
        Expected middle across the line, as a polynomial in the distance along it.
    wander : int
        How far from it the trail may be (px).
    scale : int
        Means of ``4 scale + 1`` columns are looked at.
    segment : int
        Length of a segment in px.
    sigma : float
        How much the middle must stand out.

    Returns
    -------
    shown : ndarray of bool, shape (segments,)
    middle : ndarray of float64, shape (segments,)
        NaN where not shown.
    """
    segments, width = mean.shape
    reach, half = (width - 1) // 2, 2 * scale
    found, middle = np.zeros(segments, np.bool_), np.full(segments, np.nan)
    known, row = np.zeros(width, np.bool_), np.zeros(width)
    weight, smooth, work = np.zeros(width), np.zeros(width), np.zeros(width)
    for k in range(segments):
        n, m = 0, 0
        for i in range(width):
            known[i] = 4 * count[k, i] >= segment
            n += known[i]
            if known[i] and abs(i - reach) > reach // 2:
                work[m] = mean[k, i]
                m += 1
        if 2 * n < width or m < 5:
            continue
        level = _median(work, m)
        for i in range(width):
            row[i] = mean[k, i] - level if known[i] else 0.0
        _smoothed(row, known, half, weight, smooth)
        centre = _parabola(bend, (k + 0.5) * segment) + reach
        n, m, at, top = 0, 0, 0, -np.inf
        for i in range(width):
            if known[i]:
                row[n] = count[k, i]
                n += 1
                if abs(i - reach) > reach // 2:
                    work[m] = abs(smooth[i])
                    m += 1
            if abs(i - centre) <= wander and weight[i] > 2 and smooth[i] > top:
                at, top = i, smooth[i]
        noise = 1 / np.sqrt((2 * half + 1) * _median(row, n))
        # real noise of the strip, where it is larger: stars, nebulae
        rough = _ROBUST * _median(work, m)
        if abs(at - centre) <= wander and smooth[at] > sigma * max(noise, rough):
            found[k] = True
            middle[k] = _balance(smooth, at, half) - reach
    return found, middle


@njit(cache=True, nogil=True)
def _parabola(bend: Any, t: Any) -> Any:
    return bend[0] + t * (bend[1] + t * bend[2])


@njit(cache=True, nogil=True)
def _balance(smooth: Any, at: Any, half: Any) -> Any:
    """Centre of the light around a peak, above a third of it."""
    total, moment = 0.0, 0.0
    for i in range(max(at - 2 * half, 0), min(at + 2 * half + 1, smooth.size)):
        light = max(smooth[i] - smooth[at] / 3, 0.0)
        total += light
        moment += i * light
    return moment / total


@njit(cache=True, nogil=True)
def _fit(t: Any, values: Any, use: Any, degree: Any, bend: Any) -> Any:
    """Least squares of a polynomial up to degree 2; its coefficients in t go to ``bend``."""
    low, high = np.inf, -np.inf
    for k in range(t.size):
        if use[k]:
            low, high = min(low, t[k]), max(high, t[k])
    middle, scale = 0.5 * (low + high), max(0.5 * (high - low), 1.0)
    n = degree + 1
    # positions within -1..1 keep the normal equations well conditioned
    matrix, right = np.zeros((3, 3)), np.zeros(3)
    for k in range(t.size):
        if not use[k]:
            continue
        s = (t[k] - middle) / scale
        terms = (1.0, s, s * s)
        for i in range(n):
            right[i] += terms[i] * values[k]
            for j in range(n):
                matrix[i, j] += terms[i] * terms[j]
    for i in range(n):
        for j in range(i + 1, n):
            part = matrix[j, i] / matrix[i, i]
            right[j] -= part * right[i]
            for m in range(i, n):
                matrix[j, m] -= part * matrix[i, m]
    c = np.zeros(3)
    for i in range(n - 1, -1, -1):
        rest = right[i]
        for j in range(i + 1, n):
            rest -= matrix[i, j] * c[j]
        c[i] = rest / matrix[i, i]
    slope, curve = c[1] / scale, c[2] / (scale * scale)
    bend[0] = c[0] - middle * (slope - middle * curve)
    bend[1], bend[2] = slope - 2 * middle * curve, curve


@njit(cache=True, nogil=True)
def straightened(middle: Any, shows: Any, first: Any, last: Any, segment: Any) -> Any:
    """Return the middle of a trail as a polynomial along the line, outliers left out.

    Parameters
    ----------
    middle : ndarray of float64, shape (segments,)
        Middle of the trail in each segment.
    shows : ndarray of bool, shape (segments,)
        Segments that show it.
    first, last : int
        First and last segment that is used; both show the trail.
    segment : int
        Length of a segment in px.

    Returns
    -------
    ndarray of float64, shape (3,)
    """
    n = middle.size
    use, keep = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    use[first : last + 1] = shows[first : last + 1]
    t = (np.arange(n) + 0.5) * segment
    bend, rest, work = np.zeros(3), np.zeros(n), np.zeros(n)
    for _ in range(3):
        used = np.count_nonzero(use)
        degree = 2 if used >= 8 else min(1, max(used - 1, 0))
        _fit(t, middle, use, degree, bend)
        m = 0
        for k in range(n):
            rest[k] = abs(middle[k] - _parabola(bend, t[k]))
            if use[k]:
                work[m] = rest[k]
                m += 1
        limit = max(3 * _ROBUST * _median(work, m), 0.5)
        same = True
        for k in range(n):
            keep[k] = use[k] and rest[k] <= limit
            same &= keep[k] == use[k]
        if np.count_nonzero(keep) < 2 or same:
            break
        use[:] = keep
    return bend


@njit(cache=True, nogil=True)
def aligned(
    mean: Any, count: Any, bend: Any, shows: Any, first: Any, last: Any, segment: Any
) -> Any:
    """Return the median profile across a trail over the segments that show it.

    Parameters
    ----------
    mean, count, bend, segment
        As for `shown`; the profiles are moved by ``bend``.
    shows, first, last
        As for `straightened`.

    Returns
    -------
    ndarray of float64, shape (width,)
        Above the median of the outer sixths of both sides.
    """
    width = mean.shape[1]
    rows = np.empty((last - first + 1, width))
    places, values = np.empty(width, np.int64), np.empty(width)
    used = 0
    for k in range(first, last + 1):
        n = 0
        for i in range(width):
            if 4 * count[k, i] >= segment:
                places[n], values[n] = i, mean[k, i]
                n += 1
        if not shows[k] or 2 * n < width:
            continue
        shift = _parabola(bend, (k + 0.5) * segment)
        j = 0
        for i in range(width):
            at = i + shift
            while j < n - 2 and places[j + 1] <= at:
                j += 1
            if at <= places[0]:
                rows[used, i] = values[0]
            elif at >= places[n - 1]:
                rows[used, i] = values[n - 1]
            else:
                part = (at - places[j]) / (places[j + 1] - places[j])
                rows[used, i] = values[j] + part * (values[j + 1] - values[j])
        used += 1
    profile, work = np.empty(width), np.empty(max(used, width))
    for i in range(width):
        work[:used] = rows[:used, i]
        profile[i] = _median(work, used)
    edge = width // 6
    work[:edge] = profile[:edge]
    work[edge : 2 * edge] = profile[width - edge :]
    profile -= _median(work, 2 * edge)
    return profile


@njit(cache=True, nogil=True)
def column_quantiles(values: Any, wanted: Any, q: Any) -> Any:
    """Return a quantile of the finite values of columns, NaN where little is known.

    Parameters
    ----------
    values : ndarray of float32, shape (n, width)
        Values, NaN where unknown.
    wanted : ndarray of bool, shape (width,)
        Columns; NaN in the others.
    q : float
        Between order statistics it is interpolated linearly.

    Returns
    -------
    ndarray of float64, shape (width,)
        Where at least 20 values, and a quarter of them, are finite.
    """
    length, width = values.shape
    out, work = np.full(width, np.nan), np.empty(length, np.float32)
    for i in range(width):
        if not wanted[i]:
            continue
        n = 0
        for k in range(length):
            value = values[k, i]
            if abs(value) < np.inf:
                work[n] = value
                n += 1
        if n < 20 or 4 * n < length:
            continue
        at = q * (n - 1)
        below = min(int(at), n - 2)
        low = np.float64(select(work, n, below))
        high = np.float64(work[below + 1])
        for k in range(below + 2, n):  # what comes behind is not smaller than the first
            high = min(high, np.float64(work[k]))
        out[i] = low + (at - below) * (high - low)
    return out


@njit(cache=True, nogil=True)
def ground(values: Any) -> Any:
    """Level and scatter of a profile beside a line, of its lower part: more may lie there.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
        At least three.

    Returns
    -------
    level, scatter : float
    """
    low = np.sort(values)[: max(3, values.size * 3 // 5)]
    n = low.size
    level = low[n // 2] if n % 2 else 0.5 * (low[n // 2 - 1] + low[n // 2])
    # 1.8: of the lower three fifths of a normal distribution
    return level, 1.8 * _ROBUST * _median(np.abs(low - level), n)


@njit(cache=True, nogil=True)
def piece_light(values: Any, piece: Any, scale: Any) -> Any:
    """Return the light of pieces of a line above what lies beside them.

    Parameters
    ----------
    values : ndarray of float32, shape (n, width)
        Signal to noise along and across the line, NaN where unknown.
    piece : int
        Rows of a piece.
    scale : int
        The core reaches to ``2 scale`` columns from the middle, the ground on each side
        from ``14 scale`` to ``30 scale``.

    Returns
    -------
    ndarray of float64, shape (pieces,)
        Median of the core less the lower median of both sides; NaN where too little is known.
    """
    length, width = values.shape
    reach = (width - 1) // 2
    pieces = (length + piece - 1) // piece
    out, work = np.full(pieces, np.nan), np.empty(piece * width, np.float32)
    for k in range(pieces):
        rows = values[k * piece : (k + 1) * piece]
        least = np.inf
        for sign in (-1, 1):
            first, last = reach + sign * (14 * scale + 1), reach + sign * 30 * scale
            n = _collected(rows, min(first, last), max(first, last), work)
            if n > piece:
                least = min(least, _median(work, n))
        n = _collected(rows, reach - 2 * scale, reach + 2 * scale, work)
        if 2 * n > piece and least < np.inf:
            out[k] = _median(work, n) - least
    return out


@njit(cache=True, nogil=True)
def _collected(rows: Any, first: Any, last: Any, work: Any) -> Any:
    """Copy the finite values of the columns first..last; return their number."""
    n = 0
    for j in range(rows.shape[0]):
        for i in range(first, last + 1):
            if abs(rows[j, i]) < np.inf:
                work[n] = rows[j, i]
                n += 1
    return n
