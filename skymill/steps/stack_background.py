"""Levels of overlapping frames, matched to each other.

Where a background was subtracted frame by frame, what is left differs from frame to
frame: a large object takes a part of its own light away, another part in each pointing.
Pixels of the same place on the sky hold the same light in every frame, so differences of
their medians are differences of the levels, whatever lies there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from skymill.engines import empty_planes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from skymill.steps.stack_inputs import Member

__all__ = ["level_cells", "match_levels", "solve_levels"]

#: Cells of the grid, and the rows in the middle of each that are resampled.
_CELL_PX, _ROWS = 64, 8
#: Residuals beyond this many robust sigma count less.
_HUBER = 2.0
_ROUNDS, _STEPS = 12, 200


def match_levels(
    members: Sequence[Member], grid_shape: tuple[int, int], order: Literal["offset", "plane"]
) -> dict[str, float]:
    """Find the level of each frame and set ``level`` of the members.

    Parameters
    ----------
    members : sequence of Member
        Open frames.
    grid_shape : tuple of int
        Shape (ny, nx) of the grid.
    order : {"offset", "plane"}
        One level per frame, or a level and two slopes.

    Returns
    -------
    dict
        ``level_scatter_before`` and ``level_scatter_after``: robust scatter of the cells
        between frames (electron).
    """
    medians, errors = level_cells(members, grid_shape)
    u, v = _centres(grid_shape)
    levels, before, after = solve_levels(medians, errors, u, v, order)
    for member, level in zip(members, levels, strict=True):
        member.level = (float(level[0]), float(level[1]), float(level[2]))
    return {"level_scatter_before": before, "level_scatter_after": after}


def _centres(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle of the cells from -1 to 1 along both axes, one value per cell."""
    ny, nx = shape
    y = np.arange(_ROWS // 2, ny, _CELL_PX) if ny > _ROWS else np.array([ny // 2])
    x = np.minimum((np.arange(-(-nx // _CELL_PX)) + 0.5) * _CELL_PX, nx - 1.0)
    u, v = np.meshgrid((2 * x + 1) / nx - 1, (2 * y + 1.0) / ny - 1)
    return u.ravel(), v.ravel()


def level_cells(
    members: Sequence[Member], grid_shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the median of each frame in each cell and its error.

    Returns
    -------
    medians, errors : ndarray of float64, shape (n, cells)
        On the flux scale of the stack; NaN where fewer than half of the pixels are usable.
    """
    from skymill.kernels.stack_rows import cell_medians

    ny, nx = grid_shape
    starts = [int(y) for y in np.arange(0, max(ny - _ROWS // 2, 1), _CELL_PX)]
    columns = -(-nx // _CELL_PX)
    medians = np.full((len(members), len(starts), columns), np.nan)
    errors = np.full_like(medians, np.nan)
    line = np.empty(columns, np.float32)
    for i, member in enumerate(members):
        for k, row in enumerate(starts):
            count = min(_ROWS, ny - row)
            if row + count <= member.rows[0] or row >= member.rows[1]:
                continue
            planes = empty_planes(count, nx)
            member.warp.fill(row, planes)  # type: ignore[union-attr]
            cell_medians(planes.value, planes.k2, _CELL_PX, line)
            medians[i, k] = line
            cell_medians(planes.variance, planes.k2, _CELL_PX, line)
            errors[i, k] = np.sqrt(1.57 * line / (count * _CELL_PX))
    shape = (len(members), len(starts) * columns)
    return medians.reshape(shape), errors.reshape(shape)


def solve_levels(
    medians: NDArray[np.float64],
    errors: NDArray[np.float64],
    u: NDArray[np.float64],
    v: NDArray[np.float64],
    order: Literal["offset", "plane"],
) -> tuple[NDArray[np.float64], float, float]:
    """Fit ``median = light of the cell + level of the frame`` robustly.

    Least squares with Huber's weights. The light of the cells is eliminated, the levels
    are found by conjugate gradients from zero: what the overlaps do not tell (a level
    common to frames that are linked) stays zero.

    Parameters
    ----------
    medians, errors : ndarray of float64, shape (n, cells)
        NaN where a frame has no value.
    u, v : ndarray of float64, shape (cells,)
        Position of the cells, -1 to 1.
    order : {"offset", "plane"}
        Terms of a level.

    Returns
    -------
    levels : ndarray of float64, shape (n, 3)
        Level, and slopes along u and v; the slopes are zero for ``offset``.
    before, after : float
        Robust scatter of the cells about the light that the frames share.
    """
    good = np.isfinite(medians) & np.isfinite(errors) & (errors > 0)
    good &= good.sum(axis=0) > 1
    values = np.where(good, medians, 0.0)
    base = np.where(good, 1 / np.where(good, errors, 1.0) ** 2, 0.0)
    terms = np.stack([np.ones_like(u), u, v]) if order == "plane" else np.ones((1, u.size))
    weights, levels = base, np.zeros((len(values), len(terms)))
    before = _scatter(_residuals(values, base, levels, terms), good)
    for _ in range(_ROUNDS):
        levels = _gradients(values, weights, terms)
        rest = _residuals(values, weights, levels, terms)
        sigma = np.maximum(np.sqrt(1 / np.where(good, base, 1.0)), _scatter(rest, good))
        ratio = np.abs(rest) / (_HUBER * np.maximum(sigma, 1e-30))
        weights = base / np.maximum(ratio, 1.0)
    after = _scatter(_residuals(values, weights, levels, terms), good)
    out = np.zeros((len(values), 3))
    out[:, : levels.shape[1]] = levels
    return out, before, after


def _scatter(rest: NDArray[np.float64], good: NDArray[np.bool_]) -> float:
    return float(1.4826 * np.median(np.abs(rest[good]))) if good.any() else 0.0


def _model(levels: NDArray[np.float64], terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Level of each frame in each cell; sums of at most three terms, no matrix library."""
    out = np.zeros((len(levels), terms.shape[1]))
    for k, term in enumerate(terms):
        out += levels[:, k, None] * term
    return out


def _residuals(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    levels: NDArray[np.float64],
    terms: NDArray[np.float64],
) -> NDArray[np.float64]:
    """What is left of the values without levels and without the light of the cells."""
    rest = values - _model(levels, terms)
    total = weights.sum(axis=0)
    light = (weights * rest).sum(axis=0) / np.where(total > 0, total, 1.0)
    return np.asarray(np.where(weights > 0, rest - light, 0.0))


def _normal(
    rest: NDArray[np.float64], weights: NDArray[np.float64], terms: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.stack([(weights * rest * term).sum(axis=1) for term in terms], axis=1)


def _gradients(
    values: NDArray[np.float64], weights: NDArray[np.float64], terms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Conjugate gradients on the normal equations of the levels."""
    scale = np.maximum(np.stack([(weights * t**2).sum(axis=1) for t in terms], axis=1), 1e-300)
    levels = np.zeros((len(values), len(terms)))
    zero = np.zeros_like(levels)
    gap = _normal(_residuals(values, weights, zero, terms), weights, terms)
    ahead = gap / scale
    step, size = ahead, float((gap * ahead).sum())
    first = size
    for _ in range(_STEPS):
        if not size > 1e-24 * first:
            break
        seen = _residuals(np.where(weights > 0, _model(step, terms), 0.0), weights, zero, terms)
        bent = _normal(seen, weights, terms)
        curve = float((step * bent).sum())
        if not curve > 0:
            break
        levels = levels + size / curve * step
        gap = gap - size / curve * bent
        ahead = gap / scale
        grown = float((gap * ahead).sum())
        step = ahead + grown / size * step
        size = grown
    return levels
