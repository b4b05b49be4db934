"""What the header of a stack says: exposure, zero point, gain, noise correlation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from skymill.resample import aperture_factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from skymill.grid import Grid
    from skymill.steps.stack import StackInput

__all__ = ["stack_cards"]

_RADII_PX = (2, 3, 5, 8)


def stack_cards(
    inputs: Sequence[StackInput],
    grid: Grid,
    *,
    scales: NDArray[np.float64],
    weights: NDArray[np.float64],
    level_errs: NDArray[np.float64],
    exptime: float,
    correlation: NDArray[np.float32],
    convention: str,
    throughput_known: NDArray[np.bool_],
    combine: str = "clipped",
    engine: str = "skymill",
    kernel: str = "lanczos3",
    shared: float | None = None,
) -> tuple[fits.Header, dict[str, Any]]:
    """Return the header of a stack and the figures of its outcome.

    Parameters
    ----------
    inputs : sequence of StackInput
        Frames that were used.
    grid : Grid
        The grid of the field.
    scales, weights, level_errs : ndarray, shape (n,)
        Flux scale ``a`` (stack electron per frame electron), weights of sum 1, error
        of the background level in electron of the frame.
    exptime : float
        Exposure to which the pixel values refer (s).
    correlation : ndarray, shape (11, 11)
        Noise correlation.
    convention : str
        ``flux`` or ``surface_brightness``.
    throughput_known : ndarray of bool, shape (n,)
        Whether each frame has a flux scale.
    combine, engine, kernel : str
        How values were combined and resampled.
    shared : float, optional
        Median error that the frames share (electron); None if masters are not known.
    """
    header = fits.Header()
    numbers: dict[str, Any] = {}

    def card(key: str, value: Any, comment: str, name: str | None = None) -> None:
        if value is None or (isinstance(value, float) and not np.isfinite(value)):
            return
        header[key] = (value, comment)
        if name:
            numbers[name] = value

    for key, column in (("OBJECT", "object"), ("FILTER", "filter"), ("INSTRUME", "instrument")):
        values = {str(item.row.get(column) or "") for item in inputs}
        if len(values) == 1 and values != {""}:
            card(key, values.pop(), "of all frames")
    header["BUNIT"] = ("electron", "of one exposure of EXPTIME at throughput 1")
    card("NCOMBINE", len(inputs), "number of frames", "n_frames")
    # The values of a sum refer to as many exposures as there are frames.
    several = float(len(inputs)) if combine == "sum" else 1.0
    exptime = float(exptime) * several
    card("EXPTIME", exptime, "[s] exposure that the values refer to", "exptime_s")
    exposures = np.array([item.number("exptime_s") for item in inputs])
    card("EXPTOTAL", float(exposures.sum()), "[s] sum of all exposures", "exptime_total_s")
    _time_cards(card, inputs, weights)
    _electronics(card, inputs, scales, weights, combine)
    sizes = np.array([item.number("fwhm_px") for item in inputs])
    known = np.isfinite(sizes)
    if known.any():
        mean = float((weights * sizes)[known].sum() / weights[known].sum())
        card("FWHM", mean, "[px] weighted mean FWHM of frames", "fwhm_frames_px")
    _zero_point(card, inputs, throughput_known)
    level = float(np.sqrt((weights**2 * scales**2 * np.nan_to_num(level_errs) ** 2).sum()))
    level *= several
    card("BKGERR", level, "[electron] error of the level, common to cells", "bkg_err_e")
    card("FLUXCONV", convention, "what resampling keeps")
    card("COMBINE", combine, "how the frames were combined")
    card("ENGINE", engine, "what resampled")
    card("KERNEL", kernel, "resampling kernel")
    card("WCSREL", not grid.celestial, "positions relative to a reference frame")
    for radius in _RADII_PX:
        factor = aperture_factor(correlation, radius)
        card(f"CORRF{radius}", factor, f"true / white error, aperture of {radius} px")
    total = float(np.sqrt(max(float(correlation.astype(np.float64).sum()), 0.0)))
    card("CORRFINF", total, "true / white error, large apertures", "corr_inf")
    header.add_comment("ERR is the error of a pixel; that of an aperture is CORRF times larger.")
    if shared is None:
        header.add_comment("ERR takes errors of bias, dark and flat as independent between")
        header.add_comment("frames, which holds for dithers of more than a pixel.")
    else:
        card("SHAREERR", shared, "[electron] median shared error, in ERR", "shared_err_e")
        header.add_comment("ERR holds what errors of bias, dark and flat have in common between")
        header.add_comment("frames; SHARED holds it apart, on empty sky.")
    return header, numbers


def _electronics(
    card: Any,
    inputs: Sequence[StackInput],
    scales: NDArray[np.float64],
    weights: NDArray[np.float64],
    combine: str,
) -> None:
    """Effective gain, read noise and saturation.

    Of a weighted mean ``G = 1 / sum(w^2 a)``: ``N g`` for equal frames, divided by ``c_N``
    for a median; ``g`` for a sum. The read noise is in effective electrons,
    ``G sqrt(sum w^2 a^2 R^2)`` with the same factors: ``R sqrt(N)`` for mean and sum.
    """
    from skymill.kernels.stack_median import median_efficiency

    n = len(inputs)
    loss = float(median_efficiency(n)) if combine == "median" else 1.0
    several = n if combine == "sum" else 1
    gain = 1 / float((weights**2 * scales).sum()) / loss
    card("GAIN", gain / several, "effective; varies over the image, use ERR")
    noise = np.array([item.number("read_noise_e") for item in inputs])
    read = gain * np.sqrt(loss * float((weights**2 * scales**2 * noise**2).sum()))
    card("RDNOISE", read, "[electron] effective read noise")
    full = scales * np.array([item.number("saturation_e") for item in inputs])
    if np.isfinite(full).all():
        level = float(full.sum() if combine == "sum" else full.min())
        card("SATURATE", level, "[electron] lowest saturation of a frame, scaled")


def _time_cards(card: Any, inputs: Sequence[StackInput], weights: NDArray[np.float64]) -> None:
    times = np.array([item.number("mjd_mid") for item in inputs])
    if not np.isfinite(times).all():
        return
    half = np.array([item.number("exptime_s") for item in inputs]) / 172800
    first = float(times.min())
    average = first + float((weights * (times - first)).sum())
    card("TIMESYS", "UTC", "time scale")
    card("MJD-BEG", round(float((times - half).min()), 9), "[d] start of the first exposure")
    card("MJD-AVG", round(average, 9), "[d] weighted mean mid time", "mjd_avg")
    card("MJD-END", round(float((times + half).max()), 9), "[d] end of the last exposure")


def _zero_point(card: Any, inputs: Sequence[StackInput], known: NDArray[np.bool_]) -> None:
    """Zero point of throughput 1.

    A frame of throughput T gives T electron/s where the reference gives one, so its
    zero point there is ``zp - 2.5 log10 T``. Frames share the catalogue stars: the
    error does not average, the median is quoted.
    """
    zp = np.array([item.number("zp") for item in inputs])
    err = np.array([item.number("zp_err") for item in inputs])
    throughput = np.array([item.number("throughput") for item in inputs])
    good = np.isfinite(zp) & np.isfinite(throughput) & (throughput > 0) & known
    if not good.any():
        return
    shifted = zp[good] - 2.5 * np.log10(throughput[good])
    card("ZP", float(np.median(shifted)), "[mag] of 1 electron/s in a total flux", "zp")
    errors = err[good & np.isfinite(err)]
    spread = 1.4826 * float(np.median(np.abs(shifted - np.median(shifted))))
    shared = float(np.median(errors)) if errors.size else 0.0
    value = float(np.hypot(shared, spread / np.sqrt(good.sum())))
    card("ZPERR", value if value > 0 else None, "[mag] error of ZP", "zp_err")
    floors = np.array([item.number("zp_floor") for item in inputs])
    if np.isfinite(floors).any():
        card("ZPFLOOR", float(np.nanmedian(floors)), "[mag] systematic floor, never averages")
