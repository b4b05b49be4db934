"""Filling of bad pixels and the exact star-or-hit test of L.A.Cosmic at single pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["contrast_at", "fill_bad"]

#: A hole is filled from a window of at most this half-width in px.
_REACH_PX = 8


def fill_bad(
    image: NDArray[np.float32], bad: NDArray[np.bool_], fallback: float
) -> NDArray[np.float32]:
    """Replace bad pixels by the median of the good ones around them.

    The window starts at 5 x 5 px and grows until it holds five good pixels.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Not modified.
    bad : ndarray of bool, shape (ny, nx)
        True where the value is to be replaced.
    fallback : float
        Value where no window of up to 17 x 17 px holds five good pixels.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
    """
    return np.asarray(
        _fill(
            np.ascontiguousarray(image, np.float32),
            np.ascontiguousarray(bad, np.bool_),
            np.float32(fallback),
            _REACH_PX,
        )
    )


def contrast_at(
    image: NDArray[np.float32], variance: NDArray[np.float32], at: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return Laplacian over fine structure (S'/F of van Dokkum 2001) at chosen pixels.

    ``S' = S - med5(S)`` with ``S = L / (2 N)`` from the Laplacian ``L`` of the image
    subsampled twice, ``F = (med3(I) - med7(med3(I))) / N``, ``N = sqrt(med5(V))``, all
    medians two-dimensional. Separable medians, as fast programs use them, mistake the
    cores of sharp stars for hits: they are narrower along rows and columns.

    Parameters
    ----------
    image, variance : ndarray of float32, shape (ny, nx)
        Image in electron and its variance, finite everywhere.
    at : ndarray of bool, shape (ny, nx)
        True where the contrast is wanted.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        Zero elsewhere.
    """
    return np.asarray(
        _contrast(
            np.ascontiguousarray(image, np.float32),
            np.ascontiguousarray(variance, np.float32),
            np.ascontiguousarray(at, np.bool_),
        )
    )


@njit(cache=True)
def _fill(image: Any, bad: Any, fallback: Any, furthest: int) -> Any:
    ny, nx = image.shape
    out = image.copy()
    values = np.empty((2 * furthest + 1) ** 2, np.float32)
    for y in range(ny):
        for x in range(nx):
            if not bad[y, x]:
                continue
            out[y, x] = fallback
            for reach in range(2, furthest + 1):
                count = 0
                for j in range(max(0, y - reach), min(ny, y + reach + 1)):
                    for i in range(max(0, x - reach), min(nx, x + reach + 1)):
                        if not bad[j, i]:
                            values[count] = image[j, i]
                            count += 1
                if count >= 5:
                    values[:count].sort()
                    out[y, x] = values[count // 2]
                    break
    return out


@njit(cache=True)
def _at(image: Any, y: int, x: int) -> Any:
    """Value at a pixel, that of the nearest pixel beyond the edge."""
    ny, nx = image.shape
    return image[min(max(y, 0), ny - 1), min(max(x, 0), nx - 1)]


@njit(cache=True)
def _median(image: Any, y: int, x: int, reach: int, values: Any) -> Any:
    count = 0
    for j in range(y - reach, y + reach + 1):
        for i in range(x - reach, x + reach + 1):
            values[count] = _at(image, j, i)
            count += 1
    values[:count].sort()
    return values[count // 2]


@njit(cache=True)
def _laplacian(image: Any, y: int, x: int) -> Any:
    """Positive part of the Laplacian of the twice subsampled image, averaged back."""
    c = 2.0 * _at(image, y, x)
    n, s = _at(image, y - 1, x), _at(image, y + 1, x)
    w, e = _at(image, y, x - 1), _at(image, y, x + 1)
    total = max(c - n - w, 0.0) + max(c - n - e, 0.0) + max(c - s - w, 0.0) + max(c - s - e, 0.0)
    return 0.25 * total


@njit(cache=True)
def _contrast(image: Any, variance: Any, at: Any) -> Any:
    ny, nx = image.shape
    out = np.zeros((ny, nx), np.float32)
    values = np.empty(49, np.float32)
    smooth = np.empty((7, 7), np.float32)
    signal = np.empty((5, 5), np.float32)
    for y in range(ny):
        for x in range(nx):
            if not at[y, x]:
                continue
            for j in range(5):
                for i in range(5):
                    yy, xx = y + j - 2, x + i - 2
                    noise = np.sqrt(max(_median(variance, yy, xx, 2, values), 1e-5))
                    signal[j, i] = _laplacian(image, yy, xx) / (2.0 * noise)
            for j in range(7):
                for i in range(7):
                    smooth[j, i] = _median(image, y + j - 3, x + i - 3, 1, values)
            noise = np.sqrt(max(_median(variance, y, x, 2, values), 1e-5))
            excess = signal[2, 2] - _median(signal, 2, 2, 2, values)
            fine = (smooth[3, 3] - _median(smooth, 3, 3, 3, values)) / noise
            out[y, x] = excess / max(fine, 0.01)
    return out
