"""Meshes of the sky: smooth surfaces through them, objects that stand out, holes filled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skymill.kernels import sky_surface
from skymill.kernels.polynomial import degree_of, number_of_terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["extended_cells", "fit_surface", "running_median", "smooth_mesh", "surface_at"]

#: A cell so many sigma above the smooth sky is the core of an object; the cells around it
#: whose mean with their neighbours is above the second number are its outskirts.
_CORE_SIGMA, _OUTSKIRTS_SIGMA = 5.0, 0.7
#: With less of the cells left as sky, objects cannot be told from it.
_SKY_PART = 0.5
#: Fewest cells for which objects are searched.
_FEWEST_CELLS = 25
_ROUNDS = 8


def surface_at(coefficients: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the values of a surface at all cells."""
    degree = degree_of(len(coefficients))
    return np.asarray(sky_surface.surface(coefficients, degree, shape))


def fit_surface(
    values: NDArray[np.float64],
    use: NDArray[np.bool_],
    degree: int,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Fit a polynomial to a mesh, cells more than 3 robust sigma off left out.

    Parameters
    ----------
    values : ndarray of float64, shape (my, mx)
        Mesh.
    use : ndarray of bool, shape (my, mx)
        Cells that may be used; at least one.
    degree : int
        Total degree; lowered until there are five cells for each coefficient.
    weights : ndarray of float64, optional
        Inverse variances of the cells.

    Returns
    -------
    ndarray of float64
        Coefficients, see `skymill.kernels.polynomial`, in the coordinates of the mesh.
    """
    w = np.ones(values.shape) if weights is None else weights
    while degree > 0 and use.sum() < 5 * number_of_terms(degree):
        degree -= 1
    return np.asarray(sky_surface.fit_surface(values, use, w, degree)[0])


def running_median(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Median of the finite values in a square around each cell, NaN where there is none."""
    return np.asarray(sky_surface.running_median(values, size // 2))


def extended_cells(
    level: NDArray[np.float64],
    known: NDArray[np.bool_],
    noise: float,
    scale_cells: float,
) -> NDArray[np.bool_]:
    """Return the cells whose light is that of an object, not of the sky.

    The sky is a polynomial of degree 1, then 2, through the cells that belong to no object;
    if the scale is smaller than half the mesh, a running median over twice the scale is
    added to it: an object of that width fills less than half of the square. Connected cells
    that stand out are an object, and the sky is fitted again without them. The scatter of
    the sky is measured on the low side, where no object is. Objects that would grow over half
    of the cells are not told from the sky: those of the lower degree stay, or none.

    Parameters
    ----------
    level : ndarray of float64, shape (my, mx)
        Level of each cell.
    known : ndarray of bool, shape (my, mx)
        Cells that have a level.
    noise : float
        One-sigma error of the level of a cell.
    scale_cells : float
        Width in cells of the largest object; 0 searches none.

    Returns
    -------
    ndarray of bool, shape (my, mx)
    """
    objects = np.zeros_like(known)
    if scale_cells <= 0 or known.sum() < _FEWEST_CELLS:
        return objects
    window = 2 * int(np.ceil(scale_cells)) + 1
    for degree in (1, 2):
        before = objects
        for _ in range(_ROUNDS):
            sky = known & ~objects
            rest = level - surface_at(fit_surface(level, sky, degree), level.shape)
            if window < min(level.shape):
                wide = running_median(np.where(sky, rest, np.nan), window)
                rest = rest - np.where(np.isfinite(wide), wide, 0.0)
            found = sky_surface.standing_out(rest, sky, known, noise, _CORE_SIGMA, _OUTSKIRTS_SIGMA)
            if found.sum() > (1 - _SKY_PART) * known.sum():
                return before
            if (found == objects).all():
                break
            objects = found
    return objects


def smooth_mesh(
    values: NDArray[np.float64], poor: NDArray[np.bool_], filter_size: int
) -> NDArray[np.float64]:
    """Fill and median-filter a mesh relative to a smooth surface, so that a tilt keeps its edges.

    Parameters
    ----------
    values : ndarray of float64, shape (my, mx)
        Mesh.
    poor : ndarray of bool, shape (my, mx)
        Cells to fill from their neighbours; not all.
    filter_size : int
        Side of the median filter in cells, odd; 1 does not filter.
    """
    surface = surface_at(fit_surface(values, ~poor, 2), values.shape)
    rest = np.where(poor, np.nan, values - surface)
    sky_surface.fill(rest)
    return surface + (running_median(rest, filter_size) if filter_size > 1 else rest)
