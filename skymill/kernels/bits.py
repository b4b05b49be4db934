"""Mask bits of whole planes, and figures of the pixels without them, in one pass each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from skymill.kernels.order_statistics import sort_values

__all__ = ["count_bits", "flagged", "sample_quantiles", "unexplained", "with_no_data"]


@njit(cache=True, nogil=True)
def count_bits(mask: Any, bits: Any) -> Any:
    """Return how many pixels have one of the bits.

    Parameters
    ----------
    mask : ndarray of uint16, shape (ny, nx)
        Mask.
    bits : uint16
        Bits.
    """
    count = 0
    for y in range(mask.shape[0]):
        row, found = mask[y], 0
        for x in range(row.size):
            found += (row[x] & bits) != 0
        count += found
    return count


@njit(cache=True, nogil=True)
def flagged(mask: Any, bits: Any) -> Any:
    """Return True where one of the bits is set; parameters as for `count_bits`."""
    out = np.empty(mask.shape, np.bool_)
    for y in range(mask.shape[0]):
        row, line = mask[y], out[y]
        for x in range(row.size):
            line[x] = (row[x] & bits) != 0
    return out


@njit(cache=True, nogil=True)
def with_no_data(sci: Any, err: Any, mask: Any, no_data: Any) -> Any:
    """Return the mask with a bit set where signal or error is not finite, or the error not > 0.

    Parameters
    ----------
    sci, err : ndarray of float32, shape (ny, nx)
        Signal and error.
    mask : ndarray of uint16, shape (ny, nx)
        Mask. Not modified.
    no_data : uint16
        The bit.
    """
    out = np.empty(mask.shape, np.uint16)
    for y in range(mask.shape[0]):
        s, e, m, line = sci[y], err[y], mask[y], out[y]
        for x in range(m.size):
            valid = (s[x] - s[x] == 0) & (e[x] - e[x] == 0) & (e[x] > 0)
            line[x] = m[x] if valid else m[x] | no_data
    return out


@njit(cache=True, nogil=True)
def unexplained(sci: Any, err: Any, mask: Any) -> Any:
    """Return what must not be in a product.

    Parameters
    ----------
    sci, err : ndarray of float32, shape (ny, nx)
        Signal and error.
    mask : ndarray of uint16, shape (ny, nx)
        Mask.

    Returns
    -------
    blank : int
        Pixels whose signal or error is not finite though their mask is 0.
    first : int
        The first of them, counted along the rows; -1 without any.
    wrong : int
        Errors that are not positive.
    """
    ny, nx = sci.shape
    blank, first, wrong = 0, -1, 0
    for y in range(ny):
        s, e, m = sci[y], err[y], mask[y]
        lost, low = 0, 0
        for x in range(nx):
            # x - x is 0 for finite numbers only
            odd = (s[x] - s[x] != 0) | (e[x] - e[x] != 0)
            lost += odd & (m[x] == 0)
            low += e[x] <= 0
        wrong += low
        blank += lost
        if lost and first < 0:
            for x in range(nx):
                if m[x] == 0 and (s[x] - s[x] != 0 or e[x] - e[x] != 0):
                    first = y * nx + x
                    break
    return blank, first, wrong


@njit(cache=True, nogil=True)
def _quantile(ordered: Any, q: Any) -> Any:
    """Quantile of ordered values, interpolated as numpy does it."""
    at = q * (ordered.size - 1)
    k = min(int(at), ordered.size - 1)
    low, high = np.float64(ordered[k]), np.float64(ordered[min(k + 1, ordered.size - 1)])
    part = at - k
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)


@njit(cache=True, nogil=True)
def sample_quantiles(sci: Any, err: Any, mask: Any, bad: Any, step: Any, parts: Any) -> Any:
    """Return quantiles of the signal of every ``step``-th pixel, and the median of their errors.

    Parameters
    ----------
    sci, err : ndarray of float32, shape (n,)
        Signal and error, finite where the mask is good.
    mask : ndarray of uint16, shape (n,)
        Mask.
    bad : uint16
        Bits of pixels to leave out; if no other pixel is in the sample, all are looked at.
    step : int
        Distance of the pixels.
    parts : ndarray of float64, shape (k,)
        Which quantiles, in ascending order.

    Returns
    -------
    quantiles : ndarray of float64, shape (k,)
        Between two values interpolated; NaN without good pixels.
    median_err : float
    """
    light, noise = np.empty(0, np.float32), np.empty(0, np.float32)
    n = 0
    for stride in (step, 1):
        if n == 0:
            light = np.empty(sci.size // stride + 1, np.float32)
            noise = np.empty(sci.size // stride + 1, np.float32)
            for i in range(0, sci.size, stride):
                light[n], noise[n] = sci[i], err[i]
                n += (mask[i] & bad) == 0
    out = np.full(parts.size, np.nan)
    if n == 0:
        return out, np.nan
    sort_values(light[:n])
    sort_values(noise[:n])
    for k in range(parts.size):
        out[k] = _quantile(light[:n], parts[k])
    return out, _quantile(noise[:n], 0.5)
