"""Sums in several concentric circles at once: one look at every pixel, exact overlaps.

A pixel that lies inside a circle lies inside all larger ones. So each pixel is read once
and added to the smallest circle that holds all of it; only pixels that an edge crosses are
weighted for each radius. Errors, masked pixels and what replaces them are those of
`skymill.kernels.apertures`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from skymill.kernels.apertures import (
    _BAD_BITS,
    _OUTSIDE_BIT,
    ApertureSums,
    _overlap,
    _ownership,
    _planes,
    _positions,
    _quadrant,
    _sum_circle,
    _usable,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["aperture_sums"]


def aperture_sums(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16],
    x: ArrayLike,
    y: ArrayLike,
    radii: ArrayLike,
    *,
    replace: bool = True,
    bad_bits: int = _BAD_BITS,
    outside_bit: int = _OUTSIDE_BIT,
    segments: NDArray[np.int32] | None = None,
    owners: ArrayLike | None = None,
) -> ApertureSums:
    """Sum an image in concentric circles.

    ``flux = sum(w I)``, ``flux_err**2 = sum(w**2 V)`` with the exact overlap ``w``.

    Parameters
    ----------
    sci, err : ndarray of float32, shape (ny, nx)
        Image (background-subtracted) and its one-sigma error.
    mask : ndarray of uint16, shape (ny, nx)
        0 is good.
    x, y : array_like of float, shape (n,)
        0-based centres. NaN gives NaN.
    radii : array_like of float, shape (m,)
        Radii in px, in any order.
    replace : bool
        Replace lost pixels by those opposite the centre, as `aperture_sum` does; a bad
        central pixel then gives NaN. False leaves lost pixels out of the sum.
    bad_bits, outside_bit : int
        Bits that disqualify a pixel; bit of ``mask_or`` where a circle leaves the frame.
    segments, owners : optional
        As for `aperture_sum`: pixels of other sources count as lost.

    Returns
    -------
    ApertureSums
        Each array of shape (n, m), in the order of `radii`.

    Raises
    ------
    ValueError
        For shapes that do not fit, and radii that are not positive.
    """
    planes = _planes(sci, err, mask)
    wanted = np.ascontiguousarray(np.atleast_1d(np.asarray(radii, np.float64)))
    if wanted.ndim != 1 or not np.all(np.isfinite(wanted)) or np.any(wanted <= 0):
        raise ValueError(f"radii must be positive numbers, got {wanted.tolist()}")
    px, py, _ = _positions(x, y, 1.0)
    seg, own = _ownership(segments, owners, planes[0].shape, len(px))
    order = np.argsort(wanted, kind="stable")
    found = _sum_sets(
        *planes, px, py, wanted[order], bad_bits, outside_bit, seg, own, len(own) > 0, replace
    )
    back = np.argsort(order, kind="stable")
    return ApertureSums(*(np.ascontiguousarray(values[:, back]) for values in found))


@njit(cache=True)
def _sum_sets(
    sci: Any, err: Any, mask: Any, x: Any, y: Any, radii: Any, bad_bits: Any, outside_bit: Any,
    segments: Any, owners: Any, use_segments: Any, replace: Any,
) -> Any:  # fmt: skip
    ny, nx = sci.shape
    n, m = len(x), len(radii)
    flux, flux_err = np.full((n, m), np.nan), np.full((n, m), np.nan)
    area, masked = np.zeros((n, m)), np.zeros((n, m))
    bits = np.zeros((n, m), np.uint16)
    variance = np.zeros(m)
    total = np.zeros(m)
    for k in range(n):
        if not (np.isfinite(x[k]) and np.isfinite(y[k])):
            continue
        largest = radii[m - 1]
        if not (-largest <= x[k] + 0.5 <= nx + largest and -largest <= y[k] + 0.5 <= ny + largest):
            for q in range(m):
                masked[k, q] = np.pi * radii[q] * radii[q]
                bits[k, q] = outside_bit
            continue
        own = owners[k] if use_segments else np.int32(0)
        _concentric(
            sci, err, mask, x[k], y[k], radii, bad_bits, outside_bit, segments, own, use_segments,
            total, variance, area[k], masked[k], bits[k],
        )  # fmt: skip
        centre = _usable(
            sci, err, mask, int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5)), bad_bits,
            segments, own, use_segments,
        )  # fmt: skip
        for q in range(m):
            if replace and masked[k, q] > 0.0:
                total[q], variance[q], area[k, q], masked[k, q], bits[k, q] = _sum_circle(
                    sci, err, mask, x[k], y[k], radii[q], bad_bits, outside_bit, segments, own,
                    use_segments,
                )  # fmt: skip
            if area[k, q] > 0.0 and (centre or not replace):
                flux[k, q], flux_err[k, q] = total[q], np.sqrt(variance[q])
    return flux, flux_err, area, masked, bits


@njit(cache=True)
def _crossed(dx: Any, dy: Any, r: Any) -> Any:
    """Overlap of a pixel that the edge of the circle crosses, with dx, dy >= 0."""
    if dx >= 0.5 and dy >= 0.5:
        return _quadrant(dx - 0.5, dy - 0.5, dx + 0.5, dy + 0.5, r)
    return _overlap(dx, dy, r)


@njit(cache=True)
def _concentric(
    sci: Any, err: Any, mask: Any, x: Any, y: Any, radii: Any, bad_bits: Any, outside_bit: Any,
    segments: Any, own: Any, use_segments: Any,
    total: Any, variance: Any, area: Any, lost: Any, bits: Any,
) -> None:  # fmt: skip
    """Fill the sums of one position, without replacing anything."""
    ny, nx = sci.shape
    m = len(radii)
    # What lies wholly inside circle q and inside no smaller one; summed up at the end.
    whole, whole_variance = np.zeros(m + 1), np.zeros(m + 1)
    whole_area, whole_lost = np.zeros(m + 1), np.zeros(m + 1)
    total[:], variance[:], area[:], lost[:] = 0.0, 0.0, 0.0, 0.0
    bits[:] = np.uint16(0)
    squares = radii * radii
    largest = radii[m - 1]
    i_low, i_high = int(np.floor(x - largest + 0.5)), int(np.floor(x + largest + 0.5))
    j_low, j_high = int(np.floor(y - largest + 0.5)), int(np.floor(y + largest + 0.5))
    for j in range(j_low, j_high + 1):
        dy = abs(j - y)
        near_y, far_y = max(dy - 0.5, 0.0), dy + 0.5
        near_y, far_y = near_y * near_y, far_y * far_y
        if near_y >= squares[m - 1]:
            continue
        half = np.sqrt(squares[m - 1] - near_y)
        first = max(i_low, int(np.ceil(x - half - 0.5)))
        last = min(i_high, int(np.floor(x + half + 0.5)))
        row_inside = 0 <= j < ny
        touched, full = m, m
        # Runs of pixels of one circle are summed in registers.
        run = m
        value_sum, square_sum, count, gone = 0.0, 0.0, 0.0, 0.0
        for i in range(first, last + 1):
            dx = abs(i - x)
            near, far = max(dx - 0.5, 0.0), dx + 0.5
            near, far = near_y + near * near, far_y + far * far
            # The first circle that the pixel touches, and the first that holds all of it.
            while touched > 0 and squares[touched - 1] > near:
                touched -= 1
            while touched < m and squares[touched] <= near:
                touched += 1
            while full > 0 and squares[full - 1] >= far:
                full -= 1
            while full < m and squares[full] < far:
                full += 1
            if touched == m:
                continue
            inside = row_inside and 0 <= i < nx
            flags = mask[j, i] if inside else np.uint16(outside_bit)
            good = inside and (flags & bad_bits) == 0
            value = np.float64(sci[j, i]) if good else np.nan
            sigma = np.float64(err[j, i]) if good else np.nan
            good = np.isfinite(value) and np.isfinite(sigma)
            if good and use_segments:
                good = segments[j, i] == 0 or segments[j, i] == own
            square = sigma * sigma
            if full != run:
                whole[run] += value_sum
                whole_variance[run] += square_sum
                whole_area[run] += count
                whole_lost[run] += gone
                run = full
                value_sum, square_sum, count, gone = 0.0, 0.0, 0.0, 0.0
            if good:
                value_sum += value
                square_sum += square
                count += 1.0
            else:
                gone += 1.0
            if flags != 0:
                bits[touched] |= flags
            for q in range(touched, full):
                weight = _crossed(dx, dy, radii[q])
                if good:
                    total[q] += weight * value
                    variance[q] += weight * weight * square
                    area[q] += weight
                else:
                    lost[q] += weight
        whole[run] += value_sum
        whole_variance[run] += square_sum
        whole_area[run] += count
        whole_lost[run] += gone
    for q in range(m):
        if q > 0:
            whole[q] += whole[q - 1]
            whole_variance[q] += whole_variance[q - 1]
            whole_area[q] += whole_area[q - 1]
            whole_lost[q] += whole_lost[q - 1]
            bits[q] |= bits[q - 1]
        total[q] += whole[q]
        variance[q] += whole_variance[q]
        area[q] += whole_area[q]
        lost[q] += whole_lost[q]
