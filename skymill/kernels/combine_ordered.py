"""Medians and trimmed means of a band by a sorting network.

A network sorts all pixels of a tile at once: each of its steps compares two frames and
is a vector operation over the pixels. That is many times faster than sorting the
values of each pixel, and the order that comes out is the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["network", "ordered"]

#: Pixels that are sorted at the same time; those of 20 frames stay in the first cache.
TILE = 256


@lru_cache(maxsize=64)
def network(n: int) -> NDArray[np.int64]:
    """Return the pairs that sort ``n`` values: Batcher's odd-even merge sort.

    Parameters
    ----------
    n : int
        Number of values.

    Returns
    -------
    ndarray of int64, shape (pairs, 2)
        The smaller value goes to the first place of each pair.
    """
    pairs: list[tuple[int, int]] = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                pairs += [
                    (i, i + k)
                    for i in range(j, j + min(k, n - j - k))
                    if i // (2 * p) == (i + k) // (2 * p)
                ]
            k //= 2
        p *= 2
    return np.array(pairs, np.int64).reshape(-1, 2)


@njit(cache=True, error_model="numpy")
def _exchange(a: Any, b: Any) -> Any:
    for x in range(a.shape[0]):
        u, v = a[x], b[x]
        a[x] = u if u < v else v
        b[x] = v if u < v else u


@njit(cache=True, error_model="numpy")
def _fill(row: Any, out: Any, valid: Any) -> Any:
    for x in range(row.shape[0]):
        v = row[x]
        good = not np.isnan(v)
        out[x] = v if good else np.float32(np.inf)
        valid[x] += np.float32(1.0) if good else np.float32(0.0)


@njit(cache=True, error_model="numpy")
def _add_noise(row: Any, model: Any, centre: Any, extra: Any, inverse: Any, level: Any) -> Any:
    """Add 1/sigma of a frame, or its variance, where it has a value."""
    if model[0] == 0.0:
        one = 1.0 / np.sqrt(model[3]) if inverse else model[3]
        for x in range(row.shape[0]):
            level[x] += 0.0 if np.isnan(row[x]) else one
    elif inverse:
        for x in range(row.shape[0]):
            signal = centre[x] * model[1] + model[2] * extra[x]
            one = 1.0 / np.sqrt(model[0] * max(signal, 0.0) + model[3])
            level[x] += 0.0 if np.isnan(row[x]) else one
    else:
        for x in range(row.shape[0]):
            signal = centre[x] * model[1] + model[2] * extra[x]
            one = model[0] * max(signal, 0.0) + model[3]
            level[x] += 0.0 if np.isnan(row[x]) else one


@njit(cache=True, error_model="numpy")
def _centres(
    box: Any, valid: Any, used: Any, n: Any, low: Any, high: Any, median: Any, out: Any
) -> Any:
    """Median, or mean without `low` and `high` of `n` values; `used` receives the count."""
    for x in range(valid.shape[0]):
        m = np.int64(valid[x])
        first, last = 0, m
        if not median:
            fewest, most = int(low * m / n + 0.001), int(high * m / n + 0.001)
            if fewest + most < m:
                first, last = fewest, m - most
        used[x] = last - first
        if m == 0:
            out[x] = np.nan
        elif median:
            upper = np.float64(box[m // 2, x])
            out[x] = upper if m % 2 == 1 else 0.5 * (np.float64(box[m // 2 - 1, x]) + upper)
        else:
            total = 0.0
            for j in range(first, last):
                total += box[j, x]
            out[x] = total / (last - first)


@njit(cache=True, error_model="numpy")
def _count_beyond(row: Any, low: Any, high: Any, strict: Any) -> Any:
    """Count the values of a frame outside the limits, and add them up by pixel."""
    found = 0
    for x in range(row.shape[0]):
        beyond = row[x] < low[x] or row[x] > high[x]
        strict[x] += np.float32(1.0) if beyond else np.float32(0.0)
        found += beyond
    return found


@njit(cache=True, error_model="numpy")
def _count_dropped(
    cube: Any, y: Any, x0: Any, box: Any, valid: Any, used: Any, n_low: Any, counts: Any
) -> Any:
    """Say which frames the dropped values came from; equal values go by the order."""
    n, size = cube.shape[0], valid.shape[0]
    low, high = np.empty(size, np.float32), np.empty(size, np.float32)
    strict = np.zeros(size, np.float32)
    for x in range(size):
        m = np.int64(valid[x])
        first = int(n_low * m / n + 0.001) if used[x] < m else 0
        low[x] = box[first, x] if m > 0 else -np.inf
        high[x] = box[first + used[x] - 1, x] if m > 0 else np.inf
    for i in range(n):
        counts[1, i] += _count_beyond(cube[i, y, x0 : x0 + size], low, high, strict)
    for x in range(size):
        left = np.int64(valid[x]) - used[x] - np.int64(strict[x])
        for i in range(n):
            if left <= 0:
                break
            v = cube[i, y, x0 + x]
            if v == low[x] or v == high[x]:
                counts[1, i] += 1
                left -= 1


@njit(cache=True, error_model="numpy")
def ordered(
    cube: Any,
    pairs: Any,
    extra: Any,
    model: Any,
    median: Any,
    n_low: Any,
    n_high: Any,
    value: Any,
    err: Any,
    n_used: Any,
    n_valid: Any,
    counts: Any,
) -> Any:
    """Median, or mean without the extremes, of a band; the counts of both."""
    n, rows, nx = cube.shape
    has_extra = extra.shape[0] == rows and extra.shape[1] == nx
    box, plane = np.empty((n, TILE), np.float32), np.zeros(TILE)
    full_valid, full_used = np.empty(TILE, np.float32), np.empty(TILE, np.int64)
    full_centre, full_level = np.empty(TILE), np.empty(TILE)
    counts[0] += rows * nx
    for y in range(rows):
        for x0 in range(0, nx, TILE):
            size = min(TILE, nx - x0)
            valid, used = full_valid[:size], full_used[:size]
            centre, level = full_centre[:size], full_level[:size]
            valid[:] = 0
            for i in range(n):
                _fill(cube[i, y, x0 : x0 + size], box[i], valid)
            for k in range(pairs.shape[0]):
                _exchange(box[pairs[k, 0], :size], box[pairs[k, 1], :size])
            if has_extra:
                plane[:size] = extra[y, x0 : x0 + size]
            _centres(box, valid, used, n, n_low, n_high, median, centre)
            if not median:
                _count_dropped(cube, y, x0, box, valid, used, n_low, counts)
            # Unequal noise: the efficiency of the median follows the density at the
            # centre, that is the mean of 1/sigma; a trimmed mean follows the mean square.
            level[:] = 0.0
            for i in range(n):
                row = cube[i, y, x0 : x0 + size]
                _add_noise(row, model[:, i], centre, plane, median, level)
            for x in range(size):
                m = np.float64(valid[x])
                sigma = m / level[x] if median else np.sqrt(level[x] / m) if m > 0 else np.nan
                value[y, x0 + x] = np.float32(centre[x])
                err[y, x0 + x] = np.float32(sigma / np.sqrt(max(used[x], 1)))
                n_used[y, x0 + x] = used[x]
                n_valid[y, x0 + x] = valid[x]
                if m < n:
                    if m == 0:
                        err[y, x0 + x] = np.nan
                    for i in range(n):
                        counts[0, i] -= np.isnan(cube[i, y, x0 + x])
