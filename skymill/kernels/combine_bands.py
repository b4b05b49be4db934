"""Compiled loops of `skymill.kernels.combine` over one band of rows.

A band is a cube (frame, row, column) of prepared values, NaN where invalid. The noise
model of a frame is a column of ``model``: ``scale^2 / gain``, ``1 / scale``, the share
of the plane ``extra`` that makes photon noise, and ``scale^2`` times the variance without
light. A plane of shape (1, 1) stands for none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = [
    "bounds_of",
    "flag",
    "flag_pixel",
    "grow",
    "linearise",
    "lowest_variance",
    "mean",
    "model_variance",
    "prepare",
    "scatter_about",
    "sorted_valid",
]


@njit(cache=True)
def prepare(
    raw: Any,
    out: Any,
    level: Any,
    base: Any,
    base_factor: Any,
    extra: Any,
    extra_factor: Any,
    scale: Any,
    saturation: Any,
) -> Any:
    """Subtract and scale the rows of one frame; NaN where saturated or not finite."""
    rows, nx = raw.shape
    for y in range(rows):
        offset = level[y]
        for x in range(nx):
            r = np.float64(raw[y, x])
            v = r - offset
            if base_factor != 0.0:
                v -= base_factor * base[y, x]
            if extra_factor != 0.0:
                v -= extra_factor * extra[y, x]
            v *= scale
            if not (r < saturation) or not (abs(v) < np.inf):
                v = np.nan
            out[y, x] = np.float32(v)


@njit(cache=True)
def linearise(
    raw: Any,
    out: Any,
    level: Any,
    base: Any,
    base_factor: Any,
    knots: Any,
    step: Any,
    saturation: Any,
) -> Any:
    """Subtract level and base from the rows of one frame and make them linear.

    `knots` are linear values at multiples of `step`; beyond them the curve goes on with
    its outermost slope. Saturated pixels become infinite.
    """
    rows, nx = raw.shape
    last = len(knots) - 2
    for y in range(rows):
        for x in range(nx):
            r = np.float64(raw[y, x])
            if not (r < saturation):
                out[y, x] = np.inf
                continue
            at = (r - level[y] - base_factor * base[y, x]) / step
            if not (abs(at) < np.inf):
                out[y, x] = np.nan
                continue
            lower = min(max(int(at), 0), last)
            low = knots[lower]
            out[y, x] = np.float32(low + (at - lower) * (knots[lower + 1] - low))


@njit(cache=True)
def model_variance(model: Any, i: Any, reference: Any, extra: Any) -> Any:
    """Model variance of a value of frame i whose expectation is `reference`."""
    charge = reference * model[1, i] + model[2, i] * extra
    return model[0, i] * max(charge, 0.0) + model[3, i]


@njit(cache=True)
def lowest_variance(bounds: Any, reference: Any, extra: Any) -> Any:
    """Lower limit of the model variance of all frames, at or above `reference`."""
    charge = reference * (bounds[1] if reference >= 0 else bounds[2])
    charge += min(bounds[3] * extra, bounds[4] * extra)
    return bounds[0] * max(charge, 0.0) + bounds[5]


@njit(cache=True)
def bounds_of(model: Any) -> Any:
    """Extremes of the entries of the model, see `lowest_variance`."""
    out = np.empty(6)
    out[0], out[5] = model[0].min(), model[3].min()
    out[1], out[2] = model[1].min(), model[1].max()
    out[3], out[4] = model[2].min(), model[2].max()
    return out


@njit(cache=True)
def sorted_valid(cube: Any, y: Any, x: Any, values: Any, where: Any) -> Any:
    """Gather the valid values of a pixel in growing order; return how many."""
    n = 0
    for i in range(cube.shape[0]):
        v = cube[i, y, x]
        if np.isnan(v):
            continue
        j = n - 1
        while j >= 0 and values[j] > v:
            values[j + 1] = values[j]
            where[j + 1] = where[j]
            j -= 1
        values[j + 1] = v
        where[j + 1] = i
        n += 1
    return n


@njit(cache=True)
def _middle(values: Any, n: Any) -> Any:
    if n % 2 == 1:
        return np.float64(values[n // 2])
    return 0.5 * (np.float64(values[n // 2 - 1]) + np.float64(values[n // 2]))


@njit(cache=True)
def _far(value: Any, centre: Any, variance: Any, sigma: Any, structure: Any) -> Any:
    slack = structure * centre
    return abs(value - centre) > sigma * np.sqrt(variance + slack * slack)


@njit(cache=True)
def flag_pixel(
    flags: Any,
    y: Any,
    x: Any,
    values: Any,
    where: Any,
    n: Any,
    extra: Any,
    model: Any,
    sigma: Any,
    structure: Any,
) -> Any:
    """Flag the outliers of one pixel; True if the values contradict each other."""
    if n < 2:
        return False
    if n == 2:
        first, second = where[0], where[1]
        middle = _middle(values, 2)
        both = model_variance(model, first, middle, extra) + model_variance(
            model, second, middle, extra
        )
        slack = structure * middle
        gap = np.float64(values[1]) - np.float64(values[0])
        if gap > sigma * np.sqrt(both + 2 * slack * slack):
            flags[second, y, x] = 1
            return True
        return False
    centre = _middle(values, n)
    kept = 0
    for j in range(n):
        far = _far(
            values[j], centre, model_variance(model, where[j], centre, extra), sigma, structure
        )
        flags[where[j], y, x] = far
        kept += not far
    if kept > 1:
        return False
    # No two values agree about the median: two camps with the median between them, or
    # hits that outnumber the good values. The lower half decides, since stars and
    # cosmic rays only add.
    centre = _middle(values, n // 2)
    for j in range(n):
        far = _far(
            values[j], centre, model_variance(model, where[j], centre, extra), sigma, structure
        )
        flags[where[j], y, x] = far and j > 0
    return True


@njit(cache=True)
def flag(
    cube: Any, flags: Any, conflict: Any, extra: Any, model: Any, sigma: Any, structure: Any
) -> Any:
    """Flag outliers of a band; pixels that cannot have one are not sorted."""
    n, rows, nx = cube.shape
    bounds = bounds_of(model)
    has_extra = extra.shape[0] == rows and extra.shape[1] == nx
    total, square, count = np.empty(nx), np.empty(nx), np.empty(nx)
    low, high = np.empty(nx, np.float32), np.empty(nx, np.float32)
    values, where = np.empty(n, np.float32), np.empty(n, np.int64)
    inf = np.float32(np.inf)
    for y in range(rows):
        for x in range(nx):
            total[x] = 0.0
            square[x] = 0.0
            count[x] = 0.0
            low[x] = inf
            high[x] = -inf
        for i in range(n):
            for x in range(nx):
                v = cube[i, y, x]
                valid = not np.isnan(v)
                w = np.float64(v) if valid else 0.0
                total[x] += w
                square[x] += w * w
                count[x] += 1.0 if valid else 0.0
                low[x] = min(low[x], v if valid else inf)
                high[x] = max(high[x], v if valid else -inf)
        for x in range(nx):
            if count[x] < 2.0:
                continue
            e = np.float64(extra[y, x]) if has_extra else 0.0
            mean = total[x] / count[x]
            spread = np.sqrt(max(square[x] / count[x] - mean * mean, 0.0))
            reach = max(high[x] - mean, mean - low[x]) + spread
            # 1e-9: rounding must not let a pixel at the threshold pass unsorted
            if reach * (1 + 1e-9) + 1e-9 * abs(mean) <= sigma * np.sqrt(
                lowest_variance(bounds, np.float64(low[x]), e)
            ):
                continue
            m = sorted_valid(cube, y, x, values, where)
            conflict[y, x] = flag_pixel(flags, y, x, values, where, m, e, model, sigma, structure)


@njit(cache=True)
def grow(cube: Any, flags: Any, extra: Any, model: Any, grow_sigma: Any, structure: Any) -> Any:
    """Flag (with 2) neighbours of outliers that lie beyond the lower threshold."""
    n, rows, nx = cube.shape
    has_extra = extra.shape[0] == rows and extra.shape[1] == nx
    values, where = np.empty(n, np.float32), np.empty(n, np.int64)
    for i in range(n):
        for y in range(rows):
            for x in range(nx):
                if flags[i, y, x] != 1:
                    continue
                for yy in range(max(0, y - 1), min(rows, y + 2)):
                    for xx in range(max(0, x - 1), min(nx, x + 2)):
                        v = cube[i, yy, xx]
                        if np.isnan(v) or flags[i, yy, xx] != 0:
                            continue
                        m = sorted_valid(cube, yy, xx, values, where)
                        if m < 3 or _kept(flags, cube, yy, xx) < 2:
                            continue
                        e = np.float64(extra[yy, xx]) if has_extra else 0.0
                        centre = _middle(values, m)
                        variance = model_variance(model, i, centre, e)
                        if _far(v, centre, variance, grow_sigma, structure):
                            flags[i, yy, xx] = 2


@njit(cache=True)
def _kept(flags: Any, cube: Any, y: Any, x: Any) -> Any:
    kept = 0
    for i in range(cube.shape[0]):
        if not np.isnan(cube[i, y, x]) and flags[i, y, x] == 0:
            kept += 1
    return kept


@njit(cache=True)
def mean(
    cube: Any,
    flags: Any,
    skip: Any,
    extra: Any,
    model: Any,
    weight: Any,
    value: Any,
    err: Any,
    n_used: Any,
    counts: Any,
) -> Any:
    """Weighted mean of the values without flag, its model error, and the counts.

    The first `skip` rows of the band are a halo and have no place in the result.
    """
    n, nx = cube.shape[0], cube.shape[2]
    has_extra = extra.shape[0] == cube.shape[1] and extra.shape[1] == nx
    total, weights, used = np.empty(nx), np.empty(nx), np.empty(nx)
    light, other, quiet = np.empty(nx), np.empty(nx), np.empty(nx)
    bounds = bounds_of(model)
    for row in range(value.shape[0]):
        y = row + skip
        for x in range(nx):
            total[x] = 0.0
            weights[x] = 0.0
            used[x] = 0.0
            light[x] = 0.0
            other[x] = 0.0
            quiet[x] = 0.0
        for i in range(n):
            w = weight[i]
            w_light = w * w * model[0, i] * model[1, i]
            w_other = w * w * model[0, i] * model[2, i]
            w_quiet = w * w * model[3, i]
            valid_count = 0
            kept_count = 0
            for x in range(nx):
                v = cube[i, y, x]
                valid = not np.isnan(v)
                keep = valid and flags[i, y, x] == 0
                one = 1.0 if keep else 0.0
                total[x] += w * np.float64(v) if keep else 0.0
                weights[x] += w * one
                used[x] += one
                light[x] += w_light * one
                other[x] += w_other * one
                quiet[x] += w_quiet * one
                valid_count += valid
                kept_count += keep
            counts[0, i] += valid_count
            counts[1, i] += valid_count - kept_count
        for x in range(nx):
            n_used[row, x] = np.uint16(used[x])
            if used[x] == 0.0:
                value[row, x] = np.nan
                err[row, x] = np.nan
                continue
            v = total[x] / weights[x]
            e = np.float64(extra[y, x]) if has_extra else 0.0
            lowest = v * (bounds[1] if v >= 0 else bounds[2])
            lowest += min(bounds[3] * e, bounds[4] * e)
            if lowest >= 0.0 or bounds[0] == 0.0:
                variance = light[x] * max(v, 0.0) + other[x] * e + quiet[x]
            else:  # the charge is cut at zero frame by frame
                variance = 0.0
                for i in range(n):
                    if not np.isnan(cube[i, y, x]) and flags[i, y, x] == 0:
                        variance += weight[i] * weight[i] * model_variance(model, i, v, e)
            value[row, x] = np.float32(v)
            err[row, x] = np.float32(np.sqrt(variance) / weights[x])


@njit(cache=True, error_model="numpy")
def _add_distance(
    row: Any, model: Any, value: Any, extra: Any, limit: Any, total: Any, inside: Any
) -> Any:
    """Add the squared distances of one frame, and count those within the limit."""
    if model[0] == 0.0:
        share = 1.0 / model[3]
        for x in range(row.shape[0]):
            gap = np.float64(row[x]) - value[x]
            distance = gap * gap * share
            near = distance <= limit  # never for a value that is not a number
            total[x] += distance if near else 0.0
            inside[x] += 1.0 if near else 0.0
        return
    for x in range(row.shape[0]):
        gap = np.float64(row[x]) - value[x]
        signal = value[x] * model[1] + model[2] * extra[x]
        distance = gap * gap / (model[0] * max(signal, 0.0) + model[3])
        near = distance <= limit
        total[x] += distance if near else 0.0
        inside[x] += 1.0 if near else 0.0


@njit(cache=True, error_model="numpy")
def scatter_about(
    cube: Any,
    value: Any,
    n_valid: Any,
    extra: Any,
    model: Any,
    sigma: Any,
    chi2: Any,
    n_out: Any,
) -> Any:
    """Sum squared distances from the result in units of the model variance.

    Values beyond `sigma` are counted in `n_out` and left out of `chi2`.
    """
    n, rows, nx = cube.shape
    has_extra = extra.shape[0] == rows and extra.shape[1] == nx
    total, inside = np.empty(nx), np.empty(nx)
    centre, plane = np.empty(nx), np.zeros(nx)
    for y in range(rows):
        for x in range(nx):
            total[x] = 0.0
            inside[x] = 0.0
            centre[x] = np.float64(value[y, x])
            if has_extra:
                plane[x] = np.float64(extra[y, x])
        for i in range(n):
            _add_distance(cube[i, y], model[:, i], centre, plane, sigma * sigma, total, inside)
        for x in range(nx):
            chi2[y, x] = np.float32(total[x])
            n_out[y, x] = np.uint16(n_valid[y, x] - inside[x])
