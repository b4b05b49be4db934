"""Meshes of the sky: clipped surfaces, medians around cells, objects that stand out.

Meshes have few cells, so that numpy would spend its time on calls: these are plain loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from skymill.kernels.order_statistics import select
from skymill.kernels.polynomial import evaluate, fit_terms

__all__ = ["fill", "fit_surface", "running_median", "standing_out", "surface"]


@njit(cache=True, nogil=True)
def _median(values: Any, n: Any) -> Any:
    """Median of the first n values, at least one; they are put in partial order."""
    high = select(values, n, n // 2)
    return high if n % 2 else 0.5 * (select(values, n, n // 2 - 1) + high)


@njit(cache=True, nogil=True)
def _positions(shape: Any) -> Any:
    """Places of the cells within -1..1 along x and y, row by row."""
    my, mx = shape
    u, v = np.empty(my * mx), np.empty(my * mx)
    for j in range(my):
        for i in range(mx):
            u[j * mx + i] = (2 * i + 1.0) / mx - 1
            v[j * mx + i] = (2 * j + 1.0) / my - 1
    return u, v


@njit(cache=True, nogil=True)
def surface(coefficients: Any, degree: Any, shape: Any) -> Any:
    """Return the values of a polynomial at all cells, shape (my, mx)."""
    u, v = _positions(shape)
    return evaluate(coefficients, degree, u, v).reshape(shape)


@njit(cache=True, nogil=True)
def fit_surface(values: Any, use: Any, weights: Any, degree: Any) -> Any:
    """Fit a polynomial to a mesh, cells more than 3 robust sigma off left out.

    Parameters
    ----------
    values, weights : ndarray of float64, shape (my, mx)
        Mesh and inverse variances.
    use : ndarray of bool, shape (my, mx)
        Cells that may be used; at least one.
    degree : int
        Total degree.

    Returns
    -------
    coefficients : ndarray of float64
    degree : int
        0 if the cells do not determine the polynomial: their median.
    """
    shape = values.shape
    u, v = _positions(shape)
    z, w, allowed = values.copy().ravel(), weights.copy().ravel(), use.copy().ravel()
    n, work = 0, np.empty(z.size)
    for k in range(z.size):
        if allowed[k]:
            work[n] = z[k]
            n += 1
    best, best_degree = np.array([_median(work, n)]), 0
    kept, new = allowed.copy(), allowed.copy()
    for _ in range(5):
        found, coefficients = fit_terms(u, v, z, w, kept, degree)
        if not found:
            break
        best, best_degree = coefficients, degree
        rest = np.abs(z - evaluate(best, degree, u, v))
        n = 0
        for k in range(z.size):
            if kept[k]:
                work[n] = rest[k]
                n += 1
        limit = max(3 * 1.4826 * _median(work, n), 1e-9)
        same, number = True, 0
        for k in range(z.size):
            new[k] = allowed[k] and rest[k] <= limit
            same &= new[k] == kept[k]
            number += new[k]
        if number < best.size + 2 or same:
            break
        kept[:] = new
    return best, best_degree


@njit(cache=True, nogil=True)
def running_median(values: Any, reach: Any) -> Any:
    """Median of the finite values up to ``reach`` cells away, NaN where there is none."""
    my, mx = values.shape
    out = np.full((my, mx), np.nan)
    work = np.empty((2 * reach + 1) ** 2)
    for j in range(my):
        for i in range(mx):
            n = 0
            for y in range(max(j - reach, 0), min(j + reach + 1, my)):
                for x in range(max(i - reach, 0), min(i + reach + 1, mx)):
                    if abs(values[y, x]) < np.inf:
                        work[n] = values[y, x]
                        n += 1
            if n > 0:
                out[j, i] = _median(work, n)
    return out


@njit(cache=True, nogil=True)
def _mean_around(values: Any, known: Any, j: Any, i: Any) -> Any:
    """Mean of the known cells in the 3 x 3 square around a cell; NaN if there are none."""
    my, mx = values.shape
    total, count = 0.0, 0
    for y in range(max(j - 1, 0), min(j + 2, my)):
        for x in range(max(i - 1, 0), min(i + 2, mx)):
            if known[y, x]:
                total += values[y, x]
                count += 1
    return total / count if count else np.nan


@njit(cache=True, nogil=True)
def fill(values: Any) -> Any:
    """Replace NaN by the mean of the neighbours, from the rim of each hole inwards.

    Parameters
    ----------
    values : ndarray of float64, shape (my, mx)
        Finite somewhere. Changed.
    """
    my, mx = values.shape
    while True:
        known = np.isfinite(values)
        if known.all() or not known.any():
            return
        before = values.copy()
        for j in range(my):
            for i in range(mx):
                if not known[j, i]:
                    values[j, i] = _mean_around(before, known, j, i)


@njit(cache=True, nogil=True)
def _fraction(ordered: Any, part: Any) -> Any:
    """Value below which a part of ordered values lies, interpolated."""
    at = part * (ordered.size - 1)
    below = min(int(at), max(ordered.size - 2, 0))
    above = min(below + 1, ordered.size - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


@njit(cache=True, nogil=True)
def _add_blocks(found: Any, known: Any) -> Any:
    """Add the squares of 2 x 2 cells of which none is known."""
    my, mx = known.shape
    for j in range(my - 1):
        for i in range(mx - 1):
            if not (known[j, i] or known[j, i + 1] or known[j + 1, i] or known[j + 1, i + 1]):
                found[j : j + 2, i : i + 2] = True


@njit(cache=True, nogil=True)
def standing_out(
    rest: Any, sky: Any, known: Any, noise: Any, core_sigma: Any, outskirts_sigma: Any
) -> Any:
    """Cores well above the sky with the connected cells around them that are above it too.

    A block of cells that lost all their sky may be a core too: that of a large source.

    Parameters
    ----------
    rest : ndarray of float64, shape (my, mx)
        Level above the smooth sky.
    sky, known : ndarray of bool, shape (my, mx)
        Cells of the sky, at least one; and all that have a level.
    noise : float
        Error of the level of a cell.
    core_sigma, outskirts_sigma : float
        How far cores, and means of 3 x 3 cells of the outskirts, are above the sky.

    Returns
    -------
    ndarray of bool, shape (my, mx)
    """
    my, mx = rest.shape
    ordered = np.sort(rest.ravel()[sky.ravel()])
    low, centre = _fraction(ordered, 0.1587), _fraction(ordered, 0.5)
    sigma = max(centre - low, noise)
    above = rest - centre
    found, outskirts = np.zeros((my, mx), np.bool_), np.zeros((my, mx), np.bool_)
    for j in range(my):
        for i in range(mx):
            found[j, i] = known[j, i] and above[j, i] > core_sigma * sigma
            mean = _mean_around(above, known, j, i)
            outskirts[j, i] = known[j, i] and mean > outskirts_sigma * sigma and above[j, i] > 0
    _add_blocks(found, known)
    some = True
    while some:
        some = False
        for j in range(my):
            for i in range(mx):
                if outskirts[j, i] and not found[j, i]:
                    y, x = max(j - 1, 0), max(i - 1, 0)
                    if found[y : j + 2, x : i + 2].any():
                        found[j, i] = some = True
    return found & known
