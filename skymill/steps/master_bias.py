"""The master bias: the electronic pattern of the detector without light.

``B = clipped mean of (R_i - O_i)``, with the overscan level ``O_i`` of each frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import Result
from skymill.frame import MaskBit, Master
from skymill.steps.masters_common import (
    Intake,
    LoadedFrame,
    MasterFailed,
    MasterProduct,
    RawInput,
    base_header,
    base_mask,
    combine_frames,
    good_median,
    pair_noise,
    reject_odd_levels,
    stack_terms,
    with_changes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from skymill.kernels.combine import Terms

__all__ = ["MasterFailed", "MasterProduct", "RawInput", "master_bias"]

STEP = "master_bias"
#: Length of a stretch of a row that a pixel is compared with.
BLOCK_PX = 32


def master_bias(
    frames: Sequence[RawInput],
    *,
    master_id: str = "",
    method: str = "clipped",
    clip_sigma: float = 4.5,
    reject_low: int = 1,
    reject_high: int = 1,
    minimum: int = 3,
    overscan: Mapping[str, Any] | None = None,
    memory_mb: float = 500,
    level_tolerance_sigma: float = 8.0,
    read_noise_tolerance: float = 0.15,
    hot_sigma: float = 8.0,
) -> Result[MasterProduct]:
    """Combine bias frames.

    Parameters
    ----------
    frames : sequence of RawInput
        Bias frames of one read-out mode.
    master_id : str
        Name for messages and the header.
    method, clip_sigma, reject_low, reject_high : str, float, int, int
        Estimator; see `skymill.kernels.combine.combine`.
    minimum : int
        Fewest usable frames.
    overscan : mapping, optional
        Settings of `skymill.readout.fit_overscan`.
    memory_mb : float
        Memory for raw pixels; beyond it the frames are read again in parts.
    level_tolerance_sigma : float
        A frame further than this from the group's level or scatter is rejected.
    read_noise_tolerance : float
        Relative difference of measured and declared read noise that is flagged.
    hot_sigma : float
        A pixel or column this many read noises above (below) its surroundings is hot
        (cold).

    Returns
    -------
    Result of MasterProduct
        Master in ADU. ``err`` is the standard error from the noise measured between
        frames (from the declared read noise if there is one frame). Flag
        ``READ_NOISE_SUSPECT``.

    Raises
    ------
    MasterFailed
        ``TOO_FEW``.
    """
    intake = Intake(STEP, frames, overscan or {}, memory_mb)
    intake.require(minimum, master_id)
    declared = float(np.sqrt(intake.loaded[0].readout.dark_variance_adu2))
    rough = pair_noise(intake.samples())
    reject_odd_levels(intake, level_tolerance_sigma, rough if rough > 0 else declared, "BIAS_JUMP")
    intake.require(minimum, master_id)
    measured = pair_noise(intake.samples())
    noise = measured if measured > 0 else declared

    def terms(kept: Sequence[LoadedFrame]) -> Terms:
        return with_changes(stack_terms(kept, noise**2), gain=np.full(len(kept), np.inf))

    combined = combine_frames(
        intake, terms, minimum, master_id,
        method=method, clip_sigma=clip_sigma, n_low=reject_low, n_high=reject_high,
    )  # fmt: skip
    mask = base_mask(combined)
    odd = find_odd_pixels(combined.value, hot_sigma * noise)
    mask |= odd
    if len(intake.loaded) >= 5 and method == "clipped":
        unstable = (combined.n_used > 0) & (combined.n_used <= len(intake.loaded) // 2)
        mask[unstable] |= np.uint16(MaskBit.HOT)
    mask[_grown(~np.isfinite(combined.value))] |= np.uint16(MaskBit.HOT)
    header = base_header("bias", master_id, intake, combined, method)
    if measured > 0:
        header["RNADU"] = (measured, "[adu] read noise between bias frames")
    master = Master(combined.value, combined.err, mask, header, unit="adu", nused=combined.n_used)
    numbers = _numbers(intake, master, measured)
    flags = _read_noise_flag(intake, measured, read_noise_tolerance)
    return Result(MasterProduct(master, intake.outcomes(), numbers), flags, numbers)


def _grown(bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grow by one pixel: charge leaks from pixels that are saturated without light."""
    from scipy.ndimage import binary_dilation

    if not bad.any():
        return bad
    return np.asarray(binary_dilation(bad, np.ones((3, 3), bool)))


def find_odd_pixels(value: NDArray[np.float32], limit: float) -> NDArray[np.uint16]:
    """Return HOT and COLD bits of pixels and columns far from their surroundings.

    Parameters
    ----------
    value : ndarray of float32, shape (ny, nx)
        Master bias (ADU); NaN is skipped.
    limit : float
        Distance (ADU).

    Returns
    -------
    ndarray of uint16, shape (ny, nx)

    Notes
    -----
    A pixel is compared with the 32 pixels around it in its row and with the pattern of
    its column, a column with the median of the 31 columns around it. Whole rows are left
    alone: the first rows of many detectors lie far off but repeat from frame to frame.
    """
    from scipy.ndimage import median_filter

    mask = np.zeros(value.shape, np.uint16)
    finite = np.isfinite(value)
    if not finite.any():
        return mask
    ny, nx = value.shape
    level = np.float32(np.median(value[finite]))
    work = (value if finite.all() else np.where(finite, value, level)) - level
    blocks = -(-nx // BLOCK_PX)
    padded = np.pad(work, ((0, 0), (0, blocks * BLOCK_PX - nx)), mode="symmetric")
    local = np.median(padded.reshape(ny, blocks, BLOCK_PX), axis=2)
    work -= np.median(work, axis=1)[:, None]
    columns = np.median(work, axis=0)
    smooth = median_filter(columns, size=min(31, nx), mode="mirror")
    bump = np.abs(columns - smooth) > limit
    # An odd column is flagged as a whole. Of the others the column's own level is pattern,
    # and so is what a stretch of a row has in common.
    pattern = np.where(bump, smooth, columns).astype(np.float32)
    work = padded[:, :nx] - np.repeat(local, BLOCK_PX, axis=1)[:, :nx] - pattern
    common = np.pad(pattern, (0, blocks * BLOCK_PX - nx), mode="symmetric")
    work += np.repeat(np.median(common.reshape(blocks, BLOCK_PX), axis=1), BLOCK_PX)[:nx]
    mask[work > limit] |= np.uint16(MaskBit.HOT)
    mask[work < -limit] |= np.uint16(MaskBit.COLD)
    return mask


def _numbers(intake: Intake, master: Master, measured: float) -> dict[str, Any]:
    readout = intake.loaded[0].readout
    levels = [float(frame.numbers.get("level_adu", np.nan)) for frame in intake.loaded]
    hot = np.count_nonzero(master.mask & np.uint16(MaskBit.HOT))
    cold = np.count_nonzero(master.mask & np.uint16(MaskBit.COLD))
    return {
        "n_frames": len(intake.inputs),
        "n_used": len(intake.loaded),
        "level_adu": good_median(master.sci, master.mask),
        "level_scatter_adu": float(np.std(levels, ddof=1)) if len(levels) > 2 else None,
        "median_err_adu": good_median(master.err, master.mask),
        "read_noise_adu": measured if measured > 0 else None,
        "read_noise_e": measured * readout.gain_e_adu if measured > 0 else None,
        "read_noise_declared_e": readout.read_noise_e,
        "n_hot": int(hot),
        "n_cold": int(cold),
    }


def _read_noise_flag(
    intake: Intake, measured: float, tolerance: float
) -> tuple[tuple[str, str], ...]:
    readout = intake.loaded[0].readout
    told = float(np.sqrt(readout.dark_variance_adu2))
    if not measured > 0 or abs(measured / told - 1) <= tolerance:
        return ()
    text = (
        f"the frames scatter by {measured:.2f} ADU, that is {measured * readout.gain_e_adu:.1f} "
        f"electron at {readout.gain_e_adu:g} electron/ADU, but {readout.read_noise_e:g} electron "
        "are declared. Check gain and read noise in the instrument file."
    )
    return (("READ_NOISE_SUSPECT", text),)
