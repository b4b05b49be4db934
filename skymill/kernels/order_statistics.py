"""Medians of few values: selection in place, and small boxes of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["box_median", "median_of_9", "select", "select_between", "sort_values"]

#: Fewer values than this are sorted by comparing.
_FEW = 200


@njit(cache=True)
def select_between(values: Any, left: Any, right: Any, k: Any) -> Any:
    """Return the k-th smallest value, which lies between the places left and right.

    Hoare's selection: the values between these places are put in partial order.
    """
    while left < right:
        pivot = values[(left + right) >> 1]
        i, j = left, right
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            right = j
        elif k >= i:
            left = i
        else:
            break
    return values[k]


@njit(cache=True)
def select(values: Any, n: Any, k: Any) -> Any:
    """Return the k-th smallest of the first n values; they are put in partial order."""
    return select_between(values, 0, n - 1, k)


@njit(cache=True)
def box_median(plane: Any, y: Any, x: Any, half: Any, work: Any) -> Any:
    """Return the median of the box of side ``2 half + 1`` around an inner pixel.

    ``work`` is an array with room for the values.
    """
    n = 0
    for j in range(y - half, y + half + 1):
        for i in range(x - half, x + half + 1):
            work[n] = plane[j, i]
            n += 1
    return select(work, n, n // 2)


@njit(cache=True, inline="always")
def _low_middle_high(a: Any, b: Any, c: Any) -> Any:
    low, high = min(a, b), max(a, b)
    return min(low, c), max(low, min(high, c)), max(high, c)


@njit(cache=True)
def median_of_9(plane: Any, y: Any, x: Any) -> Any:
    """Return the median of the 3 x 3 box around an inner pixel.

    The median of nine is the median of three: the largest of the rows' minima, the
    median of their medians, the smallest of their maxima. No branch.
    """
    a0, a1, a2 = _low_middle_high(plane[y - 1, x - 1], plane[y - 1, x], plane[y - 1, x + 1])
    b0, b1, b2 = _low_middle_high(plane[y, x - 1], plane[y, x], plane[y, x + 1])
    c0, c1, c2 = _low_middle_high(plane[y + 1, x - 1], plane[y + 1, x], plane[y + 1, x + 1])
    low = max(a0, b0, c0)
    high = min(a2, b2, c2)
    _, middle, _ = _low_middle_high(a1, b1, c1)
    _, out, _ = _low_middle_high(low, middle, high)
    return out


@njit(cache=True)
def sort_values(values: Any) -> None:
    """Sort float32 values in place, by their bits: several times as fast as by comparing.

    Parameters
    ----------
    values : ndarray of float32, shape (n,)
        Values without NaN, contiguous.
    """
    n = values.size
    if n < _FEW:
        values.sort()
        return
    bits = values.view(np.uint32)
    one, two = np.empty(n, np.uint32), np.empty(n, np.uint32)
    counts = np.zeros((3, 2048), np.int64)
    for i in range(n):
        key = bits[i]
        # negative numbers run backwards; all of them lie below the positive ones
        key = ~key if key & np.uint32(0x80000000) else key | np.uint32(0x80000000)
        one[i] = key
        counts[0, key & np.uint32(2047)] += 1
        counts[1, (key >> np.uint32(11)) & np.uint32(2047)] += 1
        counts[2, key >> np.uint32(22)] += 1
    for step in range(3):
        total = 0
        for digit in range(2048):
            number = counts[step, digit]
            counts[step, digit] = total
            total += number
        for i in range(n):
            key = one[i]
            digit = (key >> np.uint32(11 * step)) & np.uint32(2047)
            two[counts[step, digit]] = key
            counts[step, digit] += 1
        one, two = two, one
    for i in range(n):
        key = one[i]
        bits[i] = key ^ np.uint32(0x80000000) if key & np.uint32(0x80000000) else ~key
