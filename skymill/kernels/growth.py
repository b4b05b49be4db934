"""Compiled means of growth curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["clipped_means"]


@njit(cache=True, nogil=True)
def clipped_means(curves: Any, variance: Any, clip: Any) -> Any:
    """Clipped weighted mean of each column and its error; the last one is 1 by definition.

    Parameters
    ----------
    curves, variance : ndarray of float64, shape (n, m)
        Curve of each star and its variance; what is not finite is left out.
    clip : float
        Values further from the median than this many sigma are left out.

    Returns
    -------
    mean, error : ndarray of float64, shape (m,)
    """
    m = curves.shape[1]
    mean, error = np.full(m, np.nan), np.full(m, np.nan)
    for k in range(m):
        there = np.isfinite(curves[:, k]) & np.isfinite(variance[:, k])
        value, var = curves[:, k][there], variance[:, k][there]
        if not value.size:
            continue
        if k == m - 1:
            mean[k], error[k] = 1.0, 0.0
            continue
        away = np.abs(value - np.median(value))
        scatter = 1.4826 * np.median(away)
        kept = away <= clip * np.sqrt(np.maximum(var, 0.0) + scatter**2) + 1e-12
        value, var = value[kept], var[kept]
        # A floor of the scatter of the stars themselves keeps one bright star from ruling.
        weight = 1 / (var + max(scatter**2 - np.median(var), 0.0) + 1e-16)
        total = weight.sum()
        mean[k] = (weight * value).sum() / total
        spread = (weight * (value - mean[k]) ** 2).sum() / max(value.size - 1, 1)
        error[k] = np.sqrt(max(spread, 1.0) / total)
    return mean, error
