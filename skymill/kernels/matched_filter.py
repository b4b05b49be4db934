"""Matched filter of an image with noise: kernels that are sums of separable ones.

A Gaussian is the product of two profiles, and so is its square; a Gaussian less its mean is
that and a constant. So every sum over a kernel is a sum along y and one along x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["matched_filter", "smooth_runs"]


def matched_filter(
    data: NDArray[np.float32],
    noise: NDArray[np.float32],
    mask: NDArray[np.bool_],
    profile: NDArray[np.float64],
    offset: float = 0.0,
) -> NDArray[np.float32]:
    """Filter an image with the kernel ``k = profile x profile - offset``.

    Parameters
    ----------
    data, noise : ndarray of float32, shape (ny, nx)
        Image and one-sigma noise.
    mask : ndarray of bool, shape (ny, nx)
        True is left out; so is what lies beyond the edges.
    profile : ndarray of float64
        Symmetric profile of odd length.
    offset : float
        What is taken from every pixel of the kernel.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        ``sum(k d / s**2) / sqrt(sum(k**2 / s**2))``; 0 where no pixel is left.
    """
    kernel, weights = _terms(profile, offset)
    if offset:
        # (g - m)^2 = g^2 - 2 m g + m^2
        square = np.stack([kernel[0] ** 2, kernel[0], kernel[1]])
        squares = np.array([1.0, -2.0 * offset, offset * offset])
    else:
        square, squares = kernel**2, np.ones(1)
    return np.asarray(
        _matched(
            np.ascontiguousarray(data, np.float32),
            np.ascontiguousarray(noise, np.float32),
            np.ascontiguousarray(mask, np.bool_),
            kernel, weights, square, squares,
        )
    )  # fmt: skip


def smooth_runs(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    runs: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]],
    profile: NDArray[np.float64],
    offset: float = 0.0,
) -> NDArray[np.float32]:
    """Convolve an image with the kernel of `matched_filter` at some pixels only.

    Parameters
    ----------
    data, mask, profile, offset
        As for `matched_filter`; what is left out counts as zero.
    runs : tuple of ndarray of int32
        Row, first pixel and pixel after the last one of the runs of pixels that are wanted.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        ``sum(k d) / sum(abs(k))`` at the pixels of the runs; nothing is said of the others.
    """
    kernel, weights = _terms(profile, offset)
    norm = float(np.abs(np.outer(profile, profile) - offset).sum())
    return np.asarray(
        _smooth(
            np.ascontiguousarray(data, np.float32), np.ascontiguousarray(mask, np.bool_),
            *runs, kernel, weights / norm,
        )
    )  # fmt: skip


def _terms(
    profile: NDArray[np.float64], offset: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Profiles whose squares, with these weights, add up to the kernel."""
    line = np.ascontiguousarray(profile, np.float64)
    if not offset:
        return line[None], np.ones(1)
    return np.stack([line, np.ones_like(line)]), np.array([1.0, -offset])


@njit(cache=True, nogil=True)
def _along(lines: Any, first: Any, taps: Any, out: Any) -> None:
    """Sum the rows of a ring with symmetric taps; row ``first`` of the ring is the upper one."""
    size, n = lines.shape
    reach = size // 2
    middle, tap = lines[(first + reach) % size], taps[reach]
    for x in range(n):
        out[x] = tap * middle[x]
    for t in range(reach):
        one, two, tap = lines[(first + t) % size], lines[(first + size - 1 - t) % size], taps[t]
        for x in range(n):
            out[x] += tap * (one[x] + two[x])


@njit(cache=True, nogil=True)
def _across(line: Any, taps: Any, weight: Any, out: Any) -> None:
    """Add ``weight`` times the sum of a padded line with symmetric taps."""
    n, reach = len(out), len(taps) // 2
    middle, tap = line[reach : reach + n], weight * taps[reach]
    for x in range(n):
        out[x] += tap * middle[x]
    for t in range(reach):
        one, two = line[t : t + n], line[2 * reach - t : 2 * reach - t + n]
        tap = weight * taps[t]
        for x in range(n):
            out[x] += tap * (one[x] + two[x])


@njit(cache=True, nogil=True)
def _sum_terms(lines: Any, first: Any, taps: Any, weights: Any, work: Any, out: Any) -> None:
    out[:] = 0.0
    for term in range(len(weights)):
        _along(lines, first, taps[term], work)
        _across(work, taps[term], weights[term], out)


@njit(cache=True, nogil=True)
def _matched(
    data: Any, noise: Any, mask: Any, kernel: Any, weights: Any, square: Any, squares: Any
) -> Any:
    ny, nx = data.shape
    size = kernel.shape[1]
    reach = size // 2
    snr = np.empty((ny, nx), np.float32)
    weighted = np.zeros((size, nx + 2 * reach))
    weight = np.zeros_like(weighted)
    work = np.zeros(nx + 2 * reach)
    top, below = np.empty(nx), np.empty(nx)
    for y in range(ny + reach):
        row = y % size
        to_weighted, to_weight = weighted[row, reach : reach + nx], weight[row, reach : reach + nx]
        if y < ny:
            values, errors, lost = data[y], noise[y], mask[y]
            for x in range(nx):
                error = np.float64(errors[x])
                inverse = 0.0 if lost[x] else 1.0 / (error * error)
                value = 0.0 if lost[x] else np.float64(values[x])
                to_weighted[x], to_weight[x] = value * inverse, inverse
        else:
            to_weighted[:], to_weight[:] = 0.0, 0.0
        if y < reach:
            continue
        # the oldest row of the ring is the upper end of the kernel
        first = (y + 1) % size
        _sum_terms(weighted, first, kernel, weights, work, top)
        _sum_terms(weight, first, square, squares, work, below)
        out = snr[y - reach]
        for x in range(nx):
            there = below[x] > 0.0
            root = np.sqrt(below[x] if there else 1.0)
            out[x] = np.float32(top[x] / root if there else 0.0)
    return snr


@njit(cache=True, nogil=True)
def _smooth(
    data: Any, mask: Any, ys: Any, starts: Any, ends: Any, kernel: Any, weights: Any
) -> Any:
    ny, nx = data.shape
    size = kernel.shape[1]
    reach = size // 2
    out = np.empty((ny, nx), np.float32)
    column, total = np.empty(nx), np.empty(nx)
    for r in range(len(ys)):
        y, start, end = ys[r], starts[r], ends[r]
        left, right = max(start - reach, 0), min(end + reach, nx)
        total[start:end] = 0.0
        for term in range(len(weights)):
            taps = kernel[term]
            column[left:right] = 0.0
            for t in range(max(0, reach - y), min(size, ny + reach - y)):
                values, lost = data[y + t - reach], mask[y + t - reach]
                for x in range(left, right):
                    column[x] += 0.0 if lost[x] else taps[t] * values[x]
            for x in range(start, end):
                inside = 0.0
                for t in range(max(0, reach - x), min(size, nx + reach - x)):
                    inside += taps[t] * column[x + t - reach]
                total[x] += weights[term] * inside
        for x in range(start, end):
            out[y, x] = total[x]
    return out
