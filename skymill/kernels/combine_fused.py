"""Clipped mean of a band in one pass over its values.

Nearly all pixels hold no outlier, and sums over the frames prove it: the distance of
the extremes from the mean plus the sample scatter, which is the largest possible
distance of mean and median, stays below the threshold. The same sums then are the
result. Only the other pixels are sorted and judged one by one. Pixels with an invalid
value are among them, because their sum is not a number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from skymill.kernels.combine_bands import bounds_of, flag_pixel, model_variance
from skymill.kernels.combine_bands import sorted_valid as gather

__all__ = ["clipped_mean"]


@njit(cache=True, error_model="numpy")
def _accumulate(row: Any, total: Any, square: Any, low: Any, high: Any) -> Any:
    for x in range(row.shape[0]):
        v = row[x]
        w = np.float64(v)
        total[x] += w
        square[x] += w * w
        low[x] = v if v < low[x] else low[x]
        high[x] = v if v > high[x] else high[x]


@njit(cache=True, error_model="numpy")
def _accumulate_weighted(row: Any, weight: Any, total: Any) -> Any:
    for x in range(row.shape[0]):
        total[x] += weight * np.float64(row[x])


@njit(cache=True, error_model="numpy")
def _quiet_pixels(
    n: Any,
    total: Any,
    square: Any,
    low: Any,
    high: Any,
    extra: Any,
    bounds: Any,
    sigma: Any,
    quiet: Any,
) -> Any:
    """Say which pixels hold no outlier and have a variance that is a sum over the frames."""
    # one scale and one share of charge: the sign of the charge is common to all frames
    alike = bounds[0] == 0.0 or (bounds[1] == bounds[2] and bounds[3] == bounds[4])
    share = 1.0 / n
    for x in range(total.shape[0]):
        e = extra[x]
        centre = total[x] * share
        spread = np.sqrt(max(square[x] * share - centre * centre, 0.0))
        reach = max(high[x] - centre, centre - low[x]) + spread
        # 1e-9: rounding must not let a pixel at the threshold pass unsorted
        reach = reach * (1 + 1e-9) + 1e-9 * abs(centre)
        v = np.float64(low[x])
        charge = v * (bounds[1] if v >= 0 else bounds[2]) + min(bounds[3] * e, bounds[4] * e)
        lowest = bounds[0] * max(charge, 0.0) + bounds[5]
        inside = reach * reach <= sigma * sigma * lowest
        quiet[x] = inside and (alike or charge >= 0.0)


@njit(cache=True, error_model="numpy")
def _averages(
    total: Any, weights: Any, extra: Any, sums: Any, centre: Any, value: Any, err: Any
) -> Any:
    share = 1.0 / weights
    for x in range(total.shape[0]):
        mean = total[x] * share
        centre[x] = mean
        value[x] = np.float32(mean)
        variance = max(sums[0] * mean + sums[1] * extra[x], 0.0) + sums[2]
        err[x] = np.float32(np.sqrt(variance) * share)


@njit(cache=True, error_model="numpy")
def _distances(
    n: Any, total: Any, square: Any, centre: Any, extra: Any, plain: Any, chi2: Any
) -> Any:
    for x in range(total.shape[0]):
        mean = centre[x]
        about = square[x] - 2 * mean * total[x] + n * mean * mean
        variance = max(plain[0] * mean + plain[1] * extra[x], 0.0) + plain[2]
        chi2[x] = np.float32(max(about, 0.0) * n / variance)


@njit(cache=True, error_model="numpy")
def _sums(model: Any, weight: Any) -> Any:
    out = np.zeros(3)
    for i in range(model.shape[1]):
        square = weight[i] * weight[i]
        out[0] += square * model[0, i] * model[1, i]
        out[1] += square * model[0, i] * model[2, i]
        out[2] += square * model[3, i]
    return out


@njit(cache=True, error_model="numpy")
def _slow_pixel(
    cube: Any,
    y: Any,
    x: Any,
    e: Any,
    model: Any,
    weight: Any,
    sigma: Any,
    structure: Any,
    values: Any,
    where: Any,
    flags: Any,
    counts: Any,
    out: Any,
) -> Any:
    """Judge one pixel value by value; `out`: mean, error, used, outliers, chi^2, conflict."""
    n = cube.shape[0]
    flags[:, 0, 0] = 0
    m = gather(cube, y, x, values, where)
    clash = flag_pixel(flags, 0, 0, values, where, m, e, model, sigma, structure)
    total, weights, used = 0.0, 0.0, 0
    for i in range(n):
        v = cube[i, y, x]
        if np.isnan(v):
            counts[0, i] -= 1
            continue
        if flags[i, 0, 0] != 0:
            counts[1, i] += 1
            continue
        total += weight[i] * np.float64(v)
        weights += weight[i]
        used += 1
    out[2], out[3], out[5] = used, m - used, 1.0 if clash else 0.0
    if used == 0:
        out[0], out[1], out[4] = np.nan, np.nan, 0.0
        return
    mean = total / weights
    variance, chi2 = 0.0, 0.0
    for i in range(n):
        v = cube[i, y, x]
        if np.isnan(v) or flags[i, 0, 0] != 0:
            continue
        single = model_variance(model, i, mean, e)
        variance += weight[i] * weight[i] * single
        chi2 += (np.float64(v) - mean) ** 2 / single
    out[0], out[1], out[4] = mean, np.sqrt(variance) / weights, chi2


@njit(cache=True, error_model="numpy")
def clipped_mean(
    cube: Any,
    extra: Any,
    model: Any,
    weight: Any,
    sigma: Any,
    structure: Any,
    value: Any,
    err: Any,
    n_used: Any,
    conflict: Any,
    scatter: Any,
    n_out: Any,
    counts: Any,
) -> Any:
    """Weighted mean of the values near the median of each pixel of a band.

    `scatter` receives chi^2 and `n_out` the outliers, unless they have no rows.
    """
    n, rows, nx = cube.shape
    has_extra = extra.shape[0] == rows and extra.shape[1] == nx
    wanted = scatter.shape[0] == rows
    bounds = bounds_of(model)
    ones = np.ones(n)
    equal = (weight == weight[0]).all()
    if equal:
        weight = ones
    sums, plain = _sums(model, weight), _sums(model, ones)
    whole = np.float64(n) if equal else weight.sum()
    total, square, weighted = np.empty(nx), np.empty(nx), np.empty(nx)
    centre, plane, quiet = np.empty(nx), np.zeros(nx), np.empty(nx, np.bool_)
    low, high = np.empty(nx, np.float32), np.empty(nx, np.float32)
    values, where = np.empty(n, np.float32), np.empty(n, np.int64)
    flags, out = np.zeros((n, 1, 1), np.uint8), np.empty(6)
    counts[0] += rows * nx
    for y in range(rows):
        total[:] = 0.0
        square[:] = 0.0
        low[:] = np.inf
        high[:] = -np.inf
        for i in range(n):
            _accumulate(cube[i, y], total, square, low, high)
        if not equal:
            weighted[:] = 0.0
            for i in range(n):
                _accumulate_weighted(cube[i, y], weight[i], weighted)
        if has_extra:
            plane[:] = extra[y]
        _quiet_pixels(n, total, square, low, high, plane, bounds, sigma, quiet)
        _averages(total if equal else weighted, whole, plane, sums, centre, value[y], err[y])
        if wanted:
            _distances(n, total, square, centre, plane, plain, scatter[y])
            n_out[y] = 0
        n_used[y] = n
        for x in range(nx):
            if quiet[x]:
                continue
            e = plane[x]
            _slow_pixel(
                cube, y, x, e, model, weight, sigma, structure, values, where, flags, counts, out
            )
            value[y, x] = np.float32(out[0])
            err[y, x] = np.float32(out[1])
            n_used[y, x] = np.uint16(out[2])
            conflict[y, x] = out[5] != 0.0
            if wanted:
                scatter[y, x] = np.float32(out[4])
                n_out[y, x] = np.uint16(out[3])
