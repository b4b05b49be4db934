"""The master bias: the electronic pattern of the detector without light.

``B = clipped mean of (R_i - O_i)``, with the overscan level ``O_i`` of each frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import Result
from skymill.frame import MaskBit, Master
from skymill.kernels.odd_pixels import beyond, stretch_levels
from skymill.steps.masters_common import (
    Intake,
    LoadedFrame,
    MasterFailed,
    MasterProduct,
    RawInput,
    amplifier_cards,
    base_header,
    base_mask,
    combine_frames,
    good_median,
    stack_terms,
    with_changes,
)
from skymill.steps.masters_compare import (
    ROUGH_VALUES,
    AmplifierNoise,
    frame_noise,
    noise_between,
    reject_odd_levels,
)
from skymill.steps.masters_quality import ModelCheck, check_model, few_frames, unstable_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from skymill.kernels.combine import Terms

__all__ = ["MasterFailed", "MasterProduct", "RawInput", "master_bias"]

STEP = "master_bias"
#: Length of a stretch of a row that a pixel is compared with.
BLOCK_PX = 32
#: Rows that the level of a column is measured on.
COLUMN_ROWS = 512


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
    memory_mb: float = 250,
    level_tolerance_sigma: float = 8.0,
    read_noise_tolerance: float = 0.15,
    model_tolerance: float = 0.2,
    hot_sigma: float = 8.0,
    electronics: Mapping[str, Any] | None = None,
    scratch: str | Path | None = None,
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
        Settings of `skymill.overscan.fit_overscan`.
    memory_mb : float
        Memory for raw pixels; beyond it they wait in a scratch file.
    level_tolerance_sigma : float
        A frame further than this from the group's level or scatter is rejected.
    read_noise_tolerance : float
        Relative difference of measured and declared read noise that is flagged.
    model_tolerance : float
        Relative difference of the pooled sample variance and the model variance that is
        flagged.
    hot_sigma : float
        A pixel or column this many read noises above (below) its surroundings is hot
        (cold).
    electronics : mapping, optional
        Crosstalk of the instrument, see `skymill.readout.Readout.from_row`.
    scratch : str or Path, optional
        Folder for the scratch file.

    Returns
    -------
    Result of MasterProduct
        Master in ADU. ``err`` is the standard error from the noise measured between
        frames (from the declared read noise if there is one frame). Flags
        ``READ_NOISE_SUSPECT``, ``MODEL_NOISE``, ``FEW_FRAMES``, and ``BIAS_JUMP`` if
        the only two frames contradict each other.

    Raises
    ------
    MasterFailed
        ``TOO_FEW``.
    """
    intake = Intake(STEP, frames, overscan or {}, memory_mb, electronics, scratch)
    intake.require(minimum, master_id)
    rough = noise_between(intake, ROUGH_VALUES)
    flags = reject_odd_levels(intake, level_tolerance_sigma, rough.typical_adu, "BIAS_JUMP")
    intake.require(minimum, master_id)
    noise = noise_between(intake)

    def terms(kept: Sequence[LoadedFrame], amp: int) -> Terms:
        own = stack_terms(kept, amp, noise.adu[amp] ** 2)
        own = with_changes(own, gain=np.full(len(kept), np.inf))
        single = frame_noise(intake.samples(amp)) if method == "weighted" else np.array(np.nan)
        if not np.isfinite(single).all():
            return own
        # a frame of equal integers has no scatter, but no infinite weight either
        single = np.maximum(single, 0.1 * noise.adu[amp])
        return with_changes(own, noise=own.noise - noise.adu[amp] ** 2 + single**2)

    combined = combine_frames(
        intake, terms, minimum, master_id, with_scatter=len(intake.loaded) > 1,
        method=method, clip_sigma=clip_sigma, n_low=reject_low, n_high=reject_high,
    )  # fmt: skip
    mask = base_mask(combined)
    for amp, one in enumerate(intake.amplifiers):
        at = one.place.slices
        mask[at] |= find_odd_pixels(combined.value[at], hot_sigma * noise.adu[amp])
    check = check_model(intake, combined, mask)
    unstable = unstable_pixels(combined, check.ratio)
    mask[unstable] |= np.uint16(MaskBit.HOT)
    mask[_grown(~np.isfinite(combined.value))] |= np.uint16(MaskBit.HOT)
    header = base_header("bias", master_id, intake, combined, method)
    header.update(amplifier_cards(intake.amplifiers, noise_adu=noise.measured))
    master = Master(combined.value, combined.err, mask, header, unit="adu", nused=combined.n_used)
    numbers = _numbers(intake, master, noise, check)
    numbers["n_unstable"] = int(np.count_nonzero(unstable))
    every = (
        *flags, *_read_noise_flags(intake, noise, read_noise_tolerance),
        *check.flags(model_tolerance), *few_frames(intake),
    )  # fmt: skip
    return Result(MasterProduct(master, intake.outcomes(), numbers), every, numbers)


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
    level = np.float32(good_median(value, mask))
    local = np.empty((ny, -(-nx // BLOCK_PX)), np.float32)
    stretch_levels(value, level, BLOCK_PX, local)
    # some hundred rows know the level of a column far better than the limit
    some = slice(None, None, max(1, ny // COLUMN_ROWS))
    part = np.where(finite[some], value[some], level)
    columns = np.median(part - np.median(local[some], axis=1)[:, None], axis=0)
    smooth = median_filter(columns, size=min(31, nx), mode="mirror")
    bump = np.abs(columns - smooth) > limit
    # An odd column is flagged as a whole. Of the others the column's own level is pattern,
    # and so is what a stretch of a row has in common.
    pattern = np.where(bump, smooth, columns).astype(np.float32)
    common = np.empty((1, local.shape[1]), np.float32)
    stretch_levels(pattern[None], np.float32(0), BLOCK_PX, common)
    pattern -= np.repeat(common[0], BLOCK_PX)[:nx]
    hot, cold = np.uint16(MaskBit.HOT), np.uint16(MaskBit.COLD)
    beyond(value, local, pattern, BLOCK_PX, np.float32(limit), hot, cold, mask)
    return mask


def _numbers(
    intake: Intake, master: Master, noise: AmplifierNoise, check: ModelCheck
) -> dict[str, Any]:
    readout = intake.loaded[0].readout
    levels = [float(frame.numbers.get("level_adu", np.nan)) for frame in intake.loaded]
    measured = np.array(noise.measured)
    gains = np.array([one.gain_e_adu for one in intake.amplifiers])
    known = bool((measured > 0).all())
    numbers: dict[str, Any] = {
        "n_frames": len(intake.inputs),
        "n_used": len(intake.loaded),
        "level_adu": good_median(master.sci, master.mask),
        "level_scatter_adu": float(np.std(levels, ddof=1)) if len(levels) > 2 else None,
        "median_err_adu": good_median(master.err, master.mask),
        "read_noise_adu": float(np.sqrt(np.mean(measured**2))) if known else None,
        "read_noise_e": float(np.sqrt(np.mean((measured * gains) ** 2))) if known else None,
        "read_noise_declared_e": readout.read_noise_e,
        "variance_ratio": check.ratio,
        "n_hot": int(np.count_nonzero(master.mask & np.uint16(MaskBit.HOT))),
        "n_cold": int(np.count_nonzero(master.mask & np.uint16(MaskBit.COLD))),
    }
    if known and len(gains) > 1:
        for one, value in zip(intake.amplifiers, measured * gains, strict=True):
            numbers[f"read_noise_e_{one.name}"] = float(value)
    return numbers


def _read_noise_flags(
    intake: Intake, noise: AmplifierNoise, tolerance: float
) -> list[tuple[str, str]]:
    """One flag per amplifier whose measured and declared read noise differ too much."""
    flags = []
    for one, measured in zip(intake.amplifiers, noise.measured, strict=True):
        told = float(np.sqrt(one.dark_variance_adu2))
        if not measured > 0 or abs(measured / told - 1) <= tolerance:
            continue
        text = (
            f"the frames scatter by {measured:.2f} ADU, that is {measured * one.gain_e_adu:.1f} "
            f"electron at {one.gain_e_adu:g} electron/ADU, but {one.read_noise_e:g} electron "
            f"are declared for {one.label}. Check gain and read noise in the instrument file."
        )
        flags.append(("READ_NOISE_SUSPECT", text))
    return flags
