"""Search in ascending values."""

from __future__ import annotations

from typing import Any

from numba import njit

__all__ = ["first_not_less"]


@njit(cache=True, nogil=True)
def first_not_less(values: Any, start: Any, end: Any, least: Any) -> Any:
    """Index of the first of ascending values in a range that is not less than one."""
    while start < end:
        middle = (start + end) // 2
        if values[middle] < least:
            start = middle + 1
        else:
            end = middle
    return start
