"""Robust offset, and linear terms, of many measurements with an unknown intrinsic scatter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skymill.kernels import offsets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "Offset",
    "TermFit",
    "fit_extinction",
    "intrinsic_scatter",
    "robust_fit",
    "robust_offset",
]

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
    return float(offsets.likely_scatter(_floats(values), _floats(sigma)))


def _floats(values: Floats) -> Floats:
    return np.ascontiguousarray(values, np.float64)


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
        # Not the scatter of those that were kept: blends of stars are a tail without a gap,
        # and a scatter that they widen would let in more of them.
        eps = _joined(_core_scatter(values[keep], sigma[keep]), int(keep.sum()), expected)
    return keep


def _core_scatter(values: Floats, sigma: Floats) -> float:
    """Scatter beyond the errors of the inner half: ``median |d| / s = 0.6745``."""
    return float(offsets.core_scatter(_floats(values), _floats(sigma), 0.6745))


@dataclass(frozen=True, eq=False)
class TermFit:
    """A common offset and linear terms beside it.

    Parameters
    ----------
    offset : Offset
        The offset where all terms are zero.
    coefficients : ndarray of float64, shape (k,)
        Coefficients of the terms.
    covariance : ndarray of float64, shape (1 + k, 1 + k)
        Covariance of the offset and the coefficients.
    residuals : ndarray of float64, shape (n,)
        Measurements minus the fit, of the rejected ones, too.
    """

    offset: Offset
    coefficients: Floats
    covariance: Floats
    residuals: Floats

    @property
    def errors(self) -> Floats:
        """One-sigma errors of the coefficients."""
        return np.asarray(np.sqrt(np.diag(self.covariance)[1:]))


def robust_fit(
    values: Floats,
    sigma: Floats,
    terms: Floats,
    *,
    clip_sigma: float = 4.0,
    expected_scatter: float = 0.03,
) -> TermFit:
    """Fit an offset and linear terms to measurements, some of which are wrong.

    Absolute deviations give the first guess, since a fit by squares would follow what is
    wrong; then the measurements are judged as in `robust_offset` and fitted by weighted
    least squares in turn until they are the same ones. The intrinsic scatter is found by
    restricted maximum likelihood, so the fitted terms cost their degrees of freedom:

    ``sum w^2 r^2 - sum w + tr((X^T W X)^-1 X^T W^2 X) = 0``

    Parameters
    ----------
    values, sigma : ndarray of float64, shape (n,)
        Finite measurements and their positive errors.
    terms : ndarray of float64, shape (n, k)
        Values of the terms; best centred, so that the offset belongs to the typical star.
    clip_sigma, expected_scatter : float
        As in `robust_offset`.

    Returns
    -------
    TermFit

    Raises
    ------
    ValueError
        If there are not at least two measurements more than coefficients.
    """
    n, k = terms.shape
    if n < k + 3:
        raise ValueError(f"{n} measurements cannot tell {k + 1} coefficients")
    design = np.column_stack([np.ones(n), terms])
    solution = _least_absolute(values, sigma, design)
    keep = np.ones(n, bool)
    for _ in range(30):
        residual = values - design @ solution
        again = robust_offset(
            residual, sigma, clip_sigma=clip_sigma, expected_scatter=expected_scatter
        ).keep
        # A term needs its measurements: with too few left it is not a fit any more.
        if again.sum() < k + 3:
            again = keep
        eps = _restricted_scatter(values[again], sigma[again], design[again])
        solution, covariance = _weighted(values[again], sigma[again], design[again], eps)
        if np.array_equal(again, keep):
            break
        keep = again
    m = int(keep.sum())
    wider = (1 + (2 + k) / m) ** 2
    covariance = covariance * wider
    offset = Offset(float(solution[0]), float(np.sqrt(covariance[0, 0])), eps, keep)
    return TermFit(offset, solution[1:], covariance, values - design @ solution)


def _least_absolute(values: Floats, sigma: Floats, design: Floats) -> Floats:
    """Minimise ``sum |r| / sigma`` by reweighting."""
    solution = np.zeros(design.shape[1])
    solution[0] = np.median(values)
    for _ in range(50):
        residual = values - design @ solution
        floor = 0.1 * np.median(np.abs(residual)) + 1e-9
        weight = 1 / (np.maximum(np.abs(residual), floor) * np.hypot(sigma, floor))
        better = np.linalg.solve(
            design.T @ (weight[:, None] * design), design.T @ (weight * values)
        )
        done = np.abs(better - solution).max() < 1e-9
        solution = better
        if done:
            break
    return np.asarray(solution)


def _weighted(values: Floats, sigma: Floats, design: Floats, eps: float) -> tuple[Floats, Floats]:
    """Weighted least squares with errors of sigma and eps joined."""
    weight = 1 / (sigma**2 + eps**2)
    covariance = np.linalg.inv(design.T @ (weight[:, None] * design))
    return np.asarray(covariance @ (design.T @ (weight * values))), np.asarray(covariance)


def _restricted_scatter(values: Floats, sigma: Floats, design: Floats) -> float:
    """Intrinsic scatter about a linear model by restricted maximum likelihood."""

    def slope(eps2: float) -> float:
        weight = 1 / (sigma**2 + eps2)
        solution, covariance = _weighted(values, sigma, design, float(np.sqrt(eps2)))
        residual = values - design @ solution
        lost = np.trace(covariance @ (design.T @ ((weight**2)[:, None] * design)))
        return float((weight**2 * residual**2).sum() - weight.sum() + lost)

    if slope(0.0) <= 0:
        return 0.0
    low, high = 0.0, float(((values - values.mean()) ** 2).sum()) + 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.sqrt((low + high) / 2))


def fit_extinction(zp: Floats, zp_err: Floats, airmass: Floats) -> TermFit | None:
    """Fit ``zp = zp_0 - k (X - X_0)`` over frames, ``X_0`` their median airmass.

    Clouds only take light away, in single frames: they are the outliers of the fit.

    Parameters
    ----------
    zp, zp_err, airmass : ndarray of float64, shape (n,)
        Zero points with errors and airmasses of frames of one filter and night; those
        that are not finite are left out.

    Returns
    -------
    TermFit or None
        None with fewer than five frames, or if the airmass spans less than 0.2.
    """
    known = np.isfinite(zp) & (zp_err > 0) & np.isfinite(airmass)
    if known.sum() < 5 or np.ptp(airmass[known]) < 0.2:
        return None
    x = airmass[known] - np.median(airmass[known])
    return robust_fit(zp[known], zp_err[known], -x[:, None], expected_scatter=0.01)
