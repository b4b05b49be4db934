"""Compiled scatter of measurements beyond their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["core_scatter", "likely_scatter"]

#: Halvings of a bracket.
_HALVINGS = 60


@njit(cache=True, nogil=True)
def _slope(values: Any, sigma: Any, eps2: Any) -> Any:
    """Slope of the restricted likelihood: ``sum w^2 (d - mean)^2 - sum w + sum w^2 / sum w``."""
    total = squares = first = 0.0
    for i in range(len(values)):
        w = 1.0 / (sigma[i] * sigma[i] + eps2)
        total += w
        squares += w * w
        first += w * values[i]
    mean = first / total
    second = 0.0
    for i in range(len(values)):
        w = 1.0 / (sigma[i] * sigma[i] + eps2)
        second += (w * (values[i] - mean)) ** 2
    return second - total + squares / total


@njit(cache=True, nogil=True)
def likely_scatter(values: Any, sigma: Any) -> Any:
    """Scatter beyond the errors by restricted maximum likelihood; 0 if there is no root."""
    if len(values) < 2 or _slope(values, sigma, 0.0) <= 0:
        return 0.0
    low, high = 0.0, ((values - values.mean()) ** 2).sum() + 1e-12
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _slope(values, sigma, middle) > 0:
            low = middle
        else:
            high = middle
    return np.sqrt((low + high) / 2)


@njit(cache=True, nogil=True)
def core_scatter(values: Any, sigma: Any, core: Any) -> Any:
    """Scatter beyond the errors for which ``median |d| / s`` has a given value."""
    off = np.abs(values - np.median(values))
    if np.median(off / np.sqrt(sigma**2)) <= core:
        return 0.0
    low, high = 0.0, off.max() ** 2 + 1e-12
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if np.median(off / np.sqrt(sigma**2 + middle)) > core:
            low = middle
        else:
            high = middle
    return np.sqrt((low + high) / 2)
