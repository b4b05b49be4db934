"""Polynomials of two variables: products of Legendre polynomials up to a total degree.

Coefficients are found by hand and not by LAPACK, whose last bits differ between machines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["degree_of", "fit_polynomial", "number_of_terms", "polynomial_at", "polynomial_map"]

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
    px, py = _legendre(u, degree), _legendre(v, degree)
    columns = [px[p] * py[q] for p, q in _powers(degree)]
    n = len(columns)
    if len(values) < n:
        return None
    # Differences from the mean keep the digits of a small tilt of a high level.
    centre = float(np.sum(weights * values) / np.sum(weights))
    matrix = [[float(np.sum(weights * a * b)) for b in columns] for a in columns]
    right = [float(np.sum(weights * a * (values - centre))) for a in columns]
    factor = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(factor[i][k] * factor[j][k] for k in range(j))
            if i == j:
                if rest <= _DEGENERATE * matrix[i][i] or rest <= 0:
                    return None
                factor[i][i] = rest**0.5
            else:
                factor[i][j] = rest / factor[j][j]
    half = [0.0] * n
    for i in range(n):
        half[i] = (right[i] - sum(factor[i][k] * half[k] for k in range(i))) / factor[i][i]
    out = [0.0] * n
    for i in reversed(range(n)):
        rest = half[i] - sum(factor[k][i] * out[k] for k in range(i + 1, n))
        out[i] = rest / factor[i][i]
    out[0] += centre
    return np.array(out)


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
