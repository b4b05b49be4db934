"""The spline that expands a mesh: compiled kernels.

Plain loops in a fixed order, float64 inside, no linear-algebra library: the same bytes
on every machine and with any number of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Spline", "expand_spline", "mesh_spline", "spline_row"]


class Spline(NamedTuple):
    """A mesh prepared for expansion: nodes, bends along y, and where the pixels lie."""

    nodes: NDArray[np.float64]
    bend: NDArray[np.float64]
    cell_y: NDArray[np.int64]
    step_y: NDArray[np.float64]
    start_x: NDArray[np.int64]
    step_x: NDArray[np.float64]


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
    if box_size_px == 1:
        return np.array(mesh, np.float32)
    spline = mesh_spline(mesh, shape, box_size_px, extrapolate=extrapolate)
    return np.asarray(_expand(tuple(spline), shape[1]))


def mesh_spline(
    mesh: NDArray[np.float64],
    shape: tuple[int, int],
    box_size_px: int,
    *,
    extrapolate: bool = True,
) -> Spline:
    """Prepare a mesh for expansion; parameters as for `expand_spline`."""
    nodes = np.ascontiguousarray(mesh, np.float64)
    cell_y, step_y = _places(nodes.shape[0], shape[0], box_size_px, extrapolate)
    cell_x, step_x = _places(nodes.shape[1], shape[1], box_size_px, extrapolate)
    start_x = np.searchsorted(cell_x, np.arange(max(nodes.shape[1] - 1, 1) + 1))
    return Spline(nodes, _bends(nodes), cell_y, step_y, start_x.astype(np.int64), step_x)


def _places(
    n_nodes: int, n_pixels: int, box: int, extrapolate: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Lower node of each pixel and its distance from it in steps; beyond 0..1 outside."""
    where = (np.arange(n_pixels) + 0.5) / box - 0.5
    if not extrapolate or n_nodes == 1:
        where = np.clip(where, 0.0, n_nodes - 1.0)
    lower = np.clip(np.floor(where).astype(np.int64), 0, max(n_nodes - 2, 0))
    return lower, where - lower


@njit(cache=True)
def _curvatures(values: Any, n: Any, curvature: Any, work: Any) -> Any:
    """Second derivatives of the natural spline through equidistant values (unit step)."""
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
def _bends(nodes: Any) -> Any:
    """Second derivatives along y, shape of the nodes."""
    my, mx = nodes.shape
    out = np.zeros((my, mx))
    work, curvature = np.zeros(my), np.zeros(my)
    for i in range(mx):
        _curvatures(np.ascontiguousarray(nodes[:, i]), my, curvature, work)
        out[:, i] = curvature
    return out


@njit(cache=True)
def spline_row(spline: Any, y: Any, row: Any, bend: Any, work: Any, out: Any) -> Any:
    """Evaluate row y of a prepared mesh into ``out``; row, bend, work are scratch (mx + 1)."""
    nodes, bends, cell_y, step_y, start_x, step_x = spline
    my, mx = nodes.shape
    k, t = cell_y[y], step_y[y]
    upper = min(k + 1, my - 1)
    a, p, q = 1.0 - t, 0.0, 0.0
    # Beyond the ends, where the curvature is zero: the tangent instead of the cubic.
    if t > 1.0:
        p, q = (t - 1.0) / 6.0, (t - 1.0) / 3.0
    elif t < 0.0:
        p, q = -t / 3.0, -t / 6.0
    else:
        p, q = (a * a * a - a) / 6.0, (t * t * t - t) / 6.0
    for i in range(mx):
        row[i] = a * nodes[k, i] + t * nodes[upper, i] + p * bends[k, i] + q * bends[upper, i]
    if mx == 1:
        out[:] = row[0]
        return
    _curvatures(row, mx, bend, work)
    for c in range(mx - 1):
        x0, x1 = start_x[c], start_x[c + 1]
        c0, c2, c3 = row[c], 0.5 * bend[c], (bend[c + 1] - bend[c]) / 6.0
        c1 = row[c + 1] - row[c] - (2.0 * bend[c] + bend[c + 1]) / 6.0
        end = row[c + 1] - row[c] + (bend[c] + 2.0 * bend[c + 1]) / 6.0
        if c == 0:
            while x0 < x1 and step_x[x0] < 0.0:
                out[x0] = c0 + c1 * step_x[x0]
                x0 += 1
        if c == mx - 2:
            while x1 > x0 and step_x[x1 - 1] > 1.0:
                x1 -= 1
                out[x1] = row[c + 1] + end * (step_x[x1] - 1.0)
        part, steps = out[x0:x1], step_x[x0:x1]
        for x in range(part.size):
            s = steps[x]
            part[x] = c0 + s * (c1 + s * (c2 + s * c3))


@njit(cache=True)
def _expand(spline: Any, nx: Any) -> Any:
    ny, mx = len(spline[2]), spline[0].shape[1]
    out = np.empty((ny, nx), np.float32)
    row, bend, work = np.zeros(mx + 1), np.zeros(mx + 1), np.zeros(mx + 1)
    for y in range(ny):
        spline_row(spline, y, row, bend, work, out[y])
    return out
