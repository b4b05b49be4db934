"""Noise of the empty sky at every pixel, and medians of planes of positive numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["positive_median", "sky_noise", "subtract_sky", "variance_slope"]


def subtract_sky(
    sci: NDArray[np.float32],
    err: NDArray[np.float32],
    mask: NDArray[np.uint16],
    level: NDArray[np.float32],
    hiding_bits: int,
    bad_bits: int,
) -> tuple[Any, Any, Any, Any, Any]:
    """Subtract the level, and tell which pixels serve what.

    Parameters
    ----------
    sci, err, mask : ndarray, shape (ny, nx)
        Image, one-sigma error and mask.
    level : ndarray of float32, shape (ny, nx)
        What is subtracted.
    hiding_bits, bad_bits : int
        Bits that hide a pixel from detection, and that disqualify it.

    Returns
    -------
    signal, error : ndarray of float32, shape (ny, nx)
        0 and 1 where image or error is not finite or the error not positive.
    hidden, bad, lost : ndarray of bool, shape (ny, nx)
        Pixels without signal or with a hiding bit; those and all with a disqualifying bit;
        pixels with a disqualifying bit, or image or error not finite.
    """
    found: tuple[Any, Any, Any, Any, Any] = _subtract(sci, err, mask, level, hiding_bits, bad_bits)
    return found


def variance_slope(
    signal: NDArray[np.float32],
    error: NDArray[np.float32],
    rms: NDArray[np.float32],
    lost: NDArray[np.bool_],
    step: int,
) -> float:
    """Return the slope of the variance against the signal of the sky, electron^2 per electron.

    Every ``step``-th pixel in x and y within 3 ``rms`` of the sky counts, if its variance is
    below four times the median one: a few pixels with errors of their own do not rule.

    Returns
    -------
    float
        NaN without pixels or without spread.
    """
    light, noise, scatter, bad = (
        np.ascontiguousarray(plane[::step, ::step]) for plane in (signal, error, rms, lost)
    )
    out = _far(light, scatter, bad)
    low, high = _middle(noise.reshape(-1), out.reshape(-1))
    return float(_slope(light, noise, out, 2.0 * (float(low) ** 2 + float(high) ** 2)))


def sky_noise(
    signal: NDArray[np.float32], error: NDArray[np.float32], rms: NDArray[np.float32], slope: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Take a pixel's own excess out of its variance; at least half of ``rms`` is left.

    Returns
    -------
    noise, ratio : ndarray of float32, shape (ny, nx)
        One-sigma noise, and ``rms`` over it.
    """
    found: tuple[NDArray[np.float32], NDArray[np.float32]] = _noise(
        signal, error, rms, np.float32(slope)
    )
    return found


def positive_median(plane: NDArray[np.float32], left_out: NDArray[np.bool_]) -> float:
    """Return the median of the numbers >= 0 of a plane, without those left out.

    Parameters
    ----------
    plane : ndarray of float32, shape (ny, nx)
        Values; the bits of numbers that are not negative have the order of the numbers.
    left_out : ndarray of bool, shape (ny, nx)
        Pixels that do not count.

    Returns
    -------
    float
        NaN if nothing is left.
    """
    low, high = _middle(plane.reshape(-1), left_out.reshape(-1))
    return float(np.float32(0.5) * (low + high))


@njit(cache=True, nogil=True)
def _subtract(sci: Any, err: Any, mask: Any, level: Any, hiding: Any, disqualifying: Any) -> Any:
    ny, nx = sci.shape
    signal, error = np.empty((ny, nx), np.float32), np.empty((ny, nx), np.float32)
    hidden, bad = np.empty((ny, nx), np.bool_), np.empty((ny, nx), np.bool_)
    lost = np.empty((ny, nx), np.bool_)
    hides, spoils = np.uint16(hiding), np.uint16(disqualifying)
    for y in range(ny):
        for x in range(nx):
            s, e, bits = sci[y, x], err[y, x], mask[y, x]
            # s - s is 0 for finite numbers only
            known = (s - s == 0) & (e - e == 0)
            there = known & (e > 0)
            signal[y, x] = s - level[y, x] if there else np.float32(0)
            error[y, x] = e if there else np.float32(1)
            hid, spoilt = (bits & hides) != 0, (bits & spoils) != 0
            hidden[y, x] = hid | (not there)
            bad[y, x] = hid | spoilt | (not there)
            lost[y, x] = spoilt | (not known)
    return signal, error, hidden, bad, lost


@njit(cache=True, nogil=True)
def _far(signal: Any, rms: Any, lost: Any) -> Any:
    """Return the pixels that are no sky."""
    ny, nx = signal.shape
    out = np.empty((ny, nx), np.bool_)
    for y in range(ny):
        for x in range(nx):
            near = abs(signal[y, x]) < np.float32(3) * rms[y, x]
            out[y, x] = lost[y, x] | (not near)
    return out


@njit(cache=True, nogil=True)
def _slope(signal: Any, error: Any, out: Any, most: Any) -> Any:
    n, sx, sy = 0, 0.0, 0.0
    ny, nx = signal.shape
    for y in range(ny):
        for x in range(nx):
            variance = np.float64(error[y, x]) * np.float64(error[y, x])
            if not out[y, x] and variance < most:
                n += 1
                sx += signal[y, x]
                sy += variance
    if n == 0:
        return np.nan
    mx, my = sx / n, sy / n
    xx, xy = 0.0, 0.0
    for y in range(ny):
        for x in range(nx):
            variance = np.float64(error[y, x]) * np.float64(error[y, x])
            if not out[y, x] and variance < most:
                u = signal[y, x] - mx
                xx += u * u
                xy += u * (variance - my)
    return xy / xx if xx > 0.0 else np.nan


@njit(cache=True, nogil=True)
def _noise(signal: Any, error: Any, rms: Any, slope: Any) -> Any:
    ny, nx = signal.shape
    noise, ratio = np.empty((ny, nx), np.float32), np.empty((ny, nx), np.float32)
    for y in range(ny):
        for x in range(nx):
            e, r = error[y, x], rms[y, x]
            floor = max(np.float32(0.25) * r * r, np.float32(1e-12))
            value = np.sqrt(max(e * e - slope * signal[y, x], floor))
            noise[y, x] = value
            ratio[y, x] = r / value
    return noise, ratio


@njit(cache=True, nogil=True)
def _middle(values: Any, left_out: Any) -> Any:
    """Return the two values in the middle, by counting the upper and the lower half of bits."""
    bits = values.view(np.uint32)
    counts = np.zeros(65536, np.int64)
    n = 0
    for i in range(len(bits)):
        keep = not left_out[i]
        counts[bits[i] >> np.uint32(16)] += keep
        n += keep
    if n == 0:
        return np.float32(np.nan), np.float32(np.nan)
    found = np.zeros(2, np.uint32)
    lower = np.zeros(65536, np.int64)
    last = -1
    for which in range(2):
        rank = (n - 1 + which) // 2
        upper, before = 0, 0
        while before + counts[upper] <= rank:
            before += counts[upper]
            upper += 1
        if upper != last:
            lower[:] = 0
            for i in range(len(bits)):
                if bits[i] >> np.uint32(16) == upper and not left_out[i]:
                    lower[bits[i] & np.uint32(65535)] += 1
            last = upper
        rest = 0
        while before + lower[rest] <= rank:
            before += lower[rest]
            rest += 1
        found[which] = np.uint32(upper) << np.uint32(16) | np.uint32(rest)
    both = found.view(np.float32)
    return both[0], both[1]
