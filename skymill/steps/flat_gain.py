"""Gain, read noise and linearity of the amplifiers as the flats of a group tell them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skymill.steps.masters_common import amplifier_cards
from skymill.steps.photon_transfer import (
    PairPoints,
    ResponseCheck,
    TransferCurve,
    gain_from_pairs,
    pair_points,
    response_check,
    transfer_curve,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.io import fits
    from numpy.typing import NDArray

    from skymill.readout import Amplifier
    from skymill.steps.flat_planes import Corrections
    from skymill.steps.masters_intake import Intake, LoadedFrame

__all__ = ["Gains", "gain_flags", "measure_gains"]

#: Frames compared at most; more do not help and cost time.
MOST_FRAMES = 25


@dataclass(frozen=True, eq=False)
class Gains:
    """Measured properties, by amplifier.

    Parameters
    ----------
    value, error : tuple of float
        Gain (electron/ADU) and its standard error; NaN if not known.
    curves : tuple of (TransferCurve or None)
        Photon-transfer curves.
    response : ResponseCheck or None
        Levels of lamp flats against exposure.
    """

    value: tuple[float, ...]
    error: tuple[float, ...]
    curves: tuple[TransferCurve | None, ...]
    response: ResponseCheck | None

    def cards(self, amplifiers: Sequence[Amplifier]) -> fits.Header:
        """Header cards; see `skymill.steps.masters_common.amplifier_cards`."""
        return amplifier_cards(amplifiers, gain=self.value, gain_err=self.error)

    def numbers(self, amplifiers: Sequence[Amplifier]) -> dict[str, Any]:
        """Figures of the master; those of several amplifiers also by name."""
        several = len(amplifiers) > 1
        known = [v for v in self.value if v > 0]
        complete = len(known) == len(self.value)
        out: dict[str, Any] = {
            "gain_e_adu": float(np.mean(known)) if complete else None,
            "gain_err_e_adu": (
                float(np.sqrt(np.sum(np.square(self.error)))) / len(known) if complete else None
            ),
            "gain_declared_e_adu": float(np.mean([one.gain_e_adu for one in amplifiers])),
        }
        for amp, one in enumerate(amplifiers):
            end = f"_{one.name}" if several else ""
            if several and self.value[amp] > 0:
                out[f"gain_e_adu{end}"] = self.value[amp]
                out[f"gain_err_e_adu{end}"] = self.error[amp]
            curve = self.curves[amp]
            if curve is not None:
                out |= {name + end: value for name, value in _curve_numbers(curve).items()}
        if self.response is not None:
            out["nonlinearity_max"] = self.response.deviation
            out["nonlinearity_level_adu"] = self.response.at_level
            out["shutter_offset_s"] = self.response.offset_s
        return out


def _curve_numbers(curve: TransferCurve) -> dict[str, float]:
    numbers = {
        "ptc_gain_e_adu": curve.gain,
        "ptc_gain_err_e_adu": curve.gain_error,
        "ptc_quadratic": curve.quadratic,
        "ptc_quadratic_err": curve.quadratic_error,
        "ptc_shortfall": curve.shortfall,
    }
    if np.isfinite(curve.noise_adu):
        numbers["ptc_read_noise_e"] = curve.noise_adu * curve.gain
        numbers["ptc_read_noise_err_e"] = curve.noise_error_adu * curve.gain
    return numbers


def measure_gains(
    intake: Intake,
    planes: Corrections,
    samples: dict[str, NDArray[np.float64]],
    every: Sequence[LoadedFrame],
    *,
    lamp: bool,
) -> Gains:
    """Measure gain and photon-transfer curve of each amplifier.

    Parameters
    ----------
    intake : Intake
        The frames of the master: their pairs give the gain.
    planes : Corrections
        Bias, dark, linearity.
    samples : dict
        Corrected boxes of all frames, by frame id.
    every : sequence of LoadedFrame
        All frames that could be read. Those that are not saturated serve the curve,
        also where they are too faint for the master.
    lamp : bool
        The light was steady, so levels can be compared with exposure times, and there
        are no stars.

    Returns
    -------
    Gains
    """
    codes = {name: failure.code for name, failure in intake.failures.items()}
    spoilt = {"FLAT_SATURATED", "FLAT_CLOUDY", "MISSING_EXPTIME", "WRONG_SIZE"}
    usable = [one for one in every if codes.get(one.source.frame_id) not in spoilt]
    value, error, curves = [], [], []
    for amp in range(len(planes.amplifiers)):
        points = _points(intake, planes, samples, intake.loaded, amp, stars=not lamp)
        gain, gain_error = gain_from_pairs(points)
        if len(usable) > len(intake.loaded):
            points = _points(intake, planes, samples, usable, amp, stars=not lamp)
        curve = transfer_curve(points)
        value.append(gain)
        error.append(gain_error)
        curves.append(curve)
    response = None
    if lamp:
        unit = planes.unit(intake)
        levels = [float(np.nanmedian(samples[one.source.frame_id] * unit)) for one in usable]
        response = response_check(levels, [one.exptime_s for one in usable])
    return Gains(tuple(value), tuple(error), tuple(curves), response)


def _points(
    intake: Intake, planes: Corrections, samples: dict[str, NDArray[np.float64]],
    frames: Sequence[LoadedFrame], amp: int, *, stars: bool,
) -> PairPoints:  # fmt: skip
    """Pairs of one amplifier, of frames spread over all levels."""
    own = intake.of_amplifier(amp)
    chosen = list(frames)
    if len(chosen) > MOST_FRAMES:
        chosen.sort(key=lambda one: (one.numbers.get("level_adu", 0.0), one.source.frame_id))
        at = np.linspace(0, len(chosen) - 1, MOST_FRAMES).round().astype(int)
        chosen = [chosen[i] for i in at]
    quiet = []
    for frame in chosen:
        level = (
            float(np.nanmedian(frame.sample[own])) if np.isfinite(frame.sample[own]).any() else 0
        )
        known = planes.quiet(amp)
        dark = frame.readout.amplifiers[amp].dark_variance_adu2 if known is None else known
        quiet.append(dark * planes.slopes(amp, level)[0] ** 2)
    boxes = [samples[one.source.frame_id][own] for one in chosen]
    return pair_points(boxes, quiet, stars=stars)


def gain_flags(intake: Intake, gains: Gains, tolerance: float) -> list[tuple[str, str]]:
    """Flag amplifiers whose measured gain contradicts the declared one."""
    flags = []
    for one, value, error in zip(intake.amplifiers, gains.value, gains.error, strict=True):
        told = one.gain_e_adu
        if not value > 0 or abs(value / told - 1) <= tolerance or abs(value - told) < 4 * error:
            continue
        where = f"{one.label}: " if one.name else ""
        text = (
            f"{where}pairs of flats give {value:.2f} +- {error:.2f} electron/ADU, but {told:g} is "
            "declared. Check the gain in the instrument file: fluxes in electron and photon noise "
            "depend on it."
        )
        flags.append(("GAIN_SUSPECT", text))
    return flags
