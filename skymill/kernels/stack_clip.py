"""Compiled code of the stack: the full test of the pixels that may hold an outlier.

See `skymill.kernels.stack` for the layout of the planes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skymill.kernels.stack import GROUP, K2_ONE

__all__ = ["HALF", "centre_rows", "finish_rows", "reject_rows", "weighted_median"]

#: Half the side of the neighbourhood whose structure counts.
HALF = 3


@njit(cache=True, error_model="numpy")
def weighted_median(values, weights, n):  # type: ignore[no-untyped-def]
    """Median of the first n values by selection, in linear time; both are reordered.

    No value outweighs all others: a weight above the sum of the rest is cut to it. Where
    two values share the middle it is their mean.
    """
    total = 0.0
    heaviest = 0
    for i in range(n):
        total += weights[i]
        if weights[i] > weights[heaviest]:
            heaviest = i
    rest = total - weights[heaviest]
    if n > 1 and weights[heaviest] > rest:
        weights[heaviest] = rest * (1 - 1e-9)
        total = rest + weights[heaviest]
    half = 0.5 * total
    low, high, below = 0, n - 1, 0.0
    while low < high:
        a, b, c = values[low], values[(low + high) >> 1], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        left = 0.0
        while i <= j:
            while values[i] < pivot:
                left += weights[i]
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                weights[i], weights[j] = weights[j], weights[i]
                left += weights[i]
                i += 1
                j -= 1
        # i stepped over what is left of it; what lies between j and i is the pivot.
        middle = 0.0
        for m in range(j + 1, i):
            middle += weights[m]
        left -= middle
        if below + left > half:
            high = j
        elif below + left + middle > half:
            low = high = j + 1
            below += left
        else:
            low = i
            below += left + middle
        if low > n - 1:
            low = high = n - 1
    value = values[low]
    if abs(below - half) < 1e-12 * total and low > 0:
        best = values[0]
        for i in range(1, low):
            best = max(best, values[i])
        return 0.5 * (best + value)
    if abs(below + weights[low] - half) < 1e-12 * total and low < n - 1:
        best = values[low + 1]
        for i in range(low + 2, n):
            best = min(best, values[i])
        return 0.5 * (best + value)
    return value


@njit(cache=True, error_model="numpy")
def _gather(cube, r, c, second, only, frames, x, a, own, weight):  # type: ignore[no-untyped-def]
    """Collect the values of a pixel; ``only``: second-class values are all there is."""
    m = 0
    g = c // GROUP
    nx = cube.nx
    for i in range(cube.factor.size):
        p = i * cube.stride + r * nx + c
        k2 = cube.k2[p]
        if k2 == 0 or (not only and cube.mask[p] & second):
            continue
        frames[m] = i
        x[m] = cube.value[p]
        a[m] = cube.scale[i, r, g]
        square = a[m] * a[m] * np.float64(cube.noise[i, r, g])
        own[m] = square * k2 / K2_ONE
        weight[m] = 1 / np.sqrt(square)
        m += 1
    return m


@njit(cache=True, error_model="numpy")
def _centre(x, weight, m, work, heavy):  # type: ignore[no-untyped-def]
    """Centre of m values: the weighted median, the lower of two, the value of one.

    The weights are ``1 / s``, the minimum of ``sum |x - c| / s``: an unweighted median of
    frames of very different noise is so uncertain that it condemns the best frame.
    """
    if m == 1:
        return x[0]
    if m == 2:
        return min(x[0], x[1])
    for i in range(m):
        work[i] = x[i]
        heavy[i] = weight[i]
    return weighted_median(work, heavy, m)


@njit(cache=True, error_model="numpy")
def _centre_noise(own, m):  # type: ignore[no-untyped-def]
    """Sigma of the centre: its variance is about 1.5 / sum(1 / s^2)."""
    total = 0.0
    for i in range(m):
        total += 1 / own[i]
    return np.sqrt(1.5 / total)


@njit(cache=True, error_model="numpy")
def _structure(centre, noise, r, c):  # type: ignore[no-untyped-def]
    """Range of the 7 x 7 neighbourhood, zero where noise alone can explain it.

    Seven wide, because the wings of a frame of bad seeing reach beyond the slope of the
    median's profile. The range of 49 normal values is 4.5 +- 0.7 sigma.
    """
    rows, nx = centre.shape
    low = np.inf
    high = -np.inf
    for j in range(max(r - HALF, 0), min(r + HALF + 1, rows)):
        for i in range(max(c - HALF, 0), min(c + HALF + 1, nx)):
            value = centre[j, i]
            if np.isfinite(value):
                low = min(low, value)
                high = max(high, value)
    if not high > low:
        return 0.0
    excess = (high - low) ** 2 - (6 * noise) ** 2
    return np.sqrt(excess) if excess > 0 else 0.0


@njit(cache=True, error_model="numpy")
def _model_variance(a, own, k2, centre, tolerance, noise, valid):  # type: ignore[no-untyped-def]
    """Noise model of one value: background, photons of the centre, flux-scale error.

    A value much better than all others is not condemned by their noise: its variance
    grows by that of a centre made of the others, over what that would be if all were
    equally good.
    """
    light = max(centre, 0.0)
    factor = 1.0
    if valid > 2:
        others = 1.5 / (noise * noise) - 1 / own
        lonely = 1 + 1.5 / (own * max(others, 1e-6 / own))
        factor = max(1.0, lonely / (1 + 1.5 / (valid - 1)))
    return own * factor + a * light * k2 / K2_ONE + (tolerance * light) ** 2


@njit(cache=True, nogil=True, error_model="numpy")
def centre_rows(cube, start, stop, second, centre, todo):  # type: ignore[no-untyped-def]
    """Replace the centre of marked pixels (see `first_pass`) by the weighted median."""
    n = cube.factor.size
    frames = np.empty(n, np.int64)
    x, a, own, weight = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    work, heavy = np.empty(n), np.empty(n)
    for r in range(start, stop):
        for c in range(cube.nx):
            if todo[r, c]:
                m = _gather(cube, r, c, second, todo[r, c] == 2, frames, x, a, own, weight)
                centre[r, c] = _centre(x, weight, m, work, heavy)


@njit(cache=True, nogil=True, error_model="numpy")
def reject_rows(cube, start, stop, clip, q, second, centre, todo, near):  # type: ignore[no-untyped-def]
    """Set the state of values beyond ``clip`` sigma in marked pixels, and mark neighbours.

    Parameters
    ----------
    cube : Cube
        Its ``state`` is 0; 1 is set where a value is rejected. Two values that
        contradict each other are both rejected.
    start, stop : int
        Rows of the band; `HALF` more on each side have their centre.
    clip : float
        Threshold.
    q : ndarray of float64, shape (n,)
        Tolerance of the structure of each frame.
    second : int
        Bit of second-class values.
    centre, todo : ndarray, shape (rows, nx)
        Centre, and marks of `first_pass`.
    near : ndarray of uint8, shape (rows, nx)
        Set to 1 around each rejected value.
    """
    n, nx, rows = cube.factor.size, cube.nx, centre.shape[0]
    frames = np.empty(n, np.int64)
    x, a, own, weight = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for r in range(start, stop):
        for c in range(nx):
            if not todo[r, c]:
                continue
            m = _gather(cube, r, c, second, todo[r, c] == 2, frames, x, a, own, weight)
            if m < 2:
                continue
            noise = _centre_noise(own, m)
            middle = centre[r, c]
            structure = _structure(centre, noise, r, c)
            hit = False
            pair = 0.0
            for j in range(m):
                i = frames[j]
                p = i * cube.stride + r * nx + c
                model = _model_variance(
                    a[j], own[j], cube.k2[p], middle, cube.tolerance[i], noise, m
                )
                allowed = (q[i] * structure) ** 2
                if m == 2:
                    pair += model + 0.5 * allowed
                    continue
                gap = x[j] - middle
                if gap * gap > clip * clip * (allowed + model):
                    cube.state[p] = 1
                    hit = True
            if m == 2 and (x[0] - x[1]) ** 2 > clip * clip * pair:
                for j in range(2):
                    cube.state[frames[j] * cube.stride + r * nx + c] = 1
                hit = True
            if hit:
                for j in range(max(r - 1, 0), min(r + 2, rows)):
                    for i in range(max(c - 1, 0), min(c + 2, nx)):
                        near[j, i] = 1


@njit(cache=True, error_model="numpy")
def _near_rejected(cube, i, r, c, rows):  # type: ignore[no-untyped-def]
    for y in range(max(r - 1, 0), min(r + 2, rows)):
        for x in range(max(c - 1, 0), min(c + 2, cube.nx)):
            state = cube.state[i * cube.stride + y * cube.nx + x]
            if state in (1, 3):
                return True
    return False


@njit(cache=True, error_model="numpy")
def _grow(cube, r, c, m, frames, x, a, own, middle, grow_sigma, q, centre):  # type: ignore[no-untyped-def]
    """Reject values beyond the lower threshold beside a rejected pixel of their frame."""
    noise = _centre_noise(own, m)
    structure = _structure(centre, noise, r, c)
    for j in range(m):
        i = frames[j]
        allowed = (q[i] * structure) ** 2
        p = i * cube.stride + r * cube.nx + c
        if cube.state[p] != 0 or not _near_rejected(cube, i, r, c, centre.shape[0]):
            continue
        gap = x[j] - middle
        model = _model_variance(a[j], own[j], cube.k2[p], middle, cube.tolerance[i], noise, m)
        if gap * gap > grow_sigma * grow_sigma * (allowed + model):
            cube.state[p] = 2


@njit(cache=True, nogil=True, error_model="numpy")
def finish_rows(  # type: ignore[no-untyped-def]
    cube, row0, start, stop, grow_sigma, q, equal, bits, planes, centre, todo, near, used, clipped
):
    """Grow the rejection and average marked pixels anew.

    Parameters
    ----------
    cube : Cube
        Its ``state`` is final after this.
    row0, start, stop : int
        Row of the grid that is row 0 of the band; rows of the band to do. The states of
        one more row on each side are set.
    grow_sigma : float
        Threshold beside a rejected pixel.
    q : ndarray of float64, shape (n,)
        Tolerance of the structure of each frame.
    equal : bool
        All frames have the same weight.
    bits : tuple of int
        Bit of second-class values, and of a pixel where values contradict each other.
    planes : Planes
        Filled where a value was rejected or only second-class values exist.
    centre, todo, near : ndarray, shape (rows, nx)
        As in `reject_rows`.
    used, clipped : ndarray of int64, shape (n,)
        Values of each frame that were used and clipped; ``used`` holds all first-class ones.
    """
    second, conflict = np.uint16(bits[0]), np.uint16(bits[1])
    n, nx = cube.factor.size, cube.nx
    frames = np.empty(n, np.int64)
    x, a, own, weight = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    work, heavy = np.empty(n), np.empty(n)
    for r in range(start, stop):
        out = row0 + r
        for c in range(nx):
            if not near[r, c] and todo[r, c] != 2:
                continue
            only = todo[r, c] == 2
            m = _gather(cube, r, c, second, only, frames, x, a, own, weight)
            if m == 0:
                continue
            if m > 2 and near[r, c]:
                middle = _centre(x, weight, m, work, heavy)
                _grow(cube, r, c, m, frames, x, a, own, middle, grow_sigma, q, centre)
            kept = 0
            lowest = 0
            for j in range(m):
                if cube.state[frames[j] * cube.stride + r * nx + c] == 0:
                    kept += 1
                if x[j] < x[lowest]:
                    lowest = j
            if kept == 0:
                # Contradiction without a majority: the lowest value, and say so.
                cube.state[frames[lowest] * cube.stride + r * nx + c] = 3
                planes.mask[out, c] |= conflict
                kept = 1
            total = 0.0
            signal = 0.0
            square = 0.0
            for j in range(m):
                i = frames[j]
                p = i * cube.stride + r * nx + c
                if only:
                    used[i] += 1
                if cube.state[p] == 1 or cube.state[p] == 2:
                    used[i] -= 1
                    clipped[i] += 1
                    continue
                w = 1.0 if equal else cube.factor[i] * weight[j] * weight[j]
                total += w
                signal += w * x[j]
                square += w * w * np.float64(cube.variance[p])
            planes.sci[out, c] = signal / total
            planes.err[out, c] = np.sqrt(square) / total
            planes.coverage[out, c] = kept
            planes.rejected[out, c] = m - kept
