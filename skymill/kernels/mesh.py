"""Statistics of mesh cells and the spline that expands a mesh: compiled kernels.

Plain loops in a fixed order, float64 inside, no linear-algebra library: the same bytes
on every machine and with any number of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CellStatistics", "cell_statistics", "expand_spline"]


class CellStatistics(NamedTuple):
    """Result of `cell_statistics`, each of shape (my, mx).

    Attributes
    ----------
    mean, median, scatter : ndarray of float64
        Clipped mean, median of about 500 of the clipped values, and one-sigma scatter
        corrected for the clipping. NaN in a cell of fewer than two usable pixels.
    variance : ndarray of float64
        Mean of ``err**2`` over the same pixels.
    n : ndarray of int64
        Pixels kept by the clip.
    """

    mean: NDArray[np.float64]
    median: NDArray[np.float64]
    scatter: NDArray[np.float64]
    variance: NDArray[np.float64]
    n: NDArray[np.int64]


def cell_statistics(
    values: NDArray[np.float32],
    err: NDArray[np.float32],
    good: NDArray[np.bool_],
    box_size_px: int,
    *,
    clip_sigma: float = 3.0,
) -> CellStatistics:
    """Clipped mean, median and scatter of each square cell of an image.

    The clip starts from the median and the quartiles of about 500 pixels and is then
    repeated with the corrected standard deviation about the mean until nothing changes
    (at most 10 times).

    Parameters
    ----------
    values, err : ndarray of float32, shape (ny, nx)
        Image and its one-sigma error.
    good : ndarray of bool, shape (ny, nx)
        True where a pixel may be used; values there must be finite.
    box_size_px : int
        Side of a cell; the last cells may be cut by the frame.
    clip_sigma : float
        Clip in sigma.

    Returns
    -------
    CellStatistics
    """
    from math import erf, exp, pi, sqrt

    k = clip_sigma
    kept = erf(k / sqrt(2.0))
    shrink = sqrt((kept - 2.0 * k * exp(-0.5 * k * k) / sqrt(2.0 * pi)) / kept)
    return CellStatistics(
        *_cells(
            np.ascontiguousarray(values, np.float32),
            np.ascontiguousarray(err, np.float32),
            np.ascontiguousarray(good, np.bool_),
            box_size_px,
            k,
            shrink,
        )
    )


def expand_spline(
    mesh: NDArray[np.float64],
    shape: tuple[int, int],
    box_size_px: int,
    *,
    extrapolate: bool = False,
) -> NDArray[np.float32]:
    """Interpolate values at cell centres to every pixel of a frame.

    Natural cubic spline along y, then along x; linear with two cells, constant with one.
    Beyond the outermost centres it stays constant, or goes on along its end slope.

    Parameters
    ----------
    mesh : ndarray of float64, shape (my, mx)
        Values at the cell centres ``(index + 0.5) * box_size_px - 0.5``.
    shape : tuple of int
        Shape (ny, nx) of the result.
    box_size_px : int
        Side of a cell in pixels.
    extrapolate : bool
        Go on along the slope beyond the outermost centres.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
    """
    cell_y, terms_y = _spline_terms(mesh.shape[0], shape[0], box_size_px, extrapolate)
    cell_x, terms_x = _spline_terms(mesh.shape[1], shape[1], box_size_px, extrapolate)
    nodes = np.ascontiguousarray(mesh, np.float64)
    return np.asarray(_expand(nodes, cell_y, terms_y, cell_x, terms_x))


def _spline_terms(
    n_nodes: int, n_pixels: int, box: int, extrapolate: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Lower node of each pixel and the factors of its two values and two curvatures."""
    where = (np.arange(n_pixels) + 0.5) / box - 0.5
    if not extrapolate or n_nodes == 1:
        where = np.clip(where, 0.0, n_nodes - 1.0)
    lower = np.clip(np.floor(where).astype(np.int64), 0, max(n_nodes - 2, 0))
    b = where - lower
    a = 1.0 - b
    bend_a, bend_b = (a**3 - a) / 6.0, (b**3 - b) / 6.0
    # Beyond the ends, where the curvature is zero: the tangent instead of the cubic.
    bend_a = np.where(b > 1, (b - 1) / 6.0, np.where(b < 0, -b / 3.0, bend_a))
    bend_b = np.where(b > 1, (b - 1) / 3.0, np.where(b < 0, -b / 6.0, bend_b))
    return lower, np.stack([a, b, bend_a, bend_b])


@njit(cache=True)
def _curvatures(values: Any, curvature: Any, work: Any) -> Any:
    """Second derivatives of the natural spline through equidistant values (unit step)."""
    n = len(values)
    curvature[0] = 0.0
    curvature[n - 1] = 0.0
    work[0] = 0.0
    for k in range(1, n - 1):
        pivot = 4.0 - work[k - 1]
        work[k] = 1.0 / pivot
        right = 6.0 * (values[k + 1] - 2.0 * values[k] + values[k - 1])
        curvature[k] = (right - curvature[k - 1]) / pivot
    for k in range(n - 2, 0, -1):
        curvature[k] -= work[k] * curvature[k + 1]


@njit(cache=True)
def _expand(mesh: Any, cell_y: Any, terms_y: Any, cell_x: Any, terms_x: Any) -> Any:
    my, mx = mesh.shape
    ny, nx = len(cell_y), len(cell_x)
    out = np.empty((ny, nx), np.float32)
    bend = np.zeros((mx, my))
    work = np.zeros(max(mx, my))
    for i in range(mx):
        _curvatures(np.ascontiguousarray(mesh[:, i]), bend[i], work)
    row = np.zeros(mx + 1)
    row_bend = np.zeros(mx + 1)
    for y in range(ny):
        k = cell_y[y]
        upper = min(k + 1, my - 1)
        for i in range(mx):
            row[i] = (
                terms_y[0, y] * mesh[k, i]
                + terms_y[1, y] * mesh[upper, i]
                + terms_y[2, y] * bend[i, k]
                + terms_y[3, y] * bend[i, upper]
            )
        _curvatures(row[:mx], row_bend[:mx], work)
        for x in range(nx):
            c = cell_x[x]
            out[y, x] = (
                terms_x[0, x] * row[c]
                + terms_x[1, x] * row[c + 1]
                + terms_x[2, x] * row_bend[c]
                + terms_x[3, x] * row_bend[c + 1]
            )
    return out


@njit(cache=True)
def _sample(
    values: Any, good: Any, y0: Any, y1: Any, x0: Any, x1: Any, low: Any, high: Any, sample: Any
) -> Any:
    """Sort about 500 good values between low and high of a cell; return their number."""
    stride = max(1, ((y1 - y0) * (x1 - x0)) // 500)
    count = 0
    for y in range(y0, y1):
        # The lattice is slanted, so that no column or row parity is preferred.
        for x in range(x0 + (5 * y) % stride, x1, stride):
            if good[y, x] and low <= values[y, x] <= high:
                sample[count] = values[y, x]
                count += 1
    if count < 30 and stride > 1:
        count = 0
        for y in range(y0, y1):
            for x in range(x0, x1):
                if good[y, x] and low <= values[y, x] <= high:
                    sample[count] = values[y, x]
                    count += 1
    sample[:count].sort()
    return count


@njit(cache=True)
def _cells(values: Any, err: Any, good: Any, box: Any, clip: Any, shrink: Any) -> Any:
    ny, nx = values.shape
    my, mx = (ny + box - 1) // box, (nx + box - 1) // box
    mean = np.full((my, mx), np.nan)
    median = np.full((my, mx), np.nan)
    scatter = np.full((my, mx), np.nan)
    variance = np.full((my, mx), np.nan)
    kept = np.zeros((my, mx), np.int64)
    sample = np.empty(box * box, np.float32)
    for j in range(my):
        for i in range(mx):
            y0, y1 = j * box, min((j + 1) * box, ny)
            x0, x1 = i * box, min((i + 1) * box, nx)
            n = _sample(values, good, y0, y1, x0, x1, -np.inf, np.inf, sample)
            if n < 2:
                continue
            centre = 0.5 * (sample[(n - 1) // 2] + sample[n // 2])
            sigma = (sample[(3 * n) // 4] - sample[n // 4]) / 1.349
            before = -1
            for _ in range(10):
                low, high = centre - clip * sigma, centre + clip * sigma
                count, total, square, noise = 0, 0.0, 0.0, 0.0
                for y in range(y0, y1):
                    for x in range(x0, x1):
                        if good[y, x] and low <= values[y, x] <= high:
                            # Differences from the centre keep the sum of squares exact.
                            offset = values[y, x] - centre
                            total += offset
                            square += offset * offset
                            noise += np.float64(err[y, x]) ** 2
                            count += 1
                if count < 2:
                    break
                average = total / count
                spread = max(square / count - average * average, 0.0) * count / (count - 1)
                mean[j, i] = centre + average
                variance[j, i] = noise / count
                kept[j, i] = count
                centre = mean[j, i]
                sigma = np.sqrt(spread) / shrink
                scatter[j, i] = sigma
                if count == before:
                    break
                before = count
            low, high = centre - clip * sigma, centre + clip * sigma
            n = _sample(values, good, y0, y1, x0, x1, low, high, sample)
            if n > 0:
                median[j, i] = 0.5 * (sample[(n - 1) // 2] + sample[n // 2])
    return mean, median, scatter, variance, kept
