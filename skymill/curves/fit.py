"""Linear fits that leave outliers out, shared by the ways to detrend light curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LinearFit", "clipped_fit", "robust_rms"]


class LinearFit(NamedTuple):
    """A linear model of values.

    Parameters
    ----------
    coefficients : ndarray of float64, shape (k,)
        0 for terms that the points do not tell.
    predicted, variance : ndarray of float64, shape (n,)
        The model everywhere, and its variance in units of the errors that were given.
    leverage : ndarray of float64, shape (n,)
        Share of each value in its own prediction; 0 where it was left out.
    used : ndarray of bool, shape (n,)
        Values that were fitted.
    rank : int
        Number of terms that were fitted.
    """

    coefficients: NDArray[np.float64]
    predicted: NDArray[np.float64]
    variance: NDArray[np.float64]
    leverage: NDArray[np.float64]
    used: NDArray[np.bool_]
    rank: int


def clipped_fit(
    design: NDArray[np.float64],
    values: NDArray[np.float64],
    errors: NDArray[np.float64],
    use: NDArray[np.bool_],
    *,
    sigma: float = 5.0,
    rejections: int = 20,
) -> LinearFit:
    """Fit a linear model and leave out what lies far from it, several times.

    Parameters
    ----------
    design : ndarray of float64, shape (n, k)
        Terms. Rows that are not finite are predicted as NaN.
    values, errors : ndarray of float64, shape (n,)
        Values and their one-sigma errors.
    use : ndarray of bool, shape (n,)
        Values that may be fitted.
    sigma : float
        Residuals over errors further than this many robust widths from their median
        are left out.
    rejections : int
        Most rounds of leaving out.

    Returns
    -------
    LinearFit
    """
    from skymill.kernels.linear import least_squares

    known = np.asarray(np.isfinite(design).all(axis=1))
    filled = np.ascontiguousarray(np.where(known[:, None], design, 0.0))
    with np.errstate(invalid="ignore"):
        used: NDArray[np.bool_] = np.asarray(
            use & known & np.isfinite(values) & (errors > 0) & np.isfinite(errors)
        )
    safe_values = np.where(used, values, 0.0)
    safe_errors = np.where(used, errors, 1.0)
    kept: NDArray[np.bool_]
    for round_ in range(rejections + 1):
        weights = np.where(used, 1 / safe_errors**2, 0.0)
        coefficients, predicted, variance, rank = least_squares(filled, safe_values, weights)
        pull = (safe_values - predicted) / safe_errors
        if round_ == rejections or used.sum() <= rank + 1:
            break
        centre = np.median(pull[used])
        width = robust_rms(pull[used])
        kept = used & np.asarray(np.abs(pull - centre) <= sigma * width) if width > 0 else used
        if (kept == used).all() or kept.sum() <= rank:
            break
        used = kept
    nan = np.where(known, 0.0, np.nan)
    return LinearFit(
        coefficients, predicted + nan, variance + nan, weights * variance, used, int(rank)
    )


def robust_rms(values: NDArray[np.float64]) -> float:
    """Return 1.4826 times the median absolute deviation from the median."""
    if not values.size:
        return float("nan")
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
