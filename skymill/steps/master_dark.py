"""The master dark: what the detector collects without light in a given time.

``d = clipped mean of (R_i - O_i)``, overscan-subtracted, the bias **not** subtracted.
With ``tau = t / t_dark`` a frame is corrected by ``R - O - (1 - tau) B - tau d``: at
equal exposure the bias cancels, together with its error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.errors import Result
from skymill.frame import MaskBit, Master
from skymill.robust import clipped_mean_std, robust_sigma
from skymill.steps.masters_common import (
    Intake,
    LoadedFrame,
    MasterProduct,
    RawInput,
    amplifier_cards,
    amplifier_figure,
    base_header,
    base_mask,
    combine_frames,
    good_median,
    permanent,
    stack_terms,
    with_changes,
)
from skymill.steps.masters_compare import (
    ROUGH_VALUES,
    AmplifierNoise,
    frame_noise,
    noise_between,
    pair_noise,
    reject_odd_levels,
)
from skymill.steps.masters_quality import check_model, few_frames, unstable_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from skymill.kernels.combine import Combined, Terms

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
    memory_mb: float = 250,
    level_tolerance_sigma: float = 8.0,
    model_tolerance: float = 0.2,
    hot_sigma: float = 8.0,
    scale_exposures: bool = False,
    electronics: Mapping[str, Any] | None = None,
    scratch: str | Path | None = None,
) -> Result[MasterProduct]:
    """Combine dark frames.

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
    model_tolerance : float
        Relative difference of the pooled sample variance and the variance that gain,
        read noise and dark charge tell that is flagged.
    hot_sigma : float
        A pixel with this much more (less) dark signal than its surroundings is hot
        (cold). Sigma is the scatter of the pixels or the pixel's own error, whichever
        is larger.
    scale_exposures : bool
        Combine darks of different exposures: a line through the bias is fitted to each
        pixel, and the dark is given for the longest exposure. Needs ``bias``.
    electronics, scratch
        As for `skymill.steps.master_bias.master_bias`.

    Returns
    -------
    Result of MasterProduct
        Master in ADU with the card EXPTIME. ``err`` holds read noise and dark shot
        noise of the combined frames, without a bias term. Flags ``NO_BIAS`` without
        ``bias``, ``MODEL_NOISE``, ``FEW_FRAMES``, and ``BAD_LEVEL`` if the only two
        frames contradict each other.

    Raises
    ------
    MasterFailed
        ``TOO_FEW``; ``WRONG_SIZE`` if the master bias does not fit; ``NO_BIAS`` if
        exposures are to be scaled without one.
    """
    intake = Intake(STEP, frames, overscan or {}, memory_mb, electronics, scratch)
    _usable_exposures(intake, scale_exposures)
    intake.require(minimum, master_id)
    intake.check(bias, "bias")
    if scale_exposures and bias is None:
        raise intake.failed("NO_BIAS", "darks of different exposures need a master bias.")
    plan = _Plan(intake, bias, scale_exposures, _pattern(intake, bias))
    rough = plan.noise()
    flags = reject_odd_levels(
        intake, level_tolerance_sigma, rough.typical_adu, "BAD_LEVEL", plan.expected()
    )
    intake.require(minimum, master_id)
    plan = replace(plan, pattern=_pattern(intake, bias))
    quiet, factors = plan.quiet_variances()

    def terms(kept: Sequence[LoadedFrame], amp: int) -> Terms:
        return plan.terms(kept, amp, quiet[amp], method)

    combined = combine_frames(
        intake, terms, minimum, master_id, with_scatter=len(intake.loaded) > 1,
        base=plan.pattern if scale_exposures else None, extra=plan.pattern,
        method=method, clip_sigma=clip_sigma, n_low=reject_low, n_high=reject_high,
    )  # fmt: skip
    value, err = plan.finished(combined)
    mask = base_mask(combined) | permanent(bias, intake.shape)
    mask |= hot_pixels(value - plan.pattern, combined.err, hot_sigma)
    check = check_model(intake, combined, mask, factors)
    unstable = unstable_pixels(combined, None)
    mask[unstable | ~np.isfinite(value)] |= np.uint16(MaskBit.HOT)
    header = base_header("dark", master_id, intake, combined, method)
    header["EXPTIME"] = (plan.exposure_s, "[s] exposure of the dark frames")
    header["DARKTIME"] = (plan.darktime_s, "[s] time in which the dark charge was collected")
    if bias is not None and "MASTERID" in bias.header:
        header["BIASID"] = (bias.header["MASTERID"], "master bias used for the noise model")
    rates = plan.rates(value, mask)
    header.update(amplifier_cards(intake.amplifiers, dark_e_s=rates))
    master = Master(value, err, mask, header, unit="adu", nused=combined.n_used)
    numbers = _numbers(intake, master, plan, rates)
    numbers |= {"variance_ratio": check.ratio, "n_unstable": int(np.count_nonzero(unstable))}
    every = [*flags, *check.flags(model_tolerance), *few_frames(intake)]
    unwanted = all(str(f.source.row.get("use_bias") or "") == "none" for f in intake.loaded)
    if bias is None and not unwanted:
        text = "no master bias: the dark can only be used for frames of the same exposure."
        every.append(("NO_BIAS", text))
    return Result(MasterProduct(master, intake.outcomes(), numbers), tuple(every), numbers)


def _usable_exposures(intake: Intake, scaled: bool) -> None:
    """Reject frames without an exposure time, or with another one than the group."""
    times = [frame.exptime_s for frame in intake.loaded if np.isfinite(frame.exptime_s)]
    usual = float(np.median(times)) if times else np.nan
    for frame in list(intake.loaded):
        if not np.isfinite(frame.exptime_s):
            intake.reject(frame, "MISSING_EXPTIME", "the exposure time is not known.")
        elif frame.exptime_s <= 0:
            intake.reject(frame, "DARK_EXPOSURE", f"a dark of {frame.exptime_s:g} s is a bias.")
        elif not scaled and abs(frame.exptime_s - usual) > SAME_EXPOSURE * usual:
            intake.reject(
                frame, "DARK_EXPOSURE",
                f"exposed for {frame.exptime_s:g} s, the group for {usual:g} s "
                f"(settings: {STEP}.scale_exposures).",
            )  # fmt: skip


def _pattern(intake: Intake, bias: Master | None) -> NDArray[np.float32]:
    """What lies under the dark charge: the bias, or the group's level for want of one."""
    if bias is None:
        return np.full(intake.shape, float(np.median(intake.samples())), np.float32)
    finite = np.isfinite(bias.sci)
    if finite.all():
        return bias.sci
    return np.where(finite, bias.sci, np.float32(np.median(bias.sci[finite])))


@dataclass(frozen=True, eq=False)
class _Plan:
    """How the frames of a group become one dark.

    Parameters
    ----------
    intake : Intake
        The group.
    bias : Master or None
        Master bias.
    scaled : bool
        The exposures differ.
    pattern : ndarray of float32, shape (ny, nx)
        What lies under the dark charge (ADU).
    """

    intake: Intake
    bias: Master | None
    scaled: bool
    pattern: NDArray[np.float32]

    @property
    def exposure_s(self) -> float:
        """Exposure that the dark is given for (s)."""
        times = [frame.exptime_s for frame in self.intake.loaded]
        return float(max(times) if self.scaled else np.median(times))

    @property
    def darktime_s(self) -> float:
        """Time of collection that belongs to it (s)."""
        times = [f.darktime_s for f in self.intake.loaded if f.exptime_s >= self.exposure_s]
        return float(
            np.median(times if self.scaled else [f.darktime_s for f in self.intake.loaded])
        )

    def share(self, frame: LoadedFrame) -> float:
        """Charge of a frame relative to that of the dark."""
        return frame.darktime_s / self.darktime_s if self.scaled else 1.0

    def charge_sample(self) -> NDArray[np.float32]:
        """Charge of the dark in the sample boxes (ADU), shape (boxes, side, side)."""
        below = self.intake.sample_plane(self.pattern)
        share = np.array([self.share(frame) for frame in self.intake.loaded])
        use = share >= 0.5 * share.max()  # short exposures know little of the charge
        stack = [
            (frame.sample - below) / np.float32(one)
            for frame, one, good in zip(self.intake.loaded, share, use, strict=True)
            if good
        ]
        return np.asarray(np.median(np.stack(stack), axis=0))

    def _mean_charge(self, amp: int, charge: NDArray[np.float32]) -> float:
        """Clipped mean of the charge of an amplifier (ADU); 0 if it has no value."""
        mean = clipped_mean_std(charge[self.intake.of_amplifier(amp)], 4.0, 5)[0]
        return max(mean, 0.0) if np.isfinite(mean) else 0.0

    def expected(self) -> dict[str, NDArray[np.float32]] | None:
        """Charge of each frame in the sample boxes, if it differs between the frames."""
        if not self.scaled:
            return None
        charge = self.charge_sample()
        return {
            frame.source.frame_id: charge * np.float32(self.share(frame))
            for frame in self.intake.loaded
        }

    def noise(self) -> AmplifierNoise:
        """Noise between the frames; that of the bias or the declared one if they differ."""
        if not self.scaled:
            return noise_between(self.intake, ROUGH_VALUES)
        amplifiers = self.intake.amplifiers
        adu = tuple(float(np.sqrt(self._told(amp))) for amp in range(len(amplifiers)))
        return AmplifierNoise((np.nan,) * len(adu), adu)

    def _told(self, amp: int) -> float:
        """Variance without charge (ADU^2): of the bias if it knows, else as declared."""
        amplifiers = self.intake.amplifiers
        header = {} if self.bias is None else self.bias.header
        known = amplifier_figure(header, "RNADU", amp, len(amplifiers))
        return known**2 if known else amplifiers[amp].dark_variance_adu2

    def quiet_variances(self) -> tuple[list[float], list[float]]:
        """Variance of a pixel without charge (ADU^2), by amplifier.

        Returns
        -------
        quiet : list of float
            From the scatter between frames, less the shot noise of the typical charge.
        factors : list of float
            Variance of a typical pixel with that, over the one that bias, gain and
            charge tell independently.
        """
        quiet, factors = [], []
        charge = self.charge_sample()
        for amp, one in enumerate(self.intake.amplifiers):
            told = self._told(amp)
            # the measured scatter is that of the mean charge, which hot pixels raise
            typical = self._mean_charge(amp, charge)
            shot = typical / one.gain_e_adu
            measured = np.nan if self.scaled else pair_noise(self.intake.samples(amp))
            if not measured > 0:
                quiet.append(told)
                factors.append(1.0)
                continue
            # with a wrong gain the shot noise may exceed what is there; some read noise remains
            quiet.append(max(measured**2 - shot, min(told, 0.1 * measured**2)))
            # without a bias the charge is not known, and nothing tells the shot noise
            factors.append(1.0 if self.bias is None else (quiet[-1] + shot) / (told + shot))
        return quiet, factors

    def terms(self, kept: Sequence[LoadedFrame], amp: int, quiet: float, method: str) -> Terms:
        """Levels, noise, scales and weights of the frames."""
        own = stack_terms(kept, amp, quiet)
        if not self.scaled:
            # the pattern is not charge: it is taken off for the photon term only
            own = with_changes(own, charge=np.full(len(kept), -1.0))
            if method != "weighted":
                return own
            single = frame_noise(self.intake.samples(amp))
            if np.isfinite(single).all():
                typical = np.sqrt(np.mean(single**2))
                own = with_changes(own, weight=(typical / np.maximum(single, 0.1 * typical)) ** 2)
            return own
        share = np.array([self.share(frame) for frame in kept])
        charge = self._mean_charge(amp, self.charge_sample())
        variance = own.noise + charge * share / own.gain
        return with_changes(
            own, scale=1 / share, base=np.ones(len(kept)), weight=share**2 / variance
        )

    def finished(self, combined: Combined) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Value with the bias inside, and its error without that of the bias.

        Scaled exposures lean on the bias: with ``k = sum w_i / share_i`` it enters the
        dark as ``(1 - k) B``, whose error is added.
        """
        if not self.scaled:
            return combined.value, combined.err
        assert self.bias is not None
        excess = np.zeros(combined.value.shape, np.float32)
        for amp, one in enumerate(self.intake.amplifiers):
            own = self.terms(self.intake.loaded, amp, self._told(amp), "clipped")
            lean = float((own.weight * own.scale).sum() / own.weight.sum())
            excess[one.place.slices] = lean - 1
        of_bias = excess * np.where(np.isfinite(self.bias.err), self.bias.err, 0)
        err = np.sqrt(combined.err.astype(np.float64) ** 2 + of_bias.astype(np.float64) ** 2)
        return combined.value + self.pattern, err.astype(np.float32)

    def rates(self, value: NDArray[np.float32], mask: NDArray[np.uint16]) -> list[float]:
        """Dark current of each amplifier (electron/s), NaN without a bias."""
        found = []
        for one in self.intake.amplifiers:
            at = one.place.slices
            charge = good_median(value[at] - self.pattern[at], mask[at])
            known = self.bias is not None and self.darktime_s > 0
            found.append(charge * one.gain_e_adu / self.darktime_s if known else np.nan)
        return found


def _numbers(intake: Intake, master: Master, plan: _Plan, rates: Sequence[float]) -> dict[str, Any]:
    mask = master.mask
    known = bool(np.isfinite(rates).all())
    numbers: dict[str, Any] = {
        "n_frames": len(intake.inputs),
        "n_used": len(intake.loaded),
        "exptime_s": plan.exposure_s,
        "level_adu": good_median(master.sci, mask),
        "dark_e_s": float(np.mean(rates)) if known else None,
        "median_err_adu": good_median(master.err, mask),
        "n_hot": int(np.count_nonzero(mask & np.uint16(MaskBit.HOT))),
        "n_cold": int(np.count_nonzero(mask & np.uint16(MaskBit.COLD))),
    }
    if known and len(rates) > 1:
        for one, rate in zip(intake.amplifiers, rates, strict=True):
            numbers[f"dark_e_s_{one.name}"] = float(rate)
    return numbers


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
