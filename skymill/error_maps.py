"""Error maps of a frame: measured from its sky, or propagated from what is known of it.

Four maps, each one standard deviation per pixel in the unit of the image:

======================================  =================================================
`background_rms`                        scatter of the sky, measured on a mesh
`error_map`                             the same plus the photons of the sources
`background_rms_from_propagation`       noise of the sky from gain, read noise, masters
`error_map_from_propagation`            the same with all photons of the pixel
======================================  =================================================

The first two know nothing of the electronics but the gain, the last two look at no
scatter. `noise_ratio` compares them: 1 if gain, read noise and masters are right.

Images are in electron. Masters and overscan are in ADU, as they are stored. With
``I`` the flat-fielded image, ``F`` the flat, ``D`` the dark charge of the dark exposure
and ``t`` the ratio of exposures (ADU throughout, then times the gain ``g``):

``V = [ max(F I + t D, 0)/g + RN^2/g^2 + V_O + (1 - t)^2 v_b + t^2 v_d ] / F^2 + I^2 v_F / F^2``
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill.frame import Frame, MaskBit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    Plane = NDArray[np.float32]

__all__ = [
    "Electronics",
    "MasterTerms",
    "background_only_error",
    "background_rms",
    "background_rms_from_propagation",
    "error_from_weight",
    "error_map",
    "error_map_from_propagation",
    "noise_ratio",
    "weight_from_error",
]

#: Variance of rounding to integers (ADU^2), and the noise above which a measured read
#: noise holds it already (ADU).
_ROUNDING, _ROUNDED_BELOW = 1 / 12, 0.5
#: Rows that are worked on at a time: the float64 intermediates stay small.
_BAND = 128
#: A cell of the comparison needs this fraction of sky pixels.
_CELL_FRACTION = 0.15


@dataclass(frozen=True, eq=False)
class Electronics:
    """What the electronics add to a pixel. Numbers, or planes of shape (ny, nx).

    Parameters
    ----------
    gain : float or ndarray
        Electron/ADU.
    read_noise_e : float or ndarray
        Electron.
    overscan_variance_adu2 : float or ndarray
        Variance of the overscan level that was subtracted (ADU^2).
    rounding : bool
        Add the variance 1/12 ADU^2 of rounding where the read noise is below 0.5 ADU;
        False if the read noise was measured between frames and holds it.
    """

    gain: ArrayLike
    read_noise_e: ArrayLike
    overscan_variance_adu2: ArrayLike = 0.0
    rounding: bool = True

    def __post_init__(self) -> None:
        for name, low in (("gain", 0.0), ("read_noise_e", -1e-300)):
            values = np.asarray(getattr(self, name), np.float64)
            if not (np.isfinite(values) & (values > low)).all():
                raise ValueError(f"{name} must be a positive number of electrons, got {values}")


@dataclass(frozen=True, eq=False)
class MasterTerms:
    """What the masters add. Planes of shape (ny, nx) or numbers; the defaults add nothing.

    Parameters
    ----------
    tau : float
        Exposure of the frame over that of the dark; 0 without a dark.
    bias_err : float or ndarray
        Standard error of the bias (ADU).
    dark_signal : float or ndarray
        Master dark less master bias (ADU).
    dark_err : float or ndarray
        Standard error of the dark frames' mean, without the error of the bias (ADU).
    flat, flat_err : float or ndarray
        Flat with median 1, and its standard error.

    Notes
    -----
    Frame and dark are taken to share one bias: its error enters with (1 - tau).
    """

    tau: float = 0.0
    bias_err: ArrayLike = 0.0
    dark_signal: ArrayLike = 0.0
    dark_err: ArrayLike = 0.0
    flat: ArrayLike = 1.0
    flat_err: ArrayLike = 0.0


def background_rms(
    sci: Plane, good: NDArray[np.bool_], *, box_size_px: int = 64, filter_size: int = 3
) -> Plane:
    """Scatter of the sky, measured: a mesh of clipped standard deviations, interpolated.

    Parameters
    ----------
    sci : ndarray of float32, shape (ny, nx)
        Image in any unit.
    good : ndarray of bool, shape (ny, nx)
        False where a pixel must not be used (bad, or known as a source). Further sources
        are found and left out.
    box_size_px, filter_size : int
        Side of a cell (px), and of the median filter (cells, odd).

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        In the unit of ``sci``, at every pixel.

    Raises
    ------
    StepFailed
        ``ALL_MASKED``.
    """
    from skymill.steps.background import background

    mask = np.where(good & np.isfinite(sci), 0, int(MaskBit.USER)).astype(np.uint16)
    frame = Frame(sci, np.ones(sci.shape, np.float32), mask, fits.Header())
    found = background(frame, box_size_px=box_size_px, filter_size=filter_size)
    return found.value.rms_map()


def error_map(
    sci: Plane,
    background: ArrayLike,
    rms: ArrayLike,
    *,
    gain: ArrayLike = 1.0,
    flat: ArrayLike = 1.0,
    flat_err: ArrayLike = 0.0,
    sources: NDArray[np.bool_] | None = None,
) -> Plane:
    """Measured scatter of the sky plus the photons of the sources.

    ``sigma^2 = rms^2 + S / (g F) + [(B + S)^2 - B^2] v_F / F^2``, ``S = max(I - B, 0)``. The
    excess is not taken by its absolute value: that would call pixels below the sky
    uncertain, and faint ones on average. The error of the flat at the level of the sky is
    in the measured scatter already.

    Parameters
    ----------
    sci : ndarray of float32, shape (ny, nx)
        Image.
    background, rms : float or ndarray
        Level and scatter of its sky, in the same unit.
    gain : float or ndarray
        Electron per unit of the image; 1 for an image in electron.
    flat : float or ndarray
        Flat by which the image was divided: where it is low, fewer photons were counted
        than the corrected image shows.
    flat_err : float or ndarray
        Its standard error.
    sources : ndarray of bool, shape (ny, nx), optional
        Where sources are. Elsewhere the photons of the excess are left out: they are part
        of the measured scatter, and the upward half of the noise would count twice.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        In the unit of the image; NaN where it is not known.
    """
    out = np.empty(sci.shape, np.float32)
    for band in _bands(sci.shape):
        excess = _cut(sci, band) - _cut(background, band)
        excess = np.maximum(excess, 0.0)
        if sources is not None:
            excess = np.where(sources[band], excess, 0.0)
        f = _cut(flat, band)
        with np.errstate(invalid="ignore", divide="ignore"):
            shared = excess * (excess + 2 * _cut(background, band))
            variance = _cut(rms, band) ** 2 + excess / (_cut(gain, band) * f)
            variance = variance + np.maximum(shared, 0.0) * (_cut(flat_err, band) / f) ** 2
            out[band] = _root(np.where(f > 0, variance, np.nan))
    return out


def error_map_from_propagation(
    sci_e: Plane, electronics: Electronics, masters: MasterTerms | None = None
) -> Plane:
    """Total error of a calibrated frame, from gain, read noise and masters.

    Parameters
    ----------
    sci_e : ndarray of float32, shape (ny, nx)
        Calibrated image with its sky, in electron. Its own counts stand for their
        expectation, see Notes.
    electronics : Electronics
        Gain, read noise, overscan.
    masters : MasterTerms, optional
        Without them the frame is taken for raw counts less a perfect bias.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        Electron; NaN where the image, the flat or an error is not known.

    Notes
    -----
    Taking the photons from the pixel itself makes pulls up to 3 % too wide and shifts
    their mean by ``-1/(2 sqrt(n))`` below some 100 electron. Use the map of the background
    for weights.

    The detector is taken for linear. If the frame was linearised, read noise and masters
    are to be multiplied by the slope of the correction, which this function does not know.
    """
    return _propagated(sci_e, electronics, masters or MasterTerms())


def background_rms_from_propagation(
    background_e: ArrayLike,
    electronics: Electronics,
    masters: MasterTerms | None = None,
    *,
    shape: tuple[int, int] | None = None,
) -> Plane:
    """Error of the sky alone: the photons of the sources are left out, those of the dark not.

    Parameters
    ----------
    background_e : float or ndarray, shape (ny, nx)
        Level of the sky in electron, smooth.
    electronics, masters
        As in `error_map_from_propagation`.
    shape : tuple of int, optional
        Shape of the map if the background is a number.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        Electron.
    """
    level = np.asarray(background_e)
    return _propagated(
        np.broadcast_to(level, shape or level.shape), electronics, masters or MasterTerms()
    )


def background_only_error(
    err_e: Plane,
    sci_e: Plane,
    background_e: ArrayLike,
    *,
    flat: ArrayLike = 1.0,
    flat_err: ArrayLike = 0.0,
) -> Plane:
    """Error of the sky from a frame's total error, without masters.

    The photons that the error plane took from the pixel are replaced by those of the
    smooth sky: ``V - max(I, 0)/F + B/F - (I^2 - B^2) v_F/F^2``.

    Parameters
    ----------
    err_e, sci_e : ndarray of float32, shape (ny, nx)
        Total error and image, electron.
    background_e : float or ndarray
        Level of the sky, electron.
    flat, flat_err : float or ndarray
        Flat and its error; without them the flat is taken for 1 and exact.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        Electron; NaN where it is not known, or where the replacement leaves nothing (a
        flat that is far from 1 was not given).
    """
    out = np.empty(sci_e.shape, np.float32)
    for band in _bands(sci_e.shape):
        image, level, f = _cut(sci_e, band), _cut(background_e, band), _cut(flat, band)
        with np.errstate(invalid="ignore", divide="ignore"):
            photons = (level - np.maximum(image, 0.0)) / f
            shared = (level**2 - image**2) * (_cut(flat_err, band) / f) ** 2
            out[band] = _root(_cut(err_e, band) ** 2 + photons + shared)
    return out


def weight_from_error(error: Plane, mask: NDArray[np.uint16] | None = None) -> Plane:
    """Weight ``1 / sigma^2``, and 0 where a pixel is bad or its error is not known.

    Parameters
    ----------
    error : ndarray of float32, shape (ny, nx)
        Standard deviation.
    mask : ndarray of uint16, shape (ny, nx), optional
        Mask bits; SOURCE does not disqualify a pixel.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
    """
    known = np.isfinite(error) & (error > 0)
    if mask is not None:
        known &= (mask & np.uint16(int(MaskBit.bad()))) == 0
    safe = np.where(known, error, np.float32(1)).astype(np.float64)
    with np.errstate(over="ignore"):
        return np.where(known, safe**-2, 0.0).astype(np.float32)


def error_from_weight(
    weight: Plane, mask: NDArray[np.uint16] | None = None
) -> tuple[Plane, NDArray[np.uint16]]:
    """Standard deviation of a weight map.

    Parameters
    ----------
    weight : ndarray of float32, shape (ny, nx)
        ``1 / sigma^2``; 0, negative or not finite where there is no information.
    mask : ndarray of uint16, shape (ny, nx), optional
        Bits that are set already.

    Returns
    -------
    error : ndarray of float32, shape (ny, nx)
        NaN where there is no information: never infinite, never 0.
    mask : ndarray of uint16, shape (ny, nx)
        The bits given, and NO_DATA there.
    """
    known = np.isfinite(weight) & (weight > 0)
    safe = np.where(known, weight, np.float32(1)).astype(np.float64)
    error = np.where(known, safe**-0.5, np.nan).astype(np.float32)
    bits = np.zeros(weight.shape, np.uint16) if mask is None else mask.copy()
    bits[~known] |= np.uint16(MaskBit.NO_DATA)
    return error, bits


def noise_ratio(
    measured: Plane, propagated: Plane, sky: NDArray[np.bool_], *, box_size_px: int = 64
) -> float:
    """Measured over propagated noise of the sky: 1 if the noise model is right.

    Parameters
    ----------
    measured, propagated : ndarray of float32, shape (ny, nx)
        Maps of `background_rms` and `background_rms_from_propagation`.
    sky : ndarray of bool, shape (ny, nx)
        Good pixels without sources.
    box_size_px : int
        Cells over which variances are averaged: a map by pixels has structure within a
        cell that a mesh shows as its mean.

    Returns
    -------
    float
        Median over the cells of ``sqrt(mean measured^2 / mean propagated^2)``; NaN
        without sky. Above 1: noise that the model does not know, or a gain that is too
        high. Below 1: the read noise is too high, the gain too low, or the pixels are
        correlated.
    """
    use = sky & np.isfinite(measured) & np.isfinite(propagated) & (propagated > 0)
    ny, nx = use.shape
    ys, xs = (np.arange(0, n, box_size_px) for n in (ny, nx))
    sums = []
    for plane in (measured, propagated):
        square = np.where(use, plane, np.float32(0)).astype(np.float64) ** 2
        sums.append(np.add.reduceat(np.add.reduceat(square, ys, axis=0), xs, axis=1))
    counts = np.add.reduceat(np.add.reduceat(use.astype(np.int64), ys, axis=0), xs, axis=1)
    enough = counts >= max(1.0, min(_CELL_FRACTION * box_size_px**2, 0.5 * counts.max()))
    if not enough.any():
        return float("nan")
    return float(np.median(np.sqrt(sums[0][enough] / sums[1][enough])))


def _propagated(level_e: NDArray[Any], e: Electronics, m: MasterTerms) -> Plane:
    """Propagate the noise of a frame whose pixels show this level."""
    ny, nx = level_e.shape
    out = np.empty((ny, nx), np.float32)
    for band in _bands((ny, nx)):
        g, flat = _cut(e.gain, band), _cut(m.flat, band)
        value = _cut(level_e, band) / g
        noise = _cut(e.read_noise_e, band) / g
        quiet = noise**2 + _cut(e.overscan_variance_adu2, band)
        if e.rounding:
            quiet = quiet + np.where(noise < _ROUNDED_BELOW, _ROUNDING, 0.0)
        charge = np.maximum(value * flat + m.tau * _cut(m.dark_signal, band), 0.0)
        shared = ((1 - m.tau) * _cut(m.bias_err, band)) ** 2
        shared = shared + (m.tau * _cut(m.dark_err, band)) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = (charge / g + quiet + shared) / flat**2
            variance = variance + (value * _cut(m.flat_err, band) / flat) ** 2
            out[band] = _root(np.where(flat > 0, variance * g**2, np.nan))
    return out


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    for y in range(0, shape[0], _BAND):
        yield slice(y, min(y + _BAND, shape[0]))


def _cut(plane: ArrayLike, band: slice) -> NDArray[np.float64]:
    """Rows of a plane in float64; a number stays one."""
    array = np.asarray(plane)
    rows = array[band] if array.ndim == 2 and array.shape[0] > 1 else array
    return rows.astype(np.float64)


def _root(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation; NaN where the variance is no positive number."""
    known = np.isfinite(variance) & (variance > 0)
    return np.where(known, np.sqrt(np.where(known, variance, 1.0)), np.nan)
