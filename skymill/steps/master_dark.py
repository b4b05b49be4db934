"""The master dark: what the detector collects without light in a given time.

``d = clipped mean of (R_i - O_i)``, overscan-subtracted, the bias **not** subtracted.
With ``tau = t / t_dark`` a frame is corrected by ``R - O - (1 - tau) B - tau d``: at
equal exposure the bias cancels, together with its error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import Result
from skymill.frame import MaskBit, Master
from skymill.robust import robust_sigma
from skymill.steps.masters_common import (
    Intake,
    LoadedFrame,
    MasterProduct,
    RawInput,
    base_header,
    base_mask,
    combine_frames,
    good_median,
    pair_noise,
    permanent,
    reject_odd_levels,
    sample_plane,
    stack_terms,
    with_changes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from skymill.kernels.combine import Terms

__all__ = ["master_dark"]

STEP = "master_dark"
#: Side of the cells that hot pixels are compared with, and relative exposure tolerance.
CELL_PX, SAME_EXPOSURE = 32, 0.01


def master_dark(
    frames: Sequence[RawInput],
    *,
    bias: Master | None = None,
    master_id: str = "",
    method: str = "clipped",
    clip_sigma: float = 4.5,
    reject_low: int = 1,
    reject_high: int = 1,
    minimum: int = 3,
    overscan: Mapping[str, Any] | None = None,
    memory_mb: float = 500,
    level_tolerance_sigma: float = 8.0,
    hot_sigma: float = 8.0,
) -> Result[MasterProduct]:
    """Combine dark frames of one exposure time.

    Parameters
    ----------
    frames : sequence of RawInput
        Dark frames of one read-out mode and exposure.
    bias : Master, optional
        Master bias: tells dark charge from bias pattern, for the noise model and for
        hot pixels. It is not subtracted.
    master_id, method, clip_sigma, reject_low, reject_high, minimum, overscan, memory_mb
        As for `skymill.steps.master_bias.master_bias`.
    level_tolerance_sigma : float
        A frame further than this from the group's level or scatter is rejected: light
        leaks, a warmer detector.
    hot_sigma : float
        A pixel with this much more (less) dark signal than its surroundings is hot
        (cold). Sigma is the scatter of the pixels or the pixel's own error, whichever
        is larger.

    Returns
    -------
    Result of MasterProduct
        Master in ADU with the card EXPTIME. ``err`` holds read noise and dark shot
        noise of the combined frames, without a bias term. Flag ``NO_BIAS`` without
        ``bias``.

    Raises
    ------
    MasterFailed
        ``TOO_FEW``; ``WRONG_SIZE`` if the master bias does not fit.
    """
    intake = Intake(STEP, frames, overscan or {}, memory_mb)
    _same_exposure(intake)
    intake.require(minimum, master_id)
    intake.check(bias, "bias")
    declared = float(np.sqrt(intake.loaded[0].readout.dark_variance_adu2))
    rough = pair_noise(intake.samples())
    reject_odd_levels(intake, level_tolerance_sigma, rough if rough > 0 else declared, "BAD_LEVEL")
    intake.require(minimum, master_id)
    pattern = _pattern(intake, bias)
    quiet = _quiet_variance(intake, pattern)

    def terms(kept: Sequence[LoadedFrame]) -> Terms:
        # the pattern is not charge: it is taken off for the photon term only
        return with_changes(stack_terms(kept, quiet), charge=np.full(len(kept), -1.0))

    combined = combine_frames(
        intake, terms, minimum, master_id, extra=pattern,
        method=method, clip_sigma=clip_sigma, n_low=reject_low, n_high=reject_high,
    )  # fmt: skip
    exposure = float(np.median([frame.exptime_s for frame in intake.loaded]))
    mask = base_mask(combined) | permanent(bias, intake.shape)
    mask |= hot_pixels(combined.value - pattern, combined.err, hot_sigma)
    mask[~np.isfinite(combined.value)] |= np.uint16(MaskBit.HOT)
    header = base_header("dark", master_id, intake, combined, method)
    header["EXPTIME"] = (exposure, "[s] exposure of the dark frames")
    if bias is not None and "MASTERID" in bias.header:
        header["BIASID"] = (bias.header["MASTERID"], "master bias used for the noise model")
    master = Master(combined.value, combined.err, mask, header, unit="adu", nused=combined.n_used)
    charge = good_median(master.sci - pattern, mask)
    gain = intake.loaded[0].readout.gain_e_adu
    numbers = {
        "n_frames": len(intake.inputs),
        "n_used": len(intake.loaded),
        "exptime_s": exposure,
        "level_adu": good_median(master.sci, mask),
        "dark_e_s": charge * gain / exposure if bias is not None and exposure > 0 else None,
        "median_err_adu": good_median(master.err, mask),
        "n_hot": int(np.count_nonzero(mask & np.uint16(MaskBit.HOT))),
        "n_cold": int(np.count_nonzero(mask & np.uint16(MaskBit.COLD))),
    }
    flags: tuple[tuple[str, str], ...] = ()
    if bias is None:
        text = "no master bias: the dark can only be used for frames of the same exposure."
        flags = (("NO_BIAS", text),)
    return Result(MasterProduct(master, intake.outcomes(), numbers), flags, numbers)


def _same_exposure(intake: Intake) -> None:
    """Reject frames without an exposure time, or with another one than the group."""
    times = [frame.exptime_s for frame in intake.loaded if np.isfinite(frame.exptime_s)]
    usual = float(np.median(times)) if times else np.nan
    for frame in list(intake.loaded):
        if not np.isfinite(frame.exptime_s):
            intake.reject(frame, "MISSING_EXPTIME", "the exposure time is not known.")
        elif frame.exptime_s <= 0:
            intake.reject(frame, "DARK_EXPOSURE", f"a dark of {frame.exptime_s:g} s is a bias.")
        elif abs(frame.exptime_s - usual) > SAME_EXPOSURE * usual:
            intake.reject(
                frame, "DARK_EXPOSURE",
                f"exposed for {frame.exptime_s:g} s, the group for {usual:g} s.",
            )  # fmt: skip


def _pattern(intake: Intake, bias: Master | None) -> NDArray[np.float32]:
    """What lies under the dark charge: the bias, or the group's level for want of one."""
    if bias is not None:
        finite = np.isfinite(bias.sci)
        if finite.all():
            return bias.sci
        return np.where(finite, bias.sci, np.float32(np.median(bias.sci[finite])))
    level = float(np.median(intake.samples()))
    return np.full(intake.shape, level, np.float32)


def _quiet_variance(intake: Intake, pattern: NDArray[np.float32]) -> float | None:
    """Variance of a pixel without charge (ADU^2), from the scatter between frames."""
    measured = pair_noise(intake.samples())
    if not measured > 0:
        return None
    stack = np.stack([frame.sample for frame in intake.loaded])
    charge = np.nanmedian(stack.mean(axis=0) - sample_plane(pattern))
    shot = max(float(charge), 0.0) / intake.loaded[0].readout.gain_e_adu
    # with a wrong gain the shot noise may exceed what is there; some read noise remains
    return max(measured**2 - shot, 0.1 * measured**2)


def _stretch(nodes: NDArray[np.float32], side: int, size: int) -> NDArray[np.float32]:
    """Interpolate cell centres linearly along the first axis, also beyond the outermost."""
    if len(nodes) == 1:
        return np.repeat(nodes, size, axis=0)
    at = (np.arange(size) + 0.5) / side - 0.5
    first = np.clip(np.floor(at).astype(int), 0, len(nodes) - 2)
    fraction = (at - first).astype(np.float32)[:, None]
    return nodes[first] * (1 - fraction) + nodes[first + 1] * fraction


def hot_pixels(
    charge: NDArray[np.float32], err: NDArray[np.float32], sigma: float
) -> NDArray[np.uint16]:
    """Return HOT and COLD bits of pixels far from the median of their surroundings.

    Parameters
    ----------
    charge, err : ndarray of float32, shape (ny, nx)
        Dark signal and its standard error (ADU); NaN is skipped.
    sigma : float
        Threshold in units of the scatter of all pixels or the pixel's own error.

    Returns
    -------
    ndarray of uint16, shape (ny, nx)
    """
    ny, nx = charge.shape
    finite = np.isfinite(charge)
    mask = np.zeros(charge.shape, np.uint16)
    if not finite.any():
        return mask
    filled = charge if finite.all() else np.where(finite, charge, np.median(charge[finite]))
    side = min(CELL_PX, ny, nx)
    my, mx = -(-ny // side), -(-nx // side)
    padded = np.pad(filled, ((0, my * side - ny), (0, mx * side - nx)), mode="symmetric")
    cells = padded.reshape(my, side, mx, side)
    level = np.median(cells.swapaxes(1, 2).reshape(my, mx, -1), axis=2)
    local = _stretch(_stretch(level, side, ny).T, side, nx).T
    excess = filled - local
    scatter = robust_sigma(excess.ravel()[:: max(1, excess.size // 200_000)])
    limit = sigma * np.maximum(np.float32(scatter), err)
    mask[excess > limit] |= np.uint16(MaskBit.HOT)
    mask[excess < -limit] |= np.uint16(MaskBit.COLD)
    return mask
