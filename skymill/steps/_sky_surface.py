"""Meshes of the sky: smooth surfaces through them, objects that stand out, holes filled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skymill.kernels.polynomial import fit_polynomial, number_of_terms, polynomial_at

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


def _positions(shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places of the cells within -1..1 along x and y."""
    v, u = ((2 * i + 1.0) / n - 1 for i, n in zip(np.indices(shape), shape, strict=True))
    return u, v


def surface_at(coefficients: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the values of a surface at all cells."""
    return polynomial_at(coefficients, *_positions(shape))


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
    u, v = _positions(values.shape)
    w = np.ones(values.shape) if weights is None else weights
    while degree > 0 and use.sum() < 5 * number_of_terms(degree):
        degree -= 1
    kept, best = use.copy(), np.array([float(np.median(values[use]))])
    for _ in range(5):
        found = fit_polynomial(u[kept], v[kept], values[kept], w[kept], degree)
        if found is None:
            break
        best = found
        rest = values - polynomial_at(best, u, v)
        limit = 3 * 1.4826 * float(np.median(np.abs(rest[kept])))
        new = use & (np.abs(rest) <= max(limit, 1e-9))
        if new.sum() < number_of_terms(degree) + 2 or (new == kept).all():
            break
        kept = new
    return best


def running_median(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Median of the finite values in a square around each cell, NaN where there is none."""
    reach = size // 2
    padded = np.pad(values, reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
    ordered = np.sort(windows.reshape(*values.shape, -1), axis=2)  # NaN last
    n = np.isfinite(ordered).sum(axis=2)
    low, high = np.maximum((n - 1) // 2, 0)[..., None], np.minimum(n // 2, n)[..., None]
    high = np.minimum(high, ordered.shape[2] - 1)
    pair = [np.take_along_axis(ordered, k, axis=2)[..., 0] for k in (low, high)]
    return np.asarray(np.where(n > 0, 0.5 * (pair[0] + pair[1]), np.nan))


def _neighbours(values: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of the known cells in the 3 x 3 square around each cell; NaN if there are none."""
    padded = np.pad(np.where(known, values, 0.0), 1)
    counted = np.pad(known, 1)
    square = (3, 3)
    total = np.lib.stride_tricks.sliding_window_view(padded, square).sum(axis=(2, 3))
    count = np.lib.stride_tricks.sliding_window_view(counted, square).sum(axis=(2, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _grow(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(cells, 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return np.asarray(windows.any(axis=(2, 3)))


def _blocks(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells that are part of a square of 2 x 2 cells."""
    out = np.zeros_like(cells)
    if min(cells.shape) < 2:
        return out
    full = np.lib.stride_tricks.sliding_window_view(cells, (2, 2)).all(axis=(2, 3))
    for dy, dx in np.ndindex(2, 2):
        out[dy : dy + full.shape[0], dx : dx + full.shape[1]] |= full
    return out


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
            found = _standing_out(rest, sky, known, noise)
            if found.sum() > (1 - _SKY_PART) * known.sum():
                return before
            if (found == objects).all():
                break
            objects = found
    return objects


def _standing_out(
    rest: NDArray[np.float64], sky: NDArray[np.bool_], known: NDArray[np.bool_], noise: float
) -> NDArray[np.bool_]:
    """Cores well above the sky with the connected cells around them that are above it too.

    A block of cells that lost all their sky may be a core too: that of a large source.
    """
    low, centre = (float(v) for v in np.percentile(rest[sky], (15.87, 50)))
    sigma = max(centre - low, noise)
    above = rest - centre
    found = (known & (above > _CORE_SIGMA * sigma)) | _blocks(~known)
    mean = _neighbours(above, known)
    outskirts = known & (mean > _OUTSKIRTS_SIGMA * sigma) & (above > 0)
    while True:
        grown = found | (_grow(found) & outskirts)
        if (grown == found).all():
            return found & known
        found = grown


def _fill(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace NaN by the mean of the neighbours, from the rim of each hole inwards."""
    while np.isnan(values).any():
        known = np.isfinite(values)
        values = np.where(known, values, _neighbours(values, known))
    return values


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
    rest = _fill(np.where(poor, np.nan, values - surface))
    return surface + (running_median(rest, filter_size) if filter_size > 1 else rest)
