"""Raw pixels to electrons with error and mask, in one pass.

With ``A = R - O - B``, ``D = d - B``, ``I = (A - tau D)/F`` (ADU):

``V_I = [max(A, 0)/g + q + V_O + (1 - tau)^2 v_B + tau^2 v_d] / F^2 + I^2 v_F / F^2``

``E = g I``, ``err = g sqrt(V_I)``. The bias enters science frame and dark with opposite
signs, hence ``(1 - tau)^2``; the flat's error goes with the corrected value ``I``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["calibrate_pixels"]


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
    inherited: NDArray[np.uint16] | None = None,
    bits: tuple[int, int, int, int],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint16]]:
    """Calibrate the pixels of one frame.

    Parameters
    ----------
    raw : ndarray of uint16 or float, shape (ny, nx)
        Trimmed raw image (ADU).
    level, level_variance : ndarray of float64, shape (ny,)
        Overscan level of each row (ADU) and its variance (ADU^2).
    gain : float
        Electron/ADU.
    quiet_variance : float
        Read noise and rounding (ADU^2).
    saturation, linear_max : float
        Raw values at or above the first are saturated, above the second not linear.
    tau : float
        Exposure of the frame over that of the dark.
    bias, dark, flat : tuple of (value, standard error), each (ny, nx) float32, optional
        Masters; the dark holds the bias.
    inherited : ndarray of uint16, shape (ny, nx), optional
        Bits that are set from the start.
    bits : tuple of int
        Mask bits for no data, saturated, not linear, and bad flat.

    Returns
    -------
    sci, err : ndarray of float32, shape (ny, nx)
        Electron. NaN where the raw value, a master or its error is not finite, or the
        flat is not positive.
    mask : ndarray of uint16, shape (ny, nx)
    """
    ny, nx = raw.shape
    if raw.dtype not in (np.uint16, np.float32):
        raw = raw.astype(np.float32)
    zero, one = _constant(0.0, nx), _constant(1.0, nx)
    b, b_err = _planes(bias, zero)
    d, d_err = _planes(dark, zero)
    f, f_err = _planes(flat, zero)
    if flat is None:
        f = one
    mask = np.zeros((ny, nx), np.uint16) if inherited is None else inherited.copy()
    sci, err = np.empty((ny, nx), np.float32), np.empty((ny, nx), np.float32)
    scalars = np.array([gain, quiet_variance, saturation, linear_max, tau], np.float64)
    _calibrate(
        _locked(raw), level, level_variance, scalars, dark is not None,
        b, b_err, d, d_err, f, f_err, np.array(bits, np.uint16), sci, err, mask,
    )  # fmt: skip
    return sci, err, mask


def _locked(plane: NDArray[Any]) -> NDArray[Any]:
    """A contiguous read-only view: the kernel then has one signature only."""
    view = np.ascontiguousarray(plane).view()
    view.flags.writeable = False
    return view


def _constant(value: float, nx: int) -> NDArray[np.float32]:
    return _locked(np.full((1, nx), value, np.float32))


def _planes(
    pair: tuple[NDArray[np.float32], NDArray[np.float32]] | None, zero: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if pair is None:
        return zero, zero
    return _locked(pair[0].astype(np.float32, copy=False)), _locked(
        pair[1].astype(np.float32, copy=False)
    )


@njit(cache=True)
def _calibrate(
    raw: Any,
    level: Any,
    level_variance: Any,
    scalars: Any,
    has_dark: Any,
    bias: Any,
    bias_err: Any,
    dark: Any,
    dark_err: Any,
    flat: Any,
    flat_err: Any,
    bits: Any,
    sci: Any,
    err: Any,
    mask: Any,
) -> Any:
    """Planes of one row stand for a constant."""
    gain, quiet, saturation, linear_max, tau = scalars
    no_data, saturated, not_linear, bad_flat = bits
    of_bias = 1.0 - tau if has_dark else 1.0
    of_dark = tau if has_dark else 0.0
    shared_bias, shared_dark = of_bias * of_bias, of_dark * of_dark
    inverse_gain = 1.0 / gain
    for y in range(raw.shape[0]):
        b, b_err = bias[min(y, len(bias) - 1)], bias_err[min(y, len(bias_err) - 1)]
        d, d_err = dark[min(y, len(dark) - 1)], dark_err[min(y, len(dark_err) - 1)]
        f, f_err = flat[min(y, len(flat) - 1)], flat_err[min(y, len(flat_err) - 1)]
        offset, floor = level[y], quiet + level_variance[y]
        for x in range(raw.shape[1]):
            r = np.float64(raw[y, x])
            above = r - offset
            charge = above - b[x]
            sensitivity = np.float64(f[x])
            reciprocal = 1.0 / sensitivity if sensitivity > 0.0 else np.nan
            value = (above - of_bias * b[x] - of_dark * d[x]) * reciprocal
            eb, ed, ef = np.float64(b_err[x]), np.float64(d_err[x]), np.float64(f_err[x])
            variance = max(charge, 0.0) * inverse_gain + floor
            variance += shared_bias * eb * eb + shared_dark * ed * ed
            variance += value * value * ef * ef
            bit = mask[y, x]
            good_flat = sensitivity > 0.0 and sensitivity < np.inf
            known = abs(value) < np.inf and variance < np.inf
            if r >= saturation:
                bit |= saturated
            elif r > linear_max:
                bit |= not_linear
            if not good_flat:
                bit |= bad_flat
            if not known or not good_flat:
                bit |= no_data
                sci[y, x] = np.nan
                err[y, x] = np.nan
            else:
                sci[y, x] = np.float32(value * gain)
                err[y, x] = np.float32(gain * np.sqrt(variance) * reciprocal)
            mask[y, x] = bit
