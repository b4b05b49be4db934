"""Robust common offset of many measurements with an unknown intrinsic scatter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Offset", "intrinsic_scatter", "robust_offset"]

#: Weight of the expected scatter, as a number of stars.
_PRIOR_STARS = 4.0

#: With fewer stars they are taken in one by one.
_FEW = 12

#: With fewer stars the expected scatter enters the error of the mean.
_TINY = 5


@dataclass(frozen=True, eq=False)
class Offset:
    """A common offset.

    Parameters
    ----------
    value, err : float
        Weighted mean of the kept measurements and its statistical error.
    scatter : float
        Intrinsic scatter beyond the errors; NaN for fewer than three.
    keep : ndarray of bool
        True for the measurements that were kept.
    """

    value: float
    err: float
    scatter: float
    keep: NDArray[np.bool_]


def intrinsic_scatter(values: Floats, sigma: Floats) -> float:
    """Return the scatter beyond the errors by restricted maximum likelihood.

    Solves ``sum w^2 (d - mean)^2 - sum w + sum w^2 / sum w = 0`` with
    ``w = 1/(sigma^2 + eps^2)``; zero if there is no positive root.

    Parameters
    ----------
    values, sigma : ndarray of float64, shape (n,)
        Measurements and their errors.
    """

    def slope(eps2: float) -> float:
        w = 1 / (sigma**2 + eps2)
        mean = (w * values).sum() / w.sum()
        return float((w**2 * (values - mean) ** 2).sum() - w.sum() + (w**2).sum() / w.sum())

    if len(values) < 2 or slope(0.0) <= 0:
        return 0.0
    low, high = 0.0, float(((values - values.mean()) ** 2).sum()) + 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.sqrt((low + high) / 2))


def robust_offset(
    values: Floats,
    sigma: Floats,
    *,
    clip_sigma: float = 4.0,
    expected_scatter: float = 0.03,
) -> Offset:
    """Return the common offset of measurements, some of which are wrong.

    The search starts from the shortest half of the values and takes in what agrees with
    it. Agreement is judged by the measured scatter, joined with the expected one as if
    that came from four more stars: three good stars must be able to expose a fourth.
    The error of the weighted mean is widened by ``1 + 2/n``, since the scatter of few
    stars is itself uncertain; below five stars the expected scatter is used where it is
    larger, and the error widened by ``1 + 1/n``.

    Parameters
    ----------
    values, sigma : ndarray of float64, shape (n,)
        Finite measurements and their positive errors.
    clip_sigma : float
        Measurements further off than this many standard deviations are rejected.
    expected_scatter : float
        Scatter expected of good measurements beyond their errors.

    Returns
    -------
    Offset
        With NaN if there is no measurement.
    """
    n = len(values)
    if n == 0:
        nan = float("nan")
        return Offset(nan, nan, nan, np.zeros(0, dtype=bool))
    keep, spread = _shortest_half(values, sigma)
    keep = (
        _one_by_one(values, sigma, keep, clip_sigma, expected_scatter)
        if n < _FEW
        else _all_at_once(values, sigma, keep, spread, clip_sigma, expected_scatter)
    )
    good, err = values[keep], sigma[keep]
    m = len(good)
    eps = intrinsic_scatter(good, err)
    used = max(eps, _joined(eps, m, expected_scatter)) if m < _TINY else eps
    weight = 1 / (err**2 + used**2)
    mean = float((weight * good).sum() / weight.sum())
    wider = 1 + (2 / m if m >= _TINY else 1 / m)
    error = float(wider / np.sqrt(weight.sum()))
    return Offset(mean, error, eps if m > 2 else float("nan"), keep)


def _joined(eps: float, n: int, expected: float) -> float:
    return float(np.sqrt((_PRIOR_STARS * expected**2 + n * eps**2) / (_PRIOR_STARS + n)))


def _shortest_half(values: Floats, sigma: Floats) -> tuple[NDArray[np.bool_], float]:
    """Return the half of the values that lie closest together, and the scatter it implies."""
    n = len(values)
    half = n // 2 + 1
    order = np.argsort(values, kind="stable")
    width = values[order[half - 1 :]] - values[order[: n - half + 1]]
    first = int(np.argmin(width))
    keep = np.zeros(n, dtype=bool)
    keep[order[first : first + half]] = True
    # Half of a normal distribution lies within 0.6745 sigma of the middle.
    total = float(width[first]) / (2 * 0.6745)
    return keep, float(np.sqrt(max(total**2 - float(np.median(sigma**2)), 0.0)))


def _mean(values: Floats, sigma: Floats, keep: NDArray[np.bool_], eps: float) -> float:
    weight = keep / (sigma**2 + eps**2)
    return float((weight * values).sum() / weight.sum())


def _one_by_one(
    values: Floats, sigma: Floats, start: NDArray[np.bool_], clip: float, expected: float
) -> NDArray[np.bool_]:
    keep = start.copy()
    while not keep.all():
        eps = _joined(intrinsic_scatter(values[keep], sigma[keep]), int(keep.sum()), expected)
        total = np.sqrt(sigma**2 + eps**2)
        off = np.abs(values - _mean(values, sigma, keep, eps)) / total
        nearest = int(np.argmin(np.where(keep, np.inf, off)))
        if off[nearest] > clip:
            break
        keep[nearest] = True
    return keep


def _all_at_once(
    values: Floats,
    sigma: Floats,
    start: NDArray[np.bool_],
    spread: float,
    clip: float,
    expected: float,
) -> NDArray[np.bool_]:
    keep, eps = start, _joined(spread, len(values), expected)
    for _ in range(30):
        off = np.abs(values - _mean(values, sigma, keep, eps)) / np.sqrt(sigma**2 + eps**2)
        again = off <= clip
        if again.sum() < 2 or np.array_equal(again, keep):
            break
        keep = again
        eps = _joined(intrinsic_scatter(values[keep], sigma[keep]), int(keep.sum()), expected)
    return keep
