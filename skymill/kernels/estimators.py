"""How much noisier than the mean an estimator is: medians, trimmed and clipped means."""

from __future__ import annotations

from functools import lru_cache
from math import erf, exp, pi, sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NoiseTable", "estimator_noise"]

#: Monte Carlo samples behind `estimator_noise`; its error is below 0.3 % with these.
_SAMPLES = 20_000


class NoiseTable:
    """`estimator_noise` for the counts that occur, each computed once."""

    def __init__(self, method: str, n: int, clip_sigma: float, n_low: int, n_high: int) -> None:
        self.arguments = (method, n, clip_sigma, n_low, n_high)
        self.table = np.full(n + 1, np.nan, np.float32)
        self.table[0] = 1.0

    def apply(self, err: NDArray[np.float32], counts: NDArray[np.uint16]) -> None:
        """Multiply errors by the factor for each count, in place; shapes (ny, nx)."""
        method, n, clip_sigma, n_low, n_high = self.arguments
        if method == "mean":
            return
        present = np.flatnonzero(np.bincount(counts.ravel(), minlength=n + 1))
        for m in present:
            if np.isnan(self.table[m]):
                low, high = _dropped(int(m), n, n_low, n_high)
                self.table[m] = estimator_noise(method, int(m), clip_sigma, low, high)
        factors = self.table[present]
        if (factors == factors[0]).all():
            if factors[0] != 1:
                err *= factors[0]
            return
        err *= self.table[counts]

    def excess(self) -> float:
        """Expected sum of squares about the estimator over that about the mean.

        With ``Var T = 1/n + Var(T - mean)`` (see `estimator_noise`) the sum is
        ``n - 1 + n Var(T - mean)`` in units of the variance of a value.
        """
        method, n, clip_sigma, n_low, n_high = self.arguments
        if n < 2 or method not in ("median", "minmax"):
            return 1.0
        low, high = _dropped(n, n, n_low, n_high) if method == "minmax" else (0, 0)
        noise = estimator_noise(method, n, clip_sigma, low, high)
        return (n - 2 + noise**2 * n / (n - low - high)) / (n - 1)


def _dropped(m: int, n: int, n_low: int, n_high: int) -> tuple[int, int]:
    """Values that minmax drops of ``m`` valid ones; the proportions of ``n`` are kept."""
    low, high = int(n_low * m / n + 0.001), int(n_high * m / n + 0.001)
    return (low, high) if low + high < m else (0, 0)


@lru_cache(maxsize=4096)
def estimator_noise(
    method: str, n: int, clip_sigma: float = 4.5, n_low: int = 0, n_high: int = 0
) -> float:
    """Noise of an estimator relative to the mean of the values that it used.

    The true standard deviation of the estimator for ``n`` normal values, divided by
    ``sigma / sqrt(number used)``.

    Parameters
    ----------
    method : str
        ``mean``, ``median``, ``minmax``, ``clipped`` or ``weighted`` (clipped too).
    n : int
        Number of values.
    clip_sigma : float
        Threshold of ``clipped`` (known sigma, centre the median).
    n_low, n_high : int
        Values dropped by ``minmax``.

    Returns
    -------
    float

    Notes
    -----
    For a shift-equivariant estimator ``T`` of a normal sample, ``T - mean`` and
    ``mean`` are independent (Basu), so ``Var T = 1/n + Var(T - mean)``. Only the small
    second part is simulated, with a fixed seed. Above 100 values that of 100 is used.
    Thresholds of 4 sigma and more cost less than 0.06 %; there the limit for many
    values, a variance larger by ``p / (p - 2 k phi(k))``, serves for any number of them.
    """
    if method == "mean" or n < 2 or (method == "median" and n == 2):
        return 1.0
    if method in ("clipped", "weighted"):
        if clip_sigma >= 4:
            return _far_tail(clip_sigma)
        method = "clipped"
    if n > 100:
        shrink = 100 / n
        return estimator_noise(method, 100, clip_sigma, int(n_low * shrink), int(n_high * shrink))
    sample = np.random.default_rng(20_240_513 + n).standard_normal((_SAMPLES, n))
    mean = sample.mean(axis=1)
    used: float | NDArray[np.float64] = float(n)
    if method == "median":
        estimate = np.median(sample, axis=1)
    elif method == "minmax":
        estimate = np.sort(sample, axis=1)[:, n_low : n - n_high].mean(axis=1)
        used = float(n - n_low - n_high)
    elif method == "clipped":
        centre = np.median(sample, axis=1, keepdims=True)
        keep = np.abs(sample - centre) <= clip_sigma
        if n == 2:
            keep = np.abs(np.diff(sample, axis=1)) <= clip_sigma * np.sqrt(2)
            keep = np.concatenate([keep | (sample[:, :1] <= sample[:, 1:]),
                                   keep | (sample[:, 1:] < sample[:, :1])], axis=1)  # fmt: skip
        used = np.maximum(keep.sum(axis=1), 1)
        estimate = np.where(keep, sample, 0).sum(axis=1) / used
    else:
        raise ValueError(f"unknown method {method!r}")
    variance = 1 / n + np.var(estimate - mean)
    return float(np.sqrt(variance / np.mean(1.0 / np.asarray(used))))


def _far_tail(k: float) -> float:
    """Noise of a mean clipped at ``k`` sigma against ``sigma / sqrt(number used)``."""
    inside = erf(k / sqrt(2))
    return sqrt(inside / (inside - 2 * k * exp(-k * k / 2) / sqrt(2 * pi)))
