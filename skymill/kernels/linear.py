"""Weighted linear least squares without LAPACK, whose last bits differ between machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["least_squares"]

#: A column of which less than this part is left beside the others tells nothing new.
_DEPENDENT = 1e-8


@njit(cache=True)
def least_squares(
    design: NDArray[np.float64], values: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]:
    """Fit ``values ~ design @ coefficients`` by modified Gram-Schmidt, done twice.

    Parameters
    ----------
    design : ndarray of float64, shape (n, k)
        Terms; finite wherever a prediction is wanted.
    values : ndarray of float64, shape (n,)
        Values; those of weight 0 are not looked at.
    weights : ndarray of float64, shape (n,)
        Inverse variances; 0 leaves a value out of the fit, not out of the prediction.

    Returns
    -------
    coefficients : ndarray of float64, shape (k,)
        0 for columns that depend on earlier ones.
    predicted : ndarray of float64, shape (n,)
        ``design @ coefficients``.
    variance : ndarray of float64, shape (n,)
        ``a (A^T W A)^-1 a``: variance of the prediction; times the weight it is the
        leverage of a value.
    rank : int
        Number of columns that were fitted.
    """
    n, k = design.shape
    q = np.zeros((k, n))
    r = np.zeros((k, k))
    alive = np.zeros(k, np.bool_)
    root = np.sqrt(weights)
    y = np.zeros(n)
    for i in range(n):
        if weights[i] > 0:
            y[i] = root[i] * values[i]
            for j in range(k):
                q[j, i] = root[i] * design[i, j]
    beta = np.zeros(k)
    rank = 0
    for j in range(k):
        before = 0.0
        for i in range(n):
            before += q[j, i] ** 2
        for _ in range(2):
            for m in range(j):
                if alive[m]:
                    dot = 0.0
                    for i in range(n):
                        dot += q[m, i] * q[j, i]
                    for i in range(n):
                        q[j, i] -= dot * q[m, i]
                    r[m, j] += dot
        after = 0.0
        for i in range(n):
            after += q[j, i] ** 2
        if after <= before * _DEPENDENT**2 or after == 0.0:
            q[j, :] = 0.0
            continue
        alive[j] = True
        rank += 1
        r[j, j] = np.sqrt(after)
        dot = 0.0
        for i in range(n):
            q[j, i] /= r[j, j]
            dot += q[j, i] * y[i]
        beta[j] = dot
        for i in range(n):
            y[i] -= dot * q[j, i]
    coefficients = np.zeros(k)
    for j in range(k - 1, -1, -1):
        if alive[j]:
            rest = beta[j]
            for m in range(j + 1, k):
                if alive[m]:
                    rest -= r[j, m] * coefficients[m]
            coefficients[j] = rest / r[j, j]
    predicted = np.zeros(n)
    variance = np.zeros(n)
    z = np.zeros(k)
    for i in range(n):
        for j in range(k):
            predicted[i] += design[i, j] * coefficients[j]
            if alive[j]:
                rest = design[i, j]
                for m in range(j):
                    if alive[m]:
                        rest -= r[m, j] * z[m]
                z[j] = rest / r[j, j]
                variance[i] += z[j] ** 2
    return coefficients, predicted, variance, rank
