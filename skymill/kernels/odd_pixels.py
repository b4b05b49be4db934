"""Compiled loops that find pixels far from their surroundings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["beyond", "stretch_levels"]


@njit(cache=True)
def stretch_levels(plane: Any, instead: Any, length: Any, out: Any) -> Any:
    """Median of every second pixel of each stretch of `length` pixels of a row.

    `instead` takes the place of values that are not finite. `out` has the shape
    (ny, stretches); the last stretch of a row may be shorter.
    """
    ny, nx = plane.shape
    values = np.empty(length, np.float32)
    for y in range(ny):
        for k in range(out.shape[1]):
            n = 0
            for x in range(k * length, min((k + 1) * length, nx), 2):
                v = plane[y, x] if abs(plane[y, x]) < np.inf else instead
                j = n - 1
                while j >= 0 and values[j] > v:
                    values[j + 1] = values[j]
                    j -= 1
                values[j + 1] = v
                n += 1
            out[y, k] = 0.5 * (values[(n - 1) // 2] + values[n // 2])


@njit(cache=True)
def beyond(
    plane: Any, local: Any, pattern: Any, length: Any, limit: Any, high: Any, low: Any, mask: Any
) -> Any:
    """Set the bits `high` and `low` where a pixel lies beyond the limit.

    It is compared with the level of its stretch and the pattern of its column.
    """
    ny, nx = plane.shape
    for y in range(ny):
        for k in range(local.shape[1]):
            for x in range(k * length, min((k + 1) * length, nx)):
                excess = plane[y, x] - local[y, k] - pattern[x]
                mask[y, x] |= high if excess > limit else 0
                mask[y, x] |= low if excess < -limit else 0
