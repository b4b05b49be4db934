"""Polynomials of two variables: products of Legendre polynomials up to a total degree.

Coefficients are found by hand and not by LAPACK, whose last bits differ between machines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["degree_of", "evaluate", "fit_polynomial", "fit_terms", "number_of_terms",
           "polynomial_at", "polynomial_map"]  # fmt: skip

#: A pivot below this part of its diagonal element says that the points do not tell a term.
_DEGENERATE = 1e-9


def number_of_terms(degree: int) -> int:
    """Return the number of coefficients of a total degree."""
    return (degree + 1) * (degree + 2) // 2


def degree_of(n_coefficients: int) -> int:
    """Return the degree that has so many coefficients.

    Raises
    ------
    ValueError
        If no degree has.
    """
    degree = 0
    while number_of_terms(degree) < n_coefficients:
        degree += 1
    if number_of_terms(degree) != n_coefficients:
        raise ValueError(f"{n_coefficients} coefficients belong to no total degree")
    return degree


def _powers(degree: int) -> list[tuple[int, int]]:
    """Degrees in x and y of the terms: 1, x, y, x^2, xy, y^2, ..."""
    return [(total - q, q) for total in range(degree + 1) for q in range(total + 1)]


def _legendre(u: NDArray[np.float64], degree: int) -> list[NDArray[np.float64]]:
    values = [np.ones_like(u), u]
    for n in range(1, degree):
        values.append(((2 * n + 1) * u * values[n] - n * values[n - 1]) / (n + 1))
    return values[: degree + 1]


def fit_polynomial(
    u: NDArray[np.float64],
    v: NDArray[np.float64],
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    degree: int,
) -> NDArray[np.float64] | None:
    """Least-squares coefficients, None if the points do not determine them.

    Parameters
    ----------
    u, v : ndarray of float64, shape (n,)
        Positions along x and y, within -1..1.
    values, weights : ndarray of float64, shape (n,)
        Values and inverse variances up to a common factor.
    degree : int
        Total degree.

    Returns
    -------
    ndarray of float64, shape (n_terms,), or None
        In the order 1, x, y, x^2, xy, y^2, ... of the products of Legendre polynomials.
    """
    every = np.ones(len(values), np.bool_)
    planes = (np.ascontiguousarray(a, np.float64) for a in (u, v, values, weights))
    found, coefficients = fit_terms(*planes, every, degree)
    return np.asarray(coefficients) if found else None


@njit(cache=True, nogil=True)
def _terms(u: Any, v: Any, degree: Any, px: Any, py: Any, out: Any) -> Any:
    """Write the terms at a position: 1, x, y, x^2, xy, y^2, ..."""
    px[0], py[0], px[1], py[1] = 1.0, 1.0, u, v
    for n in range(1, degree):
        px[n + 1] = ((2 * n + 1) * u * px[n] - n * px[n - 1]) / (n + 1)
        py[n + 1] = ((2 * n + 1) * v * py[n] - n * py[n - 1]) / (n + 1)
    k = 0
    for total in range(degree + 1):
        for q in range(total + 1):
            out[k] = px[total - q] * py[q]
            k += 1


@njit(cache=True, nogil=True)
def _solve(matrix: Any, right: Any) -> Any:
    """Solve symmetric equations by Cholesky; tell whether they determine the solution."""
    n = right.size
    out = np.zeros(n)
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i, j]
            for k in range(j):
                rest -= matrix[i, k] * matrix[j, k]
            if i > j:
                matrix[i, j] = rest / matrix[j, j]
            elif rest <= _DEGENERATE * matrix[i, i] or rest <= 0:
                return False, out
            else:
                matrix[i, i] = rest**0.5
    for i in range(n):
        rest = right[i]
        for k in range(i):
            rest -= matrix[i, k] * out[k]
        out[i] = rest / matrix[i, i]
    for i in range(n - 1, -1, -1):
        rest = out[i]
        for k in range(i + 1, n):
            rest -= matrix[k, i] * out[k]
        out[i] = rest / matrix[i, i]
    return True, out


@njit(cache=True, nogil=True)
def fit_terms(u: Any, v: Any, values: Any, weights: Any, use: Any, degree: Any) -> Any:
    """Fit as `fit_polynomial` where ``use`` is true; return whether it can be, and the fit."""
    n = (degree + 1) * (degree + 2) // 2
    px, py = np.empty(degree + 2), np.empty(degree + 2)
    terms, matrix, right = np.empty(n), np.zeros((n, n)), np.zeros(n)
    count, total, weight = 0, 0.0, 0.0
    for k in range(values.size):
        if use[k]:
            count += 1
            total += weights[k] * values[k]
            weight += weights[k]
    if count < n:
        return False, right
    # Differences from the mean keep the digits of a small tilt of a high level.
    centre = total / weight
    for k in range(values.size):
        if not use[k]:
            continue
        _terms(u[k], v[k], degree, px, py, terms)
        for i in range(n):
            part = weights[k] * terms[i]
            right[i] += part * (values[k] - centre)
            for j in range(i + 1):
                matrix[i, j] += part * terms[j]
    found, out = _solve(matrix, right)
    out[0] += centre
    return found, out


@njit(cache=True, nogil=True)
def evaluate(coefficients: Any, degree: Any, u: Any, v: Any) -> Any:
    """Return the values of a polynomial at positions u, v of shape (n,)."""
    px, py = np.empty(degree + 2), np.empty(degree + 2)
    terms, out = np.empty(coefficients.size), np.zeros(u.size)
    for k in range(u.size):
        _terms(u[k], v[k], degree, px, py, terms)
        for i in range(terms.size):
            out[k] += coefficients[i] * terms[i]
    return out


def polynomial_at(
    coefficients: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Evaluate at positions u, v (arrays that broadcast), see `fit_polynomial`."""
    degree = degree_of(len(coefficients))
    px, py = _legendre(u, degree), _legendre(v, degree)
    out = np.zeros(np.broadcast_shapes(u.shape, v.shape))
    for c, (p, q) in zip(coefficients, _powers(degree), strict=True):
        out += float(c) * px[p] * py[q]
    return out


def polynomial_map(
    coefficients: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Evaluate at every pixel: ``u = (2 x + 1) / nx - 1``, ``v = (2 y + 1) / ny - 1``."""
    ny, nx = shape
    u = (2 * np.arange(nx) + 1.0) / nx - 1
    v = (2 * np.arange(ny) + 1.0) / ny - 1
    degree = degree_of(len(coefficients))
    px, py = _legendre(u, degree), _legendre(v, degree)
    out = np.empty(shape, np.float32)
    powers = _powers(degree)
    for y in range(ny):
        line = np.zeros(nx)
        for c, (p, q) in zip(coefficients, powers, strict=True):
            line += float(c) * py[q][y] * px[p]
        out[y] = line
    return out
