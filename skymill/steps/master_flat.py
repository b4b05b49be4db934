"""The master flat: the relative sensitivity of the pixels.

``F = sum_i w_i (R_i - O_i - B - tau_i (d - B)) / c_i / sum_i w_i``, with the level
``c_i`` of each frame and weights proportional to it, which is best for frames limited
by photon noise. The median of the good pixels is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import Result
from skymill.frame import MaskBit, Master
from skymill.steps.flat_statistics import gain_from_pairs, level_of, relative_gradient, sparse
from skymill.steps.masters_common import (
    Intake,
    LoadedFrame,
    MasterProduct,
    RawInput,
    base_header,
    base_mask,
    combine_frames,
    good_median,
    permanent,
    sample_plane,
    stack_terms,
    with_changes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.io import fits
    from numpy.typing import NDArray

    from skymill.kernels.combine import Combined, Terms

__all__ = ["master_flat"]

STEP = "master_flat"
#: A flat at or below this share of the median does not respond to light; above the other
#: one it shows something else than light.
DEAD_BELOW, DEAD_ABOVE = 0.05, 3.0
#: Gradient between frames (peak to valley) that is flagged.
GRADIENT = 0.03
#: Share of saturated pixels that rejects a flat: more than a few bad columns.
SATURATED_SHARE = 0.05
#: Neighbours of rejected pixels are judged by this threshold: wings of stars.
GROW_SIGMA = 2.5


@dataclass(frozen=True, eq=False)
class _Corrections:
    """Bias and dark planes of the group."""

    bias: Master | None
    dark: Master | None

    @property
    def charge(self) -> NDArray[np.float32] | None:
        """Dark charge ``d - B`` of the dark's exposure (ADU)."""
        if self.dark is None:
            return None
        return self.dark.sci if self.bias is None else self.dark.sci - self.bias.sci

    def tau(self, frame: LoadedFrame) -> float:
        """Exposure relative to the dark."""
        if self.dark is None:
            return 0.0
        return frame.exptime_s / float(self.dark.header["EXPTIME"])


def master_flat(
    frames: Sequence[RawInput],
    *,
    bias: Master | None = None,
    dark: Master | None = None,
    master_id: str = "",
    missing_bias: str = "require",
    method: str = "clipped",
    clip_sigma: float = 4.5,
    reject_low: int = 1,
    reject_high: int = 1,
    minimum: int = 3,
    overscan: Mapping[str, Any] | None = None,
    memory_mb: float = 500,
    bias_first: bool = True,
    scale: str = "median",
    saturation_fraction: float = 0.9,
    minimum_level_adu: float = 1000,
    low_limit: float = 0.3,
    max_relative_error: float = 0.03,
    gain_tolerance: float = 0.15,
) -> Result[MasterProduct]:
    """Combine flat fields of one filter.

    Parameters
    ----------
    frames : sequence of RawInput
        Flats of one filter and read-out mode.
    bias, dark : Master, optional
        Masters to subtract; the dark is scaled by exposure time.
    master_id, method, clip_sigma, reject_low, reject_high, minimum, overscan, memory_mb
        As for `skymill.steps.master_bias.master_bias`.
    missing_bias : str
        Without a bias: ``require`` fails, ``degrade`` flags, ``skip`` goes on silently.
        Without an overscan too a flat always fails: its level means nothing.
    bias_first : bool
        Subtract bias and dark from each frame; otherwise scale the frames with the bias
        inside and subtract it from the result, as is the habit with IRAF.
    scale : str
        Level of a frame: ``median``, ``mean`` (clipped) or ``mode``.
    saturation_fraction : float
        Flats whose raw level is above this fraction of saturation are rejected.
    minimum_level_adu : float
        Flats with a lower level are rejected.
    low_limit : float
        Lower pixels get LOW_FLAT.
    max_relative_error : float
        More uncertain pixels get LOW_FLAT: a noisy flat also biases, by ``v_F / F^2``.
    gain_tolerance : float
        Relative difference of measured and declared gain that is flagged.

    Returns
    -------
    Result of MasterProduct
        Master without unit. ``err`` holds photon and read noise of the frames, and the
        errors of bias and dark, which do not average down. Flags ``GAIN_SUSPECT``,
        ``FLAT_GRADIENT``, ``NO_BIAS``.

    Raises
    ------
    MasterFailed
        ``TOO_FEW``; ``FLATS_REJECTED`` if no frame is left; ``NO_BIAS``;
        ``FLAT_PEDESTAL``; ``WRONG_SIZE`` if a master does not fit.
    """
    flags: list[tuple[str, str]] = []
    intake = Intake(STEP, frames, overscan or {}, memory_mb)
    intake.require(1 if frames else minimum, master_id, "FLATS_REJECTED" if frames else "TOO_FEW")
    _policy(intake, bias, missing_bias, flags)
    intake.check(bias, "bias")
    intake.check(dark, "dark")
    planes = _Corrections(bias, dark)
    _judge_levels(intake, planes, saturation_fraction, minimum_level_adu)
    intake.require(1, master_id, "FLATS_REJECTED")
    intake.require(minimum, master_id)
    quiet = _quiet_variance(bias)
    gain = gain_from_pairs(
        [_sample(frame, planes) for frame in intake.loaded],
        [frame.readout.dark_variance_adu2 if quiet is None else quiet for frame in intake.loaded],
    )
    flags += _gain_flag(intake, gain, gain_tolerance)
    flags += _gradient_flags(intake, planes)
    levels = {
        frame.source.frame_id: _scale_level(frame, planes, scale, bias_first)
        for frame in intake.loaded
    }
    trusted = gain[0] if gain[0] > 0 and gain[1] < 0.05 * gain[0] else None

    def terms(kept: Sequence[LoadedFrame]) -> Terms:
        level = np.array([levels[frame.source.frame_id] for frame in kept])
        tau = np.array([planes.tau(frame) for frame in kept])
        ones = np.ones(len(kept))
        return with_changes(
            stack_terms(kept, quiet, trusted), scale=1 / level, weight=level,
            base=ones if bias_first else 0 * ones, extra=tau, charge=tau,
        )  # fmt: skip

    combined = combine_frames(
        intake, terms, minimum, master_id,
        base=None if bias is None or not bias_first else bias.sci, extra=planes.charge,
        method=method, clip_sigma=clip_sigma, grow_sigma=GROW_SIGMA,
        n_low=reject_low, n_high=reject_high,
    )  # fmt: skip
    used = np.array([levels[frame.source.frame_id] for frame in intake.loaded])
    value, err = _shared_terms(intake, combined, planes, used, bias_first, method)
    master = _finish(
        intake, value, err, combined, planes, low_limit, max_relative_error,
        base_header("flat", master_id, intake, combined, method),
    )  # fmt: skip
    header = master.header.copy()
    if gain[0] > 0:
        header["GAINMEAS"] = (gain[0], "[electron/adu] gain between flats")
        header["GAINERR"] = (gain[1], "[electron/adu] its standard error")
    master = master.replace(header=header)
    numbers = _numbers(intake, master, used, gain)
    product = MasterProduct(master, intake.outcomes(), numbers)
    return Result(product, tuple(flags), numbers)


def _policy(intake: Intake, bias: Master | None, policy: str, flags: list[tuple[str, str]]) -> None:
    """Without a bias decide between failing, saying so, and going on."""
    if bias is not None:
        return
    text = "no master bias for the flats; the level of the bias weakens the correction."
    if any(frame.readout.overscan is None for frame in intake.loaded):
        raise intake.failed(
            "FLAT_PEDESTAL",
            "neither a master bias nor an overscan frees the flats from their pedestal. "
            "Take bias frames.",
        )
    if policy == "require":
        raise intake.failed("NO_BIAS", f"{text} Take bias frames or set missing_bias to degrade.")
    if policy == "degrade":
        flags.append(("NO_BIAS", f"{STEP}: {text}"))


def _sample(frame: LoadedFrame, planes: _Corrections) -> NDArray[np.float64]:
    """Bias- and dark-subtracted boxes of a frame (ADU), NaN where not usable."""
    sample = frame.sample.astype(np.float64)
    if planes.bias is not None:
        sample -= sample_plane(planes.bias.sci)
    charge = planes.charge
    if charge is not None:
        sample -= planes.tau(frame) * sample_plane(charge)
    return sample


def _scale_level(frame: LoadedFrame, planes: _Corrections, scale: str, bias_first: bool) -> float:
    """Level that a frame is divided by (ADU)."""
    if scale != "mode":
        sample = _sample(frame, planes if bias_first else _Corrections(None, planes.dark))
        return level_of(sample, scale)
    raw = frame.rows(0, frame.readout.image.shape[0]).astype(np.float64)
    image = np.where(raw < frame.readout.saturation_adu, raw, np.nan)
    image -= frame.overscan.level[:, None]
    if bias_first and planes.bias is not None:
        image -= planes.bias.sci
    if planes.charge is not None:
        image -= planes.tau(frame) * planes.charge
    return level_of(sparse(image), scale)


def _judge_levels(
    intake: Intake, planes: _Corrections, saturation_fraction: float, minimum_adu: float
) -> None:
    """Reject flats that are saturated or too faint, and note the level of the others."""
    for frame in list(intake.loaded):
        if planes.dark is not None and not frame.exptime_s >= 0:
            intake.reject(frame, "MISSING_EXPTIME", "the exposure time is not known.")
            continue
        sample = _sample(frame, planes)
        good = sample[np.isfinite(sample)]
        if frame.saturated_fraction > SATURATED_SHARE or not good.size:
            intake.reject(
                frame, "FLAT_SATURATED",
                f"{100 * frame.saturated_fraction:.0f} % of the pixels are saturated.",
            )  # fmt: skip
            continue
        level = float(np.median(good))
        frame.numbers["level_adu"] = level
        raw = float(np.nanmedian(frame.sample)) + frame.overscan.mean_adu
        limit = saturation_fraction * frame.readout.saturation_adu
        limit = min(limit, frame.readout.linear_max_adu)
        if raw > limit:
            intake.reject(
                frame, "FLAT_SATURATED",
                f"the level is {raw:.0f} ADU, at most {limit:.0f} ADU is linear "
                f"(settings: {STEP}.saturation_fraction).",
            )  # fmt: skip
        elif level < minimum_adu:
            intake.reject(
                frame, "FLAT_FAINT",
                f"the level is {level:.0f} ADU above the bias, at least {minimum_adu:.0f} ADU is "
                f"needed (settings: {STEP}.minimum_level_adu).",
            )  # fmt: skip


def _quiet_variance(bias: Master | None) -> float | None:
    """Read noise between the bias frames (ADU^2) if the bias knows it."""
    noise = None if bias is None else bias.header.get("RNADU")
    return None if noise is None else float(noise) ** 2


def _gain_flag(
    intake: Intake, gain: tuple[float, float], tolerance: float
) -> list[tuple[str, str]]:
    told = intake.loaded[0].readout.gain_e_adu
    value, error = gain
    if not value > 0 or abs(value / told - 1) <= tolerance or abs(value - told) < 4 * error:
        return []
    text = (
        f"pairs of flats give {value:.2f} +- {error:.2f} electron/ADU, but {told:g} is declared. "
        "Check the gain in the instrument file: fluxes in electron and photon noise depend on it."
    )
    return [("GAIN_SUSPECT", text)]


def _gradient_flags(intake: Intake, planes: _Corrections) -> list[tuple[str, str]]:
    """Flag frames whose illumination differs from the group's."""
    samples = np.stack([_sample(frame, planes) for frame in intake.loaded])
    found = []
    for frame, slope in zip(intake.loaded, relative_gradient(samples, intake.shape), strict=True):
        frame.numbers["gradient"] = slope
        if slope > GRADIENT:
            text = f"the illumination differs by {100 * slope:.1f} % from the other flats."
            frame.flags.append(("FLAT_GRADIENT", text))
            found.append(("FLAT_GRADIENT", f"{frame.source.frame_id}: {text}"))
    return found


def _shared_terms(
    intake: Intake, combined: Combined, planes: _Corrections, level: NDArray[np.float64],
    bias_first: bool, method: str,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:  # fmt: skip
    """Add the errors of bias and dark; they are common to all frames of the flat."""
    weight = level if method in ("clipped", "mean") else np.ones_like(level)
    weight = weight / weight.sum()
    tau = np.array([planes.tau(frame) for frame in intake.loaded])
    of_bias = float((weight * (1 - tau) / level).sum())
    of_dark = float((weight * tau / level).sum())
    value = combined.value
    variance = combined.err.astype(np.float64) ** 2
    if planes.bias is not None:
        if not bias_first:
            value = (value - planes.bias.sci * np.float32(of_bias)).astype(np.float32)
        variance += of_bias**2 * planes.bias.err.astype(np.float64) ** 2
    if planes.dark is not None:
        variance += of_dark**2 * planes.dark.err.astype(np.float64) ** 2
    return value, np.sqrt(variance).astype(np.float32)


def _finish(
    intake: Intake, value: NDArray[np.float32], err: NDArray[np.float32], combined: Combined,
    planes: _Corrections, low_limit: float, max_relative_error: float, header: fits.Header,
) -> Master:  # fmt: skip
    """Mask, then normalise value and error by the median of the good pixels."""
    mask = base_mask(combined)
    mask |= permanent(planes.bias, value.shape) | permanent(planes.dark, value.shape)
    finite = np.isfinite(value)
    if not finite.any():
        raise intake.failed("FLATS_REJECTED", "no pixel of the flats can be used.")
    rough = float(np.median(value[finite]))
    usable = finite & (value > low_limit * rough) & (value < DEAD_ABOVE * rough) & (mask == 0)
    norm = float(np.median(value[usable])) if usable.any() else rough
    flat, error = value / np.float32(norm), err / np.float32(norm)
    dead = ~finite | (flat <= DEAD_BELOW) | (flat >= DEAD_ABOVE)
    with np.errstate(invalid="ignore"):
        poor = (flat < low_limit) | (error > max_relative_error * np.abs(flat))
    mask[dead] |= np.uint16(MaskBit.DEAD)
    mask[dead | poor] |= np.uint16(MaskBit.LOW_FLAT)
    header["FLATNORM"] = (norm, "factor taken out so that the median is 1")
    return Master(
        flat.astype(np.float32), error.astype(np.float32), mask, header,
        unit="", nused=combined.n_used,
    )  # fmt: skip


def _numbers(
    intake: Intake, master: Master, level: NDArray[np.float64], gain: tuple[float, float]
) -> dict[str, Any]:
    low = np.count_nonzero(master.mask & np.uint16(MaskBit.LOW_FLAT))
    return {
        "n_frames": len(intake.inputs),
        "n_used": len(intake.loaded),
        "level_min_adu": float(level.min()),
        "level_max_adu": float(level.max()),
        "median_err": good_median(master.err, master.mask),
        "gain_e_adu": gain[0] if gain[0] > 0 else None,
        "gain_err_e_adu": gain[1] if gain[0] > 0 else None,
        "gain_declared_e_adu": intake.loaded[0].readout.gain_e_adu,
        "n_low_flat": int(low),
        "n_dead": int(np.count_nonzero(master.mask & np.uint16(MaskBit.DEAD))),
    }
