"""Sums in circles and levels in rings: compiled kernels with errors that are true.

Circles overlap pixels exactly. The variance of a sum is ``sum(w**2 * V)``: weighting
the variance once, as is widespread, understates the error by 5 to 10 % at small radii.
Pixel ``(i, j)`` covers ``[i - 0.5, i + 0.5] x [j - 0.5, j + 0.5]``; positions are
0-based. Nothing here depends on the number of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from skymill.kernels.order_statistics import sort_values

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["ApertureSums", "RingLevels", "annulus_background", "aperture_sum", "overlap_area"]

#: Bits that disqualify a pixel unless the caller says otherwise: all but SOURCE (1 << 14).
_BAD_BITS = 0xFFFF & ~(1 << 14)
#: Set in ``mask_or`` when an aperture reaches beyond the frame (OUTSIDE).
_OUTSIDE_BIT = 1 << 1
#: Weight of the median in the level, and variance of the level over that of a mean.
_ESTIMATORS = {
    "mean": (0.0, 1.0),
    "median": (1.0, 0.5 * np.pi),
    "mode": (2.5, 25.0 * np.pi / 8.0 - 21.0 / 4.0),
}


class ApertureSums(NamedTuple):
    """Result of `aperture_sum`, each of shape (n,).

    Attributes
    ----------
    flux, flux_err : ndarray of float64
        Sum and its one-sigma error, unit of the image. NaN where the central pixel is
        disqualified or outside, or where no pixel is left.
    area : ndarray of float64
        Sum of the weights behind ``flux``, in px: the number of pixels' worth of
        background that the sum holds. ``pi r**2`` if everything could be used.
    masked_area : ndarray of float64
        Area of the circle that is disqualified or outside the frame, in px, whether or
        not it was replaced. ``pi r**2 - area`` is the part that could not be replaced.
    mask_or : ndarray of uint16
        OR of the mask of all pixels that the circle touches.
    """

    flux: NDArray[np.float64]
    flux_err: NDArray[np.float64]
    area: NDArray[np.float64]
    masked_area: NDArray[np.float64]
    mask_or: NDArray[np.uint16]


class RingLevels(NamedTuple):
    """Result of `annulus_background`, each of shape (n,).

    Attributes
    ----------
    level, level_err : ndarray of float64
        Clipped mean of the ring and its one-sigma error. NaN with too few pixels.
    scatter : ndarray of float64
        One-sigma scatter of a pixel, corrected for the clipping.
    n : ndarray of int64
        Pixels kept.
    """

    level: NDArray[np.float64]
    level_err: NDArray[np.float64]
    scatter: NDArray[np.float64]
    n: NDArray[np.int64]


def aperture_sum(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16],
    x: ArrayLike,
    y: ArrayLike,
    r: ArrayLike,
    *,
    bad_bits: int = _BAD_BITS,
    outside_bit: int = _OUTSIDE_BIT,
    segments: NDArray[np.int32] | None = None,
    owners: ArrayLike | None = None,
) -> ApertureSums:
    """Sum an image in circles.

    ``flux = sum(w I)``, ``flux_err**2 = sum(w**2 V)``, with ``w`` the exact overlap of
    circle and pixel. A pixel that is disqualified, not finite or outside the frame is
    replaced by the pixel opposite to it about the centre (rounded to half pixels): the
    weight of the opposite pixel grows by that of the lost one, and the error follows.
    If both are lost the area is missing from the sum.

    Parameters
    ----------
    sci, err : ndarray of float32, shape (ny, nx)
        Image (background-subtracted) and its one-sigma error.
    mask : ndarray of uint16, shape (ny, nx)
        0 is good.
    x, y : array_like of float, shape (n,)
        0-based centres. NaN gives NaN.
    r : float or array_like of shape (n,)
        Radii in px.
    bad_bits : int
        Bits that disqualify a pixel.
    outside_bit : int
        Bit that ``mask_or`` gets where the circle leaves the frame.
    segments : ndarray of int32, shape (ny, nx), optional
        Owner of each pixel, 0 for none. With it pixels that belong to another source
        are replaced like masked ones and counted in ``masked_area``.
    owners : array_like of int, shape (n,), optional
        The value of ``segments`` that is each position's own.

    Returns
    -------
    ApertureSums
    """
    planes = _planes(sci, err, mask)
    px, py, radius = _positions(x, y, r)
    seg, own = _ownership(segments, owners, planes[0].shape, len(px))
    return ApertureSums(
        *_sum_circles(*planes, px, py, radius, bad_bits, outside_bit, seg, own, len(own) > 0)
    )


def annulus_background(
    sci: NDArray[np.float32],
    mask: NDArray[np.uint16],
    x: ArrayLike,
    y: ArrayLike,
    r_in: ArrayLike,
    r_out: ArrayLike,
    *,
    bad_bits: int = 0xFFFF,
    clip_sigma: float = 3.0,
    minimum_px: int = 12,
    estimator: str = "mean",
    segments: NDArray[np.int32] | None = None,
    owners: ArrayLike | None = None,
) -> RingLevels:
    """Measure the level of rings: a mean, median or mode, clipped about the median.

    Pixels whose centre lies in ``r_in <= d < r_out`` and that bear none of ``bad_bits``
    (by default no bit at all, so that pixels of detected sources are left out) are
    sorted. The clip starts from the quartiles, then uses the corrected scatter of what
    is kept, until nothing changes. ``level_err = scatter sqrt(q / n)`` with
    ``q = 1 / (p - 2 k phi(k))`` for a clip at k sigma (1.03 at 3).

    Parameters
    ----------
    sci : ndarray of float32, shape (ny, nx)
        Image. Pixels that are not finite are left out.
    mask : ndarray of uint16, shape (ny, nx)
        0 is good.
    x, y : array_like of float, shape (n,)
        0-based centres.
    r_in, r_out : float or array_like of shape (n,)
        Inner and outer radii in px.
    bad_bits : int
        Bits that leave a pixel out.
    clip_sigma : float
        Clip in sigma.
    minimum_px : int
        Fewest pixels for a level.
    estimator : {"mean", "median", "mode"}
        Of the pixels kept. The mode is ``2.5 median - 1.5 mean``. The error of the level
        grows by ``sqrt(pi/2)`` for the median and ``sqrt(25 pi/8 - 21/4)`` for the mode.
    segments, owners : optional
        As for `aperture_sum`: pixels of other sources are left out, a source's own are
        not, so that the same part of the light of every star is taken for sky.

    Returns
    -------
    RingLevels
    """
    image, _, bits = _planes(sci, sci, mask)
    px, py, inner = _positions(x, y, r_in)
    outer = np.ascontiguousarray(np.broadcast_to(r_out, px.shape), np.float64)
    if np.any(outer <= inner):
        raise ValueError("the outer radius of a ring must exceed the inner one")
    if estimator not in _ESTIMATORS:
        raise ValueError(f"estimator must be one of {sorted(_ESTIMATORS)}, got {estimator!r}")
    efficiency, shrink = _clip_factors(clip_sigma)
    weight, factor = _ESTIMATORS[estimator]
    if weight:
        efficiency = factor  # the clip costs a median next to nothing
    seg, own = _ownership(segments, owners, image.shape, len(px))
    return RingLevels(
        *_level_rings(
            image, bits, px, py, inner, outer, bad_bits, clip_sigma, efficiency, shrink,
            minimum_px, seg, own, len(own) > 0, weight,
        )
    )  # fmt: skip


def _clip_factors(k: float) -> tuple[float, float]:
    """Variance factor of the mean and ratio of scatters for a Gaussian cut at k sigma."""
    from math import erf, exp, pi, sqrt

    kept = erf(k / sqrt(2.0))
    second = kept - 2.0 * k * exp(-0.5 * k * k) / sqrt(2.0 * pi)
    return kept / second, sqrt(second / kept)


def _ownership(
    segments: NDArray[np.int32] | None, owners: ArrayLike | None, shape: tuple[int, ...], n: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Checked segments and owners; empty owners mean that segments do not count."""
    if (segments is None) != (owners is None):
        raise ValueError("segments and owners belong together; give both or none")
    if segments is None or owners is None:
        return np.zeros((1, 1), np.int32), np.zeros(0, np.int32)
    own = np.ascontiguousarray(owners, np.int32)
    if segments.shape != shape or own.shape != (n,):
        raise ValueError(
            f"segments must have the shape of the image {shape} and owners that of the "
            f"positions ({n},), got {segments.shape} and {own.shape}"
        )
    return np.ascontiguousarray(segments, np.int32), own


def _planes(sci: Any, err: Any, mask: Any) -> tuple[Any, Any, Any]:
    if not (np.ndim(sci) == 2 and np.shape(sci) == np.shape(err) == np.shape(mask)):
        raise ValueError(
            f"image, error and mask must have one 2-D shape, got {np.shape(sci)}, "
            f"{np.shape(err)}, {np.shape(mask)}"
        )
    return (
        np.ascontiguousarray(sci, np.float32),
        np.ascontiguousarray(err, np.float32),
        np.ascontiguousarray(mask, np.uint16),
    )


def _positions(
    x: ArrayLike, y: ArrayLike, r: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    px = np.ascontiguousarray(np.atleast_1d(np.asarray(x, np.float64)))
    py = np.ascontiguousarray(np.atleast_1d(np.asarray(y, np.float64)))
    if px.shape != py.shape or px.ndim != 1:
        raise ValueError(f"x and y must have one 1-D shape, got {px.shape} and {py.shape}")
    radius = np.ascontiguousarray(np.broadcast_to(np.asarray(r, np.float64), px.shape))
    if np.any(radius <= 0):
        raise ValueError("radii must be positive")
    return px, py, radius


@njit(cache=True)
def _quadrant(x0: Any, y0: Any, x1: Any, y1: Any, r: Any) -> Any:
    """Area of the circle about the origin inside a box with 0 <= x0 < x1, 0 <= y0 < y1."""
    r2 = r * r
    if x0 * x0 + y0 * y0 >= r2:
        return 0.0
    if x1 * x1 + y1 * y1 <= r2:
        return (x1 - x0) * (y1 - y0)
    # The arc enters the box at (a, ya), through its top or its left side, and leaves it at
    # (b, yb), through its right side or its bottom: a polygon and a segment of the circle.
    left, right = x0 * x0 + y1 * y1 >= r2, x1 * x1 + y0 * y0 < r2
    entry = np.sqrt(r2 - (x0 * x0 if left else y1 * y1))
    leave = np.sqrt(r2 - (x1 * x1 if right else y0 * y0))
    a, ya = x0 if left else entry, entry if left else y1
    b, yb = x1 if right else leave, leave if right else y0
    area = (a - x0) * (y1 - y0) + (b - a) * (0.5 * (ya + yb) - y0)
    return area + _segment(np.sqrt((b - a) * (b - a) + (ya - yb) * (ya - yb)), r)


@njit(cache=True)
def _segment(chord: Any, r: Any) -> Any:
    """Area between a chord and its arc: ``r**2 (asin s - s sqrt(1 - s**2))``, s = chord/2r."""
    s = 0.5 * chord / r
    s2 = s * s
    if s > 0.2:
        return r * r * (np.arcsin(min(s, 1.0)) - s * np.sqrt(max(1.0 - s2, 0.0)))
    # Its series; the first term left out is below 3e-14 of r**2.
    tail = 63.0 / 1664.0 + s2 * (231.0 / 10240.0)
    series = 3.0 / 28.0 + s2 * (5.0 / 72.0 + s2 * (35.0 / 704.0 + s2 * tail))
    return r * r * s * s2 * (2.0 / 3.0 + s2 * (0.2 + s2 * series))


@njit(cache=True)
def _overlap(dx: Any, dy: Any, r: Any) -> Any:
    """Area of a unit pixel, centred at (dx, dy), inside the circle about the origin."""
    dx, dy = abs(dx), abs(dy)
    x1, y1 = dx + 0.5, dy + 0.5
    if x1 * x1 + y1 * y1 <= r * r:
        return 1.0
    x0, y0 = dx - 0.5, dy - 0.5
    near_x, near_y = max(x0, 0.0), max(y0, 0.0)
    if near_x * near_x + near_y * near_y >= r * r:
        return 0.0
    area = _quadrant(near_x, near_y, x1, y1, r)
    # A pixel across an axis is folded: its small part lies in the mirrored quadrant.
    if x0 < 0.0:
        area += _quadrant(0.0, near_y, -x0, y1, r)
    if y0 < 0.0:
        area += _quadrant(near_x, 0.0, x1, -y0, r)
        if x0 < 0.0:
            area += _quadrant(0.0, 0.0, -x0, -y0, r)
    return area


def overlap_area(dx: float, dy: float, r: float) -> float:
    """Return the area in px of a pixel centred at (dx, dy) inside a circle about (0, 0)."""
    return float(_overlap(float(dx), float(dy), float(r)))


@njit(cache=True)
def _usable(
    sci: Any, err: Any, mask: Any, i: Any, j: Any, bad_bits: Any, segments: Any, own: Any,
    use_segments: Any,
) -> Any:  # fmt: skip
    """Whether pixel (x = i, y = j) may enter a sum."""
    ny, nx = sci.shape
    if i < 0 or j < 0 or i >= nx or j >= ny:
        return False
    if (mask[j, i] & bad_bits) != 0:
        return False
    if use_segments and segments[j, i] != 0 and segments[j, i] != own:
        return False
    return np.isfinite(sci[j, i]) and np.isfinite(err[j, i])


@njit(cache=True)
def _sum_circles(
    sci: Any, err: Any, mask: Any, x: Any, y: Any, r: Any, bad_bits: Any, outside_bit: Any,
    segments: Any, owners: Any, use_segments: Any,
) -> Any:  # fmt: skip
    ny, nx = sci.shape
    n = len(x)
    flux = np.full(n, np.nan)
    flux_err = np.full(n, np.nan)
    area = np.zeros(n)
    masked = np.zeros(n)
    bits = np.zeros(n, np.uint16)
    for k in range(n):
        if not (np.isfinite(x[k]) and np.isfinite(y[k]) and np.isfinite(r[k])):
            continue
        if not (-r[k] <= x[k] + 0.5 <= nx + r[k] and -r[k] <= y[k] + 0.5 <= ny + r[k]):
            masked[k] = np.pi * r[k] * r[k]
            bits[k] = outside_bit
            continue
        own = owners[k] if use_segments else np.int32(0)
        total, variance, area[k], masked[k], bits[k] = _sum_circle(
            sci, err, mask, x[k], y[k], r[k], bad_bits, outside_bit, segments, own, use_segments
        )
        centre_i, centre_j = int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5))
        if area[k] > 0.0 and _usable(
            sci, err, mask, centre_i, centre_j, bad_bits, segments, own, use_segments
        ):
            flux[k] = total
            flux_err[k] = np.sqrt(variance)
    return flux, flux_err, area, masked, bits


@njit(cache=True)
def _whole_pixels(x: Any, far: Any, r: Any) -> Any:
    """First and last pixel of a row that surely lie inside; ``far`` is its farther side."""
    rest = r * r - far * far
    if rest <= 0.25:
        return 0, -1
    half = np.sqrt(rest) - 0.5 - 1e-9
    return int(np.ceil(x - half)), int(np.floor(x + half))


@njit(cache=True)
def _touched_pixels(x: Any, near: Any, r: Any) -> Any:
    """First and last pixel of a row that may touch the circle; ``near`` is its nearer side."""
    rest = r * r - max(near, 0.0) ** 2
    if rest <= 0.0:
        return 0, -1
    half = np.sqrt(rest) + 0.5 + 1e-9
    return int(np.ceil(x - half)), int(np.floor(x + half))


@njit(cache=True)
def _serves(value: Any, sigma: Any, flags: Any, bad_bits: Any, label: Any, own: Any) -> Any:
    """Whether a pixel of these values may enter a sum, as `_usable` for one inside."""
    # The difference of a number that is not finite and itself is not 0.
    good = (flags & bad_bits) == 0 and value - value == 0.0 and sigma - sigma == 0.0
    if label != 0:
        good = good and label == own
    return good


@njit(cache=True)
def _sum_circle(
    sci: Any, err: Any, mask: Any, x: Any, y: Any, r: Any, bad_bits: Any, outside_bit: Any,
    segments: Any, own: Any, use_segments: Any,
) -> Any:  # fmt: skip
    ny, nx = sci.shape
    total, variance, area, lost = 0.0, 0.0, 0.0, 0.0
    bits = np.uint16(0)
    for j in range(int(np.floor(y - r + 0.5)), int(np.floor(y + r + 0.5)) + 1):
        dy = abs(j - y)
        first, last = _touched_pixels(x, dy - 0.5, r)
        whole, whole_end = _whole_pixels(x, dy + 0.5, r)
        row_inside = 0 <= j < ny
        # Not a call of `_usable` for each pixel: it costs more than the sum.
        row = j if row_inside else 0
        values, errors, flags = sci[row], err[row], mask[row]
        labels = segments[row if use_segments else 0]
        for i in range(first, last + 1):
            weight = 1.0 if whole <= i <= whole_end else _overlap(i - x, dy, r)
            if weight == 0.0:
                continue
            if not (row_inside and 0 <= i < nx):
                bits |= np.uint16(outside_bit)
                lost += weight
                continue
            bits |= flags[i]
            value, sigma = np.float64(values[i]), np.float64(errors[i])
            label = labels[i] if use_segments else own
            good = _serves(value, sigma, flags[i], bad_bits, label, own)
            if not good:
                lost += weight
                continue
            total += weight * value
            variance += weight * weight * sigma * sigma
            area += weight
    if lost == 0.0:
        return total, variance, area, lost, bits
    # Give the weight of each lost pixel to its opposite, (mirror_x - i, mirror_y - j), which
    # may lie just outside the circle. A weight w that becomes w + v adds (w + v)**2 - w**2.
    mirror_x, mirror_y = int(np.floor(2.0 * x + 0.5)), int(np.floor(2.0 * y + 0.5))
    for j in range(int(np.floor(y - r + 0.5)), int(np.floor(y + r + 0.5)) + 1):
        first, last = _touched_pixels(x, abs(j - y) - 0.5, r)
        row_inside = 0 <= j < ny
        row = j if row_inside else 0
        values, errors, flags = sci[row], err[row], mask[row]
        labels = segments[row if use_segments else 0]
        for i in range(first, last + 1):
            if row_inside and 0 <= i < nx:
                label = labels[i] if use_segments else own
                if _serves(values[i], errors[i], flags[i], bad_bits, label, own):
                    continue
            extra = _overlap(i - x, j - y, r)
            i_to, j_to = mirror_x - i, mirror_y - j
            if extra > 0.0 and _usable(
                sci, err, mask, i_to, j_to, bad_bits, segments, own, use_segments
            ):
                weight = _overlap(i_to - x, j_to - y, r)
                value, sigma = np.float64(sci[j_to, i_to]), np.float64(err[j_to, i_to])
                total += extra * value
                variance += (2.0 * weight * extra + extra * extra) * sigma * sigma
                area += extra
    return total, variance, area, lost, bits


@njit(cache=True)
def _level_rings(
    sci: Any, mask: Any, x: Any, y: Any, r_in: Any, r_out: Any, bad_bits: Any, clip: Any,
    efficiency: Any, shrink: Any, minimum: Any, segments: Any, owners: Any, use_segments: Any,
    median_weight: Any,
) -> Any:  # fmt: skip
    ny, nx = sci.shape
    n = len(x)
    level = np.full(n, np.nan)
    level_err = np.full(n, np.nan)
    scatter = np.full(n, np.nan)
    kept = np.zeros(n, np.int64)
    widest = int(np.ceil(np.max(r_out))) if n > 0 else 0
    values = np.empty((2 * widest + 3) ** 2, np.float32)
    for k in range(n):
        if not (np.isfinite(x[k]) and np.isfinite(y[k])):
            continue
        outer, inner = r_out[k] * r_out[k], r_in[k] * r_in[k]
        own = owners[k] if use_segments else np.int32(0)
        count = 0
        for j in range(max(0, int(np.ceil(y[k] - r_out[k]))), min(ny, int(y[k] + r_out[k]) + 1)):
            across = (j - y[k]) ** 2
            # One pixel more on either side than the row of the ring has, and its hole.
            reach = np.sqrt(max(outer - across, 0.0)) + 1.0
            hole = np.sqrt(max(inner - across, 0.0)) - 1.0
            i, end = max(0, int(np.ceil(x[k] - reach))), min(nx, int(x[k] + reach) + 1)
            while i < end:
                if hole > 1.0 and abs(i - x[k]) < hole:
                    i = int(np.ceil(x[k] + hole))
                    continue
                distance = (i - x[k]) ** 2 + across
                if inner <= distance < outer and (mask[j, i] & bad_bits) == 0:
                    foreign = use_segments and segments[j, i] != 0 and segments[j, i] != own
                    if not foreign and np.isfinite(sci[j, i]):
                        values[count] = sci[j, i]
                        count += 1
                i += 1
        kept[k] = count
        if count >= minimum:
            mean, median, scatter[k], kept[k] = _clipped_mean(values[:count], clip, shrink)
            level[k] = mean + median_weight * (median - mean)
            level_err[k] = scatter[k] * np.sqrt(efficiency / kept[k])
    return level, level_err, scatter, kept


@njit(cache=True)
def _clipped_mean(values: Any, clip: Any, shrink: Any) -> Any:
    """Mean, median, scatter and number of what lies within ``clip`` sigma of the median."""
    sort_values(values)
    count = len(values)
    low, high = 0, count
    centre = 0.5 * (values[(count - 1) // 2] + values[count // 2])
    sigma = (values[(3 * count) // 4] - values[count // 4]) / 1.349
    mean = centre
    for _ in range(20):
        bottom, top = low, high
        low, high = 0, count
        while low < count - 1 and values[low] < centre - clip * sigma:
            low += 1
        while high > low + 1 and values[high - 1] > centre + clip * sigma:
            high -= 1
        mean, second = 0.0, 0.0
        for index in range(low, high):
            mean += values[index]
        mean /= high - low
        for index in range(low, high):
            second += (values[index] - mean) ** 2
        sigma = np.sqrt(second / max(high - low - 1, 1)) / shrink
        centre = 0.5 * (values[(low + high - 1) // 2] + values[(low + high) // 2])
        if low == bottom and high == top:
            break
    return mean, centre, sigma, high - low
