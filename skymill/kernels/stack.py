"""Compiled code of the stack: clip against the noise model, weighted mean.

Arrays in, arrays out. One thread, sums in the order of the frames in float64, so the
result does not depend on anything but the input.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["combine_band"]


@njit(cache=True)
def _sort_pairs(values, weights, n):  # type: ignore[no-untyped-def]
    """Sort the first n values with their weights (Shell's gaps)."""
    gap = n // 2
    while gap > 0:
        for i in range(gap, n):
            value = values[i]
            weight = weights[i]
            j = i
            while j >= gap and values[j - gap] > value:
                values[j] = values[j - gap]
                weights[j] = weights[j - gap]
                j -= gap
            values[j] = value
            weights[j] = weight
        gap //= 2


@njit(cache=True)
def _weighted_median(values, weights, n):  # type: ignore[no-untyped-def]
    """Median of n values, which are reordered; no value outweighs all others."""
    total = 0.0
    heaviest = 0
    for i in range(n):
        total += weights[i]
        if weights[i] > weights[heaviest]:
            heaviest = i
    rest = total - weights[heaviest]
    if weights[heaviest] > rest:
        weights[heaviest] = rest * (1 - 1e-9)
        total = rest + weights[heaviest]
    _sort_pairs(values, weights, n)
    half = 0.5 * total
    below = 0.0
    for i in range(n - 1):
        below += weights[i]
        if abs(below - half) < 1e-12 * total:
            return 0.5 * (values[i] + values[i + 1])
        if below > half:
            return values[i]
    return values[n - 1]


@njit(cache=True)
def _centre_rows(values, k2, scale, background, centre, noise):  # type: ignore[no-untyped-def]
    """Centre and its approximate noise; the lower of two; the value of one.

    The centre of three or more is the median with weights ``1 / s``, the minimum of
    ``sum |x - c| / s``: an unweighted median of frames of very different noise is so
    uncertain that it condemns the best frame. Its variance is about 1.5 / sum(1/s^2),
    and that of ``x - c`` stays below ``s^2``.
    """
    n, rows, nx = values.shape
    buffer = np.empty(n, np.float64)
    weights = np.empty(n, np.float64)
    for r in range(rows):
        for c in range(nx):
            m = 0
            total = 0.0
            for i in range(n):
                if k2[i, r, c]:
                    a = np.float64(scale[i, r, c // 8])
                    variance = a * a * background[i, r, c // 8] * k2[i, r, c] / 255
                    buffer[m] = values[i, r, c]
                    weights[m] = 1 / np.sqrt(variance)
                    total += 1 / variance
                    m += 1
            if m == 0:
                centre[r, c] = np.nan
                noise[r, c] = 0
                continue
            noise[r, c] = np.sqrt(1.5 / total)
            if m == 2:
                centre[r, c] = min(buffer[0], buffer[1])
            else:
                centre[r, c] = _weighted_median(buffer, weights, m) if m > 1 else buffer[0]


@njit(cache=True)
def _structure(centre, noise, r, c):  # type: ignore[no-untyped-def]
    """Range of the 5 x 5 neighbourhood, zero where noise alone can explain it.

    Five wide, because the wings of a frame of bad seeing reach beyond the slope of the
    median's profile. The range of 25 normal values is 3.9 +- 0.7 sigma.
    """
    rows, nx = centre.shape
    low = np.inf
    high = -np.inf
    for j in range(max(r - 2, 0), min(r + 3, rows)):
        for i in range(max(c - 2, 0), min(c + 3, nx)):
            value = centre[j, i]
            if np.isfinite(value):
                low = min(low, value)
                high = max(high, value)
    if not high > low:
        return 0.0
    excess = (high - low) ** 2 - (6 * noise[r, c]) ** 2
    return np.sqrt(excess) if excess > 0 else 0.0


@njit(cache=True)
def _model_variance(a, background, k2, centre, tolerance, noise, valid):  # type: ignore[no-untyped-def]
    """Noise model of one value: background, photons of the centre, flux-scale error.

    A value much better than all others is not condemned by their noise: its variance
    grows by that of a centre made of the others, over what that would be if all were
    equally good.
    """
    light = max(centre, 0.0)
    own = a * a * background * k2 / 255
    factor = 1.0
    if valid > 2:
        others = 1.5 / (noise * noise) - 1 / own
        lonely = 1 + 1.5 / (own * max(others, 1e-6 / own))
        factor = max(1.0, lonely / (1 + 1.5 / (valid - 1)))
    return own * factor + a * light * k2 / 255 + (tolerance * light) ** 2


@njit(cache=True)
def _reject(values, k2, scale, background, tolerance, centre, noise, k, q, state):  # type: ignore[no-untyped-def]
    """Set state: 0 not valid, 1 kept, 2 beyond k sigma; N = 2: both 2 on conflict."""
    n, rows, nx = values.shape
    state[:] = 0
    for r in range(rows):
        for c in range(nx):
            m = 0
            first = -1
            second = -1
            for i in range(n):
                if k2[i, r, c]:
                    m += 1
                    second = i
                    if first < 0:
                        first = i
                    state[i, r, c] = 1
            if m < 2:
                continue
            allowed = (q * _structure(centre, noise, r, c)) ** 2
            if m == 2:
                pair = allowed
                for i in (first, second):
                    pair += _model_variance(
                        scale[i, r, c // 8],
                        background[i, r, c // 8],
                        k2[i, r, c],
                        centre[r, c],
                        tolerance[i],
                        noise[r, c],
                        m,
                    )
                gap = np.float64(values[first, r, c]) - values[second, r, c]
                if gap * gap > k * k * pair:
                    state[first, r, c] = 2
                    state[second, r, c] = 2
                continue
            for i in range(n):
                if not k2[i, r, c]:
                    continue
                gap = values[i, r, c] - centre[r, c]
                variance = allowed + _model_variance(
                    scale[i, r, c // 8],
                    background[i, r, c // 8],
                    k2[i, r, c],
                    centre[r, c],
                    tolerance[i],
                    noise[r, c],
                    m,
                )
                if gap * gap > k * k * variance:
                    state[i, r, c] = 2


@njit(cache=True)
def _near_rejected(state, i, r, c):  # type: ignore[no-untyped-def]
    _, rows, nx = state.shape
    for y in range(max(r - 1, 0), min(r + 2, rows)):
        for x in range(max(c - 1, 0), min(c + 2, nx)):
            if state[i, y, x] == 2:
                return True
    return False


@njit(cache=True)
def _lowest(values, k2, r, c):  # type: ignore[no-untyped-def]
    """Frame with the lowest valid value."""
    best = -1
    for i in range(values.shape[0]):
        if k2[i, r, c] and (best < 0 or values[i, r, c] < values[best, r, c]):
            best = i
    return best


@njit(cache=True)
def _weigh(  # type: ignore[no-untyped-def]
    values,
    k2,
    scale,
    background,
    factor,
    tolerance,
    centre,
    noise,
    state,
    grow_sigma,
    q,
    r,
    c,
    weights,
):
    """Weights of one pixel; returns how many values are valid and how many are kept."""
    n = values.shape[0]
    valid = 0
    for i in range(n):
        weights[i] = 0
        if k2[i, r, c]:
            valid += 1
    kept = 0
    allowed = -1.0
    for i in range(n):
        if state[i, r, c] != 1:
            continue
        a = np.float64(scale[i, r, c // 8])
        b = np.float64(background[i, r, c // 8])
        if valid > 2 and _near_rejected(state, i, r, c):
            if allowed < 0:
                allowed = (q * _structure(centre, noise, r, c)) ** 2
            gap = values[i, r, c] - centre[r, c]
            model = _model_variance(
                a, b, k2[i, r, c], centre[r, c], tolerance[i], noise[r, c], valid
            )
            if gap * gap > grow_sigma * grow_sigma * (allowed + model):
                continue
        weights[i] = factor[i] / (a * a * b)
        kept += 1
    return valid, kept


@njit(cache=True)
def _handed_on(masks, k2, bits_majority, r, c):  # type: ignore[no-untyped-def]
    """Bits of any frame, and those that at least half of the frames there have."""
    seen = 0
    majority = 0
    any_bits = 0
    for i in range(masks.shape[0]):
        bits = masks[i, r, c]
        if bits or k2[i, r, c]:
            seen += 1
            any_bits |= bits
            if bits & bits_majority:
                majority += 1
    if majority > 0 and 2 * majority >= seen:
        return any_bits, any_bits & bits_majority
    return any_bits, 0


@njit(cache=True, nogil=True)
def combine_band(  # type: ignore[no-untyped-def]
    values,
    variances,
    k2,
    masks,
    scale,
    background,
    factor,
    tolerance,
    first,
    count,
    clip_sigma,
    grow_sigma,
    q,
    bits_hole,
    bits_conflict,
    bits_majority,
    out_sci,
    out_err,
    out_mask,
    out_coverage,
    clipped,
    used,
    squares,
    box,
    row0,
    white_sum,
    variance_sum,
):
    """Weighted mean of a band, clipped against the noise model.

    Parameters
    ----------
    values, variances : ndarray of float32, shape (n, rows, nx)
        Resampled signal and variance on the common flux scale.
    k2 : ndarray of uint8, shape (n, rows, nx)
        Squared-kernel sum times 255; 0 excludes the pixel.
    masks : ndarray of uint16, shape (n, rows, nx)
        Bits of all touched pixels.
    scale, background : ndarray of float32, shape (n, rows, ceil(nx / 8))
        Flux scale ``a`` and background variance ``V_b`` before scaling, for every
        eighth column. The weight is ``factor / (a^2 V_b)``: smooth, never from a pixel.
    factor, tolerance : ndarray of float64, shape (n,)
        Factor of the weight, relative error of the flux scale.
    first, count : int
        Rows of the band that are wanted; the others are its margin.
    clip_sigma, grow_sigma, q : float
        Threshold, threshold beside a rejected pixel, tolerance of the structure.
    bits_hole, bits_conflict, bits_majority : int
        Bits of a pixel without value; of a pixel where two values contradict each
        other; bits handed on if at least half of the frames there have them.
    out_sci, out_err : ndarray of float32, shape (count, nx)
    out_mask, out_coverage : ndarray of uint16, shape (count, nx)
    clipped, used : ndarray of int64, shape (n,)
        Increased by the pixels of each frame that were clipped, and kept.
    squares : ndarray of float64, shape (n,)
        Increased by ``w^2 V / W^2`` of each frame: its share in the stack's variance.
    box, row0 : int
        Side of a cell; row of the grid that is ``out_sci[0]``.
    white_sum, variance_sum : ndarray of float64, shape (ceil(ny / box), ceil(nx / box))
        Increased per cell by the variance that the stack would have without the
        smoothing of the kernel, and by its variance. The square root of their ratio is
        the correlation factor of large apertures.
    """
    n, rows, nx = values.shape
    centre = np.empty((rows, nx), np.float64)
    noise = np.empty((rows, nx), np.float64)
    state = np.empty((n, rows, nx), np.uint8)
    weights = np.empty(n, np.float64)
    _centre_rows(values, k2, scale, background, centre, noise)
    _reject(values, k2, scale, background, tolerance, centre, noise, clip_sigma, q, state)
    for row in range(count):
        r = first + row
        for c in range(nx):
            valid, kept = _weigh(
                values,
                k2,
                scale,
                background,
                factor,
                tolerance,
                centre,
                noise,
                state,
                grow_sigma,
                q,
                r,
                c,
                weights,
            )
            any_bits, handed = _handed_on(masks, k2, bits_majority, r, c)
            if valid == 0:
                out_sci[row, c] = np.nan
                out_err[row, c] = np.nan
                out_coverage[row, c] = 0
                out_mask[row, c] = any_bits | bits_hole
                continue
            if kept == 0:
                # Contradiction without a majority: the lowest value, and say so.
                i = _lowest(values, k2, r, c)
                a = np.float64(scale[i, r, c // 8])
                weights[i] = factor[i] / (a * a * background[i, r, c // 8])
                kept = 1
                handed |= bits_conflict
            total = 0.0
            signal = 0.0
            square = 0.0
            white = 0.0
            for i in range(n):
                w = weights[i]
                if w > 0:
                    total += w
                    signal += w * values[i, r, c]
                    square += w * w * variances[i, r, c]
                    white += w * w * variances[i, r, c] * 255.0 / k2[i, r, c]
            white_sum[(row0 + row) // box, c // box] += white / (total * total)
            variance_sum[(row0 + row) // box, c // box] += square / (total * total)
            for i in range(n):
                w = weights[i]
                if w > 0:
                    used[i] += 1
                    squares[i] += w * w * variances[i, r, c] / (total * total)
                elif k2[i, r, c]:
                    clipped[i] += 1
            out_sci[row, c] = signal / total
            out_err[row, c] = np.sqrt(square) / total
            out_coverage[row, c] = kept
            out_mask[row, c] = handed
