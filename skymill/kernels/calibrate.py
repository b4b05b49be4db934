"""Raw pixels to electrons with error and mask, in one pass.

With ``m = R - O - B``, ``A = f(m)``, ``m_D = d - B``, ``D = f(m_D)`` and
``I = (A - tau D)/F`` (ADU):

``V_I = [max(A, 0)/g + f'(m)^2 (q + V_O) + (f'(m) - tau f'(m_D))^2 v_B
+ tau^2 f'(m_D)^2 v_d] / F^2 + I^2 v_F / F^2``

``E = g I``, ``err = g sqrt(V_I)``. The bias enters science frame and dark with opposite
signs, hence the square of a difference; the flat's error goes with the corrected value
``I``; the photons are counted in linear ADU, so ``f'`` does not touch their term.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import float32, float64, int64, njit, types, uint16

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Bits", "Planes", "calibrate_pixels"]


class Bits(NamedTuple):
    """Mask bits that calibration sets."""

    no_data: int
    saturated: int
    not_linear: int
    bad_flat: int


class Planes(NamedTuple):
    """What calibration makes, each of shape (ny, nx)."""

    sci: NDArray[np.float32]
    err: NDArray[np.float32]
    mask: NDArray[np.uint16]

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Planes:
        """Planes whose values are not set yet."""
        return cls(
            np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.uint16)
        )


def calibrate_pixels(
    raw: NDArray[Any],
    level: NDArray[np.float64],
    level_variance: NDArray[np.float64],
    *,
    gain: float,
    quiet_variance: float,
    saturation: float,
    linear_max: float,
    tau: float = 0.0,
    bias: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    dark: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    flat: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    linearity: tuple[NDArray[np.float64], float] | None = None,
    inherited: NDArray[np.uint16] | None = None,
    bits: Bits | tuple[int, int, int, int],
    out: Planes | None = None,
    corner: tuple[int, int] = (0, 0),
) -> Planes:
    """Calibrate the pixels of one amplifier.

    Parameters
    ----------
    raw : ndarray of uint16 or float, shape (ny, nx)
        Trimmed raw image (ADU), a view of any strides.
    level, level_variance : ndarray of float64, shape (ny or 1, nx or 1)
        Overscan level (ADU) and its variance (ADU^2).
    gain : float
        Electron/ADU.
    quiet_variance : float
        Read noise and rounding (ADU^2).
    saturation, linear_max : float
        Raw values at or above the first are saturated, above the second not linear.
    tau : float
        Exposure of the frame over that of the dark.
    bias, dark, flat : tuple of (value, standard error), each float32, optional
        Masters of the shape of the planes; the dark holds the bias and is not linearised.
    linearity : tuple of (values, step), optional
        Linear ADU at the measured signals ``0, step, 2 step ...`` ADU.
    inherited : ndarray of uint16, of the shape of the planes, optional
        Bits that are set from the start.
    bits : Bits
        Mask bits for no data, saturated, not linear, and bad flat.
    out : Planes, optional
        Planes of the whole frame to write a part of; new ones of shape (ny, nx) if absent.
    corner : tuple of int
        First row and column of ``raw`` on the planes and masters.

    Returns
    -------
    Planes
        ``sci`` and ``err`` in electron, NaN where the raw value, a master or its error
        is not finite or the flat is not positive; ``mask``.
    """
    if raw.dtype not in (np.uint16, np.float32):
        raw = raw.astype(np.float32)
    out = out or Planes.empty((raw.shape[0], raw.shape[1]))
    # one row stands for a plane of equal values
    zero = np.zeros((1, out.sci.shape[1]), np.float32)
    none = (zero, zero)
    values, step = linearity or (np.zeros(0), 1.0)
    seed = np.zeros(zero.shape, np.uint16) if inherited is None else inherited
    tau = tau if dark else 0.0
    scalars = np.array([gain, quiet_variance, saturation, linear_max, tau, step], np.float64)
    _compiled(raw.dtype.newbyteorder("=").str)(
        _locked(raw, contiguous=False), _locked(level), _locked(level_variance), scalars,
        _locked(values), *(_locked(plane, np.float32) for plane in bias or none),
        *(_locked(plane, np.float32) for plane in dark or none),
        *(_locked(plane, np.float32) for plane in flat or (zero + np.float32(1), zero)),
        _locked(seed), np.array(bits, np.uint16), np.array(corner, np.int64), *out,
    )  # fmt: skip
    return out


def _locked(plane: NDArray[Any], dtype: Any = None, *, contiguous: bool = True) -> NDArray[Any]:
    """A read-only view in native byte order: the kernel then has one signature only."""
    native = np.asarray(plane, dtype or plane.dtype.newbyteorder("="))
    view = (np.ascontiguousarray(native) if contiguous else native).view()
    view.flags.writeable = False
    return view


@cache
def _compiled(kind: str) -> Callable[..., None]:
    """The loop over rows for one type of raw pixels."""

    def read(scalar: Any, axes: int, layout: str = "C") -> Any:
        return types.Array(scalar, axes, layout, readonly=True)

    pixel = uint16 if np.dtype(kind) == np.uint16 else float32
    signature = types.void(
        read(pixel, 2, "A"), read(float64, 2), read(float64, 2), float64[::1], read(float64, 1),
        *[read(float32, 2)] * 6, read(uint16, 2), uint16[::1], int64[::1],
        float32[:, ::1], float32[:, ::1], uint16[:, ::1],
    )  # fmt: skip
    compiled: Callable[..., None] = njit(signature, cache=True, error_model="numpy")(_rows)
    return compiled


def _rows(
    raw: Any, level: Any, level_variance: Any, scalars: Any, knots: Any,
    bias: Any, bias_err: Any, dark: Any, dark_err: Any, flat: Any, flat_err: Any,
    inherited: Any, bits: Any, corner: Any, sci: Any, err: Any, mask: Any,
) -> None:  # fmt: skip
    """Calibrate row by row, each in short loops over lines that stay in the cache."""
    gain, quiet, saturation, linear_max, tau, step = scalars
    y0, x0 = corner
    ny, nx = raw.shape
    x1 = x0 + nx
    pixel, linear, charge = np.empty(nx), np.empty(nx), np.empty(nx)
    value, variance, reciprocal = np.empty(nx), np.empty(nx), np.empty(nx)
    steep, dark_steep, noise = np.ones(nx), np.full(nx, tau), np.empty(nx)
    for y in range(ny):
        at = y0 + y
        b = bias[min(at, len(bias) - 1), x0:x1]
        _read(raw[y], pixel)
        _subtract(pixel, level[min(y, len(level) - 1)], b, linear)
        _quiet(level_variance[min(y, len(level_variance) - 1)], quiet, noise)
        if tau != 0.0:
            _difference(dark[min(at, len(dark) - 1), x0:x1], b, charge)
        if len(knots) > 0:
            _linearise(linear, steep, knots, step, 1.0)
            if tau != 0.0:
                _linearise(charge, dark_steep, knots, step, tau)
        _invert(flat[min(at, len(flat) - 1), x0:x1], reciprocal)
        if tau != 0.0:
            _without_dark(linear, charge, tau, reciprocal, value)
        else:
            _multiply(linear, reciprocal, value)
        _independent(linear, 1.0 / gain, steep, noise, variance)
        _shared(steep, dark_steep, bias_err[min(at, len(bias_err) - 1), x0:x1], variance)
        if tau != 0.0:
            _scaled(dark_steep, dark_err[min(at, len(dark_err) - 1), x0:x1], variance)
        _scaled(value, flat_err[min(at, len(flat_err) - 1), x0:x1], variance)
        _electrons(value, variance, gain, sci[at, x0:x1])
        _error(value, variance, reciprocal, gain, err[at, x0:x1])
        seed = inherited[min(at, len(inherited) - 1), x0:x1]
        _judge(pixel, saturation, linear_max, seed, bits, mask[at, x0:x1])
        _judge_value(sci[at, x0:x1], reciprocal, bits, mask[at, x0:x1])


#: Values (ADU) and variances beyond it are no measurements; times a gain they overflow float32.
LARGEST = 1e30


@njit(cache=True)
def _read(raw: Any, out: Any) -> None:
    for x in range(len(out)):
        out[x] = np.float64(raw[x])


@njit(cache=True, error_model="numpy")
def _invert(flat: Any, out: Any) -> None:
    """1/F, or NaN where the flat is not a positive number."""
    for x in range(len(out)):
        f = np.float64(flat[x])
        out[x] = 1.0 / f if (f > 1.0 / LARGEST) & (f < np.inf) else np.nan


@njit(cache=True)
def _subtract(pixel: Any, level: Any, bias: Any, out: Any) -> None:
    if len(level) == 1:
        one = level[0]
        for x in range(len(out)):
            out[x] = pixel[x] - one - np.float64(bias[x])
    else:
        for x in range(len(out)):
            out[x] = pixel[x] - level[x] - np.float64(bias[x])


@njit(cache=True)
def _quiet(level_variance: Any, quiet: Any, out: Any) -> None:
    if len(level_variance) == 1:
        out[:] = quiet + level_variance[0]
    else:
        for x in range(len(out)):
            out[x] = quiet + level_variance[x]


@njit(cache=True)
def _difference(dark: Any, bias: Any, out: Any) -> None:
    for x in range(len(out)):
        out[x] = np.float64(dark[x]) - np.float64(bias[x])


@njit(cache=True, error_model="numpy")
def _linearise(signal: Any, slope: Any, knots: Any, step: Any, factor: Any) -> None:
    """Measured to linear signal in place, and the slope there times a factor."""
    last = len(knots) - 2
    for x in range(len(signal)):
        position = signal[x] / step
        # also a signal that is not a number needs a place
        k = int(min(max(position, 0.0), np.float64(last))) if abs(position) < np.inf else 0
        rise = knots[k + 1] - knots[k]
        slope[x] = rise / step * factor
        signal[x] = knots[k] + (position - k) * rise


@njit(cache=True)
def _without_dark(linear: Any, charge: Any, tau: Any, reciprocal: Any, out: Any) -> None:
    for x in range(len(out)):
        out[x] = (linear[x] - tau * charge[x]) * reciprocal[x]


@njit(cache=True)
def _multiply(linear: Any, reciprocal: Any, out: Any) -> None:
    for x in range(len(out)):
        out[x] = linear[x] * reciprocal[x]


@njit(cache=True)
def _independent(linear: Any, inverse_gain: Any, steep: Any, noise: Any, out: Any) -> None:
    """Photons, and what the electronics add."""
    for x in range(len(out)):
        out[x] = max(linear[x], 0.0) * inverse_gain + steep[x] * steep[x] * noise[x]


@njit(cache=True)
def _shared(steep: Any, dark_steep: Any, bias_err: Any, out: Any) -> None:
    """The bias enters the frame and its dark with opposite signs."""
    for x in range(len(out)):
        one = (steep[x] - dark_steep[x]) * np.float64(bias_err[x])
        out[x] += one * one


@njit(cache=True)
def _scaled(factor: Any, error: Any, out: Any) -> None:
    for x in range(len(out)):
        one = factor[x] * np.float64(error[x])
        out[x] += one * one


@njit(cache=True)
def _electrons(value: Any, variance: Any, gain: Any, out: Any) -> None:
    for x in range(len(out)):
        known = (abs(value[x]) < LARGEST) & (variance[x] < LARGEST)
        out[x] = np.float32(value[x] * gain if known else np.nan)


@njit(cache=True)
def _error(value: Any, variance: Any, reciprocal: Any, gain: Any, out: Any) -> None:
    for x in range(len(out)):
        known = (abs(value[x]) < LARGEST) & (variance[x] < LARGEST)
        scale = np.float32(gain * reciprocal[x])
        out[x] = scale * np.sqrt(np.float32(variance[x])) if known else np.float32(np.nan)


@njit(cache=True)
def _judge(pixel: Any, saturation: Any, linear_max: Any, seed: Any, bits: Any, out: Any) -> None:
    """Bits that the raw value decides."""
    saturated, not_linear = bits[1], bits[2]
    for x in range(len(out)):
        bit = not_linear if pixel[x] > linear_max else np.uint16(0)
        out[x] = seed[x] | (saturated if pixel[x] >= saturation else bit)


@njit(cache=True)
def _judge_value(sci: Any, reciprocal: Any, bits: Any, out: Any) -> None:
    no_data, bad_flat = bits[0], bits[3]
    for x in range(len(out)):
        bit = no_data if sci[x] != sci[x] else np.uint16(0)
        out[x] |= bit | (bad_flat if reciprocal[x] != reciprocal[x] else np.uint16(0))
