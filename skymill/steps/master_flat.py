"""The master flat: the relative sensitivity of the pixels.

``F = sum_i w_i (f(R_i - O_i - B) - tau_i f(d - B)) (g_a / g) / c_i / sum_i w_i``, with the
linearity ``f``, the gain ``g_a`` of the amplifier over the mean gain ``g``, the level
``c_i`` of each frame and weights proportional to it, which is best for frames limited
by photon noise. The median of the good pixels is 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import Result
from skymill.frame import MaskBit, Master
from skymill.steps.flat_combine import FlatRun
from skymill.steps.flat_gain import Gains, gain_flags, measure_gains
from skymill.steps.flat_judge import Selection, Sky, judge_levels, select
from skymill.steps.flat_planes import Corrections
from skymill.steps.masters_common import (
    Intake,
    MasterProduct,
    RawInput,
    base_header,
    base_mask,
    good_median,
    permanent,
)
from skymill.steps.masters_quality import check_model, few_frames

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from astropy.io import fits
    from numpy.typing import NDArray

    from skymill.kernels.combine import Combined

__all__ = ["master_flat"]

STEP = "master_flat"
#: A flat at or below this share of the median does not respond to light; above the other
#: one it shows something else than light.
DEAD_BELOW, DEAD_ABOVE = 0.05, 3.0
#: Exposures of flat and dark that differ by less are the same (relative).
SAME_EXPOSURE = 0.01
#: Share of dead pixels from which the master is flagged.
DEAD_AREA = 0.05


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
    memory_mb: float = 250,
    electronics: Mapping[str, Any] | None = None,
    scratch: str | Path | None = None,
    bias_first: bool = True,
    scale: str = "median",
    saturation_fraction: float = 0.9,
    saturated_limit: float = 0.001,
    minimum_level_adu: float = 1000,
    twilight: str = "auto",
    star_sigma: float = 4.0,
    minimum_separation_arcsec: float = 8,
    colocated: str = "majority",
    cloud_limit: float = 0.05,
    which: str = "all",
    split_level_adu: float = 0,
    common_illumination: bool = False,
    illumination_order: int = 2,
    low_limit: float = 0.3,
    max_relative_error: float = 0.03,
    nonlinear_tolerance: float = 0.03,
    gain_tolerance: float = 0.15,
) -> Result[MasterProduct]:
    """Combine flat fields of one filter.

    Parameters
    ----------
    frames : sequence of RawInput
        Flats of one filter and read-out mode.
    bias, dark : Master, optional
        Masters to subtract; the dark is scaled by exposure time.
    master_id, method, clip_sigma, reject_low, reject_high, minimum, overscan, memory_mb, \
electronics, scratch
        As for `skymill.steps.master_bias.master_bias`.
    missing_bias : str
        Without a bias: ``require`` fails, ``degrade`` flags, ``skip`` goes on silently.
        Not asked where the sheet wants none. Without an overscan too, only a dark of the
        flat's own exposure can take the bias off; else its level means nothing.
    bias_first : bool
        Subtract bias and dark from each frame; otherwise scale the frames with the bias
        inside and subtract it from the result, as is the habit with IRAF. Amplifiers
        with a linearity correction need the bias first in any case.
    scale : str
        Level of a frame: ``median``, ``mean`` (clipped) or ``mode``.
    saturation_fraction : float
        Flats whose raw level is above this fraction of saturation are rejected.
    saturated_limit : float
        Flats with more saturated pixels in the central half are rejected (fraction).
    minimum_level_adu : float
        Flats with a lower level are rejected.
    twilight : str
        Were the flats taken on the twilight sky: ``yes``, ``no`` or ``auto``
        (`skymill.steps.flat_selection.is_twilight`). Only then do the next five matter.
    star_sigma : float
        Threshold of the search for stars in sums of pixels; 0 switches it off.
    minimum_separation_arcsec, colocated
        See `skymill.steps.flat_selection.colocated_frames`.
    cloud_limit : float
        Flats whose illumination differs by more from that of the group are rejected.
    which : str
        ``high`` or ``low``: use only flats above or below ``split_level_adu``; ``all``.
    split_level_adu : float
        Border between high and low flats (ADU); 0: geometric middle of the levels. If
        set, the high flats are the reference of the large-scale illumination.
    common_illumination : bool
        Divide every flat by its large-scale difference from the reference.
    illumination_order : int
        Order of the polynomial for that difference.
    low_limit : float
        Lower pixels get LOW_FLAT.
    max_relative_error : float
        More uncertain pixels get LOW_FLAT: a noisy flat also biases, by ``v_F / F^2``.
    nonlinear_tolerance : float
        Pixels that differ by more between bright and faint flats get NONLINEAR; 0
        switches it off.
    gain_tolerance : float
        Relative difference of measured and declared gain that is flagged.

    Returns
    -------
    Result of MasterProduct
        Master without unit. ``err`` holds photon and read noise of the frames, and the
        errors of bias and dark, which do not average down. Flags ``GAIN_SUSPECT``,
        ``FLAT_GRADIENT``, ``FLAT_COLOCATED``, ``DEAD_AREA``, ``FEW_FRAMES``, ``NO_BIAS``.

    Raises
    ------
    MasterFailed
        ``TOO_FEW``; ``FLATS_REJECTED`` if no frame is left; ``NO_BIAS``;
        ``FLAT_PEDESTAL``; ``WRONG_SIZE`` if a master does not fit.
    """
    flags: list[tuple[str, str]] = []
    how = Selection(
        saturation_fraction, saturated_limit, minimum_level_adu, twilight,
        minimum_separation_arcsec, colocated, cloud_limit, which, split_level_adu,
        illumination_order,
    )  # fmt: skip
    intake = Intake(STEP, frames, overscan or {}, memory_mb, electronics, scratch)
    intake.require(1 if frames else minimum, master_id, "FLATS_REJECTED" if frames else "TOO_FEW")
    intake.check(bias, "bias")
    intake.check(dark, "dark")
    if bias is None:
        bias = _without_bias(intake, dark, missing_bias, flags)
    planes = Corrections(bias, dark, intake.amplifiers, bias_first)
    samples = {one.source.frame_id: planes.sample(intake, one) for one in intake.loaded}
    every = list(intake.loaded)
    judge_levels(intake, planes, samples, how)
    intake.require(1, master_id, "FLATS_REJECTED")
    intake.require(minimum, master_id)
    sky, found = select(intake, planes, samples, how, minimum)
    flags += found
    intake.require(minimum, master_id)
    gains = measure_gains(intake, planes, samples, every, lamp=not sky.twilight)
    flags += gain_flags(intake, gains, gain_tolerance)
    levels = {one.source.frame_id: planes.level(intake, one, scale) for one in intake.loaded}
    run = FlatRun(
        intake, planes, gains, levels, min(minimum, len(intake.loaded)), master_id,
        {"method": method, "clip_sigma": clip_sigma, "n_low": reject_low, "n_high": reject_high},
        sky.illumination if common_illumination else None,
    )  # fmt: skip
    combined = run.combine(star_sigma if sky.twilight else 0.0)
    odd = run.nonlinear(combined, split_level_adu, nonlinear_tolerance)
    value, err = run.shared_terms(combined)
    header = base_header("flat", master_id, intake, combined, method)
    header.extend(gains.cards(intake.amplifiers))
    header["TWILIGHT"] = (sky.twilight, f"twilight flats: {sky.why}")
    header["BIASFRST"] = (planes.bias_first, "bias subtracted before scaling")
    header["COMILLUM"] = (common_illumination, "flats brought to one illumination")
    master = _finish(run, value, err, combined, odd, low_limit, max_relative_error, header)
    numbers = _numbers(run, master, gains, sky)
    numbers["variance_ratio"] = check_model(intake, combined, master.mask).ratio
    flags += [*_dead_area(numbers), *few_frames(intake)]
    return Result(MasterProduct(master, intake.outcomes(), numbers), tuple(flags), numbers)


def _without_bias(
    intake: Intake, dark: Master | None, policy: str, flags: list[tuple[str, str]]
) -> Master | None:
    """Decide between failing, saying so, and going on; return what stands for the bias.

    Where no overscan was subtracted either, a dark of the same exposure takes off the
    whole pedestal. Its level then stands for the bias, so that it does not count as light.
    """
    pedestal = None
    if any(not one.overscans for one in intake.amplifiers):
        pedestal = None if dark is None else _level_of_dark(intake, dark)
        if pedestal is None:
            raise intake.failed(
                "FLAT_PEDESTAL",
                "neither a master bias, nor an overscan, nor a dark of their own exposure frees "
                "the flats from their pedestal. Take bias frames.",
            )
    if all(str(frame.source.row.get("use_bias") or "") == "none" for frame in intake.loaded):
        return pedestal
    text = "no master bias for the flats; the level of the bias weakens the correction."
    if pedestal is not None:
        text = "no master bias for the flats; their dark takes its place."
    if policy == "require":
        raise intake.failed("NO_BIAS", f"{text} Take bias frames or set missing_bias to degrade.")
    if policy == "degrade":
        flags.append(("NO_BIAS", f"{STEP}: {text}"))
    return pedestal


def _level_of_dark(intake: Intake, dark: Master) -> Master | None:
    """Levels of the dark as a bias without error; None if no flat is of its exposure."""
    exposure = float(dark.header["EXPTIME"])
    for frame in list(intake.loaded):
        if not abs(frame.exptime_s - exposure) <= SAME_EXPOSURE * exposure:
            intake.reject(
                frame, "DARK_EXPOSURE",
                f"exposed for {frame.exptime_s:g} s, the dark for {exposure:g} s: it cannot be "
                "scaled without a bias.",
            )  # fmt: skip
    if not intake.loaded:
        return None
    plane = np.zeros(dark.shape, np.float32)
    for one in intake.amplifiers:
        if not one.overscans:
            at = one.place.slices
            level = good_median(dark.sci[at], dark.mask[at])
            plane[at] = level if np.isfinite(level) else 0.0
    none = np.zeros(plane.shape, np.uint16)
    return dark.replace(sci=plane, err=np.zeros_like(plane), mask=none)


def _finish(
    run: FlatRun, value: NDArray[np.float32], err: NDArray[np.float32], combined: Combined,
    odd: NDArray[np.bool_] | None, low_limit: float, max_relative_error: float,
    header: fits.Header,
) -> Master:  # fmt: skip
    """Mask, then normalise value and error by the median of the good pixels."""
    planes = run.planes
    mask = base_mask(combined)
    mask |= permanent(planes.bias, value.shape) | permanent(planes.dark, value.shape)
    finite = np.isfinite(value)
    if not finite.any():
        raise run.intake.failed("FLATS_REJECTED", "no pixel of the flats can be used.")
    rough = float(np.median(value[finite]))
    usable = finite & (value > low_limit * rough) & (value < DEAD_ABOVE * rough) & (mask == 0)
    norm = float(np.median(value[usable])) if usable.any() else rough
    flat, error = value / np.float32(norm), err / np.float32(norm)
    dead = ~finite | (flat <= DEAD_BELOW) | (flat >= DEAD_ABOVE)
    with np.errstate(invalid="ignore"):
        poor = (flat < low_limit) | (error > max_relative_error * np.abs(flat))
    mask[dead] |= np.uint16(MaskBit.DEAD)
    mask[dead | poor] |= np.uint16(MaskBit.LOW_FLAT)
    if odd is not None:
        mask[odd & ~dead] |= np.uint16(MaskBit.NONLINEAR)
    header["FLATNORM"] = (norm, "factor taken out so that the median is 1")
    return Master(
        flat.astype(np.float32), error.astype(np.float32), mask, header,
        unit="", nused=combined.n_used,
    )  # fmt: skip


def _numbers(run: FlatRun, master: Master, gains: Gains, sky: Sky) -> dict[str, Any]:
    def count(bit: MaskBit) -> int:
        return int(np.count_nonzero(master.mask & np.uint16(bit)))

    level, illumination = run.levels, sky.illumination
    return {
        "n_frames": len(run.intake.inputs),
        "n_used": len(run.intake.loaded),
        "level_min_adu": float(level.min()),
        "level_max_adu": float(level.max()),
        "median_err": good_median(master.err, master.mask),
        **gains.numbers(run.intake.amplifiers),
        "n_low_flat": count(MaskBit.LOW_FLAT),
        "n_dead": count(MaskBit.DEAD),
        "n_nonlinear": count(MaskBit.NONLINEAR) if run.compared else None,
        "dead_fraction": count(MaskBit.DEAD) / master.mask.size,
        "twilight": sky.twilight,
        "pointings": sky.pointings or None,
        "gradient_max": float(illumination.gradient.max()),
        "illumination_max": float(illumination.deviation.max()),
    }


def _dead_area(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say so if a large part of the detector does not see light."""
    share = numbers["dead_fraction"]
    if share <= DEAD_AREA:
        return []
    text = (
        f"{STEP}: {100 * share:.0f} % of the pixels do not respond to light. Look for a missing "
        "amplifier, a shutter that did not open fully, or a data section that is too large."
    )
    return [("DEAD_AREA", text)]
