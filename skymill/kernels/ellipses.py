"""Sums in ellipses, Kron radii and isophotal sums: compiled kernels with true errors.

An ellipse with semi-axes ``a >= b`` is turned by ``theta``: the angle in radians from the
x axis (columns) towards the y axis (rows). Overlaps with pixels are exact: in coordinates
in which the ellipse is the unit circle a pixel is a parallelogram, and the area of a polygon
inside a circle is a sum over its edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from skymill.kernels.apertures import (
    _BAD_BITS,
    _OUTSIDE_BIT,
    ApertureSums,
    _ownership,
    _planes,
    _positions,
    _usable,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "SegmentSums",
    "ellipse_overlap",
    "ellipse_sums",
    "kron_radii",
    "nearest_owners",
    "segment_sums",
]


class SegmentSums(NamedTuple):
    """Result of `segment_sums`, each of shape (n,).

    Attributes
    ----------
    flux, variance : ndarray of float64
        Sum of the good pixels of a segment, and of their variances.
    area : ndarray of int64
        Good pixels.
    lost : ndarray of int64
        Pixels of the segment that are disqualified.
    mask_or : ndarray of uint16
        OR of the mask of all its pixels.
    """

    flux: NDArray[np.float64]
    variance: NDArray[np.float64]
    area: NDArray[np.int64]
    lost: NDArray[np.int64]
    mask_or: NDArray[np.uint16]


def ellipse_sums(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16],
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    theta: ArrayLike,
    *,
    replace: bool = True,
    bad_bits: int = _BAD_BITS,
    outside_bit: int = _OUTSIDE_BIT,
    segments: NDArray[np.int32] | None = None,
    owners: ArrayLike | None = None,
) -> ApertureSums:
    """Sum an image in one ellipse per position.

    ``flux = sum(w I)``, ``flux_err**2 = sum(w**2 V)``, with ``w`` the exact overlap.

    Parameters
    ----------
    sci, err, mask : ndarray, shape (ny, nx)
        Image (background-subtracted), its one-sigma error, and its mask (0 is good).
    x, y : array_like of float, shape (n,)
        0-based centres. NaN gives NaN.
    a, b : float or array_like of shape (n,)
        Semi-axes in px. Not positive or NaN gives NaN.
    theta : float or array_like of shape (n,)
        Angle of ``a`` from +x towards +y in radians.
    replace, bad_bits, outside_bit, segments, owners : optional
        As for `skymill.kernels.circles.aperture_sums`.

    Returns
    -------
    ApertureSums
    """
    planes = _planes(sci, err, mask)
    px, py, _ = _positions(x, y, 1.0)
    shape = [
        np.ascontiguousarray(np.broadcast_to(np.asarray(v, np.float64), px.shape))
        for v in (a, b, theta)
    ]
    seg, own = _ownership(segments, owners, planes[0].shape, len(px))
    return ApertureSums(
        *_sum_ellipses(
            *planes, px, py, *shape, bad_bits, outside_bit, seg, own, len(own) > 0, replace
        )
    )


def kron_radii(
    sci: NDArray[np.float32],
    mask: NDArray[np.uint16],
    x: ArrayLike,
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    theta: ArrayLike,
    *,
    reach: float = 6.0,
    bad_bits: int = _BAD_BITS,
    segments: NDArray[np.int32] | None = None,
    owners: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the first moments ``sum(r I) / sum(I)`` of Kron (1980), in units of ``a``.

    ``r`` is the elliptical distance (1 on the ellipse ``a, b, theta``); the sums run over
    pixels whose centre lies within ``reach``, as in SExtractor. A lost pixel is replaced by
    that opposite the centre.

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN where the light in the ellipse is not positive.
    """
    image, same, bits = _planes(sci, sci, mask)
    px, py, _ = _positions(x, y, 1.0)
    shape = [
        np.ascontiguousarray(np.broadcast_to(np.asarray(v, np.float64), px.shape))
        for v in (a, b, theta)
    ]
    seg, own = _ownership(segments, owners, image.shape, len(px))
    return np.asarray(
        _kron(image, same, bits, px, py, *shape, reach, bad_bits, seg, own, len(own) > 0)
    )


def segment_sums(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16],
    segments: NDArray[np.int32],
    owners: ArrayLike,
    *,
    bad_bits: int = _BAD_BITS,
) -> SegmentSums:
    """Sum the pixels of segments: isophotal fluxes.

    Parameters
    ----------
    sci, err, mask : ndarray, shape (ny, nx)
        Image (background-subtracted), its one-sigma error, and its mask.
    segments : ndarray of int32, shape (ny, nx)
        Number of the source that each pixel belongs to, 0 for none.
    owners : array_like of int, shape (n,)
        The segment of each source.

    Returns
    -------
    SegmentSums
    """
    planes = _planes(sci, err, mask)
    own = np.ascontiguousarray(owners, np.int64)
    if segments.shape != planes[0].shape:
        raise ValueError(f"segments must have shape {planes[0].shape}, got {segments.shape}")
    number = max(int(segments.max(initial=0)), int(own.max(initial=0))) + 1
    found = _sum_segments(*planes, np.ascontiguousarray(segments, np.int32), number, bad_bits)
    return SegmentSums(*(values[own] for values in found))


def nearest_owners(
    shape: tuple[int, int],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    theta: NDArray[np.float64],
    *,
    reach: float = 3.0,
) -> NDArray[np.int32]:
    """Return which source each pixel belongs to: 1..n, or 0 if it is far from all.

    A pixel belongs to the source at the smallest elliptical distance, if that is at most
    `reach`, in units of the rms ellipse.

    Parameters
    ----------
    shape : (int, int)
        Shape (ny, nx).
    x, y, a, b, theta : ndarray of float64, shape (n,)
        Positions, rms semi-axes in px and angles in radians.
    reach : float
        Size of the area that a source may own.
    """
    arrays = [np.ascontiguousarray(v, np.float64) for v in (x, y, a, b, theta)]
    return np.asarray(_own_pixels(shape[0], shape[1], *arrays, reach))


def ellipse_overlap(dx: float, dy: float, a: float, b: float, theta: float) -> float:
    """Return the area in px of a pixel centred at (dx, dy) inside an ellipse about (0, 0)."""
    cos, sin = float(np.cos(theta)), float(np.sin(theta))
    return float(_ellipse_overlap(float(dx), float(dy), float(a), float(b), cos, sin))


@njit(cache=True)
def _edge(px: Any, py: Any, qx: Any, qy: Any) -> Any:
    """Signed area of the triangle (origin, p, q) inside the unit circle."""
    dx, dy = qx - px, qy - py
    along, across = px * dx + py * dy, dx * dx + dy * dy
    outside = px * px + py * py - 1.0
    root = along * along - across * outside
    if root <= 0.0:
        return 0.5 * np.arctan2(px * qy - py * qx, px * qx + py * qy)
    root = np.sqrt(root)
    enter, leave = (-along - root) / across, (-along + root) / across
    if enter >= 1.0 or leave <= 0.0:
        return 0.5 * np.arctan2(px * qy - py * qx, px * qx + py * qy)
    area = 0.0
    ix, iy, ox, oy = px, py, qx, qy
    if enter > 0.0:
        ix, iy = px + enter * dx, py + enter * dy
        area += 0.5 * np.arctan2(px * iy - py * ix, px * ix + py * iy)
    if leave < 1.0:
        ox, oy = px + leave * dx, py + leave * dy
        area += 0.5 * np.arctan2(ox * qy - oy * qx, ox * qx + oy * qy)
    return area + 0.5 * (ix * oy - iy * ox)


@njit(cache=True)
def _ellipse_overlap(dx: Any, dy: Any, a: Any, b: Any, cos: Any, sin: Any) -> Any:
    u, v = (dx * cos + dy * sin) / a, (dy * cos - dx * sin) / b
    # Half sides of the pixel in the coordinates of the unit circle.
    ux, vx = 0.5 * cos / a, -0.5 * sin / b
    uy, vy = 0.5 * sin / a, 0.5 * cos / b
    reach = max(np.hypot(ux + uy, vx + vy), np.hypot(ux - uy, vx - vy))
    distance = np.hypot(u, v)
    if distance >= 1.0 + reach:
        return 0.0
    if distance + reach <= 1.0:
        return 1.0
    x1, y1 = u - ux - uy, v - vx - vy
    x2, y2 = u + ux - uy, v + vx - vy
    x3, y3 = u + ux + uy, v + vx + vy
    x4, y4 = u - ux + uy, v - vx + vy
    area = _edge(x1, y1, x2, y2) + _edge(x2, y2, x3, y3)
    area += _edge(x3, y3, x4, y4) + _edge(x4, y4, x1, y1)
    return min(max(area * a * b, 0.0), 1.0)


@njit(cache=True)
def _box(x: Any, y: Any, a: Any, b: Any, cos: Any, sin: Any) -> Any:
    """Pixels that may touch an ellipse."""
    half_x = np.sqrt((a * cos) ** 2 + (b * sin) ** 2)
    half_y = np.sqrt((a * sin) ** 2 + (b * cos) ** 2)
    return (
        int(np.floor(x - half_x + 0.5)), int(np.floor(x + half_x + 0.5)),
        int(np.floor(y - half_y + 0.5)), int(np.floor(y + half_y + 0.5)),
    )  # fmt: skip


@njit(cache=True)
def _sum_ellipses(
    sci: Any, err: Any, mask: Any, x: Any, y: Any, a: Any, b: Any, theta: Any, bad_bits: Any,
    outside_bit: Any, segments: Any, owners: Any, use_segments: Any, replace: Any,
) -> Any:  # fmt: skip
    ny, nx = sci.shape
    n = len(x)
    flux, flux_err = np.full(n, np.nan), np.full(n, np.nan)
    area, masked = np.zeros(n), np.zeros(n)
    bits = np.zeros(n, np.uint16)
    for k in range(n):
        if not (np.isfinite(x[k]) and np.isfinite(y[k]) and np.isfinite(theta[k])):
            continue
        if not (a[k] > 0.0 and b[k] > 0.0 and a[k] < nx + ny):
            continue
        longest = max(a[k], b[k])
        if not (-longest <= x[k] + 0.5 <= nx + longest and -longest <= y[k] + 0.5 <= ny + longest):
            masked[k], bits[k] = np.pi * a[k] * b[k], outside_bit
            continue
        own = owners[k] if use_segments else np.int32(0)
        total, variance, area[k], masked[k], bits[k] = _sum_ellipse(
            sci, err, mask, x[k], y[k], a[k], b[k], np.cos(theta[k]), np.sin(theta[k]), bad_bits,
            outside_bit, segments, own, use_segments, replace,
        )  # fmt: skip
        centre = _usable(
            sci, err, mask, int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5)), bad_bits,
            segments, own, use_segments,
        )  # fmt: skip
        if area[k] > 0.0 and (centre or not replace):
            flux[k], flux_err[k] = total, np.sqrt(variance)
    return flux, flux_err, area, masked, bits


@njit(cache=True)
def _sum_ellipse(
    sci: Any, err: Any, mask: Any, x: Any, y: Any, a: Any, b: Any, cos: Any, sin: Any,
    bad_bits: Any, outside_bit: Any, segments: Any, own: Any, use_segments: Any, replace: Any,
) -> Any:  # fmt: skip
    ny, nx = sci.shape
    total, variance, area, lost = 0.0, 0.0, 0.0, 0.0
    bits = np.uint16(0)
    i_low, i_high, j_low, j_high = _box(x, y, a, b, cos, sin)
    for j in range(j_low, j_high + 1):
        for i in range(i_low, i_high + 1):
            weight = _ellipse_overlap(i - x, j - y, a, b, cos, sin)
            if weight == 0.0:
                continue
            inside = 0 <= i < nx and 0 <= j < ny
            bits |= mask[j, i] if inside else np.uint16(outside_bit)
            if not _usable(sci, err, mask, i, j, bad_bits, segments, own, use_segments):
                lost += weight
                continue
            value, sigma = np.float64(sci[j, i]), np.float64(err[j, i])
            total += weight * value
            variance += weight * weight * sigma * sigma
            area += weight
    if lost == 0.0 or not replace:
        return total, variance, area, lost, bits
    # As for circles: an ellipse too is its own mirror image about its centre.
    mirror_x, mirror_y = int(np.floor(2.0 * x + 0.5)), int(np.floor(2.0 * y + 0.5))
    for j in range(j_low, j_high + 1):
        for i in range(i_low, i_high + 1):
            if _usable(sci, err, mask, i, j, bad_bits, segments, own, use_segments):
                continue
            extra = _ellipse_overlap(i - x, j - y, a, b, cos, sin)
            i_to, j_to = mirror_x - i, mirror_y - j
            if extra > 0.0 and _usable(
                sci, err, mask, i_to, j_to, bad_bits, segments, own, use_segments
            ):
                weight = _ellipse_overlap(i_to - x, j_to - y, a, b, cos, sin)
                value, sigma = np.float64(sci[j_to, i_to]), np.float64(err[j_to, i_to])
                total += extra * value
                variance += (2.0 * weight * extra + extra * extra) * sigma * sigma
                area += extra
    return total, variance, area, lost, bits


@njit(cache=True)
def _kron(
    sci: Any, same: Any, mask: Any, x: Any, y: Any, a: Any, b: Any, theta: Any, reach: Any,
    bad_bits: Any, segments: Any, owners: Any, use_segments: Any,
) -> Any:  # fmt: skip
    n = len(x)
    out = np.full(n, np.nan)
    ny, nx = sci.shape
    for k in range(n):
        if not (np.isfinite(x[k]) and np.isfinite(y[k]) and np.isfinite(theta[k])):
            continue
        if not (a[k] > 0.0 and b[k] > 0.0 and a[k] < nx + ny):
            continue
        own = owners[k] if use_segments else np.int32(0)
        cos, sin = np.cos(theta[k]), np.sin(theta[k])
        i_low, i_high, j_low, j_high = _box(x[k], y[k], reach * a[k], reach * b[k], cos, sin)
        mirror_x, mirror_y = int(np.floor(2.0 * x[k] + 0.5)), int(np.floor(2.0 * y[k] + 0.5))
        moment, light = 0.0, 0.0
        for j in range(j_low, j_high + 1):
            for i in range(i_low, i_high + 1):
                dx, dy = i - x[k], j - y[k]
                u, v = (dx * cos + dy * sin) / a[k], (dy * cos - dx * sin) / b[k]
                radius = np.sqrt(u * u + v * v)
                if radius > reach:
                    continue
                i_from, j_from = i, j
                if not _usable(sci, same, mask, i, j, bad_bits, segments, own, use_segments):
                    i_from, j_from = mirror_x - i, mirror_y - j
                    if not _usable(
                        sci, same, mask, i_from, j_from, bad_bits, segments, own, use_segments
                    ):
                        continue
                value = np.float64(sci[j_from, i_from])
                moment += radius * value
                light += value
        if light > 0.0:
            out[k] = moment / light
    return out


@njit(cache=True)
def _own_pixels(ny: Any, nx: Any, x: Any, y: Any, a: Any, b: Any, theta: Any, reach: Any) -> Any:
    owner = np.zeros((ny, nx), np.int32)
    nearest = np.full((ny, nx), np.float32(np.inf))
    for k in range(len(x)):
        if not (np.isfinite(x[k] + y[k] + theta[k]) and a[k] > 0.0 and b[k] > 0.0):
            continue
        cos, sin = np.cos(theta[k]), np.sin(theta[k])
        i_low, i_high, j_low, j_high = _box(x[k], y[k], reach * a[k], reach * b[k], cos, sin)
        for j in range(max(j_low, 0), min(j_high + 1, ny)):
            for i in range(max(i_low, 0), min(i_high + 1, nx)):
                dx, dy = i - x[k], j - y[k]
                u, v = (dx * cos + dy * sin) / a[k], (dy * cos - dx * sin) / b[k]
                distance = np.float32(np.sqrt(u * u + v * v))
                if distance <= reach and distance < nearest[j, i]:
                    nearest[j, i], owner[j, i] = distance, k + 1
    return owner


@njit(cache=True)
def _sum_segments(sci: Any, err: Any, mask: Any, segments: Any, number: Any, bad_bits: Any) -> Any:
    flux, variance = np.zeros(number), np.zeros(number)
    area, lost = np.zeros(number, np.int64), np.zeros(number, np.int64)
    bits = np.zeros(number, np.uint16)
    ny, nx = sci.shape
    for j in range(ny):
        for i in range(nx):
            own = segments[j, i]
            if own <= 0:
                continue
            bits[own] |= mask[j, i]
            value, sigma = np.float64(sci[j, i]), np.float64(err[j, i])
            if (mask[j, i] & bad_bits) != 0 or not (np.isfinite(value) and np.isfinite(sigma)):
                lost[own] += 1
                continue
            flux[own] += value
            variance[own] += sigma * sigma
            area[own] += 1
    return flux, variance, area, lost, bits
